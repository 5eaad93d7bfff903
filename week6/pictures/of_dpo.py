"""The figures of the notebook on DPO that are not a dashboard: lists and tables of numbers in, a figure out."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from week6.pictures.plots import BLACK, BLUE, GREEN, LOOKS, ORANGE, PURPLE, empty_panels


def shares_of_answers(
    lengths: Sequence[float], rewards: Sequence[float], shares: Mapping[str, Sequence[float]], title: str
) -> Figure:
    """Probability of each answer under up to three policies, side by side; below it its length and its reward."""
    figure, (axes,) = empty_panels("", 1)
    figure.set_size_inches(8, 3.2)
    looks = (("0.8", ""), (BLUE, "//"), (ORANGE, ".."))
    for i, ((label, values), (color, hatch)) in enumerate(zip(shares.items(), looks, strict=False)):
        at = np.arange(len(lengths)) + 0.27 * (i - (len(shares) - 1) / 2)
        axes.bar(at, values, width=0.27, color=color, edgecolor=BLACK, hatch=hatch, label=label)
    names = [f"{n:.0f} tokens\nr = {r:+.0f}".replace("-", "−") for n, r in zip(lengths, rewards, strict=True)]
    axes.set_xticks(range(len(lengths)), names)
    axes.set(title=title, ylabel="probability")
    axes.set_xlabel("answer: its length and reward (reward units)")
    axes.legend()
    return figure


def pair_weight(beta: float) -> Figure:
    """The weight σ(−βh) of one pair and its push β σ(−βh) on log π, against h in nats; grey: ranked wrongly."""
    h = np.linspace(-30, 30, 601)
    weight = 1 / (1 + np.exp(beta * h))
    figure, (axes,) = empty_panels("", 1)
    figure.set_size_inches(7, 3.2)
    axes.axvspan(-30, 0, color="0.93")
    axes.plot(h, weight, color=BLUE, label=r"weight $\sigma(-\beta h)$")
    axes.plot(h, beta * weight, color=ORANGE, linestyle="--", label=r"push $\beta\,\sigma(-\beta h)$")
    axes.set(title=f"One pair at β = {beta:g} reward units per nat", ylabel="weight, push")
    axes.set_ylim(-0.03, 1.05 * max(1.0, beta))
    axes.set_xlabel(r"$h$: log-ratio of $y_w$ minus log-ratio of $y_l$ (nats); grey: ranked wrongly")
    axes.legend(loc="upper right")
    return figure


def gaps_and_rewards(
    gaps: Mapping[str, Sequence[float]], reward: Float[Tensor, " N"], implicit: Mapping[str, Float[Tensor, " N"]]
) -> Figure:
    """Left, the gap KL(π ‖ π*) of each training after each step; right, r̂ + β log Z of each answer against its true
    reward, for the trainings named in `implicit`."""
    figure, (left, right) = empty_panels("", 2)
    figure.set_size_inches(9.8, 3.7)
    looks = dict(zip(gaps, zip(LOOKS, "o^s", strict=False), strict=False))
    for name, path in gaps.items():
        (color, style), marker = looks[name]
        left.semilogy(path, color=color, linestyle=style, marker=marker, markevery=10, markersize=5, label=name)
    left.axhline(0.1, color=BLACK, linestyle=":", linewidth=1, label="0.1 nats")
    left.set(title="Distance to the best policy", xlabel="step", ylabel=r"KL$(\pi\,\Vert\,\pi^*)$ (nats)")
    left.legend()
    for i, (name, values) in enumerate(implicit.items()):  # side by side: many answers have the same reward
        (color, _), marker = looks[name]
        at = reward + 0.14 * (i - (len(implicit) - 1) / 2)
        right.plot(at, values, marker, color=color, markersize=3, alpha=0.4, label=name)
    right.axline((0, 0), slope=1, color=BLACK, linestyle=":", label=r"$\hat r + \beta \log Z = r$")
    right.set(title="The reward inside the policy", xlabel="true reward r (reward units)")
    right.set_ylabel(r"$\hat r + \beta \log Z$ (reward units)")
    right.legend()
    return figure


def rewards_of_the_optimum(
    betas: Float[Tensor, " B"],
    chosen: Float[Tensor, " B"],
    rejected: Float[Tensor, " B"],
    both: Float[Tensor, " B"],
) -> Figure:
    """Left, the mean implicit rewards (reward units) of chosen and rejected answers and of both under π*, against β;
    right, their margin beside the change of log π(y_w) in nats."""
    figure, (left, right) = empty_panels("", 2)
    figure.set_size_inches(9.8, 3.6)
    left.semilogx(betas, chosen, color=BLUE, label="chosen")
    left.semilogx(betas, rejected, color=ORANGE, linestyle="--", label="rejected")
    mean_of_both = r"mean of both, $-\beta\,$KL$(\pi_\mathrm{ref}\Vert\pi^*)$"
    left.semilogx(betas, both, color=GREEN, linestyle="-.", label=mean_of_both)
    left.set(title="Implicit rewards of the perfect policy", ylabel="reward units")
    right.semilogx(betas, chosen - rejected, color=BLUE, label="margin (reward units)")
    change = r"change of $\log\pi(y_w)$ (nats)"
    right.semilogx(betas, chosen / betas, color=PURPLE, linestyle=":", linewidth=2, label=change)
    right.set(title="Margin against likelihood", ylabel="reward units, or nats", ylim=(-6, 2.5))
    for axes in (left, right):
        axes.axhline(0, color=BLACK, linewidth=0.8)
        axes.set_xlabel("β (reward units per nat)")
    left.legend()
    right.legend(loc="lower right")
    return figure


def margins_of_one_pair(paths: Mapping[str, Sequence[float]], rests: Mapping[str, float]) -> Figure:
    """The margin βh (reward units) of one pair after each step of gradient descent, a line for each loss; dotted, the
    named places where a loss has its minimum."""
    figure, (axes,) = empty_panels("", 1)
    figure.set_size_inches(7, 3.4)
    for (name, path), (color, style) in zip(paths.items(), LOOKS, strict=False):
        axes.semilogx(range(1, len(path) + 1), path, color=color, linestyle=style, label=name)
    for name, value in rests.items():
        axes.axhline(value, color=BLACK, linestyle=":", linewidth=1)
        axes.text(1.1, value + 0.1, name)
    axes.set(title="The margin of one pair that is always labelled the same way", xlabel="gradient step")
    axes.set_ylabel("margin βh (reward units)")
    axes.legend()
    return figure


def kl_against_beta(betas: Sequence[float], curves: Mapping[str, Sequence[float]]) -> Figure:
    """KL(π ‖ π_ref) in nats against β, both logarithmic, a line for each entry of `curves`."""
    figure, (axes,) = empty_panels("", 1)
    figure.set_size_inches(6, 3.2)
    for (label, nats), (color, style), marker in zip(curves.items(), LOOKS, "oDs^v", strict=False):
        axes.loglog(betas, nats, color=color, linestyle=style, marker=marker, label=label)
    axes.set(title="A larger β keeps the policy closer", ylabel=r"KL$(\pi\,\Vert\,\pi_\mathrm{ref})$ (nats)")
    axes.set_xticks(betas, [f"{beta:g}" for beta in betas])
    axes.minorticks_off()
    axes.set_xlabel("β (reward units per nat)")
    axes.legend()
    return figure
