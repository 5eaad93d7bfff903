#!/usr/bin/env python3
"""Slides: `python tools/build_slides.py FOLDER` makes FOLDER/NN.html of each docs/slides/NN.md, and NN.pdf where there
is a Chromium. `make slides` is the same.

A deck belongs to the notebook of its number. Slides are separated by lines `---`; what follows `Note:` is for whoever
speaks, and begins with the time, `Note: 4 min.`. What a notebook has is not written again: a line

    {figure 3}      is the stored picture over the caption "Figure 3", or over the third where they have no numbers
    {figure 3 0-8 40-60}    of it the bands between these hundredths of its height, one under the other;
                    0-50x40-60 is the left half of the second
    {equation 3}    the formula with that number
    {poll 2}        the question and the answers of the second prediction

reveal.js and MathJax come from npm and lie beside the decks, so that they are shown without a network.
"""

from __future__ import annotations

import base64
import html
import io
import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SLIDES = ROOT / "docs" / "slides"
REVEAL = "reveal.js@6.0.2"
DIRECTIVE = re.compile(r"(?m)^\{(figure|equation|poll) (\w+(?: [\d.x-]+)*)\}$")
TIME = re.compile(r"^(\d+) min\.")
MARK = re.compile(r'(<span class="math inline">[^<]*</span>[.,;:?!)])')
"""A formula in the text and the mark behind it, which should not begin a line."""
EMPTY = 20_000
"""Bytes; a printed deck takes hundreds of thousands."""
STYLE = """
:root { --ink: #1c2733; --accent: #0b5cad; }
.reveal { font: 34px/1.35 system-ui, sans-serif; color: var(--ink); }
.reveal .slides { text-align: left; }
.reveal h1, .reveal h2 { color: var(--accent); line-height: 1.15; margin: 0 0 .6em; }
.reveal h1 { font-size: 62px; margin-top: 2.4em; }
.reveal h2 { font-size: 46px; }
.reveal p, .reveal ul, .reveal ol, .reveal table { margin: .5em 0; }
.reveal img { display: block; margin: 0 auto; width: 100%; height: 440px; object-fit: contain; }
.reveal .slides section { padding: 20px 36px; box-sizing: border-box; width: 1280px; }
.reveal .poll { border-left: 8px solid var(--accent); padding-left: 24px; }
.reveal .poll ul { list-style: none; padding: 0; }
.reveal pre { font-size: 26px; line-height: 1.3; background: #eef2f6; padding: 12px 18px; }
.reveal .formula { font-size: 42px; }
.reveal .whole { white-space: nowrap; }
.reveal td code { font: inherit; color: #8a4500; }
.reveal h2 + p:nth-last-child(2) img { height: 560px; }
.reveal p:has(+ table) img { height: 300px; }
.reveal .slide-number { right: auto; left: 8px; }
.reveal td, .reveal th { padding: .15em .6em; border-bottom: 1px solid #b8c2cc; }
"""


@dataclass
class Notebook:
    """What slides may show of a notebook, and every word of it that is prose or printed."""

    figures: dict[str, str] = field(default_factory=dict)
    """PNG in base64, by the number in the caption."""
    equations: dict[str, str] = field(default_factory=dict)
    polls: dict[str, str] = field(default_factory=dict)
    words: str = ""


@dataclass(frozen=True)
class Slide:
    """One slide: its Markdown, the minutes that it takes, and what its speaker should know."""

    text: str
    minutes: int
    notes: str


def notebook(number: str) -> Notebook:
    """The solved edition of the notebook with this number."""
    (path,) = (ROOT / "solutions").glob(f"{number}_*.ipynb")
    found, pictures = Notebook(), []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code":
            for output in cell["outputs"]:
                picture = output.get("data", {}).get("image/png")
                pictures += [] if picture is None else ["".join(picture)]
                found.words += "".join(output.get("text", output.get("data", {}).get("text/plain", ""))) + "\n"
            continue
        found.words += source + "\n"
        captions = re.findall(r"(?m)^\*(Roadmap|Figure ?\w*)[.,:]", source)
        if captions and len(pictures) >= len(captions):
            for caption, picture in zip(captions, pictures[-len(captions) :], strict=True):
                if caption != "Roadmap":
                    name = caption.removeprefix("Figure").strip() or str(len(found.figures) + 1)
                    found.figures[name] = picture
            pictures = []
        for formula in source.split("$$")[1::2]:
            if tag := re.search(r"\\tag\{(\w+)\}", formula):
                found.equations[tag[1]] = " ".join(formula.split())
        if question := re.search(r"(?s)(?:\*\*Predict|^### Predict:).*?(?:\n- .*?)+(?=\n\n|\Z)", source):
            found.polls[str(len(found.polls) + 1)] = re.sub(r"^### (.*)", r"**\1**", question[0])
    return found


def deck(path: Path) -> list[Slide]:
    """The slides of a source. ValueError for one without notes that begin with its time."""
    slides = []
    for part in re.split(r"(?m)^---$", path.read_text(encoding="utf-8")):
        text, mark, notes = part.partition("\nNote:")
        time = TIME.match(notes.strip())
        if not mark or not time:
            raise ValueError(f"{path.name}: expected `Note: N min.` at the end of the slide\n{text.strip()}")
        slides.append(Slide(text.strip(), int(time[1]), notes.strip()[time.end() :].strip()))
    return slides


def cut(png: str, parts: list[str]) -> str:
    """Of a picture in base64 the parts "TOP-BOTTOM" or "LEFT-RIGHTxTOP-BOTTOM", in hundredths, one under the other."""
    from PIL import Image

    whole, boxes = Image.open(io.BytesIO(base64.b64decode(png))), []
    for part in parts:
        sides = [float(side) for side in re.findall(r"[\d.]+", part if "x" in part else f"0-100x{part}")]
        x, y = ([round(side * size / 100) for side in sides] for size in whole.size)
        boxes.append(whole.crop((x[0], y[2], x[1], y[3])))
    stack, above = Image.new(whole.mode, (max(box.width for box in boxes), sum(box.height for box in boxes))), 0
    for box in boxes:
        stack.paste(box, (0, above))
        above += box.height
    stack.save(written := io.BytesIO(), "PNG")
    return base64.b64encode(written.getvalue()).decode()


def expanded(text: str, source: Notebook) -> str:
    """A slide's Markdown with pictures, formulas and questions in the places of their directives. KeyError for one that
    the notebook does not have."""

    def put(found: re.Match[str]) -> str:
        kind, name = found.groups()
        if kind == "figure":
            name, *parts = name.split()
            picture = cut(source.figures[name], parts) if parts else source.figures[name]
            return f"![Figure {name}](data:image/png;base64,{picture})"
        if kind == "equation":
            return f"$${source.equations[name]}$$"
        return f'<div class="poll">\n\n{source.polls[name]}\n\n</div>'

    return DIRECTIVE.sub(put, text)


def page(path: Path) -> str:
    """The HTML of a deck."""
    from markdown_it import MarkdownIt
    from mdit_py_plugins.dollarmath import dollarmath_plugin

    def formula(content: str, options: dict[str, bool]) -> str:
        if options["display_mode"]:
            return f'<span class="formula">\\[{html.escape(content)}\\]</span>'
        return f"\\({html.escape(content)}\\)"

    reader = MarkdownIt("commonmark", {"html": True}).enable("table")
    reader.validateLink = lambda address: True  # pictures are data here, and the sources are the course's own
    reader.use(dollarmath_plugin, renderer=formula, double_inline=True)
    source, sections = notebook(path.stem), []
    for slide in deck(path):
        shown = MARK.sub(r'<span class="whole">\1</span>', reader.render(expanded(slide.text, source)))
        notes = reader.render(f"**{slide.minutes} min.** {slide.notes}")
        sections.append(f'<section>\n{shown}<aside class="notes">{notes}</aside>\n</section>\n')
    title = deck(path)[0].text.splitlines()[0].lstrip("# ")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<link rel="stylesheet" href="reveal/reveal.css">
<style>{STYLE}</style>
</head>
<body>
<div class="reveal"><div class="slides">
{"".join(sections)}</div></div>
<script>MathJax = {{ chtml: {{ matchFontHeight: false }}, options: {{ enableMenu: false }} }};</script>
<script src="mathjax/tex-chtml-full.js"></script>
<script src="reveal/reveal.js"></script>
<script src="reveal/plugin/notes.js"></script>
<script>
MathJax.startup.promise.then(() => {{
  for (const formula of document.querySelectorAll(".formula")) {{  // as large as its slide is wide
    const slide = formula.closest("section"), line = formula.parentElement;
    slide.style.display = "block";
    let size = 42;
    while (line.scrollWidth > line.clientWidth && size > 20) formula.style.fontSize = `${{--size}}px`;
    slide.style.display = "";
  }}
  return Reveal.initialize({{
    width: 1280, height: 720, margin: 0.03, center: false, hash: true, slideNumber: "c/t", plugins: [RevealNotes],
  }});
}});
</script>
</body>
</html>
"""


def write_pdf(chromium: str, target: Path) -> None:
    """Print a deck beside it. What is printed before its formulas are set is nearly empty, and is printed again."""
    words = ["--headless", "--no-sandbox", "--no-pdf-header-footer", "--virtual-time-budget=600000"]
    address, pdf = f"{target.resolve().as_uri()}?print-pdf", target.with_suffix(".pdf")
    for _ in range(3):
        subprocess.run([chromium, *words, f"--print-to-pdf={pdf}", address], check=True, capture_output=True)
        if pdf.stat().st_size > EMPTY:
            print(f"wrote {pdf}")
            return
    pdf.unlink()
    print(f"{pdf.name} came out empty: open {address} in a browser and print it")


def main(folder: Path) -> None:
    """Build every deck."""
    from tools.build_site import add_from_npm, add_mathjax

    folder.mkdir(parents=True, exist_ok=True)
    npm = folder.parent / "npm"
    add_mathjax(folder, npm)
    parts = add_from_npm(REVEAL, npm) / "dist"
    for name in ("reveal.css", "reveal.js", "plugin/notes.js"):
        (folder / "reveal" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(parts / name, folder / "reveal" / name)
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    for path in sorted(SLIDES.glob("[0-9][0-9].md")):
        target = folder / f"{path.stem}.html"
        target.write_text(page(path), encoding="utf-8")
        print(f"wrote {target}")
        if chromium:
            write_pdf(chromium, target)
    if not chromium:
        print("no Chromium here: no PDF; open NN.html?print-pdf in a browser and print it")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "build/slides"))
