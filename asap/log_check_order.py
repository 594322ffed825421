"""Are the columns of a log the joints that they say, and with the sign that they say?

Two witnesses: velocities must be the derivative of positions, and targets must lead to the
velocities that follow, by one step of simulation. A swapped or flipped joint breaks one of them.
Which channel is wrong is decided by the simulation under each possible repair; where none stands
out, the log is refused and the joints are named. Joints that hardly move cannot be judged: those
are named too.

    findings, repaired = joint_order(view)                  # swapped_joints, flipped_joint
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from asap.log_check_step import Ahead, joint_columns, one_step_ahead
from asap.log_check_swaps import CHANNELS, Change, Trials, Worth, not_told_apart
from asap.log_check_view import Finding, Outcome, View, listed

LEAD = 60.0
"""By how much another order must make velocities the derivative (twice log likelihood)."""

SIDE_LEAD = 60.0
"""By how much one repair must lead the others to be made (twice log likelihood)."""

_NOISE = 0.04
"""Differences between velocity and derivative below this are noise [rad/s]."""

_MOST_REPAIRS = 4

_MIN_ROWS = 100
"""Of a shorter log too little is seen to hold it against a model: two seconds of a fall of a real
robot looked like swapped ankles, which its other logs do not."""


_Worths = dict[tuple[Change, tuple[str, ...]], Worth]
"""Of changes, each made in some channels."""


class _Found(NamedTuple):
    """A change that explains a log, and where it belongs."""

    change: Change
    channels: tuple[str, ...]
    """Empty where the log does not tell"""
    lead: float
    """Over the next best explanation (twice log likelihood)"""
    rival: Change | None
    """Which other change explains nearly as much"""


def joint_order(view: View) -> Outcome:
    """Swapped and flipped joints, repaired where it is certain which channel is wrong."""
    findings: list[Finding] = []
    start, mended = view.log, set[int]()
    for _ in range(_MOST_REPAIRS):
        ahead = one_step_ahead(view) if len(view.log.time_s) >= _MIN_ROWS else None
        found = _change(view, ahead, mended)
        # One defect a joint: what seems to be left of it after a repair is the repair's own doing.
        if found is None or mended.intersection(found.change.columns):
            break
        mended.update(found.change.columns)
        findings.append(_told(view, found))
        if not found.channels:
            break
        view = view.with_log(found.change.made(view.log, found.channels))
    told = bool(findings)
    findings += _range_findings(view)
    if not told and (ahead or "joint_vel" in view.log.fields):
        findings.append(_in_order(view, ahead))
    return Outcome(findings, None if view.log is start else view.log)


def _change(view: View, ahead: Ahead | None, mended: set[int]) -> _Found | None:
    """What must change, and in which channels, for all witnesses to agree."""
    slope = _velocity_change(view)
    if ahead is None:
        return None if slope is None else _Found(slope, (), 0.0, None)
    trials = Trials(view, ahead)
    worths: _Worths = {}
    if slope is not None:
        for channels in CHANNELS:
            if _velocity_change(view.with_log(slope.made(view.log, channels))) != slope:
                worths[slope, channels] = trials.worth(slope, channels)
        return _settled(worths) if worths else _Found(slope, (), 0.0, None)
    for change in trials.likely(mended):
        for channels in CHANNELS[:2]:
            worths[change, channels] = trials.worth(change, channels)
    best = _best_of(worths)
    if best is None or not worths[best].believed:
        return None
    # What helps may be half of the truth: either joint with every other one, before it is called.
    for change in trials.rivals(best[0], mended):
        worths[change, best[1]] = trials.worth(change, best[1])
    change, _ = _best_of(worths) or best
    # Of a joint at rest one channel alone may be wrong, and speeds do not say so.
    for channels in CHANNELS:
        if (change, channels) not in worths and (
            channels in CHANNELS[:2]
            or _velocity_change(view.with_log(change.made(view.log, channels))) is None
        ):
            worths[change, channels] = trials.worth(change, channels)
    return _settled(worths)


def _best_of(worths: _Worths) -> tuple[Change, tuple[str, ...]] | None:
    """What leads most, if anything was tried."""
    return max(worths, key=lambda one: worths[one].lead, default=None)


def _settled(worths: _Worths) -> _Found:
    """The best explanation, if none of the others comes near."""
    ranked = sorted(worths, key=lambda one: -worths[one].lead)
    change, channels = ranked[0]
    lead = worths[ranked[0]].lead - (worths[ranked[1]].lead if len(ranked) > 1 else -np.inf)
    if lead > SIDE_LEAD:
        return _Found(change, channels, lead, None)
    near = [one for one in ranked[1:] if worths[ranked[0]].lead - worths[one].lead <= SIDE_LEAD]
    rivals = [other for other, _ in near if other != change]
    return _Found(change, (), lead, rivals[0] if rivals else None)


def _told(view: View, found: _Found) -> Finding:
    """A change in words: repaired, or refused."""
    name = "flipped_joint" if found.change.second is None else "swapped_joints"
    joints, told = view.names(found.change.columns), _words(view, found.change)
    if found.channels:
        has = [c for c in found.channels if c == "joint_pos" or c in view.log.fields]
        text = f"{told} in {listed(has)}; with that undone all channels agree: repaired"
        return view.finding(name, "REPAIRED", text, joints=joints,
                            value=None if np.isinf(found.lead) else found.lead)  # fmt: skip
    rival = f", or {_words(view, found.rival)}" if found.rival is not None else ""
    text = (
        f"{told} in some channels and not in others{rival}, and the log does not tell in which; "
        "look it up in the logger and mend the file"
    )
    return view.finding(name, "REFUSED", text, joints=joints)


def _words(view: View, change: Change) -> str:
    what = "has its sign turned" if change.second is None else "are swapped"
    return f"{' and '.join(view.names(change.columns))} {what}"


def _in_order(view: View, ahead: Ahead | None) -> Finding:
    """That nothing is wrong, and of which joints that cannot be said."""
    if ahead is None:
        text = "positions and velocities are in one order and of one sign"
        return view.finding("joint_order", "PASS", text)
    text = "targets, positions and velocities are in one order and of one sign"
    pairs, turns = not_told_apart(ahead)
    untested = tuple(view.names(columns) for columns in (*pairs, *((one,) for one in turns)))
    if pairs:
        shown = [" and ".join(view.names(pair)) for pair in pairs]
        text += f"; not testable here: whether targets of {listed(shown)} are swapped"
    if turns:
        text += f"; not testable here: the sign of {listed(view.names(turns))}"
    if untested:
        text += "; they hardly move, or do the same: record a motion that moves each by itself"
    return view.finding("joint_order", "PASS", text, untested=untested)


def _velocity_change(view: View) -> Change | None:
    """What must change for velocities to be the derivative of positions."""
    if "joint_vel" not in view.log.fields:
        return None
    rows = view.rows(before=1, after=1)
    if len(rows) < 20:
        return None
    pos, vel = view.log.joint_pos, view.log.fields["joint_vel"][rows]
    slope = (pos[rows + 1] - pos[rows - 1]) / (2.0 * view.step_s)
    cross = vel.T @ slope
    power = (vel**2).sum(axis=0)[:, None] + (slope**2).sum(axis=0)[None, :]
    # Neighbouring rows share noise: four of them count as one.
    count = len(rows) / 4.0
    miss = np.log((power - 2.0 * cross) / len(rows) + _NOISE**2)
    turned = np.log((power + 2.0 * cross) / len(rows) + _NOISE**2)
    own = np.diag(miss)
    swap = count * (own[:, None] + own[None, :] - miss - miss.T)
    flip = count * (own - np.diag(turned))
    return _best(swap, flip)


def _best(swap: np.ndarray, flip: np.ndarray) -> Change | None:
    """The change that explains most, if it explains enough."""
    a, b = np.unravel_index(int(swap.argmax()), swap.shape)
    if max(swap.max(), flip.max()) < LEAD:
        return None
    if flip.max() >= swap.max():
        return Change(int(flip.argmax()))
    return Change(int(min(a, b)), int(max(a, b)))


def _range_findings(view: View) -> list[Finding]:
    """Joints that are measured far outside of what the robot can reach."""
    columns, robot = joint_columns(view), view.robot
    if columns is None or robot is None:
        return []
    pos = view.log.joint_pos[:, columns]
    beyond = np.maximum(robot.joint_pos_lower - pos, pos - robot.joint_pos_upper)
    bad = np.flatnonzero((beyond > 0.1).mean(axis=0) > 0.05)
    if not bad.size:
        return []
    names = view.names(columns[bad])
    worst = float(beyond.max())
    text = (
        f"{listed(names)} are measured up to {worst:.2f} rad beyond the robot's range: another "
        "order, sign, zero or unit than the robot's description"
    )
    return [view.finding("joint_range", "WARNING", text, joints=names, value=worst)]
