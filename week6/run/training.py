"""One run's folder: configuration, metrics, checkpoints, resume, progress, device.

    NAME/config.json               what was asked for; a folder belongs to one configuration for ever
    NAME/stages.json               what each finished stage took and found
    NAME/metrics/STAGE.csv         one row a step
    NAME/checkpoints/STAGE.safetensors

A run may be killed at any moment. Every file but the metrics is replaced in one piece, and the metrics are cut back
to the checkpoint when the run resumes. All random numbers derive from (seed, stage, step), so none are stored: a
resumed run ends with the same numbers as an uninterrupted one on the same kind of machine.
"""

import csv
import dataclasses
import json
import math
import os
import platform
import sys
import time
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import torch
from torch import nn
from tqdm.auto import tqdm

from week6.machine.checkpoint import RunError, explain_no_space, load_checkpoint, save_checkpoint, write_atomic
from week6.machine.compute import compute, every_process, main_process
from week6.ppo import AdaptiveKL

CHECKPOINT_SECONDS = 10.0
"""Time between two checkpoints: the most work that a killed run repeats."""
SHOWN = {"loss": "loss", "policy_loss": "loss", "accuracy": "accuracy", "score": "reward", "gold": "gold", "kl": "KL"}
"""Metrics beside the progress bar, with their labels."""


def choose_device() -> torch.device:
    """CUDA when it is there, else the CPU."""
    return compute().device


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that decide a run's numbers."""
    return {"python": platform.python_version()} | {
        name: version(name) for name in ("torch", "transformers", "datasets", "safetensors")
    }


def stage_seed(seed: int, stage: str) -> int:
    """The seed of one stage of one run, so that no two stages share random numbers."""
    return zlib.crc32(f"{seed}/{stage}".encode())


def to_json(value: Any) -> str:
    """Strict JSON: NaN and infinity, which JSON lacks, become null."""

    def plain(x: Any) -> Any:
        if isinstance(x, dict):
            return {key: plain(item) for key, item in x.items()}
        if isinstance(x, list | tuple):
            return [plain(item) for item in x]
        return None if isinstance(x, float) and not math.isfinite(x) else x

    return json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def read_json(path: Path) -> Any:
    """Read a JSON file of a run; RunError when it is damaged."""
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise RunError(
            f"{path} is damaged ({error}): expected JSON; restore it or start a run with another name"
        ) from None


def peak_memory() -> int:
    """The most memory that this process has held so far, in bytes."""
    try:
        import resource
    except ImportError:  # Windows
        return int(psutil.Process().memory_info().peak_wset)
    kilo = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, kilobytes on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilo


# --- the folder ------------------------------------------------------------------------------------------------------


class Usage:
    """What a stage took: the clock starts now. Peak memory is CUDA's, or else the process's up to now."""

    def __init__(self, seconds: float = 0.0, tokens: int = 0, peak_memory_mb: float = 0.0) -> None:
        self.seconds, self.tokens, self.peak_memory_mb = seconds, tokens, peak_memory_mb
        self._last = time.perf_counter()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def tick(self) -> None:
        """Add the time since the last tick, and look at the memory."""
        now = time.perf_counter()
        self.seconds, self._last = self.seconds + now - self._last, now
        peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else peak_memory()
        self.peak_memory_mb = max(self.peak_memory_mb, peak / 1e6)

    def summary(self) -> dict[str, float | None]:
        """The three figures of summary.json; tokens/s is null for a stage that counts no tokens."""
        rate = self.tokens / self.seconds if self.tokens and self.seconds else None
        return {"seconds": self.seconds, "tokens_per_second": rate, "peak_memory_mb": self.peak_memory_mb}


@dataclass
class Run:
    """An open run folder. `finished` maps each finished stage to what it took ("usage") and found ("result")."""

    folder: Path
    finished: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path, config: Any, resume: bool = False) -> "Run":
        """Make the folder of a run with this configuration (a dataclass), or, with `resume`, come back to it.

        Raises RunError when the folder is taken, is no run, or belongs to another configuration; nothing in it is
        touched then. Of several processes the main one does it, and the others open what it made.
        """
        return main_process(lambda: cls._open(folder, config, resume))

    @classmethod
    def _open(cls, folder: Path, config: Any, resume: bool) -> "Run":
        wanted = json.loads(to_json(dataclasses.asdict(config)))
        path = folder / "config.json"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            taken = any(not name.startswith(".") for name in os.listdir(folder))
        except OSError as error:
            raise RunError(f"{folder}: cannot make this folder ({error.strerror}); choose another place") from error
        if taken and not path.exists():
            raise RunError(f"{folder} holds other files and no config.json, expected a run; choose another name")
        if taken and not resume:
            raise RunError(f"{folder} exists: pass --resume to continue it, or choose another name")
        if taken:
            differences = _differences(read_json(path), wanted)
            if differences:
                raise RunError(
                    f"{folder} belongs to another configuration ({'; '.join(differences)}): "
                    "resume with the same settings, or choose another name"
                )
        else:
            write_atomic(path, to_json(wanted))
        stages = folder / "stages.json"
        return cls(folder, read_json(stages) if stages.exists() else {})

    def finish(self, stage: str, usage: Usage, result: dict[str, Any] | None = None) -> None:
        """Record that a stage is done, with what it took and found, so that a resumed run skips it.

        Afterwards every process finds on the disk what the main one wrote before.
        """

        def record() -> dict[str, Any]:
            found = {"usage": usage.summary(), "result": result or {}}
            write_atomic(self.folder / "stages.json", to_json(self.finished | {stage: found}))
            return found

        self.finished[stage] = main_process(record)

    def result(self, stage: str) -> dict[str, Any]:
        """What a finished stage found."""
        return dict(self.finished[stage]["result"])

    def checkpoint(self, stage: str) -> Path:
        """The checkpoint of a stage."""
        return self.folder / "checkpoints" / f"{stage}.safetensors"

    def metrics_path(self, stage: str) -> Path:
        """The metrics of a stage: a CSV file, one row a step."""
        return self.folder / "metrics" / f"{stage}.csv"

    def metrics(self, stage: str) -> pd.DataFrame:
        """The metrics of a stage as a table."""
        return pd.read_csv(self.metrics_path(stage))


def _differences(found: Any, wanted: Any, key: str = "") -> list[str]:
    """'ppo.beta: 0.1 in the folder, 0.2 asked for' for each leaf that differs."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        keys = list(wanted) + [name for name in found if name not in wanted]
        return [
            line
            for name in keys
            for line in _differences(found.get(name), wanted.get(name), f"{key}.{name}" if key else name)
        ]
    return [] if found == wanted else [f"{key}: {found!r} in the folder, {wanted!r} asked for"]


# --- metrics and the stage loop --------------------------------------------------------------------------------------


class MetricsWriter:
    """Appends a row a step to a CSV file; on opening keeps the rows of the first `start` steps."""

    def __init__(self, path: Path, start: int) -> None:
        lines = path.read_text().splitlines(keepends=True) if start and path.exists() else []
        kept = [line for line in lines[: start + 1] if line.endswith("\n")]
        if start and len(kept) != start + 1:
            raise RunError(
                f"{path} has {max(0, len(kept) - 1)} whole rows, expected at least the {start} of the checkpoint; "
                "restore it, or delete this stage's checkpoint to repeat the stage with --resume"
            )
        write_atomic(path, "".join(kept))
        self.path = path
        self._columns = kept[0].strip().split(",") if kept else []
        # Of several processes only the main one writes.
        self._file = open(path if compute().is_main else os.devnull, "a", newline="")  # noqa: SIM115  (closed by close)
        self._csv = csv.writer(self._file, lineterminator="\n")

    def write(self, row: dict[str, float]) -> None:
        """Append one row and hand it to the operating system; floats keep all their digits."""
        with explain_no_space(self.path):
            if not self._columns:
                self._columns = list(row)
                self._csv.writerow(row)
            if list(row) != self._columns:
                raise ValueError(f"row: got columns {list(row)}, expected {self._columns} as in the first row")
            self._csv.writerow(row.values())
            self._file.flush()

    def sync(self) -> None:
        """Wait until the rows are on the disk: a checkpoint must not know of steps that the metrics lost."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def run_stage(
    run: Run,
    stage: str,
    loop: Callable[[int], Iterable[dict[str, float]]],
    total: int,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    controller: AdaptiveKL | None = None,
) -> Usage:
    """Drive a training loop from its checkpoint to step `total`; afterwards `module` is the trained model.

    `loop(start)` does step `start`, yields its metrics, does the next. All that it needs to go on is in `module`,
    `optimizer`, `controller.beta` and, in fp16, the loss scale, which a checkpoint holds. Device and precision are not
    in it: a stage may go on elsewhere. A row's "tokens" counts the tokens of its step.
    Raises RunError, and leaves the last checkpoint as it was, when the loop meets numbers that it cannot learn from.
    """
    here, path = compute(), run.checkpoint(stage)
    # When all processes have read it, the main one may replace it.
    state, *_ = every_process(lambda: load_checkpoint(path, module, optimizer) if path.exists() else {})
    step = int(state.get("step", 0))
    usage = Usage(state.get("seconds", 0.0), int(state.get("tokens", 0)), state.get("peak_memory_mb", 0.0))
    here.restart_scaler(state)
    if controller is not None:
        controller.beta = state.get("beta", controller.beta)
    if step == total:
        return usage

    metrics = MetricsWriter(run.metrics_path(stage), step)
    # On a terminal the bar moves; in a log file a line every ten seconds is enough.
    seconds = 0.5 if sys.stderr.isatty() else 10.0
    bar = tqdm(total=total, initial=step, desc=stage, unit="step", mininterval=seconds, disable=not here.is_main)
    shown: dict[str, str] = {}
    saved, cost = time.perf_counter(), 0.0
    try:
        for row in loop(step):
            metrics.write(row)
            step += 1
            usage.tokens += int(row.get("tokens", 0))
            shown |= {SHOWN[key]: f"{x:.3g}" for key, x in row.items() if key in SHOWN and not math.isnan(x)}
            bar.set_postfix(shown, refresh=False)
            bar.update()
            now = time.perf_counter()
            # Large models take long to write: at most a twentieth of the time goes into checkpoints. Processes do not
            # wait for each other here, since each has its own clock.
            if here.is_main and (step == total or now - saved > max(CHECKPOINT_SECONDS, 20 * cost)):
                usage.tick()
                metrics.sync()
                numbers = {
                    "step": step,
                    "seconds": usage.seconds,
                    "tokens": usage.tokens,
                    "peak_memory_mb": usage.peak_memory_mb,
                }
                beta = {} if controller is None else {"beta": controller.beta}
                save_checkpoint(path, module, optimizer, numbers | beta | here.scaler_state())
                saved = time.perf_counter()
                cost = saved - now
    except ValueError as error:
        raise RunError(f"stage {stage} stopped at step {step}: {error}") from error
    finally:
        bar.close()
        metrics.close()
    return usage
