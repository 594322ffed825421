"""PPO on a task: the one that trains trackers, with weights that are held.

facts = improve(task, actor, PpoStage(iterations=25), seed=0, hold=actor.trunk)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from asap.env import Observation, Transition
from asap.posttrain.actors import Gaussian
from asap.posttrain.looks import Best, Look, look
from asap.posttrain.regress import held
from asap.posttrain.task import Task
from asap.ppo import PpoConfig, TrackerPPO
from asap.vecenv import TrackingVecEnv


def small_ppo() -> PpoConfig:
    """For a task of few numbers: whole episodes, some of them successes."""
    return PpoConfig(
        horizon=90, minibatches=8, epochs=4, gamma=0.97, entropy=0.0, reward_scale=1.0,
        learning_rate=1e-3, first_rate=3e-4, target_kl=0.02, last_kl=None, log_std=-1.0,
        learning_rate_bounds=(1e-5, 3e-3), actor=(64, 64), critic=(64, 64), torch_threads=1,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PpoStage:
    """How long."""

    iterations: int = 25
    warmup: int = 2
    """Iterations at first in which the critic learns alone."""
    ppo: PpoConfig = field(default_factory=small_ppo)
    """Widths of the actor follow the policy."""


class Restarting:
    """A task as environments that begin anew by themselves, as PPO wants them."""

    def __init__(self, task: Task, rng: np.random.Generator) -> None:
        """Nothing has begun."""
        self.task, self.rng, self.num_envs = task, rng, task.num_envs

    @property
    def contract(self) -> Restarting:
        """Says what is acted on."""
        return self

    @property
    def action_joint_names(self) -> tuple[str, ...]:
        """Of the task."""
        return self.task.action_names

    def reset(self) -> Observation:
        """Start all."""
        self._start(np.arange(self.num_envs))
        return self._observe()

    def step(self, action: np.ndarray) -> Transition:
        """One step of all.

        Time that runs out ends an episode as failure does: nothing is bootstrapped from states
        that are never trained on.
        """
        step = self.task.step(action)
        over = step.terminated | step.truncated
        reward = np.asarray(self.task.reward(step.reward_terms), dtype=np.float32)
        facts = {"reward": float(reward.mean()), "ended": float(over.sum()),
                 "succeeded": float((over & step.success).sum())}  # fmt: skip
        if over.any():
            self._start(np.flatnonzero(over))
        return Transition(self._observe(), reward, over, facts)

    def _start(self, env_ids: np.ndarray) -> None:
        self.task.start(env_ids, self.rng.integers(0, 2**31, len(env_ids)))

    def _observe(self) -> Observation:
        seen = self.task.observe()
        return {"actor": seen, "critic": seen}


def improve(
    task: Task, actor: Gaussian, stage: PpoStage, *, seed: int,
    hold: Callable[[Gaussian], Sequence[nn.Parameter]] = lambda actor: (),
    after: Callable[[int], None] = lambda iteration: None,
) -> float:  # fmt: skip
    """Move an actor by PPO; a critic of the same shape is made for it and forgotten.

    Args:
        task: Robots side by side.
        actor: Is changed.
        stage: How long.
        seed: Of everything random.
        hold: Weights that stay, to the byte.
        after: Called after every iteration, for a control that does something else as well.

    Returns:
        Share of episodes that succeeded, of those that ended in the last quarter.
    """
    ppo = TrackerPPO(TrackingVecEnv(Restarting(task, np.random.default_rng(seed))), stage.ppo, seed)
    ended = succeeded = 0.0
    with _lent(ppo, actor), held(hold(actor)):
        for iteration in range(stage.iterations):
            with held([*actor.net.parameters()] if iteration < stage.warmup else []):
                facts = ppo.iterate(iteration / stage.iterations)
            if iteration >= 0.75 * stage.iterations:  # an iteration may be shorter than a clip
                ended, succeeded = ended + facts["ended"], succeeded + facts["succeeded"]
            after(iteration)
    return succeeded / ended if ended else 0.0


def improve_best(
    task: Task, actor: Gaussian, stage: PpoStage, *, seed: int, judge: Task, episodes: int,
    hold: Callable[[Gaussian], Sequence[nn.Parameter]] = lambda actor: (),
    after: Callable[[int], None] = lambda iteration: None,
    looked: Callable[[Look], None] = lambda look: None,
) -> list[Look]:  # fmt: skip
    """As ``improve``, and ends with the actor of the best look, the start among them.

    Args:
        task: Robots side by side.
        actor: Is changed.
        stage: How long.
        seed: Of everything random.
        judge: Where ten looks are taken; not the task that is learned on, whose episodes go on.
        episodes: Of a look.
        hold: Weights that stay, to the byte.
        after: Called after every iteration, before a look.
        looked: Told every look.
    """
    curve = [look(0, actor, judge, episodes)]
    best = Best(actor, curve)
    each, every = stage.ppo.horizon * task.num_envs, max(1, stage.iterations // 10)

    def then(iteration: int) -> None:
        after(iteration)
        if (iteration + 1) % every == 0:
            curve.append(look((iteration + 1) * each, actor, judge, episodes))
            looked(curve[-1])
            best.compare(curve[-1])

    improve(task, actor, stage, seed=seed, hold=hold, after=then)
    best.restore()
    return curve


@contextmanager
def _lent(ppo: TrackerPPO, actor: Gaussian) -> Iterator[None]:
    """PPO trains the actor's own layers; its spread is the actor's, and stays."""
    tracker = ppo.tracker
    tracker.towers.policy_net = nn.Sequential(actor.net)
    tracker.action_net = nn.Identity()
    norm = tracker.towers.actor_norm
    norm.freeze(torch.zeros_like(norm.mean), torch.ones_like(norm.mean), None)
    with torch.no_grad():
        tracker.log_std.copy_(actor.log_std)
    tracker.log_std.requires_grad_(False)
    tracker.optimizer = torch.optim.Adam(
        [weight for weight in tracker.parameters() if weight is not tracker.log_std],
        lr=1e-3,
        eps=1e-5,
    )
    yield
