"""Messages of a Unitree G1, ``unitree_hg`` LowCmd and LowState, as numpy records and as bytes.

Two byte layouts exist for each: the C structure, which the checksum covers, and CDR, which is on
the wire. They have the same fields in the same order and differ in padding alone. All functions
take any number of messages at once; no compiled helper is needed.

    wire = encode(low_cmd_of(command))               # bytes for the network, with checksum
    row, sound = decode(wire, LOW_STATE)
    state = robot_state_of(row, arrival_s=now, sound=sound)
"""

from __future__ import annotations

import zlib
from typing import Tuple

import numpy as np

from asap_deploy.link import MOTOR_ON, RobotCommand, RobotState

SLOTS = 35
"""Motors that a message has room for."""

G1_JOINTS = tuple(
    [f"{side}_{joint}_joint" for side in ("left", "right")
     for joint in ("hip_pitch", "hip_roll", "hip_yaw", "knee", "ankle_pitch", "ankle_roll")]
    + [f"waist_{axis}_joint" for axis in ("yaw", "roll", "pitch")]
    + [f"{side}_{joint}_joint" for side in ("left", "right")
       for joint in ("shoulder_pitch", "shoulder_roll", "shoulder_yaw", "elbow", "wrist_roll",
                     "wrist_pitch", "wrist_yaw")]
)  # fmt: skip
"""The joint in each slot of a G1 with 29 joints; the other slots are empty."""

CDR_HEADER = b"\x00\x01\x00\x00"
"""Little-endian CDR, version 1."""

_MOTOR_CMD = np.dtype({
    "names": ["mode", "q", "dq", "tau", "kp", "kd", "reserve"],
    "formats": ["u1", "<f4", "<f4", "<f4", "<f4", "<f4", "<u4"],
    "offsets": [0, 4, 8, 12, 16, 20, 24], "itemsize": 28,
})  # fmt: skip
LOW_CMD = np.dtype({
    "names": ["mode_pr", "mode_machine", "motor", "reserve", "crc"],
    "formats": ["u1", "u1", (_MOTOR_CMD, (SLOTS,)), ("<u4", (4,)), "<u4"],
    "offsets": [0, 1, 4, 984, 1000], "itemsize": 1004,
})  # fmt: skip
"""A command in the C layout."""

_MOTOR_STATE = np.dtype({
    "names": ["mode", "q", "dq", "ddq", "tau_est", "temperature", "vol", "sensor", "motorstate",
              "reserve"],
    "formats": ["u1", "<f4", "<f4", "<f4", "<f4", ("<i2", (2,)), "<f4", ("<u4", (2,)), "<u4",
                ("<u4", (4,))],
    "offsets": [0, 4, 8, 12, 16, 20, 24, 28, 36, 40], "itemsize": 56,
})  # fmt: skip
LOW_STATE = np.dtype({
    "names": ["version", "mode_pr", "mode_machine", "tick", "quaternion", "gyroscope",
              "accelerometer", "rpy", "imu_temperature", "motor", "wireless_remote", "reserve",
              "crc"],
    "formats": [("<u4", (2,)), "u1", "u1", "<u4", ("<f4", (4,)), ("<f4", (3,)), ("<f4", (3,)),
                ("<f4", (3,)), "<i2", (_MOTOR_STATE, (SLOTS,)), ("u1", (40,)), ("<u4", (4,)),
                "<u4"],
    "offsets": [0, 8, 9, 12, 16, 32, 44, 56, 68, 72, 2032, 2072, 2088], "itemsize": 2092,
})  # fmt: skip
"""A state in the C layout."""

# In the C layout the first motor's mode and the motor's numbers are aligned to four bytes; in CDR
# its mode follows at once. From the motor's first number on both are the same.
_MOTOR_AT = {LOW_CMD: (2, 4), LOW_STATE: (70, 72)}
"""End of what stands before the motors, and where the motors start in C."""

_REVERSED = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))
_HEAD = len(CDR_HEADER)


def encode(rows: np.ndarray) -> bytes:
    """A message for the network, its checksum made anew.

    Args:
        rows: One message, of type ``LOW_CMD`` or ``LOW_STATE``.
    """
    rows = np.atleast_1d(rows)
    return _wire_of(_sealed(rows), rows.dtype).tobytes()


def decode(data: bytes, dtype: np.dtype) -> Tuple[np.ndarray, bool]:
    """A message from the network.

    Args:
        data: With its CDR header.
        dtype: ``LOW_CMD`` or ``LOW_STATE``.

    Returns:
        The message (), and whether its checksum holds.

    Raises:
        ValueError: If it has not the length or the encoding of such a message.
    """
    if len(data) != wire_size(dtype) or data[:_HEAD] != CDR_HEADER:
        raise ValueError(f"{len(data)} bytes are no message of {wire_size(dtype)}")
    raw = _from_wire(np.frombuffer(data, np.uint8)[None], dtype)
    row = raw.view(dtype)[0, 0]
    return row, bool(row["crc"] == _checksums(raw)[0])


def wire_size(dtype: np.dtype) -> int:
    """Bytes of a message on the network."""
    before, start = _MOTOR_AT[dtype]
    return _HEAD + before + 2 + dtype.itemsize - (start + 4)


def to_wire(rows: np.ndarray) -> np.ndarray:
    """From the C layout to CDR; the checksum stays as it is.

    Args:
        rows: (n,) messages.

    Returns:
        (n, bytes) uint8.
    """
    return _wire_of(_bytes_of(rows), rows.dtype)


def _wire_of(raw: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The same from bytes of the C layout (n, bytes) whose padding is zero."""
    before, start = _MOTOR_AT[dtype]
    wire = np.zeros((len(raw), wire_size(dtype)), np.uint8)
    wire[:, :_HEAD] = np.frombuffer(CDR_HEADER, np.uint8)
    wire[:, _HEAD : _HEAD + before] = raw[:, :before]
    wire[:, _HEAD + before] = raw[:, start]
    wire[:, _HEAD + before + 2 :] = raw[:, start + 4 :]
    return wire


def from_wire(wire: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """From CDR to the C layout.

    Args:
        wire: (n, bytes) uint8.
        dtype: ``LOW_CMD`` or ``LOW_STATE``.

    Returns:
        (n,) messages.
    """
    return _from_wire(wire, dtype).view(dtype)[:, 0]


def _from_wire(wire: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The same as bytes of the C layout (n, bytes), its padding zero."""
    before, start = _MOTOR_AT[dtype]
    raw = np.zeros((len(wire), dtype.itemsize), np.uint8)
    raw[:, :before] = wire[:, _HEAD : _HEAD + before]
    raw[:, start] = wire[:, _HEAD + before]
    raw[:, start + 4 :] = wire[:, _HEAD + before + 2 :]
    raw &= _MASK[dtype]
    return raw


def sealed(rows: np.ndarray) -> np.ndarray:
    """The same messages (n,) with the checksums that they should have."""
    return _sealed(rows).view(rows.dtype)[:, 0]


def _sealed(rows: np.ndarray) -> np.ndarray:
    """The same as bytes (n, bytes); both messages end with their checksum."""
    # Not rows.copy(): numpy leaves what was in the memory before between the fields.
    raw = _bytes_of(rows)
    raw[:, -4:] = _checksums(raw).astype("<u4")[:, None].view(np.uint8)
    return raw


def checksums(rows: np.ndarray) -> np.ndarray:
    """What the field ``crc`` of each message should hold.

        CRC-32/MPEG-2 over the C structure without its last word, its padding zero, taken as
        32-bit little-endian words, each with its highest bit first

    The standard library has the same polynomial with all bits the other way round.

    Args:
        rows: (n,) messages.

    Returns:
        (n,) uint32.
    """
    return _checksums(_bytes_of(rows))


def _checksums(raw: np.ndarray) -> np.ndarray:
    """The same from bytes of the C layout (n, bytes) whose padding is zero."""
    words = raw[:, :-4].reshape(len(raw), -1, 4)[:, :, ::-1]
    data, size = words.tobytes().translate(_REVERSED), raw.shape[1] - 4
    found = [zlib.crc32(data[k * size : (k + 1) * size]) ^ 0xFFFFFFFF for k in range(len(raw))]
    turned = np.array(found, "<u4").tobytes().translate(_REVERSED)
    return np.frombuffer(turned, ">u4").astype(np.uint32)


def _bytes_of(rows: np.ndarray) -> np.ndarray:
    """(n, bytes) of the C layout, with zeros between the fields."""
    rows = np.ascontiguousarray(rows)
    raw = rows.view(np.uint8).reshape(len(rows), rows.dtype.itemsize)
    found: np.ndarray = raw & _MASK[rows.dtype]
    return found


def _mask(dtype: np.dtype) -> np.ndarray:
    """255 where a field is, 0 where padding is: other programs leave garbage there."""
    mask = np.zeros(dtype.itemsize, np.uint8)
    for name in dtype.names or ():
        kind, start = dtype.fields[name][:2] if dtype.fields else (dtype, 0)
        base, count = kind.base, int(np.prod(kind.shape, dtype=int))
        own = _mask(base) if base.names else np.full(base.itemsize, 255, np.uint8)
        mask[start : start + kind.itemsize] = np.tile(own, count)
    return mask


_MASK = {dtype: _mask(dtype) for dtype in (LOW_CMD, LOW_STATE)}


def low_cmd_of(command: RobotCommand) -> np.ndarray:
    """A command as a message (), without checksum; empty slots stay off.

    Raises:
        ValueError: If the command has more joints than there are slots.
    """
    row = np.zeros((), LOW_CMD)
    joints = len(command.joint_pos_target)
    if joints > SLOTS:
        raise ValueError(f"{joints} joints do not fit into {SLOTS} slots")
    motor = row["motor"][:joints]
    motor["mode"] = command.motor_mode
    motor["q"], motor["dq"] = command.joint_pos_target, command.joint_vel_target
    motor["kp"], motor["kd"], motor["tau"] = command.stiffness, command.damping, command.torque
    row["mode_machine"] = command.mode_machine
    return row


def robot_command_of(row: np.ndarray, joints: int) -> RobotCommand:
    """What a robot understands of a message (); a motor that is off turns all of it off."""
    motor = row["motor"][:joints]
    q, dq, kp, kd, tau = (motor[name].astype(np.float64) for name in ("q", "dq", "kp", "kd", "tau"))
    on = bool((motor["mode"] == MOTOR_ON).all()) and int(row["mode_pr"]) == 0
    machine = int(row["mode_machine"])
    return RobotCommand(q, dq, kp, kd, tau, machine, MOTOR_ON if on else 0)


def robot_state_of(row: np.ndarray, *, joints: int, arrival_s: float, sound: bool,
                   battery_percent: float = float("nan")) -> RobotState:  # fmt: skip
    """What a message () says.

    Args:
        row: Of type ``LOW_STATE``.
        joints: Slots that are in use.
        arrival_s: When it came [s, ``time.monotonic``].
        sound: Whether its checksum holds.
        battery_percent: Comes in another message.
    """
    motor, remote = row["motor"][:joints], row["wireless_remote"]
    sticks = remote[4:24].copy().view("<f4")
    return RobotState(
        tick=int(row["tick"]),
        arrival_s=arrival_s,
        checksum_ok=sound,
        mode_machine=int(row["mode_machine"]),
        joint_pos=motor["q"].astype(np.float64),
        joint_vel=motor["dq"].astype(np.float64),
        torque_est=motor["tau_est"].astype(np.float64),
        imu_quat_wxyz=row["quaternion"].astype(np.float64),
        imu_ang_vel_b=row["gyroscope"].astype(np.float64),
        imu_lin_acc_b=row["accelerometer"].astype(np.float64),
        motor_temperature=motor["temperature"].astype(np.float64),
        motor_fault=motor["motorstate"].copy(),
        battery_percent=battery_percent,
        # Forty bytes that are all zero are no remote: one that is there sends at least its mark.
        remote_connected=bool(remote.any()),
        remote_keys=int(remote[2]) | int(remote[3]) << 8,
        remote_sticks=sticks[[0, 4, 1, 2]].astype(np.float64),
    )


def low_state_of(state: RobotState) -> np.ndarray:
    """A simulated robot's state as a message (), without checksum."""
    row = np.zeros((), LOW_STATE)
    motor = row["motor"][: len(state.joint_pos)]
    motor["mode"] = MOTOR_ON
    motor["q"], motor["dq"], motor["tau_est"] = state.joint_pos, state.joint_vel, state.torque_est
    motor["temperature"], motor["motorstate"] = state.motor_temperature, state.motor_fault
    row["tick"], row["mode_machine"] = state.tick, state.mode_machine
    row["quaternion"], row["gyroscope"] = state.imu_quat_wxyz, state.imu_ang_vel_b
    row["accelerometer"] = state.imu_lin_acc_b
    if state.remote_connected:
        remote = row["wireless_remote"]
        remote[:2] = 0x55, 0x51
        remote[2:4] = state.remote_keys & 0xFF, state.remote_keys >> 8
        sticks = np.zeros(5, "<f4")
        sticks[[0, 4, 1, 2]] = state.remote_sticks
        remote[4:24] = sticks.view(np.uint8)
    return row
