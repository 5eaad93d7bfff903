"""The failure museum on the lesson's chatbot: each bug shows its own symptom and no other, a healthy run shows none."""

from types import SimpleNamespace

import pytest
import torch

from tests.runs import quick_preset, task_once
from week6 import log_probs, ppo
from week6.classroom import museum
from week6.classroom.lesson import lesson
from week6.ppo import PolicyWithValue
from week6.run.models import frozen_copy, new_policy

BUGS = sorted(museum.BUGS)


@pytest.fixture(scope="module")
def course():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield lesson("reward_model")
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def healthy(course):
    return museum.exhibit(None, course)


def test_a_healthy_run_shows_no_symptom_and_learns(healthy):
    assert [name for name in BUGS if museum.BUGS[name].seen(healthy, healthy)] == []
    assert healthy["first_ratio_deviation"].max() < 1e-4 and abs(healthy["kl"][0]) < 1e-4
    assert healthy["score"].tail(5).mean() > healthy["score"].head(3).mean() + 0.3


@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_shows_its_own_symptom_and_no_other(bug, course, healthy):
    run = museum.exhibit(bug, course)
    assert len(run) == len(healthy) == museum.STEPS and "gold" in run
    assert [name for name in BUGS if museum.BUGS[name].seen(run, healthy)] == [bug]


def test_an_exhibit_is_held_near_sft_and_learns_twice_as_fast_as_the_preset(monkeypatch):
    seen = []
    monkeypatch.setattr(museum, "watch_ppo", lambda *given: seen.append(given) or [])
    task = task_once("assistant")
    sft = frozen_copy(new_policy(quick_preset(), task.tokenizer, 0))
    course = SimpleNamespace(preset=quick_preset(), sft=sft, reward_model="r", task=task, device="cpu")
    museum.exhibit(None, course, steps=3, seed=5)
    ((actor, reference, reward_model, _, optimizer, _, config, seed),) = seen
    assert reference is sft and actor.policy is not sft and reward_model == "r" and seed == 5
    assert (config.steps, config.batch_size) == (3, museum.BATCH_SIZE)
    rates = {config.learning_rate, *(group["lr"] for group in optimizer.param_groups)}
    assert rates == {2 * quick_preset().ppo.learning_rate}


def test_a_runaway_kl_is_that_of_the_sign_only_after_a_good_start(healthy):
    run_away = healthy.assign(kl=3 * healthy["kl"])
    assert museum.BUGS["sign"].seen(run_away, healthy)
    assert not museum.BUGS["sign"].seen(run_away.assign(entropy=0.6 * healthy["entropy"]), healthy)


@pytest.mark.parametrize("bug", BUGS)
def test_afterwards_everything_is_as_it_was(bug):
    def functions():
        return [
            *(vars(ppo)[name] for name in ("sample", "shape_rewards", "response_forward", "response_log_probs")),
            *(vars(log_probs)[name] for name in ("position_ids", "response_forward")),
            PolicyWithValue.eval,
        ]

    before = functions()
    with pytest.raises(ZeroDivisionError), museum.BUGS[bug].switch():
        assert functions() != before
        raise ZeroDivisionError
    assert functions() == before


def test_the_random_state_is_left_alone(course):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    museum.exhibit("dropout", course, steps=1)
    assert torch.equal(torch.rand(3), expected)


def test_letters_stand_for_different_bugs_and_are_those_of_the_exercise():
    from week6.checks import nb05

    assert nb05.q5.value == museum.EXHIBITS and len(set(museum.EXHIBITS.values())) == len(museum.EXHIBITS)
    assert set(museum.EXHIBITS.values()) < set(BUGS)


def test_wrong_arguments_are_named(course):
    with pytest.raises(ValueError, match="bug: got 'typo'"):
        museum.exhibit("typo", course)
    with pytest.raises(ValueError, match="reward model"):
        museum.exhibit(None, lesson())
