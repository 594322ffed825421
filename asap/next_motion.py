"""Which motion to record next: the one that would tell most of what a fit does not know yet.

    advise(robot, found, clips)[0]                    # ("jump_forward", 0.31)

Every clip is laid out as a log that a perfect tracker would leave; how its short windows answer to
the parameters says how much each would tell. What counts is by how much a clip would shrink the
uncertainty that is left, so the best clip excites what the log did not.
Source: Fisher information, as in active identification (Pukelsheim 2006).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from asap.identify import Shooting
from asap.inputs import OpenedMotion
from asap.log_windows import Windows, stretches_of
from asap.metrics import TrackedPoints
from asap.parameter_search import Identified
from asap.robot import Robot
from asap.tracking import Reference
from asap_deploy import rotation
from asap_deploy.log import Log

_WINDOWS, _WINDOW_S = 12, 0.2


def advise(
    robot: Robot,
    found: Identified,
    clips: Sequence[OpenedMotion],
    *,
    threads: int = 0,
    progress: Callable[[float], None] = lambda fraction: None,
) -> list[tuple[str, float]]:
    """Clips, the most telling first.

    Args:
        robot: The model.
        found: What is known, from which log.
        clips: That could be recorded.
        threads: Of the simulator; 0: all cores.
        progress: Told the finished fraction.

    Returns:
        Name, and by which part the remaining uncertainty of all parameters would shrink.
    """
    known = _information(found.linear.jacobian)
    before = np.trace(np.linalg.inv(known + np.eye(len(known))))
    gains = []
    for number, clip in enumerate(clips):
        stretches = stretches_of(_as_log(clip, robot), 0, robot)
        windows = Windows(stretches, horizons_s=(_WINDOW_S,), every_s=_WINDOW_S, late_s=0.0)
        windows.keep(_WINDOWS)
        shooting = Shooting(windows, stretches[0].track.robot, found.parameters, base_known=True,
                            threads=threads)  # fmt: skip
        seconds = len(windows.start) * _WINDOW_S
        jacobian = shooting.linear(found.z).jacobian * np.sqrt(clip.motion.duration_s / seconds)
        after = np.trace(np.linalg.inv(known + _information(jacobian) + np.eye(len(known))))
        gains.append((clip.name, float(1.0 - after / before)))
        progress((number + 1) / len(clips))
    return sorted(gains, key=lambda gain: -gain[1])


def _information(jacobian: np.ndarray) -> np.ndarray:
    """(P, P) of windows (W, R, P)."""
    columns = jacobian.reshape(-1, jacobian.shape[-1])
    return np.asarray(columns.T @ columns)


def _as_log(clip: OpenedMotion, robot: Robot) -> Log:
    """What a robot that follows a clip perfectly would log."""
    reference = Reference(clip.motion, robot, TrackedPoints(robot))
    time_s = robot.control_dt * np.arange(int(clip.motion.duration_s / robot.control_dt))
    now, next_one = reference.frame(time_s), reference.frame(time_s + robot.control_dt)
    quat = now.body_quat_wxyz[:, 0]
    return Log(
        joint_names=robot.joint_names,
        time_s=time_s,
        joint_pos=now.joint_pos,
        fields={
            "joint_vel": now.joint_vel,
            "joint_pos_target": next_one.joint_pos,
            "base_pos_w": now.body_pos_w[:, 0],
            "base_quat_wxyz": quat,
            "base_lin_vel_w": now.body_lin_vel_w[:, 0],
            "base_ang_vel_b": rotation.rotate_inverse(quat, now.body_ang_vel_w[:, 0]),
        },
    )
