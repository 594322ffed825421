"""What a body has to do at every frame, and the path of its centre of mass.

The horizontal path of the centre of mass c follows from its height and from where the ground shall
push, the zero-moment point p. With all forces through the centre of mass

    (g + c_z'') (c - p) = c_z c''

which is solved for a whole clip at once, with c = p at both ends. Where c_z'' = -g nothing but
c'' = 0 remains: flight needs no special case.

    height = 0.67 + track(time_s, [Key(0.5, 0.0), Key(1.9, -0.2)])
    com_w = com_path(zmp_w, height, fps=50.0)          # (T, 2)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy.linalg import solve_banded

from asap.grounding import GRAVITY
from asap_deploy.errors import InputError


class Key(NamedTuple):
    """What a channel shall be at a time; at rest unless said otherwise."""

    time_s: float
    value: float
    speed: float = 0.0
    acc: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the whole body has to do at each of T frames."""

    fps: float
    foot_pos_w: np.ndarray
    """(T, 2, 3) origins of the foot bodies [m]"""
    foot_quat_wxyz: np.ndarray
    """(T, 2, 4); always level"""
    foot_up: np.ndarray
    """(T, 2) how far the soles are meant to be above the floor [m]"""
    contact: np.ndarray
    """(T, 2) bool"""
    zmp_w: np.ndarray
    """(T, 2) where the ground shall push [m]"""
    com_w: np.ndarray
    """(T, 3) [m]"""
    base_quat_wxyz: np.ndarray
    """(T, 4)"""
    joint_pos: np.ndarray
    """(T, J) the posture that is preferred [rad]"""

    def at(self, frame: int) -> Plan:
        """One frame of it, as a plan."""
        rows = {f.name: getattr(self, f.name)[[frame]] for f in fields(self) if f.name != "fps"}
        return Plan(fps=self.fps, **rows)


def track(time_s: np.ndarray, keys: Sequence[Key]) -> np.ndarray:
    """A channel through its keys: quintic between two, constant before the first, after the last.

    Args:
        time_s: (T,) [s].
        keys: In order of time.

    Returns:
        (T,) with continuous first and second derivative.

    Raises:
        InputError: If keys are not in order.
    """
    value = np.full(len(time_s), float(keys[0].value))
    for a, b in pairwise(keys):
        length = b.time_s - a.time_s
        if length <= 0.0:
            raise InputError(f"keys must be in order of time: {a.time_s:g} s, then {b.time_s:g} s")
        powers = np.arange(6)
        # Rows: value, speed, acceleration at s = 0 and at s = 1 of sum_i c_i s^i.
        rows = [
            powers == 0,
            powers == 1,
            2 * (powers == 2),
            powers**0,
            powers,
            powers * (powers - 1),
        ]
        right = [a.value, a.speed * length, a.acc * length**2,
                 b.value, b.speed * length, b.acc * length**2]  # fmt: skip
        c = np.linalg.solve(np.array(rows, dtype=float), np.array(right))
        inside = time_s >= a.time_s
        s = np.minimum((time_s[inside] - a.time_s) / length, 1.0)
        value[inside] = np.polynomial.polynomial.polyval(s, c)
    return value


def between_feet(centre_w: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Where the ground pushes (T, 2) between soles (T, 2, 2): share (T,) 1 is left, -1 right."""
    share = share[:, None]
    return 0.5 * (1.0 + share) * centre_w[:, 0] + 0.5 * (1.0 - share) * centre_w[:, 1]


def com_path(zmp_w: np.ndarray, height: np.ndarray, fps: float) -> np.ndarray:
    """Horizontal centre of mass (T, 2) [m] for a zero-moment point (T, 2), by the module's formula.

    Args:
        zmp_w: Where the ground pushes (T, 2) [m].
        height: Of the centre of mass (T,) [m]; its acceleration is taken by differences.
        fps: Frames per second [Hz].
    """
    frames = len(height)
    lift = np.zeros(frames)
    lift[1:-1] = GRAVITY + np.diff(height, 2) * fps**2
    # (lift) c_k - z (c_{k-1} - 2 c_k + c_{k+1}) fps^2 = (lift) p_k; at the ends c = p.
    stiff = height * fps**2
    bands = np.zeros((3, frames))
    bands[1] = lift + 2.0 * stiff
    bands[0, 1:], bands[2, :-1] = -stiff[:-1], -stiff[1:]
    bands[1, [0, -1]], bands[0, 1], bands[2, -2] = 1.0, 0.0, 0.0
    right = lift[:, None] * zmp_w
    right[[0, -1]] = zmp_w[[0, -1]]
    return np.asarray(solve_banded((1, 1), bands, right))
