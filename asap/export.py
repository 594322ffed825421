"""Policies as one self-contained file: network, contract, clip and golden vectors.

A policy of ours is written by ``write_policy``; a foreign one is adopted once and is then like our
own. What a foreign file does not say must be given, never guessed.

    data = adopt(Path("CR7_level1.onnx").read_bytes(), Robot.load("g1:asap"), motion, layout="asap")
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import mujoco
import numpy as np
import onnx

from asap import __version__, onnx_file
from asap.motions import motion_from_poses
from asap.robot import Robot
from asap_deploy import golden, rotation
from asap_deploy.contract import (
    GOLDEN_KEY,
    METADATA_KEY,
    AnchorLink,
    ClipFacts,
    PolicyContract,
)
from asap_deploy.errors import InputError
from asap_deploy.motion import Motion
from asap_deploy.observation import HISTORY, LAYOUTS, ObservationLayout, Sizes, find_layout
from asap_deploy.onnx_graph import OnnxGraph
from asap_deploy.policy import ClipTable, Policy

ACTION_LIMIT = 100.0
"""The original clips network outputs to +- 100 before scaling."""

FOREIGN_KEYS = ("joint_names", "joint_stiffness", "joint_damping", "default_joint_pos",
                "observation_names", "action_scale")  # fmt: skip
"""Metadata that BeyondMimic and mjlab write; their floats have three decimals."""

ROUNDING_WARNING = (
    "gains, default pose and scale come from metadata rounded to 3 decimals "
    "(wrist action scale up to 7 % off); export from the training run if you can"
)


def make_contract(
    robot: Robot,
    layout: ObservationLayout,
    motion: Motion | None,
    *,
    motion_name: str = "",
    action_joint_names: Sequence[str] | None = None,
    offset_mode: str = "default",
    phase_lead_s: float | None = None,
    output_name: str = onnx_file.OUTPUT,
    input_name: str = onnx_file.INPUT,
    provenance: dict[str, str] | None = None,
) -> PolicyContract:
    """What a policy of this layout assumes on this robot.

    Args:
        robot: Gains, limits, default pose and joint order.
        layout: Of the observation.
        motion: The clip that the policy tracks; None for one that follows commands.
        motion_name: What to call the clip.
        action_joint_names: Joints that the network commands; the robot's own list by default.
        offset_mode: ``default`` or ``reference``.
        phase_lead_s: The phase leads the time by this; one control step by default, as in the
            original's training.
        output_name: Of the network.
        input_name: Of the network.
        provenance: Texts to keep.
    """
    actions = tuple(robot.action_joint_names if action_joint_names is None else action_joint_names)
    # Where the network commands every joint, its own order is also that of what it sees.
    sees_its_own = not layout.observes_all_joints or set(actions) == set(robot.joint_names)
    observed = actions if sees_its_own else robot.joint_names
    held = tuple(name for name in robot.joint_names if name not in actions)
    scale = robot.action_scale[robot.joint_ids(actions)]
    lead = robot.control_dt if phase_lead_s is None else phase_lead_s
    clip = None
    if motion is not None:
        clip = ClipFacts(motion_name, motion.sha256, motion.fps, motion.num_frames,
                         motion.duration_s, lead)  # fmt: skip
    return PolicyContract(
        robot=robot.name,
        mode_machine=robot.mode_machine,
        joint_names=robot.joint_names,
        observed_joint_names=observed,
        action_joint_names=actions,
        default_joint_pos=_floats(robot.default_joint_pos),
        stiffness=_floats(robot.stiffness),
        damping=_floats(robot.damping),
        torque_limit=_floats(robot.torque_limit),
        joint_vel_limit=_floats(robot.joint_vel_limit),
        joint_pos_lower=_floats(robot.joint_pos_lower),
        joint_pos_upper=_floats(robot.joint_pos_upper),
        action_scale=_floats(scale),
        action_limit=ACTION_LIMIT,
        offset_mode=offset_mode,
        control_dt=robot.control_dt,
        layout=layout.name,
        element_names=layout.element_names(observed, actions, held),
        input_name=input_name,
        output_name=output_name,
        clip=clip,
        anchor_chain=_anchor_chain(robot),
        provenance=_provenance(robot) | (provenance or {}),
    )


def write_policy(
    model: onnx.ModelProto, contract: PolicyContract, robot: Robot, motion: Motion | None
) -> bytes:
    """The policy file: network, clip, contract, the keys other tools read, golden vectors.

    Returns:
        Bytes of one ONNX file that ``asap_deploy.golden.load_policy`` accepts.
    """
    if motion is not None:
        model = onnx_file.with_clip(model, make_clip_table(contract, robot, motion))
    metadata = {METADATA_KEY: contract.to_json(), **_metadata_for_others(contract, robot)}
    policy = Policy.from_bytes(onnx_file.with_metadata(model, metadata))
    data = onnx_file.with_metadata(model, metadata | {GOLDEN_KEY: golden.record(policy)})
    golden.verify(Policy.from_bytes(data))
    return data


def adopt(
    data: bytes,
    robot: Robot,
    motion: Motion | None,
    *,
    layout: str | None,
    motion_name: str = "",
    source: str = "",
) -> bytes:
    """Turn an ONNX file of another toolkit into one of ours.

    Args:
        data: The foreign file.
        robot: That it was trained for.
        motion: The clip that it tracks; None for a walking policy.
        layout: Name of the observation layout; None where the file's metadata say it.
        motion_name: What to call the clip.
        source: Where the file came from, for the provenance.

    Raises:
        InputError: If something that the policy assumes is neither in the file nor given.
    """
    graph = OnnxGraph.parse(data)
    if METADATA_KEY in graph.metadata:
        raise InputError("this policy already carries a contract: use it as it is")
    described = all(key in graph.metadata for key in FOREIGN_KEYS)
    if layout is None and not described:
        raise InputError(
            "this ONNX file does not say what its numbers mean; name its observation with "
            f"--layout ({', '.join(LAYOUTS)})"
        )
    input_name, output_name, width, actions = _foreign_network(graph)
    layout = layout or "beyondmimic"  # files of that family describe themselves
    robot, action_names = _foreign_joints(robot, graph, actions, described, layout)
    found = find_layout(layout, _sizes(robot, action_names, layout), width)
    if found.gait_period_s is None and motion is None:
        raise InputError(f"layout '{found.name}' tracks a motion: give its clip with --motion")
    provenance = {"source": source, "source_sha256": hashlib.sha256(data).hexdigest()}
    if described:
        provenance["warning"] = ROUNDING_WARNING
    contract = make_contract(
        robot,
        found,
        None if found.gait_period_s else motion,
        motion_name=motion_name,
        action_joint_names=action_names,
        phase_lead_s=0.0 if found.needs_reference else None,
        input_name=input_name,
        output_name=output_name,
        provenance=provenance,
    )
    model = onnx_file.keep_actor(onnx_file.load_model(data), input_name, output_name)
    return write_policy(model, contract, robot, None if found.gait_period_s else motion)


def motion_of(policy: Policy, robot: Robot) -> Motion | None:
    """The clip that one of our policies carries, as a motion; None where there is none.

    Bodies come from the kinematics of the robot, numbers have the float32 of the file.
    """
    clip, contract = policy.clip, policy.contract
    if clip is None:
        return None
    missing = [name for name in robot.joint_names if name not in contract.joint_names]
    if missing:
        raise InputError(
            f"policy was made for robot '{contract.robot}' and says nothing about joint "
            f"'{missing[0]}' of '{robot.name}'"
        )
    return motion_from_poses(
        robot,
        clip.base_pos_w,
        rotation.normalize(clip.base_quat_wxyz),
        clip.joint_pos[:, contract.index(robot.joint_names)],
        fps=clip.fps,
        source=f"clip inside a policy file of robot '{contract.robot}'",
    )


def motion_inside(graph: OnnxGraph, robot: Robot) -> Motion | None:
    """The clip that a BeyondMimic or mjlab policy carries, as a motion; None where there is none.

    Bodies that the file does not hold come from forward kinematics.
    """
    if "joint_pos" not in graph.outputs or "body_pos_w" not in graph.outputs:
        return None
    names = _texts(graph, "joint_names")
    bodies = _texts(graph, "body_names")
    if robot.base_name not in bodies:
        return None
    base = bodies.index(robot.base_name)
    tables = [graph.clip_table(name) for name in ("body_pos_w", "body_quat_w", "joint_pos")]
    frames = len(tables[0])
    expected = [(frames, len(bodies), 3), (frames, len(bodies), 4), (frames, len(names))]
    missing = [name for name in robot.joint_names if name not in names]
    if missing or [table.shape for table in tables] != expected:
        raise InputError(
            f"the clip inside the policy does not fit robot '{robot.name}': shapes "
            f"{[table.shape for table in tables]}, joints missing: {missing[:3]}"
        )
    order = [names.index(name) for name in robot.joint_names]
    return motion_from_poses(
        robot,
        tables[0][:, base].astype(float),
        tables[1][:, base].astype(float),
        tables[2][:, order].astype(float),
        fps=1.0 / robot.control_dt,
        source="clip inside a policy file",
    )


def _foreign_network(graph: OnnxGraph) -> tuple[str, str, int, int]:
    """Names and widths of the network's input and output."""
    inputs = [name for name in graph.inputs if name != onnx_file.TIME_STEP]
    if len(inputs) != 1:
        raise InputError(f"the network has the inputs {list(graph.inputs)}; one is expected")
    output = "actions" if "actions" in graph.outputs else next(iter(graph.outputs))
    shapes = graph.inputs[inputs[0]], graph.outputs[output]
    if any(len(shape) != 2 or not isinstance(shape[1], int) for shape in shapes):
        raise InputError(
            f"the network's input and output have the shapes {shapes[0]} and {shapes[1]}; "
            "rows and a fixed width are expected"
        )
    return inputs[0], output, shapes[0][1], shapes[1][1]


def _foreign_joints(
    robot: Robot, graph: OnnxGraph, actions: int, described: bool, layout: str
) -> tuple[Robot, tuple[str, ...]]:
    """The robot with the file's own gains, and the joints that the network commands."""
    if not described:
        own = robot.action_joint_names
        # The published walking policy commands the first twelve joints, the legs.
        walks = layout in LAYOUTS and LAYOUTS[layout].needs_command
        if actions > len(own) or (actions != len(own) and not walks):
            raise InputError(
                f"the network commands {actions} joints, robot '{robot.name}' has {len(own)} "
                "that take commands; choose another --robot"
            )
        return robot, tuple(own[:actions])
    names = tuple(_texts(graph, "joint_names"))
    order = robot.joint_ids(names)
    if sorted(order) != list(range(len(robot.joint_names))) or actions != len(names):
        raise InputError(
            f"the policy has {len(names)} joints and {actions} actions, robot '{robot.name}' has "
            f"{len(robot.joint_names)} joints; choose another --robot"
        )
    changes = {}
    for key, field in (
        ("joint_stiffness", "stiffness"),
        ("joint_damping", "damping"),
        ("default_joint_pos", "default_joint_pos"),
        ("action_scale", "action_scale"),
    ):
        values = np.empty(len(names))
        values[order] = _numbers(graph, key, len(names))
        changes[field] = values
    return robot.with_(**changes), names


def _sizes(robot: Robot, action_names: tuple[str, ...], layout: str) -> Sizes:
    """Widths for a layout on this robot."""
    if layout in LAYOUTS and not LAYOUTS[layout].observes_all_joints:
        return Sizes(len(action_names), len(action_names))
    joints = len(robot.joint_names)
    return Sizes(joints, len(action_names), joints - len(action_names))


def make_clip_table(contract: PolicyContract, robot: Robot, motion: Motion) -> ClipTable:
    """The clip in the contract's joint order."""
    missing = [name for name in contract.joint_names if name not in motion.joint_names]
    if missing:
        raise InputError(f"motion lacks joint '{missing[0]}' of robot '{robot.name}'")
    order = [motion.joint_names.index(name) for name in contract.joint_names]
    anchor = motion.body_names.index(robot.anchor_name)
    return ClipTable(
        fps=motion.fps,
        joint_pos=motion.joint_pos[:, order],
        joint_vel=motion.joint_vel[:, order],
        base_pos_w=motion.base_pos_w,
        base_quat_wxyz=motion.base_quat_wxyz,
        anchor_pos_w=motion.body_pos_w[:, anchor],
        anchor_quat_wxyz=motion.body_quat_wxyz[:, anchor],
    )


def _anchor_chain(robot: Robot) -> tuple[AnchorLink, ...]:
    """Fixed frames and hinges from the base to the anchor body."""
    model, links = robot.model, []
    body = model.body(robot.anchor_name).id
    base = model.body(robot.base_name).id
    while body not in (base, 0):
        joint = model.body_jntadr[body]
        hinge = (
            model.body_jntnum[body] == 1 and model.jnt_type[joint] == mujoco.mjtJoint.mjJNT_HINGE
        )
        links.append(
            AnchorLink(
                pos=_floats(model.body_pos[body]),
                quat_wxyz=_floats(model.body_quat[body]),
                axis=_floats(model.jnt_axis[joint]) if hinge else (0.0, 0.0, 1.0),
                joint=model.joint(joint).name if hinge else "",
            )
        )
        body = model.body_parentid[body]
    return tuple(reversed(links))


def _metadata_for_others(contract: PolicyContract, robot: Robot) -> dict[str, str]:
    """The keys that tools for BeyondMimic and mjlab files read, with all their digits."""

    def join(values: Sequence[object]) -> str:
        return ",".join(str(value) for value in values)

    terms = LAYOUTS[contract.layout].terms
    return {
        "joint_names": join(contract.joint_names),
        "joint_stiffness": join(contract.stiffness),
        "joint_damping": join(contract.damping),
        "default_joint_pos": join(contract.default_joint_pos),
        "action_scale": join(contract.action_scale),
        "command_names": "motion" if contract.clip else "velocity",
        "observation_names": join([term for term in terms if term != HISTORY]),
        "anchor_body_name": robot.anchor_name,
        "body_names": join(robot.key_body_names),
    }


def _provenance(robot: Robot) -> dict[str, str]:
    """Which physics and programs a policy comes from."""
    return {
        "asap_toolkit": __version__,
        "mujoco": mujoco.__version__,
        "integrator": robot.integrator,
        "physics_dt": repr(robot.physics_dt),
    }


def _floats(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _texts(graph: OnnxGraph, key: str) -> list[str]:
    if key not in graph.metadata:
        raise InputError(f"ONNX metadata lack '{key}'")
    return [part.strip() for part in graph.metadata[key].split(",")]


def _numbers(graph: OnnxGraph, key: str, count: int) -> np.ndarray:
    """A list of numbers from foreign metadata."""
    try:
        values = np.array([float(part) for part in graph.metadata[key].split(",")])
    except ValueError:
        raise InputError(f"ONNX metadata '{key}' is not a list of numbers") from None
    if values.shape != (count,) or not np.isfinite(values).all():
        raise InputError(f"ONNX metadata '{key}' has {values.size} values, expected {count}")
    return values
