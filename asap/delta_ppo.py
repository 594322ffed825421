"""The offset of PD targets as the paper learns it: by trial, rewarded for agreeing with the logs.

    found = fit_delta_ppo(parts.train, robot, DeltaPpoConfig(), judge, seed=0)
    found.learned, found.share, found.abstained

Hundreds of replays of one second run side by side; PPO learns what to add to each logged target
so that the simulator goes where the robot went. What is kept is the checkpoint whose replays of
runs that were not trained on are best, and of that the joints that help.

Source: He et al. 2025, section III-C; ``asap.delta_env`` says what differs from the released code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from asap.delta_env import DeltaEnv, DeltaEnvConfig
from asap.delta_fit import DeltaConfig, DeltaFitted, gated
from asap.exploits import Look, exploited, usual_offset_rad
from asap.judge import CORRECTED, Judge
from asap.learned import Learned, LearnedContract, from_layers
from asap.log_windows import stretches_of
from asap.policy import actor_weights, as_layers
from asap.ppo import PpoConfig, TrackerPPO
from asap.robot import Robot
from asap.vecenv import TrackingVecEnv
from asap_deploy.errors import InputError
from asap_deploy.log import Log

Progress = Callable[[float], None]


class Checked(NamedTuple):
    """One look at the network while it learns."""

    steps: int
    share: float
    """Errors on the validation part, relative to the robot without it"""
    facts: dict[str, float]
    """Means over the iteration: reward, errors, spread of actions."""


def replay_ppo() -> PpoConfig:
    """PPO for replays: networks of 128 and 128, half an episode in an iteration."""
    return PpoConfig(
        horizon=25, epochs=5, gamma=0.99, entropy=0.0, reward_scale=0.3, log_std=-1.0,
        target_kl=0.02, last_kl=None, actor=(128, 128), critic=(128, 128), torch_threads=1,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DeltaPpoConfig:
    """How an offset is learned by trial."""

    steps: int = 2_000_000
    """Control steps of all environments together."""
    num_envs: int = 512
    """Replays side by side."""
    joints: tuple[str, ...] = ()
    """Only joints whose names contain one of these, for example ``ankle``; by default all."""
    judge_every: int = 8
    """Iterations between looks at the validation part."""
    env: DeltaEnvConfig = field(default_factory=DeltaEnvConfig)
    """Reward and size of offsets."""
    ppo: PpoConfig = field(default_factory=replay_ppo)
    """Of the learning."""

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        if self.steps < 1 or self.num_envs < 1 or self.judge_every < 1:
            raise InputError("delta-ppo needs at least one step, environment and look")

    @property
    def iterations(self) -> int:
        """So many that all steps are made."""
        return -(-self.steps // (self.num_envs * self.ppo.horizon))


def fit_delta_ppo(
    train: Sequence[Log],
    robot: Robot,
    config: DeltaPpoConfig,
    judge: Judge,
    *,
    seed: int = 0,
    threads: int = 0,
    progress: Progress = lambda fraction: None,
    stopped: Callable[[], bool] = lambda: False,
    checked: Callable[[Checked], None] = lambda look: None,
) -> DeltaFitted:
    """Learn, then keep what other runs confirm.

    Args:
        train: What is replayed.
        robot: Whose targets are offset: the model, or the model as identified.
        config: How.
        judge: The validation part, against this robot.
        seed: Of starts, weights and actions.
        threads: Of the simulator; 0: all cores.
        progress: Told the finished fraction.
        stopped: Asked after each iteration; true ends with the best so far.
        checked: Told what each look at the validation part saw.

    Raises:
        InputError: If no stretch of the log is as long as an episode.
    """
    places = DeltaConfig(joints=config.joints).places(robot)
    stretches = [s for i, log in enumerate(train) for s in stretches_of(log, i, robot)]
    env = DeltaEnv(stretches, config.env, config.num_envs, np.random.default_rng(seed),
                   places=places, threads=threads)  # fmt: skip
    ppo = trainer(env, config.ppo, seed)
    best: tuple[float, Learned] | None = None
    looks: list[Look] = []
    for iteration in range(1, config.iterations + 1):
        facts = ppo.iterate()
        progress(iteration / config.iterations)
        last = stopped() or iteration == config.iterations
        if last or iteration % config.judge_every == 0:
            law = as_learned(ppo, env)
            share = judge.shares({CORRECTED: robot.with_(learned=law)})[CORRECTED]
            checked(Checked(ppo.num_timesteps, share, facts))
            size = usual_offset_rad(law, robot, train)
            looks.append(Look(share, float(np.sqrt(np.square(size).mean()))))
            if best is None or share < best[0]:
                best = share, law
        if last:
            break
    assert best is not None, "the last iteration is always looked at"
    return gated(best[1], robot, judge)._replace(alarms=tuple(exploited(looks)))


def trainer(env: DeltaEnv, config: PpoConfig, seed: int) -> TrackerPPO:
    """PPO whose first action is no offset, and whose inputs are normalised as the logs are."""
    env.adapt(float(np.exp(config.log_std)))
    ppo = TrackerPPO(TrackingVecEnv(env), config, seed)
    mean, std = (torch.as_tensor(x, dtype=torch.float32) for x in env.normal[:2])
    # Frozen, and not clipped: the same numbers as in the graph, which fades where they are large.
    ppo.tracker.towers.actor_norm.freeze(mean, std, None)
    head = ppo.tracker.action_net
    assert isinstance(head, nn.Linear)
    with torch.no_grad():
        head.weight.mul_(0.1)
        head.bias.zero_()
    return ppo


def as_learned(ppo: TrackerPPO, env: DeltaEnv) -> Learned:
    """The actor's mean as it is now, for all joints of the robot."""
    *hidden, (weight, bias) = as_layers(actor_weights(ppo.tracker))
    joints = len(env.robot.joint_names)
    last = np.zeros((joints, weight.shape[1])), np.zeros(joints)
    last[0][env.places], last[1][env.places] = weight, bias
    scaled = (env.scale * last[0], env.scale * last[1])
    normal = env.normal
    return from_layers([*hidden, scaled], _contract(env), mean=normal.mean, std=normal.std,
                       activation=ppo.config.activation)  # fmt: skip


def _contract(env: DeltaEnv) -> LearnedContract:
    robot = env.robot
    bound = np.zeros(len(robot.joint_names))
    bound[env.places] = env.config.bound
    return LearnedContract(
        robot_name=robot.name.partition("@")[0], joint_names=robot.joint_names, acts_on="target",
        bound=tuple(bound.tolist()), trusted=env.normal.trusted, lost=env.normal.lost,
    )  # fmt: skip
