"""Would a log be explained better if two of its joints were exchanged, or one turned round?

What one step of simulation misses of the next velocities must fall to about half in the joints that
a change concerns. Models are wrong in strength, inertia and friction, and a change may gain from
that by chance, but not so much; two joints of a sound log that are exchanged multiply the error,
unless they do the same. Where an exchange would not even double it, nothing can be said of these
two: that is said.

    trials = Trials(view, ahead)
    trials.worth(Change(3, 9), CHANNELS[0])      # by how much targets exchanged explain better
    not_told_apart(view, ahead)                  # pairs of joints of which nothing can be said
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from asap.log_check_step import ROWS, Again, Ahead, log_squares
from asap.log_check_view import View, with_channels
from asap_deploy.log import Log

LEAD = {1: 150.0, 2: 222.0}
"""By how much one or two joints must be explained better by a change (twice log likelihood): errors
of two, at ``ROWS`` rows, by half. No wrong model of a sound log has been seen to give as much."""

_LEAST_FALL = 0.35
"""Errors of the joints concerned must fall by this too (mean logarithm)."""

_OFFSET = 0.03
"""Encoders that are off, dead bands and friction shift a joint's target by up to this [rad]."""

_SUSPECTS, _MISSED, _ODD = 6, 0.15, 2.0
"""So many joints, if their next velocities are missed by more [rad/s], and by so many times what
is missed of the middle joint, are exchanged with one another and turned round in simulation."""

_LIKELY = 4
"""As many of the best changes to first order are simulated."""

CHANNELS: tuple[tuple[str, ...], ...] = (
    ("joint_pos_target", "action"),
    ("joint_pos", "joint_vel", "torque_est"),
    ("joint_pos",),
    ("joint_vel",),
)
"""What may have been written in another order or with another sign than the rest."""


class Change(NamedTuple):
    """Two columns of a log exchanged, or one with its sign turned."""

    first: int
    second: int | None = None

    @property
    def columns(self) -> list[int]:
        """In the log."""
        return [self.first] if self.second is None else [self.first, self.second]

    def of(self, array: np.ndarray) -> np.ndarray:
        """The change made to (..., J)."""
        changed = array.copy()
        if self.second is None:
            changed[..., self.first] *= -1.0
        else:
            changed[..., self.columns] = array[..., self.columns[::-1]]
        return changed

    def made(self, log: Log, channels: Sequence[str]) -> Log:
        """The log with the change made in those of the channels that it has."""
        arrays = {"joint_pos": log.joint_pos, **log.fields}
        joints = log.joint_pos.shape
        mine = {name: self.of(arrays[name]) for name in channels
                if name in arrays and arrays[name].shape == joints}  # fmt: skip
        return with_channels(log, **mine)


class Worth(NamedTuple):
    """How much better a log is explained after a change."""

    fall: float
    """Of the errors of the joints concerned (mean logarithm)"""
    lead: float
    """Of all joints together (twice log likelihood)"""
    joints: int
    """As many are concerned"""

    @property
    def believed(self) -> bool:
        """Whether there is a reason to make the change."""
        return self.fall > _LEAST_FALL and self.lead > LEAD[self.joints]


class Trials:
    """Changes made to a log, each simulated from all its rows."""

    def __init__(self, view: View, ahead: Ahead) -> None:
        """Take the log as it is for comparison."""
        self._view, self._ahead, self._again = view, ahead, Again(view, ahead)
        self._usual = log_errors(ahead.error(ahead.target), _own(ahead))

    def worth(self, change: Change, channels: Sequence[str]) -> Worth:
        """Of a change of some channels."""
        missed = self._again.error(change.made(self._view.log, channels))
        fell = self._usual - log_errors(missed, _own(self._ahead))
        mine = np.isin(self._ahead.columns, change.columns)
        lead = float(2.0 * ROWS * fell.sum())
        return Worth(float(fell[mine].mean()), lead, len(change.columns))

    def likely(self, without: set[int]) -> list[Change]:
        """Changes that may be worth it, of joints that are not ``without``.

        To first order in the targets all are looked at. Joints whose velocities are missed by far
        are no small change: a joint that seems to be two radians from its target makes all the
        torque that it can, and a leg that is measured wrong stands where there is no floor.
        """
        columns = self._ahead.columns.tolist()
        swap, flip = first_order(self._ahead)
        pairs = [(-swap[a, b], Change(*sorted((columns[a], columns[b]))))
                 for a, b in itertools.combinations(range(len(columns)), 2)]  # fmt: skip
        turns = [(-worth, Change(column)) for worth, column in zip(flip, columns, strict=True)]
        ranked = sorted(pairs + turns, key=lambda one: one[0])[:_LIKELY]
        found = [change for fell, change in ranked if -fell > _LEAST_FALL]
        error = self._ahead.error(self._ahead.target)
        size = np.sqrt(np.mean(error**2, axis=0))
        least = max(_MISSED, _ODD * float(np.median(size)))
        odd = [columns[k] for k in np.argsort(-size)[:_SUSPECTS] if size[k] > least]
        found += [Change(column) for column in odd]
        found += [Change(*sorted(pair)) for pair in itertools.combinations(odd, 2)]
        return [one for one in dict.fromkeys(found) if not without.intersection(one.columns)]

    def rivals(self, change: Change, without: set[int]) -> list[Change]:
        """Every exchange of the joints of a change with others, and each turned round."""
        columns = [c for c in self._ahead.columns.tolist() if c not in without]
        pairs = [Change(*sorted((mine, other))) for mine in change.columns for other in columns
                 if mine != other]  # fmt: skip
        return list(dict.fromkeys(pairs + [Change(mine) for mine in change.columns]))


def first_order(ahead: Ahead) -> tuple[np.ndarray, np.ndarray]:
    """By how much errors fall with two targets exchanged, or one turned round (mean logarithm).

    Returns:
        Falls (J, J) of pairs and (J,) of single joints, in the order of the robot.
    """
    target, effect = ahead.target, ahead.effect
    error, own = ahead.error(target), _own(ahead)
    usual = log_errors(error, own)
    leap = target[:, None, :] - target[:, :, None]  # (W, a, b): what b was told and a was not
    # Both targets of a pair act on the joint; the rest of the robot is left aside.
    both = np.einsum("wj,wjk->wjk", own, leap) - effect * leap
    after = log_errors(error[:, :, None] - both, own[:, :, None])
    falls = usual[:, None] - after
    turned = log_errors(error + 2.0 * own * target, own)
    return 0.5 * (falls + falls.T), usual - turned


def not_told_apart(ahead: Ahead) -> tuple[list[tuple[int, int]], list[int]]:
    """Pairs of columns whose targets might be exchanged, and columns whose might be turned round.

    Neither order explains the log so much better that the other would have been noticed.
    """
    swap, flip = first_order(ahead)
    columns = ahead.columns.tolist()
    pairs = [tuple(sorted((columns[a], columns[b])))
             for a, b in itertools.combinations(range(len(columns)), 2)
             if 4.0 * ROWS * abs(swap[a, b]) < LEAD[2]]  # fmt: skip
    turns = [columns[k] for k in np.flatnonzero(2.0 * ROWS * np.abs(flip) < LEAD[1])]
    return [(first, second) for first, second in pairs], turns


def log_errors(error: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Logarithm of the size of errors (W, ...) of joints, after the best small offset of each."""
    error = np.nan_to_num(error, nan=1e3)
    off = np.median(error / np.maximum(own, 1e-9), axis=0)
    return 0.5 * log_squares(error - own * np.clip(off, -_OFFSET, _OFFSET))


def _own(ahead: Ahead) -> np.ndarray:
    """Effect (W, J) of each target on its own joint [1/s]."""
    return np.einsum("wjj->wj", ahead.effect)
