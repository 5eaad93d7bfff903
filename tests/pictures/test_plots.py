"""Figures: titled, labelled with units, readable in grey, and showing the numbers that came in."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from week6.pictures import plots

STEPS = 40


def table(*columns):
    rng = np.random.default_rng(0)
    return pd.DataFrame({"step": range(STEPS)} | {name: rng.uniform(0.1, 1, STEPS) for name in columns})


PPO = table(
    "score", "gold", "kl", "entropy", "clip_fraction", "first_ratio_deviation", "explained_variance", "length", "beta"
)
DPO = table(
    "chosen_reward", "rejected_reward", "margin", "accuracy", "kl", "chosen_log_prob", "rejected_log_prob",
    "gradient_weight",
)  # fmt: skip
POLICIES = {
    "sft": {"gold": 0.1, "gold_se": 0.05, "kl": 0.0, "kl_se": 0.0},
    "ppo": {"gold": 1.5, "gold_se": 0.05, "kl": 4.0, "kl_se": 0.2},
    "dpo": {"gold": 1.2, "gold_se": 0.05, "kl": 2.0, "kl_se": 0.1},
    "best_of_n": {"gold": 0.8, "gold_se": 0.1, "kl": 1.9, "kl_se": None},
}
SWEEP = pd.DataFrame(
    [
        {"seed": seed, "method": method, setting: x, "kl": k + 0.1 * seed, "kl_se": se, "gold": g + 0.1 * seed}
        for seed in (0, 1)
        for method, setting, x, k, se, g in (
            ("best_of_n", "n", 1.0, 0.0, np.nan, 0.0),
            ("best_of_n", "n", 4.0, 0.6, np.nan, 1.0),
            ("ppo", "beta", 0.1, 2.0, 0.1, 2.0),
            ("ppo", "beta", 1.0, 0.5, 0.1, 1.2),
            ("dpo", "beta", 0.3, 12.0, 0.1, 0.5),
        )
    ]
)
SEEDS = pd.concat([PPO.assign(seed=0), PPO.assign(seed=1, kl=PPO["kl"] ** 2)])
FIGURES = {
    "frontiers": lambda: plots.frontiers(SWEEP),
    "gao_fits": lambda: plots.gao_fits(SEEDS),
    "sft_loss": lambda: plots.sft_loss(table("loss")),
    "reward_model": lambda: plots.reward_model(table("loss", "accuracy"), 0.9),
    "ppo_dashboard": lambda: plots.ppo_dashboard(PPO),
    "dpo_dashboard": lambda: plots.dpo_dashboard(DPO),
    "frontier": lambda: plots.frontier(POLICIES, 2.5),
    "frontier_beside": lambda: plots.frontier_beside({"embedded": POLICIES, "real": POLICIES}),
    "beside, PPO": lambda: plots.beside({"embedded": PPO, "real": PPO}, "ppo"),
    "beside, DPO": lambda: plots.beside({"embedded": DPO, "real": DPO}, "dpo"),
    "overoptimisation": lambda: plots.overoptimisation(PPO),
    "reward_histograms": lambda: plots.reward_histograms({"help": [1.0, 2.0], "rude": [-1.0, 0.0, 0.5]}),
}


def test_runs_beside_each_other_have_a_column_each():
    """Above each other, of the same run: its reward and its KL."""
    longer = PPO.assign(kl=PPO["kl"] + 5)
    panels = plots.beside({"embedded": PPO, "real": longer}, "ppo").axes
    assert [axes.get_title() for axes in panels[:2]] == ["embedded", "real"]
    for axes, run in zip(panels[2:], (PPO, longer), strict=True):
        assert axes.lines[0].get_ydata().tolist() == run["kl"].tolist()


@pytest.mark.parametrize("name", FIGURES)
def test_every_panel_has_title_units_and_legend(name):
    figure = FIGURES[name]()
    if name == "reward_histograms":
        assert figure.get_suptitle() and figure.axes[-1].get_xlabel() == "reward units"
        return
    for axes in figure.axes:
        assert axes.get_title() and axes.get_xlabel() and axes.get_ylabel()
        assert axes.get_legend() is not None, axes.get_title()


@pytest.mark.parametrize("name", FIGURES)
def test_series_differ_in_more_than_colour(name):
    for axes in FIGURES[name]().axes:
        handles, _ = axes.get_legend_handles_labels()
        looks = []
        for handle in handles:
            line = handle[0] if isinstance(handle, tuple) else handle
            looks.append((str(line.get_linestyle()), line.get_marker(), line.get_linewidth()))
        assert len(set(looks)) == len(looks), (axes.get_title(), looks)


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_not_left_open_and_nothing_is_cut_off(name):
    before = plt.get_fignums()
    figure = FIGURES[name]()
    assert plt.get_fignums() == before  # an open figure would be shown twice by a notebook
    figure.draw_without_rendering()  # lays it out
    width, height = figure.canvas.get_width_height()
    for axes in figure.axes:
        box = axes.get_tightbbox()
        assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1, axes.get_title()


def lines(axes, label):
    return next(line for line in axes.get_lines() if line.get_label() == label)


def test_lines_show_the_metrics():
    figure = plots.ppo_dashboard(PPO)
    raw = figure.axes[1].get_lines()[0]
    np.testing.assert_array_equal(raw.get_ydata(), PPO["kl"])
    smooth = lines(figure.axes[1], "KL(π ‖ SFT)")
    assert np.std(smooth.get_ydata()) < np.std(PPO["kl"])
    assert np.mean(smooth.get_ydata()) == pytest.approx(PPO["kl"].mean(), rel=0.05)


def test_gaps_in_the_metrics_are_bridged_and_absent_columns_left_out():
    sparse = DPO.assign(kl=DPO["kl"].where(DPO["step"] % 10 == 0))
    figure = plots.dpo_dashboard(sparse.drop(columns="margin"))
    assert list(lines(figure.axes[3], "KL estimate").get_xdata()) == [0, 10, 20, 30]
    assert figure.axes[1].get_lines()[:] == []


def test_frontier_places_policies_and_marks_the_bound():
    axes = plots.frontier(POLICIES | {"dpo": {"gold": None, "gold_se": None, "kl": 1.0, "kl_se": 0.1}}).axes[0]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["SFT", "PPO", "best of n (KL: upper bound)"]
    points = [tuple(container.lines[0].get_xydata()[0]) for container in axes.containers]
    assert points == [(0.0, 0.1), (4.0, 1.5), (1.9, 0.8)]


def test_overoptimisation_orders_by_distance_and_survives_negative_estimates():
    metrics = PPO.assign(kl=PPO["kl"] - 0.3)
    axes = plots.overoptimisation(metrics).axes[0]
    x = axes.get_lines()[0].get_xdata()
    assert (np.diff(x) >= 0).all() and x[0] == 0
    assert len(plots.overoptimisation(metrics.drop(columns="gold")).axes[0].get_legend().get_texts()) == 1


def test_frontiers_show_means_over_seeds_with_their_spread():
    axes = plots.frontiers(SWEEP).axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["best of n (KL: upper bound)", "PPO", "DPO"]
    ppo = axes.containers[1]
    np.testing.assert_allclose(ppo.lines[0].get_xydata(), [[2.05, 2.05], [0.55, 1.25]])
    across, up = (bars.get_segments()[0] for bars in ppo.lines[2])
    np.testing.assert_allclose((np.ptp(across[:, 0]), np.ptp(up[:, 1])), 2 * 0.05)  # ± std/√2 of two points 0.1 apart
    assert {text.get_text() for text in axes.texts} == {"n 1", "n 4", "β 0.1", "β 1", "β 0.3"}


def test_frontiers_zoom_into_the_crowded_part():
    everything, near = plots.frontiers(SWEEP, zoom=4.0).axes
    assert near.get_xlim()[1] == 4.0 and everything.get_xlim()[1] > 12
    assert near.get_ylim()[0] < 0.0 and near.get_ylim()[1] > 2.1
    assert {text.get_text() for text in everything.texts} == {"β 0.3"}
    assert {text.get_text() for text in near.texts} >= {"n 1", "n 4", "β 0.1", "β 1"}


def test_frontiers_beside_the_analytic_one_have_a_panel_for_each_seed():
    analytic = pd.DataFrame({"seed": [1, 1, 0, 0], "kl": [3.0, 0.0, 0.0, 2.0], "gold": [2.5, 0.1, 0.0, 2.0]})
    figure = plots.frontiers(SWEEP[SWEEP["method"] != "dpo"], analytic)
    assert [axes.get_title() for axes in figure.axes] == ["seed 0", "seed 1"]
    curve = lines(figure.axes[1], "optimum for each β")
    np.testing.assert_array_equal(curve.get_xydata(), [[0.0, 0.1], [3.0, 2.5]])
    np.testing.assert_allclose(lines(figure.axes[1], "PPO").get_xydata(), [[0.6, 1.3], [2.1, 2.1]])
    assert len(figure.axes[1].get_legend().get_texts()) == 3


def test_gao_fits_draw_the_fitted_form_and_the_band_of_the_highest_places():
    d = np.linspace(0.01, 4, 50)
    runs = [
        pd.DataFrame({"seed": seed, "kl": d**2, "score": d, "gold": d * (1.5 - beta * np.log(d))})
        for seed, beta in enumerate((0.8, 1.0))
    ]
    axes = plots.gao_fits(pd.concat(runs)).axes[0]
    peaks = [np.exp(1.5 / beta - 1) for beta in (0.8, 1.0)]
    label = f"gold is highest: {np.mean(peaks):.2f} ± {np.std(peaks, ddof=1) / np.sqrt(2):.2f}"
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert label in labels and any("R² = " in text for text in labels)
    one = plots.gao_fits(runs[0]).axes[0]
    fit = next(line for line in one.get_lines() if "gold" in line.get_label())
    assert fit.get_label().endswith("R² = 1.00")
    x, y = fit.get_data()
    np.testing.assert_allclose(y[1:], x[1:] * (1.5 - 0.8 * np.log(x[1:])), atol=1e-8)


def test_histograms_are_sorted_by_mean_and_empty_kinds_left_out():
    figure = plots.reward_histograms({"good": [2.0, 3.0], "bad": [-1.0], "none": []})
    assert [axes.get_ylabel().split("\n")[0] for axes in figure.axes] == ["good", "bad"]


WORDS = [["happy", "to", "help", "$x$", "a\nb"], ["no", "."]]
VALUES = [[1.2, 0.3, -0.2, 0.5, 2.2], [-3.1, 0.0]]


def test_token_heatmap_shows_each_word_on_the_colour_of_its_value_with_its_number():
    figure = plots.token_heatmap(WORDS, VALUES, "Implicit reward", ["how ?", "hello"])
    figure.canvas.draw()
    axes, scale = figure.axes
    shown = [text.get_text() for text in axes.texts]
    assert shown[:3] == ["how ?", "happy", "+1.2"] and shown[-2:] == [".", "+0.0"] and "−3.1" in shown
    assert "$x$" in shown and "a↵b" in shown  # shown as they are: no formula, no second line
    assert axes.get_title() == "Implicit reward" and scale.get_ylabel() == "reward units"
    colours = np.array([patch.get_facecolor() for patch in axes.patches])
    values = np.concatenate(VALUES)
    assert np.allclose(colours, plt.get_cmap("PuOr")(0.5 + 0.5 * values / 3.1))
    assert scale.get_ylim() == pytest.approx((-3.1, 3.1))
    for row in (axes.patches[:5], axes.patches[5:]):
        for one, other in zip(row, row[1:], strict=False):
            assert one.get_x() + one.get_width() == pytest.approx(other.get_x())
    boxes = [text.get_window_extent() for text in axes.texts]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[i + 1 :])


def test_token_heatmap_of_a_long_answer_and_of_zeros():
    words = [["question"] * 24]
    figure = plots.token_heatmap(words, [[0.0] * 24], "nothing")
    figure.canvas.draw()
    axes = figure.axes[0]
    letters, cells = ([a.get_window_extent().width for a in artists] for artists in (axes.texts[::2], axes.patches))
    assert len(letters) == len(cells) == 24 and max(letters) < min(cells)


@pytest.mark.parametrize(
    ("words", "values", "labels", "message"),
    [
        ([["a", "b"]], [[1.0]], (), "values: got rows of \\[1\\] values, expected one for each word, \\[2\\]"),
        ([], [], (), None),
        ([[]], [[]], (), "expected one for each word"),
        ([["a"]], [[1.0]], ("x", "y"), "labels: got 2, expected one for each of 1 rows"),
    ],
)
def test_token_heatmap_refuses_rows_that_do_not_fit(words, values, labels, message):
    with pytest.raises(ValueError, match=message or "words: got no rows"):
        plots.token_heatmap(words, values, "title", labels)


def test_exhibits_show_each_run_beside_the_healthy_one():
    runs = {"A": table(*plots.INSTRUMENTS), "B": table(*plots.INSTRUMENTS).assign(first_ratio_deviation=0.0)}
    figure = plots.exhibits(PPO, runs, "two runs")
    assert len(figure.axes) == 2 * len(plots.INSTRUMENTS) and figure.get_suptitle() == "two runs"
    columns = len(plots.INSTRUMENTS)
    for row, run in enumerate(runs.values()):
        for axes, column in zip(figure.axes[row * columns :], plots.INSTRUMENTS, strict=False):
            grey, blue, *_ = axes.get_lines()
            np.testing.assert_array_equal(grey.get_ydata(), PPO[column])
            np.testing.assert_array_equal(blue.get_ydata(), run[column].clip(lower=1e-8))
    assert [text.get_text() for text in figure.legends[0].get_texts()][:2] == ["healthy", "with the bug"]
