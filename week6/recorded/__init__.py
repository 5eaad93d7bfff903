"""Metrics of runs that take longer than a lesson, kept so that their plots need no training.

Each table says in README.md beside it which command made it, on which model, data and machine.
"""

import json
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import pandas as pd

FOLDER = Path(__file__).parent
"""Where whoever makes them anew writes them."""


def recorded(name: str) -> pd.DataFrame:
    """The table `name`. Raises ValueError for one that is not there."""
    with _file(name, ".csv").open() as text:
        return pd.read_csv(text)


def recorded_summary(name: str) -> dict[str, Any]:
    """The summary.json of the run `name`. Raises ValueError for one that is not there."""
    return dict(json.loads(_file(name, ".json").read_text()))


def _file(name: str, suffix: str) -> Traversable:
    folder = files(__name__)
    path = folder / f"{name}{suffix}"
    if not path.is_file():
        known = sorted(p.name.removesuffix(suffix) for p in folder.iterdir() if p.name.endswith(suffix))
        raise ValueError(f"name: got {name!r}, expected one of {', '.join(map(repr, known))}")
    return path
