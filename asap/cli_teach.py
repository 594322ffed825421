"""The command that trains a teacher: ``asap teach``."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from asap.cli_common import INTERRUPTED, Common, Outcome, Progress, table
from asap.cli_progress import watched
from asap.cli_train import overlaid
from asap.curves import METRICS, read_rows
from asap.inputs import open_motion, shipped_motions
from asap.robot import Robot
from asap.teach import HELD_OUT, TEACHER, TeacherTrainer, choreographies, roughened
from asap.teacher import NetworkTeacher
from asap.training_run import TrainConfig
from asap_deploy.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Teach(Common):
    """Train one network for all motions of a robot; `asap pretrain` then copies it for each clip.

    It sees the whole robot and is told what the motion does next, so it runs in simulation only. It
    learns the clips that are given and random choreographies, and is judged on others. Once per
    robot: the result, teacher.onnx, is for `asap pretrain --train.imitate.teacher FILE`.
    """

    draws: ClassVar[bool] = True
    robot: str = "g1"
    """Robot or variant, or a folder with a robot.toml."""
    motion: tuple[Path, ...] = ()
    """Clips to learn, files or names; by default all that ship for this robot."""
    random: int = 180
    """Random choreographies to learn as well, for robots with the joints of a G1; others judge the
    result. 0: none; the clips judge."""
    rough: int = 180
    """Copies of these motions to learn as well, with the errors of motions that were filmed: they
    slide, lean and tremble. Others judge the result. 0: none."""
    init: Path | None = None
    """Teacher to start from, also of a robot with most of the same joints."""
    out: Path | None = None
    """Folder of the run; runs/teach/<time>-<seed> by default."""
    resume: bool = False
    """Continue the run in --out from its checkpoint."""
    ground: bool = True
    """Put the soles of foreign clips onto the floor first."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Every setting can be changed."""

    def run(self, progress: Progress) -> Outcome:
        """Make choreographies, train."""
        robot = Robot.load(self.robot)
        config = overlaid(TrainConfig.teacher(), self.train, TrainConfig())
        config = dataclasses.replace(config, seed=self.seed)
        run_dir = self.folder("teach")
        names = self.motion or tuple(Path(name) for name in shipped_motions(robot))
        clips = [open_motion(name, robot, ground=self.ground) for name in names]
        folder = run_dir / "choreographies"
        motions = [clip.motion for clip in clips]
        judged_on = [*motions]
        if self.random:
            judged_on = [motion for motion in choreographies(robot, HELD_OUT, folder) if motion]
        motions += [
            motion for motion in choreographies(robot, range(self.random), folder) if motion
        ]
        if not motions:
            raise InputError("there is nothing to learn: give --motion or --random")
        if self.rough:
            motions += roughened(motions, robot, range(self.rough))
            judged_on += roughened(judged_on, robot, HELD_OUT)
        init = None if self.init is None else NetworkTeacher.load(self.init)
        trainer = TeacherTrainer(robot, motions, judged_on, config, run_dir, resume=self.resume,
                                 init=init)  # fmt: skip
        with watched(trainer, quiet=self.quiet) as (watch, stopped):
            interrupted = trainer.train(watch, stopped)
        inputs, steps = [clip.path for clip in clips], trainer.ppo.num_timesteps
        inputs += [self.init] if self.init else []
        facts = {"run_dir": run_dir, "steps": steps, "wall_s": trainer.trained_s}
        if interrupted:
            again = f"stopped after {steps} steps; continue with --resume --out {run_dir}"
            return Outcome(result=facts, shown=[again], inputs=inputs, status=INTERRUPTED)
        judged = [row for row in read_rows(run_dir / METRICS) if "evaluation/success_rate" in row]
        best = max(judged, key=lambda row: row["evaluation/success_rate"])
        figures = {name: best[f"evaluation/{name}"]
                   for name in ("success_rate", "worst_success_rate")}  # fmt: skip
        facts |= {"onnx": run_dir / TEACHER, "evaluation": figures, "clips": len(motions)}
        rows = [[name, f"{value:.3f}"] for name, value in figures.items()]
        unseen = "unseen " if self.random else ""
        heading = f"{config.episodes} noisy starts on each of {len(judged_on)} {unseen}clips"
        title = f"{run_dir / TEACHER}: {steps} steps in {trainer.trained_s / 60:.1f} minutes"
        return Outcome(result=facts, shown=[table(title, [heading, ""], rows)], inputs=inputs)
