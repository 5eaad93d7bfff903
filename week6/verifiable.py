"""Rewards that are 0 or 1: how good a policy is with k tries, and how good the best one is at a price β.

To a prompt the policy gives a right answer with probability p, its pass rate. Everything here is a function of such
numbers, in float64; no model.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from week6.machine import validate as check


@check.arguments
def pass_at_k(correct: Int[Tensor, " M"], n: int, k: int) -> Float[Tensor, " M"]:
    """P(at least one of k answers is right) for each of M prompts, from n answers of which `correct` were right.

        pass@k = 1 − C(n − c, k)/C(n, k) = 1 − Π_{i=0}^{k−1} (n − c − i)/(n − i)

    The share of all sets of k of the n answers that hold a right one: the unbiased estimate of 1 − (1 − p)^k (Chen et
    al. 2021, section 2.1). With the share c/n in place of p the latter is biased, too low for k > 1. Raises
    ValueError unless 1 ≤ k ≤ n and 0 ≤ c ≤ n.
    """
    check.whole("n", n)
    check.whole("k", k)
    if k > n:
        raise ValueError(f"k: got {k}, expected at most n = {n} answers")
    if not ((correct >= 0) & (correct <= n)).all():
        raise ValueError(f"correct: got {correct.min()} to {correct.max()}, expected counts from 0 to n = {n}")
    i = torch.arange(k, dtype=torch.float64)
    wrong = (n - correct.double()).unsqueeze(-1)
    return 1 - ((wrong - i).clamp_min(0) / (n - i)).prod(-1)


@check.arguments
def best_success(p: Float[Tensor, "*S"], beta: float) -> tuple[Float[Tensor, "*S"], Float[Tensor, "*S"]]:
    """Pass rate of π* and its KL to the reference in nats, where the reference has pass rate p and the reward is 0/1.

        p* = p e^{1/β} / (1 − p + p e^{1/β}),      KL(π* ‖ π_ref) = p* log(p*/p) + (1 − p*) log((1 − p*)/(1 − p))

    π* multiplies all right answers by one factor and all wrong ones by another: what they are like among themselves
    stays, and the KL is that between two coins. p = 0 and p = 1 stay where they are, at no distance. Raises
    ValueError for β ≤ 0 or a p outside [0, 1].
    """
    check.positive("beta", beta)
    _probabilities(p=p)
    p = p.double()
    best = torch.sigmoid(torch.logit(p) + 1 / beta)
    return best, coin_kl(best, p)


@check.arguments
def coin_kl(q: Float[Tensor, "*S"], p: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
    """KL between a coin that shows heads with probability q and one with p, in nats: q log q/p + (1−q) log (1−q)/(1−p).

    0 log 0 is 0; infinite where p rules out what q allows.
    """
    check.same_shape(q=q, p=p)
    _probabilities(q=q, p=p)
    q, p = q.double(), p.double()
    return torch.xlogy(q, q) - torch.xlogy(q, p) + torch.xlogy(1 - q, 1 - q) - torch.xlogy(1 - q, 1 - p)


def _probabilities(**values: Tensor) -> None:
    for name, value in values.items():
        if not ((value >= 0) & (value <= 1)).all():
            raise ValueError(f"{name}: got {value.min().item()} to {value.max().item()}, expected probabilities")
