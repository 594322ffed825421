"""What sensors add to what is there.

seen = noisy(simulation.measure(), SensorNoise(), scale=0.25, rng=rng)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from asap_deploy import rotation
from asap_deploy.observation import Measurement


@dataclass(frozen=True, kw_only=True)
class SensorNoise:
    """Uniform noise of what the actor sees, +- these. Source: He et al., noise of the tracker."""

    ang_vel: float = 0.3
    """[rad/s]"""
    tilt: float = 0.2
    """Of the attitude about the horizontal axes, near the paper's noise of gravity [rad]."""
    joint_pos: float = 0.01
    """[rad]"""
    joint_vel: float = 1.0
    """[rad/s]"""


def noisy(
    measured: Measurement, noise: SensorNoise, scale: float, rng: np.random.Generator
) -> Measurement:
    """What sensors give.

    Args:
        measured: Of N robots, exact.
        noise: How much is added, each number by itself.
        scale: Multiple of it; at 0 nothing is drawn.
        rng: Of the noise.
    """
    if scale == 0.0:
        return measured

    def add(values: np.ndarray, size: float) -> np.ndarray:
        return values + rng.uniform(-scale * size, scale * size, values.shape)

    count = len(measured.joint_pos)
    tilt = np.zeros((count, 3))
    tilt[:, :2] = rng.uniform(-scale * noise.tilt, scale * noise.tilt, (count, 2))
    quat = rotation.multiply(measured.base_quat_wxyz, rotation.from_rotvec(tilt))
    return measured._replace(
        joint_pos=add(measured.joint_pos, noise.joint_pos),
        joint_vel=add(measured.joint_vel, noise.joint_vel),
        base_quat_wxyz=quat,
        base_ang_vel_b=add(measured.base_ang_vel_b, noise.ang_vel),
    )
