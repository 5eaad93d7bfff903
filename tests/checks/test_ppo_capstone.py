"""The judge of 5.6: each part of a step is judged for itself; a number that is off is seen, and a run that fails."""

import copy
import dataclasses

import pytest
import torch

from week6.checks import ppo_capstone
from week6.checks.nb05 import ppo_step
from week6.checks.ppo_capstone import GAIN, NAMES, STEPS, WEIGHTS, Record, vector
from week6.checks.ppo_problem import ONE_STEP
from week6.checks.ppo_symptoms_gradients import passes_of


@pytest.fixture(scope="module")
def right():
    """One step of the course's own on the problem of seed 0, with the run left out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ppo_capstone, "_run", lambda answer, seed: (0.0, 0.0))
        return ppo_capstone.run(ppo_step, 0)


def judged(record):
    """The steps up to the run that are not right."""
    return [step.title for step in STEPS[:-1] if step.judge(record) != ""]


def changed(record, name, value):
    return dataclasses.replace(record, parts=record.parts | {name: value})


def test_the_courses_own_step_is_right(right):
    assert judged(right) == [] and right.ended is not None


def test_the_courses_own_passes_feel_what_they_should_and_others_do_not(right):
    passes = passes_of(right)
    assert len(passes) == ONE_STEP.epochs and all(f.right(0) and f.right(1) for f in passes)
    assert float(passes[0].log_rho.abs().max()) < 1e-4 < float(passes[-1].log_rho.abs().max())
    halved = copy.deepcopy(right)
    halved.passes[1].of_values *= 0.5
    assert [f.right(1) for f in passes_of(halved)] == [True, False, True, True] and passes_of(halved)[1].right(0)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "answers"])
def test_a_number_that_is_off_is_seen_and_padding_is_not(right, name):
    part, mask = right.parts[name].clone(), right.answers.response_mask
    real = (0, 0) if part.ndim == 2 else 0
    for wrong in (part[real] + 0.01 * (1 + part[real].abs()), torch.nan):
        other = part.clone()
        other[real] = wrong
        assert len(judged(changed(right, name, other))) == 1
    if part.ndim == 2:
        other = part.clone()
        other[~mask] = 7.0
        assert judged(changed(right, name, other)) == []
    assert len(judged(changed(right, name, part[:-1]))) == 1


def test_a_part_that_is_missing_is_not_there_yet(right):
    record = dataclasses.replace(right, parts={n: right.parts[n] for n in ("answers", "scores")})
    assert [step.judge(record) for step in STEPS[:2]] == ["", ""]
    assert [step.judge(record) for step in STEPS[2:8]] == [None] * 6


def test_weights_count_from_their_way_and_the_reference_stands_still(right):
    start, way = vector(right.before), vector(right.after) - vector(right.before)
    for share, is_right in ((0.5 * WEIGHTS, True), (2 * WEIGHTS, False), (torch.nan, False)):
        after = ppo_capstone.copy.deepcopy(right.after)
        torch.nn.utils.vector_to_parameters(start + (1 + share) * way, after.parameters())
        assert (judged(dataclasses.replace(right, after=after)) == []) == is_right
    assert len(judged(dataclasses.replace(right, reference_moved=True))) == 1
    assert len(judged(dataclasses.replace(right, gradient_steps=right.gradient_steps + 1))) == 1
    assert judged(dataclasses.replace(right, gradient_steps=None)) == []  # an optimizer of one's own


def test_a_run_must_gain_enough_and_stay_near(right, monkeypatch):
    monkeypatch.setattr(ppo_capstone, "ours", lambda seed: (2.0, 3.0))
    monkeypatch.setattr(ppo_capstone, "at_the_start", lambda seed: 1.0)
    enough = 1.0 + GAIN + 0.01

    def verdict(ended):
        return STEPS[-1].judge(Record(0, {}, right.after, None, False, ended))

    assert verdict(None) is None and verdict((enough, 5.9)) == ""
    assert verdict((enough - 0.02, 3.0)) and verdict((enough, 6.1))
