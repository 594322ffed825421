"""Opening logs of robots, whoever wrote them: ours, ASAP's, and any other with a column map.

A format is recognised by what is in the file. What a foreign file's columns mean is said by a TOML
file (``real_logs/columns/README.md``); no code is written for a source. Files never run code.

    opened = open_log(Path("motion_3.npz"))                                   # ours or ASAP's
    opened = open_log(Path("chirp_sweep"), columns=Path("real_logs/columns/so101.toml"))
    opened.log.rate_hz, opened.notes
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import NamedTuple

import numpy as np

from asap.log_asap import LISTENER_KEYS, is_recorder, listener_draft, recorder_draft
from asap.log_channels import apply_columns
from asap.log_clean import Draft, sound_log
from asap.log_columns import JOINT_CHANNELS, read_columns
from asap.log_recording import is_recording, recording_draft
from asap.log_tables import format_of, open_tables
from asap.robot import Robot
from asap.safe_pickle import load_pickle
from asap_deploy.errors import InputError, suggestion
from asap_deploy.log import FORMAT as OUR_FORMAT
from asap_deploy.log import Log
from asap_deploy.npz import load_npz

MAX_PICKLE_BYTES = 256 << 20
_HELP = "give a column map (real_logs/columns/README.md says how)"


class OpenedLog(NamedTuple):
    """A log, what to call it, the file that it came from, and what was done to it."""

    log: Log
    name: str
    path: Path
    notes: tuple[str, ...]
    """One line each on what was converted, guessed or repaired."""


def open_log(path: Path, *, columns: Path | None = None, robot: Robot | None = None) -> OpenedLog:
    """A log of any known format.

    Args:
        path: The file; a folder for a log of several CSV files, or a rosbag2 recording.
        columns: What the columns of a foreign file mean; our own and ASAP's files need none.
        robot: Whose joints the log must have, and into whose order they are brought; None takes
            the file's joints as they are.

    Returns:
        The log, in our units, joint order and time law.

    Raises:
        InputError: If it is not a sound log, or says too little about itself.
    """
    path = Path(path)
    ours = _ours(path)
    notes: tuple[str, ...] = ()
    if ours is not None:
        log = ours
        notes = ("a log of ours: the column map was not used",) if columns else ()
    else:
        draft = _foreign(path) if columns is None else _mapped(path, Path(columns))
        log, notes = sound_log(draft, path)
    if robot is not None:
        log, more = _fitted(log, robot, path)
        notes += more
    return OpenedLog(log, _name(path), path, notes)


def _name(path: Path) -> str:
    """A file's name without its ending."""
    return path.name if path.is_dir() else Path(path.name.removesuffix(".gz")).stem


def _ours(path: Path) -> Log | None:
    """A log in our own format, or None if it is another file."""
    if format_of(path) != "npz":
        return None
    if str(load_npz(path).get("format", "")) != OUR_FORMAT:
        return None
    return Log.load(path)


def _mapped(path: Path, columns: Path) -> Draft:
    """A foreign file, explained by a column map."""
    column_map = read_columns(columns)
    return apply_columns(column_map, open_tables(path, column_map), path)


def _foreign(path: Path) -> Draft:
    """A file that explains itself: one of ASAP's two, or a recording of ours."""
    form = format_of(path)
    if form == "npz":
        arrays = load_npz(path)
        if set(arrays) >= LISTENER_KEYS:
            return listener_draft(arrays, path)
        shown = ", ".join(str(key)[:40] for key in list(arrays)[:12]) or "nothing"
        raise InputError(f"no known log has these keys: {shown}; {_HELP}", file=path)
    if form == "pickle" or (form == "gzip" and ".csv" not in path.name):
        content = load_pickle(path, max_bytes=MAX_PICKLE_BYTES)
        if is_recorder(content):
            return recorder_draft(content, path)
        raise InputError(f"the pickle is no recording of ASAP's evaluation; {_HELP}", file=path)
    what = {"folder": "a folder of tables", "gzip": "a CSV file", "csv": "a CSV file"}
    if form == "mcap" and is_recording(path):
        return recording_draft(path)
    raise InputError(
        f"{what.get(form, f'a file of format {form}')} does not say what its columns mean: {_HELP}",
        file=path,
    )


def _base(name: str) -> str:
    """A robot's name without its folder, variant and twin."""
    return Path(name.partition("@")[0].partition(":")[0]).name


def _fitted(log: Log, robot: Robot, path: Path) -> tuple[Log, tuple[str, ...]]:
    """The log with its joints in the robot's order."""
    unknown = [name for name in log.joint_names if name not in robot.joint_names]
    if unknown:
        odd, told = unknown[0][:60], f"{len(unknown)} joints of the log are not in robot"
        if log.robot and _base(log.robot) != _base(robot.name):
            raise InputError(
                f"{told} '{robot.name}', the first is '{odd}': the log is of robot "
                f"'{log.robot[:60]}'; give --robot the folder of its robot.toml and MJCF. Without "
                "one it can be checked (asap logs check --robot none), not replayed",
                file=path,
            )
        raise InputError(
            f"{told} '{robot.name}', the first is '{odd}'{suggestion(odd, robot.joint_names)}; "
            "rename = {...} in the column map translates names",
            file=path,
        )
    notes: tuple[str, ...] = ()
    if log.robot and _base(log.robot) != _base(robot.name):
        notes += (f"the log was recorded on '{log.robot}', not on '{robot.name}'",)
    missing = [name for name in robot.joint_names if name not in log.joint_names]
    if missing:
        shown = ", ".join(missing[:4]) + (", ..." if len(missing) > 4 else "")
        notes += (f"the log has {len(log.joint_names)} of the robot's {len(robot.joint_names)} "
                  f"joints; missing: {shown}",)  # fmt: skip
    names = tuple(name for name in robot.joint_names if name in log.joint_names)
    if names == log.joint_names:
        return log, notes
    order = np.array([log.joint_names.index(name) for name in names])
    fields = {
        name: array[..., order]
        if name in JOINT_CHANNELS or (name == "action" and array.shape[1] == len(order))
        else array
        for name, array in log.fields.items()
    }
    notes += (f"joints brought into the order of robot '{robot.name}'",)
    return (
        dataclasses.replace(
            log, joint_names=names, joint_pos=log.joint_pos[:, order], fields=fields
        ),
        notes,
    )
