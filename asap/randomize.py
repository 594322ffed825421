"""Robots that differ: every episode draws its own friction, masses, gains and delay.

What is drawn multiplies, or is added to, what the model says; nothing ever adds up over episodes,
and a quantity that is not randomised costs nothing and draws no random numbers.

    sim = CpuSimulation(robot, 512, max_delay_s=config.max_delay_s)
    randomizer = Randomizer(sim, config, rng)
    randomizer.draw(env_ids)                 # then sim.reset(env_ids, ...)
    randomizer.drawn["link_mass"]            # (N, B), what each robot has now
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import tyro

from asap.sim import CpuSimulation
from asap.variation import FACTORS, Variation
from asap_deploy.errors import InputError

Range = tuple[float, float]
"""Lowest and highest value, uniform between."""

_NOT_NEGATIVE = ("added_frictionloss", "delay_s")


@dataclass(frozen=True, kw_only=True)
class RandomizeConfig:
    """How much robots differ from the model; by default not at all."""

    friction: Range = (1.0, 1.0)
    """Factor of the sliding friction of everything, soles and floor alike; one per robot."""
    link_mass: Range = (1.0, 1.0)
    """Factor of mass and inertia, one per body."""
    added_mass_kg: Range = (0.0, 0.0)
    """Load on the anchor (the torso) [kg]; the torso's inertia grows with its mass."""
    com_offset_m: Range = (0.0, 0.0)
    """Shift of the anchor's centre of mass along each of its axes [m]."""
    stiffness: Range = (1.0, 1.0)
    """Factor of the PD loop's, one per joint."""
    damping: Range = (1.0, 1.0)
    """Factor of the PD loop's, one per joint."""
    armature: Range = (1.0, 1.0)
    """Factor of the rotor inertia, one per joint."""
    added_frictionloss: Range = (0.0, 0.0)
    """Dry friction on top of the joint's own, one per joint [Nm]: a factor would do nothing to a
    robot that states none. Such a robot then has a constraint more per joint: a G1 that had none
    steps a quarter slower, where all other quantities together cost some 3 %."""
    torque_limit: Range = (1.0, 1.0)
    """Factor of the motors' limits, one per joint."""
    delay_s: Range = (0.0, 0.0)
    """From target to motor, one per robot, instead of the robot's own [s]."""
    sets: Annotated[tuple[Mapping[str, tuple[float, ...]], ...], tyro.conf.Suppress] = ()
    """Values that go together, by quantity of ``asap.variation``; an episode draws one of them."""

    def __post_init__(self) -> None:
        """Refuse ranges that make no sense."""
        for field in _ranges():
            low, high = getattr(self, field.name)
            if not (np.isfinite([low, high]).all() and low <= high):
                raise InputError(f"{field.name} must be two rising numbers; got {low}, {high}")
            if field.name in FACTORS and low <= 0.0:
                raise InputError(f"{field.name} is a factor and must be above 0; got {low}, {high}")
            if field.name in _NOT_NEGATIVE and low < 0.0:
                raise InputError(f"{field.name} must be 0 or above; got {low}, {high}")
        for name in self.sets[0] if self.sets else ():
            if name in self.active:
                raise InputError(f"'{name}' cannot be drawn from sets and from a range at once")

    @classmethod
    def paper(cls) -> RandomizeConfig:
        """The ranges that the original's code ships; kicks are the environment's.

        Code and paper disagree, and the code is followed. The paper has friction 0.2 to 1.1,
        stiffness 0.925 to 1.05, a delay of 20 to 40 ms, and no masses. The code's recipe for
        training switches all of it off. Differences that remain: the code scales nine links, not
        every one, draws the delay in whole control steps of 20 ms, not evenly, and adds noise to
        torques, which is not here. Its limits of the torso's shift along x and y are misprinted
        (texts, not numbers) and read here as they were meant.

        Source: He et al., Table VI, and the code's base file of domain randomisation.
        """
        return cls(
            friction=(0.5, 1.25),
            link_mass=(0.8, 1.2),
            com_offset_m=(-0.1, 0.1),
            stiffness=(0.75, 1.25),
            damping=(0.75, 1.25),
            delay_s=(0.0, 0.04),
        )

    @property
    def max_delay_s(self) -> float:
        """What the simulation has to be made with [s]."""
        return max([self.delay_s[1], *(max(one.get("delay_s", (0.0,))) for one in self.sets)])

    @property
    def active(self) -> dict[str, Range]:
        """The ranges that change something, by name."""
        ranges = {f.name: (getattr(self, f.name), f.default) for f in _ranges()}
        # A range read from JSON is a list.
        return {name: (a, b) for name, ((a, b), neutral) in ranges.items() if (a, b) != neutral}


def _ranges() -> list[dataclasses.Field[Any]]:
    return [field for field in dataclasses.fields(RandomizeConfig) if field.name != "sets"]


class Randomizer:
    """Gives each robot of a simulation its own physics."""

    def __init__(
        self,
        sim: CpuSimulation,
        config: RandomizeConfig,
        rng: np.random.Generator,
    ) -> None:
        """Every robot is still the model's.

        Args:
            sim: Whose robots differ; made with ``config.max_delay_s``.
            config: How much.
            rng: Of every draw.

        Raises:
            InputError: If the delay does not fit the simulation or a body could lose all its mass.
        """
        self.config, self._sim, self._rng, self._ranges = config, sim, rng, config.active
        self._sets = {name: np.stack([np.asarray(one[name]) for one in config.sets])
                      for name in (config.sets[0] if config.sets else ())}  # fmt: skip
        self._variation = Variation(sim, [*self._ranges, *self._sets])
        self.drawn = self._variation.values
        """What robots have, N rows each, by field of the config; only what is randomised."""
        self._check()

    def draw(self, env_ids: np.ndarray) -> None:
        """New physics for these robots (n,), as their episodes begin; reset them afterwards."""
        for name, (low, high) in self._ranges.items():
            # One delay for all joints: they hang on one bus.
            width = 1 if name == "delay_s" else self.drawn[name].shape[1]
            self.drawn[name][env_ids] = self._rng.uniform(low, high, (len(env_ids), width))
        if self._sets:
            chosen = self._rng.integers(len(next(iter(self._sets.values()))), size=len(env_ids))
            for name, rows in self._sets.items():
                self.drawn[name][env_ids] = rows[chosen]
        self._variation.write(env_ids)

    def snapshot(self) -> dict[str, np.ndarray]:
        """What the robots are, beside the random generator."""
        return {name: values.copy() for name, values in self.drawn.items()}

    def restore(self, snapshot: dict[str, np.ndarray]) -> None:
        """Undo the draws since the snapshot."""
        for name, values in self.drawn.items():
            values[:] = snapshot[name]
        self._variation.write(np.arange(self._sim.num_envs))

    def _check(self) -> None:
        """Refuse what only the robot can tell, before anything is written."""
        config, sim = self.config, self._sim
        own = self._variation.anchor_mass_kg
        lightest = config.link_mass[0] * own + config.added_mass_kg[0]
        if "added_mass_kg" in self._ranges and not lightest > 0.0:
            raise InputError(
                f"added_mass_kg leaves '{sim.robot.anchor_name}' with {lightest:.3g} kg; it has "
                f"{own:.3g} kg"
            )
        longest = sim.model.actuator_history[:, 0].min() * sim.physics_dt
        if "delay_s" in self._ranges and config.max_delay_s > longest + 1e-9:
            raise InputError(
                f"delay_s goes up to {config.max_delay_s:g} s; the simulation holds {longest:g} s; "
                "make it with max_delay_s=config.max_delay_s"
            )
