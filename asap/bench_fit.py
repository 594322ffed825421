"""The hidden-truth benchmark: fits on logs of a twin, scored by somebody who knows the twin.

    cases = hidden_truth(Setup(twins=("worn", "bullet")), Path("runs/gap"))
    cases[0].closed["joint_mae_deg"]["1.0"]           # share of the gap that could be closed

The fit sees logs and the nominal robot, never the twin's file. The scorer replays motions that were
not fitted through the nominal robot, the corrected one and the twin itself, started from the noisy
log: what even the truth gets wrong is the floor, and only what is above it can be closed. Every
case is a stage in a folder: hours of them can be stopped, and go on where they were.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from asap import __version__, results
from asap.evaluate import Case
from asap.fit import fit
from asap.fit_methods import FitConfig, Method
from asap.inputs import case_of, open_motion, open_policy
from asap.judge import CORRECTED, GLOBAL_ERROR, NOMINAL
from asap.published import EXPECTED, case_of_published
from asap.record import RecordConfig, record
from asap.replay import JOINT_ERROR, Replay, ReplayConfig, replay
from asap.robot import Robot
from asap.stages import Stages
from asap_deploy.errors import InputError
from asap_deploy.log import Log

TRUTH = "truth"
_START_NOISE = 0.3


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Which robots play the real one, and what is tried on their logs."""

    robot: str = "g1"
    """The model."""
    twins: tuple[str, ...] = ("isaac", "genesis", "worn", "strange")
    """Its twins."""
    methods: tuple[Method, ...] = ("identify", "delta", "stacked")
    """Of ``asap fit``."""
    train: tuple[str, ...] = ("squat", "wave", "kick")
    """Motions whose logs are fitted."""
    test: tuple[str, ...] = ("walk",)
    """Motions that judge."""
    episodes: int = 2
    """Of each motion."""
    seeds: tuple[int, ...] = (0,)
    """Of starts and sensors."""
    data: Path | None = None
    """Folder of the original's policies and motions; by default those that ship."""
    threads: int = 0
    """Of the simulator; 0: all cores."""


class Scored(NamedTuple):
    """One fit, judged against the truth."""

    twin: str
    method: str
    seed: int
    accepted: bool
    closed: dict[str, dict[str, float]]
    """Share of the closable gap, by metric and horizon; 0 where nothing was corrected"""
    errors: dict[str, dict[str, dict[str, float]]]
    """By arm, metric and horizon"""
    worse: list[str]
    """Where the corrected robot is worse than the nominal one"""
    wall_s: float
    log_s: float
    """Of log that was given [s]"""

    verdict: str = ""
    """What the fit said"""

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return self._asdict()


class Logs(NamedTuple):
    """Of one twin and one seed."""

    train: list[Log]
    test: list[Log]


def hidden_truth(
    setup: Setup, folder: Path, progress: Callable[[float], None] = lambda fraction: None
) -> list[Scored]:
    """Every twin, seed and method; what is done in ``folder`` is not done again.

    Args:
        setup: What is tried.
        folder: Gets a stage for every case.
        progress: Told the finished fraction.

    Raises:
        InputError: If a policy or a motion is missing.
    """
    nominal = Robot.load(setup.robot)
    found: list[Scored] = []
    stages = Stages(folder)
    total = len(setup.twins) * len(setup.seeds) * len(setup.methods)
    for name in setup.twins:
        twin = Robot.load(f"{setup.robot}@{name}")
        for seed in setup.seeds:
            logs = functools.cache(functools.partial(_logs, setup, nominal, twin, seed))
            for method in setup.methods:

                def make(
                    place: Path, name: str = name, twin: Robot = twin, seed: int = seed,
                    method: Method = method, logs: Callable[[], Logs] = logs,
                ) -> dict[str, object]:  # fmt: skip
                    return _scored(setup, name, method, seed, nominal, twin, logs()).as_dict()

                case = f"{name}/seed{seed}/{method}"
                found.append(Scored(**stages.do(case, _depends(setup, case, nominal), make)))
                progress(len(found) / total)
    return found


def _depends(setup: Setup, case: str, nominal: Robot) -> dict[str, object]:
    """What a case depends on: not on the other cases, nor on how many cores there are."""
    return {
        "case": case,
        "toolkit": __version__,
        "robot": [setup.robot, results.file_sha256(nominal.folder)],
        "motions": [setup.train, setup.test, setup.episodes],
        "data": None if setup.data is None else str(setup.data),
    }


def _logs(setup: Setup, nominal: Robot, twin: Robot, seed: int) -> Logs:
    """Of motions that are fitted and of those that judge, once for all methods."""
    return Logs(*(
        [_log(setup, motion, nominal, twin, seed + 100 * number)
         for number, motion in enumerate(motions)]
        for motions in (setup.train, setup.test)
    ))  # fmt: skip


def _scored(
    setup: Setup, name: str, method: Method, seed: int, nominal: Robot, twin: Robot, logs: Logs
) -> Scored:
    """One fit by somebody who knows the logs, judged by somebody who knows the truth."""
    train, test = logs
    config = FitConfig(method=method, seed=seed, threads=setup.threads)
    started = time.perf_counter()
    fitted = fit(train, nominal, config, heldout=test)
    wall_s = time.perf_counter() - started
    arms = {NOMINAL: nominal, TRUTH: twin}
    if fitted.accepted:
        arms[CORRECTED] = fitted.correction.robot(nominal)
    seen = replay(test, arms, ReplayConfig(seed=seed, threads=setup.threads))
    closed, worse = _closed(seen, fitted.accepted)
    errors = {arm: {metric: {h: e[metric].value for h, e in seen.arms[arm].horizons.items()}
                    for metric in (JOINT_ERROR, GLOBAL_ERROR)} for arm in arms}  # fmt: skip
    return Scored(name, method, seed, fitted.accepted, closed, errors, worse, wall_s,
                  sum(log.duration_s for log in train), fitted.verdict)  # fmt: skip


def _closed(seen: Replay, accepted: bool) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Shares of the gap that can be closed, and where it became wider."""
    closed: dict[str, dict[str, float]] = {JOINT_ERROR: {}, GLOBAL_ERROR: {}}
    worse = []
    for metric, shares in closed.items():
        for horizon in seen.arms[NOMINAL].horizons:
            before, floor, after = (
                seen.arms[arm].horizons[horizon][metric].value
                for arm in (NOMINAL, TRUTH, CORRECTED if accepted else NOMINAL)
            )
            shares[horizon] = (before - after) / max(before - floor, 1e-9)
            if after > before:
                worse.append(f"{metric} at {horizon} s")
    return closed, worse


def _log(setup: Setup, motion: str, nominal: Robot, twin: Robot, seed: int) -> Log:
    """A policy plays a motion on the twin."""
    config = RecordConfig(episodes=setup.episodes, start_noise=_START_NOISE, seed=seed,
                          threads=setup.threads)  # fmt: skip
    return record(_case(setup, motion, nominal), twin, config)


def _case(setup: Setup, motion: str, nominal: Robot) -> Case:
    if setup.data is not None:
        if motion not in EXPECTED:
            raise InputError(f"no published policy '{motion}'; there are {', '.join(EXPECTED)}")
        return case_of_published(setup.data, motion, nominal, ground=True)
    clip = open_motion(Path(motion), nominal, ground=True)
    return case_of(open_policy(Path(motion), nominal, clip, None))
