"""A tracker trained on inside a corrected simulator, and kept only if it is better there.

    arm = Arm(CORRECTED, correction.robot(robot))
    result = finetune(trainer_of(arm, clip, policy, FINETUNE, run_dir))
    result.changed, result.before.overall, result.after.overall

What comes out is the best policy of all evaluations on the way, the untouched start among them,
judged in the corrected simulator and compared once more on starts that chose nothing. The policy
never contains the correction: a robot has its own physics.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from asap.correction import Correction
from asap.env import EnvConfig
from asap.evaluate import Case, EvaluateConfig, Evaluation, evaluate
from asap.imitate import ImitateConfig
from asap.inputs import OpenedMotion
from asap.metrics import Interval, paired_difference
from asap.ppo import PpoConfig
from asap.randomize import RandomizeConfig
from asap.rewards import RewardConfig
from asap.robot import Robot
from asap.tracking import NOISE, StartNoise
from asap.train import POLICY, START, Trainer
from asap.training_run import Report, TrainConfig
from asap_deploy.errors import InputError
from asap_deploy.npz import write_file
from asap_deploy.policy import Policy

UNTOUCHED, CORRECTED = "no adaptation", "corrected"
"""The policy that a run begins with, and the one that is trained on in the corrected simulator."""
IDENTIFIED, NOISY = "identified", "noise"
"""Trained on with the fitted parameters alone, and with noise as large as the correction."""
DELTA = "delta"
"""Trained on with an offset that was learned without identification, as the paper's method is."""
NOMINAL, RANDOMIZED = "nominal", "randomized"
"""Trained on in the model itself, and in the model with ordinary randomisation."""
ORACLE = "oracle"
"""Trained on in the truth itself."""
CONTROLS = (NOMINAL, NOISY, RANDOMIZED, IDENTIFIED, DELTA, ORACLE)
"""What a gain is compared with."""
FITTED = (CORRECTED, IDENTIFIED, NOISY, DELTA)
"""Where a policy is trained on that depends on the fit."""
WITHOUT_FIT = tuple(name for name in CONTROLS if name not in FITTED)
"""Controls that need no log."""

FINETUNE = TrainConfig(
    steps=500_000,
    num_envs=256,
    # The correction is of this physics: training in another would add a gap of its own.
    physics_dt=0.005,
    integrator="implicitfast",
    cheap_shapes=False,
    env=EnvConfig(reward=RewardConfig.in_world(), push_speed=0.0, hold_s=0.0),
    imitate=ImitateConfig(iterations=0),
    ppo=PpoConfig(
        horizon=32,
        log_std=-0.8,
        critic_warmup=10,
        target_kl=0.015,
        last_kl=0.003,
        learning_rate_bounds=(1e-6, 3e-4),
    ),
    averaging=0.8,
    evaluate_every=10,
)
"""Steps that become smaller, and a mean over them: from a policy that is good already, the noise of
a gradient leads nowhere but away. Actions are explored widely (0.45 of their scale): in the twin
itself, after 350 k steps, ``CR7_level1`` costs 254 -> 211, 205, 187, 204 mm with 0.2, 0.3, 0.45,
0.67, and ``walk`` 336 -> 336, 328, 304, 336 (best evaluation, one seed each)."""

RANDOMIZATION = RandomizeConfig(
    friction=(0.5, 1.25), link_mass=(0.9, 1.1), added_mass_kg=(-1.0, 2.0),
    com_offset_m=(-0.02, 0.02), stiffness=(0.8, 1.2), damping=(0.8, 1.2), delay_s=(0.0, 0.02),
)  # fmt: skip
"""Ordinary domain randomisation: what one does without a log."""
_HELD_OUT = 2
"""Variants of a correction that no training sees."""
_FRESH = 1000
"""Added to the seed of the last comparison: starts that chose nothing."""
_COMPARED = 8
"""The last comparison has so many times as many episodes as those on the way: with half of them it
refused policies that were 25 mm better."""


class Arm(NamedTuple):
    """A simulator in which a policy is trained on."""

    name: str
    robot: Robot
    env: EnvConfig | None = None
    """Other environments than those of the config"""
    judges: tuple[Robot, ...] = ()
    """Robots that choose the policy; by default the one that is trained on"""


class Finetuned(NamedTuple):
    """How it ended."""

    changed: bool
    """False where nothing was better than the start"""
    before: Evaluation | None
    """The start and the result, in the simulator that was trained in; None if interrupted"""
    after: Evaluation | None
    steps: int
    wall_s: float
    interrupted: bool

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "changed": self.changed,
            "steps": self.steps,
            "wall_s": self.wall_s,
            "steps_per_s": self.steps / max(self.wall_s, 1e-9),
            "before": None if self.before is None else self.before.as_dict(),
            "evaluation": None if self.after is None else self.after.as_dict(),
        }


def beginning(config: TrainConfig, noise: StartNoise) -> TrainConfig:
    """The same, trained and judged for starts of this kind."""
    most = 1.2 * NOISE[noise]
    ours = config.env.start.noise == FINETUNE.env.start.noise
    start = dataclasses.replace(config.env.start, noise=(most / 6.0, most)) if ours else None
    env = config.env if start is None else dataclasses.replace(config.env, start=start)
    return dataclasses.replace(config, env=env, judged_from=noise)


def trainer_of(
    arm: Arm,
    clip: OpenedMotion,
    policy: Policy,
    config: TrainConfig,
    run_dir: Path,
    *,
    resume: bool = False,
) -> Trainer:
    """What trains a policy on.

    Args:
        arm: Where.
        clip: That is tracked.
        policy: The start.
        config: How.
        run_dir: Folder of the run.
        resume: Continue the run in it.

    Raises:
        InputError: If the policy cannot be trained on, or there is nothing to resume.
    """
    config = config if arm.env is None else dataclasses.replace(config, env=arm.env)
    return Trainer(arm.robot, clip, config, run_dir, resume=resume, init=policy,
                   judges=arm.judges)  # fmt: skip


def finetune(
    trainer: Trainer,
    *,
    watch: Callable[[Report], None] = lambda report: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Finetuned:
    """Train on, and keep what is better.

    Args:
        trainer: Of ``trainer_of``.
        watch: Told about every iteration.
        stopped: Asked after every iteration.
    """
    result = trainer.run(watch, stopped, judged=False)
    folder, clip = trainer.run_dir, trainer.clip
    if result.interrupted:
        return Finetuned(False, None, None, result.steps, result.wall_s, True)
    config = trainer.config
    episodes = _COMPARED * config.episodes // len(trainer.judges)
    fresh = EvaluateConfig(episodes=episodes, start_noise=config.judged_from,
                           seed=config.seed + _FRESH, threads=config.threads)  # fmt: skip
    start, found = (folder / name for name in (START, POLICY))
    before, after = (_judged(file, clip, trainer.judges, fresh) for file in (start, found))
    changed = _better(before, after, fresh.seed)
    if not changed:
        write_file(found, start.read_bytes())
    kept = after[0] if changed else before[0]
    return Finetuned(changed, before[0], kept, result.steps, result.wall_s, False)


def arms(
    robot: Robot, correction: Correction | None, env: EnvConfig, *, controls: bool,
    truth: Robot | None, only: Collection[str] = CONTROLS, delta: Correction | None = None,
) -> list[Arm]:  # fmt: skip
    """The corrected simulator, and what a gain there must be compared with at equal budget.

    Args:
        robot: The model.
        correction: What a fit says about it; None for the controls that need no fit.
        env: Of the fine-tuning.
        controls: Also the model itself, random noise of the correction's size on the targets,
            ordinary randomisation, and the parameters alone where the correction has learned more.
        truth: The twin that plays the real robot, where there is one: then controls end with it.
        only: Controls that are wanted.
        delta: An offset that was learned from the same log without identification; where a fit
            refused it there is nothing to train in, and no arm.

    Raises:
        InputError: If ``delta`` is no such offset.
    """
    first = [] if correction is None else [_corrected(robot, correction, env)]
    if not controls:
        return first
    found = [
        Arm(NOMINAL, robot),
        Arm(RANDOMIZED, robot, dataclasses.replace(env, randomize=RANDOMIZATION)),
    ]
    if correction is not None:
        noisy = dataclasses.replace(env, target_noise=correction.size_rad(robot))
        found.append(Arm(NOISY, robot, noisy))
        if correction.learned is not None and correction.parameters:
            alone = dataclasses.replace(correction, learned=None)
            found.append(Arm(IDENTIFIED, alone.robot(robot)))
    if delta is not None and not delta.empty:
        found.append(Arm(DELTA, learned_alone(delta).robot(robot)))
    if truth is not None:
        found.append(Arm(ORACLE, truth))
    wanted = [arm for arm in found if arm.name in only]
    return [*first, *sorted(wanted, key=lambda arm: CONTROLS.index(arm.name))]


def learned_alone(correction: Correction) -> Correction:
    """A correction that identified nothing: what the control stands for must be in it alone.

    Raises:
        InputError: If it holds parameters.
    """
    if correction.parameters:
        raise InputError(
            f"a learned offset alone holds no parameters; got {', '.join(correction.parameters)}; "
            "fit it with `asap fit --method delta` or `--method delta-ppo`"
        )
    return correction


def _corrected(robot: Robot, correction: Correction, env: EnvConfig) -> Arm:
    """The corrected robot, with what the fit does not know: some variants train, others choose."""
    centre, count = correction.robot(robot), len(correction.variants)
    if count <= _HELD_OUT or not correction.parameters:
        return Arm(CORRECTED, centre)
    train = correction.sets(range(count - _HELD_OUT))
    drawn = dataclasses.replace(env, randomize=dataclasses.replace(env.randomize, sets=train))
    held_out = [correction.variant(i).robot(robot) for i in range(count - _HELD_OUT, count)]
    return Arm(CORRECTED, centre, drawn, (centre, *held_out))


def compare(
    policies: Mapping[str, Policy], clip: OpenedMotion, robot: Robot, *, episodes: int, seed: int,
    threads: int = 0, start_noise: StartNoise = "paper",
) -> dict[str, Evaluation]:  # fmt: skip
    """All policies on one robot, from the same starts."""
    config = EvaluateConfig(episodes=episodes, start_noise=start_noise, seed=seed, threads=threads)
    return {name: evaluate([Case(policy, clip.motion, clip.name)], robot, config)
            for name, policy in policies.items()}  # fmt: skip


def _judged(
    file: Path, clip: OpenedMotion, robots: Sequence[Robot], config: EvaluateConfig
) -> list[Evaluation]:
    """A policy on every robot."""
    case = Case(Policy.from_bytes(file.read_bytes()), clip.motion, clip.name)
    return [evaluate([case], robot, config) for robot in robots]


def gain(before: Sequence[Evaluation], after: Sequence[Evaluation], seed: int) -> Interval:
    """What the cost of an episode changed by, from the same starts [mm]; negative is better."""
    old, new = (np.concatenate([found.cost_mm for found in one]) for one in (before, after))
    return paired_difference(old, new, np.random.default_rng(seed))


def _better(before: Sequence[Evaluation], after: Sequence[Evaluation], seed: int) -> bool:
    """Whether a policy falls no more often, and costs less by more than chance explains."""
    success = [sum(e.overall["success_rate"].value for e in one) for one in (before, after)]
    return success[1] >= success[0] and gain(before, after, seed).high < 0.0
