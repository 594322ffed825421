"""Could the ground and the motors do this? Inverse dynamics of a reference motion, in plain words.

From positions follow velocities and accelerations, from these the wrench that the floor has to give
and the torques of the joints. Nothing is simulated.

    report = check_dynamics(Motion.load("clip.npz"), Robot.load("g1"))
    report.problems            # ("left_knee_joint needs 171 Nm at 1.24 s (frame 62), its ...",)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import mujoco
import numpy as np
from scipy.ndimage import binary_erosion
from scipy.spatial import ConvexHull, QhullError

from asap.grounding import GRAVITY
from asap.inverse_dynamics import (
    FRICTION,
    LEVER_M,
    GroundWrench,
    contact_forces,
    ground_wrench,
    outline,
    self_depth,
    sole_points,
)
from asap.robot import Robot
from asap.rollout import qpos_of_motion
from asap.spans import spans
from asap_deploy.errors import InputError
from asap_deploy.motion import Motion
from asap_deploy.rotation import rotate

MAX_FORCE = 4.0
"""Times the weight."""

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
"""What the soles may fail to give, in shares of the weight."""


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
    margin_mm, friction = 1e3 * _support_margin(clip), _friction(clip)
    force = clip.wrench.force_w[:, 2] / clip.weight
    fraction, gap = _shared_between_feet(clip)
    depth_mm = 1e3 * self_depth(motion, robot)
    standing, joint = clip.touching.any(axis=(1, 2)), int(fraction.max(axis=0).argmax())
    flight_acc, flight_spin = _flight_deviations(clip)
    problems = [
        *_force_problems(clip, force, friction), *_gap_problems(clip, gap),
        *_support_problems(clip, margin_mm), *_flight_problems(clip, flight_acc, flight_spin),
        *_torque_problems(clip, fraction), *_self_problems(clip, depth_mm),
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
    acc = (
        np.linalg.norm(clip.wrench.com_acc_w + np.array([0.0, 0.0, GRAVITY]), axis=1) * clip.flying
    )
    spin = np.zeros(len(acc))
    for start, stop in spans(clip.flying):
        here = clip.wrench.spin_w[start:stop]
        spin[start:stop] = np.linalg.norm(here - here.mean(axis=0), axis=1)
    return acc, spin


def _shared_between_feet(clip: _Clip) -> tuple[np.ndarray, np.ndarray]:
    """Joint torque / limit (T, J), and what the soles cannot give of the wrench / weight (T,)."""
    robot, model = clip.robot, clip.robot.model
    data, qpos = mujoco.MjData(model), qpos_of_motion(robot, clip.motion)
    feet = [model.body(name).id for name in robot.foot_names]
    torque, gap = clip.wrench.generalized[:, robot.qvel_ids].copy(), np.zeros(len(qpos))
    jacobian = np.empty((3, model.nv))
    for k in np.flatnonzero(clip.touching.any(axis=(1, 2))):
        data.qpos[:] = qpos[k]
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        soles = [outline(clip.points_w[k, i][clip.touching[k, i]]) for i in range(2)]
        points, owner = np.concatenate(soles), np.repeat([0, 1], [len(sole) for sole in soles])
        forces, gap[k] = contact_forces(clip.wrench.force_w[k], clip.wrench.moment_w[k], points)
        for foot, point, force in zip(owner, points, forces, strict=True):
            mujoco.mj_jac(model, data, jacobian, None, point, feet[foot])
            torque[k] -= (force @ jacobian)[robot.qvel_ids]
    return np.abs(torque) / robot.torque_limit, gap / clip.weight


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
            f"{100 * LEVER_M:.0f} cm)"
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
            f"in the air the angular momentum changes by {spin.max():.2f} kg m^2/s, with nothing "
            f"to turn against, at {_at(clip, int(spin.argmax()))}"
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


def _quantile(values: np.ndarray) -> float:
    """The margin that all but a few frames keep; nan of nothing."""
    return float(np.quantile(values, QUANTILE)) if len(values) else float("nan")


def _worst(values: np.ndarray) -> float:
    """What all but a few frames stay below; nan of nothing."""
    return float(np.quantile(values, 1.0 - QUANTILE)) if len(values) else float("nan")


def _at(clip: _Clip, frame: int) -> str:
    """A frame as a time and a number."""
    return f"{frame / clip.motion.fps:.2f} s (frame {frame})"
