"""One submission marked: each question in a jail of its own, the verdict here."""

from __future__ import annotations

import functools
import hashlib
import importlib
import pkgutil
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import week6.checks
from week6.checks.asked import UNANSWERED, Asked
from week6.checks.capstone import Capstone
from week6.checks.grading import Exercise
from week6.checks.solution import pasteable
from week6.checks.surroundings import TimeLimitReached
from week6.grading.answer import Answer
from week6.grading.jail import Jail
from week6.grading.notebook import Submission
from week6.grading.remote import LOADING, Inmate, Nursery, ProcessEnded

KINDS = ("correct", "not yet", "not attempted")
MODULES = tuple(sorted(m.name for m in pkgutil.iter_modules(week6.checks.__path__) if re.fullmatch(r"nb\d\d", m.name)))
WALL_BROKEN = {
    "Read-only file system": "it tried to write outside of its folder",
    "No space left on device": "it filled its disk",
    "File too large": "it wrote a file above 16 MiB",
    "Network is unreachable": "it tried to reach the network",
}
"""Errors that tell what a function tried."""


@dataclass(frozen=True)
class Mark:
    """The verdict on one question.

    misconception  the catalogued idea that is wrong, by name, where it is recognised
    flags          what the teacher should look at
    believed       the verdict was made in the student's own process, which may have forged it
    """

    question: str
    title: str
    kind: str
    text: str = ""
    misconception: str = ""
    flags: tuple[str, ...] = ()
    believed: bool = False


@dataclass(frozen=True)
class Marked:
    """A whole submission; `flags` and `notes` are of the file, `walls` those that held."""

    student: str
    file: str
    module: str
    marks: tuple[Mark, ...] = ()
    flags: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    walls: tuple[str, ...] = ()
    seconds: float = 0.0
    refused: str = field(default="")

    @property
    def all_flags(self) -> list[str]:
        """Of the file, then of its questions."""
        return [*self.flags, *(f"{m.question}: {flag}" for m in self.marks for flag in m.flags)]


@functools.cache
def questions(module: str) -> dict[str, Exercise | Capstone]:
    """What a notebook asks for, by name, in its order: q1, q2, …, capstone."""
    found = vars(importlib.import_module(f"week6.checks.{module}"))
    asked = {name: item for name, item in found.items() if isinstance(item, Exercise | Capstone)}
    named = [name for name in asked if re.fullmatch(r"q\d+|capstone", name)]
    return {name: asked[name] for name in sorted(named, key=lambda name: (name == "capstone", name))}


def answer_name(asked: Asked) -> str:
    """What the notebook calls the answer."""
    return asked.name or (asked.reference.__name__ if asked.reference is not None else "")


@functools.cache
def _solution(module: str, question: str) -> str:
    """The course's own answer, as a text that runs by itself."""
    asked = questions(module)[question]
    assert asked.reference is not None
    return pasteable(asked.reference, answer_name(asked))


@functools.cache
def version() -> str:
    """A key of the code that verdicts depend on."""
    digest = hashlib.sha256()
    for path in sorted(Path(week6.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def mark(nursery: Nursery, submission: Submission, place: Jail) -> Marked:
    """Grade every question of a submission."""
    begun = time.monotonic()
    looked = _looked_at(nursery, submission, place)
    broken, flags, walls = looked["broken"], looked["odd"], looked["walls"]
    solutions: dict[str, tuple[str, str]] = {}
    marks = []
    for question, asked in questions(submission.module).items():
        marks.append(_marked(nursery, submission, place, question, asked, solutions, broken))
        if marks[-1].kind != "correct" and isinstance(asked, Exercise) and asked.reference is not None:
            solutions[question] = answer_name(asked), _solution(submission.module, question)
    wrong = {m.title for m in marks if m.kind != "correct"}
    flags += [f"its stored output calls “{title}” correct" for title in submission.ticks if title in wrong]
    seconds = round(time.monotonic() - begun, 2)
    file, notes = str(submission.path), submission.notes + tuple(f"cell {i + 1} is no Python: {t}" for i, t in broken)
    return Marked(submission.student, file, submission.module, tuple(marks), tuple(flags), notes, tuple(walls), seconds)


def _looked_at(nursery: Nursery, submission: Submission, place: Jail) -> dict[str, Any]:
    """What can be told of the code without running it, and which walls there are."""
    inmate = nursery.fork(place)
    try:
        found = inmate.ask("look", submission.cells, submission.check)
        broken = [(int(i), str(text)[:200]) for i, text in found["broken"]]
        return {"broken": broken, "odd": [str(text)[:200] for text in found["odd"]], "walls": inmate.walls}
    except (ProcessEnded, TimeLimitReached):
        return {"broken": [], "odd": ["its code cannot be read"], "walls": inmate.walls}
    finally:
        inmate.close()


def _marked(
    nursery: Nursery,
    submission: Submission,
    place: Jail,
    question: str,
    asked: Exercise | Capstone,
    solutions: dict[str, tuple[str, str]],
    broken: list[tuple[int, str]],
) -> Mark:
    inmate = nursery.fork(place)
    name, believed = answer_name(asked), False
    try:
        about = inmate.ask("load", submission.cells, submission.check, question, name, solutions, _closed(asked))
        if about["kind"] == "missing":
            kind, text = _missing(submission, name, str(about.get("why", ""))[:300], broken)
        elif about["kind"] == "ours":
            inmate.odd.append("hands in the course's own function")
            kind, text = "not yet", "This is the course's own function; write one of your own."
        else:
            inmate.allow(asked.time_limit)
            believed = isinstance(asked, Capstone) and about["kind"] == "class" and isinstance(asked.reference, type)
            if believed:
                kind, text = _by_its_own_account(inmate, submission.module, question)
            else:
                message = asked.grade(_answer(inmate, asked, about))
                kind, text = message.kind, message.text
    except TimeLimitReached:
        kind, text = "not yet", f"What your answer needs did not finish within {LOADING:g} seconds of computing."
    except ProcessEnded as error:
        kind, text = "not yet", f"Your answer could not be run: {error}."
    except (KeyError, TypeError, ValueError, AttributeError):  # a reply of another form
        inmate.trouble.append("its process sent what no function gives")
        kind, text = "not yet", "Your answer could not be run: its process sent what no function gives."
    finally:
        inmate.close()
    flags = inmate.trouble + inmate.odd + [flag for words, flag in WALL_BROKEN.items() if words in text]
    if kind == "correct" and inmate.odd:
        kind, text = "not yet", f"No point for this answer: it {inmate.odd[0]}."
    return Mark(question, asked.title, kind, text, _misconception(asked, text), tuple(dict.fromkeys(flags)), believed)


def _closed(asked: Asked) -> tuple[str, str]:
    """Module and name of the course's own function that a question asks for, where the package hands it out."""
    own = asked.reference
    return (own.__module__, own.__name__) if own is not None and isinstance(asked, Exercise) else ("", "")


def _answer(inmate: Inmate, asked: Asked, about: dict[str, Any]) -> Any:
    """What the graders get to see of an answer."""

    def generator(*_: Any) -> Any:
        yield

    async def coroutine(*_: Any) -> None:
        """Never called."""

    if about["kind"] == "value":
        return about.get("value")
    if about["kind"] == "class":
        return type("Answer", (), {})
    stand_in = {"coroutine": coroutine, "generator": generator}
    whole = isinstance(asked, Capstone)  # some yield
    return (
        Answer(inmate, about)
        if whole and about["kind"] != "coroutine" or about["kind"] == "function"
        else stand_in[about["kind"]]
    )


def _by_its_own_account(inmate: Inmate, module: str, question: str) -> tuple[str, str]:
    """What the graders say within the student's process: classes that become modules cannot be asked over a pipe."""
    inmate.allow(90.0)
    kind, text = inmate.ask("own", module, question)["verdict"]
    return (kind if kind in KINDS else "not yet"), str(text)[:2000]


def _missing(submission: Submission, name: str, why: str, broken: list[tuple[int, str]]) -> tuple[str, str]:
    """The verdict where there is no answer: its cell may be no Python, or what it needs may raise."""
    for i, text in broken:
        if name and re.search(
            rf"\b(?:def|class)\s+{re.escape(name)}\b|^{re.escape(name)}\s*=", submission.cells[i], re.M
        ):
            return "not yet", f"Cell {i + 1} is no Python: {text}."
    if why:
        return "not yet", f"Your answer could not be run: {why}."
    return "not attempted", f"No `{name}` is in this notebook." if name else UNANSWERED


def _misconception(asked: Asked, text: str) -> str:
    """The catalogued idea that a verdict's text names, or ""."""
    known = getattr(asked, "misconceptions", ()) or getattr(asked, "symptoms", ())
    return next((wrong.name for wrong in known if text.startswith(wrong.message)), "")
