"""The drawings of notebook 08: learning from conversations, refusals, and two implementations of one loss."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from week6.pictures.plots import BLACK, GREEN, LOOKS, ORANGE, POLICIES, PURPLE, empty_panels

TALKER = ("DPO, then conversations", PURPLE, "P")
"""Name in a legend, colour and marker of the policy that was trained on conversations."""


def _conversation_losses(axes: Axes, trained: Sequence[float], watched: Sequence[float], blind: float) -> None:
    """Cross-entropy in nats per token against the step: the assistant's tokens, the user's, and blind guessing."""
    axes.plot(trained, color=GREEN, label="assistant's tokens: trained")
    axes.plot(watched, color=BLACK, linestyle=":", label="user's tokens: mask 0")
    axes.axhline(blind, color=ORANGE, linestyle="--", linewidth=1, label="blind guessing, log V")
    axes.set(title="Learning from conversations", xlabel="step", ylabel="nats per token")
    axes.legend()


def _reward_by_turn(axes: Axes, rewards: Mapping[str, Sequence[Sequence[float]]]) -> None:
    """Mean gold reward of each policy's answers at the first, second, … turn, ± one standard error."""
    looks = {"sft": "-", "ppo": "--", "dpo": "-.", "talker": "-"}
    for name, turns in rewards.items():
        label, color, marker = TALKER if name == "talker" else POLICIES[name]
        columns = [np.asarray(values) for values in turns]
        means = [column.mean() for column in columns]
        errors = [column.std(ddof=1) / len(column) ** 0.5 for column in columns]
        numbers = range(1, len(turns) + 1)
        axes.errorbar(numbers, means, errors, color=color, marker=marker, linestyle=looks[name], label=label)
    axes.set(title="Answers later in the conversation", xlabel="turn", ylabel="gold reward (reward units)")
    axes.set_xticks(range(1, 1 + max(len(turns) for turns in rewards.values())))
    axes.legend(fontsize=8)


def learning_to_converse(
    trained: Sequence[float], watched: Sequence[float], blind: float, rewards: Mapping[str, Sequence[Sequence[float]]]
) -> Figure:
    """Left, the loss on the assistant's tokens and the user's; right, the gold reward of the answers turn by turn."""
    figure, (left, right) = empty_panels("", 2)
    figure.set_size_inches(9.5, 3.7)
    _conversation_losses(left, trained, watched, blind)
    _reward_by_turn(right, rewards)
    return figure


def refusals(tables: Mapping[str, Sequence[Sequence[float]]]) -> Figure:
    """Share of harmful requests refused against that of harmless ones, in per cent, ± one standard error.

    A table (3, 2) for each policy: the second row is harmful, the third harmless; the columns are mean and error.
    """
    figure, (axes,) = empty_panels("", 1)
    for name, (_, harmful, harmless) in tables.items():
        label, color, marker = TALKER if name == "talker" else POLICIES[name]
        (good, good_error), (bad, bad_error) = ([100 * float(x) for x in row] for row in (harmful, harmless))
        look: Any = {"color": color, "marker": marker, "linestyle": "", "capsize": 3, "label": label}
        axes.errorbar(bad, good, xerr=bad_error, yerr=good_error, **look)
    axes.plot(0, 100, marker="*", color="0.4", markersize=12, linestyle="", clip_on=False, label="ideal")
    axes.set(xlabel="harmless requests refused (%)", ylabel="harmful requests refused (%)")
    axes.set(title="Refusing the right things", ylim=(0, 105), xlim=(-1, None))
    axes.legend(loc="lower left")
    return figure


def two_implementations(curves: Mapping[str, pd.DataFrame], columns: Mapping[str, str]) -> Figure:
    """Metrics of the same run made twice, a panel each: the first broad and pale, the second thin over it.

    `columns` maps a metric to its unit; the index of the tables is the step.
    """
    figure, panels = empty_panels("", len(columns))
    for axes, (column, unit) in zip(panels, columns.items(), strict=True):
        for (name, table), (color, _), width, line in zip(
            curves.items(), (LOOKS[1], LOOKS[4]), (4.0, 1.2), ("-", "--"), strict=True
        ):
            alpha = 0.5 if line == "-" else 1.0
            axes.plot(table[column], color=color, linewidth=width, alpha=alpha, linestyle=line, label=name)
        axes.set(title=f"DPO {column}", xlabel="step", ylabel=f"{column} ({unit})")
        axes.legend()
    return figure
