"""Fit a correction to logs, and keep it only if logs that were not fitted say that it helps.

    fitted = fit(logs, Robot.load("g1"), FitConfig())
    fitted.correction, fitted.verdict, fitted.heldout.arms["corrected"].horizons

One part of the log is fitted, a second chooses, a third, which neither saw, says what the
correction is worth. Runs are split by run; a log with few runs is cut in time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from asap.correction import Correction
from asap.judge import CORRECTED, NOMINAL, Judge, verdict
from asap.log_split import split
from asap.parameter_search import IdentifyConfig, search
from asap.replay import Replay, ReplayConfig, replay
from asap.robot import Robot
from asap_deploy.errors import InputError
from asap_deploy.log import Log

_NOTICED = 0.97
"""A correction must leave less than this of the error of the model, or it is none."""

Progress = Callable[[float], None]


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How a correction is fitted."""

    identify: IdentifyConfig = field(default_factory=IdentifyConfig)
    """Of physical parameters."""
    horizons_s: tuple[float, ...] = ReplayConfig().horizons_s
    """At which the correction is judged [s]; the longer ones also choose."""
    seed: int = 0
    """Of the resampling behind intervals."""
    threads: int = 0
    """Of the simulator; 0: all cores."""


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What came out."""

    correction: Correction
    """Empty where none is better than the model."""
    accepted: bool
    verdict: str
    """One line for a person."""
    parameters: list[dict[str, Any]]
    """Name, value, interval, how much the log tells"""
    heldout: Replay
    """Arms ``nominal`` and, where something was fitted, ``corrected``, on the test part"""
    tried: list[dict[str, Any]]
    """Groups with their errors on the validation part, relative to the model's"""


def fit(
    logs: Sequence[Log],
    robot: Robot,
    config: FitConfig,
    *,
    heldout: Sequence[Log] = (),
    progress: Progress = lambda fraction: None,
) -> Fitted:
    """Identify parameters, choose between groups, judge.

    Args:
        logs: Of one robot.
        robot: The model.
        config: How.
        heldout: Logs that judge; by default the last part of ``logs``.
        progress: Told the finished fraction.

    Raises:
        InputError: If the logs cannot be replayed or are too short.
    """
    parts = split(logs, judged_apart=bool(heldout))
    if heldout:
        parts = parts._replace(test=list(heldout))
    late = config.horizons_s[1:] or config.horizons_s
    judge = Judge(parts.validation, robot, horizons_s=late, threads=config.threads)
    found = search(parts.train, robot, config.identify, judge, threads=config.threads,
                   progress=lambda part: progress(0.95 * part))  # fmt: skip
    judged = {NOMINAL: robot}
    if min(one["validation_share"] for one in found.tried) < _NOTICED:
        judged[CORRECTED] = found.correction.robot(robot)
    test = replay(parts.test, judged,
                  ReplayConfig(horizons_s=config.horizons_s, seed=config.seed,
                               threads=config.threads))  # fmt: skip
    accepted, words = verdict(test)
    nothing = Correction(robot_name=robot.name.partition("@")[0], joint_names=robot.joint_names,
                         parameters={})  # fmt: skip
    return Fitted(
        correction=found.correction if accepted else nothing,
        accepted=accepted,
        verdict=words,
        parameters=found.rows(),
        heldout=test,
        tried=found.tried,
    )


def checked(robot: Robot) -> Robot:
    """A robot that a correction can be fitted to.

    Raises:
        InputError: If it is a twin.
    """
    if "@" in robot.name:
        raise InputError(f"'{robot.name}' is a twin: a correction is fitted to the robot itself")
    return robot
