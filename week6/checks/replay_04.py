"""The first update of notebook 04's capstone, done again with one thing otherwise."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from week6.checks.bench_04 import Record
from week6.checks.counterfactual import alike
from week6.ppo import clipped_policy_loss


def first_policy(
    record: Record,
    *,
    epochs: int = 8,
    rate: float = 0.1,
    make: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
    forgets: bool = False,
    zeros: bool = False,
) -> Float[Tensor, "P V"]:
    """The policy after the first iteration, on the answers and advantages of the record; `forgets`: a new optimizer in
    each step; `zeros`: from a policy to which all tokens are alike."""
    y, old, _, mask = record.batch(0)
    policy = (0 if zeros else 1) * record.language.reference.clone()
    policy.requires_grad_()
    optimizer = make([policy], lr=rate)
    for _ in range(epochs):
        if forgets:
            optimizer = make([policy], lr=rate)
        new = record.language.log_probs(policy)[y]
        loss, _ = clipped_policy_loss(new, old, record.steps[0]["advantages"], mask, clip=0.2)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return policy.detach()


@functools.lru_cache(maxsize=4)
def _is_right(record: Record) -> bool:
    """Whether the first update is the right one."""
    return alike(record.steps[0]["policy"], first_policy(record), 1e-3)


def replayed(ways: Sequence[dict[str, Any]]) -> Callable[[Record], bool]:
    """Whether the first update is not right, and is that of one of these ways."""

    def seen(record: Record) -> bool:
        came = record.steps[0]["policy"]
        near = min(1e-3, 0.02 * float((came - record.language.reference).abs().max()))
        return not _is_right(record) and any(alike(came, first_policy(record, **way), near) for way in ways)

    return seen


def first_critic(
    record: Record,
    *,
    target: Callable[[Record], Tensor] = lambda record: record.steps[0]["returns"],
    rows: Callable[[Record], Tensor] = lambda record: record.language.rows[record.steps[0]["answers"]],
    loss: Callable[[Tensor, Tensor], Tensor] = lambda values, target: (values - target).square(),
    masked: bool = True,
    epochs: int = 8,
    rate: float = 0.1,
    held: float = torch.inf,
) -> Float[Tensor, " P"]:
    """The critic after the first iteration, by Adam from zeros; the value clip holds its values within `held`."""
    mask = record.batch(0)[3] if masked else torch.ones_like(record.batch(0)[3])
    where, want = rows(record), target(record)
    critic = torch.zeros(len(record.language.reference), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([critic], lr=rate)
    for _ in range(epochs):
        values = critic[where]
        error = torch.maximum(loss(values, want), loss(values.clamp(-held, held), want))
        optimizer.zero_grad()
        error[mask].mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return critic.detach()


def critic_is_right(record: Record) -> bool:
    """Whether the critic's first table is the right one, with a value clip or without."""
    came = record.steps[0]["values"]
    return any(alike(came, first_critic(record, held=held), 1e-3) for held in (0.2, torch.inf))


def trained_by(ways: Sequence[dict[str, Any]]) -> Callable[[Record], bool]:
    """Whether the critic's first table is not the right one, and is that of one of these ways, clipped or not."""

    def seen(record: Record) -> bool:
        came = record.steps[0]["values"]
        return not critic_is_right(record) and any(
            alike(came, first_critic(record, **way, held=held), 1e-3) for way in ways for held in (0.2, torch.inf)
        )

    return seen
