"""Wrong answers as students write them. They follow from the exercise statements, not from the graders' catalogues.

Each function's docstring names its mistake. A question that asks for a value has wrong values, with a comment.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

# --- notebook 00 ---------------------------------------------------------------------------------------------------


def agreement_on_a_only(first: Tensor, second: Tensor) -> Tensor:
    """Counts the items where both chose a, and forgets those where both chose b."""
    return (first & second).float().mean()


def kappa_without_both_b(first: Tensor, second: Tensor) -> Tensor:
    """Chance agreement is p1·p2 alone: the case that both say b is missing."""
    observed = (first == second).float().mean()
    chance = first.float().mean() * second.float().mean()
    return (observed - chance) / (1 - chance)


def kappa_against_a_coin(first: Tensor, second: Tensor) -> Tensor:
    """Takes chance agreement to be one half, as for two fair coins."""
    observed = (first == second).float().mean()
    return (observed - 0.5) / (1 - 0.5)


def kappa_with_pooled_share(first: Tensor, second: Tensor) -> Tensor:
    """One share for both annotators together (this is Scott's π, not Cohen's κ)."""
    observed = (first == second).float().mean()
    p = torch.cat([first, second]).float().mean()
    chance = p**2 + (1 - p) ** 2
    return (observed - chance) / (1 - chance)


def agreement_of_the_mean(probability: Tensor) -> Tensor:
    """Averages the p_i first and puts the mean into (6): the mean of squares is not the square of the mean."""
    p = probability.mean()
    return p**2 + (1 - p) ** 2


def agreement_with_the_majority(probability: Tensor) -> Tensor:
    """The dashed line of the figure: how often the best judge agrees with one person."""
    return torch.maximum(probability, 1 - probability).mean()


def rates_of_all_requests(harmful: Tensor, refused: Tensor) -> tuple[Tensor, Tensor]:
    """Divides by the number of all requests, not by the number of harmful (harmless) ones."""
    return (harmful & refused).float().mean(), (~harmful & refused).float().mean()


def shares_of_the_refused(harmful: Tensor, refused: Tensor) -> tuple[Tensor, Tensor]:
    """Conditions the wrong way round: of the refused requests, the share that was harmful (harmless)."""
    return harmful[refused].float().mean(), (~harmful[refused]).float().mean()


# --- notebook 01 ---------------------------------------------------------------------------------------------------


def softmax_over_the_batch(reward_a: Tensor, reward_b: Tensor) -> Tensor:
    """A softmax along the wrong axis: over the pairs and not over the two answers."""
    return torch.softmax(torch.stack([reward_a, reward_b]), dim=-1)[0]


def ranking_against_those_already_placed(rewards: Tensor) -> Tensor:
    """The cumulative sum runs from the front: each place competes with the places before it."""
    return (rewards - torch.logcumsumexp(rewards, dim=-1)).sum(-1)


def ranking_with_one_denominator(rewards: Tensor) -> Tensor:
    """One softmax over all answers for every place: the winners are never taken away."""
    return torch.log_softmax(rewards, dim=-1).sum(-1)


def loss_saved_by_an_epsilon(chosen: Tensor, rejected: Tensor, margin: Tensor | float = 0.0) -> Tensor:
    """Adds 1e-8 inside the logarithm: finite, but a large wrong margin has the wrong loss and no gradient."""
    return -torch.log(torch.sigmoid(chosen - rejected - margin) + 1e-8).mean()


def margin_outside_the_sigmoid(chosen: Tensor, rejected: Tensor, margin: Tensor | float = 0.0) -> Tensor:
    """Subtracts the margin from the log-probability and not from the difference of rewards."""
    return -(F.logsigmoid(chosen - rejected) - margin).mean()


def gradient_of_the_wins_only(wins: Tensor, rewards: Tensor) -> Tensor:
    """Step 1 without step 2: the comparisons that i lost do not pull it down."""
    difference = rewards[:, None] - rewards[None, :]
    return (wins * torch.sigmoid(-difference)).sum(dim=1)


def strengths_from_win_shares(wins: Tensor) -> Tensor:
    """Log-odds of each answer's share of wins, blind to whom it has beaten."""
    won, lost = wins.sum(dim=1), wins.sum(dim=0)
    rewards = torch.log(won / lost)
    return rewards - rewards.mean()


def strengths_not_in_logs(wins: Tensor) -> Tensor:
    """Zermelo's rounds (15), but returns the ω_i and not r_i = log ω_i."""
    compared = wins + wins.T
    weights = torch.ones(len(wins), dtype=wins.dtype)
    for _ in range(500):
        weights = wins.sum(dim=1) / (compared / (weights[:, None] + weights[None, :])).sum(dim=1)
        weights = weights / weights.log().mean().exp()
    return weights - weights.mean()


# --- notebook 03 ---------------------------------------------------------------------------------------------------


def kl_the_other_way(log_p: Tensor, log_q: Tensor) -> Tensor:
    """The arguments swapped: KL(q ‖ p)."""
    q = log_q.exp()
    return torch.where(q > 0, q * (log_q - log_p), torch.zeros_like(q)).sum(-1)


def kl_as_it_stands(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Types the formula as it stands: 0 · (−∞) is nan where p = 0."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    p = log_p.exp()
    return torch.where(p > 0, p * (log_p - log_q), torch.zeros_like(p)).sum(-1)


def objective_with_reference_reward(log_probs: Tensor, ref_log_probs: Tensor, rewards: Tensor, beta: float) -> Tensor:
    """Averages the reward over the reference and not over the policy."""
    return (ref_log_probs.exp() * rewards).sum(-1) - beta * _kl(log_probs, ref_log_probs)


def objective_with_the_leash_on_the_reward(
    log_probs: Tensor, ref_log_probs: Tensor, rewards: Tensor, beta: float
) -> Tensor:
    """β as a mixing weight: (1 − β) E[r] − β KL."""
    return (1 - beta) * (log_probs.exp() * rewards).sum(-1) - beta * _kl(log_probs, ref_log_probs)


def optimum_with_its_height(ref_log_probs: Tensor, rewards: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Returns β log Z, the height of the optimum (10), in place of log Z."""
    unnormalised = ref_log_probs + rewards / beta
    log_z = torch.logsumexp(unnormalised, dim=-1)
    return unnormalised - log_z.unsqueeze(-1), beta * log_z


def optimum_without_the_reference_in_z(ref_log_probs: Tensor, rewards: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Z sums e^(r/β) alone, without π_ref, so that π* does not sum to 1."""
    log_z = torch.logsumexp(rewards / beta, dim=-1)
    return ref_log_probs + rewards / beta - log_z.unsqueeze(-1), log_z


def score_in_the_last_column(
    scores: Tensor, log_probs: Tensor, ref_log_probs: Tensor, mask: Tensor, beta: float
) -> Tensor:
    """The score goes to the last column, which is padding in short answers."""
    per_token = torch.where(mask, -beta * (log_probs - ref_log_probs), torch.zeros_like(log_probs))
    per_token[:, -1] += scores
    return per_token


def padding_multiplied_away(
    scores: Tensor, log_probs: Tensor, ref_log_probs: Tensor, mask: Tensor, beta: float
) -> Tensor:
    """Multiplies by the mask: where padding holds inf, inf · 0 is nan."""
    per_token = -beta * (log_probs - ref_log_probs) * mask
    last = mask.long().sum(dim=1) - 1
    per_token[torch.arange(len(scores)), last] += scores
    return per_token


def k3_upside_down(log_probs: Tensor, ref_log_probs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Takes u as policy over reference in k3."""
    d = log_probs - ref_log_probs
    return d, 0.5 * d**2, d.exp() - 1 - d


# --- notebook 04 ---------------------------------------------------------------------------------------------------


def discounted_from_the_start(rewards: Tensor, mask: Tensor, gamma: float = 1.0) -> Tensor:
    """Discounts by γ^s from the first token on, not by γ^(s−t) from token t on."""
    paid = torch.where(mask, rewards, torch.zeros_like(rewards))
    paid = paid * gamma ** torch.arange(rewards.shape[1], dtype=rewards.dtype)
    return paid.flip(1).cumsum(1).flip(1) * mask


def without_its_own_reward(rewards: Tensor, mask: Tensor, gamma: float = 1.0) -> Tensor:
    """Off by one: the sum starts at s = t + 1."""
    total = torch.zeros_like(rewards)
    running = torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        total[:, t] = gamma * running * mask[:, t]
        running = torch.where(mask[:, t], rewards[:, t] + gamma * running, torch.zeros_like(running))
    return total


def gae_that_trusts_padding(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float = 1.0, lam: float = 0.95
) -> tuple[Tensor, Tensor]:
    """The TD error of the last real token takes the value that stands at the first padding."""
    advantages = torch.zeros_like(rewards)
    running = torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        following = values[:, t + 1] if t + 1 < rewards.shape[1] else torch.zeros_like(running)
        delta = rewards[:, t] + gamma * following - values[:, t]
        running = torch.where(mask[:, t], delta + gamma * lam * running, torch.zeros_like(running))
        advantages[:, t] = running
    return advantages, torch.where(mask, advantages + values, torch.zeros_like(values))


def gae_with_plain_returns(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float = 1.0, lam: float = 0.95
) -> tuple[Tensor, Tensor]:
    """The target of the value function is the reward-to-go of (15) and not Â + V of (24)."""
    advantages, returns = torch.zeros_like(rewards), torch.zeros_like(rewards)
    advantage, value_next, goes = (torch.zeros_like(rewards[:, 0]) for _ in range(3))
    zero = torch.zeros_like(advantage)
    for t in reversed(range(rewards.shape[1])):
        real = mask[:, t]
        delta = rewards[:, t] + gamma * value_next - values[:, t]
        advantage = torch.where(real, delta + gamma * lam * advantage, zero)
        goes = torch.where(real, rewards[:, t] + gamma * goes, zero)
        value_next = torch.where(real, values[:, t], zero)
        advantages[:, t], returns[:, t] = advantage, goes
    return advantages, returns


def _losses(log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    ratio = (log_probs - old_log_probs).exp()
    return -ratio * advantages, -ratio.clamp(1 - clip, 1 + clip) * advantages


def mean_of_row_means(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, clip: float = 0.2
) -> Tensor:
    """A mean for each answer, then over answers: tokens of short answers weigh more than those of long ones."""
    per_token = torch.maximum(*_losses(log_probs, old_log_probs, advantages, clip))
    per_answer = torch.where(mask, per_token, torch.zeros_like(per_token)).sum(1) / mask.sum(1)
    return per_answer.mean()


def minimum_of_losses(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, clip: float = 0.2
) -> Tensor:
    """Keeps the minimum of (29) although the sign has turned: the optimistic loss."""
    per_token = torch.minimum(*_losses(log_probs, old_log_probs, advantages, clip))
    return per_token[mask.bool()].mean()


def whiten_each_answer(x: Tensor, mask: Tensor, shift_mean: bool = True) -> Tensor:
    """Mean and variance of each answer by itself and not of the whole batch."""
    n = mask.sum(dim=1, keepdim=True)
    clean = torch.where(mask, x, torch.zeros_like(x))
    mean = clean.sum(dim=1, keepdim=True) / n
    var = (torch.where(mask, x - mean, torch.zeros_like(x)) ** 2).sum(dim=1, keepdim=True) / n
    white = (clean - mean) / torch.sqrt(var + 1e-8)
    if not shift_mean:
        white = white + mean
    return torch.where(mask, white, torch.zeros_like(x))


def whiten_with_n_minus_1(x: Tensor, mask: Tensor, shift_mean: bool = True) -> Tensor:
    """Divides by n − 1 in the variance (the default of torch.var), where (31) has n."""
    real = x[mask]
    white = (x - real.mean()) / torch.sqrt(real.var() + 1e-8)
    if not shift_mean:
        white = white + real.mean()
    return torch.where(mask, white, torch.zeros_like(x))


WRONG_ANSWERS: dict[str, list[object]] = {
    "nb00.q1": [agreement_on_a_only],
    "nb00.q2": [kappa_without_both_b, kappa_against_a_coin, kappa_with_pooled_share],
    "nb00.q3": [agreement_of_the_mean, agreement_with_the_majority],
    "nb00.q4": [rates_of_all_requests, shares_of_the_refused],
    "nb01.q1": [softmax_over_the_batch],
    "nb01.q2": [ranking_against_those_already_placed, ranking_with_one_denominator],
    "nb01.q3": [loss_saved_by_an_epsilon, margin_outside_the_sigmoid],
    "nb01.q4": [gradient_of_the_wins_only],
    "nb01.q5": [strengths_from_win_shares, strengths_not_in_logs],
    # the arrows connect all answers in these tables, but only if you ignore where they point
    "nb01.q6": [{"A", "B", "D", "E"}],
    "nb03.q1": [kl_the_other_way, kl_as_it_stands],
    "nb03.q2": [objective_with_reference_reward, objective_with_the_leash_on_the_reward],
    "nb03.q3": [optimum_with_its_height, optimum_without_the_reference_in_z],
    "nb03.q4": [score_in_the_last_column, padding_multiplied_away],
    "nb03.q5": [k3_upside_down],
    # the gradient follows the value: k1 and k3 estimate the KL without bias, so they should have its gradient
    "nb03.q6": [{"k1": "B", "k2": "A", "k3": "B"}],
    "nb04.q1": [discounted_from_the_start, without_its_own_reward],
    "nb04.q2": [gae_that_trusts_padding, gae_with_plain_returns],
    "nb04.q3": [mean_of_row_means, minimum_of_losses],
    # the gradient is zero wherever the ratio is outside the band
    "nb04.q4": [{1, 3, 4, 6}],
    "nb04.q5": [whiten_each_answer, whiten_with_n_minus_1],
}
