"""Robots of one simulation that differ in their physics: friction, masses, gains, delay.

What is varied multiplies, or is added to, what the model says; nothing ever adds up, and a quantity
that is not varied costs nothing.

    variation = Variation(sim, ["stiffness", "delay_s"])
    variation.values["stiffness"][env_ids] = 0.9     # (N, J), factors
    variation.write(env_ids)                         # then sim.reset(env_ids, ...)
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from asap.sim import CpuSimulation
from asap.twin import MotorEffects, TwinSimulation
from asap_deploy.errors import InputError, suggestion

QUANTITIES = (
    "friction",
    "contact_time",
    "link_mass",
    "added_mass_kg",
    "com_offset_m",
    "stiffness",
    "damping",
    "armature",
    "added_frictionloss",
    "added_passive_damping",
    "torque_limit",
    "delay_s",
    "encoder_bias",
    "droop",
    "dead_band",
    "load_friction",
)
EFFECTS = ("droop", "dead_band", "load_friction")
"""Quantities that no number of a MuJoCo model stands for: they need a ``TwinSimulation``."""
FACTORS = (
    "friction",
    "contact_time",
    "link_mass",
    "stiffness",
    "damping",
    "armature",
    "torque_limit",
)
"""Quantities that multiply what the model says; the others are added, or stand instead."""
_INERTIAL = ("link_mass", "added_mass_kg", "com_offset_m", "armature")


class Variation:
    """N robots, each with its own physics."""

    def __init__(self, sim: CpuSimulation, names: Collection[str]) -> None:
        """Every robot is still the model's.

        Args:
            sim: Whose robots differ; made with the longest delay that will be set.
            names: Of ``QUANTITIES``, those that will be varied.

        Raises:
            InputError: If one is unknown.
        """
        for name in names:
            if name not in QUANTITIES:
                raise InputError(f"'{name}' cannot be varied{suggestion(name, QUANTITIES)}")
        self._sim = sim
        robot, model = sim.robot, sim.model
        self._bodies = np.array([model.body(name).id for name in robot.body_names])
        self._anchor = robot.body_names.index(robot.anchor_name)
        self._dofs = robot.qvel_ids
        self._mass = model.body_mass[self._bodies]
        joints, bodies, rows = len(robot.joint_names), len(robot.body_names), sim.num_envs
        neutral = {
            "friction": np.ones((1, 1)),
            "contact_time": np.ones((1, 1)),
            "link_mass": np.ones((1, bodies)),
            "added_mass_kg": np.zeros((1, 1)),
            "com_offset_m": np.zeros((1, 3)),
            "stiffness": np.ones((1, joints)),
            "damping": np.ones((1, joints)),
            "armature": np.ones((1, joints)),
            "added_frictionloss": np.zeros((1, joints)),
            "added_passive_damping": np.zeros((1, joints)),
            "torque_limit": np.ones((1, joints)),
            "delay_s": robot.delay_s[None].copy(),
            **{n: np.zeros((1, joints)) for n in ("encoder_bias", *EFFECTS)},
        }
        self.values = {n: np.tile(neutral[n], (rows, 1)) for n in QUANTITIES if n in names}
        """What robots have, N rows each: factors of what the model says, or what is added to it;
        ``delay_s`` is instead of the robot's own."""
        self._neutral = neutral

    @property
    def anchor_mass_kg(self) -> float:
        """Of the body that ``added_mass_kg`` loads, as the model says."""
        return float(self._mass[self._anchor])

    def write(self, rows: np.ndarray) -> None:
        """Make the models of these robots (n,) what ``values`` says; reset them afterwards."""
        if "friction" in self.values:
            self._write_friction(rows)
        if "contact_time" in self.values:
            self._write_softness(rows)
        self._write_inertia(rows)
        self._write_motors(rows)
        self._write_effects(rows)
        if "delay_s" in self.values:
            self._sim.set_delay(self.values["delay_s"][rows], rows)

    def _write_friction(self, rows: np.ndarray) -> None:
        """Sliding friction, of every geom and every pair.

        MuJoCo takes the larger friction of two geoms of equal priority, else that of the higher
        priority: sole or floor alone would often change nothing. All by the same factor change
        the result by that factor in both cases. An explicit pair ignores its geoms.
        """
        batch, model, factor = self._sim.batch, self._sim.model, self.values["friction"][rows]
        batch.expand("geom_friction")[rows, :, 0] = model.geom_friction[:, 0] * factor
        if model.npair:
            sliding = model.pair_friction[:, :2] * factor[:, :, None]
            batch.expand("pair_friction")[rows, :, :2] = sliding

    def _write_softness(self, rows: np.ndarray) -> None:
        """The time in which contacts push bodies apart, of every geom and every pair."""
        batch, model, factor = self._sim.batch, self._sim.model, self.values["contact_time"][rows]
        batch.expand("geom_solref")[rows, :, 0] = _longer(model.geom_solref[:, 0], factor)
        if model.npair:
            batch.expand("pair_solref")[rows, :, 0] = _longer(model.pair_solref[:, 0], factor)

    def _write_inertia(self, rows: np.ndarray) -> None:
        """Masses, inertias, the torso's centre of mass and the rotors', then what follows.

        What follows is left to ``mj_setConst``: subtree masses (sensors and cameras), the inverse
        weights by which contacts, limits and dry friction are softened, the inertia at rest, and
        whether MuJoCo may take a body's frame for that of its mass; without that a shift of a
        centre of mass at the origin is ignored and geoms at the centre of mass move with it.
        """
        if not any(name in self.values for name in _INERTIAL):
            return
        batch, model = self._sim.batch, self._sim.model
        if "link_mass" in self.values or "added_mass_kg" in self.values:
            mass = np.tile(self._mass, (len(rows), 1)) * self._of("link_mass", rows)
            mass[:, self._anchor] += self._of("added_mass_kg", rows)[:, 0]
            ratio = np.ones_like(mass)
            np.divide(mass, self._mass, out=ratio, where=self._mass > 0.0)
            places = np.ix_(rows, self._bodies)
            batch.expand("body_mass")[places] = mass
            inertia = model.body_inertia[self._bodies] * ratio[:, :, None]
            batch.expand("body_inertia")[places] = inertia
        if "com_offset_m" in self.values:
            body = self._bodies[self._anchor]
            com = model.body_ipos[body] + self.values["com_offset_m"][rows]
            batch.expand("body_ipos")[rows, body] = com
        if "armature" in self.values:
            armature = model.dof_armature[self._dofs] * self.values["armature"][rows]
            batch.expand("dof_armature")[np.ix_(rows, self._dofs)] = armature
        batch.set_const(np.sort(rows))

    def _write_motors(self, rows: np.ndarray) -> None:
        """Gains, limits and dry friction; nothing is derived from them."""
        batch, model, values = self._sim.batch, self._sim.model, self.values
        # torque = gainprm[0] target + biasprm[1] q + biasprm[2] qd, where biasprm[1] = -gainprm[0]
        if "stiffness" in values:
            factor = self.values["stiffness"][rows]
            batch.expand("actuator_gainprm")[rows, :, 0] = model.actuator_gainprm[:, 0] * factor
            batch.expand("actuator_biasprm")[rows, :, 1] = model.actuator_biasprm[:, 1] * factor
        if "damping" in values:
            factor = self.values["damping"][rows]
            batch.expand("actuator_biasprm")[rows, :, 2] = model.actuator_biasprm[:, 2] * factor
        if "torque_limit" in values:
            limits = model.actuator_forcerange * self.values["torque_limit"][rows][:, :, None]
            batch.expand("actuator_forcerange")[rows] = limits
        if "added_frictionloss" in values:
            own = model.dof_frictionloss[self._dofs]
            places = np.ix_(rows, self._dofs)
            batch.expand("dof_frictionloss")[places] = own + values["added_frictionloss"][rows]
        if "added_passive_damping" in values:
            own = model.dof_damping[self._dofs]
            places = np.ix_(rows, self._dofs)
            batch.expand("dof_damping")[places] = own + values["added_passive_damping"][rows]

    def _write_effects(self, rows: np.ndarray) -> None:
        """What motors do beside a PD law, and joints that read more than they are."""
        for name in EFFECTS:
            if name in self.values:
                assert isinstance(self._sim, TwinSimulation), f"{name} needs a TwinSimulation"
                own = getattr(MotorEffects.of(self._sim.robot), name)
                getattr(self._sim.effects, name)[rows] = own + self.values[name][rows]
        if "encoder_bias" in self.values:
            # A link stands as the model draws it where its joint reads the reference position.
            places = np.ix_(rows, self._sim.robot.qpos_ids)
            own = self._sim.model.qpos0[self._sim.robot.qpos_ids]
            self._sim.batch.expand("qpos0")[places] = own + self.values["encoder_bias"][rows]

    def _of(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Values of robots (n, width), or the one row that changes nothing."""
        return self.values[name][rows] if name in self.values else self._neutral[name]


def _longer(time_s: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Times (M,) times factors (n, 1); what is negative is a stiffness and no time."""
    return np.where(time_s > 0.0, time_s * factor, time_s)
