"""From checked tables and a model to the fields of a robot.

What robot.toml does not say is taken from the MJCF; what neither says gets a default that
``Robot.check`` reports.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import mujoco
import numpy as np

from asap.robot_file import RobotFacts
from asap.robot_mjcf import Mjcf
from asap.robot_spec import bare_spec, compiled
from asap_deploy.errors import InputError, suggestion

JOINT_ARRAYS = {
    "default_joint_pos": "default_pos",
    "stiffness": "stiffness",
    "damping": "damping",
    "torque_limit": "torque_limit",
    "joint_vel_limit": "velocity_limit",
    "joint_pos_lower": "lower",
    "joint_pos_upper": "upper",
    "armature": "armature",
    "passive_damping": "passive_damping",
    "frictionloss": "frictionloss",
    "delay_s": "delay_s",
    "encoder_bias": "encoder_bias",
    "action_scale": "action_scale",
}
_DEFAULTS: dict[str, Any] = {
    "default_pos": 0.0,
    "damping": 0.0,
    "torque_limit": np.inf,
    "velocity_limit": np.inf,
    "delay_s": 0.0,
    "encoder_bias": 0.0,
    "action_scale": 0.25,
    "action": True,
}


class VirtualPoint(NamedTuple):
    """A point that is tracked but is no body: fixed in a body's frame."""

    name: str
    body: str
    offset_b: tuple[float, float, float]
    """[m], in the frame of the body."""


def robot_fields(facts: RobotFacts, mjcf: Mjcf) -> dict[str, Any]:
    """The fields of a robot, with every name checked against the model."""
    bare = bare_spec(mjcf, facts)
    model = compiled(bare.spec, facts)
    for pattern, file in facts.patterns():
        if not any(fnmatchcase(name, pattern) for name in bare.hinges):
            hint = suggestion(pattern, bare.hinges)
            raise InputError(f"[joints] '{pattern}' matches no hinge joint{hint}", file=file)
    joints = {
        name: facts.joint(name, _model_numbers(model, name) | bare.motors.get(name, {}))
        for name in (model.joint(i).name for i in range(model.njnt))
        if name in bare.hinges
    }
    free_joints = [name for name, numbers in joints.items() if "stiffness" not in numbers]
    driven = {
        name: _DEFAULTS | numbers | dict(zip(("lower", "upper"), numbers["range"], strict=True))
        for name, numbers in joints.items()
        if name not in free_joints
    }
    if not driven:
        raise InputError("no joint has a stiffness; add [joints] tables", file=facts.file)
    bodies = tuple(model.body(i).name for i in range(1, model.nbody))
    swinging = f"no stiffness, they swing freely: {', '.join(free_joints)}"
    arrays = {
        field: np.array([numbers[key] for numbers in driven.values()])
        for field, key in JOINT_ARRAYS.items()
    }
    return arrays | {
        "joint_names": tuple(driven),
        "action_joint_names": tuple(n for n, numbers in driven.items() if numbers["action"]),
        "body_names": bodies,
        "base_name": bare.base,
        "has_free_base": bare.has_free_base,
        "physics_dt": float(facts.get("physics_dt", 0.005)),
        "control_dt": float(facts.get("control_dt", 0.02)),
        "integrator": facts.get("integrator", "implicitfast"),
        "mode_machine": tuple(facts.get("mode_machine", ())),
        "problems": (*bare.problems, *([swinging] if free_joints else [])),
        **_named_bodies(facts, bodies),
    }


def _model_numbers(model: mujoco.MjModel, name: str) -> dict[str, Any]:
    """What the MJCF itself says about a joint."""
    joint = model.joint(name)
    place, dof = joint.id, joint.dofadr[0]
    limited = bool(model.jnt_limited[place])
    lower, upper = model.jnt_range[place] if limited else (-np.inf, np.inf)
    numbers = {
        "range": (float(lower), float(upper)),
        "armature": float(model.dof_armature[dof]),
        "passive_damping": float(np.ravel(model.dof_damping[dof])[0]),
        "frictionloss": float(model.dof_frictionloss[dof]),
    }
    if model.jnt_actfrclimited[place]:
        numbers["torque_limit"] = float(np.abs(model.jnt_actfrcrange[place]).max())
    return numbers


def _named_bodies(facts: RobotFacts, bodies: tuple[str, ...]) -> dict[str, Any]:
    """The fields that name bodies."""
    links = tuple(facts.get("link_bodies", bodies))
    points = tuple(
        VirtualPoint(name, point["body"], tuple(point["offset"]))
        for name, point in facts.table("virtual_points").items()
    )
    named = {
        "anchor_name": facts.get("anchor", bodies[0]),
        "foot_names": tuple(facts.get("feet", ())),
        "key_body_names": tuple(facts.get("key_bodies", links)),
        "link_body_names": links,
        "virtual_points": points,
    }
    used = [*named["foot_names"], *named["key_body_names"], *links, *(p.body for p in points)]
    for name in [named["anchor_name"], *used]:
        if name not in bodies:
            hint = suggestion(name, bodies)
            raise InputError(f"body '{name}' is not in the robot{hint}", file=facts.file)
    return named
