"""Writes the log files of others, small and with known content, for the tests of the import."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path

import numpy as np

from asap.log_columns import read_columns
from asap.motion_formats import G1_JOINTS, G1_JOINTS_23
from asap_deploy.rotation import from_rotvec, from_yaw, multiply, rotate, xyzw_from_wxyz

ROOT = Path(__file__).resolve().parents[1]
MAPS = ROOT / "real_logs" / "columns"
JOINTS = ("hip", "knee", "ankle")
ROWS = 40


def signals(rows: int = ROWS, joints: int = 3, seed: int = 0) -> dict[str, np.ndarray]:
    """A moving robot: smooth joints, targets ahead of them, a base that walks and turns."""
    rng = np.random.default_rng(seed)
    time_s = 100.0 + 0.02 * np.arange(rows)
    phase = rng.uniform(0.0, 6.0, joints) + 5.0 * time_s[:, None]
    speed_b = np.array([0.6, 0.1, 0.0])
    turn = 1.5 * (time_s - time_s[0])
    quat = multiply(from_yaw(turn), from_rotvec(np.array([0.0, 0.4, 0.0])))
    lin_vel_w = rotate(from_yaw(turn), speed_b)
    return {
        "time_s": time_s,
        "joint_pos": 0.4 * np.sin(phase),
        "joint_vel": 2.0 * np.cos(phase),
        "joint_pos_target": 0.4 * np.sin(phase + 0.1),
        "torque": rng.normal(size=(rows, joints)),
        "quat": quat,
        "pos": np.array([0.0, 0.0, 0.8]) + np.cumsum(lin_vel_w, axis=0) * 0.02,
        "lin_vel_w": lin_vel_w,
        "ang_vel_w": np.tile([0.0, 0.0, 1.5], (rows, 1)),
        "acc": np.tile([0.0, 0.0, 9.81], (rows, 1)),
    }


def listener_arrays(rows: int = ROWS) -> dict[str, np.ndarray]:
    """What ASAP's listener writes; lin_vel in the world's frame, ang_vel in the base's."""
    s = signals(rows, 29)
    ang_vel_b = rotate(s["quat"] * [1.0, -1.0, -1.0, -1.0], s["ang_vel_w"])
    zero = np.zeros((rows, 29))
    return {
        "time": s["time_s"], "joint_pos": s["joint_pos"], "joint_vel": s["joint_vel"],
        "tau_est": s["torque"], "IMU_quaternion": s["quat"], "IMU_gyro": ang_vel_b,
        "IMU_acc": s["acc"], "joint_pos_cmd": s["joint_pos_target"], "joint_vel_cmd": zero,
        "kp": zero + 40.0, "kd": zero + 2.5, "tau_cmd": zero, "pos": s["pos"], "quat": s["quat"],
        "lin_vel": s["lin_vel_w"], "ang_vel": ang_vel_b,
    }  # fmt: skip


def recorder_clips(rows: int = ROWS, clips: int = 2) -> dict[str, dict[str, object]]:
    """What ASAP's recorder dumps: each clip starts again in its middle."""
    content = {}
    for k in range(clips):
        s = signals(rows, 23, seed=k)
        rng = np.random.default_rng(50 + k)
        terminate = np.zeros(rows)
        terminate[rows // 2] = 1.0
        content[f"motion_{k}"] = {
            "root_trans_offset": (s["pos"] + [5.0 * k, 0.0, 0.0]).astype(np.float32),
            "root_rot": xyzw_from_wxyz(s["quat"]).astype(np.float32),
            "dof": s["joint_pos"].astype(np.float32),
            "pose_aa": np.zeros((rows, 27, 3), np.float32),
            "action": rng.normal(size=(rows, 23)).astype(np.float32),
            "actor_obs": np.zeros((rows, 380), np.float32),
            "terminate": terminate,
            "root_lin_vel": s["lin_vel_w"].astype(np.float32),
            "root_ang_vel": s["ang_vel_w"].astype(np.float32),
            "dof_vel": s["joint_vel"].astype(np.float32),
            "motion_times": 0.02 * np.arange(rows),
            "fps": 50,
        }
    assert len(G1_JOINTS_23) == 23 and len(G1_JOINTS) == 29
    return content


def recorder_bytes() -> bytes:
    return pickle.dumps(recorder_clips(), protocol=2)


PLAIN_MAP = """
[joints]
names = ["hip", "knee", "ankle"]
[time]
from = "t"
[channels]
joint_pos = "{joint}_pos"
joint_pos_target = "{joint}_cmd"
"""


def csv_text(rows: int = ROWS, *, delimiter: str = ",") -> str:
    """The log of PLAIN_MAP."""
    s = signals(rows)
    head = ["t", *(f"{j}_pos" for j in JOINTS), *(f"{j}_cmd" for j in JOINTS)]
    table = np.column_stack([s["time_s"], s["joint_pos"], s["joint_pos_target"]])
    lines = [delimiter.join(head), *(delimiter.join(f"{v:.9f}" for v in row) for row in table)]
    return "\n".join(lines) + "\n"


LIST_MAP = """
[joints]
names = ["hip", "knee", "ankle"]
[time]
table = "state"
from = "stamp"
unit = "us"
[channels]
joint_pos = { table = "state", from = "positions" }
joint_pos_target = { table = "control", from = "positions" }
"""


def list_csv(values: np.ndarray, time_s: np.ndarray) -> str:
    """A CSV whose cells hold lists."""
    rows = [f'{t * 1e6:.3f},"{json.dumps(v.tolist())}"'
            for t, v in zip(time_s, values, strict=True)]  # fmt: skip
    return "\n".join(["stamp,positions", *rows]) + "\n"


ARRAY_MAP = """
[joints]
names = ["hip", "knee", "ankle"]
[time]
from = "t"
[channels]
joint_pos = "q"
joint_pos_target = "u"
"""


def array_content() -> dict[str, np.ndarray]:
    """The log of ARRAY_MAP."""
    s = signals()
    return {"t": s["time_s"], "q": s["joint_pos"], "u": s["joint_pos_target"]}


def hdf5_bytes(content: dict[str, np.ndarray] | None = None) -> bytes:
    import h5py

    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        for name, array in (array_content() if content is None else content).items():
            file.create_dataset(name, data=array, compression="gzip" if array.ndim else None)
    return stream.getvalue()


def parquet_bytes(content: dict[str, np.ndarray] | None = None) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        name: pa.array(array.tolist())
        for name, array in (array_content() if content is None else content).items()
    }
    stream = io.BytesIO()
    pq.write_table(pa.table(columns), stream)
    return stream.getvalue()


JOINT_STATE = """std_msgs/Header header
string[] name
float64[] position
float64[] velocity
float64[] effort
================================================================================
MSG: std_msgs/Header
builtin_interfaces/Time stamp
string frame_id
"""

STATE_MAP = """
[joints]
from = "name"
table = "/joint_states"
[time]
table = "/joint_states"
from = "header.stamp"
[channels]
joint_pos = { table = "/joint_states", from = "position" }
joint_vel = { table = "/joint_states", from = "velocity" }
"""


def joint_state(s: dict[str, np.ndarray], k: int) -> dict[str, object]:
    t = float(s["time_s"][k])
    stamp = {"sec": int(t), "nanosec": round((t - int(t)) * 1e9)}
    return {
        "header": {"stamp": stamp, "frame_id": ""}, "name": list(JOINTS),
        "position": s["joint_pos"][k].tolist(), "velocity": s["joint_vel"][k].tolist(),
        "effort": [],
    }  # fmt: skip


def mcap_bytes(*, compression: str = "ZSTD") -> bytes:
    from mcap.writer import CompressionType
    from mcap_ros2.writer import Writer

    s, stream = signals(), io.BytesIO()
    writer = Writer(stream, chunk_size=2000, compression=CompressionType[compression])
    schema = writer.register_msgdef("sensor_msgs/msg/JointState", JOINT_STATE)
    for k in range(ROWS):
        stamp = int(s["time_s"][k] * 1e9)
        writer.write_message("/joint_states", schema, joint_state(s, k), stamp, stamp)
    writer.finish()
    return stream.getvalue()


def unitree_store() -> object:
    """Message types of a G1, from the definitions in the column map that ships."""
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    store = get_typestore(Stores.ROS2_HUMBLE)
    for name, text in read_columns(MAPS / "unitree_hg.toml").messages.items():
        store.register(get_types_from_msg(text, name))
    return store


def unitree_messages(k: int, s: dict[str, np.ndarray], store) -> tuple[object, object]:
    """State and command of row k: 29 motors in use, 35 in the message."""
    kinds = {name.rpartition("/")[2]: store.types[name]
             for name in store.types if name.startswith("unitree_hg")}  # fmt: skip
    u4, f4 = (lambda n: np.zeros(n, np.uint32)), (lambda v: np.array(v, np.float32))
    pad = np.zeros(6)
    q, dq, cmd = (np.append(s[n][k], pad) for n in ("joint_pos", "joint_vel", "joint_pos_target"))
    imu = kinds["IMUState"](f4(s["quat"][k]), f4([0, 0, 1.5]), f4([0, 0, 9.81]), f4([0, 0, 0]), 30)
    motors = [kinds["MotorState"](1, q[j], dq[j], 0.0, 0.5 * j, np.array([30, 40], np.int16), 48.0,
                                  u4(2), 0, u4(4)) for j in range(35)]  # fmt: skip
    state = kinds["LowState"](u4(2), 0, 5, k, imu, motors, np.zeros(40, np.uint8), u4(4), 0)
    command = kinds["LowCmd"](0, 5, [kinds["MotorCmd"](1, cmd[j], 0.0, 0.0, 40.0, 2.5, 0)
                                     for j in range(35)], u4(4), 0)  # fmt: skip
    return state, command


def write_bag(folder: Path, *, defines: bool = True) -> Path:
    """A rosbag2 recording of a G1: 40 states every 20 ms, each 5 ms after its command.

    Args:
        folder: To be made.
        defines: Whether the recording holds the definitions of its messages.
    """
    import sqlite3

    from rosbags.rosbag2 import Writer

    s, store = signals(ROWS, 29), unitree_store()
    with Writer(folder, version=9) as bag:
        state = bag.add_connection("/lowstate", "unitree_hg/msg/LowState", typestore=store)
        command = bag.add_connection("/lowcmd", "unitree_hg/msg/LowCmd", typestore=store)
        for k in range(ROWS):
            stamp = round(float(s["time_s"][k]) * 1e9)
            low_state, low_cmd = unitree_messages(k, s, store)
            bag.write(command, stamp - 5_000_000,
                      store.serialize_cdr(low_cmd, "unitree_hg/msg/LowCmd"))  # fmt: skip
            bag.write(state, stamp, store.serialize_cdr(low_state, "unitree_hg/msg/LowState"))
    if not defines:
        with sqlite3.connect(next(folder.glob("*.db3"))) as connection:
            connection.execute("DROP TABLE message_definitions")
    return folder
