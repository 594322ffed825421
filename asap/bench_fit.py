"""The hidden-truth benchmark: fits on logs of a twin, scored by somebody who knows the twin.

    cases = hidden_truth(Setup(twins=("worn", "bullet")), Path("runs/gap"))
    cases[0].closed["joint_mae_deg"]["1.0"]           # share of the gap that could be closed

The fit sees logs and the nominal robot, never the twin's file. The scorer replays motions that were
not fitted through the nominal robot, the corrected one and the twin itself, started from the noisy
log: what even the truth gets wrong is the floor, and only what is above it can be closed. Every
case is a stage in a folder: hours of them can be stopped, and go on where they were.

Two more twins are the model itself, ``nominal`` with exact sensors and ``nominal_noisy`` with
typical ones: there is nothing to close, and the right answer is no correction.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from asap import __version__, results
from asap.evaluate import Case
from asap.fit import fit, identified_first
from asap.fit_methods import WITH_PHYSICS, FitConfig, Method
from asap.inputs import case_of, open_motion, open_policy
from asap.judge import CORRECTED, GLOBAL_ERROR, NOMINAL
from asap.parameter_claims import claims, in_family
from asap.parameter_search import Identified
from asap.published import EXPECTED, case_of_published
from asap.record import RecordConfig, record
from asap.replay import JOINT_ERROR, Replay, ReplayConfig, replay
from asap.robot import Robot
from asap.stages import Stages
from asap_deploy.errors import InputError
from asap_deploy.log import Log

TRUTH = "truth"
NO_GAP = {"nominal": None, "nominal_noisy": "worn"}
"""Twins that are the model itself, and the twin whose sensors they have."""
_START_NOISE = 0.3
_NO_SHARE = 1e-6
"""A gap below this part of the error cannot be closed: shares of it are noise."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Which robots play the real one, and what is tried on their logs."""

    robot: str = "g1"
    """The model."""
    twins: tuple[str, ...] = ("isaac", "genesis", "worn", "strange")
    """Its twins; ``nominal`` and ``nominal_noisy`` are the model itself."""
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
    closed: dict[str, dict[str, float | None]]
    """Share of the closable gap, by metric and horizon; 0 where nothing was corrected, None where
    there is no gap"""
    errors: dict[str, dict[str, dict[str, float]]]
    """By arm, metric and horizon"""
    worse: list[str]
    """Where the corrected robot is worse than the nominal one"""
    wall_s: float
    """Of the fit as if it had been alone: identification included, also where it was shared [s]"""
    log_s: float
    """Of log that was given [s]"""

    verdict: str = ""
    """What the fit said"""
    identify_s: float = 0.0
    """Of ``wall_s``, what identification took: spent once for all that begin with it [s]"""
    in_family: bool = False
    """Whether numbers that identification knows are all that the twin differs by"""
    claims: list[dict[str, Any]] | None = None
    """Parameters beside the twin's, of ``asap.parameter_claims``; None where no number is the truth
    or none was identified"""

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return self._asdict()


class Logs(NamedTuple):
    """Of one twin and one seed."""

    train: list[Log]
    test: list[Log]


class Play:
    """A twin with a seed: what all methods share, made once and not before it is asked for."""

    def __init__(self, setup: Setup, name: str, seed: int, nominal: Robot) -> None:
        """Who plays the robot.

        Args:
            setup: What is tried.
            name: Of the twin.
            seed: Of starts and sensors.
            nominal: The model.
        """
        self.setup, self.name, self.seed, self.nominal = setup, name, seed, nominal
        self.twin = _player(setup, name, nominal)

    @functools.cached_property
    def logs(self) -> Logs:
        """Of motions that are fitted and of those that judge."""
        return _logs(self.setup, self.nominal, self.twin, self.seed)

    @functools.cached_property
    def identified(self) -> tuple[Identified, float]:
        """What methods that begin with physics begin with, and how long it took [s]."""
        logs = self.logs
        started = time.perf_counter()
        found = identified_first(logs.train, self.nominal, self.config("identify"),
                                 heldout=logs.test)  # fmt: skip
        return found, time.perf_counter() - started

    def config(self, method: Method) -> FitConfig:
        """Of a fit."""
        return FitConfig(method=method, seed=self.seed, threads=self.setup.threads)


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
        for seed in setup.seeds:
            play = Play(setup, name, seed, nominal)
            for method in setup.methods:

                def make(
                    place: Path, play: Play = play, method: Method = method
                ) -> dict[str, object]:
                    return _scored(play, method).as_dict()

                case = f"{name}/seed{seed}/{method}"
                found.append(Scored(**stages.do(case, _depends(setup, case, nominal), make)))
                progress(len(found) / total)
    return found


def counts(found: Sequence[Scored]) -> dict[str, Any]:
    """How many cases did what: whatever a sentence about all of them says.

    Claims about parameters are of twins and seeds: methods that share an identification share its
    claims. Where the truth is outside the family, what is nearest to it is no truth, so only the
    claims of twins inside are counted together.
    """
    worse = sum(bool(one.worse) for one in found)
    told: dict[str, Any] = {
        "worse": worse,
        "never_worse": 1.0 - worse / len(found),
        "abstained": sum(not one.accepted for one in found),
    }
    still = [one for one in found if one.twin in NO_GAP]
    if still:
        refused = sum(not one.accepted for one in still)
        told["no_gap"] = {"cases": len(still), "no_correction": refused}
    said = {(one.twin, one.seed): one for one in found if one.claims is not None}.values()
    if said:
        twins = {name: [one for one in said if one.twin == name] for name in
                 dict.fromkeys(one.twin for one in said)}  # fmt: skip
        told["claims"] = {
            "in_family": _off([one for one in said if one.in_family]),
            "twins": {name: _off(own) for name, own in twins.items()},
        }
    return told


def _off(said: Sequence[Scored]) -> dict[str, int]:
    every = [claim for one in said for claim in one.claims or ()]
    return {"claims": len(every), "off": sum(bool(claim["off"]) for claim in every)}


def _player(setup: Setup, name: str, nominal: Robot) -> Robot:
    """The twin, or the model itself with its sensors."""
    if name not in NO_GAP:
        return Robot.load(f"{setup.robot}@{name}")
    alike = NO_GAP[name]
    if alike is None:
        return nominal
    sensors = Robot.load(f"{setup.robot}@{alike}").facts.table("sensors")
    layers = (*nominal.facts.layers, {"sensors": sensors})
    return nominal.with_(facts=dataclasses.replace(nominal.facts, layers=layers))


def _depends(setup: Setup, case: str, nominal: Robot) -> dict[str, object]:
    """What a case depends on: not on the other cases, nor on how many cores there are."""
    return {
        "case": case,
        "scored": list(Scored._fields),
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


def _scored(play: Play, method: Method) -> Scored:
    """One fit by somebody who knows the logs, judged by somebody who knows the truth."""
    (train, test), nominal = play.logs, play.nominal
    first, identify_s = play.identified if method in WITH_PHYSICS else (None, 0.0)
    started = time.perf_counter()
    fitted = fit(train, nominal, play.config(method), heldout=test, identified=first)
    wall_s = identify_s + time.perf_counter() - started
    arms = {NOMINAL: nominal, TRUTH: play.twin}
    if fitted.accepted:
        arms[CORRECTED] = fitted.correction.robot(nominal)
    seen = replay(test, arms, ReplayConfig(seed=play.seed, threads=play.setup.threads))
    closed, worse = _closed(seen, fitted.accepted)
    errors = {arm: {metric: {h: e[metric].value for h, e in seen.arms[arm].horizons.items()}
                    for metric in (JOINT_ERROR, GLOBAL_ERROR)} for arm in arms}  # fmt: skip
    told = None if first is None else claims(first, nominal, play.twin)
    return Scored(
        play.name, method, play.seed, fitted.accepted, closed, errors, worse, wall_s,
        sum(log.duration_s for log in train), fitted.verdict, identify_s, in_family(play.twin),
        None if told is None else [one._asdict() for one in told],
    )  # fmt: skip


def _closed(seen: Replay, accepted: bool) -> tuple[dict[str, dict[str, float | None]], list[str]]:
    """Shares of the gap that can be closed, and where it became wider."""
    closed: dict[str, dict[str, float | None]] = {JOINT_ERROR: {}, GLOBAL_ERROR: {}}
    worse = []
    for metric, shares in closed.items():
        for horizon in seen.arms[NOMINAL].horizons:
            before, floor, after = (
                seen.arms[arm].horizons[horizon][metric].value
                for arm in (NOMINAL, TRUTH, CORRECTED if accepted else NOMINAL)
            )
            gap = before - floor
            shares[horizon] = (before - after) / gap if gap > _NO_SHARE * before else None
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
