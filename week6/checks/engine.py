"""Questions that grade a student's answer and say which idea is wrong.

A question calls the answer on fresh inputs, compares value and gradient with the reference, and gives one of three
verdicts: not attempted, not yet, correct. What an answer does to the notebook around it is put back, as far as that is
possible within one process (`surroundings` says what is not).
"""

from __future__ import annotations

import functools
import inspect
import pprint
import zlib
from collections.abc import Callable
from types import CodeType
from typing import Any

import torch

from week6.checks import compare
from week6.checks.asked import UNANSWERED, Verdict
from week6.checks.compare import difference, is_unanswered
from week6.checks.grading import Exercise, Grading, Misconception
from week6.checks.inspection import not_a_function
from week6.checks.messages import Message
from week6.checks.prediction import Prediction
from week6.checks.sandbox import Budget
from week6.checks.surroundings import same_random_state

__all__ = ["Misconception", "Prediction", "Question"]


class Question(Exercise):
    """One exercise in a notebook: a function to write, or a value to give."""

    def solution(self) -> None:
        """Show what passes when it is pasted into a cell: the very source that the course runs on, or the value."""
        if self.reference is None:
            why = self.hints[-1] if self.hints else ""
            Message("solution", self.title, why, _in_python(self.value)).show()
        else:
            super().solution()

    def _usable(self, answer: Any, verdict: Verdict) -> Any:
        """An accepted answer whose results are of another type than the reference's (float64, NumPy, a list for a
        tuple) is wrapped: the cells that follow get the reference's types. For a value they get our own."""
        if self.reference is None:
            return self.value
        return answer if verdict.as_ours else _in_our_types(answer, self.reference)

    def _ours(self) -> Any:
        return self.value if self.reference is None else self.reference

    def _verdict(self, answer: Any) -> Verdict:
        return self._of_value(answer) if self.reference is None else self._of_function(answer)

    def _of_value(self, answer: Any) -> Verdict:
        if is_unanswered(answer):
            return Verdict("not attempted", UNANSWERED)
        problem = difference(answer, self.value, self.rtol, self.atol, quiz=True)
        if problem is None:
            return Verdict("correct")
        for wrong in self.misconceptions:
            if difference(answer, wrong.answer, self.rtol, self.atol, quiz=True) is None:
                return Verdict("not yet", wrong.message)
        return Verdict("not yet", f"{problem.text[:1].upper()}{problem.text[1:]}.")

    def _of_function(self, answer: Any) -> Verdict:
        if answer is ... or answer is None:
            return Verdict("not attempted", UNANSWERED)
        if problem := not_a_function(answer):
            return Verdict("not yet", problem)
        budget = Budget(self.time_limit)
        verdict = Grading(self, answer, budget, seed=0).verdict(twice=True)
        if verdict.kind == "correct":
            # Other numbers, drawn for this answer: it cannot have been fitted to them.
            again = Grading(self, answer, budget, seed=_seed_of(answer)).verdict(twice=False)
            verdict = verdict if again.kind == "correct" else again
        return verdict


def _in_python(value: Any) -> str:
    """A value as it is written in Python, a set in order."""
    if type(value) in (set, frozenset):
        return "{" + ", ".join(sorted(map(repr, value))) + "}"
    return pprint.pformat(value, width=100)


def _in_our_types(answer: Callable[..., Any], reference: Callable[..., Any]) -> Callable[..., Any]:
    """The answer, with its results in the types that the reference has on the same inputs."""
    signature = inspect.signature(answer)

    @functools.wraps(answer)
    def in_our_types(*args: Any, **kwargs: Any) -> Any:
        result = answer(*args, **kwargs)
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        with same_random_state(), torch.enable_grad():  # the reference may train
            ours = reference(*bound.args)
        return compare.cast(result, ours)

    return in_our_types


def _seed_of(answer: Any) -> int:
    """A seed that follows from the code of an answer, so that the same answer always meets the same cases."""
    code = getattr(answer, "__code__", None)
    return 1 + zlib.crc32(_spelt(code).encode()) if isinstance(code, CodeType) else 1


def _spelt(code: CodeType) -> str:
    """What a piece of code does, as a text that is the same in every process."""
    parts = [_spelt(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts if not isinstance(c, frozenset)]
    return f"{code.co_code.hex()} {code.co_names} {parts}"
