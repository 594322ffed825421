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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from asap import onnx_file, warm_start
from asap.env import TrackingEnv
from asap.evaluate import Case, EvaluateConfig, Evaluation, evaluate
from asap.export import write_policy
from asap.imitate import Imitation
from asap.inputs import OpenedMotion
from asap.policy import as_layers
from asap.ppo import TrackerPPO
from asap.robot import Robot
from asap.teachers import find_teacher, teacher_sha256
from asap.training_run import Report, TrainConfig, TrainingRun
from asap.vecenv import TrackingVecEnv
from asap_deploy.npz import write_file
from asap_deploy.policy import Policy

POLICY = "policy.onnx"
START = "start.onnx"
"""What a run with an --init began with."""
FINAL = 4
"""The result is judged by so many times as many episodes as those on the way."""


class TrainResult(NamedTuple):
    """How a run ended."""

    steps: int
    wall_s: float
    evaluation: Evaluation | None
    interrupted: bool


class Trainer(TrainingRun):
    """One run that trains a policy of one clip."""

    final_judgings = 1.0 + FINAL

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
        self.robot, self.clip = robot, clip
        self.judges = tuple(judges) or (robot,)
        fast = (robot.for_training() if config.cheap_shapes else robot).with_(
            integrator=config.integrator, physics_dt=config.physics_dt
        )
        if init is not None:
            fast = warm_start.robot_for(init, fast)
            contract = warm_start.contract_on(init, fast, clip.motion, clip.name)
        seeds = np.random.SeedSequence(config.seed).spawn(1)
        env = TrackingEnv(
            fast, clip.motion, config.env, config.num_envs, np.random.default_rng(seeds[0]),
            motion_name=clip.name, threads=config.threads, contract=contract,
        )  # fmt: skip
        imitation, self._teacher_sha256 = None, None
        if config.imitate.iterations and fast.has_free_base:
            found = functools.partial(find_teacher, fast, clip.motion, config.imitate.teacher,
                                      threads=config.threads)  # fmt: skip
            imitation = Imitation(env, found, config.imitate)
            self._teacher_sha256 = teacher_sha256(fast, config.imitate.teacher)
        ppo = TrackerPPO(TrackingVecEnv(env), config.ppo, config.seed, imitation, weights)
        super().__init__(env, ppo, config, run_dir, resume=resume)

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
        config = self.config
        if self.init is not None and self.ppo.iteration == 0:
            start = self.export()
            write_file(self.run_dir / START, start)
            self.keep_best()  # training may make it worse: then the file's own is the result
        if self.iterate(watch, stopped):
            return TrainResult(self.ppo.num_timesteps, self.trained_s, None, True)
        if not judged:
            return TrainResult(self.ppo.num_timesteps, self.trained_s, None, False)
        policy = Policy.from_bytes((self.run_dir / POLICY).read_bytes())
        final = EvaluateConfig(episodes=FINAL * config.episodes, seed=config.seed + 1,
                               start_noise=config.judged_from)  # fmt: skip
        evaluation = evaluate([Case(policy, self.clip.motion, self.clip.name)], self.robot, final)
        return TrainResult(self.ppo.num_timesteps, self.trained_s, evaluation, False)

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

    @property
    def judging_steps(self) -> int:
        """Control steps of all episodes of an evaluation."""
        return self.env.last_frame * self.config.episodes * len(self.judges)

    def keep_best(self) -> None:
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
        self.curves.add_evaluation(self.place, figures)
        if figures["cost_mm"] <= self.best_cost_mm:
            self.best_cost_mm = figures["cost_mm"]
            write_file(self.run_dir / POLICY, data)

    def identity(self) -> dict[str, Any]:
        """What must be the same for a run to be continued."""
        return {
            "robot": self.robot.name,
            "motion": self.clip.name,
            "motion_sha256": self.clip.motion.sha256,
            "train": dataclasses.asdict(self.config),
            "init": None if self.init is None else warm_start.fingerprint(self.init),
            "teacher": self._teacher_sha256,
        }


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
