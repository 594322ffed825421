"""From a measurement to joint position targets, or to a refusal.

The same code serves one robot and N simulated ones: rows are robots. Joints are mapped by name.
A row whose measurement or action is not sane is refused from then on, until it is reset.

    runtime = Runtime(policy, robot_joint_names)
    runtime.reset()
    step = runtime.step(measurement, time_s=np.zeros(1))
    if step.refused[0]: ...                          # damp the robot
    step.joint_pos_target                            # (1, J) [rad] in the robot's order
"""

from __future__ import annotations

from typing import Dict, NamedTuple, Optional, Protocol, Sequence, Tuple

import numpy as np

from asap_deploy import rotation
from asap_deploy.contract import PolicyContract
from asap_deploy.errors import InputError, suggestion
from asap_deploy.observation import (
    LAYOUTS,
    Command,
    Measurement,
    ObservationBuilder,
    ObservationInputs,
    ReferenceInput,
    Sizes,
)
from asap_deploy.policy import ClipTable, Evaluator

QUAT_TOLERANCE = 0.02
"""A measured attitude whose norm is farther than this from 1 is refused."""

MEASURED_LIMIT = 1e6
"""No sensor of a robot measures more, in any unit: such a row is refused like NaN."""


class Runnable(Protocol):
    """What a runtime needs of a policy; one that is still being trained has it too."""

    @property
    def contract(self) -> PolicyContract:
        """What the policy assumes."""
        ...

    @property
    def clip(self) -> Optional[ClipTable]:
        """The clip that it tracks."""
        ...

    def act(self, observation: np.ndarray) -> np.ndarray:
        """Actions (N, A) for observations (N, D) float32."""
        ...


class RuntimeStep(NamedTuple):
    """What one control step gave, N rows."""

    joint_pos_target: np.ndarray
    """(N, J) [rad] in the robot's joint order; of refused rows, the last good one"""
    action: np.ndarray
    """(N, A) network output, clipped to the contract's limit"""
    observation: np.ndarray
    """(N, D) float32"""
    phase: np.ndarray
    """(N,)"""
    refused: np.ndarray
    """(N,) bool, latched until reset"""
    finished: np.ndarray
    """(N,) bool: the clip is over"""


class Runtime:
    """Runs one policy on N robots."""

    def __init__(self, policy: Runnable, robot_joint_names: Sequence[str], num_robots: int = 1, *,
                 evaluator: Optional[Evaluator] = None) -> None:  # fmt: skip
        """Match the robot's joints with the contract's by name.

        Args:
            policy: Network and contract.
            robot_joint_names: Order of joints in measurements and targets.
            num_robots: N.
            evaluator: Runs the network; onnxruntime by default.

        Raises:
            InputError: If the robot lacks a joint that the policy reads or commands, or has one
                that the policy says nothing about.
        """
        contract = policy.contract
        self.policy, self.contract = policy, contract
        self._act = policy.act if evaluator is None else evaluator
        self._layout = LAYOUTS[contract.layout]
        names = tuple(robot_joint_names)
        self._observed = _match(contract.observed_joint_names, names)
        self._anchor_joints = _match([k.joint for k in contract.anchor_chain if k.joint], names)
        _match(contract.action_joint_names, names)
        _match(names, contract.joint_names)
        self._to_robot = np.array([contract.joint_names.index(name) for name in names])
        self._actions = contract.index(contract.action_joint_names)
        self._default = np.array(contract.default_joint_pos)
        self._scale = np.array(contract.action_scale)
        self._lower, self._upper = (
            np.array(contract.joint_pos_lower),
            np.array(contract.joint_pos_upper),
        )
        self._observed_default = self._default[contract.index(contract.observed_joint_names)]
        held = contract.index(contract.held_joint_names)
        self._held_pos = np.tile(self._default[held], (num_robots, 1))
        sizes = Sizes(len(self._observed), len(self._actions), len(held))
        self._builder = ObservationBuilder(self._layout, sizes, num_robots)
        self.num_robots = num_robots
        self.command = Command(
            lin_vel_b=np.zeros((num_robots, 2)),
            ang_vel=np.zeros((num_robots, 1)),
            base_height=np.full((num_robots, 1), 0.78),
            walk=np.zeros((num_robots, 1)),
        )
        self.last_action = np.zeros((num_robots, len(self._actions)))
        self._last_target = np.tile(self._default[self._to_robot], (num_robots, 1))
        self.refused = np.zeros(num_robots, dtype=bool)
        self._aligned = np.zeros(num_robots, dtype=bool)
        self._turn = np.zeros(num_robots)
        self._origin = np.zeros((num_robots, 2, 3))

    def reset(self, robot_ids: Optional[np.ndarray] = None) -> None:
        """Start anew: no past, no last action, no refusal. All robots by default."""
        rows = slice(None) if robot_ids is None else robot_ids
        self._builder.reset(robot_ids)
        self.last_action[rows] = 0.0
        self._last_target[rows] = self._default[self._to_robot]
        self.refused[rows] = False
        self._aligned[rows] = False

    def snapshot(self) -> Dict[str, np.ndarray]:
        """Everything that the next step depends on, copied."""
        return {
            "frames": self._builder.frames.copy(),
            "last_action": self.last_action.copy(),
            "last_target": self._last_target.copy(),
            "refused": self.refused.copy(),
            "aligned": self._aligned.copy(),
            "turn": self._turn.copy(),
            "origin": self._origin.copy(),
        }

    def restore(self, snapshot: Dict[str, np.ndarray]) -> None:
        """Undo what happened since the snapshot."""
        self._builder.frames[:] = snapshot["frames"]
        self.last_action = snapshot["last_action"].copy()
        self._last_target = snapshot["last_target"].copy()
        self.refused = snapshot["refused"].copy()
        self._aligned = snapshot["aligned"].copy()
        self._turn, self._origin = snapshot["turn"].copy(), snapshot["origin"].copy()

    def start_joint_pos(self) -> np.ndarray:
        """Where the robot's joints should be when the clip begins (J,) [rad], robot order."""
        start = self._default if self.policy.clip is None else self.policy.clip.joint_pos[0]
        return start[self._to_robot]

    def step(self, measurement: Measurement, time_s: np.ndarray) -> RuntimeStep:
        """One control step.

        Args:
            measurement: N rows in the robot's joint order.
            time_s: (N,) time since the clip began [s].

        Returns:
            Targets and what led to them.

        Raises:
            InputError: If the layout needs the base position and the measurement lacks it.
        """
        observation = self.observe(measurement, time_s)
        return self.act(self._act(observation), time_s)._replace(observation=observation)

    def observe(self, measurement: Measurement, time_s: np.ndarray) -> np.ndarray:
        """The first half of a step: the observation (N, D) float32, remembered as the newest.

        Training calls the halves itself, because it samples the action in between.
        """
        time_s = self._rows(time_s)
        measurement = self._accept(measurement)
        inputs = ObservationInputs(
            measurement=measurement._replace(
                joint_pos=measurement.joint_pos[:, self._observed],
                joint_vel=measurement.joint_vel[:, self._observed],
            ),
            default_joint_pos=self._observed_default,
            last_action=self.last_action,
            phase=self._phase(time_s)[0],
            reference=self._reference(measurement, time_s),
            command=self.command,
            held_joint_pos=self._held_pos,
        )
        return self._builder.build(inputs)

    def act(self, action: np.ndarray, time_s: np.ndarray) -> RuntimeStep:
        """The second half of a step: targets from the network's output (N, A).

        Returns:
            A step whose ``observation`` is empty.
        """
        time_s = self._rows(time_s)
        action = np.asarray(action, dtype=np.float64)
        self.refused = self.refused | ~np.isfinite(action).all(axis=-1)
        limit = self.contract.action_limit
        action = np.clip(np.where(self.refused[:, None], 0.0, action), -limit, limit)
        target = self._target(action, time_s)
        target = np.where(self.refused[:, None], self._last_target, target)
        self.last_action, self._last_target = action, target
        phase, finished = self._phase(time_s)
        nothing = np.empty((self.num_robots, 0), np.float32)
        return RuntimeStep(target, action, nothing, phase, self.refused.copy(), finished)

    def _rows(self, time_s: np.ndarray) -> np.ndarray:
        """Times as one number for each robot; a robot without a time is refused."""
        times = np.broadcast_to(np.asarray(time_s, dtype=float), (self.num_robots,))
        known = np.isfinite(times)
        self.refused = self.refused | ~known
        return np.where(known, times, 0.0)

    def _accept(self, measurement: Measurement) -> Measurement:
        """Refuse rows that are not sane; they compute on with harmless numbers, unseen.

        NaN must never reach the history: it would stay there for the frames that follow.
        """
        if self._layout.needs_base_pos and (
            measurement.base_pos_w is None or measurement.base_lin_vel_w is None
        ):
            raise InputError(
                f"layout '{self._layout.name}' needs the base position and velocity, which this "
                "robot does not measure; use a policy trained without state estimation"
            )
        sane = np.ones(self.num_robots, dtype=bool)
        for values in measurement:
            if values is not None:
                sane &= (np.abs(values) < MEASURED_LIMIT).all(axis=-1)  # False for NaN as well
        norm = np.linalg.norm(np.where(sane[:, None], measurement.base_quat_wxyz, 0.0), axis=-1)
        sane &= np.abs(norm - 1.0) < QUAT_TOLERANCE
        self.refused = self.refused | ~sane
        keep = sane[:, None]
        default = self._default[self._to_robot]
        upright = np.array([1.0, 0.0, 0.0, 0.0])
        position, velocity = measurement.base_pos_w, measurement.base_lin_vel_w
        quat = np.where(keep, measurement.base_quat_wxyz, upright)
        return Measurement(
            joint_pos=np.where(keep, measurement.joint_pos, default),
            joint_vel=np.where(keep, measurement.joint_vel, 0.0),
            base_quat_wxyz=rotation.normalize(quat),
            base_ang_vel_b=np.where(keep, measurement.base_ang_vel_b, 0.0),
            base_pos_w=None if position is None else np.where(keep, position, 0.0),
            base_lin_vel_w=None if velocity is None else np.where(keep, velocity, 0.0),
        )

    def _phase(self, time_s: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        """Phase that the policy sees, and whether the clip is over."""
        clip = self.contract.clip
        if clip is not None:
            # Half a microsecond: k * 0.02 does not always reach the end exactly.
            finished = time_s >= clip.duration_s - 5e-7
            return (time_s + clip.phase_lead_s) / clip.duration_s, finished
        period = self._layout.gait_period_s or 1.0
        walking = self.command.walk[:, 0] > 0.5
        return np.where(walking, time_s / period % 1.0, 0.0), np.zeros(self.num_robots, dtype=bool)

    def offset(self, time_s: np.ndarray) -> np.ndarray:
        """What actions are added to: PD targets (N, J) in the robot's order [rad]."""
        return self._offset(time_s)[:, self._to_robot]

    def _offset(self, time_s: np.ndarray) -> np.ndarray:
        """The same in the contract's order."""
        target = np.tile(self._default, (self.num_robots, 1))
        if self.contract.offset_mode == "reference":
            clip = self.policy.clip
            assert clip is not None
            # The joint positions that the clip has when this command has acted.
            moving = clip.at(clip.joint_pos, time_s + self.contract.control_dt)
            target[:, self._actions] = moving[:, self._actions]
        return target

    def _target(self, action: np.ndarray, time_s: np.ndarray) -> np.ndarray:
        """PD targets (N, J) in the robot's order: target = offset + scale * action."""
        target = self._offset(time_s)
        target[:, self._actions] += self._scale * action
        if self.contract.clip_target_to_limits:
            target = np.clip(target, self._lower, self._upper)
        return target[:, self._to_robot]

    def _reference(self, measurement: Measurement, time_s: np.ndarray) -> Optional[ReferenceInput]:
        """The clip as the layout shows it, turned to the heading in which the robot started."""
        if not self._layout.needs_reference:
            return None
        clip = self.policy.clip
        assert clip is not None
        pos, quat = self._anchor(measurement)
        reference_pos = clip.at(clip.anchor_pos_w, time_s)
        reference_quat = rotation.normalize(clip.at(clip.anchor_quat_wxyz, time_s))
        self._align(pos, quat, reference_pos, reference_quat)
        turn = rotation.from_yaw(self._turn)
        moved = self._origin[:, 0] + rotation.rotate(turn, reference_pos - self._origin[:, 1])
        observed = self.contract.index(self.contract.observed_joint_names)
        return ReferenceInput(
            joint_pos=clip.at(clip.joint_pos, time_s)[:, observed],
            joint_vel=clip.at(clip.joint_vel, time_s)[:, observed],
            anchor_pos_b=rotation.rotate_inverse(quat, moved - pos),
            anchor_quat_b=rotation.multiply(
                rotation.conjugate(quat), rotation.multiply(turn, reference_quat)
            ),
        )

    def _align(self, pos: np.ndarray, quat: np.ndarray, reference_pos: np.ndarray,
               reference_quat: np.ndarray) -> None:  # fmt: skip
        """On the first step of a row, lay the clip's heading and place onto the robot's.

        The heading of an IMU has no fixed zero. Heights are not moved.
        """
        new = ~self._aligned
        if not new.any():
            return
        turn = rotation.yaw(quat) - rotation.yaw(reference_quat)
        self._turn = np.where(new, turn, self._turn)
        origin = np.stack([pos, reference_pos], axis=1)
        origin[..., 2] = 0.0
        self._origin = np.where(new[:, None, None], origin, self._origin)
        self._aligned[:] = True

    def _anchor(self, measurement: Measurement) -> Tuple[np.ndarray, np.ndarray]:
        """Position (N, 3) and attitude (N, 4) of the anchor body, through the joints between."""
        quat = measurement.base_quat_wxyz
        pos = measurement.base_pos_w
        pos = np.zeros((self.num_robots, 3)) if pos is None else pos
        moving = iter(self._anchor_joints)
        for link in self.contract.anchor_chain:
            pos = pos + rotation.rotate(quat, np.array(link.pos))
            quat = rotation.multiply(quat, np.array(link.quat_wxyz))
            if link.joint:
                angle = measurement.joint_pos[:, next(moving)]
                axis = np.broadcast_to(np.array(link.axis), (self.num_robots, 3))
                quat = rotation.multiply(quat, rotation.from_axis_angle(axis, angle))
        return pos, quat


def _match(wanted: Sequence[str], available: Sequence[str]) -> np.ndarray:
    """Positions of the wanted names among the available ones.

    Raises:
        InputError: Listing what is missing.
    """
    missing = [name for name in wanted if name not in available]
    if missing:
        shown = ", ".join(missing[:3]) + (f", ... ({len(missing)})" if len(missing) > 3 else "")
        raise InputError(
            f"policy and robot do not have the same joints; missing: {shown}"
            f"{suggestion(missing[0], available)}"
        )
    return np.array([list(available).index(name) for name in wanted], dtype=np.intp)
