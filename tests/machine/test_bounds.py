"""Bounds: what lies within, what does not, and how it is said."""

import dataclasses
import math
from typing import Annotated, Literal

import pytest
import torch

from week6.machine.bounds import (
    CLIP,
    COEFFICIENT,
    COUNT,
    FEW,
    FRACTION,
    LEASH,
    PORT,
    POSITIVE,
    RATE,
    ROWS,
    SCORE,
    SEED,
    SMOOTHING,
    SPREAD,
    TEMPERATURE,
    WIDTH,
    Bounds,
    Fraction,
    check_fields,
)
from week6.machine.lora import ALPHA, RANK


@pytest.mark.parametrize(
    ("bounds", "inside", "outside"),
    [
        (POSITIVE, [1e-300, 7, 1e300], [0, -0.0, -1e-300]),
        (FRACTION, [0, 1, 0.5, torch.ones(()).item()], [-1e-9, 1 + 1e-9]),
        (SMOOTHING, [0, 0.4999], [0.5, -0.1]),
        (CLIP, [0.001, 0.999], [0, 1, 1.0]),
        (COUNT, [1, 10_000_000], [0, 10_000_001, 1.0, 2.5]),
        (LEASH, [1e-6, 1000.0], [0.0, 0.9e-6, 1000.1]),
        (SCORE, [-1000, 1000.0], [-1000.1, 1000.1]),
        (COEFFICIENT, [0, 1000], [-1e-9, 1000.1]),
        (TEMPERATURE, [0.01, 100], [0.0099, 100.1]),
        (RATE, [1e-9, 1], [0.9e-9, 1.1]),
        (ROWS, [1, 2**16], [0, 2**16 + 1, 1.0]),
        (SPREAD, [2, 2**16], [1, 2**16 + 1, 2.0]),
        (WIDTH, [2, 2**16], [1, 2**16 + 1, 2.0]),
        (FEW, [1, 1000], [0, 1001, 1.0]),
        (SEED, [0, 10**9], [-1, 10**9 + 1, 0.0]),
        (PORT, [2**10, 2**16 - 1], [2**10 - 1, 2**16, 1024.0]),  # those of servers that need no rights
        (RANK, [0, 2**16], [-1, 2**16 + 1, 0.0]),
        (ALPHA, [0.001, 1000], [0.0009, 1000.1]),
    ],
)
def test_ends_belong_or_do_not(bounds, inside, outside):
    for value in inside:
        bounds.check("x", value)
    for value in [*outside, math.nan, math.inf, -math.inf, True, None, "1", [1]]:
        with pytest.raises(ValueError, match="x: got .*, expected a "):
            bounds.check("x", value)


def test_said_in_words_and_in_the_help():
    assert str(POSITIVE) == "a finite number > 0" and str(Bounds(0)) == "a finite number ≥ 0"
    assert str(FRACTION) == "a finite number from 0 to 1" and str(SMOOTHING) == "a finite number ≥ 0 and < 0.5"
    assert str(COUNT) == "a whole number from 1 to 10000000"
    assert [x.shown.metavar for x in (SMOOTHING, CLIP, POSITIVE, COUNT)] == [
        "FLOAT [0, 0.5)",
        "FLOAT (0, 1)",
        "FLOAT (0, inf)",
        "INT [1, 10000000]",
    ]


@dataclasses.dataclass
class Inner:
    share: Fraction = 0.5
    maybe: Annotated[float | None, FRACTION] = None


@dataclasses.dataclass
class Outer:
    inner: Inner
    several: tuple[Fraction, ...] = (0.1, 0.2)
    kind: Literal["a", "b"] = "a"
    text: str = "x"
    other: str | None = None


@pytest.mark.parametrize(
    ("inner", "outer", "message"),
    [
        ({"share": 2}, {}, "inner.share: got 2, expected a finite number from 0 to 1"),
        ({"share": None}, {}, "inner.share: got None"),
        ({"maybe": 1.5}, {}, "inner.maybe: got 1.5"),
        ({}, {"several": (0.1, -3)}, "several: got -3"),
        ({}, {"several": ()}, r"several: got \(\), expected one number or more"),
        ({}, {"kind": "c"}, "kind: got 'c', expected one of 'a', 'b'"),
        ({}, {"text": " "}, "text: got ' ', expected a text"),
        ({}, {"other": ""}, "other: got '', expected a text"),
    ],
)
def test_every_field_of_a_config_is_checked(inner, outer, message):
    check_fields(Outer(Inner(maybe=1.0)))
    with pytest.raises(ValueError, match=message):
        check_fields(Outer(Inner(**inner), **outer))
