"""Paths as people give them: a tilde is a home folder, and what can name no place on a disk is said at once."""

import os
import tempfile
from pathlib import Path

from week6.machine.checkpoint import RunError

ROOM = 2**20
"""Bytes, for results."""
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


def check_writable(folder: Path, flag: str) -> None:
    """Raise RunError, with `flag` in it, where no file can be written to `folder`, or made in the nearest one above it
    that is there: before hours of work, whose results would have no place."""
    there = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(bytes(ROOM))
    except OSError as error:
        raise RunError(
            f"{flag} {folder}: {there} cannot be written to ({error.strerror}), expected a folder with room for "
            "results; free some, or choose another place"
        ) from None


def _is_utf8(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True
