"""Physical parameters from logs: short windows, all of them and all derivatives in one batch.

Multiple shooting: every window starts in a state of the log and runs open loop for some tenths of
a second, so errors stay nearly linear in the parameters. Damped Gauss-Newton with bounds, a robust
loss, and a weak pull towards the model for what the log does not tell.

    shooting = Shooting(windows, robot, Parameters(robot, kinds=[...]), base_known=True)
    z = shooting.solve(z, iterations=3)
    around = shooting.linear(z)                        # and from then on nothing is simulated
    around.solution(around.free & ~is_mass)            # what a fit without masses would give

Source: Bock 1983, multiple shooting.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from mujoco import minimize
from scipy.optimize import lsq_linear

from asap.log_states import GAINS
from asap.log_windows import Windows
from asap.parameters import MAX_DELAY_S
from asap.robot import Robot
from asap.sim import CpuSimulation
from asap.sim_protocol import Simulation
from asap.twin import TwinSimulation, make_simulation
from asap.variation import EFFECTS, Variation
from asap_deploy import rotation

_AT_ONCE = 1536
"""Robots simulated side by side: windows times changes of parameters."""
JOINT_RAD, _BASE_M, _BASE_RAD = 0.01, 0.01, 0.02
"""Errors that count 1."""
_OUTLIER = 5.0
"""Errors above this many count by their size and no longer by its square."""
_PRIOR = 1.0
"""Weight of the pull towards the model: 1 is one error of size 1 per prior deviation."""
_BLOCKS = 6
_STEP = 0.03
"""Of finite differences, in units of parameters."""
_DEAD = 1e-6
"""A parameter whose unit changes the residual by less than this is not in the motion at all."""


class Unknowns(Protocol):
    """A vector of numbers near zero that a log may tell; zero is the model."""

    def __len__(self) -> int:
        """How many, P."""
        ...

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest values, (P,) each."""
        ...

    @property
    def quantities(self) -> list[str]:
        """Those of ``asap.variation`` that vary."""
        ...

    def values(self, z: np.ndarray) -> dict[str, np.ndarray]:
        """What K robots (K, P) have, as ``Variation.values``."""
        ...


class LinearFit(NamedTuple):
    """The residual around a solution, and what follows from it without simulating."""

    z: np.ndarray
    """(P,) in units of the parameters"""
    residual: np.ndarray
    """(W, R) robust errors of every window"""
    jacobian: np.ndarray
    """(W, R, P)"""
    bounds: tuple[np.ndarray, np.ndarray]
    block: np.ndarray
    """(W,) part of the log that a window lies in"""

    @property
    def free(self) -> np.ndarray:
        """(P,) which parameters change anything."""
        return np.abs(self.jacobian).max(axis=(0, 1)) > _DEAD

    def solution(self, active: np.ndarray, windows: np.ndarray | None = None) -> np.ndarray:
        """The best parameters (P,) if only these (P,) may differ from the model's.

        Args:
            active: Which vary; the others are 0.
            windows: (W,) which count; all by default.
        """
        rows = slice(None) if windows is None else windows
        jacobian = self.jacobian[rows].reshape(-1, len(self.z))
        constant = self.residual[rows].reshape(-1) - jacobian @ self.z
        columns = np.concatenate([jacobian[:, active], _PRIOR * np.eye(int(active.sum()))])
        wanted = np.concatenate([-constant, np.zeros(int(active.sum()))])
        low, high = (bound[active] for bound in self.bounds)
        # Normal equations: two hundred times smaller, and well posed thanks to the prior.
        normal = np.linalg.cholesky(columns.T @ columns)
        right = np.linalg.solve(normal, columns.T @ wanted)
        found = np.zeros(len(self.z))
        found[active] = lsq_linear(normal.T, right, bounds=(low, high)).x
        return found

    def spread(self, active: np.ndarray, said: np.ndarray | None = None) -> np.ndarray:
        """(P,) standard errors of parameters, or of sums of them.

        The covariance of one fit calls every error independent and is ten times too sure. So each
        part of the log is fitted apart, and their scatter counts. But what a part hardly tells is
        pulled towards the model in every part, and scatters little however wrong it is; so what
        the pull leaves open counts too:

            s^2 = var(z of parts) / parts + diag(inv(J' J + prior^2))

        Of 89 parameters of ``worn``, whose truth is known, 25 were off by more than twice what the
        scatter alone says, and none by more than twice what both say. To multiply by the root of
        the reduced chi-square would change nothing: it is far below 1 in our units of errors.

        Args:
            active: (P,) which vary.
            said: (Q, P) sums of parameters that are asked for; by default the parameters.
        """
        parts = np.unique(self.block)
        mixed = np.eye(len(self.z)) if said is None else said
        if len(parts) < 2:
            return np.full(len(mixed), np.nan)
        found = np.array([self.solution(active, self.block == part) for part in parts]) @ mixed.T
        scatter = found.var(axis=0, ddof=1) / len(parts)
        return np.asarray(np.sqrt(scatter + _variances(mixed, self._left_open(active))))

    def told(self, active: np.ndarray, said: np.ndarray | None = None) -> np.ndarray:
        """(P,) how much of a parameter, or of sums of them, the log tells, all others being free.

        0: the pull towards the model alone, 1: the log alone.

        Args:
            active: (P,) which vary.
            said: (Q, P) sums of parameters that are asked for; by default the parameters.
        """
        mixed = np.eye(len(self.z)) if said is None else said
        before = _variances(mixed, np.diag(active / _PRIOR**2))
        after = _variances(mixed, self._left_open(active))
        left = np.divide(after, before, out=np.ones_like(after), where=before > 0.0)
        return np.asarray(1.0 - np.minimum(1.0, left))

    def _left_open(self, active: np.ndarray) -> np.ndarray:
        """(P, P) covariance of parameters for errors of size 1 and the pull towards the model."""
        columns = self.jacobian[:, :, active].reshape(-1, int(active.sum()))
        found = np.zeros((len(self.z), len(self.z)))
        normal = columns.T @ columns + _PRIOR**2 * np.eye(columns.shape[1])
        found[np.ix_(active, active)] = np.linalg.inv(normal)
        return found


def _variances(mixed: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """(Q,) of sums (Q, P)."""
    return np.asarray(np.einsum("qi,ij,qj->q", mixed, covariance, mixed, optimize=True))


@dataclass(frozen=True, kw_only=True)
class ShootingConfig:
    """How windows are compared."""

    iterations: int = 3
    """Of Gauss-Newton."""
    threads: int = 0
    """Of the simulator."""


class Shooting:
    """The residual of a set of windows, vectorised over parameters."""

    def __init__(
        self,
        windows: Windows,
        robot: Robot,
        parameters: Unknowns,
        *,
        base_known: bool,
        threads: int = 0,
    ) -> None:
        """Lay the simulations out.

        Args:
            windows: What is fitted.
            robot: The model, at the rate and under the gains of the log.
            parameters: What varies.
            base_known: Compare also where the base is, not only how it leans.
            threads: Of the simulator; 0: all cores.
        """
        self.windows, self.robot, self.parameters = windows, robot, parameters
        self._base_known, self._threads = base_known, threads
        self._all = np.arange(len(windows.start))
        self._columns = max(1, _AT_ONCE // len(self._all))
        self._sims: dict[int, tuple[CpuSimulation, Variation]] = {}

    def residual(self, z: np.ndarray) -> np.ndarray:
        """Robust errors of all windows.

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
        return robust[0] if z.ndim == 1 else robust.T

    def cost(self, z: np.ndarray) -> float:
        """What is made small: squared errors, and the pull towards the model."""
        return float(np.square(self.residual(z)).sum() + np.square(_PRIOR * z).sum())

    def solve(
        self,
        start: np.ndarray,
        active: np.ndarray,
        *,
        iterations: int,
        progress: Callable[[float], None] = lambda fraction: None,
    ) -> np.ndarray:
        """Gauss-Newton from ``start`` (P,) over the active parameters (P,)."""
        bounds = [bound[active] for bound in self.parameters.bounds]

        def full(x: np.ndarray) -> np.ndarray:
            z = np.tile(start[:, None], (1, x.reshape(len(x), -1).shape[1]))
            z[active] = x.reshape(len(x), -1)
            return z

        def residual(x: np.ndarray) -> np.ndarray:
            both = np.concatenate([self.residual(full(x)), _PRIOR * x.reshape(len(x), -1)])
            return both[:, 0] if x.ndim == 1 else both

        def jacobian(x: np.ndarray, at: np.ndarray) -> np.ndarray:
            count = int(active.sum())
            rows = at.reshape(-1)[:-count]
            columns = self._columns_of(full(x)[:, 0], rows, np.flatnonzero(active))
            return np.concatenate([columns, _PRIOR * np.eye(count)])

        x = np.clip(start[active], *bounds)
        x, _ = minimize.least_squares(
            x, residual, bounds=bounds, jacobian=jacobian, xtol=1e-4, gtol=1e-6, verbose=0,
            max_iter=iterations, iter_callback=lambda log: progress(len(log) / iterations),
        )  # fmt: skip
        return full(np.asarray(x).reshape(-1))[:, 0]

    def linear(self, z: np.ndarray) -> LinearFit:
        """The residual around parameters (P,), as a linear function of them."""
        residual = self.residual(z)
        columns = self._columns_of(z, residual, np.arange(len(z)))
        count = len(self._all)
        order = np.lexsort((self.windows.start, self.windows.stretch))
        block = np.empty(count, dtype=np.intp)
        for number, part in enumerate(np.array_split(order, min(_BLOCKS, count))):
            block[part] = number
        jacobian = columns.reshape(count, -1, len(z))
        bounds = self.parameters.bounds
        return LinearFit(z, residual.reshape(count, -1), jacobian, bounds, block)

    def _columns_of(self, z: np.ndarray, residual: np.ndarray, places: np.ndarray) -> np.ndarray:
        """(R, K) derivatives by differences into the bounds."""
        _, high = self.parameters.bounds
        step = np.where(z + _STEP <= high, _STEP, -_STEP)[places]
        moved = np.tile(z[:, None], (1, len(places)))
        moved[places, np.arange(len(places))] += step
        return np.asarray((self.residual(moved) - residual[:, None]) / step)

    def _errors(self, columns: np.ndarray) -> np.ndarray:
        """(K, R) errors of K sets of parameters."""
        wanted = len(columns)
        # Few sizes of simulation: powers of two, and the largest.
        size = min(self._columns, 1 << (wanted - 1).bit_length())
        if wanted < size:
            columns = np.concatenate([columns, np.tile(columns[-1:], (size - wanted, 1))])
        count, windows = len(columns), len(self._all)
        sim, variation = self._simulation(count)
        for name, values in self.parameters.values(columns).items():
            variation.values[name][:] = np.repeat(values, windows, axis=0)
        everyone = np.arange(count * windows)
        variation.write(everyone)
        window = np.tile(self._all, count)
        gains = {name: variation.values[name] for name in GAINS if name in variation.values}
        self.windows.start_in(sim, window, gains=gains)
        found = []
        for step in range(1, self.windows.steps + 1):
            target = self.windows.target[self.windows.rows(window, step - 1)]
            sim.step(self.commanded(sim, target, columns))
            found.append(self._gap(sim, self.windows.rows(window, step)))
        errors = np.stack(found, axis=1)
        errors[sim.failed] = 10.0 * _OUTLIER
        return errors.reshape(count, -1)[:wanted]

    def commanded(
        self, sim: CpuSimulation, joint_pos_target: np.ndarray, columns: np.ndarray
    ) -> np.ndarray:
        """Targets (K W, J) for the robots of K sets of unknowns (K, P); those of the log here."""
        return joint_pos_target

    def _gap(self, sim: CpuSimulation, rows: np.ndarray) -> np.ndarray:
        """(n, F) errors of robots against rows of the log."""
        logged, robot = self.windows.qpos[rows], self.robot
        parts = [(sim.joint_pos - self.windows.joint_pos[rows]) / JOINT_RAD]
        if robot.has_free_base:
            turn = rotation.multiply(rotation.conjugate(logged[:, 3:7]), sim.base_quat_wxyz)
            parts.append(rotation.to_rotvec(turn) / _BASE_RAD)
            if self._base_known:
                parts.append((sim.base_pos_w - logged[:, :3]) / _BASE_M)
        return np.concatenate(parts, axis=1)

    def _simulation(self, count: int) -> tuple[CpuSimulation, Variation]:
        """Robots for so many sets of parameters."""
        if count not in self._sims:
            quantities = self.parameters.quantities
            robots, late = count * len(self._all), MAX_DELAY_S if "delay_s" in quantities else 0.0
            if set(EFFECTS) & set(quantities):
                sim: Simulation = TwinSimulation(
                    self.robot, robots, threads=self._threads, max_delay_s=late
                )
            else:
                sim = make_simulation(self.robot, robots, threads=self._threads, max_delay_s=late)
            assert isinstance(sim, CpuSimulation), "a correction is fitted to MuJoCo"
            self._sims[count] = (sim, Variation(sim, quantities))
        return self._sims[count]
