"""The steps of notebook 07's capstone: how each part of a frontier is judged."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from week6.checks.bench_07 import PRICES, Frontier
from week6.checks.capstone import Step
from week6.checks.judging import Wrong, judged
from week6.pictures.frontier import frontier_of

STUDENT = 4.303
"""The 97.5 % quantile of Student's t with two degrees of freedom."""
SLACK = 0.1
"""By what share the width of an interval may differ: S in place of S − 1 is 18 % too narrow."""


def _judge(check: Callable[[Frontier], None]) -> Callable[[list[Frontier]], str | None]:
    """A step's judgement from a check of one frontier."""

    def each(record: list[Frontier]) -> None:
        for frontier in record:
            check(frontier)

    return judged(each)


def _all_runs(f: Frontier) -> None:
    f.table("kl"), f.table("gold")
    missing = {(beta, seed) for beta in PRICES for seed in f.seeds} - set(f.trained)
    if missing:
        beta, seed = min(missing)
        raise Wrong(
            f"{len(missing)} of {len(PRICES) * len(f.seeds)} runs were never made, such as β = {beta:g}, seed {seed}"
        )


def _figures(f: Frontier) -> None:
    for name in ("kl", "gold"):
        off = (f.table(name) - f.true(name)) / f.true(name, 1)
        if not (
            off.abs().max() < 6 and (off**2).mean() < 3
        ):  # 360 runs a bench: the largest of as many normals is 3 to 4
            c, s = divmod(int(off.abs().argmax()), len(f.seeds))
            raise Wrong(
                f"`{name}` of β = {PRICES[c]:g}, seed {f.seeds[s]} is {f.table(name)[c, s]:.3f}, expected about "
                f"{f.true(name)[c, s]:.3f} ± {f.true(name, 1)[c, s]:.3f}"
            )


def _errors_over_prompts(f: Frontier) -> None:
    got, want = f.table("gold_se").mean(), f.true("gold", 2).mean()
    if not 0.8 < got / want < 1.25:
        raise Wrong(f"`gold_se` is {got:.3f} on average; with other prompts the mean would move by {want:.3f}")


def ratio(f: Frontier, name: str) -> float:
    """Half-width in units of std/√S of the student's own table."""
    own = f.table(name)
    return float((f.part(f"{name}_half", len(own)) / (own.std(1) / math.sqrt(own.shape[1]))).median())


def _intervals(f: Frontier) -> None:
    for name in ("kl", "gold"):
        means, own = f.part(f"{name}_mean", len(PRICES)), f.table(name).mean(1)
        if not torch.allclose(means, own, rtol=1e-3, atol=1e-4):
            raise Wrong(f"`{name}_mean` begins with {means[0]:.3f}; the mean of your `{name}` there is {own[0]:.3f}")
        if abs(ratio(f, name) / STUDENT - 1) > SLACK:
            raise Wrong(
                f"`{name}_half` is {ratio(f, name):.2f} standard errors over the seeds, expected about {STUDENT}"
            )


def _kept(f: Frontier) -> None:
    kept = f.part("kept", len(PRICES)).bool()
    want = frontier_of(f.part("kl_mean", len(PRICES)), f.part("gold_mean", len(PRICES)))
    if not torch.equal(kept, want):
        raise Wrong(f"you keep β = {_prices(kept)}; by your means no other one dominates β = {_prices(want)}")


def _prices(kept: Tensor) -> str:
    return ", ".join(f"{beta:g}" for beta, keep in zip(PRICES, kept.tolist(), strict=True) if keep) or "none"


def _chosen(f: Frontier) -> None:
    chosen, want = f.part("chosen", len(f.seeds)).tolist(), f.choices()
    if not all(math.isclose(a, b, rel_tol=1e-5) for a, b in zip(chosen, want, strict=True)):
        raise Wrong(
            f"with a budget of {f.budget:g} nats you chose β = {_list(chosen)}, without the first, second, third seed; "
            f"by your tables it is {_list(want)}"
        )


def _list(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def unseen(f: Frontier) -> Tensor:
    """Gold reward in each seed of the price that was chosen without it, (S,)."""
    chosen = f.part("chosen", len(f.seeds)).tolist()
    places = [min(range(len(PRICES)), key=lambda c: abs(PRICES[c] - beta)) for beta in chosen]
    return f.table("gold")[places, range(len(f.seeds))]


def _report(f: Frontier) -> None:
    (mean, half), found = f.part("report", 2).tolist(), unseen(f)
    if abs(mean - found.mean()) > 1e-3:
        raise Wrong(
            f"you report a gold reward of {mean:.3f}; the chosen β have {found.mean():.3f} in the seeds that did not "
            "choose them"
        )
    want = STUDENT * float(found.std()) / math.sqrt(len(found))
    if abs(half - want) > SLACK * want + 1e-4:
        raise Wrong(f"your report is ± {half:.3f}, expected ± {want:.3f}")


STEPS = (
    Step("one run for each price and seed", _judge(_all_runs)),
    Step("KL and gold reward of each run", _judge(_figures)),
    Step("their error over prompts", _judge(_errors_over_prompts)),
    Step("means and intervals over the seeds", _judge(_intervals)),
    Step("what no other price dominates", _judge(_kept)),
    Step("the choice without a seed", _judge(_chosen)),
    Step("the report on unseen seeds", _judge(_report)),
)
