"""Fixed rates, what the system allows for them, and histograms of how well they were kept.

rate = FixedRate(0.02)
while True:
late_s = rate.wait()                         # sleeps; never a burst of missed ticks
...
rate.done()
"""

from __future__ import annotations

import contextlib
import gc
import math
import os
import time
from typing import Callable, Dict, Iterator, List, Optional

LOOP_PRIORITY = 40
"""Of the control loop under SCHED_FIFO; the supervisor's is above it."""

MAX_OVERRUNS = 3
"""Overruns in a row after which the loop gives up."""

_BINS_A_DECADE = 20


def make_realtime(priority: int, core: Optional[int] = None) -> List[str]:
    """Ask for what a control loop needs; nothing of it is required.

    Args:
        priority: Of SCHED_FIFO, 1 to 99; 0 leaves the scheduler alone.
        core: CPU to stay on; None leaves that to the system.

    Returns:
        What was got and what was not, a line each.
    """
    got = []
    gc.collect()
    gc.freeze()
    gc.disable()
    got.append("garbage collection frozen")
    if priority > 0:
        try:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
            got.append(f"SCHED_FIFO {priority}")
        except (AttributeError, OSError) as error:
            got.append(f"no SCHED_FIFO ({error}): latencies will be longer; see `ulimit -r`")
    if core is not None:
        try:
            os.sched_setaffinity(0, {core})
            got.append(f"on CPU {core}")
        except (AttributeError, OSError, ValueError) as error:
            got.append(f"not on CPU {core} ({error})")
    return got


@contextlib.contextmanager
def for_a_while() -> Iterator[None]:
    """Whatever ``make_realtime`` did to the scheduling is undone at the end.

    Else a second run's recorder, and a whole Python that starts, would inherit real-time priority.
    """
    try:
        before = os.sched_getscheduler(0), os.sched_getparam(0)
        cores = os.sched_getaffinity(0)
    except (AttributeError, OSError):
        yield
        return
    try:
        yield
    finally:
        os.sched_setscheduler(0, *before)
        os.sched_setaffinity(0, cores)


@contextlib.contextmanager
def at_priority(priority: int) -> Iterator[bool]:
    """The scheduling of the control loop for a while, then what was before.

    Yields:
        Whether the system allowed it.
    """
    try:
        before = os.sched_getscheduler(0), os.sched_getparam(0)
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    except (AttributeError, OSError):
        yield False
        return
    try:
        yield True
    finally:
        os.sched_setscheduler(0, *before)


class FixedRate:
    """Ticks at whole multiples of a period from the first; a missed one is left out, not caught up.

    Sleeping "period minus work" drifts by every microsecond that is not counted, and an absolute
    clock that catches up sends a burst of commands after a stall. This does neither.
    """

    def __init__(self, period_s: float, *, clock: Callable[[], float] = time.monotonic,
                 sleep: Callable[[float], None] = time.sleep) -> None:  # fmt: skip
        """Start now.

        Args:
            period_s: Between two ticks [s].
            clock: For tests.
            sleep: For tests.
        """
        self.period_s, self._clock, self._sleep = period_s, clock, sleep
        self._start_s = clock()
        self.tick = -1
        """Number of the tick that we are in; jumps over those that were missed."""
        self.missed = 0
        self.in_a_row = 0
        """Overruns without a punctual tick between."""

    @property
    def due_s(self) -> float:
        """When this tick was due."""
        return self._start_s + self.tick * self.period_s

    def wait(self) -> float:
        """Sleep until the next tick; returns how late we woke [s]."""
        now = self._clock()
        following = self.tick + 1
        current = math.floor((now - self._start_s) / self.period_s + 1e-9)
        if current > following:  # whole periods are over
            self.missed += current - following
            following = current
        self.tick = following
        while True:
            left = self.due_s - self._clock()
            if left <= 0.0:
                return -left
            self._sleep(left)

    def done(self) -> bool:
        """The work of this tick is over; True if it took longer than the tick."""
        over = self._clock() > self.due_s + self.period_s
        self.in_a_row = self.in_a_row + 1 if over else 0
        return over


class Histogram:
    """Counts durations in bins that grow by 12 %; no memory grows while it counts."""

    def __init__(self, name: str, least_s: float = 1e-6, most_s: float = 10.0) -> None:
        """Make the bins.

        Args:
            name: What is measured.
            least_s: Shorter ones count as this [s].
            most_s: Longer ones count as this, but for the maximum [s].
        """
        self.name, self._least = name, math.log10(least_s)
        decades = math.log10(most_s) - self._least
        self._counts = [0] * (round(decades * _BINS_A_DECADE) + 1)
        self.count, self.max_s = 0, 0.0

    def add(self, duration_s: float) -> None:
        """Count one."""
        place = 0
        if duration_s > 0.0:
            place = int((math.log10(duration_s) - self._least) * _BINS_A_DECADE)
        self._counts[min(max(place, 0), len(self._counts) - 1)] += 1
        self.count += 1
        self.max_s = max(self.max_s, duration_s)

    def quantile_s(self, fraction: float) -> float:
        """Upper edge of the bin that holds the quantile [s]; 0 if nothing was counted."""
        left = fraction * self.count
        for place, count in enumerate(self._counts):
            left -= count
            if count and left <= 1e-9:
                edge: float = 10.0 ** (self._least + (place + 1) / _BINS_A_DECADE)
                return min(edge, self.max_s)
        return self.max_s if self.count else 0.0

    def brief(self) -> Dict[str, float]:
        """Count and quantiles in milliseconds."""
        quantiles = {"p50": 0.5, "p99": 0.99, "p999": 0.999}
        found = {name: round(1e3 * self.quantile_s(q), 4) for name, q in quantiles.items()}
        return {"count": self.count, **found, "max": round(1e3 * self.max_s, 4)}

    def lines(self, width: int = 40) -> List[str]:
        """For a terminal: a heading, then a bar for each third of a decade."""
        facts = self.brief()
        text = (f"{self.name}: {self.count} times, p50 {facts['p50']:.3f}, p99 {facts['p99']:.3f}, "
                f"p99.9 {facts['p999']:.3f}, max {facts['max']:.3f} ms")  # fmt: skip
        step = max(1, _BINS_A_DECADE // 3)
        sums = [sum(self._counts[k : k + step]) for k in range(0, len(self._counts), step)]
        most, rows = max([1, *sums]), []
        for k, count in enumerate(sums):
            if count:
                edge = 1e3 * 10.0 ** (self._least + k * step / _BINS_A_DECADE)
                bar = "#" * max(1, round(width * count / most))
                rows.append(f"  from {edge:9.3f} ms {count:8d} {bar}")
        return [text, *rows]
