"""A real run beside a simulated run of the same policy: for logs that hold no targets.

    found = compare_run(log, case, Robot.load("g1"))
    found.joint_mae_deg.mean(), found.reference_mae_deg.mean()

The simulated robot starts the clip when the log's robot did: the shift is the one at which the two
agree best. Beside the simulation stands the clip itself, as if both tracked it perfectly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from asap.evaluate import Case
from asap.log_states import columns_of
from asap.record import RecordConfig, record
from asap.robot import Robot
from asap_deploy.errors import InputError
from asap_deploy.log import Log

_EDGE_S = 1.0
"""How much of the clip may be missing at either end of the log [s]."""


@dataclass(frozen=True, kw_only=True)
class RunComparison:
    """Mean absolute differences over the time that both cover, (J,) each."""

    joint_names: tuple[str, ...]
    joint_mae_deg: np.ndarray
    """Log against simulation [deg]"""
    reference_mae_deg: np.ndarray
    """Log against the clip [deg]"""
    shift_s: float
    """Time of the log at which the clip began [s]"""
    covered_s: float
    """Time that was compared [s]"""

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "joint_names": list(self.joint_names),
            "joint_mae_deg": self.joint_mae_deg,
            "reference_mae_deg": self.reference_mae_deg,
            "shift_s": self.shift_s,
            "covered_s": self.covered_s,
        }


def compare_run(log: Log, case: Case, robot: Robot, *, seed: int = 0) -> RunComparison:
    """Roll the policy out and lay it over the log.

    Args:
        log: One run; only the joint positions are needed.
        case: The policy that drove it, and its clip.
        robot: The simulator's idea of it.
        seed: Of the simulated sensors.

    Raises:
        InputError: If the log lacks joints or is far shorter than the clip.
    """
    simulated = record(case, robot, RecordConfig(episodes=1, seed=seed))
    places = columns_of(log, robot)
    dt = robot.control_dt
    times = np.arange(0.0, log.duration_s, dt)
    real = np.stack([np.interp(times, log.time_s - log.time_s[0], log.joint_pos[:, place])
                     for place in places], axis=1)  # fmt: skip
    reference = case.motion.at(np.minimum(dt * np.arange(len(simulated.time_s)),
                                          case.motion.duration_s)).joint_pos  # fmt: skip
    order = [case.motion.joint_names.index(name) for name in robot.joint_names]
    shift = _best_shift(real, simulated.joint_pos, round(_EDGE_S / dt))
    first, last = max(0, shift), min(len(real), shift + len(simulated.joint_pos))
    rows = np.arange(first, last)
    ours = simulated.joint_pos[rows - shift]
    return RunComparison(
        joint_names=robot.joint_names,
        joint_mae_deg=np.rad2deg(np.abs(real[rows] - ours).mean(axis=0)),
        reference_mae_deg=np.rad2deg(
            np.abs(real[rows] - reference[:, order][rows - shift]).mean(axis=0)
        ),
        shift_s=float(shift * dt),
        covered_s=float(len(rows) * dt),
    )


def _best_shift(real: np.ndarray, ours: np.ndarray, edge: int) -> int:
    """Rows by which the simulated run must be moved to lie on the log.

    Raises:
        InputError: If they cannot lie on each other.
    """
    shifts = range(-edge, len(real) - len(ours) + edge + 1)
    if len(shifts) == 0:
        raise InputError(
            f"log of {len(real)} rows is much shorter than the clip's {len(ours)}: nothing to lay "
            "over each other"
        )

    def apart(shift: int) -> float:
        rows = np.arange(max(0, shift), min(len(real), shift + len(ours)))
        return float(np.abs(real[rows] - ours[rows - shift]).mean())

    return min(shifts, key=apart)
