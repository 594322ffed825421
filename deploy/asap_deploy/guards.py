"""Which states are believed, and what about them means that the robot must be damped.

Freshness is told by content: a state counts if its checksum holds and its tick is newer than any
before, and ticks must advance as fast as our own clock. So a frozen publisher, a replay and a
queue that grows are all seen; the time of arrival alone would show none of them.

    watch = StateWatch(limits)
    watch.take(link.read_new(), now)
    fault = watch.fault(now, link.stats(now))          # None, or the first guard that objects
"""

from __future__ import annotations

import math
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence

import numpy as np

from asap_deploy.link import LinkStats, RobotState, key_bits
from asap_deploy.safety import SafetyLimits

STOP_KEYS = key_bits("B")
"""The remote's stop: seen by the supervisor itself, whatever the policy does."""

QUAT_TOLERANCE = 0.02
SENSED_LIMIT = 1e6
"""No sensor measures more, in any unit."""

_SENSED = ("joint_pos", "joint_vel", "torque_est", "imu_quat_wxyz", "imu_ang_vel_b",
           "imu_lin_acc_b", "motor_temperature")  # fmt: skip


class Fault(NamedTuple):
    """Why the robot is damped."""

    guard: str
    text: str
    time_s: float
    """``time.monotonic`` [s]"""


class Seen(NamedTuple):
    """All that a guard may look at."""

    now_s: float
    state: RobotState
    limits: SafetyLimits
    stats: LinkStats
    age_s: float
    """Since the newest tick arrived [s]"""
    lag_s: float
    """By which the robot's clock is behind (or, negative, ahead of) what it was at best [s]"""
    remote_gone_s: float
    """Since the remote was last there; inf if it never was [s]"""


class StateWatch:
    """Follows the stream of states of one robot."""

    def __init__(self, limits: SafetyLimits) -> None:
        """Nothing is known yet."""
        self.limits = limits
        self.latest: Optional[RobotState] = None
        """The newest state that is believed."""
        self.bad_checksums = self.not_newer = 0
        self._offset_s = self._best_s = 0.0
        self._remote_s: Optional[float] = None

    def take(self, states: Sequence[RobotState], now_s: float) -> List[RobotState]:
        """Look at what arrived; returns the states that are believed, in order."""
        believed = []
        for state in states:
            if not state.checksum_ok:
                self.bad_checksums += 1
            elif self.latest is not None and state.tick <= self.latest.tick:
                self.not_newer += 1
            else:
                self._follow(state)
                believed.append(state)
                if state.remote_connected:
                    self._remote_s = now_s
        return believed

    def _follow(self, state: RobotState) -> None:
        """The robot's clock beside ours: the least transport time so far, let go slowly."""
        offset = state.arrival_s - 1e-3 * state.tick
        if self.latest is None:
            self._best_s = offset
        else:
            elapsed = max(0.0, state.arrival_s - self.latest.arrival_s)
            drifted = self._best_s + self.limits.tick_drift * elapsed
            ahead = offset < drifted - self.limits.tick_lag_s
            self._best_s = drifted if ahead else min(drifted, offset)
        self._offset_s, self.latest = offset, state

    def seen(self, now_s: float, stats: LinkStats) -> Optional[Seen]:
        """What the guards look at; None before the first state."""
        if self.latest is None:
            return None
        gone = math.inf if self._remote_s is None else now_s - self._remote_s
        age = now_s - self.latest.arrival_s
        lag = self._offset_s - self._best_s
        return Seen(now_s, self.latest, self.limits, stats, age, lag, gone)

    def fault(self, now_s: float, stats: LinkStats) -> Optional[Fault]:
        """The first guard that objects; None while all is well."""
        seen = self.seen(now_s, stats)
        if seen is None:
            return Fault("state_age", "no state has ever arrived", now_s)
        for name, guard in STATE_GUARDS.items():
            text = guard(seen)
            if text is not None:
                return Fault(name, text, now_s)
        return None


def _state_finite(seen: Seen) -> Optional[str]:
    state = seen.state
    arrays = [getattr(state, name).ravel() for name in _SENSED]
    worst = float(np.abs(np.concatenate(arrays)).max())
    if not worst < SENSED_LIMIT:  # true for NaN as well
        odd = next(name for name, array in zip(_SENSED, arrays)
                   if not (np.abs(array) < SENSED_LIMIT).all())  # fmt: skip
        return f"{odd} holds a number that no sensor gives"
    if abs(math.sqrt(float(state.imu_quat_wxyz @ state.imu_quat_wxyz)) - 1.0) > QUAT_TOLERANCE:
        return "the IMU's attitude is not of unit length"
    return None


def _state_age(seen: Seen) -> Optional[str]:
    if seen.age_s <= seen.limits.state_age_s:
        return None
    return f"no newer state for {1000.0 * seen.age_s:.0f} ms"


def _tick_rate(seen: Seen) -> Optional[str]:
    if abs(seen.lag_s) <= seen.limits.tick_lag_s:
        return None
    side = "behind" if seen.lag_s > 0.0 else "ahead of"
    return f"the robot's clock is {abs(1000.0 * seen.lag_s):.0f} ms {side} ours"


def _mode_machine(seen: Seen) -> Optional[str]:
    wanted, found = seen.limits.mode_machine, seen.state.mode_machine
    if not wanted or found in wanted:
        return None
    return f"the robot says mode_machine {found}, the policy fits {wanted}"


def _publishers(seen: Seen) -> Optional[str]:
    if seen.stats.state_publishers > 1:
        return f"{seen.stats.state_publishers} senders publish states"
    if seen.stats.foreign_commanders:
        return f"{seen.stats.foreign_commanders} others publish commands"
    return None


def _motor_fault(seen: Seen) -> Optional[str]:
    if not seen.state.motor_fault.any():
        return None
    odd = np.flatnonzero(seen.state.motor_fault)
    return f"{seen.limits.joint_names[odd[0]]} reports fault {int(seen.state.motor_fault[odd[0]])}"


def _temperature(seen: Seen) -> Optional[str]:
    limits, hot = seen.limits, seen.state.motor_temperature
    if not hot.size or float(hot.max()) <= min(limits.casing_limit, limits.winding_limit):
        return None
    over = (hot > np.array([limits.casing_limit, limits.winding_limit])).any(axis=1)
    if not over.any():
        return None
    joint = int(np.argmax(over))
    return f"{limits.joint_names[joint]} has {hot[joint].max():.0f} degrees"


def _battery(seen: Seen) -> Optional[str]:
    charge = seen.state.battery_percent
    return f"the battery has {charge:.0f} %" if charge < seen.limits.battery_limit else None


def _tilt(seen: Seen) -> Optional[str]:
    _, x, y, _ = (float(value) for value in seen.state.imu_quat_wxyz)
    # The base's z axis along the world's, R[2, 2] = 1 - 2 (x^2 + y^2).
    tilt = math.acos(min(1.0, max(-1.0, 1.0 - 2.0 * (x * x + y * y))))
    if tilt <= seen.limits.tilt_limit:
        return None
    return f"the base leans by {math.degrees(tilt):.0f} degrees"


def _joint_speed(seen: Seen) -> Optional[str]:
    over = np.abs(seen.state.joint_vel) - seen.limits.speed_limit
    joint = int(over.argmax())
    if over[joint] <= 0.0:
        return None
    return f"{seen.limits.joint_names[joint]} turns at {seen.state.joint_vel[joint]:.1f} rad/s"


def _joint_range(seen: Seen) -> Optional[str]:
    limits, pos = seen.limits, seen.state.joint_pos
    over = np.maximum(limits.joint_pos_lower - pos, pos - limits.joint_pos_upper)
    joint = int(over.argmax())
    if over[joint] <= limits.range_margin:
        return None
    return f"{limits.joint_names[joint]} is {over[joint]:.2f} rad outside its limits"


def _remote_lost(seen: Seen) -> Optional[str]:
    if seen.remote_gone_s <= seen.limits.remote_lost_s:
        return None
    if math.isinf(seen.remote_gone_s):
        return "the remote was never there: nobody could stop the robot with it"
    return f"the remote is gone for {seen.remote_gone_s:.1f} s"


def _remote_stop(seen: Seen) -> Optional[str]:
    pressed = seen.state.remote_connected and seen.state.remote_keys & STOP_KEYS
    return "stop was pressed on the remote" if pressed else None


STATE_GUARDS: Dict[str, Callable[[Seen], Optional[str]]] = {
    "remote_stop": _remote_stop,
    "state_finite": _state_finite,
    "state_age": _state_age,
    "tick_rate": _tick_rate,
    "mode_machine": _mode_machine,
    "publishers": _publishers,
    "motor_fault": _motor_fault,
    "temperature": _temperature,
    "battery": _battery,
    "tilt": _tilt,
    "joint_speed": _joint_speed,
    "joint_range": _joint_range,
    "remote_lost": _remote_lost,
}
"""Every guard over states by name, the first that objects is the one that is reported."""
