#!/usr/bin/env python3
"""The web edition: `python tools/build_site.py FOLDER` writes the pages to FOLDER/html. `make site` is the same.

First everything is laid out in FOLDER/source, where each page has the place that it has in the repository: the README,
docs/, the solved notebooks with their stored outputs and their solutions folded, and a page for each module of the
course, which Sphinx makes from its docstrings. Links to files that are no page lead to the repository. MathJax comes
from npm, so that no page asks for anything elsewhere.
"""

from __future__ import annotations

import json
import posixpath
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
MATHJAX = "mathjax@3.2.2"
MODULES = sorted(path.stem for path in (ROOT / "week6").glob("[!_]*.py") if path.stem != "cli")
"""The course itself, a page each."""
LINK = re.compile(r"\]\(([^)\s#]*)(#[^)\s]*)?\)")


def pages() -> dict[str, Path]:
    """Address of every page, without its ending, and the file that it is made of."""
    made = {"index": ROOT / "README.md"}
    for path in [*sorted((ROOT / "docs").glob("*.md")), ROOT / "week6" / "recorded" / "README.md"]:
        made[path.relative_to(ROOT).with_suffix("").as_posix()] = path
    for path in sorted((ROOT / "solutions").glob("[0-9][0-9]_*.ipynb")):
        made[f"notebooks/{path.stem}"] = path
    return made | {f"api/{name}": ROOT / "week6" / f"{name}.py" for name in MODULES}


def link(target: str, anchor: str, origin: str, address: str) -> str:
    """Where a link to `target`, in the file `origin` of the repository, leads on the page `address`."""
    if re.match(r"\w+:", target):
        return target + anchor
    if not target:
        return f"#{slug(anchor)}" if anchor else "#"
    path = posixpath.normpath(posixpath.join(posixpath.dirname(origin), target))
    known = {file.relative_to(ROOT).as_posix(): (page, file.suffix) for page, file in pages().items()}
    known |= {f"{page}.ipynb": (page, file.suffix) for page, file in pages().items() if file.suffix == ".ipynb"}
    if path not in known:
        return f"{REPOSITORY}/blob/main/{path}{anchor}"
    page, suffix = known[path]
    ending = ".ipynb" if suffix == ".ipynb" else ".md"
    relative = posixpath.relpath(f"{page}{ending}", posixpath.dirname(address) or ".")
    return f"{relative}#{slug(anchor)}" if anchor else relative


def slug(anchor: str) -> str:
    """The anchor of a heading as MyST has it: "#Known-troubles" is "known-troubles"."""
    return anchor.removeprefix("#").lower()


def rewritten(text: str, origin: str, address: str) -> str:
    """Markdown with its links, but those of pictures, as they must be on the page."""
    return LINK.sub(
        lambda found: (
            found[0]
            if found[1].endswith((".png", ".svg")) and not found[1].startswith("http")
            else f"]({link(found[1], found[2] or '', origin, address)})"
        ),
        text,
    )


def unsplit(text: str) -> str:
    """Markdown whose formulas have \\cr for the end of a row: around the other form Sphinx puts an environment of its
    own, in which MathJax allows no number."""
    parts = text.split("$$")
    return "$$".join(re.sub(r"\\\\(\[[^\]]*\])?", r"\\cr ", part) if i % 2 else part for i, part in enumerate(parts))


def notebook(path: Path, address: str) -> dict[str, Any]:
    """The solved edition for the web: what a student would write, and what is folded in it, is shown on a click."""
    solved, student = (json.loads((ROOT / folder / path.name).read_text()) for folder in ("solutions", "notebooks"))
    stubs = {cell["id"]: cell["source"] for cell in student["cells"]}
    origin = f"notebooks/{path.name}"
    for cell in solved["cells"]:
        source, tags = "".join(cell["source"]), cell["metadata"].setdefault("tags", [])
        if cell["cell_type"] == "markdown":
            source = re.sub(r"\[!\[Open in Colab\]\([^)]*\)\]", "[Open in Colab]", source)
            if source.startswith("[Open in Colab]"):
                code = f"{REPOSITORY}/blob/main/solutions/{path.stem}.py"
                source = f"{source}\n\n[Source]({code}). Solutions are folded: try before you look."
            cell["source"] = rewritten(unsplit(source), origin, address)
            continue
        prompt = None
        if "folded" in tags:
            title, _, cell["source"] = source.partition("\n")
            prompt = title.removeprefix("# @title ")
        elif source != "".join(stubs.get(cell["id"], source)):
            prompt = "the solution"
        elif "nbval-ignore-output" in tags and source.startswith("%config"):
            prompt = "the installation"
        if prompt:
            tags.append("hide-input")
            texts = {"code_prompt_show": f"Show {prompt}", "code_prompt_hide": f"Hide {prompt}"}
            cell["metadata"]["mystnb"] = texts
    return dict(solved)


def api_page(name: str) -> str:
    """The page of one module."""
    source = f"{REPOSITORY}/blob/main/week6/{name}.py"
    return f"# week6.{name}\n\n[Source]({source})\n\n```{{eval-rst}}\n.. automodule:: week6.{name}\n```\n"


def contents() -> str:
    """The table of contents, for the end of the first page: every page once."""
    groups = {
        "Notebooks": [page for page in pages() if page.startswith("notebooks/")],
        "Pages": [page for page in pages() if page.startswith(("docs/", "week6/"))],
        "The code": [page for page in pages() if page.startswith("api/")],
    }
    trees = []
    for caption, names in groups.items():
        trees.append("\n".join(["```{toctree}", ":hidden:", ":maxdepth: 1", f":caption: {caption}", "", *names, "```"]))
    return "\n\n".join(trees) + "\n"


def lay_out(folder: Path) -> None:
    """Write everything that Sphinx reads, but MathJax, to `folder`."""
    shutil.rmtree(folder, ignore_errors=True)
    for address, path in pages().items():
        target = folder / f"{address}{path.suffix if path.suffix == '.ipynb' else '.md'}"
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".py":
            text = api_page(path.stem)
        elif path.suffix == ".ipynb":
            text = json.dumps(notebook(path, address))
        else:
            text = rewritten(path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix(), address)
        target.write_text(text + ("\n" + contents() if address == "index" else ""), encoding="utf-8")
    shutil.copytree(ROOT / "imgs", folder / "imgs")
    shutil.copy(ROOT / "docs" / "conf.py", folder)
    (folder / "_static").mkdir()


def add_from_npm(package: str, modules: Path) -> Path:
    """Fetch NAME@VERSION into `modules`, where it is kept; returns its folder."""
    words = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(modules), package]
    subprocess.run(words, check=True)
    return modules / "node_modules" / package.split("@")[0]


def add_mathjax(folder: Path, modules: Path) -> None:
    """Put what pages need of MathJax into `folder`."""
    parts, target = add_from_npm(MATHJAX, modules) / "es5", folder / "mathjax"
    fonts = "output/chtml/fonts/woff-v2"
    shutil.copytree(parts / fonts, target / fonts, dirs_exist_ok=True)
    shutil.copy(parts / "tex-chtml-full.js", target)


def main(folder: Path) -> int:
    """Lay out and build; the exit code. What npm fetches is kept beside the folder."""
    lay_out(folder / "source")
    add_mathjax(folder / "source" / "_static", folder.parent / "npm")
    words = ["-W", "--keep-going", "-q", "-b", "html", str(folder / "source"), str(folder / "html")]
    return subprocess.run([sys.executable, "-m", "sphinx", *words]).returncode


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "build/site")))
