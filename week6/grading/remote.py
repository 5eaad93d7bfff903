"""The grader's end of the pipe to a process in jail.

Nothing that comes back is believed beyond what it is: numbers. A process that ends, says nonsense or takes too long is
ended with all its descendants, and the request raises.
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import select
import socket
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import PreTrainedModel

from week6.checks.solution import pasteable
from week6.checks.surroundings import TimeLimitReached
from week6.grading import wire, worker
from week6.grading.jail import PROCESSES, Jail

PATIENCE = 2.9
"""Seconds of waiting for each second of the processor, for a process that sleeps; the graders' own patience is 3."""
LOADING = 20.0
"""Seconds of computing that the statements which an answer needs may take."""


class ProcessEnded(Exception):
    """The student's process is no more, or cannot be understood."""


class Nursery:
    """A process with torch and the course loaded, from which those that run students' code are forked."""

    def __init__(self) -> None:
        mine, theirs = socket.socketpair()
        root = str(Path(__file__).absolute().parents[2])
        code = (
            f"import sys; sys.path.insert(0, {root!r}); from week6.grading.forks import main; main({theirs.fileno()})"
        )
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
        self.waiting = PATIENCE * LOADING
        self.computing = LOADING
        self.walls: list[str] = self._answer()["walls"]

    def allow(self, seconds: float) -> None:
        """From now on the process may compute for so long."""
        self.computing = self._computed() + seconds
        self.waiting = PATIENCE * seconds

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
            self.connection.settimeout(max(1.0, self.waiting))
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
        answer: dict[str, Any] = reply
        self.odd += [str(text)[:200] for text in reply.get("odd") or () if str(text)[:200] not in self.odd][:10]
        return answer

    def send(self, data: bytes) -> None:
        """Unused: the grader sends pickles."""
        raise NotImplementedError

    def receive(self, count: int) -> bytes:
        """So many bytes from the process, in the time that it has."""
        parts, begun = bytearray(), time.monotonic()
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
            if time.monotonic() - begun > self.waiting or self._computed() > self.computing:
                self._end("time", "it never ended, or took too long, and was ended")
        self.waiting -= time.monotonic() - begun
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
        """A class of the graders by its source, a model by its parts, a generator of random numbers by its state."""
        if isinstance(value, type) and value.__module__.startswith("week6.checks"):
            return worker.defined, (pasteable(value), value.__name__)
        if isinstance(value, PreTrainedModel):  # its own hooks cannot be pickled
            hooks = [hook for hook in value._forward_pre_hooks.values() if hook.__module__.startswith("week6.checks")]
            parameters = dict(value.named_parameters(remove_duplicate=False))
            return worker.rebuilt, (type(value), value.config, parameters, value.training, hooks)
        if isinstance(value, torch.Generator):
            return worker.generator, (value.get_state(),)
        return NotImplemented
