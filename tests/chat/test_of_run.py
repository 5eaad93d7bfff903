"""The chat with the policies of a run: what lies in its folder, whole, damaged or missing."""

import dataclasses
import json
import math
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertLMHeadModel, GPT2Config, GPT2LMHeadModel

from tests.chat.talks import NAMES, TOKENIZER
from tests.runs import finished_run, quick_preset
from week6.chat.of_run import load_session
from week6.chat.session import ChatSession
from week6.cli import main
from week6.machine.checkpoint import RunError
from week6.run.models import new_policy
from week6.run.training import stage_seed


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A folder with what a finished run leaves for the chat."""
    folder = tmp_path_factory.mktemp("runs") / "quick"
    for seed, name in enumerate(("sft", "ppo", "dpo")):
        new_policy(quick_preset(), TOKENIZER, seed).save_pretrained(folder / "policies" / name)
        TOKENIZER.save_pretrained(folder / "policies" / name)
    (folder / "config.json").write_text(json.dumps({"seed": 3, "preset": dataclasses.asdict(quick_preset())}))
    return folder


def test_a_session_from_a_run(run_folder):
    talk = load_session(run_folder)
    assert list(talk.policies) == list(NAMES) and talk.memory == 0
    assert talk.betas == {"ppo": quick_preset().ppo.beta, "dpo": quick_preset().dpo.beta}
    assert not any(p.requires_grad for policy in talk.policies.values() for p in policy.parameters())
    same = ChatSession(talk.policies, TOKENIZER, betas=talk.betas, memory=0)
    assert talk.send("how do i bake bread ?") == same.send("how do i bake bread ?")


def test_the_base_and_the_longest_answer_are_those_of_the_run(run_folder, tmp_path):
    """Not those of its preset: the base is the very model that SFT started from."""
    preset = quick_preset()
    preset = dataclasses.replace(preset, ppo=dataclasses.replace(preset.ppo, max_new_tokens=7))
    folder = shutil.copytree(run_folder, tmp_path / "copy")
    (folder / "config.json").write_text(json.dumps({"seed": 3, "preset": dataclasses.asdict(preset)}))
    talk = load_session(folder)
    start = new_policy(preset, TOKENIZER, stage_seed(3, "init"))
    assert all(map(torch.equal, talk.policies["base"].parameters(), start.parameters()))
    assert talk.max_new_tokens == 7


def test_a_run_that_is_not_finished(run_folder, tmp_path):
    folder = shutil.copytree(run_folder, tmp_path / "copy")
    shutil.rmtree(folder / "policies" / "ppo")
    talk = load_session(folder)
    assert talk.missing == ("ppo",) and list(talk.policies) == ["base", "sft", "dpo"]
    assert load_session(run_folder).missing == ()


def test_folders_without_policies(run_folder, tmp_path, capsys):
    with pytest.raises(RunError, match=r"holds no policies/sft.*make one with week6 run"):
        load_session(tmp_path / "nowhere")
    (tmp_path / "policies" / "sft").mkdir(parents=True)
    with pytest.raises(RunError, match=r"config.json is missing or of another version"):
        load_session(tmp_path)
    (tmp_path / "config.json").write_bytes((run_folder / "config.json").read_bytes())
    with pytest.raises(RunError, match=r"policies/sft is damaged"):
        load_session(tmp_path)
    assert main(["chat", str(tmp_path / "nowhere")]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and "holds no policies/sft" in captured.err


def test_damaged_weights(run_folder, tmp_path):
    folder = shutil.copytree(run_folder, tmp_path / "copy")
    weights = folder / "policies" / "dpo" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(RunError, match="policies/dpo is damaged"):
        load_session(folder)


TEMPLATES = {
    "no UTF-8": b"\xff\xfe{{",
    "no template": b"{% for",
    "of another kind": b"{{ messages.no.such }}",
    "that reaches for the system": b"{{ ''.__class__.__mro__[1].__subclasses__() }}",
}


@pytest.mark.parametrize("kind", TEMPLATES)
def test_a_damaged_template(run_folder, tmp_path, kind):
    folder = shutil.copytree(run_folder, tmp_path / "copy")
    (folder / "policies" / "sft" / "chat_template.jinja").write_bytes(TEMPLATES[kind])
    with pytest.raises(RunError, match=r"policies/sft is damaged \(.*\), expected a policy .*--resume makes it again"):
        load_session(folder)


def test_policies_of_another_kind(run_folder, tmp_path):
    folder = shutil.copytree(run_folder, tmp_path / "copy")
    few = GPT2LMHeadModel(GPT2Config(vocab_size=5, n_embd=8, n_head=1, n_layer=1, n_positions=128))
    few.save_pretrained(folder / "policies" / "ppo")
    with pytest.raises(RunError, match=r"policies/ppo is damaged \(\d+ tokens for 5 embeddings\), expected"):
        load_session(folder)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertLMHeadModel(BertConfig(vocab_size=len(TOKENIZER), **shape)).save_pretrained(folder / "policies" / "ppo")
    with pytest.raises(RunError, match=r"policies/ppo is damaged \(a BertLMHeadModel, and SFT's is none"):
        load_session(folder)


def test_a_policy_that_lacks_weights_or_brings_code(run_folder, tmp_path):
    """transformers would make up what is missing, and advise to trust the code."""
    folder = shutil.copytree(run_folder, tmp_path / "copy")
    policy = folder / "policies" / "ppo"
    tensors = load_file(policy / "model.safetensors")
    few = {name: x for name, x in tensors.items() if "attn" not in name}
    save_file(few, policy / "model.safetensors", {"format": "pt"})
    with pytest.raises(RunError, match=r"policies/ppo is damaged \(.*weights lack \d+ tensors of a GPT2LMHeadModel"):
        load_session(folder)
    config = {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}}
    (policy / "config.json").write_text(json.dumps(config))
    (policy / "evil.py").write_text("")
    with pytest.raises(RunError, match=r"damaged \(brings Python code of its own, and no code of others is ever run\)"):
        load_session(folder)


def test_a_template_that_writes_without_end(run_folder, tmp_path):
    folder = shutil.copytree(run_folder, tmp_path / "copy")
    (folder / "policies" / "sft" / "chat_template.jinja").write_text("{{ 'x' * 100000000 }}")
    with pytest.raises(RunError, match="policies/sft is damaged .*it writes 100000000 characters"):
        load_session(folder)


SPOILT = {
    "seed": "x", "preset.layers": 2, "preset.positions": 4, "preset.ppo.beta": 0.7, "preset.ppo.max_new_tokens": 0,
    "preset.dpo.beta": math.inf, "preset.name": "huge", "preset.ppo": [1], "preset.model": 3,
}  # fmt: skip


@pytest.mark.parametrize("key", SPOILT)
def test_settings_that_the_policies_were_not_made_with(tmp_path, key):
    """Another base model, or another beta, would answer without a word."""
    folder = shutil.copytree(finished_run(), tmp_path / "copy")
    found = json.loads((folder / "config.json").read_text())
    *parts, name = key.split(".")
    inner = found
    for part in parts:
        inner = inner[part]
    inner[name] = SPOILT[key]
    (folder / "config.json").write_text(json.dumps(found))
    with pytest.raises(RunError, match=r"config.json (is missing|has other settings).*: delete it, and week6 run"):
        load_session(folder)


def test_a_flipped_bit_and_a_missing_file(tmp_path):
    folder = shutil.copytree(finished_run(), tmp_path / "copy")
    assert load_session(folder).send("hello !").replies.keys() == set(NAMES)
    weights = folder / "policies" / "ppo" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-30] ^= 1
    weights.write_bytes(content)
    with pytest.raises(RunError, match="ppo/model.safetensors is damaged: its checksum differs from the one recorded"):
        load_session(folder)
    weights.unlink()
    with pytest.raises(RunError, match="ppo/model.safetensors is missing: finish the run with week6 run --resume"):
        load_session(folder)


def test_piped_input_with_bad_bytes(run_folder):
    lines = b"how do i bake bread ?\n\xff\xfe hello\n/temperature x\n/quit\nnever read\n"
    done = subprocess.run(
        [sys.executable, "-m", "week6", "chat", str(run_folder)], input=lines, capture_output=True, timeout=120
    )
    shown = done.stdout.decode()
    assert done.returncode == 0 and done.stderr == b""
    assert shown.count(" DPO  ") == 2 and "expected a number" in shown and "you>" not in shown
