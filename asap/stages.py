"""A long run as steps in folders: what is done is not done again unless what it depends on changed.

    stages = Stages(Path("runs/align/squat"))
    fitted = stages.do("round1/fit", {"logs": hashes, "config": config}, fit_in)   # fit_in(folder)

A stage leaves its result, and the hashes of the files it wrote, in ``stage.json``, written last and
at once. One that was killed half-way finds what it left, as long as it still depends on the same.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from asap import results

STAGE_FILE, BEGUN_FILE = "stage.json", "begun.json"


class Stages:
    """The steps of one run."""

    def __init__(
        self, folder: Path, watch: Callable[[str, bool], None] = lambda name, reused: None
    ) -> None:
        """Begin, or go on.

        Args:
            folder: Of the run.
            watch: Told the name of a stage as it begins, and whether it is taken as it is.
        """
        self.folder, self._watch = folder, watch
        self.done: list[dict[str, Any]] = []
        """What was done or found done, in order: name, seconds, whether it was taken as it is."""

    def do(
        self, name: str, depends_on: Mapping[str, Any], make: Callable[[Path], dict[str, Any]]
    ) -> dict[str, Any]:
        """One step.

        Args:
            name: Of the stage, and of its folder.
            depends_on: Everything that the result depends on: options, hashes of files.
            make: Makes it; is given the folder, returns the result.

        Returns:
            The result, as JSON knows it.
        """
        folder = self.folder / name
        key = _digest(depends_on)
        found = _finished(folder, key)
        reused = found is not None
        self._watch(name, reused)
        if found is None:
            _clear(folder, key)
            started = time.perf_counter()
            result = results.plain(make(folder))
            found = {
                "key": key,
                "wall_s": time.perf_counter() - started,
                "files": _hashes(folder),
                "result": result,
            }
            results.write_json(folder / STAGE_FILE, found)
        self.done.append({"name": name, "wall_s": found["wall_s"], "reused": reused})
        return dict(found["result"])


def _finished(folder: Path, key: str) -> dict[str, Any] | None:
    """What a stage left, if it was this one and nobody touched its files."""
    try:
        before = json.loads((folder / STAGE_FILE).read_text(encoding="utf-8"))
        same = before["key"] == key and before["files"] == _hashes(folder)
        return dict(before) if same else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _clear(folder: Path, key: str) -> None:
    """Remove what another stage of this name left; what this one left is a start."""
    mark = folder / BEGUN_FILE
    if mark.exists() and json.loads(mark.read_text(encoding="utf-8")) != {"key": key}:
        shutil.rmtree(folder)
    results.write_json(mark, {"key": key})


def _hashes(folder: Path) -> dict[str, str]:
    """Every file that a stage wrote."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): results.file_sha256(path)
            for path in files if path.name not in (STAGE_FILE, BEGUN_FILE)}  # fmt: skip


def _digest(value: Mapping[str, Any]) -> str:
    """A hash of options; dataclasses count by their fields."""
    text = json.dumps(results.plain(value), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
