"""One control step of a log in simulation: which velocities do these targets lead to?

From chosen rows the simulated robot starts in the measured state and makes one step. Around the
recorded targets the next velocities are linear in them, so one look answers for every other set of
targets: swapped, flipped, later, weaker.

    ahead = one_step_ahead(view)
    error = ahead.error(target)                  # (W, J) [rad/s] for targets (W, J)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from asap.log_check_delay import measure_delay
from asap.log_check_view import View
from asap.robot import Robot
from asap.sim import CpuSimulation
from asap_deploy.log import Log

SINKS_M = (0.0, 0.0005, 0.001, 0.002)
"""How deep soles may stand in a soft floor; the depth that predicts best is taken [m]."""

ROWS = 80
"""As many rows of a log are simulated at most."""

_SHARE_ROWS = 4
"""As many rows tell how late targets act."""

_NUDGE = 0.01
"""Change of a target by which its effect is measured [rad]."""

_FLOOR = 0.05
"""Errors below this are noise, whatever caused them [rad/s]."""

_FLIGHT_M = 0.05
"""A base that is higher than its legs by this much flies [m]."""


class Ahead(NamedTuple):
    """W rows one step ahead; J joints of the robot, in its order."""

    columns: np.ndarray
    """(J,) their places in the log"""
    rows: np.ndarray
    """(W,) in the log"""
    vel: np.ndarray
    """(W, J) measured one row later [rad/s]"""
    predicted: np.ndarray
    """(W, J) for the targets of the log [rad/s]"""
    target: np.ndarray
    """(W, J) those targets, delayed [rad]"""
    effect: np.ndarray
    """(W, J, J): change of velocity k for a change of target l [1/s]"""
    sink_m: float
    """How deep soles stand in the floor in these predictions [m]"""
    late_rows: float
    """By which targets were taken to act later than they stand in the log"""

    def error(self, target: np.ndarray) -> np.ndarray:
        """Measured minus predicted velocities (W, J) [rad/s] for other targets (W, J) [rad]."""
        change = np.einsum("wkl,wl->wk", self.effect, target - self.target)
        missed: np.ndarray = self.vel - self.predicted - change
        return missed


def badness(error: np.ndarray) -> float:
    """Twice the negative log likelihood of errors (W, J), each joint with its scale."""
    return float(len(error) * log_squares(error).sum())


def log_squares(error: np.ndarray) -> np.ndarray:
    """Logarithm of the mean square of errors (W, ...), by joint.

    The smaller four fifths of a joint count, so that steps of the feet do not decide.
    """
    squares = np.sort(error**2, axis=0)[: max(1, int(0.8 * len(error)))]
    found: np.ndarray = np.log(squares.mean(axis=0) + _FLOOR**2)
    return found


def joint_columns(view: View) -> np.ndarray | None:
    """Places in the log of the robot's joints; None if there is no robot or a joint lacks."""
    robot, names = view.robot, view.log.joint_names
    if robot is None or any(name not in names for name in robot.joint_names):
        return None
    return np.array([names.index(name) for name in robot.joint_names], dtype=np.intp)


def one_step_ahead(
    view: View,
    *,
    target: np.ndarray | None = None,
    effects: bool = True,
    rows: int = ROWS,
    sinks_m: Sequence[float] = SINKS_M,
) -> Ahead | None:
    """Simulate one step from rows all over the log.

    Args:
        view: A log with attitudes, and its robot.
        target: (T, J) in place of the log's [rad].
        effects: Also what other targets would do; the most of the cost. Without, ``effect`` is 0.
        rows: How many are simulated at most.
        sinks_m: Depths of soles that are tried; all rows are predicted for each.

    Returns:
        What would follow, or None if log or robot do not allow it.
    """
    own = target is None and effects and rows == ROWS
    if own and "ahead" in view.shared:
        kept: Ahead | None = view.shared["ahead"]
        return kept
    given = view.log.fields.get("joint_pos_target") if target is None else target
    ahead = None if given is None else _look_ahead(view, given, effects, rows, sinks_m)
    if own:
        view.shared["ahead"] = ahead
    return ahead


def late_shares(view: View, ahead: Ahead, parts: Sequence[float]) -> np.ndarray:
    """How much of a target's effect on its joint is left if it arrives within the step.

    A motor that reaches its speed within a step forgets when it was told: a target that arrives
    half a step late has more than half of its effect.

    Args:
        view: As for ``ahead``.
        ahead: One step, of the same log.
        parts: Parts of a step by which targets are late, P of them, between 0 and 1.

    Returns:
        Shares (P, J), 1 for a target that is in time.
    """
    robot, joints = _robot_of(view, ahead.columns), len(ahead.columns)
    places = np.unique(np.linspace(0, len(ahead.rows) - 1, _SHARE_ROWS).astype(int))
    qpos, qvel = _states(view, robot, ahead.columns, ahead.rows[places], sink_m=ahead.sink_m)
    sim = CpuSimulation(robot, joints + 1, threads=1, max_delay_s=robot.control_dt)
    nudges = _NUDGE * np.eye(joints + 1, joints)
    effects = []
    for part in (0.0, *parts):
        sim.set_delay(part * robot.control_dt)
        found = []
        for place, row in enumerate(places):
            ids, target = np.full(joints + 1, place), ahead.target[row]
            before = np.tile(target, (joints + 1, 1))
            sim.reset(np.arange(joints + 1), qpos[ids], qvel[ids], joint_pos_target=before)
            sim.step(target + nudges)
            found.append((np.diag(sim.joint_vel[:-1]) - sim.joint_vel[-1]) / _NUDGE)
        effects.append(np.median(found, axis=0))
    shares: np.ndarray = np.clip(np.array(effects[1:]) / np.maximum(effects[0], 1e-9), 0.0, 1.0)
    return shares


def _look_ahead(
    view: View, target: np.ndarray, effects: bool, most: int, sinks_m: Sequence[float]
) -> Ahead | None:
    """The simulation itself."""
    columns, fields = joint_columns(view), view.log.fields
    rows = _under(view, _usual_gains(view), view.rows(before=4, after=2))
    if columns is None or _attitudes(view) is None or len(rows) < 20:
        return None
    robot = _robot_of(view, columns)
    if not robot.has_free_base or not robot.foot_names:
        return None
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, most).astype(int))]
    late = measure_delay(view, resamples=0) if "joint_pos_target" in fields else None
    late_rows = 0.0 if late is None else late.rows
    delayed = delayed_target(target, rows, late_rows)[:, columns]
    sim = CpuSimulation(robot, len(columns) + 1, threads=1)
    qpos, qvel = _states(view, robot, columns, rows)
    vel = view.joint_vel[rows + 1][:, columns]
    down = np.zeros(qpos.shape[1])
    down[2] = 1.0
    tries = [_predict(sim, qpos - sink_m * down, qvel, delayed) for sink_m in sinks_m]
    best = int(np.argmin([badness(np.nan_to_num(vel - p, nan=1e3)) for p in tries]))
    effect = np.zeros((*vel.shape, vel.shape[1]))
    if effects:
        effect = _effects(sim, qpos - sinks_m[best] * down, qvel, delayed, tries[best])
    good = np.isfinite(effect).all(axis=(1, 2)) & np.isfinite(tries[best]).all(axis=1)
    if good.sum() < 20:
        return None
    return Ahead(columns, rows[good], vel[good], tries[best][good], delayed[good], effect[good],
                 sinks_m[best], late_rows)  # fmt: skip


class Again:
    """The same rows one step ahead, for logs whose channels stand in other places.

    error = Again(view, ahead).error(log)        # (W, J) [rad/s]
    """

    def __init__(self, view: View, ahead: Ahead) -> None:
        """Make the simulation, once for all logs."""
        self._view, self._ahead = view, ahead
        self._robot = _robot_of(view, ahead.columns)
        self._sim = CpuSimulation(self._robot, len(ahead.rows), threads=1)

    def error(self, log: Log) -> np.ndarray:
        """Measured minus predicted velocities (W, J); nan where the simulation failed [rad/s]."""
        view, rows, columns = self._view.with_log(log), self._ahead.rows, self._ahead.columns
        qpos, qvel = _states(view, self._robot, columns, rows, sink_m=self._ahead.sink_m)
        target = log.fields["joint_pos_target"]
        delayed = delayed_target(target, rows, self._ahead.late_rows)[:, columns]
        missed: np.ndarray = view.joint_vel[rows + 1][:, columns] - _step(
            self._sim, qpos, qvel, delayed)  # fmt: skip
        return missed


def _robot_of(view: View, columns: np.ndarray) -> Robot:
    """The robot with the gains and the step of the log, and without delay."""
    assert view.robot is not None
    gains = {name: gain[columns] for name, gain in _usual_gains(view).items()}
    count = max(1, round(view.step_s / view.robot.physics_dt))
    dt = view.step_s / count
    return view.robot.with_(
        physics_dt=dt, control_dt=count * dt, delay_s=np.zeros(len(columns)), **gains
    )


def _usual_gains(view: View) -> dict[str, np.ndarray]:
    """Gains (J,) that the motors were told, of a row in the middle where they changed."""
    found = {}
    for name in ("stiffness", "damping"):
        if name in view.log.fields:
            told = np.atleast_2d(view.log.fields[name])
            found[name] = told[np.argsort(told.sum(axis=1))[len(told) // 2]]
    return found


def _under(view: View, gains: dict[str, np.ndarray], rows: np.ndarray) -> np.ndarray:
    """Those rows in which the motors were told these gains."""
    for name, usual in gains.items():
        told = view.log.fields[name]
        if told.ndim == 2:
            rows = rows[(np.abs(told[rows] - usual) <= 0.01 * usual).all(axis=1)]
    return rows


def delayed_target(target: np.ndarray, rows: np.ndarray, late: float) -> np.ndarray:
    """Mean target (W, J) in force at the motors during the step after each row."""
    late = float(np.clip(late, 0.0, 2.99))
    whole, part = int(late), late - int(late)
    mixed: np.ndarray = (1.0 - part) * target[rows - whole] + part * target[rows - whole - 1]
    return mixed


def _attitudes(view: View) -> np.ndarray | None:
    """Of the base (T, 4), by motion capture or IMU."""
    fields = view.log.fields
    return fields.get("base_quat_wxyz", fields.get("imu_quat_wxyz"))


def _states(
    view: View, robot: Robot, columns: np.ndarray, rows: np.ndarray, *, sink_m: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Positions (W, nq) and velocities (W, nv) of the whole robot, the lower sole in the floor."""
    fields, pos, quat = view.log.fields, view.log.joint_pos[:, columns], _attitudes(view)
    assert quat is not None, "there was none to look ahead from"
    spin = fields.get("imu_ang_vel_b", fields.get("base_ang_vel_b"))
    origin = np.zeros((len(rows), 3))
    body_pos, body_quat = robot.forward_kinematics(origin, quat[rows], pos[rows])
    height = robot.sole_clearance(body_pos, body_quat)
    base_pos = origin.copy()
    base_pos[:, 2] = -height.min(axis=1)
    if "base_pos_w" in fields:
        rise = fields["base_pos_w"][rows, 2] - base_pos[:, 2]
        # Markers sit anywhere: most of the time the robot stands, and that is the floor.
        for episode in np.unique(view.episodes[rows]):
            mine = view.episodes[rows] == episode
            rise[mine] -= np.median(rise[mine])
        base_pos[:, 2] += np.where(rise > _FLIGHT_M, rise, 0.0)
    if "base_lin_vel_w" in fields:
        lin_vel = fields["base_lin_vel_w"][rows]
    else:
        # The lower foot stands: the base moves against it.
        feet = robot.body_index(robot.foot_names)
        place = [robot.forward_kinematics(origin, quat[r], pos[r])[0] for r in (rows - 1, rows + 1)]
        moved = (place[1] - place[0])[np.arange(len(rows)), feet[height.argmin(axis=1)]]
        lin_vel = -moved / (2.0 * view.step_s)
    qvel = np.zeros((len(rows), robot.model.nv))
    qvel[:, :3] = lin_vel
    qvel[:, 3:6] = 0.0 if spin is None else spin[rows]
    qvel[:, robot.qvel_ids] = view.joint_vel[rows][:, columns]
    base_pos[:, 2] -= sink_m
    return robot.qpos(base_pos, quat[rows], pos[rows]), qvel


def _predict(
    sim: CpuSimulation, qpos: np.ndarray, qvel: np.ndarray, target: np.ndarray
) -> np.ndarray:
    """Velocities (W, J) after one step, nan where the simulation failed."""
    found = np.empty(target.shape)
    for start in range(0, len(target), sim.num_envs):
        part = slice(start, start + sim.num_envs)
        count = len(target[part])
        fill = np.minimum(np.arange(sim.num_envs), count - 1)
        found[part] = _step(sim, qpos[part][fill], qvel[part][fill], target[part][fill])[:count]
    return found


def _effects(
    sim: CpuSimulation, qpos: np.ndarray, qvel: np.ndarray, target: np.ndarray, usual: np.ndarray
) -> np.ndarray:
    """Changes (W, J, J) of the velocities with each target, by differences."""
    joints = target.shape[1]
    nudges = np.concatenate([_NUDGE * np.eye(joints), np.zeros((1, joints))])
    found = np.empty((len(target), joints, joints))
    for row in range(len(target)):
        ids = np.full(sim.num_envs, row)
        after = _step(sim, qpos[ids], qvel[ids], target[row] + nudges)
        found[row] = (after[:-1] - usual[row]).T / _NUDGE
    return found


def _step(sim: CpuSimulation, qpos: np.ndarray, qvel: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Velocities (N, J) after one step."""
    sim.reset(np.arange(sim.num_envs), qpos, qvel)
    sim.step(target)
    return np.where(sim.failed[:, None], np.nan, sim.joint_vel)
