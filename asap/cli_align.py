"""The command that goes through the whole loop, and its page: ``asap align``, ``asap report``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tyro
from rich.console import Console, RenderableType
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from asap.align import RESULT, LogRefused, align
from asap.align_config import AlignConfig, Task, Watch
from asap.align_page import html_page, markdown_page
from asap.cli_common import (
    CHECK_FAILED,
    DONE,
    INTERRUPTED,
    Common,
    Outcome,
    Progress,
    show,
    table,
)
from asap.cli_logs import ReplayLogs
from asap.cli_progress import watched
from asap.cli_train import overlaid
from asap.delta_doubt import Doubt
from asap.finetune import CORRECTED, FINETUNE, Finetuned, beginning, finetune
from asap.fit import checked
from asap.fit_methods import FitConfig
from asap.inputs import open_motion, open_policy
from asap.log_import import open_log
from asap.metrics import Interval
from asap.record import RecordConfig
from asap.robot import Robot
from asap.tracking import StartNoise
from asap.train import POLICY, Trainer
from asap.training_run import TrainConfig
from asap_deploy.errors import InputError
from asap_deploy.npz import write_file

PAGE, PAGE_MD = "report.html", "report.md"


@dataclass(frozen=True, kw_only=True)
class Align(Common):
    """The whole loop: collect, check, replay, fit, fine-tune, judge on the robot, report.

    --truth names a twin that plays the robot. For a real robot run without it: that exports the
    policies and says what to record with `asap-deploy run`; with --logs the loop goes on from
    there. A run that was stopped goes on if the same command is given again with its --out; what
    is done is not done again. Exit status 1 where no correction was found.
    """

    draws: ClassVar[bool] = True
    motion: tuple[Path, ...]
    """Clips: files of any known format, or names of clips of ours. A CSV does not say its rate and
    is taken as 30 Hz: where that is wrong, `asap motions convert --fps` first."""
    policy: tuple[Path, ...] = ()
    """ONNX files, one for each clip; without, policies are trained first."""
    robot: str = "g1"
    """Robot or variant, or a folder with a robot.toml."""
    truth: str | None = None
    """Twin that plays the robot, for example g1@worn; only collecting and judging read it."""
    logs: tuple[Path, ...] = ()
    """Logs of a real robot, of any known format."""
    columns: Path | None = None
    """Column map (TOML) of foreign logs: see real_logs/columns/README.md."""
    start_noise: StartNoise = "paper"
    """Starts that are trained and judged: none (at rest in the first frame), small, paper."""
    rounds: int = 1
    """Times that the loop is gone through (with --truth)."""
    controls: bool = False
    """Also train without the correction, with noise, with randomisation, with an offset that is
    learned without identification, and on --truth itself."""
    layout: str | None = None
    """Observation layout of policies that carry no contract."""
    out: Path | None = None
    """Folder of the run; runs/align/<time>-<seed> by default."""
    ground: bool = True
    """Put the soles of foreign clips onto the floor first."""
    episodes: int = 256
    """Noisy episodes by which policies are compared at the end."""
    collect: RecordConfig = AlignConfig().collect
    """Every setting of recording on --truth."""
    fit: FitConfig = field(default_factory=FitConfig)
    """Every setting of the fit."""
    doubt: Doubt = field(default_factory=Doubt)
    """How far a learned offset is believed in training."""
    pretrain: TrainConfig = field(default_factory=TrainConfig)
    """Every setting of training where there is no policy."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Every setting of the fine-tuning."""

    def run(self, progress: Progress) -> Outcome:
        """Align."""
        robot = checked(Robot.load(self.robot))
        truth = None if self.truth is None else Robot.load(self.truth)
        if self.policy and len(self.policy) != len(self.motion):
            raise InputError(
                f"got {len(self.policy)} policies for {len(self.motion)} motions; give one for each"
            )
        tasks = self._tasks(robot)
        logs = [open_log(path, columns=self.columns, robot=robot) for path in self.logs]
        out = self.folder("align")
        config = AlignConfig(
            collect=self.collect, rounds=self.rounds, controls=self.controls, fit=self.fit,
            judge_episodes=self.episodes, seed=self.seed, pretrain=self.pretrain,
            doubt=self.doubt,
            train=beginning(overlaid(FINETUNE, self.train, TrainConfig()), self.start_noise),
            threads=self.train.threads,
        )  # fmt: skip
        if truth is None and not logs:
            return self._record_first(tasks, out)
        try:
            found = align(robot, tasks, config, out, truth=truth, logs=logs,
                          watch=Shown(quiet=self.quiet))  # fmt: skip
        except LogRefused as error:
            return Outcome(result={"run_dir": out, "refused": str(error)}, shown=[str(error)],
                           status=CHECK_FAILED)  # fmt: skip
        except KeyboardInterrupt:
            line = f"stopped; the same command with --out {out} goes on from here"
            return Outcome(result={"run_dir": out}, shown=[line], status=INTERRUPTED)
        text = html_page(found, out)
        write_file(out / PAGE, text)
        inputs = [*self.logs, *(task.clip.path for task in tasks)]
        inputs += [task.file for task in tasks if task.file is not None]
        accepted = all(one["fit"]["accepted"] for one in found["rounds"])
        facts = {**found, "run_dir": out, "result": out / RESULT, "page": out / PAGE}
        shown = _tables(found, out)
        if not self.doubt.none and not _arms(found, "doubt"):
            shown.append("--doubt changed nothing: no arm has a learned offset")
        return Outcome(result=facts, shown=shown, inputs=inputs,
                       status=DONE if accepted else CHECK_FAILED)  # fmt: skip

    def _tasks(self, robot: Robot) -> list[Task]:
        """Clips with their policies."""
        tasks = []
        for place, path in enumerate(self.motion):
            clip = open_motion(path, robot, ground=self.ground)
            if not self.policy:
                tasks.append(Task(clip, None))
                continue
            opened = open_policy(self.policy[place], robot, clip, self.layout)
            tasks.append(Task(clip, opened.policy, opened.path))
        return tasks

    def _record_first(self, tasks: list[Task], out: Path) -> Outcome:
        """Say what to record on a real robot."""
        lines = ["There is no log yet. Record these on the robot, several times each:"]
        files = []
        for task in tasks:
            file = out / "start" / f"{task.clip.name}.onnx"
            if task.policy is None:
                folder = out / "pretrain-first" / task.clip.name
                file = folder / POLICY
                lines.append(f"  asap pretrain --robot {self.robot} --motion {task.clip.path} "
                             f"--out {folder}    # a policy first")  # fmt: skip
            else:
                write_file(file, task.policy.data)
            files.append(str(file))
            lines.append(f"  asap-deploy run {file} --link unitree --record {task.clip.name}.mcap"
                         f"    # {task.clip.motion.duration_s:.1f} s")  # fmt: skip
        given = "" if self.policy else f"--policy {' '.join(files)} "
        lines.append(f"then give the same command with {given}--logs FILE ... --out {out}")
        return Outcome(result={"run_dir": out, "record": lines}, shown=["\n".join(lines)])


@dataclass(frozen=True, kw_only=True)
class Report(ReplayLogs):
    """A page: of an alignment (--run), or of how far the simulator is from the robot of --logs."""

    logs: tuple[Path, ...] = ()
    """Log files, where no run is meant."""
    run_dir: Annotated[Path | None, tyro.conf.arg(name="run")] = None
    """Folder of a run of `asap align`."""
    format: Literal["html", "markdown"] = "html"
    """Of the page of a run."""
    page: Path | None = None
    """The page; by default report.html here, or report.html or report.md in the run's folder."""

    def run(self, progress: Progress) -> Outcome:
        """Write it."""
        if self.run_dir is None:
            page = self.page or Path(PAGE)
            return ReplayLogs.run(dataclasses.replace(self, page=page), progress)
        if self.logs:
            raise InputError("a page is of --run or of --logs, not of both")
        source = self.run_dir / RESULT
        found = _read(source)
        whole = self.format == "html"
        text = html_page(found, self.run_dir) if whole else markdown_page(found)
        page = self.page or self.run_dir / (PAGE if whole else PAGE_MD)
        write_file(page, text)
        return Outcome(result={"written": [page]}, shown=[f"wrote {page}"], inputs=[source])


def _read(path: Path) -> dict[str, Any]:
    """The figures of a run."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"no run of `asap align`: {error}", file=path) from None
    if not isinstance(found, dict) or found.get("command") != "align":
        raise InputError("not written by `asap align`", file=path)
    return found


class Shown(Watch):
    """Says on stderr what happens."""

    def __init__(self, *, quiet: bool) -> None:
        """Nothing is shown yet."""
        self._console = Console(stderr=True, quiet=quiet)
        self._quiet = quiet
        self._bar: Bar | None = None
        self._stopped = False

    def stage(self, name: str, reused: bool) -> None:
        """A line a stage, with a bar where somebody watches.

        Raises:
            KeyboardInterrupt: If somebody asked to stop when a training was all but done.
        """
        self._end_bar()
        if self._stopped:
            raise KeyboardInterrupt
        self._console.print(f"{name}{': done before' if reused else ''}", highlight=False)

    def fraction(self, part: float) -> None:
        """Move the bar."""
        if self._bar is None and self._console.is_terminal and not self._quiet:
            columns = (TextColumn(" "), BarColumn(), TimeElapsedColumn(), TextColumn("left"),
                       TimeRemainingColumn())  # fmt: skip
            self._bar = Bar(*columns, console=self._console, transient=True)
            self._bar.add_task("", total=1.0)
            self._bar.start()
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=part)

    def train(self, trainer: Trainer) -> Finetuned:
        """Train with an estimate and live figures."""
        with watched(trainer, quiet=self._quiet) as (watch, stopped):
            made = finetune(trainer, watch=watch, stopped=stopped)
            self._stopped = stopped()
            return made

    def pretrain(self, trainer: Trainer) -> bool:
        """The same from nothing."""
        with watched(trainer, quiet=self._quiet) as (watch, stopped):
            finished = not trainer.run(watch, stopped).interrupted
            self._stopped = stopped()
            return finished

    def _end_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _tables(found: Mapping[str, Any], out: Path) -> list[RenderableType]:
    """The gap before and after, and the policies on the robot."""
    shown: list[RenderableType] = []
    for one in found["rounds"]:
        fit = one["fit"]
        arms = {"model": fit["baseline"]["nominal"], "corrected": fit["heldout"],
                "nothing moves": fit["baseline"]["hold_last"]}  # fmt: skip
        rows = [[name, *(figure(errors[h]["joint_mae_deg"], 2) for h in errors)]
                for name, errors in arms.items() if errors]  # fmt: skip
        columns = ["", *(f"{h} s" for h in fit["baseline"]["nominal"])]
        title = f"round {one['number']}: joint error in degrees, runs that were not fitted"
        shown.append(table(title, columns, rows))
        shown.append(fit["verdict"])
    columns = ["policy", "success", "global mm", "rel. mm", "cost mm against the start"]
    for name, arms in found["closed_loop"].items():
        rows = [[arm, figure(figures["success_rate"], 2), figure(figures["global_mpjpe_mm"], 0),
                 figure(figures["mpjpe_mm"], 0), _gain(found, name, arm)]
                for arm, figures in arms.items()]  # fmt: skip
        shown.append(table(f"{name} on {found['judged_on']}", columns, rows))
    kept = [name for one in found["rounds"] for name, arms in one["finetune"].items()
            if not arms[CORRECTED]["changed"]]  # fmt: skip
    if kept:
        shown.append(f"no change of {', '.join(kept)}: nothing was better than the start by more "
                     "than chance in the corrected simulator")  # fmt: skip
    return [*shown, f"page: {out / PAGE}    figures: {out / RESULT}"]


def _arms(found: Mapping[str, Any], key: str) -> list[str]:
    """Arms of whose training something is told."""
    return [arm for one in found["rounds"] for arms in one["finetune"].values()
            for arm, told in arms.items() if key in told]  # fmt: skip


def _gain(found: Mapping[str, Any], name: str, arm: str) -> str:
    gain = found["gain"].get(name, {}).get(arm)
    return "" if gain is None else figure(gain["cost_mm"], 0)


def figure(entry: Mapping[str, float | None], digits: int) -> str:
    """A figure of JSON for the terminal."""
    nan = float("nan")
    numbers = [nan if entry[key] is None else float(entry[key] or 0.0)
               for key in ("value", "low", "high")]  # fmt: skip
    return show(Interval(*(round(one, digits) + 0.0 for one in numbers)), digits)  # never -0
