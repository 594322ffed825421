"""The base of the robot in a log: attitude, gyro, accelerometer, and where a camera saw it.

findings, repaired = quaternion_order(view)             # xyzw stored as wxyz is put right
findings, _ = yaw_drift(view)                           # IMU against motion capture
findings, _ = base_origin(view)                         # marker against the robot's own base
"""

from __future__ import annotations

import numpy as np

from asap.log_check_step import joint_columns
from asap.log_check_view import Outcome, View, spans, with_channels
from asap_deploy.rotation import (
    conjugate,
    multiply,
    projected_gravity,
    to_matrix,
    to_rotvec,
    wxyz_from_xyzw,
    yaw,
)

FALLEN_DEG = 60.0
"""A base that leans more has fallen."""

MAX_DRIFT_DEG = 5.0
MAX_ORIGIN_M = 0.02
_TURN_NOISE = 0.02
_LEAD = 3.0
"""Another reading of attitudes must explain the sensors so many times better (squared)."""


def quaternion_order(view: View) -> Outcome:
    """Attitudes that were stored as xyzw, or as the inverse rotation, by gyro and gravity."""
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
        cost = {name: _attitude_cost(view, quat) for name, quat in readings.items()}
        best = min(cost, key=lambda name: cost[name])
        if not np.isfinite(cost[best]):
            continue
        if best == "wxyz" or cost["wxyz"] < _LEAD * cost[best]:
            text = f"{channel} is wxyz, as gyro and gravity say"
            findings.append(view.finding("quaternion_order", "PASS", text))
            continue
        lead = cost["wxyz"] / cost[best]
        text = (
            f"{channel} holds {best}: so read it agrees with gyro and gravity {lead:.0f} times "
            "better; it was put right"
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
    offsets, errors = [], []
    for episode in range(int(view.episodes[-1]) + 1):
        rows = np.flatnonzero(view.episodes == episode)
        rows = rows[np.unique(np.linspace(0, len(rows) - 1, 200).astype(int))]
        body_pos, body_quat = robot.forward_kinematics(
            np.zeros((len(rows), 3)), quat[rows], view.log.joint_pos[rows][:, columns]
        )
        height = robot.sole_clearance(body_pos, body_quat)
        offset, error = _origin_of(fields["base_pos_w"][rows], quat[rows], body_pos[
            :, robot.body_index(robot.foot_names)], height)  # fmt: skip
        offsets.append(offset)
        errors.append(error)
    size = np.array([
        np.linalg.norm(np.where(np.abs(offset) > 4.0 * error, offset, 0.0))
        for offset, error in zip(offsets, errors, strict=True)
    ])  # fmt: skip
    worst = int(size.argmax())
    told = ", ".join(f"{1e3 * x:.0f}" for x in offsets[worst])
    if size[worst] <= MAX_ORIGIN_M:
        text = "the base is seen where the legs put it"
        return Outcome([view.finding("base_origin", "PASS", text, value=size[worst])])
    some = "all episodes" if size.min() > MAX_ORIGIN_M else f"episode {worst}"
    text = (
        f"the base is seen {1e3 * size[worst]:.0f} mm from where the legs put it ({told} mm in its "
        f"own frame) in {some}: the markers' origin is not the base's; correct base_pos_w by it"
    )
    return Outcome([view.finding("base_origin", "WARNING", text, value=size[worst])])


def _origin_of(
    seen: np.ndarray, quat: np.ndarray, foot: np.ndarray, height: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Offset (3,) in the base's frame and its standard error [m], from one episode."""
    lower = height.argmin(axis=1)
    place = seen + foot[np.arange(len(seen)), lower]
    turn = to_matrix(quat)
    # Each stretch on one foot has a place of its own in x and y; the floor is one for all.
    stretch = np.concatenate([[0], np.cumsum(np.abs(np.diff(lower)))])
    keep = np.bincount(stretch)[stretch] >= 10
    places = np.unique(stretch[keep])
    dummy = (stretch[keep][:, None] == places[None, :]).astype(float)
    zero, count = np.zeros_like(dummy), int(keep.sum())
    if count < 20:
        return np.zeros(3), np.full(3, np.inf)
    # The pose's centre is taken out of x and y by the places; z has no free constant.
    blocks = [
        np.hstack([turn[keep, 0], dummy, zero]),
        np.hstack([turn[keep, 1], zero, dummy]),
        np.hstack([turn[keep, 2], zero, zero]),
    ]
    table = np.vstack(blocks)
    floor = (seen[:, 2] + height.min(axis=1))[keep]
    wanted = np.concatenate([place[keep, 0], place[keep, 1], floor])
    solution, *_ = np.linalg.lstsq(table, wanted, rcond=None)
    rest = wanted - table @ solution
    # Neighbours are alike: ten of them count as one.
    spread = max(float(np.sqrt(np.mean(rest**2))), 0.001) * np.sqrt(10.0)
    error = spread * np.sqrt(np.abs(np.diag(np.linalg.pinv(table.T @ table)))[:3])
    return solution[:3], error


def _attitude(view: View) -> np.ndarray | None:
    return view.log.fields.get("imu_quat_wxyz", view.log.fields.get("base_quat_wxyz"))


def _turned(quat: np.ndarray, rows: np.ndarray, width: int) -> np.ndarray:
    """Rotation (n, 3) from rows to those ``width`` later, in the base's frame [rad]."""
    return to_rotvec(multiply(conjugate(quat[rows]), quat[rows + width]))


def _attitude_cost(view: View, quat: np.ndarray) -> float:
    """Mean squared miss of gyro and accelerometer, each by its noise; inf without either."""
    fields, cost = view.log.fields, []
    spin = fields.get("imu_ang_vel_b", fields.get("base_ang_vel_b"))
    width = max(2, round(0.3 / view.step_s))
    rows = view.rows(before=0, after=width)
    if spin is not None and len(rows) > 10:
        # Over a third of a second the noise of attitudes is small against what they turn.
        way = np.cumsum(spin, axis=0) * view.step_s
        miss = _turned(quat, rows, width) - (way[rows + width] - way[rows])
        squares = np.sort((miss**2).sum(axis=1))[: int(0.95 * len(rows))]
        cost.append(float(np.mean(squares)) / _TURN_NOISE**2)
    if "imu_lin_acc_b" in fields:
        push = fields["imu_lin_acc_b"]
        size = np.linalg.norm(push, axis=1, keepdims=True)
        calm = (np.abs(size[:, 0] / max(float(np.median(size)), 1e-9) - 1.0) < 0.3) & (
            size[:, 0] > 1e-6
        )
        miss = (push / np.maximum(size, 1e-9) + projected_gravity(quat))[calm]
        cost.append(float(np.mean((miss**2).sum(axis=1))) / 0.04 if calm.any() else 0.0)
    return 0.25 + float(np.sum(cost)) if cost else float("inf")
