"""Calling a student's function so that nothing it does reaches the notebook: errors, loops, prints, random numbers."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import io
import random
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

TraceFunction = Callable[[FrameType, str, Any], Any]

MAX_PRINTED = 2000
"""Characters of printed output that are kept."""


class TimeLimitReached(BaseException):
    """Raised inside a call that takes too long. Not an Exception, so that `except Exception` does not swallow it."""


@dataclass
class Outcome:
    """What a call did: it returned `value`, or it ended with `error`. `printed` is what it wrote to stdout."""

    value: Any = None
    error: BaseException | None = None
    printed: str = ""


class _Printed(io.StringIO):
    """A stream that keeps the first MAX_PRINTED characters and takes any amount."""

    def write(self, text: str) -> int:
        super().write(text[: max(0, MAX_PRINTED - self.tell())])
        return len(text)


def call(function: Callable[..., Any], arguments: Sequence[Any], time_limit: float, seed: int = 0) -> Outcome:
    """Call `function(*arguments)` for at most `time_limit` seconds and say what happened.

    Every error becomes part of the outcome, SystemExit too; only KeyboardInterrupt passes, for it is the user's own.
    Random numbers start from `seed`, so that two seeds tell a random function from a deterministic one. A loop inside
    one C function (`sum(itertools.count())`) cannot be interrupted by any means within the same process.
    """
    outcome, printed = Outcome(), _Printed()
    dtype = torch.get_default_dtype()
    _seed_everything(seed)
    try:
        with contextlib.redirect_stdout(printed), torch.enable_grad(), _limit(time_limit) as run:
            outcome.value = run(function, arguments)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        outcome.error = error
    finally:
        torch.set_default_dtype(dtype)
    outcome.printed = printed.getvalue()
    return outcome


@contextlib.contextmanager
def same_random_state() -> Iterator[None]:
    """Whatever happens inside, the random states of torch, NumPy and Python are afterwards as they were before."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)


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
    filename = getattr(getattr(function, "__code__", None), "co_filename", None)
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        in_a_cell = "ipykernel" in frame.filename or frame.filename.startswith("<ipython")
        if in_a_cell or frame.filename == filename:
            line = f": `{frame.line}`" if frame.line else ""
            return f"line {frame.lineno} of your cell{line}"
    return ""


def _seed_everything(seed: int) -> None:
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


@contextlib.contextmanager
def _limit(seconds: float) -> Iterator[Callable[..., Any]]:
    """Gives a function run(function, arguments) that raises TimeLimitReached after `seconds`."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not (in_main_thread and hasattr(signal, "setitimer")):
        yield lambda function, arguments: _run_in_thread(function, arguments, seconds)
        return

    alarm = _Alarm()
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

    def __init__(self) -> None:
        self.rang = False

    def run(self, function: Callable[..., Any], arguments: Sequence[Any]) -> Any:
        value = function(*arguments)
        if self.rang:
            raise TimeLimitReached
        return value

    def __call__(self, _: int, frame: FrameType | None) -> None:
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
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(thread.ident or 0), ctypes.py_object(TimeLimitReached)
        )
        thread.join(0.05)
    if thread.is_alive():
        raise TimeLimitReached
    if outcome.error is not None:
        raise outcome.error
    return outcome.value
