"""Unbroken stretches of a condition over time.

for first, last in spans(standing): ...          # rows first to before last
"""

from __future__ import annotations

import numpy as np


def spans(mask: np.ndarray) -> np.ndarray:
    """Where a mask (T,) is true: first row and the row after the last, shape (n, 2)."""
    edges = np.diff(np.concatenate([[0], np.asarray(mask, dtype=np.int8), [0]]))
    return np.stack([np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)], axis=1)
