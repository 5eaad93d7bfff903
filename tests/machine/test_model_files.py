"""What is wrong with a file of a model's folder is said before transformers reads it; what is right is let through."""

import json
import os

import pytest
import torch
from safetensors.torch import save_file

from week6.machine.model_files import check_files_of

CONFIG, INDEX, TOKENIZER = "tokenizer_config.json", "model.safetensors.index.json", "tokenizer.json"


def judged(folder, name, content):
    """What is said of a folder with this file in it; "" for nothing."""
    data = content if isinstance(content, bytes | str) else json.dumps(content)
    (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    try:
        check_files_of(folder)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", {"dtype": "float32", "torch_dtype": "torch.bfloat16", "model_type": "gpt2"}),
        ("config.json", {"dtype": None, "id2label": None}),
        ("config.json", {"id2label": {"0": "a", "1": "b"}}),
        ("config.json", b" \n" * 60 + b"{}"),
        (CONFIG, {"tokenizer_class": "X", "model_max_length": 10, "eos_token": "<e>", "pad_token": None}),
        (CONFIG, {"model_max_length": 1e30, "bos_token": {"content": "<b>", "lstrip": False}}),
        (CONFIG, {"additional_special_tokens": ["<a>", {"content": "<b>"}], "extra_special_tokens": {"image": "<i>"}}),
        (CONFIG, {"added_tokens_decoder": {"0": {"content": "<e>"}}, "additional_special_tokens": None}),
        ("added_tokens.json", {"<x>": 5}),
        (TOKENIZER, {"model": {"type": "BPE", "vocab": {"a": 0, "ab": 1}, "merges": ["a b"]}}),
        (TOKENIZER, {"model": {"type": "BPE", "vocab": {"a": 0, "[PAD]": 1, "<|end|>": 2}, "merges": []}}),
        (TOKENIZER, {"model": {"type": "WordLevel", "vocab": {"a": 0, "ab": 1}}}),
        (TOKENIZER, {"model": {"type": "Unigram", "vocab": [["a", 0.0], ["ab", 0.0]]}}),
        (TOKENIZER, {}),
        ("vocab.json", {"a": 0}),
        ("chat_template.jinja", "{{ messages }}"),
        ("README.md", "<p>"),
        ("notes.json", "[not read"),
        ("pytorch_model.bin", b"\x80\x04"),
    ],
)
def test_what_transformers_can_read_is_let_through(tmp_path, name, content):
    assert judged(tmp_path, name, content) == ""


TOKENS = [f"{kind}_token" for kind in ("bos", "eos", "unk", "pad", "sep", "cls", "mask")]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("adapter_config.json", {}, "has adapter_config.json, an adapter that would be put on top of the model"),
        ("vocab.json", "version https://git-lfs.github.com/spec/v1\n", "vocab.json is a pointer of Git LFS, expected"),
        ("model.safetensors", "version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS"),
        ("special_tokens_map.json", " <html>", "special_tokens_map.json is a web page, expected the file itself"),
        ("chat_template.jinja", b"\x1f\x8b\x08", "chat_template.jinja is compressed by gzip"),
        ("config.json", b"\x1f\x8b\x08", "config.json is compressed by gzip, expected the file itself: unpack it"),
        ("config.json", b'{"a": "\xc3', "config.json is no plain UTF-8 at its end, for it is cut short, expected all"),
        ("config.json", b'{"a": "\xff"}', "config.json is no plain UTF-8 at byte 7 (invalid start byte)"),
        ("config.json", b"\xef\xbb\xbf{}", "config.json is no plain UTF-8 (a byte order mark), expected it so"),
        ("config.json", "{", "config.json is damaged (Expecting property name"),
        ("config.json", "[" * 99_999, "config.json is damaged (maximum recursion"),
        ("vocab.json", "[]", "vocab.json is damaged (no object), expected a JSON object; restore it"),
        ("config.json", {"dtype": "float33"}, "config.json: dtype is 'float33', expected a type of torch, such as"),
        ("config.json", {"torch_dtype": "tensor"}, "config.json: torch_dtype is 'tensor', expected a type of torch"),
        ("config.json", {"dtype": 32}, "config.json: dtype is 32, expected a type of torch"),
        ("config.json", {"model_type": 2}, "config.json: model_type is 2, expected a word, such as 'gpt2'"),
        ("config.json", {"id2label": ["a"]}, "config.json: id2label is ['a'], expected an object of numbers"),
        ("config.json", {"id2label": {"0": "a", "b": "c"}}, "config.json: id2label is {'0': 'a', 'b': 'c'}, expected"),
        (CONFIG, {"tokenizer_class": 3}, f"{CONFIG}: tokenizer_class is 3, expected a word; restore the file"),
        (CONFIG, {"model_max_length": "x"}, f"{CONFIG}: model_max_length is 'x', expected a number"),
        *((CONFIG, {token: 3}, f"{CONFIG}: {token} is 3, expected a text; restore the file") for token in TOKENS),
        (CONFIG, {"eos_token": {"content": 3}}, f"{CONFIG}: eos_token is {{'content': 3}}, expected a text"),
        (CONFIG, {"additional_special_tokens": "<x>"}, f"{CONFIG}: additional_special_tokens is '<x>', expected texts"),
        (CONFIG, {"extra_special_tokens": ["<x>", 3]}, f"{CONFIG}: extra_special_tokens is ['<x>', 3], expected texts"),
        (CONFIG, {"extra_special_tokens": {"a": {"x": 1}}}, f"{CONFIG}: extra_special_tokens is "),
        (CONFIG, {"added_tokens_decoder": {"0": {}, "x": {}}}, f"{CONFIG}: added_tokens_decoder has no number"),
        (CONFIG, {"added_tokens_decoder": [1]}, f"{CONFIG}: added_tokens_decoder has no number for each token"),
        ("added_tokens.json", {"<x>": 1, "<y>": "2"}, "added_tokens.json is {'<x>': 1, '<y>': '2'}, expected a number"),
        (TOKENIZER, {"model": {"vocab": {"a": 0, "b": 0}}}, "tokenizer.json gives one number to several tokens"),
        (TOKENIZER, {"model": {"type": "BPE", "vocab": {"a": 0, "ab": 1}}}, "tokenizer.json lacks merges that most"),
        (TOKENIZER, {"model": {"type": "BPE", "vocab": {"a": 0, "abc": 1}, "merges": []}}, "tokenizer.json lacks"),
        (INDEX, {}, f"{INDEX} names no file for each tensor, expected its weight_map; restore it"),
        (INDEX, {"weight_map": {}}, f"{INDEX} names no file for each tensor"),
        (INDEX, {"weight_map": ["a"]}, f"{INDEX} names no file for each tensor"),
        (INDEX, {"weight_map": {"x": "b.safetensors", "y": 3}}, f"{INDEX} names no file for each tensor"),
        (INDEX, {"weight_map": {"x": "b", "y": "a"}}, f"{INDEX} names 'a', which is not there; copy"),
        ("a.safetensors", b"\x08" + b"\0" * 20, "a.safetensors is damaged or cut short ("),
    ],
)  # fmt: skip
def test_what_it_would_stumble_over_is_named_with_its_file(tmp_path, name, content, said):
    assert judged(tmp_path, name, content).startswith(said if said.startswith((name, "has ")) else f"{name} {said}")


def test_an_index_whose_files_are_there(tmp_path):
    save_file({"x": torch.ones(1)}, tmp_path / "a.safetensors")
    assert judged(tmp_path, INDEX, {"weight_map": {"x": "a.safetensors"}}) == ""


@pytest.mark.parametrize(
    ("name", "kind", "numbers"),
    [
        ("x.weight", torch.int8, "whole numbers (I8)"),
        ("x.weight", torch.uint8, "whole numbers (U8)"),
        ("x.weight", torch.bool, "whole numbers (BOOL)"),
        ("x.weight", torch.complex64, "complex numbers (C64)"),
        ("x.weight", torch.float16, ""),
        ("x.weight", torch.bfloat16, ""),
        ("x.attn.bias", torch.bool, ""),
    ],
)
def test_weights_are_floating_point_numbers(tmp_path, name, kind, numbers):
    save_file({"a": torch.ones(2), name: torch.ones(2).to(kind)}, tmp_path / "model.safetensors")
    said = judged(tmp_path, "config.json", {})
    assert said.startswith(f"model.safetensors holds {numbers} in {name}, expected floating") if numbers else said == ""


def test_what_is_no_file(tmp_path):
    for make, said in (
        (lambda path: path.mkdir(), "is a folder, expected a file"),
        (lambda path: path.symlink_to(tmp_path / "nowhere"), "is a link to nothing, expected a file"),
        (os.mkfifo, "is a pipe or a device, expected a file"),
    ):
        make(tmp_path / "config.json")
        with pytest.raises(ValueError, match=f"^config.json {said}$"):
            check_files_of(tmp_path)
        path = tmp_path / "config.json"
        path.rmdir() if path.is_dir() else path.unlink()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "config.json").symlink_to(tmp_path / "pipe")
    with pytest.raises(ValueError, match="^config.json is a pipe or a device"):
        check_files_of(tmp_path)
    (tmp_path / "config.json").unlink()
    (tmp_path / "vocab").mkdir()  # of which nothing is read
    check_files_of(tmp_path)
