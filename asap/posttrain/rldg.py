"""RLDG: specialists that learned by trial teach one policy, by successes alone.

    found = rldg(student, [Specialist(actor, task), ...], RldgConfig(), seed=0)

No gradient of reinforcement touches the student: it is fitted to successful episodes, as many of
each specialist. With ``rounds`` above 0 it also acts itself, and specialists say what they would
have done where it came: DAgger.

Source: Xu et al. 2025; Ross et al. 2011 for the rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from asap.posttrain.actors import Gaussian
from asap.posttrain.collect import Act, collect
from asap.posttrain.episode import SPECIALIST, Episode
from asap.posttrain.regress import CloneConfig, Shown, clone
from asap.posttrain.task import Task
from asap_deploy.errors import InputError


@dataclass(frozen=True, kw_only=True)
class RldgConfig:
    """How much is shown."""

    successes: int = 10
    """Successful episodes of each specialist: equal numbers of these, not of transitions."""
    tries: int = 10
    """At most so many times as many episodes are looked through."""
    rounds: int = 0
    """Times that the student acts and specialists label what it saw."""
    fit: CloneConfig = field(default_factory=CloneConfig)


class Specialist(NamedTuple):
    """Somebody who is good at one task."""

    act: Act
    task: Task
    seen_as: Task | None = None
    """Rebuilds what the student sees of the same episodes; by default it sees the same"""


class Taught(NamedTuple):
    """What the student was taught with."""

    episodes: list[Episode]
    steps: int
    """Transitions: fewer for the same number of episodes, where specialists are fast"""
    loss: float


def rldg(
    student: Gaussian, specialists: Sequence[Specialist], config: RldgConfig, *, seed: int,
    told: Callable[[str], None] = lambda line: None,
) -> Taught:  # fmt: skip
    """Teach a student.

    Args:
        student: Is changed.
        specialists: At least one.
        config: How much.
        seed: Of everything random.
        told: What is being done.

    Raises:
        InputError: If a specialist hardly succeeds.
    """
    rng = np.random.default_rng(seed)
    episodes: list[Episode] = []
    shown: Shown | None = None
    for place, one in enumerate(specialists):
        told(f"specialist {place + 1} of {len(specialists)}")
        found = successes(one, config, rng)
        episodes += found
        rows = Shown.of(found, one.seen_as or one.task)
        shown = rows if shown is None else shown.plus(rows)
    if shown is None:
        raise InputError("rldg needs at least one specialist")
    loss = clone(student, shown, config.fit, seed=seed)
    for round_ in range(config.rounds):
        told(f"round {round_ + 1} of {config.rounds}")
        for one in specialists:
            shown = shown.plus(labelled(student, one, config, rng))
        loss = clone(student, shown, config.fit, seed=seed + 1 + round_)
    return Taught(episodes, len(shown.weight), loss)


def successes(one: Specialist, config: RldgConfig, rng: np.random.Generator) -> list[Episode]:
    """As many as wanted.

    Raises:
        InputError: If there are not so many in all the tries.
    """
    found: list[Episode] = []
    tried = 0
    while len(found) < config.successes and tried < config.tries * config.successes:
        some = collect(one.task, one.act, max(one.task.num_envs, config.successes), rng,
                       source=SPECIALIST)  # fmt: skip
        tried += len(some)
        found += [episode for episode in some if episode.success]
    if len(found) < config.successes:
        raise InputError(
            f"a specialist succeeded in {len(found)} of {tried} episodes, {config.successes} are "
            "wanted: train it longer, or ask for fewer"
        )
    return found[: config.successes]


def labelled(
    student: Gaussian, one: Specialist, config: RldgConfig, rng: np.random.Generator
) -> Shown:
    """States that the student comes to, with what the specialist would do there."""
    where = one.seen_as or one.task
    found = collect(where, student.best, config.successes, rng)
    seen = np.concatenate([where.observations(episode)[:-1] for episode in found])
    # What a specialist sees of the student's episode, its own past included, is rebuilt.
    label = np.concatenate([one.act(one.task.observations(episode)[:-1]) for episode in found])
    return Shown(seen, label.astype(np.float32), np.ones(len(label), np.float32))
