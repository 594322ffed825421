"""Plays a robot over its real protocol, DDS, for ``asap-deploy run --link unitree --address lo``.

The same strict robot and the same faults as over datagrams; beside states it publishes its battery
and answers the service that switches its own controller off. On loopback only.

    twin = DdsTwin(StrictRobot(Robot.load("g1"), StrictConfig()), "lo")
    twin.run(until=lambda: False)
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from asap.twin_faults import Faults, Sent
from asap.twin_robot import STATE_DT, StrictRobot
from asap.twin_server import CATCH_UP_S, save_truth
from asap_deploy.errors import InputError
from asap_deploy.link import LinkSpec
from asap_deploy.link_unitree import CHECK_MODE, RELEASE_MODE, SWITCHER, interface_and_domain
from asap_deploy.unitree_codec import (
    G1_JOINTS,
    LOW_CMD,
    decode,
    encode,
    low_state_of,
    robot_command_of,
)
from asap_deploy.unitree_dds import LOOPBACK, Node, Writer

_BATTERY_EVERY_S = 0.5
_OK, _UNKNOWN = 0, 3203


class DdsTwin:
    """A strict robot behind DDS."""

    def __init__(self, robot: StrictRobot, address: str, faults: Sequence[str] = (), *,
                 seed: int = 0, controller: str = "ai") -> None:  # fmt: skip
        """Join the network.

        Args:
            robot: A G1 with 29 joints, or a twin of it.
            address: ``lo``, or ``lo:7`` for another DDS domain than 1.
            faults: As text.
            seed: Of what happens by chance.
            controller: The robot's own, which drops commands until it was released; "": none.

        Raises:
            InputError: If the robot is no G1 or the address is not on loopback.
        """
        if robot.robot.joint_names != G1_JOINTS:
            raise InputError(f"only a g1 with 29 joints speaks DDS; got '{robot.robot.name}'")
        self._interface, self._domain = interface_and_domain(LinkSpec("unitree", address))
        if self._interface != LOOPBACK:
            raise InputError(f"a simulated robot stays on '{LOOPBACK}'; got '{address}'")
        self.robot, self.address, self.controller = robot, address, controller
        self._node = self._join()
        self._commands = self._node.reader("rt/lowcmd")
        self._states = self._node.writer("rt/lowstate")
        self._batteries = self._node.writer("rt/lf/bmsstate")
        self._requests = self._node.rpc(SWITCHER, "request", writes=False)
        self._answers = self._node.rpc(SWITCHER, "response", writes=True)
        self._foreign: dict[str, tuple[Node, Writer]] = {}
        self._rng = np.random.default_rng(seed)
        self.faults = Faults(faults, np.random.default_rng(seed), time.monotonic())
        self._battery_s = -np.inf
        self.late = 0

    def _join(self) -> Node:
        return Node(self._interface, domain=self._domain, real=False)

    def run(self, until: Callable[[], bool]) -> None:
        """Serve until told.

        Args:
            until: Asked between two states.
        """
        due_s = time.monotonic()
        while not until():
            now_s = time.monotonic()
            due_s += STATE_DT / (self.faults.size("slow", now_s) or 1.0)
            if now_s - due_s > CATCH_UP_S:
                self.late += 1
                due_s = now_s
            while (left := due_s - time.monotonic()) > 0.0:
                self._commands.wait(left)
                self._take_commands()
            self._take_commands()
            self._answer()
            self._send(time.monotonic())

    def close(self) -> None:
        """Leave the network."""
        for node, _ in self._foreign.values():
            node.close()
        self._node.close()

    def save_truth(self, path: Path) -> None:
        """Where the robot truly was at every tick, for tests."""
        save_truth(path, self.robot.truth)

    def _take_commands(self) -> None:
        for data in self._commands.take():
            now_s = time.monotonic()
            try:
                row, sound = decode(data, LOW_CMD)
            except ValueError:
                self.robot.counts["size"] += 1
                continue
            if self.controller:
                self.robot.counts["own controller"] += 1
                continue
            command = robot_command_of(row, len(G1_JOINTS))
            self.robot.command(command, sound=sound, now_s=now_s)

    def _answer(self) -> None:
        """The service that knows which controller is active."""
        for request in self._requests.take(N=16):
            header = getattr(request, "header", None)
            if header is None:
                continue  # somebody has gone
            what, data, code = int(header.identity.api_id), "", _OK
            if what == CHECK_MODE:
                data = json.dumps({"form": "0", "name": self.controller})
            elif what == RELEASE_MODE:
                self.robot.counts["released" if self.controller else "released in vain"] += 1
                self.controller = ""
            else:
                code = _UNKNOWN
            self._answers.write(self._response(header.identity, code, data))

    def _response(self, identity: Any, code: int, data: str) -> Any:
        kinds = self._node.message_types
        status = kinds["ResponseStatus_"](code=code)
        header = kinds["ResponseHeader_"](identity=identity, status=status)
        return kinds["response"](header=header, data=data, binary=[])

    def _send(self, now_s: float) -> None:
        state = self.robot.advance(now_s)
        self._others(now_s)
        for sent in self.faults.states(now_s, state):
            data = self._packed(sent)
            if not sent.foreign:
                self._states.write(data)
            elif "second_publisher" in self._foreign:
                self._foreign["second_publisher"][1].write(data)
        if now_s - self._battery_s > _BATTERY_EVERY_S:
            self._battery_s = now_s
            low = self.faults.size("low_battery", now_s)
            percent = self.robot.config.battery_percent if low is None else low
            self._batteries.write(_battery(percent))

    def _others(self, now_s: float) -> None:
        """Other programs that publish, present while their fault is."""
        for fault, topic in (("second_publisher", "rt/lowstate"),
                             ("second_commander", "rt/lowcmd")):  # fmt: skip
            wanted = self.faults.size(fault, now_s) is not None
            if wanted and fault not in self._foreign:
                node = self._join()
                self._foreign[fault] = (node, node.writer(topic))
            elif not wanted and fault in self._foreign:
                self._foreign.pop(fault)[0].close()

    def _packed(self, sent: Sent) -> bytes:
        data = encode(low_state_of(sent.state))
        if not sent.flip:
            return data
        # Bytes 14 and 15 are padding, as are three after each motor's mode: not there.
        place = 16 + int(self._rng.integers(52))
        bit = 1 << int(self._rng.integers(8))
        return data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :]


def _battery(percent: float) -> bytes:
    """A message about the battery; all but the charge is zero."""
    data = bytearray(168)
    data[1], data[104] = 1, int(percent)
    return bytes(data)
