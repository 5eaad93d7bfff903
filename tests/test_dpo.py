import copy
import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from tests.tiny import log_probs_by_hand, ragged_pairs, tiny_gpt2
from week6.dpo import (
    DPOConfig,
    ReferencedPairs,
    dpo_gradient_weight,
    dpo_loss,
    implicit_reward,
    pair_log_probs,
    reference_log_probs,
    train_dpo,
)
from week6.machine.optim import make_optimizer, minibatch
from week6.preferences import bradley_terry_loss

OPTIONS = [
    pytest.param({"beta": 0.1}, id="sigmoid"),
    pytest.param({"beta": 0.7, "label_smoothing": 0.2}, id="smoothed"),
    pytest.param({"beta": 0.3, "variant": "ipo"}, id="ipo"),
]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def four(rows: int = 6):
    """Log-probabilities of whole answers: π(y_w), π(y_l), π_ref(y_w), π_ref(y_l)."""
    return tuple(3 * normal(rows, seed=s) - 10 for s in range(4))


def loss_by_hand(policy_w, policy_l, ref_w, ref_l, beta=0.1, label_smoothing=0.0, variant="sigmoid"):
    h = (policy_w - ref_w) - (policy_l - ref_l)
    if variant == "ipo":
        return (h - 1 / (2 * beta)) ** 2
    agree, disagree = 1 / (1 + math.exp(-beta * h)), 1 / (1 + math.exp(beta * h))
    return -(1 - label_smoothing) * math.log(agree) - label_smoothing * math.log(disagree)


# --- the loss -------------------------------------------------------------------------------------------------------


def test_implicit_reward_by_its_formula():
    a, b = normal(5, seed=1), normal(5, seed=2)
    expected = [0.3 * (float(x) - float(y)) for x, y in zip(a, b, strict=True)]
    torch.testing.assert_close(implicit_reward(a, b, 0.3), torch.tensor(expected, dtype=torch.float64))
    assert implicit_reward(normal(2, 3), normal(2, 3), 0.3).shape == (2, 3)


@pytest.mark.parametrize("options", OPTIONS)
def test_loss_by_hand(options):
    arguments = four()
    output = dpo_loss(*arguments, **options)
    expected = [loss_by_hand(*map(float, row), **options) for row in zip(*arguments, strict=True)]
    torch.testing.assert_close(output.loss, torch.tensor(expected, dtype=torch.float64), rtol=1e-10, atol=1e-12)
    w, lose, ref_w, ref_l = arguments
    torch.testing.assert_close(output.chosen_rewards, options["beta"] * (w - ref_w))
    torch.testing.assert_close(output.rejected_rewards, options["beta"] * (lose - ref_l))


@given(st.tuples(*[st.floats(-30, 0)] * 4), st.floats(0.01, 2))
@settings(max_examples=40)
def test_loss_by_hand_at_random(row, beta):
    value = dpo_loss(*(torch.tensor([x], dtype=torch.float64) for x in row), beta=beta).loss
    assert float(value) == pytest.approx(loss_by_hand(*row, beta=beta), rel=1e-9, abs=1e-12)


def test_default_beta_is_a_tenth():
    arguments = four()
    torch.testing.assert_close(dpo_loss(*arguments).loss, dpo_loss(*arguments, beta=0.1).loss)


def test_loss_is_per_pair_and_rewards_are_detached():
    arguments = [x.requires_grad_() for x in four(3)]
    output = dpo_loss(*arguments)
    assert output.loss.shape == (3,) and output.loss.requires_grad
    assert not output.chosen_rewards.requires_grad and not output.rejected_rewards.requires_grad


def test_loss_at_the_reference():
    w, lose, *_ = four()
    assert dpo_loss(w, lose, w, lose, 0.3).loss.tolist() == pytest.approx([math.log(2)] * 6)
    assert dpo_loss(w, lose, w, lose, 0.3, variant="ipo").loss.tolist() == pytest.approx([1 / (4 * 0.09)] * 6)


def test_loss_is_bradley_terry_on_implicit_rewards():
    w, lose, ref_w, ref_l = four()
    expected = bradley_terry_loss(implicit_reward(w, ref_w, 0.2), implicit_reward(lose, ref_l, 0.2))
    torch.testing.assert_close(dpo_loss(w, lose, ref_w, ref_l, 0.2).loss.mean(), expected)


@pytest.mark.parametrize("options", OPTIONS)
def test_what_depends_on_the_prompt_alone_cancels(options):
    """β log Z(x), or any f(x) added to both implicit rewards."""
    w, lose, ref_w, ref_l = four()
    f = normal(6, seed=9)
    torch.testing.assert_close(
        dpo_loss(w + f, lose + f, ref_w, ref_l, **options).loss, dpo_loss(w, lose, ref_w, ref_l, **options).loss
    )


@pytest.mark.parametrize("sign", [1, -1])
def test_loss_and_gradient_are_finite_at_a_margin_of_ten_thousand(sign):
    w = torch.tensor([sign * 1e5], requires_grad=True)
    zero = torch.zeros(1)
    for smoothing in (0.0, 0.1):
        loss = dpo_loss(w, zero, zero, zero, 0.1, smoothing).loss
        (gradient,) = torch.autograd.grad(loss.sum(), w)
        wrong = 1 - smoothing if sign < 0 else smoothing  # the share that is on the wrong side pays the whole margin
        assert loss.item() == pytest.approx(wrong * 1e4, rel=1e-5)
        assert gradient.item() == pytest.approx(sign * wrong * 0.1, rel=1e-5, abs=1e-12)


def test_smoothed_loss_is_least_at_the_smoothed_odds():
    """With a share p of agreeing labels, ε-smoothed loss is least where σ(βh) = (1 − ε)p + ε(1 − p)."""
    beta, epsilon, p = 0.5, 0.1, 0.8
    target = (1 - epsilon) * p + epsilon * (1 - p)
    h = torch.tensor([math.log(target / (1 - target)) / beta], dtype=torch.float64, requires_grad=True)
    zero = torch.zeros(1, dtype=torch.float64)
    agree = dpo_loss(h, zero, zero, zero, beta, epsilon).loss
    disagree = dpo_loss(zero, h, zero, zero, beta, epsilon).loss
    (gradient,) = torch.autograd.grad(p * agree + (1 - p) * disagree, h)
    assert gradient.abs().item() < 1e-12


def test_ipo_is_least_at_its_own_margin():
    """With a share p of agreeing labels, (h − 1/(2β))² is least at h = (2p − 1)/(2β): finite even for p = 1."""
    beta, zero = 0.25, torch.zeros(1, dtype=torch.float64)
    for p in (0.8, 1.0):
        h = torch.tensor([(2 * p - 1) / (2 * beta)], dtype=torch.float64, requires_grad=True)
        agree = dpo_loss(h, zero, zero, zero, beta, variant="ipo").loss
        disagree = dpo_loss(zero, h, zero, zero, beta, variant="ipo").loss
        (gradient,) = torch.autograd.grad(p * agree + (1 - p) * disagree, h)
        assert gradient.abs().item() < 1e-12


# --- the gradient ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", OPTIONS)
def test_loss_gradcheck(options):
    arguments = tuple(x.requires_grad_() for x in four(3))
    assert gradcheck(lambda *x: dpo_loss(*x, **options).loss, arguments)


def test_gradient_weight_by_its_formula():
    w, lose = torch.tensor([2.0, -1.0, 0.0]), torch.tensor([-1.0, 3.0, 0.0])
    expected = [1 / (1 + math.exp(3)), 1 / (1 + math.exp(-4)), 0.5]
    assert dpo_gradient_weight(w, lose).tolist() == pytest.approx(expected, rel=1e-6)


def test_gradient_is_the_closed_form_of_the_paper():
    """∇L = −β σ(r̂_l − r̂_w)[∇ log π(y_w) − ∇ log π(y_l)], with a softmax policy over seven answers."""
    beta, ref = 0.3, normal(7, seed=1).log_softmax(-1)
    theta = normal(7, seed=2).requires_grad_()
    log_p = theta.log_softmax(-1)
    w, lose = torch.tensor([0, 3, 5, 2]), torch.tensor([1, 6, 0, 4])
    output = dpo_loss(log_p[w], log_p[lose], ref[w], ref[lose], beta)
    (gradient,) = torch.autograd.grad(output.loss.sum(), theta, retain_graph=True)

    expected = torch.zeros(7, dtype=torch.float64)
    p = log_p.detach().exp()
    for a, b in zip(w.tolist(), lose.tolist(), strict=True):
        weight = 1 / (1 + math.exp(beta * ((log_p[a] - ref[a]) - (log_p[b] - ref[b])).item()))
        score_a, score_b = -p.clone(), -p.clone()  # ∇ log softmax(θ)_a = e_a − p
        score_a[a] += 1
        score_b[b] += 1
        expected -= beta * weight * (score_a - score_b)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-12)

    weights = dpo_gradient_weight(output.chosen_rewards, output.rejected_rewards)
    closed = sum(
        -beta * weights[i] * torch.autograd.grad(log_p[w[i]] - log_p[lose[i]], theta, retain_graph=True)[0]
        for i in range(4)
    )
    torch.testing.assert_close(closed, expected, rtol=0, atol=1e-12)


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "position, name", list(enumerate(["policy_chosen", "policy_rejected", "ref_chosen", "ref_rejected"]))
)
def test_loss_rejects_nan_and_shapes_by_name(position, name):
    arguments = list(four())
    arguments[position] = arguments[position] * float("nan")
    with pytest.raises(ValueError, match=f"^{name}:"):
        dpo_loss(*arguments)
    if position:
        arguments[position] = torch.zeros(6, 1)  # would broadcast
        with pytest.raises(ValueError, match=rf"^{name}: got a tensor .* shape \(6, 1\), expected .*\(B,\)"):
            dpo_loss(*arguments)
        arguments[position] = torch.zeros(1)  # so would this
        with pytest.raises(ValueError, match=rf"^{name}: got shape \(1,\), expected \(6,\) as policy_chosen has"):
            dpo_loss(*arguments)


@pytest.mark.parametrize(
    "options, name",
    [
        ({"beta": 0.0}, "beta"),
        ({"beta": -1.0}, "beta"),
        ({"beta": float("nan")}, "beta"),
        ({"label_smoothing": -0.1}, "label_smoothing"),
        ({"label_smoothing": 0.5}, "label_smoothing"),
        ({"label_smoothing": 0.1, "variant": "ipo"}, "label_smoothing"),
        ({"variant": "hinge"}, "variant"),
    ],
)
def test_loss_rejects_options_by_name(options, name):
    with pytest.raises(ValueError, match=f"^{name}:"):
        dpo_loss(*four(), **options)


def test_other_functions_reject_bad_input_by_name():
    with pytest.raises(ValueError, match="beta"):
        implicit_reward(torch.zeros(2), torch.zeros(2), 0.0)
    with pytest.raises(ValueError, match="ref_log_probs"):
        implicit_reward(torch.zeros(2), torch.zeros(3), 1.0)
    with pytest.raises(ValueError, match="rejected_rewards"):
        dpo_gradient_weight(torch.zeros(2), torch.zeros(3))


# --- log-probabilities of pairs -------------------------------------------------------------------------------------

PAIRS = ([2, 1, 3], [3, 1, 2], [2, 4, 1])


def test_pair_log_probs_are_sums_over_each_answer():
    model, pairs = tiny_gpt2(), ragged_pairs(*PAIRS)
    with torch.no_grad():
        chosen, rejected = pair_log_probs(model, pairs)
        for i in range(3):
            prompt = pairs.prompts[i][pairs.prompt_mask[i]].tolist()
            for value, tokens, mask in (
                (chosen[i], pairs.chosen[i], pairs.chosen_mask[i]),
                (rejected[i], pairs.rejected[i], pairs.rejected_mask[i]),
            ):
                by_hand = log_probs_by_hand(model, prompt, tokens[mask].tolist()).sum()
                torch.testing.assert_close(value, by_hand, rtol=0, atol=1e-10)


def test_reference_log_probs_do_not_depend_on_the_batch_size():
    model, pairs = tiny_gpt2(), ragged_pairs(*PAIRS)
    whole = pair_log_probs(model, pairs)
    for size in (1, 2, 3, 10):
        chosen, rejected = reference_log_probs(model, pairs, size)
        assert not chosen.requires_grad
        torch.testing.assert_close((chosen, rejected), (whole[0].detach(), whole[1].detach()), rtol=0, atol=1e-10)


# --- the loop -------------------------------------------------------------------------------------------------------

CONFIG = DPOConfig(steps=6, batch_size=4, learning_rate=1e-3, beta=0.2)


def training_pairs():
    return ragged_pairs([2, 1, 3, 2, 1, 2], [3, 1, 2, 2, 4, 1], [2, 4, 1, 3, 2, 2])


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("config", [CONFIG, dataclasses.replace(CONFIG, label_smoothing=0.1, beta=1.0)])
def test_loop_against_the_algorithm_written_out(config):
    """Three steps: the same batches, reference, β, learning rates and clipping, hence the same weights."""
    pairs, reference = training_pairs(), tiny_gpt2(seed=5)
    trained, by_hand = tiny_gpt2(seed=6), tiny_gpt2(seed=6)
    loop = train_dpo(trained, reference, make_optimizer(trained, config.learning_rate), pairs, config, seed=3)
    optimizer = make_optimizer(by_hand, config.learning_rate)
    for step, row in zip(range(3), loop, strict=False):
        index = minibatch(6, 4, step, 3)
        batch = pairs.rows(index)
        (w, lose), (ref_w, ref_l) = pair_log_probs(by_hand, batch), pair_log_probs(reference, batch)
        h = (w - ref_w.detach()) - (lose - ref_l.detach())
        p = torch.sigmoid(config.beta * h)
        e = config.label_smoothing
        loss = (-(1 - e) * p.log() - e * (1 - p).log()).mean()
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(by_hand.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = 1e-3 * (step + 1) / 10 * (1 - step / 6)
        optimizer.step()
        assert row["step"] == step
        assert row["loss"] == pytest.approx(loss.item(), abs=1e-9)
        assert row["grad_norm"] == pytest.approx(float(norm), rel=1e-6)
        chosen, rejected = config.beta * (w - ref_w), config.beta * (lose - ref_l)
        assert row["chosen_reward"] == pytest.approx(chosen.mean().item(), abs=1e-9)
        assert row["rejected_reward"] == pytest.approx(rejected.mean().item(), abs=1e-9)
        assert row["margin"] == pytest.approx((chosen - rejected).mean().item(), abs=1e-9)
        assert row["accuracy"] == (chosen > rejected).double().mean().item()
        assert row["chosen_log_prob"] == pytest.approx(w.mean().item(), abs=1e-9)
        assert row["rejected_log_prob"] == pytest.approx(lose.mean().item(), abs=1e-9)
        assert row["gradient_weight"] == pytest.approx(torch.sigmoid(rejected - chosen).mean().item(), abs=1e-9)
        assert row["tokens"] == int(2 * batch.prompt_mask.sum() + batch.chosen_mask.sum() + batch.rejected_mask.sum())
    torch.testing.assert_close(weights(trained), weights(by_hand), rtol=0, atol=1e-9)


def test_loop_learns_the_pairs_and_leaves_the_reference_alone():
    pairs, reference = training_pairs(), tiny_gpt2(seed=5, scale=0.2)
    policy, before = copy.deepcopy(reference), weights(reference)
    config = DPOConfig(steps=40, batch_size=6, learning_rate=3e-3, beta=0.5)
    rows = list(train_dpo(policy, reference, make_optimizer(policy, 3e-3), pairs, config, seed=0))
    assert len(rows) == 40
    assert rows[0]["loss"] == pytest.approx(math.log(2), abs=1e-9) and rows[0]["margin"] == pytest.approx(0, abs=1e-9)
    assert rows[-1]["loss"] < 0.2 and rows[-1]["accuracy"] == 1.0 and rows[-1]["margin"] > 1
    assert torch.equal(weights(reference), before)
    assert all(p.grad is None for p in reference.parameters())


def test_reference_is_evaluated_once():
    pairs, reference, policy = training_pairs(), tiny_gpt2(seed=5), tiny_gpt2(seed=6)
    calls = []
    reference.register_forward_hook(lambda *_: calls.append(1))
    list(train_dpo(policy, reference, make_optimizer(policy, 1e-3), pairs, CONFIG, seed=0))
    assert len(calls) == 1


def test_what_the_reference_said_before_is_not_asked_again():
    pairs, reference, policy, again = training_pairs(), *(tiny_gpt2(seed=s) for s in (5, 6, 6))
    rows = list(train_dpo(policy, reference, make_optimizer(policy, 1e-3), pairs, CONFIG, seed=0))
    chosen, rejected = reference_log_probs(reference, pairs)
    said = ReferencedPairs(**vars(pairs), ref_chosen=chosen, ref_rejected=rejected)
    reference.register_forward_hook(lambda *_: pytest.fail("the reference is asked again"))
    assert list(train_dpo(again, reference, make_optimizer(again, 1e-3), said, CONFIG, seed=0)) == rows


def test_loop_resumes_to_the_same_numbers():
    pairs, reference = training_pairs(), tiny_gpt2(seed=5)
    whole, halves = tiny_gpt2(seed=6), tiny_gpt2(seed=6)
    rows = list(train_dpo(whole, reference, make_optimizer(whole, 1e-3), pairs, CONFIG, seed=3))
    optimizer = make_optimizer(halves, 1e-3)
    loop = train_dpo(halves, reference, optimizer, pairs, CONFIG, seed=3)
    first = [next(loop) for _ in range(2)]
    second = list(train_dpo(halves, reference, optimizer, pairs, CONFIG, seed=3, start=2))
    assert first + second == rows
    assert torch.equal(weights(whole), weights(halves))


def test_dropout_is_off_while_training():
    """A policy that comes in training mode, with dropout, trains as if it had none."""
    rows = []
    for dropout in (0.0, 0.5):
        policy = tiny_gpt2(seed=6, dropout=dropout).train()
        loop = train_dpo(policy, tiny_gpt2(seed=5), make_optimizer(policy, 1e-3), training_pairs(), CONFIG, seed=3)
        rows.append(list(loop))
    assert rows[0] == rows[1]


def test_a_tie_is_no_pair_ranked_rightly():
    """Before the first step policy and reference agree: all implicit rewards are 0, and no pair is ranked."""
    policy, pairs = tiny_gpt2(), ragged_pairs([2, 3], [3, 2], [1, 4])
    rows = train_dpo(policy, policy, make_optimizer(policy, 1e-3), pairs, DPOConfig(steps=1, batch_size=2), seed=0)
    assert next(rows)["accuracy"] == 0
