"""Low-rank adaptation (Hu et al. 2021, arXiv 2106.09685) by the library peft: of a weight W only an update is trained,

    W x + (α / r) B A x,      A (r × in) random, B (out × r) zero at first, r the rank

so that a policy begins as its reference, exactly. The weights below the adapters are those of the reference itself: one
set in memory, with gradients and Adam's moments for A and B alone. At the end the update is added to a copy of W, and
what is left is a plain model.
"""

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from week6.machine.bounds import Bounds
from week6.machine.checkpoint import RunError
from week6.machine.compute import compute

RANK = Bounds(0, 65_536, whole=True)
ALPHA = Bounds(0.001, 1000)
ALL = "all-linear"


@dataclass(frozen=True)
class LoRAConfig:
    """Which weights are trained through a low-rank update."""

    rank: Annotated[int, RANK, RANK.shown] = 0
    """r; 0 trains all weights themselves."""
    alpha: Annotated[float, ALPHA, ALPHA.shown] = 32.0
    """The update is scaled by alpha / rank."""
    modules: str = ALL
    """Names of linear modules, with commas between them; "all-linear" for all but the head."""


@dataclass
class Trainee:
    """A model to train, and peft's hold on its adapters, None where all weights are trained."""

    model: PreTrainedModel
    adapters: Any = None

    def merge(self, folder: Path | None = None) -> None:
        """Add the trained updates to weights of the model's own, and leave a plain model; the adapters are saved to
        `folder` before, by the main process. Does nothing where there are none, or none any more."""
        if self.adapters is None:
            return
        if folder is not None and compute().is_main:
            self.adapters.save_pretrained(folder, save_embedding_layers=False)
        for weight in self.model.parameters():
            if not weight.requires_grad:  # it is the reference's, too
                weight.data = weight.data.clone()
        self.adapters.merge_and_unload()
        self.model.requires_grad_(True)
        self.adapters = None


def trainee_of(model: PreTrainedModel, config: LoRAConfig, seed: int) -> Trainee:
    """A copy of `model` to train: all of it, or, with a rank, adapters on weights that are those of `model`.

    The same adapters for the same seed; the global random state is left as it was. Raises RunError without peft, and
    ValueError where `check_lora` does.
    """
    if not config.rank:
        return Trainee(deepcopy(model).requires_grad_(True))
    check_lora(model, config)
    from peft import LoraConfig, get_peft_model

    modules = config.modules if config.modules == ALL else _named(config)
    shared = {id(x): nn.Parameter(x.detach(), requires_grad=False) for x in model.parameters()}
    copy = deepcopy(model, shared)
    gpt2 = any(isinstance(module, Conv1D) for module in copy.modules())  # its linear modules have W transposed
    settings: dict[str, Any] = {
        "r": config.rank,
        "lora_alpha": config.alpha,  # declared whole, used as a number
        "target_modules": modules,
        "fan_in_fan_out": gpt2,
        "task_type": "CAUSAL_LM",
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapters = get_peft_model(copy, LoraConfig(**settings))
    return Trainee(copy, adapters)


def check_lora(model: PreTrainedModel, config: LoRAConfig) -> None:
    """Raise RunError where peft is not installed, ValueError for a module that the model does not have, and for a rank
    that none of its weights W can have."""
    try:
        import peft  # noqa: F401
    except ImportError as error:
        raise RunError(
            f"lora.rank: got {config.rank}, which needs the library peft ({error}): pip install 'week6[lora]'"
        ) from error
    language_model: Any = model
    head = language_model.get_output_embeddings()
    linear = {name: x for name, x in model.named_modules() if isinstance(x, nn.Linear | Conv1D) and x is not head}
    there = sorted({name.rpartition(".")[2] for name in linear})
    if config.modules != ALL and ALL in _named(config):
        raise ValueError(f"lora.modules: got {config.modules!r:.60}, expected {ALL!r} alone, or names; leave one out")
    unknown = [] if config.modules == ALL else [name for name in _named(config) if name not in there]
    if unknown or not there:
        raise ValueError(
            f"lora.modules: got {unknown[0] if unknown else ALL!r}, expected {ALL!r} or some of the model's "
            f"{', '.join(there) or '(none)'}"
        )
    chosen = [x for name, x in linear.items() if config.modules == ALL or name.rpartition(".")[2] in _named(config)]
    highest = max(min(x.weight.shape) for x in chosen)
    if config.rank > highest:
        raise ValueError(
            f"lora.rank: got {config.rank}, expected at most {highest}, the rank of the model's own weights"
        )


def _named(config: LoRAConfig) -> list[str]:
    return [name.strip() for name in config.modules.split(",")]
