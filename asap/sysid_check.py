"""Asks MuJoCo's own identification, mujoco.sysid, the same question about the same windows.

    check = cross_check(fitted.identified)
    check.rows[0].ours, check.rows[0].theirs, check.apart

A second program says little about physics, but much about the first: a wrong sign, a shifted row or
a step that was not taken shows. So nothing of the fit but the windows is used twice: models are
recompiled from MjSpec for every column, stepped by mujoco.rollout under targets that are delayed
beforehand, and solved by mujoco.sysid. Free are stiffness, dry friction and rotor inertia of the
parts of the body, the delay being what the fit found, all else being the model's; both solve that.
mujoco.sysid has no delay between physics steps, no gains that change, and nothing that motors do
beside a PD law, so whether the rest of the fit is right it cannot say.
"""

from __future__ import annotations

import copy
import importlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import mujoco
import numpy as np
from mujoco import rollout

from asap.identify import JOINT_RAD, Shooting
from asap.log_windows import PAST, Windows
from asap.parameter_search import Identified
from asap.parameters import Parameter, Parameters
from asap.robot import Robot
from asap.sim_spec import simulation_spec
from asap_deploy.errors import InputError

COMPARED = ("stiffness", "frictionloss", "armature")
"""Kinds of parameters that both programs know."""
_ITERATIONS = 6
_STEP = 0.03
"""Of mujoco.sysid's differences, in prior deviations: across contacts smaller ones are noise."""
_TOLD = 0.9
"""Only what the log tells is compared: what it does not is where each program was pulled to."""
_ALIKE = 0.1
"""Largest difference of two answers that agree, in prior deviations: 2 % of a stiffness."""
_OFF_BOUNDS = 0.05
"""Starts this part of the range away from a bound, where derivatives stall (mujoco #3284)."""


class Compared(NamedTuple):
    """One parameter."""

    name: str
    model: float
    """Both began here, but for what lay on a bound: a factor, or what is added in SI units"""
    ours: float
    theirs: float
    apart: float
    """In prior deviations"""


@dataclass(frozen=True, kw_only=True)
class CrossCheck:
    """What both found."""

    rows: list[Compared]
    """Those that the log tells"""
    cost: dict[str, float]
    """Mean squared error of joints at what each found, as a share of the model's, by mujoco.sysid's
    own simulation"""
    windows: int

    @property
    def agree(self) -> bool:
        """Whether no answer is farther from the other than counts."""
        return all(row.apart <= _ALIKE for row in self.rows)

    @property
    def words(self) -> str:
        """One line for a person."""
        if not self.rows:
            return "mujoco.sysid was not asked: the log tells nothing that it knows"
        worst = max(self.rows, key=lambda row: row.apart)
        many = sum(row.apart <= _ALIKE for row in self.rows)
        return (
            f"mujoco.sysid, asked the same on {self.windows} windows, agrees on {many} of "
            f"{len(self.rows)} parameters; farthest apart is {worst.name}: {worst.ours:.3g} here, "
            f"{worst.theirs:.3g} there"
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        rows = [row._asdict() for row in self.rows]
        return {"rows": rows, "share_of_cost": self.cost, "windows": self.windows,
                "agree": self.agree}  # fmt: skip


def check_installed() -> None:
    """Say before a fit what it would end with.

    Raises:
        InputError: If mujoco.sysid lacks what it needs: it can be imported all the same.
    """
    if not hasattr(_sysid(), "optimize"):
        raise InputError("mujoco.sysid lacks what it needs; install it with: "
                         "pip install 'mujoco[sysid]'")  # fmt: skip


def _sysid() -> Any:
    """MuJoCo's identification, which types cannot be checked through."""
    return importlib.import_module("mujoco.sysid")


def cross_check(found: Identified, *, windows: int = 40, threads: int = 0) -> CrossCheck:
    """Fit a few parameters of the same windows twice.

    Args:
        found: By our own fit: its windows and its delay are used, and nothing else.
        windows: That both look at, evenly over the log.
        threads: Of our simulator; 0: all cores.

    Raises:
        InputError: If mujoco.sysid is not there, or cannot replay this log.
    """
    check_installed()
    if found.windows.gain_ratio is not None:
        raise InputError("mujoco.sysid knows one set of gains: give the logs of one to this check")
    shown = copy.copy(found.windows)
    shown.keep(windows)
    robot = _delayed(found)
    parameters = Parameters(robot, kinds=COMPARED)
    start = off_bounds(parameters)
    base_known = all(s.track.base_known for s in shown.stretches)
    shooting = Shooting(shown, robot, parameters, base_known=base_known, threads=threads)
    everything = np.ones(len(parameters), dtype=bool)
    ours = shooting.solve(start, everything, iterations=_ITERATIONS)
    told = shooting.linear(ours).told(everything) > _TOLD
    world = World(shown, robot, parameters)
    theirs = _asked(world, start, ours, told)
    rows = [Compared(item.name, item.physical(0.0), item.physical(ours[place]),
                     item.physical(theirs[place]), float(abs(ours[place] - theirs[place])))
            for place, item in enumerate(parameters.items) if told[place]]  # fmt: skip
    before, *after = (float(np.square(world.errors(world.positions(z))).mean())
                      for z in (np.zeros(len(ours)), ours, theirs))  # fmt: skip
    shares = [cost / max(before, 1e-30) for cost in after]
    return CrossCheck(rows=rows, cost=dict(zip(("ours", "theirs"), shares, strict=True)),
                      windows=len(shown.start))  # fmt: skip


def off_bounds(parameters: Parameters) -> np.ndarray:
    """The model (P,), moved into the bounds where it lies on one: no friction at all is one."""
    low, high = parameters.bounds
    room = _OFF_BOUNDS * (high - low)
    return np.clip(np.zeros(len(low)), low + room, high - room)


def _delayed(found: Identified) -> Robot:
    """The model with the delay that the fit found."""
    values = found.parameters.values(found.z[None])
    return found.robot.with_(delay_s=values["delay_s"][0]) if "delay_s" in values else found.robot


class World:
    """The windows as mujoco.sysid simulates them."""

    def __init__(self, windows: Windows, robot: Robot, parameters: Parameters) -> None:
        """Lay windows out.

        Args:
            windows: Under one set of gains.
            robot: With its delay.
            parameters: Of ``COMPARED``.
        """
        self.windows, self.robot, self.parameters = windows, robot, parameters
        # Targets are delayed here, so that no buffer has to be filled in every first state.
        self.spec = simulation_spec(robot.with_(delay_s=np.zeros(len(robot.joint_names))))
        _measure_joints(self.spec, robot)
        self.model = self.spec.compile()
        self.window = np.arange(len(windows.start))
        self.control = late_targets(windows, robot, self.model.opt.timestep)
        """(W, steps, J) in force in every physics step [rad]"""
        first = windows.rows(self.window, 0)
        states = zip(windows.qpos[first], windows.qvel[first], strict=True)
        self.first = np.stack([self._state(qpos, qvel) for qpos, qvel in states])

    def positions(self, z: np.ndarray) -> np.ndarray:
        """(W, steps, nq) after every physics step, for parameters (P,) in their units."""
        for item, value in zip(self.parameters.items, z, strict=True):
            self.modifier(item)(self.spec, value)
        model = self.spec.compile()
        state, _ = rollout.rollout(model, mujoco.MjData(model), self.first, self.control)
        return np.asarray(state)[:, :, 1 : 1 + model.nq]

    def errors(self, qpos: np.ndarray) -> np.ndarray:
        """(..., frames, J) of joints, at the rows of the log; an error of JOINT_RAD counts 1.

        Args:
            qpos: (W, steps, nq) after every physics step.
        """
        every = qpos.shape[1] // self.windows.steps
        seen = qpos[:, every - 1 :: every][..., self.robot.qpos_ids]
        logged = np.stack([self.windows.joint_pos[self.windows.rows(self.window, step)]
                           for step in range(1, self.windows.steps + 1)], axis=1)  # fmt: skip
        return np.asarray((seen - logged) / JOINT_RAD)

    def modifier(self, item: Parameter) -> Callable[[mujoco.MjSpec, float], None]:
        """What writes a parameter into a spec, in its units."""
        robot, joints = self.robot, [self.robot.joint_names[place] for place in item.columns]

        def write(spec: mujoco.MjSpec, z: float) -> None:
            value = item.physical(float(z))
            for place, name in zip(item.columns, joints, strict=True):
                if item.quantity == "stiffness":
                    motor = _motor_of(spec, name)
                    motor.gainprm[0] = robot.stiffness[place] * value
                    motor.biasprm[1] = -robot.stiffness[place] * value
                elif item.quantity == "armature":
                    spec.joint(name).armature = robot.armature[place] * value
                else:
                    spec.joint(name).frictionloss = robot.frictionloss[place] + value

        return write

    def _state(self, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        """MuJoCo's full physics state."""
        data = mujoco.MjData(self.model)
        data.qpos[:], data.qvel[:] = qpos, qvel
        kind = mujoco.mjtState.mjSTATE_FULLPHYSICS
        state = np.empty(mujoco.mj_stateSize(self.model, kind))
        mujoco.mj_getState(self.model, data, state, kind)
        return state


def _measure_joints(spec: mujoco.MjSpec, robot: Robot) -> None:
    """Make the joints the only sensors, as they are of a log."""
    for sensor in list(spec.sensors):
        spec.delete(sensor)
    for name in robot.joint_names:
        spec.add_sensor(name=f"{name}_pos", type=mujoco.mjtSensor.mjSENS_JOINTPOS,
                        objtype=mujoco.mjtObj.mjOBJ_JOINT, objname=name)  # fmt: skip


def _motor_of(spec: mujoco.MjSpec, joint: str) -> Any:
    """The motor of a joint."""
    return next(motor for motor in spec.actuators if motor.target == joint)


def late_targets(windows: Windows, robot: Robot, physics_dt: float) -> np.ndarray:
    """(W, steps, J) what reaches the motors in every physics step.

    MuJoCo's buffer reads a target between two physics steps on the line between them, and reads
    before it writes: a delay below one step acts as one.
    """
    window = np.arange(len(windows.start))
    every = round(windows.dt / physics_dt)
    told = np.stack([windows.target[windows.rows(window, step)]
                     for step in range(-PAST, windows.steps)], axis=1)  # fmt: skip
    fine = np.repeat(told, every, axis=1)
    found = np.empty((len(window), windows.steps * every, fine.shape[2]))
    for joint, delay_s in enumerate(robot.delay_s):
        steps = max(delay_s / physics_dt, 1.0) if delay_s > 0.0 else 0.0
        whole, part = divmod(steps, 1.0)
        late = PAST * every - int(whole)
        near = fine[:, late : late + found.shape[1], joint]
        far = fine[:, late - 1 : late - 1 + found.shape[1], joint]
        found[:, :, joint] = (1.0 - part) * near + part * far
    return found


def _asked(world: World, start: np.ndarray, rest: np.ndarray, told: np.ndarray) -> np.ndarray:
    """What mujoco.sysid answers (P,): it fits what is told, the rest being ``rest``.

    It knows no pull towards the model, so what no log tells would wander.
    """
    sysid = _sysid()

    low, high = world.parameters.bounds
    free = sysid.ParameterDict()
    for place, item in enumerate(world.parameters.items):
        if told[place]:
            free.add(sysid.Parameter(item.name, start[place], low[place], high[place],
                                     modifier=_on_spec(world.modifier(item))))  # fmt: skip
        else:
            world.modifier(item)(world.spec, rest[place])
    residual = sysid.build_residual_fn(
        models_sequences=[_sequences(world)], build_model=_built_once(),
        modify_residual=_compared_with_log(world), resample_true=False, n_threads=1,
    )  # fmt: skip
    best, _ = sysid.optimize(free, residual, optimizer="mujoco", verbose=False,
                             max_iters=_ITERATIONS, eps=_STEP, output=io.StringIO())  # fmt: skip
    found = rest.copy()
    found[told] = best.as_vector()
    return found


def _on_spec(write: Callable[[mujoco.MjSpec, float], None]) -> Callable[[Any, Any], None]:
    """A modifier as mujoco.sysid calls it."""
    return lambda spec, parameter: write(spec, float(parameter.value[0]))


def _built_once() -> Callable[[Any, mujoco.MjSpec], mujoco.MjModel]:
    """Compiles a set of parameters once: mujoco.sysid asks again for every window."""
    sysid = _sysid()

    known: dict[bytes, mujoco.MjModel] = {}

    def build(parameters: Any, spec: mujoco.MjSpec) -> mujoco.MjModel:
        key = parameters.as_vector().tobytes()
        if key not in known:
            if len(known) > 2 * parameters.size + 2:  # those of steps before
                known.clear()
            known[key] = sysid.apply_param_modifiers(parameters, spec)
        return known[key]

    return build


def _sequences(world: World) -> Any:
    """All windows, as mujoco.sysid holds measurements: rows of the log are its only sensors."""
    sysid = _sysid()

    windows, dt = world.windows, world.model.opt.timestep
    # The last row of controls is dropped there: nothing was measured after it.
    times = dt * np.arange(world.control.shape[1] + 1)
    rows = windows.dt * np.arange(1, windows.steps + 1)
    controls = [np.concatenate([one, one[-1:]]) for one in world.control]
    logged = [windows.joint_pos[windows.rows(np.full(windows.steps, number), 0) + 1
                                + np.arange(windows.steps)] for number in world.window]  # fmt: skip
    return sysid.ModelSequences(
        name=world.robot.name, spec=world.spec,
        sequence_name=[f"window {number}" for number in world.window],
        initial_state=list(world.first),
        control=[sysid.TimeSeries(times, one) for one in controls],
        sensordata=[sysid.TimeSeries(rows, one) for one in logged],
    )  # fmt: skip


def _compared_with_log(world: World) -> Callable[..., tuple[np.ndarray, Any, Any]]:
    """What mujoco.sysid makes small: joints at the rows of the log, in our unit."""

    def residual(
        parameters: Any, predicted: Any, measured: Any, model: Any, everything: bool, *, state: Any
    ) -> tuple[np.ndarray, Any, Any]:
        every = len(state) // world.windows.steps
        joint_pos = state[every - 1 :: every][:, 1 + world.robot.qpos_ids]
        return (joint_pos - measured.data) / JOINT_RAD, measured, measured

    return residual
