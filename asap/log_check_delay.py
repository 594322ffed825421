"""How long after its target a joint responds, and whether targets stand in the right row.

A joint under PD control whose target leaps by du gains, s seconds after the command reached it,

    velocity  g (1 - exp(-s / tau)) du          position  g (s - tau (1 - exp(-s / tau))) du

so that from one row to the next velocity and position depend on the targets in force during the
step, weighted by when they arrived: by the delay. Delay and tau are searched on a grid; g, and what
else moves the joint, are regressed out. Only g > 0 counts: a policy that damps makes targets depend
on velocities with the other sign, which would else look like a response before the command.

    findings, repaired = frame_offset(view)                 # value in rows
    measured = measure_delay(view)                          # rows
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from asap.log_check_view import Outcome, View, with_channels
from asap_deploy.log import Log
from asap_deploy.rotation import projected_gravity

LONG_DELAY_S = 0.03
"""A longer delay than motors and buses have is worth a look [s]."""

_LAGS = np.arange(-2, 6)
"""Rows by which a target may come before what it moves."""

_GRID = np.arange(-12, 37) / 8.0
"""Delays that are tried [rows]."""

_TAUS = np.array([0.1, 0.25, 0.5, 1.0, 2.0, 8.0])
"""Time constants of a joint's velocity that are tried [rows]."""

_RESAMPLES = 100
_MIN_GAIN = 20.0
"""Log likelihood that targets must explain for a delay to be told."""

_ROWS = 6000
"""As many rows are looked at; more would not sharpen anything."""


class Delay(NamedTuple):
    """Delay of all joints together, in rows, with its 95 % interval."""

    rows: float
    low: float
    high: float


def delay_without_robot(view: View) -> Outcome:
    """The time from target to response, for all joints together."""
    if "joint_pos_target" not in view.log.fields:
        return Outcome([])
    measured = measure_delay(view)
    if measured is None:
        text = "targets hardly change: the delay cannot be measured; record a livelier motion"
        return Outcome([view.finding("delay", "WARNING", text)])
    if measured.rows <= _GRID[0]:
        text = (
            "joints do not follow their targets as motors do that pull at once (friction, backlash "
            "or targets that rise evenly): the delay cannot be measured; record a livelier motion"
        )
        return Outcome([view.finding("delay", "WARNING", text)])
    # No response comes before its command: a value below zero is the error of measuring.
    value, low, high = (max(0.0, rows) * view.step_s for rows in measured)
    told = (
        f"joints respond {1e3 * value:.0f} ms after the target ({1e3 * low:.0f} to "
        f"{1e3 * high:.0f} ms)"
    )
    if low <= LONG_DELAY_S:
        finding = view.finding("delay", "PASS", told, value=value, low=low, high=high)
        return Outcome([finding])
    text = (
        f"{told}, longer than motors and buses usually need; fit it as a delay, and check that "
        "targets are stamped when they are sent"
    )
    return Outcome([view.finding("delay", "WARNING", text, value=value, low=low, high=high)])


def frame_offset(view: View) -> Outcome:
    """Targets recorded a row late or early.

    Late: joints respond before their target. Early: joints respond a row or more after it, and the
    targets depend on noise that was measured a row after them, which no controller can know.
    """
    if "joint_pos_target" not in view.log.fields:
        return Outcome([])
    measured = measure_delay(view, resamples=30)
    if measured is None:
        return Outcome([])
    slipped = _slip_against_action(view)
    early, late = _foreknowledge(view)
    early_response = measured.rows < -0.3 and measured.high < 0.0
    if early_response and (late or slipped > 0):
        rows = max(1, int(np.ceil(-measured.rows - 0.3)))
        return _undone(view, rows, f"joints respond {-measured.rows:.1f} rows before their target")
    if measured.rows <= _GRID[0] and not slipped:  # the earliest that is tried: none fits
        return Outcome([])
    # Light joints, and heavy rotors, seem to respond before their command: that alone is no offset.
    if early_response and measured.rows < -0.7:
        text = (
            f"joints seem to respond {-measured.rows:.1f} rows before their target, but nothing "
            "else says that targets were recorded late: left as it is; if so, give rows_later "
            "in a column map"
        )
        return Outcome([view.finding("frame_offset", "WARNING", text, value=0)])
    if measured.rows > 0.7 and (early or slipped < 0):
        why = "targets answer to what was measured a row after them"
        return _undone(view, -1, why if early else "the actions they are made of come after them")
    if slipped > 0 and measured.rows < 0.3:
        return _undone(view, slipped, "the actions that they are made of come before them")
    if slipped:
        text = (
            f"actions are recorded {abs(slipped)} row {'early' if slipped > 0 else 'late'}: joints "
            "follow the targets in time, but targets and actions do not match; they were moved"
        )
        log = _moved(view, -slipped, ("action",))
        return Outcome([view.finding("frame_offset", "REPAIRED", text, value=slipped)], log)
    if measured.rows < 0.3 and late:
        text = (
            "targets answer to what was measured a row before, and joints respond without delay: "
            "either the controller runs a row behind, or targets were recorded a row late; both "
            "replay alike, but the true delay may be a row longer than it seems"
        )
        return Outcome([view.finding("frame_offset", "WARNING", text, value=1)])
    text = "targets stand in the row from which they act"
    return Outcome([view.finding("frame_offset", "PASS", text, value=0)])


def _undone(view: View, rows: int, why: str) -> Outcome:
    """The log with its targets moved to where they belong."""
    action, target = view.log.fields.get("action"), view.log.fields["joint_pos_target"]
    together = action is not None and action.shape == target.shape and not (
        _slip_against_action(view)
    )  # fmt: skip
    names = ("joint_pos_target", "action") if together else ("joint_pos_target",)
    side = "late" if rows > 0 else "early"
    text = f"targets are recorded {abs(rows)} row {side}: {why}; they were moved"
    finding = view.finding("frame_offset", "REPAIRED", text, value=rows)
    return Outcome([finding], _moved(view, rows, names))


def measure_delay(view: View, *, resamples: int = _RESAMPLES) -> Delay | None:
    """Delays with 95 % intervals, by resampling blocks of rows.

    Returns:
        The delays in rows, or None if no target changes enough.
    """
    rows = view.rows(before=5, after=2)
    if len(rows) < 40:
        return None
    grams = _block_grams(view, rows[-_ROWS:])
    rng = np.random.default_rng(0)  # of the resampling alone: the same log, the same answer
    blocks = len(grams)
    counts = rng.multinomial(blocks, np.full(blocks, 1.0 / blocks), resamples)
    weights = np.concatenate([np.ones((1, blocks)), counts])
    gains = np.stack([_gains(np.einsum("b,bjkl->jkl", w, grams)) for w in weights])
    if gains[0].max(axis=1).sum() < _MIN_GAIN:
        return None
    together = _GRID[gains.sum(axis=1).argmax(axis=1)]
    low, high = np.percentile(together[1:], [2.5, 97.5]) if resamples else together[[0, 0]]
    # Nothing is told within a step of the grid.
    grid = _GRID[1] - _GRID[0]
    return Delay(float(together[0]), float(low - grid), float(high + grid))


def _block_grams(view: View, rows: np.ndarray) -> np.ndarray:
    """Inner products (blocks, J, K, K) of [what else moves the joint, targets by lag, response]."""
    log, dt = view.log, view.step_s
    pos, vel, target = log.joint_pos, view.joint_vel, log.fields["joint_pos_target"]
    joints = pos.shape[1]
    shared = [np.ones((len(rows), 1))]
    if "imu_ang_vel_b" in log.fields:
        shared.append(log.fields["imu_ang_vel_b"][rows])
    if "imu_quat_wxyz" in log.fields:
        shared.append(projected_gravity(log.fields["imu_quat_wxyz"])[rows])
    common = np.concatenate(shared, axis=1)
    columns = [np.broadcast_to(c[:, None], (len(rows), joints)) for c in common.T]
    columns += [pos[rows], dt * vel[rows], pos[rows - 1], dt * vel[rows - 1]]
    columns += [target[rows - lag] for lag in _LAGS]
    # Positions and velocities by the step in rows, so that both weigh alike.
    columns += [dt * vel[rows + 1], pos[rows + 1] - pos[rows]]
    table = np.stack(columns, axis=2)
    table = table - table.mean(axis=0) * (np.arange(table.shape[2]) > 0)
    blocks = np.array_split(np.arange(len(rows)), max(8, min(60, len(rows) // 40)))
    return np.stack([np.einsum("tjk,tjl->jkl", table[b], table[b]) for b in blocks])


def _gains(gram: np.ndarray) -> np.ndarray:
    """Log likelihood (J, delays) that targets explain, each joint with the tau that suits it."""
    lags = len(_LAGS)
    known = gram.shape[1] - lags - 2
    ridge = 1e-9 * np.einsum("jkk->jk", gram[:, :known, :known])[:, :, None] * np.eye(known)
    solved = np.linalg.solve(gram[:, :known, :known] + ridge + 1e-12 * np.eye(known),
                             gram[:, :known, known:])  # fmt: skip
    rest = gram[:, known:, known:] - np.einsum("jka,jkb->jab", gram[:, :known, known:], solved)
    rows = gram[:, 0, 0]
    targets, responses = rest[:, :lags, :lags], rest[:, :lags, lags:]
    # A target that is still, or that follows from the joint's own past, tells nothing.
    floor = 1e-9 * rows + 1e-6 * np.einsum("jkk->j", gram[:, known:-2, known:-2]) / lags
    total = np.zeros((len(gram), len(_TAUS), len(_GRID)))
    for output, weights in enumerate(_WEIGHTS):  # velocity, position
        size = np.einsum("tgl,jlm,tgm->jtg", weights, targets, weights)
        along = np.einsum("tgl,jl->jtg", weights, responses[:, :, output])
        power = rest[:, lags + output, lags + output]
        share = along**2 / np.maximum(size * power[:, None, None], 1e-300)
        usable = (along > 0.0) & (size > floor[:, None, None])
        total += np.where(usable, -0.5 * np.log1p(-np.minimum(share, 0.999999)), 0.0)
    best: np.ndarray = total.max(axis=1) * rows[:, None]
    return best


def _response_weights() -> np.ndarray:
    """Weights (2, taus, delays, lags) of targets in the change of velocity and of position."""
    found = np.zeros((2, len(_TAUS), len(_GRID), len(_LAGS)))
    for t, tau in enumerate(_TAUS):
        for g, late in enumerate(_GRID):
            for k, lag in enumerate(_LAGS):
                # The target of row -lag acts from late - lag until late - lag + 1, within [0, 1].
                since, until = np.clip([late - lag, late - lag + 1.0], 0.0, 1.0)
                for output, rise in enumerate((_speed_rise, _pos_rise)):
                    found[output, t, g, k] = rise(1.0 - since, tau) - rise(1.0 - until, tau)
    found /= np.maximum(np.linalg.norm(found, axis=3, keepdims=True), 1e-12)
    return found


def _speed_rise(seconds: float, tau: float) -> float:
    """Velocity after a leap of the target."""
    return float(1.0 - np.exp(-seconds / tau))


def _pos_rise(seconds: float, tau: float) -> float:
    """Position after a leap of the target."""
    return float(seconds - tau * (1.0 - np.exp(-seconds / tau)))


_WEIGHTS = _response_weights()


def _slip_against_action(view: View) -> int:
    """Rows by which targets come after the actions that they are made of; 0 if unclear."""
    action, target = view.log.fields.get("action"), view.log.fields["joint_pos_target"]
    if action is None or action.shape != target.shape:
        return 0
    rows = view.rows(before=4, after=4)
    if len(rows) < 40:
        return 0
    shares = []
    for lag in (-2, -1, 0, 1, 2):
        bent = _second_difference(target, rows + lag)
        given = _second_difference(action, rows)
        size = (bent**2).sum(axis=0) * (given**2).sum(axis=0)
        fit = (bent * given).sum(axis=0) ** 2 / np.maximum(size, 1e-300)
        shares.append(float(np.mean(fit[size > 1e-16])) if (size > 1e-16).any() else 0.0)
    best = int(np.argmax(shares))
    return best - 2 if shares[best] > 0.5 and shares[best] > 2.0 * shares[2] else 0


def _foreknowledge(view: View) -> tuple[bool, bool]:
    """Do targets answer to the measurement of the next row (early), or of the one before (late)?

    Sensor noise goes through the controller: a target is explained best by the row whose noise
    it carries. Each neighbour must explain clearly more than the target's own row.
    """
    rows = view.rows(before=5, after=3)[-_ROWS:]
    # In both halves, or it is one event and no rule.
    halves = np.array_split(rows, 2)
    shares = [_explained(view, half) for half in halves]
    early = all(share[0] > 1.1 * share[1] + 0.02 for share in shares)
    late = all(share[2] > 1.1 * share[1] + 0.02 for share in shares)
    return early, late


def _explained(view: View, rows: np.ndarray) -> tuple[float, float, float]:
    """How much measurements at rows explain of targets one row before, at, and after them."""
    log = view.log
    measured = [log.joint_pos, view.joint_vel]
    measured += [log.fields["imu_ang_vel_b"]] if "imu_ang_vel_b" in log.fields else []
    if "imu_quat_wxyz" in log.fields:
        measured.append(projected_gravity(log.fields["imu_quat_wxyz"]))
    table = np.concatenate(measured, axis=1)
    target = log.fields["joint_pos_target"]
    live = np.std(target[rows], axis=0) > 1e-4 if len(rows) else np.zeros(1, dtype=bool)
    if len(rows) < 3 * table.shape[1] or not live.any():
        return 0.0, 0.0, 0.0
    basis, _ = np.linalg.qr(np.column_stack([np.ones(len(rows)), table[rows]]))
    explained = []
    for lag in (-1, 0, 1):
        past = np.stack([target[rows + lag - k] for k in (0, 1, 2, 3)], axis=2)[:, live]
        past = past - past.mean(axis=0)
        rest = past - np.einsum("tb,bjk->tjk", basis, np.einsum("tb,tjk->bjk", basis, past))
        before, after = _unexplained(past), _unexplained(rest)
        explained.append(0.5 * float(np.log((before + 1e-12) / (after + 1e-12)).mean()))
    return explained[0], explained[1], explained[2]


def _unexplained(columns: np.ndarray) -> np.ndarray:
    """Squared rest (J,) of the first of (T, J, K) columns after regression on the others."""
    gram = np.einsum("tjk,tjl->jkl", columns, columns)
    size = np.trace(gram[:, 1:, 1:], axis1=1, axis2=2)[:, None, None]
    ridge = (1e-9 * size + 1e-15) * np.eye(3)
    solved = np.linalg.solve(gram[:, 1:, 1:] + ridge, gram[:, 1:, :1])
    rest: np.ndarray = gram[:, 0, 0] - (gram[:, :1, 1:] @ solved)[:, 0, 0]
    rest = np.maximum(rest, 0.0)
    return rest


def _second_difference(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    bent: np.ndarray = array[rows + 1] - 2.0 * array[rows] + array[rows - 1]
    return bent


def _moved(view: View, rows: int, names: tuple[str, ...]) -> Log:
    """The log with channels ``rows`` rows earlier; where none is left, the row's own stays."""
    channels = {}
    places = np.arange(len(view.log.time_s))
    source = np.clip(places + rows, 0, len(places) - 1)
    # Not from another episode.
    source = np.where(view.episodes[source] == view.episodes, source, places)
    for name in names:
        channels[name] = view.log.fields[name][source]
    return with_channels(view.log, **channels)
