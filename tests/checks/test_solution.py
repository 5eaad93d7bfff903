"""What `.solution()` prints runs where a student pastes it, and passes: with the notebook's imports alone."""

import ast
import contextlib
import functools
import io
import re
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from tests.checks.test_catalogue import catalogue
from week6.checks.asked import Asked
from week6.checks.solution import pasteable

SOURCES = {path.name[:2]: path.read_text() for path in (Path(__file__).parents[2] / "solutions").glob("[0-9]*.py")}


@functools.cache
def imports(number):
    """The code cells of a notebook that import something."""
    cells = re.split(r"^# %%.*\n", SOURCES[number], flags=re.MULTILINE)
    imports = (ast.Import, ast.ImportFrom)
    return [cell for cell in cells if any(isinstance(node, imports) for node in ast.parse(cell).body)]


def printed(question):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        question.solution()
    return out.getvalue().split("\n", 1)[1]


def cell_of(name, question):
    """What a student does: paste what `.solution()` prints, and run the check; then all is as it was before."""
    number, q = name[2:4], name.split(".")[1]
    code = printed(question)
    if question.reference is None:
        check = f"_verdict = check.{q}.grade({code})"
    else:
        asked = re.search(rf"^check\.{q}\((\w+)\)", SOURCES[number], re.MULTILINE)
        assert asked is not None, f"no cell grades {name}"
        check = f"{code}\n_verdict = check.{q}.grade({asked[1]})"
    return f"""
_before = {{name: value for name, value in globals().items() if not name.startswith("_") and name not in ("In", "Out")}}
{check}
assert _verdict, _verdict
assert {{name for name, value in _before.items() if globals().get(name) is not value}} == set()
for _name in {{name for name in globals() if not name.startswith("_") and name not in ("In", "Out")}} - set(_before):
    del globals()[_name]
print("{name}")
"""


def test_pasted_solutions_pass_in_a_kernel(tmp_path):
    """Each in a namespace with its notebook's imports and nothing else."""
    asked, sources = list(catalogue(Asked)), list[str]()
    for number in sorted(SOURCES):
        own = [cell_of(name, question) for name, question in asked if name[2:4] == number]
        assert own, f"notebook {number} asks for nothing"
        sources += [*imports(number), *own, "%reset -f"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    client = NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}})
    client.execute()
    said = [output["text"].strip() for cell in notebook.cells for output in cell["outputs"] if "text" in output]
    assert [line for line in said if line in dict(asked)] == [name for name, _ in asked]


def helper(x):
    return 2 * x


_FACTOR = 3


def reference(x: "int", y: "int" = 1) -> "int":
    """Twice x, and three times y. Raises ValueError for x ≤ 0. Exact."""
    if x <= 0:
        raise ValueError("x")
    seen = []
    seen.append(x)
    return helper(x) + _FACTOR * y + len(seen) - 1


def test_helpers_come_along_and_checks_stay_behind():
    code = pasteable(reference, "mine")
    namespace = {}
    exec(code, namespace)
    assert namespace["mine"](2, 5) == 19 and "reference" not in namespace
    assert "raise" not in code and "Raises" not in code and "Exact." in code and "seen.append" in code
