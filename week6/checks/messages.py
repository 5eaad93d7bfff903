"""What a student sees: one text, shown as HTML in a notebook and as plain text elsewhere."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from typing import Literal

from IPython.display import display

Kind = Literal["correct", "not yet", "not attempted", "hint", "solution", "note", "prediction"]

_HEADS: dict[Kind, tuple[str, str, str]] = {  # icon, words, colour
    "correct": ("✓", "Correct", "#1a7f37"),
    "not yet": ("✗", "Not yet", "#cf222e"),
    "not attempted": ("○", "Not attempted", "#6e7781"),
    "hint": ("→", "Hint", "#0969da"),
    "solution": ("→", "Solution", "#0969da"),
    "note": ("→", "Note", "#0969da"),
    "prediction": ("→", "Your prediction", "#0969da"),
}
_EMPHASIS = re.compile(r"(?<![\w*])\*([A-Za-z](?:[A-Za-z '-]*[A-Za-z])?)\*(?![\w*])")  # words only: π* and a * b stay


@dataclass(frozen=True)
class Message:
    """A verdict, hint, solution or note on one question. Truthy if the verdict is "correct"."""

    kind: Kind
    title: str
    text: str = ""
    code: str = ""

    def __bool__(self) -> bool:
        return self.kind == "correct"

    @property
    def _head(self) -> str:
        icon, words, _ = _HEADS[self.kind]
        colon = "" if self.title.endswith("?") else ":"
        return f"{icon} {self.title}{colon} {words}."

    def __repr__(self) -> str:
        head = f"{self._head} {self.text}".rstrip()
        return f"{head}\n{self.code.rstrip()}" if self.code else head

    def _repr_html_(self) -> str:
        """The same text. MathJax must leave it alone: a student's dollar sign is no formula."""
        _, _, colour = _HEADS[self.kind]
        prose_and_code = re.split(r"`([^`\n]+)`", html.escape(self.text))  # in turns
        text = "".join(
            f"<code>{part}</code>" if i % 2 else _EMPHASIS.sub(r"<em>\1</em>", part)
            for i, part in enumerate(prose_and_code)
        )
        code = f"<pre>{html.escape(self.code.rstrip())}</pre>" if self.code else ""
        return (
            f'<div role="status" class="tex2jax_ignore mathjax_ignore" '
            f'style="border-left:4px solid {colour};padding:2px 10px;white-space:pre-wrap">'
            f"<b>{html.escape(self._head)}</b> {text}{code}</div>"
        )

    def show(self) -> None:
        """Display it in the notebook; print it where there is none."""
        display(self)  # type: ignore[no-untyped-call]
