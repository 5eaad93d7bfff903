"""The drawings of notebook 08 show the numbers that came in."""

import numpy as np
import pandas as pd
import pytest

from week6.pictures import chatbot

REWARDS = {"sft": [[0.0, 1.0], [-1.0, -3.0]], "talker": [[2.0, 2.0], [1.0, 2.0]]}
TABLES = {
    "sft": [[0.5, 0.0], [0.4, 0.03], [0.1, 0.01]],
    "talker": [[0.8, 0.01], [0.9, 0.02], [0.01, 0.0]],
}
LOSSES = pd.DataFrame({"loss": [0.7, 0.5], "margin": [0.0, 1.0]})
FIGURES = {
    "learning_to_converse": lambda: chatbot.learning_to_converse([2.0, 0.5], [3.0, 4.0], 5.6, REWARDS),
    "refusals": lambda: chatbot.refusals(TABLES),
    "two_implementations": lambda: chatbot.two_implementations(
        {"ours": LOSSES, "theirs": LOSSES + 0.1}, {"loss": "nats", "margin": "reward units"}
    ),
}


@pytest.mark.parametrize("name", FIGURES)
def test_titles_units_and_looks(name):
    """In a grey print too, each series is told from the others."""
    for axes in FIGURES[name]().axes:
        assert axes.get_title() and axes.get_xlabel() and axes.get_ylabel()
        handles = [h[0] if isinstance(h, tuple) else h for h in axes.get_legend_handles_labels()[0]]
        looks = [(str(h.get_linestyle()), h.get_marker()) for h in handles]
        assert len(set(looks)) == len(looks) > 1


def test_learning_shows_both_losses_and_the_reward_of_each_turn_with_its_error():
    left, right = FIGURES["learning_to_converse"]().axes
    assert [list(line.get_ydata()) for line in left.get_lines()[:2]] == [[2.0, 0.5], [3.0, 4.0]]
    assert left.get_lines()[2].get_ydata()[0] == 5.6
    sft, talker = right.containers
    assert sft.lines[0].get_xydata().tolist() == [[1.0, 0.5], [2.0, -2.0]]
    bars = [np.ptp(segment[:, 1]) / 2 for segment in sft.lines[2][0].get_segments()]
    np.testing.assert_allclose(bars, [0.5, 1.0])  # std/√2 of two values 1 and 2 apart: (√½, √2)/√2
    assert talker.get_label() == "DPO, then conversations" and list(right.get_xticks()) == [1, 2]


def test_refusals_are_per_cent_with_the_harmless_ones_to_the_right():
    (axes,) = FIGURES["refusals"]().axes
    places = {c.get_label(): c.lines[0].get_xydata()[0].tolist() for c in axes.containers}
    assert places == {"SFT": [10.0, 40.0], "DPO, then conversations": [1.0, 90.0]}
    across, up = (bars.get_segments()[0] for bars in axes.containers[0].lines[2])
    np.testing.assert_allclose((np.ptp(across[:, 0]), np.ptp(up[:, 1])), (2.0, 6.0))
    assert axes.get_lines()[-1].get_xydata().tolist() == [[0.0, 100.0]]


def test_two_implementations_have_a_panel_for_each_metric():
    loss, margin = FIGURES["two_implementations"]().axes
    assert (loss.get_ylabel(), margin.get_ylabel()) == ("loss (nats)", "margin (reward units)")
    assert [line.get_ydata().tolist() for line in margin.get_lines()] == [[0.0, 1.0], [0.1, 1.1]]
