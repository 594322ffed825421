"""Training a tracker from nothing, or on from a policy, without ever losing a run.

A run is a folder: ``config.json``, ``metrics.jsonl``, ``checkpoint.pt`` and ``policy.onnx``, the
best one so far. A checkpoint holds everything that the next step depends on, so a resumed run
continues to the bit: 5 iterations, a kill and 5 more give what 10 give.

    trainer = Trainer(robot, clip, TrainConfig(minutes=10), Path("runs/pretrain/squat"))
    result = trainer.run()
"""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from asap import checkpoint, onnx_file, results, warm_start
from asap.curriculum import CurriculumConfig
from asap.curves import Curves, Place
from asap.env import EnvConfig, TrackingEnv
from asap.evaluate import Case, EvaluateConfig, Evaluation, evaluate
from asap.export import write_policy
from asap.imitate import ImitateConfig, Imitation
from asap.inputs import OpenedMotion
from asap.policy import actor_weights, as_layers
from asap.ppo import PpoConfig, TrackerPPO
from asap.regulator import plan_regulator
from asap.rewards import RewardConfig
from asap.robot import Robot
from asap.starts import StartConfig
from asap.tracking import StartNoise
from asap.vecenv import TrackingVecEnv
from asap_deploy.errors import InputError
from asap_deploy.npz import write_file
from asap_deploy.policy import Policy

CHECKPOINT, POLICY, CONFIG = "checkpoint.pt", "policy.onnx", "config.json"
START = "start.onnx"
"""What a run with an --init began with."""
CHECKPOINT_VERSION = 2
FINAL = 4
"""The result is judged by so many times as many episodes as those on the way."""


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


class TrainResult(NamedTuple):
    """How a run ended."""

    steps: int
    wall_s: float
    evaluation: Evaluation | None
    interrupted: bool


class Report(NamedTuple):
    """What a watcher is told after every iteration."""

    steps: int
    total_steps: int
    facts: dict[str, float]


class Trainer:
    """One run."""

    def __init__(
        self,
        robot: Robot,
        clip: OpenedMotion,
        config: TrainConfig,
        run_dir: Path,
        *,
        resume: bool = False,
        init: Policy | None = None,
        judges: Sequence[Robot] = (),
    ) -> None:
        """Make environments and networks; with ``resume`` as they were at the last checkpoint.

        Args:
            robot: That is trained on.
            clip: That is tracked.
            config: How; layout, offset mode, actor and activation are those of ``init``.
            run_dir: Folder of the run.
            resume: Continue the run in it.
            init: Policy to start from; a random one by default.
            judges: Robots on which policies are compared; by default the one that is trained on.

        Raises:
            InputError: If there is nothing to resume, or it was another run, or the policy cannot
                be trained on.
        """
        self.init, weights, contract = init, None, None
        if init is not None:
            weights = warm_start.read_actor(init)
            config = _as_in_the_file(config, init, weights)
        self.robot, self.clip, self.config, self.run_dir = robot, clip, config, run_dir
        self.judges = tuple(judges) or (robot,)
        fast = (robot.for_training() if config.cheap_shapes else robot).with_(
            integrator=config.integrator, physics_dt=config.physics_dt
        )
        if init is not None:
            fast = warm_start.robot_for(init, fast)
            contract = warm_start.contract_on(init, fast, clip.motion, clip.name)
        seeds = np.random.SeedSequence(config.seed).spawn(1)
        self.env = TrackingEnv(
            fast, clip.motion, config.env, config.num_envs, np.random.default_rng(seeds[0]),
            motion_name=clip.name, threads=config.threads, contract=contract,
        )  # fmt: skip
        imitation = None
        if config.imitate.iterations and fast.has_free_base:
            plan = functools.partial(plan_regulator, fast, clip.motion, threads=config.threads)
            imitation = Imitation(self.env, plan, config.imitate)
        vec_env = TrackingVecEnv(self.env)
        self.ppo = TrackerPPO(vec_env, config.ppo, config.seed, imitation, weights)
        self.mean_actor = [part.detach().clone() for part in actor_weights(self.ppo.tracker)]
        self.best_cost_mm = np.inf
        self.trained_s = 0.0
        if resume:
            self._restore()
        elif (run_dir / CHECKPOINT).exists():
            raise InputError("this run exists: continue it with --resume, or choose another --out",
                             file=run_dir)  # fmt: skip
        else:
            results.write_json(run_dir / CONFIG, self._identity())
        self.curves = Curves(run_dir, iteration=self.ppo.iteration)

    def run(
        self,
        watch: Callable[[Report], None] = lambda report: None,
        stopped: Callable[[], bool] = lambda: False,
        *,
        judged: bool = True,
    ) -> TrainResult:
        """Train until the steps are done, or until ``stopped`` says so; save either way.

        Args:
            watch: Told about every iteration.
            stopped: Asked after every iteration.
            judged: Evaluate the best policy at the end, from starts that chose nothing.
        """
        config, interrupted = self.config, False
        if self.init is not None and self.ppo.iteration == 0:
            start = self.export()
            write_file(self.run_dir / START, start)
            self._keep_best()  # training may make it worse: then the file's own is the result
        while self.ppo.num_timesteps < config.steps and not interrupted:
            started = time.perf_counter()
            facts = self.ppo.iterate(self.ppo.num_timesteps / config.steps)
            self.trained_s += time.perf_counter() - started
            self._average()
            self.curves.add_iteration(self._place, facts)
            watch(Report(self.ppo.num_timesteps, config.steps, facts))
            if self.ppo.iteration % config.evaluate_every == 0:
                self._keep_best()
            interrupted = stopped()
            if self.ppo.iteration % config.save_every == 0 or interrupted:
                self.save()
        if interrupted:
            return TrainResult(self.ppo.num_timesteps, self.trained_s, None, True)
        self._keep_best()
        self.save()
        if not judged:
            return TrainResult(self.ppo.num_timesteps, self.trained_s, None, False)
        policy = Policy.from_bytes((self.run_dir / POLICY).read_bytes())
        final = EvaluateConfig(episodes=FINAL * config.episodes, seed=config.seed + 1,
                               start_noise=config.judged_from)  # fmt: skip
        evaluation = evaluate([Case(policy, self.clip.motion, self.clip.name)], self.robot, final)
        return TrainResult(self.ppo.num_timesteps, self.trained_s, evaluation, False)

    @torch.no_grad()
    def _average(self) -> None:
        """Take the actor of an iteration into the running mean."""
        past = self.config.averaging
        for mean, now in zip(self.mean_actor, actor_weights(self.ppo.tracker), strict=True):
            mean.mul_(past).add_(now, alpha=1.0 - past)

    def export(self) -> bytes:
        """The actor, or its running mean, as a policy file."""
        norm = self.ppo.tracker.towers.actor_norm
        model = onnx_file.network(
            as_layers(self.mean_actor),
            activation=self.config.ppo.activation,
            mean=norm.mean.numpy().copy(),
            std=norm.std().numpy().copy(),
            limit=norm.limit,
        )
        contract = dataclasses.replace(
            self.env.contract,
            provenance={
                **self.env.contract.provenance,
                "training_steps": str(self.ppo.num_timesteps),
                "training_seed": str(self.config.seed),
            },
        )
        return write_policy(model, contract, self.robot, self.clip.motion)

    def save(self) -> None:
        """Write the checkpoint at once or not at all."""
        checkpoint.write(self.run_dir / CHECKPOINT, self._state())

    def _keep_best(self) -> None:
        """Evaluate the actor; write its policy if none was better."""
        data = self.export()
        config = EvaluateConfig(
            episodes=self.config.episodes, start_noise=self.config.judged_from,
            seed=self.config.seed, threads=self.config.threads,
        )  # fmt: skip
        case = Case(Policy.from_bytes(data), self.clip.motion, self.clip.name)
        found = [evaluate([case], robot, config) for robot in self.judges]
        figures = {name: float(np.mean([one.overall[name].value for one in found]))
                   for name in found[0].overall}  # fmt: skip
        figures["cost_mm"] = float(np.mean([one.cost_mm for one in found]))
        self.curves.add_evaluation(self._place, figures)
        if figures["cost_mm"] <= self.best_cost_mm:
            self.best_cost_mm = figures["cost_mm"]
            write_file(self.run_dir / POLICY, data)

    @property
    def _place(self) -> Place:
        return Place(self.ppo.iteration, self.ppo.num_timesteps, self.trained_s)

    def _identity(self) -> dict[str, Any]:
        """What must be the same for a run to be continued."""
        return {
            "robot": self.robot.name,
            "motion": self.clip.name,
            "motion_sha256": self.clip.motion.sha256,
            "train": dataclasses.asdict(self.config),
            "init": None if self.init is None else warm_start.fingerprint(self.init),
        }

    def _state(self) -> dict[str, Any]:
        """Everything that the next iteration depends on."""
        ppo = self.ppo
        kind, keys, place, has_gauss, gauss = np.random.get_state()
        return {
            "version": CHECKPOINT_VERSION,
            "identity": json.dumps(results.plain(self._identity())),
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
        identity = json.loads(json.dumps(results.plain(self._identity())))
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


def _as_in_the_file(
    config: TrainConfig, policy: Policy, weights: warm_start.ActorWeights
) -> TrainConfig:
    """The settings with which the weights of a file mean what they meant."""
    contract = policy.contract
    actor, activation = warm_start.actor_widths(weights), weights.activation
    return dataclasses.replace(
        config,
        env=dataclasses.replace(
            config.env, layout=contract.layout, offset_mode=contract.offset_mode
        ),
        ppo=dataclasses.replace(config.ppo, actor=actor, activation=activation),
        imitate=dataclasses.replace(config.imitate, iterations=0),
    )


def _continues(before: dict[str, Any], now: dict[str, Any]) -> bool:
    """True if only the number of steps, of threads, or how often to save differs."""
    free = ("steps", "threads", "save_every", "evaluate_every", "episodes")
    left, right = dict(before["train"]), dict(now["train"])
    for name in free:
        left.pop(name), right.pop(name)
    rest = [{k: v for k, v in one.items() if k != "train"} for one in (before, now)]
    return left == right and rest[0] == rest[1]
