"""The task hh: conversations parsed into prompt and two answers, held out by prompt, too long ones left out."""

import json

import pytest

from tests.small_gpt2 import byte_tokenizer, conversations
from week6.machine.checkpoint import RunError
from week6.sequences import encode_pairs
from week6.tasks import load_task
from week6.tasks.conversation import render
from week6.tasks.hh import parse

TOKENIZER = byte_tokenizer()
TOKENIZER.pad_token = TOKENIZER.eos_token


@pytest.fixture
def load(tmp_path):
    def from_rows(rows, max_new_tokens=24):
        path = tmp_path / "pairs.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)))
        return load_task("hh", TOKENIZER, str(path), max_new_tokens=max_new_tokens)

    return from_rows


class TestParse:
    def test_one_turn(self):
        assert parse("\n\nHuman: Hi\n\nAssistant: Hello.", "\n\nHuman: Hi\n\nAssistant: No.\n") == (
            "\n\nHuman: Hi\n\nAssistant:",
            " Hello.",
            " No.",
        )

    def test_the_prompt_holds_all_turns_but_the_last_answer(self):
        start = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Why?\n\nAssistant:"
        assert parse(f"{start} Because.", f"{start} Find out.") == (start, " Because.", " Find out.")

    @pytest.mark.parametrize(
        ("chosen", "rejected"),
        [
            ("\n\nHuman: Hi\n\nAssistant: A", "\n\nHuman: Ho\n\nAssistant: B"),
            ("\n\nHuman: Hi", "\n\nHuman: Hi"),
            ("\n\nHuman: Hi\n\nAssistant: A", "\n\nHuman: Hi\n\nAssistant: B\n\nHuman: C\n\nAssistant: D"),
            ("\n\nHuman: Hi\n\nAssistant: A\n\nHuman: C\n\nAssistant: D", "\n\nHuman: Hi\n\nAssistant: B"),
        ],
    )
    def test_conversations_that_part_earlier_are_no_pair(self, chosen, rejected):
        assert parse(chosen, rejected) is None


def test_both_forms_give_the_same_task(load):
    rows = conversations()
    parsed = [dict(zip(("prompt", "chosen", "rejected"), parse(r["chosen"], r["rejected"]), strict=True)) for r in rows]
    one, other = load(rows), load(parsed)
    for name in ("pairs", "heldout_pairs", "prompts", "heldout_prompts", "demonstrations"):
        assert getattr(one, name).to_dict() == getattr(other, name).to_dict()


def test_what_is_held_out_is_held_out_by_prompt(load):
    """Two pairs on one prompt must not stand on both sides."""
    rows = conversations(60)
    twice = [row | {"rejected": row["rejected"] + " Really."} for row in rows]
    task = load(rows + twice)
    train, heldout = set(task.prompts["prompt"]), set(task.heldout_prompts["prompt"])
    assert not train & heldout and len(train) == len(task.prompts) and len(heldout) == 12
    assert set(task.pairs["prompt"]) == train and list(task.heldout_pairs["prompt"]) == list(
        task.heldout_prompts["prompt"]
    )
    assert len(task.pairs) == 2 * len(train)


def test_the_chat_speaks_as_the_data_does(load):
    tokenizer = load(conversations()).tokenizer
    talk = [("user", "Hi"), ("assistant", "Hello."), ("user", "Why?")]
    messages = [{"role": role, "content": text} for role, text in talk]
    assert render(tokenizer, messages, reply=True) == (
        "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Why?\n\nAssistant:"
    )


def test_people_chose_so_there_is_no_gold_reward(load):
    task = load(conversations())
    assert task.gold is None and task.rates is None and task.best_gold is None
    assert all("It is" in text for text in task.pairs["chosen"])
    assert task.demonstrations["completion"] == task.pairs["chosen"]
    with pytest.raises(ValueError, match="gold: task 'hh' has none"):
        task.preference_probability(["a"], ["b"], ["c"])


def test_pairs_keep_their_tokens_and_their_limits(load):
    long = {"chosen": "\n\nHuman: Hi\n\nAssistant: " + "great " * 40, "rejected": "\n\nHuman: Hi\n\nAssistant: No."}
    endless = {
        "chosen": "\n\nHuman: " + "why " * 400 + "\n\nAssistant: A",
        "rejected": "\n\nHuman: " + "why " * 400 + "\n\nAssistant: B",
    }
    equal = {"chosen": "\n\nHuman: Equal\n\nAssistant: A", "rejected": "\n\nHuman: Equal\n\nAssistant: A"}
    empty = {"chosen": "\n\nHuman: Empty\n\nAssistant: ", "rejected": "\n\nHuman: Empty\n\nAssistant: A"}
    task = load([*conversations(), long, endless, equal, empty])
    assert len(task.prompts) + len(task.heldout_prompts) == 60
    pairs = encode_pairs(TOKENIZER, task.pairs["prompt"], task.pairs["chosen"], task.pairs["rejected"])
    assert pairs.chosen.shape[1] <= task.max_new_tokens
    first = pairs.prompts[0][pairs.prompt_mask[0]].tolist()
    assert first == TOKENIZER(task.pairs["prompt"][0])["input_ids"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "a"}], "got the columns text, expected prompt, chosen, rejected or chosen, rejected"),
        (conversations(4), r"got 4 prompts with a usable pair \(of 4 rows\), expected 10 or more"),
        ([{"chosen": "a", "rejected": "b"}] * 20, "got 0 prompts"),
        ([{"prompt": "a", "chosen": ["b"], "rejected": "c"}] * 20, r"row 1 of column chosen is \['b'\], expected text"),
    ],
)
def test_bad_data_is_one_sentence(load, rows, message):
    with pytest.raises(RunError, match=message):
        load(rows)


def test_a_blank_prompt_asks_nothing(load):
    asked = [{"prompt": f"Question {i}?", "chosen": " Yes.", "rejected": " No."} for i in range(20)]
    task = load([*asked, {"prompt": " \n", "chosen": " Yes.", "rejected": " No."}])
    assert len(task.prompts) + len(task.heldout_prompts) == 20
    assert all(prompt.strip() for prompt in [*task.prompts["prompt"], *task.heldout_prompts["prompt"]])
