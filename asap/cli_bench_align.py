"""The closed-loop benchmark: ``asap bench align``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from rich.console import Console

from asap.align_config import AlignConfig
from asap.bench_align import Pair, PairSetup, align_pairs
from asap.cli_align import Shown, figure
from asap.cli_common import INTERRUPTED, Common, Outcome, Progress, table
from asap.cli_train import overlaid
from asap.finetune import FINETUNE, beginning
from asap.tracking import StartNoise
from asap.training_run import TrainConfig


@dataclass(frozen=True, kw_only=True)
class BenchAlign(Common):
    """Does a policy that was trained on in a corrected simulator do better on the robot?

    A twin plays the robot; beside it train, at equal budget: the model without correction, with
    noise, with randomisation, and the twin itself (oracle). Hours with several pairs; a run that
    was stopped goes on with the same --out.
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
    arms: tuple[str, ...] = ()
    """Controls to train: nominal, noise, randomized, identified, delta (a learned offset without
    identification), oracle; all by default."""
    episodes: int = 256
    """Episodes that judge each policy."""
    start_noise: StartNoise = "paper"
    """Starts that are trained and judged: none (at rest in the first frame), small, paper."""
    out: Path | None = None
    """Folder of the runs; runs/bench-align/<time>-<seed> by default."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Every setting of the fine-tuning."""

    def run(self, progress: Progress) -> Outcome:
        """Align every pair."""
        out = self.folder("bench-align")
        train = beginning(overlaid(FINETUNE, self.train, TrainConfig()), self.start_noise)
        config = AlignConfig(controls=self.controls, arms=self.arms, judge_episodes=self.episodes,
                             train=train, threads=self.train.threads)  # fmt: skip
        seeds = tuple(range(self.seed, self.seed + self.seeds))
        setup = PairSetup(pairs=self.pairs, seeds=seeds, data=self.data, align=config)
        console = Console(stderr=True, quiet=self.quiet)
        try:
            found = align_pairs(setup, out, watch=Shown(quiet=self.quiet), said=console.print)
        except KeyboardInterrupt:
            line = f"stopped; the same command with --out {out} goes on from here"
            return Outcome(result={"run_dir": out}, shown=[line], status=INTERRUPTED)
        columns = ["", "arm", "success", "global mm", "rel. mm", "cost mm against the start",
                   "of the way"]  # fmt: skip
        rows = [row for one in found for row in _rows(one)]
        title = f"{self.episodes} episodes on the twin, starts: {self.start_noise}"
        return Outcome(
            result={"run_dir": out, "pairs": [one.as_dict() for one in found]},
            shown=[table(title, columns, rows)],
        )


def _rows(one: Pair) -> list[list[str]]:
    """A row an arm."""
    facts = one.as_dict()
    rows = []
    for arm, figures in facts["closed_loop"].items():
        gain = facts["gain"].get(arm)
        share = one.share.get(arm, {}).get("cost_mm")
        rows.append([
            f"{one.pair} {one.seed}", arm, figure(figures["success_rate"], 2),
            figure(figures["global_mpjpe_mm"], 0), figure(figures["mpjpe_mm"], 1),
            "" if gain is None else figure(gain["cost_mm"], 0),
            "" if share is None else f"{share:.0%}",
        ])  # fmt: skip
    return rows
