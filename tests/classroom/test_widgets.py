"""Live dashboards, in a kernel without a front end and outside of any kernel."""

import matplotlib.pyplot as plt
import nbformat
import pandas as pd
import pytest
from ipywidgets import Image
from nbclient import NotebookClient

from week6.classroom import widgets
from week6.classroom.widgets import LARGEST_LOG_RATIO, _heat
from week6.pictures import plots
from week6.run.training import MetricsWriter

COLUMNS = (
    "score", "gold", "kl", "entropy", "clip_fraction", "first_ratio_deviation", "explained_variance", "length", "beta",
)  # fmt: skip


def rows(n):
    return ({"step": i, **{name: (i + 1) / (3 + j) for j, name in enumerate(COLUMNS)}} for i in range(n))


class Shown:
    """Stands for a notebook: remembers every picture that the widget showed and what replaced it at the end."""

    def __init__(self, monkeypatch):
        self.widget, self.pictures, self.last = None, [], None
        monkeypatch.setattr(widgets, "get_ipython", lambda: self)
        monkeypatch.setattr(widgets, "display", self.display)
        monkeypatch.setattr(widgets.ipywidgets, "Image", self.image)

    def image(self, **options):
        self.widget = Image(**options)
        self.widget.observe(lambda change: self.pictures.append(bytes(change.new)), names="value")
        return self.widget

    def display(self, data, raw, display_id):
        """Data with an id, not the widget: before ipywidgets 8 a widget is displayed without one."""
        assert raw and display_id
        assert data["application/vnd.jupyter.widget-view+json"]["model_id"] == self.widget.model_id
        return self

    def update(self, data, raw):
        assert raw
        self.last = data


def plot(table):
    figure, axes = plt.subplots(figsize=(2, 1))
    axes.plot(table["step"], table["kl"])
    axes.set_title(str(len(table)))
    return figure


@pytest.mark.parametrize(
    ("a_step_takes", "a_drawing_takes", "drawn"), [(0.5, 0, 5), (0.01, 0, 1), (1, 1, 3), (3, 0, 10)]
)
def test_it_draws_at_most_once_a_second_and_a_fifth_of_the_time(monkeypatch, a_step_takes, a_drawing_takes, drawn):
    shown, now, lengths = Shown(monkeypatch), [100.0], []

    def training():
        for row in rows(10):
            now[0] += a_step_takes
            yield row

    def slow_plot(table):
        now[0] += a_drawing_takes
        lengths.append(len(table))
        return plot(table)

    table = widgets.live(training(), slow_plot, clock=lambda: now[0])
    assert len(lengths) == len(shown.pictures) == drawn and lengths[0] == 1
    assert all(picture.startswith(b"\x89PNG") for picture in shown.pictures) and len(set(shown.pictures)) == drawn
    assert len(table) == 10 and shown.widget.comm is None  # closed: the front end holds no dead view
    assert shown.last == {"text/plain": f"10 steps in {10 * a_step_takes + drawn * a_drawing_takes:.0f} s"}
    assert plt.get_fignums() == []


def test_errors_are_raised_and_the_widget_is_closed(monkeypatch):
    shown = Shown(monkeypatch)

    def breaks():
        yield from rows(2)
        raise ValueError("loss: got nan")

    with pytest.raises(ValueError, match="got nan"):
        widgets.live(breaks(), plot)
    assert shown.widget.comm is None and shown.last["text/plain"].startswith("2 steps")
    with pytest.raises(ZeroDivisionError):
        widgets.live(rows(2), lambda table: 1 / 0)


def test_outside_a_notebook_nothing_is_drawn():
    table = widgets.live(rows(3), lambda table: pytest.fail("drawn"))
    assert list(table["step"]) == [0, 1, 2]


def test_the_figure_afterwards_is_the_one_from_metrics_csv(tmp_path):
    table = widgets.live(rows(12), plots.ppo_dashboard)
    writer = MetricsWriter(tmp_path / "ppo.csv", 0)
    for row in rows(12):
        writer.write(row)
    writer.close()
    # Before pandas 3 the last digit of what is read may differ from what was written.
    written, read = table.round(12), pd.read_csv(tmp_path / "ppo.csv").round(12)
    pd.testing.assert_frame_equal(written, read, check_exact=True)
    assert widgets._png(plots.ppo_dashboard(written)) == widgets._png(plots.ppo_dashboard(read))


def test_in_a_kernel_the_cell_keeps_a_line_of_text_and_no_image(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    source = """
from week6.classroom import widgets
from week6.pictures import plots
rows = ({"step": i, "kl": i / 7, "score": 0.1 * i} for i in range(400))
metrics = widgets.live(rows, plots.ppo_dashboard, seconds=0)
"""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    outputs = [o for o in notebook.cells[0].outputs if o.get("name") != "stderr"]
    assert [set(output["data"]) for output in outputs] == [{"text/plain"}]
    assert outputs[0]["data"]["text/plain"].startswith("400 steps in ")


def test_a_token_is_told_by_its_line_where_colours_are_not_seen():
    """Solid where the policy says it more often than the reference, dotted where less, none where it hardly matters."""
    lines = {share: _heat(share * LARGEST_LOG_RATIO) for share in (-2, -1, -0.051, -0.049, 0, 0.049, 0.051, 0.5, 1, 2)}
    kinds = {x: "solid" if "solid" in s else "dotted" if "dotted" in s else "" for x, s in lines.items()}
    assert kinds == {x: "" if abs(x) < 0.05 else "solid" if x > 0 else "dotted" for x in lines}
    assert (
        lines[1] == lines[2] != lines[0.5] and lines[-1] == lines[-2] and "0.55)" in lines[1] and "0.28)" in lines[0.5]
    )
