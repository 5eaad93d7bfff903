"""Calling a student's function so that nothing it does reaches the notebook: errors, loops, prints, random numbers."""

from __future__ import annotations

import contextlib
import copy
import linecache
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from week6.checks.surroundings import TimeLimitReached, put_back, quiet, raise_in

TraceFunction = Callable[[FrameType, str, Any], Any]

PATIENCE = 3.0
"""Seconds by the clock that a second of the time limit may last, where the processor is busy with something else."""


@dataclass
class Outcome:
    """What a call did: it returned `value`, or it ended with `error`. `printed` is what it wrote to stdout."""

    value: Any = None
    error: BaseException | None = None
    printed: str = ""


@dataclass
class Budget:
    """The seconds that all calls of one answer may take together.

    Counted is the processor's time, so that a busy machine takes nothing away; of waiting, a `PATIENCE`-th.
    """

    left: float

    def call(self, function: Callable[..., Any], arguments: Sequence[Any], seed: int = 0) -> Outcome:
        """Call the function for as long as is left; where nothing is left, the time limit is reached at once."""
        if self.left <= 0:
            return Outcome(error=TimeLimitReached())
        start, computed = time.monotonic(), time.process_time()
        outcome = call(function, arguments, self.left, seed)
        self.left -= max(time.process_time() - computed, (time.monotonic() - start) / PATIENCE)
        return outcome


def call(function: Callable[..., Any], arguments: Sequence[Any], time_limit: float, seed: int = 0) -> Outcome:
    """Call `function(*arguments)` for at most `time_limit` seconds of computing and say what happened.

    Every error becomes part of the outcome, SystemExit too; only KeyboardInterrupt passes, for it is the user's own.
    Random numbers start from `seed`, so that two seeds tell a random function from a deterministic one. What else the
    call does to its surroundings is put back (`surroundings`). A loop inside one C function (`sum(itertools.count())`)
    cannot be interrupted by any means within the same process, nor a loop whose author has switched SIGALRM off.
    """
    outcome = Outcome()
    with quiet() as printed, put_back():
        _seed_everything(seed)
        try:
            with torch.enable_grad(), _limit(time_limit) as run:
                outcome.value = run(function, arguments)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            outcome.error = error
        outcome.printed = printed.getvalue()
    return outcome


def call_ours(function: Callable[..., Any], arguments: Sequence[Any]) -> Outcome:
    """Call a function of the course itself, which needs no guard; a catalogued wrong one may well raise."""
    _seed_everything(0)
    try:
        return Outcome(function(*arguments))
    except Exception as error:
        return Outcome(error=error)


def fresh(argument: Any, requires_grad: bool = False) -> Any:
    """A deep copy, so that no call sees what an earlier one did. Tensors become leaves, with gradient if asked."""
    if isinstance(argument, Tensor):
        return argument.detach().clone().requires_grad_(requires_grad and argument.is_floating_point())
    if isinstance(argument, tuple | list) and type(argument) in (tuple, list):
        return type(argument)(fresh(item) for item in argument)
    if isinstance(argument, torch.Generator):
        return argument.clone_state()
    return copy.deepcopy(argument)


def leaves(argument: Any) -> list[Tensor]:
    """The tensors of an argument through which a gradient can flow: itself, or a module's parameters."""
    if isinstance(argument, nn.Module):
        return [parameter for parameter in argument.parameters() if parameter.requires_grad]
    return [argument] if isinstance(argument, Tensor) and argument.requires_grad else []


def own_line(error: BaseException, function: Callable[..., Any]) -> str:
    """The last line of the student's own code that the error passed through, or ""."""
    where = [(frame.f_code.co_filename, line) for frame, line in _own_frames(error, function)]
    if not where:
        return ""
    line = linecache.getline(*where[-1]).strip()
    return f"line {where[-1][1]} of your cell" + (f": `{line}`" if line else "")


HUGE = 1e3
"""What no logit, reward or log-probability of the capstones comes near."""


def ran_away(error: BaseException, function: Callable[..., Any]) -> str:
    """The tensor with the largest numbers that the student's own code held at the error, if they are huge, or ""."""
    worst, said = HUGE, ""
    for frame, _ in _own_frames(error, function):
        for name, value in frame.f_locals.items():
            if isinstance(value, Tensor) and value.is_floating_point() and value.numel() > 1:
                size = float(value.detach().abs().max().nan_to_num(nan=torch.inf, posinf=torch.inf))
                if size > worst:
                    worst = size
                    said = f"`{name}` held " + (f"numbers up to {size:.2g}" if size < torch.inf else "nan or infinity")
    return said


def _own_frames(error: BaseException, function: Callable[..., Any]) -> list[tuple[FrameType, int]]:
    """The frames of the student's own code that the error passed through, each with the line it was at."""
    filename = getattr(getattr(function, "__code__", None), "co_filename", None)
    found, step = [], error.__traceback__
    while step is not None:
        where = step.tb_frame.f_code.co_filename
        if "ipykernel" in where or where.startswith("<ipython") or where == filename:
            found.append((step.tb_frame, step.tb_lineno))
        step = step.tb_next
    return found


def _seed_everything(seed: int) -> None:
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


@contextlib.contextmanager
def _limit(seconds: float) -> Iterator[Callable[..., Any]]:
    """Gives a function run(function, arguments) that raises TimeLimitReached after `seconds`."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not (in_main_thread and hasattr(signal, "setitimer")):
        yield lambda function, arguments: _run_in_thread(function, arguments, PATIENCE * seconds)
        return

    alarm = _Alarm(seconds)
    old_handler, old_trace = signal.signal(signal.SIGALRM, alarm), sys.gettrace()
    # Again every 50 ms: a bare `except:` in the student's loop may swallow the first.
    old_timer = signal.setitimer(signal.ITIMER_REAL, seconds, 0.05)
    try:
        yield alarm.run
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        if sys.gettrace() is not old_trace:
            sys.settrace(old_trace)
        signal.signal(signal.SIGALRM, old_handler if old_handler is not None else signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, *old_timer)


class _Alarm:
    """The handler of the alarms: raises TimeLimitReached in the code that `run` calls, if that still runs."""

    def __init__(self, seconds: float) -> None:
        self.rang = False
        self.last_computed, self.last = time.process_time() + seconds, time.monotonic() + PATIENCE * seconds

    def run(self, function: Callable[..., Any], arguments: Sequence[Any]) -> Any:
        value = function(*arguments)
        if self.rang:
            raise TimeLimitReached
        return value

    def __call__(self, _: int, frame: FrameType | None) -> None:
        if time.process_time() < self.last_computed and time.monotonic() < self.last:
            return
        students: list[FrameType] = []
        while frame is not None and frame.f_code is not _Alarm.run.__code__:
            students.append(frame)
            frame = frame.f_back
        if frame is None:  # on a busy machine an alarm may come when the code has just ended
            return
        if self.rang:  # and a bare `except:` has swallowed it: raise at every next line, until one lets it out
            sys.settrace(lambda *_: None)
            for student in students:
                student.f_trace = _raise_at_next_line
        self.rang = True
        raise TimeLimitReached


def _raise_at_next_line(frame: FrameType, event: str, argument: object) -> TraceFunction:
    if event == "line":
        raise TimeLimitReached
    return _raise_at_next_line


def _run_in_thread(function: Callable[..., Any], arguments: Sequence[Any], seconds: float) -> Any:
    """The time limit where no alarm can be had: outside the main thread, and on Windows."""
    outcome = Outcome()

    def work() -> None:
        try:
            outcome.value = function(*arguments)
        except BaseException as error:
            outcome.error = error

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    for _ in range(20):
        if not thread.is_alive():
            break
        raise_in(thread, TimeLimitReached)
        thread.join(0.05)
    if thread.is_alive():
        raise TimeLimitReached
    if outcome.error is not None:
        raise outcome.error
    return outcome.value
