"""A teacher for any clip: a network that sees the whole robot and is told what comes next.

It is trained once per robot, on many motions. A policy for one clip sees only what a robot measures
and the phase; it copies the teacher before it learns by itself, and so begins with a robot that
stands and steps. All that the teacher sees is relative: the same anywhere in the world.

    teacher = NetworkTeacher.load(Path("robots/g1/teacher.onnx"), robot)
    action = teacher.act(env)                          # (N, A)
    tried(teacher, trial_env(robot, motion, noise=1.0)).finished       # of 64 robots

Source: a privileged teacher and DAgger as in Chen et al. 2020, learning by cheating, and He et al.
2024, OmniH2O; here all that is copied is a beginning.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from asap import onnx_file
from asap.env import EnvConfig, Observation, TrackingEnv
from asap.onnx_file import INPUT, OUTPUT, Layer
from asap.reference_rows import ReferenceRows, joined
from asap.robot import Robot
from asap.starts import StartConfig
from asap.tangent import from_base
from asap_deploy import rotation
from asap_deploy.errors import InputError
from asap_deploy.golden import read_policy_bytes
from asap_deploy.motion import Motion
from asap_deploy.npz import write_file
from asap_deploy.onnx_graph import OnnxGraph
from asap_deploy.policy import open_session

METADATA_KEY = "asap.teacher"
VERSION = 1
AHEAD_S = (0.06, 0.12, 0.24, 0.5)
"""How far the teacher is told what comes [s]."""

TEST_ROBOTS = 64
_LIMIT = 50.0


class Guide:
    """What a teacher is told, for every frame of a motion."""

    def __init__(self, rows: ReferenceRows, feet: Sequence[int], control_dt: float) -> None:
        """Lay out pose, speed and what comes.

        Args:
            rows: The motion.
            feet: Which of the tracked points are feet.
            control_dt: Time between frames [s].
        """
        table, frames, self.feet = rows.table, np.arange(len(rows)), list(feet)
        quat, base = table.base_quat_wxyz, table.base_pos_w
        back = rotation.conjugate(rotation.heading(quat))
        self.joint_pos, self.joint_vel = table.joint_pos, table.joint_vel
        self.gravity, self.height = rotation.projected_gravity(quat), base[:, 2]
        self.base_pos_w, self.heading = base, rotation.heading(quat)
        self.feet_h = from_base(table.points_w[:, self.feet], base, quat)
        """(F, 2, 3) feet as seen from the base, in its heading [m]"""
        columns = [
            self.joint_pos, 0.05 * self.joint_vel, self.gravity, base[:, 2:],
            2.0 * rotation.rotate(back, table.base_lin_vel_w), 0.25 * table.base_ang_vel_b,
            3.0 * self.feet_h.reshape(len(rows), -1),
        ]  # fmt: skip
        for ahead_s in AHEAD_S:
            then = np.minimum(frames + round(ahead_s / control_dt), rows.last)
            turn = rotation.multiply(back, rotation.heading(quat[then]))
            columns += [
                self.joint_pos[then] - self.joint_pos,
                5.0 * rotation.rotate(back, base[then] - base),
                self.gravity[then], 2.0 * turn[:, 3:], 5.0 * table.points_w[then][:, self.feet, 2],
            ]  # fmt: skip
        self.table = np.concatenate(columns, axis=1, dtype=np.float32, casting="unsafe")
        """(F, G)"""


def teacher_observation(env: TrackingEnv, guide: Guide) -> np.ndarray:
    """(N, D) float32: the robot, how it differs from the motion, and what the motion does next."""
    sim, frame, rows = env.sim, env.frame, env.num_envs
    measured = sim.measure()
    quat, base = measured.base_quat_wxyz, sim.base_pos_w
    back = rotation.conjugate(rotation.heading(quat))
    gravity, feet_w = rotation.projected_gravity(quat), env.points_w[:, guide.feet]
    columns: list[Any] = [
        env.runtime.last_action,
        0.25 * measured.base_ang_vel_b, 2.0 * rotation.rotate(back, sim.base_lin_vel_w),
        gravity, gravity - guide.gravity[frame], 5.0 * (base[:, 2] - guide.height[frame])[:, None],
        measured.joint_pos - guide.joint_pos[frame],
        0.05 * measured.joint_vel, 0.05 * (measured.joint_vel - guide.joint_vel[frame]),
        3.0 * (from_base(feet_w, base, quat) - guide.feet_h[frame]).reshape(rows, -1),
        5.0 * feet_w[..., 2], 0.003 * sim.foot_contact_force, guide.table[frame],
        5.0 * rotation.rotate(back, guide.base_pos_w[frame] - base)[:, :2],
        2.0 * _half_turn(rotation.multiply(back, guide.heading[frame])),
    ]  # fmt: skip
    seen = np.concatenate(columns, axis=1, dtype=np.float32, casting="unsafe")
    return np.clip(seen, -_LIMIT, _LIMIT)


def observed_names(joints: Sequence[str], commanded: Sequence[str]) -> list[str]:
    """What every column of ``teacher_observation`` is, joint by joint: (D,) names."""

    def each(what: str, of: Sequence[Any]) -> list[str]:
        return [f"{what} {one}" for one in of]

    seen = each("action", commanded)
    for what, count in (("ang_vel", 3), ("lin_vel", 3), ("gravity", 3), ("leans", 3), ("sinks", 1)):
        seen += each(what, range(count))
    for what in ("joint_pos off", "joint_vel", "joint_vel off"):
        seen += each(what, joints)
    for what, count in (("feet off", 6), ("feet rise", 2), ("feet push", 2)):
        seen += each(what, range(count))
    seen += each("then joint_pos", joints) + each("then joint_vel", joints)
    for what, count in (("gravity", 3), ("height", 1), ("lin_vel", 3), ("ang_vel", 3), ("feet", 6)):
        seen += each(f"then {what}", range(count))
    for ahead_s in AHEAD_S:
        when = f"in {ahead_s} s"
        seen += each(f"{when} joint_pos", joints)
        for what, count in (("base", 3), ("gravity", 3), ("turn", 1), ("feet rise", 2)):
            seen += each(f"{when} {what}", range(count))
    return seen + each("away", range(2)) + ["turned"]


def _half_turn(quat: np.ndarray) -> np.ndarray:
    """Sine of half the angle about the vertical (N, 1), the shorter way round."""
    return quat[:, 3:] * np.where(quat[:, :1] < 0.0, -1.0, 1.0)


class TeachingEnv(TrackingEnv):
    """N robots on many clips: what acts is told the motion, what judges sees the world as well."""

    def __init__(
        self, robot: Robot, motions: Sequence[Motion], config: EnvConfig, num_envs: int,
        rng: np.random.Generator, *, threads: int = 0,
    ) -> None:  # fmt: skip
        """Make the simulations.

        Args:
            robot: As it is trained.
            motions: Clips, each with every joint and body of the robot.
            config: Rewards, starts and ends; sensor noise is not for teachers.
            num_envs: Robots N.
            rng: Of everything random.
            threads: Of the simulation.
        """
        motion, firsts = joined(motions, robot)
        super().__init__(robot, motion, config, num_envs, rng, threads=threads,
                         motion_name=motion.source, firsts=firsts)  # fmt: skip
        self.guide = Guide(self.reference, self.point_sets.feet, robot.control_dt)

    def _observe(self) -> Observation:
        critic = self._critic(self.sim.measure()), self.guide.table[self.frame]
        return {"actor": teacher_observation(self, self.guide), "critic": np.hstack(critic)}


@dataclass(frozen=True, kw_only=True)
class TeacherFacts:
    """What the numbers of a teacher's network mean."""

    robot: str
    joint_names: tuple[str, ...]
    action_joint_names: tuple[str, ...]
    action_scale: tuple[float, ...]
    control_dt: float
    offset_mode: str = "reference"
    ahead_s: tuple[float, ...] = AHEAD_S
    provenance: str = ""
    version: int = VERSION

    @classmethod
    def of(cls, env: TrackingEnv, provenance: str = "") -> TeacherFacts:
        """What the numbers mean in an environment."""
        contract = env.contract
        return cls(
            robot=env.robot.name.partition("@")[0], joint_names=env.robot.joint_names,
            action_joint_names=contract.action_joint_names, action_scale=contract.action_scale,
            control_dt=env.robot.control_dt, offset_mode=contract.offset_mode,
            provenance=provenance,
        )  # fmt: skip

    def differs(self, env: TrackingEnv) -> str:
        """The first thing in which an environment is not the one that was trained in; or ''."""
        ours = dataclasses.asdict(TeacherFacts.of(env))
        theirs = dataclasses.asdict(self)
        told = ("robot", "provenance") + ("offset_mode",) * (self.offset_mode == "reference")
        return next((name for name in ours if name not in told and ours[name] != theirs[name]), "")


class NetworkTeacher:
    """A trained teacher, ready for an environment."""

    def __init__(self, facts: TeacherFacts, data: bytes) -> None:
        """Open the network.

        Raises:
            InputError: If it is not what the facts say.
        """
        self.facts, self.data = facts, data
        graph = OnnxGraph.parse(data)
        outputs = graph.outputs.get(OUTPUT)
        if outputs != ("N", len(facts.action_joint_names)) or INPUT not in graph.inputs:
            raise InputError(f"a teacher of {len(facts.action_joint_names)} joints gives {outputs}")
        self._width = graph.inputs[INPUT][1]
        self._session = open_session(data)
        self._guides: dict[int, Guide] = {}

    def act(self, env: TrackingEnv) -> np.ndarray:
        """Actions (N, A) for robots as they are now.

        Raises:
            InputError: If the environment is not of the kind that the teacher was trained in.
        """
        guide = self._guides.get(id(env.reference))
        if guide is None:
            self._check(env)
            guide = Guide(env.reference, env.point_sets.feet, env.robot.control_dt)
            self._guides = {id(env.reference): guide}
        seen = teacher_observation(env, guide)
        if seen.shape[1] != self._width:
            raise InputError(f"the teacher takes {self._width} numbers, here are {seen.shape[1]}")
        # A pupil's actions may start from the default pose, a teacher's start from the motion.
        was = np.where(env.episode_steps[:, None] > 0, env.motion_action(ahead=0), 0.0)
        seen[:, : was.shape[1]] -= was.astype(np.float32)
        return np.asarray(self._session.run([OUTPUT], {INPUT: seen})[0]) + env.motion_action()

    def _check(self, env: TrackingEnv) -> None:
        name = self.facts.differs(env)
        if name:
            raise InputError(
                f"the teacher is of robot '{self.facts.robot}'; its {name} is not that of this "
                f"training ('{env.robot.name}'): train one with `asap teach`, or leave it out with "
                "--train.imitate.teacher regulator"
            )

    @classmethod
    def load(cls, path: Path) -> NetworkTeacher:
        """Read a file.

        Raises:
            InputError: If it is no teacher of a known version, or makes no sense.
        """
        try:
            data = read_policy_bytes(path)
            text = OnnxGraph.parse(data).metadata.get(METADATA_KEY)
            if text is None:
                raise InputError("this ONNX file is no teacher of ours; `asap teach` makes one")
            return cls(_read_facts(text), data)
        except InputError as error:
            text = str(error)
            raise InputError(text, file=None if str(path) in text else path) from None


def _read_facts(text: str) -> TeacherFacts:
    """The contract of a file."""
    try:
        raw: dict[str, Any] = json.loads(text)
        if raw.get("version") != VERSION:
            raise InputError(f"teacher of version {raw.get('version')}; expected {VERSION}")
        lists = ("joint_names", "action_joint_names", "action_scale", "ahead_s")
        return TeacherFacts(**(raw | {name: tuple(raw[name]) for name in lists}))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"the contract of this teacher is broken: {error}") from None


def make_teacher(
    facts: TeacherFacts, layers: Sequence[Layer], mean: np.ndarray, std: np.ndarray, limit: float
) -> NetworkTeacher:
    """A teacher from the layers of an actor and its normalisation (D,)."""
    model = onnx_file.network(layers, mean=mean, std=std, limit=limit)
    text = json.dumps(dataclasses.asdict(facts))
    return NetworkTeacher(facts, onnx_file.with_metadata(model, {METADATA_KEY: text}))


def save_teacher(teacher: NetworkTeacher, path: Path) -> None:
    """Write the file at once or not at all."""
    write_file(path, teacher.data)


def trial_env(
    robot: Robot, motion: Motion, *, noise: float, num_envs: int = TEST_ROBOTS, threads: int = 0,
) -> TrackingEnv:  # fmt: skip
    """Robots at the first frame of a clip, with the original's start noise and nothing else."""
    config = EnvConfig(
        start=StartConfig(noise=(noise, noise), at_first=1.0, again=0.0), push_speed=0.0, hold_s=0.0
    )
    return TrackingEnv(
        robot, motion, config, num_envs, np.random.default_rng(0), threads=threads
    )  # fmt: skip


class Trial(NamedTuple):
    """How well a teacher does on a clip."""

    finished: float
    """Part of the robots that stayed with the clip from the first frame to the last"""
    reach: float
    """Part of the clip that a robot came through, on average"""


def tried(teacher: NetworkTeacher, env: TrackingEnv) -> Trial:
    """Let a teacher drive the robots of an environment of ``trial_env`` through the clip once."""
    env.reset()
    alive, came = np.ones(env.num_envs, dtype=bool), np.zeros(env.num_envs)
    for step in range(1, env.last_frame):
        env.step(teacher.act(env))
        alive &= env.episode_steps == step  # the others began anew
        came += alive
    return Trial(float(alive.mean()), float(came.mean()) / max(1, env.last_frame - 1))
