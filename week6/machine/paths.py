"""Paths as people give them: a tilde is a home folder, and what can name no place on a disk is said at once."""

import os
from pathlib import Path

from week6.machine.checkpoint import RunError

SHOWN = 80
"""Characters of a name in a message."""


def place(given: str | Path, flag: str) -> Path:
    """The path that `given` names, with its tilde expanded; whether something is there is for the caller to see.

    Raises RunError, with `flag` in it, for what is no path, for the home of nobody, a name that is too long, holds a
    NUL or is no UTF-8, and a link that leads to itself.
    """
    try:
        path = Path(given).expanduser()
        if not _is_utf8(path):
            raise ValueError("holds bytes that are no UTF-8")
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return path
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        text = f"{given}".encode(errors="backslashreplace").decode()
        shown = text if len(text) <= SHOWN else f"{text[:SHOWN]}… ({len(text)} characters)"
        raise RunError(f"{flag} {shown!r}: {reason}; expected the path of a file or folder") from None
    return path


def _is_utf8(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True
