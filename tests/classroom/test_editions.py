"""Notebooks of this version, of another, with answers in them, and what is no notebook."""

import json
import shutil
from pathlib import Path

import nbformat
import pytest

from tools.build_notebooks import IDS
from week6.classroom.editions import EXPECTED, compare, identity

ROOT = Path(__file__).resolve().parents[2]
NAME = "01_bradley_terry.ipynb"


@pytest.fixture
def mine(tmp_path):
    """A notebook in a folder of its own, and what writes it back."""
    path = tmp_path / NAME
    shutil.copy(ROOT / "notebooks" / NAME, path)
    notebook = json.loads(path.read_text())
    return notebook, lambda: path.write_text(json.dumps(notebook)) and compare(tmp_path)[NAME]


def ids(path):
    return [cell["id"] for cell in json.loads(path.read_text())["cells"]]


def test_what_is_expected_are_the_cells_that_both_stored_editions_have():
    """`python tools/build_notebooks.py --check` compares the file with the sources."""
    pairs = {
        path.stem: (ids(path), ids(ROOT / "solutions" / path.name)) for path in (ROOT / "notebooks").glob("*.ipynb")
    }
    shared = {name: [cell for cell in student if cell in solved] for name, (student, solved) in pairs.items()}
    assert {name: text.split() for name, text in json.loads(EXPECTED.read_text()).items()} == shared
    assert IDS.relative_to(ROOT).as_posix() == f"week6/classroom/{EXPECTED.name}"


def test_an_id_is_that_of_the_cells_text():
    cells = nbformat.read(ROOT / "notebooks" / NAME, nbformat.NO_CONVERT).cells
    assert all(cell.id.split("-")[0] == identity(cell.cell_type, cell.source) for cell in cells)


@pytest.mark.parametrize("edition", ["notebooks", "solutions"])
def test_both_editions_are_of_this_version(edition):
    here = compare(ROOT / edition)
    assert len(here) == 11 and set(here.values()) == {""}


def test_answers_make_no_other_version(mine):
    notebook, look = mine
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["source"] = "my_answer = 1"
    del notebook["cells"][5]
    notebook["cells"].append({"cell_type": "code", "metadata": {}, "source": "1 + 1", "id": "mine", "outputs": []})
    assert look() == ""


def test_colab_keeps_ids_elsewhere(mine):
    notebook, look = mine
    for cell in notebook["cells"]:
        cell["metadata"]["id"] = cell.pop("id")
    assert look() == ""


def test_new_ids_leave_the_texts(mine):
    """A program that gives every cell a new id changes no text."""
    notebook, look = mine
    for i, cell in enumerate(notebook["cells"]):
        cell["id"] = f"other{i}"
    assert look() == ""


def test_another_version_is_noticed(mine):
    """Five cells of another text, with the ids of that text: 5 of 85 is more than a deleted cell or two."""
    notebook, look = mine
    for cell in notebook["cells"][6:11]:
        cell["source"] = "another version"
        cell["id"] = identity(cell["cell_type"], cell["source"])
    total = len(json.loads(EXPECTED.read_text())[Path(NAME).stem].split())
    assert look() == f"5 of {total} cells are missing or of another version"


@pytest.mark.parametrize("more", [0, 1])
def test_a_fiftieth_of_the_cells_may_be_gone(mine, more):
    notebook, look = mine
    total = len(json.loads(EXPECTED.read_text())[Path(NAME).stem].split())
    gone = total // 50 + more
    for cell in notebook["cells"][6 : 6 + gone]:
        cell["source"] = "another version"
        cell["id"] = identity(cell["cell_type"], cell["source"])
    assert look() == (f"{gone} of {total} cells are missing or of another version" if more else "")


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"cells": 3}', '{"worksheets": []}', '{"cells": [1]}', "[" * 9999]
)
def test_what_is_no_notebook(tmp_path, content):
    (tmp_path / NAME).write_text(content)
    (tmp_path / "11_mine.ipynb").write_text(content)  # none of the course's
    assert list(compare(tmp_path)) == [NAME] and compare(tmp_path)[NAME].startswith("no notebook of format 4 (")
