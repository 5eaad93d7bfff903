"""The drawings of notebook 07, and its tables: how far each method is from the optimum, and how sure a number is."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float
from matplotlib.figure import Figure
from torch import Tensor

from week6.pictures.plots import BLACK, BLUE, GREEN, LOOKS, ORANGE, POLICIES, PURPLE, empty_panels

Point = tuple[float, float]
"""KL to the reference in nats, reward in reward units."""
NEAR = 0.1
"""The distance to the optimum, in nats, that the notebook calls near."""


def with_errors(means: pd.DataFrame, errors: pd.DataFrame, digits: int = 2) -> pd.DataFrame:
    """A table to read: "mean ± error" in each cell, with so many digits after the point."""
    return means.map(lambda x: f"{x:.{digits}f}") + errors.map(lambda x: f" ± {x:.{digits}f}")


def distance_to_optimum(table: pd.DataFrame) -> Figure:
    """KL(π ‖ π*) against β for each method: mean over the seeds, with a band from the lowest to the highest.

    `table` has a row a policy: `method`, `beta`, `seed`, `gap` in nats. Both axes are logarithmic.
    """
    figure, (axes,) = empty_panels("", 1)
    for method, line in (("ppo", "-"), ("dpo", "--"), ("dpo_twice_the_pairs", ":"), ("dpo_two_rounds", "-.")):
        label, color, marker = POLICIES[method]
        gaps = table[table["method"] == method].groupby("beta")["gap"]
        mean, low, high = gaps.mean(), gaps.min(), gaps.max()
        axes.plot(mean.index, mean, color=color, linestyle=line, marker=marker, label=label)
        axes.fill_between(mean.index, low, high, color=color, alpha=0.15)
    axes.axhline(NEAR, color=BLACK, linestyle=":", linewidth=1, label="a tenth of a nat")
    prices = sorted(table["beta"].unique())
    axes.set(xscale="log", yscale="log", xlabel="β (reward units per nat)", ylabel="KL(π ‖ π*) (nats)")
    axes.set_xticks(prices, [f"{price:g}" for price in prices])
    axes.minorticks_off()
    axes.set_title("Distance to the optimum (band: lowest to highest seed)")
    axes.legend()
    return figure


def staircase(
    kl: Float[Tensor, " N"], reward: Float[Tensor, " N"], kept: Bool[Tensor, " N"], hull: Sequence[int]
) -> Figure:
    """Runs in the plane of KL and reward: the staircase of those that are kept, and a line through those of `hull`."""
    figure, (axes,) = empty_panels("", 1)
    order = torch.nonzero(kept).flatten()[kl[kept].argsort()]
    axes.plot(kl, reward, "o", color="0.6", markersize=5, label="runs")
    axes.step(kl[order], reward[order], where="post", color=BLUE, marker="o", label="Pareto frontier: not dominated")
    ends = torch.tensor(hull)[kl[hull].argsort()]
    look: Any = {"linestyle": "--", "marker": "D", "markersize": 8, "markerfacecolor": "none"}
    axes.plot(kl[ends], reward[ends], color=ORANGE, label="best for some price β", **look)
    axes.set(xlabel="KL(π ‖ π_ref) (nats)", ylabel="reward (reward units)", title="Two sets of runs worth keeping")
    axes.legend(loc="lower right")
    return figure


def coverage(shares: pd.DataFrame, promised: float = 0.95) -> Figure:
    """How often an interval contains the true value, against the number of comparisons (the index); a column a rule."""
    figure, (axes,) = empty_panels("", 1)
    for name, (color, line), marker in zip(shares, LOOKS, "osv", strict=False):
        axes.semilogx(shares.index, shares[name], color=color, linestyle=line, marker=marker, label=name)
    axes.axhline(promised, color=BLACK, linestyle=":", label="promised")
    axes.set(xlabel="comparisons n", ylabel="probability")
    axes.set_title(f"How often the {promised:.0%} interval contains the true value".replace("%", " %"))
    axes.set_xticks(list(shares.index), [str(n) for n in shares.index])
    axes.minorticks_off()
    axes.legend(loc="lower right")
    return figure


def paths_to_optimum(
    frontier: Sequence[Point], paths: Mapping[str, Sequence[Point]], optimum: Point, title: str
) -> Figure:
    """Training runs as paths in the plane of KL and reward, below the frontier, with the optimum as a star."""
    figure, (axes,) = empty_panels("", 1)
    axes.plot(*zip(*frontier, strict=True), color=BLACK, linewidth=1.2, label="frontier R(k)")
    looks = ((GREEN, "o-"), (BLUE, "s:"), (PURPLE, "v--"), (ORANGE, "D-."))
    for (name, path), (color, look) in zip(paths.items(), looks, strict=False):
        axes.plot(*zip(*path, strict=True), look, color=color, markersize=4, linewidth=1, label=name)
    axes.plot(*optimum, "*", color=BLACK, markersize=14, label="optimum π*")
    axes.set(title=title, xlabel="KL(π ‖ π_ref) (nats)", ylabel="reward (reward units)")
    axes.legend()
    return figure


def own_frontiers(found: Mapping[str, Mapping[str, Any]], betas: Sequence[float], frontier: Sequence[Point]) -> Figure:
    """Frontiers measured by a student, with their intervals in both directions, below that of the optimum.

    Each has the parts `kl_mean`, `gold_mean`, `kl_half` and `gold_half` (C,), one number for each of `betas`.
    """
    figure, (axes,) = empty_panels("", 1)
    axes.plot(*zip(*frontier, strict=True), color=BLACK, linewidth=1.2, label="frontier R(k)")
    beside = ((5, -12), (-8, 9), (5, -12), (-8, 9))  # of a point, in points: neighbours' labels keep apart
    looks = zip(LOOKS[1:], "Dsov", beside, strict=True)
    for (label, parts), ((color, _), marker, place) in zip(found.items(), looks, strict=False):
        names = ("kl_mean", "gold_mean", "kl_half", "gold_half")
        kl, gold, wide, high = (torch.as_tensor(parts[name]).tolist() for name in names)
        axes.plot(kl, gold, ":", marker=marker, color=color, label=label)
        axes.errorbar(kl, gold, xerr=wide, yerr=high, fmt="none", color=color, capsize=3)
        for beta, x, y in zip(betas, kl, gold, strict=True):
            axes.annotate(f"β {beta:g}", (x, y), place, textcoords="offset points", color=color, fontsize="small")
    axes.set(xlabel="KL(π ‖ π_ref) (nats)", ylabel="gold reward (reward units)")
    axes.set_title("Mean of three seeds, with 95 % intervals")
    axes.legend(loc="lower right")
    return figure
