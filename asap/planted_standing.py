"""A robot that stands still while its motors weaken: recorded, for the check of logs.

    log = standing(Robot.load("g1@worn"), Robot.load("g1"), 0.6, np.random.default_rng(0))

Nothing moves and no target changes; all that tells is how far joints sink under the robot's weight.
A rail keeps the base upright and lets it sink, because a humanoid that holds fixed targets topples.
"""

from __future__ import annotations

import numpy as np

from asap.robot import Robot
from asap.sim import CpuSimulation
from asap.twin import Sensors, make_simulation
from asap_deploy.log import Log

PART_S = 4.0
"""Before and after the gains fall [s]."""

_SETTLE_S = 1.0
"""Not recorded: until the robot bears its weight [s]."""

_LOGGED_S = 0.02
"""Between two rows [s]."""

_RAIL_POS, _RAIL_VEL = [0, 1, 3, 4, 5, 6], [0, 1, 3, 4, 5]
"""Of the base in qpos and qvel, held by the rail: everything but its height."""

_STIFFER = 3.0
"""Times the gains that policies use, in which the waist folds under the torso alone."""


def standing(robot: Robot, told: Robot, share: float, rng: np.random.Generator) -> Log:
    """A log of a standing robot whose stiffness falls in the middle, which no gain says.

    Args:
        robot: Robot or twin that stands, with a free base, in any engine but Bullet.
        told: The same as described: the gains that the log names are its.
        share: Of the stiffness that is left in the second half.
        rng: Of the sensors.
    """
    robot, told = _stiffer(robot).with_(control_dt=robot.physics_dt), _stiffer(told)
    qpos, qvel = robot.default_qpos()[None], np.zeros((1, robot.model.nv))
    sensors, parts = Sensors(robot, 1, rng), []
    for left, lasts_s in ((1.0, _SETTLE_S), (1.0, PART_S), (share, PART_S)):
        weak = robot.with_(stiffness=left * robot.stiffness)
        rows, qpos, qvel = _stood(weak, sensors, (qpos, qvel), round(lasts_s / _LOGGED_S))
        parts.append(rows)
    fields = {name: np.concatenate([part[name] for part in parts[1:]]) for name in parts[0]}
    joint_pos = fields.pop("joint_pos")
    target = np.tile(robot.default_joint_pos, (len(joint_pos), 1))
    fields |= {"joint_pos_target": target, "stiffness": told.stiffness, "damping": told.damping}
    time_s = _LOGGED_S * np.arange(len(joint_pos))
    return Log(robot.joint_names, time_s, joint_pos, fields, robot=told.name)


def _stiffer(robot: Robot) -> Robot:
    """The robot with gains for standing."""
    return robot.with_(stiffness=_STIFFER * robot.stiffness, damping=_STIFFER * robot.damping)


def _stood(
    robot: Robot, sensors: Sensors, state: tuple[np.ndarray, np.ndarray], count: int
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """So many rows from a state (1, nq), (1, nv) on, and the state after them."""
    sim = make_simulation(robot, 1, threads=1)
    assert isinstance(sim, CpuSimulation), "another engine has no state to start from"
    target = robot.default_joint_pos[None]
    sim.reset(np.arange(1), *state, joint_pos_target=target)
    qpos, qvel = sim.batch.bind("qpos"), sim.batch.bind("qvel")
    upright, rows = state[0][0, _RAIL_POS].copy(), []
    for _ in range(count):
        seen = sensors.measure(sim)
        row = {"joint_pos": seen.joint_pos, "joint_vel": seen.joint_vel,
               "torque_est": sim.joint_torque, "imu_quat_wxyz": seen.base_quat_wxyz,
               "imu_ang_vel_b": seen.base_ang_vel_b, "base_pos_w": sim.base_pos_w,
               "base_quat_wxyz": sim.base_quat_wxyz, "base_lin_vel_w": sim.base_lin_vel_w,
               "base_ang_vel_b": sim.base_ang_vel_b}  # fmt: skip
        rows.append({name: np.array(value[0]) for name, value in row.items()})
        for _ in range(round(_LOGGED_S / robot.physics_dt)):
            sim.step(target)
            # The rail: of the base only its height is free.
            qpos[0, _RAIL_POS], qvel[0, _RAIL_VEL] = upright, 0.0
    stacked = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    return stacked, qpos.copy(), qvel.copy()
