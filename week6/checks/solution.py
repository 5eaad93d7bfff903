"""The course's own function as a text that runs where it is pasted: with its imports and helpers, and nothing else.

The text is made from the source of the reference, which the course itself runs. Left out are the checks of arguments:
calls of the course whose result nobody uses, and what stands over nothing but such a call or a `raise`.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import week6


def pasteable(function: Callable[..., Any], name: str = "") -> str:
    """Source of `function`, called `name` if one is given, with the imports and the helpers that it needs before it."""
    text = _Text()
    text.define(sys.modules[function.__module__], function.__name__)
    *helpers, own = text.definitions.values()
    if name:
        own = re.sub(rf"^(def|class) {function.__name__}\b", rf"\1 {name}", own)
    return "\n\n\n".join(["\n".join(text.import_lines()), *helpers, own]).strip() + "\n"


@dataclass
class _Text:
    """What has been collected: names to import, by module, and definitions to print, in order."""

    imports: dict[str, set[str]] = field(default_factory=dict)
    definitions: dict[str, str] = field(default_factory=dict)

    def define(self, module: ModuleType, name: str) -> None:
        """Add the definition of a name of a module, and before it all that it needs."""
        node = _statements(module)[name]
        code = textwrap.dedent(ast.get_source_segment(inspect.getsource(module), node) or "")
        if isinstance(node, ast.FunctionDef):
            code = _without_checks(code, module)
        for used, attribute in sorted(_names(ast.parse(code))):
            if attribute and isinstance(vars(module).get(used), ModuleType) and _is_ours(vars(module)[used]):
                self.require(vars(module)[used], attribute)
                code = re.sub(rf"\b{used}\.{attribute}\b", attribute, code)
            elif used != name and used in _statements(module):
                self.require(module, used)
        self.definitions[name] = code

    def require(self, module: ModuleType, name: str) -> None:
        """See to it that a name of a module is known: by its import, or by its definition where it is private."""
        node = _statements(module).get(name)
        if isinstance(node, ast.Import | ast.ImportFrom):
            alias = next(a for a in node.names if name in (a.asname, a.name))
            spelt = alias.name + (f" as {alias.asname}" if alias.asname else "")
            source = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            self.imports.setdefault(source, set()).add(spelt)
        elif module.__name__.startswith("week6.checks") or name.startswith("_"):
            if name not in self.definitions:
                self.define(module, name)
        else:
            source = "week6" if getattr(week6, name, None) is vars(module)[name] else module.__name__
            self.imports.setdefault(source, set()).add(name)

    def import_lines(self) -> list[str]:
        """The imports, those of the course last."""
        plain = [f"import {name}" for name in sorted(self.imports.get("", ()))]
        sources = sorted(source for source in self.imports if source)
        lines = {source: f"from {source} import {', '.join(sorted(self.imports[source]))}" for source in sources}
        ours = [line for source, line in lines.items() if source.split(".")[0] == "week6"]
        theirs = plain + [line for line in lines.values() if line not in ours]
        return [*theirs, *([""] if theirs and ours else []), *ours]


def _statements(module: ModuleType) -> dict[str, ast.stmt]:
    """The statement of a module's own text that gives each of its names."""
    found: dict[str, ast.stmt] = {}
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name: node for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.Assign):
            found |= {target.id: node for target in node.targets if isinstance(target, ast.Name)}
    return found


def _names(tree: ast.AST) -> set[tuple[str, str]]:
    """The names that a text reads, each with the attribute that is taken of it, or ""."""
    attributes = {node.value: node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)]
    return {(node.id, attributes.get(node, "")) for node in names}


def _is_ours(module: ModuleType) -> bool:
    return module.__name__.split(".")[0] == "week6"


def _without_checks(code: str, module: ModuleType) -> str:
    """The source of a function without the statements that only check its arguments, and without their promise."""
    lines = code.split("\n")
    (function,) = ast.parse(code).body
    assert isinstance(function, ast.FunctionDef)
    for node in reversed(function.body):
        if _only_checks(node, module):
            del lines[node.lineno - 1 : node.end_lineno]
    return re.sub(r"\s+Raises .*?\.(?=\s|\"\"\")", "", "\n".join(lines), count=1, flags=re.DOTALL)


def _only_checks(node: ast.stmt, module: ModuleType) -> bool:
    """Whether a statement does nothing but check its arguments."""
    if isinstance(node, ast.Raise):
        return True
    if isinstance(node, ast.If | ast.For):
        return not node.orelse and all(_only_checks(inner, module) for inner in node.body)
    if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
        return False
    called = node.value.func.value if isinstance(node.value.func, ast.Attribute) else node.value.func
    target = vars(module).get(called.id) if isinstance(called, ast.Name) else None
    home = target.__name__ if isinstance(target, ModuleType) else getattr(target, "__module__", None) or ""
    return target is not None and home.split(".")[0] == "week6"
