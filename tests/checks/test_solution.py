"""What `.solution()` prints runs where a student pastes it, and passes: with the notebook's imports alone."""

import ast
import contextlib
import functools
import io
import re
from pathlib import Path

import pytest

from tests.checks.test_catalogue import QUESTIONS
from week6.checks.solution import pasteable

SOURCES = {path.name[:2]: path.read_text() for path in (Path(__file__).parents[2] / "solutions").glob("[0-9]*.py")}


@functools.cache
def imports(number):
    """The code cells of a notebook that import something."""
    cells = re.split(r"^# %%.*\n", SOURCES[number], flags=re.MULTILINE)
    imports = (ast.Import, ast.ImportFrom)
    return [cell for cell in cells if any(isinstance(node, imports) for node in ast.parse(cell).body)]


def after_the_imports(number):
    namespace = {"__name__": "__main__"}
    for cell in imports(number):
        exec(compile(cell, "<imports>", "exec"), namespace)
    return namespace


def printed(question):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        question.solution()
    return out.getvalue().split("\n", 1)[1]


@pytest.mark.parametrize(("name", "question"), [pytest.param(n, q, id=n) for n, q in QUESTIONS])
def test_a_pasted_solution_passes(name, question):
    number, q = name[2:4], name.split(".")[1]
    namespace = after_the_imports(number)
    before = dict(namespace)
    code = printed(question)
    if question.reference is None:
        verdict = question.grade(eval(code, namespace))
    else:
        exec(compile(code, "<pasted>", "exec"), namespace)
        asked = re.search(rf"^check\.{q}\((\w+)\)", SOURCES[number], re.MULTILINE)
        assert asked is not None and asked[1] in namespace, "the question's `name` is not the notebook's"
        verdict = question.grade(namespace[asked[1]])
    assert verdict, f"{verdict}\n{code}"
    assert {n for n, value in before.items() if namespace[n] is not value} <= {"__builtins__"}


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
