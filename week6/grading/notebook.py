"""A submitted notebook, read as data: its code cells, without outputs. Nothing of it runs here."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from week6.machine.checkpoint import RunError

LARGEST = 200 * 2**20
"""Bytes of a notebook, outputs and all."""
LARGEST_CODE = 2**20
"""Characters of all code cells together; the longest notebook of the course has 40,000."""
CHECKS = re.compile(r"\bfrom\s+week6\.checks\s+import\s+(nb\d\d)(?:\s+as\s+(\w+))?")
NUMBER = re.compile(r"(?<!\d)(0\d|10)(?=_)")
TICK = re.compile(r"✓[^\n]*: Correct\.")


@dataclass(frozen=True)
class Submission:
    """What was handed in.

    student   whose it is: the file's name, with its folder's where two files have one name
    module    the graders that it asks for, such as "nb03"
    check     the name that it gives them
    cells     the text of each code cell, in order
    ticks     titles of exercises that its stored outputs call correct; outputs prove nothing
    notes     what the teacher should know of the file
    """

    student: str
    path: Path
    module: str
    check: str
    cells: tuple[str, ...]
    ticks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """A key of all that a verdict depends on in the file."""
        text = json.dumps([self.module, self.check, self.cells, self.ticks], ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def read(path: Path, student: str, modules: tuple[str, ...]) -> Submission:
    """Read a notebook; `modules` are the graders that there are. Raises RunError for a file that is none of theirs."""
    try:
        size = path.stat().st_size
        if size > LARGEST:
            raise RunError(f"{path.name}: got {size / 2**20:.0f} MiB, expected a notebook of at most 200")
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise RunError(f"{path.name}: {error.strerror}; expected a notebook that can be read") from None
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:80]
        raise RunError(
            f"{path.name}: no notebook ({reason}), expected the .ipynb that Jupyter saves; unpack an archive before"
        ) from None
    cells, notes = _cells(content, path.name)
    if "\ud800" <= max((char for cell in cells for char in cell["text"]), default="") <= "\udfff":
        cells = [cell | {"text": cell["text"].encode("utf-8", "replace").decode()} for cell in cells]
    code = tuple(cell["text"] for cell in cells if cell["code"])
    if sum(map(len, code)) > LARGEST_CODE:
        raise RunError(f"{path.name}: got {sum(map(len, code))} characters of code, expected at most {LARGEST_CODE}")
    if not code:
        raise RunError(f"{path.name}: no code cell in it, expected a notebook of the course")
    module, check = _graders(code, path, modules)
    ticks = tuple(dict.fromkeys(tick for cell in cells for tick in cell["ticks"]))
    return Submission(student, path, module, check, code, ticks, tuple(notes))


def _cells(content: Any, name: str) -> tuple[list[dict[str, Any]], list[str]]:
    """Kind, text and forged or real ticks of each cell; and what is odd about the file."""
    version = content.get("nbformat") if isinstance(content, dict) else None
    notes: list[str] = []
    given: Any = content.get("cells") if version == 4 else None
    if version == 3 and isinstance(sheets := content.get("worksheets"), list):  # and a cell's text is called input
        given = [cell for sheet in sheets if isinstance(sheet, dict) for cell in sheet.get("cells") or ()]
        notes.append("written in the old format 3")
    if not isinstance(given, list):
        raise RunError(f"{name}: no notebook of format 3 or 4 (nbformat is {str(version)[:20]!r}), expected an .ipynb")
    cells, without_id = [], 0
    for cell in given:
        if not isinstance(cell, dict):
            notes.append("a cell that is none was left out")
            continue
        source = cell.get("source", cell.get("input", ""))
        text = "".join(map(str, source)) if isinstance(source, list) else str(source)
        code = cell.get("cell_type") == "code"
        without_id += "id" not in cell
        cells.append({"code": code, "text": text, "ticks": _ticks(cell.get("outputs")) if code else []})
    if without_id:
        notes.append(f"{without_id} cells have no id")
    return cells, notes


def _ticks(outputs: Any) -> list[str]:
    """The lines of a cell's outputs that call something correct."""
    found: list[str] = []
    for output in outputs if isinstance(outputs, list) else ():
        if isinstance(output, dict):
            data = output.get("data")
            for text in (output.get("text"), data.get("text/plain") if isinstance(data, dict) else None):
                text = "".join(map(str, text)) if isinstance(text, list) else text
                found += TICK.findall(text[:5000]) if isinstance(text, str) else []
    return [line[1 : -len(": Correct.")].strip()[:100] for line in found[:20]]


def _graders(code: tuple[str, ...], path: Path, modules: tuple[str, ...]) -> tuple[str, str]:
    """Which graders a notebook imports, and as what; by the file's name where it imports none."""
    for text in code:
        if (found := CHECKS.search(text)) and found[1] in modules:
            return found[1], found[2] or found[1]
    named = [f"nb{number}" for number in NUMBER.findall(path.name)]
    if named and named[0] in modules:
        return named[0], "check"
    raise RunError(
        f"{path.name}: it asks for no graders, expected a notebook of the course "
        "(`from week6.checks import nb03 as check`, or 03_ in the file's name)"
    )


def notebooks(places: list[Path]) -> dict[str, Path]:
    """Every notebook in files and folders, by the student's name: the file's, with the folder's where two are alike.

    Raises RunError for a place that is not there, or where there is none.
    """
    found: list[Path] = []
    for place in places:
        if place.is_dir():
            every = (p for p in place.rglob("*") if p.suffix.lower() == ".ipynb")
            inside = sorted(p for p in every if ".ipynb_checkpoints" not in p.parts and p.is_file())
            if not inside:
                raise RunError(f"{place}: no .ipynb in this folder, expected submitted notebooks")
            found += inside
        elif place.is_file():
            found.append(place)
        elif place.exists():
            raise RunError(f"{place}: is a pipe or a device, expected submitted notebooks or folders of them")
        else:
            raise RunError(f"{place}: no such file or folder, expected submitted notebooks")
    found = list({path.resolve(): path for path in found}.values())
    names: dict[str, Path] = {}
    for depth in range(max(len(path.resolve().parts) for path in found)):
        names = {}
        clashes = False
        for path in found:
            name = _name(path, depth)
            clashes |= name in names
            names[name] = path
        if not clashes:
            break
    return names


def _name(path: Path, depth: int) -> str:
    """The file's name after the last `depth` folders, in characters that every disk takes."""
    parts = path.resolve().with_suffix("").parts[1:]
    text = "/".join(parts[-1 - depth :])
    text = "".join(c if c.isprintable() else "?" for c in unicodedata.normalize("NFC", text))
    return text.encode("utf-8", "replace").decode()
