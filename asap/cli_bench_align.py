"""The closed-loop benchmark: ``asap bench align``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from rich.console import Console, RenderableType

from asap.align_config import AlignConfig
from asap.bench_align import Pair, PairSetup, align_pairs, summary
from asap.cli_align import Shown, figure
from asap.cli_common import INTERRUPTED, Common, Outcome, Progress, table
from asap.cli_train import overlaid
from asap.delta_doubt import Doubt
from asap.finetune import FINETUNE, UNTOUCHED, beginning
from asap.tracking import StartNoise
from asap.training_run import TrainConfig


@dataclass(frozen=True, kw_only=True)
class BenchAlign(Common):
    """Does a policy that was trained on in a corrected simulator do better on the robot?

    A twin plays the robot; beside it train, at equal budget: the model without correction, with
    noise, with randomisation, and the twin itself (oracle). Hours with several pairs; a run that
    was stopped goes on with the same --out. `--no-corrected --arms oracle` asks less: how far does
    training on go where the dynamics are known? Then nothing is recorded and nothing fitted.
    """

    draws: ClassVar[bool] = True
    pairs: tuple[str, ...] = ("walk@genesis", "walk@worn")
    """CLIP@TWIN; published clips (with --data) are tracked on g1:asap, ours on g1."""
    data: Path | None = None
    """Folder with `policies/*.onnx` and `motions/*.pkl` of the ASAP repository."""
    seeds: int = 1
    """So many, from --seed on."""
    controls: bool = True
    """Train the controls too."""
    corrected: bool = True
    """Record, fit, and train in the corrected simulator; without, only controls that need none of
    it: nominal, randomized, oracle."""
    arms: tuple[str, ...] = ()
    """Controls to train: nominal, noise, randomized, identified, delta (a learned offset without
    identification), oracle; all by default."""
    episodes: int = 256
    """Episodes that judge each policy."""
    start_noise: StartNoise = "paper"
    """Starts that are trained and judged: none (at rest in the first frame), small, paper."""
    out: Path | None = None
    """Folder of the runs; runs/bench-align/<time>-<seed> by default."""
    doubt: Doubt = field(default_factory=Doubt)
    """How far a learned offset is believed in training."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Every setting of the fine-tuning."""

    def run(self, progress: Progress) -> Outcome:
        """Align every pair."""
        out = self.folder("bench-align")
        train = beginning(overlaid(FINETUNE, self.train, TrainConfig()), self.start_noise)
        config = AlignConfig(
            controls=self.controls, arms=self.arms, corrected=self.corrected,
            judge_episodes=self.episodes, doubt=self.doubt, train=train,
            threads=self.train.threads,
        )  # fmt: skip
        seeds = tuple(range(self.seed, self.seed + self.seeds))
        setup = PairSetup(pairs=self.pairs, seeds=seeds, data=self.data, align=config)
        console = Console(stderr=True, quiet=self.quiet)
        try:
            found = align_pairs(setup, out, watch=Shown(quiet=self.quiet), said=console.print)
        except KeyboardInterrupt:
            line = f"stopped; the same command with --out {out} goes on from here"
            return Outcome(result={"run_dir": out}, shown=[line], status=INTERRUPTED)
        told = summary(found)
        return Outcome(
            result={"run_dir": out, "pairs": [one.as_dict() for one in found], "summary": told},
            shown=[self._table(found), _summary(told)],
        )

    def _table(self, found: Sequence[Pair]) -> RenderableType:
        """Every run."""
        columns = ["", "arm", "success", "global mm", "rel. mm", "cost mm", "against the start",
                   "of the way home", "to the oracle"]  # fmt: skip
        title = f"{self.episodes} episodes on the twin, starts: {self.start_noise}"
        return table(title, columns, [row for one in found for row in _rows(one)])


def _rows(one: Pair) -> list[list[str]]:
    """What the start does on the model, then a row an arm."""
    facts, name = one.as_dict(), f"{one.pair} {one.seed}"
    rows = [[name, "at home", *_figures(facts["home"][UNTOUCHED]), "", "", ""]]
    for arm, figures in facts["closed_loop"].items():
        gain = facts["gain"].get(arm)
        ways = [part(shares.get(arm, {}).get("cost_mm"))
                for shares in (one.home_share, one.share)]  # fmt: skip
        against = "" if gain is None else figure(gain["cost_mm"], 0)
        rows.append([name, arm, *_figures(figures), against, *ways])
    return rows


def _figures(figures: Mapping[str, Any]) -> list[str]:
    """Of one policy."""
    digits = {"success_rate": 2, "global_mpjpe_mm": 0, "mpjpe_mm": 1, "cost_mm": 0}
    return [figure(figures[name], places) for name, places in digits.items()]


def _summary(told: Mapping[str, Any]) -> RenderableType:
    """Every arm of every pair over its seeds."""
    columns = ["over seeds", "arm", "not worse", "better/worse", "mean mm against the start",
               "home: cost", "global", "oracle: cost", "global",
               "corrected better/worse than it"]  # fmt: skip
    rows = []
    for pair, one in told.items():
        for arm, facts in one["arms"].items():
            ways = [part(facts[key].get(name, {}).get("median"))
                    for key in ("home_share", "oracle_share")
                    for name in ("cost_mm", "global_mpjpe_mm")]  # fmt: skip
            rivals = f"{facts['corrected_better']}/{facts['corrected_worse']}"
            rows.append([
                pair, arm, f"{facts['not_worse']} of {facts['seeds']}",
                f"{facts['better']}/{facts['worse']}", figure(facts["gain_mm"], 0), *ways,
                "" if math.isnan(facts["corrected_gain_mm"]["value"]) else rivals,
            ])  # fmt: skip
        if one["refused"]:
            rows.append([pair, f"fit refused, seeds {one['refused']}", *[""] * 8])
    return table("medians of the way home and to the oracle", columns, rows)


def part(share: float | None) -> str:
    """Of a way, in percent."""
    return "" if share is None else "-" if share != share else f"{share:.0%}"
