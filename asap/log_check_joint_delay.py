"""How long after its target each joint answers, by one step of simulation.

What gravity, floor and other joints do to a joint is taken out by simulating the step; what is left
of its velocity is what its own target did. A target that arrives d rows late leaves the share s(d)
of its effect in the velocity at the end of the step, the one before it the rest,

    T(d) = s(d) target[t] + (1 - s(d)) target[t - 1]           0 <= d <= 1, s(0) = 1, s(1) = 0

with s by simulation. So d is searched on a grid, and all that a wrong model does to the answer is
regressed out: its strength, stiffness, damping, friction, inertia, an offset.

    measured = measure_joint_delays(view)                   # rows, (J,)
    findings, _ = delay(view)                               # delay, joint_delay

Models are wrong in more ways than that, but alike on both sides of a robot: a joint is called slow
against its counterpart alone. Of which joints that could be seen, and of which not, is found by
supposing it: the likelihood of a joint's delay, moved by 10 ms, must part from its counterpart's.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from asap.log_check_delay import LONG_DELAY_S, delay_without_robot
from asap.log_check_step import Ahead, late_shares, one_step_ahead
from asap.log_check_view import Estimate, Finding, Outcome, View, listed

_GRID = np.arange(-4, 25) / 8.0
"""Delays that are tried [rows]."""

_STEP_S = 0.02
"""Rows that are denser by far are thinned to this: those that are tried reach too short a time, and
from one row to the next a joint hardly moves [s]."""

_ROWS = 1000
"""As many rows are simulated at most."""

_RESAMPLES = 100
_BLOCKS = 20
_MIN_GAIN = 20.0
"""Log likelihood that a joint's target must explain for its delay to be told."""

_WIDE = 1.0
"""An interval that is wider says nothing [rows]."""

_BIAS = 0.15
"""What a wrong model shifts all delays by [rows]."""

_SLOW, _ERRORS, _EVIDENCE = 0.3, 4.0, 60.0
"""A joint must be so many rows later than its counterpart to be called slow, so many standard
errors, and a common delay must explain both so much worse (log likelihood)."""

_SUPPOSED_S, _SHARP, _CLEAR = 0.01, 0.1, 90.0
"""Lateness that must be seen for a joint to count as tested [s], with a standard error of at most
so many rows and so much evidence: more than is needed to call it slow, or chance decides."""

_STRENGTH, _UNLIKE = (0.4, 2.0), 1.6
"""Of a joint's answer against the model's; beyond that, or with sides that differ by more than this
factor, the model is too wrong to judge by."""

_SLIDING_SPEED = 0.05
"""Joint speed at which friction is fully there [rad/s]."""


class JointDelays(NamedTuple):
    """Delays in rows, with 95 % intervals; J joints of the robot."""

    columns: np.ndarray
    """(J,) their places in the log"""
    rows: np.ndarray
    """(J,)"""
    low: np.ndarray
    """(J,)"""
    high: np.ndarray
    """(J,)"""
    told: np.ndarray
    """(J,) bool: those that move enough; of the others nothing is known"""
    drawn: np.ndarray
    """(R, J) as found in blocks of the log drawn anew"""
    likelihood: np.ndarray
    """(J, delays that were tried) logarithm"""
    strength: np.ndarray
    """(J,) of the answer, as a share of what the model says"""
    together: tuple[float, float, float]
    """Of all joints: value and interval"""


def delay(view: View) -> Outcome:
    """The time from target to response: of all joints together, and of each."""
    view = view.thinned(_STEP_S)
    measured = measure_joint_delays(view)
    if measured is None or not measured.told.any():
        return delay_without_robot(view)
    step_s, told = view.step_s, np.flatnonzero(measured.told)
    # No response comes before its command: a value below zero is the error of measuring.
    value, low, high = (max(0.0, rows) * step_s for rows in measured.together)
    by_joint = {
        view.log.joint_names[measured.columns[j]]: Estimate(*(
            max(0.0, float(part[j])) * step_s for part in (measured.rows, measured.low,
                                                           measured.high)
        )) for j in told
    }  # fmt: skip
    ranked = sorted(by_joint, key=lambda name: by_joint[name].value)
    text = (
        f"joints respond {1e3 * value:.0f} ms after the target ({1e3 * low:.0f} to "
        f"{1e3 * high:.0f} ms); fastest {_shown(ranked[0], by_joint)}, slowest "
        f"{_shown(ranked[-1], by_joint)}, of {len(told)} joints that move enough"
    )
    long = low > LONG_DELAY_S
    if long:
        text += (
            "; longer than motors and buses usually need: fit it as a delay, and check that "
            "targets are stamped when they are sent"
        )
    untested = _untested(view, measured)
    if untested:
        text += (
            f"; not testable here: whether {listed(untested)} answer {1e3 * _SUPPOSED_S:.0f} ms "
            "later than the same joint on the other side, for one of the two hardly moves or there "
            "is none; record a motion that moves both quickly"
        )
    finding = view.finding("delay", "WARNING" if long else "PASS", text, value=value, low=low,
                           high=high, by_joint=by_joint,
                           untested=tuple((name,) for name in untested))  # fmt: skip
    return Outcome([finding, *_slow_joints(view, measured)])


def _shown(name: str, by_joint: dict[str, Estimate]) -> str:
    value, low, high = (1e3 * part for part in by_joint[name])
    return f"{name} {value:.0f} ({low:.0f} to {high:.0f})"


def _slow_joints(view: View, measured: JointDelays) -> list[Finding]:
    """Joints that answer later than their counterparts."""
    names, late = view.names(measured.columns), {}
    for joint, name in enumerate(names):
        other = _comparable(measured, names, joint)
        found = None if other is None else _against(measured, joint, other)
        if found is not None:
            late[name] = Estimate(*(part * view.step_s for part in found))
    if not late:
        return []
    told = ", ".join(_shown(name, late) for name in late)
    text = (
        f"later than the same joint on the other side: {told} ms; look at that motor's bus and "
        "firmware, and fit a delay for it"
    )
    worst = max(late.values())
    return [view.finding("joint_delay", "WARNING", text, joints=tuple(late), value=worst.value,
                         low=worst.low, high=worst.high, by_joint=late)]  # fmt: skip


def _untested(view: View, measured: JointDelays) -> tuple[str, ...]:
    """Joints that might answer 10 ms later than their counterparts, and it would not be seen."""
    names, supposed = view.names(measured.columns), _SUPPOSED_S / view.step_s
    others = [_comparable(measured, names, joint) for joint in range(len(names))]
    return tuple(name for joint, name in enumerate(names)
                 if (other := others[joint]) is None
                 or not _would_tell(measured, joint, other, supposed))  # fmt: skip


def _would_tell(measured: JointDelays, joint: int, other: int, late: float) -> bool:
    """Whether a joint so many rows later than another would be told from it."""
    apart = float(measured.rows[other]) + late - float(measured.rows[joint])
    moved = round(apart / (_GRID[1] - _GRID[0]))
    places = np.clip(np.arange(len(_GRID)) - moved, 0, len(_GRID) - 1)
    both = np.stack([measured.likelihood[joint][places], measured.likelihood[other]])
    return _error(measured, joint, other) <= _SHARP and _evidence(both) >= _CLEAR


def _comparable(measured: JointDelays, names: tuple[str, ...], joint: int) -> int | None:
    """The same joint on the other side, if the model explains both, and alike."""
    other = _counterpart(names, joint)
    if other is None or not measured.told[[joint, other]].all():
        return None
    mine, its = measured.strength[[joint, other]]
    explained = all(_STRENGTH[0] < strength < _STRENGTH[1] for strength in (mine, its))
    return other if explained and max(mine / its, its / mine) < _UNLIKE else None


def _evidence(likelihood: np.ndarray) -> float:
    """By how much one delay explains joints (J, delays) worse than one for each."""
    return float(likelihood.max(axis=1).sum() - likelihood.sum(axis=0).max())


def _error(measured: JointDelays, joint: int, other: int) -> float:
    """Standard error of the difference of two delays [rows]; no less than half the grid."""
    drawn = measured.drawn[:, joint] - measured.drawn[:, other]
    return max(float(drawn.std()), 0.5 * float(_GRID[1] - _GRID[0]))


def _against(measured: JointDelays, joint: int, other: int) -> Estimate | None:
    """How much later a joint is than another, in rows; None if that is not certain."""
    apart = float(measured.rows[joint] - measured.rows[other])
    error = _error(measured, joint, other)
    evidence = _evidence(measured.likelihood[[joint, other]])
    if apart < _SLOW or apart < _ERRORS * error or evidence < _EVIDENCE:
        return None
    return Estimate(apart, apart - 1.96 * error, apart + 1.96 * error)


def _counterpart(names: tuple[str, ...], joint: int) -> int | None:
    """The same joint on the other side of the robot."""
    for mine, other in (("left", "right"), ("right", "left"), ("L_", "R_"), ("R_", "L_")):
        mirrored = names[joint].replace(mine, other)
        if mirrored != names[joint] and mirrored in names:
            return names.index(mirrored)
    return None


def measure_joint_delays(view: View) -> JointDelays | None:
    """The delay of each joint, with its interval.

    Returns:
        None if log or robot do not allow a step of simulation.
    """
    fields = view.log.fields
    near = one_step_ahead(view)
    if near is None or "joint_pos_target" not in fields:
        return None
    ahead = one_step_ahead(view, effects=False, rows=_ROWS, sinks_m=(near.sink_m,))
    if ahead is None:
        return None
    blocks = np.array_split(np.arange(len(ahead.rows)), _BLOCKS)
    rng = np.random.default_rng(0)  # of the resampling alone: the same log, the same answer
    counts = rng.multinomial(_BLOCKS, np.full(_BLOCKS, 1.0 / _BLOCKS), _RESAMPLES)
    weights = np.concatenate([np.ones((1, _BLOCKS)), counts])
    tables = _tables(view, near, ahead)
    answers = [_gains(table, blocks, weights) for table in tables]
    gains = np.stack([answer[0] for answer in answers], axis=1)
    best = gains.argmax(axis=2)
    found = _GRID[best]
    low, high = np.percentile(found[1:], [2.5, 97.5], axis=0)
    grid = _GRID[1] - _GRID[0]
    every = _GRID[gains.sum(axis=1).argmax(axis=1)]
    ends = np.percentile(every[1:], [2.5, 97.5]) + np.array([-_BIAS - grid, _BIAS + grid])
    return JointDelays(
        columns=ahead.columns,
        rows=found[0],
        low=low - grid,
        high=high + grid,
        told=(gains[0].max(axis=1) > _MIN_GAIN) & (high - low < _WIDE),
        drawn=found[1:],
        likelihood=gains[0],
        strength=np.array([slopes[b] for (_, slopes), b in zip(answers, best[0], strict=True)]),
        together=(float(every[0]), float(ends[0]), float(ends[1])),
    )


def _tables(view: View, near: Ahead, ahead: Ahead) -> list[np.ndarray]:
    """Columns (W, K + grid + 1) for each joint: what else acts, targets by delay, the response."""
    log, columns, rows = view.log, ahead.columns, ahead.rows
    target = log.fields["joint_pos_target"][:, columns]
    pos, vel = log.joint_pos[rows][:, columns], view.joint_vel[rows][:, columns]
    # The effect of a target changes slowly: that of the nearest row for which it was measured.
    place = np.abs(rows[:, None] - near.rows[None, :]).argmin(axis=1)
    effect = np.einsum("wjj->wj", near.effect)[place]
    response = ahead.vel - ahead.predicted + effect * (ahead.target - pos)
    last, parts = len(target) - 1, np.linspace(0.0, 1.0, 5)
    ends = np.ones((1, len(columns)))
    shares = np.concatenate([ends, late_shares(view, near, parts[1:-1].tolist()), 0.0 * ends])
    found = []
    for j in range(len(columns)):
        pulls = []
        for late in _GRID:
            whole = int(np.floor(late))
            share = float(np.interp(late - whole, parts, shares[:, j]))
            arrived = share * target[np.clip(rows - whole, 0, last), j]
            before = target[np.clip(rows - whole - 1, 0, last), j]
            pulls.append(arrived + (1.0 - share) * before)
        own = effect[:, j]
        sliding = np.tanh(vel[:, j] / _SLIDING_SPEED)
        # What the model says of all but the joint's own target, which a wrong inertia scales.
        others = ahead.predicted[:, j] - vel[:, j] - own * (ahead.target[:, j] - pos[:, j])
        nuisance = [np.ones(len(rows)), own, own * pos[:, j], own * vel[:, j], own * sliding,
                    others]  # fmt: skip
        pull = [own * (column - pos[:, j]) for column in pulls]
        found.append(np.stack([*nuisance, *pull, response[:, j]], axis=1))
    return found


def _gains(
    table: np.ndarray, blocks: list[np.ndarray], weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What targets of each delay explain of one joint's response.

    Returns:
        Log likelihood (R, grid), and the slope (grid,) in the log itself: 1 if the model is right.
    """
    size = np.sqrt(np.mean(table**2, axis=0)) + 1e-12
    table = table / size
    grams = np.stack([table[block].T @ table[block] for block in blocks])
    grams = np.einsum("rb,bkl->rkl", weights, grams)
    known, rows = table.shape[1] - len(_GRID) - 1, len(table)
    ridge = 1e-9 * rows * np.eye(known)
    solved = np.linalg.solve(grams[:, :known, :known] + ridge, grams[:, :known, known:])
    rest = grams[:, known:, known:] - grams[:, known:, :known] @ solved
    power = np.maximum(np.einsum("rkk->rk", rest), 1e-12)
    along = rest[:, :-1, -1]
    share = along**2 / (power[:, :-1] * power[:, -1:])
    # A target that is still, or that follows from the joint's own state, tells nothing.
    usable = (along > 0.0) & (power[:, :-1] > 1e-6 * rows)
    gains = np.where(usable, -0.5 * rows * np.log1p(-np.minimum(share, 0.999999)), 0.0)
    return gains, along[0] / power[0, :-1] * size[-1] / size[known:-1]
