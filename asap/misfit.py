"""Whether what a fit leaves is noise, or a law that the model has no word for.

    suspects(linear, z, robot, windows)              # ["knee", "ankle"]

What is left at the end of fitted windows is regressed, for every group of joints, on what drives
it: position error, speed, direction of motion. Noise cannot be explained so; where it can, the
parameters are *effective*: they mend this log and mean nothing on a test bench.
"""

from __future__ import annotations

import numpy as np

from asap.identify import JOINT_RAD, LinearFit
from asap.log_windows import Windows
from asap.parameters import joint_groups
from asap.robot import Robot

_EXPLAINED = 0.1
"""Share of the variance of what is left, above chance, that a law may explain."""
_SHUFFLES = 20
_SLIDING_SPEED = 0.3


def suspects(linear: LinearFit, z: np.ndarray, robot: Robot, windows: Windows) -> list[str]:
    """Groups of joints whose remaining errors follow a law.

    Args:
        linear: Around the solution.
        z: (P,) the solution.
        robot: That was fitted.
        windows: That were fitted.
    """
    joints, count = len(robot.joint_names), len(windows.start)
    left = linear.residual + np.einsum("wrp,p->wr", linear.jacobian, z - linear.z)
    errors = left.reshape(count, windows.steps, -1)[:, -1, :joints] * JOINT_RAD
    rows = windows.rows(np.arange(count), windows.steps - 1)
    state, speed = windows.joint_pos[rows], windows.qvel[rows][:, robot.qvel_ids]
    drive = windows.target[rows] - state
    rng = np.random.default_rng(0)
    found = []
    for part, columns in joint_groups(robot).items():
        y = errors[:, columns].reshape(-1)
        laws = [drive, speed, np.tanh(speed / _SLIDING_SPEED), np.abs(drive) * np.sign(speed)]
        x = np.stack([law[:, columns].reshape(-1) for law in laws], axis=1)
        by_chance = np.mean([_explained(x, rng.permutation(y)) for _ in range(_SHUFFLES)])
        if _explained(x, y) - by_chance > _EXPLAINED:
            found.append(part)
    return found


def _explained(x: np.ndarray, y: np.ndarray) -> float:
    """Share of the variance of y (n,) that a linear law of x (n, k) explains."""
    columns = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    rest = y - columns @ np.linalg.lstsq(columns, y, rcond=None)[0]
    return float(1.0 - rest.var() / max(float(y.var()), 1e-18))
