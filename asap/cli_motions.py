"""The command that makes reference motions: ``asap motions make``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asap.cli_common import CHECK_FAILED, DONE, Common, Outcome, Progress, table
from asap.dynamics_check import DynamicsReport, check_dynamics
from asap.make_motions import CLIPS, make_motion
from asap.motion_check import MotionReport, check_motion
from asap.robot import Robot
from asap_deploy.errors import InputError, suggestion
from asap_deploy.motion import Motion


@dataclass(frozen=True, kw_only=True)
class MotionsMake(Common):
    """Reference motions of our own, from short scripts; checked, then written.

    Needs `pip install 'asap-toolkit[motions]'`. Exit status 1 if a clip has problems.
    """

    robot: str = "g1"
    """Robot that shall move; with the joints of a G1."""
    clip: tuple[str, ...] = ()
    """Names of clips; all by default."""
    out: Path = Path("runs/motions")
    """Folder to write to."""

    def run(self, progress: Progress) -> Outcome:
        """Make and check each of them."""
        names = list(dict.fromkeys(self.clip)) or list(CLIPS)
        unknown = next((name for name in names if name not in CLIPS), None)
        if unknown:
            raise InputError(f"there is no clip '{unknown}'{suggestion(unknown, CLIPS)}")
        robot = Robot.load(self.robot)
        result: dict[str, dict[str, Any]] = {}
        rows = []
        for number, name in enumerate(names):
            motion = make_motion(name, robot)
            report, dynamics = check_motion(motion, robot), check_dynamics(motion, robot)
            motion.save(self.out / f"{name}.npz")
            problems = [*report.problems, *dynamics.problems]
            result[name] = {"level": CLIPS[name].level, **report._asdict(), **dynamics._asdict(),
                            "problems": problems}  # fmt: skip
            rows.append(_row(name, motion, report, dynamics))
            progress((number + 1) / len(names))
        remarks = [
            f"{name}: {text}" for name, facts in result.items() for text in facts["problems"]
        ]
        columns = ["motion", "level", "time [s]", "fastest joint [rad/s]", "torque / limit",
                   "ZMP margin [mm]", "force / weight", "in the air [s]", "problems"]  # fmt: skip
        return Outcome(
            result={"motions": result},
            shown=[
                table("Motions", columns, rows), *remarks, f"wrote {len(names)} files to {self.out}"
            ],
            status=CHECK_FAILED if remarks else DONE,
        )  # fmt: skip


def _row(
    name: str, motion: Motion, report: MotionReport, dynamics: DynamicsReport
) -> tuple[str, ...]:
    """One clip in the table."""
    count = len(report.problems) + len(dynamics.problems)
    return (
        name, CLIPS[name].level, f"{motion.duration_s:.1f}", f"{report.max_joint_speed:.1f}",
        f"{dynamics.torque_fraction:.2f}", f"{dynamics.zmp_margin_mm:.0f}",
        f"{dynamics.max_force:.1f}", f"{dynamics.flight_s:.2f}", str(count) if count else "none",
    )  # fmt: skip
