"""The task hh: conversations parsed into prompt and two answers, held out by prompt, too long ones left out."""

import json

import pytest

from tests.small_gpt2 import byte_tokenizer, conversations
from week6.machine.checkpoint import RunError
from week6.sequences import encode_pairs
from week6.tasks import load_task
from week6.tasks.conversation import render
from week6.tasks.hh import CHAT_TEMPLATE, REFUSALS, _harmless, parse
from week6.tasks.requests import requests

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
            ("\n\nUser: Hi\n\nAssistant: A", "\n\nUser: Hi\n\nAssistant: B"),
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


def test_a_pair_that_comes_twice_counts_once(load):
    """With the choice the other way round it is another opinion."""
    rows = conversations(20)
    other = {"chosen": rows[0]["rejected"], "rejected": rows[0]["chosen"]}
    task, with_copies = load([*rows, other]), load([*rows, *rows, other, other])
    found, again = (
        [tuple(row.values()) for part in (data.pairs, data.heldout_pairs) for row in part]
        for data in (task, with_copies)
    )
    assert len(again) == len(set(again)) >= 20 and {prompt for prompt, *_ in again} == {prompt for prompt, *_ in found}


def test_the_chat_speaks_as_the_data_does(load):
    tokenizer = load(conversations()).tokenizer
    talk = [("user", "Hi"), ("assistant", "Hello."), ("user", "Why?")]
    messages = [{"role": role, "content": text} for role, text in talk]
    assert render(tokenizer, messages, reply=True) == (
        "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Why?\n\nAssistant:"
    )


ASKED = "\n\nHuman: Is it so?\n\nAssistant:"


@pytest.mark.parametrize("prompt", ["Is it so?", "  Is it so?\n", ASKED, f"{ASKED} \n", "\n\nHuman: Is it so?"])
@pytest.mark.parametrize("space", ["", " "])
def test_a_prompt_has_the_form_in_which_the_chat_asks(load, prompt, space):
    """Trained on "Is it so?" + "Yes.", a policy would be asked in another form than it knows."""
    rows = [{"prompt": f"{i} {prompt}" if i else prompt, "chosen": f"{space}Yes.", "rejected": "No"} for i in range(30)]
    task = load(rows)
    pairs = {row["prompt"]: row for part in (task.pairs, task.heldout_pairs) for row in part}
    asked = render(task.tokenizer, [{"role": "user", "content": "Is it so?"}], reply=True)
    assert asked == ASKED and pairs[asked]["chosen"] == " Yes." and pairs[asked]["rejected"] == " No"


def test_a_question_is_no_conversation_because_it_quotes_one(load):
    quoting = "What is this?\n\nHuman: Hi\n\nAssistant: Ho\n\nWell?"
    rows = [{"prompt": quoting + str(i), "chosen": "A talk.", "rejected": "No"} for i in range(30)]
    prompts = list(load(rows).prompts["prompt"])
    assert all(prompt.count("\n\nHuman:") == prompt.count("\n\nAssistant:") == 1 for prompt in prompts)


def test_an_answer_that_goes_on_with_another_turn_is_left_out(load):
    turns = [
        {"chosen": f"{ASKED} A.\n\nHuman: Go on.", "rejected": f"{ASKED} B."},
        {"prompt": "Why?", "chosen": "A.\n\nAssistant: B.", "rejected": "C."},
    ]
    for row in turns:
        bare = [{"prompt": f"Why {i}?", "chosen": "A.", "rejected": "C."} for i in range(20)]
        task = load([*(bare if "prompt" in row else conversations(20)), row])
        assert len(task.prompts) + len(task.heldout_prompts) == 20


def test_a_prompt_that_its_answer_eats_is_left_out_and_named(tmp_path):
    class Merging:
        """Reads the beginning of the third conversation otherwise where an answer follows."""

        def __getattr__(self, name):
            return getattr(TOKENIZER, name)

        def __call__(self, texts, **options):
            encoding = TOKENIZER(texts, **options)
            for text, row in zip(texts, encoding["input_ids"], strict=True):
                row[0] += "row three" in text and not text.endswith("Assistant:")
            return encoding

    rows = conversations(20)
    rows[2] = {key: text.replace("Human: ", "Human: row three ") for key, text in rows[2].items()}
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.warns(UserWarning, match=f"--data {path}: row 3 is left out: its prompt has no token of its own"):
        task = load_task("hh", Merging(), str(path), max_new_tokens=24)
    assert len(task.prompts) + len(task.heldout_prompts) == 19


def test_end_tokens_in_the_data_end_nothing(load):
    rows = [{name: text.replace("It is", "It<|endoftext|> is") for name, text in r.items()} for r in conversations()]
    task = load(rows)
    pairs = encode_pairs(TOKENIZER, task.pairs["prompt"], task.pairs["chosen"], task.pairs["rejected"])
    assert "It< |endoftext|> is" in task.pairs["chosen"][0]
    assert ((pairs.chosen == TOKENIZER.eos_token_id) & pairs.chosen_mask).sum() == len(pairs)


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
        (
            [{"text": "a"}],
            "got the columns 'text', expected 'prompt', 'chosen', 'rejected' or 'chosen', 'rejected'; name",
        ),
        (conversations(4), r"got 4 prompts with a usable pair \(of 4 rows\), expected 10 or more"),
        (conversations(9), r"got 9 prompts with a usable pair \(of 9 rows\), expected 10 or more"),
        ([{"chosen": "a", "rejected": "b"}] * 20, "got 0 prompts"),
        (
            [{"prompt": "a", "chosen": ["b"], "rejected": "c"}] * 20,
            r"line 1 of column chosen is \['b'\], expected",
        ),
    ],
)
def test_bad_data_is_one_sentence(load, rows, message):
    with pytest.raises(RunError, match=message):
        load(rows)


def test_ten_pairs_are_enough(load):
    task = load(conversations(10))
    assert (len(task.pairs), len(task.heldout_pairs)) == (8, 2)


def test_a_blank_prompt_asks_nothing(load):
    asked = [{"prompt": f"Question {i}?", "chosen": " Yes.", "rejected": " No."} for i in range(20)]
    task = load([*asked, {"prompt": " \n", "chosen": " Yes.", "rejected": " No."}])
    assert len(task.prompts) + len(task.heldout_prompts) == 20
    assert all(prompt.strip() for prompt in [*task.prompts["prompt"], *task.heldout_prompts["prompt"]])


def test_harmless_requests_are_refused_in_turn_and_otherwise_when_they_come_again():
    every, tokenizer = len(requests("training")), byte_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    first, again = (_harmless(tokenizer, 2 * every)[part] for part in (slice(every), slice(every, None)))
    assert [prompt for prompt, _ in first] == [prompt for prompt, _ in again] and len(dict(first)) == every
    said = [next(refusal for refusal in REFUSALS if refusal in answer) for _, answer in first + again]
    assert said[: len(REFUSALS)] == list(REFUSALS)
    assert all(one != other for one, other in zip(said[:every], said[every:], strict=True))
