"""One network for many clips: it is told what the motion does, where specialists know it by heart.

    student = Student.begin(robot, specialists, hidden=(384, 256, 128), num_envs=16, seed=0)
    rldg(student.actor, student.teachers(), RldgConfig(), seed=0)
    files = student.write()                          # one policy file for each clip

The observation is BeyondMimic's without state estimation: reference joints, how the torso should be
turned, what the robot measures. A phase alone, which trackers see, says nothing of another clip.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from asap import onnx_file
from asap.export import make_contract, write_policy
from asap.inputs import OpenedMotion
from asap.posttrain.actors import Gaussian, InputNorm, mlp
from asap.posttrain.collect import collect
from asap.posttrain.humanoid import TrackingTask
from asap.posttrain.rldg import Specialist
from asap.posttrain.tuned_policy import action_differs
from asap.robot import Robot
from asap.tracking import StartNoise
from asap_deploy.contract import PolicyContract
from asap_deploy.errors import InputError
from asap_deploy.observation import LAYOUTS
from asap_deploy.policy import Policy

LAYOUT = "beyondmimic"


class Known(NamedTuple):
    """A specialist and its clip."""

    policy: Policy
    clip: OpenedMotion


@dataclasses.dataclass(frozen=True, kw_only=True)
class Student:
    """A network, and each clip as the specialist and as the student see it."""

    robot: Robot
    known: tuple[Known, ...]
    actor: Gaussian
    tasks: tuple[TrackingTask, ...]
    """Specialists act here"""
    seen_as: tuple[TrackingTask, ...]
    """The student acts here"""

    @classmethod
    def begin(
        cls, robot: Robot, known: Sequence[Known], *, hidden: Sequence[int], num_envs: int,
        seed: int, start_noise: StartNoise = "small", threads: int = 0,
    ) -> Student:  # fmt: skip
        """A network that knows nothing, its inputs normalised by what specialists do.

        Raises:
            InputError: If there are no two specialists, or their actions mean different things.
        """
        _check(known)
        tasks = [TrackingTask(robot, one.policy, one.clip, num_envs, start_noise=start_noise,
                              threads=threads) for one in known]  # fmt: skip
        contracts = [_contract(robot, one) for one in known]
        width = len(contracts[0].element_names)
        actions = len(contracts[0].action_joint_names)
        torch.manual_seed(seed)
        net = mlp([width, *hidden, actions])
        net.insert(0, InputNorm(np.zeros((2, width))))
        actor = Gaussian(net, actions, -1.6)
        files = [_file(actor, contract, robot, one.clip)
                 for contract, one in zip(contracts, known, strict=True)]  # fmt: skip
        seen_as = [TrackingTask(robot, Policy.from_bytes(data), one.clip, num_envs,
                                start_noise=start_noise, threads=threads)
                   for data, one in zip(files, known, strict=True)]  # fmt: skip
        rng = np.random.default_rng(seed)
        rows = [seen.observations(episode)
                for one, task, seen in zip(known, tasks, seen_as, strict=True)
                for episode in collect(task, one.policy.act, 2, rng)]  # fmt: skip
        net[0] = InputNorm(np.concatenate(rows))
        return cls(robot=robot, known=tuple(known), actor=actor, tasks=tuple(tasks),
                   seen_as=tuple(seen_as))  # fmt: skip

    def teachers(self) -> list[Specialist]:
        """For ``rldg``."""
        every = zip(self.known, self.tasks, self.seen_as, strict=True)
        return [Specialist(one.policy.act, task, seen) for one, task, seen in every]

    def write(self) -> dict[str, bytes]:
        """By clip, the network as a policy of it."""
        return {one.clip.name: _file(self.actor, seen.policy.contract, self.robot, one.clip)
                for one, seen in zip(self.known, self.seen_as, strict=True)}  # fmt: skip


def _check(known: Sequence[Known]) -> None:
    """Refuse specialists that do not speak of the same actions."""
    if len(known) < 2:
        raise InputError("rldg makes one policy of several: give at least two specialists")
    first = known[0].policy.contract
    for one in known[1:]:
        if name := action_differs(first, one.policy.contract):
            raise InputError(
                f"specialists of '{known[0].clip.name}' and '{one.clip.name}' differ in {name}: "
                "their actions mean different things"
            )


def _contract(robot: Robot, one: Known) -> PolicyContract:
    """As the specialist's, with the student's observation."""
    old = one.policy.contract
    new = make_contract(robot, LAYOUTS[LAYOUT], one.clip.motion, motion_name=one.clip.name,
                        offset_mode=old.offset_mode,
                        provenance={"recipe": "rldg", "noise": "none: the mean of a Gaussian",
                                    "specialist_sha256": one.policy.sha256})  # fmt: skip
    return dataclasses.replace(new, stiffness=old.stiffness, damping=old.damping,
                               action_scale=old.action_scale,
                               default_joint_pos=old.default_joint_pos)  # fmt: skip


def _file(actor: Gaussian, contract: PolicyContract, robot: Robot, clip: OpenedMotion) -> bytes:
    net = actor.net
    assert isinstance(net, torch.nn.Sequential), "a student is a plain network"
    norm = net[0]
    assert isinstance(norm, InputNorm)
    layers = [(one.weight.detach().numpy().copy(), one.bias.detach().numpy().copy())
              for one in net if isinstance(one, torch.nn.Linear)]  # fmt: skip
    model = onnx_file.network(layers, mean=norm.mean.numpy(), std=norm.std.numpy())
    return write_policy(model, contract, robot, clip.motion)
