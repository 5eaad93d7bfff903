"""What the marks come to: the table of a class, by student and by exercise, for the terminal and as CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from week6.grading.jail import WALLS
from week6.grading.marking import Marked, questions
from week6.grading.points import Points

SIGNS = {"correct": "✓", "not yet": "✗", "not attempted": "○"}
REPEAT = 0.6
"""An exercise is to be repeated where less than this share of those who tried it have it right."""
NAME = 28
"""Characters of a student's name in the terminal."""


@dataclass(frozen=True)
class Exercise:
    """How a class did with one exercise. `misconceptions`: name, message and number, the commonest first."""

    module: str
    question: str
    title: str
    correct: int
    not_yet: int
    not_attempted: int
    misconceptions: tuple[tuple[str, str, int], ...]

    @property
    def students(self) -> int:
        """How many handed in this notebook."""
        return self.correct + self.not_yet + self.not_attempted

    @property
    def share(self) -> float:
        """Share of those who handed in that have it right."""
        return self.correct / self.students

    @property
    def repeat(self) -> bool:
        """Whether it is for the next lecture: too few of those who tried it have it right, or hardly anybody tried."""
        tried = self.correct + self.not_yet
        return tried == 0 or self.correct < REPEAT * tried


def by_exercise(marked: Sequence[Marked]) -> list[Exercise]:
    """The class, exercise by exercise, in the order of the course."""
    found = []
    for module in sorted({m.module for m in marked if m.marks}):
        for question, asked in questions(module).items():
            marks = [mark for m in marked if m.module == module for mark in m.marks if mark.question == question]
            if not marks:
                continue
            kinds = Counter(mark.kind for mark in marks)
            ideas = Counter(mark.misconception for mark in marks if mark.misconception)
            known = getattr(asked, "misconceptions", ()) or getattr(asked, "symptoms", ())
            messages = {idea.name: idea.message for idea in known}
            common = tuple((name, messages.get(name, ""), n) for name, n in ideas.most_common())
            found.append(
                Exercise(
                    module, question, asked.title, kinds["correct"], kinds["not yet"], kinds["not attempted"], common
                )
            )
    return found


def as_text(marked: Sequence[Marked], points: Points) -> str:
    """A row a submission, a column an exercise; above it what was missing of the jail, below it what is flagged."""
    lines = walls(marked)
    for module in sorted({m.module for m in marked if m.marks}):
        rows = [m for m in marked if m.module == module and m.marks]
        names = list(questions(module))
        width = min(NAME, max(len(m.student) for m in rows))
        heads = ["cap" if name == "capstone" else name for name in names]
        lines.append(
            f"\n{module}{' ' * max(0, width - len(module))}  {'  '.join(heads)}  points of {points.most(module):g}"
        )
        for m in rows:
            signs = {mark.question: SIGNS[mark.kind] + ("*" if mark.believed else "") for mark in m.marks}
            cells = "  ".join(signs.get(name, "?").ljust(len(head)) for name, head in zip(names, heads, strict=True))
            lines.append(f"{_cut(m.student, width)}  {cells}  {points.total(m):g}{'  !' if m.all_flags else ''}")
    refused = [m for m in marked if m.refused]
    lines += ["", "not graded:", *(f"  {_cut(m.student, NAME)}  {m.refused}" for m in refused)] if refused else []
    flagged = [(m, flag) for m in marked for flag in m.all_flags]
    lines += (
        ["", "! for you to look at:", *(f"  {_cut(m.student, NAME)}  {flag}" for m, flag in flagged)] if flagged else []
    )
    if any(mark.believed for m in marked for mark in m.marks):
        lines += ["", "* by the student's own process, which may have forged it: check it by hand"]
    return "\n".join(lines).strip("\n")


def walls(marked: Sequence[Marked]) -> list[str]:
    """What the system did not give."""
    graded = [m for m in marked if m.marks]
    missing = [text for name, text in WALLS.items() if any(name not in m.walls for m in graded)]
    return [f"not on this system: {', '.join(missing)} (docs/grading.md)"] if missing else []


def as_json(marked: Sequence[Marked], points: Points) -> str:
    """Everything."""
    rows = [asdict(m) | {"points": points.total(m), "of": points.most(m.module) if m.marks else 0} for m in marked]
    exercises = [asdict(e) | {"share": round(e.share, 4), "repeat": e.repeat} for e in by_exercise(marked)]
    return json.dumps({"submissions": rows, "exercises": exercises}, indent=1, ensure_ascii=True) + "\n"


def as_csv(marked: Sequence[Marked], points: Points) -> str:
    """A row a verdict."""
    rows = [
        {
            "student": m.student, "notebook": m.module, "exercise": mark.question, "title": mark.title,
            "verdict": mark.kind, "points": points.of(m, mark.question, mark.kind),
            "of": points.worth(m.module, mark.question), "misconception": mark.misconception,
            "check by hand": "yes" if mark.believed else "", "flags": "; ".join(mark.flags), "text": mark.text,
        }
        for m in marked for mark in m.marks
    ]  # fmt: skip
    rows += [{"student": m.student, "verdict": "not graded", "text": m.refused} for m in marked if m.refused]
    names = "student notebook exercise title verdict points of misconception".split() + [
        "check by hand",
        "flags",
        "text",
    ]
    return _csv(names, rows)


def class_csv(exercises: Sequence[Exercise]) -> str:
    """A row an exercise."""
    rows = [
        {
            "notebook": e.module, "exercise": e.question, "title": e.title, "students": e.students,
            "correct": e.correct, "not yet": e.not_yet, "not attempted": e.not_attempted, "share": f"{e.share:.3f}",
            "repeat": "yes" if e.repeat else "",
            "misconceptions": "; ".join(f"{name} ({n})" for name, _, n in e.misconceptions),
        }
        for e in exercises
    ]  # fmt: skip
    names = ["notebook", "exercise", "title", "students", "correct", "not yet", "not attempted", "share", "repeat"]
    return _csv([*names, "misconceptions"], rows)


def _csv(names: Sequence[str], rows: Sequence[dict[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return out.getvalue()


def _cell(value: Any) -> Any:
    """A value that no spreadsheet takes for a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def _cut(text: str, width: int) -> str:
    return (text if len(text) <= width else f"…{text[1 - width :]}").ljust(width)
