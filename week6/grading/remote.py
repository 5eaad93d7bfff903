"""A student's function as the graders see it: each call goes over a pipe to a process in jail, and so do gradients.

Nothing that comes back is believed beyond what it is: numbers. A process that ends, says nonsense or takes too long is
ended with all its descendants, and the call raises.
"""

from __future__ import annotations

import builtins
import contextlib
import inspect
import io
import os
import pickle
import select
import socket
import subprocess
import sys
import time
import types
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from week6.checks.inspection import STUB
from week6.checks.solution import pasteable
from week6.checks.surroundings import TimeLimitReached
from week6.grading import wire, worker
from week6.grading.jail import PROCESSES, Jail

PATIENCE = 4.0
"""Seconds by the clock for each second of the processor, and so of a process that only sleeps."""
LOADING = 20.0
"""Seconds of computing that the statements which an answer needs may take."""


class ProcessEnded(Exception):
    """The student's process is no more, or cannot be understood."""


class Nursery:
    """A process with torch and the course loaded, from which those that run students' code are forked."""

    def __init__(self) -> None:
        mine, theirs = socket.socketpair()
        root = str(Path(__file__).resolve().parent.parent.parent)
        code = f"import sys; sys.path.insert(0, {root!r}); from week6.grading.worker import main; main({theirs.fileno()})"
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "TOKENIZERS_PARALLELISM": "false"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", code], pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env=environment,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        theirs.close()
        self.control = mine
        if mine.recv(1) != b"r":
            raise RuntimeError("the process that runs submissions could not start: is PyTorch whole?")

    def fork(self, place: Jail) -> Inmate:
        """A fresh process in jail."""
        mine, theirs = socket.socketpair()
        socket.send_fds(self.control, [pickle.dumps(place)], [theirs.fileno()])
        theirs.close()
        return Inmate(mine, int.from_bytes(self.control.recv(4), "little"))

    def close(self) -> None:
        """End it."""
        self.control.close()
        self.process.kill()
        self.process.wait()


class Inmate:
    """A process in jail, and the pipe to it. `trouble` says what a teacher should know."""

    def __init__(self, connection: socket.socket, pid: int) -> None:
        self.connection, self.pid = connection, pid
        self.trouble: list[str] = []
        self.odd: list[str] = []
        self.callbacks: list[Callable[..., Any]] = []
        self.ended = ""
        self.deadline = time.monotonic() + PATIENCE * LOADING
        self.computing = LOADING
        self.most = 0
        self.walls: list[str] = self._answer()["walls"]

    def allow(self, seconds: float) -> None:
        """From now on the process may compute for so long."""
        self.computing = self._computed() + seconds
        self.deadline = time.monotonic() + PATIENCE * seconds

    def ask(self, name: str, *arguments: Any) -> dict[str, Any]:
        """Let the process do something. Raises TimeLimitReached, or ProcessEnded with the reason."""
        if self.ended:
            raise TimeLimitReached if self.ended == "time" else ProcessEnded(self.ended)
        self._send((name, *arguments))
        while True:
            reply = self._answer()
            if "callback" not in reply:
                return reply
            self._send(self._called_back(reply))

    def close(self) -> None:
        """End it and every process that it has started."""
        self.connection.close()
        for _ in range(200):
            family = self._family()
            for process in reversed(family):
                with contextlib.suppress(psutil.Error):
                    process.kill()
            if not family:
                return
            time.sleep(0.005)
        self.trouble.append("a process that it has started could not be ended")

    def _family(self) -> list[psutil.Process]:
        """The process that waits outside of the jail, first, and all its descendants that live."""
        with contextlib.suppress(psutil.Error):
            outer = psutil.Process(self.pid)
            family = [outer, *outer.children(recursive=True)]
            return [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
        return []

    def _computed(self) -> float:
        """Seconds of the processor that all of them have used; ends them where they are too many."""
        family = self._family()
        self.most = max(self.most, len(family))
        if len(family) > PROCESSES:
            self._end("it started more than 60 processes")
        total = 0.0
        for process in family:
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
        return total

    def _end(self, why: str, trouble: str = "") -> None:
        self.ended = why
        self.trouble.append(trouble or why)
        self.close()
        raise TimeLimitReached if why == "time" else ProcessEnded(why)

    def _send(self, request: Any) -> None:
        file = io.BytesIO()
        _Pickler(file, self.callbacks).dump(request)
        data = file.getvalue()
        try:
            self.connection.settimeout(max(1.0, self.deadline - time.monotonic()))
            self.connection.sendall(len(data).to_bytes(8, "little") + data)
        except OSError:
            self._end("the process ended early", "its process ended early: does something in it exit, or crash?")

    def _answer(self) -> dict[str, Any]:
        try:
            reply = wire.decode(self)
        except (EOFError, ConnectionError):
            self._end("the process ended early", "its process ended early: does something in it exit, or crash?")
        except ValueError as error:
            self._end(f"it sent {error}", f"its process sent what no function gives: {error}")
        if not isinstance(reply, dict):
            self._end("it sent no answer", "its process sent what no function gives")
        self.odd += [str(text)[:200] for text in reply.get("odd") or () if str(text)[:200] not in self.odd][:10]
        return reply

    def send(self, data: bytes) -> None:
        """Unused: the grader sends pickles."""
        raise NotImplementedError

    def receive(self, count: int) -> bytes:
        """So many bytes from the process, in the time that it has."""
        parts = bytearray()
        wait = 0.02
        while len(parts) < count:
            ready, _, _ = select.select([self.connection], [], [], wait)
            if ready:
                part = self.connection.recv(min(count - len(parts), 2**20))
                if not part:
                    raise EOFError
                parts += part
                continue
            wait = 0.1
            if time.monotonic() > self.deadline or self._computed() > self.computing:
                self._end("time", "it never ended, or took too long, and was ended")
        return bytes(parts)

    def _called_back(self, reply: dict[str, Any]) -> tuple[str, Any]:
        """What a function of the grader's gives for what the student's code has handed to it."""
        try:
            function = self.callbacks[reply["callback"]]
            return "value", function(*reply["arguments"], **reply["named"])
        except Exception as error:
            return "error", f"{type(error).__name__}: {error}"[:300]


class _Pickler(pickle.Pickler):
    """Writes requests: functions as numbers to call back, classes of the graders as their source."""

    def __init__(self, file: io.BytesIO, callbacks: list[Callable[..., Any]]) -> None:
        super().__init__(file)
        self.callbacks = callbacks

    def persistent_id(self, value: Any) -> int | None:
        """A number for a function that the student's process cannot import."""
        if not isinstance(value, types.FunctionType | types.MethodType):
            return None
        if not (value.__module__ or "").startswith("week6.checks") and "<locals>" not in value.__qualname__:
            return None
        self.callbacks.append(value)
        return len(self.callbacks) - 1

    def reducer_override(self, value: Any) -> Any:
        """A class of the graders by its source, a generator of random numbers by its state."""
        if isinstance(value, type) and value.__module__.startswith("week6.checks"):
            return worker.defined, (pasteable(value), value.__name__)
        if isinstance(value, torch.Generator):
            return worker.generator, (value.get_state(),)
        return NotImplemented


class Answer:
    """The student's function. `signature` and `code` are what the graders look at; neither is the student's own."""

    def __init__(self, inmate: Inmate, about: dict[str, Any]) -> None:
        self.inmate = inmate
        parameters = about.get("parameters")
        if parameters is not None:
            with contextlib.suppress(ValueError, TypeError, KeyError):
                self.__signature__ = _signature(parameters)
        digest = zlib.crc32(str(about.get("text", "")).encode("utf-8", "replace"))
        self.__code__ = compile(repr(digest), "the student's", "eval")  # the graders draw fresh cases from its text

    def __call__(self, *arguments: Any) -> Any:
        seed = zlib.crc32(torch.get_rng_state().numpy().tobytes())
        torch.rand(1)
        told = [
            (("leaf" if a.requires_grad else "tensor"), a.detach().clone()) if isinstance(a, Tensor) else ("plain", a)
            for a in arguments
        ]
        reply = self.inmate.ask("call", told, seed)
        for i, value in reply.get("changed") or ():
            _put(arguments[i], value)
        models = {str(i): a for i, a in enumerate(arguments) if isinstance(a, nn.Module | torch.optim.Optimizer)}
        value = self._result(reply, models)
        leaves = [a for a in arguments if isinstance(a, Tensor) and a.requires_grad]
        return _with_gradients(self.inmate, reply.get("call"), leaves, value) if leaves else _without(value)

    def _result(self, reply: dict[str, Any], models: dict[str, Any]) -> Any:
        """What a reply says: a value, an iterator, or an error that is raised here."""
        print(str(reply.get("printed", "")), end="")
        _update(models, reply.get("state") or ())
        if "error" in reply:
            raise _error(*map(str, reply["error"]))
        return self._iterate(int(reply["iterator"]), models) if "iterator" in reply else reply.get("value")

    def _iterate(self, number: int, models: dict[str, Any]) -> Iterator[Any]:
        while True:
            reply = self.inmate.ask("next", number)
            value = self._result(reply, models)
            if reply.get("done"):
                return
            yield _without(value)


class _Asked(torch.autograd.Function):
    """Results of the student's process; their gradients are asked for there."""

    @staticmethod
    def forward(ctx: Any, inmate: Inmate, call: int, results: Sequence[Tensor], *leaves: Tensor) -> Any:  # noqa: D102
        ctx.inmate, ctx.call, ctx.shapes = inmate, call, [leaf.shape for leaf in leaves]
        ctx.dtypes = [leaf.dtype for leaf in leaves]
        ctx.set_materialize_grads(False)
        return tuple(result.detach().clone() for result in results)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:  # noqa: D102
        reply = ctx.inmate.ask("vjp", ctx.call, list(gradients))
        if "error" in reply:
            raise _error(*map(str, reply["error"]))
        found = reply.get("value")
        fit = isinstance(found, list) and len(found) == len(ctx.shapes)
        if not fit or any(g is not None and (type(g) is not Tensor or g.shape != s) for g, s in zip(found, ctx.shapes)):
            raise ProcessEnded("it sent gradients of another form")
        own = [None if g is None else _without(g).to(d) for g, d in zip(found, ctx.dtypes, strict=True)]
        return None, None, None, *own


def _with_gradients(inmate: Inmate, call: Any, leaves: list[Tensor], value: Any) -> Any:
    """The value, with those tensors joined to the leaves that are so in the student's process."""
    joined = [t for t in worker.tensors(value) if t.requires_grad]
    if not joined:
        return value
    results = iter(_Asked.apply(inmate, call, joined, *leaves))  # type: ignore[no-untyped-call]
    return _mapped(value, lambda t: next(results) if t.requires_grad else t)


def _without(value: Any) -> Any:
    """The value, without gradients."""
    return _mapped(value, lambda t: t.detach())


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same structure with each tensor changed, in the order in which they are told."""
    if isinstance(value, Tensor):
        return change(value)
    if type(value) is dict:
        return {_mapped(key, change): _mapped(item, change) for key, item in value.items()}
    return type(value)(_mapped(item, change) for item in value) if type(value) in (list, tuple) else value


def _put(argument: Any, value: Any) -> None:
    """Change an argument in place as the student's process has done."""
    if isinstance(argument, Tensor) and type(value) is Tensor:
        argument.data = value.detach()
    elif isinstance(argument, list) and isinstance(value, list):
        argument[:] = value
    elif isinstance(argument, dict) and isinstance(value, dict):
        argument.clear()
        argument.update(value)


def _update(models: dict[str, Any], states: Any) -> None:
    """Give models the weights and gradients, optimizers the step counts, that they have in the student's process."""
    for name, weights, extra in states:
        model = models.get(str(name))
        if isinstance(model, nn.Module):
            own = model.state_dict()
            with torch.no_grad():
                for key, tensor in weights.items():
                    if key in own and type(tensor) is Tensor and own[key].shape == tensor.shape:
                        own[key].copy_(tensor)
            for key, parameter in model.named_parameters():
                gradient = extra.get(key)
                fits = type(gradient) is Tensor and gradient.shape == parameter.shape
                parameter.grad = gradient.detach().to(parameter.dtype) if fits else None
        elif isinstance(model, torch.optim.Optimizer):
            for i, step in extra.items():
                model.state[str(i)] = {"step": torch.as_tensor(step).detach()}  # type: ignore[index]


def _signature(parameters: Any) -> inspect.Signature:
    made = [
        inspect.Parameter(
            str(name), inspect._ParameterKind(int(kind)), default=None if optional else inspect.Parameter.empty
        )
        for name, kind, optional in parameters
    ]
    return inspect.Signature(made)


def _error(name: str, text: str, where: str) -> Exception:
    """An error like the student's: of the same built-in class, or of one of that name."""
    known = getattr(builtins, name, None)
    kind = known if isinstance(known, type) and issubclass(known, Exception) else None
    if kind is NotImplementedError and text in ("", STUB):
        return NotImplementedError(*([text] if text else []))
    text = (text.split("\n")[0].rstrip(".") + (f", at {where}" if where else ""))[:400]
    if kind in (None, KeyError) or issubclass(kind, UnicodeError | OSError):
        kind = type("".join(c for c in name if c.isidentifier() or c.isalnum())[:60] or "Error", (Exception,), {})
    return kind(text)

