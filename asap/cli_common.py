"""What all commands share: common options, the outcome that a command returns, tables.

A command is a frozen dataclass of options with a ``run`` method. It returns an ``Outcome``; only
``cli.py`` prints.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from rich.console import RenderableType
from rich.table import Table

from asap.metrics import Interval

DONE, CHECK_FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
"""Exit statuses."""

_AGAIN_S = 1.0
"""A Ctrl-C so long after another is a second one [s]."""

Progress = Callable[[float], None]


@dataclass(frozen=True, kw_only=True)
class Common:
    """Options that every command has."""

    draws: ClassVar[bool] = False
    """The command shows its progress itself."""
    seed: int = 0
    """Of everything random."""
    json: Path | None = None
    """Write the result to this file as JSON."""
    quiet: bool = False
    """Print nothing but errors."""

    def folder(self, name: str) -> Path:
        """--out, of the commands that have it, or a new folder ``runs/<name>/<time>-<seed>``."""
        given: Path | None = getattr(self, "out", None)
        stamp = time.strftime("%Y%m%d-%H%M%S")
        return given or Path("runs") / name / f"{stamp}-{self.seed}"

    def run(self, progress: Progress) -> Outcome:
        """Do it; every command has its own."""
        raise NotImplementedError(type(self).__name__)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a command did."""

    result: dict[str, Any]
    """For JSON, without the envelope."""
    shown: Sequence[RenderableType] = ()
    """What a person sees."""
    inputs: Sequence[Path] = field(default_factory=tuple)
    """Files that were read, for the envelope."""
    status: int = DONE


def table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, sentences: bool = False
) -> Table:
    """A table for the terminal: names to the left, figures to the right.

    Args:
        title: Above it.
        columns: Headings.
        rows: Texts.
        sentences: The last column holds sentences, which are broken; all others names.
    """
    result = Table(title=title, title_justify="left", header_style="bold")
    for place, column in enumerate(columns):
        broken = sentences and place == len(columns) - 1
        side: Literal["left", "right"] = "left" if sentences or place == 0 else "right"
        result.add_column(column, justify=side, no_wrap=not broken)
    for row in rows:
        result.add_row(*row)
    return result


def show(figure: Interval, digits: int = 1) -> str:
    """A figure with its 95 % interval, as ``1.5 [1.2, 1.9]``."""
    if figure.value != figure.value:
        return "-"
    text = f"{figure.value:.{digits}f}"
    if figure.low != figure.low or figure.low == figure.high:
        return text
    return f"{text} [{figure.low:.{digits}f}, {figure.high:.{digits}f}]"


@contextmanager
def stop_requests(asked_first: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """Ctrl-C, SIGTERM and a closed terminal ask to stop; the iteration is finished and saved first.

    A second Ctrl-C does not want to wait: the run stops at once, at its last checkpoint.
    """
    asked: list[float] = []
    names = [signal.SIGINT, signal.SIGTERM]
    # Under nohup a closed terminal is no reason to stop.
    if sys.platform != "win32" and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        names.append(signal.SIGHUP)

    def ask(number: int, frame: object) -> None:
        now = time.monotonic()
        # Wrappers pass on the Ctrl-C that the terminal already sent: that is one request.
        if asked and number == signal.SIGINT and now - asked[0] > _AGAIN_S:
            raise KeyboardInterrupt
        asked.append(now)
        asked_first()

    before = {name: signal.signal(name, ask) for name in names}
    try:
        yield lambda: bool(asked)
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
