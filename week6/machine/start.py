"""What must be settled before PyTorch is loaded: this is imported first, and knows the standard library only.

Threads. Between two operations OpenMP's threads wait for work. By default they spin, at first: that costs nothing on an
idle machine. Where other programs want the cores, one thread is kept waiting, the others spin in the time that it
needs, and every operation takes a time slice of the system. Threads that sleep while they wait leave it to the others.

Ctrl-C. While a command loads its libraries there is nothing yet that could say how to go on.

Garbage. The libraries make a million objects that stay. Python would look through them for garbage while it makes them,
and once more at the end of each process.

Libraries. Where one cannot be loaded, a command says so in a line and where to look; `week6 doctor` looks itself.
"""

import gc
import os
import runpy
import signal
import sys
from pathlib import Path
from types import FrameType, TracebackType

COMMANDS = ("-m", "week6")
"""What `sys.argv[0]` is while `python -m week6` or `week6` loads this package."""
DOCTOR = Path(__file__).parents[1] / "classroom" / "doctor.py"
"""Needs no library, and can be run as a file."""
THRESHOLDS = gc.get_threshold()
WHILE_LOADING = 100_000
"""New objects after which Python looks for garbage; its own number is below a thousand, or a few thousand."""


def settle() -> None:
    """Let waiting threads sleep, unless the environment says otherwise; look for garbage seldom, until all is `loaded`;
    let Ctrl-C, or a library that cannot be loaded, end a command that is starting."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    gc.set_threshold(WHILE_LOADING, *THRESHOLDS[1:])
    if Path(sys.argv[0]).stem not in COMMANDS:
        return
    sys.excepthook = end_unloaded
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, end_at_once)


def loaded() -> None:
    """From now on look for garbage as often as before, for tensors may lie in it, but not in what has been loaded."""
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)


def end_at_once(number: int, frame: FrameType | None) -> None:
    """End the process, with one line: nothing has been done that could be lost."""
    os.write(2, b"week6: interrupted\n")
    os._exit(128 + number)


def end_unloaded(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """End the process whose libraries could not be loaded with one sentence, or with what the doctor says."""
    if sys.argv[1:2] == ["doctor"]:
        well = runpy.run_path(str(DOCTOR))["doctor"]()
        sys.stdout.flush()
        os._exit(0 if well else 1)
    what = f"{kind.__name__}: {' '.join(str(error).split())[:200]}"
    named = [name for name, value in os.environ.items() if value and repr(value) in str(error)]
    remedy = f"{sys.executable} {DOCTOR} says which package it is and what to do"
    if named:  # which a library reads as it is loaded
        remedy = f"the environment variable {named[0]} has that value; set another one, or unset it"
    print(f"week6: error: the libraries cannot be loaded ({what}): {remedy}", file=sys.stderr, flush=True)
    os._exit(2)


settle()
