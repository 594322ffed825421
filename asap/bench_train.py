"""How fast training is, end to end and by part, beside the same robots in a bare physics loop.

    clip = open_motion(Path("squat"), robot, ground=True)
    speed = bench_train(robot, clip, TrainConfig())
    speed.ratio_bare.value                     # 0.4: training costs 2.5 times its physics

Both take turns, an iteration each, so whatever else the machine does slows both alike.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mujoco.batch import Batch

from asap.bench import speed_ratio
from asap.bench_results import Ratio
from asap.imitate import ImitateConfig
from asap.inputs import OpenedMotion
from asap.robot import Robot
from asap.train import Trainer
from asap.training_run import TrainConfig
from asap_deploy.errors import InputError

PARTS = ("physics_s", "environment_s", "policy_s", "update_s")
"""Simulator; observations, rewards and resets; forward passes and buffer; gradient steps."""

_WARM_UP = 2


@dataclass(frozen=True, kw_only=True)
class TrainSpeed:
    """Speed of training; a step is one control step of one robot."""

    robot: str
    num_envs: int
    repetitions: int
    samples: int
    """Of an iteration."""
    train_per_s: float
    """Steps end to end."""
    bare_per_s: float
    """Steps of ``ctrl[:] = x; batch.step(nstep=k)`` on the model that training simulates."""
    ratio_bare: Ratio
    """train / bare."""
    parts: dict[str, float]
    """Median time of an iteration by ``PARTS`` [s]."""

    def to_json(self) -> dict[str, Any]:
        """Plain numbers."""
        return asdict(self) | {"ratio_bare": self.ratio_bare._asdict()}


def bench_train(
    robot: Robot, clip: OpenedMotion, config: TrainConfig, *, iterations: int = 20
) -> TrainSpeed:
    """Train for some iterations, each beside the bare loop for as many samples.

    The bare loop plays the targets of the clip from its first frame, starting anew every 50 steps;
    the robots of training begin anywhere and fall as an untrained policy does.

    Args:
        robot: That is trained on.
        clip: That is tracked.
        config: How; its steps do not matter, and imitation is left out.
        iterations: Repetitions after two that warm up.

    Raises:
        InputError: If there is no repetition.
    """
    if iterations < 1:
        raise InputError(f"--iterations must be at least 1; got {iterations}")
    config = dataclasses.replace(config, imitate=ImitateConfig(iterations=0))
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(robot, clip, config, Path(folder))
        watch = _Stopwatch(trainer)
        bare = _bare_loop(trainer)
        rows = []
        for _ in range(_WARM_UP + iterations):
            watch.reset()
            started = time.perf_counter()
            facts = trainer.ppo.iterate()
            ended = time.perf_counter()
            bare()
            rows.append(watch.split(facts) | {
                "train_s": ended - started, "bare_s": time.perf_counter() - ended
            })  # fmt: skip
    times = {name: np.array([row[name] for row in rows[_WARM_UP:]]) for name in rows[0]}
    samples = config.num_envs * config.ppo.horizon
    return TrainSpeed(
        robot=robot.name,
        num_envs=config.num_envs,
        repetitions=iterations,
        samples=samples,
        train_per_s=float(samples / np.median(times["train_s"])),
        bare_per_s=float(samples / np.median(times["bare_s"])),
        ratio_bare=speed_ratio(times["bare_s"], times["train_s"]),
        parts={name: float(np.median(times[name])) for name in PARTS},
    )


class _Stopwatch:
    """Time in the simulator and in the environment around it."""

    def __init__(self, trainer: Trainer) -> None:
        """Both are timed from now on."""
        self.spent = {"sim": 0.0, "env": 0.0}
        env: Any = trainer.env
        for name, owner in (("sim", env.sim), ("env", env)):
            owner.step = self._timed(name, owner.step)

    def reset(self) -> None:
        """Begin at zero."""
        self.spent = dict.fromkeys(self.spent, 0.0)

    def split(self, facts: dict[str, float]) -> dict[str, float]:
        """Where the time of an iteration went [s]."""
        sim, env = self.spent["sim"], self.spent["env"]
        parts = (sim, env - sim, facts["collect_s"] - env, facts["update_s"])
        return dict(zip(PARTS, parts, strict=True))

    def _timed(self, name: str, step: Callable[[np.ndarray], Any]) -> Callable[[np.ndarray], Any]:
        def call(action: np.ndarray) -> Any:
            started = time.perf_counter()
            result = step(action)
            self.spent[name] += time.perf_counter() - started
            return result

        return call


def _bare_loop(trainer: Trainer) -> Callable[[], None]:
    """The least that the physics of an iteration takes."""
    env, config = trainer.env, trainer.config
    batch = Batch(env.sim.model, config.num_envs, config.threads)
    ctrl, qpos = batch.bind("ctrl"), batch.bind("qpos")
    frames = trainer.env.reference.frames
    start = env.robot.qpos(
        frames.body_pos_w[:1, 0], frames.body_quat_wxyz[:1, 0], frames.joint_pos[:1]
    )
    done = 0

    def run() -> None:
        nonlocal done
        for _ in range(config.ppo.horizon):
            place = done % min(50, env.last_frame)
            if place == 0:
                batch.reset(stage=0)
                qpos[:] = start
            ctrl[:] = frames.joint_pos[place]
            batch.step(nstep=env.robot.decimation, stage=0)
            done += 1

    return run
