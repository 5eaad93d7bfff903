"""A class at its exercises: how many have each right."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from week6.pictures.plots import STYLE

COLORS = ("#2a78d6", "#eda100", "#c3c2b7")


def class_bars(titles: Sequence[str], counts: Sequence[tuple[int, int, int]]) -> Figure:
    """One bar an exercise: shares of students whose answer is correct, not yet, not attempted; shape (E, 3).

    Raises ValueError where there are not as many counts as titles, or an exercise that nobody handed in.
    """
    if len(titles) != len(counts) or not all(sum(row) for row in counts):
        raise ValueError(f"counts: got {len(counts)} rows for {len(titles)} titles, expected one each, not all zeros")
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(8, 1.2 + 0.28 * len(titles)), layout="constrained")
        left = [0.0] * len(titles)
        places = list(range(len(titles)))
        for k, (name, color) in enumerate(zip(("correct", "not yet", "not attempted"), COLORS, strict=True)):
            widths = [100 * row[k] / sum(row) for row in counts]
            axes.barh(places, widths, left=left, color=color, label=name)
            left = [a + b for a, b in zip(left, widths, strict=True)]
        axes.set(xlim=(0, 100), xlabel="share of submissions (%)")
        axes.set_yticks(places, [title.replace("$", r"\$") for title in titles])
        axes.set_ylim(len(titles) - 0.4, -0.6)  # the first on top
        axes.grid(False, axis="y")
        axes.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=3, frameon=False)
    return figure
