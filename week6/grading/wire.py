"""What goes over the pipe between a grader and the process that runs a student's code.

The grader is believed: it sends pickles. The student's process is believed nothing: what it sends is JSON, with the
tensors as safetensors, and whatever has no place there arrives as an Odd, of which only the type's name is known.
"""

from __future__ import annotations

import json
import struct
from dataclasses import fields
from typing import Any, Protocol

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from week6.sequences import Pairs, Rollout

LARGEST = 64 * 2**20
"""Bytes of one message from a student's process."""
DEEPEST = 20
"""Levels of lists in lists."""
LONGEST = 100_000
"""Items of a list or characters of a string."""
DATACLASSES = {kind.__name__: kind for kind in (Rollout, Pairs)}
HEAD = struct.Struct("<II")
"""Bytes of the JSON, bytes of the tensors."""


class Pipe(Protocol):
    """One end of a pipe; `receive` gives exactly so many bytes, or raises EOFError."""

    def send(self, data: bytes) -> None: ...  # noqa: D102
    def receive(self, count: int) -> bytes: ...  # noqa: D102


class Odd:
    """Something that has no place in a message."""


def encode(value: Any) -> bytes:
    """A message, from the student's side."""
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_told(value, tensors, 0)).encode()
    blob = safetensors.torch.save(tensors) if tensors else b""
    if len(text) + len(blob) > LARGEST:
        raise ValueError(f"the result is too large: {(len(text) + len(blob)) / 2**20:.0f} MiB, expected 64 at most")
    return HEAD.pack(len(text), len(blob)) + text + blob


def decode(pipe: Pipe) -> Any:
    """The next message of a student's process. Raises ValueError for one that is malformed, EOFError at the end."""
    size, rest = HEAD.unpack(pipe.receive(HEAD.size))
    if size + rest > LARGEST:
        raise ValueError("a message above 64 MiB")
    try:
        told = json.loads(pipe.receive(size))
        tensors = safetensors.torch.load(pipe.receive(rest)) if rest else {}
        return _read(told, tensors, 0)
    except EOFError:
        raise
    except Exception as error:  # whatever a forged message does to the parsers
        raise ValueError(f"a malformed message: {type(error).__name__}") from None


def _told(value: Any, tensors: dict[str, Tensor], depth: int) -> Any:
    """A value in JSON: plain ones as they are, all others as {kind: content}."""
    kind = type(value)
    if value is None or kind in (bool, float) or (kind is int and abs(value) < 2**200):
        return value
    if kind is str and len(value) <= LONGEST:
        return value
    if depth > DEEPEST:
        return {"odd": kind.__name__}
    if kind in (Tensor, torch.nn.Parameter) or issubclass(kind, np.ndarray | np.generic):
        return _tensor(value, tensors)
    if value is ...:
        return {"ellipsis": 0}
    if issubclass(kind, tuple) or (kind in (list, set, frozenset)):
        items = list(tuple.__iter__(value)) if issubclass(kind, tuple) else list(value)
        if len(items) <= LONGEST:
            name = "tuple" if issubclass(kind, tuple) else kind.__name__
            return {name: [_told(item, tensors, depth + 1) for item in items]}
    if kind is dict and len(value) <= LONGEST:
        return {"dict": [[_told(part, tensors, depth + 1) for part in pair] for pair in value.items()]}
    if kind in DATACLASSES.values():
        return {"data": [kind.__name__, [_told(getattr(value, f.name), tensors, depth + 1) for f in fields(value)]]}
    return {"odd": str(type.__getattribute__(kind, "__name__"))[:60]}


def _tensor(value: Any, tensors: dict[str, Tensor]) -> Any:
    array = not isinstance(value, Tensor)
    try:
        tensor = torch.from_numpy(np.array(value)) if array else value.detach()
        plain = tensor.layout == torch.strided and not (tensor.is_complex() or tensor.is_quantized or tensor.is_nested)
        if not plain or tensor.device.type != "cpu":
            return {"odd": "tensor of another kind"}
        name = str(len(tensors))
        tensors[name] = tensor.clone().contiguous()
    except (TypeError, RuntimeError):  # an array of objects
        return {"odd": type(value).__name__}
    return {"array": name} if array else {"tensor": [name, bool(value.requires_grad)]}


def _read(told: Any, tensors: dict[str, Tensor], depth: int) -> Any:
    if told is None or type(told) in (bool, int, float, str):
        return told
    if depth > DEEPEST + 2 or type(told) is not dict or len(told) != 1:
        raise ValueError("no such value")
    ((kind, content),) = told.items()

    def inner(parts: Any) -> list[Any]:
        return [_read(part, tensors, depth + 1) for part in parts]

    if kind == "tensor":
        name, needs_grad = content
        tensor = tensors[name].clone()
        return tensor.requires_grad_(bool(needs_grad) and tensor.is_floating_point())
    if kind == "array":
        return tensors[content].numpy()
    if kind == "ellipsis":
        return ...
    if kind in ("list", "tuple", "set", "frozenset"):
        return {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}[kind](inner(content))
    if kind == "dict":
        return {_read(key, tensors, depth + 1): _read(item, tensors, depth + 1) for key, item in content}
    if kind == "data":
        name, parts = content
        return _dataclass(DATACLASSES[name], inner(parts))
    if kind == "odd":
        return type("".join(c for c in content if c.isprintable())[:60] or "object", (Odd,), {})()
    raise ValueError("no such kind")


def _dataclass(kind: Any, parts: list[Any]) -> Any:
    """A Rollout or Pairs; an Odd where its parts are not tensors, one for each field."""
    fit = len(parts) == len(fields(kind)) and all(type(part) is Tensor for part in parts)
    return kind(*parts) if fit else Odd()
