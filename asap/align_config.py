"""What an alignment is told: what to do, how much of everything, who follows it.

config = AlignConfig(rounds=2, train=dataclasses.replace(FINETUNE, steps=500_000))
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from asap.delta_doubt import Doubt
from asap.finetune import CONTROLS, DELTA, FINETUNE, WITHOUT_FIT, Finetuned, finetune
from asap.fit_methods import FitConfig
from asap.inputs import OpenedMotion
from asap.record import RecordConfig
from asap.train import Trainer
from asap.training_run import TrainConfig
from asap_deploy.errors import InputError
from asap_deploy.policy import Policy

NOTHING_LEARNED = ("identify", "grid")
"""Methods of a fit that find parameters alone."""


class Task(NamedTuple):
    """A clip, and the policy that tracks it."""

    clip: OpenedMotion
    policy: Policy | None
    """None: trained first"""
    file: Path | None = None
    """Of the policy"""


@dataclass(frozen=True, kw_only=True)
class AlignConfig:
    """How much of everything."""

    collect: RecordConfig = field(default_factory=functools.partial(RecordConfig, start_noise=0.5))
    """How the robot is recorded in a round, each motion."""
    rounds: int = 1
    """Times that the loop is gone through, each with the policies of the one before."""
    controls: bool = False
    """Also train without the correction, with noise, with randomisation, with a learned offset
    alone, and on the robot."""
    arms: tuple[str, ...] = ()
    """Controls to train, of `CONTROLS`; all by default."""
    corrected: bool = True
    """Collect, fit, and train in the corrected simulator; without, only controls that need none of
    it are trained: nothing is recorded and nothing is fitted."""
    judge_episodes: int = 256
    """Noisy episodes by which policies are compared at the end."""
    fit: FitConfig = field(default_factory=FitConfig)
    """How the correction is fitted."""
    doubt: Doubt = field(default_factory=Doubt)
    """How far a learned offset is believed in training; by default as it was fitted."""
    train: TrainConfig = FINETUNE
    """How policies are trained on."""
    pretrain: TrainConfig = field(default_factory=TrainConfig)
    """How policies are trained where none was given."""
    seed: int = 0
    """Of everything random."""
    threads: int = 0
    """Of the simulator; 0: all cores."""

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        for name in ("rounds", "judge_episodes"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1; got {getattr(self, name)}")
        for arm in self.arms:
            if arm not in CONTROLS:
                raise InputError(f"no control is called '{arm}'; there are {', '.join(CONTROLS)}")
        if not self.doubt.none and self.fit.method in NOTHING_LEARNED and not self.delta_alone:
            raise InputError(
                f"doubt is of learned offsets: a fit with method '{self.fit.method}' learns none"
            )
        if not self.corrected:
            self._check_without_fit()

    @property
    def delta_alone(self) -> bool:
        """Whether the control with an offset that is learned without identification is wanted."""
        return self.controls and DELTA in (self.arms or CONTROLS)

    def _check_without_fit(self) -> None:
        """Refuse arms that need a fit, and a run that would train nothing."""
        if not self.controls:
            raise InputError("without the corrected simulator and without controls nothing would "
                             "be trained")  # fmt: skip
        needy = [arm for arm in self.arms if arm not in WITHOUT_FIT]
        if needy:
            raise InputError(
                f"without the corrected simulator there is no fit that {', '.join(needy)} could "
                f"depend on; there are {', '.join(WITHOUT_FIT)}"
            )


class Watch:
    """Who follows a run; this one does not look."""

    def stage(self, name: str, reused: bool) -> None:
        """A stage begins, or is taken as it is."""

    def fraction(self, part: float) -> None:
        """So much of the stage is done."""

    def train(self, trainer: Trainer) -> Finetuned:
        """Run a fine-tuning."""
        return finetune(trainer)

    def pretrain(self, trainer: Trainer) -> bool:
        """Run a training; false if it was interrupted."""
        return not trainer.run().interrupted
