"""Logs cut into what is fitted, what chooses and what judges: by run, never by shuffled window.

parts = split(logs)
parts.train, parts.validation, parts.test
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from asap_deploy.errors import InputError
from asap_deploy.log import Log

_SHORTEST_S = 2.0
"""Pieces between two gaps that are shorter do not even tell their own rate [s]."""
_PAUSE_S = 1.0
"""Between parts that were cut in time: what comes right after a part is known from it [s]."""


class Parts(NamedTuple):
    """A log cut in three."""

    train: list[Log]
    validation: list[Log]
    test: list[Log]


def split(logs: Sequence[Log], *, judged_apart: bool = False) -> Parts:
    """Cut logs into parts of about 60, 20 and 20 %, by run where there are three or more.

    Runs of different logs take turns, so that each part has something of each log.

    Args:
        logs: Of one robot.
        judged_apart: Other logs judge: no part for it, 80 and 20 %.

    Raises:
        InputError: If there is too little.
    """
    pieces = [[run for run in log.segments() if run.duration_s >= _SHORTEST_S] for log in logs]
    longest = max(map(len, pieces), default=0)
    runs = [piece[i] for i in range(longest) for piece in pieces if i < len(piece)]
    if not runs:
        raise InputError("there is no stretch of a log to fit")
    if len(runs) >= 3:
        share = max(1, len(runs) // 5)
        if judged_apart:
            return Parts(runs[:-share], runs[-share:], [])
        return Parts(runs[: -2 * share], runs[-2 * share : -share], runs[-share:])
    parts = Parts([], [], [])
    for run in runs:
        pause = round(_PAUSE_S * run.rate_hz)
        edges = np.round(np.array([0.0, 0.6, 0.8, 1.0]) * len(run.time_s)).astype(int)
        for part, begin, end in zip(parts, edges[:-1], edges[1:], strict=True):
            first = int(begin) + (pause if begin else 0)
            if end - first >= 2:
                part.append(run.rows(slice(first, int(end))))
    if not all(parts):
        raise InputError(
            f"the log is too short to be fitted and judged: {sum(r.duration_s for r in runs):.1f} "
            "s; record 20 s or more"
        )
    return parts
