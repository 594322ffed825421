"""What the operator wants: keys of a terminal, buttons of the remote, or a script for tests.

An order counts once, when its key goes down, and only if the key is held alone for a moment: a
chord whose buttons arrive one after the other is never taken for its first button.

    keys = RemoteKeys()
    keys.poll(now, mode, state)                      # for example ["arm"]
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import sys
from typing import Any, Dict, List, Match, Optional, Protocol, Sequence, Tuple

from asap_deploy.errors import InputError, suggestion
from asap_deploy.link import RobotState, key_bits

ORDERS = ("arm", "stand", "go", "next", "damp", "quit")
TERMINAL = {"a": "arm", "s": "stand", "g": "go", "n": "next", "d": "damp", " ": "damp", "q": "quit"}
HELP = "a arm (damping)   s stand   g go   n next clip   space or d damp   q quit"
REMOTE = {key_bits("START"): "arm", key_bits("X"): "stand", key_bits("A"): "go",
          key_bits("Y"): "next", key_bits("B"): "damp"}  # fmt: skip
DEBOUNCE_POLLS = 3
"""Polls in a row that must agree; the remote's stop is seen by the supervisor at once."""

REPEAT_S = 0.25
"""The same key within this time is a held key [s]."""

SPLIT_S = 0.1
"""The bytes of one key of a terminal come within this time [s]."""

STOPS = ("damp", "quit")
"""Orders that count wherever they stand."""

_NO_LETTER = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]?|O[@-~]?)?")
"""Keys without a letter: the up arrow is ESC [ A, F4 is ESC O S."""

STEADY_S = 0.5
"""``go@ready`` of a script comes this long after the mode was reached [s]."""


class Keys(Protocol):
    """A source of orders."""

    def begin(self) -> None:
        """From now on orders count; what was pressed before was not meant for what is now."""
        ...

    def poll(self, now_s: float, mode: str, state: Optional[RobotState]) -> List[str]:
        """Orders since the last poll."""
        ...

    def close(self) -> None:
        """Leave everything as it was."""
        ...


class RemoteKeys:
    """The robot's own remote."""

    def __init__(self) -> None:
        """Whatever is pressed now must be let go first."""
        self.begin()

    def begin(self) -> None:
        """All buttons must be up once before one counts."""
        self._last, self._polls, self._armed = -1, 0, False

    def poll(self, now_s: float, mode: str, state: Optional[RobotState]) -> List[str]:
        """One order where a button has gone down alone."""
        keys = 0 if state is None or not state.remote_connected else state.remote_keys
        self._polls = self._polls + 1 if keys == self._last else 1
        self._last = keys
        if self._polls < DEBOUNCE_POLLS:
            return []
        if keys == 0:
            self._armed = True
            return []
        if not self._armed:
            return []
        self._armed = False  # until all buttons are up again
        return [REMOTE[keys]] if keys in REMOTE else []

    def close(self) -> None:
        """Nothing to do."""


class TerminalKeys:
    """Keys of the terminal on standard input."""

    def __init__(self) -> None:
        """Have keys come one by one.

        Raises:
            InputError: If there is no terminal: then nobody is there to stop the robot.
        """
        try:
            import termios
            import tty
        except ImportError:
            raise InputError("this system has no terminal control: arming is refused") from None
        if not sys.stdin.isatty():
            raise InputError("there is no terminal, so nobody could stop the robot: run this in "
                             "one (ssh -t)")  # fmt: skip
        self._fd = sys.stdin.fileno()
        self._before: Any = termios.tcgetattr(self._fd)
        tty.setcbreak(self._fd)
        # After a Ctrl-Z the shell's own mode is back, in which no key counts before Enter.
        self._continued: Any = signal.signal(
            signal.SIGCONT, lambda *_: tty.setcbreak(self._fd, termios.TCSANOW)
        )
        self._pressed: Dict[str, float] = {}
        self._begun, self._begun_s = "", 0.0

    def begin(self) -> None:
        """Keys that were pressed while the checks ran are thrown away: they must arm nobody."""
        import termios

        termios.tcflush(self._fd, termios.TCIFLUSH)

    def poll(self, now_s: float, mode: str, state: Optional[RobotState]) -> List[str]:
        """Orders typed since the last poll; keys that mean nothing are passed over."""
        typed = b""
        while select.select([self._fd], [], [], 0)[0]:
            data = os.read(self._fd, 64)
            if not data:  # the terminal is gone, and the operator with it
                return ["damp", "quit"]
            typed += data
        letters = self._letters(typed.decode(errors="replace"), now_s)
        # Nobody types two keys within a control step: that is a text that was pasted.
        pasted = len({letter for letter in letters if TERMINAL.get(letter) not in STOPS}) > 1
        orders = []
        for letter in letters:
            order = TERMINAL.get(letter)
            if order is None or (pasted and order not in STOPS):
                continue
            if now_s - self._pressed.get(letter, -1e9) > REPEAT_S or order == "damp":
                orders.append(order)
            self._pressed[letter] = now_s
        return orders

    def _letters(self, text: str, now_s: float) -> str:
        """What was typed without arrows and function keys, whose bytes end in a letter."""
        if self._begun and now_s - self._begun_s > SPLIT_S:
            self._begun = ""  # that was the escape key by itself
        if not text:
            return ""
        text, self._begun = self._begun + text, ""
        end = re.search(r"\x1b(?:\[[0-?]*[ -/]*|O)?$", text)
        if end is not None:  # the rest is still to come
            self._begun, self._begun_s = end.group(), now_s
        # A letter right after ESC was typed with Alt: only a stop counts.
        found = re.sub(r"\x1b([^\[O\x1b])", _stop_or_nothing, text)
        return _NO_LETTER.sub("", found).lower()

    def close(self) -> None:
        """Have the terminal as it was."""
        import termios

        signal.signal(signal.SIGCONT, self._continued)
        with contextlib.suppress(termios.error):
            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)


def _stop_or_nothing(found: Match[str]) -> str:
    letter = found.group(1).lower()
    return letter if TERMINAL.get(letter) in STOPS else ""


class OnlyStop:
    """Keys that may stop the robot and nothing else, for runs whose other orders are a script's."""

    DAMP_S = 2.0
    """Damping goes on for so long before the run ends [s]."""

    def __init__(self, keys: Keys) -> None:
        """Listen to others."""
        self._keys = keys
        self.stopped_s: Optional[float] = None
        """When the operator stopped; None while nobody did."""

    def begin(self) -> None:
        """From now on."""
        self._keys.begin()

    def poll(self, now_s: float, mode: str, state: Optional[RobotState]) -> List[str]:
        """Damping at once, the end a while later."""
        wanted = set(STOPS) & set(self._keys.poll(now_s, mode, state))
        if self.stopped_s is None:
            self.stopped_s = now_s if wanted else None
            return ["damp"] if wanted else []
        return ["quit"] if now_s - self.stopped_s > self.DAMP_S else []

    def close(self) -> None:
        """Leave everything as it was."""
        self._keys.close()


class ScriptedKeys:
    """Orders at given times, for tests and demonstrations on a simulated robot."""

    def __init__(self, text: str) -> None:
        """Read the script.

        Args:
            text: ``ORDER@SECONDS`` or ``ORDER@MODE`` (when the mode has lasted half a second),
                in order, with spaces between: ``arm@0.5 stand@1 go@ready quit@hold``.

        Raises:
            InputError: If it cannot be read.
        """
        self._left: List[Tuple[str, str]] = []
        for word in text.split():
            order, at, when = word.partition("@")
            if order not in ORDERS or not at:
                raise InputError(f"script: '{word}' is no ORDER@TIME{suggestion(order, ORDERS)}")
            self._left.append((order, when))
        self._start_s: Optional[float] = None
        self._mode, self._mode_s = "", 0.0

    @property
    def left(self) -> List[str]:
        """Orders whose time has not come."""
        return [order for order, _ in self._left]

    def begin(self) -> None:
        """A script counts from its first poll."""

    def poll(self, now_s: float, mode: str, state: Optional[RobotState]) -> List[str]:
        """Orders whose time has come."""
        self._start_s = now_s if self._start_s is None else self._start_s
        if mode != self._mode:
            self._mode, self._mode_s = mode, now_s
        orders = []
        while self._left and self._due(self._left[0][1], now_s):
            orders.append(self._left.pop(0)[0])
            self._mode_s = now_s
        return orders

    def _due(self, when: str, now_s: float) -> bool:
        assert self._start_s is not None
        try:
            return now_s - self._start_s >= float(when)
        except ValueError:
            return when == self._mode and now_s - self._mode_s >= STEADY_S

    def close(self) -> None:
        """Nothing to do."""


class Stoppable:
    """A script that says nothing more once somebody has stopped."""

    def __init__(self, script: ScriptedKeys, stops: Sequence[OnlyStop]) -> None:
        """Listen to both."""
        self._script, self._stops = script, stops
        self._all: List[Keys] = [script, *stops]

    @property
    def stopped(self) -> bool:
        """Whether somebody did."""
        return any(stop.stopped_s is not None for stop in self._stops)

    def begin(self) -> None:
        """From now on."""
        for keys in self._all:
            keys.begin()

    def poll(self, now_s: float, mode: str, state: Optional[RobotState]) -> List[str]:
        """Stops first: what the script would have said in the same step was said too late."""
        orders = [order for stop in self._stops for order in stop.poll(now_s, mode, state)]
        return orders if self.stopped else self._script.poll(now_s, mode, state)

    def close(self) -> None:
        """Leave everything as it was."""
        for keys in self._all:
            keys.close()
