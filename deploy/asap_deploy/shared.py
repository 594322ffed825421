"""Memory that processes share: mailboxes that hold the newest message, rings that hold the last.

Neither ever blocks, whoever dies or is stopped while writing. Every message carries its number and
a checksum over number and content, so that a torn one is never taken for a whole one, on any
processor. The memory has no name: only processes that were handed its descriptor can touch it, and
it goes when the last of them does. (``multiprocessing.shared_memory`` would, up to Python 3.12,
take the memory away from a living supervisor when the policy process dies.)

    memory = Shared.create(Mailbox.size(64))
    box = Mailbox(memory.view(0, Mailbox.size(64)), 64)
    box.post(b"...")
    number, message = box.latest()
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
import zlib
from typing import List, NamedTuple, Optional, Tuple

_HEAD = struct.Struct("<QIIQ")
"""Number, checksum, length, kind."""
_NUMBER = struct.Struct("<Q")


class Shared:
    """Anonymous memory behind a descriptor."""

    def __init__(self, fd: int, size: int) -> None:
        """Map what another process made."""
        self.fd, self.size = fd, size
        self._map = mmap.mmap(fd, size)

    @classmethod
    def create(cls, size: int) -> Shared:
        """New memory, all zeros; hand ``fd`` on with ``pass_fds``."""
        if hasattr(os, "memfd_create"):
            fd = os.memfd_create("asap-deploy")
        else:  # not Linux: a file that has lost its name
            with tempfile.TemporaryFile() as file:
                fd = os.dup(file.fileno())
        os.ftruncate(fd, size)
        if hasattr(os, "posix_fallocate"):
            # Now or not at all: whoever first writes where no memory is left would be killed.
            os.posix_fallocate(fd, 0, size)
        return cls(fd, size)

    def view(self, start: int, size: int) -> memoryview:
        """A part of it."""
        return memoryview(self._map)[start : start + size]


class Mailbox:
    """One writer, any readers, two places: the newest whole message is always there."""

    def __init__(self, view: memoryview, payload: int) -> None:
        """Use some memory of ``size(payload)`` bytes."""
        self._view, self._stride = view, _HEAD.size + payload
        self._payload = payload
        found = self.latest()
        self._number = found[0] if found else 0

    @staticmethod
    def size(payload: int) -> int:
        """Bytes that a mailbox for messages of this length needs."""
        return 2 * (_HEAD.size + payload)

    def post(self, message: bytes) -> int:
        """Put a message in; returns its number."""
        assert len(message) <= self._payload, f"message of {len(message)} bytes"
        self._number += 1
        _write(self._view, self._stride * (self._number % 2), self._number, 0, message)
        return self._number

    @property
    def newest(self) -> int:
        """Number of the newest message, whole or not; 0 before the first. Far cheaper to ask."""
        numbers = (_NUMBER.unpack_from(self._view, start)[0] for start in (0, self._stride))
        return int(max(numbers))

    def latest(self) -> Optional[Tuple[int, bytes]]:
        """Number and content of the newest whole message; None before the first."""
        newest = self.newest
        for number in (newest, newest - 1):  # the other place, where the newest one is torn
            entry = _read(self._view, self._stride * (number % 2), self._payload)
            if entry is not None:
                return entry.number, entry.data
        return None


class Entry(NamedTuple):
    """A message in a ring."""

    number: int
    kind: int
    data: bytes


class Ring:
    """One writer that overwrites the oldest; readers that lag miss some, and know how many."""

    def __init__(self, view: memoryview, slots: int, payload: int) -> None:
        """Use some memory of ``size(slots, payload)`` bytes."""
        self._view, self._slots, self._payload = view, slots, payload
        self._stride = _HEAD.size + payload
        self._number = self.newest

    @staticmethod
    def size(slots: int, payload: int) -> int:
        """Bytes that such a ring needs."""
        return 8 + slots * (_HEAD.size + payload)

    @property
    def newest(self) -> int:
        """Number of the last message, 0 before the first."""
        return int(_NUMBER.unpack_from(self._view, 0)[0])

    def push(self, kind: int, message: bytes) -> None:
        """Append; what is longer than a place is cut."""
        self._number += 1
        place = 8 + self._stride * (self._number % self._slots)
        _write(self._view, place, self._number, kind, message[: self._payload])
        _NUMBER.pack_into(self._view, 0, self._number)

    def after(self, number: int, limit: int = 1 << 30) -> Tuple[List[Entry], int, int]:
        """Messages after one, oldest first.

        Returns:
            The messages, the number up to which was read, and how many were missed.
        """
        newest = self.newest
        oldest = max(number + 1, newest - self._slots + 2)
        missed, found = oldest - (number + 1), []
        last = min(newest, oldest + limit - 1)
        for wanted in range(oldest, last + 1):
            place = 8 + self._stride * (wanted % self._slots)
            entry = _read(self._view, place, self._payload)
            if entry is None or entry.number != wanted:
                missed += 1  # overwritten while we read
                continue
            found.append(entry)
        return found, max(last, number), missed


def _write(view: memoryview, place: int, number: int, kind: int, message: bytes) -> None:
    start = place + _HEAD.size
    view[start : start + len(message)] = message
    check = _checksum(number, kind, message)
    _HEAD.pack_into(view, place, number, check, len(message), kind)


def _read(view: memoryview, place: int, payload: int) -> Optional[Entry]:
    number, check, length, kind = _HEAD.unpack_from(view, place)
    if number == 0 or length > payload:
        return None
    start = place + _HEAD.size
    data = bytes(view[start : start + length])
    return Entry(number, kind, data) if _checksum(number, kind, data) == check else None


def _checksum(number: int, kind: int, message: bytes) -> int:
    return zlib.crc32(message, zlib.crc32(_HEAD.pack(number, 0, len(message), kind)))
