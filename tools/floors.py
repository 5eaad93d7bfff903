#!/usr/bin/env python3
"""Print the lowest versions that pyproject.toml allows, as pip takes them: `torch==2.9 transformers==5.0 …`.

Those of the package and of its tests. Needs only a Python 3.11 or newer, as tools/setup_env.py does.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"


def floors(project: dict) -> list[str]:
    """NAME>=VERSION of every requirement as NAME==VERSION. ValueError for a requirement without a floor."""
    pins = []
    for requirement in [*project["dependencies"], *project["optional-dependencies"]["test"]]:
        parts = re.fullmatch(r"([\w-]+)>=([\w.]+)(,<[\w.]+)?", requirement)
        if parts is None:
            raise ValueError(f"{requirement}: expected NAME>=VERSION, and perhaps ,<VERSION")
        pins.append(f"{parts[1]}=={parts[2]}")
    return pins


if __name__ == "__main__":
    print(*floors(tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]))
