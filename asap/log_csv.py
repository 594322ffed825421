"""CSV files as tables: plain or gzip, numbers, text, or lists of numbers inside cells.

A recording that was cut off ends in half a line: that line is left out and said. Every other line
must have as many cells as the first.

    names, column = csv_table(Path("control.csv"), ",", True, notes)
    column("positions").shape              # (6000, 6): cells like "[0.0, 0.13, ...]"
"""

from __future__ import annotations

import csv
import json
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from asap.log_columns import NoColumn
from asap.safe_pickle import read_bytes
from asap_deploy.errors import InputError, suggestion

MAX_BYTES = 256 << 20
"""Of a file, and of what it expands to."""

MAX_CELLS = 40_000_000
MAX_COLUMNS = 20_000
_HEAD = 1 << 16
"""Bytes in which what is no text shows."""


def csv_table(
    path: Path, delimiter: str, header: bool, notes: list[str]
) -> tuple[tuple[str, ...], Callable[[str], np.ndarray]]:
    """Names of the columns, and a function that gives one.

    Args:
        path: The file.
        delimiter: Between cells.
        header: Whether the first line names the columns; else they are "0", "1", ...
        notes: Takes what was repaired.

    Raises:
        InputError: If it is not a table.
    """
    lines = _lines(path, notes)
    try:
        rows = list(csv.reader(lines, delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise InputError(f"not a CSV file: {error}", file=path) from None
    if not rows:
        raise InputError("the file holds no line", file=path)
    if len(rows[0]) > MAX_COLUMNS or len(rows) * len(rows[0]) > MAX_CELLS:
        raise InputError(
            f"{len(rows)} lines of {len(rows[0])} columns; at most {MAX_COLUMNS} columns and "
            f"{MAX_CELLS // 10**6} million cells are read", file=path)  # fmt: skip
    names = (
        tuple(cell.strip() for cell in rows[0]) if header else tuple(map(str, range(len(rows[0]))))
    )
    body = rows[1:] if header else rows
    if len(set(names)) != len(names):
        raise InputError("two columns have the same name in the first line", file=path)
    body = _even(body, len(names), 1 + header, path, notes)
    cells: dict[str, list[str]] = {}

    def column(name: str) -> np.ndarray:
        if name not in names:
            raise NoColumn(f"no column '{name}'{suggestion(name, names)}", file=path)
        place = names.index(name)
        cells.setdefault(name, [row[place] for row in body])
        return _values(cells[name], name, 1 + header, path)

    return names, column


def _lines(path: Path, notes: list[str]) -> list[str]:
    """The whole lines of a text file."""
    data = read_bytes(path, max_bytes=MAX_BYTES)
    if data[:2] == b"\x1f\x8b":
        data = _unzipped(data, path, notes)
    if b"\0" in data[:_HEAD] or not data.strip():
        what = "is empty" if not data.strip() else "is no text and of no known format"
        raise InputError(f"the file {what}", file=path)
    if not data.endswith((b"\n", b"\r")):
        # Half a number looks like a number: the last line is not believed without its end.
        data, _, tail = data.rpartition(b"\n")
        notes.append(f"{path.name}: the last line has no line end and may be cut: left out")
        if not data:
            raise InputError(f"one line without an end: '{tail[:40].decode('latin-1')}'", file=path)
    text = data.decode("utf-8-sig", errors="replace")
    return [line for line in text.splitlines() if line.strip()]


def _unzipped(data: bytes, path: Path, notes: list[str]) -> bytes:
    """The content of a gzip file, also of one that was cut off."""
    machine = zlib.decompressobj(wbits=31)
    try:
        content = machine.decompress(data, _HEAD)
        if b"\0" in content:
            raise InputError("the packed file is no text and of no known format", file=path)
        content += machine.decompress(machine.unconsumed_tail, MAX_BYTES + 1)
    except zlib.error as error:
        raise InputError(f"not a readable gzip file: {error}", file=path) from None
    if len(content) > MAX_BYTES:
        raise InputError(f"expands to more than {MAX_BYTES >> 20} MB", file=path)
    if not machine.eof:
        notes.append(f"{path.name}: the gzip file is cut short: what came before is read")
    return content


def _even(
    body: list[list[str]], columns: int, first: int, path: Path, notes: list[str]
) -> list[list[str]]:
    """Rows of one length; the last may be half written."""
    if body and len(body[-1]) != columns:
        notes.append(f"{path.name}: the last line has {len(body[-1])} of {columns} cells: left out")
        body = body[:-1]
    for number, row in enumerate(body):
        if len(row) != columns:
            raise InputError(
                f"line {number + first} has {len(row)} cells, the first has {columns}", file=path
            )
    if len(body) < 2:
        raise InputError(f"{len(body)} rows of data, a log needs 2", file=path)
    return body


def _values(cells: list[str], name: str, first: int, path: Path) -> np.ndarray:
    """Numbers (rows,), lists of numbers (rows, n) or text (rows,)."""
    if cells[0].lstrip().startswith("["):
        return _lists(cells, name, first, path)
    try:
        return np.array([cell.strip() or "nan" for cell in cells]).astype(np.float64)
    except ValueError:
        return np.array([cell[:200] for cell in cells])


def _lists(cells: list[str], name: str, first: int, path: Path) -> np.ndarray:
    """Cells that hold JSON lists of one length."""
    rows: list[list[float]] = []
    for number, cell in enumerate(cells):
        try:
            row = json.loads(cell)
            values = [float(value) for value in row]
        except (ValueError, TypeError, RecursionError, OverflowError):
            raise InputError(
                f"line {number + first}, column '{name}' is no list of numbers: "
                f"'{cell.strip()[:30]}'", file=path) from None  # fmt: skip
        if rows and len(values) != len(rows[0]):
            raise InputError(
                f"line {number + first}, column '{name}' lists {len(values)} numbers, the first "
                f"row {len(rows[0])}", file=path)  # fmt: skip
        rows.append(values)
    return np.array(rows)
