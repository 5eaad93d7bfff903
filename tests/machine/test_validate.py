"""The checks of arguments: what lies just inside a bound passes, what lies on its other side is refused by name."""

import numpy as np
import pytest
import torch

from week6.machine import validate as check

TABLE = [  # a check, what passes, what is refused
    (check.positive, [1e-30, 1, 2.5, np.float32(0.1), torch.tensor(3.0)], [0, 0.0, -1e-30, float("inf"), True, "1"]),
    (check.count, [0, 0.0, 1e-30, 7, torch.tensor(0)], [-1e-30, -1, float("inf"), float("nan"), None]),
    (check.whole, [1, 2, np.int64(5), 2**63 - 1], [0, -1, 1.0, True, 2**63]),
]


@pytest.mark.parametrize(("function", "inside", "outside"), TABLE)
def test_both_sides_of_a_bound(function, inside, outside):
    for value in inside:
        function("x", value)
    for value in outside:
        with pytest.raises(ValueError, match="^x: got .*, expected"):
            function("x", value)


def test_a_whole_number_may_have_another_least_value():
    check.whole("x", 0, 0)
    check.whole("x", 3, 3)
    with pytest.raises(ValueError, match="expected a whole number ≥ 3"):
        check.whole("x", 2, 3)


def test_an_axis_counts_from_both_ends():
    tensor = torch.zeros(2, 3)
    for dim in (-2, -1, 0, 1):
        check.axis("dim", dim, tensor)
    for dim in (-3, 2):
        with pytest.raises(ValueError, match=f"^dim: got {dim}, expected an axis"):
            check.axis("dim", dim, tensor)


def test_probabilities_sum_to_one_within_the_rounding():
    check.log_probabilities("p", torch.tensor([[0.5, 0.5009]]).log())
    check.log_probabilities("p", torch.tensor([[0.5], [0.5]]).log(), dim=0)
    with pytest.raises(ValueError, match=r"^p: got probabilities that sum to 1\.002"):
        check.log_probabilities("p", torch.tensor([[0.5, 0.5], [0.5, 0.502]]).log())


def test_masks_hold_zeros_and_ones_and_a_one_in_every_row():
    check.mask_rows("m", torch.tensor([[0, 1], [1, 1]]))
    with pytest.raises(ValueError, match="^m: got values other than 0 and 1"):
        check.mask_rows("m", torch.tensor([[0, 2]]))
    with pytest.raises(ValueError, match=r"^m: got an empty row \(index 1\)"):
        check.mask_rows("m", torch.tensor([[False, True], [False, False]]))


def test_a_result_that_is_not_finite_is_traced_to_its_input():
    check.finite(torch.ones(2), a=torch.tensor(float("nan")))  # a part that the result does not need
    nan, inf = torch.tensor([1.0, float("nan")]), torch.tensor([1.0, float("-inf")])
    for a, b, text in ((nan, inf, "a: got 1 NaN"), (torch.ones(2), inf, "b: got 1 infinite"), (1e30, 1e30, "a and b")):
        with pytest.raises(ValueError, match=f"^{text}"):
            check.finite(torch.as_tensor(a) * torch.as_tensor(b) * torch.tensor(1e30), a=a, b=b)


def test_texts_are_lists_of_one_length():
    check.texts(prompts=["a"], answers=["b"])
    for wrong, text in (
        ([], "answers: got 0 texts, expected 1, one for each of prompts"),
        ([3], "answers: row 1 is 3"),
    ):
        with pytest.raises(ValueError, match=f"^{text}"):
            check.texts(prompts=["a"], answers=wrong)
    with pytest.raises(ValueError, match="^prompts: got 0 texts, expected one or more"):
        check.texts(prompts=[], answers=[])


def test_a_call_with_a_wrong_name_is_python_s_own_error_that_says_of_what():
    @check.arguments
    def halve(x: float) -> float:
        return x / 2

    with pytest.raises(TypeError, match=r"halve\(\) got an unexpected keyword argument 'y'"):
        halve(y=1.0)
