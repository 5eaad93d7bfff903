"""Messages from a student's process: numbers arrive as they are, all else harmless, forged ones are refused."""

import io
import json
import struct

import numpy as np
import pytest
import safetensors.torch
import torch

from week6.grading import wire
from week6.sequences import Rollout


class Bytes:
    def __init__(self, data):
        self.file = io.BytesIO(data)

    def receive(self, count):
        data = self.file.read(count)
        if len(data) < count:
            raise EOFError
        return data


def through(value):
    return wire.decode(Bytes(wire.encode(value)))


def forged(told, tensors=b""):
    text = told if isinstance(told, bytes) else json.dumps(told).encode()
    return Bytes(struct.pack("<II", len(text), len(tensors)) + text + tensors)


@pytest.mark.parametrize(
    "value",
    [None, True, 3, 10**30, 0.1, float("inf"), "é", ..., [1, [2]], (1, "a"), {1, 2}, {"a": (1, 2), 3: None}, []],
)
def test_plain_values(value):
    found = through(value)
    assert found == value and type(found) is type(value)


def test_tensors_keep_values_dtype_shape_and_whether_a_gradient_is_to_be_had():
    for dtype in (torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool):
        value = torch.tensor([[1, 0, 1]], dtype=dtype).T
        assert torch.equal(through(value), value) and through(value).dtype == dtype
    leaf = torch.ones(2, requires_grad=True)
    assert through(leaf * 2).requires_grad and through([leaf.detach()])[0].requires_grad is False
    assert through(torch.tensor(float("nan"))).isnan()
    assert isinstance(through(np.arange(3)), np.ndarray) and through(np.float32(2)) == 2


def test_a_rollout_is_a_rollout():
    y = Rollout(*(torch.ones(2, 3) for _ in range(5)), torch.ones(2).bool())
    assert isinstance(through({"answers": y})["answers"], Rollout)
    assert isinstance(wire.decode(forged({"data": ["Rollout", [1, 2]]})), wire.Odd)


@pytest.mark.parametrize(
    "value",
    [object(), lambda: 0, torch.ones(1, dtype=torch.complex64), torch.eye(2).to_sparse(), "x" * 200_000, [0] * 200_000,
     10**400, np.array([object()])],
)  # fmt: skip
def test_all_else_is_an_odd_of_the_same_name(value):
    assert isinstance(through(value), wire.Odd)


def test_no_code_of_a_hostile_object_runs():
    class Hostile(list):
        def __iter__(self):
            raise AssertionError

        __len__ = __repr__ = __reduce__ = __iter__

    class Tuple(tuple):
        __iter__ = Hostile.__iter__

    assert type(through(Hostile())).__name__ == "Hostile" and through(Tuple([1])) == (1,)


def test_too_deep_and_too_large():
    deep = []
    for _ in range(50):
        deep = [deep]
    through(deep)
    with pytest.raises(ValueError, match="too large"):
        wire.encode(torch.zeros(2**24 + 1))


@pytest.mark.parametrize(
    "message",
    [
        forged(b"{"), forged(b"[" * 10_000), forged([1]), forged({"a": 1, "b": 2}), forged({"tensor": ["0", True]}),
        forged({"dict": [[1]]}), forged({"list": 3}), forged({"data": ["Popen", []]}),
        forged({"dict": [[{"list": []}, 1]]}),
        forged(None, b"no tensors"), Bytes(struct.pack("<II", 2**31, 0)), forged({"odd": 3}), forged({"eval": "1"}),
    ],
)  # fmt: skip
def test_forged_messages_are_refused(message):
    with pytest.raises(ValueError, match="message"):
        wire.decode(message)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: {"list": [x]},
        lambda x: {"tuple": [x]},
        lambda x: {"dict": [["a", x]]},
        lambda x: {"data": ["Pairs", [x]]},
    ],
    ids=["list", "tuple", "dict", "data"],
)
def test_what_is_nested_deeper_than_any_value_is_refused(wrap):
    """A few levels more cost little; without an end they would take all of the stack."""
    told = 1
    for _ in range(wire.DEEPEST):
        told = wrap(told)
    wire.decode(forged(told))
    for _ in range(4):
        told = wrap(told)
    with pytest.raises(ValueError, match="message"):
        wire.decode(forged(told))


def test_what_is_told_ends_at_the_same_depth_whatever_it_is_in():
    """The innermost number is left out where the walls around it are too many, but not before."""
    batch = Rollout(*(torch.ones(2, 3) for _ in range(5)), torch.ones(2).bool())
    for wrap in (lambda x: [x], lambda x: (x,), lambda x: {"a": x}):
        for levels, deep in ((wire.DEEPEST - 1, False), (wire.DEEPEST, True)):
            value = batch
            for _ in range(levels):
                value = wrap(value)
            assert ("odd" in json.dumps(wire._told(value, {}, 0))) == deep


def test_the_end():
    with pytest.raises(EOFError):
        wire.decode(Bytes(b"\x01"))
    blob = safetensors.torch.save({"0": torch.ones(2)})
    assert wire.decode(forged({"tensor": ["0", False]}, blob)).tolist() == [1, 1]
