"""RLPD: few steps of the robot, helped by whatever data there are, half of every minibatch.

    found = rlpd(task, actor, prior_episodes, RlpdConfig(), seed=0)
    found.curve                                      # successes of greedy episodes, by steps

Source: Ball et al. 2023. Without prior data (``prior_share`` 0) it is SAC, its control.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from asap.posttrain.actors import RSAMPLE, Bounded, InputNorm, require
from asap.posttrain.collect import Operator, collect
from asap.posttrain.episode import Episode
from asap.posttrain.looks import Best, Look, look
from asap.posttrain.soft_q import SoftQ, SoftQConfig
from asap.posttrain.task import Task
from asap.posttrain.views import Buffer, Mix, rows_of
from asap_deploy.errors import InputError


@dataclass(frozen=True, kw_only=True)
class RlpdConfig:
    """How long, and with what."""

    steps: int = 2500
    """Of the robot, all together."""
    random_steps: int = 250
    """At first any action is tried: a policy that is good already needs none."""
    prior_share: float = 0.5
    """Of every minibatch; 0: without prior data."""
    judge_every: int = 250
    """Steps between looks."""
    judge_episodes: int = 10
    keep_best: bool = False
    """End with the head of the best look, by return, the start among them."""
    q: SoftQConfig = field(default_factory=SoftQConfig.cpu)
    """The engine."""

    @classmethod
    def paper(cls) -> RlpdConfig:
        """Source: the official code's defaults."""
        return cls(steps=300_000, random_steps=5000, judge_every=5000, q=SoftQConfig())


class Tuned(NamedTuple):
    """What a recipe of this kind found."""

    curve: list[Look]
    episodes: list[Episode]
    """What the robot did"""
    intervened: list[float]
    """By episode, the share of steps that an operator took over"""
    clipped: float
    """Share of numbers of prior actions that the policy cannot do"""


def rlpd(
    task: Task, actor: Bounded, prior: Sequence[Episode], config: RlpdConfig, *, seed: int,
    judge: Task, operator: Operator | None = None, engine: SoftQ | None = None,
    normal: InputNorm | None = None,
    looked: Callable[[Look], None] = lambda look: None,
    scheduled: Callable[[float, SoftQ], None] = lambda share, engine: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Tuned:  # fmt: skip
    """Learn.

    Args:
        task: The robot, or the corrected simulator.
        actor: Is changed.
        prior: Episodes from before; none is an error unless their share is 0.
        config: How.
        seed: Of everything random.
        judge: Where looks are taken: robots side by side.
        operator: Who may take over; what they do is shown and joins the prior data.
        engine: One that has learned already.
        normal: Of observations, for a new engine.
        looked: Told every look.
        stopped: Asked before every episode and step of learning; ends with what there is.
        scheduled: Called with the share of steps that is done, to change weights.

    Raises:
        InputError: If there are no prior data, or the actor gives no gradient.
    """
    require(actor.caps, RSAMPLE, "rlpd")
    rng = np.random.default_rng(seed)
    engine = engine or SoftQ.on(task, actor.head, config.q, seed, normal)
    online, shown, clipped = Buffer(), Buffer(), 0.0
    if config.prior_share and not prior and operator is None:
        raise InputError("rlpd needs prior episodes; without any it is SAC: prior_share 0")
    if prior and config.prior_share:
        rows, clipped = rows_of(prior, task, actor, gamma=config.q.gamma, ahead=config.q.ahead)
        shown.add(rows)
    found: list[Episode] = []
    curve = [look(0, actor, judge, config.judge_episodes)] if config.keep_best else []
    best = Best(actor, curve)
    intervened: list[float] = []
    steps = 0
    while steps < config.steps and not stopped():
        act = actor.act if steps >= config.random_steps else _anything(actor, rng)
        some = collect(task, act, task.num_envs, rng, operator=operator)
        found += some
        intervened += [float(one.operator_mask.any(axis=1).mean()) for one in some]
        rows, _ = rows_of(some, task, actor, gamma=config.q.gamma, ahead=config.q.ahead)
        online.add(rows)
        if operator is not None and rows.shown.any():
            shown.add(rows.take(np.flatnonzero(rows.shown)))
        before, steps = steps, steps + len(rows)
        mix = _mix(online, shown, config.prior_share)
        if steps > config.random_steps:
            for place in range(min(len(rows), config.steps - before)):
                if stopped():
                    break
                scheduled((before + place) / config.steps, engine)
                engine.update(mix, rng)
        if steps // config.judge_every > before // config.judge_every:
            curve.append(look(steps, actor, judge, config.judge_episodes))
            looked(curve[-1])
            best.compare(curve[-1])
    if config.keep_best:
        best.restore()
    return Tuned(curve, found, intervened, clipped)


def _mix(online: Buffer, shown: Buffer, share: float) -> Mix:
    if share == 0.0 or len(shown) == 0:
        return Mix({"online": (online, 1.0)})
    return Mix({"online": (online, 1.0 - share), "prior": (shown, share)})


def _anything(actor: Bounded, rng: np.random.Generator) -> Callable[[np.ndarray], np.ndarray]:
    """Any action within the bounds."""

    def act(observation: np.ndarray) -> np.ndarray:
        inner = rng.uniform(-1.0, 1.0, (len(observation), len(actor.bound)))
        base = actor.best(observation) if actor.base is not None else 0.0
        return np.asarray(base + inner * actor.bound)

    return act
