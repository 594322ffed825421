"""Which teacher a policy copies before it learns by itself.

teacher = find_teacher(robot, motion, "auto")
if teacher.worth_copying: action = teacher.act(env)
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from asap.env import TrackingEnv
from asap.imitate import Teacher
from asap.regulator import TEST_NOISE, Regulator, plan_regulator
from asap.robot import Robot
from asap.teacher import NetworkTeacher, Trial, trial_env, tried
from asap_deploy.golden import read_policy_bytes
from asap_deploy.motion import Motion

AUTO, REGULATOR = "auto", "regulator"
WORTH_COPYING = 0.25
"""A regulator that finishes fewer of its test rollouts is left out; so is a network that does not
come through so much of a clip: what it does until then is worth something still."""

GOOD = 0.9
"""A network that finishes so many of its tests is taken without planning a regulator."""

HEAD_START = 0.2
"""A regulator must finish so many more: it does worse away from its motion. On a jump with a turn
both finish about 80 % of their tests; copied, the network's pupils finish more."""


@dataclass(frozen=True)
class Planned:
    """A regulator as a teacher."""

    regulator: Regulator

    @property
    def finished(self) -> float:
        """Part of its test rollouts that reached the clip's end."""
        return self.regulator.finished

    @property
    def about(self) -> str:
        """How far it comes."""
        return f"regulator planned for the clip, finishes {self.finished:.0%} of its tests"

    @property
    def worth_copying(self) -> bool:
        """A linear teacher that is lost says nothing useful."""
        return self.finished >= WORTH_COPYING

    def act(self, env: TrackingEnv) -> np.ndarray:
        """Actions (N, A) that command its targets."""
        return env.action_of(self.regulator.act(env.sim, env.frame))


@dataclass(frozen=True)
class Trained:
    """A network as a teacher of one clip."""

    network: NetworkTeacher
    trial: Trial

    @property
    def finished(self) -> float:
        """Part of its test rollouts that reached the clip's end."""
        return self.trial.finished

    @property
    def about(self) -> str:
        """How far it comes."""
        finished, reach = self.trial
        return f"trained teacher, finishes {finished:.0%} of its tests, comes through {reach:.0%}"

    @property
    def worth_copying(self) -> bool:
        """It keeps robots up even where it does not follow."""
        return self.trial.reach >= WORTH_COPYING

    def act(self, env: TrackingEnv) -> np.ndarray:
        """Actions (N, A)."""
        return self.network.act(env)


def find_teacher(robot: Robot, motion: Motion, which: str = AUTO, *, threads: int = 0) -> Teacher:
    """The better teacher of a clip.

    Args:
        robot: As it is trained, with a free base.
        motion: The clip.
        which: ``auto``, ``regulator``, or the file of a trained teacher, which is then taken
            however well it does.
        threads: Of the simulation; they do not change the result.

    Raises:
        InputError: If the file is no teacher of this robot.
    """
    network, path = None, _file(robot, which)
    if path is not None:
        network = _tried(NetworkTeacher.load(path), robot, motion, threads)
        if which != AUTO or network.finished >= GOOD:
            return network
    planned = Planned(plan_regulator(robot, motion, threads=threads))
    if network is not None and network.finished + HEAD_START >= planned.finished:
        return network
    return planned


def teacher_sha256(robot: Robot, which: str) -> str | None:
    """Hash of the trained teacher that may be copied; None if there is none.

    Raises:
        InputError: If the file cannot be read.
    """
    path = _file(robot, which)
    return None if path is None else hashlib.sha256(read_policy_bytes(path)).hexdigest()


def _file(robot: Robot, which: str) -> Path | None:
    """Where the trained teacher is."""
    if which == REGULATOR:
        return None
    return own_teacher(robot) if which == AUTO else Path(which)


def own_teacher(robot: Robot) -> Path | None:
    """``teacher.onnx``, or ``teacher-<variant>.onnx``, beside the robot's ``robot.toml``."""
    _, _, variant = robot.name.partition("@")[0].partition(":")
    path = robot.folder / (f"teacher-{variant}.onnx" if variant else "teacher.onnx")
    return path if path.exists() else None


def _tried(network: NetworkTeacher, robot: Robot, motion: Motion, threads: int) -> Trained:
    """A teacher and how well it does on a clip."""
    env = trial_env(robot, motion, noise=TEST_NOISE, threads=threads)
    return Trained(network, tried(network, env))
