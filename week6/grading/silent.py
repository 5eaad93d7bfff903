"""What stands in the place of the graders in a student's process: nothing that has a reference or a verdict."""

from __future__ import annotations

import re
import types
from importlib.machinery import ModuleSpec
from typing import Any, Protocol


class Asker(Protocol):
    """Who is told what is asked of the graders, and knows the course's answers to questions that are over."""

    odd: list[str]

    def ours(self, question: str) -> Any: ...  # noqa: D102


class Silent:
    """In the place of `check` and of the graders: says nothing, knows nothing."""

    def __init__(self, host: Asker, name: str = "") -> None:
        self._host, self._name = host, name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in ("reference", "misconceptions", "value"):
            self._host.odd.append(f"asks the graders for `{name}`")
        return Silent(self._host, name if re.fullmatch(r"q\d+|capstone", name) else self._name)

    def __call__(self, *_: Any, **__: Any) -> None:
        """A check; its verdict is made elsewhere."""

    def or_ours(self, answer: Any) -> Any:
        """The student's own, or the course's where the grader has found the student's wrong."""
        return self._host.ours(self._name) or answer


class NoGraders:
    """An importer that has something silent for every module of week6.checks."""

    def __init__(self, host: Asker) -> None:
        self.host = host

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """A silent module for the graders' own, none for others."""
        return ModuleSpec(name, self, is_package=True) if name.startswith("week6.checks") else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        """A module whose every name is silent."""
        module = types.ModuleType(spec.name)
        vars(module)["__getattr__"] = Silent(self.host).__getattr__
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        """Nothing to run."""
