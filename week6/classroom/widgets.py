"""Sliders, live dashboards and the chat window for notebooks. Only core ipywidgets, and no Output widget: front ends
differ in what they make of it."""

import base64
import html
import io
import time
import warnings
from collections.abc import Callable, Iterable, Sequence

import ipywidgets
import matplotlib.pyplot as plt
import pandas as pd
from IPython.core.getipython import get_ipython
from IPython.display import display
from matplotlib.figure import Figure

from week6.chat.session import TEMPERATURES, ChatSession, Reply, Turn
from week6.pictures.plots import POLICIES


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
    natural_size = ipywidgets.Layout(align_self="flex-start", max_width="100%")  # a box would stretch it to the page
    picture = ipywidgets.Image(format="png", layout=natural_size)
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


def live(
    rows: Iterable[dict[str, float]],
    plot: Callable[[pd.DataFrame], Figure],
    seconds: float = 1.0,
    clock: Callable[[], float] = time.perf_counter,
) -> pd.DataFrame:
    """Run a training loop to its end and draw its metrics meanwhile; returns them, one row a step.

    Each row that the loop yields is one step. The picture is redrawn in place, at most once in `seconds` and for at
    most a fifth of the time. At the end a line of text takes its place: show `plot(metrics)` in the next cell, where
    a stored notebook keeps it. An error in the loop or in `plot` is raised. Without a notebook nothing is drawn.
    """
    table: list[dict[str, float]] = []
    if get_ipython() is None:
        return pd.DataFrame(list(rows))
    picture = ipywidgets.Image(format="png")
    shown = display(_view(picture), raw=True, display_id=True)  # type: ignore[no-untyped-call]
    start = clock()
    due = start
    try:
        for row in rows:
            table.append(dict(row))
            now = clock()
            if now >= due:
                picture.value = _png(plot(pd.DataFrame(table)), dpi=70, tight=False)
                drawn = clock()
                due = drawn + max(seconds, 4 * (drawn - now))
    finally:
        picture.close()
        line = f"{len(table)} steps in {clock() - start:.0f} s"
        shown.update({"text/plain": line}, raw=True)
    return pd.DataFrame(table)


def _view(widget: ipywidgets.DOMWidget) -> dict[str, object]:
    """What shows a widget, as data: ipywidgets 7 draws its widgets itself, and drops the id of the display."""
    return {
        "text/plain": "",
        "application/vnd.jupyter.widget-view+json": {
            "version_major": 2,
            "version_minor": 0,
            "model_id": widget.model_id,
        },
    }


LARGEST_LOG_RATIO = 3.0
"""Nats at which the heat map has its full colour."""
_RAISED, _LOWERED = (0, 114, 178), (213, 94, 0)  # blue and orange, as in the plots


def chat_window(session: ChatSession) -> ipywidgets.VBox:
    """Talk with all policies of a session at once; the answers stand side by side, with their implicit rewards.

    Whatever goes wrong is shown in place of the hint under the text box; the conversation and the typed message stay.
    """
    wide = ipywidgets.Layout(width="99%")
    text = ipywidgets.Text(placeholder="Write a message", layout=ipywidgets.Layout(flex="1 1 auto"))
    send = ipywidgets.Button(description="Send", button_style="primary")
    clear, export = ipywidgets.Button(description="Clear"), ipywidgets.Button(description="Export")
    low, high = TEMPERATURES
    temperature = ipywidgets.FloatSlider(
        value=1.0,
        min=max(low, 0.1),
        max=min(high, 2.0),
        step=0.1,
        description="temperature",
        continuous_update=False,
        style={"description_width": "initial"},
        readout_format=".1f",
    )
    seed = ipywidgets.BoundedIntText(
        value=0, min=0, max=9999, description="seed", layout=ipywidgets.Layout(width="12em")
    )
    memory = ipywidgets.Checkbox(value=session.memory is None, description="see earlier turns", indent=False)
    transcript = ipywidgets.HTML(value=transcript_html(session), layout=wide)
    said = ipywidgets.HTML()
    link = ipywidgets.HTML()
    exported = ipywidgets.Textarea(layout=ipywidgets.Layout(width="99%", height="8em", display="none"))
    few = session.memory

    def say(message: str = "") -> None:
        said.value = f"<span role='status'>{html.escape(message)}</span>"

    def guarded(action: Callable[[], None]) -> Callable[[object], None]:
        def run(_: object) -> None:
            send.disabled = True
            try:
                say()
                action()
            except ValueError as error:  # the session's own messages among them
                say(str(error))
            except Exception as error:
                say(f"Something went wrong: {type(error).__name__}: {error}")
            finally:
                send.disabled = False

        return run

    def on_send() -> None:
        session.memory = None if memory.value else (0 if few is None else few)
        session.send(text.value, float(temperature.value), int(seed.value))
        text.value = ""
        transcript.value = transcript_html(session)

    def on_clear() -> None:
        session.clear()
        transcript.value = transcript_html(session)
        link.value, exported.value, exported.layout.display = "", "", "none"

    def on_export() -> None:
        exported.value, exported.layout.display = session.export(), ""
        data = base64.b64encode(exported.value.encode()).decode()
        link.value = f"<a download='chat.json' href='data:application/json;base64,{data}'>Save as chat.json</a>"

    send.on_click(guarded(on_send))
    clear.on_click(guarded(on_clear))
    export.on_click(guarded(on_export))
    with warnings.catch_warnings():  # the Enter key: ipywidgets 8 would rather have `observe`, which cannot see it
        warnings.simplefilter("ignore", DeprecationWarning)
        text.on_submit(guarded(on_send))
    return ipywidgets.VBox(
        [
            transcript,
            ipywidgets.HBox([text, send], layout=wide),
            said,
            ipywidgets.HBox([temperature, seed, memory]),
            ipywidgets.HBox([clear, export, link]),
            exported,
        ],
        layout=wide,
    )


def transcript_html(session: ChatSession, whole: bool = False) -> str:
    """The conversation as HTML, a column for each policy, each token coloured by its implicit reward.

    All that users and models wrote is escaped. Raised and lowered tokens differ in colour and in the line under them,
    so that the picture can be read in grey. A long conversation scrolls, unless it is shown `whole`.
    """
    names = list(session.policies)
    columns = f"display:grid;grid-template-columns:repeat({len(names)},minmax(0,1fr));gap:6px 14px"
    heads = "".join(f"<b>{_label(name)}</b>" for name in names)
    turns = "".join(_turn_html(session, turn, columns) for turn in session.turns)
    if not turns:
        turns = "<p style='opacity:.7'>Nothing said yet.</p>"
    log = (  # the outer box keeps the newest turn in sight
        f"<div style='{'' if whole else 'max-height:420px;overflow:auto;'}display:flex;flex-direction:column-reverse'>"
        f"<div role='log'>{turns}</div></div>"
    )
    frame = "border:1px solid rgba(128,128,128,.5);border-radius:6px;padding:8px 12px;line-height:1.6"
    return f"<div style='{frame}'><div style='{columns}'>{heads}</div>{log}{_legend(session)}</div>"


def _turn_html(session: ChatSession, turn: Turn, columns: str) -> str:
    notes = "".join(f"<div style='opacity:.8'><i>{html.escape(note)}</i></div>" for note in turn.notes)
    cells = "".join(
        f"<div>{_reply_html(session, name, turn.replies[name]) if name in turn.replies else ''}</div>"
        for name in session.policies
    )
    line = "border-top:1px solid rgba(128,128,128,.4);margin-top:6px;padding-top:6px"
    about = f"temperature {turn.temperature:g}, seed {turn.seed}"
    return (
        f"<div style='{line}' title='{about}'><b>You:</b> {html.escape(turn.user)}</div>{notes}"
        f"<div style='{columns}'>{cells}</div>"
    )


def _reply_html(session: ChatSession, name: str, reply: Reply) -> str:
    if reply.rewards is None or reply.log_ratios is None:
        return html.escape(reply.text) + ("" if reply.finished else " …")
    spans = []
    for i, (piece, ratio, reward) in enumerate(zip(reply.pieces, reply.log_ratios, reply.rewards, strict=True)):
        ending = reply.finished and i == len(reply.pieces) - 1
        space = " " if piece.startswith(" ") or ending else ""
        word = "&#9632;" if ending else html.escape(piece.strip() or "·")
        about = (
            f"{piece.strip()}: implicit reward {reward:+.3f}, log-ratio {ratio:+.3f} nats, β = {session.betas[name]:g}"
        )
        spans.append(f"{space}<span title='{html.escape(about)}' style='{_heat(ratio)}'>{word}</span>")
    total = f"<br><small>implicit reward {sum(reply.rewards):+.2f}</small>"
    return "".join(spans) + ("" if reply.finished else " …") + total


def _heat(log_ratio: float) -> str:
    r, g, b = _RAISED if log_ratio > 0 else _LOWERED
    strength = min(1.0, abs(log_ratio) / LARGEST_LOG_RATIO)
    line = "" if strength < 0.05 else f";border-bottom:2px {'solid' if log_ratio > 0 else 'dotted'} rgb({r},{g},{b})"
    return f"background:rgba({r},{g},{b},{0.55 * strength:.2f}){line};border-radius:2px;padding:0 1px"


def _legend(session: ChatSession) -> str:
    if not session.betas:
        return ""
    n = LARGEST_LOG_RATIO
    steps = "".join(
        f"<span style='{_heat(x)}'>&nbsp;{f'{x:+g}' if x else '0'}&nbsp;</span>" for x in (-n, -n / 2, 0, n / 2, n)
    )
    betas = ", ".join(f"{_label(name)} {beta:g}" for name, beta in session.betas.items())
    return (
        "<div style='margin-top:8px;font-size:90%'>"
        f"log π − log π<sub>{_label(session.reference)}</sub> (nats): {steps} "
        f"· implicit reward = β times that; β: {betas}"
        " · &#9632; end of the answer · point at a word for its numbers</div>"
    )


def _label(name: str) -> str:
    return html.escape(POLICIES[name][0] if name in POLICIES else name)


def _png(figure: Figure, dpi: float | str = "figure", tight: bool = True) -> bytes:
    """The figure as PNG. It is closed, so that the notebook does not show it a second time."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight" if tight else None)
    plt.close(figure)
    return buffer.getvalue()
