"""How well a policy tracks a motion on a robot or twin, judged by whole clips from the first frame.

The policy runs through ``asap_deploy.Runtime``, the code that drives the real robot. Episodes
that start in the middle of a clip hide drift; these do not.

    result = evaluate([Case(policy, motion, "wave")], Robot.load("g1"), EvaluateConfig(episodes=64))
    result.overall["mpjpe_mm"].value
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from asap.metrics import (
    EFFORT_NAMES,
    ERROR_NAMES,
    EffortMeter,
    ErrorMeter,
    Interval,
    TrackedPoints,
    bootstrap_ratio,
    success_interval,
)
from asap.robot import Robot
from asap.rollout import Rollout
from asap.sim_protocol import Simulation
from asap.tracking import NOISE, Reference, StartNoise, drawn_kicks, start_states
from asap.twin import Sensors, make_simulation
from asap_deploy.contract import PolicyContract
from asap_deploy.errors import InputError
from asap_deploy.motion import Motion, MotionFrame
from asap_deploy.policy import Policy
from asap_deploy.runtime import Runtime

Progress = Callable[[float], None]
"""Called with the finished fraction, 0 to 1."""

FALL_MM = 500.0
"""What an episode that fails counts with where one number must say how good a policy is."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """How to judge a policy."""

    episodes: int = 64
    """Episodes of each clip."""
    start_noise: StartNoise = "none"
    """none: at rest in the first frame; paper: the reference's velocity and the noise with which
    the original fine-tunes (joints 0.1 rad, base 5 cm and up to 10 degrees); small: a third."""
    delay_ms: float = 0.0
    """From command to motor [ms]; real robots have 5 to 20."""
    push_speed: float = 0.0
    """Kick of the base in a random horizontal direction [m/s]."""
    push_interval_s: float = 1.0
    """Time between kicks [s]."""
    points: Literal["paper", "bodies"] = "paper"
    """paper: links and virtual points (27 on the G1); bodies: all bodies, no virtual points."""
    fail_distance_m: float = 0.5
    """An episode fails when the mean distance of its points exceeds this [m]."""
    seed: int = 0
    """Of noise and pushes."""
    threads: int = 0
    """Of the simulator; 0: all cores."""

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        if not 1 <= self.episodes <= 100_000:
            raise InputError(f"--episodes must be 1 to 100000; got {self.episodes}")
        if not 0.0 <= self.delay_ms <= 200.0:
            raise InputError(f"--delay-ms must be 0 to 200; got {self.delay_ms}")
        if not (0.0 <= self.push_speed <= 10.0 and self.push_interval_s > 0.0):
            raise InputError("--push-speed must be 0 to 10 m/s and --push-interval-s above 0")
        if not self.fail_distance_m > 0.0:
            raise InputError(f"--fail-distance-m must be above 0; got {self.fail_distance_m}")


class Case(NamedTuple):
    """One clip with the policy that is to track it."""

    policy: Policy
    motion: Motion
    name: str


@dataclass(frozen=True, kw_only=True)
class ClipResult:
    """What the episodes of one clip gave; arrays have one entry an episode, E."""

    name: str
    survived_s: np.ndarray
    """(E,) time until failure, or the whole clip [s]"""
    duration_s: float
    sums: dict[str, np.ndarray]
    counts: dict[str, np.ndarray]
    worst_mm: np.ndarray
    """(E,) largest mean distance of a frame [mm]"""
    simulator_failures: int
    """Episodes that the simulator could not continue."""
    rollout: Rollout
    """The first episode, to look at."""

    @property
    def success(self) -> np.ndarray:
        """(E,) episodes that reached the end of the clip."""
        return self.survived_s >= self.duration_s - 1e-9

    @property
    def cost_mm(self) -> np.ndarray:
        """(E,) mean distance to the motion, or ``FALL_MM`` where the episode failed [mm]."""
        name = "global_mpjpe_mm"
        return np.where(self.success, self.sums[name] / np.maximum(self.counts[name], 1), FALL_MM)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Figures over all clips, and clip by clip."""

    clips: list[ClipResult]
    seed: int
    overall: dict[str, Interval] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Frames of all clips count alike, as in the literature."""
        self.overall.update(self.figures(self.clips))

    @property
    def cost_mm(self) -> np.ndarray:
        """(E,) of all clips, one after the other: comparable between runs of one seed [mm]."""
        return np.concatenate([clip.cost_mm for clip in self.clips])

    def figures(self, clips: Sequence[ClipResult]) -> dict[str, Interval]:
        """Success rate and errors over the episodes of some clips."""
        rng = np.random.default_rng(self.seed)
        success = np.concatenate([clip.success for clip in clips])
        result = {"success_rate": success_interval(int(success.sum()), len(success))}
        for name in (*ERROR_NAMES, *EFFORT_NAMES):
            sums = np.concatenate([clip.sums[name] for clip in clips])
            counts = np.concatenate([clip.counts[name] for clip in clips])
            result[name] = bootstrap_ratio(sums, counts, rng)
        return result

    def summary(self) -> dict[str, Any]:
        """Figures over all clips and the mean cost, for JSON."""
        cost = float(self.cost_mm.mean())
        return {name: figure.as_dict() for name, figure in self.overall.items()} | {
            "cost_mm": {"value": cost, "low": None, "high": None}
        }

    def as_dict(self) -> dict[str, Any]:
        """For JSON: ``overall``, ``clips`` and ``episodes``."""
        overall = {name: figure.as_dict() for name, figure in self.overall.items()}
        clips = []
        for clip in self.clips:
            figures = {name: figure.as_dict() for name, figure in self.figures([clip]).items()}
            clips.append({"name": clip.name, "duration_s": clip.duration_s, **figures,
                          "simulator_failures": clip.simulator_failures})  # fmt: skip
        return {"overall": overall, "clips": clips, "episodes": self._episodes()}

    def _episodes(self) -> list[dict[str, Any]]:
        rows = []
        for clip in self.clips:
            for episode, survived in enumerate(clip.survived_s):
                errors = {
                    name: clip.sums[name][episode] / max(1, clip.counts[name][episode])
                    for name in ERROR_NAMES
                }
                rows.append({"clip": clip.name, "episode": episode, "survived_s": survived,
                             "success": bool(clip.success[episode]),
                             "worst_mm": clip.worst_mm[episode], **errors})  # fmt: skip
        return rows


def evaluate(
    cases: Sequence[Case], robot: Robot, config: EvaluateConfig, progress: Progress | None = None
) -> Evaluation:
    """Roll out policies over their whole clips.

    Args:
        cases: Policies with the clips that they track.
        robot: Robot or twin to simulate.
        config: Number of episodes, noise, delay and so on.
        progress: Told the finished fraction.

    Raises:
        InputError: If a policy, its clip and the robot do not fit each other.
    """
    report = progress or (lambda fraction: None)
    clips = []
    for number, case in enumerate(cases):
        rng = np.random.default_rng([config.seed, number])

        def part(fraction: float, done: int = number) -> None:
            report((done + fraction) / len(cases))

        clips.append(_evaluate_clip(case, robot, config, rng, part))
    return Evaluation(clips=clips, seed=config.seed)


def _evaluate_clip(
    case: Case, robot: Robot, config: EvaluateConfig, rng: np.random.Generator, report: Progress
) -> ClipResult:
    """All episodes of one clip, side by side."""
    check_case(case, robot)
    robot = with_gains(robot, case.policy.contract)
    count = config.episodes
    late = robot.with_(delay_s=robot.delay_s + config.delay_ms / 1000.0)
    sim = make_simulation(late, count, threads=config.threads, seed=config.seed)
    sensors = Sensors(robot, count, rng)
    runtime = Runtime(case.policy, robot.joint_names, count)
    paper = config.points == "paper"
    points = TrackedPoints(robot, virtual=paper, all_bodies=not paper)
    reference = Reference(case.motion, robot, points)
    quiet = config.start_noise == "none"
    first = reference.frame(np.zeros(count))
    noise = NOISE[config.start_noise]
    qpos, qvel = start_states(first, robot, rng, noise=noise, at_rest=quiet)
    sim.reset(np.arange(count), qpos, qvel)
    meter, recorder = ErrorMeter(count), _Recorder(robot, case.name)
    effort = EffortMeter(robot, count)
    steps = max(1, round(case.motion.duration_s / robot.control_dt))
    alive, survived_s = np.ones(count, dtype=bool), np.zeros(count)
    for step in range(steps):
        _push(sim, step, robot.control_dt, config, rng)
        command = runtime.step(sensors.measure(sim), np.full(count, step * robot.control_dt))
        sim.step(command.joint_pos_target)
        time_s = (step + 1) * robot.control_dt
        frame = reference.frame(time_s)
        alive &= ~(sim.failed | command.refused)
        distance_mm = meter.add(
            points.positions(sim.body_pos_w, sim.body_quat_wxyz),
            reference.positions(frame),
            sim.base_pos_w,
            frame.body_pos_w[0],
            alive,
        )
        alive &= distance_mm <= 1000.0 * config.fail_distance_m
        effort.add(sim, command.joint_pos_target, alive)
        survived_s[alive] = time_s
        recorder.add(time_s, sim, frame, command.joint_pos_target, distance_mm)
        report((step + 1) / steps)
    return ClipResult(
        name=case.name,
        survived_s=survived_s,
        duration_s=steps * robot.control_dt,
        sums=meter.sums | effort.sums,
        counts=meter.counts | effort.counts,
        worst_mm=meter.worst_mm,
        simulator_failures=int(sim.failed.sum()),
        rollout=recorder.rollout(),
    )


def with_gains(robot: Robot, contract: PolicyContract) -> Robot:
    """The robot under the gains that the policy sends.

    A twin whose motors answer more weakly than it is told does so under any gains: its ratio to
    the nominal robot stays.
    """
    nominal = Robot.load(robot.name.partition("@")[0]) if "@" in robot.name else robot
    order = contract.index(robot.joint_names)
    gains = {}
    for field_name in ("stiffness", "damping"):
        told = np.array(getattr(contract, field_name))[order]
        usual = getattr(nominal, field_name)
        ratio = np.where(usual > 0.0, getattr(robot, field_name) / np.maximum(usual, 1e-12), 1.0)
        gains[field_name] = told * ratio
    return robot.with_(**gains)


class _Recorder:
    """Keeps the first episode, to look at."""

    def __init__(self, robot: Robot, title: str) -> None:
        self._robot, self._title = robot, title
        self._rows: dict[str, list[np.ndarray]] = {}

    def add(self, time_s: float, sim: Simulation, frame: MotionFrame,
            target: np.ndarray, distance_mm: np.ndarray) -> None:  # fmt: skip
        """Note one frame of episode 0."""
        row = {
            "time_s": np.float64(time_s),
            "qpos": self._robot.qpos(sim.base_pos_w[0], sim.base_quat_wxyz[0], sim.joint_pos[0]),
            "reference_qpos": self._robot.qpos(
                frame.body_pos_w[0], frame.body_quat_wxyz[0], frame.joint_pos
            ),
            "joint_pos_target": target[0].copy(),
            "joint_torque": sim.joint_torque[0].copy(),
            "contact_force": sim.foot_contact_force[0].copy(),
            "error_mm": distance_mm[0],
        }
        for name, value in row.items():
            self._rows.setdefault(name, []).append(value)

    def rollout(self) -> Rollout:
        """The episode as arrays."""
        arrays = {name: np.array(values) for name, values in self._rows.items()}
        return Rollout(robot=self._robot, title=self._title, **arrays)


def _push(sim: Simulation, step: int, control_dt: float, config: EvaluateConfig,
          rng: np.random.Generator) -> None:  # fmt: skip
    """Kick every robot at the interval that was asked for."""
    every = max(1, round(config.push_interval_s / control_dt))
    if config.push_speed == 0.0 or step == 0 or step % every:
        return
    sim.push(np.arange(config.episodes), drawn_kicks(rng, config.episodes, config.push_speed))


def check_case(case: Case, robot: Robot) -> None:
    """The three parts must speak of the same robot and the same rate."""
    contract = case.policy.contract
    unknown = [name for name in robot.joint_names if name not in contract.joint_names]
    if unknown:
        raise InputError(
            f"policy was made for robot '{contract.robot}' and says nothing about joint "
            f"'{unknown[0]}' of '{robot.name}'"
        )
    if abs(contract.control_dt - robot.control_dt) > 1e-9:
        raise InputError(
            f"policy runs at {1 / contract.control_dt:g} Hz, robot '{robot.name}' at "
            f"{1 / robot.control_dt:g} Hz"
        )
    for what, wanted, given in (
        ("joint", robot.joint_names, case.motion.joint_names),
        ("body", robot.body_names, case.motion.body_names),
    ):
        missing = [name for name in wanted if name not in given]
        if missing:
            raise InputError(
                f"motion '{case.name}' lacks {what} '{missing[0]}' of robot '{robot.name}' "
                f"({len(missing)} missing); convert it with `asap motions convert --robot "
                f"{robot.name}`"
            )
    if not robot.has_free_base:
        raise InputError(f"robot '{robot.name}' is bolted down: there is no motion to track")
