"""What all stages of a run share: its folder, its task, its settings, checked before anything is written."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from week6.machine import validate as check
from week6.machine.pretrained import load_tokenizer
from week6.ppo import AdaptiveKL
from week6.run.forecast import Watcher, forecast, opening, say
from week6.run.models import Preset, initial_policy
from week6.run.training import Run, Usage, choose_device, run_stage, stage_seed
from week6.sequences import encode_prompts
from week6.tasks import Task, load_task

STAGES = ("sft", "pairs", "reward_model", "answer_pairs", "ppo", "dpo", "evaluation")
"""In their order; `answer_pairs` only where people compared whole texts."""
POSITIVE = {
    "steps", "batch_size", "learning_rate", "beta", "target_kl", "epochs", "minibatches", "horizon", "clip",
    "temperature", "max_new_tokens", "n_pairs", "layers", "heads", "width", "positions",
    "heldout_pairs", "calibration_answers", "answers_per_prompt", "best_of", "best_of_answers", "probes",
    "probe_answers",
}  # fmt: skip
"""Settings that must be above zero."""


@dataclass(frozen=True)
class RunConfig:
    """What a run's folder belongs to."""

    seed: int
    preset: Preset


@dataclass(frozen=True)
class Setting:
    """What all stages share."""

    run: Run
    preset: Preset
    task: Task
    seed: int
    device: torch.device
    watcher: Watcher | None = None
    """What looks on while a stage trains, and says how long the rest will take, for instance."""

    def train(
        self,
        stage: str,
        loop: Callable[[int], Iterator[dict[str, float]]],
        total: int,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        controller: AdaptiveKL | None = None,
    ) -> Usage:
        """`run_stage`, with the watcher looking on."""
        watcher = self.watcher
        rows = loop if watcher is None else lambda start: watcher.watch(stage, loop(start), start, total)
        return run_stage(self.run, stage, rows, total, module, optimizer, controller)

    def stage_seed(self, stage: str) -> int:
        """The seed of the random numbers of one stage."""
        return stage_seed(self.seed, stage)

    def prompts(self, split: str = "prompts") -> tuple[Tensor, Tensor]:
        """Training or ("heldout_prompts") held-out prompts: tokens and mask, on the device."""
        tokens, mask = encode_prompts(self.task.tokenizer, list(getattr(self.task, split)["prompt"]))
        return tokens.to(self.device), mask.to(self.device)


def open_setting(preset: Preset, folder: Path, seed: int = 0, resume: bool = False) -> Setting:
    """Read all that a run starts from, and then make its folder, or come back to it.

    Raises ValueError or RunError for bad settings, a bad model or bad data, before anything is written.
    """
    check_preset(preset)
    task = preset_task(preset)
    policy: Any = initial_policy(preset, task.tokenizer, stage_seed(seed, "init"))
    if (room := getattr(policy.config, "max_position_embeddings", None)) is not None:
        prompts, _ = encode_prompts(task.tokenizer, [*task.prompts["prompt"], *task.heldout_prompts["prompt"]])
        if prompts.shape[1] + task.max_new_tokens > room:
            raise ValueError(
                f"max_new_tokens: got {task.max_new_tokens} and prompts of up to {prompts.shape[1]} tokens, "
                f"expected no more than the {room} positions of the model together"
            )
    run = Run.open(folder, RunConfig(seed, preset), resume)
    return Setting(run, preset, task, seed, choose_device())


def announce(setting: Setting, stages: Sequence[str], again: str) -> Setting:
    """Say what the run works with; with the setting that is returned it also says, after its first steps, how long
    `stages` will take as far as they are not finished, and, by `again`, what to do after an interruption."""
    say(opening(setting.preset.name, setting.run.folder))
    left = [stage for stage in stages if stage not in setting.run.finished]
    return dataclasses.replace(setting, watcher=forecast(setting.preset, left, again))


def preset_task(preset: Preset) -> Task:
    """The task of a preset, made for the tokenizer of its model."""
    if preset.model is None:
        return load_task(preset.task, None, preset.data, preset.column, preset.gold, ratings=preset.ratings)
    tokenizer = load_tokenizer(preset.model)
    return load_task(
        preset.task, tokenizer, preset.data, preset.column, preset.gold, preset.ppo.max_new_tokens, preset.ratings
    )


def check_preset(preset: Preset) -> None:
    """Raise ValueError, before anything is done, that names the setting which makes no sense."""
    parts = {"": preset} | {
        f"{f.name}.": getattr(preset, f.name)
        for f in dataclasses.fields(preset)
        if dataclasses.is_dataclass(getattr(preset, f.name))
    }
    for prefix, part in parts.items():
        for field in dataclasses.fields(part):
            value = getattr(part, field.name)
            if field.name in POSITIVE and value is not None:
                check.positive(prefix + field.name, value)
