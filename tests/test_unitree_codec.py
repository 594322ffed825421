"""Messages of a G1 byte for byte: against known numbers, plain loops and the official codec."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from asap_deploy.link import KEYS, RobotCommand, RobotState, key_bits
from asap_deploy.unitree_codec import (
    G1_JOINTS,
    LOW_CMD,
    LOW_STATE,
    checksums,
    decode,
    encode,
    from_wire,
    low_cmd_of,
    low_state_of,
    robot_command_of,
    robot_state_of,
    sealed,
    to_wire,
    wire_size,
)

BOTH = pytest.mark.parametrize("dtype", [LOW_CMD, LOW_STATE], ids=["LowCmd", "LowState"])
C_FORMAT = {LOW_CMD: "<2B2x" + "B3x5fI" * 35 + "5I",
            LOW_STATE: "<2I2B2xI13fh2x" + "B3x4f2hf7I" * 35 + "40B5I"}  # fmt: skip
"""The C structures as another language writes them down."""


def random_rows(dtype, count, rng):
    """Any bits in any field, with zeros between the fields; floats that are finite."""
    rows = np.zeros(count, dtype)

    def fill(part, kind):
        for name in kind.names:
            base = kind[name].base
            if base.names:
                fill(part[name], base)
            elif base.kind == "f":
                part[name] = rng.normal(0.0, 100.0, part[name].shape)
            else:
                least, most = np.iinfo(base).min, np.iinfo(base).max
                part[name] = rng.integers(least, most + 1, part[name].shape)

    fill(rows, dtype)
    return rows


def plain_checksum(data: bytes) -> int:
    """Bit by bit, as the robot's own program does it."""
    crc = 0xFFFFFFFF
    for (word,) in struct.iter_unpack("<I", data):
        for bit in range(31, -1, -1):
            high = crc >> 31 & 1
            crc = crc << 1 & 0xFFFFFFFF
            if high != word >> bit & 1:
                crc ^= 0x04C11DB7
    return crc


def test_the_default_command_has_the_checksum_that_is_known():
    # Its C structure is 251 words of zero but for the checksum itself.
    assert checksums(np.zeros(1, LOW_CMD))[0] == 0xFE172F9F
    assert plain_checksum(bytes(1000)) == 0xFE172F9F


@BOTH
def test_the_checksum_is_that_of_a_plain_loop_over_the_bits(dtype):
    rows = random_rows(dtype, 5, np.random.default_rng(0))
    plain = [plain_checksum(row.tobytes()[:-4]) for row in rows]
    np.testing.assert_array_equal(checksums(rows), plain)


@BOTH
def test_the_record_is_the_c_structure(dtype):
    assert struct.calcsize(C_FORMAT[dtype]) == dtype.itemsize
    row = random_rows(dtype, 1, np.random.default_rng(1))[0]
    values = struct.unpack(C_FORMAT[dtype], row.tobytes())
    assert struct.pack(C_FORMAT[dtype], *values) == row.tobytes()
    motors = [row["motor"][k].tolist() for k in range(35)]
    flat = [row["mode_pr"], row["mode_machine"]] if dtype is LOW_CMD else None
    if flat is not None:
        flat += [number for motor in motors for number in motor]
        assert list(values) == [*flat, *row["reserve"].tolist(), row["crc"]]


@BOTH
def test_ten_thousand_messages_come_back_as_they_went(dtype):
    rows = sealed(random_rows(dtype, 10_000, np.random.default_rng(2)))
    wire = to_wire(rows)
    assert wire.shape == (10_000, wire_size(dtype))
    back = from_wire(wire, dtype)
    assert back.tobytes() == rows.tobytes()
    np.testing.assert_array_equal(checksums(back), rows["crc"])
    for k in range(0, 10_000, 500):  # one at a time is the same
        one, sound = decode(wire[k].tobytes(), dtype)
        assert sound and one.tobytes() == rows[k].tobytes()
        assert encode(rows[k]) == wire[k].tobytes()


def test_the_places_on_the_wire_are_those_that_were_measured():
    row = np.zeros((), LOW_STATE)
    row["motor"]["mode"], row["motor"]["q"] = 7, np.arange(35)
    row["wireless_remote"][0], row["crc"] = 9, 0
    body = encode(row)[4:]
    assert len(body) == 2088 and body[70] == 7 and body[68 + 56 * 3] == 7
    assert struct.unpack_from("<f", body, 72 + 56 * 5)[0] == 5.0
    assert body[2028] == 9 and len(encode(np.zeros((), LOW_CMD))) == 1004


@BOTH
def test_every_flipped_bit_of_a_field_is_noticed(dtype):
    rng = np.random.default_rng(3)
    row = sealed(random_rows(dtype, 1, rng))
    wire = to_wire(row)[0]
    unseen = 0
    for place in range(4, len(wire)):
        broken = wire.copy()
        broken[place] ^= 1 << int(rng.integers(8))
        found, sound = decode(broken.tobytes(), dtype)
        if sound:  # then no field has changed
            unseen += 1
            assert found.tobytes() == row.tobytes(), place
    # What no field uses, counted by hand: a byte after the first motor's mode and three after each
    # of the other 34; of a state also two before the tick.
    assert unseen == (1 + 34 * 3 if dtype is LOW_CMD else 2 + 1 + 34 * 3)


def test_garbage_between_the_fields_does_not_change_the_checksum():
    row = np.frombuffer(bytearray([0xAA] * LOW_CMD.itemsize), LOW_CMD)
    for name in ("mode_pr", "mode_machine", "reserve", "crc"):
        row[name] = 0
    for name in LOW_CMD["motor"].base.names:
        row["motor"][name] = 0
    assert row.view(np.uint8).tolist().count(0xAA) == 2 + 35 * 3
    assert checksums(row)[0] == 0xFE172F9F


@pytest.mark.parametrize("change", [lambda d: d[:-1], lambda d: d + b"\0", lambda d: b"",
                                    lambda d: b"\0\0" + d[2:]])  # fmt: skip
def test_what_is_no_message_is_refused(change):
    with pytest.raises(ValueError, match="bytes are no message of 1004"):
        decode(change(encode(np.zeros((), LOW_CMD))), LOW_CMD)


def a_state(**changes):
    joints, rng = len(G1_JOINTS), np.random.default_rng(4)
    exact = lambda *shape: rng.normal(size=shape).astype(np.float32).astype(float)  # noqa: E731
    values = {
        "tick": 123456, "arrival_s": 1.0, "checksum_ok": True, "mode_machine": 5,
        "joint_pos": exact(joints), "joint_vel": exact(joints), "torque_est": exact(joints),
        "imu_quat_wxyz": exact(4), "imu_ang_vel_b": exact(3), "imu_lin_acc_b": exact(3),
        "motor_temperature": rng.integers(-20, 130, (joints, 2)).astype(float),
        "motor_fault": rng.integers(0, 9, joints).astype(np.uint32), "battery_percent": 80.0,
        "remote_connected": True, "remote_keys": key_bits("A", "LEFT", "R1"),
        "remote_sticks": exact(4),
    }  # fmt: skip
    return RobotState(**{**values, **changes})


@pytest.mark.parametrize("changes", [{}, {"remote_keys": 0, "remote_sticks": np.zeros(4)}])
def test_a_state_says_on_the_other_side_what_it_said_on_this(changes):
    told = a_state(**changes)
    row, sound = decode(encode(low_state_of(told)), LOW_STATE)
    heard = robot_state_of(row, joints=29, arrival_s=1.0, sound=sound, battery_percent=80.0)
    for name, value in told._asdict().items():
        np.testing.assert_array_equal(getattr(heard, name), value, err_msg=name)


def test_a_remote_that_is_gone_says_nothing():
    row = low_state_of(a_state(remote_connected=False))
    heard = robot_state_of(row, joints=29, arrival_s=0.0, sound=True)
    assert not heard.remote_connected and heard.remote_keys == 0
    assert np.isnan(heard.battery_percent)


def test_buttons_and_sticks_lie_where_the_robot_puts_them():
    remote = np.zeros((), LOW_STATE)
    at = remote["wireless_remote"]
    at[2:4] = np.frombuffer(struct.pack("<H", 1 << KEYS.index("B")), np.uint8)
    for place, value in ((4, 0.1), (8, 0.3), (12, 0.4), (20, 0.2)):  # left x, right x, y, left y
        at[place : place + 4] = np.frombuffer(struct.pack("<f", value), np.uint8)
    heard = robot_state_of(remote, joints=29, arrival_s=0.0, sound=True)
    assert heard.remote_keys == key_bits("B") == 0x200
    np.testing.assert_allclose(heard.remote_sticks, [0.1, 0.2, 0.3, 0.4], rtol=1e-6)


def test_a_command_is_whole_and_the_empty_slots_stay_off():
    rng = np.random.default_rng(5)
    arrays = [rng.normal(size=29).astype(np.float32).astype(float) for _ in range(5)]
    told = RobotCommand(*arrays, mode_machine=5)
    row, sound = decode(encode(low_cmd_of(told)), LOW_CMD)
    assert sound and (row["motor"]["mode"][:29] == 1).all()
    assert not row["motor"][29:].tobytes().strip(b"\0")
    heard = robot_command_of(row, 29)
    for name, value in told._asdict().items():
        np.testing.assert_array_equal(getattr(heard, name), value, err_msg=name)
    row = row.copy()
    row["motor"]["mode"][3] = 0
    assert robot_command_of(row, 29).motor_mode == 0


def test_the_slots_hold_the_joints_of_the_shipped_robot_in_its_order():
    from asap.robot import Robot

    assert Robot.load("g1").joint_names == G1_JOINTS


def official(dtype, row):
    """The same message as an object of the robot maker's own package."""
    pytest.importorskip("cyclonedds")
    hg = pytest.importorskip("unitree_sdk2py.idl.unitree_hg.msg.dds_")
    if dtype is LOW_CMD:
        motors = [hg.MotorCmd_(*motor.tolist()) for motor in row["motor"]]
        return hg.LowCmd_(int(row["mode_pr"]), int(row["mode_machine"]), motors,
                          row["reserve"].tolist(), int(row["crc"]))  # fmt: skip
    motors = [hg.MotorState_(*[value.tolist() for value in motor]) for motor in row["motor"]]
    imu = hg.IMUState_(row["quaternion"].tolist(), row["gyroscope"].tolist(),
                       row["accelerometer"].tolist(), row["rpy"].tolist(),
                       int(row["imu_temperature"]))  # fmt: skip
    return hg.LowState_(row["version"].tolist(), int(row["mode_pr"]), int(row["mode_machine"]),
                        int(row["tick"]), imu, motors, row["wireless_remote"].tolist(),
                        row["reserve"].tolist(), int(row["crc"]))  # fmt: skip


def compare_with_the_official_codec(dtype, count):
    pytest.importorskip("cyclonedds")
    crc = pytest.importorskip("unitree_sdk2py.utils.crc").CRC()
    rows = sealed(random_rows(dtype, count, np.random.default_rng(6)))
    wire = to_wire(rows)
    kind = None
    for row, bytes_ in zip(rows, wire, strict=True):
        message = official(dtype, row)
        kind = kind or type(message)
        assert bytes(message.serialize()) == bytes_.tobytes()
        assert crc.Crc(message) == int(row["crc"])
        again = kind.deserialize(bytes_.tobytes())
        assert bytes(again.serialize()) == bytes_.tobytes()


@BOTH
def test_the_official_codec_gives_the_same_bytes_and_the_same_checksum(dtype):
    """Needs the packages cyclonedds and unitree_sdk2py; never ran where they are missing."""
    compare_with_the_official_codec(dtype, 50)


@pytest.mark.slow
@BOTH
def test_the_official_codec_agrees_on_ten_thousand_messages(dtype):
    """Needs the packages cyclonedds and unitree_sdk2py; never ran where they are missing."""
    compare_with_the_official_codec(dtype, 10_000)
