"""The link to a simulated robot, ``asap twin``: datagrams on this machine, no DDS needed.

It behaves as a link to a real robot does, so that the whole loop can be run and broken on a desk.

    link = TwinLink(LinkSpec("twin", "127.0.0.1:47400"))
    link.wait(0.01) and link.read_new()
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import time
from typing import Any, Dict, List, Optional

from asap_deploy.errors import InputError
from asap_deploy.frames import Frames
from asap_deploy.link import LinkSpec, LinkStats, RobotCommand, RobotFacts, RobotState
from asap_deploy.twin_wire import (
    COMMAND,
    INFO,
    MAX_BYTES,
    STATE,
    SUBSCRIBE,
    Datagram,
    host_port,
    pack,
    unpack,
)

ANSWER_S = 3.0
_SUBSCRIBE_EVERY_S = 0.25
_SEEN_S = 1.0
"""Who published within this time counts as a publisher [s]."""


class TwinLink:
    """A connection to ``asap twin``."""

    def __init__(self, spec: LinkSpec) -> None:
        """Subscribe and wait for what the robot says about itself.

        Raises:
            InputError: If nothing answers at the address.
        """
        if spec.real:
            raise InputError("a twin is not a real robot: leave --real out")
        self._address = host_port(spec.address)
        self._read_only = spec.read_only
        self._source = int.from_bytes(os.urandom(4), "little") | 1
        self._sequence = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._subscribed_s = 0.0
        self._publishers: Dict[int, float] = {}
        self._info: Dict[str, Any] = {}
        self._latest: Optional[RobotState] = None
        try:
            self._facts = self._ask()
        except BaseException:
            self._socket.close()
            raise
        self._frames = Frames(len(self._facts.joint_names))

    @property
    def facts(self) -> RobotFacts:
        """What the simulated robot said."""
        return self._facts

    def wait(self, timeout_s: float) -> bool:
        """Sleep until something is there."""
        self._subscribe(time.monotonic())
        return bool(select.select([self._socket], [], [], max(0.0, timeout_s))[0])

    def read_new(self) -> List[RobotState]:
        """States in the order of arrival; damaged ones among them, marked."""
        states = []
        now = time.monotonic()
        for datagram in self._receive():
            if datagram.kind == STATE:
                state = self._state(datagram, now)
                if state is not None:
                    states.append(state)
            elif datagram.kind == INFO and datagram.sound:
                with contextlib.suppress(ValueError):
                    self._info = dict(json.loads(datagram.payload.decode()))
        return states

    def read_latest(self) -> Optional[RobotState]:
        """The newest sound state."""
        self.read_new()
        return self._latest

    def write(self, command: RobotCommand) -> bool:
        """Send a command; nothing holds a simulated robot back."""
        if self._read_only:
            raise InputError("this link was opened to read only")
        self._send(COMMAND, self._frames.pack_command(command))
        return True

    def stats(self, now_s: float) -> LinkStats:
        """Publishers of states by what arrives, of commands by what the robot says it hears."""
        heard = [t for t in self._publishers.values() if now_s - t < _SEEN_S]
        others = [who for who in self._info.get("commanders", []) if who != self._source]
        return LinkStats(len(heard), len(others))

    def close(self) -> None:
        """Let go; the simulated robot damps itself when commands stop."""
        self._socket.close()

    def _ask(self) -> RobotFacts:
        end = time.monotonic() + ANSWER_S
        while time.monotonic() < end:
            self._subscribe(time.monotonic())
            select.select([self._socket], [], [], 0.05)
            for datagram in self._receive():
                if datagram.kind == INFO and datagram.sound:
                    self._info = dict(json.loads(datagram.payload.decode()))
                    return RobotFacts(
                        robot=str(self._info["robot"]),
                        joint_names=tuple(self._info["joint_names"]),
                        state_rate_hz=float(self._info["state_rate_hz"]),
                        is_real=False,
                    )
        host, port = self._address
        raise InputError(
            f"no simulated robot answers at {host}:{port}; start `asap twin` there first"
        )

    def _state(self, datagram: Datagram, now_s: float) -> Optional[RobotState]:
        try:
            state = self._frames.unpack_state(datagram.payload)
        except ValueError:
            return None  # too short to be looked at
        state = state._replace(arrival_s=now_s, checksum_ok=datagram.sound)
        if datagram.sound:
            self._publishers[datagram.source] = now_s
            if self._latest is None or state.tick > self._latest.tick:
                self._latest = state
        return state

    def _subscribe(self, now_s: float) -> None:
        if now_s - self._subscribed_s > _SUBSCRIBE_EVERY_S:
            self._subscribed_s = now_s
            self._send(SUBSCRIBE, b"")

    def _send(self, kind: int, payload: bytes) -> None:
        self._sequence += 1
        joints = len(self._facts.joint_names) if kind == COMMAND else 0
        data = pack(kind, self._source, self._sequence, joints, payload)
        with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
            self._socket.sendto(data, self._address)

    def _receive(self) -> List[Datagram]:
        found: List[Datagram] = []
        while True:
            try:
                data = self._socket.recv(MAX_BYTES)
            except ConnectionRefusedError:  # the twin has gone; the next ones may arrive
                continue
            except (BlockingIOError, InterruptedError):
                return found
            datagram = unpack(data)
            if datagram is not None:
                found.append(datagram)
