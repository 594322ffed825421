"""How far predictions of a corrected simulator may be off: calibrated on runs that were not fitted.

    bands = calibrate(replays, "corrected")
    bands["0.5"]["joint_mae_deg"].width(movement)     # 9 of 10 windows are no worse than this

Split conformal prediction: the spread of fits says little about errors of a model that is wrong
in kind. A window in which the robot moves more is predicted worse, so errors are taken relative to
how far it moved. Coverage is measured by leaving one run out at a time.
Source: Vovk et al. 2005; Lei et al. 2018.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from asap.replay import Replay

LEVEL = 0.9
"""Part of the windows that a band holds."""
_HOLD_LAST = "hold_last"
_FEWEST_RUNS = 2


class Band(NamedTuple):
    """Of one metric at one horizon."""

    factor: float
    rest: float
    """What is added to the movement, in the unit of the metric: errors do not vanish at rest"""
    coverage: float
    """Part of the windows of a run that a band from the other runs held; NaN for a single run"""
    typical: float
    """Width for the median movement"""

    def width(self, movement: float) -> float:
        """Largest error to expect where ``hold_last`` is off by so much."""
        return self.factor * (self.rest + movement)

    def as_dict(self) -> dict[str, float | None]:
        """For JSON."""
        covered = self.coverage if np.isfinite(self.coverage) else None
        return {**self._asdict(), "coverage": covered, "level": LEVEL}


def calibrate(replays: Sequence[Replay], arm: str) -> dict[str, dict[str, Band]]:
    """Bands by horizon and metric.

    Args:
        replays: Over the same horizons, of runs that were not fitted.
        arm: Whose errors.
    """
    found: dict[str, dict[str, Band]] = {}
    for place, horizon in enumerate(replays[0].arms[arm].horizons):
        found[horizon] = {
            metric: _band(*_pooled(replays, arm, metric, place))
            for metric in replays[0].arms[arm].windows
            if all(metric in seen.arms[arm].windows for seen in replays)
        }
    return found


def _pooled(
    replays: Sequence[Replay], arm: str, metric: str, place: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Errors, movements and runs (W,) of all windows that reach a horizon."""
    errors, moves, runs, count = [], [], [], 0
    for seen in replays:
        error = seen.arms[arm].windows[metric][:, place]
        moved = seen.arms[_HOLD_LAST].windows[metric][:, place]
        known = np.isfinite(error) & np.isfinite(moved)
        errors.append(error[known])
        moves.append(moved[known])
        runs.append(count + seen.stretch[known])
        count += int(seen.stretch.max()) + 1
    return np.concatenate(errors), np.concatenate(moves), np.concatenate(runs)


def _band(errors: np.ndarray, moves: np.ndarray, runs: np.ndarray) -> Band:
    rest = float(np.median(moves))
    scores = errors / (rest + moves)
    covered = []
    names = np.unique(runs)
    if len(names) >= _FEWEST_RUNS:
        for run in names:
            own = runs == run
            covered.append((scores[own] <= _quantile(scores[~own])).mean())
    factor = _quantile(scores)
    coverage = float(np.mean(covered)) if covered else float("nan")
    return Band(factor, rest, coverage, factor * 2.0 * rest)


def _quantile(scores: np.ndarray) -> float:
    """The conformal one: a little above the sample's own."""
    rank = min(1.0, np.ceil((len(scores) + 1) * LEVEL) / len(scores))
    return float(np.quantile(scores, rank, method="higher"))
