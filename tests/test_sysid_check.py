"""MuJoCo's own identification as a second opinion on the same windows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mujoco import sysid

from asap.cli import main
from asap.correction import Correction
from asap.evaluate import Case
from asap.identify import JOINT_RAD, Shooting
from asap.inputs import open_motion
from asap.log_windows import Windows, stretches_of
from asap.parameter_search import Identified
from asap.parameters import Parameters
from asap.record import RecordConfig, record
from asap.robot import Robot
from asap.sysid_check import COMPARED, Compared, CrossCheck, World, cross_check, off_bounds
from asap_deploy.log import Log
from asap_deploy.policy import Policy

ROOT = Path(__file__).parents[1]
LATE_S = 0.0125


@pytest.fixture(scope="module")
def robot() -> Robot:
    return Robot.load("g1")


@pytest.fixture(scope="module")
def planted(robot: Robot) -> Log:
    """Weak knees and stiff hips, heavier ankle rotors, a delay of two and a half physics steps."""
    names = robot.joint_names
    truth = Correction(
        robot_name="g1", joint_names=names,
        parameters={
            "stiffness": tuple(0.75 if "knee" in name else 1.0 for name in names),
            "added_frictionloss": tuple(0.5 if "hip" in name else 0.0 for name in names),
            "armature": tuple(2.0 if "ankle" in name else 1.0 for name in names),
            "delay_s": (LATE_S,) * len(names),
        },
    ).robot(robot)  # fmt: skip
    clip = open_motion(Path("squat"), robot, ground=True)
    policy = Policy.from_bytes((ROOT / "policies" / "g1" / "squat.onnx").read_bytes())
    how = RecordConfig(episodes=1, start_noise=0.3)
    return record(Case(policy, clip.motion, "squat"), truth, how)


def _windows(log: Log, robot: Robot, count: int) -> tuple[Windows, Robot]:
    stretches = stretches_of(log, 0, robot)
    windows = Windows(stretches, horizons_s=(0.2,), every_s=0.2, late_s=0.04)
    windows.keep(count)
    late = np.full(len(robot.joint_names), LATE_S)
    return windows, stretches[0].track.robot.with_(delay_s=late)


def test_both_simulations_go_the_same_way_for_the_same_parameters(
    robot: Robot, planted: Log
) -> None:
    """Specs that are recompiled, delays that are laid out beforehand: and no other result."""
    windows, own = _windows(planted, robot, 5)
    parameters = Parameters(own, kinds=COMPARED)
    z = off_bounds(parameters) + np.random.default_rng(0).uniform(0.0, 0.3, len(parameters))
    shooting = Shooting(windows, own, parameters, base_known=False, threads=1)
    ours = shooting._errors(z[None])[0].reshape(5, windows.steps, -1)
    world = World(windows, own, parameters)
    theirs = world.errors(world.positions(z))
    joints = len(own.joint_names)
    assert np.abs(ours[..., :joints] - theirs).max() * JOINT_RAD < 1e-6
    # The parameters are in it at all: the model itself goes elsewhere.
    assert np.abs(world.errors(world.positions(np.zeros(len(z)))) - theirs).max() > 0.1


def test_starts_are_off_the_bounds_on_which_derivatives_stall(robot: Robot) -> None:
    parameters = Parameters(robot, kinds=COMPARED)
    low, high = parameters.bounds
    start = off_bounds(parameters)
    assert (start > low).all() and (start < high).all()
    knee = [item.name for item in parameters.items].index("knee stiffness")
    assert start[knee] == 0.0


def test_the_words_name_what_is_farthest_apart() -> None:
    rows = [Compared("knee stiffness", 1.0, 0.75, 0.751, 0.01),
            Compared("hip armature", 1.0, 2.0, 3.0, 0.6)]  # fmt: skip
    check = CrossCheck(rows=rows, cost={"ours": 0.1, "theirs": 0.1}, windows=40)
    assert not check.agree and "agrees on 1 of 2 parameters" in check.words
    assert "farthest apart is hip armature: 2 here, 3 there" in check.words
    assert CrossCheck(rows=rows[:1], cost={}, windows=4).agree
    assert "was not asked" in CrossCheck(rows=[], cost={}, windows=4).words


def test_without_what_it_needs_one_line_says_so_before_anything_is_fitted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delattr(sysid, "optimize", raising=False)
    log = ROOT / "real_logs" / "g1" / "squat_worn.npz"
    assert main(["fit", "--logs", str(log), "--method", "identify", "--cross-check"]) == 2
    assert "pip install 'mujoco[sysid]'" in capsys.readouterr().err
    assert main(["fit", "--logs", str(log), "--method", "delta", "--cross-check"]) == 2
    assert "--cross-check is of identified parameters" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_mujoco_sysid_finds_what_we_find(robot: Robot, planted: Log) -> None:
    if not hasattr(sysid, "optimize"):
        pytest.skip("mujoco[sysid] is not installed: our fit is NOT compared with mujoco.sysid")
    windows, own = _windows(planted, robot, 16)
    parameters = Parameters(own, kinds=("delay",))
    base = Shooting(windows, own, parameters, base_known=True, threads=1)
    z = np.zeros(1)
    found = Identified(
        groups=("delay",), parameters=parameters, z=z, active=np.ones(1, dtype=bool),
        linear=base.linear(z), tried=[], share=0.5, windows=windows, robot=own,
        correction=Correction(robot_name="g1", joint_names=own.joint_names, parameters={}),
    )  # fmt: skip
    check = cross_check(found, windows=16, threads=1)
    rows = {row.name: row for row in check.rows}
    assert check.agree, check.words
    assert rows["knee stiffness"].theirs == pytest.approx(0.75, abs=0.02)
    assert rows["hip added_frictionloss"].theirs == pytest.approx(0.5, abs=0.1)
    assert check.cost["theirs"] < 0.1 and check.cost["ours"] < 0.1
