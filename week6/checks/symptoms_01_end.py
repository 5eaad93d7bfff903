"""The symptoms of notebook 01's capstone at the end: what mistakes make of the stopping rule."""

from collections.abc import Callable

import torch
from torch import Tensor

from week6.checks.bench_01 import GROUP, STEPS, TOP_GAP, Table, has_a_best_fit, rounds, ties_are_halved
from week6.checks.capstone import Symptom
from week6.checks.counterfactual import Slip, alike, slips
from week6.checks.judging import at
from week6.checks.symptoms_01_table import Fits
from week6.checks.symptoms_01_top import top


def _unfinished(table: Table) -> bool:
    return table.finite and table.steepest > 1.5 * table.tolerance


def _stiffness(table: Table, along: Tensor) -> float:
    """How much ℓ falls from the top in a direction (Rayleigh quotient of the negative Hessian), by the square of its
    length."""
    p = torch.sigmoid(top(table)[:, None] - top(table)[None, :])
    weight = (table.counts + table.counts.T) * p * (1 - p)
    hessian = weight.sum(1).diag() - weight + table.l2 * torch.eye(len(p), dtype=p.dtype)
    return float(along @ hessian @ along / (along @ along))


def _on_the_way(table: Table) -> bool:
    """Whether the rewards lie between zeros and the top: higher than zeros, and what is left to go is no steeper than
    the whole way, as steep directions are climbed first."""
    best, r = top(table), table.rewards
    higher = table.height(r) > table.height(torch.zeros_like(r))
    return higher and abs(float(r.sum())) < 1e-2 and _stiffness(table, best - r) < 1.05 * _stiffness(table, best)


def _not_begun(record: Fits) -> bool:
    """Whether the rewards are zeros, or one step up from there."""
    table = record["plain"]
    slope = (table.counts - (table.counts + table.counts.T) / 2).sum(1)
    return bool((table.rewards == 0).all()) or float(torch.cosine_similarity(table.rewards, slope, dim=0)) > 1 - 1e-9


def _fixed(record: Fits) -> bool:
    tables = [table for table in record.values() if table.finite]
    return len(set(rounds(record))) == 1 and all(not _unfinished(t) or _on_the_way(t) for t in tables)


def _has_a_limit(record: Fits) -> bool:
    """Whether three tables or more, on the way all of them, took the largest number of rounds."""
    tables = [table for table in record.values() if table.finite and table.tolerance < 1]
    longest = [table for table in tables if int(table.found["rounds"]) == max(rounds(record))]
    return (
        max(rounds(record)) > 1
        and len(longest) >= 3
        and all(_unfinished(table) and _on_the_way(table) for table in longest)
    )


def _same_for_any(record: Fits) -> bool:
    """Whether a looser tolerance leads to the same rewards after as many rounds."""
    loose, tight = record["loose"], record["slow"]
    same = int(loose.found["rounds"]) == int(tight.found["rounds"]) > 1
    return same and alike(loose.rewards, tight.rewards, 1e-9)


def _long_way_unfinished(record: Fits) -> bool:
    """Whether the fits stopped on the way to the right top: the slow table's two groups are fitted, each within
    itself, and only their distance is not."""
    if ties_are_halved(record) != "" or record["plain"].gap >= TOP_GAP:
        return False
    if not _unfinished(record["slow"]) or not _on_the_way(record["slow"]):
        return False
    r, best = record["slow"].rewards, top(record["slow"])
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


def _one_entry(record: Fits) -> bool:
    """Whether the first entry of the gradient is within the tolerance on every table, or the last one, and others on
    three tables or more are not."""
    tables = [table for table in record.values() if table.finite]
    within = any(all(abs(float(t.gradient[i])) <= t.tolerance for t in tables) for i in (0, -1))
    return within and sum(map(_unfinished, tables)) >= 3 and _on_the_way(record["slow"])


_SIZE = (
    Slip(
        "the gradient without its negative entries",
        (lambda g, table: g.max(), lambda g, table: -g.min()),
        "You look at the largest entry of the gradient with its sign, so that large negative ones do not count. Take "
        "the sizes first: abs().",
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


OF_THE_END: tuple[Symptom, ...] = (
    Symptom(
        "stopped at once",
        lambda record: max(rounds(record)) <= 1 and _unfinished(record["plain"]) and _not_begun(record),
        "You stop after one round at most. The *sum* (and the mean) of the gradient's entries is 0 everywhere: look at "
        "the largest one, without its sign.",
    ),
    Symptom(
        "a fixed number of rounds",
        lambda record: max(rounds(record)) > 1 and _fixed(record),
        "Every table took the same number of rounds: that is no stopping rule. Some tables need a hundred times as "
        "many as others. Go on until the gradient says that you have arrived.",
    ),
    Symptom(
        "the tolerance is not used",
        at(STEPS, "the stopping rule", _same_for_any),
        "On the same table you stop at the same place, whatever the tolerance: compare with the one that came.",
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
        "one entry of the gradient",
        _one_entry,
        "You look at one entry of the gradient. *All* must be within the tolerance: look at the largest.",
    ),
    Symptom(
        "the size of a step",
        _long_way_unfinished,
        "You stop too early, most of all where two groups have a single pair between them. What you compare with the "
        "tolerance becomes small sooner than the largest entry of the gradient: the length of the last step, how much "
        "ℓ rose, a share, a norm or a mean of the gradient? Small steps are no sign of a top, nor is a small mean. The "
        "*largest* entry must be within the tolerance, whatever its sign.",
    ),
)

STOPPED_TOO_EARLY = Symptom(
    "stopped too early",
    at(STEPS, "the stopping rule", lambda record: any(map(_unfinished, record.values()))),
    "Where you stop, the gradient of (18) has entries larger than the tolerance. Either what you compare with it "
    "becomes small sooner, or the rewards that you return are others than those that you looked at. The largest entry "
    "of the gradient at *them*, without its sign, decides.",
)
