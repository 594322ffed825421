"""The check of logs: sound logs pass, planted defects are found and named, repairs undo them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from asap.bench_logs import (
    Sound,
    SweepConfig,
    played,
    recorded,
    robot_of,
    sweep,
    weaker_motors,
)
from asap.log_check import CHECKS, Finding, LogCheck, check_log
from asap.log_check_base import base_origin, quaternion_order
from asap.log_check_joint_delay import delay
from asap.log_check_view import View
from asap.log_gains import gain_changes
from asap.planted import PLANTS, channel, edited, without_base
from asap.robot import Robot
from asap_deploy.log import Log

SOUND = Sound("g1", "", "wave", 3)
WALK = Sound("g1", "", "walk", 3)


@pytest.fixture(scope="module")
def robot() -> Robot:
    return Robot.load("g1")


@pytest.fixture(scope="module")
def log() -> Log:
    return recorded(SOUND)


@pytest.fixture(scope="module")
def checked(log: Log, robot: Robot) -> LogCheck:
    return check_log(log, robot, stated_rate_hz=50.0)


def named(found: LogCheck, name: str, joints: tuple[str, ...] = ()) -> bool:
    return any(f.name == name and (not joints or set(f.joints) == set(joints))
               for f in found.problems)  # fmt: skip


def test_a_sound_log_passes_with_its_own_robot_and_without_one(log: Log, checked: LogCheck) -> None:
    assert checked.problems == () and checked.verdict == "PASS"
    assert checked.repaired is log
    assert abs(checked.rate_hz - 50.0) < 0.05
    assert checked.delay_s is not None and 0.0 <= checked.delay_s <= 0.02
    alone = check_log(log)
    assert alone.problems == () and "no robot was given" in alone.findings[0].text


def test_every_check_can_speak(checked: LogCheck) -> None:
    assert all(isinstance(f, Finding) and f.text for f in checked.findings)
    assert len({f.name for f in checked.findings}) >= len(CHECKS) - 1


@pytest.mark.parametrize("name", sorted(PLANTS))
def test_a_planted_defect_is_found_and_named(log: Log, robot: Robot, name: str) -> None:
    planted = PLANTS[name](log, np.random.default_rng(0))
    if name == "base_origin":  # the one that needs the robot's legs
        problems = [f for f in base_origin(View(log=planted.log, robot=robot)).findings
                    if f.verdict != "PASS"]  # fmt: skip
        assert [f.name for f in problems] == [name]
        return
    # What only simulation finds is planted by the sweep; without a robot a check is quick.
    found = check_log(planted.log, None, stated_rate_hz=50.0)
    assert named(found, planted.finding, planted.joints), found.problems


def test_what_is_repaired_is_the_log_before_the_defect(log: Log, robot: Robot) -> None:
    a, b = log.joint_names.index("left_knee_joint"), log.joint_names.index("waist_pitch_joint")
    vel = channel(log, "joint_vel")
    vel[:, [a, b]] = vel[:, [b, a]]
    wrong = edited(log, joint_vel=vel, imu_quat_wxyz=np.roll(log.fields["imu_quat_wxyz"], -1, 1))
    found = check_log(wrong, robot)
    assert found.verdict == "REPAIRED"
    np.testing.assert_array_equal(found.repaired.fields["joint_vel"], log.fields["joint_vel"])
    np.testing.assert_array_equal(
        found.repaired.fields["imu_quat_wxyz"], log.fields["imu_quat_wxyz"]
    )


def test_soles_that_stand_bear_witness_where_there_is_no_gyro(robot: Robot) -> None:
    squat = recorded(Sound("g1", "", "squat", 3))
    blind = edited(without_base(squat), imu_ang_vel_b=None, imu_lin_acc_b=None)
    stored = blind.fields["imu_quat_wxyz"]
    wrong = edited(blind, imu_quat_wxyz=np.roll(stored, -1, axis=1))
    findings, repaired = quaternion_order(View(log=wrong, robot=robot))
    assert [f.verdict for f in findings] == ["REPAIRED"] and repaired is not None
    np.testing.assert_array_equal(repaired.fields["imu_quat_wxyz"], stored)
    assert quaternion_order(View(log=blind, robot=robot)).log is None


def test_small_offsets_of_encoders_are_no_swap_of_joints_at_rest(log: Log, robot: Robot) -> None:
    rng = np.random.default_rng(0)
    off = rng.normal(0.0, 0.012, log.joint_pos.shape[1])
    moved = edited(log, joint_pos_target=log.fields["joint_pos_target"] + off)
    assert not [f for f in check_log(moved, robot).problems if f.name != "delay"]


def test_a_joint_that_answers_10_ms_later_than_its_counterpart_is_named(robot: Robot) -> None:
    name, sound = "left_knee_joint", robot_of(WALK)
    late_s = sound.delay_s + 0.01 * (np.array(sound.joint_names) == name)
    log = played(WALK, sound.with_(delay_s=late_s))
    every, slow = delay(View(log=log, robot=robot)).findings
    assert (slow.name, slow.verdict, slow.joints) == ("joint_delay", "WARNING", (name,))
    assert slow.value == pytest.approx(0.01, abs=0.005)
    # Each joint has a delay with its interval, of all but those that hardly move.
    assert len(every.by_joint) > 20
    mine = every.by_joint[name]
    assert mine.low <= mine.value <= mine.high
    assert "fastest" in every.text and "slowest" in every.text
    told = json.loads(json.dumps(slow.as_dict()))["by_joint"][name]
    assert set(told) == {"value", "low", "high"}
    # The control: the same walk without.
    assert [f.name for f in delay(View(log=recorded(WALK), robot=robot)).findings] == ["delay"]


def test_softer_motors_are_noticed_without_being_told(robot: Robot) -> None:
    planted = weaker_motors(SOUND, np.random.default_rng(0))
    findings, _ = gain_changes(View(log=planted.log, robot=robot))
    assert [f.verdict for f in findings] == ["WARNING"] and findings[0].value < 0.9


def test_motors_that_weaken_while_a_robot_only_stands_are_noticed_by_its_sagging() -> None:
    rng = np.random.default_rng(0)
    time_s, load = 0.01 * np.arange(1000), np.array([-0.04, 0.03, 0.004])  # load / stiffness [rad]

    def standing(share: np.ndarray, target: float | np.ndarray = 0.5) -> View:
        wanted = np.broadcast_to(np.asarray(target), (1000,))[:, None] * np.ones(3)
        sagged = wanted + load / share[:, None] + 5e-4 * rng.standard_normal((1000, 3))
        return View(log=Log(("knee", "hip", "head"), time_s, sagged, {"joint_pos_target": wanted}))

    weaker = np.where(time_s < 4.0, 1.0, 0.5)
    (found,) = gain_changes(standing(weaker)).findings
    assert found.verdict == "WARNING" and found.joints == ("knee", "hip")
    assert found.value == pytest.approx(0.5, abs=0.02)
    assert "2.00 times as far" in found.text and "motors became weaker" in found.text
    assert "from 4.00 s (row 400)" in found.text
    (found,) = gain_changes(standing(weaker[::-1])).findings
    assert found.value == pytest.approx(2.0, abs=0.08) and "stronger" in found.text
    (found,) = gain_changes(standing(np.ones(1000))).findings
    assert found.verdict == "PASS" and "less than 25 % would not be seen" in found.text
    moved = np.where(time_s < 4.0, 0.5, 0.6)  # the load may be another one in another pose
    assert not gain_changes(standing(weaker, moved)).findings


def test_absent_channels_are_passed_over_in_silence(log: Log, robot: Robot) -> None:
    bare = replace(log, fields={"joint_pos_target": log.fields["joint_pos_target"]})
    names = {finding.name for finding in check_log(bare, robot).findings}
    assert not names & {"quaternion_order", "gyro", "yaw_drift", "base_origin", "fallen"}
    nothing = check_log(replace(log, fields={}), robot)
    assert nothing.verdict == "REFUSED" and named(nothing, "action_convention")


def test_the_result_is_plain_json(log: Log, checked: LogCheck) -> None:
    bad = PLANTS["gaps"](log, np.random.default_rng(0)).log
    result = json.loads(json.dumps(check_log(bad, None, stated_rate_hz=50.0).to_json()))
    assert {"duration_s", "rate_hz", "delay_s", "problems"} <= set(result)
    assert result["problems"][0]["name"] == "gaps"
    assert result["problems"][0]["verdict"] == "WARNING"
    whole = json.loads(json.dumps(checked.to_json()))
    assert whole["problems"] == [] and "left_hip_pitch_joint" in whole["joint_delay_s"]


def test_a_robot_with_other_joints_is_said_to_be_the_wrong_one(log: Log, robot: Robot) -> None:
    other = replace(log, joint_names=("elbow", *log.joint_names[1:]))
    finding = check_log(other, robot).findings[0]
    assert finding.verdict == "WARNING" and finding.joints == (log.joint_names[0],)
    assert "lacks 1 joints" in finding.text


@pytest.mark.slow
def test_ten_minutes_are_checked_in_ten_seconds(log: Log, robot: Robot) -> None:
    repeats = 30000 // len(log.time_s) + 1
    length = log.time_s[-1] + 1.0
    fields = {}
    for name, array in log.fields.items():
        constant = name in ("stiffness", "damping")
        fields[name] = array if constant else np.concatenate([array] * repeats)
    fields["episode"] = np.repeat(np.arange(3 * repeats), len(log.time_s) // 3)
    times = np.concatenate([log.time_s + k * length for k in range(repeats)])
    long = Log(log.joint_names, times, np.concatenate([log.joint_pos] * repeats), fields)
    start = time.process_time()
    assert check_log(long, robot).problems == ()
    assert time.process_time() - start < 10.0


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_ninety_five_of_a_hundred_defects_are_found_and_two_of_a_hundred_alarms_are_false(
    record_property: Callable[[str, object], None],
) -> None:
    found = sweep(SweepConfig(instances=20, seed=7))
    record_property("sweep", found.as_dict())
    assert found.shortcomings == [], found.as_dict()
