"""The drawings of notebook 00: what a chatbot says, how far annotators agree, and whom a bot refuses."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from week6.pictures.plots import BLACK, BLUE, LOOKS, ORANGE, empty_panels


def learning_to_speak(losses: Sequence[float], guess: float) -> Figure:
    """Loss of each batch of SFT against the step, beside that of a blind guess among all tokens; nats per token."""
    figure, (axes,) = empty_panels("", 1)
    axes.plot(losses, color=BLUE, linewidth=0.8, label="loss of a batch")
    axes.axhline(guess, color=ORANGE, linestyle="--", label="log V: guess among all tokens")
    axes.set(title="SFT learns to speak", xlabel="step", ylabel="cross-entropy (nats per token)")
    axes.legend()
    return figure


def kinds_of_answers(shares: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Figure:
    """Share of each kind of answer: a panel for each group of requests, bars side by side for each source.

    `shares[group][source][kind]` lies in [0, 1]; every source has the same kinds.
    """
    figure, panels = empty_panels("", len(shares), share=True)
    for axes, (group, sources) in zip(panels, shares.items(), strict=True):
        for k, ((source, share), (color, _)) in enumerate(zip(sources.items(), LOOKS, strict=False)):
            place = np.arange(len(share)) + 0.4 * (k - (len(sources) - 1) / 2)
            axes.bar(place, list(share.values()), 0.38, label=source, color=color, hatch=["", "//"][k % 2], alpha=0.85)
            axes.set_xticks(range(len(share)), list(share), rotation=40, ha="right")
        axes.set(title=f"{group} requests", xlabel="kind of answer")
    panels[0].set_ylabel("share of answers")
    panels[0].legend()
    return figure


def agreement_table(table: ArrayLike, names: Sequence[str], n: int) -> Figure:
    """Share of n pairs that each two annotators judged alike, shape (annotators, annotators), as a table in colour."""
    shares = np.asarray(table)
    figure, (axes,) = empty_panels("", 1)
    image = axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    for (i, j), share in np.ndenumerate(shares):
        axes.text(j, i, f"{share:.1f}", ha="center", va="center", color="white" if share > 0.6 else BLACK)
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set(title=f"Agreement on {n} pairs", xlabel="annotator", ylabel="annotator")
    axes.grid(False)
    figure.colorbar(image, label="share of pairs judged alike")
    return figure


def agreement_curve(p: ArrayLike, agree: ArrayLike, best: ArrayLike, example: tuple[float, float]) -> Figure:
    """Probability of agreeing against the share p of people who prefer a: of two annotators, and of the best judge.

    `example` is a point (p, probability of agreeing) of the first curve, to be marked.
    """
    figure, (axes,) = empty_panels("", 1)
    axes.plot(np.asarray(p), np.asarray(agree), color=BLUE, label="two annotators agree, eq. (6)")
    label = "the best judge agrees with one annotator: max(p, 1−p)"
    axes.plot(np.asarray(p), np.asarray(best), color=ORANGE, linestyle="--", label=label)
    axes.plot(*example, "o", color=BLUE)
    text = f"{example[0]:.0%} prefer a: {example[1]:.0%}"
    axes.annotate(text, example, (0.4, 0.8), arrowprops={"arrowstyle": "->"}, va="center")
    axes.set(title="Noisy people cannot agree more than this", xlabel="p: share of people who prefer a")
    axes.set(ylabel="probability of agreeing", ylim=(0.45, 1.3), yticks=np.linspace(0.5, 1, 6))
    axes.legend(loc="upper center")
    return figure


def refusals(rates: Mapping[str, tuple[float, float]]) -> Figure:
    """Bots by their two rates of refusal, (of harmful requests, of harmless ones): up is good, left is good."""
    figure, (axes,) = empty_panels("", 1)
    for (name, (right, over)), marker in zip(rates.items(), "os^*DvP", strict=False):
        axes.scatter(over, right, s=90, marker=marker, label=name)
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", label="refuses without looking")
    axes.set(title="Refusing, seen from both sides", xlabel="over-refusal (share of harmless requests)")
    axes.set(ylabel="refused harm (share of harmful requests)", xlim=(-0.05, 1.05), ylim=(-0.05, 1.05))
    axes.legend(loc="lower right")
    return figure
