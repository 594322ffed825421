"""Motion tracking as N environments that step together.

The observation is built and the action applied by ``asap_deploy.Runtime``, the code that drives the
robot. An episode starts anywhere in the clip and ends, for good, with the clip: the critic sees
the phase, so nothing is bootstrapped from a state that it never trains on.

    env = TrackingEnv(robot, motion, EnvConfig(), num_envs=512, rng=rng)
    observation = env.reset()
    observation, reward, terminated, facts = env.step(action)
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch

from asap.curriculum import Curriculum, CurriculumConfig
from asap.export import make_clip_table, make_contract
from asap.metrics import TrackedPoints
from asap.randomize import RandomizeConfig, Randomizer
from asap.reference_rows import ReferenceRows
from asap.rewards import (
    Context,
    Effort,
    RewardConfig,
    TrackingState,
    point_sets,
    soft_limits,
    total_reward,
)
from asap.robot import Robot
from asap.sensor_noise import SensorNoise, noisy
from asap.sim import CpuSimulation
from asap.starts import StartConfig, StartSampler
from asap.tangent import from_base, turn_rate
from asap.tracking import drawn_kicks
from asap.twin import make_simulation
from asap_deploy import rotation
from asap_deploy.contract import PolicyContract
from asap_deploy.motion import Motion
from asap_deploy.observation import LAYOUTS, Measurement
from asap_deploy.policy import ClipTable
from asap_deploy.runtime import Runtime

Observation = dict[str, np.ndarray]
"""``actor`` (N, D) and ``critic`` (N, C), float32."""

FAST_JOINT = 60.0
"""A joint above this is a simulation about to blow up; the episode fails [rad/s]."""

CRITIC_LIMIT = 50.0
SETTLED_S = 0.5
"""So long after a noisy start a robot's shape may be off [s]."""


@dataclass(frozen=True, kw_only=True)
class EnvConfig:
    """What an environment trains."""

    layout: str = "proprioception"
    """Observation layout of the actor; ``asap`` is the original's, with a history."""
    offset_mode: str = "reference"
    """What the action is added to: ``reference`` (the clip) or ``default`` (the default pose)."""
    reward: RewardConfig = field(default_factory=RewardConfig.cpu)
    """Terms with weights and widths."""
    start: StartConfig = field(default_factory=StartConfig)
    """Where episodes begin, and with how much noise."""
    curriculum: CurriculumConfig = field(default_factory=CurriculumConfig)
    """How far any point may be from the motion, how much costs count, and how both change."""
    fail_tilt: float = 0.8
    """Or when gravity's x or y in the base frame exceeds this."""
    fail_shape_m: tuple[float, float] | None = None
    """Or when, half a second after its start, a foot as seen from the base is farther off than the
    first, or the base's height than the second: a robot may prefer to stand through a step."""
    hold_s: float = 1.5
    """How long an episode goes on in the last frame of a single clip [s]: a robot has to stand
    after its motion. Phase and targets are those of the end, as on the robot."""
    sensor_noise: SensorNoise = field(default_factory=SensorNoise)
    """What the actor's sensors add."""
    noise_scale: float = 0.25
    """Multiple of the sensor noise; 1 is the paper's."""
    target_noise: float = 0.0
    """Uniform noise on the PD targets, +- this, drawn every control step [rad]."""
    push_speed: float = 0.5
    """Kick of the base in a random horizontal direction [m/s]."""
    push_interval_s: float = 3.0
    """Mean time between kicks [s]."""
    randomize: RandomizeConfig = field(default_factory=RandomizeConfig)
    """How much the robots differ from the model, anew in every episode."""
    soft_limit: float = 0.95
    """Part of the joints' ranges, speeds and torques beyond which costs begin."""


class Transition(NamedTuple):
    """What one step of all environments gave."""

    observation: Observation
    reward: np.ndarray
    """(N,) float32"""
    terminated: np.ndarray
    """(N,) bool: failed, or the clip is over; the observation is that of the next episode"""
    facts: dict[str, float]
    """Means over environments, for the curves."""


class _Network(NamedTuple):
    """What ``Runtime`` needs of a policy that is still being trained."""

    contract: PolicyContract
    clip: ClipTable

    def act(self, observation: np.ndarray) -> np.ndarray:
        """Training acts itself."""
        raise AssertionError("training samples its own actions")


class TrackingEnv:
    """N robots that track one motion."""

    def __init__(
        self,
        robot: Robot,
        motion: Motion,
        config: EnvConfig,
        num_envs: int,
        rng: np.random.Generator,
        *,
        motion_name: str = "",
        threads: int = 0,
        contract: PolicyContract | None = None,
        firsts: Sequence[int] = (0,),
    ) -> None:
        """Make the simulations; ``reset`` starts them.

        Training on from a policy hands in its contract; by default it is one for this robot.
        ``firsts``: frames at which clips begin that lie end to end in the motion.
        """
        self.robot, self.config, self.num_envs, self.rng = robot, config, num_envs, rng
        hold_s = config.hold_s if len(firsts) == 1 else 0.0
        delay_s = config.randomize.max_delay_s
        sim = make_simulation(robot, num_envs, threads=threads, max_delay_s=delay_s)
        assert isinstance(sim, CpuSimulation), "training runs in MuJoCo"
        self.sim = sim
        self.randomizer = Randomizer(self.sim, config.randomize, rng)
        self.contract = contract or make_contract(
            robot, LAYOUTS[config.layout], motion, motion_name=motion_name,
            offset_mode=config.offset_mode,
        )  # fmt: skip
        network = _Network(self.contract, make_clip_table(self.contract, robot, motion))
        self.runtime = Runtime(network, robot.joint_names, num_envs)
        self._commanded = robot.joint_ids(self.contract.action_joint_names)
        self._action_scale = np.array(self.contract.action_scale)
        self._points = TrackedPoints(robot)
        self.point_sets = point_sets(robot, self._points)
        """Which of the tracked points are feet, and so on."""
        self.reference = ReferenceRows(motion, robot, self._points, firsts, hold_s=hold_s)
        """The clip, one row a control step."""
        self._limits = soft_limits(robot, config.soft_limit)
        self.starts = StartSampler(config.start, self.reference, robot, num_envs, rng)
        self.frame = np.zeros(num_envs, dtype=np.intp)
        """(N,) frame of the clip that each environment is in."""
        self.episode_steps = np.zeros(num_envs, dtype=np.intp)
        """(N,) control steps since the episode began."""
        self.curriculum = Curriculum(config.curriculum)
        self.points_w = np.zeros((num_envs, len(self._points.names), 3))
        """(N, P, 3) tracked points of the robots [m]"""
        self._links_quat = np.zeros((num_envs, len(self._points.names), 4))
        # Attitudes of 27 links cost as much as all other terms: only where a term reads them.
        turning = ("body_rot", "body_ang_vel", "feet_tilt", "feet_heading")
        self._turns = any(getattr(config.reward, name).weight != 0.0 for name in turning)

    @property
    def last_frame(self) -> int:
        """Control steps of the motion, without what is held."""
        return self.reference.clip_end

    @property
    def time_s(self) -> np.ndarray:
        """(N,) time in the clip [s]; it stands still where the last frame is held."""
        return np.minimum(self.frame, self.reference.clip_end) * self.robot.control_dt

    def reset(self) -> Observation:
        """Start all environments anew."""
        self._start(np.arange(self.num_envs))
        return self._observe()

    def step(self, action: np.ndarray) -> Transition:
        """One control step of all environments.

        Args:
            action: (N, A) output of the network.
        """
        last_action = self.runtime.last_action
        command = self.runtime.act(action, self.time_s)
        self._push()
        self.sim.step(self._shaken(command.joint_pos_target))
        self.frame += 1
        state, reference = self._state(), self._reference()
        effort = Effort(
            command.action, last_action, self.sim.joint_torque, self.sim.foot_contact_force
        )
        context = Context(state, reference, effort, self.point_sets, self._limits)
        reward, facts = total_reward(
            context, self.config.reward, control_dt=self.robot.control_dt,
            cost_scale=self.curriculum.cost_scale,
        )  # fmt: skip
        distance = np.linalg.norm(state.points_w - reference.points_w, axis=-1)
        failed = self._failed(state, distance) | command.refused
        # A robot that blew up stands in its default pose: its errors mean nothing.
        reward = np.where(self.sim.failed, 0.0, reward)
        reward[failed] += self.config.reward.termination
        ended = self.frame >= self.reference.last[self.frame]
        terminated = failed | ended
        facts |= {
            "failed": float(failed.mean()),
            "finished": float((ended & ~failed).mean()),
            "distance_mm": 1000.0 * float(distance.mean()),
            "reward": float(reward.mean()),
            "blown_up": float(self.sim.failed.sum()),
        }
        self.episode_steps += 1
        if terminated.any():
            self.curriculum.update(self.episode_steps[terminated])
            self.starts.learn(np.flatnonzero(failed & ~self.sim.failed))
            self._start(np.flatnonzero(terminated))
        return Transition(self._observe(), reward.astype(np.float32), terminated, facts)

    def action_of(self, joint_pos_target: np.ndarray) -> np.ndarray:
        """The action (N, A) that commands these PD targets (N, J) in the coming step."""
        offset = self.runtime.offset(self.time_s)
        return (joint_pos_target - offset)[:, self._commanded] / self._action_scale

    def motion_action(self, ahead: int = 1) -> np.ndarray:
        """The action (N, A) that commands the motion's own pose so many control steps from now."""
        if self.contract.offset_mode == "reference":
            return np.zeros((self.num_envs, len(self._commanded)))
        frame = np.minimum(self.frame + ahead, self.last_frame)
        return self.action_of(self.reference.table.joint_pos[frame])

    def snapshot(self) -> dict[str, Any]:
        """Everything that the next step depends on, as tensors and texts."""
        arrays = {
            "frame": self.frame,
            "episode_steps": self.episode_steps,
            "points_w": self.points_w,
            "links_quat": self._links_quat,
            **{f"sim.{name}": array for name, array in self.sim.snapshot().items()},
            **{f"runtime.{name}": array for name, array in self.runtime.snapshot().items()},
            **{f"starts.{name}": array for name, array in self.starts.snapshot().items()},
            **{f"randomize.{name}": array for name, array in self.randomizer.snapshot().items()},
        }
        tensors = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
        rng = json.dumps(self.rng.bit_generator.state)
        return {"arrays": tensors, "rng": rng, "curriculum": self.curriculum.snapshot()}

    def restore(self, state: dict[str, Any]) -> None:
        """Undo what happened since the snapshot."""
        arrays = {name: tensor.numpy() for name, tensor in state["arrays"].items()}
        self.frame, self.episode_steps = arrays.pop("frame"), arrays.pop("episode_steps")
        self.points_w = arrays.pop("points_w")
        self._links_quat = arrays.pop("links_quat")
        for prefix, part in (
            ("sim.", self.sim), ("runtime.", self.runtime), ("starts.", self.starts),
            ("randomize.", self.randomizer),
        ):  # fmt: skip
            own = {k[len(prefix) :]: v for k, v in arrays.items() if k.startswith(prefix)}
            part.restore(own)
        self.rng.bit_generator.state = json.loads(state["rng"])
        self.curriculum.restore(state["curriculum"])

    def _start(self, env_ids: np.ndarray) -> None:
        """Begin episodes."""
        start = self.starts.draw(env_ids)
        self.frame[env_ids] = start.frame
        self.episode_steps[env_ids] = 0
        self.randomizer.draw(env_ids)
        self.sim.reset(env_ids, start.qpos, start.qvel)
        self.runtime.reset(env_ids)
        pos, quat = self.sim.body_pos_w[env_ids], self.sim.body_quat_wxyz[env_ids]
        self.points_w[env_ids] = self._points.positions(pos, quat)
        if self._turns:
            self._links_quat[env_ids] = self._points.attitudes(quat)

    def _failed(self, state: TrackingState, distance: np.ndarray) -> np.ndarray:
        """(N,) episodes that cannot go on."""
        gravity = rotation.projected_gravity(state.base_quat_wxyz)
        tilted = (np.abs(gravity[:, :2]) > self.config.fail_tilt).any(axis=-1)
        far = (distance > self.curriculum.fail_distance_m).any(axis=-1)
        fast = (np.abs(state.joint_vel) > FAST_JOINT).any(axis=-1)
        failed = tilted | far | fast | self.sim.failed
        shape = self.config.fail_shape_m
        return failed if shape is None else failed | self._misshapen(state, shape)

    def _misshapen(self, state: TrackingState, limits: tuple[float, float]) -> np.ndarray:
        """(N,) robots that do something else than the motion, upright as they may be."""
        wanted, feet = self._reference(), list(self.point_sets.feet)
        seen, meant = (from_base(one.points_w[:, feet], one.base_pos_w, one.base_quat_wxyz)
                       for one in (state, wanted))  # fmt: skip
        foot = np.linalg.norm(seen - meant, axis=-1).max(axis=-1)
        rise = np.abs(state.base_pos_w[:, 2] - wanted.base_pos_w[:, 2])
        wrong = (foot > limits[0]) | (rise > limits[1])
        return wrong & (self.episode_steps * self.robot.control_dt > SETTLED_S)

    def _shaken(self, joint_pos_target: np.ndarray) -> np.ndarray:
        """Targets with the noise that is configured."""
        size = self.config.target_noise
        noise = self.rng.uniform(-size, size, joint_pos_target.shape) if size else 0.0
        return joint_pos_target + noise

    def _push(self) -> None:
        """Kick some robots, as often as configured."""
        config = self.config
        if config.push_speed == 0.0:
            return
        chosen = self.rng.random(self.num_envs) < self.robot.control_dt / config.push_interval_s
        kicks = drawn_kicks(self.rng, self.num_envs, config.push_speed)
        env_ids = np.flatnonzero(chosen)
        self.sim.push(env_ids, kicks[env_ids])

    def _state(self) -> TrackingState:
        """The robots; velocities of points are those of the last control step."""
        dt, before, quat_before = self.robot.control_dt, self.points_w, self._links_quat
        body_quat = self.sim.body_quat_wxyz
        self.points_w = self._points.positions(self.sim.body_pos_w, body_quat)
        ang_vel = np.broadcast_to(0.0, before.shape)
        if self._turns:
            self._links_quat = self._points.attitudes(body_quat)
            ang_vel = turn_rate(quat_before, self._links_quat, dt)
        return TrackingState(
            base_pos_w=self.sim.base_pos_w,
            base_quat_wxyz=self.sim.base_quat_wxyz,
            base_lin_vel_w=self.sim.base_lin_vel_w,
            base_ang_vel_b=self.sim.base_ang_vel_b,
            joint_pos=self.sim.joint_pos,
            joint_vel=self.sim.joint_vel,
            points_w=self.points_w,
            points_lin_vel_w=(self.points_w - before) / dt,
            link_quat_wxyz=self._links_quat,
            link_ang_vel_w=ang_vel,
        )

    def _reference(self) -> TrackingState:
        """The motion at the frames of the environments."""
        return TrackingState(*(array[self.frame] for array in self.reference.table))

    def _observe(self) -> Observation:
        """Actor: what a robot measures, with noise. Critic: everything, without."""
        measured = self.sim.measure()
        seen = noisy(measured, self.config.sensor_noise, self.config.noise_scale, self.rng)
        actor = self.runtime.observe(seen, self.time_s)
        return {"actor": actor, "critic": self._critic(measured)}

    def _critic(self, measured: Measurement) -> np.ndarray:
        """(N, C): the robot, where it is, and where the motion is, seen along its heading."""
        sim, table, frame = self.sim, self.reference.table, self.frame
        points_w = table.points_w[frame]
        back = rotation.conjugate(rotation.heading(measured.base_quat_wxyz))[:, None]
        away = rotation.rotate(back, points_w - self.points_w)
        shape = rotation.rotate(back, points_w - sim.base_pos_w[:, None])
        rows = self.num_envs
        columns: list[Any] = [
            self.runtime.last_action,
            measured.base_ang_vel_b * 0.25,
            rotation.rotate_inverse(measured.base_quat_wxyz, sim.base_lin_vel_w) * 2.0,
            rotation.projected_gravity(measured.base_quat_wxyz),
            sim.base_pos_w[:, 2:],
            measured.joint_pos - table.joint_pos[frame],
            (measured.joint_vel - table.joint_vel[frame]) * 0.05,
            away.reshape(rows, -1) * 5.0,
            shape.reshape(rows, -1),
            sim.foot_contact_force * 0.003,
            self.reference.phase[frame, None],
        ]
        everything = np.concatenate(columns, axis=-1, dtype=np.float32, casting="unsafe")
        return np.clip(everything, -CRITIC_LIMIT, CRITIC_LIMIT)
