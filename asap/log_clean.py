"""From the channels of a foreign recording to a sound log: what is repaired, what is refused.

Few rows without numbers are left out, and so are rows that repeat the time of the row before; the
gap shows in the clock. Attitudes are brought to unit length. Everything else that is wrong is
refused. Every repair is a note.

    log, notes = sound_log(draft, path)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from asap.log_columns import GAINS, QUATS
from asap_deploy.errors import InputError
from asap_deploy.log import LABELS, Log

MAX_LOST = 0.05
"""Share of rows that may be left out; with more the log would be another one."""

UNIT_NORM = (0.9, 1.1)
"""Attitudes whose length lies in here are scaled to unit length."""

STEP_S = (1e-4, 2.0)
"""Between rows of a robot's log; outside, the unit of time is wrong."""

MAX_ANGLE = 15.0
"""No joint of a robot with limits turns this far [rad]; degrees do."""

_LIMIT = 1e6


class Draft(NamedTuple):
    """Channels in our units, order and time law, not yet checked."""

    joint_names: tuple[str, ...]
    time_s: np.ndarray
    """(T,)"""
    joint_pos: np.ndarray
    """(T, J)"""
    fields: Mapping[str, np.ndarray]
    robot: str
    source: str
    notes: tuple[str, ...]


def sound_log(draft: Draft, path: Path) -> tuple[Log, tuple[str, ...]]:
    """Repair what can be repaired without a doubt, and let the log check the rest.

    Args:
        draft: What was read.
        path: Named in errors.

    Returns:
        The log and the notes, the draft's first.

    Raises:
        InputError: If it is no sound log.
    """
    notes = list(draft.notes)
    channels = {"time_s": draft.time_s, "joint_pos": draft.joint_pos, **draft.fields}
    rows = len(draft.time_s)
    if rows < 2:
        raise InputError(f"{rows} rows; a log needs 2", file=path)
    by_row = {name: array for name, array in channels.items()
              if name not in LABELS and not (name in GAINS and array.ndim == 1)}  # fmt: skip
    for name, array in by_row.items():
        if len(array) != rows:
            raise InputError(f"'{name}' has {len(array)} rows, time has {rows}", file=path)
    keep = _rows_of_numbers(by_row, draft.joint_names, notes, path)
    keep &= _rows_of_new_time(draft.time_s, keep, notes, path)
    fields = {
        name: array if name in GAINS and array.ndim == 1 else array[keep]
        for name, array in draft.fields.items()
    }
    for name in QUATS:
        if name in fields:
            fields[name] = _unit(fields[name], name, notes, path)
    for name in GAINS:
        if name in fields and fields[name].ndim == 2 and (fields[name] == fields[name][0]).all():
            fields[name] = fields[name][0]
    joint_pos = draft.joint_pos[keep]
    reach = np.abs(joint_pos).max(initial=0.0)
    if reach > MAX_ANGLE:
        notes.append(f"joint_pos reaches {reach:.0f} rad: if the file holds degrees, say so")
    time_s = _plausible(draft.time_s[keep], path)
    try:
        log = Log(draft.joint_names, time_s, joint_pos, fields, draft.robot, draft.source)
    except InputError as error:
        raise InputError(str(error), file=path) from None
    return log, tuple(notes)


def _rows_of_numbers(
    channels: Mapping[str, np.ndarray], joints: tuple[str, ...], notes: list[str], path: Path
) -> np.ndarray:
    """Mask (T,) of the rows in which every channel is finite and every attitude is one."""
    rows = len(channels["time_s"])
    keep = np.ones(rows, dtype=bool)
    worst, worst_name = 0, ""
    for name, array in channels.items():
        limit = 1e12 if name == "time_s" else _LIMIT
        good = (np.abs(array) <= limit).reshape(rows, -1).all(axis=1)  # NaN is False too
        if name in QUATS:
            good &= np.linalg.norm(np.where(good[:, None], array, 0.0), axis=1) > 0.0
        if (count := int((~good).sum())) > worst:
            worst, worst_name = count, name
        keep &= good
    lost = int((~keep).sum())
    if not lost:
        return keep
    first = int(np.argmin(keep))
    if lost > MAX_LOST * rows:
        where = ""
        array = channels[worst_name]
        if array.ndim == 2 and array.shape[1] == len(joints):
            bad = ~(np.abs(array) <= _LIMIT)
            where = f", most of joint '{joints[int(bad.sum(axis=0).argmax())]}'"
        raise InputError(
            f"{lost} of {rows} rows hold no usable number, the first is row {first}; "
            f"'{worst_name}' lacks {worst}{where}: leave the channel out, or repair the file",
            file=path,
        )
    notes.append(f"{lost} of {rows} rows without usable numbers left out, the first is row {first}")
    return keep


def _rows_of_new_time(
    time_s: np.ndarray, keep: np.ndarray, notes: list[str], path: Path
) -> np.ndarray:
    """Mask (T,) without the rows that repeat the stamp of the row before."""
    places = np.flatnonzero(keep)
    steps = np.diff(time_s[places])
    if (steps < 0.0).any():
        row = int(np.argmax(steps < 0.0))
        raise InputError(
            f"the clock runs back at row {places[row + 1]}: {time_s[places[row + 1]]:.6g} s after "
            f"{time_s[places[row]]:.6g} s; if these are several episodes, map the channel "
            "'episode', else cut the file there", file=path)  # fmt: skip
    again = np.flatnonzero(steps == 0.0)
    if len(again) > MAX_LOST * len(places):
        raise InputError(
            f"time stands still in {len(again)} of {len(places)} rows: the column of time is "
            "another one, or too coarse", file=path)  # fmt: skip
    fresh = np.ones(len(time_s), dtype=bool)
    fresh[places[again + 1]] = False
    if len(again):
        notes.append(f"{len(again)} rows that repeat a time stamp left out, the first is row "
                     f"{places[again[0] + 1]}")  # fmt: skip
    return fresh


def _unit(quat: np.ndarray, name: str, notes: list[str], path: Path) -> np.ndarray:
    """Attitudes (T, 4) of unit length."""
    norm = np.linalg.norm(quat, axis=1)
    low, high = (float(norm.min()), float(norm.max())) if len(norm) else (1.0, 1.0)
    if low < UNIT_NORM[0] or high > UNIT_NORM[1]:
        raise InputError(f"'{name}' is no attitude: norms from {low:.3f} to {high:.3f}", file=path)
    if max(1.0 - low, high - 1.0) > 1e-3:
        notes.append(f"{name} scaled to unit length (norms {low:.3f} to {high:.3f})")
    return np.asarray(quat / norm[:, None])


def _plausible(time_s: np.ndarray, path: Path) -> np.ndarray:
    """The clock, if its steps are those of a robot's log."""
    if len(time_s) < 2:
        raise InputError(f"{len(time_s)} usable rows; a log needs 2", file=path)
    step = float(np.median(np.diff(time_s)))
    if not STEP_S[0] <= step <= STEP_S[1]:
        raise InputError(
            f"rows are {step:.3g} s apart; between {STEP_S[0]:g} and {STEP_S[1]:g} s is believed: "
            "is the unit of time right (s, ms, us, ns)?", file=path)  # fmt: skip
    return time_s
