"""Values in a few words: what came, what was expected, and the inputs that made it.

A value may be any object, hostile ones included (a `__repr__` that raises): nothing of its own code runs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

TENSORS = (Tensor, torch.nn.Parameter)
"""The exact types that count as a tensor: a subclass may do anything."""

_SHOWN = 6
"""Elements of a row or container that a description shows."""
_TABLE = 12
"""Elements up to which a table is shown as a whole."""


def describe(value: Any) -> str:
    """A short text for a value: four significant digits, at most six elements, never the object's own repr."""
    kind = type(value)
    if kind in TENSORS:
        return _describe_tensor(value)
    if issubclass(kind, np.ndarray | np.generic) and (tensor := from_numpy(value)) is not None:
        return _describe_tensor(tensor)
    if value is None or kind is bool or kind is int:
        return str(value)[:40]
    if is_float(kind):
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


def describe_near(value: Any, at: tuple[int, ...], of: tuple[int, ...]) -> tuple[str, str]:
    """An index and what stands there: that part of an input which belongs to element `at` of a result of shape `of`.

    Of a large tensor whose leading axes are those of the result it is the row of that element, else all of it.
    """
    if type(value) not in TENSORS or not is_plain(value) or is_small(value) or not at:
        return "", describe(value)
    shared = 0
    while shared < min(value.ndim, len(of)) and value.shape[shared] == of[shared]:
        shared += 1
    if not shared:
        return "", describe(value)
    rows = min(shared, value.ndim - 1)
    row = value[at[:rows]]
    around = at[rows] if shared > rows and row.ndim == 1 else 0
    return (str(list(at[:rows])) if rows else ""), _describe_tensor(row, around)


def type_in_words(value: Any) -> str:
    """What kind of thing a value is: "a list", "a NumPy array", "a function"."""
    kind = type(value)
    if kind in TENSORS:
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


def from_numpy(value: Any) -> Tensor | None:
    """A tensor with the numbers of a NumPy array or number; None where it holds something else."""
    try:
        return torch.from_numpy(np.array(value))
    except TypeError:
        return None


def is_float(kind: type) -> bool:
    """Whether a type is that of a Python float, or the NumPy number that is one."""
    return kind is float or kind is np.float64


def _head(container: Any) -> list[Any]:
    return [item for item, _ in zip(container, range(_SHOWN), strict=False)]


def _dots(container: Any) -> str:
    return ", …" if len(container) > _SHOWN else ""


def is_small(tensor: Tensor) -> bool:
    """Whether a tensor is shown as a whole."""
    return tensor.numel() <= (_TABLE if tensor.ndim == 2 else _SHOWN)


def _describe_tensor(tensor: Tensor, around: int = 0) -> str:
    """A small tensor as a whole; of others the first elements, or, of a row, those around one of them."""
    if not is_plain(tensor):
        return f"a tensor of shape {tuple(tensor.shape)}"
    tensor = tensor.detach()
    if tensor.ndim == 0:
        return _short(tensor.item())
    if tensor.ndim == 2 and is_small(tensor):
        return "[" + ", ".join("[" + ", ".join(map(_short, row)) + "]" for row in tensor.tolist()) + "]"
    first = max(0, min(around - _SHOWN // 2, tensor.numel() - _SHOWN))
    shown = ", ".join(map(_short, tensor.flatten()[first : first + _SHOWN].tolist()))
    before, after = "…, " if first else "", ", …" if tensor.numel() > first + _SHOWN else ""
    shape = f" of shape {tuple(tensor.shape)}" if tensor.ndim > 1 or tensor.numel() > _SHOWN else ""
    return f"[{before}{shown}{after}]{shape}"


def _short(item: Any) -> str:
    return f"{item:.4g}" if type(item) is float else str(item)
