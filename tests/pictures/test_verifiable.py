"""The drawings of notebook 09 hold the numbers that they are given."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from week6.pictures import verifiable


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def lines(axes):
    return {line.get_label(): line for line in axes.get_lines()}


def test_weights_and_lengths_have_a_line_a_rule():
    for draw in (verifiable.weights_of_prompts, verifiable.lengths):
        (axes,) = draw([0.1, 0.5], {"one": [3.0, 1.0], "other": [1.0, 2.0]}).axes
        assert lines(axes)["one"].get_xydata().tolist() == [[0.1, 3.0], [0.5, 1.0]]
        assert lines(axes)["other"].get_ydata().tolist() == [1.0, 2.0]
        assert lines(axes)["one"].get_linestyle() != lines(axes)["other"].get_linestyle()
        assert axes.get_xlabel() and axes.get_ylabel() and axes.get_title() and axes.get_legend()


def test_training_has_a_panel_a_column_and_means_of_the_last_steps():
    table = pd.DataFrame({"step": range(6), "reward": [0.0, 1.0, 2.0, 3.0, 4.0, 5.0], "kl": [1.0] * 6})
    figure = verifiable.training({"a": table, "b": table}, {"reward": ("R", "share"), "kl": ("D", "nats")}, smooth=3)
    reward, kl = figure.axes
    assert lines(reward)["a"].get_ydata().tolist() == [0.0, 0.5, 1.0, 2.0, 3.0, 4.0]
    assert (reward.get_title(), kl.get_ylabel()) == ("R", "nats") and set(lines(kl)) == {"a", "b"}


def test_the_frontier_has_a_curve_and_points_with_bars():
    runs = {"β = 1": (0.2, 0.5, 0.02), "β = 0.5": (0.5, 0.7, 0.03)}
    (axes,) = verifiable.success_frontier([(0.0, 0.3), (1.0, 0.9)], runs, (0.0, 0.3, 0.05)).axes
    assert lines(axes)["optimum for each β"].get_xydata().tolist() == [[0.0, 0.3], [1.0, 0.9]]
    drawn = {bars.get_label(): bars for bars in axes.containers}
    assert set(drawn) == {"SFT", *runs}
    points, _, (bar,) = drawn["β = 0.5"].lines
    assert points.get_xydata().tolist() == [[0.5, 0.7]]
    np.testing.assert_allclose(bar.get_segments()[0][:, 1], [0.67, 0.73])
    markers = [container.lines[0].get_marker() for container in drawn.values()]
    assert len(set(markers)) == 3


def test_bars_have_a_group_a_row():
    table = pd.DataFrame({"in order": [0.8, 1.0], "right": [0.4, 0.0]}, index=["SFT", "hacked"])
    (axes,) = verifiable.bars(table, "Two checkers").axes
    heights = {bars.get_label(): [bar.get_height() for bar in bars] for bars in axes.containers}
    assert heights == {"in order": [0.8, 1.0], "right": [0.4, 0.0]}
    assert [label.get_text() for label in axes.get_xticklabels()] == ["SFT", "hacked"]
    assert axes.get_title() == "Two checkers"
