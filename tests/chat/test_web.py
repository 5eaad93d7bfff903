"""The chat in a browser: answers as they come, who is let in, and that nothing that is said is HTML."""

import asyncio
import json
import re
import socket
import threading
import time
from functools import partial

import pytest
from tornado.testing import AsyncHTTPTestCase

from tests.chat.talks import NASTY, session
from week6 import cli
from week6.chat import web
from week6.chat.session import MAX_CHARACTERS, MessageError, Reply, Said
from week6.cli import main
from week6.machine.checkpoint import RunError

EVIL = "<img src=x onerror=alert(1)>"


def message(text="hello !", **changes):
    return json.dumps({"text": text, "temperature": 1.0, "seed": 3, "memory": False} | changes)


class Browser(AsyncHTTPTestCase):
    """Asks as the page does."""

    def get_app(self):
        self.talk = session(memory=0)
        return web.application(self.talk)

    def fetch(self, path, **named):
        """Patient: on a machine that has other work tornado's five seconds are few."""
        asked = partial(self.http_client.fetch, self.get_url(path), raise_error=False, request_timeout=60, **named)
        return self.io_loop.run_sync(asked, timeout=90)

    def ask(self, path, body=None, host=None, **headers):
        """Status and content of an answer."""
        named = {"Content-Type": "application/json"} if body is not None else {}
        named |= {name.replace("_", "-"): value for name, value in headers.items()}
        named |= {"Host": host} if host else {}
        method = "GET" if body is None else "POST"
        self.answer = self.fetch(path, method=method, body=body, headers=named)
        return self.answer.code, self.answer.body.decode()


class TestSpeaking(Browser):
    def test_answers_are_those_of_the_session(self):
        same = session(memory=0)
        for text in ("hello quantum !", "how do i bake bread ?"):
            code, found = self.ask("/say", message(text))
            heard = [json.loads(line) for line in found.splitlines()]
            turn = same.send(text, 1.0, 3)
            assert code == 200 and self.talk.turns[-1] == turn
            assert [x["text"] for x in heard if x["policy"] is None] == list(turn.notes)
            for name, reply in turn.replies.items():
                own = [x for x in heard if x["policy"] == name]
                assert "".join(x["text"] for x in own).strip() == reply.text == own[-1]["reply"]["text"]
                reward = None if reply.rewards is None else pytest.approx(sum(reply.rewards))
                assert own[-1]["reply"]["reward"] == reward and len(own) == len(reply.pieces) + 1
        code, found = self.ask("/conversation")
        shown = json.loads(found)
        assert [p["label"] for p in shown["policies"]] == ["base", "SFT", "PPO", "DPO"] and shown["memory"] is False
        assert [turn["user"] for turn in shown["turns"]] == [turn.user for turn in same.turns]
        assert shown["turns"][0]["notes"] and shown["turns"][0]["replies"]["dpo"]["text"]

    def test_a_piece_does_not_wait_for_the_next(self):
        """The second one is only made when the first has been heard."""
        heard, reached = threading.Event(), []

        def stream(*_):
            yield Said("sft", "one")
            reached.append(heard.wait(20))
            yield Said("sft", "", Reply("one", (), None, None, True))

        self.talk.stream = stream
        pieces = []

        def hear(piece):
            pieces.append(piece)
            heard.set()

        headers = {"Content-Type": "application/json"}
        self.fetch("/say", method="POST", body=message(), headers=headers, streaming_callback=hear)
        assert reached == [True] and json.loads(pieces[0])["text"] == "one"

    def test_one_answer_at_a_time_and_a_window_that_is_closed(self):
        """A second message, and a wish to forget, are refused while an answer is made; it ends when nobody listens."""

        def stream(*_):
            for _ in range(100_000):
                yield Said("sft", "on")

        self.talk.stream = stream
        headers = {"Content-Type": "application/json"}

        async def code_of(path):
            url = self.get_url(path)
            named = {"method": "POST", "body": message(), "headers": headers, "request_timeout": 60}
            return (await self.http_client.fetch(url, raise_error=False, **named)).code

        async def meanwhile():
            window, asks = await asyncio.open_connection("127.0.0.1", self.get_http_port())
            head = "POST /say HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            asks.write(f"{head}Content-Length: {len(message())}\r\n\r\n{message()}".encode())
            await window.readuntil(b"sft")
            codes = [await code_of("/say"), await code_of("/clear")]
            asks.close()
            del self.talk.stream
            while (last := await code_of("/say")) == 409:
                await asyncio.sleep(0.01)
            return [*codes, last]

        assert self.io_loop.run_sync(meanwhile, timeout=90) == [409, 409, 200]
        assert len(self.talk.turns) == 1

    def test_messages_that_cannot_be_answered(self):
        for body, why in (
            (message(""), "This message is empty"),
            (message("bread " * 200), "202 tokens; at most 104"),
            (message(temperature=0.01), "must lie between 0.05 and 5.0"),
            (message(temperature="warm"), "The temperature is 'warm'"),
            (message(seed=1.5), "The seed is 1.5"),
            (message(text=[1]), "it must be text"),
            ("[" * 5000, "Expected text, temperature, seed and memory"),
            ("{}", "Expected text, temperature, seed and memory"),
            ("[1]", "Expected text, temperature, seed and memory"),
        ):
            code, found = self.ask("/say", body)
            assert code == 400 and why in json.loads(found)["error"]
        assert self.talk.turns == [] and self.ask("/say", message(temperature=0))[0] == 200

    def test_memory_and_clear(self):
        self.ask("/say", message(memory=True))
        assert self.talk.memory is None and json.loads(self.ask("/conversation")[1])["memory"]
        self.ask("/say", message())
        assert self.talk.memory == 0
        assert self.ask("/clear", "{}")[0] == 200 and self.talk.turns == []

    def test_answers_are_made_one_after_another(self):
        """By one thread: two would share the cores, and the conversation."""
        at_once, most = [], []

        def work():
            at_once.append(1)
            most.append(len(at_once))
            time.sleep(0.02)
            at_once.pop()

        async def three():
            room = web.Room(self.talk)
            await asyncio.gather(*(room.do(work) for _ in range(3)))

        self.io_loop.run_sync(three)
        assert most == [1, 1, 1]


class TestWhoIsLetIn(Browser):
    def test_another_host_s_name(self):
        """A web site whose name was made to lead to this machine sends its own."""
        for host in ("evil.example", f"evil.example:{self.get_http_port()}", "127.0.0.1.evil.example", "10.0.0.1"):
            for path, body in (("/", None), ("/conversation", None), ("/say", message()), ("/nothing", None)):
                assert self.ask(path, body, host=host)[0] == 403
        assert self.talk.turns == []
        for host in (f"localhost:{self.get_http_port()}", "127.0.0.1:9999"):  # a tunnel has another port
            assert self.ask("/", host=host)[0] == 200

    def test_another_site_s_page(self):
        here = f"http://127.0.0.1:{self.get_http_port()}"
        for origin in ("http://evil.example", "null", "http://127.0.0.1:1", "https" + here[4:]):
            assert self.ask("/say", message(), Origin=origin)[0] == 403
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):  # what a form can send
            assert self.ask("/say", message(), Content_Type=kind)[0] == (400 if kind.startswith("multipart") else 415)
        assert self.talk.turns == [] and self.ask("/say", message(), Origin=here)[0] == 200
        assert "Access-Control-Allow-Origin" not in self.answer.headers

    def test_other_pages_and_other_ways_to_ask(self):
        assert self.ask("/../session.py")[0] == 404 and self.ask("/static/x")[0] == 404
        for method in ("PUT", "DELETE", "POST"):
            body = None if method == "DELETE" else "{}"
            code = self.fetch("/chat.js", method=method, body=body, headers={"Content-Type": "application/json"}).code
            assert code == 405


class TestNothingSaidIsHTML(Browser):
    def test_it_is_sent_as_data(self):
        self.talk.stream = lambda *_: iter([Said("sft", EVIL), Said("sft", "", Reply(EVIL, (), None, None, True))])
        _, found = self.ask("/say", message(NASTY))
        assert self.answer.headers["Content-Type"].startswith("application/x-ndjson")
        assert self.answer.headers["X-Content-Type-Options"] == "nosniff"
        assert json.loads(found.splitlines()[0])["text"] == EVIL

    def test_the_page_runs_its_own_script_only_and_asks_nobody_else(self):
        for path, (_, kind) in web.FILES.items():
            _, found = self.ask(path)
            assert self.answer.headers["Content-Type"].startswith(kind)
            assert "default-src 'none'; script-src 'self'" in self.answer.headers["Content-Security-Policy"]
            assert "://" not in found and not re.search(r"<script[^>]*>[^<]|\son\w+=|style=", found)

    def test_the_script_writes_text_alone(self):
        _, script = self.ask("/chat.js")
        ways = (
            r"innerHTML|outerHTML|insertAdjacent|setHTML|document\.write|DOMParser|ContextualFragment|eval|Function\("
        )
        assert not re.search(ways, script) and script.count("textContent") > 3


def test_a_port_that_is_taken(capsys, monkeypatch):
    monkeypatch.setattr(cli, "load_session", lambda folder: session())
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(RunError, match=rf"--port {port}: cannot be listened on \(.*\), expected a free one"):
            web.serve(session(), port)
        assert main(["chat", "runs/x", "--web", "--port", str(port)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and "choose another, or end the program" in captured.err
    assert main(["chat", "runs/x", "--web", "--port", "80"]) == 2
    assert "--port: got 80, expected a whole number from 1024 to 65535" in capsys.readouterr().err


def test_it_listens_on_the_loopback_address_and_ends_with_ctrl_c():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = []

    def tell(line):
        told.append(line)
        if line:
            with socket.socket() as beside:
                beside.bind(("127.0.0.2", port))  # taken too if it listened on every address
            with pytest.raises(OSError, match="in use"), socket.socket() as beside:
                beside.bind(("127.0.0.1", port))
            raise KeyboardInterrupt

    web.serve(session(), port, tell)
    assert f"http://127.0.0.1:{port}" in told[0] and told[1:] == [""]


def test_the_longest_message_fits_and_not_much_more_is_read(monkeypatch):
    """Six bytes a character where JSON escapes each of them."""
    listened = []
    monkeypatch.setattr(web.Application, "listen", lambda self, *where, **how: listened.append((where, how)) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        web.serve(session(), 1234)
    assert listened == [((1234, "127.0.0.1"), {"max_body_size": web.MOST_BYTES})]
    assert len(message("\x01" * MAX_CHARACTERS)) < web.MOST_BYTES < 2 * len(message("\x01" * MAX_CHARACTERS))


def test_a_message_error_is_said_before_anything_streams():
    with pytest.raises(MessageError):
        session().stream(" ")
