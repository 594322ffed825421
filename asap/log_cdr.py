"""Messages of constant size, read as arrays: thousands of times faster than one by one.

A message whose definition has neither texts nor lists of free length always lies in memory in the
same way, so a column is a gather of bytes at constant places. ROS 2 writes little-endian CDR: after
a header of four bytes every number stands at a multiple of its own size, counted from there.

    layout = fixed_layout("unitree_hg/msg/LowState", definition)
    gather(as_table(messages, layout), layout.leaves["motor_state.q"])        # (T, 35) [rad]
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

HEADER = 4
LITTLE_ENDIAN = b"\x00\x01"
MAX_SIZE = 1 << 16
"""Of a message [bytes]; larger ones are read one by one."""

MAX_DEPTH = 8
_TYPES = {
    "bool": "u1", "byte": "u1", "char": "u1", "uint8": "u1", "int8": "i1", "uint16": "<u2",
    "int16": "<i2", "uint32": "<u4", "int32": "<i4", "uint64": "<u8", "int64": "<i8",
    "float32": "<f4", "float64": "<f8",
}  # fmt: skip
_FIELD = re.compile(r"([A-Za-z][\w/]*)(?:\[(\d{1,6})\])?\s+([A-Za-z]\w*)(?:\s+[^=].*)?")
_CONSTANT = re.compile(r"\w+\s+\w+\s*=.*")


class Leaf(NamedTuple):
    """Where the numbers of one field lie."""

    dtype: str
    places: np.ndarray
    """Offsets after the header, shaped like the field."""


class Layout(NamedTuple):
    """Fields of a message by path, and its size without the header."""

    leaves: dict[str, Leaf]
    size: int


class _Varies(Exception):
    """The message has no constant size, or is too odd to be sure."""


_Fields = list[tuple[str, int | None, str]]
_Placed = dict[str, tuple[str, Any]]


def fixed_layout(type_name: str, definition: str) -> Layout | None:
    """The layout of a message of constant size; None if its size varies.

    Args:
        type_name: Such as ``unitree_hg/msg/LowState``.
        definition: Its text, and behind lines of ``=`` those of the types inside it.
    """
    try:
        types = _parsed(type_name, definition)
        size, placed = _placed(_short(type_name), types, 0, 0)
    except _Varies:
        return None
    leaves = {path: Leaf(dtype, np.array(places)) for path, (dtype, places) in placed.items()}
    return Layout(leaves, size)


def as_table(messages: Sequence[bytes], layout: Layout) -> np.ndarray | None:
    """The bytes of all messages (T, size); None if one has another size or byte order."""
    sizes = {len(message) for message in messages}
    same = len(sizes) == 1 and 0 <= max(sizes) - HEADER - layout.size < 4  # padded to four bytes
    if not same or any(message[:2] != LITTLE_ENDIAN for message in messages):
        return None
    return np.frombuffer(b"".join(messages), np.uint8).reshape(len(messages), -1)


def gather(table: np.ndarray, leaf: Leaf) -> np.ndarray:
    """One field of every message, shape (T, ...)."""
    width = np.dtype(leaf.dtype).itemsize
    places = HEADER + leaf.places[..., None] + np.arange(width)
    return np.ascontiguousarray(table[:, places]).view(leaf.dtype)[..., 0]


def _short(name: str) -> str:
    """``package/Type`` of ``package/msg/Type``."""
    return name.replace("/msg/", "/")


def _parsed(type_name: str, definition: str) -> dict[str, _Fields]:
    """Fields by type: (type, length or None, name)."""
    stamp: _Fields = [("int32", None, "sec"), ("uint32", None, "nanosec")]
    types = {"builtin_interfaces/Time": stamp, "builtin_interfaces/Duration": stamp}
    for section in re.split(r"^={10,}\s*$", definition, flags=re.MULTILINE):
        name, fields = _short(type_name), _Fields()
        for raw in section.splitlines():
            line = raw.split("#")[0].strip()
            if line.startswith("MSG:"):
                name = _short(line[4:].strip())
            elif line and not _CONSTANT.fullmatch(line):
                match = _FIELD.fullmatch(line)
                if match is None:
                    raise _Varies
                fields.append((match[1], int(match[2]) if match[2] else None, match[3]))
        types[name] = fields
    return types


def _placed(name: str, types: dict[str, _Fields], at: int, depth: int) -> tuple[int, _Placed]:
    """Where each number of a type lies that begins at ``at``, and where it ends."""
    if not types.get(name) or depth > MAX_DEPTH:
        raise _Varies
    placed: _Placed = {}
    for kind, length, field in types[name]:
        if kind in _TYPES:
            width = np.dtype(_TYPES[kind]).itemsize
            at += -at % width
            places = [at + width * k for k in range(min(length or 1, MAX_SIZE))]
            placed[field] = (_TYPES[kind], places[0] if length is None else places)
            at += width * (length or 1)
        else:
            inner = kind if "/" in kind else f"{name.rpartition('/')[0]}/{kind}"
            elements = []
            for _ in range(1 if length is None else length):
                at, element = _placed(_short(inner), types, at, depth + 1)
                elements.append(element)
                if at > MAX_SIZE:
                    raise _Varies
            for path, (dtype, first) in elements[0].items() if elements else ():
                every = [element[path][1] for element in elements]
                placed[f"{field}.{path}"] = (dtype, first if length is None else every)
        if at > MAX_SIZE or length == 0:
            raise _Varies
    return at, placed
