"""Real training of a real GPT-2 against the known optimum: three seeds, six words, 1296 sentences."""

import copy
import itertools

import pytest

from week6.dpo import DPOConfig
from week6.exact import small_world, train_exact_dpo
from week6.machine.optim import make_optimizer
from week6.ppo import AdaptiveKL, PolicyWithValue, PPOConfig, train_ppo

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_dpo_on_sampled_pairs_comes_within_a_twelfth_of_a_nat(seed):
    world, config = small_world(), DPOConfig(steps=120, batch_size=256, learning_rate=2e-3, beta=1.0)
    reference = world.new_policy(seed)
    before = world.report(reference, reference, config.beta)
    after = world.report(train_exact_dpo(world, reference, config, 20_000, seed), reference, config.beta)
    assert before.gap > 0.25
    assert after.gap < 0.08
    assert after.objective > before.objective


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_ppo_on_the_true_reward_comes_within_a_fiftieth_of_a_nat(seed):
    world = small_world()
    config = PPOConfig(
        steps=90, batch_size=256, learning_rate=3e-3, beta=0.5, value_coef=0.5, max_new_tokens=world.length
    )
    reference = world.new_policy(seed)
    actor = PolicyWithValue(copy.deepcopy(reference))
    before = world.report(actor.policy, reference, config.beta)
    loop = train_ppo(
        actor,
        reference,
        world.score,
        *world.prompts(config.batch_size),
        make_optimizer(actor, config.learning_rate, eps=1e-5),
        AdaptiveKL(config.beta, target=1.0, horizon=10_000),
        config,
        seed,
    )
    rows = [row for row, _ in loop]
    after = world.report(actor.policy, reference, config.beta)
    assert before.gap > 1.0
    assert after.gap < 0.02
    # What the loop reports from its samples is what the world counts: the last 20 of 256 answers each, as the policy
    # still moves a little; the standard error of their mean is 0.02.
    measured = sum(row["objective"] for row in itertools.islice(rows, 70, None)) / 20
    assert measured == pytest.approx(after.objective, abs=0.1)
