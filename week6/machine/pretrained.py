"""Pretrained models by name or folder: a causal language model and its tokenizer, checked before anything is trained.

Weights come from safetensors files only, and no code of a repository is ever run: nobody is asked, and no answer
changes it.
"""

import contextlib
import math
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    logging,
)

from week6.machine import smollm2
from week6.machine import validate as check
from week6.machine.bounds import FEW
from week6.machine.checkpoint import RunError
from week6.machine.compute import compute
from week6.machine.hub import fetch, unreadable
from week6.machine.model_files import WEIGHTS, check_files_of
from week6.machine.paths import place
from week6.machine.weights import complete

T = TypeVar("T")
Opened = tuple[PreTrainedModel, dict[str, Any]]
"""A model, and what transformers says about its weights."""
SIZES = (
    "num_attention_heads num_key_value_heads head_dim hidden_size vocab_size max_position_embeddings intermediate_size "
    "n_inner"
).split()
"""Of a model's config, what counts something."""
TRIED = ("a film", "Sixty-7 quick jumps, & the 東京 café “was” odd 😀!")
"""Any tokenizer can read these."""
PLAIN = ("a film", "the quick brown fox jumps over a lazy dog", "No: 4 of 29 came, 13 (or 56, or 78) did not! Why?")
"""Any tokenizer that knows these words gives them back, but for case and spaces."""
MOST_UNKNOWN = 0.2
"""Of the tokens of the data."""
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
OTHER_WEIGHTS = (".safetensors", ".gguf", ".h5", ".msgpack", ".onnx")
"""Endings of files with weights."""
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "tokenizer.model", "spiece.model", "vocab.txt")


@check.arguments
def load_tokenizer(model: str) -> PreTrainedTokenizerFast:
    """The tokenizer of `model`, a folder or a name on the hub; one without a pad token pads with its end token.

    Raises RunError when there is none, when it has no end token, or when it cannot say which characters a token is.
    """
    tokenizer: Any = read(model, "--model", open_tokenizer, TOKENIZER_FILES)
    if not set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens):  # made from the model's config alone
        raise RunError(
            f"--model {model}: has no tokenizer, expected {' or '.join(TOKENIZER_FILES[:2])}; choose another model"
        )
    if tokenizer.eos_token_id is None:
        raise RunError(
            f"--model {model}: its tokenizer has no end token, expected one: answers must be able to end; "
            "set eos_token in tokenizer_config.json, or choose another model"
        )
    if not tokenizer.is_fast:
        raise RunError(f"--model {model}: its tokenizer has no tokenizer.json, expected one; save it as a fast one")
    for kind, token in {"end": tokenizer.eos_token, "pad": tokenizer.pad_token, "start": tokenizer.bos_token}.items():
        if token is not None and (len(token) < 2 or token.isalpha() or any(token in text for text in TRIED)):
            key = {"end": "eos", "pad": "pad", "start": "bos"}[kind]
            raise RunError(
                f"--model {model}: its {kind} token is {token!r}, as texts hold it, expected one that none holds, such "
                f"as '<|end|>'; set {key}_token in tokenizer_config.json"
            )
    check_reads("--model", model, tokenizer)
    for text in PLAIN:
        if (said := _said_again(tokenizer, text)) is not None:
            raise RunError(
                f"--model {model}: its tokenizer makes {said!r:.60} of the tokens of {text!r}, expected the same "
                "words; its decoder, normalizer or pre-tokenizer is missing or another's: take the tokenizer.json "
                "that the model came with"
            )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    return tokenizer  # type: ignore[no-any-return]


def check_reads(flag: str, model: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise RunError unless `tokenizer` reads any text, the same each time."""
    try:
        first, again = (tokenizer(list(TRIED))["input_ids"] for _ in range(2))
    except BaseException as error:  # a panic of its library is no Exception
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        reason = " ".join(str(error).split())[:150]
        raise RunError(
            f"{flag} {model}: its tokenizer cannot read every text ({reason}); choose another model"
        ) from error
    if first != again:
        raise RunError(
            f"{flag} {model}: its tokenizer reads the same text otherwise each time, expected the same tokens; set "
            "dropout to null in tokenizer.json"
        )
    if not all(first):
        raise RunError(f"{flag} {model}: its tokenizer finds no token in a text, expected some; choose another model")


def check_knows(model: str, tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> None:
    """Raise RunError where `tokenizer` makes its unknown token of too many words, whatever else that token stands for.
    Where a text itself writes it, as a chat template may, it is meant."""
    if tokenizer.unk_token is None:
        return
    ids = [i for row in tokenizer(texts, add_special_tokens=False)["input_ids"] for i in row]
    written = sum(text.count(str(tokenizer.unk_token)) for text in texts)
    share = (ids.count(tokenizer.unk_token_id) - written) / max(1, len(ids))
    if share > MOST_UNKNOWN:
        raise RunError(
            f"--model {model}: its tokenizer does not know {share:.0%} of the words of the data, expected a model of "
            f"that language, with {MOST_UNKNOWN:.0%} at most; choose another model or other data"
        )


def _said_again(tokenizer: PreTrainedTokenizerBase, text: str) -> str | None:
    """What a tokenizer makes of the tokens of a text that it knows, where it is not that text; case is no matter, nor
    are more spaces."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    said = str(tokenizer.decode(ids))
    known = tokenizer.unk_token_id not in ids
    same = said.replace(" ", "").lower() == text.replace(" ", "").lower() and " " in said.strip()
    return None if same or not known else said


@check.arguments
def load_policy(model: str, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """The causal language model `model`, a folder or a name on the hub, in fp32, without dropout, in evaluation mode.

    Its end and pad tokens are those of `tokenizer`; how it was meant to generate is forgotten, since nothing here
    generates so, and settings that do not agree could not be saved. Raises RunError when there is no such model, when
    its weights are not safetensors, not complete or not finite, when it sees the tokens behind the one that it
    predicts, or when the tokenizer has more tokens than it has embeddings.
    """

    def load(source: str) -> Opened:
        config = open_config(source)
        for key, value in config.to_dict().items():
            if ("dropout" in key or "pdrop" in key) and isinstance(value, float):
                setattr(config, key, 0.0)
        unread = GenerationConfig()  # type: ignore[no-untyped-call]  # nothing here generates by the model's own file
        return open_model(AutoModelForCausalLM, source, config, generation_config=unread)

    policy = complete(model, "--model", *read(model, "--model", load, ("config.json",), weights=True))
    check_vocabulary("--model", model, policy, tokenizer)
    policy.config.eos_token_id = tokenizer.eos_token_id
    policy.config.pad_token_id = tokenizer.pad_token_id
    policy.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    policy.eval()  # type: ignore[no-untyped-call]
    _check_causal(model, policy)
    return policy


def check_vocabulary(flag: str, model: str, policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise RunError where a tokenizer has more tokens than its model has embeddings, or a token of a higher number."""
    embeddings: Any = policy.get_input_embeddings()
    added = max(i for row in tokenizer(list(TRIED))["input_ids"] for i in row)  # around a text, in no vocabulary
    known, tokens = embeddings.num_embeddings, max(len(tokenizer), 1 + max(added, *tokenizer.get_vocab().values()))
    if tokens > known:
        raise RunError(
            f"{flag} {model}: its tokenizer has {tokens} tokens and the model {known} embeddings, expected at least as "
            "many; use the tokenizer that the model was trained with"
        )


def open_tokenizer(source: Path | str) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder or of the hub; code beside it is not run."""
    with _reading("its tokenizer or config.json"):
        try:
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        except Exception as error:
            if isinstance(error, ImportError) or any(word in str(error) for word in ("backend tokenizer", "tiktoken")):
                raise ValueError("no tokenizer.json, and its other files make none; save it as a fast one") from None
            if "untagged enum" in str(error):  # of the library that reads tokenizer.json, which does not say what
                raise ValueError("tokenizer.json has a part of a type that is not known; save it anew") from None
            if isinstance(error, AttributeError | LookupError | TypeError):  # of Python, about what was read
                _check_config(source)
                raise ValueError(
                    "tokenizer.json lacks an entry, or is none of the class that tokenizer_config.json names; set "
                    "tokenizer_class to PreTrainedTokenizerFast"
                ) from None
            raise
    return tokenizer


def _check_config(source: Path | str) -> None:
    """Raise ValueError where config.json, which the tokenizer is opened with, cannot be read itself."""
    try:
        AutoConfig.from_pretrained(source, trust_remote_code=False)
    except (AttributeError, LookupError, TypeError) as error:
        raise ValueError(f"config.json lacks an entry or has a wrong one, restore it ({error})") from None
    except (OSError, ValueError):  # there may be none
        pass


def open_config(source: Path | str) -> PreTrainedConfig:
    """The configuration in a folder or of the hub; code beside it is not run, and none that it names is fetched."""
    with _reading("config.json"):
        config: PreTrainedConfig = AutoConfig.from_pretrained(source, trust_remote_code=False)
        if "/" in str(config._attn_implementation):  # compiled code of another repository
            raise ValueError(f"it asks for the attention of {config._attn_implementation}, code that is never run")
        if quantised := getattr(config, "quantization_config", None):
            method = quantised.get("quant_method") if isinstance(quantised, dict) else quantised
            raise ValueError(
                f"its weights are quantised ({method}), and such cannot be trained; take the model they are of"
            )
        layers = getattr(config, "num_hidden_layers", 1)
        if layers not in FEW:
            raise ValueError(f"num_hidden_layers is {layers}, expected {FEW}")
        for name in SIZES:
            if isinstance(size := getattr(config, name, None), int) and size < 1:
                raise ValueError(f"{name} is {size}, expected a whole number ≥ 1")
        _check_rope(getattr(config, "rope_parameters", None) or {})
        config.return_dict, config.output_hidden_states = True, False
        if getattr(config, "output_attentions", False):  # some kinds of attention have none, and refuse to be saved
            config.output_attentions = False
    return config


def _check_rope(given: dict[str, Any]) -> None:
    """Raise ValueError for rotary positions that turn no further, or backwards; some models have them for each kind of
    layer."""
    for part in (given, *given.values()):
        for name, least in (("rope_theta", 1), ("factor", 1)):
            value = part.get(name) if isinstance(part, dict) else None
            if value is not None and not (isinstance(value, int | float) and least <= value < math.inf):
                raise ValueError(f"{name} is {value!r:.60}, expected a finite number ≥ {least}")


def open_model(kind: Any, source: Path | str, config: PreTrainedConfig, **options: Any) -> Opened:
    """The model of the class `kind` in a folder or of the hub, in fp32; code beside it is not run."""
    with _reading("config.json"):
        check_fits(config, kind)
    with _reading("its weights"):
        opened: Opened = kind.from_pretrained(
            source,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # `complete` says it in one sentence
            output_loading_info=True,
            **options,
        )
    return opened


def check_fits(config: PreTrainedConfig, kind: Any) -> None:
    """Raise ValueError for a model that the free memory could not hold, before anything of it is made."""
    with torch.device("meta"), warnings.catch_warnings(action="ignore"):
        try:
            made = kind.from_config(config, trust_remote_code=False)
        except KeyError as error:  # a word that transformers looks up, such as that of an activation
            named = {key: list(x.values()) if isinstance(x, dict) else [x] for key, x in config.to_dict().items()}
            name = next((key for key, values in named.items() if error.args[0] in values), "an entry")
            raise ValueError(f"{name} is {error.args[0]!r}, which transformers does not have") from None
        except AssertionError as error:
            if "padding_idx" not in str(error).lower():
                raise
            got, tokens = config.pad_token_id, getattr(config, "vocab_size", "its")
            raise ValueError(f"pad_token_id is {got}, expected the number of one of {tokens} tokens") from None
    needed = 4 * sum(p.numel() for p in made.parameters())
    if needed > (free := compute().free_bytes()):
        raise ValueError(f"a model of {needed / 1e9:.1f} GB, expected what fits the {free / 1e9:.1f} GB of free memory")


@contextlib.contextmanager
def _reading(part: str) -> Iterator[None]:
    """Without transformers' own reports: what is wrong with a part of a model is said in one sentence."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        yield
    except Exception as error:
        error.add_note(part)
        raise
    finally:
        logging.set_verbosity(before)


@torch.no_grad()
def _check_causal(model: str, policy: PreTrainedModel) -> None:
    """Raise RunError unless `policy` predicts each token from those before it, as the scorer calls it, and from more
    than the last of them."""
    others = range(1, policy.config.vocab_size, max(1, policy.config.vocab_size // 8))
    ends = torch.tensor([[0, 0], [0, 1], *([i, 0] for i in others)])
    try:
        output = policy(
            input_ids=ends,
            attention_mask=torch.ones_like(ends),
            position_ids=torch.arange(2).expand(len(ends), 2),
            logits_to_keep=torch.arange(2),
            use_cache=False,
        )
        first, last = output.logits[:, 0], output.logits[[0, *range(2, len(ends))], 1]
    except Exception as error:  # of any architecture
        raise RunError(f"--model {model}: {unreadable(error)}; expected a causal language model") from error
    if not first.isfinite().all():
        raise RunError(
            f"--model {model}: its logits are NaN or infinite, expected numbers; its weights or config.json are spoilt"
        )
    if not torch.allclose(first[0], first[1], rtol=0, atol=1e-3 * float(first.abs().max())):
        raise RunError(
            f"--model {model}: a {type(policy).__name__} here sees the tokens behind the one that it predicts; "
            "expected a causal language model"
        )
    if (last == last[0]).all() and (output.logits[1, 1] != last[0]).any():
        raise RunError(
            f"--model {model}: predicts from the last token alone, expected a model that has read those before it; its "
            "weights or config.json are spoilt"
        )


def read(model: str, flag: str, load: Callable[[str], T], one_of: tuple[str, ...], weights: bool = False) -> T:
    """What `load` makes of a folder or of a name on the hub. RunError when it makes nothing of it.

    A folder must hold one of the files `one_of`, and safetensors if `weights` are asked for. SmolLM2-135M-Instruct
    comes from its package, if that is installed.
    """
    if model == smollm2.NAME and (package := smollm2.packaged()):
        model = str(smollm2.made_folder(package))
    folder = place(model, flag)
    if not folder.is_dir():
        if (
            folder.exists()
            or model.startswith((".", "/", "~"))
            or model.count("/") > 1
            or model.endswith(PICKLES + OTHER_WEIGHTS)
        ):
            raise RunError(f"{flag} {model}: is no folder, expected one, or the name of a model on the hub")
        try:
            return fetch("model", model, flag, lambda: load(model), ".safetensors" if weights else "")
        except RunError as error:
            if model != smollm2.NAME:
                raise
            raise RunError(f"{error}; or {smollm2.INSTALL}") from error
    files = {path.name for path in folder.iterdir()}
    if not files & set(one_of):
        raise RunError(
            f"{flag} {model}: the folder has no {' or '.join(one_of[:2])}; expected all that "
            "save_pretrained of the model and of its tokenizer writes"
        )
    if weights and not any((folder / name).is_file() for name in WEIGHTS):
        pickled = sorted(name for name in files if name.endswith(PICKLES))
        others = sorted(name for name in files if name.endswith(OTHER_WEIGHTS))
        found = f"only {pickled[0]}, a pickle, which may run code when it is read" if pickled else "no weights"
        found = f"only {others[0]}" if others else found
        if others and re.search(r"-\d+-of-\d+\.safetensors$", others[0]):
            found = f"{others[0]}, a part of the weights, and no model.safetensors.index.json"
        raise RunError(
            f"{flag} {model}: the folder has {found}; expected model.safetensors, as model.save_pretrained(FOLDER) "
            "writes it"
        )
    try:
        check_files_of(folder)
    except ValueError as error:
        raise RunError(f"{flag} {model}: {error}") from None
    try:
        return load(str(folder))
    except Exception as error:  # of the readers of every format
        raise RunError(f"{flag} {model}: the folder {unreadable(error)}; expected a transformers model") from error
