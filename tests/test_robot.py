"""The robots in the repository, and what a Robot promises."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import mujoco
import numpy as np
import pytest

from asap.robot import Robot, robot_names
from asap.shipped import ROBOTS_FOLDER
from asap_deploy.errors import InputError
from asap_deploy.rotation import angle_between

sys.path.insert(0, str(Path(__file__).parent))
import make_g1_reference

SHIPPED = robot_names()
PROMPT = [name for name in SHIPPED if not Robot.load(name).delay_s.any()]
"""Without the delay of some twins."""
REFERENCE = Path(__file__).parent / "data" / "g1_reference.npz"

TOY = """
<mujoco>
  <worldbody>
    <geom name="ground" type="plane" size="1 1 1"/>
    <body name="base" pos="0 0 1">
      <freejoint/>
      <geom type="box" size="0.1 0.1 0.1" mass="5"/>
      <body name="left_foot" pos="0 0.2 -0.3">
        <joint name="left_hip" axis="0 1 0" range="-1 1"/>
        <geom {left} mass="1"/>
      </body>
      <body name="right_foot" pos="0 -0.2 -0.3">
        <joint name="right_hip" axis="1 0 0" range="-1 1"/>
        <geom {right} mass="1"/>
      </body>
    </body>
  </worldbody>
</mujoco>
"""
TOY_TOML = """
mjcf = "toy.xml"
feet = ["left_foot", "right_foot"]
[joints]
"*_hip" = { stiffness = 20, damping = 1, torque_limit = 5, armature = 0.01 }
"""
SHAPES = {
    "sphere": 'type="sphere" size="0.05" pos="0.02 0 -0.1"',
    "capsule": 'type="capsule" size="0.02" fromto="-0.1 0 -0.1 0.1 0.02 -0.12"',
    "box": 'type="box" size="0.1 0.04 0.02" pos="0.03 0 -0.1" euler="10 20 30"',
    "cylinder": 'type="cylinder" size="0.03 0.06" pos="0 0 -0.1" euler="50 0 10"',
    "ellipsoid": 'type="ellipsoid" size="0.1 0.05 0.03" pos="0 0 -0.1" euler="0 30 0"',
}


def toy(folder: Path, left: str = SHAPES["box"], right: str = SHAPES["box"]) -> Robot:
    (folder / "toy.xml").write_text(TOY.format(left=left, right=right))
    (folder / "robot.toml").write_text(TOY_TOML)
    return Robot.load(str(folder))


def random_poses(robot: Robot, frames: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    quat = rng.normal(size=(frames, 4))
    quat /= np.linalg.norm(quat, axis=1, keepdims=True)
    joint_pos = rng.uniform(
        robot.joint_pos_lower, robot.joint_pos_upper, (frames, len(robot.joint_names))
    )
    return rng.normal(size=(frames, 3)), quat, joint_pos


def assert_same_robot(name: str, public: dict[str, np.ndarray]) -> None:
    """Mass 0.1 %, frames 0.1 mm and 0.05 deg, inertia 0.5 % (of the geometric mean diagonal)."""
    robot = Robot.load(name)
    assert robot.model.body_mass.sum() == pytest.approx(public["mass_kg"], rel=1e-3)
    assert robot.joint_names == tuple(public["joint_names"])
    assert robot.body_names == tuple(public["body_names"])
    frames = len(public["joint_pos"])
    base_quat = np.tile([1.0, 0.0, 0.0, 0.0], (frames, 1))
    pos, quat = robot.forward_kinematics(np.zeros((frames, 3)), base_quat, public["joint_pos"])
    assert np.abs(pos - public["body_pos_w"]).max() < 1e-4
    assert np.rad2deg(angle_between(quat, public["body_quat_wxyz"])).max() < 0.05
    joint_pos = dict(zip(robot.joint_names, public["joint_pos"].T, strict=True))
    inertia = make_g1_reference.measure(robot.spec().compile(), joint_pos)["inertia"]
    diagonal = np.sqrt(np.einsum("tii->ti", public["inertia"]))
    scale = diagonal[:, :, None] * diagonal[:, None, :]
    assert (np.abs(inertia - public["inertia"]) / scale).max() < 0.005


@pytest.mark.parametrize("name", make_g1_reference.SOURCES)
def test_our_g1_has_the_frames_and_inertia_of_the_public_one_at_ten_stored_poses(name: str) -> None:
    with np.load(REFERENCE, allow_pickle=False) as stored:
        public = {k.split("/")[1]: stored[k] for k in stored.files if k.startswith(f"{name}/")}
    assert_same_robot(name, public)


@pytest.mark.parametrize("name", make_g1_reference.SOURCES)
def test_our_g1_has_the_frames_and_inertia_of_the_public_one_at_100_poses(
    name: str, shared_data: Path
) -> None:
    file = shared_data / "g1_models" / make_g1_reference.SOURCES[name]
    assert_same_robot(name, make_g1_reference.reference(file, 100, seed=1))


def test_g1_asap_has_the_limits_armature_and_friction_of_the_public_file(shared_data: Path) -> None:
    public = make_g1_reference.public_model(shared_data / "g1_models" / "asap_g1_29dof.xml")
    robot = Robot.load("g1:asap")
    for i, name in enumerate(robot.joint_names):
        joint = public.joint(name)
        dof = joint.dofadr[0]
        assert (robot.joint_pos_lower[i], robot.joint_pos_upper[i]) == tuple(joint.range)
        assert robot.torque_limit[i] == public.actuator(name.removesuffix("_joint")).ctrlrange[1]
        assert robot.model.dof_armature[dof] == public.dof_armature[dof]
        assert robot.model.dof_frictionloss[dof] == public.dof_frictionloss[dof]
        assert np.allclose(robot.model.dof_damping[dof], public.dof_damping[dof])


def test_the_23_joint_public_file_is_g1_asap_with_the_wrists_at_zero(shared_data: Path) -> None:
    file = shared_data / "g1_models" / "asap_g1_23dof.xml"
    public = make_g1_reference.reference(file, 100, seed=2)
    robot = Robot.load("g1:asap")
    assert robot.action_joint_names == tuple(public["joint_names"])
    joint_pos = dict(zip(robot.action_joint_names, public["joint_pos"].T, strict=True))
    ours = make_g1_reference.measure(robot.spec().compile(), joint_pos)
    diagonal = np.sqrt(np.einsum("tii->ti", public["inertia"]))
    error = np.abs(ours["inertia"] - public["inertia"])
    assert (error / (diagonal[:, :, None] * diagonal[:, None, :])).max() < 0.005
    assert np.abs(ours["body_pos_w"] - public["body_pos_w"]).max() < 1e-4


def test_gains_of_g1_follow_from_the_rotors_of_its_motors() -> None:
    # Rotor, first and second carrier [kg m^2]; two gear stages; joint; number of motors.
    motors = [
        ((0.139e-4, 0.017e-4, 0.169e-4), (1 + 46 / 18, 1 + 56 / 16), "left_elbow_joint", 1, 25.0),
        ((0.489e-4, 0.098e-4, 0.533e-4), (4.5, 1 + 48 / 22), "left_hip_yaw_joint", 1, 88.0),
        ((0.489e-4, 0.109e-4, 0.738e-4), (4.5, 5.0), "right_knee_joint", 1, 139.0),
        ((0.068e-4, 0.0, 0.0), (5.0, 5.0), "left_wrist_yaw_joint", 1, 5.0),
        ((0.139e-4, 0.017e-4, 0.169e-4), (1 + 46 / 18, 1 + 56 / 16), "waist_roll_joint", 2, 50.0),
    ]
    robot = Robot.load("g1")
    for (rotor, first, second), (gear1, gear2), name, count, torque in motors:
        armature = count * (rotor * (gear1 * gear2) ** 2 + first * gear2**2 + second)
        kp = armature * (20 * np.pi) ** 2
        i = robot.joint_ids([name])[0]
        assert robot.armature[i] == pytest.approx(armature, rel=1e-6)
        assert robot.stiffness[i] == pytest.approx(kp, rel=1e-6)
        assert robot.damping[i] == pytest.approx(4 * armature * 20 * np.pi, rel=1e-6)
        assert robot.torque_limit[i] == torque
        assert robot.action_scale[i] == pytest.approx(0.25 * torque / kp, rel=1e-6)


def test_interface_facts_of_the_asap_variant() -> None:
    robot = Robot.load("g1:asap")
    assert len(robot.joint_names) == 29
    assert [robot.joint_names.index(n) for n in robot.action_joint_names] == [
        *range(19),
        *range(22, 26),
    ]
    assert len(robot.link_body_names) == 24
    assert [point.name for point in robot.virtual_points] == ["left_hand", "right_hand", "head"]
    waist, ankle, wrist = robot.joint_ids(
        ["waist_pitch_joint", "right_ankle_roll_joint", "left_wrist_yaw_joint"]
    )
    assert (robot.stiffness[waist], robot.damping[waist], robot.torque_limit[waist]) == (400, 5, 50)
    assert (robot.stiffness[ankle], robot.damping[ankle], robot.torque_limit[ankle]) == (
        20,
        0.1,
        50,
    )
    assert (robot.stiffness[wrist], robot.damping[wrist], robot.torque_limit[wrist]) == (4, 0.2, 5)
    assert set(robot.action_scale) == {0.25}
    legs = [-0.1, 0, 0, 0.3, -0.2, 0]
    assert robot.default_joint_pos.tolist() == [*legs, *legs, *[0] * 17]
    assert robot.mode_machine == (5, 6)
    assert robot.decimation == 4


def test_the_23_joint_variant_is_g1_with_the_wrists_welded_at_zero() -> None:
    whole, welded = Robot.load("g1"), Robot.load("g1:23dof")
    assert welded.joint_names == tuple(n for n in whole.joint_names if "wrist" not in n)
    assert welded.body_names == whole.body_names
    base, quat, joint_pos = random_poses(welded, 5, seed=3)
    with_wrists = np.zeros((5, 29))
    with_wrists[:, whole.joint_ids(welded.joint_names)] = joint_pos
    ours = welded.forward_kinematics(base, quat, joint_pos)
    theirs = whole.forward_kinematics(base, quat, with_wrists)
    assert np.allclose(ours[0], theirs[0], atol=1e-12)
    assert np.allclose(ours[1], theirs[1], atol=1e-12)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_robot_stands_for_half_a_second(name: str) -> None:
    robot = Robot.load(name)
    assert robot.check() == []
    data = mujoco.MjData(robot.model)
    data.qpos[:] = robot.default_qpos()
    data.ctrl[:] = robot.default_joint_pos
    mujoco.mj_step(robot.model, data, round(0.5 / robot.physics_dt))
    assert np.isfinite(data.qpos).all() and np.isfinite(data.qvel).all()
    assert data.body(robot.base_name).xmat[8] > 0.95
    assert data.qpos[2] > 0.7


@pytest.mark.parametrize("name", SHIPPED)
def test_default_pose_touches_the_floor_with_the_lower_sole_exactly(name: str) -> None:
    robot = Robot.load(name)
    qpos = robot.default_qpos()[None]
    poses = robot.forward_kinematics(qpos[:, :3], qpos[:, 3:7], qpos[:, robot.qpos_ids])
    assert robot.sole_clearance(*poses).min() == pytest.approx(0.0, abs=1e-12)
    assert np.ptp(robot.sole_clearance(*poses)) < 1e-3


@pytest.mark.parametrize("name", SHIPPED)
def test_mirrored_joint_positions_give_the_mirrored_body_positions(name: str) -> None:
    robot = Robot.load(name)
    _, _, joint_pos = random_poses(robot, 20, seed=4)
    swap = str.maketrans({"L": "right", "R": "left"})

    def other(n: str) -> str:
        return n.replace("left_", "L_").replace("right_", "R_").translate(swap)

    # A mirror at y = 0 keeps rotations about y and reverses those about x and z.
    sign = np.array([-1.0 if ("roll" in n or "yaw" in n) else 1.0 for n in robot.joint_names])
    mirrored = sign * joint_pos[:, robot.joint_ids([other(n) for n in robot.joint_names])]
    zero, unit = np.zeros((20, 3)), np.tile([1.0, 0.0, 0.0, 0.0], (20, 1))
    pos, _ = robot.forward_kinematics(zero, unit, joint_pos)
    image, _ = robot.forward_kinematics(zero, unit, mirrored)
    image = image[:, robot.body_index([other(n) for n in robot.body_names])] * [1.0, -1.0, 1.0]
    # The manufacturer's own numbers differ by 0.01 mm between the shoulders.
    assert np.abs(pos - image).max() < 5e-5


def test_forward_kinematics_equals_a_plain_loop_over_the_full_model() -> None:
    robot = Robot.load("g1")
    base, quat, joint_pos = random_poses(robot, 8, seed=5)
    pos, orientation = robot.forward_kinematics(base, quat, joint_pos)
    data = mujoco.MjData(robot.model)
    for frame in range(8):
        data.qpos[:3], data.qpos[3:7] = base[frame], quat[frame]
        data.qpos[robot.qpos_ids] = joint_pos[frame]
        mujoco.mj_kinematics(robot.model, data)
        assert np.array_equal(pos[frame], data.xpos[robot.body_ids])
        assert np.array_equal(orientation[frame], data.xquat[robot.body_ids])


@pytest.mark.parametrize("shape", SHAPES)
def test_sole_clearance_is_mujocos_distance_to_the_floor(shape: str, tmp_path: Path) -> None:
    robot = toy(tmp_path, left=SHAPES[shape])
    base, quat, joint_pos = random_poses(robot, 30, seed=6)
    poses = robot.forward_kinematics(base, quat, joint_pos)
    clearance = robot.sole_clearance(*poses)
    data = mujoco.MjData(robot.model)
    floor = robot.model.geom("floor").id
    for frame in range(30):
        data.qpos[:3], data.qpos[3:7] = base[frame], quat[frame]
        data.qpos[robot.qpos_ids] = joint_pos[frame]
        mujoco.mj_kinematics(robot.model, data)
        geom = robot.foot_geom_ids[0][0]
        lowest = mujoco.mj_geomDistance(robot.model, data, geom, floor, 10.0, None)
        assert clearance[frame, 0] == pytest.approx(lowest, abs=1e-6)


@pytest.mark.parametrize("name", PROMPT)
def test_motor_torque_is_the_pd_law_clipped_at_the_limit(name: str) -> None:
    robot = Robot.load(name)
    data, rng = mujoco.MjData(robot.model), np.random.default_rng(7)
    _, _, joint_pos = random_poses(robot, 20, seed=8)
    for pose in joint_pos:
        data.qpos[robot.qpos_ids] = pose
        data.qvel[robot.qvel_ids] = rng.normal(size=len(pose)) * 3.0
        data.ctrl[:] = pose + rng.normal(size=len(pose)) * 0.5
        mujoco.mj_forward(robot.model, data)
        torque = robot.stiffness * (data.ctrl - pose) - robot.damping * data.qvel[robot.qvel_ids]
        torque = np.clip(torque, -robot.torque_limit, robot.torque_limit)
        assert np.allclose(data.actuator_force, torque, atol=1e-9)
        assert np.allclose(data.qfrc_actuator[robot.qvel_ids], torque, atol=1e-9)


def test_joint_i_is_driven_by_ctrl_i_of_the_same_name() -> None:
    model = Robot.load("g1").model
    names = [model.actuator(i).name for i in range(model.nu)]
    assert tuple(names) == Robot.load("g1").joint_names
    assert [model.joint(model.actuator_trnid[i, 0]).name for i in range(model.nu)] == names


def test_a_changed_field_reaches_the_model_and_leaves_the_robot_alone() -> None:
    robot = Robot.load("g1")
    softer = robot.with_(stiffness=robot.stiffness * 0.5, physics_dt=0.004)
    assert np.allclose(softer.model.actuator_gainprm[:, 0], robot.stiffness * 0.5)
    assert softer.decimation == 5
    assert np.allclose(robot.model.actuator_gainprm[:, 0], robot.stiffness)
    with pytest.raises(ValueError, match="read-only"):
        robot.stiffness[0] = 1.0


def test_spec_can_be_edited_without_touching_the_robot() -> None:
    robot = Robot.load("g1")
    spec = robot.spec()
    spec.body("torso_link").mass = 20.0
    assert spec.compile().body_mass.sum() > robot.model.body_mass.sum() + 12.0
    assert robot.spec().compile().body_mass.sum() == robot.model.body_mass.sum()


def test_legs_touch_each_other_where_that_is_asked_for() -> None:
    for name, expected in (("g1", True), ("g1:asap", False)):
        robot = Robot.load(name)
        data = mujoco.MjData(robot.model)
        data.qpos[:] = robot.default_qpos() + np.r_[0, 0, 1.0, np.zeros(robot.model.nq - 3)]
        rolls = robot.joint_ids(["left_hip_roll_joint", "right_hip_roll_joint"])
        data.qpos[robot.qpos_ids[rolls]] = [-0.4, 0.4]
        mujoco.mj_forward(robot.model, data)
        assert (data.ncon > 0) == expected


def test_both_published_foot_shapes_can_be_chosen(tmp_path: Path) -> None:
    shutil.copytree(ROBOTS_FOLDER / "g1", tmp_path / "g1")
    (tmp_path / "g1" / "twins").mkdir(exist_ok=True)
    (tmp_path / "g1" / "twins" / "pads.toml").write_text('remove_geoms = ["*_foot_capsule*"]')
    shapes = {
        name: {int(k) for foot in robot.foot_geom_ids for k in robot.model.geom_type[foot]}
        for name, robot in (
            ("capsules", Robot.load("g1")),
            ("spheres", Robot.load("g1:asap")),
            ("chosen", Robot.load(f"{tmp_path / 'g1'}@pads")),
        )
    }
    sphere, capsule = int(mujoco.mjtGeom.mjGEOM_SPHERE), int(mujoco.mjtGeom.mjGEOM_CAPSULE)
    assert shapes == {"capsules": {capsule}, "spheres": {sphere}, "chosen": {sphere}}
    assert [len(foot) for foot in Robot.load("g1").foot_geom_ids] == [7, 7]
    assert [len(foot) for foot in Robot.load("g1:asap").foot_geom_ids] == [4, 4]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("g2", "robot 'g2' is neither a robot nor a folder with a robot.toml"),
        ("g1:23dofs", "variant '23dofs' is not in robot 'g1' (did you mean '23dof'?)"),
        ("g1@rusty", "twin 'rusty' is not in robot 'g1'"),
        ("g1@../../x", "twin '../../x' is not in robot 'g1'"),
        ("", "robot '' is neither"),
    ],
)
def test_an_unknown_name_is_refused_with_what_would_have_been_valid(name: str, text: str) -> None:
    with pytest.raises(InputError) as error:
        Robot.load(name)
    assert text in str(error.value)


def test_misuse_is_answered_with_what_was_expected() -> None:
    robot = Robot.load("g1")
    with pytest.raises(
        InputError, match=r"'left_hip_pich_joint' is not in robot 'g1' \(did you me"
    ):
        robot.joint_ids(["left_hip_pich_joint"])
    with pytest.raises(InputError, match=r"whole multiple of physics_dt: got 0.02 and 0.003"):
        robot.with_(physics_dt=0.003)
    with pytest.raises(InputError, match=r"\(T, 3\), \(T, 4\), \(T, 29\)"):
        robot.forward_kinematics(np.zeros((2, 3)), np.zeros((2, 4)), np.zeros((2, 23)))
    with pytest.raises(InputError, match=r"stiffness has shape \(3,\); expected \(29,\)"):
        robot.with_(stiffness=np.ones(3))
    with pytest.raises(InputError, match=r"integrator 'implicit_fast' is unknown \(did you mean"):
        robot.with_(integrator="implicit_fast")
