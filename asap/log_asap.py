"""The two recordings that ASAP's own code writes: from the robot (npz) and from simulation (pkl).

Their listener stores, fifty times a second, the latest message of the motors, of the commands and
of the motion capture: the law of our logs. Their recorder stores the state that an action led to:
``state[i] --action[i + 1]--> state[i + 1]``, so every action moves up one row here. Neither
documents the frame of the base's velocity: it is found by differentiating the base's pose, or the
channel is left out.

    draft = listener_draft(load_npz("motion_3.npz"), path)
    draft = recorder_draft(load_pickle("delta_a_data.pkl"), path)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from asap.log_channels import apply_columns
from asap.log_clean import Draft
from asap.log_columns import Channel, ColumnMap
from asap.log_tables import Table, Tables
from asap.motion_formats import G1_JOINTS, G1_JOINTS_23
from asap.robot import Robot
from asap_deploy.errors import InputError
from asap_deploy.rotation import ang_vel_w, continuous, rotate, rotate_inverse, wxyz_from_xyzw

LISTENER_KEYS = frozenset({"time", "joint_pos", "joint_pos_cmd", "IMU_quaternion"})
RECORDER_KEYS = frozenset({"root_trans_offset", "root_rot", "dof", "action", "terminate", "fps"})
ASAP_ROBOT = "g1:asap"
ACTION_SCALE = 0.25
"""Of every policy of ASAP [rad]; the recorder stores the action before scaling."""

_SOURCES = {
    "joint_pos": "joint_pos", "joint_vel": "joint_vel", "joint_pos_target": "joint_pos_cmd",
    "torque_est": "tau_est", "stiffness": "kp", "damping": "kd",
    "imu_quat_wxyz": "IMU_quaternion", "imu_ang_vel_b": "IMU_gyro", "imu_lin_acc_b": "IMU_acc",
    "base_pos_w": "pos", "base_quat_wxyz": "quat", "base_lin_vel_w": "lin_vel",
    "base_ang_vel_b": "ang_vel",
}  # fmt: skip
_VELOCITY_KEYS = ("dof_vel", "root_lin_vel", "root_ang_vel")
_BASE = ("pos", "quat", "lin_vel", "ang_vel")
_NOT_KEPT = {"joint_vel_cmd": "velocity targets", "tau_cmd": "feed-forward torques"}
_KNOWN_SHARE = 0.95
"""A pose of the base that is known in fewer rows is left out as a whole."""

_TRUSTED = 0.5
"""A velocity that differs from the differentiated pose by more than this share is left out."""


def listener_draft(arrays: Mapping[str, np.ndarray], path: Path) -> Draft:
    """A recording of a real G1 by ASAP's listener.

    Args:
        arrays: Of the npz file.
        path: Named in errors.

    Raises:
        InputError: If an array has not the shape that the listener gives it.
    """
    notes: list[str] = []
    kept = {key: array for key, array in arrays.items() if not _never_came(key, array, notes)}
    for key, what in _NOT_KEPT.items():
        if key in kept and kept[key].dtype.kind in "iuf" and np.any(kept[key] != 0.0):
            notes.append(f"'{key}' is not zero: {what} were sent, and a log of ours holds none")
    if not {"pos", "quat"} <= set(kept):
        kept = {key: array for key, array in kept.items() if key not in _BASE}
    columns = ColumnMap(
        channels={
            name: Channel(name=name, source=(key,), optional=key not in LISTENER_KEYS)
            for name, key in _SOURCES.items()
            if key in kept or key in LISTENER_KEYS
        },
        joint_names=G1_JOINTS, time_from="time", robot="g1", origin="ASAP listener recording",
    )  # fmt: skip

    def column(name: str) -> np.ndarray:
        if name not in kept:
            raise InputError(f"the recording lacks '{name}', or it is all zero", file=path)
        return kept[name]

    table = Table(tuple(kept), column)
    draft = apply_columns(columns, Tables("npz", {"": table}, []), path)
    starts = np.zeros(len(draft.time_s), dtype=bool)
    return _with_frames(draft._replace(notes=(*notes, *draft.notes)), starts)


def _never_came(key: str, array: np.ndarray, notes: list[str]) -> bool:
    """Whether a stream was silent: its array holds the zeros that it was made with."""
    measured = key in _BASE or key == "tau_est" or key.startswith("IMU_")
    if not measured or array.dtype.kind not in "iuf" or array.ndim != 2 or not len(array):
        return False
    share = float(np.any(array != 0.0, axis=1).mean())
    silent = share < _KNOWN_SHARE if key in ("pos", "quat") else share == 0.0
    if silent:
        notes.append(f"'{key}' left out: it is zero in {1.0 - share:.0%} of the rows")
    return silent


def recorder_draft(content: Mapping[str, Any], path: Path) -> Draft:
    """All episodes of a recording by ASAP's evaluation in simulation.

    Args:
        content: Of the pickle: clips by name.
        path: Named in errors.

    Raises:
        InputError: If an array is missing or has not the shape that the recorder gives it.
    """
    clips = [clip for clip in content.values() if isinstance(clip, dict)]
    parts = [_clip_channels(clip, path) for clip in clips]
    rates = {round(float(part["fps"][0]), 6) for part in parts}
    if len(rates) != 1:
        raise InputError(f"the episodes have different rates: {sorted(rates)[:4]} Hz", file=path)
    both = set.intersection(*(set(part) for part in parts))
    episodes, first = [], 0
    for part in parts:
        episodes.append(first + np.cumsum(part["starts"]) - 1)
        first = int(episodes[-1][-1]) + 1
    joined = {key: np.concatenate([part[key] for part in parts]) for key in both}
    rows, fps = len(joined["starts"]), rates.pop()
    notes = [
        f"{first} episodes in {len(parts)} clips; the last row of each clip is left out: the "
        "action that follows it is not in the file",
        f"joint_pos_target = ASAP's default pose + {ACTION_SCALE} * action",
    ]
    if np.ptp(joined["base_pos_w"][joined["starts"].astype(bool), :2], axis=0).max() > 2.0:
        notes.append("episodes start metres apart: base positions hold each robot's place on the "
                     "training floor")  # fmt: skip
    robot = Robot.load(ASAP_ROBOT)
    default = [robot.default_joint_pos[robot.joint_names.index(name)] for name in G1_JOINTS_23]
    fields = {key: joined[key] for key in sorted(both - {"starts", "fps", "joint_pos"})}
    fields["episode"] = np.concatenate(episodes).astype(np.int64)
    fields["joint_pos_target"] = np.array(default) + ACTION_SCALE * joined["action"]
    draft = Draft(G1_JOINTS_23, np.arange(rows) / fps, joined["joint_pos"], fields, ASAP_ROBOT,
                  "ASAP recorder, simulation", tuple(notes))  # fmt: skip
    return _with_frames(draft, joined["starts"].astype(bool))


def is_recorder(content: Any) -> bool:
    """Whether a pickle holds clips of the recorder."""
    if not isinstance(content, dict) or not content:
        return False
    return all(isinstance(c, dict) and set(c) >= RECORDER_KEYS for c in content.values())


def _clip_channels(clip: Mapping[str, Any], path: Path) -> dict[str, np.ndarray]:
    """Channels of one clip, one row fewer than it has; ``starts`` marks the first of an episode."""
    joints = len(G1_JOINTS_23)
    joint_pos = _array(clip, "dof", (None, joints), path)
    rows = len(joint_pos)
    if rows < 3:
        raise InputError(f"a clip has {rows} rows, at least 3 are needed", file=path)
    starts = _array(clip, "terminate", (rows,), path) != 0.0
    starts[0] = True
    fps = _array(clip, "fps", (), path)
    if not 1.0 <= float(fps) <= 1e4:
        raise InputError(f"fps is {float(fps):g}, expected 1 to 10000 Hz", file=path)
    channels = {
        "joint_pos": joint_pos[:-1],
        # state[i] --action[i+1]--> state[i+1]
        "action": _array(clip, "action", (rows, joints), path)[1:],
        "base_pos_w": _array(clip, "root_trans_offset", (rows, 3), path)[:-1],
        "base_quat_wxyz": wxyz_from_xyzw(_array(clip, "root_rot", (rows, 4), path))[:-1],
        "starts": starts[:-1].astype(np.float64),
        "fps": np.full(rows - 1, float(fps)),
    }
    widths = {"joint_vel": joints, "base_lin_vel_w": 3, "base_ang_vel_b": 3}
    for (name, width), key in zip(widths.items(), _VELOCITY_KEYS, strict=True):
        if key in clip:
            channels[name] = _array(clip, key, (rows, width), path)[:-1]
    return channels


def _array(
    clip: Mapping[str, Any], key: str, shape: tuple[int | None, ...], path: Path
) -> np.ndarray:
    """An array of numbers; a trailing axis of one is dropped where none is expected."""
    value = clip[key] if isinstance(clip[key], (np.ndarray, int, float, list)) else ""
    try:
        array = np.asarray(value)
    except ValueError:
        array = np.array("")
    if array.ndim == len(shape) + 1 and array.shape[-1] == 1:
        array = array[..., 0]
    fits = array.ndim == len(shape) and all(
        want in (None, have) for want, have in zip(shape, array.shape, strict=True)
    )
    if array.dtype.kind not in "biuf" or not fits:
        wanted = ", ".join("any" if n is None else str(n) for n in shape)
        raise InputError(f"'{key[:40]}' has shape {array.shape} and type {array.dtype}, expected "
                         f"numbers ({wanted})", file=path)  # fmt: skip
    with np.errstate(invalid="ignore"):  # single-precision NaN; refused later
        return array.astype(np.float64)


def _with_frames(draft: Draft, starts: np.ndarray) -> Draft:
    """The base's velocities in our frames, judged by its pose; what fits neither is left out."""
    fields, notes = dict(draft.fields), list(draft.notes)
    pos, quat = fields.get("base_pos_w"), fields.get("base_quat_wxyz")
    given = [name for name in ("base_lin_vel_w", "base_ang_vel_b") if name in fields]
    sound = (
        pos is not None and quat is not None and len(draft.time_s) > 4
        and np.isfinite(pos).all() and np.isfinite(quat).all()
        and (np.linalg.norm(quat, axis=1) > 0.5).all()
    )  # fmt: skip
    for name in given:
        velocity = fields.pop(name)
        if not sound or not np.isfinite(velocity).all():
            notes.append(f"{name} left out: its frame cannot be told without a whole base pose")
            continue
        assert pos is not None and quat is not None
        unit = quat / np.linalg.norm(quat, axis=1, keepdims=True)
        step = float(np.median(np.diff(draft.time_s)))
        if name == "base_lin_vel_w":
            truth = np.gradient(pos, max(step, 1e-6), axis=0)
        else:
            truth = ang_vel_w(continuous(unit), 1.0 / max(step, 1e-6))
        # Differences across the start of an episode are jumps, not velocities.
        smooth = ~(starts | np.roll(starts, -1) | np.roll(starts, 1))
        found, note = _frame(name, velocity, truth, unit, smooth)
        notes.append(note)
        if found is not None:
            fields[name] = found
    return draft._replace(fields=fields, notes=tuple(notes))


def _frame(
    name: str, velocity: np.ndarray, truth_w: np.ndarray, quat: np.ndarray, smooth: np.ndarray
) -> tuple[np.ndarray | None, str]:
    """A velocity in the frame of its name, and what was found out about the file's."""
    in_world = {"world": velocity, "base": rotate(quat, velocity)}
    errors = {
        frame: float(np.sqrt(np.mean((value - truth_w)[smooth] ** 2))) if smooth.any() else np.inf
        for frame, value in in_world.items()
    }
    scale = float(np.sqrt(np.mean(truth_w[smooth] ** 2))) if smooth.any() else 0.0
    frame = min(errors, key=lambda key: errors[key])
    if errors[frame] > _TRUSTED * scale + 0.02:
        return None, (f"{name} left out: it differs from the differentiated pose by "
                      f"{errors[frame]:.2g} of {scale:.2g} in either frame")  # fmt: skip
    note = (f"{name}: the file's is in the {frame} frame (against the differentiated pose: world "
            f"{errors['world']:.2g}, base {errors['base']:.2g})")  # fmt: skip
    ours_w = in_world[frame]
    return (rotate_inverse(quat, ours_w) if name.endswith("_b") else ours_w), note
