"""Applying a column map: from tables of a foreign recording to channels in our units and order.

draft = apply_columns(columns, open_tables(path, columns), path)
"""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import numpy as np

from asap.log_clean import Draft
from asap.log_columns import GAINS, JOINT_CHANNELS, QUATS, Channel, ColumnMap, NoColumn
from asap.log_tables import Table, Tables
from asap_deploy.errors import InputError, suggestion
from asap_deploy.log import LABELS
from asap_deploy.rotation import from_axis_angle, multiply, wxyz_from_xyzw

_WIDTH = {"imu_ang_vel_b": 3, "imu_lin_acc_b": 3, "base_pos_w": 3, "base_lin_vel_w": 3,
          "base_ang_vel_b": 3}  # fmt: skip
_SCALARS = ("phase", *LABELS)
_FLIPPED = ("joint_pos", "joint_vel", "joint_pos_target", "torque_est")
_MIN_SHARE = 0.5
"""Tables that are joined row by row and differ by more than this were not recorded together."""


def apply_columns(columns: ColumnMap, opened: Tables, path: Path) -> Draft:
    """Every channel of the map, in the rows of the time's table.

    Args:
        columns: What the file's columns mean.
        opened: The file's columns.
        path: Named in errors.

    Raises:
        InputError: If a column is missing or has not the shape that its channel needs.
    """
    notes: list[str] = []
    theirs = _joint_names(columns, opened, path)
    ours = _renamed(theirs, columns, path)
    values: dict[str, np.ndarray] = {}
    for name, channel in columns.channels.items():
        value = _value(channel, theirs, columns, opened, notes, path)
        if value is not None:
            values[name] = _flipped(value, name, columns, ours)
    values, time_s = _joined(values, columns, opened, notes, path)
    values, time_s = _shifted(values, time_s, columns, notes)
    time_s = _continued(time_s, values.get("episode"), notes)
    joint_pos = values.pop("joint_pos")
    if "mode" in values and values["mode"].dtype.kind == "f":
        values["mode"] = _whole(values["mode"])
    return Draft(ours, time_s, joint_pos, values, columns.robot, columns.origin,
                 (*opened.notes, *notes))  # fmt: skip


def _joint_names(columns: ColumnMap, opened: Tables, path: Path) -> tuple[str, ...]:
    """The file's names of its joints, in the file's order."""
    if columns.joint_names:
        return columns.joint_names
    table = opened.table(columns.joint_names_table, path)
    names = table.column(columns.joint_names_from)
    if names.ndim == 2 and len(names) and (names == names[0]).all():
        names = names[0]  # a message repeats them in every row
    if names.ndim != 1 or names.dtype.kind != "U" or not 1 <= len(names) <= 500:
        raise InputError(
            f"'{columns.joint_names_from}' has shape {names.shape} and type {names.dtype}, "
            "expected one list of names", file=path)  # fmt: skip
    return tuple(str(name) for name in names)


def _renamed(theirs: tuple[str, ...], columns: ColumnMap, path: Path) -> tuple[str, ...]:
    """Our names of the joints; what the map says about joints must be about these."""
    for name in columns.rename:
        if name not in theirs:
            raise InputError(f"rename: no joint '{name}'{suggestion(name, theirs)}", file=path)
    ours = tuple(columns.rename.get(name, name) for name in theirs)
    for name in columns.flip:
        if name not in ours:
            raise InputError(f"flip: no joint '{name}'{suggestion(name, ours)}", file=path)
    if len(set(ours)) != len(ours):
        raise InputError("two joints have the same name", file=path)
    return ours


def _value(
    channel: Channel, joints: tuple[str, ...], columns: ColumnMap, opened: Tables,
    notes: list[str], path: Path,
) -> np.ndarray | None:  # fmt: skip
    """A channel in our unit and joint order, with the rows of its table; None if it is left out."""
    width = len(joints)
    if channel.only_if_equal and not _agree(channel, opened.table(channel.table, path)):
        notes.append(f"{channel.name} left out: {' and '.join(channel.only_if_equal)} differ")
        return None
    if channel.constant:
        if len(channel.constant) not in (1, width):
            _refuse_width(channel, len(channel.constant), width, path)
        return np.broadcast_to(np.array(channel.constant) * channel.factor, (width,))
    table = opened.table(channel.table, path)
    try:
        raw = _raw(channel, joints, table, path)
    except NoColumn:
        if not channel.optional:
            raise
        notes.append(f"{channel.name} left out: the file has no such column")
        return None
    if channel.name in _SCALARS:
        return raw if channel.name == "mode" else _whole_if(raw, channel.name, path)
    if channel.name in QUATS:
        return _attitude(raw, channel, path)
    shape = int(raw.shape[-1])
    expected = width if channel.name in JOINT_CHANNELS else _WIDTH.get(channel.name, shape)
    if shape != expected:
        _refuse_width(channel, shape, expected, path)
    value = _in_our_unit(raw, channel, table, path)
    if not channel.names:
        return value
    if sorted(channel.names) != sorted(joints) or shape != width:
        odd = next((name for name in channel.names if name not in joints), channel.names[0])
        raise InputError(
            f"channels.{channel.name}.names are not the joints of the file, one for each of the "
            f"{shape} elements: '{odd}'{suggestion(odd, joints)}",
            file=path,
        )
    return value[..., [channel.names.index(joint) for joint in joints]]


def _refuse_width(channel: Channel, got: int, expected: int, path: Path) -> NoReturn:
    """One line about a row with too many or too few elements."""
    raise InputError(
        f"'{channel.name}' has {got} elements in a row, expected {expected}; take = [...] picks "
        "some", file=path)  # fmt: skip


def _agree(channel: Channel, table: Table) -> bool:
    """Whether the columns that must be equal are."""
    found = [np.asarray(table.column(name)) for name in channel.only_if_equal]
    return all(np.array_equal(array, found[0]) for array in found)


def _raw(channel: Channel, joints: tuple[str, ...], table: Table, path: Path) -> np.ndarray:
    """A channel as it stands in the file: (rows,), (rows, n), or (n,) for constant gains."""
    names = channel.columns(joints)
    parts = [_numbers(table.column(name), name, channel, path) for name in names]
    single = parts[0].ndim == 1 and channel.name not in (*_SCALARS, *GAINS)
    if len(parts) > 1 or channel.pattern or single:
        if any(part.ndim != 1 or len(part) != len(parts[0]) for part in parts):
            raise InputError(f"'{channel.name}': its columns are not of one number a row and of "
                             "one length", file=path)  # fmt: skip
        array = np.stack(parts, axis=1)
    else:
        array = parts[0]
    if channel.take:
        if (array.ndim < 2 and channel.name not in GAINS) or max(channel.take) >= array.shape[-1]:
            raise InputError(f"'{channel.name}': take asks for element {max(channel.take)}, a row "
                             f"has {array.shape[-1]}", file=path)  # fmt: skip
        array = array[..., list(channel.take)]
    if channel.name in _SCALARS and array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    wanted = (1,) if channel.name in _SCALARS else (1, 2) if channel.name in GAINS else (2,)
    if array.ndim not in wanted:
        raise InputError(f"'{channel.name}' has shape {array.shape} in the file, expected rows of "
                         f"{'one value' if wanted == (1,) else 'numbers'}", file=path)  # fmt: skip
    return array


def _numbers(array: np.ndarray, name: str, channel: Channel, path: Path) -> np.ndarray:
    """A column of numbers as float64; a label may be text."""
    if channel.name in LABELS and array.dtype.kind in "USiu":
        return array
    if array.dtype.kind not in "biuf":
        odd = next((k for k, text in enumerate(array.ravel()) if not _is_number(text)), 0)
        raise InputError(f"column '{name}' holds text ('{str(array.ravel()[odd])[:30]}' in row "
                         f"{odd}), expected numbers", file=path)  # fmt: skip
    with np.errstate(invalid="ignore"):  # single-precision NaN; refused later
        return array.astype(np.float64)


def _is_number(text: object) -> bool:
    try:
        float(str(text))
    except ValueError:
        return False
    return True


def _in_our_unit(raw: np.ndarray, channel: Channel, table: Table, path: Path) -> np.ndarray:
    """Scale, shift and turn: sign * (factor * raw * times + offset)."""
    for what, given in (("sign", channel.sign), ("offset", channel.offset)):
        if len(given) > 1 and len(given) != raw.shape[-1]:
            raise InputError(f"channels.{channel.name}.{what} has {len(given)} numbers, a row has "
                             f"{raw.shape[-1]}", file=path)  # fmt: skip
    value = raw * channel.factor
    if channel.times:
        times = _numbers(table.column(channel.times), channel.times, channel, path)
        if times.shape not in ((), (1,), raw.shape[:1], raw.shape):
            raise InputError(f"'{channel.times}' has shape {times.shape}: it cannot multiply "
                             f"'{channel.name}'", file=path)  # fmt: skip
        value = value * (times[:, None] if times.ndim == 1 and value.ndim == 2 else times)
    if channel.offset:
        value = value + np.array(channel.offset)
    return np.asarray(value * np.array(channel.sign) if channel.sign else value)


def _attitude(raw: np.ndarray, channel: Channel, path: Path) -> np.ndarray:
    """Quaternions wxyz (rows, 4)."""
    expected = 3 if channel.order == "rpy" else 4
    if raw.shape[1] != expected:
        _refuse_width(channel, raw.shape[1], expected, path)
    if channel.order != "rpy":
        return wxyz_from_xyzw(raw) if channel.order == "xyzw" else raw
    # Roll about x first, then pitch about y, then yaw about z, all fixed axes.
    roll, pitch, yaw = (
        from_axis_angle(np.eye(3)[axis], raw[:, axis] * channel.factor) for axis in range(3)
    )
    return multiply(yaw, multiply(pitch, roll))


def _whole(values: np.ndarray) -> np.ndarray:
    """Labels as whole numbers, where they are."""
    whole = np.isfinite(values).all() and (np.abs(values) < 2**53).all()
    return values.astype(np.int64) if whole and (values == np.round(values)).all() else values


def _whole_if(values: np.ndarray, name: str, path: Path) -> np.ndarray:
    """Episodes must be whole numbers; phases need not."""
    if name != "episode":
        return values
    whole = _whole(values) if values.dtype.kind == "f" else values
    if whole.dtype.kind not in "iu":
        raise InputError("'episode' holds something else than whole numbers", file=path)
    return whole


def _flipped(value: np.ndarray, name: str, columns: ColumnMap, ours: tuple[str, ...]) -> np.ndarray:
    """Turn round the joints that the file counts the other way."""
    if name not in _FLIPPED or not columns.flip:
        return value
    return np.asarray(value * [-1.0 if joint in columns.flip else 1.0 for joint in ours])


def _joined(
    values: dict[str, np.ndarray], columns: ColumnMap, opened: Tables, notes: list[str], path: Path
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """All channels in the rows of the time's table."""
    by_row = {n: v for n, v in values.items() if not (n in GAINS and v.ndim == 1)}
    constant = {n: v for n, v in values.items() if n not in by_row}
    if columns.join == "time":
        joined, time_s = _joined_by_time(by_row, columns, opened, notes, path)
        return {**joined, **constant}, time_s
    rows = {columns.channels[name].table: len(value) for name, value in by_row.items()}
    for name, value in by_row.items():
        if len(value) != rows[columns.channels[name].table]:
            raise InputError(f"'{name}' has {len(value)} rows, other channels of the file have "
                             f"{rows[columns.channels[name].table]}", file=path)  # fmt: skip
    if columns.time_from:
        time_s = _time(columns, opened, columns.time_table, path)
        if rows.setdefault(columns.time_table, len(time_s)) != len(time_s):
            raise InputError(f"time has {len(time_s)} rows, the channels have "
                             f"{rows[columns.time_table]}", file=path)  # fmt: skip
    else:
        time_s = np.arange(max(rows.values())) / columns.rate_hz
        notes.append(f"the file holds no time: {columns.rate_hz:g} Hz assumed")
    shortest, longest = min(rows.values()), max(rows.values())
    if shortest < _MIN_SHARE * longest:
        raise InputError(f"tables have from {shortest} to {longest} rows: they are not of one "
                         'recording, or how = "time" joins them', file=path)  # fmt: skip
    if shortest < longest:
        shown = ", ".join(f"{name} {count}" for name, count in rows.items() if count > shortest)
        notes.append(f"rows cut to the shortest file: {shortest} ({shown[:200]})")
    return {**{n: v[:shortest] for n, v in by_row.items()}, **constant}, time_s[:shortest]


def _time(columns: ColumnMap, opened: Tables, name: str, path: Path) -> np.ndarray:
    """Stamps of a table [s]."""
    array = opened.table(name, path).column(columns.time_from)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or array.dtype.kind not in "iuf" or not len(array):
        raise InputError(f"time '{columns.time_from}' has shape {array.shape} and type "
                         f"{array.dtype}, expected one number a row", file=path)  # fmt: skip
    with np.errstate(invalid="ignore"):
        return array.astype(np.float64) * columns.time_factor


def _joined_by_time(
    by_row: dict[str, np.ndarray], columns: ColumnMap, opened: Tables, notes: list[str], path: Path
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Each row takes the latest row of every table that is not later than itself."""
    if not columns.time_from:
        raise InputError('how = "time" needs a column of time', file=path)
    time_s = _time(columns, opened, columns.time_table, path)
    keep = np.isfinite(time_s)
    latest: dict[str, np.ndarray] = {columns.time_table: np.arange(len(time_s))}
    for name in {columns.channels[channel].table for channel in by_row} - set(latest):
        stamps = _time(columns, opened, name, path)
        if not (np.diff(stamps) >= 0.0).all():
            raise InputError(f"times of table '{name}' run back or are no numbers", file=path)
        latest[name] = np.searchsorted(stamps, time_s, side="right") - 1
        age = time_s - stamps[np.maximum(latest[name], 0)]
        stale = (latest[name] < 0) | ~(age <= columns.max_age_s)
        if stale.any():
            notes.append(f"{int(stale.sum())} of {len(time_s)} rows left out: '{name}' was not yet "
                         f"there or older than {columns.max_age_s:g} s")  # fmt: skip
        keep &= ~stale
    if keep.sum() < 2:
        raise InputError("no two rows in which every table has a value: are the clocks the same?",
                         file=path)  # fmt: skip
    joined = {}
    for name, value in by_row.items():
        places = latest[columns.channels[name].table][keep]
        if places.max() >= len(value):
            raise InputError(f"'{name}' has {len(value)} rows, its times have more", file=path)
        joined[name] = value[places]
    return joined, time_s[keep]


def _shifted(
    values: dict[str, np.ndarray], time_s: np.ndarray, columns: ColumnMap, notes: list[str]
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Channels that belong to another row than the one they stand in, never across episodes."""
    shifts = {name: columns.channels[name].rows_later for name in values}
    first, last = max(0, -min(shifts.values())), len(time_s) - max(0, *shifts.values())
    if (first, last) == (0, len(time_s)):
        return values, time_s
    rows = np.arange(first, max(last, first))
    episode = values.get("episode")
    moved = {name: shift for name, shift in shifts.items() if shift}
    if episode is not None:
        for shift in moved.values():
            rows = rows[episode[rows] == episode[rows + shift]]
    shown = ", ".join(f"{name} {shift:+d}" for name, shift in moved.items())
    notes.append(f"rows taken from later: {shown}; {len(time_s) - len(rows)} rows fewer")
    constant = [name for name, value in values.items() if name in GAINS and value.ndim == 1]
    return {
        name: value if name in constant else value[rows + shifts[name]]
        for name, value in values.items()
    }, time_s[rows]


def _continued(time_s: np.ndarray, episode: np.ndarray | None, notes: list[str]) -> np.ndarray:
    """A clock that goes on where an episode starts its own at zero again."""
    if episode is None or len(time_s) < 3:
        return time_s
    steps = np.diff(time_s)
    back = (steps <= 0.0) & (episode[1:] != episode[:-1])
    if not back.any():
        return time_s
    usual = float(np.median(steps[steps > 0.0])) if (steps > 0.0).any() else 0.0
    steps = np.where(back, usual, steps)
    notes.append(f"the clock starts again in {int(back.sum())} episodes: each follows the one "
                 "before after one step")  # fmt: skip
    return np.asarray(time_s[0] + np.concatenate([[0.0], np.cumsum(steps)]))
