"""The report of a run as one page, report.html: what report.md and samples.md say, with the pictures inside.

Nothing is asked of any other file or address, so the page can be sent to somebody as it is. Texts of models come from
the Markdown, where they are escaped, and HTML in it stays text.
"""

import base64
import html
from collections.abc import Sequence
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1f2328; --line: #c8ccd0; --quiet: #57606a; --link: #0550ae; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #0d1117; --ink: #e6edf3; --line: #444c56; --quiet: #9aa4ae; --link: #6cb6ff; }
}
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 62rem; margin: 0 auto; padding: 1rem; }
body { overflow-wrap: break-word; background: var(--paper); color: var(--ink); }
h1, h2 { line-height: 1.2; }
h2 { margin-top: 2rem; border-top: 1px solid var(--line); padding-top: 1rem; }
a { color: var(--link); }
p > em:only-child { color: var(--quiet); }
img { max-width: 100%; height: auto; background: white; border-radius: 4px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { border: 1px solid var(--line); padding: .25rem .5rem; text-align: left; vertical-align: top; }
summary { font-size: 1.3rem; font-weight: bold; cursor: pointer; margin-top: 2rem; }
"""
ANSWERS = "answers"
"""Where the page has what samples.md holds."""


def page(folder: Path, report: str) -> str:
    """The HTML of `report`, the text of report.md, with the answers in the samples.md of `folder` and its plots.

    Raises OSError where one of these files cannot be read.
    """
    title = report.splitlines()[0].lstrip("# ").replace("`", "")
    samples = (folder / "samples.md").read_text(encoding="utf-8")
    heading, _, answers = samples.partition("\n")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
{_html(report, folder)}<details id="{ANSWERS}">
<summary>{html.escape(heading.lstrip("# "))}</summary>
{_html(answers, folder)}</details>
</main>
</body>
</html>
"""


def _html(markdown: str, folder: Path) -> str:
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = reader.parse(markdown)
    _take_in(tokens, folder)
    text: str = reader.renderer.render(tokens, reader.options, {})
    # A wide table is scrolled by itself, also with the keyboard: the page stays as wide as the screen.
    opening = '<div class="wide" tabindex="0" role="region" aria-label="table">\n<table>'
    return text.replace("<table>", opening).replace("</table>", "</table>\n</div>")


def _take_in(tokens: Sequence[Token], folder: Path) -> None:
    """Put pictures in the place of their addresses, and the answers in the place of their file."""
    for token in tokens:
        if token.type == "image":
            picture = base64.b64encode((folder / str(token.attrs["src"])).read_bytes()).decode()
            token.attrs["src"] = f"data:image/png;base64,{picture}"
        elif token.type == "link_open" and token.attrs["href"] == "samples.md":
            token.attrs["href"] = f"#{ANSWERS}"
        _take_in(token.children or (), folder)
