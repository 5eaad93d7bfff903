"""What a correct answer is worth: points.toml beside this file, and a teacher's own."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from week6.grading.marking import MODULES, Marked, questions
from week6.machine.checkpoint import RunError

MOST = 1e9
"""Points of one answer."""
MOST_NAMES = 8
"""That a message lists."""
DEFAULT = Path(__file__).parent / "points.toml"


@dataclass(frozen=True)
class Points:
    """`single`: by graders and question where one exercise has points of its own; `late`: students' names."""

    exercise: float
    capstone: float
    share: float
    late: tuple[str, ...] = ()
    single: dict[tuple[str, str], float] = field(default_factory=dict)

    def worth(self, module: str, question: str) -> float:
        """Points of a correct answer in time."""
        usual = self.capstone if question == "capstone" else self.exercise
        return self.single.get((module, question), usual)

    def of(self, marked: Marked, question: str, kind: str) -> float:
        """Points of a verdict."""
        if kind != "correct":
            return 0.0
        late = question == "capstone" and marked.student in self.late
        return round(self.worth(marked.module, question) * (self.share if late else 1.0), 4)

    def total(self, marked: Marked) -> float:
        """Points of a submission."""
        return round(sum(self.of(marked, mark.question, mark.kind) for mark in marked.marks), 4)

    def most(self, module: str) -> float:
        """Points that a notebook has to give."""
        return round(sum(self.worth(module, question) for question in questions(module)), 4)


def points(path: Path | None, students: Sequence[str]) -> Points:
    """The points of a teacher's file, where it says something; else those of the course.

    Raises RunError for a file that is no TOML, unknown keys, points that are no numbers, and late students who have
    handed in nothing.
    """
    usual = tomllib.loads(DEFAULT.read_text(encoding="utf-8"))
    given = usual if path is None else _read(path)
    where = "points" if path is None else str(path)
    _known(given, {"exercise", "capstone", "late", *MODULES}, where)
    late = given.get("late", {})
    _known(late, {"share", "students"}, f"{where}: [late]")
    names = late.get("students", [])
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise RunError(f'{where}: [late] students: got {names!r}, expected names, like ["ada", "group1/ben"]')
    if strange := [name for name in names if name not in students]:
        there = ", ".join(students[:MOST_NAMES]) + ", …" * (len(students) > MOST_NAMES)
        raise RunError(
            f"{where}: [late] students: nothing came from {', '.join(map(repr, strange))}, expected some of "
            f"those who handed in: {there}"
        )
    single = {}
    for module in MODULES:
        own = given.get(module, {})
        _known(own, set(questions(module)), f"{where}: [{module}]")
        single.update({(module, key): _number(own[key], f"{where}: {module}.{key}") for key in own})

    def get(table: dict[str, Any], key: str, default: float) -> float:
        return _number(table.get(key, default), f"{where}: {key}")

    share = _number(late.get("share", usual["late"]["share"]), f"{where}: [late] share", 1.0)
    return Points(
        get(given, "exercise", usual["exercise"]),
        get(given, "capstone", usual["capstone"]),
        share,
        tuple(names),
        single,
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.exists() and not path.is_file():
            raise RunError(f"--points {path}: is no file, expected one like week6/grading/points.toml")
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise RunError(f"--points {path}: {error.strerror}; expected a file like week6/grading/points.toml") from None
    except (ValueError, RecursionError) as error:
        raise RunError(
            f"--points {path}: no TOML ({' '.join(str(error).split())[:100]}), expected a file like "
            "week6/grading/points.toml"
        ) from None


def _known(table: Any, keys: set[str], where: str) -> None:
    if not isinstance(table, dict):
        raise RunError(f"{where}: got {str(table)[:40]!r}, expected a table of {', '.join(sorted(keys))}")
    if unknown := sorted(set(table) - keys):
        raise RunError(f"{where}: unknown {', '.join(unknown)}; expected {', '.join(sorted(keys))}")


def _number(value: Any, where: str, most: float = MOST) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise RunError(f"{where}: got {value!r:.60}, expected a number from 0 to {most:g}")
    return float(value)
