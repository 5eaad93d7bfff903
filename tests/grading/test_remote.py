"""The process from which students' code is forked, and what is said of it."""

import subprocess
import sys

import pytest

from week6.grading import remote


def test_the_nursery_is_started_apart_and_says_nothing(monkeypatch):
    """What a student's code prints is told over the pipe; Ctrl-C is for the command, which ends it itself."""
    started = []
    monkeypatch.setattr(remote.subprocess, "Popen", lambda words, **how: started.append((words, how)) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        remote.Nursery()
    ((program, flag, code), how) = started[0]
    assert (program, flag) == (sys.executable, "-c") and code.endswith(f"main({how['pass_fds'][0]})")
    assert [how[name] for name in ("stdin", "stdout", "stderr")] == [subprocess.DEVNULL] * 3
    assert how["start_new_session"] is True and how["env"]["OMP_NUM_THREADS"] == "1"
