"""Commands that fit a correction to logs: ``asap fit``."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich.console import RenderableType

from asap import results
from asap.cli_common import CHECK_FAILED, DONE, Common, Outcome, Progress, show, table
from asap.fit import FitConfig, Fitted, checked, fit
from asap.log_import import open_log
from asap.replay import JOINT_ERROR, Replay
from asap.robot import Robot


@dataclass(frozen=True, kw_only=True)
class Fit(Common):
    """Fit a correction of the simulator to logs, and keep it only if other runs confirm it.

    identify: delay first, then gains, friction, inertia of rotors and torso, by short windows; a
    validation part of the log chooses what is worth fitting. Exit status 1 where no correction is
    better than the model on data that was not fitted: then the correction is empty.
    """

    logs: tuple[Path, ...]
    """Log files; cut in three by run: fitted, choosing, judging."""
    heldout: tuple[Path, ...] = ()
    """Logs that judge instead, best of other motions."""
    method: Literal["identify"] = "identify"
    """How."""
    robot: str = "g1"
    """Robot or variant, or a folder with a robot.toml."""
    columns: Path | None = None
    """Column map (TOML) of foreign files: see real_logs/columns."""
    out: Path | None = None
    """Folder of correction.json and corrected.xml; runs/fit/<time>-<seed> by default."""
    fit: FitConfig = field(default_factory=FitConfig)
    """Every setting of the fit."""

    def run(self, progress: Progress) -> Outcome:
        """Fit."""
        robot = checked(Robot.load(self.robot))
        logs, heldout = (
            [open_log(path, columns=self.columns, robot=robot).log for path in paths]
            for paths in (self.logs, self.heldout)
        )
        config = dataclasses.replace(self.fit, seed=self.seed)
        fitted = fit(logs, robot, config, heldout=heldout, progress=progress)
        stamp = time.strftime("%Y%m%d-%H%M%S")
        out = self.out or Path("runs") / "fit" / f"{stamp}-{self.seed}"
        inputs = [*self.logs, *self.heldout]
        correction = dataclasses.replace(
            fitted.correction,
            provenance={
                "method": self.method,
                "seed": self.seed,
                "logs": {path.name: results.file_sha256(path) for path in inputs if path.is_file()},
            },
            heldout={
                name: fitted.heldout.arms[name].errors_as_dict() for name in _arms(fitted.heldout)
            },
        )
        correction.save(out / "correction.json")
        written = [out / "correction.json"]
        if fitted.accepted:
            correction.write_mjcf(robot, out / "corrected.xml")
            written.append(out / "corrected.xml")
        facts: dict[str, Any] = {
            "correction": written[0],
            "accepted": fitted.accepted,
            "verdict": fitted.verdict,
            "train": {"groups": fitted.tried},
            "heldout": correction.heldout.get("corrected", {}),
            "baseline": {name: correction.heldout[name] for name in ("nominal", "hold_last")},
            "parameters": fitted.parameters,
            "abstained": [] if fitted.accepted else ["all"],
            "written": written,
        }
        return Outcome(result=facts, shown=_tables(fitted), inputs=inputs,
                       status=DONE if fitted.accepted else CHECK_FAILED)  # fmt: skip


def _arms(found: Replay) -> list[str]:
    return [name for name in ("nominal", "corrected", "hold_last") if name in found.arms]


def _tables(fitted: Fitted) -> list[RenderableType]:
    """What was found and what it is worth."""
    shown: list[RenderableType] = []
    if fitted.parameters:
        known = [p for p in fitted.parameters if p["value"] is not None]
        rows = [[p["name"], f"{p['value']:.4g}", f"{p['low']:.4g} to {p['high']:.4g}",
                 p["determined_by"]] for p in known]  # fmt: skip
        columns = ["parameter (effective)", "value", "about 95 %", "told by"]
        shown.append(table("Factors of the model, or SI units on top of it", columns, rows))
    horizons = list(fitted.heldout.arms["nominal"].horizons)
    for metric in (JOINT_ERROR, "global_mpjpe_mm"):
        rows = [[name, *(show(fitted.heldout.arms[name].horizons[h][metric], 2) for h in horizons)]
                for name in _arms(fitted.heldout)
                if metric in fitted.heldout.arms[name].horizons[horizons[0]]]  # fmt: skip
        if rows:
            title = f"{metric} on {fitted.heldout.windows} windows that were not fitted"
            shown.append(table(title, ["", *(f"{h} s" for h in horizons)], rows))
    return [*shown, fitted.verdict]
