"""What a correct answer is worth: the course's file, and a teacher's own over it."""

import os

import pytest

from week6.grading.marking import Mark, Marked, questions
from week6.grading.points import points
from week6.machine.checkpoint import RunError


def marked(student, *kinds):
    names = list(questions("nb03"))
    return Marked(student, "x", "nb03", tuple(Mark(name, name, kind) for name, kind in zip(names, kinds, strict=False)))


ALL = ["correct"] * 7


def own(tmp_path, text, students=("ada",)):
    (tmp_path / "p.toml").write_text(text)
    return points(tmp_path / "p.toml", students)


def test_the_courses_points():
    usual = points(None, ["ada"])
    assert usual.total(marked("ada", *ALL)) == usual.most("nb03") == 6 * 1 + 3
    assert usual.total(marked("ada", "correct", "not yet", "not attempted")) == 1


def test_a_teachers_own_points_and_late_capstones(tmp_path):
    text = 'exercise = 2\n[late]\nshare = 0.25\nstudents = ["ada"]\n[nb03]\nq1 = 0.5\ncapstone = 8\n'
    given = own(tmp_path, text, ["ada", "ben"])
    assert given.most("nb03") == 0.5 + 5 * 2 + 8 and given.worth("nb04", "capstone") == 3
    assert given.total(marked("ben", *ALL)) == 18.5 and given.total(marked("ada", *ALL)) == 10.5 + 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("exercises = 1", "unknown exercises"),
        ("[nb03]\nq9 = 1", "unknown q9"),
        ("[nb33]\nq1 = 1", "unknown nb33"),
        ("[late]\nfactor = 1", "unknown factor"),
        ("nb03 = 3", "expected a table"),
        ("exercise = -1", "a number from 0"),
        ("exercise = true", "a number from 0"),
        ("exercise = nan", "a number from 0"),
        ('capstone = "3"', "a number from 0"),
        ("[late]\nshare = 1.5", r"\[late\] share: got 1.5, expected a number from 0 to 1$"),
        ("[late]\nshare = -0.1", r"\[late\] share: got -0.1, expected a number from 0 to 1$"),
        ('[late]\nstudents = "ada"', "expected names"),
        ('[late]\nstudents = [" ada"]', "nothing came from ' ada', expected some of those who handed in: ada"),
        ("exercise = ", "no TOML"),
        ("exercise = 1_000_000_001", r"got 1000000001, expected a number from 0 to 1e\+09$"),
        ("exercise = " + "9" * 400, "got 9999.*, expected a number from 0 to 1e"),
        ("exercise = " + "[" * 3000 + "]" * 3000, "no TOML .maximum recursion"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path, text, words):
    with pytest.raises(RunError, match=words):
        own(tmp_path, text)


@pytest.mark.parametrize(("n", "more"), [(8, ""), (9, ", …")])
def test_of_many_students_eight_are_named(tmp_path, n, more):
    there = [f"s{i}" for i in range(n)]
    with pytest.raises(RunError, match=f"those who handed in: {', '.join(there[:8])}{more}$"):
        own(tmp_path, '[late]\nstudents = ["eve"]', there)


def test_the_largest_number_of_points_is_one(tmp_path):
    assert own(tmp_path, "exercise = 1_000_000_000").exercise == 1e9


def test_a_mark_before_the_text_is_no_matter(tmp_path):
    """Some editors put it there."""
    (tmp_path / "p.toml").write_bytes(b"\xef\xbb\xbfexercise = 2")
    assert points(tmp_path / "p.toml", []).exercise == 2


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "p.toml")
    with pytest.raises(RunError, match="is no file, expected one like"):
        points(tmp_path / "p.toml", [])


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(RunError, match="--points"):
        points(tmp_path / "none.toml", [])
