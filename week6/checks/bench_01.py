"""The bench of notebook 01's capstone: tables with ties to fit, and how each part of a fit is judged."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from week6 import preferences
from week6.checks.capstone import Step, parts
from week6.checks.cases import whole

TOP_GAP = 0.01
"""Nats below the top at a tolerance of 0.001. The course's fit is at 0.00001 at most, over 20 seeds."""


GROUP = torch.arange(8) < 4
"""The first of the two groups of the slow tables."""


@dataclass(frozen=True)
class Table:
    """One table to fit, and what came of it."""

    name: str
    wins: Tensor
    ties: Tensor
    l2: float
    tolerance: float
    found: Mapping[str, Any]

    @property
    def counts(self) -> Tensor:
        """Wins, with half of each tie."""
        return self.wins + self.ties / 2

    @functools.cached_property
    def finite(self) -> bool:
        """Whether there is one finite best fit."""
        return self.best(self.l2) is not None

    def best(self, l2: float) -> Tensor | None:
        """The top by Newton's method, or None."""
        try:
            return preferences.fit_bradley_terry(self.counts, l2)
        except ValueError:
            return None

    @property
    def rewards(self) -> Tensor:
        """What the answer found."""
        return torch.as_tensor(self.found["rewards"]).detach().double()

    def height(self, rewards: Tensor) -> float:
        """The objective (18), in nats."""
        difference = rewards[:, None] - rewards[None, :]
        return float((self.counts * F.logsigmoid(difference)).sum() - self.l2 / 2 * rewards.square().sum())

    @property
    def gap(self) -> float:
        """Nats below the top."""
        best = self.best(self.l2)
        assert best is not None
        return self.height(best) - self.height(self.rewards)

    @property
    def gradient(self) -> Tensor:
        """The gradient of (18) at the rewards found."""
        r = self.rewards
        expected = (self.counts + self.counts.T) * torch.sigmoid(r[:, None] - r[None, :])
        return (self.counts - expected).sum(1) - self.l2 * r

    @property
    def steepest(self) -> float:
        """The largest entry of the gradient of (18) at the rewards found."""
        return float(self.gradient.abs().max())


def _drawn(g: torch.Generator, k: int, comparisons: int, share_of_ties: float) -> tuple[Tensor, Tensor]:
    """wins and ties, shape (k, k): each pair compared so often; ties stand on both sides of the diagonal."""
    rewards = torch.randn(k, generator=g, dtype=torch.float64)
    p = torch.sigmoid(rewards[:, None] - rewards[None, :])
    tied = torch.binomial(torch.full_like(p, comparisons), torch.full_like(p, share_of_ties), generator=g).triu(1)
    won = torch.binomial(comparisons - tied, p, generator=g).triu(1)
    return won + (comparisons - tied - won).triu(1).T, tied + tied.T


def _tables_to_fit(g: torch.Generator) -> dict[str, tuple[Tensor, Tensor, float]]:
    """Nine tables with something about each, a dozen sparse ones, and three that tell which part of a fit is wrong:
    wins, ties and l2."""
    plain, penalised = _drawn(g, whole(g, 5, 7), 30, 0.2), _drawn(g, whole(g, 5, 7), 10, 0.2)
    # Two groups with one pair between them, which met eight times: a long way up.
    wins, ties = _drawn(g, 8, 60, 0.1)
    apart = GROUP[:, None] != GROUP
    wins[apart], ties[apart] = 0.0, 0.0
    wins[0, 4], wins[4, 0] = 6.0, 2.0
    # The first group never loses to the second, and each answer in it has lost to another one.
    above = wins.clone(), ties.clone()
    above[0][4, 0] = 0.0
    never_met = wins.clone(), ties.clone()
    never_met[0][0, 4] = never_met[0][4, 0] = 0.0
    one = wins.clone(), ties.clone()
    one[0][1:, 0], one[1][0], one[1][:, 0] = 0.0, 0.0, 0.0
    below = above[0].T.clone(), ties.clone()
    # Only a tie leads back up.
    by_a_tie = above[0].clone(), ties.clone()
    by_a_tie[1][0, 4] = by_a_tie[1][4, 0] = 2.0
    return {
        "plain": (*plain, 0.0),
        "slow": (wins, ties, 0.0),
        "never loses": (*above, 0.0),
        "never beats": (*below, 0.0),
        "never met": (*never_met, 0.0),
        "one never loses": (*one, 0.0),
        "held by a tie": (*by_a_tie, 0.0),
        "never loses, with a penalty": (*above, 0.5),
        "penalised": (*penalised, 5.0),
        **{f"sparse {i + 1}": (*_sparse(g, finite=i % 2 == 0, least=int(i % 3 == 0)), 0.0) for i in range(12)},
        "without ties": (2 * plain[0] + plain[1], torch.zeros_like(plain[1]), 0.0),  # the same top
        "renumbered": (plain[0].flip(0, 1), plain[1].flip(0, 1), 0.0),
        "two answers": (torch.tensor([[0.0, 12.0], [4.0, 0.0]]).double(), torch.zeros(2, 2).double(), 0.0),
    }


def _sparse(g: torch.Generator, finite: bool, least: int) -> tuple[Tensor, Tensor]:
    """Wins and (no) ties of four answers that met from `least` times to twice, with a finite best fit or without: what
    follows another rule than Ford's is wrong about some of them."""
    while True:
        met = torch.randint(least, 3, (4, 4), generator=g).double().triu(1)
        won = torch.binomial(met, torch.full_like(met, 0.5), generator=g)
        wins, ties = won + (met - won).T, torch.zeros_like(met)
        if Table("sparse", wins, ties, 0.0, 1.0, {}).finite == finite:
            return wins, ties


def measure(answer: Any, seed: int) -> dict[str, Table]:
    """The tables of a seed, by name; and the plain one with a loose tolerance."""
    tables = _tables_to_fit(torch.Generator().manual_seed(seed))
    asked = {name: (*table, 1e-3) for name, table in tables.items()} | {"loose": (*tables["slow"], 1.0)}
    names = ("counts", "finite", "rewards", "rounds")
    return {
        name: Table(name, wins, ties, l2, tolerance, parts(answer(wins.clone(), ties.clone(), l2, tolerance), *names))
        for name, (wins, ties, l2, tolerance) in asked.items()
    }


def ties_are_halved(record: Mapping[str, Table]) -> str | None:
    """Wins, and half a win for each tie."""
    for table in record.values():
        if "counts" not in table.found:
            return None
        got = torch.as_tensor(table.found["counts"])
        if got.shape != table.counts.shape:
            return f"`counts` has shape {tuple(got.shape)}, expected (K, K) = {tuple(table.counts.shape)}"
        if not torch.allclose(got.double(), table.counts, atol=1e-4):
            i, j = divmod(int((got - table.counts).abs().argmax()), len(got))
            return (
                f"answer {i} beat answer {j} {table.wins[i, j]:g} times and tied with it {table.ties[i, j]:g} times, "
                f"which counts {table.counts[i, j]:g}; you have {float(got[i, j]):g}"
            )
    return ""


def has_a_best_fit(record: Mapping[str, Table]) -> str | None:
    """Ford's rule, or a penalty."""
    for table in record.values():
        if "finite" not in table.found:
            return None
        if bool(table.found["finite"]) != table.finite:
            return (
                f"the table “{table.name}” (l2 = {table.l2:g}) has {'a' if table.finite else 'no'} finite best fit, "
                f"and your `finite` is {bool(table.found['finite'])}"
            )
    return ""


def is_at_the_top(record: Mapping[str, Table]) -> str | None:
    """The rewards: they sum to 0, and nothing is better."""
    tables = [table for table in record.values() if table.finite]
    if any("rewards" not in table.found for table in tables):
        return None
    for table in tables:
        rewards, n = table.rewards, len(table.wins)
        if rewards.shape != (n,):
            return f"`rewards` has shape {tuple(rewards.shape)}, expected (K,) = ({n},)"
        if not abs(float(rewards.sum())) < 1e-2:
            return f"on the table “{table.name}” your rewards sum to {float(rewards.sum()):.3f}, expected 0"
        if table.tolerance < 1 and not table.gap < TOP_GAP:
            return (
                f"on the table “{table.name}” (l2 = {table.l2:g}) your rewards are {table.gap:.3f} nats below the top "
                f"of (18), expected is less than {TOP_GAP}"
            )
    return ""


def follows_the_rule(record: Mapping[str, Table]) -> str | None:
    """The end: where no entry of the gradient is larger than was asked, and no later."""
    tables = [table for table in record.values() if table.finite]
    if any("rounds" not in table.found for table in tables):
        return None
    for table in tables:
        if not table.steepest <= 1.01 * table.tolerance + 1e-5:  # fp32
            return (
                f"on the table “{table.name}”, where you stopped, the largest entry of the gradient is "
                f"{table.steepest:.4f}; the tolerance was {table.tolerance:g}"
            )
    loose, tight = (int(record[name].found["rounds"]) for name in ("loose", "slow"))
    if not 0 < loose < tight:
        return (
            f"at a tolerance of 1 your fit took {loose} rounds, at 0.001 {tight} on the same table; expected are fewer "
            "where less is asked for"
        )
    return ""


def rounds(record: Mapping[str, Table]) -> list[int]:
    """How many rounds the tables with a finite best fit took."""
    return [int(table.found["rounds"]) for table in record.values() if table.finite]


STEPS = (
    Step("ties", ties_are_halved),
    Step("is there one finite best fit?", has_a_best_fit),
    Step("the top", is_at_the_top),
    Step("the stopping rule", follows_the_rule),
)
