"""Robots from folders: layers, twins, strangers' files, and what is refused."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path

import mujoco
import numpy as np
import pytest

from asap import robot_file
from asap.robot import Robot
from asap.shipped import ROBOTS_FOLDER
from asap_deploy.errors import InputError

BODY = """
  <body name="base" pos="0 0 0.5">
    {root}
    <inertial pos="0 0 0" mass="2" diaginertia="0.1 0.1 0.1"/>
    <geom type="box" size="0.1 0.1 0.1"/>
    <body name="foot" pos="0 0 -0.3">
      <inertial pos="0 0 0" mass="1" diaginertia="0.01 0.01 0.01"/>
      <joint name="hip" axis="0 1 0" range="-60 60" actuatorfrcrange="-7 7"/>
      <geom type="sphere" size="0.05"/>
      {more}
    </body>
  </body>
"""
TOML = "[joints]\nhip = { stiffness = 20, damping = 1, armature = 0.01 }\n"
FOOT = 'feet = ["foot"]\n' + TOML
PLAIN = "<mujoco>{head}<worldbody>{world}" + BODY + "</worldbody>{tail}</mujoco>"


def write(
    folder: Path,
    toml: str = FOOT,
    *,
    xml: str | None = None,
    root: str = "<freejoint/>",
    **parts: str,
) -> Path:
    """A folder with a one-legged robot."""
    slots = {"head": "", "world": "", "more": "", "tail": "", "root": root} | parts
    (folder / "robot.toml").write_text(toml)
    (folder / "robot.xml").write_text(PLAIN.format(**slots) if xml is None else xml)
    return folder


def refused(folder: Path) -> str:
    """The error text of a folder that cannot be loaded, which must come quickly and be one line."""
    start = time.perf_counter()
    with pytest.raises(InputError) as error:
        Robot.load(str(folder)).model  # noqa: B018
    assert time.perf_counter() - start < 2.0
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_robot_needs_only_its_gains_and_says_what_is_missing(tmp_path: Path) -> None:
    robot = Robot.load(str(write(tmp_path, TOML)))
    assert (robot.joint_names, robot.body_names) == (("hip",), ("base", "foot"))
    assert robot.torque_limit[0] == 7.0
    # The MJCF says degrees, as MJCFs do unless told otherwise.
    assert robot.joint_pos_upper[0] == pytest.approx(np.pi / 3)
    assert robot.model.joint("hip").range == pytest.approx([-np.pi / 3, np.pi / 3])
    assert robot.link_body_names == robot.key_body_names == ("base", "foot")
    assert robot.anchor_name == robot.base_name == "base"
    assert robot.check() == [
        "no velocity limit: hip",
        "no feet are named: contact and clearance are not computed",
    ]


def test_check_names_what_is_odd(tmp_path: Path) -> None:
    toml = (
        'feet = ["foot"]\nremove_geoms = ["sole"]\n[joints]\n'
        "hip = { stiffness = 1e6, default_pos = 2.0, torque_limit = 5, velocity_limit = 9 }\n"
    )
    xml = PLAIN.format(head="", world="", more="", tail="", root="<freejoint/>")
    xml = xml.replace('<geom type="sphere"', '<geom name="sole" type="sphere"')
    problems = Robot.load(str(write(tmp_path, toml, xml=xml))).check()
    assert problems == [
        "zero armature (rotor inertia): hip",
        "no damping at all: hip",
        "default pose outside the joint range: hip",
        "gains too large for physics_dt = 0.005 s: hip",
        "foot 'foot' has no collision geoms: it falls through the floor",
    ]


def test_check_compares_left_and_right(tmp_path: Path) -> None:
    shutil.copytree(ROBOTS_FOLDER / "g1", tmp_path / "g1")
    file = tmp_path / "g1" / "robot.toml"
    joint = '[variants.limping.joints]\n"left_knee_joint" = { frictionloss = 1.0 }\n'
    weights = "[variants.limping.bodies.left_knee_link]\nmass = 1.0\n"
    file.write_text(f"{file.read_text()}\n{joint}{weights}")
    assert Robot.load(f"{tmp_path / 'g1'}:limping").check() == [
        "left and right differ in frictionloss: left_knee_joint",
        "left and right differ in mass: left_knee_link",
    ]


def test_own_scene_motors_sensors_and_keyframes_are_replaced(tmp_path: Path) -> None:
    robot = Robot.load(
        str(
            write(
                tmp_path,
                world='<geom name="floor" type="plane" size="1 1 1"/><body name="ball"><freejoint/>'
                '<geom size="0.1"/></body><light pos="0 0 3"/>',
                tail='<actuator><motor name="m" joint="hip"/></actuator><sensor><actuatorpos '
                'actuator="m"/></sensor><keyframe><key qpos="1 2 3"/></keyframe>',
            )
        )
    )
    assert [robot.model.actuator(i).name for i in range(robot.model.nu)] == ["hip"]
    assert (robot.model.nq, robot.model.nkey, robot.model.nsensor) == (8, 0, 0)
    assert "the MJCF's own scene is left out: body 'ball', geom 'floor'" in robot.check()


def test_gains_of_the_mjcfs_own_position_motors_are_used_where_the_toml_is_silent(
    tmp_path: Path,
) -> None:
    own = '<actuator><position joint="hip" kp="30" kv="2" forcerange="-4 4"/></actuator>'
    robot = Robot.load(str(write(tmp_path, "[joints]\nhip = { damping = 3 }\n", tail=own)))
    assert (robot.stiffness[0], robot.damping[0], robot.torque_limit[0]) == (30.0, 3.0, 4.0)


def test_a_bolted_robot_loads_and_its_kinematics_follow_the_base_given(tmp_path: Path) -> None:
    robot = Robot.load(str(write(tmp_path, TOML, root="")))
    assert not robot.has_free_base and robot.model.nq == 1
    assert robot.default_qpos().tolist() == [0.0]
    pos, _ = robot.forward_kinematics(
        np.array([[1.0, 2.0, 3.0]]), np.array([[1.0, 0, 0, 0]]), np.zeros((1, 1))
    )
    assert np.allclose(pos[0], [[1.0, 2.0, 3.0], [1.0, 2.0, 2.7]])


def test_a_delay_reaches_the_motor(tmp_path: Path) -> None:
    toml = "[joints]\nhip = { stiffness = 20, armature = 0.1, delay_s = 0.02 }\n"
    robot = Robot.load(str(write(tmp_path, toml, root="")))
    data = mujoco.MjData(robot.model)
    data.ctrl[:] = 0.1
    force = []
    for _ in range(8):
        mujoco.mj_step(robot.model, data)
        force.append(data.actuator_force[0])
    # 0.02 s are four steps of 5 ms.
    assert np.abs(force[:4]).max() < 1e-9 < np.abs(force[4:]).min()


def test_variants_and_later_patterns_lay_over_earlier_ones(tmp_path: Path) -> None:
    toml = (
        "[motors.small]\narmature = 0.01\ntorque_limit = 4\n"
        '[joints]\n"*" = { motor = "small", natural_frequency_hz = 5, damping_ratio = 1, '
        "action_torque_fraction = 0.5 }\n"
        '[variants.stiff.joints]\n"h*" = { stiffness = 100 }\n"hip" = { torque_limit = 9 }\n'
    )
    base, stiff = Robot.load(str(write(tmp_path, toml))), Robot.load(f"{tmp_path}:stiff")
    omega = 2 * np.pi * 5
    assert base.stiffness[0] == pytest.approx(0.01 * omega**2)
    assert base.damping[0] == pytest.approx(2 * 0.01 * omega)
    assert base.action_scale[0] == pytest.approx(0.5 * 4 / (0.01 * omega**2))
    assert (stiff.stiffness[0], stiff.torque_limit[0]) == (100.0, 9.0)
    assert stiff.action_scale[0] == pytest.approx(0.5 * 9 / 100)
    assert stiff.damping[0] == pytest.approx(2 * np.sqrt(100 * 0.01))


def test_a_twin_changes_physics_but_not_what_an_action_means(tmp_path: Path) -> None:
    folder = tmp_path / "g1"
    shutil.copytree(ROBOTS_FOLDER / "g1", folder)
    (folder / "twins").mkdir(exist_ok=True)
    (folder / "twins" / "worn.toml").write_text(
        '[joints]\n"*" = { scale = { stiffness = 0.8, torque_limit = 0.9 } }\n'
        '"*_knee_joint" = { frictionloss = 2.0, armature = 0.05, delay_s = 0.01 }\n'
        "[bodies.torso_link]\nmass_scale = 1.5\ncom_offset = [0.0, 0.0, 0.03]\n"
        "[foot_contact]\nfriction = 0.4\n"
    )
    for name in ("g1", "g1:asap"):
        variant = name[2:]
        robot, worn = Robot.load(name), Robot.load(f"{folder}{variant}@worn")
        assert np.allclose(worn.stiffness, 0.8 * robot.stiffness)
        assert np.allclose(worn.torque_limit, 0.9 * robot.torque_limit)
        assert np.array_equal(worn.action_scale, robot.action_scale)
        assert np.array_equal(worn.damping, robot.damping)
        knee = worn.joint_ids(["left_knee_joint"])[0]
        assert (worn.frictionloss[knee], worn.armature[knee]) == (2.0, 0.05)
        assert worn.delay_s[knee] == 0.01
        torso, before = worn.model.body("torso_link"), robot.model.body("torso_link")
        assert torso.mass[0] == pytest.approx(1.5 * before.mass[0])
        assert np.allclose(torso.inertia, 1.5 * before.inertia)
        assert np.allclose(torso.ipos - before.ipos, [0.0, 0.0, 0.03])
        soles = worn.model.geom_friction[np.concatenate(worn.foot_geom_ids), 0]
        assert set(soles) == {0.4} and robot.model.geom_friction[:, 0].max() == 1.0
    with pytest.raises(InputError, match=r"twin 'wron' is not in robot 'g1' \(did you mean 'worn'"):
        Robot.load(f"{folder}@wron")


@pytest.mark.parametrize("friction", [0.1, 0.5])
def test_a_sliding_sole_is_braked_by_its_own_friction(friction: float, tmp_path: Path) -> None:
    toml = FOOT + f"[foot_contact]\nfriction = {friction}\n"
    robot = Robot.load(str(write(tmp_path, toml)))
    data = mujoco.MjData(robot.model)
    data.qpos[:] = robot.default_qpos()
    data.qvel[0] = 2.0
    mujoco.mj_step(robot.model, data, 10)
    force = np.zeros(6)
    mujoco.mj_contactForce(robot.model, data, 0, force)
    assert np.abs(force[1:3]).sum() == pytest.approx(friction * force[0], rel=1e-3)


REAL = {
    "sigmaban": (
        "robot_nomesh.xml",
        'feet = ["left_foot___side_default", "right_foot_2"]\n[joints]\n'
        '"*" = { damping = 0, velocity_limit = 5 }\n"*_knee" = { default_pos = 0.5 }\n',
        20,
        7.814,
    ),
    "agibot_x2": (
        "x2_ultra_nomesh.xml",
        'feet = ["left_ankle_roll_link", "right_ankle_roll_link"]\nanchor = "torso_link"\n'
        '[joints]\n"*" = { natural_frequency_hz = 10, damping_ratio = 2, velocity_limit = 20 }\n'
        '"*_ankle_*" = { armature = 0.005414 }\n"*_hip_pitch_joint" = { default_pos = -0.312 }\n'
        '"*_knee_joint" = { default_pos = 0.669 }\n'
        '"*_ankle_pitch_joint" = { default_pos = -0.363 }\n',
        31,
        41.966,
    ),
    "bhl_biped": (
        "berkeley_humanoid_lite_biped_nomesh.xml",
        'feet = ["leg_left_ankle_roll", "leg_right_ankle_roll"]\n[joints]\n'
        '"*" = { stiffness = 20, damping = 2, torque_limit = 5, velocity_limit = 15 }\n',
        12,
        11.343,
    ),
}


@pytest.mark.parametrize("name", REAL)
def test_a_real_robot_loads_from_a_folder_and_stands(
    name: str, tmp_path: Path, shared_data: Path
) -> None:
    file, toml, joints, mass_kg = REAL[name]
    source = shared_data / "real_logs" / name / "model" / file
    robot = Robot.load(str(write(tmp_path, toml, xml=source.read_text())))
    assert len(robot.joint_names) == joints == robot.model.nu
    assert robot.model.body_mass.sum() == pytest.approx(mass_kg, rel=1e-3)
    assert not any("foot" in problem for problem in robot.check())
    data = mujoco.MjData(robot.model)
    data.qpos[:] = robot.default_qpos()
    start = data.qpos[2]
    data.ctrl[:] = robot.default_joint_pos
    mujoco.mj_step(robot.model, data, 40)
    assert np.isfinite(data.qpos).all()
    assert data.body(robot.base_name).xmat[8] > 0.9
    assert 0.0 < start - data.qpos[2] + 0.01 < 0.05
    assert data.ncon > 0


@pytest.mark.parametrize(("name", "file"), [("sigmaban", "robot.xml"), ("bhl_biped", None)])
def test_absent_meshes_are_dropped_and_named_and_the_physics_stays(
    name: str, file: str | None, tmp_path: Path, shared_data: Path
) -> None:
    plain, toml, _, _ = REAL[name]
    source = shared_data / "real_logs" / name / "model"
    file = file or plain.replace("_nomesh", "")
    dropped = Robot.load(str(write(tmp_path, toml, xml=(source / file).read_text())))
    assert any("mesh files are not in the folder" in problem for problem in dropped.check())
    never = Robot.load(str(write(tmp_path, toml, xml=(source / plain).read_text())))
    assert np.array_equal(dropped.model.body_mass, never.model.body_mass)
    assert np.array_equal(dropped.model.dof_invweight0, never.model.dof_invweight0)


def test_an_absent_mesh_that_gave_a_body_its_mass_is_an_error(
    tmp_path: Path, shared_data: Path
) -> None:
    source = shared_data / "real_logs" / "agibot_x2" / "model" / "x2_ultra.xml"
    text = refused(write(tmp_path, REAL["agibot_x2"][1], xml=source.read_text()))
    assert "is not in the folder and body 'pelvis' has no <inertial>" in text


def test_meshes_and_includes_inside_the_folder_are_used(tmp_path: Path) -> None:
    (tmp_path / "meshes").mkdir()
    corners = [(x, y, z) for x in (-0.1, 0.1) for y in (-0.1, 0.1) for z in (-0.2, 0.0)]
    lines = [f"v {x} {y} {z}" for x, y, z in corners]
    lines += ["f 1 2 3", "f 2 4 3", "f 5 7 6", "f 6 7 8", "f 1 5 2", "f 2 5 6", "f 3 4 7"]
    lines += ["f 4 8 7", "f 1 3 5", "f 3 7 5", "f 2 6 4", "f 4 6 8"]
    (tmp_path / "meshes" / "block.obj").write_text("\n".join(lines))
    (tmp_path / "assets.xml").write_text(
        '<mujoco><asset><mesh name="block" file="block.obj"/></asset></mujoco>'
    )
    head = '<compiler meshdir="meshes"/><include file="assets.xml"/>'
    robot = Robot.load(
        str(write(tmp_path, head=head, more='<geom type="mesh" mesh="block" name="block"/>'))
    )
    # The sphere ends 0.05 m below the foot's frame, the block 0.2 m.
    unit = np.array([[1.0, 0, 0, 0]])
    poses = robot.forward_kinematics(np.array([[0.0, 0.0, 1.0]]), unit, np.zeros((1, 1)))
    assert robot.sole_clearance(*poses)[0, 0] == pytest.approx(1.0 - 0.3 - 0.2)
    assert robot.default_qpos()[2] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("toml", "text"),
    [
        ("[joints]\nhip = { stifness = 1 }", "key 'stifness' is unknown in [joints.hip] (did you"),
        ("feets = []\n" + TOML, "key 'feets' is unknown (did you mean 'feet'?)"),
        ('feet = "foot"\n' + TOML, "feet cannot be used; got foot; expected a list of names"),
        ("[joints]\nhip = { stiffness = inf }", "got inf; expected a number, 0 or above"),
        ("[joints]\nhip = { stiffness = nan }", "got nan; expected a number, 0 or above"),
        ("[joints]\nhip = { stiffness = true }", "got True; expected a number, 0 or above"),
        ("[joints]\nhip = { armature = -1 }", "got -1; expected a number, 0 or above"),
        ("physics_dt = 0\n" + TOML, "physics_dt cannot be used; got 0; expected a number above 0"),
        ("[joints]\nhpi = { stiffness = 1 }", "[joints] 'hpi' matches no hinge joint"),
        ('[joints]\nhip = { motor = "x" }', "motor 'x' has no [motors] table"),
        ("[joints]\nhip = { natural_frequency_hz = 1, action_torque_fraction = 1 }", "derived"),
        ("", "no joint has a stiffness; add [joints] tables"),
        ('feet = ["fot"]\n' + TOML, "body 'fot' is not in the robot (did you mean 'foot'?)"),
        ('base = "bsae"\n' + TOML, "base 'bsae' is not a root body of the MJCF"),
        (TOML + "[bodies.fot]\nmass = 1", "[bodies] names 'fot', which is no body (did you mean"),
        ('remove_geoms = ["x"]\n' + TOML, "remove_geoms: 'x' matches no geom"),
        ("physics_dt = 0.003\n" + TOML, "control_dt must be a whole multiple of physics_dt"),
        ('self_collision = "some"\n' + TOML, "expected one of none, legs, full"),
        ('mjcf = "../robot.xml"\n' + TOML, "must be a path inside the robot's folder"),
        ('mjcf = "/etc/passwd"\n' + TOML, "must be a path inside the robot's folder"),
        ('mjcf = "other.xml"\n' + TOML, "MJCF file does not exist"),
        ("joints = 3", "expected a table in [joints], got '3'"),
        ("a = = 1", "not a TOML file"),
        ("a = " + "[" * 100_000, "not a TOML file"),
        ("#" * (2 << 20), "file is larger than 1 MB"),
        ("[bodies.foot]\nquat = [1, 1, 0, 0]\n" + TOML, "expected a unit quaternion w x y z"),
    ],
)
def test_a_wrong_robot_toml_is_answered_with_one_helpful_line(
    toml: str, text: str, tmp_path: Path
) -> None:
    message = refused(write(tmp_path, toml))
    assert text in message
    assert "(file: " in message


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ({"xml": "<mujoco"}, "not an XML file"),
        ({"xml": "<robot/>"}, "the root element is <robot>; convert a URDF with MuJoCo first"),
        ({"xml": "<mujoco/>"}, "the MJCF has no bodies"),
        ({"xml": "<!DOCTYPE a [<!ENTITY b 'c'>]><mujoco/>"}, "has a DOCTYPE or ENTITY"),
        ({"xml": "<mujoco>" + "<a>" * 200_000}, "not an XML file"),
        ({"more": "<frame>" * 300 + "</frame>" * 300}, "nested too deeply"),
        ({"more": '<geom size="0.1"/>' * 30_000}, "too large or nested too deeply"),
        ({"tail": "<!--" + "x" * (9 << 20) + "-->"}, "MJCF is larger than 8 MB"),
        ({"more": '<replicate count="1000000000"><geom size="1"/></replicate>'}, "<replicate>"),
        ({"more": '<plugin plugin="mujoco.pid"/>'}, "MJCF uses <plugin>"),
        ({"more": '<composite type="cable" count="9999999 1 1"/>'}, "MJCF uses <composite>"),
        ({"head": '<asset><model name="a" file="b.xml"/></asset>'}, "MJCF uses <model>"),
        ({"head": '<include file="../x.xml"/>'}, "include '../x.xml' leads out of the robot's"),
        ({"head": '<include file="/etc/passwd"/>'}, "leads out of the robot's folder"),
        ({"head": '<include file="robot.xml"/>'}, "include 'robot.xml' comes twice"),
        ({"more": '<geom size="nan"/>'}, "MJCF has a number that is NaN or infinite"),
        ({"head": "<option " + " ".join(f'a{i}="1"' for i in range(99)) + "/>"}, "is too large"),
        ({"more": f'<geom size="1" user="{"1 " * 200_000}"/>'}, "an element of the MJCF is too la"),
        ({"more": '<body><geom size="1"/></body>'}, "a body below 'foot' has no name"),
        ({"more": '<geom type="sphre" size="1"/>'}, "MuJoCo cannot read it"),
        ({"more": '<body name="toe"><joint name="j"/></body>'}, "MuJoCo cannot compile the robot"),
    ],
)
def test_a_broken_or_hostile_mjcf_is_refused_quickly_in_one_line(
    parts: dict[str, str], text: str, tmp_path: Path
) -> None:
    assert text in refused(write(tmp_path, **parts))


def test_a_mesh_outside_the_folder_is_never_opened(tmp_path: Path) -> None:
    inner = tmp_path / "robot"
    inner.mkdir()
    (tmp_path / "secret.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 2 3\n")
    (inner / "link.obj").symlink_to(tmp_path / "secret.obj")
    for file in ("../secret.obj", str(tmp_path / "secret.obj"), "link.obj"):
        head = f'<asset><mesh name="m" file="{file}"/></asset>'
        robot = Robot.load(
            str(write(inner, head=head, more='<geom type="mesh" mesh="m" contype="0"/>'))
        )
        assert robot.model.nmesh == 0
        assert "1 mesh files are not in the folder (m, ...)" in robot.check()


def test_the_example_of_the_readme_loads_and_every_key_is_explained_there(tmp_path: Path) -> None:
    readme = (ROBOTS_FOLDER / "README.md").read_text()
    robot_toml, twin_toml = re.findall(r"```toml\n(.*?)```", readme, flags=re.DOTALL)
    inertial = '<inertial pos="0 0 0" mass="1" diaginertia="0.01 0.01 0.01"/>'
    links = ["hip_pitch", "hip_roll", "knee", "ankle_pitch", "foot"]

    def leg(side: str, y: float) -> str:
        opened = "".join(
            f'<body name="{side}_{link}" pos="0 {y if link == "hip_pitch" else 0} -0.1">{inertial}'
            f'<joint name="{side}_{"ankle_roll" if link == "foot" else link}" range="-90 90"/>'
            for link in links
        )
        return opened + '<geom type="box" size="0.1 0.05 0.02"/>' + "</body>" * len(links)

    xml = f'<mujoco><worldbody><body name="torso"><freejoint/>{inertial}'
    xml += leg("left", 0.1) + leg("right", -0.1) + "</body></worldbody></mujoco>"
    folder = write(tmp_path, robot_toml, xml=xml)
    (folder / "twins").mkdir()
    (folder / "twins" / "worn.toml").write_text(twin_toml)
    robot, worn = Robot.load(str(folder)), Robot.load(f"{folder}:stiff@worn")
    assert robot.check() == [] and len(robot.joint_names) == 10
    assert worn.stiffness[2] == pytest.approx(0.95 * 0.012 * (2 * np.pi * 12) ** 2)

    keys = {*robot_file._PLAIN_KEYS, *robot_file._JOINT_KEYS, *robot_file._BODY_KEYS}
    keys |= {*robot_file._CONTACT_KEYS, *robot_file._FILE_KEYS}
    assert [
        key for key in sorted(keys) if f"`{key}" not in readme and f"[{key}" not in readme
    ] == []
