"""The pages: one of feedback for each submission, and one of the class. All that students wrote is escaped."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from html import escape

from week6.grading.marking import Marked
from week6.grading.points import Points
from week6.grading.table import SIGNS, Exercise, walls

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1f2328; }
table { border-collapse: collapse; width: 100%; } th, td { text-align: left; padding: .35rem .6rem; vertical-align: top;
border-bottom: 1px solid #d0d7de; } td.n { text-align: right; white-space: nowrap; } code { background: #eff1f3; }
.correct { color: #116329; } .not-yet { color: #a40e26; } .not-attempted { color: #57606a; }
p.text { margin: .2rem 0; white-space: pre-wrap; overflow-wrap: anywhere; } img { max-width: 100%; height: auto; }
"""


def file_name(marked: Marked) -> str:
    """Of a submission's page: the student's name as far as a disk takes it, and a key that no other has."""
    safe = re.sub(r"[^\w.-]+", "_", marked.student)[:60].strip("._") or "student"
    key = hashlib.sha256(f"{marked.student}\0{marked.file}".encode("utf-8", "replace")).hexdigest()[:8]
    return f"{safe}-{key}.html"


def feedback(marked: Marked, points: Points) -> str:
    """The page for the student: verdicts, and what each says. What is only for the teacher is not on it."""
    if marked.refused:
        return _page(f"Feedback: {marked.student}", f"<p>{escape(marked.refused)}</p>")
    rows = "".join(
        f'<tr><td>{escape(mark.title)}</td><td><b class="{mark.kind.replace(" ", "-")}">{SIGNS[mark.kind]} '
        f"{mark.kind}</b>{_text(mark.text)}</td>"
        f'<td class="n">{points.of(marked, mark.question, mark.kind):g} of '
        f"{points.worth(marked.module, mark.question):g}</td></tr>"
        for mark in marked.marks
    )
    total = f"{points.total(marked):g} of {points.most(marked.module):g} points"
    late = any(m.question == "capstone" and m.kind == "correct" for m in marked.marks) and marked.student in points.late
    note = f"<p>The capstone came late and counts {points.share:.0%}.</p>" if late else ""
    notes = "".join(f"<li>{escape(text)}</li>" for text in marked.notes)
    return _page(
        f"Feedback: {marked.student}",
        f"<p>Notebook {escape(marked.module[2:])}: <b>{total}</b>.</p>{note}"
        f"<table><thead><tr><th>Exercise</th><th>Verdict</th><th>Points</th></tr></thead><tbody>{rows}</tbody></table>"
        + (f"<p>About the file:</p><ul>{notes}</ul>" if notes else ""),
    )


def class_page(marked: Sequence[Marked], exercises: Sequence[Exercise], points: Points, chart: bytes) -> str:
    """The page for the teacher: a bar chart, what to repeat, every exercise, every submission."""
    graded = [m for m in marked if m.marks]
    picture = base64.b64encode(chart).decode()
    repeat = "".join(
        f"<li><b>{escape(e.title)}</b>: {e.correct} of {e.students} have it right, {e.not_attempted} did not try."
        + "".join(f"<br>{n} × {escape(name)}: {escape(message)}" for name, message, n in e.misconceptions[:3])
        + "</li>"
        for e in sorted(exercises, key=lambda e: e.share)
        if e.repeat
    )
    rows = "".join(
        f'<tr><td>{escape(e.title)}</td><td class="n">{e.share:.0%}</td><td class="n">{e.correct}</td>'
        f'<td class="n">{e.not_yet}</td><td class="n">{e.not_attempted}</td>'
        f"<td>{escape(', '.join(f'{name} ({n})' for name, _, n in e.misconceptions[:3]))}</td></tr>"
        for e in exercises
    )
    people = "".join(
        f'<tr><td><a href="feedback/{file_name(m)}">{escape(m.student)}</a></td><td>{escape(m.module)}</td>'
        + (
            f'<td class="n">{points.total(m):g} of {points.most(m.module):g}</td><td>{_list(m.all_flags)}</td></tr>'
            if m.marks
            else f'<td class="n">not graded</td><td>{escape(m.refused)}</td></tr>'
        )
        for m in marked
    )
    head = "".join(f"<p>{escape(line)}</p>" for line in walls(marked))
    return _page(
        "The class",
        f"<p>{len(graded)} submissions graded, {len(marked) - len(graded)} refused.</p>{head}"
        f'<h2>Share correct</h2><img alt="Bar chart: share of correct answers by exercise; the numbers are in '
        f'the table below" src="data:image/png;base64,{picture}">'
        f"<h2>What to repeat</h2>{f'<ul>{repeat}</ul>' if repeat else '<p>Nothing: most who tried have it right.</p>'}"
        "<h2>Exercises</h2><table><thead><tr><th>Exercise</th><th>Correct</th><th>✓</th><th>✗</th><th>○</th>"
        f"<th>Commonest ideas that are wrong</th></tr></thead><tbody>{rows}</tbody></table>"
        "<h2>Submissions</h2><table><thead><tr><th>Student</th><th>Notebook</th><th>Points</th><th>For you to look at"
        f"</th></tr></thead><tbody>{people}</tbody></table>",
    )


def _list(lines: Sequence[str]) -> str:
    return "<br>".join(escape(line) for line in lines)


def _text(text: str) -> str:
    """A verdict's text, with what stands in backticks as code."""
    marked_up = re.sub(r"`([^`\n]+)`", r"<code>\1</code>", escape(text))
    return f'<p class="text">{marked_up}</p>' if text else ""


def _page(title: str, body: str) -> str:
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; style-src '
        f"'unsafe-inline'\"><style>{STYLE}</style></head><body><main><h1>{escape(title)}</h1>{body}</main></body></html>\n"
    )
