"""README and docs/: their tables are those of the recorded runs, and what they name is there."""

import re
import shlex

import pytest

from tools.record import DOCS, ROOT, TABLES, between, write_tables
from week6.chat import session
from week6.classroom import challenge, confirm, doctor, here
from week6.cli import choose_preset, parse
from week6.grading import jail, table, wire
from week6.run.models import PRESETS

README = ROOT / "README.md"
INDEX = DOCS / "README.md"
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in (README, *DOCS.glob("*.md"))}
FENCE = re.compile(r"^ *```.*?^ *```", re.DOTALL | re.MULTILINE)
SPAN = re.compile(r"`([^`]+)`")
MADE_BY_USERS = ("runs/", ".venv", "grades/", "build/")


def code(text):
    """Lines of code blocks without their comments, and code within sentences, each on one line."""
    for block in FENCE.findall(text):
        yield from (line.split("#")[0].strip() for line in block.splitlines()[1:-1])
    yield from (" ".join(span.split()) for span in SPAN.findall(FENCE.sub("", text)))


SNIPPETS = sorted({(page, snippet) for page, text in PAGES.items() for snippet in code(text)})


def test_the_readme_is_a_front_door():
    assert len(PAGES["README.md"].splitlines()) <= 120


def test_the_index_names_every_page():
    assert set(re.findall(r"\]\((\w[\w-]*\.md)\)", PAGES["docs/README.md"])) == {
        path.name for path in DOCS.glob("*.md") if path != INDEX
    }


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_the_recorded_ones(name):
    (page,) = [text for text in PAGES.values() if f"<!-- {name} -->" in text]
    assert between(page, name)[1] == TABLES[name]()


def test_every_table_stands_once():
    marks = [mark for text in PAGES.values() for mark in re.findall(r"<!-- (\w+) -->", text)]
    assert sorted(marks) == sorted(TABLES)


def test_tables_are_written_where_they_stand(tmp_path, monkeypatch):
    for path in DOCS.glob("*.md"):
        emptied = re.sub(r"(<!-- (\w+) -->\n).*?(\n<!-- /\2 -->)", r"\1old\3", path.read_text("utf-8"), flags=re.DOTALL)
        (tmp_path / path.name).write_text(emptied, encoding="utf-8")
    assert "old" in (tmp_path / "speed.md").read_text("utf-8")
    monkeypatch.setattr("tools.record.DOCS", tmp_path)
    write_tables()
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {p.name: p.read_bytes() for p in DOCS.glob("*.md")}


def test_commands_are_targets_of_make():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))
    named = {word for _, snippet in SNIPPETS for word in re.findall(r"^make ([a-z][\w-]*)", snippet)}
    assert {"course", "test", "lab"} <= named <= targets


COMMANDS = [(page, text) for page, text in SNIPPETS if re.match(r"(\.venv/bin/)?week6 [a-z]|.*-m week6 [a-z]", text)]


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_commands_of_week6_can_be_given(page, command):
    words = shlex.split(re.split(r"week6 ", command, maxsplit=1)[1].replace("…", ""))
    if words != ["run", "--help"]:
        parse(words + ["x"] * (words in (["chat"], ["report"])), choose_preset(words))


FLAGS = [(page, text) for page, text in SNIPPETS if text.startswith("--") and text.split()[0] != "--tables"]


@pytest.mark.parametrize(("page", "flag"), FLAGS)
def test_flags_are_flags_of_a_run(page, flag):
    words = ["run", *flag.split()]
    words += ["tiny"] * (len(words) == 2)  # a flag that is named without a value
    parse(words, choose_preset(words))


LIMITS = {
    "From {:g} nats a token on, the chat says that the reward means nothing": session.STRANGE,
    "at a KL of at most {:g} nats?": challenge.KL_LIMIT,
    "**Prompts:** {} that no notebook shows": len(challenge.challenge_prompts()),
    "never seen; {} answers to each": challenge.ANSWERS,
    "has its {:,} preference pairs": PRESETS["lesson"].n_pairs,
    "where fewer than {:.0%} of those who tried": table.REPEAT,
    "a disk of {:g} MiB in memory": jail.DISK / 2**20,
    "{:g} GiB of memory": jail.MEMORY / 2**30,
    "files of {:g} MiB": jail.FILE_SIZE / 2**20,
    "{} processes": jail.PROCESSES,
    "{:g} MiB a result": wire.LARGEST / 2**20,
    "memory under {:g} GB": confirm.Limits().memory_gb,
    "under {:g} minutes": confirm.Limits().minutes,
    "less than {} minutes": {8: "eight"}.get(here.MINUTES),
    "waited for {} seconds at most": {4: "four"}.get(doctor.HUB_SECONDS + 1),
}


@pytest.mark.parametrize("words", LIMITS)
def test_limits_that_are_told_are_those_of_the_code(words):
    said = words.format(LIMITS[words]).replace("%", " %")
    assert any(said in " ".join(text.split()) for text in PAGES.values())


PATH = re.compile(r"[\w.-]+/[\w./-]*|[\w-]+\.(py|md|csv|json|toml|yml|cfg)")
PATHS = [(page, text) for page, text in SNIPPETS if PATH.fullmatch(text) and not text.startswith(MADE_BY_USERS)]


def test_paths_are_there():
    """Named from the top of the repository, from week6/, or by the name alone of a file with one place."""
    names = {path.name for folder in ("week6", "tests", "tools", "solutions") for path in (ROOT / folder).rglob("*")}
    missing = [
        (page, path)
        for page, path in PATHS
        if not ((ROOT / path).exists() or (ROOT / "week6" / path).exists() or ("/" not in path and path in names))
        and "NN_name" not in path
    ]
    assert PATHS and missing == []


def test_rooms_names_every_file_in_front_and_every_room():
    text = PAGES["docs/rooms.md"]
    rows = {m[1]: m[2] for m in re.finditer(r"^\| `(\w+)/` \| (.*) \|$", text, re.MULTILINE)}
    front = {path.name for path in (ROOT / "week6").glob("[!_]*.py")}
    rooms = {path.parent.name for path in (ROOT / "week6").glob("*/__init__.py")}
    assert {name for name in front if f"`{name}`" not in text} == rooms - set(rows) == set()
    for room in rooms:
        for module in re.findall(r"\(((?:`\w+`(?:, )?)+)\)", rows[room]):
            assert all((ROOT / "week6" / room / f"{name}.py").exists() for name in SPAN.findall(module)), (room, module)
