"""The table of a class counts what the marks say, and no cell of it is a formula."""

import csv
import io
import json

from week6.checks import nb01
from week6.grading import table
from week6.grading.marking import Mark, Marked, questions
from week6.grading.points import points

WRONG = nb01.q1.misconceptions[0]


def someone(name, *kinds, **more):
    marks = [
        Mark(question, asked.title, kind, "text", WRONG.name if (kind, question) == ("not yet", "q1") else "")
        for (question, asked), kind in zip(questions("nb01").items(), kinds, strict=False)
    ]
    return Marked(name, f"{name}.ipynb", "nb01", tuple(marks), walls=("processes", "network", "files"), **more)


CLASS = [
    someone("ada", *["correct"] * 7),
    someone("ben", "not yet", "correct", "not attempted", *["correct"] * 4, flags=("cell 1 is odd",)),
    someone("=HYPERLINK(1)", "not yet", "not yet", *["not attempted"] * 5),
    Marked("dan", "dan.ipynb", "", refused="dan.ipynb: no notebook"),
]
WORTH = points(None, [m.student for m in CLASS])


def test_shares_and_misconceptions_of_each_exercise():
    first, second, third, *_ = table.by_exercise(CLASS)
    assert (first.correct, first.not_yet, first.not_attempted, first.students) == (1, 2, 0, 3)
    assert first.misconceptions == ((WRONG.name, WRONG.message, 2),) and first.share == 1 / 3
    assert (third.correct, third.not_attempted, third.share) == (1, 2, 1 / 3)
    assert (first.repeat, second.repeat, third.repeat) == (True, False, False)
    assert len(table.by_exercise(CLASS)) == len(questions("nb01"))
    assert len(table.by_exercise([someone("x", "correct")])) == 1
    assert table.by_exercise([someone("x", "not attempted")])[0].repeat


def test_three_of_five_need_no_repetition():
    """Fewer than 60 % do."""
    first = [["correct"] * n + ["not yet"] * (5 - n) for n in (3, 2)]
    assert [table.by_exercise([someone("x", kind) for kind in kinds])[0].repeat for kinds in first] == [False, True]


def test_of_a_long_name_the_end_is_shown():
    """Folders stand before it: 28 characters, the mark of what is left out among them."""
    names = ["a" * 28, "group/" + "b" * 27, "c" * 28 + "d"]
    rows = [someone(name, "correct", flags=("odd",)) for name in names]
    refused = Marked("e" * 30, "e", "", refused="no notebook")
    lines = table.as_text([*rows, refused], points(None, names)).splitlines()
    shown = [names[0], "…" + "b" * 27, "…" + "c" * 26 + "d"]
    assert [line[:30] for line in lines[1:4]] == [f"{name}  " for name in shown]
    assert lines[0].startswith(f"nb01{' ' * 24}  q1  q2")
    assert f"  …{'e' * 27}  no notebook" in lines and all(f"  {name}  odd" in lines for name in shown)


def test_the_terminals_table():
    text = table.as_text(CLASS, WORTH)
    lines = text.splitlines()
    assert lines[0].split() == ["nb01", "q1", "q2", "q3", "q4", "q5", "q6", "cap", "points", "of", "9"]
    assert lines[1].split() == ["ada", *"✓✓✓✓✓✓✓", "9"] and lines[2].split() == ["ben", *"✗✓○✓✓✓✓", "7", "!"]
    assert "dan.ipynb: no notebook" in text and "cell 1 is odd" in text and "not on this system" not in text
    bare = [Marked("x", "x", "nb01", CLASS[0].marks[:1], walls=("network",))]
    assert "a process tree of its own, a read-only file system" in table.as_text(bare, WORTH)
    own = [Marked("x", "x", "nb02", (Mark("capstone", "t", "correct", believed=True),), walls=CLASS[0].walls)]
    assert "✓*" in table.as_text(own, WORTH) and "check it by hand" in table.as_text(own, WORTH)


def test_csv_and_json_say_the_same():
    assert "\r" not in table.as_csv(CLASS, WORTH) + table.class_csv(table.by_exercise(CLASS))
    rows = list(csv.DictReader(io.StringIO(table.as_csv(CLASS, WORTH))))
    assert len(rows) == 3 * 7 + 1 and rows[-1]["verdict"] == "not graded"
    assert {row["student"] for row in rows} == {"ada", "ben", "'=HYPERLINK(1)", "dan"}
    assert sum(float(row["points"] or 0) for row in rows) == 9 + 7
    content = json.loads(table.as_json(CLASS, WORTH))
    assert [row["points"] for row in content["submissions"]] == [9, 7, 0, 0]
    assert content["exercises"][0]["share"] == 0.3333
    (first, *_) = csv.DictReader(io.StringIO(table.class_csv(table.by_exercise(CLASS))))
    assert (first["correct"], first["share"], first["repeat"]) == ("1", "0.333", "yes")
    assert first["misconceptions"] == f"{WRONG.name} (2)"
