"""Logs whose motors were told other gains on the way: replayed under those in force."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from toy_robots import stool

from asap.log_windows import Windows, stretches_of
from asap.replay import Replay, ReplayConfig, replay
from asap.robot import Robot
from asap.sim import CpuSimulation
from asap_deploy.errors import InputError
from asap_deploy.log import Log

ROWS, CHANGE = 200, 100
OPTIONS = {"horizons_s": (0.1, 0.26), "every_s": 0.1}
CONFIG = ReplayConfig(**OPTIONS, threads=1)


@pytest.fixture
def robot(tmp_path: Path) -> Robot:
    return stool(tmp_path)


def recorded(robot: Robot, share: np.ndarray) -> Log:
    """Hips that swing in free fall; row by row a share (T,) of the stiffness is told and obeyed."""
    sim = CpuSimulation(robot, 1, threads=1)
    high = robot.default_qpos()
    high[2] = 200.0
    sim.reset(np.array([0]), high[None], np.zeros((1, robot.model.nv)))
    gain, bias = sim.batch.expand("actuator_gainprm"), sim.batch.expand("actuator_biasprm")
    usual = gain[0, :, 0].copy()
    rows: dict[str, list[np.ndarray]] = {}
    for row, now in enumerate(share):
        gain[0, :, 0], bias[0, :, 1] = now * usual, -now * usual
        target = np.array([0.5 * np.sin(0.13 * row), 0.7 * np.sin(0.19 * row + 1.0)])
        seen = sim.measure()._asdict() | {"joint_pos_target": target[None]}
        for name, value in seen.items():
            rows.setdefault(name, []).append(value[0].copy())
        sim.step(target[None])
    fields = {name: np.array(values) for name, values in rows.items()}
    joint_pos = fields.pop("joint_pos")
    fields |= {"damping": robot.damping, "stiffness": share[:, None] * robot.stiffness}
    return Log(robot.joint_names, robot.control_dt * np.arange(len(share)), joint_pos, fields)


def worst(result: Replay, name: str) -> float:
    errors = result.arms[name].joint_deg
    return float(errors[np.isfinite(errors)].max())


def switched() -> np.ndarray:
    return np.where(np.arange(ROWS) < CHANGE, 1.0, 0.4)


def test_a_twin_whose_stiffness_is_switched_on_the_way_replays_to_zero(robot: Robot) -> None:
    twin = robot.with_(frictionloss=np.array([0.8, 0.5]))
    log = recorded(twin, switched())
    found = replay([log], {"nominal": robot, "truth": twin}, CONFIG)
    assert worst(found, "truth") < 1e-6
    assert worst(found, "nominal") > 0.1  # the friction, which the model lacks
    # The control: one set of gains, the median, explains neither half.
    usual = np.median(log.fields["stiffness"], axis=0)
    blurred = replace(log, fields={**log.fields, "stiffness": usual})
    assert worst(replay([blurred], {"truth": twin}, CONFIG), "truth") > 1.0


def test_windows_across_a_change_are_left_out_and_counted(robot: Robot) -> None:
    whole = Windows(stretches_of(recorded(robot, np.ones(ROWS)), 0, robot), **OPTIONS, late_s=0.0)
    cut = Windows(stretches_of(recorded(robot, switched()), 0, robot), **OPTIONS, late_s=0.0)
    assert whole.straddling == 0 and whole.gain_ratio is None
    # Windows of 13 rows begin every 5: those from rows 90 and 95 would cross row 100. From row 90
    # the first horizon of 5 rows is still before it, so that window counts as far as that.
    assert cut.straddling == 2 and len(whole.start) == len(cut.start) + 1
    ends = cut.rows(np.arange(len(cut.start)), cut.horizons[0])
    begins = cut.rows(np.arange(len(cut.start)), 0)
    assert not ((begins < CHANGE) & (ends >= CHANGE)).any()
    np.testing.assert_allclose(cut.gain_ratio["stiffness"], [[1.0, 1.0], [0.4, 0.4]])


def test_gains_that_rise_row_by_row_and_motors_that_are_off_are_left_out(robot: Robot) -> None:
    off, ramp = np.zeros(30), np.linspace(0.02, 0.95, 30)
    log = recorded(robot, np.concatenate([off, ramp, np.ones(ROWS - 60)]))
    pieces = stretches_of(log, 0, robot)
    assert sum(len(piece.track.qpos) for piece in pieces) == ROWS - 60
    assert worst(replay([log], {"nominal": robot}, CONFIG), "nominal") < 1e-6


def test_gains_that_hardly_differ_are_one_set(robot: Robot) -> None:
    log = recorded(robot, 1.0 + 0.004 * np.sin(np.arange(ROWS)))
    assert len(stretches_of(log, 0, robot)) == 1


def test_gains_that_never_rest_are_refused_in_one_line(robot: Robot) -> None:
    log = recorded(robot, 1.0 + 0.5 * np.sin(np.arange(ROWS)))
    with pytest.raises(InputError, match=r"change every few rows: no 10 rows .* `asap logs show`"):
        stretches_of(log, 0, robot)
