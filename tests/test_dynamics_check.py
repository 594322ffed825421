"""The check of ground forces and torques: hand-computed cases, and planted faults are found."""

from __future__ import annotations

from pathlib import Path

import mujoco
import numpy as np
import pytest
from toy_robots import arm

from asap.dynamics_check import check_dynamics
from asap.grounding import GRAVITY, com_w
from asap.inverse_dynamics import contact_forces, ground_wrench, self_depth, sole_points
from asap.motions import import_motion, motion_from_poses
from asap.robot import Robot
from asap.shipped import MOTIONS_FOLDER
from asap_deploy.errors import InputError
from asap_deploy.motion import Motion
from asap_deploy.rotation import from_axis_angle, from_rotvec, multiply, rotate

FRAMES = 60
SQUARE = np.array([[0.1, 0.05, 0.0], [0.1, -0.05, 0.0], [-0.1, 0.05, 0.0], [-0.1, -0.05, 0.0]])


@pytest.fixture(scope="module")
def robot() -> Robot:
    return Robot.load("g1")


def shipped(name: str) -> Motion:
    return Motion.load(MOTIONS_FOLDER / "g1" / f"{name}.npz")


def rebuilt(
    robot: Robot, base_pos_w: np.ndarray, base_quat: np.ndarray, joint_pos: np.ndarray
) -> Motion:
    return motion_from_poses(robot, base_pos_w, base_quat, joint_pos, fps=50.0, source="test")


def posed(robot: Robot, *, rise: np.ndarray, turn: np.ndarray | None = None) -> Motion:
    """The default pose, moved up by (T,) and turned by rotation vectors (T, 3)."""
    qpos = np.tile(robot.default_qpos(), (len(rise), 1))
    qpos[:, 2] += rise
    if turn is not None:
        qpos[:, 3:7] = from_rotvec(turn)
    return rebuilt(robot, qpos[:, :3], qpos[:, 3:7], qpos[:, robot.qpos_ids])


def test_a_standing_robot_presses_with_its_weight_below_its_centre_of_mass(robot: Robot) -> None:
    still = posed(robot, rise=np.zeros(FRAMES))
    wrench = ground_wrench(still, robot)
    weight = robot.model.body_mass.sum() * GRAVITY
    np.testing.assert_allclose(wrench.force_w, np.tile([0.0, 0.0, weight], (FRAMES, 1)), atol=1e-6)
    com = com_w(robot, still.body_pos_w, still.body_quat_wxyz)
    np.testing.assert_allclose(wrench.zmp_w, com[:, :2], atol=1e-6)
    report = check_dynamics(still, robot)
    assert report.problems == ()
    assert report.max_force == pytest.approx(1.0) and report.flight_s == 0.0
    # The sole reaches from -54 to 132 mm about the ankle, the centre of mass is 32 mm before it.
    assert report.zmp_margin_mm == pytest.approx(86.0, abs=2.0)


def test_torques_of_a_standing_robot_are_those_that_a_simulation_settles_to(robot: Robot) -> None:
    data = mujoco.MjData(robot.model)
    data.qpos[:] = robot.default_qpos()
    for _ in range(400):  # held upright, the floor carries it
        data.ctrl[:] = robot.default_joint_pos
        mujoco.mj_step(robot.model, data)
        data.qpos[:2], data.qpos[3:7], data.qvel[:6] = 0.0, [1.0, 0.0, 0.0, 0.0], data.qvel[:6] * 0
    knee = robot.joint_ids(["left_knee_joint"])[0]
    settled = np.abs(data.actuator_force[knee]) / robot.torque_limit[knee]
    fraction = check_dynamics(posed(robot, rise=np.zeros(FRAMES)), robot).torque_fraction
    assert 0.3 * settled < fraction < 2.0 * settled + 0.2


def test_a_freely_falling_robot_needs_no_ground(robot: Robot) -> None:
    time_s = np.arange(FRAMES) / 50.0
    falling = posed(robot, rise=10.0 - 0.5 * GRAVITY * time_s**2)
    inner = slice(5, -5)
    assert np.abs(ground_wrench(falling, robot).force_w[inner]).max() < 0.1


def test_sole_points_lie_under_the_feet(robot: Robot) -> None:
    qpos = robot.default_qpos()
    pos, quat = robot.forward_kinematics(
        qpos[None, :3], qpos[None, 3:7], qpos[None, robot.qpos_ids]
    )
    for foot, points in zip(robot.body_index(robot.foot_names), sole_points(robot), strict=True):
        world = pos[0, foot] + rotate(quat[0, foot], points)
        assert np.abs(world[:, 2]).max() < 0.0015  # the default pose stands 0.3 degrees on its toes
        assert np.ptp(world[:, 0]) == pytest.approx(0.186, abs=0.002)  # 132 + 54 mm


def test_contact_forces_add_up_to_a_wrench_that_friction_allows() -> None:
    force, moment = np.array([50.0, -30.0, 300.0]), np.array([6.0, -12.0, 3.0])
    forces, missing = contact_forces(force, moment, SQUARE)
    np.testing.assert_allclose(forces.sum(axis=0), force, atol=0.01)
    np.testing.assert_allclose(np.cross(SQUARE, forces).sum(axis=0), moment, atol=0.01)
    assert missing < 0.01
    assert (np.hypot(forces[:, 0], forces[:, 1]) <= 0.8 * forces[:, 2] + 1e-6).all()


@pytest.mark.parametrize(
    ("force", "moment"),
    [((0.0, 0.0, -100.0), (0.0, 0.0, 0.0)),  # pulled down
     ((290.0, 0.0, 300.0), (0.0, 0.0, 0.0)),  # slides
     ((0.0, 0.0, 300.0), (0.0, -45.0, 0.0)),  # tips over the front edge, 10 cm ahead
     ((0.0, 0.0, 300.0), (0.0, 0.0, 40.0))],  # twists: 0.8 * 300 N at 11 cm holds 27 Nm
)  # fmt: skip
def test_contact_forces_say_what_the_floor_cannot_give(
    force: tuple[float, ...], moment: tuple[float, ...]
) -> None:
    assert contact_forces(np.array(force), np.array(moment), SQUARE)[1] > 20.0


def test_a_clip_played_three_times_as_fast_is_too_much(robot: Robot) -> None:
    fast = check_dynamics(shipped("walk").replace(fps=150.0), robot).problems
    assert any("zero-moment point is" in text and "outside the soles" in text for text in fast)
    fast = check_dynamics(shipped("kick").replace(fps=150.0), robot).problems
    assert any("Nm at" in text and "its motor has" in text for text in fast)


def test_a_tilted_clip_tips_over(robot: Robot) -> None:
    motion = shipped("squat")
    tilt = from_axis_angle(np.array([0.0, 1.0, 0.0]), np.array(np.radians(14.0)))
    tilted = rebuilt(robot, rotate(tilt, motion.base_pos_w), multiply(tilt, motion.base_quat_wxyz),
                     motion.joint_pos)  # fmt: skip
    lowest = robot.sole_clearance(tilted.body_pos_w, tilted.body_quat_wxyz).min()
    lowered = tilted.base_pos_w - np.array([0.0, 0.0, lowest])
    tilted = rebuilt(robot, lowered, tilted.base_quat_wxyz, motion.joint_pos)
    assert any("mm outside the soles" in text for text in check_dynamics(tilted, robot).problems)


def test_a_flight_that_hovers_is_found(robot: Robot) -> None:
    motion = shipped("jump_forward")
    top = int(motion.base_pos_w[:, 2].argmax())
    order = np.concatenate([np.arange(top), np.full(15, top), np.arange(top, motion.num_frames)])
    hovering = rebuilt(robot, motion.base_pos_w[order], motion.base_quat_wxyz[order],
                       motion.joint_pos[order])  # fmt: skip
    problems = check_dynamics(hovering, robot).problems
    assert any("departs from free fall by" in text for text in problems)


def test_spinning_up_in_the_air_is_found(robot: Robot) -> None:
    time_s = np.arange(FRAMES) / 50.0
    rise = 3.0 - 0.5 * GRAVITY * (time_s - 0.6) ** 2
    steady = posed(robot, rise=rise, turn=np.outer(0.5 * time_s, [0.0, 0.0, 1.0]))
    faster = posed(robot, rise=rise, turn=np.outer(3.0 * time_s**2, [0.0, 0.0, 1.0]))
    steady_spin = check_dynamics(steady, robot).problems
    assert not any("angular momentum" in text for text in steady_spin)
    assert any(
        "angular momentum changes by" in text for text in check_dynamics(faster, robot).problems
    )


def test_bodies_inside_each_other_are_found(robot: Robot) -> None:
    motion = shipped("sway")
    assert self_depth(motion, robot).max() < 0.001
    joint_pos = motion.joint_pos.copy()
    joint_pos[100:120, robot.joint_ids(["left_shoulder_roll_joint"])[0]] -= 0.7
    pressed = rebuilt(robot, motion.base_pos_w, motion.base_quat_wxyz, joint_pos)
    depth = self_depth(pressed, robot)
    assert depth[100:120].min() > 0.01 and depth[:100].max() < 0.001
    assert any("inside each other" in text for text in check_dynamics(pressed, robot).problems)


def test_what_cannot_be_checked_is_refused(robot: Robot, tmp_path: Path) -> None:
    motion = shipped("wave")
    with pytest.raises(InputError, match="is no free biped: its ground forces are not known"):
        check_dynamics(motion, arm(tmp_path))
    poor = motion.replace(joint_names=("other", *motion.joint_names[1:]))
    with pytest.raises(InputError, match="lacks 1 joints of robot 'g1', the first is 'left_hip"):
        check_dynamics(poor, robot)


def test_clips_of_others_can_be_checked(robot: Robot, shared_data: Path) -> None:
    clip = shared_data / "asap" / "motions" / "jump_forward_level1.pkl"
    report = check_dynamics(import_motion(clip, robot), robot)
    # Retargeted from video: nobody made sure that the ground can carry it.
    assert report.problems and np.isfinite(report.torque_fraction)
