"""A reference motion laid out for one robot, and the states in which episodes begin.

reference = Reference(motion, robot, TrackedPoints(robot))
qpos, qvel = start_states(reference.frame(0.0), robot, count=64, noise="paper", rng=rng)
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from asap.metrics import TrackedPoints
from asap.robot import Robot
from asap_deploy import rotation
from asap_deploy.motion import Motion, MotionFrame

StartNoise = Literal["none", "small", "paper"]
"""none: at rest in the first frame. paper: the velocity of the reference and the noise with which
the original fine-tunes: joints 0.1 rad and 0.15 rad/s, base 5 cm, up to 10 degrees, 0.01 m/s.
small: a third of it, about what a robot has that stood up by itself."""
NOISE: dict[StartNoise, float] = {"none": 0.0, "small": 1.0 / 3.0, "paper": 1.0}
"""Multiples of the original's start noise."""


def drawn_kicks(rng: np.random.Generator, count: int, speed: float) -> np.ndarray:
    """(count, 3) velocities in random horizontal directions [m/s]."""
    angle = rng.uniform(0.0, 2.0 * np.pi, count)
    return speed * np.stack([np.cos(angle), np.sin(angle), np.zeros_like(angle)], axis=1)


class Reference:
    """The motion in the robot's order, lowered so that a sole touches the floor at the start."""

    def __init__(self, motion: Motion, robot: Robot, points: TrackedPoints) -> None:
        """Order the motion's joints and bodies like the robot's.

        Args:
            motion: Holds every joint and body of the robot.
            robot: Whose order is wanted.
            points: Over which errors are averaged.
        """
        self.points = points
        bodies = [motion.body_names.index(name) for name in robot.body_names]
        joints = [motion.joint_names.index(name) for name in robot.joint_names]
        first = motion.body_pos_w[:1, bodies], motion.body_quat_wxyz[:1, bodies]
        lowered = motion.body_pos_w[:, bodies].copy()
        lowered[..., 2] -= robot.sole_clearance(*first).min()
        self._motion = motion.replace(
            joint_names=robot.joint_names,
            joint_pos=motion.joint_pos[:, joints],
            joint_vel=motion.joint_vel[:, joints],
            body_names=robot.body_names,
            body_pos_w=lowered,
            body_quat_wxyz=motion.body_quat_wxyz[:, bodies],
            body_lin_vel_w=motion.body_lin_vel_w[:, bodies],
            body_ang_vel_w=motion.body_ang_vel_w[:, bodies],
        )

    def frame(self, time_s: float | np.ndarray) -> MotionFrame:
        """The motion at times; arrays begin with the axes of ``time_s``, none for one time."""
        return self._motion.at(np.array(time_s))

    def positions(self, frame: MotionFrame) -> np.ndarray:
        """(..., P, 3) tracked points of frames."""
        return self.points.positions(frame.body_pos_w, frame.body_quat_wxyz)


def start_states(
    frames: MotionFrame,
    robot: Robot,
    rng: np.random.Generator,
    *,
    noise: np.ndarray | float,
    at_rest: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """States in frames of the motion, with or without noise.

    Args:
        frames: N frames in the robot's order, already lowered to the floor.
        robot: Order of joints and bodies.
        rng: For the noise.
        noise: Multiple of the original's noise, one for all or (N,); 0 for none.
        at_rest: Without velocity, instead of with that of the motion.

    Returns:
        qpos (N, nq) and qvel (N, nv).
    """
    count, joints = frames.joint_pos.shape
    scale = np.broadcast_to(np.asarray(noise, dtype=float), (count,))[:, None]
    base_pos, base_quat = frames.body_pos_w[:, 0].copy(), frames.body_quat_wxyz[:, 0]
    joint_pos = frames.joint_pos
    qvel = np.zeros((count, robot.model.nv))
    if not at_rest:
        qvel[:, :3] = frames.body_lin_vel_w[:, 0]
        qvel[:, 3:6] = rotation.rotate_inverse(base_quat, frames.body_ang_vel_w[:, 0])
        qvel[:, robot.qvel_ids] = frames.joint_vel
    if scale.any():
        base_pos += scale * rng.normal(0.0, 0.05, (count, 3))
        axis = rotation.normalize(rng.normal(size=(count, 3)))
        angle = scale[:, 0] * rng.uniform(0.0, np.deg2rad(10.0), count)
        base_quat = rotation.multiply(rotation.from_axis_angle(axis, angle), base_quat)
        joint_pos = joint_pos + scale * rng.normal(0.0, 0.1, (count, joints))
        joint_pos = np.clip(joint_pos, robot.joint_pos_lower, robot.joint_pos_upper)
        qvel[:, :6] += scale * rng.normal(0.0, 0.01, (count, 6))
        qvel[:, robot.qvel_ids] += scale * rng.normal(0.0, 0.15, (count, joints))
        # A start inside the floor would be thrown up by the contact: lift it onto the floor.
        clearance = robot.sole_clearance(*robot.forward_kinematics(base_pos, base_quat, joint_pos))
        base_pos[:, 2] += np.maximum(0.0, -clearance.min(axis=1))
    return robot.qpos(base_pos, base_quat, joint_pos), qvel
