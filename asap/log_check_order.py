"""Are the columns of a log the joints that they say, with the sign and the meaning that they say?

Three witnesses: velocities must be the derivative of positions; targets must lead to the
velocities that follow, by one step of simulation; actions must make the targets. A swapped or
flipped joint breaks one or two of them. Which channel is wrong is decided by the simulation under
each possible repair; where none stands out, the log is refused and the joints are named.

    findings, repaired = joint_order(view)                  # swapped_joints, flipped_joint
    findings, repaired = action_convention(view)            # raw, scaled, absolute
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from asap.log_check_step import ROWS, Ahead, badness, joint_columns, one_step_ahead
from asap.log_check_view import Finding, Outcome, View, listed, with_channels
from asap_deploy.log import Log

LEAD = 60.0
"""By how much another order must explain the log better (twice log likelihood)."""

SIDE_LEAD = 60.0
"""By how much one repair must lead the others to be made (twice log likelihood)."""

MAX_MISS = 0.5
"""Rebuilt targets must not miss the next velocities by more than this [rad/s]."""

_NOISE = 0.04
"""Differences between velocity and derivative below this are noise [rad/s]."""

_OFFSET = 0.01
"""Standard deviation of offsets that encoders and dead bands make [rad]."""

_TARGET_LEAD = 40.0
"""As ``LEAD``, where such offsets are part of the likelihood."""

_SUSPECTS, _MISSED = 6, 0.3
"""So many joints, if their next velocities are missed by more, are tried with the other sign and
in each other's place [rad/s]."""

_MOST_REPAIRS = 4
_CHANNELS = (
    ("joint_pos_target", "action"),
    ("joint_pos", "joint_vel", "torque_est"),
    ("joint_pos",),
    ("joint_vel",),
)
"""What may have been written in another order or with another sign than the rest."""


class _Change(NamedTuple):
    """Two columns exchanged, or one with its sign turned."""

    first: int
    second: int | None = None

    @property
    def columns(self) -> list[int]:
        return [self.first] if self.second is None else [self.first, self.second]

    def of(self, array: np.ndarray) -> np.ndarray:
        """The change made to (..., J)."""
        changed = array.copy()
        if self.second is None:
            changed[..., self.first] *= -1.0
        else:
            changed[..., self.columns] = array[..., self.columns[::-1]]
        return changed


def joint_order(view: View) -> Outcome:
    """Swapped and flipped joints, repaired where it is certain which channel is wrong."""
    findings: list[Finding] = []
    start, mended = view.log, set[int]()
    for _ in range(_MOST_REPAIRS):
        ahead = one_step_ahead(view)
        change = _velocity_change(view)
        if change is None and ahead is not None:
            change = _target_change(view, ahead) or _measured_change(view, ahead)
        # One defect a joint: what seems to be left of it after a repair is the repair's own doing.
        if not change or mended.intersection(change.columns):
            break
        mended.update(change.columns)
        finding, log = _settle(view, change, ahead)
        findings.append(finding)
        if log is None:
            break
        view = view.with_log(log)
    findings += _range_findings(view)
    if not any(f.name in ("swapped_joints", "flipped_joint") for f in findings):
        judged = "targets, positions and velocities" if ahead else "positions and velocities"
        if ahead or "joint_vel" in view.log.fields:
            text = f"{judged} are in one order and of one sign"
            findings.append(view.finding("joint_order", "PASS", text))
    return Outcome(findings, None if view.log is start else view.log)


def action_convention(view: View) -> Outcome:
    """What ``action`` and ``joint_pos_target`` mean, and targets rebuilt from actions."""
    log, robot = view.log, view.robot
    target, action = log.fields.get("joint_pos_target"), log.fields.get("action")
    if target is None and action is None:
        text = "neither targets nor actions are recorded: nothing can be replayed or fitted"
        return Outcome([view.finding("action_convention", "REFUSED", text)])
    given = target if target is not None else action
    assert given is not None
    if joint_columns(view) is None or robot is None or given.shape != log.joint_pos.shape:
        return _without_robot(view, target, action)
    if target is None:
        return _from_actions(view, given)
    ahead = one_step_ahead(view)
    if ahead is None:
        return _without_robot(view, target, action)
    meanings = _meanings(view, given)
    scores = {
        name: badness(ahead.error(array[ahead.rows][:, ahead.columns]))
        for name, array in meanings.items()
    }
    best = min(scores, key=lambda name: scores[name])
    if scores["absolute"] - scores[best] < 4.0 * LEAD:
        return _without_robot(view, target, action)
    return _rebuilt(view, given, best, "joint_pos_target holds")


def _from_actions(view: View, action: np.ndarray) -> Outcome:
    """Targets that were not recorded, from actions, by what one step of simulation says."""
    meanings = _meanings(view, action)
    tries = {
        name: one_step_ahead(view, target=array, effects=False) for name, array in meanings.items()
    }
    found = {name: ahead for name, ahead in tries.items() if ahead is not None}
    if len(found) < len(tries):
        return _without_robot(view, None, action)
    scores = {name: badness(a.error(a.target)) for name, a in found.items()}
    ranked = sorted(scores, key=lambda name: scores[name])
    error = found[ranked[0]].error(found[ranked[0]].target)
    off = float(np.median(np.abs(error).mean(axis=0)))
    if scores[ranked[1]] - scores[ranked[0]] < LEAD or off > MAX_MISS:
        text = (
            f"targets are not recorded and cannot be rebuilt from actions: read as {ranked[0]} "
            f"they miss the next velocities by {off:.2f} rad/s; record joint_pos_target"
        )
        return Outcome([view.finding("action_convention", "REFUSED", text, value=off)])
    return _rebuilt(view, action, ranked[0], "targets are not recorded; action holds")


def _meanings(view: View, given: np.ndarray) -> dict[str, np.ndarray]:
    """What a channel of numbers may mean as targets (T, J) [rad]."""
    assert view.robot is not None
    columns = joint_columns(view)
    default, scale = np.zeros(given.shape[1]), np.ones(given.shape[1])
    default[columns], scale[columns] = view.robot.default_joint_pos, view.robot.action_scale
    return {
        "absolute": given,
        "scaled": default + given,
        "raw": default + scale * given,
    }


def _rebuilt(view: View, given: np.ndarray, meaning: str, what: str) -> Outcome:
    """The log with targets in radians."""
    words = {
        "absolute": "absolute targets",
        "scaled": "scaled actions, target = default + action",
        "raw": "raw actions, target = default + scale * action",
    }[meaning]
    text = f"{what} {words}: so read it explains the next velocities best; targets were rebuilt"
    target = _meanings(view, given)[meaning]
    log = with_channels(view.log, joint_pos_target=target)
    return Outcome([view.finding("action_convention", "REPAIRED", text)], log)


def _without_robot(view: View, target: np.ndarray | None, action: np.ndarray | None) -> Outcome:
    """How actions and targets go together, by themselves."""
    if target is None:
        text = "targets are not recorded; give the robot, so that they can be rebuilt from actions"
        return Outcome([view.finding("action_convention", "WARNING", text)])
    if action is None or action.shape != target.shape:
        return Outcome([])
    rows = view.rows(before=2, after=2)
    if len(rows) < 20:
        return Outcome([])
    bent, given = _bend(target, rows), _bend(action, rows)
    power = (given**2).sum(axis=0)
    live = power > 1e-6 * len(rows) * max(float(action.std()) ** 2, 1e-12)
    if not live.any():
        return Outcome([])
    slope = ((bent * given).sum(axis=0) / np.maximum(power, 1e-300))[live]
    rest = 1.0 - slope**2 * power[live] / np.maximum((bent[:, live] ** 2).sum(axis=0), 1e-300)
    if np.median(rest) > 0.5:
        text = (
            "targets do not follow from the actions beside them; something between (a filter, a "
            "limit, another row) is not recorded; replay targets, not actions"
        )
        return Outcome([view.finding("action_convention", "WARNING", text, value=np.median(rest))])
    if np.abs(action - target).mean() < 1e-3:
        text = "actions are the targets themselves"
    elif np.abs(slope - 1.0).max() < 0.02:
        text = "actions are scaled: target = offset + action"
    else:
        text = (
            f"actions are raw: target = offset + scale * action, scale {slope.min():.3g} to "
            f"{slope.max():.3g} rad"
        )
    return Outcome([view.finding("action_convention", "PASS", text)])


def _velocity_change(view: View) -> _Change | None:
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


def _target_change(view: View, ahead: Ahead) -> _Change | None:
    """What must change for targets to lead to the velocities that follow.

    Encoders that are a little off and motors with a dead band move a joint's level as a swap of
    two joints at rest would. So every order may have small offsets of its own.
    """
    error, target, effect = ahead.error(ahead.target), ahead.target, ahead.effect
    scored, joints = _Offsets(effect, error), target.shape[1]
    usual = scored.badness(error)
    swap, flip = np.zeros((joints, joints)), np.zeros(joints)
    for a, b in itertools.combinations(range(joints), 2):
        leap = target[:, b] - target[:, a]
        change = leap[:, None] * (effect[:, :, a] - effect[:, :, b])
        swap[a, b] = swap[b, a] = usual - scored.badness(error - change)
    for a in range(joints):
        flip[a] = usual - scored.badness(error + 2.0 * target[:, a, None] * effect[:, :, a])
    found = _best(swap, flip, least=_TARGET_LEAD)
    return None if found is None else _simulated(view, ahead, found, swap)


def _simulated(view: View, ahead: Ahead, found: _Change, swap: np.ndarray) -> _Change | None:
    """The best of the likely changes, each simulated.

    A joint that seems to be two radians from its target makes all the torque that it can: then a
    small change of the target does nothing, and what a large one does must be tried.
    """
    error = ahead.error(ahead.target)
    suspects = {*found.columns, *np.argsort(-np.mean(error**2, axis=0))[:3].tolist()}
    pairs = np.argsort(-np.triu(swap), axis=None)[:3]
    likely = [found, *(_Change(int(a)) for a in suspects)]
    likely += [_Change(int(p) // len(swap), int(p) % len(swap)) for p in pairs]
    target, scores = view.log.fields["joint_pos_target"], {}
    for change in dict.fromkeys(likely):
        columns = [int(ahead.columns[c]) for c in change.columns]
        mended = _Change(*columns).of(target)
        after = one_step_ahead(view, target=mended, effects=False, sinks_m=(ahead.sink_m,))
        if after is not None:
            worth = badness(after.error(after.target)) * ROWS / len(after.rows)
            scores[_Change(*columns)] = worth
    usual = badness(error) * ROWS / len(ahead.rows)
    best = min(scores, key=lambda change: scores[change], default=None)
    return best if best is not None and usual - scores[best] > LEAD else None


def _measured_change(view: View, ahead: Ahead) -> _Change | None:
    """What must change in the measurements for the log to be explained.

    A leg that is measured with a wrong sign stands on the floor where it does not, and then no
    change of its target explains anything. So signs of the joints that are farthest off are tried,
    and where one helps, swaps among them, which must help clearly more.
    """
    size = np.sqrt(np.mean(ahead.error(ahead.target) ** 2, axis=0))
    usual = badness(ahead.error(ahead.target)) * ROWS / len(ahead.rows)
    order = np.argsort(-size)[:_SUSPECTS]
    suspects = [int(ahead.columns[joint]) for joint in order if size[joint] > _MISSED]

    def worth(change: _Change, channels: Sequence[str] = _CHANNELS[1]) -> float:
        mended = view.with_log(_changed(view.log, channels, change))
        after = one_step_ahead(mended, effects=False, sinks_m=(ahead.sink_m,))
        return np.inf if after is None else badness(after.error(after.target)) * ROWS / len(
            after.rows
        )  # fmt: skip

    flips = {change: worth(change) for change in map(_Change, suspects)}
    best = min(flips, key=lambda change: flips[change], default=None)
    if best is None or usual - flips[best] < LEAD:
        return None
    pairs = [_Change(min(a, b), max(a, b)) for a, b in itertools.combinations(suspects, 2)]
    swaps = {pair: min(worth(pair), worth(pair, _CHANNELS[0])) for pair in pairs}
    pair = min(swaps, key=lambda change: swaps[change], default=None)
    return pair if pair is not None and flips[best] - swaps[pair] > LEAD else best


class _Offsets:
    """Badness of errors after the best small offsets of targets, which cost something too."""

    def __init__(self, effect: np.ndarray, error: np.ndarray) -> None:
        joints = effect.shape[1]
        scale = np.sqrt(np.mean(np.minimum(error**2, 1.0), axis=0) + _NOISE**2)
        self._effect = effect.reshape(-1, joints)
        weighted = (effect / scale[:, None] ** 2).reshape(-1, joints)
        normal = self._effect.T @ weighted + np.eye(joints) / _OFFSET**2
        self._solve = np.linalg.solve(normal, weighted.T)

    def badness(self, error: np.ndarray) -> float:
        """For errors (W, J) [rad/s]."""
        offset = self._solve @ error.reshape(-1)
        left = error - (self._effect @ offset).reshape(error.shape)
        return badness(left) + float(((offset / _OFFSET) ** 2).sum())


def _best(swap: np.ndarray, flip: np.ndarray, *, least: float = LEAD) -> _Change | None:
    """The change that explains most, if it explains enough."""
    a, b = np.unravel_index(int(swap.argmax()), swap.shape)
    if max(swap.max(), flip.max()) < least:
        return None
    if flip.max() >= swap.max():
        return _Change(int(flip.argmax()))
    return _Change(int(min(a, b)), int(max(a, b)))


def _settle(view: View, change: _Change, ahead: Ahead | None) -> tuple[Finding, Log | None]:
    """In which channels the change belongs, by simulating one step with each repair."""
    name = "flipped_joint" if change.second is None else "swapped_joints"
    joints = view.names(change.columns)
    what = "has its sign turned" if change.second is None else "are swapped"
    told = f"{' and '.join(joints)} {what}"
    options: dict[Sequence[str], float] = {}
    for channels in _CHANNELS if ahead is not None else ():
        repaired = view.with_log(_changed(view.log, channels, change))
        if _velocity_change(repaired) == change:
            continue
        after = one_step_ahead(repaired, effects=False)
        if after is not None:
            options[channels] = badness(after.error(after.target)) * ROWS / len(after.rows)
    ranked = sorted(options, key=lambda channels: options[channels])
    lead = options[ranked[1]] - options[ranked[0]] if len(ranked) > 1 else 0.0
    if lead > SIDE_LEAD:
        present = [c for c in ranked[0] if c == "joint_pos" or c in view.log.fields]
        text = f"{told} in {listed(present)}; with that undone all channels agree: repaired"
        finding = view.finding(name, "REPAIRED", text, joints=joints, value=lead)
        return finding, _changed(view.log, ranked[0], change)
    text = (
        f"{told} in some channels and not in others, and the log does not tell in which; look it "
        "up in the logger and mend the file"
    )
    return view.finding(name, "REFUSED", text, joints=joints), None


def _changed(log: Log, channels: Sequence[str], change: _Change) -> Log:
    """The log with the change made in those channels that it has."""
    arrays = {"joint_pos": log.joint_pos, **log.fields}
    joints = log.joint_pos.shape
    mine = {c: change.of(arrays[c]) for c in channels if c in arrays and arrays[c].shape == joints}
    return with_channels(log, **mine)


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


def _bend(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Second differences: what is left without slow parts."""
    bent: np.ndarray = array[rows + 1] - 2.0 * array[rows] + array[rows - 1]
    return bent
