"""Making poses obey mechanics: what the momentum of the whole body does, the ground must allow.

All frames are solved together, by least squares over poses q_k. With c the centre of mass, L the
angular momentum about it and F the force that the motion needs,

    F_k = m (c_{k+1} - 2 c_k + c_{k-1}) / dt^2 + m g
    N_k = (c_k - p_k) x F_k + (L_{k+1/2} - L_{k-1/2}) / dt,    L_{k+1/2} = A v_{k+1/2}

F and dL/dt are zero in flight; while a foot stands, N about the planned zero-moment point p is.
Feet stay where they are planned, joints within their limits, and the posture near that of the
inverse kinematics. Jacobians couple neighbouring frames only: a Gauss-Newton step is one banded
solve.

    qpos = fit_momentum(robot, plan, qpos)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import mujoco
import numpy as np
from scipy.linalg import solveh_banded

from asap.grounding import GRAVITY
from asap.motion_plan import Plan
from asap.robot import Robot
from asap.whole_body import changes, leg_dofs
from asap_deploy.rotation import conjugate, multiply, to_rotvec

SPEED_MARGIN = 0.75
"""Joints stay below this share of their motor's speed."""

LIMIT_MARGIN_RAD = 0.03


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Each is one over the deviation that counts as one."""

    foot_pos: float = 1.0 / 0.0005
    """of a standing foot [1/m]"""
    foot_turn: float = 1.0 / 0.003
    """[1/rad]"""
    swing: float = 0.02
    """Share of these two that is left for a foot high up"""
    zmp: float = 1.0 / 0.01
    """of moment / weight while a foot stands [1/m]"""
    twist: float = 1.0 / 0.02
    """of the moment about the vertical / weight [1/m]"""
    flight_force: float = 1.0 / 0.003
    """of force / weight in flight"""
    flight_spin: float = 1.0 / 0.0003
    """of the change of angular momentum / weight in flight [1/m]"""
    com_height: float = 1.0 / 0.005
    """[1/m]"""
    com_place: float = 1.0 / 0.03
    """of the horizontal centre of mass [1/m]"""
    posture: float = 1.0 / 0.05
    """of joints above the hips, and of the base's attitude [1/rad]"""
    leg_posture: float = 1.0 / 0.5
    """[1/rad]"""
    slip: float = 1.0 / 0.3
    """of horizontal over planned vertical force while a foot stands"""
    acc: float = 1.0 / 12.0
    """of accelerations of joints above the hips, and of the base's attitude [s^2/rad]"""
    leg_acc: float = 1.0 / 100.0
    """[s^2/rad]"""
    limit: float = 1.0 / 0.003
    """of going beyond a limit [1/rad]"""
    ends: float = 1.0 / 0.0002
    """of the first and last three poses [1/rad], [1/m]"""


def fit_momentum(
    robot: Robot, plan: Plan, qpos: np.ndarray, *, weights: Weights | None = None, steps: int = 16
) -> np.ndarray:
    """Poses near ``qpos`` whose momentum the ground can change as they need it.

    Args:
        robot: The robot of the plan.
        plan: Feet, contacts, zero-moment point, height and preferred posture.
        qpos: (T, nq) where to start.
        weights: What matters how much.
        steps: Gauss-Newton steps.

    Returns:
        (T, nq).
    """
    fit = _Fit(robot, plan, qpos, weights or Weights())
    for _ in range(steps):
        qpos = fit.step(qpos)
    return qpos


class _Kinematics(NamedTuple):
    """What poses give (T, ...), with derivatives by the nv degrees of freedom."""

    com: np.ndarray
    com_jac: np.ndarray
    """(T, 3, nv)"""
    spin: np.ndarray
    """(T, 3, nv) angular momentum per generalised velocity"""
    foot_pos: np.ndarray
    foot_quat: np.ndarray
    foot_jac: np.ndarray
    """(T, 2, 6, nv)"""


class _System:
    """Normal equations of residuals that reach from one frame to its next but one."""

    def __init__(self, frames: int, size: int) -> None:
        self.blocks = np.zeros((3, frames, size, size))  # diagonal, first and second off it
        self.right = np.zeros((frames, size))

    def add(self, first: int, jacobians: list[np.ndarray], residual: np.ndarray) -> None:
        """Rows (K, M) over frames first + k, first + k + 1, ...; each Jacobian is (K, M, nv)."""
        count = len(residual)
        for i, a in enumerate(jacobians):
            rows = slice(first + i, first + i + count)
            at = a.transpose(0, 2, 1)
            self.right[rows] -= (at @ residual[:, :, None])[:, :, 0]
            for j in range(i, len(jacobians)):
                self.blocks[j - i, rows] += at @ jacobians[j]

    def add_diagonal(self, first: int, scales: list[np.ndarray], residual: np.ndarray) -> None:
        """The same for Jacobians that are diagonal: each scale is (K, nv) or (nv,)."""
        count, places = len(residual), np.arange(residual.shape[1])
        for i, a in enumerate(scales):
            rows = slice(first + i, first + i + count)
            self.right[rows] -= a * residual
            for j in range(i, len(scales)):
                self.blocks[j - i, rows][:, places, places] += a * scales[j]

    def solve(self, damping: float) -> np.ndarray:
        """The step (T, nv)."""
        frames, size = self.right.shape
        bands = np.zeros((3 * size, frames * size))  # lower form
        row, column = np.indices((size, size))
        for offset in range(3):
            below = row - column + offset * size
            keep = below >= 0
            for k in range(frames - offset):
                # Block (k + offset, k) is the transpose of what was stored for (k, k + offset).
                block = self.blocks[offset, k].T
                bands[below[keep], k * size + column[keep]] = block[keep]
        bands[0] += damping
        return solveh_banded(bands, self.right.ravel(), lower=True).reshape(frames, size)


class _Fit:
    """One problem: the plan in the units of the residuals."""

    def __init__(self, robot: Robot, plan: Plan, reference: np.ndarray, weights: Weights) -> None:
        self.robot, self.plan, self.weights, self.reference = robot, plan, weights, reference
        self.model, self.data = robot.model, mujoco.MjData(robot.model)
        self.mass, self.dt = float(self.model.body_mass.sum()), 1.0 / plan.fps
        self.base = self.model.body(robot.base_name).id
        self.feet = [self.model.body(name).id for name in robot.foot_names]
        self.flying = np.asarray(~plan.contact.any(axis=1))
        self.posture = _per_joint(robot, weights.posture, weights.leg_posture)
        self.smooth = _per_joint(robot, weights.acc, weights.leg_acc)

    def step(self, qpos: np.ndarray) -> np.ndarray:
        """One Gauss-Newton step."""
        kinematics = self._kinematics(qpos)
        velocity = changes(self.model, qpos[:-1], qpos[1:]) / self.dt
        system = _System(len(qpos), self.model.nv)
        self._add_feet(system, kinematics)
        self._add_com(system, kinematics)
        self._add_momentum(system, kinematics, velocity)
        self._add_posture(system, qpos, velocity)
        self._add_limits(system, qpos, velocity)
        change = system.solve(1e-6)
        result = qpos.copy()
        for row, step in zip(result, change, strict=True):
            mujoco.mj_integratePos(self.model, row, step, 1.0)
        return result

    def _kinematics(self, qpos: np.ndarray) -> _Kinematics:
        """Positions and Jacobians at every frame."""
        model, data, frames, nv = self.model, self.data, len(qpos), self.model.nv
        found = _Kinematics(
            com=np.empty((frames, 3)), com_jac=np.empty((frames, 3, nv)),
            spin=np.empty((frames, 3, nv)), foot_pos=np.empty((frames, 2, 3)),
            foot_quat=np.empty((frames, 2, 4)), foot_jac=np.empty((frames, 2, 6, nv)),
        )  # fmt: skip
        for k in range(frames):
            data.qpos[:] = qpos[k]
            mujoco.mj_kinematics(model, data)
            mujoco.mj_comPos(model, data)
            found.com[k] = data.subtree_com[self.base]
            mujoco.mj_jacSubtreeCom(model, data, found.com_jac[k], self.base)
            mujoco.mj_angmomMat(model, data, found.spin[k], self.base)
            for i, foot in enumerate(self.feet):
                found.foot_pos[k, i], found.foot_quat[k, i] = data.xpos[foot], data.xquat[foot]
                linear, turning = found.foot_jac[k, i, :3], found.foot_jac[k, i, 3:]
                mujoco.mj_jacBody(model, data, linear, turning, foot)
        return found

    def _add_feet(self, system: _System, found: _Kinematics) -> None:
        """Feet are where they are planned; high up they may differ."""
        weights, plan = self.weights, self.plan
        near = np.exp(-((plan.foot_up / 0.01) ** 2))
        share = weights.swing + (1.0 - weights.swing) * near
        scale = np.array([weights.foot_pos] * 3 + [weights.foot_turn] * 3)
        for i in range(2):
            moved = found.foot_pos[:, i] - plan.foot_pos_w[:, i]
            turned = to_rotvec(
                multiply(found.foot_quat[:, i], conjugate(plan.foot_quat_wxyz[:, i]))
            )
            weight = share[:, i, None] * scale
            system.add(
                0, [weight[:, :, None] * found.foot_jac[:, i]], weight * np.hstack([moved, turned])
            )

    def _add_com(self, system: _System, found: _Kinematics) -> None:
        """The centre of mass is as high as planned, and roughly where."""
        weights = self.weights
        weight = np.array([weights.com_place, weights.com_place, weights.com_height])
        system.add(
            0, [weight[:, None] * found.com_jac], weight * (found.com - self.plan.com_w)
        )  # fmt: skip

    def _add_momentum(self, system: _System, found: _Kinematics, velocity: np.ndarray) -> None:
        """The module's formulas, divided by the weight m g."""
        force, force_jac = self._force(found)
        spin_rate, spin_jac = self._spin_rate(found, velocity)
        zmp = np.column_stack([self.plan.zmp_w[1:-1], np.zeros(len(force))])
        arm = found.com[1:-1] - zmp
        moment, lever = np.cross(arm, force) + spin_rate, _cross(arm)
        moment_jac = [lever @ f + s for f, s in zip(force_jac, spin_jac, strict=True)]
        moment_jac[1] = moment_jac[1] - _cross(force) @ found.com_jac[1:-1]
        weights, flying = self.weights, self.flying[1:-1, None]
        # Where the ground pushes little it holds little: no side force without a planned push.
        planned = 1.0 + np.diff(self.plan.com_w[:, 2], 2) / (self.dt**2 * GRAVITY)
        slip = np.outer(weights.slip / np.maximum(planned, 0.1), [1.0, 1.0, 0.0])
        standing = np.array([weights.zmp, weights.zmp, weights.twist])
        for part, jacobian, weight in (
            (force, force_jac, np.where(flying, weights.flight_force, slip)),
            (moment, moment_jac, np.where(flying, 0.0, standing)),
            (spin_rate, spin_jac, np.where(flying, weights.flight_spin, 0.0)),
        ):
            system.add(0, [weight[:, :, None] * j for j in jacobian], weight * part)

    def _force(self, found: _Kinematics) -> tuple[np.ndarray, list[np.ndarray]]:
        """F / (m g) at frames 1 to T - 2, and its Jacobians by the frames k - 1, k, k + 1."""
        rate = 1.0 / (self.dt**2 * GRAVITY)
        com, jac = found.com, found.com_jac
        force = (com[2:] - 2.0 * com[1:-1] + com[:-2]) * rate + np.array([0.0, 0.0, 1.0])
        return force, [rate * jac[:-2], -2.0 * rate * jac[1:-1], rate * jac[2:]]

    def _spin_rate(
        self, found: _Kinematics, velocity: np.ndarray
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """(dL/dt) / (m g) [m] and its Jacobians, as ``_force``; the change of A is left out."""
        unit = 1.0 / (self.mass * GRAVITY * self.dt)
        between = 0.5 * (found.spin[1:] + found.spin[:-1])
        spin = np.einsum("tij,tj->ti", between, velocity)
        before, after = between[:-1] * (unit / self.dt), between[1:] * (unit / self.dt)
        return np.diff(spin, axis=0) * unit, [before, -before - after, after]

    def _add_posture(self, system: _System, qpos: np.ndarray, velocity: np.ndarray) -> None:
        """Near the reference, smooth, and at rest at both ends."""
        weight = np.tile(self.posture, (len(qpos), 1))
        reference = self.reference.copy()
        weight[:3] = weight[-3:] = self.weights.ends
        reference[:3], reference[-3:] = reference[0], reference[-1]
        away = changes(self.model, reference, qpos)
        system.add_diagonal(0, [weight], weight * away)
        smooth, rate = self.smooth, 1.0 / self.dt**2
        acc = np.diff(velocity, axis=0) / self.dt
        scales = [np.tile(share * rate * smooth, (len(acc), 1)) for share in (1.0, -2.0, 1.0)]
        system.add_diagonal(0, scales, smooth * acc)

    def _add_limits(self, system: _System, qpos: np.ndarray, velocity: np.ndarray) -> None:
        """Joints beyond their range or faster than their motors are pulled back."""
        robot, weight = self.robot, self.weights.limit
        low = robot.joint_pos_lower + LIMIT_MARGIN_RAD
        high = robot.joint_pos_upper - LIMIT_MARGIN_RAD
        joint_pos, joints = qpos[:, robot.qpos_ids], robot.qvel_ids
        beyond = np.zeros((len(qpos), self.model.nv))
        beyond[:, joints] = np.maximum(joint_pos - high, 0.0) + np.minimum(joint_pos - low, 0.0)
        system.add_diagonal(0, [weight * (beyond != 0.0)], weight * beyond)
        top = SPEED_MARGIN * robot.joint_vel_limit
        fast = np.zeros_like(velocity)
        fast[:, joints] = velocity[:, joints] - np.clip(velocity[:, joints], -top, top)
        scale = weight * (fast != 0.0)
        system.add_diagonal(0, [-scale, scale], weight * fast * self.dt)


def _per_joint(robot: Robot, upper: float, legs: float) -> np.ndarray:
    """(nv,): none for the base's place, which follows from feet and centre of mass."""
    result = np.full(robot.model.nv, upper)
    result[:3] = 0.0
    result[leg_dofs(robot)] = legs
    return result


def _cross(vectors: np.ndarray) -> np.ndarray:
    """Matrices (T, 3, 3) that multiply like a cross product with vectors (T, 3)."""
    x, y, z = vectors.T
    zero = np.zeros_like(x)
    return np.array([[zero, -z, y], [z, zero, -x], [-y, x, zero]]).transpose(2, 0, 1)
