"""Drawings of policy gradients and of PPO: noise and bias of the estimates, the clip, and training on known optima.

Tables of numbers in, a figure out.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from week6.pictures.plots import BLACK, BLUE, GREEN, LOOKS, ORANGE, PURPLE, empty_panels

REGIONS = (
    (0.6, 1.3, "1: push up\n(bring back)"),
    (1.0, 1.3, "2: push up"),
    (1.4, 1.3, "3: zero"),
    (0.6, -1.3, "4: zero"),
    (1.0, -1.3, "5: push down"),
    (1.4, -1.3, "6: push down\n(bring back)"),
)
"""Ratio and advantage at which the name of each region of PPO's gain stands in `gradient_map`."""


def variance_of_baselines(
    baselines: Sequence[float], variances: Sequence[float], marked: Mapping[str, tuple[float, float]]
) -> Figure:
    """Variance of the one-answer estimate against the baseline; `marked` are named points (baseline, variance)."""
    figure, (axes,) = empty_panels("", 1)
    axes.plot(baselines, variances, color=BLUE, label="variance of one-answer estimate")
    for (name, point), marker, colour in zip(marked.items(), "vso", (PURPLE, ORANGE, GREEN), strict=True):
        axes.plot(*point, marker, color=colour, markersize=9, label=name)
    axes.set(title="A baseline changes the noise, not the direction", xlabel="baseline b (reward units)")
    axes.set_ylabel("total variance\n(squared reward units)")
    axes.legend()
    return figure


def variance_of_weights(variances: Mapping[str, float]) -> Figure:
    """A bar for each way to weight ∇log π: the variance of the one-answer estimate."""
    figure, (axes,) = empty_panels("", 1)
    bars = axes.barh(list(variances), list(variances.values()), color=BLUE, alpha=0.75, edgecolor=BLACK)
    axes.bar_label(bars, fmt="%.2f", padding=4)
    axes.invert_yaxis()
    axes.set(title="Same mean, less and less noise", xlabel="total variance, one answer (squared reward units)")
    axes.set(ylabel="weight of ∇log π", xlim=(0, 1.15 * max(variances.values())))
    return figure


def bias_and_noise_of_gae(lambdas: Sequence[float], bias: Sequence[float], noise: Sequence[float]) -> Figure:
    """Bias, noise and both together (the root of the sum of squares) against λ; the least error is marked."""
    figure, (axes,) = empty_panels("", 1)
    error = np.hypot(bias, noise)
    best = int(error.argmin())
    axes.plot(lambdas, bias, color=ORANGE, linestyle="--", label="bias: V is wrong")
    axes.plot(lambdas, noise, color=GREEN, linestyle="-.", label="noise: later tokens are luck")
    axes.plot(lambdas, error, color=BLUE, label="both together")
    axes.plot(lambdas[best], error[best], "o", color=BLACK, label=f"least error, λ = {lambdas[best]:.2f}")
    axes.set(title="GAE trades bias against noise", xlabel="λ", ylabel="error / length of ∇J", ylim=(0, None))
    axes.legend()
    return figure


def steps_on_one_batch(runs: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """What many steps on one batch do, a panel for each run: its "surrogate", its true "objective" J, its "reward"."""
    figure, panels = empty_panels("", len(runs), share=True)
    names = {"surrogate": "surrogate on the batch", "objective": "true objective J", "reward": "true mean reward"}
    for axes, (title, run) in zip(panels, runs.items(), strict=True):
        for (curve, name), (colour, style) in zip(
            names.items(), ((ORANGE, "--"), (BLUE, "-"), (GREEN, "-.")), strict=True
        ):
            axes.plot(run[curve], color=colour, linestyle=style, label=name)
        axes.axhline(run["objective"][0], color=BLACK, linestyle=":", linewidth=1, label="J at the start")
        axes.set(title=title, xlabel="gradient steps on the same batch", ylabel="reward units")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def clipped_gain(clip: float) -> Figure:
    """PPO's gain against the ratio, for a good and a bad token, with the region of zero gradient shaded."""
    figure, panels = empty_panels("", 2)
    figure.set_size_inches(9.2, 3.8)
    ratio = torch.linspace(0, 2, 401)
    for axes, advantage, regions in zip(panels, (1.0, -1.0), ((1, 2, 3), (4, 5, 6)), strict=True):
        free, held = ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage
        axes.plot(ratio, free, color=ORANGE, linestyle="--", label="ρ Â")
        axes.plot(ratio, held, color=GREEN, linestyle=":", linewidth=2, label="clip(ρ) Â")
        axes.plot(ratio, torch.minimum(free, held), color=BLUE, linewidth=2.5, alpha=0.8, label="minimum of both (29)")
        dead = (1 + clip, 2.0) if advantage > 0 else (0.0, 1 - clip)
        axes.axvspan(*dead, facecolor="0.93", edgecolor="0.75", hatch="///", linewidth=0, label="gradient zero")
        axes.plot(1, advantage, "o", color=BLACK, label="start, ρ = 1")
        low, high = (0.0, 2.0) if advantage > 0 else (-2.0, 0.0)
        for region, place in zip(regions, ((1 - clip) / 2, 1.0, (3 + clip) / 2), strict=True):
            axes.text(place, high + 0.08, f"{region}", ha="center", fontweight="bold")
        axes.set(xlim=(0, 2), ylim=(low - 0.1, high + 0.3), xlabel="ratio ρ", ylabel="gain (units of |Â|)")
        axes.set_title(f"{'good' if advantage > 0 else 'bad'} token, Â = {advantage:+.0f}, ε = {clip:g}")
    figure.legend(*panels[-1].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return figure


def gradient_map(
    ratios: Float[Tensor, " M"], advantages: Float[Tensor, " K"], slopes: Float[Tensor, "K M"], clip: float
) -> Figure:
    """The gradient of PPO's gain by log π as a colour over ratio and advantage, with its six regions named."""
    figure, (axes,) = empty_panels("", 1)
    limit = float(slopes.abs().max())
    look: Any = {"cmap": "PuOr", "vmin": -limit, "vmax": limit, "shading": "nearest", "rasterized": True}
    image = axes.pcolormesh(ratios.numpy(), advantages.numpy(), slopes.numpy(), **look)
    box = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none"}
    for ratio, advantage, text in REGIONS:
        axes.text(ratio, advantage, text, ha="center", va="center", bbox=box)
    for edge in (1 - clip, 1 + clip):
        axes.axvline(edge, color=BLACK, linestyle="--", linewidth=1)
    figure.colorbar(image, label="gradient of the gain by log π (reward units)")
    axes.set(title=f"Gradient of PPO's gain, ε = {clip:g}", xlabel="ratio ρ", ylabel="advantage Â (reward units)")
    axes.grid(False)
    return figure


def climb_to_optimum(curves: Float[Tensor, "seeds S"], optimum: float) -> Figure:
    """The exact objective against the iteration: mean over seeds, lowest to highest, and the exact optimum."""
    figure, (axes,) = empty_panels("", 1)
    axes.plot(curves.mean(dim=0), color=BLUE, label=f"PPO, mean of {len(curves)} seeds")
    band = (curves.amin(dim=0), curves.amax(dim=0))
    axes.fill_between(range(curves.shape[1]), *band, color=BLUE, alpha=0.2, label="lowest to highest")
    axes.axhline(optimum, color=ORANGE, linestyle="--", label="exact optimum β log Z")
    axes.set(title="Your PPO climbs to the exact optimum", xlabel="iteration", ylabel="objective J (reward units)")
    axes.legend(loc="lower right")
    return figure


def gaps_of_methods(
    batches: Sequence[int],
    gaps: Mapping[str, Float[Tensor, "seeds S"]],
    rates: Sequence[float],
    by_rate: Mapping[str, Sequence[float]],
    title: str,
) -> Figure:
    """Distance to the optimum of each method: against the number of batches, and at the end against the learning rate.

    Left, lines are means over seeds and bands reach from the lowest to the highest; right, one run for each rate.
    """
    figure, (left, right) = empty_panels("", 2)
    figure.set_size_inches(9.2, 3.8)
    for (method, gap), (colour, style), marker in zip(gaps.items(), LOOKS, "os^", strict=False):
        look: Any = {"color": colour, "linestyle": style, "label": method}
        left.plot(batches, gap.mean(dim=0), **look)
        left.fill_between(batches, gap.amin(dim=0), gap.amax(dim=0), color=colour, alpha=0.15)
        right.plot(rates, by_rate[method], marker=marker, **look)
    left.set(title=title, xlabel="batches", ylabel="gap KL(π ‖ π*) (nats)", yscale="log")
    right.set(
        title=f"After {batches[-1]} batches, one seed", xlabel="peak learning rate", ylabel="gap KL(π ‖ π*) (nats)"
    )
    right.set(xscale="log", yscale="log")
    for axes in (left, right):
        axes.set_yticks([0.1, 0.2, 0.5, 1.0], ["0.1", "0.2", "0.5", "1"])
        axes.minorticks_off()
    right.set_xticks(rates, [f"{rate:g}" for rate in rates])
    left.legend()
    return figure
