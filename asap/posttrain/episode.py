"""What happened, once: raw channels, what the policy wanted, what was executed, who decided.

Everything that learns reads episodes through views (``asap.posttrain.views``). Observations are not
in them: they are rebuilt from the raw channels by the code that acts, so data of another build
cannot be misread. How an episode ended is kept apart: ``terminated`` (it failed or succeeded for
good, nothing follows) and ``truncated`` (somebody stopped looking; the end of a log always).

    save_episodes("runs/a/episodes.npz", episodes)
    episodes = load_episodes("runs/a/episodes.npz")
    pair(episodes[0], episodes[1], scores)           # refused if they began differently
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from asap_deploy.errors import InputError, suggestion
from asap_deploy.npz import check_finite, load_npz, require_keys, save_npz, write_file

SOURCES = ("policy", "operator", "demo", "specialist", "replay")
"""Who decided on a step; a step's ``source`` is a place in this list."""
POLICY, OPERATOR, DEMO, SPECIALIST, REPLAY = range(len(SOURCES))

VERSION = 1
_STEPS = {"action_policy": 2, "action_executed": 2, "operator_mask": 2, "source": 1,
          "terminated": 1, "truncated": 1}  # fmt: skip
"""Arrays with one row a step, and how many axes they have."""
_CHANNEL, _TERM = "channel/", "reward/"


@dataclass(frozen=True, kw_only=True)
class Episode:
    """T steps of one robot; arrays are read-only."""

    channels: Mapping[str, np.ndarray]
    """(T + 1, ...) raw state by name: before every step, and after the last"""
    action_policy: np.ndarray
    """(T, A) what the policy wanted"""
    action_executed: np.ndarray
    """(T, A) what the robot was given, after operator and limits"""
    source: np.ndarray
    """(T,) place in ``SOURCES``"""
    operator_mask: np.ndarray
    """(T, A) bool: numbers that the operator decided"""
    reward_terms: Mapping[str, np.ndarray]
    """(T,) by name, before weights"""
    terminated: np.ndarray
    """(T,) bool, true at most in the last step"""
    truncated: np.ndarray
    """(T,) bool, true at most in the last step"""
    success: bool | None = None
    """None where nobody judged"""
    scores: Mapping[str, float] = field(default_factory=dict)
    judge: str = ""
    """Who said so: a rule, a classifier, a person"""
    robot: str = ""
    environment: str = "nominal"
    """real, nominal, or corrected:HASH"""
    policy_sha256: str = ""
    motion: str = ""
    seed: int = 0
    control_dt: float = 0.02
    """[s]"""

    def __post_init__(self) -> None:
        """Check that rows fit each other.

        Raises:
            InputError: Naming the array that does not.
        """
        steps = len(self.action_executed)
        if steps < 1:
            raise InputError("an episode has at least one step")
        for name, axes in _STEPS.items():
            self._keep(name, getattr(self, name), steps, axes)
        for name, array in self.channels.items():
            self._checked(f"channel '{name}'", array, steps + 1)
        for name, array in self.reward_terms.items():
            self._checked(f"reward term '{name}'", array, steps)
        if self.action_policy.shape != self.action_executed.shape:
            raise InputError(
                f"episode has actions {self.action_policy.shape} of the policy and "
                f"{self.action_executed.shape} executed"
            )
        early = self.terminated[:-1] | self.truncated[:-1]
        if early.any():
            raise InputError(f"episode goes on after its end in step {int(np.argmax(early))}")
        if self.terminated[-1] and self.truncated[-1]:
            raise InputError("episode is both terminated and truncated: it ended for one reason")
        if not (self.source.min() >= 0 and self.source.max() < len(SOURCES)):
            raise InputError(f"episode source must be 0 to {len(SOURCES) - 1}: {SOURCES}")

    @property
    def steps(self) -> int:
        """T."""
        return len(self.action_executed)

    @property
    def sha256(self) -> str:
        """Hash of where it began and what was executed: names an episode in a file of pairs."""
        digest = hashlib.sha256(self.action_executed.tobytes())
        for name in sorted(self.channels):
            digest.update(name.encode() + self.channels[name][0].tobytes())
        return digest.hexdigest()[:16]

    def start(self) -> dict[str, np.ndarray]:
        """The raw state in which it began."""
        return {name: array[0] for name, array in self.channels.items()}

    def judged(self, success: bool, judge: str, **scores: float) -> Episode:
        """The same with a label; raw channels are never touched."""
        return dataclasses.replace(self, success=success, judge=judge,
                                   scores={**self.scores, **scores})  # fmt: skip

    def _keep(self, name: str, array: np.ndarray, rows: int, axes: int) -> None:
        array = np.array(array)
        array.setflags(write=False)
        object.__setattr__(self, name, array)
        if array.ndim != axes:
            raise InputError(f"episode '{name}' has {array.ndim} axes, expected {axes}")
        self._checked(f"'{name}'", array, rows)

    def _checked(self, what: str, array: np.ndarray, rows: int) -> None:
        if len(array) != rows:
            raise InputError(f"episode {what} has {len(array)} rows, expected {rows}")
        if array.dtype.kind == "f":
            check_finite(what, array)


def save_episodes(path: Path, episodes: Sequence[Episode]) -> None:
    """Write episodes of one robot and task as one file, at once or not at all.

    Raises:
        InputError: If they do not have the same channels.
    """
    if not episodes:
        raise InputError("no episodes to save", file=path)
    first = episodes[0]
    for one in episodes:
        if set(one.channels) != set(first.channels) or set(one.reward_terms) != set(
            first.reward_terms
        ):
            raise InputError("episodes of one file have the same channels and reward terms")
    arrays: dict[str, Any] = {
        "version": np.array(VERSION),
        "steps": np.array([one.steps for one in episodes]),
        "facts": np.array(json.dumps([_facts(one) for one in episodes])),
    }
    for name in _STEPS:
        arrays[name] = np.concatenate([getattr(one, name) for one in episodes])
    for name in first.channels:
        arrays[_CHANNEL + name] = np.concatenate([one.channels[name] for one in episodes])
    for name in first.reward_terms:
        arrays[_TERM + name] = np.concatenate([one.reward_terms[name] for one in episodes])
    save_npz(path, arrays)


def load_episodes(path: Path) -> list[Episode]:
    """Read what ``save_episodes`` wrote.

    Raises:
        InputError: If the file is none, or holds observations: those are rebuilt, never trusted.
    """
    arrays = load_npz(path)
    require_keys(
        arrays, {"version": 0, "steps": 1, "facts": 0} | _STEPS, path, "a file of episodes"
    )
    known = {"version", "steps", "facts", *_STEPS}
    for name in arrays:
        if name not in known and not name.startswith((_CHANNEL, _TERM)):
            why = "; observations are rebuilt from raw channels" if "obs" in name else ""
            raise InputError(f"unknown array '{name}'{suggestion(name, sorted(known))}{why}",
                             file=path)  # fmt: skip
    steps = arrays["steps"]
    if steps.dtype.kind not in "iu" or len(steps) == 0 or steps.min() < 1:
        raise InputError("'steps' must be whole numbers above 0", file=path)
    try:
        facts = json.loads(str(arrays["facts"]))
        ends = np.cumsum(steps)
        if len(facts) != len(steps):
            raise InputError(f"facts of {len(facts)} episodes, steps of {len(steps)}")
        for name, array in arrays.items():
            rows = ends[-1] + (len(steps) if name.startswith(_CHANNEL) else 0)
            if name not in ("version", "steps", "facts") and len(array) != rows:
                raise InputError(f"'{name}' has {len(array)} rows, expected {rows}")
        spans = enumerate(zip(ends, steps, facts, strict=True))
        return [_episode(arrays, int(end - count), int(count), place, one)
                for place, (end, count, one) in spans]  # fmt: skip
    except InputError as error:
        raise InputError(str(error), file=path) from None
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"not a sound file of episodes: {error}", file=path) from None


_FACTS = ("success", "scores", "judge", "robot", "environment", "policy_sha256", "motion", "seed",
          "control_dt")  # fmt: skip


def _facts(episode: Episode) -> dict[str, Any]:
    return {name: getattr(episode, name) for name in _FACTS}


def _episode(
    arrays: Mapping[str, np.ndarray], first: int, steps: int, place: int, facts: dict[str, Any]
) -> Episode:
    """One of a file; every episode before it has one more row in the channels."""
    unknown = set(facts) - set(_FACTS)
    if unknown:
        raise InputError(f"unknown fact '{min(unknown)}'")
    rows, states = slice(first, first + steps), slice(first + place, first + place + steps + 1)
    return Episode(
        channels={name[len(_CHANNEL) :]: array[states] for name, array in arrays.items()
                  if name.startswith(_CHANNEL)},
        reward_terms={name[len(_TERM) :]: array[rows] for name, array in arrays.items()
                      if name.startswith(_TERM)},
        **{name: arrays[name][rows] for name in _STEPS},  # type: ignore[arg-type]
        **facts,
    )  # fmt: skip


class Pair(NamedTuple):
    """Two episodes from one start, and which is better."""

    winner: str
    """``Episode.sha256``"""
    loser: str
    scores: tuple[float, float]
    judge: str
    """rule, self or human"""


def pair(a: Episode, b: Episode, scores: tuple[float, float], judge: str = "rule") -> Pair:
    """The better first.

    Raises:
        InputError: If they began differently: their scores would compare luck.
    """
    for name, ours in a.start().items():
        theirs = b.start().get(name)
        if theirs is None or not np.allclose(ours, theirs, atol=1e-9):
            raise InputError(
                f"a pair compares two ways to go on from one start; '{name}' differs at the start"
            )
    ahead = scores[0] >= scores[1]
    one, other = (a, b) if ahead else (b, a)
    return Pair(one.sha256, other.sha256, (max(scores), min(scores)), judge)


def save_pairs(path: Path, pairs: Sequence[Pair]) -> None:
    """Write pairs as JSON lines."""
    write_file(path, "".join(json.dumps(one._asdict()) + "\n" for one in pairs))


def load_pairs(path: Path) -> list[Pair]:
    """Read what ``save_pairs`` wrote.

    Raises:
        InputError: If it is something else.
    """
    try:
        found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
        return [Pair(str(one["winner"]), str(one["loser"]),
                     (float(one["scores"][0]), float(one["scores"][1])), str(one["judge"]))
                for one in found]  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(f"not a file of pairs: {error}", file=path) from None
