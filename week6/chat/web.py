"""The chat in a browser, on this machine alone: `week6 chat RUN --web`.

The page asks for an answer by POST /say, and reads it as it comes, a line of JSON for each piece. One conversation for
all windows; while an answer is being made, nobody else is answered.

What protects it: the server listens on the loopback address; it answers no request that was sent to another host's
name (a web site whose name is made to lead here: DNS rebinding), or from another site's page; the browser is told to
run the page's own script only; and that script writes what people and models say as text, never as HTML.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from http.client import responses
from pathlib import Path
from typing import Any

from tornado.iostream import StreamClosedError
from tornado.web import Application, RequestHandler

from week6.chat.session import ChatSession, MessageError, Reply
from week6.machine.checkpoint import RunError
from week6.pictures.plots import POLICIES

ADDRESS = "127.0.0.1"
HOSTS = (ADDRESS, "localhost")
"""Names by which a browser on this machine may call."""
MOST_BYTES = 200_000
"""Of a request: the longest message, escaped, and some more."""
PAGE = Path(__file__).parent / "page"
FILES = {
    "/": ("index.html", "text/html"),
    "/chat.js": ("chat.js", "text/javascript"),
    "/chat.css": ("chat.css", "text/css"),
}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Server": "week6",
}


def serve(session: ChatSession, port: int, tell: Callable[[str], object] = print) -> None:
    """Serve the chat until interrupted. Raises RunError where the port is not to be had."""

    async def forever() -> None:
        try:
            application(session).listen(port, ADDRESS, max_body_size=MOST_BYTES)
        except OSError as error:
            raise RunError(
                f"--port {port}: cannot be listened on ({error.strerror}), expected a free one: choose another, or end "
                "the program that has it"
            ) from error
        tell(f"The chat is at http://{ADDRESS}:{port} for browsers on this machine; Ctrl-C ends it.")
        await asyncio.Event().wait()

    try:
        asyncio.run(forever())
    except KeyboardInterrupt:
        tell("")


def application(session: ChatSession) -> Application:
    """What answers a browser's requests."""
    room = Room(session)
    files = [(path, _File, {"name": name, "kind": kind}) for path, (name, kind) in FILES.items()]
    talking = [(path, kind, {"room": room}) for path, kind in TALKING.items()]
    return Application([*files, *talking], default_handler_class=_Nothing)


class Room:
    """The conversation, and the one thread in which answers are made: the server hears others meanwhile."""

    def __init__(self, session: ChatSession) -> None:
        self.session = session
        self.few = session.memory or 0
        """How many earlier turns a policy sees that is not to see them all."""
        self.busy = False
        self._thread = ThreadPoolExecutor(1)

    def do(self, work: Callable[[], Any]) -> Awaitable[Any]:
        """What `work` returns."""
        return asyncio.get_running_loop().run_in_executor(self._thread, work)


class _Handler(RequestHandler):
    def set_default_headers(self) -> None:
        for name, value in HEADERS.items():
            self.set_header(name, value)

    def prepare(self) -> None:
        """Let only this machine's browsers in, and only from the page's own script."""
        asked = self.request
        if asked.host_name not in HOSTS:
            return self.refuse(403, f"This is the chat of {ADDRESS}; it was called by another name.")
        if asked.headers.get("Origin", f"http://{asked.host}") != f"http://{asked.host}":
            return self.refuse(403, "Pages of other sites are not answered.")
        if asked.method == "POST" and asked.headers.get("Content-Type", "").partition(";")[0] != "application/json":
            return self.refuse(415, "Expected application/json.")
        return None

    def refuse(self, status: int, why: str) -> None:
        self.set_status(status)
        self.finish({"error": why})

    def write_error(self, status_code: int, **_: Any) -> None:
        self.finish({"error": responses.get(status_code, "unknown")})


class _Nothing(_Handler):
    def prepare(self) -> None:
        super().prepare()
        if not self._finished:
            self.refuse(404, "There is no such page.")


class _File(_Handler):
    def initialize(self, name: str, kind: str) -> None:
        self.name, self.kind = name, kind

    def get(self) -> None:
        self.set_header("Content-Type", f"{self.kind}; charset=utf-8")
        self.finish((PAGE / self.name).read_bytes())


class _Talking(_Handler):
    def initialize(self, room: Room) -> None:
        self.room = room

    def free(self) -> bool:
        """Whether nobody is being answered; says so otherwise."""
        if self.room.busy:
            self.refuse(409, "An answer is being made; wait for its end.")
        return not self.room.busy


class _Conversation(_Talking):
    def get(self) -> None:
        talk = self.room.session
        self.finish(
            {
                "policies": [{"name": name, "label": _label(name)} for name in talk.policies],
                "missing": [_label(name) for name in talk.missing],
                "reference": _label(talk.reference),
                "memory": talk.memory is None,
                "turns": [
                    {
                        "user": turn.user,
                        "notes": list(turn.notes),
                        "replies": {name: _in_short(reply) for name, reply in turn.replies.items()},
                    }
                    for turn in talk.turns
                ],
            }
        )


class _Say(_Talking):
    gone = False

    def on_connection_close(self) -> None:
        self.gone = True

    async def post(self) -> None:
        if not self.free():
            return
        try:
            asked = json.loads(self.request.body)
            text, temperature, seed = asked["text"], asked["temperature"], asked["seed"]
            memory = asked["memory"] is True
        except (ValueError, KeyError, TypeError, RecursionError):
            self.refuse(400, "Expected text, temperature, seed and memory as JSON.")
            return
        room, self.room.busy = self.room, True
        try:
            room.session.memory = None if memory else room.few
            pieces = await room.do(lambda: room.session.stream(text, temperature, seed))
            self.set_header("Content-Type", "application/x-ndjson; charset=utf-8")
            while (said := await room.do(lambda: next(pieces, None))) is not None and not self.gone:
                reply = None if said.reply is None else _in_short(said.reply)
                self.write(json.dumps({"policy": said.policy, "text": said.text, "reply": reply}) + "\n")
                await self.flush()
        except MessageError as error:
            self.refuse(400, str(error))
        except StreamClosedError:  # nobody listens any more
            pass
        finally:
            room.busy = False


class _Clear(_Talking):
    def post(self) -> None:
        if self.free():
            self.room.session.clear()
            self.finish({})


TALKING: dict[str, type[_Talking]] = {"/conversation": _Conversation, "/say": _Say, "/clear": _Clear}


def _in_short(reply: Reply) -> dict[str, Any]:
    reward = None if reply.rewards is None else sum(reply.rewards)
    return {"text": reply.text, "finished": reply.finished, "reward": reward, "strange": reply.strange}


def _label(name: str) -> str:
    return POLICIES[name][0] if name in POLICIES else name
