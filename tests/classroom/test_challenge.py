"""The challenge: whom it ranks and how, what it refuses, and that nothing but numbers is read from an entry.

KL is held to a closed form: a policy whose next-token probabilities q are the same everywhere has, against one with p,
KL(q ‖ p) nats a token, and its answers have (1 − (1 − q_end)^T)/q_end tokens on average, T at most.
"""

import json
import math
import os
import pickle
from copy import deepcopy
from functools import partial
from types import SimpleNamespace

import pandas as pd
import pytest
import safetensors.torch
import torch
from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from tests.runs import task_once
from tools.build_notebooks import ROOT
from week6.classroom import challenge as module
from week6.classroom.challenge import COLUMNS, add_rows, as_text, challenge_prompts, read_entry, read_table, score
from week6.cli import main
from week6.machine.checkpoint import RunError, save_checkpoint
from week6.machine.optim import make_optimizer
from week6.recorded import recorded
from week6.reward_model import RewardModel
from week6.run.models import PRESETS, new_policy
from week6.tasks.assistant import read_request

TASK = task_once("assistant")
TOKENS = len(TASK.tokenizer)
ROW = {
    "by": "class", "entry": "a", "gold": 1.0, "gold_se": 0.1, "gold_low": 0.804, "gold_high": 1.196, "kl": 2.0,
    "kl_se": 0.1, "leash": "holds", "answers": 16, "prompts": 8, "sft": "0123abcd",
}  # fmt: skip


def untrained():
    return new_policy(PRESETS["lesson"], TASK.tokenizer, seed=0)


@torch.no_grad()
def same_everywhere(seed, scale):
    """A policy with the same next-token probabilities everywhere, and these."""
    policy = untrained()
    policy.transformer.ln_f.weight.zero_()
    direction = torch.randn(policy.config.n_embd, generator=torch.Generator().manual_seed(seed))
    policy.transformer.ln_f.bias.copy_(scale * direction)
    return policy, (policy.transformer.wte.weight @ policy.transformer.ln_f.bias).double().softmax(-1)


@pytest.fixture
def folder(tmp_path):
    """A saved policy, as the course saves its own."""
    path = tmp_path / "entry"
    untrained().save_pretrained(path)
    TASK.tokenizer.save_pretrained(path)
    return path


# --- prompts ---------------------------------------------------------------------------------------------------------


def test_prompts_are_new_known_to_the_world_and_the_same_at_every_call():
    prompts = challenge_prompts()
    assert prompts == challenge_prompts() and len(set(prompts)) == len(prompts) == 4 * 62
    assert not set(prompts) & {*TASK.prompts["prompt"], *TASK.heldout_prompts["prompt"]}
    groups = [read_request(prompt) for prompt in prompts]
    held = [read_request(prompt) for prompt in TASK.heldout_prompts["prompt"]]
    assert {request: groups.count(request) / 2 for request in groups} == {r: held.count(r) for r in held}
    assert TASK.tokenizer.unk_token_id not in {t for ids in TASK.tokenizer(prompts)["input_ids"] for t in ids}


def test_no_notebook_shows_a_prompt_of_the_challenge():
    said = [prompt.split("<|user|> ")[1].split(" <|assistant|>")[0] for prompt in challenge_prompts()]
    for path in [*ROOT.glob("notebooks/*.ipynb"), *ROOT.glob("solutions/*.ipynb")]:
        text = path.read_text(encoding="utf-8")
        assert [words for words in said if words in text] == [], path.name


# --- the score -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scale", "leash"), [(0.9, "holds"), (5.0, "too far")])
def test_kl_is_that_of_the_closed_form(scale, leash):
    policy, q = same_everywhere(1, scale)
    sft, p = same_everywhere(2, 0.4)
    end = q[TASK.tokenizer.eos_token_id]
    exact = ((q * (q / p).log()).sum() * (1 - (1 - end) ** TASK.max_new_tokens) / end).item()
    assert (exact < 2.5) if leash == "holds" else (exact > 3.5)
    row = score(policy, sft, TASK, challenge_prompts()[::8], answers=8)
    assert abs(row["kl"] - exact) < 4 * row["kl_se"] and 0 < row["kl_se"] < 0.3
    assert row["leash"] == leash and (row["answers"], row["prompts"]) == (31 * 8, 31)
    assert row == score(policy, sft, TASK, challenge_prompts()[::8], answers=8)  # the same weights, the same figures


def test_the_sft_model_itself_is_no_nat_away():
    policy = untrained()
    row = score(policy, policy, TASK, challenge_prompts()[:4], answers=2)
    assert abs(row["kl"]) < 1e-4 and row["sft"] == module.checksum(policy) != module.checksum(same_everywhere(1, 1)[0])


def judged_as(monkeypatch, gold, kl):
    monkeypatch.setattr(module, "judge", lambda *_: SimpleNamespace(gold=torch.tensor(gold), kl=torch.tensor(kl)))
    policy = untrained()
    return score(policy, policy, TASK, ["x"])


def test_interval_and_standard_error_are_those_of_the_prompts(monkeypatch):
    row = judged_as(monkeypatch, [[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]], [[1.0, 3.0]] * 3)
    se = (1 / 3) ** 0.5  # of three prompts with variance 1; two answers to a prompt are no two prompts
    assert row["gold"] == 2.0 and row["gold_se"] == pytest.approx(se, abs=1e-4)
    assert (row["gold_low"], row["gold_high"]) == pytest.approx((2 - 1.96 * se, 2 + 1.96 * se), abs=1e-4)
    assert row["kl"] == 2.0 and row["kl_se"] == 0.0 and list(row) == list(COLUMNS)[2:]


@pytest.mark.parametrize(("spread", "leash"), [(0.27, "holds"), (0.25, "too far")])
def test_two_standard_errors_above_the_limit_are_too_far(monkeypatch, spread, leash):
    kl = [[3.3 - spread], [3.3], [3.3 + spread]]  # the mean is 3.3, its standard error spread/√3
    row = judged_as(monkeypatch, [[0.0]] * 3, kl)
    assert row["leash"] == leash


def test_weights_that_compute_no_probabilities_are_refused():
    policy = untrained()
    with torch.no_grad():
        policy.transformer.wte.weight.mul_(1e38)  # finite, but logits overflow
    with pytest.raises(RunError, match=r"no answers can be sampled from it|not finite"):
        score(policy, untrained(), TASK, challenge_prompts()[:2], answers=2)


# --- what is read ----------------------------------------------------------------------------------------------------


def test_a_folder_a_file_and_a_checkpoint_give_the_same_policy(folder, tmp_path):
    policy = untrained()
    save_checkpoint(tmp_path / "step.safetensors", policy, make_optimizer(policy, 1e-3), {"step": 3})
    safetensors.torch.save_model(policy, str(tmp_path / "alone.safetensors"))
    other = new_policy(PRESETS["lesson"], TASK.tokenizer, seed=1)
    for path in (folder, folder / "model.safetensors", tmp_path / "step.safetensors", tmp_path / "alone.safetensors"):
        read = read_entry(path, other, TASK.tokenizer)
        assert module.checksum(read) == module.checksum(policy) and not any(p.requires_grad for p in read.parameters())
    assert module.checksum(other) != module.checksum(policy)  # the template is left as it was


def test_half_precision_is_read(tmp_path):
    untrained().to(torch.bfloat16).save_pretrained(tmp_path / "half")
    read = read_entry(tmp_path / "half", untrained(), TASK.tokenizer)
    assert {p.dtype for p in read.parameters()} == {torch.float32}


def change_config(path, **changes):
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | changes))
    return path


def with_tensors(path, change):
    tensors = safetensors.torch.load_file(path / "model.safetensors")
    change(tensors)
    safetensors.torch.save_file(tensors, path / "model.safetensors")
    return path


def other_model(path, model):
    model.save_pretrained(path)
    return path


def replaced(path, name, content):
    (path / name).write_bytes(content)
    return path


class Evil:
    """What a pickle may do when it is read."""

    def __reduce__(self):
        return os.mkdir, ("/tmp/week6-challenge-pickle-was-read",)


def pickled(path):
    (path / "model.safetensors").unlink()
    return replaced(path, "pytorch_model.bin", pickle.dumps(Evil()))


def spoilt(tensors):
    tensors["transformer.h.0.mlp.c_fc.weight"][0, 0] = float("nan")


def overflowing(tensors):
    tensors["transformer.ln_f.bias"] = torch.full((64,), 1e300, dtype=torch.float64)


def untied(tensors):
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"] + 1


def as_integers(tensors):
    tensors["transformer.ln_f.bias"] = tensors["transformer.ln_f.bias"].to(torch.int8)


def wider(path):
    config = GPT2Config(vocab_size=TOKENS, n_positions=128, n_embd=128, n_layer=2, n_head=4)
    return other_model(path, GPT2LMHeadModel(config))


def of_the_world(path):
    """A GPT-2 over another vocabulary."""
    return other_model(path, GPT2LMHeadModel(GPT2Config(vocab_size=300, n_embd=64, n_layer=2, n_head=4)))


def other_words(path):
    tokenizer = json.loads((path / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["bread"], vocabulary["rice"] = vocabulary["rice"], vocabulary["bread"]
    return replaced(path, "tokenizer.json", json.dumps(tokenizer).encode())


def reward_model_file(path):
    save_checkpoint(path / "reward.safetensors", RewardModel(untrained()))
    return path / "reward.safetensors"


def classifier(path):
    config = deepcopy(untrained().config)
    config.num_labels = 1
    return other_model(path, GPT2ForSequenceClassification(config))


def llama(path):
    return other_model(
        path,
        LlamaForCausalLM(
            LlamaConfig(
                vocab_size=TOKENS, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
            )
        ),
    )


def huge(path):
    with open(path / "model.safetensors", "ab") as file:
        file.truncate(10**9)  # sparse: no disk is filled
    return path


def run_of(path):
    (path / "policies" / "dpo").mkdir(parents=True)
    return path


HOSTILE = {
    "nothing there": (lambda path: path / "nothing", "is no policy"),
    "empty": (lambda path: replaced(path, "model.safetensors", b""), "cannot be read as safetensors"),
    "text": (lambda path: replaced(path, "model.safetensors", b"gold = 3\n" * 99), "cannot be read as safetensors"),
    "cut off": (
        lambda path: replaced(path, "model.safetensors", (path / "model.safetensors").read_bytes()[:-100]),
        "cannot be read as safetensors",
    ),
    "pickle": (pickled, "a pickle, which may run code"),
    "a device": (lambda path: path.parent.__class__("/dev/zero"), "is no policy"),
    "huge": (huge, "has 1000 MB of weights; expected at most"),
    "no weights": (lambda path: (path / "model.safetensors").unlink() or path, "holds no weights"),
    "an adapter": (lambda path: replaced(path, "adapter_config.json", b"{}"), "holds an adapter"),
    "a run": (run_of, "is a run; expected one of its policies"),
    "code": (lambda path: change_config(path, auto_map={"AutoModel": "evil.py"}), "Python code of its own"),
    "a reward model": (reward_model_file, "is a reward model"),
    "a classifier": (classifier, "is a reward model"),
    "NaN": (lambda path: with_tensors(path, spoilt), "holds NaN or infinite numbers in transformer.h.0.mlp.c_fc"),
    "overflow": (lambda path: with_tensors(path, overflowing), "holds NaN or infinite numbers in transformer.ln_f"),
    "a head of its own": (lambda path: with_tensors(path, untied), "lm_head of its own"),
    "integers": (lambda path: with_tensors(path, as_integers), "in torch.int8; expected floating-point"),
    "a tensor less": (lambda path: with_tensors(path, lambda t: t.pop("transformer.wpe.weight")), "lacks 1 tensors"),
    "a tensor more": (
        lambda path: with_tensors(path, lambda t: t.update({"evil\n\x1b[31m": torch.zeros(1)})),
        "has 1 tensors too many, such as evil",
    ),
    "another vocabulary": (of_the_world, "speaks another vocabulary: has vocab_size = 300"),
    "its weights alone": (lambda path: of_the_world(path) / "model.safetensors", "speaks another vocabulary"),
    "words exchanged": (other_words, "speaks another vocabulary: its tokenizer.json differs"),
    "a tokenizer that is none": (lambda path: replaced(path, "tokenizer.json", b"[1]"), "is no object"),
    "wider": (wider, "has n_embd = 128; expected 64"),
    "its weights, wider": (lambda path: wider(path) / "model.safetensors", r"of shape \(\d+"),
    "another family": (llama, "has model_type = 'llama'; expected 'gpt2'"),
    "another activation": (lambda path: change_config(path, activation_function="relu"), "function = 'relu'"),
    "no config": (lambda path: (path / "config.json").unlink() or path, "has no config.json that can be read"),
    "a deep config": (lambda path: replaced(path, "config.json", b"[" * 99_999), "has no config.json that can be read"),
    "a list for a config": (lambda path: replaced(path, "config.json", b"[]"), "has a config.json that is no object"),
    "odd architectures": (lambda path: change_config(path, architectures=3, n_layer=[2]), r"has n_layer = \[2\]"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_policy_over_the_vocabulary_is_refused_in_one_sentence(name, folder):
    spoil, said = HOSTILE[name]
    with pytest.raises(RunError, match=said) as refused:
        read_entry(spoil(folder), untrained(), TASK.tokenizer)
    message = str(refused.value)
    assert "\n" not in message and "\x1b" not in message and "; expected " in message and len(message) < 600
    assert not os.path.exists("/tmp/week6-challenge-pickle-was-read")


# --- the table -------------------------------------------------------------------------------------------------------


def table_of(*rows):
    return pd.DataFrame([ROW | row for row in rows], columns=list(COLUMNS)).astype(COLUMNS)


SPOILT = {
    "gold": math.nan, "kl": math.inf, "kl_se": -0.1, "leash": "maybe", "by": "", "entry": "\x1b[31mred",
    "gold_low": 9.0, "gold_high": math.inf,
}  # fmt: skip
"""It would stand first, or nowhere, or colour the terminal."""


def test_the_leash_comes_first_then_gold_and_a_later_score_replaces_an_earlier_one():
    table = table_of({"entry": "old", "gold": 1.5}, {"entry": "far", "gold": 2.9, "leash": "too far"})
    rows = [ROW | {"entry": "new", "gold": 2.0}, ROW | {"entry": "old", "gold": 0.5}]
    assert list(add_rows(table, rows)["entry"]) == ["new", "old", "far"]
    assert list(add_rows(table, rows)["gold"]) == [2.0, 0.5, 2.9]
    assert list(add_rows(table_of({"by": "course", "entry": "PPO"}), [ROW | {"entry": "PPO"}])["by"]) == [
        "course",
        "class",
    ]


def test_what_is_printed():
    text = as_text(table_of({"entry": "ada", "gold": 2.25, "kl": 2.5}, {"entry": "x" * 99, "leash": "too far"}))
    head, first, second = text.splitlines()
    assert "95 %" in head and "nats" in head
    assert first.split() == ["1.", "ada", "+2.25", "(+0.80", "to", "+1.20)", "2.50", "±", "0.10", "holds"]
    assert second.split()[0] == "–" and "too far" in second and len(second) < 100
    assert "more than one SFT model" in as_text(table_of({}, {"entry": "b", "sft": "ffffffff"}))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00\xff\xfe",
        b"name,gold\na,3\n",
        ",".join(COLUMNS).encode() + b"\nclass,a" + b",x" * 10 + b"\n",
        *(table_of({name: x}).to_csv(index=False).encode() for name, x in SPOILT.items()),
    ],
    ids=["empty", "binary", "another table", "no numbers", *SPOILT],
)
def test_a_file_that_is_no_table_is_refused_before_anything_is_scored(content, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "score", None)  # it would fail
    table = tmp_path / "mine.csv"
    table.write_bytes(content)
    assert main(["challenge", str(folder), "--table", str(table), "--reference", str(folder)]) == 2
    assert f"--table {table}: is no table of the challenge" in capsys.readouterr().err
    assert table.read_bytes() == content


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace(",1984,", ",1984.5,"), "column answers holds something else than whole numbers"),
        (lambda text: text.replace(",1984,", ",-1984,"), "or a number of answers or prompts below 1"),
        (lambda text: text.replace("holds,1984", "x,holds,1984", 1), "row 2 has 13 fields, expected 12"),
        (
            lambda text: text.replace("PPO", "P\u202ePO", 1),
            "a name in column entry is .*, expected one that can be shown",
        ),
        (lambda text: text.replace("holds", "too far", 1), "leash of .* is 'too far', which its kl contradicts"),
        (lambda text: text.replace("leash", "Leash"), "its columns are by, entry, .*, expected by, entry, gold, "),
    ],
)
def test_what_is_wrong_with_a_table(tmp_path, change, message):
    text = recorded("challenge").to_csv(index=False)
    (tmp_path / "mine.csv").write_text(change(text))
    with pytest.raises(RunError, match=message):
        read_table(tmp_path / "mine.csv")


def test_the_columns_of_a_table_may_be_in_any_order(tmp_path):
    recorded("challenge")[[*reversed(COLUMNS)]].to_csv(tmp_path / "mine.csv", index=False)
    assert read_table(tmp_path / "mine.csv").equals(recorded("challenge").astype(COLUMNS))


def test_a_reference_that_nothing_is_measured_from_is_refused(tmp_path, capsys):
    assert main(["challenge", "--reference", str(tmp_path)]) == 2
    assert f"--reference: got {tmp_path} and no entry to measure from it" in capsys.readouterr().err


def test_a_table_that_cannot_be_written_is_refused_before_anything_is_scored(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "score", None)  # it would fail
    (tmp_path / "file").write_text("x")
    table = tmp_path / "file" / "mine.csv"
    assert main(["challenge", str(folder), "--table", str(table), "--reference", str(folder)]) == 2
    assert f"--table {tmp_path}/file: {tmp_path}/file cannot be written to (Not a dir" in capsys.readouterr().err


def test_a_new_table_holds_the_course_s_own_entries(tmp_path, capsys):
    table = read_table(tmp_path / "none.csv")
    assert main(["challenge", "--table", str(tmp_path / "none.csv")]) == 0
    printed = capsys.readouterr().out
    for name in table["entry"]:
        assert f"course: {name}" in printed
    assert not (tmp_path / "none.csv").exists()  # it was only looked at


def test_recorded_entries_keep_the_rule_that_they_set():
    table = recorded("challenge").astype(COLUMNS)
    assert set(table["by"]) == {"course"} and table["sft"].nunique() == 1
    assert (table["prompts"] == len(challenge_prompts())).all() and (table["answers"] == 8 * table["prompts"]).all()
    assert (table["leash"] == "holds").all() and (table["kl"] <= 3).all()
    gold = dict(zip(table["entry"], table["gold"], strict=True))
    assert max(gold, key=gold.get) != "SFT" and abs(table.set_index("entry").loc["SFT", "kl"]) < 1e-3
    assert [name[:3] for name in gold] == ["SFT", "PPO", "DPO"]


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def few(monkeypatch):
    """Scores from a few answers."""
    monkeypatch.setattr(module, "score", partial(score, prompts=challenge_prompts()[::31], answers=2))


@pytest.mark.usefixtures("few")
def test_several_entries_give_several_rows_and_a_broken_one_stops_none(folder, tmp_path, capsys):
    moved = tmp_path / "moved"
    same_everywhere(1, 0.3)[0].save_pretrained(moved)
    broken = tmp_path / "broken"
    broken.mkdir()
    table = tmp_path / "class" / "table.csv"
    words = ["challenge", str(moved), str(broken), str(folder), "--table", str(table), "--reference", str(folder)]
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.err.count("week6: error") == 1 and f"{broken} holds no weights" in captured.err
    rows = read_table(table)
    mine = rows[rows["by"] == "class"].set_index("entry")
    assert set(mine.index) == {str(moved), str(folder)} and set(rows["by"]) == {"class", "course"}
    assert abs(mine.loc[str(folder), "kl"]) < 1e-4 < mine.loc[str(moved), "kl"]
    assert "1." in captured.out and "more than one SFT model" in captured.out
    before = table.read_bytes()
    assert main([*words[:2], str(folder), "--table", str(table), "--reference", str(folder)]) == 0  # once more
    assert table.read_bytes() == before


@pytest.mark.usefixtures("few")
def test_a_row_that_comes_meanwhile_is_kept(folder, tmp_path, monkeypatch):
    table, quick = tmp_path / "table.csv", module.score

    def meanwhile(*arguments):
        table_of({"entry": "somebody else"}).to_csv(table, index=False)
        return quick(*arguments)

    monkeypatch.setattr(module, "score", meanwhile)
    assert main(["challenge", str(folder), "--table", str(table), "--reference", str(folder)]) == 0
    assert {"somebody else", str(folder)} <= set(read_table(table)["entry"])


@pytest.mark.usefixtures("few")
def test_no_name_is_a_formula_or_breaks_a_line(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("=1+1", "two\nlines, with a comma"):
        untrained().save_pretrained(tmp_path / name)
        assert main(["challenge", name, "--table", "table.csv", "--reference", str(folder)]) == 0
    names = list(read_table(tmp_path / "table.csv").query("by == 'class'")["entry"])
    assert set(names) == {"./=1+1", "two lines, with a comma"}


@pytest.mark.parametrize("flag", ["entry", "--table", "--reference"])
@pytest.mark.parametrize("name", ["x" * 5000, "~nobody-of-this-name/x", "a\0b"], ids=["long", "of nobody", "NUL"])
def test_what_is_no_path_is_said(flag, name, folder, tmp_path, capsys):
    words = {"entry": str(folder), "--table": str(tmp_path / "table.csv"), "--reference": str(folder)} | {flag: name}
    given = ["challenge", words.pop("entry"), *(word for pair in words.items() for word in pair)]
    assert main(given) == 2
    error = capsys.readouterr().err
    assert f"error: {flag} " in error and "expected the path" in error and len(error) < 300


def test_the_reference_is_the_lesson_s_where_none_is_given(folder, tmp_path, monkeypatch, few):
    asked = []
    monkeypatch.setattr(module, "lesson", lambda preset: asked.append(preset.name) or SimpleNamespace(sft=untrained()))
    assert main(["challenge", str(folder), "--table", str(tmp_path / "table.csv")]) == 0
    assert asked == ["lesson"]
    assert PRESETS[asked[0]].n_pairs == 10_000
