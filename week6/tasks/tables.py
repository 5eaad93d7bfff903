"""Columns of text from a local file or from a data set of the hub; what is wrong with them is said in one sentence,
with the file, the row and the column."""

import codecs
import contextlib
import csv
import gzip
import io
import json
import math
import re
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from datasets import load_dataset

from week6.machine import validate as check
from week6.machine.checkpoint import RunError
from week6.machine.compute import compute
from week6.machine.hub import fetch
from week6.machine.paths import place

SUFFIXES = (".txt", ".jsonl", ".csv", ".tsv", ".parquet")
"""Local files: a text a line, or a table; .gz behind it for one that is compressed."""
PARQUET = b"PAR1"
"""Such a file begins and ends so."""
COPIES = 8
"""The memory that a file takes while it is read, in its sizes: bytes, text, rows."""
SIGNATURES = {
    b"\x1f\x8b": "it is compressed by gzip: unpack it, or give it the ending .gz",
    b"PK\x03\x04": "it is a zip file or a spreadsheet, expected text: unpack it, or save it as .csv",
    PARQUET: "it is a parquet file: give it the ending .parquet",
    b"%PDF": "it is a PDF, expected text",
    b"\x89PNG": "it is a picture, expected text",
    b"\x7fELF": "it is a program, expected text",
    b"BZh": "it is compressed by bzip2, expected text: unpack it",
    b"\xfd7zXZ": "it is compressed by xz, expected text: unpack it",
    b"\x28\xb5\x2f\xfd": "it is compressed by zstd, expected text: unpack it",
    b"SQLite format 3": "it is a database, expected text: export the table as .csv",
    b"\xd0\xcf\x11\xe0": "it is a document or spreadsheet of an office program, expected text: save it as .csv or .txt",
    b"{\\rtf": "it is formatted text (RTF), expected plain text: save it as .txt",
    b"\x80\x04\x95": "it is a pickle, which may run code when it is read, expected text",
    b"version https://git-lfs": "it is a pointer of Git LFS, expected the file itself: git lfs pull fetches it",
    b"<!doctype html": "it is a web page, expected the file itself: download it again",
    b"<html": "it is a web page, expected the file itself: download it again",
}
"""How files of other kinds begin."""
SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars", ",": "commas", "  ": "blanks"}
WRITTEN = (
    (r"""b(['"]).*\1|(['"])\2\2.*\2{3}""", "as Python shows them", "save the texts themselves"),
    (r".*&(?:lt|gt|amp|quot|#\d+);.*", "escaped for HTML", "unescape them"),
    (r"(?=.*[A-Za-z])(?=.*\d)[A-Za-z0-9+/]{16,}={0,2}", "base64 or the like", "decode them"),
    (r"\S*%[0-9A-Fa-f]{2}\S*", "written for an address", "decode them"),
    (r".*\\(?:[nrt](?![a-z])|u[0-9A-Fa-f]{4}|x[0-9A-Fa-f]{2}).*", "with escapes written out", "unescape them"),
    (r".*(?:Ã[\x80-\xbf]|Â[\xa0-\xbf]|â€[™œ¦“”\x80-\xbf]).*", "UTF-8 read as another encoding", "read them as UTF-8"),
    (r"(?i:null|nan|none|n/a|na|undefined|<na>)", "words for what is missing", "fill these rows, or remove them"),
)
"""How programs write texts, and what to do about it."""
FEWEST_ROWS = 10
"""From which on as many fields in each line are no chance."""
EXAMPLE = '{"text": "A lovely film"}'
MOST_COLUMNS = 8
"""That a message names."""
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
    where: Callable[[int], str] = lambda i: f"row {i + 1}"


@check.arguments
def read_table(
    data: str, columns: Sequence[Sequence[str]], numbers: str | None = None, flag: str = "--data"
) -> dict[str, list[str]]:
    """Columns of `data`, a local file or else the name of a data set on the hub, whose split "train" is taken.

    Messages call it by the `flag` that it was given by.

    `columns` are the sets of columns that will do, the best first; the first one that is there is read. In a .txt
    file every line is a row of the first column. In the column `numbers` a value may also be a number or a list of
    some, which is read as the text "1,2". Text is UTF-8, or what its byte order mark says. Raises RunError for
    a file that is not there, not of its format or without the columns, for rows of another length, for values that are
    not text or hold what no text does, and when the hub does not give the data.
    """
    try:
        path = place(data, flag)
        local = path.exists() or _kind(path) in SUFFIXES or data.startswith((".", "/", "~"))
        found = _local(path, columns[0][0]) if local else _from_hub(data, flag)
        there = list(found.columns)
        wanted = next((names for names in columns if set(names) <= set(there)), None)
        if wanted is None:
            raise ValueError(_other_columns(there, columns))
        table = {
            name: [_text(value, found.where(i), name, name == numbers) for i, value in enumerate(found.columns[name])]
            for name in wanted
        }
        for name, texts in table.items():
            if name != numbers:
                _check_decoded(texts, name)
        return table
    except RunError:
        raise
    except (ValueError, OSError, RuntimeError, EOFError, zlib.error) as error:  # of the readers of every format
        reason = " ".join(str(error).split())[:250] or type(error).__name__
        raise RunError(f"{flag} {data}: {reason}") from error


def _other_columns(there: Sequence[str], columns: Sequence[Sequence[str]]) -> str:
    expected = " or ".join(", ".join(map(repr, names)) for names in columns)
    if len(there) == 1 and (names := _separated(there[0])) and set(columns[-1]) <= set(names[1]):
        return names[0]
    if len(columns[0]) > 1 and there == [columns[0][0]]:
        return f"got one column, expected a table with {expected}; a .txt file has only one"
    found = ", ".join(f"{name!r:.60}" for name in there[:MOST_COLUMNS]) + ", …" * (len(there) > MOST_COLUMNS)
    remedy = "--column names another" if len(columns[0]) == 1 else "name them so"
    return f"got the columns {found or '(none)'}, expected {expected}; {remedy}"


def _separated(header: str) -> tuple[str, list[str]] | None:
    """Of a header that was read as one field: what is wrong with what stands between its names, and these names."""
    for mark, name in SEPARATORS.items():
        if mark in header:
            fault = f"its columns are separated by {name}, expected commas in a .csv file and tabs in a .tsv file"
            return fault, [part.strip(' "') for part in header.split(mark)]
    return None


def _text(value: Any, where: str, column: str, number: bool) -> str:
    if number and isinstance(value, list | tuple):
        return ",".join(_text(part, where, column, number) for part in value)
    expected = "numbers" if number else "text"
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        raise ValueError(f"{where} of column {column} is missing, expected {expected}")
    if number and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise ValueError(f"{where} of column {column} is {value!r:.60}, expected {expected}")
    if "\0" in value:
        raise ValueError(f"{where} of column {column} holds a NUL character, expected text; remove it")
    if "\x1b" in value:
        raise ValueError(
            f"{where} of column {column} holds the colours of a terminal (ESC), expected text; remove them"
        )
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"{where} of column {column} holds half of a character (a surrogate alone), expected text; remove it"
        ) from None
    return value


def _check_decoded(texts: Sequence[str], column: str) -> None:
    """Raise ValueError where most texts are written as a program writes them, not as people do."""
    for pattern, what, remedy in WRITTEN:
        found = [text for text in texts if re.fullmatch(pattern, text.strip(), re.DOTALL)]
        if 2 * len(found) > len(texts):
            raise ValueError(f"most texts of column {column} are {what}, as {found[0]!r:.40}, expected text: {remedy}")


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
    data = _content(path)
    try:
        if kind == ".parquet":
            if data.startswith(PARQUET) and not data.endswith(PARQUET):
                raise ValueError("it ends too early, expected a whole file: copy or download it again")
            try:
                table = pd.read_parquet(io.BytesIO(data))
            except Exception as error:  # of its library, which says what it met and not what to do
                reason = str(error).strip(". ")
                raise ValueError(
                    f"it is damaged ({reason}), expected a whole file: copy or download it again"
                ) from error
            return Found({str(name): values.tolist() for name, values in table.items()})
        _check_signature(data)
        return _READERS[kind](_decoded(data), column)
    except (ValueError, OSError) as error:  # of pandas and pyarrow too
        raise ValueError(f"cannot be read as {kind}: {error}") from error


def _content(path: Path) -> bytes:
    """The bytes of a file, unpacked. ValueError for more than there is memory to work with."""
    packed, most = path.suffix.lower() == ".gz", int(compute().free_bytes() / COPIES)
    try:
        with gzip.open(path) if packed else open(path, "rb") as file:
            data = file.read(most + 1) if packed or path.stat().st_size <= most else None
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"cannot be read as .gz ({error}), expected a whole file" if packed else error) from error
    if data is None or len(data) > most:
        raise ValueError(
            f"it holds more than {most / 1e9:.1f} GB, expected what can be worked with in the free memory; give a part"
        )
    return data


def _check_signature(data: bytes) -> None:
    """Raise ValueError for what begins as a file of another kind, and say which."""
    for mark, what in SIGNATURES.items():
        if data[:100].lstrip().lower().startswith(mark.lower()):
            raise ValueError(what)
    if data[257:262] == b"ustar":
        raise ValueError("it is a tar archive, expected text: unpack it")


def _what(path: Path) -> str:
    if path.is_file():
        ending = f"{_kind(path)}.gz" if path.suffix.lower() == ".gz" else path.suffix
        return f"has the ending {ending}" if ending else "has a name without ending"
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
        _check_no_nul(data)
        raise ValueError(
            f"it is not UTF-8 (byte {data[error.start]:#04x} at {error.start}, in line {line}): convert it, from a "
            "Western European encoding with iconv -f windows-1252 -t utf-8, from others likewise"
        ) from error
    _check_no_nul(text.encode())
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _check_no_nul(data: bytes) -> None:
    """Raise ValueError for bytes with a NUL, and say what they may be: where in UTF-16 and UTF-32 it stands tells."""
    if (nul := data.find(b"\0")) < 0:
        return
    line, width = data.count(b"\n", 0, nul) + 1, 4 if b"\0\0\0" in data[:40] else 2
    kind = f"utf-{8 * width}{'be' if nul % width == 0 else 'le'}"
    raise ValueError(
        f"line {line} holds a NUL character: it is no text, or {kind.upper()} without a byte order mark (convert it "
        f"with iconv -f {kind} -t utf-8)"
    )


def _read_lines(text: str, column: str) -> Found:
    lines = [line for line in text.split("\n") if line.strip()]
    first = lines[0].strip() if lines else ""
    if first.startswith('{"') and first.endswith("}"):
        raise ValueError("its lines are JSON objects, expected plain texts: give it the ending .jsonl")
    for mark, ending in ((",", ".csv"), ("\t", ".tsv")):
        with contextlib.suppress(csv.Error):  # a line longer than its fields may be
            fields = {len(row) for row in csv.reader(lines, delimiter=mark)}
            if len(lines) >= FEWEST_ROWS and len(fields) == 1 and (n := fields.pop()) > 1:
                raise ValueError(f"its lines are rows of {n} fields, expected plain texts: give it the ending {ending}")
    return Found({column: lines})


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
    except json.JSONDecodeError as error:
        if line.strip() in ("[", "{"):
            raise ValueError(
                f"line {number} begins what goes on over more lines, expected each object on a line of its own, such "
                f"as {EXAMPLE}; jq -c '.[]' makes them of a list"
            ) from None
        raise ValueError(f"line {number}: {error}, expected an object such as {EXAMPLE}") from None
    except ValueError:
        raise ValueError(f"line {number} holds a number of thousands of digits, expected shorter ones") from None
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
            if text[: text.find("\n")].count(";") > text[: text.find("\n")].count(","):
                raise ValueError("its columns are separated by semicolons, expected commas in a .csv file") from error
            remedy = 'expected a quote within a field to be doubled (""), and every field closed'
            raise ValueError(f"line {reader.line_num}: {error}; {remedy}") from error
        finally:
            csv.field_size_limit(before)

    return _table(rows())


def _read_tsv(text: str, _: str) -> Found:
    found = _table((number, line.split("\t") if line else []) for number, line in enumerate(text.split("\n"), 1))
    for name, fields in found.columns.items():
        filled = [field for field in fields if field]
        quoted = [x[1:-1] for x in filled if len(x) > 1 and x[0] == x[-1] == '"']
        doubled = any('""' in x and '"' not in x.replace('""', "") for x in quoted)
        if quoted and (doubled or len(quoted) == len(filled)):
            raise ValueError(
                f"column {name!r:.60} has fields in quotes, expected none: in a .tsv file they belong to the text; "
                "save it without them, or as .csv"
            )
    return found


def _table(rows: Iterator[tuple[int, list[str]]]) -> Found:
    """Columns from rows with the number of their line; every row must be as long as the header."""
    filled = [(number, row) for number, row in rows if row]
    if not filled:
        raise ValueError("it is empty, expected a header line and rows")
    (_, names), *body = filled
    header = [name.strip() for name in names]
    if header[0].lower().startswith("sep="):
        raise ValueError(f"line 1 is {header[0]!r:.60}, a hint for spreadsheets, expected the header: remove that line")
    if twice := [name for name in header if header.count(name) > 1]:
        raise ValueError(f"column {twice[0]!r:.60} stands twice in the header, expected different names")
    for number, row in body:
        if len(row) != len(header):
            if len(header) == 1 and (other := _separated(header[0])):
                raise ValueError(other[0])
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


def _from_hub(name: str, flag: str) -> Found:
    found = fetch("dataset", name, flag, lambda: load_dataset(name, split="train"))
    return Found({column: found[column] for column in found.column_names})
