"""One recorded episode: what the robot did, what it was asked to do, and where the reference was.

``evaluate`` makes rollouts; pictures, recordings and reports read them. Every array has one row per
control step, so two rollouts of one policy can be laid over each other by ``time_s``.

    rollout.joint_pos                    # (T, J) [rad], cut out of qpos in robot order
    rollout.error_mm.mean()              # mean distance of the bodies to the reference [mm]
    qpos_of_motion(robot, motion)        # (T, nq) the poses of a reference clip
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from asap.robot import Robot
from asap_deploy.errors import InputError
from asap_deploy.motion import Motion
from asap_deploy.npz import check_finite


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """One episode of T control steps on one robot; arrays are read-only float64."""

    robot: Robot
    """The robot (or twin) that moved."""
    time_s: np.ndarray
    """(T,) strictly increasing [s]"""
    qpos: np.ndarray
    """(T, nq) state of the robot: base position, base quat, joints [m, -, rad]"""
    reference_qpos: np.ndarray | None = None
    """(T, nq) pose of the reference at the same times, or None if nothing was tracked."""
    joint_pos_target: np.ndarray
    """(T, J) PD target in force from ``time_s`` [rad]"""
    joint_torque: np.ndarray
    """(T, J) [Nm]"""
    contact_force: np.ndarray
    """(T, 2) normal force under each foot, in the order of ``robot.foot_names`` [N]"""
    error_mm: np.ndarray | None = None
    """(T,) mean distance of the bodies to the reference [mm], or None without a reference."""
    title: str = ""
    """One line for a person: clip, policy, robot."""

    def __post_init__(self) -> None:
        """Check shapes and numbers, and make the arrays read-only.

        Raises:
            InputError: If arrays do not fit each other or the robot.
        """
        for name in self._shapes():
            value = getattr(self, name)
            if value is not None:
                array = np.array(value, dtype=np.float64)
                array.setflags(write=False)
                object.__setattr__(self, name, array)
        self._check()

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape that every array must have."""
        frames, joints, nq = np.size(self.time_s), len(self.robot.joint_names), self.robot.model.nq
        return {
            "time_s": (frames,),
            "qpos": (frames, nq),
            "reference_qpos": (frames, nq),
            "joint_pos_target": (frames, joints),
            "joint_torque": (frames, joints),
            "contact_force": (frames, 2),
            "error_mm": (frames,),
        }

    def _check(self) -> None:
        """Every law that the numbers of a rollout obey."""
        for name, shape in self._shapes().items():
            array = getattr(self, name)
            if array is None:
                continue
            if array.shape != shape:
                raise InputError(
                    f"rollout '{name}' has shape {array.shape}, expected {shape} for "
                    f"{len(self.time_s)} frames of robot '{self.robot.name}'"
                )
            check_finite(name, array, self.title or "rollout")
        if len(self.time_s) < 2 or not (np.diff(self.time_s) > 0.0).all():
            raise InputError(
                f"rollout time_s must hold at least 2 increasing times; got {len(self.time_s)}"
            )

    @property
    def num_frames(self) -> int:
        """Number of control steps T."""
        return len(self.time_s)

    @property
    def duration_s(self) -> float:
        """Time from the first to the last frame [s]."""
        return float(self.time_s[-1] - self.time_s[0])

    @property
    def joint_pos(self) -> np.ndarray:
        """Joint positions (T, J) in robot order [rad]."""
        return self.qpos[:, self.robot.qpos_ids]

    @property
    def reference_joint_pos(self) -> np.ndarray | None:
        """Joint positions of the reference (T, J) [rad], or None."""
        return None if self.reference_qpos is None else self.reference_qpos[:, self.robot.qpos_ids]


def qpos_of_motion(robot: Robot, motion: Motion, time_s: np.ndarray | None = None) -> np.ndarray:
    """The poses of a reference clip as MuJoCo's full position vectors.

    Joints that the clip does not name stay at the robot's default. A robot with a fixed base keeps
    its place, whatever the clip says about the base.

    Args:
        robot: Supplies joint order and default pose.
        motion: The clip; its joints are matched by name.
        time_s: Times (T,) from the start of the clip [s]; the clip's own frames if None.

    Returns:
        qpos (T, nq) [m, -, rad].

    Raises:
        InputError: If the clip names a joint that the robot lacks.
    """
    if time_s is None:
        time_s = np.arange(motion.num_frames) / motion.fps
    frame = motion.at(np.asarray(time_s, dtype=float))
    qpos = np.tile(robot.default_qpos(), (len(frame.joint_pos), 1))
    if robot.has_free_base:
        qpos[:, :3] = frame.body_pos_w[:, 0]
        qpos[:, 3:7] = frame.body_quat_wxyz[:, 0]
    qpos[:, robot.qpos_ids[robot.joint_ids(motion.joint_names)]] = frame.joint_pos
    return qpos
