"""The figures of the notebook on PPO: each shows the numbers that came in, where the reader is told to look."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from week6.pictures import of_ppo

RUN = pd.DataFrame(
    {"step": range(30), "score": np.linspace(0, 2, 30), "gold": np.linspace(0, -1, 30), "kl": np.linspace(0, 9, 30)}
)
WORDS, LOG_RATIOS, REWARDS = ["of", "course", "!", "$x"], [1.5, -0.5, 0.0, -0.1], [-0.07, 0.02, 0.0, 1.2]
SEEDS = pd.concat([RUN.assign(seed=0), RUN.assign(seed=1, kl=RUN["kl"][::-1].to_numpy(), score=RUN["score"] + 5)])
FIGURES = {
    "controller": lambda: of_ppo.controller(
        {"low": [0.02, 0.1], "high": [0.5, 0.1]}, {"low": [30, 6], "high": [1, 6]}, right_price=0.1, target=6
    ),
    "rewards_beside_kl": lambda: of_ppo.rewards_beside_kl({"strong": RUN, "weak": RUN.assign(kl=2 * RUN["kl"])}),
    "rewards_of_tokens": lambda: of_ppo.rewards_of_tokens(WORDS, LOG_RATIOS, REWARDS, "how do i cook rice ?"),
    "proxy_and_gold_by_distance": lambda: of_ppo.proxy_and_gold_by_distance(SEEDS),
}  # fmt: skip


def lines(axes):
    return {line.get_label(): line for line in axes.get_lines()}


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_closed_have_units_and_series_that_differ_in_more_than_colour(name):
    before = plt.get_fignums()
    figure = FIGURES[name]()
    assert plt.get_fignums() == before  # an open figure would be shown twice by a notebook
    for axes in figure.axes:
        assert axes.get_ylabel(), name
        drawn = [line for line in axes.get_lines() if not line.get_label().startswith("_")]
        looks = {(str(line.get_linestyle()), line.get_marker()) for line in drawn}
        assert len(looks) == len(drawn), (name, looks)


def test_controller_draws_both_paths_and_their_goals():
    price, distance = FIGURES["controller"]().axes
    assert lines(price)["low"].get_ydata().tolist() == [0.02, 0.1]
    assert lines(distance)["high"].get_ydata().tolist() == [1, 6]
    assert set(lines(price)["the right price"].get_ydata()) == {0.1}
    assert set(lines(distance)["target"].get_ydata()) == {6}
    assert price.get_yscale() == distance.get_yscale() == "log"


def test_rewards_stand_beside_the_kl_on_the_same_scales():
    figure = FIGURES["rewards_beside_kl"]()
    strong, weak, strong_kl, weak_kl = figure.axes
    assert (strong.get_title(), weak.get_title()) == ("strong", "weak")
    np.testing.assert_array_equal(strong.get_lines()[0].get_ydata(), RUN["score"])
    np.testing.assert_array_equal(weak_kl.get_lines()[0].get_ydata(), 2 * RUN["kl"])
    assert strong_kl.get_ylim() == weak_kl.get_ylim() and weak_kl.get_ylim()[1] > 18
    assert strong.get_ylim() == weak.get_ylim()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "proxy (reward model)", "gold (never trained on)", "KL (right axis)",
    ]  # fmt: skip
    without = of_ppo.rewards_beside_kl({"real": RUN.drop(columns="gold")}).axes[0]
    assert "gold (never trained on)" not in lines(without)


def test_tokens_that_became_less_likely_and_charges_are_hatched():
    top, bottom = FIGURES["rewards_of_tokens"]().axes
    for axes, values in ((top, LOG_RATIOS), (bottom, REWARDS)):
        bars = axes.containers[0]
        assert [bar.get_height() for bar in bars] == values
        assert [bool(bar.get_hatch()) for bar in bars] == [value < 0 for value in values]
        (key,) = axes.get_legend().get_patches()
        assert (
            key.get_hatch() is None
            and key.get_facecolor() == max(bars, key=lambda bar: bar.get_height()).get_facecolor()
        )
    assert [label.get_text() for label in bottom.get_xticklabels()] == WORDS
    assert top.get_title() == "Answer to: how do i cook rice ?"


def test_batches_stand_in_the_order_of_their_distance():
    proxy, gold = FIGURES["proxy_and_gold_by_distance"]().axes
    first, second = (lines(proxy)[f"seed {seed}"] for seed in (0, 1))
    np.testing.assert_allclose(first.get_xdata(), np.sqrt(RUN["kl"]))
    np.testing.assert_allclose(second.get_xdata(), np.sqrt(RUN["kl"]))  # the second run walked back: sorted again
    assert np.all(np.diff(first.get_ydata()) > 0) and np.all(np.diff(second.get_ydata()) < 0)
    assert lines(gold)["seed 0"].get_ydata()[15] == pytest.approx(RUN["gold"][8:23].mean())
    below_zero = of_ppo.proxy_and_gold_by_distance(RUN.assign(seed=0, kl=RUN["kl"] - 1))  # an estimate may be negative
    assert lines(below_zero.axes[0])["seed 0"].get_xdata()[0] == 0
