"""The figures of the notebook on DPO: each shows the numbers that came in, where the reader is told to look."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from week6.pictures import of_dpo

BETAS = torch.tensor([0.1, 0.5, 2.0])
CHOSEN, REJECTED, BOTH = (
    torch.tensor([-1.0, 0.1, 0.4]),
    torch.tensor([-2.0, -0.9, -0.6]),
    torch.tensor([-1.5, -0.4, -0.1]),
)
SHARES = {"reference": [0.5, 0.5], "sums": [0.8, 0.2], "means": [0.9, 0.1]}
REWARD = torch.tensor([-1.0, 0.0, 1.0])
GAPS = {"all": [1.0, 0.01], "few": [1.0, 0.4], "PPO": [1.0, 0.05]}
FIGURES = {
    "shares_of_answers": lambda: of_dpo.shares_of_answers([2, 16], [1, -1], SHARES, "Two answers"),
    "pair_weight": lambda: of_dpo.pair_weight(0.1),
    "gaps_and_rewards": lambda: of_dpo.gaps_and_rewards(GAPS, REWARD, {"all": REWARD + 0.1, "PPO": REWARD - 0.2}),
    "rewards_of_the_optimum": lambda: of_dpo.rewards_of_the_optimum(BETAS, CHOSEN, REJECTED, BOTH),
    "margins_of_one_pair": lambda: of_dpo.margins_of_one_pair({"DPO": [0, 2, 5], "IPO": [0, 0.4, 0.5]}, {"½": 0.5}),
    "kl_against_beta": lambda: of_dpo.kl_against_beta([0.5, 1], {"trained": [2.0, 0.7], "exact": [1.9, 0.5]}),
}  # fmt: skip


def lines(axes):
    return {line.get_label(): line for line in axes.get_lines()}


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_closed_have_titles_units_and_series_that_differ_in_more_than_colour(name):
    before = plt.get_fignums()
    figure = FIGURES[name]()
    assert plt.get_fignums() == before  # an open figure would be shown twice by a notebook
    for axes in figure.axes:
        assert axes.get_title() and axes.get_xlabel() and axes.get_ylabel()
        drawn = [line for line in axes.get_lines() if not line.get_label().startswith("_")]
        looks = {(str(line.get_linestyle()), line.get_marker()) for line in drawn}
        assert len(looks) == len(drawn), (name, looks)


def test_shares_stand_side_by_side_over_length_and_reward():
    (axes,) = FIGURES["shares_of_answers"]().axes
    assert axes.get_title() == "Two answers"
    for bars, (label, values) in zip(axes.containers, SHARES.items(), strict=True):
        assert bars.get_label() == label and [bar.get_height() for bar in bars] == values
    left = [bars[0].get_x() for bars in axes.containers]
    assert np.diff(left) == pytest.approx([0.27, 0.27])
    assert len({bars[0].get_hatch() for bars in axes.containers}) == 3  # they differ in grey, too
    assert [text.get_text() for text in axes.get_xticklabels()] == ["2 tokens\nr = +1", "16 tokens\nr = −1"]


@pytest.mark.parametrize("beta", [0.05, 2.0])
def test_weight_is_one_half_at_zero_large_where_ranked_wrongly_and_the_push_is_beta_times_it(beta):
    (axes,) = of_dpo.pair_weight(beta).axes
    weight, push = axes.get_lines()
    h, values = weight.get_data()
    assert values[h == 0] == pytest.approx(0.5) and (np.diff(values) <= 0).all() and values[0] > 0.8
    assert values[0] == pytest.approx(1 / (1 + math.exp(-30 * beta)))
    np.testing.assert_allclose(push.get_ydata(), beta * values)
    assert axes.get_ylim()[1] >= push.get_ydata().max()  # nothing is cut off


def test_gaps_and_rewards_show_each_training_in_its_own_look():
    left, right = FIGURES["gaps_and_rewards"]().axes
    for name, path in GAPS.items():
        assert lines(left)[name].get_ydata().tolist() == path
    assert left.get_yscale() == "log" and set(lines(left)["0.1 nats"].get_ydata()) == {0.1}
    assert set(lines(right)) >= {"all", "PPO"} and "few" not in lines(right)
    np.testing.assert_allclose(lines(right)["PPO"].get_ydata(), REWARD - 0.2)
    assert abs(lines(right)["PPO"].get_xdata() - REWARD.numpy()).max() < 0.1  # moved aside, less than to the next one
    for name in ("all", "PPO"):
        assert lines(left)[name].get_color() == lines(right)[name].get_color()


def test_rewards_of_the_optimum_show_margin_and_change_of_likelihood():
    left, right = FIGURES["rewards_of_the_optimum"]().axes
    np.testing.assert_allclose(lines(left)["chosen"].get_ydata(), CHOSEN)
    np.testing.assert_allclose(lines(left)["rejected"].get_ydata(), REJECTED)
    np.testing.assert_allclose(left.get_lines()[2].get_ydata(), BOTH)
    np.testing.assert_allclose(lines(right)["margin (reward units)"].get_ydata(), [1, 1, 1])
    np.testing.assert_allclose(right.get_lines()[1].get_ydata(), CHOSEN / BETAS)


def test_margins_and_the_places_where_they_rest():
    (axes,) = FIGURES["margins_of_one_pair"]().axes
    np.testing.assert_array_equal(lines(axes)["DPO"].get_xydata(), [[1, 0], [2, 2], [3, 5]])
    assert [text.get_text() for text in axes.texts] == ["½"]
    assert any(set(line.get_ydata()) == {0.5} for line in axes.get_lines())


def test_kl_against_beta_on_two_logarithmic_axes():
    (axes,) = FIGURES["kl_against_beta"]().axes
    assert axes.get_xscale() == axes.get_yscale() == "log"
    np.testing.assert_array_equal(lines(axes)["trained"].get_xydata(), [[0.5, 2.0], [1, 0.7]])
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0.5", "1"]
