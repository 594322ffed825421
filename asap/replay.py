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
from dataclasses import dataclass, field
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
from asap_deploy.rotation import projected_gravity

JOINT_ERROR = "joint_mae_deg"
BODY_ERRORS = (
    "mpjpe_mm",
    "global_mpjpe_mm",
    "vel_error_mm_per_frame",
    "acc_error_mm_per_frame2",
)
BASE_POS_ERROR, BASE_TILT_ERROR = "base_pos_mm", "base_tilt_deg"
"""Where the base is, and how it leans. Yaw is left out: that of an IMU drifts."""
REPEAT = "repeat"
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
    repeats: bool = False
    """Also the arm ``repeat``, where runs of one motion tell their phase: the robot moves on as it
    did in another run. How well it repeats itself; a model that is told this run's targets may come
    nearer."""
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
    """(W, H) each, by metric: ``BODY_ERRORS`` and the base's; without the base's position its tilt
    alone, on a bolted robot none"""
    point_mm: np.ndarray
    """(W, horizons, P) float32 distance of every tracked point; no points without a base"""


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
    point_mae_mm: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    """(horizons, P) mean distance of every tracked point; (horizons, 0) where it is not known"""

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
    point_names: tuple[str, ...] = ()
    """(P,) bodies and virtual points of ``Arm.point_mae_mm``"""


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
    if config.repeats and ((rows := windows.repeats()) >= 0).any():
        found[REPEAT] = (_repeated(windows, truth, rows), 0)
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
        point_names=truth.point_names,
    )  # fmt: skip


class _Seen(NamedTuple):
    """What is predicted of n robots; None: nothing is said about it."""

    joint_pos: np.ndarray
    points: np.ndarray | None = None
    base_pos: np.ndarray | None = None
    base_quat: np.ndarray | None = None


class _Truth:
    """Where the log says that joints and bodies were, row by row."""

    def __init__(self, windows: Windows, base_known: bool) -> None:
        robot = windows.stretches[0].track.robot
        self.joint_pos = windows.joint_pos
        self.base_pos, self.base_quat = windows.qpos[:, :3], windows.qpos[:, 3:7]
        self.points: np.ndarray | None = None
        self.leans = robot.has_free_base
        self.point_names: tuple[str, ...] = ()
        if base_known and robot.has_free_base:
            bodies = robot.forward_kinematics(self.base_pos, self.base_quat, self.joint_pos)
            points = TrackedPoints(robot)
            self.points, self.point_names = points.positions(*bodies), points.names

    def seen(self, rows: np.ndarray) -> _Seen:
        """What the log says in some rows."""
        if not self.leans:
            return _Seen(self.joint_pos[rows])
        points = None if self.points is None else self.points[rows]
        return _Seen(self.joint_pos[rows], points, self.base_pos[rows], self.base_quat[rows])


class _Meter:
    """Fills in the errors of all windows, step by step."""

    def __init__(self, windows: Windows, truth: _Truth) -> None:
        count, joints = len(windows.start), truth.joint_pos.shape[1]
        self.windows, self.truth = windows, truth
        self.joint_deg = np.full((count, windows.steps, joints), np.nan, dtype=np.float32)
        names = [*BODY_ERRORS, BASE_POS_ERROR] if truth.points is not None else []
        names += [BASE_TILT_ERROR] * truth.leans
        self.body = {name: np.full((count, windows.steps), np.nan) for name in names}
        shape = count, len(windows.horizons), len(truth.point_names)
        self.point_mm = np.full(shape, np.nan, dtype=np.float32)
        self._before: dict[int, np.ndarray] = {}

    def add(self, window: np.ndarray, step: int, seen: _Seen) -> None:
        """Predictions for some windows at a step, 1 the first; points need all steps in turn."""
        rows, inside = self.windows.rows(window, step), self.windows.inside(window, step)
        true, kept = self.truth.seen(rows), window[inside]
        error = np.abs(np.rad2deg(seen.joint_pos - true.joint_pos))
        self.joint_deg[kept, step - 1] = error[inside]
        for name, values in self._of_the_body(step, seen, true).items():
            self.body[name][kept, step - 1] = values[inside]
        if seen.points is not None and true.points is not None and step in self.windows.horizons:
            distance = MM * np.linalg.norm(seen.points - true.points, axis=-1)
            self.point_mm[kept, self.windows.horizons.index(step)] = distance[inside]

    def _of_the_body(self, step: int, seen: _Seen, true: _Seen) -> dict[str, np.ndarray]:
        """(n,) each: what is known of base and points."""
        found: dict[str, np.ndarray] = {}
        if seen.base_quat is not None and true.base_quat is not None:
            found[BASE_TILT_ERROR] = _tilt_deg(seen.base_quat, true.base_quat)
        if seen.points is None or true.points is None:
            return found
        assert seen.base_pos is not None and true.base_pos is not None
        gap, base_gap = seen.points - true.points, seen.base_pos - true.base_pos
        past = self._before.get(step - 1, np.zeros_like(gap))
        older = self._before.get(step - 2, np.zeros_like(gap))
        self._before = {step - 1: past, step: gap}
        vectors = (gap - base_gap[:, None], gap, gap - past, gap - 2.0 * past + older)
        for name, each in zip(BODY_ERRORS, vectors, strict=True):
            found[name] = MM * np.linalg.norm(each, axis=-1).mean(axis=-1)
        found[BASE_POS_ERROR] = MM * np.linalg.norm(base_gap, axis=-1)
        return found

    def restart(self) -> None:
        """Other windows come next."""
        self._before = {}

    def errors(self) -> Errors:
        """All that was added."""
        return Errors(self.joint_deg, self.body, self.point_mm)


def _tilt_deg(quat: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(n,) angle between the directions of gravity in two attitudes (n, 4) [deg]."""
    down, also = projected_gravity(quat), projected_gravity(other)
    sine = np.linalg.norm(np.cross(down, also), axis=-1)
    # arctan2, because arccos of nearly 1 turns rounding into a thousandth of a degree.
    return np.asarray(np.rad2deg(np.arctan2(sine, (down * also).sum(axis=-1))))


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
            shown = (np.where(bad.reshape(-1, *[1] * (n.ndim - 1)), held, n)
                     for n, held in zip(_seen(sim, own, points), last, strict=True))  # fmt: skip
            meter.add(window, step, _Seen(*shown))
            progress((begin + len(window) * step / windows.steps) / len(everything))
        diverged += int(sim.failed.sum())
    return meter.errors(), diverged


def _seen(sim: Simulation, robot: Robot, points: TrackedPoints) -> tuple[np.ndarray, ...]:
    """Joints, tracked points and base, as from a log: bodies are where encoders place them."""
    bodies = sim.body_pos_w, sim.body_quat_wxyz
    if robot.encoder_bias.any():
        bodies = robot.forward_kinematics(sim.base_pos_w, sim.base_quat_wxyz, sim.joint_pos)
    return sim.joint_pos, points.positions(*bodies), sim.base_pos_w, sim.base_quat_wxyz


def _held(windows: Windows, truth: _Truth) -> Errors:
    """Nothing moves."""
    meter, window = _Meter(windows, truth), np.arange(len(windows.start))
    held = truth.seen(windows.rows(window, 0))
    for step in range(1, windows.steps + 1):
        meter.add(window, step, held)
    return meter.errors()


def _as_told(windows: Windows, truth: _Truth) -> Errors:
    """Joints are where the last target wanted them; bodies are not predicted."""
    meter, window = _Meter(windows, truth), np.arange(len(windows.start))
    for step in range(1, windows.steps + 1):
        rows = windows.rows(window, step - 1)
        meter.add(window, step, _Seen(windows.target[rows]))
    return Errors(meter.joint_deg, {}, meter.point_mm)


def _repeated(windows: Windows, truth: _Truth, rows: np.ndarray) -> Errors:
    """Joints move on from where they are as they did in another run; bodies are not predicted."""
    window = np.flatnonzero(rows >= 0)
    meter, start = _Meter(windows, truth), truth.joint_pos[windows.rows(window, 0)]
    for step in range(1, windows.steps + 1):
        moved = truth.joint_pos[rows[window] + step] - truth.joint_pos[rows[window]]
        meter.add(window, step, _Seen(start + moved))
    return Errors(meter.joint_deg, {}, meter.point_mm)


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
        point_mae_mm=_over_windows(errors.point_mm),
    )


def _over_windows(point_mm: np.ndarray) -> np.ndarray:
    """(horizons, P) means over the windows that reach a horizon."""
    if not np.isfinite(point_mm).any():
        return np.zeros((point_mm.shape[1], 0))
    return np.asarray(np.nanmean(point_mm, axis=0, dtype=float))


def _mean(values: np.ndarray, blocks: np.ndarray, rng: np.random.Generator) -> Interval:
    """Mean over windows, drawn by block."""
    known = np.isfinite(values)
    count = int(blocks.max()) + 1
    sums = np.bincount(blocks[known], values[known], count)
    return bootstrap_ratio(sums, np.bincount(blocks[known], minlength=count), rng)
