"""Robots in PyBullet: loaded from our own model, put into our states and read back in our frames.

world = BulletWorld(robot.model, count=2, physics_dt=0.00025)
world.put(np.arange(2), qpos, qvel)          # MuJoCo's conventions
world.turn(0, torque); world.advance()       # one physics step of all
qpos, qvel = world.state(0)

All robots are in one world (one each costs 30 MB and 80 ms) and cannot touch each other. Bullet
speaks of a base by its centre of mass and principal axes, xyzw, in the world frame; MuJoCo by the
body's frame, wxyz, and turns in that frame.
"""

from __future__ import annotations

import tempfile
import weakref
from pathlib import Path
from typing import Any, NamedTuple

import mujoco
import numpy as np

from asap.bullet_urdf import sliding_friction, urdf_text
from asap_deploy import rotation
from asap_deploy.errors import InputError

_HINGE = mujoco.mjtJoint.mjJNT_HINGE
_FLOOR_GROUP, _ROBOT_GROUP = 1, 2
_FAR_M = 1000.0
"""Where a robot touches nothing [m]"""
_APART_M = 10.0
"""Between robots that are being loaded [m]"""
_NO_LIMIT = 1e4
"""Bullet cuts off faster joints, 100 rad/s unless told [rad/s]."""


def pybullet() -> Any:
    """The module, imported when first needed.

    Raises:
        InputError: If it is not installed.
    """
    try:
        import pybullet as engine
    except ImportError:
        raise InputError(
            "engine 'bullet' needs PyBullet, which is not installed: say "
            "`pip install 'asap-toolkit[bullet]'` or `pip install pybullet`"
        ) from None
    return engine


class _Hinges(NamedTuple):
    """All hinges of the model, H; those with a motor and those without."""

    links: list[int]
    """Bullet's numbers"""
    qpos_ids: np.ndarray
    qvel_ids: np.ndarray


class BulletWorld:
    """N robots and a floor."""

    def __init__(self, model: mujoco.MjModel, count: int, physics_dt: float) -> None:
        """Load robots; where they are is not said yet.

        Args:
            model: One robot with a geom ``floor``; gives masses, joints, shapes, friction, gravity.
            count: Robots N.
            physics_dt: Step [s].

        Raises:
            InputError: If PyBullet is absent or the model has what Bullet lacks.
        """
        if model.neq or model.ntendon or model.jnt_stiffness.any():
            raise InputError("engine 'bullet' knows no equalities, tendons and springs of joints")
        self._engine, self.model = pybullet(), model
        client = self._engine.connect(self._engine.DIRECT)
        assert client >= 0, "PyBullet gives no more worlds"
        self._here = {"physicsClientId": client}
        weakref.finalize(self, self._engine.disconnect, client)
        self._engine.setTimeStep(physics_dt, **self._here)
        self._engine.setGravity(*model.opt.gravity.tolist(), **self._here)
        # Every robot is solved by itself and its contacts in a fixed order: what one does is then
        # bit for bit the same with and without the others.
        self._engine.setPhysicsEngineParameter(
            minimumSolverIslandSize=1, deterministicOverlappingPairs=1, **self._here
        )
        self._base = int(np.flatnonzero(model.body_parentid == 0)[1])
        self._is_free = bool(model.body_dofnum[self._base])
        self._floor = self._make_floor()
        self._robots = self._load(count)
        self._body_links = self._links_of_bodies()
        self._hinges = self._find_hinges()
        for robot in self._robots:
            self._prepare(robot)

    def put(self, rows: np.ndarray, qpos: np.ndarray, qvel: np.ndarray) -> None:
        """Start robots (n,) anew in states of the model (n, nq), (n, nv); nothing else remains."""
        if self._is_free and len(rows):
            # Away from the floor Bullet forgets the contacts of the past.
            for row in rows.tolist():
                self._engine.resetBasePositionAndOrientation(
                    self._robots[row], [0.0, 0.0, _FAR_M], [0.0, 0.0, 0.0, 1.0], **self._here
                )
            self._engine.performCollisionDetection(**self._here)
        hinges = self._hinges
        for row, one_qpos, one_qvel in zip(rows.tolist(), qpos, qvel, strict=True):
            if self._is_free:
                self._put_base(self._robots[row], one_qpos, one_qvel)
            if hinges.links:
                self._engine.resetJointStatesMultiDof(
                    self._robots[row],
                    hinges.links,
                    one_qpos[hinges.qpos_ids, None].tolist(),
                    one_qvel[hinges.qvel_ids, None].tolist(),
                    **self._here,
                )

    def _put_base(self, robot: int, qpos: np.ndarray, qvel: np.ndarray) -> None:
        """Give a free base its place and speed."""
        quat = rotation.normalize(qpos[3:7])
        arm_w = rotation.rotate(quat, self.model.body_ipos[self._base])
        spin_w = rotation.rotate(quat, qvel[3:6])
        axes = rotation.multiply(quat, self.model.body_iquat[self._base])
        centre, speed = qpos[:3] + arm_w, qvel[:3] + np.cross(spin_w, arm_w)
        self._engine.resetBasePositionAndOrientation(
            robot, centre.tolist(), rotation.xyzw_from_wxyz(axes).tolist(), **self._here
        )
        self._engine.resetBaseVelocity(robot, speed.tolist(), spin_w.tolist(), **self._here)

    def state(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """A robot's qpos (nq,) and qvel (nv,) as MuJoCo would have them."""
        robot, hinges = self._robots[row], self._hinges
        qpos, qvel = self.model.qpos0.copy(), np.zeros(self.model.nv)
        qpos[hinges.qpos_ids], qvel[hinges.qvel_ids] = self.hinges(row)
        if self._is_free:
            centre, axes = self._engine.getBasePositionAndOrientation(robot, **self._here)
            speed, spin_w = map(np.array, self._engine.getBaseVelocity(robot, **self._here))
            axes = rotation.wxyz_from_xyzw(np.array(axes))
            turn = rotation.conjugate(self.model.body_iquat[self._base])
            quat = rotation.normalize(rotation.multiply(axes, turn))
            arm_w = rotation.rotate(quat, self.model.body_ipos[self._base])
            qpos[:3], qpos[3:7] = np.array(centre) - arm_w, quat
            qvel[:3] = speed - np.cross(spin_w, arm_w)
            qvel[3:6] = rotation.rotate_inverse(quat, spin_w)
        return qpos, qvel

    def hinges(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Positions [rad] and speeds [rad/s] of all hinges (H,), in the order of ``hinge_ids``."""
        if not self._hinges.links:
            return np.zeros(0), np.zeros(0)
        states = self._engine.getJointStates(self._robots[row], self._hinges.links, **self._here)
        return np.array([one[0] for one in states]), np.array([one[1] for one in states])

    def base_speed(self, row: int) -> float:
        """Largest part of a base's velocity [m/s, rad/s]; 0 for a bolted one."""
        if not self._is_free:
            return 0.0
        return float(np.abs(self._engine.getBaseVelocity(self._robots[row], **self._here)).max())

    @property
    def hinge_ids(self) -> np.ndarray:
        """(H,) places in qvel of the hinges."""
        return self._hinges.qvel_ids

    def turn(self, row: int, torque: np.ndarray) -> None:
        """Torques (H,) at the hinges of a robot in the next physics step [Nm]."""
        if self._hinges.links:
            self._engine.setJointMotorControlArray(
                self._robots[row],
                self._hinges.links,
                self._engine.TORQUE_CONTROL,
                forces=torque.tolist(),
                **self._here,
            )

    def advance(self) -> None:
        """One physics step of all robots; torques end with it."""
        self._engine.stepSimulation(**self._here)

    def push(self, row: int, delta_lin_vel_w: np.ndarray) -> None:
        """Change the velocity of a free base at once [m/s]."""
        robot = self._robots[row]
        speed, spin_w = self._engine.getBaseVelocity(robot, **self._here)
        pushed = (np.array(speed) + delta_lin_vel_w).tolist()
        self._engine.resetBaseVelocity(robot, pushed, spin_w, **self._here)

    def bodies(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Frames of the model's bodies but the world: positions (nbody - 1, 3), attitudes wxyz."""
        robot, links = self._robots[row], self._body_links[1:]
        base = (
            self.state(row)[0][:7]
            if self._is_free
            else np.concatenate([self.model.body_pos[self._base], self.model.body_quat[self._base]])
        )
        pos, quat = [base[:3]], [rotation.xyzw_from_wxyz(base[3:7])]
        if links:
            for one in self._engine.getLinkStates(robot, links, 0, 1, **self._here):
                # 0 and 1 would be the centre of mass; 4 and 5 are the link's own frame.
                pos.append(np.array(one[4]))
                quat.append(np.array(one[5]))
        return np.array(pos), rotation.wxyz_from_xyzw(np.array(quat))

    def floor_force(self, row: int) -> np.ndarray:
        """(nbody - 1,) vertical force of the floor on each body in the last physics step [N]."""
        force = np.zeros(len(self._body_links))
        places = {link: place for place, link in enumerate(self._body_links)}
        for contact in self._engine.getContactPoints(self._robots[row], self._floor, **self._here):
            force[places[contact[3]]] += contact[9] * contact[7][2]
        return force

    def mass_matrix(self, row: int) -> np.ndarray:
        """Bullet's joint-space inertia at the robot's place; a free base's six rows come first."""
        places = self.hinges(row)[0].tolist()
        return np.array(self._engine.calculateMassMatrix(self._robots[row], places, **self._here))

    def mass_and_centre(self, row: int) -> tuple[float, np.ndarray]:
        """Bullet's total mass [kg] and its centre (3,) [m]; of a bolted robot without its root."""
        robot = self._robots[row]
        links = [link for link in self._body_links if link >= 0]
        mass = [self._engine.getDynamicsInfo(robot, link, **self._here)[0] for link in links]
        place = [
            np.array(one[0]) for one in self._engine.getLinkStates(robot, links, 0, 1, **self._here)
        ]
        if self._is_free:
            mass.append(self._engine.getDynamicsInfo(robot, -1, **self._here)[0])
            place.append(
                np.array(self._engine.getBasePositionAndOrientation(robot, **self._here)[0])
            )
        return float(np.sum(mass)), np.array(mass) @ np.array(place) / np.sum(mass)

    def _make_floor(self) -> int:
        """An endless plane that meets robots alone."""
        plane = self._engine.createCollisionShape(self._engine.GEOM_PLANE, **self._here)
        floor = int(self._engine.createMultiBody(0, plane, **self._here))
        self._engine.setCollisionFilterGroupMask(
            floor, -1, _FLOOR_GROUP, _ROBOT_GROUP, **self._here
        )
        # Bullet multiplies the frictions of two bodies: the links carry what MuJoCo makes of both.
        self._engine.changeDynamics(floor, -1, lateralFriction=1.0, **self._here)
        return floor

    def _load(self, count: int) -> list[int]:
        """All robots, from a URDF that is gone afterwards."""
        # Without the first flag Bullet makes inertias up from the shapes.
        engine, base = self._engine, self._base
        flags = engine.URDF_USE_INERTIA_FROM_FILE | engine.URDF_MAINTAIN_LINK_ORDER
        pos, quat = self.model.body_pos[base], self.model.body_quat[base]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "robot.urdf"
            path.write_text(urdf_text(self.model, "robot"), encoding="utf-8")
            # Until they are told whom to meet, robots in one place meet each other: far too slow.
            apart = np.array([_APART_M, 0.0, 0.0]) if self._is_free else np.zeros(3)
            return [
                int(
                    engine.loadURDF(
                        str(path),
                        (pos + row * apart).tolist(),
                        rotation.xyzw_from_wxyz(quat).tolist(),
                        useFixedBase=not self._is_free,
                        flags=flags,
                        **self._here,
                    )
                )
                for row in range(count)
            ]

    def _links_of_bodies(self) -> list[int]:
        """Bullet's number of each body of the model but the world; -1 is the base."""
        robot = self._robots[0]
        numbers = {self.model.body(self._base).name: -1}
        for link in range(self._engine.getNumJoints(robot, **self._here)):
            numbers[self._engine.getJointInfo(robot, link, **self._here)[12].decode()] = link
        return [numbers[self.model.body(body).name] for body in range(1, self.model.nbody)]

    def _find_hinges(self) -> _Hinges:
        """Where Bullet and the model have the same joint."""
        model = self.model
        joints = [j for j in range(model.njnt) if model.jnt_type[j] == _HINGE]
        # A link carries the joint that holds it.
        links = [self._body_links[int(model.jnt_bodyid[j]) - 1] for j in joints]
        return _Hinges(links, model.jnt_qposadr[joints], model.jnt_dofadr[joints])

    def _prepare(self, robot: int) -> None:
        """Take out what Bullet adds on its own, put in friction."""
        for body, link in enumerate(self._body_links, start=1):
            self._engine.setCollisionFilterGroupMask(
                robot, link, _ROBOT_GROUP, _FLOOR_GROUP, **self._here
            )
            self._engine.changeDynamics(
                robot, link, lateralFriction=sliding_friction(self.model, body), **self._here
            )
        # A trap: these are of the whole robot, and a call that names one of them gives everything
        # else that it names to the base. Frictions of links in it would be lost without a word.
        self._engine.changeDynamics(
            robot,
            -1,
            linearDamping=0.0,
            angularDamping=0.0,
            maxJointVelocity=_NO_LIMIT,
            **self._here,
        )
        if self._hinges.links:
            # A motor that wants to stand still and is no stronger than that is dry friction.
            friction = self.model.dof_frictionloss[self._hinges.qvel_ids]
            self._engine.setJointMotorControlArray(
                robot,
                self._hinges.links,
                self._engine.VELOCITY_CONTROL,
                forces=friction.tolist(),
                **self._here,
            )
