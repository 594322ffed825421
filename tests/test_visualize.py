"""Recordings, read back: entities, counts, times and numbers are those of the rollout."""

from dataclasses import replace

import mujoco
import numpy as np
import pytest
import rerun.blueprint as rrb
from rerun.chunk import RrdReader

from asap.recording import Recording
from asap.robot import Robot
from asap.rollout import Rollout
from asap.visualize import (
    joint_chains,
    joint_sweep,
    view_robot,
    write_motion_recording,
    write_recording,
)
from asap_deploy.errors import InputError
from asap_deploy.motion import Motion
from asap_deploy.rotation import from_rotvec, rotate, wxyz_from_xyzw

FRAMES = 40


@pytest.fixture(scope="module")
def robot() -> Robot:
    return Robot.load("g1")


@pytest.fixture(scope="module")
def rollout(robot) -> Rollout:
    rng = np.random.default_rng(0)
    joints = len(robot.joint_names)
    qpos = np.tile(robot.default_qpos(), (FRAMES, 1))
    qpos[:, :2] = rng.uniform(-1, 1, (FRAMES, 2))
    qpos[:, 3:7] = from_rotvec(rng.normal(size=(FRAMES, 3)))
    qpos[:, robot.qpos_ids] += rng.normal(size=(FRAMES, joints)) * 0.2
    return Rollout(
        robot=robot,
        time_s=3.0 + 0.02 * np.arange(FRAMES),
        qpos=qpos,
        reference_qpos=np.tile(robot.default_qpos(), (FRAMES, 1)),
        joint_pos_target=rng.normal(size=(FRAMES, joints)),
        joint_torque=rng.normal(size=(FRAMES, joints)),
        contact_force=rng.uniform(0, 300, (FRAMES, 2)),
        error_mm=rng.uniform(0, 100, FRAMES),
        title="clip on g1",
    )


class Contents:
    """Columns of an ``.rrd`` file by entity path and component."""

    def __init__(self, path):
        self.moving, self.static, self.times = {}, {}, {}
        for chunk in RrdReader(path).stream().to_chunks():
            batch, where = chunk.to_record_batch(), chunk.entity_path
            for name in batch.schema.names:
                column = batch.column(name)
                if name == "time":
                    nanoseconds = column.to_numpy(zero_copy_only=False).astype(np.int64)
                    self.times.setdefault(where, []).extend(nanoseconds / 1e9)
                    continue
                values = column.to_pylist()
                if chunk.is_static and name != "rerun.controls.RowId":
                    self.static[where, name] = values[0]
                elif name != "rerun.controls.RowId":
                    self.moving.setdefault((where, name), []).extend(values)

    def scalars(self, path) -> np.ndarray:
        return np.array(self.moving[path, "Scalars:scalars"])[:, 0]


@pytest.fixture(scope="module")
def contents(rollout, tmp_path_factory) -> Contents:
    path = tmp_path_factory.mktemp("recording") / "clip.rrd"
    write_recording([rollout], path)
    assert [p.name for p in path.parent.iterdir()] == ["clip.rrd"]
    return Contents(path)


def test_bodies_move_as_forward_kinematics_says(contents, rollout, robot):
    for root, qpos in (("robot", rollout.qpos), ("reference", rollout.reference_qpos)):
        position, quat = robot.forward_kinematics(
            qpos[:, :3], qpos[:, 3:7], qpos[:, robot.qpos_ids]
        )
        for body, name in enumerate(robot.body_names):
            path = f"/episode_0/scene/{root}/{name}"
            got = np.array(contents.moving[path, "Transform3D:translation"])[:, 0]
            np.testing.assert_allclose(got, position[:, body], atol=1e-6)
            got = wxyz_from_xyzw(np.array(contents.moving[path, "Transform3D:quaternion"])[:, 0])
            cosine = np.abs(np.sum(got * quat[:, body], axis=-1))
            np.testing.assert_allclose(cosine, 1.0, atol=1e-6)


def test_everything_is_on_one_time_axis_from_zero(contents):
    for path, times in contents.times.items():
        np.testing.assert_allclose(times, 0.02 * np.arange(FRAMES), atol=1e-6, err_msg=path)
    assert len(contents.times) > 150


def test_curves_hold_the_numbers_of_the_rollout(contents, rollout, robot):
    base = "/episode_0"
    np.testing.assert_array_equal(contents.scalars(f"{base}/error_mm/mean"), rollout.error_mm)
    np.testing.assert_array_equal(contents.scalars(f"{base}/base_height/robot"), rollout.qpos[:, 2])
    for joint, name in enumerate(robot.joint_names):
        for what, values in (
            ("measured", rollout.joint_pos),
            ("target", rollout.joint_pos_target),
            ("reference", rollout.reference_joint_pos),
        ):
            got = contents.scalars(f"{base}/joints/{name}/{what}")
            np.testing.assert_array_equal(got, values[:, joint])
    torque = {p.rsplit("/", 1)[1]: p for p, _ in contents.moving if p.startswith(f"{base}/torque/")}
    assert sorted(torque) == sorted(robot.joint_names)
    for joint, name in enumerate(robot.joint_names):
        np.testing.assert_array_equal(
            contents.scalars(torque[name]), rollout.joint_torque[:, joint]
        )


def test_force_arrows_stand_on_the_floor_below_the_feet(contents, rollout, robot):
    for foot, name in enumerate(robot.foot_names):
        path = f"/episode_0/scene/contact/{name}"
        vectors = np.array(contents.moving[path, "Arrows3D:vectors"])[:, 0]
        np.testing.assert_allclose(vectors[:, 2], 1e-3 * rollout.contact_force[:, foot], rtol=1e-6)
        origins = np.array(contents.moving[path, "Arrows3D:origins"])[:, 0]
        ankle = np.array(
            contents.moving[f"/episode_0/scene/robot/{name}", "Transform3D:translation"]
        )[:, 0]
        np.testing.assert_allclose(origins[:, :2], ankle[:, :2], atol=1e-6)
        assert (origins[:, 2] == 0).all()


def test_every_visual_geom_is_sent_once_and_no_collision_geom(contents, robot):
    model, root = robot.model, "/episode_0/scene/robot/"
    kinds = {
        "ellipsoids": (("Ellipsoids3D:half_sizes"), (2, 4)),
        "capsules": ("Capsules3D:radii", (3,)),
        "cylinders": ("Cylinders3D:radii", (5,)),
        "boxes": ("Boxes3D:half_sizes", (6,)),
    }
    for kind, (component, types) in kinds.items():
        sent = sum(
            len(values)
            for (path, name), values in contents.static.items()
            if path.startswith(root) and path.endswith(f"visual/{kind}") and name == component
        )
        expected = ((model.geom_group == 2) & np.isin(model.geom_type, types)).sum()
        assert sent == expected, kind
    assert not [p for p, _ in contents.static if p.startswith(root) and "collision" in p]


def test_the_ghost_has_the_robots_shapes_in_one_see_through_colour(contents):
    ghosts = {
        tuple(values)
        for (path, name), values in contents.static.items()
        if "/scene/reference/" in path and name.endswith(":colors")
    }
    assert {color for colors in ghosts for color in colors} == {0x428BF06E}  # 66, 139, 240, 110


def test_without_a_reference_there_is_no_ghost_and_no_error(rollout, tmp_path):
    write_recording([replace(rollout, reference_qpos=None, error_mm=None)], tmp_path / "a.rrd")
    paths = {path for path, _ in Contents(tmp_path / "a.rrd").moving}
    assert not [p for p in paths if "reference" in p or "error_mm" in p]
    assert [p for p in paths if p.endswith("/measured")]


def test_two_rollouts_stand_side_by_side(rollout, tmp_path):
    write_recording([rollout, replace(rollout, title="again")], tmp_path / "a.rrd")
    contents = Contents(tmp_path / "a.rrd")
    first, second = (contents.scalars(f"/episode_{i}/error_mm/mean") for i in (0, 1))
    np.testing.assert_array_equal(first, second)


def test_the_same_rollout_gives_the_same_contents_and_identity(rollout, tmp_path):
    read = []
    for name in ("a.rrd", "b.rrd"):
        write_recording([rollout], tmp_path / name)
        stores = [s.recording_id for s in RrdReader(tmp_path / name).recordings()]
        contents = Contents(tmp_path / name)
        read.append((stores, contents.static, contents.moving, contents.times))
    assert read[0] == read[1]
    assert len(RrdReader(tmp_path / "a.rrd").blueprints()) == 1


def test_four_seconds_stay_below_5_mb(rollout, tmp_path):
    many = np.arange(200) % FRAMES
    arrays = ("qpos", "reference_qpos", "joint_pos_target", "joint_torque", "contact_force")
    longer = {name: getattr(rollout, name)[many] for name in (*arrays, "error_mm")}
    write_recording([replace(rollout, time_s=0.02 * np.arange(200), **longer)], tmp_path / "a.rrd")
    assert (tmp_path / "a.rrd").stat().st_size < 5e6


def test_no_rollout_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"needs at least one rollout; got none \(file: .*a\.rrd"):
        write_recording([], tmp_path / "a.rrd")


def test_a_motion_is_shown_as_it_is(robot, tmp_path):
    names, frames = robot.joint_names[:12], 11
    position = np.random.default_rng(1).normal(size=(frames, 12)) * 0.1
    motion = Motion(
        fps=20.0,
        joint_names=names,
        joint_pos=position,
        joint_vel=2 * position,
        body_names=(robot.base_name,),
        body_pos_w=np.linspace([0, 0, 0.8], [1, 0, 0.7], frames)[:, None],
        body_quat_wxyz=np.tile([1.0, 0, 0, 0], (frames, 1, 1)),
        body_lin_vel_w=np.zeros((frames, 1, 3)),
        body_ang_vel_w=np.zeros((frames, 1, 3)),
        foot_contact=np.stack([np.arange(frames) < 5, np.arange(frames) > 3], axis=1),
    )
    write_motion_recording(motion, robot, tmp_path / "a.rrd")
    contents = Contents(tmp_path / "a.rrd")
    for path, times in contents.times.items():
        np.testing.assert_allclose(times, np.arange(frames) / 20.0, atol=1e-6, err_msg=path)
    shown = {p.rsplit("/", 1)[1]: p for p, _ in contents.moving if "/joint_vel/" in p}
    assert sorted(shown) == sorted(names)  # nothing is made up for the other joints
    for joint, name in enumerate(names):
        np.testing.assert_array_equal(contents.scalars(shown[name]), 2 * position[:, joint])
    foot = contents.scalars(f"/motion/foot_contact/{robot.foot_names[1]}")
    np.testing.assert_array_equal(foot, motion.foot_contact[:, 1])
    base = contents.moving[f"/motion/scene/robot/{robot.base_name}", "Transform3D:translation"]
    np.testing.assert_allclose(np.array(base)[:, 0], motion.base_pos_w, atol=1e-6)


def test_the_sweep_reaches_both_limits_of_one_joint_at_a_time(robot):
    _, qpos = joint_sweep(robot)
    joint_pos = qpos[:, robot.qpos_ids]
    away = np.abs(joint_pos - robot.default_joint_pos) > 1e-9
    assert away.sum(axis=1).max() == 1
    reach = 0.99 * (robot.joint_pos_upper - robot.default_joint_pos) + robot.default_joint_pos
    assert (joint_pos.max(axis=0) >= reach - 1e-9).all()
    assert (joint_pos.max(axis=0) <= robot.joint_pos_upper + 1e-9).all()
    assert (joint_pos.min(axis=0) >= robot.joint_pos_lower - 1e-9).all()


def test_a_robot_recording_holds_collision_shapes_and_facts(robot, tmp_path):
    view_robot(robot, tmp_path / "a.rrd")
    contents = Contents(tmp_path / "a.rrd")
    assert [p for p, _ in contents.static if p.endswith("/collision/capsules")]
    (facts,) = contents.static["/robot/facts", "TextDocument:text"]
    assert robot.joint_names[-1] in facts
    assert f"{robot.model.body_subtreemass[0]:.2f} kg" in facts


def test_chains_split_where_the_robot_branches(robot):
    chains = joint_chains(robot)
    assert sorted(j for chain in chains for j in chain) == list(range(len(robot.joint_names)))
    ends = [(robot.joint_names[c[0]], robot.joint_names[c[-1]]) for c in chains]
    assert ends == [
        ("left_hip_pitch_joint", "left_ankle_roll_joint"),
        ("right_hip_pitch_joint", "right_ankle_roll_joint"),
        ("waist_yaw_joint", "waist_pitch_joint"),
        ("left_shoulder_pitch_joint", "left_wrist_yaw_joint"),
        ("right_shoulder_pitch_joint", "right_wrist_yaw_joint"),
    ]


def test_capsules_and_meshes_are_where_mujoco_has_them(tmp_path):
    model = mujoco.MjModel.from_xml_string("""<mujoco><asset>
      <mesh name="tetra" vertex="0 0 0  0.3 0 0  0 0.2 0  0 0 0.1"/></asset><worldbody>
      <body name="a/b"><joint type="hinge"/>
        <geom type="mesh" mesh="tetra" pos="1 2 3" euler="10 20 30" group="2"/>
        <geom type="capsule" fromto="0.1 0.2 0.3 0.4 -0.1 0.5" size="0.05" group="2"/>
      </body></worldbody></mujoco>""")
    recording = Recording("toy")
    recording.shapes("/toy", model)
    recording.write(tmp_path / "a.rrd", rrb.Blueprint(rrb.Spatial3DView()))
    contents = Contents(tmp_path / "a.rrd")
    mesh = "/toy/a\\/b/visual/mesh_0"
    vertices = np.array(contents.static[mesh, "Mesh3D:vertex_positions"])
    edges = [np.linalg.norm(p - q) for i, p in enumerate(vertices) for q in vertices[:i]]
    expected = np.linalg.norm([[0.3, 0.2, 0], [0.3, 0, 0.1], [0, 0.2, 0.1]], axis=1)
    np.testing.assert_allclose(sorted(edges), sorted([0.3, 0.2, 0.1, *expected]), atol=1e-6)
    # The corner that the file puts at its origin is at the geom's pos.
    assert np.linalg.norm(vertices - [1, 2, 3], axis=1).min() < 1e-6
    capsule = "/toy/a\\/b/visual/capsules"
    start = np.array(contents.static[capsule, "Capsules3D:translations"][0])
    quat = wxyz_from_xyzw(np.array(contents.static[capsule, "Capsules3D:quaternions"][0]))
    length = contents.static[capsule, "Capsules3D:lengths"][0]
    end = start + rotate(quat, np.array([0.0, 0.0, length]))
    ends = sorted([start.tolist(), end.tolist()])
    np.testing.assert_allclose(ends, [[0.1, 0.2, 0.3], [0.4, -0.1, 0.5]], atol=1e-6)
