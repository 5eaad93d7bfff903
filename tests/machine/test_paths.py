"""Paths as people give them: a tilde is expanded, and a name that can be none is refused with its flag."""

import errno
from pathlib import Path

import pytest

from week6.machine import paths
from week6.machine.checkpoint import RunError
from week6.machine.paths import SHOWN, check_writable, place


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


@pytest.mark.parametrize("size", [SHOWN, SHOWN + 1])
def test_a_long_name_is_cut_and_its_length_is_said(size):
    name = "a\0".ljust(size, "x")
    shown = name if size == SHOWN else f"{name[:SHOWN]}… ({size} characters)"
    with pytest.raises(RunError) as error:
        place(name, "run")
    assert f"run {shown!r}: " in str(error.value) and SHOWN == 80  # a line of a terminal


def test_a_place_for_results_is_tried_where_it_is_or_will_be(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path, tmp_path / "new" / "er", Path("new"), Path(".")):
        check_writable(folder, "--out")
    assert list(tmp_path.iterdir()) == []
    Path("file").write_text("x")
    Path("link").symlink_to("nowhere")
    for name in ("file", "file/x", "link/x"):
        with pytest.raises(RunError, match="--out .* cannot be written to .*, expected a folder with room for results"):
            check_writable(Path(name), "--out")


def test_a_full_disk_is_found_before(tmp_path, monkeypatch):
    class Full:
        def __enter__(self):
            return self

        def __exit__(self, *why):
            pass

        def write(self, content):
            assert len(content) == 2**20  # less than any run, more than what is left of a full disk by chance
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(paths.tempfile, "TemporaryFile", lambda dir: Full())
    with pytest.raises(RunError, match="cannot be written to .No space left on device., expected a folder with room"):
        check_writable(tmp_path, "--out")
