"""Questions that grade a student's answer and say which idea is wrong.

A question calls the answer on fresh inputs, compares value and gradient with the reference, and gives one of three
verdicts: not attempted, not yet, correct. Nothing that an answer does ends the notebook or shifts its random numbers.
With WEEK6_STRICT=1 in the environment, a verdict other than "correct" raises AssertionError.
"""

from __future__ import annotations

import inspect
import os
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from week6.checks import patterns
from week6.checks.compare import Difference, describe, difference, is_unanswered
from week6.checks.inspection import (
    Case,
    changed_argument,
    gradients,
    has_nan_or_inf,
    in_words,
    is_stub,
    no_result,
    not_a_function,
    wrong_arguments,
)
from week6.checks.messages import Message
from week6.checks.prediction import Prediction
from week6.checks.sandbox import Outcome, TimeLimitReached, call, fresh, leaves, same_random_state

__all__ = ["Misconception", "Prediction", "Question"]

STRICT = "WEEK6_STRICT"
_NOTHING: Any = object()


@dataclass(frozen=True)
class Misconception:
    """A typical wrong answer (a function, or a value) and what to tell its author."""

    name: str
    answer: Any
    message: str


@dataclass(frozen=True)
class Trial:
    """One call on one case: the outcome and, by (position of) argument, the gradients of a right result."""

    outcome: Outcome
    gradients: tuple[tuple[int, Tensor | None], ...] = ()


@dataclass(frozen=True)
class Question:
    """One exercise: either a function to write (`reference` and `cases`) or a value to give (`value`).

    title           shown in every verdict
    reference       the right function; its source is the solution
    cases           fresh inputs from a generator: a list of argument tuples
    value           the right value, where no function is asked for
    hints           from a nudge to nearly the solution
    misconceptions  typical wrong answers, each with a message of its own
    grad_args       positions of the arguments through which the reference's gradient must flow
    rtol, atol      results agree where |got − want| ≤ atol + rtol·|want|
    time_limit      seconds that one call may take
    """

    title: str
    reference: Callable[..., Any] | None = None
    cases: Callable[[torch.Generator], Sequence[Case]] | None = None
    value: Any = _NOTHING
    hints: tuple[str, ...] = ()
    misconceptions: tuple[Misconception, ...] = ()
    grad_args: tuple[int, ...] = ()
    rtol: float = 1e-4
    atol: float = 1e-6
    time_limit: float = 10.0

    def __post_init__(self) -> None:
        if (self.reference is None) == (self.value is _NOTHING) or (self.reference is None) != (self.cases is None):
            raise ValueError(f"{self.title}: give either a reference with cases, or a value")

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
        """Show the reference: the very source that the notebooks run on."""
        if self.reference is None:
            Message("solution", self.title, describe(self.value)).show()
        else:
            code = textwrap.dedent(inspect.getsource(self.reference))
            Message("solution", self.title, "One way to write it:", code).show()

    def or_ours(self, answer: Any) -> Any:
        """The answer if it is correct, else the course's own, so that the cells that follow run."""
        if self.grade(answer):
            return answer
        Message("note", self.title, "Until yours is correct, the following cells use the course's version.").show()
        return self.value if self.reference is None else self.reference

    def grade(self, answer: Any) -> Message:
        """The verdict on an answer. Raises nothing; leaves the random states as they are."""
        with same_random_state():
            try:
                kind, text = self._grade_value(answer) if self.reference is None else self._grade_function(answer)
            except Exception as error:  # an answer so odd that grading it failed
                kind, text = "not yet", f"Your answer could not be graded: {in_words(error)}."
        return Message(kind, self.title, text)  # type: ignore[arg-type]

    def _grade_value(self, answer: Any) -> tuple[str, str]:
        if is_unanswered(answer):
            return "not attempted", "Replace the ... with your answer, run the cell, then run this check again."
        problem = difference(answer, self.value, self.rtol, self.atol, quiz=True)
        if problem is None:
            return "correct", ""
        for wrong in self.misconceptions:
            if difference(answer, wrong.answer, self.rtol, self.atol, quiz=True) is None:
                return "not yet", wrong.message
        return "not yet", f"{problem.text[:1].upper()}{problem.text[1:]}."

    def _grade_function(self, answer: Any) -> tuple[str, str]:
        assert self.reference is not None and self.cases is not None
        if answer is ... or answer is None:
            return "not attempted", "Replace the ... with your answer, run the cell, then run this check again."
        if problem := not_a_function(answer):
            return "not yet", problem
        cases = list(self.cases(torch.Generator().manual_seed(0)))
        if problem := wrong_arguments(answer, self.reference, cases):
            return "not yet", problem

        wanted = [self._try(self.reference, case) for case in cases]
        for trial in wanted:
            if trial.outcome.error is not None:
                raise trial.outcome.error
        trials: list[Trial] = []
        for case, want in zip(cases, wanted, strict=True):
            trials.append(self._try(answer, case, like=want))
            if is_stub(trials[-1].outcome.error):
                return "not attempted", (
                    "Write the body in place of `raise NotImplementedError`, run the cell, then run this check again."
                )
            if isinstance(trials[-1].outcome.error, TimeLimitReached):
                return "not yet", (
                    f"Your function did not finish within {self.time_limit:g} seconds on case {len(trials)}: "
                    "does a loop ever end?"
                )
        printed = next((trial.outcome.printed for trial in trials if trial.outcome.printed.strip()), "")
        note = f" (Your function also prints: {describe(printed.strip())}. That is allowed.)" if printed else ""
        problem = self._problem(answer, cases, wanted, trials)
        return ("not yet", problem + note) if problem else ("correct", note.strip())

    def _problem(self, answer: Any, cases: list[Case], wanted: list[Trial], trials: list[Trial]) -> str:
        """What is wrong with the answer, the most telling thing first; "" if nothing is."""
        assert self.reference is not None
        names = patterns.argument_names(self.reference, max(map(len, cases)))
        failures = [self._compare(trial, want, names) for trial, want in zip(trials, wanted, strict=True)]
        for case, trial, failure in zip(cases, trials, failures, strict=True):
            arguments = tuple(fresh(argument) for argument in case)
            again = Trial(call(answer, arguments, self.time_limit, seed=1))
            if changed := changed_argument(case, arguments):
                name = names[changed - 1]
                return f"Your function changes its input `{name}` in place: make a new one (no `+=`, no `x[i] = …`)."
            well_formed = failure is None or failure.kind in ("value", "gradient")
            if well_formed and self._compare(again, trial, names, equal_nan=True):
                return (
                    "Two calls with the same inputs give different results: "
                    "does your function use random numbers, or remember something between calls?"
                )
        if any(failures) and (message := self._misconception(cases, wanted, trials)):
            return message
        for i, (case, trial, failure) in enumerate(zip(cases, trials, failures, strict=True), 1):
            if failure is None:
                continue
            if trial.outcome.error is not None:
                return f"Case {i} of {len(cases)}: your code raised {in_words(trial.outcome.error, answer)}."
            if hint := no_result(trial.outcome.value):
                return hint
            inputs = ", ".join(f"{name} = {describe(argument)}" for name, argument in zip(names, case, strict=False))
            overflow = " Does an exp overflow, or a log meet 0?" if has_nan_or_inf(trial.outcome.value) else ""
            pattern = self._pattern(answer, cases, wanted, trials) if failure.kind in ("form", "value") else ""
            return f"{pattern} Case {i} of {len(cases)}: {failure.text}.{overflow} Inputs: {inputs}.".lstrip()
        return ""

    def _try(self, function: Callable[..., Any], case: Case, like: Trial | None = None) -> Trial:
        """Call `function` on a copy of the case. Where the value is the one in `like`, take its gradients too."""
        arguments = tuple(fresh(argument, i in self.grad_args) for i, argument in enumerate(case))
        outcome = call(function, arguments, self.time_limit)
        trial = Trial(outcome)
        inputs = [(i, leaf) for i in self.grad_args if i < len(arguments) for leaf in leaves(arguments[i])]
        if outcome.error is not None or not inputs or (like is not None and self._compare(trial, like)):
            return trial
        try:
            found = gradients(outcome.value, [leaf for _, leaf in inputs], (like or trial).outcome.value)
        except Exception as error:  # something that the backward pass needs was changed in place
            return Trial(Outcome(error=error))
        return Trial(outcome, tuple((i, gradient) for (i, _), gradient in zip(inputs, found, strict=True)))

    def _compare(
        self, trial: Trial, want: Trial, names: Sequence[str] = (), *, equal_nan: bool = False
    ) -> Difference | None:
        """How a trial differs from another: by an error, in its value, or in the gradients, where both have them."""
        mine, theirs = trial.outcome, want.outcome
        if mine.error is not None or theirs.error is not None:
            return None if type(mine.error) is type(theirs.error) else Difference("error", "an error")
        found = difference(mine.value, theirs.value, self.rtol, self.atol, equal_nan=equal_nan)
        if found is not None or not trial.gradients:
            return found
        for (i, got), (_, expected) in zip(trial.gradients, want.gradients, strict=False):
            name = names[i] if names else ""
            if text := self._compare_gradient(got, expected, name):
                return Difference("gradient", text)
        return None

    def _compare_gradient(self, got: Tensor | None, want: Tensor | None, name: str) -> str:
        if want is None or not bool(want.any()):
            flows = got is not None and bool(got.any())
            return f"the value is right, but no gradient may reach `{name}`: is a `.detach()` missing?" if flows else ""
        if got is None:
            return f"the value is right, but no gradient reaches `{name}`: `.detach()`, `.item()`, `.data` or NumPy"
        if bool(torch.isnan(got).any()):
            return f"the value is right, but its gradient by `{name}` is nan: an unused part overflows or takes log 0"
        # Small components carry the rounding of the large ones that they are the difference of.
        found = difference(got, want, self.rtol, self.atol + self.rtol * float(want.abs().max()))
        return f"the value is right, but not its gradient by `{name}` ({found.text})" if found else ""

    def _misconception(self, cases: list[Case], wanted: list[Trial], trials: list[Trial]) -> str:
        """The message of the catalogued wrong function that behaves as the answer does on every case, or ""."""
        if all(trial.outcome.error is not None for trial in trials):
            return ""
        by_value = [Trial(trial.outcome) for trial in trials]
        if any(self._compare(trial, want) for trial, want in zip(by_value, wanted, strict=True)):
            trials = by_value  # with a wrong value, the gradient says nothing more
        for wrong in self.misconceptions:
            others = (self._try(wrong.answer, case, like=want) for case, want in zip(cases, wanted, strict=True))
            if not any(self._compare(t, o, equal_nan=True) for t, o in zip(trials, others, strict=True)):
                return wrong.message
        return ""

    def _pattern(self, answer: Any, cases: list[Case], wanted: list[Trial], trials: list[Trial]) -> str:
        """A mistake that looks alike in every exercise, or ""."""
        assert self.reference is not None
        got, want = [trial.outcome.value for trial in trials], [trial.outcome.value for trial in wanted]
        if found := patterns.of_values(got, want, self.rtol, self.atol):
            return found
        if any((d := difference(g, w)) and d.kind == "form" for g, w in zip(got, want, strict=True)):
            return ""
        answer_on = lambda case: call(answer, [fresh(argument) for argument in case], self.time_limit)  # noqa: E731
        return patterns.of_arguments(answer_on, self.reference, cases, got, self.rtol, self.atol)
