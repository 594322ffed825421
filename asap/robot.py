"""A robot: joint order, gains, limits, bodies, feet, and the MuJoCo model that follows from them.

Facts come from the robot's folder (``robot.toml`` and an MJCF); nothing here simulates.

    robot = Robot.load("g1:asap")
    robot.joint_ids(["left_knee_joint"])                       # places in every (J,) array
    body_pos_w, body_quat_wxyz = robot.forward_kinematics(base_pos_w, base_quat_wxyz, joint_pos)
    clearance_m = robot.sole_clearance(body_pos_w, body_quat_wxyz)      # (T, 2)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import mujoco
import numpy as np

from asap import robot_check
from asap.robot_fields import JOINT_ARRAYS, VirtualPoint, robot_fields
from asap.robot_file import FILE_NAME, RobotFacts, read_facts, twin_names, variant_names
from asap.robot_mjcf import Mjcf, read_mjcf
from asap.robot_soles import Sole, sole_clearance, soles
from asap.robot_spec import INTEGRATOR, add_motor, add_scene, bare_spec, compiled, set_collisions
from asap.shipped import ROBOTS_FOLDER
from asap_deploy.errors import InputError, suggestion
from asap_deploy.observation import Measurement


class Learned(Protocol):
    """What a network adds to a robot: to its targets, or to its state."""

    @property
    def acts_on(self) -> str:
        """``target`` or ``state``."""
        ...

    def __call__(self, measured: Measurement, joint_pos_target: np.ndarray) -> np.ndarray:
        """What is added, a row a robot."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Robot:
    """Everything about one robot (variant, twin) with J actuated joints and B bodies."""

    name: str
    """As given to ``load``, for example ``g1:asap``."""
    folder: Path
    joint_names: tuple[str, ...]
    """Hinge joints with a motor, in the order of the MJCF. Joint i is driven by ctrl i."""
    action_joint_names: tuple[str, ...]
    """Those that a policy commands; the others are held at their default by their own PD."""
    default_joint_pos: np.ndarray
    """(J,) [rad]"""
    stiffness: np.ndarray
    """(J,) [Nm/rad]"""
    damping: np.ndarray
    """(J,) of the PD loop [Nms/rad]"""
    torque_limit: np.ndarray
    """(J,) [Nm]; inf where nothing says."""
    joint_vel_limit: np.ndarray
    """(J,) of the motor [rad/s]; inf where nothing says. Not enforced by the simulation."""
    joint_pos_lower: np.ndarray
    """(J,) [rad]; -inf for a joint without limits"""
    joint_pos_upper: np.ndarray
    """(J,) [rad]; inf for a joint without limits"""
    armature: np.ndarray
    """(J,) rotor inertia seen at the joint [kg m^2]"""
    passive_damping: np.ndarray
    """(J,) viscous friction of the joint itself [Nms/rad]"""
    frictionloss: np.ndarray
    """(J,) dry friction of the joint [Nm]"""
    delay_s: np.ndarray
    """(J,) from target to motor [s]"""
    encoder_bias: np.ndarray
    """(J,) by which joints read more than they are [rad]. Everything here is what encoders say: the
    simulation's joint positions, and bodies by ``forward_kinematics``."""
    action_scale: np.ndarray
    """(J,) [rad] per unit of action"""
    body_names: tuple[str, ...]
    """MuJoCo's bodies without the world; the base first."""
    base_name: str
    has_free_base: bool
    """False for a robot that is bolted down."""
    anchor_name: str
    """The body relative to which tracking is expressed."""
    foot_names: tuple[str, ...]
    """Two for a biped, left first; may be empty."""
    key_body_names: tuple[str, ...]
    """Bodies that a tracking reward compares."""
    link_body_names: tuple[str, ...]
    """Bodies over which metrics average."""
    virtual_points: tuple[VirtualPoint, ...]
    mode_machine: tuple[int, ...]
    """Values of the robot's ``mode_machine`` that this description fits; empty: not checked."""
    physics_dt: float
    """[s]"""
    control_dt: float
    """[s]"""
    integrator: str
    """A key of ``robot_spec.INTEGRATOR``."""
    facts: RobotFacts = dataclasses.field(repr=False)
    """The checked tables of robot.toml."""
    mjcf: Mjcf = dataclasses.field(repr=False)
    """The self-contained MJCF."""
    problems: tuple[str, ...] = ()
    """What was noticed while reading; ``check()`` adds to it."""
    learned: Learned | None = None
    """What a fitted correction adds in every control step; see ``asap.learned``."""

    def __post_init__(self) -> None:
        """Make arrays read-only and check what every user of a robot relies on."""
        for field in JOINT_ARRAYS:
            array = np.array(getattr(self, field), dtype=np.float64)
            if array.shape != (len(self.joint_names),):
                expected = f"({len(self.joint_names)},)"
                raise InputError(f"{field} has shape {array.shape}; expected {expected}")
            array.setflags(write=False)
            object.__setattr__(self, field, array)
        if self.integrator not in INTEGRATOR:
            hint = suggestion(self.integrator, INTEGRATOR)
            raise InputError(f"integrator '{self.integrator}' is unknown{hint}", file=self._file)
        ratio = self.control_dt / self.physics_dt
        if abs(ratio - round(ratio)) > 1e-6 or round(ratio) < 1:
            raise InputError(
                "control_dt must be a whole multiple of physics_dt: got "
                f"{self.control_dt:g} and {self.physics_dt:g}",
                file=self._file,
            )

    @classmethod
    def load(cls, name: str) -> Robot:
        """Load a robot.

        Args:
            name: ``robot``, ``robot:variant``, ``robot@twin`` or ``robot:variant@twin``, where
                robot is a name in ``robots/`` or the path of a folder with a ``robot.toml``.

        Returns:
            The robot.

        Raises:
            InputError: If there is no such robot or its description cannot be used.
        """
        folder, variant, twin = _find(name)
        facts = read_facts(folder, variant=variant, twin=twin)
        mjcf = read_mjcf(folder, facts.get("mjcf", "robot.xml"))
        return cls(name=name, folder=folder, facts=facts, mjcf=mjcf, **robot_fields(facts, mjcf))

    def with_(self, **changes: Any) -> Robot:
        """The robot with other values in some fields, for example ``with_(physics_dt=0.002)``."""
        return dataclasses.replace(self, **changes)

    def for_training(self) -> Robot:
        """The robot with the cheaper shapes of its ``[training]`` table."""
        return self.with_(facts=self.facts.for_training())

    @property
    def decimation(self) -> int:
        """Physics steps per control step."""
        return round(self.control_dt / self.physics_dt)

    @cached_property
    def model(self) -> mujoco.MjModel:
        """The compiled model; shared, so copy it before changing it."""
        return compiled(self.spec(), self.facts)

    @cached_property
    def qpos_ids(self) -> np.ndarray:
        """(J,) places of ``joint_names`` in qpos."""
        return np.array([self.model.joint(n).qposadr[0] for n in self.joint_names])

    @cached_property
    def qvel_ids(self) -> np.ndarray:
        """(J,) places of ``joint_names`` in qvel."""
        return np.array([self.model.joint(n).dofadr[0] for n in self.joint_names])

    @cached_property
    def foot_geom_ids(self) -> tuple[np.ndarray, ...]:
        """For each foot, the ids of its geoms (and of what hangs on it) that can collide."""
        return tuple(
            np.array([p.geom for p in self._soles if p.foot == i], dtype=np.intp)
            for i in range(len(self.foot_names))
        )

    @cached_property
    def body_ids(self) -> np.ndarray:
        """(B,) MuJoCo's ids of ``body_names``."""
        return np.array([self.model.body(name).id for name in self.body_names])

    def joint_ids(self, names: Sequence[str]) -> np.ndarray:
        """Places of joints in ``joint_names``.

        Raises:
            InputError: If the robot has no such joint.
        """
        return self._places(names, self.joint_names, "joint")

    def body_index(self, names: Sequence[str]) -> np.ndarray:
        """Places of bodies in ``body_names``; raises InputError like ``joint_ids``."""
        return self._places(names, self.body_names, "body")

    def spec(self) -> mujoco.MjSpec:
        """A fresh, editable spec: the robot, a floor, a light, a camera and its motors."""
        spec = bare_spec(self.mjcf, self.facts).spec
        spec.option.timestep = self.physics_dt
        spec.option.integrator = INTEGRATOR[self.integrator]
        set_collisions(spec, self.facts, self.foot_names)
        add_scene(spec, self.base_name)
        for place, name in enumerate(self.joint_names):
            numbers = {key: getattr(self, field)[place] for field, key in JOINT_ARRAYS.items()}
            add_motor(spec, name, numbers)
        return spec

    def default_qpos(self) -> np.ndarray:
        """The default pose, with the lower sole on the floor.

        Returns:
            qpos, shape (nq,): base position [m], base attitude wxyz, joint positions [rad].
        """
        qpos = self.model.qpos0.copy()
        qpos[self.qpos_ids] = self.default_joint_pos
        if self.has_free_base and self._soles:
            base_pos_w = np.array([[qpos[0], qpos[1], 0.0]])
            poses = self.forward_kinematics(base_pos_w, qpos[None, 3:7], qpos[None, self.qpos_ids])
            qpos[2] = -self.sole_clearance(*poses).min()
        return qpos

    def qpos(
        self, base_pos_w: np.ndarray, base_quat_wxyz: np.ndarray, joint_pos: np.ndarray
    ) -> np.ndarray:
        """MuJoCo's full position vectors.

        Args:
            base_pos_w: Shape (..., 3) [m]; a robot that is bolted down stays where it is.
            base_quat_wxyz: Shape (..., 4).
            joint_pos: In the order of ``joint_names``, shape (..., J) [rad].

        Returns:
            Shape (..., nq); joints without a motor are where the model has them.
        """
        qpos = np.tile(self.model.qpos0, (*np.shape(joint_pos)[:-1], 1))
        if self.has_free_base:
            qpos[..., 0:3], qpos[..., 3:7] = base_pos_w, base_quat_wxyz
        qpos[..., self.qpos_ids] = joint_pos
        return qpos

    def forward_kinematics(
        self, base_pos_w: np.ndarray, base_quat_wxyz: np.ndarray, joint_pos: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Where the bodies are.

        A call costs 0.5 ms before its first frame and some 7 us a frame: hand over whole clips.

        Args:
            base_pos_w: Position of the base, shape (T, 3) [m].
            base_quat_wxyz: Attitude of the base, shape (T, 4).
            joint_pos: Joint positions in the order of ``joint_names``, shape (T, J) [rad].

        Returns:
            ``body_pos_w`` (T, B, 3) [m] and ``body_quat_wxyz`` (T, B, 4), in the order of
            ``body_names``. A bolted robot is moved as a whole to the base pose given.

        Raises:
            InputError: If the shapes do not fit each other or the robot.
        """
        frames, joints = len(joint_pos), len(self.joint_names)
        got = (np.shape(base_pos_w), np.shape(base_quat_wxyz), np.shape(joint_pos))
        if got != ((frames, 3), (frames, 4), (frames, joints)):
            expected = f"(T, 3), (T, 4), (T, {joints})"
            raise InputError(f"base_pos_w, base_quat_wxyz, joint_pos have shapes {got}; {expected}")
        model, qpos_ids, body_ids = self._kinematics
        qpos = np.tile(model.qpos0, (frames, 1))
        qpos[:, 0:3], qpos[:, 3:7] = base_pos_w, base_quat_wxyz
        qpos[:, qpos_ids] = joint_pos
        data = mujoco.MjData(model)
        pos_w, quat_wxyz = np.empty((frames, model.nbody, 3)), np.empty((frames, model.nbody, 4))
        for frame in range(frames):
            data.qpos[:] = qpos[frame]
            mujoco.mj_kinematics(model, data)
            pos_w[frame], quat_wxyz[frame] = data.xpos, data.xquat
        return pos_w[:, body_ids], quat_wxyz[:, body_ids]

    def sole_clearance(self, body_pos_w: np.ndarray, body_quat_wxyz: np.ndarray) -> np.ndarray:
        """Height of each foot's lowest point above the floor z = 0.

        Args:
            body_pos_w: Shape (T, B, 3) [m], in the order of ``body_names``.
            body_quat_wxyz: Shape (T, B, 4).

        Returns:
            Clearance, shape (T, number of feet) [m]; negative means inside the floor.
        """
        return sole_clearance(self._soles, len(self.foot_names), body_pos_w, body_quat_wxyz)

    def check(self) -> list[str]:
        """What the description lacks or what is odd about it, one sentence each."""
        return robot_check.problems(self)

    @property
    def _file(self) -> Path:
        return self.facts.file

    @cached_property
    def _soles(self) -> tuple[Sole, ...]:
        """The shapes under the feet."""
        return soles(self.model, self.body_names, self.foot_names)

    @cached_property
    def _kinematics(self) -> tuple[mujoco.MjModel, np.ndarray, np.ndarray]:
        """A model of bodies and joints alone, always with a free base, and its addresses."""
        spec = bare_spec(self.mjcf, self.facts).spec
        for element in [*spec.geoms, *spec.sites, *spec.cameras, *spec.lights]:
            spec.delete(element)
        for element in [*spec.meshes, *spec.excludes, *spec.pairs, *spec.equalities, *spec.tendons]:
            spec.delete(element)
        # Masses play no part; without geoms some bodies would have none.
        spec.compiler.boundmass, spec.compiler.boundinertia = 1e-3, 1e-6
        if not self.has_free_base:
            spec.body(self.base_name).add_freejoint()
        model = compiled(spec, self.facts)
        qpos_ids = np.array([model.joint(name).qposadr[0] for name in self.joint_names])
        return model, qpos_ids, np.array([model.body(name).id for name in self.body_names])

    def _places(self, names: Sequence[str], valid: tuple[str, ...], kind: str) -> np.ndarray:
        for name in names:
            if name not in valid:
                hint = suggestion(name, valid)
                raise InputError(f"{kind} '{name}' is not in robot '{self.name}'{hint}")
        return np.array([valid.index(name) for name in names], dtype=np.intp)


def robot_names() -> list[str]:
    """Every robot that comes with the toolkit, with its variants and twins."""
    names = []
    for file in sorted(ROBOTS_FOLDER.glob(f"*/{FILE_NAME}")):
        robot = file.parent.name
        variants = [robot, *(f"{robot}:{variant}" for variant in variant_names(file.parent))]
        names += [*variants, *(f"{v}@{t}" for v in variants for t in twin_names(file.parent))]
    return names


def _find(name: str) -> tuple[Path, str | None, str | None]:
    """Folder, variant and twin that a name stands for."""
    path, twin, variant = name, None, None
    if "@" in path and not _is_robot(Path(path)):
        path, _, twin = path.rpartition("@")
    if ":" in path and not _is_robot(Path(path)):
        path, _, variant = path.rpartition(":")
    known = ROBOTS_FOLDER / path
    if path and "/" not in path and "\\" not in path and _is_robot(known):
        return known, variant, twin
    if path and _is_robot(Path(path)):
        return Path(path), variant, twin
    hint = suggestion(name, robot_names())
    raise InputError(f"robot '{name}' is neither a robot nor a folder with a {FILE_NAME}{hint}")


def _is_robot(folder: Path) -> bool:
    try:
        return (folder / FILE_NAME).is_file()
    except (OSError, ValueError):
        return False
