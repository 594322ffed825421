"""Fit a correction to logs, and keep it only if logs that were not fitted say that it helps.

    fitted = fit(logs, Robot.load("g1"), FitConfig())
    fitted.correction, fitted.verdict, fitted.heldout.arms["corrected"].horizons

The delay comes first: nothing later can represent it. Then groups of parameters are tried, small
ones first; a validation part of the log, replayed over horizons several times as long as the fitted
windows, chooses between them. A third part, which neither saw, says what the correction is worth.
Runs are split by run; a log with few runs is cut in time, with a pause between the parts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from asap.correction import Correction
from asap.identify import Shooting, ShootingConfig, Solution
from asap.log_windows import Windows, stretches_of
from asap.parameters import MAX_DELAY_S, Parameters
from asap.replay import JOINT_ERROR, Replay, ReplayConfig, replay
from asap.robot import Robot
from asap_deploy.errors import InputError
from asap_deploy.log import Log

MOTORS = ("stiffness", "damping", "frictionloss")
CANDIDATES = (
    MOTORS,
    (*MOTORS, "armature"),
    (*MOTORS, "inertial"),
    (*MOTORS, "armature", "inertial", "floor"),
)
"""Groups that are tried, the plainest first; the delay joins where there is one."""

GLOBAL_ERROR = "global_mpjpe_mm"
_LATE = ReplayConfig().horizons_s[1:]
"""Horizons that choose: several times as long as the fitted windows [s]."""
_WORTH = 0.98
"""A richer group must beat a plainer one by this factor on the validation part."""
_NOTICED = 0.97
"""A correction must leave less than this of the error of the model, or it is none."""
_PAUSE_S = 1.0

Progress = Callable[[float], None]


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How a correction is fitted."""

    window_s: float = 0.2
    """Length of the fitted windows [s]."""
    seconds: float = 30.0
    """At most so much of the log is fitted [s]; more has not helped."""
    delays_ms: tuple[float, ...] = (0.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0)
    """Delays that are tried first [ms]."""
    shooting: ShootingConfig = field(default_factory=ShootingConfig)
    """Of the Gauss-Newton fits."""
    seed: int = 0
    """Of the resampling behind intervals."""

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        if self.window_s <= 0.0 or self.seconds <= 0.0 or not self.delays_ms:
            raise InputError("fit needs a window, seconds and at least one delay to try")
        if min(self.delays_ms) < 0.0 or max(self.delays_ms) > 1000.0 * MAX_DELAY_S:
            raise InputError(f"delays must be between 0 and {1000 * MAX_DELAY_S:g} ms")


class Parts(NamedTuple):
    """A log cut in three."""

    train: list[Log]
    validation: list[Log]
    test: list[Log]


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


def split(logs: Sequence[Log], *, judged_apart: bool = False) -> Parts:
    """Cut logs into parts of about 60, 20 and 20 %, by run where there are three or more.

    Runs of different logs take turns, so that each part has something of each log.

    Args:
        logs: Of one robot.
        judged_apart: Other logs judge: no part for it, 80 and 20 %.

    Raises:
        InputError: If there is too little.
    """
    pieces = [log.segments() for log in logs]
    longest = max(map(len, pieces), default=0)
    runs = [piece[i] for i in range(longest) for piece in pieces if i < len(piece)]
    if not runs:
        raise InputError("there is no stretch of a log to fit")
    if len(runs) >= 3:
        share = max(1, len(runs) // 5)
        if judged_apart:
            return Parts(runs[:-share], runs[-share:], [])
        return Parts(runs[: -2 * share], runs[-2 * share : -share], runs[-share:])
    parts = Parts([], [], [])
    for run in runs:
        pause = round(_PAUSE_S * run.rate_hz)
        edges = np.round(np.array([0.0, 0.6, 0.8, 1.0]) * len(run.time_s)).astype(int)
        for part, begin, end in zip(parts, edges[:-1], edges[1:], strict=True):
            first = int(begin) + (pause if begin else 0)
            if end - first >= 2:
                part.append(run.rows(slice(first, int(end))))
    if not all(parts):
        raise InputError(
            f"the log is too short to be fitted and judged: {sum(r.duration_s for r in runs):.1f} "
            "s; record 20 s or more"
        )
    return parts


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
    fitter = _Fitter(parts, robot, config, progress)
    best = fitter.best()
    judged = {"nominal": robot}
    if best is not None:
        judged["corrected"] = best.correction.robot(robot)
    test = replay(
        parts.test, judged, ReplayConfig(seed=config.seed, threads=config.shooting.threads)
    )
    accepted, verdict = _judged(test)
    correction = best.correction if best is not None and accepted else fitter.nothing()
    return Fitted(
        correction=correction,
        accepted=accepted,
        verdict=verdict,
        parameters=best.described() if best is not None else [],
        heldout=test,
        tried=fitter.tried,
    )


class _Candidate(NamedTuple):
    """A group that was fitted."""

    kinds: tuple[str, ...]
    parameters: Parameters
    solution: Solution
    correction: Correction

    def described(self) -> list[dict[str, Any]]:
        """For a table and for JSON."""
        rows = []
        triples = zip(self.parameters.items, self.solution.z, self.solution.spread, strict=True)
        for (item, z, spread), told in zip(triples, self.solution.told, strict=True):
            low, high = sorted((item.physical(z - 2.0 * spread), item.physical(z + 2.0 * spread)))
            source = "log" if told > 0.9 else "log and model" if told > 0.5 else "model"
            rows.append({"name": item.name, "value": item.physical(z), "low": low, "high": high,
                         "determined_by": "nothing" if told == 0.0 else source})  # fmt: skip
        return rows


class _Fitter:
    """The search over groups."""

    def __init__(self, parts: Parts, robot: Robot, config: FitConfig, progress: Progress) -> None:
        self.parts, self.robot, self.config, self._progress = parts, robot, config, progress
        stretches = [s for i, log in enumerate(parts.train) for s in stretches_of(log, i, robot)]
        self.base_known = all(s.track.base_known for s in stretches)
        self.windows = Windows(stretches, horizons_s=(config.window_s,), every_s=config.window_s,
                               late_s=MAX_DELAY_S)  # fmt: skip
        self.windows.keep(round(config.seconds / config.window_s))
        self.own = stretches[0].track.robot
        self.tried: list[dict[str, Any]] = []

    def best(self) -> _Candidate | None:
        """The group that the validation part likes best; None where it likes the model."""
        late = self._delay()
        found: list[_Candidate] = []
        for number, kinds in enumerate(CANDIDATES):
            start = found[0] if found else None
            found.append(self._fitted((*(("delay",) if late else ()), *kinds), late, start))
            self._progress((number + 1) / (len(CANDIDATES) + 1))
        arms = {"nominal": self.robot}
        arms |= {str(i): one.correction.robot(self.robot) for i, one in enumerate(found)}
        config = ReplayConfig(horizons_s=_LATE, seed=self.config.seed,
                              threads=self.config.shooting.threads)  # fmt: skip
        seen = replay(self.parts.validation, arms, config)
        shares = [_share(seen, str(i)) for i in range(len(found))]
        self.tried = [{"groups": list(one.kinds), "validation_share": share}
                      for one, share in zip(found, shares, strict=True)]  # fmt: skip
        chosen = 0
        for i, share in enumerate(shares):
            if share < _WORTH * shares[chosen]:
                chosen = i
        return found[chosen] if shares[chosen] < _NOTICED else None

    def nothing(self) -> Correction:
        """No correction."""
        name = self.robot.name.partition("@")[0]
        return Correction(robot_name=name, joint_names=self.robot.joint_names, parameters={})

    def _delay(self) -> float:
        """The delay that fits best with everything else as the model says [s]."""
        parameters = Parameters(self.own, kinds=["delay"])
        shooting = self._shooting(parameters)
        delays = np.array(self.config.delays_ms) / 1000.0
        units = (delays - self.own.delay_s.max()) / parameters.items[0].scale
        costs = np.square(shooting.residual(units[None])[:-1]).sum(axis=0)
        return float(delays[int(np.argmin(costs))])

    def _fitted(
        self, kinds: tuple[str, ...], delay_s: float, start: _Candidate | None
    ) -> _Candidate:
        parameters = Parameters(self.own, kinds=kinds)
        z = np.zeros(len(parameters))
        for place, item in enumerate(parameters.items):
            if item.quantity == "delay_s":
                z[place] = (delay_s - float(self.own.delay_s.max())) / item.scale
            elif start is not None:
                known = {p.name: value for p, value in
                         zip(start.parameters.items, start.solution.z, strict=True)}  # fmt: skip
                z[place] = known.get(item.name, 0.0)
        solution = self._shooting(parameters).solve(z)
        values = parameters.values(solution.z[None])
        correction = Correction(
            robot_name=self.robot.name.partition("@")[0],
            joint_names=self.robot.joint_names,
            parameters={name: tuple(float(x) for x in row[0]) for name, row in values.items()},
        )
        return _Candidate(kinds, parameters, solution, correction)

    def _shooting(self, parameters: Parameters) -> Shooting:
        return Shooting(self.windows, self.own, parameters, self.config.shooting,
                        base_known=self.base_known)  # fmt: skip


def _share(seen: Replay, arm: str) -> float:
    """Errors of an arm as a share of the model's, averaged over horizons and kinds."""
    shares = []
    for horizon, errors in seen.arms[arm].horizons.items():
        for metric in (JOINT_ERROR, GLOBAL_ERROR):
            if metric in errors:
                nominal = seen.arms["nominal"].horizons[horizon][metric].value
                shares.append(errors[metric].value / max(nominal, 1e-9))
    return float(np.mean(shares))


def _judged(test: Replay) -> tuple[bool, str]:
    """Whether the test part confirms the correction, and a line that says so."""
    if "corrected" not in test.arms:
        return False, "no correction: the validation part of the log is replayed best by the model"
    worse, shares = [], []
    for horizon, errors in test.arms["corrected"].horizons.items():
        for metric in (JOINT_ERROR, GLOBAL_ERROR):
            if metric not in errors:
                continue
            nominal = test.arms["nominal"].horizons[horizon][metric].value
            share = errors[metric].value / max(nominal, 1e-9)
            shares.append(f"{share:.0%}")
            if share > 1.0:
                worse.append(f"{metric} at {horizon} s ({share:.0%} of the model's)")
    if worse:
        return False, f"no correction: worse than the model in {', '.join(worse)}"
    return True, f"errors on data that was not fitted fall to {', '.join(shares)} of the model's"
