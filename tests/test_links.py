"""Links of notebooks and pages, offline: files and headings exist, pictures have alt texts, formulas are closed."""

import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"(?<!!)\[(?:[^\[\]]|!\[[^\]]*\]\([^)]*\))*\]\(([^)\s]+)\)")
IMAGE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)\)")
FENCE = re.compile(r"```.*?```", re.DOTALL)
CODE = re.compile(r"`[^`]*`")
FOLDERS = ("notebooks/*.ipynb", "solutions/*.ipynb", "*.md", "docs/*.md", "week6/**/*.md")
FILES = sorted(path for pattern in FOLDERS for path in ROOT.glob(pattern))


def anchors(body):
    """Of all headings: GitHub's, in lower case and without punctuation, and JupyterLab's."""
    for heading in re.findall(r"^#+ (.*)$", body, re.MULTILINE):
        shown = re.sub(r"[`$*]", "", LINK.sub(lambda link: link[0][1 : link[0].index("](")], heading).strip())
        yield shown.replace(" ", "-")
        yield re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")


def text(path):
    """All Markdown of a file, without blocks of code."""
    if path.suffix == ".md":
        return FENCE.sub("", path.read_text(encoding="utf-8"))
    cells = nbformat.read(path, as_version=4).cells
    return "\n\n".join(FENCE.sub("", cell.source) for cell in cells if cell.cell_type == "markdown")


def broken(body, folder):
    """What is wrong with the links, pictures and formulas of a text that lies in `folder`."""
    own, body = set(anchors(body)), CODE.sub("", body)
    for target in LINK.findall(body) + [target for _, target in IMAGE.findall(body)]:
        if re.match(r"[a-z]+:", target):
            if not target.startswith("https://"):
                yield f"not https: {target}"
            continue
        file, _, heading = target.partition("#")
        path = folder / file
        if file and not path.exists():
            yield f"no such file: {target}"
        elif heading and heading not in (set(anchors(text(path))) if file else own):
            yield f"no such heading: {target}"
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


def test_pages_are_among_the_files():
    names = {path.relative_to(ROOT).as_posix() for path in FILES}
    assert {"README.md", "docs/README.md", "week6/recorded/README.md", "notebooks/05_ppo.ipynb"} <= names


@pytest.mark.parametrize(
    "body",
    [
        "[x](missing.md)",
        "[x](#nowhere)\n\n# Somewhere",
        "[x](there.md#nowhere)",
        "[`x`](missing.py)",
        "[x](http://example.org)",
        "![](https://example.org/a.png)",
        "[![badge](https://example.org/a.svg)](missing.ipynb)",
        "the value $x is",
        "$$\nx",
        r"$$\begin{aligned} x$$",
    ],
)
def test_what_is_broken_is_found(body, tmp_path):
    (tmp_path / "there.md").write_text("# Somewhere", encoding="utf-8")
    assert list(broken(body, tmp_path))


def test_what_is_right_passes(tmp_path):
    (tmp_path / "there.md").write_text("# The `y`, [linked](there.md)\n\n```\n# no heading\n```", encoding="utf-8")
    body = (
        "# A `b` heading\n\n[x](there.md#the-y-linked) [z](#A-b-heading) [z](#a-b-heading) ![alt](there.md) "
        "$x$ and \\$5 and `[x](code.md)`\n\n$$y$$"
    )
    assert list(broken(body, tmp_path)) == []
    assert list(broken("[x](there.md#no-heading)", tmp_path)) == ["no such heading: there.md#no-heading"]
