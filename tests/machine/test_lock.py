"""One writer a folder: a second one is told who works there, and a killed one holds nothing."""

import contextlib
import os
import re
import signal

import pytest
from filelock import FileLock

from tests.runs import quick_flags, quick_settings
from week6.chat.terminal import _export
from week6.cli import main
from week6.machine import lock
from week6.machine.checkpoint import RunError
from week6.machine.lock import lock_of, only_writer

ME = rf"is in use by process {os.getpid()} since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d: wait until it has ended"


def test_a_second_one_is_told_who_works_there(tmp_path):
    folder = tmp_path / "run"
    with only_writer(folder):
        with pytest.raises(RunError, match=rf"{folder} {ME}"), only_writer(folder):
            raise AssertionError("two at once")
        with only_writer(tmp_path / "other"):
            pass
        with pytest.raises(RunError, match=ME), only_writer(tmp_path / "x" / ".." / "run"):
            raise AssertionError("the same folder by another name")
    assert not folder.exists()
    with only_writer(folder):
        pass


def test_it_ends_with_an_error(tmp_path):
    with contextlib.suppress(ZeroDivisionError), only_writer(tmp_path):
        1 / 0  # noqa: B018
    with only_writer(tmp_path):
        pass


def test_it_is_let_go_at_the_end_and_not_when_it_is_forgotten(tmp_path, monkeypatch):
    """A traceback may hold what had the lock, for as long as a notebook shows it."""
    taken = []
    monkeypatch.setattr(lock, "FileLock", lambda path: taken.append(FileLock(path)) or taken[-1])
    with only_writer(tmp_path):
        assert taken[0].is_locked
    assert not taken[0].is_locked


@contextlib.contextmanager
def elsewhere(folder):
    """A process of its own works in the folder."""
    started, tell = os.pipe()
    pid = os.fork()
    if not pid:
        with only_writer(folder):
            os.write(tell, b"x")
            signal.pause()
    assert os.read(started, 1) == b"x"
    try:
        yield pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def test_a_killed_process_holds_nothing(tmp_path):
    with elsewhere(tmp_path) as pid:
        with pytest.raises(RunError, match=f"in use by process {pid} since"), only_writer(tmp_path):
            pass
        said = []

        def kill(line):
            said.append(line)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

        with only_writer(tmp_path, kill):
            assert re.search(rf"process {pid} since .*; waiting until it has ended", said[0])


def test_who_it_is_may_be_unknown(tmp_path):
    with only_writer(tmp_path):
        lock_of(tmp_path).with_suffix(".json").write_text("{")
        with pytest.raises(RunError, match="in use by another process"), only_writer(tmp_path):
            pass


def test_a_lock_that_cannot_be_made(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file" / "folder"))
    with pytest.raises(RunError, match=r"\.lock cannot be locked .*: give TMPDIR a folder"), only_writer(tmp_path):
        pass


@pytest.mark.parametrize("words", [["run", "--name", "a", *quick_flags()], ["frontier", "--name", "a"]])
def test_commands_take_the_lock_before_they_write(words, tmp_path, capsys):
    folder = tmp_path / ("a" if words[0] == "run" else "frontier-a")
    with only_writer(folder), quick_settings():
        assert main([*words, "--runs-dir", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and re.search(ME, captured.err) and not folder.exists()


def test_a_chat_is_not_written_into_a_folder_that_is_in_use(tmp_path):
    class Talk:
        turns = ()

        def export(self):
            return "{}"

    with only_writer(tmp_path):
        assert re.search(ME, _export(Talk(), str(tmp_path / "talk.json"))) and not list(tmp_path.iterdir())
    assert "written to" in _export(Talk(), str(tmp_path / "talk.json"))
    assert "File name too long; expected the path" in _export(Talk(), str(tmp_path / ("x" * 300)))


def test_each_user_of_a_machine_has_locks_of_their_own(tmp_path, monkeypatch):
    paths = set()
    for user in (1000, 1001):
        monkeypatch.setattr(os, "getuid", lambda user=user: user, raising=False)
        paths.add(lock_of(tmp_path))
    assert len(paths) == 2


def test_where_users_have_no_number(tmp_path, monkeypatch):
    """On Windows."""
    monkeypatch.delattr(os, "getuid", raising=False)
    with only_writer(tmp_path), pytest.raises(RunError, match=ME), only_writer(tmp_path):
        pass


def test_a_folder_whose_name_is_no_utf_8(tmp_path):
    """The system allows it; the lock has a name of its own."""
    folder = tmp_path / "a\udcff"
    with only_writer(folder):
        assert lock_of(folder).name.isascii()
