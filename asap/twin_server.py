"""Plays a robot over the network protocol of ``asap-deploy run --link twin``.

In real time: a state every 2 ms, and whatever command arrived last acts. Faults are injected from
the start or on a request of a test.

    server = TwinServer(StrictRobot(Robot.load("g1"), StrictConfig()), "127.0.0.1:47400")
    server.run(until=lambda: False)
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from asap.twin_faults import Faults, Sent
from asap.twin_robot import STATE_DT, StrictRobot
from asap_deploy.errors import InputError
from asap_deploy.frames import Frames
from asap_deploy.npz import save_npz
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

_SUBSCRIBED_S = 1.5
_HEARD_S = 1.0
_INFO_EVERY_S = 0.2
CATCH_UP_S = 0.05
"""A machine that lags by more loses the time: the robot's clock then falls behind."""
_FOREIGN = 0xF0F0F0F0


class TwinServer:
    """A strict robot behind a socket."""

    def __init__(
        self, robot: StrictRobot, address: str, faults: Sequence[str] = (), *, seed: int = 0
    ) -> None:
        """Open the socket.

        Raises:
            InputError: If the address is taken.
        """
        self.robot = robot
        self.frames = Frames(len(robot.robot.joint_names))
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        try:
            self._socket.bind(host_port(address))
        except OSError as error:
            self._socket.close()
            raise InputError(f"cannot listen at {address}: {error}; another twin?") from None
        self.address = "{}:{}".format(*self._socket.getsockname())
        self._start_s = time.monotonic()
        self.faults = Faults(faults, np.random.default_rng(seed), self._start_s)
        self._rng = np.random.default_rng(seed)
        self._source = int(np.random.default_rng().integers(1, 1 << 31))
        self._subscribers: dict[tuple[str, int], float] = {}
        self._commanders: dict[int, float] = {}
        self._sequence, self._told_s = 0, -np.inf
        self.late = 0

    def run(self, until: Callable[[], bool]) -> None:
        """Serve until told.

        Args:
            until: Asked between two states.
        """
        due_s = time.monotonic()
        while not until():
            now_s = time.monotonic()
            slow = self.faults.size("slow", now_s)
            due_s += STATE_DT / (slow or 1.0)
            if now_s - due_s > CATCH_UP_S:
                self.late += 1
                due_s = now_s
            while (left := due_s - time.monotonic()) > 0.0:
                select.select([self._socket], [], [], left)
                self._receive()
            self._receive()
            self._send_state(time.monotonic())

    def close(self) -> None:
        """Let the socket go."""
        self._socket.close()

    def save_truth(self, path: Path) -> None:
        """Where the robot truly was at every tick, for tests."""
        save_truth(path, self.robot.truth)

    def _receive(self) -> None:
        while True:
            try:
                data, sender = self._socket.recvfrom(MAX_BYTES)
            except ConnectionRefusedError:  # a subscriber has gone
                continue
            except (BlockingIOError, InterruptedError):
                return
            datagram = unpack(data)
            if datagram is not None:
                self._take(datagram, sender, time.monotonic())

    def _take(self, datagram: Datagram, sender: tuple[str, int], now_s: float) -> None:
        if datagram.kind == SUBSCRIBE and datagram.sound:
            if sender not in self._subscribers:
                self._send(INFO, json.dumps(self._info(now_s)).encode(), sender)
            self._subscribers[sender] = now_s
        elif datagram.kind == COMMAND:
            self._commanders[datagram.source] = now_s
            try:
                command = self.frames.unpack_command(datagram.payload)
            except ValueError:
                self.robot.counts["size"] += 1
                return
            self.robot.command(command, sound=datagram.sound, now_s=now_s)

    def _send_state(self, now_s: float) -> None:
        state = self.robot.advance(now_s)
        self._subscribers = {who: heard for who, heard in self._subscribers.items()
                             if now_s - heard < _SUBSCRIBED_S}  # fmt: skip
        for sent in self.faults.states(now_s, state):
            data = self._packed(sent)
            for subscriber in self._subscribers:
                self._post(data, subscriber)
        if now_s - self._told_s > _INFO_EVERY_S:
            self._told_s = now_s
            for subscriber in self._subscribers:
                self._send(INFO, json.dumps(self._info(now_s)).encode(), subscriber)

    def _packed(self, sent: Sent) -> bytes:
        self._sequence += 1
        source = _FOREIGN if sent.foreign else self._source
        payload = self.frames.pack_state(sent.state)
        data = pack(STATE, source, self._sequence, self.frames.joints, payload)
        if not sent.flip:
            return data
        place = int(self._rng.integers(32, len(data) - 4))
        bit = 1 << int(self._rng.integers(8))
        return data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :]

    def _info(self, now_s: float) -> dict[str, Any]:
        heard = [who for who, at in self._commanders.items() if now_s - at < _HEARD_S]
        if self.faults.size("second_commander", now_s) is not None:
            heard.append(_FOREIGN)
        robot = self.robot.robot
        return {
            "robot": robot.name.partition("@")[0],
            "joint_names": list(robot.joint_names),
            "state_rate_hz": 1.0 / STATE_DT,
            "commanders": heard,
        }

    def _send(self, kind: int, payload: bytes, to: tuple[str, int]) -> None:
        self._sequence += 1
        self._post(pack(kind, self._source, self._sequence, 0, payload), to)

    def _post(self, data: bytes, to: tuple[str, int]) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
            self._socket.sendto(data, to)


def save_truth(path: Path, truth: Sequence[np.ndarray]) -> None:
    """Write what a strict robot remembered."""
    rows = np.array(truth)
    save_npz(path, {"tick": rows[:, 0].astype(np.int64), "qpos": rows[:, 1:]})
