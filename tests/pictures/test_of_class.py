"""The bars of a class are its shares."""

import pytest

from week6.pictures.of_class import class_bars


def test_each_bar_is_cut_into_the_three_shares():
    (axes,) = class_bars(["1.1 One", "cost $x$"], [(1, 2, 1), (0, 0, 5)]).axes
    widths = [[bar.get_width() for bar in bars] for bars in axes.containers]
    assert widths == [[25, 0], [50, 0], [25, 100]]
    lefts = [[bar.get_x() for bar in bars] for bars in axes.containers]
    assert lefts == [[0, 0], [25, 0], [75, 0]]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["correct", "not yet", "not attempted"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["1.1 One", r"cost \$x\$"]
    assert axes.yaxis_inverted()


def test_what_cannot_be_drawn():
    for titles, counts in ((["a"], []), (["a"], [(0, 0, 0)])):
        with pytest.raises(ValueError, match="counts"):
            class_bars(titles, counts)
