"""The motions that come with the toolkit: short scripts, performed by the whole body.

    motion = make_motion("squat", Robot.load("g1"))
    motion.save("motions/g1/squat.npz")

``CLIPS`` lists them. Offsets are from the robot's default pose; ``choreography`` explains the
verbs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from asap.choreography import Script
from asap.momentum_fit import fit_momentum
from asap.motions import motion_from_poses
from asap.robot import Robot
from asap.whole_body import solve_poses
from asap_deploy.errors import InputError, suggestion
from asap_deploy.motion import Motion

_BINARY_PLACES = {
    "joint_pos": 20, "joint_vel": 14, "body_pos_w": 22, "body_quat_wxyz": 20,
    "body_lin_vel_w": 13, "body_ang_vel_w": 12,
}  # fmt: skip
"""Digits kept behind the binary point: 1e-6 rad, 2e-7 m, 1e-4 m/s, 2e-4 rad/s."""


class Clip(NamedTuple):
    """One motion."""

    level: str
    """easy, medium or hard"""
    duration_s: float
    write: Callable[[Script], None]


def make_motion(name: str, robot: Robot) -> Motion:
    """Perform one of ``CLIPS``.

    Args:
        name: Of the clip.
        robot: A robot with the joints of a G1.

    Returns:
        The motion at 50 frames per second.

    Raises:
        InputError: If there is no such clip, or the robot cannot perform it.
    """
    if name not in CLIPS:
        raise InputError(f"there is no clip '{name}'{suggestion(name, CLIPS)}")
    script = Script(robot, duration_s=CLIPS[name].duration_s)
    CLIPS[name].write(script)
    return perform(script, source=f"made by asap.make_motions ({name}); Apache-2.0")


def perform(script: Script, *, source: str) -> Motion:
    """A script as a motion: inverse kinematics, then what mechanics asks for."""
    robot, plan = script.robot, script.plan()
    qpos = fit_momentum(robot, plan, solve_poses(robot, plan))
    return _rounded(
        motion_from_poses(
            robot, qpos[:, :3], qpos[:, 3:7], qpos[:, robot.qpos_ids], fps=plan.fps, source=source
        )
    )


def _rounded(motion: Motion) -> Motion:
    """Numbers as fine as anyone can use: files then take a third of the space."""
    rounded = {
        name: np.round(getattr(motion, name) * 2.0**bits) * 2.0**-bits
        for name, bits in _BINARY_PLACES.items()
    }
    return motion.replace(**rounded)


def sway(script: Script) -> None:
    """Shift the weight from foot to foot, the arms hanging."""
    script.weight((0.5, 0.0), (1.4, 0.75), (2.5, -0.75), (3.6, 0.75), (4.7, -0.75), (5.6, 0.0))
    script.joint("waist_roll_joint", (0.5, 0), (1.4, 0.08), (2.5, -0.08), (3.6, 0.08),
                 (4.7, -0.08), (5.6, 0.0))  # fmt: skip


def squat(script: Script) -> None:
    """Down with the arms forward, and up again."""
    script.height((0.5, 0.0), (1.9, -0.18), (2.5, -0.18), (3.9, 0.0))
    script.lean((0.5, 0.0), (1.9, 0.35), (2.5, 0.35), (3.9, 0.0))
    script.joint("*_shoulder_pitch_joint", (0.5, 0.0), (1.9, -1.5), (2.5, -1.5), (3.9, 0.0))
    script.joint("*_elbow_joint", (0.5, 0.0), (1.9, 0.6), (2.5, 0.6), (3.9, 0.0))


def wave(script: Script) -> None:
    """Stand, lift the right arm, wave four times from the elbow, rest it again."""
    down, wide = 2.8, 0.4
    for joint, lifted in (
        ("shoulder_pitch", -0.2),
        ("shoulder_roll", -1.1),
        ("shoulder_yaw", -1.4),
    ):
        script.joint(f"right_{joint}_joint", (0.1, 0.0), (1.2, lifted), (down, lifted), (3.9, 0.0))
    swings = [(1.2 + 0.2 * k, -0.5 + wide * (-1) ** k) for k in range(1, 8)]
    script.joint("right_elbow_joint", (0.1, 0.0), (1.2, -0.5), *swings, (down, -0.5), (3.9, 0.0))


def bow(script: Script) -> None:
    """Bow from the hips with the arms at the sides."""
    script.height((0.5, 0.0), (1.8, -0.05), (2.4, -0.05), (3.7, 0.0))
    script.lean((0.5, 0.0), (1.8, 0.45), (2.4, 0.45), (3.7, 0.0))
    script.joint("waist_pitch_joint", (0.5, 0.0), (1.8, 0.3), (2.4, 0.3), (3.7, 0.0))
    script.joint("*_shoulder_pitch_joint", (0.5, 0.0), (1.8, -0.4), (2.4, -0.4), (3.7, 0.0))
    script.joint("*_elbow_joint", (0.5, 0.0), (1.8, 0.5), (2.4, 0.5), (3.7, 0.0))


def side_step(script: Script) -> None:
    """Two steps to the left, two back to the right, knees bent a little more."""
    script.height((0.2, 0.0), (1.0, -0.03), (5.3, -0.03), (6.1, 0.0))
    script.step("left", 1.2, 1.7, left=0.15)
    script.step("right", 1.9, 2.4, left=0.15)
    script.step("right", 3.6, 4.1, left=-0.15)
    script.step("left", 4.3, 4.8, left=-0.15)


def kick(script: Script) -> None:
    """Stand on the left leg, swing the right one back and forward, put it down."""
    script.swing("right", (1.2, 0, 0, 0), (1.8, -0.2, 0, 0.13), (2.25, 0.42, 0.03, 0.25),
                 (3.0, -0.05, 0.02, 0.1), (3.7, 0, 0, 0))  # fmt: skip
    script.lean((1.3, 0.0), (1.8, 0.15), (2.25, -0.1), (3.0, 0.0))
    script.joint("left_shoulder_pitch_joint", (1.0, 0), (1.8, 0.5), (2.25, -0.9), (3.5, 0))
    script.joint("right_shoulder_pitch_joint", (1.0, 0), (1.8, -0.6), (2.25, 0.6), (3.5, 0))


def step_forward_back(script: Script) -> None:
    """A step forward with each foot, a pause, and a step back with each."""
    script.step("left", 1.0, 1.6, forward=0.3)
    script.step("right", 1.8, 2.4, forward=0.3)
    script.step("right", 3.8, 4.4, forward=-0.3)
    script.step("left", 4.6, 5.2, forward=-0.3)
    for side, sign in (("left", 1.0), ("right", -1.0)):
        script.joint(f"{side}_shoulder_pitch_joint", (1.0, 0), (1.6, 0.4 * sign), (2.4, 0),
                     (3.8, 0), (4.4, 0.4 * sign), (5.2, 0))  # fmt: skip


def walk(script: Script) -> None:
    """Eight steps forward, arms against legs, feet a little closer than standing."""
    foot, start_s, length_s, pause_s = "left", 0.9, 0.46, 0.1
    keys = [(0.8, 0.0)]
    for k in range(8):
        reach = 0.25 if k in (0, 7) else 0.5
        inward = {0: 0.03, 1: 0.03, 6: -0.03, 7: -0.03}.get(k, 0.0)
        script.step(foot, start_s, start_s + length_s, forward=reach, lift=0.06,
                    left=-inward if foot == "left" else inward)  # fmt: skip
        keys.append((start_s + length_s, 0.5 if foot == "left" else -0.5))
        foot, start_s = "right" if foot == "left" else "left", start_s + length_s + pause_s
    keys[-1] = (keys[-1][0] + 0.2, 0.0)
    script.lean((0.4, 0.0), (1.2, 0.06), (start_s - 0.6, 0.06), (start_s + 0.2, 0.0))
    script.joint("left_shoulder_pitch_joint", *keys)
    script.joint("right_shoulder_pitch_joint", *[(t, -v) for t, v in keys])
    script.joint("waist_yaw_joint", *[(t, -0.3 * v) for t, v in keys])


def jump_forward(script: Script) -> None:
    """Jump 25 cm forward with both feet, arms swinging along."""
    script.jump(1.6, 0.28, forward=0.25)
    script.lean((0.8, 0), (1.25, 0.3), (1.75, 0.12), (2.3, 0.2), (3.0, 0))
    script.joint("*_shoulder_pitch_joint", (0.7, 0), (1.2, 0.7), (1.75, -0.5), (2.3, 0.1), (3.0, 0))


def hop(script: Script) -> None:
    """Stand on the left leg, hop once, stand still, put the other foot down."""
    script.swing("right", (1.2, 0, 0, 0), (1.9, -0.1, 0.02, 0.12), (3.9, -0.1, 0.02, 0.12),
                 (4.6, 0, 0, 0))  # fmt: skip
    script.jump(2.8, 0.18, feet=("left",), dip=0.09, dip_s=0.4, push_s=0.26, rise=-0.02)
    script.joint("*_shoulder_pitch_joint", (2.1, 0), (2.5, 0.4), (2.9, -0.4), (3.5, 0))
    script.joint("*_shoulder_roll_joint", (1.0, 0), (1.9, 0.3), (3.9, 0.3), (4.8, 0))


def jump_turn(script: Script) -> None:
    """Jump and turn 135 degrees to the left in the air, the body winding up first."""
    script.jump(1.6, 0.3, turn=0.75 * np.pi)
    script.lean((0.8, 0.0), (1.25, 0.3), (1.75, 0.1), (2.3, 0.2), (3.0, 0.0))
    script.joint("waist_yaw_joint", (0.7, 0.0), (1.25, -0.6), (1.75, 0.3), (2.4, 0.0))
    script.joint("*_shoulder_pitch_joint", (0.7, 0.0), (1.2, 0.6), (1.75, -0.4), (2.3, 0.1),
                 (3.0, 0.0))  # fmt: skip
    script.joint("*_shoulder_roll_joint", (0.7, 0.0), (1.25, 0.2), (2.2, 0.2), (2.9, 0.0))


CLIPS: dict[str, Clip] = {
    "sway": Clip("easy", 6.0, sway),
    "squat": Clip("easy", 4.4, squat),
    "wave": Clip("easy", 4.0, wave),
    "bow": Clip("easy", 4.2, bow),
    "side_step": Clip("medium", 7.0, side_step),
    "kick": Clip("medium", 5.0, kick),
    "step_forward_back": Clip("medium", 6.5, step_forward_back),
    "walk": Clip("medium", 6.8, walk),
    "jump_forward": Clip("hard", 3.8, jump_forward),
    "hop": Clip("hard", 6.0, hop),
    "jump_turn": Clip("hard", 4.0, jump_turn),
}
"""Every clip: level, duration [s], script."""
