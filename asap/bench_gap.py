"""The gap of twins that stand for other simulators, in the form in which the paper reports it.

    rows = twin_gaps(Path("data/asap"), twins=("isaac", "genesis"))
    rows[0].replay.arms["nominal"].horizons["1.0"]["global_mpjpe_mm"]

Every published tracker runs closed loop on the twin; what it commanded there is replayed open loop
in the nominal simulator. Source of the form: He et al. 2025, table III, row OpenLoop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from asap.published import EXPECTED, ROBOT, case_of_published
from asap.record import RecordConfig, record
from asap.replay import Replay, ReplayConfig, replay
from asap.robot import Robot


class TwinGap(NamedTuple):
    """One twin."""

    twin: str
    seconds: float
    """Of log that was replayed [s]"""
    replay: Replay


def twin_gaps(
    data: Path,
    twins: Sequence[str],
    *,
    config: ReplayConfig,
    episodes: int = 1,
    progress: Callable[[float], None] = lambda fraction: None,
) -> list[TwinGap]:
    """Record every published tracker on the twins, and replay.

    Args:
        data: Folder with ``policies`` and ``motions`` of the original.
        twins: Names of twins of the robot that it was trained on.
        config: Windows.
        episodes: Of each clip, from the original's start noise where more than one.
        progress: Told the finished fraction.

    Raises:
        InputError: If the folder lacks a policy or a clip.
    """
    nominal = Robot.load(ROBOT)
    found = []
    for place, name in enumerate(twins):
        twin = Robot.load(f"{ROBOT}@{name}")
        noise = 0.0 if episodes == 1 else 1.0
        recording = RecordConfig(episodes=episodes, start_noise=noise, threads=config.threads)
        logs = []
        for number, policy in enumerate(EXPECTED):
            logs.append(record(case_of_published(data, policy, nominal, ground=True), twin,
                               recording))  # fmt: skip
            progress((place + 0.5 * (number + 1) / len(EXPECTED)) / len(twins))
        result = replay(logs, {"nominal": nominal, "truth": twin}, config)
        found.append(TwinGap(name, sum(log.duration_s for log in logs), result))
        progress((place + 1) / len(twins))
    return found
