"""How the steps of a capstone judge: a check says nothing, or raises what is missing or wrong."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from week6.checks.capstone import Step


class Missing(Exception):
    """A part is not there yet."""


class Wrong(Exception):
    """What is not as it should be."""


def judged(check: Callable[[Any], None]) -> Callable[[Any], str | None]:
    """A step's judgement of a record: "" if the check is content, None if a part is missing, else what is wrong."""

    def judge(record: Any) -> str | None:
        try:
            check(record)
        except Missing:
            return None
        except Wrong as wrong:
            return str(wrong)
        return ""

    return judge


def at(steps: Sequence[Step], title: str, seen: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """What a symptom looks for, asked only where the step of this title is the first that is not right."""

    def seen_there(record: Any) -> bool:
        first = next((step.title for step in steps if step.judge(record) != ""), "")
        return first == title and seen(record)

    return seen_there


def numbers(parts: dict[str, Any], name: str, *shape: int) -> Tensor:
    """A part as numbers (float64). Raises Missing where it is not there, Wrong for another shape, nan or infinity,
    of which no comparison would say that they are far from what is right."""
    value = parts.get(name)
    if value is None:
        raise Missing
    try:
        found = torch.as_tensor(plain(value)).detach().double()
    except (TypeError, ValueError, RuntimeError):
        raise Wrong(f"`{name}` is {type(value).__name__}, expected numbers of shape {shape}") from None
    if tuple(found.shape) != shape:
        raise Wrong(f"`{name}` has shape {tuple(found.shape)}, expected {shape}")
    if not torch.isfinite(found).all():
        raise Wrong(f"`{name}` holds nan or infinity, expected numbers")
    return found


def plain(value: Any) -> Any:
    """Lists and tuples of tensors as lists of numbers."""
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value.tolist() if isinstance(value, Tensor) else value
