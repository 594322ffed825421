"""Targets on their way to the motors, for engines that have no delay of their own.

lines = DelayLines(robot, num_envs=4, max_delay_s=0.02)
lines.add(joint_pos_target)                          # (N, J), once a control step
for target in lines.arriving():                      # (N, J), once a physics step
    ...
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from asap.robot import Robot
from asap_deploy.errors import InputError

_TINY = 1e-9
"""Rounding of a delay in physics steps"""


class DelayLines:
    """What was told to N robots, and when it arrives: exact at whole physics steps, else linear."""

    def __init__(self, robot: Robot, num_envs: int, max_delay_s: float) -> None:
        """Nothing is under way: all targets are 0.

        Args:
            robot: Has steps, and the delays to begin with.
            num_envs: Robots N.
            max_delay_s: Longest delay that will be set, if longer than the robot's own [s].

        Raises:
            InputError: If the delay is negative or not finite.
        """
        if not (np.isfinite(max_delay_s) and max_delay_s >= 0.0):
            raise InputError(f"max_delay_s must be 0 or above; got {max_delay_s}")
        self._robot, self._longest_s = robot, max(max_delay_s, float(robot.delay_s.max()))
        kept = 2 + int(np.ceil(self._longest_s / robot.control_dt))
        self._past = np.zeros((num_envs, kept, len(robot.joint_names)))
        self._delay_s = np.tile(robot.delay_s, (num_envs, 1))

    def start(self, env_ids: np.ndarray, past: np.ndarray) -> None:
        """Forget what was told to robots (n,); now it is ``past`` (n, K, J), the latest last."""
        kept = np.arange(past.shape[1] - self._past.shape[1], past.shape[1])
        self._past[env_ids] = past[:, np.maximum(kept, 0)]

    def add(self, target: np.ndarray) -> None:
        """A control step begins with targets (N, J)."""
        self._past[:, :-1] = self._past[:, 1:]
        self._past[:, -1] = target

    def set_delay(self, env_ids: np.ndarray, delay_s: np.ndarray | float) -> None:
        """Delay from now on by one for all, by (n,) or by (n, J) [s].

        Raises:
            InputError: If a delay is negative or longer than was said.
        """
        delays = np.asarray(delay_s, dtype=np.float64)
        delays = delays[:, None] if delays.ndim == 1 else delays
        delays = np.broadcast_to(delays, (len(env_ids), self._delay_s.shape[1]))
        if not ((delays >= 0.0) & (delays <= self._longest_s + _TINY)).all():
            raise InputError(
                f"delays must be between 0 and {self._longest_s:g} s; got {delays.min():g} to "
                f"{delays.max():g} s; make the simulation with a larger max_delay_s"
            )
        self._delay_s[env_ids] = delays

    def arriving(self) -> Iterator[np.ndarray]:
        """(N, J) what the motors know, physics step by physics step of this control step."""
        return iter(self._known(self._past, np.arange(self._robot.decimation)))

    def in_force(self) -> np.ndarray:
        """(N, J) what the motors know between two control steps, as if the last target stayed."""
        return self._known(
            np.concatenate([self._past[:, 1:], self._past[:, -1:]], axis=1), np.zeros(1)
        )[0]

    def _known(self, past: np.ndarray, substeps: np.ndarray) -> np.ndarray:
        """(S, N, J) what arrives at physics steps of the control step that the last one began."""
        lag = self._delay_s / self._robot.physics_dt
        whole = np.floor(lag + _TINY)
        part = np.where(lag - whole > _TINY, lag - whole, 0.0)
        row, joint = np.indices(lag.shape)
        last = past.shape[1] - 1

        def told(late: np.ndarray) -> np.ndarray:
            # A target k physics steps ago was in force since the control step before.
            back = np.ceil((late - substeps[:, None, None]) / self._robot.decimation).astype(
                np.intp
            )
            return np.asarray(past[row, last - np.clip(back, 0, last), joint])

        return (1.0 - part) * told(whole) + part * told(whole + 1.0)
