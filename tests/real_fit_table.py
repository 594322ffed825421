"""The table of real fits: what a correction from one log is worth on runs that were not fitted.

    python tests/real_fit_table.py [sigmaban agibot_x2 bhl_biped]    # with ../shared/data

Joint error at 0.1, 0.2 and 0.4 s: the makers' model, the corrected one, and hold-last (nothing
moves). Some minutes for each robot.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from test_real_logs_shared import MODELS, ROOT, SHARED, _robot

from asap.fit import Fitted, fit
from asap.fit_methods import FitConfig
from asap.log_import import open_log
from asap.replay import JOINT_ERROR, Replay, ReplayConfig, replay
from asap.robot import Robot
from asap_deploy.log import Log

HORIZONS_S = (0.1, 0.2, 0.4)


@dataclass(frozen=True, kw_only=True)
class RealFit:
    """What was fitted to a robot, and what it is worth on each run that was not."""

    fitted: Fitted
    judged: dict[str, Replay]


def fit_real(name: str, robot: Robot) -> RealFit:
    """Fit some runs of a real robot and judge by the others."""
    columns = ROOT / "real_logs" / "columns" / f"{name}.toml"

    def opened(file: Path) -> Log:
        return open_log(file, columns=columns, robot=robot).log

    train, test = SPLITS[name](opened)
    # Sigmaban is watched by motion capture and moves slowly: longer horizons tell more.
    horizons = (0.25, 0.5, 1.0) if name == "sigmaban" else HORIZONS_S
    config = FitConfig(method="identify", horizons_s=horizons)
    fitted = fit(train, robot, config, heldout=list(test.values()))
    identified = fitted.identified
    correction = fitted.correction if identified is None else identified.correction
    robots = {"nominal": robot, "corrected": correction.robot(robot)}
    how = ReplayConfig(horizons_s=HORIZONS_S)
    judged = {run: replay([log], robots, how) for run, log in test.items()}
    return RealFit(fitted=fitted, judged=judged)


def _sigmaban(opened: Callable[[Path], Log]) -> tuple[list[Log], dict[str, Log]]:
    """Fitted under high servo gains, judged under low ones and in a walk."""
    folder = SHARED / "sigmaban"
    train = ("squat_motion__32", "squat_motion__24", "kick_slow__32", "kick_slow__28")
    test = ("squat_motion__16", "squat_motion__12", "kick_slow__16", "walk__walk_in_place")
    return (
        [opened(folder / f"npz/{run}.npz") for run in train],
        {run: opened(folder / f"npz/{run}.npz") for run in test},
    )


def _agibot_x2(opened: Callable[[Path], Log]) -> tuple[list[Log], dict[str, Log]]:
    """One walk: its beginning is fitted, its end judges."""
    log = opened(SHARED / "agibot_x2" / "x2_dev_0_60s.npz")
    since = log.time_s - log.time_s[0]

    def part(begin_s: float, end_s: float) -> Log:
        first, last = (int(np.searchsorted(since, at)) for at in (begin_s, end_s))
        return log.rows(slice(first, last))

    return [part(4.0, 40.0)], {"42 to 60 s": part(42.0, 60.0)}


def _bhl_biped(opened: Callable[[Path], Log]) -> tuple[list[Log], dict[str, Log]]:
    """All runs but the last."""
    *train, last = sorted((SHARED / "bhl_biped" / "npz").glob("*.npz"))
    return [opened(file) for file in train], {last.stem: opened(last)}


SPLITS = {"sigmaban": _sigmaban, "agibot_x2": _agibot_x2, "bhl_biped": _bhl_biped}
assert SPLITS.keys() == MODELS.keys()


def errors_deg(found: Replay, arm: str) -> list[float]:
    """Mean absolute joint error at every horizon."""
    return [horizon[JOINT_ERROR].value for horizon in found.arms[arm].horizons.values()]


def main() -> None:
    """Print the table."""
    print(
        "| robot | run | model | corrected | nothing moves | verdict |\n|---|---|---|---|---|---|"
    )
    for name in sys.argv[1:] or SPLITS:
        with tempfile.TemporaryDirectory() as folder:
            found = fit_real(name, _robot(name, Path(folder)))
        for run, judged in found.judged.items():
            figures = (" / ".join(f"{value:.2f}" for value in errors_deg(judged, arm))
                       for arm in ("nominal", "corrected", "hold_last"))  # fmt: skip
            verdict = "kept" if found.fitted.accepted else "refused"
            print(f"| {name} | {run} | {' | '.join(figures)} | {verdict} |", flush=True)


if __name__ == "__main__":
    main()
