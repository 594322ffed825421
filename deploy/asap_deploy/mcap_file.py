"""Recordings in MCAP, the container of ROS 2 and Foxglove, with nothing but the standard library.

Messages go into small chunks with a checksum each, handed to the system whole: a process that is
killed loses the chunk that it was filling, and nothing else. Compression is not used.

    writer = McapWriter(stream, {"robot": "g1"})
    channel = writer.channel("/state", "State", "ros2msg", definition, "cdr")
    writer.message(channel, time_ns, data)
    writer.flush(); writer.finish()
    found = read_mcap(data)                          # also of a file that was never finished
"""

from __future__ import annotations

import os
import shutil
import struct
import tempfile
import zlib
from typing import IO, Any, BinaryIO, Dict, Iterator, List, Mapping, NamedTuple, Optional, Tuple

from asap_deploy.errors import InputError

MAGIC = b"\x89MCAP0\r\n"
METADATA_NAME = "asap-recording"
MAX_BYTES = 4 << 30
INDEX_ENTRIES = 2048
"""Index entries that are kept in memory, 300 kB; older ones wait in a file without a name."""

(_HEADER, _FOOTER, _SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _MESSAGE_INDEX, _CHUNK_INDEX, _STATISTICS,
 _METADATA, _METADATA_INDEX, _DATA_END) = 1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 15  # fmt: skip


class Message(NamedTuple):
    """One message of a recording."""

    topic: str
    time_ns: int
    data: bytes


class Recording(NamedTuple):
    """What a recording holds."""

    metadata: Dict[str, str]
    messages: List[Message]
    """In the order of the file"""
    definitions: Dict[str, str]
    """By topic"""
    finished: bool
    """False: it was cut off, and what is whole was read"""


class McapWriter:
    """Appends to a stream; only ``flush`` hands anything on."""

    def __init__(self, stream: BinaryIO, metadata: Mapping[str, str]) -> None:
        """Write the beginning.

        Args:
            stream: Unbuffered, at its start.
            metadata: Facts about the recording.
        """
        self._stream, self._position = stream, 0
        self._chunk = bytearray()
        self._times: List[int] = []
        self._index: Dict[int, List[Tuple[int, int]]] = {}
        self._summary: List[bytes] = []
        self._chunks: List[bytes] = []
        self._chunk_count = 0
        self._spool: Optional[IO[bytes]] = None
        self._counts: Dict[int, int] = {}
        self._span = [0, 0]
        self._write(MAGIC + _record(_HEADER, _text("") + _text("asap-deploy")))
        facts = _record(_METADATA, _text(METADATA_NAME) + _map(metadata))
        index = struct.pack("<QQ", self._position, len(facts)) + _text(METADATA_NAME)
        self._summary.append(_record(_METADATA_INDEX, index))
        self._write(facts)

    def channel(self, topic: str, name: str, schema_encoding: str, definition: str,
                encoding: str) -> int:  # fmt: skip
        """Announce a topic; returns its number."""
        number = len(self._counts) + 1
        self._counts[number] = 0
        schema = struct.pack("<H", number) + _text(name) + _text(schema_encoding)
        schema += struct.pack("<I", len(definition.encode())) + definition.encode()
        channel = struct.pack("<HH", number, number) + _text(topic) + _text(encoding) + _map({})
        records = _record(_SCHEMA, schema) + _record(_CHANNEL, channel)
        self._summary.append(records)
        self._write(records)
        return number

    def message(self, channel: int, time_ns: int, data: bytes) -> None:
        """Add a message to the chunk that is being filled."""
        self._index.setdefault(channel, []).append((time_ns, len(self._chunk)))
        head = struct.pack("<HIQQ", channel, self._counts[channel] & 0xFFFFFFFF, time_ns, time_ns)
        self._counts[channel] += 1
        self._chunk += _record(_MESSAGE, head + data)
        self._times.append(time_ns)

    @property
    def pending(self) -> int:
        """Bytes in the chunk that is being filled."""
        return len(self._chunk)

    def flush(self) -> None:
        """Hand the chunk to the system: from here on it survives this process."""
        if not self._chunk:
            return
        records = bytes(self._chunk)
        first, last = min(self._times), max(self._times)
        chunk = struct.pack("<QQQI", first, last, len(records), zlib.crc32(records)) + _text("")
        chunk = _record(_CHUNK, chunk + struct.pack("<Q", len(records)) + records)
        start, offsets, indexes = self._position, b"", b""
        for channel, entries in self._index.items():
            offsets += struct.pack("<HQ", channel, start + len(chunk) + len(indexes))
            table = b"".join(struct.pack("<QQ", *entry) for entry in entries)
            body = struct.pack("<HI", channel, len(table)) + table
            indexes += _record(_MESSAGE_INDEX, body)
        self._write(chunk + indexes)
        entry = struct.pack("<QQQQI", first, last, start, len(chunk), len(offsets)) + offsets
        entry += struct.pack("<Q", len(indexes)) + _text("")
        entry += struct.pack("<QQ", len(records), len(records))
        self._remember(_record(_CHUNK_INDEX, entry))
        self._span = [min(self._span[0] or first, first), max(self._span[1], last)]
        self._chunk, self._times, self._index = bytearray(), [], {}

    def _remember(self, entry: bytes) -> None:
        """Index entries are due at the end of the file, and an hour has 300,000 of them."""
        self._chunks.append(entry)
        self._chunk_count += 1
        if len(self._chunks) >= INDEX_ENTRIES:
            if self._spool is None:
                name = getattr(self._stream, "name", None)
                folder = os.path.dirname(os.path.abspath(name)) if isinstance(name, str) else None
                self._spool = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
            self._spool.write(b"".join(self._chunks))
            self._chunks.clear()

    def finish(self) -> None:
        """Write the end: index and statistics."""
        self.flush()
        self._write(_record(_DATA_END, struct.pack("<I", 0)))
        counts = b"".join(struct.pack("<HQ", *item) for item in self._counts.items())
        facts = struct.pack("<QHIIIIQQI", sum(self._counts.values()), len(self._counts),
                            len(self._counts), 0, 1, self._chunk_count, *self._span,
                            len(counts)) + counts  # fmt: skip
        footer = struct.pack("<QQI", self._position, 0, 0)
        self._write(b"".join([*self._summary, _record(_STATISTICS, facts)]))
        if self._spool is not None:
            self._spool.seek(0)
            shutil.copyfileobj(self._spool, self._stream, 1 << 20)
            self._spool.close()
        self._write(b"".join(self._chunks) + _record(_FOOTER, footer) + MAGIC)

    def _write(self, data: bytes) -> None:
        self._stream.write(data)
        self._position += len(data)


def read_mcap(data: bytes) -> Recording:
    """All whole messages of a recording that this module wrote, finished or not.

    Raises:
        InputError: If it is none, or damaged before its end.
    """
    if not data.startswith(MAGIC):
        raise InputError("not an MCAP file")
    topics: Dict[int, Tuple[str, int]] = {}
    schemas: Dict[int, str] = {}
    found = Recording({}, [], {}, False)
    finished = False
    for code, body in _records(memoryview(data)[len(MAGIC) :]):
        if code == _FOOTER:
            finished = True
            break
        try:
            _take(code, body, topics, schemas, found)
        except (struct.error, IndexError, KeyError, UnicodeDecodeError) as error:
            raise InputError(f"damaged MCAP record {code}: {error}") from None
    found.definitions.update({topic: schemas.get(kind, "") for topic, kind in topics.values()})
    return found._replace(finished=finished)


def _take(code: int, body: memoryview, topics: Dict[int, Tuple[str, int]],
          schemas: Dict[int, str], found: Recording) -> None:  # fmt: skip
    """One record; those that only help to seek are passed over."""
    if code == _CHUNK:
        _, _, size, check = struct.unpack_from("<QQQI", body)
        compression, place = _read_text(body, 28)
        records = body[place + 8 :]
        if compression:
            raise InputError(f"a recording of ours is not compressed; this has '{compression}'")
        if len(records) != size or zlib.crc32(records) != check:
            raise InputError("a chunk is damaged: its checksum does not hold")
        for inner, content in _records(records):
            _take(inner, content, topics, schemas, found)
    elif code == _SCHEMA:
        (number,) = struct.unpack_from("<H", body)
        _, place = _read_text(body, 2)
        _, place = _read_text(body, place)
        schemas[number] = bytes(body[place + 4 :]).decode()
    elif code == _CHANNEL:
        number, kind = struct.unpack_from("<HH", body)
        topics[number] = (_read_text(body, 4)[0], kind)
    elif code == _MESSAGE:
        number, _, time_ns, _ = struct.unpack_from("<HIQQ", body)
        found.messages.append(Message(topics[number][0], time_ns, bytes(body[22:])))
    elif code == _METADATA:
        name, place = _read_text(body, 0)
        if name == METADATA_NAME:
            found.metadata.update(_read_map(body, place))


def _records(data: memoryview) -> Iterator[Tuple[int, memoryview]]:
    """Records up to the first that was cut off."""
    place = 0
    while place + 9 <= len(data):
        code, size = struct.unpack_from("<BQ", data, place)
        if place + 9 + size > len(data) or code == 0:
            return
        yield code, data[place + 9 : place + 9 + size]
        place += 9 + size


def _record(code: int, body: bytes) -> bytes:
    return struct.pack("<BQ", code, len(body)) + body


def _text(text: str) -> bytes:
    return struct.pack("<I", len(text.encode())) + text.encode()


def _map(values: Mapping[str, str]) -> bytes:
    pairs = b"".join(_text(key) + _text(value) for key, value in values.items())
    return struct.pack("<I", len(pairs)) + pairs


def _read_text(data: memoryview, place: int) -> Tuple[str, int]:
    (size,) = struct.unpack_from("<I", data, place)
    return bytes(data[place + 4 : place + 4 + size]).decode(), place + 4 + size


def _read_map(data: memoryview, place: int) -> Dict[str, Any]:
    (size,) = struct.unpack_from("<I", data, place)
    place, end, found = place + 4, place + 4 + size, {}
    while place < end:
        key, place = _read_text(data, place)
        found[key], place = _read_text(data, place)
    return found
