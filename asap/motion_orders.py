"""Is a quaternion xyzw or wxyz, are joints depth first or breadth first? Ask the robot.

Files of different projects agree in every key and shape and differ in order; a wrong guess trains
on scrambled joints without an error. Every combination of orders is therefore tried on the robot:

* where the file holds a second witness (body positions, axis-angle poses), the orders that agree
  with it are certain, and used;
* else each combination is judged by what a walking machine can do: base and lower foot upright,
  the lower foot not sliding and at one height, joints inside their limits. If another combination
  is more plausible than what the format says, or none stands out, the file is refused with what to
  say to resolve it.

    settled = settle_orders(raw, robot, path="clip.csv")
    settled.joint_names                                # one for each column of settled.joint_pos
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import NamedTuple

import numpy as np

from asap.motion_formats import G1_JOINTS, G1_JOINTS_23, G1_JOINTS_BFS, RawMotion
from asap.robot import Robot
from asap_deploy.errors import InputError, suggestion
from asap_deploy.rotation import (
    angle_between,
    conjugate,
    from_rotvec,
    multiply,
    projected_gravity,
    wxyz_from_xyzw,
    xyzw_from_wxyz,
)

MARGIN = 0.3
"""By how much the most plausible combination must lead (difference of `Plausibility.cost`)."""

SAMPLES = 150
"""Pairs of neighbouring frames that are looked at."""

_CERTAIN_M = 0.05
"""Body positions within this are those of the robot [m]; a wrong order gives decimetres."""


class Orders(NamedTuple):
    """One way of reading a file."""

    quat: str
    """'xyzw' or 'wxyz', as stored"""
    joint: str
    """'dfs', 'bfs', or 'named' where the file names its joints"""


class Plausibility(NamedTuple):
    """What a way of reading would make of the robot; medians over the clip."""

    base_tilt_deg: float
    foot_tilt_deg: float
    """Of the lower foot"""
    foot_speed: float
    """Horizontal, of the lower foot [m/s]"""
    sole_spread_m: float
    """Standard deviation of the lower sole's height"""
    beyond_limits_rad: float
    """Mean over the clip of the sum over joints"""

    @property
    def cost(self) -> float:
        """Smaller is more plausible: ratios of the five, each with its noise floor."""
        return float(
            np.log(self.base_tilt_deg + 10.0)
            + np.log(self.foot_tilt_deg + 8.0)
            + np.log(self.foot_speed + 0.05)
            + 0.7 * np.log(self.sole_spread_m + 0.01)
            + np.log(1.0 + self.beyond_limits_rad / 0.05)
        )

    def __str__(self) -> str:
        """For error messages."""
        return (
            f"base tilt {self.base_tilt_deg:.0f} deg, foot tilt {self.foot_tilt_deg:.0f} deg, foot "
            f"slides {self.foot_speed:.2f} m/s, {self.beyond_limits_rad:.2f} rad beyond limits"
        )


def settle_orders(
    raw: RawMotion,
    robot: Robot,
    *,
    path: str | Path,
    quat_order: str | None = None,
    joint_order: str | None = None,
) -> RawMotion:
    """Find out in which order a file's quaternions and joints are.

    Args:
        raw: What the reader made of the file.
        robot: The robot that the file's joints belong to.
        path: Named in errors.
        quat_order: 'xyzw' or 'wxyz' if the user knows.
        joint_order: 'dfs' or 'bfs' if the user knows.

    Returns:
        The clip with ``joint_names`` and ``base_quat_wxyz`` right, and a note on what was found.

    Raises:
        InputError: If the orders are not what the format says, or cannot be told.
    """
    names = _possible_names(raw, robot, path, quat_order, joint_order)
    if raw.format == "asap-motion":
        return raw._replace(joint_names=names["named"])
    claimed = Orders(raw.quat_order, _claimed_joints(raw, names))
    said = Orders(quat_order or claimed.quat, joint_order or claimed.joint)
    readings = {
        orders: read_as(raw, orders, names[orders.joint])
        for orders in itertools.starmap(Orders, itertools.product(("xyzw", "wxyz"), names))
    }
    allowed = [
        orders for orders in readings
        if quat_order in (None, orders.quat) and joint_order in (None, orders.joint)
    ]  # fmt: skip
    witness, found = _witnessed(readings, robot)
    if found is not None and found in allowed:
        return _noted(readings[found], claimed, found, f"as {witness} shows")
    costs = {orders: plausibility(readings[orders], robot) for orders in readings}
    best = min(allowed, key=lambda orders: costs[orders].cost)
    rivals = [orders for orders in allowed if costs[orders].cost < costs[best].cost + MARGIN]
    if said not in rivals or not all(
        _same_but_heading(readings[said], readings[rival], robot) for rival in rivals
    ):
        raise InputError(_refusal(said, best, len(rivals) > 1, costs), file=path)
    settled = _noted(readings[said], claimed, said, "as the user said")
    overall = min(readings, key=lambda orders: costs[orders].cost)
    if costs[said].cost - costs[overall].cost > MARGIN:
        warning = f"warning: read as said ({_words(said)}) the clip is implausible: {costs[said]}"
        settled = settled._replace(notes=(*settled.notes, warning))
    return settled


def _possible_names(
    raw: RawMotion,
    robot: Robot,
    path: str | Path,
    quat_order: str | None,
    joint_order: str | None,
) -> dict[str, tuple[str, ...]]:
    """Check what the user says about orders; then `column_names`."""
    for name, value, valid in (
        ("quat_order", quat_order, ("xyzw", "wxyz")),
        ("joint_order", joint_order, ("dfs", "bfs")),
    ):
        if value not in (None, *valid):
            raise InputError(f"{name} '{value}' is not known{suggestion(str(value), valid)}")
    names = column_names(raw, robot, path)
    if "named" in names and joint_order is not None:
        raise InputError("the file names its joints; leave joint_order out", file=path)
    if raw.format == "asap-motion" and quat_order is not None:
        raise InputError("a motion file of ours is wxyz; leave quat_order out", file=path)
    return names


def column_names(raw: RawMotion, robot: Robot, path: str | Path) -> dict[str, tuple[str, ...]]:
    """The names of a file's joint columns under each joint order that is possible.

    Raises:
        InputError: If the number of columns fits nothing that is known.
    """
    columns = raw.joint_pos.shape[1]
    if raw.joint_names is not None:
        return {"named": tuple(_known_name(name, robot) for name in raw.joint_names)}
    is_g1 = len(set(G1_JOINTS_23) & set(robot.joint_names)) > 11
    if is_g1 and columns in (len(G1_JOINTS), len(G1_JOINTS_23)):
        depth_first = G1_JOINTS if columns == len(G1_JOINTS) else G1_JOINTS_23
        breadth_first = tuple(name for name in G1_JOINTS_BFS if name in depth_first)
    elif columns in (len(robot.joint_names), len(robot.action_joint_names)):
        whole = columns == len(robot.joint_names)
        depth_first = robot.joint_names if whole else robot.action_joint_names
        depth = _joint_depths(robot)
        breadth_first = tuple(sorted(depth_first, key=lambda name: depth[name]))
    else:
        raise InputError(
            f"the file has {columns} joints without names; robot '{robot.name}' has "
            f"{len(robot.joint_names)}, of which {len(robot.action_joint_names)} are commanded",
            file=path,
        )
    if breadth_first == depth_first:
        return {"dfs": depth_first}
    return {"dfs": depth_first, "bfs": breadth_first}


def read_as(raw: RawMotion, orders: Orders, joint_names: tuple[str, ...]) -> RawMotion:
    """The clip under one assumption about its orders."""
    quat = raw.base_quat_wxyz
    if orders.quat != raw.quat_order:
        # The reader moved the columns of its format's order; undo that, then take them as they are
        # (wxyz stored), or move them at all (xyzw stored).
        undone = xyzw_from_wxyz(quat) if raw.quat_order == "xyzw" else quat
        quat = undone if orders.quat == "wxyz" else wxyz_from_xyzw(undone)
    return raw._replace(base_quat_wxyz=quat, quat_order=orders.quat, joint_names=joint_names)


def joint_pos_of(raw: RawMotion, robot: Robot, frames: np.ndarray | slice) -> np.ndarray:
    """Joint positions in the robot's order, the default pose where the file has no column."""
    assert raw.joint_names is not None, "orders are settled first"
    joint_pos = np.tile(robot.default_joint_pos, (len(raw.joint_pos[frames]), 1))
    for place, name in enumerate(robot.joint_names):
        if name in raw.joint_names:
            joint_pos[:, place] = raw.joint_pos[frames, raw.joint_names.index(name)]
    return joint_pos


def plausibility(raw: RawMotion, robot: Robot) -> Plausibility:
    """Judge one way of reading by what it makes the robot do."""
    count, seconds = len(raw.joint_pos), 1.0 / (raw.fps or 30.0)
    first = np.unique(np.linspace(0, count - 2, SAMPLES).astype(int))
    pairs = np.stack([first, first + 1], axis=1).ravel()
    joint_pos = joint_pos_of(raw, robot, pairs)
    quat = raw.base_quat_wxyz[pairs]
    beyond = np.maximum(robot.joint_pos_lower - joint_pos, joint_pos - robot.joint_pos_upper)
    beyond_rad = float(np.maximum(beyond, 0.0).sum(axis=1).mean())
    tilt_deg = float(np.median(_tilt_deg(quat)))
    if not robot.foot_names:
        return Plausibility(tilt_deg, 0.0, 0.0, 0.0, beyond_rad)
    pos_w, quat_w = robot.forward_kinematics(raw.base_pos_w[pairs], quat, joint_pos)
    clearance = robot.sole_clearance(pos_w, quat_w)
    now, then, row = slice(0, None, 2), slice(1, None, 2), np.arange(len(first))
    lower = robot.body_index(robot.foot_names)[clearance[now].argmin(axis=1)]
    speed = np.linalg.norm((pos_w[then] - pos_w[now])[row, lower, :2], axis=-1) / seconds
    return Plausibility(
        tilt_deg,
        float(np.median(_tilt_deg(quat_w[now][row, lower]))),
        float(np.median(speed)),
        float(clearance.min(axis=1).std()),
        beyond_rad,
    )


def _tilt_deg(quat: np.ndarray) -> np.ndarray:
    """Angle between a body's z axis and the vertical [deg]."""
    return np.degrees(np.arccos(np.clip(-projected_gravity(quat)[..., 2], -1.0, 1.0)))


def _claimed_joints(raw: RawMotion, names: dict[str, tuple[str, ...]]) -> str:
    """The joint order that the format's authors write."""
    if len(names) == 1:
        return next(iter(names))
    return "bfs" if raw.format == "beyondmimic" else "dfs"


def _known_name(name: str, robot: Robot) -> str:
    """A file's joint name as the robot spells it; some projects leave out the ending."""
    return f"{name}_joint" if f"{name}_joint" in robot.joint_names else name


def _joint_depths(robot: Robot) -> dict[str, int]:
    """How many jointed bodies are above each joint."""
    model = robot.model

    def depth(body: int) -> int:
        if body == 0:
            return 0
        return int(model.body_jntnum[body] > 0) + depth(int(model.body_parentid[body]))

    return {name: depth(int(model.joint(name).bodyid[0])) for name in robot.joint_names}


def _witnessed(readings: dict[Orders, RawMotion], robot: Robot) -> tuple[str, Orders | None]:
    """The orders that a second witness in the file proves, if it has one that decides."""
    for witness, error_of, certain, lead in (
        ("the file's axis-angle pose", _pose_error, 0.01, 0.01),
        ("forward kinematics against the file's bodies", _body_error, _CERTAIN_M, 0.01),
    ):
        errors = {orders: error_of(raw, robot) for orders, raw in readings.items()}
        ranked = sorted(errors, key=lambda orders: errors[orders])
        alone = len(ranked) == 1 or errors[ranked[1]] > errors[ranked[0]] + lead
        if errors[ranked[0]] < certain and alone:
            return witness, ranked[0]
    return "", None


def _pose_error(raw: RawMotion, robot: Robot) -> float:
    """Mean difference between base and joints and the file's axis-angle pose [rad]."""
    if raw.pose_rotvec is None or raw.joint_names is None:
        return np.inf
    every = slice(None, None, max(1, len(raw.joint_pos) // SAMPLES))
    pose = raw.pose_rotvec[every]
    base = angle_between(from_rotvec(pose[:, 0]), raw.base_quat_wxyz[every]).mean()
    model, columns = robot.model, raw.joint_names
    orders, known = [columns], [name for name in columns if name in robot.joint_names]
    if set(columns) == set(G1_JOINTS_23):
        orders.append(G1_JOINTS_23)  # the joints may be permuted and the pose not

    def joints(pose_names: tuple[str, ...]) -> float:
        difference = [
            pose[:, 1 + pose_names.index(name)]
            - np.outer(raw.joint_pos[every, columns.index(name)], model.joint(name).axis)
            for name in known
        ]  # fmt: skip
        return float(np.abs(difference).mean())

    return float(base) + min(joints(names) for names in orders)


def _body_error(raw: RawMotion, robot: Robot) -> float:
    """Median distance between the file's bodies and the robot's [m], for the best body order."""
    bodies = raw.body_pos_w if raw.body_pos_w is not None else raw.body_pos_b
    if bodies is None:
        return np.inf
    every = np.unique(np.linspace(0, len(raw.joint_pos) - 1, 40).astype(int))
    base_pos, base_quat = raw.base_pos_w[every], raw.base_quat_wxyz[every]
    if raw.body_pos_w is None:
        base_pos, base_quat = np.zeros((len(every), 3)), np.tile([1.0, 0.0, 0.0, 0.0],
                                                                 (len(every), 1))  # fmt: skip
    pos_w, _ = robot.forward_kinematics(base_pos, base_quat, joint_pos_of(raw, robot, every))
    errors = [np.inf]
    for names in _body_orders(raw, robot):
        common = [name for name in names if name in robot.body_names]
        if len(common) > 3:
            theirs = bodies[every][:, [names.index(name) for name in common]]
            ours = pos_w[:, robot.body_index(common)]
            distance = np.linalg.norm(theirs - ours, axis=-1)
            errors.append(float(np.mean(distance)))
    return min(errors)


def _body_orders(raw: RawMotion, robot: Robot) -> list[tuple[str, ...]]:
    """Names of the file's bodies: as it says, or the robot's, depth first and breadth first."""
    if raw.body_names is not None:
        return [raw.body_names]
    bodies = raw.body_pos_w
    if bodies is None or bodies.shape[1] != len(robot.body_names):
        return []
    parent = robot.model.body_parentid
    depth = {0: 0}
    for body in range(1, robot.model.nbody):
        depth[body] = depth[int(parent[body])] + 1
    ids = dict(zip(robot.body_names, robot.body_ids, strict=True))
    return [
        robot.body_names,
        tuple(sorted(robot.body_names, key=lambda name: depth[int(ids[name])])),
    ]


def _same_but_heading(said: RawMotion, rival: RawMotion, robot: Robot) -> bool:
    """True if two readings are one motion on the spot that faces elsewhere: either will do."""
    if said is rival:
        return True
    every = slice(None)
    joints = joint_pos_of(said, robot, every) - joint_pos_of(rival, robot, every)
    turn = multiply(rival.base_quat_wxyz, conjugate(said.base_quat_wxyz))
    wobble = np.linalg.norm(turn - np.sign(turn @ turn[0])[:, None] * turn[0], axis=1)
    is_heading = np.abs(turn[:, 1:3]).max() < 0.02 and wobble.max() < 0.02
    on_the_spot = np.ptp(said.base_pos_w[:, :2], axis=0).max() < 0.05
    same_quat = said.quat_order == rival.quat_order
    return bool(np.abs(joints).max() < 0.01 and is_heading and (same_quat or on_the_spot))


def _noted(raw: RawMotion, claimed: Orders, found: Orders, why: str) -> RawMotion:
    """The clip with a note where its orders are not those of its format."""
    if found.joint == claimed.joint and found.quat == claimed.quat:
        return raw
    return raw._replace(notes=(*raw.notes, f"stored with {_words(found)}, {why}"))


def _words(orders: Orders) -> str:
    """Orders in words."""
    joints = {"dfs": "joints depth first", "bfs": "joints breadth first", "named": "named joints"}
    return f"quaternions {orders.quat} and {joints[orders.joint]}"


def _refusal(said: Orders, best: Orders, ambiguous: bool, costs: dict[Orders, Plausibility]) -> str:
    """What is wrong with the orders, and what to say."""
    options = f'quat_order="{best.quat}"'
    if best.joint != "named":
        options += f', joint_order="{best.joint}"'
    if ambiguous:
        return (
            f"cannot tell in which order the file stores quaternions and joints (likely "
            f"{_words(best)}: {costs[best]}); say {options} if that is right"
        )
    return (
        f"the file seems to hold {_words(best)}, not {_words(said)}: that would mean "
        f"{costs[said]}, instead of {costs[best]}; say {options}"
    )
