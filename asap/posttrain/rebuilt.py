"""What a runtime observed in a recorded episode, and where the robot was, all steps at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from asap.rewards import TrackingState
from asap_deploy import rotation
from asap_deploy.observation import LAYOUTS, Measurement
from asap_deploy.policy import Policy
from asap_deploy.runtime import Runtime


def rebuilt(
    policy: Policy, joint_names: Sequence[str], seen: Measurement, executed: np.ndarray,
    time_s: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """What a runtime observed in one episode, all steps at once.

    A runtime of as many robots as there are steps stands in every step; its past and where the
    clip was laid are put in through its snapshot. Step by step it takes a hundred times as long.

    Args:
        policy: Contract and clip.
        joint_names: Order of the joints measured.
        seen: (T + 1, ...) measured before every step, and after the last.
        executed: (T, A) actions after their limit.
        time_s: (T + 1,) in the clip [s].

    Returns:
        (T + 1, D) float32.
    """
    runtime, first = (Runtime(policy, joint_names, rows) for rows in (len(time_s), 1))
    first.observe(rows_of_all(seen, slice(1)), time_s[:1])
    laid, state = first.snapshot(), runtime.snapshot()
    for name in ("aligned", "turn", "origin"):
        state[name][:] = laid[name]
    state["last_action"][1:] = executed
    runtime.restore(state)
    observation = runtime.observe(seen, time_s)
    if not (length := LAYOUTS[policy.contract.layout].history_length):
        return observation
    # By now every row has its own frame and no past: the frames of rows before are the past.
    now = runtime.snapshot()["frames"]
    width = now.shape[1] // (length + 1)
    for age in range(length):
        state["frames"][age + 1 :, age * width : (age + 1) * width] = now[: -age - 1, :width]
    runtime.restore(state)
    return runtime.observe(seen, time_s)


def rows_of_all(measured: Measurement, places: Any) -> Measurement:
    """Some rows of every array."""
    return Measurement(*(cast(np.ndarray, array)[places] for array in measured))


def off_motion(
    channels: Mapping[str, np.ndarray], table: TrackingState, control_dt: float
) -> np.ndarray:
    """(T, 9 + J) where a robot is, seen from where the motion has it, scaled to about 1.

    What a policy cannot know and a critic may: how far the base is away [0.1 m], how it is turned
    [0.2 rad], how fast it goes [0.5 m/s], how far joints are from the motion's [0.2 rad].
    """
    frame = np.clip(np.rint(channels["time_s"] / control_dt).astype(int), 0,
                    len(table.joint_pos) - 1)  # fmt: skip
    there = TrackingState(*(array[frame] for array in table))
    away, speed = (
        rotation.rotate_inverse(there.base_quat_wxyz, here - wanted)
        for here, wanted in ((channels["base_pos_w"], there.base_pos_w),
                             (channels["base_lin_vel_w"], there.base_lin_vel_w))
    )  # fmt: skip
    turned = rotation.to_rotvec(
        rotation.multiply(rotation.conjugate(there.base_quat_wxyz), channels["base_quat_wxyz"])
    )
    joints = channels["joint_pos"] - there.joint_pos
    parts = (10.0 * away, 5.0 * turned, 2.0 * speed, 5.0 * joints)
    return np.concatenate(parts, axis=-1).astype(np.float32)
