"""HIL-SERL: an operator corrects while the policy learns, and is needed less and less.

    found = hil(task, actor, demos, operator, HilConfig(), seed=0, judge=judge)
    found.rates                                      # of intervention, by thirds of the run

Every step is the policy's experience; what the operator did is also kept beside the demonstrations,
from which half of every minibatch comes. The control that needs no critic is HG-DAgger: the same
operator, cloned.

Source: Luo et al. 2024. Its gripper's discrete head and its cameras have no place here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from asap.posttrain.actors import Bounded, Gaussian, InputNorm
from asap.posttrain.collect import Operator, collect
from asap.posttrain.episode import Episode
from asap.posttrain.looks import Look, look
from asap.posttrain.regress import CloneConfig, Shown, clone
from asap.posttrain.rlpd import RlpdConfig, Tuned, rlpd
from asap.posttrain.soft_q import SoftQConfig
from asap.posttrain.task import Task


@dataclass(frozen=True, kw_only=True)
class HilConfig:
    """How long, and with what."""

    learn: RlpdConfig = field(default_factory=lambda: RlpdConfig(random_steps=0))
    """The learning, without tries at random: the operator shows where to go."""

    @classmethod
    def paper(cls) -> HilConfig:
        """Source: the official code: two critics, two steps of them, a small temperature."""
        q = SoftQConfig(
            critics=2, subset=2, critic_steps=2, gamma=0.97, temperature=0.01, entropy_backup=False
        )
        return cls(learn=RlpdConfig(steps=30_000, random_steps=0, judge_every=1000, q=q))


class Corrected(NamedTuple):
    """What came of it."""

    tuned: Tuned
    rates: list[float]
    """Share of steps that the operator took over, by thirds of the episodes"""


def hil(
    task: Task, actor: Bounded, demos: Sequence[Episode], operator: Operator | None,
    config: HilConfig, *, seed: int, judge: Task, normal: InputNorm | None = None,
    looked: Callable[[Look], None] = lambda look: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Corrected:  # fmt: skip
    """Learn with somebody's help.

    Args:
        task: The robot.
        actor: Is changed.
        demos: A few, or none.
        operator: Who helps, or nobody: the control.
        config: How.
        seed: Of everything random.
        judge: Where looks are taken.
        normal: Of observations.
        looked: Told every look.
        stopped: Ends with what there is.
    """
    learn = config.learn
    tuned = rlpd(task, actor, demos, learn, seed=seed, judge=judge, operator=operator,
                 normal=normal, looked=looked, stopped=stopped)  # fmt: skip
    return Corrected(tuned, thirds(tuned.intervened))


def hg_dagger(
    task: Task, actor: Gaussian, demos: Sequence[Episode], operator: Operator, *, steps: int,
    judge: Task, seed: int, judge_episodes: int = 10,
) -> tuple[Look, list[float]]:  # fmt: skip
    """The same operator for as many steps, cloned: what the critics have to beat.

    Source: Kelly et al. 2019.
    """
    rng, done = np.random.default_rng(seed), 0
    shown = Shown.of(demos, task)
    rates: list[float] = []
    clone(actor, shown, CloneConfig(steps=500), seed=seed)
    while done < steps:
        one = collect(task, actor.best, 1, rng, operator=operator)[0]
        taken = one.operator_mask.any(axis=1)
        rates.append(float(taken.mean()))
        done += one.steps
        if taken.any():
            rows = Shown.of([one], task)
            shown = shown.plus(Shown(*(array[taken] for array in rows)))
            clone(actor, shown, CloneConfig(steps=200), seed=seed + done)
    found = look(done, actor, judge, judge_episodes)
    return found, thirds(rates)


def thirds(rates: Sequence[float]) -> list[float]:
    """Means of the first, middle and last third."""
    parts = np.array_split(np.asarray(rates, dtype=float), 3)
    return [float(part.mean()) if len(part) else 0.0 for part in parts]
