"""Advantages without a critic, against gradients that are computed by listing every group of answers; loss and loop
against the algorithm written out."""

import copy
import dataclasses
import itertools

import pytest
import torch

from tests.tiny import ragged, tiny_gpt2
from week6 import generator_for, make_optimizer, minibatch, response_log_probs, sample
from week6.group import (
    Graded,
    GRPOConfig,
    group_policy_loss,
    grpo_advantages,
    grpo_update,
    rloo_advantages,
    train_grpo,
)
from week6.machine import optim
from week6.machine.bounds import check_fields

REWARDS = torch.tensor([0.0, 1.0, 3.0, -1.0], dtype=torch.float64)


def expected_gradient(advantages, k, logits):
    """E[1/K Σ_i Â_i ∇log π(y_i)] over all groups of k answers, and ∇E[r]."""
    log_p = logits.log_softmax(-1)
    groups = torch.tensor(list(itertools.product(range(len(logits)), repeat=k)))
    weight = log_p.detach()[groups].sum(1).exp()
    surrogate = (weight * (advantages(REWARDS[groups]) * log_p[groups]).mean(1)).sum()
    (estimate,) = torch.autograd.grad(surrogate, logits, retain_graph=True)
    (exact,) = torch.autograd.grad((log_p.exp() * REWARDS).sum(), logits)
    return estimate, exact


@pytest.mark.parametrize("k", [2, 3, 4])
def test_leave_one_out_is_unbiased_and_the_normalised_one_is_not(k):
    logits = torch.tensor([0.5, -0.3, -1.0, 0.2], dtype=torch.float64, requires_grad=True)
    estimate, exact = expected_gradient(rloo_advantages, k, logits)
    torch.testing.assert_close(estimate, exact, rtol=1e-10, atol=1e-12)
    biased, _ = expected_gradient(grpo_advantages, k, logits)
    assert torch.cosine_similarity(biased, exact, dim=0) < 0.9999
    centred, _ = expected_gradient(lambda r: r - r.mean(1, keepdim=True), k, logits)
    torch.testing.assert_close(centred, exact * (k - 1) / k, rtol=1e-10, atol=1e-12)


def test_by_hand():
    rewards = torch.tensor([[1.0, 2.0, 6.0], [5.0, 5.0, 5.0]])
    torch.testing.assert_close(rloo_advantages(rewards), torch.tensor([[-3.0, -1.5, 4.5], [0.0, 0.0, 0.0]]))
    normalised = grpo_advantages(rewards, eps=0.0)[0]
    torch.testing.assert_close(normalised, torch.tensor([-2.0, -1.0, 3.0]) / 7**0.5)
    assert grpo_advantages(rewards)[1].tolist() == [0.0, 0.0, 0.0]
    torch.testing.assert_close(grpo_advantages(10 * rewards, eps=0.0)[0], normalised)  # the scale of the reward is lost


@pytest.mark.parametrize("advantages", [rloo_advantages, grpo_advantages])
@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        (torch.zeros(3), "rewards: got"),
        (torch.zeros(3, 1), "got K = 1 answers"),
        (torch.tensor([[0.0, float("nan")]]), "rewards"),
    ],
)
def test_bad_rewards(advantages, rewards, message):
    with pytest.raises(ValueError, match=message):
        advantages(rewards)


# --- the loss --------------------------------------------------------------------------------------------------------

LENGTHS = [3, 1, 4, 2]
MASK = torch.arange(4) < torch.tensor(LENGTHS).unsqueeze(1)


def tokens(seed, scale=0.3):
    return scale * torch.randn(4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 1


@pytest.mark.parametrize("mean", ["answer", "token", "sum"])
@pytest.mark.parametrize(("low", "high"), [(0.2, 0.2), (0.1, 0.4)])
def test_the_loss_by_loops(mean, low, high):
    new, old = tokens(0, 0.5), tokens(1, 0.5)
    advantages = torch.tensor([1.0, -0.5, -2.0, 0.7], dtype=torch.float64)
    per_answer, clipped = [], 0
    for i, length in enumerate(LENGTHS):
        terms = []
        for t in range(length):
            ratio = float((new[i, t] - old[i, t]).exp())
            held = min(max(ratio, 1 - low), 1 + high)
            gains = float(advantages[i]) * ratio, float(advantages[i]) * held
            terms.append(-min(gains))
            clipped += gains[1] < gains[0]
        per_answer.append(terms)
    wanted = {
        "answer": sum(sum(terms) / len(terms) for terms in per_answer) / 4,
        "token": sum(map(sum, per_answer)) / sum(LENGTHS),
        "sum": sum(map(sum, per_answer)) / 4,
    }
    loss, stats = group_policy_loss(new, old, advantages, MASK, low, high, mean)
    assert float(loss) == pytest.approx(wanted[mean], rel=1e-12)
    assert stats["clip_fraction"] == pytest.approx(clipped / sum(LENGTHS)) and clipped > 0
    assert stats["ratio_deviation"] == pytest.approx(float(((new - old).exp() - 1)[MASK].abs().max()))


def test_at_ratio_one_the_sum_is_reinforce():
    new = tokens(0).requires_grad_()
    advantages = torch.tensor([1.0, -0.5, -2.0, 0.7], dtype=torch.float64)
    (gradient,) = torch.autograd.grad(group_policy_loss(new, new.detach(), advantages, MASK, mean="sum")[0], new)
    torch.testing.assert_close(gradient, -advantages.unsqueeze(1) * MASK / 4)


@pytest.mark.parametrize(
    ("ratio", "advantage", "moves"),
    [(1.25, 1.0, True), (1.35, 1.0, False), (1.35, -1.0, True), (0.85, -1.0, True), (0.75, -1.0, False)],
)
def test_the_two_ends_of_the_clip(ratio, advantage, moves):
    """With ε_low = 0.2 and ε_high = 0.3: where the step went far enough, the gradient is zero."""
    new = torch.tensor([[float(torch.tensor(ratio).log())]], dtype=torch.float64, requires_grad=True)
    old, mask = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.bool)
    loss, _ = group_policy_loss(new, old, torch.tensor([advantage]).double(), mask, 0.2, 0.3)
    (gradient,) = torch.autograd.grad(loss, new)
    assert (gradient != 0).item() == moves


def test_padding_does_not_count():
    new, old, advantages = tokens(0), tokens(1), torch.ones(4, dtype=torch.float64)
    for mean in ("answer", "token", "sum"):
        right = group_policy_loss(new, old, advantages, MASK, mean=mean)
        spoilt = (x.masked_fill(~MASK, float("nan")) for x in (new, old))
        assert group_policy_loss(*spoilt, advantages, MASK, mean=mean) == right


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"advantages": torch.ones(3)}, "advantages"),
        ({"mask": MASK[:, :2]}, "mask"),
        ({"mask": MASK & False}, "mask"),
        ({"clip_low": 0.0}, "clip_low"),
        ({"clip_high": -1.0}, "clip_high"),
        ({"mean": "mean"}, "mean"),
        ({"advantages": torch.full((4,), float("nan"))}, "advantages"),
    ],
)
def test_the_loss_rejects_bad_input_by_name(change, name):
    arguments = {"log_probs": tokens(0), "old_log_probs": tokens(1), "advantages": torch.ones(4), "mask": MASK}
    with pytest.raises(ValueError, match=name):
        group_policy_loss(**arguments | change)


# --- the loop --------------------------------------------------------------------------------------------------------

CONFIG = GRPOConfig(steps=3, prompts=3, answers=4, learning_rate=1e-2, beta=0.3, max_new_tokens=6)


def questions():
    prompts, mask, _, _ = ragged([1, 3, 2, 4], [1, 1, 1, 1])
    return prompts, mask


def threes(rollout):
    """How many threes an answer has."""
    return ((rollout.responses == 3) & rollout.response_mask).sum(1).double()


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


CONFIGS = [
    {},
    {"advantages": "rloo", "kl": "reward", "mean": "sum"},
    {"mean": "token", "clip_high": 0.28, "temperature": 0.7},
]


@pytest.mark.parametrize("changes", CONFIGS)
def test_the_loop_against_the_algorithm_written_out(changes):
    config = dataclasses.replace(CONFIG, **changes)
    policy, by_hand, reference = (
        tiny_gpt2(seed=1, scale=0.3),
        tiny_gpt2(seed=1, scale=0.3),
        tiny_gpt2(seed=2, scale=0.3),
    )
    optimizer = make_optimizer(by_hand, 1e-2)
    prompts, prompt_mask = questions()
    finished = 0
    loop = train_grpo(policy, reference, threes, prompts, prompt_mask, make_optimizer(policy, 1e-2), config, seed=5)
    for step, (row, rollout) in enumerate(loop):
        rows = [i for i in minibatch(4, 3, step, 5).tolist() for _ in range(4)]
        expected = sample(by_hand, prompts[rows], prompt_mask[rows], 6, config.temperature, generator_for(5, step))
        assert torch.equal(rollout.responses, expected.responses)
        mask, batch = expected.response_mask, (expected.prompts, expected.prompt_mask, expected.responses)
        with torch.no_grad():
            ref = response_log_probs(reference, *batch, mask, config.temperature)
        new = response_log_probs(by_hand, *batch, mask, config.temperature)
        raw = [float(x) if ended else 0.0 for x, ended in zip(threes(expected), expected.finished, strict=True)]
        finished += sum(expected.finished.tolist())
        kls = (expected.log_probs - ref).sum(1)
        rewards = torch.tensor(raw).double() - (config.beta * kls if config.kl == "reward" else 0)
        advantages = []
        for group in rewards.split(4):
            for i in range(4):
                others = (group.sum() - group[i]) / 3
                scaled = (group[i] - group.mean()) / (group.std() + 1e-4)
                advantages.append(group[i] - others if config.advantages == "rloo" else scaled)
        terms = -torch.stack(advantages).unsqueeze(1) * (new - new.detach()).exp()
        if config.kl == "loss":
            terms = terms + config.beta * ((ref - new).exp() - 1 - (ref - new))
        terms = torch.where(mask, terms, 0)
        length = mask.sum(1)
        loss = {
            "answer": (terms.sum(1) / length).mean(),
            "token": terms.sum() / length.sum(),
            "sum": terms.sum(1).mean(),
        }[config.mean]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(by_hand.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = 1e-2 * (step + 1) / 10 * (1 - step / 3)
        optimizer.step()
        groups = [raw[i : i + 4] for i in range(0, 12, 4)]
        for name, value in {
            "step": step, "reward": sum(raw) / 12, "kl": float(kls.mean()), "length": float(length.sum()) / 12,
            "entropy": -float(expected.log_probs[mask].mean()),
            "mixed": sum(len(set(group)) > 1 for group in groups) / 3,
            "tokens": int(expected.prompt_mask.sum() + mask.sum()),
        }.items():  # fmt: skip
            assert row[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name  # sampled log-probs are fp32
        assert row["first_ratio_deviation"] < 1e-4
    assert 0 < finished < 36  # both kinds of answers occurred
    torch.testing.assert_close(weights(policy), weights(by_hand), rtol=0, atol=1e-6)


@pytest.mark.parametrize("changes", [{"kl": "loss", "mean": "token"}, {"kl": "reward", "mean": "answer"}])
def test_an_update_of_several_steps_away_from_ratio_one(changes, monkeypatch):
    """Where the two ends of the clip are two, and figures are means over the steps, but for the first ratio."""
    config = dataclasses.replace(
        CONFIG, epochs=2, minibatches=2, clip_low=0.1, clip_high=0.4, temperature=0.7, **changes
    )
    policy, by_hand, old, reference = (tiny_gpt2(seed=seed, scale=0.2) for seed in (1, 1, 2, 3))
    answers = ragged([1, 3, 2, 4], [4, 2, 3, 1])
    mask, advantages = answers[3], torch.tensor([1.0, -0.5, 2.0, -1.5], dtype=torch.float64)
    with torch.no_grad():
        before, ref = (response_log_probs(model, *answers, 0.7) for model in (old, reference))
    batch = Graded(*answers, before, torch.ones(4).bool(), advantages, ref, torch.ones(4))
    stats = grpo_update(policy, make_optimizer(policy, 1e-2), batch, config, torch.Generator().manual_seed(7))

    optimizer, generator, steps = make_optimizer(by_hand, 1e-2), torch.Generator().manual_seed(7), []
    for _ in range(2):
        order = torch.randperm(4, generator=generator)
        for rows in (order[:2], order[2:]):
            new, real = response_log_probs(by_hand, *(x[rows] for x in answers), 0.7), mask[rows]
            ratio, a = (new - before[rows]).exp(), advantages[rows].unsqueeze(1)
            terms = -torch.min(a * ratio, a * ratio.clamp(0.9, 1.4))
            clipped = (a * ratio.clamp(0.9, 1.4) < a * ratio)[real].double().mean().item()
            if config.kl == "loss":
                terms = terms + 0.3 * ((ref[rows] - new).exp() - 1 - (ref[rows] - new))
            terms = torch.where(real, terms, 0)
            loss = terms.sum() / real.sum() if config.mean == "token" else (terms.sum(1) / real.sum(1)).mean()
            optimizer.zero_grad()
            loss.backward()
            norm = float(torch.nn.utils.clip_grad_norm_(by_hand.parameters(), 1.0))
            optimizer.step()
            steps.append((loss.item(), clipped, norm, (ratio[real] - 1).abs().max().item()))
    assert 0 < sum(step[1] for step in steps) < 4
    for i, name in enumerate(("loss", "clip_fraction", "grad_norm")):
        assert stats[name] == pytest.approx(sum(step[i] for step in steps) / 4, rel=1e-6), name
    assert stats["first_ratio_deviation"] == pytest.approx(steps[0][3], rel=1e-6) != steps[1][3]
    torch.testing.assert_close(weights(policy), weights(by_hand), rtol=0, atol=1e-6)

    monkeypatch.setattr(optim, "training_bytes", lambda *_: 10**15)  # in parts of one row: the largest is of all
    policy = tiny_gpt2(seed=1, scale=0.2)
    cut = grpo_update(policy, make_optimizer(policy, 1e-2), batch, config, torch.Generator().manual_seed(7))
    assert cut["first_ratio_deviation"] == pytest.approx(steps[0][3], rel=1e-6)


@pytest.mark.parametrize("mean", ["answer", "token", "sum"])
def test_the_update_does_not_depend_on_how_the_batch_is_cut(mean, monkeypatch):
    """A batch in parts of one row: the same gradient as whole (`gradient_step` weighs the parts)."""
    config = dataclasses.replace(CONFIG, mean=mean, steps=1)

    def trained():
        policy = tiny_gpt2(seed=1, scale=0.3)
        loop = train_grpo(policy, tiny_gpt2(seed=2), threes, *questions(), make_optimizer(policy, 1e-2), config, seed=5)
        return next(loop)[0]["loss"], weights(policy)

    whole, moved = trained()
    monkeypatch.setattr(optim, "training_bytes", lambda *_: 10**15)
    apart, same = trained()
    assert apart == pytest.approx(whole, rel=1e-6)
    torch.testing.assert_close(moved, same, rtol=0, atol=1e-7)


def test_the_loop_takes_every_epoch_and_minibatch_and_resumes_to_the_same_numbers():
    config = dataclasses.replace(CONFIG, epochs=2, minibatches=3)

    def run(policy, optimizer, start=0):
        return train_grpo(policy, tiny_gpt2(seed=2), threes, *questions(), optimizer, config, seed=5, start=start)

    whole, parts = tiny_gpt2(seed=1), tiny_gpt2(seed=1)
    first, second = make_optimizer(whole, 1e-2), make_optimizer(parts, 1e-2)
    rows = [row for row, _ in run(whole, first)]
    assert all(state["step"] == 3 * 2 * 3 for state in first.state.values())
    begun = next(run(parts, second))[0]
    assert [begun, *(row for row, _ in run(parts, second, start=1))] == rows
    assert torch.equal(weights(whole), weights(parts))


def test_the_loop_improves_the_reward_and_leaves_the_reference_alone():
    reference = tiny_gpt2(seed=2, scale=0.2, dtype=torch.float32)
    policy = copy.deepcopy(reference).train()
    before = weights(reference)
    config = GRPOConfig(steps=40, prompts=8, answers=8, learning_rate=1e-2, beta=0.02, max_new_tokens=6)
    loop = train_grpo(
        policy, reference, lambda r: threes(r).float(), *questions(), make_optimizer(policy, 1e-2), config, seed=0
    )
    rows = [row for row, _ in loop]
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-4)
    assert rows[-1]["reward"] > rows[0]["reward"] + 1 and rows[-1]["kl"] > 0.1
    assert torch.equal(weights(reference), before)


def test_a_reward_that_is_nan_or_misshapen_stops_the_loop():
    for bad, name in ((lambda r: threes(r) * float("nan"), "rewards"), (lambda r: threes(r)[:, None], "reward")):
        policy = tiny_gpt2(seed=1)
        before = weights(policy)
        config = dataclasses.replace(CONFIG, max_new_tokens=20)
        loop = train_grpo(policy, tiny_gpt2(seed=2), bad, *questions(), make_optimizer(policy, 1e-2), config, seed=3)
        with pytest.raises(ValueError, match=f"^{name}:"):
            next(loop)
        assert torch.equal(weights(policy), before)


def test_dropout_is_off_while_training():
    rows = []
    for dropout in (0.0, 0.5):
        policy = tiny_gpt2(seed=1, scale=0.25, dropout=dropout).train()
        optimizer = make_optimizer(policy, 1e-2)
        loop = train_grpo(policy, tiny_gpt2(seed=2), threes, *questions(), optimizer, CONFIG, seed=3)
        rows.append([row for row, _ in loop])
    assert rows[0] == rows[1] and all(row["first_ratio_deviation"] < 1e-4 for row in rows[1])


def test_settings_are_bounded():
    check_fields(GRPOConfig())
    for change, name in (({"answers": 1}, "answers"), ({"beta": -1.0}, "beta"), ({"mean": "max"}, "mean")):
        with pytest.raises(ValueError, match=name):
            check_fields(dataclasses.replace(CONFIG, **change))
