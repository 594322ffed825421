"""Read-only views of the simulator's arrays.

joint_pos = live(qpos, columns(robot.qpos_ids))         # no copy where the columns are neighbours
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def columns(ids: Sequence[int] | np.ndarray) -> slice | np.ndarray:
    """Ids as a slice where they follow each other, so that indexing is a view."""
    first = int(ids[0])
    if np.array_equal(ids, np.arange(first, first + len(ids))):
        return slice(first, first + len(ids))
    return np.asarray(ids)


def live(array: np.ndarray, columns: slice | np.ndarray = slice(None)) -> np.ndarray:
    """Columns of an array, read-only: a view where they follow each other."""
    view = array[:, columns] if array.ndim > 1 else array[:]
    view.flags.writeable = False
    return view
