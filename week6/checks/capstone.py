"""Capstones: whole algorithms, graded by what they achieve and diagnosed by their instruments.

The student's function is let loose on a few small problems, each drawn from a seed. `run` calls it and measures, by our
own means, what it did: the record. The steps judge the record, in order, so that the first verdicts come before all of
the code is written. Where a step fails, the symptoms say which idea is likely wrong, as a physician reads a chart.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from week6.checks.asked import UNANSWERED, UNWRITTEN, Asked, Verdict
from week6.checks.describing import type_in_words
from week6.checks.inspection import in_words, is_stub, not_a_function
from week6.checks.sandbox import Budget, ran_away
from week6.checks.surroundings import TimeLimitReached

Record = Any
"""What was measured of one run of an answer; each capstone has a type of its own."""

PATIENCE = 2.0
"""Seconds after which a verdict shows its progress."""


@dataclass(frozen=True)
class Step:
    """One step of an algorithm. `judge(record)` is "" if it is right, None if it is not there yet; else what was
    measured, and what was expected."""

    title: str
    judge: Callable[[Record], str | None]


@dataclass(frozen=True)
class Symptom:
    """What a mistake does to the instruments: where `seen(record)` is true, `message` says which idea is wrong."""

    name: str
    seen: Callable[[Record], bool]
    message: str


@dataclass(frozen=True)
class Capstone(Asked):
    """A whole algorithm to write.

    run         (answer, seed) -> record: calls the answer on a fresh small problem, and measures
    steps       judged in order on each record
    symptoms    asked in order where a step fails
    shows       a sentence with what a right answer achieved, from the records of all seeds
    seeds       how many problems an answer must solve
    time_limit  seconds of computing that all of them may take together
    """

    run: Callable[[Callable[..., Any], int], Record] | None = None
    steps: tuple[Step, ...] = ()
    symptoms: tuple[Symptom, ...] = ()
    shows: Callable[[Sequence[Record]], str] = lambda records: ""
    seeds: int = 3
    time_limit: float = 30.0

    def __post_init__(self) -> None:
        if self.reference is None or self.run is None or not self.steps:
            raise ValueError(f"{self.title}: give reference, run and steps")

    def _verdict(self, answer: Any) -> Verdict:
        return self.over(answer, range(self.seeds))

    def over(self, answer: Any, seeds: Sequence[int]) -> Verdict:
        """The verdict on the problems of these seeds, which share the time limit."""
        if answer is ... or answer is None:
            return Verdict("not attempted", UNANSWERED)
        if not inspect.isclass(self.reference) and (problem := self._no_function(answer)):
            return Verdict("not yet", problem)
        budget, records = Budget(self.time_limit), list[Record]()
        for seed in tqdm(seeds, desc=self.title, unit="problem", delay=PATIENCE, leave=False):
            outcome = budget.call(self.run, (answer, seed), seed)  # type: ignore[arg-type]
            if is_stub(outcome.error):
                return Verdict("not attempted", UNWRITTEN)
            if isinstance(outcome.error, TimeLimitReached):
                return self._unfinished(f"problem {len(records) + 1} of {len(seeds)}", outcome.error, answer)
            if isinstance(outcome.error, Malformed):
                return Verdict("not yet", str(outcome.error))
            if outcome.error is not None:
                return Verdict("not yet", f"Your code raised {in_words(outcome.error, answer)}.")
            if verdict := self._of_record(outcome.value, budget):
                return verdict
            records.append(outcome.value)
        return Verdict("correct", self.shows(records))

    def _unfinished(self, where: str, error: TimeLimitReached, answer: Any) -> Verdict:
        held = ran_away(error, answer)
        away = f" When it was stopped, {held}: they run away. Is a sign turned, is a step too long?" if held else ""
        said = f"Your code did not finish within {self.time_limit:g} seconds (it was at {where})"
        return Verdict("not yet", f"{said}: does a loop ever end, does it do more than it is asked for?{away}")

    def _no_function(self, answer: Any) -> str:
        """Why the answer cannot be called; a generator can, where the course's own is one."""
        generators = inspect.isgeneratorfunction(answer) and inspect.isgeneratorfunction(self.reference)
        return "" if generators else not_a_function(answer)

    def _of_record(self, record: Record, budget: Budget) -> Verdict | None:
        """The verdict on one record, or None where every step is right."""
        count = len(self.steps)
        for i, step in enumerate(self.steps, 1):
            outcome = budget.call(step.judge, (record,))
            said = f"it could not be judged: {in_words(outcome.error)}" if outcome.error else outcome.value
            done = f"Right so far: {_numbered(i - 1)} of {count}. " if i > 1 else ""
            if said is None:
                return Verdict("not yet", f"{done}Next comes step {i}: {step.title}.")
            if said:
                diagnosis = self._diagnosis(record, budget)
                return Verdict("not yet", f"{diagnosis} {done}Step {i} of {count}, {step.title}: {said}.".lstrip())
        return None

    def _diagnosis(self, record: Record, budget: Budget) -> str:
        """The message of the first symptom that a record shows, or "". What was not delivered shows no symptom."""
        for symptom in self.symptoms:
            if budget.call(symptom.seen, (record,)).value:
                return symptom.message
        return ""


class Malformed(Exception):
    """What an answer returned has another form than was asked for; the text is for the student."""


def parts(result: Any, *names: str) -> dict[str, Any]:
    """The named parts that an answer returned, as far as it has got. Raises Malformed where it is no dict of these."""
    if result is None:
        return {}
    if not isinstance(result, Mapping):
        raise Malformed(f"Your function returns {type_in_words(result)}; a dict with {', '.join(names)} is expected.")
    if unknown := [str(name) for name in result if name not in names]:
        raise Malformed(f"Your function returns the parts {', '.join(unknown)}; expected are {', '.join(names)}.")
    return {name: result[name] for name in names if result.get(name) is not None and result[name] is not ...}


def _numbered(n: int) -> str:
    return "step 1" if n == 1 else f"steps 1 to {n}"
