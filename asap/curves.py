"""The curves of a run: ``metrics.jsonl`` to read, and the same figures for TensorBoard.

A row is one JSON object a line: where training stands, and figures named ``group/name``. The groups
are ``reward`` (its terms), ``episode``, ``ppo``, ``speed`` and ``evaluation``. Event files are
written here, because the `tensorboard` package brings five others and 55 MB; any TensorBoard reads
them: ``tensorboard --logdir runs``.

    curves = Curves(run_dir)                         # a new run
    curves = Curves(run_dir, iteration=20)           # a resumed one: later rows are cut off
    curves.add_iteration(Place(21, 172_032, 30.2), {"reward": 0.05, "kl": 0.01})
    curves.add_evaluation(Place(21, 172_032, 30.2), {"success_rate": 0.9})
"""

from __future__ import annotations

import contextlib
import json
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from asap import results
from asap.rewards import COSTS, TRACKING
from asap_deploy.errors import InputError
from asap_deploy.npz import write_file

METRICS = "metrics.jsonl"
EVENTS = "events.out.tfevents."
"""Beginning of the names of event files; TensorBoard finds them by it, and reads them by number."""

_NAMES = {
    "reward": (*TRACKING, *COSTS),
    "episode": ("reward", "failed", "finished", "blown_up", "distance_mm"),
    "ppo": ("kl", "learning_rate", "std", "explained_variance", "value_loss"),
    "speed": ("collect_s", "update_s"),
}
GROUPS = {name: group for group, names in _NAMES.items() for name in names}
"""Group by name of a fact of an iteration; one without a group is in ``other``."""

_LARGEST = 3.4e38
"""That an event file can hold; what is larger, or no number, is left out there."""


class Place(NamedTuple):
    """Where training stands."""

    iteration: int
    steps: int
    """Control steps of all environments together."""
    trained_s: float
    """Time spent in iterations, those before a resume among them [s]."""


class Curves:
    """Appends rows. A killed process loses at most the row that it was writing."""

    def __init__(self, run_dir: Path, *, iteration: int = 0) -> None:
        """Cut off what a resumed run is about to repeat.

        Args:
            run_dir: Folder of the run; made if it is not there.
            iteration: Of the checkpoint that the run continues from; rows of later ones go, and
                so does a line that a kill left half-written.

        Raises:
            InputError: If the folder cannot be written.
        """
        self._rows = run_dir / METRICS
        kept = _rows_until(self._rows, iteration)
        if self._rows.exists():
            text = "".join(json.dumps(row) + "\n" for row in kept)
            write_file(self._rows, text)
        last = kept[-1] if kept else {}
        self._last = Place(**{name: last.get(name, 0) for name in Place._fields})
        self._events = run_dir / f"{EVENTS}{_next_number(run_dir):04d}"
        # A restart at a step takes back every point from there on, in files before this one.
        version, restart = _field(3, b"brain.Event:2"), _field(7, _field(1, 1))
        _append(self._events, _event(0, version) + _event(self._last.steps + 1, restart))

    def add_iteration(self, place: Place, facts: Mapping[str, float]) -> None:
        """A row about one iteration, with its speed.

        Raises:
            InputError: If it cannot be written, as on a full disk.
        """
        taken = place.trained_s - self._last.trained_s
        named = {f"{GROUPS.get(name, 'other')}/{name}": value for name, value in facts.items()}
        if taken > 0.0:
            named["speed/steps_per_s"] = (place.steps - self._last.steps) / taken
        self._last = place
        self._add(place, named)

    def add_evaluation(self, place: Place, figures: Mapping[str, float]) -> None:
        """A row about an evaluation after that iteration.

        Raises:
            InputError: If it cannot be written, as on a full disk.
        """
        self._add(place, {f"evaluation/{name}": value for name, value in figures.items()})

    def _add(self, place: Place, named: Mapping[str, float]) -> None:
        """Write a row to both files; they are closed again, so that nothing waits in a buffer."""
        row = results.plain({**place._asdict(), **named})
        _append(self._rows, (json.dumps(row, allow_nan=False) + "\n").encode())
        values = [
            _field(1, _field(1, name.encode()) + b"\x15" + struct.pack("<f", value))
            for name, value in named.items()
            if abs(value) < _LARGEST  # not of NaN either
        ]
        _append(self._events, _event(place.steps, _field(5, b"".join(values))))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """All rows of a ``metrics.jsonl``; lines that a kill or a full disk cut short are left out.

    Raises:
        InputError: If the file cannot be read.
    """
    try:
        lines = path.read_bytes().splitlines() if path.exists() else []
    except OSError as error:
        raise InputError(f"cannot read the curves: {error.strerror}", file=path) from None
    rows = []
    for line in lines:
        with contextlib.suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict) and all(_is_number(row.get(k)) for k in Place._fields):
                rows.append(row)
    return rows


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float))


def _rows_until(path: Path, iteration: int) -> list[dict[str, Any]]:
    """The rows that a checkpoint of this iteration knows of."""
    return [row for row in read_rows(path) if row["iteration"] <= iteration]


def _append(path: Path, data: bytes) -> None:
    """Add bytes to a file, which is made with its folder if it is not there.

    Raises:
        InputError: If they cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as stream:
            stream.write(data)
    except OSError as error:
        raise InputError(f"cannot write the curves: {error.strerror}", file=path) from None


def _next_number(run_dir: Path) -> int:
    """One above the newest event file: readers take them in the order of their names."""
    numbers = [path.name[len(EVENTS) :] for path in run_dir.glob(f"{EVENTS}*")]
    return 1 + max((int(number) for number in numbers if number.isdecimal()), default=0)


def _event(steps: int, content: bytes) -> bytes:
    """A record of an event file: time and step in front of the content, checksums around it."""
    data = b"\x09" + struct.pack("<d", time.time()) + _field(2, steps) + content
    length = struct.pack("<Q", len(data))
    return length + _checksum(length) + data + _checksum(data)


def _field(number: int, value: int | bytes) -> bytes:
    """A protobuf field: an integer of variable length, or bytes behind their length."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; every byte but the last is marked."""
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*parts, value))


def _checksum(data: bytes) -> bytes:
    """CRC-32C, turned and shifted as TensorFlow's record files want it."""
    value = crc32c(data)
    masked = ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF
    return struct.pack("<I", masked)


def crc32c(data: bytes) -> int:
    """Castagnoli's checksum; ``zlib.crc32`` has another polynomial."""
    value = 0xFFFFFFFF
    for byte in data:
        value = _TABLE[(value ^ byte) & 0xFF] ^ (value >> 8)
    return value ^ 0xFFFFFFFF


def _remainder(value: int) -> int:
    """What one byte leaves, for the table."""
    for _ in range(8):
        value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value


_TABLE = [_remainder(value) for value in range(256)]
