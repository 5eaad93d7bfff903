"""The RLHF objective: reward minus β·KL to the reference, its exact optimum, and what can be estimated from samples.

    J(π) = E_{y∼π}[r(y)] − β KL(π ‖ π_ref)          (Ziegler et al. 2019; Ouyang et al. 2022, InstructGPT)

Distributions are given by log-probabilities over all N answers of an enumerated world. KL is in nats, β in reward
units per nat. All functions take and return tensors and know no model.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from week6.machine import validate as check


@check.arguments
def kl_divergence(log_p: Float[Tensor, "*B N"], log_q: Float[Tensor, "*B N"], dim: int = -1) -> Float[Tensor, "*B"]:
    """KL(p ‖ q) = Σ p (log p − log q) in nats, ≥ 0; infinite where q is zero and p is not.

    The order matters: p is the distribution the answers come from. Answers with p = 0 count as 0. Raises ValueError
    for numbers that are no log-probabilities of a distribution along `dim`: probabilities, for example.
    """
    check.same_shape(log_p=log_p, log_q=log_q)
    check.axis("dim", dim, log_p)
    check.log_probabilities("log_p", log_p, dim)
    check.log_probabilities("log_q", log_q, dim)
    p = log_p.exp()
    # The where stands inside, so that the gradient at p = 0 is 0 and not 0 · ∞ = NaN.
    return (p * torch.where(p > 0, log_p - log_q, 0.0)).sum(dim)


@check.arguments
def kl_estimators(
    log_probs: Float[Tensor, "*B"], ref_log_probs: Float[Tensor, "*B"]
) -> tuple[Float[Tensor, "*B"], Float[Tensor, "*B"], Float[Tensor, "*B"]]:
    """Schulman's three estimates of KL(π ‖ π_ref) from samples of π (Schulman 2020, "Approximating KL divergence").

        d = log π − log π_ref;    k1 = d,    k2 = d² / 2,    k3 = exp(−d) − 1 + d

    Under y ∼ π: E[k1] = E[k3] = KL; k2 is biased but small where π ≈ π_ref; k2, k3 ≥ 0. As *losses* they differ: the
    expected gradient of k1 is zero, that of k2 is the gradient of KL(π ‖ π_ref), that of k3 the one of
    KL(π_ref ‖ π). Summed over an answer's tokens first, or per token: the shape is kept.
    """
    check.same_shape(log_probs=log_probs, ref_log_probs=ref_log_probs)
    d = log_probs - ref_log_probs
    check.finite(d, log_probs=log_probs, ref_log_probs=ref_log_probs)
    return d, d**2 / 2, torch.expm1(-d) + d


@check.arguments
def optimal_policy(
    ref_log_probs: Float[Tensor, "*B N"], rewards: Float[Tensor, "*B N"], beta: float
) -> tuple[Float[Tensor, "*B N"], Float[Tensor, "*B"]]:
    """The policy that maximises J, and log Z: π*(y) = π_ref(y) exp(r(y)/β) / Z.

    From J(π) = β log Z − β KL(π ‖ π*): the KL is least, zero, at π = π* (Korbak et al. 2022; Rafailov et al. 2023,
    DPO, eq. 4). Returns (log π* (..., N), log Z (...)). Raises ValueError for β ≤ 0, NaN, or ref_log_probs that are not
    a distribution.
    """
    check.positive("beta", beta)
    check.same_shape(ref_log_probs=ref_log_probs, rewards=rewards)
    check.log_probabilities("ref_log_probs", ref_log_probs)
    check.finite(rewards / beta, rewards=rewards)
    weighted = ref_log_probs + rewards / beta
    log_z = weighted.logsumexp(-1)
    return weighted - log_z.unsqueeze(-1), log_z


@check.arguments
def rlhf_objective(
    log_probs: Float[Tensor, "*B N"], ref_log_probs: Float[Tensor, "*B N"], rewards: Float[Tensor, "*B N"], beta: float
) -> Float[Tensor, "*B"]:
    """J(π) = Σ π(y) r(y) − β KL(π ‖ π_ref), in reward units."""
    check.positive("beta", beta)
    check.same_shape(log_probs=log_probs, ref_log_probs=ref_log_probs, rewards=rewards)
    check.log_probabilities("log_probs", log_probs)
    check.log_probabilities("ref_log_probs", ref_log_probs)
    check.finite(rewards, rewards=rewards)
    return (log_probs.exp() * rewards).sum(-1) - beta * kl_divergence(log_probs, ref_log_probs)


@check.arguments
def best_of_n_policy(
    ref_log_probs: Float[Tensor, "*B N"], rewards: Float[Tensor, "*B N"], n: int
) -> Float[Tensor, "*B N"]:
    """Log-probabilities of best-of-n: draw n answers from π_ref and keep one with the highest reward. Exact.

        P(best has reward r) = F(r)ⁿ − F(r⁻)ⁿ,      F(r) = Σ_{r(y) ≤ r} π_ref(y)

    F(r⁻) leaves out the answers with reward exactly r. Among answers of equal reward that probability is shared in
    proportion to π_ref. Answers that π_ref never gives keep probability 0.
    """
    check.whole("n", n)
    check.same_shape(ref_log_probs=ref_log_probs, rewards=rewards)
    check.log_probabilities("ref_log_probs", ref_log_probs)
    check.finite(rewards, rewards=rewards)
    order = rewards.argsort(-1)
    sorted_rewards = rewards.gather(-1, order).contiguous()
    cumulative = ref_log_probs.gather(-1, order).logcumsumexp(-1)
    cumulative = cumulative - cumulative[..., -1:]  # ends at exactly log 1 = 0
    nothing = torch.full_like(cumulative[..., :1], -torch.inf)
    cumulative = torch.cat([nothing, cumulative], dim=-1)  # log F of the first k sorted answers, k = 0 … N
    log_below = cumulative.gather(-1, torch.searchsorted(sorted_rewards, rewards.contiguous(), side="left"))
    log_up_to = cumulative.gather(-1, torch.searchsorted(sorted_rewards, rewards.contiguous(), side="right"))
    # log(F(r)ⁿ − F(r⁻)ⁿ) and log(F(r) − F(r⁻)), both with F(r) factored out so that nothing underflows
    d = log_below - log_up_to
    log_wins = n * log_up_to + torch.log(-torch.expm1(n * d))
    log_level = log_up_to + torch.log(-torch.expm1(d))
    result = ref_log_probs - log_level + log_wins
    return torch.where(ref_log_probs == -torch.inf, -torch.inf, result)


@check.arguments
def best_of_n_kl_bound(n: int) -> float:
    """log n − (n − 1)/n: an upper bound on KL(best-of-n ‖ π_ref) in nats (Beirami et al. 2024).

    Equal to the KL where all rewards differ and no single answer has much probability.
    """
    check.whole("n", n)
    return math.log(n) - (n - 1) / n
