"""ROS 2 recordings as tables: MCAP files and rosbag2's SQLite files, one table for each topic.

Messages are decoded by their definition: the recording holds it (MCAP, newer bags), or the column
map gives it (``[messages]``), or it is one of ROS 2's own. A column is a path of fields: of
``motor_state.q`` every message gives one row with one number for each motor.

    topics = read_topics(Path("run.mcap"), "mcap", {}, notes)
    names, column = topics["/joint_states"]
    column("position").shape, column("log_time")      # (T, J), [ns]
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import sqlite3
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from asap.log_cdr import as_table, fixed_layout, gather
from asap.log_columns import NoColumn
from asap_deploy.errors import InputError, suggestion

MAX_BYTES = 1 << 30
"""Of all messages together, unpacked."""

MAX_MESSAGES = 3_000_000
MAX_QUERY_S = 60.0
STAMP = "log_time"
"""The column of every topic that says when the message was recorded [ns]."""

Column = tuple[tuple[str, ...], Callable[[str], np.ndarray]]


class _Topic(NamedTuple):
    """Messages of one topic, still packed."""

    type_name: str
    definition: str
    """Empty if the recording holds none."""
    stamps_ns: list[int]
    packed: list[bytes]


def read_topics(
    path: Path, form: str, definitions: Mapping[str, str], notes: list[str]
) -> dict[str, Column]:
    """Every topic whose messages can be decoded, as names of columns and a function that gives one.

    Args:
        path: The file.
        form: 'mcap' or 'rosbag2'.
        definitions: Message definitions by type, for recordings that hold none.
        notes: Takes what was repaired.

    Raises:
        InputError: If the file is damaged or larger than is read.
    """
    read = {"mcap": _mcap, "rosbag2": _sqlite}[form]
    try:
        topics = read(path, notes)
    except (InputError, KeyboardInterrupt):
        raise
    except Exception as error:  # damage shows as any exception of the libraries
        raise InputError(f"not a readable {form} file: {_brief(error)}", file=path) from None
    if not topics:
        raise InputError("the recording holds no ROS 2 message", file=path)
    return {name: _columns(name, topic, definitions, path) for name, topic in topics.items()}


def _columns(name: str, topic: _Topic, definitions: Mapping[str, str], path: Path) -> Column:
    """Columns of a topic; its messages are decoded when the first is asked for."""
    held: list[list[Any]] = []
    text = _definition(topic, definitions)
    layout = fixed_layout(topic.type_name, text) if text else None
    table = None if layout is None else as_table(topic.packed, layout)

    def column(field: str) -> np.ndarray:
        if field == STAMP:
            return np.array(topic.stamps_ns, dtype=np.int64)
        if layout is not None and table is not None and field in layout.leaves:
            return gather(table, layout.leaves[field])
        if not held:
            held.append(_decoded(name, topic, text, path))
        try:
            rows = [_walk(message, field.split(".")) for message in held[0]]
            array = np.array(rows)
        except AttributeError:
            valid = _fields(held[0][0])
            raise NoColumn(f"topic '{name}' has no field '{field}'{suggestion(field, valid)}",
                             file=path) from None  # fmt: skip
        except (ValueError, TypeError, OverflowError):
            raise InputError(f"topic '{name}': '{field}' has not the same length in every message",
                             file=path) from None  # fmt: skip
        if array.dtype.kind not in "biufU":
            raise InputError(f"topic '{name}': '{field}' is no number; it holds fields "
                             f"{', '.join(_fields(rows[0]))[:120]}", file=path)  # fmt: skip
        return array

    return (STAMP,), column


def _walk(item: Any, fields: list[str]) -> Any:
    """Follow a path of fields, through every element of a list."""
    for place, field in enumerate(fields):
        if isinstance(item, (list, tuple)):
            return [_walk(element, fields[place:]) for element in item]
        item = getattr(item, field)
    if hasattr(item, "sec") and hasattr(item, "nanosec"):
        return item.sec + item.nanosec * 1e-9
    return item


def _fields(message: Any) -> list[str]:
    """Names of a message's fields; none of a plain value."""
    return [str(name) for name in getattr(type(message), "__slots__", ())]


def _definition(topic: _Topic, definitions: Mapping[str, str]) -> str:
    """The text of a topic's messages: the recording's, the map's or ROS 2's own."""
    return topic.definition or definitions.get(topic.type_name, "") or _standard(topic.type_name)


def _decoded(name: str, topic: _Topic, text: str, path: Path) -> list[Any]:
    """The messages of a topic."""
    from mcap.records import Schema
    from mcap_ros2.decoder import DecoderFactory

    if not text:
        raise InputError(
            f"topic '{name}' has messages of type {topic.type_name}, which the recording does not "
            "define: add their definition to [messages] of the column map", file=path)  # fmt: skip
    schema = Schema(id=1, name=topic.type_name, encoding="ros2msg", data=text.encode())
    row = 0
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # the parser prints before it raises
            decode = DecoderFactory().decoder_for("cdr", schema)
        assert decode is not None
        decoded = []
        for row, packed in enumerate(topic.packed):  # noqa: B007
            decoded.append(decode(packed))
        return decoded
    except Exception as error:  # the definition and the bytes are both from a stranger
        raise InputError(f"topic '{name}': message {row} does not fit its definition "
                         f"{topic.type_name}: {_brief(error)}", file=path) from None  # fmt: skip


def _standard(type_name: str) -> str:
    """The definition of one of ROS 2's own messages; empty if it is none or none are known."""
    try:
        from rosbags.typesys import Stores, get_typestore
    except ImportError:
        return ""
    try:
        return str(get_typestore(Stores.LATEST).generate_msgdef(type_name, ros_version=2)[0])
    except Exception:  # of another package
        return ""


def _mcap(path: Path, notes: list[str]) -> dict[str, _Topic]:
    """Topics of an MCAP file, also of one that was not closed."""
    from mcap.records import Channel, Message, Schema

    schemas: dict[int, Any] = {}
    channels: dict[int, Any] = {}
    messages: dict[str, list[tuple[int, bytes]]] = {}
    kinds: dict[str, Any] = {}
    total = count = 0
    for record in _mcap_records(path, notes):
        if isinstance(record, Schema):
            schemas[record.id] = record
        elif isinstance(record, Channel):
            channels[record.id] = record
        elif isinstance(record, Message):
            channel = channels[record.channel_id]
            if channel.message_encoding != "cdr" or channel.schema_id not in schemas:
                continue
            kinds[channel.topic] = schemas[channel.schema_id]
            messages.setdefault(channel.topic, []).append((record.log_time, record.data))
            total, count = total + len(record.data), count + 1
            if total > MAX_BYTES or count > MAX_MESSAGES:
                raise InputError("the recording holds more messages than are read", file=path)
    topics = {}
    for name, rows in messages.items():
        rows.sort(key=lambda row: row[0])
        schema = kinds[name]
        text = schema.data.decode() if schema.encoding == "ros2msg" else ""
        topics[name] = _Topic(schema.name, text, [r[0] for r in rows], [r[1] for r in rows])
    return topics


def _mcap_records(path: Path, notes: list[str]) -> Iterator[Any]:
    """Records in the order of the file, chunks unpacked; stops where a recording was cut off."""
    from mcap.exceptions import EndOfFile
    from mcap.records import Chunk
    from mcap.stream_reader import StreamReader, breakup_chunk

    total = 0
    with path.open("rb") as stream:
        reader = StreamReader(stream, emit_chunks=True, record_size_limit=MAX_BYTES)
        try:
            for record in reader.records:
                if not isinstance(record, Chunk):
                    yield record
                    continue
                total += record.uncompressed_size
                if total > MAX_BYTES:
                    raise InputError("the recording is larger than is read", file=path)
                yield from breakup_chunk(_unpacked(record), validate_crc=True)
        except (EndOfFile, struct.error) as error:
            if stream.read(1):
                raise ValueError(f"damaged at byte {stream.tell() - 1}: {error}") from None
            notes.append("the recording was not closed: what was written before is read")


def _unpacked(chunk: Any) -> Any:
    """A chunk whose data are plain and of the size that it declares."""
    if chunk.compression == "":
        return chunk
    size = chunk.uncompressed_size
    if chunk.compression == "zstd":
        import zstandard

        if zstandard.frame_content_size(chunk.data) > size:
            raise ValueError("a chunk is larger than it says")
        data = zstandard.ZstdDecompressor().decompress(chunk.data, max_output_size=size)
    elif chunk.compression == "lz4":
        import lz4.frame

        data = lz4.frame.LZ4FrameDecompressor().decompress(chunk.data, max_length=size)
    else:
        raise ValueError(f"unknown compression '{chunk.compression[:20]}'")
    return dataclasses.replace(chunk, compression="", data=data)


def _sqlite(path: Path, notes: list[str]) -> dict[str, _Topic]:
    """Topics of a rosbag2 file; opened so that nothing is written, not even beside it."""
    uri = f"{path.resolve().as_uri()}?mode=ro&immutable=1"
    connection = sqlite3.connect(uri, uri=True)
    try:
        end = time.monotonic() + MAX_QUERY_S
        connection.set_progress_handler(lambda: int(time.monotonic() > end), 100_000)
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA cell_size_check = ON")
        plain = _plain_tables(connection)
        if not {"topics", "messages"} <= plain:
            raise InputError("the SQLite file is no rosbag2 recording", file=path)
        return _bag_topics(connection, "message_definitions" in plain, path)
    finally:
        connection.close()


def _plain_tables(connection: sqlite3.Connection) -> set[str]:
    """Tables that are neither views nor run by an extension."""
    rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'")
    return {str(name) for name, sql in rows if not str(sql).upper().startswith("CREATE VIRTUAL")}


def _bag_topics(connection: sqlite3.Connection, defines: bool, path: Path) -> dict[str, _Topic]:
    """Messages by topic, in the order of their stamps."""
    size, count = connection.execute("SELECT sum(length(data)), count(*) FROM messages").fetchone()
    if (size or 0) > MAX_BYTES or count > MAX_MESSAGES:
        raise InputError(f"the recording holds {count} messages, more than are read", file=path)
    texts: dict[str, str] = {}
    if defines:
        query = "SELECT topic_type, encoding, encoded_message_definition FROM message_definitions"
        texts = {str(t): str(text) for t, encoding, text in connection.execute(query)
                 if encoding == "ros2msg"}  # fmt: skip
    topics: dict[str, _Topic] = {}
    query = "SELECT id, name, type, serialization_format FROM topics"
    for key, name, kind, encoding in connection.execute(query).fetchall():
        rows = connection.execute(
            "SELECT timestamp, data FROM messages WHERE topic_id = ? ORDER BY timestamp", (key,)
        ).fetchall()
        if encoding == "cdr" and rows:
            stamps, packed = [int(row[0]) for row in rows], [bytes(row[1]) for row in rows]
            topics[str(name)] = _Topic(str(kind), texts.get(str(kind), ""), stamps, packed)
    return topics


def _brief(error: BaseException) -> str:
    """The first line of an error."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
