"""Keep what a run on a real model found: `python tools/record_real.py runs/NAME`.

Writes its summary, its metrics and the first of its sampled answers to week6/recorded, without weights and without
the texts that it was trained on.
"""

import json
import sys
from pathlib import Path

import pandas as pd

from week6.machine.checkpoint import write_atomic
from week6.recorded import __file__ as recorded
from week6.run.training import Run, to_json

STAGES = ("sft", "reward_model", "ppo", "dpo")
DIGITS = 5
SAMPLES = 8
"""Prompts whose answers are kept."""


def keep(run: Run, folder: Path, name: str) -> None:
    """Copy tables, summary and samples of `run` into `folder`, under `name`."""
    for stage in STAGES:
        write_atomic(folder / f"{name}_{stage}.csv", rounded(run.metrics(stage)).to_csv(index=False))
    summary = json.loads((run.folder / "summary.json").read_text())
    config = json.loads((run.folder / "config.json").read_text())["preset"]
    settings = {key: value for key, value in config.items() if key not in ("model", "data")}  # paths of one machine
    write_atomic(folder / f"{name}.json", to_json(summary | {"settings": settings}))
    samples = pd.DataFrame(json.loads((run.folder / "samples.json").read_text()))
    first = samples[samples["prompt"].isin(samples["prompt"].unique()[:SAMPLES])]
    write_atomic(folder / f"{name}_samples.csv", rounded(first).to_csv(index=False))


def rounded(table: pd.DataFrame) -> pd.DataFrame:
    """All numbers that are not whole, with `DIGITS` digits."""
    numbers = table.select_dtypes("float").columns
    return table.assign(**{name: table[name].map(lambda x: float(f"{x:.{DIGITS}g}")) for name in numbers})


if __name__ == "__main__":
    source = Path(sys.argv[1])
    keep(Run(source), Path(recorded).parent, source.name)
