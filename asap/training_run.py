"""What every training has in common: a folder, a loop, and nothing that can be lost.

A checkpoint holds everything that the next step depends on, so a resumed run continues to the bit:
5 iterations, a kill and 5 more give what 10 give. A subclass says what is judged and kept.

    class Trainer(TrainingRun): ...
    interrupted = trainer.iterate(watch, stopped)
"""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch

from asap import checkpoint, results
from asap.curriculum import CurriculumConfig
from asap.curves import Curves, Place
from asap.env import EnvConfig, TrackingEnv
from asap.imitate import ImitateConfig
from asap.policy import actor_weights
from asap.ppo import PpoConfig, TrackerPPO
from asap.rewards import RewardConfig
from asap.starts import StartConfig
from asap.tracking import StartNoise
from asap_deploy.errors import InputError

CHECKPOINT, CONFIG = "checkpoint.pt", "config.json"
CHECKPOINT_VERSION = 2


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What is trained, for how long."""

    steps: int = 4_000_000
    """Control steps of all environments together."""
    num_envs: int = 512
    """Environments side by side."""
    physics_dt: float = 0.01
    """Physics step in training [s]; evaluation uses the robot's own."""
    integrator: str = "discrete"
    """Integrator in training; `discrete` at 10 ms is 1.5 to 1.8 times as fast as the robot's."""
    cheap_shapes: bool = True
    """Train with the shapes of the robot's [training] table; evaluation uses the robot's own."""
    env: EnvConfig = field(default_factory=EnvConfig)
    """Rewards, starts, ends, noise."""
    ppo: PpoConfig = field(default_factory=PpoConfig)
    """How PPO learns."""
    imitate: ImitateConfig = field(default_factory=ImitateConfig)
    """What comes before PPO."""
    averaging: float = 0.9
    """Weight of the past in a running mean of the actor over iterations. The mean is what is judged
    and exported: steps of a noisy gradient that cancel each other are not in it. 0: no mean."""
    save_every: int = 20
    """Iterations between checkpoints."""
    evaluate_every: int = 50
    """Iterations between evaluations; the best policy of all evaluations is the result."""
    episodes: int = 64
    """Episodes of those evaluations."""
    judged_from: StartNoise = "paper"
    """Starts of those evaluations: none (at rest), small, or paper (the original's noise)."""
    seed: int = 0
    """Of everything random."""
    threads: int = 0
    """Of the simulator; 0: all cores. They do not change the result."""

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        for name in ("steps", "num_envs", "save_every", "evaluate_every", "episodes"):
            if getattr(self, name) < 1:
                raise InputError(f"--train.{name.replace('_', '-')} must be at least 1")

    @classmethod
    def teacher(cls) -> TrainConfig:
        """For a network that learns many motions: more robots, a wider network, no teacher."""
        widths = (384, 256, 128)
        return cls(
            steps=25_000_000,
            num_envs=1024,
            imitate=ImitateConfig(iterations=0),
            env=EnvConfig(fail_shape_m=(0.2, 0.15)),
            ppo=PpoConfig(epochs=2, actor=widths, critic=widths),
        )

    @classmethod
    def paper(cls) -> TrainConfig:
        """Rewards, noise, offset and networks as published; it wants a GPU's worth of samples."""
        return cls(
            steps=100_000_000,
            num_envs=4096,
            physics_dt=0.005,
            integrator="implicitfast",
            imitate=ImitateConfig(iterations=0),
            averaging=0.0,
            env=EnvConfig(
                layout="asap",
                offset_mode="default",
                reward=RewardConfig.paper(),
                curriculum=CurriculumConfig.paper(),
                start=StartConfig(noise=(0.0, 0.0), at_first=0.0, again=0.0),
                noise_scale=1.0,
                push_interval_s=10.0,
                hold_s=0.0,
            ),
            ppo=PpoConfig(
                horizon=24,
                epochs=5,
                target_kl=0.01,
                last_kl=None,
                reward_scale=1.0,
                gamma=0.99,
                entropy=0.01,
                log_std=float(np.log(0.8)),
                actor=(512, 256, 128),
                critic=(512, 256, 128),
            ),
        )


class Report(NamedTuple):
    """What a watcher is told after every iteration."""

    steps: int
    total_steps: int
    facts: dict[str, float]


class TrainingRun(ABC):
    """One run of a training."""

    final_judgings: ClassVar[float] = 1.0
    """How much is judged at the end, in units of what is judged on the way."""

    def __init__(
        self, env: TrackingEnv, ppo: TrackerPPO, config: TrainConfig, run_dir: Path, *, resume: bool
    ) -> None:
        """Begin a run, or go on with the one in the folder; ``identity`` must be known by now.

        Args:
            env: What is learned.
            ppo: That learns.
            config: How.
            run_dir: Folder of the run.
            resume: Continue the run in it.

        Raises:
            InputError: If there is nothing to resume, or it was another run, or there is one.
        """
        self.env, self.ppo, self.config, self.run_dir = env, ppo, config, run_dir
        self.mean_actor = [part.detach().clone() for part in actor_weights(ppo.tracker)]
        self.best_cost_mm = np.inf
        """Of what was kept; the smaller, the better"""
        self.trained_s = 0.0
        if resume:
            self._restore()
        elif (run_dir / CHECKPOINT).exists():
            raise InputError("this run exists: continue it with --resume, or choose another --out",
                             file=run_dir)  # fmt: skip
        else:
            results.write_json(run_dir / CONFIG, self.identity())
        self.curves = Curves(run_dir, iteration=ppo.iteration)

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What must be the same for a run to be continued; ``train`` holds the config."""

    @property
    @abstractmethod
    def judging_steps(self) -> int:
        """Control steps that judging once takes."""

    @abstractmethod
    def keep_best(self) -> None:
        """Judge the mean actor; keep it if none was better."""

    def iterate(self, watch: Callable[[Report], None], stopped: Callable[[], bool]) -> bool:
        """Train until the steps are done, or until ``stopped`` says so; save either way.

        Args:
            watch: Told about every iteration.
            stopped: Asked after every iteration.

        Returns:
            True if it was stopped.
        """
        config, interrupted = self.config, False
        while self.ppo.num_timesteps < config.steps and not interrupted:
            started = time.perf_counter()
            facts = self.ppo.iterate(self.ppo.num_timesteps / config.steps)
            self.trained_s += time.perf_counter() - started
            self._average()
            self.curves.add_iteration(self.place, facts)
            watch(Report(self.ppo.num_timesteps, config.steps, facts))
            if self.ppo.iteration % config.evaluate_every == 0:
                self.keep_best()
            interrupted = stopped()
            if self.ppo.iteration % config.save_every == 0 or interrupted:
                self.save()
        if not interrupted:
            self.keep_best()
            self.save()
        return interrupted

    @torch.no_grad()
    def _average(self) -> None:
        """Take the actor of an iteration into the running mean."""
        past = self.config.averaging
        for mean, now in zip(self.mean_actor, actor_weights(self.ppo.tracker), strict=True):
            mean.mul_(past).add_(now, alpha=1.0 - past)

    def save(self) -> None:
        """Write the checkpoint at once or not at all."""
        checkpoint.write(self.run_dir / CHECKPOINT, self._state())

    @property
    def place(self) -> Place:
        """Where training stands."""
        return Place(self.ppo.iteration, self.ppo.num_timesteps, self.trained_s)

    def _state(self) -> dict[str, Any]:
        """Everything that the next iteration depends on."""
        ppo = self.ppo
        kind, keys, place, has_gauss, gauss = np.random.get_state()
        return {
            "version": CHECKPOINT_VERSION,
            "identity": json.dumps(results.plain(self.identity())),
            "policy": ppo.policy.state_dict(),
            "optimizer": ppo.policy.optimizer.state_dict(),
            "ppo": ppo.snapshot(),
            "env": self.env.snapshot(),
            "imitation": None if self.ppo.imitation is None else self.ppo.imitation.snapshot(),
            "torch_rng": torch.get_rng_state(),
            "numpy_rng": [str(kind), torch.from_numpy(np.array(keys, dtype=np.int64)), int(place),
                          int(has_gauss), float(gauss)],
            "best_cost_mm": self.best_cost_mm,
            "mean_actor": self.mean_actor,
            "trained_s": self.trained_s,
        }  # fmt: skip

    def _restore(self) -> None:
        """Put everything back as it was."""
        path = self.run_dir / CHECKPOINT
        state = checkpoint.read(path)
        identity = json.loads(json.dumps(results.plain(self.identity())))
        before = json.loads(state["identity"])
        if state["version"] != CHECKPOINT_VERSION or not _continues(before, identity):
            raise InputError("checkpoint is of another run: robot, motion or options differ",
                             file=path)  # fmt: skip
        self.ppo.policy.load_state_dict(state["policy"])
        self.ppo.policy.optimizer.load_state_dict(state["optimizer"])
        self.ppo.restore(state["ppo"])
        self.env.restore(state["env"])
        if self.ppo.imitation is not None:
            self.ppo.imitation.restore(state["imitation"])
        torch.set_rng_state(state["torch_rng"])
        kind, keys, place, has_gauss, gauss = state["numpy_rng"]
        np.random.set_state((kind, keys.numpy().astype(np.uint32), place, has_gauss, gauss))
        self.best_cost_mm = state["best_cost_mm"]
        self.mean_actor = state["mean_actor"]
        self.trained_s = state["trained_s"]


def _continues(before: dict[str, Any], now: dict[str, Any]) -> bool:
    """True if only the number of steps, of threads, or how often to save differs."""
    free = ("steps", "threads", "save_every", "evaluate_every", "episodes")
    left, right = dict(before["train"]), dict(now["train"])
    for name in free:
        left.pop(name), right.pop(name)
    rest = [{k: v for k, v in one.items() if k != "train"} for one in (before, now)]
    return left == right and rest[0] == rest[1]
