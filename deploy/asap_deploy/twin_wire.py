"""The datagrams between a simulated robot and its link; both sides import this one file.

Every datagram has a checksum, as a real robot's messages have: the simulated robot drops commands
whose checksum is wrong, and the link does not believe such states.

    data = pack(STATE, source=7, sequence=1, joints=29, payload=frames.pack_state(state))
    datagram = unpack(data)                          # None for what is none of ours
"""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple, Optional, Tuple

from asap_deploy.errors import InputError

MAGIC = b"ASTW"
SUBSCRIBE, INFO, STATE, COMMAND = 1, 2, 3, 4
DEFAULT_ADDRESS = "127.0.0.1:47400"
MAX_BYTES = 60000
_HEAD = struct.Struct("<4sBBHIII")
_CHECK = struct.Struct("<I")


class Datagram(NamedTuple):
    """One message."""

    kind: int
    source: int
    """A number that its sender drew at its start"""
    sequence: int
    joints: int
    payload: bytes
    sound: bool
    """The checksum holds"""


def pack(kind: int, source: int, sequence: int, joints: int, payload: bytes) -> bytes:
    """A datagram with its checksum."""
    size = len(payload)
    head = _HEAD.pack(MAGIC, kind, 1, joints, source, sequence & 0xFFFFFFFF, size)
    return head + payload + _CHECK.pack(zlib.crc32(head + payload))


def unpack(data: bytes) -> Optional[Datagram]:
    """Read a datagram; None if it is not one of ours at all."""
    if len(data) < _HEAD.size + _CHECK.size or data[:4] != MAGIC:
        return None
    _, kind, _, joints, source, sequence, size = _HEAD.unpack_from(data)
    payload = data[_HEAD.size : -_CHECK.size]
    sound = zlib.crc32(data[: -_CHECK.size]) == _CHECK.unpack(data[-_CHECK.size :])[0]
    return Datagram(kind, source, sequence, joints, payload, sound and size == len(payload))


def host_port(address: str) -> Tuple[str, int]:
    """Host and port of ``host:port``.

    Raises:
        InputError: If it is none.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 <= int(port) < 65536:
        raise InputError(f"'{address}' is no address; expected host:port as {DEFAULT_ADDRESS}")
    return host, int(port)
