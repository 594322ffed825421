"""From a plan to poses of the whole body, frame by frame: inverse kinematics with mink.

Feet and centre of mass go where the plan says; what is left over stays near the plan's posture.
Each frame starts from the one before, so neighbouring frames are alike. Nothing here knows of
forces: ``momentum_fit`` makes the motion one that the ground can carry.

    qpos = solve_poses(robot, script.plan())       # (T, nq)
"""

from __future__ import annotations

import mujoco
import numpy as np

from asap.motion_plan import Plan
from asap.robot import Robot
from asap_deploy.errors import InputError

_STEPS, _FIRST_STEPS = 6, 60
"""Newton steps for a frame, and for the first one, which starts from the default pose."""


def solve_poses(
    robot: Robot, plan: Plan, *, start: np.ndarray | None = None, leg_cost: float = 0.02
) -> np.ndarray:
    """Poses that follow a plan.

    Args:
        robot: The robot of the plan.
        plan: What feet, centre of mass, base and joints shall do.
        start: (nq,) a pose near the first; by default the default pose.
        leg_cost: Of legs that leave the plan's posture; feet cost 20, the centre of mass 5.

    Returns:
        qpos (T, nq), within the limits of the joints.

    Raises:
        InputError: If mink is not installed.
    """
    try:
        import mink
    except ImportError:
        raise InputError("making motions needs mink: pip install 'asap-toolkit[motions]'") from None
    model = robot.model
    # Costs of a frame task: of its position, of its attitude.
    feet = [mink.FrameTask(name, "body", 20.0, 5.0) for name in robot.foot_names]
    com = mink.ComTask(cost=5.0)
    base = mink.FrameTask(robot.base_name, "body", 0.0, 1.0)
    posture = mink.PostureTask(model, cost=_posture_cost(robot, leg_cost))
    tasks, limits = [*feet, com, base, posture], [mink.ConfigurationLimit(model)]
    configuration = mink.Configuration(model, q=robot.default_qpos() if start is None else start)
    target = robot.default_qpos()
    result = np.empty((len(plan.joint_pos), model.nq))
    for frame in range(len(result)):
        poses = np.concatenate([plan.foot_quat_wxyz[frame], plan.foot_pos_w[frame]], axis=1)
        for pose, task in zip(poses, feet, strict=True):
            task.set_target(mink.SE3(pose))
        com.set_target(plan.com_w[frame])
        base.set_target(mink.SE3(np.concatenate([plan.base_quat_wxyz[frame], np.zeros(3)])))
        target[robot.qpos_ids] = plan.joint_pos[frame]
        posture.set_target(target)
        for _ in range(_STEPS if frame else _FIRST_STEPS):
            step = mink.solve_ik(configuration, tasks, 1.0, "daqp", 1e-6, limits=limits)
            configuration.integrate_inplace(step, 1.0)
        result[frame] = configuration.q
    return result


def leg_dofs(robot: Robot) -> np.ndarray:
    """Places in qvel of the joints between the base and the feet."""
    found: list[int] = []
    model = robot.model
    for foot in robot.foot_names:
        for body in leg_bodies(robot, foot):
            first = int(model.body_dofadr[body])
            found += range(first, first + int(model.body_dofnum[body]))
    return np.array(sorted(found))


def leg_bodies(robot: Robot, foot_name: str) -> list[int]:
    """MuJoCo's bodies from a foot up to the one that hangs on the base."""
    found, model = [], robot.model
    body = model.body(foot_name).id
    while model.body(body).name != robot.base_name:
        found.append(int(body))
        body = model.body_parentid[body]
    return found


def _posture_cost(robot: Robot, legs: float) -> np.ndarray:
    """Cost (nv,) of leaving the preferred posture: legs follow the feet, the rest should not."""
    cost = np.full(robot.model.nv, 3.0)
    cost[:6], cost[leg_dofs(robot)] = 0.0, legs
    return cost


def changes(model: mujoco.MjModel, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """The steps (T, nv) that lead from poses (T, nq) to others."""
    result = np.empty((len(before), model.nv))
    for row, a, b in zip(result, before, after, strict=True):
        mujoco.mj_differentiatePos(model, row, 1.0, a, b)
    return result
