"""`week6 grade`: whatever comes, every file has its row, and what is known is not done again."""

import errno
import json
import operator
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import matplotlib.pyplot as plt
import pytest

from tests.grading.submissions import RIGHT, WRONG, answered
from week6 import cli
from week6.grading import command
from week6.grading.marking import Mark, Marked
from week6.machine.checkpoint import RunError


@pytest.fixture
def place(tmp_path):
    for name, content in (("a/01", answered(RIGHT)), ("b/01", answered(WRONG)), ("b/odd", b"no notebook")):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / f"{name}.ipynb").write_bytes(content)
    return tmp_path


def marked(submission):
    kind = "correct" if "reward_a - reward_b" in str(submission.cells) else "not yet"
    return Marked(submission.student, str(submission.path), "nb01", (Mark("q1", "1.1", kind),), seconds=1.0)


@pytest.fixture
def graders(monkeypatch):
    """Grading without processes; gives the names of those that were graded."""
    seen = []

    def side_by_side(submissions, hidden, workers, suspects):
        for student, submission in submissions.items():
            suspects[:] = [student]
            seen.append(student)
            yield student, marked(submission)

    monkeypatch.setattr(command, "_side_by_side", side_by_side)
    return seen


def run(place, **more):
    said = []
    found = command.grade([place / "in"], place / "out", say=said.append, **more)
    return {m.student: (m.refused or m.marks[0].kind) for m in found}, "\n".join(said)


def test_a_bad_file_never_stops_the_rest_and_everything_is_written(place, graders):
    table, said = run(place)
    assert list(table) == ["a/01", "b/01", "b/odd"]
    assert (table["a/01"], table["b/01"]) == ("correct", "not yet") and "no notebook" in table["b/odd"]
    assert "1 of 3 are done already\ngrading 2, " in said.split("a/01")[0]  # before there is anything to see
    files = {path.name for path in (place / "out").iterdir()}
    assert files >= {"grades.csv", "grades.json", "class.csv", "class.html", "class.png", "feedback"}
    assert len(list((place / "out" / "feedback").iterdir())) == 3 and "class.html" in said
    assert plt.get_fignums() == []  # a notebook that grades would show the chart a second time


def test_called_again_it_grades_what_is_new(place, graders, monkeypatch):
    run(place)
    (place / "in" / "b" / "01.ipynb").write_bytes(answered(RIGHT + "    # mended"))
    (place / "in" / "c.ipynb").write_bytes(answered(RIGHT))  # as a/01: a copy has the same marks
    table, said = run(place)
    assert graders == ["a/01", "b/01", "b/01"] and "done already" in said
    assert table["b/01"] == table["in/c"] == "correct"
    last = max((place / "out" / "results").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    last.write_text("{")  # that of b/01
    run(place)
    assert len(graders) == 4
    monkeypatch.setattr(command, "version", lambda: "another")
    run(place)
    assert len(graders) > 5


def test_a_grader_that_dies_takes_one_submission_with_it(place, monkeypatch):
    def side_by_side(submissions, hidden, workers, suspects):
        for student, submission in submissions.items():
            suspects[:] = [student]
            if student == "a/01":
                raise BrokenProcessPool
            yield student, marked(submission)

    monkeypatch.setattr(command, "_side_by_side", side_by_side)
    table, _ = run(place)
    assert "died" in table["a/01"] and table["b/01"] == "not yet"


def test_of_two_at_once_neither_is_blamed_before_it_was_tried_alone(place, monkeypatch):
    tried = []

    def dies_side_by_side(submissions, hidden, workers, suspects):
        tried.append(workers)
        if workers > 1:
            suspects[:] = submissions
            raise BrokenProcessPool
        for student, submission in submissions.items():
            yield student, marked(submission)

    monkeypatch.setattr(command, "_side_by_side", dies_side_by_side)
    table, _ = run(place, workers=2)
    assert (table["a/01"], table["b/01"]) == ("correct", "not yet") and tried == [2, 1]


def test_processes_with_nothing_left_to_do_end_by_themselves(monkeypatch):
    """Who is killed gives no semaphore back, and Python complains of it at the end."""
    ended = []

    class Watched(ProcessPoolExecutor):
        def shutdown(self, **how):
            ended[:] = self._processes.values()
            super().shutdown(**how)

    monkeypatch.setattr(command, "ProcessPoolExecutor", Watched)
    monkeypatch.setattr(command, "PATIENCE", 60)  # of a machine that does other work
    monkeypatch.setattr(command, "_begin", operator.is_)  # two that a fresh process finds without loading anything
    monkeypatch.setattr(command, "_mark", operator.truth)
    assert dict(command._side_by_side({"ada": 1, "ben": 0}, (), 2, [])) == {"ada": True, "ben": False}
    assert [process.exitcode for process in ended] == [0, 0]


def test_what_is_still_graded_when_all_is_ended_is_not_waited_for(monkeypatch, tmp_path):
    """By Ctrl-C, for instance; nor does the folder of the work stay."""
    monkeypatch.setattr(command, "_begin", operator.is_)
    monkeypatch.setattr(command, "_mark", time.sleep)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    made = command._side_by_side({"ada": 0, "ben": 30, "eve": 30}, (), 2, suspects := [])
    assert next(made) == ("ada", None) and list(tmp_path.iterdir())
    assert suspects == ["ada", "ben"]  # who waits has killed nobody
    began = time.perf_counter()
    made.close()
    assert time.perf_counter() - began < 15 and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "full"), "disk is full"),
        (OSError(errno.EIO, "io"), "by hand"),
        (ValueError("odd"), "odd"),
    ],
)
def test_whatever_goes_wrong_with_one_is_said(place, monkeypatch, tmp_path, error, words):
    def fails(*_):
        (tmp_path / "work" / "left").write_text("x")
        (tmp_path / "work" / "folder").mkdir()
        raise error

    (tmp_path / "work").mkdir()
    monkeypatch.setattr(command, "mark", fails)
    monkeypatch.setattr(command, "_GRADER", [None, tmp_path / "work", ()])
    submission = command.read(place / "in" / "a" / "01.ipynb", "a", command.MODULES)
    assert words in command._mark(submission).refused and not list((tmp_path / "work").iterdir())


def test_bad_input_ends_with_a_sentence_before_anything_is_graded(place, graders, capsys):
    (place / "p.toml").write_text("exercises = 3")
    (place / "file").write_text("")
    (place / "taken" / "class.html").mkdir(parents=True)
    here = str(place / "in")
    for words, said in (
        ([str(place / "none")], "no such file"),
        ([here, "--points", str(place / "p.toml")], "unknown exercises"),
        ([here, "--out", str(place / "file")], "--out"),
        ([here, "--out", str(place / "taken")], "its class.html is a folder, where a file is to be written"),
        ([here, "--workers", "0", "--out", str(place / "o")], "--workers"),
        ([], "nothing to grade"),
    ):
        assert cli.main(["grade", *words]) == 2
        error = capsys.readouterr().err
        assert said in error.lower() and error.count("\n") == 1, error
    assert graders == []


def test_a_full_disk_is_a_sentence(place, graders, monkeypatch, capsys):
    def full(path, content):
        raise RunError("the disk is full") if "results" not in str(path) else OSError(errno.ENOSPC, "No space left")

    monkeypatch.setattr(command, "write_atomic", full)
    assert cli.main(["grade", str(place / "in"), "--out", str(place / "out")]) == 2
    assert "No space left" in capsys.readouterr().err and graders == []


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes of its own")
def test_the_whole_command(place, capsys):
    """With real processes: one right, one wrong, one that is no notebook."""
    assert cli.main(["grade", str(place / "in"), "--out", str(place / "out"), "--workers", "1"]) == 0
    rows = json.loads((place / "out" / "grades.json").read_text())["submissions"]
    assert [row["points"] for row in rows] == [1, 0, 0]
    assert rows[1]["marks"][0]["misconception"] and "✓" in capsys.readouterr().out
