"""The judge of 6.6: first loss, weights, metrics, how often the reference is asked, and the gap to the optimum."""

import dataclasses
import math

import pytest
import torch

from week6.checks import dpo_capstone
from week6.checks.dpo_capstone import N_PAIRS, NAMES, ONE_BATCH, SLACK, STEPS, WEIGHTS, Record, vector
from week6.checks.nb06 import train_on_pairs


@pytest.fixture(scope="module")
def right():
    """Two steps of the course's own on the pairs of seed 0, without the training in the exact world."""
    p = dpo_capstone.problem(0)
    record = Record(0, after=dpo_capstone.copy.deepcopy(p.reference).requires_grad_(True))
    pairs = dpo_capstone.chatbot_pairs(0)
    record.metrics = dpo_capstone._yielded(train_on_pairs, record.after, p.reference, pairs, ONE_BATCH, 0)
    return record


def judged(record):
    """The steps before the exact world that are not right."""
    return [step.title for step in STEPS[:4] if step.judge(record) != ""]


def test_the_courses_own_steps_are_right_and_the_world_comes_next(right):
    assert judged(right) == [] and [step.judge(right) for step in STEPS[4:]] == [None, None]


def test_the_first_loss_is_log_2(right):
    for loss in (math.log(2) + 0.05, -math.log(2)):
        first, *rest = right.metrics
        assert judged(dataclasses.replace(right, metrics=[first | {"loss": loss}, *rest])) == [STEPS[0].title]


@pytest.mark.parametrize("name", NAMES)
def test_each_metric_of_the_second_step_is_judged(right, name):
    first, second = right.metrics
    for wrong in (float(second[name]) + 0.02, math.nan):
        assert judged(dataclasses.replace(right, metrics=[first, second | {name: wrong}])) == [STEPS[3].title]
    assert (
        STEPS[3].judge(dataclasses.replace(right, metrics=[first, {n: second[n] for n in NAMES if n != name}])) is None
    )


def test_weights_count_from_their_way_and_the_reference_stands_still(right):
    start, way = vector(right.before), vector(right.after) - vector(right.before)
    for share, is_right in ((0.5 * WEIGHTS, True), (2 * WEIGHTS, False)):
        after = dpo_capstone.copy.deepcopy(right.after)
        torch.nn.utils.vector_to_parameters(start + (1 + share) * way, after.parameters())
        assert (judged(dataclasses.replace(right, after=after)) == []) == is_right
    assert judged(dataclasses.replace(right, reference_moved=True)) == [STEPS[1].title]
    assert judged(dataclasses.replace(right, metrics=right.metrics * 2)) == [STEPS[2].title]


def test_the_reference_is_asked_once_and_the_gap_is_a_share_of_ours(right, monkeypatch):
    w = dpo_capstone.world(0)
    asked, near = STEPS[4].judge, STEPS[5].judge
    in_world = dataclasses.replace(right, log_pi=w.log_ref, rows=(2 * N_PAIRS, N_PAIRS))
    assert asked(in_world) == ""
    assert asked(dataclasses.replace(in_world, rows=(4 * N_PAIRS, N_PAIRS)))
    assert asked(dataclasses.replace(in_world, rows=(2 * N_PAIRS, 100)))
    start = w.gap(w.log_ref)
    for our_gap, is_right in ((0.0, False), (start * (1 + 0.01), True)):
        monkeypatch.setattr(dpo_capstone, "ours", lambda seed, our_gap=our_gap: our_gap)
        assert (near(in_world) == "") == is_right
    monkeypatch.setattr(dpo_capstone, "ours", lambda seed: 0.0)
    halfway = torch.logaddexp(w.log_ref, w.log_star + math.log(9)).log_softmax(-1)  # nine parts of π* in ten
    assert w.gap(halfway) < SLACK * start and near(dataclasses.replace(in_world, log_pi=halfway)) == ""
