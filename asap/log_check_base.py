"""The base of the robot in a log: attitude, gyro, accelerometer, and where a camera saw it.

findings, repaired = quaternion_order(view)             # xyzw stored as wxyz is put right
findings, _ = yaw_drift(view)                           # IMU against motion capture
findings, _ = base_origin(view)                         # marker against the robot's own base
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from asap.log_check_step import joint_columns
from asap.log_check_view import Outcome, View, with_channels
from asap.robot import Robot
from asap.spans import spans
from asap_deploy.rotation import (
    conjugate,
    multiply,
    projected_gravity,
    rotate_inverse,
    to_matrix,
    to_rotvec,
    wxyz_from_xyzw,
    yaw,
)

FALLEN_DEG = 60.0
"""A base that leans more has fallen."""

MAX_DRIFT_DEG = 5.0
MAX_ORIGIN_M = 0.02
MIN_TURN = 0.2
"""A base must turn so much over one foot for an offset beside it to be told [rad]."""

_TURN_NOISE, _PUSH_NOISE, _SOLE_NOISE = 0.005, 0.03, 0.02
"""Misses below these are noise, whatever the reading of attitudes [rad]."""

_STANDS_RAD, _FLIGHT_M = 0.05, 0.03
"""A foot that turned by more pivots or swings [rad]; a lower sole that is higher than usual by more
has left the floor [m]. Neither knows where the base is."""

_LEAD = 20.0
"""By how much another reading of attitudes must explain the log better (twice log likelihood)."""

_SOLE_ROWS = 300
"""As many rows of legs are looked at."""


def quaternion_order(view: View) -> Outcome:
    """Attitudes that were stored as xyzw, or as the inverse rotation.

    Three witnesses: what the gyro says of turns, the accelerometer of the tilt, and soles that
    stand, which do not tilt. Each weighs by how well the best reading explains it.
    """
    findings, repaired = [], {}
    for channel in ("imu_quat_wxyz", "base_quat_wxyz"):
        if channel not in view.log.fields:
            continue
        stored = view.log.fields[channel]
        readings = {
            "wxyz": stored,
            "xyzw": wxyz_from_xyzw(stored),
            "the inverse, wxyz": conjugate(stored),
            "the inverse, xyzw": conjugate(wxyz_from_xyzw(stored)),
        }
        cost = _attitude_costs(view, readings)
        best = min(cost, key=lambda name: cost[name])
        if not np.isfinite(cost[best]):
            continue
        lead = cost["wxyz"] - cost[best]
        if lead < _LEAD:
            text = f"{channel} is wxyz, as gyro and gravity say"
            findings.append(view.finding("quaternion_order", "PASS", text, value=lead))
            continue
        text = (
            f"{channel} holds {best}: so read it agrees with gyro, gravity and the soles far "
            f"better (log likelihood {0.5 * lead:.0f} higher); it was put right"
        )
        findings.append(view.finding("quaternion_order", "REPAIRED", text, value=lead))
        repaired[channel] = readings[best]
    return Outcome(findings, with_channels(view.log, **repaired) if repaired else None)


def gyro(view: View) -> Outcome:
    """Unit and sign of the gyro, by the attitude's own rotation."""
    fields = view.log.fields
    if "imu_ang_vel_b" not in fields or "imu_quat_wxyz" not in fields:
        return Outcome([])
    # Over a third of a second the noise of attitudes is small against what they turn.
    width = max(2, round(0.3 / view.step_s))
    rows = view.rows(before=0, after=width)
    quat, told = fields["imu_quat_wxyz"], np.cumsum(fields["imu_ang_vel_b"], axis=0)
    if len(rows) < 20:
        return Outcome([])
    turned = _turned(quat, rows, width)
    told = (told[rows + width] - told[rows]) * view.step_s
    if np.sqrt(np.mean(turned**2)) < 0.02:
        return Outcome([])
    slope = float((turned * told).sum() / (turned**2).sum())
    if 0.6 < slope < 1.6:
        return Outcome([view.finding("gyro", "PASS", "the gyro agrees with the attitude")])
    odd = " (degrees for radians)" if 40.0 < slope < 80.0 else ""
    odd = " (turned from degrees to radians twice)" if 0.012 < slope < 0.024 else odd
    text = (
        f"the gyro says {slope:.2f} times what the attitude does{odd}: another unit, sign or frame "
        "than [rad/s] in the base; mend the file"
    )
    return Outcome([view.finding("gyro", "WARNING", text, value=slope)])


def fallen(view: View) -> Outcome:
    """Stretches in which the robot leans too far to be doing what it was told."""
    quat = _attitude(view)
    if quat is None:
        return Outcome([])
    up = -projected_gravity(quat)[:, 2]
    down = up < np.cos(np.radians(FALLEN_DEG))
    rows = int(down.sum())
    if rows * view.step_s < 0.1:
        return Outcome([view.finding("fallen", "PASS", "the robot stays on its feet")])
    first = spans(down)[0]
    text = (
        f"the robot leans more than {FALLEN_DEG:.0f} deg for {rows * view.step_s:.1f} s, first at "
        f"{view.at(int(first[0]))}; leave that out unless it is meant"
    )
    return Outcome([view.finding("fallen", "WARNING", text, value=rows * view.step_s)])


def yaw_drift(view: View) -> Outcome:
    """Headings of IMU and motion capture that part within an episode or from one to the next."""
    fields = view.log.fields
    if "imu_quat_wxyz" not in fields or "base_quat_wxyz" not in fields:
        return Outcome([])
    apart = np.unwrap(yaw(multiply(fields["base_quat_wxyz"], conjugate(fields["imu_quat_wxyz"]))))
    middle, within = [], []
    for episode in range(int(view.episodes[-1]) + 1):
        mine = apart[view.episodes == episode]
        third = max(1, len(mine) // 5)
        middle.append(np.median(mine))
        within.append(abs(np.median(mine[-third:]) - np.median(mine[:third])))
    # Headings are known up to whole turns.
    between = np.angle(np.exp(1j * (np.array(middle) - middle[0])))
    worst, drift = np.degrees(np.abs(between).max()), np.degrees(max(within))
    if max(worst, drift) <= MAX_DRIFT_DEG:
        return Outcome([view.finding("yaw_drift", "PASS", "IMU and motion capture keep together",
                                     value=max(worst, drift))])  # fmt: skip
    text = (
        f"the heading of the IMU leaves that of the motion capture, by {drift:.1f} deg within an "
        f"episode and {worst:.1f} deg from one to another; anchor each episode anew and take the "
        "heading from the motion capture"
    )
    return Outcome([view.finding("yaw_drift", "WARNING", text, value=max(worst, drift))])


def base_origin(view: View) -> Outcome:
    """Markers that sit elsewhere than on the base's origin.

    A sole that stands is at z = 0 and at one place, so the base is where the legs put it; what is
    left turns with the base and is the offset: p_seen = p_legs + R o + place of the foot.
    """
    fields, robot, columns = view.log.fields, view.robot, joint_columns(view)
    if robot is None or columns is None or not robot.foot_names or "base_pos_w" not in fields:
        return Outcome([])
    quat = fields.get("base_quat_wxyz", fields.get("imu_quat_wxyz"))
    if quat is None or not robot.has_free_base:
        return Outcome([])
    found = [_origin_in(view, robot, columns, episode, quat)
             for episode in range(int(view.episodes[-1]) + 1)]  # fmt: skip
    size = np.array([
        np.linalg.norm(np.where(np.abs(offset) > 4.0 * error, offset, 0.0))
        for offset, error in found
    ])  # fmt: skip
    worst = int(size.argmax())
    told = ", ".join(f"{1e3 * x:.0f}" for x in found[worst][0])
    if size[worst] <= MAX_ORIGIN_M:
        text = "the base is seen where the legs put it"
        return Outcome([view.finding("base_origin", "PASS", text, value=size[worst])])
    some = "all episodes" if size.min() > MAX_ORIGIN_M else f"episode {worst}"
    text = (
        f"the base is seen {1e3 * size[worst]:.0f} mm from where the legs put it ({told} mm in its "
        f"own frame) in {some}: the markers' origin is not the base's; correct base_pos_w by it"
    )
    return Outcome([view.finding("base_origin", "WARNING", text, value=size[worst])])


def _origin_in(
    view: View, robot: Robot, columns: np.ndarray, episode: int, quat: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Offset (3,) in the base's frame and its standard error [m]; infinite where nothing tells."""
    upright = -projected_gravity(quat)[:, 2] > np.cos(np.radians(FALLEN_DEG))
    rows = np.flatnonzero((view.episodes == episode) & upright)
    if len(rows) < 20:
        return np.zeros(3), np.full(3, np.inf)
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, 200).astype(int))]
    body_pos, body_quat = robot.forward_kinematics(
        np.zeros((len(rows), 3)), quat[rows], view.log.joint_pos[rows][:, columns]
    )
    feet = robot.body_index(robot.foot_names)
    return _origin_of(
        view.log.fields["base_pos_w"][rows], quat[rows],
        (body_pos[:, feet], body_quat[:, feet]), robot.sole_clearance(body_pos, body_quat),
    )  # fmt: skip


def _origin_of(
    seen: np.ndarray, quat: np.ndarray, feet: tuple[np.ndarray, np.ndarray], height: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Offset (3,) in the base's frame and its standard error [m], from one episode.

    Args:
        seen: (n, 3) the base's place, as the markers say [m].
        quat: (n, 4) its attitude.
        feet: Places (n, F, 3) from the base and attitudes (n, F, 4), both along the world's axes.
        height: (n, F) of their soles over the base [m].
    """
    every, lower = np.arange(len(seen)), height.argmin(axis=1)
    floor = seen[:, 2] + height.min(axis=1)
    stands = floor < np.median(floor) + _FLIGHT_M
    place, turn = seen + feet[0][every, lower], to_matrix(quat)
    # Each stretch on one foot has a place of its own in x and y; the floor is one for all. On two
    # feet the lower one changes with every breath: such rows know the floor alone.
    stretch = _stretches(lower, stands, feet[1][every, lower])
    keep = stands & (np.bincount(stretch)[stretch] >= 10)
    places = np.unique(stretch[keep])
    dummy = (stretch[keep][:, None] == places[None, :]).astype(float)
    flat = turn[keep][:, :2, :2].reshape(-1, 4)
    flat = flat - dummy @ (dummy.T @ flat / np.maximum(dummy.sum(axis=0), 1.0)[:, None])
    if not keep.any() or np.sqrt((flat**2).sum(axis=1).mean()) < MIN_TURN:
        # Feet that slip by millimetres would look like an offset beside: height alone is told.
        up = floor[stands] / turn[stands, 2, 2]
        error = max(float(up.std()), 0.001) * np.sqrt(10.0 / len(up))
        return np.array([0.0, 0.0, np.median(up)]), np.array([np.inf, np.inf, error])
    zero, count = np.zeros_like(dummy), 2 * int(keep.sum())
    upright = np.hstack([turn[stands, 2], np.zeros((int(stands.sum()), 2 * len(places)))])
    table = np.vstack([
        np.hstack([turn[keep, 0], dummy, zero]), np.hstack([turn[keep, 1], zero, dummy]), upright
    ])  # fmt: skip
    wanted = np.concatenate([place[keep, 0], place[keep, 1], floor[stands]])
    return _weighted(table, wanted, np.arange(len(wanted)) < count)


def _stretches(lower: np.ndarray, stands: np.ndarray, foot_quat: np.ndarray) -> np.ndarray:
    """(n,) numbers of stretches in which one foot stands and does not turn.

    A sole that pivots, rolls or swings takes its place with it: 22 cm in a jump with a turn.
    """
    numbers, begin = np.zeros(len(lower), dtype=np.intp), 0
    for row in range(1, len(lower)):
        same = lower[row] == lower[begin] and stands[row] == stands[begin]
        # q . q' is the cosine of half the angle between two attitudes.
        if not same or abs(foot_quat[begin] @ foot_quat[row]) < np.cos(0.5 * _STANDS_RAD):
            begin = row
        numbers[row] = numbers[row - 1] + (begin == row)
    return numbers


def _weighted(
    table: np.ndarray, wanted: np.ndarray, flat: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The first three unknowns and their errors, x and y (where ``flat``) apart from height."""
    scale = np.ones(len(wanted))
    for _ in range(2):
        solution, *_ = np.linalg.lstsq(table / scale[:, None], wanted / scale, rcond=None)
        rest = wanted - table @ solution
        for part in (flat, ~flat):
            scale[part] = max(float(np.sqrt(np.mean(rest[part] ** 2))), 0.001)
    # Neighbours are alike: ten of them count as one.
    normal = np.linalg.pinv((table / scale[:, None]).T @ (table / scale[:, None]))
    return solution[:3], np.sqrt(10.0 * np.abs(np.diag(normal))[:3])


def _attitude(view: View) -> np.ndarray | None:
    return view.log.fields.get("imu_quat_wxyz", view.log.fields.get("base_quat_wxyz"))


def _turned(quat: np.ndarray, rows: np.ndarray, width: int) -> np.ndarray:
    """Rotation (n, 3) from rows to those ``width`` later, in the base's frame [rad]."""
    return to_rotvec(multiply(conjugate(quat[rows]), quat[rows + width]))


def _attitude_costs(view: View, readings: dict[str, np.ndarray]) -> dict[str, float]:
    """Twice the negative log likelihood of each reading; inf if nothing bears witness."""
    legs = _legs(view)
    cost = {}
    for name, quat in readings.items():
        told = [_turn_cost(view, quat), _push_cost(view, quat), _sole_cost(quat, legs)]
        known = [one for one in told if one is not None]
        cost[name] = float(np.sum(known)) if known else float("inf")
    return cost


def _turn_cost(view: View, quat: np.ndarray) -> float | None:
    """How far turns are from what the gyro says; over a third of a second noise is small."""
    fields = view.log.fields
    spin = fields.get("imu_ang_vel_b", fields.get("base_ang_vel_b"))
    width = max(2, round(0.3 / view.step_s))
    rows = view.rows(before=0, after=width)
    if spin is None or len(rows) < 4 * width:
        return None
    way = np.cumsum(spin, axis=0) * view.step_s
    miss = _turned(quat, rows, width) - (way[rows + width] - way[rows])
    return _scatter(miss, _TURN_NOISE, len(rows) / width)


def _push_cost(view: View, quat: np.ndarray) -> float | None:
    """How far up is from where the accelerometer feels it, while nothing much pushes."""
    push = view.log.fields.get("imu_lin_acc_b")
    if push is None:
        return None
    size = np.linalg.norm(push, axis=1)
    usual = max(float(np.median(size)), 1e-9)
    calm = (np.abs(size / usual - 1.0) < 0.3) & (size > 1e-6)
    if calm.sum() < 20:
        return None
    miss = push[calm] / size[calm, None] + projected_gravity(quat[calm])
    return _scatter(miss, _PUSH_NOISE, calm.sum() * view.step_s / 0.3)


class _Legs(NamedTuple):
    """Feet that stand, n rows of one foot after those of the other."""

    rows: np.ndarray
    """(n,) in the log"""
    foot: np.ndarray
    """(n,) which one"""
    quat: np.ndarray
    """(n, 4) from the foot to the base"""
    weight: float
    """Of how many rows that know nothing of each other they are worth"""


def _legs(view: View) -> _Legs | None:
    """The lower foot, as the base sees it; None without a robot that has feet."""
    robot, columns = view.robot, joint_columns(view)
    attitude = view.log.fields.get("base_quat_wxyz", view.log.fields.get("imu_quat_wxyz"))
    if robot is None or columns is None or not robot.foot_names or attitude is None:
        return None
    rows = np.unique(np.linspace(0, len(view.log.time_s) - 1, _SOLE_ROWS).astype(int))
    level = np.tile([1.0, 0.0, 0.0, 0.0], (len(rows), 1))
    pos, quat = robot.forward_kinematics(
        np.zeros((len(rows), 3)), level, view.log.joint_pos[rows][:, columns]
    )
    feet = robot.body_index(robot.foot_names)
    # Legs alone say which foot is lower: the reading of attitudes is what is asked for.
    lower = robot.sole_clearance(pos, quat).argmin(axis=1)
    every = max(1.0, 0.3 / view.step_s / (len(view.log.time_s) / len(rows)))
    return _Legs(rows, lower, quat[np.arange(len(rows)), feet[lower]], len(rows) / every)


def _sole_cost(quat: np.ndarray, legs: _Legs | None) -> float | None:
    """How much gravity moves about in the frames of feet that stand."""
    if legs is None:
        return None
    down = rotate_inverse(legs.quat, projected_gravity(quat[legs.rows]))
    for foot in np.unique(legs.foot):
        mine = legs.foot == foot
        down[mine] -= np.median(down[mine], axis=0)
    return _scatter(down, _SOLE_NOISE, legs.weight)


def _scatter(miss: np.ndarray, noise: float, count: float) -> float:
    """Twice the negative log likelihood of misses (n, 3), worth ``count`` independent rows.

    The worst quarter does not count: a robot that falls and lies is no witness.
    """
    squares = np.sort((miss**2).sum(axis=1))[: max(1, int(0.75 * len(miss)))]
    return float(2.0 * count * np.log(squares.mean() + noise**2))
