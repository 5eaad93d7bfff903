#!/usr/bin/env python3
"""solutions/NN_name.py → notebooks/NN_name.ipynb (stubs, no outputs) and solutions/NN_name.ipynb (filled, executed).

    python tools/build_notebooks.py              every notebook
    python tools/build_notebooks.py 01 03        these two
    python tools/build_notebooks.py --check      exit 1 if a stored notebook is not what its source says; runs nothing

A source is a Python file in jupytext's percent format. In it

    # BEGIN SOLUTION … # END SOLUTION     becomes   # YOUR CODE HERE and raise NotImplementedError("your code here")
    x = 0.1  # SOLUTION                   becomes   x = ...  # YOUR ANSWER HERE
    check.p1("b")  # SOLUTION             becomes   check.p1(...)  # YOUR ANSWER HERE

in the student edition; cells tagged student-only and solution-only are left out of the other edition. The code of a
cell tagged folded is shown on a click only; its first line says what it does: `# @title Set-up`. {minutes} in a text is
how long the notebook takes (`minutes`). After the first cell, the title, come the Colab badge, with a link to the
glossary at the end of notebook 00, and the cell that installs week6 where it is missing. Two builds give the same
bytes: cell ids follow from the text, and outputs lose whatever differs between two runs. The ids that both editions
share go into week6/classroom/notebooks.json: there `week6 doctor` reads which notebooks this version goes with.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import os
import re
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent
REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
STUB = 'raise NotImplementedError("your code here")'
BEGIN = re.compile(r"^(\s*)# BEGIN SOLUTION\s*$")
END = re.compile(r"^\s*# END SOLUTION\s*$")
ASSIGNMENT = re.compile(r"^(\s*[\w.\[\], ]+?(?:: [^=]+)?\s*=\s).*\S\s+# SOLUTION\s*$")
CALL = re.compile(r"^(\s*[\w.]+)\(.*\)\s+# SOLUTION\s*$")
METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
    "accelerator": "GPU",  # Colab opens it on a GPU; others ignore it
    "colab": {"gpuType": "T4", "provenance": []},
}
# Figures without the Matplotlib version in them, so that equal pictures are equal bytes.
SETUP = """\
%config InlineBackend.print_figure_kwargs = {{"bbox_inches": "tight", "metadata": {{"Software": None}}}}
try:
    import week6  # noqa: F401
except ModuleNotFoundError:  # Colab
    %pip install -q git+{repository}"""
KERNEL = {
    "WEEK6_STRICT": "1",
    "OMP_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
    "HF_HUB_OFFLINE": "1",
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
}
IDS = ROOT / "week6" / "classroom" / "notebooks.json"
VIEW = "application/vnd.jupyter.widget-view+json"  # holds a random model id, and GitHub cannot show it


def student_text(source: str) -> str:
    """The text of a code cell with stubs in place of the solutions."""
    lines: list[str] = []
    inside = False
    for line in source.splitlines():
        if begin := BEGIN.match(line):
            if inside:
                raise ValueError(f"BEGIN SOLUTION within a solution:\n{source}")
            inside = True
            lines += [f"{begin[1]}# YOUR CODE HERE", begin[1] + STUB]
        elif END.match(line):
            if not inside:
                raise ValueError(f"END SOLUTION without BEGIN SOLUTION:\n{source}")
            inside = False
        elif not inside:
            if found := ASSIGNMENT.match(line):
                line = f"{found[1]}...  # YOUR ANSWER HERE"
            elif found := CALL.match(line):
                line = f"{found[1]}(...)  # YOUR ANSWER HERE"
            elif line.rstrip().endswith("# SOLUTION"):
                raise ValueError(f"# SOLUTION ends an assignment or a call on one line; this is neither:\n{line}")
            lines.append(line)
    if inside:
        raise ValueError(f"BEGIN SOLUTION without END SOLUTION:\n{source}")
    return "\n".join(lines)


def solution_text(source: str) -> str:
    """The text of a code cell without the marks."""
    lines = (line for line in source.splitlines() if not (BEGIN.match(line) or END.match(line)))
    return "\n".join(re.sub(r"\s*# SOLUTION\s*$", "", line) for line in lines)


def minutes(cells: list[nbformat.NotebookNode]) -> int:
    """How long a student takes, to five minutes, from what there is to read, derive, write and run.

    words/70 + 1.5 · equations + 5 · exercises + 0.4 · cells of code that are not folded; fitted to what nine notebooks
    took people who knew no reinforcement learning, whose times it meets within a fourth.
    """
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    text = re.split(r"(?m)^### (?:References|Glossary)$", text)[0]  # to look things up in
    words = re.findall(r"[A-Za-z]{2,}", re.sub(r"(?s)\$\$.*?\$\$|\$[^$]*\$|`[^`]*`", " ", text))
    equations, exercises = text.count(r"\tag{"), len(re.findall(r"(?m)^#+ Exercise", text))
    code = sum(cell.cell_type == "code" and "folded" not in cell.metadata.get("tags", []) for cell in cells)
    return 5 * round((len(words) / 70 + 1.5 * equations + 5 * exercises + 0.4 * code) / 5)


def colab_badge(name: str) -> str:
    """A link that opens the student edition in Colab; after the first notebook also one to the glossary at its end."""
    address = f"https://colab.research.google.com/github/{REPOSITORY.removeprefix('https://github.com/')}"
    image = "https://colab.research.google.com/assets/colab-badge.svg"
    words = "" if name.startswith("00") else " Words that are new to you: [glossary](00_alignment.ipynb#Glossary)."
    return f"[![Open in Colab]({image})]({address}/blob/main/notebooks/{name}.ipynb){words}"


def make(source: Path, edition: str) -> nbformat.NotebookNode:
    """The student or the solution edition of a source, not executed."""
    first, *rest = jupytext.read(source, fmt="py:percent").cells
    if first.cell_type != "markdown":
        raise ValueError(f"{source}: the first cell is code, expected markdown with the title")
    badge = nbformat.v4.new_markdown_cell(colab_badge(source.stem))
    setup = nbformat.v4.new_code_cell(SETUP.format(repository=REPOSITORY), metadata={"tags": ["nbval-ignore-output"]})
    takes = minutes([first, *rest])
    left_out = "solution-only" if edition == "student" else "student-only"
    cells: list[nbformat.NotebookNode] = []
    seen: dict[str, int] = {}
    for cell in (first, badge, setup, *rest):
        code = cell.cell_type == "code"
        cell.source = cell.source if code else cell.source.replace("{minutes}", str(takes))
        stub = student_text(cell.source) if code else cell.source
        digest = hashlib.sha256(f"{cell.cell_type}\0{stub}".encode()).hexdigest()[:8]
        seen[digest] = seen.get(digest, 0) + 1
        tags = list(cell.metadata.get("tags", []))
        if left_out in tags or not cell.source.strip():
            continue
        metadata: dict[str, Any] = {"tags": tags} if tags else {}
        if "folded" in tags:
            if not cell.source.startswith("# @title "):
                raise ValueError(f"a folded cell must begin with a line `# @title …`, got:\n{cell.source}")
            metadata |= {"jupyter": {"source_hidden": True}, "cellView": "form"}  # JupyterLab; Colab
        new: dict[str, Any] = {
            "cell_type": cell.cell_type,
            "id": digest if seen[digest] == 1 else f"{digest}-{seen[digest]}",
            "metadata": metadata,
            "source": stub if edition == "student" else solution_text(cell.source) if code else cell.source,
        }
        cells.append(nbformat.from_dict(new | ({"outputs": [], "execution_count": None} if code else {})))
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=copy.deepcopy(METADATA))
    nbformat.validate(notebook)
    return notebook


def execute(notebook: nbformat.NotebookNode, folder: Path) -> None:
    """Run all cells in place; a cell that fails, or a check that is not correct, ends it."""
    NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
    ).execute(env=os.environ | KERNEL)
    notebook.metadata = nbformat.from_dict(copy.deepcopy(METADATA))  # the run has added the Python version
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in merged(cell.outputs) if not is_noise(output)]


def is_noise(output: nbformat.NotebookNode) -> bool:
    """Whether an output differs between two runs or two machines: warnings and progress bars, views of widgets."""
    return output.get("name") == "stderr" or VIEW in output.get("data", {})


def merged(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """The same outputs with neighbouring pieces of one stream joined: their borders are a matter of chance."""
    result: list[nbformat.NotebookNode] = []
    for output in outputs:
        same_stream = result and output.output_type == "stream" and result[-1].get("name") == output.name
        if same_stream:
            result[-1].text += output.text
        else:
            result.append(output)
    return result


def text_of(notebook: nbformat.NotebookNode) -> str:
    """The notebook as it is stored."""
    return nbformat.writes(notebook, version=nbformat.NO_CONVERT).rstrip("\n") + "\n"


def without_outputs(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """A copy as it was before it ran."""
    notebook = copy.deepcopy(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return notebook


def is_current(path: Path, notebook: nbformat.NotebookNode) -> bool:
    """Whether the stored notebook is this one, up to its outputs; a solution must also have been run in order."""
    if not path.exists():
        return False
    if path.parent.name == "notebooks":
        return path.read_text() == text_of(notebook)
    stored = nbformat.read(path, nbformat.NO_CONVERT)
    counts = [cell.execution_count for cell in stored.cells if cell.cell_type == "code"]
    return counts == list(range(1, len(counts) + 1)) and text_of(without_outputs(stored)) == text_of(notebook)


def expected_files(sources: list[Path]) -> set[Path]:
    """The notebooks that these sources make."""
    return {ROOT / folder / f"{source.stem}.ipynb" for source in sources for folder in ("notebooks", "solutions")}


def shared_ids(sources: list[Path]) -> str:
    """The ids of the cells that both editions of each notebook have, as JSON, a notebook a line."""
    ids = {}
    for source in sources:
        solution = {cell.id for cell in make(source, "solution").cells}
        ids[source.stem] = " ".join(cell.id for cell in make(source, "student").cells if cell.id in solution)
    return json.dumps(ids, indent=0) + "\n"


def main() -> int:
    """Build or check; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="which notebooks, by number or name; all if none is given")
    parser.add_argument("--check", action="store_true", help="compare with the stored files, run nothing")
    options = parser.parse_args()
    sources = sorted((ROOT / "solutions").glob("[0-9][0-9]_*.py"))
    chosen = [source for source in sources if not options.names or source.stem.startswith(tuple(options.names))]
    if options.names and not chosen:
        parser.error(f"no source in solutions/ begins with {' or '.join(options.names)}")
    problems = []
    for source in chosen:
        for edition, folder in (("student", "notebooks"), ("solution", "solutions")):
            path, notebook = ROOT / folder / f"{source.stem}.ipynb", make(source, edition)
            if options.check:
                problems += [] if is_current(path, notebook) else [f"out of date: {path.relative_to(ROOT)}"]
                continue
            path.parent.mkdir(exist_ok=True)
            start = time.perf_counter()
            if edition == "solution":
                execute(notebook, path.parent)
            path.write_text(text_of(notebook))
            print(f"wrote {path.relative_to(ROOT)} ({time.perf_counter() - start:.0f} s)", flush=True)
    if options.check:
        is_old = not IDS.exists() or IDS.read_text() != shared_ids(sources)
        problems += [f"out of date: {IDS.relative_to(ROOT)}"] if is_old else []
    else:
        IDS.write_text(shared_ids(sources))
    stored = {path for folder in ("notebooks", "solutions") for path in (ROOT / folder).glob("*.ipynb")}
    if options.check and not options.names:
        problems += [f"no source for {path.relative_to(ROOT)}" for path in sorted(stored - expected_files(sources))]
    print(*problems, sep="\n", end="\nrun: python tools/build_notebooks.py\n" if problems else "")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
