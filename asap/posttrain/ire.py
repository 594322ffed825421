"""iRe-VLA: one new task after the other, without forgetting those before.

    found = ire(actor, experts, tasks, IreConfig(), seed=0)

Each task has two stages. PPO on sparse success moves the last two layers alone: the trunk, in which
everything else lives, is held to the byte. Then everything is fitted to the experts' data together
with the successes that were found, which restores what the first stage forgot.

Source: Guo et al. 2025. The controls are theirs: fitting alone, PPO with expert replay, and the
trunk held in both stages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from torch import nn

from asap.posttrain.actors import TRUNK_SPLIT, Gaussian, require
from asap.posttrain.collect import collect
from asap.posttrain.episode import Episode
from asap.posttrain.on_policy import PpoStage, improve, improve_best
from asap.posttrain.regress import CloneConfig, Shown, clone, held
from asap.posttrain.task import Task


@dataclass(frozen=True, kw_only=True)
class IreConfig:
    """How long each stage takes."""

    ppo: PpoStage = field(default_factory=PpoStage)
    """The first stage."""
    kept: int = 40
    """Successes of a task that are kept."""
    home_episodes: int = 50
    """That say what the first stage forgot."""
    tries: int = 200
    """Episodes among which they are looked for."""
    fit: CloneConfig = field(default_factory=lambda: CloneConfig(steps=1500))
    """The second stage."""
    hold_both: bool = False
    """The trunk is held in the second stage too: a control."""
    replay: bool = False
    """PPO on everything, with a step of cloning the experts after each iteration, and no second
    stage: a control."""


class TaskDone(NamedTuple):
    """One new task."""

    after_ppo: float
    """Share of successes towards the end of the first stage"""
    kept: int
    """Successes that joined the data"""
    experts: float
    """Success at the experts' task after the first stage"""


def ire(
    actor: Gaussian, experts: Sequence[Episode], home: Task, tasks: Sequence[Task],
    config: IreConfig, *, seed: int, judges: Sequence[Task] = (),
    told: Callable[[TaskDone], None] = lambda one: None,
    stopped: Callable[[], bool] = lambda: False,
) -> tuple[list[TaskDone], list[Episode]]:  # fmt: skip
    """Learn the tasks in turn.

    Args:
        actor: Fitted to the experts already; is changed.
        experts: Their data, always part of the second stage.
        home: The experts' task.
        tasks: New ones.
        config: How.
        seed: Of everything random.
        judges: Of the tasks, where the best look of each first stage counts and not its end.
        told: Every task.
        stopped: Asked before every task; ends with what there is.

    Returns:
        What each gave, and the successes that were kept.
    """
    require(actor.caps, TRUNK_SPLIT, "ire")
    rng = np.random.default_rng(seed)
    shown = Shown.of(experts, home)
    found: list[TaskDone] = []
    kept: list[Episode] = []
    for place, task in enumerate(tasks):
        if stopped():
            break
        judge = judges[place] if judges else None
        rate = _first_stage(actor, task, judge, shown, config, seed + place)
        at_home = np.mean(
            [bool(one.success) for one in collect(home, actor.best, config.home_episodes, rng)]
        )
        tried = [] if config.replay else collect(task, actor.act, config.tries, rng)
        new = [one for one in tried if one.success][: config.kept]
        kept += new
        if new:
            shown = shown.plus(Shown.of(new, task))
        if not config.replay:
            with held(actor.trunk() if config.hold_both else []):
                clone(actor, shown, config.fit, seed=seed + place)
        found.append(TaskDone(rate, len(new), float(at_home)))
        told(found[-1])
    return found, kept


def _first_stage(
    actor: Gaussian, task: Task, judge: Task | None, shown: Shown, config: IreConfig, seed: int
) -> float:
    """PPO on the head; of the control on everything, with the experts in between."""
    step = CloneConfig(steps=10, learning_rate=0.3 * config.fit.learning_rate)

    def hold(one: Gaussian) -> Sequence[nn.Parameter]:
        return [] if config.replay else one.trunk()

    def after(iteration: int) -> None:
        if config.replay:
            clone(actor, shown, step, seed=seed + iteration)

    if judge is None:
        return improve(task, actor, config.ppo, seed=seed, hold=hold, after=after)
    looks = improve_best(task, actor, config.ppo, seed=seed, judge=judge, episodes=judge.num_envs,
                         hold=hold, after=after)  # fmt: skip
    return max(looks, key=lambda one: one.value).success
