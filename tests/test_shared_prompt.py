import dataclasses

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto import CONFIG_MAPPING

from tests.tiny import ragged_pairs
from week6 import shared_prompt
from week6.dpo import pair_log_probs
from week6.reward_model import RewardModel, pair_scores
from week6.shared_prompt import share_prompts

SIZES = {
    "vocab_size": 7,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 96,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
GPT2 = {"vocab_size": 7, "n_embd": 16, "n_head": 2, "n_layer": 2, "n_positions": 96, "pad_token_id": 0}
PAIRS = ragged_pairs([40, 33, 1, 17], [5, 1, 9, 3], [2, 9, 1, 20], seed=1)


def model(kind="gpt2", **changes):
    torch.manual_seed(0)
    config = CONFIG_MAPPING[kind](**{**(GPT2 if kind == "gpt2" else SIZES), **changes})
    language_model = AutoModelForCausalLM.from_config(config).double().eval()
    with torch.no_grad():
        for parameter in language_model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8)
    return language_model


def results(language_model, pairs=PAIRS):
    """Log-probabilities and scores of the pairs, and the gradients of both."""
    judge = RewardModel(model()).double() if language_model.config.model_type == "gpt2" else None
    found = [*pair_log_probs(language_model, pairs)]
    (found[0] - 2 * found[1]).sum().backward()
    if judge is not None:
        torch.nn.init.ones_(judge.head.weight)
        found += [*pair_scores(judge, pairs)]
        (found[2] - 2 * found[3]).sum().backward()
    weights = [p for m in (language_model, judge) if m is not None for p in m.parameters()]
    gradients = [p.grad for p in weights if p.grad is not None]
    return found, gradients


@pytest.mark.parametrize("kind", sorted(shared_prompt.KNOWN))
def test_each_answer_is_that_of_a_row_of_its_own(kind, monkeypatch):
    """Of ragged prompts and answers, with gradients."""
    tokens = []
    language_model = model(kind)
    assert share_prompts(language_model, PAIRS) is not None
    language_model.get_input_embeddings().register_forward_pre_hook(lambda _, x: tokens.append(x[0].numel()))
    shared = results(language_model)
    monkeypatch.setattr(shared_prompt, "LEAST", 1000)
    apart = results(language_model_again := model(kind))
    assert share_prompts(language_model_again, PAIRS) is None
    tolerance = 1e-9 if kind == "gpt2" else 2e-5  # the others' norms and rotations are in fp32, whatever the weights
    torch.testing.assert_close(shared, apart, rtol=tolerance, atol=tolerance)
    assert tokens[0] == 4 * (40 + 2 * 20) < 8 * (40 + 20)


def test_padding_that_all_share_is_left_out():
    wide = dataclasses.replace(
        PAIRS, **{name: torch.nn.functional.pad(getattr(PAIRS, name), (16, 0)) for name in ("prompts", "prompt_mask")}
    )
    narrow, wider = share_prompts(model(), PAIRS), share_prompts(model(), wide)
    assert torch.equal(narrow.tokens, wider.tokens) and torch.equal(narrow.sees, wider.sees)
    short = PAIRS.rows(torch.tensor([2]))
    assert share_prompts(model(), short) is None  # the longest prompt of these rows is one token long


@pytest.mark.parametrize("spare", [0, 16])
def test_it_pays_from_the_least_length_on(spare):
    """That of the longest prompt, whatever padding stands before all of them."""
    for longest, pays in ((shared_prompt.LEAST - 1, False), (shared_prompt.LEAST, True)):
        pairs = ragged_pairs([longest, 3], [4, 2], [1, 5])
        wide = {x: torch.nn.functional.pad(getattr(pairs, x), (spare, 0)) for x in ("prompts", "prompt_mask")}
        assert (share_prompts(model(), dataclasses.replace(pairs, **wide)) is not None) == pays


@pytest.mark.parametrize(
    "language_model",
    [
        lambda: model("mistral", sliding_window=48),
        lambda: model("llama", attn_implementation="eager"),
        lambda: model("opt", word_embed_proj_dim=16, ffn_dim=16),
    ],
    ids=["a window", "other attention", "unknown"],
)
def test_models_that_may_not_know_such_masks_read_each_row(language_model):
    assert share_prompts(language_model(), PAIRS) is None


def test_bad_pairs_are_named():
    empty = PAIRS.chosen_mask.clone()
    empty[1] = False
    with pytest.raises(ValueError, match="response_mask: got an empty row"):
        pair_log_probs(model(), dataclasses.replace(PAIRS, chosen_mask=empty))
