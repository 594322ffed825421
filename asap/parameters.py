"""Physical quantities that a log may tell about, as one vector of numbers near zero.

A unit is about one prior standard deviation, and zero is the model. Gains, inertia and friction of
the floor are factors, so their logarithm is what varies; the rest is added.

    parameters = Parameters(robot, kinds=["delay", "stiffness"])
    values = parameters.values(z)                    # (K, P) -> {"stiffness": (K, J), ...}
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
        pairs = [(kind, p) for kind in KINDS if kind in kinds for p in KINDS[kind](robot)]
        self.items = [item for _, item in pairs]
        self.groups = [kind for kind, _ in pairs]
        """Of ``KINDS``, for every item."""

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
        widths = {"added_mass_kg": 1, "com_offset_m": 3, "friction": 1, "contact_time": 1}
        found: dict[str, np.ndarray] = {}
        for place, item in enumerate(self.items):
            if item.quantity not in found:
                neutral = 1.0 if item.quantity in FACTORS else 0.0
                shape = (len(z), widths.get(item.quantity, joints))
                found[item.quantity] = np.full(shape, neutral)
                if item.quantity == "delay_s":
                    found["delay_s"] += self.robot.delay_s
            change = item.scale * z[:, place, None]
            if item.quantity in FACTORS:  # of a group, and of a joint in it
                found[item.quantity][:, item.columns] *= np.exp(change)
            else:
                found[item.quantity][:, item.columns] += change
        return found

    def of_means(self, active: np.ndarray) -> np.ndarray:
        """(P, P) sums of parameters: a group's is the mean of its joints, a joint's is beside it.

        A group's number and those of its joints say the same twice: the log tells their sum, and
        only the pull towards the model shares it out. So neither alone is a claim about a robot.

        Args:
            active: (P,) which vary; a joint whose group does not is on its own.
        """
        sums = np.eye(len(self))
        for group, item in enumerate(self.items):
            if self.groups[group] in OF_JOINTS or not active[group]:
                continue
            own = [place for place, other in enumerate(self.items)
                   if self.groups[place] in OF_JOINTS and other.quantity == item.quantity
                   and other.columns[0] in item.columns and active[place]]  # fmt: skip
            for place in own:
                share = self.items[place].scale / len(item.columns)
                sums[group, place] = share / item.scale
                for other in own:
                    sums[other, place] -= share / self.items[other].scale
        return sums

    def neutral(self, name: str, values: np.ndarray) -> bool:
        """Whether values of a quantity are those of the model."""
        if name == "delay_s":
            return bool(np.array_equal(values, self.robot.delay_s))
        return bool((values == (1.0 if name in FACTORS else 0.0)).all())


def _factors(robot: Robot, quantity: str, scale: float, low: float, high: float) -> list[Parameter]:
    """A factor for each group of joints, between two physical bounds."""
    return [
        Parameter(f"{part} {quantity}", quantity, columns, scale,
                  float(np.log(low) / scale), float(np.log(high) / scale))
        for part, columns in joint_groups(robot).items()
    ]  # fmt: skip


def _armatures(robot: Robot) -> list[Parameter]:
    """A factor for each kind of motor in a part of the body."""
    found = []
    for part, columns in joint_groups(robot).items():
        sizes = np.round(robot.armature[columns], 9)
        for number, size in enumerate(np.unique(sizes)):
            name = part if number == 0 else f"{part} (motor {number + 1})"
            low, high = np.log([0.1, 40.0]) / 0.7
            found.append(Parameter(f"{name} armature", "armature", columns[sizes == size], 0.7,
                                   float(low), float(high)))  # fmt: skip
    return found


def _each(quantity: str, scale: float, most: float) -> Callable[[Robot], list[Parameter]]:
    """How a joint differs from its group."""
    return lambda robot: [
        Parameter(f"{name.removesuffix('_joint')} {quantity} in its group", quantity,
                  np.array([place]), scale, -most / scale, most / scale)
        for place, name in enumerate(robot.joint_names)
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


def _dampings(robot: Robot) -> list[Parameter]:
    """A factor of the loop's damping; where it has none, viscous friction of the joint."""
    found = []
    for item in _factors(robot, "damping", 0.3, 0.1, 5.0):
        if robot.damping[item.columns].any():
            found.append(item)
            continue
        size = 0.05 * float(np.median(robot.stiffness[item.columns]))
        least = -float(robot.passive_damping[item.columns].min()) / size
        name = f"{item.name.removesuffix(' damping')} added_passive_damping"
        found.append(Parameter(name, "added_passive_damping", item.columns, size, least, 20.0))
    return found


def _limits(robot: Robot) -> list[Parameter]:
    """A factor of the torque at which motors stop growing stronger, where the model has any."""
    return [item for item in _factors(robot, "torque_limit", 0.2, 0.3, 1.5)
            if np.isfinite(robot.torque_limit[item.columns]).all()]  # fmt: skip


def _delay(robot: Robot) -> list[Parameter]:
    """One delay for all joints: they hang on one bus.

    From one physics step on: MuJoCo reads before it writes, so that less than one acts as one, and
    a difference across that jump is no derivative. Whether there is a delay at all is asked apart.
    """
    everywhere = np.arange(len(robot.joint_names))
    least = (robot.physics_dt - float(robot.delay_s.min())) / DELAY_SCALE_S
    most = (MAX_DELAY_S - float(robot.delay_s.max())) / DELAY_SCALE_S
    return [Parameter("delay", "delay_s", everywhere, DELAY_SCALE_S, least, most)]


def _biases(robot: Robot) -> list[Parameter]:
    """What the encoder of each joint reads too much: no two were mounted alike."""
    return [Parameter(f"{name.removesuffix('_joint')} encoder_bias", "encoder_bias",
                      np.array([place]), 0.01, -6.0, 6.0)
            for place, name in enumerate(robot.joint_names)]  # fmt: skip


def _effects(quantity: str, scale: float, most: float) -> Callable[[Robot], list[Parameter]]:
    """An effect of motors that is 0 in the model, for each group of joints."""
    return lambda robot: [
        Parameter(f"{part} {quantity}", quantity, columns, scale, 0.0, most / scale)
        for part, columns in joint_groups(robot).items()
    ]


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
    "damping": _dampings,
    "torque_limit": _limits,
    "frictionloss": _frictions,
    "armature": _armatures,
    "inertial": _inertial,
    "floor": lambda robot: [Parameter("floor friction", "friction", np.array([0]), 0.4, -4.0, 3.0)],
    "contact": lambda robot: [
        Parameter("contact time", "contact_time", np.array([0]), 0.4, -4.0, 3.0)
    ],
    "load_friction": _effects("load_friction", 0.05, 0.5),
    "droop": _effects("droop", 0.02, 0.2),
    "dead_band": _effects("dead_band", 0.005, 0.05),
    "encoder_bias": _biases,
    "stiffness_of_joints": _each("stiffness", 0.1, 0.5),
    "armature_of_joints": _each("armature", 0.3, 1.0),
}
"""What can be identified, cheap and likely first."""

OF_JOINTS = ("stiffness_of_joints", "armature_of_joints")
"""Kinds that say how a joint differs from its group."""
