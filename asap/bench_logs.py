"""How many planted defects the check of logs finds and names, and how often it cries wolf.

    found = sweep(SweepConfig(instances=20), progress)
    found.classes["swapped_joints"].named                     # of .tried
    found.alarms_by_check, found.sound_logs                   # problems told of sound logs

Sound logs are those of shipped policies on the nominal robot and on every twin, with typical
sensors in the loop, a delay of their own, with and without a motion capture, some with an
accelerometer. Every instance of a defect is drawn from a generator of its own: the same seed plants
the same, whatever else is asked for.
"""

from __future__ import annotations

import functools
import importlib.util
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from asap.inputs import (
    case_of,
    open_motion,
    open_policy,
    shipped_motions,
    shipped_policies,
)
from asap.log_check import LogCheck, check_log
from asap.planted import NEED_BASE, NOISE, PLANTS, Planted, edited, without_base
from asap.planted_standing import standing
from asap.record import RecordConfig, record
from asap.robot import Robot
from asap.robot_file import twin_names
from asap_deploy import rotation
from asap_deploy.errors import InputError, suggestion
from asap_deploy.log import WIDTHS, Log

EPISODES = 3
"""In each log."""

RATE_HZ = 50.0
"""As stated to the check."""

LEAST_NAMED, MOST_ALARMS = 0.95, 0.02
"""What the check promises: shares of defects named, and of alarms per sound log."""

SLOW_S = 0.01
"""By how much one joint answers later than the others [s]."""

_JUDGES = {"swapped_joints": "joint_order", "flipped_joint": "joint_order",
           "joint_delay": "delay"}  # fmt: skip
"""Which finding says of which joints a defect cannot be told."""

_BULLET = "bullet"
_START_NOISE = 0.3
_GRAVITY = np.array([0.0, 0.0, 9.81])
_MAX_DELAY_S = 0.012
_SENSORS = {"joint_pos_noise": NOISE["joint_pos"], "joint_vel_noise": NOISE["joint_vel"],
            "ang_vel_noise": NOISE["ang_vel"], "tilt_noise": 0.003,
            "clock_jitter_s": 0.0001}  # fmt: skip
"""Where a twin says nothing about its sensors."""

Progress = Callable[[float], None]


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """What is planted, and in which logs."""

    robot: str = "g1"
    """Whose logs; policies and clips that ship for it are played."""
    classes: tuple[str, ...] = ()
    """Of defects; all by default."""
    instances: int = 20
    """Of each class."""
    twins: tuple[str, ...] = ()
    """Beside the nominal robot; all by default, without those whose engine is not installed."""
    logs: int = 2
    """Sound logs of each robot and motion."""
    seed: int = 0
    """Of everything."""

    def __post_init__(self) -> None:
        """Refuse what is not there."""
        for name in self.classes:
            if name not in CLASSES:
                raise InputError(f"there is no defect '{name}'{suggestion(name, list(CLASSES))}")
        if self.instances < 0 or self.logs < 1:
            raise InputError("need 0 instances or more, and 1 sound log or more")


class Sound(NamedTuple):
    """Where a log without a defect comes from."""

    robot: str
    twin: str
    """Empty: the nominal robot"""
    motion: str
    seed: int

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.twin or 'nominal'} {self.motion} seed {self.seed}"


@dataclass(frozen=True, kw_only=True)
class ClassResult:
    """One class of defects."""

    tried: int
    found: int
    """Logs in which anything was found"""
    named: int
    """... by its name, with the right joints"""
    untestable: int
    """Not named, and the check said that this log does not tell of these joints"""
    beside: int
    """Findings that are not the planted one's"""
    missed: tuple[str, ...]
    """What was said instead, of each that was not named"""


@dataclass(frozen=True, kw_only=True)
class LogSweep:
    """All classes, and the sound logs."""

    classes: dict[str, ClassResult]
    sound_logs: int
    alarms: tuple[tuple[str, str, str], ...]
    """Log, check and text of every problem that was told of a sound log"""

    @property
    def alarms_by_check(self) -> dict[str, int]:
        """How often each check cried wolf."""
        return dict(Counter(name for _, name, _ in self.alarms))

    @property
    def shortcomings(self) -> list[str]:
        """Where the check does not do what it promises."""
        told = [f"{name}: {one.named} of {one.tried - one.untestable} named"
                for name, one in self.classes.items()
                if one.named < LEAST_NAMED * (one.tried - one.untestable)]  # fmt: skip
        if len(self.alarms) > MOST_ALARMS * self.sound_logs:
            told.append(f"{len(self.alarms)} alarms in {self.sound_logs} sound logs")
        return told

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "classes": {name: vars(one) for name, one in self.classes.items()},
            "sound_logs": self.sound_logs,
            "alarms": [{"log": log, "check": name, "text": text}
                       for log, name, text in self.alarms],
            "shortcomings": self.shortcomings,
        }  # fmt: skip


def sweep(config: SweepConfig, progress: Progress = lambda fraction: None) -> LogSweep:
    """Check sound logs, and plant every defect so many times.

    Raises:
        InputError: If the robot has no policies, or a twin does not exist.
    """
    names, sound = config.classes or tuple(CLASSES), list(sound_logs(config))
    shown = [] if config.classes else sound  # some classes alone: nobody asked for alarms
    steps = len(names) * config.instances + len(shown)
    alarms: list[tuple[str, str, str]] = []
    for number, source in enumerate(shown):
        log = recorded(source)
        for what, given in ((source.label, log), (f"{source.label}, no base", without_base(log))):
            problems = _checked(given, config.robot).problems
            alarms += [(what, one.name, one.text) for one in problems]
        progress((number + 1) / steps)
    classes = {}
    for place, name in enumerate(names):
        begin = len(shown) + place * config.instances
        classes[name] = _tried(name, sound, config, _part(progress, begin, steps))
    return LogSweep(classes=classes, sound_logs=2 * len(shown), alarms=tuple(alarms))


def _part(progress: Progress, begin: int, steps: int) -> Callable[[int], None]:
    """Progress of a part of the whole, told in steps."""
    return lambda done: progress((begin + done) / steps)


def _tried(
    name: str, sound: list[Sound], config: SweepConfig, told: Callable[[int], None]
) -> ClassResult:
    """All instances of one class."""
    found, named, untestable, beside, missed = 0, 0, 0, 0, []
    for instance in range(config.instances):
        source, planted = plant(name, sound, instance, config.seed)
        checked = _checked(planted.log, config.robot)
        problems, silent = checked.problems, _said_untestable(checked, planted)
        own = [one for one in problems if one.name == planted.finding]
        right = any(not planted.joints or set(one.joints) == set(planted.joints) for one in own)
        found += bool(problems)
        named += right
        untestable += silent and not right
        beside += len(problems) - len(own)
        if not right:
            told_instead = ", ".join(f"{one.name} {' '.join(one.joints)}" for one in problems)
            told_instead = told_instead or ("said not to be testable" if silent else "")
            missed.append(f"{source.label}, instance {instance} {' '.join(planted.joints)}: "
                          f"{told_instead or 'nothing'}")  # fmt: skip
        told(instance + 1)
    return ClassResult(tried=config.instances, found=found, named=named, untestable=untestable,
                       beside=beside, missed=tuple(missed))  # fmt: skip


def _said_untestable(checked: LogCheck, planted: Planted) -> bool:
    """Whether the check said that it cannot tell of the planted joints, as a pair if they are."""
    told = [one for one in checked.findings if one.name == _JUDGES.get(planted.finding)]
    mine = set(planted.joints)
    return any(set(names) == mine for one in told for names in one.untested)


def plant(name: str, sound: list[Sound], instance: int, seed: int) -> tuple[Sound, Planted]:
    """One instance of a class, always the same one, and the log that it was planted in."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode()), instance])
    source = sound[int(rng.integers(len(sound)))]
    blind = bool(rng.random() < 0.4) and name not in NEED_BASE
    if name in OF_ROBOTS:
        while Robot.load(_name_of(source)).facts.get("engine") == _BULLET:  # too slow to do again
            source = sound[int(rng.integers(len(sound)))]
        planted = OF_ROBOTS[name](source, rng)
        return source, planted._replace(log=without_base(planted.log)) if blind else planted
    log = recorded(source)
    return source, PLANTS[name](without_base(log) if blind else log, rng)


def slow_joint(source: Sound, rng: np.random.Generator) -> Planted:
    """One lively joint that answers 10 ms later than the others."""
    target = recorded(source).fields["joint_pos_target"]
    robot = robot_of(source)
    lively = np.flatnonzero(target.std(axis=0) > 0.1)
    column = int(rng.choice(lively))
    delay_s = robot.delay_s.copy()
    delay_s[column] += SLOW_S
    log = played(source, robot.with_(delay_s=delay_s))
    return Planted(log, "joint_delay", (robot.joint_names[column],))


def weaker_motors(source: Sound, rng: np.random.Generator) -> Planted:
    """Motors that answer with 50 to 80 % from an episode on, and no gain says so."""
    robot = robot_of(source)
    # As a twin: what its motors make of gains that they are told is less.
    weak = robot.with_(name=f"{source.robot}@{source.twin or 'weaker'}",
                       stiffness=robot.stiffness * rng.uniform(0.5, 0.8))  # fmt: skip
    before, after = recorded(source), played(source, weak)
    return Planted(_joined(before, after), "gain_change")


def weaker_standing(source: Sound, rng: np.random.Generator) -> Planted:
    """Motors that fall to 50 to 75 % in the middle of a run in which the robot only stands."""
    log = standing(robot_of(source), Robot.load(source.robot), rng.uniform(0.5, 0.75), rng)
    return Planted(log, "gain_change")


OF_ROBOTS: dict[str, Callable[[Sound, np.random.Generator], Planted]] = {
    "slow_joint": slow_joint,
    "weaker_motors": weaker_motors,
    "weaker_standing": weaker_standing,
}
"""Defects that must be recorded, for no sound log can be turned into one that has them."""

CLASSES = (*PLANTS, *OF_ROBOTS)


def sound_logs(config: SweepConfig) -> Iterator[Sound]:
    """All that a sweep draws from.

    Raises:
        InputError: If no policy ships for the robot.
    """
    robot = Robot.load(config.robot)
    # Not the policy that only stands: it has no clip, and moves nothing that could be checked.
    motions = [name for name in shipped_policies(robot) if name in shipped_motions(robot)]
    if not motions:
        raise InputError(f"no policy ships for robot '{robot.name}': nothing can be recorded")
    for twin in ("", *(config.twins or _installed_twins(robot))):
        named = Robot.load(_name_of(Sound(config.robot, twin, "", 0)))
        slow = named.facts.get("engine") == _BULLET
        for motion in motions:
            # A minute each, where others take two seconds: one must do.
            for number in range(1 if slow else config.logs):
                yield Sound(config.robot, twin, motion, 1000 * config.seed + number)


def _installed_twins(robot: Robot) -> tuple[str, ...]:
    """Twins whose engine is there."""
    bullet = importlib.util.find_spec("pybullet") is not None
    return tuple(
        name for name in twin_names(robot.folder)
        if bullet or Robot.load(f"{robot.name}@{name}").facts.get("engine") != _BULLET
    )  # fmt: skip


@functools.lru_cache(maxsize=256)
def recorded(source: Sound) -> Log:
    """The log itself."""
    return played(source, robot_of(source))


def robot_of(source: Sound) -> Robot:
    """The robot of a log, with its sensors; a delay is drawn where it is said to have none."""
    robot = Robot.load(_name_of(source))
    layers = ({"sensors": _SENSORS}, *robot.facts.layers)
    robot = robot.with_(facts=replace(robot.facts, layers=layers))
    if robot.delay_s.any():
        return robot
    late = _draws(source).uniform(0.0, _MAX_DELAY_S)
    return robot.with_(delay_s=np.full(len(robot.joint_names), late))


def _name_of(source: Sound) -> str:
    return source.robot + (f"@{source.twin}" if source.twin else "")


def _draws(source: Sound) -> np.random.Generator:
    return np.random.default_rng([source.seed, zlib.crc32(source.label.encode())])


def played(source: Sound, robot: Robot) -> Log:
    """The motion on a robot, logged."""
    nominal, rng = Robot.load(source.robot), _draws(source)
    clip = open_motion(Path(source.motion), nominal, ground=True)
    case = case_of(open_policy(Path(source.motion), nominal, clip, None))
    config = RecordConfig(episodes=EPISODES, start_noise=_START_NOISE,
                          seed=int(rng.integers(1 << 31)), threads=1)  # fmt: skip
    log = record(case, robot, config)
    return _with_accelerometer(log, rng) if rng.random() < 0.5 else log


def _with_accelerometer(log: Log, rng: np.random.Generator) -> Log:
    """What an IMU feels beside its turning: a = R^T (dv/dt + g)."""
    speed, episode = log.fields["base_lin_vel_w"], log.fields["episode"]
    change = np.zeros_like(speed)
    change[1:] = np.diff(speed, axis=0) * RATE_HZ
    change[1:][episode[1:] != episode[:-1]] = 0.0
    acc = rotation.rotate_inverse(log.fields["base_quat_wxyz"], change + _GRAVITY)
    return edited(log, imu_lin_acc_b=acc + rng.normal(0.0, NOISE["acc"], acc.shape))


def _joined(first: Log, second: Log) -> Log:
    """Two runs in one file, a second apart."""
    fields = {name: np.concatenate([array, second.fields[name]]) if name in WIDTHS else array
              for name, array in first.fields.items()}  # fmt: skip
    fields["episode"] = np.concatenate([
        first.fields["episode"], second.fields["episode"] + first.fields["episode"][-1] + 1
    ])  # fmt: skip
    later = first.time_s[-1] + 1.0 - second.time_s[0]
    return replace(
        first,
        time_s=np.concatenate([first.time_s, second.time_s + later]),
        joint_pos=np.concatenate([first.joint_pos, second.joint_pos]),
        fields=fields,
    )


def _checked(log: Log, robot: str) -> LogCheck:
    return check_log(log, Robot.load(robot), stated_rate_hz=RATE_HZ)
