"""Commands that fit a correction to logs: ``asap fit``."""

from __future__ import annotations

import dataclasses
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from asap.cli_common import (
    CHECK_FAILED,
    DONE,
    Common,
    Outcome,
    Progress,
    show,
    stop_requests,
    table,
)  # fmt: skip
from asap.fit import Fitted, checked, fit
from asap.fit_files import arms, write_fit
from asap.fit_methods import FitConfig, Method
from asap.inputs import open_motion, shipped_motions
from asap.log_import import open_log
from asap.next_motion import advise
from asap.replay import JOINT_ERROR
from asap.robot import Robot
from asap.sysid_check import check_installed, cross_check
from asap_deploy.errors import InputError

_NAMED = 4
"""Parameters that a remark names."""
_STILL_FALLING = 0.95
"""More log helps if the last doubling left less than this of the error."""


@dataclass(frozen=True, kw_only=True)
class Fit(Common):
    """Fit a correction of the simulator to logs, and keep it only if other runs confirm it.

    identify: delay first, then gains, friction, inertia, contacts, encoder bias and what motors do
    beside a PD law. delta: an offset of the PD targets. stacked: one, then the other for what is
    left. delta-ppo: the offset as the paper learns it (Ctrl-C ends it with the best so far);
    delta-dynamics and grid: the paper's baselines. Exit status 1 where no correction is better than
    the model on data that was not fitted: then the correction is empty.
    """

    logs: tuple[Path, ...]
    """Log files; cut in three by run: fitted, choosing, judging."""
    heldout: tuple[Path, ...] = ()
    """Logs that judge instead, best of other motions."""
    method: Method = "stacked"
    """How."""
    joints: tuple[str, ...] = ()
    """Only joints whose names contain one of these get a learned offset, for example ankle."""
    robot: str = "g1"
    """Robot or variant, or a folder with a robot.toml."""
    columns: Path | None = None
    """Column map (TOML) of foreign files: see real_logs/columns."""
    advise: bool = False
    """Also say which of the robot's motions to record next (half a minute)."""
    cross_check: bool = False
    """Also ask MuJoCo's own identification (pip install 'mujoco[sysid]') for stiffness, friction
    and rotor inertia from the same windows, and say how far its answers are from ours (minutes)."""
    out: Path | None = None
    """Folder of correction.json and corrected.xml; runs/fit/<time>-<seed> by default."""
    fit: FitConfig = field(default_factory=FitConfig)
    """Every setting of the fit."""

    def run(self, progress: Progress) -> Outcome:
        """Fit."""
        if self.cross_check and self.method not in ("identify", "stacked"):
            raise InputError(f"--cross-check is of identified parameters; --method {self.method} "
                             "has none")  # fmt: skip
        if self.cross_check:
            check_installed()
        robot = checked(Robot.load(self.robot))
        logs, heldout = (
            [open_log(path, columns=self.columns, robot=robot).log for path in paths]
            for paths in (self.logs, self.heldout)
        )
        delta = dataclasses.replace(self.fit.delta, joints=self.joints or self.fit.delta.joints)
        config = dataclasses.replace(self.fit, seed=self.seed, method=self.method, delta=delta)
        by_trial = self.method == "delta-ppo"
        with stop_requests(lambda: None) if by_trial else nullcontext(lambda: False) as stopped:
            fitted = fit(logs, robot, config, heldout=heldout, progress=progress, stopped=stopped)
        inputs = [*self.logs, *self.heldout]
        out = self.folder("fit")
        facts = write_fit(fitted, robot, config, inputs=inputs, folder=out)
        advice = self._advice(robot, fitted)
        facts["next_motion"] = [{"motion": name, "tells": gain} for name, gain in advice]
        second = None
        if self.cross_check and fitted.identified is not None:
            second = cross_check(fitted.identified, threads=self.fit.threads)
            facts["cross_check"] = second.as_dict()
        asked = [] if second is None else [second.words]
        shown = [*_tables(fitted), *_advised(advice), *asked]
        return Outcome(result=facts, shown=shown, inputs=inputs,
                       status=DONE if fitted.accepted else CHECK_FAILED)  # fmt: skip

    def _advice(self, robot: Robot, fitted: Fitted) -> list[tuple[str, float]]:
        if not self.advise or fitted.identified is None:
            return []
        files = shipped_motions(robot).values()
        clips = [open_motion(path, robot, ground=True) for path in files]
        return advise(robot, fitted.identified, clips, threads=self.fit.threads)


def _tables(fitted: Fitted) -> list[RenderableType]:
    """What was found and what it is worth."""
    shown: list[RenderableType] = []
    if fitted.parameters:
        known = [p for p in fitted.parameters if p["determined_by"] == "log"]
        rows = [[p["name"], f"{p['value']:.4g}", f"{p['low']:.4g} to {p['high']:.4g}",
                 p["determined_by"]] for p in known]  # fmt: skip
        columns = ["parameter", "value", "about 95 %", "told by"]
        title = "What the log tells: factors of the model, or SI units on top of it"
        shown += [table(title, columns, rows), _who_tells(fitted.parameters)]
    horizons = list(fitted.heldout.arms["nominal"].horizons)
    for metric in (JOINT_ERROR, "global_mpjpe_mm"):
        rows = [[name, *(show(fitted.heldout.arms[name].horizons[h][metric], 2) for h in horizons)]
                for name in arms(fitted.heldout)
                if metric in fitted.heldout.arms[name].horizons[horizons[0]]]  # fmt: skip
        if rows:
            title = f"{metric} on {fitted.heldout.windows} windows that were not fitted"
            shown.append(table(title, ["", *(f"{h} s" for h in horizons)], rows))
    rows = [[horizon, *(f"{bands[m].typical:.2f}, held {bands[m].coverage:.0%}" for m in bands)]
            for horizon, bands in fitted.bands.items()]  # fmt: skip
    metrics = list(next(iter(fitted.bands.values())))
    shown.append(table("9 of 10 predictions are no further off (median movement; other runs held)",
                       ["after s", *metrics], rows))  # fmt: skip
    return [*shown, *_remarks(fitted), fitted.verdict]


def _who_tells(parameters: list[dict[str, Any]]) -> RenderableType:
    """How many parameters of each kind the log determines, and how many only the model."""
    by: dict[str, Counter[str]] = {}
    for one in parameters:
        name = str(one["name"])
        quantity = name.removesuffix(" in its group").rpartition(" ")[2]
        quantity += " beside its group" if name.endswith(" in its group") else ""
        by.setdefault(quantity, Counter())[one["determined_by"]] += 1
    sources = ("log", "log and model", "model", "nothing")
    rows = [[quantity, *(str(count[source] or "") for source in sources)]
            for quantity, count in by.items()]  # fmt: skip
    columns = ["", "the log", "log and model", "the model", "nothing: no trace"]
    return table("Parameters, by what determines them", columns, rows)


def _remarks(fitted: Fitted) -> list[str]:
    """What a person should know, a line each."""
    remarks = []
    silent = [p["name"] for p in fitted.parameters if p["determined_by"] == "nothing"]
    if silent:
        more = f" and {len(silent) - _NAMED} more" if len(silent) > _NAMED else ""
        remarks.append(f"not observable in these logs: {', '.join(silent[:_NAMED])}{more}")
    if fitted.effective and fitted.accepted:
        remarks.append(
            f"parameters of {', '.join(fitted.effective)} are effective, not physical: what is "
            "left of the error still follows load or speed"
        )
    if len(fitted.curve) > 1:
        shares = list(fitted.curve.values())
        more = "may help" if shares[-1] < _STILL_FALLING * shares[-2] else "will not help"
        told = ", ".join(f"{s} s: {share:.0%}" for s, share in fitted.curve.items())
        remarks.append(f"error left by seconds of log: {told}; more of the same log {more}")
    return remarks + fitted.alarms


def _advised(advice: list[tuple[str, float]]) -> list[str]:
    if not advice:
        return []
    best = ", ".join(f"{name} ({gain:.0%})" for name, gain in advice[:3])
    return [f"record next, by how much of the remaining uncertainty it would take away: {best}"]
