"""Rows of a log and its clock: rate, gaps, clock steps, repeated rows, ends that hold nothing.

    for check in (duplicated_rows, ragged_ends, clock, rate):
        findings, repaired = check(View(log=log))

Stamps are the robot's. A gap and a step of the clock look alike in them; they differ in what the
joints did meanwhile: over a gap the robot moved on, over a clock step it did not.
"""

from __future__ import annotations

import numpy as np

from asap.log_check_view import Finding, Outcome, View, chosen_rows
from asap.spans import spans
from asap_deploy.log import Log

RATE_TOLERANCE = 0.002
"""Relative difference between stated and true rate that is let pass: 0.1 s in a minute."""

LONG_RATIO = 1.03
"""A second in which the clock runs this much faster or slower than usual is a clock step."""

MEASURED = (
    "joint_vel",
    "torque_est",
    "imu_quat_wxyz",
    "imu_ang_vel_b",
    "imu_lin_acc_b",
    "base_pos_w",
    "base_quat_wxyz",
)
"""Channels that change with every packet; targets and phases may rest."""

MAX_FROZEN = 0.1
"""A log in which a larger share of rows is frozen is refused."""

END_ROWS = 5
"""So many rows at an end must stand still to the last digit before they are cut off."""


def duplicated_rows(view: View) -> Outcome:
    """Rows that repeat the one before to the last digit: a packet that was logged twice."""
    same = _repeats(view.log)
    runs = spans(same)
    long = runs[(runs[:, 1] - runs[:, 0]) >= END_ROWS]
    findings = []
    if len(long):
        lost = int((long[:, 1] - long[:, 0]).sum())
        told = (
            f"all sensors stand still for {lost} rows in {len(long)} stretches, the first from "
            f"{view.at(int(long[0, 0]))}: the logger had lost the robot"
        )
        if lost > MAX_FROZEN * len(same):
            text = f"{told}; record again"
            return Outcome([view.finding("frozen_rows", "REFUSED", text, value=lost)])
        text = f"{told}; those rows were removed"
        findings.append(view.finding("frozen_rows", "REPAIRED", text, value=lost))
    single = int(same.sum()) - int((long[:, 1] - long[:, 0]).sum())
    if single:
        text = (
            f"{single} rows repeat the row before to the last digit, the first at "
            f"{view.at(int(same.argmax()))}; they were removed"
        )
        findings.append(view.finding("duplicated_rows", "REPAIRED", text, value=single))
    else:
        findings.append(view.finding("duplicated_rows", "PASS", "no row is there twice"))
    return Outcome(findings, chosen_rows(view.log, ~same) if same.any() else None)


def ragged_ends(view: View) -> Outcome:
    """Rows at the beginning and end in which nothing was measured yet, or no more."""
    same = _repeats(view.log)
    blank: np.ndarray = ~np.any(view.log.joint_pos, axis=1)
    stop = len(same)
    dead = np.logical_or(same, blank)
    # The row before the first repetition holds the same numbers.
    dead[:-1] |= same[1:]
    lead = int(np.argmin(dead)) if not dead.all() else len(dead)
    tail = int(np.argmin(dead[::-1])) if not dead.all() else len(dead)
    start = lead if lead >= END_ROWS or blank[0] else 0
    # The first row of a frozen end was measured: keep it.
    stop = len(same) - tail + int(not blank[-1]) if tail >= END_ROWS or blank[-1] else stop
    if stop - start < 2:
        text = "nothing moves in the whole log: there is nothing to learn from it"
        return Outcome([view.finding("ragged_ends", "REFUSED", text)])
    if start == 0 and stop == len(same):
        return Outcome([view.finding("ragged_ends", "PASS", "the ends are whole")])
    text = (
        f"{start} rows at the beginning and {len(same) - stop} at the end hold nothing (zeros, or "
        "every channel standing still to the last digit); they were cut off"
    )
    keep = np.zeros(len(same), dtype=bool)
    keep[start:stop] = True
    cut = start + len(same) - stop
    return Outcome(
        [view.finding("ragged_ends", "REPAIRED", text, value=cut)], chosen_rows(view.log, keep)
    )


def clock(view: View) -> Outcome:
    """Rows that are missing, and stamps that do not tell the time."""
    steps = np.diff(view.log.time_s)
    inside = np.diff(view.episodes) == 0
    wide = np.flatnonzero(inside & (steps > 1.75 * view.step_s))
    jumps = [int(row) for row in wide if not _moved_on(view, int(row))]
    gaps = [int(row) for row in wide if int(row) not in jumps]
    findings = [*_gap_findings(view, gaps, steps)]
    paces = _odd_paces(view)
    if not jumps and not paces:
        findings.append(view.finding("clock_steps", "PASS", "the clock runs evenly"))
        return Outcome(findings)
    if jumps:
        worst = max(jumps, key=lambda row: steps[row])
        findings.append(
            view.finding(
                "clock_steps", "WARNING",
                f"the clock leaps {len(jumps)} times, by {steps[worst]:.3f} s at {view.at(worst)}, "
                "while the joints move on by one step only; the stretches before and after are "
                "sound, do not replay across", value=steps[worst],
            )
        )  # fmt: skip
    if paces:
        first, last, ratio = max(paces, key=lambda pace: abs(np.log(pace[2])))
        findings.append(
            view.finding(
                "clock_steps",
                "WARNING",
                f"the stamps run {ratio:.3f} times as wide as elsewhere from {view.at(first)} to "
                f"{view.at(last)} (the worst of {len(paces)} stretches); cut these out or restamp",
                value=ratio,
            )
        )
    return Outcome(findings)


def rate(view: View) -> Outcome:
    """The true rate by the stamps, against what was stated."""
    steps = np.diff(view.log.time_s)[~view.breaks]
    mean = float(steps.mean())
    spread = 1.96 * float(steps.std()) / np.sqrt(len(steps)) / len(steps) ** 0.25
    true, low, high = 1.0 / mean, 1.0 / (mean + spread), 1.0 / max(mean - spread, 1e-9)
    numbers = {"value": true, "low": low, "high": high}
    stated = view.stated_rate_hz
    text = f"{true:.2f} rows a second by the stamps, which wander by {1e3 * steps.std():.2f} ms"
    if stated is None:
        return Outcome([view.finding("rate", "PASS", text, **numbers)])
    if abs(true / stated - 1.0) <= RATE_TOLERANCE:
        return Outcome([view.finding("rate", "PASS", f"{text}; {stated:g} stated", **numbers)])
    text = (
        f"the rate is {true:.2f} Hz by the stamps, not the {stated:g} Hz stated: after a minute "
        f"{60.0 * abs(true / stated - 1.0):.1f} s are lost; go by time_s"
    )
    return Outcome([view.finding("rate", "WARNING", text, **numbers)])


def _repeats(log: Log) -> np.ndarray:
    """(T,) bool: every measurement equals that of the row before.

    Nothing counts as repeated where all channels are so coarse that a robot at rest repeats them.
    """
    rows = len(log.time_s)
    channels = [log.joint_pos] + [log.fields[name] for name in MEASURED if name in log.fields]
    same: np.ndarray = np.ones(rows, dtype=bool)
    same[0] = False
    for array in channels:
        same[1:] &= (array[1:] == array[:-1]).all(axis=1)
    fine = any(len(np.unique(array[:, 0])) > 0.5 * (rows - same.sum()) for array in channels)
    return same if fine else np.zeros(rows, dtype=bool)


def _moved_on(view: View, row: int) -> bool:
    """True if from a row to the next the joints moved otherwise than in one usual step."""
    pos, last = view.log.joint_pos, len(view.log.time_s) - 1
    near = np.arange(max(row - 10, 0), min(row + 10, last))
    if "joint_vel" in view.log.fields:
        speed = view.joint_vel
        expected = 0.5 * (speed[near] + speed[near + 1]) * view.step_s
        miss = ((pos[near + 1] - pos[near] - expected) ** 2).sum(axis=1)
    else:
        miss = ((pos[near + 1] - pos[near]) ** 2).sum(axis=1)
    here = near == row
    return bool(miss[here][0] > 4.0 * np.median(miss[~here]))


def _gap_findings(view: View, gaps: list[int], steps: np.ndarray) -> list[Finding]:
    if not gaps:
        return [view.finding("gaps", "PASS", "no rows are missing")]
    worst = max(gaps, key=lambda row: steps[row])
    lost = sum(round(steps[row] / view.step_s) - 1 for row in gaps)
    text = (
        f"{lost} rows are missing in {len(gaps)} gaps, the longest of {1e3 * steps[worst]:.0f} ms "
        f"after {view.at(worst)}; no replay goes across them"
    )
    return [view.finding("gaps", "WARNING", text, value=steps[worst])]


def _odd_paces(view: View) -> list[tuple[int, int, float]]:
    """Stretches of a second or more with another step, as first row, last row and ratio."""
    steps = np.diff(view.log.time_s)
    steps = np.where(view.breaks, view.step_s, steps)
    width = max(10, round(0.5 / view.step_s))
    if len(steps) < 3 * width:
        return []
    total = np.concatenate([[0.0], np.cumsum(steps)])
    pace = (total[width:] - total[:-width]) / width / view.step_s
    odd = np.abs(np.log(pace)) > np.log(LONG_RATIO)
    found = []
    for first, last in spans(odd):
        mean = float(steps[first : last + width - 1].mean() / view.step_s)
        # One late row in a stretch is no other pace.
        middle = float(np.median(steps[first : last + width - 1]) / view.step_s)
        if abs(np.log(middle)) > 0.5 * np.log(LONG_RATIO):
            found.append((int(first), int(last + width - 1), mean))
    return found
