"""Commands about real robots' logs: ``asap logs ...``, ``asap replay`` and ``asap report``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import RenderableType

from asap.cli_common import CHECK_FAILED, DONE, Common, Outcome, Progress, show, table
from asap.closed_loop import compare_run
from asap.correction import Correction
from asap.inputs import case_of, open_policy
from asap.log_check import LogCheck, check_log
from asap.log_import import OpenedLog, open_log
from asap.replay import JOINT_ERROR, REPEAT, Replay, ReplayConfig, replay
from asap.replay_view import costly, heat_map, metrics_of, page, worst_points, write_overlay
from asap.robot import Robot
from asap_deploy.errors import InputError
from asap_deploy.npz import write_file

_NO_ROBOT = "none"


@dataclass(frozen=True, kw_only=True)
class _Logs(Common):
    """Options of every command that reads logs."""

    logs: tuple[Path, ...]
    """Log files: ours, ASAP's npz and pkl, and with --columns CSV, npz, HDF5, parquet, MCAP,
    rosbag2."""
    robot: str = "g1"
    """Robot, variant or twin, or a folder with a robot.toml."""
    columns: Path | None = None
    """Column map (TOML) of a foreign file: see real_logs/columns."""

    def _open(self, robot: Robot | None) -> list[OpenedLog]:
        if not self.logs:
            raise InputError("no log: give --logs FILE ...")
        return [open_log(path, columns=self.columns, robot=robot) for path in self.logs]


@dataclass(frozen=True, kw_only=True)
class LogsCheck(_Logs):
    """Look for hidden defects: rate, gaps, delay, swapped or flipped joints, quaternions, ...

    Exit status 1 if a log is refused. What can be repaired without a doubt is, on a copy. With
    --robot none nothing is simulated: for logs of a robot of which there is no description.
    """

    rate_hz: float | None = None
    """Rate that the log is said to have [Hz]."""
    repaired: Path | None = None
    """Write the repaired copy of the one log here."""

    def run(self, progress: Progress) -> Outcome:
        """Check."""
        robot = None if self.robot == _NO_ROBOT else Robot.load(self.robot)
        if self.repaired is not None and len(self.logs) != 1:
            raise InputError("--repaired takes one log")
        shown: list[RenderableType] = []
        rows, bad = [], 0
        for place, opened in enumerate(self._open(robot)):
            found = check_log(opened.log, robot, stated_rate_hz=self.rate_hz)
            bad += found.verdict == "REFUSED"
            rows.append({"name": opened.name, "verdict": found.verdict, **found.to_json()})
            shown.append(_findings(opened, found))
            if self.repaired is not None:
                found.repaired.save(self.repaired)
            progress((place + 1) / len(self.logs))
        return Outcome(result={"logs": rows}, shown=shown, inputs=list(self.logs),
                       status=CHECK_FAILED if bad else DONE)  # fmt: skip


def _findings(opened: OpenedLog, found: LogCheck) -> RenderableType:
    """One log for the terminal: what is wrong first."""
    order = {"REFUSED": 0, "REPAIRED": 1, "WARNING": 2, "PASS": 3}
    rows = [[one.verdict, one.name, one.text]
            for one in sorted(found.findings, key=lambda one: order[one.verdict])]  # fmt: skip
    rows += [["", "import", note] for note in opened.notes]
    log = opened.log
    delay = "" if found.delay_s is None else f", delay {1000 * found.delay_s:.0f} ms"
    title = (f"{opened.name}: {found.verdict}; {log.duration_s:.1f} s at {found.rate_hz:.2f} Hz, "
             f"{len(log.joint_names)} joints{delay}")  # fmt: skip
    return table(title, ["verdict", "check", "what"], rows, sentences=True)


@dataclass(frozen=True, kw_only=True)
class LogsConvert(_Logs):
    """Turn a foreign log into one of ours; what was guessed or cut is said."""

    out: Path
    """Log file to write (.npz); with several logs a folder."""

    def run(self, progress: Progress) -> Outcome:
        """Convert."""
        written, shown = [], []
        if self.out.suffix not in ("", ".npz") and not self.out.is_dir():
            raise InputError(f"--out ends in '{self.out.suffix}', expected .npz, or a folder")
        for opened in self._open(None):
            single = len(self.logs) == 1 and self.out.suffix == ".npz"
            target = self.out if single else self.out / f"{opened.name}.npz"
            opened.log.save(target)
            written.append(target)
            channels = ", ".join(["joint_pos", *opened.log.fields])
            shown.append(f"{target}: {opened.log.duration_s:.1f} s at {opened.log.rate_hz:.2f} Hz, "
                         f"{len(opened.log.joint_names)} joints; {channels}")  # fmt: skip
            shown += [f"  note: {note}" for note in opened.notes]
            progress(len(written) / len(self.logs))
        return Outcome(result={"written": written}, shown=shown, inputs=list(self.logs))


@dataclass(frozen=True, kw_only=True)
class LogsShow(_Logs):
    """What a log holds: channels, stretches, ranges."""

    def run(self, progress: Progress) -> Outcome:
        """Show."""
        facts, shown = [], []
        for opened in self._open(None):
            log = opened.log
            rows = [["joint_pos", *_summary(log.joint_pos)]]
            rows += [[name, *_summary(array)] for name, array in log.fields.items()]
            pieces = log.segments()
            title = (f"{opened.name}: {log.duration_s:.1f} s at {log.rate_hz:.2f} Hz, "
                     f"{len(pieces)} stretches, robot {log.robot or 'not said'}")  # fmt: skip
            shown.append(table(title, ["channel", "shape", "least", "largest"], rows))
            facts.append({"name": opened.name, "duration_s": log.duration_s,
                          "rate_hz": log.rate_hz, "joints": list(log.joint_names),
                          "channels": ["time_s", "joint_pos", *log.fields],
                          "stretches": len(pieces)})  # fmt: skip
        return Outcome(result={"logs": facts}, shown=shown, inputs=list(self.logs))


def _summary(array: np.ndarray) -> list[str]:
    """Shape and range of a channel."""
    if array.dtype.kind not in "iuf":
        return [str(array.shape), "text", ""]
    return [str(array.shape), f"{array.min():.4g}", f"{array.max():.4g}"]


@dataclass(frozen=True, kw_only=True)
class ReplayLogs(_Logs):
    """Logged targets through the simulator, put back onto the log every window.

    Beside the simulator: hold_last (nothing moves), target_as_prediction (joints are where they
    are told to be) and, where runs of one motion tell their phase, repeat (joints move on as in
    another run). Errors at the end of each horizon, 95 % intervals over episodes.
    """

    horizons_s: tuple[float, ...] = (0.25, 0.5, 1.0)
    """Times after the start of a window at which errors are reported [s]."""
    every_s: float = 0.1
    """Between the starts of windows [s]."""
    delay_ms: float = 0.0
    """From target to motor [ms]."""
    truth: str | None = None
    """Robot or twin that made the log, where it is known: its error is the noise floor."""
    correction: tuple[Path, ...] = ()
    """Corrections (JSON), each beside the model in the same table."""
    policy: Path | None = None
    """For logs without targets: the policy that drove the robot (ONNX with its clip). It is rolled
    out in the simulator and laid over each run, closed loop."""
    png: Path | None = None
    """Write a heat map of joints and horizons."""
    view: Path | None = None
    """Write a rerun recording of the first log: the robot beside its simulation (.rrd)."""
    page: Path | None = None
    """Write a page (.html)."""
    threads: int = 0
    """Threads of the simulator; 0: all cores."""

    def run(self, progress: Progress) -> Outcome:
        """Replay."""
        robots = {"nominal": Robot.load(self.robot)}
        if self.policy is not None:
            return self._compare(self.policy, robots["nominal"])
        for path in self.correction:
            name = path.parent.name if path.stem == "correction" else path.stem
            robots[name or "corrected"] = Correction.load(path).robot(robots["nominal"])
        if self.truth is not None:
            robots["truth"] = Robot.load(self.truth)
        opened = self._open(robots["nominal"])
        config = ReplayConfig(
            horizons_s=self.horizons_s,
            every_s=self.every_s,
            delay_ms=self.delay_ms,
            repeats=True,
            seed=self.seed,
            threads=self.threads,
        )
        found = replay([one.log for one in opened], robots, config, progress)
        notes = [f"{one.name}: {note}" for one in opened for note in one.notes]
        if robots["nominal"].has_free_base and not found.base_known:
            notes.append("the base's position is not in the log: it is reckoned from IMU and legs "
                         "for the start of each window, and only how it leans is told")  # fmt: skip
        if found.straddling:
            notes.append(f"{found.straddling} windows cross a change of gains: left out beyond it")
        shown: list[RenderableType] = [_error_table(found, name) for name in metrics_of(found)]
        shown += [_costs_most(found), *notes, *_verdict(found)]
        return Outcome(result={**_facts(found), "written": self._draw(found, opened, notes)},
                       shown=shown, inputs=list(self.logs))  # fmt: skip

    def _compare(self, policy: Path, robot: Robot) -> Outcome:
        """Runs beside the simulated run of their policy."""
        case = case_of(open_policy(policy, robot, None, None))
        rows, facts = [], []
        for opened in self._open(robot):
            found = compare_run(opened.log, case, robot, seed=self.seed)
            worst = np.argsort(-found.joint_mae_deg)[:3]
            errors = found.joint_mae_deg
            joints = ", ".join(f"{robot.joint_names[i]} {errors[i]:.1f}" for i in worst)
            rows.append([opened.name, f"{found.covered_s:.1f}", f"{found.joint_mae_deg.mean():.2f}",
                         f"{found.reference_mae_deg.mean():.2f}", joints])  # fmt: skip
            facts.append({"name": opened.name, **found.as_dict()})
        columns = ["run", "[s]", "log - simulation [deg]", "log - clip [deg]", "worst joints [deg]"]
        return Outcome(result={"closed_loop": facts}, inputs=[*self.logs, policy],
                       shown=[table(f"{case.name}, closed loop", columns, rows)])  # fmt: skip

    def _draw(self, found: Replay, opened: list[OpenedLog], notes: list[str]) -> list[Path]:
        """Pictures that were asked for."""
        written = []
        if self.png is not None:
            data = heat_map(found, "nominal")
            write_file(self.png, data)
            written.append(self.png)
        if self.view is not None:
            write_overlay(opened[0].log, Robot.load(self.robot), self.view)
            written.append(self.view)
        if self.page is not None:
            title = f"{', '.join(one.name for one in opened)[:80]} on {self.robot}"
            text = page(found, title=title, arm="nominal", notes=[*notes, *_verdict(found)])
            write_file(self.page, text)
            written.append(self.page)
        return written


def _costs_most(found: Replay) -> str:
    """Joints, bodies and the phase where the gap is."""
    where, bodies = costly(found, "nominal"), worst_points(found, "nominal")
    joints = ", ".join(f"{name} {value:.2f} deg" for name, value in where.joints)
    points = ", ".join(f"{name} {value:.1f} mm" for name, value in bodies)
    begin, end = where.phase
    return (f"costs most: {joints}{'; ' if points else ''}{points}; windows that begin between "
            f"{begin:.0%} and {end:.0%} of a run")  # fmt: skip


def _error_table(found: Replay, metric: str) -> RenderableType:
    """Arms down, horizons across."""
    horizons = list(next(iter(found.arms.values())).horizons)
    digits = 2 if metric == JOINT_ERROR else 1
    rows = [[name + (f" ({arm.diverged} of {found.windows} blew up)" if arm.diverged else ""),
             *(show(arm.horizons[h][metric], digits) for h in horizons)]
            for name, arm in found.arms.items() if metric in arm.horizons[horizons[0]]]  # fmt: skip
    title = f"{metric}, {found.windows} windows of {found.episodes} episodes"
    return table(title, ["", *(f"{h} s" for h in horizons)], rows)


def _verdict(found: Replay) -> list[str]:
    """What a person must not overlook."""
    arm, lines = found.arms["nominal"], []
    for h, figures in arm.horizons.items():
        ours = figures[JOINT_ERROR].value
        still = found.arms["hold_last"].horizons[h][JOINT_ERROR].value
        if ours >= still:
            lines.append(
                f"at {h} s the simulator is worse than saying that nothing moves "
                f"({ours:.2f} against {still:.2f} deg): it explains nothing there"
            )
    last = list(arm.horizons)[-1]
    gap = arm.horizons[last][JOINT_ERROR].value
    if "truth" in found.arms:
        floor = found.arms["truth"].horizons[last][JOINT_ERROR].value
        if gap <= 1.05 * floor + 1e-3:
            lines.append(
                f"there is no gap: {gap:.3f} deg at {last} s, the noise floor is {floor:.3f}"
            )
    elif gap < 1e-3:
        lines.append(f"there is no gap: {gap:.1e} deg at {last} s")
    elif REPEAT in found.arms:
        apart = found.arms[REPEAT].horizons[last][JOINT_ERROR].value
        if gap <= apart:
            lines.append(
                f"the simulator is as near to the robot as the robot is to itself: {gap:.2f} deg "
                f"at {last} s, {apart:.2f} from one run to another"
            )
    return lines


def _facts(found: Replay) -> dict[str, Any]:
    """For JSON."""
    nominal = found.arms["nominal"]
    where = costly(found, "nominal")
    return {
        **nominal.errors_as_dict(),
        **{n: arm.errors_as_dict() for n, arm in found.arms.items() if n != "nominal"},
        "windows": found.windows,
        "episodes": found.episodes,
        "rate_hz": found.rate_hz,
        "diverged": {name: arm.diverged for name, arm in found.arms.items()},
        "base_known": found.base_known,
        "straddling": found.straddling,
        "time_s": found.time_s,
        "curve": nominal.curve,
        "joint_names": list(found.joint_names),
        "joint_mae_deg": nominal.joint_mae_deg,
        "point_names": list(found.point_names),
        "point_mae_mm": nominal.point_mae_mm,
        "costly_joints": [name for name, _ in where.joints],
        "costly_phase": list(where.phase),
    }
