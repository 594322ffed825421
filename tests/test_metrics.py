"""Errors and intervals, checked against numbers worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from toy_robots import stool

from asap.metrics import (
    EFFORT_NAMES,
    EffortMeter,
    ErrorMeter,
    TrackedPoints,
    bootstrap_ratio,
    success_interval,
)
from asap.robot import Robot
from asap.sim import CpuSimulation


def test_errors_of_two_points_are_those_worked_out_by_hand() -> None:
    meter = ErrorMeter(1)
    zeros = np.zeros((2, 3))
    alive = np.ones(1, dtype=bool)
    # Point 0 is 3 mm off in x and 4 mm in y: 5 mm. Point 1 is exact. The base is 3 mm off in x.
    points = np.array([[[0.003, 0.004, 0.0], [0.0, 0.0, 0.0]]])
    base = np.array([[0.003, 0.0, 0.0]])
    distance = meter.add(points, zeros, base, np.zeros(3), alive)
    assert distance == pytest.approx([2.5])  # (5 + 0) / 2
    # Relative to the base: point 0 is 4 mm off in y, point 1 is 3 mm off in -x.
    assert meter.sums["mpjpe_mm"] == pytest.approx([3.5])
    assert meter.counts["vel_error_mm_per_frame"] == [0]

    # Next frame everything is exact: both errors changed by what they were.
    meter.add(zeros[None], zeros, np.zeros((1, 3)), np.zeros(3), alive)
    assert meter.sums["vel_error_mm_per_frame"] == pytest.approx([2.5])
    # Third frame as the first: second difference of e = 5, 0, 5 mm is 5 - 0 + 5 = 10 mm.
    meter.add(points, zeros, base, np.zeros(3), alive)
    assert meter.sums["acc_error_mm_per_frame2"] == pytest.approx([5.0])
    assert meter.worst_mm == pytest.approx([2.5])


def test_frames_of_dead_episodes_do_not_count() -> None:
    meter = ErrorMeter(2)
    points = np.full((2, 1, 3), 0.1)
    alive = np.array([True, False])
    meter.add(points, np.zeros((1, 3)), np.zeros((2, 3)), np.zeros(3), alive)
    assert meter.counts["global_mpjpe_mm"].tolist() == [1, 0]
    assert meter.sums["global_mpjpe_mm"][1] == 0.0
    assert meter.worst_mm[1] == 0.0


def test_the_g1_has_the_27_points_of_the_paper() -> None:
    robot = Robot.load("g1:asap")
    points = TrackedPoints(robot)
    assert len(points.names) == 27
    assert points.names[-3:] == ("left_hand", "right_hand", "head")
    assert len(TrackedPoints(robot, virtual=False, all_bodies=True).names) == 30
    qpos = robot.default_qpos()
    poses = robot.forward_kinematics(qpos[None, :3], qpos[None, 3:7], qpos[None, robot.qpos_ids])
    found = points.positions(*poses)[0]
    torso = poses[0][0, robot.body_names.index("torso_link")]
    # Upright in the default pose of g1:asap: the head is 0.42 m above the torso's frame.
    np.testing.assert_allclose(found[points.names.index("head")], torso + [0, 0, 0.42], atol=1e-6)


def test_positions_do_not_change_the_bodies_that_they_are_made_of() -> None:
    robot = Robot.load("g1")
    qpos = robot.default_qpos()
    poses = robot.forward_kinematics(qpos[None, :3], qpos[None, 3:7], qpos[None, robot.qpos_ids])
    before = poses[0].copy()
    TrackedPoints(robot).positions(*poses)
    np.testing.assert_array_equal(poses[0], before)


def test_mean_is_weighted_by_frames_and_the_interval_covers_the_truth() -> None:
    rng = np.random.default_rng(0)
    figure = bootstrap_ratio(np.array([10.0, 0.0]), np.array([1.0, 9.0]), rng)
    assert figure.value == pytest.approx(1.0)  # 10 / 10 frames, and not (10 + 0) / 2
    covered = 0
    for _ in range(200):
        sums = rng.normal(5.0, 1.0, 40)
        low_high = bootstrap_ratio(sums, np.ones(40), rng)
        covered += low_high.low <= 5.0 <= low_high.high
    assert 176 <= covered <= 200  # 95 % of 200 is 190; a bootstrap of 40 covers a little less


def test_the_interval_of_two_episodes_is_students_and_covers_the_truth() -> None:
    rng = np.random.default_rng(0)
    # Means 1 and 3 with 1 and 3 frames: 10 / 4 = 2.5. Their scatter s is sqrt(2), the weights are
    # 1/4 and 3/4, and t with one degree of freedom is tan(0.95 * 90 deg) = 12.7062:
    # 12.7062 * 1.41421 * sqrt(1 + 9) / 4 = 14.206.
    figure = bootstrap_ratio(np.array([1.0, 9.0]), np.array([1.0, 3.0]), rng)
    assert figure.value == pytest.approx(2.5)
    assert (figure.low, figure.high) == pytest.approx((0.0, 2.5 + 14.206), abs=1e-3)  # no sign
    covered = 0
    for _ in range(400):
        two = bootstrap_ratio(rng.normal(5.0, 1.0, 2) * [2.0, 3.0], np.array([2.0, 3.0]), rng)
        covered += two.low <= 5.0 <= two.high
    assert 360 <= covered <= 396  # 95 % of 400 is 380; drawing the two anew covered 200
    same = bootstrap_ratio(np.zeros(2), np.ones(2), rng)
    assert same == (0.0, 0.0, 0.0)  # a replay without an error has none


def test_one_episode_has_no_interval_and_none_has_no_value() -> None:
    rng = np.random.default_rng(0)
    one = bootstrap_ratio(np.array([3.0]), np.array([2.0]), rng)
    assert one.value == 1.5
    assert np.isnan(one.low)
    assert np.isnan(bootstrap_ratio(np.zeros(2), np.zeros(2), rng).value)


def test_success_of_all_is_not_certainty() -> None:
    # Wilson at 10 of 10: low = 1 / (1 + z^2 / n) = 1 / 1.3841 = 0.7225
    figure = success_interval(10, 10)
    assert figure.value == 1.0
    assert figure.low == pytest.approx(0.7225, abs=1e-4)
    assert figure.high == pytest.approx(1.0)


def test_effort_is_torque_speed_of_targets_and_sliding_of_loaded_feet(tmp_path: Path) -> None:
    sim = CpuSimulation(stool(tmp_path), 2)
    qpos = np.tile(sim.robot.default_qpos(), (2, 1))
    sim.reset(np.arange(2), qpos, np.zeros((2, sim.robot.model.nv)))
    meter, alive = EffortMeter(sim.robot, 2), np.array([True, True])
    torque = np.zeros(2)
    for step in range(60):
        target = np.full((2, 2), 0.05 * (-1) ** step)
        sim.step(target)
        alive[1] &= step < 30
        meter.add(sim, target, alive)
        torque += np.abs(sim.joint_torque).mean(axis=1) * alive
    mean = {name: meter.sums[name] / np.maximum(meter.counts[name], 1) for name in EFFORT_NAMES}
    assert mean["target_rate_rad_s"] == pytest.approx([0.1 / sim.robot.control_dt] * 2)
    assert mean["torque_nm"] == pytest.approx(torque / [60, 30])
    standing = mean["foot_slip_mm_s"]
    sim.push(np.arange(2), np.array([[0.8, 0.0, 0.0]] * 2))
    sliding = EffortMeter(sim.robot, 2)
    for _ in range(4):
        sim.step(np.zeros((2, 2)))
        sliding.add(sim, np.zeros((2, 2)), np.array([True, True]))
    name = "foot_slip_mm_s"
    assert (sliding.sums[name] / sliding.counts[name] > 3.0 * standing).all()


def test_an_error_of_two_episodes_may_be_small_but_not_negative() -> None:
    rng = np.random.default_rng(0)
    found = bootstrap_ratio(np.array([1.0, 3.0]), np.ones(2), rng)
    assert found.low == 0.0 and found.high > 10.0
    signed = bootstrap_ratio(np.array([-1.0, 3.0]), np.ones(2), rng)
    assert signed.low < 0.0
