"""A log as states that a simulator can start from: one clock, the robot's joint order, a base.

    track = log_track(log, Robot.load("g1"))          # one stretch of a log, see Log.segments
    sim.reset(env_ids, track.qpos[rows], track.qvel[rows])

Without motion capture the base is reckoned from what a robot knows: attitude by the IMU, position
by the legs, the lower foot standing still on the floor. That is good for some tenths of a second
and says nothing about where the robot is in the room.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import mujoco
import numpy as np
from scipy.ndimage import uniform_filter1d
from scipy.signal import savgol_filter

from asap.grounding import GRAVITY
from asap.robot import Robot
from asap_deploy import rotation
from asap_deploy.errors import InputError
from asap_deploy.log import Log

GAINS = ("stiffness", "damping")
_DENSE, _CALM_S = 4, 0.06
"""States of logs with so many rows a control step of the robot are read off parabolas through so
much of them: a simulation starts from a single row, and a standing foot that noise moves is pushed
back by the floor [s]."""
_AVERAGED_S = 0.1
"""The speed of a base that is reckoned from other logs is averaged over so long [s]."""
_TOUCH_M, _SINK_ROUNDS = 1e-4, 50
_PROBE_S = 1e-3
"""So far poses are moved on, at their speed, to see how fast a foot moves [s]."""


@dataclass(frozen=True, kw_only=True)
class Track:
    """T rows of one stretch, ``dt`` apart."""

    robot: Robot
    """With the log's rate, and its gains where they do not change."""
    time_s: np.ndarray
    """(T,) by the robot's clock [s]"""
    qpos: np.ndarray
    """(T, nq)"""
    qvel: np.ndarray
    """(T, nv)"""
    joint_pos_target: np.ndarray
    """(T, J) in force from each row until the next [rad]"""
    base_known: bool
    """The log has the base's position; otherwise it is reckoned and errors of it mean nothing."""

    @property
    def joint_pos(self) -> np.ndarray:
        """(T, J) measured [rad]."""
        return self.qpos[:, self.robot.qpos_ids]


def at_log_rate(robot: Robot, rate_hz: float) -> Robot:
    """The robot with control steps as long as the log's rows.

    The physics step changes a little where it does not divide them: a log of 48.9 Hz is replayed
    at 48.9 Hz.
    """
    control_dt = 1.0 / rate_hz
    if abs(control_dt - robot.control_dt) < 1e-5 * control_dt:
        return robot
    physics_dt = control_dt / max(1, round(control_dt / robot.physics_dt))
    return robot.with_(control_dt=control_dt, physics_dt=physics_dt)


def with_logged_gains(robot: Robot, log: Log) -> Robot:
    """The robot with the gains that its motors were told, where the log says.

    A twin whose motors answer more weakly than they are told does so under any gains.
    """
    columns = columns_of(log, robot)
    nominal = Robot.load(robot.name.partition("@")[0]) if "@" in robot.name else robot
    changes = {}
    for name in GAINS:
        if name in log.fields:
            told = told_gain(log, name)[columns]
            usual, own = getattr(nominal, name), getattr(robot, name)
            ratio = np.where(usual > 0.0, own / np.maximum(usual, 1e-12), 1.0)
            changes[name] = told * ratio
    return robot.with_(**changes) if changes else robot


def told_gain(log: Log, name: str) -> np.ndarray:
    """(J,) the gain that the motors were told, the median where it changed."""
    return np.median(np.atleast_2d(log.fields[name]), axis=0)


def as_logged(robot: Robot, log: Log, *, rate_hz: float | None = None) -> Robot:
    """The robot at the log's rate and under its gains."""
    return with_logged_gains(at_log_rate(robot, rate_hz or log.rate_hz), log)


def log_track(log: Log, robot: Robot, *, rate_hz: float | None = None) -> Track:
    """Lay a stretch of a log out for a robot.

    Rows whose stamps are on an even clock are taken as they are, to the bit; others are
    interpolated onto one, targets held. States of logs with four rows a control step or more are
    read off parabolas through 60 ms of them.

    Args:
        log: Without gaps.
        robot: Holds every joint; those of the log that it lacks are left out.
        rate_hz: Of the whole log, where this is a piece of it.

    Raises:
        InputError: If the log lacks targets, joints, or any attitude of a free base.
    """
    if "joint_pos_target" not in log.fields:
        raise InputError("log has no joint_pos_target: there is nothing to replay")
    columns = columns_of(log, robot)
    if robot.has_free_base and not {"imu_quat_wxyz", "base_quat_wxyz"} & set(log.fields):
        raise InputError(
            "log has neither base_quat_wxyz nor imu_quat_wxyz: a robot with a free base cannot be "
            "put into its states"
        )
    usual_s, robot = robot.control_dt, as_logged(robot, log, rate_hz=rate_hz)
    clock = _Clock(log.time_s, robot.control_dt)
    dense = usual_s > (_DENSE - 0.5) * robot.control_dt
    calm = functools.partial(_calmed, dt=robot.control_dt if dense else np.inf)
    joint_pos = calm(clock.values(log.joint_pos[:, columns]))
    joint_vel = _speed(joint_pos, robot.control_dt)
    if "joint_vel" in log.fields:
        joint_vel = calm(clock.values(log.fields["joint_vel"][:, columns]))
    qvel = np.zeros((len(joint_pos), robot.model.nv))
    qvel[:, robot.qvel_ids] = joint_vel
    known = "base_pos_w" in log.fields
    pos, quat = np.zeros((len(joint_pos), 3)), np.tile([1.0, 0.0, 0.0, 0.0], (len(joint_pos), 1))
    if robot.has_free_base:
        attitude = "base_quat_wxyz" if "base_quat_wxyz" in log.fields else "imu_quat_wxyz"
        quat = clock.attitudes(log.fields[attitude])
        if dense:
            quat = rotation.normalize(calm(rotation.continuous(quat)))
        ang_vel_b = calm(_ang_vel_b(log, clock, quat, robot.control_dt))
        if known:
            pos = calm(clock.values(log.fields["base_pos_w"]))
            lin_vel = _speed(pos, robot.control_dt)
        else:
            averaged_s = 0.0 if dense else _AVERAGED_S
            pos, lin_vel = reckoned_base(
                robot, quat, joint_pos, ang_vel_b, joint_vel, averaged_s=averaged_s
            )
        if "base_lin_vel_w" in log.fields:
            lin_vel = calm(clock.values(log.fields["base_lin_vel_w"]))
        qvel[:, :3], qvel[:, 3:6] = lin_vel, ang_vel_b
    return Track(
        robot=robot,
        time_s=clock.time_s,
        qpos=robot.qpos(pos, quat, joint_pos),
        qvel=qvel,
        joint_pos_target=clock.held(log.fields["joint_pos_target"][:, columns]),
        base_known=known,
    )


def reckoned_base(
    robot: Robot,
    quat: np.ndarray,
    joint_pos: np.ndarray,
    ang_vel_b: np.ndarray,
    joint_vel: np.ndarray,
    *,
    averaged_s: float = _AVERAGED_S,
) -> tuple[np.ndarray, np.ndarray]:
    """Where the base is, and how fast, if the lower foot stands still on the floor.

    Its speed comes from measured speeds, not from differences of positions: at 500 Hz the noise of
    an attitude, 3 mrad, would be a metre per second.

    Args:
        robot: With feet, at the rate of the rows.
        quat: (T, 4) attitude of the base.
        joint_pos: (T, J) [rad]
        ang_vel_b: (T, 3) of the base [rad/s]
        joint_vel: (T, J) [rad/s]
        averaged_s: Speeds are averaged over so long [s].

    Returns:
        Position (T, 3) [m] that begins at x = y = 0, and averaged velocity (T, 3) [m/s].
    """
    if not robot.foot_names:
        raise InputError(f"robot '{robot.name}' has no feet: its base cannot be reckoned")
    bodies_pos, bodies_quat = robot.forward_kinematics(np.zeros((len(quat), 3)), quat, joint_pos)
    places, feet = robot.body_index(robot.foot_names), []
    clearance = robot.sole_clearance(bodies_pos, bodies_quat)
    stance, rows = np.argmin(clearance, axis=1), np.arange(len(quat))
    for moved_s in (-_PROBE_S, _PROBE_S):
        turned = rotation.multiply(quat, rotation.from_rotvec(moved_s * ang_vel_b))
        moved, _ = robot.forward_kinematics(
            np.zeros((len(quat), 3)), turned, joint_pos + moved_s * joint_vel
        )
        feet.append(moved[:, places][rows, stance])
    # Relative to the base the standing foot moves backwards as fast as the base moves on.
    lin_vel = (feet[0] - feet[1]) / (2.0 * _PROBE_S)
    around = round(averaged_s / robot.control_dt) // 2
    lin_vel = uniform_filter1d(lin_vel, 2 * around + 1, axis=0, mode="nearest")
    pos = np.zeros((len(quat), 3))
    pos[1:, :2] = robot.control_dt * np.cumsum(lin_vel[:-1, :2], axis=0)
    pos[:, 2] = -clearance.min(axis=1) - standing_sink(robot)
    return pos, lin_vel


def _calmed(values: np.ndarray, dt: float) -> np.ndarray:
    """(T, K) without the noise of single rows, ``dt`` apart; infinitely far apart, as they are."""
    rows = 2 * (round(_CALM_S / dt) // 2) + 1
    return (
        values
        if not 1 < rows <= len(values)
        else np.asarray(savgol_filter(values, rows, 2, axis=0))
    )


def standing_sink(robot: Robot) -> float:
    """How far the soles of the simulated robot sink into its floor when it stands [m].

    At rest a constraint holds what would else fall: d k r = (1 - d) g, with stiffness k and
    impedance d(r) of the contact, whatever the mass. Source: MuJoCo's manual, solver parameters.
    """
    model, data = robot.model, mujoco.MjData(robot.model)
    data.qpos[:] = robot.default_qpos()
    poses = (data.qpos[None, :3], data.qpos[None, 3:7], data.qpos[None, robot.qpos_ids])
    data.qpos[2] -= robot.sole_clearance(*robot.forward_kinematics(*poses)).min() + _TOUCH_M
    mujoco.mj_fwdPosition(model, data)
    soles = np.concatenate(robot.foot_geom_ids)
    touching = [one for one in data.contact if np.isin(one.geom, soles).any()]
    if not touching:
        return 0.0
    first, damping_ratio = touching[0].solref  # a time constant, or minus a stiffness
    low, high, width, middle, power = touching[0].solimp
    sink = 0.0
    for _ in range(_SINK_ROUNDS):
        share = min(1.0, sink / width)
        if share <= middle:
            rise = share**power / middle ** (power - 1.0)
        else:
            rise = 1.0 - (1.0 - share) ** power / (1.0 - middle) ** (power - 1.0)
        impedance = low + rise * (high - low)
        if first > 0.0:
            push = 1.0 / (high * first * damping_ratio) ** 2
        else:
            push = -first * impedance / high**2
        sink = (1.0 - impedance) * GRAVITY / (impedance * push)
    return float(sink)


class _Clock:
    """Even times, and channels at them."""

    def __init__(self, stamps: np.ndarray, dt: float) -> None:
        count = max(2, int(np.floor((stamps[-1] - stamps[0]) / dt + 1e-6)) + 1)
        self.stamps, self.time_s = stamps, stamps[0] + dt * np.arange(count)
        even = count == len(stamps) and np.abs(stamps - self.time_s).max() < 1e-3 * dt
        self._as_it_is = bool(even)

    def values(self, channel: np.ndarray) -> np.ndarray:
        """(T, K) interpolated."""
        if self._as_it_is:
            return channel
        columns = [np.interp(self.time_s, self.stamps, column) for column in channel.T]
        return np.stack(columns, axis=1)

    def attitudes(self, quat: np.ndarray) -> np.ndarray:
        """(T, 4) interpolated."""
        if self._as_it_is:
            return quat
        return rotation.normalize(self.values(rotation.continuous(quat)))

    def held(self, channel: np.ndarray) -> np.ndarray:
        """(T, K) the last one that was in force."""
        if self._as_it_is:
            return channel
        # A stamp a little late still belongs to its row: half a step of grace.
        late = self.time_s + 0.5 * (self.time_s[1] - self.time_s[0])
        rows = np.searchsorted(self.stamps, late, side="right") - 1
        return channel[np.maximum(rows, 0)]


def columns_of(log: Log, robot: Robot) -> list[int]:
    """Places of the robot's joints in a log.

    Raises:
        InputError: If it lacks one.
    """
    places = {name: i for i, name in enumerate(log.joint_names)}
    missing = [name for name in robot.joint_names if name not in places]
    if missing:
        raise InputError(
            f"log lacks {len(missing)} joints of robot '{robot.name}', first '{missing[0]}'; "
            f"it has {', '.join(log.joint_names[:4])}, ..."
        )
    return [places[name] for name in robot.joint_names]


def _ang_vel_b(log: Log, clock: _Clock, quat: np.ndarray, dt: float) -> np.ndarray:
    """(T, 3) in the base frame [rad/s]."""
    for name in ("base_ang_vel_b", "imu_ang_vel_b"):
        if name in log.fields:
            return clock.values(log.fields[name])
    return rotation.rotate_inverse(quat, rotation.ang_vel_w(quat, 1.0 / dt))


def _speed(values: np.ndarray, dt: float) -> np.ndarray:
    """(T, K) central differences."""
    return np.gradient(values, dt, axis=0)
