"""No code of others, ever: every way in which a model, a tokenizer, a template or a data set can bring some, with a
mark that it would leave, and with standard input answering yes to whatever is asked."""

import builtins
import io
import json
import re
import shutil
import sys

import pytest
from transformers import BertConfig, BertForSequenceClassification

from tests.hub import Hub, imdb, in_child
from tests.runs import finished_run
from tests.small_gpt2 import byte_tokenizer, reviews, small_gpt2
from week6.chat.of_run import load_session
from week6.cli import main
from week6.machine.checkpoint import RunError
from week6.machine.pretrained import load_policy, load_tokenizer
from week6.tasks.conversation import render
from week6.tasks.sentiment import classifier
from week6.tasks.tables import read_table

KINDS = ("AutoConfig", "AutoTokenizer", "AutoModelForCausalLM", "AutoModelForSequenceClassification")
CODE = "brings Python code of its own, and no code of others is ever run"
HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def mark(tmp_path):
    """What any of the programs here would write; it must not be there when a test ends."""
    path = tmp_path / "mark"
    yield path
    assert not path.exists()


@pytest.fixture(autouse=True)
def asked(monkeypatch):
    """Whatever is asked is answered yes; nothing may be asked."""
    questions = []
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 100))
    monkeypatch.setattr(builtins, "input", lambda question="": questions.append(question) or "y")
    yield questions
    assert questions == []


def program(mark):
    """A module with a class for whatever may be asked of it; to read it is enough to leave the mark."""
    classes = "".join(f"class {kind}: from_pretrained = classmethod(lambda *_, **__: None)\n" for kind in KINDS)
    return f"open({str(mark)!r}, 'w').close()\n{classes}"


def change(path, **values):
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | values))


def bring_code(folder, mark, model_type="evil", tokenizer_class="EvilTokenizer"):
    """Code in every place that transformers knows: config, model, tokenizer, generation, modules beside them."""
    (folder / "evil.py").write_text(program(mark))
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(program(mark))
    auto_map = {kind: f"evil.{kind}" for kind in KINDS} | {"AutoTokenizer": ["evil.AutoTokenizer"] * 2}
    change(folder / "config.json", auto_map=auto_map, **({"model_type": model_type} if model_type else {}))
    change(
        folder / "tokenizer_config.json",
        auto_map=auto_map,
        **({"tokenizer_class": tokenizer_class} if tokenizer_class else {}),
    )
    return folder


@pytest.fixture
def gpt2(tmp_path):
    return small_gpt2(tmp_path / "gpt2")


def one_sentence(error):
    text = str(error.value)
    assert "\n" not in text and "trust_remote_code" not in text
    return text


def test_a_model_that_only_its_code_can_read_is_refused(gpt2, mark):
    bring_code(gpt2, mark, tokenizer_class=None)
    with pytest.raises(RunError, match=f"--model {gpt2}: the folder {CODE}; expected") as error:
        load_policy(str(gpt2), byte_tokenizer())
    one_sentence(error)


def test_a_tokenizer_that_only_its_code_can_read_is_refused_or_read_without(gpt2, mark):
    """Without its class tokenizer.json is all that is needed."""
    bring_code(gpt2, mark)
    try:
        assert load_tokenizer(str(gpt2))("film")["input_ids"] == byte_tokenizer()("film")["input_ids"]
    except RunError as error:
        assert CODE in str(error)


def test_a_model_that_transformers_knows_is_read_without_its_code(gpt2, mark):
    bring_code(gpt2, mark, model_type=None, tokenizer_class=None)
    tokenizer = load_tokenizer(str(gpt2))
    assert load_policy(str(gpt2), tokenizer).config.n_embd == 16


def test_kernels_of_the_hub_are_code_too(gpt2, mark):
    change(gpt2 / "config.json", attn_implementation="someone/kernels")
    with pytest.raises(RunError, match="asks for the attention of someone/kernels, code that is never run"):
        load_policy(str(gpt2), byte_tokenizer())


def test_a_classifier_that_only_its_code_can_read_is_refused(tmp_path, mark):
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    folder = tmp_path / "judge"
    labels = {0: "positive", 1: "negative"}
    BertForSequenceClassification(BertConfig(vocab_size=400, id2label=labels, **small)).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    bring_code(folder, mark)
    with pytest.raises(RunError, match=f"--gold {folder}: the folder {CODE}") as error:
        classifier(str(folder))
    one_sentence(error)


def test_the_command_line_refuses_before_it_writes(gpt2, mark, tmp_path, capsys):
    bring_code(gpt2, mark, tokenizer_class=None)
    data = tmp_path / "reviews.txt"
    data.write_text("\n".join(reviews()))
    runs = tmp_path / "runs"
    assert main(["run", "--preset", "gpt2", "--model", str(gpt2), "--data", str(data), "--runs-dir", str(runs)]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "week6: error" in line]
    assert CODE in line and not runs.exists()


ESCAPES = {
    "globals": "{{ cycler.__init__.__globals__.os.system('touch MARK') }}",
    "lipsum": "{{ lipsum.__globals__['os'].popen('touch MARK').read() }}",
    "classes": "{% for c in ''.__class__.__mro__[1].__subclasses__() %}{{ c }}{% endfor %}",
    "attr filter": "{{ ''|attr('__class__')|attr('__mro__') }}",
    "format": "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
    "raise": "{{ raise_exception.__globals__['__builtins__']['open']('MARK', 'w') }}",
    "time": "{{ strftime_now.__globals__['__builtins__']['open']('MARK', 'w') }}",
    "import": "{% import 'evil.py' as evil %}{{ evil }}",
    "include": "{% include '/etc/hostname' %}",
    "change the messages": "{{ messages.append(messages[0]) }}",
}


@pytest.mark.parametrize("name", ESCAPES)
def test_a_template_stays_in_its_sandbox(gpt2, mark, name):
    """In a model's folder and in a run's; what the sandbox refuses is one sentence."""
    (gpt2 / "chat_template.jinja").write_text(ESCAPES[name].replace("MARK", str(mark)))
    try:
        text = render(load_tokenizer(str(gpt2)), HELLO, reply=True)
    except ValueError as error:
        assert str(error).startswith("tokenizer: its chat template cannot be used here (") and "\n" not in str(error)
    else:
        assert not re.search("__main__|builtin|class", text)


def test_a_run_folder_brings_no_code_into_the_chat(tmp_path, mark):
    folder = shutil.copytree(finished_run(), tmp_path / "run")
    bring_code(folder / "policies" / "sft", mark)
    with pytest.raises(RunError, match="policies/sft"):
        load_session(folder)


def test_a_data_set_brings_no_code(tmp_path, mark):
    folder = tmp_path / "words"
    folder.mkdir()
    (folder / "words.py").write_text(program(mark))
    with pytest.raises(RunError, match=f"--data {folder}: is a folder; expected"):
        read_table(str(folder), [["text"]])


@pytest.mark.slow
def test_the_hub_brings_no_code(tmp_path, mark):
    """Through the real client, in a process of its own whose `input` says yes."""
    served = tmp_path / "served"
    bring_code(small_gpt2(served / "models" / "evil" / "model"), mark, tokenizer_class=None)
    data = imdb(served / "datasets" / "evil" / "data", reviews(40))
    for path in data.rglob("*.parquet"):
        path.unlink()
    (data / "data.py").write_text(program(mark))
    (data / "README.md").unlink()
    good, texts = small_gpt2(tmp_path / "model"), tmp_path / "reviews.txt"
    texts.write_text("\n".join(reviews()))
    start = ["run", "--preset", "gpt2", "--runs-dir", str(tmp_path / "runs")]
    with Hub(served) as hub:
        results = in_child(
            hub.url,
            tmp_path / "home",
            {
                "model": [*start, "--model", "evil/model", "--data", str(texts)],
                "data": [*start, "--model", str(good), "--data", "evil/data"],
            },
        )
    for name, (code, text, _) in results.items():
        (line,) = [line for line in text.splitlines() if line.startswith("week6: error: ")]
        assert code == 2 and f"--{name} evil/{name}" in line and CODE in line
    assert not (tmp_path / "runs").exists()
