"""Clips with a known answer, made for tests of motion import and of the checks."""

from __future__ import annotations

import numpy as np

from asap.robot import Robot
from asap_deploy.rotation import from_yaw

GRAVITY = 9.81


def flat_feet(robot: Robot, knee_rad: np.ndarray) -> np.ndarray:
    """Joint positions (T, J): knees bent, hips and ankles such that the feet stay level."""
    joint_pos = np.tile(robot.default_joint_pos, (len(knee_rad), 1))
    for side in ("left", "right"):
        for part, factor in (("hip_pitch", -0.5), ("knee", 1.0), ("ankle_pitch", -0.5)):
            (place,) = robot.joint_ids([f"{side}_{part}_joint"])
            joint_pos[:, place] = factor * knee_rad
    return joint_pos


def on_floor(robot: Robot, quat: np.ndarray, joint_pos: np.ndarray) -> np.ndarray:
    """Base height (T,) at which the lower sole touches the floor [m]."""
    poses = robot.forward_kinematics(np.zeros((len(quat), 3)), quat, joint_pos)
    return -robot.sole_clearance(*poses).min(axis=1)


def squat_clip(
    robot: Robot, *, fps: float = 50.0, seconds: float = 3.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two squats on the spot, facing 0.7 rad, arms waving: base position, attitude, joints."""
    time_s = np.arange(round(seconds * fps) + 1) / fps
    joint_pos = flat_feet(robot, 0.7 + 0.4 * np.sin(2 * np.pi * time_s / 1.5))
    for name, size in (("left_shoulder_pitch_joint", 0.5), ("right_elbow_joint", 0.3)):
        (place,) = robot.joint_ids([name])
        joint_pos[:, place] += size * np.sin(2 * np.pi * time_s)
    quat = np.tile(from_yaw(np.array(0.7)), (len(time_s), 1))
    base_pos_w = np.zeros((len(time_s), 3))
    base_pos_w[:, 2] = on_floor(robot, quat, joint_pos)
    return base_pos_w, quat, joint_pos


def hop_clip(
    robot: Robot, *, fps: float = 30.0, flight_s: float = 0.4
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Stand 1 s, hop ballistically, stand 1 s: base position, attitude, joints, true clearance."""
    time_s = np.arange(round((2.0 + flight_s) * fps) + 1) / fps
    since_s = np.clip(time_s - 1.0, 0.0, flight_s)
    height = 0.5 * GRAVITY * since_s * (flight_s - since_s)
    joint_pos = flat_feet(robot, np.full(len(time_s), 0.6))
    quat = np.tile(from_yaw(np.array(0.7)), (len(time_s), 1))
    base_pos_w = np.zeros((len(time_s), 3))
    base_pos_w[:, 2] = on_floor(robot, quat, joint_pos) + height
    return base_pos_w, quat, joint_pos, height
