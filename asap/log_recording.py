"""Recordings of ``asap-deploy run`` as logs: measured at a row's time, target in force from then.

The robot's own tick is the clock of the log. When a state was measured, by our clock, is its tick
plus the shortest transport that was seen around it, so a state that arrived late is not late in
the log. The target of a row is the one that was in force for most of the time until the next.

    draft = recording_draft(Path("run.mcap"))
    log, notes = sound_log(draft, path)
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from asap.log_clean import Draft
from asap_deploy.errors import InputError
from asap_deploy.recording import Tables, is_recording, open_recording
from asap_deploy.states import MODES

__all__ = ["is_recording", "recording_draft"]

TICK_S = 1e-3
_DRIVEN = (MODES.index("track"), MODES.index("hold"))
_BLOCK_S = 2.0
_MEASURED = {"joint_vel": "joint_vel", "torque_est": "torque_est",
             "imu_quat_wxyz": "imu_quat_wxyz", "imu_ang_vel_b": "imu_ang_vel_b",
             "imu_lin_acc_b": "imu_lin_acc_b"}  # fmt: skip


def recording_draft(path: Path) -> Draft:
    """Read a recording, also one that was cut off.

    Where a policy drove the robot, those rows alone are taken: damping and standing up have other
    gains. A recording without commands gives what was measured.

    Raises:
        InputError: If it is none of ours, or holds too little.
    """
    tables = open_recording(path)
    notes = [] if tables.finished else ["the recording was cut off: what was whole is read"]
    states, rows = _believed(tables, notes)
    if len(states) < 2:
        raise InputError(f"the recording holds {len(states)} sound states", file=path)
    measured_s = _measured_s(states)
    keep = np.ones(len(states), dtype=bool)
    fields: dict[str, np.ndarray] = {}
    if len(tables.commands):
        keep = _commanded(tables, measured_s, fields)
    if len(tables.actions):
        keep = _acted(tables, measured_s, fields, keep, notes)
    if keep.sum() < 2:
        raise InputError("the robot was never driven in this recording", file=path)
    left_out = rows - int(keep.sum())
    if left_out:
        notes.append(f"{left_out} of {rows} states left out: no policy drove the robot then")
    for name, ours in _MEASURED.items():
        fields[ours] = states[name].astype(np.float64)
    facts = tables.facts
    return Draft(
        joint_names=tuple(facts["joint_names"]),
        time_s=(states["tick"][keep].astype(np.int64) - int(states["tick"][0])) * TICK_S,
        joint_pos=states["joint_pos"][keep].astype(np.float64),
        fields={name: array[keep] for name, array in fields.items()},
        robot=str(facts.get("robot", "")),
        source=f"{facts.get('source', 'asap-deploy')}, link {facts.get('link', '')}",
        notes=tuple(notes),
    )


def _believed(tables: Tables, notes: list[str]) -> tuple[np.ndarray, int]:
    """States with a sound checksum whose tick is newer than any before."""
    states = tables.states
    ticks = states["tick"].astype(np.int64)
    sound = states["checksum_ok"] == 1
    newest = np.maximum.accumulate(np.where(sound, ticks, -1)) if len(ticks) else ticks
    before = np.concatenate([[-1], newest[:-1]]) if len(ticks) else ticks
    good = sound & (ticks > before)
    if not good.all():
        notes.append(f"{int((~good).sum())} states left out: wrong checksum, or not newer")
    return states[good], int(good.sum())


def _measured_s(states: np.ndarray) -> np.ndarray:
    """(T,) when each state was measured, by the clock of the robot computer [s]."""
    robot_s = states["tick"] * TICK_S
    transport = states["arrival_s"] - robot_s
    block = ((robot_s - robot_s[0]) // _BLOCK_S).astype(np.intp)
    numbers = np.unique(block)
    least = np.array([transport[block == number].min() for number in numbers])
    centre = np.array([robot_s[block == number].mean() for number in numbers])
    return np.asarray(robot_s + np.interp(robot_s, centre, least))


def _commanded(tables: Tables, measured_s: np.ndarray, fields: dict[str, np.ndarray]) -> np.ndarray:
    """Adds targets and gains; returns the rows (T,) in which the robot was not damped."""
    commands = tables.commands
    half = 0.5 * float(np.median(np.diff(measured_s)))
    place = np.searchsorted(commands["written_s"], measured_s + half, side="right") - 1
    row = np.maximum(place, 0)
    for ours in ("joint_pos_target", "stiffness", "damping"):
        fields[ours] = commands[ours][row].astype(np.float64)
    driven: np.ndarray = (place >= 0) & (commands["damped"][row] == 0)
    return driven


def _acted(
    tables: Tables, measured_s: np.ndarray, fields: dict[str, np.ndarray], keep: np.ndarray,
    notes: list[str],
) -> np.ndarray:  # fmt: skip
    """Adds what the policy said; returns the rows in which it drove, if it ever did."""
    actions = tables.actions
    half = 0.5 * float(np.median(np.diff(measured_s)))
    place = np.searchsorted(actions["time_s"], measured_s + half, side="right") - 1
    row = np.maximum(place, 0)
    mode = actions["mode"][row].astype(np.int64)
    driven = keep & np.isin(mode, _DRIVEN) & (place >= 0)
    if not driven.any():
        return keep
    fields["action"] = actions["action"][row].astype(np.float64)
    fields["phase"] = actions["phase"][row].astype(np.float64)
    fields["mode"] = mode
    # A new episode begins with every clip; its hold is an episode of its own.
    clip = actions["clip"][row].astype(np.int64)
    new = np.concatenate([[True], (mode[1:] != mode[:-1]) | (clip[1:] != clip[:-1])])
    fields["episode"] = np.cumsum(new) - 1
    notes.append("episodes are stretches of one clip, tracked or held (mode says which)")
    return driven
