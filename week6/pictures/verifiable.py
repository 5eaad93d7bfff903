"""The drawings of notebook 09: what the division by the spread does, training on a checker, success against KL."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from week6.pictures.plots import BLACK, LOOKS, ORANGE, empty_panels

Point = tuple[float, float, float]
"""KL in nats, success, its standard error."""


def weights_of_prompts(pass_rates: Sequence[float], weights: Mapping[str, Sequence[float]]) -> Figure:
    """By how much each rule multiplies the gradient of a prompt's pass rate, against that pass rate."""
    figure, (axes,) = empty_panels("", 1)
    for (name, values), (color, line) in zip(weights.items(), LOOKS, strict=False):
        axes.plot(pass_rates, values, color=color, linestyle=line, label=name)
    axes.set(
        xlabel="pass rate p of the prompt", ylabel="weight of ∇p", title="How much a prompt counts", ylim=(0, None)
    )
    axes.legend()
    return figure


def lengths(steps: Sequence[int], by_rule: Mapping[str, Sequence[float]]) -> Figure:
    """Mean length of wrong answers, in tokens, along gradient ascent, a line a rule."""
    figure, (axes,) = empty_panels("", 1)
    for (name, values), (color, line) in zip(by_rule.items(), LOOKS, strict=False):
        axes.plot(steps, values, color=color, linestyle=line, label=name)
    axes.set(xlabel="gradient step", ylabel="tokens", title="Mean length of a wrong answer")
    axes.legend()
    return figure


def training(runs: Mapping[str, pd.DataFrame], panels: Mapping[str, tuple[str, str]], smooth: int = 5) -> Figure:
    """Metrics of training against the step, a line a run, each a mean over the last `smooth` steps.

    `panels`: the column → the panel's title and the name of its axis.
    """
    figure, drawn = empty_panels("", len(panels))
    for axes, (column, (title, unit)) in zip(drawn, panels.items(), strict=True):
        for (name, metrics), (color, line) in zip(runs.items(), LOOKS, strict=False):
            values = metrics[column].rolling(smooth, min_periods=1).mean()
            axes.plot(metrics["step"], values, color=color, linestyle=line, label=name)
        axes.set(title=title, xlabel="step", ylabel=unit)
        axes.legend()
    return figure


def success_frontier(curve: Sequence[tuple[float, float]], runs: Mapping[str, Point], reference: Point) -> Figure:
    """Success against KL: the best there is (curve), the reference, and trained policies with bars of one error."""
    figure, (axes,) = empty_panels("", 1)
    axes.plot(*zip(*curve, strict=True), color=BLACK, linewidth=1.2, label="optimum for each β")
    look: Any = {"capsize": 3, "markersize": 7, "linestyle": "none"}
    axes.errorbar(*reference[:2], yerr=reference[2], color=BLACK, marker="s", label="SFT", **look)
    for (name, (kl, success, error)), marker, (color, _) in zip(
        runs.items(), "oDv^P*", [*LOOKS, LOOKS[0]], strict=False
    ):
        axes.errorbar(kl, success, yerr=error, color=color, marker=marker, label=name, **look)
    axes.set(xlabel="KL(π ‖ SFT) (nats per answer)", ylabel="share of right answers", ylim=(0, 1.02))
    axes.set_title("Success on held-out problems, ± 1 standard error")
    axes.legend(loc="lower right")
    return figure


def bars(table: pd.DataFrame, title: str) -> Figure:
    """A group of bars for each row of a table of shares, a bar a column, with the values above."""
    figure, (axes,) = empty_panels("", 1)
    places, width = np.arange(len(table)), 0.8 / table.shape[1]
    for i, (name, (color, _)) in enumerate(zip(table.columns, LOOKS, strict=False)):
        shift = (i - (table.shape[1] - 1) / 2) * width
        drawn = axes.bar(places + shift, table[name], width, color=color, alpha=0.75, edgecolor=BLACK, label=name)
        axes.bar_label(drawn, fmt="%.2f", padding=2, fontsize=8)
    axes.set_xticks(places, list(table.index))
    axes.set(title=title, ylabel="share of answers", ylim=(0, 1.15))
    axes.axhline(1, color=ORANGE, linestyle=":", linewidth=1)
    axes.legend(loc="upper left", ncols=table.shape[1])
    return figure
