"""Exercise 9.6 of notebook 09: the difference between two methods, with an interval over problems and seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from week6.checks.cases import whole
from week6.checks.engine import Misconception, Question


def difference_with_interval(
    first: list[Float[Tensor, "M _"]], second: list[Float[Tensor, "M _"]], z: float
) -> tuple[float, float, float]:
    """Success of the first method minus that of the second, and the ends of its interval of z standard errors."""
    rates = [torch.stack([run.mean(1) for run in runs]) for runs in (first, second)]  # shape (S, M) each
    by_problem = rates[0].mean(0) - rates[1].mean(0)  # shape (M,)
    difference = float(by_problem.mean())
    variance = float(by_problem.var()) / len(by_problem)
    for of_method in rates:
        of_runs = of_method.mean(1)  # shape (S,)
        variance += float(of_runs.var()) / len(of_runs)
    half = z * math.sqrt(variance)
    return difference, difference - half, difference + half


def _runs(
    g: torch.Generator, seeds: int, answers: int, ease: Tensor, shift: float, spread: float
) -> list[Float[Tensor, "M n"]]:
    """Verdicts of some runs of one method on problems that are so easy (log-odds)."""
    runs = []
    for _ in range(seeds):
        p = torch.sigmoid(ease + shift + spread * torch.randn((), generator=g, dtype=torch.float64))
        runs.append(torch.bernoulli(p[:, None].expand(-1, answers), generator=g))
    return runs


def _methods(g: torch.Generator) -> list[tuple[list[Tensor], list[Tensor], float]]:
    """Two methods on the same problems, whose ease differs widely: one by hand, and drawn ones with other numbers of
    seeds, problems and answers for each method; one with equal runs, where problems alone vary."""
    hard, easy = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]]), torch.tensor([[1.0, 1.0], [0.0, 1.0], [1.0, 1.0]])
    better = torch.tensor([[1.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    cases = [([hard.double(), easy.double()], [better.double(), easy.double()], 2.0)]
    cases.append(([hard.double()] * 2, [better.double()] * 3, 1.96))
    for seeds, more in ((3, 0), (2, 2), (4, 1)):
        problems, answers = whole(g, 10, 30), whole(g, 3, 8)
        ease = 2 * torch.randn(problems, generator=g, dtype=torch.float64)
        first = _runs(g, seeds, answers, ease, 0.5, 0.5)
        cases.append((first, _runs(g, seeds + more, answers + more, ease, -0.3, 0.5), 1 + 2 * whole(g, 1, 9) / 10))
    return cases


def _rates(runs: Sequence[Tensor]) -> Tensor:
    """Pass rates, shape (S, M)."""
    return torch.stack([run.mean(1) for run in runs])


def _over_problems(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    by_problem = _rates(first).mean(0) - _rates(second).mean(0)
    return float(by_problem.var()) / len(by_problem)


def _over_seeds(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    return sum(float(_rates(runs).mean(1).var()) / len(runs) for runs in (first, second))


def _with(
    variance: Callable[[Sequence[Tensor], Sequence[Tensor]], float] = lambda a, b: (
        _over_problems(a, b) + _over_seeds(a, b)
    ),
    width: Callable[[float], float] = math.sqrt,
    give: Callable[[float, float], tuple[float, ...]] = lambda d, half: (d, d - half, d + half),
    scale: float = 1.0,
    uses_z: bool = True,
) -> Callable[..., Any]:
    """The comparison with one part done otherwise."""

    def compare(first: list[Tensor], second: list[Tensor], z: float) -> tuple[float, ...]:
        d = float(_rates(first).mean() - _rates(second).mean())
        half = (z if uses_z else 1.96) * width(variance(first, second))
        return tuple(scale * x for x in give(d, half))

    return compare


def _independent(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    """Every single answer a try by itself."""
    answers = [torch.cat([run.flatten() for run in runs]) for runs in (first, second)]
    return sum(float(x.var()) / len(x) for x in answers)


def _unpaired(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    return sum(float(_rates(runs).mean(0).var()) / len(runs[0]) for runs in (first, second))


def _of_cells(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    """Each problem in each run a try by itself."""
    return sum(float(_rates(runs).flatten().var()) / _rates(runs).numel() for runs in (first, second))


def _population(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    by_problem = _rates(first).mean(0) - _rates(second).mean(0)
    runs = sum(float(_rates(x).mean(1).var(correction=0)) / len(x) for x in (first, second))
    return float(by_problem.var(correction=0)) / len(by_problem) + runs


def _undivided(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    by_problem = _rates(first).mean(0) - _rates(second).mean(0)
    return float(by_problem.var()) + sum(float(_rates(x).mean(1).var()) for x in (first, second))


def _pooled_seeds(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    """All runs of both methods in one heap."""
    runs = torch.cat([_rates(first).mean(1), _rates(second).mean(1)])
    return float(runs.var()) / len(runs)


def _first_alone(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    return float(_rates(first).mean(1).var()) / len(first)


def _paired_seeds(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    """Run s of one method against run s of the other, as far as there are two."""
    n = min(len(first), len(second))
    gaps = _rates(first[:n]).mean(1) - _rates(second[:n]).mean(1)
    return float(gaps.var()) / n


def _run_by_run(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    """Over problems in each run by itself, as if no problem came up twice."""
    return sum(float(run.mean(1).var()) / len(run) / len(runs) ** 2 for runs in (first, second) for run in runs)


def _root_sums(first: list[Tensor], second: list[Tensor], z: float) -> tuple[float, float, float]:
    """The errors added, not their squares."""
    d = float(_rates(first).mean() - _rates(second).mean())
    half = z * (math.sqrt(_over_problems(first, second)) + math.sqrt(_over_seeds(first, second)))
    return d, d - half, d + half


def _of_one_run(first: list[Tensor], second: list[Tensor], z: float) -> tuple[float, float, float]:
    """The first run of each method, without seeds."""
    by_problem = first[0].mean(1) - second[0].mean(1)
    d, half = float(by_problem.mean()), z * float(by_problem.std()) / math.sqrt(len(by_problem))
    return d, d - half, d + half


q6 = Question(
    title="9.6 Which of two methods is better?",
    name="compare",
    reference=difference_with_interval,
    cases=_methods,
    hints=(
        "What would be another draw: other problems, other seeds, other answers? Which of these do the two methods "
        "have "
        "in common?",
        "Everything begins with pass rates of shape (S, M) for each method: the mean over the answers of a run to a "
        "problem. Their mean over seeds gives a number a problem, to be paired; their mean over problems a number a "
        "run, "
        "not to be paired. The squared standard error of a mean of n numbers is their variance, with n − 1, over n.",
        "Stack the mean over dim 1 of each run, once for each method. d: the mean over the seeds of the first minus "
        "that "
        "of the second, a difference a problem; then the mean. s²: the variance of these M differences over M, plus, "
        "for "
        "each method by itself, the variance of the mean successes of its runs over their number. Then d, d − z s and "
        "d + z s.",
        "rates = [torch.stack([run.mean(1) for run in runs]) for runs in (first, second)]  # (S, M) each\n"
        "by_problem = ...\n"
        "difference = float(by_problem.mean())\n"
        "variance = float(by_problem.var()) / len(by_problem)\n"
        "for of_method in rates:\n"
        "    of_runs = ...\n"
        "    variance += float(of_runs.var()) / len(of_runs)\n"
        "half = z * math.sqrt(variance)\n"
        "return difference, difference - half, difference + half",
    ),
    misconceptions=(
        Misconception(
            "unpaired problems",
            _with(lambda a, b: _unpaired(a, b) + _over_seeds(a, b)),
            "Your d is right, but your error over problems adds the variances of the two methods. Both meet the same "
            "problems: what is easy for one is easy for the other. Take the differences first, then their variance.",
        ),
        Misconception(
            "answers as if independent",
            _with(lambda a, b: _independent(a, b) + _over_seeds(a, b)),
            "Your d is right, but you take each answer for a try by itself. Answers to one problem are alike: average "
            "over them, and let the M problems be the tries.",
        ),
        Misconception(
            "answers only",
            _with(_independent),
            "Your d is right, but your s takes all answers of all runs for independent tries. Answers to one problem "
            "are "
            "alike, and so are those of one run.",
        ),
        Misconception(
            "problems of every run by themselves",
            _with(lambda a, b: _of_cells(a, b) + _over_seeds(a, b)),
            "Your d is right, but you count each problem once a run, S · M tries. It is the same M problems each time: "
            "average over the runs first.",
        ),
        Misconception(
            "runs as if on other problems",
            _with(lambda a, b: _run_by_run(a, b) + _over_seeds(a, b)),
            "Your d is right, but your error over problems is taken in each run by itself and then averaged, as if "
            "other "
            "runs had other problems. All meet the same ones: one difference a problem.",
        ),
        Misconception(
            "errors added",
            _root_sums,
            "You add the two standard errors. Of independent parts the *variances* add up: add the squares, then take "
            "the root.",
        ),
        Misconception(
            "no seeds",
            _with(_over_problems),
            "Your interval knows nothing of the seeds. With other seeds the runs would come out otherwise: add the "
            "variance over the runs of each method.",
        ),
        Misconception(
            "no problems",
            _with(_over_seeds),
            "Your interval knows nothing of the problems. With other problems the difference would come out otherwise: "
            "add the variance over the differences by problem.",
        ),
        Misconception(
            "seeds of one method",
            _with(lambda a, b: _over_problems(a, b) + _first_alone(a, b)),
            "You count the seeds of the first method alone. Both were trained with seeds of their own.",
        ),
        Misconception(
            "one heap of seeds",
            _with(lambda a, b: _over_problems(a, b) + _pooled_seeds(a, b)),
            "You take the variance over the runs of both methods in one heap: the difference that you look for is in "
            "it. "
            "Take it in each method by itself, and add.",
        ),
        Misconception(
            "paired seeds",
            _with(lambda a, b: _over_problems(a, b) + _paired_seeds(a, b)),
            "You pair the seeds. Run 0 of one method and run 0 of the other have nothing in common: add the variances "
            "of "
            "the two methods.",
        ),
        Misconception(
            "n in place of n − 1",
            _with(_population),
            "Your variances divide by n. From so few numbers that is too small: n − 1, as `var()` has it by itself.",
        ),
        Misconception(
            "spread in place of the error",
            _with(_undivided),
            "You take the spread of single problems and runs. The mean of n of them varies less: its variance is "
            "theirs "
            "over n.",
        ),
        Misconception(
            "variance in place of its root",
            _with(width=lambda x: x),
            "Your half-width is z times the variance. A standard error is its root.",
        ),
        Misconception(
            "z forgotten",
            _with(uses_z=False),
            "Your interval has 1.96 standard errors, whatever z is. Take the z that comes in.",
        ),
        Misconception(
            "percentages",
            _with(scale=100.0),
            "You return percentages. Asked are shares, between −1 and 1.",
        ),
        Misconception(
            "sign",
            _with(give=lambda d, half: (-d, -d - half, -d + half)),
            "Your sign is turned: it is the success of the first minus that of the second.",
        ),
        Misconception(
            "ends swapped",
            _with(give=lambda d, half: (d, d + half, d - half)),
            "Your lower end is the upper one.",
        ),
        Misconception(
            "half-width",
            _with(give=lambda d, half: (d, -half, half)),
            "Your ends lie around 0. They lie around d: d − z s and d + z s.",
        ),
        Misconception(
            "one run each",
            _of_one_run,
            "You compare the first run of each method, and leave the other seeds out.",
        ),
    ),
)
