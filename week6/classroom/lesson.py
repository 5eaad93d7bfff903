"""The models that the notebooks work with: a short run, made once and found again by every notebook.

No notebook needs another one to have run before it. The first that asks for a model trains it, in the folder of a run
like any other; the next ones find it there, on the same machine or on a mounted drive.
"""

import os
import zlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from week6.machine import validate as check
from week6.machine.checkpoint import RunError
from week6.machine.compute import compute
from week6.machine.lock import only_writer
from week6.machine.paths import place
from week6.reward_model import RewardModel
from week6.run.forecast import SHORT, say
from week6.run.labelling import collect_pairs
from week6.run.models import PRESETS, Preset
from week6.run.pipeline import fine_tune, fit_reward_model, optimize_with_dpo, optimize_with_ppo
from week6.run.setting import STAGES, announce, open_setting
from week6.run.training import Run
from week6.sequences import Pairs
from week6.tasks import Task

MODELS = ("sft", "reward_model", "ppo", "dpo")
"""What a lesson can make, in the order of the course."""
DRIVE = Path("/content/drive/MyDrive")
"""Where Colab mounts Google Drive."""
ROUNDING = {torch.float32: 1e-3, torch.float16: 0.1, torch.bfloat16: 1.0}
"""By how many nats two ways to compute the log-probability of a token may differ. Measured on SmolLM2-135M, 183 tokens:
at most 1e-5, 0.015 and 0.44; where thousands are compared the largest difference is larger."""


@dataclass(frozen=True)
class Lesson:
    """What a notebook starts from. `probabilities` (N,) are the annotators', of the choice in each held-out pair;
    None where people chose.

    A model that was not asked for is None.
    """

    preset: Preset
    run: Run
    task: Task
    device: torch.device
    sft: PreTrainedModel
    pairs: Pairs
    heldout_pairs: Pairs
    probabilities: Tensor | None
    reward_model: RewardModel | None = None
    ppo: PreTrainedModel | None = None
    dpo: PreTrainedModel | None = None

    @property
    def embedded(self) -> bool:
        """Whether this is the model whose numbers stand in the notebooks' text: preset `lesson`, in fp32."""
        return self.preset.name == "lesson" and compute().dtype == torch.float32

    @property
    def rounding(self) -> float:
        """By how many nats two ways to compute the log-probability of a token may differ in this precision."""
        return ROUNDING[compute().dtype]

    def claim(self, text: str, *holds: bool | Tensor) -> None:
        """Print what the notebook's text says of the embedded chatbot, if it holds.

        Raises AssertionError where it does not hold for the embedded chatbot; for another model says so.
        """
        if all(holds):
            print(text)
        elif self.embedded:
            raise AssertionError(text)
        else:
            here = f"preset {self.preset.name!r} in {SHORT[compute().dtype]}"
            print(f"Does not hold for {here}; the text is about the embedded chatbot in fp32, where it does:\n{text}")


def lesson(*models: str, preset: Preset | None = None, folder: Path | None = None) -> Lesson:
    """The SFT model with its preference pairs, and those of "reward_model", "ppo" and "dpo" that are asked for.

    Trains what the folder lacks and goes on where an interrupted run stopped; other settings get another folder. Two
    notebooks may ask at the same time: one trains, the other waits. Raises ValueError for an unknown model or a preset
    with ratings, RunError as `pipeline.run` does and under several processes of one program.
    """
    for model in models:
        check.one_of("models", model, MODELS)
    preset = preset or lesson_preset()
    if not isinstance(preset, Preset):
        raise ValueError(f"preset: got {preset!r:.60}, expected a Preset, such as PRESETS['tiny']")
    if preset.ratings is not None:
        raise ValueError(
            f"preset.ratings: got {preset.ratings!r}, expected None: the notebooks compare answers to the same prompt; "
            "`week6 run` learns from ratings of whole texts"
        )
    if compute().processes > 1:  # each would wait for the lock that another holds, and that one for the others
        raise RunError(f"lesson: got {compute().processes} processes, expected one; on several `week6 run` trains")
    folder = place(folder, "folder") if folder else None
    folder = folder or runs_folder() / f"lesson-{preset.name}-{zlib.crc32(repr(preset).encode()):08x}"
    with only_writer(folder, say):
        wanted = {"sft", "pairs", *models} | ({"reward_model"} if "ppo" in models else set())
        stages = [stage for stage in STAGES if stage in wanted]
        setting = announce(open_setting(preset, folder, resume=True), stages, "run the cell again: it goes on")
        sft = fine_tune(setting)
        pairs, heldout, probabilities = collect_pairs(setting, sft)
        reward_model = ppo = dpo = None
        if "reward_model" in models or "ppo" in models:
            reward_model = fit_reward_model(setting, sft, pairs, heldout, probabilities)
        if "ppo" in models and reward_model is not None:
            ppo = optimize_with_ppo(setting, sft, reward_model)
        if "dpo" in models:
            dpo = optimize_with_dpo(setting, sft, pairs)
    run, task, device = setting.run, setting.task, setting.device
    return Lesson(preset, run, task, device, sft, pairs, heldout, probabilities, reward_model, ppo, dpo)


def lesson_preset() -> Preset:
    """The preset of the notebooks: that of WEEK6_PRESET, else with CUDA `gpt2`, else `lesson`, a shorter `tiny`."""
    name = os.environ.get("WEEK6_PRESET") or ("gpt2" if torch.cuda.is_available() else "lesson")
    check.one_of("WEEK6_PRESET", name, tuple(PRESETS))
    return PRESETS[name]


def runs_folder() -> Path:
    """Where runs are kept: WEEK6_RUNS; else `week6` on a mounted Google Drive, where a dropped session loses nothing;
    else `runs` in the repository that week6 lies in, else here."""
    if "WEEK6_RUNS" in os.environ:
        return Path(os.environ["WEEK6_RUNS"])
    if os.access(DRIVE, os.W_OK):
        return DRIVE / "week6"
    repository = Path(__file__).resolve().parents[2]
    return (repository if (repository / "pyproject.toml").exists() else Path.cwd()) / "runs"
