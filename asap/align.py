"""The whole loop: collect on the robot, check, replay, fit, fine-tune, judge on the robot.

    tasks = [Task(clip, policy) for clip, policy in ...]
    found = align(robot, tasks, AlignConfig(), Path("runs/align/worn"), truth=Robot.load("g1@worn"))
    found["closed_loop"]["squat"]["corrected"]["global_mpjpe_mm"]

A twin can play the robot; then it also judges, and nothing else here reads it. Without one, logs of
a real robot are handed in. Every step is a stage in the run's folder: what is done is not done
again, a run that was killed goes on where it stopped and ends with the same figures.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from asap import __version__, results
from asap.align_config import AlignConfig, Task, Watch
from asap.align_judge import Judging, judged
from asap.correction import Correction
from asap.delta_doubt import doubted
from asap.evaluate import Case
from asap.finetune import CONTROLS, CORRECTED, DELTA, FITTED, UNTOUCHED, Arm, arms, trainer_of
from asap.fit import Fitted, fit
from asap.fit_files import CORRECTION, write_fit
from asap.fit_methods import FitConfig
from asap.inputs import OpenedMotion, open_motion, shipped_motions
from asap.log_check import check_log
from asap.log_import import OpenedLog
from asap.next_motion import advise
from asap.record import record
from asap.replay import ReplayConfig, replay
from asap.replay_view import costly
from asap.robot import Robot
from asap.stages import Stages
from asap.train import POLICY, Trainer
from asap.training_run import CHECKPOINT, TrainConfig
from asap_deploy.errors import InputError
from asap_deploy.golden import load_policy
from asap_deploy.log import Log
from asap_deploy.policy import Policy

RESULT = "align.json"
_JUDGE_SEED = 3000
"""Added to the seed of what judges: starts that no training and no choice has seen."""


class LogRefused(Exception):
    """A log is not fit to learn from."""


def align(
    robot: Robot,
    tasks: Sequence[Task],
    config: AlignConfig,
    folder: Path,
    *,
    truth: Robot | None = None,
    logs: Sequence[OpenedLog] = (),
    watch: Watch | None = None,
) -> dict[str, Any]:
    """Go through the loop, or go on with it.

    Args:
        robot: The model.
        tasks: What the robot shall do.
        config: How.
        folder: Of the run.
        truth: The twin that plays the robot.
        logs: Of the robot, where there is no twin.
        watch: Told what happens.

    Returns:
        What ``align.json`` in the folder says.

    Raises:
        InputError: If there is neither a twin nor a log, or something does not fit.
        LogRefused: If a log is not fit to learn from.
        KeyboardInterrupt: If somebody asked to stop; the same call goes on.
    """
    if (truth is None) == (not logs):
        raise InputError("give a twin that plays the robot, or logs of the robot")
    if truth is None and not config.corrected:
        raise InputError("what is trained without a correction is judged on a twin: give one")
    if truth is None and config.rounds > 1:
        raise InputError("another round needs logs of the new policy: record them, and align again")
    return _Run(robot, tasks, config, folder, truth, logs, watch or Watch()).all()


class _Run:
    """One run."""

    def __init__(
        self, robot: Robot, tasks: Sequence[Task], config: AlignConfig, folder: Path,
        truth: Robot | None, logs: Sequence[OpenedLog], watch: Watch,
    ) -> None:  # fmt: skip
        self.robot, self.config, self.folder, self.truth = robot, config, folder, truth
        self.given, self.watch, self.tasks = logs, watch, tasks
        self.stages = Stages(folder, watch.stage)
        self.base = {"toolkit": __version__, "robot": robot.name, "seed": config.seed,
                     "facts": results.file_sha256(robot.folder)}  # fmt: skip
        self.logs: list[Log] = []
        self.log_hashes: list[str] = []
        """Of all rounds so far."""

    def all(self) -> dict[str, Any]:
        """Every stage."""
        started = time.perf_counter()
        start = {task.clip.name: self._start(task) for task in self.tasks}
        rounds, arms_of, correction = self._rounds(start)
        judge = self.truth or (correction.robot(self.robot) if correction else self.robot)
        content = {
            "robot": self.robot.name,
            "truth": None if self.truth is None else self.truth.name,
            "judged_on": judge.name,
            "judged_from": self.config.train.judged_from,
            "judge_episodes": self.config.judge_episodes,
            "motions": self._motions(),
            "rounds": rounds,
            **self._judge(judge, start, arms_of),
            "stages": self.stages.done,
        }
        inputs = [task.clip.path for task in self.tasks]
        inputs += [task.file for task in self.tasks if task.file is not None]
        wall_s = time.perf_counter() - started
        head = results.envelope("align", seed=self.config.seed, inputs=inputs, wall_s=wall_s)
        results.write_json(self.folder / RESULT, head | content)
        return head | dict(results.plain(content))

    def _rounds(
        self, start: Mapping[str, Policy]
    ) -> tuple[list[dict[str, Any]], dict[str, dict[str, Policy]], Correction | None]:
        """How each round went, the policies of the last by motion and arm, its correction."""
        policies, rounds, correction = dict(start), [], None
        arms_of: dict[str, dict[str, Policy]] = {}
        for number in range(1, self.config.rounds + 1):
            found: dict[str, Any] = {"number": number}
            if self.config.corrected:
                found, correction = self._learn(number, policies)
            last = number == self.config.rounds
            delta = self._delta_alone(number, found, correction) if last else None
            found["finetune"] = {}
            for task in self.tasks if correction is None or not correction.empty else ():
                name = task.clip.name
                trained, told = self._finetune(
                    number, task, policies[name], start[name], correction, delta, controls=last
                )
                found["finetune"][name] = told
                policies[name] = trained.get(CORRECTED, policies[name])
                arms_of[name] = trained
            rounds.append(found)
        return rounds, arms_of, correction

    def _motions(self) -> dict[str, Any]:
        return {
            task.clip.name: {
                "policy": None if task.file is None else str(task.file),
                "duration_s": task.clip.motion.duration_s,
            }
            for task in self.tasks
        }

    def _start(self, task: Task) -> Policy:
        """The policy that a task begins with."""
        if task.policy is not None:
            return task.policy
        config = dataclasses.replace(self.config.pretrain, seed=self.config.seed)
        name = f"pretrain/{task.clip.name}"

        def make(folder: Path) -> dict[str, Any]:
            again = (folder / CHECKPOINT).exists()
            trainer = Trainer(self.robot, task.clip, config, folder, resume=again)
            if not self.watch.pretrain(trainer):
                raise KeyboardInterrupt
            return {"steps": config.steps}

        self.stages.do(name, self.base | {"motion": task.clip.motion.sha256, "c": config}, make)
        return load_policy(self.folder / name / POLICY)

    def _learn(
        self, number: int, policies: Mapping[str, Policy]
    ) -> tuple[dict[str, Any], Correction]:
        """Logs, what is wrong with them, how far the simulator is off, a correction."""
        name = f"round{number}"
        files = self._collect(name, number, policies)
        checked = self._check(name, files)
        self.logs += [Log.load(self.folder / name / "checked" / Path(f).name) for f in files]
        self.log_hashes += [row["sha256"] for row in checked]
        fitted = self._fit(f"{name}/fit", self.config.fit)
        correction = Correction.load(self.folder / name / "fit" / CORRECTION)
        return {"number": number, "logs": checked, "replay": self._replay(name),
                "fit": fitted}, correction  # fmt: skip

    def _collect(self, name: str, number: int, policies: Mapping[str, Policy]) -> list[str]:
        """Files of the logs of a round."""
        config = self.config

        def handed_in(folder: Path) -> dict[str, Any]:
            for opened in self.given:
                opened.log.save(folder / f"{opened.name}.npz")
            return {"files": [f"{opened.name}.npz" for opened in self.given]}

        def recorded(folder: Path) -> dict[str, Any]:
            assert self.truth is not None
            for place, task in enumerate(self.tasks):
                case = Case(policies[task.clip.name], task.clip.motion, task.clip.name)
                seed = config.seed + 100 * place + 10_000 * number
                how = dataclasses.replace(config.collect, seed=seed, threads=config.threads)
                record(case, self.truth, how).save(folder / f"{task.clip.name}.npz")
                self.watch.fraction((place + 1) / len(self.tasks))
            return {"files": [f"{task.clip.name}.npz" for task in self.tasks]}

        if self.truth is None:
            depends: dict[str, Any] = {
                "logs": [[opened.name, opened.log.sha256] for opened in self.given]
            }
        else:
            depends = {
                "robot": self.truth.name,
                "policies": {name: policy.sha256 for name, policy in policies.items()},
                "how": config.collect,
                "motions": [task.clip.motion.sha256 for task in self.tasks],
            }
        make = handed_in if self.truth is None else recorded
        return list(self.stages.do(f"{name}/logs", self.base | depends, make)["files"])

    def _check(self, name: str, files: Sequence[str]) -> list[dict[str, Any]]:
        """What is wrong with the logs; what can be repaired is, on a copy."""
        source = self.folder / name / "logs"

        def make(folder: Path) -> dict[str, Any]:
            rows = []
            for place, file in enumerate(files):
                found = check_log(Log.load(source / file), self.robot)
                found.repaired.save(folder / file)
                rows.append({"name": Path(file).stem, "file": f"{name}/logs/{file}",
                             "sha256": found.repaired.sha256,
                             **found.to_json()})  # fmt: skip
                self.watch.fraction((place + 1) / len(files))
            return {"logs": rows}

        hashes = [Log.load(source / file).sha256 for file in files]
        rows = list(self.stages.do(f"{name}/checked", self.base | {"logs": hashes}, make)["logs"])
        for row in rows:
            if row["verdict"] == "REFUSED":
                why = next(p["text"] for p in row["problems"] if p["verdict"] == "REFUSED")
                raise LogRefused(f"log '{row['name']}' is not fit to learn from: {why}")
        return rows

    def _replay(self, name: str) -> dict[str, Any]:
        """How far the simulator is off on all logs so far."""

        def make(folder: Path) -> dict[str, Any]:
            how = ReplayConfig(seed=self.config.seed, threads=self.config.threads)
            found = replay(self.logs, {"nominal": self.robot}, how)
            where = costly(found, "nominal")
            return {
                **{arm: found.arms[arm].errors_as_dict() for arm in ("nominal", "hold_last")},
                "windows": found.windows,
                "episodes": found.episodes,
                "costly_joints": [joint for joint, _ in where.joints],
                "costly_phase": list(where.phase),
            }

        return self.stages.do(f"{name}/replay", self.base | {"logs": self.log_hashes}, make)

    def _delta_alone(
        self, number: int, found: dict[str, Any], correction: Correction | None
    ) -> Correction | None:
        """The control that identifies nothing, fitted to the same logs; None where not asked for.

        ``found`` of the round is told how that fit ended: one that was refused has no arm.
        """
        # A correction without parameters is one itself.
        if not self.config.delta_alone or correction is None or not correction.parameters:
            return None
        name = f"round{number}/{DELTA}"
        found[DELTA] = self._fit(name, dataclasses.replace(self.config.fit, method="delta"))
        return Correction.load(self.folder / name / CORRECTION)

    def _fit(self, name: str, config: FitConfig) -> dict[str, Any]:
        """A correction, perhaps an empty one."""
        config = dataclasses.replace(config, seed=self.config.seed, threads=self.config.threads)

        def make(folder: Path) -> dict[str, Any]:
            fitted = fit(self.logs, self.robot, config, progress=self.watch.fraction)
            facts = write_fit(fitted, self.robot, config, inputs=[], folder=folder)
            return facts | {"next_motion": self._advice(fitted)}

        return self.stages.do(name, self.base | {"logs": self.log_hashes, "fit": config}, make)

    def _advice(self, fitted: Fitted) -> list[dict[str, Any]]:
        """Where nothing was kept: which motions of the robot would tell most, the best first."""
        if fitted.accepted or fitted.identified is None:
            return []
        clips = [open_motion(path, self.robot, ground=True)
                 for path in shipped_motions(self.robot).values()]  # fmt: skip
        found = advise(self.robot, fitted.identified, clips, threads=self.config.threads)
        return [{"motion": name, "tells": gain} for name, gain in found]

    def _finetune(
        self, number: int, task: Task, policy: Policy, first: Policy,
        correction: Correction | None, delta: Correction | None, *, controls: bool,
    ) -> tuple[dict[str, Policy], dict[str, Any]]:  # fmt: skip
        """Policies by arm, and how their training went."""
        config = dataclasses.replace(
            self.config.train, seed=self.config.seed, threads=self.config.threads
        )
        places = arms(self.robot, correction, config.env,
                      controls=controls and self.config.controls, truth=self.truth,
                      only=self.config.arms or CONTROLS, delta=delta)  # fmt: skip
        trained, told = {}, {}
        for arm in places:
            ours = arm.name == CORRECTED
            # Controls begin at the beginning, and get the budget of all rounds.
            longer = dataclasses.replace(config, steps=config.steps * self.config.rounds)
            name = f"round{number}/finetune/{task.clip.name}/{arm.name}"
            begin, how = (policy, config) if ours else (first, longer)
            told[arm.name] = self._train(name, arm, task, begin, how)
            # Where nothing was kept: the start itself, not as it was exported again.
            kept = load_policy(self.folder / name / POLICY)
            trained[arm.name] = kept if told[arm.name]["changed"] else begin
        return trained, told

    def _train(
        self, name: str, arm: Arm, task: Task, policy: Policy, config: TrainConfig
    ) -> dict[str, Any]:
        """One fine-tuning."""

        def make(folder: Path) -> dict[str, Any]:
            again = (folder / CHECKPOINT).exists()
            where = doubted(arm, self.config.doubt, seed=config.seed)
            trainer = trainer_of(where, task.clip, policy, config, folder, resume=again)
            made = self.watch.train(trainer)
            if made.interrupted:
                raise KeyboardInterrupt
            told = made.as_dict()
            for part in ("before", "evaluation"):
                told[part] = {"overall": told[part]["overall"]}
            return told

        depends = {
            "motion": task.clip.motion.sha256,
            "policy": policy.sha256,
            "config": config,
            # What the arm is: the correction for one, noise for another.
            "arm": [arm.name, arm.robot.name, arm.env],
            "fit": [self.log_hashes, self.config.fit] if arm.name in FITTED else None,
        }
        if arm.robot.learned is None or self.config.doubt.none:
            return self.stages.do(name, self.base | depends, make)
        doubt = {"doubt": results.plain(self.config.doubt)}
        return self.stages.do(name, self.base | depends | doubt, make) | doubt

    def _judge(
        self, judge: Robot, start: Mapping[str, Policy],
        arms_of: Mapping[str, Mapping[str, Policy]],
    ) -> dict[str, Any]:  # fmt: skip
        """All policies on the robot, from starts that nothing has seen."""
        config = self.config
        how = Judging(config.judge_episodes, config.seed + _JUDGE_SEED, config.threads,
                      config.train.judged_from)  # fmt: skip
        told: dict[str, dict[str, Any]] = {}
        for task in self.tasks:
            name = task.clip.name
            stands = {UNTOUCHED: start[name], **arms_of.get(name, {})}
            depends = {
                "judge": judge.name,
                "how": how._asdict(),
                "logs": self.log_hashes,
                "motion": task.clip.motion.sha256,
                "policies": {arm: policy.sha256 for arm, policy in stands.items()},
            }

            def make(folder: Path, clip: OpenedMotion = task.clip, stands: Any = stands) -> Any:
                return judged(stands, clip, judge, self.robot, how, folder)

            found = self.stages.do(f"judged/{name}", self.base | depends, make)
            for key, value in found.items():
                told.setdefault(key, {})[name] = value
        return told
