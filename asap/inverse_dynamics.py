"""What a motion asks of floor and motors: inverse dynamics, and forces of soles that could give it.

wrench = ground_wrench(motion, robot)                # force, moment, zero-moment point at T frames
forces, missing = contact_forces(wrench.force_w[k], wrench.moment_w[k], points_w)
"""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.optimize import nnls

from asap.grounding import GRAVITY
from asap.robot import Robot
from asap.rollout import qpos_of_motion
from asap_deploy.motion import Motion
from asap_deploy.rotation import rotate

FRICTION = 0.8
SMOOTHING_S = 0.014
"""Width of the Gaussian over accelerations [s]: less than a frame at 50 Hz."""

LEVER_M = 0.1
"""A moment counts as a force at this distance where both are added up [m]."""

HOVER_M = 0.02
"""A sole of a retargeted clip that is lower is meant to stand [m]."""

_EDGES = 8
"""Of the pyramid that stands for a friction cone, and corners that stand for a sole."""


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
    data, frames = mujoco.MjData(model), len(qpos)
    velocity, acceleration = _derivatives(model, qpos, motion.fps)
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
    com_acc = force / model.body_mass.sum() - np.array([0.0, 0.0, GRAVITY])
    return GroundWrench(force_w=force, zmp_w=zmp, moment_w=moment, generalized=generalized,
                        com_acc_w=com_acc, spin_w=spin)  # fmt: skip


def _derivatives(
    model: mujoco.MjModel, qpos: np.ndarray, fps: float
) -> tuple[np.ndarray, np.ndarray]:
    """Velocities and accelerations (T, nv) of poses by differences, the latter smoothed."""
    steps = np.empty((len(qpos) - 1, model.nv))
    for row, a, b in zip(steps, qpos[:-1], qpos[1:], strict=True):
        mujoco.mj_differentiatePos(model, row, 1.0 / fps, a, b)
    # Before the first frame and after the last it moves on as it does there.
    half = np.concatenate([steps[:1], steps, steps[-1:]])
    acceleration = gaussian_filter1d(
        np.diff(half, axis=0) * fps, SMOOTHING_S * fps, axis=0, mode="nearest"
    )
    return 0.5 * (half[1:] + half[:-1]), acceleration


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
            points.append(placed - np.array([0.0, 0.0, radius]))
        found.append(np.concatenate(points))
    return tuple(found)


def outline(points_w: np.ndarray) -> np.ndarray:
    """Of points (P, 3) those that are outermost, seen from above: at most eight."""
    if not len(points_w):
        return points_w
    angles = np.arange(_EDGES) * 2.0 * np.pi / _EDGES + 0.2
    around = np.array([np.cos(angles), np.sin(angles)])
    return points_w[np.unique((points_w[:, :2] @ around).argmax(axis=0))]


def contact_forces(
    force_w: np.ndarray, moment_w: np.ndarray, points_w: np.ndarray
) -> tuple[np.ndarray, float]:
    """Forces at points of the floor that add up to a wrench.

    Forces lie in the friction cones; of all that fit, nearly the smallest are taken (non-negative
    least squares over the cones' edges, with a small cost on forces).

    Args:
        force_w: (3,) [N].
        moment_w: (3,) about the origin [Nm].
        points_w: (P, 3) [m].

    Returns:
        Forces (P, 3) [N], and what they cannot add up to [N]: a moment counts as a force at 10 cm.
    """
    angles = np.arange(_EDGES) * 2.0 * np.pi / _EDGES
    cone = np.column_stack([FRICTION * np.cos(angles), FRICTION * np.sin(angles), np.ones(_EDGES)])
    middle = points_w.mean(axis=0)
    rays = np.tile(cone, (len(points_w), 1))
    arms = np.repeat(points_w - middle, _EDGES, axis=0)
    maps = np.vstack([rays.T, np.cross(arms, rays).T / LEVER_M])
    wrench = np.concatenate([force_w, (moment_w - np.cross(middle, force_w)) / LEVER_M])
    small = 1e-3 * np.eye(maps.shape[1])
    share, _ = nnls(np.vstack([maps, small]), np.append(wrench, np.zeros(maps.shape[1])))
    forces = (share[:, None] * rays).reshape(len(points_w), _EDGES, 3).sum(axis=1)
    return forces, float(np.linalg.norm(maps @ share - wrench))


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


def joint_torques(motion: Motion, robot: Robot) -> np.ndarray:
    """Torques (F, J) of a clip at its frames, with forces at the soles that are on the floor [Nm].

    Soles count as on the floor up to 2 cm, since clips of people hover.
    """
    model = robot.model
    wrench, poses = ground_wrench(motion, robot), qpos_of_motion(robot, motion)
    data, jacobian = mujoco.MjData(model), np.zeros((3, model.nv))
    feet = [model.body(name).id for name in robot.foot_names]
    soles = sole_points(robot)
    torques = np.empty((len(poses), len(robot.joint_names)))
    for k, qpos in enumerate(poses):
        data.qpos[:] = qpos
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        placed = [data.xpos[f] + rotate(data.xquat[f], p) for f, p in zip(feet, soles, strict=True)]
        points = np.concatenate(placed)
        bodies = np.repeat(feet, [len(p) for p in placed])
        low = points[:, 2] < HOVER_M
        generalized = wrench.generalized[k].copy()
        if low.any():
            on_floor = points[low] * np.array([1.0, 1.0, 0.0])
            forces, _ = contact_forces(wrench.force_w[k], wrench.moment_w[k], on_floor)
            for point, body, force in zip(points[low], bodies[low], forces, strict=True):
                mujoco.mj_jac(model, data, jacobian, None, point, body)
                generalized -= jacobian.T @ force
        torques[k] = generalized[robot.qvel_ids]
    return torques
