"""What a student's function finds around it, and that it is afterwards as it was before.

Put back after each call: random numbers, working directory, environment variables, warning filters, torch's default
dtype, default device and gradient mode, NumPy's error state, the recursion limit, the handler of Ctrl-C, and functions
that the call has put in the place of torch's, NumPy's, Python's or the graders' own. Threads that it has started are
told to stop. Nothing that it prints, displays or writes to the process's output goes through.

What cannot be undone within one process: `os._exit`, `os.abort` and a crash of C code end the kernel; files that are
written or deleted stay so; a thread that waits inside C goes on waiting. What a student changes in a cell, outside of a
call, is the student's own.
"""

from __future__ import annotations

import builtins
import contextlib
import ctypes
import functools
import io
import math
import operator
import os
import random
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from IPython.core.getipython import get_ipython
from torch import nn

MAX_PRINTED = 2000
"""Characters of printed output that are kept."""
MAX_RECURSION = 10_000
"""The recursion limit that an answer can set: far above it, an endless recursion takes minutes to be unwound."""


class TimeLimitReached(BaseException):
    """Raised inside a call that takes too long. Not an Exception, so that `except Exception` does not swallow it."""


class Printed(io.StringIO):
    """A stream that keeps the first MAX_PRINTED characters and takes any amount."""

    def write(self, text: str) -> int:
        """Keep what there is room for."""
        super().write(text[: max(0, MAX_PRINTED - self.tell())])
        return len(text)


@contextlib.contextmanager
def quiet() -> Iterator[Printed]:
    """Nothing that is printed, displayed or written to file descriptors 1 and 2 goes through; gives what is printed."""
    printed = Printed()
    with _no_descriptors(), _no_display(), contextlib.redirect_stdout(printed), contextlib.redirect_stderr(Printed()):
        yield printed


@contextlib.contextmanager
def put_back() -> Iterator[None]:
    """Whatever happens inside, the surroundings are afterwards as they were before (see above)."""
    process, threads = os.getpid(), set(threading.enumerate())
    folder, variables, path = _folder(), dict(os.environ), list(sys.path)
    interrupt = signal.getsignal(signal.SIGINT)
    settings = [(get, set_, get()) for get, set_ in _SETTINGS]
    places = [(place, dict(vars(place)), exactly) for place, exactly in _places(len(sys.modules))]
    set_recursion_limit = sys.setrecursionlimit
    sys.setrecursionlimit = lambda limit: set_recursion_limit(min(limit, MAX_RECURSION))
    try:
        with warnings.catch_warnings(), np.errstate(), same_random_state():
            yield
    finally:
        if os.getpid() != process:  # a fork of the notebook must not go on as a second one
            os._exit(1)
        sys.setrecursionlimit = set_recursion_limit
        for place, before, exactly in places:
            _restore(place, before, exactly)
        for get, set_, value in settings:
            if get() != value:
                set_(value)
        if folder is not None and _folder() != folder:
            os.chdir(folder)
        if dict(os.environ) != variables:
            os.environ.clear()
            os.environ.update(variables)
        sys.path[:] = path
        if signal.getsignal(signal.SIGINT) is not interrupt and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, interrupt)
        _stop([thread for thread in threading.enumerate() if thread not in threads])


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


@contextlib.contextmanager
def plain_torch() -> Iterator[None]:
    """torch as it starts: float32, on the CPU, with gradients, whatever the notebook has set."""
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    torch.set_default_dtype(torch.float32)
    _set_default_device(torch.device("cpu"))
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        torch.set_default_dtype(dtype)
        _set_default_device(device)


_GONE = object()


def _set_default_device(device: torch.device) -> None:
    """Not by None for the CPU: that breaks get_default_device of torch 2.9, which others call too."""
    if torch.get_default_device() != device:
        torch.set_default_device(device)


_SETTINGS: list[tuple[Any, Any]] = [
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_default_device, _set_default_device),
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.get_num_threads, torch.set_num_threads),
    (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
    (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    (sys.getrecursionlimit, sys.setrecursionlimit),
]
_LIBRARIES = [
    torch,
    F,
    torch.Tensor,
    torch.autograd,
    torch.linalg,
    torch.special,
    nn,
    nn.Module,
    np,
    math,
    random,
    time,
]


@functools.lru_cache(maxsize=1)
def _places(modules: int) -> tuple[tuple[Any, bool], ...]:
    """Modules and classes whose functions an answer might replace; True for those that must stay exactly as they are.

    A library may add to itself while it runs, and count; so only its functions are put back. `modules`: how many are
    loaded, for with a new one the list is made anew.
    """
    places = [(place, False) for place in (*_LIBRARIES, builtins)]
    for name, module in list(sys.modules.items()):
        if name.startswith("week6.checks."):
            classes = [item for item in vars(module).values() if isinstance(item, type) and item.__module__ == name]
            places += [(module, True), *((item, False) for item in classes)]
        elif name.startswith("week6."):
            places.append((module, False))
    return tuple(places)


def _restore(place: Any, before: dict[str, Any], exactly: bool) -> None:
    now = vars(place)
    if len(now) == len(before) and all(map(operator.is_, now.values(), before.values())):
        return
    now = dict(now)
    for name, value in before.items():
        if now.get(name, _GONE) is not value and (exactly or callable(value)):
            setattr(place, name, value)
    if exactly or isinstance(place, type):
        for name in now.keys() - before.keys():
            if not isinstance(now[name], ModuleType):
                delattr(place, name)


def _folder() -> str | None:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None


def _stop(threads: list[threading.Thread]) -> None:
    """Raise SystemExit in threads, which ends those that run Python code, without a word."""
    end = time.monotonic() + 0.2
    for thread in threads:
        raise_in(thread, SystemExit)
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))


def raise_in(thread: threading.Thread, error: type[BaseException]) -> None:
    """Raise an error in another thread, at its next line of Python."""
    identity = ctypes.c_ulong(thread.ident or 0)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(identity, ctypes.py_object(error))


@contextlib.contextmanager
def _no_descriptors() -> Iterator[None]:
    """What is written to file descriptors 1 and 2 is dropped."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    saved = {}
    _flush()
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):  # it may be closed
            saved[descriptor] = os.dup(descriptor)
            os.dup2(nothing, descriptor)
    try:
        yield
    finally:
        _flush()
        for descriptor, copy in saved.items():
            os.dup2(copy, descriptor)
            os.close(copy)
        os.close(nothing)


def _flush() -> None:
    """Write what waits in Python's own streams on the two descriptors."""
    for stream in (sys.__stdout__, sys.__stderr__):
        with contextlib.suppress(Exception):  # closed, or None
            stream.flush()  # type: ignore[union-attr]


class _NoDisplay:
    """In the place of IPython's display publisher: shows nothing."""

    def publish(self, *_: Any, **__: Any) -> None:
        """Show nothing."""

    clear_output = publish


@contextlib.contextmanager
def _no_display() -> Iterator[None]:
    shell = get_ipython()
    if shell is None:  # then display() prints
        yield
        return
    publisher = shell.display_pub
    shell.display_pub = _NoDisplay()  # type: ignore[assignment]
    try:
        yield
    finally:
        shell.display_pub = publisher
