"""Commands that measure: ``asap bench ...``."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.markdown import Markdown

from asap import results
from asap.bench import bench_sim
from asap.bench_fit import Scored, Setup, counts, hidden_truth
from asap.bench_gap import twin_gaps
from asap.bench_integrators import integrator_study
from asap.bench_train import bench_train
from asap.cli_common import CHECK_FAILED, DONE, Common, Outcome, Progress, show, table
from asap.fit_methods import Method
from asap.gap_page import RESULT, gap_page
from asap.inputs import open_motion
from asap.judge import GLOBAL_ERROR
from asap.published import ROBOT, Comparison, compare_published
from asap.replay import JOINT_ERROR, ReplayConfig
from asap.robot import Robot
from asap.training_run import TrainConfig
from asap_deploy.npz import write_file

PAGE = "report.html"
_STILL = 0.95
"""Logs of the model itself that give no correction: at least this part."""


@dataclass(frozen=True, kw_only=True)
class BenchSim(Common):
    """Control steps per second through our simulation, beside a bare mujoco.batch loop."""

    robot: str = "g1"
    """Robot, variant or twin."""
    sizes: tuple[int, ...] = (64, 512, 2048)
    """Numbers of robots side by side."""
    threads: int = 0
    """Threads of the simulator; 0: all cores."""
    seconds: float = 20.0
    """Time for each size [s]."""

    def run(self, progress: Progress) -> Outcome:
        """Measure."""
        done = iter(range(1, len(self.sizes) + 1))
        sizes = bench_sim(
            Robot.load(self.robot),
            self.sizes,
            threads=self.threads,
            seconds=self.seconds,
            seed=self.seed,
            progress=lambda line: progress(next(done) / len(self.sizes)),
        )
        rows = []
        for one in sizes:
            ratio, read, plain = one.ratio_bare, one.ratio_bare_read, one.ratio_robot_model
            rows.append([str(one.num_envs), f"{one.sim_per_s:.0f}", f"{one.bare_per_s:.0f}",
                         f"{ratio.value:.3f} ({ratio.low:.3f} to {ratio.high:.3f})",
                         f"{read.value:.3f} ({read.low:.3f} to {read.high:.3f})",
                         f"{plain.value:.3f} ({plain.low:.3f} to {plain.high:.3f})"])  # fmt: skip
        columns = ["robots", "ours [1/s]", "bare [1/s]", "ours / bare", "the same, all read",
                   "ours / bare on robot.model"]  # fmt: skip
        title = f"Control steps of {self.robot}, {sizes[0].threads} threads"
        return Outcome(
            result={"sizes": [one.to_json() for one in sizes]},
            shown=[table(title, columns, rows)],
        )


@dataclass(frozen=True, kw_only=True)
class BenchIntegrators(Common):
    """Open-loop error and speed of integrators and steps, against a 0.5 ms reference."""

    motion: tuple[Path, ...]
    """Clips whose joint positions are played as targets."""
    robot: str = "g1"
    """Robot, variant or twin."""
    starts: int = 48
    """Start frames of each clip."""
    threads: int = 0
    """Threads of the simulator; 0: all cores."""

    def run(self, progress: Progress) -> Outcome:
        """Measure."""
        robot = Robot.load(self.robot)
        clips = [open_motion(path, robot, ground=True) for path in self.motion]
        study = integrator_study(
            robot,
            [clip.motion for clip in clips],
            starts_per_motion=self.starts,
            threads=self.threads,
            seed=self.seed,
        )
        return Outcome(
            result=study.to_json(),
            shown=[Markdown(study.to_markdown()), f"recommended: {study.recommended}"],
            inputs=[clip.path for clip in clips],
        )


@dataclass(frozen=True, kw_only=True)
class BenchTrain(Common):
    """Control steps per second of `asap pretrain`, end to end and by part, beside bare physics."""

    motion: Path = Path("squat")
    """Clip that is tracked."""
    robot: str = "g1"
    """Robot, variant or twin."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """As for `pretrain`."""
    iterations: int = 20
    """Iterations, each beside the bare loop for as many samples."""

    def run(self, progress: Progress) -> Outcome:
        """Measure."""
        robot = Robot.load(self.robot)
        clip = open_motion(self.motion, robot, ground=True)
        found = bench_train(robot, clip, self.train, iterations=self.iterations)
        ratio = found.ratio_bare
        whole = found.samples / found.train_per_s
        rows = [[name.removesuffix("_s"), f"{1e3 * spent:.0f}", f"{spent / whole:.0%}"]
                for name, spent in found.parts.items()]  # fmt: skip
        title = f"An iteration of {found.samples} samples on {found.robot}"
        return Outcome(
            result=found.to_json(),
            shown=[
                table(title, ["part", "ms", "share"], rows),
                f"{found.train_per_s:.0f} steps/s, bare physics {found.bare_per_s:.0f}, ratio "
                f"{ratio.value:.2f} ({ratio.low:.2f} to {ratio.high:.2f})",
            ],
            inputs=[clip.path],
        )


@dataclass(frozen=True, kw_only=True)
class BenchGap(Common):
    """How far twins with a hidden truth are from the model, and how much of that a fit closes.

    With `--methods` a correction is fitted to logs of every twin and scored against its truth on
    motions that were not fitted: one table, one page. Exit status 1 if one that was accepted is
    worse than none, or if logs of the model itself give a correction in more than 5 % of the cases.
    What was stopped goes on with the same --out. With `--data` alone: the open-loop gap of the
    published trackers, in the paper's form.
    """

    data: Path | None = None
    """Folder with `policies/*.onnx` and `motions/*.pkl` of the ASAP repository; by default policies
    and motions that ship."""
    methods: tuple[Method, ...] = ()
    """Of `asap fit`; by default identify, delta, stacked where there is no `--data`."""
    robot: str = ""
    """The model; g1:asap with `--data`, else g1."""
    twins: tuple[str, ...] = ()
    """Its twins; isaac and genesis with `--data`, else also worn and strange. nominal and
    nominal_noisy are the model itself: is it said that nothing needs a correction?"""
    train: tuple[str, ...] = ("squat", "wave", "kick")
    """Motions whose logs are fitted."""
    test: tuple[str, ...] = ("walk",)
    """Motions that judge."""
    episodes: int = 0
    """Of each motion; 1 for the open loop, 2 for fits."""
    seeds: int = 1
    """Starts and sensors, so many sets."""
    every_s: float = 0.1
    """Between the starts of windows of the open loop [s]."""
    out: Path | None = None
    """Folder of cases, gap.json and report.html; runs/bench-gap/<time>-<seed> by default."""
    threads: int = 0
    """Threads of the simulator; 0: all cores."""

    def run(self, progress: Progress) -> Outcome:
        """Record, replay, and fit where that is asked for."""
        if self.data is not None and not self.methods:
            return self._open_loop(self.data, progress)
        usual = ("isaac", "genesis") if self.data else ("isaac", "genesis", "worn", "strange")
        setup = Setup(
            robot=self.robot or (ROBOT if self.data else "g1"),
            twins=self.twins or usual,
            methods=self.methods or ("identify", "delta", "stacked"),
            train=self.train,
            test=self.test,
            episodes=self.episodes or 2,
            seeds=tuple(range(self.seed, self.seed + self.seeds)),
            data=self.data,
            threads=self.threads,
        )
        out, inputs = self.folder("bench-gap"), [] if self.data is None else [self.data]
        started = time.perf_counter()
        outcome = _scores(hidden_truth(setup, out, progress), inputs)
        wall_s = time.perf_counter() - started
        head = results.envelope("bench gap", seed=self.seed, inputs=inputs, wall_s=wall_s)
        shown = {"robot": setup.robot, "setup": {"train": setup.train, "test": setup.test}}
        found = results.plain(head | shown | outcome.result)
        results.write_json(out / RESULT, found)
        write_file(out / PAGE, gap_page(found))
        return dataclasses.replace(
            outcome, result=outcome.result | {"run_dir": out, "page": out / PAGE},
            shown=[*outcome.shown, f"page: {out / PAGE}    figures: {out / RESULT}"],
        )  # fmt: skip

    def _open_loop(self, data: Path, progress: Progress) -> Outcome:
        config = ReplayConfig(every_s=self.every_s, seed=self.seed, threads=self.threads)
        found = twin_gaps(data, self.twins or ("isaac", "genesis"), config=config,
                          episodes=self.episodes or 1, progress=progress)  # fmt: skip
        names = ("global_mpjpe_mm", "mpjpe_mm", "acc_error_mm_per_frame2",
                 "vel_error_mm_per_frame", JOINT_ERROR)  # fmt: skip
        rows: list[list[str]] = []
        facts: dict[str, dict[str, object]] = {}
        for gap in found:
            facts[gap.twin] = {}
            for arm in ("nominal", "truth", "hold_last"):
                found_arm = gap.replay.arms[arm]
                facts[gap.twin][arm] = found_arm.errors_as_dict()
                rows += [[f"{gap.twin}, {arm}", f"{h} s", *(f"{e[n].value:.2f}" for n in names)]
                         for h, e in found_arm.horizons.items()]  # fmt: skip
        seconds = ", ".join(f"{gap.twin} {gap.seconds:.0f} s" for gap in found)
        columns = ["twin", "horizon", "E_g [mm]", "E_mpjpe [mm]", "E_acc", "E_vel", "joints [deg]"]
        return Outcome(
            result={"twins": facts},
            shown=[table(f"Open loop ({seconds} of log)", columns, rows)],
            inputs=[data],
        )


def _scores(found: list[Scored], inputs: list[Path]) -> Outcome:
    """A table of fits against the truth."""
    rows = []
    for one in found:
        joints, world = one.closed[JOINT_ERROR], one.closed[GLOBAL_ERROR]
        shares = ("no gap" if share is None else f"{share:.0%}"
                  for share in (*joints.values(), *world.values()))  # fmt: skip
        rows.append([one.twin, one.method, str(one.seed), "yes" if one.accepted else "no", *shares,
                     f"{one.wall_s:.0f}", f"{one.identify_s:.0f}"])  # fmt: skip
    horizons = list(found[0].closed[JOINT_ERROR])
    columns = ["twin", "method", "seed", "accepted", *(f"joints {h} s" for h in horizons),
               *(f"E_g {h} s" for h in horizons), "wall s", "of it shared"]  # fmt: skip
    told = counts(found)
    still = told.get("no_gap", {"cases": 0, "no_correction": 0})
    enough = still["no_correction"] >= _STILL * still["cases"]
    return Outcome(
        result={"cases": [one.as_dict() for one in found], **told},
        shown=[
            table("Share of the closable gap that is closed", columns, rows),
            *_counted(told, found),
        ],
        inputs=inputs,
        status=DONE if told["worse"] == 0 and enough else CHECK_FAILED,
    )


def _counted(told: dict[str, Any], found: list[Scored]) -> list[str]:
    """What is true of so many cases, a line each."""
    count, worse = len(found), told["worse"]
    lines = [
        f"never worse than no correction at any horizon, in joints or base: {count - worse} of "
        f"{count} cases ({told['never_worse']:.1%}); {told['abstained']} end without a correction"
    ]
    if "no_gap" in told:
        still = told["no_gap"]
        lines.append(f"logs of the model itself: {still['no_correction']} of {still['cases']} give "
                     "no correction")  # fmt: skip
    for name, said in told.get("claims", {"twins": {}})["twins"].items():
        lines.append(f"parameters of {name} off by more than twice their interval: {said['off']} "
                     f"of {said['claims']}")  # fmt: skip
    return lines


@dataclass(frozen=True, kw_only=True)
class BenchPublished(Common):
    """The ten published trackers of ASAP in our simulator, beside the figures measured elsewhere.

    Exit status 1 if one falls or is farther than 15 % from its figure.
    """

    data: Path
    """Folder with `policies/*.onnx` and `motions/*.pkl` of the ASAP repository."""
    threads: int = 0
    """Threads of the simulator; 0: all cores."""

    def run(self, progress: Progress) -> Outcome:
        """Evaluate as published and with grounded clips."""
        found = compare_published(self.data, progress, threads=self.threads)
        columns = ["policy", "rel. mm", "elsewhere", "global mm", "elsewhere",
                   "grounded: rel.", "global", "noisy success"]  # fmt: skip
        agree = sum(one.agrees for one in found)
        return Outcome(
            result={"policies": [_comparison(one) for one in found], "agree": agree},
            shown=[
                table("Published trackers", columns, [_comparison_row(one) for one in found]),
                f"{agree} of {len(found)} finish and agree within 15 %",
            ],
            inputs=[self.data],
            status=DONE if agree == len(found) else CHECK_FAILED,
        )


def _comparison(one: Comparison) -> dict[str, object]:
    """One policy for JSON."""
    return {
        "name": one.name,
        "finished": one.finished,
        "agrees": one.agrees,
        "expected": one.expected._asdict(),
        "found": one.found._asdict(),
        "ratio": one.ratios._asdict(),
        "grounded": one.grounded._asdict(),
        "noisy_success_rate": one.noisy_success.as_dict(),
    }


def _comparison_row(one: Comparison) -> list[str]:
    """One policy for the terminal."""
    mark = "" if one.agrees else " (!)"
    return [one.name + mark, f"{one.found.mpjpe_mm:.1f}", f"{one.expected.mpjpe_mm:g}",
            f"{one.found.global_mpjpe_mm:.1f}", f"{one.expected.global_mpjpe_mm:g}",
            f"{one.grounded.mpjpe_mm:.1f}", f"{one.grounded.global_mpjpe_mm:.1f}",
            show(one.noisy_success, 2)]  # fmt: skip
