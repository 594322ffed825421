"""Judging a policy that follows commands instead of a clip.

result = walk(policy, Robot.load("g1:asap"), WalkConfig(command=(0.5, 0.0, 0.0), duration_s=20))
result["success_rate"]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from asap.evaluate import with_gains
from asap.metrics import Interval, bootstrap_ratio, success_interval
from asap.robot import Robot
from asap.rollout import Rollout
from asap.sim import CpuSimulation
from asap_deploy import rotation
from asap_deploy.errors import InputError
from asap_deploy.observation import Command
from asap_deploy.policy import Policy
from asap_deploy.runtime import Runtime

FALLEN = -0.6
"""Gravity along the base's z axis above this (53 degrees of tilt) is a fall."""


@dataclass(frozen=True, kw_only=True)
class WalkConfig:
    """What is asked of a walking policy."""

    command: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Forward and left velocity [m/s] and yaw rate [rad/s]; all zero: stand."""
    duration_s: float = 20.0
    """Length of an episode [s]."""
    base_height: float = 0.78
    """Height that is asked for [m]."""
    episodes: int = 16
    """Robots, which differ by noise of 0.02 rad in the joints at the start."""
    seed: int = 0
    """Of that noise."""
    threads: int = 0
    """Of the simulator; 0: all cores."""

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        if not 0.1 <= self.duration_s <= 3600.0 or self.episodes < 1:
            raise InputError("--duration-s must be 0.1 to 3600 and --episodes at least 1")


class Walk(NamedTuple):
    """What came out."""

    success_rate: Interval
    """Episodes without a fall."""
    velocity_b: tuple[Interval, Interval, Interval]
    """Mean forward and left velocity [m/s] and yaw rate [rad/s] after the first second."""
    base_height: Interval
    """Mean height of the base after the first second [m]."""
    rollout: Rollout
    """The first episode."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        forward, left, turn = self.velocity_b
        return {
            "overall": {
                "success_rate": self.success_rate.as_dict(),
                "forward_velocity_mps": forward.as_dict(),
                "left_velocity_mps": left.as_dict(),
                "yaw_rate_radps": turn.as_dict(),
                "base_height_m": self.base_height.as_dict(),
            }
        }


def walk(
    policy: Policy,
    robot: Robot,
    config: WalkConfig,
    progress: Callable[[float], None] | None = None,
) -> Walk:
    """Stand or walk by command, from the default pose.

    Args:
        policy: One whose contract names no clip.
        robot: Robot or twin to simulate.
        config: Command, time and number of robots.
        progress: Told the finished fraction.

    Raises:
        InputError: If the policy tracks a clip or does not fit the robot.
    """
    if policy.contract.clip is not None:
        raise InputError("this policy tracks a clip and follows no commands: give --motion")
    robot = with_gains(robot, policy.contract)
    count, rng = config.episodes, np.random.default_rng(config.seed)
    sim = CpuSimulation(robot, count, threads=config.threads)
    qpos = np.tile(robot.default_qpos(), (count, 1))
    qpos[:, robot.qpos_ids] += rng.normal(0.0, 0.02, (count, len(robot.joint_names)))
    sim.reset(np.arange(count), qpos, np.zeros((count, robot.model.nv)))
    runtime = Runtime(policy, robot.joint_names, count)
    runtime.command = _command(config)
    steps, settled = round(config.duration_s / robot.control_dt), round(1.0 / robot.control_dt)
    alive, sums, counts = np.ones(count, dtype=bool), np.zeros((4, count)), np.zeros(count)
    frames = []
    for step in range(steps):
        target = runtime.step(sim.measure(), np.full(count, step * robot.control_dt))
        sim.step(target.joint_pos_target)
        tilt = rotation.projected_gravity(sim.base_quat_wxyz)[:, 2]
        alive &= ~(sim.failed | target.refused) & (tilt < FALLEN)
        if step >= settled:
            heading = rotation.heading(sim.base_quat_wxyz)
            velocity = rotation.rotate_inverse(heading, sim.base_lin_vel_w)
            row = [velocity[:, 0], velocity[:, 1], sim.base_ang_vel_b[:, 2], sim.base_pos_w[:, 2]]
            sums += np.where(alive, np.stack(row), 0.0)
            counts += alive
        frames.append(_frame(sim, robot, target.joint_pos_target))
        if progress is not None:
            progress((step + 1) / steps)
    figures = [bootstrap_ratio(row, counts, rng) for row in sums]
    return Walk(
        success_rate=success_interval(int(alive.sum()), count),
        velocity_b=(figures[0], figures[1], figures[2]),
        base_height=figures[3],
        rollout=_rollout(frames, robot),
    )


def _command(config: WalkConfig) -> Command:
    """The same command for every robot; standing is a command of its own."""
    count = config.episodes
    forward, left, turn = config.command
    walking = float(any(config.command))
    return Command(
        lin_vel_b=np.tile([forward, left], (count, 1)),
        ang_vel=np.full((count, 1), turn),
        base_height=np.full((count, 1), config.base_height),
        walk=np.full((count, 1), walking),
    )


def _frame(sim: CpuSimulation, robot: Robot, target: np.ndarray) -> dict[str, np.ndarray]:
    """What is kept of episode 0."""
    return {
        "qpos": robot.qpos(sim.base_pos_w[0], sim.base_quat_wxyz[0], sim.joint_pos[0]),
        "joint_pos_target": target[0].copy(),
        "joint_torque": sim.joint_torque[0].copy(),
        "contact_force": sim.foot_contact_force[0].copy(),
    }


def _rollout(frames: list[dict[str, np.ndarray]], robot: Robot) -> Rollout:
    time_s = (np.arange(len(frames)) + 1) * robot.control_dt
    arrays = {name: np.stack([frame[name] for frame in frames]) for name in frames[0]}
    return Rollout(robot=robot, time_s=time_s, title="walking by command", **arrays)
