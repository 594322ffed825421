"""The two ways in which the toolkit says no.

``InputError`` is for a user's input: a file, an option, a name. Its text is one line that says what
is wrong, what was expected and what to do. ``Refusal`` is for the robot: a measurement or a command
that must not be acted on.

    raise InputError(f"joint 'knee' is not in robot 'g1'{suggestion('knee', names)}", file=path)
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Iterable, Optional, Union

MAX_TEXT = 360
"""A file decides what stands in an error about it: longer texts and paths lose their middle."""


class InputError(ValueError):
    """The user's input cannot be used; the message says what to do about it."""

    def __init__(self, problem: str, *, file: Optional[Union[str, Path]] = None) -> None:
        """Join problem and file into one printable line, whatever the input contained."""
        text = _shortened(problem)
        text = text if file is None else f"{text} (file: {_shortened(str(file))})"
        super().__init__(" ".join("".join(c if c.isprintable() else " " for c in text).split()))


class Refusal(RuntimeError):
    """A measurement or a command is unsafe to act on."""


def suggestion(name: str, valid: Iterable[str]) -> str:
    """The end of an error about an unknown name: the nearest valid one, or the valid ones.

    Args:
        name: What the user wrote.
        valid: What would have been accepted.

    Returns:
        `` (did you mean 'x'?)`` or `` (valid: a, b, ...)``, with a leading space.
    """
    names = [str(v)[:100] for v in valid]
    close = difflib.get_close_matches(str(name)[:100], names, n=1, cutoff=0.75)
    if close:
        return f" (did you mean '{close[0]}'?)"
    shown = ", ".join(names[:12]) + (f", ... ({len(names)} in all)" if len(names) > 12 else "")
    return f" (valid: {shown})" if names else ""


def _shortened(text: str) -> str:
    """Beginning and end of a long text: the first says what is wrong, the last what to do."""
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 125]} ... {text[-120:]}"
