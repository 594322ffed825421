"""Doubt in a learned offset while a policy is trained on beside it: the paper's own two options.

    arm = doubted(arm, Doubt(without=0.2, scale=(0.5, 1.5)), seed=0)

A part of the robots goes without the offset, the others have each joint's scaled at random. So a
policy that leans on the offset, and would fall on a robot without it, does worse in training. Those
that choose the policy have the offset as it was fitted.
Source: He et al. 2025, released code, options of fine-tuning; their values were not published.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from asap.finetune import Arm
from asap.learned import Learned
from asap_deploy.errors import InputError
from asap_deploy.observation import Measurement


@dataclass(frozen=True, kw_only=True)
class Doubt:
    """How much a learned offset is believed in training."""

    without: float = 0.0
    """Part of the robots that has no offset."""
    scale: tuple[float, float] = (1.0, 1.0)
    """Factors of the offset, drawn for each robot and joint."""

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        if not 0.0 <= self.without <= 1.0:
            raise InputError(f"without must be a part between 0 and 1; got {self.without:g}")
        low, high = self.scale
        if not 0.0 <= low <= high < np.inf:
            raise InputError(f"scale must be two factors from 0 on, the smaller first; got {low:g} "
                             f"{high:g}")  # fmt: skip

    @property
    def none(self) -> bool:
        """Whether the offset is believed as it is."""
        return self.without == 0.0 and self.scale == (1.0, 1.0)


class DoubtedLearned(Learned):
    """A learned offset that differs from robot to robot, and stays with each."""

    def __init__(self, learned: Learned, doubt: Doubt, seed: int) -> None:
        """The same network.

        Args:
            learned: What was fitted.
            doubt: How far it is believed.
            seed: Of who gets how much.
        """
        super().__init__(learned.contract, learned.data)
        self._doubt, self._seed = doubt, seed
        self._factors = np.empty((0, len(learned.contract.bound)))

    def __call__(self, measured: Measurement, joint_pos_target: np.ndarray) -> np.ndarray:
        """See ``Learned``; row i is robot i."""
        return super().__call__(measured, joint_pos_target) * self.factors(len(joint_pos_target))

    def factors(self, num_envs: int) -> np.ndarray:
        """(N, outputs) the same in every step."""
        if len(self._factors) != num_envs:
            rng = np.random.default_rng(self._seed)
            believed = rng.permutation(num_envs) >= round(self._doubt.without * num_envs)
            drawn = rng.uniform(*self._doubt.scale, (num_envs, len(self.contract.bound)))
            self._factors = drawn * believed[:, None]
        return self._factors


def doubted(arm: Arm, doubt: Doubt, *, seed: int) -> Arm:
    """The arm with doubt in its offset; one that has no offset stays as it is.

    Args:
        arm: Of a fine-tuning.
        doubt: How much.
        seed: Of who gets how much.
    """
    learned = arm.robot.learned
    if learned is None or doubt.none:
        return arm
    assert isinstance(learned, Learned), "what a correction holds"
    robot = arm.robot.with_(learned=DoubtedLearned(learned, doubt, seed))
    return arm._replace(robot=robot, judges=arm.judges or (arm.robot,))
