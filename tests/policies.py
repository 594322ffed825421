"""Toys that several test files share: a small policy, a waving motion, plausible measurements."""

from __future__ import annotations

import functools

import numpy as np
import onnx

from asap import onnx_file
from asap.export import make_contract, write_policy
from asap.robot import Robot
from asap_deploy import golden, rotation
from asap_deploy.contract import METADATA_KEY, PolicyContract
from asap_deploy.motion import Motion
from asap_deploy.observation import LAYOUTS, Measurement
from asap_deploy.policy import Policy

ROBOT = "g1:asap"


@functools.cache
def robot(name: str = ROBOT) -> Robot:
    """A robot that is read once for all tests; nobody may change it."""
    return Robot.load(name)


@functools.cache
def toy_motion(robot_name: str = ROBOT, frames: int = 46, fps: float = 30.0) -> Motion:
    """Standing with waving arms, swaying and turning a little; 1.5 s at 30 Hz by default."""
    body = robot(robot_name)
    time_s = np.arange(frames) / fps
    joint_pos = np.tile(body.default_joint_pos, (frames, 1))
    for k, name in enumerate(body.joint_names):
        if "shoulder" in name or "elbow" in name or "waist" in name:
            joint_pos[:, k] += 0.3 * np.sin(2.0 * np.pi * 0.7 * time_s + k)
    base_pos_w = np.tile(body.default_qpos()[:3], (frames, 1))
    base_pos_w[:, 0] += 0.03 * np.sin(2.0 * time_s)
    tilt = np.stack([0.05 * np.sin(3.0 * time_s), 0.04 * np.cos(2.0 * time_s), 0.3 * time_s], -1)
    base_quat = rotation.from_rotvec(tilt)
    body_pos_w, body_quat = body.forward_kinematics(base_pos_w, base_quat, joint_pos)
    return Motion(
        fps=fps,
        joint_names=body.joint_names,
        joint_pos=joint_pos,
        joint_vel=np.gradient(joint_pos, 1.0 / fps, axis=0),
        body_names=body.body_names,
        body_pos_w=body_pos_w,
        body_quat_wxyz=body_quat,
        body_lin_vel_w=np.gradient(body_pos_w, 1.0 / fps, axis=0),
        body_ang_vel_w=rotation.ang_vel_w(body_quat, fps),
        foot_contact=np.ones((frames, 2), dtype=bool),
        source="made by the tests",
        robot=robot_name,
    )


def toy_network(inputs: int, outputs: int, *, seed: int = 0, gain: float = 1.0) -> onnx.ModelProto:
    """A network with one hidden layer, random but always the same."""
    rng = np.random.default_rng(seed)
    hidden = 16
    layers = [
        (rng.normal(0.0, gain / np.sqrt(inputs), (hidden, inputs)), rng.normal(0, 0.1, hidden)),
        (rng.normal(0.0, gain / np.sqrt(hidden), (outputs, hidden)), rng.normal(0, 0.1, outputs)),
    ]
    return onnx_file.network(layers)


def toy_contract(
    layout: str = "asap", robot_name: str = ROBOT, offset_mode: str = "default"
) -> PolicyContract:
    """The contract of a policy for the toy motion; the walking layout commands the legs alone."""
    walks = layout == "asap-loco"
    body = robot(robot_name)
    return make_contract(
        body,
        LAYOUTS[layout],
        None if walks else toy_motion(robot_name),
        motion_name="" if walks else "wave",
        action_joint_names=body.joint_names[:12] if walks else None,
        offset_mode=offset_mode,
        phase_lead_s=0.0 if LAYOUTS[layout].needs_reference else None,
    )


@functools.cache
def toy_policy_bytes(
    layout: str = "asap",
    robot_name: str = ROBOT,
    offset_mode: str = "default",
    gain: float = 1.0,
) -> bytes:
    """A whole policy file as ``asap export`` writes it."""
    contract = toy_contract(layout, robot_name, offset_mode)
    model = toy_network(len(contract.element_names), len(contract.action_joint_names), gain=gain)
    motion = None if contract.clip is None else toy_motion(robot_name)
    return write_policy(model, contract, robot(robot_name), motion)


@functools.cache
def toy_policy(
    layout: str = "asap",
    robot_name: str = ROBOT,
    offset_mode: str = "default",
    gain: float = 1.0,
) -> Policy:
    """The same, read back."""
    return Policy.from_bytes(toy_policy_bytes(layout, robot_name, offset_mode, gain))


def with_contract(data: bytes, text: str, **more: str) -> bytes:
    """A policy file whose contract text is replaced; golden vectors stay as they were."""
    model = onnx.load_model_from_string(data)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    return onnx_file.with_metadata(model, metadata | {METADATA_KEY: text} | more)


def golden_text(data: bytes) -> str:
    """The golden vectors that a policy file carries."""
    return Policy.from_bytes(data).graph.metadata[golden.GOLDEN_KEY]


def measurements(
    rng: np.random.Generator, joints: int, num_robots: int, *, base: bool = True
) -> Measurement:
    """Plausible measurements of N robots that stand and shake."""
    quat = np.concatenate([np.ones((num_robots, 1)), rng.normal(0, 0.1, (num_robots, 3))], axis=1)
    return Measurement(
        joint_pos=rng.normal(0.0, 0.3, (num_robots, joints)),
        joint_vel=rng.normal(0.0, 1.0, (num_robots, joints)),
        base_quat_wxyz=rotation.normalize(quat),
        base_ang_vel_b=rng.normal(0.0, 0.5, (num_robots, 3)),
        base_pos_w=rng.normal([0.0, 0.0, 0.75], 0.1, (num_robots, 3)) if base else None,
        base_lin_vel_w=rng.normal(0.0, 0.3, (num_robots, 3)) if base else None,
    )


def rows(measurement: Measurement, ids: object) -> Measurement:
    """Some of the robots of a measurement."""
    return Measurement(*(None if array is None else array[ids] for array in measurement))


def replaced(measurement: Measurement, field: str, row: int, value: object) -> Measurement:
    """A copy in which one row of one field has another value."""
    array = np.array(getattr(measurement, field))
    array[row] = value
    return measurement._replace(**{field: array})
