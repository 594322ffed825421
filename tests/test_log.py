"""The log file: what was recorded comes back, what was not is absent, what cannot be is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from asap_deploy.errors import InputError
from asap_deploy.log import Log
from asap_deploy.npz import load_npz, save_npz

ROWS, JOINTS = 6, ("hip", "knee", "ankle")


def full_log() -> Log:
    """A log with every channel, no number of which is round."""
    rng = np.random.default_rng(0)
    quat = rng.normal(size=(ROWS, 4))
    quat /= np.linalg.norm(quat, axis=-1, keepdims=True)
    per_joint = ("joint_vel", "joint_pos_target", "torque_est")
    triples = ("imu_ang_vel_b", "imu_lin_acc_b", "base_pos_w", "base_lin_vel_w", "base_ang_vel_b")
    return Log(
        joint_names=JOINTS,
        time_s=1000.1 + 0.02 * np.arange(ROWS),
        joint_pos=rng.normal(size=(ROWS, 3)),
        fields={
            **{name: rng.normal(size=(ROWS, 3)) for name in per_joint},
            **{name: rng.normal(size=(ROWS, 3)) for name in triples},
            "action": rng.normal(size=(ROWS, 2)),
            "imu_quat_wxyz": quat,
            "base_quat_wxyz": -quat,
            "phase": np.linspace(0.0, 1.0, ROWS),
            "mode": np.array(["damp", "run"] * 3),
            "episode": np.array([0, 0, 0, 1, 1, 1]),
            "stiffness": np.array([100.1, 99.9, 20.0]),
            "damping": rng.uniform(1.0, 2.0, (ROWS, 3)),
        },
        robot="toy",
        source="made by the tests; CC0",
        policy_hash="0f" * 32,
    )


def with_field(name: str, array: object) -> Log:
    log = full_log()
    return dataclasses.replace(log, fields={**log.fields, name: array})


def test_saving_and_loading_a_log_loses_nothing(tmp_path):
    log = full_log()
    log.save(tmp_path / "log.npz")
    again = Log.load(tmp_path / "log.npz")
    for name in ("joint_names", "robot", "source", "policy_hash"):
        assert getattr(again, name) == getattr(log, name)
    np.testing.assert_array_equal(again.time_s, log.time_s)
    np.testing.assert_array_equal(again.joint_pos, log.joint_pos)
    assert set(again.fields) == set(log.fields)
    for name, array in log.fields.items():
        np.testing.assert_array_equal(again.fields[name], array, err_msg=name)
        assert again.fields[name].dtype == array.dtype


def test_what_was_not_recorded_is_absent_after_loading_too(tmp_path):
    log = dataclasses.replace(full_log(), fields={})
    log.save(tmp_path / "log.npz")
    assert Log.load(tmp_path / "log.npz").fields == {}
    assert set(load_npz(tmp_path / "log.npz")) == {
        "format", "version", "joint_names", "time_s", "joint_pos", "robot", "source", "policy_hash"
    }  # fmt: skip


def test_the_arrays_of_a_log_cannot_be_written():
    log = full_log()
    for array in (log.time_s, log.joint_pos, *log.fields.values()):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = array[1]


def test_single_precision_and_whole_numbers_become_double():
    log = with_field("joint_vel", np.zeros((ROWS, 3), np.float32))
    assert log.fields["joint_vel"].dtype == np.float64
    assert dataclasses.replace(log, time_s=np.arange(ROWS)).time_s.dtype == np.float64


def test_rate_and_duration_are_those_of_the_clock():
    log = full_log()
    assert log.rate_hz == pytest.approx(50.0)
    assert log.duration_s == pytest.approx(0.1)
    # One long gap moves the duration and not the rate.
    time_s = np.array(log.time_s)
    time_s[4:] += 3.0
    gap = dataclasses.replace(log, time_s=time_s)
    assert gap.rate_hz == pytest.approx(50.0)
    assert gap.duration_s == pytest.approx(3.1)


@pytest.mark.parametrize("dtype", [np.float64, np.int64, np.uint64, np.uint8])
@pytest.mark.parametrize("time_s", [[0, 1, 2, 2, 3, 4], [0, 1, 2, 1, 3, 4]])
def test_a_clock_that_stops_or_runs_back_is_refused_at_its_row(time_s, dtype):
    # Of unsigned numbers 1 - 2 is a huge positive number: the clock must not be compared as such.
    with pytest.raises(InputError, match=r"time_s does not increase at row 3: [12]\.0 s"):
        dataclasses.replace(full_log(), time_s=np.array(time_s, dtype))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"joint_names": ("hip", "hip", "ankle")}, "needs 2 rows and distinct joints"),
        ({"joint_names": ("hip", "knee")}, r"'joint_pos' has shape \(6, 3\), expected \(6, 2\)"),
        ({"joint_pos": np.full((ROWS, 3), np.nan)}, "'joint_pos' has 18 non-finite or huge"),
        ({"joint_pos": np.full((ROWS, 3), "a")}, "'joint_pos' has type <U1, expected numbers"),
        ({"time_s": np.array([0, 1, 2, 3, 4, np.inf])}, "'time_s' has 1 non-finite or huge"),
        ({"time_s": np.zeros((ROWS, 1))}, r"'time_s' has shape \(6, 1\), expected one axis"),
        ({"time_s": np.zeros(1), "joint_pos": np.zeros((1, 3))}, "needs 2 rows"),
    ],
)
def test_an_unsound_log_is_refused_with_what_is_wrong(changes, text):
    with pytest.raises(InputError, match=text):
        dataclasses.replace(full_log(), fields={}, **changes)


@pytest.mark.parametrize(
    ("name", "array", "text"),
    [
        ("joint_vell", np.zeros((6, 3)), r"unknown channel 'joint_vell' \(did you mean 'joint_vel"),
        ("joint_vel", np.zeros((5, 3)), r"'joint_vel' has shape \(5, 3\), expected 6 rows"),
        ("joint_vel", np.zeros((6, 2)), r"'joint_vel' has shape \(6, 2\)"),
        ("joint_vel", np.full((6, 3), "1"), "'joint_vel' has type <U1, expected numbers"),
        ("phase", np.zeros((6, 1)), r"'phase' has shape \(6, 1\)"),
        ("base_pos_w", np.zeros((6, 4)), r"'base_pos_w' has shape \(6, 4\)"),
        ("stiffness", np.zeros(2), r"'stiffness' has shape \(2,\), expected \(3,\) or \(6, 3\)"),
        ("imu_quat_wxyz", np.full((6, 4), 0.6), "not unit length: norms from 1.200 to 1.200"),
        ("torque_est", np.full((6, 3), np.inf), "'torque_est' has 18 non-finite or huge values"),
    ],
)
def test_a_channel_that_does_not_fit_is_refused_by_name(name, array, text):
    with pytest.raises(InputError, match=text):
        with_field(name, array)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"format": np.array("asap-motion")}, "not a log file of ours: format is 'asap-motion'"),
        ({"format": None}, "not a log file of ours: format is 'absent'"),
        ({"version": np.array(7)}, "log file has version 7, this program reads 1"),
        ({"time_s": None}, "log file lacks the key 'time_s'; it holds"),
        ({"joint_pos": np.zeros(3)}, r"log file: 'joint_pos' has shape \(3,\), expected 2 axes"),
        ({"extra": np.zeros(3)}, "unknown channel 'extra'"),
    ],
)
def test_a_wrong_file_is_refused_with_what_is_wrong_and_its_path(changes, text, tmp_path):
    path = tmp_path / "log.npz"
    full_log().save(path)
    arrays = {**load_npz(path), **changes}
    save_npz(path, {key: value for key, value in arrays.items() if value is not None})
    with pytest.raises(InputError, match=text) as caught:
        Log.load(path)
    assert str(caught.value).endswith(f"(file: {path})")
