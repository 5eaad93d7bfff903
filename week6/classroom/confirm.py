"""`week6 confirm`: does the course hold on this GPU, with the real hub? One line a check, PASS or FAIL.

The checks are those that a machine without a GPU cannot make. A preset's stages run at their real batch sizes, for a
few steps each; what they take is projected to the whole.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from transformers import PreTrainedModel

from week6.classroom.lesson import ROUNDING
from week6.machine.checkpoint import RunError
from week6.machine.compute import compute, using
from week6.machine.validate import UnusableError
from week6.run import training
from week6.run.forecast import SHORT, Stopwatch, describe
from week6.run.models import Preset, initial_policy
from week6.run.pipeline import fine_tune, finish
from week6.run.setting import Setting, open_setting, preset_task
from week6.tasks import Task

STEPS = 12
"""Steps of each stage that trains."""
PAIRS = 3000
"""Pairs at most: of some 500 prompts, the batch in which answers are sampled."""
T4_BYTES = 14.6e9
"""A larger GPU is used as if it had no more than a T4 leaves free."""
LEARNED = ("sft", "reward_model", "ppo", "dpo")
NO_GPU = "week6 confirm: no CUDA device here: this confirms nothing about a GPU (--cpu tries the command without one)"


@dataclass(frozen=True)
class Limits:
    """What the course promises of preset `gpt2` on a T4."""

    memory_gb: float = 12.0
    minutes: float = 45.0
    loss: float = 1e-3
    """Relative difference of the last loss of a stage that was interrupted and went on."""
    weights: float = 0.05
    """‖w_resumed − w‖ / ‖w − w_0‖. Sums on a GPU are not repeatable to the last bit, and Adam makes a whole step of a
    gradient that is all rounding."""
    ratio: Mapping[torch.dtype, float] = field(default_factory=lambda: ROUNDING)
    """Of max |ρ − 1| before PPO has changed a weight."""


@dataclass
class Findings:
    """Prints a line a check; `failed` counts what did not pass."""

    tell: Callable[[str], None]
    failed: int = 0

    def check(self, name: str, passed: bool, found: str, expected: str) -> bool:
        """One check."""
        self.failed += not passed
        self.tell(f"{'PASS' if passed else 'FAIL'}  {name:<18} {found}; expected {expected}")
        return passed

    def skip(self, names: tuple[str, ...], why: str) -> None:
        """Checks that cannot be made."""
        for name in names:
            self.tell(f"SKIP  {name:<18} {why}")


def confirm(
    preset: Preset, folder: Path, cpu: bool = False, limits: Limits | None = None, tell: Callable[[str], None] = print
) -> bool:
    """Check `preset` on this machine, with runs in `folder` (some gigabytes); returns whether everything passed.

    `cpu` tries the command on the CPU. Raises RunError for a preset without a pretrained model.
    """
    if preset.model is None:
        raise RunError(f"--preset: got {preset.name!r}, expected one with a pretrained model, 'gpt2'")
    findings, limits = Findings(tell), limits or Limits()
    names = ("device", "precision", "a few steps", "finite losses", "PPO's first ratio", "peak memory", "whole preset",
             "killed, resumed")  # fmt: skip
    loaded = _check_sources(findings, preset)
    if not (cpu or torch.cuda.is_available()):
        findings.skip(names, "needs a GPU")
        tell(NO_GPU)
        return False
    _check_device(findings, cpu)
    if not loaded:
        findings.skip(names[2:], "needs model and data")
        return False
    short, watch, began = shortened(preset), Stopwatch(), time.perf_counter()
    with _as_on_a_t4():
        try:
            setting = replace(open_setting(short, folder / "steps"), watcher=watch)
            finish(setting)
        except (RunError, UnusableError) as error:
            findings.check(names[2], False, " ".join(str(error).split()), f"{STEPS} steps of every stage")
            findings.skip(names[3:], "needs these steps")
            return False
        findings.check(names[2], True, f"{STEPS} steps of {', '.join(LEARNED)}", "no error")
        seconds = projected_seconds(preset, short, setting, watch.per_step, time.perf_counter() - began)
        _check_numbers(findings, setting, limits)
        _check_costs(findings, setting, limits, seconds)
        _check_resume(findings, setting, folder / "resumed", limits)
    return not findings.failed


def shortened(preset: Preset) -> Preset:
    """The same batch sizes and lengths, with few steps, few pairs and a small evaluation."""
    sizes = replace(
        preset.evaluation, heldout_pairs=1, answers_per_prompt=1, best_of=2, best_of_answers=1, probes=1,
        calibration_answers=min(500, preset.evaluation.calibration_answers),
    )  # fmt: skip
    return replace(
        preset,
        n_pairs=min(PAIRS, preset.n_pairs),
        sft=replace(preset.sft, steps=STEPS),
        reward=replace(preset.reward, steps=STEPS),
        ppo=replace(preset.ppo, steps=STEPS),
        dpo=replace(preset.dpo, steps=STEPS),
        evaluation=sizes,
    )


def timed_answers(preset: Preset, task: Task) -> int:
    """How many answers a run samples in the stages `pairs` and `evaluation`."""
    sizes, prompts, k = preset.evaluation, len(task.heldout_prompts), task.answers_per_prompt
    judged = prompts * (3 * sizes.answers_per_prompt + sizes.best_of * sizes.best_of_answers)
    if task.pairs is not None:
        return judged
    return judged + math.ceil(preset.n_pairs / math.comb(k, 2)) * k + 2 * prompts * sizes.heldout_pairs


def steps_of(preset: Preset) -> dict[str, int]:
    """Steps of the stages that train."""
    steps = (preset.sft.steps, preset.reward.steps, preset.ppo.steps, preset.dpo.steps)
    return dict(zip(LEARNED, steps, strict=True))


def projected_seconds(
    preset: Preset, short: Preset, setting: Setting, per_step: Mapping[str, float], wall: float
) -> float:
    """How long all of `preset` takes, from a run of `short` that took `wall` seconds.

        Σ_stage n_stage s_stage + n_answers s_answer + rest

    s_stage is measured; s_answer is what the stages `pairs` and `evaluation` took for each answer, and n_answers counts
    theirs, those of the reward model's calibration and those of DPO's probes; the rest of the short run (loading,
    encoding, saving) is taken to be the same.
    """
    finished, sizes = setting.run.finished, preset.evaluation
    sampling: float = sum(finished[stage]["usage"]["seconds"] for stage in ("pairs", "evaluation"))
    answers = timed_answers(preset, setting.task) + sizes.calibration_answers + sizes.probes * sizes.probe_answers
    trained, briefly = (sum(per_step[s] * n for s, n in steps_of(p).items()) for p in (preset, short))
    rest = max(0.0, wall - briefly - sampling)
    return trained + sampling * answers / timed_answers(short, setting.task) + rest


@contextmanager
def _as_on_a_t4() -> Iterator[None]:
    here = compute()
    if here.device.type != "cuda":
        yield
        return
    with using(free_bytes=lambda: min(here.free_bytes(), T4_BYTES - torch.cuda.memory_allocated(here.device))):
        yield


def _check_sources(findings: Findings, preset: Preset) -> bool:
    expected = "both, whole"
    try:
        task = preset_task(preset)
        policy = initial_policy(preset, task.tokenizer, 0)
    except (RunError, ValueError) as error:
        return findings.check("model and data", False, " ".join(str(error).split()), expected)
    found = f"{preset.model} ({policy.num_parameters() / 1e6:.0f} M parameters), {preset.data}"
    return findings.check("model and data", True, f"{found} ({len(task.prompts)} prompts)", expected)


def _check_device(findings: Findings, cpu: bool) -> None:
    here, wanted = compute(), "cpu" if cpu else "cuda"
    findings.check("device", here.device.type == wanted, describe(here), wanted.upper())
    dtype = torch.float32
    if wanted == "cuda":  # bf16 came with the generation after the T4's
        dtype = torch.bfloat16 if torch.cuda.get_device_capability() >= (8, 0) else torch.float16
    findings.check("precision", here.dtype == dtype, SHORT[here.dtype], SHORT[dtype])


def _check_numbers(findings: Findings, setting: Setting, limits: Limits) -> None:
    rows = {stage: setting.run.metrics(stage) for stage in LEARNED}
    columns = [(s, c) for s in LEARNED for c in map(str, rows[s]) if c == "grad_norm" or c.endswith("loss")]
    bad = [f"{stage}.{column}" for stage, column in columns if not np.isfinite(rows[stage][column]).all()]
    findings.check("finite losses", not bad, ", ".join(bad) or f"{len(columns)} columns of finite numbers", "no other")
    ratio, most = rows["ppo"]["first_ratio_deviation"].max(), limits.ratio[compute().dtype]
    findings.check("PPO's first ratio", ratio <= most, f"max |ρ − 1| = {ratio:.2g}", f"at most {most:g}")


def _check_costs(findings: Findings, setting: Setting, limits: Limits, seconds: float) -> None:
    usage = {stage: entry["usage"] for stage, entry in setting.run.finished.items()}
    stage = max(usage, key=lambda name: usage[name]["peak_memory_mb"])
    peak, most = usage[stage]["peak_memory_mb"] / 1000, limits.memory_gb
    findings.check("peak memory", peak < most, f"{peak:.2f} GB, in stage {stage}", f"less than {most:g} GB")
    most = limits.minutes
    findings.check("whole preset", seconds <= 60 * most, f"{seconds / 60:.1f} minutes, projected", f"at most {most:g}")


class Killed(Exception):
    """Ends a stage as a dropped session does: at once."""


def _check_resume(findings: Findings, setting: Setting, folder: Path, limits: Limits) -> None:
    def kill(step: int) -> None:
        if step == STEPS // 2 - 1:
            training.CHECKPOINT_SECONDS = 0.0  # after the next step there is one
        if step == STEPS // 2 + 2:
            raise Killed

    with patch.object(training, "CHECKPOINT_SECONDS", math.inf):
        try:
            fine_tune(replace(open_setting(setting.preset, folder), watcher=Stopwatch(kill)))
        except Killed:
            pass
        watch = Stopwatch()
        again = replace(open_setting(setting.preset, folder, resume=True), watcher=watch)
        resumed = fine_tune(again)
    whole, start = (
        fine_tune(setting),
        initial_policy(setting.preset, setting.task.tokenizer, setting.stage_seed("init")),
    )
    weights = distance(resumed, whole) / distance(whole, start)
    last, same = (float(s.run.metrics("sft")["loss"].iloc[-1]) for s in (again, setting))
    loss = abs(last - same) / abs(same)
    findings.check(
        "killed, resumed",
        watch.starts["sft"] > 0 and weights <= limits.weights and loss <= limits.loss,
        f"SFT went on at step {watch.starts['sft']}; weights {100 * weights:.2g} % of the way apart, loss {loss:.1g}",
        f"a step above 0, at most {100 * limits.weights:g} % and {limits.loss:g}",
    )


def distance(a: PreTrainedModel, b: PreTrainedModel) -> float:
    """‖a − b‖ over all weights."""
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    return math.sqrt(sum(float((x.detach().cpu() - y.detach().cpu()).square().sum()) for x, y in pairs))
