"""Our own clips: laws of the planner, and that what ships is what the scripts make."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from toy_robots import arm

from asap.choreography import Script
from asap.cli_motions import MotionsMake
from asap.dynamics_check import check_dynamics
from asap.grounding import GRAVITY, com_w
from asap.make_motions import CLIPS, make_motion
from asap.motion_check import check_motion
from asap.motion_plan import Key, Plan, com_path, track
from asap.robot import Robot
from asap.shipped import MOTIONS_FOLDER
from asap_deploy.errors import InputError
from asap_deploy.motion import Motion
from asap_deploy.rotation import angle_between, yaw

TIME_S = np.arange(201) / 50.0
JUMPS = {"jump_forward": 0.28, "hop": 0.18, "jump_turn": 0.30}
"""Clips with a flight, and its length [s]."""


@pytest.fixture(scope="module")
def robot() -> Robot:
    return Robot.load("g1")


def shipped(name: str) -> Motion:
    return Motion.load(MOTIONS_FOLDER / "g1" / f"{name}.npz")


def plan_of(name: str, robot: Robot) -> Plan:
    script = Script(robot, duration_s=CLIPS[name].duration_s)
    CLIPS[name].write(script)
    return script.plan()


def test_a_track_goes_through_its_keys_without_kinks() -> None:
    keys = [Key(0.5, 0.0), Key(1.2, 1.0, 2.0, -3.0), Key(2.0, -0.5), Key(3.1, 0.2)]
    fine_s = np.linspace(0.0, 4.0, 40001)
    value = track(fine_s, keys)
    np.testing.assert_allclose(np.interp([0.5, 1.2, 2.0, 3.1], fine_s, value), [0, 1, -0.5, 0.2],
                               atol=1e-9)  # fmt: skip
    speed = np.gradient(value, fine_s)
    acc = np.gradient(speed, fine_s)
    assert speed[12000] == pytest.approx(2.0, abs=1e-3)
    assert acc[12000] == pytest.approx(-3.0, abs=1e-2)
    assert np.abs(np.diff(acc)[2:-2]).max() < 0.2  # no step in the acceleration at any key
    assert value[0] == value[4999] == 0.0 and value[-1] == pytest.approx(0.2)


def test_keys_may_be_whole_numbers_and_must_be_in_order() -> None:
    np.testing.assert_allclose(track(np.array([1.0]), [Key(0, 0), Key(2, 1)]), [0.5])
    with pytest.raises(InputError, match=r"keys must be in order of time: 2 s, then 1 s"):
        track(TIME_S, [Key(2.0, 0.0), Key(1.0, 1.0)])


def test_the_centre_of_mass_obeys_the_zero_moment_point() -> None:
    height = 0.67 + track(TIME_S, [Key(0.5, 0.0), Key(1.0, -0.1), Key(2.0, 0.0)])
    zmp = np.column_stack([track(TIME_S, [Key(1.0, 0.0), Key(1.4, 0.2)]), 0.1 * np.sin(TIME_S)])
    com = com_path(zmp, height, 50.0)
    acc = np.diff(com, 2, axis=0) * 2500.0
    lift = GRAVITY + np.diff(height, 2)[:, None] * 2500.0
    # The moment of the ground's force about p vanishes: lift (c - p) = height acc.
    np.testing.assert_allclose(lift * (com - zmp)[1:-1], height[1:-1, None] * acc, atol=1e-9)
    np.testing.assert_allclose(com[[0, -1]], zmp[[0, -1]], atol=1e-9)


def test_nothing_pushes_sideways_in_flight() -> None:
    speed = 0.2 * GRAVITY  # at take-off, for 0.4 s in the air
    takeoff, landing = Key(2.0, 0.0, speed, -GRAVITY), Key(2.4, 0.0, -speed, -GRAVITY)
    height = 0.67 + track(TIME_S, [Key(1.0, 0.0), takeoff, landing, Key(3.4, 0.0)])
    zmp = np.column_stack([np.where(TIME_S < 2.2, 0.0, 0.5), np.zeros(201)])
    com = com_path(zmp, height, 50.0)
    acc = np.diff(com[101:120], 2, axis=0) * 2500.0
    np.testing.assert_allclose(acc, 0.0, atol=1e-6)
    assert 0.5 < (com[120, 0] - com[101, 0]) / 0.38 < 2.0  # flies forward [m/s]


def test_what_a_script_cannot_mean_is_refused(robot: Robot, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no free biped: no motion can be made for it"):
        Script(arm(tmp_path), duration_s=1.0)
    with pytest.raises(InputError, match=r"robot 'g1' has no joint 'tail_\*'"):
        Script(robot, duration_s=1.0).joint("tail_*", (0.0, 1.0))
    with pytest.raises(InputError, match=r"there is no clip 'wlk' \(did you mean 'walk'\?\)"):
        make_motion("wlk", robot)


def test_without_mink_the_error_says_what_to_install(
    robot: Robot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mink", None)
    with pytest.raises(InputError, match=r"needs mink: pip install 'asap-toolkit\[motions\]'"):
        make_motion("sway", robot)


def test_both_sides_of_a_pattern_mirror_each_other(robot: Robot) -> None:
    script = Script(robot, duration_s=1.0)
    script.joint("*_shoulder_roll_joint", (0.0, 0.3))
    script.joint("*_elbow_joint", (0.0, 0.4))
    change = script.plan().joint_pos[0] - robot.default_joint_pos
    names = ["left_shoulder_roll_joint", "right_shoulder_roll_joint", "left_elbow_joint",
             "right_elbow_joint"]  # fmt: skip
    np.testing.assert_allclose(change[robot.joint_ids(names)], [0.3, -0.3, 0.4, 0.4])


def test_every_clip_ships_and_nothing_else_does() -> None:
    files = sorted((MOTIONS_FOLDER / "g1").glob("*.npz"))
    assert [file.stem for file in files] == sorted(CLIPS)
    assert sum(file.stat().st_size for file in files) < 3e6
    levels = [clip.level for clip in CLIPS.values()]
    assert {level: levels.count(level) >= 3 for level in levels} == {
        "easy": True, "medium": True, "hard": True
    }  # fmt: skip


@pytest.mark.parametrize("name", CLIPS)
def test_a_shipped_clip_is_sound(name: str, robot: Robot) -> None:
    motion = shipped(name)
    report, dynamics = check_motion(motion, robot), check_dynamics(motion, robot)
    assert report.problems == () and dynamics.problems == ()
    assert motion.fps == 50.0 and motion.duration_s == CLIPS[name].duration_s
    assert dynamics.torque_fraction < 0.9
    assert (np.abs(motion.joint_vel) / robot.joint_vel_limit).max() < 0.6
    assert (motion.joint_pos > robot.joint_pos_lower + 0.02).all()
    assert (motion.joint_pos < robot.joint_pos_upper - 0.02).all()


@pytest.mark.parametrize("name", CLIPS)
def test_a_shipped_clip_starts_and_ends_at_rest_in_the_default_pose(
    name: str, robot: Robot
) -> None:
    motion = shipped(name)
    for end in (0, -1):
        np.testing.assert_allclose(motion.joint_pos[end], robot.default_joint_pos, atol=0.02)
        assert np.abs(motion.joint_vel[end]).max() < 0.02
    assert abs(motion.base_pos_w[-1, 2] - robot.default_qpos()[2]) < 0.002


@pytest.mark.parametrize("name", CLIPS)
def test_standing_feet_of_a_shipped_clip_stay_where_they_are_and_level(
    name: str, robot: Robot
) -> None:
    motion, plan = shipped(name), plan_of(name, robot)
    feet = robot.body_index(robot.foot_names)
    pos, quat = motion.body_pos_w[:, feet], motion.body_quat_wxyz[:, feet]
    standing = plan.contact
    assert np.linalg.norm(pos - plan.foot_pos_w, axis=-1)[standing].max() < 0.003
    assert np.degrees(angle_between(quat, plan.foot_quat_wxyz))[standing].max() < 1.5
    # The plan itself does not move a foot that stands before and after.
    still = standing[1:] & standing[:-1]
    moved = np.linalg.norm(np.diff(plan.foot_pos_w, axis=0), axis=-1)
    assert moved[still].max() < 1e-9


@pytest.mark.parametrize("name", JUMPS)
def test_a_jump_flies_on_a_parabola(name: str, robot: Robot) -> None:
    motion, plan = shipped(name), plan_of(name, robot)
    flying = np.flatnonzero(~plan.contact.any(axis=1))
    assert (flying[-1] - flying[0] + 2) / 50.0 == pytest.approx(JUMPS[name])
    com = com_w(robot, motion.body_pos_w, motion.body_quat_wxyz)[flying]
    acc = np.diff(com, 2, axis=0) * 2500.0
    np.testing.assert_allclose(acc.mean(axis=0), [0.0, 0.0, -GRAVITY], atol=0.1)
    np.testing.assert_allclose(acc, np.tile([0.0, 0.0, -GRAVITY], (len(acc), 1)), atol=1.0)
    assert robot.sole_clearance(motion.body_pos_w, motion.body_quat_wxyz)[flying].min() > -0.001


def test_clips_do_what_their_names_say() -> None:
    assert shipped("walk").base_pos_w[-1, 0] == pytest.approx(1.75, abs=0.02)
    assert shipped("jump_forward").base_pos_w[-1, 0] == pytest.approx(0.25, abs=0.02)
    turned = np.degrees(yaw(shipped("jump_turn").base_quat_wxyz))
    assert turned[-1] == pytest.approx(135.0, abs=1.0)
    squat = shipped("squat").base_pos_w[:, 2]
    assert squat[0] - squat.min() > 0.2
    side = shipped("side_step").base_pos_w[:, 1]
    assert side.max() > 0.15 and abs(side[-1]) < 0.01
    kick = shipped("kick")
    assert kick.body_pos_w[:, kick.body_names.index("right_ankle_roll_link"), 2].max() > 0.25


@pytest.mark.parametrize("name", ["wave", "hop"])
def test_scripts_make_what_ships(name: str, robot: Robot) -> None:
    pytest.importorskip("mink")
    made = make_motion(name, robot)
    np.testing.assert_allclose(made.joint_pos, shipped(name).joint_pos, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", CLIPS)
def test_all_scripts_make_what_ships(name: str, robot: Robot) -> None:
    pytest.importorskip("mink")
    made = make_motion(name, robot)
    np.testing.assert_allclose(made.joint_pos, shipped(name).joint_pos, atol=1e-6)


def test_the_command_writes_checked_clips(tmp_path: Path) -> None:
    pytest.importorskip("mink")
    outcome = MotionsMake(clip=("squat",), out=tmp_path).run(lambda fraction: None)
    assert outcome.status == 0
    assert outcome.result["motions"]["squat"]["level"] == "easy"
    assert outcome.result["motions"]["squat"]["problems"] == []
    written = Motion.load(tmp_path / "squat.npz")
    np.testing.assert_allclose(written.joint_pos, shipped("squat").joint_pos, atol=1e-6)
    with pytest.raises(InputError, match=r"there is no clip 'sqat' \(did you mean 'squat'\?\)"):
        MotionsMake(clip=("sqat",), out=tmp_path).run(lambda fraction: None)
