"""The drawings of notebook 03 show the numbers that came in, under the right names."""

import pytest
import torch

from week6.pictures import objective

STEPS = torch.linspace(0, 1, 5)


def curves(axes):
    """What the lines of a panel show, by their names."""
    return {line.get_label(): [float(y) for y in line.get_ydata()] for line in axes.lines}


def place(start):
    return objective.Place(*(start + 10 * i + torch.arange(3.0) for i in range(3)))


FIGURES = {
    "unleashed_training": lambda: objective.unleashed_training(STEPS, STEPS + 1, STEPS + 2),
    "two_directions_of_kl": lambda: objective.two_directions_of_kl(STEPS, STEPS + 1, STEPS + 2),
    "training_with_leash": lambda: objective.training_with_leash(STEPS, 2.0, STEPS + 0.1),
    "optimum_at": lambda: objective.optimum_at(
        0.5, ["no", "yes"], torch.tensor([-1.0, 2.0]), torch.tensor([0.9, 0.1]), torch.tensor([0.2, 0.8])
    ),
    "optimum_against_beta": lambda: objective.optimum_against_beta(
        torch.tensor([10.0, 1.0, 0.1]),
        list("abcdef"),
        torch.arange(6.0),
        torch.arange(18.0).view(3, 6),
    ),
    "reward_and_distance": lambda: objective.reward_and_distance(*map(place, range(5))),
    "rewards_of_tokens": lambda: objective.rewards_of_tokens(
        ["a b", "c d"], torch.tensor([[0.1, -0.2], [0.3, 0.4]]), torch.tensor([1.0, 2.0])
    ),
    "bias_and_noise": lambda: objective.bias_and_noise(STEPS + 1, STEPS + torch.ones(3, 1), STEPS + torch.ones(3, 1)),
    "estimators_as_losses": lambda: objective.estimators_as_losses(
        [4, 16], torch.arange(24.0).view(3, 2, 4), torch.arange(60.0).view(3, 5, 4)
    ),
    "token_by_token": lambda: objective.token_by_token([0.1, 1.0], {"whole": torch.zeros(2), "sum": torch.ones(2)}),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_panel_has_a_title_and_units(name):
    for axes in FIGURES[name]().axes:
        assert axes.get_title() and axes.get_xlabel() and axes.get_ylabel()
        assert axes.get_legend() or len(axes.lines) < 2 or axes is not axes.figure.axes[0]


def test_unleashed_training_tells_the_two_judges_apart():
    rewards, spread = FIGURES["unleashed_training"]().axes
    assert curves(rewards) == {
        r"$r_\phi$: what the reward model thinks": STEPS.tolist(),
        "gold: what people think": (STEPS + 1).tolist(),
    }
    assert spread.lines[0].get_ydata().tolist() == (STEPS + 2).tolist() and spread.get_ylim()[0] == 0


def test_two_directions_name_the_fit_by_the_kl_that_it_minimises():
    (axes,) = FIGURES["two_directions_of_kl"]().axes
    seeking, covering = axes.lines
    assert seeking.get_label().endswith(r"KL$(\pi\,\Vert\,\pi_\mathrm{ref})$")
    assert seeking.get_ydata().tolist() == (STEPS + 1).tolist()
    assert covering.get_label().endswith(r"KL$(\pi_\mathrm{ref}\,\Vert\,\pi)$")
    assert covering.get_ydata().tolist() == (STEPS + 2).tolist()
    top = axes.collections[0].get_paths()[0].vertices[:, 1].max()
    assert top == STEPS.max()  # the grey reference


def test_training_with_leash_draws_the_maximum_and_the_gap():
    climb, distance = FIGURES["training_with_leash"]().axes
    assert curves(climb) == {
        r"$J(\pi)$ of the GPT-2": STEPS.tolist(),
        r"$\beta \log Z$, the exact maximum": [2.0, 2.0],
    }
    assert distance.lines[0].get_ydata().tolist() == (STEPS + 0.1).tolist() and distance.get_yscale() == "log"


def test_optimum_at_has_two_bars_for_each_answer():
    (axes,) = FIGURES["optimum_at"]().axes
    heights = {bars.get_label(): [round(bar.get_height(), 6) for bar in bars] for bars in axes.containers}
    assert heights == {r"$\pi_\mathrm{ref}$": [0.9, 0.1], r"$\pi^*$": [0.2, 0.8]}
    assert [label.get_text() for label in axes.get_xticklabels()] == ["no\nr = -1.0", "yes\nr = +2.0"]
    assert "β = 0.5" in axes.get_title()


def test_optimum_against_beta_has_a_look_for_each_answer_and_beta_falls():
    (axes,) = FIGURES["optimum_against_beta"]().axes
    assert curves(axes)["b (+1.0)"] == [1.0, 7.0, 13.0] and len(curves(axes)) == 6
    assert len({(line.get_color(), str(line.get_linestyle())) for line in axes.lines}) == 6
    left, right = axes.get_xlim()
    assert left > right


def test_the_plane_shows_both_judges_and_marks_the_end_of_training():
    for axes, judge in zip(FIGURES["reward_and_distance"]().axes, (1, 2), strict=True):
        drawn = {line.get_label(): (line.get_xdata().tolist(), line.get_ydata().tolist()) for line in axes.lines}
        names = (
            "other policies",
            r"$\pi^*$ for each $\beta$",
            "training without leash",
            "training with leash",
            "best of n",
        )
        for i, name in enumerate(names):
            assert drawn[name] == (place(i)[0].tolist(), place(i)[judge].tolist()), name
        assert drawn["end of it"] == ([place(3).kl[-1]], [place(3)[judge][-1]])


def test_the_score_stands_on_the_last_word_and_on_top_where_the_signs_agree():
    first, second = FIGURES["rewards_of_tokens"]().axes
    for axes, words, kl, score, base in ((first, "ab", [0.1, -0.2], 1.0, 0.0), (second, "cd", [0.3, 0.4], 2.0, 0.4)):
        bars, top = axes.containers
        assert [bar.get_height() for bar in bars] == pytest.approx(kl)
        assert (top[0].get_x() + top[0].get_width() / 2, top[0].get_height()) == (1, score)
        assert top[0].get_y() == pytest.approx(base)
        assert [label.get_text() for label in axes.get_xticklabels()] == list(words)
        assert axes.get_title() == f"sum of all: {sum(kl) + score:+.2f}"


def test_bias_and_noise_are_relative_to_the_true_kl():
    kl = torch.tensor([0.5, 2.0])
    mean, std = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), torch.tensor([[7.0, 8.0], [9.0, 1.0], [2.0, 3.0]])
    left, right = objective.bias_and_noise(kl, mean, std).axes
    assert curves(left) == {"$k_1$": [2, 1], "$k_2$": [6, 2], "$k_3$": [10, 3]}
    assert curves(right) == {"$k_1$": [14, 4], "$k_2$": [18, 0.5], "$k_3$": [4, 1.5]}
    assert left.lines[0].get_xdata().tolist() == kl.tolist()


def test_estimators_as_losses_show_the_mean_and_the_median_over_runs():
    errors, paths = torch.arange(24.0).view(3, 2, 4) ** 2, torch.arange(75.0).view(3, 5, 5) ** 2
    left, right = objective.estimators_as_losses([4, 16], errors, paths).axes
    assert curves(left) == {f"$k_{i + 1}$": errors[i].mean(-1).tolist() for i in range(3)} | {
        r"slope of $1/\sqrt{n}$": [4.0, 2.0]
    }
    assert curves(right)["$k_2$ as the loss"] == paths[1].median(-1).values.tolist()
    low, high = (paths[0].quantile(q, dim=-1) for q in (0.1, 0.9))
    band = right.collections[0].get_paths()[0].vertices[:, 1]
    assert band.min() == pytest.approx(low.min().item()) and band.max() == pytest.approx(high.max().item())
    assert "5 runs" in right.get_title()


def test_token_by_token_has_a_line_for_each_loss():
    (axes,) = FIGURES["token_by_token"]().axes
    assert curves(axes) == {"whole": [0.0, 0.0], "sum": [1.0, 1.0]}
    assert axes.get_xscale() == "log" and axes.lines[0].get_xdata().tolist() == [0.1, 1.0]
