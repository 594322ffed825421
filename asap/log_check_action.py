"""What ``action`` and ``joint_pos_target`` mean: absolute targets, scaled actions or raw ones.

Read rightly, they lead to the velocities that follow, by one step of simulation. Where targets are
not recorded, or are no targets, they are rebuilt from the one reading that does.

    findings, repaired = action_convention(view)            # raw, scaled, absolute
"""

from __future__ import annotations

import numpy as np

from asap.log_check_step import badness, joint_columns, one_step_ahead
from asap.log_check_view import Outcome, View, with_channels

LEAD = 60.0
"""By how much another meaning must explain the log better (twice log likelihood)."""

MAX_MISS = 0.5
"""Rebuilt targets must not miss the next velocities by more than this [rad/s]."""


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


def _bend(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Second differences: what is left without slow parts."""
    bent: np.ndarray = array[rows + 1] - 2.0 * array[rows] + array[rows - 1]
    return bent
