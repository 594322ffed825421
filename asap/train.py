"""Training a tracker from nothing, or on from a policy, without ever losing a run.

A run is a folder: ``config.json``, ``metrics.jsonl``, ``checkpoint.pt`` and ``policy.onnx``, the
best one so far. A checkpoint holds everything that the next step depends on, so a resumed run
continues to the bit: 5 iterations, a kill and 5 more give what 10 give.

    trainer = Trainer(robot, clip, TrainConfig(minutes=10), Path("runs/pretrain/squat"))
    result = trainer.run()
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from asap import onnx_file, results
from asap.curriculum import CurriculumConfig
from asap.env import EnvConfig, TrackingEnv
from asap.evaluate import Case, EvaluateConfig, Evaluation, evaluate
from asap.export import write_policy
from asap.inputs import OpenedMotion
from asap.policy import actor_layers
from asap.ppo import PpoConfig, TrackerPPO
from asap.rewards import RewardConfig
from asap.robot import Robot
from asap.vecenv import TrackingVecEnv
from asap_deploy.errors import InputError
from asap_deploy.npz import write_atomic
from asap_deploy.policy import Policy

CHECKPOINT, POLICY, METRICS, CONFIG = "checkpoint.pt", "policy.onnx", "metrics.jsonl", "config.json"
CHECKPOINT_VERSION = 1


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
    env: EnvConfig = field(default_factory=EnvConfig)
    """Rewards, starts, ends, noise."""
    ppo: PpoConfig = field(default_factory=PpoConfig)
    """How PPO learns."""
    save_every: int = 20
    """Iterations between checkpoints."""
    evaluate_every: int = 50
    """Iterations between evaluations; the best policy of all evaluations is the result."""
    episodes: int = 64
    """Episodes of those evaluations, from the original's start noise."""
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
            env=EnvConfig(
                offset_mode="default",
                reward=RewardConfig.paper(),
                curriculum=CurriculumConfig.paper(),
                start_noise=0.0,
                start_at_first=0.0,
                noise_scale=1.0,
            ),
            ppo=PpoConfig(
                horizon=24,
                epochs=5,
                target_kl=0.01,
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
    ) -> None:
        """Make environments and networks; with ``resume`` as they were at the last checkpoint.

        Raises:
            InputError: If there is nothing to resume, or it was another run.
        """
        self.robot, self.clip, self.config, self.run_dir = robot, clip, config, run_dir
        fast = robot.with_(integrator=config.integrator, physics_dt=config.physics_dt)
        seeds = np.random.SeedSequence(config.seed).spawn(1)
        self.env = TrackingEnv(
            fast, clip.motion, config.env, config.num_envs, np.random.default_rng(seeds[0]),
            motion_name=clip.name, threads=config.threads,
        )  # fmt: skip
        self.ppo = TrackerPPO(TrackingVecEnv(self.env), config.ppo, config.seed)
        self.best: tuple[float, float] = (-1.0, -np.inf)
        self.trained_s = 0.0
        if resume:
            self._restore()
        elif (run_dir / CHECKPOINT).exists():
            raise InputError("this run exists: continue it with --resume, or choose another --out",
                             file=run_dir)  # fmt: skip
        else:
            results.write_json(run_dir / CONFIG, self._identity())

    def run(
        self,
        watch: Callable[[Report], None] = lambda report: None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> TrainResult:
        """Train until the steps are done, or until ``stopped`` says so; save either way.

        Args:
            watch: Told about every iteration.
            stopped: Asked after every iteration.
        """
        config, interrupted = self.config, False
        while self.ppo.num_timesteps < config.steps and not interrupted:
            started = time.perf_counter()
            facts = self.ppo.iterate()
            self.trained_s += time.perf_counter() - started
            self._note(facts)
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
        policy = Policy.from_bytes((self.run_dir / POLICY).read_bytes())
        final = EvaluateConfig(episodes=256, start_noise="paper", seed=config.seed + 1)
        evaluation = evaluate([Case(policy, self.clip.motion, self.clip.name)], self.robot, final)
        return TrainResult(self.ppo.num_timesteps, self.trained_s, evaluation, False)

    def export(self) -> bytes:
        """The actor as it is now, as a policy file."""
        layers, mean, std = actor_layers(self.ppo.tracker)
        limit = onnx_file.NORMALISED_LIMIT
        model = onnx_file.network(layers, mean=mean, std=std, limit=limit)
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
        write_atomic(self.run_dir / CHECKPOINT, lambda stream: torch.save(self._state(), stream))

    def _keep_best(self) -> None:
        """Evaluate the actor; write its policy if none was better."""
        data = self.export()
        config = EvaluateConfig(episodes=self.config.episodes, start_noise="paper",
                                seed=self.config.seed, threads=self.config.threads)  # fmt: skip
        case = Case(Policy.from_bytes(data), self.clip.motion, self.clip.name)
        overall = evaluate([case], self.robot, config).overall
        score = (overall["success_rate"].value, -overall["global_mpjpe_mm"].value)
        figures = {name: figure.value for name, figure in overall.items()}
        self._note({"evaluation": figures})
        if score >= self.best:
            self.best = score
            write_atomic(self.run_dir / POLICY, lambda stream: stream.write(data))

    def _note(self, facts: dict[str, Any]) -> None:
        """Append a line to the curves."""
        row = {"iteration": self.ppo.iteration, "steps": self.ppo.num_timesteps,
               "trained_s": self.trained_s, **facts}  # fmt: skip
        with (self.run_dir / METRICS).open("a") as stream:
            stream.write(json.dumps(results.plain(row)) + "\n")

    def _identity(self) -> dict[str, Any]:
        """What must be the same for a run to be continued."""
        return {
            "robot": self.robot.name,
            "motion": self.clip.name,
            "motion_sha256": self.clip.motion.sha256,
            "train": dataclasses.asdict(self.config),
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
            "torch_rng": torch.get_rng_state(),
            "numpy_rng": [str(kind), torch.from_numpy(np.array(keys, dtype=np.int64)), int(place),
                          int(has_gauss), float(gauss)],
            "best": list(self.best),
            "trained_s": self.trained_s,
        }  # fmt: skip

    def _restore(self) -> None:
        """Put everything back as it was."""
        path = self.run_dir / CHECKPOINT
        if not path.exists():
            raise InputError("there is no checkpoint to resume from", file=path)
        try:
            # weights_only: tensors, numbers and texts; no file of a user's can run code.
            state = torch.load(path, weights_only=True, map_location="cpu")
        except Exception as error:  # torch raises many kinds for a damaged file
            first = (str(error).splitlines() or ["unknown"])[0][:120]
            raise InputError(f"checkpoint cannot be read: {first}", file=path) from None
        identity = json.loads(json.dumps(results.plain(self._identity())))
        before = json.loads(state["identity"])
        if state["version"] != CHECKPOINT_VERSION or not _continues(before, identity):
            raise InputError("checkpoint is of another run: robot, motion or options differ",
                             file=path)  # fmt: skip
        self.ppo.policy.load_state_dict(state["policy"])
        self.ppo.policy.optimizer.load_state_dict(state["optimizer"])
        self.ppo.restore(state["ppo"])
        self.env.restore(state["env"])
        torch.set_rng_state(state["torch_rng"])
        kind, keys, place, has_gauss, gauss = state["numpy_rng"]
        np.random.set_state((kind, keys.numpy().astype(np.uint32), place, has_gauss, gauss))
        self.best = (state["best"][0], state["best"][1])
        self.trained_s = state["trained_s"]


def _continues(before: dict[str, Any], now: dict[str, Any]) -> bool:
    """True if only the number of steps, of threads, or how often to save differs."""
    free = ("steps", "threads", "save_every", "evaluate_every", "episodes")
    left, right = dict(before["train"]), dict(now["train"])
    for name in free:
        left.pop(name), right.pop(name)
    rest = [{k: v for k, v in one.items() if k != "train"} for one in (before, now)]
    return left == right and rest[0] == rest[1]
