"""One writer a folder: who works in it has locked it, and a second one is told who that is."""

import contextlib
import json
import os
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from week6.machine.checkpoint import RunError
from week6.machine.compute import main_process

FOREVER = -1.0


@contextmanager
def only_writer(folder: Path, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
    """Within it nobody else works in `folder`, which need not exist; of several processes the main one takes the lock.

    Raises RunError that says who holds it and since when; with `waiting` it tells that, and waits. A process that is
    killed holds nothing any more.
    """
    path = lock_of(folder)
    lock, holder = FileLock(path), path.with_suffix(".json")

    def take() -> None:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            busy = f"{folder} is in use by {_who(holder)}"
            if waiting is None:
                raise RunError(f"{busy}: wait until it has ended, or choose another name") from None
            waiting(f"{busy}; waiting until it has ended")
            lock.acquire(timeout=FOREVER)
        except OSError as error:
            raise RunError(
                f"{path} cannot be locked ({error.strerror}): give TMPDIR a folder that can be written to"
            ) from error
        with contextlib.suppress(OSError):  # it only serves the message
            holder.write_text(json.dumps([os.getpid(), time.strftime("%Y-%m-%d %H:%M:%S")]))

    main_process(take)
    try:
        yield
    finally:
        lock.release()


def _who(holder: Path) -> str:
    try:
        pid, since = json.loads(holder.read_bytes())
    except (OSError, ValueError, TypeError):
        return "another process"
    return f"process {pid} since {since}"


def lock_of(folder: Path) -> Path:
    """The file that who works in a folder has locked, on this machine's own disk: a mounted drive may know no locks, or
    keep that of a session that was dropped."""
    user = os.getuid() if hasattr(os, "getuid") else ""
    number = zlib.crc32(os.fsencode(f"{user}/{os.path.realpath(folder)}"))
    return Path(tempfile.gettempdir()) / f"week6-{number:08x}.lock"
