"""The link to a Unitree G1, or to a simulated one that speaks its protocol: ``unitree_hg`` on DDS.

    link = UnitreeLink(LinkSpec("unitree", "eth0", real=True))       # DDS domain 0: the robot
    link = UnitreeLink(LinkSpec("unitree", "lo"))                    # domain 1: `asap twin`
    link.wait(0.01) and link.read_new()

A robot's own controller must let go of the motors before anybody else commands them. It is asked to
at the first command, never before: that is when the operator has armed. Nothing is published until
it has confirmed.

Not verified, because it takes a robot: that its remote's forty bytes are all zero when the remote
is gone, and that no program of its own stays a publisher of commands after the release.
"""

from __future__ import annotations

import contextlib
import json
import time
from typing import Any, List, Optional, Tuple

from asap_deploy.errors import InputError
from asap_deploy.link import LinkSpec, LinkStats, RobotCommand, RobotFacts, RobotState
from asap_deploy.unitree_codec import (
    G1_JOINTS,
    LOW_STATE,
    decode,
    encode,
    low_cmd_of,
    robot_state_of,
)
from asap_deploy.unitree_dds import ROBOT_DOMAIN, SIMULATION_DOMAIN, Node

ANSWER_S = 5.0
"""A robot that is not seen after this is not there [s]."""

CHECK_MODE, RELEASE_MODE = 1001, 1003
SWITCHER = "motion_switcher"
_BATTERY_AT = 104
"""Of the charge in percent, in a message on rt/lf/bmsstate with its header."""


class UnitreeLink:
    """A connection to one G1 with 29 joints."""

    def __init__(self, spec: LinkSpec) -> None:
        """Join its network and wait until somebody publishes states.

        Raises:
            InputError: If the network, the binding or the robot is not there.
        """
        interface, domain = interface_and_domain(spec)
        self._node = Node(interface, domain=domain, real=spec.real)
        self._facts = RobotFacts(robot="g1", joint_names=G1_JOINTS, is_real=spec.real)
        self._latest: Optional[RobotState] = None
        self._battery = float("nan")
        try:
            self._states = self._node.reader("rt/lowstate")
            self._batteries = self._node.reader("rt/lf/bmsstate")
            self._others = self._node.reader("rt/lowcmd", own=False)
            self._commands = None if spec.read_only else self._node.writer("rt/lowcmd")
            self._release = None if spec.read_only else Release(self._node, required=spec.real)
            self._wait_for_robot(interface, domain)
        except BaseException:
            self._node.close()
            raise

    @property
    def facts(self) -> RobotFacts:
        """What is known before the first state."""
        return self._facts

    def wait(self, timeout_s: float) -> bool:
        """Sleep until a state is there."""
        return self._states.wait(timeout_s)

    def read_new(self) -> List[RobotState]:
        """States in the order of arrival; damaged ones among them, marked."""
        for data in self._batteries.take():
            if len(data) > _BATTERY_AT:
                self._battery = float(data[_BATTERY_AT])
        states, now = [], time.monotonic()
        for data in self._states.take():
            try:
                row, sound = decode(data, LOW_STATE)
            except ValueError:
                continue  # no message of a G1
            state = robot_state_of(row, joints=len(G1_JOINTS), arrival_s=now, sound=sound,
                                   battery_percent=self._battery)  # fmt: skip
            states.append(state)
            if sound and (self._latest is None or state.tick > self._latest.tick):
                self._latest = state
        return states

    def read_latest(self) -> Optional[RobotState]:
        """The newest sound state."""
        self.read_new()
        return self._latest

    def write(self, command: RobotCommand) -> bool:
        """Send a command; until the robot's own controller has let go, ask it to instead.

        Returns:
            Whether it went out.

        Raises:
            OSError: If it does not let go: then nothing is ever sent.
        """
        if self._commands is None or self._release is None:
            raise InputError("this link was opened to read only")
        released = self._release.done(time.monotonic())
        if released:
            self._commands.write(encode(low_cmd_of(command)))
        return released

    def stats(self, now_s: float) -> LinkStats:
        """Who is connected as a publisher, whether or not it publishes now."""
        return LinkStats(self._states.publishers(), self._others.publishers())

    def close(self) -> None:
        """Let go; what the robot does then is the robot's affair."""
        self._node.close()

    def _wait_for_robot(self, interface: str, domain: int) -> None:
        end = time.monotonic() + ANSWER_S
        while not self._states.publishers():
            if time.monotonic() > end:
                raise InputError(
                    f"nobody publishes rt/lowstate on '{interface}' in DDS domain {domain}; is the "
                    "robot on and its cable in, or `asap twin --link dds` running?"
                )
            time.sleep(0.01)


class Release:
    """Has the robot's own controller let go, without ever waiting.

    Asked first, because releasing what is not active makes motors jerk; released; asked again, and
    only an empty name counts. Answers may fail to come, so every question is put again, but not for
    ever.
    """

    TRY_S, GIVE_UP_S = 0.5, 8.0

    def __init__(self, node: Node, *, required: bool) -> None:
        """Prepare; nothing is asked yet.

        Args:
            node: Of the link.
            required: A robot without this service is refused; simulators may have none.
        """
        self._node, self._required = node, required
        self._requests = node.rpc(SWITCHER, "request", writes=True)
        self._answers = node.rpc(SWITCHER, "response", writes=False)
        self._services = node.rpc_publishers(self._answers)
        self._begun_s: Optional[float] = None
        self._asked: Tuple[int, int, float] = (0, CHECK_MODE, float("-inf"))
        self._heard = self._done = False
        self.released = ""
        """The controller that was released; empty if none was active."""

    def done(self, now_s: float) -> bool:
        """Whether commands may be published; asks on if not.

        Raises:
            OSError: If the controller has not let go in time.
        """
        if self._done:
            return True
        if self._begun_s is None:
            self._begun_s = now_s
        self._listen()
        if self._done:
            return True
        late = now_s - self._begun_s > self.GIVE_UP_S
        if not self._required and not self._heard and now_s - self._begun_s > self.TRY_S:
            self._done = not self._services()  # a simulator without such a service
        if late and not self._done:
            said = f"'{self.released}' is still active" if self.released else "it does not answer"
            raise OSError(f"the robot's own controller has not let go: {said}; use debug mode")
        if not self._done and now_s - self._asked[2] > self.TRY_S:
            # A release whose answer was lost may have happened: never a second one unasked.
            self._ask(CHECK_MODE, now_s)
        return self._done

    def _listen(self) -> None:
        number, what, _ = self._asked
        for answer in self._answers.take(N=16):
            header = getattr(answer, "header", None)  # None: somebody has gone
            if header is None or header.identity.id != number:
                continue
            self._heard = True
            if header.status.code != 0:
                continue  # asked again after a while
            if what == RELEASE_MODE:
                self._ask(CHECK_MODE, time.monotonic())
                return
            name = None
            with contextlib.suppress(ValueError, TypeError, AttributeError):
                name = json.loads(answer.data).get("name")
            if name == "":
                self._done = True
            elif name is not None:
                self.released = str(name)
                self._ask(RELEASE_MODE, time.monotonic())
            return

    def _ask(self, what: int, now_s: float) -> None:
        number = time.monotonic_ns()
        kinds = self._node.message_types
        header = kinds["RequestHeader_"](
            identity=kinds["RequestIdentity_"](id=number, api_id=what),
            lease=kinds["RequestLease_"](id=0),
            policy=kinds["RequestPolicy_"](priority=0, noreply=False),
        )
        request: Any = kinds["request"](header=header, parameter="{}", binary=[])
        self._asked = (number, what, now_s)
        self._requests.write(request)


def interface_and_domain(spec: LinkSpec) -> Tuple[str, int]:
    """Network interface and DDS domain of an address: ``eth0``, or ``lo:7`` for a simulated robot.

    Raises:
        InputError: If the domain is no number.
    """
    interface, colon, number = spec.address.partition(":")
    if not colon:
        return interface, ROBOT_DOMAIN if spec.real else SIMULATION_DOMAIN
    if not number.isdigit():
        raise InputError(f"'{spec.address}' is no address; expected an interface, as eth0 or lo:7")
    return interface, int(number)
