"""Logs of real robots, read by column maps alone, replay as far as they were seen to elsewhere."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from asap.closed_loop import compare_run
from asap.inputs import case_of, open_policy
from asap.log_check import check_log
from asap.log_import import open_log
from asap.metrics import Interval
from asap.replay import JOINT_ERROR, Replay, ReplayConfig, replay
from asap.robot import Robot

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data" / "real_logs"
MODELS = {
    "sigmaban": "sigmaban/model/robot_nomesh.xml",
    "agibot_x2": "agibot_x2/model/x2_ultra_nomesh.xml",
    "bhl_biped": "bhl_biped/model/berkeley_humanoid_lite_biped_nomesh.xml",
}
CONFIG = ReplayConfig(horizons_s=(0.1, 0.4, 1.0), every_s=0.25)

pytestmark = pytest.mark.skipif(
    not SHARED.is_dir(), reason="the real logs are not here: they are NOT replayed"
)


def _robot(name: str, folder: Path) -> Robot:
    """The robot's folder as a user makes it: our facts, and the makers' geometry or our own."""
    ours = ROOT / "real_logs" / "robots" / name
    shutil.copy(
        SHARED / MODELS[name] if name in MODELS else ours / "robot.xml", folder / "robot.xml"
    )
    shutil.copy(ours / "robot.toml", folder)
    return Robot.load(str(folder))


def _replayed(name: str, file: str, folder: Path) -> Replay:
    robot = _robot(name, folder)
    columns = ROOT / "real_logs" / "columns" / f"{name}.toml"
    opened = open_log(SHARED / name / file, columns=columns, robot=robot)
    return replay([opened.log], {"nominal": robot}, CONFIG)


def _errors(result: Replay, arm: str) -> list[float]:
    figures: list[Interval] = [h[JOINT_ERROR] for h in result.arms[arm].horizons.values()]
    return [figure.value for figure in figures]


@pytest.mark.parametrize("gain", [16, 24, 32])
def test_sigmaban_squats_within_a_degree_at_one_second(gain: int, tmp_path: Path) -> None:
    found = _replayed("sigmaban", f"npz/squat_motion__{gain}.npz", tmp_path)
    assert found.rate_hz == pytest.approx(100.0, rel=2e-3)
    assert found.base_known
    errors, still = _errors(found, "nominal"), _errors(found, "hold_last")
    assert np.deg2rad(errors[-1]) < 0.022
    assert errors[-1] < 0.3 * still[-1]


@pytest.mark.parametrize(("run", "dropped"), [("drop_kp__32_to_12", True),
                                               ("squat_motion__32", False)])  # fmt: skip
def test_a_gain_that_was_lowered_under_a_standing_robot_is_noticed(run: str, dropped: bool) -> None:
    columns = ROOT / "real_logs" / "columns" / "sigmaban.toml"
    log = open_log(SHARED / "sigmaban" / "npz" / f"{run}.npz", columns=columns).log
    found = [f for f in check_log(log).problems if f.name == "gain_change"]
    assert len(found) == dropped
    assert not dropped or {"left_knee", "right_knee"} <= set(found[0].joints)


def test_an_x2_walks_for_some_tenths_of_a_second(tmp_path: Path) -> None:
    found = _replayed("agibot_x2", "x2_dev_0_60s.npz", tmp_path)
    assert found.rate_hz == pytest.approx(50.0, rel=2e-3)
    assert not found.base_known  # an IMU and no motion capture
    assert 0.01 < np.deg2rad(_errors(found, "nominal")[1]) < 0.04


def test_a_biped_that_the_model_does_not_explain_is_worse_than_standing_still(
    tmp_path: Path,
) -> None:
    found = _replayed("bhl_biped", "npz/test_run_020.npz", tmp_path)
    assert _errors(found, "nominal")[0] > _errors(found, "hold_last")[0]
    slow = _replayed("bhl_biped", "npz/test_run_024.npz", tmp_path)
    assert slow.rate_hz == pytest.approx(25.0, rel=5e-3)


def test_a_real_g1_does_what_the_simulated_one_does_under_the_same_policy() -> None:
    folder, robot = SHARED / "g1_closed_loop", Robot.load("g1")
    columns = ROOT / "real_logs" / "columns" / "g1_closed_loop.toml"
    opened = open_log(next(folder.rglob("*_to_locomode.csv")), columns=columns, robot=robot)
    case = case_of(open_policy(next(folder.glob("policies/*.onnx")), robot, None, None))
    found = compare_run(opened.log, case, robot)
    assert found.covered_s > 11.5
    assert found.joint_mae_deg.mean() < 2.5
    assert found.joint_mae_deg.mean() < 0.6 * found.reference_mae_deg.mean()
