"""The drawings of notebooks 01 and 02 about comparisons: the Bradley–Terry curve, its loss, fits and calibration."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from week6.pictures.plots import BLACK, BLUE, GREEN, ORANGE, empty_panels

MARKS = [(BLUE, "o"), (ORANGE, "s"), (GREEN, "^")]
"""Colour and marker of the first, second, … series of points."""


def noise_curve(curves: Mapping[float, tuple[ArrayLike, ArrayLike]], points: tuple[ArrayLike, ArrayLike]) -> Figure:
    """p(a ≻ b) against r_a − r_b: a curve (differences, probabilities) for each noise s, and shares of people.

    `points` are the differences and the shares of the people whose noise is that of the last curve.
    """
    figure, (axes,) = empty_panels("", 1)
    for (noise, curve), (color, style) in zip(curves.items(), [(BLACK, "--"), (BLUE, "-")], strict=False):
        axes.plot(*map(np.asarray, curve), color=color, linestyle=style, label=f"noise s = {noise:g}")
    axes.plot(*map(np.asarray, points), "o", color=ORANGE, label=f"simulated people at s = {[*curves][-1]:g}")
    axes.axhline(0.5, color=BLACK, linewidth=0.5)
    axes.set(title="Bradley–Terry: the noise sets the slope", ylabel=r"$p(a \succ b)$ (probability)")
    axes.set_xlabel("$r_a - r_b$ (reward units)")
    axes.legend(loc="upper left")
    return figure


def loss_and_derivatives(margin: ArrayLike, loss: ArrayLike, slope: ArrayLike, curvature: ArrayLike) -> Figure:
    """The pairwise loss (nats), its slope and its curvature against the margin Δ (reward units)."""
    figure, (axes,) = empty_panels("", 1)
    x = np.asarray(margin)
    axes.plot(x, np.asarray(loss), color=BLUE, label="loss −log σ(Δ)")
    axes.plot(x, np.asarray(slope), color=ORANGE, linestyle="--", label="slope −σ(−Δ)")
    axes.plot(x, np.asarray(curvature), color=GREEN, linestyle="-.", label="curvature σ(Δ) σ(−Δ)")
    axes.plot(0, np.log(2), "o", color=BLACK, label="log 2 at Δ = 0: a coin flip")
    axes.set(title="The pairwise loss and its derivatives", xlabel="Δ = $r_w - r_l$ (reward units)", ylim=(-1.5, 5))
    axes.set_ylabel("loss (nats) and its derivatives")
    axes.legend()
    return figure


def found_again(true: ArrayLike, fitted: ArrayLike, standard_errors: ArrayLike, comparisons: int) -> Figure:
    """Fitted against true rewards of the answers y0, y1, …, with bars of two standard errors (reward units)."""
    x, y = np.asarray(true), np.asarray(fitted)
    figure, (axes,) = empty_panels("", 1)
    low, high = min(x.min(), y.min()) - 0.5, max(x.max(), y.max()) + 0.5
    axes.plot([low, high], [low, high], color=BLACK, linestyle=":", label="fitted = true")
    label = "fitted, ± 2 standard errors"
    axes.errorbar(x, y, 2 * np.asarray(standard_errors), fmt="o", color=BLUE, capsize=3, label=label)
    for i, place in enumerate(zip(x, y, strict=True)):
        axes.annotate(f"y{i}", place, (6, -12), textcoords="offset points")
    axes.set(title=f"Rewards found again from {comparisons} comparisons", xlabel="true reward (reward units)")
    axes.set_ylabel("fitted reward (reward units)")
    axes.legend()
    return figure


def error_by_comparisons(sizes: Sequence[int], measured: ArrayLike, predicted: ArrayLike) -> Figure:
    """Error of fitted rewards against the comparisons per pair, measured and predicted, on logarithmic axes."""
    figure, (axes,) = empty_panels("", 1)
    axes.loglog(sizes, np.asarray(predicted), color=BLACK, linestyle="--", label="predicted by (16), slope −½")
    axes.loglog(sizes, np.asarray(measured), "o", color=BLUE, label="measured on simulated tables")
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set_yticks([0.05, 0.1, 0.2, 0.4], ["0.05", "0.1", "0.2", "0.4"])
    axes.minorticks_off()
    axes.set(title="Four times the comparisons, half the error", xlabel="comparisons per pair (count)")
    axes.set_ylabel("root mean square error (reward units)")
    axes.legend()
    return figure


def calibration(judges: Mapping[str, tuple[ArrayLike, ArrayLike, ArrayLike]], title: str) -> Figure:
    """Observed share of a against the predicted p(a ≻ b), for each judge: (predicted, observed, standard error) by bin.

    Bars are two standard errors. On the diagonal a judge's probabilities mean what they say.
    """
    figure, (axes,) = empty_panels("", 1)
    axes.plot([0, 1], [0, 1], color=BLACK, linestyle=":", label="calibrated")
    for (name, bins), (color, marker) in zip(judges.items(), MARKS, strict=False):
        predicted, observed, error = map(np.asarray, bins)
        look: Any = {"color": color, "marker": marker, "linestyle": "none", "capsize": 2}
        axes.errorbar(predicted, observed, 2 * error, label=name, **look)
    axes.set(title=title, xlabel=r"predicted $p(a \succ b)$ (probability)")
    axes.set_ylabel("observed share of a (probability)")
    axes.legend(loc="upper left")
    return figure


def gap_by_steps(gaps: Mapping[str, ArrayLike]) -> Figure:
    """Gap r_0 − r_1 (reward units) after each step of gradient ascent, for each kind of fit, on a logarithmic axis."""
    figure, (axes,) = empty_panels("", 1)
    for (name, gap), (color, style) in zip(gaps.items(), [(ORANGE, "--"), (BLUE, "-")], strict=False):
        height = np.asarray(gap)
        axes.semilogx(range(1, len(height) + 1), height, color=color, linestyle=style, label=name)
    title = "12 wins of 12: the gap grows with the logarithm of the steps"
    axes.set(title=title, xlabel="step of gradient ascent (count)", ylabel="gap $r_0 - r_1$ (reward units)")
    axes.legend()
    return figure


def error_by_penalty(penalties: Sequence[float], errors: ArrayLike, expected: float) -> Figure:
    """Error of the fitted rewards against the strength of the penalty; `expected` is what (18) suggests for it."""
    figure, (axes,) = empty_panels("", 1)
    axes.semilogx(penalties, np.asarray(errors), "o-", color=BLUE, label="mean over simulated tables")
    axes.axvline(expected, color=BLACK, linestyle=":", label="1 / variance of the true rewards")
    axes.set(title="Two comparisons per pair: a moderate penalty is best", xlabel="l2 (1 / reward units²)")
    axes.set_ylabel("root mean square error (reward units)")
    axes.legend()
    return figure


def circle(pairs: Sequence[str], people: ArrayLike, fitted: ArrayLike) -> Figure:
    """Share who prefer the first answer of each pair: of the people, and as the best Bradley–Terry fit has it."""
    figure, (axes,) = empty_panels("", 1)
    place = np.arange(len(pairs))
    axes.bar(place - 0.2, np.asarray(people), 0.38, color=BLUE, label="people")
    look: Any = {"color": "white", "edgecolor": ORANGE, "hatch": "//"}
    axes.bar(place + 0.2, np.asarray(fitted), 0.38, label="best Bradley–Terry fit", **look)
    axes.axhline(0.5, color=BLACK, linestyle=":", label="coin flip")
    axes.set_xticks(place, pairs)
    title = "Preferences in a circle: the best single number says nothing"
    axes.set(title=title, xlabel="pair", ylabel="share who prefer the first (probability)", ylim=(0, 1.15))
    axes.legend(loc="upper center", ncols=3)
    return figure
