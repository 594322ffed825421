"""Channels that do not say what happened: stuck, saturated, coarse, copied; and motors that change.

findings, _ = stuck(view)               # a sensor that repeats itself while the joint moves
findings, _ = target_copies(view)       # a target that is the measurement
findings, _ = gain_changes(view)        # motors that answer more weakly from some time on
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from asap.log_check_step import one_step_ahead
from asap.log_check_view import Finding, Outcome, View, listed, spans

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

MIN_GAIN_RATIO = 1.15
"""A smaller change of the motors' answer is not told from contacts and loads."""

MIN_CERTAINTY, MIN_AGREE = 10.0, 0.7
"""A change must be so many standard errors, and by weight this share of the joints must go its way:
friction alone has made more than ten, but of small changes; and not in all joints alike."""

SAME_TARGET = 1e-6
SETTLED_S, SIDE_S = 1.0, 0.5
"""Targets that change by less stand still [rad]; joints have settled after this, and are looked at
for so long at either end [s]."""

MIN_SAG, MIN_SAG_RATIO = 0.01, 1.25
"""Closer to its target a joint bears no load worth naming [rad]; friction holds joints a little
apart from one time to the next, not all of them by a quarter."""

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
    """Sensors whose largest or smallest number is reached again and again: cut off there."""
    findings = []
    for channel, array in _sensors(view):
        columns, most = [], 0.0
        for column in range(array.shape[1]):
            share = _share_at_ends(array[:, column])
            if share > 0.0:
                columns.append(column)
                most = max(most, share)
        if columns:
            findings.append(_channel_finding(
                view, "saturated", channel, columns, most,
                f"is cut off at its largest or smallest value in up to {100.0 * most:.0f} % of the "
                "rows; widen the range of the sensor, or leave the joint out",
            ))  # fmt: skip
    return Outcome(findings or [view.finding("saturated", "PASS", "no sensor is at its end")])


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


def gain_changes(view: View) -> Outcome:
    """Motors that are told, or seen, to answer with other gains from some time on."""
    for channel in ("stiffness", "damping"):
        array = view.log.fields.get(channel)
        if array is None or array.ndim != 2:
            continue
        low, high = array.min(axis=0), array.max(axis=0)
        columns = np.flatnonzero(high > 1.01 * low + 1e-9)
        if columns.size:
            row = int((np.diff(array[:, columns], axis=0) != 0.0).any(axis=1).argmax()) + 1
            names = view.names(columns)
            text = (
                f"{channel} of {listed(names)} changes at {view.at(row)}; replay and fit go by the "
                "gains in force, and no window goes across the change"
            )
            ratio = float((high[columns] / np.maximum(low[columns], 1e-9)).max())
            return Outcome([view.finding("gain_change", "WARNING", text, joints=names,
                                         value=ratio)])  # fmt: skip
    sunk = _sunk(view)
    return _seen_gains(view) if sunk is None else Outcome([sunk])


def _sunk(view: View) -> Finding | None:
    """Joints that sink under their load, or rise, while every target stands still.

    A motor holds a load at ``load / stiffness`` from its target. Where load and target stay as
    they are and the distance grows, the stiffness fell: a robot that only stands tells no more.
    """
    target = view.log.fields.get("joint_pos_target")
    if target is None:
        return None
    fixed = ~view.breaks & (np.abs(np.diff(target, axis=0)) < SAME_TARGET).all(axis=1)
    settle = max(1, round(SETTLED_S / view.step_s))
    for first, last in spans(fixed):
        rows = slice(first + settle, last + 1)
        found = _sag_change(view, int(rows.start), np.abs(target[rows] - view.log.joint_pos[rows]))
        if found is not None:
            return found
    return None


def _sag_change(view: View, first: int, sag: np.ndarray) -> Finding | None:
    """Whether distances (n, J) from targets that stand still, from a row on, change."""
    side = max(1, round(SIDE_S / view.step_s))
    if len(sag) < 2 * side:
        return None
    before, after = np.median(sag[:side], axis=0), np.median(sag[-side:], axis=0)
    loaded = np.maximum(before, after) > MIN_SAG
    change = np.abs(after - before) * loaded
    ratio = float((after @ loaded + 1e-9) / (before @ loaded + 1e-9))
    changed = int((change > 0.5 * MIN_SAG).sum())
    if changed < 2 or max(ratio, 1.0 / ratio) < MIN_SAG_RATIO:
        return None
    worst = np.argsort(-change)[: min(3, changed)]
    half = 0.5 * (before + after)[worst[0]]
    row = first + int(((sag[:, worst[0]] > half) == (after > before)[worst[0]]).argmax())
    names = view.names(worst)
    text = (
        f"while all targets stand still loaded joints come to stand {ratio:.2f} times as far from "
        f"them, from {view.at(row)}, most of all {listed(names)}: motors became "
        f"{'weaker' if ratio > 1.0 else 'stronger'}, or a load changed, and no recorded gain says "
        "so; split the log there and fit the parts apart"
    )
    return view.finding("gain_change", "WARNING", text, joints=names, value=1.0 / ratio)


def _seen_gains(view: View) -> Outcome:
    """The share of its torque with which each motor answers, before and after the best split."""
    ahead = one_step_ahead(view)
    if ahead is None:
        return Outcome([])
    apart = ahead.target - view.log.joint_pos[ahead.rows][:, ahead.columns]
    pull = np.einsum("wkl,wl->wk", ahead.effect, apart)
    rest = ahead.vel - ahead.predicted
    count = len(ahead.rows)
    best, at, ratio, agree, finest = 0.0, 0, 1.0, 0.0, np.inf
    for split in range(count // 5, count - count // 5 + 1, max(1, count // 40)):
        before, after = _slopes(pull[:split], rest[:split]), _slopes(pull[split:], rest[split:])
        weight = 1.0 / (before[1] ** 2 + after[1] ** 2)
        changes = after[0] - before[0]
        change = float((weight * changes).sum() / weight.sum())
        error = 1.0 / float(np.sqrt(weight.sum()))
        finest = min(finest, MIN_CERTAINTY * error)
        if abs(change) / error > best:
            usual = float((weight * before[0]).sum() / weight.sum())
            best, at = abs(change) / error, split
            ratio = (1.0 + usual + change) / max(1.0 + usual, 0.05)
            agree = float(weight[changes * change > 0.0].sum() / weight.sum())
    odd = max(ratio, 1.0 / max(ratio, 0.01))
    if odd < MIN_GAIN_RATIO or best < MIN_CERTAINTY or agree < MIN_AGREE:
        seen = 100.0 * max(finest, MIN_GAIN_RATIO - 1.0)
        text = "motors answer alike from beginning to end; "
        text += (
            f"a change of them all by less than {seen:.0f} % would not be seen here"
            if seen < 50.0
            else "not testable here: they hardly move, only their failing would be seen"
        )
        return Outcome([view.finding("gain_change", "PASS", text, value=ratio)])
    text = (
        f"from about {view.at(int(ahead.rows[at]))} motors answer {ratio:.2f} times as strongly as "
        "before, and no recorded gain says so; split the log there and fit the parts apart"
    )
    return Outcome([view.finding("gain_change", "WARNING", text, value=ratio)])


def _slopes(pull: np.ndarray, rest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How much of the pull (W, J) is in what prediction left over, and its standard error (J,)."""
    pull, rest = pull - pull.mean(axis=0), rest - rest.mean(axis=0)
    power = (pull**2).sum(axis=0) + 1e-6
    slope = (pull * rest).sum(axis=0) / power
    noise = np.sqrt(((rest - slope * pull) ** 2).mean(axis=0) + 0.03**2)
    return slope, noise / np.sqrt(power)


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
        if length < STUCK_S:
            continue
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


def _share_at_ends(array: np.ndarray) -> float:
    """Share of rows at the largest or smallest number, if they are cut off there; else 0."""
    values, counts = np.unique(array, return_counts=True)
    if len(values) < 0.3 * len(array):
        return 0.0  # coarse: an end is often reached
    share = 0.0
    for here, beside in ((0, slice(1, 4)), (-1, slice(-4, -1))):
        at_end = array == values[here]
        # Not one long run (that is a stuck sensor), and far more than at the numbers beside.
        repeats = int((at_end[1:] & at_end[:-1]).sum())
        if counts[here] >= 5 and repeats >= 3 and counts[here] > 3 * counts[beside].max():
            share = max(share, counts[here] / len(array))
    return share


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
