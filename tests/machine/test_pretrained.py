"""Models by folder: loaded as the course needs them, and refused with one sentence when they cannot be used."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from tests.small_gpt2 import byte_tokenizer, small_gpt2
from tests.tiny import words_tokenizer
from week6.log_probs import response_log_probs
from week6.machine.checkpoint import RunError
from week6.machine.pretrained import check_knows, load_policy, load_tokenizer
from week6.run.models import PRESETS, initial_policy
from week6.run.setting import preset_task
from week6.sampling import sample
from week6.sequences import encode_demonstrations


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return small_gpt2(tmp_path_factory.mktemp("models") / "gpt2")


@pytest.fixture
def folder(made, tmp_path):
    """A model folder that may be spoiled."""
    return shutil.copytree(made, tmp_path / "gpt2")


def test_the_weights_are_those_in_the_folder_in_fp32(folder):
    saved = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    saved.save_pretrained(folder)
    policy = load_policy(str(folder), load_tokenizer(str(folder)))
    assert not policy.training and {p.dtype for p in policy.parameters()} == {torch.float32}
    for mine, theirs in zip(policy.parameters(), saved.parameters(), strict=True):
        assert torch.equal(mine, theirs.float())


def test_a_tokenizer_without_pad_pads_with_its_end_token(folder):
    assert AutoTokenizer.from_pretrained(folder).pad_token is None
    tokenizer = load_tokenizer(str(folder))
    policy = load_policy(str(folder), tokenizer)
    assert tokenizer.pad_token == tokenizer.eos_token and tokenizer.padding_side == "left"
    assert policy.config.pad_token_id == policy.config.eos_token_id == tokenizer.eos_token_id


def test_the_end_token_is_the_tokenizers(folder):
    """A chat model's config may name another one; its answers would never end."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"eos_token_id": 7, "pad_token_id": 9}))
    tokenizer = load_tokenizer(str(folder))
    assert load_policy(str(folder), tokenizer).config.eos_token_id == tokenizer.eos_token_id != 7


@pytest.mark.parametrize(
    "settings",
    [
        {"do_sample": False, "temperature": 0.9, "top_p": 0.6},
        {"num_beams": 1, "early_stopping": True},
        {"max_new_tokens": -3},
    ],
)
def test_how_a_model_was_to_generate_does_not_matter(folder, tmp_path, settings):
    """Llama 2 came with settings that do not agree: transformers refused to save the model, after it was trained."""
    (folder / "generation_config.json").write_text(json.dumps(settings))
    tokenizer = load_tokenizer(str(folder))
    policy = load_policy(str(folder), tokenizer)
    policy.generation_config.validate(strict=True)
    policy.save_pretrained(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "generation_config.json").read_text())
    assert saved["eos_token_id"] == saved["pad_token_id"] == tokenizer.eos_token_id
    assert not settings.keys() & saved.keys()


def other_architecture(folder):
    tokenizer = byte_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        attention_dropout=0.3,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "make", [lambda path: small_gpt2(path, dropout=0.3), other_architecture], ids=["gpt2", "llama"]
)
def test_no_dropout_and_sampler_equals_scorer(make, tmp_path):
    """Whatever the architecture: dropout or wrong positions would make the ratio of PPO's first pass differ from 1."""
    folder = make(tmp_path / "model")
    drop = {key for key, value in AutoConfig.from_pretrained(folder).to_dict().items() if value == 0.3}
    assert drop
    tokenizer = load_tokenizer(str(folder))
    policy = load_policy(str(folder), tokenizer)
    assert all(getattr(policy.config, key) == 0 for key in drop)
    batch = encode_demonstrations(tokenizer, ["the film was", "I"], [" great", " think"])
    answers = sample(policy, batch.prompts, batch.prompt_mask, 6, generator=torch.Generator().manual_seed(0))
    policy.train()
    with torch.no_grad():
        scored = response_log_probs(
            policy, answers.prompts, answers.prompt_mask, answers.responses, answers.response_mask
        )
    torch.testing.assert_close(scored, answers.log_probs, atol=1e-4, rtol=0)  # fp32 rounding


def test_a_preset_with_a_model_starts_from_it(made):
    from dataclasses import replace

    tokenizer = load_tokenizer(str(made))
    policy = initial_policy(replace(PRESETS["gpt2"], model=str(made)), tokenizer, seed=0)
    assert policy.config.n_embd == 16 and len(tokenizer) == policy.config.vocab_size
    assert initial_policy(PRESETS["tiny"], preset_task(PRESETS["tiny"]).tokenizer, seed=0).config.n_embd == 64


def remove(*names):
    def spoil(folder):
        for name in names:
            (folder / name).unlink(missing_ok=True)

    return spoil


def only_pickle(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04K*.")


def damage_weights(folder):
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def other_weights(folder):
    tensors = load_file(folder / "model.safetensors")
    save_file({k: x for k, x in tensors.items() if "attn" not in k}, folder / "model.safetensors", {"format": "pt"})


def spoil_weight(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["transformer.h.0.mlp.c_fc.weight"][3, 2] = float("nan")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def other_config(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"n_embd": 32}))


def masked_model(folder):
    """Its words see those behind them: it can fill a gap, but its own words are no continuation."""
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertForMaskedLM(BertConfig(vocab_size=400, initializer_range=0.5, **small)).save_pretrained(folder)


def sequence_to_sequence(folder):
    T5ForConditionalGeneration(
        T5Config(vocab_size=400, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    ).save_pretrained(folder)


BAD = {
    "one NaN": (spoil_weight, r"hold NaN or infinite numbers in 1 tensors, such as transformer.h.0.mlp.c_fc.weight"),
    "other shapes": (
        other_config,
        r"do not fit its config.json: transformer.h.0.attn.c_attn.bias is \(48,\), expected \(96,\)",
    ),
    "masked model": (masked_model, "expected a causal language model"),
    "T5": (sequence_to_sequence, "the folder cannot be read \\(config.json: Unrecognized configuration class"),
    "no tokenizer": (remove("tokenizer.json", "tokenizer_config.json"), "no tokenizer.json or vocab.json"),
    "no config": (remove("config.json"), "the folder has no config.json"),
    "no weights": (remove("model.safetensors"), "the folder has no weights; expected model.safetensors"),
    "only pickle": (only_pickle, "only pytorch_model.bin, a pickle, which may run code"),
    "half the weights": (damage_weights, "model.safetensors is damaged or cut short"),
    "tensors missing": (other_weights, r"its weights lack \d+ tensors of a GPT2LMHeadModel, such as"),
    "no end token": (lambda f: byte_tokenizer(end=None).save_pretrained(f), "its tokenizer has no end token"),
    "too many tokens": (
        lambda f: byte_tokenizer(size=430).save_pretrained(f),
        "its tokenizer has 430 tokens and the model 400 embeddings",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_folder_that_cannot_be_used(folder, name, capfd):
    spoil, message = BAD[name]
    if name == "no end token":
        shutil.rmtree(folder / "tokenizer_config.json", ignore_errors=True)
    spoil(folder)
    with pytest.raises(RunError, match=message) as error:
        load_policy(str(folder), load_tokenizer(str(folder)))
    assert f"--model {folder}" in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 450
    printed = capfd.readouterr()
    assert "LOAD REPORT" not in printed.out + printed.err  # transformers' own, of twenty lines


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "a/b/c"])
def test_a_folder_that_is_not_there_is_not_looked_for_on_the_hub(name):
    with pytest.raises(RunError, match=f"--model {name}: is no folder, expected one, or the name of a model"):
        load_tokenizer(name)


def test_words_are_looked_for_in_many_texts_and_an_end_that_is_written_is_none():
    """Four texts say little of data half of which is in another language."""
    tokenizer = words_tokenizer("hi there")
    tokenizer.unk_token = tokenizer.eos_token
    known, unknown = "hi there", "gute nacht"
    check_knows("m", tokenizer, [f"{known}{tokenizer.eos_token}"] * 50)
    check_knows("m", tokenizer, [known] * 40 + [unknown] * 9)
    with pytest.raises(RunError, match="does not know 22% of the words"):
        check_knows("m", tokenizer, [known] * 40 + [unknown] * 11)
    check_knows("m", byte_tokenizer(end=None), [unknown])
