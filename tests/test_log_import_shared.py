"""Logs of real robots, read in place through their column maps: rates, joints, units are right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from log_files import MAPS

from asap.log_check import check_log
from asap.log_import import OpenedLog, open_log
from asap_deploy.log import Log
from asap_deploy.rotation import conjugate, multiply, projected_gravity, to_rotvec


def real(shared: Path, source: str, name: str) -> OpenedLog:
    """A real log by its place; skips loudly where this copy of the data lacks it."""
    path = shared / "real_logs" / source / name
    if not path.exists():
        pytest.skip(f"{path} is not present: this real log is NOT tested")
    return open_log(path, columns=MAPS / f"{source}.toml")


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def follows(log: Log, rows: int = 0) -> float:
    """Correlation of the angles with the targets of some rows before."""
    target = log.fields["joint_pos_target"]
    return correlation(target[: len(target) - rows], log.joint_pos[rows:])


def slopes(log: Log) -> np.ndarray:
    """Angles differentiated [rad/s]."""
    return np.gradient(log.joint_pos, log.time_s, axis=0)


def gyro_slope(log: Log) -> float:
    """Turn of the attitude over the integrated gyro: 1 if order, frame and unit are right."""
    quat, gyro = log.fields["imu_quat_wxyz"], log.fields["imu_ang_vel_b"]
    rows = round(0.4 * log.rate_hz)
    turn_b = to_rotvec(multiply(conjugate(quat[:-rows]), quat[rows:]))
    steps = 0.5 * (gyro[1:] + gyro[:-1]) * np.diff(log.time_s)[:, None]
    angle = np.concatenate([np.zeros((1, 3)), np.cumsum(steps, axis=0)])
    integral_b = angle[rows:] - angle[:-rows]
    assert correlation(turn_b, integral_b) > 0.9
    return float((turn_b * integral_b).sum() / (integral_b * integral_b).sum())


@pytest.mark.parametrize("name", ["squat_motion__32", "kick_slow__22", "walk__walk_in_place"])
def test_sigmaban(shared_data, name):
    log, found, _, notes = real(shared_data, "sigmaban", f"npz/{name}.npz")
    assert found == name and notes == ()
    assert len(log.joint_names) == 20 and log.joint_names[11] == "left_knee"
    assert log.rate_hz == pytest.approx(100.0, abs=0.3)
    assert log.duration_s == pytest.approx(10.0 if "squat" in name else 15.0, abs=0.02)
    assert follows(log) > 0.99 and correlation(slopes(log), log.fields["joint_vel"]) > 0.9
    assert gyro_slope(log) == pytest.approx(1.0, abs=0.15)
    # Attitude of the IMU, from roll, pitch and yaw, against that of the trunk: up is the same.
    up = [projected_gravity(log.fields[f"{k}_quat_wxyz"]) for k in ("imu", "base")]
    assert np.median(np.abs(up[0] - up[1])) < 0.02
    # At the servo's gain P the stiffness is that at 32, times P / 32.
    gain = 22 if "22" in name else 32
    assert log.fields["stiffness"][0] == pytest.approx(31.15583 * gain / 32, abs=1e-4)


def test_a_gain_that_was_lowered_on_the_way_is_no_constant_stiffness(shared_data):
    log, _, _, notes = real(shared_data, "sigmaban", "npz/drop_kp__32_to_8.npz")
    assert "stiffness" not in log.fields
    assert notes == ("stiffness left out: dxl_p_gain and dxl_p_gain_after differ",)


@pytest.mark.parametrize(
    ("run", "rate_hz", "follow"), [("016", 49.8, 0.9), ("015", 49.8, 0.97), ("031", 24.95, 0.98)]
)
def test_berkeley_humanoid_lite(shared_data, run, rate_hz, follow):
    log, _, _, notes = real(shared_data, "bhl_biped", f"npz/test_run_{run}.npz")
    assert notes == () and len(log.joint_names) == 12
    assert log.joint_names[3] == "leg_left_knee_pitch_joint"
    assert log.rate_hz == pytest.approx(rate_hz, abs=0.3)
    assert follows(log) > follow and follows(log, 2) > follows(log)  # targets lead
    if run == "016":  # in 015 and 031 the robot hardly turns
        assert gyro_slope(log) == pytest.approx(1.0, abs=0.1)
    # target = 0.25 * action + default, exactly: the target is absolute and in the joints' order.
    default = log.fields["joint_pos_target"] - 0.25 * log.fields["action"]
    assert np.ptp(default, axis=0).max() < 1e-5
    assert set(log.fields["stiffness"]) == {20.0} and set(log.fields["damping"]) == {2.0}


def test_agibot_x2(shared_data):
    log, _, _, notes = real(shared_data, "agibot_x2", "x2_dev_0_60s.npz")
    assert notes == () and len(log.joint_names) == 31
    assert np.median(np.diff(log.time_s)) == pytest.approx(0.01999, abs=1e-4)
    assert log.rate_hz == pytest.approx(50.0, abs=1.0)
    assert log.duration_s == pytest.approx(60.0, abs=0.1)
    assert np.diff(log.time_s).max() == pytest.approx(0.078, abs=0.001)
    assert follows(log) > 0.9 and correlation(slopes(log), log.fields["joint_vel"]) > 0.8
    assert gyro_slope(log) == pytest.approx(1.0, abs=0.15)
    assert "stiffness" not in log.fields
    # The action is in the joints' order now: each drives the target of its own joint, once the
    # ramp of the first two seconds is over and where the clamp lets it through.
    rows = slice(100, None)
    target, action = log.fields["joint_pos_target"][rows], log.fields["action"][rows]
    own = [correlation(action[:, k], target[:, k]) for k in range(31)]
    assert np.median(own) > 0.95
    shuffled = [correlation(action[:, k - 1], target[:, k]) for k in range(31)]
    assert np.median(np.abs(shuffled)) < 0.7


@pytest.mark.parametrize(("run", "lag"), [("chirp_sweep", 7), ("step_response", 4)])
def test_so101(shared_data, run, lag):
    log, name, _, notes = real(shared_data, "so101", f"real/{run}")
    assert name == run and notes == ()
    assert log.joint_names[0] == "Rotation" and len(log.joint_names) == 6
    assert log.rate_hz == pytest.approx(49.85, abs=0.02)
    assert log.duration_s == pytest.approx(120.34, abs=0.01) and len(log.time_s) == 6000
    assert follows(log) > 0.95 and follows(log, lag) > 0.98
    assert correlation(slopes(log), log.fields["joint_vel"]) > 0.85
    assert np.abs(log.joint_pos).max() < np.pi
    # No description of this robot is here: what needs none is checked all the same.
    checked = check_log(log)
    assert "no robot was given" in checked.findings[0].text
    # Its gears rub: what seems to come before the command is no row that slipped.
    assert {finding.name for finding in checked.problems} <= {"delay", "standing_still"}


def test_g1_closed_loop(shared_data):
    folder = shared_data / "real_logs" / "g1_closed_loop" / "real_joint_angles"
    files = sorted(folder.rglob("*.csv"))
    if not files:
        pytest.skip(f"{folder} holds no log: the G1's closed loop is NOT tested")
    log, _, _, notes = open_log(files[0], columns=MAPS / "g1_closed_loop.toml")
    assert notes == () and set(log.fields) == {"mode"}
    assert set(log.fields["mode"]) == {"SKILL_BEYOND_MIMIC"}
    assert log.rate_hz == pytest.approx(49.8, abs=0.3) and log.duration_s > 10.0
    knees = log.joint_pos[:, [log.joint_names.index(f"{s}_knee_joint") for s in ("left", "right")]]
    assert knees.min() > 0.0 and 0.4 < knees.max() < 2.0  # a knee bends one way only


def test_the_real_logs_are_saved_and_read_as_ours(shared_data, tmp_path):
    log = real(shared_data, "agibot_x2", "x2_dev_0_60s.npz").log
    log.save(tmp_path / "x2.npz")
    again = open_log(tmp_path / "x2.npz").log
    assert again.source == log.source and set(again.fields) == set(log.fields)
    np.testing.assert_array_equal(again.joint_pos, log.joint_pos)
