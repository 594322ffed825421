"""What an alignment changed: policies side by side on the robot, in figures, pictures, a recording.

found = judged({"no adaptation": start, "corrected": trained}, clip, twin, model, how, folder)
found["gain"]["corrected"]["cost_mm"]             # paired, with its 95 % interval
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from asap.evaluate import Evaluation
from asap.finetune import CORRECTED, UNTOUCHED, compare, gain
from asap.inputs import OpenedMotion
from asap.metrics import ERROR_NAMES, paired_difference
from asap.robot import Robot
from asap.sheet import contact_sheet
from asap.tracking import StartNoise
from asap.train import POLICY
from asap.visualize import write_recording
from asap_deploy.npz import write_file
from asap_deploy.policy import Policy

_QUIET = 16
"""Episodes that begin at rest in the first frame, as a robot does; they differ in sensors alone."""


class Judging(NamedTuple):
    """How policies are compared."""

    episodes: int
    """Noisy episodes of each policy."""
    seed: int
    """Of starts and sensors, the same for all."""
    threads: int
    """Of the simulator; 0: all cores."""
    start_noise: StartNoise
    """Of their starts."""


def judged(
    policies: Mapping[str, Policy], clip: OpenedMotion, judge: Robot, model: Robot, how: Judging,
    folder: Path,
) -> dict[str, Any]:  # fmt: skip
    """Compare policies of one clip, and draw the first and the last.

    Args:
        policies: By arm, ``UNTOUCHED`` among them.
        clip: That they track.
        judge: The robot.
        model: What the simulator took it for.
        how: How often, from which starts.
        folder: Of the run's stage ``judged/<clip>``; gets pictures, a recording and the policy.
    """
    found, home = (compare(policies, clip, robot, **how._asdict()) for robot in (judge, model))
    quiet = compare(policies, clip, judge, episodes=_QUIET, seed=how.seed, threads=how.threads,
                    start_noise="none")  # fmt: skip
    final = policies.get(CORRECTED, policies[UNTOUCHED])
    write_file(folder / POLICY, final.data)
    place = f"{folder.parent.name}/{folder.name}"
    return {
        "closed_loop": {arm: one.summary() for arm, one in found.items()},
        "gain": {arm: gains(found[UNTOUCHED], one, how.seed)
                 for arm, one in found.items() if arm != UNTOUCHED},
        "against": {arm: gains(one, found[CORRECTED], how.seed) for arm, one in found.items()
                    if CORRECTED in found and arm not in (UNTOUCHED, CORRECTED)},
        "quiet": {arm: one.summary() for arm, one in quiet.items()},
        "home": {arm: one.summary() for arm, one in home.items()},
        "policies": f"{place}/{POLICY}",
        **_draw(quiet, folder, place),
    }  # fmt: skip


def gains(before: Evaluation, after: Evaluation, seed: int) -> dict[str, dict[str, float]]:
    """What changed from the same starts; negative is better.

    ``cost_mm`` counts an episode that fails with 500 mm; errors are of the episodes that both
    finish.
    """
    found = {"cost_mm": gain([before], [after], seed).as_dict()}
    rng = np.random.default_rng(seed)
    old, new = (one.clips[0] for one in (before, after))
    both = old.success & new.success
    for name in ERROR_NAMES[:2]:
        a, b = (one.sums[name][both] / np.maximum(one.counts[name][both], 1) for one in (old, new))
        found[name] = paired_difference(a, b, rng).as_dict()
    return found


def _draw(found: Mapping[str, Evaluation], folder: Path, place: str) -> dict[str, Any]:
    """The same start before and after, to look at."""
    named = {"before": found[UNTOUCHED], "after": found.get(CORRECTED, found[UNTOUCHED])}
    rollouts = {
        name: dataclasses.replace(one.clips[0].rollout, title=f"{one.clips[0].name}, {name}")
        for name, one in named.items()
    }
    for name, rollout in rollouts.items():
        contact_sheet(rollout, folder / f"{name}.png")
    write_recording(list(rollouts.values()), folder / "robot.rrd")
    pictures = {name: f"{place}/{name}.png" for name in rollouts}
    return {"pictures": pictures, "recordings": f"{place}/robot.rrd"}
