"""The files of a model's folder, looked at before transformers reads them: it says what is wrong in its own words."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import safetensors
import torch

ADAPTER = "adapter_config.json"
READ_AS_JSON = ("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.json", "added_tokens.json",
                "special_tokens_map.json", "model.safetensors.index.json", ADAPTER)  # fmt: skip
"""Files of a model's folder that transformers reads, each one object."""
SPECIAL = ("bos", "eos", "unk", "pad", "sep", "cls", "mask")
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


def check_files_of(folder: Path) -> None:
    """Raise ValueError that names a file of a model's folder which is not what its name says."""
    more = folder / "additional_chat_templates"
    for path in sorted([*folder.iterdir(), *(more.iterdir() if more.is_dir() else ())]):
        if path.name not in READ_AS_JSON and path.suffix not in (".safetensors", ".jinja"):
            continue
        if path.name == ADAPTER:
            raise ValueError(
                f"has {ADAPTER}, an adapter that would be put on top of the model, expected a plain one: merge it and "
                "save what comes of it, or remove that file"
            )
        if path.is_dir():
            raise ValueError(f"{path.name} is a folder, expected a file")
        if not path.is_file():
            kind = "a link to nothing" if path.is_symlink() and not path.exists() else "a pipe or a device"
            raise ValueError(f"{path.name} is {kind}, expected a file")
        with open(path, "rb") as file:
            begins = file.read(100).lstrip()
        if begins.startswith(b"version https://git-lfs"):
            raise ValueError(f"{path.name} is a pointer of Git LFS, expected the file itself: git lfs pull fetches it")
        if begins.startswith(b"<"):
            raise ValueError(f"{path.name} is a web page, expected the file itself: download it again")
        if path.suffix == ".safetensors":
            _check_numbers(path)
            continue
        text = _text_of(path)
        if path.suffix == ".jinja":
            continue
        try:
            found = json.loads(text)
            if not isinstance(found, dict):
                raise ValueError("no object")
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path.name} is damaged ({error}), expected a JSON object; restore it") from None
        _check_entries(path, found)


def _text_of(path: Path) -> str:
    data = path.read_bytes()
    if data.startswith(b"\x1f\x8b"):
        raise ValueError(f"{path.name} is compressed by gzip, expected the file itself: unpack it")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        cut = error.reason == "unexpected end of data"
        where = "at its end, for it is cut short" if cut else f"at byte {error.start} ({error.reason})"
        raise ValueError(f"{path.name} is no plain UTF-8 {where}, expected all of it so; restore the file") from None
    if text.startswith("\ufeff"):
        raise ValueError(f"{path.name} is no plain UTF-8 (a byte order mark), expected it so: save it without a mark")
    return text


def _check_entries(path: Path, found: dict[str, Any]) -> None:
    """Raise ValueError for what transformers would stumble over in words of its own: a type of numbers that torch does
    not have, an index that names no file."""
    if path.name == "config.json":
        for key in ("dtype", "torch_dtype"):
            name = found.get(key)
            kind = getattr(torch, name.removeprefix("torch."), None) if isinstance(name, str) else None
            if name is not None and not isinstance(kind, torch.dtype):
                raise ValueError(f"config.json: {key} is {name!r:.60}, expected a type of torch, such as 'float32'")
        if not isinstance(kind := found.get("model_type", ""), str):
            raise ValueError(f"config.json: model_type is {kind!r:.60}, expected a word, such as 'gpt2'")
        labels = found.get("id2label") or {}
        if not isinstance(labels, dict) or not all(number.isdecimal() for number in labels):
            raise ValueError(f"config.json: id2label is {labels!r:.60}, expected an object of numbers and their labels")
    if path.name == "tokenizer_config.json":
        kinds = {"tokenizer_class": (str, "a word"), "model_max_length": (int | float, "a number")}
        kinds |= {f"{name}_token": (str, "a text") for name in SPECIAL}
        for key, (kind, words) in kinds.items():
            value = found.get(key)
            written = value.get("content", value) if isinstance(value, dict) else value  # a token with its settings
            if not isinstance(written, kind | None):
                raise ValueError(f"{path.name}: {key} is {value!r:.60}, expected {words}; restore the file")
        for key in ("additional_special_tokens", "extra_special_tokens"):
            if not _are_tokens(more := found.get(key) or []):
                raise ValueError(f"{path.name}: {key} is {more!r:.60}, expected texts; restore the file")
        added = found.get("added_tokens_decoder") or {}
        if not isinstance(added, dict) or not all(number.isdecimal() for number in added):
            raise ValueError(f"{path.name}: added_tokens_decoder has no number for each token; restore the file")
    if path.name == "added_tokens.json" and not all(isinstance(number, int) for number in found.values()):
        raise ValueError(f"{path.name} is {found!r:.60}, expected a number for each token; restore the file")
    if path.name == "tokenizer.json":
        _check_words(found.get("model"))
    if path.name == WEIGHTS[1]:
        files = found.get("weight_map")
        if not isinstance(files, dict) or not files or not all(isinstance(name, str) for name in files.values()):
            raise ValueError(f"{path.name} names no file for each tensor, expected its weight_map; restore it")
        if lost := sorted(name for name in set(files.values()) if not (path.parent / name).is_file()):
            raise ValueError(f"{path.name} names {lost[0]!r:.60}, which is not there; copy or download all files")


def _are_tokens(found: Any) -> bool:
    """Whether these are texts, or tokens with their settings, in a list or by name."""
    tokens = list(found.values()) if isinstance(found, dict) else found
    written = [token.get("content") if isinstance(token, dict) else token for token in tokens]
    return not isinstance(tokens, str) and all(isinstance(token, str) for token in written)


def _check_words(model: Any) -> None:
    """Raise ValueError for a vocabulary in which a number stands for more than one token, or byte pairs are never
    joined: texts would silently become others."""
    words = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(words, dict):
        return
    numbers = list(words.values())
    if len(set(numbers)) < len(numbers):
        raise ValueError("tokenizer.json gives one number to several tokens, expected one each; restore it")
    if model.get("type") == "BPE":
        _check_merges(model.get("merges") or [], words)


def _check_merges(merges: Any, words: dict[str, Any]) -> None:
    """Raise ValueError for merges that make few of the tokens, or not in the order of their numbers: a token's number
    says when it was learnt, and a merge is done in the order in which merges were learnt."""
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
    made = ["".join(pair) for pair in pairs if isinstance(pair, list) and all(isinstance(part, str) for part in pair)]
    longer = [word for word in words if len(word) > 1 and word[0] + word[-1] not in ("<>", "[]")]
    if len(set(made) & set(longer)) < len(longer) / 2:
        raise ValueError("tokenizer.json lacks merges that most of its tokens are made by; restore it")
    numbers = [words[word] for word in dict.fromkeys(made) if isinstance(words.get(word), int)]
    if sum(a > b for a, b in pairwise(numbers)) > len(numbers) / 4:
        raise ValueError("tokenizer.json has its merges in another order than the tokens that they make; restore it")


def _check_numbers(path: Path) -> None:
    """Raise ValueError for a file that is cut short or no safetensors, and for weights that are whole or complex
    numbers: what they stand for is not in the file."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            kinds = {name: str(file.get_slice(name).get_dtype()) for name in file.keys()}
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path.name} is damaged or cut short ({error}), expected a whole file; copy or download it again"
        ) from None
    for name, kind in kinds.items():
        if name.endswith("weight") and kind.startswith(("I", "U", "BOOL", "C")):
            numbers = "complex" if kind.startswith("C") else "whole"
            raise ValueError(
                f"{path.name} holds {numbers} numbers ({kind}) in {name}, expected floating-point weights; quantised "
                "ones cannot be trained"
            )
