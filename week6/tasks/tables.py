"""Columns of text from a local file or from a data set of the hub; what is wrong with them is said in one sentence."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from datasets import load_dataset

from week6.machine.checkpoint import RunError
from week6.machine.hub import fetch

SUFFIXES = (".txt", ".jsonl", ".csv", ".tsv", ".parquet")
"""Local files: a text a line, or a table."""


def read_table(data: str, columns: Sequence[Sequence[str]]) -> dict[str, list[str]]:
    """Columns of `data`, a local file or else the name of a data set on the hub, whose split "train" is taken.

    `columns` are the sets of columns that will do, the best first; the first one that is there is read. In a .txt
    file every line is a row of the first column. Raises RunError for a file that is not there, not UTF-8, not of its
    format or without the columns, for values that are not text, and when the hub does not give the data.
    """
    path = Path(data).expanduser()
    local = path.exists() or path.suffix.lower() in SUFFIXES or data.startswith((".", "/", "~"))
    found = _local(path, columns[0][0]) if local else _from_hub(data)
    there = list(found)
    wanted = next((names for names in columns if set(names) <= set(there)), None)
    if wanted is None:
        expected = " or ".join(", ".join(names) for names in columns)
        raise RunError(f"--data {data}: got the columns {', '.join(there)}, expected {expected}")
    table = {name: list(found[name]) for name in wanted}
    for name, values in table.items():
        for i, value in enumerate(values):
            if not isinstance(value, str):
                raise RunError(f"--data {data}: row {i + 1} of column {name} is {value!r:.60}, expected text")
    return table


def _local(path: Path, column: str) -> Any:
    """A mapping from columns to values."""
    suffix = path.suffix.lower()
    if not path.is_file() or suffix not in SUFFIXES:
        what = (
            f"has the ending {suffix or 'of no kind'}"
            if path.is_file()
            else "is a folder"
            if path.is_dir()
            else "is a pipe or a device"
            if path.exists()
            else "does not exist"
        )
        raise RunError(
            f"--data {path}: {what}; expected a file {', '.join(SUFFIXES)}, or a data set of the hub as OWNER/NAME"
        )
    try:
        if suffix == ".parquet":
            return pd.read_parquet(path)
        text = path.read_text(encoding="utf-8-sig")
        if suffix == ".txt":
            return {column: [line for line in text.split("\n") if line.strip()]}
        if suffix == ".jsonl":
            return pd.DataFrame([_json_row(i, line) for i, line in enumerate(text.split("\n"), 1) if line.strip()])
        if suffix == ".csv":
            return pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
        return pd.read_csv(io.StringIO(text), sep="\t", quoting=csv.QUOTE_NONE, dtype=str, keep_default_na=False)
    except UnicodeDecodeError as error:
        raise RunError(
            f"--data {path} is not UTF-8 (byte {error.object[error.start]:#04x} at {error.start}): convert it, "
            "for example with iconv -f latin1 -t utf-8"
        ) from error
    except (ValueError, OSError) as error:  # of pandas and pyarrow too
        reason = " ".join(str(error).split())[:150]
        raise RunError(f"--data {path} cannot be read as {suffix} ({reason}): expected a whole file") from error


def _json_row(number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"line {number}: {error}") from None
    if not isinstance(row, dict):
        raise ValueError(f"line {number}: expected an object with named values")
    return row


def _from_hub(name: str) -> Any:
    found = fetch("dataset", name, "--data", lambda: load_dataset(name, split="train"))
    return {column: found[column] for column in found.column_names}
