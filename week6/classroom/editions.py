"""Which notebooks this version of week6 goes with: a cell is known by what its text hashes to.

tools/build_notebooks.py gives every cell such an id and lists those that both editions share in notebooks.json.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

EXPECTED = Path(__file__).with_name("notebooks.json")
MOST_GONE = 0.02
"""Share of a notebook's cells that may be missing: whoever deletes a cell has no other version."""


def identity(kind: str, source: str) -> str:
    """The id of a cell of the students' edition."""
    return hashlib.sha256(f"{kind}\0{source}".encode()).hexdigest()[:8]


def cells_of(path: Path) -> set[str]:
    """What the cells of a notebook are known by: the ids that they carry, which an answer leaves as they are (Colab
    keeps them among the metadata), and those that their texts have, where a program has replaced the ids.

    Raises ValueError for what is no notebook.
    """
    try:
        return set(_identities(json.loads(path.read_bytes())["cells"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"no notebook of format 4 ({type(error).__name__})") from None


def _identities(cells: list[dict[str, Any]]) -> Iterator[str]:
    for cell in cells:
        yield str(cell.get("id") or cell["metadata"].get("id")).split("-")[0]
        yield identity(cell["cell_type"], "".join(cell["source"]))


def compare(folder: Path) -> dict[str, str]:
    """What is wrong with each notebook of the course in `folder`, or in its folder `notebooks`: "" for one of this
    version."""
    expected = json.loads(EXPECTED.read_text(encoding="utf-8"))
    wrong = {}
    for path in (path for part in (folder, folder / "notebooks") for path in sorted(part.glob("[0-9][0-9]_*.ipynb"))):
        if path.stem not in expected:
            continue
        cells = [cell.split("-")[0] for cell in expected[path.stem].split()]
        try:
            gone = len(set(cells) - cells_of(path))
        except (OSError, ValueError) as error:
            wrong[path.name] = f"{error}"
            continue
        is_other = gone > MOST_GONE * len(cells)
        wrong[path.name] = f"{gone} of {len(cells)} cells are missing or of another version" if is_other else ""
    return wrong
