#!/usr/bin/env python3
"""60 submissions graded as a class is: how long it takes, which verdicts are wrong, what gets out of jail.

    python tools/grade_trial.py [--workers 2] [--folder FOLDER]

Of every notebook one with right answers, one with other right answers, one with wrong ones and one with both, as the
tests of the graders have them; one of them is empty, and 16 are hostile. The verdict on each answer must be the one,
word for word, that its author sees in the notebook. Nothing may be written outside, and no process may be left. Exit
code 1 if not, or if it takes more than ten minutes.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.checks.wrong_answers import WRONG_ANSWERS  # noqa: E402
from tests.grading.submissions import hostile  # noqa: E402
from week6.checks.capstone import Capstone  # noqa: E402
from week6.checks.solution import pasteable  # noqa: E402
from week6.grading.command import grade  # noqa: E402
from week6.grading.marking import MODULES, answer_name, questions  # noqa: E402

SECONDS = 600
HOSTILE = 16
GRADERS = re.compile(r"(?m)^from (week6\.checks\.nb\d\d) import (.+)$")
Expected = dict[str, tuple[str, str]]
"""Of each question the kind and the text of the verdict."""


def portable(module: Any) -> str:
    """A file of answers as a cell: without its tests' imports, with the text of what it takes from the graders."""

    def pasted(found: re.Match[str]) -> str:
        names = [part.strip().split(" as ") for part in found[2].split(",")]
        graders = importlib.import_module(found[1])
        return "\n".join(pasteable(getattr(graders, name), *alias) for name, *alias in names)

    return GRADERS.sub(pasted, re.sub(r"(?m)^from tests.*$", "", inspect.getsource(module)))


class Author:
    """Somebody who answers the questions of one notebook in one way: `right`, `other`, `wrong`, `both`."""

    def __init__(self, module: str, way: str) -> None:
        self.module, self.way = module, way
        self.right = importlib.import_module(f"tests.checks.right_answers.{module}")
        self.cells: list[str] = []
        self.answers: dict[str, tuple[str, Any]] = {}
        for i, (question, asked) in enumerate(questions(module).items()):
            wrong = way == "wrong" or (way == "both" and i % 2 == 1)
            found = self._wrong(question, asked) if wrong else self._right(question, asked, int(way == "other"))
            if found:
                self.answers[question] = found

    def _right(self, question: str, asked: Any, which: int) -> tuple[str, Any] | None:
        if isinstance(asked, Capstone):
            return self._of_capstone("RIGHT", which)
        if asked.reference is None:
            return repr(asked.value), asked.value
        text = portable(self.right)
        if text not in self.cells:
            self.cells.append(text)
        answers = self.right.RIGHT[question]
        return f"RIGHT[{question!r}][{which % len(answers)}]", answers[which % len(answers)]

    def _wrong(self, question: str, asked: Any) -> tuple[str, Any] | None:
        if isinstance(asked, Capstone):
            return self._of_capstone("MISTAKES", 0)
        if asked.reference is None:
            return repr(asked.misconceptions[0].answer), asked.misconceptions[0].answer
        if found := WRONG_ANSWERS.get(f"{self.module}.{question}"):
            text = portable(importlib.import_module("tests.checks.wrong_answers"))
            if text not in self.cells:
                self.cells.insert(0, text)
            return f"WRONG_ANSWERS[{f'{self.module}.{question}'!r}][0]", found[0]
        for wrong in asked.misconceptions:
            if inspect.isfunction(wrong.answer) and wrong.answer.__name__.isidentifier():
                if "<locals>" not in wrong.answer.__qualname__:
                    self.cells.insert(0, pasteable(wrong.answer, f"wrong_{question}"))
                    return f"wrong_{question}", wrong.answer
        return None

    def _of_capstone(self, table: str, which: int) -> tuple[str, Any] | None:
        answers = importlib.import_module(f"tests.checks.capstones.{self.module}")
        text = portable(answers)
        if table == "MISTAKES" and "altered" in text:  # made of the course's own source, which no student has
            return None
        names = list(getattr(answers, table))
        name = names[which % len(names)]
        alone = re.sub(r"(?ms)^MISTAKES = \{.*?^\}$", "", text) if table == "RIGHT" else text
        alone = alone.replace("RIGHT =", "CAPSTONES =")
        self.cells.insert(0, alone)
        return f"{table.replace('RIGHT', 'CAPSTONES')}[{name!r}]", getattr(answers, table)[name]

    def notebook(self) -> dict[str, Any]:
        """The student edition with these answers in it."""
        (path,) = (ROOT / "notebooks").glob(f"{self.module[2:]}_*.ipynb")
        content: dict[str, Any] = json.loads(path.read_text())
        extra = [{"cell_type": "code", "id": f"own{i}", "metadata": {}, "source": text, "outputs": []}
                 for i, text in enumerate(self.cells)]  # fmt: skip
        cells = content["cells"]
        for question, (text, _) in self.answers.items():
            name = answer_name(questions(self.module)[question])
            for cell in cells:
                source = "".join(cell["source"])
                if cell["cell_type"] == "code" and re.search(rf"(?m)^(def|class) {name}\b|^{name} = \.\.\.", source):
                    cell["source"] = f"{name} = {text}"
                if not name and f"check.{question}(" in source and cell["cell_type"] == "code":
                    cell["source"] = f"check.{question}({text})"
        content["cells"] = extra + cells
        return content

    def expected(self) -> Expected:
        """The verdicts that the author sees in the notebook."""
        found = {}
        for question, asked in questions(self.module).items():
            text, answer = self.answers.get(question, ("", ...))
            message = asked.grade(answer)
            found[question] = message.kind, message.text
        return found


def make(folder: Path, outside: Path) -> dict[str, Expected]:
    """Write the submissions; what is expected of each that is not hostile."""
    expected = {}
    for module in MODULES:
        for way in ("right", "other", "wrong", "both"):
            author = Author(module, way)
            if (module, way) == (MODULES[-1], "both"):
                author.answers = {}  # an empty one
            name = f"{module[2:]}_{way}"
            (folder / f"{name}.ipynb").write_text(json.dumps(author.notebook()))
            expected[name] = author.expected()
    bad = list(hostile(outside).items())
    for name, (content, _) in bad:
        (folder / f"01_{name.replace(' ', '_')}.ipynb").write_bytes(content)
    return expected


def differences(expected: dict[str, Expected], folder: Path) -> list[str]:
    """Verdicts that are not those of the notebook."""
    found = []
    table = {row["student"]: row for row in json.loads((folder / "grades.json").read_text())["submissions"]}
    for name, verdicts in expected.items():
        marks = {mark["question"]: mark for mark in table[name]["marks"]}
        for question, (kind, text) in verdicts.items():
            mark = marks[question]
            if mark["kind"] != kind:
                found.append(f"{name} {question}: {mark['kind']} ({mark['text']}), expected {kind} ({text})")
            elif kind == "not yet" and mark["text"] != text:
                print(f"other words: {name} {question}\n  {mark['text']}\n  {text}")
    return found


def main() -> int:
    """Make, grade, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    base = options.folder or Path(tempfile.mkdtemp(prefix="grade-trial-"))
    submissions, outside, results = base / "submissions", base / "outside", base / "grades"
    for folder in (submissions, outside):
        folder.mkdir(parents=True, exist_ok=True)
    (outside / "secret").write_text("the teacher's own")
    expected = make(submissions, outside)
    before = {p.pid for p in psutil.process_iter()}
    begun = time.monotonic()
    grade([submissions], results, workers=options.workers)
    seconds = time.monotonic() - begun
    wrong = differences(expected, results)
    content = json.loads((results / "grades.json").read_text())["submissions"]
    bad = [row for row in content if row["student"] not in expected]
    gained = [row["student"] for row in bad if row["points"] > 0]
    escaped = [p.name for p in outside.iterdir() if p.name != "secret"] + ["secret"] * (
        (outside / "secret").read_text() != "the teacher's own"
    )
    mine = psutil.Process().children(recursive=True)
    left = [
        p for p in psutil.process_iter(["cmdline"]) if p.pid not in before and p not in mine and "week6" in str(p.info)
    ]
    verdicts = sum(map(len, expected.values()))
    print(f"{len(content)} submissions in {seconds:.0f} s with {options.workers} workers (at most {SECONDS})")
    print(f"{len(expected)} that are not hostile: {verdicts} verdicts, {len(wrong)} wrong")
    print(
        f"{len(bad)} hostile: points for {gained or 'none'}; written outside: {escaped or 'nothing'}; "
        f"left: {left or 'no process'}"
    )
    print(*wrong, sep="\n")
    return int(bool(wrong or escaped or left) or seconds > SECONDS or len(bad) < HOSTILE)


if __name__ == "__main__":
    sys.exit(main())
