"""A robot played by PyBullet: another integrator, another contact solver, the same face.

Whoever develops a method on MuJoCo and tests it on MuJoCo has shown little. A twin whose file says
``engine = "bullet"`` runs here instead.

    sim = BulletSimulation(Robot.load("g1@bullet"), num_envs=4)
    sim.reset(np.arange(4), qpos, qvel)
    sim.step(joint_pos_target)                       # (N, J) [rad]

Mass, inertia, joints, limits, shapes and friction are those of the robot's compiled model. What is
not simulated: rotor inertia (Bullet knows none at a joint, so ``armature`` is left out), shapes
against each other, the softness of MuJoCo's contacts, speed limits of motors. The PD law

    torque = clip(stiffness (target - q) - damping qd, -torque_limit, torque_limit)

is worked out here in every physics step and is therefore explicit: steps must be short.
"""

from __future__ import annotations

import mujoco
import numpy as np

from asap.bullet_delay import DelayLines
from asap.bullet_world import BulletWorld
from asap.live_views import columns, live
from asap.robot import Robot
from asap.sim import MAX_SPEED
from asap.sim_spec import subtree_geoms
from asap_deploy.errors import InputError
from asap_deploy.observation import Measurement

_MAX_STEP = 0.0005
"""Longest physics step that an explicit PD loop is trusted with [s]"""


class BulletSimulation:
    """N robots in PyBullet, each the same bit for bit whatever the others do.

    Arrays that the properties return are read-only and live, as those of ``CpuSimulation``. A
    robot that blows up (a number that is not finite, or faster than ``MAX_SPEED``) is held in its
    default pose and marked in ``failed`` until it is reset. Contact forces are zero after a reset
    until the first step.
    """

    def __init__(
        self,
        robot: Robot,
        num_envs: int,
        *,
        max_delay_s: float = 0.0,
        model: mujoco.MjModel | None = None,
    ) -> None:
        """Start N robots in their default pose.

        Args:
            robot: What to simulate; its ``physics_dt`` is Bullet's step.
            num_envs: Number of robots N.
            max_delay_s: Longest delay that ``set_delay`` will be asked for [s].
            model: Compiled from an edited ``robot.spec()``, for other masses or gravity; its
                motors do not count. None for the robot as it is.

        Raises:
            InputError: If PyBullet is absent, or numbers or the model do not fit.
        """
        if num_envs < 1:
            raise InputError(f"need 1 robot or more; got {num_envs}")
        if robot.physics_dt > _MAX_STEP:
            raise InputError(
                f"engine 'bullet' needs physics_dt of {_MAX_STEP:g} s or less; got "
                f"{robot.physics_dt:g} s: say physics_dt = 0.00025 in the twin's file"
            )
        self._robot, self._num_envs = robot, num_envs
        self._model = robot.model if model is None else model
        self._world = BulletWorld(self._model, num_envs, robot.physics_dt)
        self._motors = np.searchsorted(self._world.hinge_ids, robot.qvel_ids)
        self._delayed = DelayLines(robot, num_envs, max_delay_s)
        self._feet = [
            np.unique(self._model.geom_bodyid[subtree_geoms(self._model, foot)]) - 1
            for foot in robot.foot_names
        ]
        self._make_arrays()
        self._failed, self._num_failures = np.zeros(num_envs, dtype=bool), 0
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
        return self._robot.physics_dt

    @property
    def world(self) -> BulletWorld:
        """The engine below."""
        return self._world

    def reset(
        self,
        env_ids: np.ndarray,
        qpos: np.ndarray,
        qvel: np.ndarray,
        *,
        joint_pos_target: np.ndarray | None = None,
    ) -> None:
        """Start robots anew; what is under way to their motors is part of a state.

        Args:
            env_ids: Which robots, shape (n,), none twice.
            qpos: Shape (n, nq) in MuJoCo's conventions: base position [m], attitude wxyz, joints.
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
        targets = np.asarray(joint_pos_target, dtype=np.float64)
        self._check_reset(env_ids, qpos, qvel, targets)
        self._failed[env_ids] = False
        self._write(env_ids, qpos, qvel, targets if targets.ndim == 3 else targets[:, None])
        self._contain(np.abs(self._qvel).max(axis=1) > MAX_SPEED)

    def step(self, joint_pos_target: np.ndarray) -> None:
        """Advance all robots by one control step.

        Args:
            joint_pos_target: What the PD loops receive, shape (N, J) [rad].
        """
        target = np.array(joint_pos_target, dtype=np.float64)
        # Those that failed are simulated with the others, held where they are.
        target[self._failed] = self._robot.default_joint_pos
        self._delayed.add(target)
        broken = np.zeros(self._num_envs, dtype=bool)
        for arrived in self._delayed.arriving():
            broken |= self._drive(arrived)
            self._contain(broken)
            self._world.advance()
        self._read(np.arange(self._num_envs))
        self._foot_force[:] = [self._floor_force(row) for row in range(self._num_envs)]
        # Written so that not-a-number counts as too fast.
        self._contain(broken | ~(np.abs(self._qvel).max(axis=1) <= MAX_SPEED))
        self._rest(np.flatnonzero(self._failed))

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
        for row, delta in zip(np.asarray(env_ids), np.asarray(delta_lin_vel_w), strict=True):
            if not self._failed[row]:
                self._world.push(int(row), delta)
                self._qvel[row, :3] += delta

    def set_delay(self, delay_s: np.ndarray | float, env_ids: np.ndarray | None = None) -> None:
        """Delay the targets on their way to the motors, in place of the robot's own delay.

        Exact at whole physics steps, linear between them.

        Args:
            delay_s: One for all, or shape (n,) per robot, or (n, J) per robot and joint [s].
            env_ids: Which robots, shape (n,); None for all.

        Raises:
            InputError: If a delay is negative or longer than the buffers that were made.
        """
        rows = np.arange(self._num_envs) if env_ids is None else np.asarray(env_ids, dtype=np.intp)
        self._delayed.set_delay(rows, delay_s)

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
        return live(self._base_qvel, slice(3, 6))

    @property
    def body_pos_w(self) -> np.ndarray:
        """(N, B, 3) in the order of ``robot.body_names`` [m]."""
        return live(self._body_pos)

    @property
    def body_quat_wxyz(self) -> np.ndarray:
        """(N, B, 4) in the order of ``robot.body_names``."""
        return live(self._body_quat)

    @property
    def foot_contact_force(self) -> np.ndarray:
        """(N, 2) vertical force of the floor on each foot in the last physics step [N]."""
        return live(self._foot_force)

    @property
    def failed(self) -> np.ndarray:
        """(N,) bool: blown up, held in the default pose until reset."""
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

    def _make_arrays(self) -> None:
        """What is read after a step."""
        count, model, robot = self._num_envs, self._model, self._robot
        self._qpos, self._qvel = np.zeros((count, model.nq)), np.zeros((count, model.nv))
        self._qpos_columns, self._qvel_columns = columns(robot.qpos_ids), columns(robot.qvel_ids)
        self._base_qpos, self._base_qvel = self._qpos, self._qvel
        if not robot.has_free_base:
            self._base_qpos = np.tile([0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0], (count, 1))
            self._base_qvel = np.zeros((count, 6))
        bodies = len(robot.body_names)
        self._body_pos, self._body_quat = np.zeros((count, bodies, 3)), np.zeros((count, bodies, 4))
        self._joint_torque = np.zeros((count, len(robot.joint_names)))
        self._foot_force = np.zeros((count, len(self._feet)))
        hinges = len(self._world.hinge_ids)
        self._place, self._speed = np.zeros((count, hinges)), np.zeros((count, hinges))

    def _drive(self, target: np.ndarray) -> np.ndarray:
        """Set the torques of one physics step; (N,) whose numbers make no sense any more."""
        base = np.zeros(self._num_envs)
        for row in range(self._num_envs):
            self._place[row], self._speed[row] = self._world.hinges(row)
            base[row] = self._world.base_speed(row)
        torque = self._law(target, self._place[:, self._motors], self._speed[:, self._motors])
        total = -self._model.dof_damping[self._world.hinge_ids] * self._speed
        total[:, self._motors] += torque
        # Written so that not-a-number counts as too fast. It must be found before the next physics
        # step: once Bullet has seen where such a robot is, the contacts of all others are wrong.
        fastest = np.maximum(base, np.abs(self._speed).max(axis=1, initial=0.0))
        broken = ~(fastest <= MAX_SPEED) | ~np.isfinite(total).all(axis=1)
        total[broken] = torque[broken] = 0.0
        for row in range(self._num_envs):
            self._world.turn(row, total[row])
        self._joint_torque[:] = torque
        return broken

    def _law(self, target: np.ndarray, place: np.ndarray, speed: np.ndarray) -> np.ndarray:
        """Torques (..., J) of the motors [Nm]."""
        robot = self._robot
        torque = robot.stiffness * (target - place) - robot.damping * speed
        return np.clip(torque, -robot.torque_limit, robot.torque_limit)

    def _check_reset(
        self, env_ids: np.ndarray, qpos: np.ndarray, qvel: np.ndarray, targets: np.ndarray
    ) -> None:
        """Refuse states that do not fit, before anything is written."""
        n, joints = len(env_ids), len(self._robot.joint_names)
        got = (qpos.shape, qvel.shape, targets.shape)
        past = (targets.shape[1],) if targets.ndim == 3 and targets.shape[1] > 0 else ()
        expected = ((n, self._model.nq), (n, self._model.nv), (n, *past, joints))
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
        targets = np.tile(self._robot.default_joint_pos, (n, 1, 1))
        qpos = np.tile(self._default_qpos, (n, 1))
        self._write(env_ids, qpos, np.zeros((n, self._model.nv)), targets)

    def _write(
        self, env_ids: np.ndarray, qpos: np.ndarray, qvel: np.ndarray, past: np.ndarray
    ) -> None:
        """Replace states and targets under way, (n, K, J), and compute what follows."""
        self._delayed.start(env_ids, past)
        self._world.put(env_ids, qpos, qvel)
        self._qpos[env_ids] = qpos
        self._read(env_ids)
        self._foot_force[env_ids] = 0.0
        self._joint_torque[env_ids] = self._law(
            self._delayed.in_force()[env_ids], self.joint_pos[env_ids], self.joint_vel[env_ids]
        )

    def _read(self, env_ids: np.ndarray) -> None:
        """Take over states and body frames."""
        for row in env_ids.tolist():
            qpos, self._qvel[row] = self._world.state(row)
            # Bullet may answer with the other quaternion of an attitude: keep to one of them.
            if self._robot.has_free_base and qpos[3:7] @ self._qpos[row, 3:7] < 0.0:
                qpos[3:7] *= -1.0
            self._qpos[row] = qpos
            pos, quat = self._world.bodies(row)
            places = self._robot.body_ids - 1
            self._body_pos[row], self._body_quat[row] = pos[places], quat[places]

    def _floor_force(self, row: int) -> list[float]:
        """Of each foot [N]."""
        force = self._world.floor_force(row)
        return [float(force[bodies].sum()) for bodies in self._feet]

    def _contain(self, bad: np.ndarray) -> None:
        """Freeze the simulations that blew up."""
        new = bad & ~self._failed
        if new.any():
            self._failed |= new
            self._num_failures += int(new.sum())
            self._rest(np.flatnonzero(new))
