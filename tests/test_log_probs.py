import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from tests.tiny import EOS, log_probs_by_hand, ragged, tiny_gpt2
from week6.log_probs import masked_mean, masked_whiten, position_ids, response_log_probs, token_log_probs
from week6.sampling import sample
from week6.sequences import (
    right_pad,
)

BATCH = ([3, 1, 4, 2], [2, 4, 1, 3])


def unpadded(batch, i):
    prompts, prompt_mask, responses, response_mask = batch
    return prompts[i][prompt_mask[i]].tolist(), responses[i][response_mask[i]].tolist()


def test_positions_count_real_tokens():
    mask = torch.tensor([[0, 0, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0], [0, 1, 1, 1, 1, 1]])
    for form in (mask, mask.bool()):
        positions = position_ids(form)
        assert positions[0, 2:5].tolist() == [0, 1, 2]
        assert positions[1, :3].tolist() == [0, 1, 2]
        assert positions[2, 1:].tolist() == [0, 1, 2, 3, 4]
        assert positions.min() >= 0 and positions.max() < 6  # padding too must have an embedding
    with pytest.raises(ValueError, match="attention_mask"):
        position_ids(mask[0])
    with pytest.raises(ValueError, match="attention_mask: got values other than 0 and 1, expected a mask"):
        position_ids(mask / 2)


# --- token_log_probs ------------------------------------------------------------------------------------------------


def test_token_log_probs_by_loops():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64)
    tokens = torch.randint(0, 5, (2, 3), generator=generator)
    result = token_log_probs(logits, tokens)
    assert result.dtype == torch.float64
    for i in range(2):
        for t in range(3):
            total = sum(math.exp(float(x)) for x in logits[i, t])
            expected = float(logits[i, t, tokens[i, t]]) - math.log(total)
            assert float(result[i, t]) == pytest.approx(expected, abs=1e-12)


def test_low_precision_logits_are_widened_before_the_softmax():
    logits = (4 * torch.randn(1, 20, 1000, generator=torch.Generator().manual_seed(0))).bfloat16()
    tokens = torch.arange(20).unsqueeze(0)
    exact = logits.double().log_softmax(-1)[0, torch.arange(20), tokens[0]]
    result = token_log_probs(logits, tokens)
    assert result.dtype == torch.float32
    assert (result[0].double() - exact).abs().max() < 1e-5  # fp32 rounding; a bfloat16 softmax errs by about 0.02


def test_token_log_probs_gradient_and_bad_input():
    logits = torch.randn(2, 2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x: token_log_probs(x, torch.tensor([[0, 3], [2, 2]])), (logits,))
    with pytest.raises(ValueError, match="tokens.*(2, 3).*(2, 2)"):
        token_log_probs(logits, torch.zeros(2, 3, dtype=torch.long))
    with pytest.raises(ValueError, match="logits"):
        token_log_probs(logits[0], torch.zeros(2, 2, dtype=torch.long))


# --- response_log_probs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_response_log_probs_are_those_of_unpadded_prefixes(temperature):
    model, batch = tiny_gpt2(), ragged(*BATCH)
    with torch.no_grad():
        result = response_log_probs(model, *batch, temperature=temperature)
        assert result.shape == (4, 4)
        for i in range(4):
            by_hand = log_probs_by_hand(model, *unpadded(batch, i), temperature)
            length = len(by_hand)
            # float64: what is left is the order of summation
            torch.testing.assert_close(result[i, :length], by_hand, rtol=0, atol=1e-10)
            assert (result[i, length:] == 0).all()


def test_probabilities_of_all_responses_sum_to_one():
    """All answers of up to two tokens over four words, those that did not end included, are a distribution."""
    model = tiny_gpt2(vocab=4)
    answers = [[EOS]] + [[a, b] for a in (0, 2, 3) for b in range(4)]
    tokens, mask = right_pad(answers, pad_id=0)
    n = len(answers)
    prompts = torch.tensor([[2, 3]]).expand(n, -1)
    with torch.no_grad():
        log_probs = response_log_probs(model, prompts, torch.ones(n, 2, dtype=torch.bool), tokens, mask).sum(-1)
    assert float(log_probs.exp().sum()) == pytest.approx(1.0, abs=1e-12)


def test_log_probs_do_not_see_padding():
    model = tiny_gpt2()
    prompts, prompt_mask, responses, response_mask = batch = ragged(*BATCH)
    pad = torch.nn.functional.pad
    with torch.no_grad():
        base = response_log_probs(model, *batch)
        wider = response_log_probs(
            model, pad(prompts, (3, 0)), pad(prompt_mask, (3, 0)), pad(responses, (0, 2)), pad(response_mask, (0, 2))
        )
        torch.testing.assert_close(wider[:, :4], base, rtol=0, atol=1e-10)
        assert (wider[:, 4:] == 0).all()
        other = response_log_probs(
            model, prompts.masked_fill(~prompt_mask, 5), prompt_mask, responses.masked_fill(~response_mask, EOS),
            response_mask,
        )  # fmt: skip
        torch.testing.assert_close(other, base, rtol=0, atol=1e-10)


def test_log_probs_do_see_the_prompt_mask():
    model = tiny_gpt2()
    prompts, prompt_mask, responses, response_mask = ragged([3, 3], [3, 3])
    shorter = prompt_mask.clone()
    shorter[0, 0] = False
    with torch.no_grad():
        base = response_log_probs(model, prompts, prompt_mask, responses, response_mask)
        changed = response_log_probs(model, prompts, shorter, responses, response_mask)
        by_hand = log_probs_by_hand(model, prompts[0, 1:].tolist(), responses[0].tolist())
    torch.testing.assert_close(changed[0], by_hand, rtol=0, atol=1e-10)
    assert (changed[0] - base[0]).abs().max() > 0.01
    torch.testing.assert_close(changed[1], base[1], rtol=0, atol=1e-10)


def test_log_probs_do_not_depend_on_the_rest_of_the_batch():
    model, batch = tiny_gpt2(), ragged(*BATCH)
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        base = response_log_probs(model, *batch)
        shuffled = response_log_probs(model, *(x[order] for x in batch))
        micro = torch.cat([response_log_probs(model, *(x[i : i + 1] for x in batch)) for i in range(4)])
    torch.testing.assert_close(shuffled, base[order], rtol=0, atol=1e-10)
    torch.testing.assert_close(micro, base, rtol=0, atol=1e-10)


@pytest.mark.parametrize("left, right", [(16, 0), (0, 16), (19, 37)])
def test_padding_that_all_rows_share_changes_no_bit(left, right):
    """It is not computed, in blocks: a batch of short texts costs what it would without the long ones of the data."""
    model, batch = tiny_gpt2(dtype=torch.float32), ragged(*BATCH, seed=2)
    pad = torch.nn.functional.pad
    wide = [pad(x, (left, 0)) for x in batch[:2]] + [pad(x, (0, right)) for x in batch[2:]]
    columns, found = [], {}
    model.transformer.wte.register_forward_pre_hook(lambda _, inputs: columns.append(inputs[0].shape[1]))
    for name, rows in (("narrow", [pad(x, (left % 16, 0)) for x in batch[:2]] + list(batch[2:])), ("wide", wide)):
        model.zero_grad()
        log_probs = response_log_probs(model, *rows)
        log_probs.sum().backward()
        found[name] = log_probs[:, :4], model.transformer.wte.weight.grad.clone()
    assert log_probs.shape == (4, 4 + right) and (log_probs[:, 4:] == 0).all()
    assert columns[1] == columns[0] + right % 16 < 8 + left + right
    if right % 16 == 0:
        assert all(torch.equal(a, b) for a, b in zip(found["narrow"], found["wide"], strict=True))
    torch.testing.assert_close(found["wide"], found["narrow"])


def test_log_probs_work_for_integer_masks():
    model, (prompts, prompt_mask, responses, response_mask) = tiny_gpt2(), ragged(*BATCH)
    with torch.no_grad():
        torch.testing.assert_close(
            response_log_probs(model, prompts, prompt_mask.long(), responses, response_mask.long()),
            response_log_probs(model, prompts, prompt_mask, responses, response_mask),
        )


def test_every_response_token_and_no_padding_gets_gradient_even_when_pad_is_eos():
    model = tiny_gpt2(pad=EOS)
    batch = ragged(*BATCH, pad=EOS)
    mask = batch[3]
    log_probs = response_log_probs(model, *batch)
    assert (log_probs[mask] < 0).all()
    for i, t in [(0, 1), (1, 3), (2, 0), (3, 2)]:  # the EOS of each row
        assert batch[2][i, t] == EOS and mask[i, t]
        (gradient,) = torch.autograd.grad(log_probs[i, t], model.lm_head.weight, retain_graph=True)
        assert gradient[EOS].norm() > 1e-3
    (gradient,) = torch.autograd.grad(log_probs[~mask].sum(), model.lm_head.weight, retain_graph=True)
    assert (gradient == 0).all()


@pytest.mark.parametrize(
    "name, change",
    [
        ("prompts", lambda p, pm, r, rm: (p[0], pm, r, rm)),
        ("responses", lambda p, pm, r, rm: (p, pm, r[0], rm)),
        ("prompt_mask", lambda p, pm, r, rm: (p, pm[:, 1:], r, rm)),
        ("response_mask", lambda p, pm, r, rm: (p, pm, r, rm[:, 1:])),
        ("responses", lambda p, pm, r, rm: (p, pm, r[:3], rm[:3])),
        ("response_mask", lambda p, pm, r, rm: (p, pm, r, rm & torch.tensor([[True]] * 3 + [[False]]))),
        ("prompt_mask", lambda p, pm, r, rm: (p, pm & torch.tensor([[True]] * 3 + [[False]]), r, rm)),
        ("prompt_mask", lambda p, pm, r, rm: (p.flip(1), pm.flip(1), r, rm)),
        ("response_mask", lambda p, pm, r, rm: (p, pm, r.flip(1), rm.flip(1))),
        ("response_mask", lambda p, pm, r, rm: (p, pm, r, rm * 2)),
    ],
)
def test_log_probs_reject_bad_batches_by_name(name, change):
    with pytest.raises(ValueError, match=f"^{name}:"):
        response_log_probs(tiny_gpt2(), *change(*ragged(*BATCH)))


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_temperature_must_be_positive(temperature):
    batch = ragged(*BATCH)
    with pytest.raises(ValueError, match="temperature"):
        response_log_probs(tiny_gpt2(), *batch, temperature=temperature)
    with pytest.raises(ValueError, match="temperature"):
        sample(tiny_gpt2(), *batch[:2], max_new_tokens=2, temperature=temperature)


# --- masked statistics ----------------------------------------------------------------------------------------------


numbers = st.lists(st.tuples(st.floats(-100, 100), st.booleans()), min_size=1, max_size=12).filter(
    lambda rows: any(keep for _, keep in rows)
)


@given(numbers)
@settings(max_examples=50)
def test_masked_mean_by_loops(rows):
    x, mask = torch.tensor([r[0] for r in rows], dtype=torch.float64), torch.tensor([r[1] for r in rows])
    kept = [value for value, keep in rows if keep]
    for form in (mask, mask.double(), mask.long()):
        assert float(masked_mean(x, form)) == pytest.approx(sum(kept) / len(kept), abs=1e-10)


def test_masked_mean_along_an_axis():
    x = torch.tensor([[1.0, 2.0, 99.0], [3.0, 50.0, 70.0]])
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]]).bool()
    assert masked_mean(x, mask, dim=1).tolist() == [1.5, 3.0]
    assert masked_mean(x[:, :2], mask[:, :2], dim=0).tolist() == [2.0, 2.0]
    assert float(masked_mean(x, mask)) == 2.0  # a mean over tokens, not over the rows' means (2.25)


def test_masked_mean_keeps_garbage_at_padding_out_of_value_and_gradient():
    x = torch.tensor([1.0, float("nan"), 5.0, float("inf")], requires_grad=True)
    mean = masked_mean(x, torch.tensor([True, False, True, False]))
    mean.backward()
    assert mean.item() == 3.0
    assert x.grad.tolist() == [0.5, 0.0, 0.5, 0.0]


def test_masked_mean_rejects_bad_input():
    with pytest.raises(ValueError, match="mask"):
        masked_mean(torch.ones(2), torch.zeros(2))
    with pytest.raises(ValueError, match="mask"):
        masked_mean(torch.ones(2, 2), torch.tensor([[1, 0], [0, 0]]), dim=1)
    with pytest.raises(ValueError, match="mask.*(2,).*(3,)"):
        masked_mean(torch.ones(3), torch.ones(2))


def whiten_by_hand(kept, shift_mean=True):
    mean = sum(kept) / len(kept)
    variance = sum((x - mean) ** 2 for x in kept) / len(kept)
    return [(x - mean) / math.sqrt(variance + 1e-8) + (0.0 if shift_mean else mean) for x in kept]


@given(numbers, st.booleans())
@settings(max_examples=50)
def test_whitening_by_loops(rows, shift_mean):
    x, mask = torch.tensor([r[0] for r in rows], dtype=torch.float64), torch.tensor([r[1] for r in rows])
    expected = whiten_by_hand([value for value, keep in rows if keep], shift_mean)
    result = masked_whiten(x, mask, shift_mean)
    torch.testing.assert_close(result[mask], torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-7)
    assert (result[~mask] == 0).all()


def test_whitened_entries_have_mean_zero_and_biased_variance_one():
    x = torch.tensor([[3.0, 7.0, 1e6], [8.0, -1e6, float("nan")]], dtype=torch.float64)
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]]).bool()
    white = masked_whiten(x, mask)[mask]
    assert white.mean().abs() < 1e-12
    assert float((white**2).mean()) == pytest.approx(1.0, abs=1e-8)  # the 1e-8 under the root, over a variance of 4.7
    kept = masked_whiten(x, mask, shift_mean=False)[mask]
    assert float(kept.mean()) == pytest.approx(6.0, abs=1e-12)
    torch.testing.assert_close(kept - 6.0, white)


def test_whitening_of_nearly_equal_entries_does_not_explode():
    x = torch.tensor([1e-4, -1e-4], dtype=torch.float64)
    assert masked_whiten(x, torch.ones(2)).tolist() == pytest.approx([math.sqrt(0.5), -math.sqrt(0.5)], abs=1e-12)
    assert masked_whiten(torch.full((3,), 2.0), torch.ones(3)).tolist() == [0.0, 0.0, 0.0]
    assert masked_whiten(torch.full((3,), 2.0), torch.ones(3), shift_mean=False).tolist() == [2.0, 2.0, 2.0]


def test_masked_statistics_gradient():
    mask = torch.tensor([[True, True, False], [True, True, True]])
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda y: masked_mean(y, mask), (x,))
    assert gradcheck(lambda y: masked_mean(y, mask, dim=1), (x,))
    assert gradcheck(lambda y: masked_whiten(y, mask), (x,))


def test_weights_are_no_mask():
    """Of 1, 2, 3 with weights 1, ½, ½ the mean is 1.75; where a weight is taken for a 1 it would be 3."""
    x, weights = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 0.5, 0.5])
    for mean in (masked_mean, masked_whiten):
        with pytest.raises(ValueError, match="mask: got values other than 0 and 1"):
            mean(x, weights)


def test_masked_mean_names_an_axis_that_is_not_there():
    x = torch.ones(2, 3)
    with pytest.raises(ValueError, match="^dim: got 2, expected an axis"):
        masked_mean(x, x.bool(), dim=2)
