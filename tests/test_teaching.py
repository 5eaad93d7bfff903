"""The plan of the week: sections, exercises, slides and answers that the page for teachers names are there."""

import json
import re

import pytest

from tools.build_site import ROOT
from tools.build_slides import SLIDES, deck

PAGE = (ROOT / "docs" / "teaching.md").read_text(encoding="utf-8")
ROWS = [line for line in PAGE.splitlines() if re.match(r"\| \d \|", line)]


def prose(number, folder="solutions"):
    (path,) = (ROOT / folder).glob(f"{number}_*.ipynb")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def numbers(text):
    """ "2, 4 to 6 and 8" → 2, 4, 5, 6, 8."""
    for first, last in re.findall(r"(\d+)(?: to (\d+))?", text):
        yield from range(int(first), int(last or first) + 1)


def test_the_sections_of_the_plan_are_there():
    named = re.findall(r"(\d\d): sections? ((?:\d+(?:, | to | and )?)+)", "\n".join(ROWS))
    assert len(ROWS) == 7 and len(named) >= 12
    for notebook, sections in named:
        headings = {int(x) for x in re.findall(r"(?m)^## (\d+) ·", prose(notebook))}
        assert set(numbers(sections)) <= headings, (notebook, sections)


def test_the_exercises_of_the_plan_are_there():
    for text in ROWS:
        for first, last in re.findall(r"(?<![\d.])(\d+\.\d)(?: to (\d+\.\d))?", text):
            for name in {first, last or first}:
                assert f"Exercise {name} ·" in prose(f"{int(name.split('.')[0]):02d}"), name


def test_the_slides_of_the_plan_are_there():
    decks = {path.stem: path.read_text(encoding="utf-8") for path in SLIDES.glob("*.md")}
    first, last = re.search(r"each of the\s+notebooks\s+from (\d\d) to (\d\d)", PAGE).groups()
    assert sorted(decks) == [f"{number:02d}" for number in range(int(first), int(last) + 1)]
    for title in re.findall(r'"([^"]+)"', "\n".join(ROWS)):
        assert any(f"## {title}" in text for text in decks.values()), title
    assert all(deck(path) for path in SLIDES.glob("*.md"))


@pytest.mark.parametrize("number", [f"{n:02d}" for n in range(11)])
def test_the_answers_for_the_teacher_are_in_the_solved_edition_alone(number):
    question = re.compile("to think about", re.IGNORECASE)
    assert question.search(prose(number)) and question.search(prose(number, "notebooks"))
    assert "**Answers.**" in question.split(prose(number))[-1]
    assert "**Answers.**" not in prose(number, "notebooks")
