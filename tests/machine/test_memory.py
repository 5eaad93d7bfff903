import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MambaConfig, MambaForCausalLM
from transformers.models.mamba.modeling_mamba import MambaCausalLMOutput

from tests.tiny import tiny_gpt2
from week6.log_probs import position_ids
from week6.machine.memory import KEY_VALUE_CACHE, Memory


def llama():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=7, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, pad_token_id=0
    )
    return LlamaForCausalLM(config).double().eval()


def whole(model, tokens, mask):
    """Logits behind the last token, with all tokens read at once."""
    return model(input_ids=tokens, attention_mask=mask.long(), position_ids=position_ids(mask)).logits[:, -1]


MODELS = {"gpt2": tiny_gpt2, "gpt2 in training": lambda: tiny_gpt2().train(), "llama": llama}


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_logits_are_those_of_the_whole_text(name):
    """Of ragged prompts that go on for six tokens, while rows leave and change places."""
    model = MODELS[name]()
    tokens = torch.randint(2, 7, (5, 10), generator=torch.Generator().manual_seed(1))
    mask = torch.arange(10) >= torch.tensor([0, 3, 1, 2, 0]).unsqueeze(1)
    memory, start = Memory(model, 6), 4
    torch.testing.assert_close(
        memory.read(tokens[:, :4], mask[:, :4], position_ids(mask)[:, :4]), whole(model, tokens[:, :4], mask[:, :4])
    )
    for end, rows in ((5, None), (6, [4, 1, 2]), (7, None), (8, [2, 0]), (9, None), (10, None)):
        if rows is not None:
            memory.keep(torch.tensor(rows))
            tokens, mask = tokens[rows], mask[rows]
        start, new = end, slice(start, end)
        found = memory.read(tokens[:, new], mask[:, :end], position_ids(mask)[:, new])
        torch.testing.assert_close(found, whole(model, tokens[:, :end], mask[:, :end]))


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_keys_and_values_stay_where_they_are(name):
    """A token is written behind them; to put it there by a copy of all costs as much as to attend."""
    tokens, mask = torch.full((3, 8), 2), torch.ones(3, 8, dtype=torch.bool)
    memory, places = Memory(MODELS[name](), 5), set()
    for end in range(3, 9):
        new = slice(0 if end == 3 else end - 1, end)
        memory.read(tokens[:, new], mask[:, :end], position_ids(mask)[:, new])
        layers = memory._cache.layers
        assert all(layer.keys.shape[2] == layer.values.shape[2] == end for layer in layers)
        places.add(tuple(x.data_ptr() for layer in layers for x in (layer.keys, layer.values)))
    assert len(places) == 1


@torch.no_grad()
def test_a_model_with_another_memory_says_so():
    config = MambaConfig(vocab_size=7, hidden_size=16, state_size=4, num_hidden_layers=2)
    memory, tokens = Memory(MambaForCausalLM(config).eval(), 5), torch.full((2, 3), 2)
    mask = torch.ones_like(tokens, dtype=torch.bool)
    if KEY_VALUE_CACHE not in MambaCausalLMOutput.__annotations__:  # of older versions of transformers
        with pytest.raises(ValueError, match=f"got a MambaForCausalLM, which here hands on no {KEY_VALUE_CACHE}"):
            memory.read(tokens, mask, position_ids(mask))
        return
    memory.read(tokens, mask, position_ids(mask))
    assert not memory.rows_can_leave


@torch.no_grad()
def test_a_model_whose_call_is_changed_is_called():
    """By tools that move weights, for instance."""
    model, calls = tiny_gpt2(), []
    forward = model.forward
    model.forward = lambda **options: calls.append(options["input_ids"].shape[1]) or forward(**options)
    memory, mask = Memory(model, 2), torch.ones(2, 4, dtype=torch.bool)
    for new in (slice(0, 3), slice(3, 4)):
        memory.read(torch.full((2, 4), 2)[:, new], mask[:, : new.stop], position_ids(mask)[:, new])
    assert calls == [3, 1]


@pytest.mark.parametrize("training, calls", [(False, 1), (True, 2)])
@torch.no_grad()
def test_a_policy_in_training_is_called_for_every_token(training, calls):
    """The short cut knows no dropout: sampler and scorer would agree where a student must see that they do not."""
    model, seen = tiny_gpt2(dropout=0.5).train(training), []
    model.register_forward_pre_hook(lambda *_: seen.append(1))
    memory, mask = Memory(model, 2), torch.ones(2, 4, dtype=torch.bool)
    for new in (slice(0, 3), slice(3, 4)):
        memory.read(torch.full((2, 4), 2)[:, new], mask[:, : new.stop], position_ids(mask)[:, new])
    assert len(seen) == calls
