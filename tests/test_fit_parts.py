"""The parts of a fit: learned offsets, bands, misfit, logs under different gains."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from asap import learned as learning
from asap.bands import calibrate
from asap.correction import LEARNED_FILE, Correction
from asap.delta_fit import FEATURES, DeltaConfig, DeltaShooting, DeltaWeights, as_learned
from asap.evaluate import Case
from asap.fit import fit
from asap.fit_methods import FitConfig
from asap.identify import LinearFit
from asap.inputs import open_motion
from asap.learned import Learned
from asap.log_windows import Windows, stretches_of
from asap.misfit import suspects
from asap.parameters import Parameters, joint_groups
from asap.record import RecordConfig, record
from asap.replay import JOINT_ERROR, Arm, Replay, ReplayConfig, replay
from asap.robot import Robot
from asap.sim import CpuSimulation
from asap.twin import make_simulation
from asap_deploy.errors import InputError
from asap_deploy.log import Log
from asap_deploy.policy import Policy

ROOT = Path(__file__).parents[1]
SPARSE = ReplayConfig(every_s=0.5)


@pytest.fixture(scope="module")
def robot() -> Robot:
    return Robot.load("g1")


@pytest.fixture(scope="module")
def case(robot: Robot) -> Case:
    clip = open_motion(Path("squat"), robot, ground=True)
    data = (ROOT / "policies" / "g1" / "squat.onnx").read_bytes()
    return Case(Policy.from_bytes(data), clip.motion, "squat")


@pytest.fixture(scope="module")
def log(robot: Robot, case: Case) -> Log:
    return record(case, robot, RecordConfig(episodes=1, start_noise=0.2))


def _knee_law(robot: Robot, log: Log, size: float = -0.35) -> Learned:
    """An offset of a part of the left knee's position error."""
    weights = np.zeros((len(robot.joint_names), len(FEATURES)))
    place = robot.joint_names.index("left_knee_joint")
    weights[place, list(FEATURES).index("error")] = size
    return as_learned(weights, robot, [log])


def test_the_perfect_offset_for_a_weak_knee_is_found(robot: Robot, case: Case) -> None:
    """Stiffness x 0.65 is an offset of -0.35 (target - q), whatever the motion."""
    knee = robot.joint_names.index("left_knee_joint")
    factor = np.ones(len(robot.joint_names))
    factor[knee] = 0.65
    weak = Correction(robot_name="g1", joint_names=robot.joint_names,
                      parameters={"stiffness": tuple(factor)})  # fmt: skip
    log = record(case, weak.robot(robot), RecordConfig(episodes=1, start_noise=0.2))
    stretches = stretches_of(log, 0, robot)
    own = stretches[0].track.robot
    windows = Windows(stretches, horizons_s=(0.2,), every_s=0.4, late_s=0.0)
    weights = DeltaWeights(own)
    active = np.repeat(DeltaConfig(joints=("left_knee",)).places(own), len(FEATURES))
    shooting = DeltaShooting(windows, own, weights, base_known=True)
    z = shooting.solve(np.zeros(len(weights)), active, iterations=2)
    found = dict(zip(FEATURES, weights.weights(z[None])[0, knee], strict=True))
    assert found["error"] == pytest.approx(-0.35, abs=0.02)
    law = as_learned(weights.weights(z[None])[0], own, [log])
    seen = replay([log], {"nominal": robot, "offset": robot.with_(learned=law)}, SPARSE)
    error = {arm: seen.arms[arm].horizons["0.5"][JOINT_ERROR].value for arm in seen.arms}
    assert error["offset"] < 0.2 * error["nominal"]


def test_an_offset_is_bounded_and_fades_away_from_its_log(robot: Robot, log: Log) -> None:
    law, sim = _knee_law(robot, log), CpuSimulation(robot, 1)
    knee = robot.joint_names.index("left_knee_joint")
    measured = sim.measure()
    target = robot.default_joint_pos[None].copy()
    target[:, knee] += 0.05
    near = law(measured, target)
    assert near[0, knee] == pytest.approx(-0.35 * 0.05, rel=0.15)
    assert np.abs(np.delete(near[0], knee)).max() == 0.0
    far = law(measured._replace(joint_vel=measured.joint_vel + 50.0), target)
    assert np.abs(far).max() == 0.0
    rng = np.random.default_rng(0)
    for _ in range(200):
        wild = measured._replace(joint_pos=rng.normal(0.0, 1.0, measured.joint_pos.shape))
        assert (np.abs(law(wild, target)) <= np.array(law.contract.bound) + 1e-6).all()


def test_a_correction_with_an_offset_is_saved_loaded_and_applied(
    robot: Robot, log: Log, tmp_path: Path
) -> None:
    law = _knee_law(robot, log)
    correction = Correction(robot_name="g1", joint_names=robot.joint_names, parameters={},
                            learned=law)  # fmt: skip
    assert not correction.empty and correction.beyond_mjcf == ["the learned part"]
    correction.save(tmp_path / "correction.json")
    again = Correction.load(tmp_path / "correction.json")
    assert again.learned is not None and again.learned.data == law.data
    ends = []
    for one in (robot, correction.robot(robot), again.robot(robot)):
        sim = make_simulation(one, 1)
        for step in range(20):
            sim.step((robot.default_joint_pos + 0.2 * np.sin(0.3 * step))[None])
        ends.append(sim.joint_pos.copy())
    assert np.array_equal(ends[1], ends[2])
    assert np.abs(ends[0] - ends[1]).max() > 1e-4
    (tmp_path / LEARNED_FILE).write_bytes(_knee_law(robot, log, 0.1).data)
    with pytest.raises(InputError, match="not the one that this correction was saved with"):
        Correction.load(tmp_path / "correction.json")
    with pytest.raises(InputError, match="does not fit the 23 of robot"):
        dataclasses.replace(correction).robot(Robot.load("g1:23dof").with_(name="g1"))


def test_what_is_no_learned_correction_is_one_line(robot: Robot, log: Log, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no learned correction of ours"):
        Learned.load(ROOT / "policies" / "g1" / "squat.onnx")
    (tmp_path / "x.onnx").write_bytes(b"nothing")
    with pytest.raises(InputError, match="ONNX"):
        Learned.load(tmp_path / "x.onnx")
    law = _knee_law(robot, log)
    model = learning.onnx_file.load_model(law.data)
    facts = json.loads(next(p.value for p in model.metadata_props))
    for key, value, match in (
        ("acts_on", "world", "acts on 'world'"),
        ("lost", 0.0, "'trusted' below 'lost'"),
        ("version", 9, "version 9"),
        ("joint_names", ["a"], "shapes"),
    ):
        data = learning.onnx_file.with_metadata(
            model, {learning.METADATA_KEY: json.dumps({**facts, key: value})}
        )
        with pytest.raises(InputError, match=match):
            Learned.from_bytes(data)


def test_logs_under_different_gains_are_replayed_under_their_own(
    robot: Robot, case: Case, log: Log
) -> None:
    softer = robot.with_(stiffness=0.8 * robot.stiffness)
    contract = dataclasses.replace(
        case.policy.contract, stiffness=tuple(0.8 * np.array(case.policy.contract.stiffness))
    )
    soft_policy = Policy(contract, case.policy.graph, _data("squat"))
    soft = record(case._replace(policy=soft_policy), softer,
                  RecordConfig(episodes=1, start_noise=0.2))  # fmt: skip
    assert not np.allclose(soft.fields["stiffness"], log.fields["stiffness"])
    for order in ([log, soft], [soft, log]):
        seen = replay(order, {"nominal": robot}, SPARSE)
        for errors in seen.arms["nominal"].horizons.values():
            assert errors[JOINT_ERROR].value < 1e-4


def _data(name: str) -> bytes:
    return (ROOT / "policies" / "g1" / f"{name}.onnx").read_bytes()


def _replayed(errors: np.ndarray, moves: np.ndarray, runs: np.ndarray) -> Replay:
    """A replay that holds nothing but errors of windows."""

    def arm(name: str, values: np.ndarray) -> Arm:
        windows = {JOINT_ERROR: values[:, None]}
        return Arm(name=name, horizons={"0.5": {}}, curve={}, joint_mae_deg=np.zeros((1, 1)),
                   diverged=0, joint_deg=values[:, None], windows=windows)  # fmt: skip

    count = len(errors)
    arms = {"corrected": arm("corrected", errors), "hold_last": arm("hold_last", moves)}
    return Replay(
        arms=arms, windows=count, episodes=1, rate_hz=50.0, joint_names=("a",), base_known=False,
        straddling=0, start_row=np.arange(count), stretch=runs, time_s=np.array([0.5]),
    )  # fmt: skip


def test_bands_hold_nine_of_ten_windows_of_other_runs() -> None:
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(30):
        runs, moves = np.repeat(np.arange(6), 40), rng.uniform(0.0, 10.0, 240)
        errors = np.abs(rng.normal(0.0, 1.0, 240)) * (5.0 + moves)
        band = calibrate([_replayed(errors, moves, runs)], "corrected")["0.5"][JOINT_ERROR]
        later = rng.uniform(0.0, 10.0, 500)
        found = np.abs(rng.normal(0.0, 1.0, 500)) * (5.0 + later)
        covered.append((found <= band.factor * (band.rest + later)).mean())
        assert 0.8 < band.coverage < 1.0
    assert 0.87 < np.mean(covered) < 0.93


def test_a_law_in_what_is_left_is_noticed_and_noise_is_not(robot: Robot, log: Log) -> None:
    stretches = stretches_of(log, 0, robot)
    windows = Windows(stretches, horizons_s=(0.2,), every_s=0.04, late_s=0.0)
    count, joints = len(windows.start), len(robot.joint_names)
    parameters = Parameters(robot, kinds=["stiffness"])
    rng = np.random.default_rng(0)
    left = rng.normal(0.0, 1.0, (count, windows.steps, joints + 6))
    fit_of = lambda errors: LinearFit(  # noqa: E731
        np.zeros(len(parameters)), errors.reshape(count, -1),
        np.zeros((count, errors[0].size, len(parameters))), parameters.bounds,
        np.zeros(count, dtype=int),
    )  # fmt: skip
    assert suspects(fit_of(left), np.zeros(len(parameters)), robot, windows) == []
    rows = windows.rows(np.arange(count), windows.steps - 1)
    knees = joint_groups(robot)["knee"]
    speed = windows.qvel[rows][:, robot.qvel_ids[knees]]
    left[:, -1, knees] += 1.5 * speed / speed.std()
    assert suspects(fit_of(left), np.zeros(len(parameters)), robot, windows) == ["knee"]


def test_logs_that_tell_nothing_are_refused(robot: Robot) -> None:
    rows = 1500
    still = Log(robot.joint_names, 0.02 * np.arange(rows),
                np.tile(robot.default_joint_pos, (rows, 1)))  # fmt: skip
    with pytest.raises(InputError, match="too little excitation"):
        fit([still], robot, FitConfig())
    with pytest.raises(InputError, match="too little to fit"):
        fit([still.rows(slice(0, 100))], robot, FitConfig())
