"""What the checks of a log share: the words of a verdict, and a log laid out for looking at.

view = View(log=log, robot=robot)
rows = view.rows(before=2, after=1)          # rows whose neighbours are one step away
view.finding("stuck", "WARNING", "joint_pos does not move", joints=("left_knee_joint",))
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np

from asap.robot import Robot
from asap_deploy.log import WIDTHS, Log

Verdict = Literal["PASS", "WARNING", "REPAIRED", "REFUSED"]
VERDICTS: tuple[Verdict, ...] = ("PASS", "REPAIRED", "WARNING", "REFUSED")
"""From best to worst."""

MAX_STEP = 1.5
"""Rows farther apart than this many usual steps are no neighbours."""


class Estimate(NamedTuple):
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one check says about a log."""

    name: str
    """Of the check, for example ``swapped_joints``."""
    verdict: Verdict
    text: str
    """What is wrong, how much, what to do."""
    joints: tuple[str, ...] = ()
    """Whom it concerns; empty: the log as a whole."""
    value: float | None = None
    """The number behind the verdict, in the unit that the text names."""
    low: float | None = None
    """Lower end of the 95 % interval of ``value``."""
    high: float | None = None
    by_joint: Mapping[str, Estimate] = field(default_factory=dict)
    """The same for each joint of which it is known."""
    untested: tuple[tuple[str, ...], ...] = ()
    """Joints, or pairs of joints, of which this log does not tell: they hardly move in it."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON; what was not measured is left out."""
        found = {"name": self.name, "verdict": self.verdict, "text": self.text}
        numbers = {"value": self.value, "low": self.low, "high": self.high}
        more: dict[str, Any] = {k: number for k, number in numbers.items() if number is not None}
        if self.joints:
            more["joints"] = list(self.joints)
        if self.by_joint:
            more["by_joint"] = {name: one._asdict() for name, one in self.by_joint.items()}
        if self.untested:
            more["untested"] = [list(names) for names in self.untested]
        return found | more


class Outcome(NamedTuple):
    """What a check found, and the log with its repairs; None where it changed nothing."""

    findings: Sequence[Finding]
    log: Log | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """A log and what is known beside it."""

    log: Log
    robot: Robot | None = None
    stated_rate_hz: float | None = None
    delay_s: float | None = None
    """As measured by an earlier check [s]."""
    shared: dict[str, Any] = field(default_factory=dict)
    """What was costly to find and holds as long as the log is the same."""

    def with_log(self, log: Log) -> View:
        """The same for a repaired log."""
        return replace(self, log=log, shared={})

    @cached_property
    def step_s(self) -> float:
        """The usual time between two rows [s]."""
        return float(np.median(np.diff(self.log.time_s)))

    @cached_property
    def breaks(self) -> np.ndarray:
        """(T - 1,) bool: no neighbours, by a gap or because another episode begins."""
        broken: np.ndarray = np.diff(self.log.time_s) > MAX_STEP * self.step_s
        broken = broken | (np.diff(self.episodes) != 0)
        return broken

    @cached_property
    def episodes(self) -> np.ndarray:
        """(T,) number of the episode that each row belongs to, from 0."""
        labels = self.log.fields.get("episode")
        if labels is None:
            return np.zeros(len(self.log.time_s), dtype=np.intp)
        return np.concatenate([[0], np.cumsum(labels[1:] != labels[:-1])]).astype(np.intp)

    @cached_property
    def joint_vel(self) -> np.ndarray:
        """(T, J) measured, or else the difference of positions to the row before [rad/s]."""
        if "joint_vel" in self.log.fields:
            return self.log.fields["joint_vel"]
        speed = np.diff(self.log.joint_pos, axis=0) / self.step_s
        speed[self.breaks] = 0.0
        return np.concatenate([speed[:1], speed])

    def rows(self, *, before: int, after: int) -> np.ndarray:
        """Rows that have this many neighbours on either side, without a break between."""
        rows = len(self.log.time_s)
        until = np.concatenate([[0], np.cumsum(self.breaks)])
        middle = np.arange(before, rows - after)
        whole: np.ndarray = middle[until[middle - before] == until[middle + after]]
        return whole

    def thinned(self, step_s: float) -> View:
        """Fewer rows of a log whose rows are denser by far: those in which targets change.

        Args:
            step_s: About the time between the rows that are left [s].
        """
        every, target = round(step_s / self.step_s), self.log.fields.get("joint_pos_target")
        if every < 2 or target is None:
            return self
        changed = np.concatenate([[False], (np.diff(target, axis=0) != 0.0).any(axis=1)])
        keep = np.zeros(len(changed), dtype=bool)
        for rows in np.split(np.arange(len(keep)), np.flatnonzero(self.breaks) + 1):
            begin = np.bincount(np.flatnonzero(changed[rows]) % every, minlength=1).argmax()
            keep[rows[begin::every]] = True
        return self.with_log(chosen_rows(self.log, keep)) if keep.sum() >= 2 else self

    def names(self, columns: Iterable[int]) -> tuple[str, ...]:
        """Joints by their places in the log."""
        return tuple(self.log.joint_names[column] for column in columns)

    def finding(self, name: str, verdict: Verdict, text: str, **more: Any) -> Finding:
        """A finding, its numbers as plain ones."""
        for key in ("value", "low", "high"):
            if more.get(key) is not None:
                more[key] = float(more[key])
        return Finding(name=name, verdict=verdict, text=text, **more)

    def at(self, row: int) -> str:
        """A row as a time since the first one, and a number."""
        return f"{self.log.time_s[row] - self.log.time_s[0]:.2f} s (row {row})"


def with_channels(log: Log, **channels: np.ndarray) -> Log:
    """The log with some channels replaced; ``joint_pos`` and ``time_s`` among them."""
    time_s, pos = channels.pop("time_s", log.time_s), channels.pop("joint_pos", log.joint_pos)
    return replace(log, time_s=time_s, joint_pos=pos, fields={**log.fields, **channels})


def chosen_rows(log: Log, keep: np.ndarray) -> Log:
    """The log with the rows of a mask (T,); at least two."""
    fields = {
        name: array[keep] if name in WIDTHS or array.ndim == 2 else array
        for name, array in log.fields.items()
    }
    return replace(log, time_s=log.time_s[keep], joint_pos=log.joint_pos[keep], fields=fields)


def listed(names: Sequence[str], most: int = 4) -> str:
    """Some names and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
