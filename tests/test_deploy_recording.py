"""Recordings: nobody waits for them, a crash costs moments, they become logs with true times."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import time

import numpy as np
import pytest
from virtual_robot import JOINTS, state

from asap.log_import import open_log
from asap.log_recording import recording_draft
from asap_deploy import mcap_file, recorder, recording
from asap_deploy.errors import InputError
from asap_deploy.frames import CDR_HEADER, Frames, action_dtype, ros_definition
from asap_deploy.handover import ACTION, COMMAND, EVENT, STATE, Handover, event_bytes
from asap_deploy.link import RobotCommand
from asap_deploy.mcap_file import McapWriter, read_mcap
from asap_deploy.recorder import Recorder, RecorderLoop
from asap_deploy.recording import RecordingFile, open_recording, recover

NAMES = [f"joint_{k}" for k in range(JOINTS)]
FACTS = {"joint_names": NAMES, "actions": 4, "robot": "toy", "source": "a test", "link": "twin"}
FRAMES = Frames(JOINTS)
T0 = 1000.0


def command(value: float) -> RobotCommand:
    zero = np.zeros(JOINTS)
    return RobotCommand(np.full(JOINTS, value), zero, zero + 50.0, zero + 2.0, zero, 5)


def command_bytes(value: float, written_s: float, damped: bool = False) -> bytes:
    return FRAMES.pack_command(command(value), written_s=written_s, sequence=1, damped=damped)


def action_bytes(time_s: float, mode: int, clip: int = 0) -> bytes:
    row = np.zeros((), action_dtype(4))
    row["time_s"], row["mode"], row["clip"] = time_s, mode, clip
    row["action"], row["phase"] = 0.25, 0.5
    return row.tobytes()


def run_of(file: RecordingFile, *, seconds: float = 2.0, late_s: float = 0.0004) -> None:
    """A run: damped for half a second, then driven; the target says when it was written."""
    rng = np.random.default_rng(0)
    for k in range(round(seconds / 0.002)):
        now = T0 + 0.002 * k
        arrival = now + late_s + rng.uniform(0.0, 0.0004)
        if k % 50 == 49:
            arrival += 0.0015  # a state now and then is late
        driven = k >= 250
        file.add(STATE, FRAMES.pack_state(state(5000 + 2 * k, arrival)))
        file.add(COMMAND, command_bytes(0.001 * k, arrival + 0.0003, damped=not driven))
        if k % 10 == 0:
            file.add(ACTION, action_bytes(now, 4 if driven else 1))
    file.add(EVENT, event_bytes("end", T0))


def written(tmp_path, name="run.mcap", finish=True, **options):
    path = tmp_path / name
    with open(path, "wb", buffering=0) as stream:
        file = RecordingFile(stream, FACTS)
        run_of(file, **options)
        if finish:
            file.writer.finish()
        else:
            file.writer.flush()
    return path


def test_what_is_read_is_what_was_written(tmp_path):
    tables = open_recording(written(tmp_path))
    assert tables.finished and tables.facts["joint_names"] == NAMES
    assert len(tables.states) == len(tables.commands) == 1000 and len(tables.actions) == 100
    np.testing.assert_array_equal(tables.states["tick"], 5000 + 2 * np.arange(1000))
    np.testing.assert_array_equal(
        tables.commands["joint_pos_target"][:, 3], np.float32(0.001 * np.arange(1000))
    )
    assert tables.events[-1]["event"] == "end"


def test_a_state_and_a_command_survive_their_bytes():
    found = FRAMES.unpack_state(FRAMES.pack_state(state(77, 3.25, battery_percent=float("nan"))))
    for name, value in state(77, 3.25)._asdict().items():
        if name != "battery_percent":
            np.testing.assert_array_equal(getattr(found, name), np.float32(value) if name ==
                                          "imu_lin_acc_b" else value, err_msg=name)  # fmt: skip
    assert np.isnan(found.battery_percent)
    for a, b in zip(FRAMES.unpack_command(FRAMES.pack_command(command(0.5))), command(0.5),
                    strict=True):  # fmt: skip
        np.testing.assert_array_equal(a, b)


def test_the_library_of_mcap_reads_our_files_and_decodes_our_messages(tmp_path):
    reader = pytest.importorskip("mcap.reader")
    decoder = pytest.importorskip("mcap_ros2.decoder")
    path = written(tmp_path)
    with path.open("rb") as stream:
        found = reader.make_reader(
            stream, validate_crcs=True, decoder_factories=[decoder.DecoderFactory()]
        )
        summary = found.get_summary()
        assert summary.statistics.message_count == 2101
        assert {c.topic for c in summary.channels.values()} == {
            "/state", "/command", "/action", "/event"
        }  # fmt: skip
        states = [m for *_, m in found.iter_decoded_messages(topics=["/state"])]
        commands = [m for *_, m in found.iter_decoded_messages(topics=["/command"])]
        assert next(iter(found.iter_metadata())).name == "asap-recording"
    assert [s.tick for s in states[:3]] == [5000, 5002, 5004]
    np.testing.assert_array_equal(states[0].imu_lin_acc_b, np.float32([0.0, 0.0, 9.81]))
    assert states[9].mode_machine == 5 and states[9].remote_connected == 1
    np.testing.assert_array_equal(commands[100].joint_pos_target, np.float32([0.1] * JOINTS))
    assert commands[-1].damped == 0 and commands[0].damped == 1


def test_a_long_recordings_index_waits_on_disk_and_comes_out_the_same(tmp_path, monkeypatch):
    files = []
    for name, entries in (("memory", 10_000), ("spooled", 7)):
        monkeypatch.setattr(mcap_file, "INDEX_ENTRIES", entries)
        with open(tmp_path / name, "wb", buffering=0) as stream:
            writer = mcap_file.McapWriter(stream, {"robot": "g1"})
            channel = writer.channel("/event", "Event", "jsonschema", "{}", "json")
            for k in range(100):
                writer.message(channel, 10 * k, b"{}")
                writer.flush()
                assert len(writer._chunks) < entries  # an hour would have 300,000
            writer.finish()
        files.append((tmp_path / name).read_bytes())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["memory", "spooled"]
    assert files[0] == files[1]
    reader = pytest.importorskip("mcap.reader")
    with open(tmp_path / "spooled", "rb") as stream:
        found = reader.make_reader(stream)
        assert len(found.get_summary().chunk_indexes) == 100
        assert [m.log_time for _, _, m in found.iter_messages()] == [10 * k for k in range(100)]


def test_our_bytes_are_cdr_by_their_own_definition():
    """Fields fall by size, so that no padding is ever needed."""
    for dtype in (FRAMES.state, FRAMES.command, action_dtype(4)):
        sizes = [dtype[name].base.itemsize for name in dtype.names]
        assert sizes == sorted(sizes, reverse=True)
        for name in dtype.names:
            assert dtype.fields[name][1] % dtype[name].base.itemsize == 0
        assert len(ros_definition(dtype).splitlines()) == len(dtype.names)


@pytest.mark.parametrize("part", [0.3, 0.5, 0.77, 0.999])
def test_a_recording_that_was_cut_off_gives_all_that_was_whole(tmp_path, part):
    data = written(tmp_path).read_bytes()
    file = tmp_path / "cut.mcap.part"
    file.write_bytes(data[: int(part * len(data))])
    if part < 0.999:
        stream = io.BytesIO()
        chunked = RecordingFile(stream, FACTS)
        run_of(_Chunked(chunked))
        data = stream.getvalue()
        file.write_bytes(data[: int(part * len(data))])
    tables = open_recording(file)
    assert not tables.finished
    assert len(tables.states) > 0.9 * part * 1000 - 20
    target = recover(file)
    assert target == tmp_path / "cut.mcap" and file.exists()
    again = open_recording(target)
    assert again.finished
    np.testing.assert_array_equal(again.states, tables.states)
    np.testing.assert_array_equal(again.commands, tables.commands)
    with pytest.raises(InputError, match="is there already; move it away first"):
        recover(file)
    with pytest.raises(InputError, match="is finished: there is nothing to recover"):
        recover(target)


class _Chunked:
    """A file whose chunks are handed on every 50 records, as the recorder does."""

    def __init__(self, file: RecordingFile) -> None:
        self.file, self.count = file, 0

    def add(self, kind: int, data: bytes) -> None:
        self.file.add(kind, data)
        self.count += 1
        if self.count % 50 == 0:
            self.file.writer.flush()


def test_a_damaged_recording_is_refused_in_one_line(tmp_path):
    data = bytearray(written(tmp_path).read_bytes())
    data[len(data) // 2] ^= 0xFF
    (tmp_path / "bad.mcap").write_bytes(data)
    with pytest.raises(InputError, match=r"a chunk is damaged: its checksum does not hold \(file"):
        open_recording(tmp_path / "bad.mcap")
    (tmp_path / "no.mcap").write_bytes(b"hello")
    with pytest.raises(InputError, match="not an MCAP file"):
        open_recording(tmp_path / "no.mcap")
    with pytest.raises(InputError, match="cannot be read: No such file"):
        open_recording(tmp_path / "none.mcap")
    stream = io.BytesIO()
    McapWriter(stream, {}).finish()
    assert read_mcap(stream.getvalue()).finished
    (tmp_path / "other.mcap").write_bytes(stream.getvalue())
    with pytest.raises(InputError, match="not a recording of ours: version 'None'"):
        open_recording(tmp_path / "other.mcap")


def test_a_log_has_the_target_that_was_in_force_from_the_moment_of_measuring(tmp_path):
    opened = open_log(written(tmp_path))
    log = opened.log
    assert log.rate_hz == pytest.approx(500.0) and len(log.time_s) == 750
    rows = np.round((log.time_s) / 0.002).astype(int)
    # Command k was written 0.7 ms after state k was measured: it is in force from state k on,
    # also where state k arrived late, after 2.2 ms, so that its command counts for state k + 1.
    wanted = 0.001 * rows
    late = rows % 50 == 49
    found = log.fields["joint_pos_target"][:, 0]
    np.testing.assert_allclose(found[~late], wanted[~late], atol=1e-6)
    np.testing.assert_allclose(found[late], wanted[late] - 0.001, atol=1e-6)
    np.testing.assert_array_equal(log.fields["stiffness"], 50.0)
    assert set(log.fields["mode"]) == {4} and log.fields["action"].shape == (750, 4)
    assert log.robot == "toy" and log.joint_names == tuple(NAMES)
    assert any("250 of 1000 states left out: no policy drove" in note for note in opened.notes)


def test_bad_and_old_states_do_not_come_into_a_log(tmp_path):
    path = tmp_path / "run.mcap"
    with open(path, "wb", buffering=0) as stream:
        file = RecordingFile(stream, FACTS)
        for k in range(100):
            file.add(STATE, FRAMES.pack_state(state(5000 + 2 * k, T0 + 0.002 * k)))
            if k == 50:
                file.add(STATE, FRAMES.pack_state(state(5060, T0 + 0.1)))
            if k == 60:
                bad = state(9_000_000, T0 + 0.1, checksum_ok=False)
                file.add(STATE, FRAMES.pack_state(bad))
        file.writer.finish()
    draft = recording_draft(path)
    np.testing.assert_allclose(draft.time_s, 0.002 * np.arange(100), atol=1e-12)
    assert draft.notes[0].startswith("2 states left out: wrong checksum, or not newer")
    assert "joint_pos_target" not in draft.fields


def fill(memory: Handover, count: int, start: int = 0) -> None:
    for k in range(start, start + count):
        now = time.monotonic()
        memory.robot_ring.push(STATE, FRAMES.pack_state(state(5000 + 2 * k, now)))
        memory.robot_ring.push(COMMAND, command_bytes(0.0, now))


def test_a_fault_dumps_the_last_ten_seconds_from_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(recorder, "_AFTER_FAULT_S", 0.0)
    memory = Handover.create(JOINTS)
    loop = RecorderLoop(memory, tmp_path / "run.mcap", FACTS)
    fill(memory, 6000)
    memory.robot_ring.push(EVENT, event_bytes("fault", time.monotonic(), guard="tilt"))
    loop.drain()
    time.sleep(0.002)
    loop.drain()
    dump = open_recording(tmp_path / "run.fault.mcap")
    assert dump.finished and dump.facts["dump"] is True
    assert len(dump.states) > 5000 and dump.states["tick"][-1] == 5000 + 2 * 5999
    assert any(e["event"] == "fault" and e["guard"] == "tilt" for e in dump.events)
    loop.close()
    assert open_recording(tmp_path / "run.mcap").finished


def test_a_full_disk_ends_the_recording_and_nothing_else(tmp_path, monkeypatch):
    class Full(io.RawIOBase):
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    memory = Handover.create(JOINTS)
    loop = RecorderLoop(memory, tmp_path / "run.mcap", FACTS)
    fill(memory, 100)
    loop.drain()
    loop._file.writer._stream = Full()
    fill(memory, 100, 100)
    loop.drain()
    assert loop.problems and "ended early: No space left on device" in loop.problems[0]
    fill(memory, 100, 200)
    memory.robot_ring.push(EVENT, event_bytes("fault", time.monotonic()))
    loop.drain()
    loop.close()
    assert len(open_recording(tmp_path / "run.fault.mcap").states) == 300
    assert len(open_recording(tmp_path / "run.mcap.part").states) == 100


def test_a_killed_recorder_loses_less_than_fifty_milliseconds(tmp_path):
    memory = Handover.create(JOINTS)
    read_fd, write_fd = os.pipe()
    found = Recorder.start(memory, read_fd, tmp_path / "run.mcap", FACTS)
    part = tmp_path / "run.mcap.part"
    end = time.monotonic() + 20.0
    while not part.exists():
        assert time.monotonic() < end
        time.sleep(0.01)
    tick = 0
    for _ in range(60):  # 1.2 s at the rate of a robot, ten states at a time
        fill(memory, 10, tick)
        tick += 10
        time.sleep(0.02)
    os.kill(found.process.pid, signal.SIGKILL)
    found.process.wait()
    os.close(write_fd)
    os.close(read_fd)
    tables = open_recording(part)
    lost = 5000 + 2 * (tick - 1) - int(tables.states["tick"][-1])
    assert lost <= 50, f"{lost} ms"
    with pytest.raises(InputError, match="a recording is never overwritten"):
        Recorder.start(memory, 0, tmp_path / "run.mcap", FACTS)


def test_a_recorder_ends_with_the_supervisor_and_says_what_it_has(tmp_path):
    memory = Handover.create(JOINTS)
    read_fd, write_fd = os.pipe()
    found = Recorder.start(memory, read_fd, tmp_path / "deep" / "run.mcap", FACTS)
    fill(memory, 200)
    time.sleep(0.3)
    os.close(write_fd)
    facts = found.finish()
    os.close(read_fd)
    assert facts["missed"] == 0 and facts["problems"] == [] and facts["rows"] >= 400
    tables = open_recording(tmp_path / "deep" / "run.mcap")
    assert len(tables.states) == 200 and tables.events[0]["event"] == "clock"


def test_a_reader_that_lags_misses_the_oldest_and_says_so(tmp_path):
    memory = Handover.create(JOINTS)
    loop = RecorderLoop(memory, tmp_path / "run.mcap", FACTS)
    fill(memory, 10_000)
    loop.drain()
    assert 0 < loop.missed < 20_000 and loop.missed + loop.rows - 1 == 20_000
    loop.close()


def test_a_recording_is_told_from_other_mcap_files(tmp_path):
    assert recording.is_recording(written(tmp_path))
    (tmp_path / "x.mcap").write_bytes(b"\x89MCAP0\r\n" + bytes(300))
    assert not recording.is_recording(tmp_path / "x.mcap")
    assert json.loads(event_bytes("x", 1.0, text="y" * 5000).decode())["event"] == "x"
    assert CDR_HEADER == b"\x00\x01\x00\x00"


def test_what_was_drained_is_out_of_the_recorders_hands(tmp_path):
    memory = Handover.create(JOINTS)
    loop = RecorderLoop(memory, tmp_path / "run.mcap", FACTS)
    fill(memory, 1)
    loop.drain()
    assert len(open_recording(tmp_path / "run.mcap.part").states) == 1
    loop.close()
