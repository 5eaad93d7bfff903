"""Bad inputs as strangers bring them, through the command line: refused before anything is written, in one sentence
that says what came, what was expected and what to do. Files, model folders, classifiers, names.

The places of the run itself, the chat and the flags: tests/run/test_record.py, tests/chat/, tests/test_cli.py.
"""

import gzip
import json
import os
import shutil
import uuid
from base64 import b64encode

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from tests.runs import quick_settings
from tests.small_gpt2 import byte_tokenizer, conversations, reviews, small_gpt2
from tests.small_instruct import small_instruct
from week6.cli import main
from week6.machine.compute import using
from week6.run import pipeline

TEXTS = reviews(60)
LINES = "\n".join(TEXTS)
SMALL = "--n-pairs 24 --ppo.batch-size 4 --ppo.max-new-tokens 8 --evaluation.calibration-answers 16".split()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a good model and good texts; the files of a case come and go in it."""
    folder = tmp_path_factory.mktemp("inputs")
    small_gpt2(folder / "good")
    (folder / "texts.txt").write_text(LINES)
    return folder


@pytest.fixture
def refused(place, capsys):
    """Calls `week6 run` with these sources; returns its one line. `accepted` is None then, else the run's task."""

    def call(preset="gpt2-cpu", model="good", data="texts.txt", flags=(), expected=2):
        paths = [str(place / x) if (place / x).exists() or (place / x).is_symlink() else x for x in (model, data)]
        words = ["run", "--preset", preset, "--model", paths[0], "--data", paths[1], "--runs-dir", str(place / "runs")]
        capsys.readouterr()
        with quick_settings(), pytest.MonkeyPatch.context() as patch:
            patch.setattr(pipeline, "finish", lambda setting: None)
            patch.setattr("week6.cli.show", lambda folder: None)
            code = main([*words, *SMALL, *flags])
        shown = capsys.readouterr()
        written = (place / "runs").exists()
        shutil.rmtree(place / "runs", ignore_errors=True)
        assert code == expected, shown.err
        assert written == (expected == 0) and shown.out == "" and "Traceback" not in shown.err
        if expected == 0:
            return ""
        (line,) = (x for x in shown.err.splitlines() if x.startswith("week6: error: "))
        assert len(line.replace(str(place), "")) < 500
        return line

    return call


def objects(rows):
    return "\n".join(map(json.dumps, rows))


def table(header, line="{text}"):
    return "\n".join([header, *(line.format(text=text, i=i) for i, text in enumerate(TEXTS))])


CRLF = [{name: text.replace("\n", "\r\n") for name, text in row.items()} for row in conversations(40)]
FILES = [
    ("a.txt", LINES.encode("utf-16-be"), "UTF-16BE without a byte order mark (convert it with iconv -f utf-16be"),
    ("a.txt", LINES.encode("utf-32-le"), "UTF-32LE without a byte order mark"),
    ("a.txt", ("我认为这部电影很好看。\n" * 20).encode("gb18030"), "from others likewise"),
    ("a.txt", gzip.compress(LINES.encode()), "it is compressed by gzip: unpack it, or give it the ending .gz"),
    ("a.csv", b"PK\x03\x04\x00\xff", "it is a zip file or a spreadsheet, expected text: unpack it, or save it as .csv"),
    ("a.txt", b"%PDF-1.7\n%\xe2\xe3", "it is a PDF, expected text"),
    ("a.csv", b"PAR1\xff", "it is a parquet file: give it the ending .parquet"),
    ("a.parquet", b"PAR1" + bytes(100), "it ends too early, expected a whole file: copy or download it again"),
    ("a.txt", b"\x28\xb5\x2f\xfd\x04", "it is compressed by zstd, expected text: unpack it"),
    ("a.csv", b"SQLite format 3\0\x10\0", "it is a database, expected text: export the table as .csv"),
    ("a.csv", b"\xd0\xcf\x11\xe0\xa1\xb1", "it is a document or spreadsheet of an office program"),
    ("a.jsonl", b"\x80\x04\x95\x12\0", "it is a pickle, which may run code when it is read"),
    ("a.txt", "{\\rtf1\\ansi " + LINES, "it is formatted text (RTF), expected plain text: save it as .txt"),
    ("a.csv", "version https://git-lfs.github.com/spec/v1\n", "it is a pointer of Git LFS, expected the file itself"),
    ("a.jsonl", "\n<!DOCTYPE HTML><p>Not found", "it is a web page, expected the file itself: download it again"),
    ("a.csv", table("TEXT", '"{text}"'), "got the columns 'TEXT', expected 'text'; --column names another"),
    ("a.csv", table("sep=,", '"{text}",1'), "line 1 is 'sep=', a hint for spreadsheets, expected the header"),
    ("a.tsv", table("text  n", "{text}  1"), "its columns are separated by blanks, expected commas in a .csv file"),
    ("a.tsv", table("text,label", '"{text}",1'), "its columns are separated by commas, expected commas in a .csv file"),
    ("a.csv", table('"text";"n"', '"{text}";"1,5"'), "its columns are separated by semicolons, expected commas in a"),
    ("a.parquet", b"PAR1" + bytes(100) + b"PAR1", "cannot be read as .parquet: it is damaged ("),
    ("a.csv", 'text,n\n"say \\"yes\\", ok",1\n', "expected a quote within a field to be doubled"),
    ("a.jsonl", '{"text": "a", "n": ' + "9" * 6000 + "}", "line 1 holds a number of thousands of digits"),
    ("a.jsonl", '[\n{"text": "a"}\n]', "line 1 begins what goes on over more lines, expected each object on a line of"),
    (
        "a.tsv",
        table("text\tn", '"{text}"\t1'),
        "column 'text' has fields in quotes, expected none: in a .tsv file",
    ),
    ("a.tsv", 'text\tn\nIt is fine.\t1\n"It is ""fine""."\t2\n', "column 'text' has fields in quotes"),
    ("a.txt", LINES.replace("film", "\x1b[31mfilm"), "of column text holds the colours of a terminal (ESC)"),
    ("a.txt", b"texts.txt".ljust(257, b"\0") + b"ustar\x0000", "it is a tar archive, expected text: unpack it"),
    ("a.txt", b"\x7fELF\x02\x01", "it is a program, expected text"),
    ("a.jsonl", "{'text': 'a'}", 'expected an object such as {"text": "A lovely film"}'),
    ("a.jsonl", '{"text": "a"} {"text": "b"}', "line 1: Extra data"),
    ("a.jsonl", objects([{"text": [text]} for text in TEXTS]), "line 1 of column text is ['"),
    ("a.csv", table("id\ttext", "{i}\t{text}, yes"), "its columns are separated by tabs, expected commas in a .csv"),
    ("a.txt", objects({"text": text} for text in TEXTS), "its lines are JSON objects, expected plain texts: give it"),
    (
        "a.txt",
        table("text,label", '"{text}",1'),
        "its lines are rows of 2 fields, expected plain texts: give it the ending .csv",
    ),
    (
        "a.txt",
        table("n\ttext", "1\t{text}"),
        "its lines are rows of 2 fields, expected plain texts: give it the ending .tsv",
    ),
    ("a.txt", LINES.replace(" ", "%20"), "most texts of column text are written for an address, as"),
    ("a.txt", LINES.replace(".", ".\\n"), "most texts of column text are with escapes written out, as"),
    ("a.txt", LINES.replace(".", "â€¦"), "most texts of column text are UTF-8 read as another encoding, as"),
    ("a.csv", "text,n\n" + "NaN,1\n" * 9, "most texts of column text are words for what is missing, as"),
    ("a.log.gz", gzip.compress(LINES.encode()), "a.log.gz: has the ending .log.gz; expected a file .txt"),
    ("a.gz", gzip.compress(LINES.encode()), "a.gz: has the ending .gz; expected a file .txt"),
    ("a.csv", table("text", "\"b'{text}'\""), "most texts of column text are as Python shows them, as"),
    ("a.txt", LINES.replace(".", " &lt;br&gt;"), "most texts of column text are escaped for HTML, as"),
    (
        "a.txt",
        "\n".join(b64encode(text.encode()).decode() for text in TEXTS),
        "of column text are base64 or the like, as",
    ),
    ("a.txt", "\n".join(str(uuid.UUID(int=7**i)) for i in range(40)), "texts alike (0), expected texts with opinions"),
]
PAIRS = [{"prompt": f"Is film {i} good?", "chosen": "It is.", "rejected": "No."} for i in range(20)]
PAIR_FILES = [
    ("a.txt", LINES, "got one column, expected a table with 'prompt', 'chosen', 'rejected'"),
    ("a.jsonl", objects(row | {"rejected": row["chosen"]} for row in PAIRS), "of the rows 20 have no prompt, an empty"),
    ("a.jsonl", objects(row | {"prompt": "Why?"} for row in PAIRS), "of the rows 19 repeat a prompt"),
    (
        "a.jsonl",
        objects(row | {"prompt": "why " * 900} for row in PAIRS),
        "20 are longer than 256 tokens of prompt (--hh.max-prompt-tokens) or 8",
    ),
    (
        "a.jsonl",
        objects({name: text.replace("Human", "User") for name, text in row.items()} for row in conversations(20)),
        r'of the rows 20 have not the form "\n\nHuman: …\n\nAssistant: …" in both columns',
    ),
]


@pytest.mark.parametrize(("preset", "name", "content", "message"), [
    *(("gpt2-cpu", *row) for row in FILES), *(("gpt2-hh", *row) for row in PAIR_FILES)
])  # fmt: skip
def test_files(place, refused, preset, name, content, message):
    (place / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert message in refused(preset, data=name)
    (place / name).unlink()


@pytest.mark.parametrize(("preset", "name", "content", "flags"), [
    ("gpt2-cpu", "a.csv", table("text ,n", '"{text}",1'), ""),
    ("gpt2-cpu", "a.jsonl", objects({"text": x, "stars": i % 5} for i, x in enumerate(TEXTS)), "--ratings stars"),
    ("gpt2-cpu", "a.jsonl", objects({"text": x, "r": [i % 5, 0.5]} for i, x in enumerate(TEXTS)), "--ratings r"),
    ("gpt2-hh", "a.jsonl", objects(CRLF), "--ppo.max-new-tokens 24"),
])  # fmt: skip
def test_files_that_only_look_bad(place, refused, preset, name, content, flags):
    (place / name).write_text(content)
    refused(preset, data=name, flags=["--ppo.max-new-tokens", "40", *flags.split()], expected=0)
    (place / name).unlink()


@pytest.mark.parametrize(("value", "message"), [
    ("9" * 400, "column r: row 1 is '9999"), ("NaN", "line 1 of column r is missing, expected numbers"),
    ("true", "line 1 of column r is True, expected numbers"),
])  # fmt: skip
def test_ratings_that_are_no_numbers(place, refused, value, message):
    (place / "a.jsonl").write_text("\n".join(f'{{"text": {json.dumps(text)}, "r": {value}}}' for text in TEXTS))
    assert message in refused(data="a.jsonl", flags=["--ratings", "r"])
    (place / "a.jsonl").unlink()


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_a_file_that_the_memory_cannot_hold_is_not_read(place, refused, name):
    """Packed, it may be small."""
    content = LINES.encode() + b" " * 8_000_000
    (place / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    with using(free_bytes=lambda: 6e7):
        assert "it holds more than 0.0 GB, expected what can be worked with in the free memory" in refused(data=name)
    (place / name).unlink()


@pytest.mark.parametrize("name", ["third", "HALF", "judge.jsonl"])
def test_the_judge_s_own_pairs_are_called_by_their_flag(place, refused, name):
    (place / "a.jsonl").write_text(objects(conversations(40)))
    line = refused("gpt2-hh", data="a.jsonl", flags=["--ppo.max-new-tokens", "24", "--hh.judge", name])
    assert f"--hh.judge {name}" in line and "--data" not in line and line.endswith("; or take --hh.judge half")
    (place / "a.jsonl").unlink()


@pytest.mark.parametrize("name", [
    "https://huggingface.co/datasets/stanfordnlp/imdb", "stanfordnlp/imdb/plain_text", "stanford nlp/imdb", "a/../b",
    "stanfordnlp/imdb@main", "hf://datasets/stanfordnlp/imdb", "'texts'",
])  # fmt: skip
def test_names_that_the_hub_could_not_know(refused, name):
    assert f"--data {name!r}: is no file or folder here, and no name that the hub could know" in refused(data=name)


@pytest.mark.parametrize("name", ["gpt2.safetensors", "models/gpt2.gguf", "pytorch_model.bin"])
def test_a_file_of_weights_is_no_name_on_the_hub(refused, name):
    assert f"--model {name}: is no folder, expected one, or the name of a model on the hub" in refused(model=name)


@pytest.mark.parametrize("name", ["~no-such-user/x.txt", "a" * 5000 + ".txt", "a\0.txt", "loop.txt"])
@pytest.mark.parametrize("flag", ["model", "data", "gold"])
def test_paths_that_can_be_none(place, refused, name, flag):
    if name == "loop.txt":
        name = str(place / name)
        (place / "loop.txt").symlink_to("loop.txt")
    line = refused(flags=[f"--{flag}", name])
    assert f"--{flag} '" in line and "expected the path of a file or folder" in line
    (place / "loop.txt").unlink(missing_ok=True)


@pytest.mark.parametrize("flag", ["--column", "--gold", "--ratings"])
def test_what_a_task_does_not_use_is_refused(place, refused, flag):
    (place / "a.jsonl").write_text(objects(conversations(40)))
    message = f"{flag[2:]}: got one for task 'hh', whose pairs are already chosen; choose preset gpt2"
    assert message in refused("gpt2-hh", data="a.jsonl", flags=[flag, "vader"])


# --- models ----------------------------------------------------------------------------------------------------------


def written(name, content):
    def spoil(folder):
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return spoil


def changed(name, change):
    """The object in a JSON file, changed in place."""

    def spoil(folder):
        found = json.loads((folder / name).read_text())
        change(found)
        (folder / name).write_text(json.dumps(found))

    return spoil


def config(**settings):
    return changed("config.json", lambda found: found.update(settings))


def llama(**settings):
    """A Llama of other settings."""

    def spoil(folder):
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        small_instruct(folder, tokenizer)
        config(**settings)(folder)

    return spoil


def vocabulary(**tokens):
    return changed("tokenizer.json", lambda found: found["model"]["vocab"].update(tokens))


def weights(change, of="", more=None):
    def spoil(folder):
        tensors = load_file(folder / "model.safetensors")
        tensors = {name: (change(x) if of in name else x).contiguous() for name, x in tensors.items()}
        save_file(tensors | (more or {}), folder / "model.safetensors", {"format": "pt"})

    return spoil


def two_layers(folder):
    """The weights of more than config.json says: the second half would silently be left out."""
    GPT2LMHeadModel(GPT2Config(vocab_size=400, n_positions=96, n_embd=16, n_layer=2, n_head=2)).save_pretrained(folder)
    config(n_layer=1)(folder)


def knows_few_words(folder):
    core = Tokenizer(models.WordLevel({"</s>": 0, "a": 1, "film": 2}))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>").save_pretrained(folder)


def panics(folder):
    """Its library ends with a panic, which is no Exception."""
    part = [{"SpecialToken": {"id": "[X]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    post = {"type": "TemplateProcessing", "single": part, "pair": [], "special_tokens": {}}
    changed("tokenizer.json", lambda found: found.update(post_processor=post))(folder)


def cut(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def as_index(content):
    def spoil(folder):
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors.index.json").write_text(json.dumps(content))

    return spoil


def as_pipe(folder):
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")


def as_link(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("/nowhere")


def as_sentencepiece(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(b"rubbish")


def ends_as_bert(folder):
    """Tokens around a text that stand in no vocabulary."""
    post = {"type": "BertProcessing", "sep": ["[SEP]", 902], "cls": ["[CLS]", 901]}
    changed("tokenizer.json", lambda found: found.update(post_processor=post))(folder)


def cut_merges(found):
    del found["model"]["merges"][10:]


def turn_merges(found):
    found["model"]["merges"].reverse()


def another_template(folder):
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool.jinja").write_bytes(b"\xff{%")


REPLACES = {"type": "Replace", "pattern": {"String": "e"}, "content": "a"}
NO_MARKS = {
    "type": "Sequence",
    "pretokenizers": [
        {"type": "Punctuation", "behavior": "Removed"},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    ],
}
NO_SUCH_CLASS = (
    "or is none of the class that tokenizer_config.json names; set tokenizer_class to PreTrainedTokenizerFast"
)
NO_DROPOUT = "reads the same text otherwise each time, expected the same tokens; set dropout to null"
MODELS = {
    "config empty": (written("config.json", ""), "config.json is damaged (Expecting value"),
    "config list": (written("config.json", "[]"), "config.json is damaged (no object), expected a JSON object"),
    "config deep": (written("config.json", "[" * 100_000), "config.json is damaged (maximum recursion depth"),
    "tokenizer page": (written("tokenizer.json", "<html>"), "tokenizer.json is a web page, expected the file itself"),
    "map damaged": (written("special_tokens_map.json", "["), "special_tokens_map.json is damaged"),
    "LFS": (written("model.safetensors", "version https://git-lfs.github.com/spec/v1\n"), "git lfs pull fetches it"),
    "link": (as_link, "model.safetensors is a link to nothing, expected a file"),
    "gguf": (lambda f: (f / "model.safetensors").rename(f / "m.gguf"), "has only m.gguf; expected model.safetensors"),
    "adapter": (
        lambda f: (f / "model.safetensors").rename(f / "adapter_model.safetensors"),
        "has only adapter_model.safetensors; expected model.safetensors",
    ),
    "cut": (cut, "model.safetensors is damaged or cut short"),
    "pipe": (as_pipe, "config.json is a pipe or a device, expected a file"),
    "index": (as_index({"metadata": {}}), "model.safetensors.index.json names no file for each tensor"),
    "no shard": (as_index({"weight_map": {"x": "a.safetensors"}}), "names 'a.safetensors', which is not there"),
    "type": (config(dtype="float9"), "config.json: dtype is 'float9', expected a type of torch, such as 'float32'"),
    "no heads": (config(n_head=0), "num_attention_heads is 0, expected a whole number ≥ 1"),
    "positions": (config(n_positions=-5), "max_position_embeddings is -5, expected a whole number ≥ 1"),
    "unknown": (config(model_type="gpt9"), "config.json: The checkpoint you are trying to load has model type `gpt9`"),
    "activation": (config(activation_function="nope"), "config.json: activation_function is 'nope', which trans"),
    "kind list": (config(model_type=["gpt2"]), "config.json: model_type is ['gpt2'], expected a word, such as 'gpt2'"),
    "7 GB": (config(model_type="llama"), "config.json: a model of 25.9 GB, expected what fits the 8.0 GB"),
    "no layers": (config(n_layer=0), "num_hidden_layers is 0, expected a whole number from 1 to 1000"),
    "layers": (config(n_layer=10**9), "num_hidden_layers is 1000000000, expected a whole number from 1 to 1000"),
    "GPTQ": (config(quantization_config={"quant_method": "gptq"}), "its weights are quantised (gptq)"),
    "epsilon": (config(layer_norm_epsilon=-1.0), "its logits are NaN or infinite, expected numbers"),
    "1e30": (weights(lambda x: x * 1e30), "its logits are NaN or infinite, expected numbers"),
    "zero": (weights(lambda x: x * 0), "its weights are the same for every token"),
    "1e4": (weights(lambda x: x * 1e4), "its loss on the data is 2.9e+07 nats a token, expected at most 18, 3 times"),
    "10": (weights(lambda x: x * 10), "its weights are spoilt, or its tokenizer is another model's"),
    "norm zero": (weights(lambda x: x * 0, "ln_f"), "predicts the same after every text"),
    "norm huge": (config(layer_norm_epsilon=1e10), "predicts the same after every text"),
    "complex": (weights(lambda x: x.to(torch.complex64)), "model.safetensors holds complex numbers (C64)"),
    "int8": (weights(lambda x: x.to(torch.int8)), "model.safetensors holds whole numbers (I8)"),
    "two layers": (two_layers, "have more layers than its config.json says: transformer.h.1.attn."),
    "token 5000": (vocabulary(zz=5000), "its tokenizer has 5001 tokens and the model 400 embeddings"),
    "decoder": (changed("tokenizer.json", lambda found: found.update(decoder=None)), "makes 'a Ġfilm' of"),
    "kind": (
        changed("tokenizer.json", lambda found: found["model"].update(type="Nope")),
        "tokenizer.json has a part of a type that is not known; save it anew",
    ),
    "dropout": (changed("tokenizer.json", lambda found: found["model"].update(dropout=0.5)), NO_DROPOUT),
    "numbers": (
        changed("tokenizer.json", lambda found: found["model"]["vocab"].update(zz=5)),
        "tokenizer.json gives one number to several tokens, expected one each",
    ),
    "few merges": (changed("tokenizer.json", cut_merges), "json lacks merges that most"),
    "turned merges": (changed("tokenizer.json", turn_merges), "json has its merges in another order than the tokens"),
    "letters": (
        changed("tokenizer.json", lambda found: found.update(normalizer=REPLACES)),
        "its tokenizer makes 'tha quick brown fox jumps ovar a lazy dog' of the tokens of 'the quick",
    ),
    "marks lost": (
        changed("tokenizer.json", lambda found: found.update(pre_tokenizer=NO_MARKS)),
        "its tokenizer makes 'No 4 of 29 came",
    ),
    "end a word": (changed("tokenizer_config.json", lambda c: c.update(eos_token="assistant")), "end token is 'ass"),
    "theta": (llama(rope_parameters={"rope_theta": -1.0, "rope_type": "default"}), "rope_theta is -1.0, expected a"),
    "factor": (
        llama(rope_parameters={"rope_theta": 1e4, "rope_type": "linear", "factor": -2.0}),
        "factor is -2.0, expected a finite number ≥ 1",
    ),
    "shards": (
        lambda f: (f / "model.safetensors").rename(f / "model-00001-of-00002.safetensors"),
        "has model-00001-of-00002.safetensors, a part of the weights, and no model.safetensors.index.json",
    ),
    "template aside": (another_template, "tool.jinja is no plain UTF-8 at byte 0"),
    "zeros": (weights(lambda x: x * 0, "c_fc.weight"), "are one number in all of h.0.mlp.c_fc.weight"),
    "norms": (
        weights(lambda x: x * 0, "h.0.ln_1"),
        "predicts from the last token alone, expected a model that has read those before it",
    ),
    "update beside": (
        weights(lambda x: x, more={"transformer.h.0.attn.c_attn.lora_A.weight": torch.ones(2, 16)}),
        "hold transformer.h.0.attn.c_attn.lora_A.weight, which would be left out of a layer that is read",
    ),
    "merges": (changed("tokenizer.json", lambda found: found["model"].update(merges=[])), "json lacks merges that"),
    "spaces": (changed("tokenizer.json", lambda found: found.update(pre_tokenizer=None)), "makes 'afilm' of the"),
    "pad letter": (changed("tokenizer_config.json", lambda c: c.update(pad_token="e")), "its pad token is 'e', as"),
    "pad word": (changed("tokenizer_config.json", lambda c: c.update(pad_token="film")), "its pad token is 'film', as"),
    "mark": (
        lambda f: (f / "config.json").write_bytes(b"\xef\xbb\xbf" + (f / "config.json").read_bytes()),
        "config.json is no plain UTF-8 (a byte order mark), expected it so",
    ),
    "UTF-16": (
        lambda f: (f / "config.json").write_text((f / "config.json").read_text(), encoding="utf-16"),
        "config.json is no plain UTF-8 at byte 0 (invalid start byte), expected all of it so",
    ),
    "template bytes": (
        written("chat_template.jinja", b"a\xff"),
        "chat_template.jinja is no plain UTF-8 at byte 1 (invalid start byte), expected all of it so",
    ),
    "half a letter": (written("tokenizer.json", '{"é'.encode()[:-1]), "no plain UTF-8 at its end, for it is cut short"),
    "gzip": (written("tokenizer.json", b"\x1f\x8b\x08"), "tokenizer.json is compressed by gzip, expected the file"),
    "special numbers": (
        changed("tokenizer_config.json", lambda c: c.update(extra_special_tokens=[1, 2])),
        "tokenizer_config.json: extra_special_tokens is [1, 2], expected texts; restore the file",
    ),
    "special words": (
        changed("tokenizer_config.json", lambda c: c.update(additional_special_tokens="<x>")),
        "tokenizer_config.json: additional_special_tokens is '<x>', expected texts",
    ),
    "added words": (
        written("added_tokens.json", '{"<x>": "five"}'),
        "added_tokens.json is {'<x>': 'five'}, expected a number for each token",
    ),
    "pad number": (llama(pad_token_id=99_999), "pad_token_id is 99999, expected the number of one of 400 tokens"),
    "no key heads": (llama(num_key_value_heads=0), "num_key_value_heads is 0, expected a whole number ≥ 1"),
    "head of nothing": (llama(head_dim=0), "head_dim is 0, expected a whole number ≥ 1"),
    "rope": (llama(rope_parameters={"rope_type": "nope"}), "rope_parameters is 'nope', which transformers does not"),
    "rope factor": (llama(rope_parameters={"rope_type": "yarn"}), "config.json lacks an entry or has a wrong one, re"),
    "window": (llama(sliding_window=-5), "cannot continue a text ("),
    "template folder": (lambda f: (f / "chat_template.jinja").mkdir(), "chat_template.jinja is a folder"),
    "labels list": (config(id2label=["a"]), "config.json: id2label is ['a'], expected an object of numbers and their"),
    "labels words": (config(id2label={"a": "b"}), "config.json: id2label is {'a': 'b'}, expected an object of numbers"),
    "adapter beside": (written("adapter_config.json", "{}"), "has adapter_config.json, an adapter that would be put"),
    "end letter": (changed("tokenizer_config.json", lambda c: c.update(eos_token="a")), "its end token is 'a'"),
    "no end": (changed("tokenizer_config.json", lambda c: c.update(eos_token="")), "its end token is ''"),
    "length": (changed("tokenizer_config.json", lambda c: c.update(model_max_length="x")), "'x', expected a number"),
    "start list": (changed("tokenizer_config.json", lambda c: c.update(bos_token=["a"])), "['a'], expected a text"),
    "end without text": (
        changed("tokenizer_config.json", lambda c: c.update(eos_token={"id": 0})),
        "tokenizer_config.json: eos_token is {'id': 0}, expected a text",
    ),
    "types": (config(dtype=["float32"]), "config.json: dtype is ['float32'], expected a type of torch"),
    "added": (
        changed("tokenizer_config.json", lambda c: c.update(added_tokens_decoder={"x": {"content": "y"}})),
        "tokenizer_config.json: added_tokens_decoder has no number for each token",
    ),
    "class 7": (changed("tokenizer_config.json", lambda c: c.update(tokenizer_class=7)), "is 7, expected a word"),
    "class": (changed("tokenizer_config.json", lambda c: c.update(tokenizer_class="T5Tokenizer")), NO_SUCH_CLASS),
    "CLIP": (
        changed("tokenizer_config.json", lambda c: c.update(tokenizer_class="CLIPTokenizer")),
        "its tokenizer does not know 46% of the words",
    ),
    "no parts": (written("tokenizer.json", '{"a": 0}'), "tokenizer.json lacks an entry, or is none of the class"),
    "no library": (as_sentencepiece, "no tokenizer.json, and its other files make none; save it as a fast one"),
    "ends": (ends_as_bert, "its tokenizer has 903 tokens and the model 400 embeddings"),
    "few words": (knows_few_words, "its tokenizer cannot read every text (WordLevel error: Missing [UNK] token"),
    "panic": (panics, "its tokenizer cannot read every text (no entry found for key)"),
    "nothing": (
        changed("tokenizer.json", lambda found: found.update(
            normalizer={"type": "Replace", "pattern": {"Regex": "."}, "content": ""})),
        "its tokenizer finds no token in a text",
    ),
}  # fmt: skip


@pytest.fixture
def spoilt(place):
    """A copy of the good model."""
    yield shutil.copytree(place / "good", place / "spoilt")
    shutil.rmtree(place / "spoilt")


@pytest.mark.parametrize("name", MODELS)
def test_models(spoilt, refused, name):
    spoil, message = MODELS[name]
    spoil(spoilt)
    with using(free_bytes=lambda: 8e9):
        line = refused(model="spoilt")
    assert f"--model {spoilt}: " in line and message in line


@pytest.mark.parametrize("unknown", ["<|unk|>", "<|end|>"])
def test_a_tokenizer_that_knows_no_word_of_the_data(spoilt, refused, unknown):
    """All of it would be read as the same unknown token, which GPT-2 has in its end token."""
    core = Tokenizer(models.WordLevel({"<|unk|>": 0, "<|end|>": 1, "guten": 2, "tag": 3}, unk_token=unknown))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|end|>", unk_token=unknown).save_pretrained(spoilt)
    assert "its tokenizer does not know 100%" in refused(model="spoilt")


@pytest.mark.parametrize("settings", [{"return_dict": False}, {"output_attentions": True}, {"eos_token_id": 10**9}])
def test_models_that_only_look_bad(spoilt, refused, settings):
    config(**settings)(spoilt)
    refused(model="spoilt", expected=0)


def judge(folder, **settings):
    tokenizer = byte_tokenizer()
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    named = {"vocab_size": 400, "id2label": {0: "positive", 1: "negative"}, "max_position_embeddings": 64}
    named["initializer_range"] = 1.0  # else it judges texts so nearly alike that chance decides whether it may
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertForSequenceClassification(BertConfig(**shape | named | settings)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("settings", "spoil", "message"), [
    ({"vocab_size": 100}, None, "its tokenizer has 400 tokens and the model 100 embeddings"),
    ({}, config(id2label={"0": "positive", "7": "negative"}), "cannot judge a text (index 7 is out of bounds"),
    ({}, weights(lambda x: x * 1e30), "cannot judge a text (judgement: got 2 NaN values"),
    ({}, config(architectures=None), "is a model of no known kind, no text classifier"),
    ({}, weights(lambda x: x * 0, "classifier"), "judges every text alike (0), expected a classifier that has learned"),
    ({"id2label": {0: "positive", 1: "negative", 2: "possibly"}}, None, "expected one that begins with 'pos'"),
    ({"max_position_embeddings": 15}, None, "reads 15 tokens, expected 16, prompt and answer together"),
])  # fmt: skip
def test_classifiers_are_tried_before_the_run(tmp_path, refused, settings, spoil, message):
    folder = judge(tmp_path / "gold", **settings)
    if spoil:
        spoil(folder)
    line = refused(flags=["--gold", str(folder)])
    assert f"--gold {folder}: " in line and message in line


def test_a_classifier_of_few_positions_and_no_pad_token_judges(tmp_path, refused):
    """No text is too long for it, and texts of different length go together."""
    refused(flags=["--gold", str(judge(tmp_path / "gold"))], expected=0)


def test_parquet_of_categories_and_missing_values(place, refused):
    pd.DataFrame({"text": pd.Categorical(TEXTS)}).to_parquet(place / "a.parquet")
    refused(data="a.parquet", expected=0)
    pd.DataFrame({"text": pd.array([*TEXTS, None], dtype="string")}).to_parquet(place / "a.parquet")
    assert "row 61 of column text is missing, expected text" in refused(data="a.parquet")
    (place / "a.parquet").unlink()
