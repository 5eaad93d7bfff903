"""What a run says of itself: what it is computed on, and, after its first steps, how long the rest will take."""

import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from tqdm.auto import tqdm

from week6.machine.compute import Compute, compute
from week6.run import budget
from week6.run.budget import SHAPES, T4, stage_work
from week6.run.models import Preset

STEPS = 10
"""Steps that are measured, after a first one that warms up."""
SHORT = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
UNITS = ((3600, "hours"), (60, "minutes"), (1, "seconds"))
Row = dict[str, float]


def say(line: str) -> None:
    """One line on stderr, where it is no part of a result, above any progress bar; by the main process only."""
    if compute().is_main:
        tqdm.write(f"week6: {line}", file=sys.stderr)


def describe(here: Compute) -> str:
    """Device, free memory and precision, "Tesla T4, 14.6 GB free, fp16"."""
    name = torch.cuda.get_device_name(here.device) if here.device.type == "cuda" else here.device.type.upper()
    processes = f", {here.processes} processes" if here.processes > 1 else ""
    return f"{name}, {here.free_bytes() / 1e9:.1f} GB free, {SHORT[here.dtype]}{processes}"


def opening(preset: str, folder: Path) -> str:
    """What is used and where it is kept, in one line."""
    return f"preset {preset} on {describe(compute())}; the run is kept in {folder}"


def seconds_left(costs: Mapping[str, float], stage: str, done: int, total: int, steps: int, seconds: float) -> float:
    """What is left of a run when step `done` of the `total` steps of `stage` is over.

        v (c_stage (1 − done/total) + Σ c_later),      v = seconds / (c_stage · steps/total)

    c are `costs` of the stages in their order, in any unit; v is how long one such unit takes here, measured on
    `steps` steps of `stage`. Stages before it are over.
    """
    order = list(costs)
    later = sum(costs[name] for name in order[order.index(stage) + 1 :])
    unit = seconds / (costs[stage] * steps / total)
    return unit * (costs[stage] * (1 - done / total) + later)


def duration(seconds: float) -> str:
    """In words, rounded as a forecast deserves."""
    size, name = next(unit for unit in UNITS if seconds >= 1.5 * unit[0] or unit is UNITS[-1])
    return f"about {round(seconds / size)} {name}"


class Watcher(Protocol):
    """What looks on while a stage trains."""

    def watch(self, stage: str, rows: Iterable[Row], start: int, total: int) -> Iterator[Row]:
        """The rows of a training loop, unchanged, that goes on at step `start`."""


@dataclass
class Forecast:
    """Says once, after the first steps of the first stage that trains, how long a run will take."""

    costs: dict[str, float]
    """Of the stages still to do, in their order, in any unit of time."""
    again: str
    """What to do after an interruption."""
    tell: Callable[[str], None] = say
    clock: Callable[[], float] = time.perf_counter

    def watch(self, stage: str, rows: Iterable[Row], start: int, total: int) -> Iterator[Row]:
        """As `Watcher.watch`."""
        began = 0.0
        for done, row in enumerate(rows, start + 1):
            yield row
            # Here the loop's caller asks for the next step: what it does with a row is part of the time.
            if done == start + 1:
                began = self.clock()
            elif done == start + 1 + STEPS and stage in self.costs:
                self._tell(seconds_left(self.costs, stage, done, total, STEPS, self.clock() - began), stage)

    def _tell(self, seconds: float, stage: str) -> None:
        left = list(self.costs)[list(self.costs).index(stage) :]
        self.tell(f"{duration(seconds)} for what is left: {', '.join(left)}; interrupted, {self.again}")
        self.costs = {}


def forecast(preset: Preset, stages: Collection[str], again: str) -> Forecast | None:
    """What watches a run of `preset` that has these stages still to do; None where the budget knows no such preset."""
    shape = SHAPES.get(preset.name)
    if shape is None:
        return None
    work = stage_work(preset, shape)
    return Forecast({stage: budget.seconds(work[stage], shape, T4) for stage in work if stage in stages}, again)


@dataclass
class Stopwatch:
    """Seconds that a step of each stage takes, without its first step, which warms up, and its last.

    `stop`, if given, is called after every step: an error that it raises ends the stage there.
    """

    stop: Callable[[int], None] | None = None
    clock: Callable[[], float] = time.perf_counter
    per_step: dict[str, float] = field(default_factory=dict)
    starts: dict[str, int] = field(default_factory=dict)
    """The step at which each stage began, or went on."""

    def watch(self, stage: str, rows: Iterable[Row], start: int, total: int) -> Iterator[Row]:
        """As `Watcher.watch`."""
        self.starts[stage], began = start, 0.0
        for done, row in enumerate(rows, 1):
            yield row
            if done == 1:
                began = self.clock()
            elif done == total - start - 1:
                self.per_step[stage] = (self.clock() - began) / (done - 1)
            if self.stop is not None:
                self.stop(start + done)
