"""Wrong answers as students write them. They follow from the exercise statements, not from the graders' catalogues.

Each function's docstring names its mistake. A question that asks for a value has wrong values, with a comment.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from week6 import clipped_policy_loss, clipped_value_loss, masked_whiten

# --- notebook 00 ---------------------------------------------------------------------------------------------------


def agreement_on_a_only(first: Tensor, second: Tensor) -> Tensor:
    """Counts the items where both chose a, and forgets those where both chose b."""
    return (first & second).float().mean()


def agreement_of_the_whole_lists(first: Tensor, second: Tensor) -> Tensor:
    """One verdict for the two lists, and not one for each item."""
    return torch.tensor(1.0 if first.tolist() == second.tolist() else 0.0)


def agreement_in_percent(first: Tensor, second: Tensor) -> Tensor:
    """A number between 0 and 100."""
    return 100 * (~(first ^ second)).double().mean()


def agreement_of_ten(first: Tensor, second: Tensor) -> Tensor:
    """Ten pairs were judged in the notebook; the function gets other numbers of them."""
    return sum(a == b for a, b in zip(first, second, strict=True)) / 10


def kappa_never_negative(first: Tensor, second: Tensor) -> Tensor:
    """Takes 0 for the lowest possible value."""
    p_o = (first == second).double().mean()
    p_1, p_2 = first.double().mean(), second.double().mean()
    p_e = p_1 * p_2 + (1 - p_1) * (1 - p_2)
    return max((p_o - p_e) / (1 - p_e), torch.zeros((), dtype=torch.float64))


def kappa_without_its_sign(first: Tensor, second: Tensor) -> Tensor:
    """The distance from chance, whichever side."""
    p_o = (first == second).float().mean()
    p_1, p_2 = first.float().mean(), second.float().mean()
    p_e = p_1 * p_2 + (1 - p_1) * (1 - p_2)
    return abs(p_o - p_e) / (1 - p_e)


def kappa_of_one_annotator(first: Tensor, second: Tensor) -> Tensor:
    """A slip of the pen: the share of the first annotator stands in both places."""
    p = first.float().mean()
    p_e = p * p + (1 - p) * (1 - p)
    return ((first == second).float().mean() - p_e) / (1 - p_e)


def kappa_as_a_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Pearson's correlation of the two columns of 0 and 1."""
    a, b = first.double() - first.double().mean(), second.double() - second.double().mean()
    return (a * b).mean() / (a.square().mean() * b.square().mean()).sqrt()


def kappa_over_the_observed_room(first: Tensor, second: Tensor) -> Tensor:
    """Divides by 1 − p_o."""
    p_o = (first == second).float().mean()
    p_1, p_2 = first.float().mean(), second.float().mean()
    p_e = p_1 * p_2 + (1 - p_1) * (1 - p_2)
    return (p_o - p_e) / (1 - p_o)


def agreement_of_rounded_shares(probability: Tensor) -> Tensor:
    """Everybody votes with the majority."""
    votes = (probability >= 0.5).double()
    return (votes * votes + (1 - votes) * (1 - votes)).mean()


def agreement_in_the_middle(probability: Tensor) -> Tensor:
    """The median pair in place of the mean over pairs."""
    return torch.median(1 - 2 * probability * (1 - probability))


def numbers_of_refusals(harmful: Tensor, refused: Tensor) -> tuple[Tensor, Tensor]:
    """Counts, not shares."""
    return (harmful * refused).sum().float(), (~harmful * refused).sum().float()


def rate_on_harm_only(harmful: Tensor, refused: Tensor) -> Tensor:
    """The second number is forgotten."""
    return refused[harmful].double().mean()


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


def _rounds(forecast, prompts, numbers, end, draw):
    """Answers by a rule that draws tokens (B,) from logits (B, V) and numbers (B,)."""
    tokens, over = prompts, torch.zeros(len(prompts), dtype=torch.bool)
    for t in range(numbers.shape[1]):
        token = torch.where(over, end, draw(forecast(tokens), numbers[:, t]))
        over = over | (token == end)
        tokens = torch.cat([tokens, token[:, None]], 1)
    return tokens[:, prompts.shape[1] :]


def sampler_by_torch(forecast, prompts, numbers, temperature, end):
    """Draws by torch's own random numbers."""
    return _rounds(
        forecast, prompts, numbers, end, lambda z, u: torch.multinomial((z / temperature).softmax(-1), 1)[:, 0]
    )


def sampler_rounds_down(forecast, prompts, numbers, temperature, end):
    """Takes u · V for the token, as if all were equally likely."""
    return _rounds(forecast, prompts, numbers, end, lambda z, u: (u * z.shape[1]).long())


def sampler_with_gumbels(forecast, prompts, numbers, temperature, end):
    """One Gumbel number for all tokens of the vocabulary."""
    return _rounds(
        forecast, prompts, numbers, end, lambda z, u: (z / temperature - (-u.log()).log()[:, None]).argmax(-1)
    )


def sampler_with_the_square_of_the_temperature(forecast, prompts, numbers, temperature, end):
    """Divides the logits, and then raises the probabilities too."""

    def draw(z, u):
        weights = (z / temperature).softmax(-1) ** (1 / temperature)
        return ((weights / weights.sum(-1, keepdim=True)).cumsum(-1)[:, :-1] <= u[:, None]).sum(-1)

    return _rounds(forecast, prompts, numbers, end, draw)


def sampler_that_keeps_the_end_out(forecast, prompts, numbers, temperature, end):
    """The end token is never drawn."""

    def draw(z, u):
        z = z.clone()
        z[:, end] = -torch.inf
        return ((z / temperature).softmax(-1).cumsum(-1)[:, :-1] <= u[:, None]).sum(-1)

    return _rounds(forecast, prompts, numbers, end, draw)


def sampler_in_reverse(forecast, prompts, numbers, temperature, end):
    """Uses the random numbers from the last column on."""
    return _rounds(
        forecast,
        prompts,
        numbers.flip(1),
        end,
        lambda z, u: ((z / temperature).softmax(-1).cumsum(-1)[:, :-1] <= u[:, None]).sum(-1),
    )


# --- notebook 01 ---------------------------------------------------------------------------------------------------


def softmax_over_the_batch(reward_a: Tensor, reward_b: Tensor) -> Tensor:
    """A softmax along the wrong axis: over the pairs and not over the two answers."""
    return torch.softmax(torch.stack([reward_a, reward_b]), dim=-1)[0]


def probability_of_a_bell_curve(reward_a: Tensor, reward_b: Tensor) -> Tensor:
    """Normal noise of size 1 on the difference."""
    return 0.5 * (1 + torch.erf((reward_a - reward_b) / 2**0.5))


def probability_by_tanh(reward_a: Tensor, reward_b: Tensor) -> Tensor:
    """σ(x) is (1 + tanh(x/2))/2; the half is missing."""
    return (1 + torch.tanh(reward_a - reward_b)) / 2


def probability_of_elo(reward_a: Tensor, reward_b: Tensor) -> Tensor:
    """The formula of the chess players."""
    return 1 / (1 + torch.pow(10.0, (reward_b - reward_a) / 400))


def probability_from_odds(reward_a: Tensor, reward_b: Tensor) -> Tensor:
    """Right on paper; inf / inf for a reward of 1000."""
    odds = torch.exp(reward_a - reward_b)
    return odds / (odds + 1)


def average_probability(reward_a: Tensor, reward_b: Tensor) -> Tensor:
    """One number for all pairs."""
    return (reward_a - reward_b).sigmoid().mean()


def ranking_below_the_highest(rewards: Tensor) -> Tensor:
    """Subtracts the highest reward of all against overflow; the last places then underflow."""
    e = (rewards - rewards.amax(-1, keepdim=True)).exp()
    left = torch.stack([e[..., k:].sum(-1) for k in range(rewards.shape[-1])], -1)
    return (e / left).log().sum(-1)


def ranking_of_the_sorted(rewards: Tensor) -> Tensor:
    """Brings the best to the front first, whatever was observed."""
    r = rewards.sort(descending=True).values
    return sum(r[..., k] - r[..., k:].logsumexp(-1) for k in range(r.shape[-1]))


def ranking_along_the_batch(rewards: Tensor) -> Tensor:
    """Loops over the first axis, as for a single ranking."""
    return sum(rewards[k] - rewards[k:].logsumexp(0) for k in range(len(rewards)))


def loss_of_a_hinge(chosen: Tensor, rejected: Tensor, margin: Tensor | float = 0.0) -> Tensor:
    """Nothing to pay as soon as the winner leads by the margin."""
    return (margin - chosen + rejected).clamp(min=0).mean()


def loss_with_the_target_of_the_loser(chosen: Tensor, rejected: Tensor, margin: Tensor | float = 0.0) -> Tensor:
    """A binary cross-entropy with target 0."""
    z = chosen - rejected - margin
    return F.binary_cross_entropy_with_logits(z, torch.zeros_like(z))


def loss_within_limits(chosen: Tensor, rejected: Tensor, margin: Tensor | float = 0.0) -> Tensor:
    """Cuts the difference off against overflow, and with it the gradient of the worst pairs."""
    return F.softplus(-(chosen - rejected - margin).clamp(-100, 100)).mean()


def gradient_of_net_comparisons(wins: Tensor, rewards: Tensor) -> Tensor:
    """c_ij − c_ji for the number of comparisons."""
    p = torch.sigmoid(rewards.unsqueeze(1) - rewards.unsqueeze(0))
    return (wins - (wins - wins.T) * p).sum(1)


def gradient_for_sixty(wins: Tensor, rewards: Tensor) -> Tensor:
    """Every pair 60 times, as in the notebook."""
    n = torch.full_like(wins, 60.0).fill_diagonal_(0)
    return (wins - n * torch.sigmoid(rewards.unsqueeze(1) - rewards.unsqueeze(0))).sum(1)


def strengths_with_a_step_of_one_pair(wins: Tensor) -> Tensor:
    """n_max of one pair and not of one answer: with many answers the step overshoots."""
    played = wins + wins.T
    r = torch.zeros(len(wins))
    for _ in range(1500):
        r = r + 2 / played.max() * (wins - played * torch.sigmoid(r[:, None] - r)).sum(1)
    return r - r.mean()


def strengths_with_unit_spread(wins: Tensor) -> Tensor:
    """Standardised, as if the scale were free."""
    r = _newton(wins, 0.0)
    return (r - r.mean()) / r.std()


def strengths_with_a_penalty(wins: Tensor) -> Tensor:
    """Ridge with strength ½."""
    return _newton(wins, 0.5)


def _newton(wins: Tensor, l2: float) -> Tensor:
    r = torch.zeros(len(wins), dtype=torch.float64)
    played = (wins + wins.T).double()
    for _ in range(40):
        p = torch.sigmoid(r[:, None] - r)
        weight = played * p * (1 - p)
        curvature = torch.diag(weight.sum(1) + l2) - weight
        r = r + torch.linalg.pinv(curvature) @ ((wins - played * p).sum(1) - l2 * r)
    return r - r.mean()


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


# --- notebook 02 ---------------------------------------------------------------------------------------------------


def length_minus_one(attention_mask: Tensor) -> Tensor:
    """Counts the real tokens: the right column only where the padding stands on the right."""
    return attention_mask.sum(1) - 1


def column_after_the_last(attention_mask: Tensor) -> Tensor:
    """Looks from the right, and forgets that columns start at 0."""
    return attention_mask.shape[1] - attention_mask.flip(1).long().argmax(1)


def steps_from_the_right(attention_mask: Tensor) -> Tensor:
    """Looks from the right and returns the number of steps, not the column."""
    return attention_mask.flip(1).long().argmax(1)


def before_the_first_padding(attention_mask: Tensor) -> Tensor:
    """The column before the first padding: −1 where there is none, or where it stands on the left."""
    return (~attention_mask.bool()).long().argmax(1) - 1


def first_real_token(attention_mask: Tensor) -> Tensor:
    """argmax gives the first of equal values: this is where the text starts."""
    return attention_mask.long().argmax(1)


def every_last_column(attention_mask: Tensor) -> Tensor:
    """Trusts that the padding stands on the left."""
    return torch.full((len(attention_mask),), attention_mask.shape[1] - 1)


def head_on_the_last_column(hidden: Tensor, mask: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Reads column −1, which is padding in short rows."""
    return hidden[:, -1] @ weight + bias


def head_without_bias(hidden: Tensor, mask: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """w · h alone."""
    last = (mask.long() * torch.arange(mask.shape[1])).argmax(1)
    return hidden[torch.arange(len(hidden)), last] @ weight


def head_on_the_mean(hidden: Tensor, mask: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The mean of all real tokens, as for a sentence embedding."""
    m = mask.unsqueeze(-1)
    return (hidden * m).sum(1) / m.sum(1) @ weight + bias


def head_for_every_pair_of_rows(hidden: Tensor, mask: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """hidden[:, last] takes all those columns of every row."""
    last = (mask.long() * torch.arange(mask.shape[1])).argmax(1)
    return hidden[:, last] @ weight + bias


def head_squeezed_into_a_probability(hidden: Tensor, mask: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A sigmoid on the score: the reward is no probability, that comes from a difference of two."""
    last = (mask.long() * torch.arange(mask.shape[1])).argmax(1)
    return torch.sigmoid(hidden[torch.arange(len(hidden)), last] @ weight + bias)


def head_one_token_early(hidden: Tensor, mask: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Takes the end token for padding, and reads the token before it."""
    last = (mask.long() * torch.arange(mask.shape[1])).argmax(1)
    return hidden[torch.arange(len(hidden)), last - 1] @ weight + bias


def loss_of_neighbours(scores: Tensor) -> Tensor:
    """Takes rows 0 and 1 for a pair, and 2 and 3."""
    chosen, rejected = scores.reshape(-1, 2).unbind(1)
    return -F.logsigmoid(chosen - rejected).mean()


def loss_over_all_scores(scores: Tensor) -> Tensor:
    """Divides by 2N: the number of scores, not of pairs."""
    chosen, rejected = scores.chunk(2)
    return -F.logsigmoid(chosen - rejected).sum() / len(scores)


def loss_of_each_score_alone(scores: Tensor) -> Tensor:
    """A classifier: chosen answers are class 1, rejected ones class 0. The pair is lost."""
    n = len(scores) // 2
    label = torch.cat([torch.ones(n, dtype=scores.dtype), torch.zeros(n, dtype=scores.dtype)])
    return F.binary_cross_entropy_with_logits(scores, label)


def loss_as_typed(scores: Tensor) -> Tensor:
    """log of sigmoid as it stands in the formula: −log 0 is infinite for a pair that is very wrong."""
    chosen, rejected = scores.chunk(2)
    return -torch.log(torch.sigmoid(chosen - rejected)).mean()


def log_likelihood_to_be_minimised(scores: Tensor) -> Tensor:
    """The minus is missing."""
    chosen, rejected = scores.chunk(2)
    return F.logsigmoid(chosen - rejected).mean()


def ceiling_of_the_first_answer(probability: Tensor) -> Tensor:
    """Always bets on a."""
    return probability.mean()


def ceiling_of_the_mean(probability: Tensor) -> Tensor:
    """One bet for all pairs: the maximum of the means, not the mean of the maxima."""
    p = probability.mean()
    return torch.maximum(p, 1 - p)


def ceiling_of_two_annotators(probability: Tensor) -> Tensor:
    """How often two annotators agree (notebook 00), not how often the best judge agrees with one."""
    return (probability**2 + (1 - probability) ** 2).mean()


def ceiling_without_noise(probability: Tensor) -> Tensor:
    """The share of pairs in which a is the likelier: rounds p to 0 or 1."""
    return (probability > 0.5).to(probability.dtype).mean()


def ceiling_clamped_at_a_half(probability: Tensor) -> Tensor:
    """Where b is the likelier, takes 1/2 and not 1 − p."""
    return probability.clamp(min=0.5).mean()


def bayes_error(probability: Tensor) -> Tensor:
    """The share that the best judge gets wrong."""
    return torch.minimum(probability, 1 - probability).mean()


def column_of_the_longest_row(attention_mask: Tensor) -> Tensor:
    """One column for all rows: that of the last real token in the batch."""
    return torch.full((len(attention_mask),), int(attention_mask.any(0).nonzero().max()))


def score_without_a_batch_of_one(hidden: Tensor, mask: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """squeeze() takes every axis of size 1, the batch's too."""
    last = mask.shape[1] - 1 - mask.flip(1).long().argmax(1)
    return (hidden[torch.arange(len(mask)), last].unsqueeze(1) @ weight.view(-1, 1)).squeeze() + bias


def score_of_the_best_token(hidden: Tensor, mask: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The highest score of a real token."""
    return torch.where(mask, hidden @ weight + bias, -torch.inf).amax(1)


def score_of_a_unit_vector(hidden: Tensor, mask: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Normalises the hidden vector."""
    last = mask.shape[1] - 1 - mask.flip(1).long().argmax(1)
    h = hidden[torch.arange(len(mask)), last]
    return (h / h.norm(dim=1, keepdim=True)) @ weight + bias


def score_without_a_sum(hidden: Tensor, mask: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A product for each dimension."""
    last = mask.shape[1] - 1 - mask.flip(1).long().argmax(1)
    return hidden[torch.arange(len(mask)), last] * weight + bias


def loss_of_all_against_all(scores: Tensor) -> Tensor:
    """Compares answers to different prompts."""
    n = len(scores) // 2
    return F.softplus(scores[n:] - scores[:n, None]).mean()


def loss_over_both_answers(scores: Tensor) -> Tensor:
    """Divides by 2N."""
    n = len(scores) // 2
    return F.softplus(scores[n:] - scores[:n]).sum() / len(scores)


def ceiling_of_sure_pairs(probability: Tensor) -> Tensor:
    """The share of pairs on which a is likelier."""
    return (probability > 0.5).double().mean()


def ceiling_half_way(probability: Tensor) -> Tensor:
    """½ + |p − ½|/2."""
    return 0.5 + 0.5 * (probability - 0.5).abs().mean()


def _looks(start, loss, look, rate, every, limit):
    """Step, weights and held-out loss at each look."""
    v = start.clone().requires_grad_()
    adam = torch.optim.Adam([v], lr=rate)
    for step in range(limit + 1):
        if step % every == 0:
            yield step, v.detach().clone(), look(v.detach())
        adam.zero_grad()
        loss(v).backward()
        adam.step()


def stop_at_a_clear_gain_only(start, loss, look, rate, every, patience, limit):
    """A new lowest loss counts only if it is lower by a tenth."""
    best, lowest, bad = (start, 0), look(start), 0
    for step, v, value in _looks(start, loss, look, rate, every, limit):
        if step == 0:
            continue
        if value < 0.9 * lowest:
            best, lowest, bad = (v, step), value, 0
        else:
            bad += 1
        if bad == patience:
            break
    return best


def stop_on_a_mean_of_two_looks(start, loss, look, rate, every, patience, limit):
    """Compares the mean of the last two looks."""
    best, lowest, bad, before = (start, 0), look(start), 0, look(start)
    for step, v, value in _looks(start, loss, look, rate, every, limit):
        if step == 0:
            continue
        smooth, before = (value + before) / 2, value
        if smooth < lowest:
            best, lowest, bad = (v, step), smooth, 0
        else:
            bad += 1
        if bad == patience:
            break
    return best


def stop_and_name_the_next_look(start, loss, look, rate, every, patience, limit):
    """The right weights; the step is that of the look after them."""
    best, lowest, bad = (start, every), look(start), 0
    for step, v, value in _looks(start, loss, look, rate, every, limit):
        if step and value < lowest:
            best, lowest, bad = (v, step + every), value, 0
        elif step:
            bad += 1
        if bad == patience:
            break
    return best


def stop_and_average(start, loss, look, rate, every, patience, limit):
    """Half way between the best weights and those of the end."""
    best, at, lowest, bad, v = start, 0, look(start), 0, start
    for step, v, value in _looks(start, loss, look, rate, every, limit):
        if step and value < lowest:
            best, at, lowest, bad = v, step, value, 0
        elif step:
            bad += 1
        if bad == patience:
            break
    return (best + v) / 2, at


def stop_after_the_whole_training(start, loss, look, rate, every, patience, limit):
    """The best of the last `patience` looks."""
    seen = list(_looks(start, loss, look, rate, every, limit))[-patience:]
    step, v, _ = min(seen, key=lambda one: one[2])
    return v, step


def stop_at_the_first_that_is_good(start, loss, look, rate, every, patience, limit):
    """The first look that is below the start."""
    for step, v, value in _looks(start, loss, look, rate, every, limit):
        if value < look(start):
            return v, step
    return start, 0


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


def kl_with_a_floor(log_p: Tensor, log_q: Tensor) -> Tensor:
    """A floor under both logarithms, against nan; the KL of p from a q that lacks an answer becomes finite."""
    low = torch.tensor(-30.0, dtype=log_p.dtype)
    return (log_p.exp() * (torch.maximum(log_p, low) - torch.maximum(log_q, low))).sum(-1)


def kl_that_hides_nan_and_inf(log_p: Tensor, log_q: Tensor) -> Tensor:
    """nan_to_num with all three replacements: an infinite term counts as nothing."""
    return torch.nan_to_num(log_p.exp() * (log_p - log_q), nan=0.0, posinf=0.0, neginf=0.0).sum(-1)


def kl_of_common_answers(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Sums over the answers that both can give."""
    both = (log_p > -torch.inf) & (log_q > -torch.inf)
    return torch.where(both, log_p.exp() * (log_p - log_q), torch.zeros_like(log_p)).sum(-1)


def kl_with_fixed_weights(log_p: Tensor, log_q: Tensor) -> Tensor:
    """The weights are computed without gradient, as if the samples did not depend on the policy."""
    with torch.no_grad():
        p = log_p.exp()
    return torch.where(p > 0, p * (log_p - log_q), torch.zeros_like(p)).sum(-1)


def kl_as_a_number(log_p: Tensor, log_q: Tensor) -> Tensor:
    """The policy is detached at the door."""
    return _kl(log_p.detach(), log_q)


def kl_both_ways(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Adds the two directions up, so that it is symmetric."""
    return _kl(log_p, log_q) + _kl(log_q, log_p)


def kl_in_bits(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Logarithms to base 2."""
    return _kl(log_p, log_q) / torch.tensor(2.0, dtype=log_p.dtype).log()


def objective_without_a_leash_to_feel(log_probs: Tensor, ref_log_probs: Tensor, rewards: Tensor, beta: float) -> Tensor:
    """The KL is computed as a number: right value, and a gradient of the reward alone."""
    return (log_probs.exp() * rewards).sum(-1) - beta * _kl(log_probs, ref_log_probs).detach()


def objective_of_a_frozen_policy(log_probs: Tensor, ref_log_probs: Tensor, rewards: Tensor, beta: float) -> Tensor:
    """The policy is detached, so nothing could be trained."""
    log_probs = log_probs.detach()
    return (log_probs.exp() * rewards).sum(-1) - beta * _kl(log_probs, ref_log_probs)


def objective_with_log_weights(log_probs: Tensor, ref_log_probs: Tensor, rewards: Tensor, beta: float) -> Tensor:
    """Rewards weighted by log π."""
    return (log_probs * rewards).sum(-1) - beta * _kl(log_probs, ref_log_probs)


def objective_of_the_batch(log_probs: Tensor, ref_log_probs: Tensor, rewards: Tensor, beta: float) -> Tensor:
    """One number for the batch: the mean of the rows."""
    return ((log_probs.exp() * rewards).sum(-1) - beta * _kl(log_probs, ref_log_probs)).mean()


def optimum_with_an_axis_kept(ref_log_probs: Tensor, rewards: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """keepdim=True for the subtraction, and not taken back for log Z."""
    exponent = ref_log_probs + rewards / beta
    log_z = torch.logsumexp(exponent, dim=-1, keepdim=True)
    return exponent - log_z, log_z


def optimum_without_its_top(ref_log_probs: Tensor, rewards: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """The largest exponent is subtracted against overflow, and missing in log Z."""
    exponent = ref_log_probs + rewards / beta
    exponent = exponent - exponent.amax(-1, keepdim=True)
    log_z = exponent.exp().sum(-1).log()
    return exponent - log_z[..., None], log_z


def optimum_of_columns(ref_log_probs: Tensor, rewards: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Normalises over the first axis."""
    exponent = ref_log_probs + rewards / beta
    return torch.log_softmax(exponent, 0), torch.logsumexp(exponent, 0)


def score_by_the_first_row(
    scores: Tensor, log_probs: Tensor, ref_log_probs: Tensor, mask: Tensor, beta: float
) -> Tensor:
    """The length of the first answer is taken for all."""
    per_token = torch.where(mask, -beta * (log_probs - ref_log_probs), torch.zeros_like(log_probs))
    per_token[:, int(mask[0].sum()) - 1] += scores
    return per_token


def score_in_every_row(scores: Tensor, log_probs: Tensor, ref_log_probs: Tensor, mask: Tensor, beta: float) -> Tensor:
    """Indexes columns without rows: each row gets scores at the last tokens of all."""
    per_token = torch.where(mask, -beta * (log_probs - ref_log_probs), torch.zeros_like(log_probs))
    per_token[:, mask.sum(dim=1) - 1] += scores
    return per_token


def score_per_word(scores: Tensor, log_probs: Tensor, ref_log_probs: Tensor, mask: Tensor, beta: float) -> Tensor:
    """The score is divided by the length of the answer."""
    per_token = torch.where(mask, -beta * (log_probs - ref_log_probs), torch.zeros_like(log_probs))
    length = mask.sum(dim=1)
    per_token[torch.arange(len(scores)), length - 1] += scores / length
    return per_token


def estimators_in_another_order(log_probs: Tensor, ref_log_probs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """k3 before k2."""
    d = log_probs - ref_log_probs
    return d, torch.expm1(-d) + d, d.square() / 2


def estimators_with_a_straight_k2(log_probs: Tensor, ref_log_probs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """k2 is half the log-ratio, not half its square."""
    d = log_probs - ref_log_probs
    return d, d / 2, torch.expm1(-d) + d


def estimators_as_numbers(log_probs: Tensor, ref_log_probs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Right values, detached."""
    d = (log_probs - ref_log_probs).detach()
    return d, d.square() / 2, torch.expm1(-d) + d


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


def running_sum_of_real_tokens(rewards: Tensor, mask: Tensor, gamma: float = 1.0) -> Tensor:
    """Sums from the front, and cleans the padding."""
    return torch.where(mask, torch.where(mask, rewards, torch.zeros_like(rewards)).cumsum(1), 0.0)


def discounted_from_the_last_column(rewards: Tensor, mask: Tensor, gamma: float = 1.0) -> Tensor:
    """Discounts by the distance from the last column."""
    powers = gamma ** torch.arange(rewards.shape[1], dtype=rewards.dtype).flip(0)
    return (rewards * mask * powers).flip(1).cumsum(1).flip(1) * mask


def reward_to_go_by_the_first_mask(rewards: Tensor, mask: Tensor, gamma: float = 1.0) -> Tensor:
    """Cuts every answer at the length of the first."""
    rewards = rewards[:, : int(mask[0].sum())]
    result = torch.zeros(mask.shape, dtype=rewards.dtype)
    running = torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        running = rewards[:, t] + gamma * running
        result[:, t] = running
    return result


def gae_turned_round(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float = 1.0, lam: float = 0.95
) -> tuple[Tensor, Tensor]:
    """Expected minus got: V − (r + γ V'), and returns V − Â that come out right."""
    rewards, values = rewards * mask, values * mask
    following = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], 1)
    errors, advantages = values - rewards - gamma * following, torch.zeros_like(values)
    running = torch.zeros_like(values[:, 0])
    for t in reversed(range(values.shape[1])):
        running = (errors[:, t] + gamma * lam * running) * mask[:, t]
        advantages[:, t] = running
    return advantages, values - advantages


def gae_with_rewards_as_targets(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float = 1.0, lam: float = 0.95
) -> tuple[Tensor, Tensor]:
    """Adds the rewards, not the values, to the advantages."""
    turned, _ = gae_turned_round(rewards, values, mask, gamma, lam)
    return -turned, -turned + rewards * mask


def gae_in_the_other_order(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float = 1.0, lam: float = 0.95
) -> tuple[Tensor, Tensor]:
    """(returns, advantages)."""
    turned, returns = gae_turned_round(rewards, values, mask, gamma, lam)
    return returns, -turned


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


def loss_in_a_band_of_quotients(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, clip: float = 0.2
) -> Tensor:
    """The band is symmetric on the log scale: 1/(1 + ε) to 1 + ε."""
    ratio = (log_probs - old_log_probs).exp()
    held = torch.clamp(ratio, 1 / (1 + clip), 1 + clip)
    return torch.maximum(-ratio * advantages, -held * advantages)[mask].mean()


def loss_of_every_token(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, clip: float = 0.2
) -> Tensor:
    """Forgets the mean."""
    return torch.maximum(*_losses(log_probs, old_log_probs, advantages, clip)) * mask


def loss_of_whitened_advantages(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, clip: float = 0.2
) -> Tensor:
    """Whitens once more inside, with torch's own std."""
    real = advantages[mask]
    white = (advantages - real.mean()) / real.std() * mask
    return torch.maximum(*_losses(log_probs, old_log_probs, white, clip))[mask].mean()


def loss_with_a_fixed_ratio(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, clip: float = 0.2
) -> Tensor:
    """The ratio is a number: no gradient."""
    return torch.maximum(*_losses(log_probs.detach(), old_log_probs, advantages, clip))[mask].mean()


def minimum_of_losses(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, clip: float = 0.2
) -> Tensor:
    """Keeps the minimum of (29) although the sign has turned: the optimistic loss."""
    per_token = torch.minimum(*_losses(log_probs, old_log_probs, advantages, clip))
    return per_token[mask.bool()].mean()


def whiten_over_all_positions(x: Tensor, mask: Tensor, shift_mean: bool = True) -> Tensor:
    """Sums over real tokens, divided by the number of all positions."""
    n = x.numel()
    mean = (x * mask).sum() / n
    variance = ((x - mean) ** 2 * mask).sum() / n
    white = (x - mean) / (variance + 1e-8).sqrt()
    return (white if shift_mean else white + mean) * mask


def whiten_without_the_small_number(x: Tensor, mask: Tensor, shift_mean: bool = True) -> Tensor:
    """0/0 where all values are equal."""
    real = x[mask]
    white = (x - real.mean()) / real.std(correction=0)
    return torch.where(mask, white if shift_mean else white + real.mean(), 0.0)


def whiten_to_a_range(x: Tensor, mask: Tensor, shift_mean: bool = True) -> Tensor:
    """Scales to the range from 0 to 1."""
    low, high = x[mask].min(), x[mask].max()
    return torch.where(mask, (x - low) / (high - low + 1e-8), 0.0)


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


# --- notebook 05 ---------------------------------------------------------------------------------------------------


def mask_of_what_is_not_eos(responses: Tensor, eos_id: int) -> Tensor:
    """The usual line `ids != pad`, with pad = EOS: the EOS itself is hidden."""
    return responses != eos_id


def mask_up_to_the_argmax(responses: Tensor, eos_id: int) -> Tensor:
    """argmax gives 0 for a row without any EOS: of an unfinished answer only the first token is left."""
    first = (responses == eos_id).int().argmax(dim=1, keepdim=True)
    return torch.arange(responses.shape[1]) <= first


def mask_one_slot_too_long(responses: Tensor, eos_id: int) -> Tensor:
    """Counts the EOS and then adds one more slot for it."""
    lengths = (responses != eos_id).sum(1, keepdim=True) + 1
    return torch.arange(responses.shape[1]) <= lengths


def mask_with_the_last_column(responses: Tensor, eos_id: int) -> Tensor:
    """Every row must end somewhere, so its last column is taken for an end."""
    mask = (responses == eos_id).cumsum(1) - (responses == eos_id).long() == 0
    return torch.cat([mask[:, :-1], torch.ones_like(mask[:, :1])], dim=1)


def mask_of_the_first_answer(responses: Tensor, eos_id: int) -> Tensor:
    """Looks for the EOS in row 0 and takes its place for that of all rows."""
    ends = (responses[0] == eos_id).nonzero()
    length = int(ends[0]) + 1 if len(ends) else responses.shape[1]
    return (torch.arange(responses.shape[1]) < length).repeat(len(responses), 1)


def rewards_whose_last_token_goes_free(scores, finished, log_probs, ref_log_probs, mask, beta, penalty):
    """Assigns at the last token instead of adding: its own charge is overwritten."""
    rewards = -beta * (log_probs - ref_log_probs) * mask
    rewards[torch.arange(len(scores)), mask.sum(1) - 1] = torch.where(finished, scores, penalty)
    return rewards


def rewards_one_slot_late_where_there_is_room(scores, finished, log_probs, ref_log_probs, mask, beta, penalty):
    """The length of an answer is not the index of its last token; a clamp hides the IndexError."""
    rewards = -beta * (log_probs - ref_log_probs) * mask
    place = mask.sum(1).clamp(max=mask.shape[1] - 1)
    return rewards.scatter_add(1, place[:, None], torch.where(finished, scores, penalty)[:, None])


def rewards_of_a_positive_penalty(scores, finished, log_probs, ref_log_probs, mask, beta, penalty):
    """Takes the penalty for an amount to be subtracted."""
    rewards = -beta * (log_probs - ref_log_probs) * mask
    rewards[torch.arange(len(scores)), mask.sum(1) - 1] += torch.where(finished, scores, -penalty)
    return rewards


def rewards_per_token_of_the_answer(scores, finished, log_probs, ref_log_probs, mask, beta, penalty):
    """Pays for quality per token: the score is divided by the length."""
    rewards = -beta * (log_probs - ref_log_probs) * mask
    rewards[torch.arange(len(scores)), mask.sum(1) - 1] += torch.where(finished, scores, penalty) / mask.sum(1)
    return rewards


def rewards_with_the_penalty_added(scores, finished, log_probs, ref_log_probs, mask, beta, penalty):
    """Adds the penalty to the score of an unfinished answer instead of replacing it."""
    rewards = -beta * (log_probs - ref_log_probs) * mask
    last = mask.sum(1) - 1
    rewards[torch.arange(len(scores)), last] += scores + penalty * (~finished)
    return rewards


def rewards_without_a_score_for_unfinished(scores, finished, log_probs, ref_log_probs, mask, beta, penalty):
    """Gives unfinished answers no score at all."""
    rewards = -beta * (log_probs - ref_log_probs) * mask
    rewards[torch.arange(len(scores)), mask.sum(1) - 1] += scores * finished
    return rewards


def rewards_with_the_kl_at_the_end(scores, finished, log_probs, ref_log_probs, mask, beta, penalty):
    """Pays the whole KL at the last token: right in sum, wrong token by token."""
    total = torch.where(finished, scores, penalty) - beta * ((log_probs - ref_log_probs) * mask).sum(1)
    rewards = torch.zeros_like(log_probs)
    rewards[torch.arange(len(scores)), mask.sum(1) - 1] = total
    return rewards


def rewards_in_the_last_column(scores, finished, log_probs, ref_log_probs, mask, beta, penalty):
    """Puts the score in the last column, padding or not."""
    rewards = -beta * (log_probs - ref_log_probs) * mask
    rewards[:, -1] += torch.where(finished, scores, penalty)
    return rewards


def update_without_whitening(
    log_probs, values, old_log_probs, old_values, advantages, returns, mask, clip=0.2, value_coef=0.1
):
    """Takes the advantages as they come."""
    ratio = (log_probs - old_log_probs).exp()
    policy = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip))
    near = torch.minimum(torch.maximum(values, old_values - clip), old_values + clip)
    value = 0.5 * torch.maximum((values - returns) ** 2, (near - returns) ** 2)
    return ((policy + value_coef * value) * mask).sum() / mask.sum()


def update_with_value_loss_as_typed(
    log_probs, values, old_log_probs, old_values, advantages, returns, mask, clip=0.2, value_coef=0.1
):
    """A plain squared error for the value function, without the clip."""
    n = mask.sum()
    mean = (advantages * mask).sum() / n
    std = ((((advantages - mean) ** 2) * mask).sum() / n + 1e-8).sqrt()
    white = (advantages - mean) / std
    ratio = (log_probs - old_log_probs).exp()
    policy = torch.maximum(-white * ratio, -white * ratio.clamp(1 - clip, 1 + clip))
    value = 0.5 * (values - returns) ** 2
    return ((policy + value_coef * value) * mask).sum() / n


def update_that_subtracts_the_value_loss(
    log_probs, values, old_log_probs, old_values, advantages, returns, mask, clip=0.2, value_coef=0.1
):
    """Surrogate minus value loss, as in eq. (9) of the PPO paper, but for something that is minimised."""
    n = mask.sum()
    mean = (advantages * mask).sum() / n
    std = ((((advantages - mean) ** 2) * mask).sum() / n + 1e-8).sqrt()
    white = (advantages - mean) / std
    ratio = (log_probs - old_log_probs).exp()
    policy = torch.maximum(-white * ratio, -white * ratio.clamp(1 - clip, 1 + clip))
    near = torch.minimum(torch.maximum(values, old_values - clip), old_values + clip)
    value = 0.5 * torch.maximum((values - returns) ** 2, (near - returns) ** 2)
    return ((policy - value_coef * value) * mask).sum() / n


def update_with_one_half_too_many(
    log_probs, values, old_log_probs, old_values, advantages, returns, mask, clip=0.2, value_coef=0.1
):
    """Writes the ½ of (7) although the value loss contains it."""
    policy, _ = clipped_policy_loss(log_probs, old_log_probs, masked_whiten(advantages, mask), mask, clip)
    value, _ = clipped_value_loss(values, old_values, returns, mask, clip)
    return policy + value_coef * value / 2


def update_whitened_without_the_mask(
    log_probs, values, old_log_probs, old_values, advantages, returns, mask, clip=0.2, value_coef=0.1
):
    """Mean and deviation of the whole tensor, padding included."""
    white = (advantages - torch.mean(advantages)) / torch.std(advantages)
    policy, _ = clipped_policy_loss(log_probs, old_log_probs, white, mask, clip)
    value, _ = clipped_value_loss(values, old_values, returns, mask, clip)
    return policy + value_coef * value


def update_that_descends_the_surrogate(
    log_probs, values, old_log_probs, old_values, advantages, returns, mask, clip=0.2, value_coef=0.1
):
    """Takes the policy loss for the surrogate, which is to be maximised, and turns its sign."""
    policy, _ = clipped_policy_loss(log_probs, old_log_probs, masked_whiten(advantages, mask), mask, clip)
    value, _ = clipped_value_loss(values, old_values, returns, mask, clip)
    return value_coef * value - policy


def beta_without_the_limit(beta, kl, target, n, horizon):
    """Forgets the clip to ±0.2."""
    return beta * (1 + (kl / target - 1) * n / horizon)


def beta_without_the_horizon(beta, kl, target, n, horizon):
    """The whole error at once."""
    return beta * (1 + max(-0.2, min(0.2, kl / target - 1)))


def beta_as_a_factor(beta, kl, target, n, horizon):
    """Returns by how much β changes, as a factor."""
    return 1 + max(-0.2, min(0.2, kl / target - 1)) * n / horizon


def beta_with_a_bracket_around_the_target(beta, kl, target, n, horizon):
    """kl / (target − 1) for kl / target − 1."""
    return beta * (1 + max(-0.2, min(0.2, kl / (target - 1))) * n / horizon)


def beta_that_clips_the_ratio(beta, kl, target, n, horizon):
    """Clips KL/target itself to ±0.2 and forgets the −1."""
    return beta * (1 + max(-0.2, min(0.2, kl / target)) * n / horizon)


# --- notebook 06 ---------------------------------------------------------------------------------------------------


def answer_scored_in_its_own_column(logits: Tensor, tokens: Tensor, response_mask: Tensor) -> Tensor:
    """Forgets that column c predicts column c + 1."""
    log_probs = F.log_softmax(logits, dim=-1)
    picked = torch.gather(log_probs, 2, tokens.unsqueeze(2)).squeeze(2)
    return (picked * response_mask).sum(dim=1)


def answer_with_the_mask_cut_like_the_logits(logits: Tensor, tokens: Tensor, response_mask: Tensor) -> Tensor:
    """Cuts the last column of the mask off, as of the logits: the mask belongs to the tokens."""
    log_probs = logits[:, :-1].log_softmax(-1)
    picked = log_probs.gather(-1, tokens[:, 1:].unsqueeze(-1)).squeeze(-1)
    return (picked * response_mask[:, :-1]).sum(-1)


def answer_without_its_first_token(logits: Tensor, tokens: Tensor, response_mask: Tensor) -> Tensor:
    """Counts a token only where the one before it is in the answer too, so the first is lost."""
    log_probs = logits[:, :-1].log_softmax(-1)
    picked = log_probs.gather(-1, tokens[:, 1:].unsqueeze(-1)).squeeze(-1)
    return (picked * (response_mask[:, 1:] & response_mask[:, :-1])).sum(-1)


def answer_by_mean_loss(logits: Tensor, tokens: Tensor, response_mask: Tensor) -> Tensor:
    """Minus the usual language-model loss, which is a mean over the tokens."""
    losses = F.cross_entropy(logits[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none")
    mask = response_mask[:, 1:].to(losses.dtype)
    return -(losses * mask).sum(-1) / mask.sum(-1)


def answer_as_a_product(logits: Tensor, tokens: Tensor, response_mask: Tensor) -> Tensor:
    """Multiplies the probabilities, and stops there."""
    probs = logits[:, :-1].softmax(-1).gather(-1, tokens[:, 1:].unsqueeze(-1)).squeeze(-1)
    return torch.where(response_mask[:, 1:], probs, 1.0).prod(-1)


def answer_by_softmax_and_log(logits: Tensor, tokens: Tensor, response_mask: Tensor) -> Tensor:
    """Two steps for one: the softmax of a very improbable token is 0, and its logarithm −inf."""
    picked = logits[:, :-1].softmax(-1).gather(-1, tokens[:, 1:].unsqueeze(-1)).squeeze(-1).log()
    return picked.masked_fill(~response_mask[:, 1:], 0).sum(-1)


def answer_of_the_likeliest_words(logits: Tensor, tokens: Tensor, response_mask: Tensor) -> Tensor:
    """The log-probability of the greedy answer, not of the one that is given."""
    return (logits[:, :-1].log_softmax(-1).max(-1).values * response_mask[:, 1:]).sum(-1)


def implicit_reward_through_probabilities(log_probs: Tensor, ref_log_probs: Tensor, beta: float) -> Tensor:
    """Goes back to π and π_ref first: for a long answer both are 0."""
    return beta * torch.log(torch.exp(log_probs) / torch.exp(ref_log_probs))


def implicit_reward_never_below_zero(log_probs: Tensor, ref_log_probs: Tensor, beta: float) -> Tensor:
    """A reward is something positive."""
    return beta * F.relu(log_probs - ref_log_probs)


def implicit_reward_as_quotient(log_probs: Tensor, ref_log_probs: Tensor, beta: float) -> Tensor:
    """Divides, because there is a fraction in (4)."""
    return beta * (log_probs / ref_log_probs)


def implicit_reward_with_probabilities(log_probs: Tensor, ref_log_probs: Tensor, beta: float) -> Tensor:
    """Takes the inputs for probabilities: logarithms of logarithms (of their absolute values, to avoid nan)."""
    return beta * torch.log(log_probs.abs() / ref_log_probs.abs())


def loss_with_beta_in_front(
    policy_chosen: Tensor, policy_rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, beta: float
) -> Tensor:
    """β as a factor of the loss."""
    h = (policy_chosen - ref_chosen) - (policy_rejected - ref_rejected)
    return -beta * F.logsigmoid(h)


def loss_of_model_against_reference(
    policy_chosen: Tensor, policy_rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, beta: float
) -> Tensor:
    """Subtracts the whole Bradley–Terry loss of the reference, as a baseline."""
    ours = -F.logsigmoid(beta * (policy_chosen - policy_rejected))
    return ours + F.logsigmoid(beta * (ref_chosen - ref_rejected))


def loss_through_probabilities(
    policy_chosen: Tensor, policy_rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, beta: float
) -> Tensor:
    """F.logsigmoid is there, but what goes into it has been through exp and log."""
    chosen = torch.log(policy_chosen.exp() / ref_chosen.exp())
    return -F.logsigmoid(beta * (chosen - torch.log(policy_rejected.exp() / ref_rejected.exp())))


def loss_with_policy_and_reference_swapped(
    policy_chosen: Tensor, policy_rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, beta: float
) -> Tensor:
    """Reference over policy, for both answers."""
    return -F.logsigmoid(beta * (ref_chosen - policy_chosen) - beta * (ref_rejected - policy_rejected))


def loss_with_beta_on_the_policy(
    policy_chosen: Tensor, policy_rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, beta: float
) -> Tensor:
    """β before the first bracket only."""
    return -F.logsigmoid(beta * (policy_chosen - policy_rejected) - ref_chosen + ref_rejected)


def loss_with_hinge(
    policy_chosen: Tensor, policy_rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, beta: float
) -> Tensor:
    """Punishes wrong rankings only, linearly."""
    return torch.relu(beta * ((policy_rejected - ref_rejected) - (policy_chosen - ref_chosen)))


def loss_with_detached_rewards(
    policy_chosen: Tensor, policy_rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, beta: float
) -> Tensor:
    """The right number, but the rewards are taken out of the graph, as for a logged metric."""
    rewards = beta * (policy_chosen - ref_chosen).detach(), beta * (policy_rejected - ref_rejected).detach()
    return -F.logsigmoid(rewards[0] - rewards[1])


def weight_of_the_ranking(chosen_rewards: Tensor, rejected_rewards: Tensor) -> Tensor:
    """The probability that the pair is ranked rightly."""
    return torch.sigmoid(chosen_rewards - rejected_rewards)


def weight_by_tanh(chosen_rewards: Tensor, rejected_rewards: Tensor) -> Tensor:
    """σ by a hyperbolic tangent, without the half inside."""
    return 0.5 + 0.5 * torch.tanh(rejected_rewards - chosen_rewards)


def weight_of_rejected_alone(chosen_rewards: Tensor, rejected_rewards: Tensor) -> Tensor:
    """One sigmoid for each reward, and then their difference."""
    return torch.sigmoid(rejected_rewards) - torch.sigmoid(chosen_rewards)


def variants_with_a_squared_margin(h: Tensor, beta: float, epsilon: float) -> tuple[Tensor, Tensor]:
    """IPO's square of the margin in reward units, which should be one half."""
    m = beta * h
    return -(1 - epsilon) * F.logsigmoid(m) - epsilon * F.logsigmoid(-m), (m - 0.5) ** 2


def variants_with_one_minus_sigmoid_forgotten(h: Tensor, beta: float, epsilon: float) -> tuple[Tensor, Tensor]:
    """For the flipped label the sign in front is turned, not the one inside."""
    m = beta * h
    return -(1 - epsilon) * F.logsigmoid(m) + epsilon * F.logsigmoid(m), (h - 1 / (2 * beta)) ** 2


def variants_robust(h: Tensor, beta: float, epsilon: float) -> tuple[Tensor, Tensor]:
    """Another repair for flipped labels, which subtracts and rescales."""
    m = beta * h
    robust = (-(1 - epsilon) * F.logsigmoid(m) + epsilon * F.logsigmoid(-m)) / (1 - 2 * epsilon)
    return robust, (h - 1 / (2 * beta)) ** 2


def variants_with_one_minus_the_logarithm(h: Tensor, beta: float, epsilon: float) -> tuple[Tensor, Tensor]:
    """1 − log σ for −log σ."""
    m = beta * h
    mixed = (1 - epsilon) * F.logsigmoid(m) + epsilon * F.logsigmoid(-m)
    return 1 - mixed, (h - 1 / (2 * beta)) ** 2


def variants_with_label_smoothing_halved(h: Tensor, beta: float, epsilon: float) -> tuple[Tensor, Tensor]:
    """Label smoothing as in classification: ε is shared by both classes, ε/2 each."""
    m = beta * h
    return -(1 - epsilon / 2) * F.logsigmoid(m) - epsilon / 2 * F.logsigmoid(-m), (h - 1 / (2 * beta)) ** 2


# --- notebook 08 ---------------------------------------------------------------------------------------------------


def template_with_an_ended_reply(messages: list[dict[str, str]], reply: bool) -> str:
    """Treats the reply as an empty assistant message, and ends it before it has begun."""
    if reply:
        messages = [*messages, {"role": "assistant", "content": ""}]
    parts = [f"<|{m['role']}|> {m['content']}" + (" <|end|>" if m["role"] == "assistant" else "") for m in messages]
    return " ".join(parts)


def template_with_double_spaces(messages: list[dict[str, str]], reply: bool) -> str:
    """A space behind every part, and one more from the join."""
    parts = [f"<|{m['role']}|> {m['content']} " + ("<|end|> " if m["role"] == "assistant" else "") for m in messages]
    return " ".join([*parts, "<|assistant|>"] if reply else parts)


def template_that_replies_to_users_only(messages: list[dict[str, str]], reply: bool) -> str:
    """Ignores `reply` and asks for one whenever the last message is the user's."""
    parts = [f"<|{m['role']}|> {m['content']}" + (" <|end|>" if m["role"] == "assistant" else "") for m in messages]
    return " ".join([*parts, "<|assistant|>"] if messages[-1]["role"] == "user" else parts)


def _turns(messages: list[dict[str, str]]) -> list[str]:
    """Right turns, one string each."""
    ends = {"assistant": " <|end|>"}
    return [f"<|{m['role']}|> {m['content'].strip().lower()}{ends.get(m['role'], '')}" for m in messages]


def template_with_a_space_behind_each_turn(messages: list[dict[str, str]], reply: bool) -> str:
    """The space that separates the turns stands behind the last one too."""
    return "".join(turn + " " for turn in _turns(messages)) + ("<|assistant|>" if reply else "")


def template_with_a_space_before_each_turn(messages: list[dict[str, str]], reply: bool) -> str:
    """The text begins with a space."""
    return "".join(" " + turn for turn in [*_turns(messages), *(["<|assistant|>"] if reply else [])])


def template_in_capitals(messages: list[dict[str, str]], reply: bool) -> str:
    """Markers in capitals are no markers."""
    return " ".join([*_turns(messages), *(["<|assistant|>"] if reply else [])]).upper()


def template_of_two_speakers(messages: list[dict[str, str]], reply: bool) -> str:
    """Takes every second message for the assistant's and never reads the role."""
    named = [m | {"role": ("user", "assistant")[i % 2]} for i, m in enumerate(messages)]
    return " ".join([*_turns(named), *(["<|assistant|>"] if reply else [])])


def template_without_system(messages: list[dict[str, str]], reply: bool) -> str:
    """Whoever is not the assistant is the user."""
    named = [m if m["role"] == "assistant" else m | {"role": "user"} for m in messages]
    return " ".join([*_turns(named), *(["<|assistant|>"] if reply else [])])


def template_with_contents_as_they_are(messages: list[dict[str, str]], reply: bool) -> str:
    """Neither trimmed nor in lower case."""
    ends = {"assistant": " <|end|>"}
    turns = [f"<|{m['role']}|> {m['content']}{ends.get(m['role'], '')}" for m in messages]
    return " ".join([*turns, "<|assistant|>"] if reply else turns)


def mask_with_one_switch_for_all_rows(tokens: Tensor, assistant_id: int, end_id: int) -> Tensor:
    """The switch is made before the loop over the rows: an answer without an end leaves it on for the next row."""
    mask, learning = torch.zeros_like(tokens).bool(), False
    for i, row in enumerate(tokens.tolist()):
        for t, token in enumerate(row):
            mask[i, t] = learning
            learning = token == assistant_id or (learning and token != end_id)
    return mask


def mask_summed_over_the_batch(tokens: Tensor, assistant_id: int, end_id: int) -> Tensor:
    """cumsum(0) where it should be cumsum(1)."""
    change = (tokens == assistant_id).int() - (tokens == end_id).int()
    return change.cumsum(0) - change > 0


def mask_up_to_the_last_end(tokens: Tensor, assistant_id: int, end_id: int) -> Tensor:
    """Everything that has an end token at it or behind it."""
    return (tokens == end_id).int().flip(1).cummax(1).values.flip(1).bool()


def mask_up_to_the_next_marker(tokens: Tensor, assistant_id: int, end_id: int) -> Tensor:
    """Includes the token behind the end token as well: the next turn's marker."""
    starts, ends = (tokens == assistant_id).long().cumsum(-1), (tokens == end_id).long().cumsum(-1)
    inside = (starts - ends) > 0
    once = torch.nn.functional.pad(inside[:, :-1], (1, 0))
    return once | torch.nn.functional.pad(once[:, :-1], (1, 0)) & (tokens != assistant_id)


def mask_of_finished_answers(tokens: Tensor, assistant_id: int, end_id: int) -> Tensor:
    """Needs an end token for every answer: one that was cut off does not count."""
    mask = torch.zeros_like(tokens).bool()
    for i, row in enumerate(tokens.tolist()):
        begin = None
        for t, token in enumerate(row):
            if token == assistant_id:
                begin = t + 1
            elif token == end_id and begin is not None:
                mask[i, begin : t + 1] = True
                begin = None
    return mask


def mask_as_numbers(tokens: Tensor, assistant_id: int, end_id: int) -> Tensor:
    """The right mask as zeros and ones in floating point."""
    change = (tokens == assistant_id).int() - (tokens == end_id).int()
    return torch.nn.functional.pad(change, (1, -1)).cumsum(-1).float()


def _rows_of(wins: Tensor, harmful: Tensor, refused: Tensor) -> list[Tensor]:
    rates = refused.float().mean(1)
    return [wins, rates[harmful], rates[~harmful]]


def table_of_the_better_mean(gold: Tensor, sft_gold: Tensor, harmful: Tensor, refused: Tensor) -> Tensor:
    """A prompt is won when the mean reward of its answers is higher: one comparison a prompt."""
    difference = gold.mean(1) - sft_gold.mean(1)
    rows = _rows_of((difference > 0).float() + 0.5 * (difference == 0).float(), harmful, refused)
    return torch.stack([torch.stack([x.mean(), x.std() / len(x) ** 0.5]) for x in rows])


def table_with_binomial_errors(gold: Tensor, sft_gold: Tensor, harmful: Tensor, refused: Tensor) -> Tensor:
    """√(p (1 − p)/M), as for M coins: right only where every prompt has one answer."""
    wins = (1 + torch.sign(gold.unsqueeze(2) - sft_gold.unsqueeze(1))).mean((1, 2)) / 2
    rows = _rows_of(wins, harmful, refused)
    return torch.stack([torch.stack([x.mean(), (x.mean() * (1 - x.mean()) / len(x)).sqrt()]) for x in rows])


def table_with_all_prompts_in_the_root(gold: Tensor, sft_gold: Tensor, harmful: Tensor, refused: Tensor) -> Tensor:
    """Divides by the root of all M prompts in every row, also where only some of them count."""
    wins = (1 + torch.sign(gold.unsqueeze(2) - sft_gold.unsqueeze(1))).mean((1, 2)) / 2
    rows = _rows_of(wins, harmful, refused)
    return torch.stack([torch.stack([x.mean(), x.std() / len(gold) ** 0.5]) for x in rows])


def table_of_paired_answers(gold: Tensor, sft_gold: Tensor, harmful: Tensor, refused: Tensor) -> Tensor:
    """Compares the k-th answer with the k-th only."""
    k = min(gold.shape[1], sft_gold.shape[1])
    wins = (1 + torch.sign(gold[:, :k] - sft_gold[:, :k])).mean(1) / 2
    rows = _rows_of(wins, harmful, refused)
    return torch.stack([torch.stack([x.mean(), x.std() / len(x) ** 0.5]) for x in rows])


# --- notebook 07 ---------------------------------------------------------------------------------------------------


def _row(values: Tensor) -> Tensor:
    return torch.stack([values.mean(), values.std() / len(values) ** 0.5])


def _table_of(wins: Tensor, harmful: Tensor, harmless: Tensor) -> Tensor:
    return torch.stack([_row(wins), _row(harmful), _row(harmless)])


def _wins(gold: Tensor, other: Tensor) -> Tensor:
    difference = gold.unsqueeze(-1) - other.unsqueeze(-2)
    return (0.5 + 0.5 * difference.sign()).mean((1, 2))


def table_against_all_prompts(gold: Tensor, sft_gold: Tensor, harmful: Tensor, refused: Tensor) -> Tensor:
    """Compares an answer with the SFT model's answers to every prompt."""
    wins = _wins(gold, sft_gold.reshape(1, -1).repeat(len(gold), 1))
    return _table_of(wins, refused.float().mean(1)[harmful], refused.float().mean(1)[~harmful])


def table_above_the_average(gold: Tensor, sft_gold: Tensor, harmful: Tensor, refused: Tensor) -> Tensor:
    """Counts the answers above the mean of the SFT model's."""
    wins = (gold > sft_gold.mean(1)[:, None]).float().mean(1)
    return _table_of(wins, refused.float().mean(1)[harmful], refused.float().mean(1)[~harmful])


def table_with_any_refusal(gold: Tensor, sft_gold: Tensor, harmful: Tensor, refused: Tensor) -> Tensor:
    """One refusal makes the prompt a refused one."""
    rate = (refused.sum(1) > 0).float()
    return _table_of(_wins(gold, sft_gold), rate[harmful], rate[~harmful])


def table_with_all_in_the_last_row(gold: Tensor, sft_gold: Tensor, harmful: Tensor, refused: Tensor) -> Tensor:
    """The harmful prompts stand in the third row too."""
    rate = refused.float().mean(1)
    return _table_of(_wins(gold, sft_gold), rate[harmful], rate)


def table_with_the_error_first(gold: Tensor, sft_gold: Tensor, harmful: Tensor, refused: Tensor) -> Tensor:
    """Error, mean."""
    rate = refused.float().mean(1)
    return _table_of(_wins(gold, sft_gold), rate[harmful], rate[~harmful])[:, [1, 0]]


def table_with_the_root_of_the_answers(gold: Tensor, sft_gold: Tensor, harmful: Tensor, refused: Tensor) -> Tensor:
    """Divides by the root of the answers to a prompt."""
    rate, k = refused.float().mean(1), gold.shape[1]
    rows = (_wins(gold, sft_gold), rate[harmful], rate[~harmful])
    return torch.stack([torch.stack([x.mean(), x.std() / k**0.5]) for x in rows])


def pareto_by_running_maximum(kl: Tensor, reward: Tensor) -> Tensor:
    """Goes up the KL and keeps a run that is as high as everything before it: a tie at a larger KL stays."""
    keep = torch.zeros(len(kl), dtype=torch.bool)
    best = -float("inf")
    for i in kl.argsort():
        if reward[i] >= best:
            keep[i], best = True, reward[i]
    return keep


def pareto_of_the_best_ratio(kl: Tensor, reward: Tensor) -> Tensor:
    """Keeps the run with the most reward per nat."""
    ratio = reward / (kl + 1e-9)
    return ratio == ratio.max()


def pareto_that_asks_for_both(kl: Tensor, reward: Tensor) -> Tensor:
    """Beaten only if another run is strictly better in both."""
    keep = []
    for i in range(len(kl)):
        keep.append(not any(kl[j] < kl[i] and reward[j] > reward[i] for j in range(len(kl))))
    return torch.tensor(keep)


def wilson_with_ties_left_out(
    wins: float, losses: float, ties: float = 0, z: float = 1.96
) -> tuple[float, float, float]:
    """Comparisons without a winner are thrown away."""
    n = wins + losses
    p = wins / n
    centre, half = p + z * z / (2 * n), z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    return p, (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)


def usual_interval_cut_at_one(
    wins: float, losses: float, ties: float = 0, z: float = 1.96
) -> tuple[float, float, float]:
    """The usual interval, cut off at 0 and 1 so that it looks right."""
    n = wins + losses + ties
    p = (wins + ties / 2) / n
    half = z * (p * (1 - p) / n) ** 0.5
    return p, max(0.0, p - half), min(1.0, p + half)


def wilson_with_its_centre(wins: float, losses: float, ties: float = 0, z: float = 1.96) -> tuple[float, float, float]:
    """Reports the middle of the interval as the win rate."""
    n = wins + losses + ties
    p = (wins + ties / 2) / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    return centre, centre - half, centre + half


def beta_with_every_seed_inside(betas: Tensor, kl: Tensor, reward: Tensor, budget: float) -> float:
    """Allowed if all seeds are within the budget, instead of mean plus two standard errors."""
    allowed = (kl <= budget).all(dim=0)
    score = torch.where(allowed, reward.mean(0), torch.tensor(-1e9, dtype=reward.dtype))
    return float(betas[score.argmax()])


def beta_with_biased_std(betas: Tensor, kl: Tensor, reward: Tensor, budget: float) -> float:
    """The standard error with S in place of S − 1."""
    allowed = kl.mean(0) + 2 * kl.std(0, unbiased=False) / kl.shape[0] ** 0.5 <= budget
    return float(betas[torch.where(allowed, reward.mean(0), -1e9).argmax()])


def beta_by_objective(betas: Tensor, kl: Tensor, reward: Tensor, budget: float) -> float:
    """Takes the highest J = reward − β·KL of the allowed: every run judged at its own price."""
    allowed = kl.mean(0) + 2 * kl.std(0) / kl.shape[0] ** 0.5 <= budget
    objective = (reward - betas * kl).mean(0)
    return float(betas[torch.where(allowed, objective, -1e9).argmax()])


def pareto_if_better_in_one(kl: Tensor, reward: Tensor) -> Tensor:
    """A run is thrown out as soon as another is better in one of the two."""
    return ~torch.stack([((kl < k) | (reward > r)).any() for k, r in zip(kl, reward, strict=True)])


def pareto_by_reward_per_nat(kl: Tensor, reward: Tensor) -> Tensor:
    """The best quotient only."""
    quotient = reward / kl
    return quotient == quotient.max()


def pareto_as_numbers(kl: Tensor, reward: Tensor) -> Tensor:
    """Zeros and ones for a mask."""
    beaten = [((kl <= k) & (reward >= r) & ((kl < k) | (reward > r))).any() for k, r in zip(kl, reward, strict=True)]
    return 1 - torch.stack(beaten).int()


def _bounds(p: float, n: float, z: float, root: float) -> tuple[float, float, float]:
    """Wilson's ends with another root."""
    scale, middle = 1 + z * z / n, p + z * z / (2 * n)
    return p, (middle - z * root) / scale, (middle + z * root) / scale


def wilson_with_ties_missing_in_n(
    wins: float, losses: float, ties: float = 0, z: float = 1.96
) -> tuple[float, float, float]:
    """Ties count half in the numerator, but the denominator forgets them."""
    n = wins + losses
    p = (wins + ties / 2) / n
    return _bounds(p, n, z, abs(p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5)


def wilson_with_4n(wins: float, losses: float, ties: float = 0, z: float = 1.96) -> tuple[float, float, float]:
    """n is not squared under the root."""
    n = wins + losses + ties
    p = (wins + ties / 2) / n
    return _bounds(p, n, z, (p * (1 - p) / n + z * z / (4 * n)) ** 0.5)


def wilson_for_95_per_cent_only(
    wins: float, losses: float, ties: float = 0, z: float = 1.96
) -> tuple[float, float, float]:
    """Ignores the argument z."""
    n = wins + losses + ties
    p = (wins + ties / 2) / n
    return _bounds(p, n, 1.96, (p * (1 - p) / n + 1.96**2 / (4 * n * n)) ** 0.5)


def wilson_with_half_of_the_denominator(
    wins: float, losses: float, ties: float = 0, z: float = 1.96
) -> tuple[float, float, float]:
    """Divides the centre by 1 + z²/n, but not the half-width."""
    n = wins + losses + ties
    p = (wins + ties / 2) / n
    middle, half = (p + z * z / (2 * n)) / (1 + z * z / n), z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    return p, middle - half, middle + half


def interval_of_agresti_and_coull(
    wins: float, losses: float, ties: float = 0, z: float = 1.96
) -> tuple[float, float, float]:
    """Adds z² comparisons, half of them won, and takes the usual interval of these."""
    n = wins + losses + ties
    more, share = n + z * z, (wins + ties / 2 + z * z / 2) / (n + z * z)
    half = z * (share * (1 - share) / more) ** 0.5
    return (wins + ties / 2) / n, share - half, share + half


def wilson_without_the_share(wins: float, losses: float, ties: float = 0, z: float = 1.96) -> tuple[float, float]:
    """The two ends only."""
    n = wins + losses + ties
    p = (wins + ties / 2) / n
    return _bounds(p, n, z, (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5)[1:]


def _surely_within(kl: Tensor, budget: float) -> Tensor:
    return kl.mean(0) + 2 * (kl.var(0) / len(kl)).sqrt() <= budget


def beta_by_a_mask_of_zeros(betas: Tensor, kl: Tensor, reward: Tensor, budget: float) -> float:
    """A forbidden β has reward 0, which is the highest where all are negative."""
    return betas[(reward.mean(0) * _surely_within(kl, budget)).argmax()].item()


def beta_by_its_place_among_the_allowed(betas: Tensor, kl: Tensor, reward: Tensor, budget: float) -> float:
    """The number within the filtered list, looked up in the whole one."""
    return betas[reward.mean(0)[_surely_within(kl, budget)].argmax()].item()


def beta_of_the_most_kl(betas: Tensor, kl: Tensor, reward: Tensor, budget: float) -> float:
    """Uses up the budget."""
    within = _surely_within(kl, budget)
    return betas[within][kl.mean(0)[within].argmax()].item()


def beta_of_the_lowest_reward(betas: Tensor, kl: Tensor, reward: Tensor, budget: float) -> float:
    """argmin for argmax."""
    within = _surely_within(kl, budget)
    return betas[within][reward.mean(0)[within].argmin()].item()


def baseline_of_the_other_prompts(rewards: Tensor) -> Tensor:
    """Leaves one prompt out, not one answer."""
    return rewards - (rewards.sum(0) - rewards) / (rewards.shape[0] - 1)


def baseline_by_median(rewards: Tensor) -> Tensor:
    """The median of the others."""
    columns = list(rewards.unbind(1))
    others = [torch.stack(columns[:i] + columns[i + 1 :], 1).median(1).values for i in range(len(columns))]
    return rewards - torch.stack(others, 1)


def advantages_in_one_row(rewards: Tensor) -> Tensor:
    """The right numbers, flattened."""
    k = rewards.shape[1]
    return (rewards - (rewards.sum(1, keepdim=True) - rewards) / (k - 1)).flatten()


def baseline_over_the_batch(rewards: Tensor) -> Tensor:
    """Leaves one out of the whole batch, across prompts."""
    n = rewards.numel()
    return rewards - (rewards.sum() - rewards) / (n - 1)


def baseline_of_the_next(rewards: Tensor) -> Tensor:
    """One other answer as the baseline: the neighbour in the group."""
    return rewards - rewards.roll(-1, dims=1)


def baseline_of_those_before(rewards: Tensor) -> Tensor:
    """The mean of the answers that came earlier in the group."""
    k = torch.arange(rewards.shape[1])
    before = (rewards.cumsum(1) - rewards) / k.clamp_min(1)
    return rewards - before


# --- notebook 09 ---------------------------------------------------------------------------------------------------


def _success(runs):
    return torch.stack([run.mean(1) for run in runs])


def compare_by_the_larger_error(first, second, z):
    """Takes the larger of the two errors."""
    a, b = _success(first), _success(second)
    gaps = a.mean(0) - b.mean(0)
    over_problems = gaps.std() / len(gaps) ** 0.5
    over_seeds = (a.mean(1).var() / len(a) + b.mean(1).var() / len(b)).sqrt()
    half = z * max(over_problems, over_seeds)
    return gaps.mean(), gaps.mean() - half, gaps.mean() + half


def compare_with_the_spread_of_seeds(first, second, z):
    """The seeds' standard deviations, not their standard errors."""
    a, b = _success(first), _success(second)
    gaps = a.mean(0) - b.mean(0)
    half = z * (gaps.var() / len(gaps) + a.mean(1).var() + b.mean(1).var()).sqrt()
    return gaps.mean(), gaps.mean() - half, gaps.mean() + half


def compare_relatively(first, second, z):
    """The gain as a share of the second method's success."""
    a, b = _success(first), _success(second)
    gaps = (a.mean(0) - b.mean(0)) / b.mean()
    half = z * (gaps.var() / len(gaps) + a.mean(1).var() / len(a) + b.mean(1).var() / len(b)).sqrt()
    return gaps.mean(), gaps.mean() - half, gaps.mean() + half


def compare_with_one_factor_forgotten(first, second, z):
    """z stands before the first error only."""
    a, b = _success(first), _success(second)
    gaps = a.mean(0) - b.mean(0)
    half = (z**2 * gaps.var() / len(gaps) + a.mean(1).var() / len(a) + b.mean(1).var() / len(b)).sqrt()
    return gaps.mean(), gaps.mean() - half, gaps.mean() + half


def compare_two_coins(first, second, z):
    """The binomial formula, p(1 − p)/n of each method."""
    p, q = _success(first).mean(), _success(second).mean()
    half = z * (p * (1 - p) / sum(x.numel() for x in first) + q * (1 - q) / sum(x.numel() for x in second)).sqrt()
    return p - q, p - q - half, p - q + half


def compare_and_cut(first, second, z):
    """Successes lie between 0 and 1, so the ends are cut off there."""
    a, b = _success(first), _success(second)
    gaps = a.mean(0) - b.mean(0)
    half = z * (gaps.var() / len(gaps) + a.mean(1).var() / len(a) + b.mean(1).var() / len(b)).sqrt()
    return gaps.mean(), (gaps.mean() - half).clamp(0, 1), (gaps.mean() + half).clamp(0, 1)


# --- notebook 10 ---------------------------------------------------------------------------------------------------


def ipo_of_rewards(log_ref: Tensor, preference: Tensor, beta: float) -> Tensor:
    """Reads rewards off the first column and tilts by them, as RLHF does."""
    return (log_ref + torch.logit(preference[:, 0]) / beta).log_softmax(-1)


def ipo_of_majorities(log_ref: Tensor, preference: Tensor, beta: float) -> Tensor:
    """Counts the opponents that an answer beats more often than not."""
    return (log_ref + (preference > 0.5).to(log_ref) @ log_ref.exp() / beta).log_softmax(-1)


def ipo_without_logarithm(log_ref: Tensor, preference: Tensor, beta: float) -> Tensor:
    """Adds the win rate to the probability, not to its logarithm."""
    return (log_ref.exp() + preference @ log_ref.exp() / beta).log_softmax(-1)


def kto_with_a_hinge(r: Tensor, desirable: Tensor, z0: float, beta: float, lambda_d: float, lambda_u: float) -> Tensor:
    """A straight line in place of the sigmoid."""
    u = beta * (r - z0)
    return torch.where(desirable, lambda_d * (1 - u).clamp(min=0), lambda_u * (1 + u).clamp(min=0))


def kto_of_the_mean(r: Tensor, desirable: Tensor, z0: float, beta: float, lambda_d: float, lambda_u: float) -> Tensor:
    """Takes the mean of the batch for the reference point."""
    u = beta * (r - r.mean())
    return torch.where(desirable, lambda_d * torch.sigmoid(-u), lambda_u * torch.sigmoid(u))


def kto_with_weights_inside(
    r: Tensor, desirable: Tensor, z0: float, beta: float, lambda_d: float, lambda_u: float
) -> Tensor:
    """The weights stretch the argument."""
    u = beta * (r - z0)
    return torch.where(desirable, torch.sigmoid(-lambda_d * u), torch.sigmoid(lambda_u * u))


def simpo_with_padded_length(w: Tensor, lost: Tensor, n_w: Tensor, n_l: Tensor, beta: float, gamma: float) -> Tensor:
    """Divides by the width of the batch, as a mean over columns does."""
    width = torch.maximum(n_w, n_l)
    return -F.logsigmoid(beta * (w - lost) / width - gamma)


def simpo_with_a_hinge(w: Tensor, lost: Tensor, n_w: Tensor, n_l: Tensor, beta: float, gamma: float) -> Tensor:
    """A hinge, as in a support vector machine."""
    return (gamma - beta * (w / n_w - lost / n_l)).clamp(min=0)


def simpo_with_gamma_per_token(w: Tensor, lost: Tensor, n_w: Tensor, n_l: Tensor, beta: float, gamma: float) -> Tensor:
    """Divides the margin by the length, too."""
    return -F.logsigmoid(beta * (w / n_w - lost / n_l) - gamma / n_w)


def orpo_of_sigmoids(chosen: Tensor, rejected: Tensor, lam: float) -> Tensor:
    """Takes the sigmoid of the log-probability for the probability."""
    odds = [torch.logit(torch.sigmoid(x)) for x in (chosen, rejected)]
    return -chosen - lam * F.logsigmoid(odds[0] - odds[1])


def orpo_with_dpo_in_it(chosen: Tensor, rejected: Tensor, lam: float) -> Tensor:
    """λ as DPO's β."""
    odds = [x - torch.log1p(-x.exp()) for x in (chosen, rejected)]
    return -chosen - F.logsigmoid(lam * (odds[0] - odds[1]))


def orpo_with_odds_of_the_rejected_forgotten(chosen: Tensor, rejected: Tensor, lam: float) -> Tensor:
    """The odds of the chosen answer against the probability of the rejected one."""
    return -chosen - lam * F.logsigmoid(chosen - torch.log1p(-chosen.exp()) - rejected)


# --- in unusual styles, and two mistakes at once ----------------------------------------------------------------------


def kappa_with_whole_shares(first: Tensor, second: Tensor) -> Tensor:
    """// where / is meant: the shares are 0 or 1."""
    p, q = (choices.sum() // len(choices) for choices in (first, second))
    chance = p * q + (1 - p) * (1 - q)
    return ((first == second).sum() / len(first) - chance) / (1 - chance)


def agreement_by_correlation(first: Tensor, second: Tensor) -> Tensor:
    """A statistic that one knows, in place of the one that is asked for."""
    return torch.corrcoef(torch.stack([first, second]).double())[0, 1]


def every_pairs_agreement(probability: Tensor) -> Tensor:
    """The mean is forgotten; one of the cases has one pair only."""
    return 0.5 + 2 * (probability - 0.5).square()


def probability_of_b_by_exponentials(reward_a: Tensor, reward_b: Tensor) -> Tensor:
    """The wrong way round, and it overflows."""
    return 1 / (1 + reward_a.exp() / reward_b.exp())


def ranking_by_running_sums(rewards: Tensor) -> Tensor:
    """Right on paper."""
    weights = rewards.exp()
    left = weights.sum(-1, keepdim=True) - weights.cumsum(-1) + weights
    return (weights / left).log().sum(-1)


def strengths_after_ten_steps(wins: Tensor) -> Tensor:
    """The right way up, and not far enough."""
    rewards, compared = torch.zeros(len(wins)), wins + wins.T
    for _ in range(10):
        expected = compared * torch.sigmoid(rewards[:, None] - rewards)
        rewards = rewards + 2 / compared.sum(1).max() * (wins - expected).sum(1)
    return rewards


def strengths_downhill(wins: Tensor) -> Tensor:
    """A minus where the gradient is added."""
    rewards, compared = torch.zeros(len(wins)), wins + wins.T
    for _ in range(300):
        expected = compared * torch.sigmoid(rewards[:, None] - rewards)
        rewards = rewards - 2 / compared.sum(1).max() * (wins - expected).sum(1)
    return rewards


def optimum_in_another_order(ref_log_probs: Tensor, rewards: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """(log Z, log π*), and by exponentials."""
    weights = ref_log_probs.exp() * torch.exp(rewards / beta)
    z = weights.sum(-1)
    return z.log(), (weights / z.unsqueeze(-1)).log()


def reward_to_go_that_only_collects(rewards: Tensor, mask: Tensor, gamma: float = 1.0) -> Tensor:
    """The past, with weights that count from the start."""
    weights = gamma ** torch.arange(rewards.shape[1])
    return torch.where(mask, torch.cumsum(weights * rewards * mask, dim=1), 0.0)


def returns_and_nothing_else(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float = 1.0, lam: float = 0.95
) -> Tensor:
    """One of the two results. With two answers in the batch, its rows are not the two."""
    rewards, values, result = rewards * mask, values * mask, []
    later, after = torch.zeros(len(rewards)), torch.zeros(len(rewards))
    for t in reversed(range(rewards.shape[1])):
        later = rewards[:, t] + gamma * after - values[:, t] + gamma * lam * later
        after = values[:, t]
        result.append(later + after)
    return torch.stack(result[::-1], 1) * mask


def update_of_pairs(
    log_probs: Tensor,
    values: Tensor,
    old_log_probs: Tensor,
    old_values: Tensor,
    advantages: Tensor,
    returns: Tensor,
    mask: Tensor,
    clip: float = 0.2,
    value_coef: float = 0.1,
) -> Tensor:
    """Both functions return a pair, and it is not taken apart."""
    policy = clipped_policy_loss(log_probs, old_log_probs, masked_whiten(advantages, mask), mask, clip)
    return policy + value_coef * clipped_value_loss(values, old_values, returns, mask, clip)


def rewards_of_finished_answers(
    scores: Tensor,
    finished: Tensor,
    log_probs: Tensor,
    ref_log_probs: Tensor,
    mask: Tensor,
    beta: float,
    penalty: float,
) -> Tensor:
    """The penalty stands for everything that an unfinished answer would have earned."""
    rewards = beta * (ref_log_probs - log_probs) * (mask & finished[:, None])
    rewards[torch.arange(len(mask)), mask.sum(1) - 1] += torch.where(finished, scores, penalty)
    return rewards


def loss_with_half_a_bracket(
    policy_chosen: Tensor, policy_rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, beta: float
) -> Tensor:
    """Precedence: β before the first difference only."""
    return F.softplus(-(beta * (policy_chosen - ref_chosen) - (policy_rejected - ref_rejected)))


def pareto_in_sorted_order(kl: Tensor, reward: Tensor) -> Tensor:
    """Right for the sorted runs, and left in their order."""
    order = sorted(range(len(kl)), key=lambda i: (kl[i].item(), -reward[i].item()))
    kept, last = [], (torch.inf, -torch.inf)
    for i in order:
        run = (kl[i].item(), reward[i].item())
        kept.append(run[1] > last[1] or run == last)
        last = run if kept[-1] else last
    return torch.tensor(kept)


def pareto_sorted_by_kl_alone(kl: Tensor, reward: Tensor) -> Tensor:
    """Of runs with equal KL, the one that comes first stays."""
    keep, best = torch.zeros(len(kl), dtype=torch.bool), -torch.inf
    for i in kl.argsort().tolist():
        keep[i] = bool(reward[i] >= best)
        best = max(best, reward[i].item())
    return keep


def beta_with_1_96_errors(betas: Tensor, kl: Tensor, reward: Tensor, budget: float) -> float:
    """What every statistics course says, and not this rule."""
    upper = kl.mean(0) + 1.96 * kl.std(0) / kl.shape[0] ** 0.5
    return betas[torch.where(upper <= budget, reward.mean(0), -torch.inf).argmax()].item()


def pass_with_replacement(correct: Tensor, n: int, k: int) -> Tensor:
    """Each try draws from all n."""
    return 1 - torch.stack([1 - correct / n] * k).prod(0)


def pass_of_an_upside_down_quotient(correct: Tensor, n: int, k: int) -> Tensor:
    """All sets over those without a right answer."""
    none = torch.tensor([float(math.comb(n - c, k)) for c in correct.tolist()])
    return 1 - torch.where(none > 0, math.comb(n, k) / none, 0.0)


def token_loss_with_log_ratios_clipped(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, clip_low: float, clip_high: float
) -> Tensor:
    """exp(clip(d)), not clip(exp(d))."""
    d, weight = (log_probs - old_log_probs)[mask], advantages[:, None].expand_as(mask)[mask]
    return -torch.minimum(d.exp() * weight, d.clamp(-clip_low, clip_high).exp() * weight).mean()


def token_loss_between_the_epsilons(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, clip_low: float, clip_high: float
) -> Tensor:
    """The ratio is held between 0.2 and 0.28: the lower end hardly ever acts."""
    ratio, weight = (log_probs - old_log_probs)[mask].exp(), advantages[:, None].expand_as(mask)[mask]
    return -torch.minimum(ratio * weight, ratio.clamp(clip_low, clip_high) * weight).mean()


def success_with_one_mean_kl(p: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """The second result is averaged over the prompts."""
    best = torch.sigmoid(p.logit() + 1 / beta)
    kl = torch.xlogy(best, best / p) + torch.xlogy(1 - best, (1 - best) / (1 - p))
    return best, kl.mean()


def orpo_that_pushes_down_twice(chosen: Tensor, rejected: Tensor, lam: float) -> Tensor:
    """The rejected answer stands in the SFT term as well."""
    odds = [x - torch.log(-torch.expm1(x)) for x in (chosen, rejected)]
    return rejected - chosen + lam * F.softplus(odds[1] - odds[0])


def _thumbs(log_ref, wins, beta, rate, steps, z0_of, loss_of):
    theta = log_ref.clone().requires_grad_()
    adam = torch.optim.Adam([theta], lr=rate)
    z0 = None
    for _ in range(steps):
        log_pi = theta.log_softmax(-1)
        h = log_pi - log_ref
        z0 = z0_of(h.detach(), log_pi.detach(), z0)
        adam.zero_grad()
        loss_of(log_ref.exp(), log_pi.exp().detach(), wins, torch.sigmoid(beta * (h - z0))).backward()
        adam.step()
    return theta.detach().log_softmax(-1)


def thumbs_of_own_answers(log_ref: Tensor, wins: Tensor, beta: float, rate: float, steps: int) -> Tensor:
    """Draws the answers from the policy."""
    return _thumbs(log_ref, wins, beta, rate, steps, lambda h, log_pi, z: (log_pi.exp() * h).sum(),
                   lambda ref, pi, w, s: (pi * (w * (1 - s) + (1 - w) * s)).sum())  # fmt: skip


def thumbs_with_a_logarithm(log_ref: Tensor, wins: Tensor, beta: float, rate: float, steps: int) -> Tensor:
    """A cross-entropy in place of the straight line in σ."""
    return _thumbs(log_ref, wins, beta, rate, steps, lambda h, log_pi, z: (log_pi.exp() * h).sum(),
                   lambda ref, pi, w, s: -(ref * (w * s.log() + (1 - w) * (1 - s).log())).sum())  # fmt: skip


def thumbs_with_the_largest_ratio(log_ref: Tensor, wins: Tensor, beta: float, rate: float, steps: int) -> Tensor:
    """Compares with the answer that has gained most."""
    return _thumbs(log_ref, wins, beta, rate, steps, lambda h, log_pi, z: h.max(),
                   lambda ref, pi, w, s: (ref * (w * (1 - s) + (1 - w) * s)).sum())  # fmt: skip


WRONG_ANSWERS: dict[str, list[object]] = {
    "nb00.q1": [
        agreement_on_a_only,
        agreement_of_the_whole_lists,
        agreement_in_percent,
        agreement_of_ten,
        agreement_by_correlation,
    ],
    "nb00.q2": [
        kappa_without_both_b,
        kappa_against_a_coin,
        kappa_with_pooled_share,
        kappa_never_negative,
        kappa_without_its_sign,
        kappa_of_one_annotator,
        kappa_as_a_correlation,
        kappa_over_the_observed_room,
        kappa_with_whole_shares,
    ],
    "nb00.q3": [
        agreement_of_the_mean,
        agreement_with_the_majority,
        agreement_of_rounded_shares,
        agreement_in_the_middle,
        every_pairs_agreement,
    ],
    "nb00.q4": [rates_of_all_requests, shares_of_the_refused, numbers_of_refusals, rate_on_harm_only],
    "nb00.q6": [
        sampler_by_torch,
        sampler_rounds_down,
        sampler_with_gumbels,
        sampler_with_the_square_of_the_temperature,
        sampler_that_keeps_the_end_out,
        sampler_in_reverse,
    ],
    "nb01.q1": [
        softmax_over_the_batch,
        probability_of_a_bell_curve,
        probability_by_tanh,
        probability_of_elo,
        probability_from_odds,
        average_probability,
        probability_of_b_by_exponentials,
    ],
    "nb01.q2": [
        ranking_against_those_already_placed,
        ranking_with_one_denominator,
        ranking_below_the_highest,
        ranking_of_the_sorted,
        ranking_along_the_batch,
        ranking_by_running_sums,
    ],
    "nb01.q3": [
        loss_saved_by_an_epsilon,
        margin_outside_the_sigmoid,
        loss_of_a_hinge,
        loss_with_the_target_of_the_loser,
        loss_within_limits,
    ],
    "nb01.q4": [gradient_of_the_wins_only, gradient_of_net_comparisons, gradient_for_sixty],
    "nb01.q5": [
        strengths_from_win_shares,
        strengths_not_in_logs,
        strengths_with_a_step_of_one_pair,
        strengths_with_unit_spread,
        strengths_with_a_penalty,
        strengths_after_ten_steps,
        strengths_downhill,
    ],
    # the arrows connect all answers in these tables, but only if you ignore where they point
    "nb01.q6": [{"A", "B", "D", "E"}, {"A", "B", "C", "D", "E"}, {"A", "B", "E"}, {"A", "B"}],  # too many, or too few
    "nb02.q1": [
        length_minus_one,
        column_after_the_last,
        steps_from_the_right,
        before_the_first_padding,
        first_real_token,
        every_last_column,
        column_of_the_longest_row,
    ],
    "nb02.q2": [
        head_on_the_last_column,
        head_without_bias,
        head_on_the_mean,
        head_for_every_pair_of_rows,
        head_squeezed_into_a_probability,
        head_one_token_early,
        score_without_a_batch_of_one,
        score_of_the_best_token,
        score_of_a_unit_vector,
        score_without_a_sum,
    ],
    "nb02.q3": [
        loss_of_neighbours,
        loss_over_all_scores,
        loss_of_each_score_alone,
        loss_as_typed,
        log_likelihood_to_be_minimised,
        loss_of_all_against_all,
        loss_over_both_answers,
    ],
    "nb02.q4": [
        ceiling_of_the_first_answer,
        ceiling_of_the_mean,
        ceiling_of_two_annotators,
        ceiling_without_noise,
        ceiling_clamped_at_a_half,
        bayes_error,
        ceiling_of_sure_pairs,
        ceiling_half_way,
    ],
    "nb02.q6": [
        stop_at_a_clear_gain_only,
        stop_on_a_mean_of_two_looks,
        stop_and_name_the_next_look,
        stop_and_average,
        stop_after_the_whole_training,
        stop_at_the_first_that_is_good,
    ],
    "nb03.q1": [
        kl_the_other_way,
        kl_as_it_stands,
        kl_with_a_floor,
        kl_that_hides_nan_and_inf,
        kl_of_common_answers,
        kl_with_fixed_weights,
        kl_as_a_number,
        kl_both_ways,
        kl_in_bits,
    ],
    "nb03.q2": [
        objective_with_reference_reward,
        objective_with_the_leash_on_the_reward,
        objective_without_a_leash_to_feel,
        objective_of_a_frozen_policy,
        objective_with_log_weights,
        objective_of_the_batch,
    ],
    "nb03.q3": [
        optimum_with_its_height,
        optimum_without_the_reference_in_z,
        optimum_with_an_axis_kept,
        optimum_without_its_top,
        optimum_of_columns,
        optimum_in_another_order,
    ],
    "nb03.q4": [
        score_in_the_last_column,
        padding_multiplied_away,
        score_by_the_first_row,
        score_in_every_row,
        score_per_word,
    ],
    "nb03.q5": [
        k3_upside_down,
        estimators_in_another_order,
        estimators_with_a_straight_k2,
        estimators_as_numbers,
    ],
    # the gradient follows the value: k1 and k3 estimate the KL without bias, so they should have its gradient;
    # nothing has a gradient; every estimator has the other one
    "nb03.q6": [
        {"k1": "B", "k2": "A", "k3": "B"},
        {"k1": "A", "k2": "A", "k3": "A"},
        {"k1": "B", "k2": "B", "k3": "A"},
    ],
    "nb04.q1": [
        discounted_from_the_start,
        without_its_own_reward,
        running_sum_of_real_tokens,
        discounted_from_the_last_column,
        reward_to_go_by_the_first_mask,
        reward_to_go_that_only_collects,
    ],
    "nb04.q2": [
        gae_that_trusts_padding,
        gae_with_plain_returns,
        gae_turned_round,
        gae_with_rewards_as_targets,
        gae_in_the_other_order,
        returns_and_nothing_else,
    ],
    "nb04.q3": [
        mean_of_row_means,
        minimum_of_losses,
        loss_in_a_band_of_quotients,
        loss_of_every_token,
        loss_of_whitened_advantages,
        loss_with_a_fixed_ratio,
    ],
    # the gradient is zero wherever the ratio is outside the band; for good tokens only; for bad ones only
    "nb04.q4": [{1, 3, 4, 6}, {1, 3}, {4, 6}],
    "nb04.q5": [
        whiten_each_answer,
        whiten_with_n_minus_1,
        whiten_over_all_positions,
        whiten_without_the_small_number,
        whiten_to_a_range,
    ],
    "nb05.q1": [
        mask_of_what_is_not_eos,
        mask_up_to_the_argmax,
        mask_one_slot_too_long,
        mask_with_the_last_column,
        mask_of_the_first_answer,
    ],
    "nb05.q2": [
        rewards_with_the_penalty_added,
        rewards_without_a_score_for_unfinished,
        rewards_with_the_kl_at_the_end,
        rewards_in_the_last_column,
        rewards_whose_last_token_goes_free,
        rewards_one_slot_late_where_there_is_room,
        rewards_of_a_positive_penalty,
        rewards_per_token_of_the_answer,
        rewards_of_finished_answers,
    ],
    "nb05.q3": [
        update_without_whitening,
        update_with_value_loss_as_typed,
        update_that_subtracts_the_value_loss,
        update_with_one_half_too_many,
        update_whitened_without_the_mask,
        update_that_descends_the_surrogate,
        update_of_pairs,
    ],
    "nb05.q4": [
        beta_without_the_limit,
        beta_without_the_horizon,
        beta_that_clips_the_ratio,
        beta_as_a_factor,
        beta_with_a_bracket_around_the_target,
    ],
    # everything that is wrong from step 0 is taken for dropout's noise, and the rest guessed
    "nb05.q5": [{"A": "eos", "B": "sign", "C": "dropout", "D": "truncated", "E": "positions"}],
    "nb06.q1": [
        answer_scored_in_its_own_column,
        answer_with_the_mask_cut_like_the_logits,
        answer_without_its_first_token,
        answer_by_mean_loss,
        answer_as_a_product,
        answer_by_softmax_and_log,
        answer_of_the_likeliest_words,
    ],
    "nb06.q2": [
        implicit_reward_as_quotient,
        implicit_reward_with_probabilities,
        implicit_reward_through_probabilities,
        implicit_reward_never_below_zero,
    ],
    "nb06.q3": [
        loss_with_beta_in_front,
        loss_of_model_against_reference,
        loss_with_hinge,
        loss_with_detached_rewards,
        loss_through_probabilities,
        loss_with_policy_and_reference_swapped,
        loss_with_beta_on_the_policy,
        loss_with_half_a_bracket,
    ],
    "nb06.q4": [weight_of_the_ranking, weight_of_rejected_alone, weight_by_tanh],
    "nb06.q5": [
        variants_with_a_squared_margin,
        variants_with_one_minus_sigmoid_forgotten,
        variants_with_label_smoothing_halved,
        variants_robust,
        variants_with_one_minus_the_logarithm,
    ],
    "nb08.q1": [
        template_with_an_ended_reply,
        template_with_double_spaces,
        template_that_replies_to_users_only,
        template_with_a_space_behind_each_turn,
        template_with_a_space_before_each_turn,
        template_in_capitals,
        template_of_two_speakers,
        template_without_system,
        template_with_contents_as_they_are,
    ],
    "nb08.q2": [
        mask_up_to_the_next_marker,
        mask_of_finished_answers,
        mask_as_numbers,
        mask_with_one_switch_for_all_rows,
        mask_summed_over_the_batch,
        mask_up_to_the_last_end,
    ],
    "nb08.q3": [
        table_of_the_better_mean,
        table_with_binomial_errors,
        table_with_all_prompts_in_the_root,
        table_of_paired_answers,
        table_against_all_prompts,
        table_above_the_average,
        table_with_any_refusal,
        table_with_all_in_the_last_row,
        table_with_the_error_first,
        table_with_the_root_of_the_answers,
    ],
    "nb07.q1": [
        pareto_by_running_maximum,
        pareto_of_the_best_ratio,
        pareto_that_asks_for_both,
        pareto_if_better_in_one,
        pareto_by_reward_per_nat,
        pareto_as_numbers,
        pareto_in_sorted_order,
        pareto_sorted_by_kl_alone,
    ],
    "nb07.q2": [
        wilson_with_ties_left_out,
        usual_interval_cut_at_one,
        wilson_with_its_centre,
        wilson_with_ties_missing_in_n,
        wilson_with_4n,
        wilson_for_95_per_cent_only,
        wilson_with_half_of_the_denominator,
        interval_of_agresti_and_coull,
        wilson_without_the_share,
    ],
    "nb07.q3": [
        beta_with_every_seed_inside,
        beta_with_biased_std,
        beta_by_objective,
        beta_by_a_mask_of_zeros,
        beta_by_its_place_among_the_allowed,
        beta_of_the_most_kl,
        beta_of_the_lowest_reward,
        beta_with_1_96_errors,
    ],
    "nb09.q2": [
        baseline_over_the_batch,
        baseline_of_the_next,
        baseline_of_those_before,
        baseline_of_the_other_prompts,
        baseline_by_median,
        advantages_in_one_row,
    ],
    "nb10.q1": [ipo_of_rewards, ipo_of_majorities, ipo_without_logarithm],
    "nb10.q2": [kto_with_a_hinge, kto_of_the_mean, kto_with_weights_inside],
    "nb10.q3": [thumbs_of_own_answers, thumbs_with_a_logarithm, thumbs_with_the_largest_ratio],
    "nb10.q4": [simpo_with_padded_length, simpo_with_a_hinge, simpo_with_gamma_per_token],
    "nb10.q5": [
        orpo_of_sigmoids,
        orpo_with_dpo_in_it,
        orpo_with_odds_of_the_rejected_forgotten,
        orpo_that_pushes_down_twice,
    ],
    "nb09.q1": [pass_with_replacement, pass_of_an_upside_down_quotient],
    "nb09.q3": [token_loss_with_log_ratios_clipped, token_loss_between_the_epsilons],
    "nb09.q4": [success_with_one_mean_kl],
    "nb09.q6": [
        compare_by_the_larger_error,
        compare_with_the_spread_of_seeds,
        compare_relatively,
        compare_with_one_factor_forgotten,
        compare_two_coins,
        compare_and_cut,
    ],
}
