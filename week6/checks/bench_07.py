"""The bench of notebook 07's capstone: runs of a method whose KL and gold reward are known.

M prompts with N answers each, as tables. What a run of price β and seed s becomes is in closed form,

    π(y|x) ∝ π_ref(y|x) exp(r_s(x, y)/β_s),

with a proxy r_s that is wrong in another way for every seed, and for a few rare answers wrong by much: a run with a
small β goes to those. So the KL and the gold reward of every run are known, and their mean over all seeds.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from week6.checks.capstone import parts
from week6.checks.judging import numbers

PRICES = (1.0, 4.0, 0.25, 2.0, 0.5)
"""In no order, so that nobody can rely on one."""
REPEATS = 16
"""So many frontiers are measured on each bench, with other seeds each time."""
SEEDS = 120
"""The mean over so many others stands for the mean over all."""
PARTS = (
    "kl", "gold", "gold_se", "kl_mean", "gold_mean", "kl_half", "gold_half", "kept", "chosen", "report",
)  # fmt: skip


class Bench:
    """M prompts with N answers, as tables (M, N): log π_ref and the gold reward, which differs much between prompts."""

    prompts, answers, draws = 48, 16, 6

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.generator = torch.Generator().manual_seed(1_000 + seed)
        shape = (self.prompts, self.answers)
        self.log_ref = (1.2 * self._normal(*shape)).log_softmax(-1)
        self.gold = 1.5 * self._normal(self.prompts, 1) + self._normal(*shape)
        self.gold = self.gold - (self.log_ref.exp() * self.gold).sum(-1).mean()
        self.cheats = self.log_ref.argsort(-1)[:, :4]  # rare answers
        self.gold = self.gold.scatter_add(1, self.cheats, torch.full((self.prompts, 4), -1.5))

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)

    def policy(self, beta: float, seed: int) -> Tensor:
        """log π (M, N) of the run."""
        g = torch.Generator().manual_seed(7_919 * (seed + 1) + self.seed)  # the proxy of this seed
        proxy = self.gold + 0.7 * torch.randn(self.gold.shape, generator=g)
        cheats = torch.rand(self.cheats.shape, generator=g)
        g = torch.Generator().manual_seed(7_919 * (seed + 1) + self.seed + round(1e5 * beta))  # the luck of this run
        lure, luck = 3.0 + 1.2 * torch.randn(1, generator=g), 0.15 * torch.randn(1, generator=g)
        proxy = proxy.scatter_add(1, self.cheats, lure * cheats)
        price = beta * torch.exp(luck)
        return (self.log_ref + proxy / price).log_softmax(-1)

    def samples(self, log_pi: Tensor) -> tuple[Tensor, Tensor]:
        """log π − log π_ref and gold reward of K answers to each prompt, (M, K) each."""
        y = torch.multinomial(log_pi.exp(), self.draws, replacement=True, generator=self.generator)
        return (log_pi - self.log_ref).gather(1, y), self.gold.gather(1, y)

    def truth(self, log_pi: Tensor) -> dict[str, tuple[float, float, float]]:
        """Of `kl` and `gold`: expectation, error of a mean over K answers a prompt, and that with the prompts' own."""
        found = {}
        for name, x in (("kl", log_pi - self.log_ref), ("gold", self.gold)):
            mean = (log_pi.exp() * x).sum(-1)
            within = ((log_pi.exp() * x**2).sum(-1) - mean**2).clamp(min=0).mean() / self.draws
            clustered = (mean.var() + within) / self.prompts
            found[name] = float(mean.mean()), float((within / self.prompts).sqrt()), float(clustered.sqrt())
        return found

    @functools.cached_property
    def of_all_seeds(self) -> Tensor:
        """Gold reward of each price, the mean over `SEEDS` seeds, (C,)."""
        seeds = range(10_000, 10_000 + SEEDS)
        runs = [[self.truth(self.policy(beta, seed))["gold"][0] for seed in seeds] for beta in PRICES]
        return torch.tensor(runs).mean(1)


@dataclass
class Frontier:
    """One call of the student's function: what it gave, and what the bench knows of it."""

    bench: Bench
    seeds: tuple[int, ...]
    budget: float
    parts: dict[str, Any]
    trained: list[tuple[float, int]] = field(default_factory=list)
    drawn: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    @functools.cached_property
    def truths(self) -> list[list[dict[str, tuple[float, float, float]]]]:
        """[c][s]: the bench's truth of each run."""
        return [[self.bench.truth(self.bench.policy(beta, seed)) for seed in self.seeds] for beta in PRICES]

    def true(self, name: str, which: int = 0) -> Tensor:
        """(C, S): of `kl` or `gold` the expectation (0), its error with these prompts (1), or with others (2)."""
        return torch.tensor([[truth[name][which] for truth in row] for row in self.truths])

    def part(self, name: str, *shape: int) -> Tensor:
        """A part as numbers. Raises Missing where it is not there, Wrong for another shape."""
        return numbers(self.parts, name, *shape)

    def table(self, name: str) -> Tensor:
        """`kl`, `gold` or `gold_se`, (C, S)."""
        return self.part(name, len(PRICES), len(self.seeds))

    def choice(self, seeds: Sequence[int], errors: float = 2.0, budget: float | None = None) -> int:
        """Which price is best on some of the seeds, by the student's own tables."""
        kl, gold = (self.table(name)[:, list(seeds)] for name in ("kl", "gold"))
        surely = kl.mean(1) + errors * kl.std(1) / math.sqrt(len(seeds))
        return int(torch.where(surely <= (budget or self.budget), gold.mean(1), -torch.inf).argmax())

    def choices(self, errors: float = 2.0, budget: float | None = None) -> list[float]:
        """The price chosen without each seed."""
        places = range(len(self.seeds))
        return [PRICES[self.choice([i for i in places if i != s], errors, budget)] for s in places]


def measure(answer: Callable[..., Any], seed: int) -> list[Frontier]:
    """Frontiers measured by `answer` on one bench, with other seeds each time; one only if it is not finished."""
    bench = Bench(seed)
    frontiers: list[Frontier] = []
    for i in range(REPEATS):
        seeds = (3 * i, 3 * i + 1, 3 * i + 2)
        kl = torch.tensor([[bench.truth(bench.policy(beta, s))["kl"][0] for s in seeds] for beta in PRICES])
        by_distance = kl[kl.mean(1).argsort()]
        budget = max(
            float(by_distance[2 + i % 3].mean()) * (1.15 + i % 2), 1.6 * float(by_distance[0].max())
        )  # one fits
        frontier = Frontier(bench, seeds, round(budget, 3), {})

        def train(beta: float, seed: int, into: Frontier = frontier) -> Tensor:
            into.trained.append((float(beta), int(seed)))
            return bench.policy(max(float(beta), 0.05), int(seed))  # a seed in place of the price may be 0

        def draw(policy: Tensor, into: Frontier = frontier) -> tuple[Tensor, Tensor]:
            into.drawn.append(bench.samples(policy))
            return into.drawn[-1]

        given = answer(train, draw, list(PRICES), list(seeds), frontier.budget)
        frontier.parts = parts(given, *PARTS)
        frontiers.append(frontier)
        if "report" not in frontier.parts:
            break
    return frontiers
