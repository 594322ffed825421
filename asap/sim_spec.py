"""The MuJoCo model that the simulation runs: the robot, lean, with force sensors and delay buffers.

spec = simulation_spec(robot, max_delay_s=0.04)
spec.body("torso_link").mass += 2.0                        # edit it as you like
sim = CpuSimulation(robot, 512, model=spec.compile())
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import mujoco
import numpy as np
from mujoco.batch import SimulationError

from asap.robot import Robot
from asap_deploy.errors import InputError

_SUBTREE = mujoco.mjtObj.mjOBJ_XBODY
_NET_FORCE = 3
"""``reduce="netforce"`` of MuJoCo's contact sensor."""
_LINEAR = 1
"""``interp="linear"`` of MuJoCo's delay buffers."""


def simulation_spec(robot: Robot, *, max_delay_s: float = 0.0) -> mujoco.MjSpec:
    """The robot's spec as ``CpuSimulation`` runs it; edit it and pass on the compiled model.

    Geoms that cannot touch anything are left out: the same motion bit for bit and about 5 % faster
    for the G1, because MuJoCo places every geom in every step. Geom ids then differ from those of
    ``robot.model``: go by name, or by ``CpuSimulation.foot_geom_ids``. Bodies, joints and actuators
    keep their ids.

    Args:
        robot: The robot.
        max_delay_s: Longest delay from target to motor that will be asked for [s]; 0 keeps the
            robot's own.

    Returns:
        A fresh spec with one force sensor per foot, named ``<foot>_force``.

    Raises:
        InputError: If the delay is negative or not finite.
    """
    if not (np.isfinite(max_delay_s) and max_delay_s >= 0.0):
        raise InputError(f"max_delay_s must be 0 or above; got {max_delay_s}")
    spec = robot.spec()
    _drop_idle_geoms(spec)
    for foot in robot.foot_names:
        _add_force_sensor(spec, foot)
    needed = int(np.ceil(max_delay_s / spec.option.timestep - 1e-9))
    for motor in spec.actuators:
        motor.nsample = max(motor.nsample, needed)
        # Linear, so that a delay between two physics steps is not rounded up to the next.
        motor.interp = _LINEAR if motor.nsample else motor.interp
    return spec


def force_sensor_name(foot: str) -> str:
    """Name of the sensor of the floor's force on a foot."""
    return f"{foot}_force"


class HistoryLayout(NamedTuple):
    """What the numbers of the history buffer hold."""

    owner: np.ndarray
    """(nhistory,) actuator whose past target it is; -1 for time stamps and the like"""
    age: np.ndarray
    """(nhistory,) physics steps ago, 1 for the latest; 0 where there is no owner"""

    def past(self, targets: np.ndarray, decimation: int) -> np.ndarray:
        """What the buffer holds after the targets (n, K, J) of the last K control steps.

        Returns:
            (n, nhistory); meaningless where there is no owner.
        """
        # A target k physics steps ago was in force since the control step before.
        back = np.ceil(self.age / decimation).astype(np.intp)
        rows = np.clip(targets.shape[1] - back, 0, targets.shape[1] - 1)
        return np.asarray(targets[:, rows, self.owner])


def history_layout(model: mujoco.MjModel) -> HistoryLayout:
    """Which past target of which actuator each number of the history buffer holds after a reset.

    Args:
        model: Any model.
    """
    data = mujoco.MjData(model)
    mujoco.mj_resetData(model, data)
    empty = data.history.copy()
    owner, age = np.full(len(empty), -1), np.zeros(len(empty), dtype=np.intp)
    for actuator in range(model.nu):
        samples = int(model.actuator_history[actuator, 0])
        if samples:
            mujoco.mj_resetData(model, data)
            ages = np.arange(samples, 0, -1)  # oldest first
            mujoco.mj_initCtrlHistory(model, data, actuator, None, ages.astype(float))
            # Values start at zero and time stamps stay: what changed is a value of this actuator.
            changed = data.history != empty
            owner[changed] = actuator
            age[changed] = np.round(data.history[changed] - empty[changed]).astype(np.intp)
    return HistoryLayout(owner, age)


def subtree_geoms(model: mujoco.MjModel, body_name: str) -> np.ndarray:
    """Ids of the geoms of a body and of all that hangs on it."""
    below = {model.body(body_name).id}
    for body in range(1, model.nbody):
        if model.body_parentid[body] in below:
            below.add(body)
    return np.flatnonzero(np.isin(model.geom_bodyid, list(below)))


def checked_decimation(robot: Robot, model: mujoco.MjModel) -> int:
    """Physics steps of this model per control step.

    Raises:
        InputError: If the model is not one of this robot, or the times do not divide.
    """
    missing = [n for n in map(force_sensor_name, robot.foot_names) if n not in _sensors(model)]
    if missing or model.nu != len(robot.joint_names):
        raise InputError(
            f"the model does not fit robot '{robot.name}': it has {model.nu} motors of "
            f"{len(robot.joint_names)} and lacks the sensors {missing}; compile it from "
            "simulation_spec(robot)"
        )
    ratio = robot.control_dt / model.opt.timestep
    if abs(ratio - round(ratio)) > 1e-6 or round(ratio) < 1:
        raise InputError(
            "control_dt must be a whole multiple of physics_dt: got "
            f"{robot.control_dt:g} and {model.opt.timestep:g}"
        )
    return round(ratio)


def _drop_idle_geoms(spec: mujoco.MjSpec) -> None:
    """Remove what is only drawn: geoms that touch nothing, weigh nothing and guide no tendon."""
    weigh = spec.compiler.inertiafromgeom == mujoco.mjtInertiaFromGeom.mjINERTIAFROMGEOM_TRUE
    if weigh or [*spec.tendons]:
        return
    paired = {name for pair in spec.pairs for name in (pair.geomname1, pair.geomname2)}
    for body in spec.bodies:
        if not body.explicitinertial and body != spec.worldbody:
            continue
        for geom in [*body.geoms]:
            if not (geom.contype or geom.conaffinity or geom.name in paired):
                spec.delete(geom)


def _add_force_sensor(spec: mujoco.MjSpec, foot: str) -> None:
    """Sum of the contact forces of the world on a foot, in the world frame (3 numbers)."""
    wanted = 1 << int(mujoco.mjtConDataField.mjCONDATA_FORCE)
    # From the first body to the second, so that a standing robot's forces are positive.
    spec.add_sensor(
        name=force_sensor_name(foot),
        type=mujoco.mjtSensor.mjSENS_CONTACT,
        objtype=mujoco.mjtObj.mjOBJ_BODY,
        objname="world",
        reftype=_SUBTREE,
        refname=foot,
        intprm=[wanted, _NET_FORCE, 1],
    )


def _sensors(model: mujoco.MjModel) -> set[str]:
    """Names of a model's sensors."""
    return {model.sensor(i).name for i in range(model.nsensor)}


def ids_of_errors(call: Callable[[], None]) -> np.ndarray:
    """Run a call of the batch and tell in which simulations MuJoCo raised."""
    try:
        call()
    except SimulationError as error:
        return np.asarray(error.ids, dtype=np.intp)
    return np.empty(0, dtype=np.intp)
