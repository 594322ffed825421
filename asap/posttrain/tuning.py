"""What all recipes need on a robot: a task in the corrected simulator, a verdict, a policy file.

    setting = Setting.open(robot, policy, clip, num_envs=16)
    actor = setting.residual(bound=0.2, seed=0)
    data = setting.write(actor, recipe="rlpd")
    before, after = (setting.judged(one, seed=0, episodes=128) for one in (policy, tuned))
    verdict(before, after, "cost_mm", seed=0).better

A result is kept only if it is better than its start by more than chance explains and falls no more
often; otherwise the start is the result.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from asap.correction import Correction
from asap.evaluate import Case, EvaluateConfig, Evaluation, evaluate
from asap.inputs import OpenedMotion
from asap.metrics import EFFORT_NAMES, Interval, paired_difference
from asap.posttrain.actors import Bounded, Gaussian, InputNorm, SquashedGaussian
from asap.posttrain.collect import collect
from asap.posttrain.consistency import ConsistencyHead
from asap.posttrain.episode import Episode
from asap.posttrain.graph_net import GraphNet
from asap.posttrain.humanoid import TrackingTask, corrected
from asap.posttrain.residual_onnx import with_residual
from asap.posttrain.tuned_policy import write_tuned
from asap.robot import Robot
from asap.tracking import StartNoise
from asap_deploy.errors import InputError
from asap_deploy.policy import Policy

COST = "cost_mm"
_HIDDEN = (128, 128)
_LOG_STD = -0.7
"""Of what a residual tries, in units of its bound."""


class Verdict(NamedTuple):
    """A tuned policy beside its start or a control."""

    better: bool
    """By more than chance explains, and it falls no more often on any robot"""
    change: Interval
    """Of the objective, paired by episode; negative is better"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """A policy, its clip, and the robot that it is tuned on."""

    robot: Robot
    """As it is sold"""
    tuned_on: Robot
    """Corrected, or the same"""
    policy: Policy
    clip: OpenedMotion
    start_noise: StartNoise
    task: TrackingTask
    """Where it learns"""
    push_speed: float
    """Of a kick every second [m/s], while it learns and is judged"""
    threads: int
    """Of every simulator; 0: all cores"""

    @classmethod
    def open(
        cls, robot: Robot, policy: Policy, clip: OpenedMotion, *, num_envs: int,
        correction: Correction | None = None, start_noise: StartNoise = "small",
        push_speed: float = 0.0, threads: int = 0,
    ) -> Setting:  # fmt: skip
        """Make the task.

        Raises:
            InputError: If policy, clip, robot and correction do not fit each other.
        """
        tuned_on = robot if correction is None else correction.robot(robot)
        where = "nominal" if correction is None else corrected(correction)
        task = TrackingTask(tuned_on, policy, clip, num_envs, start_noise=start_noise,
                            push_speed=push_speed, environment=where, threads=threads)  # fmt: skip
        return cls(robot=robot, tuned_on=tuned_on, policy=policy, clip=clip, task=task,
                   start_noise=start_noise, push_speed=push_speed, threads=threads)  # fmt: skip

    def on(self, robot: Robot, num_envs: int, *, environment: str = "nominal") -> TrackingTask:
        """The same task on another robot, or with another number of them."""
        return TrackingTask(robot, self.policy, self.clip, num_envs, start_noise=self.start_noise,
                            push_speed=self.push_speed, environment=environment,
                            threads=self.threads)  # fmt: skip

    def shown(self, count: int, seed: int) -> list[Episode]:
        """Episodes of the start, as data."""
        rng = np.random.default_rng(seed)
        return collect(self.task, self.policy.act, count, rng, policy_sha256=self.policy.sha256)

    def normal(self, episodes: list[Episode]) -> InputNorm:
        """Inputs as these episodes have them."""
        return InputNorm(np.concatenate([self.task.observations(one) for one in episodes]))

    def residual(self, normal: InputNorm, *, bound: float, seed: int) -> Bounded:
        """A bounded residual on the frozen start, that does nothing yet."""
        torch.manual_seed(seed)
        actions = len(self.task.action_names)
        head = SquashedGaussian(self.task.observation_width, actions, _HIDDEN, normal=normal,
                                log_std=_LOG_STD)  # fmt: skip
        return Bounded(head, np.full(actions, bound), GraphNet.of(self.policy))

    def gaussian(self, log_std: float) -> Gaussian:
        """All of the start, with this spread."""
        return Gaussian(GraphNet.of(self.policy), len(self.task.action_names), log_std)

    def write(self, actor: Bounded | Gaussian, recipe: str) -> bytes:
        """The policy file.

        Raises:
            InputError: If its graph does not fit the contract of the start.
        """
        if isinstance(actor, Gaussian):
            net = actor.net
            assert isinstance(net, GraphNet), "a policy of a robot is a graph"
            model, noise = net.model(), "none: the mean of a Gaussian"
        else:
            base, head = actor.base, actor.head
            assert isinstance(base, GraphNet), "a residual of a robot has a frozen policy"
            if isinstance(head, SquashedGaussian):
                model = with_residual(base.model(), head.layers(), bound=actor.bound)
                noise = "none: the mean of a squashed Gaussian"
            else:
                assert isinstance(head, ConsistencyHead), "heads here are Gaussian or consistency"
                layers = [(weight.detach().numpy(), bias.detach().numpy())
                          for weight, bias in head.as_layers()]  # fmt: skip
                model = with_residual(base.model(), layers, bound=actor.bound, scale=head.gain,
                                      squash="clip")  # fmt: skip
                noise = "the noise input of the consistency model is 0"
        return write_tuned(model, self.policy, self.robot, self.clip.motion,
                           provenance={"recipe": recipe, "noise": noise})  # fmt: skip

    def judged(
        self, policy: Policy, *, seed: int, episodes: int, on: Sequence[Robot] = ()
    ) -> tuple[Evaluation, ...]:
        """A policy from starts that nothing was learned from.

        Args:
            policy: Of the contract of the start.
            seed: Of the starts: the same seed, the same starts.
            episodes: On every robot.
            on: Robots; by default the one that is tuned on.
        """
        config = EvaluateConfig(episodes=episodes, start_noise=self.start_noise, seed=seed + 5000,
                                push_speed=self.push_speed, threads=self.threads)  # fmt: skip
        case = Case(policy, self.clip.motion, self.clip.name)
        return tuple(evaluate([case], robot, config) for robot in tuple(on) or (self.tuned_on,))


def verdict(
    before: Sequence[Evaluation], after: Sequence[Evaluation], objective: str, *, seed: int
) -> Verdict:
    """A policy beside another, same episodes.

    Args:
        before: Of the start, or of a control, robot by robot.
        after: Of the tuned policy.
        objective: ``cost_mm``, or a name of effort.
        seed: Of the resampling.
    """
    old, new = (np.concatenate([by_episode(one, objective) for one in some])
                for some in (before, after))  # fmt: skip
    both = np.isfinite(old) & np.isfinite(new)
    change = paired_difference(old[both], new[both], np.random.default_rng(seed))
    # Nowhere may it fall more often: what is new must not cost what was known.
    kept = all(b.overall["success_rate"].value >= a.overall["success_rate"].value
               for a, b in zip(before, after, strict=True))  # fmt: skip
    return Verdict(change.high < 0.0 and kept, change)


def by_episode(found: Evaluation, objective: str) -> np.ndarray:
    """(E,) of an objective; NaN where an episode has none.

    Raises:
        InputError: If there is no such figure.
    """
    if objective == COST:
        return found.cost_mm
    if objective not in EFFORT_NAMES:
        raise InputError(f"objective '{objective}' is none of {COST}, {', '.join(EFFORT_NAMES)}")
    parts = [np.where(clip.counts[objective] > 0,
                      clip.sums[objective] / np.maximum(clip.counts[objective], 1), np.nan)
             for clip in found.clips]  # fmt: skip
    return np.concatenate(parts)
