"""The command line: ``asap VERB [SUBVERB] [OPTIONS]``.

    asap evaluate --policy policies/g1/wave.onnx --motion wave --png wave.png

Exit status: 0 done, 1 a check failed, 2 bad input (one line on stderr), 130 interrupted.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from asap import (
    __version__,
    cli_align,
    cli_bench,
    cli_bench_align,
    cli_bench_logs,
    cli_bench_posttrain,
    cli_data,
    cli_fit,
    cli_logs,
    cli_motions,
    cli_policy,
    cli_teach,
    cli_train,
    cli_tune,
    cli_tune_rldg,
    cli_twin,
    results,
)
from asap.cli_common import BAD_INPUT, INTERRUPTED, Common
from asap_deploy.errors import InputError, suggestion

WIDTH = 200
"""Of tables that are written to a file or a pipe."""

COMMANDS: dict[str, type[Common]] = {
    "robots list": cli_data.RobotsList,
    "robots check": cli_data.RobotsCheck,
    "robots view": cli_data.RobotsView,
    "motions list": cli_data.MotionsList,
    "motions check": cli_data.MotionsCheck,
    "motions convert": cli_data.MotionsConvert,
    "motions make": cli_motions.MotionsMake,
    "evaluate": cli_policy.Evaluate,
    "export": cli_policy.Export,
    "view": cli_policy.View,
    "pretrain": cli_train.Pretrain,
    "teach": cli_teach.Teach,
    "finetune": cli_train.Finetune,
    "logs check": cli_logs.LogsCheck,
    "logs convert": cli_logs.LogsConvert,
    "logs show": cli_logs.LogsShow,
    "replay": cli_logs.ReplayLogs,
    "report": cli_align.Report,
    "fit": cli_fit.Fit,
    "align": cli_align.Align,
    "tune rlpd": cli_tune.TuneRlpd,
    "tune hil": cli_tune.TuneHil,
    "tune conrft": cli_tune.TuneConrft,
    "tune grape": cli_tune.TuneGrape,
    "tune ire": cli_tune.TuneIre,
    "tune rldg": cli_tune_rldg.TuneRldg,
    "twin": cli_twin.Twin,
    "bench sim": cli_bench.BenchSim,
    "bench integrators": cli_bench.BenchIntegrators,
    "bench train": cli_bench.BenchTrain,
    "bench gap": cli_bench.BenchGap,
    "bench logs": cli_bench_logs.BenchLogs,
    "bench align": cli_bench_align.BenchAlign,
    "bench posttrain": cli_bench_posttrain.BenchPosttrain,
    "bench published": cli_bench.BenchPublished,
}

NAMED = {
    "robots check": "--robot",
    "robots view": "--robot",
    "motions check": "--motion",
    "motions convert": "--motion",
}
"""What can be left out before the names that a command is about."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: Words after ``asap``; those of the process by default.

    Returns:
        The exit status.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    # Where nobody watches, lines need not fit a window.
    console = Console(width=None if sys.stdout.isatty() else WIDTH, soft_wrap=False)
    try:
        name, rest = _find_command(words)
        if name is None:
            _print_overview(console)
            return 0
        command = _parse(name, rest)
        return _run(name, command, console)
    except InputError as error:
        print(f"asap: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("asap: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone, as in `asap ... | head`
        sys.stderr.close()
        return 0


def _run(name: str, command: Common, console: Console) -> int:
    """Run a command, print what it shows and write its JSON."""
    started = time.perf_counter()
    with _progress(name, quiet=command.quiet or command.draws) as report:
        outcome = command.run(report)
    wall_s = time.perf_counter() - started
    if not command.quiet:
        for item in outcome.shown:
            console.print(item, markup=False, highlight=False)
    if command.json is not None:
        wrapper = results.envelope(name, seed=command.seed, inputs=outcome.inputs, wall_s=wall_s)
        results.write_json(command.json, wrapper | outcome.result)
    return outcome.status


def _find_command(words: list[str]) -> tuple[str | None, list[str]]:
    """The command that the first words name, and the words after it; None for the overview.

    Raises:
        InputError: If there is no such command.
    """
    if not words or words[0] in ("-h", "--help", "help"):
        return None, []
    if words[0] == "--version":
        print(f"asap {__version__}")
        raise SystemExit(0)
    for length in (2, 1):
        name = " ".join(words[:length])
        if name in COMMANDS:
            return name, words[length:]
    verb = words[0]
    below = [name.split()[1] for name in COMMANDS if name.startswith(f"{verb} ")]
    if below and len(words) > 1 and words[1] not in ("-h", "--help"):
        raise InputError(f"'asap {verb}' has no '{words[1]}'{suggestion(words[1], below)}")
    if below:
        raise InputError(f"'asap {verb}' needs one of: {', '.join(below)}")
    verbs = sorted({name.split()[0] for name in COMMANDS})
    raise InputError(f"there is no command '{verb}'{suggestion(verb, verbs)}")


def _parse(name: str, words: list[str]) -> Common:
    """Options as a dataclass; what cannot be parsed is one line instead of a page."""
    if "-h" in words or "--help" in words:
        return tyro.cli(COMMANDS[name], prog=f"asap {name}", args=["--help"])
    # What these take bare may also be named, as everywhere else.
    words = [word for word in words if word != NAMED.get(name)]
    captured = io.StringIO()
    try:
        with contextlib.redirect_stderr(captured):
            return tyro.cli(COMMANDS[name], prog=f"asap {name}", args=words)
    except SystemExit:
        pass
    raise InputError(f"{_brief(captured.getvalue(), name)}; see `asap {name} --help`")


def _brief(text: str, name: str) -> str:
    """The gist of a parser's message: its lines without frames, in one."""
    lines = [re.sub(r"[-─│╭╮╰╯]{3,}|[│╭╮╰╯]", " ", line).strip() for line in text.splitlines()]
    kept: list[str] = []
    for line in lines:
        if line.startswith(("For full helptext", "Argument helptext")):
            break
        if line:
            kept.append(line)
    gist = " ".join(kept)
    unknown = re.search(r"Unrecognized options:? (--[\w.-]+)", gist)
    if unknown:
        options = _options(name)
        return f"'asap {name}' has no option {unknown[1]}{suggestion(unknown[1], options)}"
    return gist or "the options cannot be read"


def _options(name: str) -> list[str]:
    """All options of a command, from its own help."""
    captured = io.StringIO()
    with contextlib.redirect_stdout(captured), contextlib.suppress(SystemExit):
        tyro.cli(COMMANDS[name], prog="asap", args=["--help"])
    return sorted(set(re.findall(r"--[a-z][\w.-]+", captured.getvalue())))


@contextlib.contextmanager
def _progress(name: str, *, quiet: bool) -> Iterator[Any]:
    """A bar with the time left, on stderr, where a person watches."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda fraction: None
        return
    columns = (TextColumn(f"asap {name}"), BarColumn(), TimeElapsedColumn(), TextColumn("left"),
               TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(name, total=1.0)
        yield lambda fraction: bar.update(task, completed=fraction)


def _print_overview(console: Console) -> None:
    """All commands with their first lines."""
    console.print("asap: close the gap between a simulator and a humanoid robot\n", markup=False)
    for name, kind in COMMANDS.items():
        first = (kind.__doc__ or "").strip().splitlines()[0]
        console.print(f"  asap {name:18} {first}", markup=False, highlight=False)
    console.print("\n`asap COMMAND --help` lists the options of a command.", markup=False)


if __name__ == "__main__":
    sys.exit(main())
