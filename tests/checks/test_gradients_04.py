"""The first pass whose gradient is not PPO's is found, and what an optimizer makes of right ones."""

import pytest

from tests.checks.capstones.altered import altered
from week6.checks.bench_04 import measure
from week6.checks.capstone_04 import train_by_ppo
from week6.checks.gradients_04 import first_wrong, leaves_adam_at, piles_up, steps_of
from week6.checks.steps_04 import ALONG, aligned

LOSS = "clipped_policy_loss(language.log_probs(policy)[y], old, advantages, mask, clip)"


def test_of_ppo_every_pass_is_right():
    record = measure(train_by_ppo, 0)
    assert first_wrong(record) is None and leaves_adam_at(record) is None and not piles_up(record)
    assert [len(steps_of(record, i)) for i in (0, 29)] == [8, 8] and aligned(record) == pytest.approx(1)


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ([(LOSS, LOSS.replace("advantages", "advantages.clamp(min=0)"))], (0, 0)),
        ([(LOSS, LOSS.replace("clip)", "2 * clip)"))], (0, 2)),
        ([(LOSS, LOSS.replace("old,", "ref,"))], (1, 0)),
    ],
)
def test_the_first_wrong_pass_is_found(changes, where):
    """A wrong ε acts on the first token that leaves 1 ± 0.2, which with steps of 0.1 takes two of them."""
    found = first_wrong(measure(altered(train_by_ppo, *changes), 0))
    assert found is not None and found[:2] == where


def test_who_leaves_out_bad_tokens_does_not_go_the_way_of_the_advantages():
    """Over twenty languages the mean cosine is 0.78 at most."""
    assert (
        aligned(measure(altered(train_by_ppo, (LOSS, LOSS.replace("advantages", "advantages.clamp(min=0)"))), 0))
        < ALONG
    )


def test_gradients_that_are_left_and_steps_of_another_size_are_seen():
    left = measure(altered(train_by_ppo, ("optimizer.zero_grad()", "critic.grad = None")), 0)
    assert piles_up(left) and first_wrong(left) is None
    longer = measure(altered(train_by_ppo, ("lr=0.1", "lr=0.15")), 0)
    assert leaves_adam_at(longer) == (0, 0) and first_wrong(longer) is None and not piles_up(longer)
