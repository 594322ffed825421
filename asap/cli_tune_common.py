"""What the commands of post-training share: open, learn, judge, write.

Each takes a policy and gives one: a policy file with the contract of its start, so the output of
any is the input of any other, of `asap evaluate` and of `asap-deploy`.
"""

from __future__ import annotations

import copy
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from rich.console import Console

from asap.cli_common import (
    INTERRUPTED,
    Common,
    Outcome,
    Progress,
    show,
    stop_requests,
    table,
)
from asap.correction import Correction
from asap.evaluate import Evaluation
from asap.inputs import OpenedMotion, OpenedPolicy, open_motion, open_policy
from asap.metrics import EFFORT_NAMES
from asap.posttrain.actors import Bounded, Gaussian
from asap.posttrain.episode import Episode, save_episodes
from asap.posttrain.looks import Look
from asap.posttrain.soft_q import SoftQ, SoftQConfig
from asap.posttrain.tuning import COST, Setting, Verdict, verdict
from asap.posttrain.views import Buffer, rows_of
from asap.robot import Robot
from asap.tracking import StartNoise
from asap_deploy.errors import InputError
from asap_deploy.npz import write_file
from asap_deploy.policy import Policy

POLICY, TUNED, EPISODES = "policy.onnx", "tuned.onnx", "episodes.npz"

Said = Callable[[str], None]
Stopped = Callable[[], bool]


class Arm(NamedTuple):
    """What came of a recipe or of its control."""

    actor: Bounded | Gaussian
    episodes: list[Episode]
    """What the robot did"""
    facts: dict[str, Any]
    """For JSON"""


@dataclass(frozen=True, kw_only=True)
class Tune(Common):
    """What all of them share."""

    draws: ClassVar[bool] = True
    recipe: ClassVar[str] = ""
    without: ClassVar[str] = ""
    """What the equal-budget control does instead."""
    policy: Path
    """ONNX file to start from, or the name of a policy of ours; also a result of any recipe."""
    motion: Path | None = None
    """Clip that it tracks; by default the clip inside the file."""
    robot: str = "g1"
    """Robot or variant, or a folder with a robot.toml."""
    correction: Path | None = None
    """Of `asap fit`: learning happens on the corrected robot."""
    start_noise: StartNoise = "small"
    """Starts that are learned and judged: none (at rest in the first frame), small, paper."""
    push_speed: float = 0.0
    """Kick of the base every second, while it learns and is judged [m/s]."""
    control: bool = False
    """Also learn without what the recipe adds, and compare."""
    num_envs: int = 16
    """Robots side by side."""
    episodes: int = 128
    """Episodes that judge start and result."""
    threads: int = 0
    """Of the simulator; 0: all cores."""
    out: Path | None = None
    """Folder of the run; runs/tune-RECIPE/<time>-<seed> by default."""

    def run(self, progress: Progress) -> Outcome:
        """Open, say what will be done, learn, judge, write."""
        console, started = Console(stderr=True, quiet=self.quiet), time.perf_counter()
        setting, inputs = self._open()
        out = self.folder(f"tune-{self.recipe}")
        arms: list[Arm] = []
        with stop_requests(lambda: console.print("stopping; once more to lose it")) as stopped:
            for control in (False, True)[: 1 + self.control]:
                arms.append(self.learn(setting, console.print, stopped, control=control))
                if stopped():
                    break
        learned, *controls = arms
        data = setting.write(learned.actor, self.recipe)
        if stopped():
            return self._left(out, data, learned, inputs)
        every = [setting.policy, *(Policy.from_bytes(setting.write(one.actor, self.recipe))
                                   for one in arms)]  # fmt: skip
        on = self.judged_on(setting)
        before, after, *others = (
            setting.judged(one, seed=self.seed, episodes=self.episodes, on=on) for one in every
        )
        found = verdict(before, after, self.objective, seed=self.seed)
        write_file(out / TUNED, data)
        write_file(out / POLICY, data if found.better else setting.policy.data)
        if learned.episodes:
            save_episodes(out / EPISODES, learned.episodes)
        result = {"run_dir": out, "recipe": self.recipe, "onnx": out / POLICY,
                  "learn_s": time.perf_counter() - started, **learned.facts,
                  **_figures(found, self.objective, on, before, after)}  # fmt: skip
        judged = {"start": before, "tuned": after}
        if others:
            judged[self.without] = others[0]
        shown = [_table(setting, judged), _line(found, self.objective, out)]
        for other, arm in zip(others, controls, strict=True):
            against = verdict(other, after, self.objective, seed=self.seed)
            result["control"] = {"is": self.without, "tuned_against_it": against.change.as_dict(),
                                 "better": against.better, **arm.facts,
                                 "judged_on": [one.summary() for one in other]}  # fmt: skip
            shown.append(f"against the control ({self.without}): {self.objective} "
                         f"{show(against.change, 2)}")  # fmt: skip
        return Outcome(result=result, shown=shown, inputs=inputs)

    def _left(self, out: Path, data: bytes, learned: Arm, inputs: list[Path]) -> Outcome:
        """What is kept of a run that was stopped: no verdict, so no result."""
        write_file(out / TUNED, data)
        if learned.episodes:
            save_episodes(out / EPISODES, learned.episodes)
        line = f"stopped and not judged; what came of it is {out / TUNED}"
        result = {"run_dir": out, "recipe": self.recipe, **learned.facts}
        return Outcome(result=result, shown=[line], inputs=inputs, status=INTERRUPTED)

    @property
    def objective(self) -> str:
        """What the verdict is about."""
        return COST

    def judged_on(self, setting: Setting) -> Sequence[Robot]:
        """Robots that the verdict is about."""
        return (setting.tuned_on,)

    @abstractmethod
    def learn(self, setting: Setting, said: Said, stopped: Stopped, *, control: bool) -> Arm:
        """What the recipe does, or its control."""

    def _open(self) -> tuple[Setting, list[Path]]:
        robot = Robot.load(self.robot)
        opened, clip = open_start(self.policy, robot, self.motion)
        inputs = [opened.path, *([] if self.motion is None else [clip.path])]
        correction = None
        if self.correction is not None:
            correction = Correction.load(self.correction)
            inputs.append(self.correction)
        setting = Setting.open(robot, opened.policy, clip, num_envs=self.num_envs,
                               correction=correction, start_noise=self.start_noise,
                               push_speed=self.push_speed, threads=self.threads)  # fmt: skip
        return setting, inputs


def announced(setting: Setting, data: Sequence[Episode], steps: int, update_s: float = 0.0) -> str:
    """What will be done, with an estimate from a second of doing it.

    Args:
        setting: Its task is stepped.
        data: That is there.
        steps: Of the robots, all together.
        update_s: What learning takes for each of them [s].
    """
    started, done = time.perf_counter(), 0
    task = setting.task
    task.start(np.arange(task.num_envs), np.arange(task.num_envs))
    while time.perf_counter() - started < 1.0:
        task.step(setting.policy.act(task.observe()))
        done += task.num_envs
    each = (time.perf_counter() - started) / done
    of = sum(one.steps for one in data)
    learning = f" and {steps * update_s / 60:.1f} for learning" if update_s else ""
    return (f"data: {len(data)} episodes, {of} steps; {steps:,} steps of {setting.tuned_on.name}, "
            f"about {steps * each / 60:.1f} min for the robots{learning}")  # fmt: skip


def update_s(
    setting: Setting, actor: Bounded, config: SoftQConfig, episodes: Sequence[Episode]
) -> float:
    """What an update of critics and actor takes [s], on copies."""
    actor = copy.deepcopy(actor)
    rows, _ = rows_of(episodes, setting.task, actor, gamma=config.gamma, ahead=config.ahead)
    buffer = Buffer(len(rows))
    buffer.add(rows)
    engine = SoftQ.on(setting.task, actor.head, config, 0)
    rng, count = np.random.default_rng(0), 10
    engine.update(buffer, rng)
    started = time.perf_counter()
    for _ in range(count):
        engine.update(buffer, rng)
    return (time.perf_counter() - started) / count


def looks(said: Said) -> Callable[[Look], None]:
    """Says every look in one line."""

    def looked(one: Look) -> None:
        said(f"{one.steps:,} steps: success {one.success:.2f}, return {one.value:.3f}")

    return looked


def open_start(path: Path, robot: Robot, motion: Path | None) -> tuple[OpenedPolicy, OpenedMotion]:
    """A policy and its clip, which by default is the one inside its file.

    Raises:
        InputError: If there is none, or they do not fit.
    """
    given = None if motion is None else open_motion(motion, robot, ground=True)
    opened = open_policy(path, robot, given, None)
    if given is not None:
        return opened, given
    if opened.motion is None:
        raise InputError("the policy holds no clip: give --motion", file=opened.path)
    clip = opened.policy.contract.clip
    name = opened.name if clip is None else clip.name
    return opened, OpenedMotion(opened.motion, name, opened.path)


def _figures(
    found: Verdict, objective: str, on: Sequence[Robot], before: Sequence[Evaluation],
    after: Sequence[Evaluation],
) -> dict[str, Any]:  # fmt: skip
    every = zip(on, before, after, strict=True)
    return {
        "better": found.better,
        "objective": objective,
        "change": found.change.as_dict(),
        "before": before[0].summary(),
        "evaluation": after[0].as_dict(),
        "judged_on": [{"robot": robot.name, "before": old.summary(), "after": new.summary()}
                      for robot, old, new in every],
    }  # fmt: skip


def _table(setting: Setting, judged: Mapping[str, Sequence[Evaluation]]) -> Any:
    names = ("success_rate", "global_mpjpe_mm", "mpjpe_mm", *EFFORT_NAMES)
    rows = [
        [str(place + 1), who, *(show(found.overall[name], 2) for name in names)]
        for place, some in enumerate(zip(*judged.values(), strict=True))
        for who, found in zip(judged, some, strict=True)
    ]
    return table(f"on {setting.tuned_on.name}, starts: {setting.start_noise}",
                 ["robot", "", *names], rows)  # fmt: skip


def _line(found: Verdict, objective: str, out: Path) -> str:
    change = f"{objective} changed by {show(found.change, 2)}"
    if found.better:
        return f"{change}: better; policy: {out / POLICY}"
    return f"{change}: no better, the start is kept as {out / POLICY}; what came is {out / TUNED}"
