"""What a runtime observed in a recorded episode, all steps at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

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
