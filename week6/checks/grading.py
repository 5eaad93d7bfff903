"""One answer on its way to a verdict: called on every case, compared with the reference, and told what is wrong.

A message says which idea is wrong, if it is recognised; else the smallest input that shows it, what came, and what was
expected. Values are judged first, then gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from week6.checks import patterns
from week6.checks.asked import UNWRITTEN, Asked, Verdict
from week6.checks.compare import Difference, difference, in_form, same_types
from week6.checks.describing import describe, describe_near
from week6.checks.inspection import (
    Case,
    changed_argument,
    gradients,
    has_nan_or_inf,
    in_words,
    is_stub,
    meaning,
    no_result,
    wrong_arguments,
)
from week6.checks.sandbox import Budget, Outcome, call_ours, fresh, leaves
from week6.checks.surroundings import TimeLimitReached

_NOTHING: Any = object()
WHY_ODD = "Does an exp overflow, does a log meet 0, or is something divided by 0?"
Function = Callable[..., Any]
Call = Callable[[Function, Sequence[Any]], Outcome]
"""How a function is called: a student's within a budget of seconds, the course's own as it is."""


@dataclass(frozen=True)
class Misconception:
    """A typical wrong answer (a function, or a value) and what to tell its author."""

    name: str
    answer: Any
    message: str


@dataclass(frozen=True)
class Trial:
    """One call on one case: the outcome, its value in the form of the expected one, and the gradients of a right value.

    The gradients are by (position of) argument.
    """

    outcome: Outcome
    value: Any = None
    gradients: tuple[tuple[int, Tensor | None], ...] = ()

    @property
    def error(self) -> BaseException | None:
        """What the call, or its gradient, raised."""
        return self.outcome.error


@dataclass(frozen=True)
class Exercise(Asked):
    """One exercise: either a function to write (`reference` and `cases`) or a value to give (`value`).

    cases           fresh inputs from a generator, written ones and drawn ones: a list of argument tuples
    value           the right value, where no function is asked for
    misconceptions  typical wrong answers, each with a message of its own
    through         a function of functions: the answer, the reference and the catalogued ones are all seen through it
    diagnose        what wrong values say about themselves, in words, or "": for answers whose numbers follow from a
                    mistake and from other choices too, such as the number of steps. It gets the failing cases, that
                    which is shown first, each with the value that came.
    grad_args       positions of the arguments through which the reference's gradient must flow
    rtol, atol      results agree where |got − want| ≤ atol + rtol·|want|
    time_limit      seconds of computing that all calls of one answer may take together
    """

    cases: Callable[[torch.Generator], Sequence[Case]] | None = None
    value: Any = _NOTHING
    misconceptions: tuple[Misconception, ...] = ()
    through: Callable[[Function], Function] | None = None
    diagnose: Callable[[Sequence[tuple[Any, ...]]], str] | None = None
    grad_args: tuple[int, ...] = ()
    rtol: float = 1e-4
    atol: float = 1e-6
    time_limit: float = 15.0

    def __post_init__(self) -> None:
        if (self.reference is None) == (self.value is _NOTHING) or (self.reference is None) != (self.cases is None):
            raise ValueError(f"{self.title}: give either a reference with cases, or a value")


class Grading:
    """The grading of one answer on the cases of one seed."""

    def __init__(self, exercise: Exercise, answer: Callable[..., Any], budget: Budget, seed: int) -> None:
        assert exercise.reference is not None and exercise.cases is not None
        through = exercise.through or (lambda function: function)
        self.answer, self.seen, self.reference = answer, through(answer), through(exercise.reference)
        self.through, self.budget = through, budget
        self.misconceptions, self.diagnose, self.grad_args = (
            exercise.misconceptions,
            exercise.diagnose,
            exercise.grad_args,
        )
        self.rtol, self.atol, self.time_limit = exercise.rtol, exercise.atol, exercise.time_limit
        self.cases = list(exercise.cases(torch.Generator().manual_seed(seed)))
        self.names = patterns.argument_names(self.reference, max(map(len, self.cases)))
        self.wanted = [self._try(call_ours, self.reference, case) for case in self.cases]
        self.trials: list[Trial] = []
        for want in self.wanted:
            if want.error is not None:
                raise want.error

    def verdict(self, *, twice: bool) -> Verdict:
        """The verdict on these cases. `twice`: each is tried twice, to see whether the result is always the same."""
        if problem := wrong_arguments(self.answer, self.reference, self.cases):
            return Verdict("not yet", problem)
        for case, want in zip(self.cases, self.wanted, strict=True):
            self.trials.append(self._try(self.budget.call, self.seen, case, like=want))
            if is_stub(self.trials[-1].error):
                return Verdict("not attempted", UNWRITTEN)
            if isinstance(self.trials[-1].error, TimeLimitReached):
                return Verdict("not yet", self._too_slow(f"case {len(self.trials)}"))
        printed = next((trial.outcome.printed for trial in self.trials if trial.outcome.printed.strip()), "")
        note = f" (Your function also prints: {describe(printed.strip())}. That is allowed.)" if printed else ""
        if problem := self._problem(twice):
            return Verdict("not yet", problem + note)
        pairs = zip(self.trials, self.wanted, strict=True)
        return Verdict("correct", note.strip(), all(same_types(t.outcome.value, want.value) for t, want in pairs))

    def _too_slow(self, where: str) -> str:
        return (
            f"Your function did not finish within {self.time_limit:g} seconds, all cases together (it was at {where}): "
            "does a loop ever end?"
        )

    def _problem(self, twice: bool) -> str:
        """What is wrong with the answer, the most telling thing first; "" if nothing is."""
        failures = [self._compare(t, want, self.names) for t, want in zip(self.trials, self.wanted, strict=True)]
        if twice and (problem := self._unsteady(failures)):
            return problem
        if not any(failures):
            return ""
        everywhere = range(len(self.trials))
        if message := self._misconception(everywhere):
            return message
        failing = sorted((i for i in everywhere if failures[i]), key=lambda i: _how_telling(self.cases[i], failures[i]))
        odd = [i for i in failing if self._breaks_down(i)]
        rest = [i for i in everywhere if i not in odd]
        besides, which = "", list(everywhere)
        if odd and 2 * len(rest) >= len(everywhere) and any(failures[i] for i in rest):
            besides, which = f" Besides: {self._located(odd[0], failures[odd[0]])}", rest
            if message := self._misconception(rest):
                return message + besides
            failing = [i for i in failing if i in rest]
        first = failures[failing[0]]
        kinds = {failure.kind for i in failing if (failure := failures[i]) is not None}
        pattern = self._pattern(which, failing, of_values=kinds == {"value"}) if kinds <= {"form", "value"} else ""
        return f"{pattern} {self._located(failing[0], first, pattern)}{besides if pattern else ''}".lstrip()

    def _unsteady(self, failures: Sequence[Difference | None]) -> str:
        """Whether the answer changes its input, or gives another result the second time; "" if neither."""
        for i, (case, trial, failure) in enumerate(zip(self.cases, self.trials, failures, strict=True), 1):
            arguments = tuple(fresh(argument) for argument in case)
            again = self._trial(self.budget.call(self.seen, arguments, seed=1), self.wanted[i - 1])
            if isinstance(again.error, TimeLimitReached) and trial.error is None:
                return self._too_slow(f"its second call on case {i}")
            if changed := changed_argument(case, arguments):
                name = self.names[changed - 1]
                return f"Your function changes its input `{name}` in place: make a new one (no `+=`, no `x[i] = …`)."
            well_formed = failure is None or failure.kind in ("value", "gradient")
            if well_formed and self._compare(again, Trial(trial.outcome, trial.value), equal_nan=True):
                return (
                    "Two calls with the same inputs give different results: "
                    "does your function use random numbers, or remember something between calls?"
                )
        return ""

    def _located(self, i: int, failure: Difference | None, pattern: str = "") -> str:
        """A failing case: its inputs, what came, what was expected; why a nan may come, unless a pattern says so."""
        assert failure is not None
        case, trial = self.cases[i], self.trials[i]
        if trial.error is None and (hint := no_result(trial.outcome.value)):
            return hint
        near = [describe_near(argument, failure.at, failure.of) for argument in case]
        inputs = ", ".join(f"{name}{at} = {text}" for name, (at, text) in zip(self.names, near, strict=False))
        where = f"Case {i + 1} of {len(self.cases)}, with {inputs}: "
        if trial.error is not None:
            raised = in_words(trial.error, self.answer)
            if all(type(other.error) is type(trial.error) for other in self.trials):
                where = "With all inputs "
            return f"{meaning(trial.error)} {where}your code raised {raised}.".lstrip()
        same = [self._compare(t, want) for t, want in zip(self.trials, self.wanted, strict=True)]
        if (
            failure.kind == "form"
            and len(self.trials) > 1
            and all(f is not None and f.text == failure.text for f in same)
        ):
            where = "With all inputs: "
        overflow = f" {WHY_ODD}" if self._breaks_down(i) and "nan" not in pattern else ""
        return f"{where}{failure.text}.{overflow}"

    def _try(self, call: Call, function: Callable[..., Any], case: Case, like: Trial | None = None) -> Trial:
        """Call `function` on a copy of the case. Where the value is the one in `like`, take its gradients too."""
        arguments = tuple(fresh(argument, i in self.grad_args) for i, argument in enumerate(case))
        trial = self._trial(call(function, arguments), like)
        inputs = [(i, leaf) for i in self.grad_args if i < len(arguments) for leaf in leaves(arguments[i])]
        if trial.error is not None or not inputs or (like is not None and self._compare(trial, like)):
            return trial
        by = [leaf for _, leaf in inputs]
        found = call(gradients, (trial.value, by, (like or trial).value))
        if found.error is not None:  # such as a tensor that the backward pass needs and that was changed in place
            return Trial(Outcome(error=found.error, printed=trial.outcome.printed))
        return Trial(
            trial.outcome, trial.value, tuple((i, grad) for (i, _), grad in zip(inputs, found.value, strict=True))
        )

    def _trial(self, outcome: Outcome, like: Trial | None) -> Trial:
        return Trial(outcome, outcome.value if like is None else in_form(outcome.value, like.value))

    def _compare(
        self, trial: Trial, want: Trial, names: Sequence[str] = (), *, equal_nan: bool = False
    ) -> Difference | None:
        """How a trial differs from another: by an error, in its value, or in the gradients, where both have them."""
        if trial.error is not None or want.error is not None:
            return None if type(trial.error) is type(want.error) else Difference("error", "an error")
        found = difference(trial.value, want.value, self.rtol, self.atol, equal_nan=equal_nan)
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
        if bool((torch.isnan(got) & ~torch.isnan(want)).any()):
            return f"the value is right, but its gradient by `{name}` is nan: an unused part overflows or takes log 0"
        # Small components carry the rounding of the large ones that they are the difference of.
        atol = self.atol + self.rtol * float(want.nan_to_num(0, 0, 0).abs().max())
        found = difference(got, want, self.rtol, atol, equal_nan=True)
        cut = "look for a part that is cut off, by `.detach()`, `.item()` or `torch.no_grad()`"
        return f"the value is right, but not its gradient by `{name}` ({found.text}): {cut}" if found else ""

    def _breaks_down(self, i: int) -> bool:
        """Whether the answer raises an error on a case, or is nan or inf where it should not be."""
        trial = self.trials[i]
        return trial.error is not None or has_nan_or_inf(trial.value, self.wanted[i].value)

    def _misconception(self, which: Sequence[int]) -> str:
        """The message of the catalogued wrong function that behaves as the answer does on these cases, or ""."""
        trials = [self.trials[i] for i in which]
        if all(trial.error is not None for trial in trials):
            return ""
        by_value = [Trial(trial.outcome, trial.value) for trial in trials]
        if any(self._compare(trial, self.wanted[i]) for trial, i in zip(by_value, which, strict=True)):
            trials = by_value  # with a wrong value, the gradient says nothing more
        for wrong in self.misconceptions:
            others = (self._try(call_ours, self.through(wrong.answer), self.cases[i], self.wanted[i]) for i in which)
            if not any(self._compare(t, o, equal_nan=True) for t, o in zip(trials, others, strict=True)):
                return wrong.message
        return ""

    def _pattern(self, which: Sequence[int], failing: Sequence[int], *, of_values: bool) -> str:
        """A mistake that this exercise's own diagnosis finds, or one that looks alike in every exercise; or "".

        `of_values`: what fails is values, and not a form.
        """
        cases = [self.cases[i] for i in which]
        got, want = [self.trials[i].value for i in which], [self.wanted[i].value for i in which]
        values = [(*self.cases[i], self.trials[i].value) for i in failing]
        if self.diagnose is not None and of_values and (found := self.diagnose(values)):
            return found
        if found := patterns.of_the_computer(got, want, self.rtol, self.atol):
            return found
        if found := patterns.of_parts(got, want, self.rtol, self.atol):
            return found
        if found := patterns.of_values(got, want, self.rtol, self.atol):
            return found
        if any((d := difference(g, w)) and d.kind == "form" for g, w in zip(got, want, strict=True)):
            return ""
        answer_on = lambda case: self.budget.call(self.seen, [fresh(argument) for argument in case])  # noqa: E731
        return patterns.of_arguments(answer_on, self.reference, cases, got, self.rtol, self.atol) or patterns.of_inputs(
            self.names, cases, got, want, self.rtol, self.atol
        )


def _how_telling(case: Case, failure: Difference | None) -> tuple[bool, bool, int]:
    """What to look at first: ordinary numbers before extreme ones, wrong values before a wrong shape, small cases."""
    numbers = [argument for argument in case if isinstance(argument, Tensor) and argument.is_floating_point()]
    extreme = any(bool((~(tensor.abs() <= 100)).any()) for tensor in numbers)
    shape_only = failure is not None and failure.values_right
    return extreme, shape_only, sum(argument.numel() for argument in case if isinstance(argument, Tensor))
