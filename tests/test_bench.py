"""The benchmarks: they compare like with like, and they tell a coarse step from a fine one."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from asap import bench_integrators
from asap.bench import bench_sim, speed_ratio, take_turns
from asap.bench_integrators import Scheme, integrator_study
from asap.bench_train import PARTS, bench_train
from asap.inputs import open_motion
from asap.ppo import PpoConfig
from asap.robot import Robot
from asap.sim import CpuSimulation
from asap.training_run import TrainConfig
from asap_deploy.errors import InputError
from asap_deploy.motion import Motion

sys.path.insert(0, str(Path(__file__).parent))
from toy_robots import arm, stool

FPS = 50.0
CANDIDATES = (Scheme("implicitfast", 0.01), Scheme("implicitfast", 0.002), Scheme("euler", 0.01))


def rocking(robot: Robot, height: float = 0.0, frames: int = 70) -> Motion:
    """A stool that rocks on its legs."""
    time_s = np.arange(frames) / FPS
    joint_pos = 0.1 * np.sin(6.0 * time_s)[:, None] * np.array([1.0, 1.0])
    base_pos_w = np.tile(robot.default_qpos()[:3], (frames, 1))
    base_pos_w[:, 2] += height
    base_quat = np.tile([1.0, 0.0, 0.0, 0.0], (frames, 1))
    body_pos_w, body_quat = robot.forward_kinematics(base_pos_w, base_quat, joint_pos)
    return Motion(
        fps=FPS,
        joint_names=robot.joint_names,
        joint_pos=joint_pos,
        joint_vel=np.gradient(joint_pos, 1.0 / FPS, axis=0),
        body_names=robot.body_names,
        body_pos_w=body_pos_w,
        body_quat_wxyz=body_quat,
        body_lin_vel_w=np.gradient(body_pos_w, 1.0 / FPS, axis=0),
        body_ang_vel_w=np.zeros_like(body_pos_w),
        foot_contact=np.ones((frames, 2), dtype=bool),
    )


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    robot = stool(tmp_path_factory.mktemp("stool"))
    motions = [rocking(robot), rocking(robot, height=2.0)]
    lines: list[str] = []
    result = integrator_study(
        robot,
        motions,
        candidates=CANDIDATES,
        starts_per_motion=4,
        speed_envs=8,
        speed_repetitions=2,
        progress=lines.append,
    )
    return result, lines


def test_speed_is_measured_at_every_size_and_becomes_json(tmp_path):
    lines: list[str] = []
    results = bench_sim(stool(tmp_path), (2, 5), threads=1, seconds=0.05, progress=lines.append)
    assert [result.num_envs for result in results] == [2, 5] and len(lines) == 2
    for result in results:
        table = json.loads(json.dumps(result.to_json()))
        assert {key for key in table if key.endswith("_per_s")} == {
            "sim_per_s", "sim_read_per_s", "bare_per_s", "bare_read_per_s", "robot_model_per_s",
        }  # fmt: skip
        assert (
            table["ratio_bare"]["low"]
            <= table["ratio_bare"]["value"]
            <= table["ratio_bare"]["high"]
        )
        assert (
            0.05 < table["ratio_bare"]["value"] < 5.0
        )  # another test may have the cores meanwhile
        assert result.repetitions >= 3 and result.threads == 1


def test_a_robot_that_is_bolted_down_can_be_measured_too(tmp_path):
    (result,) = bench_sim(arm(tmp_path), (3,), threads=1, seconds=0.05)
    assert result.sim_per_s > 0.0


def test_loops_that_simulate_different_physics_are_not_compared(tmp_path, monkeypatch):
    step = CpuSimulation.step
    monkeypatch.setattr(CpuSimulation, "step", lambda sim, target: step(sim, 0.9 * target))
    with pytest.raises(AssertionError, match="the loops did not simulate the same physics"):
        bench_sim(stool(tmp_path), (2,), threads=1, seconds=0.05)


def test_ratio_is_the_median_of_repetitions_with_its_range():
    # 2 / 4 = 0.5, 3 / 3 = 1, 8 / 2 = 4
    assert speed_ratio(np.array([2.0, 3.0, 8.0]), np.array([4.0, 3.0, 2.0])) == (1.0, 0.5, 4.0)


def test_taking_turns_gives_everybody_every_target():
    seen: dict[str, list[int]] = {"a": [], "b": []}
    calls = {name: lambda target, name=name: seen[name].append(int(target)) for name in seen}
    spent = take_turns(calls, np.arange(5), np.random.default_rng(0))
    assert seen == {"a": [0, 1, 2, 3, 4], "b": [0, 1, 2, 3, 4]}
    assert min(spent.values()) > 0.0


def test_a_coarser_step_errs_more_and_the_reference_has_converged(study):
    rows = {row.label: row for row in study[0].rows}
    assert list(rows)[:3] == ["reference at 0.25 ms", "log noise", "encoder noise 0.01 rad"]
    for horizon in ("0.1", "0.25", "0.5", "1"):
        finest, fine, coarse = (
            rows[label].errors[horizon]["joint_mae_deg"].median
            for label in ("reference at 0.25 ms", "implicitfast 2 ms", "implicitfast 10 ms")
        )
        assert finest < fine < coarse
    assert rows["implicitfast 2 ms"].excess["median"] < rows["implicitfast 10 ms"].excess["median"]
    assert rows["log noise"].excess["median"] <= 1.0
    assert all(row.failed == 0 for row in study[0].rows)


def test_starts_that_fall_are_counted_and_left_out(study):
    result, _ = study
    assert (result.num_starts, result.num_falls) == (8, 4)  # those that begin 2 m up
    for row in result.rows[1:]:
        assert row.errors != row.errors_all


def test_speed_of_a_study_is_relative_to_the_first_candidate(study):
    rows = {row.label: row for row in study[0].rows}
    assert rows["log noise"].ratio_speed is None
    assert rows["implicitfast 10 ms"].ratio_speed == (1.0, 1.0, 1.0)
    assert rows["implicitfast 2 ms"].ratio_speed.value < 0.8  # five times the physics steps


def test_study_becomes_json_and_a_table(study):
    result, lines = study
    table = json.loads(json.dumps(result.to_json()))
    errors = table["rows"][0]["errors"]["0.5"]
    assert set(errors) == {"joint_mae_deg", "base_error_mm", "body_error_mm"}
    assert set(errors["base_error_mm"]) == {"median", "p90"}
    text = result.to_markdown().splitlines()
    assert "8 starts, 4 fall" in text[0]
    assert len({line.count("|") for line in text[2:]}) == 1  # every row has every column
    assert len(text) == 4 + 3 * len(result.rows)
    assert len(lines) == 1 + len(result.rows)


def test_recommended_is_the_cheapest_hidden_one_and_never_explicit_in_damping(study, monkeypatch):
    result, _ = study
    pick = bench_integrators._recommended
    rows = {row.label: row for row in result.rows}

    def with_excess(median: dict[str, float]) -> list:
        return [
            bench_integrators.StudyRow(
                **vars(row) | {"excess": {"median": median.get(label, 0.0), "p90": 0.0}}
            )
            for label, row in rows.items()
        ]

    assert pick(with_excess({}), CANDIDATES) == "implicitfast 10 ms"
    assert pick(with_excess({"implicitfast 10 ms": 1.1}), CANDIDATES) == "implicitfast 2 ms"
    hopeless = {"implicitfast 10 ms": 1.1, "implicitfast 2 ms": 2.0}
    assert pick(with_excess(hopeless), CANDIDATES) == "none"


def test_what_cannot_be_studied_is_refused(tmp_path):
    robot = stool(tmp_path)
    with pytest.raises(InputError, match="needs a motion, a candidate and a start"):
        integrator_study(robot, [])
    with pytest.raises(InputError, match=r"motion lasts 0.58 s, needs 1 s"):
        integrator_study(robot, [rocking(robot, frames=30)])
    with pytest.raises(InputError, match="needs its free base 'seat'"):
        motion = rocking(robot).replace(body_names=("left_foot", "seat", "right_foot"))
        integrator_study(robot, [motion])
    with pytest.raises(InputError, match=r"sizes of 1 or more and seconds above 0; got \(0,\)"):
        bench_sim(robot, (0,))


@pytest.mark.slow
def test_the_simulation_costs_little_on_top_of_the_physics_of_the_g1():
    (result,) = bench_sim(Robot.load("g1"), (512,), seconds=30.0)
    assert result.ratio_robot_model.value > 0.95  # the loop that one would write first
    assert result.ratio_bare_read.value > 0.95  # a loop that reads as much
    assert result.ratio_bare.value > 0.85  # reads nothing, and knows which geoms to leave out


def test_the_parts_of_training_add_up_beside_the_same_number_of_bare_steps():
    robot = Robot.load("g1")
    clip = open_motion(Path("wave"), robot, ground=True)
    small = PpoConfig(horizon=4, minibatches=1, epochs=1, torch_threads=1)
    config = TrainConfig(num_envs=16, threads=1, ppo=small)
    found = bench_train(robot, clip, config, iterations=3)
    whole = found.samples / found.train_per_s
    assert found.samples == 64
    assert list(found.parts) == list(PARTS)
    assert min(found.parts.values()) > 0.0
    assert sum(found.parts.values()) == pytest.approx(whole, rel=0.5)
    assert 0.0 < found.ratio_bare.low <= found.ratio_bare.value <= found.ratio_bare.high < 1.0
    assert found.to_json()["ratio_bare"]["value"] == found.ratio_bare.value
    with pytest.raises(InputError, match="at least 1"):
        bench_train(robot, clip, config, iterations=0)
