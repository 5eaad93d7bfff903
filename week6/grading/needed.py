"""What one answer needs of a notebook: the statements that bind the names it uses, and those that these use, in order.

So no training cell of the course runs, deleted and reordered cells matter only where an answer needs them, and what
stands around an answer (`check = …`, `os._exit(0)`, an endless loop, a patched torch) is not run at all, but told.
"""

from __future__ import annotations

import ast
import builtins
import functools
import re
import symtable
import warnings
from dataclasses import dataclass, field
from typing import Any

import torch

Imports = (ast.Import, ast.ImportFrom)
Definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


@dataclass(frozen=True)
class Statement:
    """A statement of a cell: which names it binds, changes and uses."""

    cell: int
    node: ast.stmt
    binds: frozenset[str]
    changes: frozenset[str]
    uses: frozenset[str]


@dataclass
class Source:
    """The statements of all cells; `broken` says of a cell that is no Python what is wrong with it."""

    statements: list[Statement] = field(default_factory=list)
    broken: dict[int, str] = field(default_factory=dict)
    texts: dict[int, str] = field(default_factory=dict)

    def needed(self, names: set[str]) -> list[Statement]:
        """The statements that these names need, in the order of the notebook."""
        wanted, chosen = set(names), set[int]()
        imported = {n for s in self.statements if isinstance(s.node, Imports) for n in s.binds}
        while True:
            more = {
                i
                for i, s in enumerate(self.statements)
                if i not in chosen and (s.binds & (wanted | {"*"}) or s.changes & (wanted - imported))
            }
            if not more:
                return [self.statements[i] for i in sorted(chosen)]
            chosen |= more
            wanted |= {name for i in more for name in self.statements[i].uses}

    def asked_as(self, check: str, question: str) -> ast.expr | None:
        """What is handed to the last `check.q1(…)`."""
        last = None
        for statement in self.statements:
            for node in ast.walk(statement.node):
                if isinstance(node, ast.Call) and _path(node.func) == [check, question] and node.args:
                    last = node.args[0]
        return last


def source(cells: tuple[str, ...]) -> Source:
    """The statements of a notebook's code cells. Lines for IPython are left out."""
    found = Source()
    for i, text in enumerate(cells):
        found.texts[i] = text = _plain(text)
        try:
            with warnings.catch_warnings(action="ignore"):
                nodes = ast.parse(text).body
                found.statements += [_statement(i, node, text) for node in nodes]
        except SyntaxError as error:
            found.broken[i] = f"{error.msg}, line {error.lineno} of the cell"
        except (ValueError, RecursionError, MemoryError) as error:
            found.broken[i] = type(error).__name__
    return found


def _plain(text: str) -> str:
    """A cell without its magics and shell commands; nothing of a cell in another language."""
    if text.lstrip().startswith("%%"):
        return ""
    return (
        re.sub(r"(?m)^(\s*)(?:[%!?]|\w[\w., ]* = [%!]).*$", r"\1pass", text)
        if re.search(r"(?m)^\s*[%!]|= [%!]", text)
        else text
    )


def _statement(cell: int, node: ast.stmt, text: str) -> Statement:
    if isinstance(node, Imports):
        names = {alias.asname or alias.name.split(".")[0] for alias in node.names}
        return Statement(cell, node, frozenset(names), frozenset(), frozenset())
    table = symtable.symtable(ast.unparse(node), "cell", "exec")
    binds = {s.get_name() for s in table.get_symbols() if s.is_assigned() or s.is_imported() or s.is_namespace()}
    if isinstance(node, Definitions):
        binds = {node.name}
    return Statement(cell, node, frozenset(binds), frozenset(_changed(node)), frozenset(_globals(table)))


def _globals(table: symtable.SymbolTable) -> set[str]:
    """The global names that a piece of code uses, functions in it included."""
    top = table.get_type() == "module"
    names = {s.get_name() for s in table.get_symbols() if s.is_referenced() and (top or s.is_global())}
    return names.union(*(_globals(child) for child in table.get_children()))


def _changed(node: ast.stmt) -> set[str]:
    """Names whose objects a statement changes in place: `x[0] = …`, `x.a = …`, `x.append(…)` alone on its line."""
    targets: list[ast.expr] = []
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, ast.AugAssign | ast.AnnAssign):
        targets = [node.target]
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        targets = [node.value.func]
    roots = (_root(t) for t in targets if isinstance(t, ast.Attribute | ast.Subscript))
    return {root for root in roots if root}


def _root(node: ast.expr) -> str:
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _path(node: ast.expr) -> list[str]:
    """["torch", "nn", "Module"] of `torch.nn.Module`, [] of anything else."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return [node.id, *reversed(names)] if isinstance(node, ast.Name) else []


# --- what a teacher should look at -----------------------------------------------------------------------------------

ENDS = set("os._exit os.abort os.kill os.killpg os.fork os.forkpty sys.exit exit quit".split())
STARTS = set("os.system os.popen subprocess.run subprocess.Popen subprocess.call".split())
LIBRARIES = {"torch": torch, "F": torch.nn.functional, "nn": torch.nn, "builtins": builtins}


def odd(found: Source, check: str) -> list[str]:
    """What in a notebook's code looks like an attempt to be graded by something else than what it computes."""
    said: list[str] = []
    for statement in found.statements:
        where = f"cell {statement.cell + 1}"
        if check in statement.binds and not _imports_graders(statement.node):
            said.append(f"{where} puts something of its own in the place of `{check}`")
        if isinstance(statement.node, ast.While) and _endless(statement.node):
            said.append(f"{where} has a loop without an end")
        for node in ast.walk(statement.node):
            if text := _look(node, check):
                said.append(f"{where} {text}")
    return list(dict.fromkeys(said))[:20]


def _look(node: ast.AST, check: str) -> str:
    """What is odd about one piece of code, or ""."""
    if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign):
        for path in map(_path, node.targets if isinstance(node, ast.Assign) else [node.target]):
            if len(path) > 1 and path[0] == check:
                return f"puts something of its own in the place of `{'.'.join(path)}`"
            if len(path) > 1 and callable(_of_library(path)):
                return f"puts something of its own in the place of `{'.'.join(path)}`"
    if isinstance(node, ast.Call):
        called = ".".join(_path(node.func))
        if called in ENDS:
            return f"ends or forks its process: `{called}`"
        if called in STARTS:
            return f"starts programs: `{called}`"
        if called == "setattr" and node.args and _of_library(_path(node.args[0])) is not None:
            return "replaces parts of a library: `setattr`"
    if isinstance(node, ast.Import | ast.ImportFrom) and not _imports_graders(node) and _of_checks(node):
        return "imports from the graders: `week6.checks`"
    if isinstance(node, ast.Attribute) and node.attr in ("reference", "misconceptions") and _root(node) == check:
        return f"reads the course's own answers: `{check}.….{node.attr}`"
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        if re.search(r"✓.*Correct", node.value):
            return "writes a verdict of its own"
        if re.search(r"week6[./]checks", node.value):
            return "names the graders' files: `week6/checks`"
    return ""


def _of_checks(node: ast.Import | ast.ImportFrom) -> bool:
    names = [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        names = [f"{node.module or ''}.{name}" for name in names]
    return any(f"{name}.".startswith("week6.checks.") for name in names)


def _imports_graders(node: ast.stmt) -> bool:
    """Whether this is a line of the notebooks, such as `from week6.checks import nb03 as check`."""
    named = isinstance(node, ast.ImportFrom) and node.module == "week6.checks" and len(node.names) == 1
    given = r"nb\d\d|(?:ppo|dpo)_capstone"
    return named and re.fullmatch(given, node.names[0].name) is not None  # type: ignore[attr-defined]


def _of_library(path: list[str]) -> Any:
    """What `torch.nn.functional.softmax` is, or None where the path begins at no library."""
    if not path or path[0] not in LIBRARIES:
        return None
    try:
        return functools.reduce(getattr, path[1:], LIBRARIES[path[0]])
    except AttributeError:
        return None


def _endless(node: ast.While) -> bool:
    always = isinstance(node.test, ast.Constant) and bool(node.test.value)
    leaves = any(isinstance(inner, ast.Break | ast.Return | ast.Raise) for inner in ast.walk(node))
    return always and not leaves
