"""Logs of a robot as episodes: the states that it was in, what it was told, what that was worth.

    episodes = episodes_of(log, task)                # one for each run of the clip, or piece of one

Rewards are those of the task, of the recorded states; what a log cannot say, forces under the feet,
is simulated step by step from there. The robot is laid where the clip begins, for rewards are of a
place in the room, and a log without motion capture has none: it is refused. The end of a log is
never an end of the task, unless the clip was over or the robot had failed. Actions are those that
command the targets that were in force, cut at joint limits as these were.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np

from asap.log_import import open_log
from asap.log_states import Track, log_track
from asap.posttrain.episode import POLICY, REPLAY, Episode, load_episodes
from asap.posttrain.humanoid import TrackingTask
from asap.posttrain.robots import FAILED, Labelled
from asap_deploy import rotation
from asap_deploy.errors import InputError
from asap_deploy.log import Log
from asap_deploy.npz import load_npz

_LEAST_S = 0.2
"""Shorter pieces say nothing."""
_PHASE = 0.25
"""Rows whose frame is farther off a whole number than this belong to another clip or rate."""


def open_data(path: Path, task: TrackingTask) -> list[Episode]:
    """Episodes of a recipe's file, or of a log of any kind that `asap logs` reads.

    Raises:
        InputError: If it is neither, or a log that cannot be labelled.
    """
    if path.suffix == ".npz" and "facts" in load_npz(path):
        return load_episodes(path)
    try:
        return episodes_of(open_log(path, robot=task.robot).log, task)
    except InputError as error:
        raise InputError(str(error), file=path) from None


def episodes_of(log: Log, task: TrackingTask) -> list[Episode]:
    """Every run of the task's clip in a log.

    Args:
        log: Of the clip that the task has, with ``phase`` and the base's position.
        task: Labels; its own episodes are lost.

    Raises:
        InputError: If a channel is missing or nothing of the clip is in it.
    """
    for name, why in (("phase", "where in the clip each row is cannot be known"),
                      ("base_pos_w", "rewards are of a place in the room: record with motion "
                       "capture, or an estimate of the base")):  # fmt: skip
        if name not in log.fields:
            raise InputError(f"log has no '{name}': {why}")
    found: list[Episode] = []
    for stretch in log.segments():
        track = log_track(stretch, task.robot, rate_hz=1.0 / task.control_dt)
        phase = np.interp(track.time_s, stretch.time_s, stretch.fields["phase"])
        frames = _frames(phase, task)
        found += [_episode(track, rows, frames[rows].astype(int), task, stretch)
                  for rows in _pieces(frames, task)]  # fmt: skip
    if not found:
        raise InputError(f"no {_LEAST_S} s of clip '{task.motion}' in the log: was it another "
                         "clip, or another control rate?")  # fmt: skip
    return found


def _frames(phase: np.ndarray, task: TrackingTask) -> np.ndarray:
    """(T,) frame of the clip, whole where a row is one of a policy's steps, else NaN."""
    clip = task.policy.contract.clip
    assert clip is not None, "a task has a clip"
    frames = (phase * clip.duration_s - clip.phase_lead_s) / task.control_dt
    whole = np.round(frames)
    there = (np.abs(frames - whole) < _PHASE) & (whole >= 0) & (whole <= task.steps)
    return np.where(there, whole, np.nan)


def _pieces(frames: np.ndarray, task: TrackingTask) -> list[slice]:
    """Stretches of rows in which the clip goes on by one frame a row."""
    broken = np.flatnonzero(~(np.abs(np.diff(frames) - 1.0) < 1e-9)) + 1
    edges = [0, *broken.tolist(), len(frames)]
    least = round(_LEAST_S / task.control_dt)
    return [slice(a, b) for a, b in itertools.pairwise(edges) if b - a > least]


def _episode(
    track: Track, rows: slice, frames: np.ndarray, task: TrackingTask, log: Log
) -> Episode:
    """One piece, up to where the robot failed."""
    qpos, qvel = _laid(track.qpos[rows], track.qvel[rows], frames[0], task)
    target = track.joint_pos_target[rows][:-1]
    told = task.robots.labelled(qpos, qvel, frames, target)
    steps = _until_failed(told)
    ended = bool(told.terms[FAILED][steps - 1]) or frames[steps] >= task.steps
    robot, last = task.robot, np.arange(steps) == steps - 1
    channels = {
        "joint_pos": qpos[:, robot.qpos_ids], "joint_vel": qvel[:, robot.qvel_ids],
        "base_quat_wxyz": qpos[:, 3:7], "base_ang_vel_b": qvel[:, 3:6], "base_pos_w": qpos[:, :3],
        "base_lin_vel_w": qvel[:, :3], "time_s": frames * task.control_dt,
    }  # fmt: skip
    action = told.action[:steps]
    same = log.policy_hash == task.policy.sha256
    return Episode(
        channels={name: array[: steps + 1] for name, array in channels.items()},
        action_policy=action, action_executed=action,
        source=np.full(steps, POLICY if same else REPLAY),
        operator_mask=np.zeros(action.shape, dtype=bool),
        reward_terms={name: value[:steps] for name, value in told.terms.items()},
        terminated=last & ended, truncated=last & (not ended),
        success=ended and not told.terms[FAILED][steps - 1], judge="rule", robot=task.name,
        environment="real", policy_sha256=log.policy_hash, motion=task.motion,
        control_dt=task.control_dt,
    )  # fmt: skip


def _laid(
    qpos: np.ndarray, qvel: np.ndarray, frame: int, task: TrackingTask
) -> tuple[np.ndarray, np.ndarray]:
    """States (T, nq), (T, nv) turned and moved so that the first is where the clip has it."""
    pos, quat = task.base_of_clip(frame)
    turn = rotation.from_yaw(rotation.yaw(quat) - rotation.yaw(qpos[0, 3:7]))
    qpos, qvel = qpos.copy(), qvel.copy()
    away = qpos[:, :3] - [*qpos[0, :2], 0.0]
    qpos[:, :3] = rotation.rotate(turn, away)
    qpos[:, :2] += pos[:2]
    qpos[:, 3:7] = rotation.multiply(turn, qpos[:, 3:7])
    qvel[:, :3] = rotation.rotate(turn, qvel[:, :3])
    return qpos, qvel


def _until_failed(told: Labelled) -> int:
    """Steps up to the first in which it failed."""
    failed = np.flatnonzero(told.terms[FAILED])
    return int(failed[0]) + 1 if len(failed) else len(told.action)
