"""Column maps: a TOML file that says which column of a foreign log is which channel of ours.

A foreign file names its columns as its author liked. What they mean, in which unit and order, is
written down once per source, and nothing else about a source stands in code. The keys are explained
in ``real_logs/columns/README.md``.

    columns = read_columns(Path("real_logs/columns/sigmaban.toml"))
    columns.channels["joint_pos"].source          # ("q",): the key of the file's array
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asap.safe_pickle import read_bytes
from asap_deploy.errors import InputError, suggestion

MAX_TOML_BYTES = 1 << 20
MAX_NAMES = 1000

JOINT_CHANNELS = ("joint_pos", "joint_vel", "joint_pos_target", "torque_est", "stiffness",
                  "damping")  # fmt: skip
"""One column for each joint; ``action`` too if it has as many."""

GAINS = ("stiffness", "damping")
QUATS = ("imu_quat_wxyz", "base_quat_wxyz")
ORDERS = ("wxyz", "xyzw", "rpy")
"""Of an attitude: quaternions, or roll, pitch and yaw about fixed axes x, y and z."""

_DEGREE = math.pi / 180.0
_UNITS: dict[str, dict[str, float]] = {
    "angle": {"rad": 1.0, "deg": _DEGREE, "turn": 2.0 * math.pi},
    "rate": {"rad/s": 1.0, "deg/s": _DEGREE, "rpm": math.pi / 30.0},
    "torque": {"Nm": 1.0, "mNm": 1e-3, "kgf cm": 0.0980665},
    "stiffness": {"Nm/rad": 1.0, "Nm/deg": 1.0 / _DEGREE},
    "damping": {"Nms/rad": 1.0, "Nms/deg": 1.0 / _DEGREE},
    "length": {"m": 1.0, "cm": 1e-2, "mm": 1e-3},
    "speed": {"m/s": 1.0, "mm/s": 1e-3},
    "acceleration": {"m/s2": 1.0, "g": 9.80665},
    "time": {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9},
    "none": {"1": 1.0},
}
_QUANTITY = {
    "joint_pos": "angle", "joint_vel": "rate", "joint_pos_target": "angle", "action": "none",
    "torque_est": "torque", "imu_quat_wxyz": "angle", "imu_ang_vel_b": "rate",
    "imu_lin_acc_b": "acceleration", "base_pos_w": "length", "base_quat_wxyz": "angle",
    "base_lin_vel_w": "speed", "base_ang_vel_b": "rate", "phase": "none", "mode": "none",
    "episode": "none", "stiffness": "stiffness", "damping": "damping",
}  # fmt: skip
CHANNELS = tuple(_QUANTITY)
"""Everything that a map may fill."""

_TOP_KEYS = ("about", "robot", "source", "licence", "file", "joints", "time", "join", "channels",
             "messages")  # fmt: skip
_CHANNEL_KEYS = ("from", "table", "unit", "order", "sign", "scale", "offset", "times", "constant",
                 "take", "names", "rows_later", "optional", "only_if_equal")  # fmt: skip
_INDEX = re.compile(r"\{i(?::0?(\d))?\}")


class NoColumn(InputError):
    """The file has no column of that name."""


@dataclass(frozen=True, kw_only=True)
class Channel:
    """Where one channel comes from and how it becomes ours."""

    name: str
    source: tuple[str, ...] = ()
    """One column that holds all elements of a row, or one column for each element."""
    pattern: str = ""
    """Instead: a name with ``{joint}`` or ``{i}``, one column for each joint."""
    table: str = ""
    factor: float = 1.0
    """Unit and scale."""
    offset: tuple[float, ...] = ()
    """Added after the factor, in our unit; one number or one for each element."""
    sign: tuple[float, ...] = ()
    times: str = ""
    """A column whose value multiplies."""
    constant: tuple[float, ...] = ()
    """Instead of a column: gains that the file does not hold."""
    order: str = "wxyz"
    take: tuple[int, ...] = ()
    """Which elements of a row; all if empty."""
    names: tuple[str, ...] = ()
    """Joints in the order of this channel, if it is another than the file's."""
    rows_later: int = 0
    """Our row i is row i + rows_later of the file."""
    optional: bool = False
    only_if_equal: tuple[str, ...] = ()

    def columns(self, joints: tuple[str, ...]) -> tuple[str, ...]:
        """Names of the columns in the file."""
        if not self.pattern:
            return self.source
        names = [self.pattern.replace("{joint}", joint) for joint in self.names or joints]
        return tuple(_INDEX.sub(lambda m, k=k: f"{k:0{m[1] or 1}d}", n)  # type: ignore[misc]
                     for k, n in enumerate(names))  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ColumnMap:
    """One kind of log file, explained."""

    channels: Mapping[str, Channel]
    joint_names: tuple[str, ...] = ()
    """In the file's order; empty if the file names them."""
    joint_names_from: str = ""
    joint_names_table: str = ""
    rename: Mapping[str, str] = field(default_factory=dict)
    """The file's name of a joint: ours."""
    flip: tuple[str, ...] = ()
    """Joints, by our name, whose angle the file counts the other way round."""
    time_from: str = ""
    time_table: str = ""
    """The table whose rows become the rows of the log."""
    time_factor: float = 1.0
    rate_hz: float = 0.0
    """Instead of a column of times."""
    join: str = "row"
    max_age_s: float = 0.1
    """When joined by time: a row older than this is no measurement of the moment [s]."""
    delimiter: str = ","
    header: bool = True
    messages: Mapping[str, str] = field(default_factory=dict)
    """ROS 2 message definitions, for recordings that hold none."""
    robot: str = ""
    origin: str = ""
    """Source and licence, as one text for the log's ``source``."""

    @property
    def tables(self) -> tuple[str, ...]:
        """Every table that is named; '' where a table was left out."""
        names = {channel.table for channel in self.channels.values() if not channel.constant}
        names |= {self.time_table} if self.time_from else set()
        names |= {self.joint_names_table} if self.joint_names_from else set()
        return tuple(sorted(names))


def read_columns(path: Path) -> ColumnMap:
    """Read and check a column map.

    Raises:
        InputError: If it cannot be read, or says something that it may not say.
    """
    data = read_bytes(path, max_bytes=MAX_TOML_BYTES)
    try:
        content = tomllib.loads(data.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise InputError(f"column map is no TOML file: {error}", file=path) from None
    try:
        return _map_of(content)
    except InputError as error:
        raise InputError(f"column map: {error}", file=path) from None


def _map_of(content: Mapping[str, Any]) -> ColumnMap:
    """The checked map of a parsed TOML file."""
    _known(content, _TOP_KEYS, "the map")
    file, joints, time, join = (
        _table(content, key, keys)
        for key, keys in (
            ("file", ("delimiter", "header")),
            ("joints", ("names", "from", "table", "rename", "flip")),
            ("time", ("from", "table", "unit", "rate_hz")),
            ("join", ("how", "max_age_s")),
        )
    )
    channels = _table(content, "channels", CHANNELS)
    if "joint_pos" not in channels:
        raise InputError("[channels] lacks joint_pos: without measured joints it is no log")
    if ("names" in joints) == ("from" in joints):
        raise InputError('[joints] needs either names = [...] or from = "column"')
    if ("from" in time) == ("rate_hz" in time):
        raise InputError('[time] needs either from = "column" or rate_hz = number')
    rename, messages = _texts_by_name(joints, "rename"), _texts_by_name(content, "messages")
    about = [_text(content, "source"), f"licence: {_text(content, 'licence')}"]
    return ColumnMap(
        channels={name: _channel(name, table) for name, table in channels.items()},
        joint_names=_names(joints, "names"),
        joint_names_from=_text(joints, "from"),
        joint_names_table=_text(joints, "table"),
        rename=rename,
        flip=_names(joints, "flip"),
        time_from=_text(time, "from"),
        time_table=_text(time, "table"),
        time_factor=_unit("time", time.get("unit", "s"), "time"),
        rate_hz=_number(time, "rate_hz", 0.0, low=1e-2, high=1e5),
        join=_choice(join, "how", ("row", "time")),
        max_age_s=_number(join, "max_age_s", 0.1, low=1e-6, high=1e6),
        delimiter=_choice(file, "delimiter", (",", ";", "\t", " ", "|")),
        header=_flag(file, "header", default=True),
        messages=messages,
        robot=_text(content, "robot"),
        origin="; ".join(part for part in about if not part.endswith("licence: ") and part),
    )


def _channel(name: str, given: Any) -> Channel:
    """One checked channel; a bare text is short for ``{ from = text }``."""
    where = f"channels.{name}"
    given = {"from": given} if isinstance(given, (str, list)) else given
    if not isinstance(given, dict):
        raise InputError(f"{where} is {_shown(given)}, expected a column or a table")
    _known(given, _CHANNEL_KEYS, where)
    if ("from" in given) == ("constant" in given):
        raise InputError(f"{where} needs either from or constant")
    if "constant" in given and name not in GAINS:
        raise InputError(f"{where}: only {' and '.join(GAINS)} may be constant; what was not "
                         "recorded is left out")  # fmt: skip
    source, pattern = _source(given, name)
    order = _choice(given, "order", ORDERS)
    if "order" in given and name not in QUATS:
        raise InputError(f"{where}: order is for attitudes ({', '.join(QUATS)})")
    default = next(iter(_UNITS[_QUANTITY[name]]))
    take = given.get("take", [])
    take = list(range(take)) if type(take) is int and 0 < take <= MAX_NAMES else take
    if not isinstance(take, list) or not all(type(k) is int and 0 <= k < 10_000 for k in take):
        raise InputError(f"{where}.take is {_shown(take)}, expected how many, or a list of indices")
    later = given.get("rows_later", 0)
    if type(later) is not int or abs(later) > 100:
        raise InputError(f"{where}.rows_later is {_shown(later)}, expected -100 to 100")
    sign = _numbers(given, "sign")
    if any(abs(value) != 1.0 for value in sign):
        raise InputError(f"{where}.sign holds something else than 1 and -1")
    return Channel(
        name=name, source=source, pattern=pattern, table=_text(given, "table"),
        factor=_unit(_QUANTITY[name], given.get("unit", default), where)
        * _number(given, "scale", 1.0, low=-1e9, high=1e9),
        offset=_numbers(given, "offset"), sign=sign, times=_text(given, "times"),
        constant=_numbers(given, "constant"), order=order, take=tuple(take),
        names=_names(given, "names"), rows_later=later,
        optional=_flag(given, "optional", default=False),
        only_if_equal=_names(given, "only_if_equal"),
    )  # fmt: skip


def _source(given: Mapping[str, Any], name: str) -> tuple[tuple[str, ...], str]:
    """Columns by name, or a pattern with braces."""
    source = given.get("from", [])
    if isinstance(source, list):
        return _names(given, "from"), ""
    text = _text(given, "from")
    if "{joint}" not in text and not _INDEX.search(text):
        return (text,), ""
    if name not in (*JOINT_CHANNELS, "action"):
        raise InputError(f"channels.{name}: a pattern is for joints; write a list of columns")
    return (), text


def _known(table: Mapping[str, Any], keys: tuple[str, ...], where: str) -> None:
    """Refuse keys that mean nothing."""
    for key in table:
        if key not in keys:
            raise InputError(f"{where} has the unknown key '{key[:60]}'{suggestion(key, keys)}")


def _table(content: Mapping[str, Any], key: str, keys: tuple[str, ...]) -> dict[str, Any]:
    """A table of known keys; empty if absent."""
    table = content.get(key, {})
    if not isinstance(table, dict):
        raise InputError(f"{key} is {_shown(table)}, expected a table [{key}]")
    _known(table, keys, f"[{key}]")
    return table


def _text(table: Mapping[str, Any], key: str) -> str:
    value = table.get(key, "")
    if not isinstance(value, str) or len(value) > 2000 or (key in table and not value):
        raise InputError(f"{key} is {_shown(value)}, expected a text")
    return value


def _names(table: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """Distinct texts."""
    value = table.get(key, [])
    fits = isinstance(value, list) and all(isinstance(v, str) and 0 < len(v) < 500 for v in value)
    if not fits or not len(set(value)) == len(value) <= MAX_NAMES or (key in table and not value):
        raise InputError(f"{key} is {_shown(value)}, expected a list of different names")
    return tuple(value)


def _texts_by_name(table: Mapping[str, Any], key: str) -> dict[str, str]:
    value = table.get(key, {})
    fits = isinstance(value, dict) and all(isinstance(v, str) for v in value.values())
    if not fits:
        raise InputError(f"{key} is {_shown(value)}, expected a table of texts")
    return dict(value)


def _is_number(value: Any) -> bool:
    real = isinstance(value, (int, float)) and not isinstance(value, bool)
    return real and abs(value) < 1e12 and math.isfinite(value)


def _numbers(table: Mapping[str, Any], key: str) -> tuple[float, ...]:
    """One number or a list of them."""
    value = table.get(key, [])
    values = value if isinstance(value, list) else [value]
    if not all(_is_number(v) for v in values) or len(values) > MAX_NAMES:
        raise InputError(f"{key} is {_shown(value)}, expected a number or a list of numbers")
    return tuple(float(v) for v in values)


def _number(
    table: Mapping[str, Any], key: str, default: float, *, low: float, high: float
) -> float:
    value = table.get(key, default)
    if not _is_number(value) or (key in table and not low <= value <= high):
        raise InputError(f"{key} is {_shown(value)}, expected a number from {low:g} to {high:g}")
    return float(value)


def _flag(table: Mapping[str, Any], key: str, *, default: bool) -> bool:
    value = table.get(key, default)
    if not isinstance(value, bool):
        raise InputError(f"{key} is {_shown(value)}, expected true or false")
    return value


def _choice(table: Mapping[str, Any], key: str, valid: tuple[str, ...]) -> str:
    """One of a few texts; the first if absent."""
    value = table.get(key, valid[0])
    if value not in valid:
        shown = ", ".join(repr(v) for v in valid)
        raise InputError(f"{key} is {_shown(value)}, expected one of {shown}")
    return str(value)


def _unit(quantity: str, unit: Any, where: str) -> float:
    """Factor from a unit to ours."""
    valid = _UNITS[quantity]
    if not isinstance(unit, str) or unit not in valid:
        raise InputError(f"{where} has the unit {_shown(unit)}{suggestion(str(unit), valid)}")
    return valid[unit]


def _shown(value: Any) -> str:
    """A value of the user, short enough for an error."""
    return repr(value)[:60]
