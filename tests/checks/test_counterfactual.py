"""A diagnosis is the mistake whose numbers came: one slip before two, and none where no slip explains them."""

import pytest
import torch

from week6.checks.counterfactual import Slip, alike, slips


def _is_sum(record, *, sign=1.0, shift=0.0, power=1):
    return alike(record, sign * torch.arange(3.0) ** power + shift)


SYMPTOMS = slips(
    _is_sum,
    sign=(Slip("sign", (-1.0,), "A sign is turned."),),
    shift=(Slip("shift", (1.0, 2.0), "Something is added."), Slip("far", (10.0,), "Much is added.")),
    power=(Slip("power", (2, 3), "A power is wrong."),),
)


def _told(record):
    return [symptom.name for symptom in SYMPTOMS if symptom.seen(torch.tensor(record))]


@pytest.mark.parametrize(
    ("came", "names"),
    [
        ([0.0, -1.0, -2.0], ["sign"]),
        ([2.0, 3.0, 4.0], ["shift"]),
        ([0.0, 1.0, 8.0], ["power"]),
        ([1.0, 0.0, -1.0], ["sign, shift"]),
        ([2.0, 3.0, 6.0], ["shift, power"]),
        ([0.0, 1.0, 2.0], []),
        ([2.0, 1.0, -2.0], []),
        ([0.0, 1.0, 16.0], []),
    ],
)
def test_what_one_slip_or_two_make_is_named_and_nothing_else(came, names):
    assert _told(came) == names


def test_one_slip_is_looked_for_before_two_and_two_of_one_choice_are_none():
    names = [symptom.name for symptom in SYMPTOMS]
    singly, doubly = ["sign", "shift", "far", "power"], ["sign, shift", "sign, far", "sign, power", "shift, power"]
    assert names == [*singly, *doubly, "far, power"]
    assert SYMPTOMS[4].message == "A sign is turned. And: Something is added."


def test_alike_sees_shape_and_size():
    assert alike([1.0, 2.0], torch.tensor([1.00001, 2.0])) and not alike([1.0, 2.0], [1.001, 2.0])
    assert not alike([1.0], 1.0) and not alike([float("nan")], [float("nan")])
