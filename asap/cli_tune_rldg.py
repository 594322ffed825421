"""Many specialists, one policy: ``asap tune rldg``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from rich.console import Console

from asap.cli_common import CHECK_FAILED, DONE, Common, Outcome, Progress, show, table
from asap.cli_tune_common import open_start
from asap.evaluate import Case, EvaluateConfig, evaluate
from asap.posttrain.regress import CloneConfig
from asap.posttrain.rldg import RldgConfig, rldg
from asap.posttrain.student import Known, Student
from asap.robot import Robot
from asap.tracking import StartNoise
from asap_deploy.errors import InputError
from asap_deploy.npz import write_file
from asap_deploy.policy import Policy

LEAST = 0.9
"""A student that comes through less than this share of what its specialist does has failed."""


@dataclass(frozen=True, kw_only=True)
class TuneRldg(Common):
    """Make one policy of several specialists, from their successful episodes (RLDG).

    The student is told what the motion does (observation of BeyondMimic), so one network serves all
    clips; it is written once for each, with that clip inside. --rldg.rounds: the student acts too,
    and specialists label what it sees (DAgger); 0 is RLDG proper. Exit status 1 if a clip is lost.
    """

    draws: ClassVar[bool] = True
    policies: tuple[Path, ...]
    """ONNX files or names of specialists, each with its clip inside."""
    robot: str = "g1"
    """Robot or variant, or a folder with a robot.toml."""
    start_noise: StartNoise = "small"
    """Starts that are learned and judged: none (at rest in the first frame), small, paper."""
    num_envs: int = 16
    """Robots side by side."""
    hidden: tuple[int, ...] = (384, 256, 128)
    """Layers of the student."""
    episodes: int = 64
    """Episodes that judge, for each clip."""
    threads: int = 0
    """Of the simulator; 0: all cores."""
    out: Path | None = None
    """Folder of the run; runs/tune-rldg/<time>-<seed> by default."""
    rldg: RldgConfig = field(default_factory=lambda: RldgConfig(
        successes=32, rounds=2, fit=CloneConfig(steps=4000, batch=512)))  # fmt: skip
    """How much is shown."""

    def run(self, progress: Progress) -> Outcome:
        """Open, show, fit, judge, write."""
        console, started = Console(stderr=True, quiet=self.quiet), time.perf_counter()
        robot, out = Robot.load(self.robot), self.folder("tune-rldg")
        opened = [open_start(path, robot, None) for path in self.policies]
        names = [clip.name for _, clip in opened]
        if len(set(names)) < len(names):
            raise InputError(f"specialists are of different clips; got {', '.join(names)}")
        known = [Known(policy.policy, clip) for policy, clip in opened]
        student = Student.begin(
            robot, known, hidden=self.hidden, num_envs=self.num_envs, seed=self.seed,
            start_noise=self.start_noise, threads=self.threads,
        )  # fmt: skip
        taught = rldg(student.actor, student.teachers(), self.rldg, seed=self.seed,
                      told=console.print)  # fmt: skip
        files = student.write()
        for name, data in files.items():
            write_file(out / f"{name}.onnx", data)
        learn_s = time.perf_counter() - started
        judged = {one.clip.name: self._judged(robot, one, files[one.clip.name]) for one in known}
        lost = [name for name, (teacher, pupil) in judged.items()
                if pupil["success_rate"].value < LEAST * teacher["success_rate"].value]  # fmt: skip
        result = {
            "run_dir": out, "recipe": "rldg", "onnx": [out / f"{name}.onnx" for name in files],
            "learn_s": learn_s, "transitions": taught.steps, "lost": lost,
            "clips": {name: {"specialist": _plain(a), "student": _plain(b)}
                      for name, (a, b) in judged.items()},
        }  # fmt: skip
        return Outcome(result=result, shown=[_table(judged), *_lines(lost, out)],
                       inputs=[policy.path for policy, _ in opened],
                       status=CHECK_FAILED if lost else DONE)  # fmt: skip

    def _judged(self, robot: Robot, one: Known, data: bytes) -> tuple[Any, Any]:
        """Specialist and student, from the same starts."""
        config = EvaluateConfig(episodes=self.episodes, start_noise=self.start_noise,
                                seed=self.seed + 5000, threads=self.threads)  # fmt: skip
        teacher, pupil = (
            evaluate([Case(policy, one.clip.motion, one.clip.name)], robot, config).overall
            for policy in (one.policy, Policy.from_bytes(data))
        )
        return teacher, pupil


def _plain(figures: Any) -> dict[str, Any]:
    return {name: figure.as_dict() for name, figure in figures.items()}


def _table(judged: dict[str, tuple[Any, Any]]) -> Any:
    names = ("success_rate", "global_mpjpe_mm", "mpjpe_mm")
    rows = [[clip, who, *(show(figures[name], 2) for name in names)]
            for clip, pair in judged.items()
            for who, figures in zip(("specialist", "student"), pair, strict=True)]  # fmt: skip
    return table("same starts", ["clip", "", *names], rows)


def _lines(lost: Sequence[str], out: Path) -> list[str]:
    if lost:
        return [f"the student lost {', '.join(lost)}: more episodes or rounds, or a wider network"]
    return [f"one policy for all clips, one file for each: {out}"]
