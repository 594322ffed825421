"""Replaying a log: zero where the simulator is the robot, and the right gap where it is not."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from toy_robots import arm

from asap.cli import main
from asap.evaluate import Case
from asap.inputs import open_motion
from asap.log_states import at_log_rate, log_track, reckoned_base, standing_sink
from asap.metrics import TrackedPoints
from asap.record import RecordConfig, record
from asap.replay import (
    BASE_POS_ERROR,
    BASE_TILT_ERROR,
    JOINT_ERROR,
    REPEAT,
    Replay,
    ReplayConfig,
    replay,
)
from asap.replay_view import costly, heat_map, overlay, page
from asap.robot import Robot
from asap.sim import CpuSimulation
from asap_deploy import rotation
from asap_deploy.errors import InputError
from asap_deploy.log import Log
from asap_deploy.policy import Policy
from asap_deploy.rotation import projected_gravity

POLICY = Path(__file__).parents[1] / "policies" / "g1" / "squat.onnx"
SPARSE = ReplayConfig(every_s=0.4, threads=2)


@pytest.fixture(scope="module")
def nominal() -> Robot:
    return Robot.load("g1")


@pytest.fixture(scope="module")
def case(nominal: Robot) -> Case:
    clip = open_motion(Path("squat"), nominal, ground=True)
    return Case(Policy.from_bytes(POLICY.read_bytes()), clip.motion, "squat")


@pytest.fixture(scope="module")
def worn(case: Case) -> Log:
    return record(case, Robot.load("g1@worn"), RecordConfig(episodes=4))


def _error(result: Replay, arm: str, horizon: str = "1.0", metric: str = JOINT_ERROR) -> float:
    return result.arms[arm].horizons[horizon][metric].value


def _reaching(result: Replay) -> np.ndarray:
    """(W, J) errors of the windows that reach the last horizon [deg]."""
    errors = result.arms["nominal"].joint_deg
    return errors[np.isfinite(errors).all(axis=1)]


def test_the_log_of_an_arm_that_is_bolted_down_replays_to_zero_and_its_gap_is_seen(
    tmp_path: Path,
) -> None:
    robot, steps = arm(tmp_path), 800
    sim = CpuSimulation(robot, 1)
    time_s = robot.control_dt * np.arange(steps)
    target = 0.5 * np.sin(time_s[:, None] * np.array([3.0, 5.0]))
    rows = []
    for row in target:
        rows.append((sim.joint_pos[0].copy(), sim.joint_vel[0].copy()))
        sim.step(row[None])
    joint_pos, joint_vel = (np.array(column) for column in zip(*rows, strict=True))
    fields = {"joint_vel": joint_vel, "joint_pos_target": target}
    log = Log(joint_names=robot.joint_names, time_s=time_s, joint_pos=joint_pos, fields=fields)
    softer = robot.with_(stiffness=0.5 * robot.stiffness)
    found = replay([log], {"nominal": robot, "softer": softer}, SPARSE)
    assert _error(found, "nominal") < 1e-9
    assert 0.1 < _error(found, "softer") < 30.0
    assert not found.base_known


@pytest.mark.parametrize("delay_s", [0.0, 0.012, 0.045])
def test_a_log_of_the_nominal_simulator_replays_to_zero(
    case: Case, nominal: Robot, delay_s: float
) -> None:
    late = nominal.with_(delay_s=np.full(len(nominal.joint_names), delay_s))
    log = record(case, late, RecordConfig(episodes=1))
    found = replay([log], {"nominal": late}, SPARSE)
    worst = np.deg2rad(_reaching(found)).max(axis=1)
    # A log does not hold what the contact solver started from: a few windows near the edge of a
    # contact differ by its tolerance; all others by rounding.
    assert np.median(worst) < 1e-9
    assert (worst < 1e-9).mean() >= 0.75
    assert worst.max() < 2e-5
    if delay_s:  # the control: forgetting the delay is noticed
        assert _error(replay([log], {"nominal": nominal}, SPARSE), "nominal") > 0.05


def test_the_gap_of_a_worn_robot_is_found_and_the_truth_leaves_the_noise_alone(
    worn: Log, nominal: Robot
) -> None:
    robots = {"nominal": nominal, "truth": Robot.load("g1@worn")}
    found = replay([worn], robots, SPARSE)
    assert found.base_known and found.episodes == 4
    for horizon in ("0.25", "0.5", "1.0"):
        floor, gap = _error(found, "truth", horizon), _error(found, "nominal", horizon)
        assert floor < 0.3 * gap
        assert gap < _error(found, "hold_last", horizon)
        figure = found.arms["nominal"].horizons[horizon][JOINT_ERROR]
        assert figure.low < figure.value < figure.high
    assert found.arms["nominal"].diverged == 0
    curve = found.arms["nominal"].curve[JOINT_ERROR]
    assert len(curve) == 50 and curve[0] < curve[-1]


def test_a_log_without_base_position_is_replayed_and_says_nothing_about_the_base(
    case: Case, nominal: Robot
) -> None:
    twin = Robot.load("g1@weak_ankle")
    with_base = record(case, twin, RecordConfig(episodes=2))
    without = record(case, twin, RecordConfig(episodes=2, base_pose=False))
    assert "base_pos_w" not in without.fields
    seen = replay([with_base], {"nominal": nominal}, SPARSE)
    found = replay([without], {"nominal": nominal}, SPARSE)
    assert not found.base_known
    assert list(found.arms["nominal"].horizons["0.25"]) == [JOINT_ERROR, BASE_TILT_ERROR]
    assert found.point_names == () and found.arms["nominal"].point_mae_mm.size == 0
    short, known = _error(found, "nominal", "0.25"), _error(seen, "nominal", "0.25")
    assert short == pytest.approx(known, rel=0.35)
    assert short < 0.5 * _error(found, "hold_last", "0.25")


def test_errors_of_bodies_and_base_are_those_of_a_plain_loop(worn: Log, nominal: Robot) -> None:
    log = worn.segments()[0]
    config = ReplayConfig(horizons_s=(0.1, 0.3), every_s=100.0, threads=1)  # one window
    found = replay([log], {"nominal": nominal}, config)
    track = log_track(log, nominal)
    points, sim = TrackedPoints(track.robot), CpuSimulation(track.robot, 1)
    sim.reset(np.array([0]), track.qpos[:1], track.qvel[:1],
              joint_pos_target=np.repeat(track.joint_pos_target[:1], 64, axis=0)[None])  # fmt: skip
    for row in range(15):
        sim.step(track.joint_pos_target[row : row + 1])
    pose = track.qpos[15:16]
    bodies = nominal.forward_kinematics(pose[:, :3], pose[:, 3:7], track.joint_pos[15:16])
    gap = points.positions(sim.body_pos_w, sim.body_quat_wxyz) - points.positions(*bodies)
    distance_mm = 1e3 * np.linalg.norm(gap[0], axis=-1)
    arm = found.arms["nominal"]
    assert found.point_names == points.names
    np.testing.assert_allclose(arm.point_mae_mm[1], distance_mm, rtol=1e-5)
    assert arm.horizons["0.3"]["global_mpjpe_mm"].value == pytest.approx(distance_mm.mean())
    base_mm = 1e3 * np.linalg.norm(sim.base_pos_w[0] - pose[0, :3])
    assert arm.horizons["0.3"][BASE_POS_ERROR].value == pytest.approx(base_mm)
    # Two unit vectors that enclose the angle a are 2 sin(a / 2) apart.
    down = projected_gravity(sim.base_quat_wxyz[0]) - projected_gravity(pose[0, 3:7])
    lean_deg = np.rad2deg(2.0 * np.arcsin(0.5 * np.linalg.norm(down)))
    assert arm.horizons["0.3"][BASE_TILT_ERROR].value == pytest.approx(lean_deg, rel=1e-6)
    assert found.arms["hold_last"].horizons["0.3"][BASE_TILT_ERROR].value > 0.0


def test_runs_of_one_motion_tell_how_well_a_robot_repeats_itself(worn: Log, nominal: Robot) -> None:
    config = ReplayConfig(horizons_s=(0.2, 0.5), every_s=0.4, threads=1, repeats=True)
    seen = replay([worn], {"nominal": nominal}, config)
    assert _error(seen, REPEAT, "0.5") < 0.5 * _error(seen, "hold_last", "0.5")
    # A run and a copy of it under another number are the same to the bit.
    one = worn.segments()[0]
    copied = {"episode": np.full(len(one.time_s), 77)}
    twice = [one, Log(one.joint_names, one.time_s, one.joint_pos, {**one.fields, **copied})]
    same = replay(twice, {"nominal": nominal}, config)
    assert _error(same, REPEAT, "0.5") < 1e-12
    # One run alone, or runs that do not tell their phase, say nothing about it.
    assert REPEAT not in replay([one], {"nominal": nominal}, config).arms
    dumb = [dataclasses.replace(log, fields={k: v for k, v in log.fields.items() if k != "phase"})
            for log in twice]  # fmt: skip
    assert REPEAT not in replay(dumb, {"nominal": nominal}, config).arms


def test_the_base_is_reckoned_from_attitude_and_legs(case: Case, nominal: Robot) -> None:
    log = record(case, nominal, RecordConfig(episodes=1))
    track = log_track(log, nominal)
    joint_vel = track.qvel[:, nominal.qvel_ids]
    pos, vel = reckoned_base(nominal, track.qpos[:, 3:7], track.joint_pos, track.qvel[:, 3:6],
                             joint_vel)  # fmt: skip
    moved = track.qpos[:, :3] - track.qpos[0, :3]
    assert np.abs(pos[:, :2] - moved[:, :2]).max() < 0.04
    assert np.abs(pos[:, 2] - track.qpos[:, 2]).max() < 0.01
    assert np.abs(vel - track.qvel[:, :3]).mean() < 0.05


def test_a_dense_log_says_where_a_standing_base_is_and_that_it_stands(nominal: Robot) -> None:
    """At 500 Hz noise of 3 mrad in the attitude was a speed of 0.3 m/s, and 0.8 mm of height."""
    rng, rows = np.random.default_rng(0), 500
    noise = {"imu_ang_vel_b": 0.02, "joint_vel": 0.02, "joint_pos": 0.0005, "tilt": 0.003}
    drawn = {name: rng.normal(0.0, size, (rows, 3 if name in ("tilt", "imu_ang_vel_b") else 29))
             for name, size in noise.items()}  # fmt: skip
    level = nominal.default_joint_pos
    log = Log(
        nominal.joint_names, 0.002 * np.arange(rows), level + drawn["joint_pos"],
        {"joint_pos_target": np.tile(level, (rows, 1)), "joint_vel": drawn["joint_vel"],
         "imu_quat_wxyz": rotation.from_rotvec(drawn["tilt"]),
         "imu_ang_vel_b": drawn["imu_ang_vel_b"]},
    )  # fmt: skip
    track = log_track(log, nominal)
    assert np.abs(track.qvel[:, :3]).mean() < 0.01
    upright = np.array([[1.0, 0.0, 0.0, 0.0]])
    poses = nominal.forward_kinematics(np.zeros((1, 3)), upright, level[None])
    height = -nominal.sole_clearance(*poses).min() - standing_sink(nominal)
    assert np.abs(track.qpos[:, 2].mean() - height) < 0.0002


def test_a_standing_robot_sinks_into_its_floor_as_far_as_is_reckoned(
    case: Case, nominal: Robot
) -> None:
    log = record(case, nominal, RecordConfig(episodes=1))
    qpos = log_track(log, nominal).qpos[5:20]
    poses = nominal.forward_kinematics(qpos[:, :3], qpos[:, 3:7], qpos[:, nominal.qpos_ids])
    seen = -float(nominal.sole_clearance(*poses).min(axis=1).mean())
    assert standing_sink(nominal) == pytest.approx(seen, abs=0.0002)
    assert 0.0002 < standing_sink(nominal) < 0.0005


def test_the_true_rate_is_replayed(case: Case, nominal: Robot) -> None:
    slow = at_log_rate(nominal, 48.9)
    assert slow.control_dt == pytest.approx(1 / 48.9)
    assert slow.decimation == nominal.decimation
    assert at_log_rate(nominal, 50.0) is nominal
    log = record(case, nominal, RecordConfig(episodes=1))
    stretched = Log(log.joint_names, log.time_s * 50.0 / 48.0, log.joint_pos, log.fields)
    right, wrong = (replay([one], {"n": nominal}, SPARSE) for one in (log, stretched))
    assert right.rate_hz == pytest.approx(50.0)
    assert wrong.rate_hz == pytest.approx(48.0)
    assert _error(wrong, "n") > 0.05 > _error(right, "n")


def test_neither_threads_nor_the_order_of_logs_change_a_replay(worn: Log, nominal: Robot) -> None:
    config = ReplayConfig(every_s=0.5, threads=1)
    pieces = worn.segments()[:2]
    one = replay(pieces, {"n": nominal}, config)
    two = replay(pieces[::-1], {"n": nominal}, ReplayConfig(every_s=0.5, threads=2))
    half = len(one.start_row) // 2
    left, right = one.arms["n"].joint_deg, two.arms["n"].joint_deg
    assert np.array_equal(left[:half], right[half:], equal_nan=True)


def test_what_costs_most_is_where_the_defect_is(case: Case, nominal: Robot) -> None:
    friction = nominal.frictionloss.copy()
    friction[nominal.joint_ids(["left_elbow_joint"])] = 4.0
    told = record(case, nominal.with_(frictionloss=friction), RecordConfig(episodes=2))
    found = replay([told], {"nominal": nominal}, SPARSE)
    assert costly(found, "nominal").joints[0][0] == "left_elbow_joint"
    assert heat_map(found, "nominal").startswith(b"\x89PNG")
    text = page(found, title="<elbow>", arm="nominal", notes=["a & b"])
    assert "left_elbow_joint" in text and "&lt;elbow&gt;" in text and "a &amp; b" in text
    gap_deg = np.abs(overlay(told, nominal).joint_gap_deg)
    assert gap_deg[0].max() < 1e-9 and gap_deg[49].max() > 0.5
    assert gap_deg[50].max() < 1e-9  # put back
    stiff = int(nominal.joint_ids(["left_elbow_joint"])[0])
    assert gap_deg[5:50].mean(axis=0).argmax() == stiff


def test_what_cannot_be_replayed_is_one_line(worn: Log, nominal: Robot) -> None:
    def without(*names: str) -> Log:
        fields = {k: v for k, v in worn.fields.items() if k not in names}
        return Log(worn.joint_names, worn.time_s, worn.joint_pos, fields)

    robots = {"nominal": nominal}
    with pytest.raises(InputError, match="no joint_pos_target: there is nothing to replay"):
        replay([without("joint_pos_target")], robots, SPARSE)
    with pytest.raises(InputError, match="neither base_quat_wxyz nor imu_quat_wxyz"):
        replay([without("base_quat_wxyz", "imu_quat_wxyz")], robots, SPARSE)
    fewer = Log(worn.joint_names[1:], worn.time_s, worn.joint_pos[:, 1:],
                {"joint_pos_target": worn.fields["joint_pos_target"][:, 1:]})  # fmt: skip
    with pytest.raises(InputError, match="lacks 1 joints of robot 'g1', first 'left_hip_pitch"):
        replay([fewer], robots, SPARSE)
    silent = without("stiffness")
    with pytest.raises(InputError, match="some logs say the stiffness of the motors and some do"):
        replay([worn, silent], robots, SPARSE)
    with pytest.raises(InputError, match="no stretch of the log is as long as a horizon"):
        replay([worn.rows(slice(0, 10))], robots, SPARSE)
    with pytest.raises(InputError, match="--horizons-s must rise"):
        ReplayConfig(horizons_s=(0.5, 0.25))


def test_the_commands_record_and_replay(tmp_path: Path) -> None:
    log, found, drawn = tmp_path / "log.npz", tmp_path / "r.json", tmp_path / "page.html"
    assert main(["evaluate", "--policy", str(POLICY), "--robot", "g1@isaac", "--episodes", "2",
                 "--record", str(log), "--quiet"]) == 0  # fmt: skip
    words = ["--logs", str(log), "--truth", "g1@isaac", "--every-s", "0.5", "--quiet"]
    seen = tmp_path / "gap.rrd"
    words += ["--view", str(seen)]
    assert main(["report", *words, "--page", str(drawn), "--json", str(found)]) == 0
    assert seen.read_bytes().startswith(b"RRF")
    result = json.loads(found.read_text())
    assert set(result["0.25"]) >= {JOINT_ERROR, "global_mpjpe_mm", "mpjpe_mm"}
    assert result["truth"]["1.0"][JOINT_ERROR]["value"] < result["1.0"][JOINT_ERROR]["value"]
    assert result["hold_last"]["1.0"][JOINT_ERROR]["value"] > result["1.0"][JOINT_ERROR]["value"]
    assert "costs most" in drawn.read_text() and "Bodies farthest off" in drawn.read_text()
    assert len(result["point_mae_mm"][0]) == len(result["point_names"])
    assert main(["logs", "show", "--logs", str(log), "--quiet"]) == 0
