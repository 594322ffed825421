"""Episodes from a task and whoever acts in it.

episodes = collect(task, actor.act, 20, rng)
episodes = collect(task, actor.act, 20, rng, operator=operator)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from asap.posttrain.episode import OPERATOR, POLICY, Episode
from asap.posttrain.task import Step, Task

Act = Callable[[np.ndarray], np.ndarray]
"""Actions (N, A) for observations (N, D)."""


class Intervention(NamedTuple):
    """What an operator does in one step."""

    action: np.ndarray
    """(N, A)"""
    mask: np.ndarray
    """(N, A) bool: numbers that are taken over"""


class Operator(Protocol):
    """Somebody who watches, and may take over."""

    def begin(self, env_ids: np.ndarray) -> None:
        """These robots begin an episode."""
        ...

    def watch(self, channels: Mapping[str, np.ndarray], wanted: np.ndarray) -> Intervention:
        """See raw states and what the policy wants (N, A); take over or not."""
        ...


def collect(
    task: Task, act: Act, count: int, rng: np.random.Generator, *, operator: Operator | None = None,
    source: int = POLICY, seeds: Sequence[int] | None = None, policy_sha256: str = "",
) -> list[Episode]:  # fmt: skip
    """Run whole episodes; every robot finishes its own, so short ones are not preferred.

    Args:
        task: Where.
        act: Who.
        count: Episodes.
        rng: Of the starts.
        operator: Who may take over.
        source: Of steps in which nobody took over.
        seeds: Of the starts (count,), where they must be the same as others'.
        policy_sha256: Of who acts, for the record.
    """
    drawn = rng.integers(0, 2**31, count) if seeds is None else np.asarray(seeds)
    found: list[Episode] = []
    while len(found) < count:
        some = drawn[len(found) : len(found) + task.num_envs]
        found += _batch(task, act, some, operator, source, policy_sha256)
    return found


def acting_on_states(task: Task, act: Callable[[Mapping[str, np.ndarray]], np.ndarray]) -> Act:
    """Somebody who acts on raw states, as one who acts on observations."""
    return lambda observation: act(task.channels())


def _batch(
    task: Task, act: Act, seeds: np.ndarray, operator: Operator | None, source: int, sha256: str
) -> list[Episode]:
    """One episode of each robot; robots beyond the seeds run idle."""
    everyone = np.arange(task.num_envs)
    padded = np.resize(seeds, task.num_envs)
    task.start(everyone, padded)
    if operator is not None:
        operator.begin(everyone)
    open_ = np.zeros(task.num_envs, dtype=bool)
    open_[: len(seeds)] = True
    moments, ends = [], np.zeros(task.num_envs, dtype=int)
    states = [task.channels()]
    while open_.any():
        wanted = np.asarray(act(task.observe()), dtype=float)
        given, mask = wanted, np.zeros(wanted.shape, dtype=bool)
        if operator is not None:
            taken = operator.watch(states[-1], wanted)
            given, mask = np.where(taken.mask, taken.action, wanted), taken.mask
        step = task.step(given)
        states.append(task.channels())
        moments.append((wanted, mask, step))
        over = open_ & (step.terminated | step.truncated)
        ends[over] = len(moments)
        open_ &= ~over
    return [_episode(task, env, states[: ends[env] + 1], moments[: ends[env]], source, sha256,
                     int(padded[env])) for env in range(len(seeds))]  # fmt: skip


def _episode(
    task: Task, env: int, states: list[dict[str, np.ndarray]],
    moments: list[tuple[np.ndarray, np.ndarray, Step]], source: int, sha256: str, seed: int,
) -> Episode:  # fmt: skip
    """What one robot did."""
    wanted, masks, steps = zip(*moments, strict=True)
    mask = np.array([one[env] for one in masks])
    return Episode(
        channels={name: np.array([state[name][env] for state in states]) for name in states[0]},
        action_policy=np.array([one[env] for one in wanted]),
        action_executed=np.array([one.executed[env] for one in steps]),
        source=np.where(mask.any(axis=1), OPERATOR, source),
        operator_mask=mask,
        reward_terms={name: np.array([one.reward_terms[name][env] for one in steps])
                      for name in steps[0].reward_terms},
        terminated=np.array([one.terminated[env] for one in steps]),
        truncated=np.array([one.truncated[env] for one in steps]),
        success=bool(steps[-1].success[env]), judge="rule", robot=task.name,
        environment=task.environment, motion=task.motion,
        policy_sha256=sha256, seed=seed, control_dt=task.control_dt,
    )  # fmt: skip
