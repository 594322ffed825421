"""A reference motion as if a robot had done it exactly: for pictures and comparisons.

contact_sheet(as_rollout(mended, robot, beside=original), Path("kick.png"))
"""

from __future__ import annotations

import numpy as np

from asap.grounding import GRAVITY
from asap.inverse_dynamics import joint_torques
from asap.robot import Robot
from asap.rollout import Rollout, qpos_of_motion
from asap_deploy.motion import Motion


def as_rollout(
    motion: Motion, robot: Robot, *, beside: Motion | None = None, title: str = ""
) -> Rollout:
    """A motion as a rollout; torques are those of its inverse dynamics.

    Args:
        motion: The clip.
        robot: Whose joints and bodies it has.
        beside: Another clip of the same length, drawn as the reference.
        title: One line for a person.
    """
    weight = GRAVITY * float(robot.model.body_mass.sum())
    stands = motion.foot_contact / np.maximum(motion.foot_contact.sum(axis=1, keepdims=True), 1)
    error = None
    if beside is not None:
        away = np.linalg.norm(motion.body_pos_w - beside.body_pos_w, axis=-1)
        error = 1000.0 * away.mean(axis=1)
    return Rollout(
        robot=robot,
        time_s=np.arange(motion.num_frames) / motion.fps,
        qpos=qpos_of_motion(robot, motion),
        reference_qpos=None if beside is None else qpos_of_motion(robot, beside),
        joint_pos_target=motion.joint_pos,
        joint_torque=joint_torques(motion, robot),
        contact_force=weight * stands,
        error_mm=error,
        title=title,
    )
