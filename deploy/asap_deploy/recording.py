"""What a run leaves behind: every state and every command that was written, and why.

Topics: ``/state`` and ``/command`` at 500 Hz, ``/action`` at the policy's rate, ``/event``. The
first three are CDR with their definition inside, so that tools of ROS 2 open the file as well.

    table = open_recording("run.mcap")               # also run.mcap.part, after a crash
    table.states["joint_pos"], table.commands["written_s"], table.facts["joint_names"]
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any, BinaryIO, Dict, List, Mapping, NamedTuple

import numpy as np

from asap_deploy.errors import InputError
from asap_deploy.frames import CDR_HEADER, Frames, action_dtype, ros_definition
from asap_deploy.handover import ACTION, COMMAND, EVENT, STATE
from asap_deploy.mcap_file import MAX_BYTES, METADATA_NAME, McapWriter, Recording, read_mcap
from asap_deploy.npz import PathLike

PART = ".part"
VERSION = 1
_TOPICS = {STATE: "/state", COMMAND: "/command", ACTION: "/action", EVENT: "/event"}


class RecordingFile:
    """A recording that grows; an ``OSError`` of the disk is the caller's to handle."""

    def __init__(self, stream: BinaryIO, facts: Mapping[str, Any]) -> None:
        """Begin.

        Args:
            stream: Unbuffered.
            facts: About the run: ``joint_names``, ``actions`` and whatever else JSON can hold.
        """
        self._joints, actions = len(facts["joint_names"]), int(facts["actions"])
        frames = Frames(self._joints)
        # Times in the file are those of the calendar; ours are those of a clock that never jumps.
        self._offset_ns = time.time_ns() - time.monotonic_ns()
        values = {"recording_version": str(VERSION), "clock_offset_ns": str(self._offset_ns)}
        values.update({key: json.dumps(value, default=str) for key, value in facts.items()})
        self.writer = McapWriter(stream, values)
        self._channels = {}
        types = {STATE: frames.state, COMMAND: frames.command, ACTION: action_dtype(actions)}
        for kind, dtype in types.items():
            name = _TOPICS[kind][1:].capitalize()
            self._channels[kind] = self.writer.channel(
                _TOPICS[kind], f"asap_deploy/msg/{name}", "ros2msg", ros_definition(dtype), "cdr"
            )
        self._channels[EVENT] = self.writer.channel(
            _TOPICS[EVENT], "Event", "jsonschema", '{"type": "object"}', "json"
        )

    def add(self, kind: int, data: bytes) -> None:
        """One record of a ring."""
        if kind == EVENT:
            time_ns = time.monotonic_ns()
        else:
            time_ns = int(1e9 * float(np.frombuffer(data, "<f8", count=1)[0]))
            data = CDR_HEADER + data
        self.writer.message(self._channels[kind], max(0, time_ns + self._offset_ns), data)


class Tables(NamedTuple):
    """A recording as arrays; each is a structured one with the fields of ``frames``."""

    facts: Dict[str, Any]
    states: np.ndarray
    commands: np.ndarray
    actions: np.ndarray
    events: List[Dict[str, Any]]
    finished: bool


def open_recording(path: PathLike) -> Tables:
    """Read a recording, finished or not.

    Raises:
        InputError: If it is none of ours, or damaged before its end.
    """
    try:
        return tables_of(read_mcap(_read(path)))
    except InputError as error:
        raise InputError(str(error), file=path) from None


def is_recording(path: PathLike) -> bool:
    """Whether a file is a recording of ours, by what is in it."""
    try:
        with open(path, "rb") as stream:
            return METADATA_NAME.encode() in stream.read(200)
    except OSError:
        return False


def tables_of(found: Recording) -> Tables:
    """Arrays of what was read."""
    if str(found.metadata.get("recording_version", "")) != str(VERSION):
        raise InputError(
            f"not a recording of ours: version '{found.metadata.get('recording_version')}', "
            f"expected '{VERSION}'"
        )
    try:
        facts = {k: json.loads(v) for k, v in found.metadata.items()}
        joints, actions = len(facts["joint_names"]), int(facts["actions"])
        frames = Frames(joints)
        rows = {
            topic: b"".join(m.data[len(CDR_HEADER) :] for m in found.messages if m.topic == topic)
            for topic in ("/state", "/command", "/action")
        }
        return Tables(
            facts=facts,
            states=np.frombuffer(rows["/state"], frames.state),
            commands=np.frombuffer(rows["/command"], frames.command),
            actions=np.frombuffer(rows["/action"], action_dtype(actions)),
            events=[json.loads(m.data.decode()) for m in found.messages if m.topic == "/event"],
            finished=found.finished,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"the recording is damaged: {error}") from None


def recover(path: PathLike) -> Path:
    """Make a finished recording of one that was cut off; the ``.part`` stays.

    Returns:
        The new file.

    Raises:
        InputError: If there is nothing to recover, or a finished file is there already.
    """
    part = Path(path)
    found = read_mcap(_read(part))
    if found.finished:
        raise InputError("the recording is finished: there is nothing to recover", file=part)
    target = part.with_name(part.name[: -len(PART)] if part.name.endswith(PART)
                            else f"{part.stem}.recovered{part.suffix}")  # fmt: skip
    if target.exists():
        raise InputError(f"'{target.name}' is there already; move it away first", file=part)
    facts = {k: json.loads(v) for k, v in found.metadata.items()
             if k not in ("recording_version", "clock_offset_ns")}  # fmt: skip
    temporary = target.with_name(target.name + ".tmp")
    with open(temporary, "wb", buffering=0) as stream:
        file = RecordingFile(stream, facts)
        file._offset_ns = int(found.metadata["clock_offset_ns"])
        kinds = {topic: kind for kind, topic in _TOPICS.items()}
        for message in found.messages:
            kind = kinds[message.topic]
            file.add(kind, message.data if kind == EVENT else message.data[len(CDR_HEADER) :])
            if file.writer.pending > 1 << 16:
                file.writer.flush()
        file.writer.finish()
        os.fsync(stream.fileno())
    os.replace(temporary, target)
    return target


def _read(path: PathLike) -> bytes:
    try:
        if os.path.getsize(path) > MAX_BYTES:
            raise InputError("the recording is larger than is read", file=path)
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=path) from None
