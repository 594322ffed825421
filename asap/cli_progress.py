"""What a person sees of a training: how long it will take, then how it goes.

Three seconds of a training, after its first iteration, are its own benchmark; the estimate is
printed after them. A terminal then shows lines that stay in place, anything else gets a plain line
every half minute. All of it goes to stderr; a terminal that goes away does not end the training.

    with watched(trainer, quiet=False) as (watch, stopped):
        trainer.run(watch, stopped)
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from asap.cli_common import stop_requests
from asap.training_run import Report, TrainingRun

BENCHMARK_S = 3.0
"""Training that is timed before the estimate [s]."""

LINE_EVERY_S = 30.0
"""Time between plain lines [s]."""

_WINDOW_S = 60.0
"""Speed and time left follow the last minute, because other programs come and go [s]."""

_FIGURES = (
    ("reward", "reward", "{:.4f}"),
    ("failed", "failures/step", "{:.2%}"),
    ("learning_rate", "learning rate", "{:.1e}"),
    ("std", "std", "{:.3f}"),
    ("success_rate", "success", "{:.0%}"),
    ("mpjpe_mm", "mpjpe", "{:.0f} mm"),
)
"""Name of a fact or of a figure of the last evaluation, what it is called, and how it looks."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a training is going to do."""

    run_dir: Path
    begun: int
    """Steps that were done before, if it is resumed."""
    steps: int
    """Steps when it ends."""
    iteration_steps: int
    evaluate_every: int
    """Iterations between evaluations."""
    evaluation_steps: int
    """Control steps of all episodes of one evaluation."""
    final_steps: int
    """Control steps of the evaluations at the end."""
    cores: int

    def work(self, steps: int) -> int:
        """Steps of training and evaluation together; measured, either takes about as long."""
        iterations = math.ceil(steps / self.iteration_steps)
        return steps + iterations // self.evaluate_every * self.evaluation_steps

    def work_left(self, steps: int) -> int:
        """What is left after so many steps."""
        return max(0, self.work(self.steps) - self.work(steps)) + self.final_steps


def plan_of(trainer: TrainingRun) -> Plan:
    """What a trainer is going to do from where it stands."""
    config = trainer.config
    evaluation = trainer.judging_steps
    return Plan(
        run_dir=trainer.run_dir,
        begun=trainer.ppo.num_timesteps,
        steps=config.steps,
        iteration_steps=config.num_envs * config.ppo.horizon,
        evaluate_every=config.evaluate_every,
        evaluation_steps=evaluation,
        final_steps=round(trainer.final_judgings * evaluation),
        cores=config.threads or os.cpu_count() or 1,
    )


class TrainingProgress:
    """Watches one training."""

    def __init__(
        self,
        plan: Plan,
        *,
        quiet: bool,
        console: Console | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Begin to count; nothing is shown yet.

        Args:
            plan: What the training is going to do.
            quiet: Show nothing.
            console: Where to; stderr by default.
            clock: Time [s].
        """
        self._plan, self._quiet, self._clock = plan, quiet, clock
        self._console = console or Console(stderr=True)
        self._started = self._printed = clock()
        self._past = deque([(self._started, plan.work(plan.begun))])
        self._steps, self._figures = plan.begun, dict[str, float]()
        self._measuring, self._estimated = 0.0, False
        self._note = f"measuring the speed for {BENCHMARK_S:.0f} s"
        self._live: Live | None = None

    def __enter__(self) -> TrainingProgress:
        """Begin to show."""
        if not self._quiet and self._console.is_interactive:
            self._live = Live(get_renderable=self._lines, console=self._console, transient=True)
            with suppress(OSError):
                self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Clear the lines."""
        if self._live is not None:
            with suppress(OSError):
                self._live.stop()

    def update(
        self, steps: int, facts: Mapping[str, float], evaluation: Mapping[str, float] | None = None
    ) -> None:
        """Take what an iteration gave.

        Args:
            steps: Done so far, those before a resume among them.
            facts: Of the iteration.
            evaluation: Figures of the last evaluation, if there was one.
        """
        now = self._clock()
        self._steps, self._figures = steps, {**self._figures, **facts, **(evaluation or {})}
        if not self._measuring:  # a teacher was planned and libraries were loaded until here
            self._measuring, self._past = now, deque([(now, self._plan.work(steps))])
            return
        self._past.append((now, self._plan.work(steps)))
        while len(self._past) > 2 and now - self._past[1][0] > _WINDOW_S:
            self._past.popleft()
        if not self._estimated and now - self._measuring >= BENCHMARK_S:
            self._estimated, self._note, self._printed = True, "", now
            self._print(self._estimate())
        if steps >= self._plan.steps:
            self._note = "judging the result"
        if self._live is None and now - self._printed >= LINE_EVERY_S:
            self._printed = now
            self._print(f"{self._place()}  {self._quality()}")

    def stopping(self) -> None:
        """A stop was asked for; safe in a signal handler."""
        judging = self._steps >= self._plan.steps
        doing = "judging the result" if judging else "saving after this iteration"
        self._note = f"{doing}; ask again to stop at once"

    def _estimate(self) -> str:
        """How long it will take."""
        plan = self._plan
        steps = f"{plan.steps - plan.begun:,} steps"
        if plan.begun:
            steps = f"the {steps} that are left of {plan.steps:,}"
        cores = "1 core" if plan.cores == 1 else f"{plan.cores} cores"
        left = spoken(self._left_s())
        speed = thousands(self._speed())
        return f"about {left} for {steps} at {speed} steps/s on {cores}; curves in {plan.run_dir}"

    def _speed(self) -> float:
        """Steps per second over the last minute, those of evaluations among them."""
        (before, done), (now, newer) = self._past[0], self._past[-1]
        return (newer - done) / max(now - before, 1e-9)

    def _left_s(self) -> float:
        """Time left, counted down between updates; NaN where nothing was measured [s]."""
        speed = self._speed()
        since = self._clock() - self._past[-1][0]
        return max(0.0, self._plan.work_left(self._steps) / speed - since) if speed else math.nan

    def _place(self) -> str:
        """Where the training stands."""
        parts = [
            f"{min(1.0, self._steps / self._plan.steps):4.0%}",
            f"{self._steps:,} steps",
            f"elapsed {digits(self._clock() - self._started)}",
        ]
        if self._speed():
            parts[2:2] = [f"{thousands(self._speed())} steps/s"]
            parts.append(f"left {digits(self._left_s())}")
        return "  ".join(parts)

    def _quality(self) -> str:
        """How well it goes."""
        known = self._figures
        return "  ".join(
            f"{label} {form.format(known[name])}" for name, label, form in _FIGURES if name in known
        )

    def _lines(self) -> RenderableType:
        """What stays in place on a terminal."""
        bar = Table.grid(padding=(0, 1))
        done = min(self._steps, self._plan.steps)
        bar.add_row(ProgressBar(total=self._plan.steps, completed=done, width=24), self._place())
        below = (self._quality(), self._note)
        return Group(bar, *(Text(line, style="dim") for line in below if line))

    def _print(self, line: str) -> None:
        """A line that stays, unless nobody can read it any more."""
        if self._quiet:
            return
        with suppress(OSError):
            if self._live is not None:
                self._console.print(line, markup=False, highlight=False)
            else:  # rich ends the program when a pipe is closed
                print(line, file=sys.stderr, flush=True)


@contextmanager
def watched(
    trainer: TrainingRun, *, quiet: bool
) -> Iterator[tuple[Callable[[Report], None], Callable[[], bool]]]:
    """Show how a training goes, and let a person stop it.

    Yields:
        What the training tells about every iteration, and what it asks whether to stop.
    """
    with (
        TrainingProgress(plan_of(trainer), quiet=quiet) as shown,
        stop_requests(shown.stopping) as stopped,
    ):
        yield (lambda report: shown.update(report.steps, report.facts)), stopped


def thousands(speed: float) -> str:
    """``6.4k``, or the number as it is below a thousand."""
    return f"{speed / 1e3:.1f}k" if speed >= 1e3 else f"{speed:.0f}"


def spoken(seconds: float) -> str:
    """As one would say it: ``40 s``, ``11 min``, ``2 h 10 min``."""
    if seconds != seconds:
        return "an unknown time"
    if seconds < 90.0:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60.0)
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def digits(seconds: float) -> str:
    """As a clock shows it: ``9:31``, ``2:10:05``; a question mark for NaN."""
    if seconds != seconds:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
