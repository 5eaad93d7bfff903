"""What the gradients of notebook 04's capstone say: how each token of a batch is weighed, pass by pass.

Of the gain (27) the log-probability of a token feels ρ A, and nothing where the clip holds. The policy's tables and
what its log-probabilities felt are noted by the language, so each pass is compared with that of PPO at the same table.
"""

import functools
import itertools
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from week6.checks.bench_04 import ITERATIONS, Record
from week6.ppo import clipped_policy_loss

CLIP = 0.2
NEAR = 1e-3
"""Two gradients are the same if they differ by less, as a share of the largest."""


@dataclass(frozen=True)
class Felt:
    """One pass over a batch: the table it began with, and for each answer and token what log π felt, what it feels in
    PPO, its log ρ, how often it was drawn, and its advantage."""

    table: Float[Tensor, "P V"]
    got: Float[Tensor, "N T"]
    want: Float[Tensor, "N T"]
    log_rho: Float[Tensor, "N T"]
    drawn: Float[Tensor, "N T"]
    advantages: Float[Tensor, "N T"]

    def differs(self, scale: float) -> Bool[Tensor, "N T"]:
        """The tokens that feel something else than scale times what they should; near a clip's edge both may be."""
        edge = (self.log_rho.exp() - 1).abs().sub(CLIP).abs() < NEAR
        return ((self.got - scale * self.want).abs() > NEAR * scale * float(self.want.abs().max())) & ~edge

    @property
    def scale(self) -> float:
        """The factor between the two: what the loss was multiplied by."""
        return float((self.got * self.want).sum() / self.want.square().sum().clamp(min=1e-30))

    @property
    def along(self) -> float:
        """The cosine between the two."""
        return float(torch.nn.functional.cosine_similarity(self.got.flatten(), self.want.flatten(), dim=0))


@functools.lru_cache(maxsize=256)
def steps_of(record: Record, i: int) -> list[Felt]:
    """The passes of iteration i that brought a gradient, those at one table together."""
    if i >= len(record.passes) or not record.has("answers", "advantages", "policy"):
        return []
    y, old, _, mask = record.batch(i)
    count = torch.bincount(y, minlength=len(record.scores)).double()[:, None]
    drawn = count * record.language.mask
    advantages = torch.zeros(record.language.tokens.shape, dtype=torch.float64)
    advantages[y] = record.steps[i]["advantages"] * mask
    found = list[Felt]()
    for asked in record.passes[i]:
        if asked.felt is None or asked.felt.shape != drawn.shape:
            continue
        if found and torch.equal(found[-1].table, asked.table):
            found[-1].got.add_(asked.felt)
            continue
        everywhere = record.language.log_probs(asked.table)
        new = everywhere.clone().requires_grad_()
        loss, _ = clipped_policy_loss(new[y], old, record.steps[i]["advantages"], mask, CLIP)
        (want,) = torch.autograd.grad(loss, new)
        log_rho = everywhere - record.language.log_probs(record.before(i))
        found.append(Felt(asked.table, asked.felt.clone().double(), want, log_rho, drawn, advantages))
    return found


@functools.lru_cache(maxsize=4)
def watched(record: Record) -> bool:
    """Whether the gradients of all iterations are known."""
    return len(record.passes) >= ITERATIONS and all(steps_of(record, i) for i in range(ITERATIONS))


def first_scale(record: Record) -> float:
    """What the loss was multiplied by, from the first pass; 1 where that is not PPO's direction."""
    first = steps_of(record, 0)[0]
    return first.scale if first.along > 1 - NEAR else 1.0


@functools.lru_cache(maxsize=4)
def first_wrong(record: Record) -> tuple[int, int, Felt] | None:
    """Iteration, pass and step of the first gradient that is not PPO's; None if there is none, or none is known."""
    if not watched(record):
        return None
    scale = first_scale(record)
    for i in range(ITERATIONS):
        for j, step in enumerate(steps_of(record, i)):
            if bool(step.differs(scale).any()):
                return i, j, step
    return None


def of_table(record: Record, step: Felt) -> Float[Tensor, "P V"]:
    """The gradient that a pass brought to the table."""
    table = step.table.clone().requires_grad_()
    (found,) = torch.autograd.grad(record.language.log_probs(table), table, step.got)
    return found


@functools.lru_cache(maxsize=4)
def piles_up(record: Record) -> bool:
    """Whether in the first iterations the table holds after a pass what it held before, and what the pass brought."""
    if not watched(record):
        return False
    held = torch.zeros_like(record.language.reference)
    for i in range(2):
        for step, after in itertools.pairwise(steps_of(record, i)):
            left = next(asked.left for asked in record.passes[i] if torch.equal(asked.table, after.table))
            if left is None or not bool(left.any()):  # cleared already
                return False
            own = of_table(record, step)
            if bool(held.any()) and float((left - held - own).norm()) < 0.01 * float(own.norm()):
                return True
            held = left
    return False


@functools.lru_cache(maxsize=4)
def leaves_adam_at(record: Record) -> tuple[int, int] | None:
    """Iteration and pass of the first step that is not that of one Adam with a learning rate of 0.1, fed with the
    gradients that came; None if all are, or the gradients are not known."""
    if not watched(record):
        return None
    table = torch.nn.Parameter(steps_of(record, 0)[0].table.clone())
    optimizer = torch.optim.Adam([table], lr=0.1)
    for i in range(ITERATIONS):
        steps = steps_of(record, i)
        after = [*(step.table for step in steps[1:]), record.policies[i + 1]]
        for j, (step, came) in enumerate(zip(steps, after, strict=True)):
            table.grad = of_table(record, step)
            optimizer.step()
            if float((table.detach() - came).abs().max()) > 0.01:  # a tenth of a step
                return i, j
            table.data.copy_(came)
    return None
