"""Writes a log while the robot runs; a crash, a kill or a full disk costs the last moments alone.

Rows go to ``NAME.npz.part`` as they come, each with a checksum, and become ``NAME.npz`` when the
writer is closed. ``recover`` reads what a dead process left behind.

    with LogWriter("wave.npz", joint_names, {"joint_pos_target": 29}, robot="g1") as writer:
        writer.append(time_s, joint_pos, joint_pos_target=target)
    log = recover("wave.npz.part")                   # after a crash
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Sequence

import numpy as np

from asap_deploy.errors import InputError
from asap_deploy.log import LABELS, WIDTHS, Log
from asap_deploy.npz import PathLike

PART = ".part"
_MAGIC = b"asap-log-stream 1\n"
_CHECKSUM = struct.Struct("<I")
_MAX_HEADER = 1 << 20


class LogWriter:
    """Appends rows of fixed width; ``close`` makes the log file of them."""

    def __init__(
        self,
        path: PathLike,
        joint_names: Sequence[str],
        channels: Mapping[str, int],
        *,
        constants: Optional[Mapping[str, np.ndarray]] = None,
        robot: str = "",
        source: str = "",
        policy_hash: str = "",
        flush_every: int = 25,
    ) -> None:
        """Begin the stream.

        Args:
            path: Log file to come; the stream beside it has ``.part`` added.
            joint_names: J names.
            channels: Width of each channel that every row brings, 1 for a single number; all but
                ``time_s`` and ``joint_pos``.
            constants: ``stiffness`` and ``damping`` (J,) where they do not change.
            robot: Name of the robot.
            source: Where the log comes from.
            policy_hash: Of the policy that ran.
            flush_every: Rows that the program may keep for itself; what was flushed survives it.

        Raises:
            InputError: If a channel does not fit a log, either file exists, or neither can be
                written.
        """
        self.path, self._part = Path(path), Path(f"{path}{PART}")
        widths = _checked_widths(channels, len(joint_names))
        for taken in (self.path, self._part):
            if taken.exists():
                raise InputError("a log is never overwritten; choose another name", file=taken)
        header = {
            "joint_names": list(joint_names),
            "channels": widths,
            "constants": {k: np.asarray(v).tolist() for k, v in (constants or {}).items()},
            "texts": {"robot": robot, "source": source, "policy_hash": policy_hash},
        }
        self._widths, self._flush_every, self.num_rows = widths, flush_every, 0
        try:
            self._part.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self._part, "xb")  # noqa: SIM115
            self._file.write(_MAGIC + json.dumps(header).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise InputError(f"cannot write a log here: {error}", file=self._part) from None

    def append(self, time_s: float, joint_pos: np.ndarray, **channels: Any) -> None:
        """Add one row.

        Args:
            time_s: By the robot's clock [s].
            joint_pos: Measured then, (J,) [rad].
            **channels: Every channel that was announced.

        Raises:
            InputError: If a channel is missing or unknown, or a number is not finite.
        """
        if set(channels) != set(self._widths) - {"time_s", "joint_pos"}:
            raise InputError(
                f"a row needs the channels {sorted(set(self._widths) - {'time_s', 'joint_pos'})}; "
                f"got {sorted(channels)}"
            )
        values = {"time_s": time_s, "joint_pos": joint_pos, **channels}
        parts = [np.asarray(values[name], dtype="<f8").reshape(-1) for name in self._widths]
        wrong = [n for n, p in zip(self._widths, parts) if p.size != self._widths[n]]
        if wrong:
            raise InputError(f"log channel '{wrong[0]}' must have {self._widths[wrong[0]]} numbers")
        row = np.concatenate(parts)
        if not np.isfinite(row).all():
            raise InputError(f"row {self.num_rows} of the log holds a number that is not finite")
        data = row.tobytes()
        self._file.write(data + _CHECKSUM.pack(zlib.crc32(data)))
        self.num_rows += 1
        if self.num_rows % self._flush_every == 0:
            self._file.flush()

    def close(self) -> Optional[Log]:
        """Make the log file; fewer than two rows are no log, and leave nothing.

        Returns:
            The log, or None.

        Raises:
            InputError: If it cannot be written; the stream stays for ``recover``.
        """
        if self._file.closed:
            return None
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        log = recover(self._part) if self.num_rows >= 2 else None
        if log is not None:
            log.save(self.path)
        self._part.unlink()
        return log

    def __enter__(self) -> LogWriter:
        """Itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Keep what was recorded, whatever happened."""
        self.close()


def recover(part: PathLike) -> Log:
    """The log in a stream, up to the first row that is incomplete or damaged.

    Raises:
        InputError: If it is not such a stream, or holds no two whole rows.
    """
    path = Path(part)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read: {error}", file=path) from None
    end = data.find(b"\n", len(_MAGIC))
    if not data.startswith(_MAGIC) or not 0 < end < _MAX_HEADER:
        raise InputError("not the stream of a log writer", file=path)
    try:
        header = json.loads(data[len(_MAGIC) : end].decode("utf-8"))
        names = [str(name) for name in header["joint_names"]]
        widths = _checked_widths(header["channels"], len(names))
        constants = {str(k): np.array(v, dtype=float) for k, v in header["constants"].items()}
        texts = {name: str(header["texts"][name]) for name in ("robot", "source", "policy_hash")}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"header of a log stream is damaged: {error}", file=path) from None
    rows = _whole_rows(data[end + 1 :], sum(widths.values()))
    columns: Dict[str, np.ndarray] = {}
    start = 0
    for name, width in widths.items():
        block = rows[:, start : start + width]
        columns[name] = block[:, 0] if WIDTHS.get(name) == () or name == "time_s" else block
        start += width
    for name in LABELS:
        if name in columns:
            columns[name] = columns[name].astype(np.int64)
    time_s, joint_pos = columns.pop("time_s"), columns.pop("joint_pos")
    try:
        return Log(tuple(names), time_s, joint_pos, {**columns, **constants}, **texts)
    except InputError as error:
        raise InputError(str(error), file=path) from None


def _checked_widths(channels: Mapping[str, int], joints: int) -> Dict[str, int]:
    """Width of every column of a row, time and joints first."""
    widths = {"time_s": 1, "joint_pos": joints}
    for name, width in channels.items():
        if name in widths:
            continue
        if name not in WIDTHS or type(width) is not int or not 0 < width <= 10_000:
            raise InputError(f"log channel '{name}' of width {width} cannot be streamed")
        widths[name] = width
    return widths


def _whole_rows(data: bytes, width: int) -> np.ndarray:
    """Rows (T, width) whose checksum holds, up to the first that does not."""
    size = 8 * width + _CHECKSUM.size
    count = len(data) // size
    table = np.frombuffer(data[: count * size], dtype=np.uint8).reshape(count, size)
    good = 0
    for row in table:
        if zlib.crc32(row[:-4].tobytes()) != _CHECKSUM.unpack(row[-4:].tobytes())[0]:
            break
        good += 1
    numbers = np.ascontiguousarray(table[:good, :-4])
    return numbers.view("<f8").reshape(good, width)
