"""The capstone of notebook 07: a frontier with intervals, from runs of one's own."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from week6.checks.bench_07 import PRICES, Frontier, measure
from week6.checks.capstone import Capstone, Step, Symptom
from week6.checks.judging import Missing, Wrong, at, judged, plain
from week6.pictures.frontier import frontier_of

STUDENT = 4.303
"""The 97.5 % quantile of Student's t with two degrees of freedom."""
SLACK = 0.1
"""By what share the width of an interval may differ: S in place of S − 1 is 18 % too narrow."""


def measure_frontier(
    train: Callable[[float, int], Any],
    draw: Callable[[Any], tuple[Tensor, Tensor]],
    betas: Sequence[float],
    seeds: Sequence[int],
    budget: float,
) -> dict[str, Any]:
    """A method's frontier from runs of one's own, with intervals over three seeds, and what to ship within a budget."""
    draws = [[draw(train(beta, seed)) for seed in seeds] for beta in betas]
    kl = torch.tensor([[float(kl.mean()) for kl, _ in row] for row in draws])
    gold = torch.tensor([[float(gold.mean()) for _, gold in row] for row in draws])
    by_prompt = [[gold.mean(1) for _, gold in row] for row in draws]
    gold_se = torch.tensor([[float(x.std() / math.sqrt(len(x))) for x in row] for row in by_prompt])

    def half(x: Tensor) -> Tensor:
        return 4.303 * x.std(-1) / math.sqrt(x.shape[-1])

    chosen, unseen = [], []
    for s in range(len(seeds)):
        others = [i for i in range(len(seeds)) if i != s]
        surely = kl[:, others].mean(1) + 2 * kl[:, others].std(1) / math.sqrt(len(others))
        best = int(torch.where(surely <= budget, gold[:, others].mean(1), -torch.inf).argmax())
        chosen.append(betas[best])
        unseen.append(gold[best, s])
    report = torch.stack(unseen)
    return {
        "kl": kl,
        "gold": gold,
        "gold_se": gold_se,
        "kl_mean": kl.mean(1),
        "gold_mean": gold.mean(1),
        "kl_half": half(kl),
        "gold_half": half(gold),
        "kept": frontier_of(kl.mean(1), gold.mean(1)),
        "chosen": chosen,
        "report": (report.mean(), half(report)),
    }


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


def _ratio(f: Frontier, name: str) -> float:
    """Half-width in units of std/√S of the student's own table."""
    own = f.table(name)
    return float((f.part(f"{name}_half", len(own)) / (own.std(1) / math.sqrt(own.shape[1]))).median())


def _intervals(f: Frontier) -> None:
    for name in ("kl", "gold"):
        means, own = f.part(f"{name}_mean", len(PRICES)), f.table(name).mean(1)
        if not torch.allclose(means, own, rtol=1e-3, atol=1e-4):
            raise Wrong(f"`{name}_mean` begins with {means[0]:.3f}; the mean of your `{name}` there is {own[0]:.3f}")
        if abs(_ratio(f, name) / STUDENT - 1) > SLACK:
            raise Wrong(
                f"`{name}_half` is {_ratio(f, name):.2f} standard errors over the seeds, expected about {STUDENT}"
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


def _unseen(f: Frontier) -> Tensor:
    """Gold reward in each seed of the price that was chosen without it, (S,)."""
    chosen = f.part("chosen", len(f.seeds)).tolist()
    places = [min(range(len(PRICES)), key=lambda c: abs(PRICES[c] - beta)) for beta in chosen]
    return f.table("gold")[places, range(len(f.seeds))]


def _report(f: Frontier) -> None:
    (mean, half), unseen = f.part("report", 2).tolist(), _unseen(f)
    if abs(mean - unseen.mean()) > 1e-3:
        raise Wrong(
            f"you report a gold reward of {mean:.3f}; the chosen β have {unseen.mean():.3f} in the seeds that did not "
            "choose them"
        )
    want = STUDENT * float(unseen.std()) / math.sqrt(len(unseen))
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
ERRORS, INTERVALS, KEPT, CHOSEN, REPORT = (step.title for step in STEPS[2:])


def _first(record: list[Frontier], holds: Callable[[Frontier], bool]) -> bool:
    """Whether something holds of the first frontier; False where a part that it needs is missing or misshapen."""
    try:
        return bool(record and holds(record[0]))
    except (Missing, Wrong):
        return False


def _every(record: list[Frontier], holds: Callable[[Frontier], bool]) -> bool:
    return bool(record) and all(_first([frontier], holds) for frontier in record)


def _like(f: Frontier, name: str, other: Tensor) -> bool:
    """Whether a table is about another one of the bench's, cell by cell."""
    return bool(torch.allclose(f.table(name), other.double(), rtol=0.25, atol=0.15))


def _se_like(rule: Callable[[Tensor], Tensor]) -> Callable[[list[Frontier]], bool]:
    """Whether the errors over prompts are those of another rule, applied to what was drawn for the first run."""

    def recognised(record: list[Frontier]) -> bool:
        return _first(record, lambda f: math.isclose(f.table("gold_se")[0, 0], rule(f.drawn[0][1]), rel_tol=0.01))

    return at(STEPS, ERRORS, recognised)


def _width(factor: float) -> Callable[[list[Frontier]], bool]:
    """Whether the half-widths are so many standard errors over the seeds."""
    near = partial(_first, holds=lambda f: abs(_ratio(f, "gold") / factor - 1) < 0.03)
    return at(STEPS, INTERVALS, near)


def _keeps(rule: Callable[[Tensor, Tensor], Tensor]) -> Callable[[list[Frontier]], bool]:
    """Whether what is kept follows another rule, in all frontiers."""

    def same(f: Frontier) -> bool:
        means = (f.part(f"{name}_mean", len(PRICES)) for name in ("kl", "gold"))
        return torch.equal(f.part("kept", len(PRICES)).bool(), rule(*means))

    return at(STEPS, KEPT, partial(_every, holds=same))


def _chooses(rule: Callable[[Frontier], list[float]]) -> Callable[[list[Frontier]], bool]:
    """Whether what is chosen follows another rule, in all frontiers."""
    same = partial(
        _every, holds=lambda f: torch.allclose(f.part("chosen", len(f.seeds)), torch.tensor(rule(f)).double())
    )
    return at(STEPS, CHOSEN, same)


def _reports(rule: Callable[[Frontier], Tensor]) -> Callable[[list[Frontier]], bool]:
    """Whether the mean that is reported follows another rule, in all frontiers."""
    same = partial(_every, holds=lambda f: abs(float(f.part("report", 2)[0] - rule(f))) < 1e-3)
    return at(STEPS, REPORT, same)


def _hull(kl: Tensor, gold: Tensor) -> Tensor:
    prices = torch.logspace(-4, 4, 2001, dtype=kl.dtype)
    best = (gold - prices[:, None] * kl).argmax(-1)
    return torch.isin(torch.arange(len(kl)), best)


def _where_chosen(f: Frontier) -> list[int]:
    return [PRICES.index(min(PRICES, key=lambda p: abs(p - beta))) for beta in f.part("chosen", len(f.seeds)).tolist()]


def _in_their_own_seeds(f: Frontier) -> Tensor:
    """The gold reward of the chosen prices in the very seeds that chose them."""
    gold, places = f.table("gold"), range(len(f.seeds))
    values = [gold[c, [i for i in places if i != s]].mean() for s, c in enumerate(_where_chosen(f))]
    return torch.stack(values).mean()


SYMPTOMS = (
    Symptom(
        "one seed for all runs",
        lambda record: _first(record, lambda f: len(f.trained) > 1 and len({seed for _, seed in f.trained}) == 1),
        "Every run was made with the same seed: is `seed` passed on to `train`? Without a spread between seeds no "
        "interval can be right.",
    ),
    Symptom(
        "one price for all runs",
        lambda record: _first(record, lambda f: len(f.trained) > 1 and len({beta for beta, _ in f.trained}) == 1),
        "Every run was made with the same β: is `beta` passed on to `train`?",
    ),
    Symptom(
        "price and seed swapped",
        lambda record: _first(record, lambda f: bool(f.trained) and {beta for beta, _ in f.trained} == set(f.seeds)),
        "`train` was called with the seed as the price: its arguments are train(beta, seed), in this order.",
    ),
    Symptom(
        "axes swapped",
        lambda record: (
            bool(record)
            and any(
                tuple(torch.as_tensor(plain(record[0].parts.get(name, 0.0))).shape)
                == (len(record[0].seeds), len(PRICES))
                for name in ("kl", "gold", "gold_se")
            )
        ),
        "Your tables have a row for each seed and a column for each β. Asked is (C, S): a row for each β.",
    ),
    Symptom(
        "KL and reward swapped",
        lambda record: _first(record, lambda f: _like(f, "kl", f.true("gold")) and _like(f, "gold", f.true("kl"))),
        "What you call `kl` is the gold reward, and the other way round: `draw` gives (log π − log π_ref, gold).",
    ),
    Symptom(
        "sign of the KL",
        lambda record: _first(record, lambda f: _like(f, "kl", -f.true("kl"))),
        "Your KL is negative: log π − log π_ref of answers drawn from π has a positive mean. Is the sign turned?",
    ),
    Symptom(
        "single answers made positive",
        lambda record: _first(record, lambda f: f.table("kl").allclose(_of_draws(f, lambda k, g: k.abs().mean()))),
        "You average |log π − log π_ref|. Single answers may have a negative log-ratio; their mean is the KL only with "
        "its signs.",
    ),
    Symptom(
        "sums in place of means",
        lambda record: _first(
            record,
            lambda f: any(
                f.table("kl").allclose(_of_draws(f, figure))
                for figure in (lambda k, g: k.sum(), lambda k, g: k.sum(0).mean(), lambda k, g: k.sum(1).mean())
            ),
        ),
        "Your figures are sums over answers, over prompts or over both. Asked are means over all M · K.",
    ),
    Symptom(
        "one answer in place of all",
        lambda record: _first(
            record,
            lambda f: (
                f.table("gold").allclose(_of_draws(f, lambda k, g: g[:, 0].mean()))
                or f.table("gold").allclose(_of_draws(f, lambda k, g: g[0].mean()))
            ),
        ),
        "You average a row or a column of what was drawn: one prompt, or one answer to each. Use all M · K.",
    ),
    Symptom(
        "the best answers only",
        lambda record: _first(
            record, lambda f: f.table("gold").allclose(_of_draws(f, lambda k, g: g.max(1).values.mean()))
        ),
        "You take the best answer to each prompt. That is the gold reward of best-of-K, another policy.",
    ),
    Symptom(
        "answers as if independent",
        _se_like(lambda gold: gold.std() / math.sqrt(gold.numel())),
        "Your error over prompts treats all M · K answers as independent. Answers to one prompt are alike: average "
        "them first, then take the standard error over the M prompts (section 4).",
    ),
    Symptom(
        "no root of M",
        _se_like(lambda gold: gold.mean(1).std()),
        "Your `gold_se` is the standard deviation of single prompts. The mean of M prompts has std/√M.",
    ),
    Symptom(
        "the root of K",
        _se_like(lambda gold: gold.mean(1).std() / math.sqrt(gold.shape[1])),
        "You divide by √K, the number of answers to a prompt. The mean is over M prompts: √M.",
    ),
    Symptom(
        "averaged over prompts",
        _se_like(lambda gold: gold.mean(0).std() / math.sqrt(gold.shape[1])),
        "You average over the prompts first, and take the error over the K answers. The other way round: `.mean(1)` "
        "is over the answers to a prompt.",
    ),
    Symptom(
        "the normal's factor",
        lambda record: _width(1.96)(record) or _width(2.0)(record),
        "Your intervals are 1.96 or 2 standard errors wide. With three seeds the factor for 95 % is 4.303 (section 3).",
    ),
    Symptom(
        "a bare standard error",
        _width(1.0),
        "Your intervals are one standard error wide. For 95 % with three seeds it is 4.303 of them (section 3).",
    ),
    Symptom(
        "std in place of its error",
        _width(STUDENT * math.sqrt(3)),
        "Your half-width is 4.303 standard deviations of single seeds. The mean of S seeds has std/√S.",
    ),
    Symptom(
        "S in place of S − 1",
        _width(STUDENT * math.sqrt(2 / 3)),
        "Your std over the seeds divides by S. From a sample it is S − 1 (`.std()` does so), which matters with three "
        "seeds.",
    ),
    Symptom(
        "the whole width",
        _width(2 * STUDENT),
        "You return the whole width of the interval. Asked is half of it: mean ± half.",
    ),
    Symptom(
        "everything kept",
        _keeps(lambda kl, gold: torch.ones_like(kl, dtype=torch.bool)),
        "You keep every price. The smallest ones here go too far: another one has less KL and more gold reward.",
    ),
    Symptom(
        "best for some price",
        _keeps(_hull),
        "You keep the prices that lie on the convex hull (dashed in section 2). Asked are all that no single one "
        "dominates.",
    ),
    Symptom(
        "chosen with all seeds",
        _chooses(lambda f: [PRICES[f.choice(range(len(f.seeds)))]] * len(f.seeds)),
        "You choose on all seeds at once: the same β three times. For each seed the others choose.",
    ),
    Symptom(
        "chosen by the seed itself",
        _chooses(lambda f: [PRICES[int(f.table("gold")[:, s].argmax())] for s in range(len(f.seeds))]),
        "Each seed chooses for itself in your answer. It must be left out: the two others choose.",
    ),
    Symptom(
        "no margin in the budget",
        _chooses(lambda f: f.choices(errors=0.0)),
        "You compare the mean KL alone with the budget. Add two standard errors over the seeds that choose (exercise "
        "7.3).",
    ),
    Symptom(
        "no budget",
        _chooses(lambda f: f.choices(budget=math.inf)),
        "Your choice never asks whether the KL is within the budget (exercise 7.3).",
    ),
    Symptom(
        "reported where it was chosen",
        _reports(_in_their_own_seeds),
        "You report the gold reward in the very seeds that chose: that is luck too. Report it in the seed left out.",
    ),
    Symptom(
        "reported over all seeds",
        _reports(lambda f: f.table("gold")[_where_chosen(f)].mean()),
        "You report the mean over all seeds, those included that chose. Only the seed left out counts.",
    ),
    Symptom(
        "the best mean reported",
        _reports(lambda f: f.table("gold").mean(1).max()),
        "You report the highest mean of the table. It was chosen for being high: report seeds that did not choose.",
    ),
)


def _of_draws(f: Frontier, figure: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """A figure (C, S) of what was drawn, if there was one draw a run, in order; else NaN."""
    if len(f.drawn) != len(PRICES) * len(f.seeds):
        return torch.full((len(PRICES), len(f.seeds)), math.nan).double()
    return torch.stack([figure(*drawn) for drawn in f.drawn]).reshape(len(PRICES), len(f.seeds)).double()


def _shows(records: Sequence[list[Frontier]]) -> str:
    """Coverage of the intervals, and what an honest report saves."""
    frontiers = [frontier for record in records for frontier in record]
    held, honest, lucky = [], [], []
    for f in frontiers:
        means, halves = (f.part(f"gold_{name}", len(PRICES)) for name in ("mean", "half"))
        held.append((means - f.bench.of_all_seeds).abs() <= halves)
        worth = f.bench.of_all_seeds[_where_chosen(f)].mean()
        honest.append(float(f.part("report", 2)[0] - worth))
        lucky.append(float(_in_their_own_seeds(f) - worth))
    held_share = torch.stack(held).float().mean()
    return (
        f"Of your {len(held) * len(PRICES)} intervals {held_share:.0%} contain the mean of all seeds (promised: 95 %). "
        f"Your reports are off by {sum(honest) / len(honest):+.3f} on average; reported where they were chosen, they "
        f"would be off by {sum(lucky) / len(lucky):+.3f}."
    )


capstone = Capstone(
    title="7.4 Capstone: a frontier from runs of your own",
    reference=measure_frontier,
    run=measure,
    seeds=3,
    steps=STEPS,
    symptoms=SYMPTOMS,
    shows=_shows,
    hints=(
        "How many runs are there, and which two numbers does each of them leave behind? Over what may you average, and "
        "which numbers must never have seen each other?",
        "Two kinds of error. Over prompts: first the mean over a prompt's answers, then std/√M. Over seeds: "
        "mean ± 4.303 · std/√S for S = 3. And what the other two seeds choose is reported in the third.",
        "1. A loop over prices and in it over seeds: train, draw, keep both tensors. 2. The mean of each, as tables "
        "(C, S). 3. gold.mean(1), its std, over √M. 4. Means and half-widths along the seeds. 5. The function of "
        "exercise 7.1 on the means. 6. For each seed: the columns of the other two; which prices are surely within the "
        "budget; of these the highest mean gold reward. 7. The gold reward of that price in the seed left out; of the "
        "three such numbers the mean and the half-width.",
        """def measure_frontier(train, draw, betas, seeds, budget):
    draws = [[draw(train(beta, seed)) for seed in seeds] for beta in betas]
    kl = torch.tensor([[float(kl.mean()) for kl, _ in row] for row in draws])
    gold = torch.tensor([[float(gold.mean()) for _, gold in row] for row in draws])
    gold_se = ...  # of each run: the mean over the answers to a prompt, then the error over the prompts
    half = lambda x: ...  # 95 % over the last axis
    chosen, unseen = [], []
    for s in range(len(seeds)):
        others = [i for i in range(len(seeds)) if i != s]
        surely = ...  # (C,): mean KL of the others, plus two standard errors
        best = int(torch.where(surely <= budget, gold[:, others].mean(1), -torch.inf).argmax())
        chosen.append(betas[best])
        unseen.append(...)
    parts = {"kl": kl, "gold": gold, "gold_se": gold_se, "chosen": chosen}
    return parts  # and the means, the half-widths, `kept` and `report`""",
    ),
    time_limit=30.0,
)
