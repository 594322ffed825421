"""Curves: rows that survive kills and resumes, and event files that TensorBoard reads."""

from __future__ import annotations

import json
import struct
import time
from pathlib import Path

import numpy as np
import pytest

from asap.curves import EVENTS, GROUPS, METRICS, Curves, Place, crc32c, read_rows
from asap.env import EnvConfig, TrackingEnv
from asap.inputs import open_motion
from asap.ppo import PpoConfig, TrackerPPO
from asap.robot import Robot
from asap.vecenv import TrackingVecEnv
from asap_deploy.errors import InputError
from asap_deploy.protobuf import read_fields


def _fill(curves: Curves, iterations: range, reward: float = 1.0) -> None:
    """Rows of 100 steps; the first takes half a second, each later one that much more."""
    for number in iterations:
        place = Place(number, 100 * number, 0.25 * number * (number + 1))
        curves.add_iteration(place, {"reward": reward * number, "kl": 0.25})


def _events(run_dir: Path) -> list[tuple[int, dict[str, float], bool]]:
    """Step, figures and whether it is a restart, of every event in the order of the files."""
    events = []
    for path in sorted(run_dir.glob(f"{EVENTS}*")):
        data = path.read_bytes()
        while len(data) >= 12:
            size = struct.unpack("<Q", data[:8])[0]
            fields = dict(read_fields(data[12 : 12 + size]))
            figures = {}
            for _, value in read_fields(fields.get(5, b"")):
                own = dict(read_fields(value))
                figures[own[1].decode()] = struct.unpack("<f", struct.pack("<I", own[2]))[0]
            events.append((fields.get(2, 0), figures, 7 in fields))
            data = data[16 + size :]
    return events


def _shown(run_dir: Path, name: str) -> list[tuple[int, float]]:
    """A curve as TensorBoard shows it: a restart takes back what is at its step or later."""
    points: list[tuple[int, float]] = []
    for step, figures, restart in _events(run_dir):
        if restart:
            points = [point for point in points if point[0] < step]
        if name in figures:
            points.append((step, figures[name]))
    return points


def test_a_row_says_where_training_stands_and_names_its_groups(tmp_path: Path) -> None:
    curves = Curves(tmp_path)
    _fill(curves, range(1, 3))
    curves.add_evaluation(Place(2, 200, 1.5), {"success_rate": 0.5})
    text = (tmp_path / METRICS).read_text()
    assert text.endswith("\n")
    # 100 steps in half a second are 200 a second; in a second they are 100.
    assert [json.loads(line) for line in text.splitlines()] == [
        {"iteration": 1, "steps": 100, "trained_s": 0.5, "episode/reward": 1.0, "ppo/kl": 0.25,
         "speed/steps_per_s": 200.0},
        {"iteration": 2, "steps": 200, "trained_s": 1.5, "episode/reward": 2.0, "ppo/kl": 0.25,
         "speed/steps_per_s": 100.0},
        {"iteration": 2, "steps": 200, "trained_s": 1.5, "evaluation/success_rate": 0.5},
    ]  # fmt: skip


def test_every_row_is_in_the_files_before_the_next_begins(tmp_path: Path) -> None:
    curves = Curves(tmp_path)
    for number in range(1, 4):
        _fill(curves, range(number, number + 1))
        assert len(read_rows(tmp_path / METRICS)) == number
        assert len(_shown(tmp_path, "episode/reward")) == number


def test_a_resumed_run_repeats_no_row_and_no_point(tmp_path: Path) -> None:
    _fill(Curves(tmp_path), range(1, 9))
    _fill(Curves(tmp_path, iteration=5), range(6, 8), reward=10.0)
    rows = read_rows(tmp_path / METRICS)
    assert [row["iteration"] for row in rows] == [1, 2, 3, 4, 5, 6, 7]
    assert [row["episode/reward"] for row in rows] == [1.0, 2.0, 3.0, 4.0, 5.0, 60.0, 70.0]
    # The first speed after a resume counts from the checkpoint, not from zero.
    assert [row["speed/steps_per_s"] for row in rows] == [200.0 / n for n in range(1, 8)]
    expected = [(row["steps"], row["episode/reward"]) for row in rows]
    assert _shown(tmp_path, "episode/reward") == expected


def test_a_line_that_a_kill_left_half_written_is_dropped(tmp_path: Path) -> None:
    _fill(Curves(tmp_path), range(1, 4))
    path = tmp_path / METRICS
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    for cut in (1, 2, len(lines[-1]) // 2, len(lines[-1]) - 1):
        path.write_bytes(whole[:-cut])
        _fill(Curves(tmp_path, iteration=3), range(4, 5))
        kept = [json.loads(line)["iteration"] for line in path.read_text().splitlines()]
        # Cut by its line break alone the row is whole.
        assert kept == ([1, 2, 3, 4] if cut == 1 else [1, 2, 4])
    path.write_bytes(b'\xff\xfe\n[]\n{"iteration": "x", "steps": 1, "trained_s": 0}\n' + whole)
    Curves(tmp_path, iteration=2)
    assert path.read_bytes() == b"".join(lines[:2])


def test_a_run_that_died_before_its_first_checkpoint_leaves_no_rows(tmp_path: Path) -> None:
    _fill(Curves(tmp_path), range(1, 4))
    _fill(Curves(tmp_path), range(1, 2), reward=7.0)
    assert [row["episode/reward"] for row in read_rows(tmp_path / METRICS)] == [7.0]
    assert _shown(tmp_path, "episode/reward") == [(100, 7.0)]


def test_what_is_no_number_is_null_in_a_row_and_no_point(tmp_path: Path) -> None:
    curves = Curves(tmp_path)
    facts = {"reward": float("nan"), "kl": float("-inf"), "std": 1e300, "failed": 0.5}
    curves.add_iteration(Place(1, 100, 1.0), facts)
    row = read_rows(tmp_path / METRICS)[0]
    assert row["episode/reward"] is None
    assert row["ppo/kl"] is None
    assert row["ppo/std"] == 1e300
    points = {"episode/failed": 0.5, "speed/steps_per_s": 100.0}
    assert [figures for _, figures, _ in _events(tmp_path) if figures] == [points]


def test_an_event_is_what_tensorboard_s_own_writer_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: 1.0)
    curves = Curves(tmp_path)
    curves.add_iteration(Place(1, 300, 0.0), {"kl": 0.25, "std": -3.0})
    # tensorboard 2.21: RecordWriter over Event(wall_time=1, step=300, summary=...).
    theirs = bytes.fromhex(
        "2d000000000000003c418afb09000000000000f03f10ac022a1f0a0d0a0670706f2f6b6c150000803e0a0e"
        "0a0770706f2f73746415000040c0f774992a"
    )
    data = (tmp_path / f"{EVENTS}0001").read_bytes()
    assert data.endswith(theirs)
    Curves(tmp_path, iteration=1)
    # The same for Event(wall_time=1, step=301, session_log=SessionLog(status=START)).
    start = bytes.fromhex("09000000000000f03f10ad023a020801")
    assert start in (tmp_path / f"{EVENTS}0002").read_bytes()


def test_the_checksum_is_castagnoli_s() -> None:
    # RFC 3720, appendix B.4, and the usual check value.
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(bytes(range(32))) == 0x46DD794E


def test_every_fact_of_an_iteration_has_its_group() -> None:
    robot = Robot.load("g1")
    motion = open_motion(Path("wave"), robot, ground=True).motion
    env = TrackingEnv(robot, motion, EnvConfig(), 4, np.random.default_rng(0))
    small = PpoConfig(horizon=2, minibatches=1, epochs=1, actor=(8,), critic=(8,), torch_threads=1)
    facts = TrackerPPO(TrackingVecEnv(env), small, 0).iterate()
    assert set(facts) <= set(GROUPS), "name its group in curves.py"


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here: a full disk is NOT tried")
    curves = Curves(tmp_path)
    (tmp_path / METRICS).symlink_to(full)
    with pytest.raises(InputError, match="cannot write the curves: No space left on device"):
        _fill(curves, range(1, 2))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write the curves"):
        Curves(tmp_path / "file" / "run")
    (tmp_path / "odd" / METRICS).mkdir(parents=True)
    with pytest.raises(InputError, match="cannot read the curves"):
        Curves(tmp_path / "odd")
