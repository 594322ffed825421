"""Mending clips of people: mechanics holds afterwards, and what was sound stays as it was."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from motion_clips import hop_clip, on_floor

from asap.cli import main
from asap.dynamics_check import check_dynamics
from asap.inputs import open_motion
from asap.mend_motion import mend, plan_of
from asap.motions import motion_from_poses, sole_velocity_w
from asap.robot import Robot
from asap.shipped import MOTIONS_FOLDER
from asap_deploy.errors import InputError
from asap_deploy.motion import Motion
from asap_deploy.rotation import from_axis_angle, multiply, projected_gravity

pytest.importorskip("mink")

SHARED = Path(__file__).parents[2] / "shared" / "data" / "asap" / "motions"


@pytest.fixture(scope="module")
def robot() -> Robot:
    return Robot.load("g1")


def shipped(name: str) -> Motion:
    return Motion.load(MOTIONS_FOLDER / "g1" / f"{name}.npz")


def leaning(robot: Robot, motion: Motion, pitch_rad: float) -> Motion:
    """As carried over from a person: the whole body turned about its feet, on its toes."""
    turn = from_axis_angle(np.array([0.0, 1.0, 0.0]), np.array(pitch_rad))
    quat = multiply(turn[None], motion.base_quat_wxyz)
    base = motion.base_pos_w.copy()
    base[:, 2] = on_floor(robot, quat, motion.joint_pos)
    return motion_from_poses(robot, base, quat, motion.joint_pos, fps=motion.fps, source="leaning")


def stands(robot: Robot, motion: Motion, contact: np.ndarray) -> tuple[float, float]:
    """Fastest standing sole [m/s], and how far it leans at most [rad]."""
    feet = robot.body_index(robot.foot_names)
    speed = sole_velocity_w(
        robot, motion.body_quat_wxyz, motion.body_lin_vel_w, motion.body_ang_vel_w
    )
    gravity = projected_gravity(motion.body_quat_wxyz[:, feet])
    lean = np.arcsin(np.linalg.norm(gravity[..., :2], axis=-1))
    inner = contact & np.roll(contact, 1, axis=0) & np.roll(contact, -1, axis=0)
    return float(np.linalg.norm(speed, axis=-1)[inner].max()), float(lean[inner].max())


@pytest.mark.parametrize(("name", "pitch_rad"), [("squat", -0.2), ("kick", -0.15), ("bow", -0.25)])
def test_a_clip_that_would_tip_over_stands(robot: Robot, name: str, pitch_rad: float) -> None:
    clip = leaning(robot, shipped(name), pitch_rad)
    assert check_dynamics(clip, robot).zmp_margin_mm < -20.0
    mended = mend(clip, robot)
    report = check_dynamics(mended, robot)
    assert report.problems == ()
    assert report.zmp_margin_mm > 15.0
    slides, leans = stands(robot, mended, plan_of(clip, robot).contact)
    assert slides < 0.02 and leans < 0.01
    # What is above the hips does as before.
    upper = [i for i, joint in enumerate(robot.joint_names) if "shoulder" in joint]
    assert np.abs(mended.joint_pos - clip.joint_pos)[:, upper].mean() < 0.03


@pytest.mark.parametrize("name", ["wave", "kick", "walk", "jump_forward"])
def test_a_sound_clip_stays_sound_and_near_itself(robot: Robot, name: str) -> None:
    clip = shipped(name)
    mended = mend(clip, robot)
    report = check_dynamics(mended, robot)
    assert report.problems == ()
    away = np.linalg.norm(mended.body_pos_w - clip.body_pos_w, axis=-1)
    assert away.mean() < 0.03
    assert mended.num_frames == clip.num_frames and mended.fps == clip.fps
    if name == "jump_forward":
        assert report.flight_s > 0.1


def test_a_jump_that_no_motor_can_throw_becomes_shorter(robot: Robot) -> None:
    """Free fall for 0.8 s asks for 4 m/s: the soles stay on the floor for longer instead."""
    base_pos_w, quat, joint_pos, _ = hop_clip(robot, fps=50.0, flight_s=0.8)
    clip = motion_from_poses(robot, base_pos_w, quat, joint_pos, fps=50.0, source="hop")
    plan = plan_of(clip, robot)
    in_air = ~plan.contact.any(axis=1)
    assert 0.3 < in_air.sum() / clip.fps <= 0.42
    acc = np.diff(plan.com_w[:, 2], 2) * clip.fps**2
    np.testing.assert_allclose(acc[in_air[1:-1]], -9.81, atol=0.1)
    assert acc[~in_air[1:-1]].max() < 15.0


def test_the_command_says_what_was_and_what_became_of_it(
    robot: Robot, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    leaning(robot, shipped("bow"), -0.25).save(tmp_path / "bow.npz")
    told = tmp_path / "told.json"
    assert main(["motions", "convert", "--motion", str(tmp_path / "bow.npz"), "--mend", "--png",
                 "--out", str(tmp_path / "out"), "--json", str(told)]) == 0  # fmt: skip
    (facts,) = json.loads(told.read_text())["mended"].values()
    assert facts["before"]["zmp_margin_mm"] < 0.0 < facts["after"]["zmp_margin_mm"]
    assert facts["after"]["problems"] == [] and 10.0 < facts["moved_mm"] < 500.0
    written = Motion.load(tmp_path / "out" / "bow.npz")
    assert check_dynamics(written, robot).problems == ()
    assert (tmp_path / "out" / "bow.png").stat().st_size > 20_000
    assert "Mended: before, after" in capsys.readouterr().out


def test_a_robot_without_two_feet_is_refused() -> None:
    robot = Robot.load("real_logs/robots/so101")
    clip = shipped("squat")
    with pytest.raises(InputError, match="no free biped"):
        mend(clip, robot)


@pytest.mark.skipif(not SHARED.exists(), reason=f"needs the published clips in {SHARED}")
@pytest.mark.parametrize(
    "name", ["kick_level1", "kick_level3", "squat_level1", "single_foot_balance_level1"]
)
def test_published_clips_become_possible(name: str) -> None:
    robot = Robot.load("g1:asap")
    clip = open_motion(SHARED / f"{name}.pkl", robot, ground=True).motion
    before, after = check_dynamics(clip, robot), check_dynamics(mend(clip, robot), robot)
    assert before.zmp_margin_mm < -100.0 and before.torque_fraction > 1.0
    assert after.zmp_margin_mm > 15.0 and after.torque_fraction < 0.8
