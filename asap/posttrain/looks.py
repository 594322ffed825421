"""Looks at a policy while it learns: greedy episodes, always from the same starts.

curve = [look(0, actor, judge, 16)]
best = Best(actor, curve)
best.compare(look(1000, actor, judge, 16))
best.restore()                                   # the weights of the best look
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from asap.posttrain.actors import Bounded, Gaussian
from asap.posttrain.collect import collect
from asap.posttrain.task import Task


class Look(NamedTuple):
    """One of them."""

    steps: int
    success: float
    """Share of greedy episodes"""
    length: float
    """Mean steps of an episode"""
    value: float = 0.0
    """Mean sum of rewards of an episode"""


def look(steps: int, actor: Bounded | Gaussian, judge: Task, episodes: int) -> Look:
    """Greedy episodes, always from the same starts."""
    found = collect(judge, actor.best, episodes, np.random.default_rng(10_000))
    success = [bool(one.success) for one in found]
    value = [judge.reward(one.reward_terms).sum() for one in found]
    length = [one.steps for one in found]
    return Look(steps, *(float(np.mean(numbers)) for numbers in (success, length, value)))


class Best:
    """What learns, as it was at the look with the largest return."""

    def __init__(self, actor: Bounded | Gaussian, curve: Sequence[Look]) -> None:
        """The start is the best so far."""
        learns = actor.head if isinstance(actor, Bounded) else actor.net
        self._weights = [*learns.parameters()]
        self._value = max((one.value for one in curve), default=-np.inf)
        self._kept = self._copy()

    def compare(self, one: Look) -> None:
        """Keep what is there, if this look was better."""
        if one.value > self._value:
            self._value, self._kept = one.value, self._copy()

    def restore(self) -> None:
        """Go back to the best."""
        for weight, old in zip(self._weights, self._kept, strict=True):
            weight.data.copy_(old)

    def _copy(self) -> list[torch.Tensor]:
        return [weight.detach().clone() for weight in self._weights]
