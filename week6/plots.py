"""The figures of a run: each is a function from a table of metrics to a Matplotlib figure.

One style for all: titles, axes with units, colours that colour-blind readers can tell apart (Okabe & Ito 2008), and a
line style or marker of its own for every series, so that a grey print is readable too.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, PURPLE, BLACK = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000"
LOOKS = [(BLUE, "-"), (ORANGE, "--"), (GREEN, "-."), (PURPLE, ":"), (BLACK, (0, (5, 1, 1, 1, 1, 1)))]
"""Colour and line style of the first, second, … series of a panel."""
POLICIES = {
    "sft": ("SFT", BLACK, "s"),
    "best_of_n": ("best of n", GREEN, "^"),
    "ppo": ("PPO", BLUE, "o"),
    "dpo": ("DPO", ORANGE, "D"),
}
"""Name in a legend, colour and marker of each policy, the same in every figure."""
PROXY_AND_GOLD = {"score": "proxy (reward model)", "gold": "gold (never trained on)"}
STYLE: Any = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": "medium",
    "axes.axisbelow": True,
    "figure.titlesize": "large",
    "font.size": 10,
    "grid.alpha": 0.25,
    "legend.fontsize": "small",
    "legend.framealpha": 0.85,
    "savefig.dpi": 120,
}


def sft_loss(metrics: pd.DataFrame) -> Figure:
    """Cross-entropy of the demonstrations, in nats per token, against the step."""
    figure, (axes,) = _panels("", 1)
    _lines(
        axes,
        metrics,
        {"loss": "training batches"},
        "Supervised fine-tuning: loss on the demonstrations",
        "nats per token",
    )
    return figure


def reward_model(metrics: pd.DataFrame, bayes_accuracy: float | None = None) -> Figure:
    """Loss and accuracy of the reward model; `bayes_accuracy` draws the accuracy that no model can exceed."""
    figure, (loss, accuracy) = _panels("Reward model", 2)
    _lines(loss, metrics, {"loss": "training pairs"}, "Bradley–Terry loss", "nats per pair")
    loss.axhline(np.log(2), color=BLACK, linestyle=":", linewidth=1, label="guessing, log 2")
    loss.legend()
    _lines(accuracy, metrics, {"accuracy": "training pairs"}, "Pairs ranked as the annotator did", "share of pairs")
    if bayes_accuracy is not None:
        accuracy.axhline(bayes_accuracy, color=ORANGE, linestyle="--", label=f"Bayes ceiling, {bayes_accuracy:.3f}")
    accuracy.axhline(0.5, color=BLACK, linestyle=":", linewidth=1, label="guessing")
    accuracy.legend()
    return figure


def ppo_dashboard(metrics: pd.DataFrame) -> Figure:
    """What to watch while PPO trains: is it learning, is it drifting, is the code right."""
    figure, panels = _panels("PPO", 8)
    reward, kl, entropy, clip, ratio, variance, length, beta = panels
    _lines(reward, metrics, PROXY_AND_GOLD, "Reward", "reward units")
    _lines(kl, metrics, {"kl": "KL(π ‖ SFT)"}, "Distance from SFT", "nats per answer")
    _lines(entropy, metrics, {"entropy": "entropy"}, "Entropy: does it still explore?", "nats per token")
    _lines(clip, metrics, {"clip_fraction": "clipped"}, "Tokens outside the clip range", "share of tokens")
    _lines(ratio, metrics, {"first_ratio_deviation": "max |ρ − 1|"}, "Ratio at the first pass: must be 1", "|ρ − 1|")
    ratio.axhline(1e-4, color=BLACK, linestyle=":", linewidth=1, label="limit of rounding error")
    ratio.set_yscale("log")
    ratio.legend()
    _lines(variance, metrics, {"explained_variance": "value head"}, "Explained variance of the returns", "share")
    _lines(length, metrics, {"length": "answers"}, "Length of the answers", "tokens")
    _lines(beta, metrics, {"beta": "β"}, "Price of KL", "reward units per nat")
    beta.set_ylim(bottom=0)
    return figure


def dpo_dashboard(metrics: pd.DataFrame) -> Figure:
    """What to watch while DPO trains: margins grow even where the log-probability of the chosen answer falls."""
    figure, panels = _panels("DPO", 6)
    rewards, margin, accuracy, kl, log_probs, weight = panels
    _lines(
        rewards, metrics, {"chosen_reward": "chosen", "rejected_reward": "rejected"}, "Implicit reward", "reward units"
    )
    _lines(margin, metrics, {"margin": "chosen − rejected"}, "Margin", "reward units")
    _lines(accuracy, metrics, {"accuracy": "training pairs"}, "Margin above 0", "share of pairs")
    _lines(kl, metrics, {"kl": "KL estimate"}, "Distance from SFT", "nats per answer")
    _lines(
        log_probs,
        metrics,
        {"chosen_log_prob": "chosen", "rejected_log_prob": "rejected"},
        "log π(y | x)",
        "nats per answer",
    )
    _lines(
        weight, metrics, {"gradient_weight": "mean weight"}, r"Gradient weight $\sigma(\hat r_l - \hat r_w)$", "weight"
    )
    return figure


def frontier(policies: Mapping[str, Mapping[str, Any]], best_gold: float | None = None) -> Figure:
    """Gold reward against KL for each policy of summary.json, with bars of one standard error."""
    figure, (axes,) = _panels("", 1)
    for name, policy in policies.items():
        if policy["gold"] is None or policy["kl"] is None:
            continue
        label, color, marker = POLICIES[name]
        if policy["kl_se"] is None and name == "best_of_n":
            label += " (KL: upper bound)"
        axes.errorbar(
            policy["kl"],
            policy["gold"],
            xerr=policy["kl_se"],
            yerr=policy["gold_se"],
            color=color,
            marker=marker,
            markersize=8,
            capsize=3,
            linestyle="none",
            label=label,
        )
    if best_gold is not None:
        axes.axhline(best_gold, color=PURPLE, linestyle=":", label="best achievable")
    axes.set(title="Gold reward and distance from SFT, ± 1 standard error", ylabel="gold reward (reward units)")
    axes.set_xlabel("KL(π ‖ SFT) (nats per answer)")
    axes.legend()
    return figure


def overoptimisation(metrics: pd.DataFrame) -> Figure:
    """Proxy and gold reward against √KL while PPO trains (after Gao et al. 2022, fig. 1).

    Where the proxy goes on rising and the gold falls, the policy exploits errors of the reward model.
    """
    figure, (axes,) = _panels("", 1)
    order = metrics.assign(distance=np.sqrt(metrics["kl"].clip(lower=0))).sort_values("distance")
    for (column, label), (color, style), marker in zip(PROXY_AND_GOLD.items(), LOOKS, ".x", strict=False):
        if column in order:
            axes.plot(order["distance"], order[column], marker, color=color, alpha=0.35)
            axes.plot(_smooth(order["distance"]), _smooth(order[column]), color=color, linestyle=style, label=label)
    axes.set(
        title="What is rewarded and what was meant: batches of PPO",
        xlabel="√KL(π ‖ SFT) (√nats per answer)",
        ylabel="reward units",
    )
    axes.legend()
    return figure


def reward_histograms(rewards: Mapping[str, Sequence[float]], title: str = "Reward by kind of answer") -> Figure:
    """Distribution of the reward for each kind of answer, one row a kind, sorted by its mean."""
    kinds = sorted((kind for kind in rewards if len(rewards[kind])), key=lambda kind: float(np.mean(rewards[kind])))
    everything = np.concatenate([np.asarray(rewards[kind], dtype=float) for kind in kinds])
    bins = np.histogram_bin_edges(everything, bins=40)
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(
            len(kinds), 1, figsize=(7, 1 + 0.7 * len(kinds)), sharex=True, squeeze=False, layout="constrained"
        )
        for axes, kind in zip(grid[::-1, 0], kinds, strict=True):
            mean = float(np.mean(rewards[kind]))
            axes.hist(rewards[kind], bins=bins.tolist(), color=BLUE, alpha=0.75)
            axes.axvline(mean, color=ORANGE, linestyle="--")
            axes.set_ylabel(f"{kind}\nn = {len(rewards[kind])}", rotation=0, ha="right", va="center")
            axes.set_yticks([])
        grid[0, 0].set_title("dashed line: mean")
        grid[-1, 0].set_xlabel("reward units")
        figure.suptitle(title)
    plt.close(figure)
    return figure


def _panels(title: str, n: int) -> tuple[Figure, list[Axes]]:
    """A figure with n panels, at most four in a row. It is closed: a notebook shows it once, where it is returned."""
    columns = n if n <= 2 else 3 if n % 3 == 0 else 4
    rows = n // columns
    with plt.rc_context(STYLE):
        size = (6.4, 4.0) if n == 1 else (4.0 * columns, 3.1 * rows + 0.4)
        figure, grid = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
        figure.suptitle(title)
    plt.close(figure)
    return figure, list(grid.flat)


def _smooth(values: "pd.Series[float]") -> "pd.Series[float]":
    """Centred rolling mean over a tenth of the run."""
    return values.rolling(max(1, len(values) // 10), center=True, min_periods=1).mean()


def _lines(axes: Axes, metrics: pd.DataFrame, series: Mapping[str, str], title: str, unit: str) -> None:
    """Each column against the step: pale as it is, strong as a rolling mean. Columns the run lacks are left out."""
    for (column, label), (color, style) in zip(series.items(), LOOKS, strict=False):
        if column in metrics:
            measured = metrics[["step", column]].dropna()
            axes.plot(measured["step"], measured[column], color=color, alpha=0.25, linewidth=0.8)
            axes.plot(measured["step"], _smooth(measured[column]), color=color, linestyle=style, label=label)
    axes.set(title=title, xlabel="step", ylabel=unit)
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
