"""What a training shows: an honest estimate, lines that stay in place or plain ones, or nothing."""

from __future__ import annotations

import io
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from asap.cli import main
from asap.cli_common import stop_requests
from asap.cli_progress import LINE_EVERY_S, Plan, TrainingProgress, digits, spoken

PLAN = Plan(run_dir=Path("runs/x"), begun=0, steps=4_000_000, iteration_steps=8192,
            evaluate_every=50, evaluation_steps=12_800, final_steps=64_000, cores=2)  # fmt: skip
FACTS = {"reward": 0.0612, "failed": 0.0041, "learning_rate": 1e-3, "std": 0.31}


class _Clock:
    """Time that stands still until it is told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def _trained(
    shown: TrainingProgress, clock: _Clock, plan: Plan, speed: float, until: float = 1.0
) -> float:
    """A run at a constant speed [steps/s], up to this part of it; how long it took [s]."""
    began, steps, iteration = clock.now, plan.begun, plan.begun // plan.iteration_steps
    while steps < until * plan.steps:
        steps, iteration = steps + plan.iteration_steps, iteration + 1
        clock.now += plan.iteration_steps / speed
        if iteration % plan.evaluate_every == 0:
            clock.now += plan.evaluation_steps / speed
        shown.update(steps, FACTS)
    return clock.now - began


def test_the_estimate_says_how_long_before_a_person_has_waited(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = _Clock()
    with TrainingProgress(PLAN, quiet=False, console=_plain(), clock=clock) as shown:
        _trained(shown, clock, PLAN, 6400.0, 0.003)
        assert capsys.readouterr().err == ""
        _trained(shown, clock, replace(PLAN, begun=shown._steps), 6400.0, 0.01)
    # (4,000,000 + 9 evaluations of 12,800 + 64,000 at the end) / 6400 = 653 s.
    assert capsys.readouterr().err == (
        "about 11 min for 4,000,000 steps at 6.4k steps/s on 2 cores; curves in runs/x\n"
    )


@pytest.mark.parametrize("begun", [0, 2_457_600])
def test_time_left_and_elapsed_add_up_to_what_it_takes(begun: int) -> None:
    plan = replace(PLAN, begun=begun)
    clock, found = _Clock(), []
    shown = TrainingProgress(plan, quiet=True, clock=clock)
    began = clock.now
    for part in (0.62, 0.7, 0.9, 1.0):
        rest = replace(plan, begun=shown._steps)
        _trained(shown, clock, rest, 6400.0, part)
        found.append(clock.now - began + shown._left_s())
    final = clock.now - began + plan.final_steps / 6400.0
    assert found == pytest.approx([final] * 4, rel=0.01)
    clock.now += 2.0
    assert shown._left_s() == pytest.approx(plan.final_steps / 6400.0 - 2.0)


def test_a_resumed_training_counts_what_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    clock, plan = _Clock(), replace(PLAN, begun=2_048_000, cores=1)
    shown = TrainingProgress(plan, quiet=False, console=_plain(), clock=clock)
    _trained(shown, clock, plan, 640.0, 0.515)
    line = capsys.readouterr().err.splitlines()[0]
    assert "for the 1,952,000 steps that are left of 4,000,000 at 640 steps/s on 1 core;" in line
    # After two iterations: (1,935,616 + 4 evaluations of 12,800 + 64,000 at the end) / 640 s.
    assert line.startswith("about 53 min ")


def test_what_comes_before_the_first_iteration_is_not_taken_for_its_speed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = _Clock()
    with TrainingProgress(PLAN, quiet=False, console=_plain(), clock=clock) as shown:
        clock.now += 60.0  # a teacher is planned
        _trained(shown, clock, PLAN, 6400.0, 0.01)
    assert "at 6.4k steps/s" in capsys.readouterr().err


def test_where_nobody_watches_there_is_a_line_every_half_minute(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = _Clock()
    with TrainingProgress(PLAN, quiet=False, console=_plain(), clock=clock) as shown:
        took = _trained(shown, clock, PLAN, 6400.0, 0.5)
        shown.update(2_056_192, FACTS, {"success_rate": 0.92, "mpjpe_mm": 43.2})
        clock.now += LINE_EVERY_S
        shown.update(2_064_384, FACTS)
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert captured.out == ""
    assert len(lines) == pytest.approx(1 + took / LINE_EVERY_S, abs=2)
    for part in ("52%", "2,064,384 steps", "elapsed 5:52", "reward 0.0612", "failures/step 0.41%",
                 "learning rate 1.0e-03", "std 0.310", "success 92%", "mpjpe 43 mm"):  # fmt: skip
        assert part in lines[-1]
    assert "6.4k steps/s" in lines[5]
    assert "success" not in lines[5]


def test_a_terminal_sees_lines_that_stay_in_place_and_the_estimate_above() -> None:
    clock, file = _Clock(), io.StringIO()
    console = Console(file=file, force_terminal=True, width=150, color_system=None,
                      force_interactive=True)  # fmt: skip
    with TrainingProgress(PLAN, quiet=False, console=console, clock=clock) as shown:
        _trained(shown, clock, PLAN, 6400.0, 0.5)
        assert shown._live is not None
        shown._live.refresh()
        shown.stopping()
        shown._live.refresh()
    text = file.getvalue()
    assert text.count("about 11 min for 4,000,000 steps") == 1
    assert "measuring the speed for 3 s" in text
    assert "50%" in text
    assert "reward 0.0612" in text
    assert text.index("saving after this iteration") > text.index("reward 0.0612")


def test_quiet_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    clock, file = _Clock(), io.StringIO()
    console = Console(file=file, force_terminal=True)
    with TrainingProgress(PLAN, quiet=True, console=console, clock=clock) as shown:
        _trained(shown, clock, PLAN, 6400.0)
    assert file.getvalue() == ""
    assert capsys.readouterr() == ("", "")


def test_a_reader_that_went_away_does_not_end_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    clock = _Clock()
    stream = os.fdopen(writer, "w")
    monkeypatch.setattr("sys.stderr", stream)
    with pytest.raises(BrokenPipeError):  # this is what it would be
        print("gone", file=stream, flush=True)
    with TrainingProgress(PLAN, quiet=False, console=_plain(), clock=clock) as shown:
        _trained(shown, clock, PLAN, 6400.0)
    monkeypatch.undo()
    with pytest.raises(BrokenPipeError):
        stream.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_terminal_that_went_away_does_not_end_the_training() -> None:
    other_end, terminal = os.openpty()
    clock = _Clock()
    stream = os.fdopen(terminal, "w")
    console = Console(file=stream, force_interactive=True)
    assert console.is_terminal
    with TrainingProgress(PLAN, quiet=False, console=console, clock=clock) as shown:
        os.close(other_end)
        _trained(shown, clock, PLAN, 6400.0)
    with pytest.raises(OSError):
        stream.close()


def test_the_command_shows_the_estimate_and_saves_when_asked_to_stop(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Asking(TrainingProgress):
        def update(self, *arguments) -> None:
            super().update(*arguments)
            if self._estimated:
                signal.raise_signal(signal.SIGTERM)

    bars: list[bool] = []

    @contextmanager
    def bar(name: str, *, quiet: bool) -> Iterator[object]:
        bars.append(not quiet)
        yield lambda fraction: None

    monkeypatch.setattr("asap.cli._progress", bar)
    monkeypatch.setattr("asap.cli_progress.BENCHMARK_S", 0.0)
    monkeypatch.setattr("asap.cli_progress.TrainingProgress", Asking)
    words = ["pretrain", "--motion", "wave", "--out", str(tmp_path), "--train.steps", "320"]
    small = ["--train.num-envs", "8", "--train.ppo.horizon", "4", "--train.ppo.minibatches", "1",
             "--train.ppo.torch-threads", "1", "--train.imitate.iterations", "0"]  # fmt: skip
    assert main([*words, *small]) == 130
    captured = capsys.readouterr()
    assert captured.err.startswith("about ")
    assert captured.err.count("\n") == 1
    assert " for 320 steps at " in captured.err
    assert "stopped after 64 steps" in captured.out
    assert f"--resume --out {tmp_path}" in " ".join(captured.out.split())
    assert (tmp_path / "checkpoint.pt").exists()
    assert bars == [False], "the bar of other commands would stand in the way"


def test_the_first_request_saves_and_a_second_ctrl_c_does_not_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before, told = signal.getsignal(signal.SIGINT), []
    with stop_requests(lambda: told.append(True)) as stopped:
        assert not stopped()
        for name in (signal.SIGINT, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.raise_signal(name)  # a wrapper may pass on what the terminal already sent
        assert stopped()
        later = time.monotonic() + 1.5
        monkeypatch.setattr(time, "monotonic", lambda: later)
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert told
    assert signal.getsignal(signal.SIGINT) is before


def test_under_nohup_a_closed_terminal_is_no_reason_to_stop() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_requests(lambda: None) as stopped:
            signal.raise_signal(signal.SIGHUP)
            assert not stopped()
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("seconds", "said", "shown"),
    [(0.2, "1 s", "0:00"), (41.0, "41 s", "0:41"), (653.0, "11 min", "10:53"),
     (7800.0, "2 h 10 min", "2:10:00"), (float("nan"), "an unknown time", "?")],
)  # fmt: skip
def test_times_are_readable(seconds: float, said: str, shown: str) -> None:
    assert (spoken(seconds), digits(seconds)) == (said, shown)


def _plain() -> Console:
    return Console(file=io.StringIO())
