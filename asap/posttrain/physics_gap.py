"""Do old data and the simulator that goes on with them obey the same physics?

One critic that learns from both believes both: where a step of the robot ends elsewhere than the
simulator's, it learns a world that is neither. So the gap is measured first, beside what the
simulator's own episodes show, which is the noise of sensors.

    gap = physics_gap(task, prior, own)
    gap.ratio                                        # 1: no gap beyond noise
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from asap.posttrain.episode import Episode
from asap.posttrain.humanoid import TrackingTask
from asap_deploy.errors import InputError

LARGEST = 1.5
"""Prior data that are farther off than this, in units of the simulator's own, are refused."""
_ROWS = 256
_AHEAD_S = 0.2


class Gap(NamedTuple):
    """Joints 0.2 s ahead [deg]."""

    prior: float
    """RMS of what the simulator predicts against what the data say"""
    own: float
    """The same of its own episodes: noise"""

    @property
    def ratio(self) -> float:
        """How many times as far off."""
        return self.prior / max(self.own, 1e-9)


def physics_gap(task: TrackingTask, prior: Sequence[Episode], own: Sequence[Episode]) -> Gap:
    """Simulate pieces of 0.2 s of both.

    Args:
        task: Predicts; its episodes are lost.
        prior: Data from elsewhere.
        own: Of this task.
    """
    return Gap(_error(task, prior), _error(task, own))


def check_gap(gap: Gap, largest: float = LARGEST) -> None:
    """Refuse data of other physics.

    Raises:
        InputError: If the gap is larger.
    """
    if not gap.ratio <= largest:
        raise InputError(
            f"0.2 s of the prior data end {gap.prior:.2f} deg from where the simulator says, "
            f"{gap.ratio:.1f} times as far as its own do: correct the simulator first "
            f"(`asap fit`, then --correction), or accept it with --largest-gap {gap.ratio:.1f}"
        )


def _error(task: TrackingTask, episodes: Sequence[Episode]) -> float:
    """RMS over joints and up to 256 pieces, spread over all episodes [deg]."""
    ahead = max(1, round(_AHEAD_S / task.control_dt))
    places = [(one, step) for one in episodes for step in range(one.steps - ahead)]
    chosen = np.linspace(0, len(places) - 1, min(_ROWS, len(places))).astype(int)
    total, count = 0.0, 0
    for first in range(0, len(chosen), task.num_envs):
        some = [places[place] for place in chosen[first : first + task.num_envs]]
        padded = [some[i % len(some)] for i in range(task.num_envs)]
        state = {name: np.stack([one.channels[name][step] for one, step in padded])
                 for name in episodes[0].channels}  # fmt: skip
        actions = np.stack([one.action_executed[step : step + ahead] for one, step in padded], 1)
        reached = np.stack([one.channels["joint_pos"][step + ahead] for one, step in padded])
        error = np.rad2deg(task.ahead(state, actions) - reached)[: len(some)]
        total, count = total + float(np.square(error).sum()), count + error.size
    return float(np.sqrt(total / max(count, 1)))
