"""What filming a person does to a motion, done to a clean one.

Clips that were estimated from video and retargeted slide on the floor, lean where nobody could
stand, tremble, and begin in anyone's pose. A teacher that learned clean choreographies alone does
not expect that; one that also learned them roughened follows a film as far as a robot can.

    filmed = roughen(motion, robot, np.random.default_rng(3))
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from asap.grounding import ground
from asap.motions import motion_from_poses
from asap.robot import Robot
from asap_deploy.motion import Motion
from asap_deploy.rotation import from_rotvec, from_yaw, multiply

WAVES = 3
"""Sines in the error of one channel."""

STRAIGHT = 0.05
"""Knee of one who stands at ease [rad]."""


class Roughness(NamedTuple):
    """How far one kind of channel strays."""

    size: float
    """Amplitude of a slow wave [rad or m]; a wave of f Hz has size / (1 + f)"""
    slowest_hz: float
    fastest_hz: float


LEGS = Roughness(0.08, 0.03, 2.5)
ARMS = Roughness(0.3, 0.03, 2.5)
WAIST = Roughness(0.1, 0.03, 2.0)
LEAN = Roughness(0.06, 0.03, 1.5)
PLACE = Roughness(0.15, 0.03, 0.3)
HEADING = Roughness(0.25, 0.03, 0.3)


def roughen(motion: Motion, robot: Robot, rng: np.random.Generator) -> Motion:
    """A motion as a film of it would have come out, its lower sole on the floor again.

    Args:
        motion: With every joint of the robot.
        robot: Whose joints are named as those of a G1.
        rng: Of the errors; their strength is drawn too.
    """
    order = [motion.joint_names.index(name) for name in robot.joint_names]
    time_s, strength = np.arange(motion.num_frames) / motion.fps, rng.uniform(0.3, 1.0)
    joint_pos = _stretched(motion.joint_pos[:, order], robot, rng.uniform())
    for column, name in enumerate(robot.joint_names):
        joint_pos[:, column] += strength * _waves(time_s, _kind(name), rng)
    joint_pos = np.clip(joint_pos, *_limits(robot))
    place, lean = (
        np.stack([strength * _waves(time_s, kind, rng) for _ in range(2)], axis=1)
        for kind in (PLACE, LEAN)
    )
    turn = from_yaw(strength * _waves(time_s, HEADING, rng))
    tilt = from_rotvec(np.pad(lean, ((0, 0), (0, 1))))
    base_pos_w = motion.base_pos_w.copy()
    base_pos_w[:, :2] += place - place[0]
    base_quat = multiply(turn, multiply(motion.base_quat_wxyz, tilt))
    grounding = ground(robot, base_pos_w, base_quat, joint_pos, fps=motion.fps)
    base_pos_w[:, 2] += grounding.correction_m
    return motion_from_poses(
        robot,
        base_pos_w,
        base_quat,
        joint_pos,
        fps=motion.fps,
        source=f"{motion.source}, roughened",
    )


def _stretched(joint_pos: np.ndarray, robot: Robot, share: float) -> np.ndarray:
    """The pose of one who stands with straighter legs: a copy, soles as level as before.

    Robots are made to stand with bent knees, people are not.
    """
    joint_pos = joint_pos.copy()
    sides = [name.partition("_knee")[0] for name in robot.joint_names if "_knee" in name]
    knees = robot.joint_ids([f"{side}_knee_joint" for side in sides])
    bend = share * max(0.0, float(joint_pos[:, knees].min()) - STRAIGHT)
    joint_pos[:, knees] -= bend
    for part in ("hip_pitch", "ankle_pitch"):
        joint_pos[:, robot.joint_ids([f"{side}_{part}_joint" for side in sides])] += 0.5 * bend
    return joint_pos


def _waves(time_s: np.ndarray, kind: Roughness, rng: np.random.Generator) -> np.ndarray:
    """(T,) a few sines, the faster the smaller."""
    low, high = np.log(kind.slowest_hz), np.log(kind.fastest_hz)
    rate_hz = np.exp(rng.uniform(low, high, WAVES))
    size = kind.size * rng.uniform(0.0, 1.0, WAVES) / (1.0 + rate_hz)
    angle = 2.0 * np.pi * (rate_hz * time_s[:, None] + rng.uniform(0.0, 1.0, WAVES))
    wave: np.ndarray = (size * np.sin(angle)).sum(axis=1)
    return wave


def _kind(name: str) -> Roughness:
    """Which part of the body a joint moves."""
    if any(part in name for part in ("hip", "knee", "ankle")):
        return LEGS
    return WAIST if "waist" in name else ARMS


def _limits(robot: Robot) -> tuple[np.ndarray, np.ndarray]:
    """Joint limits (J,) each [rad]; all but the last 2 % of the range."""
    low, high = np.maximum(robot.joint_pos_lower, -9.0), np.minimum(robot.joint_pos_upper, 9.0)
    middle, half = 0.5 * (low + high), 0.49 * (high - low)
    return middle - half, middle + half
