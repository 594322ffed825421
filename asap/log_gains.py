"""Motors that answer with other gains from some time on, told in the log or not.

findings, _ = gain_changes(view)        # recorded, seen in what follows a target, or in sagging
"""

from __future__ import annotations

import numpy as np

from asap.log_check_step import one_step_ahead
from asap.log_check_view import Finding, Outcome, View, listed
from asap.spans import spans

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
    found = _sunk(view) or _only_stood(view)
    return _seen_gains(view) if found is None else Outcome([found])


def _only_stood(view: View) -> Finding | None:
    """What is said of a log without a change of targets: nothing answers to anything in it."""
    target = view.log.fields.get("joint_pos_target")
    if target is None or np.ptp(target, axis=0).max() >= SAME_TARGET:
        return None
    text = (
        "no target changes, and loaded joints keep their distance from theirs; a change of them "
        f"all by less than {100.0 * (MIN_SAG_RATIO - 1.0):.0f} % would not be seen here"
    )
    return view.finding("gain_change", "PASS", text)


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
