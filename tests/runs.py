"""A run of seconds, for the tests of the pipeline and of the command line."""

import atexit
import dataclasses
import functools
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from unittest import mock

import torch

from week6.cli import main
from week6.machine.checkpoint import write_atomic
from week6.run import pieces, pipeline, report, setting, training
from week6.run.evaluation import EvaluationConfig
from week6.run.models import PRESETS, Preset
from week6.tasks import load_task

SMALL = EvaluationConfig(
    heldout_pairs=2,
    calibration_answers=64,
    answers_per_prompt=2,
    best_of=3,
    best_of_answers=2,
    probes=2,
    probe_answers=16,
)
task_once = functools.cache(load_task)


def quick_preset() -> Preset:
    """The preset tiny with a smaller model and a few steps a stage."""
    tiny, change = PRESETS["tiny"], dataclasses.replace
    return change(
        tiny,
        layers=1,
        heads=2,
        width=16,
        n_pairs=48,
        sft=change(tiny.sft, steps=40, batch_size=16, learning_rate=0.02),
        reward=change(tiny.reward, steps=8, batch_size=8),
        ppo=change(tiny.ppo, steps=5, batch_size=8, target_kl=1.0),
        dpo=change(tiny.dpo, steps=8, batch_size=8),
        evaluation=SMALL,
    )


def quick_flags() -> list[str]:
    """The command-line flags that make the preset tiny that of quick_preset."""
    quick, tiny = dataclasses.asdict(quick_preset()), dataclasses.asdict(PRESETS["tiny"])
    flags = []
    for name, value in quick.items():
        parts = {f"{name}.{key}": x for key, x in value.items()} if isinstance(value, dict) else {name: value}
        for key, x in parts.items():
            before = tiny[name][key.split(".")[1]] if isinstance(value, dict) else tiny[name]
            if x != before:
                flags += [f"--{key.replace('_', '-')}", str(x)]
    return flags


def no_figure(path: Path, draw: object) -> None:
    """Stands for a plot on the disk."""
    write_atomic(path, "not drawn")


@contextmanager
def quick_settings(checkpoint_seconds: float = 0.0, plots: bool = False) -> Iterator[None]:
    """A checkpoint after every step, one thread (its number decides the last digits), no plots."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with (
            mock.patch.object(setting, "load_task", task_once),
            mock.patch.object(training, "CHECKPOINT_SECONDS", checkpoint_seconds),
            mock.patch.object(pieces, "WORTH_KEEPING", -1.0),
            nullcontext() if plots else mock.patch.object(report, "save_figure", no_figure),
            nullcontext() if plots else mock.patch.object(pipeline, "save_figure", no_figure),
        ):
            yield
    finally:
        torch.set_num_threads(threads)


def quick_run(folder: Path, resume: bool = False) -> None:
    """What a child process does."""
    with quick_settings():
        pipeline.run(quick_preset(), folder, resume=resume)


def child_run(folder: Path) -> None:
    """`quick_run` in a forked child: the process that it was forked from must have had no other thread."""
    assert len(list(Path(f"/proc/{os.getppid()}/task").iterdir())) == 1
    quick_run(folder, resume=True)


@functools.cache
def finished_run() -> Path:
    """The folder of a run that the command line made, uninterrupted and with plots; not to be changed."""
    runs = Path(tempfile.mkdtemp(prefix="week6-runs-"))
    atexit.register(shutil.rmtree, runs)
    with quick_settings(plots=True):
        assert main(["run", "--name", "whole", "--runs-dir", str(runs), *quick_flags()]) == 0
    return runs / "whole"


def check_refused(words: list[str], message: str, capsys) -> None:
    """The command line refuses these words with one sentence, `message` in it, and exit code 2."""
    code = main(words)
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("week6: error: ")]
    assert code == 2 and len(lines) == 1 and message in lines[0] and captured.out == ""


def forget(folder: Path, *stages: str) -> None:
    """Make a finished run one that was killed before these stages."""
    for name in ("summary.json", "report.md", "report.html", *(f"checkpoints/{stage}.safetensors" for stage in stages)):
        (folder / name).unlink(missing_ok=True)
    finished = json.loads((folder / "stages.json").read_text())
    (folder / "stages.json").write_text(json.dumps({k: v for k, v in finished.items() if k not in stages}))


def numbers(folder: Path) -> dict:
    """summary.json without what depends on the clock."""
    summary = json.loads((folder / "summary.json").read_text())
    assert all(set(stage) == {"seconds", "tokens_per_second", "peak_memory_mb"} for stage in summary["stages"].values())
    return summary | {"stages": list(summary["stages"])}


def artefacts(folder: Path) -> dict[str, bytes]:
    """Everything that a resumed run must reproduce to the byte."""
    patterns = ("metrics/*.csv", "policies/*/*", "pairs.*", "reward_model.safetensors", "samples.*")
    return {str(path.relative_to(folder)): path.read_bytes() for p in patterns for path in sorted(folder.glob(p))}
