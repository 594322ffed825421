"""How corrections are compared: replays of runs that were not fitted, over long horizons.

judge = Judge(parts.validation, robot)
judge.shares({"a": corrected})["a"]              # errors, as a share of the model's
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from asap.replay import JOINT_ERROR, Replay, ReplayConfig, Simulate, replay
from asap.robot import Robot
from asap_deploy.log import Log

GLOBAL_ERROR = "global_mpjpe_mm"
NOMINAL, CORRECTED = "nominal", "corrected"
LATE_S = (0.5, 1.0)
"""Horizons that choose: several times as long as the fitted windows [s]."""


class Judge:
    """A part of the log that was not fitted."""

    def __init__(
        self, logs: Sequence[Log], robot: Robot, *, horizons_s: Sequence[float] = LATE_S,
        every_s: float = 0.2, threads: int = 0,
    ) -> None:  # fmt: skip
        """Choose what judges.

        Args:
            logs: Not fitted.
            robot: The model, against which corrections are measured.
            horizons_s: At which errors count [s].
            every_s: Between windows [s].
            threads: Of the simulator; 0: all cores.
        """
        self.logs, self.robot = logs, robot
        self.config = ReplayConfig(horizons_s=tuple(horizons_s), every_s=every_s, threads=threads)
        self._nominal: Replay | None = None

    def seen(
        self, robots: Mapping[str, Robot], simulate: Mapping[str, Simulate] | None = None
    ) -> Replay:
        """Replay with the model beside."""
        arms = {NOMINAL: self.robot, **robots}
        return replay(self.logs, arms, self.config, simulate=simulate)

    def shares(
        self, robots: Mapping[str, Robot], simulate: Mapping[str, Simulate] | None = None
    ) -> dict[str, float]:
        """Errors of robots as a share of the model's, averaged over horizons and kinds."""
        seen = self.seen(robots, simulate)
        return {name: share(seen, name) for name in robots}


def share(seen: Replay, arm: str) -> float:
    """Errors of an arm as a share of the model's, averaged over horizons and kinds."""
    return float(np.mean(list(shares_of(seen, arm).values())))


def shares_of(seen: Replay, arm: str) -> dict[tuple[str, str], float]:
    """Errors of an arm as a share of the model's, by metric and horizon."""
    found = {}
    for horizon, errors in seen.arms[arm].horizons.items():
        for metric in (JOINT_ERROR, GLOBAL_ERROR):
            if metric in errors:
                nominal = seen.arms[NOMINAL].horizons[horizon][metric].value
                found[metric, horizon] = errors[metric].value / max(nominal, 1e-9)
    return found


def verdict(seen: Replay) -> tuple[bool, str]:
    """Whether replays confirm a correction, and a line that says so."""
    if CORRECTED not in seen.arms:
        return False, "no correction: the validation part of the log is replayed best by the model"
    shares = shares_of(seen, CORRECTED)
    worse = [f"{metric} at {horizon} s ({value:.0%} of the model's)"
             for (metric, horizon), value in shares.items() if value > 1.0]  # fmt: skip
    if worse:
        return False, f"no correction: worse than the model in {', '.join(worse)}"
    falls = ", ".join(f"{value:.0%}" for value in shares.values())
    return True, f"errors on data that was not fitted fall to {falls} of the model's"
