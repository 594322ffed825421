"""stable-baselines3's PPO for many cheap environments on few cores.

Collection is vectorised: no loop over environments, no info dictionaries, buffers written once. The
learning rate follows the KL divergence, as in the original. Observation statistics change between
iterations and never within one.

    ppo = TrackerPPO(TrackingVecEnv(env), PpoConfig(), seed=0)
    facts = ppo.iterate()
"""

from __future__ import annotations

import time
from collections import defaultdict
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import DictRolloutBuffer
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.utils import obs_as_tensor
from torch import nn

from asap import warm_start
from asap.imitate import Imitation
from asap.policy import ACTIVATIONS, Activation, AsymmetricPolicy
from asap.vecenv import TrackingVecEnv
from asap_deploy.errors import InputError


@dataclass(frozen=True, kw_only=True)
class PpoConfig:
    """How PPO learns."""

    horizon: int = 16
    """Steps of each environment in an iteration."""
    minibatches: int = 4
    """Parts that an iteration's samples are split into."""
    epochs: int = 3
    """Passes over them."""
    gamma: float = 0.97
    """Discount."""
    gae_lambda: float = 0.95
    """Of the advantage estimate."""
    clip: float = 0.2
    """Of the probability ratio."""
    entropy: float = 0.002
    """Weight of the entropy bonus."""
    value_weight: float = 1.0
    """Weight of the value loss."""
    reward_scale: float = 0.1
    """Multiplies rewards, so that values are near 1: the critic's gradient would otherwise fill the
    norm to which both networks' gradients are shortened together."""
    grad_norm: float = 1.0
    """Gradients longer than this are shortened."""
    learning_rate: float = 3e-4
    """At the start; with --init that of the critic's warm-up."""
    first_rate: float = 1e-5
    """The learning rate with which a policy that can do something already begins to move, of --init
    or copied from a teacher: at 3e-4 a first iteration moves one by KL 0.19, at 1e-5 by 0.002 to
    0.013."""
    target_kl: float = 0.03
    """The learning rate falls above twice, and rises below half of this."""
    last_kl: float | None = 0.01
    """The same at the end of training, linear in between; None: it stays. Near an optimum a
    gradient is mostly noise, and steps that stay large walk away from it."""
    learning_rate_bounds: tuple[float, float] = (1e-5, 3e-3)
    """Smallest and largest learning rate."""
    critic_warmup: int | None = None
    """Iterations at first in which the critic learns alone; by default 40 with --init, else 0."""
    log_std: float = -1.0
    """Logarithm of the initial standard deviation of actions; a policy file says nothing about
    it, so also that of --init."""
    actor: tuple[int, ...] = (256, 256, 128)
    """Hidden layers; with --init those of the file."""
    critic: tuple[int, ...] = (256, 256, 128)
    """Hidden layers."""
    activation: Activation = "Elu"
    """Between layers of both; with --init that of the file."""
    torch_threads: int = 2
    """During the update."""


class TrackerPPO(PPO):
    """PPO that collects without loops and adapts its learning rate."""

    def __init__(
        self,
        env: TrackingVecEnv,
        config: PpoConfig,
        seed: int,
        imitation: Imitation | None = None,
        init: warm_start.ActorWeights | None = None,
    ) -> None:
        """Make networks and buffers.

        Args:
            env: What is learned.
            config: How.
            seed: Of weights and actions.
            imitation: A teacher that is copied before PPO begins.
            init: An actor to start from, whose widths and activation the config has.

        Raises:
            InputError: If the samples of an iteration cannot be split as configured.
        """
        samples = env.num_envs * config.horizon
        if samples % config.minibatches:
            raise InputError(
                f"{env.num_envs} environments times {config.horizon} steps cannot be split into "
                f"{config.minibatches} minibatches"
            )
        self.config, self.imitation, self.iteration = config, imitation, 0
        self._progress = 0.0
        self.adaptive_rate = config.learning_rate if init is None else config.first_rate
        usual = 0 if init is None else warm_start.WARMUP
        self.warmup = usual if config.critic_warmup is None else config.critic_warmup
        # Sums of floats depend on how they are split: the same number of threads everywhere.
        torch.set_num_threads(config.torch_threads)
        super().__init__(
            AsymmetricPolicy,
            env,
            learning_rate=self._rate,
            n_steps=config.horizon,
            batch_size=samples // config.minibatches,
            n_epochs=config.epochs,
            gamma=config.gamma,
            gae_lambda=config.gae_lambda,
            clip_range=config.clip,
            ent_coef=config.entropy,
            vf_coef=config.value_weight,
            max_grad_norm=config.grad_norm,
            seed=seed,
            device="cpu",
            policy_kwargs={
                "net_arch": {"pi": list(config.actor), "vf": list(config.critic)},
                "activation_fn": ACTIVATIONS[config.activation],
                "log_std_init": config.log_std,
            },
        )
        self.tracking = env.tracking
        self.set_logger(Logger(folder=None, output_formats=[]))
        self.last_observation = env.last
        if init is not None:
            warm_start.load_actor(self.tracker, init)
        self._learn_statistics({key: value[None] for key, value in env.last.items()})

    @property
    def tracker(self) -> AsymmetricPolicy:
        """The policy, by its type."""
        assert isinstance(self.policy, AsymmetricPolicy)
        return self.policy

    def iterate(self, progress: float = 0.0) -> dict[str, float]:
        """Collect once and learn once.

        Args:
            progress: Part of the training that is done.

        Returns:
            Means over the iteration, and how long its parts took.

        Raises:
            InputError: If the network is no longer finite.
        """
        self._progress = progress
        try:
            return self._iterate()
        except ValueError as error:
            # torch's, of a distribution that is made of what is no number.
            if "Expected parameter" not in str(error):
                raise
            raise self._diverged() from None

    def _iterate(self) -> dict[str, float]:
        self._check_finite()
        if self.imitation is not None and self.imitates:
            self.imitation.begin()
        started = time.perf_counter()
        torch.set_num_threads(1)  # the simulator has the cores
        facts = self._collect()
        collected = time.perf_counter()
        torch.set_num_threads(self.config.torch_threads)
        facts |= self._imitate() if self.imitates else self._improve()
        buffer = self.rollout_buffer
        assert isinstance(buffer, DictRolloutBuffer)
        self._learn_statistics(buffer.observations)
        self._check_finite()
        self.iteration += 1
        facts |= {
            "std": float(torch.exp(self.tracker.log_std.detach()).mean()),
            "collect_s": collected - started,
            "update_s": time.perf_counter() - collected,
        }
        return facts

    def _check_finite(self) -> None:
        """Stop before a network that is lost is used or saved."""
        if not all(torch.isfinite(weight).all() for weight in self.policy.parameters()):
            raise self._diverged()

    def _diverged(self) -> InputError:
        return InputError(
            f"training diverged in iteration {self.iteration + 1}: the network is not finite; what "
            "was saved before stays; begin anew with smaller --train.ppo.learning-rate and "
            "--train.ppo.learning-rate-bounds"
        )

    @property
    def imitates(self) -> bool:
        """Whether the teacher is copied still."""
        imitation = self.imitation
        if imitation is None or imitation.given_up:
            return False
        return self.iteration < imitation.config.iterations

    @property
    def warming(self) -> bool:
        """Whether the critic learns alone still."""
        return self.iteration < self.warmup and not self.imitates

    def _improve(self) -> dict[str, float]:
        """One update of PPO."""
        with warm_start.critic_alone(self.tracker) if self.warming else nullcontext():
            self.train()
        logged = self.logger.name_to_value
        kl = float(logged["train/approx_kl"])
        if not self.warming:
            self._adapt(kl)
        return {
            "kl": kl,
            "learning_rate": self._rate(0.0),
            "explained_variance": float(logged["train/explained_variance"]),
            "value_loss": float(logged["train/value_loss"]),
        }

    def _imitate(self) -> dict[str, float]:
        """The actor copies the teacher, the critic learns what that is worth."""
        imitation, towers = self.imitation, self.tracker.towers
        assert imitation is not None
        optimizer = self.policy.optimizer
        for group in optimizer.param_groups:
            group["lr"] = imitation.config.learning_rate
        error = imitation.fit(self.tracker, optimizer)
        value_loss = torch.zeros(())
        for _ in range(self.n_epochs):
            for batch in self.rollout_buffer.get(self.batch_size):
                seen: Any = batch.observations
                values = self.policy.value_net(towers.forward_critic(seen))
                value_loss = nn.functional.mse_loss(values.flatten(), batch.returns)
                optimizer.zero_grad()
                value_loss.backward()
                optimizer.step()
        if self.iteration + 1 == imitation.config.iterations:
            imitation.forget()
            # Moments of the small gradients of a finished fit would blow up PPO's first steps.
            optimizer.state.clear()
            self.adaptive_rate = self.config.first_rate
        return {"imitation_error": error, "value_loss": float(value_loss.detach())}

    @torch.no_grad()
    def _collect(self) -> dict[str, float]:
        """Fill the buffer with ``horizon`` steps of all environments."""
        self.policy.set_training_mode(False)
        buffer = self.rollout_buffer
        buffer.reset()
        sums: dict[str, float] = defaultdict(float)
        starts = np.zeros(self.n_envs, dtype=np.float32)
        if self._last_episode_starts is not None:
            starts = self._last_episode_starts
        for _ in range(self.n_steps):
            tensors = obs_as_tensor(self.last_observation, self.device)
            actions, values, log_probs = self.policy(tensors)
            actions = self._taught(actions)
            step = self.tracking.step(actions.numpy())
            buffer.add(
                self.last_observation,  # type: ignore[arg-type]
                actions.numpy(), self.config.reward_scale * step.reward, starts, values, log_probs,
            )  # fmt: skip
            self.last_observation, starts = step.observation, step.terminated.astype(np.float32)
            for name, value in step.facts.items():
                sums[name] += value / self.n_steps
        self._last_episode_starts = starts
        self.num_timesteps += self.n_steps * self.n_envs
        tensors = obs_as_tensor(self.last_observation, self.device)
        values = self.policy.predict_values(tensors)
        buffer.compute_returns_and_advantage(last_values=values, dones=starts)
        return dict(sums)

    def _taught(self, actions: torch.Tensor) -> torch.Tensor:
        """The student's actions, or the teacher's with the student's noise, while it imitates."""
        if not self.imitates:
            return actions
        assert self.imitation is not None
        wanted = self.imitation.wanted()
        self.imitation.remember(self.last_observation["actor"], wanted)
        acts = torch.from_numpy(self.imitation.acts(self.iteration))[:, None]
        noise = torch.exp(self.tracker.log_std) * torch.randn_like(actions)
        return torch.where(acts, torch.from_numpy(wanted) + noise, actions)

    def snapshot(self) -> dict[str, Any]:
        """What the next iteration depends on, beside weights and optimiser."""
        starts = self._last_episode_starts
        assert starts is not None, "a snapshot is taken after an iteration"
        return {
            "iteration": self.iteration,
            "steps": self.num_timesteps,
            "updates": self._n_updates,
            "rate": self.adaptive_rate,
            "starts": torch.from_numpy(starts.copy()),
            "observation": {
                group: torch.from_numpy(values.copy())
                for group, values in self.last_observation.items()
            },
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Undo what happened since the snapshot."""
        self.iteration, self.num_timesteps = state["iteration"], state["steps"]
        self._n_updates, self.adaptive_rate = state["updates"], state["rate"]
        self._last_episode_starts = state["starts"].numpy()
        self.last_observation = {
            group: values.numpy() for group, values in state["observation"].items()
        }

    def _rate(self, progress: float) -> float:
        """The learning rate of the next update, whatever the progress."""
        return self.config.learning_rate if self.warming else self.adaptive_rate

    def _adapt(self, kl: float) -> None:
        """Source: He et al., lr / 1.5 above twice the target, lr * 1.5 below half of it."""
        low, high = self.config.learning_rate_bounds
        first, last = self.config.target_kl, self.config.last_kl or self.config.target_kl
        target = first + (last - first) * self._progress
        if kl > 2.0 * target:
            self.adaptive_rate = max(low, self.adaptive_rate / 1.5)
        elif kl < 0.5 * target:
            self.adaptive_rate = min(high, self.adaptive_rate * 1.5)

    def _learn_statistics(self, observations: dict[str, np.ndarray]) -> None:
        """Take the samples of an iteration, (T, N, width) each, into the normalisers."""
        towers = self.tracker.towers
        for norm, group in ((towers.actor_norm, "actor"), (towers.critic_norm, "critic")):
            if group == "actor" and self.warming:
                continue  # what the actor computes stays as it is, to the bit
            values: Any = observations[group]
            norm.update(torch.as_tensor(values.reshape(-1, values.shape[-1])))
