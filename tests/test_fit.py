"""Identification: planted truths are found, and a model that is right is left alone."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import mujoco
import numpy as np
import pytest

from asap.cli import main
from asap.correction import Correction
from asap.delta_fit import DeltaConfig
from asap.evaluate import Case
from asap.fit import fit, identified_first
from asap.fit_methods import FitConfig, propose
from asap.identify import LinearFit, Shooting
from asap.inputs import open_motion
from asap.judge import Judge
from asap.log_split import split
from asap.log_windows import Windows, stretches_of
from asap.parameter_search import IdentifyConfig, with_limits
from asap.parameters import KINDS, Parameters, joint_groups
from asap.record import RecordConfig, record
from asap.replay import JOINT_ERROR
from asap.robot import Robot
from asap.sim import CpuSimulation
from asap.twin import TwinSimulation, make_simulation
from asap.variation import Variation
from asap_deploy.errors import InputError
from asap_deploy.log import Log
from asap_deploy.policy import Policy

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def robot() -> Robot:
    return Robot.load("g1")


def _log(robot: Robot, name: str = "squat", **options) -> Log:
    clip = open_motion(Path(name), robot, ground=True)
    policy = Policy.from_bytes((ROOT / "policies" / "g1" / f"{name}.onnx").read_bytes())
    return record(Case(policy, clip.motion, name), robot, RecordConfig(**options))


def _shooting(log: Log, robot: Robot, kinds: list[str], *, threads: int = 0) -> Shooting:
    stretches = stretches_of(log, 0, robot)
    windows = Windows(stretches, horizons_s=(0.2,), every_s=0.4, late_s=0.04)
    own = stretches[0].track.robot
    return Shooting(windows, own, Parameters(own, kinds=kinds), base_known=True, threads=threads)


def _solved(shooting: Shooting, start: float = 0.0, iterations: int = 4) -> LinearFit:
    everything = np.ones(len(shooting.parameters), dtype=bool)
    z = shooting.solve(start * everything, everything, iterations=iterations)
    return shooting.linear(z)


def _found(shooting: Shooting, name: str, z: np.ndarray) -> float:
    place = [item.name for item in shooting.parameters.items].index(name)
    return shooting.parameters.items[place].physical(z[place])


def test_groups_are_parts_of_the_body(robot: Robot) -> None:
    groups = joint_groups(robot)
    assert list(groups) == ["hip", "knee", "ankle", "waist", "shoulder", "elbow", "wrist"]
    assert sum(len(columns) for columns in groups.values()) == len(robot.joint_names)


def test_a_correction_is_the_same_robot_as_the_one_that_was_fitted(
    robot: Robot, tmp_path: Path
) -> None:
    parameters, rng = Parameters(robot, kinds=list(KINDS)), np.random.default_rng(0)
    z = np.clip(rng.normal(0.0, 0.5, len(parameters)), *parameters.bounds)
    values = parameters.values(z[None])
    correction = Correction(
        robot_name="g1", joint_names=robot.joint_names,
        parameters={name: tuple(row[0]) for name, row in values.items()},
    )  # fmt: skip
    correction.save(tmp_path / "c.json")
    again = Correction.load(tmp_path / "c.json")
    assert again == correction
    fitted = TwinSimulation(robot, 1, max_delay_s=0.04)
    variation = Variation(fitted, parameters.quantities)
    for name, row in values.items():
        variation.values[name][:] = row
    variation.write(np.array([0]))
    corrected, plain = make_simulation(again.robot(robot), 1), CpuSimulation(robot, 1)
    start = robot.default_qpos()[None], np.zeros((1, robot.model.nv))
    for sim in (fitted, corrected, plain):
        sim.reset(np.array([0]), *start)
        for step in range(30):
            sim.step((robot.default_joint_pos + 0.2 * np.sin(0.2 * step))[None])
    assert np.abs(fitted.joint_pos - corrected.joint_pos).max() < 1e-12
    assert np.abs(plain.joint_pos - corrected.joint_pos).max() > 1e-3
    again.write_mjcf(robot, tmp_path / "c.xml")
    model = mujoco.MjModel.from_xml_path(str(tmp_path / "c.xml"))
    assert np.allclose(model.dof_armature, corrected.model.dof_armature)
    assert np.allclose(model.body_mass, corrected.model.body_mass)
    assert np.allclose(model.qpos0, corrected.model.qpos0)


def test_planted_stiffness_friction_and_load_are_recovered(robot: Robot) -> None:
    planted = Correction(
        robot_name="g1", joint_names=robot.joint_names,
        parameters={
            "stiffness": tuple(0.75 if "knee" in name else 1.0 for name in robot.joint_names),
            "added_frictionloss": tuple(
                0.5 if "hip" in name else 0.0 for name in robot.joint_names
            ),
            "com_offset_m": (0.015, 0.0, 0.0),
        },
    )  # fmt: skip
    log = _log(planted.robot(robot), episodes=2, start_noise=0.3)
    shooting = _shooting(log, robot, ["stiffness", "damping", "frictionloss", "inertial"])
    solution = _solved(shooting)
    before = shooting.residual(np.zeros(len(solution.z)))
    assert np.square(solution.residual).sum() < 0.05 * np.square(before).sum()
    assert _found(shooting, "knee stiffness", solution.z) == pytest.approx(0.75, abs=0.02)
    assert _found(shooting, "ankle stiffness", solution.z) == pytest.approx(1.0, abs=0.04)
    assert _found(shooting, "hip added_frictionloss", solution.z) == pytest.approx(0.5, abs=0.1)
    assert _found(shooting, "torso com x", solution.z) == pytest.approx(0.015, abs=0.004)


def test_a_planted_delay_is_found_within_a_millisecond(robot: Robot) -> None:
    late = robot.with_(delay_s=np.full(len(robot.joint_names), 0.012))
    shooting = _shooting(_log(late, episodes=1, start_noise=0.3), robot, ["delay"])
    solution = _solved(shooting, start=1.0)
    assert 1000.0 * _found(shooting, "delay", solution.z) == pytest.approx(12.0, abs=1.0)


def test_a_motor_that_gives_less_than_it_should_is_found_where_it_gives_all_it_has(
    robot: Robot,
) -> None:
    """A jump asks knees for all they have; a wave does not, and says nothing about it."""
    share = tuple(0.35 if "knee" in name else 1.0 for name in robot.joint_names)
    planted = Correction(
        robot_name="g1", joint_names=robot.joint_names, parameters={"torque_limit": share}
    )
    weak, kinds = planted.robot(robot), ["stiffness", "torque_limit"]
    for of, clip, found in ((weak, "jump_forward", True), (robot, "jump_forward", False),
                            (weak, "wave", False)):  # fmt: skip
        shooting = _shooting(_log(of, clip, episodes=2), robot, kinds)
        gains = np.array([group == "stiffness" for group in shooting.parameters.groups])
        z, reached = with_limits(shooting, shooting.parameters, 0.0 * gains, gains, 4)
        names = [item.name for item in shooting.parameters.items]
        assert reached[names.index("knee torque_limit")] == found, (clip, found)
        if found:
            assert _found(shooting, "knee torque_limit", z) == pytest.approx(0.35, abs=0.02)
            assert _found(shooting, "knee stiffness", z) == pytest.approx(1.0, abs=0.03)
            assert _found(shooting, "hip torque_limit", z) > 0.9
        else:
            assert not reached.any() and not z.any()


def test_the_floor_is_told_least_by_a_robot_that_stands_and_waves(robot: Robot) -> None:
    shooting = _shooting(_log(robot, "wave", episodes=1), robot, ["stiffness", "floor"])
    solution = _solved(shooting, iterations=1)
    told = dict(zip([p.name for p in shooting.parameters.items],
                    solution.told(np.ones(len(solution.z), dtype=bool)), strict=True))  # fmt: skip
    assert told["floor friction"] == min(told.values())
    assert told["shoulder stiffness"] > 0.99


def test_threads_do_not_change_a_residual(robot: Robot) -> None:
    log = _log(robot, episodes=1, start_noise=0.2)
    one, two = (_shooting(log, robot, ["stiffness"], threads=threads) for threads in (1, 2))
    z = np.full((len(one.parameters), 3), 0.3)
    assert np.array_equal(one.residual(z), two.residual(z))


def test_logs_are_cut_by_run_or_with_a_pause(robot: Robot) -> None:
    log = _log(robot, "wave", episodes=5)
    parts = split([log])
    assert [len(part) for part in parts] == [3, 1, 1]
    single = log.segments()[0]
    with pytest.raises(InputError, match="too short to be fitted and judged"):
        split([single])
    time_s = 0.02 * np.arange(1500)
    long = Log(("a",), time_s, np.zeros((1500, 1)))
    train, validation, test = (part[0] for part in split([long]))
    assert validation.time_s[0] - train.time_s[-1] > 0.9
    assert test.time_s[0] - validation.time_s[-1] > 0.9


def test_what_is_no_correction_is_one_line(robot: Robot, tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    file.write_text('{"format": "other"}')
    with pytest.raises(InputError, match="not a correction of ours"):
        Correction.load(file)
    file.write_text("[1, 2")
    with pytest.raises(InputError, match="cannot be read"):
        Correction.load(file)
    for name, values, match in (
        ("glow", (1.0,), "correction of unknown 'glow'"),
        ("stiffness", (1.0,), "needs 29 finite numbers"),
        ("friction", (-1.0,), "must be above 0"),
    ):
        with pytest.raises(InputError, match=match):
            Correction(robot_name="g1", joint_names=robot.joint_names, parameters={name: values})
    other = Correction(robot_name="h1", joint_names=robot.joint_names, parameters={})
    with pytest.raises(InputError, match="is of robot 'h1', not of 'g1'"):
        other.robot(robot)


def test_a_twin_is_not_what_is_corrected(tmp_path: Path, capsys) -> None:
    log = ROOT / "real_logs" / "g1" / "squat_worn.npz"
    assert main(["fit", "--logs", str(log), "--robot", "g1@worn"]) == 2
    assert "is a twin" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_worn_robot_is_corrected_on_a_motion_that_was_not_fitted(
    robot: Robot, tmp_path: Path
) -> None:
    worn = Robot.load("g1@worn")
    for name, seed in (("squat", 1), ("wave", 2), ("walk", 3)):
        log = _log(worn, name, episodes=2, start_noise=0.3, seed=seed)
        log.save(tmp_path / f"{name}.npz")
    out, found = tmp_path / "fit", tmp_path / "r.json"
    words = ["fit", "--logs", str(tmp_path / "squat.npz"), str(tmp_path / "wave.npz"),
             "--heldout", str(tmp_path / "walk.npz"), "--out", str(out), "--quiet"]  # fmt: skip
    assert main([*words, "--json", str(found)]) == 0
    result = json.loads(found.read_text())
    for horizon in ("0.25", "0.5", "1.0"):
        error = result["heldout"][horizon][JOINT_ERROR]["value"]
        assert error < 0.3 * result["baseline"]["nominal"][horizon][JOINT_ERROR]["value"]
    assert (out / "corrected.xml").exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_log_of_the_model_itself_gives_no_correction(robot: Robot) -> None:
    logs = [_log(robot, name, episodes=2, start_noise=0.3) for name in ("squat", "wave")]
    fitted = fit(logs, robot, FitConfig())
    assert not fitted.accepted
    assert fitted.correction.empty
    assert "no correction" in fitted.verdict


@pytest.mark.parametrize(
    ("kind", "joint", "size", "near"),
    [("dead_band", "ankle", 0.01, 0.002), ("encoder_bias", "left_knee", 0.02, 0.004)],
)
def test_what_no_number_of_a_model_says_is_recovered_too(
    robot: Robot, kind: str, joint: str, size: float, near: float
) -> None:
    joints = robot.joint_names
    planted = Correction(
        robot_name="g1", joint_names=joints,
        parameters={
            "load_friction": tuple(0.1 if "knee" in name else 0.0 for name in joints),
            kind: tuple(size if joint in name else 0.0 for name in joints),
        },
    )  # fmt: skip
    log = _log(planted.robot(robot), episodes=2, start_noise=0.3)
    shooting = _shooting(log, robot, ["load_friction", kind])
    z = _solved(shooting, iterations=3).z
    assert _found(shooting, "knee load_friction", z) == pytest.approx(0.1, abs=0.01)
    assert _found(shooting, f"{joint} {kind}", z) == pytest.approx(size, abs=near)
    assert _found(shooting, "elbow load_friction", z) < 0.01
    if kind == "encoder_bias":
        assert _found(shooting, "right_knee encoder_bias", z) == pytest.approx(0.0, abs=near)


def test_an_identification_that_is_shared_gives_what_each_method_finds_alone(robot: Robot) -> None:
    joints = robot.joint_names
    planted = Correction(
        robot_name="g1", joint_names=joints,
        parameters={"stiffness": tuple(0.8 if "knee" in name else 1.0 for name in joints),
                    "added_frictionloss": tuple(0.5 if "hip" in n else 0.0 for n in joints)},
    )  # fmt: skip
    logs = [_log(planted.robot(robot), episodes=3, start_noise=0.3)]
    few = IdentifyConfig(groups=("stiffness",), delays_ms=(0.0,), iterations=1, seconds=2.0)
    offset = DeltaConfig(seconds=2.0, iterations=1, joints=("hip",))
    config = FitConfig(method="stacked", identify=few, delta=offset, threads=1)
    shared = identified_first(logs, robot, config)
    parts, judge = split(logs), Judge(split(logs).validation, robot, threads=1)
    alone, handed = (propose(parts, robot, config, judge, identified=known).correction
                     for known in (None, shared))  # fmt: skip
    assert alone.parameters and alone.learned is not None and handed.learned is not None
    assert handed.learned.data == alone.learned.data
    assert dataclasses.replace(handed, learned=None) == dataclasses.replace(alone, learned=None)
    own = dataclasses.replace(config, method="identify")
    physics = propose(parts, robot, own, judge, identified=shared)
    assert physics.correction == dataclasses.replace(alone, learned=None)
    assert physics.identified is shared
