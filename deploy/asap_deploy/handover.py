"""What policy process, supervisor and recorder hand to each other, and the memory that it lies in.

The policy posts requests; the supervisor answers with states and its status. Two rings hold what
is recorded, the last ten seconds at least, so that a fault can be dumped even if no disk works.

    handover = Handover.create(29)
    handover.post(Post.move(target, stiffness, damping, now_s=now, control_dt=0.02))
    state = handover.state()
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import numpy as np

from asap_deploy.frames import Frames
from asap_deploy.link import RobotState
from asap_deploy.shared import Mailbox, Ring, Shared

PASSIVE, DAMP, MOVE, END, FAULT = range(5)
"""Requests: write nothing; brake; follow the target; stop writing and leave; something is wrong."""

STATE, COMMAND, ACTION, EVENT = 1, 2, 3, 4
"""Kinds of records in the rings."""

WRITE_DT = 0.002
"""Between two commands of the supervisor [s]."""

LATE_TICKS = 3
RING_S = 10.0
"""The rings hold this long at least [s]."""

_ROBOT_HZ, _POLICY_HZ = 2.2 / WRITE_DT, 100.0
"""Records a second, generously."""

_EVENT_BYTES, _STATUS_BYTES = 1000, 1400

_OWN_PROGRAM = """import sys
sys.path[:] = [place for place in sys.path if place]
import json
sys.path[:] = json.loads(sys.argv[2])
import importlib
sys.exit(importlib.import_module(sys.argv[1]).main(sys.argv[3:]))
"""


class Post(NamedTuple):
    """What the policy process asks for, once a control tick."""

    request: int
    posted_s: float
    deadline_s: float
    """After this the supervisor damps [s, ``time.monotonic``]"""
    target: np.ndarray
    """(J,) [rad]"""
    stiffness: np.ndarray
    """(J,) [Nm/rad]"""
    damping: np.ndarray
    """(J,) [Nms/rad]"""
    text: bytes = b""
    """Of a fault."""

    @classmethod
    def of(cls, request: int, joints: int, now_s: float, control_dt: float,
           text: str = "") -> Post:  # fmt: skip
        """A request without a target."""
        none = np.zeros(joints)
        return cls(request, now_s, deadline(now_s, control_dt), none, none, none,
                   text.encode()[:120])  # fmt: skip

    @classmethod
    def move(cls, target: np.ndarray, stiffness: np.ndarray, damping: np.ndarray, *,
             now_s: float, control_dt: float) -> Post:  # fmt: skip
        """A target."""
        return cls(MOVE, now_s, deadline(now_s, control_dt), target, stiffness, damping)


def deadline(now_s: float, control_dt: float) -> float:
    """When a target posted now is too old: three ticks later, two writes before they are over."""
    return now_s + LATE_TICKS * control_dt - 2.0 * WRITE_DT


class Handover:
    """The shared memory of one run with a robot of J joints."""

    def __init__(self, memory: Shared, joints: int) -> None:
        """Lay mailboxes and rings into the memory."""
        self.memory, self.joints, self.frames = memory, joints, Frames(joints)
        self._post_type = _post_dtype(joints)
        self._post_read: Optional[Tuple[int, Post]] = None
        self._start = 0
        self._posts = self._mailbox(self._post_type.itemsize)
        self._states = self._mailbox(self.frames.state.itemsize)
        self._status = self._mailbox(_STATUS_BYTES)
        self.robot_ring = self._ring(_slots(_ROBOT_HZ), _wide(self.frames))
        """Written by the supervisor: states, commands, events"""
        self.policy_ring = self._ring(_slots(_POLICY_HZ), _policy_record(joints))
        """Written by the policy process: actions, events"""

    @classmethod
    def create(cls, joints: int) -> Handover:
        """New memory for a run."""
        frames = Frames(joints)
        boxes = (_post_dtype(joints).itemsize, frames.state.itemsize, _STATUS_BYTES)
        size = sum(Mailbox.size(payload) for payload in boxes)
        size += Ring.size(_slots(_ROBOT_HZ), _wide(frames))
        size += Ring.size(_slots(_POLICY_HZ), _policy_record(joints))
        return cls(Shared.create(size), joints)

    @classmethod
    def attach(cls, fd: int, size: int, joints: int) -> Handover:
        """The memory that another process made."""
        return cls(Shared(fd, size), joints)

    def _mailbox(self, payload: int) -> Mailbox:
        size = Mailbox.size(payload)
        self._start += size
        return Mailbox(self.memory.view(self._start - size, size), payload)

    def _ring(self, slots: int, payload: int) -> Ring:
        size = Ring.size(slots, payload)
        self._start += size
        return Ring(self.memory.view(self._start - size, size), slots, payload)

    def post(self, post: Post) -> int:
        """For the policy: ask for something; returns the request's number."""
        row = np.zeros((), self._post_type)
        for name, value in post._asdict().items():
            row[name] = value
        return self._posts.post(row.tobytes())

    def newest_post(self) -> Optional[Any]:
        """For the supervisor: number and newest whole request."""
        if self._post_read is not None and self._post_read[0] == self._posts.newest:
            return self._post_read
        found = self._posts.latest()
        if found is not None and (self._post_read is None or self._post_read[0] != found[0]):
            row = np.frombuffer(found[1], self._post_type, count=1)[0]
            self._post_read = found[0], Post(*(row[name] for name in Post._fields))
        return self._post_read

    def post_state(self, packed: bytes) -> None:
        """For the supervisor: the newest state that is believed."""
        self._states.post(packed)

    def state(self) -> Optional[RobotState]:
        """For the policy: the newest state that is believed."""
        found = self._states.latest()
        return None if found is None else self.frames.unpack_state(found[1])

    def post_status(self, status: Dict[str, Any]) -> None:
        """For the supervisor: how things are."""
        self._status.post(json.dumps(status).encode()[:_STATUS_BYTES])

    def status(self) -> Dict[str, Any]:
        """For the policy: how things are; empty before the first."""
        found = self._status.latest()
        try:
            return {} if found is None else dict(json.loads(found[1].decode()))
        except ValueError:
            return {}


def own_program(module: str, *arguments: str) -> List[str]:
    """The command that runs a module's ``main`` in a new process, with what this one imports.

    ``python -m`` looks into the working directory first: a file ``select.py`` there, or an
    ``asap_deploy`` of another version, would run in place of ours, beside a robot.
    """
    path = [os.path.abspath(place) for place in sys.path]
    return [sys.executable, "-c", _OWN_PROGRAM, module, json.dumps(path), *arguments]


def event_bytes(name: str, time_s: float, **facts: Any) -> bytes:
    """An event for a ring."""
    text = json.dumps({"event": name, "time_s": time_s, **facts}, default=str)
    if len(text) > _EVENT_BYTES:
        text = json.dumps({"event": name, "time_s": time_s, "cut": text[: _EVENT_BYTES // 2]})
    return text.encode()


def _slots(per_second: float) -> int:
    return int(per_second * RING_S) + 64


def _wide(frames: Frames) -> int:
    return max(frames.state.itemsize, frames.command.itemsize, _EVENT_BYTES)


def _policy_record(joints: int) -> int:
    return max(_EVENT_BYTES, 200 + 4 * joints)


def _post_dtype(joints: int) -> np.dtype:
    return np.dtype([
        ("posted_s", "<f8"), ("deadline_s", "<f8"), ("target", "<f8", (joints,)),
        ("stiffness", "<f8", (joints,)), ("damping", "<f8", (joints,)), ("request", "<u4"),
        ("text", "S120"),
    ])  # fmt: skip
