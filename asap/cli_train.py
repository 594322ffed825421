"""The command that trains: ``asap pretrain``."""

from __future__ import annotations

import dataclasses
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from asap.cli_common import INTERRUPTED, Common, Outcome, Progress, show, table
from asap.cli_progress import TrainingProgress, plan_of
from asap.inputs import open_motion, open_policy
from asap.metrics import ERROR_NAMES
from asap.robot import Robot
from asap.train import POLICY, TrainConfig, Trainer

Config = TypeVar("Config")
_AGAIN_S = 1.0
"""A Ctrl-C so long after another is a second one [s]."""

PRESETS: dict[str, Callable[[], TrainConfig]] = {"cpu": TrainConfig, "paper": TrainConfig.paper}


@dataclass(frozen=True, kw_only=True)
class Pretrain(Common):
    """Train a motion tracker on CPU cores, from nothing or on from a policy.

    The actor sees proprioception and phase, the critic also the motion and the whole state. A run
    is a folder; Ctrl-C saves it, --resume continues it to the bit. The result is the best policy
    of all evaluations on the way, exported with its contract. Curves are in metrics.jsonl, and for
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
        stamp = time.strftime("%Y%m%d-%H%M%S")
        run_dir = self.out or Path("runs") / "pretrain" / f"{stamp}-{self.seed}"
        init, inputs = None, [clip.path]
        if self.init is not None:
            init = open_policy(self.init, robot, clip, self.layout).policy
            inputs.append(self.init)
        trainer = Trainer(robot, clip, config, run_dir, resume=self.resume, init=init)
        with (
            TrainingProgress(plan_of(trainer), quiet=self.quiet) as shown,
            _stop_requests(shown.stopping) as stopped,
        ):
            result = trainer.run(lambda report: shown.update(report.steps, report.facts), stopped)
        facts: dict[str, Any] = {
            "run_dir": run_dir,
            "steps": result.steps,
            "wall_s": result.wall_s,
            "steps_per_s": result.steps / max(result.wall_s, 1e-9),
        }
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
        return Outcome(result=facts, shown=[table(title, ["256 noisy episodes", ""], rows)],
                       inputs=inputs)  # fmt: skip


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


@contextmanager
def _stop_requests(asked_first: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """Ctrl-C, SIGTERM and a closed terminal ask to stop; the iteration is finished and saved first.

    A second Ctrl-C does not want to wait: the run stops at once, at its last checkpoint.
    """
    asked: list[float] = []
    names = [signal.SIGINT, signal.SIGTERM]
    # Under nohup a closed terminal is no reason to stop.
    if sys.platform != "win32" and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        names.append(signal.SIGHUP)

    def ask(number: int, frame: object) -> None:
        now = time.monotonic()
        # Wrappers pass on the Ctrl-C that the terminal already sent: that is one request.
        if asked and number == signal.SIGINT and now - asked[0] > _AGAIN_S:
            raise KeyboardInterrupt
        asked.append(now)
        asked_first()

    before = {name: signal.signal(name, ask) for name in names}
    try:
        yield lambda: bool(asked)
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
