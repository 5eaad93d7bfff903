import dataclasses
import math

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto import CONFIG_MAPPING
from transformers.models.mamba.modeling_mamba import MambaCausalLMOutput

from tests.tiny import EOS, log_probs_by_hand, ragged, tiny_gpt2
from week6 import sampling
from week6.log_probs import position_ids, response_log_probs
from week6.machine.compute import using
from week6.machine.lora import LoRAConfig, trainee_of
from week6.machine.memory import KEY_VALUE_CACHE
from week6.sampling import sample

BATCH = ([3, 1, 4, 2], [2, 4, 1, 3])


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
    assert sample(one_token_model(EOS, eos_token_id=None), *prompts_for_sampling(2), 1).finished.tolist() == [True] * 2


def test_memory_is_reckoned_for_whole_rows_and_one_token_of_the_head(monkeypatch):
    asked, in_parts = [], sampling.in_parts
    monkeypatch.setattr(
        sampling, "in_parts", lambda f, data, *more: asked.append(data.columns) or in_parts(f, data, *more)
    )
    prompts, mask = prompts_for_sampling(2)
    sample(tiny_gpt2(), prompts, mask, 3)
    assert asked == [(prompts.shape[1] + 3, 1)]


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


SMALL = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "bos_token_id": 2,
    "eos_token_id": [EOS, 5, 9, 14],
    "pad_token_id": 0,
}
WINDOW = {"sliding_window": 6}
MODELS = {
    "gpt2": {"n_embd": 16, "n_head": 2, "n_layer": 2, "n_positions": 64},
    "gpt2, own attention": {
        "n_embd": 16,
        "n_head": 2,
        "n_layer": 2,
        "n_positions": 64,
        "_attn_implementation": "eager",
    },
    "llama": {},
    "mistral": {"sliding_window": None},
    "mistral, window": WINDOW,
    "gemma": {},
    "gemma2, window": WINDOW,
    "gemma3_text, window": WINDOW,
    "qwen2": {},
    "gpt_neox": {"hidden_size": 16, "num_attention_heads": 2},
}
if KEY_VALUE_CACHE in MambaCausalLMOutput.__annotations__:  # else it is refused: tests/machine/test_memory.py
    MODELS["mamba"] = {"state_size": 4}


def small_model(name: str):
    """A model of this kind whose answers end at different times."""
    torch.manual_seed(2)
    options = {**SMALL, **MODELS[name]}
    if name.startswith("gpt2"):
        options = {k: v for k, v in options.items() if k not in ("hidden_size", "num_hidden_layers", "head_dim")}
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[name.split(",")[0]](**options)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(6)
    return model


class TestLessWork:
    """`sample` draws what the textbook's loop draws, token for token, with rows that leave the batch."""

    def both(self, model, lengths, temperature=1.0, new_tokens=16, common=0, **changes):
        """The textbook's answers, those of `sample`, and how many rows `sample` still had in its last step."""
        prompts, mask, *_ = ragged(lengths, [1] * len(lengths), vocab=40, seed=4)
        pad = torch.nn.functional.pad
        prompts, mask = pad(prompts, (common, 0)), pad(mask, (common, 0))
        rows, draw = [], sampling.draw

        def watched(log_probs, *arguments):
            rows.append(len(log_probs))
            return draw(log_probs, *arguments)

        generators = [torch.Generator().manual_seed(6) for _ in range(2)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sampling, "_sample_lean", sampling._sample)
            textbook = sample(model, prompts, mask, new_tokens, temperature, generators[0])
        with pytest.MonkeyPatch.context() as patch, using(**changes):
            patch.setattr(sampling, "draw", watched)
            found = sample(model, prompts, mask, new_tokens, temperature, generators[1])
        assert torch.equal(generators[0].get_state(), generators[1].get_state())
        return textbook, found, rows

    def equal(self, textbook, found):
        for name in ("responses", "response_mask", "finished"):
            assert torch.equal(getattr(textbook, name), getattr(found, name)), name
        torch.testing.assert_close(found.log_probs, textbook.log_probs, rtol=0, atol=1e-5)  # sums of other shapes
        assert len(textbook.response_mask.sum(-1).unique()) > 4

    @pytest.mark.parametrize("name", MODELS)
    def test_it_is_the_textbook_s(self, name):
        textbook, found, rows = self.both(small_model(name), [1 + i % 7 for i in range(48)], 0.9)
        self.equal(textbook, found)
        if name == "mamba":  # its running states are not known: nobody leaves
            assert set(rows) == {48}
        else:
            assert rows[0] == 48 and rows[-1] <= 24 and len(set(rows)) > 3

    def test_adapters(self):
        for name in ("gpt2", "llama"):
            model = trainee_of(small_model(name), LoRAConfig(rank=2), seed=1).model
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.requires_grad:  # B of B A starts at zero
                        parameter.normal_(std=0.5)
            self.equal(*self.both(model, [3, 1, 2, 5] * 6)[:2])

    def test_nobody_leaves_a_model_that_holds_something_a_row(self):
        """As a wrapper does that notes where each text begins."""

        class Wrapped(torch.nn.Module):
            def __init__(self, model):
                super().__init__()
                self.model, self.config, self.first = model, model.config, None

            def forward(self, input_ids, position_ids, **inputs):
                if input_ids.shape[1] > 1:
                    self.first = (input_ids[:, -1:] % 2).expand(-1, 1)
                return self.model(input_ids=input_ids, position_ids=position_ids + self.first, **inputs)

        textbook, found, rows = self.both(Wrapped(small_model("gpt2")), [3, 1, 2, 5] * 8)
        self.equal(textbook, found)
        assert set(rows) == {32}

    @pytest.mark.parametrize("most_rows", [1, 5, 20])
    def test_in_parts(self, most_rows):
        self.equal(*self.both(small_model("gpt2"), [3, 1, 2, 5] * 8, most_rows=most_rows)[:2])

    def test_common_padding_and_no_padding(self):
        for common, lengths in ((0, [4] * 32), (37, [2, 5, 3, 1] * 8)):
            self.equal(*self.both(small_model("gpt2"), lengths, common=common, new_tokens=12)[:2])

    def test_answers_without_an_end(self):
        model = small_model("gpt2")
        model.config.eos_token_id = None
        textbook, found, rows = self.both(model, [3, 1] * 12)
        assert torch.equal(textbook.responses, found.responses) and found.finished.all() and found.response_mask.all()
        assert set(rows) == {24}
