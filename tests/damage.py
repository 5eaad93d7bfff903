"""Spoil a file of a finished run, and then do what `week6 run` says, to the letter, until it ends."""

import contextlib
import io
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.runs import artefacts, numbers, quick_flags, quick_settings
from week6.cli import main


def delete(path: Path, rng: random.Random) -> None:
    """No file."""
    path.unlink()


def truncate(path: Path, rng: random.Random) -> None:
    """As a disk leaves a file that was not written to its end."""
    path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])


def flip(path: Path, rng: random.Random) -> None:
    """One bit."""
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


NEEDLESS = {"checkpoints/reward_model.safetensors"}
"""What nobody reads once the stage is finished, for its product is another file: it is not made again."""

DAMAGES: tuple[Callable[[Path, random.Random], None], ...] = (delete, truncate, flip)


def files_of(folder: Path) -> list[str]:
    """All files of a run, by their path in it."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def follow(folder: Path) -> list[str]:
    """Resume until it ends well, and delete what a message says is to be deleted. Returns the messages."""
    words = ["run", "--name", folder.name, "--runs-dir", str(folder.parent), "--resume", *quick_flags()]
    said: list[str] = []
    for _ in range(4):
        heard = io.StringIO()
        with quick_settings(), contextlib.redirect_stderr(heard), contextlib.redirect_stdout(io.StringIO()):
            code = main(words)
        if code == 0:
            return said
        (line,) = (x for x in heard.getvalue().splitlines() if x.startswith("week6: error:"))
        said.append(line)
        assert code == 2, line
        assert "delete it" in line, f"says nothing that could be done: {line}"
        Path(re.match(rf"week6: error: ({folder}/\S+)", line)[1]).unlink()
    raise AssertionError(f"no end: {said}")


def check(whole: Path, copy: Path, name: str, damage: Callable[[Path, random.Random], None], seed: int) -> list[str]:
    """The messages after damage to one file of a copy of the run `whole`, which ends as that one did."""
    shutil.copytree(whole, copy)
    damage(copy / name, random.Random(seed))
    said = follow(copy)
    assert numbers(copy) == numbers(whole), f"{damage.__name__} {name}: other numbers"
    assert artefacts(copy) == artefacts(whole), f"{damage.__name__} {name}: other artefacts"
    assert {*files_of(copy)} | NEEDLESS == {*files_of(whole)}, f"{damage.__name__} {name}: other files"
    shutil.rmtree(copy)
    return said
