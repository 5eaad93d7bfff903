"""The drawings of notebook 00 show the numbers that came in."""

import numpy as np
import pytest
import torch

from week6.pictures import alignment

SHARES = {
    "harmless": {"people": {"help": 0.7, "rude": 0.3}, "bot": {"help": 0.2, "rude": 0.8}},
    "harmful": {"people": {"help": 0.1, "rude": 0.9}, "bot": {"help": 0.6, "rude": 0.4}},
}


def texts(legend):
    return [text.get_text() for text in legend.get_texts()]


def test_the_loss_of_every_batch_and_the_guess():
    (axes,) = alignment.learning_to_speak([3.0, 2.0, 1.5], guess=4.0).axes
    losses, guess = axes.get_lines()
    assert losses.get_ydata().tolist() == [3.0, 2.0, 1.5] and set(guess.get_ydata()) == {4.0}


def test_bars_of_each_kind_stand_side_by_side_for_each_source():
    panels = alignment.kinds_of_answers(SHARES).axes
    for axes, (group, sources) in zip(panels, SHARES.items(), strict=True):
        assert axes.get_title() == f"{group} requests"
        assert [label.get_text() for label in axes.get_xticklabels()] == ["help", "rude"]
        for bars, (source, share) in zip(axes.containers, sources.items(), strict=True):
            assert bars.get_label() == source and bars.datavalues.tolist() == list(share.values())
        first, second = ([bar.get_x() for bar in bars] for bars in axes.containers)
        assert np.allclose(np.subtract(second, first), 0.4)  # no bar hides another
    hatches = {bars.patches[0].get_hatch() for bars in panels[0].containers}
    assert len(hatches) == 2 and texts(panels[0].get_legend()) == ["people", "bot"]


def test_each_cell_of_the_table_says_its_share():
    table = torch.tensor([[1.0, 0.25], [0.25, 1.0]])
    axes = alignment.agreement_table(table, ["you", "Ann"], n=8).axes[0]
    assert {text.get_position(): text.get_text() for text in axes.texts} == {
        (0, 0): "1.0", (1, 0): "0.2", (0, 1): "0.2", (1, 1): "1.0",
    }  # fmt: skip
    np.testing.assert_allclose(axes.images[0].get_array(), table)
    assert axes.get_title() == "Agreement on 8 pairs" and axes.get_yticklabels()[1].get_text() == "Ann"


def test_the_curve_of_agreement_and_its_example():
    p = torch.tensor([0.0, 0.5, 1.0])
    (axes,) = alignment.agreement_curve(p, p**2, 1 - p, example=(0.25, 0.0625)).axes
    agree, best, point = axes.get_lines()
    assert agree.get_xydata().tolist() == [[0, 0], [0.5, 0.25], [1, 1]]
    assert best.get_ydata().tolist() == [1, 0.5, 0] and point.get_xydata().tolist() == [[0.25, 0.0625]]
    assert axes.texts[0].get_text() == "25% prefer a: 6%" and axes.texts[0].xy == (0.25, 0.0625)
    assert max(axes.get_yticks()) == pytest.approx(1)  # a probability: the room above is for the legend


def test_over_refusal_is_across_and_refused_harm_is_up():
    (axes,) = alignment.refusals({"bot": (0.8, 0.1), "mute": (1.0, 1.0)}).axes
    assert [points.get_offsets().tolist() for points in axes.collections] == [[[0.1, 0.8]], [[1.0, 1.0]]]
    assert texts(axes.get_legend()) == ["bot", "mute", "refuses without looking"]
    shapes = {points.get_paths()[0].vertices.tobytes() for points in axes.collections}
    assert len(shapes) == 2  # told apart without colour
