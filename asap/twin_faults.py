"""What may go wrong between a robot and its computer, injected on request.

A fault is named as ``NAME``, ``NAME=VALUE`` or ``NAME=VALUE@SECONDS`` (seconds after the start).

    faults = Faults(["drop=0.3@5"], np.random.default_rng(0))
    datagrams = faults.states(now_s, state)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from asap_deploy.errors import InputError, suggestion
from asap_deploy.link import RobotState

FAULTS: dict[str, tuple[str, float]] = {
    "drop": ("part of the states that never arrive", 1.0),
    "freeze": ("the same state again and again, with the same tick", 1.0),
    "delay": ("states arrive so much later [s]", 0.15),
    "reorder": ("part of the states that change places with the next", 0.5),
    "duplicate": ("part of the states that arrive twice", 0.5),
    "nan": ("one joint speed is not a number", 1.0),
    "rollback": ("the tick jumps back by so much, once [ms]", 1000.0),
    "bitflip": ("part of the states with one wrong bit", 1.0),
    "lost_remote": ("the remote is gone", 1.0),
    "second_publisher": ("somebody else publishes states as well", 1.0),
    "second_commander": ("somebody else publishes commands as well", 1.0),
    "motor_fault": ("a motor reports this fault", 2.0),
    "hot": ("a winding has so many degrees Celsius", 130.0),
    "slow": ("the simulator runs at this part of real time", 0.5),
    "low_battery": ("the battery has so many percent", 5.0),
    "tilt": ("the IMU says that the robot leans by so much [rad]", 1.5),
    "fast_joint": ("a joint says that it turns so fast [rad/s]", -60.0),
    "bad_joint": ("a joint says that it is here [rad]", 4.0),
    "wrong_machine": ("the robot says that it is another one", 9.0),
    "remote_stop": ("stop is pressed on the remote", 1.0),
}
"""By name: what it does, and its value where none is given."""

_STOP = 1 << 9


@dataclass(frozen=True, kw_only=True)
class Sent:
    """One state to be sent."""

    state: RobotState
    foreign: bool = False
    """By somebody else"""
    flip: bool = False
    """With one wrong bit"""


class Faults:
    """All faults of a run, and what they hold back."""

    def __init__(self, wanted: Sequence[str], rng: np.random.Generator, start_s: float) -> None:
        """Read the wishes.

        Args:
            wanted: Faults as text.
            rng: Of what happens by chance.
            start_s: Seconds in the text count from here.

        Raises:
            InputError: If there is no such fault.
        """
        self._rng, self._start_s = rng, start_s
        self._from: dict[str, tuple[float, float]] = {}
        self._queue: list[tuple[float, RobotState]] = []
        self._frozen: RobotState | None = None
        self._held: RobotState | None = None
        for text in wanted:
            self.add(text, start_s)

    def add(self, text: str, now_s: float) -> None:
        """One more, as text; ``clear`` ends all."""
        if text == "clear":
            self._from.clear()
            self._queue.clear()
            self._frozen = self._held = None
            return
        body, _, at = text.partition("@")
        name, _, value = body.partition("=")
        if name not in FAULTS:
            raise InputError(f"there is no fault '{name}'{suggestion(name, FAULTS)}")
        try:
            size = float(value) if value else FAULTS[name][1]
            begin_s = self._start_s + float(at) if at else now_s
        except ValueError:
            raise InputError(f"'{text}' is no fault; expected NAME=VALUE@SECONDS") from None
        self._from[name] = (begin_s, size)

    def size(self, name: str, now_s: float) -> float | None:
        """How large a fault is now; None while it is not there."""
        begin_s, size = self._from.get(name, (np.inf, 0.0))
        return size if now_s >= begin_s else None

    def states(self, now_s: float, state: RobotState) -> list[Sent]:
        """What is sent in place of a state, in order."""
        state = self._changed(now_s, state)
        if self.size("freeze", now_s) is not None:
            self._frozen = self._frozen or state
            state = self._frozen
        delay = self.size("delay", now_s)
        if delay is not None:
            self._queue.append((now_s + delay, state))
            ready = [old for due, old in self._queue if due <= now_s]
            self._queue = [entry for entry in self._queue if entry[0] > now_s]
        else:
            ready = [state]
        sent: list[Sent] = []
        for one in self._reordered(now_s, ready):
            if self._chance("drop", now_s):
                continue
            sent.append(Sent(state=one, flip=self._chance("bitflip", now_s)))
            if self._chance("duplicate", now_s):
                sent.append(Sent(state=one))
        if self.size("second_publisher", now_s) is not None:
            sent.append(Sent(state=state._replace(tick=state.tick + 1), foreign=True))
        return sent

    def _chance(self, name: str, now_s: float) -> bool:
        size = self.size(name, now_s)
        return size is not None and bool(self._rng.random() < size)

    def _reordered(self, now_s: float, states: list[RobotState]) -> list[RobotState]:
        """Holds a state back until after the next."""
        found: list[RobotState] = []
        for state in states:
            if self._held is not None:
                found += [state, self._held]
                self._held = None
            elif self._chance("reorder", now_s):
                self._held = state
            else:
                found.append(state)
        return found

    def _changed(self, now_s: float, state: RobotState) -> RobotState:
        """What the robot says of itself."""
        size = {name: self.size(name, now_s) for name in FAULTS}
        change: dict[str, Any] = {}
        if size["rollback"] is not None:
            change["tick"] = max(1, state.tick - int(size["rollback"]))
        for name, field, joint in (("nan", "joint_vel", 3), ("fast_joint", "joint_vel", 3),
                                   ("bad_joint", "joint_pos", 5), ("hot", "motor_temperature", 4),
                                   ("motor_fault", "motor_fault", 7)):  # fmt: skip
            value = size[name]
            if value is not None:
                array = np.array(getattr(state, field))
                joint = min(joint, len(array) - 1)
                array[joint] = np.nan if name == "nan" else value
                change[field] = array
        if size["lost_remote"] is not None:
            change.update(remote_connected=False, remote_keys=0)
        if size["remote_stop"] is not None:
            change["remote_keys"] = state.remote_keys | _STOP
        if size["low_battery"] is not None:
            change["battery_percent"] = size["low_battery"]
        if size["wrong_machine"] is not None:
            change["mode_machine"] = int(size["wrong_machine"])
        if size["tilt"] is not None:
            half = 0.5 * size["tilt"]
            change["imu_quat_wxyz"] = np.array([np.cos(half), np.sin(half), 0.0, 0.0])
        return state._replace(**change) if change else state
