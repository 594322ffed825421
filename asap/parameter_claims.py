"""What a fit says about parameters beside what is so, for somebody who knows the twin.

    for claim in claims(identified, Robot.load("g1"), Robot.load("g1@worn")) or ():
        claim.name, claim.value, claim.low, claim.high, claim.truth, claim.off

A claim is a parameter whose interval is told by the log, alone or together with the model. It is
off if the truth lies more than twice as far away as its interval reaches. Of a group of joints the
truth is the mean of its joints, of a joint in its group what is its own beside that mean.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from asap.parameter_search import Identified
from asap.parameters import OF_JOINTS
from asap.robot import Robot
from asap.twin import MotorEffects, SensorFacts
from asap.variation import EFFECTS, FACTORS

_FAR = 2.0
"""So many times as far as the interval reaches is off."""
_SAME = 1e-4
"""Below this, in units of parameters, nothing is off: a simulation without noise has intervals of
nearly no width."""


class Claim(NamedTuple):
    """One parameter, told and true, as a factor of the model or in SI units on top of it."""

    name: str
    value: float
    low: float
    high: float
    truth: float
    off: bool
    """Farther from the truth than twice the interval"""


def claims(identified: Identified, nominal: Robot, twin: Robot) -> list[Claim] | None:
    """What the log is said to tell, beside the truth.

    Args:
        identified: What is said.
        nominal: The model.
        twin: Who made the log.

    Returns:
        Claims in the order of the parameters, or None where the twin is no MuJoCo model.
    """
    if twin.facts.get("engine", "mujoco") != "mujoco":
        return None
    true = _true_units(identified, nominal, twin)
    items = {item.name: (place, item) for place, item in enumerate(identified.parameters.items)}
    found = []
    for row in identified.rows():
        if not row["determined_by"].startswith("log") or not np.isfinite(row["low"]):
            continue
        place, item = items[row["name"]]
        low, value, high = (_units(item.quantity, item.scale, row[key])
                            for key in ("low", "value", "high"))  # fmt: skip
        reach = max(_FAR * 0.5 * (high - low), _SAME)
        off = bool(abs(true[place] - value) > reach)
        found.append(Claim(item.name, float(row["value"]), float(row["low"]), float(row["high"]),
                           item.physical(float(true[place])), off))  # fmt: skip
    return found


def in_family(twin: Robot) -> bool:
    """Whether numbers of a MuJoCo model, a delay and noise are all that a twin differs by."""
    facts = SensorFacts.of(twin)
    odd = (facts.delay_jitter_s, facts.packet_loss, facts.clock_drift, *facts.imu_misalignment)
    engine = twin.facts.get("engine", "mujoco")
    return engine == "mujoco" and not MotorEffects.of(twin).present and not any(odd)


def _units(quantity: str, scale: float, value: Any) -> float:
    """The inverse of ``Parameter.physical``."""
    return float(np.log(value) if quantity in FACTORS else value) / scale


def _true_units(identified: Identified, nominal: Robot, twin: Robot) -> np.ndarray:
    """(P,) what parameters would be if they were right, in their units."""
    parameters = identified.parameters
    physical = _true_values(identified.robot, nominal, twin)
    true = np.zeros(len(parameters))
    shared: dict[tuple[str, int], float] = {}
    for place, (item, group) in enumerate(zip(parameters.items, parameters.groups, strict=True)):
        values = physical[item.quantity][item.columns]
        own = np.log(values) if item.quantity in FACTORS else values
        if group in OF_JOINTS:
            own = own - shared.get((item.quantity, int(item.columns[0])), 0.0)
        elif identified.active[place]:
            shared |= {(item.quantity, int(column)): float(own.mean()) for column in item.columns}
        true[place] = own.mean() / item.scale
    return true


def _true_values(told: Robot, nominal: Robot, twin: Robot) -> dict[str, np.ndarray]:
    """What ``Variation.values`` would make the model the twin, by quantity.

    Args:
        told: The model under the gains of the log.
        nominal: The model under its own.
        twin: The truth, under the model's own.
    """
    anchor = nominal.model.body(nominal.anchor_name).id
    here, there = nominal.model, twin.model
    feet = np.concatenate(nominal.foot_geom_ids)
    viscous = twin.passive_damping - nominal.passive_damping
    with np.errstate(divide="ignore", invalid="ignore"):
        # The loop's damping and the joint's are one torque: -(damping + passive_damping) qd.
        damping = twin.damping / nominal.damping + viscous / told.damping
        armature = twin.armature / nominal.armature
        limit = np.nan_to_num(twin.torque_limit / nominal.torque_limit, nan=1.0)  # both without
    own, other = MotorEffects.of(nominal), MotorEffects.of(twin)
    return {
        "stiffness": twin.stiffness / nominal.stiffness,
        "torque_limit": limit,
        "damping": damping,
        "armature": armature,
        "added_frictionloss": twin.frictionloss - nominal.frictionloss,
        "added_passive_damping": viscous,
        "delay_s": twin.delay_s - nominal.delay_s,
        "encoder_bias": twin.encoder_bias - nominal.encoder_bias,
        "added_mass_kg": np.array([there.body_mass[anchor] - here.body_mass[anchor]]),
        "com_offset_m": there.body_ipos[anchor] - here.body_ipos[anchor],
        "friction": there.geom_friction[feet, 0].max(keepdims=True)
        / here.geom_friction[feet, 0].max(keepdims=True),
        "contact_time": there.geom_solref[feet[:1], 0] / here.geom_solref[feet[:1], 0],
        **{name: getattr(other, name) - getattr(own, name) for name in EFFECTS},
    }
