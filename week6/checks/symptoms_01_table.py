"""The symptoms of notebook 01's capstone before the fit: what mistakes make of the counts, and of Ford's rule."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from week6.checks.bench_01 import Table, has_a_best_fit, ties_are_halved
from week6.checks.capstone import Symptom
from week6.checks.counterfactual import Slip, alike, slips

Fits = Mapping[str, Table]

# --- counts -----------------------------------------------------------------------------------------------------------


def _counts_are(
    record: Fits,
    *,
    won: Callable[[Table], Tensor] = lambda table: table.wins,
    tied: Callable[[Table], Tensor] = lambda table: table.ties / 2,
    made: Callable[[Tensor], Tensor] = lambda counts: counts,
) -> bool:
    """Whether the counts of all tables are made of these wins and ties."""
    return all(alike(table.found["counts"], made(won(table) + tied(table))) for table in record.values())


_WON = (
    Slip(
        "losers first",
        (lambda table: table.wins.T,),
        "Your table stands upside down: `wins[i, j]` is how often i *beat* j, and so are the counts.",
    ),
    Slip(
        "wins halved",
        (lambda table: table.wins / 2, lambda table: 2 * table.wins),
        "The wins are halved or doubled together with the ties. A win counts 1, a tie one half.",
    ),
    Slip("no wins", (lambda table: 0 * table.wins,), "Your counts are made of the ties alone. Where are the wins?"),
    Slip(
        "wins of both",
        (lambda table: table.wins + table.wins.T, lambda table: table.wins - table.wins.T),
        "Your counts mix the wins of i with those of j. Row i holds what i has won.",
    ),
)
_TIED = (
    Slip(
        "ties dropped",
        (lambda table: 0 * table.ties,),
        "Your counts are the wins alone. A tie is information too, that the two are about equally good: half a win for "
        "each.",
    ),
    Slip(
        "ties as whole wins",
        (lambda table: table.ties,),
        "You count a tie as a whole win for each of the two: then it weighs as much as two comparisons. It is one: "
        "half a win for each.",
    ),
    Slip(
        "a quarter",
        (lambda table: table.ties / 4,),
        "You halve the ties twice. `ties[i, j]` and `ties[j, i]` are the same ties; i gets half of them, and j the "
        "other half.",
    ),
    Slip(
        "ties on one side",
        (
            lambda table: table.ties.triu(),
            lambda table: table.ties.tril(),
            lambda table: table.ties.triu() / 2,
            lambda table: table.ties.tril() / 2,
        ),
        "You give each tie to one of the two answers only. Half of it belongs to each.",
    ),
    Slip(
        "ties to the better",
        (
            lambda table: table.ties * (table.wins > table.wins.T),
            lambda table: table.ties * (table.wins >= table.wins.T),
            lambda table: table.ties / 2 * (table.wins > table.wins.T),
        ),
        "You give the ties of two answers to the one that has won more often. A tie says that they are equal: half of "
        "it belongs to each.",
    ),
    Slip(
        "whole halves",
        (lambda table: table.ties // 2, lambda table: (table.ties / 2).round(), lambda table: (table.ties / 2).ceil()),
        "Your halves are rounded to whole numbers. Half of three ties is 1.5: divide by `/`, and leave it so.",
    ),
    Slip("ties taken away", (lambda table: -table.ties / 2,), "You subtract the ties. Half a win each is *added*."),
    Slip(
        "halves for the ties that are there",
        (lambda table: (table.ties > 0) / 2,),
        "You add half a win where there are ties, however many. Each of them is half a win.",
    ),
)
_MADE = (
    Slip(
        "shares",
        (
            lambda counts: counts / (counts + counts.T).clamp(min=1),
            lambda counts: counts / counts.sum(),
            lambda counts: counts / counts.sum(1, keepdim=True).clamp(min=1),
        ),
        "Your counts are shares. How often two answers met says how sure the table is: leave the numbers as they are.",
    ),
    Slip(
        "the diagonal",
        tuple(lambda counts, x=x: counts + x * torch.eye(len(counts)) for x in (1.0, 0.5, 2.0)),
        "There is something on the diagonal of your counts, as if answers had met themselves: does a later line write "
        "into `counts`, such as `+=` on a table that is the same one?",
    ),
    Slip(
        "something everywhere",
        tuple(lambda counts, x=x: counts + x for x in (0.1, 0.5, 1.0)),
        "The same number is added to all counts. The penalty of (18) does what such a number is for.",
    ),
)

# --- finite -----------------------------------------------------------------------------------------------------------


def _paths(arrows: Tensor, steps: int) -> Tensor:
    """[i, j]: whether at most so many arrows lead from i to j."""
    one = arrows.double() + torch.eye(len(arrows), dtype=torch.float64)
    reached: Tensor = torch.linalg.matrix_power(one, steps) > 0
    return reached


def _strong(arrows: Tensor) -> bool:
    return bool(_paths(arrows, len(arrows)).all())


def _finite_is(
    record: Fits,
    *,
    rule: Callable[[Tensor], bool] = _strong,
    arrows: Callable[[Table], Tensor] = lambda table: table.counts > 0,
    penalty: Callable[[bool, bool], bool] = lambda penalised, rule: penalised or rule,
) -> bool:
    """Whether the counts are right, `finite` is not, and follows this rule on all tables."""
    if ties_are_halved(record) != "" or not has_a_best_fit(record):
        return False
    tables = record.values()
    return all(bool(table.found["finite"]) == penalty(table.l2 > 0, rule(arrows(table))) for table in tables)


_RULE = (
    Slip(
        "always finite",
        (lambda arrows: True,),
        "You say that every table has a finite best fit. Without a penalty one group that never loses is enough for "
        "rewards without an end: section 5, Ford's rule.",
    ),
    Slip(
        "never finite",
        (lambda arrows: False,),
        "You say that no table has a finite best fit without a penalty. Where arrows lead from every answer to every "
        "other there is one: section 5, Ford's rule.",
    ),
    Slip(
        "direction overlooked",
        (lambda arrows: _strong(arrows | arrows.T),),
        "You ask whether the answers are connected. Ford's rule asks for a way *along* the arrows from every answer to "
        "every other, and back.",
    ),
    Slip(
        "ways from one answer",
        (
            lambda arrows: bool(_paths(arrows, len(arrows))[0].all()),
            lambda arrows: bool(_paths(arrows, len(arrows))[:, 0].all()),
            lambda arrows: bool(_paths(arrows, len(arrows)).all(1).any()),
            lambda arrows: bool(_paths(arrows, len(arrows)).all(0).any()),
        ),
        "You look at the ways of one answer: that all others can be reached from it, or it from them. Ford's rule asks "
        "for both, a way from every answer to every other.",
    ),
    Slip(
        "too few arrows",
        tuple(lambda arrows, steps=steps: bool(_paths(arrows, steps).all()) for steps in (1, 2)),
        "You follow one arrow or two. A way may lead over many answers: go on until nothing new is reached.",
    ),
    Slip(
        "one answer at a time",
        (
            lambda arrows: bool((arrows.any(0) & arrows.any(1)).all()),
            lambda arrows: bool(arrows.any(0).all()),
            lambda arrows: bool(arrows.any(1).all()),
        ),
        "You ask whether each single answer has won and lost. A *group* that never loses to the rest is enough for "
        "rewards without an end: follow the arrows over several answers.",
    ),
)
_PENALTY = (
    Slip(
        "penalty overlooked",
        (lambda penalised, rule: rule,),
        "You judge by the arrows alone. With l2 > 0 every table has a finite best fit, equation (18).",
    ),
    Slip(
        "penalty turned round",
        (
            lambda penalised, rule: penalised and rule,
            lambda penalised, rule: not penalised and rule,
            lambda penalised, rule: not penalised or rule,
            lambda penalised, rule: penalised,
        ),
        "Penalty and arrows are put together the wrong way: *one* of the two is enough, l2 > 0 or Ford's rule.",
    ),
    Slip(
        "turned round",
        (lambda penalised, rule: not (penalised or rule), lambda penalised, rule: penalised or not rule),
        "Your `finite` is True where there is no finite best fit: it is turned round.",
    ),
)
_ARROWS = (
    Slip(
        "wins only",
        (lambda table: table.wins > 0,),
        "Your arrows are the wins without the ties. Half a win is an arrow too, and a tie gives one in each direction.",
    ),
    Slip(
        "whole wins only",
        (lambda table: table.counts >= 1, lambda table: table.counts > 1, lambda table: table.counts > table.counts.T),
        "Your arrows need more than they should: half a win is enough for one, and it need not be the more frequent "
        "outcome.",
    ),
)


# --- where no rule explains it, which side is wrong -------------------------------------------------------------------


def _wrong_counts(record: Fits) -> tuple[bool, bool]:
    """Whether counts are wrong where somebody tied, and where nobody did."""
    tied = alone = False
    for table in record.values():
        off = (torch.as_tensor(table.found["counts"]).double() - table.counts).abs() > 1e-4
        tied, alone = tied or bool(off[table.ties > 0].any()), alone or bool(off[table.ties == 0].any())
    return tied, alone


def _wrong_verdicts(record: Fits) -> set[tuple[bool, bool]]:
    """(penalised, found finite) of each table whose `finite` is wrong, where the counts are right."""
    if ties_are_halved(record) != "":
        return set()
    return {
        (table.l2 > 0, bool(table.found["finite"]))
        for table in record.values()
        if bool(table.found["finite"]) != table.finite
    }


OF_THE_TABLE: tuple[Symptom, ...] = (
    *slips(_counts_are, tied=_TIED, won=_WON, made=_MADE),
    Symptom(
        "the ties are wrong",
        lambda record: _wrong_counts(record) == (True, False),
        "Your counts are right where nobody tied. Of the ties of i and j, `ties[i, j]` in number, each is half a win "
        "for i, and half a win for j.",
    ),
    Symptom(
        "the wins are wrong",
        lambda record: _wrong_counts(record)[1],
        "Your counts are wrong even where nobody tied. There `counts[i, j]` is `wins[i, j]`.",
    ),
    *slips(_finite_is, rule=_RULE, penalty=_PENALTY, arrows=_ARROWS),
    Symptom(
        "finite with a penalty",
        lambda record: _wrong_verdicts(record) == {(True, False)},
        "You find no finite best fit where there is a penalty. With l2 > 0 every table has one, equation (18).",
    ),
    Symptom(
        "too many are finite",
        lambda record: _wrong_verdicts(record) == {(False, True)},
        "You find a finite best fit where there is none. Whatever you look at, it is not enough: Ford's rule asks for "
        "a way along the arrows from every answer to every other, and back.",
    ),
    Symptom(
        "too few are finite",
        lambda record: {found for _, found in _wrong_verdicts(record)} == {False},
        "You find no finite best fit where there is one. Whatever you look at, it asks for too much: a way along the "
        "arrows from every answer to every other, over any number of others, is enough.",
    ),
    Symptom(
        "another rule than Ford's",
        lambda record: {found for _, found in _wrong_verdicts(record)} == {False, True},
        "Your `finite` is wrong in both directions: True for some tables without a finite best fit, False for some "
        "that have one. Whatever you look at, it is something else than Ford's rule, a way along the arrows from every "
        "answer to every other.",
    ),
)
