"""The chat: answers, implicit rewards, memory, bad messages; its window without a front end; and in a terminal."""

import base64
import dataclasses
import html
import json
import math
import random
import re
import shutil
import subprocess
import sys

import ipywidgets
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertLMHeadModel, GPT2Config, GPT2LMHeadModel

from tests.runs import finished_run, quick_preset
from week6.chat import session as module
from week6.chat.session import ChatSession, MessageError, load_session
from week6.chat.terminal import converse
from week6.classroom import widgets
from week6.cli import main
from week6.log_probs import response_log_probs
from week6.machine.checkpoint import RunError
from week6.run.models import new_policy
from week6.tasks.assistant import build_tokenizer

TOKENIZER = build_tokenizer()
NAMES = ("base", "sft", "ppo", "dpo")
NASTY = "hello <script>alert(1)</script> & \x1b[2J \"'"


def session(**options):
    policies = {name: new_policy(quick_preset(), TOKENIZER, seed) for seed, name in enumerate(NAMES)}
    return ChatSession(policies, TOKENIZER, betas={"ppo": 0.05, "dpo": 2.0}, **options)


def says(monkeypatch, *answers):
    """Makes every policy say these words, one answer after another."""

    right, given = module.sample, iter(answers)

    def fixed(policy, prompt, *rest):
        rollout = right(policy, prompt, *rest)
        ids = torch.tensor([TOKENIZER(next(given))["input_ids"] + [TOKENIZER.eos_token_id]])
        real = torch.ones_like(ids, dtype=torch.bool)
        return dataclasses.replace(
            rollout, responses=ids, response_mask=real, log_probs=real.float(), finished=real.any(1)
        )

    monkeypatch.setattr(module, "sample", fixed)


# --- answers -----------------------------------------------------------------------------------------------------


def test_every_policy_answers_and_the_seed_decides():
    first, again, other = session(), session(), session()
    one = first.send("how do i bake bread ?", 0.9, 3)
    assert list(one.replies) == list(NAMES) and len({reply.text for reply in one.replies.values()}) > 1
    assert again.send("how do i bake bread ?", 0.9, 3) == one
    assert other.send("how do i bake bread ?", 0.9, 4).replies != one.replies
    assert first.send("how do i bake bread ?", 0.9, 3).replies != one.replies  # another turn, other random numbers


def test_pieces_join_to_the_text():
    for reply in session().send("hello !").replies.values():
        assert "".join(reply.pieces[:-1] if reply.finished else reply.pieces).strip() == reply.text
        assert not reply.finished or reply.pieces[-1] == "<|end|>"


def test_implicit_rewards_are_beta_times_the_log_ratio(monkeypatch):
    talk = session()
    says(monkeypatch, *["mix the flour ."] * 4)
    turn = talk.send("hello !", temperature=0.3)
    prompt = TOKENIZER("<|user|> hello ! <|assistant|>", return_tensors="pt")["input_ids"]
    answer = TOKENIZER("mix the flour . <|end|>", return_tensors="pt")["input_ids"]
    ones = (torch.ones_like(prompt).bool(), torch.ones_like(answer).bool())
    own, reference = (
        response_log_probs(talk.policies[name], prompt, ones[0], answer, ones[1])[0].detach() for name in ("dpo", "sft")
    )
    reply = turn.replies["dpo"]
    assert reply.pieces == ("mix", " the", " flour", " .", "<|end|>")
    torch.testing.assert_close(torch.tensor(reply.rewards), 2.0 * (own - reference))
    torch.testing.assert_close(torch.tensor(reply.log_ratios), own - reference)
    assert turn.replies["base"].rewards is None and turn.replies["sft"].rewards is None


def test_each_policy_remembers_its_own_answers(monkeypatch):
    talk = session()
    says(monkeypatch, "hello !", "bye !", "go away .", "maybe later .", *["bye !"] * 4)
    talk.send("hi !")
    assert talk.messages("ppo", "thanks !") == [
        {"role": "user", "content": "hi !"},
        {"role": "assistant", "content": "go away ."},
        {"role": "user", "content": "thanks !"},
    ]
    prompt, left_out = talk._prompt("ppo", talk.policies["ppo"], "thanks !")
    assert left_out == 0
    assert TOKENIZER.decode(prompt[0]) == (
        "<|user|> hi ! <|assistant|> go away . <|end|> <|user|> thanks ! <|assistant|>"
    )
    talk.memory = 0
    prompt, left_out = talk._prompt("ppo", talk.policies["ppo"], "thanks !")
    assert left_out == 0 and TOKENIZER.decode(prompt[0]) == "<|user|> thanks ! <|assistant|>"


def test_the_oldest_turns_make_room_whole(monkeypatch):
    talk = session()
    says(monkeypatch, *["mix the flour and bake the bread ."] * 400)
    turns = [talk.send("how do i bake bread ?") for _ in range(8)]
    full = next(i for i, turn in enumerate(turns) if turn.notes)
    assert 2 < full < 7 and "Not seen by base, sft, ppo, dpo: the oldest turns" in turns[full].notes[0]
    prompt, left_out = talk._prompt("sft", talk.policies["sft"], "hello !")
    text = TOKENIZER.decode(prompt[0])
    assert left_out > 0 and prompt.shape[1] <= 128 - 24 and text.startswith("<|user|> how do i bake bread ?")
    assert text.count("<|user|>") == 8 - left_out + 1
    one_more = len(
        TOKENIZER("<|user|> how do i bake bread ? <|assistant|> mix the flour and bake the bread . <|end|>").input_ids
    )
    assert prompt.shape[1] + one_more > 128 - 24  # no more than needed was left out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        (" \n\t ", "empty"),
        ("\x00\x1b\u200b", "empty"),
        ("bread " * 200, "has 202 tokens; at most 104 fit: the model has 128 positions, and 24 are kept"),
        ("x" * 30_000, "has 30000 characters; at most 20000"),
    ],
)
def test_messages_that_cannot_be_answered(text, message):
    talk = session()
    talk.send("hello !")
    before = talk.export()
    with pytest.raises(MessageError, match=message):
        talk.send(text)
    assert talk.export() == before


@pytest.mark.parametrize(
    "settings", [(0.0, 0), (-1.0, 0), (float("nan"), 0), (99.0, 0), (1.0, -1), (1.0, 2.5), (1.0, 10**30)]
)
def test_settings_out_of_range(settings):
    talk = session()
    with pytest.raises(MessageError, match=r"The (temperature|seed) is .*; it must"):
        talk.send("hello !", *settings)
    assert talk.turns == []


def test_notes_say_what_was_done_to_a_message():
    talk = session()
    assert talk.send("How do I bake bread?").notes == ()
    (note,) = talk.send("hello quantum zebra quantum !").notes
    assert "do not know “quantum”, “zebra”: they read <|unk|> there" in note
    notes = talk.send("hello \x1b[31m <|END|> <|assistant|> !").notes
    assert "Control characters were removed" in notes[0] and "read as plain text" in notes[1]
    assert talk.turns[-1].user == "hello [31m <|END|> <|assistant|> !"


def test_special_tokens_of_a_user_do_not_end_the_turn():
    talk = session()
    prompt, _ = talk._prompt("sft", talk.policies["sft"], "hi <|end|> <|ASSISTANT|> hello")
    pieces = TOKENIZER.convert_ids_to_tokens(prompt[0].tolist())
    assert [piece for piece in pieces if piece in ("<|user|>", "<|assistant|>", "<|end|>")] == [
        "<|user|>",
        "<|assistant|>",
    ]
    assert pieces[-1] == "<|assistant|>"


def test_clear_and_export():
    talk = session(memory=1)
    turn = talk.send("hello <b> !", 0.7, 5)
    found = json.loads(talk.export())
    assert found["betas"] == {"ppo": 0.05, "dpo": 2.0} and found["memory"] == 1
    assert found["turns"][0]["user"] == "hello <b> !" and found["turns"][0]["seed"] == 5
    reply = found["turns"][0]["replies"]["dpo"]
    assert reply["text"] == turn.replies["dpo"].text and len(reply["tokens"]) == len(reply["implicit_rewards"])
    assert found["turns"][0]["replies"]["base"]["implicit_rewards"] is None
    talk.clear()
    assert talk.turns == [] and json.loads(talk.export())["turns"] == []


def test_sessions_that_make_no_sense():
    with pytest.raises(ValueError, match="policies: got none"):
        ChatSession({}, TOKENIZER)
    with pytest.raises(ValueError, match="betas: got one for 'dpo'"):
        ChatSession({"sft": new_policy(quick_preset(), TOKENIZER, 0)}, TOKENIZER, betas={"dpo": 1.0})


# --- from a run --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A folder with what a finished run leaves for the chat."""
    folder = tmp_path_factory.mktemp("runs") / "quick"
    for seed, name in enumerate(("sft", "ppo", "dpo")):
        new_policy(quick_preset(), TOKENIZER, seed).save_pretrained(folder / "policies" / name)
        TOKENIZER.save_pretrained(folder / "policies" / name)
    (folder / "config.json").write_text(json.dumps({"seed": 3, "preset": dataclasses.asdict(quick_preset())}))
    return folder


def test_a_session_from_a_run(run_folder):
    talk = load_session(run_folder)
    assert list(talk.policies) == list(NAMES) and talk.memory == 0
    assert talk.betas == {"ppo": quick_preset().ppo.beta, "dpo": quick_preset().dpo.beta}
    assert not any(p.requires_grad for policy in talk.policies.values() for p in policy.parameters())
    same = ChatSession(talk.policies, TOKENIZER, betas=talk.betas, memory=0)
    assert talk.send("how do i bake bread ?") == same.send("how do i bake bread ?")


def test_folders_without_policies(run_folder, tmp_path, capsys):
    with pytest.raises(RunError, match=r"holds no policies/sft.*make one with week6 run"):
        load_session(tmp_path / "nowhere")
    (tmp_path / "policies" / "sft").mkdir(parents=True)
    with pytest.raises(RunError, match=r"config.json is missing or of another version"):
        load_session(tmp_path)
    (tmp_path / "config.json").write_bytes((run_folder / "config.json").read_bytes())
    with pytest.raises(RunError, match=r"policies/sft is damaged"):
        load_session(tmp_path)
    assert main(["chat", str(tmp_path / "nowhere")]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and "holds no policies/sft" in captured.err


def test_damaged_weights(run_folder, tmp_path):
    folder = shutil.copytree(run_folder, tmp_path / "copy")
    weights = folder / "policies" / "dpo" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(RunError, match="policies/dpo is damaged"):
        load_session(folder)


TEMPLATES = {
    "no UTF-8": b"\xff\xfe{{",
    "no template": b"{% for",
    "of another kind": b"{{ messages.no.such }}",
    "that reaches for the system": b"{{ ''.__class__.__mro__[1].__subclasses__() }}",
}


@pytest.mark.parametrize("kind", TEMPLATES)
def test_a_damaged_template(run_folder, tmp_path, kind):
    folder = shutil.copytree(run_folder, tmp_path / "copy")
    (folder / "policies" / "sft" / "chat_template.jinja").write_bytes(TEMPLATES[kind])
    with pytest.raises(RunError, match=r"policies/sft is damaged \(.*\), expected a policy .*--resume makes it again"):
        load_session(folder)


def test_policies_of_another_kind(run_folder, tmp_path):
    folder = shutil.copytree(run_folder, tmp_path / "copy")
    few = GPT2LMHeadModel(GPT2Config(vocab_size=5, n_embd=8, n_head=1, n_layer=1, n_positions=128))
    few.save_pretrained(folder / "policies" / "ppo")
    with pytest.raises(RunError, match=r"policies/ppo is damaged \(\d+ tokens for 5 embeddings\), expected"):
        load_session(folder)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertLMHeadModel(BertConfig(vocab_size=len(TOKENIZER), **shape)).save_pretrained(folder / "policies" / "ppo")
    with pytest.raises(RunError, match=r"policies/ppo is damaged \(a BertLMHeadModel, and SFT's is none"):
        load_session(folder)


def test_a_policy_that_lacks_weights_or_brings_code(run_folder, tmp_path):
    """transformers would make up what is missing, and advise to trust the code."""
    folder = shutil.copytree(run_folder, tmp_path / "copy")
    policy = folder / "policies" / "ppo"
    tensors = load_file(policy / "model.safetensors")
    few = {name: x for name, x in tensors.items() if "attn" not in name}
    save_file(few, policy / "model.safetensors", {"format": "pt"})
    with pytest.raises(RunError, match=r"policies/ppo is damaged \(.*weights lack \d+ tensors of a GPT2LMHeadModel"):
        load_session(folder)
    config = {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}}
    (policy / "config.json").write_text(json.dumps(config))
    (policy / "evil.py").write_text("")
    with pytest.raises(RunError, match=r"damaged \(brings Python code of its own, and no code of others is ever run\)"):
        load_session(folder)


def test_a_template_that_writes_without_end(run_folder, tmp_path):
    folder = shutil.copytree(run_folder, tmp_path / "copy")
    (folder / "policies" / "sft" / "chat_template.jinja").write_text("{{ 'x' * 100000000 }}")
    with pytest.raises(RunError, match="policies/sft is damaged .*it writes 100000000 characters"):
        load_session(folder)


SPOILT = {
    "seed": "x", "preset.layers": 2, "preset.positions": 4, "preset.ppo.beta": 0.7, "preset.ppo.max_new_tokens": 0,
    "preset.dpo.beta": math.inf, "preset.name": "huge", "preset.ppo": [1], "preset.model": 3,
}  # fmt: skip


@pytest.mark.parametrize("key", SPOILT)
def test_settings_that_the_policies_were_not_made_with(tmp_path, key):
    """Another base model, or another beta, would answer without a word."""
    folder = shutil.copytree(finished_run(), tmp_path / "copy")
    found = json.loads((folder / "config.json").read_text())
    *parts, name = key.split(".")
    inner = found
    for part in parts:
        inner = inner[part]
    inner[name] = SPOILT[key]
    (folder / "config.json").write_text(json.dumps(found))
    with pytest.raises(RunError, match=r"config.json (is missing|has other settings).*: delete it, and week6 run"):
        load_session(folder)


def test_a_model_without_an_end_of_positions():
    """Such as Bloom or Mamba."""
    talk = session()
    for policy in talk.policies.values():
        del policy.config.n_positions
    assert talk.send("hello !").replies


def test_a_flipped_bit_and_a_missing_file(tmp_path):
    folder = shutil.copytree(finished_run(), tmp_path / "copy")
    assert load_session(folder).send("hello !").replies.keys() == set(NAMES)
    weights = folder / "policies" / "ppo" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-30] ^= 1
    weights.write_bytes(content)
    with pytest.raises(RunError, match="ppo/model.safetensors is damaged: its checksum differs from the one recorded"):
        load_session(folder)
    weights.unlink()
    with pytest.raises(RunError, match="ppo/model.safetensors is missing: finish the run with week6 run --resume"):
        load_session(folder)


@pytest.mark.parametrize("memory", [None, 0, 3, 200])
def test_a_long_conversation_costs_no_more_than_its_end(monkeypatch, memory):
    """The prompt is the longest that fits; how many are tried for it does not depend on the turns before."""
    talk = session(memory=memory)
    reply = module.Reply("mix the flour and bake the bread .", (), None, None, True)
    lengths = random.Random(0)
    for i in range(200):
        words = " ".join(["hello"] * lengths.randint(1, 9))
        talk.turns.append(module.Turn(words, 1.0, i, (), dict.fromkeys(NAMES, reply)))
    made, right = [], module.render
    monkeypatch.setattr(module, "render", lambda *arguments, **named: made.append(1) or right(*arguments, **named))
    prompt, left_out = talk._prompt("ppo", talk.policies["ppo"], "thanks !")
    assert len(made) <= 8
    first = 0 if memory is None else 200 - memory
    sizes = {
        skip: len(TOKENIZER(right(TOKENIZER, talk.messages("ppo", "thanks !", skip), reply=True))["input_ids"])
        for skip in range(max(first, 180), 201)
    }
    fewest = min(skip for skip, size in sizes.items() if size <= 128 - 24)
    assert left_out == fewest - first and prompt.shape[1] == sizes[fewest]


# --- the window --------------------------------------------------------------------------------------------------


def parts(window):
    """The widgets of a chat window by name, from what a user sees."""
    found = {}

    def walk(widget):
        for child in getattr(widget, "children", ()):
            walk(child)
        if isinstance(widget, ipywidgets.Button):
            found[widget.description] = widget
        elif isinstance(widget, ipywidgets.HTML):
            found[["transcript", "said", "link"][sum(isinstance(w, ipywidgets.HTML) for w in found.values())]] = widget
        elif not isinstance(widget, ipywidgets.Box):
            found[type(widget).__name__] = widget

    walk(window)
    return found


def test_send_shows_four_answers_and_empties_the_box():
    talk = session()
    seen = parts(widgets.chat_window(talk))
    seen["Text"].value = "How do I bake bread?"
    seen["FloatSlider"].value, seen["BoundedIntText"].value = 0.5, 9
    seen["Send"].click()
    (turn,) = talk.turns
    assert (turn.temperature, turn.seed) == (0.5, 9) and seen["Text"].value == "" and not seen["Send"].disabled
    shown = seen["transcript"].value
    assert shown == widgets.transcript_html(talk)
    plain = " ".join(html.unescape(re.sub(r"<[^>]*>", "", shown)).split())
    for name in ("base", "sft"):
        assert turn.replies[name].text in plain
    for label in ("base", "SFT", "PPO", "DPO", "How do I bake bread?"):
        assert label in plain


def test_the_temperature_goes_to_two_and_the_legend_from_one_end_to_the_other():
    talk = session()
    slider = parts(widgets.chat_window(talk))["FloatSlider"]
    assert (slider.min, slider.value, slider.max) == (0.1, 1.0, 2.0)
    talk.send("hello !")
    legend = re.findall(r"&nbsp;([+-]?[\d.]+)&nbsp;</span>", widgets.transcript_html(talk))
    assert [float(x) / widgets.LARGEST_LOG_RATIO for x in legend] == [-1, -0.5, 0, 0.5, 1]


def test_a_whole_transcript_does_not_scroll():
    """The page that is only read shows the first answer too."""
    talk = session()
    talk.send("hello !")
    short, whole = widgets.transcript_html(talk), widgets.transcript_html(talk, whole=True)
    assert "max-height:420px;overflow:auto;" in short and "max-height" not in whole and "overflow" not in whole
    assert short.replace("max-height:420px;overflow:auto;", "") == whole


def test_every_token_carries_its_number(monkeypatch):
    talk = session()
    says(monkeypatch, *["mix the flour ."] * 4)
    reply = talk.send("hello !").replies["dpo"]
    shown = widgets.transcript_html(talk)
    for piece, reward in zip(reply.pieces, reply.rewards, strict=True):
        assert f"{html.escape(piece.strip())}: implicit reward {reward:+.3f}" in shown
    assert shown.count("title='") == 2 * len(reply.pieces) + 1  # PPO's and DPO's tokens, and the turn
    assert f"implicit reward {sum(reply.rewards):+.2f}" in shown and "PPO 0.05, DPO 2" in shown


def test_enter_sends():
    talk = session()
    seen = parts(widgets.chat_window(talk))
    seen["Text"].value = "hello !"
    seen["Text"]._submission_callbacks(seen["Text"])
    assert len(talk.turns) == 1


def test_what_users_and_models_write_is_escaped(monkeypatch):
    talk = session()
    turn = talk.send(NASTY)
    evil = dataclasses.replace(
        turn.replies["dpo"], text="<img src=x>", pieces=("<img src=x onerror='a'>",), log_ratios=(1.0,), rewards=(2.0,)
    )
    talk.turns[0] = dataclasses.replace(
        turn, replies=dict(turn.replies) | {"dpo": evil, "sft": dataclasses.replace(turn.replies["sft"], text="<i>x")}
    )
    shown = widgets.transcript_html(talk)
    assert "<script" not in shown and "<img" not in shown and "<i>x" not in shown and "\x1b" not in shown
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp;" in shown and "&lt;img src=x onerror=&#x27;a&#x27;&gt;" in shown


def test_a_bad_message_is_explained_and_kept():
    talk = session()
    seen = parts(widgets.chat_window(talk))
    seen["Send"].click()
    assert "This message is empty" in seen["said"].value and talk.turns == []
    seen["Text"].value = long = "bread " * 200
    seen["Send"].click()
    assert "202 tokens; at most 104" in seen["said"].value and seen["Text"].value == long and talk.turns == []
    seen["Text"].value = "hello !"
    seen["Send"].click()
    assert "202" not in seen["said"].value and len(talk.turns) == 1


def test_an_unexpected_error_is_shown_escaped(monkeypatch):
    talk = session()
    seen = parts(widgets.chat_window(talk))
    monkeypatch.setattr(talk, "send", lambda *_: 1 / 0)
    seen["Text"].value = "hello !"
    seen["Send"].click()
    assert "ZeroDivisionError: division by zero" in seen["said"].value and not seen["Send"].disabled
    assert seen["Text"].value == "hello !"


def test_clear_export_and_memory():
    talk = session(memory=0)
    seen = parts(widgets.chat_window(talk))
    seen["Text"].value = NASTY
    seen["Send"].click()
    seen["Export"].click()
    assert json.loads(seen["Textarea"].value)["turns"][0]["user"] == talk.turns[0].user
    data = re.search(r"href='data:application/json;base64,([^']*)'", seen["link"].value)[1]
    assert base64.b64decode(data).decode() == seen["Textarea"].value and "http" not in seen["link"].value
    seen["Clear"].click()
    assert talk.turns == [] and "Nothing said yet" in seen["transcript"].value
    assert seen["link"].value == "" and seen["Textarea"].value == ""
    assert seen["Checkbox"].value is False
    seen["Checkbox"].value, seen["Text"].value = True, "hello !"
    seen["Send"].click()
    assert talk.memory is None


def test_only_core_widgets_and_no_output_widget():
    for widget in parts(widgets.chat_window(session())).values():
        assert type(widget).__module__.startswith("ipywidgets.") and not isinstance(widget, ipywidgets.Output)


# --- the terminal ------------------------------------------------------------------------------------------------


def spoken(talk, *lines):
    """What the terminal shows for these lines and then Ctrl-D."""
    shown, given = [], iter(lines)

    def read():
        try:
            line = next(given)
        except StopIteration:
            raise EOFError from None
        if line is KeyboardInterrupt:
            raise KeyboardInterrupt
        return line

    converse(talk, read, shown.append)
    return "\n".join(shown)


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
        "/memory -1",
        "/export ~no-such-user/x.json", "/export \u202egnp.json", "/export a\0b",
    )  # fmt: skip
    for text in (
        "'-1', expected a whole number ≥ 0, or all",
        "Could not determine home",
        "a name that can be shown",
        "embedded null byte",
        "'warm', expected a number",
        "temperature is nan",
        "seed is -1",
        "no command /fly",
        "202 tokens",
    ):
        assert text in shown
    assert talk.turns == []
    spoken(talk, "/memory all", "hello !")
    assert talk.memory is None and talk.turns[0].temperature == 1.0


def test_no_control_characters_reach_the_terminal(monkeypatch):
    talk = session()
    says(monkeypatch, *["mix the flour ."] * 4)
    shown = spoken(talk, NASTY, "/\x1b[2Jx", "/seed \x1b[31m")
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", shown)


def test_interrupted():
    talk = session()
    assert spoken(talk, "hello !", KeyboardInterrupt).endswith("\n")
    assert len(talk.turns) == 1


def test_piped_input_with_bad_bytes(run_folder):
    lines = b"how do i bake bread ?\n\xff\xfe hello\n/temperature x\n/quit\nnever read\n"
    done = subprocess.run(
        [sys.executable, "-m", "week6", "chat", str(run_folder)], input=lines, capture_output=True, timeout=120
    )
    shown = done.stdout.decode()
    assert done.returncode == 0 and done.stderr == b""
    assert shown.count(" DPO  ") == 2 and "expected a number" in shown and "you>" not in shown
