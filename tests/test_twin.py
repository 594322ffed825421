"""Twins: what they hide is there, and nothing else is different."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from asap.evaluate import Case
from asap.inputs import open_motion
from asap.record import RecordConfig, record
from asap.robot import Robot, robot_names
from asap.sim import CpuSimulation
from asap.twin import MotorEffects, SensorFacts, Sensors, TwinSimulation, make_simulation
from asap_deploy.errors import InputError
from asap_deploy.policy import Policy

ROOT = Path(__file__).parents[1]
TWINS = ("isaac", "genesis", "weak_ankle", "worn", "strange")


def _twin(folder: Path, text: str) -> Robot:
    """The G1 with a twin of the test's own."""
    for name in ("robot.toml", "robot.xml"):
        (folder / name).write_bytes((ROOT / "robots" / "g1" / name).read_bytes())
    (folder / "twins").mkdir()
    (folder / "twins" / "own.toml").write_text(text)
    return Robot.load(f"{folder}@own")


def _case(robot: Robot, name: str = "squat") -> Case:
    clip = open_motion(Path(name), robot, ground=True)
    data = (ROOT / "policies" / "g1" / f"{name}.onnx").read_bytes()
    return Case(Policy.from_bytes(data), clip.motion, name)


@pytest.mark.parametrize("name", TWINS)
def test_what_a_policy_relies_on_is_that_of_the_robot(name: str) -> None:
    nominal, twin = Robot.load("g1"), Robot.load(f"g1@{name}")
    assert f"g1@{name}" in robot_names()
    assert twin.check() == []
    for field in ("joint_names", "body_names", "control_dt"):
        assert getattr(twin, field) == getattr(nominal, field)
    for field in ("default_joint_pos", "action_scale", "joint_pos_lower"):
        assert np.array_equal(getattr(twin, field), getattr(nominal, field))
    differs = [field for field in ("armature", "frictionloss", "stiffness", "delay_s")
               if not np.array_equal(getattr(twin, field), getattr(nominal, field))]  # fmt: skip
    assert differs


def test_a_robot_that_is_no_twin_measures_exactly_and_has_no_effects() -> None:
    robot = Robot.load("g1")
    sim, sensors = make_simulation(robot, 2), Sensors(robot, 2, np.random.default_rng(0))
    assert type(sim) is CpuSimulation
    assert not MotorEffects.of(robot).present
    assert SensorFacts.of(robot) == SensorFacts()
    for seen, true in zip(sensors.measure(sim), sim.measure(), strict=True):
        assert np.array_equal(seen, true)


def _settled(robot: Robot, sim: CpuSimulation, target: np.ndarray, steps: int = 60) -> np.ndarray:
    """Joint positions over time (steps, J) of a robot that hangs in the air."""
    qpos = robot.default_qpos()[None].copy()
    qpos[:, 2] = 100.0
    sim.reset(np.array([0]), qpos, np.zeros((1, sim.model.nv)))
    rows = []
    for _ in range(steps):
        sim.step(target[None])
        rows.append(sim.joint_pos[0].copy())
    return np.array(rows)


def test_a_dead_band_a_droop_and_friction_under_load_act_as_they_say(tmp_path: Path) -> None:
    own = _twin(tmp_path, """
physics_dt = 0.001
[motor_effects]
"left_elbow_joint" = { dead_band = 0.05 }
"left_knee_joint" = { droop_speed = 3.0 }
"right_elbow_joint" = { load_friction = 0.5 }
""")  # fmt: skip
    plain = Robot.load("g1").with_(physics_dt=0.001)
    effects = MotorEffects.of(own)
    elbow, knee, other = own.joint_ids(["left_elbow_joint", "left_knee_joint", "right_elbow_joint"])
    assert effects.dead_band[elbow] == 0.05 and effects.dead_band.sum() == 0.05
    assert effects.droop[knee] == pytest.approx(1.0 / 3.0) and (effects.droop > 0).sum() == 1
    target = own.default_joint_pos.copy()
    target[[elbow, other]] += 0.5
    target[knee] += 1.2
    sim = make_simulation(own, 1)
    assert isinstance(sim, TwinSimulation)
    twin, nominal = _settled(own, sim, target), _settled(plain, CpuSimulation(plain, 1), target)
    assert np.abs(target[elbow] - twin[-1, elbow]) > np.abs(target[elbow] - nominal[-1, elbow])
    assert np.diff(twin[:, knee]).max() < 0.8 * np.diff(nominal[:, knee]).max()
    assert (twin[2:8, other] < nominal[2:8, other]).all()  # friction makes it late
    untouched = own.joint_ids(["left_wrist_yaw_joint", "right_wrist_yaw_joint"])
    apart = np.abs(twin - nominal).max(axis=0)
    assert apart[[elbow, knee, other]].min() > 3.0 * apart[untouched].max()


def test_sensors_err_as_they_say(tmp_path: Path) -> None:
    robot = _twin(tmp_path, """
[sensors]
joint_pos_step = 0.01
joint_vel_noise = 0.1
imu_misalignment = [0.1, 0.0, 0.0]
packet_loss = 0.25
""")  # fmt: skip
    sim = make_simulation(robot, 400)
    sensors = Sensors(robot, 400, np.random.default_rng(1))
    true, seen = sim.measure(), sensors.measure(sim)
    assert np.allclose(seen.joint_pos / 0.01, np.round(seen.joint_pos / 0.01))
    assert np.abs(seen.joint_pos - true.joint_pos).max() <= 0.005 + 1e-9
    assert (seen.joint_vel - true.joint_vel).std() == pytest.approx(0.1, rel=0.05)
    assert seen.base_quat_wxyz[0, 1] == pytest.approx(np.sin(0.05), abs=1e-6)
    sim.step(np.tile(robot.default_joint_pos + 0.3, (400, 1)))
    later = sensors.measure(sim)
    assert sensors.lost.mean() == pytest.approx(0.25, abs=0.08)
    assert np.array_equal(later.joint_vel[sensors.lost], seen.joint_vel[sensors.lost])
    assert np.array_equal(later.base_pos_w[sensors.lost], seen.base_pos_w[sensors.lost])


def test_a_delay_jitters_on_top_of_what_was_set(tmp_path: Path) -> None:
    robot = _twin(tmp_path, """
[joints]
"*" = { delay_s = 0.01 }
[sensors]
delay_jitter_s = 0.005
""")  # fmt: skip
    sim = make_simulation(robot, 2, max_delay_s=0.02)
    sim.set_delay(np.array([0.02]), np.array([1]))
    delay = sim.batch.expand("actuator_delay")
    assert delay[0, 0] == pytest.approx(0.01) and delay[1, 0] == pytest.approx(0.02)
    sim.step(np.tile(robot.default_joint_pos, (2, 1)))
    late = delay[:, 0] - [0.01, 0.02]
    assert (late > 0.0).all() and (late <= 0.005).all()


def test_a_twin_s_file_may_not_change_what_a_policy_relies_on(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="action_scale"):
        _twin(tmp_path, '[joints]\n"*" = { action_scale = 0.3 }\n')


def test_a_recorded_log_is_that_of_a_robot() -> None:
    robot = Robot.load("g1@strange")
    case = _case(robot)
    log = record(case, robot, RecordConfig(episodes=2))
    again = record(case, robot, RecordConfig(episodes=2, threads=1))
    other = record(case, robot, RecordConfig(episodes=2, seed=1))
    assert np.array_equal(log.joint_pos, again.joint_pos)
    assert not np.array_equal(log.joint_pos, other.joint_pos)
    assert log.robot == "g1"  # who reads it knows nothing of the truth
    assert log.policy_hash == case.policy.contract.sha256
    assert [len(piece.time_s) for piece in log.segments()] == [221, 221]
    assert 1 / log.rate_hz == pytest.approx(0.02, rel=0.02)
    steps = np.diff(log.segments()[0].time_s)
    assert steps.std() > 1e-4
    span = log.segments()[0].time_s[[0, -1]]
    assert (span[1] - span[0]) / 4.4 - 1.0 == pytest.approx(2e-4, abs=3e-4)
    bare = record(case, robot, RecordConfig(episodes=1, base_pose=False))
    assert not [name for name in bare.fields if name.startswith("base")]
    # The law of a row: its target acts from then on, so joints follow it later.
    moved = np.diff(log.segments()[0].joint_pos, axis=0)
    pull = (log.fields["joint_pos_target"] - log.joint_pos)[: len(moved)]
    knee = robot.joint_ids(["left_knee_joint"])[0]
    assert np.corrcoef(pull[1:, knee], moved[1:, knee])[0, 1] > 0.2


def test_a_policy_that_falls_at_once_leaves_no_log() -> None:
    case = _case(Robot.load("g1"))
    with pytest.raises(InputError, match="falls at once"):
        record(case, Robot.load("g1"), RecordConfig(episodes=1, fail_distance_m=1e-6))
    with pytest.raises(InputError, match="1 episode or more"):
        RecordConfig(episodes=0)
