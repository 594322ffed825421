"""A robot played by PyBullet: the same masses and the same laws of motion, another engine."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import mujoco
import numpy as np
import pytest
from toy_robots import arm, stool

from asap.bullet import BulletSimulation
from asap.bullet_delay import DelayLines
from asap.bullet_urdf import urdf_text
from asap.evaluate import Case, EvaluateConfig, evaluate
from asap.inputs import open_motion
from asap.record import RecordConfig, record
from asap.replay import JOINT_ERROR, ReplayConfig, replay
from asap.robot import Robot
from asap.sim_protocol import Simulation
from asap.twin import make_simulation
from asap_deploy import rotation
from asap_deploy.errors import InputError
from asap_deploy.policy import Policy

ROOT = Path(__file__).parents[1]
RK4 = int(mujoco.mjtIntegrator.mjINT_RK4)
NO_CONTACTS = int(mujoco.mjtDisableBit.mjDSBL_CONTACT)


@pytest.fixture(scope="module")
def engine() -> ModuleType:
    reason = (
        "PyBullet is not installed: tests of the second engine are SKIPPED (pip install pybullet)"
    )
    return pytest.importorskip("pybullet", reason=reason)


@pytest.fixture(scope="module")
def twin() -> Robot:
    return Robot.load("g1@bullet")


def _twin(folder: Path, text: str) -> Robot:
    for name in ("robot.toml", "robot.xml"):
        (folder / name).write_bytes((ROOT / "robots" / "g1" / name).read_bytes())
    (folder / "twins").mkdir()
    (folder / "twins" / "own.toml").write_text(text)
    return Robot.load(f"{folder}@own")


def _frictionless(robot: Robot, physics_dt: float, *, pd: bool = True) -> Robot:
    """Nothing that the two engines treat differently."""
    zero = np.zeros(len(robot.joint_names))
    gains = {} if pd else {"stiffness": zero, "damping": zero}
    return robot.with_(armature=zero, frictionloss=zero, passive_damping=zero, delay_s=zero,
                       physics_dt=physics_dt, **gains)  # fmt: skip


def _poses(robot: Robot, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Robots thrown into the air."""
    rng = np.random.default_rng(seed)
    qpos = np.tile(robot.default_qpos(), (count, 1))
    qpos[:, :3] = rng.normal(size=(count, 3)) + [0.0, 0.0, 5.0]
    qpos[:, 3:7] = rotation.normalize(rng.normal(size=(count, 4)))
    shape = (count, len(robot.joint_names))
    qpos[:, robot.qpos_ids] = rng.uniform(robot.joint_pos_lower, robot.joint_pos_upper, shape)
    return qpos, rng.normal(size=(count, robot.model.nv))


def _cut(case: Case, frames: int) -> Case:
    """Only the first frames of the clip."""
    names = ("joint_pos", "joint_vel", "body_pos_w", "body_quat_wxyz", "body_lin_vel_w",
             "body_ang_vel_w", "foot_contact")  # fmt: skip
    arrays = {name: getattr(case.motion, name)[:frames] for name in names}
    return case._replace(motion=case.motion.replace(**arrays))


def _case(name: str) -> Case:
    clip = open_motion(Path(name), Robot.load("g1"), ground=True)
    data = (ROOT / "policies" / "g1" / f"{name}.onnx").read_bytes()
    return Case(Policy.from_bytes(data), clip.motion, name)


def test_a_twin_in_bullet_can_be_read_without_it_and_says_what_to_install(
    twin: Robot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pybullet", None)  # as if it were absent
    assert twin.facts.get("engine") == "bullet"
    assert twin.check() == []
    assert np.allclose(twin.delay_s, 0.004) and np.allclose(twin.frictionloss, 0.3)
    with pytest.raises(InputError, match="pip install") as caught:
        make_simulation(twin, 1)
    assert "\n" not in str(caught.value) and "PyBullet" in str(caught.value)


def test_what_the_engine_cannot_do_is_refused(tmp_path: Path, twin: Robot) -> None:
    with pytest.raises(InputError, match="one of mujoco, bullet"):
        _twin(tmp_path, 'engine = "drake"\n')
    (tmp_path / "twins" / "own.toml").write_text(
        'engine = "bullet"\nphysics_dt = 0.00025\n[sensors]\ndelay_jitter_s = 0.002\n'
    )
    with pytest.raises(InputError, match="no motor_effects and no delay_jitter_s"):
        make_simulation(Robot.load(f"{tmp_path}@own"), 1)
    with pytest.raises(InputError, match=r"physics_dt of 0.0005 s or less; got 0.005 s"):
        BulletSimulation(Robot.load("g1"), 1)
    with pytest.raises(InputError, match="1 robot or more"):
        BulletSimulation(twin, 0)


def test_a_urdf_has_every_mass_joint_and_shape_of_the_model(twin: Robot) -> None:
    model, root = twin.model, ET.fromstring(urdf_text(twin.model, "a<b>&\"c'"))
    links = {link.attrib["name"]: link for link in root.findall("link")}
    assert root.attrib["name"] == "a<b>&\"c'"
    assert tuple(links) == twin.body_names
    masses = [float(link.find("inertial/mass").attrib["value"]) for link in links.values()]
    assert np.array_equal(masses, model.body_mass[1:])  # none is missing: those would be 1 kg
    joints = {joint.attrib["name"]: joint for joint in root.findall("joint")}
    assert tuple(joints) == twin.joint_names
    knee = joints["left_knee_joint"].find("limit").attrib
    place = twin.joint_ids(["left_knee_joint"])[0]
    assert float(knee["lower"]) == twin.joint_pos_lower[place]
    assert float(knee["upper"]) == twin.joint_pos_upper[place]
    for foot, geoms in zip(twin.foot_names, twin.foot_geom_ids, strict=True):
        assert len(links[foot].findall("collision/geometry/capsule")) == len(geoms) == 7
    touching = [g for g in range(1, model.ngeom) if model.geom_conaffinity[g] & 1]
    assert len(root.findall("link/collision")) == len(touching)
    assert not links["left_hip_pitch_link"].findall("collision")


def test_frames_in_a_urdf_are_those_of_the_model_even_straight_up(tmp_path: Path) -> None:
    def turn(axis: int, angle: float) -> np.ndarray:
        return rotation.from_axis_angle(np.eye(3)[axis], np.array(angle))

    up, down = turn(1, np.pi / 2), turn(1, -np.pi / 2)
    for number, quat in enumerate([
        up, down, rotation.multiply(up, turn(0, 0.7)), rotation.multiply(down, turn(0, -1.9)),
        rotation.multiply(turn(2, 2.0), up), np.array([0.1, -0.7, 0.5, 0.5]), turn(0, np.pi),
    ]):  # fmt: skip
        spec = arm(_folder(tmp_path, number)).spec()
        spec.body("lower").quat = quat
        found = ET.fromstring(urdf_text(spec.compile(), "arm")).find("joint[@name='elbow']/origin")
        roll, pitch, yaw = map(float, found.attrib["rpy"].split())
        turned = [turn(axis, angle) for axis, angle in enumerate((roll, pitch, yaw))]
        whole = rotation.multiply(turned[2], rotation.multiply(turned[1], turned[0]))
        assert rotation.angle_between(whole, rotation.normalize(quat)) < 1e-7


def _folder(tmp_path: Path, number: int) -> Path:
    folder = tmp_path / str(number)
    folder.mkdir()
    return folder


def test_what_a_urdf_cannot_say_is_refused(tmp_path: Path) -> None:
    spec = arm(tmp_path).spec()
    spec.joint("elbow").pos = [0.1, 0.0, 0.0]
    with pytest.raises(InputError, match="'elbow' does not turn about the origin"):
        urdf_text(spec.compile(), "arm")
    spec = arm(tmp_path).spec()
    spec.body("lower").add_joint(name="second", axis=[1, 0, 0])
    with pytest.raises(InputError, match="'lower' has joints that a URDF cannot say"):
        urdf_text(spec.compile(), "arm")
    spec = arm(tmp_path).spec()
    spec.body("lower").add_geom(name="egg", type=mujoco.mjtGeom.mjGEOM_ELLIPSOID, size=[1, 2, 3])
    with pytest.raises(InputError, match="'egg' is a ellipsoid"):
        urdf_text(spec.compile(), "arm")


def test_delayed_targets_arrive_when_they_should(tmp_path: Path) -> None:
    robot = arm(tmp_path).with_(control_dt=0.02, physics_dt=0.005)
    lines = DelayLines(robot, 4, max_delay_s=0.05)
    lines.start(np.arange(4), np.array([1.0, 2.0, 3.0])[None, :, None].repeat(4, 0).repeat(2, 2))
    lines.set_delay(np.arange(4), np.array([0.0, 0.01, 0.0125, 0.05]))
    lines.add(np.full((4, 2), 4.0))
    known = np.array(list(lines.arriving()))[:, :, 0]
    assert known[:, 0].tolist() == [4.0, 4.0, 4.0, 4.0]
    assert known[:, 1].tolist() == [3.0, 3.0, 4.0, 4.0]  # two physics steps late
    assert known[:, 2].tolist() == [3.0, 3.0, 3.5, 4.0]  # two and a half
    # Ten: 4 was told now, 3 four steps ago, 2 eight and 1 twelve steps ago.
    assert known[:, 3].tolist() == [1.0, 1.0, 2.0, 2.0]
    own = DelayLines(robot.with_(delay_s=np.full(2, 0.01)), 2, max_delay_s=0.0)
    own.start(np.arange(2), np.zeros((2, 1, 2)))
    own.set_delay(np.array([1]), 0.005)  # in place of the robot's own
    own.add(np.ones((2, 2)))
    assert np.array(list(own.arriving()))[:, :, 0].T.tolist() == [[0, 0, 1, 1], [0, 1, 1, 1]]
    assert own.in_force().tolist() == [[1.0, 1.0], [1.0, 1.0]]
    with pytest.raises(InputError, match="make the simulation with a larger max_delay_s"):
        lines.set_delay(np.arange(4), 0.06)


def test_masses_and_inertias_are_those_of_mujoco_at_any_pose(
    engine: ModuleType, twin: Robot
) -> None:
    sim, model = BulletSimulation(twin, 1), twin.model
    data, full = mujoco.MjData(model), np.zeros((model.nv, model.nv))
    for qpos, qvel in zip(*_poses(twin, 5), strict=True):
        sim.reset(np.array([0]), qpos[None], qvel[None])
        data.qpos[:], data.qvel[:] = qpos, qvel
        mujoco.mj_forward(model, data)
        assert np.allclose(sim.base_quat_wxyz[0], qpos[3:7], atol=1e-12)  # not the other one
        mass, centre = sim.world.mass_and_centre(0)
        assert mass == pytest.approx(model.body_mass.sum(), rel=1e-12)
        assert np.abs(centre - data.subtree_com[1]).max() < 1e-9
        assert np.abs(sim.body_pos_w[0] - data.xpos[1:]).max() < 1e-6
        assert rotation.angle_between(sim.body_quat_wxyz[0], data.xquat[1:]).max() < 1e-6
        assert np.abs(sim.joint_vel[0] - qvel[6:]).max() < 1e-12
        mujoco.mj_fullM(model, data, full)
        ours = full - np.diag(model.dof_armature)
        # Bullet: turn, then centre of mass, both in the principal axes of the base.
        own = rotation.to_matrix(qpos[3:7])
        axes, place = own @ rotation.to_matrix(model.body_iquat[1]), own @ model.body_ipos[1]
        into = np.eye(model.nv)
        into[:6, :6] = 0.0
        into[:3, :3] = np.array([np.cross(place, axis) for axis in axes.T]).T
        into[:3, 3:6], into[3:6, :3] = axes, own.T @ axes
        found, expected = sim.world.mass_matrix(0), into.T @ ours @ into
        assert np.abs(found - expected).max() < 1e-9 * np.abs(expected).max()
        assert np.allclose(found[6:, 6:], ours[6:, 6:], rtol=1e-4, atol=1e-12)


class Apart(NamedTuple):
    """How far two engines are from each other."""

    joint: float
    """Largest difference of any joint at any time [rad]"""
    base: float
    """Angle between the bases at the end [rad]"""
    base_pos: float
    base_ang_vel: float


def _swing(robot: Robot, size: float, steps: int = 25) -> Apart:
    """Both engines swing without gravity and contact, MuJoCo with fine steps of high order."""
    rng, spec = np.random.default_rng(0), robot.spec()
    spec.option.gravity = [0.0, 0.0, 0.0]
    for joint in spec.joints:
        joint.limited = mujoco.mjtLimited.mjLIMITED_FALSE
    model, exact = spec.compile(), spec.compile()
    exact.opt.integrator, exact.opt.timestep = RK4, 5e-5
    exact.opt.disableflags |= NO_CONTACTS
    sim, data = BulletSimulation(robot, 1, model=model), mujoco.MjData(exact)
    qpos, qvel = robot.default_qpos(), size * rng.normal(size=model.nv)
    if robot.has_free_base:
        qpos[2], qpos[3:7] = 5.0, rotation.from_rotvec(rng.normal(size=3))
    target = robot.default_joint_pos + 0.2 * rng.normal(size=len(robot.joint_names))
    sim.reset(np.array([0]), qpos[None], qvel[None])
    data.qpos[:], data.qvel[:], data.ctrl[:] = qpos, qvel, target
    apart, moved = 0.0, 0.0
    for _ in range(steps):
        sim.step(target[None])
        mujoco.mj_step(exact, data, round(robot.control_dt / exact.opt.timestep))
        apart = max(apart, np.abs(sim.joint_pos[0] - data.qpos[robot.qpos_ids]).max())
        moved = max(moved, np.abs(data.qpos - qpos)[robot.qpos_ids].max())
    assert moved > 0.1
    if not robot.has_free_base:
        return Apart(apart, 0.0, 0.0, 0.0)
    return Apart(
        apart,
        float(rotation.angle_between(sim.base_quat_wxyz[0], data.qpos[3:7])),
        np.abs(sim.base_pos_w[0] - data.qpos[:3]).max(),
        np.abs(sim.base_ang_vel_b[0] - data.qvel[3:6]).max(),
    )


@pytest.mark.parametrize("pd", [False, True])
def test_without_gravity_and_contact_both_engines_swing_alike(
    engine: ModuleType, twin: Robot, pd: bool
) -> None:
    found = _swing(_frictionless(twin, 1e-4, pd=pd), 0.5)
    assert found.joint < 1e-3
    assert found.base < 1e-3 and found.base_pos < 1e-4 and found.base_ang_vel < 1e-2


def test_what_is_left_of_the_difference_is_the_step_and_halves_with_it(
    engine: ModuleType, twin: Robot, tmp_path: Path
) -> None:
    coarse, fine = (_swing(_frictionless(twin, dt, pd=False), 2.0, 10) for dt in (4e-4, 2e-4))
    assert coarse.joint / fine.joint == pytest.approx(2.0, rel=0.1)
    assert coarse.base / fine.base == pytest.approx(2.0, rel=0.1)
    for pd in (False, True):
        bolted = _frictionless(arm(tmp_path), 1e-4, pd=pd)
        assert _swing(bolted, 6.0, 100).joint < 1e-3


def test_friction_and_damping_of_joints_brake_as_in_mujoco(
    engine: ModuleType, tmp_path: Path
) -> None:
    brakes = np.array([0.1, 0.05])
    free = _frictionless(arm(tmp_path), 1e-4, pd=False)
    assert _swing(free.with_(passive_damping=brakes), 6.0, 100).joint < 1e-3
    # MuJoCo's dry friction gives way a little.
    assert _swing(free.with_(frictionloss=brakes), 6.0, 100).joint < 5e-3


def _played(robot: Robot, count: int, *, before: int = 0, other_reset: bool = False) -> list[bytes]:
    """What robot 0 of some does, step by step."""
    rng = np.random.default_rng(0)
    targets = robot.default_joint_pos + 0.1 * rng.normal(size=(6, 3, len(robot.joint_names)))
    qpos, qvel = np.tile(robot.default_qpos(), (3, 1)), 0.1 * rng.normal(size=(3, robot.model.nv))
    sim, rows = BulletSimulation(robot, count), []
    for target in targets[:before, :count]:
        sim.step(1.1 * target)
    sim.reset(np.arange(count), qpos[:count], qvel[:count])
    for step, target in enumerate(targets[:, :count]):
        if step == 3 and other_reset:
            sim.reset(np.array([2]), qpos[:1] + 1e-3, qvel[:1])
        sim.step(target)
        arrays = (
            sim.joint_pos,
            sim.joint_vel,
            sim.base_pos_w,
            sim.base_quat_wxyz,
            sim.base_lin_vel_w,
            sim.body_pos_w,
            sim.joint_torque,
            sim.foot_contact_force,
        )
        rows.append(b"".join(array[0].tobytes() for array in arrays))  # fmt: skip
    assert sim.foot_contact_force[0].sum() > 50.0
    return rows


def test_a_robot_does_the_same_again_and_whatever_others_do_bit_for_bit(
    engine: ModuleType, twin: Robot
) -> None:
    alone = _played(twin, 1)
    assert _played(twin, 1) == alone
    assert _played(twin, 3, other_reset=True) == alone
    assert _played(twin, 1, before=4) == alone  # a reset leaves nothing of the past


def test_base_velocity_is_linear_in_the_world_and_angular_in_the_body_frame(
    engine: ModuleType, twin: Robot
) -> None:
    qpos, qvel = _poses(twin, 2, seed=3)
    qvel[:, 6:] *= 0.1
    sim: Simulation = BulletSimulation(_frictionless(twin, 0.00025, pd=False), 2)
    sim.reset(np.arange(2), qpos, qvel)
    assert np.allclose(sim.base_pos_w, qpos[:, :3], atol=1e-12)
    assert np.allclose(sim.base_quat_wxyz, qpos[:, 3:7], atol=1e-12)
    assert np.allclose(sim.base_lin_vel_w, qvel[:, :3], atol=1e-12)
    assert np.allclose(sim.base_ang_vel_b, qvel[:, 3:6], atol=1e-12)
    sim.step(qpos[:, 7:])
    turned = rotation.multiply(sim.base_quat_wxyz, rotation.conjugate(qpos[:, 3:7]))
    turned_w = rotation.to_rotvec(turned) / twin.control_dt
    expected_w = rotation.rotate(qpos[:, 3:7], qvel[:, 3:6])
    assert np.allclose(turned_w, expected_w, atol=0.1)
    assert np.linalg.norm(turned_w - qvel[:, 3:6], axis=1).min() > 0.3  # the frames do differ
    measured = sim.measure()
    assert np.array_equal(measured.base_quat_wxyz, sim.base_quat_wxyz)
    assert not np.shares_memory(measured.joint_pos, sim.joint_pos)


def test_the_attitude_never_jumps_to_the_other_quaternion(engine: ModuleType, twin: Robot) -> None:
    qpos, qvel = twin.default_qpos()[None].copy(), np.zeros((1, twin.model.nv))
    qpos[0, 2], qvel[0, 5] = 50.0, 6.0
    sim, seen = BulletSimulation(twin, 1), []
    sim.reset(np.array([0]), qpos, qvel)
    for _ in range(40):  # more than half a turn
        sim.step(twin.default_joint_pos[None])
        seen.append(sim.base_quat_wxyz[0].copy())
    quats = np.array(seen)
    assert not sim.failed[0] and (quats[:-1] * quats[1:]).sum(axis=1).min() > 0.99
    assert quats[0, 0] > 0.9 and quats[-1, 0] < 0.0


def test_the_floor_carries_the_weight_and_brakes_as_its_friction_says(
    engine: ModuleType, tmp_path: Path
) -> None:
    robot = stool(tmp_path).with_(physics_dt=0.00025)
    spec = robot.spec()
    for geom in spec.geoms:
        geom.friction[0] = 0.3
    sim = BulletSimulation(robot, 1, model=spec.compile())
    target = robot.default_joint_pos[None]
    for _ in range(40):
        sim.step(target)
    weight = 9.81 * robot.model.body_mass.sum()
    assert sim.foot_contact_force.sum() == pytest.approx(weight, rel=0.02)
    sim.push(np.array([0]), np.array([[0.5, 0.0, 0.0]]))
    places = []
    for _ in range(5):
        sim.step(target)
        places.append(sim.world.mass_and_centre(0)[1][0])
    speeds = np.diff(places) / robot.control_dt
    assert np.diff(speeds).mean() / robot.control_dt == pytest.approx(-0.3 * 9.81, rel=0.1)


def test_motors_and_joints_obey_their_limits_and_friction(
    engine: ModuleType, tmp_path: Path
) -> None:
    robot = _frictionless(arm(tmp_path), 0.00025)
    sim = BulletSimulation(robot, 1)
    sim.reset(np.array([0]), np.zeros((1, 2)), np.zeros((1, 2)))
    sim.step(np.array([[1.0, -1.0]]))
    assert sim.joint_torque[0].tolist() == [4.0, -4.0]  # 30 Nm/rad times 1 rad is cut off
    for _ in range(100):
        sim.step(np.array([[1.0, -1.0]]))
    assert np.allclose(sim.joint_pos[0], np.deg2rad([3.0, -3.0]), atol=1e-3)
    stuck = BulletSimulation(robot.with_(frictionloss=np.array([0.5, 0.0])), 1)
    for _ in range(10):
        stuck.step(np.array([[0.01, 0.01]]))  # 0.3 Nm at the start
    assert abs(stuck.joint_pos[0, 0]) < 1e-5 < 1e-3 < abs(stuck.joint_pos[0, 1])
    late = BulletSimulation(robot, 1, max_delay_s=0.01)
    late.set_delay(0.01)
    late.reset(np.array([0]), np.zeros((1, 2)), np.zeros((1, 2)))
    moved = []
    for _ in range(3):  # control steps of 5 ms
        late.step(np.array([[0.01, 0.01]]))
        moved.append(abs(late.joint_pos[0, 1]))
    assert moved[1] < 1e-9 < 1e-5 < moved[2]


def test_a_robot_that_blows_up_is_held_and_the_others_never_notice(
    engine: ModuleType, twin: Robot
) -> None:
    sim, healthy = BulletSimulation(twin, 2), BulletSimulation(twin, 1)
    target = np.tile(twin.default_joint_pos, (2, 1))
    bad = target.copy()
    bad[1] = np.nan
    for told in (target, bad, target):
        sim.step(told)
        healthy.step(target[:1])
    assert sim.failed.tolist() == [False, True] and sim.num_failures == 1
    assert np.array_equal(sim.joint_pos[0], healthy.joint_pos[0])
    assert np.array_equal(sim.joint_pos[1], twin.default_joint_pos)
    sim.reset(np.array([1]), twin.default_qpos()[None], np.zeros((1, twin.model.nv)))
    sim.world.push(1, np.full(3, np.nan))  # as if the engine had lost it in the middle of a step
    sim.step(target)
    healthy.step(target[:1])
    assert sim.failed.tolist() == [False, True] and sim.num_failures == 2
    assert np.array_equal(sim.joint_pos[0], healthy.joint_pos[0])
    assert np.array_equal(sim.joint_pos[1], twin.default_joint_pos)
    fast = np.zeros((1, twin.model.nv))
    fast[0, 8] = 1e4
    sim.reset(np.array([0]), twin.default_qpos()[None], fast)
    assert sim.failed.all()
    sim.reset(np.arange(2), np.tile(twin.default_qpos(), (2, 1)), np.zeros((2, twin.model.nv)))
    assert not sim.failed.any()
    with pytest.raises(InputError, match="not finite"):
        sim.reset(np.array([0]), np.full((1, twin.model.nq), np.nan), fast)
    with pytest.raises(InputError, match="shapes"):
        sim.reset(np.arange(2), twin.default_qpos()[None], fast)


def test_a_log_of_it_has_a_gap_and_bullet_itself_explains_it(
    engine: ModuleType, twin: Robot
) -> None:
    log = record(_cut(_case("squat"), 26), twin, RecordConfig(episodes=1))
    assert len(log.time_s) == 26 and log.robot == "g1"
    assert log.source.startswith("simulated robot g1@bullet")
    config = ReplayConfig(horizons_s=(0.2,), every_s=0.2, threads=1)
    found = replay([log], {"nominal": Robot.load("g1"), "truth": twin}, config)
    gap, floor = (found.arms[arm].horizons["0.2"][JOINT_ERROR].value for arm in found.arms
                  if arm in ("nominal", "truth"))  # fmt: skip
    assert found.windows == 2 and found.arms["truth"].diverged == 0
    assert floor < 0.5 * gap


@pytest.mark.slow
@pytest.mark.parametrize("name", ["squat", "walk"])
def test_policies_that_were_trained_on_mujoco_finish_their_clip_in_bullet(
    engine: ModuleType, twin: Robot, name: str
) -> None:
    found = evaluate([_case(name)], twin, EvaluateConfig(episodes=1))
    assert found.overall["success_rate"].value == 1.0
    assert found.overall["mpjpe_mm"].value < 40.0
    assert found.clips[0].simulator_failures == 0
