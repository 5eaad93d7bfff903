"""The chat in a terminal: commands, answers piece by piece, what must not reach the screen."""

import json
import re

from tests.chat.talks import NASTY, says, session
from week6.chat import session as module
from week6.chat.session import Reply
from week6.chat.terminal import _ending, converse


def iter_of(*lines):
    """Reads these lines, and then Ctrl-D."""
    given = iter(lines)

    def read():
        try:
            return next(given)
        except StopIteration:
            raise EOFError from None

    return read


def spoken(talk, *lines):
    """What the terminal shows for these lines and then Ctrl-D."""
    shown, given = [], iter(lines)

    def write(text, end="\n"):
        shown.append(text + end)

    def read():
        try:
            line = next(given)
        except StopIteration:
            raise EOFError from None
        if line is KeyboardInterrupt:
            raise KeyboardInterrupt
        return line

    converse(talk, read, write)
    return "".join(shown)


def test_a_conversation_in_a_terminal(tmp_path):
    talk, file = session(), tmp_path / "talk.json"
    shown = spoken(
        talk, "/temperature 0.5", "/seed 7", "how do i bake bread ?", f"/export {file}", "", "/quit", "hello !"
    )
    (turn,) = talk.turns
    assert (turn.temperature, turn.seed) == (0.5, 7) and shown.startswith("Write a message, or /help.")
    assert all(reply.text in shown for reply in turn.replies.values()) and shown.count("implicit reward") == 2
    assert json.loads(file.read_text()) == json.loads(talk.export())
    assert "exists: choose another name" in spoken(talk, f"/export {file}")
    assert "cannot be written" in spoken(talk, f"/export {file}/x")
    assert "forgotten" in spoken(talk, "/clear") and talk.turns == []


def test_bad_commands_and_messages_change_nothing():
    talk = session(memory=0)
    shown = spoken(
        talk, "/temperature warm", "/temperature\tnan", "/seed -1", "/seed", "/fly", "/export", "bread " * 200,
        "/memory -1", "/temperature \u202e1",
        "/export ~no-such-user/x.json", "/export \u202egnp.json", "/export a\0b",
    )  # fmt: skip
    for text in (
        "'-1', expected a whole number ≥ 0, or all",
        "Could not determine home",
        "a name that can be shown",
        "embedded null byte",
        "'warm', expected a number",
        r"'\u202e1', expected a number",  # cleaned, it would be a number
        "temperature is nan",
        "seed is -1",
        "no command /fly",
        "202 tokens",
    ):
        assert text in shown
    assert talk.turns == []
    spoken(talk, "/memory all", "hello !")
    assert talk.memory is None and (talk.turns[0].temperature, talk.turns[0].seed) == (1.0, 0)


def test_no_control_characters_reach_the_terminal(monkeypatch):
    talk = session()
    says(monkeypatch, *["mix the flour ."] * 4)
    shown = spoken(talk, NASTY, "/\x1b[2Jx", "/seed \x1b[31m")
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", shown)


def test_interrupted_or_at_an_end_it_leaves_an_empty_line(monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    talk = session()
    assert spoken(talk, "hello !", KeyboardInterrupt).endswith("\n")
    assert len(talk.turns) == 1
    assert spoken(talk, "/help").endswith("\n")
    monkeypatch.setattr(talk, "stream", interrupted)
    assert spoken(talk, "hello !").endswith("\n")


def test_help_says_what_is_set_now():
    assert "(now 0.5)" in (shown := spoken(session(), "/temperature 0.5", "/seed 7", "/help"))
    assert "(now 7)" in shown and "(now all)" in shown
    assert "(now 0)" in spoken(session(), "/memory 0", "/temperature 2", "/seed 3", "/help")


def test_answers_come_piece_by_piece():
    """Each as soon as it is there: what a line has when the second token of an answer is still to come."""
    talk, calls = session(), []
    converse(talk, iter_of("hello !"), lambda text, end="\n": calls.append((text, end)))
    reply = talk.turns[0].replies["sft"]
    start = next(i for i, (text, _) in enumerate(calls) if text.strip() == "SFT")
    pieces = calls[start + 1 : start + 1 + len(reply.pieces)]
    assert all(end == "" for _, end in pieces) and len(reply.pieces) > 1
    assert "".join(text for text, _ in pieces).strip() == reply.text


def test_temperature_zero():
    talk = session(memory=0)
    shown = spoken(talk, "/temperature 0", "/seed 1", "hello !", "/seed 2", "hello !", "/temperature 0.01", "/help")
    one, two = talk.turns
    assert one.temperature == 0 and one.replies == two.replies
    assert "0.01; it must lie between 0.05 and 5.0, or be 0" in shown and "(now 0)" in shown


def test_rewards_that_mean_nothing_are_said_to(monkeypatch):
    talk = session()
    monkeypatch.setattr(module, "STRANGE", -10.0)
    assert spoken(talk, "hello !").count(": means nothing, SFT would hardly say this]") == 2
    monkeypatch.setattr(module, "STRANGE", 10.0)
    assert "means nothing" not in spoken(talk, "hello !")


def test_what_stands_behind_an_answer():
    talk = session()
    for text, finished, said in (("yes", True, ""), ("yes", False, " …"), ("", True, "(says nothing)")):
        assert _ending(talk, "sft", Reply(text, (), None, None, finished)) == said
        reply = Reply(text, (), (1.0, 2.0), (0.5, -2.0), finished, surprise=2.0)  # no more than may be
        assert _ending(talk, "dpo", reply) == f"{said}   [implicit reward -1.50]"


def test_policies_that_are_missing_are_named():
    assert "lacks PPO, DPO: week6 run --resume" in spoken(session(missing=("ppo", "dpo")))
    assert "lacks" not in spoken(session())
