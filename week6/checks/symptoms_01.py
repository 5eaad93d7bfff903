"""The symptoms of notebook 01's capstone: what mistakes make of the fit, and of its end."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from week6.checks.bench_01 import GROUP, STEPS, TOP_GAP, Table, has_a_best_fit, is_at_the_top, rounds, ties_are_halved
from week6.checks.capstone import Symptom
from week6.checks.counterfactual import Slip, alike, slips
from week6.checks.judging import at
from week6.checks.symptoms_01_table import OF_THE_TABLE, Fits

# --- the top ----------------------------------------------------------------------------------------------------------

STILL = 0.02
"""The size below which a gradient counts as 0: ten times what a fit leaves that averages over the answers."""


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
    tables = [record[name] for name in ("plain", "penalised", "never loses, with a penalty")]
    if max(table.steepest for table in tables) < STILL:
        return False
    for table in tables:
        r, counts = table.rewards, won(table)
        expected = (counts + counts.T) * win(r[:, None] - r[None, :])
        if not (summed(counts - expected) - penalty(table, r)).abs().max() < STILL:
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
    best = [(table.rewards, table.best(table.l2)) for table in record.values() if table.finite and table.tolerance < 1]
    return all(b is not None and alike(r, shown(b), 1e-2) for r, b in best)


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
    best = record["plain"].best(0.0)
    return best is not None and float(record["plain"].rewards @ best) < 0


def _only_shifted(record: Fits) -> bool:
    tables = [table for table in record.values() if table.finite and table.tolerance < 1]
    best = [(table.rewards, table.best(table.l2)) for table in tables]
    return all(b is not None and bool(torch.allclose(r - r.mean(), b, atol=1e-2)) for r, b in best)


# --- the end ----------------------------------------------------------------------------------------------------------


def _wrong_tops(record: Fits) -> set[bool]:
    """Whether l2 > 0, of each table whose rewards are not at the top."""
    return {table.l2 > 0 for table in record.values() if table.finite and table.tolerance < 1 and table.gap >= TOP_GAP}


def _in_order(record: Fits) -> bool:
    """Whether all rewards are in the right order, and those of the plain table, which is no long way, wrong."""
    pairs = [(t.rewards, t.best(t.l2)) for t in record.values() if t.finite and t.tolerance < 1]
    return record["plain"].gap >= TOP_GAP and all(
        b is not None and len(set(r.tolist())) == len(r) and torch.equal(r.argsort(), b.argsort()) for r, b in pairs
    )


def _unfinished(table: Table) -> bool:
    return table.finite and table.steepest > 1.5 * table.tolerance


def _has_a_limit(record: Fits) -> bool:
    """Whether three tables or more, unfinished all of them, took the largest number of rounds."""
    tables = [table for table in record.values() if table.finite and table.tolerance < 1]
    longest = [table for table in tables if int(table.found["rounds"]) == max(rounds(record))]
    return len(longest) >= 3 and all(map(_unfinished, longest))


def _on_the_way(record: Fits) -> bool:
    """Whether the fits stopped on the way to the right top: the slow table's two groups are fitted, each within
    itself, and only their distance is not."""
    if ties_are_halved(record) != "" or record["plain"].gap >= TOP_GAP or not _unfinished(record["slow"]):
        return False
    r, best = record["slow"].rewards, record["slow"].best(0.0)
    assert best is not None
    return all(alike(r[group] - r[group].mean(), best[group] - best[group].mean(), 0.05) for group in (GROUP, ~GROUP))


def _stopped_by(record: Fits, *, size: Callable[[Tensor, Table], Tensor] = lambda g, table: g.abs().max()) -> bool:
    """Whether the fits stopped too early, as soon as this size of the gradient was within the tolerance. Where the
    way is long, a step changes it little, so that it is just within."""
    if ties_are_halved(record) != "" or has_a_best_fit(record) != "":
        return False
    sizes = {
        name: float(size(table.gradient, table)) / table.tolerance for name, table in record.items() if table.finite
    }
    early = any(map(_unfinished, record.values()))
    slow = (sizes["slow"], sizes["held by a tie"])
    return early and max(sizes.values()) <= 1 and min(slow) > 0.97


_SIZE = (
    Slip(
        "the gradient without its negative entries",
        (lambda g, table: g.max(), lambda g, table: -g.min()),
        "You look at the largest entry of the gradient with its sign, so that large negative ones do not count. Take "
        "the sizes first: abs().",
    ),
    Slip(
        "one entry of the gradient",
        (lambda g, table: g[0].abs(), lambda g, table: g[-1].abs()),
        "You look at one entry of the gradient. *All* must be within the tolerance: look at the largest.",
    ),
    Slip(
        "a mean of the gradient",
        (
            lambda g, table: g.abs().mean(),
            lambda g, table: g.square().mean().sqrt(),
            lambda g, table: g.square().mean(),
            lambda g, table: g.square().sum(),
            lambda g, table: g.abs().median(),
        ),
        "You look at a mean or a sum of sizes or of squares of the gradient's entries. One of them may be large where "
        "the mean is small: the *largest* must be within the tolerance.",
    ),
    Slip(
        "a gradient divided by a number",
        (
            lambda g, table: g.abs().max() / len(g),
            lambda g, table: g.abs().max() / (len(g) - 1),
            lambda g, table: g.abs().max() / table.counts.sum(),
            lambda g, table: (g / (table.counts + table.counts.T).sum(1)).abs().max(),
            lambda g, table: g.abs().max() / table.rewards.abs().max(),
            lambda g, table: g.abs().max() / table.rewards.norm(),
            lambda g, table: g.abs().max() / (table.counts + table.counts.T).sum(1).max(),
        ),
        "What you compare with the tolerance is the gradient divided by a number: of answers, of comparisons. The "
        "slope of (18) is a sum over the opponents, not a mean.",
    ),
    Slip(
        "another tolerance",
        (
            lambda g, table: g.abs().max() * table.tolerance**0.5,
            lambda g, table: g.abs().max() / 2,
            lambda g, table: g.abs().max() / 10,
        ),
        "You stop at another tolerance than the one that came.",
    ),
)

SYMPTOMS = (
    *OF_THE_TABLE,
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
        lambda record: (
            _only_shifted(record)
            and any(abs(float(table.rewards.sum())) > 1e-2 for table in record.values() if table.finite)
        ),
        "All differences of your rewards are right, but they do not sum to 0. Subtract their mean.",
    ),
    *slips(_solves, penalty=(*_PRICE, _AS_COUNTS), won=_COUNTED, win=_WIN, summed=_SUMMED),
    Symptom(
        "stopped at once",
        lambda record: max(rounds(record)) <= 1 and _unfinished(record["plain"]),
        "You stop after one round at most. The *sum* (and the mean) of the gradient's entries is 0 everywhere: look at "
        "the largest one, without its sign.",
    ),
    Symptom(
        "a fixed number of rounds",
        lambda record: len(set(rounds(record))) == 1 and max(rounds(record)) > 1,
        "Every table took the same number of rounds: that is no stopping rule. Some tables need a hundred times as "
        "many as others. Go on until the gradient says that you have arrived.",
    ),
    Symptom(
        "rounds not counted",
        at(STEPS, "the stopping rule", lambda record: not any(map(_unfinished, record.values()))),
        "Your fits end where they should, and `rounds` does not say how many rounds they took: it is set once, to 0, "
        "before the loop, and grows by 1 in each round.",
    ),
    Symptom(
        "a largest number of rounds",
        _has_a_limit,
        "Several tables took the same largest number of rounds, and were not finished then. A limit on the rounds is "
        "no reason to be content.",
    ),
    *slips(_stopped_by, size=_SIZE),
    Symptom(
        "the size of a step",
        _on_the_way,
        "You stop too early, most of all on the slow table. What you compare with the tolerance becomes small sooner "
        "than the largest entry of the gradient: the length of the last step, how much ℓ rose, a share, a norm or a "
        "mean of the gradient? Small steps are no sign of a top, nor is a small mean. The *largest* entry must be "
        "within the tolerance, whatever its sign.",
    ),
    Symptom(
        "right in order, wrong in size",
        at(STEPS, "the top", _in_order),
        "Your rewards have the right order on every table, and lie too close together or too far apart: a factor or a "
        "curve is wrong, in what you fit or in what you return.",
    ),
    Symptom(
        "the penalty is wrong",
        at(STEPS, "the top", lambda record: _wrong_tops(record) == {True}),
        "Where there is no penalty your rewards are right; where there is one they are not. Its slope by r_i is "
        "−l2 · r_i, in every round, and the penalised gradient is the one that must become small.",
    ),
    Symptom(
        "stopped too early",
        at(STEPS, "the stopping rule", lambda record: any(map(_unfinished, record.values()))),
        "Where you stop, the gradient of (18) has entries larger than the tolerance: what you compare with it becomes "
        "small sooner. The largest entry, without its sign, decides.",
    ),
)
