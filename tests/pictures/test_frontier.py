"""Reading a frontier: fits that find what made the data, Pareto points, and intervals that cover."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from week6.pictures.frontier import fit_gao, frontier_of, reward_at, win_rate_interval

D = np.linspace(0.0, 4.0, 60)


@pytest.mark.parametrize(
    ("form", "curve"),
    [
        ("best_of_n", lambda d: 0.6 + d * (1.4 - 0.3 * d)),
        ("rl", lambda d: 0.6 + d * (1.4 - 0.9 * np.log(np.where(d > 0, d, 1.0)))),
    ],
)
def test_fit_finds_the_constants_that_made_the_curve(form, curve):
    fit = fit_gao(D, curve(D), form)
    constants = {"best_of_n": (0.6, 1.4, 0.3), "rl": (0.6, 1.4, 0.9)}[form]
    assert (fit.start, fit.alpha, fit.beta) == pytest.approx(constants, abs=1e-9)
    assert fit.r_squared == pytest.approx(1.0, abs=1e-12)
    np.testing.assert_allclose(fit(D), curve(D), atol=1e-9)
    fine = np.linspace(1e-6, 10, 400_001)
    assert fit.peak == pytest.approx(fine[np.argmax(fit(fine))], abs=1e-4)


def test_fit_of_noisy_data_is_near_and_its_r_squared_is_the_share_explained():
    rng = np.random.default_rng(0)
    clean = D * (2.0 - 0.5 * D)
    noisy = clean + rng.normal(0, 0.2, len(D))
    fit = fit_gao(D, noisy, "best_of_n")
    assert (fit.alpha, fit.beta) == pytest.approx((2.0, 0.5), abs=0.15)
    assert fit.r_squared == pytest.approx(1 - (noisy - fit(D)).var() / noisy.var(), abs=1e-9)
    assert 0.8 < fit.r_squared < 0.99
    assert fit_gao(D, noisy, "rl").r_squared < fit.r_squared


def test_a_curve_without_a_highest_point_has_no_peak():
    assert math.isnan(fit_gao(D, D**2, "best_of_n").peak)
    assert math.isnan(fit_gao(D, -D, "best_of_n").peak)
    assert fit_gao(D, np.ones_like(D), "rl").r_squared == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((D, D, "line"), "form: got 'line'"),
        ((D, D[:-1], "rl"), "distance, reward: got shapes"),
        ((-D, D, "rl"), "below 0"),
        ((D, np.where(D > 3, np.nan, D), "rl"), "got NaN"),
        (([0.0, 1.0, 1.0], [0.0, 1.0, 2.0], "rl"), "got 2 different values, expected at least 3"),
    ],
)
def test_fit_says_what_is_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        fit_gao(*arguments)


def test_wilson_interval_against_published_values():
    """Newcombe 1998, table I: 81/263, 15/148, 0/20, 1/29."""
    for wins, n, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        interval = win_rate_interval(wins, n - wins)
        assert interval == pytest.approx((wins / n, low, high), abs=6e-5)


def test_ties_count_half_and_more_confidence_is_wider():
    assert win_rate_interval(10, 10, 20) == win_rate_interval(20, 20)
    assert win_rate_interval(0, 0, 5).estimate == 0.5
    narrow, wide = win_rate_interval(60, 40, z=1.28), win_rate_interval(60, 40, z=2.58)
    assert wide.low < narrow.low < 0.6 < narrow.high < wide.high


def test_interval_covers_the_truth_as_often_as_it_says():
    """2,000 experiments of 60 comparisons with ties; conservative because of them: 0.95 ≤ coverage, ± 4 σ = 0.02."""
    rng = np.random.default_rng(1)
    counts = rng.multinomial(60, [0.55, 0.25, 0.2], size=2000)
    inside = [low <= 0.65 <= high for _, low, high in (win_rate_interval(w, lo, t) for w, lo, t in counts)]
    assert 0.95 - 0.02 <= np.mean(inside) < 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, 2), "wins: got -1"),
        ((1, math.nan), "losses: got nan"),
        ((0, 0), "wins \\+ losses \\+ ties: got 0"),
        ((1, 1, 0, 0.0), "z: got 0.0"),
    ],
)
def test_interval_says_what_is_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        win_rate_interval(*arguments)


def test_frontier_of_a_few_points():
    kl = torch.tensor([0.0, 1.0, 1.0, 2.0, 2.0, 3.0])
    reward = torch.tensor([0.0, 2.0, 1.0, 2.0, 3.0, 3.0])
    assert frontier_of(kl, reward).tolist() == [True, True, False, False, True, False]
    assert frontier_of(torch.ones(2), torch.ones(2)).tolist() == [True, True]
    with pytest.raises(ValueError, match="kl"):
        frontier_of(torch.tensor([math.nan]), torch.ones(1))


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12))
def test_frontier_is_what_its_definition_says(points):
    kl, reward = (torch.tensor(column, dtype=torch.float64) for column in zip(*points, strict=True))
    found = frontier_of(kl, reward).tolist()
    for (k, r), kept in zip(points, found, strict=True):
        beaten = any(a <= k and b >= r and (a, b) != (k, r) for a, b in points)
        assert kept is not beaten
    assert any(found)


def test_reward_between_two_runs_is_read_off_a_line_over_the_root_of_the_distance():
    kl, reward = [4.0, 0.0, 1.0], [5.0, 1.0, 3.0]  # in any order; 1 + 2√KL
    np.testing.assert_allclose(reward_at(kl, reward, [0.0, 0.25, 1.0], widest=3.0), [1.0, 2.0, 3.0])
    np.testing.assert_allclose(reward_at(kl, reward, [2.25], widest=3.0), [4.0])
    assert np.isnan(reward_at(kl, reward, [2.25, 4.1], widest=2.9)).all()  # too wide a gap; beyond the last run
    assert np.isnan(reward_at([0.5, 1.0], [0.0, 1.0], [0.4])).all()  # before the first


@pytest.mark.parametrize(
    ("kl", "reward", "message"),
    [([0.0, 1.0], [1.0], "shapes"), ([0.0], [1.0], "at least 2"), ([-1.0, 1.0], [0.0, 1.0], "kl: got -1.0")],
)
def test_reward_refuses_what_is_no_curve(kl, reward, message):
    with pytest.raises(ValueError, match=message):
        reward_at(kl, reward, [0.5])
