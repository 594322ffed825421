"""A policy without any training: linear feedback that keeps a robot on its feet.

It is the LQR of the model around its default pose, reduced to what the robot measures. It stands,
and tracks clips that move the arms slowly: enough to try every part of the toolkit, and the
reference that a trained policy has to beat.

    motion = Motion.load("motions/g1/wave.npz")
    Path("wave.onnx").write_bytes(balance_policy(robot, motion, name="wave"))
    Path("stand.onnx").write_bytes(stand_policy(robot))      # for `asap-deploy run --between`
"""

from __future__ import annotations

import mujoco
import numpy as np
from scipy import linalg

from asap import onnx_file
from asap.export import make_contract, write_policy
from asap.motions import motion_from_poses
from asap.robot import Robot
from asap_deploy.errors import InputError
from asap_deploy.motion import Motion
from asap_deploy.observation import LAYOUTS, TERMS, Sizes

LAYOUT = "asap"
_SETTLE_S = 1.0
"""The robot is held upright for so long before it is linearised: the contacts are then loaded."""

LEAN_BACK_RAD = 0.01
"""Of the legs in ``stand_policy``. The default pose of a G1 has its weight 2.4 cm before the middle
of the soles, where a push forward is the one that topples it; this far back, pushes forward (with a
payload) and backward (without) are withstood alike, and a little more is worse."""


def balance_policy(robot: Robot, motion: Motion, *, name: str) -> bytes:
    """A policy file of one linear layer that balances around the robot's default pose.

    The clip's joint positions are the offset of the targets (``reference`` mode), so the arms
    follow the clip while the feedback keeps the robot up. Legs must stay near the default pose.

    Args:
        robot: A biped with a free base.
        motion: The clip, on this robot.
        name: Of the clip.

    Returns:
        Bytes of a policy file with contract.

    Raises:
        InputError: If the robot cannot stand by linear feedback.
    """
    gain = feedback(robot)
    layout = LAYOUTS[LAYOUT]
    actions = robot.joint_ids(robot.action_joint_names)
    sizes = Sizes(len(actions), len(actions))
    slices = layout.frame_slices(sizes)
    width = layout.width(sizes)
    weight = np.zeros((len(actions), width))
    joints = len(robot.joint_names)
    attitude, joint_pos = gain[actions, :3], gain[actions, 3 : 3 + joints]
    ang_vel, joint_vel = gain[actions, 3 + joints : 6 + joints], gain[actions, 6 + joints :]
    # Small rotations about x and y tilt gravity by g = (ry, -rx, -1).
    tilt = np.stack([-attitude[:, 1], attitude[:, 0], np.zeros(len(actions))], axis=1)
    start = width - 1 - 3  # projected gravity stands before the phase, behind the history
    weight[:, start : start + 3] = tilt
    for term, block in (
        ("base_ang_vel", ang_vel),
        ("dof_pos", joint_pos[:, actions]),
        ("dof_vel", joint_vel[:, actions]),
    ):
        weight[:, slices[term]] = -block / TERMS[term].scale
    weight /= robot.action_scale[actions, None]
    contract = make_contract(
        robot,
        layout,
        motion,
        motion_name=name,
        offset_mode="reference",
        provenance={"source": "linear quadratic regulator of the model, no training"},
    )
    # A motor that carries weight sags by torque / stiffness: aim that much past the pose.
    carried = _settled(robot).actuator_force / np.maximum(robot.stiffness, 1e-6)
    bias = carried[actions] / robot.action_scale[actions]
    model = onnx_file.network([(weight, bias)])
    return write_policy(model, contract, robot, motion)


def stand_policy(robot: Robot) -> bytes:
    """A policy file that only stands: what takes over when a clip is over.

    Args:
        robot: With the legs of a G1.

    Returns:
        Bytes of a policy file whose clip is one pose, for a second.

    Raises:
        InputError: If the robot cannot stand by linear feedback.
    """
    pose = robot.default_joint_pos.copy()
    for k, name in enumerate(robot.joint_names):
        # Turned about the ankles, the torso upright as before.
        pose[k] += LEAN_BACK_RAD * (
            name.endswith("ankle_pitch_joint") - 1.0 * name.endswith("hip_pitch_joint")
        )
    leaning = robot.with_(default_joint_pos=pose)
    frames = 1 + round(1.0 / robot.control_dt)  # a second
    base = np.tile(_settled(leaning).qpos[:7], (frames, 1))
    motion = motion_from_poses(
        leaning, base[:, :3], base[:, 3:], np.tile(pose, (frames, 1)), fps=1.0 / robot.control_dt,
        source="one pose, made by asap.balance",
    )  # fmt: skip
    return balance_policy(leaning, motion, name="stand")


def feedback(robot: Robot) -> np.ndarray:
    """Gain K of target = default - K [attitude, joints, angular velocity, joint velocities].

    While both feet stand, the position and velocity of the base follow from its attitude and the
    joints; so the full state feedback needs nothing that the robot cannot measure.

    Args:
        robot: A biped with a free base.

    Returns:
        (J, 3 + J + 3 + J): attitude as a rotation vector in the base frame [rad], joints [rad],
        their rates.

    Raises:
        InputError: If the robot has no free base and feet, or the regulator does not exist.
    """
    if not robot.has_free_base or len(robot.foot_names) != 2:
        raise InputError(f"robot '{robot.name}' is no free biped: it has nothing to balance")
    model, data = robot.model, _settled(robot)
    nv = model.nv
    balancing = _balancing_joints(robot)
    a, b = _control_step(robot, model, data)
    b, effort = b[:, balancing], 20.0 * np.eye(len(balancing))
    cost = np.zeros((2 * nv, 2 * nv))
    _, lever = _com_jacobian(robot, model, data)
    cost[:nv, :nv] = 1000.0 * lever.T @ lever + 0.1 * np.eye(nv)
    cost[nv:, nv:] = 0.01 * np.eye(nv)
    cost[robot.qvel_ids, robot.qvel_ids] += 1.0
    try:
        value = linalg.solve_discrete_are(a, b, cost, effort)
    except (linalg.LinAlgError, ValueError) as error:
        raise InputError(
            f"robot '{robot.name}' has no linear balance controller: {error}"
        ) from None
    full = np.zeros((model.nu, 2 * nv))
    full[balancing] = np.linalg.solve(effort + b.T @ value @ b, b.T @ value @ a)
    gain = _measured_part(robot, model, data, full)
    # Arms follow the clip: legs and waist must not take that for a disturbance.
    others = np.setdiff1d(np.arange(len(robot.joint_names)), balancing)
    gain[:, 3 + others] = 0.0
    gain[:, 6 + len(robot.joint_names) + others] = 0.0
    return gain


def _balancing_joints(robot: Robot) -> np.ndarray:
    """Places of the joints between the base, the feet and the torso."""
    model, found = robot.model, set()
    for name in (*robot.foot_names, robot.anchor_name):
        body = model.body(name).id
        while body:
            first = model.body_jntadr[body]
            found |= {model.joint(first + k).name for k in range(model.body_jntnum[body])}
            body = model.body_parentid[body]
    return np.array([k for k, name in enumerate(robot.joint_names) if name in found])


def _settled(robot: Robot) -> mujoco.MjData:
    """The default pose with its weight on the feet, held up by its base."""
    model = robot.model
    data = mujoco.MjData(model)
    data.qpos[:] = robot.default_qpos()
    upright = data.qpos[:7].copy()
    for _ in range(round(_SETTLE_S / robot.physics_dt)):
        data.ctrl[:] = robot.default_joint_pos
        mujoco.mj_step(model, data)
        # Height is free, so that the floor carries the robot.
        data.qpos[:2], data.qpos[3:7] = upright[:2], upright[3:7]
        data.qvel[:2], data.qvel[3:6] = 0.0, 0.0
    data.qvel[:] = 0.0
    mujoco.mj_forward(model, data)
    return data


def _control_step(
    robot: Robot, model: mujoco.MjModel, data: mujoco.MjData
) -> tuple[np.ndarray, np.ndarray]:
    """State and input matrices of one control step, composed of physics steps."""
    nv, nu = model.nv, model.nu
    a, b = np.zeros((2 * nv, 2 * nv)), np.zeros((2 * nv, nu))
    mujoco.mjd_transitionFD(model, data, 1e-6, True, a, b, None, None)
    whole_a, whole_b = np.eye(2 * nv), np.zeros((2 * nv, nu))
    for _ in range(robot.decimation):
        whole_a, whole_b = a @ whole_a, a @ whole_b + b
    return whole_a, whole_b


def _com_jacobian(
    robot: Robot, model: mujoco.MjModel, data: mujoco.MjData
) -> tuple[np.ndarray, np.ndarray]:
    """Mean Jacobian of the feet (6, nv), and that of the centre of mass above them (2, nv)."""
    nv = model.nv
    feet = np.zeros((6, nv))
    for name in robot.foot_names:
        linear, turn = np.zeros((3, nv)), np.zeros((3, nv))
        body = model.body(name).id
        mujoco.mj_jacBody(model, data, linear, turn, body)
        feet += 0.5 * np.concatenate([linear, turn])
    com = np.zeros((3, nv))
    mujoco.mj_jacSubtreeCom(model, data, com, model.body(robot.base_name).id)
    return feet, (com - feet[:3])[:2]


def _measured_part(
    robot: Robot, model: mujoco.MjModel, data: mujoco.MjData, full: np.ndarray
) -> np.ndarray:
    """The gain on attitude, joints and their rates, for standing feet.

    Feet do not move: 0 = J_p dp + J_r [rotation, joints], so dp = -J_p^-1 J_r [...]; J_p = 1.
    """
    nv = model.nv
    feet, _ = _com_jacobian(robot, model, data)
    measured = [3, 4, 5, *robot.qvel_ids]
    base_from_rest = -np.linalg.solve(feet[:3, :3], feet[:3, measured])
    parts = []
    for offset in (0, nv):
        block = full[:, offset : offset + nv]
        parts.append(block[:, measured] + block[:, :3] @ base_from_rest)
    return np.concatenate(parts, axis=1)
