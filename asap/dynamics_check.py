"""Could the ground and the motors do this? Inverse dynamics of a reference motion, in plain words.

From positions follow velocities and accelerations, from these the wrench that the floor has to give
and the torques of the joints. Nothing is simulated.

    report = check_dynamics(Motion.load("clip.npz"), Robot.load("g1"))
    report.problems            # ("left_knee_joint needs 171 Nm at 1.24 s (frame 62), its motor ...",)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import mujoco
import numpy as np
from scipy.ndimage import binary_erosion, gaussian_filter1d
from scipy.optimize import nnls
from scipy.spatial import ConvexHull, QhullError

from asap.grounding import GRAVITY
from asap.robot import Robot
from asap.rollout import qpos_of_motion
from asap_deploy.errors import InputError
from asap_deploy.motion import Motion
from asap_deploy.rotation import rotate

FRICTION = 0.8
MAX_FORCE = 4.0
"""Times the weight."""

SMOOTHING_S = 0.014
"""Width of the Gaussian over accelerations [s]: less than a frame at 50 Hz."""

CONTACT_HEIGHT_M = 0.005
LOADED = 0.1
"""Share of the weight above which the place of the force counts; less has no definite place."""

QUANTILE = 0.025
"""A margin is the value that this share of frames falls short of."""

MAX_FLIGHT_ACC = 1.5
"""Of the centre of mass, away from free fall [m/s^2]."""

MAX_FLIGHT_SPIN = 0.5
"""Deviation of the angular momentum from its mean over a flight [kg m^2/s]."""

MAX_SELF_DEPTH_M = 0.005
MAX_GAP = 0.05
_LEVER_M = 0.1
"""A moment counts as a force at this distance where both are added up [m]."""

_EDGES = 8
"""Of the pyramid that stands for a friction cone when the wrench is shared between the feet."""


class DynamicsReport(NamedTuple):
    """What a clip asks of ground and motors; ``problems`` is empty for a sound one."""

    zmp_margin_mm: float
    """2.5 % quantile of the distance inside the support polygon; nan without support"""
    min_force: float
    """Least vertical ground force / weight while a foot stands, 2.5 % quantile"""
    max_force: float
    """Greatest vertical ground force / weight"""
    max_friction: float
    """Greatest horizontal / vertical force, where the ground is loaded"""
    wrench_gap: float
    """What the soles cannot give of force and moment / weight, 97.5 % quantile"""
    flight_s: float
    """Time in the air [s]"""
    flight_acc: float
    """Greatest deviation from free fall in flight [m/s^2]"""
    flight_spin: float
    """Greatest deviation of the angular momentum from its mean in flight [kg m^2/s]"""
    torque_fraction: float
    """Greatest joint torque / limit"""
    torque_joint: str
    """Which joint that is"""
    self_depth_mm: float
    """How deep bodies are inside each other beyond the first frame's, at most"""
    problems: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class GroundWrench:
    """What the floor has to give at each of T frames."""

    force_w: np.ndarray
    """(T, 3) [N]"""
    zmp_w: np.ndarray
    """(T, 2) where it has no moment about x and y [m]; meaningless where force_w[:, 2] is small"""
    moment_w: np.ndarray
    """(T, 3) about the origin [Nm]"""
    generalized: np.ndarray
    """(T, nv) forces without any contact [N], [Nm]"""
    com_acc_w: np.ndarray
    """(T, 3) [m/s^2]"""
    spin_w: np.ndarray
    """(T, 3) angular momentum about the centre of mass [kg m^2/s]"""


def ground_wrench(motion: Motion, robot: Robot) -> GroundWrench:
    """Inverse dynamics of a motion without contacts: the base's share is what the floor must give.

    Args:
        motion: The clip, on this robot.
        robot: A robot with a free base.

    Returns:
        The wrench and what it was made of.
    """
    qpos = qpos_of_motion(robot, motion)
    model = robot.spec().compile()
    model.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_CONSTRAINT)
    data, frames, dt = mujoco.MjData(model), len(qpos), 1.0 / motion.fps
    steps = np.empty((frames - 1, model.nv))
    for row, a, b in zip(steps, qpos[:-1], qpos[1:], strict=True):
        mujoco.mj_differentiatePos(model, row, dt, a, b)
    # At the ends the robot rests: it neither moves before the first frame nor after the last.
    rest = np.zeros((1, model.nv))
    half = np.concatenate([rest, steps, rest])
    velocity = 0.5 * (half[1:] + half[:-1])
    acceleration = gaussian_filter1d(
        np.diff(half, axis=0) / dt, SMOOTHING_S * motion.fps, axis=0, mode="nearest"
    )
    generalized, spin = np.empty((frames, model.nv)), np.empty((frames, 3))
    place, turn = np.empty((frames, 3)), np.empty((frames, 4))
    base = model.body(robot.base_name).id
    for k in range(frames):
        data.qpos[:], data.qvel[:], data.qacc[:] = qpos[k], velocity[k], acceleration[k]
        mujoco.mj_inverse(model, data)
        mujoco.mj_subtreeVel(model, data)
        generalized[k], spin[k] = data.qfrc_inverse, data.subtree_angmom[base]
        place[k], turn[k] = data.xpos[base], data.xquat[base]
    # Forces on the base are in the world frame, moments in the base's own: turn them.
    force = generalized[:, :3]
    moment = rotate(turn, generalized[:, 3:6]) + np.cross(place, force)
    vertical = np.where(np.abs(force[:, 2]) > 1e-6, force[:, 2], 1e-6)
    zmp = np.column_stack([-moment[:, 1], moment[:, 0]]) / vertical[:, None]
    com_acc = force / model.body_mass.sum() - [0.0, 0.0, GRAVITY]
    return GroundWrench(force_w=force, zmp_w=zmp, moment_w=moment, generalized=generalized,
                        com_acc_w=com_acc, spin_w=spin)  # fmt: skip


def sole_points(robot: Robot) -> tuple[np.ndarray, ...]:
    """For each foot, points (P, 3) in its frame where it can touch the floor [m].

    Ends of capsules, corners of boxes, centres of spheres, all lowered by their radius; other
    shapes count with their centre only.
    """
    model, found = robot.model, []
    for foot, geoms in zip(robot.foot_names, robot.foot_geom_ids, strict=True):
        points = []
        for geom in geoms:
            if model.geom_bodyid[geom] != model.body(foot).id:
                continue
            size, kind = model.geom_size[geom], model.geom_type[geom]
            corners, radius = np.zeros((1, 3)), 0.0
            if kind == mujoco.mjtGeom.mjGEOM_CAPSULE:
                corners, radius = np.array([[0.0, 0.0, size[1]], [0.0, 0.0, -size[1]]]), size[0]
            elif kind == mujoco.mjtGeom.mjGEOM_BOX:
                signs = np.stack(np.meshgrid(*[[-1.0, 1.0]] * 3), axis=-1).reshape(-1, 3)
                corners = signs * size
            elif kind == mujoco.mjtGeom.mjGEOM_SPHERE:
                radius = size[0]
            placed = model.geom_pos[geom] + rotate(model.geom_quat[geom], corners)
            points.append(placed - [0.0, 0.0, radius])
        found.append(np.concatenate(points))
    return tuple(found)


class _Clip(NamedTuple):
    """What the checks share."""

    motion: Motion
    robot: Robot
    wrench: GroundWrench
    weight: float
    """[N]"""
    points_w: np.ndarray
    """(T, 2, P, 3) points of the soles [m]"""
    touching: np.ndarray
    """(T, 2, P) bool: these points are on the floor"""
    flying: np.ndarray
    """(T,) bool: no point is, nor one frame before or after"""
    loaded: np.ndarray
    """(T,) bool: the ground carries enough for its force to have a place"""


def check_dynamics(motion: Motion, robot: Robot) -> DynamicsReport:
    """Look for everything in a clip that neither ground nor motors can give.

    Args:
        motion: The clip, with the robot's joints.
        robot: A biped with a free base.

    Returns:
        Key figures and problems.

    Raises:
        InputError: If the robot is no free biped or the motion lacks its joints.
    """
    clip = _clip(motion, robot)
    margin_mm = 1e3 * _support_margin(clip)
    force = clip.wrench.force_w[:, 2] / clip.weight
    friction = _friction(clip)
    fraction, gap = _shared_between_feet(clip)
    depth_mm = 1e3 * self_depth(motion, robot)
    standing = clip.touching.any(axis=(1, 2))
    joint = int(fraction.max(axis=0).argmax())
    flight_acc, flight_spin = _flight_deviations(clip)
    problems = [
        *_force_problems(clip, force, friction), *_gap_problems(clip, gap), *_support_problems(clip, margin_mm),
        *_flight_problems(clip, flight_acc, flight_spin), *_torque_problems(clip, fraction),
        *_self_problems(clip, depth_mm),
    ]  # fmt: skip
    return DynamicsReport(
        zmp_margin_mm=_quantile(margin_mm[clip.loaded]),
        min_force=_quantile(force[standing]),
        max_force=float(force.max()),
        max_friction=float(friction.max()),
        wrench_gap=_worst(gap[clip.loaded]),
        flight_s=float((~standing).sum() / motion.fps),
        flight_acc=float(flight_acc.max()),
        flight_spin=float(flight_spin.max()),
        torque_fraction=float(fraction.max()),
        torque_joint=robot.joint_names[joint],
        self_depth_mm=float(depth_mm.max()),
        problems=tuple(problems),
    )


def _clip(motion: Motion, robot: Robot) -> _Clip:
    """Wrench, contacts and flights."""
    if not robot.has_free_base or len(robot.foot_names) != 2:
        raise InputError(f"robot '{robot.name}' is no free biped: its ground forces are not known")
    missing = [name for name in robot.joint_names if name not in motion.joint_names]
    if missing:
        raise InputError(
            f"motion lacks {len(missing)} joints of robot '{robot.name}', the first is "
            f"'{missing[0]}'; import the clip for this robot"
        )
    wrench = ground_wrench(motion, robot)
    qpos = qpos_of_motion(robot, motion)
    pos, quat = robot.forward_kinematics(qpos[:, :3], qpos[:, 3:7], qpos[:, robot.qpos_ids])
    feet = robot.body_index(robot.foot_names)
    points_w = np.stack([
        pos[:, foot, None] + rotate(quat[:, foot, None], points)
        for foot, points in zip(feet, sole_points(robot), strict=True)
    ], axis=1)  # fmt: skip
    touching = points_w[..., 2] < CONTACT_HEIGHT_M
    weight = float(robot.model.body_mass.sum()) * GRAVITY
    # Accelerations at the first and last frame in the air still belong partly to the push.
    flying = binary_erosion(~touching.any(axis=(1, 2)), iterations=1)
    loaded = (wrench.force_w[:, 2] > LOADED * weight) & touching.any(axis=(1, 2))
    return _Clip(motion, robot, wrench, weight, points_w, touching, flying, loaded)


def _support_margin(clip: _Clip) -> np.ndarray:
    """(T,) how far the zero-moment point is inside the support polygon [m]; nan without one."""
    margin = np.full(len(clip.touching), np.nan)
    for k in np.flatnonzero(clip.touching.any(axis=(1, 2))):
        corners = clip.points_w[k][clip.touching[k]][:, :2]
        zmp = clip.wrench.zmp_w[k]
        try:
            sides = ConvexHull(corners).equations
        except (QhullError, ValueError):  # a point or a line: nothing is inside
            margin[k] = -np.linalg.norm(corners - zmp, axis=1).min()
            continue
        margin[k] = -(sides[:, :2] @ zmp + sides[:, 2]).max()
    return margin


def _friction(clip: _Clip) -> np.ndarray:
    """(T,) horizontal over vertical force where the ground is loaded, else zero."""
    force = clip.wrench.force_w
    share = np.hypot(force[:, 0], force[:, 1]) / np.maximum(force[:, 2], LOADED * clip.weight)
    return np.where(clip.loaded, share, 0.0)


def _flight_deviations(clip: _Clip) -> tuple[np.ndarray, np.ndarray]:
    """(T,) each: distance from free fall [m/s^2], and from the flight's mean spin; 0 on ground."""
    acc = np.linalg.norm(clip.wrench.com_acc_w + [0.0, 0.0, GRAVITY], axis=1) * clip.flying
    spin = np.zeros(len(acc))
    for start, stop in _runs(clip.flying):
        here = clip.wrench.spin_w[start:stop]
        spin[start:stop] = np.linalg.norm(here - here.mean(axis=0), axis=1)
    return acc, spin


def _shared_between_feet(clip: _Clip) -> tuple[np.ndarray, np.ndarray]:
    """Joint torque over limit (T, J), and how far the soles fail to give the wrench (T,).

    Forces lie in the friction cones of the points that touch; of all that add up to the wrench,
    nearly the smallest are taken (non-negative least squares with a small cost on forces). What
    they cannot add up to is the gap, in shares of the weight; a moment counts as a force at 10 cm.
    """
    robot, model = clip.robot, clip.robot.model
    data, qpos = mujoco.MjData(model), qpos_of_motion(robot, clip.motion)
    feet = [model.body(name).id for name in robot.foot_names]
    torque, gap = clip.wrench.generalized[:, robot.qvel_ids].copy(), np.zeros(len(qpos))
    jacobian = np.empty((3, model.nv))
    for k in np.flatnonzero(clip.touching.any(axis=(1, 2))):
        data.qpos[:] = qpos[k]
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        owner, points = _outline(clip, k)
        forces, gap[k] = _contact_forces(clip.wrench.force_w[k], clip.wrench.moment_w[k], points)
        for foot, point, force in zip(owner, points, forces, strict=True):
            mujoco.mj_jac(model, data, jacobian, None, point, feet[foot])
            torque[k] -= (force @ jacobian)[robot.qvel_ids]
    return np.abs(torque) / robot.torque_limit, gap / clip.weight


def _contact_forces(
    force: np.ndarray, moment: np.ndarray, points: np.ndarray
) -> tuple[np.ndarray, float]:
    """Forces (P, 3) at points that add up to a wrench about the origin, and what is missing [N]."""
    angles = np.arange(_EDGES) * 2.0 * np.pi / _EDGES
    cone = np.column_stack([FRICTION * np.cos(angles), FRICTION * np.sin(angles), np.ones(_EDGES)])
    middle = points.mean(axis=0)
    rays = np.tile(cone, (len(points), 1))
    arms = np.repeat(points - middle, _EDGES, axis=0)
    maps = np.vstack([rays.T, np.cross(arms, rays).T / _LEVER_M])
    wrench = np.concatenate([force, (moment - np.cross(middle, force)) / _LEVER_M])
    small = 1e-3 * np.eye(maps.shape[1])
    share, _ = nnls(np.vstack([maps, small]), np.append(wrench, np.zeros(maps.shape[1])))
    forces = (share[:, None] * rays).reshape(len(points), _EDGES, 3).sum(axis=1)
    return forces, float(np.linalg.norm(maps @ share - wrench))


def _outline(clip: _Clip, frame: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each foot's touching points, the outermost all around: which foot, where."""
    owner, found = [], []
    for foot in range(2):
        points = clip.points_w[frame, foot][clip.touching[frame, foot]]
        if len(points):
            angles = np.arange(_EDGES) * 2.0 * np.pi / _EDGES + 0.2
            around = np.array([np.cos(angles), np.sin(angles)])
            corners = points[np.unique((points[:, :2] @ around).argmax(axis=0))]
            found.append(corners)
            owner += [foot] * len(corners)
    return np.array(owner), np.concatenate(found)


def self_depth(motion: Motion, robot: Robot) -> np.ndarray:
    """How deep bodies that are no neighbours are inside each other, beyond the default pose.

    Args:
        motion: The clip.
        robot: The robot; all its collision shapes count, whatever its simulation leaves out.

    Returns:
        (T,) [m], 0 where nothing meets.
    """
    spec = robot.spec()
    for geom in spec.geoms:
        if geom.contype or geom.conaffinity or geom.group == 3:
            geom.contype, geom.conaffinity = 1, 1
    model = spec.compile()
    data = mujoco.MjData(model)

    def depths(qpos: np.ndarray) -> dict[tuple[int, int], float]:
        data.qpos[:] = qpos
        mujoco.mj_kinematics(model, data)
        mujoco.mj_collision(model, data)
        found: dict[tuple[int, int], float] = {}
        for contact in data.contact:
            pair = int(contact.geom1), int(contact.geom2)
            bodies = model.geom_bodyid[list(pair)]
            if bodies.all():  # not the floor
                found[pair] = max(found.get(pair, 0.0), -float(contact.dist))
        return found

    usual = depths(robot.default_qpos())
    result = np.zeros(motion.num_frames)
    for k, qpos in enumerate(qpos_of_motion(robot, motion)):
        beyond = [deep - usual.get(pair, 0.0) for pair, deep in depths(qpos).items()]
        result[k] = max([0.0, *beyond])
    return result


def _force_problems(clip: _Clip, force: np.ndarray, friction: np.ndarray) -> Iterator[str]:
    """Ground that would have to pull, push too hard, or hold what slides."""
    standing = clip.touching.any(axis=(1, 2))
    if _quantile(force[standing]) < -0.05:
        frame = int(np.where(standing, force, np.inf).argmin())
        yield (
            f"the floor would have to pull the robot down with {-force[frame]:.1f} times its "
            f"weight at {_at(clip, frame)}"
        )
    if force.max() > MAX_FORCE:
        yield (
            f"the floor has to push with {force.max():.1f} times the weight at "
            f"{_at(clip, int(force.argmax()))}; {MAX_FORCE:g} is much already"
        )
    if friction.max() > FRICTION:
        yield (
            f"the feet slide: horizontal over vertical force is {friction.max():.2f} at "
            f"{_at(clip, int(friction.argmax()))}, friction gives {FRICTION:g}"
        )


def _gap_problems(clip: _Clip, gap: np.ndarray) -> Iterator[str]:
    """A wrench that no forces inside the friction cones add up to, for example a twist."""
    if _worst(gap[clip.loaded]) > MAX_GAP:
        frame = int(np.where(clip.loaded, gap, 0.0).argmax())
        yield (
            f"the soles cannot give force and moment at {_at(clip, frame)}: "
            f"{gap[frame]:.2f} times the weight is missing (a moment counts as a force at "
            f"{100 * _LEVER_M:.0f} cm)"
        )


def _support_problems(clip: _Clip, margin_mm: np.ndarray) -> Iterator[str]:
    """A zero-moment point beside the soles: the robot tips over."""
    if not clip.loaded.any():
        return
    if _quantile(margin_mm[clip.loaded]) < 0.0:
        frame = int(np.where(clip.loaded, margin_mm, np.inf).argmin())
        yield (
            f"the zero-moment point is {-margin_mm[frame]:.0f} mm outside the soles at "
            f"{_at(clip, frame)} ({int((margin_mm[clip.loaded] < 0.0).sum())} frames): it tips over"
        )


def _flight_problems(clip: _Clip, acc: np.ndarray, spin: np.ndarray) -> Iterator[str]:
    """A flight that is none."""
    if acc.max() > MAX_FLIGHT_ACC:
        yield (
            f"in the air the centre of mass departs from free fall by {acc.max():.1f} m/s^2 at "
            f"{_at(clip, int(acc.argmax()))}"
        )
    if spin.max() > MAX_FLIGHT_SPIN:
        yield (
            f"in the air the angular momentum changes by {spin.max():.2f} kg m^2/s, with nothing to "
            f"turn against, at {_at(clip, int(spin.argmax()))}"
        )


def _torque_problems(clip: _Clip, fraction: np.ndarray) -> Iterator[str]:
    """Joints that need more than their motors have."""
    for joint in np.flatnonzero(fraction.max(axis=0) > 1.0):
        frame, limit = int(fraction[:, joint].argmax()), clip.robot.torque_limit[joint]
        yield (
            f"{clip.robot.joint_names[joint]} needs {fraction[frame, joint] * limit:.0f} Nm at "
            f"{_at(clip, frame)}, its motor has {limit:.0f}"
        )


def _self_problems(clip: _Clip, depth_mm: np.ndarray) -> Iterator[str]:
    """Bodies inside each other."""
    if depth_mm.max() > 1e3 * MAX_SELF_DEPTH_M:
        yield (
            f"parts of the robot are {depth_mm.max():.0f} mm inside each other at "
            f"{_at(clip, int(depth_mm.argmax()))}"
        )


def _runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """Start and end (excluded) of each stretch of true."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(int), [0]])))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def _quantile(values: np.ndarray) -> float:
    """The margin that all but a few frames keep; nan of nothing."""
    return float(np.quantile(values, QUANTILE)) if len(values) else float("nan")


def _worst(values: np.ndarray) -> float:
    """What all but a few frames stay below; nan of nothing."""
    return float(np.quantile(values, 1.0 - QUANTILE)) if len(values) else float("nan")


def _at(clip: _Clip, frame: int) -> str:
    """A frame as a time and a number."""
    return f"{frame / clip.motion.fps:.2f} s (frame {frame})"
