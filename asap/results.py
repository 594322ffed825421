"""Results as JSON that says where it comes from.

Every command writes the same envelope around its own keys: command, seed, versions, hashes of the
inputs and wall time. NaN has no place in JSON: a figure that does not exist is null.

    write_json(path, envelope("evaluate", seed=0, inputs=[policy], wall_s=3.2) | result)
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import platform
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from asap_deploy.npz import write_file

_PACKAGES = ("asap-toolkit", "asap-deploy", "mujoco", "numpy", "onnxruntime")


def envelope(command: str, *, seed: int, inputs: Iterable[Path], wall_s: float) -> dict[str, Any]:
    """What every result carries.

    Args:
        command: The verb.
        seed: That the run used.
        inputs: Files that it read; each is named with its sha256.
        wall_s: How long it took [s].
    """
    versions = {name: metadata.version(name) for name in _PACKAGES}
    return {
        "command": command,
        "seed": seed,
        "versions": {"python": platform.python_version(), **versions},
        "inputs": {str(path): file_sha256(path) for path in inputs},
        "wall_s": wall_s,
    }


def file_sha256(path: Path) -> str:
    """Hash of a file, or of the files of a folder."""
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def write_json(path: Path, result: dict[str, Any]) -> None:
    """Write a result at once or not at all."""
    text = json.dumps(plain(result), indent=1, allow_nan=False) + "\n"
    write_file(path, text)


def plain(value: Any) -> Any:
    """A value as JSON knows it: arrays are lists, paths are texts, NaN is null.

    A dataclass is what its fields are.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(dataclasses.asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
