"""A point mass in a U-shaped corridor: a task of twenty lines in which every method can fail.

It starts bottom left; the goal is top left; it has inertia, and walls stop it. Reward comes at the
goal alone: uniform random actions never see it. Goals can be moved and actuators turned, which
makes new tasks of it, and contacts with walls can be counted, which gives taste something to want.

    task = Corridor(num_envs=64)
    task.start(np.arange(64), seeds)
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from asap.posttrain.episode import Episode
from asap.posttrain.task import Step

_ROOMS = np.array([[-0.5, 2.5, -0.5, 0.5], [1.5, 2.5, -0.5, 2.5], [-0.5, 2.5, 1.5, 2.5]])
"""x from, to, y from, to: bottom, right, top; their union is free."""
_DRAG, _PUSH = 0.8, 0.05
_GOAL_RADIUS, _START_NOISE = 0.35, 0.12
CORNERS = np.array([[0.0, 0.0], [2.0, 0.0], [2.0, 2.0], [0.0, 2.0]])
"""The middle of the corridor, from start to goal: 6 long."""


@dataclass(frozen=True, kw_only=True)
class CorridorConfig:
    """Which task of the family."""

    goals: tuple[tuple[float, float], ...] = ((0.0, 2.0),)
    """An episode draws one of these."""
    turns: tuple[float, ...] = (0.0,)
    """By so much is what is pushed turned [rad]; an episode draws one."""
    horizon: int = 90
    """Steps until it is truncated."""
    success_reward: float = 1.0
    step_reward: float = 0.0


class Corridor:
    """N point masses."""

    name, motion, environment, control_dt = "corridor", "", "nominal", 0.1
    action_names = ("push_x", "push_y")
    observation_width, state_width = 8, 0

    def __init__(self, num_envs: int = 1, config: CorridorConfig | None = None) -> None:
        """All at the start."""
        self.num_envs, self.config = num_envs, config or CorridorConfig()
        self.pos, self.vel, self.goal = (np.zeros((num_envs, 2)) for _ in range(3))
        self.turn, self.age = np.zeros(num_envs), np.zeros(num_envs, dtype=int)

    def start(self, env_ids: np.ndarray, seeds: np.ndarray) -> None:
        """Near the start, with a goal and a turn of the config's."""
        goals, turns = np.array(self.config.goals), self.config.turns
        for env, seed in zip(env_ids, seeds, strict=True):
            rng = np.random.default_rng(int(seed))
            self.pos[env] = rng.uniform(-_START_NOISE, _START_NOISE, 2)
            self.goal[env] = goals[rng.integers(len(goals))]
            self.turn[env] = turns[rng.integers(len(turns))]
        self.vel[env_ids], self.age[env_ids] = 0.0, 0

    def channels(self) -> dict[str, np.ndarray]:
        """Position, velocity, goal, turn."""
        return {"pos": self.pos.copy(), "vel": self.vel.copy(), "goal": self.goal.copy(),
                "turn": self.turn.copy()}  # fmt: skip

    def observe(self) -> np.ndarray:
        """Everything, scaled to about 1."""
        return _observation(self.channels())

    def observations(self, episode: Episode) -> np.ndarray:
        """The same from an episode."""
        return _observation(episode.channels)

    def states(self, episode: Episode) -> np.ndarray:
        """Nothing that is not observed."""
        return np.zeros((episode.steps + 1, 0), np.float32)

    def step(self, action: np.ndarray) -> Step:
        """Push; walls stop what runs into them."""
        executed = np.clip(action, -1.0, 1.0)
        cos, sin = np.cos(self.turn), np.sin(self.turn)
        push = np.stack([cos * executed[:, 0] - sin * executed[:, 1],
                         sin * executed[:, 0] + cos * executed[:, 1]], axis=1)  # fmt: skip
        self.vel = _DRAG * self.vel + _PUSH * push
        contact = np.zeros(self.num_envs)
        for axis in range(2):
            moved = self.pos.copy()
            moved[:, axis] += self.vel[:, axis]
            free = is_free(moved)
            self.pos = np.where(free[:, None], moved, self.pos)
            self.vel[~free, axis] = 0.0
            contact += ~free
        self.age += 1
        success = np.linalg.norm(self.pos - self.goal, axis=1) < _GOAL_RADIUS
        terms = {"success": success.astype(float), "contact": (contact > 0).astype(float),
                 "step": np.ones(self.num_envs)}  # fmt: skip
        truncated = ~success & (self.age >= self.config.horizon)
        return Step(terms, success, truncated, success, executed)

    def reward(self, terms: Mapping[str, np.ndarray]) -> np.ndarray:
        """Success, and what a step costs."""
        config = self.config
        return config.success_reward * terms["success"] + config.step_reward * terms["step"]


def _observation(channels: Mapping[str, np.ndarray]) -> np.ndarray:
    turn = channels["turn"][:, None]
    columns = [channels["pos"] - 1.0, 5.0 * channels["vel"], channels["goal"] - 1.0,
               np.cos(turn), np.sin(turn)]  # fmt: skip
    return np.concatenate(columns, axis=1).astype(np.float32)


def is_free(pos: np.ndarray) -> np.ndarray:
    """(N,) whether points (N, 2) lie in the corridor."""
    x, y = pos[:, 0, None], pos[:, 1, None]
    inside = (_ROOMS[:, 0] <= x) & (x <= _ROOMS[:, 1]) & (_ROOMS[:, 2] <= y) & (y <= _ROOMS[:, 3])
    return np.asarray(inside.any(axis=1))


def progress(pos: np.ndarray) -> np.ndarray:
    """(N,) how far along the middle of the corridor points (N, 2) are, 0 to 6."""
    best = np.full(len(pos), np.inf)
    along = np.zeros(len(pos))
    for place, (a, b) in enumerate(itertools.pairwise(CORNERS)):
        share = np.clip((pos - a) @ (b - a) / 4.0, 0.0, 1.0)
        apart = np.linalg.norm(pos - (a + share[:, None] * (b - a)), axis=1)
        nearer = apart < best
        best, along = np.where(nearer, apart, best), np.where(nearer, 2.0 * (place + share), along)
    return along


class Walker:
    """Somebody who knows the way: from corner to corner, at a pace, with an unsteady hand.

    Acts on states, not on observations: it plays demonstrators and operators.
    """

    def __init__(self, rng: np.random.Generator, *, pace: float = 1.0, noise: float = 0.0,
                 until: float = 6.0) -> None:  # fmt: skip
        """Begin anywhere.

        Args:
            rng: Of its hand.
            pace: Of full push.
            noise: Standard deviation of its push.
            until: Progress at which it stops.
        """
        self.rng, self.pace, self.noise, self.until = rng, pace, noise, until

    def act(self, channels: Mapping[str, np.ndarray]) -> np.ndarray:
        """Pushes (N, 2) towards the next corner, against the turn of the actuators."""
        pos, vel, goal = channels["pos"], channels["vel"], channels["goal"]
        along = progress(pos)
        corner = np.where(along[:, None] < 1.7, CORNERS[1],
                          np.where(along[:, None] < 3.7, CORNERS[2], goal))  # fmt: skip
        away = corner - pos
        wanted = away / np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-6)
        push = self.pace * (2.0 * wanted - 4.0 * vel / 0.25 * 0.25)
        push = push / np.maximum(1.0, np.linalg.norm(push, axis=1, keepdims=True) / self.pace)
        push = np.where((along < self.until)[:, None], push, 0.0)
        cos, sin = np.cos(channels["turn"]), np.sin(channels["turn"])
        push = np.stack([cos * push[:, 0] + sin * push[:, 1],
                         cos * push[:, 1] - sin * push[:, 0]], axis=1)  # fmt: skip
        return np.clip(push + self.noise * self.rng.standard_normal(push.shape), -1.0, 1.0)
