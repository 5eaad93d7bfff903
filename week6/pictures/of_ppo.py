"""The figures of the notebook on PPO that are not a dashboard: tables and lists of numbers in, a figure out."""

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from week6.pictures.plots import BLACK, BLUE, GREEN, LOOKS, ORANGE, PROXY_AND_GOLD, draw_series, empty_panels


def controller(
    prices: Mapping[str, Sequence[float]], distances: Mapping[str, Sequence[float]], right_price: float, target: float
) -> Figure:
    """β (reward units per nat) and KL (nats per answer) after each batch, a line for each start, both axes of values
    logarithmic; dotted, the price that holds the policy at the target."""
    figure, (price, distance) = empty_panels("The adaptive controller", 2)
    goals = (right_price, "the right price", (0.02, 0.05, 0.1, 0.2, 0.5)), (target, "target", (1, 3, 6, 10, 30))
    for axes, paths, (goal, name, ticks) in zip((price, distance), (prices, distances), goals, strict=True):
        for (label, path), (color, style) in zip(paths.items(), LOOKS, strict=False):
            axes.plot(path, color=color, linestyle=style, label=label)
        axes.axhline(goal, color=BLACK, linestyle=":", label=name)
        axes.set(xlabel="batch", yscale="log")
        axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.legend()
    price.set(title="The price", ylabel="β (reward units per nat)")
    distance.set(title="The distance", ylabel="KL (nats per answer)")
    return figure


def rewards_beside_kl(runs: Mapping[str, pd.DataFrame]) -> Figure:
    """Proxy and gold reward of each batch, and on a second axis the KL: a panel for each run, all on the same scales.

    Pale: single batches; strong: their rolling mean. A run without gold rewards has no line for them.
    """
    figure, panels = empty_panels("", len(runs), share=True)
    twins = [axes.twinx() for axes in panels]
    farthest = max(run["kl"].max() for run in runs.values())
    for axes, twin, (title, run) in zip(panels, twins, runs.items(), strict=True):
        draw_series(axes, run, PROXY_AND_GOLD, title, "reward units")
        twin.plot(run["step"], run["kl"], color=GREEN, linestyle=":", label="KL (right axis)")
        twin.set(ylabel="KL to SFT (nats per answer)", ylim=(0, 1.2 * farthest))
        twin.grid(False)
        axes.legend().remove()  # one for both panels stands below them: within, it would hide a curve
    handles = [handle for axes in (panels[0], twins[0]) for handle in axes.get_legend_handles_labels()[0]]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure


def rewards_of_tokens(
    words: Sequence[str], log_ratios: Sequence[float], rewards: Sequence[float], prompt: str
) -> Figure:
    """One answer, token by token: above, log π − log π_ref in nats, below, the shaped reward in reward units.

    Bars below 0 are hatched: above, tokens that the policy says less readily than the reference; below, charges.
    """
    figure, (top, bottom) = empty_panels("", 2, columns=1)
    figure.set_size_inches(9, 4.4)
    top.sharex(bottom)
    top.tick_params(labelbottom=False)
    for axes, values, color, label in (
        (top, log_ratios, ORANGE, r"$\log \pi_\theta - \log \pi_\mathrm{ref}$"),
        (bottom, rewards, BLUE, "reward $r_t$"),
    ):
        bars = axes.bar(range(len(words)), values, color=color, label=label)
        for bar, value in zip(bars, values, strict=True):
            if value < 0:
                bar.set(facecolor="white", edgecolor=color, hatch="///")
        axes.axhline(0, color=BLACK, linewidth=0.8)
        axes.legend(handles=[Patch(color=color, label=label)])  # not the look of the first bar
    top.set_title(f"Answer to: {prompt}", parse_math=False)
    top.set(ylabel="nats")
    bottom.set(ylabel="reward units", xlabel="token of the answer")
    bottom.set_xticks(range(len(words)), words, rotation=45, ha="right", parse_math=False)
    return figure


def proxy_and_gold_by_distance(runs: pd.DataFrame) -> Figure:
    """Proxy and gold reward of each seed's batches, in the order of their distance √KL from the SFT model.

    Each line is the mean of the 15 batches around its place. `runs` has the columns seed, kl, score and gold.
    """
    figure, panels = empty_panels("", 2)
    titles = {"score": ("Proxy", "reward model's score"), "gold": ("Gold", "gold reward")}
    for axes, (column, (title, name)) in zip(panels, titles.items(), strict=True):
        for (seed, run), (color, style) in zip(runs.groupby("seed"), LOOKS, strict=False):
            run = run.assign(distance=run["kl"].clip(lower=0) ** 0.5).sort_values("distance", kind="stable")
            smooth = run[column].rolling(15, center=True, min_periods=3).mean()
            axes.plot(run["distance"], smooth, color=color, linestyle=style, label=f"seed {seed}")
        axes.set(title=title, xlabel="√KL (√nats per answer)", ylabel=f"{name} (reward units)")
        axes.legend()
    return figure
