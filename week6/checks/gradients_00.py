"""What the gradients of notebook 00's capstone say: which tokens count in a loss, and how much.

Of a loss −Σ w log π the logits before a token feel the gradient w (π − e), with e = 1 at the token that came. So w can
be read from the gradient, token by token, whatever the loss was written like.
"""

import functools
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from week6.checks.bench_00 import Imitation, Pass

EQUAL = 1e-3
"""Two weights are equal if they differ by less, as a share of the largest: they are read in float32."""


@dataclass(frozen=True)
class Reading:
    """The gradient of one step.

    weights     (B, L − 1)  w of each token that has a forecast
    rest        (B, L)      the size of what is no gradient of log π of the tokens that came, in each column
    mask        (B, L − 1)  True at the tokens of the answers
    log_probs   (B, L − 1)  log π of the tokens
    felt        (B, L − 1)  the size of π − e: where it is nearly 0, no weight can be read
    beside      the size of what reached the weights past the logits
    """

    weights: Float[Tensor, "B T"]
    rest: Float[Tensor, "B L"]
    mask: Bool[Tensor, "B T"]
    log_probs: Float[Tensor, "B T"]
    felt: Float[Tensor, "B T"]
    beside: float

    @property
    def size(self) -> float:
        """The largest weight."""
        return float(self.weights.abs().max())

    @property
    def counted(self) -> Bool[Tensor, "B T"]:
        """The tokens that count."""
        return self.weights.abs() > EQUAL * self.size

    @property
    def of_tokens(self) -> bool:
        """Whether the gradient is all of log π of the tokens that came, and reached the weights by the logits alone."""
        return self.size > 0 and float(self.rest.max()) < 0.01 * self.size and self.beside < 0.01 * self.size

    @property
    def right(self) -> bool:
        """Whether each token of the answers has the weight of (2), and no other has any."""
        want = self.mask / self.mask.sum()
        return self.of_tokens and float(((self.weights - want) * self.felt).abs().max()) < 0.01 * float(want.max())


def asked_rightly(record: Imitation, step: int) -> bool:
    """Whether every text that the model was asked about in a step is one of its demonstrations, or its beginning."""
    rows = record.ids[record.parts[step]["rows"]]
    return all(
        asked.ids.ndim == 2 and bool((asked.ids[:, None] == rows[None, :, : asked.ids.shape[1]]).all(-1).any(1).all())
        for asked in record.passes[step]
    )


@functools.lru_cache(maxsize=512)
def reading(record: Imitation, step: int) -> Reading | None:
    """The gradient of a step, or None where none reached the logits or the model was asked about other texts."""
    if step >= len(record.parts) or step >= len(record.passes) or not asked_rightly(record, step):
        return None
    rows = record.parts[step]["rows"]
    ids, felt = record.ids[rows], [asked for asked in record.passes[step] if asked.of_logits is not None]
    if not felt:
        return None
    table = record.at(step)
    gradient = torch.zeros(*ids.shape, table.shape[1])
    for asked in felt:
        _add(gradient, asked, ids)
    log_pi = table[ids].log_softmax(-1)[:, :-1]
    came = ids[:, 1:].unsqueeze(-1)
    way = log_pi.exp().scatter_add(-1, came, -torch.ones(came.shape))
    weights = (gradient[:, :-1] * way).sum(-1) / way.square().sum(-1).clamp(min=1e-12)
    rest = torch.cat([gradient[:, :-1] - weights.unsqueeze(-1) * way, gradient[:, -1:]], 1).norm(dim=-1)
    return Reading(
        weights,
        rest,
        record.is_answer[rows][:, 1:],
        log_pi.gather(-1, came).squeeze(-1),
        way.norm(dim=-1),
        _past_the_logits(record, step) if step == 0 else 0.0,
    )


def _add(gradient: Tensor, asked: Pass, ids: Tensor) -> None:
    """Add what the logits of a pass felt, each text's to the first of its rows that has had none yet."""
    assert asked.of_logits is not None  # for mypy: the caller has looked
    length, free = asked.ids.shape[1], torch.ones(len(ids), dtype=torch.bool)
    for text, felt in zip(asked.ids, asked.of_logits, strict=True):
        alike = (ids[:, :length] == text).all(1)
        row = int(((alike & free) if bool((alike & free).any()) else alike).int().argmax())
        free[row] = False
        gradient[row, :length] += felt


def _past_the_logits(record: Imitation, step: int) -> float:
    """The size of what the weights hold after a step and its own logits did not bring; 0 if that cannot be told."""
    held = record.passes[step][-1].of_table
    own = torch.zeros_like(record.tables[0])
    for asked in record.passes[step]:
        if asked.of_logits is not None:
            own.index_put_((asked.ids.flatten(),), asked.of_logits.flatten(0, 1), accumulate=True)
    return 0.0 if held is None else float((held - own).norm())


@functools.lru_cache(maxsize=4)
def wrong_at(record: Imitation) -> int | None:
    """The first step whose gradient is not that of (2), or None."""
    reads = ((step, reading(record, step)) for step in range(len(record.parts)))
    return next((step for step, read in reads if read is not None and not read.right), None)


@functools.lru_cache(maxsize=4)
def piles_up(record: Imitation) -> bool:
    """Whether every step's own gradient is right, and in some step the weights hold more than that."""
    known = all(reading(record, step) is not None for step in range(len(record.parts)))
    return (
        known
        and wrong_at(record) is None
        and any(_past_the_logits(record, step) > 0.01 for step in range(len(record.parts)))
    )
