"""The paper's identification: physical parameters from a coarse grid, by how well replays agree.

    found = fit_grid(parts.train, robot, GridConfig(), judge)
    found.correction, found.chosen, found.share

The grid is the paper's: centre of mass -2, 0 or +2 cm along each axis, mass and every joint's
stiffness and damping 5 % less, as it is, or 5 % more. Neither friction nor delay nor rotor inertia
is in it. How 3^62 combinations were searched is not published. Here, pass by pass, every value is
changed alone; then the changes that helped are made together, the best first, as many of them as
lower the error most. It is a baseline: ``asap.parameter_search`` finds far more in less time.

Source: He et al. 2025, table VII.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from asap.correction import Correction
from asap.identify import Shooting
from asap.judge import CORRECTED, Judge
from asap.log_windows import Windows, stretches_of
from asap.robot import Robot
from asap_deploy.errors import InputError
from asap_deploy.log import Log

SHIFTS_M = (-0.02, 0.0, 0.02)
"""Of the torso's centre of mass, along each axis."""
FACTORS = (0.95, 1.0, 1.05)
"""Of the torso's mass, and of every joint's stiffness and damping."""
_LEVELS = np.array([-1.0, 0.0, 1.0])
_TOGETHER = 16
"""So many numbers of changes made together are tried in a pass."""

Progress = Callable[[float], None]


@dataclass(frozen=True, kw_only=True)
class GridConfig:
    """How the grid is searched."""

    window_s: float = 1.0
    """Length of the replayed windows [s]."""
    seconds: float = 12.0
    """At most so much of the log is replayed [s]."""
    passes: int = 2
    """At most; fewer where no change helps any more. A third has gained less than 0.5 %."""

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        if self.window_s <= 0.0 or self.seconds <= 0.0 or self.passes < 1:
            raise InputError("grid needs a window, seconds and at least one pass")


class Chosen(NamedTuple):
    """What the grid says about one number."""

    name: str
    value: float
    """A factor, or a shift [m]"""
    neutral: float
    """The model's"""


class GridFitted(NamedTuple):
    """What came out."""

    correction: Correction
    """As found, whether it helps or not: see ``share``"""
    chosen: list[Chosen]
    """All that differs from the model"""
    share: float
    """Errors on the validation part, relative to the robot without it"""
    cost: list[float]
    """Error of the replays before, and after each pass; 1 before"""


class Grid:
    """The grid as unknowns: -1, 0 and 1 are the three values of each."""

    def __init__(self, robot: Robot) -> None:
        """Of one robot: 3 shifts, the mass, then J stiffnesses and J dampings."""
        self.robot = robot
        self.joints = len(robot.joint_names)
        self._mass_kg = float(robot.model.body(robot.anchor_name).mass[0])
        short = [name.removesuffix("_joint") for name in robot.joint_names]
        self.names = [
            *(f"torso com {axis}" for axis in "xyz"),
            "torso mass",
            *(f"{name} stiffness" for name in short),
            *(f"{name} damping" for name in short),
        ]

    def __len__(self) -> int:
        """How many."""
        return len(self.names)

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest values, (P,) each."""
        return np.full(len(self), -1.0), np.ones(len(self))

    @property
    def quantities(self) -> list[str]:
        """Those of ``asap.variation`` that vary."""
        return ["com_offset_m", "added_mass_kg", "stiffness", "damping"]

    def physical(self, z: np.ndarray) -> np.ndarray:
        """Shifts and factors (..., P) of values -1, 0 and 1 (..., P)."""
        level = np.round(z).astype(np.intp) + 1
        shifts, factors = np.array(SHIFTS_M)[level], np.array(FACTORS)[level]
        return np.where(np.arange(len(self)) < 3, shifts, factors)

    def values(self, z: np.ndarray) -> dict[str, np.ndarray]:
        """What K robots (K, P) have, as ``Variation.values``."""
        physical, joints = self.physical(z), self.joints
        return {
            "com_offset_m": physical[:, :3],
            "added_mass_kg": (physical[:, 3:4] - 1.0) * self._mass_kg,
            "stiffness": physical[:, 4 : 4 + joints],
            "damping": physical[:, 4 + joints :],
        }

    def correction(self, z: np.ndarray) -> Correction:
        """What a choice (P,) says."""
        parts = np.split(z, [3, 4, 4 + self.joints])
        moved = dict(zip(self.quantities, parts, strict=True))
        return Correction(
            robot_name=self.robot.name.partition("@")[0],
            joint_names=self.robot.joint_names,
            parameters={name: tuple(float(x) for x in row[0])
                        for name, row in self.values(z[None]).items() if moved[name].any()},
        )  # fmt: skip

    def chosen(self, z: np.ndarray) -> list[Chosen]:
        """What differs from the model."""
        return [Chosen(self.names[i], float(self.physical(z)[i]), 0.0 if i < 3 else 1.0)
                for i in np.flatnonzero(z)]  # fmt: skip


def fit_grid(
    train: Sequence[Log],
    robot: Robot,
    config: GridConfig,
    judge: Judge,
    *,
    threads: int = 0,
    progress: Progress = lambda fraction: None,
) -> GridFitted:
    """Search the grid.

    Args:
        train: What is replayed.
        robot: The model.
        config: How.
        judge: The validation part; it only says what the result is worth, as in the paper.
        threads: Of the simulator; 0: all cores.
        progress: Told the finished fraction.

    Raises:
        InputError: If the log has no stretch as long as a window.
    """
    stretches = [s for i, log in enumerate(train) for s in stretches_of(log, i, robot)]
    own, known = stretches[0].track.robot, all(s.track.base_known for s in stretches)
    windows = Windows(stretches, horizons_s=(config.window_s,), every_s=config.window_s,
                      late_s=float(own.delay_s.max()))  # fmt: skip
    windows.keep(max(1, round(config.seconds / config.window_s)))
    grid = Grid(own)
    shooting = Shooting(windows, own, grid, base_known=known, threads=threads)
    z = np.zeros(len(grid))
    costs = [_cost(shooting, z[:, None])[0]]
    for number in range(1, config.passes + 1):
        z, cost = _pass(shooting, z, costs[-1])
        progress(0.95 * number / config.passes)
        if cost >= costs[-1]:
            break
        costs.append(cost)
    correction = grid.correction(z)
    share = judge.shares({CORRECTED: correction.robot(robot)})[CORRECTED]
    return GridFitted(correction, grid.chosen(z), share, [float(c / costs[0]) for c in costs])


def _pass(shooting: Shooting, z: np.ndarray, cost: float) -> tuple[np.ndarray, float]:
    """The best choice (P,) that changes of single values lead to, and its cost."""
    count = len(z)
    places = np.repeat(np.arange(count), 2)
    levels = np.array([[x for x in _LEVELS if x != z[i]] for i in range(count)]).reshape(-1)
    alone = np.tile(z[:, None], (1, 2 * count))
    alone[places, np.arange(2 * count)] = levels
    costs = _cost(shooting, alone).reshape(count, 2)
    better = np.argmin(costs, axis=1)
    gain = cost - costs[np.arange(count), better]
    order = np.argsort(-gain)[: int((gain > 0.0).sum())]
    if len(order) == 0:
        return z, cost
    sizes = np.unique(np.geomspace(1, len(order), _TOGETHER).round().astype(int))
    together = np.tile(z[:, None], (1, len(sizes)))
    for column, size in enumerate(sizes):
        first = order[:size]
        together[first, column] = levels.reshape(count, 2)[first, better[first]]
    found = _cost(shooting, together)
    best = int(np.argmin(found))
    return together[:, best], float(found[best])


def _cost(shooting: Shooting, z: np.ndarray) -> np.ndarray:
    """(K,) errors of joints and base over all windows, for K choices (P, K)."""
    return np.asarray(np.square(shooting.residual(z)).sum(axis=0))
