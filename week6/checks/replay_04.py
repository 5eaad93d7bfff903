"""The first update of notebook 04's capstone, done again with one thing otherwise."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from week6.checks.bench_04 import Record
from week6.checks.counterfactual import alike
from week6.checks.steps_04 import advantages as judged


def first_policy(
    record: Record,
    *,
    advantages: Callable[[Tensor], Tensor] = lambda a: a,
    ratio: Callable[[Tensor], Tensor] = torch.exp,
    clip: float = 0.2,
    epochs: int = 8,
    rate: float = 0.1,
) -> Float[Tensor, "P V"]:
    """The policy after the first iteration, by Adam, on the answers and advantages of the record."""
    y, old, _, mask = record.batch(0)
    a = advantages(record.steps[0]["advantages"])
    policy = record.language.reference.clone().requires_grad_()
    optimizer = torch.optim.Adam([policy], lr=rate)
    for _ in range(epochs):
        rho = ratio((record.language.log_probs(policy)[y] - old) * mask)
        gain = torch.minimum(rho * a, rho.clamp(1 - clip, 1 + clip) * a)
        optimizer.zero_grad()
        (-gain[mask].mean()).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return policy.detach()


def replayed(*ways: dict[str, Any]) -> Callable[[Record], bool]:
    """Whether the first update is neither the right one nor one without a clip, and is that of one of these ways."""

    def seen(record: Record) -> bool:
        came = record.steps[0]["policy"]
        if judged(record) != "" or any(alike(came, first_policy(record, clip=clip), 1e-3) for clip in (0.2, torch.inf)):
            return False
        return any(alike(came, first_policy(record, **way), 1e-3) for way in ways)

    return seen
