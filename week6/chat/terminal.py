"""The chat in a terminal: `week6 chat RUN`."""

import sys
from collections.abc import Callable
from typing import Protocol

from week6.chat.session import ChatSession, MessageError, Reply, check_settings
from week6.machine.checkpoint import RunError, write_atomic
from week6.machine.lock import only_writer
from week6.machine.paths import place
from week6.pictures.plots import POLICIES
from week6.tasks.conversation import clean

HELP = """Write a message; every policy answers. Commands:
  /temperature T   how freely to sample, 0 for the likeliest tokens (now {temperature:g})
  /seed N          decides the samples (now {seed})
  /memory N        how many earlier turns the policies see, or all (now {memory})
  /clear           forget the conversation
  /export FILE     write the conversation to a JSON file
  /help, /quit"""


EXPECTED = {"/seed": "a whole number", "/memory": "a whole number ≥ 0, or all"}


class Write(Protocol):
    """Shows text, as `print` does."""

    def __call__(self, text: str, /, *, end: str = "\n") -> object:
        """`text`, and `end` behind it."""


def show(text: str, end: str = "\n") -> None:
    """Prints at once: a piece of an answer does not wait for its line."""
    print(text, end=end, flush=True)


def converse(session: ChatSession, read: Callable[[], str], write: Write) -> None:
    """Answer line by line until `read` raises EOFError, is interrupted, or gives /quit.

    Nothing that a user or a model writes reaches the terminal with control characters in it.
    """
    temperature, seed = 1.0, 0
    if session.missing:
        names = ", ".join(_label(name) for name in session.missing)
        write(f"This run is not finished, and lacks {names}: week6 run --resume makes what is missing.")
    write("Write a message, or /help.")
    while True:
        try:
            line = read().strip()
        except (EOFError, KeyboardInterrupt):
            write("")
            return
        command, value = [*line.split(maxsplit=1), "", ""][:2]
        try:
            if not line:
                continue
            elif command == "/quit":
                return
            elif command == "/help":
                memory = "all" if session.memory is None else session.memory
                write(HELP.format(temperature=temperature, seed=seed, memory=memory))
            elif command == "/clear":
                session.clear()
                write("The conversation is forgotten.")
            elif command == "/temperature":
                check_settings(wanted := float(value), seed)
                temperature = wanted
            elif command == "/seed":
                check_settings(temperature, number := int(value))
                seed = number
            elif command == "/memory":
                session.memory = _memory(value)
            elif command == "/export":
                write(_export(session, value))
            elif command.startswith("/"):
                write(f"There is no command {clean(command)[:40]}; /help lists them.")
            else:
                _answer(session, line, temperature, seed, write)
        except MessageError as error:
            write(str(error))
        except ValueError as error:
            no_number = f"{command}: got {value[:40]!r}, expected {EXPECTED.get(command, 'a number')}"
            write(no_number if line.startswith("/") else clean(str(error)))
        except KeyboardInterrupt:
            write("")
            return


def _memory(value: str) -> int | None:
    if value == "all":
        return None
    if int(value) < 0:
        raise ValueError(f"got {value}")
    return int(value)


def _answer(session: ChatSession, line: str, temperature: float, seed: int, write: Write) -> None:
    """Every answer on a line of its own, piece by piece as it comes."""
    speaking = None
    for said in session.stream(line, temperature, seed):
        if said.policy is None:
            write(f"  ({clean(said.text)})")
            continue
        piece = said.text
        if said.policy != speaking:
            speaking = said.policy
            write(f"  {_label(speaking):>5}  ", end="")
            piece = piece.lstrip()
        write(piece, end="")
        if said.reply is not None:
            speaking = None
            write(_ending(session, said.policy, said.reply))


def _ending(session: ChatSession, name: str, reply: Reply) -> str:
    """What stands behind an answer."""
    said = ("" if reply.text else "(says nothing)") + ("" if reply.finished else " …")
    if reply.rewards is None:
        return said
    means = f": means nothing, {_label(session.reference)} would hardly say this" if reply.strange else ""
    return f"{said}   [implicit reward {sum(reply.rewards):+.2f}{means}]"


def _label(name: str) -> str:
    return POLICIES[name][0] if name in POLICIES else name


def _export(session: ChatSession, value: str) -> str:
    if not value:
        return "Say where to: /export FILE"
    try:
        path = place(value, "/export")
        if clean(str(path)) != str(path):
            raise RunError(f"/export: got {str(path)!r}, expected a name that can be shown")
        with only_writer(path.parent):
            if path.exists():
                return f"{clean(str(path))} exists: choose another name."
            write_atomic(path, session.export())
    except RunError as error:
        return clean(str(error))
    except OSError as error:
        return f"{clean(str(path))} cannot be written ({clean(str(error))}); choose another name."
    return f"{len(session.turns)} turns written to {clean(str(path))}."


def stdin_reader() -> Callable[[], str]:
    """Reads a line of the standard input, with a prompt where somebody sits at it; bad bytes become a mark."""
    reconfigure = getattr(sys.stdin, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="replace")
    return lambda: input("you> " if sys.stdin.isatty() else "")
