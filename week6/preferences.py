"""Bradley–Terry and Plackett–Luce: from rewards to preferences, and from comparisons back to rewards.

Bradley & Terry (1952), "Rank analysis of incomplete block designs"; Luce (1959); Plackett (1975).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from week6.machine import validate as check


@check.arguments
def preference_probability(
    reward_a: Float[Tensor, "*B"] | float, reward_b: Float[Tensor, "*B"] | float
) -> Float[Tensor, "*B"]:
    """Probability that answer a is preferred to answer b (Bradley–Terry 1952).

        p(a ≻ b) = exp(r_a) / (exp(r_a) + exp(r_b)) = σ(r_a − r_b)

    Rewards are in reward units: one unit multiplies the odds by e. Only the difference matters. Raises ValueError for
    other shapes and for rewards that are NaN or infinite.
    """
    check.broadcast(reward_a=reward_a, reward_b=reward_b)
    difference = torch.as_tensor(reward_a - reward_b)
    check.finite(difference, reward_a=reward_a, reward_b=reward_b)
    return torch.sigmoid(difference)


@check.arguments
def bradley_terry_loss(
    chosen: Float[Tensor, "*B"], rejected: Float[Tensor, "*B"], margin: Float[Tensor, "*B"] | float = 0.0
) -> Float[Tensor, ""]:
    """Mean negative log-likelihood of the observed preferences, in nats.

        L = −mean log σ(r_w − r_l − m)

    `chosen` and `rejected` are the rewards r_w and r_l of the preferred and the other answer. The margin m is a
    number or one per pair (Touvron et al. 2023, Llama 2, eq. 2). `logsigmoid` keeps it finite at |Δ| = 1e4.
    Raises ValueError for different shapes, an empty batch, NaN or infinities.
    """
    check.same_shape(chosen=chosen, rejected=rejected)
    if chosen.numel() == 0:
        raise ValueError("chosen: got an empty batch, expected at least one pair")
    if isinstance(margin, Tensor) and margin.ndim:
        check.same_shape(chosen=chosen, margin=margin)
    check.finite(chosen - rejected - margin, chosen=chosen, rejected=rejected, margin=margin)
    return -F.logsigmoid(chosen - rejected - margin).mean()


@check.arguments
def plackett_luce_log_prob(rewards: Float[Tensor, "*B K"]) -> Float[Tensor, "*B"]:
    """Log-probability of a ranking, `rewards` listed best first (Luce 1959, Plackett 1975), in nats.

        log p = Σ_k [ r_k − log Σ_{j ≥ k} exp(r_j) ]

    Each place is a softmax choice among the candidates that are left. With K = 2 it is Bradley–Terry.
    """
    if rewards.ndim == 0 or rewards.shape[-1] == 0:
        raise ValueError(f"rewards: got shape {tuple(rewards.shape)}, expected (..., K) with K ≥ 1")
    check.finite(rewards, rewards=rewards)
    log_sum_of_rest = rewards.flip(-1).logcumsumexp(-1).flip(-1)
    return (rewards - log_sum_of_rest).sum(-1)


@check.arguments
def fit_bradley_terry(wins: Float[Tensor, "n n"] | Int[Tensor, "n n"], l2: float = 0.0) -> Float[Tensor, " n"]:
    """Strengths that maximise the likelihood of a table of comparisons; `wins[i, j]` counts i beating j.

        maximise Σ_ij wins_ij log σ(r_i − r_j) − (l2 / 2) Σ_i r_i²      subject to Σ_i r_i = 0

    Solved by Newton's method in float64 with step halving; the result sums to 0 because a common shift changes
    nothing. Without `l2` a finite maximum exists only if every split of the players into two groups has a win in both
    directions (Ford 1957): otherwise ValueError.
    """
    check.has_dims("wins", wins, 2, "(n, n)")
    if wins.shape[0] != wins.shape[1] or len(wins) == 0:
        raise ValueError(f"wins: got shape {tuple(wins.shape)}, expected a square table (n, n)")
    check.no_nan(wins=wins)
    if (wins < 0).any() or wins.diagonal().any() or not torch.isfinite(wins).all():
        raise ValueError(
            f"wins: got values from {wins.min():g} to {wins.max():g} and {wins.diagonal().tolist()} on the diagonal, "
            "expected finite counts ≥ 0 and zeros there"
        )
    check.count("l2", l2)
    if l2 == 0 and not _strongly_connected(wins > 0):
        raise ValueError(
            "wins: no finite maximum likelihood: some group of players never loses to the rest, or never meets it "
            "(Ford 1957). Collect more comparisons or set l2 > 0"
        )
    counts = wins.double()
    played = counts + counts.T
    rewards = torch.zeros(len(counts), dtype=torch.float64)
    # The likelihood is flat along (1, …, 1); this constant curvature makes Newton's matrix invertible and,
    # as the gradient has no part along it, keeps the sum at zero.
    flat = torch.ones_like(counts) / len(counts)

    def log_likelihood(r: Tensor) -> Tensor:
        return (counts * F.logsigmoid(r[:, None] - r[None, :])).sum() - l2 / 2 * (r**2).sum()

    for _ in range(200):
        p = torch.sigmoid(rewards[:, None] - rewards[None, :])
        gradient = (counts - played * p).sum(1) - l2 * rewards
        if gradient.abs().max() <= 1e-11 * max(1.0, float(counts.sum())):
            break
        weight = played * p * (1 - p)
        curvature = torch.diag(weight.sum(1) + l2) - weight
        direction = torch.linalg.solve(curvature + flat, gradient)
        step, before = 1.0, log_likelihood(rewards)
        lower = before - 1e-13 * before.abs()  # by more than rounding
        while step > 1e-10 and log_likelihood(rewards + step * direction) < lower:
            step /= 2
        rewards = rewards + step * direction
    return (rewards - rewards.mean()).to(torch.get_default_dtype() if not wins.is_floating_point() else wins.dtype)


def _strongly_connected(beats: Bool[Tensor, "n n"]) -> bool:
    """Whether every player can be reached from every other along wins (closure by squaring)."""
    reach = beats | torch.eye(len(beats), dtype=torch.bool)
    for _ in range(max(1, len(beats).bit_length())):
        reach = (reach.float() @ reach.float()) > 0
    return bool(reach.all())


@check.arguments
def sample_preferences(
    reward_a: Float[Tensor, "*B"] | float,
    reward_b: Float[Tensor, "*B"] | float,
    generator: torch.Generator | None = None,
) -> Bool[Tensor, "*B"]:
    """Simulated Bradley–Terry annotators: True where a was preferred, with probability σ(r_a − r_b)."""
    return torch.bernoulli(preference_probability(reward_a, reward_b), generator=generator).bool()


@check.arguments
def bayes_accuracy(probability: Float[Tensor, "*B"]) -> Float[Tensor, ""]:
    """Accuracy of a judge who knows each p(a ≻ b) and bets on the likelier side: mean max(p, 1 − p).

    No reward model can agree more often with annotators who are this noisy: the Bayes ceiling.
    """
    check.filled(probability=probability)
    if ((probability < 0) | (probability > 1) | torch.isnan(probability)).any():
        raise ValueError("probability: got values outside [0, 1], expected probabilities")
    return torch.maximum(probability, 1 - probability).mean()
