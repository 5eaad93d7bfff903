"""Wrong answers that owe nothing to the graders' catalogues: all are rejected, and most verdicts name the mistake."""

import importlib
import re

import pytest

from tests.checks.wrong_answers import WRONG_ANSWERS
from week6.checks.engine import Question
from week6.checks.messages import Message

Graded = list[tuple[str, Question, Message]]


@pytest.fixture(scope="module")
def graded() -> Graded:
    """Name, question and verdict of every wrong answer."""
    found = []
    for name, answers in WRONG_ANSWERS.items():
        module, question = name.split(".")
        asked = getattr(importlib.import_module(f"week6.checks.{module}"), question)
        found += [(f"{name}: {getattr(answer, '__name__', answer)}", asked, asked.grade(answer)) for answer in answers]
    return found


def names_the_mistake(question: Question, verdict: Message) -> bool:
    """Whether the verdict begins with a catalogued message, or has words in front of the first failing case."""
    catalogued = any(verdict.text.startswith(wrong.message) for wrong in question.misconceptions)
    return catalogued or re.match(r"\S.* (Case \d+ of \d+, with|With all inputs) ", verdict.text) is not None


def test_every_wrong_answer_is_rejected(graded: Graded) -> None:
    assert [name for name, _, verdict in graded if verdict.kind != "not yet"] == []


def test_most_mistakes_are_named(graded: Graded) -> None:
    unnamed = [
        f"{name} → {verdict.text}" for name, question, verdict in graded if not names_the_mistake(question, verdict)
    ]
    assert len(unnamed) <= 0.15 * len(graded), "\n".join(unnamed)
