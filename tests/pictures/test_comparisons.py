"""The drawings of comparisons in notebooks 01 and 02 show the numbers that came in."""

import numpy as np
import pytest
import torch

from week6.pictures import comparisons

X = torch.tensor([-1.0, 0.0, 2.0])


def line(axes, label):
    return next(line for line in axes.get_lines() if line.get_label() == label)


def test_a_curve_for_each_noise_and_the_people_of_the_last():
    curves = {1.0: (X, X.sigmoid()), 3.0: (X, (X / 3).sigmoid())}
    (axes,) = comparisons.noise_curve(curves, (X[:2], torch.tensor([0.4, 0.6]))).axes
    for s in (1, 3):
        np.testing.assert_allclose(line(axes, f"noise s = {s}").get_ydata(), (X / s).sigmoid())
    people = line(axes, "simulated people at s = 3")
    np.testing.assert_allclose(people.get_xydata(), [[-1, 0.4], [0, 0.6]])
    assert line(axes, "noise s = 1").get_linestyle() != line(axes, "noise s = 3").get_linestyle()


def test_the_loss_its_slope_and_its_curvature():
    (axes,) = comparisons.loss_and_derivatives(X, X + 1, X + 2, X + 3).axes
    for label, more in (("loss −log σ(Δ)", 1), ("slope −σ(−Δ)", 2), ("curvature σ(Δ) σ(−Δ)", 3)):
        np.testing.assert_allclose(line(axes, label).get_xydata(), np.stack([X, X + more], 1))
    coin = line(axes, "log 2 at Δ = 0: a coin flip")
    assert coin.get_xydata().tolist() == [[0, np.log(2)]]


def test_fitted_rewards_with_bars_of_two_standard_errors():
    (axes,) = comparisons.found_again(X, X + 0.1, [0.1, 0.2, 0.3], 900).axes
    points, _, (bars,) = axes.containers[0].lines
    np.testing.assert_allclose(points.get_xydata(), np.stack([X, X + 0.1], 1), rtol=1e-6)
    heights = [float(np.ptp(segment[:, 1])) for segment in bars.get_segments()]
    assert heights == pytest.approx([0.4, 0.8, 1.2])
    assert [text.get_text() for text in axes.texts] == ["y0", "y1", "y2"] and "900" in axes.get_title()
    diagonal = line(axes, "fitted = true").get_xydata()
    assert (diagonal[:, 0] == diagonal[:, 1]).all() and diagonal[0, 0] < -1 and diagonal[1, 0] > 2.1


def test_errors_against_comparisons_on_logarithmic_axes():
    (axes,) = comparisons.error_by_comparisons([10, 40], [0.2, 0.1], [0.22, 0.11]).axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert line(axes, "measured on simulated tables").get_xydata().tolist() == [[10, 0.2], [40, 0.1]]
    assert line(axes, "predicted by (16), slope −½").get_ydata().tolist() == [0.22, 0.11]


def test_calibration_with_bars_of_two_standard_errors():
    judges = {"one": ([0.1, 0.9], [0.2, 0.8], [0.01, 0.02]), "two": (X.sigmoid(), X.sigmoid() / 2, X * 0 + 0.1)}
    (axes,) = comparisons.calibration(judges, "title").axes
    assert axes.get_title() == "title" and len(axes.containers) == 2
    markers = set()
    for container, (name, (predicted, observed, error)) in zip(axes.containers, judges.items(), strict=True):
        points, _, (bars,) = container.lines
        np.testing.assert_allclose(points.get_xydata(), np.stack([predicted, observed], 1))
        np.testing.assert_allclose([np.ptp(s[:, 1]) for s in bars.get_segments()], 4 * np.asarray(error), rtol=1e-5)
        assert container.get_label() == name
        markers.add(points.get_marker())
    assert len(markers) == 2


def test_the_gap_is_drawn_from_the_first_step_on():
    (axes,) = comparisons.gap_by_steps({"free": [1.0, 2.0, 3.0], "held": [1.0, 1.5, 1.6]}).axes
    assert axes.get_xscale() == "log"
    assert line(axes, "free").get_xydata().tolist() == [[1, 1], [2, 2], [3, 3]]
    assert line(axes, "held").get_ydata().tolist() == [1.0, 1.5, 1.6]


def test_error_against_the_penalty_and_the_belief_behind_it():
    (axes,) = comparisons.error_by_penalty([0.1, 1.0], torch.tensor([0.5, 0.25]), expected=0.4).axes
    assert axes.get_xscale() == "log"
    assert line(axes, "mean over simulated tables").get_xydata().tolist() == [[0.1, 0.5], [1.0, 0.25]]
    assert set(line(axes, "1 / variance of the true rewards").get_xdata()) == {0.4}


def test_the_circle_shows_people_beside_the_fit():
    (axes,) = comparisons.circle(["A ≻ B", "B ≻ A"], [0.8, 0.7], torch.tensor([0.5, 0.4])).axes
    people, fitted = axes.containers
    np.testing.assert_allclose([*people.datavalues, *fitted.datavalues], [0.8, 0.7, 0.5, 0.4])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["A ≻ B", "B ≻ A"]
    assert people.patches[0].get_hatch() != fitted.patches[0].get_hatch()
