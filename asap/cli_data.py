"""Commands about robots and motions: ``asap robots ...`` and ``asap motions ...``."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from rich.console import RenderableType

from asap.cli_common import CHECK_FAILED, DONE, Common, Outcome, Progress, table
from asap.dynamics_check import check_dynamics
from asap.inputs import find_motion, shipped_motions
from asap.mend_motion import mend
from asap.motion_check import MotionReport, check_motion
from asap.motion_rollout import as_rollout
from asap.motions import import_motion
from asap.robot import Robot, robot_names
from asap_deploy.errors import InputError
from asap_deploy.motion import Motion

Names = Annotated[tuple[str, ...], tyro.conf.Positional]
Files = Annotated[tuple[Path, ...], tyro.conf.Positional]


@dataclass(frozen=True, kw_only=True)
class RobotsList(Common):
    """The robots that come with the toolkit, their variants and twins."""

    def run(self, progress: Progress) -> Outcome:
        """List them."""
        return _robots(robot_names(), DONE)


@dataclass(frozen=True, kw_only=True)
class RobotsCheck(Common):
    """What a robot's description lacks, or what is odd about it; exit status 1 if anything is."""

    robot: Names = ()
    """Names (g1, g1:asap, g1@twin) or folders with a robot.toml; all by default."""

    def run(self, progress: Progress) -> Outcome:
        """Check each of them."""
        return _robots(list(self.robot) or robot_names(), CHECK_FAILED)


@dataclass(frozen=True, kw_only=True)
class RobotsView(Common):
    """A picture (PNG) or a rerun recording of a robot in its default pose."""

    robot: Annotated[str, tyro.conf.Positional] = "g1"
    """Name, or folder with a robot.toml."""
    view: Path | None = None
    """Rerun recording to write (.rrd)."""
    png: Path | None = None
    """Picture to write."""

    def run(self, progress: Progress) -> Outcome:
        """Draw it."""
        from asap.sheet import robot_picture
        from asap.visualize import view_robot  # rerun takes a second to import

        if self.view is None and self.png is None:
            raise InputError("nothing to write: give --png FILE.png or --view FILE.rrd")
        robot = Robot.load(self.robot)
        if self.png is not None:
            robot_picture(robot, self.png)
        if self.view is not None:
            view_robot(robot, self.view)
        written = [path for path in (self.png, self.view) if path is not None]
        return Outcome(
            result={"robot": robot.name, "written": written},
            shown=[f"{robot.name}: wrote {', '.join(map(str, written))}"],
        )


def _robots(names: list[str], status_if_odd: int) -> Outcome:
    """Facts and problems of robots."""
    rows: list[list[str]] = []
    remarks: list[str] = []
    result, odd = {}, False
    for name in names:
        robot = Robot.load(name)
        problems = robot.check()
        odd |= bool(problems)
        remarks += [f"{name}: {text}" for text in problems]
        mass = float(robot.model.body_mass.sum())
        root = name.partition("@")[0]
        twins = [n for n in robot_names() if n.startswith(f"{root}@")]
        result[name] = {
            "joints": len(robot.joint_names),
            "actions": len(robot.action_joint_names),
            "mass_kg": mass,
            "integrator": robot.integrator,
            "physics_dt": robot.physics_dt,
            "twins": twins,
            "problems": problems,
        }
        physics = f"{robot.integrator} {1000 * robot.physics_dt:g} ms"
        count = str(len(problems)) if problems else "none"
        rows.append([name, str(len(robot.joint_names)), str(len(robot.action_joint_names)),
                     f"{mass:.2f}", physics, count])  # fmt: skip
    columns = ["robot", "joints", "actions", "mass [kg]", "physics", "problems"]
    status = status_if_odd if odd else DONE
    return Outcome(
        result={"robots": result},
        shown=[table("Robots", columns, rows), *remarks],
        status=status,
    )


@dataclass(frozen=True, kw_only=True)
class MotionsList(Common):
    """The reference motions that come with the toolkit."""

    robot: str = "g1"
    """Whose motions."""

    def run(self, progress: Progress) -> Outcome:
        """List them."""
        robot = Robot.load(self.robot)
        files = list(shipped_motions(robot).values())
        reports = {path.stem: check_motion(Motion.load(path), robot) for path in files}
        return _motions(reports, files, DONE)


@dataclass(frozen=True, kw_only=True)
class _Reading(Common):
    """How foreign files are read."""

    robot: str = "g1"
    """Robot that shall follow the motion."""
    ground: bool = True
    """Put stance soles onto the floor; flight keeps its height profile."""
    fps: float | None = None
    """Frame rate of the file [Hz], where it does not say; CSV files are taken as 30."""
    quat_order: Literal["xyzw", "wxyz"] | None = None
    """Order of quaternions in the file, where it cannot be told."""
    joint_order: Literal["dfs", "bfs"] | None = None
    """Order of joints in the file, where it cannot be told: depth first (MuJoCo, Unitree) or
    breadth first (Isaac)."""
    format: str = "auto"
    """Format of the file; recognised by content."""
    clip: str | None = None
    """Which clip of a file that holds several."""
    target_fps: float = 50.0
    """Frame rate of the result [Hz]."""

    def read(self, path: Path, robot: Robot) -> Motion:
        """One file as a motion."""
        return import_motion(
            find_motion(path, robot),
            robot,
            format=self.format,
            fps=self.fps,
            quat_order=self.quat_order,
            joint_order=self.joint_order,
            ground=self.ground,
            target_fps=self.target_fps,
            clip=self.clip,
        )


@dataclass(frozen=True, kw_only=True)
class MotionsCheck(_Reading):
    """What is wrong with motions of any format; exit status 1 if anything is."""

    motion: Files
    """Files, or names of clips that come with the toolkit."""
    ground: bool = False
    """Check the motion as it would be after grounding, instead of as it is."""

    def run(self, progress: Progress) -> Outcome:
        """Check each of them."""
        robot = Robot.load(self.robot)
        files = [find_motion(path, robot) for path in self.motion]
        reports = {}
        for number, path in enumerate(files):
            reports[path.stem] = check_motion(self.read(path, robot), robot)
            progress((number + 1) / len(files))
        return _motions(reports, files, CHECK_FAILED)


@dataclass(frozen=True, kw_only=True)
class MotionsConvert(_Reading):
    """Motions of any format as files of ours, on the joints of a robot, with soles on the floor."""

    motion: Files
    """Files to read: ASAP/PHC/PBHC, GMR and GMT .pkl, Unitree CSV, BeyondMimic, mjlab and
    HoloSoma .npz."""
    out: Path = Path("motions")
    """Folder to write to."""
    mend: bool = False
    """Change clips of people into what a robot can do: level feet that stand still, weight above
    them, flight that is free fall. Begins and ends at rest. Needs
    `pip install 'asap-toolkit[motions]'`."""
    png: bool = False
    """Draw each mended clip into the folder too, the original in blue."""

    def run(self, progress: Progress) -> Outcome:
        """Convert each of them."""
        if self.png and not self.mend:
            raise InputError("--png shows what --mend changed: give both")
        robot = Robot.load(self.robot)
        reports: dict[str, MotionReport] = {}
        stems = [path.stem for path in self.motion]
        twice = next((stem for stem in stems if stems.count(stem) > 1), None)
        if twice:
            raise InputError(f"two files are named '{twice}': convert them into different folders")
        mended: dict[str, Any] = {}
        for number, path in enumerate(self.motion):
            motion = self.read(path, robot)
            if self.mend:
                motion, before = mend(motion, robot), motion
                mended[path.stem] = _mending(before, motion, robot)
                if self.png:
                    from asap.sheet import contact_sheet  # matplotlib takes a second

                    title = f"{path.stem}, mended, on {robot.name}; the original in blue"
                    drawn = as_rollout(motion, robot, beside=before, title=title)
                    contact_sheet(drawn, self.out / f"{path.stem}.png")
            motion.save(self.out / f"{path.stem}.npz")
            reports[path.stem] = check_motion(motion, robot)
            progress((number + 1) / len(self.motion))
        outcome = _motions(reports, list(self.motion), DONE, wrote=self.out)
        if not mended:
            return outcome
        return dataclasses.replace(
            outcome, result=outcome.result | {"mended": mended},
            shown=[*outcome.shown, *_mended(mended)],
        )  # fmt: skip


def _mending(before: Motion, after: Motion, robot: Robot) -> dict[str, Any]:
    """What mechanics says of a clip and of what became of it."""
    moved = 1000.0 * np.linalg.norm(after.body_pos_w - before.body_pos_w, axis=-1).mean()
    was, now = (check_dynamics(motion, robot)._asdict() for motion in (before, after))
    return {"moved_mm": float(moved), "before": was, "after": now}


def _mended(facts: dict[str, Any]) -> list[RenderableType]:
    """Before and after as a table, and what is still too much."""
    figures = {"zmp_margin_mm": ".0f", "torque_fraction": ".2f", "max_force": ".1f",
               "flight_s": ".2f"}  # fmt: skip
    rows, remarks = [], []
    for name, one in facts.items():
        pairs = [f"{one['before'][key]:{form}}, {one['after'][key]:{form}}"
                 for key, form in figures.items()]  # fmt: skip
        rows.append([name, f"{one['moved_mm']:.0f}", *pairs])
        remarks += [f"{name}, mended: {text}" for text in one["after"]["problems"]]
    columns = ["motion", "moved, mean [mm]", "ZMP margin [mm]", "torque / limit",
               "force / weight", "in the air [s]"]  # fmt: skip
    return [table("Mended: before, after", columns, rows), *remarks]


def _motions(
    reports: dict[str, MotionReport],
    files: list[Path],
    status_if_odd: int,
    wrote: Path | None = None,
) -> Outcome:
    """Figures and problems of clips."""
    rows, result = [], {}
    for name, report in reports.items():
        facts: dict[str, Any] = report._asdict()
        result[name] = facts
        clearance = float(np.nan_to_num(facts["sole_clearance_m"]))
        rows.append([name, str(facts["frames"]), f"{facts['fps']:g}", str(facts["joints"]),
                     f"{1000 * clearance:.1f}", f"{facts['max_joint_speed']:.1f}",
                     str(len(facts["problems"])) if facts["problems"] else "none"])  # fmt: skip
    columns = ["motion", "frames", "fps", "joints", "sole clearance [mm]", "fastest joint [rad/s]",
               "problems"]  # fmt: skip
    remarks = [f"{name}: {text}" for name, facts in result.items() for text in facts["problems"]]
    odd = any(facts["problems"] for facts in result.values())
    notes = [f"wrote {len(reports)} files to {wrote}"] if wrote else []
    return Outcome(
        result={"motions": result},
        shown=[table("Motions", columns, rows), *remarks, *notes],
        inputs=files,
        status=status_if_odd if odd else DONE,
    )
