"""Drawings of the RLHF objective: what the leash does, the optimum for each β, the frontier, and estimates of the KL.

Tensors of numbers in, a figure out. KL and entropy are in nats, rewards in reward units.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from week6.pictures.plots import BLACK, BLUE, GREEN, LOOKS, ORANGE, empty_panels

KL_TO_REFERENCE = r"KL$(\pi\,\Vert\,\pi_\mathrm{ref})$"
ESTIMATORS = (("$k_1$", "o"), ("$k_2$", "s"), ("$k_3$", "^"))
"""Name and marker of the estimators of the KL; their colours and line styles are the first of `LOOKS`."""


class Place(NamedTuple):
    """Where policies stand: distance from the reference, reward by the reward model and by people, one entry each."""

    kl: Float[Tensor, " P"]
    proxy: Float[Tensor, " P"]
    gold: Float[Tensor, " P"]


def unleashed_training(proxy: Float[Tensor, " S"], gold: Float[Tensor, " S"], entropy: Float[Tensor, " S"]) -> Figure:
    """Reward by the reward model and by people, and the entropy of the policy, against the step."""
    figure, (rewards, spread) = empty_panels("", 2)
    rewards.plot(proxy, color=BLUE, label=r"$r_\phi$: what the reward model thinks")
    rewards.plot(gold, color=ORANGE, linestyle="--", label="gold: what people think")
    rewards.set(title="Reward without a leash", xlabel="gradient step", ylabel="expected reward (reward units)")
    rewards.legend()
    spread.plot(entropy, color=BLACK)
    spread.set(title="Entropy of the policy", xlabel="gradient step", ylabel=r"$-\mathbb{E}_\pi[\log \pi]$ (nats)")
    spread.set_ylim(bottom=0)
    return figure


def two_directions_of_kl(
    reference: Float[Tensor, " N"], seeking: Float[Tensor, " N"], covering: Float[Tensor, " N"]
) -> Figure:
    """Probabilities of N answers in a row: the reference, and the fits with the least KL in either direction."""
    figure, (axes,) = empty_panels("", 1)
    axes.fill_between(range(len(reference)), reference, color="0.8", label=r"$\pi_\mathrm{ref}$, two humps")
    axes.plot(seeking, color=BLUE, label=f"smallest {KL_TO_REFERENCE}")
    axes.plot(covering, color=ORANGE, linestyle="--", label=r"smallest KL$(\pi_\mathrm{ref}\,\Vert\,\pi)$")
    axes.set(title="The two directions of KL choose differently", xlabel="answer (number)", ylabel="probability")
    axes.legend()
    return figure


def training_with_leash(objective: Float[Tensor, " S"], best: float, gap: Float[Tensor, " S"]) -> Figure:
    """The objective J against the step, below its exact maximum `best`, and the distance to the optimal policy."""
    figure, (climb, distance) = empty_panels("", 2)
    climb.plot(objective, color=BLUE, label=r"$J(\pi)$ of the GPT-2")
    climb.axhline(best, color=BLACK, linestyle=":", label=r"$\beta \log Z$, the exact maximum")
    climb.set(title=r"The objective climbs to $\beta \log Z$", xlabel="gradient step", ylabel="J (reward units)")
    climb.legend(loc="lower right")
    distance.semilogy(gap, color=BLUE)
    distance.set(title="Distance to the optimum", xlabel="gradient step", ylabel=r"KL$(\pi\,\Vert\,\pi^*)$ (nats)")
    return figure


def optimum_at(
    beta: float,
    answers: Sequence[str],
    rewards: Float[Tensor, " N"],
    reference: Float[Tensor, " N"],
    optimum: Float[Tensor, " N"],
) -> Figure:
    """Bars of the probability of each answer under the reference and under the optimal policy for β."""
    figure, (axes,) = empty_panels("", 1)
    figure.set_size_inches(7.5, 3.2)
    axes.bar(
        [i - 0.2 for i in range(len(answers))],
        reference.tolist(),
        width=0.4,
        color="0.75",
        edgecolor=BLACK,
        label=r"$\pi_\mathrm{ref}$",
    )
    axes.bar(
        [i + 0.2 for i in range(len(answers))],
        optimum.tolist(),
        width=0.4,
        color=BLUE,
        edgecolor=BLACK,
        hatch="//",
        label=r"$\pi^*$",
    )
    names = [f"{answer}\nr = {reward:+.1f}" for answer, reward in zip(answers, rewards.tolist(), strict=True)]
    axes.set_xticks(range(len(answers)), names, fontsize=8)
    axes.set(title=f"The optimal policy at β = {beta:g} reward units per nat", ylabel="probability", ylim=(0, 1.05))
    axes.set_xlabel("answer and its reward (reward units)")
    axes.legend()
    return figure


def optimum_against_beta(
    betas: Float[Tensor, " S"],
    answers: Sequence[str],
    rewards: Float[Tensor, " N"],
    optimum: Float[Tensor, "S N"],
) -> Figure:
    """Probability of each answer under the optimal policy against β, which falls to the right. Six answers at most."""
    figure, (axes,) = empty_panels("", 1)
    figure.set_size_inches(7.5, 3.4)
    looks = [*LOOKS, ("0.5", (0, (1, 3)))]
    named = zip(answers, rewards.tolist(), optimum.T, strict=True)
    for (answer, reward, probability), (colour, style) in zip(named, looks, strict=False):
        axes.semilogx(betas, probability, color=colour, linestyle=style, label=f"{answer} ({reward:+.1f})")
    axes.invert_xaxis()
    axes.set(title="From the reference (left) to the best answer (right)", ylabel=r"$\pi^*(y)$")
    axes.set_xlabel("β (reward units per nat), falling")
    axes.legend(title="answer (reward)", loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def reward_and_distance(others: Place, optimum: Place, unleashed: Place, leashed: Place, best_of_n: Place) -> Figure:
    """Reward against KL, by the reward model (left) and by people (right), for the optimum at each β and its rivals.

    `unleashed` and `leashed` are the paths of two trainings, step by step; the end of `leashed` is marked.
    """
    figure, panels = empty_panels("", 2)
    figure.set_size_inches(10, 4.2)
    for axes, judge in zip(panels, ("proxy", "gold"), strict=True):
        axes.plot(others.kl, getattr(others, judge), ".", color="0.75", markersize=3, label="other policies")
        axes.plot(optimum.kl, getattr(optimum, judge), color=BLACK, linewidth=2, label=r"$\pi^*$ for each $\beta$")
        paths = ((unleashed, ORANGE, "--", "without leash"), (leashed, BLUE, ":", "with leash"))
        for path, colour, style, name in paths:
            axes.plot(
                path.kl, getattr(path, judge), color=colour, linestyle=style, linewidth=2, label=f"training {name}"
            )
        axes.plot(best_of_n.kl, getattr(best_of_n, judge), "^", color=GREEN, label="best of n")
        axes.plot(leashed.kl[-1:], getattr(leashed, judge)[-1:], "o", color=BLUE, markersize=7, label="end of it")
        axes.set(xlabel=f"{KL_TO_REFERENCE} (nats)", xlim=(-0.2, 8))
    panels[0].set(title=r"What training sees: $r_\phi$", ylabel="expected reward (reward units)")
    panels[1].set(title="What people want: gold", ylabel="expected gold reward (reward units)")
    near = optimum.gold.min().item() - 0.3, best_of_n.gold.max().item() + 0.3  # the others may lie anywhere
    panels[1].set_ylim(near)
    panels[0].legend(loc="lower right")
    return figure


def rewards_of_tokens(
    sentences: Sequence[str], kl_rewards: Float[Tensor, "S T"], scores: Float[Tensor, " S"]
) -> Figure:
    """For each sentence, a panel: the KL reward −β d_t of each word, and the score on top of the last one."""
    figure, panels = empty_panels("Rewards of the tokens (policy trained with leash)", len(sentences))
    for axes in panels[1:]:  # the height alone: a shared x axis has the words of one panel for all
        axes.sharey(panels[0])
        axes.tick_params(labelleft=False)
    for axes, sentence, rewards, score in zip(panels, sentences, kl_rewards.tolist(), scores.tolist(), strict=True):
        words = range(len(rewards))
        axes.bar(words, rewards, color=BLUE, edgecolor=BLACK, label=r"$-\beta\, d_t$")
        base = rewards[-1] if rewards[-1] * score > 0 else 0.0  # on top where both point the same way
        look: Any = {"color": ORANGE, "edgecolor": BLACK, "hatch": "//", "width": 0.5}
        axes.bar(words[-1], score, bottom=base, label=r"score $r_\phi(y)$", **look)
        axes.axhline(0, color=BLACK, linewidth=0.8)
        axes.set_xticks(words, sentence.split())
        axes.set(title=f"sum of all: {sum(rewards) + score:+.2f}", xlabel="token", ylabel="reward (reward units)")
    panels[0].legend(loc="upper left")
    return figure


def bias_and_noise(kl: Float[Tensor, " P"], mean: Float[Tensor, "3 P"], std: Float[Tensor, "3 P"]) -> Figure:
    """Mean and standard deviation of k1, k2 and k3 over the true KL, against the true KL of P policies."""
    figure, (left, right) = empty_panels("", 2)
    for i, ((name, marker), (colour, style)) in enumerate(zip(ESTIMATORS, LOOKS, strict=False)):
        look: Any = {
            "color": colour,
            "linestyle": style,
            "marker": marker,
            "markevery": 8,
            "markersize": 4,
            "label": name,
        }
        left.semilogx(kl, mean[i] / kl, **look)
        right.loglog(kl, std[i] / kl, **look)
    left.set(title="Mean of the estimator / true KL", ylabel="ratio (1 = no bias)")
    right.set(title="Standard deviation of one sample / true KL", ylabel="ratio")
    for axes in (left, right):
        axes.set_xlabel(f"true {KL_TO_REFERENCE} (nats)")
        axes.legend()
    return figure


def estimators_as_losses(
    samples: Sequence[int], errors: Float[Tensor, "3 M R"], paths: Float[Tensor, "3 S R"]
) -> Figure:
    """k1, k2 and k3 as a loss: the relative error of the gradient against the number of samples, and the KL by steps.

    The last axis is the run: the left panel shows the mean over runs, the right one the median and 10 to 90 %.
    """
    figure, (left, right) = empty_panels("", 2)
    for i, ((name, marker), (colour, style)) in enumerate(zip(ESTIMATORS, LOOKS, strict=False)):
        look: Any = {"color": colour, "linestyle": style, "marker": marker}
        left.loglog(samples, errors[i].mean(-1), label=name, **look)
        low, middle, high = (paths[i].quantile(q, dim=-1) for q in (0.1, 0.5, 0.9))
        right.plot(middle, markevery=50, markersize=4, label=f"{name} as the loss", **look)
        right.fill_between(range(len(middle)), low, high, color=colour, alpha=0.2)
    left.loglog(samples, [8 / n**0.5 for n in samples], color="0.5", linestyle=":", label=r"slope of $1/\sqrt{n}$")
    left.set(title=rf"Error of the gradient against $\nabla${KL_TO_REFERENCE}", xlabel="samples n")
    left.set_ylabel("|error| / |true gradient|")
    right.set(title=f"Pulling home, {paths.shape[-1]} runs (band: 10–90 %)", xlabel="gradient step")
    right.set_ylabel(f"exact {KL_TO_REFERENCE} (nats)")
    left.legend()
    right.legend()
    return figure


def token_by_token(kl: Sequence[float], errors: Mapping[str, Float[Tensor, " P"]]) -> Figure:
    """Relative error of the expected gradient of each named loss, against the KL of P policies."""
    figure, (axes,) = empty_panels("", 1)
    for (name, error), (colour, style), marker in zip(errors.items(), LOOKS, "os^v", strict=False):
        axes.semilogx(kl, error, color=colour, linestyle=style, marker=marker, markersize=4, label=name)
    axes.set(title="Summed over tokens, the gradient is another", xlabel=f"{KL_TO_REFERENCE} (nats)")
    axes.set_ylabel("|error| / |true gradient|")
    axes.legend()
    return figure
