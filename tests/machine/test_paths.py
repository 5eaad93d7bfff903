"""Paths as people give them: a tilde is expanded, and a name that can be none is refused with its flag."""

from pathlib import Path

import pytest

from week6.machine.checkpoint import RunError
from week6.machine.paths import SHOWN, place


def test_a_tilde_is_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert place("~/runs", "--runs-dir") == tmp_path / "runs" and place(Path("~"), "run") == tmp_path


@pytest.mark.parametrize("name", ["no/such", "/dev/null/x", ".", ""])
def test_what_is_not_there_is_for_the_caller_to_see(name):
    assert place(name, "run") == Path(name)


@pytest.mark.parametrize("name", ["a\0b", "a\udcff", "~no-such-user/x", "a" * 5000, "loop", "loop/x", 3, None])
def test_a_path_that_can_be_none(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    with pytest.raises(RunError, match="^run '.*': .+; expected the path of a file or folder$") as error:
        place(name, "run")
    assert len(str(error.value)) < SHOWN + 200
