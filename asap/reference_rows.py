"""A reference motion as training reads it: one row a control step, as rewards see it.

Several clips may lie end to end in one motion; an episode stays in the clip that it began in.

    rows = ReferenceRows(motion, robot, TrackedPoints(robot))
    rows.table.points_w[frame]                 # (N, P, 3) where the points should be
    rows.last[frame]                           # (N,) where each of these episodes ends
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from asap.metrics import TrackedPoints
from asap.rewards import TrackingState
from asap.robot import Robot
from asap.tangent import turn_rate
from asap.tracking import Reference
from asap_deploy import rotation
from asap_deploy.motion import Motion, MotionFrame


class ReferenceRows:
    """F frames of one clip, or of several."""

    def __init__(
        self,
        motion: Motion,
        robot: Robot,
        points: TrackedPoints,
        firsts: Sequence[int] = (0,),
        *,
        hold_s: float = 0.0,
    ) -> None:
        """Lay the motion out.

        Args:
            motion: A clip, or clips that ``joined`` laid end to end.
            robot: Whose order and control rate count.
            points: That rewards track.
            firsts: Frames at which clips begin.
            hold_s: For so long the last frame stands still after the end of a single clip [s].
        """
        clip_frames = max(1, round(motion.duration_s / robot.control_dt)) + 1
        held = round(hold_s / robot.control_dt)
        assert held == 0 or len(firsts) == 1, "clips that lie end to end are not held"
        count = clip_frames + held
        times = np.arange(count) * robot.control_dt
        frames = Reference(motion, robot, points).frame(times)
        for velocity in (frames.joint_vel, frames.body_lin_vel_w, frames.body_ang_vel_w):
            velocity[clip_frames:] = 0.0  # what stands still has none, however the clip ends
        self.frames: MotionFrame = frames
        self.clip_end = clip_frames - 1
        """Frame at which the clip, or the last of them, is over; what follows is held"""
        self.firsts = np.asarray(firsts, dtype=np.intp)
        """(C,) first frame of every clip"""
        lasts = np.append(self.firsts[1:] - 1, count - 1)
        clip = np.repeat(np.arange(len(lasts)), lasts - self.firsts + 1)
        self.last = lasts[clip]
        """(F,) last frame of the clip that a frame is in"""
        ends = np.minimum(lasts, self.clip_end)
        passed = (np.arange(count) - self.firsts[clip]) / (ends - self.firsts)[clip]
        self.phase = np.minimum(passed, 1.0)
        """(F,) part of that clip that is over"""
        self.table = self._table(robot, points)
        """(F, ...) the motion; its velocities are differences, as the robot's are"""

    def __len__(self) -> int:
        """Frames F."""
        return len(self.last)

    @property
    def starts(self) -> np.ndarray:
        """Frames in which an episode may begin: all but the last of every clip."""
        return np.flatnonzero(np.arange(len(self)) < self.last)

    def _table(self, robot: Robot, points: TrackedPoints) -> TrackingState:
        frames, dt = self.frames, robot.control_dt
        quat = points.attitudes(frames.body_quat_wxyz)
        points_w = points.positions(frames.body_pos_w, frames.body_quat_wxyz)
        velocity = np.diff(points_w, axis=0, prepend=points_w[:1]) / dt
        turning = turn_rate(quat[:-1], quat[1:], dt)
        ang_vel = np.concatenate([turning[:1], turning])
        # From one clip's end to the next one's beginning nothing moves.
        velocity[self.firsts] = 0.0
        ang_vel[self.firsts] = ang_vel[self.firsts + 1]
        return TrackingState(
            base_pos_w=frames.body_pos_w[:, 0],
            base_quat_wxyz=frames.body_quat_wxyz[:, 0],
            base_lin_vel_w=frames.body_lin_vel_w[:, 0],
            base_ang_vel_b=rotation.rotate_inverse(
                frames.body_quat_wxyz[:, 0], frames.body_ang_vel_w[:, 0]
            ),
            joint_pos=frames.joint_pos,
            joint_vel=frames.joint_vel,
            points_w=points_w,
            points_lin_vel_w=velocity,
            link_quat_wxyz=quat,
            link_ang_vel_w=ang_vel,
        )


def joined(motions: Sequence[Motion], robot: Robot) -> tuple[Motion, tuple[int, ...]]:
    """Clips end to end, at the robot's control rate, each lowered onto the floor.

    Args:
        motions: At least one, each with every joint and body of the robot.
        robot: Whose order they get.

    Returns:
        One motion, and the frames at which its clips begin.
    """
    points, parts = TrackedPoints(robot), []
    for motion in motions:
        count = max(1, round(motion.duration_s / robot.control_dt)) + 1
        times = np.arange(count) * robot.control_dt
        parts.append(Reference(motion, robot, points).frame(times))
    lengths = [len(part.joint_pos) for part in parts]
    laid = {name: np.concatenate([getattr(part, name) for part in parts])
            for name in MotionFrame._fields}  # fmt: skip
    motion = Motion(
        fps=1.0 / robot.control_dt, joint_names=robot.joint_names, body_names=robot.body_names,
        foot_contact=np.zeros((sum(lengths), 2), dtype=bool), robot=robot.name,
        source=f"{len(motions)} clips end to end", **laid,
    )  # fmt: skip
    return motion, tuple(int(first) for first in np.cumsum([0, *lengths[:-1]]))
