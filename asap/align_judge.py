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
from asap.finetune import compare
from asap.inputs import OpenedMotion
from asap.metrics import ERROR_NAMES, paired_difference
from asap.robot import Robot
from asap.sheet import contact_sheet
from asap.tracking import StartNoise
from asap.visualize import write_recording
from asap_deploy.npz import write_atomic
from asap_deploy.policy import Policy

START, CORRECTED = "no adaptation", "corrected"
"""The policy that a run began with, and the one that was trained on in the corrected simulator."""
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
        policies: By arm, ``START`` among them.
        clip: That they track.
        judge: The robot.
        model: What the simulator took it for.
        how: How often, from which starts.
        folder: Of the run's stage ``judged/<clip>``; gets pictures, a recording and the policy.
    """
    found, home = (compare(policies, clip, robot, **how._asdict()) for robot in (judge, model))
    quiet = compare(policies, clip, judge, episodes=_QUIET, seed=how.seed, threads=how.threads,
                    start_noise="none")  # fmt: skip
    final = policies.get(CORRECTED, policies[START])
    write_atomic(folder / "policy.onnx", lambda stream: stream.write(final.data))
    place = f"{folder.parent.name}/{folder.name}"
    return {
        "closed_loop": {arm: _figures(one) for arm, one in found.items()},
        "gain": {arm: gains(found[START], one, how.seed)
                 for arm, one in found.items() if arm != START},
        "against": {arm: gains(one, found[CORRECTED], how.seed) for arm, one in found.items()
                    if CORRECTED in found and arm not in (START, CORRECTED)},
        "quiet": {arm: _figures(one) for arm, one in quiet.items()},
        "home": {arm: _figures(one) for arm, one in home.items()},
        "policies": f"{place}/policy.onnx",
        **_draw(quiet, folder, place),
    }  # fmt: skip


def gains(before: Evaluation, after: Evaluation, seed: int) -> dict[str, dict[str, float]]:
    """What changed from the same starts; negative is better.

    ``cost_mm`` counts an episode that fails with 500 mm; errors are of the episodes that both
    finish.
    """
    rng = np.random.default_rng(seed)
    found = {"cost_mm": paired_difference(before.cost_mm, after.cost_mm, rng).as_dict()}
    old, new = (one.clips[0] for one in (before, after))
    both = old.success & new.success
    for name in ERROR_NAMES[:2]:
        a, b = (one.sums[name][both] / np.maximum(one.counts[name][both], 1) for one in (old, new))
        found[name] = paired_difference(a, b, rng).as_dict()
    return found


def _figures(found: Evaluation) -> dict[str, Any]:
    cost = float(found.cost_mm.mean())
    return {name: figure.as_dict() for name, figure in found.overall.items()} | {
        "cost_mm": {"value": cost, "low": None, "high": None}
    }


def _draw(found: Mapping[str, Evaluation], folder: Path, place: str) -> dict[str, Any]:
    """The same start before and after, to look at."""
    named = {"before": found[START], "after": found.get(CORRECTED, found[START])}
    rollouts = {
        name: dataclasses.replace(one.clips[0].rollout, title=f"{one.clips[0].name}, {name}")
        for name, one in named.items()
    }
    for name, rollout in rollouts.items():
        contact_sheet(rollout, folder / f"{name}.png")
    write_recording(list(rollouts.values()), folder / "robot.rrd")
    pictures = {name: f"{place}/{name}.png" for name in rollouts}
    return {"pictures": pictures, "recordings": f"{place}/robot.rrd"}
