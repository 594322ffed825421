"""Rollouts hold together, and clips become poses by joint name."""

from dataclasses import replace

import numpy as np
import pytest

from asap.robot import Robot
from asap.rollout import Rollout, qpos_of_motion
from asap_deploy.errors import InputError
from asap_deploy.motion import Motion


@pytest.fixture(scope="module")
def robot() -> Robot:
    return Robot.load("g1")


@pytest.fixture(scope="module")
def rollout(robot) -> Rollout:
    joints = len(robot.joint_names)
    qpos = np.tile(robot.default_qpos(), (4, 1))
    qpos[:, robot.qpos_ids] = np.arange(4 * joints).reshape(4, joints) / 100
    return Rollout(
        robot=robot,
        time_s=np.array([1.0, 1.02, 1.04, 1.08]),
        qpos=qpos,
        joint_pos_target=np.zeros((4, joints)),
        joint_torque=np.zeros((4, joints)),
        contact_force=np.zeros((4, 2)),
    )


def small_motion(robot: Robot, joint_names: tuple[str, ...]) -> Motion:
    frames, joints = 3, len(joint_names)
    quat = np.tile([1.0, 0.0, 0.0, 0.0], (frames, 1, 1))
    return Motion(
        fps=10.0,
        joint_names=joint_names,
        joint_pos=np.arange(frames * joints).reshape(frames, joints) / 10,
        joint_vel=np.zeros((frames, joints)),
        body_names=(robot.base_name,),
        body_pos_w=np.array([[[0, 0, 0.7]], [[0.1, 0, 0.7]], [[0.2, 0, 0.8]]]),
        body_quat_wxyz=quat,
        body_lin_vel_w=np.zeros((frames, 1, 3)),
        body_ang_vel_w=np.zeros((frames, 1, 3)),
        foot_contact=np.ones((frames, 2), bool),
    )


def test_joints_are_cut_out_of_qpos_in_robot_order(rollout, robot):
    assert rollout.joint_pos[1, 3] == pytest.approx((len(robot.joint_names) + 3) / 100)
    assert rollout.num_frames == 4
    assert rollout.duration_s == pytest.approx(0.08)
    assert rollout.reference_joint_pos is None


def test_arrays_are_copies_that_cannot_be_written(rollout):
    time_s = np.array([0.0, 1.0, 2.0, 3.0])
    made = replace(rollout, time_s=time_s)
    time_s[0] = 9.0
    assert made.time_s[0] == 0.0
    with pytest.raises(ValueError, match="read-only"):
        made.qpos[0, 0] = 1.0


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        (
            "contact_force",
            np.zeros((4, 3)),
            r"'contact_force' has shape \(4, 3\), expected \(4, 2\)",
        ),
        ("qpos", np.zeros((4, 7)), r"'qpos' has shape \(4, 7\), expected \(4, 36\) for 4 frames"),
        ("reference_qpos", np.zeros((3, 36)), r"'reference_qpos' has shape \(3, 36\)"),
        ("error_mm", np.array([1.0, 2.0, np.nan, 3.0]), r"'error_mm' has 1 non-finite"),
        ("time_s", np.array([0.0, 1.0, 1.0, 2.0]), r"at least 2 increasing times"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(rollout, field, value, text):
    with pytest.raises(InputError, match=text):
        replace(rollout, **{field: value})


def test_a_clip_becomes_poses_by_joint_name(robot):
    names = (robot.joint_names[5], robot.joint_names[2])
    motion = small_motion(robot, names)
    qpos = qpos_of_motion(robot, motion)
    np.testing.assert_allclose(qpos[:, :3], motion.base_pos_w)
    np.testing.assert_allclose(qpos[:, robot.qpos_ids[5]], [0.0, 0.2, 0.4])
    np.testing.assert_allclose(qpos[:, robot.qpos_ids[2]], [0.1, 0.3, 0.5])
    others = [i for i in range(len(robot.joint_names)) if i not in (2, 5)]
    np.testing.assert_allclose(
        qpos[:, robot.qpos_ids[others]], np.tile(robot.default_joint_pos[others], (3, 1))
    )


def test_a_clip_is_read_between_its_frames(robot):
    qpos = qpos_of_motion(robot, small_motion(robot, robot.joint_names[:1]), np.array([0.05]))
    assert qpos[0, 0] == pytest.approx(0.05)
    assert qpos[0, robot.qpos_ids[0]] == pytest.approx(0.05)


def test_a_clip_with_an_unknown_joint_is_refused(robot):
    with pytest.raises(InputError, match="left_hip_pich_joint"):
        qpos_of_motion(robot, small_motion(robot, ("left_hip_pich_joint",)))
