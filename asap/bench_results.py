"""What the benchmarks of the simulation find, with their JSON and their tables."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple


class Ratio(NamedTuple):
    """A ratio of two loops over the repetitions of one run."""

    value: float
    """Median."""
    low: float
    """Smallest."""
    high: float
    """Largest."""


@dataclass(frozen=True, kw_only=True)
class SpeedResult:
    """Speed of ``CpuSimulation`` with N robots; a step is one control step of one robot."""

    robot: str
    num_envs: int
    threads: int
    integrator: str
    physics_dt: float
    """[s]"""
    control_dt: float
    """[s]"""
    repetitions: int
    sim_per_s: float
    """Steps with ``CpuSimulation.step``, all derived quantities computed."""
    sim_read_per_s: float
    """The same, and body poses, forces and a measurement are copied out."""
    bare_per_s: float
    """Steps of ``ctrl[:] = x; batch.step(nstep=k)`` on the simulation's model."""
    bare_read_per_s: float
    """The same with body poses of the new state (stage POS) and forces copied out."""
    robot_model_per_s: float
    """The bare loop on ``robot.model``, which also places the geoms that are only drawn."""
    ratio_bare: Ratio
    """sim / bare: what the simulation costs on top of the physics."""
    ratio_bare_read: Ratio
    """sim_read / bare_read: the same when everything is read."""
    ratio_robot_model: Ratio
    """sim / robot_model: against the loop that one would write first."""

    def to_json(self) -> dict[str, Any]:
        """The result with plain numbers, ratios as ``{"value", "low", "high"}``."""
        ratios = {k: v._asdict() for k, v in vars(self).items() if isinstance(v, Ratio)}
        return asdict(self) | ratios


class Scheme(NamedTuple):
    """An integrator and a physics step."""

    integrator: str
    physics_dt: float
    """[s]"""

    @property
    def label(self) -> str:
        """For example "discrete 10 ms"."""
        return f"{self.integrator} {1e3 * self.physics_dt:g} ms"


class Quantiles(NamedTuple):
    """Over the starts of a study."""

    median: float
    p90: float


Errors = dict[str, dict[str, Quantiles]]
"""By horizon ("0.1", ...) and metric."""


@dataclass(frozen=True, kw_only=True)
class StudyRow:
    """One scheme, or one noise floor, against the reference."""

    label: str
    errors: Errors
    """Over starts that do not fall in the reference."""
    errors_all: Errors
    """The same over all starts."""
    excess: dict[str, float]
    """For "median" and "p90" of ``errors``: the largest ratio, over horizons and metrics, to the
    larger of the two noise floors. Above 1 the error shows in a replay of a log."""
    failed: int
    """Simulations that blew up."""
    steps_per_s: float | None = None
    """Control steps of one robot per second of wall time; None for a noise floor."""
    ratio_speed: Ratio | None = None
    """Speed over that of the first candidate, in alternating repetitions."""


@dataclass(frozen=True, kw_only=True)
class IntegratorStudy:
    """Errors and speed of all candidates, and the cheapest that is good enough."""

    robot: str
    num_starts: int
    num_falls: int
    """Starts that fall within the longest horizon in the reference."""
    rows: tuple[StudyRow, ...]
    """Finer reference, log noise, encoder noise, then the candidates."""
    recommended: str
    """Label of the fastest candidate whose errors (median and 90th percentile) hide behind a noise
    floor at every horizon; never Euler, which treats the damping of motors explicitly."""

    def to_json(self) -> dict[str, Any]:
        """The result as plain dicts and lists."""
        return _plain(asdict(self))

    def to_markdown(self) -> str:
        """A table: median / 90th percentile at each horizon."""
        horizons = list(self.rows[0].errors)
        lines = [
            f"{self.robot}: {self.num_starts} starts, {self.num_falls} fall and are left out.",
            "",
            f"| scheme | metric | {' | '.join(f'{h} s' for h in horizons)} | excess | speed |",
            "|---|---|" + "---|" * (len(horizons) + 2),
        ]
        for row in self.rows:
            excess = f"{row.excess['median']:.2f} / {row.excess['p90']:.2f}"
            speed = ""
            if row.ratio_speed is not None:
                value, low, high = row.ratio_speed
                speed = f"{value:.2f} ({low:.2f} to {high:.2f})"
            for place, metric in enumerate(row.errors[horizons[0]]):
                cells = [row.errors[h][metric] for h in horizons]
                numbers = " | ".join(f"{c.median:.3g} / {c.p90:.3g}" for c in cells)
                head = row.label if place == 0 else ""
                tail = f"{excess} | {speed}" if place == 0 else " | "
                lines.append(f"| {head} | {metric} | {numbers} | {tail} |")
        return "\n".join(lines)


def _plain(value: Any) -> Any:
    """Named tuples as dicts, everywhere inside."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (Ratio, Quantiles)):
        return _plain(value._asdict())
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
