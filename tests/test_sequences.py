import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from tests.tiny import EOS, log_probs_by_hand, merging_tokenizer, ragged, ragged_pairs, tiny_gpt2, words_tokenizer
from week6.compute import using
from week6.sequences import (
    Pairs,
    Rollout,
    decode,
    encode_demonstrations,
    encode_pairs,
    encode_prompts,
    join_pairs,
    left_pad,
    masked_mean,
    masked_whiten,
    pair_rollouts,
    position_ids,
    response_log_probs,
    right_pad,
    sample,
    token_log_probs,
)

BATCH = ([3, 1, 4, 2], [2, 4, 1, 3])


def unpadded(batch, i):
    prompts, prompt_mask, responses, response_mask = batch
    return prompts[i][prompt_mask[i]].tolist(), responses[i][response_mask[i]].tolist()


# --- padding and positions ------------------------------------------------------------------------------------------


def test_padding_goes_left_or_right_and_masks_come_from_lengths():
    rows = [[5], [0, 6, 0], [0, 0]]  # 0 is the pad token, and a real token of the rows as well
    tokens, mask = left_pad(rows, pad_id=0)
    assert tokens.tolist() == [[0, 0, 5], [0, 6, 0], [0, 0, 0]]
    assert mask.tolist() == [[False, False, True], [True, True, True], [False, True, True]]
    tokens, mask = right_pad(rows, pad_id=9)
    assert tokens.tolist() == [[5, 9, 9], [0, 6, 0], [0, 0, 9]]
    assert mask.tolist() == [[True, False, False], [True, True, True], [True, True, False]]
    assert mask.dtype == torch.bool and tokens.dtype == torch.long


@pytest.mark.parametrize("pad", [left_pad, right_pad])
@pytest.mark.parametrize("rows", [[], [[1], []]])
def test_padding_rejects_empty_rows(pad, rows):
    with pytest.raises(ValueError, match="rows"):
        pad(rows, 0)


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


# --- sampling -------------------------------------------------------------------------------------------------------


def prompts_for_sampling(rows: int = 64, seed: int = 3, pad: int = 0):
    lengths = [1 + i % 5 for i in range(rows)]
    return ragged(lengths, [1] * rows, seed=seed, pad=pad)[:2]


@pytest.mark.parametrize("pad", [0, EOS, None])
@pytest.mark.parametrize("temperature", [1.0, 0.7, 1.6])
def test_sampler_is_scorer(temperature, pad):
    """max |ρ − 1| of the first pass in fp32, at mixed lengths of prompts and answers."""
    model = tiny_gpt2(pad=pad, dtype=torch.float32, scale=0.3)
    rollout = sample(model, *prompts_for_sampling(pad=pad or 0), 8, temperature, torch.Generator().manual_seed(0))
    with torch.no_grad():
        scored = response_log_probs(
            model, rollout.prompts, rollout.prompt_mask, rollout.responses, rollout.response_mask, temperature
        )
    assert len(rollout.response_mask.sum(-1).unique()) > 3  # mixed lengths indeed
    assert ((scored - rollout.log_probs).exp() - 1).abs().max() < 1e-4
    assert (rollout.log_probs[rollout.response_mask] < 0).all()
    assert (rollout.log_probs[~rollout.response_mask] == 0).all()


@pytest.mark.parametrize("pad", [0, EOS])
def test_first_eos_belongs_to_the_response_and_ends_it(pad):
    model = tiny_gpt2(pad=pad, dtype=torch.float32, scale=0.3)
    prompts, prompt_mask = prompts_for_sampling(pad=pad)
    rollout = sample(model, prompts, prompt_mask, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(rollout.prompts, prompts) and torch.equal(rollout.prompt_mask, prompt_mask)
    assert rollout.finished.any() and not rollout.finished.all()
    for tokens, mask, finished in zip(rollout.responses, rollout.response_mask, rollout.finished, strict=True):
        real = tokens[mask].tolist()
        length = len(real)
        assert mask[:length].all() and not mask[length:].any()
        assert EOS not in real[:-1]
        assert bool(finished) == (real[-1] == EOS)
        assert bool(finished) or length == 6
        assert (tokens[length:] == pad).all()


def one_token_model(token: int, **config: object):
    """A model that gives `token` next, whatever came before."""
    model = tiny_gpt2(dtype=torch.float32)
    for name, value in config.items():
        setattr(model.config, name, value)
    with torch.no_grad():
        for parameter in model.transformer.parameters():
            parameter.zero_()
        model.transformer.ln_f.bias[0] = 1.0
        model.transformer.wte.weight[token, 0] = 100.0  # tied to the head
    return model


def test_sampling_returns_as_soon_as_every_row_has_ended():
    rollout = sample(one_token_model(EOS), *prompts_for_sampling(4), 20)
    assert rollout.responses.tolist() == [[EOS]] * 4
    assert rollout.finished.all()


def test_an_answer_cut_off_by_the_limit_is_unfinished():
    rollout = sample(one_token_model(3), *prompts_for_sampling(4), 5)
    assert rollout.responses.tolist() == [[3] * 5] * 4
    assert rollout.response_mask.all() and not rollout.finished.any()


def test_eos_at_the_very_limit_is_finished():
    rollout = sample(one_token_model(EOS), *prompts_for_sampling(4), 1)
    assert rollout.finished.all() and rollout.response_mask.all()


def test_several_eos_tokens_or_none():
    assert (
        sample(one_token_model(4, eos_token_id=[EOS, 4]), *prompts_for_sampling(2), 5).responses.tolist() == [[4]] * 2
    )
    endless = sample(one_token_model(EOS, eos_token_id=None), *prompts_for_sampling(2), 3)
    assert endless.responses.shape == (2, 3) and endless.finished.all()


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_samples_follow_the_policy(temperature):
    """Frequencies of all answers of ≤ 2 tokens against their exact probabilities, behind a padded prompt."""
    model, n = tiny_gpt2(vocab=4, dtype=torch.float32, scale=0.3), 8192
    prompts = torch.tensor([[0, 2, 3], [3, 2, 2]]).repeat_interleave(n, 0)
    mask = torch.tensor([[0, 1, 1], [1, 1, 1]]).bool().repeat_interleave(n, 0)
    rollout = sample(model, prompts, mask, 2, temperature, torch.Generator().manual_seed(1))
    answers = [[EOS]] + [[a, b] for a in (0, 2, 3) for b in range(4)]
    for first, prompt in ((0, [2, 3]), (n, [3, 2, 2])):
        rows = slice(first, first + n)
        for answer in answers:
            with torch.no_grad():
                p = float(log_probs_by_hand(model, prompt, answer, temperature).sum().exp())
            padded = torch.tensor(answer + [0] * (2 - len(answer)))
            length = rollout.response_mask[rows].sum(-1) == len(answer)
            frequency = float(((rollout.responses[rows] == padded).all(-1) & length).float().mean())
            assert abs(frequency - p) < 4.5 * math.sqrt(p * (1 - p) / n) + 1e-6  # 26 answers: 4.5 σ


def test_ratio_has_mean_one_under_the_old_policy():
    """E_old[ρ] = 1, and E[k1] = E[k3] = KL, from sampled whole answers of two real models."""
    old, new = (tiny_gpt2(seed=0, dtype=torch.float32, scale=s) for s in (0.25, 0.2))
    n = 4096
    prompts, mask = torch.full((n, 2), 3), torch.ones(n, 2, dtype=torch.bool)
    rollout = sample(old, prompts, mask, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        scored = response_log_probs(new, prompts, mask, rollout.responses, rollout.response_mask)
    d = (rollout.log_probs - scored).sum(-1)
    ratio = (-d).exp()
    assert ratio.std() > 0.05
    assert abs(float(ratio.mean()) - 1) < 4 * float(ratio.std()) / math.sqrt(n)
    control = d - (torch.expm1(-d) + d)  # k1 − k3 = 1 − ρ
    assert abs(float(control.mean())) < 4 * float(control.std()) / math.sqrt(n)


def test_sampling_is_reproducible_and_leaves_the_global_random_state():
    model, prompts = tiny_gpt2(dtype=torch.float32), prompts_for_sampling(8)
    state = torch.get_rng_state()
    first, again = (sample(model, *prompts, 5, generator=torch.Generator().manual_seed(7)) for _ in range(2))
    other = sample(model, *prompts, 5, generator=torch.Generator().manual_seed(8))
    assert torch.equal(first.responses, again.responses) and torch.equal(first.log_probs, again.log_probs)
    assert first.responses.shape != other.responses.shape or not torch.equal(first.responses, other.responses)
    assert torch.equal(torch.get_rng_state(), state)
    assert not first.log_probs.requires_grad


def test_sampling_rejects_bad_input_by_name():
    model, (prompts, mask) = tiny_gpt2(), prompts_for_sampling(3)
    empty = mask.clone()
    empty[1] = False
    for name, arguments in [
        ("prompts", (prompts[0], mask[0], 3)),
        ("prompt_mask", (prompts, mask[:, 1:], 3)),
        ("prompt_mask", (prompts, empty, 3)),
        ("max_new_tokens", (prompts, mask, 0)),
    ]:
        with pytest.raises(ValueError, match=f"^{name}:"):
            sample(model, *arguments)


def test_sampling_rejects_prompts_padded_on_the_right():
    """They would be continued from a padding column, and scored as another text."""
    prompts, mask = prompts_for_sampling(3)
    with pytest.raises(ValueError, match="prompt_mask"):
        sample(tiny_gpt2(), prompts.flip(1), mask.flip(1), 3)


# --- text and tokens ------------------------------------------------------------------------------------------------


def test_demonstrations_end_with_exactly_one_eos():
    tokenizer = words_tokenizer("hi there you")
    data = encode_demonstrations(tokenizer, ["hi ", "hi there "], ["you", "you there <eos>"])
    pad, eos, hi, there, you = range(5)
    assert data.prompts.tolist() == [[pad, hi], [hi, there]]
    assert data.prompt_mask.tolist() == [[False, True], [True, True]]
    assert data.responses.tolist() == [[you, eos, pad], [you, there, eos]]
    assert data.response_mask.tolist() == [[True, True, False], [True, True, True]]


def test_the_eos_is_real_when_pad_is_eos():
    tokenizer = words_tokenizer("hi you", pad="<eos>")
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    data = encode_demonstrations(tokenizer, ["hi ", "hi hi "], ["you", "you hi"])
    assert data.response_mask.sum(-1).tolist() == [2, 3]
    assert data.prompt_mask.sum(-1).tolist() == [1, 2]


def test_a_merged_token_at_the_boundary_belongs_to_the_answer():
    tokenizer = merging_tokenizer()
    pad, eos, a, b, c, d, bc = range(7)
    data = encode_demonstrations(tokenizer, ["ab"], ["cd"])
    assert data.prompts.tolist() == [[a]]
    assert data.responses.tolist() == [[bc, d, eos]]
    pairs = encode_pairs(tokenizer, ["ab"], ["cd"], ["d"])  # one cut for both, though only one of them merges
    assert pairs.prompts.tolist() == [[a]]
    assert pairs.chosen.tolist() == [[bc, d, eos]]
    assert pairs.rejected.tolist() == [[b, d, eos]]


def test_a_text_that_brings_its_bos_gets_no_second_one():
    tokenizer = words_tokenizer("hi you", bos="<bos>")
    bos, hi, you = (tokenizer.convert_tokens_to_ids(t) for t in ("<bos>", "hi", "you"))
    assert encode_prompts(tokenizer, ["hi"])[0].tolist() == [[bos, hi]]
    assert encode_prompts(tokenizer, ["<bos> hi"])[0].tolist() == [[bos, hi]]
    data = encode_demonstrations(tokenizer, ["<bos> hi "], ["you"])
    assert data.prompts.tolist() == [[bos, hi]] and data.responses.tolist() == [[you, EOS]]


def test_an_empty_answer_is_one_eos():
    data = encode_demonstrations(words_tokenizer("hi"), ["hi"], [""])
    assert data.responses.tolist() == [[EOS]] and data.response_mask.tolist() == [[True]]


def test_pairs_share_prompt_and_width():
    tokenizer = words_tokenizer("p q a b c")
    pairs = encode_pairs(tokenizer, ["p ", "p q "], ["a", "a"], ["a b c", "c"])
    word = tokenizer.convert_tokens_to_ids
    assert pairs.prompts.tolist() == [[0, word("p")], [word("p"), word("q")]]
    assert pairs.chosen.tolist() == [[word("a"), EOS, 0, 0]] * 2
    assert pairs.rejected.tolist() == [[word("a"), word("b"), word("c"), EOS], [word("c"), EOS, 0, 0]]
    assert pairs.chosen_mask.sum(-1).tolist() == [2, 2] and pairs.rejected_mask.sum(-1).tolist() == [4, 2]
    assert len(pairs) == 2
    one = pairs.rows(torch.tensor([1]))
    assert len(one) == 1 and one.rejected.tolist() == [[word("c"), EOS, 0, 0]] and one.prompt_mask.all()


def test_stacked_pairs_put_the_chosen_first():
    pairs = ragged_pairs([1, 2], [3, 1], [2, 4])
    both = pairs.stacked()
    assert len(both) == 4
    assert torch.equal(both.responses[:2], pairs.chosen) and torch.equal(both.responses[2:], pairs.rejected)
    assert torch.equal(both.response_mask[2:], pairs.rejected_mask)
    assert torch.equal(both.prompts[2:], pairs.prompts) and torch.equal(both.prompt_mask[:2], pairs.prompt_mask)


def test_sampled_answers_become_pairs_token_for_token():
    prompts, prompt_mask, first, first_mask = ragged([1, 2], [2, 1], seed=0)
    _, _, second, second_mask = ragged([1, 2], [3, 4], seed=1)
    a, b = (
        Rollout(prompts, prompt_mask, r, m, torch.zeros(r.shape), torch.ones(2, dtype=torch.bool))
        for r, m in ((first, first_mask), (second, second_mask))
    )
    pairs = pair_rollouts(a, b, torch.tensor([True, False]))
    assert pairs.chosen.shape == pairs.rejected.shape == (2, 4)
    assert torch.equal(pairs.chosen[0][pairs.chosen_mask[0]], first[0][first_mask[0]])
    assert torch.equal(pairs.rejected[0][pairs.rejected_mask[0]], second[0][second_mask[0]])
    assert torch.equal(pairs.chosen[1][pairs.chosen_mask[1]], second[1][second_mask[1]])
    assert torch.equal(pairs.rejected[1][pairs.rejected_mask[1]], first[1][first_mask[1]])
    with pytest.raises(ValueError, match="second"):
        pair_rollouts(a, b.rows(torch.tensor([1, 0])), torch.tensor([True, False]))


def test_decoding_gives_the_words_back():
    tokenizer = words_tokenizer("hi you there", pad="<eos>")
    answers = ["you", "there you hi"]
    data = encode_demonstrations(tokenizer, ["hi ", "hi "], answers)
    assert decode(tokenizer, data.responses, data.response_mask) == answers


def test_a_tokenizer_without_eos_is_an_error():
    tokenizer = words_tokenizer("hi")
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="tokenizer"):
        encode_demonstrations(tokenizer, ["hi"], ["hi"])
    tokenizer.pad_token = None
    with pytest.raises(ValueError, match="tokenizer"):
        encode_prompts(tokenizer, ["hi"])


def test_rows_of_tensors_move_to_another_device_together():
    moved = ragged_pairs([1, 2], [3, 1], [2, 4]).to("meta")
    assert {field.device.type for field in vars(moved).values()} == {"meta"}


def test_pairs_are_cut_where_both_answers_can_be():
    """ "ab" + "d" keeps the prompt's tokens, "ab" + "c" merges its last one: both answers must start after "a"."""
    data = encode_pairs(merging_tokenizer(), ["ab", "ab"], ["d", "c"], ["c", "d"])
    assert data.prompts.tolist() == [[2], [2]] and data.prompt_mask.all()
    long, short = [3, 5, 1], [6, 1, 0]  # b d <eos>, and bc <eos> <pad>
    assert data.chosen.tolist() == [long, short] and data.rejected.tolist() == [short, long]
    assert data.chosen_mask.sum(-1).tolist() == [3, 2] and data.rejected_mask.sum(-1).tolist() == [2, 3]


def test_joined_pairs_keep_their_rows_and_pad_the_shorter_answers():
    prompts, prompt_mask, chosen, chosen_mask = ragged([2, 3], [2, 4])
    _, _, rejected, rejected_mask = ragged([2, 3], [4, 1], seed=1)
    wide = Pairs(prompts, prompt_mask, chosen, chosen_mask, rejected, rejected_mask)
    short = Pairs(prompts, prompt_mask, chosen[:, :3], chosen_mask[:, :3], rejected[:, :3], rejected_mask[:, :3])
    joined = join_pairs([short, wide])
    assert len(joined) == 4 and torch.equal(joined.prompts, torch.cat([prompts, prompts]))
    for name in ("chosen", "rejected", "chosen_mask", "rejected_mask"):
        assert torch.equal(getattr(joined.rows(slice(2, 4)), name), getattr(wide, name))
        assert torch.equal(getattr(joined.rows(slice(0, 2)), name)[:, :3], getattr(short, name))
    assert not joined.chosen_mask[:2, 3:].any() and not joined.rejected_mask[:2, 3:].any()  # padding is no token


class TestSamplingInParts:
    """Answers to a batch are the same however its rows are divided: every row meets its own random numbers."""

    LENGTHS = [1, 3, 2, 1, 2, 3, 1]

    def rollout(self, generator, model=None, **changes):
        prompts, mask = ragged(self.LENGTHS, [1] * 7, seed=5)[:2]
        with using(**changes):
            return sample(model or tiny_gpt2(seed=3, scale=0.4), prompts, mask, 12, 0.9, generator)

    def fields(self, rollout):
        return {field.name: getattr(rollout, field.name) for field in dataclasses.fields(rollout)}

    @pytest.mark.parametrize("most_rows", [1, 2, 3, 5])
    def test_answers_and_the_next_random_numbers_are_those_of_one_batch(self, most_rows):
        whole_generator, generator = (torch.Generator().manual_seed(7) for _ in range(2))
        whole = self.rollout(whole_generator)
        parts = self.rollout(generator, most_rows=most_rows)
        lengths = [int(mask.sum(-1).max()) for mask in whole.response_mask.split(most_rows)]
        assert max(lengths) == whole.responses.shape[1]
        if most_rows < 5:  # the test would not see a generator left by the last part, or parts of equal length
            assert lengths[-1] < max(lengths) and len(set(lengths)) > 1
        for name, tensor in self.fields(whole).items():
            if name == "log_probs":  # sums over other shapes, in fp32
                torch.testing.assert_close(parts.log_probs, tensor, rtol=0, atol=1e-5)
            else:
                assert torch.equal(getattr(parts, name), tensor), name
        assert torch.equal(whole_generator.get_state(), generator.get_state())

    def test_the_default_generator_too(self):
        torch.manual_seed(3)
        whole, after = self.rollout(None), torch.rand(2)
        torch.manual_seed(3)
        parts = self.rollout(None, most_rows=2)
        assert torch.equal(parts.responses, whole.responses) and torch.equal(torch.rand(2), after)

    def test_padding_is_the_pad_token(self):
        model = tiny_gpt2(seed=3, scale=0.4, pad=EOS)
        whole = self.rollout(torch.Generator().manual_seed(7), model)
        parts = self.rollout(torch.Generator().manual_seed(7), model, most_rows=2)
        assert (whole.responses[~whole.response_mask] == EOS).all() and not whole.response_mask.all()
        assert torch.equal(parts.responses, whole.responses)

    def test_one_draw_is_that_of_multinomial(self):
        """So that the numbers of every earlier run stay what they were."""
        model = tiny_gpt2(seed=3, dtype=torch.float32)
        prompts, mask = ragged(self.LENGTHS, [1] * 7, seed=5)[:2]
        answers = sample(model, prompts, mask, 1, generator=torch.Generator().manual_seed(7))
        with torch.no_grad():
            logits = model(input_ids=prompts, attention_mask=mask.long(), position_ids=position_ids(mask)).logits
        expected = torch.multinomial(logits[:, -1].log_softmax(-1).exp(), 1, generator=torch.Generator().manual_seed(7))
        assert torch.equal(answers.responses, expected)

    def test_nan_logits_are_an_error(self):
        """An argmax over NaN would be an answer like any other."""
        model = tiny_gpt2()
        with torch.no_grad():
            model.transformer.ln_f.weight[0] = float("nan")
        with pytest.raises(ValueError, match="logits: got NaN"):
            self.rollout(torch.Generator(), model)
