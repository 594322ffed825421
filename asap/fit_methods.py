"""The methods of ``asap fit``: what each proposes, before anybody judges it.

    candidate = propose(parts, robot, FitConfig(method="stacked"), judge)
    candidate.correction                             # empty where validation does not need one

identify and delta are ours and fast; delta-ppo, delta-dynamics and grid are the paper's method and
its two baselines, to compare with. stacked identifies first, and learns an offset for what is left.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from asap.correction import Correction
from asap.delta_fit import DeltaConfig, DeltaFitted, fit_delta
from asap.delta_ppo import DeltaPpoConfig, fit_delta_ppo
from asap.dynamics_residual import DynamicsConfig, fit_dynamics
from asap.grid import GridConfig, fit_grid
from asap.judge import Judge
from asap.log_split import Parts
from asap.log_windows import Windows, stretches_of
from asap.parameter_search import Identified, IdentifyConfig, search
from asap.replay import ReplayConfig
from asap.robot import Robot
from asap_deploy.errors import InputError
from asap_deploy.log import Log

Method = Literal["stacked", "identify", "delta", "delta-ppo", "delta-dynamics", "grid"]

WITH_PHYSICS: tuple[Method, ...] = ("identify", "stacked")
"""Methods that begin with the same identification."""

_NOTICED = 0.97
"""A correction must leave less than this of the error of the model, or it is none."""

Progress = Callable[[float], None]


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How a correction is fitted."""

    method: Method = "stacked"
    """Which."""
    identify: IdentifyConfig = field(default_factory=IdentifyConfig)
    """Of physical parameters."""
    delta: DeltaConfig = field(default_factory=DeltaConfig)
    """Of the offset of targets, as a linear law."""
    ppo: DeltaPpoConfig = field(default_factory=DeltaPpoConfig)
    """Of the offset of targets, learned by trial."""
    dynamics: DynamicsConfig = field(default_factory=DynamicsConfig)
    """Of the residual of states."""
    grid: GridConfig = field(default_factory=GridConfig)
    """Of the paper's grid."""
    horizons_s: tuple[float, ...] = ReplayConfig().horizons_s
    """At which the correction is judged [s]; the longer ones also choose."""
    seed: int = 0
    """Of networks, and of the resampling behind intervals."""
    threads: int = 0
    """Of the simulator; 0: all cores."""


class Candidate(NamedTuple):
    """What a method proposes."""

    correction: Correction
    identified: Identified | None
    abstained: list[str]
    """Joints that get no offset"""
    alarms: tuple[str, ...] = ()
    """What was odd while it was learned, a line each"""


def nothing(robot: Robot) -> Correction:
    """No correction."""
    name = robot.name.partition("@")[0]
    return Correction(robot_name=name, joint_names=robot.joint_names, parameters={})


def propose(
    parts: Parts,
    robot: Robot,
    config: FitConfig,
    judge: Judge,
    progress: Progress = lambda fraction: None,
    stopped: Callable[[], bool] = lambda: False,
    identified: Identified | None = None,
) -> Candidate:
    """What the method finds; empty where the validation part does not need it.

    Args:
        parts: Of the log; the test part is not looked at.
        robot: The model.
        config: Which method, and how.
        judge: The validation part.
        progress: Told the finished fraction.
        stopped: Asked by methods that learn by trial; true ends them with the best so far.
        identified: What ``identified_in`` found in these parts; else it is looked for.
    """
    if config.method in WITH_PHYSICS:
        rest = 0.3 if config.method == "stacked" else 0.0
        if identified is None:
            identified = identified_in(parts, robot, config, judge,
                                       lambda part: progress((1.0 - rest) * part))  # fmt: skip
        first = _identified(identified, robot)
        if config.method == "identify":
            return first
        return _stacked(first, parts, robot, config, judge,
                        lambda part: progress(1.0 - rest * (1.0 - part)))  # fmt: skip
    if config.method == "grid":
        grid = fit_grid(parts.train, robot, config.grid, judge, threads=config.threads,
                        progress=progress)  # fmt: skip
        helps = grid.share < _NOTICED
        return Candidate(grid.correction if helps else nothing(robot), None, [])
    if config.method in ("delta-dynamics", "delta-ppo"):
        _check_gains(parts.train, robot)
    if config.method == "delta-dynamics":
        learned = fit_dynamics(parts.train, robot, config.dynamics, judge, seed=config.seed,
                               threads=config.threads, progress=progress)  # fmt: skip
        return Candidate(dataclasses.replace(nothing(robot), learned=learned), None, [])
    if config.method == "delta":
        delta = fit_delta(parts.train, robot, config.delta, judge, threads=config.threads,
                          progress=progress)  # fmt: skip
    else:
        by_trial = dataclasses.replace(config.ppo, joints=config.delta.joints or config.ppo.joints)
        delta = fit_delta_ppo(
            parts.train, robot, by_trial, judge, seed=config.seed, threads=config.threads,
            progress=progress, stopped=stopped,
        )  # fmt: skip
    return _with_offset(Candidate(nothing(robot), None, []), delta, robot)


def _check_gains(logs: Sequence[Log], robot: Robot) -> None:
    """Methods that step simulations themselves know one set of gains."""
    stretches = [s for i, log in enumerate(logs) for s in stretches_of(log, i, robot)]
    if Windows(stretches, horizons_s=(0.1,), every_s=1.0, late_s=0.0).gain_ratio is not None:
        raise InputError("this method needs logs under one set of gains: fit them apart, or use "
                         "--method identify")  # fmt: skip


def identified_in(
    parts: Parts,
    robot: Robot,
    config: FitConfig,
    judge: Judge,
    progress: Progress = lambda fraction: None,
) -> Identified:
    """What the methods ``WITH_PHYSICS`` begin with.

    Args:
        parts: Of the log; the test part is not looked at.
        robot: The model.
        config: How.
        judge: The validation part.
        progress: Told the finished fraction.
    """
    return search(parts.train, robot, config.identify, judge, threads=config.threads,
                  progress=progress)  # fmt: skip


def _identified(found: Identified, robot: Robot) -> Candidate:
    if found.share >= _NOTICED:
        return Candidate(nothing(robot), found, [])
    correction = dataclasses.replace(found.correction, variants=found.variants())
    return Candidate(correction, found, [])


def _stacked(
    first: Candidate, parts: Parts, robot: Robot, config: FitConfig, judge: Judge,
    progress: Progress,
) -> Candidate:  # fmt: skip
    """Physics first; a residual must not learn what one number explains."""
    base = robot if first.correction.empty else first.correction.robot(robot)
    rest = Judge(parts.validation, base, horizons_s=judge.config.horizons_s,
                 threads=config.threads)  # fmt: skip
    delta = fit_delta(parts.train, base, config.delta, rest, threads=config.threads,
                      progress=progress)  # fmt: skip
    return _with_offset(first, delta, robot)


def _with_offset(candidate: Candidate, delta: DeltaFitted, robot: Robot) -> Candidate:
    """An offset on top, if other runs notice it."""
    candidate = candidate._replace(alarms=delta.alarms)
    if delta.learned is None or delta.share >= _NOTICED:
        return candidate._replace(abstained=list(robot.joint_names))
    correction = dataclasses.replace(candidate.correction, learned=delta.learned)
    return candidate._replace(correction=correction, abstained=delta.abstained)
