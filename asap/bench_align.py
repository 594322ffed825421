"""Does the loop make a better robot, and is it the correction that does? On robots of known truth.

    found = align_pairs(PairSetup(pairs=("walk@genesis",), seeds=(0, 1, 2)), Path("runs/bench"))
    found[0].share["corrected"]["cost_mm"]            # of the way from the start to the oracle

A pair is a tracker and a twin that plays its robot. Beside the policy that was trained on in the
corrected simulator stand, at equal budget and from the same seeds, those that were trained on in
the model, in the model with noise or with randomisation, and in the twin itself (the oracle).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from asap.align import align
from asap.align_config import AlignConfig, Task, Watch
from asap.finetune import ORACLE, UNTOUCHED
from asap.inputs import OpenedMotion, open_motion, open_policy
from asap.published import EXPECTED, case_of_published
from asap.published import ROBOT as PUBLISHED
from asap.robot import Robot
from asap_deploy.errors import InputError

COMPARED = ("cost_mm", "global_mpjpe_mm", "mpjpe_mm")
_LOG_S = 60.0


@dataclass(frozen=True, kw_only=True)
class PairSetup:
    """What is compared."""

    pairs: tuple[str, ...] = ("walk@genesis",)
    """Clip and twin: a clip of ours on a twin of g1, or a published one on a twin of g1:asap."""
    seeds: tuple[int, ...] = (0,)
    """Of everything random."""
    data: Path | None = None
    """Folder of the original's policies and motions, for published clips."""
    align: AlignConfig = field(default_factory=lambda: AlignConfig(controls=True))
    """How; the number of recorded episodes follows from the length of the clip."""


class Pair(NamedTuple):
    """One tracker on one twin, with one seed."""

    pair: str
    seed: int
    found: Mapping[str, Any]
    """What ``align.json`` says"""
    share: dict[str, dict[str, float]]
    """By arm and figure, of the way from the start to the oracle; NaN where there is no way"""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        name = next(iter(self.found["motions"]))
        keys = ("closed_loop", "gain", "against", "home", "quiet")
        return {
            "pair": self.pair,
            "seed": self.seed,
            "share": self.share,
            "accepted": all(one["fit"]["accepted"] for one in self.found["rounds"]),
            **{key: self.found[key][name] for key in keys},
        }


def align_pairs(
    setup: PairSetup, folder: Path, *, watch: Watch | None = None,
    said: Callable[[str], None] = lambda line: None,
) -> list[Pair]:  # fmt: skip
    """Every pair with every seed; what is done in ``folder`` is not done again.

    Raises:
        InputError: If a clip, a policy or a twin is missing.
        KeyboardInterrupt: If somebody asked to stop.
    """
    for pair in setup.pairs:
        _task(pair, setup)  # what is missing shows before hours are spent
    found = []
    for seed in setup.seeds:
        for pair in setup.pairs:
            said(f"{pair}, seed {seed}")
            robot, task, truth = _task(pair, setup)
            episodes = max(2, round(_LOG_S / task.clip.motion.duration_s))
            config = dataclasses.replace(
                setup.align,
                seed=seed,
                collect=dataclasses.replace(setup.align.collect, episodes=episodes),
            )
            one = align(robot, [task], config, folder / pair / f"seed{seed}", truth=truth,
                        watch=watch)  # fmt: skip
            found.append(Pair(pair, seed, one, _shares(one["closed_loop"][task.clip.name])))
    return found


def _task(pair: str, setup: PairSetup) -> tuple[Robot, Task, Robot]:
    """Model, clip with policy, twin."""
    name, at, twin = pair.partition("@")
    if not at:
        raise InputError(f"a pair is CLIP@TWIN, for example walk@genesis; got '{pair}'")
    if name in EXPECTED and setup.data is not None:
        robot = Robot.load(PUBLISHED)
        case = case_of_published(setup.data, name, robot, ground=True)
        clip = OpenedMotion(case.motion, name, setup.data)
        return robot, Task(clip, case.policy), Robot.load(f"{PUBLISHED}@{twin}")
    robot = Robot.load("g1")
    clip = open_motion(Path(name), robot, ground=True)
    policy = open_policy(Path(name), robot, clip, None).policy
    return robot, Task(clip, policy), Robot.load(f"g1@{twin}")


def _shares(arms: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """How far each arm came towards the oracle."""
    found: dict[str, dict[str, float]] = {}
    if ORACLE not in arms:
        return found
    for arm, figures in arms.items():
        if arm in (UNTOUCHED, ORACLE):
            continue
        found[arm] = {}
        for name in COMPARED:
            start, here, best = (
                one[name]["value"] for one in (arms[UNTOUCHED], figures, arms[ORACLE])
            )
            found[arm][name] = (start - here) / (start - best) if start > best else float("nan")
    return found
