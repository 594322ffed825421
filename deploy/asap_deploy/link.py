"""What every robot link offers, whatever protocol is behind it: states come in, commands go out.

A link only moves messages. It clamps nothing and decides nothing: that is the supervisor's work,
which is the one process that owns a link that may write.

    link = open_link(LinkSpec("twin", "127.0.0.1:47400"))
    if link.wait(0.002):
        state = link.read_latest()
    link.write(command)
    link.close()
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, NamedTuple, Optional, Protocol, Tuple

import numpy as np

MOTOR_ON = 1
"""``RobotCommand.motor_mode`` of a motor that follows its command; robots drop frames without."""

KEYS = ("R1", "L1", "START", "SELECT", "R2", "L2", "F1", "F2", "A", "B", "X", "Y", "UP", "RIGHT",
        "DOWN", "LEFT")  # fmt: skip
"""Buttons of the remote, bit 0 first."""

LINK_KINDS = ("twin", "unitree")


class RobotState(NamedTuple):
    """One message from the robot, J joints in the link's order."""

    tick: int
    """The robot's own clock [ms]; says when this was measured"""
    arrival_s: float
    """``time.monotonic`` when it arrived here [s]"""
    checksum_ok: bool
    """False: not one number of it may be believed"""
    mode_machine: int
    """The robot's own variant number"""
    joint_pos: np.ndarray
    """(J,) [rad]"""
    joint_vel: np.ndarray
    """(J,) [rad/s]"""
    torque_est: np.ndarray
    """(J,) [Nm]"""
    imu_quat_wxyz: np.ndarray
    """(4,)"""
    imu_ang_vel_b: np.ndarray
    """(3,) [rad/s]"""
    imu_lin_acc_b: np.ndarray
    """(3,) [m/s^2]"""
    motor_temperature: np.ndarray
    """(J, 2) casing and winding [degrees Celsius]"""
    motor_fault: np.ndarray
    """(J,) uint32, 0 where all is well"""
    battery_percent: float
    """NaN where the robot does not say"""
    remote_connected: bool
    remote_keys: int
    """Bits by ``KEYS``"""
    remote_sticks: np.ndarray
    """(4,) left x, left y, right x, right y, -1 to 1"""


class RobotCommand(NamedTuple):
    """One message to the robot: torque = stiffness (target - pos) + damping (0 - vel) + torque."""

    joint_pos_target: np.ndarray
    """(J,) [rad]"""
    joint_vel_target: np.ndarray
    """(J,) [rad/s]"""
    stiffness: np.ndarray
    """(J,) [Nm/rad]"""
    damping: np.ndarray
    """(J,) [Nms/rad]"""
    torque: np.ndarray
    """(J,) feed-forward [Nm]"""
    mode_machine: int
    """As the robot reports it; robots drop frames with another"""
    motor_mode: int = MOTOR_ON


class LinkStats(NamedTuple):
    """Who else is there, over the last second."""

    state_publishers: int
    """Senders of states; more than one and nobody knows whose joints these are"""
    foreign_commanders: int
    """Senders of commands beside ourselves"""


@dataclass(frozen=True)
class RobotFacts:
    """What a link knows about its robot before the first state."""

    robot: str
    joint_names: Tuple[str, ...]
    """J names, the order of every (J,) array"""
    state_rate_hz: float = 500.0
    is_real: bool = True
    """False for a simulated robot."""


@dataclass(frozen=True)
class LinkSpec:
    """Which link to open."""

    kind: str
    """One of ``LINK_KINDS``."""
    address: str
    """``host:port`` of a twin; network interface of a real robot."""
    real: bool = False
    """The operator said that this is a real robot."""
    read_only: bool = False
    """Never write; the robot sees no publisher of commands."""


class Link(Protocol):
    """A connection to one robot."""

    @property
    def facts(self) -> RobotFacts:
        """What is known about the robot."""
        ...

    def wait(self, timeout_s: float) -> bool:
        """Sleep until a state is there or the time is over; True if one is."""
        ...

    def read_new(self) -> List[RobotState]:
        """All states that arrived since the last call, in the order of arrival; never blocks."""
        ...

    def read_latest(self) -> Optional[RobotState]:
        """The newest state that ever arrived sound; None before the first."""
        ...

    def write(self, command: RobotCommand) -> bool:
        """Send one command; never blocks.

        Returns:
            Whether it went out; False while the robot's own controller has not let go.
        """
        ...

    def stats(self, now_s: float) -> LinkStats:
        """Who publishes."""
        ...

    def close(self) -> None:
        """Let go of the robot; what the robot does then is the robot's affair."""
        ...


def key_bits(*names: str) -> int:
    """Bits of some buttons of the remote."""
    return sum(1 << KEYS.index(name) for name in names)
