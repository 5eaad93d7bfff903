"""Comparing an answer with what was expected, and describing both in a few words.

What is graded is what the text asks: the numbers. So a result is read in the form of the expected one as far as that
can be done without guessing: a NumPy array or number, a Python number, or a list of numbers, where a tensor is asked
for; any floating-point or integer dtype where real numbers are; a list, or one stacked tensor, where a tuple is. Its
values are judged first. Only then is it told about a dtype that cannot stand for what is asked (0 and 1 for a mask of
True and False, int32 or floats for an index, half precision for numbers that need more digits). A shape is part of
what is asked: (B, 1) is not (B,).

An answer may be any object, hostile ones included (an `__eq__` or `__repr__` that raises). So its exact type decides
first, and nothing of the object's own code runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from week6.checks.describing import TENSORS, describe, from_numpy, is_float, is_plain, is_small, type_in_words

_PLAIN = (str, int, float, bool, tuple)
"""Types of keys and of elements of sets, whose own `__eq__` and `__hash__` are harmless."""
_LONGEST = 100_000
"""Elements of a list that is still read as a tensor."""


@dataclass(frozen=True)
class Difference:
    """Where an answer departs from what was expected: in its form (type, shape, dtype, device), a value, …

    `at` is the index of the first element that differs, in a tensor of shape `of`. `values_right`: of another shape,
    with the right values.
    """

    kind: Literal["form", "value", "gradient", "error"]
    text: str
    at: tuple[int, ...] = ()
    of: tuple[int, ...] = ()
    values_right: bool = False


def difference(
    got: Any, want: Any, rtol: float = 0.0, atol: float = 0.0, *, equal_nan: bool = False, quiz: bool = False
) -> Difference | None:
    """The first difference between `got` (read in the form of `want`) and `want`, or None.

    Every element must agree within atol + rtol·|want|. Strings agree only where every character does.

    `quiz`: the answer is a value that a student has typed in. Then the text does not give the expected value away,
    strings are compared without regard to case and surrounding space, and a list will do for a set.
    """
    return _Comparison(rtol, atol, equal_nan, quiz).of(in_form(got, want, quiz=quiz), want, "")


def in_form(got: Any, want: Any, *, quiz: bool = False) -> Any:
    """`got` read in the form of `want`: as a tensor, a number, a tuple, …; `got` itself where it cannot be read so."""
    kind, mine = type(want), type(got)
    if issubclass(kind, Tensor):
        tensor = _as_tensor(got, want.ndim)
        return got if tensor is None else tensor
    if kind is bool or kind is int or is_float(kind):
        return _as_number(got)
    if issubclass(kind, tuple | list):
        parts = _parts(got, want)
        if parts is None or len(parts) != len(want):
            return got
        items = [in_form(a, b, quiz=quiz) for a, b in zip(parts, want, strict=True)]
        return items if issubclass(kind, list) else tuple(items)
    if kind is dict and mine is dict and all(type(key) in _PLAIN for key in got) and got.keys() == want.keys():
        return {key: in_form(got[key], want[key], quiz=quiz) for key in want}
    if kind in (set, frozenset) and quiz and mine in (tuple, list):
        return set(got) if all(type(item) in _PLAIN for item in got) else got
    return got


def cast(got: Any, want: Any) -> Any:
    """An accepted result in the very types of `want`: dtypes, int or float, tuple or list."""
    kind = type(want)
    got = in_form(got, want, quiz=True)
    if issubclass(kind, Tensor):
        return got.to(want.dtype)
    if kind in (bool, int, float):
        return kind(got)
    if issubclass(kind, tuple | list):
        parts = [cast(a, b) for a, b in zip(got, want, strict=True)]
        return kind._make(parts) if hasattr(kind, "_make") else kind(parts)
    if kind is dict:
        return {key: cast(got[key], want[key]) for key in want}
    return got


def same_types(got: Any, want: Any) -> bool:
    """Whether `got` has the very types of `want`, dtypes included."""
    kind = type(want)
    if issubclass(kind, Tensor):
        return type(got) in TENSORS and got.dtype == want.dtype
    if type(got) is not kind:
        return False
    if issubclass(kind, tuple | list):
        return all(same_types(a, b) for a, b in zip(got, want, strict=True))
    return kind is not dict or all(same_types(got[key], want[key]) for key in want)


def is_unanswered(answer: Any) -> bool:
    """Whether the answer, or an element of it, is still the `...` of the stub."""
    if type(answer) is dict:
        answer = tuple(answer.values())
    if type(answer) in (tuple, list, set, frozenset):
        return any(item is ... for item in answer)
    return answer is ... or answer is None


@dataclass(frozen=True)
class _Comparison:
    rtol: float
    atol: float
    equal_nan: bool
    quiz: bool

    def of(self, got: Any, want: Any, where: str) -> Difference | None:
        kind = type(want)
        if issubclass(kind, np.ndarray | np.generic):  # an earlier result of an answer
            want = in_form(want, torch.empty(np.ndim(want)))
            kind = type(want)
            got = in_form(got, want)
        if issubclass(kind, Tensor):
            return self.tensors(got, want.detach(), where)
        if kind is bool or want is None:
            return self.plain(got, want, (kind,), where)
        if kind is int or is_float(kind):
            return self.numbers(got, want, where)
        if kind is str:
            return self.plain(got, want, (str,), where)
        if kind in (set, frozenset):
            return self.sets(got, want, where)
        if issubclass(kind, tuple | list):
            return self.sequences(got, want, where)
        if kind is dict:
            return self.dicts(got, want, where)
        return None if got is want or issubclass(kind, np.ndarray) else self.value(got, want, where)

    def value(self, got: Any, want: Any, where: str, detail: str = "") -> Difference:
        if not detail:
            detail = f"it is not {describe(got)}" if self.quiz else f"got {describe(got)}, expected {describe(want)}"
        return Difference("value", where + detail)

    def form(self, where: str, wanted: str, got: Any, advice: str = "") -> Difference:
        return Difference("form", f"{where}got {type_in_words(got)}, expected {wanted}{advice}")

    def tensors(self, got: Any, want: Tensor, where: str) -> Difference | None:
        if type(got) not in TENSORS:
            return self.form(where, f"a tensor of shape {tuple(want.shape)}", got)
        got = got.detach()
        if got.device != want.device:
            text = f"{where}the tensor is on {got.device}, expected {want.device}, the device of the inputs"
            return Difference("form", text)
        if got.layout != want.layout or got.is_nested or got.is_quantized or got.is_complex():
            return self.form(where, f"a plain tensor of shape {tuple(want.shape)}", got, f" of {want.dtype}")
        if got.shape != want.shape:
            return self.shapes(got, want, where)
        close = self.close(got, want, self.rtol)
        if bool(close.all()):
            return self.dtypes(got, want, where)
        if _few_digits(got, want) and bool(self.close(got, want, max(self.rtol, 4 * torch.finfo(got.dtype).eps)).all()):
            text = f"the values are right as far as {got.dtype} can hold them: compute in {want.dtype}"
            return Difference("form", where + text)
        first = tuple((~close).nonzero()[0].tolist())
        return Difference("value", where + self.elements(got, want, first), first, tuple(want.shape))

    def close(self, got: Tensor, want: Tensor, rtol: float) -> Tensor:
        if not (got.is_floating_point() or want.is_floating_point()):
            return got == want
        return torch.isclose(got.double(), want.double(), rtol=rtol, atol=self.atol, equal_nan=self.equal_nan)

    def elements(self, got: Tensor, want: Tensor, first: tuple[int, ...]) -> str:
        """What came and what was expected, at the first difference; the whole of both where that is little."""
        a, b = _number(got[first]), _number(want[first])
        if self.quiz:
            return f"{list(first)}: it is not {a}" if first else f"it is not {a}"
        if not first:
            return f"got {a}, expected {b}"
        if is_small(want):
            return (
                f"got {describe(got)}, expected {describe(want)}; first difference at index {list(first)}: {a}, not {b}"
            )
        return f"at index {list(first)} of a result of shape {tuple(want.shape)}: got {a}, expected {b}"

    def shapes(self, got: Tensor, want: Tensor, where: str) -> Difference:
        text = f"got shape {tuple(got.shape)}, expected {tuple(want.shape)}"
        squeezed = [tuple(n for n in x.shape if n != 1) for x in (got, want)]
        right = False
        if squeezed[0] == squeezed[1]:
            text += f": one axis too {'many' if got.ndim > want.ndim else 'few'}" if got.ndim != want.ndim else ""
            right = bool(self.close(got.reshape(want.shape), want, self.rtol).all())
            text += " (the values themselves are right)" if right and not self.quiz else ""
        return Difference("form", where + text, values_right=right)

    def dtypes(self, got: Tensor, want: Tensor, where: str) -> Difference | None:
        """The values are right. Can numbers of this dtype stand for those that are asked for?"""
        if got.dtype == want.dtype or (want.is_floating_point() and got.dtype != torch.bool):
            return None
        reasons = {
            torch.bool: ": a mask must be True and False, for 0 and 1 select rows 0 and 1",
            torch.int64: ": torch takes no other integers as an index everywhere",
        }
        reason = reasons.get(want.dtype, "")
        text = f"the values are right, but of {got.dtype}, expected {want.dtype}{reason}"
        return Difference("form", where + text)

    def numbers(self, got: Any, want: float, where: str) -> Difference | None:
        kind = type(got)
        if not (kind is int or is_float(kind)):
            return self.form(where, "a number", got)
        if _close(float(got), float(want), self.rtol, self.atol, self.equal_nan):
            return None
        if not self.quiz or not math.isfinite(got):
            return self.value(got, want, where)
        return self.value(got, want, where, f"{describe(got)} is too {'large' if got > want else 'small'}")

    def plain(self, got: Any, want: Any, kinds: tuple[type, ...], where: str) -> Difference | None:
        if type(got) not in kinds:
            return self.form(where, type_in_words(want), got)
        if self.normal(got) == self.normal(want):
            return None
        return self.value(got, want, where, self.strings(got, want) if type(want) is str and not self.quiz else "")

    def strings(self, got: str, want: str) -> str:
        """Two strings; where they are long, what stands around their first difference."""
        if max(len(got), len(want)) <= 60:
            return f"got {got!r}, expected {want!r}"
        first = next((i for i, (a, b) in enumerate(zip(got, want, strict=False)) if a != b), min(len(got), len(want)))
        part = slice(max(0, first - 20), first + 20)
        return f"at character {first} got …{got[part]!r}…, expected …{want[part]!r}…"

    def normal(self, value: Any) -> Any:
        return value.strip().casefold() if self.quiz and type(value) is str else value

    def sets(self, got: Any, want: Any, where: str) -> Difference | None:
        if type(got) not in (set, frozenset) or any(type(item) not in _PLAIN for item in got):
            return self.form(where, 'a set, like {"x", "y"}', got)
        kinds = [{_kind(item) for item in items} for items in (got, want)]
        if not kinds[0] <= kinds[1]:
            texts = [" and ".join(sorted(kind)) for kind in kinds]
            return Difference("form", f"{where}got a set of {texts[0]}, expected a set of {texts[1]}")
        mine, theirs = {self.normal(x): x for x in got}, {self.normal(x) for x in want}
        extra, missing = [mine[key] for key in mine if key not in theirs], len(theirs - mine.keys())
        if not extra and not missing:
            return None
        found = []
        if extra:
            do = "does" if len(extra) == 1 else "do"
            found.append(f"{', '.join(sorted(map(describe, extra)))} {do} not belong there")
        if missing:
            found.append(f"{missing} {'is' if missing == 1 else 'are'} missing")
        return self.value(got, want, where, ", and ".join(found))

    def sequences(self, got: Any, want: Any, where: str) -> Difference | None:
        name = "tuple" if issubclass(type(want), tuple) else "list"
        items = _parts(got, want)
        if items is None:
            return self.form(where, f"a {name} of {len(want)} values", got)
        if len(items) != len(want):
            return Difference("form", f"{where}{len(items)} values, expected {len(want)}")
        for i, (a, b) in enumerate(zip(items, want, strict=True), 1):
            if found := self.of(a, b, f"{where}value {i}: "):
                return found
        return None

    def dicts(self, got: Any, want: dict[Any, Any], where: str) -> Difference | None:
        if type(got) is not dict or any(type(key) not in _PLAIN for key in got):
            return self.form(where, f"a dict with the keys {describe(tuple(want))}", got)
        if got.keys() != want.keys():
            keys = f"the keys {describe(tuple(got))}, expected {describe(tuple(want))}"
            return Difference("form", f"{where}{keys}")
        for key, b in want.items():
            if found := self.of(got[key], b, f"{where}entry {describe(key)}: "):
                return found
        return None


def _kind(item: Any) -> str:
    """What an element of a set is, in the plural."""
    if type(item) in (int, float):
        return "numbers"
    return {str: "strings", bool: "True and False"}.get(type(item), "tuples")


def _as_tensor(value: Any, ndim: int = 0) -> Tensor | None:
    """A tensor for what can stand for one: an array, a number, a list of at most `ndim` levels of them; else None."""
    kind = type(value)
    if kind in TENSORS:
        return value  # type: ignore[no-any-return]
    if issubclass(kind, np.ndarray | np.generic):
        return from_numpy(value)
    try:
        if kind in (bool, int, float):
            return torch.tensor(value, dtype=torch.float64 if kind is float else None)
        if kind in (list, tuple) and ndim > 0 and 0 < len(value) <= _LONGEST:
            parts = [_as_tensor(part, ndim - 1) for part in value]
            return None if any(part is None for part in parts) else torch.stack(parts)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError, OverflowError):  # a ragged list, 10**100
        pass
    return None


def _as_number(value: Any) -> Any:
    """The Python number in a tensor or array without axes; else the value itself."""
    kind = type(value)
    if kind in TENSORS or issubclass(kind, np.ndarray | np.generic):
        tensor = _as_tensor(value)
        if tensor is not None and tensor.ndim == 0 and is_plain(tensor) and not tensor.is_complex():
            return tensor.item()
    return value


def _parts(value: Any, want: Sequence[Any]) -> list[Any] | None:
    """The parts of a tuple or list, or of one tensor or array that is as those of `want` stacked; else None."""
    kind = type(value)
    if issubclass(kind, tuple):
        return list(tuple.__iter__(value))
    if kind is list:
        return list(value)
    if kind in TENSORS or issubclass(kind, np.ndarray):
        tensor = _as_tensor(value)
        shapes = [part.shape if issubclass(type(part), Tensor) else torch.Size([]) for part in want]
        if tensor is not None and is_plain(tensor) and all(tensor.shape == (len(want), *shape) for shape in shapes):
            return list(tensor.unbind())
    return None


def _few_digits(got: Tensor, want: Tensor) -> bool:
    return got.is_floating_point() and want.is_floating_point() and torch.finfo(got.dtype).eps > 1e-6


def _close(got: float, want: float, rtol: float, atol: float, equal_nan: bool) -> bool:
    if math.isnan(got) or math.isnan(want):
        return equal_nan and math.isnan(got) and math.isnan(want)
    return got == want or (math.isfinite(got) and math.isfinite(want) and abs(got - want) <= atol + rtol * abs(want))


def _number(element: Tensor) -> str:
    value = element.item()
    return f"{value:.6g}" if type(value) is float else str(value)
