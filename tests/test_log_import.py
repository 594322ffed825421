"""Foreign logs: every channel arrives in our units, order and time law, and repairs are said."""

from __future__ import annotations

import dataclasses
import gzip
import pickle
import re
import sys
import tomllib

import numpy as np
import pytest
from log_files import (
    ARRAY_MAP,
    LIST_MAP,
    MAPS,
    PLAIN_MAP,
    ROWS,
    array_content,
    csv_text,
    hdf5_bytes,
    list_csv,
    listener_arrays,
    parquet_bytes,
    recorder_clips,
    signals,
)  # fmt: skip
from test_log import full_log

from asap import log_columns
from asap.cli_logs import LogsCheck, LogsConvert
from asap.log_columns import read_columns
from asap.log_import import open_log
from asap.motion_formats import G1_JOINTS, G1_JOINTS_23
from asap.robot import Robot
from asap_deploy.errors import InputError
from asap_deploy.log import WIDTHS
from asap_deploy.rotation import (
    angle_between,
    from_rotvec,
    multiply,
    projected_gravity,
    rotate,
    rotate_inverse,
)  # fmt: skip


def opened(folder, content, map_text=None, *, name="run.csv", robot=None):
    """Write a file and its map, and open it."""
    path, map_path = folder / name, folder / "map.toml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    if map_text is not None:
        map_path.write_text(map_text)
    return open_log(path, columns=map_path if map_text else None, robot=robot)


def csv_of(columns):
    """A CSV of named columns."""
    rows = zip(*(np.asarray(v).tolist() for v in columns.values()), strict=True)
    return "\n".join([",".join(columns), *(",".join(map(str, row)) for row in rows)]) + "\n"


TWO = "[joints]\nnames = ['a', 'b']\n[time]\nfrom = 't'\n[channels]\n"


def two_joints(**more):
    return {"t": 0.02 * np.arange(6), "a": np.linspace(0, 1, 6), "b": np.linspace(1, 3, 6)} | more


def test_a_log_of_ours_comes_back_as_it_is(tmp_path):
    log = full_log()
    log.save(tmp_path / "walk.npz")
    found = open_log(tmp_path / "walk.npz")
    assert (found.name, found.path, found.notes) == ("walk", tmp_path / "walk.npz", ())
    assert set(found.log.fields) == set(log.fields)
    for name, array in log.fields.items():
        np.testing.assert_array_equal(found.log.fields[name], array)


def test_a_recording_of_asaps_listener_keeps_every_channel(tmp_path):
    arrays = listener_arrays()
    np.savez(tmp_path / "motion_3.npz", **arrays)
    log, name, _, notes = open_log(tmp_path / "motion_3.npz")
    assert name == "motion_3" and log.joint_names == G1_JOINTS and log.rate_hz == pytest.approx(50)
    for ours, theirs in {
        "joint_vel": "joint_vel", "joint_pos_target": "joint_pos_cmd", "torque_est": "tau_est",
        "imu_quat_wxyz": "IMU_quaternion", "imu_ang_vel_b": "IMU_gyro", "imu_lin_acc_b": "IMU_acc",
        "base_pos_w": "pos", "base_quat_wxyz": "quat", "base_lin_vel_w": "lin_vel",
        "base_ang_vel_b": "ang_vel",
    }.items():  # fmt: skip
        np.testing.assert_allclose(log.fields[ours], arrays[theirs], atol=1e-9, err_msg=ours)
    np.testing.assert_array_equal(log.fields["stiffness"], np.full(29, 40.0))
    assert any("base_lin_vel_w: the file's is in the world frame" in note for note in notes)
    assert any("base_ang_vel_b: the file's is in the base frame" in note for note in notes)


def test_velocities_in_the_other_frame_are_noticed_and_turned(tmp_path):
    arrays = listener_arrays()
    truth = {key: arrays[key] for key in ("lin_vel", "ang_vel")}
    arrays["lin_vel"] = rotate_inverse(arrays["quat"], truth["lin_vel"])
    arrays["ang_vel"] = rotate(arrays["quat"], truth["ang_vel"])
    np.savez(tmp_path / "a.npz", **arrays)
    log = open_log(tmp_path / "a.npz").log
    np.testing.assert_allclose(log.fields["base_lin_vel_w"], truth["lin_vel"], atol=1e-9)
    np.testing.assert_allclose(log.fields["base_ang_vel_b"], truth["ang_vel"], atol=1e-9)
    arrays["lin_vel"] = arrays["lin_vel"][::-1] * 3.0
    np.savez(tmp_path / "a.npz", **arrays)
    found = open_log(tmp_path / "a.npz")
    assert "base_lin_vel_w" not in found.log.fields
    assert any("base_lin_vel_w left out: it differs from" in note for note in found.notes)


def test_streams_that_were_silent_are_absent_and_not_zero(tmp_path):
    arrays = listener_arrays()
    for key in ("pos", "quat", "lin_vel", "ang_vel", "IMU_acc"):
        arrays[key] = np.zeros_like(arrays[key])
    arrays["tau_cmd"] = arrays["tau_cmd"] + 1.0
    np.savez(tmp_path / "a.npz", **arrays)
    found = open_log(tmp_path / "a.npz")
    assert not {name for name in found.log.fields if name.startswith("base_")}
    assert "imu_lin_acc_b" not in found.log.fields and "imu_quat_wxyz" in found.log.fields
    assert any("feed-forward torques were sent" in note for note in found.notes)


def test_in_asaps_recorder_the_action_of_the_next_row_is_in_force_from_this_row(tmp_path):
    content = recorder_clips()
    (tmp_path / "data.pkl").write_bytes(pickle.dumps(content))
    log, _, _, notes = open_log(tmp_path / "data.pkl")
    robot = Robot.load("g1:asap")
    default = np.array([robot.default_joint_pos[robot.joint_names.index(n)] for n in G1_JOINTS_23])
    assert log.joint_names == G1_JOINTS_23 and log.rate_hz == pytest.approx(50.0)
    assert len(log.time_s) == 2 * (ROWS - 1)
    clips = list(content.values())
    for k, clip in enumerate(clips):
        rows = slice(k * (ROWS - 1), (k + 1) * (ROWS - 1))
        # state[i] --action[i+1]--> state[i+1]
        np.testing.assert_allclose(log.joint_pos[rows], clip["dof"][:-1])
        np.testing.assert_allclose(log.fields["action"][rows], clip["action"][1:])
        np.testing.assert_allclose(
            log.fields["joint_pos_target"][rows], default + 0.25 * clip["action"][1:], atol=1e-6
        )
        np.testing.assert_allclose(
            log.fields["base_quat_wxyz"][rows], signals(ROWS, 23, seed=k)["quat"][:-1], atol=1e-6
        )
    # The row with terminate = 1 is the first of the next episode.
    half = ROWS // 2
    expected = np.repeat([0, 1, 2, 3], [half, half - 1, half, half - 1])
    np.testing.assert_array_equal(log.fields["episode"], expected)
    assert any(note.startswith("4 episodes in 2 clips") for note in notes)
    assert any("start metres apart" in note for note in notes)
    gravity = projected_gravity(log.fields["base_quat_wxyz"])
    np.testing.assert_allclose(gravity[:, 0], np.sin(0.4), atol=1e-6)
    turn_b = rotate_inverse(log.fields["base_quat_wxyz"], np.array([0.0, 0.0, 1.5]))
    np.testing.assert_allclose(log.fields["base_ang_vel_b"], turn_b, atol=1e-5)


def test_units_signs_and_shifts_are_applied_in_the_order_that_the_readme_says(tmp_path):
    text = (
        TWO
        + """
joint_pos = { from = "{joint}", unit = "deg", offset = [0.5, 0.0], sign = [1, -1] }
joint_vel = { from = ["b", "a"], unit = "rpm", names = ["b", "a"] }
torque_est = { from = ["a", "b"], scale = 2, times = "t" }
stiffness = { constant = 20 }
damping = { constant = [1, 2], unit = "Nms/rad" }
imu_lin_acc_b = { from = ["a", "b", "t"], unit = "g" }
phase = "a"
mode = "word"
"""
    )
    columns = two_joints()
    words = ["up"] * 3 + ["down"] * 3
    log = opened(tmp_path, csv_of({**columns, "word": words}), text).log
    a, b = columns["a"], columns["b"]
    degree = np.pi / 180.0
    expected = {
        "joint_vel": np.column_stack([a, b]) * 2 * np.pi / 60,
        "torque_est": np.column_stack([a, b]) * 2 * columns["t"][:, None],
        "stiffness": [20.0, 20.0], "damping": [1.0, 2.0],
        "imu_lin_acc_b": np.column_stack([a, b, columns["t"]]) * 9.80665, "phase": a,
    }  # fmt: skip
    np.testing.assert_allclose(log.joint_pos, np.column_stack([a * degree + 0.5, -b * degree]))
    for name, array in expected.items():
        np.testing.assert_allclose(log.fields[name], array, err_msg=name)
    assert log.fields["mode"].tolist() == words


def test_joints_are_renamed_flipped_and_counted(tmp_path):
    text = """
robot = "arm"
source = "somewhere"
licence = "MIT"
[joints]
names = ["J1", "J2"]
rename = { J1 = "shoulder", J2 = "elbow" }
flip = ["elbow"]
[time]
from = "t"
unit = "ms"
[channels]
joint_pos = "q_{i:02}"
joint_pos_target = "u{i}"
imu_ang_vel_b = { from = ["q_00", "q_01", "u0"] }
"""
    a, b = np.linspace(0, 1, 6), np.linspace(1, 3, 6)
    columns = {"t": 20.0 * np.arange(6), "q_00": a, "q_01": b, "u0": a + 1, "u1": b + 1}
    log = opened(tmp_path, csv_of(columns), text).log
    assert (log.joint_names, log.robot) == (("shoulder", "elbow"), "arm")
    assert log.source == "somewhere; licence: MIT" and log.rate_hz == pytest.approx(50.0)
    np.testing.assert_allclose(log.joint_pos, np.column_stack([a, -b]))
    np.testing.assert_allclose(log.fields["joint_pos_target"], np.column_stack([a + 1, -b - 1]))
    np.testing.assert_allclose(log.fields["imu_ang_vel_b"], np.column_stack([a, b, a + 1]))


@pytest.mark.parametrize("order", ["wxyz", "xyzw", "rpy"])
def test_attitudes_of_every_order_become_wxyz(order, tmp_path):
    rng = np.random.default_rng(3)
    roll, pitch, yaw = rng.uniform(-1.0, 1.0, (3, 6))
    x, y, z = (from_rotvec(np.outer(v, np.eye(3)[k])) for k, v in enumerate((roll, pitch, yaw)))
    truth = multiply(z, multiply(y, x))
    stored = {
        "wxyz": truth, "xyzw": np.roll(truth, -1, axis=1),
        "rpy": np.degrees(np.column_stack([roll, pitch, yaw])),
    }[order] * (0.97 if order != "rpy" else 1.0)  # fmt: skip
    names = [f"r{k}" for k in range(stored.shape[1])]
    unit = ', unit = "deg"' if order == "rpy" else ""
    quat = f'base_quat_wxyz = {{ from = {names}, order = "{order}"{unit} }}'
    text = f'{TWO}joint_pos = ["a", "b"]\n{quat}\n'
    found = opened(tmp_path, csv_of(two_joints(**dict(zip(names, stored.T, strict=True)))), text)
    assert angle_between(found.log.fields["base_quat_wxyz"], truth).max() < 1e-6
    said = "base_quat_wxyz scaled to unit length (norms 0.970 to 0.970)" in found.notes
    assert said == (order != "rpy")


def test_a_target_of_a_later_row_moves_up_but_never_across_episodes(tmp_path):
    columns = two_joints(u=np.arange(6.0), ep=[0, 0, 0, 1, 1, 1])
    columns["t"] = np.array([0.0, 0.02, 0.04, 0.0, 0.02, 0.04])
    text = TWO + 'joint_pos = ["a", "b"]\n' \
        'joint_pos_target = { from = ["u", "a"], rows_later = 1 }\nepisode = "ep"\n'  # fmt: skip
    log, _, _, notes = opened(tmp_path, csv_of(columns), text)
    np.testing.assert_array_equal(log.fields["joint_pos_target"][:, 0], [1, 2, 4, 5])
    np.testing.assert_array_equal(log.joint_pos[:, 0], columns["a"][[0, 1, 3, 4]])
    np.testing.assert_array_equal(log.fields["episode"], [0, 0, 1, 1])
    np.testing.assert_allclose(log.time_s, [0.0, 0.02, 0.04, 0.06])
    assert any("joint_pos_target +1; 2 rows fewer" in note for note in notes)
    assert any("the clock starts again in 1 episodes" in note for note in notes)


def folder_log(folder, states, commands):
    folder.mkdir()
    (folder / "state.csv.gz").write_bytes(gzip.compress(states.encode()))
    (folder / "control.csv").write_text(commands)
    return folder


def test_a_folder_of_csv_files_with_lists_is_joined_row_by_row(tmp_path):
    s = signals()
    cut = list_csv(s["joint_pos_target"], s["time_s"])[:-40]  # the last line is half written
    run = folder_log(tmp_path / "chirp", list_csv(s["joint_pos"], s["time_s"]), cut)
    (tmp_path / "map.toml").write_text(LIST_MAP)
    log, name, _, notes = open_log(run, columns=tmp_path / "map.toml")
    assert name == "chirp" and len(log.time_s) == ROWS - 1
    np.testing.assert_allclose(log.joint_pos, s["joint_pos"][:-1])
    np.testing.assert_allclose(log.fields["joint_pos_target"], s["joint_pos_target"][:-1])
    assert any("rows cut to the shortest file: 39 (state 40)" in note for note in notes)
    assert any("the last line has no line end and may be cut" in note for note in notes)


def test_joined_by_time_each_row_takes_the_latest_that_is_not_later_and_not_stale(tmp_path):
    s = signals()
    sent_s = s["time_s"] - 0.005
    late = np.delete(np.arange(ROWS), slice(10, 20))  # no command for 200 ms
    run = folder_log(tmp_path / "run", list_csv(s["joint_pos"], s["time_s"]),
                     list_csv(s["joint_pos_target"][late], sent_s[late]))  # fmt: skip
    (tmp_path / "map.toml").write_text(LIST_MAP + '[join]\nhow = "time"\nmax_age_s = 0.05\n')
    log, _, _, notes = open_log(run, columns=tmp_path / "map.toml")
    # Rows 10 and 11 still hold the command of row 9, 25 and 45 ms old.
    kept = np.delete(np.arange(ROWS), slice(12, 20))
    source = np.where((kept == 10) | (kept == 11), 9, kept)
    np.testing.assert_allclose(log.time_s, s["time_s"][kept], atol=1e-8)
    np.testing.assert_allclose(log.fields["joint_pos_target"], s["joint_pos_target"][source])
    assert any("8 of 40 rows left out: 'control' was not yet there" in note for note in notes)
    # A command with the very stamp of the state is in force.
    (run / "control.csv").write_text(list_csv(s["joint_pos_target"], s["time_s"]))
    same = open_log(run, columns=tmp_path / "map.toml")
    assert same.notes == ()
    np.testing.assert_allclose(same.log.fields["joint_pos_target"], s["joint_pos_target"])


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.csv", csv_text), ("a.csv.gz", lambda: gzip.compress(csv_text().encode())),
     ("a.tsv", lambda: csv_text(delimiter="\t"))],
)  # fmt: skip
def test_csv_files_plain_packed_or_with_tabs_give_the_same(name, content, tmp_path):
    extra = '[file]\ndelimiter = "\\t"\n' if name.endswith("tsv") else ""
    log = opened(tmp_path, content(), PLAIN_MAP + extra, name=name).log
    np.testing.assert_allclose(log.joint_pos, signals()["joint_pos"], atol=1e-9)
    np.testing.assert_allclose(log.time_s, signals()["time_s"])


def test_few_bad_or_repeated_rows_are_left_out_and_said(tmp_path):
    lines = csv_text().splitlines()
    lines[5] = lines[5].split(",")[0] + ",nan" + ",0" * 5
    lines[10] = lines[9]
    found = opened(tmp_path, "\n".join(lines) + "\n", PLAIN_MAP)
    assert len(found.log.time_s) == ROWS - 2
    np.testing.assert_allclose(
        found.log.joint_pos, np.delete(signals()["joint_pos"], [4, 9], axis=0), atol=1e-9
    )
    assert any("1 of 40 rows without usable numbers left out, the first is row 4" in n
               for n in found.notes)  # fmt: skip
    assert any("1 rows that repeat a time stamp left out" in note for note in found.notes)


def test_what_a_file_may_lack_is_left_out_and_gains_that_changed_are_no_constant(tmp_path):
    text = (
        TWO
        + """
joint_pos = ["a", "b"]
joint_vel = { from = ["va", "vb"], optional = true }
stiffness = { constant = 5, only_if_equal = ["a", "b"] }
damping = { from = ["a", "b"] }
"""
    )
    found = opened(tmp_path, csv_of(two_joints()), text)
    assert "joint_vel left out: the file has no such column" in found.notes
    assert "stiffness left out: a and b differ" in found.notes
    assert found.log.fields["damping"].shape == (6, 2)


@pytest.mark.parametrize("kind", ["npz", "pkl", "h5", "parquet"])
def test_arrays_of_every_container_give_the_same(kind, tmp_path):
    path = tmp_path / f"a.{kind}"
    if kind == "npz":
        np.savez(path, **array_content())
    elif kind == "pkl":
        path.write_bytes(pickle.dumps(array_content()))
    elif kind == "h5":
        pytest.importorskip("h5py", reason="h5py is missing: HDF5 is NOT tested")
        path.write_bytes(hdf5_bytes())
    else:
        pytest.importorskip("pyarrow", reason="pyarrow is missing: parquet is NOT tested")
        path.write_bytes(parquet_bytes())
    (tmp_path / "map.toml").write_text(ARRAY_MAP)
    log = open_log(path, columns=tmp_path / "map.toml").log
    np.testing.assert_allclose(log.joint_pos, signals()["joint_pos"])
    np.testing.assert_allclose(log.fields["joint_pos_target"], signals()["joint_pos_target"])


def test_a_lerobot_file_of_two_episodes_becomes_one_log(tmp_path):
    pytest.importorskip("pyarrow", reason="pyarrow is missing: parquet is NOT tested")
    s = signals(ROWS, 6)
    content = {
        "observation.state": np.degrees(s["joint_pos"]).astype(np.float32),
        "action": np.degrees(s["joint_pos_target"]).astype(np.float32),
        "timestamp": np.tile(0.02 * np.arange(ROWS // 2), 2),
        "episode_index": np.repeat([3, 4], ROWS // 2),
    }
    (tmp_path / "episodes.parquet").write_bytes(parquet_bytes(content))
    log = open_log(tmp_path / "episodes.parquet", columns=MAPS / "lerobot.toml").log
    np.testing.assert_allclose(log.joint_pos, s["joint_pos"], atol=1e-6)
    np.testing.assert_array_equal(log.fields["episode"], content["episode_index"])
    np.testing.assert_allclose(np.diff(log.time_s), 0.02)


def test_the_joints_come_in_the_robots_order_or_are_refused(tmp_path):
    robot = Robot.load("g1:asap")
    backwards = list(robot.joint_names[::-1])[:5]
    s = signals(ROWS, 5)
    arrays = {"t": s["time_s"], "q": s["joint_pos"], "u": s["joint_pos_target"],
              "k": np.arange(5.0), "a": s["joint_vel"]}  # fmt: skip
    np.savez(tmp_path / "a.npz", **arrays)
    text = ARRAY_MAP.replace('["hip", "knee", "ankle"]', str(backwards)) + \
        'stiffness = "k"\naction = "a"\n'  # fmt: skip
    (tmp_path / "map.toml").write_text(text)
    log, _, _, notes = open_log(tmp_path / "a.npz", columns=tmp_path / "map.toml", robot=robot)
    assert log.joint_names == tuple(backwards[::-1])
    np.testing.assert_array_equal(log.joint_pos, s["joint_pos"][:, ::-1])
    np.testing.assert_array_equal(log.fields["joint_pos_target"], s["joint_pos_target"][:, ::-1])
    np.testing.assert_array_equal(log.fields["action"], s["joint_vel"][:, ::-1])
    np.testing.assert_array_equal(log.fields["stiffness"], [4, 3, 2, 1, 0])
    assert any(f"the log has 5 of the robot's {len(robot.joint_names)} joints" in n for n in notes)
    assert not any("was recorded on" in note for note in notes)
    map_path = tmp_path / "map.toml"
    map_path.write_text(f'robot = "h1"\n{text}')
    notes = open_log(tmp_path / "a.npz", columns=map_path, robot=robot).notes
    assert "the log was recorded on 'h1', not on 'g1:asap'" in notes
    (tmp_path / "map.toml").write_text(text.replace("left_hip_pitch_joint", "left_hip_pitch") \
        .replace(backwards[0], "elbow"))  # fmt: skip
    with pytest.raises(InputError, match="'elbow'.* rename = "):
        open_log(tmp_path / "a.npz", columns=tmp_path / "map.toml", robot=robot)


def test_a_missing_reader_is_named_with_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(InputError, match=r"needs 'h5py'.*pip install 'asap-toolkit\[logs\]'"):
        opened(tmp_path, b"\x89HDF\r\n\x1a\n" + bytes(100), ARRAY_MAP, name="a.h5")


def test_every_map_that_ships_is_sound_and_the_readme_explains_every_key_and_unit():
    maps = sorted(MAPS.glob("*.toml"))
    assert len(maps) == 7
    readme = (MAPS / "README.md").read_text()
    for path in maps:
        assert read_columns(path).channels and f"`{path.name}`" in readme
    for key in (*log_columns._CHANNEL_KEYS, *log_columns._TOP_KEYS, *log_columns.CHANNELS):
        assert re.search(rf"`\[?{key}\b", readme), key
    assert set(log_columns.CHANNELS) == {"joint_pos", *WIDTHS, *log_columns.GAINS}
    for units in log_columns._UNITS.values():
        for unit in units:
            assert unit in readme, unit
    example = re.search(r"```toml\n(.*?)```", readme, re.DOTALL)
    assert example is not None and log_columns._map_of(tomllib.loads(example[1]))


def test_a_foreign_log_is_saved_and_read_as_one_of_ours(tmp_path):
    np.savez(tmp_path / "a.npz", **listener_arrays())
    log = open_log(tmp_path / "a.npz").log
    log.save(tmp_path / "ours.npz")
    again = open_log(tmp_path / "ours.npz").log
    assert set(again.fields) == set(log.fields) and dataclasses.replace(again).robot == "g1"


def test_one_log_is_written_to_an_npz_or_into_a_folder_and_nowhere_else(tmp_path):
    np.savez(tmp_path / "a.npz", **listener_arrays())

    def written(out):
        return LogsConvert(logs=(tmp_path / "a.npz",), out=out).run(lambda part: None).result

    assert written(tmp_path / "b.npz") == {"written": [tmp_path / "b.npz"]}
    assert written(tmp_path / "folder") == {"written": [tmp_path / "folder" / "a.npz"]}
    with pytest.raises(InputError, match="--out ends in '.csv', expected .npz, or a folder"):
        written(tmp_path / "c.csv")
    assert not (tmp_path / "c.csv").exists()


def test_a_log_of_another_robot_says_whose_it_is_and_what_can_be_done_with_it(tmp_path):
    path = tmp_path / "a.npz"
    foreign = dataclasses.replace(
        full_log(), robot="so101", joint_names=tuple(f"servo_{k}" for k in range(3))
    )
    foreign.save(path)
    with pytest.raises(InputError) as caught:
        open_log(path, robot=Robot.load("g1"))
    text = str(caught.value)
    assert "3 joints of the log are not in robot 'g1', the first is 'servo_0'" in text
    assert "the log is of robot 'so101'; give --robot the folder" in text
    assert "asap logs check --robot none" in text
    (checked,) = LogsCheck(logs=(path,), robot="none").run(lambda fraction: None).result["logs"]
    assert checked["name"] == "a" and checked["rate_hz"] == pytest.approx(50.0)
