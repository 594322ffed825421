"""The file that a run continues from: written whole or not at all, read without running code.

checkpoint.write(run_dir / "checkpoint.pt", state)
state = checkpoint.read(run_dir / "checkpoint.pt")
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from asap_deploy.errors import InputError
from asap_deploy.npz import write_file


def write(path: Path, state: dict[str, Any]) -> None:
    """Replace the checkpoint at once.

    Args:
        path: Where.
        state: Nested dictionaries and lists of tensors, numbers and texts.

    Raises:
        InputError: If there is no room; then the checkpoint before is whole.
    """
    # Into memory first: torch turns a full disk into an internal error of its own.
    data = io.BytesIO()
    torch.save(state, data)
    try:
        write_file(path, data.getvalue())
    except InputError as error:
        before = "; the one before is whole: make room and use --resume" if path.exists() else ""
        raise InputError(f"{error}{before}") from None


def read(path: Path) -> dict[str, Any]:
    """What was written; what a kill left half-written beside it goes.

    Raises:
        InputError: If there is none, or it is damaged.
    """
    if not path.exists():
        raise InputError("there is no checkpoint to resume from", file=path)
    for left_over in path.parent.glob(f".{path.name}.*"):
        left_over.unlink(missing_ok=True)
    try:
        # weights_only: tensors, numbers and texts; no file of a user's can run code.
        state = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # torch raises many kinds for a damaged file
        first = (str(error).splitlines() or ["unknown"])[0][:120]
        raise InputError(f"checkpoint cannot be read: {first}", file=path) from None
    if not isinstance(state, dict):
        raise InputError("checkpoint cannot be read: it holds no run", file=path)
    return state
