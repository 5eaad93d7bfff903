"""What counts as the same result: values first, in whatever type they come, then what cannot stand for them."""

import numpy as np
import pytest
import torch
from torch import tensor

from week6.checks.compare import cast, difference, same_types

VECTOR = tensor([0.25, -1.5, 3.0])
MASK = tensor([True, False, True])
INDEX = tensor([4, 0])


@pytest.mark.parametrize(
    ("got", "want"),
    [
        (VECTOR.double(), VECTOR),
        (VECTOR.numpy(), VECTOR),
        (VECTOR.double().numpy(), VECTOR),
        ([0.25, -1.5, 3], VECTOR),
        ((tensor(0.25), tensor(-1.5), tensor(3.0)), VECTOR),
        (torch.nn.Parameter(VECTOR), VECTOR),
        (VECTOR, VECTOR.double()),
        (tensor([1, 0]), tensor([1.0, 0.0])),
        (0.5, tensor(0.5)),
        (np.float32(0.5), tensor(0.5)),
        (np.array(0.5), tensor(0.5)),
        (tensor(0.5), 0.5),
        (np.float32(0.5), 0.5),
        (1, 1.0),
        (MASK.numpy(), MASK),
        (np.bool_(True), True),
        (INDEX.numpy(), INDEX),
        ([4, 0], INDEX),
        ([VECTOR, 0.5], (VECTOR, tensor(0.5))),
        (torch.stack([VECTOR, VECTOR]), (VECTOR, VECTOR)),
        (np.stack([VECTOR, VECTOR]), (VECTOR, VECTOR)),
        ((1.0, 2.0), [1.0, 2.0]),
        ({"a": np.float64(1), "b": [4, 0]}, {"a": 1.0, "b": INDEX}),
    ],
)
def test_right_values_are_right_in_whatever_type_they_come(got, want):
    assert difference(got, want, 1e-6, 1e-6) is None
    ours = cast(got, want)
    assert same_types(ours, want) and difference(ours, want, 1e-6, 1e-6) is None


@pytest.mark.parametrize(
    ("got", "want", "words"),
    [
        (MASK.int(), MASK, "the values are right, but of torch.int32, expected torch.bool: a mask"),
        (MASK.float(), MASK, "the values are right, but of torch.float32, expected torch.bool"),
        (MASK, MASK.float(), "the values are right, but of torch.bool, expected torch.float32"),
        (INDEX.int(), INDEX, "the values are right, but of torch.int32, expected torch.int64"),
        (INDEX.float(), INDEX, "the values are right, but of torch.float32, expected torch.int64"),
        (tensor([1.001]).bfloat16(), tensor([1.001]), "right as far as torch.bfloat16 can hold them"),
        (tensor([1.0001]).half(), tensor([1.0001]), "right as far as torch.float16 can hold them"),
        (VECTOR[:, None], VECTOR, "shape (3, 1), expected (3,): one axis too many (the values themselves are right)"),
        (tensor([0.5]), tensor(0.5), "shape (1,), expected (): one axis too many (the values themselves are right)"),
        (tensor([0.7]), tensor(0.5), "shape (1,), expected (): one axis too many"),
        (tensor(0.5), tensor([0.5]), "shape (), expected (1,): one axis too few (the values themselves are right)"),
        (VECTOR[:2], VECTOR, "shape (2,), expected (3,)"),
        (VECTOR + 0j, VECTOR, "expected a plain tensor"),
        ([VECTOR[:1], VECTOR], VECTOR, "got a list, expected a tensor"),
        (VECTOR[:2], (VECTOR, VECTOR), "got a tensor, expected a tuple of 2 values"),
        (True, 1.0, "got a Python bool, expected a number"),
    ],
)
def test_what_is_told_about_right_values_of_a_type_or_shape_that_cannot_stand_for_them(got, want, words):
    found = difference(got, want, 1e-6, 1e-6)
    assert found is not None and found.kind == "form" and words in found.text, found
    assert ("right" in found.text) == ("right" in words)


@pytest.mark.parametrize("wrong", [MASK.logical_not().int(), tensor([1, 2, 1])])
def test_wrong_values_are_judged_before_their_dtype(wrong):
    found = difference(wrong, MASK)
    assert found is not None and found.kind == "value" and "int32" not in found.text


def test_the_element_that_differs_is_shown_though_it_is_not_among_the_first():
    want = torch.zeros(4, 10)
    got = want.clone()
    got[2, 9] = 0.125
    found = difference(got, want)
    assert found is not None and (found.at, found.of) == ((2, 9), (4, 10))
    assert found.text == "at index [2, 9] of a result of shape (4, 10): got 0.125, expected 0"


def test_long_strings_are_shown_where_they_differ():
    want = "x" * 100 + "<|end|>" + "y" * 100
    found = difference(want.replace("end", "END"), want)
    assert found is not None and found.text.startswith("at character 102 got …") and "<|END|>" in found.text


def test_in_a_quiz_a_list_is_a_set_and_what_is_wrong_is_named_but_not_what_is_right():
    assert difference(["a", "B"], {"A", "B"}, quiz=True) is None
    found = difference({"a", "c"}, {"a", "b"}, quiz=True)
    assert found is not None and found.text == "'c' does not belong there, and 1 is missing"


@pytest.mark.parametrize(
    ("got", "want", "words"),
    [
        ([True, False], {"A", "E"}, "got a set of True and False, expected a set of strings"),
        ({"3", "4"}, {3, 4}, "got a set of strings, expected a set of numbers"),
        ({1, "b"}, {"a", "b"}, "got a set of numbers and strings, expected a set of strings"),
    ],
)
def test_elements_of_another_kind_are_called_that_and_not_counted(got, want, words):
    found = difference(got, want, quiz=True)
    assert found is not None and (found.kind, found.text) == ("form", words)
