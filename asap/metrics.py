"""Tracking errors as the literature defines them, and intervals that say how sure they are.

Positions are of named points in the world; one error is the mean over points of the distance, in
millimetres. Velocities and accelerations are first and second differences between frames at
50 Hz: 1 mm/frame is 0.05 m/s, 1 mm/frame^2 is 2.5 m/s^2.

    meter = ErrorMeter(episodes)
    meter.add(points, reference, base, reference_base, alive)        # every frame
    bootstrap_ratio(meter.sums["mpjpe_mm"], meter.counts["mpjpe_mm"], rng)
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import special

from asap.robot import Robot
from asap.sim_protocol import Simulation
from asap_deploy import rotation

MM = 1000.0
RESAMPLES = 1000
_CARRIES_N = 20.0
"""A foot under less than this may slide without anybody seeing it [N]."""
COVERAGE = 0.95
FEW_EPISODES = 3
"""Fewer are not resampled: what is drawn of two lies between them, the truth only half the time."""
ERROR_NAMES = (
    "global_mpjpe_mm",
    "mpjpe_mm",
    "vel_error_mm_per_frame",
    "acc_error_mm_per_frame2",
)
EFFORT_NAMES = ("torque_nm", "target_rate_rad_s", "foot_slip_mm_s")
"""What a motion costs and whether it shakes or skates: mean torque of a joint, mean speed with
which its target changes, mean horizontal speed of feet that carry load."""


class Interval(NamedTuple):
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        """For JSON."""
        return {"value": self.value, "low": self.low, "high": self.high}


class TrackedPoints:
    """The points over which errors are averaged: links, and points fixed in a link."""

    def __init__(self, robot: Robot, *, virtual: bool = True, all_bodies: bool = False) -> None:
        """Choose the points.

        Args:
            robot: Names its links and virtual points.
            virtual: Add the virtual points (hands and head); 27 points on the G1, as published.
            all_bodies: Use every body of the robot instead of its links alone.
        """
        links = robot.body_names if all_bodies else robot.link_body_names
        points = robot.virtual_points if virtual else ()
        self.names = (*links, *(point.name for point in points))
        self._bodies = robot.body_index([*links, *(point.body for point in points)])
        offsets = [np.zeros(3)] * len(links) + [np.array(point.offset_b) for point in points]
        self._offset_b = np.stack(offsets)
        self._moved = np.flatnonzero(np.any(self._offset_b != 0.0, axis=1))

    def positions(self, body_pos_w: np.ndarray, body_quat_wxyz: np.ndarray) -> np.ndarray:
        """World positions (..., P, 3) from bodies in robot order (..., B, 3) and (..., B, 4)."""
        points = body_pos_w[..., self._bodies, :]
        moved = self._moved
        quat = body_quat_wxyz[..., self._bodies[moved], :]
        points[..., moved, :] += rotation.rotate(quat, self._offset_b[moved])
        return points

    def attitudes(self, body_quat_wxyz: np.ndarray) -> np.ndarray:
        """Attitudes (..., P, 4) of the bodies that the points are fixed to."""
        return body_quat_wxyz[..., self._bodies, :]


class ErrorMeter:
    """Adds up the errors of N episodes, frame by frame, while each is alive.

    Source: He et al. 2025, table IV, with the definitions of smpl_sim: the root-relative error
    subtracts the position of the base and turns nothing; velocity and acceleration errors are
    those of all points and not of the base alone.
    """

    def __init__(self, episodes: int) -> None:
        """Begin with no frames."""
        self.sums = {name: np.zeros(episodes) for name in ERROR_NAMES}
        self.counts = {name: np.zeros(episodes, dtype=int) for name in ERROR_NAMES}
        self.worst_mm = np.zeros(episodes)
        """Largest mean distance of a frame so far."""
        self._past: list[np.ndarray] = []

    def add(
        self,
        points: np.ndarray,
        reference: np.ndarray,
        base: np.ndarray,
        reference_base: np.ndarray,
        alive: np.ndarray,
    ) -> np.ndarray:
        """Count one frame.

        Args:
            points: (N, P, 3) positions of the robot's points [m].
            reference: (P, 3) or (N, P, 3) positions of the same points in the motion [m].
            base: (N, 3) position of the robot's base [m].
            reference_base: (3,) or (N, 3) position of the motion's base [m].
            alive: (N,) episodes that still count.

        Returns:
            Mean distance of this frame, (N,) [mm].
        """
        error = points - reference
        base_error = (base - reference_base)[:, None]
        frame = {"global_mpjpe_mm": _mean_norm(error), "mpjpe_mm": _mean_norm(error - base_error)}
        if len(self._past) > 0:
            frame["vel_error_mm_per_frame"] = _mean_norm(error - self._past[-1])
        if len(self._past) > 1:
            second = error - 2.0 * self._past[-1] + self._past[-2]
            frame["acc_error_mm_per_frame2"] = _mean_norm(second)
        self._past = [*self._past[-1:], error]
        for name, values in frame.items():
            self.sums[name] += np.where(alive, values, 0.0)
            self.counts[name] += alive
        distance = frame["global_mpjpe_mm"]
        self.worst_mm = np.where(alive, np.maximum(self.worst_mm, distance), self.worst_mm)
        return distance


class EffortMeter:
    """Adds up what N episodes spend, frame by frame, while each is alive; names: EFFORT_NAMES."""

    def __init__(self, robot: Robot, episodes: int) -> None:
        """Begin with no frames."""
        self.sums = {name: np.zeros(episodes) for name in EFFORT_NAMES}
        self.counts = {name: np.zeros(episodes, dtype=int) for name in EFFORT_NAMES}
        self._feet, self._dt = robot.body_index(robot.foot_names), robot.control_dt
        self._past: tuple[np.ndarray, np.ndarray] | None = None

    def add(self, sim: Simulation, joint_pos_target: np.ndarray, alive: np.ndarray) -> None:
        """Count one frame, after the step that these targets (N, J) commanded."""
        feet_w = sim.body_pos_w[:, self._feet, :2].copy()
        self._count("torque_nm", np.abs(sim.joint_torque), alive[:, None])
        if self._past is not None:
            target, before_w = self._past
            rate = np.abs(joint_pos_target - target) / self._dt
            self._count("target_rate_rad_s", rate, alive[:, None])
            slip = MM * np.linalg.norm(feet_w - before_w, axis=-1) / self._dt
            carries = sim.foot_contact_force > _CARRIES_N
            self._count("foot_slip_mm_s", slip, alive[:, None] & carries)
        self._past = joint_pos_target.copy(), feet_w

    def _count(self, name: str, values: np.ndarray, counted: np.ndarray) -> None:
        counted = np.broadcast_to(counted, values.shape)
        self.sums[name] += np.where(counted, values, 0.0).sum(axis=1)
        self.counts[name] += counted.sum(axis=1)


def _mean_norm(vectors: np.ndarray) -> np.ndarray:
    """Mean over points of the length, in millimetres."""
    return MM * np.linalg.norm(vectors, axis=-1).mean(axis=-1)


def bootstrap_ratio(sums: np.ndarray, counts: np.ndarray, rng: np.random.Generator) -> Interval:
    """A mean over frames, with an interval from resampling whole episodes.

    Frames of one episode are not independent, episodes are: so episodes are drawn. Resampling two
    would name their own means as the ends, and cover the truth in 50 of 100 cases; there Student's
    t tells, with the scatter of the means and weights by frames, and is wide: 12.7 standard errors.

        value +- t sqrt(sum_i w_i^2) s,    w_i = counts_i / sum counts

    Resampling covers 76 of 100 with three episodes, 86 with six, 93 with twenty.

    Args:
        sums: (E,) sum over the frames of each episode.
        counts: (E,) number of those frames.
        rng: For the resampling.

    Returns:
        Frame-weighted mean; the interval is NaN (null in JSON) where fewer than two episodes have
        frames: one episode says nothing of how the next one will differ.
    """
    used = counts > 0
    sums, counts = sums[used], counts[used]
    if len(sums) == 0:
        return Interval(np.nan, np.nan, np.nan)
    value = float(sums.sum() / counts.sum())
    if len(sums) == 1:
        return Interval(value, np.nan, np.nan)
    if len(sums) < FEW_EPISODES:
        half = student_half_width(sums / counts, counts / counts.sum())
        # Errors have no sign, so their mean has none either.
        lowest = 0.0 if sums.min() >= 0.0 else -np.inf
        return Interval(value, max(lowest, value - half), value + half)
    draws = rng.integers(0, len(sums), (RESAMPLES, len(sums)))
    means = sums[draws].sum(axis=1) / counts[draws].sum(axis=1)
    low, high = np.quantile(means, [0.5 - COVERAGE / 2, 0.5 + COVERAGE / 2])
    return Interval(value, float(low), float(high))


def student_half_width(means: np.ndarray, weights: np.ndarray) -> float:
    """Half the width of Student's interval around a mean of (E,) with weights (E,) of sum 1."""
    quantile = special.stdtrit(len(means) - 1, 0.5 + COVERAGE / 2)
    return float(quantile * means.std(ddof=1) * np.linalg.norm(weights))


def paired_difference(before: np.ndarray, after: np.ndarray, rng: np.random.Generator) -> Interval:
    """Mean of ``after - before`` over the same episodes (E,), resampled by episode."""
    difference = np.asarray(after) - np.asarray(before)
    return bootstrap_ratio(difference, np.ones(len(difference)), rng)


def success_interval(successes: int, episodes: int) -> Interval:
    """A success rate with Wilson's interval, which stays inside 0 and 1 and is honest at 100 %."""
    z = 1.959963984540054
    rate = successes / episodes
    centre = (rate + z * z / (2 * episodes)) / (1 + z * z / episodes)
    spread = rate * (1 - rate) / episodes + z * z / (4 * episodes**2)
    half = z * np.sqrt(spread) / (1 + z * z / episodes)
    return Interval(rate, float(max(0.0, centre - half)), float(min(1.0, centre + half)))
