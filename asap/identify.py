"""Physical parameters from logs: short windows, all of them and all derivatives in one batch.

Multiple shooting: every window starts in a state of the log and runs open loop for some tenths of
a second, so errors stay nearly linear in the parameters. Damped Gauss-Newton with bounds, a robust
loss, and a weak pull towards the model for what the log does not tell.

    shooting = Shooting(windows, robot, Parameters(robot, kinds=[...]))
    z, cost = shooting.solve()

Source: Bock 1983, multiple shooting.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from mujoco import minimize

from asap.log_windows import Windows
from asap.parameters import MAX_DELAY_S, Parameters
from asap.robot import Robot
from asap.sim import CpuSimulation
from asap.variation import Variation
from asap_deploy import rotation

_AT_ONCE = 4096
"""Robots simulated side by side: windows times changes of parameters."""
_JOINT_RAD, _BASE_M, _BASE_RAD = 0.01, 0.01, 0.02
"""Errors that count 1."""
_OUTLIER = 5.0
"""Errors above this many count by their size and no longer by its square."""
_BLOCKS = 6
_STEP = 0.03
"""Of finite differences, in units of parameters."""


class Solution(NamedTuple):
    """What a fit found."""

    z: np.ndarray
    """(P,) in units of the parameters"""
    cost: np.ndarray
    """Loss before each iteration and after the last"""
    spread: np.ndarray
    """(P,) standard error, from parts of the log fitted apart, in units of the parameters"""
    told: np.ndarray
    """(P,) how much of a parameter the log tells: 0 the pull towards the model alone, 1 the log
    alone"""


@dataclass(frozen=True, kw_only=True)
class ShootingConfig:
    """How windows are compared."""

    iterations: int = 8
    """Of Gauss-Newton."""
    prior: float = 1.0
    """Weight of the pull towards the model: 1 is one error of size 1 per prior deviation."""
    threads: int = 0
    """Of the simulator."""


class Shooting:
    """The residual of a set of windows, vectorised over parameters."""

    def __init__(
        self,
        windows: Windows,
        robot: Robot,
        parameters: Parameters,
        config: ShootingConfig,
        *,
        base_known: bool,
        progress: Callable[[float], None] = lambda fraction: None,
    ) -> None:
        """Lay the simulations out.

        Args:
            windows: What is fitted.
            robot: The model, at the rate and under the gains of the log.
            parameters: What varies.
            config: How.
            base_known: Compare also where the base is, not only how it leans.
            progress: Told the finished fraction.
        """
        self.windows, self.robot, self.parameters, self.config = windows, robot, parameters, config
        self._base_known, self._progress = base_known, progress
        self._all = np.arange(len(windows.start))
        per_call = max(1, _AT_ONCE // len(self._all))
        calls = -(-len(parameters) // per_call)
        self._columns = -(-len(parameters) // calls)
        self._sims: dict[int, tuple[CpuSimulation, Variation]] = {}

    def residual(self, z: np.ndarray) -> np.ndarray:
        """Robust errors of all windows and steps, and the prior's.

        Args:
            z: (P,) or (P, K)

        Returns:
            (R,) or (R, K)
        """
        columns = z.reshape(len(self.parameters), -1).T
        parts = [self._errors(columns[i : i + self._columns])
                 for i in range(0, len(columns), self._columns)]  # fmt: skip
        errors = np.concatenate(parts)
        # Pseudo-Huber: squares of this are quadratic for small and linear for large errors.
        size = np.abs(errors) / _OUTLIER
        robust = np.sign(errors) * _OUTLIER * np.sqrt(2.0 * (np.sqrt(1.0 + size**2) - 1.0))
        both = np.concatenate([robust, self.config.prior * columns], axis=1).T
        return both[:, 0] if z.ndim == 1 else both

    def solve(self, start: np.ndarray | None = None) -> Solution:
        """Gauss-Newton from the model, or from another start (P,)."""
        z = np.zeros(len(self.parameters)) if start is None else start.copy()
        trace: list[float] = []

        def note(log: list[minimize.IterLog]) -> None:
            trace.append(float(log[-1].objective))
            self._progress(min(1.0, len(trace) / self.config.iterations))

        bounds = [np.asarray(bound) for bound in self.parameters.bounds]
        z = np.clip(z, *bounds)
        z, log = minimize.least_squares(
            z, self.residual, bounds=bounds, jacobian=self.jacobian, xtol=1e-4, gtol=1e-6,
            max_iter=self.config.iterations, verbose=0, iter_callback=note,
        )  # fmt: skip
        z = np.asarray(z).reshape(-1)
        residual = self.residual(z)
        spread, told = self._honesty(z, residual, self.jacobian(z, residual))
        return Solution(z, np.array([float(entry.objective) for entry in log]), spread, told)

    def _honesty(
        self, z: np.ndarray, residual: np.ndarray, jacobian: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """How sure the parameters are, and how much of that is the log's.

        The covariance of one fit calls every error independent and is ten times too sure. So the
        log is cut into blocks, each makes its own Gauss-Newton step, and their scatter counts.
        """
        width, count = len(z), len(self._all)
        prior = self.config.prior**2
        rows = jacobian[:-width].reshape(count, -1, width)
        errors = residual[:-width].reshape(count, -1)
        information = np.einsum("wrp,wrp->p", rows, rows)
        told = information / (information + prior)
        blocks = np.array_split(np.argsort(self.windows.stretch * 1_000_000 + self.windows.start),
                                min(_BLOCKS, count))  # fmt: skip
        steps = []
        for block in blocks:
            part, error = rows[block].reshape(-1, width), errors[block].reshape(-1)
            normal = part.T @ part + prior * np.eye(width)
            steps.append(-np.linalg.solve(normal, part.T @ error + prior * z))
        scatter = np.std(steps, axis=0, ddof=1) if len(steps) > 1 else np.full(width, np.nan)
        return scatter / np.sqrt(len(steps)), told

    def jacobian(self, z: np.ndarray, residual: np.ndarray) -> np.ndarray:
        """(R, P) by differences into the bounds."""
        z = z.reshape(-1)
        _, high = self.parameters.bounds
        step = np.where(z + _STEP <= high, _STEP, -_STEP)
        moved = self.residual(z[:, None] + np.diag(step))
        return np.asarray((moved - residual.reshape(-1, 1)) / step)

    def _errors(self, columns: np.ndarray) -> np.ndarray:
        """(K, R) errors of K sets of parameters."""
        count, windows = len(columns), len(self._all)
        sim, variation = self._simulation(count)
        for name, values in self.parameters.values(columns).items():
            variation.values[name][:] = np.repeat(values, windows, axis=0)
        everyone = np.arange(count * windows)
        variation.write(everyone)
        window = np.tile(self._all, count)
        self.windows.start_in(sim, window)
        found = []
        for step in range(1, self.windows.steps + 1):
            sim.step(self.windows.target[self.windows.rows(window, step - 1)])
            found.append(self._gap(sim, self.windows.rows(window, step)))
        errors = np.stack(found, axis=1)
        errors[sim.failed] = 10.0 * _OUTLIER
        return errors.reshape(count, -1)

    def _gap(self, sim: CpuSimulation, rows: np.ndarray) -> np.ndarray:
        """(n, F) errors of robots against rows of the log."""
        logged, robot = self.windows.qpos[rows], self.robot
        parts = [(sim.joint_pos - self.windows.joint_pos[rows]) / _JOINT_RAD]
        if robot.has_free_base:
            turn = rotation.multiply(rotation.conjugate(logged[:, 3:7]), sim.base_quat_wxyz)
            parts.append(rotation.to_rotvec(turn) / _BASE_RAD)
            if self._base_known:
                parts.append((sim.base_pos_w - logged[:, :3]) / _BASE_M)
        return np.concatenate(parts, axis=1)

    def _simulation(self, count: int) -> tuple[CpuSimulation, Variation]:
        """Robots for so many sets of parameters."""
        if count not in self._sims:
            late = MAX_DELAY_S if "delay_s" in self.parameters.quantities else 0.0
            sim = CpuSimulation(self.robot, count * len(self._all), threads=self.config.threads,
                                max_delay_s=late)  # fmt: skip
            self._sims[count] = (sim, Variation(sim, self.parameters.quantities))
        return self._sims[count]
