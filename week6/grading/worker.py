"""What runs a student's code, in jail: load an answer, call it, give its gradients, go on with an iterator.

Its process holds no reference, no verdict and nobody else's work.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import functools
import importlib
import inspect
import io
import linecache
import pickle
import random
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from week6.grading import needed, wire
from week6.grading.silent import NoGraders, Silent

PRINTED = 2000
"""Characters of printed output that are sent."""


class _Printed(io.StringIO):
    def write(self, text: str) -> int:
        super().write(text[: max(0, PRINTED - self.tell())])
        return len(text)


class Host:
    """What one such process knows: the student's answer, the tensors of its calls, its iterators."""

    def __init__(self, pipe: wire.Pipe) -> None:
        self.pipe = pipe
        self.odd: list[str] = []
        self.solutions: dict[str, tuple[str, str]] = {}
        self.answer: Any = None
        self.calls: list[tuple[list[Tensor | None], list[Tensor]]] = []
        self.iterators: list[Iterator[Any]] = []
        self.bound: list[tuple[str, Any]] = []
        """Modules and optimizers of the last call, which the student's code changes in place."""

    def ours(self, question: str) -> Any:
        """The course's own answer to an earlier question that the student has got wrong, or None."""
        if question not in self.solutions:
            return None
        name, text = self.solutions[question]
        namespace: dict[str, Any] = {}
        exec(compile(text, f"<the course's {name}>", "exec"), namespace)
        return namespace[name]

    # --- what the grader asks for -------------------------------------------------------------------------------------

    def look(self, cells: tuple[str, ...], check: str) -> dict[str, Any]:
        """Read the code without running it: what looks odd, what is no Python, what binds which name."""
        found = needed.source(cells)
        broken = [[i, text] for i, text in found.broken.items()]
        return {"odd": needed.odd(found, check), "broken": broken}

    def load(
        self,
        cells: tuple[str, ...],
        check: str,
        question: str,
        name: str,
        solutions: dict[str, tuple[str, str]],
        closed: tuple[str, str],
    ) -> dict[str, Any]:
        """Run what the answer to a question needs, and say what the answer is.

        `solutions`: what the course has for earlier questions that were answered wrong; `closed`: module and name of
        the course's own function that this question asks for.
        """
        self.solutions = solutions
        self._close(*closed)
        found = needed.source(cells)
        asked = found.asked_as(check, question)
        every = set().union(*(statement.binds for statement in found.statements))
        if (
            asked is None
            or not {n.id for n in ast.walk(asked) if isinstance(n, ast.Name)} <= every | vars(builtins).keys()
        ):
            asked = ast.Name(name, ast.Load()) if name in every else None
        if asked is None:
            return {"kind": "missing", "why": "", "odd": []}
        names = {node.id for node in ast.walk(asked) if isinstance(node, ast.Name)}
        namespace: dict[str, Any] = {"__name__": "__main__", check: Silent(self)}
        failed = ""
        text = ""
        for statement in found.needed(names):
            problem = self._execute(statement, found.texts[statement.cell], namespace)
            failed = failed or problem
            text += ast.unparse(statement.node) + "\n"
        wrapped = ast.fix_missing_locations(ast.Expression(asked))
        try:
            self.answer = eval(compile(wrapped, "the argument of the check", "eval"), namespace)
        except BaseException as error:
            return {"kind": "missing", "why": failed or _in_short(error), "odd": self.odd}
        return self._described() | {"text": text, "odd": self.odd}

    def _close(self, module: str, name: str) -> None:
        """Put a function that raises in the place of the course's own, wherever the course has it."""
        own = getattr(sys.modules.get(module), name, None)
        if own is None:
            return

        @functools.wraps(own)
        def closed(*_: Any, **__: Any) -> Any:
            self.odd.append(f"calls the course's own `{name}`")
            raise RuntimeError(f"`{name}` of the package is what this exercise asks you to write")

        for holder in [m for n, m in list(sys.modules.items()) if n.split(".")[0] == "week6"]:
            for key, value in list(vars(holder).items()):
                if value is own:
                    setattr(holder, key, closed)

    def _execute(self, statement: needed.Statement, text: str, namespace: dict[str, Any]) -> str:
        """Run one statement; what it raised, in short."""
        filename = f"<ipython-cell-{statement.cell + 1}>"
        linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
        try:
            exec(compile(ast.Module([statement.node], []), filename, "exec"), namespace)
        except BaseException as error:
            return f"cell {statement.cell + 1}: {_in_short(error)}"
        return ""

    def _described(self) -> dict[str, Any]:
        answer = self.answer
        if isinstance(answer, type):
            return {"kind": "class"}
        if isinstance(answer, Silent) or not callable(answer):
            return {"kind": "value", "value": ... if isinstance(answer, Silent) else answer}
        kinds = {"coroutine": inspect.iscoroutinefunction, "generator": inspect.isgeneratorfunction}
        kind = next((name for name, is_one in kinds.items() if is_one(answer)), "function")
        home = getattr(answer, "__module__", "") or ""
        if isinstance(home, str) and home.split(".")[0] == "week6" or getattr(answer, "__code__", None) in _codes():
            kind = "ours"
        parameters: Any = None
        with contextlib.suppress(Exception):
            parameters = [
                [p.name, int(p.kind), p.default is not p.empty] for p in inspect.signature(answer).parameters.values()
            ]
        return {"kind": kind, "parameters": parameters}

    def call(self, arguments: list[tuple[str, Any]], seed: int, named: dict[str, Any]) -> dict[str, Any]:
        """Call the answer. Tensors come as ("tensor", …) or ("leaf", …), the latter with a gradient to be asked for."""
        _seed_everything(seed)
        leaves: list[Tensor | None] = []
        inputs: list[Any] = []
        for kind, value in arguments:
            leaf = value.requires_grad_(True) if kind == "leaf" else None
            leaves.append(leaf)
            inputs.append(value)
        before = [value.detach().clone() if isinstance(value, Tensor) else None for value in inputs]
        plain = [pickle.dumps(value) if isinstance(value, list | dict) else b"" for value in inputs]
        self.bound = [(str(i), v) for i, v in enumerate(inputs) if isinstance(v, nn.Module | torch.optim.Optimizer)]
        reply = self._guarded(lambda: self.answer(*inputs, **named))
        outputs = [t for t in tensors(reply.get("value")) if t.requires_grad]
        self.calls.append((leaves, outputs))
        reply["call"] = len(self.calls) - 1
        reply["changed"] = [
            [i, value]
            for i, value in enumerate(inputs)
            if (isinstance(value, Tensor) and not _same(value, before[i])) or (plain[i] and _dumped(value) != plain[i])
        ]
        return reply

    def vjp(self, call: int, gradients: list[Tensor | None]) -> dict[str, Any]:
        """The product of output gradients with the Jacobian, for each argument that has a gradient."""
        leaves, outputs = self.calls[call]
        inputs = [leaf for leaf in leaves if leaf is not None]
        given = [(o, g) for o, g in zip(outputs, gradients, strict=True) if g is not None]

        def product() -> list[Tensor | None]:
            found = torch.autograd.grad(
                [o for o, _ in given], inputs, [g for _, g in given], allow_unused=True, retain_graph=True
            )
            return list(found)

        return self._guarded(product)

    def next(self, iterator: int) -> dict[str, Any]:
        """What an iterator gives next; "done" where it is at its end."""
        done = object()
        reply = self._guarded(lambda: next(self.iterators[iterator], done))
        return {"done": True, **self._state()} if reply.get("value") is done else reply

    def own(self, module: str, question: str) -> dict[str, Any]:
        """The verdict of the graders in this very process: what nobody outside has seen."""
        sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, NoGraders)]
        for name in [name for name in sys.modules if name.startswith("week6.checks")]:
            del sys.modules[name]
        if "week6" in sys.modules:
            vars(sys.modules["week6"]).pop("checks", None)
        message = getattr(importlib.import_module(f"week6.checks.{module}"), question).grade(self.answer)
        return {"verdict": [message.kind, message.text]}

    # --- how it is run ------------------------------------------------------------------------------------------------

    def _guarded(self, work: Callable[[], Any]) -> dict[str, Any]:
        """Run something of the student's: its value or error, what it printed, and what its models are now."""
        printed = _Printed()
        reply: dict[str, Any] = {}
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(_Printed()), torch.enable_grad():
            try:
                value = work()
                if isinstance(value, Iterator):
                    self.iterators.append(value)
                    reply["iterator"] = len(self.iterators) - 1
                else:
                    reply["value"] = value
            except BaseException as error:
                reply["error"] = _error(error)
        return reply | {"printed": printed.getvalue(), "odd": self.odd, **self._state()}

    def _state(self) -> dict[str, Any]:
        """The weights and gradients of models, and the step counts of optimizers, that the call was given."""
        state: list[Any] = []
        for name, thing in self.bound:
            if isinstance(thing, nn.Module):
                grads = {n: p.grad for n, p in thing.named_parameters() if p.grad is not None}
                state.append([name, dict(thing.state_dict()), grads])
            else:
                state.append([name, {}, {str(i): s["step"] for i, s in enumerate(thing.state.values()) if "step" in s}])
        return {"state": state} if state else {}

    def callback(self, number: int) -> Callable[..., Any]:
        """A function of the grader's, in the student's process."""

        def ask(*arguments: Any, **named: Any) -> Any:
            self.pipe.send(wire.encode({"callback": number, "arguments": arguments, "named": named}))
            kind, value = self.receive()
            if kind == "error":
                raise RuntimeError(value)
            return value

        return ask

    def receive(self) -> Any:
        """The grader's next request."""
        size = int.from_bytes(self.pipe.receive(8), "little")
        return _Unpickler(io.BytesIO(self.pipe.receive(size)), self).load()

    def serve(self) -> None:
        """Answer until the grader hangs up."""
        while True:
            name, *arguments = self.receive()
            reply = getattr(self, name)(*arguments)
            try:
                message = wire.encode(reply)
            except Exception as error:  # a result that cannot be told
                message = wire.encode({"error": _error(error), "printed": ""})
            self.pipe.send(message)


class _Unpickler(pickle.Unpickler):
    """Reads the grader's requests: its functions come as numbers, its own classes as source."""

    def __init__(self, file: io.BytesIO, host: Host) -> None:
        super().__init__(file)
        self.host = host

    def persistent_load(self, identity: Any) -> Any:
        """A callback for its number."""
        return self.host.callback(identity)


def defined(text: str, name: str) -> Any:
    """A class of the graders' own, from its source."""
    if (text, name) not in _DEFINED:
        namespace: dict[str, Any] = {"__name__": "the course"}
        exec(compile(f"from __future__ import annotations\n{text}", f"<the course's {name}>", "exec"), namespace)
        _DEFINED[text, name] = namespace[name]
    return _DEFINED[text, name]


def rebuilt(
    kind: Any, config: Any, parameters: dict[str, nn.Parameter], training: bool, hooks: list[Callable[..., Any]]
) -> nn.Module:
    """A language model with these very parameters; hooks of the grader look at its forward passes."""
    model: nn.Module = kind(config)
    for name, parameter in parameters.items():
        place, _, last = name.rpartition(".")
        setattr(model.get_submodule(place), last, parameter)
    for hook in hooks:
        model.register_forward_pre_hook(
            lambda _, positional, named, hook=hook: hook(None, positional, named),
            with_kwargs=True,
        )
    return model.train(training)


def generator(state: Tensor) -> torch.Generator:
    """A source of random numbers in this state."""
    made = torch.Generator()
    made.set_state(state)
    return made


_DEFINED: dict[tuple[str, str], Any] = {}


def _codes() -> set[Any]:
    """The code of every function of the course."""
    return {
        getattr(value, "__code__", None)
        for name, module in list(sys.modules.items())
        if name.startswith("week6.")
        for value in list(vars(module).values())
    } - {None}


def tensors(value: Any) -> list[Tensor]:
    """The tensors of a result, in the order in which they are told."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        return [t for pair in value.items() for part in pair for t in tensors(part)]
    return [t for part in value for t in tensors(part)] if isinstance(value, list | tuple) else []


def _same(value: Tensor, before: Tensor | None) -> bool:
    now = value.detach()
    return (
        before is not None
        and now.shape == before.shape
        and now.dtype == before.dtype
        and torch.equal(now.nan_to_num(), before.nan_to_num())
    )


def _dumped(value: Any) -> bytes:
    try:
        return pickle.dumps(value)
    except Exception:
        return b"changed"


def _error(error: BaseException) -> list[Any]:
    """Name, text, and the last line of the student's own that an error passed through."""
    try:
        text = str(error)[:500]
    except BaseException:
        text = ""
    where, step = "", error.__traceback__
    while step is not None:
        filename = step.tb_frame.f_code.co_filename
        if filename.startswith("<ipython-cell-"):
            line = linecache.getline(filename, step.tb_lineno).strip()[:200]
            where = f"line {step.tb_lineno} of cell {filename[14:-1]}" + (f": `{line}`" if line else "")
        step = step.tb_next
    return [type.__getattribute__(type(error), "__name__")[:60], text, where]


def _in_short(error: BaseException) -> str:
    name, text, where = _error(error)
    return f"{name}: {text}"[:200] + (f", at {where}" if where else "")


def _seed_everything(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
