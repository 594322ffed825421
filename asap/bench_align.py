"""Does the loop make a better robot, and is it the correction that does? On robots of known truth.

    found = align_pairs(PairSetup(pairs=("walk@genesis",), seeds=(0, 1, 2)), Path("runs/bench"))
    found[0].share["corrected"]["cost_mm"]            # of the way from the start to the oracle
    summary(found)["walk@genesis"]["arms"]["corrected"]["better"]        # of three seeds

A pair is a tracker and a twin that plays its robot. Beside the policy that was trained on in the
corrected simulator stand, at equal budget and from the same seeds, those that were trained on in
the model, in the model with noise or with randomisation, and in the twin itself (the oracle).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from asap.align import align
from asap.align_config import AlignConfig, Task, Watch
from asap.finetune import ORACLE, UNTOUCHED
from asap.inputs import OpenedMotion, open_motion, open_policy
from asap.metrics import Interval, student_half_width
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

    @property
    def clip(self) -> str:
        """Name of the clip."""
        return str(next(iter(self.found["motions"])))

    @property
    def share(self) -> dict[str, dict[str, float]]:
        """By arm and figure, of the way from the start to the oracle; NaN where there is none."""
        best = self.found["closed_loop"][self.clip].get(ORACLE)
        return {} if best is None else self._shares(best, without=ORACLE)

    @property
    def home_share(self) -> dict[str, dict[str, float]]:
        """The same of the way to what the start does on the model: at home."""
        return self._shares(self.found["home"][self.clip][UNTOUCHED])

    @property
    def changed(self) -> dict[str, bool]:
        """By arm, whether any round put something in the place of the start."""
        rounds = [one["finetune"].get(self.clip, {}) for one in self.found["rounds"]]
        names = dict.fromkeys(name for one in rounds for name in one)
        return {name: any(one[name]["changed"] for one in rounds if name in one) for name in names}

    @property
    def accepted(self) -> bool | None:
        """Whether a correction was found in every round; None where nothing was fitted."""
        fits = [one["fit"]["accepted"] for one in self.found["rounds"] if "fit" in one]
        return all(fits) if fits else None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        keys = ("closed_loop", "gain", "against", "home", "quiet")
        return {
            "pair": self.pair,
            "seed": self.seed,
            "share": self.share,
            "home_share": self.home_share,
            "changed": self.changed,
            "accepted": self.accepted,
            **{key: self.found[key][self.clip] for key in keys},
        }

    def _shares(self, end: Mapping[str, Any], without: str = "") -> dict[str, dict[str, float]]:
        """How far each arm came from the start towards other figures."""
        arms = self.found["closed_loop"][self.clip]
        return {arm: {name: _share(arms[UNTOUCHED], figures, end, name) for name in COMPARED}
                for arm, figures in arms.items() if arm not in (UNTOUCHED, without)}  # fmt: skip


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
            found.append(Pair(pair, seed, one))
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


def _share(start: Any, here: Any, end: Any, name: str) -> float:
    """Of the way from one figure to another."""
    first, now, last = (one[name]["value"] for one in (start, here, end))
    return (first - now) / (first - last) if first > last else float("nan")


def summary(found: Sequence[Pair]) -> dict[str, dict[str, Any]]:
    """Over the seeds of each pair, what each arm did: by pair, then by arm.

    An arm has, beside others, ``not_worse`` (seeds that kept the start, or whose mean paired cost
    is no higher than its), ``better`` and ``worse`` (beyond chance), ``success_fell``, ``figures``
    (medians of start, end and home), ``home_share`` and ``oracle_share`` (median, least, most),
    ``gain_mm`` (mean over seeds with a t interval), and ``corrected_better``,
    ``corrected_worse``, ``corrected_gain_mm`` of the corrected against it.

    Args:
        found: Of ``align_pairs``.
    """
    told: dict[str, dict[str, Any]] = {}
    for pair in dict.fromkeys(one.pair for one in found):
        seeds = [one for one in found if one.pair == pair]
        names = dict.fromkeys(arm for one in seeds for arm in one.changed)
        told[pair] = {
            "seeds": [one.seed for one in seeds],
            "refused": [one.seed for one in seeds if one.accepted is False],
            "arms": {arm: _over_seeds([one for one in seeds if arm in one.changed], arm)
                     for arm in names},
        }  # fmt: skip
    return told


def _over_seeds(seeds: Sequence[Pair], arm: str) -> dict[str, Any]:
    """One arm of one pair."""
    gains = [one.found["gain"][one.clip][arm]["cost_mm"] for one in seeds]
    against = [one.found["against"][one.clip][arm]["cost_mm"] for one in seeds
               if arm in one.found["against"][one.clip]]  # fmt: skip
    rates = [[one.found["closed_loop"][one.clip][name]["success_rate"]["value"]
              for name in (UNTOUCHED, arm)] for one in seeds]  # fmt: skip
    oracle = [one.share[arm] for one in seeds if arm in one.share]
    return {
        "seeds": len(seeds),
        "changed": sum(one.changed[arm] for one in seeds),
        "not_worse": sum(
            not one.changed[arm] or gain["value"] <= 0.0
            for one, gain in zip(seeds, gains, strict=True)
        ),
        "better": sum(one["high"] < 0.0 for one in gains),
        "worse": sum(one["low"] > 0.0 for one in gains),
        "success_fell": sum(after < before for before, after in rates),
        "gain_mm": _mean(gains),
        "figures": _medians(seeds, arm),
        "home_share": _middle([one.home_share[arm] for one in seeds]),
        "oracle_share": _middle(oracle),
        "corrected_better": sum(one["high"] < 0.0 for one in against),
        "corrected_worse": sum(one["low"] > 0.0 for one in against),
        "corrected_gain_mm": _mean(against),
    }


def _medians(seeds: Sequence[Pair], arm: str) -> dict[str, dict[str, float]]:
    """By figure, over seeds: the start and what became of it on the twin, the start at home."""
    found: dict[str, dict[str, float]] = {}
    for name in ("success_rate", *COMPARED):
        of = [(one.found["closed_loop"][one.clip], one.found["home"][one.clip]) for one in seeds]
        three = [[twin[UNTOUCHED], twin[arm], home[UNTOUCHED]] for twin, home in of]
        middle = np.median([[one[name]["value"] for one in row] for row in three], axis=0)
        found[name] = dict(zip(("start", "end", "home"), middle.tolist(), strict=True))
    return found


def _mean(gains: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean over seeds; its interval holds what training seeds and starts differ by."""
    values, count = np.array([one["value"] for one in gains]), len(gains)
    if count < 2:
        return Interval(float(values[0]) if count else math.nan, math.nan, math.nan).as_dict()
    mean, half = float(values.mean()), student_half_width(values, np.full(count, 1.0 / count))
    return Interval(mean, mean - half, mean + half).as_dict()


def _middle(shares: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """By figure, median and ends over the seeds that have a way to go."""
    found = {}
    for name in COMPARED if shares else ():
        values = [one[name] for one in shares if not math.isnan(one[name])] or [math.nan]
        found[name] = {"median": float(np.median(values)), "least": min(values),
                       "most": max(values)}  # fmt: skip
    return found
