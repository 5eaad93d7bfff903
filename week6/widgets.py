"""Sliders for notebooks. Only core ipywidgets, and no Output widget: front ends differ in what they make of it."""

import html
import io
from collections.abc import Callable, Sequence

import ipywidgets
import matplotlib.pyplot as plt
from matplotlib.figure import Figure


def slider(
    plot: Callable[[float], Figure], name: str, values: Sequence[float], start: float | None = None
) -> ipywidgets.VBox:
    """A slider over `values` and the figure that `plot` draws for the one it stands on.

    The figure is drawn when the slider is let go. An error in `plot` is shown in place of the figure. `start` is the
    first value that is shown, the middle one if it is left out. Raises ValueError for no values, or a start that is not
    among them.
    """
    if len(values) == 0:
        raise ValueError("values: got none, expected at least one number")
    if start is not None and start not in values:
        raise ValueError(f"start: got {start!r}, expected one of {list(values)}")
    control = ipywidgets.SelectionSlider(
        options=[(f"{value:g}", value) for value in values],
        value=values[len(values) // 2] if start is None else start,
        description=name,
        continuous_update=False,
    )
    picture = ipywidgets.Image(format="png")
    error = ipywidgets.HTML()

    def draw(*_: object) -> None:
        try:
            picture.value, error.value = _png(plot(control.value)), ""
        except Exception as problem:
            text = html.escape(f"{type(problem).__name__}: {problem}")
            picture.value, error.value = b"", f'<pre role="alert">No figure for {control.value:g}. {text}</pre>'
        picture.layout.display = "none" if error.value else ""

    control.observe(draw, names="value")
    draw()
    return ipywidgets.VBox([control, picture, error])


def _png(figure: Figure) -> bytes:
    """The figure as PNG. It is closed, so that the notebook does not show it a second time."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight")
    plt.close(figure)
    return buffer.getvalue()
