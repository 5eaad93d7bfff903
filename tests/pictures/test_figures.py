"""The pictures of the course: drawn the same each time, legible, and the stored files are the present drawings."""

import re
import xml.etree.ElementTree as ElementTree
from itertools import combinations
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from week6 import dpo_gradient_weight
from week6.pictures import figures
from week6.pictures.figures import BOXES, PICTURES, STOPS, dpo_gradient, dpo_shortcut, main, rlhf_pipeline, roadmap

IMAGES = Path(__file__).resolve().parents[2] / "imgs"


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures")
    main(folder)
    return folder


def shapes(path):
    """Corners of all shapes of an SVG but letters: those depend on Matplotlib's version."""
    root = ElementTree.parse(path).getroot()
    for defs in root.iter("{http://www.w3.org/2000/svg}defs"):
        defs.clear()
    return [
        [float(number) for number in re.findall(r"-?\d+\.?\d*", shape.get("d", ""))]
        for shape in root.iter("{http://www.w3.org/2000/svg}path")
    ]


def texts(path):
    return re.findall(r"<!-- (.*?) -->", path.read_text())


@pytest.mark.parametrize("name", PICTURES)
def test_stored_picture_is_the_present_drawing(drawn, name):
    stored, now = IMAGES / f"{name}.svg", drawn / f"{name}.svg"
    assert texts(stored) == texts(now), "run: make figures"
    pairs = list(zip(shapes(stored), shapes(now), strict=True))
    assert all(len(old) == len(new) for old, new in pairs), "run: make figures"
    if matplotlib.__version_info__ < (3, 11):
        return  # texts have other widths there, and what is placed beside them lies elsewhere
    for old, new in pairs:
        assert np.allclose(old, new, atol=0.5), "run: make figures"
    old, new = (plt.imread(folder / f"{name}.png") for folder in (IMAGES, drawn))
    assert old.shape == new.shape and np.abs(old - new).mean() < 0.005, "run: make figures"


def test_drawn_twice_the_bytes_are_the_same(drawn, tmp_path):
    main(tmp_path)
    for file in tmp_path.iterdir():
        assert file.read_bytes() == (drawn / file.name).read_bytes()
        assert file.suffix == ".png" or "Matplotlib v" not in file.read_text()
    assert {file.name for file in tmp_path.iterdir()} == {
        f"{name}.{kind}" for name in PICTURES for kind in ("png", "svg")
    }


def overlaps(figure):
    """Pairs of texts that lie on each other, and texts that leave the figure."""
    figure.canvas.draw()
    inside = figure.bbox
    texts = [text for axes in figure.axes for text in axes.texts]
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts if text.get_text()]
    for (a, one), (b, other) in combinations(boxes, 2):
        if one.overlaps(other):
            yield a, b
    for a, one in boxes:
        if not (inside.x0 <= one.x0 and one.x1 <= inside.x1 and inside.y0 <= one.y0 and one.y1 <= inside.y1):
            yield a, "the edge"


def names_leave_their_box(figure):
    """Names of stations that are wider than their box."""
    figure.canvas.draw()
    axes = figure.axes[0]
    width = np.diff(axes.transData.transform([(0, 0), (figures.BOX[0], 0)])[:, 0])[0]
    names = {box.name for box in BOXES.values()}
    return [t.get_text() for t in axes.texts if t.get_text() in names and t.get_window_extent().width > width]


@pytest.mark.parametrize("draw", [*PICTURES.values(), *(lambda n=n: roadmap(n) for n in STOPS)])
def test_texts_do_not_overlap_and_stay_inside(draw):
    figure = draw()
    assert list(overlaps(figure)) == [] and names_leave_their_box(figure) == []


def test_weights_in_the_picture_of_the_gradient_are_those_of_the_loss():
    """Each pair's two bars are σ(−margin) up and down, and its point lies on the curve."""
    curve, pull = dpo_gradient().axes[1:]
    line, *points = curve.lines
    margins = np.array([float(point.get_xdata()[0]) for point in points])
    weights = dpo_gradient_weight(torch.tensor(margins), torch.zeros(3, dtype=torch.float64)).numpy()
    assert np.allclose([float(point.get_ydata()[0]) for point in points], weights)
    assert np.allclose(np.interp(margins, line.get_xdata(), line.get_ydata()), weights, atol=1e-3)
    heights = np.array([bar.get_height() for bar in pull.patches]).reshape(3, 2)
    assert np.allclose(heights, np.stack([weights, -weights], 1))
    labels = [text.get_text() for text in pull.get_xticklabels()]
    assert labels == [f"pair {name}\nmargin {m:.0f}".replace("-", "−") for name, m in zip("ABC", margins, strict=True)]


def test_short_cut_has_both_ways_and_the_same_policy():
    shown = [text.get_text() for text in dpo_shortcut().axes[0].texts]
    assert shown.count("Policy") == 2 and {"PPO", "DPO"} < set(shown)
    assert r"$-\log\,\sigma(\hat r_w-\hat r_l)$" in shown


def test_test_of_overlap_sees_one():
    figure = rlhf_pipeline()
    figure.axes[0].text(*BOXES["sft"].at, "on the SFT model")
    figure.axes[0].text(-1, 1, "outside")
    assert len(list(overlaps(figure))) >= 2


@pytest.mark.parametrize("highlight", [*BOXES, "leash"])
def test_highlight_changes_the_picture_and_not_its_layout(highlight):
    plain, marked = rlhf_pipeline(), rlhf_pipeline(highlight)
    for figure in (plain, marked):
        figure.canvas.draw()
    assert not np.array_equal(plain.canvas.buffer_rgba(), marked.canvas.buffer_rgba())
    assert [t.get_position() for t in plain.axes[0].texts] == [t.get_position() for t in marked.axes[0].texts]


@pytest.mark.parametrize("stop", STOPS)
def test_roadmap_numbers_all_stops_and_names_the_present_one(stop):
    shown = [text.get_text() for text in roadmap(stop).axes[0].texts]
    assert [text for text in shown if text.isdigit()] == [f"{n:02d}" for n in STOPS]
    assert f"You are here: {stop:02d} · {STOPS[stop][1]}" in shown


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="highlight: got 'sftt', expected one of"):
        rlhf_pipeline("sftt")
    last = max(STOPS)
    with pytest.raises(ValueError, match=f"stop: got {last + 1}, expected a whole number from 0 to {last}"):
        roadmap(last + 1)
