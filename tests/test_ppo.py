import copy
import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from tests.tiny import EOS, ragged, tiny_gpt2
from week6.log_probs import response_log_probs
from week6.machine import optim
from week6.machine.optim import generator_for, make_optimizer, minibatch
from week6.ppo import (
    AdaptiveKL,
    PolicyWithValue,
    PPOConfig,
    clipped_policy_loss,
    clipped_value_loss,
    gae,
    ppo_update,
    shape_rewards,
    train_ppo,
)
from week6.sampling import sample
from week6.sequences import Rollout

NAN = float("nan")


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mask_of(*lengths: int) -> torch.Tensor:
    return torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)


# --- rewards per token ----------------------------------------------------------------------------------------------


def test_rewards_by_hand():
    scores = torch.tensor([5.0, -2.0])
    log_probs = torch.tensor([[-1.0, -2.0, -3.0], [-0.5, 77.0, NAN]])
    ref_log_probs = torch.tensor([[-1.5, -1.0, -3.5], [-0.25, -9.0, 0.0]])
    rewards = shape_rewards(scores, log_probs, ref_log_probs, mask_of(3, 1), beta=0.2)
    expected = [[-0.1, 0.2, -0.1 + 5.0], [0.05 - 2.0, 0.0, 0.0]]  # the score stands at the EOS itself
    torch.testing.assert_close(rewards, torch.tensor(expected))


def test_rewards_sum_to_one_sample_of_the_objective():
    scores, p, q, mask = normal(3, seed=1), normal(3, 5, seed=2), normal(3, 5, seed=3), mask_of(5, 2, 3)
    total = shape_rewards(scores, p, q, mask, 0.3).sum(-1)
    for i in range(3):
        kl = sum(float(p[i, t] - q[i, t]) for t in range(5) if mask[i, t])
        assert float(total[i]) == pytest.approx(float(scores[i]) - 0.3 * kl, abs=1e-12)


def test_log_ratio_is_not_clamped():
    rewards = shape_rewards(torch.zeros(1), torch.tensor([[-60.0, 0.0]]), torch.tensor([[0.0, -60.0]]), mask_of(2), 1.0)
    assert rewards.tolist() == [[60.0, -60.0]]


def test_rewards_reject_bad_input_by_name():
    good = {"scores": torch.zeros(2), "log_probs": torch.zeros(2, 3), "ref_log_probs": torch.zeros(2, 3)}
    good |= {"mask": mask_of(3, 2), "beta": 0.1}
    for name, bad in [
        ("beta", 0.0),
        ("beta", -1.0),
        ("beta", NAN),
        ("scores", torch.zeros(3)),
        ("scores", torch.zeros(2, 1)),
        ("scores", torch.tensor([0.0, NAN])),
        ("log_probs", torch.zeros(6)),
        ("log_probs", torch.tensor([[0.0, NAN, 0.0], [0.0, 0.0, 0.0]])),
        ("ref_log_probs", torch.zeros(2, 2)),
        ("ref_log_probs", torch.tensor([[0.0, NAN, 0.0], [0.0, 0.0, 0.0]])),
        ("mask", torch.ones(2, 2)),
        ("mask", torch.tensor([[1, 1, 1], [0, 0, 0]])),
    ]:
        with pytest.raises(ValueError, match=f"^{name}:"):
            shape_rewards(**{**good, name: bad})


# --- GAE ------------------------------------------------------------------------------------------------------------


def gae_by_definition(rewards, values, gamma, lam):
    """One row without padding, O(T²): A_t = Σ_l (γλ)^l δ_{t+l}."""
    length = len(rewards)
    deltas = [rewards[t] + gamma * (values[t + 1] if t + 1 < length else 0.0) - values[t] for t in range(length)]
    return [sum((gamma * lam) ** k * deltas[t + k] for k in range(length - t)) for t in range(length)]


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.floats(0, 1), st.floats(0, 1), st.integers(0, 1000))
@settings(max_examples=40)
def test_gae_against_its_definition_row_by_row(lengths, gamma, lam, seed):
    """Each row as if it stood alone, whatever stands in its padding."""
    mask = mask_of(*lengths)
    rewards, values = normal(*mask.shape, seed=seed), normal(*mask.shape, seed=seed + 1)
    advantages, returns = gae(rewards, values, mask, gamma, lam)
    for i, length in enumerate(lengths):
        expected = gae_by_definition(rewards[i, :length].tolist(), values[i, :length].tolist(), gamma, lam)
        assert advantages[i, :length].tolist() == pytest.approx(expected, abs=1e-10)
        assert returns[i, :length].tolist() == pytest.approx((values[i, :length] + advantages[i, :length]).tolist())
        assert (advantages[i, length:] == 0).all() and (returns[i, length:] == 0).all()


def test_gae_with_lambda_one_is_reward_to_go_minus_value():
    rewards, values, mask = normal(2, 4, seed=1), normal(2, 4, seed=2), mask_of(4, 3)
    advantages, returns = gae(rewards, values, mask, gamma=0.9, lam=1.0)
    for i, length in ((0, 4), (1, 3)):
        for t in range(length):
            to_go = sum(0.9 ** (k - t) * float(rewards[i, k]) for k in range(t, length))
            assert float(returns[i, t]) == pytest.approx(to_go, abs=1e-12)
            assert float(advantages[i, t]) == pytest.approx(to_go - float(values[i, t]), abs=1e-12)


def test_gae_with_lambda_zero_is_the_td_error():
    rewards, values = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[0.5, -1.0, 4.0]])
    advantages, _ = gae(rewards, values, mask_of(3), gamma=0.9, lam=0.0)
    expected = [1.0 + 0.9 * -1.0 - 0.5, 2.0 + 0.9 * 4.0 + 1.0, 3.0 - 4.0]  # nothing is worth anything after the end
    assert advantages[0].tolist() == pytest.approx(expected, rel=1e-6)


def test_gae_defaults():
    rewards, values, mask = normal(2, 4, seed=1), normal(2, 4, seed=2), mask_of(4, 3)
    torch.testing.assert_close(gae(rewards, values, mask), gae(rewards, values, mask, gamma=1.0, lam=0.95))


def test_gae_of_the_true_values_is_the_true_advantage():
    """With V_t = expected reward-to-go of a deterministic episode every advantage is zero, for every λ."""
    rewards = normal(1, 5)
    values = rewards.flip(1).cumsum(1).flip(1)
    for lam in (0.0, 0.5, 1.0):
        assert gae(rewards, values, mask_of(5), lam=lam)[0].abs().max() < 1e-12


def test_gae_rejects_bad_input_by_name():
    good = {"rewards": torch.zeros(2, 3), "values": torch.zeros(2, 3), "mask": mask_of(3, 2)}
    for name, bad in [
        ("rewards", torch.zeros(3)),
        ("rewards", torch.full((2, 3), NAN)),
        ("values", torch.zeros(2, 4)),
        ("values", torch.full((2, 3), NAN)),
        ("mask", torch.ones(2, 2)),
        ("mask", torch.tensor([[1, 1, 1], [0, 0, 0]])),
        ("gamma", 1.5),
        ("lam", -0.1),
        ("lam", NAN),
    ]:
        with pytest.raises(ValueError, match=f"^{name}:"):
            gae(**{**good, name: bad})


# --- the policy loss ------------------------------------------------------------------------------------------------


def policy_loss_by_hand(log_probs, old, advantages, mask, clip):
    terms = []
    for i, t in mask.nonzero().tolist():
        ratio = math.exp(float(log_probs[i, t]) - float(old[i, t]))
        a = float(advantages[i, t])
        terms.append(max(-a * ratio, -a * min(max(ratio, 1 - clip), 1 + clip)))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("clip", [0.2, 0.05])
def test_policy_loss_by_loops(clip):
    mask = mask_of(5, 2, 4)
    old = normal(3, 5, seed=1) - 3
    new, advantages = old + 0.3 * normal(3, 5, seed=2), normal(3, 5, seed=3)
    loss, _ = clipped_policy_loss(new, old, advantages, mask, clip)
    assert float(loss) == pytest.approx(policy_loss_by_hand(new, old, advantages, mask, clip), abs=1e-12)
    if clip == 0.2:
        torch.testing.assert_close(clipped_policy_loss(new, old, advantages, mask)[0], loss)


@pytest.mark.parametrize(
    "ratio, advantage, slope",
    [  # ∂loss/∂ log π = −Aρ, or 0 where the step already went far enough in the right direction
        (1.0, 2.0, -2.0),
        (1.0, -2.0, 2.0),
        (1.1, 2.0, -2.2),
        (1.5, 2.0, 0.0),
        (0.5, 2.0, -1.0),
        (1.5, -2.0, 3.0),
        (0.5, -2.0, 0.0),
    ],
)
def test_policy_loss_slope_in_every_region(ratio, advantage, slope):
    new = torch.tensor([[math.log(ratio)]], dtype=torch.float64, requires_grad=True)
    a = torch.full((1, 1), advantage, dtype=torch.float64)
    loss, stats = clipped_policy_loss(new, torch.zeros(1, 1, dtype=torch.float64), a, mask_of(1))
    (gradient,) = torch.autograd.grad(loss, new)
    assert gradient.item() == pytest.approx(slope, abs=1e-12)
    assert stats["clip_fraction"] == float(slope == 0.0)


def test_policy_loss_gradient_at_ratio_one_is_reinforce():
    """∇L = −mean of A ∇ log π, for a softmax policy over tokens; the ratio's own gradient is ∇ log π at ρ = 1."""
    logits, mask = normal(3, 4, 6, seed=1).requires_grad_(), mask_of(4, 1, 3)
    tokens = torch.randint(0, 6, (3, 4), generator=torch.Generator().manual_seed(0))
    advantages = normal(3, 4, seed=2)
    log_probs = logits.log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    loss, stats = clipped_policy_loss(log_probs, log_probs.detach(), advantages, mask)
    (gradient,) = torch.autograd.grad(loss, logits)
    expected = torch.zeros_like(gradient)
    for i, t in mask.nonzero().tolist():
        score = -logits[i, t].detach().softmax(-1)
        score[tokens[i, t]] += 1
        expected[i, t] = -advantages[i, t] * score / 8
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-12)
    assert stats == {"clip_fraction": 0.0, "approx_kl": 0.0, "ratio_deviation": 0.0}


def test_policy_loss_statistics_are_masked():
    new = torch.tensor([[0.5, 0.0, 9.0], [0.05, NAN, 50.0]], dtype=torch.float64)
    old = torch.tensor([[0.0, 0.1, 0.0], [0.0, 0.0, -50.0]], dtype=torch.float64)
    advantages = torch.tensor([[1.0, 1.0, NAN], [1.0, 1e9, 1e9]], dtype=torch.float64)
    loss, stats = clipped_policy_loss(new, old, advantages, mask_of(3, 1) & mask_of(2, 1, 3)[:2])
    log_ratios = [0.5, -0.1, 0.05]
    assert loss.item() == pytest.approx(-(1.2 + math.exp(-0.1) + math.exp(0.05)) / 3, abs=1e-12)
    assert stats["clip_fraction"] == pytest.approx(1 / 3)
    # k3 of KL(π_old ‖ π), estimated under π_old: ρ − 1 − log ρ
    assert stats["approx_kl"] == pytest.approx(sum(math.exp(x) - 1 - x for x in log_ratios) / 3, abs=1e-12)
    assert stats["ratio_deviation"] == pytest.approx(math.exp(0.5) - 1, abs=1e-12)


def test_policy_loss_gradcheck():
    old, advantages, mask = normal(2, 3, seed=1), normal(2, 3, seed=2), mask_of(3, 2)
    new = (old + 0.5 * normal(2, 3, seed=3)).requires_grad_()
    assert gradcheck(lambda x: clipped_policy_loss(x, old, advantages, mask)[0], (new,))


def value_loss_by_hand(values, old, returns, mask, clip):
    terms = []
    for i, t in mask.nonzero().tolist():
        v, o, r = (float(x[i, t]) for x in (values, old, returns))
        near = min(max(v, o - clip), o + clip)
        terms.append(0.5 * max((v - r) ** 2, (near - r) ** 2))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("clip", [0.2, 0.5])
def test_value_loss_by_loops(clip):
    values, old, returns = (normal(3, 5, seed=s) for s in range(3))
    mask = mask_of(5, 2, 4)
    loss, _ = clipped_value_loss(values, old, returns, mask, clip)
    assert float(loss) == pytest.approx(value_loss_by_hand(values, old, returns, mask, clip), abs=1e-12)
    if clip == 0.2:
        torch.testing.assert_close(clipped_value_loss(values, old, returns, mask)[0], loss)


@pytest.mark.parametrize(
    "value, returned, slope, clipped",
    [  # old value 0
        (0.1, 1.0, -0.9, 0.0),
        (0.9, 1.0, 0.0, 1.0),  # moved far towards the return already: no further
        (-0.9, -1.0, 0.0, 1.0),
        (0.9, -1.0, 1.9, 0.0),  # moved away from the return: pulled back
    ],
)
def test_value_loss_slope(value, returned, slope, clipped):
    v = torch.tensor([[value]], dtype=torch.float64, requires_grad=True)
    zero, r = torch.zeros(1, 1, dtype=torch.float64), torch.full((1, 1), returned, dtype=torch.float64)
    loss, stats = clipped_value_loss(v, zero, r, mask_of(1))
    assert torch.autograd.grad(loss, v)[0].item() == pytest.approx(slope, abs=1e-12)
    assert stats == {"value_clip_fraction": clipped}


def test_value_loss_gradcheck_and_padding():
    old, returns, mask = normal(2, 3, seed=1), normal(2, 3, seed=2), mask_of(3, 2)
    values = normal(2, 3, seed=3).requires_grad_()
    assert gradcheck(lambda x: clipped_value_loss(x, old, returns, mask)[0], (values,))
    loss, stats = clipped_value_loss(values, old, returns, mask)
    other = returns.masked_fill(~mask, 1e6)
    assert clipped_value_loss(values, old, other, mask) == (loss, stats)


@pytest.mark.parametrize("split", [1, 2])
def test_losses_are_token_means_so_micro_batches_add_by_tokens(split):
    old, new, advantages, mask = normal(3, 5, seed=1), normal(3, 5, seed=2), normal(3, 5, seed=3), mask_of(5, 2, 4)
    for loss in (clipped_policy_loss, clipped_value_loss):
        whole = loss(new, old, advantages, mask)[0]
        parts = sum(
            loss(new[rows], old[rows], advantages[rows], mask[rows])[0] * mask[rows].sum()
            for rows in (slice(0, split), slice(split, 3))
        )
        torch.testing.assert_close(parts / mask.sum(), whole, rtol=0, atol=1e-12)
        order = [2, 0, 1]
        torch.testing.assert_close(loss(new[order], old[order], advantages[order], mask[order])[0], whole)


@pytest.mark.parametrize("loss, names", [
    (clipped_policy_loss, ("log_probs", "old_log_probs", "advantages")),
    (clipped_value_loss, ("values", "old_values", "returns")),
])  # fmt: skip
def test_losses_reject_bad_input_by_name(loss, names):
    good = [torch.zeros(2, 3) for _ in names]
    for i in (1, 2):
        bad = [*good]
        bad[i] = torch.zeros(2, 1)  # would broadcast
        with pytest.raises(ValueError, match=f"^{names[i]}:"):
            loss(*bad, mask_of(3, 2))
    for mask in (torch.ones(2, 2), torch.tensor([[1, 1, 1], [0, 0, 0]])):
        with pytest.raises(ValueError, match="^mask:"):
            loss(*good, mask)
    for clip in (0.0, -0.2, NAN):
        with pytest.raises(ValueError, match="^clip:"):
            loss(*good, mask_of(3, 2), clip)


# --- the controller -------------------------------------------------------------------------------------------------


def test_adaptive_kl_numeric_example():
    """β 0.2, KL 12, target 6, n 256, horizon 10 000: the error 1 is clipped to 0.2, β grows by 0.2 · 0.0256."""
    controller = AdaptiveKL(beta=0.2, target=6.0, horizon=10_000)
    assert controller.update(12.0, 256) == pytest.approx(0.201024, abs=1e-12)
    assert controller.beta == pytest.approx(0.201024, abs=1e-12)


@pytest.mark.parametrize(
    "kl, factor", [(6.0, 1.0), (6.6, 1.01), (5.4, 0.99), (7.2, 1.02), (0.0, 0.98), (100.0, 1.02), (-3.0, 0.98)]
)
def test_adaptive_kl_is_proportional_and_clipped(kl, factor):
    assert AdaptiveKL(0.5, 6.0, 1000).update(kl, 100) == pytest.approx(0.5 * factor, abs=1e-12)


def test_adaptive_kl_rejects_bad_input_by_name():
    for name in ("beta", "target", "horizon"):
        for bad in (0.0, -1.0, NAN):
            with pytest.raises(ValueError, match=f"^{name}:"):
                AdaptiveKL(**{**{"beta": 0.1, "target": 6.0, "horizon": 1000}, name: bad})
    controller = AdaptiveKL(0.1, 6.0, 1000)
    with pytest.raises(ValueError, match="^kl:"):
        controller.update(NAN, 10)
    assert controller.beta == 0.1


# --- policy and value on one trunk ----------------------------------------------------------------------------------


def actor_of(seed: int = 0, head: bool = True, **options) -> PolicyWithValue:
    actor = PolicyWithValue(tiny_gpt2(seed=seed, **options)).to(tiny_gpt2(**options).dtype)
    if head:
        with torch.no_grad():
            actor.value_head.weight.copy_(0.3 * normal(*actor.value_head.weight.shape, seed=seed))
            actor.value_head.bias.fill_(0.5)
    return actor


def rollout_of(lengths=([3, 1, 2], [2, 4, 3]), seed: int = 0) -> Rollout:
    prompts, prompt_mask, responses, response_mask = ragged(*lengths, seed=seed)
    return Rollout(
        prompts, prompt_mask, responses, response_mask, torch.zeros(responses.shape), torch.ones(len(prompts)).bool()
    )


def test_value_head_starts_at_zero():
    _, values = actor_of(head=False)(rollout_of())
    assert (values == 0).all()


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_actor_log_probs_are_the_scorer_s(temperature):
    actor, r = actor_of(), rollout_of()
    log_probs, values = actor(r, temperature)
    expected = response_log_probs(actor.policy, r.prompts, r.prompt_mask, r.responses, r.response_mask, temperature)
    torch.testing.assert_close(log_probs, expected, rtol=0, atol=1e-10)
    assert values.shape == (3, 4)


def test_value_is_read_before_its_token_is_known():
    """V_t is the head on the hidden state of the unpadded prefix that ends just before token t."""
    actor, r = actor_of(), rollout_of()
    with torch.no_grad():
        _, values = actor(r, 0.7)
        for i in range(3):
            prompt = r.prompts[i][r.prompt_mask[i]].tolist()
            response = r.responses[i][r.response_mask[i]].tolist()
            for t in range(len(response)):
                hidden = actor.policy.transformer(torch.tensor([prompt + response[:t]])).last_hidden_state[0, -1]
                expected = (hidden * actor.value_head.weight[0]).sum() + actor.value_head.bias[0]
                assert float(values[i, t]) == pytest.approx(float(expected), abs=1e-5)  # values are fp32


def test_value_loss_trains_the_shared_trunk():
    actor = actor_of()
    _, values = actor(rollout_of())
    values.sum().backward()
    assert actor.policy.transformer.h[0].attn.c_attn.weight.grad.norm() > 1e-3


# --- the update -----------------------------------------------------------------------------------------------------

CONFIG = PPOConfig(
    steps=4,
    batch_size=6,
    epochs=1,
    minibatches=1,
    learning_rate=1e-3,
    beta=0.3,
    gamma=0.9,
    lam=0.8,
    clip=0.2,
    value_coef=0.5,
    unfinished_penalty=-4.0,
    temperature=0.7,
    max_new_tokens=4,
)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def sampled(actor: PolicyWithValue, n: int = 6, temperature: float = 0.7) -> Rollout:
    prompts, prompt_mask = ragged([1 + i % 3 for i in range(n)], [1] * n)[:2]
    return sample(actor.policy, prompts, prompt_mask, 4, temperature, torch.Generator().manual_seed(1))


def test_update_takes_every_row_once_an_epoch_and_one_step_a_minibatch():
    actor = actor_of(dtype=torch.float32)
    rollout, steps, seen = sampled(actor), [], []
    optimizer = make_optimizer(actor, 1e-3)
    optimizer.register_step_post_hook(lambda *_: steps.append(1))
    actor.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    zeros = torch.zeros(rollout.responses.shape)
    stats = ppo_update(
        actor, optimizer, rollout, zeros, zeros + 1, zeros, dataclasses.replace(CONFIG, epochs=3, minibatches=2)
    )
    assert len(steps) == len(seen) == 6
    everything = sorted(map(tuple, torch.cat([rollout.prompts, rollout.responses], 1).tolist()))
    for epoch in range(3):
        batches = seen[2 * epoch : 2 * epoch + 2]
        assert [len(b) for b in batches] == [3, 3]
        rows = torch.cat([torch.cat([b.prompts, b.responses], 1) for b in batches])
        assert sorted(map(tuple, rows.tolist())) == everything
    assert stats["first_ratio_deviation"] < 1e-4 and "ratio_deviation" not in stats
    assert stats["approx_kl"] > 0


def test_update_raises_what_was_good_and_lowers_what_was_bad():
    actor = actor_of(dtype=torch.float32, scale=0.2)
    rollout = sampled(actor)
    sign = torch.tensor([1.0, -1.0] * 3).unsqueeze(1).expand(rollout.responses.shape)
    zeros = torch.zeros(rollout.responses.shape)
    before = actor(rollout, 0.7)[0].sum(-1).detach()
    ppo_update(actor, make_optimizer(actor, 3e-3), rollout, zeros, sign, zeros, CONFIG)
    change = actor(rollout, 0.7)[0].sum(-1).detach() - before
    assert (change * sign[:, 0]).sum() > 0


def test_update_against_the_algorithm_written_out():
    """Three epochs at a small clip and a large step, so that both clips are active from the second on."""
    config = dataclasses.replace(CONFIG, epochs=3, clip=0.05)
    trained, by_hand = (actor_of(seed=1, scale=0.25) for _ in range(2))
    rollout = sampled(trained)
    mask, shape = rollout.response_mask, rollout.responses.shape
    with torch.no_grad():
        old_values = trained(rollout, 0.7)[1]
    advantages, returns = normal(*shape, seed=1), normal(*shape, seed=2)
    stats = ppo_update(trained, make_optimizer(trained, 3e-3), rollout, old_values, advantages, returns, config)
    optimizer, losses = make_optimizer(by_hand, 3e-3), []
    for _ in range(3):
        log_probs, values = by_hand(rollout, 0.7)
        ratio = (log_probs - rollout.log_probs)[mask].exp()
        a, v, old, r = advantages[mask], values[mask], old_values[mask], returns[mask]
        policy_loss = -torch.min(a * ratio, a * ratio.clamp(0.95, 1.05)).mean()
        near = old + (v - old).clamp(-0.05, 0.05)
        value_loss = 0.5 * torch.max((v - r) ** 2, (near - r) ** 2).mean()
        optimizer.zero_grad()
        (policy_loss + 0.5 * value_loss).backward()
        torch.nn.utils.clip_grad_norm_(by_hand.parameters(), 1.0)
        optimizer.step()
        losses.append((policy_loss.item(), value_loss.item()))
    assert stats["clip_fraction"] > 0 and stats["value_clip_fraction"] > 0
    assert stats["policy_loss"] == pytest.approx(sum(x for x, _ in losses) / 3, abs=1e-5)
    assert stats["value_loss"] == pytest.approx(sum(x for _, x in losses) / 3, abs=1e-5)
    # Rows come in another order: rounding of fp32 values, which Adam may blow up to a small part of lr = 3e-3.
    torch.testing.assert_close(weights(trained), weights(by_hand), rtol=0, atol=1e-4)


def test_the_first_ratio_is_the_largest_of_all_parts(monkeypatch):
    """Answers of another policy, in parts of one row and whole."""
    rollout = sampled(actor_of(seed=2, scale=0.25))
    mask, zeros = rollout.response_mask, torch.zeros(rollout.responses.shape)
    with torch.no_grad():
        largest = (actor_of(seed=1)(rollout, 0.7)[0] - rollout.log_probs)[mask].expm1().abs().max().item()
    for row_bytes in (1, 10**15):
        monkeypatch.setattr(optim, "training_bytes", lambda *_, row_bytes=row_bytes: row_bytes)
        actor = actor_of(seed=1)
        stats = ppo_update(actor, make_optimizer(actor, 1e-3), rollout, zeros, zeros + 1, zeros, CONFIG)
        assert stats["first_ratio_deviation"] == pytest.approx(largest, rel=1e-5)


# --- the loop -------------------------------------------------------------------------------------------------------


def count_reward(rollout: Rollout) -> torch.Tensor:
    """How often the answer says token 3, minus half its prompt's length: needs prompts, answers and both masks."""
    threes = ((rollout.responses == 3) & rollout.response_mask).sum(-1)
    return threes.double() - 0.5 * rollout.prompt_mask.sum(-1)


def prompts_of(n: int = 8):
    return ragged([1 + i % 3 for i in range(n)], [1] * n, seed=4)[:2]


@pytest.mark.parametrize("target_kl", [None, 0.5])
def test_loop_against_the_algorithm_written_out(target_kl):
    """Two steps with γ, λ, β, T ≠ 1, unfinished answers and mixed lengths: same metrics, same weights, same β."""
    config = dataclasses.replace(CONFIG, target_kl=target_kl, horizon=50)
    trained, by_hand = (actor_of(seed=1, scale=0.25) for _ in range(2))
    reference = tiny_gpt2(seed=2, scale=0.25)
    prompts, prompt_mask = prompts_of()
    controller, beta = AdaptiveKL(config.beta, target_kl or 1.0, config.horizon), config.beta
    loop = train_ppo(
        trained, reference, count_reward, prompts, prompt_mask, make_optimizer(trained, 1e-3), controller, config, 3
    )
    optimizer = make_optimizer(by_hand, 1e-3, eps=1e-8)
    finished = 0
    for step, (row, rollout) in zip(range(2), loop, strict=False):
        index = minibatch(8, 6, step, 3)
        expected = sample(by_hand.policy, prompts[index], prompt_mask[index], 4, 0.7, generator_for(3, step))
        assert torch.equal(rollout.responses, expected.responses)
        mask, n = expected.response_mask, 6
        inputs = (expected.prompts, expected.prompt_mask, expected.responses, mask)
        ref_log_probs = response_log_probs(reference, *inputs, temperature=0.7).detach()
        old_log_probs, old_values = expected.log_probs.double(), by_hand(expected, 0.7)[1].detach().double()

        scores, kls, advantages, returns = [], [], torch.zeros(mask.shape).double(), torch.zeros(mask.shape).double()
        for i in range(n):
            length = int(mask[i].sum())
            tokens = expected.responses[i, :length].tolist()
            ended = tokens[-1] == EOS
            finished += ended
            scores.append(tokens.count(3) - 0.5 * int(expected.prompt_mask[i].sum()) if ended else -4.0)
            ratios = (old_log_probs[i] - ref_log_probs[i])[:length].tolist()
            kls.append(sum(ratios))
            rewards = [-beta * d for d in ratios]
            rewards[-1] += scores[-1]
            values = old_values[i, :length].tolist()
            advantages[i, :length] = torch.tensor(gae_by_definition(rewards, values, 0.9, 0.8), dtype=torch.float64)
            returns[i, :length] = advantages[i, :length] + old_values[i, :length]
        real = advantages[mask]
        white = (advantages - real.mean()) / (real.var(correction=0) + 1e-8).sqrt()

        log_probs, new_values = by_hand(expected, 0.7)
        ratio = (log_probs - old_log_probs).exp()[mask]
        loss = -(ratio * white[mask]).mean() + 0.5 * 0.5 * ((new_values - returns)[mask] ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(by_hand.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = 1e-3 * (step + 1) / 10 * (1 - step / 4)
        optimizer.step()

        kl, score = sum(kls) / n, sum(scores) / n
        for name, value in {
            "step": step,
            "score": score,
            "kl": kl,
            "beta": beta,
            "objective": score - beta * kl,
            "entropy": -old_log_probs[mask].mean().item(),
            "length": mask.sum().item() / n,
            "finished": expected.finished.float().mean().item(),
            "explained_variance": 1 - (real.var(correction=0) / returns[mask].var(correction=0)).item(),
            "grad_norm": float(norm),
            "value_loss": 0.5 * ((old_values - returns)[mask] ** 2).mean().item(),
            "tokens": int(expected.prompt_mask.sum() + mask.sum()),
        }.items():
            assert row[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name  # sampled log-probs are fp32
        assert row["first_ratio_deviation"] < 1e-4
        if target_kl is not None:
            beta *= 1 + min(max(kl / target_kl - 1, -0.2), 0.2) * n / 50
            assert beta != config.beta
        assert controller.beta == pytest.approx(beta, rel=1e-6)
    assert 0 < finished < 12  # both kinds of answers occurred
    torch.testing.assert_close(weights(trained), weights(by_hand), rtol=0, atol=1e-6)


def test_loop_resumes_to_the_same_numbers():
    config = dataclasses.replace(CONFIG, target_kl=0.5, horizon=50, epochs=2, minibatches=2)
    prompts, prompt_mask = prompts_of()

    def fresh():
        actor = actor_of(seed=1)
        return actor, make_optimizer(actor, 1e-3), AdaptiveKL(config.beta, 0.5, 50)

    def run(actor, optimizer, controller, start=0):
        reference = tiny_gpt2(seed=2)
        return train_ppo(
            actor, reference, count_reward, prompts, prompt_mask, optimizer, controller, config, seed=3, start=start
        )

    whole, parts = fresh(), fresh()
    rows = [row for row, _ in run(*whole)]
    loop = run(*parts)
    first = [next(loop)[0] for _ in range(2)]
    second = [row for row, _ in run(*parts, start=2)]
    assert len(rows) == 4 and first + second == rows
    assert torch.equal(weights(whole[0]), weights(parts[0])) and whole[2].beta == parts[2].beta


def test_loop_improves_the_reward_and_leaves_the_reference_alone():
    reference = tiny_gpt2(seed=2, scale=0.2, dtype=torch.float32)
    actor = PolicyWithValue(copy.deepcopy(reference))
    before = weights(reference)
    config = dataclasses.replace(CONFIG, steps=30, batch_size=64, epochs=2, learning_rate=1e-2, beta=0.05)
    loop = train_ppo(
        actor, reference, lambda r: count_reward(r).float(), *prompts_of(), make_optimizer(actor, 1e-2, eps=1e-5),
        AdaptiveKL(0.05, 6.0, 1e4), config, seed=0,
    )  # fmt: skip
    rows = [row for row, _ in loop]
    assert rows[0]["kl"] == pytest.approx(0.0, abs=1e-4)
    assert rows[-1]["score"] > rows[0]["score"] + 2  # from most answers cut off (−4) to ended ones with threes
    assert rows[-1]["finished"] > 0.9 and rows[-1]["kl"] > 0.1
    assert torch.equal(weights(reference), before)
    assert all(row["first_ratio_deviation"] < 1e-4 for row in rows)


def test_a_reward_that_is_nan_or_misshapen_stops_the_loop():
    for bad in (lambda r: count_reward(r) * NAN, lambda r: count_reward(r).unsqueeze(1)):
        actor = actor_of(seed=1)
        before = weights(actor)
        loop = train_ppo(
            actor, tiny_gpt2(seed=2), bad, *prompts_of(), make_optimizer(actor, 1e-3), AdaptiveKL(0.1, 1.0, 1e4),
            dataclasses.replace(CONFIG, max_new_tokens=8), seed=3,
        )  # fmt: skip
        with pytest.raises(ValueError, match="^scores:"):
            next(loop)
        assert torch.equal(weights(actor), before)


def test_dropout_is_off_while_training():
    """An actor that comes in training mode, with dropout, trains as if it had none: the first ratio is 1."""
    prompts, prompt_mask = prompts_of()
    rows = []
    for dropout in (0.0, 0.5):
        actor = PolicyWithValue(tiny_gpt2(seed=1, scale=0.25, dropout=dropout)).double().train()
        optimizer, controller = make_optimizer(actor, 1e-3), AdaptiveKL(CONFIG.beta, 1.0, CONFIG.horizon)
        reference = tiny_gpt2(seed=2, scale=0.25)
        loop = train_ppo(actor, reference, count_reward, prompts, prompt_mask, optimizer, controller, CONFIG, seed=3)
        rows.append([row for row, _ in loop])
    assert rows[0] == rows[1]
    assert all(row["first_ratio_deviation"] < 1e-4 for row in rows[1])


def test_gae_is_zero_at_padding_on_the_left_too():
    rewards, values = normal(1, 5, seed=1), normal(1, 5, seed=2)
    advantages, returns = gae(rewards, values, torch.tensor([[0, 0, 1, 1, 0]]).bool())
    expected = gae_by_definition(rewards[0, 2:4].tolist(), values[0, 2:4].tolist(), 1.0, 0.95)
    assert advantages[0].tolist() == pytest.approx([0, 0, *expected, 0], abs=1e-12)
    assert (returns[0, [0, 1, 4]] == 0).all()
