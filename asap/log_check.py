"""Is a robot's log fit to learn from? What is wrong with it, what was put right, what to do.

    checked = check_log(Log.load("wave_01.npz"), Robot.load("g1"), stated_rate_hz=50.0)
    checked.verdict                                  # PASS, REPAIRED, WARNING or REFUSED
    for finding in checked.findings: ...             # name, verdict, text, joints, value
    fit(checked.repaired)                            # the log with what could be mended

Checks run in the order of ``CHECKS``; each sees what those before it repaired. A repair is made
only where one reading fits the log and all others do not, and where nothing measured is lost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from asap.log_check_action import action_convention
from asap.log_check_base import base_origin, fallen, gyro, quaternion_order, yaw_drift
from asap.log_check_delay import frame_offset
from asap.log_check_joint_delay import delay
from asap.log_check_order import joint_order
from asap.log_check_step import joint_columns
from asap.log_check_view import VERDICTS, Finding, Outcome, Verdict, View
from asap.log_gains import gain_changes
from asap.log_signals import quantised, saturated, standing_still, stuck, target_copies
from asap.log_timing import clock, duplicated_rows, ragged_ends, rate
from asap.robot import Robot
from asap_deploy.log import Log

__all__ = ["CHECKS", "Finding", "LogCheck", "check_log"]

MIN_ROWS = 100
"""Shorter logs are looked at, but hardly anything can be said of them."""

CHECKS: dict[str, Callable[[View], Outcome]] = {
    "ragged_ends": ragged_ends,
    "duplicated_rows": duplicated_rows,
    "clock": clock,
    "rate": rate,
    "quaternion_order": quaternion_order,
    "gyro": gyro,
    "stuck": stuck,
    "saturated": saturated,
    "quantised": quantised,
    "target_copy": target_copies,
    "action_convention": action_convention,
    "joint_order": joint_order,
    "frame_offset": frame_offset,
    "delay": delay,
    "gain_change": gain_changes,
    "standing_still": standing_still,
    "fallen": fallen,
    "yaw_drift": yaw_drift,
    "base_origin": base_origin,
}
"""In this order: rows and clock, then single channels, then how channels go together."""

_AFTER_A_COPY = (
    "action_convention",
    "joint_order",
    "frame_offset",
    "delay",
    "gain_change",
)
"""Checks that compare targets with what followed: of copied targets they would only tell tales."""


class LogCheck(NamedTuple):
    """What is known about a log."""

    findings: tuple[Finding, ...]
    repaired: Log
    """A copy with the repairs; the log itself if there were none."""
    delay_s: float | None
    """From target to response [s]; None where it cannot be measured."""
    rate_hz: float

    @property
    def verdict(self) -> Verdict:
        """The worst one."""
        return max((f.verdict for f in self.findings), key=VERDICTS.index, default="PASS")

    @property
    def problems(self) -> tuple[Finding, ...]:
        """Findings that are not PASS."""
        return tuple(finding for finding in self.findings if finding.verdict != "PASS")

    def to_json(self) -> dict[str, Any]:
        """``duration_s``, ``rate_hz``, ``delay_s`` of all and of each joint, and ``problems``."""
        delays = [f.as_dict().get("by_joint", {}) for f in self.findings if f.name == "delay"]
        return {
            "duration_s": self.repaired.duration_s,
            "rate_hz": self.rate_hz,
            "delay_s": self.delay_s,
            "joint_delay_s": delays[0] if delays else {},
            "verdict": self.verdict,
            "problems": [finding.as_dict() for finding in self.problems],
        }


def check_log(
    log: Log, robot: Robot | None = None, *, stated_rate_hz: float | None = None
) -> LogCheck:
    """Look for everything that would make a fit to this log a lie.

    Args:
        log: What was recorded; a channel that is absent is not checked.
        robot: Whose log it is; without it nothing is simulated and no kinematics are used.
        stated_rate_hz: The rate that the recorder was set to; None: not compared.

    Returns:
        Findings in the order of ``CHECKS``, the repaired log, delay and rate.
    """
    view = View(log=log, robot=robot, stated_rate_hz=stated_rate_hz)
    findings = _what_is_missing(view)
    for name, check in CHECKS.items():
        copied = any(f.name == "target_copy" and f.verdict != "PASS" for f in findings)
        if copied and name in _AFTER_A_COPY:
            continue
        outcome = check(view)
        findings += outcome.findings
        if outcome.log is not None:
            view = view.with_log(outcome.log)
        # What the simulation is started with, once it is known.
        late = next((f.value for f in outcome.findings if f.name == "delay"), None)
        if late is not None:
            view = replace(view, delay_s=max(0.0, late))
    rate_hz = next((f.value for f in findings if f.name == "rate"), None)
    return LogCheck(tuple(findings), view.log, view.delay_s, rate_hz or log.rate_hz)


def _what_is_missing(view: View) -> list[Finding]:
    """What cannot be checked, said once."""
    found = []
    skipped = (
        "joint order and sign against targets, the meaning of actions, the base's origin and "
        "unrecorded gain changes are not checked"
    )
    if view.robot is None:
        found.append(view.finding("robot", "PASS", f"no robot was given: {skipped}"))
    elif joint_columns(view) is None:
        lacking = [n for n in view.robot.joint_names if n not in view.log.joint_names]
        text = (
            f"the log lacks {len(lacking)} joints of robot '{view.robot.name}', the first is "
            f"'{lacking[0]}': what needs simulation is not checked; name the right robot"
        )
        found.append(view.finding("robot", "WARNING", text, joints=tuple(lacking)))
    elif not view.robot.has_free_base or not view.robot.foot_names:
        text = f"robot '{view.robot.name}' does not stand on feet: {skipped}"
        found.append(view.finding("robot", "PASS", text))
    if len(view.log.time_s) < MIN_ROWS:
        text = f"the log has {len(view.log.time_s)} rows only: hardly anything can be told from it"
        found.append(view.finding("length", "WARNING", text, value=len(view.log.time_s)))
    return found
