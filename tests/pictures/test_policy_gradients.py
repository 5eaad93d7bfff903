"""The drawings of notebook 04 show the numbers that came in, under the right names."""

import pytest
import torch

from week6.pictures import policy_gradients as pictures

RUN = {"surrogate": [1.0, 2.0, 3.0], "objective": [1.0, 1.5, 0.5], "reward": [1.0, 1.2, 1.3]}
GAPS = {"plain": torch.tensor([[1.0, 0.5], [0.8, 0.3]]), "PPO": torch.tensor([[1.0, 0.2], [1.0, 0.1]])}
FIGURES = {
    "variance_of_baselines": lambda: pictures.variance_of_baselines(
        [-1.0, 0.0, 1.0], [3.0, 1.0, 2.0], {"far": (-1.0, 3.0), "none": (0.0, 1.0), "mean": (1.0, 2.0)}
    ),
    "variance_of_weights": lambda: pictures.variance_of_weights({"r": 3.0, "G": 2.0}),
    "bias_and_noise_of_gae": lambda: pictures.bias_and_noise_of_gae([0.0, 0.5, 1.0], [0.8, 0.3, 0.0], [0.1, 0.4, 0.9]),
    "steps_on_one_batch": lambda: pictures.steps_on_one_batch({"free": RUN, "held": RUN}),
    "clipped_gain": lambda: pictures.clipped_gain(0.2),
    "gradient_map": lambda: pictures.gradient_map(
        torch.tensor([0.5, 1.0, 1.5]),
        torch.tensor([-1.0, 1.0]),
        torch.tensor([[0.0, -1.0, -1.5], [0.5, 1.0, 0.0]]),
        0.2,
    ),
    "climb_to_optimum": lambda: pictures.climb_to_optimum(torch.tensor([[0.0, 1.0], [0.2, 0.8]]), 1.5),
    "gaps_of_methods": lambda: pictures.gaps_of_methods(
        [0, 2], GAPS, [0.001, 0.01], {"plain": [0.5, 0.4], "PPO": [0.2, 0.3]}, "three rates"
    ),
}


def curves(axes):
    return {line.get_label(): list(line.get_ydata()) for line in axes.lines}


@pytest.mark.parametrize("name", FIGURES)
def test_every_panel_has_a_title_and_units(name):
    for axes in FIGURES[name]().axes:
        if axes.get_label() != "<colorbar>":
            assert axes.get_title() and axes.get_xlabel() and axes.get_ylabel()


def test_baselines_show_the_curve_and_the_named_points():
    (axes,) = FIGURES["variance_of_baselines"]().axes
    points = {line.get_label(): (line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines[1:]}
    assert curves(axes)["variance of one-answer estimate"] == [3, 1, 2]
    assert points == {"far": (-1, 3), "none": (0, 1), "mean": (1, 2)}


def test_weights_have_a_bar_each_from_top_to_bottom():
    (axes,) = FIGURES["variance_of_weights"]().axes
    assert [bar.get_width() for bar in axes.containers[0]] == [3, 2]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["r", "G"] and axes.yaxis_inverted()
    assert [text.get_text() for text in axes.texts] == ["3.00", "2.00"]


def test_gae_marks_the_least_of_both_errors_together():
    (axes,) = FIGURES["bias_and_noise_of_gae"]().axes
    drawn = curves(axes)
    assert drawn["bias: V is wrong"] == [0.8, 0.3, 0.0] and drawn["noise: later tokens are luck"] == [0.1, 0.4, 0.9]
    assert drawn["both together"] == pytest.approx([0.65**0.5, 0.5, 0.9])
    assert drawn["least error, λ = 0.50"] == pytest.approx([0.5])


def test_steps_on_one_batch_show_promise_and_truth():
    for axes, title in zip(FIGURES["steps_on_one_batch"]().axes, ("free", "held"), strict=True):
        drawn = curves(axes)
        assert axes.get_title() == title and drawn["J at the start"] == [1.0, 1.0]
        names = ("surrogate on the batch", "true objective J", "true mean reward")
        assert [drawn[name] for name in names] == [RUN["surrogate"], RUN["objective"], RUN["reward"]]


@pytest.mark.parametrize("clip", [0.1, 0.5])
def test_the_gain_is_flat_where_it_is_shaded(clip):
    good, bad = pictures.clipped_gain(clip).axes
    for axes, sign, flat in ((good, 1, lambda x: x > 1 + clip), (bad, -1, lambda x: x < 1 - clip)):
        (gain,) = [line for line in axes.lines if line.get_label() == "minimum of both (29)"]
        x, y = gain.get_xdata(), gain.get_ydata()
        bound = sign * (1 + sign * clip)
        assert y[flat(x)] == pytest.approx(bound) and y[~flat(x)] == pytest.approx(sign * x[~flat(x)])
        (shade,) = axes.patches
        left, right = shade.get_x(), shade.get_x() + shade.get_width()
        assert (left, right) == pytest.approx((1 + clip, 2) if sign > 0 else (0, 1 - clip))
    assert [text.get_text() for axes in (good, bad) for text in axes.texts] == list("123456")


def test_the_map_has_the_slopes_as_colours_and_symmetric_about_zero():
    axes, _ = FIGURES["gradient_map"]().axes
    (mesh,) = axes.collections
    assert mesh.get_array().tolist() == [[0.0, -1.0, -1.5], [0.5, 1.0, 0.0]]
    assert mesh.get_clim() == (-1.5, 1.5)
    assert [line.get_xdata()[0] for line in axes.lines] == [0.8, 1.2] and len(axes.texts) == 6


def test_the_climb_shows_mean_band_and_optimum():
    (axes,) = FIGURES["climb_to_optimum"]().axes
    drawn = curves(axes)
    assert drawn["PPO, mean of 2 seeds"] == pytest.approx([0.1, 0.9]) and drawn["exact optimum β log Z"] == [1.5, 1.5]
    assert sorted(set(axes.collections[0].get_paths()[0].vertices[:, 1].round(6))) == [0.0, 0.2, 0.8, 1.0]


def test_gaps_of_methods_are_means_over_seeds_and_ends_by_rate():
    left, right = FIGURES["gaps_of_methods"]().axes
    assert curves(left)["plain"] == pytest.approx([0.9, 0.4]) and curves(left)["PPO"] == pytest.approx([1.0, 0.15])
    assert curves(right) == {"plain": [0.5, 0.4], "PPO": [0.2, 0.3]}
    assert right.lines[0].get_xdata().tolist() == [0.001, 0.01]
    assert left.get_title() == "three rates" and right.get_title() == "After 2 batches, one seed"
