"""Links of notebooks and README, offline: files and headings exist, pictures have alt texts, formulas are closed."""

import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"(?<!!)\[(?:[^\[\]]|!\[[^\]]*\]\([^)]*\))*\]\(([^)\s]+)\)")
IMAGE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)\)")
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
FILES = sorted(path for pattern in ("notebooks/*.ipynb", "solutions/*.ipynb", "*.md") for path in ROOT.glob(pattern))


def anchor(heading):
    """JupyterLab's and, in lower case and without punctuation, GitHub's."""
    plain = re.sub(r"[`$*]", "", heading.strip())
    return {plain.replace(" ", "-"), re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")}


def text(path):
    """All Markdown of a file, without code."""
    if path.suffix == ".md":
        return CODE.sub("", path.read_text())
    cells = nbformat.read(path, as_version=4).cells
    return "\n\n".join(CODE.sub("", cell.source) for cell in cells if cell.cell_type == "markdown")


def broken(body, folder):
    """What is wrong with the links, pictures and formulas of a text."""
    anchors = set().union(*(anchor(heading) for heading in re.findall(r"^#+ (.*)$", body, re.MULTILINE)))
    for target in LINK.findall(body) + [target for _, target in IMAGE.findall(body)]:
        if re.match(r"[a-z]+:", target):
            if not target.startswith("https://"):
                yield f"not https: {target}"
        elif target.startswith("#"):
            if target[1:] not in anchors:
                yield f"no such heading: {target}"
        elif not (folder / target.split("#")[0]).exists():
            yield f"no such file: {target}"
    yield from (f"no alt text: {target}" for alt, target in IMAGE.findall(body) if not alt.strip())
    for paragraph in re.split(r"\n\s*\n", body):
        dollars = re.sub(r"\\\$", "", paragraph)
        if dollars.count("$$") % 2 or dollars.replace("$$", "").count("$") % 2:
            yield f"a formula is not closed: {paragraph[:80]}"
        if dollars.count(r"\begin{") != dollars.count(r"\end{"):
            yield f"\\begin without \\end: {paragraph[:80]}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_links_pictures_and_formulas(path):
    assert list(broken(text(path), path.parent)) == []


@pytest.mark.parametrize(
    "body",
    [
        "[x](missing.md)",
        "[x](#nowhere)\n\n# Somewhere",
        "[x](http://example.org)",
        "![](https://example.org/a.png)",
        "[![badge](https://example.org/a.svg)](missing.ipynb)",
        "the value $x is",
        "$$\nx",
        r"$$\begin{aligned} x$$",
    ],
)
def test_what_is_broken_is_found(body, tmp_path):
    assert list(broken(body, tmp_path))


def test_what_is_right_passes(tmp_path):
    (tmp_path / "there.md").touch()
    body = (
        "# A `b` heading\n\n[x](there.md#y) [z](#A-b-heading) [z](#a-b-heading) ![alt](there.md) $x$ and \\$5\n\n$$y$$"
    )
    assert list(broken(body, tmp_path)) == []
