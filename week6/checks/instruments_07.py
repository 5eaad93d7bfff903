"""What the symptoms of notebook 07's capstone read: which rule a part of a frontier follows, if not the right one."""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from week6.checks.bench_07 import PRICES, Frontier
from week6.checks.counterfactual import alike
from week6.checks.judging import Missing, Wrong, at, plain
from week6.checks.steps_07 import STEPS, unseen
from week6.pictures.frontier import frontier_of

RUNS, FIGURES, ERRORS, INTERVALS, KEPT, CHOSEN, REPORT = (step.title for step in STEPS)


def first(record: list[Frontier], holds: Callable[[Frontier], bool]) -> bool:
    """Whether something holds of the first frontier; False where a part that it needs is missing or misshapen."""
    try:
        return bool(record and holds(record[0]))
    except (Missing, Wrong):
        return False


def every(record: list[Frontier], holds: Callable[[Frontier], bool]) -> bool:
    """Whether something holds of every frontier."""
    return bool(record) and all(first([frontier], holds) for frontier in record)


def like(f: Frontier, name: str, other: Tensor) -> bool:
    """Whether a table is about another one of the bench's, cell by cell."""
    return bool(torch.allclose(f.table(name), other.double(), rtol=0.25, atol=0.15))


def se_like(rule: Callable[[Tensor], Tensor]) -> Callable[[list[Frontier]], bool]:
    """Whether the errors over prompts are those of another rule, applied to what was drawn for each run."""

    def recognised(record: list[Frontier]) -> bool:
        return first(
            record,
            lambda f: alike(
                f.table("gold_se") / of_draws(f, lambda k, g: rule(g)), torch.ones(f.table("gold_se").shape), 1e-3
            ),
        )

    return at(STEPS, ERRORS, recognised)


def widths(f: Frontier) -> Tensor:
    """The half-widths of the gold rewards in standard errors over the seeds."""
    return f.part("gold_half", len(PRICES)) / (f.table("gold").std(1) / math.sqrt(len(f.seeds)))


def width(factor: float) -> Callable[[list[Frontier]], bool]:
    """Whether the half-widths are so many standard errors over the seeds."""
    near = partial(first, holds=lambda f: alike(widths(f), factor * torch.ones(len(PRICES)), 0.003))
    return at(STEPS, INTERVALS, near)


def places(record: list[Frontier], which: int) -> bool:
    """Whether `train` got places, 0, 1, 2 and so on, where prices (0) or seeds (1) belong."""
    return any(
        {run[which] for run in f.trained} == set(range(n)) != set(right)
        for f in record
        for n, right in (((len(PRICES), PRICES), (len(f.seeds), f.seeds))[which],)
    )


def figure(name: str, *rules: Callable[[Tensor, Tensor], Tensor]) -> Callable[[list[Frontier]], bool]:
    """Whether a table follows one of these rules, applied to the log-ratios and rewards drawn for each run."""
    like = partial(first, holds=lambda f: any(f.table(name).allclose(of_draws(f, rule)) for rule in rules))
    return at(STEPS, FIGURES, like)


def paid_for_distance(f: Frontier) -> bool:
    """Whether the gold rewards are right less one multiple of the KL."""
    kl, gold = (of_draws(f, figure) for figure in (lambda k, g: k.mean(), lambda k, g: g.mean()))
    price = (gold - f.table("gold")) / kl
    return bool(price.abs().min() > 0.01 and torch.allclose(price, price.mean(), rtol=1e-2))


def other_unit(f: Frontier) -> bool:
    """Whether a table is a multiple of the right one."""
    kl, gold = (of_draws(f, figure) for figure in (lambda k, g: k.mean(), lambda k, g: g.mean()))
    factors = [f.table(name) / own for name, own in (("kl", kl), ("gold", gold))]
    return any(torch.allclose(x, x.mean(), rtol=1e-3) and abs(x.mean() - 1) > 0.01 for x in factors)


def in_other_cells(f: Frontier) -> bool:
    """Whether the right figures stand in each other's cells."""
    own = of_draws(f, lambda k, g: g.mean())
    return not alike(f.table("gold"), own) and alike(
        f.table("gold").flatten().sort().values, own.flatten().sort().values
    )


def of_another_run(f: Frontier) -> bool:
    """Whether the figures are right for what was drawn, though not for the runs."""
    kl, gold = (of_draws(f, figure) for figure in (lambda k, g: k.mean(), lambda k, g: g.mean()))
    return alike(f.table("kl"), kl) and alike(f.table("gold"), gold)


def mean_like(rule: Callable[[Tensor], Tensor]) -> Callable[[list[Frontier]], bool]:
    """Whether the means over the seeds are another figure of each row."""
    like = partial(first, holds=lambda f: alike(f.part("gold_mean", len(PRICES)), rule(f.table("gold"))))
    return at(STEPS, INTERVALS, like)


def half_like(rule: Callable[[Tensor], Tensor]) -> Callable[[list[Frontier]], bool]:
    """Whether the half-widths follow another rule, applied to the table of the gold rewards."""
    like = partial(
        first,
        holds=lambda f: alike(f.part("gold_half", len(PRICES)) / rule(f.table("gold")), torch.ones(len(PRICES)), 1e-3),
    )
    return at(STEPS, INTERVALS, like)


def over_the_prices(record: list[Frontier]) -> bool:
    """Whether a mean or a half-width has a number for each seed."""
    names = ("kl_mean", "gold_mean", "kl_half", "gold_half")
    shapes = [tuple(torch.as_tensor(plain(record[0].parts[name])).shape) for name in names if name in record[0].parts]
    return (len(record[0].seeds),) in shapes


def keeps(rule: Callable[[Tensor, Tensor], Tensor]) -> Callable[[list[Frontier]], bool]:
    """Whether what is kept follows another rule, in all frontiers."""

    def same(f: Frontier) -> bool:
        means = (f.part(f"{name}_mean", len(PRICES)) for name in ("kl", "gold"))
        return torch.equal(f.part("kept", len(PRICES)).bool(), rule(*means))

    return at(STEPS, KEPT, partial(every, holds=same))


def chooses(rule: Callable[[Frontier], list[float]]) -> Callable[[list[Frontier]], bool]:
    """Whether what is chosen follows another rule, in all frontiers."""
    same = partial(
        every, holds=lambda f: torch.allclose(f.part("chosen", len(f.seeds)), torch.tensor(rule(f)).double())
    )
    return at(STEPS, CHOSEN, same)


def reports(rule: Callable[[Frontier], Tensor]) -> Callable[[list[Frontier]], bool]:
    """Whether the mean that is reported follows another rule, in all frontiers."""
    same = partial(every, holds=lambda f: abs(float(f.part("report", 2)[0] - rule(f))) < 1e-3)
    return at(STEPS, REPORT, same)


def report_half(rule: Callable[[Tensor], Tensor]) -> Callable[[list[Frontier]], bool]:
    """Whether the half-width that is reported follows another rule, applied to the rewards in the unseen seeds."""
    same = partial(every, holds=lambda f: math.isclose(f.part("report", 2)[1], rule(unseen(f)), rel_tol=1e-3))
    return at(STEPS, REPORT, same)


def without(f: Frontier, rule: Callable[[Tensor, Tensor], Tensor]) -> list[float]:
    """What a rule chooses without each seed; it gets the KL and the gold rewards (C, S − 1) of the others."""
    n = len(f.seeds)
    others = [[i for i in range(n) if i != s] for s in range(n)]
    return [PRICES[int(rule(f.table("kl")[:, o], f.table("gold")[:, o]))] for o in others]


def surely(kl: Tensor) -> Tensor:
    """The mean KL and two standard errors."""
    return kl.mean(1) + 2 * kl.std(1) / math.sqrt(kl.shape[1])


def best(f: Frontier, worth: Callable[[Tensor, Tensor], Tensor]) -> list[float]:
    """What is allowed and has the highest worth, by KL and gold rewards of the two other seeds."""
    return without(f, lambda k, g: torch.where(surely(k) <= f.budget, worth(k, g), -torch.inf).argmax())


def among_the_allowed(f: Frontier, kl: Tensor, gold: Tensor, flip: bool = False) -> Tensor:
    """The place of the best among the allowed ones, from the front or from the end."""
    allowed = gold.mean(1)[surely(kl) <= f.budget]
    return (allowed.flip(0) if flip else allowed).argmax()


def by_one(f: Frontier, which: int) -> list[float]:
    """What one of the other seeds chooses by itself."""
    return without(f, lambda k, g: torch.where(k[:, which] <= f.budget, g[:, which], -torch.inf).argmax())


def hull(kl: Tensor, gold: Tensor) -> Tensor:
    """What is best for some price of KL."""
    prices = torch.logspace(-4, 4, 2001, dtype=kl.dtype)
    best = (gold - prices[:, None] * kl).argmax(-1)
    return torch.isin(torch.arange(len(kl)), best)


def where_chosen(f: Frontier) -> list[int]:
    """The places of the chosen prices."""
    return [PRICES.index(min(PRICES, key=lambda p: abs(p - beta))) for beta in f.part("chosen", len(f.seeds)).tolist()]


def in_their_own_seeds(f: Frontier) -> Tensor:
    """The gold reward of the chosen prices in the very seeds that chose them."""
    gold, places = f.table("gold"), range(len(f.seeds))
    values = [gold[c, [i for i in places if i != s]].mean() for s, c in enumerate(where_chosen(f))]
    return torch.stack(values).mean()


def of_draws(f: Frontier, figure: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """A figure (C, S) of what was drawn, if there was one draw a run, in order; else NaN."""
    if len(f.drawn) != len(PRICES) * len(f.seeds):
        return torch.full((len(PRICES), len(f.seeds)), math.nan).double()
    return torch.stack([figure(*drawn) for drawn in f.drawn]).reshape(len(PRICES), len(f.seeds)).double()


MEDIANS = (("kl", lambda k, g: k.median()), ("gold", lambda k, g: g.median()))
SPREADS = (("kl", lambda k, g: k.std()), ("gold", lambda k, g: g.std()))
OTHER_FIGURES = (
    lambda k, g: k.mean(1), lambda k, g: -k.mean(1), lambda k, g: -g.mean(1), lambda k, g: (g / k).mean(1),
    lambda k, g: (g - k).mean(1), lambda k, g: g.max(1).values, lambda k, g: g.min(1).values,
)  # fmt: skip
WITHIN = (
    lambda gold: gold.std(1).mean() / math.sqrt(len(gold)), lambda gold: gold.std(1).mean() / math.sqrt(gold.shape[1]),
    lambda gold: gold.std(1).mean() / math.sqrt(gold.numel()), lambda gold: gold.std(1).mean(),
)  # fmt: skip


def times(factor: float, gold: Tensor) -> Tensor:
    """So many standard errors over the prompts."""
    return factor * gold.mean(1).std() / math.sqrt(len(gold))


def signed(a: int, b: int, kl: Tensor, gold: Tensor) -> Tensor:
    """The frontier with an axis turned round."""
    return frontier_of(a * kl, b * gold)


def error_ratios(f: Frontier) -> Tensor:
    """The errors over prompts, divided by the right ones."""
    return f.table("gold_se") / of_draws(f, lambda k, g: times(1.0, g))


def seeds_moved(f: Frontier) -> list[float]:
    """The mean gold reward of what was chosen, in seeds that are shifted against those that were left out."""
    gold, places = f.table("gold"), where_chosen(f)
    n = len(f.seeds)
    return [float(torch.stack([gold[c, (s + k) % n] for s, c in enumerate(places)]).mean()) for k in range(1, n)]


def in_places(f: Frontier) -> list[float]:
    """The right choices as places among the prices."""
    return [float(PRICES.index(beta)) for beta in f.choices()]


def is_multiple(f: Frontier) -> bool:
    """Whether all half-widths of the gold rewards are one multiple of the standard errors."""
    return bool(widths(f).std() < 1e-3 * widths(f).mean())


def too_far(f: Frontier) -> bool:
    """Whether a price was chosen whose KL is not surely within the budget."""
    return (
        any(beta not in _allowed(f, s) for s, beta in enumerate(f.part("chosen", len(f.seeds)).tolist()))
        and f.choices() != f.part("chosen", len(f.seeds)).tolist()
    )


def _allowed(f: Frontier, s: int) -> list[float]:
    others = [i for i in range(len(f.seeds)) if i != s]
    inside = surely(f.table("kl")[:, others]) <= f.budget
    return [beta for beta, good in zip(PRICES, inside.tolist(), strict=True) if good]
