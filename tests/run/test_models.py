"""Presets, new policies and frozen copies."""

from dataclasses import replace

import pytest
import torch
from transformers.activations import ACT2FN

from week6.log_probs import response_log_probs
from week6.run.models import PRESETS, frozen_copy, new_policy
from week6.sequences import encode_demonstrations, encode_prompts
from week6.tasks import load_task

TINY = PRESETS["tiny"]
TASK = load_task(TINY.task)


def log_probs(policy):
    answers = encode_demonstrations(TASK.tokenizer, ["<|user|> hello ! <|assistant|>"], ["hello !"])
    return response_log_probs(
        policy, answers.prompts, answers.prompt_mask, answers.responses, answers.response_mask
    ).detach()


def same_weights(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_called_by_their_name(name):
    assert PRESETS[name].name == name


def test_tiny_is_as_small_as_promised():
    parameters = sum(p.numel() for p in new_policy(TINY, TASK.tokenizer, seed=0).parameters())
    assert 0.1e6 <= parameters <= 1e6


def test_tiny_has_room_for_a_conversation():
    """Longest prompt and longest answer, twice over: a shorter position table would fail in the chat window."""
    prompts, _ = encode_prompts(TASK.tokenizer, list(TASK.prompts["prompt"]) + list(TASK.heldout_prompts["prompt"]))
    assert 2 * (prompts.shape[1] + TASK.max_new_tokens) <= TINY.positions
    assert TINY.ppo.max_new_tokens == TASK.max_new_tokens


class TestNewPolicy:
    def test_has_the_shape_of_its_preset(self):
        config = new_policy(replace(TINY, layers=1, heads=2, width=8, positions=30), TASK.tokenizer, seed=0).config
        shape = (config.n_layer, config.n_head, config.n_embd, config.n_positions)
        assert shape == (1, 2, 8, 30)

    def test_knows_the_tokens_of_its_tokenizer(self):
        """A wrong EOS id would never end an answer, and ids beyond the vocabulary would crash."""
        config = new_policy(TINY, TASK.tokenizer, seed=0).config
        assert config.vocab_size == len(TASK.tokenizer)
        assert config.eos_token_id == TASK.tokenizer.convert_tokens_to_ids("<|end|>")
        assert config.pad_token_id == TASK.tokenizer.convert_tokens_to_ids("<|pad|>")

    def test_follows_from_the_seed(self):
        one, again, other = (new_policy(TINY, TASK.tokenizer, seed) for seed in (0, 0, 1))
        assert same_weights(one, again)
        assert not same_weights(one, other)

    def test_leaves_the_global_random_state(self):
        torch.manual_seed(3)
        expected = torch.rand(4)
        torch.manual_seed(3)
        new_policy(TINY, TASK.tokenizer, seed=0)
        assert torch.equal(torch.rand(4), expected)

    def test_has_no_dropout_even_in_training_mode(self):
        """GPT-2's default of 0.1 would make the ratio of PPO's first pass differ from 1."""
        policy = new_policy(TINY, TASK.tokenizer, seed=0)
        assert not policy.training
        policy.train()
        assert torch.equal(log_probs(policy), log_probs(policy))

    def test_activation_is_that_of_gpt2(self):
        x = torch.linspace(-6, 6, 1001)
        policy = new_policy(TINY, TASK.tokenizer, seed=0)
        # One fused operation against eight: equal up to fp32 rounding of values of size 6.
        torch.testing.assert_close(policy.transformer.h[0].mlp.act(x), ACT2FN["gelu_new"](x), atol=2e-6, rtol=0)

    def test_width_that_heads_do_not_divide(self):
        with pytest.raises(ValueError, match="width: got 65, expected a multiple of heads = 4"):
            new_policy(replace(TINY, width=65), TASK.tokenizer, seed=0)


class TestFrozenCopy:
    def test_stays_when_the_original_is_trained(self):
        """A reference that shares weights with the policy would report a KL of 0 for ever."""
        policy = new_policy(TINY, TASK.tokenizer, seed=0)
        reference = frozen_copy(policy)
        before = log_probs(reference)
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter += 0.1
        assert torch.equal(log_probs(reference), before)
        assert not torch.equal(log_probs(policy), before)

    def test_cannot_be_trained_while_the_original_can(self):
        policy = new_policy(TINY, TASK.tokenizer, seed=0).train()
        reference = frozen_copy(policy)
        assert not any(p.requires_grad for p in reference.parameters())
        assert not any(module.training for module in reference.modules())
        assert all(p.requires_grad for p in policy.parameters())
        assert policy.training
