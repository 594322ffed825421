"""ConRFT: learn to value from a few demonstrations, then go on with the robot from there.

    actor = Bounded(ConsistencyHead(width, actions, (64, 64)), bound=np.ones(actions))
    found = conrft(task, actor, demos, ConrftConfig(), seed=0, judge=judge)
    found.offline.success, [look.length for look in found.online]

Offline the head clones the demonstrations while critics learn what they were worth, floored at what
they reached; that does not raise success, it lets the second stage begin without a fall. Online it
is RLPD with the demonstrations as prior data, and cloning goes on: beta BC - eta Q.

Source: Chen et al. 2025, Nakamoto et al. 2023 for the floor. What is cloned and how Q is scaled
differ from the paper by default, whose form (``ConrftConfig.paper``) can lose what was learned.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch

from asap.posttrain.actors import RSAMPLE, Bounded, Head, InputNorm, require
from asap.posttrain.collect import Operator
from asap.posttrain.episode import Episode
from asap.posttrain.looks import Look, look
from asap.posttrain.rlpd import RlpdConfig, rlpd
from asap.posttrain.soft_q import SoftQ, SoftQConfig, TensorRows
from asap.posttrain.task import Task
from asap.posttrain.views import Buffer, rows_of
from asap_deploy.errors import InputError


def _cpu() -> RlpdConfig:
    return RlpdConfig(
        steps=1500, random_steps=0, judge_every=300, judge_episodes=20,
        q=SoftQConfig.cpu(critic_steps=2, temperature=None, clone_weight=1.0),
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ConrftConfig:
    """Both stages. The defaults are for two cores."""

    offline_steps: int = 3000
    """Of the actor, on demonstrations alone."""
    offline_critic: bool = True
    """False: the head only clones, critics begin online; that is plain fine-tuning, the control."""
    offline_batch: int = 64
    """The floor looks at 24 more actions for each row, so a minibatch is smaller here."""
    offline_clone: float = 1.0
    """beta offline."""
    offline_value: float = 1.0
    """eta offline; the paper's 0.1 belongs to values that are not scaled."""
    floor_weight: float = 0.1
    """Of the conservative term offline; online there is none."""
    clone: float = 1.0
    """beta at the start of the online stage."""
    clone_floor: float = 0.75
    """beta at its end: it falls linearly, and never lower. Measured on the corridor: with 0.5 it
    ends at 0.72 to 0.80 of the demonstrations' steps, but two runs of four failed in one look after
    1200 steps; with 1 none of three did, and they end at 0.76 to 0.87."""
    fade: float = 1.0
    """Share of the online steps after which beta has come down to its floor."""
    value: float = 1.0
    """eta online."""
    online: RlpdConfig = field(default_factory=_cpu)
    """The online stage. Its engine is that of both stages, so there is one gamma: of targets, and
    of what demonstrations reached."""

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        online, q = self.online, self.online.q
        if online.random_steps or not 0.0 < online.prior_share < 1.0:
            raise InputError("conrft begins online with a policy and its demonstrations: "
                             "random_steps must be 0 and prior_share between 0 and 1; "
                             f"got {online.random_steps} and {online.prior_share:g}")  # fmt: skip
        if q.temperature is not None or q.floor_weight:
            raise InputError("conrft has no entropy, and no value floor online: temperature must "
                             "be None and q.floor_weight 0")  # fmt: skip
        if not (0.0 < self.fade <= 1.0 and 0.0 <= self.clone_floor <= self.clone):
            raise InputError("fade must be above 0 to 1, clone_floor 0 to clone; got "
                             f"{self.fade:g}, {self.clone_floor:g}, {self.clone:g}")  # fmt: skip

    @classmethod
    def paper(cls) -> ConrftConfig:
        """Source: paper for weights; scripts of its code for sizes and offline steps."""
        q = SoftQConfig(
            critics=2, critic_steps=2, gamma=0.98, temperature=None, clone_weight=0.5,
            clone_rows="all", normalise_value=False,
        )  # fmt: skip
        online = RlpdConfig(steps=40_000, random_steps=0, judge_every=2000, q=q)
        return cls(
            offline_steps=20_000, offline_batch=256, offline_value=0.1, floor_weight=0.01,
            clone=0.5, clone_floor=0.5, online=online,
        )  # fmt: skip

    @classmethod
    def cpu(cls) -> ConrftConfig:
        """The defaults."""
        return cls()

    def beta(self, share: float) -> float:
        """Weight of cloning when this share of the online steps is done."""
        return self.clone + min(share / self.fade, 1.0) * (self.clone_floor - self.clone)


class Conrft(NamedTuple):
    """What it found."""

    offline: Look
    """Before the first step of the robot"""
    online: list[Look]
    episodes: list[Episode]
    """What the robot did"""
    intervened: list[float]
    """By episode, the share of steps that an operator took over"""
    clipped: float
    """Share of numbers of demonstrated actions that the policy cannot do"""


def conrft(
    task: Task, actor: Bounded, demos: Sequence[Episode], config: ConrftConfig, *, seed: int,
    judge: Task, operator: Operator | None = None, normal: InputNorm | None = None,
    looked: Callable[[Look], None] = lambda look: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Conrft:  # fmt: skip
    """Learn from demonstrations, then from the robot.

    Args:
        task: The robot, or the corrected simulator.
        actor: Is changed.
        demos: Their steps must be those of a demonstrator or operator.
        config: How.
        seed: Of everything random.
        judge: Where looks are taken: robots side by side.
        operator: Who may take over online.
        normal: Of observations.
        looked: Told every look, the one before the robot's first step too.
        stopped: Ends the online stage with what there is.

    Raises:
        InputError: If there are no demonstrations, or the actor gives no gradient.
    """
    require(actor.caps, RSAMPLE, "conrft")
    engine, clipped = offline(task, actor, demos, config, seed=seed, normal=normal)
    first = look(0, actor, judge, config.online.judge_episodes)
    looked(first)

    def scheduled(share: float, engine: SoftQ) -> None:
        engine.clone_weight, engine.value_weight = config.beta(share), config.value

    tuned = rlpd(task, actor, demos, config.online, seed=seed + 1, judge=judge, operator=operator,
                 engine=engine, looked=looked, scheduled=scheduled,
                 stopped=stopped)  # fmt: skip
    return Conrft(first, tuned.curve, tuned.episodes, tuned.intervened, clipped)


def offline(
    task: Task,
    actor: Bounded,
    demos: Sequence[Episode],
    config: ConrftConfig,
    *,
    seed: int,
    normal: InputNorm | None = None,
) -> tuple[SoftQ, float]:
    """First stage alone: an engine that is ready for the second, and the clipped share.

    Raises:
        InputError: If there are no demonstrations.
    """
    if not demos:
        raise InputError("conrft needs demonstrations; got none: record some, or use rlpd")
    q, rng, known = config.online.q, np.random.default_rng(seed), Buffer()
    rows, clipped = rows_of(demos, task, actor, gamma=q.gamma, ahead=q.ahead)
    if not rows.shown.all():
        raise InputError("conrft's demonstrations are of a demonstrator or operator alone; "
                         f"{int((~rows.shown).sum())} of {len(rows)} steps are not")  # fmt: skip
    known.add(rows)
    first = dataclasses.replace(
        q, batch=config.offline_batch, floor_weight=config.floor_weight,
        clone_weight=config.offline_clone, value_weight=config.offline_value,
    )  # fmt: skip
    engine = SoftQ.on(task, actor.head, first, seed, normal)
    if not config.offline_critic:
        _clone(actor.head, known, config, rng)
    for _ in range(config.offline_steps if config.offline_critic else 0):
        engine.update(known, rng)
    # The floor is of the first stage only: online it would hold down what is new and better.
    engine.config = q
    return engine, clipped


def _clone(head: Head, known: Buffer, config: ConrftConfig, rng: np.random.Generator) -> None:
    """As many steps as the first stage has, without values."""
    q = config.online.q
    steps = torch.optim.Adam(head.parameters(), lr=q.learning_rate, foreach=True)
    for _ in range(config.offline_steps):
        rows = TensorRows.of(known.sample(rng, config.offline_batch))
        loss = config.offline_clone * head.imitation(rows.observation, rows.action).mean()
        steps.zero_grad()
        loss.backward()
        steps.step()
