#!/usr/bin/env python3
"""More than 60 submissions graded as a class is: how long it takes, which verdicts are wrong, what gets out of jail.

    python tools/grade_trial.py [--workers 2] [--folder FOLDER]

Of every notebook one with right answers, one with other right answers, one with wrong ones and one with both, as the
tests of the graders have them; one of them is empty. 16 or more others are hostile. The verdict on each answer must be
the one that its author sees in the notebook; where its words differ, both are shown. Nothing may be written outside,
and no process may be left. Exit code 1 if not, or if it takes more than ten minutes.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import inspect
import json
import re
import sys
import tempfile
import textwrap
import threading
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


def without_tables(text: str) -> str:
    """A text without its tables of answers other than RIGHT: mistakes are made of what no student has."""
    lines = text.split("\n")
    for node in reversed(ast.parse(text).body):
        if isinstance(node, ast.Assign):
            table = isinstance(node.value, ast.Dict) and ast.unparse(node.targets[0]) != "RIGHT"
        else:
            table = isinstance(node, ast.AugAssign)  # of mistakes, added to those above
        if table:
            del lines[node.lineno - 1 : node.end_lineno]
    return "\n".join(lines)


def called(name: str, text: str, value: str) -> str:
    """A cell that makes `value` by a text whose names are its own: files of answers share some."""
    return f"def {name}():\n{textwrap.indent(text, '    ')}\n    return {value}\n\n\n{name} = {name}()"


class Author:
    """Somebody who answers the questions of one notebook in one way: `right`, `other`, `wrong`, `both`."""

    def __init__(self, module: str, way: str) -> None:
        self.module, self.mistaken = module, False
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
        file = importlib.import_module(f"tests.checks.right_answers.{self.module}")
        self._cell("right_answers", portable(file), "RIGHT")
        answers = file.RIGHT[question]
        which %= len(answers)
        return f"right_answers[{question!r}][{which}]", answers[which]

    def _wrong(self, question: str, asked: Any) -> tuple[str, Any] | None:
        if isinstance(asked, Capstone):
            return self._of_capstone("MISTAKES", 0)
        if asked.reference is None:
            return repr(asked.misconceptions[0].answer), asked.misconceptions[0].answer
        if found := WRONG_ANSWERS.get(f"{self.module}.{question}"):
            self._cell(
                "wrong_answers", portable(importlib.import_module("tests.checks.wrong_answers")), "WRONG_ANSWERS"
            )
            return f"wrong_answers[{f'{self.module}.{question}'!r}][0]", found[0]
        for wrong in asked.misconceptions:
            answer = wrong.answer
            if inspect.isfunction(answer) and answer.__qualname__.isidentifier():
                self.cells.append(pasteable(answer, f"wrong_{question}"))
                return f"wrong_{question}", answer
        return None

    def _of_capstone(self, table: str, which: int) -> tuple[str, Any] | None:
        file = importlib.import_module(f"tests.checks.capstones.{self.module}")
        text = portable(file)
        if table == "RIGHT":
            text = without_tables(text)
        elif "altered" in text:  # made of the course's own source, which no student has
            return None
        self.mistaken = table == "MISTAKES"
        answers = getattr(file, table)
        names = [n for n, a in answers.items() if not inspect.isfunction(a) or "altered" not in inspect.getsource(a)]
        name = names[which % len(names)]
        self._cell("of_capstone", text, table)
        return f"of_capstone[{name!r}]", answers[name]

    def _cell(self, name: str, text: str, value: str) -> None:
        cell = called(name, text, value)
        if cell not in self.cells:
            self.cells.append(cell)

    def notebook(self) -> dict[str, Any]:
        """The student edition with these answers in it."""
        (path,) = (ROOT / "notebooks").glob(f"{self.module[2:]}_*.ipynb")
        content: dict[str, Any] = json.loads(path.read_text())
        extra = [{"cell_type": "code", "id": f"own{i}", "metadata": {}, "source": text, "outputs": []}
                 for i, text in enumerate(self.cells)]  # fmt: skip
        for question, (text, _) in self.answers.items():
            name = answer_name(questions(self.module)[question])
            pattern = rf"^(def|class) {name}\b|^{name} = \.\.\." if name else rf"^check\.{question}\("
            for cell in content["cells"]:
                if cell["cell_type"] == "code" and re.search(pattern, "".join(cell["source"]), re.MULTILINE):
                    cell["source"] = f"{name} = {text}" if name else f"check.{question}({text})"
        content["cells"] = extra + content["cells"]
        return content

    def expected(self) -> Expected:
        """The verdicts that the author sees in the notebook."""
        found = {}
        for question, asked in questions(self.module).items():
            text, answer = self.answers.get(question, ("", ...))
            if isinstance(asked, Capstone) and text:  # as the tests of the capstones have found
                found[question] = ("not yet" if self.mistaken else "correct"), ""
                continue
            message = asked.grade(answer)
            found[question] = message.kind, message.text
        return found


class Used(threading.Thread):
    """Seconds of the processor that this process's descendants have used, by looking at them twice a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.seconds: dict[int, float] = {}
        self.start()

    def run(self) -> None:
        """Look, until the program ends."""
        while True:
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    times = process.cpu_times()
                    self.seconds[process.pid] = times.user + times.system
            time.sleep(0.5)

    def total(self) -> float:
        """So far."""
        return sum(self.seconds.values())


def make(folder: Path, outside: Path, only: str) -> dict[str, Expected]:
    """Write the submissions; what is expected of each that is not hostile."""
    expected = {}
    for module in MODULES:
        for way in ("right", "other", "wrong", "both"):
            name = f"{module[2:]}_{way}"
            if not re.search(only, name):
                continue
            author = Author(module, way)
            if (module, way) == (MODULES[-1], "both"):
                author.answers = {}  # an empty one
            (folder / f"{name}.ipynb").write_text(json.dumps(author.notebook()))
            expected[name] = author.expected()
    for name, (content, _) in hostile(outside).items():
        if re.search(only, f"01_{name}"):
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
            elif kind == "not yet" and text and mark["text"] != text:
                print(f"other words: {name} {question}\n  {mark['text']}\n  {text}")
    return found


def main() -> int:
    """Make, grade, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", default="", help="a regular expression of names")
    parser.add_argument("--folder", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    base = options.folder or Path(tempfile.mkdtemp(prefix="grade-trial-"))
    submissions, outside, results = base / "submissions", base / "outside", base / "grades"
    for folder in (submissions, outside):
        folder.mkdir(parents=True, exist_ok=True)
    (outside / "secret").write_text("the teacher's own")
    expected = make(submissions, outside, options.only)
    used = Used()
    before = {p.pid for p in psutil.process_iter()}
    begun = time.monotonic()
    grade([submissions], results, workers=options.workers)
    seconds = time.monotonic() - begun
    computed = used.total()
    wrong = differences(expected, results)
    content = json.loads((results / "grades.json").read_text())["submissions"]
    bad = [row for row in content if row["student"] not in expected]
    gained = [row["student"] for row in bad if row["points"] > 0]
    escaped = [p.name for p in outside.iterdir() if p.name != "secret"] + ["secret"] * (
        (outside / "secret").read_text() != "the teacher's own"
    )
    mine = psutil.Process().children(recursive=True)
    left = [
        p
        for p in psutil.process_iter(["cmdline"])
        if p.pid not in before and p not in mine and "week6.grading" in str(p.info)
    ]
    verdicts = sum(map(len, expected.values()))
    print(f"{len(content)} submissions in {seconds:.0f} s with {options.workers} workers (at most {SECONDS})")
    print(f"{computed:.0f} s of the processors")
    print(f"{len(expected)} that are not hostile: {verdicts} verdicts, {len(wrong)} wrong")
    print(
        f"{len(bad)} hostile: points for {gained or 'none'}; written outside: {escaped or 'nothing'}; "
        f"left: {left or 'no process'}"
    )
    print(*wrong, sep="\n")
    return int(bool(wrong or escaped or left) or seconds > SECONDS or (not options.only and len(bad) < HOSTILE))


if __name__ == "__main__":
    sys.exit(main())
