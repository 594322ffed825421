"""Where episodes begin: with the clip, anywhere in it, or again where one failed.

The first frame is where a robot begins, and the noise there is what it has to recover from. What
failed is tried again, because starts that are easy by now teach nothing.

    sampler = StartSampler(StartConfig(), rows, robot, num_envs=512, rng=rng)
    start = sampler.draw(env_ids)          # frame (n,), qpos (n, nq), qvel (n, nv)
    sampler.learn(env_ids_that_failed)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from asap.reference_rows import ReferenceRows
from asap.robot import Robot
from asap.tracking import start_states
from asap_deploy.errors import InputError
from asap_deploy.motion import MotionFrame

_REMEMBERED = 1024
"""Starts that failed, the latest of them."""


@dataclass(frozen=True, kw_only=True)
class StartConfig:
    """How episodes begin."""

    noise: tuple[float, float] = (0.2, 1.2)
    """Multiple of the original's start noise; every episode draws its own between these."""
    at_first: float = 0.5
    """Fraction of episodes that begin with the clip; the others begin anywhere in it."""
    again: float = 0.25
    """Fraction of episodes that begin where another one failed."""

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        low, high = self.noise
        if not 0.0 <= low <= high:
            raise InputError(f"start noise must be two rising numbers from 0; got {low}, {high}")
        for name in ("at_first", "again"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise InputError(f"{name} must be between 0 and 1; got {getattr(self, name)}")


class Start(NamedTuple):
    """States of n robots that begin."""

    frame: np.ndarray
    """(n,) frame of the clip"""
    qpos: np.ndarray
    qvel: np.ndarray


class StartSampler:
    """Draws starts, and remembers those from which robots failed."""

    def __init__(
        self,
        config: StartConfig,
        reference: ReferenceRows,
        robot: Robot,
        num_envs: int,
        rng: np.random.Generator,
    ) -> None:
        """Nothing has failed yet.

        Args:
            config: Fractions and noise.
            reference: The clip, or clips; an episode may begin in any frame but the last.
            robot: What begins.
            num_envs: Robots N.
            rng: Of every draw.
        """
        self.config, self.robot, self.rng, self._reference = config, robot, rng, reference
        self._anywhere = reference.starts
        model = robot.model

        def room(rows: int) -> Start:
            frame = np.zeros(rows, dtype=np.intp)
            return Start(frame, np.zeros((rows, model.nq)), np.zeros((rows, model.nv)))

        self._begun, self._hard, self._count = room(num_envs), room(_REMEMBERED), 0

    def draw(self, env_ids: np.ndarray) -> Start:
        """Starts for these robots (n,)."""
        config, count, firsts = self.config, len(env_ids), self._reference.firsts
        anywhere = self._anywhere[self.rng.integers(0, len(self._anywhere), count)]
        first = self.rng.random(count) < config.at_first
        clip = self.rng.integers(0, len(firsts), count) if len(firsts) > 1 else 0
        frame = np.where(first, firsts[clip], anywhere)
        frames = MotionFrame(*(array[frame] for array in self._reference.frames))
        noise = self.rng.uniform(*config.noise, count)
        qpos, qvel = start_states(frames, self.robot, self.rng, noise=noise, at_rest=False)
        # On the real robot a clip begins at rest.
        rest = first & (self.rng.random(count) < 0.5)
        qvel[rest] = 0.0
        start = self._replayed(Start(frame, qpos, qvel))
        for kept, drawn in zip(self._begun, start, strict=True):
            kept[env_ids] = drawn
        return start

    def learn(self, env_ids: np.ndarray) -> None:
        """These robots (n,) failed: they may begin there again."""
        places = (self._count + np.arange(len(env_ids))) % _REMEMBERED
        for hard, begun in zip(self._hard, self._begun, strict=True):
            hard[places] = begun[env_ids]
        self._count += len(env_ids)

    def snapshot(self) -> dict[str, np.ndarray]:
        """What the next draw depends on, beside the random generator."""
        named = {
            f"{name}.{field}": array.copy()
            for name, starts in (("begun", self._begun), ("hard", self._hard))
            for field, array in starts._asdict().items()
        }
        return named | {"count": np.array(self._count)}

    def restore(self, snapshot: dict[str, np.ndarray]) -> None:
        """Undo what happened since the snapshot."""
        for name, starts in (("begun", self._begun), ("hard", self._hard)):
            for field, array in starts._asdict().items():
                array[:] = snapshot[f"{name}.{field}"]
        self._count = int(snapshot["count"])

    def _replayed(self, start: Start) -> Start:
        """Some of the starts replaced by such as failed."""
        known = min(self._count, _REMEMBERED)
        if known == 0 or self.config.again == 0.0:
            return start
        rows = np.flatnonzero(self.rng.random(len(start.frame)) < self.config.again)
        picked = self.rng.integers(0, known, len(rows))
        for array, hard in zip(start, self._hard, strict=True):
            array[rows] = hard[picked]
        return start
