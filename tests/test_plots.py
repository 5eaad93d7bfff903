"""Figures: titled, labelled with units, readable in grey, and showing the numbers that came in."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from week6 import plots

STEPS = 40


def table(*columns):
    rng = np.random.default_rng(0)
    return pd.DataFrame({"step": range(STEPS)} | {name: rng.uniform(0.1, 1, STEPS) for name in columns})


PPO = table(
    "score", "gold", "kl", "entropy", "clip_fraction", "first_ratio_deviation", "explained_variance", "length", "beta"
)
DPO = table(
    "chosen_reward", "rejected_reward", "margin", "accuracy", "kl", "chosen_log_prob", "rejected_log_prob",
    "gradient_weight",
)  # fmt: skip
POLICIES = {
    "sft": {"gold": 0.1, "gold_se": 0.05, "kl": 0.0, "kl_se": 0.0},
    "ppo": {"gold": 1.5, "gold_se": 0.05, "kl": 4.0, "kl_se": 0.2},
    "dpo": {"gold": 1.2, "gold_se": 0.05, "kl": 2.0, "kl_se": 0.1},
    "best_of_n": {"gold": 0.8, "gold_se": 0.1, "kl": 1.9, "kl_se": None},
}
FIGURES = {
    "sft_loss": lambda: plots.sft_loss(table("loss")),
    "reward_model": lambda: plots.reward_model(table("loss", "accuracy"), 0.9),
    "ppo_dashboard": lambda: plots.ppo_dashboard(PPO),
    "dpo_dashboard": lambda: plots.dpo_dashboard(DPO),
    "frontier": lambda: plots.frontier(POLICIES, 2.5),
    "overoptimisation": lambda: plots.overoptimisation(PPO),
    "reward_histograms": lambda: plots.reward_histograms({"help": [1.0, 2.0], "rude": [-1.0, 0.0, 0.5]}),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_panel_has_title_units_and_legend(name):
    figure = FIGURES[name]()
    if name == "reward_histograms":
        assert figure.get_suptitle() and figure.axes[-1].get_xlabel() == "reward units"
        return
    for axes in figure.axes:
        assert axes.get_title() and axes.get_xlabel() and axes.get_ylabel()
        assert axes.get_legend() is not None, axes.get_title()


@pytest.mark.parametrize("name", FIGURES)
def test_series_differ_in_more_than_colour(name):
    for axes in FIGURES[name]().axes:
        handles, _ = axes.get_legend_handles_labels()
        looks = []
        for handle in handles:
            line = handle[0] if isinstance(handle, tuple) else handle
            looks.append((str(line.get_linestyle()), line.get_marker(), line.get_linewidth()))
        assert len(set(looks)) == len(looks), (axes.get_title(), looks)


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_not_left_open_and_nothing_is_cut_off(name):
    before = plt.get_fignums()
    figure = FIGURES[name]()
    assert plt.get_fignums() == before  # an open figure would be shown twice by a notebook
    figure.draw_without_rendering()  # lays it out
    width, height = figure.canvas.get_width_height()
    for axes in figure.axes:
        box = axes.get_tightbbox()
        assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1, axes.get_title()


def lines(axes, label):
    return next(line for line in axes.get_lines() if line.get_label() == label)


def test_lines_show_the_metrics():
    figure = plots.ppo_dashboard(PPO)
    raw = figure.axes[1].get_lines()[0]
    np.testing.assert_array_equal(raw.get_ydata(), PPO["kl"])
    smooth = lines(figure.axes[1], "KL(π ‖ SFT)")
    assert np.std(smooth.get_ydata()) < np.std(PPO["kl"])
    assert np.mean(smooth.get_ydata()) == pytest.approx(PPO["kl"].mean(), rel=0.05)


def test_gaps_in_the_metrics_are_bridged_and_absent_columns_left_out():
    sparse = DPO.assign(kl=DPO["kl"].where(DPO["step"] % 10 == 0))
    figure = plots.dpo_dashboard(sparse.drop(columns="margin"))
    assert list(lines(figure.axes[3], "KL estimate").get_xdata()) == [0, 10, 20, 30]
    assert figure.axes[1].get_lines()[:] == []


def test_frontier_places_policies_and_marks_the_bound():
    axes = plots.frontier(POLICIES | {"dpo": {"gold": None, "gold_se": None, "kl": 1.0, "kl_se": 0.1}}).axes[0]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["SFT", "PPO", "best of n (KL: upper bound)"]
    points = [tuple(container.lines[0].get_xydata()[0]) for container in axes.containers]
    assert points == [(0.0, 0.1), (4.0, 1.5), (1.9, 0.8)]


def test_overoptimisation_orders_by_distance_and_survives_negative_estimates():
    metrics = PPO.assign(kl=PPO["kl"] - 0.3)
    axes = plots.overoptimisation(metrics).axes[0]
    x = axes.get_lines()[0].get_xdata()
    assert (np.diff(x) >= 0).all() and x[0] == 0
    assert len(plots.overoptimisation(metrics.drop(columns="gold")).axes[0].get_legend().get_texts()) == 1


def test_histograms_are_sorted_by_mean_and_empty_kinds_left_out():
    figure = plots.reward_histograms({"good": [2.0, 3.0], "bad": [-1.0], "none": []})
    assert [axes.get_ylabel().split("\n")[0] for axes in figure.axes] == ["good", "bad"]
