"""Pretrained models by name or folder: a causal language model and its tokenizer, checked before anything is trained.

Weights come from safetensors files only, and no code of a repository is ever run.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from week6.machine.checkpoint import RunError
from week6.machine.hub import fetch

T = TypeVar("T")
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "tokenizer.model", "spiece.model", "vocab.txt")


def load_tokenizer(model: str) -> PreTrainedTokenizerFast:
    """The tokenizer of `model`, a folder or a name on the hub; one without a pad token pads with its end token.

    Raises RunError when there is none, when it has no end token, or when it cannot say which characters a token is.
    """
    tokenizer: Any = read(model, "--model", AutoTokenizer.from_pretrained, TOKENIZER_FILES)
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
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    return tokenizer  # type: ignore[no-any-return]


def load_policy(model: str, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """The causal language model `model`, a folder or a name on the hub, in fp32, without dropout, in evaluation mode.

    Its end and pad tokens are those of `tokenizer`. Raises RunError when there is no such model, when its weights are
    not safetensors or not complete, or when the tokenizer has more tokens than it has embeddings.
    """

    def load(name: str) -> tuple[PreTrainedModel, dict[str, Any]]:
        config = AutoConfig.from_pretrained(name)
        for key, value in config.to_dict().items():
            if ("dropout" in key or "pdrop" in key) and isinstance(value, float):
                setattr(config, key, 0.0)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            name, config=config, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
        return loaded  # type: ignore[no-any-return]

    policy, loading = read(model, "--model", load, ("config.json",), weights=True)
    if missing := sorted(loading["missing_keys"]):
        raise RunError(
            f"--model {model}: its weights lack {len(missing)} tensors of a causal language model, such as "
            f"{missing[0]}; expected a model saved as AutoModelForCausalLM"
        )
    embeddings: Any = policy.get_input_embeddings()
    if len(tokenizer) > embeddings.num_embeddings:
        raise RunError(
            f"--model {model}: its tokenizer has {len(tokenizer)} tokens and the model {embeddings.num_embeddings} "
            "embeddings, expected at least as many; use the tokenizer that the model was trained with"
        )
    policy.config.eos_token_id = tokenizer.eos_token_id
    policy.config.pad_token_id = tokenizer.pad_token_id
    return policy.eval()  # type: ignore[no-untyped-call, no-any-return]


def read(model: str, flag: str, load: Callable[[str], T], one_of: tuple[str, ...], weights: bool = False) -> T:
    """What `load` makes of a folder or of a name on the hub. RunError when it makes nothing of it.

    A folder must hold one of the files `one_of`, and safetensors if `weights` are asked for.
    """
    folder = Path(model).expanduser()
    if not folder.is_dir():
        if folder.exists() or model.startswith((".", "/", "~")) or model.count("/") > 1:
            raise RunError(f"{flag} {model}: is no folder, expected one, or the name of a model on the hub")
        return fetch("model", model, flag, lambda: load(model), ".safetensors" if weights else "")
    files = {path.name for path in folder.iterdir()}
    if not files & set(one_of):
        raise RunError(
            f"{flag} {model}: the folder has no {' or '.join(one_of[:2])}; expected all that "
            "save_pretrained of the model and of its tokenizer writes"
        )
    if weights and not any(name.endswith(".safetensors") for name in files):
        pickled = sorted(name for name in files if name.endswith((".bin", ".pt", ".pth", ".ckpt")))
        found = f"only {pickled[0]}, a pickle, which may run code when it is read" if pickled else "no weights"
        raise RunError(
            f"{flag} {model}: the folder has {found}; expected model.safetensors, as model.save_pretrained(FOLDER) "
            "writes it"
        )
    try:
        return load(str(folder))
    except Exception as error:  # of the readers of every format
        reason = " ".join(str(error).split())[:200]
        raise RunError(
            f"{flag} {model}: the folder cannot be read ({reason}); expected a transformers model"
        ) from error
