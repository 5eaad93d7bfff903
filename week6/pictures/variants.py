"""The figures of notebook 10: what the variants of DPO want. Tables of numbers in, a figure out."""

from collections.abc import Mapping, Sequence

from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from week6.pictures.plots import BLACK, BLUE, GREEN, LOOKS, ORANGE, PURPLE, empty_panels

MARKS = ((BLUE, "o"), (GREEN, "^"), (PURPLE, "s"), (ORANGE, "D"), ("0.35", "v"))
"""Colour and marker of the first, second, … loss."""
SIXTH = ("0.35", (0, (8, 2)))
"""Colour and dashes of a line more than LOOKS has."""


def against_the_frontier(
    best: tuple[Sequence[float], Sequence[float]], losses: Mapping[str, tuple[Sequence[float], Sequence[float]]]
) -> Figure:
    """Reward against KL (nats): a line for the best policies at every KL, marks for the optimum of each loss at several
    settings."""
    figure, (axes,) = empty_panels("", 1)
    figure.set_size_inches(7.5, 4)
    axes.plot(*best, color=BLACK, label=r"$\pi^*$ (DPO)")
    for (label, points), (color, marker) in zip(losses.items(), MARKS, strict=False):
        axes.plot(*points, color=color, marker=marker, linestyle="", label=label)
    axes.set(title="No loss is above the frontier", ylabel="reward (reward units)")
    axes.set_xlabel(r"KL$(\pi\,\Vert\,\pi_\mathrm{ref})$ (nats)")
    axes.legend(loc="lower right")
    return figure


def steps_and_slopes(
    win_rate: Float[Tensor, " N"], log_ratios: Mapping[str, Float[Tensor, " N"]], threshold: float
) -> Figure:
    """log π/π_ref (nats) of each answer against its win rate, a series for each policy; dotted, KTO's threshold."""
    figure, (axes,) = empty_panels("", 1)
    figure.set_size_inches(7.5, 4)
    lowest = min(values.min().item() for name, values in log_ratios.items() if "KTO" not in name)
    for (label, values), (color, marker) in zip(log_ratios.items(), MARKS, strict=False):
        kept = values >= lowest - 1
        axes.plot(win_rate[kept], values[kept], color=color, marker=marker, linestyle="", alpha=0.6, label=label)
    axes.axvline(threshold, color=BLACK, linestyle=":", label="chosen as often as rejected")
    axes.set(title="What a log-ratio is made of", ylabel=r"$\log\,\pi/\pi_\mathrm{ref}$ (nats)")
    axes.set_xlabel("win rate against answers of the reference")
    axes.legend(loc="lower right")
    return figure


def kl_while_training(paths: Mapping[str, Sequence[float]], ceiling: float) -> Figure:
    """KL (nats) after each step, both axes logarithmic, a line for each loss; dotted, the KL of a policy that gives the
    best answers only."""
    figure, (axes,) = empty_panels("", 1)
    figure.set_size_inches(7.5, 3.8)
    looks = zip((*LOOKS, SIXTH), "o^sDvx", strict=True)
    for (name, nats), ((color, style), mark) in zip(paths.items(), looks, strict=False):
        steps = range(1, len(nats) + 1)
        axes.loglog(steps, nats, color=color, linestyle=style, marker=mark, markersize=4, label=name)
    axes.axhline(ceiling, color=BLACK, linestyle=":", linewidth=1, label="only the best answers")
    axes.set(title="Labels that are certain", ylabel=r"KL$(\pi\,\Vert\,\pi_\mathrm{ref})$ (nats)", xlabel="step")
    axes.legend(loc="lower right")
    return figure
