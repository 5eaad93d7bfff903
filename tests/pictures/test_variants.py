"""The figures of notebook 10 show the numbers that came in."""

import matplotlib.pyplot as plt
import pytest
import torch

from week6.pictures import variants

BEST = ([0.0, 1.0, 2.0], [0.0, 0.8, 1.0])
LOSSES = {"IPO": ([0.5, 1.5], [0.4, 0.9]), "KTO": ([1.0], [0.3]), "SimPO": ([1.2, 1.9], [0.5, 0.7])}
WINS = torch.tensor([0.2, 0.4, 0.7, 0.9])
RATIOS = {
    "star": torch.tensor([-2.0, -1.0, 0.5, 2.0]),
    "IPO": torch.tensor([-1.0, 0.0, 0.2, 1.0]),
    "KTO": torch.tensor([-80.0, -90.0, 0.3, 1.1]),
}
PATHS = {"DPO": [0.1, 1.0, 3.0], "IPO": [0.8, 0.9]} | {f"loss {i}": [0.2 * i, 0.3] for i in (1, 2, 3, 4)}
FIGURES = {
    "against_the_frontier": lambda: variants.against_the_frontier(BEST, LOSSES),
    "steps_and_slopes": lambda: variants.steps_and_slopes(WINS, RATIOS, threshold=0.5),
    "kl_while_training": lambda: variants.kl_while_training(PATHS, ceiling=4.4),
}


def drawn(axes):
    return {line.get_label(): line for line in axes.get_lines()}


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_closed_have_titles_units_and_series_that_differ_in_more_than_colour(name):
    before = plt.get_fignums()
    figure = FIGURES[name]()
    assert plt.get_fignums() == before  # an open figure would be shown twice by a notebook
    (axes,) = figure.axes
    assert axes.get_title() and "nats" in axes.get_xlabel() + axes.get_ylabel()
    looks = {(str(line.get_linestyle()), line.get_marker()) for line in axes.get_lines()}
    assert len(looks) == len(axes.get_lines())
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(drawn(axes))


def test_the_frontier_is_a_line_and_each_loss_its_points():
    (axes,) = FIGURES["against_the_frontier"]().axes
    best, *losses = axes.get_lines()
    assert (list(best.get_xdata()), list(best.get_ydata())) == BEST and best.get_marker() == "None"
    for line, (label, (kl, reward)) in zip(losses, LOSSES.items(), strict=True):
        assert (line.get_label(), list(line.get_xdata()), list(line.get_ydata())) == (label, kl, reward)
        assert line.get_linestyle() == "None"
    assert "KL" in axes.get_xlabel() and "reward" in axes.get_ylabel()


def test_answers_that_kto_has_wiped_out_do_not_set_the_scale():
    (axes,) = FIGURES["steps_and_slopes"]().axes
    lines = drawn(axes)
    for name in ("star", "IPO"):
        assert lines[name].get_xdata().tolist() == WINS.tolist()
        assert lines[name].get_ydata().tolist() == RATIOS[name].tolist()
    assert lines["KTO"].get_xdata().tolist() == pytest.approx([0.7, 0.9])
    assert lines["KTO"].get_ydata().tolist() == pytest.approx([0.3, 1.1])
    assert axes.get_ylim()[0] > -4
    assert lines["chosen as often as rejected"].get_xdata() == [0.5, 0.5]


def test_paths_are_drawn_on_two_logarithmic_axes_under_a_ceiling():
    (axes,) = FIGURES["kl_while_training"]().axes
    lines = drawn(axes)
    assert axes.get_xscale() == axes.get_yscale() == "log"
    for name, nats in PATHS.items():
        assert (list(lines[name].get_xdata()), list(lines[name].get_ydata())) == ([1, 2, 3][: len(nats)], nats)
    assert set(lines["only the best answers"].get_ydata()) == {4.4}
