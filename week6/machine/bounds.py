"""What a setting may be: declared once, as the type of a config's field, checked there, and shown by `--help`.

    @dataclass
    class Config:
        gamma: Fraction = 1.0       # Annotated[float, FRACTION, …]
        steps: Count = 200

Functions that take one of these numbers raise by the same rules (`FRACTION.check("gamma", gamma)`).
"""

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Real
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import tyro


@dataclass(frozen=True)
class Bounds:
    """The numbers from `low` to `high`; an end that is `open` does not belong to them, nor do NaN and infinities."""

    low: float
    high: float = math.inf
    open: Literal["", "low", "high", "both"] = ""
    whole: bool = False
    """Integers only."""

    def __contains__(self, value: Any) -> bool:
        """Whether `value` is such a number."""
        if isinstance(value, bool) or not isinstance(value, int if self.whole else Real):
            return False
        number = float(value)
        above = number > self.low if self.open in ("low", "both") else number >= self.low
        below = number < self.high if self.open in ("high", "both") else number <= self.high
        return math.isfinite(number) and above and below

    def check(self, name: str, value: Any) -> None:
        """Raise ValueError that says what came and what was expected, unless `value` lies within."""
        if value not in self:
            raise ValueError(f"{name}: got {value!r}, expected {self}")

    def __str__(self) -> str:
        """In words: "a finite number > 0", "a whole number from 1 to 1000"."""
        kind = "whole" if self.whole else "finite"
        if not self.open and math.isfinite(self.high):
            return f"a {kind} number from {_plain(self.low)} to {_plain(self.high)}"
        low = f"{'>' if self.open in ('low', 'both') else '≥'} {_plain(self.low)}"
        high = f" and {'<' if self.open in ('high', 'both') else '≤'} {_plain(self.high)}"
        return f"a {kind} number {low}{high if math.isfinite(self.high) else ''}"

    @property
    def shown(self) -> Any:
        """For the command line's help: the bounds in place of FLOAT or INT."""
        left, right = "(" if self.open in ("low", "both") else "[", "]"
        if self.open in ("high", "both") or math.isinf(self.high):
            right = ")"
        kind = "INT" if self.whole else "FLOAT"
        return tyro.conf.arg(metavar=f"{kind} {left}{_plain(self.low)}, {_plain(self.high)}{right}")


def _plain(number: float) -> str:
    return str(int(number)) if math.isfinite(number) and number == int(number) else f"{number:g}"


POSITIVE = Bounds(0, open="low")
FRACTION = Bounds(0, 1)
SMOOTHING = Bounds(0, 0.5, open="high")
CLIP = Bounds(0, 1, open="both")
# The rest is mathematically good over a wider range; beyond these bounds fp32 overflows, or a run never ends.
LEASH = Bounds(1e-6, 1000)
SCORE = Bounds(-1000, 1000)
COEFFICIENT = Bounds(0, 1000)
TEMPERATURE = Bounds(0.01, 100)
RATE = Bounds(1e-9, 1)  # by less no weight of usual size changes in fp32
COUNT = Bounds(1, 10_000_000, whole=True)
ROWS = Bounds(1, 65_536, whole=True)
SPREAD = Bounds(2, 65_536, whole=True)
FEW = Bounds(1, 1_000, whole=True)
WIDTH = Bounds(2, 65_536, whole=True)  # of one number, normalised, nothing is left
SEED = Bounds(0, 10**9, whole=True)
PORT = Bounds(1024, 65_535, whole=True)

Positive = Annotated[float, POSITIVE, POSITIVE.shown]
Fraction = Annotated[float, FRACTION, FRACTION.shown]
Smoothing = Annotated[float, SMOOTHING, SMOOTHING.shown]
"""A share of flipped labels."""
Clip = Annotated[float, CLIP, CLIP.shown]
"""PPO's ε."""
Leash = Annotated[float, LEASH, LEASH.shown]
"""β, in reward units per nat, or nats."""
Score = Annotated[float, SCORE, SCORE.shown]
"""In reward units."""
Coefficient = Annotated[float, COEFFICIENT, COEFFICIENT.shown]
Temperature = Annotated[float, TEMPERATURE, TEMPERATURE.shown]
Rate = Annotated[float, RATE, RATE.shown]
"""Of learning."""
Count = Annotated[int, COUNT, COUNT.shown]
Rows = Annotated[int, ROWS, ROWS.shown]
"""Texts, answers or tokens that are in memory together."""
Spread = Annotated[int, SPREAD, SPREAD.shown]
"""Rows, of which a standard deviation is taken."""
Few = Annotated[int, FEW, FEW.shown]
Width = Annotated[int, WIDTH, WIDTH.shown]
Seed = Annotated[int, SEED, SEED.shown]
Port = Annotated[int, PORT, PORT.shown]


def bounds_of(hint: Any) -> list[Bounds]:
    """The bounds in a type, also in that of the items of a tuple, or beside None."""
    own = [hint] if isinstance(hint, Bounds) else []
    return own + [bounds for part in get_args(hint) for bounds in bounds_of(part)]


def check_fields(config: Any, prefix: str = "") -> None:
    """Raise ValueError for the first field of a config, or of one within it, that lies outside what its type says."""
    for name, value, hint in fields_of(config, prefix):
        check_value(name, value, hint)


def fields_of(config: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Name ("ppo.beta"), value and type of every field of a config and of those within it."""
    hints = get_type_hints(type(config), include_extras=True)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value) and isinstance(value, hints[field.name]):
            yield from fields_of(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", value, hints[field.name]


def may_be_none(hint: Any) -> bool:
    """Whether a type allows None, within its annotation or beside it."""
    parts = get_args(hint)
    return NoneType in (get_args(parts[0]) if get_origin(hint) is Annotated else parts)


def check_value(name: str, value: Any, hint: Any) -> None:
    """Raise ValueError unless `value` is what the type `hint` of a config's field allows."""
    origin, parts = get_origin(hint), get_args(hint)
    if may_be_none(hint) and value is None:
        return
    if origin is Annotated:
        for bounds in parts[1:]:
            if isinstance(bounds, Bounds):
                bounds.check(name, value)
    elif origin is Literal:
        if value not in parts:
            raise ValueError(f"{name}: got {value!r}, expected one of {', '.join(map(repr, parts))}")
    elif origin is tuple:
        if not isinstance(value, tuple) or not value:
            raise ValueError(f"{name}: got {value!r}, expected one number or more")
        for item in value:
            check_value(name, item, parts[0])
    elif dataclasses.is_dataclass(hint):
        raise ValueError(f"{name}: got {value!r:.60}, expected a {getattr(hint, '__name__', hint)}")
    elif (hint is str or str in parts) and (not isinstance(value, str) or not value.strip()):
        raise ValueError(f"{name}: got {value!r}, expected a text")
