"""Many copies of a robot in MuJoCo, stepped on a thread pool; numpy in and out.

One step is one control step: the PD targets are written, ``decimation`` physics steps follow, and
everything that is read afterwards describes the new state.

    sim = CpuSimulation(Robot.load("g1"), num_envs=512)
    sim.reset(np.arange(512), qpos, qvel)
    sim.step(joint_pos_target)                       # (N, J) [rad]
    sim.joint_pos, sim.body_pos_w, sim.failed        # live: they change with the next step
"""

from __future__ import annotations

import mujoco
import numpy as np
from mujoco.batch import Batch

from asap.live_views import columns, live
from asap.robot import Robot
from asap.sim_protocol import Simulation as Simulation
from asap.sim_spec import (
    checked_decimation,
    force_sensor_name,
    history_layout,
    ids_of_errors,
    simulation_spec,
    subtree_geoms,
)
from asap_deploy.errors import InputError
from asap_deploy.observation import Measurement

MAX_SPEED = 200.0
"""A simulation with a faster coordinate has blown up [m/s, rad/s]: 5 times the fastest G1 motor."""

_NO_CONTACTS = int(mujoco.mjtDisableBit.mjDSBL_CONTACT)
_POSITIONS = int(mujoco.mjtStage.mjSTAGE_POS)
_EVERYTHING = int(mujoco.mjtStage.mjSTAGE_ACC)


class CpuSimulation:
    """N robots on ``mujoco.batch``, bit-identical to a loop over ``mj_step`` at any thread count.

    Arrays that the properties return are read-only and live: they show the simulation as it is
    *now*, so copy what must outlive the next ``step`` or ``reset``.

    A robot whose simulation fails (MuJoCo raises or warns, MuJoCo resets it on its own, a
    coordinate is not finite or faster than ``MAX_SPEED``) is put into its default pose at rest,
    marked in ``failed`` and left out of every step until it is reset; the others never notice.
    """

    def __init__(
        self,
        robot: Robot,
        num_envs: int,
        *,
        threads: int = 0,
        model: mujoco.MjModel | None = None,
        max_delay_s: float = 0.0,
    ) -> None:
        """Start N robots in their default pose.

        Args:
            robot: What to simulate.
            num_envs: Number of robots N.
            threads: Threads of the pool, the caller's among them; 0 for one per CPU.
            model: A model compiled from an edited ``simulation_spec(robot)``; it brings its own
                delay buffers. None for the robot as it is.
            max_delay_s: Longest delay that ``set_delay`` will be asked for [s].

        Raises:
            InputError: If the numbers or the model do not fit the robot.
        """
        if num_envs < 1 or threads < 0:
            raise InputError(f"need 1 robot and 0 threads or more; got {num_envs} and {threads}")
        if model is None:
            model = simulation_spec(robot, max_delay_s=max_delay_s).compile()
        self._robot, self._num_envs = robot, num_envs
        self._decimation = checked_decimation(robot, model)
        # Not persistent: one MjData per robot would save the position stage below, but it
        # streams 0.3 MB per robot through the caches and costs as much as it saves.
        self._batch = Batch(model, num_envs, threads)
        self._bind(model)
        self._failed = np.zeros(num_envs, dtype=bool)
        self._num_failures = 0
        self._blank = self._batch.state[0].copy()
        self._history = history_layout(model)
        self._default_qpos = robot.default_qpos()
        self._rest(np.arange(num_envs))

    @property
    def robot(self) -> Robot:
        """What is simulated."""
        return self._robot

    @property
    def num_envs(self) -> int:
        """Number of robots N."""
        return self._num_envs

    @property
    def control_dt(self) -> float:
        """Time between two targets [s]."""
        return self._robot.control_dt

    @property
    def physics_dt(self) -> float:
        """Time between two physics steps [s]."""
        return float(self.model.opt.timestep)

    @property
    def batch(self) -> Batch:
        """The engine below, for ``expand`` (model values per robot) and external forces.

        Bind state fields and positions only: after ``step`` the fields that hold velocities,
        forces or contacts belong to another robot, because the last call computes positions. That
        call switches contacts off by ``opt.disableflags``, which therefore cannot be expanded.
        """
        return self._batch

    @property
    def model(self) -> mujoco.MjModel:
        """The model that all robots share, but for expanded fields."""
        return self._batch.model

    @property
    def foot_geom_ids(self) -> tuple[np.ndarray, ...]:
        """For each foot, the ids in ``model`` of its geoms; those of ``robot.model`` differ."""
        return tuple(subtree_geoms(self.model, name) for name in self._robot.foot_names)

    def reset(
        self,
        env_ids: np.ndarray,
        qpos: np.ndarray,
        qvel: np.ndarray,
        *,
        joint_pos_target: np.ndarray | None = None,
    ) -> None:
        """Start robots anew: state, time, forces from outside, solver memory, delayed targets.

        Targets that are still under way when a delay is set are part of a state. They start as
        ``joint_pos_target``, so that nothing jerks towards zero in the first moments.

        Args:
            env_ids: Which robots, shape (n,), in any order; none twice.
            qpos: Shape (n, nq): base position [m], base attitude wxyz, joints [rad].
            qvel: Shape (n, nv): base velocity in the **world** frame [m/s], base angular velocity
                in the **base** frame [rad/s], joint speeds [rad/s].
            joint_pos_target: PD target so far, shape (n, J) [rad], or those of the last K control
                steps, shape (n, K, J), the one in force until now last; None for the joints as
                they are.

        Raises:
            InputError: If shapes do not fit or a number is not finite.
        """
        env_ids = np.asarray(env_ids, dtype=np.intp)
        qpos, qvel = np.asarray(qpos, dtype=np.float64), np.asarray(qvel, dtype=np.float64)
        if joint_pos_target is None:
            joint_pos_target = qpos[:, self._robot.qpos_ids]
        self._check_reset(env_ids, qpos, qvel, joint_pos_target)
        broken = self._write(env_ids, qpos, qvel, joint_pos_target)
        self._failed[env_ids] = False
        self._contain(broken)

    def step(self, joint_pos_target: np.ndarray) -> None:
        """Advance all robots by one control step, then compute where their bodies are.

        Args:
            joint_pos_target: What the PD loops receive, shape (N, J) [rad].
        """
        self._ctrl[:] = joint_pos_target
        alive = ~self._failed if self._failed.any() else None
        broken = ids_of_errors(lambda: self._advance(alive))
        # Forces are those that acted in the last physics step; the next call overwrites them.
        self._joint_torque[:] = self._actuator_force
        self._foot_force[:] = self._sensordata[:, self._force_ids]
        # Without contacts the position stage is four times cheaper, and no body moves by it.
        self._disable[:] |= _NO_CONTACTS
        still = ids_of_errors(lambda: self._batch.forward(alive, stage=_POSITIONS))
        self._disable[:] = self.model.opt.disableflags
        self._contain(np.union1d(broken, still))

    def _advance(self, alive: np.ndarray | None) -> None:
        """The physics steps of one control step."""
        self._batch.step(alive, nstep=self._decimation)

    def snapshot(self) -> dict[str, np.ndarray]:
        """Everything that the next step depends on, copied."""
        return {
            "state": self._batch.state.copy(),
            "warning": self._batch.warning.copy(),
            "failed": self._failed.copy(),
            "joint_torque": self._joint_torque.copy(),
            "foot_force": self._foot_force.copy(),
        }

    def restore(self, snapshot: dict[str, np.ndarray]) -> None:
        """Undo what happened since the snapshot; bodies are placed by the next step."""
        self._batch.state[:] = snapshot["state"]
        self._batch.warning[:] = snapshot["warning"]
        self._failed[:] = snapshot["failed"]
        self._joint_torque[:] = snapshot["joint_torque"]
        self._foot_force[:] = snapshot["foot_force"]

    def push(self, env_ids: np.ndarray, delta_lin_vel_w: np.ndarray) -> None:
        """Change the velocity of bases at once, as a shove would.

        Args:
            env_ids: Which robots, shape (n,); those that failed stay at rest.
            delta_lin_vel_w: What is added, shape (n, 3), in the world frame [m/s].

        Raises:
            InputError: If the robot is bolted down.
        """
        if not self._robot.has_free_base:
            raise InputError(f"robot '{self._robot.name}' is bolted down and cannot be pushed")
        env_ids = np.asarray(env_ids, dtype=np.intp)
        free = ~self._failed[env_ids]
        self._qvel[env_ids[free], 0:3] += np.asarray(delta_lin_vel_w)[free]

    def set_delay(self, delay_s: np.ndarray | float, env_ids: np.ndarray | None = None) -> None:
        """Delay the targets on their way to the motors.

        Exact at whole physics steps, linear between them. MuJoCo reads before it writes, so a
        delay above zero but below one physics step acts as one physics step.

        Args:
            delay_s: One for all, or shape (n,) per robot, or (n, J) per robot and joint [s].
            env_ids: Which robots, shape (n,); None for all.

        Raises:
            InputError: If a delay is negative or longer than the buffers that were made.
        """
        rows = np.arange(self._num_envs) if env_ids is None else np.asarray(env_ids, dtype=np.intp)
        delays = np.asarray(delay_s, dtype=np.float64)
        delays = delays[:, None] if delays.ndim == 1 else delays
        delays = np.broadcast_to(delays, (len(rows), len(self._robot.joint_names)))
        longest = self.model.actuator_history[:, 0] * self.physics_dt
        if not ((delays >= 0.0) & (delays <= longest + 1e-9)).all():
            raise InputError(
                f"delays must be between 0 and {longest.min():g} s; got {delays.min():g} to "
                f"{delays.max():g} s; make the simulation with a larger max_delay_s"
            )
        if longest.any():
            self._batch.expand("actuator_delay")[rows] = delays

    @property
    def joint_pos(self) -> np.ndarray:
        """(N, J) [rad]."""
        return live(self._qpos, self._qpos_columns)

    @property
    def joint_vel(self) -> np.ndarray:
        """(N, J) [rad/s]."""
        return live(self._qvel, self._qvel_columns)

    @property
    def joint_torque(self) -> np.ndarray:
        """(N, J) of the motors in the last physics step, limits applied [Nm]."""
        return live(self._joint_torque)

    @property
    def base_pos_w(self) -> np.ndarray:
        """(N, 3) [m]; zeros for a robot that is bolted down."""
        return live(self._base_qpos, slice(0, 3))

    @property
    def base_quat_wxyz(self) -> np.ndarray:
        """(N, 4); identity for a robot that is bolted down."""
        return live(self._base_qpos, slice(3, 7))

    @property
    def base_lin_vel_w(self) -> np.ndarray:
        """(N, 3), in the world frame [m/s]; zeros for a robot that is bolted down."""
        return live(self._base_qvel, slice(0, 3))

    @property
    def base_ang_vel_b(self) -> np.ndarray:
        """(N, 3), in the base frame [rad/s]; zeros for a robot that is bolted down."""
        # MuJoCo keeps qvel[3:6] in the body's frame, unlike qvel[0:3]: rotating it again by the
        # base attitude makes a policy fall as soon as the robot turns.
        return live(self._base_qvel, slice(3, 6))

    @property
    def body_pos_w(self) -> np.ndarray:
        """(N, B, 3) in the order of ``robot.body_names`` [m]."""
        return live(self._xpos, self._body_columns)

    @property
    def body_quat_wxyz(self) -> np.ndarray:
        """(N, B, 4) in the order of ``robot.body_names``."""
        return live(self._xquat, self._body_columns)

    @property
    def foot_contact_force(self) -> np.ndarray:
        """(N, 2) vertical force of the floor on each foot in the last physics step [N]."""
        return live(self._foot_force)

    @property
    def failed(self) -> np.ndarray:
        """(N,) bool: blown up, frozen in the default pose until reset."""
        return live(self._failed)

    @property
    def num_failures(self) -> int:
        """How many simulations have failed so far."""
        return self._num_failures

    def measure(self) -> Measurement:
        """Copies of joints and base, without noise.

        Returns:
            Arrays with N rows, joints in the order of ``robot.joint_names``.
        """
        return Measurement(
            joint_pos=self.joint_pos.copy(),
            joint_vel=self.joint_vel.copy(),
            base_quat_wxyz=self.base_quat_wxyz.copy(),
            base_ang_vel_b=self.base_ang_vel_b.copy(),
            base_pos_w=self.base_pos_w.copy(),
            base_lin_vel_w=self.base_lin_vel_w.copy(),
        )

    def _bind(self, model: mujoco.MjModel) -> None:
        """Find the arrays of the batch and the places of the robot's parts in them."""
        robot, batch = self._robot, self._batch
        self._qpos, self._qvel = batch.bind("qpos"), batch.bind("qvel")
        self._ctrl = batch.bind("ctrl")
        self._xpos, self._xquat = batch.bind("xpos"), batch.bind("xquat")
        self._actuator_force = batch.bind("actuator_force")
        self._sensordata = batch.bind("sensordata")
        self._disable = batch.expand("opt.disableflags")
        self._qpos_columns = columns(robot.qpos_ids)
        self._qvel_columns = columns(robot.qvel_ids)
        self._body_columns = columns([model.body(name).id for name in robot.body_names])
        sensors = [model.sensor(force_sensor_name(foot)) for foot in robot.foot_names]
        self._force_ids = np.array([s.adr[0] + 2 for s in sensors], dtype=np.intp)
        self._joint_torque = np.zeros(self._actuator_force.shape)
        self._foot_force = np.zeros((self._num_envs, len(sensors)))
        self._base_qpos, self._base_qvel = self._qpos, self._qvel
        if not robot.has_free_base:
            self._base_qpos = np.tile([0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0], (self._num_envs, 1))
            self._base_qvel = np.zeros((self._num_envs, 6))

    def _check_reset(
        self, env_ids: np.ndarray, qpos: np.ndarray, qvel: np.ndarray, targets: np.ndarray
    ) -> None:
        """Refuse states that do not fit, before anything is written."""
        n, joints = len(env_ids), len(self._robot.joint_names)
        got = (qpos.shape, qvel.shape, np.shape(targets))
        past = (targets.shape[1],) if np.ndim(targets) == 3 and targets.shape[1] > 0 else ()
        expected = ((n, self.model.nq), (n, self.model.nv), (n, *past, joints))
        if got != expected:
            raise InputError(f"qpos, qvel, joint_pos_target have shapes {got}; expected {expected}")
        if not all(np.isfinite(array).all() for array in (qpos, qvel, targets)):
            raise InputError("a state to start from holds numbers that are not finite")
        if np.setdiff1d(env_ids, np.arange(self._num_envs)).size or np.unique(env_ids).size != n:
            raise InputError(
                f"env_ids must be 0 to {self._num_envs - 1}, none twice; got {env_ids}"
            )

    def _rest(self, env_ids: np.ndarray) -> None:
        """Put robots into the default pose, at rest."""
        n = len(env_ids)
        targets = np.tile(self._robot.default_joint_pos, (n, 1))
        qpos = np.tile(self._default_qpos, (n, 1))
        self._write(env_ids, qpos, np.zeros((n, self.model.nv)), targets)

    def _write(
        self, env_ids: np.ndarray, qpos: np.ndarray, qvel: np.ndarray, targets: np.ndarray
    ) -> np.ndarray:
        """Replace the whole state of robots and compute what follows; ids of those that broke."""
        self._batch.state[env_ids] = self._blank
        self._batch.warning[env_ids] = 0
        self._qpos[env_ids], self._qvel[env_ids] = qpos, qvel
        past = targets if targets.ndim == 3 else targets[:, None]
        self._ctrl[env_ids] = past[:, -1]
        held = np.flatnonzero(self._history.owner >= 0)
        if len(held):
            history = self._batch.bind("history")
            history[np.ix_(env_ids, held)] = self._history.past(past, self._decimation)[:, held]
        broken = ids_of_errors(lambda: self._batch.forward(np.sort(env_ids), stage=_EVERYTHING))
        self._joint_torque[env_ids] = self._actuator_force[env_ids]
        self._foot_force[env_ids] = self._sensordata[np.ix_(env_ids, self._force_ids)]
        return broken

    def _contain(self, broken: np.ndarray) -> None:
        """Freeze the simulations that blew up: ``broken`` and those whose numbers say so."""
        # MuJoCo counts a warning when it meets a bad number; it may also have reset the simulation
        # to its zero pose on the spot, which looks healthy and is not what was asked for.
        bad = self._batch.warning[:, :, 1].any(axis=1)
        # Written so that not-a-number counts as too fast.
        bad |= ~(np.abs(self._qvel).max(axis=1) <= MAX_SPEED)
        bad[broken] = True
        if not bad.any():
            return
        self._rest(np.flatnonzero(bad))
        self._failed |= bad
        self._num_failures += int(bad.sum())
