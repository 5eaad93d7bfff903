"""The slider without a front end: moving it redraws the picture, and an error is shown instead of raised."""

import ipywidgets
import matplotlib.pyplot as plt
import pytest

from week6.classroom.widgets import slider


def plot(value):
    if value > 2:
        raise ValueError("<b>too large</b>")
    figure, axes = plt.subplots(figsize=(2, 1))
    axes.plot([0, value])
    return figure


def test_moving_it_redraws_the_picture():
    box = slider(plot, "β", [0.5, 1.0, 2.0])
    control, picture, error = box.children
    assert picture.layout.align_self == "flex-start"  # not stretched to the width of the page
    assert control.value == 1.0 and control.description == "β" and not control.continuous_update
    first = bytes(picture.value)
    assert first.startswith(b"\x89PNG") and error.value == ""
    control.value = 2.0
    assert bytes(picture.value).startswith(b"\x89PNG") and picture.value != first
    control.value = 1.0
    assert picture.value == first
    assert plt.get_fignums() == []  # nothing is left for the notebook to show a second time


def test_an_error_is_shown_escaped_and_goes_away():
    control, picture, error = slider(plot, "β", [1.0, 3.0], start=1.0).children
    control.value = 3.0
    assert "ValueError: &lt;b&gt;too large&lt;/b&gt;" in error.value and picture.layout.display == "none"
    control.value = 1.0
    assert error.value == "" and picture.layout.display != "none"


def test_only_core_widgets_and_no_output_widget():
    box = slider(plot, "β", [1.0])
    assert {type(child) for child in box.children} == {ipywidgets.SelectionSlider, ipywidgets.Image, ipywidgets.HTML}


@pytest.mark.parametrize(("values", "start"), [([], None), ([1.0], 2.0)])
def test_wrong_values_are_refused(values, start):
    with pytest.raises(ValueError, match="expected"):
        slider(plot, "β", values, start)
