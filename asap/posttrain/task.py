"""What post-training asks of an environment: raw state, observations from it, steps, labels.

task.start(np.arange(task.num_envs), seeds)
observation = task.observe()                     # (N, D)
step = task.step(action)                         # of all N
task.observations(episode)                       # (T + 1, D), the same numbers, rebuilt
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import numpy as np

from asap.posttrain.episode import Episode


class Step(NamedTuple):
    """What one step of N robots gave."""

    reward_terms: dict[str, np.ndarray]
    """(N,) by name"""
    terminated: np.ndarray
    """(N,) bool: over for good"""
    truncated: np.ndarray
    """(N,) bool: the time is over"""
    success: np.ndarray
    """(N,) bool, where it ended"""
    executed: np.ndarray
    """(N, A) the action after every limit of the robot"""


class Task(Protocol):
    """N robots with one aim."""

    num_envs: int
    control_dt: float

    @property
    def name(self) -> str:
        """Robot and aim, for episodes."""
        ...

    @property
    def motion(self) -> str:
        """Clip that is tracked, or nothing."""
        ...

    @property
    def environment(self) -> str:
        """real, nominal or corrected:HASH."""
        ...

    @property
    def action_names(self) -> tuple[str, ...]:
        """One for each number of an action."""
        ...

    @property
    def observation_width(self) -> int:
        """D."""
        ...

    @property
    def state_width(self) -> int:
        """K."""
        ...

    def start(self, env_ids: np.ndarray, seeds: np.ndarray) -> None:
        """Begin episodes; one seed is one start."""
        ...

    def channels(self) -> dict[str, np.ndarray]:
        """Raw state (N, ...) as it is now."""
        ...

    def observe(self) -> np.ndarray:
        """(N, D) float32, once before every step."""
        ...

    def observations(self, episode: Episode) -> np.ndarray:
        """(T + 1, D) float32 from the raw channels: what ``observe`` said then."""
        ...

    def states(self, episode: Episode) -> np.ndarray:
        """(T + 1, K) float32 what critics see beside the observation, and no policy ever does."""
        ...

    def step(self, action: np.ndarray) -> Step:
        """One control step of all under actions (N, A)."""
        ...

    def reward(self, terms: Mapping[str, np.ndarray]) -> np.ndarray:
        """(T,) of reward terms, weighted."""
        ...
