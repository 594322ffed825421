"""States and commands as fixed bytes: in shared memory, on the twin's socket, in recordings.

Fields stand by falling size of their numbers, so that the bytes are also valid CDR, the encoding
of ROS 2: a recording opens in its tools. Measurements are float32, as robots send them.

    layout = Frames(29)
    data = layout.pack_state(state)
    layout.unpack_state(data) == state
"""

from __future__ import annotations

import struct
from typing import Any, Dict, List, Tuple

import numpy as np

from asap_deploy.link import RobotCommand, RobotState

CDR_HEADER = b"\x00\x01\x00\x00"
"""Little-endian CDR."""

_ROS = {"f8": "float64", "f4": "float32", "u4": "uint32", "u1": "uint8"}
_HEAD, _TAIL = struct.Struct("<dI"), struct.Struct("<IBBB")
"""Of a state: what stands before the first float and after the last."""

Fields = List[Tuple[str, str, int]]


class Frames:
    """Layouts for a robot of J joints."""

    def __init__(self, joints: int) -> None:
        """Lay out the records."""
        self.joints = joints
        self.state = _dtype(_state_fields(joints))
        self.command = _dtype(_command_fields(joints))

    def pack_state(self, state: RobotState) -> bytes:
        """A state as bytes."""
        # Five hundred times a second: the floats are joined once, not set field by field.
        with np.errstate(over="ignore"):
            floats = np.concatenate([
                state.joint_pos, state.joint_vel, state.torque_est, state.imu_quat_wxyz,
                state.imu_ang_vel_b, state.imu_lin_acc_b, np.ravel(state.motor_temperature),
            ]).astype("<f4")  # fmt: skip
            tail = np.concatenate([[state.battery_percent], state.remote_sticks]).astype("<f4")
        data = b"".join((
            _HEAD.pack(state.arrival_s, state.tick), floats.tobytes(),
            np.asarray(state.motor_fault).astype("<u4").tobytes(), tail.tobytes(),
            _TAIL.pack(state.remote_keys, state.mode_machine, state.remote_connected,
                       state.checksum_ok),
        ))  # fmt: skip
        assert len(data) == self.state.itemsize, f"a state of {self.joints} joints"
        return data

    def unpack_state(self, data: bytes) -> RobotState:
        """A state from bytes of the right length."""
        row = np.frombuffer(data, self.state, count=1)[0]
        values: Dict[str, Any] = {name: row[name] for name in self.state.names or ()}
        for name in ("tick", "mode_machine", "remote_keys"):
            values[name] = int(values[name])
        for name in ("remote_connected", "checksum_ok"):
            values[name] = bool(values[name])
        for name in ("arrival_s", "battery_percent"):
            values[name] = float(values[name])
        for name in ("joint_pos", "joint_vel", "torque_est", "imu_quat_wxyz", "imu_ang_vel_b",
                     "imu_lin_acc_b", "motor_temperature", "remote_sticks"):  # fmt: skip
            values[name] = values[name].astype(np.float64)
        values["motor_temperature"] = values["motor_temperature"].reshape(self.joints, 2)
        return RobotState(**values)

    def pack_command(self, command: RobotCommand, **about: float) -> bytes:
        """A command as bytes, with what a recording says about it."""
        row = np.zeros((), self.command)
        for name, value in command._asdict().items():
            row[name] = value
        for name, value in about.items():
            row[name] = value
        return row.tobytes()

    def unpack_command(self, data: bytes) -> RobotCommand:
        """A command from bytes of the right length."""
        row = np.frombuffer(data, self.command, count=1)[0]
        names = ("joint_pos_target", "joint_vel_target", "stiffness", "damping", "torque")
        arrays = {name: row[name].astype(np.float64) for name in names}
        return RobotCommand(
            mode_machine=int(row["mode_machine"]), motor_mode=int(row["motor_mode"]), **arrays
        )


def action_dtype(actions: int) -> np.dtype:
    """One control step of the policy, as it is recorded."""
    return _dtype([
        ("time_s", "f8", 1), ("clip_time_s", "f8", 1), ("state_tick", "u4", 1),
        ("sequence", "u4", 1), ("phase", "f4", 1), ("age_s", "f4", 1), ("wake_s", "f4", 1),
        ("inference_s", "f4", 1), ("action", "f4", actions), ("mode", "u1", 1),
        ("clip", "u1", 1), ("refused", "u1", 1),
    ])  # fmt: skip


def ros_definition(dtype: np.dtype) -> str:
    """The record as a ROS 2 message definition."""
    lines = []
    for name in dtype.names or ():
        kind = dtype[name]
        count = kind.shape[0] if kind.shape else 0
        lines.append(f"{_ROS[kind.base.str[1:]]}{f'[{count}]' if count else ''} {name}")
    return "\n".join(lines) + "\n"


def _state_fields(joints: int) -> Fields:
    return [
        ("arrival_s", "f8", 1), ("tick", "u4", 1), ("joint_pos", "f4", joints),
        ("joint_vel", "f4", joints), ("torque_est", "f4", joints), ("imu_quat_wxyz", "f4", 4),
        ("imu_ang_vel_b", "f4", 3), ("imu_lin_acc_b", "f4", 3),
        ("motor_temperature", "f4", 2 * joints), ("motor_fault", "u4", joints),
        ("battery_percent", "f4", 1), ("remote_sticks", "f4", 4), ("remote_keys", "u4", 1),
        ("mode_machine", "u1", 1), ("remote_connected", "u1", 1), ("checksum_ok", "u1", 1),
    ]  # fmt: skip


def _command_fields(joints: int) -> Fields:
    return [
        ("written_s", "f8", 1), ("sequence", "u4", 1), ("joint_pos_target", "f4", joints),
        ("joint_vel_target", "f4", joints), ("stiffness", "f4", joints),
        ("damping", "f4", joints), ("torque", "f4", joints), ("motor_mode", "u1", 1),
        ("mode_machine", "u1", 1), ("damped", "u1", 1), ("limited", "u1", 1),
    ]  # fmt: skip


def _dtype(fields: Fields) -> np.dtype:
    """Packed, little-endian."""
    return np.dtype([(n, f"<{k}", (c,)) if c > 1 else (n, f"<{k}") for n, k, c in fields])
