"""Columns of text from a local file or from a data set of the hub; what is wrong with them is said in one sentence,
with the file, the row and the column."""

import codecs
import csv
import gzip
import io
import json
import math
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from datasets import load_dataset

from week6.machine.checkpoint import RunError
from week6.machine.hub import fetch

SUFFIXES = (".txt", ".jsonl", ".csv", ".tsv", ".parquet")
"""Local files: a text a line, or a table; .gz behind it for one that is compressed."""
MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Byte order marks, the longer ones first: each says what a file is encoded in."""


class Found(NamedTuple):
    """Columns as they were found, and what a message calls row i."""

    columns: Mapping[str, Sequence[Any]]
    place: Callable[[int], str] = lambda i: f"row {i + 1}"


def read_table(data: str, columns: Sequence[Sequence[str]]) -> dict[str, list[str]]:
    """Columns of `data`, a local file or else the name of a data set on the hub, whose split "train" is taken.

    `columns` are the sets of columns that will do, the best first; the first one that is there is read. In a .txt
    file every line is a row of the first column. Text is UTF-8, or what its byte order mark says. Raises RunError for
    a file that is not there, not of its format or without the columns, for rows of another length, for values that are
    not text or hold what no text does, and when the hub does not give the data.
    """
    try:
        path = Path(data).expanduser()
        local = path.exists() or _kind(path) in SUFFIXES or data.startswith((".", "/", "~"))
        found = _local(path, columns[0][0]) if local else _from_hub(data)
        there = list(found.columns)
        wanted = next((names for names in columns if set(names) <= set(there)), None)
        if wanted is None:
            raise ValueError(_other_columns(there, columns))
        return {name: [_text(value, found.place(i), name) for i, value in enumerate(found.columns[name])]
                for name in wanted}  # fmt: skip
    except RunError:
        raise
    except (ValueError, OSError, RuntimeError, EOFError, zlib.error) as error:  # of the readers of every format
        reason = " ".join(str(error).split())[:250] or type(error).__name__
        raise RunError(f"--data {data}: {reason}") from error


def _other_columns(there: Sequence[str], columns: Sequence[Sequence[str]]) -> str:
    expected = " or ".join(", ".join(names) for names in columns)
    for mark, name in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
        if len(there) == 1 and set(columns[-1]) <= {part.strip(' "') for part in there[0].split(mark)}:
            return f"its columns are separated by {name}, expected commas (or a .tsv file with tabs)"
    return f"got the columns {', '.join(there) or '(none)'}, expected {expected}"


def _text(value: Any, place: str, column: str) -> str:
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        raise ValueError(f"{place} of column {column} is missing, expected text")
    if not isinstance(value, str):
        raise ValueError(f"{place} of column {column} is {value!r:.60}, expected text")
    if "\0" in value:
        raise ValueError(f"{place} of column {column} holds a NUL character, expected text; remove it")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"{place} of column {column} holds half of a character (a surrogate alone), expected text; remove it"
        ) from None
    return value


# --- local files -----------------------------------------------------------------------------------------------------


def _kind(path: Path) -> str:
    """What the name says that the file is, compressed or not."""
    name = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    return name.suffix.lower()


def _local(path: Path, column: str) -> Found:
    kind = _kind(path)
    if not path.is_file() or kind not in SUFFIXES:
        raise ValueError(
            f"{_what(path)}; expected a file {', '.join(SUFFIXES)}, each also as .gz, or a data set of the hub as "
            "OWNER/NAME"
        )
    data = path.read_bytes()
    if path.suffix.lower() == ".gz":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"cannot be read as .gz ({error}), expected a whole file") from error
    try:
        if kind == ".parquet":
            return Found({str(name): values.tolist() for name, values in pd.read_parquet(io.BytesIO(data)).items()})
        return _READERS[kind](_decoded(data), column)
    except (ValueError, OSError) as error:  # of pandas and pyarrow too
        raise ValueError(f"cannot be read as {kind}: {error}") from error


def _what(path: Path) -> str:
    if path.is_file():
        return f"has the ending {path.suffix}" if path.suffix else "has a name without ending"
    if path.is_dir():
        return "is a folder"
    return "is a pipe or a device" if path.exists() else "does not exist"


def _decoded(data: bytes) -> str:
    """The text of a file, its line ends as "\\n"."""
    encoding = next((name for mark, name in MARKS.items() if data.startswith(mark)), "utf-8-sig")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        if encoding != "utf-8-sig":
            raise ValueError(f"it begins as {encoding.upper()} but is damaged at byte {error.start}") from error
        raise ValueError(
            f"it is not UTF-8 (byte {data[error.start]:#04x} at {error.start}, in line {line}): convert it, for "
            "example with iconv -f latin1 -t utf-8"
        ) from error
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if (nul := text.find("\0")) >= 0:
        raise ValueError(
            f"line {text.count(chr(10), 0, nul) + 1} holds a NUL character: it is no text, or UTF-16 without a byte "
            "order mark (convert it with iconv -f utf-16le -t utf-8)"
        )
    return text


def _read_lines(text: str, column: str) -> Found:
    return Found({column: [line for line in text.split("\n") if line.strip()]})


def _read_json_lines(text: str, _: str) -> Found:
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise ValueError("it is empty, expected an object a line")
    rows = [_json_row(number, line) for number, line in lines]
    names = dict.fromkeys(name for row in rows for name in row)
    numbers = [number for number, _ in lines]
    return Found({name: [row.get(name) for row in rows] for name in names}, lambda i: f"line {numbers[i]}")


def _json_row(number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except RecursionError:
        raise ValueError(f"line {number} is nested too deeply, expected an object with named values") from None
    except ValueError as error:
        whole = " of the whole file; write each object on a line of its own" if line.strip() in ("[", "{") else ""
        raise ValueError(f"line {number}: {error}{whole}") from None
    if isinstance(row, list):
        raise ValueError(
            f"line {number} is a list, expected an object with named values on each line; jq -c '.[]' makes them"
        )
    if not isinstance(row, dict):
        raise ValueError(f"line {number} is {row!r:.60}, expected an object with named values")
    return row


def _read_csv(text: str, _: str) -> Found:
    def rows() -> Iterator[tuple[int, list[str]]]:
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        before = csv.field_size_limit(sys.maxsize)  # a review may be long
        try:
            for row in reader:
                yield reader.line_num, row
        except csv.Error as error:
            raise ValueError(f"line {reader.line_num}: {error}") from error
        finally:
            csv.field_size_limit(before)

    return _table(rows())


def _read_tsv(text: str, _: str) -> Found:
    return _table((number, line.split("\t") if line else []) for number, line in enumerate(text.split("\n"), 1))


def _table(rows: Iterator[tuple[int, list[str]]]) -> Found:
    """Columns from rows with the number of their line; every row must be as long as the header."""
    filled = [(number, row) for number, row in rows if row]
    if not filled:
        raise ValueError("it is empty, expected a header line and rows")
    (_, header), *body = filled
    if twice := [name for name in header if header.count(name) > 1]:
        raise ValueError(f"column {twice[0]!r:.60} stands twice in the header, expected different names")
    for number, row in body:
        if len(row) != len(header):
            raise ValueError(
                f"line {number} has {len(row)} fields, expected {len(header)} as the header has; a field with the "
                "separator in it stands in quotes in a .csv file"
            )
    return Found({name: [row[j] for _, row in body] for j, name in enumerate(header)})


_READERS: dict[str, Callable[[str, str], Found]] = {
    ".txt": _read_lines,
    ".jsonl": _read_json_lines,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
}


def _from_hub(name: str) -> Found:
    found = fetch("dataset", name, "--data", lambda: load_dataset(name, split="train"))
    return Found({column: found[column] for column in found.column_names})
