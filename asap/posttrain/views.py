"""Episodes as arrays to learn from: rows of transitions, buffers that grow, exact mixes of them.

rows = rows_of(episodes, task, actor, gamma=0.97)
mix = Mix({"online": (online, 0.5), "prior": (prior, 0.5)})
batch = mix.sample(rng, 256)                     # 128 and 128, never about 128
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from asap.posttrain.episode import DEMO, OPERATOR, Episode
from asap.posttrain.task import Task
from asap_deploy.errors import InputError


class Encodes(Protocol):
    """What turns executed actions into those that are learned."""

    def encode(self, observation: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, float]:
        """Learned actions, and the share of numbers that had to be clipped."""
        ...


class Rows(NamedTuple):
    """R transitions."""

    observation: np.ndarray
    """(R, D)"""
    action: np.ndarray
    """(R, A) executed, as the policy's head says it"""
    reward: np.ndarray
    """(R,)"""
    next_observation: np.ndarray
    """(R, D)"""
    alive: np.ndarray
    """(R,) 0 where the episode terminated there, 1 where it went on or nobody looked further; less
    where a row spans more than one step, for what comes after it is farther away"""
    to_go: np.ndarray
    """(R,) discounted sum of rewards until the end of the episode"""
    shown: np.ndarray
    """(R,) bool: decided by an operator or a demonstrator"""
    state: np.ndarray
    """(R, K) what critics see as well"""
    next_state: np.ndarray
    """(R, K)"""

    def __len__(self) -> int:
        """R."""
        return len(self.reward)

    def take(self, places: np.ndarray) -> Rows:
        """Some of them."""
        return Rows(*(array[places] for array in self))


def rows_of(
    episodes: Sequence[Episode], task: Task, encodes: Encodes, *, gamma: float, ahead: int = 1
) -> tuple[Rows, float]:
    """Transitions of episodes, and the share of action numbers outside what the policy can do.

    Args:
        episodes: All their steps are taken.
        task: Rebuilds observations, weighs rewards.
        encodes: Of the policy that learns.
        gamma: Discount of ``to_go``: that of the critic, never another.
        ahead: Steps that a row spans, fewer at the end of an episode: their rewards are summed,
            and what comes after them is discounted in ``alive``.
    """
    parts, clipped, steps = [], 0.0, 0
    for one in episodes:
        seen, state = task.observations(one), task.states(one)
        action, outside = encodes.encode(seen[:-1], one.action_executed)
        reward = np.asarray(task.reward(one.reward_terms), dtype=float)
        to_go = discounted(reward, gamma)
        after = np.minimum(np.arange(one.steps) + ahead, one.steps)
        further = gamma ** (after - np.arange(one.steps))
        alive = np.where((after == one.steps) & one.terminated[-1], 0.0, further / gamma)
        parts.append(Rows(
            seen[:-1], action, to_go - further * np.append(to_go, 0.0)[after], seen[after], alive,
            to_go, np.isin(one.source, (OPERATOR, DEMO)), state[:-1], state[after],
        ))  # fmt: skip
        clipped, steps = clipped + outside * one.steps, steps + one.steps
    return Rows(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True))), clipped / steps


def discounted(reward: np.ndarray, gamma: float) -> np.ndarray:
    """(T,) sums of what is still to come."""
    to_go, total = np.zeros(len(reward)), 0.0
    for step in range(len(reward) - 1, -1, -1):
        total = reward[step] + gamma * total
        to_go[step] = total
    return to_go


class Buffer:
    """Rows that grow, the oldest forgotten."""

    def __init__(self, capacity: int = 200_000) -> None:
        """Empty."""
        self.capacity, self.rows = capacity, 0
        self._alone = threading.Lock()
        self._parts: Rows | None = None

    def __len__(self) -> int:
        """Rows that are in it."""
        return min(self.rows, self.capacity)

    def add(self, rows: Rows) -> None:
        """Take rows in, at once: a reader in another thread never meets half of them."""
        with self._alone:
            self._add(rows)

    def _add(self, rows: Rows) -> None:
        rows = rows if len(rows) <= self.capacity else rows.take(np.arange(-self.capacity, 0))
        if self._parts is None:
            self._parts = Rows(*(np.zeros((self.capacity, *a.shape[1:]), a.dtype) for a in rows))
        places = (self.rows + np.arange(len(rows))) % self.capacity
        for kept, new in zip(self._parts, rows, strict=True):
            kept[places] = new
        self.rows += len(rows)

    def sample(self, rng: np.random.Generator, count: int) -> Rows:
        """Any rows, with the same chance.

        Raises:
            InputError: If there is none.
        """
        with self._alone:
            if self._parts is None or len(self) == 0:
                raise InputError("nothing to learn from: a view of the mix is empty")
            return self._parts.take(rng.integers(0, len(self), count))


class Mix:
    """Buffers with shares that are exact in every minibatch."""

    def __init__(self, parts: Mapping[str, tuple[Buffer, float]]) -> None:
        """Remember.

        Raises:
            InputError: If the shares do not add up to 1.
        """
        total = sum(share for _, share in parts.values())
        if abs(total - 1.0) > 1e-9 or min(share for _, share in parts.values()) <= 0.0:
            raise InputError(f"shares of a mix are above 0 and add up to 1; got {total:g}")
        self.parts = dict(parts)

    def counts(self, size: int) -> dict[str, int]:
        """Rows of each part in a minibatch of this size; what is left over goes to the first."""
        counts = {name: int(share * size + 1e-9) for name, (_, share) in self.parts.items()}
        first = next(iter(counts))
        counts[first] += size - sum(counts.values())
        if min(counts.values()) < 1:
            raise InputError(f"a minibatch of {size} leaves no row for a part of the mix")
        return counts

    def sample(self, rng: np.random.Generator, size: int) -> Rows:
        """One minibatch."""
        drawn = [self.parts[name][0].sample(rng, count)
                 for name, count in self.counts(size).items()]  # fmt: skip
        return Rows(*(np.concatenate(arrays) for arrays in zip(*drawn, strict=True)))
