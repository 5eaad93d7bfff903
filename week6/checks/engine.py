"""Questions that grade a student's answer and say which idea is wrong.

A question calls the answer on fresh inputs, compares value and gradient with the reference, and gives one of three
verdicts: not attempted, not yet, correct. What an answer does to the notebook around it is put back, as far as that is
possible within one process (`surroundings` says what is not).
With WEEK6_STRICT=1 in the environment, a verdict other than "correct" raises AssertionError.
"""

from __future__ import annotations

import functools
import inspect
import os
import pprint
import zlib
from collections.abc import Callable
from types import CodeType
from typing import Any, cast

import torch

from week6.checks import compare
from week6.checks.compare import difference, is_unanswered
from week6.checks.grading import Exercise, Grading, Misconception, Verdict
from week6.checks.inspection import in_words, not_a_function
from week6.checks.messages import Kind, Message
from week6.checks.prediction import Prediction
from week6.checks.sandbox import Budget
from week6.checks.solution import pasteable
from week6.checks.surroundings import plain_torch, same_random_state

__all__ = ["Misconception", "Prediction", "Question"]

STRICT = "WEEK6_STRICT"


class Question(Exercise):
    """One exercise, with what a notebook does with it: grade an answer, give hints, show the solution."""

    def __call__(self, answer: Any) -> None:
        """Grade the answer and show the verdict."""
        verdict = self.grade(answer)
        verdict.show()
        if os.environ.get(STRICT) == "1" and not verdict:
            raise AssertionError(repr(verdict))

    def hint(self, n: int = 1) -> None:
        """Show the n-th hint, counted from 1."""
        if n not in range(1, len(self.hints) + 1):
            text = f"There are {len(self.hints)} hints: .hint(1) to .hint({len(self.hints)})."
        else:
            text = self.hints[n - 1] + (f" (Next: .hint({n + 1}).)" if n < len(self.hints) else "")
        Message("hint", self.title, text).show()

    def solution(self) -> None:
        """Show what passes when it is pasted into a cell: the very source that the course runs on, or the value."""
        if self.reference is None:
            why = self.hints[-1] if self.hints else ""
            Message("solution", self.title, why, _in_python(self.value)).show()
        else:
            Message("solution", self.title, "One way to write it:", pasteable(self.reference, self.name)).show()

    def or_ours(self, answer: Any) -> Any:
        """The answer if it is correct, else the course's own, so that the cells that follow run.

        An accepted answer whose results are of another type than the reference's (float64, NumPy, a list for a tuple)
        is wrapped: the cells that follow get the reference's types.
        """
        answered = self._last and self._last[0] is answer
        verdict = self._last[1] if answered else self._judge(answer)
        if verdict.kind != "correct":
            Message("note", self.title, "Until yours is correct, the following cells use the course's version.").show()
        elif self.reference is not None:
            return answer if verdict.as_ours else _in_our_types(answer, self.reference)
        return self.value if self.reference is None else self.reference

    def grade(self, answer: Any) -> Message:
        """The verdict on an answer. Raises nothing; leaves the random states as they are."""
        verdict = self._judge(answer)
        return Message(cast(Kind, verdict.kind), self.title, verdict.text)

    def _judge(self, answer: Any) -> Verdict:
        """The verdict, which is kept for `or_ours`."""
        mine = dict(vars(self))
        with same_random_state(), plain_torch():
            try:
                verdict = self._of_value(answer) if self.reference is None else self._of_function(answer)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # an answer so odd that grading it failed
                verdict = Verdict("not yet", f"Your answer could not be graded: {in_words(error)}.")
        vars(self).update(mine)
        self._last[:] = [answer, verdict]
        return verdict

    def _of_value(self, answer: Any) -> Verdict:
        if is_unanswered(answer):
            return Verdict("not attempted", _UNANSWERED)
        problem = difference(answer, self.value, self.rtol, self.atol, quiz=True)
        if problem is None:
            return Verdict("correct")
        for wrong in self.misconceptions:
            if difference(answer, wrong.answer, self.rtol, self.atol, quiz=True) is None:
                return Verdict("not yet", wrong.message)
        return Verdict("not yet", f"{problem.text[:1].upper()}{problem.text[1:]}.")

    def _of_function(self, answer: Any) -> Verdict:
        if answer is ... or answer is None:
            return Verdict("not attempted", _UNANSWERED)
        if problem := not_a_function(answer):
            return Verdict("not yet", problem)
        budget = Budget(self.time_limit)
        verdict = Grading(self, answer, budget, seed=0).verdict(twice=True)
        if verdict.kind == "correct":
            # Other numbers, drawn for this answer: it cannot have been fitted to them.
            again = Grading(self, answer, budget, seed=_seed_of(answer)).verdict(twice=False)
            verdict = verdict if again.kind == "correct" else again
        return verdict


_UNANSWERED = "Replace the ... with your answer, run the cell, then run this check again."


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
        with same_random_state(), torch.no_grad():
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
