"""Processes that take turns: each does a step when it is told to, and says how long that took and what came of it."""

import importlib
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from tools.bench.cases import Case

ROOT = Path(__file__).resolve().parents[2]
SAID = ("seconds", "cpu", "numbers", "tokens")
"""Of every turn."""


# --- in the process of a side ----------------------------------------------------------------------------------------


class Turns:
    """What a side says to the race, a line of JSON each, and what it hears."""

    def __init__(self, heard: IO[str], said: IO[str]) -> None:
        self.heard, self.said = heard, said
        self.clocks: tuple[float, float] = (0.0, 0.0)

    def ready(self, weights: Sequence[float], **facts: Any) -> None:
        """Say that all is prepared: a number for each model's weights, and what else is known of the work."""
        self._say(weights=list(weights), **facts)

    def begin(self) -> None:
        """Wait for the turn, then start the clocks."""
        if not self.heard.readline():
            sys.exit()
        self.clocks = time.perf_counter(), time.process_time()

    def end(self) -> None:
        """Stop them."""
        wall, cpu = time.perf_counter(), time.process_time()
        self.clocks = wall - self.clocks[0], cpu - self.clocks[1]

    def tell(self, *numbers: float, tokens: float = 0) -> None:
        """The turn is over: what must be equal on all sides, and how many tokens it worked on."""
        self._say(seconds=self.clocks[0], cpu=self.clocks[1], numbers=numbers, tokens=tokens)

    def _say(self, **words: Any) -> None:
        print(json.dumps(words), file=self.said, flush=True)


def weight_sum(model: Any) -> float:
    """A number for a model's weights: Σ |w| in double precision."""
    return sum(float(weight.detach().double().abs().sum()) for weight in model.parameters())


def work(function: str, case: dict[str, Any], threads: int) -> None:
    """The life of a side: its work, turn by turn, then its peak memory in MB. What libraries print is not seen."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    with os.fdopen(os.dup(0)) as heard, os.fdopen(os.dup(1), "w") as said, open(os.devnull, "w") as quiet:
        os.dup2(quiet.fileno(), 1)
        turns = Turns(heard, said)
        try:
            if threads:
                import torch

                torch.set_num_threads(threads)
            module, _, name = function.partition(":")
            getattr(importlib.import_module(module), name)(Case.read(case), turns)
        except Exception as error:
            turns._say(error=f"{type(error).__name__}: {error}")
            raise
        turns._say(peak_mb=peak_memory())


def peak_memory() -> float:
    """The most memory that this process has held so far, in MB."""
    status = Path("/proc/self/status")
    if status.exists():  # on Linux the other count begins with the memory of the process that started this one
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) * 1024 / 1e6  # type: ignore[index]
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


# --- the race --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Side:
    """Who takes part: a function `module:name` of (case, turns), and the Python that it runs in.

    Its numbers are those of the first side with the same case, within `tolerance`. A side may say fewer of them.
    """

    name: str
    function: str
    case: Case
    python: str = sys.executable
    tolerance: float = 1e-4
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Race:
    """Sides that do the same work, and say the same numbers, but for a share of `strays` of them."""

    work: str
    sides: Sequence[Side]
    strays: float = 0.0
    warmup: int = 2
    loops: int = 0
    """With some, every second round is run beside so many processes that do nothing but count."""


def run(race: Race, rounds: int, threads: int) -> dict[str, Any]:
    """Warm up, compare, and time so many rounds: what is recorded of it. ValueError where numbers are unequal."""
    found: dict[str, dict[str, Any]] = {}
    busy, loads = [], []
    with ExitStack() as stack:
        children = {side.name: stack.enter_context(_child(side, race.warmup + rounds, threads)) for side in race.sides}
        for name, child in children.items():
            found[name] = _hear(child, name) | {key: [] for key in SAID}
        check_numbers(race, "weights", {name: row["weights"] for name, row in found.items()}, exact=True)
        for turn in range(race.warmup + rounds):
            beside = race.loops if turn >= race.warmup and (turn - race.warmup) % 2 else 0
            order = list(children)[:: -1 if turn % 2 else 1]
            with _loops(beside):
                for name in order:
                    said = _hear(children[name], name, "go")
                    for key in SAID:
                        found[name][key].append(said[key])
            check_numbers(race, f"turn {turn}", {name: row["numbers"][-1] for name, row in found.items()})
            if turn >= race.warmup:
                busy.append(beside)
                loads.append(os.getloadavg()[0])
        for name, child in children.items():
            found[name]["peak_mb"] = round(_hear(child, name)["peak_mb"])
    for row in found.values():
        row |= {key: [round(x, 5) for x in row[key][race.warmup :]] for key in ("seconds", "cpu", "tokens")}
        del row["numbers"], row["weights"]
    loops = {"loops": busy} if race.loops else {}
    return {"work": race.work, "load": round(statistics.median(loads), 1), **loops, "sides": found}


def check_numbers(race: Race, what: str, said: dict[str, Sequence[float]], exact: bool = False) -> None:
    """Raise ValueError unless all sides with the same work said the same numbers. Some say none."""
    first: dict[str, tuple[str, Sequence[float]]] = {}
    for side in race.sides:
        got = said.get(side.name, ())
        if not got:
            continue
        name, want = first.setdefault(json.dumps(side.case.write()), (side.name, got))
        tolerance = 0.0 if exact else side.tolerance
        wrong = [(a, b) for a, b in zip(got, want, strict=False) if not abs(a - b) <= tolerance]
        if len(wrong) > race.strays * len(want):
            raise ValueError(
                f"{race.work}, {what}: got {wrong[0][0]:.6f} from {side.name} and {wrong[0][1]:.6f} from {name}, "
                f"expected a difference of at most {tolerance:g}"
            )


@contextmanager
def _child(side: Side, turns: int, threads: int) -> Iterator[subprocess.Popen[str]]:
    base = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "KMP_", "GOMP_", "PYTHON"))}
    fixed = threads and not side.environment
    told = {"OMP_NUM_THREADS": str(threads)} if fixed else {}
    words = json.dumps([side.function, side.case.lasting(turns).write(), threads if fixed else 0])
    with open(os.devnull, "w") as quiet:
        process = subprocess.Popen(
            [side.python, "-m", "tools.bench.turns", words],
            cwd=ROOT,
            env=base | {"PYTHONPATH": str(ROOT)} | told | side.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if os.environ.get("BENCH_SHOW") else quiet,
            text=True,
        )
    try:
        yield process
    finally:
        process.stdin.close()  # type: ignore[union-attr]  # one that waits for its turn ends then
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()  # type: ignore[union-attr]


def _hear(child: Any, name: str, *told: str) -> dict[str, Any]:
    """What a side says next; RuntimeError if it has failed, or was killed (for want of memory)."""
    try:
        for word in told:
            child.stdin.write(word + "\n")
            child.stdin.flush()
    except OSError:
        pass
    line = child.stdout.readline()
    said: dict[str, Any] = json.loads(line) if line else {"error": "its process has ended; is there enough memory?"}
    if "error" in said:
        raise RuntimeError(f"{name}: {said['error']}")
    return said


@contextmanager
def _loops(n: int) -> Iterator[None]:
    """So many processes that do nothing but count."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n)]
    time.sleep(0.5 * (n > 0))  # until they count
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def ratios(result: dict[str, Any], theirs: str, ours: str, key: str = "seconds") -> list[float]:
    """Theirs over ours, round by round."""
    sides = result["sides"]
    return [a / b for a, b in zip(sides[theirs][key], sides[ours][key], strict=True)]


if __name__ == "__main__":
    work(*json.loads(sys.argv[1]))
