"""Foreign motions arrive as the same clip, in the right order, on the floor, or are refused."""

from __future__ import annotations

import pickle
import time
from pathlib import Path

import numpy as np
import pytest
from motion_clips import hop_clip, squat_clip

from asap.grounding import constant_correction, find_flights, ground
from asap.motion_formats import G1_JOINTS, G1_JOINTS_23, G1_JOINTS_BFS, read_motion
from asap.motions import import_motion, motion_from_poses
from asap.robot import Robot
from asap_deploy.errors import InputError
from asap_deploy.motion import Motion
from asap_deploy.rotation import ang_vel_w, angle_between, to_rotvec, xyzw_from_wxyz

WRISTS = [i for i, name in enumerate(G1_JOINTS) if "wrist" in name]
BFS = [G1_JOINTS.index(name) for name in G1_JOINTS_BFS]
BFS_23 = [G1_JOINTS_23.index(name) for name in G1_JOINTS_BFS if name in G1_JOINTS_23]


@pytest.fixture(scope="module")
def robot() -> Robot:
    return Robot.load("g1")


@pytest.fixture(scope="module")
def clip(robot: Robot) -> Motion:
    return motion_from_poses(robot, *squat_clip(robot), fps=50.0, source="made by a test")


def write_npz(path: Path, **arrays) -> Path:
    with path.open("wb") as stream:
        np.savez(stream, **arrays)
    return path


def write_pickle(path: Path, content) -> Path:
    path.write_bytes(pickle.dumps(content))
    return path


def write_csv(path: Path, clip: Motion, *, wxyz: bool = False, order=slice(None)) -> Path:
    quat = clip.base_quat_wxyz if wxyz else xyzw_from_wxyz(clip.base_quat_wxyz)
    rows = np.hstack([clip.base_pos_w, quat, clip.joint_pos[:, order]])
    np.savetxt(path, rows, delimiter=",", fmt="%.8f")
    return path


def bodies(clip: Motion, joints, body_order) -> dict:
    return dict(
        fps=np.array([50]),
        joint_pos=clip.joint_pos[:, joints], joint_vel=clip.joint_vel[:, joints],
        body_pos_w=clip.body_pos_w[:, body_order], body_quat_w=clip.body_quat_wxyz[:, body_order],
        body_lin_vel_w=clip.body_lin_vel_w[:, body_order],
        body_ang_vel_w=clip.body_ang_vel_w[:, body_order],
    )  # fmt: skip


def body_bfs(robot: Robot) -> list[int]:
    """The robot's bodies breadth first, walked as a queue."""
    parent = dict(zip(robot.body_names, robot.model.body_parentid[robot.body_ids], strict=True))
    names, queue = [], [0]
    while queue:
        top = queue.pop(0)
        children = [name for name in robot.body_names if parent[name] == top]
        names += children
        queue += [int(robot.model.body(name).id) for name in children]
    return [robot.body_names.index(name) for name in names]


def asap_content(robot: Robot, clip: Motion, order=slice(None)) -> dict:
    keep = [i for i in range(29) if i not in WRISTS]
    joint_pos = clip.joint_pos[:, keep]
    axes = np.array([robot.model.joint(name).axis for name in G1_JOINTS_23])
    pose = np.zeros((clip.num_frames, 27, 3), dtype=np.float32)
    pose[:, 0] = to_rotvec(clip.base_quat_wxyz)
    pose[:, 1:24] = joint_pos[:, :, None] * axes
    return {
        "root_trans_offset": clip.base_pos_w.astype(np.float32), "pose_aa": pose,
        "dof": joint_pos[:, order].astype(np.float32), "fps": 50,
        "root_rot": xyzw_from_wxyz(clip.base_quat_wxyz),
    }  # fmt: skip


def write_as(kind: str, path: Path, robot: Robot, clip: Motion) -> Path:
    """The same clip in each of the formats."""
    everything = list(range(len(robot.body_names)))
    if kind == "asap-motion":
        clip.save(path)
    elif kind == "csv":
        write_csv(path, clip)
    elif kind == "mjlab":
        write_npz(path, **bodies(clip, slice(None), everything))
    elif kind == "beyondmimic":
        write_npz(path, **bodies(clip, BFS, body_bfs(robot)))
    elif kind == "holosoma":
        rows = np.hstack([clip.base_pos_w, clip.base_quat_wxyz, clip.joint_pos])
        world = np.zeros((clip.num_frames, 1, 3))
        identity = np.tile([1.0, 0, 0, 0], (clip.num_frames, 1, 1))
        write_npz(
            path, fps=np.array([50]), joint_pos=rows, joint_names=np.array(clip.joint_names),
            body_names=np.array(["world", *clip.body_names]),
            body_pos_w=np.concatenate([world, clip.body_pos_w], axis=1),
            body_quat_w=np.concatenate([identity, clip.body_quat_wxyz], axis=1),
        )  # fmt: skip
    elif kind == "gmr-pkl":
        write_pickle(path, {
            "fps": 49.999, "root_pos": clip.base_pos_w, "dof_pos": clip.joint_pos,
            "root_rot": 0.96 * xyzw_from_wxyz(clip.base_quat_wxyz), "local_body_pos": None,
        })  # fmt: skip
    else:
        write_pickle(path, {"walk": asap_content(robot, clip)})
    return path


KINDS = ("asap-motion", "csv", "mjlab", "beyondmimic", "holosoma", "gmr-pkl", "asap-pkl")


@pytest.mark.parametrize("kind", KINDS)
def test_one_clip_written_in_every_format_is_read_as_the_same_clip(tmp_path, robot, clip, kind):
    path = write_as(kind, tmp_path / "clip.bin", robot, clip)
    got = import_motion(path, robot, fps=50.0 if kind in ("csv", "gmr-pkl") else None, ground=False)
    keep = [i for i in range(29) if kind != "asap-pkl" or i not in WRISTS]
    assert np.abs(got.joint_pos - clip.joint_pos)[:, keep].max() < 1e-6
    assert np.abs(got.body_pos_w - clip.body_pos_w)[:, :7].max() < 1e-6
    assert angle_between(got.base_quat_wxyz, clip.base_quat_wxyz).max() < 1e-6
    assert got.joint_names == robot.joint_names and got.robot == "g1"
    assert f"({kind}" in got.source or "forward kinematics" in got.source


@pytest.mark.parametrize("kind", ["csv", "gmr-pkl"])
def test_a_format_that_was_said_and_is_not_there_is_refused(tmp_path, robot, clip, kind):
    path = write_as(kind, tmp_path / "clip.bin", robot, clip)
    with pytest.raises(InputError, match=f"holds format '{kind}', not 'holosoma'"):
        import_motion(path, robot, format="holosoma")
    with pytest.raises(InputError, match="did you mean 'holosoma'"):
        import_motion(path, robot, format="holsoma")


def test_bodies_tell_every_mixture_of_joint_and_body_order(tmp_path, robot, clip):
    everything, breadth = list(range(len(robot.body_names))), body_bfs(robot)
    for joints in (list(range(29)), BFS):
        for order in (everything, breadth):
            for roll in (0, -1):
                arrays = bodies(clip, joints, order)
                arrays["body_quat_w"] = np.roll(arrays["body_quat_w"], roll, axis=-1)
                path = write_npz(tmp_path / "clip.npz", **arrays)
                got = import_motion(path, robot, ground=False)
                assert np.abs(got.joint_pos - clip.joint_pos).max() < 1e-9
                assert angle_between(got.base_quat_wxyz, clip.base_quat_wxyz).max() < 1e-6
                stored = "xyzw" if roll else "wxyz"
                assert (f"quaternions {stored}" in got.source) == (joints != BFS or bool(roll))


def test_axis_angle_poses_settle_orders_with_certainty(tmp_path, robot, clip):
    content = asap_content(robot, clip, order=BFS_23)
    content["root_rot"] = clip.base_quat_wxyz  # wxyz, where the format says xyzw
    got = import_motion(write_pickle(tmp_path / "clip.pkl", content), robot, ground=False)
    keep = [i for i in range(29) if i not in WRISTS]
    assert np.abs(got.joint_pos - clip.joint_pos)[:, keep].max() < 1e-6
    assert angle_between(got.base_quat_wxyz, clip.base_quat_wxyz).max() < 1e-6
    assert "quaternions wxyz and joints breadth first, as the file's axis-angle pose" in got.source


def test_a_csv_in_a_wrong_order_is_refused_with_what_to_say(tmp_path, robot, clip):
    path = write_csv(tmp_path / "clip.csv", clip, wxyz=True, order=BFS)
    with pytest.raises(InputError, match=r'say quat_order="wxyz", joint_order="bfs"') as refusal:
        import_motion(path, robot, fps=50)
    assert str(refusal.value).endswith("clip.csv)") and "\n" not in str(refusal.value)
    got = import_motion(path, robot, fps=50, quat_order="wxyz", joint_order="bfs", ground=False)
    assert np.abs(got.joint_pos - clip.joint_pos).max() < 1e-6
    assert "as the user said" in got.source and "warning" not in got.source
    wrong = import_motion(path, robot, fps=50, quat_order="xyzw", joint_order="dfs")
    assert "warning: read as said" in wrong.source


def test_an_order_that_nothing_can_tell_is_refused_and_not_guessed(tmp_path, robot):
    # A robot that stands still facing +x, stored xyzw, is one facing -x stored wxyz. On the spot
    # that is the same motion; if it is carried sideways it is not.
    poses = [array[:1].repeat(30, axis=0) for array in squat_clip(robot)]
    poses[1] = np.tile([1.0, 0, 0, 0], (30, 1))
    still = motion_from_poses(robot, *poses, fps=50, source="")
    assert import_motion(write_csv(tmp_path / "still.csv", still), robot).num_frames == 49
    poses[0] = poses[0] + np.linspace([0, 0, 0], [0.2, 0, 0], 30)
    carried = motion_from_poses(robot, *poses, fps=50, source="")
    path = write_csv(tmp_path / "carried.csv", carried)
    with pytest.raises(InputError, match=r"cannot tell.*say quat_order="):
        import_motion(path, robot)
    assert import_motion(path, robot, quat_order="xyzw").num_frames == 49


def test_unknown_options_name_the_valid_ones(tmp_path, robot, clip):
    path = write_csv(tmp_path / "clip.csv", clip)
    for options, text in (
        ({"quat_order": "zyxw"}, "valid: xyzw, wxyz|did you mean"),
        ({"joint_order": "isaac"}, "valid: dfs, bfs"),
        ({"ground": "floor"}, "valid: smooth, constant"),
        ({"fps": 0.0}, "between 1 and 1000"),
        ({"target_fps": 1e9}, "between 1 and 1000"),
    ):
        with pytest.raises(InputError, match=text):
            import_motion(path, robot, **options)


def test_files_with_several_clips_are_refused_until_one_is_named(tmp_path, robot, clip):
    content = asap_content(robot, clip)
    path = write_pickle(tmp_path / "many.pkl", {"walk": content, "turn": content})
    with pytest.raises(InputError, match=r"several clips; say which with clip=: 'walk', 'turn'"):
        import_motion(path, robot)
    assert "clip 'turn'" in import_motion(path, robot, clip="turn").source
    with pytest.raises(InputError, match="did you mean 'walk'"):
        import_motion(path, robot, clip="wolk")


def test_joints_that_one_side_lacks_are_filled_or_dropped_and_said(tmp_path, robot, clip):
    path = write_as("asap-pkl", tmp_path / "clip.pkl", robot, clip)
    got = import_motion(path, robot)
    assert np.allclose(got.joint_pos[:, WRISTS], robot.default_joint_pos[WRISTS])
    assert "held at the default pose: left_wrist_roll_joint" in got.source
    held = Robot.load("g1:23dof")
    path = write_csv(tmp_path / "clip.csv", clip)
    got = import_motion(path, held, fps=50)
    assert got.joint_pos.shape[1] == 23 and "dropped, not on the robot" in got.source
    moving = clip.replace(joint_pos=clip.joint_pos + 0.5 * np.isin(np.arange(29), WRISTS))
    got = import_motion(write_csv(path, moving), held, fps=50)
    assert "warning: dropped" in got.source
    with pytest.raises(InputError, match="12 joints without names"):
        import_motion(write_csv(path, clip, order=slice(0, 12)), robot)


def test_velocities_are_the_derivatives_of_the_positions(tmp_path, robot, clip):
    got = import_motion(write_csv(tmp_path / "clip.csv", clip), robot, fps=30)
    assert got.fps == 50 and got.duration_s == pytest.approx(clip.num_frames / 30, abs=0.06)
    middle = slice(1, -1)
    for stated, position in (
        (got.body_lin_vel_w, got.body_pos_w), (got.joint_vel, got.joint_pos),
    ):  # fmt: skip
        derived = (position[2:] - position[:-2]) * 25.0
        assert np.abs(stated[middle] - derived).max() < 1e-9
    assert np.abs(got.body_ang_vel_w - ang_vel_w(got.body_quat_wxyz, 50.0)).max() < 1e-9


def test_resampling_keeps_the_motion_and_stays_inside_joint_limits(tmp_path, robot, clip):
    slow = clip.replace(**{
        name: getattr(clip, name)[::2]
        for name in ("joint_pos", "joint_vel", "body_pos_w", "body_quat_wxyz", "body_lin_vel_w",
                     "body_ang_vel_w", "foot_contact")
    }, fps=25.0)  # fmt: skip
    slow.save(tmp_path / "slow.npz")
    got = import_motion(tmp_path / "slow.npz", robot, ground=False)
    assert got.num_frames == clip.num_frames
    assert np.abs(got.joint_pos - clip.joint_pos).max() < 2e-3
    assert np.abs(got.base_pos_w - clip.base_pos_w).max() < 2e-3
    assert import_motion(tmp_path / "slow.npz", robot, target_fps=None).fps == 25
    (place,) = robot.joint_ids(["left_elbow_joint"])
    limit = robot.joint_pos_upper[place]
    square = clip.joint_pos.copy()
    square[:, place] = np.where(np.arange(len(square)) // 10 % 2, limit, limit - 0.5)
    path = write_csv(tmp_path / "square.csv", clip.replace(joint_pos=square))
    assert import_motion(path, robot, fps=30).joint_pos[:, place].max() <= limit + 1e-6


def test_a_hovering_drifting_hop_is_put_on_the_floor_and_stays_ballistic(robot):
    base_pos_w, quat, joint_pos, height = hop_clip(robot, fps=50.0)
    time_s = np.arange(len(height)) / 50.0
    base_pos_w[:, 2] += 0.08 + 0.03 * time_s
    found = ground(robot, base_pos_w, quat, joint_pos, fps=50.0)
    after = found.clearance_m + found.correction_m
    assert len(found.flights) == 1
    assert abs(found.flights[0].start / 50.0 - 1.0) <= 0.06
    assert abs(found.flights[0].stop / 50.0 - 1.4) <= 0.06
    assert np.abs(after - height).max() < 5e-3  # the truth: height above the floor
    assert after.min() > -5e-3
    inside = slice(found.flights[0].start, found.flights[0].stop)
    bend = np.diff(found.correction_m, 2)[inside.start - 1 : inside.stop - 1]
    assert np.abs(bend).max() * 50.0**2 < 0.05  # change of the acceleration in flight [m/s^2]


def test_flight_is_found_however_high_the_clip_hovers_and_slow_hovering_is_none(robot):
    base_pos_w, _, _, height = hop_clip(robot, fps=30.0)
    for offset in (-0.05, 0.0, 0.3):
        flights = find_flights(base_pos_w[:, 2] + offset, height + offset, fps=30.0)
        assert len(flights) == 1
    slow = 0.1 * np.sin(np.linspace(0, np.pi, 100)) ** 2
    assert find_flights(0.8 + slow, slow, fps=50.0) == ()
    assert find_flights(np.ones(3), np.ones(3), fps=50.0) == ()


def test_constant_grounding_shifts_the_clip_as_a_whole(robot):
    base_pos_w, quat, joint_pos, _ = hop_clip(robot, fps=50.0)
    base_pos_w[:, 2] += 0.08
    found = ground(robot, base_pos_w, quat, joint_pos, fps=50.0, mode="constant")
    assert np.abs(found.correction_m + 0.08).max() < 1e-6
    sunk = constant_correction(np.array([0.0, 0.0, 0.0, -0.05]), np.ones(4, dtype=bool))
    assert sunk == pytest.approx(0.046)


def test_grounding_a_grounded_clip_changes_nothing(tmp_path, robot, clip):
    clip.save(tmp_path / "clip.npz")
    again = import_motion(tmp_path / "clip.npz", robot)
    assert np.abs(again.base_pos_w - clip.base_pos_w).max() < 1e-3
    assert again.foot_contact.all()


def test_feet_in_the_air_are_not_in_contact(robot):
    motion = motion_from_poses(robot, *hop_clip(robot, fps=50.0)[:3], fps=50.0, source="")
    assert motion.foot_contact[:48].all() and motion.foot_contact[-45:].all()
    assert not motion.foot_contact[53:68].any()


def test_a_jump_read_at_an_assumed_rate_is_warned_about(tmp_path, robot):
    poses = hop_clip(robot, fps=60.0, flight_s=0.5)[:3]
    motion = motion_from_poses(robot, *poses, fps=60.0, source="")
    path = write_csv(tmp_path / "hop.csv", motion)
    assert "warning: around frame" in import_motion(path, robot).source
    assert "warning" not in import_motion(path, robot, fps=60).source


TOY_XML = """<mujoco><compiler angle="radian"/><worldbody>
<body name="base" pos="0 0 0.5"><freejoint/>
<geom size="0.1" mass="1"/><body name="thigh"><joint name="hip" axis="0 1 0" range="-1 1"/>
<geom type="capsule" fromto="0 0 0 0 0 -0.2" size="0.03" mass="0.3"/>
<body name="foot" pos="0 0 -0.2">
<joint name="knee" axis="0 1 0" range="-1 1"/>
<geom type="capsule" fromto="0 0 0 0 0 -0.2" size="0.03" mass="0.3"/></body></body></body>
</worldbody>
</mujoco>"""
TOY_TOML = """mjcf = "robot.xml"
physics_dt = 0.005
control_dt = 0.02
integrator = "implicitfast"
[joints]
"*" = { torque_limit = 10.0, armature = 0.01, stiffness = 20.0, damping = 1.0, action_scale = 0.25 }
"""


@pytest.mark.parametrize(
    ("feet", "note"), [("", "names no feet"), ('feet = ["foot"]\n', "grounded")]
)
def test_robots_with_other_joints_and_without_two_feet_are_served(tmp_path, feet, note):
    (tmp_path / "robot.xml").write_text(TOY_XML)
    (tmp_path / "robot.toml").write_text(feet + TOY_TOML)
    toy = Robot.load(str(tmp_path))
    time_s = np.arange(100)[:, None] / 50.0
    quat_xyzw = np.tile([0, 0, np.sin(0.35), np.cos(0.35)], (100, 1))
    joints = np.hstack([0.5 * np.sin(6 * time_s), 0.3 * np.sin(4 * time_s)])
    rows = np.hstack([np.tile([0, 0, 0.5], (100, 1)), quat_xyzw, joints])
    np.savetxt(tmp_path / "clip.csv", rows, delimiter=",")
    got = import_motion(tmp_path / "clip.csv", toy, fps=50)
    assert np.abs(got.joint_pos - joints).max() < 1e-12 and got.joint_names == ("hip", "knee")
    assert note in got.source and not got.foot_contact.any()


def hostile_files(folder: Path, robot: Robot, clip: Motion) -> dict[str, Path]:
    """Files that must be refused, by what is wrong with them."""
    csv = write_csv(folder / "good.csv", clip).read_text().splitlines()
    content = asap_content(robot, clip)
    arrays = bodies(clip, slice(None), list(range(30)))
    nan = {**content, "dof": np.where(np.arange(23) == 3, np.nan, content["dof"])}
    whole = pickle.dumps(content)
    texts = {
        "header": "x,y,z,qx,qy,qz,qw," + ",".join(G1_JOINTS) + "\n" + "\n".join(csv),
        "ragged": "\n".join([*csv[:7], csv[7] + ",1.0", *csv[8:]]),
        "word": "\n".join([*csv[:3], ",".join(["1"] * 9 + ["abc"] + ["1"] * 26), *csv[4:]]),
        "nan text": "\n".join([*csv[:3], ",".join(["nan"] * 36), *csv[4:]]),
        "infinite": "\n".join([*csv[:3], ",".join(["1e999"] * 36), *csv[4:]]),
        "one row": csv[0],
        "empty": "",
        "prose": "Once upon a time, there was a robot.",
        "zero quaternion": "\n".join(",".join(["0"] * 36) for _ in range(50)),
    }
    blobs = {
        "cut pickle": whole[: len(whole) // 2],
        "cut npz": write_npz(folder / "t", **arrays).read_bytes()[:-3000],
        "noise": bytes(range(256)) * 50,
        "zip magic": b"PK\x03\x04" + bytes(100),
        "code": b"\x80\x02}X\x03\0\0\0dofcposix\nsystem\nX\x04\0\0\0trueR\x85s.",
    }
    pickles = {
        "nan": nan, "list": [1, 2], "empty dict": {}, "wrong keys": {"pose": 1},
        "short root": {**content, "root_rot": content["root_rot"][:-1]},
        "two axes": {**content, "dof": content["dof"][0]},
        "text joints": {**content, "dof": "many"},
        "zero rate": {**content, "fps": 0}, "text rate": {**content, "fps": "30"},
        "no length": {**content, "root_rot": 0.5 * content["root_rot"]},
        "huge": {**content, "root_trans_offset": 1e30 * np.ones((clip.num_frames, 3))},
        "two frames": {k: v[:2] if isinstance(v, np.ndarray) else v for k, v in content.items()},
        "no joints": {**content, "dof": content["dof"][:, :0]},
    }  # fmt: skip
    zips = {
        "no bodies": {**arrays, "body_pos_w": arrays["body_pos_w"][:, :0]},
        "names": {**arrays, "joint_names": np.array(["a"] * 9), "body_names": np.array(["b"])},
        "unknown keys": {"qpos": arrays["joint_pos"]},
    }
    files = {}
    for number, (what, data) in enumerate([*texts.items(), *blobs.items()]):
        files[what] = folder / f"file{number}.csv"
        files[what].write_bytes(data.encode() if isinstance(data, str) else data)
    for number, (what, content) in enumerate(pickles.items()):
        files[what] = write_pickle(folder / f"file{number}.pkl", content)
    for number, (what, content) in enumerate(zips.items()):
        files[what] = write_npz(folder / f"file{number}.npz", **content)
    return {**files, "absent": folder / "absent.csv", "folder": folder}


def test_files_that_are_no_motion_end_in_one_line_that_names_the_file(tmp_path, robot, clip):
    for what, path in hostile_files(tmp_path, robot, clip).items():
        begin = time.perf_counter()
        with pytest.raises(InputError) as refusal:
            import_motion(path, robot)
        assert time.perf_counter() - begin < 2.0, what
        assert "\n" not in str(refusal.value) and str(refusal.value).endswith(f"{path})"), what


def test_csv_errors_name_the_row(tmp_path, robot, clip):
    files = hostile_files(tmp_path, robot, clip)
    for what, text in (
        ("ragged", "row 8 has 37 columns, the first row has 36"),
        ("word", "row 4, column 10 is not a number: 'abc'"),
        ("header", "row 1, column 1 is not a number: 'x'; remove the header line"),
    ):
        with pytest.raises(InputError, match=text):
            read_motion(files[what])


def test_damaged_bytes_never_escape_as_other_errors(tmp_path, robot, clip):
    rng = np.random.default_rng(0)
    for kind in ("csv", "mjlab", "holosoma", "gmr-pkl", "asap-pkl", "asap-motion"):
        path = write_as(kind, tmp_path / f"{kind}.bin", robot, clip)
        whole = path.read_bytes()
        for _ in range(12):
            data = bytearray(whole)
            for place in rng.integers(0, min(len(data), 3000), 3):
                data[place] ^= 1 << int(rng.integers(8))
            path.write_bytes(bytes(data))
            try:
                read_motion(path)
            except InputError as error:
                assert "\n" not in str(error)
