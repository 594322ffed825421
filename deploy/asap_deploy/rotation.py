"""Rotations as unit quaternions, always ``wxyz``, the last axis holding the four numbers.

A quaternion rotates vectors of the body frame to the world frame. Leading axes are free, so one
robot, N simulations and T frames use the same functions. ``xyzw`` exists at file borders only.

    gravity_b = projected_gravity(base_quat_wxyz)        # (0, 0, -1) when upright
    heading_w = rotate(heading(base_quat_wxyz), forward_b)
"""

from __future__ import annotations

import numpy as np

_SMALL_ANGLE = 1e-8
"""Below this the sine of an angle is replaced by the angle: no division by zero."""


def wxyz_from_xyzw(quat_xyzw: np.ndarray) -> np.ndarray:
    """Reorder quaternions of shape (..., 4) that a file or SDK stores as xyzw."""
    return np.roll(np.asarray(quat_xyzw), 1, axis=-1)


def xyzw_from_wxyz(quat: np.ndarray) -> np.ndarray:
    """Reorder quaternions of shape (..., 4) for a file or library that wants xyzw."""
    return np.roll(np.asarray(quat), -1, axis=-1)


def normalize(quat: np.ndarray) -> np.ndarray:
    """Scale to unit length; the caller has excluded zeros."""
    return quat / np.linalg.norm(quat, axis=-1, keepdims=True)


def conjugate(quat: np.ndarray) -> np.ndarray:
    """The inverse rotation of unit quaternions (..., 4)."""
    return np.asarray(quat) * np.array([1.0, -1.0, -1.0, -1.0])


def multiply(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Hamilton product (..., 4): ``rotate(multiply(a, b), v) == rotate(a, rotate(b, v))``."""
    left, right = np.asarray(left), np.asarray(right)
    w1, x1, y1, z1 = left[..., 0], left[..., 1], left[..., 2], left[..., 3]
    w2, x2, y2, z2 = right[..., 0], right[..., 1], right[..., 2], right[..., 3]
    return np.stack(
        [
            w1 * w2 - x1 * x2 - y1 * y2 - z1 * z2,
            w1 * x2 + x1 * w2 + y1 * z2 - z1 * y2,
            w1 * y2 - x1 * z2 + y1 * w2 + z1 * x2,
            w1 * z2 + x1 * y2 - y1 * x2 + z1 * w2,
        ],
        axis=-1,
    )


def rotate(quat: np.ndarray, vector_b: np.ndarray) -> np.ndarray:
    """Body-frame vectors (..., 3) expressed in the world frame.

    v_w = v + 2 w (u x v) + 2 u x (u x v), with quat = (w, u)
    """
    quat, vector_b = np.asarray(quat), np.asarray(vector_b)
    w, u = quat[..., :1], quat[..., 1:]
    twice = 2.0 * _cross(u, vector_b)
    return vector_b + w * twice + _cross(u, twice)


def rotate_inverse(quat: np.ndarray, vector_w: np.ndarray) -> np.ndarray:
    """World-frame vectors (..., 3) expressed in the body frame."""
    return rotate(conjugate(quat), vector_w)


def projected_gravity(quat: np.ndarray) -> np.ndarray:
    """Unit direction of gravity in the body frame (..., 3); (0, 0, -1) when upright.

    It is minus the third row of the rotation matrix.
    """
    quat = np.asarray(quat)
    w, x, y, z = quat[..., 0], quat[..., 1], quat[..., 2], quat[..., 3]
    return np.stack(
        [2.0 * (w * y - x * z), -2.0 * (w * x + y * z), -1.0 + 2.0 * (x * x + y * y)], axis=-1
    )


def yaw(quat: np.ndarray) -> np.ndarray:
    """Heading angle about the world z axis [rad], shape (...)."""
    quat = np.asarray(quat)
    w, x, y, z = quat[..., 0], quat[..., 1], quat[..., 2], quat[..., 3]
    return np.arctan2(2.0 * (w * z + x * y), 1.0 - 2.0 * (y * y + z * z))


def from_yaw(angle: np.ndarray) -> np.ndarray:
    """Rotation about the world z axis by ``angle`` [rad], shape (..., 4)."""
    half = 0.5 * np.asarray(angle, dtype=float)
    zero = np.zeros_like(half)
    return np.stack([np.cos(half), zero, zero, np.sin(half)], axis=-1)


def heading(quat: np.ndarray) -> np.ndarray:
    """The yaw part of a rotation, as a quaternion (..., 4)."""
    return from_yaw(yaw(quat))


def from_axis_angle(axis: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Rotation by ``angle`` [rad] (...) about unit ``axis`` (..., 3)."""
    half = 0.5 * np.asarray(angle, dtype=float)[..., None]
    return np.concatenate([np.cos(half), np.sin(half) * np.asarray(axis)], axis=-1)


def from_rotvec(rotvec: np.ndarray) -> np.ndarray:
    """Rotation vectors (axis times angle [rad], (..., 3)) as quaternions."""
    rotvec = np.asarray(rotvec, dtype=float)
    angle = np.linalg.norm(rotvec, axis=-1, keepdims=True)
    # sin(a/2)/a tends to 1/2
    ratio = np.where(
        angle < _SMALL_ANGLE, 0.5, np.sin(0.5 * angle) / np.maximum(angle, _SMALL_ANGLE)
    )
    return np.concatenate([np.cos(0.5 * angle), ratio * rotvec], axis=-1)


def to_rotvec(quat: np.ndarray) -> np.ndarray:
    """Quaternions as rotation vectors (..., 3) with angles in [0, pi] [rad]."""
    quat = np.asarray(quat, dtype=float)
    quat = np.where(quat[..., :1] < 0.0, -quat, quat)  # q and -q are one rotation
    sine = np.linalg.norm(quat[..., 1:], axis=-1, keepdims=True)
    angle = 2.0 * np.arctan2(sine, quat[..., :1])
    ratio = np.where(sine < _SMALL_ANGLE, 2.0, angle / np.maximum(sine, _SMALL_ANGLE))
    return ratio * quat[..., 1:]


def to_matrix(quat: np.ndarray) -> np.ndarray:
    """Rotation matrices (..., 3, 3); columns are the body axes in the world frame."""
    quat = np.asarray(quat)
    w, x, y, z = quat[..., 0], quat[..., 1], quat[..., 2], quat[..., 3]
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def angle_between(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Smallest rotation angle from one attitude to the other [rad], shape (...)."""
    return np.linalg.norm(to_rotvec(multiply(conjugate(left), right)), axis=-1)


def slerp(start: np.ndarray, end: np.ndarray, fraction: np.ndarray) -> np.ndarray:
    """Interpolate along the shorter arc; ``fraction`` (...) in [0, 1] broadcasts over (..., 4)."""
    turn = to_rotvec(multiply(conjugate(start), end))
    return multiply(start, from_rotvec(np.asarray(fraction)[..., None] * turn))


def continuous(quat: np.ndarray) -> np.ndarray:
    """The same attitudes (T, 4) without changes of sign from row to row, fit to be blended.

    A blend of q and -q, which are one rotation, passes through zero.
    """
    quat = np.asarray(quat)
    flips = np.where(np.sum(quat[1:] * quat[:-1], axis=-1) < 0.0, -1.0, 1.0)
    return np.concatenate([quat[:1], quat[1:] * np.cumprod(flips)[:, None]])


def ang_vel_w(quat: np.ndarray, fps: float) -> np.ndarray:
    """Angular velocity of attitudes (T, ..., 4) at ``fps`` [Hz], in the world frame [rad/s].

    Central differences inside, one-sided at the ends: w = log(q[t+1] q[t-1]^-1) / (2 dt).
    """
    quat = np.asarray(quat)
    last = quat.shape[0] - 1
    if last == 0:
        return np.zeros(quat.shape[:-1] + (3,))
    after = np.minimum(np.arange(last + 1) + 1, last)
    before = np.maximum(np.arange(last + 1) - 1, 0)
    span_s = ((after - before) / fps).reshape((-1,) + (1,) * (quat.ndim - 1))
    return to_rotvec(multiply(quat[after], conjugate(quat[before]))) / span_s


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cross product over the last axis; np.cross costs several times more on small arrays."""
    ax, ay, az = a[..., 0], a[..., 1], a[..., 2]
    bx, by, bz = b[..., 0], b[..., 1], b[..., 2]
    return np.stack([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx], axis=-1)
