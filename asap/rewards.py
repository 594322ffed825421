"""Rewards of motion tracking: named functions in one table, weighted by one dataclass.

Every tracking term is exp(-error^2 / width^2), 1 when exact and 1/e at one width. Costs are plain
sums with negative weights. ``paper`` gives the published weights, ``cpu`` those that learn
fastest on few cores.

    reward = total_reward(state, reference, limits, RewardConfig.paper(), cost_scale=0.1)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from asap.metrics import TrackedPoints
from asap.robot import Robot
from asap.tangent import from_base
from asap_deploy import rotation


class TrackingState(NamedTuple):
    """A robot, or the motion that it tracks, as rewards see it: N rows."""

    base_pos_w: np.ndarray
    """(N, 3) [m]"""
    base_quat_wxyz: np.ndarray
    """(N, 4)"""
    base_lin_vel_w: np.ndarray
    """(N, 3) [m/s]"""
    base_ang_vel_b: np.ndarray
    """(N, 3) [rad/s]"""
    joint_pos: np.ndarray
    """(N, J) [rad]"""
    joint_vel: np.ndarray
    """(N, J) [rad/s]"""
    points_w: np.ndarray
    """(N, P, 3) tracked points [m]"""
    points_lin_vel_w: np.ndarray
    """(N, P, 3) [m/s]"""
    link_quat_wxyz: np.ndarray
    """(N, P, 4) attitude of the links that the points are fixed to"""
    link_ang_vel_w: np.ndarray
    """(N, P, 3) [rad/s]"""


class Effort(NamedTuple):
    """What the robot spends, N rows; a reference has none of it."""

    action: np.ndarray
    """(N, A)"""
    last_action: np.ndarray
    """(N, A)"""
    joint_torque: np.ndarray
    """(N, J) [Nm]"""
    foot_force: np.ndarray
    """(N, 2) vertical [N]"""


class PointSets(NamedTuple):
    """Places of points that terms treat apart."""

    upper: np.ndarray
    """Arms and head."""
    lower: np.ndarray
    """The rest."""
    extremities: np.ndarray
    """Virtual points: hands and head."""
    feet: tuple[int, int]


class Limits(NamedTuple):
    """What joints can do, already multiplied by how far they may go."""

    lower: np.ndarray
    """(J,) [rad]"""
    upper: np.ndarray
    """(J,) [rad]"""
    joint_vel: np.ndarray
    """(J,) [rad/s]"""
    torque: np.ndarray
    """(J,) [Nm]"""


class Context(NamedTuple):
    """All that a term reads."""

    state: TrackingState
    reference: TrackingState
    effort: Effort
    sets: PointSets
    limits: Limits


@dataclass(frozen=True, kw_only=True)
class Term:
    """How much a term counts, and where a tracking term falls to 1/e."""

    weight: float = 0.0
    """Per second of a control step that is multiplied in; 0 leaves the term out."""
    width: float = 1.0
    """In the unit of the error; costs have none."""


@dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """Weight and width of every term."""

    upper_body_pos: Term = Term()
    """Positions of arms and head in the world [m]."""
    lower_body_pos: Term = Term()
    """Positions of legs, pelvis and torso in the world [m]."""
    body_pos: Term = Term()
    """Positions of all points in the world [m]."""
    relative_pos: Term = Term()
    """Positions of all points as seen from above the base, in its heading; heights are those in the
    world [m]. A robot that takes a step to recover loses nothing by standing elsewhere."""
    extremity_pos: Term = Term()
    """Positions of hands and head in the world [m]."""
    feet_pos: Term = Term()
    """Positions of the feet in the world [m]."""
    body_rot: Term = Term()
    """Attitudes of the links [rad]."""
    body_lin_vel: Term = Term()
    """Velocities of the points [m/s]."""
    body_ang_vel: Term = Term()
    """Angular velocities of the links [rad/s]."""
    base_rot: Term = Term()
    """Attitude of the base [rad]."""
    base_lin_vel: Term = Term()
    """Velocity of the base [m/s]."""
    joint_pos: Term = Term()
    """Root of the mean square over joints [rad]."""
    joint_vel: Term = Term()
    """Root of the mean square over joints [rad/s]."""
    torque: Term = Term()
    """Sum of squares [Nm^2]."""
    action_rate: Term = Term()
    """Sum of squared changes of the action."""
    action: Term = Term()
    """Sum of squared actions."""
    feet_tilt: Term = Term()
    """Horizontal part of gravity in the feet's frames, summed."""
    feet_heading: Term = Term()
    """Yaw of the feet away from that of the base, summed [rad]."""
    feet_slip: Term = Term()
    """Speed of feet that carry more than 1 N, summed [m/s]."""
    joint_pos_limit: Term = Term()
    """Excess over the soft limits, summed [rad]."""
    joint_vel_limit: Term = Term()
    """The same, each joint at most 1 [rad/s]."""
    torque_limit: Term = Term()
    """The same, each joint at most 1 [Nm]."""
    termination: float = 0.0
    """Once, when an episode fails; not multiplied with the control step."""

    @classmethod
    def paper(cls) -> RewardConfig:
        """The published weights. Source: He et al. 2025, table I.

        The paper divides the mean over x, y and z of squared errors by sigma; here the squared
        distance is divided by width^2, so width = sqrt(3 sigma).
        """
        return cls(
            upper_body_pos=Term(weight=1.0, width=np.sqrt(3 * 0.03)),
            lower_body_pos=Term(weight=0.5, width=np.sqrt(3 * 0.1)),
            extremity_pos=Term(weight=1.6, width=np.sqrt(3 * 0.03)),
            feet_pos=Term(weight=2.1, width=np.sqrt(3 * 0.03)),
            body_rot=Term(weight=0.5, width=1.0),
            body_ang_vel=Term(weight=0.5, width=np.sqrt(3.0)),
            body_lin_vel=Term(weight=0.5, width=np.sqrt(3.0)),
            joint_pos=Term(weight=0.75, width=1.0),
            joint_vel=Term(weight=0.5, width=1.0),
            torque=Term(weight=-1e-6),
            action_rate=Term(weight=-0.5),
            feet_tilt=Term(weight=-2.0),
            feet_heading=Term(weight=-0.1),
            feet_slip=Term(weight=-1.0),
            joint_pos_limit=Term(weight=-10.0),
            joint_vel_limit=Term(weight=-5.0),
            torque_limit=Term(weight=-5.0),
            termination=-4.0,
        )

    @classmethod
    def cpu(cls) -> RewardConfig:
        """Narrower widths and few terms: the fastest found on few cores.

        The actor does not see where it stands. A reward for the place in the world makes it rather
        fall than step: most of it is for the shape, as seen from the base.
        """
        return dataclasses.replace(
            cls.in_world(),
            relative_pos=Term(weight=18.0, width=0.15),
            body_pos=Term(weight=4.0, width=0.4),
            feet_slip=Term(weight=-0.2),
            termination=-1.0,
        )

    @classmethod
    def in_world(cls) -> RewardConfig:
        """The same for the place in the world: for a tracker that stands already.

        At a termination of -1 one that falls a little more often for tracking a little better gains
        by it.
        """
        return cls(
            body_pos=Term(weight=18.0, width=0.12),
            base_rot=Term(weight=6.0, width=0.3),
            base_lin_vel=Term(weight=4.0, width=0.7),
            joint_pos=Term(weight=6.0, width=0.3),
            joint_vel=Term(weight=4.0, width=2.0),
            action_rate=Term(weight=-0.1),
            action=Term(weight=-0.01),
            feet_slip=Term(weight=-0.5),
            termination=-3.0,
        )


def point_sets(robot: Robot, points: TrackedPoints) -> PointSets:
    """Which points are arms and head, hands, feet, from the tree of bodies."""
    model = robot.model
    anchor = model.body(robot.anchor_name).id

    def above(body: int) -> bool:
        parent = model.body_parentid[body]
        return body != 0 and (parent == anchor or above(parent))

    virtual = [point.name for point in robot.virtual_points]
    upper = [
        place
        for place, name in enumerate(points.names)
        if name in virtual or above(model.body(name).id)
    ]
    lower = np.setdiff1d(np.arange(len(points.names)), upper)
    left, right = (points.names.index(name) for name in robot.foot_names)
    extremities = np.array([points.names.index(name) for name in virtual], dtype=np.intp)
    return PointSets(np.array(upper, dtype=np.intp), lower, extremities, (left, right))


def soft_limits(robot: Robot, part: float) -> Limits:
    """Limits beyond which costs begin: a part of each joint's range, speed and torque."""
    middle = 0.5 * (robot.joint_pos_lower + robot.joint_pos_upper)
    half = 0.5 * part * (robot.joint_pos_upper - robot.joint_pos_lower)
    return Limits(
        middle - half, middle + half, part * robot.joint_vel_limit, part * robot.torque_limit
    )


def _kernel(squared_error: np.ndarray, width: float) -> np.ndarray:
    """exp(-e^2 / width^2)."""
    return np.exp(-squared_error / (width * width))


def _distance2(context: Context, points: np.ndarray | slice) -> np.ndarray:
    """Mean over points of the squared distance (N,) [m^2]."""
    error = context.state.points_w[:, points] - context.reference.points_w[:, points]
    return (error * error).sum(axis=-1).mean(axis=-1)


def _relative2(context: Context) -> np.ndarray:
    """Mean over points of the squared distance once bases are above each other and turned alike."""

    def seen(state: TrackingState) -> np.ndarray:
        below = state.base_pos_w * np.array([1.0, 1.0, 0.0])
        return from_base(state.points_w, below, state.base_quat_wxyz)

    return _vectors2(seen(context.state), seen(context.reference))


def _mean_square(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Mean over columns of the squared difference (N,)."""
    return np.square(left - right).mean(axis=-1)


def _vectors2(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Mean over points of the squared length of the difference (N,)."""
    return np.square(left - right).sum(axis=-1).mean(axis=-1)


def _rotation2(context: Context) -> np.ndarray:
    angle = rotation.angle_between(context.state.link_quat_wxyz, context.reference.link_quat_wxyz)
    return np.square(angle).mean(axis=-1)


def _base_rotation2(context: Context) -> np.ndarray:
    state, reference = context.state, context.reference
    return np.square(rotation.angle_between(state.base_quat_wxyz, reference.base_quat_wxyz))


def _feet_tilt(context: Context) -> np.ndarray:
    gravity = rotation.projected_gravity(context.state.link_quat_wxyz[:, list(context.sets.feet)])
    return np.linalg.norm(gravity[..., :2], axis=-1).sum(axis=-1)


def _feet_heading(context: Context) -> np.ndarray:
    feet = rotation.yaw(context.state.link_quat_wxyz[:, list(context.sets.feet)])
    away = feet - rotation.yaw(context.state.base_quat_wxyz)[:, None]
    return np.abs((away + np.pi) % (2.0 * np.pi) - np.pi).sum(axis=-1)


def _feet_slip(context: Context) -> np.ndarray:
    speed = np.linalg.norm(context.state.points_lin_vel_w[:, list(context.sets.feet)], axis=-1)
    return (speed * (context.effort.foot_force > 1.0)).sum(axis=-1)


def _joint_pos_excess(context: Context) -> np.ndarray:
    joint_pos, limits = context.state.joint_pos, context.limits
    below = np.maximum(limits.lower - joint_pos, 0.0)
    return (below + np.maximum(joint_pos - limits.upper, 0.0)).sum(axis=-1)


def _excess(values: np.ndarray, limit: np.ndarray) -> np.ndarray:
    return np.clip(np.abs(values) - limit, 0.0, 1.0).sum(axis=-1)


Error = Callable[[Context], np.ndarray]

TRACKING: dict[str, Error] = {
    "upper_body_pos": lambda c: _distance2(c, c.sets.upper),
    "lower_body_pos": lambda c: _distance2(c, c.sets.lower),
    "body_pos": lambda c: _distance2(c, slice(None)),
    "relative_pos": _relative2,
    "extremity_pos": lambda c: _distance2(c, c.sets.extremities),
    "feet_pos": lambda c: _distance2(c, np.array(c.sets.feet)),
    "body_rot": _rotation2,
    "body_lin_vel": lambda c: _vectors2(c.state.points_lin_vel_w, c.reference.points_lin_vel_w),
    "body_ang_vel": lambda c: _vectors2(c.state.link_ang_vel_w, c.reference.link_ang_vel_w),
    "base_rot": _base_rotation2,
    "base_lin_vel": lambda c: np.square(c.state.base_lin_vel_w - c.reference.base_lin_vel_w).sum(
        axis=-1
    ),
    "joint_pos": lambda c: _mean_square(c.state.joint_pos, c.reference.joint_pos),
    "joint_vel": lambda c: _mean_square(c.state.joint_vel, c.reference.joint_vel),
}
"""Squared errors of terms that are rewarded by exp(-error^2 / width^2)."""

COSTS: dict[str, Error] = {
    "torque": lambda c: np.square(c.effort.joint_torque).sum(axis=-1),
    "action_rate": lambda c: np.square(c.effort.action - c.effort.last_action).sum(axis=-1),
    "action": lambda c: np.square(c.effort.action).sum(axis=-1),
    "feet_tilt": _feet_tilt,
    "feet_heading": _feet_heading,
    "feet_slip": _feet_slip,
    "joint_pos_limit": _joint_pos_excess,
    "joint_vel_limit": lambda c: _excess(c.state.joint_vel, c.limits.joint_vel),
    "torque_limit": lambda c: _excess(c.effort.joint_torque, c.limits.torque),
}
"""Sums that are multiplied with a negative weight and with the curriculum's scale."""


def total_reward(
    context: Context, config: RewardConfig, *, control_dt: float, cost_scale: float
) -> tuple[np.ndarray, dict[str, float]]:
    """Reward of one control step, without the termination.

    Args:
        context: Robot, motion, effort and limits.
        config: Weights and widths.
        control_dt: Weights count per second, so they are multiplied with this [s].
        cost_scale: Of the costs; a curriculum raises it.

    Returns:
        (N,) and the mean of each term.
    """
    total = np.zeros(len(context.state.joint_pos))
    means = {}
    for name, error in (*TRACKING.items(), *COSTS.items()):
        term: Term = getattr(config, name)
        if term.weight == 0.0:
            continue
        tracked = name in TRACKING
        value = _kernel(error(context), term.width) if tracked else cost_scale * error(context)
        total += term.weight * control_dt * value
        means[name] = float(value.mean())
    return total, means


assert {f.name for f in dataclasses.fields(RewardConfig)} == {*TRACKING, *COSTS, "termination"}
