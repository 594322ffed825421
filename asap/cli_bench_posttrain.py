"""Do the six recipes do what they promise? ``asap bench posttrain``."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from rich.console import Console

from asap import results
from asap.cli_common import CHECK_FAILED, DONE, Common, Outcome, Progress, table
from asap.posttrain.miniatures import MINIATURES
from asap_deploy.errors import InputError, suggestion

_SHOWN = ("success", "steps", "experts", "unseen", "contacts")


@dataclass(frozen=True, kw_only=True)
class BenchPosttrain(Common):
    """Each recipe of `asap tune` on a point mass in a corridor, beside its equal-budget control.

    No simulator, no robot: minutes for all, seeds side by side. A run that was stopped goes on with
    the same --out. Exit status 1 if an effect is missing.
    """

    draws: ClassVar[bool] = True
    recipes: tuple[str, ...] = tuple(MINIATURES)
    """Which of them."""
    seeds: int = 3
    """So many, from --seed on."""
    processes: int = 2
    """Experiments side by side."""
    out: Path | None = None
    """Folder of the results; runs/bench-posttrain/<time>-<seed> by default."""

    def run(self, progress: Progress) -> Outcome:
        """Try all, and say which effects were there."""
        for name in self.recipes:
            if name not in MINIATURES:
                raise InputError(f"no recipe '{name}'{suggestion(name, list(MINIATURES))}")
        out, console = self.folder("bench-posttrain"), Console(stderr=True, quiet=self.quiet)
        seeds = range(self.seed, self.seed + self.seeds)
        wanted = [(name, seed) for name in self.recipes for seed in seeds]
        left = [one for one in wanted if not _file(out, *one).exists()]
        # A process that was forked has torch's threads half: each begins anew.
        with ProcessPoolExecutor(self.processes, mp_context=get_context("spawn")) as pool:
            started = {pool.submit(_tried, *one, out): one for one in left}
            for place, done in enumerate(as_completed(started), 1):
                name, seed = started[done]
                console.print(f"{place} of {len(left)}: {name}, seed {seed}, {done.result():.0f} s")
        found = {name: [json.loads(_file(out, name, seed).read_text()) for seed in seeds]
                 for name in self.recipes}  # fmt: skip
        effects = {name: _effects(runs) for name, runs in found.items()}
        missing = [f"{name}: {effect}" for name, some in effects.items()
                   for effect, held in some.items() if held < self.seeds]  # fmt: skip
        lines = [f"not with every seed: {line}" for line in missing]
        return Outcome(
            result={"run_dir": out, "recipes": found, "effects": effects, "missing": missing},
            shown=[_table(found), _effects_table(effects, self.seeds), *lines],
            status=CHECK_FAILED if missing else DONE,
        )


def _tried(name: str, seed: int, out: Path) -> float:
    """One experiment in a process of its own, written down."""
    torch.set_num_threads(1)
    started = time.perf_counter()
    found = MINIATURES[name](seed)
    wall_s = time.perf_counter() - started
    results.write_json(_file(out, name, seed), {"recipe": name, "seed": seed, "wall_s": wall_s,
                                                **found._asdict()})  # fmt: skip
    return wall_s


def _file(out: Path, name: str, seed: int) -> Path:
    return out / f"{name}-{seed}.json"


def _effects(runs: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """By effect, with how many seeds it was there."""
    return {name: sum(bool(one["effects"][name]) for one in runs) for name in runs[0]["effects"]}


def _table(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> Any:
    """Means over seeds, arm by arm."""
    rows = []
    for name, runs in found.items():
        for arm in runs[0]["arms"]:
            figures = [one["arms"][arm] for one in runs]
            cells = [_mean([one.get(key) for one in figures]) for key in _SHOWN]
            rows.append([name, arm, *cells])
    return table("mean over seeds", ["recipe", "arm", *_SHOWN], rows)


def _effects_table(effects: Mapping[str, Mapping[str, int]], seeds: int) -> Any:
    rows = [[name, effect, f"{held} of {seeds}"]
            for name, some in effects.items() for effect, held in some.items()]  # fmt: skip
    return table("effects", ["recipe", "effect", "seeds"], rows)


def _mean(values: Sequence[float | None]) -> str:
    known = [one for one in values if one is not None]
    return f"{np.mean(known):.2f}" if known else "-"
