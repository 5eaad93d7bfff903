"""The task sentiment: where reviews are cut, that tokens survive it, its gold reward, its annotators, bad files."""

import gzip
import json
import os
import random
import time

import pandas as pd
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from tests.small_gpt2 import byte_tokenizer, conversations, reviews, small_gpt2
from week6.machine.checkpoint import RunError
from week6.preferences import bayes_accuracy
from week6.sequences import encode_demonstrations, encode_prompts
from week6.tasks import load_task
from week6.tasks.sentiment import PROMPT_TOKENS, SEED, classifier, split_reviews, vader
from week6.tasks.tables import _read_tsv, read_table

TOKENIZER = byte_tokenizer()
TOKENIZER.pad_token = TOKENIZER.eos_token
NEW = 20
MANY = 240
"""Reviews of the task: so many that a fifth of them has ten beginnings of its own."""


class Watched:
    """The tokenizer of these tests, but for what a test changes."""

    def __getattr__(self, name):
        return getattr(TOKENIZER, name)


def ids(text):
    return TOKENIZER(text)["input_ids"]


@pytest.fixture
def write(tmp_path):
    def put(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return put


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "reviews.txt"
    path.write_text("\n".join(reviews(MANY)))
    return load_task("sentiment", TOKENIZER, str(path), gold="vader", max_new_tokens=NEW)


class TestSplit:
    ROWS = split_reviews(TOKENIZER, reviews(), NEW, random.Random(0))

    def test_hardly_any_review_is_lost(self):
        assert len(self.ROWS) >= 0.95 * len(reviews())

    def test_lengths(self):
        """Prompts of every length from 2 to 8, completions with room for the end token."""
        assert {len(ids(prompt)) for prompt, _ in self.ROWS} == set(range(PROMPT_TOKENS[0], PROMPT_TOKENS[1] + 1))
        assert max(len(ids(p + c)) - len(ids(p)) for p, c in self.ROWS) < NEW

    def test_no_completion_is_a_space(self):
        """Of one token, where a space may be one."""
        assert "Ġ" in TOKENIZER.tokenize("a b c d e")
        rows = split_reviews(TOKENIZER, ["a b c d e f g h i"] * 40, 2, random.Random(0))
        assert rows and all(completion.strip() for _, completion in rows)

    def test_prompt_and_completion_are_a_beginning_of_the_review(self):
        whole = [" ".join(text.split()) for text in reviews()]
        assert all(any(text.startswith(p + c) for text in whole) for p, c in self.ROWS)

    def test_tokens_of_both_are_those_of_the_text(self):
        """Retokenising at a cut through a character or a merge would train on tokens that no sampling produces."""
        data = encode_demonstrations(TOKENIZER, *map(list, zip(*self.ROWS, strict=True)))
        for i, (prompt, completion) in enumerate(self.ROWS):
            first = data.prompts[i][data.prompt_mask[i]].tolist()
            second = data.responses[i][data.response_mask[i]].tolist()
            assert first == ids(prompt) and first + second == [*ids(prompt + completion), TOKENIZER.eos_token_id]
            assert len(second) <= NEW

    def test_a_merge_across_the_cut_leaves_the_text_out(self):
        """The tokenizer of this test reads its first token otherwise where more than a prompt follows."""

        class Merging(Watched):
            def __call__(self, texts, **options):
                encoding = TOKENIZER(texts, **options)
                for row in encoding["input_ids"]:
                    row[0] += len(row) > PROMPT_TOKENS[1]
                return encoding

        texts = [text for text in reviews() if len(ids(text)) > 2 * PROMPT_TOKENS[1]]
        assert len(texts) > 100 and split_reviews(Merging(), texts, NEW, random.Random(0)) == []

    def test_characters_of_several_tokens_make_no_prompt_longer(self):
        """Each of the three tokens of this character ends where it does."""
        texts = [" ".join(["漢" * 5] * k) for k in range(1, 40)]
        assert len(ids("漢")) == 3
        rows = split_reviews(TOKENIZER, texts, NEW, random.Random(0))
        assert rows and max(len(ids(prompt)) for prompt, _ in rows) <= PROMPT_TOKENS[1]

    def test_a_completion_ends_where_something_ends(self):
        text = (
            "I think the music and the dialogue of the film and the plot was great! "
            + "and the plot was great and " * 30
        )
        assert all((p + c).endswith("great!") for p, c in split_reviews(TOKENIZER, [text] * 9, 30, random.Random(0)))
        endless = "the film was great and " * 50
        rows = split_reviews(TOKENIZER, [endless] * 9, NEW, random.Random(0))
        assert len(rows) == 9
        for prompt, completion in rows:
            assert len(ids(prompt + completion)) - len(ids(prompt)) == NEW - 1

    def test_markup_of_line_breaks_goes(self):
        (row,) = split_reviews(TOKENIZER, ["I think<br /><br />the  film\nwas great!"], NEW, random.Random(0))
        assert "".join(row) == "I think the film was great!"

    @pytest.mark.parametrize("review", ["a" * 10**6, "great " * 10**6, " " * 10**6, "😀" * 10**6])
    def test_a_review_of_megabytes_costs_nothing(self, review):
        tokenised = []

        class Counting(Watched):
            def __call__(self, texts, **options):
                tokenised.extend(map(len, texts))
                return TOKENIZER(texts, **options)

        started = time.process_time()
        split_reviews(Counting(), [review] * 5, NEW, random.Random(0))
        assert max(tokenised, default=0) < 1000 and time.process_time() - started < 5


class TestTask:
    def test_held_out_prompts_begin_no_training_review(self, task):
        heldout = list(task.heldout_prompts["prompt"])
        assert 10 <= len(heldout) == len(set(heldout)) and not set(heldout) & set(task.prompts["prompt"])
        assert len(task.prompts) == len(task.demonstrations) >= 80

    def test_is_the_same_at_every_call(self, task, write):
        again = load_task("sentiment", TOKENIZER, write("r.txt", "\n".join(reviews(MANY))), None, "vader", NEW)
        for split in ("prompts", "heldout_prompts", "demonstrations"):
            assert getattr(again, split).to_dict() == getattr(task, split).to_dict()

    def test_prompts_fit_the_sampler(self, task):
        tokens, mask = encode_prompts(TOKENIZER, list(task.prompts["prompt"]))
        assert tokens.shape[1] == PROMPT_TOKENS[1] and mask.any(1).all()

    def test_four_answers_to_a_prompt_and_no_rates(self, task):
        assert task.answers_per_prompt == 4 and task.rates is None and task.pairs is None and task.name == "sentiment"

    def test_vader_reads_prompt_and_answer_together(self, task):
        scores = task.gold(["The film was", "The film was", "The film was aw"], [" wonderful.", " terrible.", "ful."])
        assert scores[0] > 0.3 and scores[1] < -0.3 and scores[2] < -0.3 and scores.abs().max() <= 1
        with pytest.raises(ValueError):
            task.gold(["a"], [])

    def test_annotators_agree_as_far_as_promised(self, task):
        """On pairs of reviews the ceiling lies between 0.8 and 0.95: work for a reward model, and not only noise."""
        texts, other = reviews(300, 1), reviews(300, 2)
        probability = task.preference_probability([""] * 300, texts, other)
        assert 0.8 < bayes_accuracy(probability) < 0.95


def test_rated_reviews_are_compared_and_no_held_out_one_twice(write):
    """Held-out pairs without a text in common are independent: their accuracy has a standard error."""
    rows = [f"{text}\t{i % 5 - 2},{i % 7 - 3}" for i, text in enumerate(reviews(MANY))]
    path = write("rated.tsv", "\n".join(["text\tratings", *rows]))
    task = load_task("sentiment", TOKENIZER, path, None, "vader", 60, "ratings")
    train, heldout = ([*pairs["chosen"], *pairs["rejected"]] for pairs in (task.pairs, task.heldout_pairs))
    assert not task.pairs_share_prompts and len(heldout) > MANY / 10
    assert len(set(heldout)) == len(heldout) and not set(heldout) & set(train)
    assert set(task.pairs["prompt"]) == {TOKENIZER.eos_token}


@pytest.mark.parametrize("ratings", [None, "ratings"])
def test_of_equal_texts_none_stands_on_both_sides(write, ratings):
    """However they are spaced; and no rated text is compared with itself."""
    texts = reviews(150)
    rows = [
        f"{text.replace(' ', '  ') if k else text}\t{i % 5},{i % 3}" for k in range(5) for i, text in enumerate(texts)
    ]
    task = load_task(
        "sentiment", TOKENIZER, write("r.tsv", "\n".join(["text\tratings", *rows])), None, "vader", 60, ratings
    )
    trained = {" ".join((row["prompt"] + row["completion"]).split()) for row in task.demonstrations}
    heldout = list(task.heldout_prompts["prompt"])
    assert len(trained) > 100 and len(heldout) > 5
    without = {" ".join(text.split()) for text in texts} - trained
    assert all(any(text.startswith(prompt) for text in without) for prompt in heldout)
    if ratings:
        sides = [
            [tuple(" ".join(row[name].split()) for name in ("chosen", "rejected")) for row in pairs]
            for pairs in (task.pairs, task.heldout_pairs)
        ]
        assert all(chosen != rejected for pairs in sides for chosen, rejected in pairs)
        train, apart = ([text for pair in pairs for text in pair] for pairs in sides)
        assert not set(train) & set(apart) and len(apart) == len(set(apart)) > 10


@pytest.mark.parametrize(
    ("ratings", "message"),
    [
        (lambda i: "1,1", "all ratings are 1, expected different ones to compare"),
        (lambda i: "nan" if i == 3 else "1,2", "row 4 is 'nan', expected numbers"),
        (lambda i: "inf,1" if i == 0 else "1,2", "row 1 is 'inf,1', expected numbers"),
        (lambda i: "1,2" if i == 0 else "2", None),
    ],
)
def test_ratings_that_teach_nothing_are_found_when_they_are_read(write, ratings, message):
    rows = [f"{text}\t{ratings(i)}" for i, text in enumerate(reviews(MANY))]
    path = write("rated.tsv", "\n".join(["text\tratings", *rows]))
    with pytest.raises(RunError, match=message or "column ratings: got no two texts that are rated differently"):
        load_task("sentiment", TOKENIZER, path, None, "vader", 60, "ratings")


def test_end_tokens_in_a_text_end_nothing(write):
    texts = [text.replace("! The", "!<|endoftext|> The") for text in reviews(MANY)]
    task = load_task("sentiment", TOKENIZER, write("r.txt", "\n".join(texts)), None, "vader", NEW)
    data = encode_demonstrations(TOKENIZER, *(list(task.demonstrations[name]) for name in ("prompt", "completion")))
    assert ((data.responses == TOKENIZER.eos_token_id) & data.response_mask).sum() == len(data)
    assert any("< |endoftext|>" in text for text in task.demonstrations["completion"])


def test_texts_that_a_template_has_written_are_no_plain_text(write):
    path = write("r.txt", "\n".join(f"{text}<|endoftext|>" for text in reviews(MANY)))
    with pytest.raises(RunError, match=r"column text: row 1 begins or ends with '<\|endoftext\|>', as most do"):
        load_task("sentiment", TOKENIZER, path, None, "vader", NEW)


FORMS = {
    "r.txt": lambda rows: "\n".join(rows),
    "r.jsonl": lambda rows: "\n".join(json.dumps({"text": row, "label": 1}) for row in rows),
    "r.csv": lambda rows: pd.DataFrame({"id": 1, "text": rows}).to_csv(index=False),
    "r.tsv": lambda rows: "id\ttext\n" + "\n".join(f"{i}\t{row}" for i, row in enumerate(rows)),
}


@pytest.mark.parametrize(
    ("fields", "in_quotes"),
    [
        (['"a"', '"b"'], True),
        (['"a"', "b"], False),  # a text may be a quotation
        (['"a"', "", '"b"'], True),
        (['"a ""b"" c"', "d"], True),  # but no text doubles its quotes
        (['"a "" b" c"', "d"], False),
        (['"a ""b"" c', "d"], False),
        (['"', '"'], False),
        (['""', '""'], True),
        (["", ""], False),
    ],
)
def test_fields_in_quotes_are_known_by_all_of_a_column_or_by_doubled_ones(fields, in_quotes):
    text = "\n".join(["n\ttext", *(f"1\t{field}" for field in fields)])
    if in_quotes:
        with pytest.raises(ValueError, match="column 'text' has fields in quotes"):
            _read_tsv(text, "")
    else:
        assert _read_tsv(text, "").columns == {"n": ["1"] * len(fields), "text": fields}


class TestTables:
    ROWS = ['He said "well', 'a, "b" and c', "don’t — 😀", "'' NA", "null", "1.5"]

    @pytest.mark.parametrize("name", FORMS)
    def test_every_form_gives_the_same_texts(self, write, name):
        assert read_table(write(name, FORMS[name](self.ROWS)), [["text"]]) == {"text": self.ROWS}

    def test_parquet(self, tmp_path):
        path = tmp_path / "r.parquet"
        pd.DataFrame({"text": self.ROWS}).to_parquet(path)
        assert read_table(str(path), [["text"]]) == {"text": self.ROWS}

    def test_another_column_may_be_named(self, write):
        path = write("r.csv", pd.DataFrame({"review": reviews()}).to_csv())
        assert len(load_task("sentiment", TOKENIZER, path, "review", "vader").prompts) > 80

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("r.txt", "", "got 0 texts of at least 3 tokens .*, expected 10 or more"),
            (
                "r.txt",
                "One line alone.\n",
                r"got 1 texts of at least 3 tokens that can be cut .* \(of 1 different ones in all\)",
            ),
            ("r.txt", "I think so.\n" * 100, "all texts begin alike"),
            ("r.txt", "I\n" * 100, "got 0 texts"),
            ("r.txt", "".join(f"I think{' so' * 9} {i}.\n" for i in range(100)), "all texts begin alike"),
            ("r.txt", "caf\u00e9".encode("latin1"), r"is not UTF-8 \(byte 0xe9 at 3, in line 1\): convert it"),
            (
                "r.txt",
                "a\nb\0c\n",
                "line 2 holds a NUL character: it is no text, or UTF-16LE without a byte order mark",
            ),
            ("r.txt", "hello".encode("utf-16-le"), "line 1 holds a NUL character"),
            ("r.txt", "hello".encode("utf-16-be"), "line 1 holds a NUL character: it is no text, or UTF-16BE"),
            ("r.txt", b"\xff\xfea", "it begins as UTF-16 but is damaged at byte"),
            ("r.csv", "caf\u00e9".encode("latin1"), "is not UTF-8"),
            (
                "r.csv",
                "review,label\na,1\n",
                "got the columns 'review', 'label', expected 'text'; --column names another",
            ),
            ("r.csv", "", "cannot be read as .csv: it is empty, expected a header line and rows"),
            ("r.csv", "text,comment\na,b\nc,d,e\n", "line 3 has 3 fields, expected 2 as the header has"),
            ("r.csv", 'text,comment\n"A lovely film","editor: cut",\n', "line 2 has 3 fields, expected 2"),
            ("r.csv", "text,comment\na,b\nc\n", "line 3 has 1 fields, expected 2"),
            ("r.csv", 'text\n"a\nb\n', "cannot be read as .csv: line 3: unexpected end of data"),
            ("r.csv", "text,text\na,b\n", "column 'text' stands twice"),
            ("r.csv", "text;label\na;1\n", "its columns are separated by semicolons, expected commas"),
            ("r.csv", "a;b\na;1\n", "got the columns 'a;b', expected 'text'"),
            ("r.tsv", "text\tlabel\na\t1\nb\n", "line 3 has 1 fields, expected 2"),
            ("r.tsv", "text\tlabel\n\na\tb\t1\n", "line 3 has 3 fields, expected 2"),
            ("r.tsv", 'text\nso\n"He said ""go"""\n', "column 'text' has fields in quotes"),
            ("r.tsv", 'text\n"""Go"" is what he said."\n"\n', "column 'text' has fields in quotes"),
            ("r.jsonl", '{"text": "a"}\n{"text": \n', r"cannot be read as .jsonl: line 2: "),
            ("r.jsonl", '{"text": "a"}\n[1]\n', "line 2 is a list, expected an object"),
            ("r.jsonl", '[{"text": "a"}, {"text": "b"}]', "line 1 is a list, expected an object with named values"),
            (
                "r.jsonl",
                '[\n {"text": "a"}\n]',
                "line 1 begins what goes on over more lines, expected each object",
            ),
            ("r.jsonl", '"a"\n', "line 1 is 'a', expected an object"),
            ("r.jsonl", "\n\n", "cannot be read as .jsonl: it is empty, expected an object a line"),
            ("r.jsonl", "[" * 100_000, "line 1 is nested too deeply"),
            ("r.jsonl", '{"text": ' + "[" * 100_000 + "]" * 100_000 + "}", "line 1 is nested too deeply"),
            ("r.jsonl", '{"text": "a"}\n\n{"text": 5}\n', "line 3 of column text is 5, expected text"),
            ("r.jsonl", '{"text": "a"}\n{"label": 5}\n', "line 2 of column text is missing, expected text"),
            ("r.jsonl", '{"text": "a\\u0000"}\n', "line 1 of column text holds a NUL character"),
            ("r.jsonl", '{"text": "a\\ud800"}\n', "line 1 of column text holds half of a character"),
            ("r.parquet", "PAR1 no", "cannot be read as .parquet"),
            ("r.xlsx", "a", "has the ending .xlsx; expected a file .txt, .jsonl"),
            ("r", "a", "has a name without ending; expected a file .txt, .jsonl"),
            ("r.txt.gz", "a", "cannot be read as .gz .*, expected a whole file"),
            ("r.txt.gz", gzip.compress(b"a" * 1000, mtime=0)[:-9], "cannot be read as .gz .*, expected a whole file"),
            ("r.xlsx.gz", gzip.compress(b"a", mtime=0), "has the ending .xlsx.gz; expected a file .txt, .jsonl"),
        ],
    )
    def test_bad_file_is_one_sentence(self, write, name, content, message):
        path = write(name, content)
        with pytest.raises(RunError, match=message) as error:
            load_task("sentiment", TOKENIZER, path, gold="vader")
        assert path in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 400 + len(path)

    def test_values_of_a_table_are_named_by_row_and_column(self, tmp_path):
        path = tmp_path / "r.parquet"
        for value, words in (
            (None, "is missing"),
            ("a\0", "holds a NUL"),
            (["a", "b"], r"is .*'good'.*, expected text"),
        ):
            values = [["good"], value] if isinstance(value, list) else ["good", value]
            pd.DataFrame({"text": values}).to_parquet(path)
            row = 1 if isinstance(value, list) else 2
            with pytest.raises(RunError, match=f"--data {path}: row {row} of column text {words}"):
                read_table(str(path), [["text"]])

    @pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
    @pytest.mark.parametrize("name", FORMS)
    def test_a_byte_order_mark_is_believed(self, write, name, encoding):
        content = FORMS[name](self.ROWS).encode(encoding)
        assert read_table(write(name, content), [["text"]]) == {"text": self.ROWS}

    @pytest.mark.parametrize("name", [*FORMS, "r.parquet"])
    def test_compressed_and_with_other_line_ends(self, write, tmp_path, name):
        pd.DataFrame({"text": self.ROWS}).to_parquet(tmp_path / "r.parquet")
        plain = FORMS[name](self.ROWS).encode() if name in FORMS else (tmp_path / name).read_bytes()
        assert read_table(write(f"{name}.gz", gzip.compress(plain)), [["text"]]) == {"text": self.ROWS}
        if name in FORMS:
            assert read_table(write(name, plain.replace(b"\n", b"\r\n")), [["text"]]) == {"text": self.ROWS}

    def test_a_field_may_be_long_and_hold_separators(self, write):
        text = "a, b\n" * 50_000 + "c"
        path = write("r.csv", pd.DataFrame({"text": [text], "label": ["1"]}).to_csv(index=False))
        assert read_table(path, [["text"]]) == {"text": [text]}

    @pytest.mark.parametrize("kind", ["folder", "pipe"])
    def test_what_is_no_file_is_named(self, tmp_path, kind):
        path = tmp_path / "r.txt"
        path.mkdir() if kind == "folder" else os.mkfifo(path)
        words = {"folder": "is a folder", "pipe": "is a pipe or a device"}[kind]
        with pytest.raises(RunError, match=f"--data {path}: {words}; expected a file"):
            read_table(str(path), [["text"]])

    @pytest.mark.parametrize("name", ["r" * 300 + ".txt", "r\0.txt", "~nobody-of-this-name/r.txt"])
    def test_a_name_that_no_file_can_have(self, name):
        with pytest.raises(RunError, match="--data "):
            read_table(name, [["text"]])

    def test_missing_file_is_not_looked_for_on_the_hub(self, tmp_path):
        for name in (str(tmp_path / "none.txt"), "none.csv", "./none"):
            with pytest.raises(RunError, match="does not exist; expected a file"):
                read_table(name, [["text"]])


class TestClassifier:
    @pytest.fixture
    def folder(self, tmp_path):
        """A classifier whose bias alone decides: log-odds of 2 for positive."""
        tokenizer = byte_tokenizer()
        tokenizer.pad_token = tokenizer.eos_token
        model = BertForSequenceClassification(
            BertConfig(
                vocab_size=400,
                hidden_size=8,
                num_hidden_layers=1,
                num_attention_heads=1,
                intermediate_size=8,
                max_position_embeddings=512,
                id2label={0: "Positive", 1: "NEGATIVE"},
            )  # fmt: skip
        )
        with torch.no_grad():
            model.classifier.weight.zero_()
            model.classifier.bias.copy_(torch.tensor([2.0, 0.0]))
        model.save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        return tmp_path

    def test_is_the_difference_of_the_probabilities(self, folder, monkeypatch):
        """Known where all texts are judged alike, which is refused otherwise."""
        monkeypatch.setattr("week6.tasks.sentiment.SAME", 0.0)
        scores = classifier(str(folder))(["a"] * 70, [" b " * n for n in range(69)] + [" b" * 3000])
        torch.testing.assert_close(scores, torch.full((70,), 2.0).sigmoid() * 2 - 1)  # P(+) − P(−) at log-odds 2

    def test_judges_without_dropout(self, folder):
        """Half of the activations lost at random would make the gold reward a draw of lots."""
        config = json.loads((folder / "config.json").read_text())
        noisy = {"hidden_dropout_prob": 0.5, "attention_probs_dropout_prob": 0.5, "classifier_dropout": 0.5}
        (folder / "config.json").write_text(json.dumps(config | noisy))
        model = BertForSequenceClassification.from_pretrained(folder)
        torch.nn.init.normal_(model.classifier.weight)
        model.save_pretrained(folder)
        scores = classifier(str(folder))(["a"] * 8, [" b"] * 8)
        assert torch.equal(scores, scores[:1].expand(8)) and scores[0] != 0
        with torch.no_grad():  # what is judged is the answer behind its prompt
            told = model.eval()(**byte_tokenizer()("a b", return_tensors="pt")).logits[0].softmax(-1)
        assert scores[0].item() == pytest.approx((told[0] - told[1]).item(), abs=1e-5)

    def test_one_that_does_not_read_to_the_end_of_a_text(self, folder, monkeypatch):
        """It would judge the prompt alone. What is longer than any classifier reads is cut, as is known."""
        monkeypatch.setattr("week6.tasks.sentiment.SAME", 0.0)
        classifier(str(folder), 10_000)
        monkeypatch.setattr("week6.tasks.sentiment.LONGEST_JUDGED", 513)
        with pytest.raises(RunError, match="reads 512 tokens, expected 513, prompt and answer together"):
            classifier(str(folder), 10_000)

    def test_labels_that_say_nothing(self, folder):
        config = json.loads((folder / "config.json").read_text()) | {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(RunError, match="its labels are LABEL_0, LABEL_1, expected one that begins with 'pos'"):
            classifier(str(folder))

    def test_a_model_that_is_no_classifier(self, tmp_path):
        """transformers would give it a head of random numbers."""
        small_gpt2(tmp_path)
        with pytest.raises(RunError, match="--gold .*: is a GPT2LMHeadModel, no text classifier; expected 'vader'"):
            classifier(str(tmp_path))

    def test_a_folder_that_is_not_there(self):
        with pytest.raises(RunError, match="--gold ./none: is no folder"):
            classifier("./none")


def test_what_a_task_needs_is_named():
    with pytest.raises(ValueError, match="model: got none for task 'sentiment'"):
        load_task("sentiment", data="a.txt", gold="vader")
    with pytest.raises(ValueError, match="data: got none for task 'hh'"):
        load_task("hh", TOKENIZER)
    with pytest.raises(ValueError, match="gold: got none for task 'sentiment'"):
        load_task("sentiment", TOKENIZER, "a.txt")
    with pytest.raises(ValueError, match="model: got one for task 'assistant'"):
        load_task("assistant", TOKENIZER)
    assert vader([], []).shape == (0,) and len(conversations()) == 60


def test_held_out_reviews_that_are_all_too_long_to_compare_are_named(write):
    """The training texts are short: only the held-out ones leave nothing to measure the reward model on."""
    n = 40
    heldout = set(random.Random(SEED).sample(range(n), n)[: n // 5])
    long, short = "and then it went on and on " * 40, "it was good"
    rows = [f"{chr(97 + i % 26)}{i} {long if i in heldout else short}.\t{i % 3}" for i in range(n)]
    path = write("rated.tsv", "\n".join(["text\tratings", *rows]))
    with pytest.raises(RunError, match="no two texts of at most"):
        load_task("sentiment", TOKENIZER, path, gold="vader", max_new_tokens=NEW, ratings="ratings")
