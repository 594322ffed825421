"""Replay of logs as N environments: what is learned is how much to add to each logged target.

An episode begins in a row of a log, in the state as logged, velocities and targets under way
included, and lasts one second. Each step the logged target plus an offset in radians goes to the
simulator; the reward compares with the row that is then reached. The actor sees what a robot
measures and the target about to be applied; forces of the simulator are nowhere.

    env = DeltaEnv(pieces, robot, DeltaEnvConfig(), 512, rng, places=np.ones(29, dtype=bool))
    observation = env.reset()
    observation, reward, terminated, facts = env.step(action)        # (N, A), 0 adds nothing

Source: He et al. 2025, table II, without what its released code does otherwise: one scale for
offsets, the target of this step, the frame that is reached, logged velocities, no noise.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from asap import learned as learning
from asap.env import Observation, Transition
from asap.log_windows import PAST, Stretch, Windows
from asap.metrics import TrackedPoints
from asap.rewards import (
    TRACKING,
    Context,
    Effort,
    RewardConfig,
    Term,
    TrackingState,
    point_sets,
    soft_limits,
    total_reward,
)
from asap.sim import CpuSimulation
from asap.tangent import turn_rate
from asap.twin import make_simulation
from asap_deploy import rotation
from asap_deploy.errors import InputError
from asap_deploy.observation import Measurement

UNIT = 0.25
"""Costs count offsets in the paper's unit of action [rad]."""
_LARGEST_NORM = 2.5
"""exp(norm) grows no further from here on: the noise of many joints would drown every reward."""
_CRITIC_LIMIT = 50.0
_USUAL_SCALE, _RESCALED = 0.1, (0.05, 1.0)
"""Offset per unit of action [rad], and how much of it may be left where little is wrong."""
_NOISE = 0.1
"""Squared errors that exploration's noise makes, as a share of those of the model."""


def replay_rewards() -> RewardConfig:
    """Weights of the replay reward. Source: He et al. 2025, table II; widths as in its table I.

    The cost of the offset itself is ``DeltaEnvConfig.offset_cost``. Nothing ends early, so there is
    no termination.
    """
    paper = RewardConfig.paper()
    return RewardConfig(
        upper_body_pos=paper.upper_body_pos,
        lower_body_pos=paper.lower_body_pos,
        extremity_pos=Term(weight=1.0, width=paper.extremity_pos.width),
        feet_pos=Term(weight=1.0, width=paper.feet_pos.width),
        body_rot=paper.body_rot,
        body_ang_vel=paper.body_ang_vel,
        body_lin_vel=paper.body_lin_vel,
        joint_pos=Term(weight=0.5, width=1.0),
        joint_vel=paper.joint_vel,
        action_rate=Term(weight=-0.01),
        joint_pos_limit=Term(weight=-10.0),
        joint_vel_limit=Term(weight=-5.0),
        torque_limit=Term(weight=-0.1),
    )


@dataclass(frozen=True, kw_only=True)
class DeltaEnvConfig:
    """What is rewarded, and how large an offset may be."""

    episode_s: float = 1.0
    """Length of an episode [s]."""
    scale: float | None = None
    """Offset per unit of action [rad], the only scale there is. By default 0.1 or less, so that
    exploration's noise moves bodies a third as far as the model is wrong: on a robot that is 4 mm
    off, noise of 0.1 drowns what there is to learn."""
    bound: float = 0.3
    """No offset is larger [rad]."""
    reward: RewardConfig = field(default_factory=replay_rewards)
    """Weights and widths."""
    widths: Literal["paper", "gap"] = "gap"
    """paper: those of ``reward``. gap: every term falls to about a third where the model alone is
    off as far as it usually is. The paper's are 0.3 m and 1 rad: a robot that is 3 cm and 2
    degrees off already gets 99 % of them, so joints hardly count."""
    offset_cost: float = -0.1
    """Weight of exp(|offset| / 0.25 rad) - 1. The paper prints exp(-|offset|) - 1, which a negative
    weight turns into a reward of large offsets; this is what its code's notes say."""
    soft_limit: float = 0.95
    """Part of joints' ranges, speeds and torques beyond which costs begin."""

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        if min(self.episode_s, self.bound, 1.0 if self.scale is None else self.scale) <= 0.0:
            raise InputError("episodes, scale and bound of an offset must be above 0")


class Offsets(NamedTuple):
    """What an action means: an offset of each of these joints' targets."""

    action_joint_names: tuple[str, ...]


class Normal(NamedTuple):
    """Inputs as the logs have them, and how far from that a network is believed."""

    mean: np.ndarray
    """(D,)"""
    std: np.ndarray
    """(D,)"""
    trusted: float
    lost: float

    @classmethod
    def of(cls, rows: np.ndarray) -> Normal:
        """From inputs (T, D) of the logs."""
        mean, std = rows.mean(axis=0), rows.std(axis=0) + 1e-3
        return cls(mean, std, *learning.trust_radius(rows, mean, std))

    def trust(self, rows: np.ndarray) -> np.ndarray:
        """(N,) 1 near the logs, 0 far from them; the same as in the graph of a ``Learned``."""
        distance = np.square((rows - self.mean) / self.std).mean(axis=-1)
        share = (self.lost - distance) / (self.lost - self.trusted)
        return np.asarray(np.clip(share, 0.0, 1.0))


def logged_inputs(windows: Windows) -> np.ndarray:
    """(T, D) inputs of a network in every row of the logs of a robot with a free base."""
    qpos, qvel, robot = windows.qpos, windows.qvel, windows.stretches[0].track.robot
    measured = Measurement(windows.joint_pos, qvel[:, robot.qvel_ids], qpos[:, 3:7], qvel[:, 3:6])
    return learning.inputs(measured, windows.target).astype(float)


class DeltaEnv:
    """N replays of logs, each with its own offset."""

    def __init__(
        self,
        stretches: Sequence[Stretch],
        config: DeltaEnvConfig,
        num_envs: int,
        rng: np.random.Generator,
        *,
        places: np.ndarray,
        threads: int = 0,
    ) -> None:
        """Make the simulations; ``reset`` starts them.

        Args:
            stretches: What is replayed; the robot is theirs.
            config: What is rewarded.
            num_envs: How many, N.
            rng: Draws rows to start from.
            places: (J,) joints that get an offset, A of them.
            threads: Of the simulator; 0: all cores.

        Raises:
            InputError: If no stretch is as long as an episode, or the robot is bolted down.
        """
        robot = stretches[0].track.robot
        if not robot.has_free_base:
            raise InputError(
                f"robot '{robot.name}' is bolted down: --method delta-ppo rewards bodies for being "
                "where a free base carries them; use --method delta"
            )
        self.robot, self.config, self.num_envs, self.rng = robot, config, num_envs, rng
        self.contract = Offsets(tuple(np.array(robot.joint_names)[places].tolist()))
        self.places = np.flatnonzero(places)
        self.windows = Windows(stretches, horizons_s=(config.episode_s,), every_s=robot.control_dt,
                               late_s=float(robot.delay_s.max()))  # fmt: skip
        sim = make_simulation(robot, num_envs, threads=threads)
        assert isinstance(sim, CpuSimulation), "a correction is fitted to MuJoCo"
        self.sim = sim
        self.base_known = all(s.track.base_known for s in stretches)
        self.normal = Normal.of(logged_inputs(self.windows))
        self._points = TrackedPoints(robot)
        self._sets = point_sets(robot, self._points)
        self._limits = soft_limits(robot, config.soft_limit)
        self.reference = self._reference_table()
        """The logs as the reward sees them, row by row."""
        self.scale = config.scale or _USUAL_SCALE
        """Offset per unit of action [rad]."""
        self.reward = config.reward
        """Weights and widths that count."""
        self.window = np.zeros(num_envs, dtype=np.intp)
        """(N,) window of the logs that each environment replays."""
        self.elapsed = np.zeros(num_envs, dtype=np.intp)
        """(N,) control steps since it began."""
        self.length = np.full(num_envs, self.windows.steps)
        """(N,) control steps of this episode."""
        self._offset = np.zeros((num_envs, len(self.places)))
        self._points_w = np.zeros((num_envs, len(self._points.names), 3))
        self._links_quat = np.zeros((num_envs, len(self._points.names), 4))
        self._inputs = np.zeros((num_envs, 3 * len(robot.joint_names) + 6), dtype=np.float32)

    def reset(self) -> Observation:
        """Start all environments anew; first episodes have any length, so ends are spread."""
        everyone = np.arange(self.num_envs)
        self.start(everyone, self._drawn(self.num_envs))
        self.length = self.rng.integers(1, self.windows.steps + 1, self.num_envs)
        return self._observe()

    def start(self, env_ids: np.ndarray, window: np.ndarray) -> None:
        """Put environments (n,) into the first states of windows (n,) of the logs."""
        windows = self.windows
        self.window[env_ids], self.elapsed[env_ids] = window, 0
        self.length[env_ids], self._offset[env_ids] = windows.steps, 0.0
        rows = windows.rows(window, 0)
        past = [windows.target[windows.rows(window, -back)] for back in range(PAST, 0, -1)]
        self.sim.reset(env_ids, windows.qpos[rows], windows.qvel[rows],
                       joint_pos_target=np.stack(past, axis=1))  # fmt: skip
        self._points_w[env_ids] = self.reference.points_w[rows]
        self._links_quat[env_ids] = self.reference.link_quat_wxyz[rows]
        self._see()

    def step(self, action: np.ndarray) -> Transition:
        """One control step of all environments.

        Args:
            action: (N, A) output of the network; 0 for the logged target alone.
        """
        reward, facts = self._reward(self._context(self._act(action)))
        # A robot that blew up stands in its default pose: its errors mean nothing.
        failed = self.sim.failed.copy()
        reward = np.where(failed, 0.0, reward).astype(np.float32)
        facts |= {"reward": float(reward.mean()), "blown_up": float(failed.sum())}
        terminated = failed | (self.elapsed >= self.length)
        if terminated.any():
            env_ids = np.flatnonzero(terminated)
            self.start(env_ids, self._drawn(len(env_ids)))
        return Transition(self._observe(), reward, terminated, facts)

    def adapt(self, action_std: float) -> None:
        """Choose the scale, and widths where these follow the gap, from two episodes.

        Args:
            action_std: Of actions at first, at which exploration's noise is measured.
        """
        window = self._drawn(self.num_envs)
        quiet, noisy = (self._squares(window, std) for std in (0.0, action_std))
        noise = {name: max(0.0, noisy[name] - quiet[name]) for name in TRACKING}
        if self.config.scale is None and noise["body_pos"] > 0.0:
            wanted = np.sqrt(_NOISE * quiet["body_pos"] / noise["body_pos"])
            self.scale = _USUAL_SCALE * float(np.clip(wanted, *_RESCALED))
        if self.config.widths == "paper":
            return
        part = (self.scale / (self.config.scale or _USUAL_SCALE)) ** 2  # of the noise's squares
        changes: dict[str, Any] = {}
        for name in TRACKING:
            width = float(np.sqrt(quiet[name] + part * noise[name])) + 1e-6
            changes[name] = Term(weight=getattr(self.reward, name).weight, width=width)
        self.reward = dataclasses.replace(self.reward, **changes)

    def _squares(self, window: np.ndarray, action_std: float) -> dict[str, float]:
        """Mean squared errors of an episode from windows (N,) under noise, by tracking term."""
        self.start(np.arange(self.num_envs), window)
        squares = dict.fromkeys(TRACKING, 0.0)
        for _ in range(self.windows.steps):
            action = action_std * self.rng.standard_normal((self.num_envs, len(self.places)))
            context, well = self._context(self._act(action)), ~self.sim.failed
            for name, error in TRACKING.items():
                squares[name] += float(error(context) @ well) / max(1, int(well.sum()))
            self._see()
        return {name: total / self.windows.steps for name, total in squares.items()}

    def offset(self, action: np.ndarray) -> np.ndarray:
        """Offsets (N, A) that actions (N, A) mean in the present states [rad].

        The same bound and trust as in the graph that is written: what is trained is what runs.

            bound tanh(scale action / bound) trust(inputs)
        """
        config = self.config
        bounded = config.bound * np.tanh(self.scale * np.asarray(action, float) / config.bound)
        return np.asarray(bounded * self.normal.trust(self._inputs)[:, None])

    def _act(self, action: np.ndarray) -> np.ndarray:
        """Apply targets and offsets; the offsets (N, A) of the step before."""
        before, self._offset = self._offset, self.offset(action)
        target = self._target()
        target[:, self.places] += self._offset
        self.sim.step(target)
        self.elapsed += 1
        return before

    def _context(self, before: np.ndarray) -> Context:
        """Robots and logs in the frame that was just reached, offsets (N, A) before and now."""
        reached = self.rows()
        reference = TrackingState(*(array[reached] for array in self.reference))
        effort = Effort(self._offset / UNIT, before / UNIT, self.sim.joint_torque,
                        self.sim.foot_contact_force)  # fmt: skip
        return Context(self._state(), reference, effort, self._sets, self._limits)

    def _reward(self, context: Context) -> tuple[np.ndarray, dict[str, float]]:
        """(N,) with means for the curves."""
        config, dt, (state, reference, *_) = self.config, self.robot.control_dt, context
        reward, facts = total_reward(context, self.reward, control_dt=dt, cost_scale=1.0)
        norm = np.linalg.norm(context.effort.action, axis=-1)
        cost = np.expm1(np.minimum(norm, _LARGEST_NORM))
        joints = np.abs(state.joint_pos - reference.joint_pos)
        distance = np.linalg.norm(state.points_w - reference.points_w, axis=-1)
        facts |= {
            "offset_cost": float(cost.mean()),
            "joint_error_deg": float(np.rad2deg(joints.mean())),
            "distance_mm": 1000.0 * float(distance.mean()),
        }
        return reward + config.offset_cost * dt * cost, facts

    def rows(self) -> np.ndarray:
        """(N,) rows of the logs that environments are in."""
        return self.windows.rows(self.window, 0) + self.elapsed

    def _drawn(self, count: int) -> np.ndarray:
        """Windows (n,) of the logs, any with the same chance."""
        return self.rng.integers(0, len(self.windows.start), count)

    def _target(self) -> np.ndarray:
        """(N, J) that the logs command next [rad]."""
        return np.asarray(self.windows.target[self.rows()])

    def _see(self) -> Measurement:
        """What robots measure; keeps the inputs of the network."""
        measured = self.sim.measure()
        self._inputs = learning.inputs(measured, self._target())
        return measured

    def _observe(self) -> Observation:
        """Actor: what a robot measures, and the target. Critic: also how far off everything is."""
        measured = self._see()
        now = self.rows()
        reference = TrackingState(*(array[now] for array in self.reference))
        back = rotation.conjugate(rotation.heading(measured.base_quat_wxyz))[:, None]
        away = rotation.rotate(back, reference.points_w - self._points_w)
        critic = np.concatenate(
            [
                self._inputs,
                away.reshape(self.num_envs, -1) * 5.0,
                (reference.joint_pos - measured.joint_pos) * 5.0,
                (reference.joint_vel - measured.joint_vel) * 0.2,
                (self.length - self.elapsed)[:, None] / self.windows.steps,
            ],
            axis=-1, dtype=np.float32, casting="unsafe",
        )  # fmt: skip
        return {"actor": self._inputs, "critic": np.clip(critic, -_CRITIC_LIMIT, _CRITIC_LIMIT)}

    def _state(self) -> TrackingState:
        """The robots; velocities of points are those of the last control step, as in the logs."""
        sim, robot, dt = self.sim, self.robot, self.robot.control_dt
        bodies = sim.body_pos_w, sim.body_quat_wxyz
        if robot.encoder_bias.any():  # bodies are where encoders place them, as in a log
            bodies = robot.forward_kinematics(sim.base_pos_w, sim.base_quat_wxyz, sim.joint_pos)
        points, quat = self._seen_from(sim.base_pos_w, *bodies)
        before, quat_before = self._points_w, self._links_quat
        self._points_w, self._links_quat = points, quat
        lin_vel = sim.base_lin_vel_w if self.base_known else np.zeros((self.num_envs, 3))
        return TrackingState(
            sim.base_pos_w if self.base_known else np.zeros_like(lin_vel),
            sim.base_quat_wxyz, lin_vel, sim.base_ang_vel_b, sim.joint_pos, sim.joint_vel,
            points, (points - before) / dt, quat, turn_rate(quat_before, quat, dt),
        )  # fmt: skip

    def _reference_table(self) -> TrackingState:
        """The logs, one row after the other; differences are those to the row before."""
        windows, robot, dt = self.windows, self.robot, self.robot.control_dt
        base, attitude = windows.qpos[:, :3], windows.qpos[:, 3:7]
        bodies = robot.forward_kinematics(base, attitude, windows.joint_pos)
        points, quat = self._seen_from(base, *bodies)
        lin_vel = windows.qvel[:, :3] if self.base_known else np.zeros((len(base), 3))
        return TrackingState(
            base if self.base_known else np.zeros_like(base),
            attitude, lin_vel, windows.qvel[:, 3:6],
            windows.joint_pos, windows.qvel[:, robot.qvel_ids],
            points, np.diff(points, axis=0, prepend=points[:1]) / dt,
            quat, turn_rate(np.concatenate([quat[:1], quat[:-1]]), quat, dt),
        )  # fmt: skip

    def _seen_from(
        self, base: np.ndarray, body_pos_w: np.ndarray, body_quat_wxyz: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Points (N, P, 3) and attitudes; about the base where the log lacks its position."""
        points = self._points.positions(body_pos_w, body_quat_wxyz)
        if not self.base_known:
            points = points - base[:, None]
        return points, self._points.attitudes(body_quat_wxyz)
