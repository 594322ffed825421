"""Defects that logs really have, planted in sound ones: what the check of logs is measured by.

    planted = PLANTS["swapped_joints"](sound, np.random.default_rng(0))
    planted.log, planted.finding, planted.joints      # what the check must say of it

Every function is one class of defects and draws one instance. ``asap.bench_logs`` counts how many
of them are found; defects of the robot itself, that take a recording of their own, are there.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from asap.robot import Robot
from asap_deploy import rotation
from asap_deploy.log import WIDTHS, Log

NOISE = {"joint_pos": 0.0005, "joint_vel": 0.02, "ang_vel": 0.02, "acc": 0.3}
"""Standard deviations of typical sensors [rad], [rad/s], [rad/s], [m/s^2]."""

_MEASURED = ("joint_pos", "joint_vel", "torque_est", "imu_quat_wxyz", "imu_ang_vel_b",
             "imu_lin_acc_b", "base_pos_w", "base_quat_wxyz", "base_lin_vel_w",
             "base_ang_vel_b")  # fmt: skip
_STANDING = {"joint_pos": NOISE["joint_pos"], "joint_vel": NOISE["joint_vel"],
             "imu_ang_vel_b": NOISE["ang_vel"], "imu_lin_acc_b": NOISE["acc"],
             "torque_est": 0.01}  # fmt: skip
"""Noise of sensors of a robot at rest, in their units."""

_GROUPS = (("joint_pos_target",), ("joint_pos_target", "action"),
           ("joint_pos", "joint_vel", "torque_est"), ("joint_pos",), ("joint_vel",))  # fmt: skip
"""What a logger may write in another order or with another sign than the rest."""


class Planted(NamedTuple):
    """A log with a defect, and what must be said of it."""

    log: Log
    finding: str
    """Name of the finding"""
    joints: tuple[str, ...] = ()
    """That it must name, these and no others; empty: none in particular."""


Plant = Callable[[Log, np.random.Generator], Planted]


def rate(log: Log, rng: np.random.Generator) -> Planted:
    """Recorded 0.6 to 4 % slower than was stated."""
    return Planted(edited(log, time_s=log.time_s * 50.0 / rng.uniform(48.0, 49.7)), "rate")


def gaps(log: Log, rng: np.random.Generator) -> Planted:
    """Two to ten rows lost in a row."""
    row, lost = _row(log, rng), int(rng.integers(2, 11))
    return Planted(_keep(log, np.delete(np.arange(len(log.time_s)), slice(row, row + lost))),
                   "gaps")  # fmt: skip


def duplicated_rows(log: Log, rng: np.random.Generator) -> Planted:
    """Every fiftieth packet logged twice: in place of the next, or between two."""
    rows = np.sort(rng.choice(np.arange(1, len(log.time_s)), len(log.time_s) // 50, replace=False))
    rows = rows[~_begins(log)[rows]]
    if rng.random() < 0.5:
        arrays = _measured(log)
        for array in arrays.values():
            array[rows] = array[rows - 1]
        return Planted(edited(log, **arrays), "duplicated_rows")
    order = np.sort(np.concatenate([np.arange(len(log.time_s)), rows]))
    times = log.time_s[order]
    times[np.flatnonzero(np.diff(order) == 0) + 1] += 0.008
    return Planted(_keep(log, order, times), "duplicated_rows")


def clock_steps(log: Log, rng: np.random.Generator) -> Planted:
    """The clock leaps by 0.1 to 2 s, or runs wide or narrow by 6 to 20 % for 1.5 s."""
    row, steps = _row(log, rng), np.diff(log.time_s)
    if rng.random() < 0.5:
        steps[row] += rng.uniform(0.1, 2.0)
    else:
        steps[row - 38 : row + 38] *= 1.0 + rng.choice([-1.0, 1.0]) * rng.uniform(0.06, 0.2)
    times = np.concatenate([[0.0], np.cumsum(steps)])
    return Planted(edited(log, time_s=times), "clock_steps")


def ragged_ends(log: Log, rng: np.random.Generator) -> Planted:
    """Zeros at the beginning, or the last packet repeated at the end."""
    count, arrays = int(rng.integers(6, 30)), _measured(log)
    zeros = rng.random() < 0.5
    for name, array in arrays.items():
        if zeros:
            array[:count] = [1.0, 0.0, 0.0, 0.0] if "quat" in name else 0.0
        else:
            array[-count:] = array[-count - 1]
    return Planted(edited(log, **arrays), "ragged_ends")


def frame_offset(log: Log, rng: np.random.Generator) -> Planted:
    """Targets recorded a row late or early; their actions with them, or not, or not there."""
    shift, how = int(rng.choice([-1, 1])), int(rng.integers(3))
    arrays: dict[str, np.ndarray | None] = {
        "joint_pos_target": _shifted(log, "joint_pos_target", shift)
    }
    if how == 1:
        arrays["action"] = _shifted(log, "action", shift)
    if how == 2:
        arrays["action"] = None
    return Planted(edited(log, **arrays), "frame_offset")


def swapped_joints(log: Log, rng: np.random.Generator) -> Planted:
    """Two joints exchanged, in targets, measurements or one of these."""
    channels = _GROUPS[int(rng.integers(len(_GROUPS)))]
    while True:
        a, b = (int(joint) for joint in rng.choice(len(log.joint_names), 2, replace=False))
        # Joints that do the same cannot be told apart, and need not be.
        if channels == ("joint_vel",):
            speed = log.fields["joint_vel"]
            apart = np.std(speed[:, a] - speed[:, b]) > 0.1
        else:
            target = log.fields["joint_pos_target"]
            apart = np.sqrt(np.mean((target[:, a] - target[:, b]) ** 2)) > 0.03
        if apart:
            break
    arrays = {name: channel(log, name) for name in channels if has(log, name)}
    for array in arrays.values():
        array[:, [a, b]] = array[:, [b, a]]
    joints = (log.joint_names[a], log.joint_names[b])
    return Planted(edited(log, **arrays), "swapped_joints", joints)


def flipped_joint(log: Log, rng: np.random.Generator) -> Planted:
    """One joint with its sign turned."""
    channels = _GROUPS[int(rng.integers(len(_GROUPS)))]
    target, speed = log.fields["joint_pos_target"], log.fields["joint_vel"]
    if channels == ("joint_vel",):
        seen = speed.std(axis=0) > 0.1
    else:
        seen = np.sqrt(np.mean(target**2, axis=0)) > 0.03
    a = int(rng.choice(np.flatnonzero(seen)))
    arrays = {name: channel(log, name) for name in channels if has(log, name)}
    for array in arrays.values():
        array[:, a] *= -1.0
    return Planted(edited(log, **arrays), "flipped_joint", (log.joint_names[a],))


def quaternion_order(log: Log, rng: np.random.Generator) -> Planted:
    """Attitudes as xyzw, or the inverse ones."""
    names = [n for n in ("imu_quat_wxyz", "base_quat_wxyz") if n in log.fields]
    name = str(rng.choice(names))
    quat = log.fields[name]
    wrong = rotation.xyzw_from_wxyz(quat) if rng.random() < 0.7 else rotation.conjugate(quat)
    return Planted(edited(log, **{name: wrong}), "quaternion_order")


def stuck(log: Log, rng: np.random.Generator) -> Planted:
    """An encoder, a joint's speed or a gyro axis stands still for 0.5 to 2 s."""
    name, array, column = _sensor(log, rng)
    row = _row(log, rng)
    array[row : row + int(rng.integers(25, 100)), column] = array[row, column]
    return Planted(edited(log, **{name: array}), "stuck", _named(log, name, column))


def saturated(log: Log, rng: np.random.Generator) -> Planted:
    """A sensor cut off at what it exceeds in 3 to 15 % of the rows."""
    name, array, column = _sensor(log, rng, least=0.1)
    low, high = np.percentile(array[:, column], [0.0, rng.uniform(85.0, 97.0)])
    array[:, column] = np.clip(array[:, column], low, high)
    return Planted(edited(log, **{name: array}), "saturated", _named(log, name, column))


def quantised(log: Log, rng: np.random.Generator) -> Planted:
    """A joint's position or speed in coarse steps."""
    name = str(rng.choice(["joint_pos", "joint_vel"]))
    array, column = channel(log, name), _moving(log, rng)
    step = rng.uniform(0.006, 0.02) if name == "joint_pos" else rng.uniform(0.15, 0.5)
    array[:, column] = step * np.round(array[:, column] / step)
    return Planted(edited(log, **{name: array}), "quantised", _named(log, name, column))


def target_copy(log: Log, rng: np.random.Generator) -> Planted:
    """The measured positions in place of the targets, of the same row or one beside."""
    target = np.roll(log.joint_pos, int(rng.integers(-1, 2)), axis=0)
    return Planted(edited(log, joint_pos_target=target), "target_copy")


def yaw_drift(log: Log, rng: np.random.Generator) -> Planted:
    """The heading of the IMU leaves that of the motion capture, at once or slowly."""
    angle = np.radians(rng.uniform(8.0, 40.0)) * rng.choice([-1.0, 1.0])
    episode = np.cumsum(_begins(log)) - 1
    if rng.random() < 0.5 and episode[-1] > 0:
        turn = angle * (episode >= rng.integers(1, episode[-1] + 1))
    else:
        turn = angle * np.linspace(0.0, episode[-1] + 1.0, len(episode))
    quat = rotation.multiply(rotation.from_yaw(turn), log.fields["imu_quat_wxyz"])
    return Planted(edited(log, imu_quat_wxyz=quat), "yaw_drift")


def base_origin(log: Log, rng: np.random.Generator) -> Planted:
    """Markers 30 to 90 mm above or below the base's origin, in one episode or in all."""
    offset = np.array([0.0, 0.0, rng.choice([-1.0, 1.0]) * rng.uniform(0.03, 0.09)])
    offset[:2] = rng.uniform(-0.03, 0.03, 2)
    moved = rotation.rotate(log.fields["base_quat_wxyz"], np.tile(offset, (len(log.time_s), 1)))
    episode = np.cumsum(_begins(log)) - 1
    some = (episode == rng.integers(episode[-1] + 1)) | (rng.random() < 0.5)
    pos = log.fields["base_pos_w"] + some[:, None] * moved
    return Planted(edited(log, base_pos_w=pos), "base_origin")


def standing_still(log: Log, rng: np.random.Generator) -> Planted:
    """Three to eight seconds of standing at the end, with the noise of sensors."""
    count = int(rng.integers(150, 400))
    rows = np.concatenate([np.arange(len(log.time_s)), np.full(count, len(log.time_s) - 1)])
    times = np.concatenate([log.time_s, log.time_s[-1] + 0.02 * np.arange(1, count + 1)])
    still = _keep(log, rows, times)
    arrays = {}
    for name, noise in _STANDING.items():
        if has(still, name):
            arrays[name] = channel(still, name)
            rest = arrays[name][-count:]
            # All stays as it is, but speeds: there are none.
            rest[:] = (0.0 if "vel" in name else rest) + rng.normal(0.0, noise, rest.shape)
    return Planted(edited(still, **arrays), "standing_still")


def fallen(log: Log, rng: np.random.Generator) -> Planted:
    """The robot topples over in the last second and lies."""
    count = int(rng.integers(40, 90))
    angle = np.zeros(len(log.time_s))
    angle[-count:] = np.minimum(np.arange(count) * 0.08, np.pi / 2.0) * rng.choice([-1.0, 1.0])
    axis = np.eye(3)[int(rng.integers(2))]
    turn = rotation.from_axis_angle(np.tile(axis, (len(angle), 1)), angle)
    names = [n for n in ("imu_quat_wxyz", "base_quat_wxyz") if n in log.fields]
    arrays = {name: rotation.multiply(log.fields[name], turn) for name in names}
    speed = np.gradient(angle) / np.median(np.diff(log.time_s))
    for name in ("imu_ang_vel_b", "base_ang_vel_b"):
        if has(log, name):
            turned = rotation.rotate_inverse(turn, log.fields[name])
            arrays[name] = turned + speed[:, None] * axis
    return Planted(edited(log, **arrays), "fallen")


def gain_change(log: Log, rng: np.random.Generator) -> Planted:
    """Recorded stiffness that falls to 50 to 90 % of itself."""
    stiffness = np.tile(log.fields["stiffness"], (len(log.time_s), 1))
    stiffness[_row(log, rng) :] *= rng.uniform(0.5, 0.9)
    return Planted(edited(log, stiffness=stiffness), "gain_change")


def action_convention(log: Log, rng: np.random.Generator) -> Planted:
    """Targets missing, or actions in their place, raw or scaled."""
    robot = Robot.load(log.robot)
    columns = robot.joint_ids(log.joint_names)
    target = log.fields["joint_pos_target"]
    scaled = target - robot.default_joint_pos[columns]
    given = {"absolute": target, "scaled": scaled, "raw": scaled / robot.action_scale[columns]}
    if rng.random() < 0.5:
        wrong = given[str(rng.choice(["scaled", "raw"]))]
        return Planted(edited(log, joint_pos_target=wrong, action=None), "action_convention")
    action = given[str(rng.choice(list(given)))]
    return Planted(edited(log, joint_pos_target=None, action=action), "action_convention")


PLANTS: dict[str, Plant] = {
    plant.__name__: plant
    for plant in (
        rate, gaps, duplicated_rows, clock_steps, ragged_ends, frame_offset, swapped_joints,
        flipped_joint, quaternion_order, stuck, saturated, quantised, target_copy, yaw_drift,
        base_origin, standing_still, fallen, gain_change, action_convention,
    )
}  # fmt: skip
"""By the name of the class, which is that of the finding."""

NEED_BASE = ("yaw_drift", "base_origin")
"""Defects of motion capture: there must be one."""


def edited(log: Log, **arrays: np.ndarray | None) -> Log:
    """The log with other channels; None takes one away."""
    pos, time_s = arrays.pop("joint_pos", None), arrays.pop("time_s", None)
    fields = {k: v for k, v in {**log.fields, **arrays}.items() if v is not None}
    return replace(
        log,
        joint_pos=log.joint_pos if pos is None else pos,
        time_s=log.time_s if time_s is None else time_s,
        fields=fields,
    )


def without_base(log: Log) -> Log:
    """What most labs have: an IMU and no motion capture."""
    return edited(log, **{name: None for name in log.fields if name.startswith("base_")})


def has(log: Log, name: str) -> bool:
    """Whether a channel was recorded."""
    return name == "joint_pos" or name in log.fields


def channel(log: Log, name: str) -> np.ndarray:
    """A copy of it, to be written."""
    array: np.ndarray = (log.joint_pos if name == "joint_pos" else log.fields[name]).copy()
    return array


def _measured(log: Log) -> dict[str, np.ndarray]:
    """Copies of all that sensors said."""
    return {name: channel(log, name) for name in _MEASURED if has(log, name)}


def _begins(log: Log) -> np.ndarray:
    """(T,) bool: the first row of an episode."""
    labels = log.fields.get("episode", np.zeros(len(log.time_s)))
    return np.concatenate([[True], labels[1:] != labels[:-1]])


def _row(log: Log, rng: np.random.Generator, margin: int = 40) -> int:
    """A row well inside an episode."""
    edges = [*np.flatnonzero(_begins(log)), len(log.time_s)]
    rows = [np.arange(a + margin, b - margin) for a, b in itertools.pairwise(edges)]
    return int(rng.choice(np.concatenate(rows)))


def _moving(log: Log, rng: np.random.Generator, *, least: float = 0.05) -> int:
    """A joint that moves."""
    return int(rng.choice(np.flatnonzero(np.ptp(log.joint_pos, axis=0) > least)))


def _sensor(
    log: Log, rng: np.random.Generator, *, least: float = 0.05
) -> tuple[str, np.ndarray, int]:
    """An encoder, a joint's speed or the gyro: channel, copy and column."""
    name = str(rng.choice(["joint_pos", "joint_vel", "imu_ang_vel_b"]))
    column = int(rng.integers(3)) if name == "imu_ang_vel_b" else _moving(log, rng, least=least)
    return name, channel(log, name), column


def _named(log: Log, name: str, column: int) -> tuple[str, ...]:
    return () if name.startswith("imu") else (log.joint_names[column],)


def _shifted(log: Log, name: str, rows: int) -> np.ndarray:
    """A channel some rows later, each episode for itself."""
    array, edges = channel(log, name), [*np.flatnonzero(_begins(log)), len(log.time_s)]
    for a, b in itertools.pairwise(edges):
        source = np.clip(np.arange(a, b) - rows, a, b - 1)
        array[a:b] = log.fields[name][source]
    return array


def _keep(log: Log, rows: np.ndarray, time_s: np.ndarray | None = None) -> Log:
    """Some rows, in this order."""
    fields = {name: array[rows] if name in WIDTHS or array.ndim == 2 else array
              for name, array in log.fields.items()}  # fmt: skip
    times = log.time_s[rows] if time_s is None else time_s
    return replace(log, time_s=times, joint_pos=log.joint_pos[rows], fields=fields)
