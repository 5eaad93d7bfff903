"""Reading a frontier: which points are worth having, where it bends down, and how sure a win rate is.

Points are pairs (KL to the reference in nats, reward). Functions of arrays or tensors; no model, no file.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from week6.machine import validate as check

Form = Literal["best_of_n", "rl"]


class Interval(NamedTuple):
    """An estimate with the ends of its confidence interval."""

    estimate: float
    low: float
    high: float


def win_rate_interval(wins: float, losses: float, ties: float = 0, z: float = 1.96) -> Interval:
    """Share of independent comparisons that were won, a tie counting half, with Wilson's interval (Wilson 1927).

        p̂ = (wins + ties/2)/n;    centre (p̂ + z²/2n)/(1 + z²/n),    half-width z √(p̂(1 − p̂)/n + z²/4n²)/(1 + z²/n)

    with n = wins + losses + ties, and z = 1.96 for 95 %. It holds every p from which p̂ is at most z standard errors
    √(p(1 − p)/n) away. Unlike p̂ ± z √(p̂(1 − p̂)/n) it stays within [0, 1] and has a width at p̂ = 0 and 1. Ties vary
    less than p(1 − p), so with them it is on the safe side. Raises ValueError for a negative count, no comparison, or
    z ≤ 0.
    """
    for name, value in (("wins", wins), ("losses", losses), ("ties", ties)):
        check.count(name, value)
    check.positive("z", z)
    n = wins + losses + ties
    check.positive("wins + losses + ties", n)
    p = (wins + ties / 2) / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    return Interval(p, centre - half, centre + half)


def frontier_of(kl: Float[Tensor, " N"], reward: Float[Tensor, " N"]) -> Bool[Tensor, " N"]:
    """Which points no other point beats: the Pareto frontier of low KL and high reward.

    A point is beaten by one with KL no higher and reward no lower, of which at least one is strictly better; equal
    points do not beat each other.
    """
    check.same_shape(kl=kl, reward=reward)
    check.has_dims("kl", kl, 1, "(N,)")
    check.no_nan(kl=kl, reward=reward)
    no_worse = (kl[:, None] <= kl) & (reward[:, None] >= reward)  # [i, j]: point i is no worse than point j
    better = (kl[:, None] < kl) | (reward[:, None] > reward)
    return ~(no_worse & better).any(0)


def reward_at(kl: ArrayLike, reward: ArrayLike, budgets: ArrayLike, widest: float = 2.0) -> NDArray[np.float64]:
    """Reward of a curve of runs (N,) at other distances (K,), read between two neighbouring runs; shape (K,).

    The lines between runs are straight over √KL, since reward rises about like √KL at first. NaN before the first run,
    after the last, and between two that are more than `widest` nats apart. Raises ValueError for two shapes, fewer than
    two runs, or a KL below 0.
    """
    k, r, x = (np.asarray(values, dtype=np.float64) for values in (kl, reward, budgets))
    if k.shape != r.shape or k.ndim != 1 or len(k) < 2:
        raise ValueError(f"kl, reward: got shapes {k.shape} and {r.shape}, expected two of (N,) with N at least 2")
    if not (k >= 0).all():
        raise ValueError(f"kl: got {k.min()}, expected distances of at least 0")
    order = k.argsort()
    k, r = k[order], r[order]
    right = np.searchsorted(k, x).clip(1, len(k) - 1)  # the run at or beyond each budget
    known = (k[0] <= x) & (x <= k[-1]) & (k[right] - k[right - 1] <= widest)
    return np.where(known, np.interp(np.sqrt(x), np.sqrt(k), r), np.nan)


@dataclass(frozen=True)
class GaoFit:
    """What `fit_gao` found. `start` is the reward at d = 0, the initial policy's."""

    form: Form
    start: float
    alpha: float
    beta: float
    r_squared: float

    def __call__(self, distance: ArrayLike) -> NDArray[np.float64]:
        """The fitted reward at d = √KL."""
        return np.asarray(self.start + _columns(distance, self.form) @ np.array([self.alpha, self.beta]))

    @property
    def peak(self) -> float:
        """The d > 0 at which the fitted reward is highest: α/2β, or exp(α/β − 1); NaN where it has no highest."""
        if self.beta <= 0 or (self.form == "best_of_n" and self.alpha <= 0):
            return math.nan
        ratio = self.alpha / self.beta
        return ratio / 2 if self.form == "best_of_n" else math.exp(ratio - 1)


def fit_gao(distance: ArrayLike, reward: ArrayLike, form: Form) -> GaoFit:
    """Least squares of the forms in which reward moves with d = √KL(π ‖ π_init) (Gao et al. 2022, section 3.1):

        best_of_n:  R = d (α − β d),        rl:  R = d (α − β log d)

    R is measured from the initial policy, whose reward is fitted too: reward = start + R. α is the slope at the
    beginning, β how soon it is used up. R² = 1 − Σ(reward − fit)²/Σ(reward − mean)². Raises ValueError for d < 0,
    NaN, or fewer than three different d.
    """
    check.one_of("form", form, ("best_of_n", "rl"))
    d, y = (np.asarray(x, dtype=np.float64) for x in (distance, reward))
    if d.shape != y.shape or d.ndim != 1:
        raise ValueError(f"distance, reward: got shapes {d.shape} and {y.shape}, expected two of (N,)")
    if not (np.isfinite(d).all() and np.isfinite(y).all() and (d >= 0).all()):
        raise ValueError("distance, reward: got NaN, infinity or a distance below 0, expected finite numbers and d ≥ 0")
    if len(np.unique(d)) < 3:
        raise ValueError(f"distance: got {len(np.unique(d))} different values, expected at least 3")
    table = np.column_stack([np.ones_like(d), _columns(d, form)])
    start, alpha, beta = np.linalg.lstsq(table, y, rcond=None)[0]
    residual, spread = ((y - table @ [start, alpha, beta]) ** 2).sum(), ((y - y.mean()) ** 2).sum()
    return GaoFit(form, float(start), float(alpha), float(beta), float(1 - residual / spread) if spread else 1.0)


def _columns(distance: ArrayLike, form: Form) -> NDArray[np.float64]:
    """d and −d², or d and −d log d (0 at d = 0): what α and β multiply."""
    d = np.asarray(distance, dtype=np.float64)
    bend = d**2 if form == "best_of_n" else d * np.log(np.where(d > 0, d, 1.0))
    return np.stack([d, -bend], axis=-1)
