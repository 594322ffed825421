"""Windows of logs: where they start, what state they start in, which targets they get.

pieces = [s for i, log in enumerate(logs) for s in stretches_of(log, i, robot)]
windows = Windows(pieces, horizons_s=(0.25, 1.0), every_s=0.1, late_s=0.0)
windows.start_in(sim, window)                    # (n,) windows, one robot each
sim.step(windows.target[windows.rows(window, 0)])
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from asap.log_states import GAINS, Track, columns_of, log_track, told_gain
from asap.robot import Robot
from asap.sim import CpuSimulation
from asap.sim_protocol import Simulation
from asap_deploy.errors import InputError
from asap_deploy.log import Log

PAST = 64
"""Control steps of targets that may still be under way."""
_FEWEST_ROWS = 10
"""Shorter pieces under one set of gains are left out."""
_SAME_GAIN = 0.01
"""Gains that differ by less than this share are the same."""
_FEW_EPISODES = 4
_BLOCK_S = 5.0
"""Where a log has few episodes, blocks of it are drawn for the intervals instead [s]."""


class Stretch(NamedTuple):
    """A piece of a log without gaps, under one set of gains."""

    track: Track
    log: Log
    """The whole one, with the gains of this piece."""
    episode: tuple[int, int]
    rows_after: int = 0
    """Rows of the same run that follow under other gains"""


def stretches_of(log: Log, number: int, robot: Robot) -> list[Stretch]:
    """The pieces of a log.

    Motors that were told other gains on the way are replayed under those in force: a run is cut
    where its gains change. Left out are pieces too short to be replayed, as while gains rise from
    row to row, and those in which a motor that works elsewhere was told nothing.

    Raises:
        InputError: If gains change all the time.
    """
    pieces, found = [], False
    varied = [name for name in GAINS if name in log.fields and log.fields[name].ndim == 2]
    for place, run in enumerate(log.segments()):
        own = int(run.fields["episode"][0]) if "episode" in run.fields else place
        edges = _gain_edges(run, varied)
        for first, last in itertools.pairwise(edges):
            found = True
            if len(edges) > 2 and last - first < _FEWEST_ROWS:
                continue
            piece = run.rows(slice(first, last)) if len(edges) > 2 else run
            if _silent(piece, log, varied):
                continue
            try:
                track = log_track(piece, robot, rate_hz=log.rate_hz)
            except InputError as error:
                raise InputError(f"log {number + 1}: {error}") from None
            gains = {name: told_gain(piece, name) for name in varied}
            told = replace(log, fields={**log.fields, **gains}) if varied else log
            pieces.append(Stretch(track, told, (number, own), edges[-1] - last))
    if found and not pieces:
        raise InputError(
            f"the gains in the log change every few rows: no {_FEWEST_ROWS} rows in a row have the "
            "same ones; look at stiffness and damping with `asap logs show`"
        )
    return pieces


def _gain_edges(run: Log, varied: Sequence[str]) -> list[int]:
    """First rows of the pieces of T rows that are under one set of gains each, and T."""
    rows = len(run.time_s)
    if not varied:
        return [0, rows]
    told = np.concatenate([run.fields[name] for name in varied], axis=1)
    edges = [0]
    # Measured against the piece's first row: a slow ramp becomes steps.
    for row in np.flatnonzero((np.diff(told, axis=0) != 0.0).any(axis=1)) + 1:
        if (np.abs(told[row] - told[edges[-1]]) > _SAME_GAIN * np.abs(told[edges[-1]])).any():
            edges.append(int(row))
    return [*edges, rows]


def _silent(piece: Log, log: Log, varied: Sequence[str]) -> bool:
    """True if a motor that has a gain elsewhere in the log has none here, or the reverse."""
    return any(
        bool(((told_gain(piece, name) == 0.0) != (told_gain(log, name) == 0.0)).any())
        for name in varied
    )


class Windows:
    """Where windows start; rows are those of all stretches, one after the other."""

    def __init__(
        self,
        stretches: Sequence[Stretch],
        *,
        horizons_s: Sequence[float],
        every_s: float,
        late_s: float,
    ) -> None:
        """Lay windows out.

        Args:
            stretches: Of one rate.
            horizons_s: Lengths that matter; a window holds the first at least [s].
            every_s: Between starts [s].
            late_s: Longest delay; windows begin where every target under way is in the log [s].

        Raises:
            InputError: If rates or gains differ, or no stretch is long enough.
        """
        if not stretches:
            raise InputError("there is no stretch of a log to replay")
        rates = {round(1.0 / s.track.robot.control_dt, 3) for s in stretches}
        if max(rates) > 1.02 * min(rates):
            raise InputError(f"logs have different rates ({sorted(rates)} Hz): replay them apart")
        self.stretches, self.dt = stretches, stretches[0].track.robot.control_dt
        self.horizons = [max(1, round(h / self.dt)) for h in horizons_s]
        self.steps, stride = self.horizons[-1], max(1, round(every_s / self.dt))
        lengths = np.array([len(s.track.qpos) for s in stretches])
        lead = int(np.ceil(late_s / self.dt))
        starts = [np.arange(lead, length - self.horizons[0], stride) for length in lengths]
        self.start = np.concatenate(starts)
        """(W,) row of its stretch that a window begins in"""
        self.stretch = np.repeat(np.arange(len(stretches)), [len(s) for s in starts])
        """(W,)"""
        if len(self.start) == 0:
            raise InputError(f"no stretch of the log is as long as a horizon ({horizons_s[0]:g} s)")
        self.straddling = sum(
            _straddling(s, length, lead, stride, self.steps)
            for s, length in zip(stretches, lengths, strict=True)
        )
        """Windows that a change of gains takes away or cuts short"""
        self._first = (np.cumsum(lengths) - lengths)[self.stretch]
        self._last = self._first + lengths[self.stretch] - 1
        self.gain_ratio = _gain_ratios(stretches)
        """By gain, (stretches, J) what motors were told relative to the first log; None: alike"""
        self.qpos, self.qvel, self.joint_pos, self.target = (
            np.concatenate([getattr(s.track, name) for s in stretches])
            for name in ("qpos", "qvel", "joint_pos", "joint_pos_target")
        )

    def keep(self, count: int) -> None:
        """Leave out windows beyond a number, evenly over the log."""
        if len(self.start) > count:
            kept = np.unique(np.linspace(0, len(self.start) - 1, count).round().astype(int))
            self.start, self.stretch = self.start[kept], self.stretch[kept]
            self._first, self._last = self._first[kept], self._last[kept]

    def rows(self, window: np.ndarray, step: int) -> np.ndarray:
        """(n,) rows, never beyond the window's own stretch."""
        rows = self._first[window] + self.start[window] + step
        return np.clip(rows, self._first[window], self._last[window])

    def inside(self, window: np.ndarray, step: int) -> np.ndarray:
        """(n,) windows that reach so far."""
        return self._first[window] + self.start[window] + step <= self._last[window]

    def blocks(self) -> np.ndarray:
        """(W,) what is drawn for the intervals: episodes, or pieces of a few long ones."""
        episodes = [s.episode for s in self.stretches]
        order = {episode: i for i, episode in enumerate(dict.fromkeys(episodes))}
        numbers = np.array([order[episode] for episode in episodes])[self.stretch]
        if len(order) >= _FEW_EPISODES:
            return numbers
        pieces = (self.start * self.dt // _BLOCK_S).astype(np.intp)
        return np.unique(np.stack([numbers, pieces]), axis=1, return_inverse=True)[1].reshape(-1)

    def repeats(self) -> np.ndarray:
        """(W,) rows at which another run was in the same phase; -1 where none was.

        The next run that has the phase, so that each is compared with one other and not with all.
        """
        phases = [_phase(s) for s in self.stretches]
        runs = [s.episode for s in self.stretches]
        first = np.cumsum([0, *(len(s.track.qpos) for s in self.stretches)])
        found = np.full(len(self.start), -1)
        for place, (run, phase) in enumerate(zip(runs, phases, strict=True)):
            windows = np.flatnonzero(self.stretch == place)
            later = [(place + k) % len(runs) for k in range(1, len(runs))]
            for other in (k for k in later if runs[k] != run):
                open_ = windows[found[windows] < 0]
                if phase is None or (there := phases[other]) is None or not len(open_):
                    continue
                near = np.abs(there[None] - phase[self.start[open_], None])
                row, step = near.argmin(axis=1), float(np.median(np.abs(np.diff(there))))
                fits = (near.min(axis=1) <= 0.51 * step) & (row + self.steps < len(there))
                found[open_[fits]] = first[other] + row[fits]
        return found

    def start_in(
        self,
        sim: Simulation,
        window: np.ndarray,
        *,
        gains: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Put robot i of a simulation into the first state of ``window[i]``, all of them.

        Args:
            sim: Of the robot under the gains of the first log.
            window: (n,)
            gains: Factors (n, J) of ``GAINS`` that the robots have beside what they are told.
        """
        if self.gain_ratio is not None:
            self._tell_gains(sim, window, gains or {})
        rows = self.rows(window, 0)
        past = [self.target[self.rows(window, -back)] for back in range(PAST, 0, -1)]
        sim.reset(np.arange(len(window)), self.qpos[rows], self.qvel[rows],
                  joint_pos_target=np.stack(past, axis=1))  # fmt: skip

    def _tell_gains(
        self, sim: Simulation, window: np.ndarray, gains: Mapping[str, np.ndarray]
    ) -> None:
        """Each robot the gains of its log."""
        if not isinstance(sim, CpuSimulation):
            raise InputError("logs under different gains are replayed in MuJoCo only: leave "
                             "robots of another engine out, or replay such logs apart")  # fmt: skip
        assert self.gain_ratio is not None
        ratio = {name: values[self.stretch[window]] * gains.get(name, 1.0)
                 for name, values in self.gain_ratio.items()}  # fmt: skip
        model, batch = sim.model, sim.batch
        kp, kv = batch.expand("actuator_gainprm"), batch.expand("actuator_biasprm")
        kp[:, :, 0] = model.actuator_gainprm[:, 0] * ratio["stiffness"]
        kv[:, :, 1] = model.actuator_biasprm[:, 1] * ratio["stiffness"]
        kv[:, :, 2] = model.actuator_biasprm[:, 2] * ratio["damping"]


def _phase(stretch: Stretch) -> np.ndarray | None:
    """(T,) progress in the motion, where the log says it and it goes on."""
    known = stretch.log.fields.get("phase")
    if known is None:
        return None
    phase = np.interp(stretch.track.time_s, stretch.log.time_s, known)
    return phase if (np.diff(phase) > 0.0).all() else None


def _straddling(stretch: Stretch, length: int, lead: int, stride: int, steps: int) -> int:
    """Windows that begin in a stretch and would end in what follows it under other gains."""
    starts = np.arange(lead, length, stride)
    within = starts + steps <= length - 1 + stretch.rows_after
    return int(((starts + steps > length - 1) & within).sum())


def _gain_ratios(stretches: Sequence[Stretch]) -> dict[str, np.ndarray] | None:
    """By gain, (stretches, J) relative to the first log.

    Raises:
        InputError: If only some logs say what motors were told, or one was told nothing.
    """
    robot, first = stretches[0].track.robot, stretches[0].log
    found = {}
    for name in GAINS:
        if len({name in s.log.fields for s in stretches}) > 1:
            raise InputError(f"some logs say the {name} of the motors and some do not: fit apart")
        if name not in first.fields:
            found[name] = np.ones((len(stretches), len(robot.joint_names)))
            continue
        told = np.stack([told_gain(s.log, name)[columns_of(s.log, robot)] for s in stretches])
        if ((told == 0.0) != (told[0] == 0.0)).any():
            raise InputError(f"some logs have a joint without {name}, others not: fit them apart")
        found[name] = told / np.where(told[0] == 0.0, 1.0, told[0])
        found[name][:, told[0] == 0.0] = 1.0
    alike = all(np.allclose(values, 1.0) for values in found.values())
    return None if alike else found
