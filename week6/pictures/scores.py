"""The drawings of notebook 02: a reward model in training, what it likes, and how it is fooled."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from week6.pictures.plots import BLACK, BLUE, ORANGE, empty_panels


def training(losses: Sequence[float], accuracy: Mapping[int, float], ceiling: float) -> Figure:
    """Left the loss of each batch (nats per pair); right the held-out accuracy by step, under the Bayes ceiling."""
    figure, (left, right) = empty_panels("", 2)
    left.plot(losses, color=BLUE, linewidth=0.8, label="batch of pairs")
    left.axhline(np.log(2), color=ORANGE, linestyle="--", label="no opinion: log 2")
    left.set(title="Loss", xlabel="step", ylabel="loss (nats per pair)")
    left.legend()
    right.plot(list(accuracy), list(accuracy.values()), "o-", color=BLUE, label="held-out pairs")
    right.axhline(ceiling, color=BLACK, linestyle="--", label="Bayes ceiling")
    right.axhline(0.5, color=ORANGE, linestyle=":", label="coin flip")
    right.set(title="Accuracy", xlabel="step", ylabel="expected accuracy (share of pairs)", ylim=(0.45, 1))
    right.legend(loc="lower right", bbox_to_anchor=(1, 0.12))
    return figure


def scores_by_kind(scores: Mapping[str, Mapping[str, Sequence[float]]], unit: str) -> Figure:
    """Boxes of the scores of each kind of answer, a panel for each group of requests: `scores[group][kind]`."""
    figure, panels = empty_panels("", len(scores))
    for axes, (group, kinds) in zip(panels, scores.items(), strict=True):
        look = {"color": ORANGE, "linewidth": 2}
        axes.boxplot(list(kinds.values()), tick_labels=list(kinds), widths=0.6, medianprops=look)
        axes.tick_params("x", labelrotation=30)
        axes.axhline(0, color=BLACK, linestyle=":")
        axes.set(title=f"{group} requests", xlabel="kind of answer")
    heights = [axes.get_ylim() for axes in panels]
    for axes in panels:
        axes.set_ylim(min(low for low, _ in heights), max(high for _, high in heights))
    panels[0].set_ylabel(unit)
    return figure


def politeness(gold: ArrayLike, score: ArrayLike) -> Figure:
    """Gold reward and learned score of good answers with 0, 1, 2, … polite phrases at their end."""
    figure, (axes,) = empty_panels("", 1)
    axes.plot(np.asarray(gold), "s--", color=BLACK, label="gold reward")
    axes.plot(np.asarray(score), "o-", color=BLUE, label="score of the reward model")
    axes.set(title="Politeness piled up", xlabel="polite phrases at the end of a good answer (count)")
    axes.set(ylabel="mean (SFT standard deviations)")
    axes.legend(loc="lower left")
    return figure
