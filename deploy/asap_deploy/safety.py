"""No bad command leaves: limits from the policies' contracts, and the filter that enforces them.

Whatever is asked for, what comes out is finite, inside the joint limits, at most one step away from
what was commanded a control tick before, and its PD torque at the measured state stays inside the
effort limit. What is not a command at all (NaN, wrong shape) is refused: then the robot is damped.

    limits = SafetyLimits.of([policy.contract], joint_names)
    command_filter = CommandFilter(limits)
    command_filter.accept(target, stiffness, damping, now)       # a new target, 50 Hz
    command, limited = command_filter.command(state)             # at every write, 500 Hz
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Optional, Sequence, Tuple

import numpy as np

from asap_deploy.contract import PolicyContract
from asap_deploy.errors import InputError, Refusal
from asap_deploy.link import RobotCommand, RobotState
from asap_deploy.policy import ClipTable
from asap_deploy.rotation import projected_gravity

ABSURD_RAD = 1e3
"""A target beyond this is no target, whatever else it is [rad]."""

MAX_TILT_RAD = 1.0
"""Tilt at which a robot is given up, beside what its clip leans itself [rad]."""

FALL_DAMPING = 8.0
"""Of a strong joint while damped [Nms/rad]; weak ones get a fifth of their effort limit."""

_ARRAYS = ("joint_pos_lower", "joint_pos_upper", "torque_limit", "step_limit", "stiffness_limit",
           "damping_limit", "speed_limit")  # fmt: skip


@dataclass(frozen=True)
class SafetyLimits:
    """Everything that a guard compares with; (J,) arrays in the link's joint order."""

    joint_names: Tuple[str, ...]
    joint_pos_lower: np.ndarray
    """[rad]"""
    joint_pos_upper: np.ndarray
    """[rad]"""
    torque_limit: np.ndarray
    """[Nm]"""
    step_limit: np.ndarray
    """Farthest that a target moves in one control tick [rad]: as far as the motor could."""
    stiffness_limit: np.ndarray
    """[Nm/rad]"""
    damping_limit: np.ndarray
    """[Nms/rad]"""
    speed_limit: np.ndarray
    """Measured joint speed, both ways [rad/s]."""
    control_dt: float
    """[s]"""
    mode_machine: Tuple[int, ...] = ()
    """Robots that the policies fit; empty: any."""
    tilt_limit: float = MAX_TILT_RAD
    """[rad]"""
    state_age_s: float = 0.09
    """Without a newer state the robot is damped: after 100 ms at the latest, a write later."""
    tick_lag_s: float = 0.06
    """By which the robot's clock may fall behind ours, or run ahead, in the short run [s]."""
    tick_drift: float = 2e-3
    """By which both clocks may differ in the long run."""
    late_ticks: float = 3.0
    """Control ticks without a target after which the robot is damped."""
    range_margin: float = 0.3
    """By which a measured joint may lie outside its limits [rad]."""
    casing_limit: float = 85.0
    """[degrees Celsius]"""
    winding_limit: float = 120.0
    """[degrees Celsius]"""
    battery_limit: float = 10.0
    """[percent]; a preflight asks for more"""
    remote_lost_s: float = 0.5
    """A remote that is gone for so long stops the robot; without one nobody arms [s]."""

    def __post_init__(self) -> None:
        """Make arrays read-only.

        Raises:
            InputError: If a limit is not a number, or lower ones are above upper ones.
        """
        for name in _ARRAYS:
            array = np.array(getattr(self, name), dtype=np.float64)
            if array.shape != (len(self.joint_names),) or not np.isfinite(array).all():
                raise InputError(f"safety limit '{name}' must hold {len(self.joint_names)} numbers")
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        if (self.joint_pos_lower > self.joint_pos_upper).any():
            raise InputError("safety limits: a lower joint limit is above the upper one")

    @classmethod
    def of(cls, contracts: Sequence[PolicyContract], joint_names: Sequence[str],
           clips: Sequence[Optional[ClipTable]] = ()) -> SafetyLimits:  # fmt: skip
        """The narrowest limits of all policies of a run.

        Args:
            contracts: Of the policies, one or more.
            joint_names: The link's order.
            clips: What the policies track; a clip that bends over widens the tilt limit.

        Raises:
            InputError: If the policies are not of one robot and one rate.
        """
        names = tuple(joint_names)
        for contract in contracts:
            unknown = [name for name in names if name not in contract.joint_names]
            if unknown or len(contract.joint_names) != len(names):
                odd = unknown[0] if unknown else next(n for n in contract.joint_names
                                                      if n not in names)  # fmt: skip
                raise InputError(f"robot and policy have not the same joints: '{odd}'")
        if len({contract.control_dt for contract in contracts}) != 1:
            raise InputError("the policies of one run must have one control_dt")
        columns = [contract.index(names) for contract in contracts]

        def all_of(field: str) -> np.ndarray:
            return np.stack([np.array(getattr(contract, field), dtype=float)[column]
                             for contract, column in zip(contracts, columns)])  # fmt: skip

        dt, speed = contracts[0].control_dt, all_of("joint_vel_limit").min(axis=0)
        leans = [_lean(clip) for clip in clips if clip is not None]
        return cls(
            joint_names=names,
            joint_pos_lower=all_of("joint_pos_lower").max(axis=0),
            joint_pos_upper=all_of("joint_pos_upper").min(axis=0),
            torque_limit=all_of("torque_limit").min(axis=0),
            step_limit=speed * dt,
            stiffness_limit=all_of("stiffness").max(axis=0),
            damping_limit=all_of("damping").max(axis=0),
            speed_limit=1.1 * speed,
            control_dt=dt,
            mode_machine=_machines(contracts),
            tilt_limit=MAX_TILT_RAD + max(leans, default=0.0),
        )

    @property
    def fall_damping(self) -> np.ndarray:
        """(J,) gains under which a robot sinks down [Nms/rad]."""
        return np.minimum(FALL_DAMPING, self.torque_limit / 5.0)

    def with_(self, **changes: object) -> SafetyLimits:
        """The same with other numbers."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]


def _machines(contracts: Sequence[PolicyContract]) -> Tuple[int, ...]:
    """The robots that all policies fit; empty where none of them names any."""
    named = [set(contract.mode_machine) for contract in contracts if contract.mode_machine]
    fitting = set.intersection(*named) if named else set()
    if named and not fitting:  # empty would mean: any robot
        said = ", ".join(str(sorted(one)) for one in named)
        raise InputError(f"the policies of one run must fit one robot; their mode_machine: {said}")
    return tuple(sorted(fitting))


def _lean(clip: ClipTable) -> float:
    """Farthest tilt of the clip's base from upright [rad]."""
    gravity = projected_gravity(clip.base_quat_wxyz)
    return float(np.arccos(np.clip(-gravity[:, 2], -1.0, 1.0)).max())


class CommandFilter:
    """From what a policy wants to what a robot gets."""

    def __init__(self, limits: SafetyLimits) -> None:
        """Know the limits."""
        self.limits = limits
        self._wanted: Optional[np.ndarray] = None
        self._gains = (np.zeros(0), np.zeros(0))
        self._bounds: Optional[Tuple[np.ndarray, ...]] = None
        self._before: Optional[np.ndarray] = None
        self._written: Optional[np.ndarray] = None
        self._due_s = -np.inf

    def forget(self) -> None:
        """Start anew at the pose that is measured next; after damping, targets have no past."""
        self._wanted = self._before = self._written = self._bounds = None
        self._due_s = -np.inf

    def accept(self, target: np.ndarray, stiffness: np.ndarray, damping: np.ndarray,
               now_s: float) -> None:  # fmt: skip
        """A new target, once a control tick; one that comes sooner wins no second step.

        Args:
            target: (J,) [rad].
            stiffness: (J,) [Nm/rad].
            damping: (J,) [Nms/rad].
            now_s: When it came [s].

        Raises:
            Refusal: If these are not finite numbers of the right shape, or absurd.
        """
        shape = (len(self.limits.joint_names),)
        arrays = []
        for what, values in (("target", target), ("stiffness", stiffness), ("damping", damping)):
            try:
                array = np.array(values, dtype=np.float64)
            except (TypeError, ValueError):
                raise Refusal(f"{what} holds no numbers") from None
            if array.shape != shape:
                raise Refusal(f"{what} has shape {array.shape}, expected {shape}")
            if not (np.abs(array) < ABSURD_RAD).all():  # False for NaN as well
                odd = int(np.argmin(np.abs(array) < ABSURD_RAD))
                raise Refusal(f"{what} of {self.limits.joint_names[odd]} is {array[odd]:g}")
            arrays.append(array)
        self._wanted = arrays[0]
        self._gains = (np.clip(arrays[1], 0.0, self.limits.stiffness_limit),
                       np.clip(arrays[2], 0.0, self.limits.damping_limit))  # fmt: skip
        self._bounds = None
        if now_s >= self._due_s:
            # Posts may come half a tick early or late; in the long run there is one step a tick.
            dt = self.limits.control_dt
            self._due_s = max(self._due_s + dt, now_s + 0.5 * dt)
            self._before = self._written

    def command(self, state: RobotState) -> Tuple[RobotCommand, bool]:
        """The command for the state that is now; the first target must have been accepted.

            lower <= q* <= upper,   |q* - q*[last tick]| <= step,   |kp (q* - q) - kd dq| <= effort

        The target is moved first. Where no target fits all three (a joint far outside its limits,
        or fast), the gains are scaled down: then the motor gives its effort limit, as it would.

        Returns:
            The command, and whether it differs from what was wanted.

        Raises:
            Refusal: If the measured joints are not finite numbers.
        """
        assert self._wanted is not None, "accept a target first"
        limits, pos, vel = self.limits, state.joint_pos, state.joint_vel
        if not (np.isfinite(pos).all() and np.isfinite(vel).all()):
            raise Refusal("the measured joints hold numbers that are not finite")
        if self._bounds is None:
            self._bounds = self._bounds_of(self._wanted, pos)
        low, high, inside, soft, reach = self._bounds
        stiffness, damping = self._gains
        centre = pos + np.minimum(np.maximum(damping * vel / soft, -1e6), 1e6)
        # Not np.clip: its checks take longer than the work, and this runs 500 times a second.
        target = np.minimum(np.maximum(inside, centre - reach), centre + reach)
        target = np.minimum(np.maximum(target, low), high)
        torque = stiffness * (target - pos) - damping * vel
        scale = np.minimum(1.0, limits.torque_limit / np.maximum(np.abs(torque), 1e-9))
        self._written = target
        limited = bool((target != self._wanted).any() or (scale < 1.0).any())
        zero = np.zeros(len(target))
        return RobotCommand(target, zero, scale * stiffness, scale * damping, zero,
                            state.mode_machine), limited  # fmt: skip

    def _bounds_of(self, wanted: np.ndarray, pos: np.ndarray) -> Tuple[np.ndarray, ...]:
        """What stays the same until the next target: its bounds, itself inside them, the reach."""
        limits = self.limits
        if self._before is None:
            self._before = np.clip(pos, limits.joint_pos_lower, limits.joint_pos_upper)
        low = np.maximum(limits.joint_pos_lower, self._before - limits.step_limit)
        high = np.minimum(limits.joint_pos_upper, self._before + limits.step_limit)
        soft = np.maximum(self._gains[0], 1e-9)
        reach = np.minimum(limits.torque_limit / soft, 1e6)
        return low, high, np.minimum(np.maximum(wanted, low), high), soft, reach


def damping_command(limits: SafetyLimits, state: RobotState) -> RobotCommand:
    """Motors brake and do nothing else; complete in every field, or robots would drop it.

    Args:
        limits: Of the robot.
        state: The last sound one; only its machine number and speeds are used.
    """
    speed = np.abs(np.where(np.isfinite(state.joint_vel), state.joint_vel, 0.0))
    braking = np.minimum(limits.fall_damping, limits.torque_limit / np.maximum(speed, 1e-9))
    pos = np.where(np.isfinite(state.joint_pos), state.joint_pos, 0.0)
    zero = np.zeros(len(pos))
    target = np.clip(pos, limits.joint_pos_lower, limits.joint_pos_upper)
    return RobotCommand(target, zero, zero, braking, zero, state.mode_machine)
