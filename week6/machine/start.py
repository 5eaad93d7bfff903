"""What must be settled before PyTorch is loaded: this is imported first, and knows the standard library only.

Threads. Between two operations OpenMP's threads wait for work. By default they spin, at first: that costs nothing on an
idle machine. Where other programs want the cores, one thread is kept waiting, the others spin in the time that it
needs, and every operation takes a time slice of the system. Threads that sleep while they wait leave it to the others.

Ctrl-C. While a command loads its libraries there is nothing yet that could say how to go on.
"""

import os
import signal
import sys
from pathlib import Path
from types import FrameType

COMMANDS = ("-m", "week6")
"""What `sys.argv[0]` is while `python -m week6` or `week6` loads this package."""


def settle() -> None:
    """Let waiting threads sleep, unless the environment says otherwise; let Ctrl-C end a command that is starting."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if Path(sys.argv[0]).stem in COMMANDS and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, end_at_once)


def end_at_once(number: int, frame: FrameType | None) -> None:
    """End the process, with one line: nothing has been done that could be lost."""
    os.write(2, b"week6: interrupted\n")
    os._exit(128 + number)


settle()
