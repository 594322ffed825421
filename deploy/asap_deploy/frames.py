"""States and commands as fixed bytes: in shared memory, on the twin's socket, in recordings.

Fields stand by falling size of their numbers, so that the bytes are also valid CDR, the encoding
of ROS 2: a recording opens in its tools. Measurements are float32, as robots send them.

    layout = Frames(29)
    data = layout.pack_state(state)
    layout.unpack_state(data) == state
"""

from __future__ import annotations

import struct
from typing import List, Tuple

import numpy as np

from asap_deploy.link import RobotCommand, RobotState

CDR_HEADER = b"\x00\x01\x00\x00"
"""Little-endian CDR."""

_ROS = {"f8": "float64", "f4": "float32", "u4": "uint32", "u1": "uint8"}
_HEAD, _TAIL = struct.Struct("<dI"), struct.Struct("<IBBB")
"""What stands before the first float of a state or command, and after the last of a state."""

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
            tail = np.array((state.battery_percent, *state.remote_sticks.tolist()), "<f4")
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
        joints, size = self.joints, self.state.itemsize
        if len(data) < size:
            raise ValueError(f"{len(data)} bytes are no state of {size}")
        arrival_s, tick = _HEAD.unpack_from(data)
        # All floats are turned at once; the parts are views.
        count = 5 * joints + 10
        floats = np.frombuffer(data, "<f4", count, _HEAD.size).astype(np.float64)
        base, after = 3 * joints, _HEAD.size + 4 * count
        fault = np.frombuffer(data, "<u4", joints, after)
        rest = np.frombuffer(data, "<f4", 5, after + 4 * joints).astype(np.float64)
        keys, machine, remote, sound = _TAIL.unpack_from(data, size - _TAIL.size)
        return RobotState(
            tick, arrival_s, bool(sound), machine, floats[:joints], floats[joints : 2 * joints],
            floats[2 * joints : base], floats[base : base + 4], floats[base + 4 : base + 7],
            floats[base + 7 : base + 10], floats[base + 10 :].reshape(joints, 2), fault,
            float(rest[0]), bool(remote), keys, rest[1:],
        )  # fmt: skip

    def pack_command(self, command: RobotCommand, *, written_s: float = 0.0, sequence: int = 0,
                     damped: bool = False, limited: bool = False) -> bytes:  # fmt: skip
        """A command as bytes, with what a recording says about it."""
        with np.errstate(over="ignore"):
            floats = np.concatenate(command[:5]).astype("<f4")
        data = _HEAD.pack(written_s, sequence) + floats.tobytes()
        data += bytes((command.motor_mode, command.mode_machine, damped, limited))
        assert len(data) == self.command.itemsize, f"a command of {self.joints} joints"
        return data

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
