"""How one control step of the training simulation answers to small changes, frame by frame.

The simulation is the one that policies are trained in, contacts and all; its derivatives are
differences between simulations that run side by side. States are told apart in the tangent space:
a position (nq,) minus another is a step (nv,), the base's turn in its own frame.

    steps = ControlSteps(robot)
    qpos, qvel = steps.run(qpos, qvel, joint_pos_target, wrench_w)       # any number of rows
    model = steps.linearise(qpos, qvel, joint_pos_target, wrench_w)      # one for every row
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from mujoco.batch import Batch

from asap.robot import Robot
from asap.sim_spec import simulation_spec
from asap.tangent import moved, state_difference

POSITION_STEP = 1e-6
"""Change of a coordinate [m, rad]. Steps of 1e-4 already open and close contacts and joint limits
of a nominal motion; gains then grow a hundredfold where a foot lands."""

VELOCITY_STEP = 1e-5
"""[m/s], [rad/s]"""

TARGET_STEP = 1e-5
"""[rad]"""

WRENCH_STEP = 3e-3
"""[N], [Nm]"""

_TOLERANCE = 1e-12
"""Of the constraint solver: its error has to stay far below the differences."""

_JUMP = 2.0
"""Ratio of differences forwards and backwards beyond which only the smaller one is believed."""

_LARGEST = 1e3
"""Derivatives beyond this come from a contact that closed within the difference."""


class LinearModel(NamedTuple):
    """x+ = a x + b u + d w around T nominal states; x = [position, velocity] steps (2 nv)."""

    a: np.ndarray
    """(T, 2 nv, 2 nv)"""
    b: np.ndarray
    """(T, 2 nv, J) of the PD targets"""
    d: np.ndarray
    """(T, 2 nv, 6) of a force and a moment on the base, in the world"""


class ControlSteps:
    """Single control steps of any number of robots, without memory of what came before."""

    def __init__(self, robot: Robot, *, threads: int = 0) -> None:
        """Compile the model of the simulation.

        Args:
            robot: With a free base, as it is trained.
            threads: Of the pool; 0 for one per CPU.
        """
        self.model = simulation_spec(robot).compile()
        self.model.opt.tolerance = _TOLERANCE
        self._decimation, self._threads = robot.decimation, threads
        self._base = self.model.body(robot.base_name).id
        self._batches: dict[int, tuple[Batch, np.ndarray]] = {}

    def run(
        self, qpos: np.ndarray, qvel: np.ndarray, target: np.ndarray, wrench_w: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """States after one control step.

        Args:
            qpos: (N, nq).
            qvel: (N, nv).
            target: (N, J) PD targets [rad].
            wrench_w: (N, 6) force on the base's centre of mass and moment, in the world [N], [Nm].

        Returns:
            qpos (N, nq), qvel (N, nv).
        """
        if len(qpos) not in self._batches:
            batch = Batch(self.model, len(qpos), self._threads)
            self._batches[len(qpos)] = batch, batch.state[0].copy()
        batch, blank = self._batches[len(qpos)]
        batch.state[:] = blank
        batch.bind("qpos")[:], batch.bind("qvel")[:] = qpos, qvel
        batch.bind("ctrl")[:] = target
        batch.bind("xfrc_applied")[:, self._base] = wrench_w
        batch.step(nstep=self._decimation)
        return batch.bind("qpos").copy(), batch.bind("qvel").copy()

    def linearise(
        self, qpos: np.ndarray, qvel: np.ndarray, target: np.ndarray, wrench_w: np.ndarray
    ) -> LinearModel:
        """Differences of ``run`` around T states, whose arguments these are.

        Where steps forwards and backwards disagree, a contact closes within one of the two: it
        would count as a stiffness of the jump over the step. The smoother side is taken.
        """
        nv, joints = qvel.shape[1], target.shape[1]
        sizes = np.repeat(
            [POSITION_STEP, VELOCITY_STEP, TARGET_STEP, WRENCH_STEP], [nv, nv, joints, 6]
        )
        columns = np.zeros((len(qpos), 2 * nv, len(sizes)))
        middle = self.run(qpos, qvel, target, wrench_w)
        for place, size in enumerate(sizes):
            sides = []
            for step in (size, -size):
                change = np.zeros(len(sizes))
                change[place] = step
                dq, dv, du, dw = np.split(change, [nv, 2 * nv, 2 * nv + joints])
                end = self.run(moved(qpos, dq), qvel + dv, target + du, wrench_w + dw)
                sides.append(state_difference(middle, *end) / step)
            columns[:, :, place] = _smoother(*sides)
        columns = np.clip(np.nan_to_num(columns), -_LARGEST, _LARGEST)
        return LinearModel(*np.split(columns, [2 * nv, 2 * nv + joints], axis=2))


def _smoother(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The mean of two estimates (T, M), or the smaller where one is far larger."""
    sizes = np.linalg.norm(one, axis=1), np.linalg.norm(other, axis=1)
    jump = np.maximum(*sizes) > _JUMP * np.minimum(*sizes)
    smaller = np.where((sizes[0] < sizes[1])[:, None], one, other)
    return np.where(jump[:, None], smaller, 0.5 * (one + other))
