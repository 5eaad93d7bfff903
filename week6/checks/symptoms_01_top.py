"""The symptoms of notebook 01's capstone at the top: what the rewards are the best for, and which part made them so."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from week6.checks.bench_01 import STEPS, TOP_GAP, Table, has_a_best_fit, is_at_the_top, ties_are_halved
from week6.checks.capstone import Symptom
from week6.checks.counterfactual import Slip, alike, slips
from week6.checks.judging import at
from week6.checks.symptoms_01_table import Fits

PENALISED = ("penalised", "never loses, with a penalty")
STILL = 0.02
"""The size below which a gradient counts as 0: ten times what a fit leaves that averages over the answers."""

SHARE = 0.05
"""The share of a penalty's slope within which a gradient counts as equal to it: a fit that looks at a mean over the
comparisons is as far away from its top as that."""


def top(table: Table) -> Tensor:
    """The right rewards of a table that has a finite best fit."""
    best = table.best(table.l2)
    assert best is not None
    return best


def _solves(
    record: Fits,
    *,
    penalty: Callable[[Table, Tensor], Tensor] = lambda table, r: table.l2 * r,
    won: Callable[[Table], Tensor] = lambda table: table.counts,
    win: Callable[[Tensor], Tensor] = torch.sigmoid,
    summed: Callable[[Tensor], Tensor] = lambda x: x.sum(1),
) -> bool:
    """Whether the gradient (18) is not 0 at the rewards, and with this instead of that it is."""
    if ties_are_halved(record) != "" or has_a_best_fit(record) != "" or not is_at_the_top(record):
        return False
    tables = [record[name] for name in ("plain", *PENALISED)]
    if max(table.steepest for table in tables) < STILL:
        return False
    for table in tables:
        r, counts = table.rewards, won(table)
        expected = (counts + counts.T) * win(r[:, None] - r[None, :])
        price = penalty(table, r)
        if table.l2 == 0 and table.gap < TOP_GAP:
            continue
        if not (summed(counts - expected) - price).abs().max() < STILL + SHARE * price.abs().max():
            return False
    return True


_PRICE = (
    Slip(
        "no penalty",
        (lambda table, r: 0 * r,),
        "Your rewards are those without the penalty. The gradient of (18) has one term more: −l2 · r_i.",
    ),
    Slip(
        "twice the penalty",
        (lambda table, r: 2 * table.l2 * r,),
        "You penalise twice as much as (18): its penalty is l2 / 2 · Σ r², and the gradient of that is l2 · r_i.",
    ),
    Slip(
        "half the penalty",
        (lambda table, r: table.l2 / 2 * r,),
        "You penalise half as much as (18): the gradient of l2 / 2 · Σ r² by r_i is l2 · r_i.",
    ),
    Slip(
        "penalty by the number of answers",
        (
            lambda table, r: table.l2 * len(r) * r,
            lambda table, r: table.l2 * (len(r) - 1) * r,
            lambda table, r: table.l2 / len(r) * r,
            lambda table, r: table.l2 * table.counts.sum() * r,
        ),
        "You penalise too much or too little by the number of answers, or of comparisons: (18) is a *sum* over the "
        "comparisons minus l2 / 2 · Σ r². If you take a mean of one of the two, you change the price of the other.",
    ),
    Slip(
        "another power in the penalty",
        (
            lambda table, r: table.l2 * r.square(),
            lambda table, r: table.l2 / 2 * r.square(),
            lambda table, r: table.l2 * r.sign(),
            lambda table, r: table.l2 * r**3,
            lambda table, r: table.l2 * r * r.abs(),
            lambda table, r: table.l2**2 * r,
            lambda table, r: table.l2**0.5 * r,
            lambda table, r: table.l2 * torch.ones_like(r),
        ),
        "The term of the penalty in your gradient is not −l2 · r_i, the slope of −l2 / 2 · Σ r²: it has another power.",
    ),
)
_AS_COUNTS = Slip(
    "penalty as counts",
    tuple(
        lambda table, r, x=x: (
            x * table.l2 * ((r[:, None] - r[None, :]) / 2).tanh().sum(1)
        )  # x l2 wins in each direction
        for x in (1.0, 0.5, 2.0)
    ),
    "You add the penalty to the counts. It is a term of the objective (18), and of its gradient: −l2 · r_i.",
)
_COUNTED = (
    Slip(
        "fitted to rates",
        (lambda table: table.counts / (table.counts + table.counts.T).clamp(min=1),),
        "You fit the *rates* of the pairs, so that each weighs the same. Pairs that met more often say more: the slope "
        "of (18) is made of counts.",
    ),
    Slip(
        "fitted without the ties",
        (lambda table: table.wins, lambda table: table.wins + table.ties),
        "Your counts are right, and your rewards are the best for others, with ties dropped or counted whole.",
    ),
)
_SUMMED = (
    Slip(
        "half of the pairs",
        (lambda x: x.triu().sum(1), lambda x: x.tril().sum(1), lambda x: x.triu().sum(0)),
        "Each pair counts for one of its two answers only. The slope of r_i is a sum over *all* opponents of i.",
    ),
)
_WIN = (
    Slip(
        "another curve",
        (
            lambda d: torch.special.ndtr(d),
            lambda d: torch.sigmoid(2 * d),
            lambda d: torch.sigmoid(d / 2),
            lambda d: torch.sigmoid(d * math.log(10)),
            lambda d: torch.sigmoid(d * math.log(2)),
        ),
        "Your expected wins follow another curve than σ(r_i − r_j), or the difference times a constant.",
    ),
)


def _shown_are(record: Fits, *, shown: Callable[[Tensor], Tensor] = lambda r: r) -> bool:
    """Whether the rewards are wrong, and these figures of the right ones."""
    if ties_are_halved(record) != "" or has_a_best_fit(record) != "" or not is_at_the_top(record):
        return False
    tables = [table for table in record.values() if table.finite and table.tolerance < 1]
    return all(alike(table.rewards, shown(top(table)), 1e-2) for table in tables)


_SHOWN = (
    Slip(
        "strengths",
        (torch.exp, lambda r: r.exp() / r.exp().sum(), lambda r: r.exp() / r.exp().mean(), torch.sigmoid),
        "Those are strengths or probabilities, positive numbers. A reward is the logarithm of a strength.",
    ),
    Slip(
        "another unit",
        tuple(lambda r, x=x: x * r for x in (1 / math.log(2), 1 / math.log(10), 400 / math.log(10), 0.5, 0.9, 2.0)),
        "Your rewards are the right ones times a constant. With σ(r_i − r_j) they have a unit: natural logarithms.",
    ),
    Slip(
        "ranks",
        (
            lambda r: r.argsort().argsort(),
            lambda r: r.argsort().argsort() + 1,
            lambda r: r.argsort(),
            lambda r: r.argsort().argsort() - (len(r) - 1) / 2,
        ),
        "Those are ranks, or the answers in order. How far two rewards are apart is what was fitted.",
    ),
    Slip(
        "standardised",
        (lambda r: (r - r.mean()) / r.std(), lambda r: r / r.std(correction=0), lambda r: r / r.norm()),
        "Your rewards are divided by their spread. It means something: how often the better answer wins. Only the zero "
        "point is free.",
    ),
)


def _upside_down(record: Fits) -> bool:
    """Whether the worse of two answers is the better one, and longer tables point away from the right rewards."""
    tables = [record[name] for name in ("two answers", "plain", "renumbered", "without ties", "slow")]
    return all(float(table.rewards @ top(table)) < 0 for table in tables)


def _only_shifted(record: Fits) -> bool:
    """Whether the rewards of all tables are the right ones, and on some the same number more, far from 0."""
    off = [table.rewards - top(table) for table in record.values() if table.finite and table.tolerance < 1]
    spread = max(float((x - x.mean()).abs().max()) for x in off)
    return spread < 1e-2 and max(abs(float(x.mean())) for x in off) > 5 * spread


def _right(table: Table) -> bool:
    return table.gap < TOP_GAP and abs(float(table.rewards.sum())) < 1e-2


def _priced(table: Table, still: float = STILL) -> float | None:
    """The penalty whose top the rewards are, or None where they are the top for none."""
    r, slope = table.rewards, table.gradient + table.l2 * table.rewards
    price = float(slope @ r / (r @ r))
    return price if float((slope - price * r).abs().max()) < still + SHARE * float(slope.abs().max()) else None


def _of_another_size(record: Fits) -> bool:
    prices = [_priced(record[name]) for name in PENALISED]
    return _right(record["plain"]) and all(p is not None and p > 0 for p in prices)


def _unasked(record: Fits) -> bool:
    """Whether tables without a penalty, a short way and a long one, are fitted with one and the same."""
    tables = [record["plain"], record["slow"]]
    prices = [_priced(table, still=2 * table.tolerance) or 0.0 for table in tables]
    felt = all(p * float(t.rewards.abs().max()) > 5 * t.tolerance for p, t in zip(prices, tables, strict=True))
    return felt and abs(prices[1] / prices[0] - 1) < 0.1


OF_THE_TOP: tuple[Symptom, ...] = (
    Symptom(
        "not a number",
        lambda record: any(not bool(torch.isfinite(table.rewards).all()) for table in record.values() if table.finite),
        "Some rewards are nan or infinite. Does a step overshoot (2 / n_max is never too long without a penalty), or "
        "is there a logarithm of 0?",
    ),
    *slips(_shown_are, shown=_SHOWN),
    Symptom(
        "upside down",
        at(STEPS, "the top", _upside_down),
        "Your rewards are upside down: you go downhill on ℓ, or the table is read with losers first.",
    ),
    Symptom(
        "no zero point",
        at(STEPS, "the top", _only_shifted),
        "All differences of your rewards are right, but they do not sum to 0. Subtract their mean.",
    ),
    *slips(_solves, penalty=(*_PRICE, _AS_COUNTS), won=_COUNTED, win=_WIN, summed=_SUMMED),
    Symptom(
        "a penalty that nobody asked for",
        _unasked,
        "Where l2 = 0 your rewards are the best for a penalty: something pulls them to 0, the same on every table. "
        "Is a small number added somewhere, for safety?",
    ),
)

# --- where no formula explains them, which part is wrong: tables that differ in one thing tell -----------------------


def _wrong_penalty(record: Fits) -> bool:
    """Whether tables are wrong, all of them with a penalty."""
    wrong = [table.l2 > 0 for table in record.values() if table.finite and table.tolerance < 1 and not _right(table)]
    return all(wrong)


def _ties_in_the_fit(record: Fits) -> bool:
    """Whether the plain table is fitted wrong, and far better where its ties are wins of both."""
    tied, alone = record["plain"], record["without ties"]
    far = tied.gap > 10 * max(alone.gap, TOP_GAP / 10) or abs(float(tied.rewards.sum())) > 0.1
    return not _right(tied) and _right(alone) and far


def _by_number(record: Fits) -> bool:
    """Whether the same table with the answers numbered from the other end gets other rewards."""
    return not alike(record["plain"].rewards, record["renumbered"].rewards.flip(0), 0.05)


def _drifts(record: Fits) -> bool:
    return all(abs(float(record[name].rewards.sum())) > 1 for name in ("plain", "renumbered", "slow"))


def _runs_away(record: Fits) -> bool:
    tables = [record[name] for name in ("plain", "renumbered", "without ties")]
    return all(float(t.rewards.abs().max()) > 10 * float(top(t).abs().max()) for t in tables)


BY_PARTS = tuple(
    Symptom(name, at(STEPS, "the top", seen), message)
    for name, seen, message in (
        (
            "a penalty of another size",
            _of_another_size,
            "Where l2 > 0 your rewards are the best for another penalty than l2 / 2 · Σ r², larger or smaller: its "
            "slope is −l2 · r_i, beside a *sum* over the comparisons.",
        ),
        (
            "the penalty is wrong",
            _wrong_penalty,
            "Where there is no penalty your rewards are right; where there is one they are not. Its slope by r_i is "
            "−l2 · r_i, in every round, and the penalised gradient is the one that must become small.",
        ),
        (
            "the ties in the fit",
            _ties_in_the_fit,
            "Your counts are right, and without ties your rewards are, too; with ties they are not. The ties must be "
            "in both: in the actual wins, half each, and in n_ij, the comparisons of a pair.",
        ),
        (
            "by the number",
            _by_number,
            "Your rewards depend on how the answers are numbered: the same table in another order gets others. Does "
            "something look at one triangle of the table, one row or the first answer only?",
        ),
        (
            "another total",
            _drifts,
            "Your rewards do not keep their sum as you climb, and their differences are wrong. What one wins the other "
            "has lost: actual and expected wins have the same total, and the slopes (13) sum to 0. Is n_ij the number "
            "of *all* comparisons of a pair, in both directions?",
        ),
        (
            "run away",
            _runs_away,
            "Your rewards run away: on a table with a finite best fit they are more than ten times too large.",
        ),
        (
            "more than two answers",
            lambda record: _right(record["two answers"]) and not _right(record["without ties"]),
            "With two answers alone your rewards are right, with more they are not: look at the sum over the opponents "
            "of an answer, each with a reward and a number of comparisons of its own, and at what follows it.",
        ),
        (
            "two answers",
            lambda record: not _right(record["two answers"]) and not _right(record["without ties"]),
            "Even with two answers, and no tie and no penalty, your rewards are wrong. There the top is known: "
            "r_0 − r_1 is the logarithm of wins[0, 1] / wins[1, 0]. Try your function on such a table.",
        ),
    )
)
