"""What a notebook does with everything that it asks for: grade an answer, give hints, show a solution, go on without.

With WEEK6_STRICT=1 in the environment, a verdict other than "correct" raises AssertionError.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

from week6.checks.inspection import in_words
from week6.checks.messages import Kind, Message
from week6.checks.solution import pasteable
from week6.checks.surroundings import plain_torch, same_random_state

STRICT = "WEEK6_STRICT"
STAIRS = ("a nudge", "the idea", "a sketch in words", "code with a gap")
UNANSWERED = "Replace the ... with your answer, run the cell, then run this check again."
UNWRITTEN = "Write the body in place of `raise NotImplementedError`, run the cell, then run this check again."


@dataclass(frozen=True)
class Verdict:
    """What is said about an answer. `as_ours`: its results have the very types of the reference's."""

    kind: str
    text: str = ""
    as_ours: bool = True


@dataclass(frozen=True)
class Asked:
    """Something that a student is asked for.

    title      shown in every verdict
    name       what the notebook calls the function, where that is not the name of the reference
    reference  the right function; its source is the solution
    hints      the steps of STAIRS where code is asked for; the last is code in which `...` stands for what matters
    """

    title: str
    name: str = ""
    reference: Callable[..., Any] | None = None
    hints: tuple[str, ...] = ()
    _last: list[Any] = field(default_factory=list, init=False, repr=False, compare=False)
    _shown: list[str] = field(default_factory=list, init=False, repr=False, compare=False)

    def _verdict(self, answer: Any) -> Verdict:
        """The verdict on an answer, by the kind of thing that is asked for."""
        raise NotImplementedError

    def __call__(self, answer: Any) -> None:
        """Grade the answer and show the verdict."""
        verdict = self.grade(answer)
        verdict.show()
        if os.environ.get(STRICT) == "1" and not verdict:
            raise AssertionError(repr(verdict))

    def hint(self, n: int | None = None) -> None:
        """Show the n-th hint, counted from 1; without n the next one, each time that it is called."""
        count = len(self.hints)
        n = min(len(self._shown) + 1, count) if n is None else n
        if n not in range(1, count + 1):
            Message("hint", self.title, f"There are {count} hints: .hint(1) to .hint({count}).").show()
            return
        self._shown[:] = self.hints[:n]
        stair = f", {STAIRS[n - 1]}" if count == len(STAIRS) else ""
        left = (
            f"({count - n} left: .hint() shows the next.)" if n < count else "(The last one; .solution() shows ours.)"
        )
        if count == n == len(STAIRS):
            Message("hint", self.title, f"{n} of {count}{stair}. {left}", self.hints[-1]).show()
        else:
            Message("hint", self.title, f"{n} of {count}{stair}. {self.hints[n - 1]} {left}").show()

    def solution(self) -> None:
        """Show what passes when it is pasted into a cell: the very source that the course runs on."""
        assert self.reference is not None
        Message("solution", self.title, "One way to write it:", pasteable(self.reference, self.name)).show()

    def or_ours(self, answer: Any) -> Any:
        """The answer if it is correct, else the course's own, so that the cells that follow run."""
        answered = self._last and self._last[0] is answer
        verdict = self._last[1] if answered else self._judge(answer)
        if verdict.kind == "correct":
            return self._usable(answer, verdict)
        Message("note", self.title, "Until yours is correct, the following cells use the course's version.").show()
        return self._ours()

    def _usable(self, answer: Any, verdict: Verdict) -> Any:
        """What the cells that follow get for a correct answer."""
        return answer

    def _ours(self) -> Any:
        """What they get otherwise."""
        return self.reference

    def grade(self, answer: Any) -> Message:
        """The verdict on an answer. Raises nothing; leaves the random states as they are."""
        verdict = self._judge(answer)
        return Message(cast(Kind, verdict.kind), self.title, verdict.text)

    def _judge(self, answer: Any) -> Verdict:
        """The verdict, which is kept for `or_ours`."""
        mine = dict(vars(self))
        with same_random_state(), plain_torch():
            try:
                verdict = self._verdict(answer)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # an answer so odd that grading it failed
                verdict = Verdict("not yet", f"Your answer could not be graded: {in_words(error)}.")
        vars(self).update(mine)
        self._last[:] = [answer, verdict]
        return verdict
