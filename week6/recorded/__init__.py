"""Metrics of runs that take longer than a lesson, kept so that their plots need no training.

Each table says in README.md beside it which command made it, on which model, data and machine.
"""

from importlib.resources import files

import pandas as pd


def recorded(name: str) -> pd.DataFrame:
    """The table `name`. Raises ValueError for one that is not there."""
    folder = files(__name__)
    path = folder / f"{name}.csv"
    if not path.is_file():
        known = sorted(p.name.removesuffix(".csv") for p in folder.iterdir() if p.name.endswith(".csv"))
        raise ValueError(f"name: got {name!r}, expected one of {', '.join(map(repr, known))}")
    with path.open() as text:
        return pd.read_csv(text)
