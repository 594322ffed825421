"""Tables of foreign log files: named columns of numbers or text, whatever the file's format.

A format is recognised by what is in the file, never by its ending. Columns are read when they are
asked for; what a column means is said by a column map (`asap.log_columns`), not here. No format is
allowed to run code, to name another file or to ask for memory without bounds.

    opened = open_tables(Path("so101/real/chirp_sweep"), read_columns(map_file))
    opened.tables["control"].column("positions").shape        # (6000, 6)
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from asap.log_columns import ColumnMap, NoColumn
from asap.log_csv import csv_table
from asap.safe_pickle import load_pickle, looks_like_pickle
from asap_deploy.errors import InputError, suggestion
from asap_deploy.npz import load_npz

MAX_BYTES = 1 << 30
"""Of one column, or of all messages of one recording, in memory."""

MAX_ROWS = 3_000_000
HINT = "pip install 'asap-toolkit[logs]'"
MAGIC = {
    b"PK\x03\x04": "npz",
    b"\x89HDF\r\n\x1a\n": "hdf5",
    b"PAR1": "parquet",
    b"\x89MCAP0\r\n": "mcap",
    b"SQLite f": "rosbag2",
}
"""First bytes of the formats that say what they are."""


class Table(NamedTuple):
    """Columns of one file, group or topic."""

    names: tuple[str, ...]
    column: Callable[[str], np.ndarray]
    """By name: numbers (rows, ...) or text (rows,); a constant has whatever shape it has."""


class Tables(NamedTuple):
    """What a recording holds."""

    format: str
    tables: Mapping[str, Table]
    """By file stem or topic."""
    notes: list[str]
    """What was repaired while reading; grows as columns are read."""

    def table(self, name: str, path: Path) -> Table:
        """One table; the name may be left out if there is only one.

        Raises:
            InputError: If there is no such table, or several and none was named.
        """
        if not name and len(self.tables) == 1:
            return next(iter(self.tables.values()))
        if name in self.tables:
            return self.tables[name]
        hint = suggestion(name, self.tables)
        what = f"has no table '{name}'" if name else "holds several tables: say which with table ="
        raise InputError(f"the recording {what}{hint}", file=path)


def format_of(path: Path) -> str:
    """What a file is, by its first bytes: 'npz', 'pickle', 'csv', ..., or 'folder'.

    Raises:
        InputError: If it cannot be opened.
    """
    try:
        if path.is_dir():
            return "folder"
        with path.open("rb") as stream:
            head = stream.read(8)
    except FileNotFoundError:
        raise InputError("file does not exist", file=path) from None
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read: {error}", file=path) from None
    if not head:
        raise InputError("file is empty", file=path)
    for magic, name in MAGIC.items():
        if head.startswith(magic):
            return name
    if head[:2] == b"\x1f\x8b":
        return "gzip"
    return "pickle" if looks_like_pickle(head) else "csv"


def open_tables(path: Path, columns: ColumnMap) -> Tables:
    """Open a recording of any format that needs a column map.

    Args:
        path: A file; or a folder of CSV files, or a rosbag2 folder.
        columns: Says how a CSV is written, and which messages a recording holds.

    Raises:
        InputError: If the recording is damaged, too large, or its reader is not installed.
    """
    form, notes = format_of(path), list[str]()
    if form == "folder":
        return _open_folder(path, columns)
    if form in ("csv", "gzip"):
        name, table = _stem(path), csv_table(path, columns.delimiter, columns.header, notes)
        return Tables("csv", {name: Table(*table)}, notes)
    if form in ("mcap", "rosbag2"):
        ros = optional("asap.log_ros", path, needs=("mcap", "mcap_ros2"))
        topics = ros.read_topics(path, form, columns.messages, notes)
        return Tables(form, {name: Table(*table) for name, table in topics.items()}, notes)
    read = {"npz": _npz, "pickle": _pickle, "hdf5": _hdf5, "parquet": _parquet}[form]
    return Tables(form, {_stem(path): read(path)}, notes)


def optional(module: str, path: Path, *, needs: tuple[str, ...] = ()) -> Any:
    """Import a reader that is an extra.

    Raises:
        InputError: Naming what to install.
    """
    for name in (*needs, module):
        try:
            found = importlib.import_module(name)
        except ImportError:
            raise InputError(
                f"this format needs '{name}', which is missing: {HINT}", file=path
            ) from None
    return found


def of_column(names: tuple[str, ...], name: str, path: Path) -> str:
    """The name, if the table has it.

    Raises:
        NoColumn: With the nearest name.
    """
    if name not in names:
        raise NoColumn(f"no column '{name}'{suggestion(name, names)}", file=path)
    return name


def _stem(path: Path) -> str:
    """A file's name without its endings."""
    return path.name.removesuffix(".gz").rsplit(".", 1)[0] or path.name


def _open_folder(path: Path, columns: ColumnMap) -> Tables:
    """A folder of CSV files, or of one rosbag2 recording."""
    files = sorted(file for file in path.iterdir() if file.is_file())
    bags = [file for file in files if file.suffix in (".db3", ".mcap")]
    if len(bags) == 1:
        return open_tables(bags[0], columns)
    if bags:
        shown = ", ".join(file.name for file in bags[:5])
        raise InputError(f"the folder holds {len(bags)} recordings; give one: {shown}", file=path)
    if any(file.name.endswith((".db3.zstd", ".mcap.zstd")) for file in files):
        raise InputError("the recording is packed as a whole; unpack it first (unzstd)", file=path)
    found = [file for file in files if file.name.removesuffix(".gz").endswith(".csv")]
    if not found:
        raise InputError("the folder holds neither CSV files nor a rosbag2 recording", file=path)
    stems = {_stem(file): file for file in found}
    notes = list[str]()
    used = [name for name in columns.tables if name in stems] or list(stems)[:1]
    if len(stems) > 1 and "" in columns.tables:
        raise InputError(
            f"the folder holds {len(stems)} tables: say which with table ={suggestion('', stems)}",
            file=path,
        )
    tables = {
        name: Table(*csv_table(stems[name], columns.delimiter, columns.header, notes))
        for name in used
    }
    return Tables("csv", tables, notes)


def _npz(path: Path) -> Table:
    """Arrays of an npz file."""
    arrays = load_npz(path)
    return Table(tuple(arrays), lambda name: arrays[of_column(tuple(arrays), name, path)])


def _pickle(path: Path) -> Table:
    """Arrays and lists of numbers of a pickled dict."""
    content = load_pickle(path, max_bytes=256 << 20)
    if not isinstance(content, dict):
        raise InputError(f"the pickle holds a {type(content).__name__}, expected a dict", file=path)
    content = {str(key): value for key, value in content.items()}

    def column(name: str) -> np.ndarray:
        try:
            array = np.asarray(content[of_column(tuple(content), name, path)])
        except ValueError:
            array = np.empty(0, dtype=object)
        if array.dtype.kind not in "biufU":
            raise InputError(f"'{name}' is no array of numbers", file=path)
        return array

    return Table(tuple(content), column)


def _hdf5(path: Path) -> Table:
    """Datasets of an HDF5 file, named by their path inside it."""
    h5py = optional("h5py", path)

    def datasets() -> tuple[str, ...]:
        names: list[str] = []

        def visit(name: str, item: Any) -> bool | None:
            if isinstance(item, h5py.Dataset):
                names.append(name)
            return True if len(names) > 10_000 else None

        with h5py.File(path, "r") as file:
            file.visititems(visit)
        return tuple(names)

    # Damage shows as any exception of the library, also where it reads a size that cannot be.
    def column(name: str) -> np.ndarray:
        of_column(names, name, path)
        with h5py.File(path, "r") as file:
            return _dataset(h5py, file[name], name, path)

    names = _guarded(datasets, "HDF5", path)
    return Table(names, lambda name: _guarded(lambda: column(name), "HDF5", path))


def _dataset(h5py: Any, dataset: Any, name: str, path: Path) -> np.ndarray:
    """One dataset that lies in this file and has a bounded size."""
    # `visititems` follows no external links, but data may lie in other files all the same.
    if dataset.external or dataset.is_virtual:
        raise InputError(f"'{name}' refers to another file, which is not read", file=path)
    if dataset.size is None or dataset.size * dataset.dtype.itemsize > MAX_BYTES:
        raise InputError(f"'{name}' has shape {dataset.shape}, more than is read", file=path)
    text = h5py.check_string_dtype(dataset.dtype) is not None
    if not text and dataset.dtype.kind not in "biuf":
        raise InputError(f"'{name}' has type {dataset.dtype}, expected numbers", file=path)
    return np.asarray(dataset.asstr()[()]).astype(str) if text else np.asarray(dataset[()])


def _parquet(path: Path) -> Table:
    """Columns of a parquet file; lists of one length become a second axis."""
    pq = optional("pyarrow.parquet", path, needs=("pyarrow",))

    def names() -> tuple[str, ...]:
        with pq.ParquetFile(path) as file:
            if file.metadata.num_rows > MAX_ROWS:
                raise InputError(f"{file.metadata.num_rows} rows; {MAX_ROWS} are read", file=path)
            return tuple(file.schema_arrow.names)

    def column(name: str) -> np.ndarray:
        of_column(found, name, path)
        parts, total = [], 0
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=8192, columns=[name]):
                parts.append(_arrow_numbers(batch.column(0), name, path))
                total += parts[-1].nbytes
                if total > MAX_BYTES:
                    raise InputError(f"column '{name}' is larger than is read", file=path)
        if len({part.shape[1:] for part in parts}) > 1 or not parts:
            raise InputError(f"column '{name}' has lists of several lengths or none", file=path)
        return np.concatenate(parts)

    found = _guarded(names, "parquet", path)
    return Table(found, lambda name: _guarded(lambda: column(name), "parquet", path))


def _arrow_numbers(array: Any, name: str, path: Path) -> np.ndarray:
    """A column of numbers, text or lists of numbers; an empty cell becomes NaN."""
    shape: tuple[int, ...] = (len(array),)
    while hasattr(array, "flatten") and hasattr(array.type, "value_type"):
        if array.null_count:
            raise InputError(f"column '{name}' has empty cells instead of lists", file=path)
        inner = array.flatten()
        length = len(inner) // len(array) if len(array) else 0
        uneven = len(array) * length != len(inner)
        if not uneven and hasattr(array, "value_lengths") and len(array):
            uneven = bool((array.value_lengths().to_numpy(zero_copy_only=False) != length).any())
        if uneven:
            raise InputError(f"column '{name}' has lists of several lengths", file=path)
        array, shape = inner, (*shape, length)
    values = array.to_numpy(zero_copy_only=False)
    if values.dtype.kind == "O" and all(isinstance(value, str) for value in values):
        values = values.astype(str)
    if values.dtype.kind not in "biufU":
        raise InputError(f"column '{name}' holds {array.type}, expected numbers", file=path)
    return np.asarray(values).reshape(shape)


def _guarded(read: Callable[[], Any], what: str, path: Path) -> Any:
    """Run a foreign reader; whatever it complains about becomes one line."""
    try:
        return read()
    except (InputError, KeyboardInterrupt):
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise InputError(f"not a readable {what} file: {reason}", file=path) from None
