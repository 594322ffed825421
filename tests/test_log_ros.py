"""Recordings of ROS 2: what was written comes back, at once or message by message."""

from __future__ import annotations

import sqlite3

import numpy as np
import pytest
from log_files import JOINTS, MAPS, ROWS, STATE_MAP, mcap_bytes, signals, write_bag

from asap.log_cdr import fixed_layout
from asap.log_import import open_log
from asap.motion_formats import G1_JOINTS
from asap.robot import Robot


def opened(folder, content, map_text, *, name):
    """Write a file and its map, and open it."""
    (folder / name).write_bytes(content)
    (folder / "map.toml").write_text(map_text)
    return open_log(folder / name, columns=folder / "map.toml")


@pytest.mark.parametrize("compression", ["NONE", "ZSTD", "LZ4"])
def test_joint_states_in_mcap_are_read_also_when_the_recording_was_cut_off(compression, tmp_path):
    pytest.importorskip("mcap_ros2", reason="mcap-ros2-support is missing: MCAP is NOT tested")
    data = mcap_bytes(compression=compression)
    log = opened(tmp_path, data, STATE_MAP, name="run.mcap").log
    assert log.joint_names == JOINTS and len(log.time_s) == ROWS
    np.testing.assert_allclose(log.joint_pos, signals()["joint_pos"])
    np.testing.assert_allclose(log.time_s, signals()["time_s"])
    cut = opened(tmp_path, data[: len(data) // 2], STATE_MAP, name="cut.mcap")
    rows = len(cut.log.time_s)
    assert 5 < rows < ROWS
    np.testing.assert_allclose(cut.log.joint_pos, signals()["joint_pos"][:rows])
    assert any("the recording was not closed" in note for note in cut.notes)


@pytest.mark.parametrize("defines", [True, False])
def test_a_bag_of_a_g1_is_read_with_the_map_that_ships(defines, tmp_path):
    pytest.importorskip("rosbags", reason="rosbags is missing: rosbag2 is NOT tested")
    pytest.importorskip("mcap_ros2", reason="mcap-ros2-support is missing: rosbag2 is NOT tested")
    bag = write_bag(tmp_path / "bag", defines=defines)
    before = sorted(path.name for path in bag.iterdir())
    log, name, _, _ = open_log(bag, columns=MAPS / "unitree_hg.toml", robot=Robot.load("g1"))
    s = signals(ROWS, 29)
    assert name == "bag" and log.joint_names == G1_JOINTS
    np.testing.assert_allclose(log.time_s, s["time_s"])
    np.testing.assert_allclose(log.joint_pos, s["joint_pos"], atol=1e-6)
    np.testing.assert_allclose(log.fields["joint_pos_target"], s["joint_pos_target"], atol=1e-6)
    np.testing.assert_allclose(log.fields["torque_est"][3], 0.5 * np.arange(29))
    np.testing.assert_allclose(log.fields["imu_quat_wxyz"], s["quat"], atol=1e-6)
    np.testing.assert_allclose(log.fields["stiffness"], np.full(29, 40.0))
    assert sorted(path.name for path in bag.iterdir()) == before


def test_messages_of_constant_size_read_at_once_equal_those_decoded_alone(tmp_path, monkeypatch):
    pytest.importorskip("rosbags", reason="rosbags is missing: rosbag2 is NOT tested")
    log_ros = pytest.importorskip("asap.log_ros")
    bag = next(write_bag(tmp_path / "bag").glob("*.db3"))
    fields = {
        "/lowstate": ["version", "tick", "imu_state.quaternion", "imu_state.temperature",
                      "motor_state.mode", "motor_state.q", "motor_state.tau_est",
                      "motor_state.temperature", "motor_state.reserve", "crc"],
        "/lowcmd": ["mode_machine", "motor_cmd.mode", "motor_cmd.q", "motor_cmd.kd", "crc"],
    }  # fmt: skip
    at_once = log_ros.read_topics(bag, "rosbag2", {}, [])
    quick = {(t, f): at_once[t][1](f) for t, names in fields.items() for f in names}
    monkeypatch.setattr(log_ros, "fixed_layout", lambda *_: None)
    one_by_one = log_ros.read_topics(bag, "rosbag2", {}, [])
    for (topic, field), array in quick.items():
        np.testing.assert_array_equal(array, one_by_one[topic][1](field), err_msg=field)
    assert quick["/lowstate", "motor_state.temperature"].shape == (ROWS, 35, 2)
    for text in ("string a", "float64[] a", "float64[<=3] a", "A[3] a", "uint8[999999] a", "", "?"):
        assert fixed_layout("p/msg/T", text) is None, text
    layout = fixed_layout("p/msg/T", "uint8 X=3\nbool a # yes\nfloat64 b 1.5\nuint16[3] c")
    assert layout is not None and layout.size == 22 and layout.leaves["b"].places == 8
    assert layout.leaves["c"].places.tolist() == [16, 18, 20]


@pytest.mark.parametrize("defines", [True, False])
def test_ros_2s_own_messages_need_no_definition(defines, tmp_path):
    rosbag2 = pytest.importorskip("rosbags.rosbag2", reason="rosbags is missing: NOT tested")
    pytest.importorskip("mcap_ros2", reason="mcap-ros2-support is missing: rosbag2 is NOT tested")
    from rosbags.typesys import Stores, get_typestore

    s, store, name = signals(), get_typestore(Stores.ROS2_HUMBLE), "sensor_msgs/msg/JointState"
    Stamp, Header, State = (store.types[t] for t in (
        "builtin_interfaces/msg/Time", "std_msgs/msg/Header", name))  # fmt: skip
    with rosbag2.Writer(tmp_path / "bag", version=8) as bag:
        topic = bag.add_connection("/joint_states", name, typestore=store)
        for k, t in enumerate(s["time_s"]):
            nanosec = round((t - int(t)) * 1e9)
            message = State(Header(Stamp(int(t), nanosec), ""), list(JOINTS), s["joint_pos"][k],
                            s["joint_vel"][k], np.zeros(0))  # fmt: skip
            bag.write(topic, int(t * 1e9), store.serialize_cdr(message, name))
    if not defines:
        with sqlite3.connect(next((tmp_path / "bag").glob("*.db3"))) as connection:
            connection.execute("DROP TABLE IF EXISTS message_definitions")
    (tmp_path / "map.toml").write_text(STATE_MAP)
    log = open_log(tmp_path / "bag", columns=tmp_path / "map.toml").log
    np.testing.assert_array_equal(log.joint_pos, s["joint_pos"])
    np.testing.assert_allclose(log.time_s, s["time_s"], atol=1e-9)
