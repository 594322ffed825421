"""Each fault of a clip is named in one sentence, with its size and where it is."""

from __future__ import annotations

import numpy as np
import pytest
from motion_clips import hop_clip, squat_clip

from asap.motion_check import check_motion
from asap.motions import import_motion, motion_from_poses
from asap.robot import Robot
from asap_deploy.errors import InputError
from asap_deploy.motion import Motion
from asap_deploy.rotation import from_axis_angle, multiply


@pytest.fixture(scope="module")
def robot() -> Robot:
    return Robot.load("g1")


@pytest.fixture(scope="module")
def clip(robot: Robot) -> Motion:
    return motion_from_poses(robot, *squat_clip(robot), fps=50.0, source="made by a test")


def rebuilt(robot: Robot, clip: Motion, *, base=None, quat=None, joints=None, fps=50.0) -> Motion:
    """A consistent clip with some of its poses changed."""
    return motion_from_poses(
        robot,
        clip.base_pos_w if base is None else base,
        clip.base_quat_wxyz if quat is None else quat,
        clip.joint_pos if joints is None else joints,
        fps=fps,
        source="",
    )


def only_problem(motion: Motion, robot: Robot) -> str:
    (problem,) = check_motion(motion, robot).problems
    return problem


def test_a_sound_clip_has_no_problems_and_its_figures_are_right(robot, clip):
    report = check_motion(clip, robot)
    assert report.problems == () and report.grounded
    assert (report.frames, report.fps, report.joints) == (151, 50.0, 29)
    assert abs(report.sole_clearance_m) < 1e-9
    # knee(t) = 0.7 + 0.4 sin(2 pi t / 1.5): at most 0.4 * 2 pi / 1.5 = 1.68 rad/s, the shoulder
    # 0.5 * 2 pi = 3.14 rad/s, less 0.3 % because central differences round off a sine
    assert report.max_joint_speed == pytest.approx(np.pi, rel=5e-3)


def test_a_hop_is_no_hover(robot):
    motion = motion_from_poses(robot, *hop_clip(robot, fps=50.0)[:3], fps=50.0, source="")
    report = check_motion(motion, robot)
    assert report.grounded and abs(report.sole_clearance_m) < 1e-6
    assert not any("hover" in problem for problem in report.problems)


def test_sinking_and_hovering_soles_are_told_with_their_depth(robot, clip):
    sunk = rebuilt(robot, clip, base=clip.base_pos_w - [0, 0, 0.031])
    problems = check_motion(sunk, robot).problems
    assert len(problems) == 2 and not check_motion(sunk, robot).grounded
    assert problems[0].startswith("sole of left_ankle_roll_link sinks 31 mm at ")
    assert "(151 frames deeper than 5 mm); import with ground=True" in problems[0]
    hovering = rebuilt(robot, clip, base=clip.base_pos_w + np.array([0, 0, 0.07]))
    assert "hovers: in stance the lower sole is 70 mm above" in only_problem(hovering, robot)
    assert check_motion(hovering, robot).sole_clearance_m == pytest.approx(0.07)


def test_joints_beyond_their_range_are_named_with_the_excess(robot, clip):
    (place,) = robot.joint_ids(["left_wrist_roll_joint"])
    joints = clip.joint_pos.copy()
    joints[:, place] = (robot.joint_pos_upper[place] + 0.125) * np.sin(
        np.pi * np.linspace(0, 1, len(joints))
    )
    problem = only_problem(rebuilt(robot, clip, joints=joints), robot)
    assert "left_wrist_roll_joint is 0.125 rad beyond its limit" in problem
    assert "at 1.50 s (frame 75)" in problem


def test_joints_faster_than_their_motors_are_named(robot, clip):
    (place,) = robot.joint_ids(["right_wrist_yaw_joint"])
    time_s = np.arange(clip.num_frames) / 50.0
    joints = clip.joint_pos.copy()
    joints[:, place] = 1.2 * np.sin(2 * np.pi * 4.0 * time_s)  # 1.2 * 25.1 = 30 rad/s, limit 22
    # central differences give sin(w h) / (w h) = 0.959 of it at 50 Hz
    problem = only_problem(rebuilt(robot, clip, joints=joints), robot)
    assert "right_wrist_yaw_joint moves at 28.9" in problem and "its motor reaches 22.0" in problem


def test_jumps_of_base_and_joints_are_found_where_they_are(robot, clip):
    later = (np.arange(clip.num_frames) >= 90)[:, None]
    moved = rebuilt(robot, clip, base=clip.base_pos_w + 0.3 * later * [1, 0, 0])
    problems = check_motion(moved, robot).problems
    assert "base position jumps 0.30 m from one frame to the next at 1.80 s (frame 90)" in problems
    turn = from_axis_angle(np.array([0, 0, 1.0]), 0.9 * later[:, 0])
    turned = rebuilt(robot, clip, quat=multiply(turn, clip.base_quat_wxyz))
    problems = check_motion(turned, robot).problems
    assert (
        "base attitude jumps 0.90 rad from one frame to the next at 1.80 s (frame 90)" in problems
    )
    (place,) = robot.joint_ids(["waist_yaw_joint"])
    joints = clip.joint_pos + 0.8 * later * (np.arange(29) == place)
    problems = check_motion(rebuilt(robot, clip, joints=joints), robot).problems
    assert (
        "waist_yaw_joint jumps 0.80 rad from one frame to the next at 1.80 s (frame 90)" in problems
    )


def test_feet_that_slide_while_they_stand_are_told(robot, clip):
    time_s = np.arange(clip.num_frames)[:, None] / 50.0
    sliding = rebuilt(robot, clip, base=clip.base_pos_w + 0.2 * time_s * [1, 0, 0])
    problems = check_motion(sliding, robot).problems
    assert len(problems) == 2
    assert problems[0].startswith("left_ankle_roll_link slides while it stands: 20 cm/s")


def test_bodies_that_disagree_with_the_joints_are_told(robot, clip):
    shift = np.zeros((30, 3))
    shift[robot.body_names.index("left_elbow_link")] = [0, 0.05, 0]
    moved = clip.replace(body_pos_w=clip.body_pos_w + shift)
    assert "body 'left_elbow_link' is 50 mm from where the joints put it" in only_problem(
        moved, robot
    )
    quat = clip.body_quat_wxyz.copy()
    quat[:, 20] = multiply(from_axis_angle(np.array([1.0, 0, 0]), np.array(0.3)), quat[:, 20])
    turned = clip.replace(body_quat_wxyz=quat)
    assert "is turned 17 deg from where the joints put it" in only_problem(turned, robot)
    names = list(clip.joint_names)
    names[3], names[9] = names[9], names[3]  # knees swapped: same squat, so swap the elbows too
    names[18], names[25] = names[25], names[18]
    swapped = clip.replace(joint_names=tuple(names))
    assert any("in another joint order" in p for p in check_motion(swapped, robot).problems)


def test_velocities_that_are_no_derivatives_are_told(robot, clip):
    for name, unit in (("joint_vel", "rad/s"), ("body_lin_vel_w", "m/s"),
                       ("body_ang_vel_w", "rad/s")):  # fmt: skip
        wrong = clip.replace(**{name: getattr(clip, name) + 0.4})
        problems = [p for p in check_motion(wrong, robot).problems if p.startswith(name)]
        assert len(problems) == 1
        assert f"differs from the derivative of the positions by 0.40 {unit}" in problems[0]


def test_a_lying_base_and_quaternions_that_are_not_unit_are_told(robot, clip):
    lying = multiply(from_axis_angle(np.array([0, 1.0, 0]), np.array(1.5)), clip.base_quat_wxyz)
    problems = check_motion(rebuilt(robot, clip, quat=lying), robot).problems
    assert "the base is tilted 86 deg for most of the clip" in problems[0]
    stretched = clip.replace(body_quat_wxyz=clip.body_quat_wxyz * 1.0005)
    assert "not unit quaternions: norms from 1.0005" in only_problem(stretched, robot)


def test_rates_that_do_not_fit_and_short_clips_are_told(robot, clip):
    slow = rebuilt(robot, clip, fps=30.0)
    assert "rate 30 Hz does not divide the control rate 50 Hz" in only_problem(slow, robot)
    for fps in (25.0, 100.0):
        assert not any(
            "rate" in p for p in check_motion(rebuilt(robot, clip, fps=fps), robot).problems
        )
    short = motion_from_poses(
        robot, *(array[:10] for array in squat_clip(robot)), fps=50.0, source=""
    )
    assert "too short: 10 frames, 0.18 s" in only_problem(short, robot)


def test_a_clip_of_another_robot_is_refused(robot, clip):
    held = Robot.load("g1:23dof")
    fewer = motion_from_poses(held, *squat_clip(held), fps=50.0, source="")
    with pytest.raises(InputError, match=r"lacks 6 joints of robot 'g1'.*left_wrist_roll_joint"):
        check_motion(fewer, robot)
    assert check_motion(fewer, held).problems == ()


def test_published_clips_are_grounded_after_import_and_named_before(shared_data):
    robot = Robot.load("g1:asap")
    for path in sorted((shared_data / "asap" / "motions").glob("*.pkl")):
        report = check_motion(import_motion(path, robot), robot)
        assert report.grounded and not any("derivative" in p for p in report.problems), path.name
    raw = import_motion(shared_data / "asap" / "motions" / "squat_level3.pkl", robot, ground=False)
    assert any("hovers" in problem for problem in check_motion(raw, robot).problems)
    glitch = shared_data / "asap" / "motions" / "single_foot_balance_level2.pkl"
    problems = check_motion(import_motion(glitch, robot), robot).problems
    assert any(p.startswith("base position jumps") and "9.62 s" in p for p in problems)
