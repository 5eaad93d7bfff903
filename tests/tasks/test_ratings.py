"""Ratings of several people as comparisons: who is compared, how often each wins, what is left out."""

import random

import pytest

from week6.machine.checkpoint import RunError
from week6.tasks.ratings import comparisons, parse_ratings, preference

TEXTS = ["good", "bad", "mixed", "mixed too"]
RATINGS = [[3, 4], [-2, -3], [2, -2], [2, -2]]


def test_probability_by_hand():
    """Of the four couples of raters, (2, 1) and (2, 0) favour the first, (0, 1) the second; (0, 0) is a tie."""
    assert preference([2, 0], [1, 0]) == pytest.approx(2 / 3)
    assert preference([1, 0], [2, 0]) == pytest.approx(1 / 3)
    assert preference([1, 1], [1]) is None
    assert preference([0, 1], [1, 0]) == 0.5  # as many for each: a comparison all the same


def test_choices_follow_the_probability():
    """10,000 couples of two texts with p = 3/4: the share is within five standard errors, 5·√(p(1 − p)/n) = 0.022."""
    rows = comparisons(["a", "b"], [[1, 1], [0, 1, 2, 0]], [(0, 1)] * 10_000, "", random.Random(0))
    p = preference([1, 1], [0, 1, 2, 0])
    assert p == pytest.approx(2 / 3)
    share = sum(chosen == "a" for chosen in rows["chosen"]) / len(rows)
    assert abs(share - p) < 0.024
    assert set(rows["probability"]) == {p, 1 - p}
    assert all((x == p) == (chosen == "a") for x, chosen in zip(rows["probability"], rows["chosen"], strict=True))


def test_the_sure_ones_win_and_those_rated_alike_are_left_out():
    rows = comparisons(TEXTS, [*RATINGS[:2], [1], [1]], [(0, 1), (1, 0), (2, 3)], "<start>", random.Random(0))
    assert rows["chosen"] == ["good", "good"] and rows["rejected"] == ["bad", "bad"]
    assert rows["prompt"] == ["<start>"] * 2 and rows["probability"] == [1.0, 1.0]


def test_cells_become_numbers():
    assert parse_ratings(["1,-2", " 3 ", "0.5,4"], "here") == [[1, -2], [3], [0.5, 4]]


def test_equal_ratings_teach_nothing():
    with pytest.raises(RunError, match="here: all ratings are -2, expected different ones"):
        parse_ratings(["-2,-2", "-2"], "here")


@pytest.mark.parametrize("cell", ["", "1,,2", "good", "1;2", "nan", "1,inf"])
def test_a_bad_cell_is_named(cell):
    with pytest.raises(RunError, match="here: row 2 is .*, expected numbers with commas between them"):
        parse_ratings(["1", cell], "here")
