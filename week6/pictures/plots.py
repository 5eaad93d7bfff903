"""The figures of a run: each is a function from a table of metrics to a Matplotlib figure.

One style for all: titles, axes with units, colours that colour-blind readers can tell apart (Okabe & Ito 2008), and a
line style or marker of its own for every series, so that a grey print is readable too.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from week6.pictures.frontier import Form, fit_gao

BLUE, ORANGE, GREEN, PURPLE, BLACK = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000"
LOOKS = [(BLUE, "-"), (ORANGE, "--"), (GREEN, "-."), (PURPLE, ":"), (BLACK, (0, (5, 1, 1, 1, 1, 1)))]
"""Colour and line style of the first, second, … series of a panel."""
POLICIES = {
    "base": ("base", PURPLE, "D"),
    "sft": ("SFT", BLACK, "s"),
    "best_of_n": ("best of n", GREEN, "^"),
    "ppo": ("PPO", BLUE, "o"),
    "dpo": ("DPO", ORANGE, "D"),
    "dpo_twice_the_pairs": ("DPO, twice the pairs", GREEN, "s"),
    "dpo_two_rounds": ("DPO, two rounds", PURPLE, "v"),
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
    figure, (axes,) = empty_panels("", 1)
    draw_series(
        axes,
        metrics,
        {"loss": "training batches"},
        "Supervised fine-tuning: loss on the demonstrations",
        "nats per token",
    )
    return figure


def reward_model(metrics: pd.DataFrame, bayes_accuracy: float | None = None) -> Figure:
    """Loss and accuracy of the reward model; `bayes_accuracy` draws the accuracy that no model can exceed."""
    figure, (loss, accuracy) = empty_panels("Reward model", 2)
    draw_series(loss, metrics, {"loss": "training pairs"}, "Bradley–Terry loss", "nats per pair")
    loss.axhline(np.log(2), color=BLACK, linestyle=":", linewidth=1, label="guessing, log 2")
    loss.legend()
    draw_series(
        accuracy, metrics, {"accuracy": "training pairs"}, "Pairs ranked as the annotator did", "share of pairs"
    )
    if bayes_accuracy is not None:
        accuracy.axhline(bayes_accuracy, color=ORANGE, linestyle="--", label=f"Bayes ceiling, {bayes_accuracy:.3f}")
    accuracy.axhline(0.5, color=BLACK, linestyle=":", linewidth=1, label="guessing")
    accuracy.legend()
    return figure


def ppo_dashboard(metrics: pd.DataFrame) -> Figure:
    """What to watch while PPO trains: is it learning, is it drifting, is the code right."""
    figure, panels = empty_panels("PPO", 8)
    reward, kl, entropy, clip, ratio, variance, length, beta = panels
    draw_series(reward, metrics, PROXY_AND_GOLD, "Reward", "reward units")
    draw_series(kl, metrics, {"kl": "KL(π ‖ SFT)"}, "Distance from SFT", "nats per answer")
    draw_series(entropy, metrics, {"entropy": "entropy"}, "Entropy: does it still explore?", "nats per token")
    draw_series(clip, metrics, {"clip_fraction": "clipped"}, "Tokens outside the clip range", "share of tokens")
    draw_series(
        ratio, metrics, {"first_ratio_deviation": "max |ρ − 1|"}, "Ratio at the first pass: must be 1", "|ρ − 1|"
    )
    ratio.axhline(1e-4, color=BLACK, linestyle=":", linewidth=1, label="limit of rounding error")
    ratio.set_yscale("log")
    ratio.legend()
    draw_series(variance, metrics, {"explained_variance": "value head"}, "Explained variance of the returns", "share")
    draw_series(length, metrics, {"length": "answers"}, "Length of the answers", "tokens")
    draw_series(beta, metrics, {"beta": "β"}, "Price of KL", "reward units per nat")
    beta.set_ylim(bottom=0)
    return figure


def dpo_dashboard(metrics: pd.DataFrame) -> Figure:
    """What to watch while DPO trains: margins grow even where the log-probability of the chosen answer falls."""
    figure, panels = empty_panels("DPO", 6)
    rewards, margin, accuracy, kl, log_probs, weight = panels
    draw_series(
        rewards, metrics, {"chosen_reward": "chosen", "rejected_reward": "rejected"}, "Implicit reward", "reward units"
    )
    draw_series(margin, metrics, {"margin": "chosen − rejected"}, "Margin", "reward units")
    draw_series(accuracy, metrics, {"accuracy": "training pairs"}, "Margin above 0", "share of pairs")
    draw_series(kl, metrics, {"kl": "KL estimate"}, "Distance from SFT", "nats per answer")
    draw_series(
        log_probs,
        metrics,
        {"chosen_log_prob": "chosen", "rejected_log_prob": "rejected"},
        "log π(y | x)",
        "nats per answer",
    )
    draw_series(
        weight, metrics, {"gradient_weight": "mean weight"}, r"Gradient weight $\sigma(\hat r_l - \hat r_w)$", "weight"
    )
    return figure


def beside(runs: Mapping[str, pd.DataFrame], method: Literal["ppo", "dpo"]) -> Figure:
    """Reward (of DPO: the implicit ones) and KL of the same method in several runs: a column each, under its title."""
    rewards = PROXY_AND_GOLD if method == "ppo" else {"chosen_reward": "chosen", "rejected_reward": "rejected"}
    figure, panels = empty_panels("", 2 * len(runs), columns=len(runs))
    for (title, metrics), upper, lower in zip(runs.items(), panels, panels[len(runs) :], strict=False):
        draw_series(upper, metrics, rewards, title, "reward units")
        draw_series(lower, metrics, {"kl": "KL(π ‖ SFT)"}, "Distance from SFT", "nats per answer")
    return figure


def frontier(policies: Mapping[str, Mapping[str, Any]], best_gold: float | None = None) -> Figure:
    """Gold reward against KL for each policy of summary.json, with bars of one standard error."""
    return frontier_beside({"Gold reward and distance from SFT, ± 1 standard error": policies}, best_gold)


def frontier_beside(runs: Mapping[str, Mapping[str, Mapping[str, Any]]], best_gold: float | None = None) -> Figure:
    """`frontier` of several runs, a panel each, under its title. Their rewards have scales of their own."""
    figure, panels = empty_panels("", len(runs))
    for (title, policies), axes in zip(runs.items(), panels, strict=True):
        _frontier(axes, policies)
        if best_gold is not None:
            axes.axhline(best_gold, color=PURPLE, linestyle=":", label="best achievable")
        axes.set(title=title, ylabel="gold reward (reward units)", xlabel="KL(π ‖ SFT) (nats per answer)")
        axes.legend()
    return figure


def _frontier(axes: Axes, policies: Mapping[str, Mapping[str, Any]]) -> None:
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


def overoptimisation(metrics: pd.DataFrame) -> Figure:
    """Proxy and gold reward against √KL while PPO trains (after Gao et al. 2022, fig. 1).

    Where the proxy goes on rising and the gold falls, the policy exploits errors of the reward model.
    """
    figure, (axes,) = empty_panels("", 1)
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


def frontiers(table: pd.DataFrame, analytic: pd.DataFrame | None = None, zoom: float | None = None) -> Figure:
    """Gold reward against KL for every method and setting of a sweep (`week6.run.sweep.COLUMNS`).

    With `analytic`, points of the optimum: one panel a seed, the curve above which nothing lies, and the policies.
    Without: the mean over seeds with bars of one standard error between seeds, and pale the policies of each seed;
    `zoom` adds a panel that ends at so many nats, since most settings crowd there.
    """
    seeds = sorted(table["seed"].unique())
    if analytic is not None:
        figure, panels = empty_panels("", len(seeds), share=True)
        for axes, seed in zip(panels, seeds, strict=True):
            _policies_and_optimum(axes, table[table["seed"] == seed], analytic[analytic["seed"] == seed])
            axes.set_title(f"seed {seed}")
    else:
        figure, panels = empty_panels("", 1 if zoom is None else 2)
        for axes in panels:
            _means_over_seeds(axes, table, labels_from=zoom if axes is not panels[-1] and zoom else 0.0)
        panels[0].set_title(f"Mean of {len(seeds)} seeds, ± 1 standard error")
        if zoom is not None:
            near = table.loc[table["kl"] <= zoom, "gold"]
            margin = 0.12 * (near.max() - near.min())
            panels[1].set(title=f"The same up to {zoom:g} nats", xlim=(-0.18 * zoom, zoom))
            panels[1].set_ylim(near.min() - margin, near.max() + margin)
    for axes in panels:
        axes.set_xlabel("KL(π ‖ π_ref) (nats)")
    panels[0].set_ylabel("gold reward (reward units)")
    panels[-1].legend(loc="lower right")
    return figure


def _policies_and_optimum(axes: Axes, policies: pd.DataFrame, optimum: pd.DataFrame) -> None:
    """One seed's policies as points, and the frontier as a curve."""
    curve = optimum.sort_values("kl")
    axes.plot(curve["kl"], curve["gold"], color=BLACK, linewidth=1.2, label="optimum for each β")
    for method, (label, color, marker) in POLICIES.items():
        rows = policies[policies["method"] == method].sort_values("kl")
        if len(rows):
            size = 10 if method == "ppo" else 6  # where two methods meet, both are seen
            axes.plot(rows["kl"], rows["gold"], marker, color=color, markersize=size, label=label)


def _means_over_seeds(axes: Axes, table: pd.DataFrame, labels_from: float) -> None:
    """Error bars at the means of each setting, joined in the order of the settings; named from so many nats on."""
    offsets = {"best_of_n": (-27, 4), "ppo": (1, 9), "dpo": (7, -10)}
    for method, (label, color, marker) in POLICIES.items():
        rows = table[table["method"] == method]
        if not len(rows):
            continue
        setting, symbol = ("n", "n") if method == "best_of_n" else ("beta", "β")
        groups = rows.groupby(setting)[["kl", "gold"]]
        means, errors = groups.mean(), groups.sem()
        axes.plot(rows["kl"], rows["gold"], marker, color=color, alpha=0.25, markersize=4)
        axes.errorbar(
            means["kl"],
            means["gold"],
            xerr=errors["kl"],
            yerr=errors["gold"],
            color=color,
            marker=marker,
            markersize=7,
            capsize=3,
            linewidth=0.8,
            linestyle=":",
            label=f"{label} (KL: upper bound)" if rows["kl_se"].isna().all() else label,
        )
        for value, point in means[means["kl"] >= labels_from].iterrows():
            place, offset = (point["kl"], point["gold"]), offsets.get(method, (8, 1))
            text = f"{symbol} {value:g}"
            axes.annotate(text, place, offset, textcoords="offset points", fontsize=8, color=color, clip_on=True)


def gao_fits(table: pd.DataFrame, form: Form = "rl") -> Figure:
    """Proxy and gold reward against √KL for runs with several seeds, with the forms of Gao et al. 2022 fitted to each.

    The band is the mean ± one standard error between seeds of where the fitted gold reward is highest.
    """
    figure, (axes,) = empty_panels("", 1)
    table = table.assign(distance=np.sqrt(table["kl"].clip(lower=0)))
    grid = np.linspace(0, table["distance"].max(), 200)
    for (column, name), (color, style), marker in zip(PROXY_AND_GOLD.items(), LOOKS, ".x", strict=False):
        axes.plot(table["distance"], table[column], marker, color=color, alpha=0.25, markersize=4)
        fit = fit_gao(table["distance"], table[column], form)
        axes.plot(grid, fit(grid), color=color, linestyle=style, label=f"{name}: fit, R² = {fit.r_squared:.2f}")
    peaks = np.array([fit_gao(run["distance"], run["gold"], form).peak for _, run in table.groupby("seed")])
    if len(peaks) > 1 and np.isfinite(peaks).all():
        mean, error = peaks.mean(), peaks.std(ddof=1) / np.sqrt(len(peaks))
        axes.axvspan(
            mean - error, mean + error, color=GREEN, alpha=0.2, label=f"gold is highest: {mean:.2f} ± {error:.2f}"
        )
    axes.set(xlabel="√KL(π ‖ SFT) (√nats per answer)", ylabel="reward units")
    formula = "d (α − β log d)" if form == "rl" else "d (α − β d)"
    axes.set_title(f"Proxy and gold reward of each batch, with fits of {formula}")
    axes.legend(loc="best")
    return figure


INSTRUMENTS = {
    "score": "proxy reward\n(reward units)",
    "kl": "KL to SFT\n(nats per answer)",
    "entropy": "entropy\n(nats per token)",
    "length": "length\n(tokens)",
    "first_ratio_deviation": "max |ρ − 1|\nat the first pass",
}
"""The panels in which `exhibits` shows a run."""


def exhibits(healthy: pd.DataFrame, runs: Mapping[str, pd.DataFrame], title: str = "") -> Figure:
    """One row of instruments for each run, beside the same run without a bug (grey)."""
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(
            len(runs),
            len(INSTRUMENTS),
            figsize=(2.4 * len(INSTRUMENTS), 0.9 + 1.5 * len(runs)),
            sharex=True,
            squeeze=False,
            layout="constrained",
        )
        for row, (name, run) in zip(grid, runs.items(), strict=True):
            for axes, column in zip(row, INSTRUMENTS, strict=True):
                looks = ((healthy, "0.6", 3.0, "healthy"), (run, BLUE, 1.4, "with the bug"))
                for table, color, width, label in looks:
                    shown = table[column].clip(lower=1e-8) if column == "first_ratio_deviation" else table[column]
                    axes.plot(table["step"], shown, color=color, linewidth=width, label=label)
                if column == "first_ratio_deviation":
                    axes.set(yscale="log", ylim=(3e-9, 1e3))
                    axes.axhline(1e-4, color=BLACK, linestyle=":", linewidth=1, label="limit of rounding error")
            row[0].annotate(name, (-0.38, 0.5), xycoords="axes fraction", fontsize=14, weight="bold", ha="right")
        for axes, label in zip(grid[0], INSTRUMENTS.values(), strict=True):
            axes.set_title(label)
        for axes in grid[-1]:
            axes.set_xlabel("step")
        handles, labels = grid[0, -1].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3)
        figure.suptitle(title)
    plt.close(figure)
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


def token_heatmap(
    words: Sequence[Sequence[str]],
    values: Sequence[Sequence[float]],
    title: str,
    labels: Sequence[str] = (),
    unit: str = "reward units",
) -> Figure:
    """Answers word by word, one row an answer: each word on the colour of its value, and the value in `unit` below it.

    `labels`, the prompts for instance, stand above the rows. Colours are symmetric about 0; the signs tell the two
    ends apart in a grey print. Raises ValueError for no rows, a row without words or
    with another number of values, and a label that is missing.
    """
    if not words:
        raise ValueError("words: got no rows, expected at least one answer")
    lengths, expected = [len(row) for row in values], [len(row) for row in words]
    if lengths != expected or not all(expected):
        raise ValueError(f"values: got rows of {lengths} values, expected one for each word, {expected}")
    if labels and len(labels) != len(words):
        raise ValueError(f"labels: got {len(labels)}, expected one for each of {len(words)} rows")
    cells = [[max(len(word), 4) + 1.5 for word in row] for row in words]  # widths, in letters
    width = max(sum(row) for row in cells)
    limit = max(1e-9, max(abs(value) for row in values for value in row))
    colours = plt.get_cmap("PuOr")
    with plt.rc_context(STYLE | {"axes.grid": False}):
        figure, axes = plt.subplots(figsize=(9.5, 0.8 + 0.78 * len(words)), layout="constrained")
        size = min(10.0, 9.5 * 0.8 * 72 / (0.62 * width))
        for i, (row, row_values, row_cells) in enumerate(zip(words, values, cells, strict=True)):
            left = 0.0
            if labels:
                axes.text(0, i - 0.42, labels[i], fontsize=9, style="italic", va="center", parse_math=False)
            for word, value, cell in zip(row, row_values, row_cells, strict=True):
                colour = colours(0.5 + 0.5 * value / limit)
                axes.add_patch(Rectangle((left, i - 0.27), cell, 0.6, facecolor=colour, edgecolor="white"))
                ink: Any = {"ha": "center", "va": "center", "color": "white" if abs(value) > 0.62 * limit else BLACK}
                shown = word.replace("\n", "↵")
                axes.text(left + cell / 2, i - 0.09, shown, fontsize=size, family="monospace", parse_math=False, **ink)
                number = f"{round(value, 1) + 0.0:+.1f}".replace("-", "−")
                axes.text(left + cell / 2, i + 0.18, number, fontsize=0.8 * size, **ink)
                left += cell
        axes.set(title=title, xlim=(0, width), ylim=(len(words) - 0.6, -0.6), xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        scale = ScalarMappable(Normalize(-limit, limit), colours)
        figure.colorbar(scale, ax=axes, label=unit, fraction=0.03, pad=0.01)
    plt.close(figure)
    return figure


def empty_panels(title: str, n: int, share: bool = False, columns: int | None = None) -> tuple[Figure, list[Axes]]:
    """A figure with n panels, at most four in a row. It is closed: a notebook shows it once, where it is returned."""
    columns = columns or (n if n <= 2 else 3 if n % 3 == 0 else 4)
    rows = n // columns
    with plt.rc_context(STYLE):
        size = (6.4, 4.0) if n == 1 else (3.5 * columns, 3.0 * rows + 0.4)
        figure, grid = plt.subplots(
            rows, columns, figsize=size, squeeze=False, sharex=share, sharey=share, layout="constrained"
        )
        figure.suptitle(title)
    plt.close(figure)
    return figure, list(grid.flat)


def _smooth(values: "pd.Series[float]") -> "pd.Series[float]":
    """Centred rolling mean over a tenth of the run."""
    return values.rolling(max(1, len(values) // 10), center=True, min_periods=1).mean()


def draw_series(axes: Axes, metrics: pd.DataFrame, series: Mapping[str, str], title: str, unit: str) -> None:
    """Each column against the step: pale as it is, strong as a rolling mean. Columns the run lacks are left out."""
    for (column, label), (color, style) in zip(series.items(), LOOKS, strict=False):
        if column in metrics:
            measured = metrics[["step", column]].dropna()
            axes.plot(measured["step"], measured[column], color=color, alpha=0.25, linewidth=0.8)
            axes.plot(measured["step"], _smooth(measured[column]), color=color, linestyle=style, label=label)
    axes.set(title=title, xlabel="step", ylabel=unit)
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
