"""People who watch a robot that learns, and take over: scripted, at a keyboard, or from a file.

    operator = Masked(Scripted(stuck, walker.act), task.action_names, ("waist", "arm"))

What they decide is stored as what was executed, with a mask of the numbers that were theirs. On
hardware nobody takes over legs: the tracker keeps the balance, a hand on a key cannot.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from asap.posttrain.collect import Intervention, Operator
from asap.posttrain.episode import Episode
from asap_deploy.errors import InputError

LEGS = ("hip", "knee", "ankle", "leg", "foot", "toe")
"""Parts of joint names that nobody takes over on hardware."""

States = Mapping[str, np.ndarray]


class Scripted:
    """Takes over where something is wrong, briefly, and lets go to see what the policy makes of it.

    Source of the habit: Luo et al. 2024 (HIL-SERL), section 3.5: brief, specific, then let go.
    """

    def __init__(
        self, wrong: Callable[[States], np.ndarray], act: Callable[[States], np.ndarray], *,
        hold: int = 6, pause: int = 6, begin: Callable[[np.ndarray], None] = lambda env_ids: None,
    ) -> None:  # fmt: skip
        """Nobody has begun.

        Args:
            wrong: (N,) bool for raw states.
            act: What is done then (N, A).
            hold: Steps that an intervention lasts.
            pause: Steps without one after it.
            begin: Told which robots (n,) begin, where ``wrong`` remembers.
        """
        self._begin = begin
        self._wrong, self._act, self._hold, self._pause = wrong, act, hold, pause
        self._left = np.zeros(0, dtype=int)

    def begin(self, env_ids: np.ndarray) -> None:
        """Hands off."""
        self._begin(env_ids)
        if len(self._left) <= env_ids.max():
            self._left = np.zeros(env_ids.max() + 1, dtype=int)
        self._left[env_ids] = -self._pause

    def watch(self, channels: States, wanted: np.ndarray) -> Intervention:
        """Counts up to 0 while hands are off, down from ``hold`` while they are on."""
        wrong, left = self._wrong(channels), self._left
        left[(left == 0) & wrong] = self._hold
        on = left > 0
        mask = np.repeat(on[:, None], wanted.shape[1], axis=1)
        action = self._act(channels)
        ended = on & (left == 1)
        self._left = np.where(on, left - 1, np.minimum(left + 1, 0))
        self._left[ended] = -self._pause
        return Intervention(action, mask)


class Keyboard:
    """Keys that move some numbers of the action while they are held, of one robot."""

    def __init__(
        self, pressed: Callable[[], str | None], names: Sequence[str],
        keys: Mapping[str, tuple[str, float]],
    ) -> None:  # fmt: skip
        """Remember what keys mean.

        Args:
            pressed: The key that is down, or None; for example from ``asap_deploy.keys``.
            names: Of the numbers of an action.
            keys: By key, a number's name and what it becomes.

        Raises:
            InputError: If a key moves something that is not there.
        """
        unknown = sorted({name for name, _ in keys.values()} - set(names))
        if unknown:
            raise InputError(f"no action '{unknown[0]}' to put on a key; there are {list(names)}")
        self._pressed, self._keys = pressed, dict(keys)
        self._places = {name: place for place, name in enumerate(names)}

    def begin(self, env_ids: np.ndarray) -> None:
        """Nothing to forget."""

    def watch(self, channels: States, wanted: np.ndarray) -> Intervention:
        """What the key says."""
        action, mask = wanted.copy(), np.zeros(wanted.shape, dtype=bool)
        key = self._pressed()
        if key in self._keys:
            name, value = self._keys[key]
            action[:, self._places[name]], mask[:, self._places[name]] = value, True
        return Intervention(action, mask)


class Recorded:
    """Interventions of earlier episodes, step by step: makes a run repeatable."""

    def __init__(self, episodes: Sequence[Episode]) -> None:
        """Remember them; one is used by each episode that begins, in their order."""
        if not episodes:
            raise InputError("no recorded interventions")
        self._episodes, self._next = list(episodes), 0
        self._playing: dict[int, Episode] = {}
        self._step = 0

    def begin(self, env_ids: np.ndarray) -> None:
        """Each robot gets the next recording."""
        self._step = 0
        for env in env_ids:
            self._playing[int(env)] = self._episodes[self._next % len(self._episodes)]
            self._next += 1

    def watch(self, channels: States, wanted: np.ndarray) -> Intervention:
        """What was done in this step then."""
        action, mask = wanted.copy(), np.zeros(wanted.shape, dtype=bool)
        for env, episode in self._playing.items():
            if self._step < episode.steps:
                action[env] = episode.action_executed[self._step]
                mask[env] = episode.operator_mask[self._step]
        self._step += 1
        return Intervention(action, mask)


class Masked:
    """An operator who may touch some joints alone."""

    def __init__(
        self, operator: Operator, names: Sequence[str], allowed: Sequence[str], *, hardware: bool
    ) -> None:
        """Check what may be touched.

        Args:
            operator: Whose hands are held.
            names: Of the numbers of an action.
            allowed: Parts of names.
            hardware: Whether the robot is real.

        Raises:
            InputError: If a name means no number, or a leg on hardware.
        """
        for part in allowed:
            if not any(part in name for name in names):
                raise InputError(f"no action has '{part}' in its name; there are {list(names)}")
        self._mask = np.array([any(part in name for part in allowed) for name in names])
        legs = [name for name, free in zip(names, self._mask, strict=True)
                if free and any(part in name.lower() for part in LEGS)]  # fmt: skip
        if hardware and legs:
            raise InputError(
                f"an operator never takes over legs of a real robot; got {', '.join(legs[:3])}: "
                "leave them to the tracker, which balances"
            )
        self._operator = operator

    def begin(self, env_ids: np.ndarray) -> None:
        """As the operator."""
        self._operator.begin(env_ids)

    def watch(self, channels: States, wanted: np.ndarray) -> Intervention:
        """What the operator does to the joints that are free."""
        taken = self._operator.watch(channels, wanted)
        return Intervention(taken.action, taken.mask & self._mask)
