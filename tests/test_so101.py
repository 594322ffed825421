"""The one robot of ``real_logs/robots`` that is complete here: an arm that is bolted down."""

from __future__ import annotations

from pathlib import Path

import mujoco
import numpy as np
import pytest

from asap.log_check import check_log
from asap.log_columns import read_columns
from asap.log_import import open_log
from asap.replay import JOINT_ERROR, ReplayConfig, replay
from asap.replay_view import write_overlay
from asap.robot import Robot
from asap_deploy.log import Log

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "real_logs" / "robots" / "so101"
COLUMNS = ROOT / "real_logs" / "columns" / "so101.toml"
RUNS = ROOT.parent / "shared" / "data" / "real_logs" / "so101" / "real"
PLANE = slice(1, 4)
"""Pitch, elbow and wrist, which gravity pulls at."""

with_the_log = pytest.mark.skipif(
    not RUNS.is_dir(), reason="the real logs are not here: they are NOT replayed"
)


@pytest.fixture(scope="module")
def robot() -> Robot:
    return Robot.load(str(FOLDER))


def _gravity(robot: Robot, joint_pos: np.ndarray) -> np.ndarray:
    """(J,) torque with which gravity pulls at rest [Nm]."""
    data = mujoco.MjData(robot.model)
    data.qpos[robot.qpos_ids] = joint_pos
    mujoco.mj_forward(robot.model, data)
    return -data.qfrc_bias[robot.qvel_ids]


def test_it_is_complete_and_its_joints_are_those_of_the_column_map(robot: Robot) -> None:
    assert robot.check() == []
    assert robot.joint_names == read_columns(COLUMNS).joint_names
    assert float(robot.model.body_subtreemass[0]) == pytest.approx(0.632)


def test_upright_with_the_forearm_level_gravity_turns_the_arm_down(robot: Robot) -> None:
    pull = _gravity(robot, np.zeros(6))
    # Forearm, wrist and hand beyond the elbow: .104 x .098 + .079 x .174 + .099 x .23 = .047 kg m.
    assert pull[2] == pytest.approx(0.047 * 9.81, rel=0.05)
    assert (pull[PLANE] > 0.1).all()
    assert np.abs(pull[[0, 4, 5]]).max() < 0.005


def test_what_is_not_checked_of_an_arm_is_said(robot: Robot) -> None:
    time_s = 0.02 * np.arange(400)
    target = 0.3 * np.sin(time_s[:, None] * np.arange(1.0, 7.0))
    log = Log(robot.joint_names, time_s, target, {"joint_pos_target": target})
    (said,) = [f for f in check_log(log, robot).findings if f.name == "robot"]
    assert said.verdict == "PASS" and "does not stand on feet" in said.text
    assert "joint order and sign against targets" in said.text


@with_the_log
def test_the_arm_hangs_below_its_targets_as_gravity_pulls(robot: Robot) -> None:
    log = open_log(RUNS / "chirp_sweep", columns=COLUMNS, robot=robot).log
    sag = (log.joint_pos - log.fields["joint_pos_target"]).mean(axis=0)
    pull = _gravity(robot, log.joint_pos.mean(axis=0))
    assert np.corrcoef(sag, pull)[0, 1] > 0.95
    assert np.abs(sag[[0, 4, 5]]).max() < 0.1 * sag[PLANE].max()


@with_the_log
def test_a_chirp_is_replayed_and_drawn(robot: Robot, tmp_path: Path) -> None:
    log = open_log(RUNS / "chirp_sweep", columns=COLUMNS, robot=robot).log
    config = ReplayConfig(horizons_s=(0.1, 0.4, 1.0), every_s=1.0, threads=1)
    found = replay([log], {"nominal": robot}, config)
    ours, still = (
        [figures[JOINT_ERROR].value for figures in found.arms[arm].horizons.values()]
        for arm in ("nominal", "hold_last")
    )
    assert ours[0] < 1.0
    assert ours[1] < 1.4
    assert ours[2] < 1.4
    assert (np.array(ours) < 0.5 * np.array(still)).all()
    assert list(found.arms["nominal"].horizons["0.1"]) == [JOINT_ERROR]
    write_overlay(log.rows(slice(0, 100)), robot, tmp_path / "arm.rrd")
    assert (tmp_path / "arm.rrd").stat().st_size > 10_000
