"""GRAPE: taste, from pairs of whole episodes that began alike: more like the better one.

    found = grape(task, actor, safe, GrapeConfig(), seed=0)
    found.rounds[-1].chosen_log_ratio, found.aborted

The loss as published destroys a Gaussian policy: its likelihood falls without bound, so pushing the
mean away from both episodes of a pair is what pays best. Here every state that was visited anchors
the policy to what it was, and a round whose chosen episodes become unlikely is undone.

Source: Zhang et al. 2024 (GRAPE), equations 3 to 6; the anchor is ours.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from asap.posttrain.actors import LOG_PROB, Gaussian, require
from asap.posttrain.collect import collect
from asap.posttrain.episode import Episode, Pair, pair
from asap.posttrain.task import Task
from asap_deploy.errors import InputError

Cost = Callable[[Episode], Sequence[float]]
"""Costs of the stages of an episode, 0 is best."""


@dataclass(frozen=True, kw_only=True)
class GrapeConfig:
    """How many episodes, how strongly."""

    rounds: int = 3
    """Each with new episodes; the policy at its start is what pairs are compared with."""
    starts: int = 40
    """Different starts in a round."""
    tries: int = 5
    """Episodes from each."""
    pairs: int = 1
    """Of each start: the best and the worst, the second best and the second worst, ..."""
    beta: float = 0.1
    """Of the pair loss: how strongly it pulls back to the reference."""
    anchor: float = 3.0
    """Weight of the divergence from the policy at the start of the round, on states that were
    visited; 0 is the loss as published."""
    steps: int = 30
    """Of the optimiser in a round, each over all pairs."""
    learning_rate: float = 1e-3
    """Of a policy of a point mass; trackers take a tenth or less."""
    score_success: float = 2.0
    """Of success in the score of an episode."""
    score_cost: float = 1.0
    """Of the product over stages of exp(-cost)."""
    score_self: float = 0.0
    """Of the mean log-likelihood of a step under the policy itself."""
    clone_chosen: bool = False
    """The better of every pair is cloned instead, nothing is pushed away: the control."""
    abort_below: float = -2.0
    """A round is undone, and the last, if chosen episodes become less likely than this [nat]."""

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        if self.tries < 2:
            raise InputError("grape needs at least two tries from a start to make a pair")
        if not 1 <= self.pairs <= self.tries // 2:
            raise InputError(f"grape.pairs must be 1 to {self.tries // 2}, half of the tries; got "
                             f"{self.pairs}")  # fmt: skip

    @classmethod
    def paper(cls) -> GrapeConfig:
        """Whole episodes, no anchor, few and small steps. Source: section 3 and appendix."""
        return cls(anchor=0.0, learning_rate=2e-5, steps=5, score_self=0.01, score_cost=0.01)


class Round(NamedTuple):
    """What one round did."""

    success: float
    """Of the episodes that were sampled before it"""
    cost: float
    """Their mean cost over stages"""
    length: float
    pairs: int
    chosen_log_ratio: float
    """Mean over pairs after it [nat]: below 0 the better became less likely"""
    accuracy: float
    """Share of pairs in which the better became more likely than the worse; says little alone"""


class Preferred(NamedTuple):
    """How it ended."""

    rounds: list[Round]
    aborted: bool
    pairs: list[Pair]


def grape(
    task: Task, actor: Gaussian, cost: Cost, config: GrapeConfig, *, seed: int,
    told: Callable[[Round], None] = lambda one: None, stopped: Callable[[], bool] = lambda: False,
) -> Preferred:  # fmt: skip
    """Sample, score, pair, fit; again.

    Args:
        task: Where; its starts can be repeated.
        actor: Is changed; its spread stays.
        cost: What is wanted less.
        config: How.
        seed: Of everything random.
        told: Every round.
        stopped: Asked before every round; ends with what there is.
    """
    require(actor.caps, LOG_PROB, "grape")
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    rounds: list[Round] = []
    every: list[Pair] = []
    for _ in range(config.rounds):
        if stopped():
            break
        starts = np.repeat(rng.integers(0, 2**31, config.starts), config.tries)
        found = collect(task, actor.act, len(starts), rng, seeds=starts.tolist())
        scores = _scores(found, task, actor, cost, config)
        chosen = _pairs(scores, config)
        named = [pair(found[good], found[bad], (scores[good], scores[bad])) for good, bad in chosen]
        before = copy.deepcopy(actor.net.state_dict())
        ratio, accuracy = _fit([found[good] for good, _ in chosen],
                               [found[bad] for _, bad in chosen], task, actor, config)  # fmt: skip
        every += named
        rounds.append(_round(found, cost, len(chosen), ratio, accuracy))
        told(rounds[-1])
        if ratio < config.abort_below:
            actor.net.load_state_dict(before)
            return Preferred(rounds, True, every)
    return Preferred(rounds, False, every)


def _scores(
    found: Sequence[Episode], task: Task, actor: Gaussian, cost: Cost, config: GrapeConfig
) -> list[float]:
    """A score is success + R_ext + R_self; R_ext = prod over stages of exp(-cost)."""
    scores = []
    for one in found:
        score = config.score_success * float(one.success or False)
        score += config.score_cost * float(np.exp(-np.sum(cost(one))))
        if config.score_self:
            with torch.no_grad():
                log_prob = actor.log_prob(*_steps(one, task))
            score += config.score_self * float(log_prob.mean())
        scores.append(score)
    return scores


def _pairs(scores: Sequence[float], config: GrapeConfig) -> list[tuple[int, int]]:
    """Of every start the best and the worst, and so on, where they differ."""
    chosen = []
    for first in range(0, len(scores), config.tries):
        places = sorted(range(first, first + config.tries), key=scores.__getitem__)
        some = zip(places[::-1][: config.pairs], places[: config.pairs], strict=True)
        chosen += [(good, bad) for good, bad in some if scores[good] > scores[bad] + 1e-9]
    return chosen


def _fit(
    good: Sequence[Episode], bad: Sequence[Episode], task: Task, actor: Gaussian,
    config: GrapeConfig,
) -> tuple[float, float]:  # fmt: skip
    """-log sigmoid(beta (log-ratio of the better - log-ratio of the worse)) + anchor KL.

    Returns:
        Mean log-ratio of the better, and the share of pairs that are in order, at the end.
    """
    if not good:
        return 0.0, 0.0
    episodes, count = [*good, *bad], len(good)
    parts = [_steps(one, task) for one in episodes]
    observation, action = (torch.cat(arrays) for arrays in zip(*parts, strict=True))
    owner = torch.as_tensor(np.repeat(np.arange(len(episodes)), [one.steps for one in episodes]))
    std = torch.exp(actor.log_std.detach())
    with torch.no_grad():
        mean_before = actor.net(observation)
        before = actor.log_prob(observation, action)
    steps = torch.optim.Adam(actor.net.parameters(), lr=config.learning_rate)
    ratios = torch.zeros(len(episodes))
    for step in range(config.steps + 1):
        mean = actor.net(observation)
        now = -0.5 * ((action - mean) / std).square().sum(-1) - _constant(std)
        ratios = torch.zeros(len(episodes)).index_add(0, owner, now - before)
        if step == config.steps:
            break
        if config.clone_chosen:
            loss = -now[owner < count].mean()
        else:
            margin = config.beta * (ratios[:count] - ratios[count:])
            away = 0.5 * ((mean - mean_before) / std).square().sum(-1).mean()
            loss = -torch.nn.functional.logsigmoid(margin).mean() + config.anchor * away
        steps.zero_grad()
        loss.backward()
        steps.step()
    better, worse = ratios[:count].detach(), ratios[count:].detach()
    return float(better.mean()), float((better > worse).float().mean())


def _steps(episode: Episode, task: Task) -> tuple[torch.Tensor, torch.Tensor]:
    """Observations (T, D) and what the policy wanted (T, A)."""
    seen = task.observations(episode)[:-1]
    return torch.as_tensor(seen), torch.as_tensor(episode.action_policy.astype(np.float32))


def _constant(std: torch.Tensor) -> torch.Tensor:
    """Of a Gaussian's log-density."""
    return (torch.log(std) + 0.5 * float(np.log(2.0 * np.pi))).sum()


def _round(
    found: Sequence[Episode], cost: Cost, pairs: int, ratio: float, accuracy: float
) -> Round:
    success = float(np.mean([bool(one.success) for one in found]))
    total = float(np.mean([np.sum(cost(one)) for one in found]))
    length = float(np.mean([one.steps for one in found]))
    return Round(success, total, length, pairs, ratio, accuracy)
