"""The commands that train: ``asap pretrain``, ``asap finetune``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from asap.cli_common import INTERRUPTED, Common, Outcome, Progress, show, table
from asap.cli_progress import watched
from asap.correction import Correction
from asap.delta_doubt import Doubt, doubted
from asap.finetune import FINETUNE, UNTOUCHED, arms, beginning, compare, finetune, trainer_of
from asap.inputs import OpenedMotion, open_motion, open_policy
from asap.metrics import ERROR_NAMES
from asap.robot import Robot
from asap.tracking import StartNoise
from asap.train import FINAL, POLICY, Trainer
from asap.training_run import CHECKPOINT, TrainConfig
from asap_deploy.errors import InputError
from asap_deploy.policy import Policy

Config = TypeVar("Config")
PRESETS: dict[str, Callable[[], TrainConfig]] = {"cpu": TrainConfig, "paper": TrainConfig.paper}


@dataclass(frozen=True, kw_only=True)
class Pretrain(Common):
    """Train a motion tracker on CPU cores, from nothing or on from a policy.

    The actor sees proprioception and phase, the critic also the motion and the whole state. At
    first the actor copies the robot's teacher (`asap teach`), or a regulator planned for the clip,
    whichever does better; --train.imitate.iterations 0 begins from nothing. A run is a folder;
    Ctrl-C saves it, --resume continues it to the bit. The result is the best policy of all
    evaluations on the way, exported with its contract. Curves are in metrics.jsonl, and for
    TensorBoard, which is installed by itself: tensorboard --logdir FOLDER.
    """

    draws: ClassVar[bool] = True
    motion: Path
    """Clip to track: a file of any known format, or the name of a clip of ours."""
    robot: str = "g1"
    """Robot or variant, or a folder with a robot.toml."""
    init: Path | None = None
    """ONNX file of a policy to start from, also another toolkit's: its network, observation, gains
    and offset stay, and at first the critic learns alone (--train.ppo.critic-warmup)."""
    layout: str | None = None
    """Observation layout of an --init file that carries no contract."""
    out: Path | None = None
    """Folder of the run; runs/pretrain/<time>-<seed> by default."""
    resume: bool = False
    """Continue the run in --out from its checkpoint."""
    preset: Literal["cpu", "paper"] = "cpu"
    """cpu: learns fastest on few cores; paper: as published, for a GPU's worth of samples."""
    ground: bool = True
    """Put the soles of foreign clips onto the floor first."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Every setting of the preset can be changed."""

    def run(self, progress: Progress) -> Outcome:
        """Train."""
        robot = Robot.load(self.robot)
        clip = open_motion(self.motion, robot, ground=self.ground)
        config = overlaid(PRESETS[self.preset](), self.train, TrainConfig())
        config = dataclasses.replace(config, seed=self.seed)
        run_dir = self.folder("pretrain")
        init, inputs = None, [clip.path]
        if self.init is not None:
            opened = open_policy(self.init, robot, clip, self.layout)
            init = opened.policy
            inputs.append(opened.path)
        trainer = Trainer(robot, clip, config, run_dir, resume=self.resume, init=init)
        with watched(trainer, quiet=self.quiet) as (watch, stopped):
            result = trainer.run(watch, stopped)
        facts: dict[str, Any] = {
            "run_dir": run_dir,
            "steps": result.steps,
            "wall_s": result.wall_s,
            "steps_per_s": result.steps / max(result.wall_s, 1e-9),
        }
        imitation = trainer.ppo.imitation
        facts["teacher"] = imitation.about if imitation else ""
        if result.evaluation is None:
            again = (
                f"stopped after {result.steps} steps; to continue, give the same options with "
                f"--resume --out {run_dir}"
            )
            return Outcome(result=facts, shown=[again], inputs=inputs, status=INTERRUPTED)
        overall = result.evaluation.overall
        facts |= {"onnx": run_dir / POLICY, "evaluation": result.evaluation.as_dict()}
        rows = [[name, show(overall[name], 2)] for name in ("success_rate", *ERROR_NAMES)]
        title = f"{run_dir / POLICY}: {result.steps} steps in {result.wall_s / 60:.1f} minutes"
        heading = f"{FINAL * config.episodes} episodes, starts: {config.judged_from}"
        shown = [table(title, [heading, ""], rows)]
        copied = [f"copied at first: {facts['teacher']}"] if facts["teacher"] else []
        return Outcome(result=facts, shown=[*shown, *copied], inputs=inputs)


def overlaid(preset: Config, given: Config, default: Config) -> Config:
    """The preset, with what was given in place of its own where that is not the default."""
    changes = {}
    for item in dataclasses.fields(preset):  # type: ignore[arg-type]
        own, new, usual = (getattr(one, item.name) for one in (preset, given, default))
        changes[item.name] = (
            overlaid(own, new, usual)
            if dataclasses.is_dataclass(own)
            else (own if new == usual else new)
        )
    return dataclasses.replace(preset, **changes)  # type: ignore[type-var]


@dataclass(frozen=True, kw_only=True)
class Finetune(Common):
    """Train a policy on inside the simulator that a correction says is nearer to the robot.

    The result is the best policy of all evaluations in the corrected simulator, the untouched start
    among them: training may end with no change, never with a worse policy there. --controls does
    the same at equal budget without the correction, with random noise of its size, with ordinary
    randomisation, and in the learned offset of --delta; --truth says on which robot or twin all are
    compared at the end.
    """

    draws: ClassVar[bool] = True
    policy: Path
    """ONNX file to start from, ours or another toolkit's."""
    motion: Path
    """Clip to track: a file of any known format, or the name of a clip of ours."""
    correction: Path
    """correction.json of `asap fit`."""
    robot: str = "g1"
    """Robot or variant, or a folder with a robot.toml."""
    truth: str | None = None
    """Robot or twin that nobody trains on and that judges all policies, for example g1@worn."""
    controls: bool = False
    """Also train without the correction, with noise, with randomisation (and on --truth itself)."""
    doubt: Doubt = field(default_factory=Doubt)
    """How far a learned offset is believed in training."""
    delta: Path | None = None
    """With --controls: correction.json of `asap fit --method delta` or `delta-ppo` from the same
    logs, an offset that was learned without identification."""
    layout: str | None = None
    """Observation layout of a policy that carries no contract."""
    out: Path | None = None
    """Folder of the runs; runs/finetune/<time>-<seed> by default."""
    start_noise: StartNoise = "paper"
    """Starts that are trained and judged: none (at rest in the first frame), small, paper."""
    resume: bool = False
    """Continue in --out; what is finished is not done again."""
    ground: bool = True
    """Put the soles of foreign clips onto the floor first."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Every setting of the fine-tuning can be changed."""

    def run(self, progress: Progress) -> Outcome:
        """Train on, and compare."""
        robot = Robot.load(self.robot)
        truth = None if self.truth is None else Robot.load(self.truth)
        clip = open_motion(self.motion, robot, ground=self.ground)
        config = dataclasses.replace(overlaid(FINETUNE, self.train, TrainConfig()), seed=self.seed)
        config = beginning(config, self.start_noise)
        opened = open_policy(self.policy, robot, clip, self.layout)
        start = opened.policy
        correction = Correction.load(self.correction)
        delta = None if self.delta is None else Correction.load(self.delta)
        if delta is not None and not self.controls:
            raise InputError("--delta is one of the controls: give --controls too")
        places = arms(robot, correction, config.env, controls=self.controls, truth=truth,
                      delta=delta)  # fmt: skip
        if not self.doubt.none and all(arm.robot.learned is None for arm in places):
            raise InputError("--doubt is of learned offsets: the correction has learned none")
        places = [doubted(arm, self.doubt, seed=self.seed) for arm in places]
        out = self.folder("finetune")
        inputs = [clip.path, opened.path, self.correction]
        inputs += [] if self.delta is None else [self.delta]
        facts: dict[str, Any] = {"run_dir": out, "controls": {}}
        policies = {UNTOUCHED: start}
        for arm in places:
            folder = out / arm.name
            again = self.resume and (folder / CHECKPOINT).exists()
            trainer = trainer_of(arm, clip, start, config, folder, resume=again)
            with watched(trainer, quiet=self.quiet) as (watch, stopped):
                made = finetune(trainer, watch=watch, stopped=stopped)
            if made.interrupted:
                line = f"stopped; to continue, give the same options with --resume --out {out}"
                return Outcome(result=facts, shown=[line], inputs=inputs, status=INTERRUPTED)
            policies[arm.name] = Policy.from_bytes((folder / POLICY).read_bytes())
            facts["controls"][arm.name] = made.as_dict()
        main = facts["controls"].pop(places[0].name)
        facts |= main | {"onnx": out / places[0].name / POLICY}
        judge = truth or correction.robot(robot)
        table_, figures = _compared(policies, clip, judge, config)
        facts["on_truth" if truth else "on_corrected"] = figures
        words = "" if main["changed"] else "no change: nothing was better than the start; "
        if delta is not None and delta.empty:
            words += "no arm 'delta': its fit found no offset; "
        line = f"{words}policy: {facts['onnx']}"
        return Outcome(result=facts, shown=[table_, line], inputs=inputs)


def _compared(
    policies: dict[str, Policy], clip: OpenedMotion, robot: Robot, config: TrainConfig
) -> tuple[Any, dict[str, Any]]:
    """All policies on one robot, from the same noisy starts."""
    episodes = FINAL * config.episodes
    judged = compare(policies, clip, robot, episodes=episodes, seed=config.seed + 2000,
                     threads=config.threads, start_noise=config.judged_from)  # fmt: skip
    shown = ("success_rate", *ERROR_NAMES[:2])
    rows = [[name, *(show(found.overall[key], 2) for key in shown)]
            for name, found in judged.items()]  # fmt: skip
    figures = {name: found.summary() for name, found in judged.items()}
    columns = ["policy", *shown]
    return table(f"{episodes} noisy episodes on {robot.name}", columns, rows), figures
