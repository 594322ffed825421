"""Physical quantities that a log may tell about, as one vector of numbers near zero.

A unit is about one prior standard deviation, and zero is the model. Gains, inertia and friction of
the floor are factors, so their logarithm is what varies; the rest is added.

    parameters = Parameters(robot, kinds=["delay", "stiffness"])
    values = parameters.values(z)                    # (K, P) -> {"stiffness": (K, J), ...}
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from asap.robot import Robot
from asap.variation import FACTORS

_SIDES = ("left_", "right_")
_AXES = ("_pitch", "_roll", "_yaw")


class Parameter(NamedTuple):
    """One number of the vector."""

    name: str
    """For a person: ``knee stiffness``."""
    quantity: str
    """A quantity that ``asap.variation`` knows."""
    columns: np.ndarray
    """Of that quantity"""
    scale: float
    """Physical change of a unit; of the logarithm where the quantity is a factor."""
    low: float
    high: float
    """Bounds, in units."""

    def physical(self, z: float) -> float:
        """What a value means: a factor, or what is added in SI units."""
        return float(np.exp(self.scale * z)) if self.quantity in FACTORS else self.scale * z


def joint_groups(robot: Robot) -> dict[str, np.ndarray]:
    """Joints by part of the body, both sides and all axes together."""
    groups: dict[str, list[int]] = {}
    for place, name in enumerate(robot.joint_names):
        part = name.removesuffix("_joint")
        for side in _SIDES:
            part = part.removeprefix(side)
        for axis in _AXES:
            part = part.removesuffix(axis)
        groups.setdefault(part, []).append(place)
    return {part: np.array(places) for part, places in groups.items()}


class Parameters:
    """The vector."""

    def __init__(self, robot: Robot, *, kinds: Sequence[str]) -> None:
        """Choose what varies.

        Args:
            robot: The model.
            kinds: Of ``KINDS``, in any order.
        """
        self.robot = robot
        self.items = [p for kind in KINDS if kind in kinds for p in KINDS[kind](robot)]

    def __len__(self) -> int:
        """How many."""
        return len(self.items)

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest values, (P,) each."""
        return (np.array([p.low for p in self.items]), np.array([p.high for p in self.items]))

    @property
    def quantities(self) -> list[str]:
        """Those that vary."""
        return list(dict.fromkeys(p.quantity for p in self.items))

    def values(self, z: np.ndarray) -> dict[str, np.ndarray]:
        """What K robots (K, P) have, as ``Variation.values``: (K, width) by quantity."""
        joints = len(self.robot.joint_names)
        widths = {"added_mass_kg": 1, "com_offset_m": 3, "friction": 1}
        found: dict[str, np.ndarray] = {}
        for place, item in enumerate(self.items):
            if item.quantity not in found:
                neutral = 1.0 if item.quantity in FACTORS else 0.0
                shape = (len(z), widths.get(item.quantity, joints))
                found[item.quantity] = np.full(shape, neutral)
                if item.quantity == "delay_s":
                    found["delay_s"] += self.robot.delay_s
            change = item.scale * z[:, place, None]
            if item.quantity in FACTORS:
                found[item.quantity][:, item.columns] = np.exp(change)
            else:
                found[item.quantity][:, item.columns] += change
        return found


def _factors(robot: Robot, quantity: str, scale: float, low: float, high: float) -> list[Parameter]:
    """A factor for each group of joints, between two physical bounds."""
    return [
        Parameter(f"{part} {quantity}", quantity, columns, scale,
                  float(np.log(low) / scale), float(np.log(high) / scale))
        for part, columns in joint_groups(robot).items()
    ]  # fmt: skip


def _frictions(robot: Robot) -> list[Parameter]:
    """Dry friction on top of the model's, by the size of the motors."""
    found = []
    for part, columns in joint_groups(robot).items():
        limit = robot.torque_limit[columns]
        known = limit[np.isfinite(limit)]
        size = 0.01 * float(np.median(known)) if len(known) else 0.2
        least = -float(robot.frictionloss[columns].min()) / size
        found.append(Parameter(f"{part} added_frictionloss", "added_frictionloss", columns, size,
                               least, 10.0))  # fmt: skip
    return found


def _delay(robot: Robot) -> list[Parameter]:
    """One delay for all joints: they hang on one bus.

    From one physics step on: MuJoCo reads before it writes, so that less than one acts as one, and
    a difference across that jump is no derivative. Whether there is a delay at all is asked apart.
    """
    everywhere = np.arange(len(robot.joint_names))
    least = (robot.physics_dt - float(robot.delay_s.min())) / DELAY_SCALE_S
    most = (MAX_DELAY_S - float(robot.delay_s.max())) / DELAY_SCALE_S
    return [Parameter("delay", "delay_s", everywhere, DELAY_SCALE_S, least, most)]


def _inertial(robot: Robot) -> list[Parameter]:
    """Load on the torso, and where its mass is."""
    anchor = robot.model.body(robot.anchor_name).id
    room = 0.4 * float(robot.model.body_mass[anchor])
    mass = Parameter("torso mass", "added_mass_kg", np.array([0]), 1.0, -room, room)
    shifts = [Parameter(f"torso com {axis}", "com_offset_m", np.array([i]), 0.02, -3.0, 3.0)
              for i, axis in enumerate("xyz")]  # fmt: skip
    return [mass, *shifts]


DELAY_SCALE_S, MAX_DELAY_S = 0.008, 0.04

KINDS = {
    "delay": _delay,
    "stiffness": lambda robot: _factors(robot, "stiffness", 0.2, 0.2, 3.0),
    "damping": lambda robot: _factors(robot, "damping", 0.3, 0.1, 5.0),
    "frictionloss": _frictions,
    "armature": lambda robot: _factors(robot, "armature", 0.7, 0.1, 40.0),
    "inertial": _inertial,
    "floor": lambda robot: [Parameter("floor friction", "friction", np.array([0]), 0.4, -4.0, 3.0)],
}
"""What can be identified, cheap and likely first."""
