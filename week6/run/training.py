"""One run's folder: configuration, metrics, checkpoints, resume, progress, device.

    NAME/config.json               what was asked for; a folder belongs to what its stages were made with
    NAME/stages.json               what each finished stage took and found, and the checksums of its files
    NAME/metrics/STAGE.csv         one row a step
    NAME/checkpoints/STAGE.safetensors

A run may be killed at any moment. Every file but the metrics is replaced in one piece, and the metrics are cut back
to the checkpoint when the run resumes. All random numbers derive from (seed, stage, step), so none are stored: a
resumed run ends with the same numbers as an uninterrupted one on the same kind of machine.
"""

import csv
import dataclasses
import io
import json
import math
import os
import platform
import sys
import time
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import pandas as pd
import psutil
import torch
from torch import nn
from tqdm.auto import tqdm

from week6.machine.checkpoint import (
    REMEDY,
    RunError,
    explain_write,
    load_checkpoint,
    save_checkpoint,
    write_atomic,
)
from week6.machine.compute import compute, every_process, main_process
from week6.machine.validate import UnusableError
from week6.ppo import AdaptiveKL
from week6.run.forecast import say
from week6.run.record import (
    Depends,
    Entry,
    check_files,
    check_is_of,
    check_kinds,
    check_settings,
    checkpoint_of,
    chosen,
    crc,
    differences,
    files_of,
    other_configuration,
    read_entries,
    seal,
    sources_of,
)

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
    except (OSError, ValueError, RecursionError) as error:
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
    finished: dict[str, Entry] = field(default_factory=dict)
    stages: Mapping[str, Depends] = field(default_factory=dict)
    """What each stage is made of."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Of each stage, the checksum of the settings it is made with."""

    @classmethod
    def open(cls, folder: Path, config: Any, resume: bool = False, stages: Mapping[str, Depends] | None = None) -> Self:
        """Make the folder of a run with this configuration (a dataclass), or, with `resume`, come back to it.

        Raises RunError when the folder is taken, is no run, or belongs to another configuration; nothing in it is
        touched then. With `stages` a setting may differ from that of the folder as long as no stage has begun that it
        decides. Of several processes the main one does it, and the others open what it made.
        """
        return main_process(lambda: cls._open(folder, config, resume, stages or {}))

    @classmethod
    def _open(cls, folder: Path, config: Any, resume: bool, stages: Mapping[str, Depends]) -> Self:
        wanted = json.loads(to_json(dataclasses.asdict(config)))
        path, record = folder / "config.json", folder / "stages.json"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            taken = any(not name.startswith(".") for name in os.listdir(folder))
        except OSError as error:
            taken_by = "a file or a link to nothing is there" if isinstance(error, FileExistsError) else error.strerror
            raise RunError(f"{folder}: cannot make this folder ({taken_by}); choose another place") from error
        if taken and not (path.exists() or (stages and record.exists())):
            raise RunError(f"{folder} holds other files and no config.json, expected a run; choose another name")
        if taken and not resume:
            raise RunError(f"{folder} exists: pass --resume to continue it, or choose another name")
        check_kinds(folder)
        finished = read_entries(record)
        if stages:
            found = check_settings(folder, stages, finished, wanted) if taken else None
        else:
            found = read_json(path) if taken else None
            if taken and found != wanted:
                check_is_of(path, found, wanted)
                raise other_configuration(folder, differences(found, wanted))
        if found != wanted:
            write_atomic(path, to_json(wanted))
        return cls(folder, finished, stages, {stage: chosen(wanted, depends) for stage, depends in stages.items()})

    def whole(self, stage: str) -> bool:
        """Whether a stage is finished, and all that it made lies there as it left it; else it is to be done (again).

        A stage is done again where one of its files is missing or a stage before it was made anew, from its checkpoint
        if that is enough. Raises RunError for a file that is damaged.
        """
        if stage not in self.finished:
            return False
        entry, depends = self.finished[stage], self.stages.get(stage, Depends())
        missing: list[str] = main_process(lambda: check_files(self.folder, entry))
        now = sources_of(depends.stages, self.finished)
        anew = [name for name, made in entry["sources"].items() if now.get(name, made) != made]
        if not missing and not anew:
            return True
        reason = f"{self.folder / missing[0]} is missing" if missing else f"{anew[0]} was made anew"
        say(f"{reason}: stage {stage} is done again")
        del self.finished[stage]

        def forget() -> None:
            write_atomic(self.folder / "stages.json", to_json(self.finished))
            if anew or str(self.metrics_path(stage).relative_to(self.folder)) in missing:
                self.checkpoint(stage).unlink(missing_ok=True)

        main_process(forget)
        return False

    def finish(
        self, stage: str, usage: Usage, result: dict[str, Any] | None = None, files: Collection[Path] = ()
    ) -> None:
        """Record that a stage is done, what it took and found, and the `files` it made, so that a resumed run skips it.

        Afterwards every process finds on the disk what the main one wrote before.
        """

        def record() -> Entry:
            entry = {
                "usage": usage.summary(),
                "result": result or {},
                "files": files_of(self.folder, files),
                "settings": self.settings.get(stage, ""),
                "sources": sources_of(self.stages.get(stage, Depends()).stages, self.finished),
            }
            sealed = seal(json.loads(to_json(entry)))
            write_atomic(self.folder / "stages.json", to_json(self.finished | {stage: sealed}))
            for path in self.checkpoint(stage).parent.glob(f"{stage}.*.safetensors"):
                path.unlink()
            return sealed

        self.finished[stage] = main_process(record)

    def result(self, stage: str) -> dict[str, Any]:
        """What a finished stage found."""
        return dict(self.finished[stage]["result"])

    def tag(self, path: Path) -> str:
        """What a file of tensors says of itself: its place in the folder, and of which settings and stages it is."""
        stage = path.name.split(".")[0]
        stage = stage if stage in self.stages else ""
        sources = sources_of(self.stages.get(stage, Depends()).stages, self.finished)
        return f"{path.relative_to(self.folder)} {self.settings.get(stage, '')} {crc(json.dumps(sources))}"

    def checkpoint(self, stage: str) -> Path:
        """The checkpoint of a stage."""
        return checkpoint_of(self.folder, stage)

    def piece(self, stage: str, name: str) -> Path:
        """The place of a piece of a stage that is not finished."""
        return self.folder / "checkpoints" / f"{stage}.{name}.safetensors"

    def metrics_path(self, stage: str) -> Path:
        """The metrics of a stage: a CSV file, one row a step."""
        return self.folder / "metrics" / f"{stage}.csv"

    def metrics(self, stage: str) -> pd.DataFrame:
        """The metrics of a stage as a table."""
        return pd.read_csv(self.metrics_path(stage))


# --- metrics and the stage loop --------------------------------------------------------------------------------------


class MetricsWriter:
    """Appends a row a step to a CSV file; on opening keeps the rows of the first `start` steps.

    `crc32` is that of the rows so far; on opening it must be `expected`, if that is known.
    """

    def __init__(self, path: Path, start: int, expected: int | None = None) -> None:
        lines = path.read_bytes().splitlines(keepends=True) if start and path.is_file() else []
        kept = [line for line in lines[: start + 1] if line.endswith(b"\n")]
        if start and len(kept) != start + 1:
            raise RunError(
                f"{path} has {max(0, len(kept) - 1)} whole rows, expected at least the {start} of the checkpoint; "
                "restore it, or delete this stage's checkpoint to repeat the stage with --resume"
            )
        self.crc32 = zlib.crc32(b"".join(kept))
        if start and expected is not None and self.crc32 != expected:
            raise RunError(
                f"{path} is damaged: its checksum differs from the one in the checkpoint; "
                "restore it, or delete this stage's checkpoint to repeat the stage with --resume"
            )
        write_atomic(path, b"".join(kept))
        self.path = path
        self._columns = kept[0].decode().strip().split(",") if kept else []
        # Of several processes only the main one writes.
        self._file = open(path if compute().is_main else os.devnull, "ab")  # noqa: SIM115  (closed by close)

    def write(self, row: dict[str, float]) -> None:
        """Append one row and hand it to the operating system; floats keep all their digits."""
        lines = io.StringIO()
        table = csv.writer(lines, lineterminator="\n")
        if not self._columns:
            self._columns = list(row)
            table.writerow(row)
        if list(row) != self._columns:
            raise ValueError(f"row: got columns {list(row)}, expected {self._columns} as in the first row")
        table.writerow(row.values())
        added = lines.getvalue().encode()
        with explain_write(self.path):
            self._file.write(added)
            self._file.flush()
        self.crc32 = zlib.crc32(added, self.crc32)

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
    tag = run.tag(path)
    state, *_ = every_process(lambda: load_checkpoint(path, module, optimizer, tag) if path.exists() else {})
    if state and state.get("step") not in range(1, total + 1):
        raise RunError(f"{path} is damaged: it is of step {state.get('step')}, expected 1 to {total}; {REMEDY}")
    step = int(state.get("step", 0))
    usage = Usage(state.get("seconds", 0.0), int(state.get("tokens", 0)), state.get("peak_memory_mb", 0.0))
    here.restart_scaler(state)
    if controller is not None:
        controller.beta = state.get("beta", controller.beta)
    if step == total and stage in run.finished:
        return usage

    rows = state.get("metrics_crc32")
    metrics = MetricsWriter(run.metrics_path(stage), step, None if rows is None else int(rows))
    if step == total:
        metrics.close()
        return usage
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
                    "metrics_crc32": metrics.crc32,
                }
                beta = {} if controller is None else {"beta": controller.beta}
                save_checkpoint(path, module, optimizer, numbers | beta | here.scaler_state(), tag)
                saved = time.perf_counter()
                cost = saved - now
    except UnusableError as error:
        raise RunError(f"stage {stage} stopped at step {step}: {error}") from error
    finally:
        bar.close()
        metrics.close()
    return usage
