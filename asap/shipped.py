"""Robots, motions and policies that come with the toolkit.

In a clone they are folders beside the package; a wheel carries them inside it.
"""

from __future__ import annotations

from pathlib import Path

_INSIDE = Path(__file__).resolve().parent / "data"
SHIPPED = _INSIDE if _INSIDE.is_dir() else _INSIDE.parents[1]
ROBOTS_FOLDER, MOTIONS_FOLDER, POLICIES_FOLDER = (
    SHIPPED / name for name in ("robots", "motions", "policies")
)
"""Each with a folder for every robot."""
