"""Counterfactuals: what a part of an answer would be, had one certain mistake been made.

A part that is wrong, and equals number for number what a mistake makes of it, names that mistake. What equals none of
them names nothing, so that no diagnosis is a guess.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch

from week6.checks.capstone import Symptom
from week6.checks.judging import plain

NUMBERS = 1e-4
"""How far two numbers may be apart, as a share of their size: two ways to compute one in float32 differ by less."""


def alike(came: Any, other: Any, tolerance: float = NUMBERS) -> bool:
    """Whether two tables have the same shape and agree at every place."""
    a, b = (torch.as_tensor(plain(x)).detach().double() for x in (came, other))
    return a.shape == b.shape and torch.allclose(a, b, rtol=tolerance, atol=tolerance)


@dataclass(frozen=True)
class Slip:
    """A wrong choice: what may stand in the place of the right one, and what is said of it."""

    name: str
    values: Sequence[Any]
    message: str


def slips(fits: Callable[..., bool], **choices: Sequence[Slip]) -> tuple[Symptom, ...]:
    """The symptoms of a computation in which several things have to be chosen right.

    fits     (record, **{choice: value}) -> whether the computation with these values, and all else right, gives what
             came
    choices  for each thing to choose, the ways to choose it wrong

    One wrong choice is looked for first, then two at once.
    """
    singly = [(choice, slip) for choice, wrong in choices.items() for slip in wrong]
    doubly = [pair for pair in combinations(singly, 2) if pair[0][0] != pair[1][0]]
    return (
        *(Symptom(slip.name, _any_of(fits, {choice: slip}), slip.message) for choice, slip in singly),
        *(
            Symptom(f"{a.name}, {b.name}", _any_of(fits, {one: a, other: b}), f"{a.message} And: {b.message}")
            for (one, a), (other, b) in doubly
        ),
    )


def _any_of(fits: Callable[..., bool], wrong: Mapping[str, Slip]) -> Callable[[Any], bool]:
    def seen(record: Any) -> bool:
        ways: list[dict[str, Any]] = [{}]
        for choice, slip in wrong.items():
            ways = [way | {choice: value} for way in ways for value in slip.values]
        return any(fits(record, **way) for way in ways)

    return seen
