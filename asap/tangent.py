"""Differences between states of a robot with a free base, as vectors that can be added.

Positions (nq,) minus others are steps (nv,); the base's turn is expressed in its own frame.

    step = position_difference(origin, qpos)
    moved(origin, step)                              # qpos again
"""

from __future__ import annotations

import numpy as np

from asap_deploy import rotation


def position_difference(origin: np.ndarray, qpos: np.ndarray) -> np.ndarray:
    """The steps (..., nv) that lead from poses (..., nq) of a robot with a free base to others.

    The same numbers as ``mj_differentiatePos``, for many poses at once.
    """
    turned = rotation.multiply(rotation.conjugate(origin[..., 3:7]), qpos[..., 3:7])
    turn = rotation.to_rotvec(turned)
    parts = [qpos[..., :3] - origin[..., :3], turn, qpos[..., 7:] - origin[..., 7:]]
    return np.concatenate(parts, axis=-1)


def moved(qpos: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Poses (..., nq) after steps (..., nv), like ``mj_integratePos``."""
    turned = rotation.multiply(qpos[..., 3:7], rotation.from_rotvec(step[..., 3:6]))
    parts = [qpos[..., :3] + step[..., :3], turned, qpos[..., 7:] + step[..., 6:]]
    return np.concatenate(parts, axis=-1)


def state_difference(
    origin: tuple[np.ndarray, np.ndarray], qpos: np.ndarray, qvel: np.ndarray
) -> np.ndarray:
    """Errors (..., 2 nv) of states against others, given as (qpos, qvel)."""
    step = position_difference(origin[0], qpos)
    return np.concatenate([step, qvel - origin[1]], axis=-1)


def turn_rate(before: np.ndarray, after: np.ndarray, dt: float) -> np.ndarray:
    """Angular velocity in the world between attitudes (..., 4) that are ``dt`` apart [rad/s]."""
    turn = rotation.multiply(after, rotation.conjugate(before))
    return 2.0 * turn[..., 1:] * np.where(turn[..., :1] < 0.0, -1.0, 1.0) / dt


def from_base(points_w: np.ndarray, base_pos_w: np.ndarray, base_quat: np.ndarray) -> np.ndarray:
    """Points (..., K, 3) as seen from bases (..., 3), (..., 4) whose heading is forwards [m]."""
    heading = rotation.heading(base_quat)[..., None, :]
    return rotation.rotate_inverse(heading, points_w - base_pos_w[..., None, :])
