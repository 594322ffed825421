"""A log that is written while the robot runs: nothing but the last moments can be lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from asap_deploy.errors import InputError
from asap_deploy.log import Log
from asap_deploy.log_writer import LogWriter, recover

NAMES = ("hip", "knee")
CHANNELS = {"joint_pos_target": 2, "imu_quat_wxyz": 4, "phase": 1, "episode": 1}


def _row(i: int) -> dict:
    return {
        "time_s": 0.02 * i + 1.0 / 3.0,
        "joint_pos": np.array([np.sin(i), np.pi * i]) / 7.0,
        "joint_pos_target": np.array([1.0 / (i + 1), -i]),
        "imu_quat_wxyz": np.array([1.0, 0.0, 0.0, 0.0]),
        "phase": i / 100.0,
        "episode": i // 30,
    }


def _write(path: Path, rows: int, **options) -> LogWriter:
    writer = LogWriter(path, NAMES, CHANNELS, robot="toy", policy_hash="abc",
                       constants={"stiffness": np.array([3.0, 1.0 / 3.0])}, **options)  # fmt: skip
    for i in range(rows):
        writer.append(**_row(i))
    return writer


def test_what_was_appended_is_in_the_file_to_the_bit(tmp_path: Path) -> None:
    path = tmp_path / "run.npz"
    with _write(path, 50):
        pass
    log = Log.load(path)
    assert os.listdir(tmp_path) == ["run.npz"]
    assert (log.robot, log.policy_hash, log.joint_names) == ("toy", "abc", NAMES)
    for i in range(50):
        row = _row(i)
        assert log.time_s[i] == row["time_s"]
        assert np.array_equal(log.joint_pos[i], row["joint_pos"])
        assert np.array_equal(log.fields["joint_pos_target"][i], row["joint_pos_target"])
        assert log.fields["phase"][i] == row["phase"]
    assert log.fields["episode"].dtype.kind == "i"
    assert log.fields["episode"][-1] == 1
    assert np.array_equal(log.fields["stiffness"], [3.0, 1.0 / 3.0])


def test_a_killed_process_loses_at_most_what_was_not_flushed(tmp_path: Path) -> None:
    path = tmp_path / "run.npz"
    program = (
        "import sys, time; sys.path.insert(0, sys.argv[2])\n"
        "from pathlib import Path; from test_log_writer import _write\n"
        "w = _write(Path(sys.argv[1]), 40, flush_every=8); print('ready', flush=True)\n"
        "time.sleep(60)"
    )
    words = [sys.executable, "-c", program, str(path), str(Path(__file__).parent)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGKILL)
    assert not path.exists()
    log = recover(f"{path}.part")
    assert 32 <= len(log.time_s) <= 40
    assert log.time_s[31] == _row(31)["time_s"]


@pytest.mark.parametrize("cut", [1, 3, 50, 97])
def test_a_stream_cut_anywhere_gives_its_whole_rows(tmp_path: Path, cut: int) -> None:
    writer = _write(tmp_path / "run.npz", 20, flush_every=1)
    part = tmp_path / "run.npz.part"
    whole = part.read_bytes()
    size = 8 * (1 + 2 + 2 + 4 + 1 + 1) + 4
    part.write_bytes(whole[:-cut])
    assert len(recover(part).time_s) == 20 - -(-cut // size)
    flipped = bytearray(whole)
    flipped[-5 * size + 3] ^= 0x40
    part.write_bytes(flipped)
    assert len(recover(part).time_s) == 15
    writer.close()


def test_rows_that_make_no_sense_are_refused_and_the_rest_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "run.npz"
    with _write(path, 5) as writer:
        with pytest.raises(InputError, match="row 5 of the log holds a number that is not finite"):
            writer.append(**(_row(5) | {"phase": float("nan")}))
        with pytest.raises(InputError, match="a row needs the channels"):
            writer.append(0.1, np.zeros(2))
        with pytest.raises(InputError, match="'joint_pos_target' must have 2 numbers"):
            writer.append(**(_row(5) | {"joint_pos_target": np.zeros(3)}))
    assert len(Log.load(path).time_s) == 5
    with pytest.raises(InputError, match="never overwritten"):
        LogWriter(path, NAMES, CHANNELS)
    with pytest.raises(InputError, match="channel 'heat' of width 1 cannot be streamed"):
        LogWriter(tmp_path / "other.npz", NAMES, {"heat": 1})
    (tmp_path / "text.part").write_text("hello\n")
    with pytest.raises(InputError, match="not the stream of a log writer"):
        recover(tmp_path / "text.part")


def test_segments_end_at_gaps_and_at_episodes() -> None:
    time_s = np.concatenate([0.02 * np.arange(10), 1.0 + 0.02 * np.arange(6), [9.0]])
    episode = np.repeat([0, 1], [4, 13])
    log = Log(NAMES, time_s, np.zeros((17, 2)),
              {"episode": episode, "phase": np.arange(17.0), "stiffness": np.ones(2)})  # fmt: skip
    pieces = log.segments()
    assert [len(piece.time_s) for piece in pieces] == [4, 6, 6]
    assert [piece.fields["phase"][0] for piece in pieces] == [0.0, 4.0, 10.0]
    assert all(piece.fields["stiffness"].shape == (2,) for piece in pieces)
