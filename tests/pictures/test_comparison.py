"""The drawings and tables of notebook 07 show the numbers that came in."""

import numpy as np
import pandas as pd
import pytest
import torch

from week6.pictures import comparison

GAPS = pd.DataFrame(
    [
        {"method": method, "beta": beta, "seed": seed, "gap": gap * (1 + seed)}
        for method, gap in (("ppo", 0.01), ("dpo", 0.2), ("dpo_twice_the_pairs", 0.15), ("dpo_two_rounds", 0.1))
        for beta in (0.5, 1.0)
        for seed in (0, 1, 2)
    ]
)
SHARES = pd.DataFrame({"usual": [0.6, 0.9], "Wilson": [0.96, 0.94]}, index=[10, 100])
KL, REWARD = torch.tensor([[2.0, 0.0, 1.0, 1.5], [3.0, 0.0, 1.2, 1.0]], dtype=torch.float64)
KEPT = torch.tensor([True, True, True, False])
FIGURES = {
    "staircase": lambda: comparison.staircase(KL, REWARD, KEPT, [0, 1]),
    "distance_to_optimum": lambda: comparison.distance_to_optimum(GAPS),
    "coverage": lambda: comparison.coverage(SHARES),
    "paths_to_optimum": lambda: comparison.paths_to_optimum(
        [(0.0, 0.0), (2.0, 1.5)], {"A": [(0.0, 0.0), (1.0, 0.9)], "B": [(0.0, 0.0)]}, (1.5, 1.3), "Two runs"
    ),
}


PARTS = {"kl_mean": [0.1, 0.4], "gold_mean": [0.2, 0.5], "kl_half": [0.05, 0.1], "gold_half": [0.3, 0.2]}
FIGURES["own_frontiers"] = lambda: comparison.own_frontiers(
    {"few": PARTS, "many": PARTS | {"kl_mean": torch.tensor([0.2, 0.6])}}, [2.0, 0.5], [(0.0, 0.0), (1.0, 1.0)]
)


def line(axes, label):
    return next(line for line in axes.get_lines() if line.get_label() == label)


@pytest.mark.parametrize("name", FIGURES)
def test_titles_units_and_looks(name):
    """In a grey print too, each line is told from the others."""
    (axes,) = FIGURES[name]().axes
    assert axes.get_title() and axes.get_xlabel() and axes.get_ylabel() and axes.get_legend()
    looks = [(str(handle.get_linestyle()), handle.get_marker()) for handle in axes.get_legend_handles_labels()[0]]
    assert len(set(looks)) == len(looks)


def test_distance_is_the_mean_with_a_band_from_lowest_to_highest():
    (axes,) = FIGURES["distance_to_optimum"]().axes
    np.testing.assert_allclose(line(axes, "DPO").get_xydata(), [[0.5, 0.4], [1.0, 0.4]])
    bands = [collection.get_paths()[0].vertices[:, 1] for collection in axes.collections]
    np.testing.assert_allclose(
        [(b.min(), b.max()) for b in bands], [(0.01, 0.03), (0.2, 0.6), (0.15, 0.45), (0.1, 0.3)]
    )
    assert axes.get_xscale() == axes.get_yscale() == "log" and line(axes, "a tenth of a nat").get_ydata()[0] == 0.1
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0.5", "1"]


def test_staircase_climbs_through_the_kept_runs_and_the_line_joins_the_hull():
    (axes,) = FIGURES["staircase"]().axes
    assert line(axes, "runs").get_xydata().tolist() == [[2.0, 3.0], [0.0, 0.0], [1.0, 1.2], [1.5, 1.0]]
    stairs = line(axes, "Pareto frontier: not dominated")
    assert stairs.get_xydata().tolist() == [[0.0, 0.0], [1.0, 1.2], [2.0, 3.0]]
    assert stairs.get_drawstyle() == "steps-post"  # the reward of a run holds until a run with more KL has more
    assert line(axes, "best for some price β").get_xydata().tolist() == [[0.0, 0.0], [2.0, 3.0]]


def test_coverage_has_a_line_for_each_rule_and_one_for_the_promise():
    (axes,) = FIGURES["coverage"]().axes
    for name in SHARES:
        np.testing.assert_array_equal(line(axes, name).get_xydata(), [*zip(SHARES.index, SHARES[name], strict=True)])
    assert line(axes, "promised").get_ydata()[0] == 0.95 and "95 %" in axes.get_title()


def test_paths_show_every_run_the_frontier_and_the_star():
    (axes,) = FIGURES["paths_to_optimum"]().axes
    assert line(axes, "frontier R(k)").get_xydata().tolist() == [[0.0, 0.0], [2.0, 1.5]]
    assert line(axes, "A").get_xydata().tolist() == [[0.0, 0.0], [1.0, 0.9]]
    assert line(axes, "optimum π*").get_xydata().tolist() == [[1.5, 1.3]] and axes.get_title() == "Two runs"


def test_a_table_with_errors_has_both_in_each_cell():
    means, errors = pd.DataFrame({"gold": [1.234, -0.5]}), pd.DataFrame({"gold": [0.056, 0.1]})
    assert comparison.with_errors(means, errors)["gold"].tolist() == ["1.23 ± 0.06", "-0.50 ± 0.10"]
    assert comparison.with_errors(means, errors, digits=1)["gold"].tolist() == ["1.2 ± 0.1", "-0.5 ± 0.1"]


def test_own_frontiers_have_bars_in_both_directions_and_their_prices():
    (axes,) = FIGURES["own_frontiers"]().axes
    np.testing.assert_allclose(line(axes, "few").get_xydata(), [[0.1, 0.2], [0.4, 0.5]], rtol=1e-6)
    np.testing.assert_allclose(line(axes, "many").get_xydata(), [[0.2, 0.2], [0.6, 0.5]], rtol=1e-6)
    wide, high = (bars.get_segments() for bars in axes.containers[0].lines[2])
    np.testing.assert_allclose([bar[:, 0] for bar in wide], [[0.05, 0.15], [0.3, 0.5]], rtol=1e-6)
    np.testing.assert_allclose([bar[:, 1] for bar in high], [[-0.1, 0.5], [0.3, 0.7]], rtol=1e-6)
    assert [text.get_text() for text in axes.texts] == ["β 2", "β 0.5"] * 2
    assert line(axes, "frontier R(k)").get_xydata().tolist() == [[0.0, 0.0], [1.0, 1.0]]
