"""Comparing an answer with what was expected, and describing both in a few words.

An answer may be any object, hostile ones included (an `__eq__` or `__repr__` that raises). So its exact type decides
first, and nothing of the object's own code runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

_SHOWN = 6
"""Elements of a tensor or container that a description shows."""


@dataclass(frozen=True)
class Difference:
    """Where an answer departs from what was expected: in its form (type, shape, dtype, device), a value, …"""

    kind: Literal["form", "value", "gradient", "error"]
    text: str


def difference(
    got: Any, want: Any, rtol: float = 0.0, atol: float = 0.0, *, equal_nan: bool = False, quiz: bool = False
) -> Difference | None:
    """The first difference between `got` and `want`, or None.

    Tensors must agree in shape, dtype and device, and in every element within atol + rtol·|want|. Where a plain number
    is wanted, a tensor without axes will do. Strings agree only where every character does.

    `quiz`: the answer is a value that a student has typed in. Then the text does not give the expected value away, and
    strings are compared without regard to case and surrounding space.
    """
    return _Comparison(rtol, atol, equal_nan, quiz).of(got, want, "")


def describe(value: Any) -> str:
    """A short text for a value: four significant digits, at most six elements, never the object's own repr."""
    kind = type(value)
    if kind in (Tensor, torch.nn.Parameter):
        return _describe_tensor(value)
    if value is None or kind is bool or kind is int:
        return str(value)[:40]
    if _is_float(kind):
        return f"{float(value):.4g}"
    if kind is str:
        return repr(value if len(value) <= 60 else value[:60] + "…")
    if kind in (set, frozenset):
        return "{" + ", ".join(sorted(map(describe, _head(value)))) + _dots(value) + "}" if value else "an empty set"
    if kind in (tuple, list):
        left, right = "()" if kind is tuple else "[]"
        return left + ", ".join(map(describe, _head(value))) + _dots(value) + right
    if kind is dict:
        return "{" + ", ".join(f"{describe(k)}: {describe(value[k])}" for k in _head(value)) + _dots(value) + "}"
    return type_in_words(value)


def type_in_words(value: Any) -> str:
    """What kind of thing a value is: "a list", "a NumPy array", "a function"."""
    kind = type(value)
    if kind in (Tensor, torch.nn.Parameter):
        return "a tensor"
    if issubclass(kind, np.ndarray):
        return "a NumPy array"
    if issubclass(kind, np.generic):
        return "a NumPy number"
    names = {float: "a Python float", int: "a Python int", bool: "a Python bool", type(None): "None", str: "a string"}
    name = type.__getattribute__(kind, "__name__")
    return names.get(kind) or ("an " if name[:1].lower() in "aeiou" else "a ") + name


def is_plain(tensor: Tensor) -> bool:
    """Whether the elements of a tensor can be looked at: it is neither sparse nor on the meta device."""
    return tensor.layout == torch.strided and tensor.device.type != "meta"


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
        if issubclass(kind, Tensor):
            return self.tensors(got, want.detach(), where)
        if kind is bool or want is None:
            return self.plain(got, want, (kind,), where)
        if kind is int or _is_float(kind):
            return self.numbers(got, want, where)
        if kind is str:
            return self.plain(got, want, (str,), where)
        if kind in (set, frozenset):
            return self.sets(got, want, where)
        if issubclass(kind, tuple) or kind is list:
            return self.sequences(got, want, where)
        if kind is dict:
            return self.dicts(got, want, where)
        return None if got is want else self.value(got, want, where)

    def value(self, got: Any, want: Any, where: str, detail: str = "") -> Difference:
        if not detail:
            expected = f"expected {describe(want)}, got" if not self.quiz else "it is not"
            detail = f"{expected} {describe(got)}"
        return Difference("value", where + detail)

    def form(self, where: str, wanted: str, got: Any, advice: str = "") -> Difference:
        return Difference("form", f"{where}expected {wanted}, got {type_in_words(got)}{advice}")

    def tensors(self, got: Any, want: Tensor, where: str) -> Difference | None:
        if type(got) not in (Tensor, torch.nn.Parameter):
            advice = " (stay with torch from input to output, without `.item()`, `float()` or `.numpy()`)"
            return self.form(where, f"a tensor of shape {tuple(want.shape)}", got, advice)
        got = got.detach()
        if got.device != want.device:
            text = f"{where}the tensor is on {got.device}, expected {want.device}, the device of the inputs"
            return Difference("form", text)
        if got.layout != want.layout or got.shape != want.shape:
            return Difference("form", f"{where}shape {tuple(got.shape)}, expected {tuple(want.shape)}")
        if got.dtype != want.dtype:
            return Difference("form", f"{where}dtype {got.dtype}, expected {want.dtype}")
        if not want.is_floating_point():
            close = got == want
        else:
            close = torch.isclose(got.double(), want.double(), rtol=self.rtol, atol=self.atol, equal_nan=self.equal_nan)
        if bool(close.all()):
            return None
        first = tuple((~close).nonzero()[0].tolist())
        a, b = got[first].item(), want[first].item()
        at = f" at index {list(first)}" if first else ""
        if not self.quiz and want.numel() > 1:
            return self.value(
                got,
                want,
                where,
                f"expected {describe(want)}, got {describe(got)}; first difference{at}: {a:.6g}, not {b:.6g}",
            )
        return self.value(a, b, where + (f"{at.strip()}: " if at else ""))

    def numbers(self, got: Any, want: float, where: str) -> Difference | None:
        kind = type(got)
        if kind in (Tensor, torch.nn.Parameter) and got.ndim == 0 and got.dtype != torch.bool and not got.is_complex():
            got = got.item()
        elif not (kind is int or _is_float(kind)):
            return self.form(where, "a number", got)
        if _close(float(got), float(want), self.rtol, self.atol, self.equal_nan):
            return None
        if not self.quiz or not math.isfinite(got):
            return self.value(got, want, where)
        return self.value(got, want, where, f"{describe(got)} is too {'large' if got > want else 'small'}")

    def plain(self, got: Any, want: Any, kinds: tuple[type, ...], where: str) -> Difference | None:
        if type(got) in (Tensor, torch.nn.Parameter) and got.ndim == 0 and got.dtype == torch.bool:
            got = got.item()
        if type(got) not in kinds:
            return self.form(where, type_in_words(want), got)
        return None if self.normal(got) == self.normal(want) else self.value(got, want, where)

    def normal(self, value: Any) -> Any:
        return value.strip().casefold() if self.quiz and type(value) is str else value

    def sets(self, got: Any, want: Any, where: str) -> Difference | None:
        if type(got) not in (set, frozenset) or any(type(item) not in (str, int, float, bool, tuple) for item in got):
            return self.form(where, 'a set, like {"x", "y"}', got)
        mine, theirs = {self.normal(x) for x in got}, {self.normal(x) for x in want}
        extra, missing = len(mine - theirs), len(theirs - mine)
        if not extra and not missing:
            return None
        return self.value(got, want, where, f"{extra} of your elements do not belong there, {missing} are missing")

    def sequences(self, got: Any, want: Any, where: str) -> Difference | None:
        name = "tuple" if issubclass(type(want), tuple) else "list"
        if not (issubclass(type(got), tuple) or type(got) is list):
            return self.form(where, f"a {name} of {len(want)} values", got)
        items = list(tuple.__iter__(got) if issubclass(type(got), tuple) else got)
        if len(items) != len(want):
            return Difference("form", f"{where}{len(items)} values, expected {len(want)}")
        for i, (a, b) in enumerate(zip(items, want, strict=True), 1):
            if found := self.of(a, b, f"{where}value {i}: "):
                return found
        return None

    def dicts(self, got: Any, want: dict[Any, Any], where: str) -> Difference | None:
        if type(got) is not dict or any(type(key) not in (str, int, float, bool, tuple) for key in got):
            return self.form(where, f"a dict with the keys {describe(tuple(want))}", got)
        if got.keys() != want.keys():
            keys = f"the keys {describe(tuple(got))}, expected {describe(tuple(want))}"
            return Difference("form", f"{where}{keys}")
        for key, b in want.items():
            if found := self.of(got[key], b, f"{where}entry {describe(key)}: "):
                return found
        return None


def _close(got: float, want: float, rtol: float, atol: float, equal_nan: bool) -> bool:
    if math.isnan(got) or math.isnan(want):
        return equal_nan and math.isnan(got) and math.isnan(want)
    return got == want or (math.isfinite(got) and math.isfinite(want) and abs(got - want) <= atol + rtol * abs(want))


def _is_float(kind: type) -> bool:
    return kind is float or kind is np.float64


def _head(container: Any) -> list[Any]:
    return [item for item, _ in zip(container, range(_SHOWN), strict=False)]


def _dots(container: Any) -> str:
    return ", …" if len(container) > _SHOWN else ""


def _describe_tensor(tensor: Tensor) -> str:
    if not is_plain(tensor):
        return f"a tensor of shape {tuple(tensor.shape)}"
    shown = tensor.detach().flatten()[:_SHOWN].tolist()
    numbers = [f"{item:.4g}" if type(item) is float else str(item) for item in shown]
    if tensor.ndim == 0:
        return numbers[0]
    shape = f" of shape {tuple(tensor.shape)}" if tensor.ndim > 1 or tensor.numel() > _SHOWN else ""
    return "[" + ", ".join(numbers) + (", …" if tensor.numel() > _SHOWN else "") + "]" + shape
