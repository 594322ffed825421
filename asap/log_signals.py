"""Channels that do not say what happened: stuck, saturated, coarse, copied.

findings, _ = stuck(view)               # a sensor that repeats itself while the joint moves
findings, _ = saturated(view)           # one that is cut off, and motors that are at their limit
findings, _ = target_copies(view)       # a target that is the measurement
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from asap.log_check_view import Finding, Outcome, View, listed
from asap.spans import spans

STUCK_S = 0.3
"""A fine channel that repeats itself for so long is stuck [s]."""

STUCK_MOVE = {"joint_pos": 0.03, "joint_vel": 0.3}
"""A coarse one is stuck if the joint moves on by this [rad], or at this speed [rad/s]."""

MAX_QUANTUM = {"joint_pos": 0.004, "joint_vel": 0.1, "imu_ang_vel_b": 0.1, "imu_lin_acc_b": 0.5}
"""Coarser steps than these drown the response in rounding [rad], [rad/s], [rad/s], [m/s^2]."""

STILL_S = 2.0
STILL_SPEED = 0.1
STILL_TARGET = 0.01
"""For so long slower than this, with targets within this: standing still [rad/s], [rad]."""

AT_LIMIT = 0.03
"""Torque so near its motor's limit is at it, as a share: drivers and descriptions round."""

_SENSORS = ("joint_pos", "joint_vel", "imu_ang_vel_b", "imu_lin_acc_b", "torque_est")


def stuck(view: View) -> Outcome:
    """Sensors that repeat one number although the robot moves."""
    findings = []
    for channel, array in _sensors(view):
        columns, longest = [], 0.0
        for column in np.flatnonzero(_longest_runs(array) * view.step_s > 0.5 * STUCK_S):
            run_s = _stuck_for(view, channel, int(column))
            if run_s > 0.0:
                columns.append(int(column))
                longest = max(longest, run_s)
        if columns:
            findings.append(_channel_finding(
                view, "stuck", channel, columns, longest,
                f"stands still to the last digit for up to {longest:.1f} s while the robot moves; "
                "leave that stretch or that joint out",
            ))  # fmt: skip
    return Outcome(findings or [view.finding("stuck", "PASS", "every sensor is alive")])


def saturated(view: View) -> Outcome:
    """Sensors whose largest or smallest number is reached again and again: cut off there.

    Torque that rests at what the robot's motor can give is no sensor at its end: such rows tell
    that the motor gave all, and that is said without alarm.
    """
    findings, spent = [], {}
    for channel, array in _sensors(view):
        columns, shares, apart = [], [], []
        for column in range(array.shape[1]):
            ends = _cut_ends(array[:, column])
            limit = _motor_limit(view, channel, column)
            if ends and all(_is_limit(end, limit) for end in ends):
                here = np.abs(array[:, column]) > (1.0 - AT_LIMIT) * limit
                spent[view.log.joint_names[column]] = float(here.mean())
            elif ends:
                columns.append(column)
                shares.append(max(ends.values()))
                name = view.log.joint_names[column] if np.isfinite(limit) else ""
                apart += [(name, end, limit) for end in ends if name and not _is_limit(end, limit)]
        if columns:
            text = _cut_off(max(shares), apart)
            findings.append(
                _channel_finding(view, "saturated", channel, columns, max(shares), text)
            )
    if spent:
        text, most = _at_limits(spent), max(spent.values())
        findings.append(view.finding("saturated", "PASS", text, joints=tuple(spent), value=most))
    return Outcome(findings or [view.finding("saturated", "PASS", "no sensor is at its end")])


def _cut_off(share: float, apart: list[tuple[str, float, float]]) -> str:
    """What to say of a channel; of torque with joints, ends and limits that do not agree."""
    text = f"is cut off at its largest or smallest value in up to {100.0 * share:.0f} % of the rows"
    if not apart:
        return f"{text}; widen the range of the sensor, or leave the joint out"
    name, end, limit = max(apart, key=lambda one: abs(abs(one[1]) - one[2]))
    return (
        f"{text}, {name} at {abs(end):.3g} Nm where the robot's description has a limit of "
        f"{limit:.3g} Nm: the estimate ends there, or the motor's limit is {abs(end) / limit:.2f} "
        "times what is described; find out which: widen the range, or set torque_limit"
    )


def _at_limits(spent: dict[str, float]) -> str:
    """What to say of motors that gave all, with shares of rows."""
    most = sorted(spent, key=lambda name: -spent[name])
    told = listed([f"{name} in {100.0 * spent[name]:.0f} % of the rows" for name in most])
    return (
        f"motors at their torque limit: {told}; that is no end of a sensor, but there the torque "
        "was cut off: a fit learns of the limit and not of gains"
    )


def quantised(view: View) -> Outcome:
    """Sensors that tell only coarse steps."""
    findings = []
    for channel, array in _sensors(view):
        if channel not in MAX_QUANTUM:
            continue
        steps = np.array([_quantum(array[:, column]) for column in range(array.shape[1])])
        columns = [int(c) for c in np.flatnonzero(steps > MAX_QUANTUM[channel])]
        if columns:
            findings.append(_channel_finding(
                view, "quantised", channel, columns, float(steps[columns].max()),
                f"comes in steps of {steps[columns].max():.3g}: rounded before it was logged; log "
                "all digits, or trust errors below that no further",
            ))  # fmt: skip
    return Outcome(findings or [view.finding("quantised", "PASS", "sensors are fine enough")])


def target_copies(view: View) -> Outcome:
    """Targets that are the measurement: then nothing is known of what was commanded."""
    target, pos = view.log.fields.get("joint_pos_target"), view.log.joint_pos
    rows = view.rows(before=3, after=3)
    if target is None or len(rows) < 20:
        return Outcome([])
    fine = _bend(pos, rows)
    moving = (pos[rows].std(axis=0) > 0.002) & (np.abs(fine).max(axis=0) > 1e-9)
    copied = np.zeros(pos.shape[1], dtype=bool)
    for lag in (-2, -1, 0, 1, 2):
        apart = np.std(target[rows] - pos[rows + lag], axis=0)
        rough = np.std(_bend(target, rows) - _bend(pos, rows + lag), axis=0)
        copied |= (apart < 0.05 * pos[rows].std(axis=0)) & (rough < 0.15 * np.std(fine, axis=0))
    copied &= moving
    if not copied.any():
        return Outcome([view.finding("target_copy", "PASS", "targets are no measurements")])
    names = view.names(np.flatnonzero(copied))
    text = (
        f"the target of {listed(names)} is a copy of the measured position, noise and all: what "
        "was commanded is not in the log; record the command"
    )
    return Outcome([view.finding("target_copy", "REFUSED", text, joints=names)])


def standing_still(view: View) -> Outcome:
    """Long stretches in which nothing happens: nothing to learn, and much weight in a mean."""
    width = max(3, round(0.2 / view.step_s))
    speed = np.abs(view.joint_vel)
    if "joint_vel" not in view.log.fields:
        speed = np.abs(_running_mean(view.joint_vel, width))
    slow = np.abs(_running_mean(np.abs(speed), width)).max(axis=1) < STILL_SPEED
    target = view.log.fields.get("joint_pos_target", view.log.joint_pos)
    steady = _running_range(target, width).max(axis=1) < STILL_TARGET
    runs = [(int(a), int(b)) for a, b in spans(slow & steady) if (b - a) * view.step_s >= STILL_S]
    if not runs:
        return Outcome([view.finding("standing_still", "PASS", "something happens all the time")])
    total = sum(b - a for a, b in runs) * view.step_s
    longest = max(runs, key=lambda run: run[1] - run[0])
    text = (
        f"the robot stands still for {total:.1f} s of {view.log.duration_s:.1f} s, longest from "
        f"{view.at(longest[0])} to {view.at(longest[1] - 1)}; leave that out of a fit"
    )
    return Outcome([view.finding("standing_still", "WARNING", text, value=total)])


def _sensors(view: View) -> Iterator[tuple[str, np.ndarray]]:
    """Measured channels by name, with columns."""
    for channel in _SENSORS:
        if channel == "joint_pos":
            yield channel, view.log.joint_pos
        elif channel in view.log.fields:
            yield channel, view.log.fields[channel]


def _channel_finding(
    view: View, name: str, channel: str, columns: list[int], value: float, text: str
) -> Finding:
    """A warning about some columns of a channel."""
    if channel.startswith("imu"):
        axes = ", ".join("xyz"[column] for column in columns)
        return view.finding(name, "WARNING", f"{channel} ({axes}) {text}", value=value)
    names = view.names(columns)
    told = f"{channel} of {listed(names)} {text}"
    return view.finding(name, "WARNING", told, joints=names, value=value)


def _longest_runs(array: np.ndarray) -> np.ndarray:
    """Longest run of one number in each column, in steps."""
    same = np.diff(array, axis=0) == 0.0
    rows = np.arange(1, len(same) + 1)[:, None]
    broken = np.maximum.accumulate(np.where(same, 0, rows), axis=0)
    longest: np.ndarray = np.where(same, rows - broken, 0).max(axis=0)
    return longest


def _stuck_for(view: View, channel: str, column: int) -> float:
    """How long a column repeats one number for no good reason [s]."""
    array = dict(_sensors(view))[channel][:, column]
    same = np.diff(array) == 0.0
    runs = spans(same)
    long = runs[(runs[:, 1] - runs[:, 0]) * view.step_s >= 0.5 * STUCK_S]
    fine = len(np.unique(array)) > 0.3 * len(array)
    # A channel that never repeats itself otherwise needs no other witness.
    elsewhere = float(same.sum() - (long[:, 1] - long[:, 0]).sum()) / len(same)
    longest = 0.0
    for first, last in long:
        length = float((last - first) * view.step_s)
        at_end = array[first] in (array.min(), array.max()) and length < 3.0 * STUCK_S
        if length < STUCK_S or _is_limit(array[first], _motor_limit(view, channel, column)):
            continue  # a motor that gives all gives the same
        alone = fine and elsewhere < 0.02 and not at_end
        if alone or _moves_meanwhile(view, channel, column, first, last + 1):
            longest = max(longest, length)
    return longest


def _moves_meanwhile(view: View, channel: str, column: int, first: int, last: int) -> bool:
    """True if the other channels of a joint say that it moved while this one stood still."""
    if channel == "joint_pos" and "joint_vel" in view.log.fields:
        speed = view.log.fields["joint_vel"][first:last, column]
        way = np.cumsum(speed) * view.step_s
        # A velocity may be off by a little for long.
        slack = 0.05 * (last - first) * view.step_s
        return bool(np.ptp(way) > STUCK_MOVE["joint_pos"] + slack)
    if channel == "joint_vel":
        pos = view.log.joint_pos[first:last, column]
        held = view.log.fields["joint_vel"][first, column]
        seconds = (last - 1 - first) * view.step_s
        return bool(abs((pos[-1] - pos[0]) / seconds - held) > STUCK_MOVE["joint_vel"])
    return False


def _cut_ends(array: np.ndarray) -> dict[float, float]:
    """The smallest and largest number, where a column is cut off there, and the share of rows."""
    values, counts = np.unique(array, return_counts=True)
    if len(values) < 0.3 * len(array):
        return {}  # coarse: an end is often reached
    ends = {}
    for here, beside in ((0, slice(1, 4)), (-1, slice(-4, -1))):
        at_end = array == values[here]
        # Not one long run (that is a stuck sensor), and far more than at the numbers beside.
        repeats = int((at_end[1:] & at_end[:-1]).sum())
        if counts[here] >= 5 and repeats >= 3 and counts[here] > 3 * counts[beside].max():
            ends[float(values[here])] = float(counts[here]) / len(array)
    return ends


def _motor_limit(view: View, channel: str, column: int) -> float:
    """What the motor behind a column of torques can give [Nm]; inf where that is not known."""
    name = view.log.joint_names[column] if channel == "torque_est" else ""
    if view.robot is None or name not in view.robot.joint_names:
        return np.inf
    return float(view.robot.torque_limit[view.robot.joint_names.index(name)])


def _is_limit(end: float, limit: float) -> bool:
    """Whether a number is the torque limit, of either sign."""
    return bool(np.isfinite(limit)) and abs(abs(end) - limit) <= AT_LIMIT * limit


def _quantum(array: np.ndarray) -> float:
    """The step of a column that takes few values; 0 for a fine one."""
    values = np.unique(array)
    if len(values) < 2 or len(values) > 0.2 * len(array):
        return 0.0
    steps = np.diff(values)
    # Rounding in single precision splits a value in two.
    steps = steps[steps > 1e-3 * np.median(steps)]
    return float(np.median(steps[steps < 1.5 * np.percentile(steps, 10)]))


def _bend(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Second differences: noise, mostly."""
    bent: np.ndarray = array[rows + 1] - 2.0 * array[rows] + array[rows - 1]
    return bent


def _running_mean(array: np.ndarray, width: int) -> np.ndarray:
    """Mean over ``width`` rows around each."""
    padded = np.concatenate([array[:1].repeat(width // 2, 0), array,
                             array[-1:].repeat(width - width // 2, 0)])  # fmt: skip
    total = np.cumsum(padded, axis=0)
    mean: np.ndarray = (total[width:] - total[:-width]) / width
    return mean


def _running_range(array: np.ndarray, width: int) -> np.ndarray:
    """Difference between a row and the one ``width`` rows on, the ends held."""
    places = np.arange(len(array))
    after = np.minimum(places + width, len(array) - 1)
    change: np.ndarray = np.abs(array[after] - array)
    return change
