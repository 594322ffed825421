"""Logged targets through the simulator, put back onto the log every window: how far it is off.

    result = replay([log], {"nominal": Robot.load("g1")}, ReplayConfig())
    result.arms["nominal"].horizons["1.0"]["joint_mae_deg"]          # Interval(value, low, high)

Every window starts in a state of the log and gets the logged targets, open loop. Errors are those
at the end of a horizon. Beside the simulator always stand two predictions that know no physics:
``hold_last`` (nothing moves) and ``target_as_prediction`` (joints are where they are told to be).
A window whose simulation blew up counts with the prediction of ``hold_last``, and is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from asap.log_states import as_logged
from asap.log_windows import Windows, stretches_of
from asap.metrics import MM, Interval, TrackedPoints, bootstrap_ratio
from asap.robot import Robot
from asap.sim_protocol import Simulation
from asap.twin import make_simulation
from asap_deploy.errors import InputError
from asap_deploy.log import Log

JOINT_ERROR = "joint_mae_deg"
BODY_ERRORS = (
    "mpjpe_mm",
    "global_mpjpe_mm",
    "vel_error_mm_per_frame",
    "acc_error_mm_per_frame2",
)
_AT_ONCE = 2048
"""Windows simulated side by side."""

Progress = Callable[[float], None]
Simulate = Callable[[Robot, int], Simulation]


@dataclass(frozen=True, kw_only=True)
class ReplayConfig:
    """Windows and horizons."""

    horizons_s: tuple[float, ...] = (0.25, 0.5, 1.0)
    """Times after the start of a window at which errors are reported [s]."""
    every_s: float = 0.1
    """Between the starts of windows [s]."""
    delay_ms: float = 0.0
    """From target to motor, beside the robot's own [ms]."""
    seed: int = 0
    """Of the resampling behind the intervals."""
    threads: int = 0
    """Of the simulator; 0: all cores."""

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        rising = all(a < b for a, b in zip(self.horizons_s, self.horizons_s[1:], strict=False))
        if not self.horizons_s or self.horizons_s[0] <= 0.0 or not rising:
            raise InputError(f"--horizons-s must rise from above 0; got {self.horizons_s}")
        if self.every_s <= 0.0 or self.delay_ms < 0.0:
            raise InputError("--every-s must be above 0 and --delay-ms 0 or more")


class Errors(NamedTuple):
    """Errors of W windows at each of their H steps; NaN beyond the end of a stretch."""

    joint_deg: np.ndarray
    """(W, H, J) float32 absolute"""
    body: dict[str, np.ndarray]
    """(W, H) each, by ``BODY_ERRORS``; empty where the base is not known"""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """What one way to predict gets wrong."""

    name: str
    horizons: dict[str, dict[str, Interval]]
    """By horizon ("0.25"), by metric"""
    curve: dict[str, np.ndarray]
    """Mean at every step (H,), by metric"""
    joint_mae_deg: np.ndarray
    """(horizons, J)"""
    diverged: int
    """Windows whose simulation blew up"""
    joint_deg: np.ndarray
    """(W, J) absolute error at the last horizon [deg]"""
    windows: dict[str, np.ndarray]
    """(W, horizons) error of every window, by metric; NaN where a stretch ends before"""

    def errors_as_dict(self) -> dict[str, dict[str, dict[str, float]]]:
        """Figures by horizon and metric, for JSON."""
        return {h: {metric: value.as_dict() for metric, value in errors.items()}
                for h, errors in self.horizons.items()}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Replay:
    """All arms over the same windows."""

    arms: dict[str, Arm]
    windows: int
    episodes: int
    rate_hz: float
    joint_names: tuple[str, ...]
    base_known: bool
    straddling: int
    """Windows that a change of gains takes away or cuts short"""
    start_row: np.ndarray
    """(W,) row of its stretch that a window starts in"""
    stretch: np.ndarray
    """(W,) stretch that a window lies in"""
    time_s: np.ndarray
    """(H,) since the start of a window"""


def replay(
    logs: Sequence[Log],
    robots: Mapping[str, Robot],
    config: ReplayConfig,
    progress: Progress | None = None,
    *,
    simulate: Mapping[str, Simulate] | None = None,
) -> Replay:
    """Replay logs through simulators.

    Args:
        logs: Of one robot.
        robots: By name of the arm; the first one's kinematics says where bodies are.
        config: Windows.
        progress: Told the finished fraction.
        simulate: By arm, how to make its simulation, where not as the robot's own.

    Raises:
        InputError: If a log cannot be replayed, or none has a stretch as long as a horizon.
    """
    first = next(iter(robots.values()))
    stretches = [s for number, log in enumerate(logs) for s in stretches_of(log, number, first)]
    late_s = config.delay_ms / 1000.0 + max(float(r.delay_s.max()) for r in robots.values())
    windows = Windows(
        stretches, horizons_s=config.horizons_s, every_s=config.every_s, late_s=late_s
    )
    told = progress or (lambda fraction: None)
    base_known = all(s.track.base_known for s in stretches)
    truth = _Truth(windows, base_known)
    found: dict[str, tuple[Errors, int]] = {}
    for number, (name, robot) in enumerate(robots.items()):
        made = (simulate or {}).get(name) or _own_simulation(config)

        def part(fraction: float, done: int = number) -> None:
            told((done + fraction) / len(robots))

        found[name] = _simulated(windows, truth, robot, made, config, part)
    found["hold_last"] = (_held(windows, truth), 0)
    found["target_as_prediction"] = (_as_told(windows, truth), 0)
    blocks = windows.blocks()
    return Replay(
        arms={name: _arm(name, errors, bad, windows, blocks, config)
              for name, (errors, bad) in found.items()},
        windows=len(windows.start),
        episodes=len({s.episode for s in stretches}),
        rate_hz=1.0 / windows.dt,
        joint_names=first.joint_names,
        base_known=base_known,
        straddling=windows.straddling,
        start_row=windows.start,
        stretch=windows.stretch,
        time_s=windows.dt * np.arange(1, windows.steps + 1),
    )  # fmt: skip


class _Truth:
    """Where the log says that joints and bodies were, row by row."""

    def __init__(self, windows: Windows, base_known: bool) -> None:
        robot = windows.stretches[0].track.robot
        self.joint_pos, self.base = windows.joint_pos, windows.qpos[:, :3]
        self.points: np.ndarray | None = None
        if base_known and robot.has_free_base:
            attitude = windows.qpos[:, 3:7]
            bodies = robot.forward_kinematics(self.base, attitude, self.joint_pos)
            self.points = TrackedPoints(robot).positions(*bodies)


class _Meter:
    """Fills in the errors of all windows, step by step."""

    def __init__(self, windows: Windows, truth: _Truth) -> None:
        count, joints = len(windows.start), truth.joint_pos.shape[1]
        self.windows, self.truth = windows, truth
        self.joint_deg = np.full((count, windows.steps, joints), np.nan, dtype=np.float32)
        known = truth.points is not None
        self.body = {name: np.full((count, windows.steps), np.nan) for name in BODY_ERRORS * known}
        self._before: dict[int, np.ndarray] = {}

    def add(
        self, window: np.ndarray, step: int, joint_pos: np.ndarray,
        points: np.ndarray | None, base: np.ndarray | None,
    ) -> None:  # fmt: skip
        """Predictions for some windows at a step, 1 the first; points need all steps in turn."""
        rows, inside = self.windows.rows(window, step), self.windows.inside(window, step)
        error = np.abs(np.rad2deg(joint_pos - self.truth.joint_pos[rows]))
        self.joint_deg[window[inside], step - 1] = error[inside]
        if points is None or base is None or self.truth.points is None:
            return
        gap = points - self.truth.points[rows]
        local = gap - (base - self.truth.base[rows])[:, None]
        past = self._before.get(step - 1, np.zeros_like(gap))
        older = self._before.get(step - 2, np.zeros_like(gap))
        self._before = {step - 1: past, step: gap}
        values = (local, gap, gap - past, gap - 2.0 * past + older)
        for name, vectors in zip(BODY_ERRORS, values, strict=True):
            mean = MM * np.linalg.norm(vectors, axis=-1).mean(axis=-1)
            self.body[name][window[inside], step - 1] = mean[inside]

    def restart(self) -> None:
        """Other windows come next."""
        self._before = {}

    def errors(self) -> Errors:
        """All that was added."""
        return Errors(self.joint_deg, self.body)


def _own_simulation(config: ReplayConfig) -> Simulate:
    """The robot's own, with the delay that was asked for."""

    def simulate(robot: Robot, count: int) -> Simulation:
        late = robot.with_(delay_s=robot.delay_s + config.delay_ms / 1000.0)
        return make_simulation(late, count, threads=config.threads, seed=config.seed)

    return simulate


def _simulated(
    windows: Windows, truth: _Truth, robot: Robot, simulate: Simulate,
    config: ReplayConfig, progress: Progress,
) -> tuple[Errors, int]:  # fmt: skip
    """All windows through a simulator."""
    meter, diverged = _Meter(windows, truth), 0
    # Gains and rate are those of the logs, which share them; the rest is the arm's.
    own = as_logged(robot, windows.stretches[0].log)
    points = TrackedPoints(own)
    everything = np.arange(len(windows.start))
    for begin in range(0, len(everything), _AT_ONCE):
        window = everything[begin : begin + _AT_ONCE]
        sim = simulate(own, len(window))
        windows.start_in(sim, window)
        last = tuple(part.copy() for part in _seen(sim, own, points))
        meter.restart()
        for step in range(1, windows.steps + 1):
            sim.step(windows.target[windows.rows(window, step - 1)])
            bad = sim.failed
            shown = [np.where(bad.reshape(-1, *[1] * (n.ndim - 1)), held, n)
                     for n, held in zip(_seen(sim, own, points), last, strict=True)]  # fmt: skip
            meter.add(window, step, *shown)
            progress((begin + len(window) * step / windows.steps) / len(everything))
        diverged += int(sim.failed.sum())
    return meter.errors(), diverged


def _seen(sim: Simulation, robot: Robot, points: TrackedPoints) -> tuple[np.ndarray, ...]:
    """Joints, tracked points and base, as from a log: bodies are where encoders place them."""
    bodies = sim.body_pos_w, sim.body_quat_wxyz
    if robot.encoder_bias.any():
        bodies = robot.forward_kinematics(sim.base_pos_w, sim.base_quat_wxyz, sim.joint_pos)
    return sim.joint_pos, points.positions(*bodies), sim.base_pos_w


def _held(windows: Windows, truth: _Truth) -> Errors:
    """Nothing moves."""
    meter, window = _Meter(windows, truth), np.arange(len(windows.start))
    rows = windows.rows(window, 0)
    points = None if truth.points is None else truth.points[rows]
    joint_pos, base = truth.joint_pos[rows], truth.base[rows]
    for step in range(1, windows.steps + 1):
        meter.add(window, step, joint_pos, points, base)
    return meter.errors()


def _as_told(windows: Windows, truth: _Truth) -> Errors:
    """Joints are where the last target wanted them; bodies are not predicted."""
    meter, window = _Meter(windows, truth), np.arange(len(windows.start))
    for step in range(1, windows.steps + 1):
        rows = windows.rows(window, step - 1)
        meter.add(window, step, windows.target[rows], None, None)
    return Errors(meter.joint_deg, {})


def _arm(
    name: str, errors: Errors, diverged: int, windows: Windows, blocks: np.ndarray,
    config: ReplayConfig,
) -> Arm:  # fmt: skip
    """Means and intervals."""
    table = {JOINT_ERROR: errors.joint_deg.mean(axis=-1), **errors.body}
    rng = np.random.default_rng(config.seed)
    horizons = {
        f"{h}": {
            metric: _mean(values[:, step - 1], blocks, rng) for metric, values in table.items()
        }
        for h, step in zip(config.horizons_s, windows.horizons, strict=True)
    }
    steps = [step - 1 for step in windows.horizons]
    return Arm(
        name=name,
        horizons=horizons,
        curve={metric: np.nanmean(values, axis=0) for metric, values in table.items()},
        joint_mae_deg=np.nanmean(errors.joint_deg[:, steps], axis=0, dtype=float),
        diverged=diverged,
        joint_deg=errors.joint_deg[:, -1],
        windows={metric: values[:, steps] for metric, values in table.items()},
    )


def _mean(values: np.ndarray, blocks: np.ndarray, rng: np.random.Generator) -> Interval:
    """Mean over windows, drawn by block."""
    known = np.isfinite(values)
    count = int(blocks.max()) + 1
    sums = np.bincount(blocks[known], values[known], count)
    return bootstrap_ratio(sums, np.bincount(blocks[known], minlength=count), rng)
