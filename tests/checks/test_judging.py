"""What a step's check raises becomes its judgement; a symptom is asked only at the step that failed."""

import numpy as np
import pytest
import torch

from week6.checks.capstone import Step
from week6.checks.judging import Missing, Wrong, at, judged, numbers


def raising(error=None):
    def check(record):
        if error is not None:
            raise error

    return judged(check)


def test_a_check_is_content_or_misses_a_part_or_says_what_is_wrong():
    assert raising()({}) == ""
    assert raising(Missing())({}) is None
    assert raising(Wrong("it is 1, expected 2"))({}) == "it is 1, expected 2"
    with pytest.raises(ZeroDivisionError):
        raising(ZeroDivisionError())({})


def test_a_symptom_is_asked_at_the_first_step_that_is_not_right():
    steps = [Step("one", lambda record: ""), Step("two", lambda record: record), Step("three", lambda record: "no")]
    asked = {step.title: at(steps, step.title, lambda record: True) for step in steps}
    assert [title for title, seen in asked.items() if seen("wrong")] == ["two"]
    assert [title for title, seen in asked.items() if seen("")] == ["three"]
    assert [title for title, seen in asked.items() if seen(None)] == ["two"]
    assert not at(steps, "two", lambda record: False)("wrong")


@pytest.mark.parametrize(
    "value",
    [
        [[1, 2.5]],
        np.array([[1.0, 2.5]]),
        torch.tensor([[1.0, 2.5]]),
        [[torch.tensor(1.0), 2.5]],
        (torch.tensor([1, 2.5]),),
    ],
)
def test_numbers_of_any_kind_are_read(value):
    assert numbers({"x": value}, "x", 1, 2).tolist() == [[1.0, 2.5]]


def test_what_is_no_table_of_that_shape_is_said():
    with pytest.raises(Missing):
        numbers({}, "x", 2)
    with pytest.raises(Wrong, match=r"`x` has shape \(3,\), expected \(2,\)"):
        numbers({"x": [1, 2, 3]}, "x", 2)
    with pytest.raises(Wrong, match=r"`x` is str, expected numbers"):
        numbers({"x": "many"}, "x", 2)
    for value in (float("nan"), float("inf")):
        with pytest.raises(Wrong, match="`x` holds nan or infinity, expected numbers"):
            numbers({"x": [1, value]}, "x", 2)
