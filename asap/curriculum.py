"""What gets harder as training goes well: costs grow, and less distance is forgiven.

Every control step in which episodes end, their mean length decides: long enough, and both move a
little; too short, and they move back. Source: He et al. 2025 and the released recipe.

    curriculum = Curriculum(CurriculumConfig.paper())
    curriculum.update(ended_steps, num_envs)
    curriculum.cost_scale, curriculum.fail_distance_m
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from asap_deploy.errors import InputError

_MEMORY = 10_000
"""Ended episodes over which the mean length is remembered."""


@dataclass(frozen=True, kw_only=True)
class CurriculumConfig:
    """Where costs and distance begin and end; equal numbers stand still."""

    cost_scale: tuple[float, float] = (1.0, 1.0)
    """Multiple of the costs, first and last."""
    cost_growth: float = 1e-5
    """Relative change in a step."""
    fail_distance_m: tuple[float, float] = (0.5, 0.5)
    """Distance of any point at which an episode fails, first and last [m]."""
    distance_shrinkage: float = 2.5e-5
    """Relative change in a step."""
    harder_above: float = 42.0
    """Mean length of episodes [control steps]."""
    easier_below: float = 40.0
    """Mean length of episodes [control steps]."""

    def __post_init__(self) -> None:
        """Refuse ranges that run backwards."""
        low, high = self.cost_scale
        far, near = self.fail_distance_m
        if not (0.0 <= low <= high and far >= near > 0.0):
            raise InputError(
                "a curriculum's costs must grow and its distance must shrink; got "
                f"{self.cost_scale} and {self.fail_distance_m}"
            )

    @classmethod
    def paper(cls) -> CurriculumConfig:
        """The released recipe: costs from a tenth, distance from 1.5 m to 0.3 m."""
        return cls(cost_scale=(0.1, 1.0), fail_distance_m=(1.5, 0.3))


class Curriculum:
    """The state of the curriculum."""

    def __init__(self, config: CurriculumConfig) -> None:
        """Begin with the easiest."""
        self.config = config
        self.cost_scale = config.cost_scale[0]
        self.fail_distance_m = config.fail_distance_m[0]
        self.mean_length = 0.0

    def update(self, ended_steps: np.ndarray) -> None:
        """Take the lengths of episodes that ended in this step, (n,) [control steps]."""
        config = self.config
        if len(ended_steps) == 0:
            return
        weight = min(1.0, len(ended_steps) / _MEMORY)
        self.mean_length += weight * (float(ended_steps.mean()) - self.mean_length)
        if self.mean_length > config.harder_above:
            direction = 1.0
        elif self.mean_length < config.easier_below:
            direction = -1.0
        else:
            return
        scale = self.cost_scale * (1.0 + direction * config.cost_growth)
        distance = self.fail_distance_m * (1.0 - direction * config.distance_shrinkage)
        self.cost_scale = float(np.clip(scale, *config.cost_scale))
        self.fail_distance_m = float(np.clip(distance, *config.fail_distance_m[::-1]))

    def snapshot(self) -> list[float]:
        """The numbers that change."""
        return [self.cost_scale, self.fail_distance_m, self.mean_length]

    def restore(self, snapshot: list[float]) -> None:
        """Undo what happened since the snapshot."""
        self.cost_scale, self.fail_distance_m, self.mean_length = snapshot
