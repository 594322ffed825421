"""Supervised fitting: cloning with weights, weights that are held, and pairs with an anchor.

    clone(actor, Shown.of(episodes, task), CloneConfig(), seed=0)
    with held(actor.trunk()):
        ...                                          # no update moves these, to the byte

The engine of RLDG, of the second stage of iRe-VLA, and of GRAPE's loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import nn

from asap.posttrain.actors import Gaussian
from asap.posttrain.episode import Episode
from asap.posttrain.task import Task
from asap_deploy.errors import InputError


@dataclass(frozen=True, kw_only=True)
class CloneConfig:
    """How an actor is made to do what was done."""

    steps: int = 1500
    batch: int = 256
    learning_rate: float = 1e-3
    loss: Literal["mse", "nll"] = "mse"
    """nll divides by the actor's spread, which stays as it is."""


class Shown(NamedTuple):
    """What was seen, what was done there, and how much that counts."""

    observation: np.ndarray
    """(R, D)"""
    action: np.ndarray
    """(R, A) executed"""
    weight: np.ndarray
    """(R,)"""

    @classmethod
    def of(cls, episodes: Sequence[Episode], task: Task, weight: float = 1.0) -> Shown:
        """All steps of episodes.

        Raises:
            InputError: If there is none.
        """
        if not episodes:
            raise InputError("nothing to fit: there is no episode")
        seen = np.concatenate([task.observations(one)[:-1] for one in episodes])
        done = np.concatenate([one.action_executed for one in episodes])
        return cls(seen, done.astype(np.float32), np.full(len(done), weight, np.float32))

    def plus(self, other: Shown) -> Shown:
        """Both."""
        return Shown(*(np.concatenate(two) for two in zip(self, other, strict=True)))


def clone(actor: Gaussian, shown: Shown, config: CloneConfig, *, seed: int) -> float:
    """Move the mean towards what was done.

    Returns:
        The last loss.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    trained = [weight for weight in actor.net.parameters() if weight.requires_grad]
    steps = torch.optim.Adam(trained, lr=config.learning_rate)
    observation, action, weight = (torch.as_tensor(array) for array in shown)
    last = float("nan")
    for _ in range(config.steps):
        places = torch.as_tensor(rng.integers(0, len(weight), config.batch))
        if config.loss == "nll":
            error = -actor.log_prob(observation[places], action[places])
        else:
            error = (actor.net(observation[places]) - action[places]).square().mean(-1)
        loss = (weight[places] * error).mean()
        steps.zero_grad()
        loss.backward()
        steps.step()
        last = float(loss.detach())
    return last


@contextmanager
def held(weights: Sequence[nn.Parameter]) -> Iterator[None]:
    """Within it no update moves these.

    Without a gradient Adam leaves a weight as it is, decay and momentum included.
    """
    before = [weight.requires_grad for weight in weights]
    for weight in weights:
        weight.requires_grad_(False)
        weight.grad = None
    try:
        yield
    finally:
        for weight, was in zip(weights, before, strict=True):
            weight.requires_grad_(was)
