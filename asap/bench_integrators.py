"""How coarse a time step may be: open-loop error against a fine reference, beside what it buys.

Robots start on frames of clips and play the clip's joint positions through their PD loops, once
with a fine step and once with each candidate. A candidate is good enough if it errs less than a
replay errs that starts from a *logged* state, because then the log's noise hides it.

    study = integrator_study(Robot.load("g1"), [Motion.load("motions/g1/squat.npz")])
    print(study.to_markdown(), study.recommended)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from asap.bench import speed_ratio, take_turns
from asap.bench_results import Errors, IntegratorStudy, Quantiles, Ratio, Scheme, StudyRow
from asap.robot import Robot
from asap.sim import CpuSimulation
from asap_deploy.errors import InputError
from asap_deploy.motion import Motion
from asap_deploy.rotation import from_rotvec, multiply, projected_gravity, rotate_inverse

HORIZONS_S = (0.1, 0.25, 0.5, 1.0)
"""Times after the start at which errors are taken [s]; the literature's, and a short one."""
METRICS = ("joint_mae_deg", "base_error_mm", "body_error_mm")
_LOWEST_BASE = 0.6
"""A robot has fallen once its base is below this part of its starting height ..."""
_TILTED = -0.5
"""... or gravity's z in the base frame is above this: tilted by more than 60 degrees."""
_IMPLICIT_IN_DAMPING = ("implicitfast", "implicit", "discrete")
_LOG, _ENCODER = "log noise", "encoder noise 0.01 rad"
_SPEED_STEPS = 10
"""Control steps per repetition of the speed measurement."""
_START_NOISE = 0.02
"""Fixed offset of start and target of every joint, so that no two starts are alike [rad]."""


REFERENCE = Scheme("implicitfast", 0.0005)
FINER = Scheme("implicitfast", 0.00025)
"""Half the reference's step: what they differ by is the reference's own error and chaos."""
CANDIDATES = (
    Scheme("implicitfast", 0.005),
    Scheme("implicitfast", 0.002),
    Scheme("implicitfast", 0.01),
    Scheme("euler", 0.005),
    Scheme("discrete", 0.005),
    Scheme("discrete", 0.01),
    Scheme("discrete", 0.02),
)


@dataclass(frozen=True, kw_only=True)
class LogNoise:
    """How well a log knows the state that a replay starts from (standard deviations)."""

    joint_pos: float = 0.0005
    """[rad]; encoders of a G1 class robot"""
    joint_vel: float = 0.02
    """[rad/s]"""
    base_pos: float = 0.001
    """[m]; motion capture"""
    base_angle: float = 0.002
    """[rad] about each axis"""
    base_vel: float = 0.02
    """[m/s] and [rad/s]"""


LOG_NOISE = LogNoise()
ENCODER_NOISE = LogNoise(joint_pos=0.01, joint_vel=0.0, base_pos=0.0, base_angle=0.0, base_vel=0.0)
"""0.01 rad on every joint, the noise that policies are commonly trained with."""


class _Starts(NamedTuple):
    """N states to start from and what is played from there."""

    qpos: np.ndarray
    qvel: np.ndarray
    targets: np.ndarray
    """(steps, N, J) [rad]"""


class _States(NamedTuple):
    """What is compared, at H horizons."""

    joint_pos: np.ndarray
    """(H, N, J) [rad]"""
    body_pos_w: np.ndarray
    """(H, N, B, 3) [m]"""
    upright: np.ndarray
    """(N,) has not fallen at any horizon"""
    failed: np.ndarray
    """(N,) blew up"""


def integrator_study(
    robot: Robot,
    motions: Sequence[Motion],
    *,
    candidates: Sequence[Scheme] = CANDIDATES,
    starts_per_motion: int = 48,
    speed_envs: int = 512,
    speed_repetitions: int = 5,
    threads: int = 0,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> IntegratorStudy:
    """Open-loop error and speed of integrators and physics steps.

    Args:
        robot: What to simulate.
        motions: Clips with joints and bodies of the robot, at least one horizon long.
        candidates: Schemes to judge; speeds are relative to the first.
        starts_per_motion: Start frames per clip, evenly spread.
        speed_envs: Robots in the speed measurement; 0 leaves it out.
        speed_repetitions: Alternating repetitions of the speed measurement.
        threads: Threads of the pool; 0 for one per CPU.
        seed: Seed of offsets and noise.
        progress: Called with a line per simulation.

    Returns:
        The study.

    Raises:
        InputError: If there is nothing to study or a motion does not fit the robot.
    """
    if not motions or not candidates or starts_per_motion < 1:
        raise InputError("a study needs a motion, a candidate and a start")
    rng = np.random.default_rng(seed)
    starts = _starts(robot, motions, starts_per_motion, rng)
    links = robot.body_index(robot.link_body_names)

    def play(scheme: Scheme, label: str, noise: LogNoise | None = None) -> _States:
        if progress is not None:
            progress(label)
        begun = starts if noise is None else _noisy(robot, starts, noise, rng)
        return _play(robot, scheme, begun, links, threads)

    truth = play(REFERENCE, REFERENCE.label)
    runs = {f"reference at {1e3 * FINER.physics_dt:g} ms": play(FINER, FINER.label)}
    for label, noise in ((_LOG, LOG_NOISE), (_ENCODER, ENCODER_NOISE)):
        runs[label] = play(REFERENCE, label, noise)
    runs |= {scheme.label: play(scheme, scheme.label) for scheme in candidates}
    speeds = _speeds(robot, candidates, starts, speed_envs, speed_repetitions)
    floors = [_errors(truth, runs[label], truth.upright) for label in (_LOG, _ENCODER)]
    rows = tuple(_row(label, truth, run, floors, speeds) for label, run in runs.items())
    return IntegratorStudy(
        robot=robot.name,
        num_starts=len(starts.qpos),
        num_falls=int((~truth.upright).sum()),
        rows=rows,
        recommended=_recommended(rows, candidates),
    )


def _starts(
    robot: Robot, motions: Sequence[Motion], count: int, rng: np.random.Generator
) -> _Starts:
    """States on the clips, lifted out of the floor, and the clips' joint positions from there."""
    steps = round(max(HORIZONS_S) / robot.control_dt)
    parts = [_starts_of(robot, motion, count, steps, rng) for motion in motions]
    return _Starts(
        np.concatenate([part.qpos for part in parts]),
        np.concatenate([part.qvel for part in parts]),
        np.concatenate([part.targets for part in parts], axis=1),
    )


def _starts_of(
    robot: Robot, motion: Motion, count: int, steps: int, rng: np.random.Generator
) -> _Starts:
    """The starts of one clip."""
    joints = robot.joint_ids(motion.joint_names)
    if not robot.has_free_base or motion.body_names[0] != robot.base_name:
        raise InputError(
            f"body 0 of the motion is '{motion.body_names[0]}'; robot '{robot.name}' needs its "
            f"free base '{robot.base_name}'"
        )
    last = motion.duration_s - max(HORIZONS_S)
    if last < 0.0:
        raise InputError(f"motion lasts {motion.duration_s:g} s, needs {max(HORIZONS_S):g} s")
    begin = np.linspace(0.0, last, count)
    times = begin + robot.control_dt * np.arange(1, steps + 1)[:, None]
    frame, later = motion.at(begin), motion.at(times)
    offset = rng.normal(0.0, _START_NOISE, (count, len(robot.joint_names)))
    qpos = np.tile(robot.default_qpos(), (count, 1))
    qvel = np.zeros((count, robot.model.nv))
    targets = np.tile(robot.default_joint_pos + offset, (steps, 1, 1))
    qpos[:, 0:3], qpos[:, 3:7] = frame.body_pos_w[:, 0], frame.body_quat_wxyz[:, 0]
    qpos[:, robot.qpos_ids[joints]] = frame.joint_pos
    qpos[:, robot.qpos_ids] += offset
    qvel[:, 0:3] = frame.body_lin_vel_w[:, 0]
    qvel[:, 3:6] = rotate_inverse(qpos[:, 3:7], frame.body_ang_vel_w[:, 0])
    qvel[:, robot.qvel_ids[joints]] = frame.joint_vel
    targets[:, :, joints] = later.joint_pos + offset[:, joints]
    qpos[:, 2] += _lift(robot, qpos)
    return _Starts(qpos, qvel, targets)


def _lift(robot: Robot, qpos: np.ndarray) -> np.ndarray:
    """How far the offsets pushed the soles into the floor, (N,) [m]."""
    joint_pos = qpos[:, robot.qpos_ids]
    poses = robot.forward_kinematics(qpos[:, 0:3], qpos[:, 3:7], joint_pos)
    return np.maximum(-robot.sole_clearance(*poses).min(axis=1), 0.0)


def _noisy(robot: Robot, starts: _Starts, noise: LogNoise, rng: np.random.Generator) -> _Starts:
    """The same starts as a log would know them."""
    qpos, qvel = starts.qpos.copy(), starts.qvel.copy()
    n, joints = len(qpos), len(robot.joint_names)
    qpos[:, 0:3] += rng.normal(0.0, noise.base_pos, (n, 3))
    turn = from_rotvec(rng.normal(0.0, noise.base_angle, (n, 3)))
    qpos[:, 3:7] = multiply(qpos[:, 3:7], turn)
    qpos[:, robot.qpos_ids] += rng.normal(0.0, noise.joint_pos, (n, joints))
    qvel[:, 0:6] += rng.normal(0.0, noise.base_vel, (n, 6))
    qvel[:, robot.qvel_ids] += rng.normal(0.0, noise.joint_vel, (n, joints))
    return starts._replace(qpos=qpos, qvel=qvel)


def _play(
    robot: Robot, scheme: Scheme, starts: _Starts, links: np.ndarray, threads: int
) -> _States:
    """Simulate all starts with a scheme and keep the states at the horizons."""
    robot = robot.with_(integrator=scheme.integrator, physics_dt=scheme.physics_dt)
    sim = CpuSimulation(robot, len(starts.qpos), threads=threads)
    sim.reset(np.arange(sim.num_envs), starts.qpos, starts.qvel, joint_pos_target=starts.targets[0])
    horizons = [round(horizon / robot.control_dt) for horizon in HORIZONS_S]
    joint_pos, body_pos_w = [], []
    upright = np.ones(sim.num_envs, dtype=bool)
    for step, target in enumerate(starts.targets, start=1):
        sim.step(target)
        if step in horizons:
            joint_pos.append(sim.joint_pos.copy())
            body_pos_w.append(sim.body_pos_w[:, links].copy())
            upright &= sim.base_pos_w[:, 2] > _LOWEST_BASE * starts.qpos[:, 2]
            upright &= projected_gravity(sim.base_quat_wxyz)[:, 2] < _TILTED
    return _States(np.array(joint_pos), np.array(body_pos_w), upright, sim.failed.copy())


def _row(
    label: str,
    truth: _States,
    run: _States,
    floors: Sequence[Errors],
    speeds: dict[str, tuple[float, Ratio]],
) -> StudyRow:
    """Errors of one run against the reference, and its speed if it has one."""
    errors = _errors(truth, run, truth.upright)
    steps_per_s, ratio = speeds.get(label, (None, None))
    return StudyRow(
        label=label,
        errors=errors,
        errors_all=_errors(truth, run, np.ones_like(truth.upright)),
        excess=_excess(errors, floors),
        failed=int(run.failed.sum()),
        steps_per_s=steps_per_s,
        ratio_speed=ratio,
    )


def _errors(truth: _States, run: _States, chosen: np.ndarray) -> Errors:
    """Median and 90th percentile over chosen starts; not-a-number if there are none."""
    chosen = chosen & ~run.failed & ~truth.failed
    apart = np.linalg.norm(run.body_pos_w - truth.body_pos_w, axis=-1) * 1e3
    table = {
        "joint_mae_deg": np.degrees(np.abs(run.joint_pos - truth.joint_pos).mean(axis=-1)),
        "base_error_mm": apart[:, :, 0],
        "body_error_mm": apart.mean(axis=-1),
    }

    def both(values: np.ndarray) -> Quantiles:
        if not values.size:
            return Quantiles(float("nan"), float("nan"))
        return Quantiles(float(np.median(values)), float(np.percentile(values, 90)))

    return {
        f"{horizon:g}": {name: both(table[name][place, chosen]) for name in METRICS}
        for place, horizon in enumerate(HORIZONS_S)
    }


def _speeds(
    robot: Robot, candidates: Sequence[Scheme], starts: _Starts, envs: int, repetitions: int
) -> dict[str, tuple[float, Ratio]]:
    """Control steps/s of each candidate and the ratio to the first, taking turns."""
    if envs < 1:
        return {}
    chosen, rng = np.arange(envs) % len(starts.qpos), np.random.default_rng(0)
    sims = {
        s.label: CpuSimulation(robot.with_(integrator=s.integrator, physics_dt=s.physics_dt), envs)
        for s in candidates
    }
    calls = {label: sim.step for label, sim in sims.items()}
    times = []
    for _ in range(repetitions + 1):
        for sim in sims.values():
            sim.reset(np.arange(envs), starts.qpos[chosen], starts.qvel[chosen])
        times.append(take_turns(calls, starts.targets[:_SPEED_STEPS, chosen], rng))
    spent = {label: np.array([t[label] for t in times[1:]]) for label in sims}  # one warms up
    first = spent[candidates[0].label]
    return {
        label: (float(envs * _SPEED_STEPS / np.median(t)), speed_ratio(first, t))
        for label, t in spent.items()
    }


def _recommended(rows: Sequence[StudyRow], candidates: Sequence[Scheme]) -> str:
    """The fastest candidate that hides behind the noise of a log; "none" if there is none."""
    by_label = {row.label: row for row in rows}
    speed_of: dict[str, float] = {}
    for scheme in candidates:
        row = by_label[scheme.label]
        is_hidden = max(row.excess.values()) <= 1.0 and not row.failed
        if is_hidden and scheme.integrator in _IMPLICIT_IN_DAMPING:
            speed_of[scheme.label] = row.ratio_speed.value if row.ratio_speed else scheme.physics_dt
    if not speed_of:
        return "none"
    # Speeds this close are equal for a shared machine; then the smaller error counts.
    near = [label for label, speed in speed_of.items() if speed >= 0.9 * max(speed_of.values())]
    return min(near, key=lambda label: by_label[label].excess["p90"])


def _excess(errors: Errors, floors: Sequence[Errors]) -> dict[str, float]:
    """Largest ratio of an error to the larger floor, over horizons and metrics."""

    def ratio(horizon: str, metric: str, quantile: str) -> float:
        hidden = max(getattr(floor[horizon][metric], quantile) for floor in floors)
        return getattr(errors[horizon][metric], quantile) / hidden

    return {
        quantile: max(ratio(horizon, metric, quantile) for horizon in errors for metric in METRICS)
        for quantile in Quantiles._fields
    }
