"""Which physical parameters a log pays for: all are fitted, then what other runs do not need goes.

    found = search(parts, robot, IdentifyConfig(), judge)
    found.correction, found.rows(), found.tried

The delay comes first: nothing later can represent it. All groups are then fitted together, each
pulled a little towards the model. A group that a validation part of the log, replayed over
horizons several times as long as the fitted windows, predicts as well without is dropped: what is
left need not invent a mass to mend a contact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from asap.correction import Correction
from asap.identify import LinearFit, Shooting
from asap.judge import Judge
from asap.log_windows import Windows, stretches_of
from asap.parameters import KINDS, MAX_DELAY_S, OF_JOINTS, Parameters
from asap.robot import Robot
from asap_deploy.errors import InputError
from asap_deploy.log import Log

_NEEDED = 1.01
"""A group stays if without it the validation part is predicted worse by this factor."""
_PLAIN = ("delay", "stiffness", "damping", "frictionloss")
"""What is tried alone beside everything, should everything mislead."""
_MISLED = 1.2
"""If the plain groups alone are no worse than all by this factor, groups are added one by one."""
_ROUGH = 2
"""The first iterations look at one window in so many."""
_ROTORS = ((3.0, 0.0), (10.0, 0.0), (1.0, 0.03), (1.0, 0.1))
"""Factor and least armature [kg m^2] of rotors that are tried first: descriptions leave them out,
or say what is the default of another simulator."""
_FELT, _OFTEN = 0.9, 0.995
"""Torque limits are sought from so much of what is asked of motors, at this quantile of rows."""
_LIMIT = "torque_limit"
_LATER = (*OF_JOINTS, _LIMIT)
"""Groups that the descent leaves alone. How joints differ from their group is little: one step from
the end finds it. Limits are sought at the end, and only if they pay."""
_PAYS = 0.9
"""A step of Gauss-Newton that leaves more than this of the cost is the last."""

Progress = Callable[[float], None]


@dataclass(frozen=True, kw_only=True)
class IdentifyConfig:
    """How parameters are identified."""

    window_s: float = 0.2
    """Length of the fitted windows [s]."""
    seconds: float = 20.0
    """At most so much of the log is fitted [s]; more has not helped."""
    delays_ms: tuple[float, ...] = (0.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0)
    """Delays that are tried first [ms]."""
    iterations: int = 8
    """Of Gauss-Newton, at most."""
    groups: tuple[str, ...] = tuple(KINDS)
    """Groups of parameters that may be fitted."""

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        if self.window_s <= 0.0 or self.seconds <= 0.0 or not self.delays_ms or not self.groups:
            raise InputError("fit needs a window, seconds, a group and at least one delay to try")
        if min(self.delays_ms) < 0.0 or max(self.delays_ms) > 1000.0 * MAX_DELAY_S:
            raise InputError(f"delays must be between 0 and {1000 * MAX_DELAY_S:g} ms")
        if unknown := sorted(set(self.groups) - set(KINDS)):
            raise InputError(f"no group '{unknown[0]}'; there are {', '.join(KINDS)}")


class Identified(NamedTuple):
    """What a log says about physics."""

    groups: tuple[str, ...]
    parameters: Parameters
    z: np.ndarray
    """(P,) in units of the parameters"""
    active: np.ndarray
    """(P,) which were fitted"""
    linear: LinearFit
    correction: Correction
    tried: list[dict[str, Any]]
    """Sets of groups with their errors on the validation part, relative to the model's"""
    share: float
    """That of the chosen set"""
    windows: Windows
    """Those that were fitted"""
    robot: Robot
    """At the rate and under the gains of the log"""

    def with_less(self, seconds: float) -> Correction:
        """What so much of the log alone would have said [s]."""
        order = np.lexsort((self.windows.start, self.windows.stretch))
        chosen = np.zeros(len(order), dtype=bool)
        chosen[order[: max(1, round(seconds / (self.windows.steps * self.windows.dt)))]] = True
        z = self.linear.solution(self.active, chosen)
        return as_correction(self.parameters, z, self.robot)

    def variants(self) -> tuple[Mapping[str, tuple[float, ...]], ...]:
        """Parameters as each part of the log alone would have told them."""
        parts = np.unique(self.linear.block)
        if len(parts) < 2:
            return ()
        solutions = [self.linear.solution(self.active, self.linear.block == p) for p in parts]
        return tuple(as_correction(self.parameters, z, self.robot).parameters for z in solutions)

    def rows(self) -> list[dict[str, Any]]:
        """All parameters for a table and for JSON, with who tells them.

        ``log``; ``log and model`` together; ``model``: the log says little, or other runs are
        predicted as well without; ``nothing``: no trace of it in the log. Of a group of joints the
        mean, of a joint in its group what it is beside that mean.
        """
        sums = self.parameters.of_means(self.active)
        spread, told = (ask(self.active, sums) for ask in (self.linear.spread, self.linear.told))
        said, rows = sums @ self.z, []
        for place in np.flatnonzero(self.active):
            item, z = self.parameters.items[place], said[place]
            ends = (item.physical(z + side * 2.0 * spread[place]) for side in (-1.0, 1.0))
            low, high = sorted(ends)
            source = "log" if told[place] > 0.9 else "log and model"
            rows.append({"name": item.name, "value": item.physical(z), "low": low, "high": high,
                         "determined_by": source if told[place] > 0.5 else "model"})  # fmt: skip
        unknown = {"low": None, "high": None}
        for item, free, used in zip(
            self.parameters.items, self.linear.free, self.active, strict=True
        ):
            if not free:
                rows.append(
                    {"name": item.name, "value": None, **unknown, "determined_by": "nothing"}
                )
            elif not used:
                rows.append({"name": item.name, "value": item.physical(0.0), **unknown,
                             "determined_by": "model"})  # fmt: skip
        return rows


def search(
    train: Sequence[Log],
    robot: Robot,
    config: IdentifyConfig,
    judge: Judge,
    *,
    threads: int = 0,
    progress: Progress = lambda fraction: None,
) -> Identified:
    """Fit everything, then drop what is not needed.

    Args:
        train: What is fitted.
        robot: The model.
        config: How.
        judge: The validation part.
        threads: Of the simulator; 0: all cores.
        progress: Told the finished fraction.
    """
    stretches = [s for i, log in enumerate(train) for s in stretches_of(log, i, robot)]
    own, known = stretches[0].track.robot, all(s.track.base_known for s in stretches)

    def shooting(parameters: Parameters, every: int = 1) -> Shooting:
        windows = Windows(stretches, horizons_s=(config.window_s,), every_s=config.window_s,
                          late_s=MAX_DELAY_S)  # fmt: skip
        windows.keep(round(config.seconds / config.window_s) // every)
        return Shooting(windows, own, parameters, base_known=known, threads=threads)

    parameters = Parameters(own, kinds=config.groups)
    z, wanted = _begin(shooting, parameters, config)
    progress(0.2)
    mostly = wanted & ~_of_groups(parameters, _LATER)
    whole = shooting(parameters)
    z = _descend(whole, z, mostly, config.iterations, lambda part: progress(0.2 + 0.5 * part))
    z, reached = with_limits(whole, parameters, z, mostly, config.iterations)
    wanted &= reached | ~_of_groups(parameters, (_LIMIT,))
    linear = whole.linear(z)
    progress(0.8)
    return _Chooser(robot, parameters, linear, judge, whole).choose(wanted & linear.free)


def _begin(
    shooting: Callable[[Parameters, int], Shooting], parameters: Parameters, config: IdentifyConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Where the descent starts (P,), and which parameters it may change (P,).

    What a delay explains may be a rotor that is heavier than the model's, and no descent leads from
    the one to the other: a grid over both is looked at first.
    """
    rotors = _rotors(parameters)
    delays = [place for place, p in enumerate(parameters.items) if p.quantity == "delay_s"]
    grid = []
    for rotor in rotors:
        for delay in config.delays_ms if delays else (0.0,):
            z = rotor.copy()
            if delay > 0.0:
                wanted = delay / 1000.0 - parameters.robot.delay_s.max()
                z[delays] = wanted / parameters.items[delays[0]].scale
            grid.append(z)
    rough = shooting(parameters, _ROUGH)
    columns = np.clip(np.stack(grid, axis=1), *(bound[:, None] for bound in parameters.bounds))
    columns[delays] = np.stack(grid, axis=1)[delays]  # none at all lies below the bound
    costs = np.square(rough.residual(columns)).sum(axis=0)
    z = columns[:, int(np.argmin(costs))]
    wanted = _of_groups(parameters, config.groups)
    wanted[delays] = z[delays] != 0.0
    mostly = wanted & ~_of_groups(parameters, _LATER)
    return rough.solve(z, mostly, iterations=1), wanted


def _rotors(parameters: Parameters) -> list[np.ndarray]:
    """Beginnings (P,) with heavier rotors: the model's, all by a factor, all at least so heavy."""
    own = parameters.robot.armature
    places = [n for n, group in enumerate(parameters.groups) if group == "armature"]
    found = [np.zeros(len(parameters))]
    for factor, least in _ROTORS if places else ():
        z = found[0].copy()
        for place in places:
            item = parameters.items[place]
            here = float(np.median(own[item.columns]))
            times = max(factor, least / here) if here > 0.0 else 1.0
            z[place] = np.log(times) / item.scale
        found.append(z)
    return found


def _descend(
    shooting: Shooting, z: np.ndarray, active: np.ndarray, most: int, progress: Progress
) -> np.ndarray:
    """Gauss-Newton until a step hardly pays."""
    cost = shooting.cost(z)
    for number in range(most):
        z = shooting.solve(z, active, iterations=1)
        before, cost = cost, shooting.cost(z)
        progress((number + 1) / most)
        if cost > _PAYS * before:
            break
    return z


def with_limits(
    shooting: Shooting, parameters: Parameters, z: np.ndarray, active: np.ndarray, most: int
) -> tuple[np.ndarray, np.ndarray]:
    """With torque limits too (P,), if that explains the log much better; and with which (P,)."""
    none = np.zeros(len(z), dtype=bool)
    begun = limits_in_reach(parameters, shooting.windows, z)
    reached = begun != z
    if not reached.any():
        return z, none
    tried = shooting.solve(begun, reached, iterations=2)
    if shooting.cost(tried) > _PAYS * shooting.cost(z):
        return z, none
    return _descend(shooting, tried, active | reached, most, lambda part: None), reached


def limits_in_reach(parameters: Parameters, windows: Windows, z: np.ndarray) -> np.ndarray:
    """Torque limits (P,) where the log would begin to feel them, that of other parameters kept.

    A model whose motors never give all they have does not say that the robot's do: no derivative
    leads there. Where the log asks for too little to tell, the limit stays the model's.
    """
    robot, found = parameters.robot, z.copy()
    speed = windows.qvel[:, robot.qvel_ids]
    asked = robot.stiffness * (windows.target - windows.joint_pos) - robot.damping * speed
    for place, item in enumerate(parameters.items):
        if item.quantity == _LIMIT:
            share = np.abs(asked[:, item.columns]) / robot.torque_limit[item.columns]
            felt = _FELT * float(np.quantile(share, _OFTEN))
            if item.physical(item.low) < felt < 1.0:
                found[place] = np.log(felt) / item.scale
    return found


def _of_groups(parameters: Parameters, groups: Sequence[str]) -> np.ndarray:
    """(P,) which parameters are of these groups."""
    return np.array([group in groups for group in parameters.groups])


class _Chooser:
    """Drops groups, by the linear fit and the validation part."""

    def __init__(
        self, robot: Robot, parameters: Parameters, linear: LinearFit, judge: Judge,
        shooting: Shooting,
    ) -> None:  # fmt: skip
        self.robot, self.parameters, self.linear, self.judge = robot, parameters, linear, judge
        self.shooting = shooting
        self.tried: list[dict[str, Any]] = []

    def choose(self, active: np.ndarray) -> Identified:
        """From all groups to those that are needed."""
        groups = tuple(dict.fromkeys(np.array(self.parameters.groups)[active].tolist()))
        without = [tuple(g for g in groups if g != left) for left in groups]
        plain = tuple(g for g in groups if g in _PLAIN)
        everything, alone, *less = self._shares([groups, plain, *without], active)
        sets = {groups: everything, plain: alone, **dict(zip(without, less, strict=True))}
        needed = tuple(
            g for g, share in zip(groups, less, strict=True) if share > _NEEDED * everything
        )
        self._try(sets, [needed], active)
        if sets[plain] < _MISLED * everything:
            # Everything together misleads: build up from what is plain instead.
            more = {g: _in_order((*plain, g), groups) for g in groups if g not in plain}
            self._try(sets, list(more.values()), active)
            helps = [g for g, one in more.items() if _NEEDED * sets[one] < sets[plain]]
            self._try(sets, [_in_order((*plain, *helps), groups)], active)
        # The smallest set that is about as good as the best; whether none is better, others judge.
        sets = {chosen: share for chosen, share in sets.items() if chosen}
        least = min(sets.values())
        best = min((s for s in sets if sets[s] <= _NEEDED * least), key=len)
        chosen = active & _of_groups(self.parameters, best)
        z = self.linear.solution(chosen)
        return Identified(
            best, self.parameters, z, chosen, self.linear, self._correction(z), self.tried,
            sets[best], self.shooting.windows, self.shooting.robot,
        )  # fmt: skip

    def _try(
        self, known: dict[tuple[str, ...], float], sets: Sequence[tuple[str, ...]],
        active: np.ndarray,
    ) -> None:  # fmt: skip
        """Judge sets that were not judged yet."""
        new = [groups for groups in dict.fromkeys(sets) if groups and groups not in known]
        if new:
            known.update(zip(new, self._shares(new, active), strict=True))

    def _shares(self, sets: Sequence[tuple[str, ...]], active: np.ndarray) -> list[float]:
        robots = {}
        for groups in sets:
            z = self.linear.solution(active & _of_groups(self.parameters, groups))
            robots[" ".join(groups)] = self._correction(z).robot(self.robot)
        shares = self.judge.shares(robots)
        self.tried += [{"groups": name.split(), "validation_share": share}
                       for name, share in shares.items()]  # fmt: skip
        return [shares[" ".join(groups)] for groups in sets]

    def _correction(self, z: np.ndarray) -> Correction:
        return as_correction(self.parameters, z, self.robot)


def _in_order(chosen: Sequence[str], groups: Sequence[str]) -> tuple[str, ...]:
    return tuple(g for g in groups if g in chosen)


def as_correction(parameters: Parameters, z: np.ndarray, robot: Robot) -> Correction:
    """What parameters (P,) say, as a correction of a robot."""
    values = parameters.values(z[None])
    return Correction(
        robot_name=robot.name.partition("@")[0],
        joint_names=robot.joint_names,
        parameters={name: tuple(float(x) for x in row[0]) for name, row in values.items()
                    if not parameters.neutral(name, row[0])},
    )  # fmt: skip
