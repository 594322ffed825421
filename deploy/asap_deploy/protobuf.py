"""Reading protobuf bytes without a protobuf library, as little as an ONNX file needs.

A message is a list of (field number, value): an integer for varints and fixed widths, bytes for
everything that has a length. Damaged input ends in ``ValueError``, never in a loop or a crash.

    fields = list(read_fields(data))
"""

from __future__ import annotations

import struct
from typing import Iterator, List, Tuple, Union

Value = Union[int, bytes]

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


def read_fields(data: bytes) -> Iterator[Tuple[int, Value]]:
    """Every field of one message, in the order of the file.

    Raises:
        ValueError: If the bytes are not a protobuf message.
    """
    position, end = 0, len(data)
    while position < end:
        key, position = read_varint(data, position)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, position = read_varint(data, position)
            yield number, value
            continue
        if kind == _LENGTH:
            size, position = read_varint(data, position)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"unknown wire type {kind} at byte {position}")
        if number == 0 or size > end - position:
            raise ValueError(f"field {number} runs past the end at byte {position}")
        chunk = data[position : position + size]
        position += size
        yield number, chunk if kind == _LENGTH else int.from_bytes(chunk, "little")


def read_varint(data: bytes, position: int) -> Tuple[int, int]:
    """One variable-length integer and the position after it."""
    value, shift = 0, 0
    while True:
        if position >= len(data) or shift > 63:
            raise ValueError(f"broken integer at byte {position}")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, position
        shift += 7


def signed(value: int) -> int:
    """A varint as a signed 64-bit integer."""
    return value - (1 << 64) if value >= 1 << 63 else value


def packed_varints(value: Value) -> List[int]:
    """A repeated integer field: one number, or several packed into bytes."""
    if isinstance(value, int):
        return [signed(value)]
    numbers, position = [], 0
    while position < len(value):
        number, position = read_varint(value, position)
        numbers.append(signed(number))
    return numbers


def packed_floats(value: Value) -> List[float]:
    """A repeated float field: one number as fixed bits, or several packed into bytes."""
    data = struct.pack("<I", value) if isinstance(value, int) else value
    if len(data) % 4:
        raise ValueError("packed floats do not fill four bytes each")
    return list(struct.unpack(f"<{len(data) // 4}f", data))
