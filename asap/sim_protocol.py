"""What every simulation offers, whatever engine is behind it.

Environments, replay and evaluation know this and nothing else, so that another backend fits under
them as it is.

    def settle(sim: Simulation, steps: int) -> None:
        for _ in range(steps):
            sim.step(np.tile(sim.robot.default_joint_pos, (sim.num_envs, 1)))
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from asap.robot import Robot
from asap_deploy.observation import Measurement


class Simulation(Protocol):
    """N robots that are reset, stepped and read; the backend behind it may be any engine."""

    @property
    def robot(self) -> Robot:
        """What is simulated."""
        ...

    @property
    def num_envs(self) -> int:
        """Number of robots N."""
        ...

    @property
    def control_dt(self) -> float:
        """Time between two targets [s]."""
        ...

    @property
    def physics_dt(self) -> float:
        """Time between two physics steps [s]."""
        ...

    def reset(
        self,
        env_ids: np.ndarray,
        qpos: np.ndarray,
        qvel: np.ndarray,
        *,
        joint_pos_target: np.ndarray | None = None,
    ) -> None:
        """Put robots ``env_ids`` (n,) into states (n, nq), (n, nv), targets under way included."""
        ...

    def set_delay(self, delay_s: np.ndarray | float, env_ids: np.ndarray | None = None) -> None:
        """Delay the targets on their way to the motors [s]."""
        ...

    def push(self, env_ids: np.ndarray, delta_lin_vel_w: np.ndarray) -> None:
        """Change the velocity of bases at once, as a shove would."""
        ...

    def step(self, joint_pos_target: np.ndarray) -> None:
        """Advance all robots by one control step under PD targets (N, J) [rad]."""
        ...

    def measure(self) -> Measurement:
        """Copies of what the sensors of the robots would tell."""
        ...

    @property
    def joint_pos(self) -> np.ndarray:
        """(N, J) [rad]."""
        ...

    @property
    def joint_vel(self) -> np.ndarray:
        """(N, J) [rad/s]."""
        ...

    @property
    def joint_torque(self) -> np.ndarray:
        """(N, J) [Nm]."""
        ...

    @property
    def base_pos_w(self) -> np.ndarray:
        """(N, 3) [m]."""
        ...

    @property
    def base_quat_wxyz(self) -> np.ndarray:
        """(N, 4)."""
        ...

    @property
    def base_lin_vel_w(self) -> np.ndarray:
        """(N, 3), in the world frame [m/s]."""
        ...

    @property
    def base_ang_vel_b(self) -> np.ndarray:
        """(N, 3), in the base frame [rad/s]."""
        ...

    @property
    def body_pos_w(self) -> np.ndarray:
        """(N, B, 3) in the order of ``robot.body_names`` [m]."""
        ...

    @property
    def body_quat_wxyz(self) -> np.ndarray:
        """(N, B, 4)."""
        ...

    @property
    def foot_contact_force(self) -> np.ndarray:
        """(N, 2) in the order of ``robot.foot_names`` [N]."""
        ...

    @property
    def failed(self) -> np.ndarray:
        """(N,) bool: blown up, frozen until reset."""
        ...

    @property
    def num_failures(self) -> int:
        """How many simulations have failed so far."""
        ...
