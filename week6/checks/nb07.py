"""Questions of notebook 07, one frontier: PPO, DPO, best-of-n and the optimum."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from week6.checks.capstone_07 import capstone
from week6.checks.engine import Misconception, Prediction, Question
from week6.pictures import frontier

__all__ = ["capstone"]

# --- 7.1 · Pareto ---------------------------------------------------------------------------------------------------


def _heaps(g: torch.Generator) -> list[tuple[Tensor, Tensor]]:
    """Runs by hand (a tie in KL, a tie in reward, a pair of equal runs, a dent), one run, and heaps of random size."""
    by_hand = [(0.0, 0.0), (1.0, 2.0), (1.0, 1.0), (2.0, 2.0), (2.0, 3.0), (3.0, 3.1), (4.0, 5.0), (0.0, 0.0)]
    kl, reward = (torch.tensor(column, dtype=torch.float64) for column in zip(*by_hand, strict=True))
    cases = [(kl, reward), (kl.flip(0), reward.flip(0)), (kl, reward - 6.0), (kl[2:3], reward[2:3])]
    for ties in (True, False, True, False):
        n = int(torch.randint(5, 24, (1,), generator=g))
        spread = torch.rand(2, n, generator=g, dtype=torch.float64)
        k, r = (6 * spread).floor() / 2 if ties else spread
        cases.append((k, r - 1.0))
    return cases


def _relations(kl: Tensor, reward: Tensor) -> tuple[Tensor, Tensor]:
    """[i, j]: run i is no worse than run j; run i is strictly better than run j in something."""
    no_worse = (kl[:, None] <= kl) & (reward[:, None] >= reward)
    return no_worse, (kl[:, None] < kl) | (reward[:, None] > reward)


def _best_for_a_price(kl: Tensor, reward: Tensor) -> Tensor:
    prices = torch.logspace(-4, 4, 2001, dtype=kl.dtype)
    value = reward - prices[:, None] * kl
    return (value >= value.max(1, keepdim=True).values - 1e-12).any(0)


def _above_the_one_before(kl: Tensor, reward: Tensor) -> Tensor:
    order = kl.argsort()
    keep = torch.ones(len(kl), dtype=torch.bool)
    keep[order[1:]] = reward[order[1:]] > reward[order[:-1]]
    return keep


def _above_all_before(kl: Tensor, reward: Tensor, or_equal: bool) -> Tensor:
    """Sorted by KL: kept is what has more reward than everything before it, or at least as much."""
    order = kl.argsort(stable=True)
    best = torch.cat([reward.new_tensor([-torch.inf]), reward[order].cummax(0).values[:-1]])
    keep = torch.zeros(len(kl), dtype=torch.bool)
    keep[order] = reward[order] >= best if or_equal else reward[order] > best
    return keep


def _by_sorting(failing: Sequence[tuple[Any, ...]]) -> str:
    """What goes wrong where the runs are sorted by KL: the way back, and ties."""
    if any(not isinstance(keep, Tensor) or keep.shape != kl.shape for kl, _, keep in failing):
        return ""
    if all(_right_but_for_ties(kl, reward, keep.bool()) for kl, reward, keep in failing):
        return (
            "You are wrong only about runs that share their KL with others. Of those the one with the most reward "
            "dominates the rest, and its equals stay: a sort by KL alone leaves their order to chance."
        )
    if all(
        _right_but_for_ties(kl, reward, keep.bool()[kl.argsort(stable=True).argsort()]) for kl, reward, keep in failing
    ):
        return "Your answer is in the order of the runs sorted by KL. Put it back into theirs: keep[order] = …"
    return ""


def _right_but_for_ties(kl: Tensor, reward: Tensor, keep: Tensor) -> bool:
    shared = (kl[:, None] == kl).sum(1) > 1
    return not bool((keep != frontier.frontier_of(kl, reward))[~shared].any())


def _others(relation: Tensor) -> Tensor:
    """The relation without a run's relation to itself."""
    return relation & ~torch.eye(len(relation), dtype=torch.bool)


q1 = Question(
    title="7.1 The frontier of a heap of runs",
    name="pareto",
    reference=frontier.frontier_of,
    cases=_heaps,
    diagnose=_by_sorting,
    hints=(
        "Take one run and look for another that makes it pointless. Which comparisons may be ties, and which may not "
        "all be?",
        "Run i dominates run j if kl_i ≤ kl_j and r_i ≥ r_j, and kl_i < kl_j or r_i > r_j. Keep j if no i does. Of two "
        "equal runs neither is strictly better, so both stay.",
        "For each run j: a mask of the runs that are no worse (two comparisons with &), a mask of those that are "
        "better in something (two strict ones with |). Is there any run in both? Then j is dominated. In a loop over "
        "j, or all pairs at once: kl[:, None] <= kl is a table [i, j].",
        """def pareto(kl, reward):
    no_worse = (kl[:, None] <= kl) & (reward[:, None] >= reward)  # [i, j]: run i is no worse than run j
    better = ...  # [i, j]: run i is strictly better than run j in at least one of the two
    dominates = no_worse & better
    return ...  # True for each j that no i dominates""",
    ),
    misconceptions=(
        Misconception(
            "strictly better in both",
            lambda kl, reward: ~((kl[:, None] < kl) & (reward[:, None] > reward)).any(0),
            "You ask for a run that is strictly better in both. One with the same KL and more reward beats it too: no "
            "worse in both, strictly better in at least one.",
        ),
        Misconception(
            "equal runs beat each other",
            lambda kl, reward: ~_others(_relations(kl, reward)[0]).any(0),
            "Two runs at exactly the same place throw each other out. A run is beaten only if the other is strictly "
            "better in at least one of the two.",
        ),
        Misconception(
            "beaten by itself",
            lambda kl, reward: ~_relations(kl, reward)[0].any(0),
            "You keep nothing: every run is “no worse” than itself. Ask in addition for strictly better in at least "
            "one of the two.",
        ),
        Misconception(
            "better in either",
            lambda kl, reward: ~_relations(kl, reward)[1].any(0),
            "One run beats another in your answer as soon as it is better in *one* of the two. It must also be no "
            "worse "
            "in the other one.",
        ),
        Misconception(
            "reward per nat",
            lambda kl, reward: reward / kl >= (reward / kl).max(),
            "You keep the most reward per nat. The frontier has many runs: for each KL the highest reward so far.",
        ),
        Misconception(
            "lowest KL only",
            lambda kl, reward: kl == kl.min(),
            "You keep only the lowest KL. A run with more KL is on the frontier too if it has more reward than all "
            "before "
            "it.",
        ),
        Misconception(
            "above all before it",
            lambda kl, reward: _above_all_before(kl, reward, or_equal=False),
            "Sorting by KL and keeping each new record of the reward fails at ties: of two runs with the same KL the "
            "order decides, and of two equal runs one is lost.",
        ),
        Misconception(
            "not below any before it",
            lambda kl, reward: _above_all_before(kl, reward, or_equal=True),
            "Sorting by KL and keeping what is not below the record so far fails at ties: a run with the same reward "
            "and "
            "more KL is kept, and so is the worse of two runs with the same KL.",
        ),
        Misconception(
            "more KL is better",
            lambda kl, reward: ~torch.logical_and(*_relations(-kl, reward)).any(0),
            "You count a large KL as good. KL is what a run costs: the frontier wants little of it.",
        ),
        Misconception(
            "less reward is better",
            lambda kl, reward: ~torch.logical_and(*_relations(kl, -reward)).any(0),
            "You count a small reward as good. The frontier wants much of it: reward >= in the comparison, kl <=.",
        ),
        Misconception(
            "beats nobody",
            lambda kl, reward: ~torch.logical_and(*_relations(kl, reward)).any(1),
            "You keep the runs that *beat nobody*. Asked are those that *nobody beats*: the other axis of your table.",
        ),
        Misconception(
            "the beaten ones",
            lambda kl, reward: torch.logical_and(*_relations(kl, reward)).any(0),
            "You return the runs that are beaten: True and False are swapped.",
        ),
        Misconception(
            "highest reward only",
            lambda kl, reward: reward == reward.max(),
            "You keep only the highest reward. A run with less reward is on the frontier too if nothing with as little "
            "KL has more.",
        ),
        Misconception(
            "best for some price",
            _best_for_a_price,
            "You keep the runs that are best for some price β: the convex hull. A run in a dent of the staircase is "
            "beaten by no single run and stays.",
        ),
        Misconception(
            "compared with the one before",
            _above_the_one_before,
            "You compare each run only with its neighbour at the next smaller KL. Any run with no more KL may beat it, "
            "also one much further to the left.",
        ),
        Misconception(
            "beaten by all",
            lambda kl, reward: ~_others(torch.logical_and(*_relations(kl, reward))).sum(0).eq(len(kl) - 1),
            "You throw out only runs that *all* others beat. One that beats it is enough: any, not all.",
        ),
        Misconception(
            "in the order of the sorted runs",
            lambda kl, reward: frontier.frontier_of(kl, reward)[kl.argsort(stable=True)],
            "Your answer is in the order of the runs sorted by KL. Put it back into theirs: keep[order] = …",
        ),
    ),
)

# --- 7.2 · win rate -------------------------------------------------------------------------------------------------


def _wilson(p: float, n: float, z: float, centre: float | None = None) -> tuple[float, float, float]:
    """(9) for a share p of n."""
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n) if centre is None else centre
    half = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    return p, middle - half, middle + half


def _usual(wins: float, losses: float, ties: float = 0.0, z: float = 1.96) -> tuple[float, float, float]:
    n = wins + losses + ties
    p = (wins + ties / 2) / n
    half = z * math.sqrt(p * (1 - p) / n)
    return p, p - half, p + half


def _share(wins: float, losses: float, ties: float) -> tuple[float, float]:
    n = wins + losses + ties
    return (wins + ties / 2) / n, n


def _without_a_root(wins: float, losses: float, ties: float = 0.0, z: float = 1.96) -> tuple[float, float, float]:
    p, n = _share(wins, losses, ties)
    middle, half = p + z**2 / (2 * n), z * (p * (1 - p) / n + z**2 / (4 * n**2))
    return p, (middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n)


def _without_the_denominator(
    wins: float, losses: float, ties: float = 0.0, z: float = 1.96
) -> tuple[float, float, float]:
    p, n = _share(wins, losses, ties)
    middle, half = p + z**2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return p, middle - half, middle + half


def _interval(
    centre: Callable[[float, float, float], float] = lambda p, n, z: p + z**2 / (2 * n),
    half: Callable[[float, float, float], float] = lambda p, n, z: z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)),
    divided: tuple[bool, bool] = (True, True),
) -> Callable[..., tuple[float, float, float]]:
    """(9) with one part done otherwise: the centre, the half-width, or which of the two is divided by 1 + z²/n."""

    def interval(wins: float, losses: float, ties: float = 0.0, z: float = 1.96) -> tuple[float, float, float]:
        p, n = _share(wins, losses, ties)
        middle, width = (
            part(p, n, z) / (1 + z**2 / n if yes else 1) for part, yes in zip((centre, half), divided, strict=True)
        )
        return p, middle - width, middle + width

    return interval


def _agresti_coull(wins: float, losses: float, ties: float = 0.0, z: float = 1.96) -> tuple[float, float, float]:
    p, n = _share(wins, losses, ties)
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * math.sqrt(middle * (1 - middle) / (n + z**2))
    return p, middle - half, middle + half


def _counts(g: torch.Generator) -> list[tuple[float, ...]]:
    """Counts by hand, the ends 0 and 1 among them, and some at random with a z of their own."""
    drawn = [
        (*torch.randint(1, 40, (3,), generator=g).double().tolist(), 1 + 2 * float(torch.rand(1, generator=g)))
        for _ in range(4)
    ]
    return [
        (14.0, 6.0),
        (9.0, 11.0, 2.0),
        (60.0, 25.0, 15.0, 1.96),
        (1.0, 0.0, 0.0, 1.96),
        (0.0, 30.0, 4.0, 1.0),
        (700.0, 200.0, 100.0, 2.58),
        *drawn,
    ]


q2 = Question(
    title="7.2 A win rate with its interval",
    name="win_rate_with_interval",
    reference=frontier.win_rate_interval,
    cases=_counts,
    rtol=1e-6,
    hints=(
        "What does a tie add to the numerator of (6), and what to n? And which parts do the two ends of (9) have in "
        "common?",
        "(9) is a centre plus or minus a half-width: (p̂ + z²/2n)/(1 + z²/n) ± z √(p̂(1 − p̂)/n + z²/4n²)/(1 + z²/n). "
        "The share that you return is p̂ itself, not the centre.",
        "n is the sum of the three counts. p̂ is wins plus half the ties, over n. Compute the root once. Centre and "
        "half-width are both divided by 1 + z²/n. Return p̂, centre − half-width, centre + half-width, with z as it was "
        "given.",
        """def win_rate_with_interval(wins, losses, ties=0, z=1.96):
    n = wins + losses + ties
    p = ...
    root = math.sqrt(p * (1 - p) / n + ...)
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = ...
    return p, centre - half, centre + half""",
    ),
    misconceptions=(
        Misconception(
            "the usual interval",
            _usual,
            "That is p̂ ± z √(p̂(1 − p̂)/n), with p̂ in place of the unknown p. At p̂ = 0 or 1 its width is zero. "
            "Solve "
            "(7) for p: that is (9).",
        ),
        Misconception(
            "ties left out",
            lambda w, lo, t=0.0, z=1.96: _wilson(w / (w + lo), w + lo, z),
            "You threw the ties away. In (6) a tie counts half in the numerator and once in n.",
        ),
        Misconception(
            "ties as wins",
            lambda w, lo, t=0.0, z=1.96: _wilson((w + t) / (w + lo + t), w + lo + t, z),
            "You count a tie as a win. It counts half: (6).",
        ),
        Misconception(
            "ties as losses",
            lambda w, lo, t=0.0, z=1.96: _wilson(w / (w + lo + t), w + lo + t, z),
            "You count a tie as a loss. It counts half: (6).",
        ),
        Misconception(
            "no root",
            _without_a_root,
            "The square root is missing: what stands under it in (9) is a variance, and the interval is measured in "
            "standard errors.",
        ),
        Misconception(
            "centred at the share",
            lambda w, lo, t=0.0, z=1.96: _wilson(*_share(w, lo, t), z, centre=_share(w, lo, t)[0]),
            "Your interval is centred at p̂. In (9) the middle is (p̂ + z²/2n)/(1 + z²/n): pulled towards one half.",
        ),
        Misconception(
            "no denominator",
            _without_the_denominator,
            "The factor 1/(1 + z²/n) in front of (9) is missing: it is the coefficient of p² in (8).",
        ),
        Misconception(
            "one standard error",
            lambda w, lo, t=0.0, z=1.96: _wilson(*_share(w, lo, t), 1.0),
            "Your interval does not depend on z: you wrote one standard error. Use z, twice squared and once as it is.",
        ),
        Misconception(
            "always 1.96",
            lambda w, lo, t=0.0, z=1.96: _wilson(*_share(w, lo, t), 1.96),
            "You wrote 1.96 where (9) has z. It is an argument: with z = 1 the interval is another one.",
        ),
        Misconception(
            "no width under the root",
            _interval(half=lambda p, n, z: z * math.sqrt(p * (1 - p) / n)),
            "The term z²/4n² under the root is missing. Without it the width is zero again at p̂ = 0 and 1.",
        ),
        Misconception(
            "4n under the root",
            _interval(half=lambda p, n, z: z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n))),
            "Under the root (9) has z²/4n², with n squared. You have z²/4n.",
        ),
        Misconception(
            "2n² under the root",
            _interval(half=lambda p, n, z: z * math.sqrt(p * (1 - p) / n + z**2 / (2 * n**2))),
            "Under the root (9) has z²/4n², the square of z/2n. You have z²/2n².",
        ),
        Misconception(
            "z not squared under the root",
            _interval(half=lambda p, n, z: z * math.sqrt(p * (1 - p) / n + z / (4 * n**2))),
            "Under the root z is squared in (9): z²/4n².",
        ),
        Misconception(
            "no z in front of the root",
            _interval(half=lambda p, n, z: math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))),
            "The z in front of the root is missing: the half-width is z times the root.",
        ),
        Misconception(
            "n in the centre",
            _interval(centre=lambda p, n, z: p + z**2 / n),
            "Your centre has z²/n. In (9) it is half of that: p̂ + z²/2n.",
        ),
        Misconception(
            "z not squared in the centre",
            _interval(centre=lambda p, n, z: p + z / (2 * n)),
            "In the centre z is squared: p̂ + z²/2n.",
        ),
        Misconception(
            "half-width not divided",
            _interval(divided=(True, False)),
            "You divide only the centre by 1 + z²/n. In (9) the factor in front belongs to both, centre and "
            "half-width.",
        ),
        Misconception(
            "centre not divided",
            _interval(divided=(False, True)),
            "You divide only the half-width by 1 + z²/n. In (9) the factor in front belongs to both.",
        ),
        Misconception(
            "centre for the share",
            lambda w, lo, t=0.0, z=1.96: (lambda r: ((r[1] + r[2]) / 2, r[1], r[2]))(_wilson(*_share(w, lo, t), z)),
            "You return the centre of the interval as the share. The share is p̂ of (6); the centre is pulled towards "
            "one "
            "half.",
        ),
        Misconception(
            "Agresti and Coull",
            _agresti_coull,
            "That is the interval of Agresti and Coull: Wilson's centre with √(p(1 − p)/(n + z²)) of that centre. "
            "Asked is "
            "(9), with p̂ and z²/4n² under the root.",
        ),
        Misconception(
            "wins and losses swapped",
            lambda w, lo, t=0.0, z=1.96: _wilson(*_share(lo, w, t), z),
            "You count the losses as wins.",
        ),
        Misconception(
            "n without ties",
            lambda w, lo, t=0.0, z=1.96: (
                _wilson((w + t / 2) / (w + lo), w + lo, z) if 0 <= (w + t / 2) / (w + lo) <= 1 else (math.nan,) * 3
            ),
            "Your ties count half in the numerator, but not in n. In (6) n = wins + losses + ties.",
        ),
        Misconception(
            "per cent",
            lambda w, lo, t=0.0, z=1.96: tuple(100 * x for x in _wilson(*_share(w, lo, t), z)),
            "You give per cent. Asked are fractions between 0 and 1.",
        ),
        Misconception(
            "order",
            lambda w, lo, t=0.0, z=1.96: (lambda r: (r[1], r[0], r[2]))(_wilson(*_share(w, lo, t), z)),
            "The order is (p̂, low, high): the share first, then the two ends.",
        ),
        Misconception(
            "ends swapped",
            lambda w, lo, t=0.0, z=1.96: (lambda r: (r[0], r[2], r[1]))(_wilson(*_share(w, lo, t), z)),
            "Your two ends are swapped: the lower one comes first.",
        ),
        Misconception(
            "centre and half-width",
            lambda w, lo, t=0.0, z=1.96: (
                _share(w, lo, t)[0],
                sum(_wilson(*_share(w, lo, t), z)[1:]) / 2,
                (_wilson(*_share(w, lo, t), z)[2] - _wilson(*_share(w, lo, t), z)[1]) / 2,
            ),
            "You return the centre and the half-width. Asked for are the two ends: centre minus and plus half-width.",
        ),
    ),
)

# --- 7.3 · choosing β -----------------------------------------------------------------------------------------------


def choose_beta(betas: Tensor, kl: Tensor, reward: Tensor, budget: float) -> float:
    """The β (C,) with the highest mean reward (S, C) over seeds among those whose KL is surely within the budget.

    allowed: mean KL + 2 std(KL)/√S ≤ budget, in nats
    """
    standard_error = kl.std(0) / math.sqrt(len(kl))
    allowed = kl.mean(0) + 2 * standard_error <= budget
    return float(betas[torch.where(allowed, reward.mean(0), -torch.inf).argmax()])


def _tables(g: torch.Generator) -> list[tuple[Tensor, Tensor, Tensor, float]]:
    """Each table has a trap: a noisy KL, a lucky seed, a reward that falls beyond its peak, a bad price."""

    def table(rows: list[list[float]]) -> Tensor:
        return torch.tensor(rows, dtype=torch.float64)

    betas = torch.tensor([0.03, 0.1, 0.3, 1.0], dtype=torch.float64)
    spread = table([[-1.0, -0.5, -0.1, -0.02], [0.0, 0.0, 0.0, 0.0], [1.0, 0.5, 0.1, 0.02]])
    kl = torch.tensor([9.0, 4.0, 2.0, 0.5], dtype=torch.float64) + spread  # standard errors 0.58, 0.29, 0.06, 0.01
    hump = table([[1.0, 2.6, 2.3, 1.2], [1.4, 2.4, 2.4, 1.1], [0.6, 2.5, 2.2, 1.3]])
    lucky = table([[9.0, 2.0, 2.2, 1.2], [0.0, 2.1, 2.3, 1.1], [0.0, 2.2, 2.4, 1.3]])
    two = kl[:2] * torch.tensor([[1.0], [1.1]], dtype=torch.float64)
    flat = table([[2.0, 2.02, 2.01, 2.0]]).repeat(3, 1) + 0.01 * torch.randn(3, 4, generator=g, dtype=torch.float64)
    return [
        (betas, kl, hump, 20.0),  # everything is allowed: the highest mean wins
        (betas, kl, hump, 4.4),  # 4.0 is within 4.4 on average, 4.0 + 2 · 0.29 is not
        (betas, kl, hump, 4.31),  # nor 4.0 + 2 · 0.5/3 = 4.33, but 4.0 + 0.29 is
        (betas, kl, hump, 4.1),  # only those who add nothing take 4.0
        (betas, kl, hump, 4.6),  # 4.0 + 0.58 = 4.58 is; with std in place of std/√S it is not
        (betas, kl, lucky, 20.0),  # the highest single reward belongs to a bad setting
        (betas, kl, hump, 4.48),  # so it is here, where the highest of the three, 4.5, is not
        (betas, kl, hump, 4.54),  # with S in place of S − 1, 4.0 + 2 · 0.236 = 4.47 would be
        (betas, kl, hump, 4.57),  # with 1.96 in place of 2, 4.0 + 0.566 = 4.566 would be
        (betas.flip(0), kl.flip(1), hump.flip(1), 2.2),
        (betas, two, hump[:2], 4.0),
        (betas, kl, flat + table([[0.0, 0.0, 0.3, 0.0]]), 20.0),
        (betas, kl, hump - 3 * table([[0.0, 1.0, 1.0, 0.0]]), 20.0),  # some rewards are negative,
        (betas, kl, hump - 5.0, 4.4),  # and here all of them
        (betas, kl, hump - table([[0.0, 0.0, 0.0, 1.1]]), 20.0),  # the most reward per nat is in the middle
        (betas, (kl - spread).expand(3, 4).clone(), hump, 4.0),  # no spread: exactly at the budget is allowed
        (betas, kl, hump, 3.9),  # only an optimist with minus two standard errors takes 4.0
        *(_random_table(g) for _ in range(6)),
    ]


def _random_table(g: torch.Generator) -> tuple[Tensor, Tensor, Tensor, float]:
    """A table of random size, with β in no order and KL that does not follow β; the budget allows some of them."""
    seeds, candidates = (int(torch.randint(low, low + 5, (1,), generator=g)) for low in (2, 3))

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=g, dtype=torch.float64)

    betas, kl = draw(candidates), 6 * draw(1, candidates) + 1 + draw(seeds, candidates)
    reward = 2 * draw(1, candidates) + draw(seeds, candidates) - 2.0
    surely = (kl.mean(0) + 2 * kl.std(0) / math.sqrt(seeds)).sort().values
    place = int(torch.randint(0, candidates - 1, (1,), generator=g))
    return betas, kl, reward, float((surely[place] + surely[place + 1]) / 2)


def _pick(betas: Tensor, allowed: Tensor, value: Tensor) -> float:
    return float(betas[torch.where(allowed, value, -torch.inf).argmax()])


def _allowed(kl: Tensor, budget: float, errors: float = 2.0) -> Tensor:
    return kl.mean(0) + errors * kl.std(0) / math.sqrt(len(kl)) <= budget


q3 = Question(
    title="7.3 Choose β",
    name="choose",
    reference=choose_beta,
    cases=_tables,
    hints=(
        "Two questions, one after the other: which β may you ship at all, and which of these would you like to ship? "
        "Which of the two tables answers which?",
        "β is allowed if mean(KL) + 2 std(KL)/√S ≤ budget, over the seeds. Among the allowed ones the mean reward "
        "decides, and nothing else: within the budget nats are free.",
        "Along the seeds (dim 0): mean KL and its standard error, with S − 1 in the std. A mask (C,) of the allowed β. "
        "The mean rewards (C,), with −∞ where the mask is False (not 0: all rewards may be negative). The place of the "
        "highest; the β that stands there, as a float.",
        """def choose(betas, kl, reward, budget):
    standard_error = kl.std(0) / math.sqrt(len(kl))
    allowed = ...  # (C,), bool
    value = torch.where(allowed, ..., -torch.inf)
    return float(betas[value.argmax()])""",
    ),
    misconceptions=(
        Misconception(
            "no error margin",
            lambda betas, kl, reward, budget: _pick(betas, kl.mean(0) <= budget, reward.mean(0)),
            "You compare the mean KL alone with the budget. With three seeds the mean may be too low by chance: add "
            "two standard errors.",
        ),
        Misconception(
            "std in place of its error",
            lambda betas, kl, reward, budget: _pick(betas, kl.mean(0) + 2 * kl.std(0) <= budget, reward.mean(0)),
            "You add two standard *deviations*. The mean of S seeds has the standard error std/√S.",
        ),
        Misconception(
            "divided by S",
            lambda betas, kl, reward, budget: _pick(
                betas, kl.mean(0) + 2 * kl.std(0) / len(kl) <= budget, reward.mean(0)
            ),
            "You divide the standard deviation by S. The standard error of a mean is std/√S.",
        ),
        Misconception(
            "S in place of S − 1",
            lambda betas, kl, reward, budget: _pick(
                betas, kl.mean(0) + 2 * kl.std(0, correction=0) / math.sqrt(len(kl)) <= budget, reward.mean(0)
            ),
            "Your std divides by S. From a sample it is S − 1 (the standard of .std), which matters with three seeds.",
        ),
        Misconception(
            "every seed",
            lambda betas, kl, reward, budget: _pick(betas, kl.max(0).values <= budget, reward.mean(0)),
            "You ask that *each seed* stays within the budget. The question is where the mean surely lies: mean plus "
            "two standard errors. (With more seeds, some run always exceeds it.)",
        ),
        Misconception(
            "one standard error",
            lambda betas, kl, reward, budget: _pick(betas, _allowed(kl, budget, 1.0), reward.mean(0)),
            "You add one standard error. Asked are two.",
        ),
        Misconception(
            "the optimist",
            lambda betas, kl, reward, budget: _pick(betas, _allowed(kl, budget, -2.0), reward.mean(0)),
            "You subtract the two standard errors. To be *surely* within the budget the KL must fit with them added.",
        ),
        Misconception(
            "no budget",
            lambda betas, kl, reward, budget: _pick(betas, torch.ones_like(betas, dtype=torch.bool), reward.mean(0)),
            "You take the highest mean reward and never ask whether its KL is within the budget.",
        ),
        Misconception(
            "forbidden ones count as zero",
            lambda betas, kl, reward, budget: float(betas[(reward.mean(0) * _allowed(kl, budget)).argmax()]),
            "You multiply the reward by the mask, so a forbidden β has reward 0. Where all rewards are negative, that "
            "is the "
            "highest: put −inf there.",
        ),
        Misconception(
            "index into the allowed ones",
            lambda betas, kl, reward, budget: float(betas[reward.mean(0)[_allowed(kl, budget)].argmax()]),
            "Your argmax counts the allowed β only, and you look the number up among *all* of them. Filter betas in "
            "the same "
            "way, or put −inf where β is not allowed.",
        ),
        Misconception(
            "largest KL allowed",
            lambda betas, kl, reward, budget: _pick(betas, _allowed(kl, budget), kl.mean(0)),
            "You take the allowed β with the largest KL. More KL is not always more reward: compare the mean rewards.",
        ),
        Misconception(
            "smallest KL",
            lambda betas, kl, reward, budget: _pick(betas, _allowed(kl, budget), -kl.mean(0)),
            "You take the β with the smallest KL. Within the budget nats are free: compare the mean rewards.",
        ),
        Misconception(
            "lowest reward",
            lambda betas, kl, reward, budget: _pick(betas, _allowed(kl, budget), -reward.mean(0)),
            "You take the *lowest* mean reward of the allowed ones. Asked is the highest.",
        ),
        Misconception(
            "the objective",
            lambda betas, kl, reward, budget: _pick(betas, _allowed(kl, budget), reward.mean(0) - betas * kl.mean(0)),
            "You compare reward − β·KL. Each β would be judged by its own price; the budget has taken care of the KL. "
            "Take the "
            "highest mean reward.",
        ),
        Misconception(
            "forbidden and allowed swapped",
            lambda betas, kl, reward, budget: _pick(betas, ~_allowed(kl, budget), reward.mean(0)),
            "Your comparison with the budget is the wrong way round: a β is allowed where mean plus two standard "
            "errors is at "
            "most the budget.",
        ),
        Misconception(
            "strictly below the budget",
            lambda betas, kl, reward, budget: _pick(
                betas, kl.mean(0) + 2 * kl.std(0) / math.sqrt(len(kl)) < budget, reward.mean(0)
            ),
            "A β whose bound is exactly the budget is allowed: *at most*, so <= and not <.",
        ),
        Misconception(
            "smallest β allowed",
            lambda betas, kl, reward, budget: float(betas[_allowed(kl, budget)].min()),
            "You take the smallest β that is allowed. More KL is not always more reward: it may lie beyond the "
            "peak (section 5). Compare the mean rewards.",
        ),
        Misconception(
            "largest β",
            lambda betas, kl, reward, budget: float(betas[_allowed(kl, budget)].max()),
            "You take the largest β, the safest one. Among the allowed ones the mean reward decides.",
        ),
        Misconception(
            "one lucky seed",
            lambda betas, kl, reward, budget: _pick(betas, _allowed(kl, budget), reward.max(0).values),
            "You look for the highest reward of a single seed. One seed can be lucky: average over the seeds first.",
        ),
        Misconception(
            "reward per nat",
            lambda betas, kl, reward, budget: _pick(betas, _allowed(kl, budget), reward.mean(0) / kl.mean(0)),
            "You take the most reward *per nat*. Within the budget nats are free: take the highest mean reward.",
        ),
        Misconception(
            "position in place of β",
            lambda betas, kl, reward, budget: float(
                torch.where(_allowed(kl, budget), reward.mean(0), -torch.inf).argmax()
            ),
            "You return the number of the column. Asked is the β that stands there: betas[column].",
        ),
        Misconception(
            "the reward in place of β",
            lambda betas, kl, reward, budget: float(
                torch.where(_allowed(kl, budget), reward.mean(0), -torch.inf).max()
            ),
            "You return the mean reward. Asked is the β it belongs to.",
        ),
        Misconception(
            "mean over the prices",
            lambda betas, kl, reward, budget: _pick(betas, _allowed(kl.T, budget), reward.mean(1)),
            "You average over the β, axis 1. Each β has several seeds: average over axis 0.",
        ),
        Misconception(
            "1.96 standard errors",
            lambda betas, kl, reward, budget: _pick(betas, _allowed(kl, budget, 1.96), reward.mean(0)),
            "You add 1.96 standard errors. The rule here says two.",
        ),
    ),
)

# --- predictions ----------------------------------------------------------------------------------------------------

p1 = Prediction(
    "How do PPO and DPO lie in the exact world, at one and the same β?",
    (
        "both on the curve and at the same place, at every β.",
        "DPO above PPO: it needs no reward model.",
        "PPO on the curve at every β; DPO with it at a large β, and short of it at a small one.",
    ),
    answer=2,
    meanings=(
        "That holds in the limit of all pairs (notebook 06, section 5): 20,000 pairs would have to say enough about "
        "every "
        "sentence that the optimum likes.",
        "PPO lies on the curve, and nothing lies above it: (3). A point above it would be a mistake in the KL or in "
        "the "
        "reward.",
        "DPO knows only the sentences of its pairs, which come from π_ref, and a small β moves the optimum away from "
        "them.",
    ),
)
p2 = Prediction(
    "DPO with β = 0.3 in place of 1, on the chatbot: what happens to the gold reward?",
    (
        "it falls far below that of β = 1.",
        "it grows: a smaller β moves further along the curve, as in the exact world.",
        "it stays: the pairs are the same.",
    ),
    answer=0,
    meanings=(
        "A small β asks for wide margins between the answers of the pairs; all other answers drift where nobody "
        "looked.",
        "It would have meant that the pairs still speak about the answers that lie further away. In the exact world "
        "DPO stayed near the reference there.",
        "It would have meant that β does not matter to the loss. But β is what a log-ratio is multiplied by.",
    ),
)
p3 = Prediction(
    "How often does the Wald interval of 95 % contain the true value, with 20 comparisons and p = 0.9?",
    ("in about 95 % of the repetitions.", "clearly less often.", "clearly more often: it is cautious."),
    answer=1,
    meanings=(
        "That holds for many comparisons, where p̂ is nearly normal and near p: at n = 400 it does.",
        "At 20 wins of 20, which is not rare, its width is zero; and with few losses p̂(1 − p̂) is too small.",
        "It would have meant intervals that are too wide. Near p = 1 they are too narrow.",
    ),
)
p4 = Prediction(
    "PPO with a tenth of the price: what does the gold reward do as the KL grows?",
    (
        "it rises, reaches a peak, and falls, while the proxy goes on rising.",
        "it rises with the proxy, only more slowly.",
        "it falls from the start.",
    ),
    answer=0,
    meanings=(
        "Near the SFT model the reward model is right; far away PPO finds the answers that it is wrong about.",
        "It would have meant a reward model whose errors PPO cannot find: right, or at least harmless, on everything "
        "that "
        "the policy can say.",
        "It would have meant a reward model that is wrong about the SFT model's own answers, on which it was trained.",
    ),
)
