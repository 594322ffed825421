"""Fit a correction to logs, and keep it only if logs that were not fitted say that it helps.

    fitted = fit(logs, Robot.load("g1"), FitConfig(method="stacked"))
    fitted.correction, fitted.verdict, fitted.heldout.arms["corrected"].horizons

One part of the log is fitted, a second chooses, a third, which neither saw, says what the
correction is worth. Runs are split by run; a log with few runs is cut in time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from asap.bands import Band, calibrate
from asap.correction import Correction
from asap.exploits import co_controllers, memorised
from asap.fit_methods import Candidate, FitConfig, identified_in, nothing, propose
from asap.judge import CORRECTED, NOMINAL, Judge, shares_of, verdict
from asap.log_split import Parts, split
from asap.misfit import suspects
from asap.parameter_search import Identified
from asap.replay import Replay, ReplayConfig, replay
from asap.robot import Robot
from asap_deploy.errors import InputError
from asap_deploy.log import Log

_CURVE_S = (5.0, 10.0, 20.0, 40.0)
_STILL_S, _STILL_SPEED = 5.0, 0.05
"""Logs shorter than this [s], or in which no joint is faster [rad/s], tell nothing."""

Progress = Callable[[float], None]


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
    abstained: list[str]
    """Joints that get no offset; all, where nothing is corrected"""
    bands: dict[str, dict[str, Band]]
    """How far predictions may be off, by horizon and metric"""
    effective: list[str]
    """Groups of joints whose parameters mend the log and are no physics"""
    curve: dict[str, float]
    """Share of the model's error on the validation part, by seconds of log"""
    alarms: list[str]
    """What a person should look at, one line each"""
    identified: Identified | None
    """What advice on the next motion needs"""
    trained: float
    """Share of the model's error that is left on the part that was fitted; NaN: nothing was"""


def fit(
    logs: Sequence[Log],
    robot: Robot,
    config: FitConfig,
    *,
    heldout: Sequence[Log] = (),
    progress: Progress = lambda fraction: None,
    stopped: Callable[[], bool] = lambda: False,
    identified: Identified | None = None,
) -> Fitted:
    """Fit, choose, judge.

    Args:
        logs: Of one robot.
        robot: The model.
        config: How.
        heldout: Logs that judge; by default the last part of ``logs``.
        progress: Told the finished fraction.
        stopped: Asked by methods that learn by trial; true ends them with the best so far.
        identified: What ``identified_first`` found in the same logs, robot and configuration: not
            looked for again, with the same result to the bit. Other methods have no use for it.

    Raises:
        InputError: If the logs cannot be replayed, are too short or hardly move.
    """
    parts, judge = _prepared(logs, robot, config, heldout)
    found = propose(parts, robot, config, judge, lambda part: progress(0.9 * part), stopped,
                    identified)  # fmt: skip
    judged = {NOMINAL: robot}
    if not found.correction.empty:
        judged[CORRECTED] = found.correction.robot(robot)
    replays = [
        replay(part, judged, ReplayConfig(horizons_s=config.horizons_s, seed=config.seed,
                                          threads=config.threads))
        for part in (parts.test, parts.validation)
    ]  # fmt: skip
    progress(0.95)
    accepted, words = verdict(replays[0])
    if not accepted:
        return _told(found, robot, replays, words, judge, parts)
    return _told(found, robot, replays, words, judge, parts, accepted=True)


def identified_first(
    logs: Sequence[Log],
    robot: Robot,
    config: FitConfig,
    *,
    heldout: Sequence[Log] = (),
    progress: Progress = lambda fraction: None,
) -> Identified:
    """What ``identify`` and ``stacked`` both begin with, for callers that want both.

    Args:
        logs: Of one robot.
        robot: The model.
        config: How; its method does not matter.
        heldout: Logs that judge; only whether there are any matters.
        progress: Told the finished fraction.

    Raises:
        InputError: If the logs cannot be replayed, are too short or hardly move.
    """
    parts, judge = _prepared(logs, robot, config, heldout)
    return identified_in(parts, robot, config, judge, progress)


def _prepared(
    logs: Sequence[Log], robot: Robot, config: FitConfig, heldout: Sequence[Log]
) -> tuple[Parts, Judge]:
    """The parts of logs that tell something, and who chooses."""
    _check_excitation(logs)
    parts = split(logs, judged_apart=bool(heldout))
    if heldout:
        parts = parts._replace(test=list(heldout))
    late = config.horizons_s[1:] or config.horizons_s
    return parts, Judge(parts.validation, robot, horizons_s=late, threads=config.threads)


def _told(
    found: Candidate, robot: Robot, replays: Sequence[Replay], words: str, judge: Judge,
    parts: Parts, *, accepted: bool = False,
) -> Fitted:  # fmt: skip
    """Everything that there is to say."""
    identified = found.identified
    curve: dict[str, float] = {}
    effective: list[str] = []
    if identified is not None:
        longest = len(identified.windows.start) * identified.windows.steps * identified.windows.dt
        arms = {f"{s:g}": identified.with_less(s).robot(robot) for s in _CURVE_S if s < longest}
        curve = {**judge.shares(arms), f"{longest:.0f}": identified.share} if arms else {}
        effective = suspects(identified.linear, identified.z, identified.robot, identified.windows)
    trained = _trained(found.correction, robot, judge, parts)
    return Fitted(
        correction=found.correction if accepted else nothing(robot),
        accepted=accepted,
        verdict=words,
        parameters=[] if identified is None else identified.rows(),
        heldout=replays[0],
        tried=[] if identified is None else identified.tried,
        abstained=found.abstained if accepted else list(robot.joint_names),
        bands=calibrate(replays, CORRECTED if accepted else NOMINAL),
        effective=effective,
        curve=curve,
        alarms=[
            *_on_bounds(identified),
            *found.alarms,
            *co_controllers(found.correction, robot, parts.train),
            *_on_its_log(trained, replays[0], judge),
        ],
        identified=identified,
        trained=trained,
    )


def checked(robot: Robot) -> Robot:
    """A robot that a correction can be fitted to.

    Raises:
        InputError: If it is a twin.
    """
    if "@" in robot.name:
        raise InputError(f"'{robot.name}' is a twin: a correction is fitted to the robot itself")
    return robot


def _check_excitation(logs: Sequence[Log]) -> None:
    """Refuse logs that tell nothing about motors."""
    seconds = sum(log.duration_s for log in logs)
    if seconds < _STILL_S:
        raise InputError(f"{seconds:.1f} s of log are too little to fit anything; record 20 s")
    speeds = [np.gradient(log.joint_pos, log.time_s, axis=0).std(axis=0) for log in logs]
    fastest = float(np.max(speeds))
    if fastest < _STILL_SPEED:
        raise InputError(
            f"too little excitation: no joint of these logs is faster than {fastest:.3f} rad/s "
            "on average; record a motion that bends the knees and swings the arms, as a squat"
        )


def _on_bounds(identified: Identified | None) -> list[str]:
    """Parameters that would go further if they were let: the model lacks something else."""
    if identified is None:
        return []
    low, high = identified.parameters.bounds
    at_zero = (low == 0.0) & (identified.z <= 0.0)  # an effect that is not there
    stuck = identified.active & ((identified.z <= low) | (identified.z >= high)) & ~at_zero
    names = [identified.parameters.items[place].name for place in np.flatnonzero(stuck)]
    if not names:
        return []
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return [f"at the end of what is plausible: {', '.join(names[:3])}{more}; do not read them as "
            "physics"]  # fmt: skip


def _trained(correction: Correction, robot: Robot, judge: Judge, parts: Parts) -> float:
    """What is left of the model's error on the part that was fitted, as other parts are judged."""
    if correction.empty:
        return float("nan")
    own = Judge(parts.train, robot, horizons_s=judge.config.horizons_s,
                threads=judge.config.threads)  # fmt: skip
    return own.shares({CORRECTED: correction.robot(robot)})[CORRECTED]


def _on_its_log(trained: float, heldout: Replay, judge: Judge) -> list[str]:
    """The alarm of a correction that gains on its own log alone."""
    if CORRECTED not in heldout.arms:
        return []
    names = {f"{horizon:g}" for horizon in judge.config.horizons_s}
    shares = [value for (_, horizon), value in shares_of(heldout, CORRECTED).items()
              if f"{float(horizon):g}" in names]  # fmt: skip
    return memorised(trained=trained, heldout=float(np.mean(shares)))
