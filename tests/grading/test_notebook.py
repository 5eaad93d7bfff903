"""A submitted notebook is read as data, whatever state it is in."""

import json
import os
from pathlib import Path

import pytest

from tests.grading.submissions import CHECK, HEAD, IMPORTS, RIGHT, answered, notebook
from week6.grading.marking import MODULES
from week6.grading.notebook import notebooks, read
from week6.machine.checkpoint import RunError


def given(tmp_path, content, name="03_x.ipynb"):
    path = tmp_path / name
    path.write_bytes(content)
    return read(path, path.stem, MODULES)


def test_code_cells_in_order_and_the_graders_that_they_import(tmp_path):
    content = json.loads(answered(RIGHT))
    content["cells"].insert(
        1, {"cell_type": "markdown", "id": "m", "metadata": {}, "source": "from week6.checks import nb09"}
    )
    content["cells"][0]["source"] = content["cells"][0]["source"].splitlines(keepends=True)
    found = given(tmp_path, json.dumps(content).encode())
    assert found.cells == (IMPORTS, HEAD + RIGHT, CHECK) and (found.module, found.check) == ("nb01", "check")
    assert found.notes == () and found.ticks == ()


def test_another_name_for_the_graders_and_none_at_all(tmp_path):
    assert given(tmp_path, notebook("from week6.checks import nb02 as c")).check == "c"
    assert given(tmp_path, notebook("from week6.checks import nb02")).check == "nb02"
    assert given(tmp_path, notebook("x = 1")).module == "nb03"  # by the file's name
    with pytest.raises(RunError, match="asks for no graders"):
        given(tmp_path, notebook("x = 1"), "mine.ipynb")
    with pytest.raises(RunError, match="asks for no graders"):
        given(tmp_path, notebook("from week6.checks import nb77"), "2023_mine.ipynb")


def test_the_old_format_and_missing_ids(tmp_path):
    old = {"nbformat": 3, "worksheets": [{"cells": [{"cell_type": "code", "input": [IMPORTS, "\n"], "outputs": []}]}]}
    found = given(tmp_path, json.dumps(old).encode())
    assert found.cells == (IMPORTS + "\n",) and "old format 3" in found.notes[0]
    content = json.loads(answered(RIGHT))
    del content["cells"][0]["id"], content["cells"][2]["id"]
    assert given(tmp_path, json.dumps(content).encode()).notes == ("2 cells have no id",)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no notebook"),
        (b"\xff\xfe\x00", "no notebook"),
        (b"import torch", "no notebook"),
        (b"PK\x03\x04", "no notebook .*, expected the .ipynb that Jupyter saves; unpack an archive before"),
        (b"[" * 100_000, "no notebook"),
        (b"[]", "no notebook of format 3 or 4"),
        (b'{"nbformat": 2, "cells": []}', "format 3 or 4"),
        (b'{"nbformat": 4}', "format 3 or 4"),
        (b'{"nbformat": 4, "cells": []}', "no code cell"),
        (b'{"nbformat": 4, "cells": [7, null]}', "no code cell"),
        (notebook(IMPORTS, "x" * (2**20 + 1)), "characters of code"),
    ],
)
def test_what_is_no_notebook_is_refused_in_a_sentence(tmp_path, content, words):
    with pytest.raises(RunError, match=words) as error:
        given(tmp_path, content)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


def test_a_file_too_large_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("week6.grading.notebook.LARGEST", 10)
    with pytest.raises(RunError, match="MiB"):
        given(tmp_path, answered(RIGHT))


def test_outputs_are_dropped_but_for_the_ticks_in_them(tmp_path):
    content = json.loads(answered(RIGHT))
    text = "✓ 1.1 One: Correct.\n✗ 1.2 Two: Not yet.\n"
    content["cells"][-1]["outputs"] = [
        {"output_type": "stream", "text": [text]},
        {"output_type": "display_data", "data": {"text/plain": ["✓ 1.3 Three: Correct. Well."]}},
        {"output_type": "stream", "text": "x" * 10**6},
        "odd",
    ]
    found = given(tmp_path, json.dumps(content).encode())
    assert found.ticks == ("1.1 One", "1.3 Three")
    assert found.digest != given(tmp_path, answered(RIGHT)).digest


def test_lone_surrogates_do_no_harm(tmp_path):
    content = json.dumps({"nbformat": 4, "cells": [{"cell_type": "code", "source": IMPORTS + "\n'\ud800'"}]})
    assert given(tmp_path, content.encode()).cells[0].encode().endswith(b"'?'")


def test_two_submissions_of_one_name_are_told_apart_by_their_folders(tmp_path):
    for place in ("a/hand/03.ipynb", "b/hand/03.ipynb", "b/hand/04.ipynb", "b/.ipynb_checkpoints/03.ipynb"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_bytes(answered(RIGHT))
    (tmp_path / "b" / "hand" / "04.ipynb").rename(tmp_path / "b" / "hand" / "04.IPYNB")
    found = notebooks([tmp_path, tmp_path / "a" / "hand" / "03.ipynb"])
    assert list(found) == ["a/hand/03", "b/hand/03", "b/hand/04"]
    assert list(notebooks([tmp_path / "b"])) == ["03", "04"]


def test_places_without_notebooks_are_refused(tmp_path):
    with pytest.raises(RunError, match="no such file"):
        notebooks([tmp_path / "none"])
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(RunError, match="is a pipe or a device, expected submitted notebooks"):
            notebooks([place])
    with pytest.raises(RunError, match="no .ipynb"):
        notebooks([tmp_path])
