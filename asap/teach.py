"""Training a teacher: one network for all motions of a robot.

It learns by PPO like a tracker, on the clips that are given and on random choreographies, and is
judged by how many robots finish choreographies that it never trained on, from the original's start
noise. The best of all judgements is ``teacher.onnx``.

    motions = choreographies(robot, range(150), run_dir / "choreographies")
    trainer = TeacherTrainer(robot, motions, held_out, TrainConfig.teacher(), run_dir)
    trainer.train()
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from asap import warm_start
from asap.dynamics_check import check_dynamics
from asap.policy import as_layers
from asap.ppo import TrackerPPO
from asap.random_motions import random_motion
from asap.robot import Robot
from asap.rough_motions import roughen
from asap.teacher import (
    NetworkTeacher,
    TeacherFacts,
    TeachingEnv,
    make_teacher,
    save_teacher,
    trial_env,
    tried,
)
from asap.teacher_start import start_from
from asap.training_run import Report, TrainConfig, TrainingRun
from asap.vecenv import TrackingVecEnv
from asap_deploy.motion import Motion

TEACHER = "teacher.onnx"
HELD_OUT = range(1_000_000, 1_000_012)
"""Seeds of the choreographies that judge, as far as they are sound."""


class TeacherTrainer(TrainingRun):
    """One run that trains a teacher."""

    def __init__(
        self, robot: Robot, motions: Sequence[Motion], judged_on: Sequence[Motion],
        config: TrainConfig, run_dir: Path, *, resume: bool = False,
        init: NetworkTeacher | None = None,
    ) -> None:  # fmt: skip
        """Make environments and networks; with ``resume`` as they were at the last checkpoint.

        Args:
            robot: That is taught.
            motions: That it learns.
            judged_on: Others, that tell which network is the best.
            config: How.
            run_dir: Folder of the run.
            resume: Continue the run in it.
            init: A teacher to start from, also of another description of the robot.

        Raises:
            InputError: If there is nothing to resume, or it was another run, or ``init`` is of
                a robot that is too different.
        """
        fast = robot.for_training() if config.cheap_shapes else robot
        self.robot = fast.with_(integrator=config.integrator, physics_dt=config.physics_dt)
        self._motions, self._judged_on = motions, judged_on
        rng = np.random.default_rng(np.random.SeedSequence(config.seed).spawn(1)[0])
        env = TeachingEnv(self.robot, motions, config.env, config.num_envs, rng,
                          threads=config.threads)  # fmt: skip
        weights, self._init = None, init
        if init is not None:
            weights = start_from(init, Robot.load(init.facts.robot), env)
            widths = warm_start.actor_widths(weights)
            config = dataclasses.replace(config, ppo=dataclasses.replace(config.ppo, actor=widths))
        ppo = TrackerPPO(TrackingVecEnv(env), config.ppo, config.seed, init=weights)
        super().__init__(env, ppo, config, run_dir, resume=resume)

    def train(
        self,
        watch: Callable[[Report], None] = lambda report: None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Train until the steps are done, or until ``stopped`` says so; true if it did."""
        return self.iterate(watch, stopped)

    def export(self) -> NetworkTeacher:
        """The running mean of the actor."""
        norm, steps = self.ppo.tracker.towers.actor_norm, self.ppo.num_timesteps
        facts = TeacherFacts.of(self.env, f"{steps} steps on {len(self._motions)} clips")
        mean, std = norm.mean.numpy().copy(), norm.std().numpy().copy()
        assert norm.limit is not None, "only the normaliser of a policy file may have none"
        return make_teacher(facts, as_layers(self.mean_actor), mean, std, norm.limit)

    @property
    def judging_steps(self) -> int:
        """Control steps of all robots on all clips."""
        seconds = sum(motion.duration_s for motion in self._judged_on)
        return round(seconds / self.robot.control_dt) * self.config.episodes

    def keep_best(self) -> None:
        """Try the network on clips that it does not train on; keep it if none was better."""
        teacher, config = self.export(), self.config
        rates = [
            tried(teacher, trial_env(self.robot, motion, noise=1.0, num_envs=config.episodes,
                                     threads=config.threads)).finished
            for motion in self._judged_on
        ]  # fmt: skip
        figures = {"success_rate": float(np.mean(rates)), "worst_success_rate": min(rates)}
        self.curves.add_evaluation(self.place, figures)
        if -figures["success_rate"] <= self.best_cost_mm:
            self.best_cost_mm = -figures["success_rate"]
            save_teacher(teacher, self.run_dir / TEACHER)

    def identity(self) -> dict[str, Any]:
        """What must be the same for a run to be continued."""
        hashes = "".join(motion.sha256 for motion in (*self._motions, *self._judged_on))
        return {
            "robot": self.robot.name,
            "motions_sha256": hashlib.sha256(hashes.encode()).hexdigest(),
            "train": dataclasses.asdict(self.config),
            "init": None if self._init is None else hashlib.sha256(self._init.data).hexdigest(),
        }


def choreographies(robot: Robot, seeds: Iterable[int], folder: Path) -> Iterator[Motion | None]:
    """Random motions that floor and motors allow, one for every seed; None for one that is not.

    What is in the folder already is not made again.

    Args:
        robot: A robot with the joints of a G1.
        seeds: One for each.
        folder: Where they are kept.

    Raises:
        InputError: If the robot cannot perform them, or mink is not installed.
    """
    for seed in seeds:
        path = folder / f"{seed}.npz"
        if path.exists():
            motion = Motion.load(path)
        else:
            motion = random_motion(seed, robot)
            motion.save(path)
        yield None if check_dynamics(motion, robot).problems else motion


def roughened(motions: Sequence[Motion], robot: Robot, seeds: Iterable[int]) -> Iterator[Motion]:
    """Motions in turn as a film of them would have come out, one for every seed."""
    clean = tuple(motions)  # the caller may add what it is given to the same list
    for place, seed in enumerate(seeds):
        rng = np.random.default_rng(np.random.SeedSequence([seed, 7]))
        yield roughen(clean[place % len(clean)], robot, rng)
