"""Exercise 2.6: what its cases hold, and what is said about answers that are in no catalogue."""

import math

import torch

from week6.checks import nb02
from week6.checks.stopping_02 import Bowl, Curve, stop_in_time


def kept(losses, every, patience, limit):
    """The step that is kept where the steps are 1 long each: a training loss that falls with slope 1, and Adam."""
    path = torch.arange(len(losses), dtype=torch.float64)[:, None]
    v, step = stop_in_time(
        torch.zeros(1).double(), lambda v: -v.sum(), Curve(path, losses), 1.0, every, patience, limit
    )
    assert abs(v.item() - step) < 1e-6
    return step


def test_the_best_look_before_patience_ends_is_kept():
    losses = torch.tensor([5.0, 0.0, 4.0, 0.0, 4.5, 0.0, 3.0, 0.0, 3.0, 0.0, 3.5, 0.0, 1.0], dtype=torch.float64)
    assert [kept(losses, 2, patience, 12) for patience in (1, 2, 3)] == [2, 6, 12]
    assert kept(losses, 2, 3, 11) == 6 and kept(losses, 1, 1, 12) == 1 and kept(losses.flip(0), 2, 9, 4) == 0


def test_a_nan_is_a_look_in_vain():
    losses = torch.tensor([2.0, 1.0, math.nan, 0.5, math.nan, math.nan, 0.1], dtype=torch.float64)
    assert [kept(losses, 1, patience, 6) for patience in (1, 2, 3)] == [1, 3, 6]


def test_a_bowl_pulls_to_its_lowest_point():
    v = torch.tensor([1.0, 5.0], requires_grad=True)
    Bowl(torch.tensor([2.0, 2.0]))(v).backward()
    torch.testing.assert_close(v.grad, torch.tensor([-1.0, 3.0]))


def told(change):
    """The verdict on an answer that changes what is right."""
    return nb02.q6.grade(lambda *arguments: change(*stop_in_time(*arguments))).text


def test_words_for_what_is_in_no_catalogue():
    assert "never passes your weights" in told(lambda v, step: (v + 0.01, step))
    assert "and you say that they were seen at step" in told(lambda v, step: (v, step + 17))
    assert told(lambda v, step: (v, step, 0.0)).startswith("With all inputs: 3 values, expected 2")
    first = nb02.q6.grade(lambda start, loss, look, *rest: (start, 0)).text
    assert first.startswith("You return what was seen at step 0, with a held-out loss of 1.")


def test_an_answer_in_numpy_is_handed_on_in_tensors():
    """For that the reference trains too."""

    def in_numpy(*arguments):
        v, step = stop_in_time(*arguments)
        return v.numpy(), step

    stop, start = nb02.q6.or_ours(in_numpy), torch.zeros(2)
    v, _ = stop(start, Bowl(torch.ones(2)), lambda v: v.sum().item(), 0.1, 1, 1, 3)
    assert torch.equal(v, start) and v.dtype == torch.float32
