"""The bench of notebook 03's capstone: the course's own solution, the problems, and the record of a call on each."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from week6.checks.capstone import Malformed, parts
from week6.checks.inspection import in_words, is_stub
from week6.objective import kl_divergence, optimal_policy

TOLERANCE = 1e-4
"Nats. The course's own bisection meets every budget to 1e-10; a tenth of this is what ten halvings more would "
"bring."


def spend_budget(
    ref_log_probs: Float[Tensor, "B N"], rewards: Float[Tensor, "B N"], budget: float
) -> dict[str, float | Tensor]:
    """The policies of highest mean reward whose mean KL to the reference is `budget` nats, and their price β.

    Returns "limit" (the mean KL for β → 0), "beta", "log_probs" (B, N) and "log_z" (B,); without "log_z" where β = 0.
    """
    reachable = rewards.masked_fill(ref_log_probs == -torch.inf, -torch.inf)
    best = reachable == reachable.max(-1, keepdim=True).values
    of_best = ref_log_probs.masked_fill(~best, -torch.inf)
    limit = -of_best.logsumexp(-1).mean().item()
    if budget >= limit:
        return {"limit": limit, "beta": 0.0, "log_probs": of_best.log_softmax(-1)}

    def spent(beta: float) -> float:
        log_probs, _ = optimal_policy(ref_log_probs, rewards, beta)
        return kl_divergence(log_probs, ref_log_probs).mean().item()

    low = high = 1.0
    while spent(low) < budget:
        low /= 2
    while spent(high) > budget:
        high *= 2
    for _ in range(60):
        beta = math.sqrt(low * high)
        low, high = (beta, high) if spent(beta) > budget else (low, beta)
    log_probs, log_z = optimal_policy(ref_log_probs, rewards, beta)
    return {"limit": limit, "beta": beta, "log_probs": log_probs, "log_z": log_z}


@dataclass(frozen=True)
class Trial:
    """One call: what went in, and what came out, as far as the answer has got (`limit` … `log_z`, else None); or what
    it `raised`, in words."""

    kind: str
    ref_log_probs: Float[Tensor, "B N"]
    rewards: Float[Tensor, "B N"]
    budget: float
    limit: float | None
    beta: Tensor | None
    log_probs: Tensor | None
    log_z: Tensor | None
    raised: str = ""

    @property
    def gives_up(self) -> bool:
        """Whether the leash was called slack, rightly or not."""
        return self.beta is not None and bool((self.beta == 0).all())

    @property
    def ours(self) -> dict[str, Any]:
        """What the course's own function returns."""
        return spend_budget(self.ref_log_probs, self.rewards, self.budget)

    @property
    def kl(self) -> Float[Tensor, " B"]:
        """KL(π ‖ π_ref) of the policies that were returned, a prompt each."""
        assert self.log_probs is not None
        return kl_of(self.log_probs, self.ref_log_probs)

    @property
    def spent(self) -> float:
        """Its mean over the prompts, in nats."""
        return self.kl.mean().item()


Record = dict[str, Trial]


def kl_of(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL without a look at whether these are distributions."""
    p = log_p.exp()
    return (p * torch.where(p > 0, log_p - log_q, 0.0)).sum(-1)


def _problems(seed: int) -> dict[str, tuple[Tensor, Tensor, float]]:
    """Three prompts with up to 30 answers: one has a best answer that the reference never gives, one has two best."""
    g = torch.Generator().manual_seed(seed)
    n = int(torch.randint(12, 31, (), generator=g))
    logits = 1.5 * torch.randn(3, n, generator=g, dtype=torch.float64)
    rewards = torch.randn(3, n, generator=g, dtype=torch.float64)
    logits[0, 2] = -torch.inf
    rewards[0, 2] = 3 + rewards[0].max()
    rewards[1, [4, 9]] = 0.5 + rewards[1].max()
    ref = logits.log_softmax(-1)
    limit = spend_budget(ref, rewards, math.inf)["limit"]
    assert isinstance(limit, float)
    part = 0.2 + 0.3 * torch.rand((), generator=g).item()
    return {
        "unspendable": (ref, rewards, limit + 0.5),
        "middle": (ref, rewards, part * limit),
        "short": (ref, rewards, 0.01),
        "long": (ref, rewards, 0.95 * limit),
        "large unit": (ref, 1000 * rewards, part * limit),
        "small unit": (ref, rewards / 1000, part * limit),
    }


def measure(answer: Callable[..., Any], seed: int) -> Record:
    """Let `answer` spend each problem's budget. An error on some of them, such as one of a search that finds no end,
    does not hide what it did with the others."""
    record, first = {}, None
    for kind, (ref, rewards, budget) in _problems(seed).items():
        try:
            returned = answer(ref.clone(), rewards.clone(), budget)
        except Exception as error:
            if is_stub(error):
                raise
            first = first or error
            record[kind] = Trial(kind, ref, rewards, budget, None, None, None, None, in_words(error, answer))
            continue
        result = parts(returned, "limit", "beta", "log_probs", "log_z")
        limit, beta, log_probs, log_z = (
            torch.as_tensor(result[name]).detach().double() if name in result else None
            for name in ("limit", "beta", "log_probs", "log_z")
        )
        if limit is not None and limit.numel() != 1:
            raise Malformed(
                f"“limit” has shape {tuple(limit.shape)}; one number, the mean over the prompts, is asked for."
            )
        if log_probs is not None and log_probs.shape != ref.shape:
            raise Malformed(f"“log_probs” has shape {tuple(log_probs.shape)}, expected {tuple(ref.shape)}.")
        number = None if limit is None else limit.item()
        record[kind] = Trial(kind, ref, rewards, budget, number, beta, log_probs, log_z)
    if first and all(trial.raised for trial in record.values()):
        raise first
    return record


SPENDABLE = ("middle", "short", "long")
UNITS = ("large unit", "small unit")
