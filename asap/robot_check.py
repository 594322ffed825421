"""What a robot's description lacks, or what is odd about it, in sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from asap.robot import Robot

_MIN_MASS = 1e-3


def problems(robot: Robot) -> list[str]:
    """Go through everything that commonly goes wrong in a description.

    Args:
        robot: The robot.

    Returns:
        One sentence for each finding; empty for a sound description.
    """
    return [
        *robot.problems,
        *_gains(robot),
        *_limits(robot),
        *_stiff_for_step(robot),
        *_feet(robot),
        *_masses(robot),
        # A used robot's left side differs from its right: that is what its twin is for.
        *([] if robot.facts.twin_file else _sides(robot)),
    ]


def _named(robot: Robot, wrong: np.ndarray) -> str:
    names = [name for name, is_wrong in zip(robot.joint_names, wrong, strict=True) if is_wrong]
    return ", ".join(names[:4]) + (f", ... ({len(names)})" if len(names) > 4 else "")


def _gains(robot: Robot) -> list[str]:
    """Numbers that a motor has and the description does not."""
    findings = {
        "no torque limit": ~np.isfinite(robot.torque_limit),
        "no velocity limit": ~np.isfinite(robot.joint_vel_limit),
        "zero armature (rotor inertia)": (robot.armature == 0.0)
        & (robot.facts.get("engine") != "bullet"),
        "zero stiffness": robot.stiffness == 0.0,
        "no damping at all": robot.damping + robot.passive_damping == 0.0,
    }
    return [f"{what}: {_named(robot, wrong)}" for what, wrong in findings.items() if wrong.any()]


def _limits(robot: Robot) -> list[str]:
    """Joint ranges that are absent, empty, or do not hold the default pose."""
    lower, upper, pose = robot.joint_pos_lower, robot.joint_pos_upper, robot.default_joint_pos
    findings = {
        "no joint limits": ~np.isfinite(upper - lower),
        "empty joint range": lower >= upper,
        "default pose outside the joint range": (pose < lower - 1e-6) | (pose > upper + 1e-6),
    }
    return [f"{what}: {_named(robot, wrong)}" for what, wrong in findings.items() if wrong.any()]


def _stiff_for_step(robot: Robot) -> list[str]:
    """Loops too fast for the physics step, by the smallest inertia that the joint can see.

    An explicit loop is stable for dt sqrt(kp / I) < 2 and dt kd / I < 2. The implicit integrators
    take the damping in, so only the spring is judged for them.
    """
    dof_inertia = robot.model.dof_invweight0[robot.qvel_ids]
    inertia = np.maximum(1.0 / np.maximum(dof_inertia, 1e-9), robot.armature)
    spring = robot.physics_dt * np.sqrt(robot.stiffness / inertia) > 2.0
    damper = robot.physics_dt * robot.damping / inertia > 2.0
    wrong = spring | (damper if robot.integrator in ("euler", "rk4") else False)
    step = f"gains too large for physics_dt = {robot.physics_dt:g} s"
    return [f"{step}: {_named(robot, wrong)}"] if wrong.any() else []


def _feet(robot: Robot) -> list[str]:
    """Feet that are absent or have nothing to stand on."""
    if not robot.has_free_base:
        return []
    if not robot.foot_names:
        return ["no feet are named: contact and clearance are not computed"]
    return [
        f"foot '{name}' has no collision geoms: it falls through the floor"
        for name, geoms in zip(robot.foot_names, robot.foot_geom_ids, strict=True)
        if len(geoms) == 0
    ]


def _masses(robot: Robot) -> list[str]:
    """Moving bodies with next to no mass make the simulation stiff."""
    model = robot.model
    moving = [i for i in range(1, model.nbody) if model.body_dofnum[i] > 0]
    light = [model.body(i).name for i in moving if model.body_subtreemass[i] < _MIN_MASS]
    return [f"moving bodies without mass: {', '.join(light)}"] if light else []


def _sides(robot: Robot) -> list[str]:
    """Numbers of a motor, a range or a mass that differ between left and right."""
    findings = []
    for name in robot.joint_names:
        other = name.replace("left", "right", 1)
        if other == name:
            continue
        if other not in robot.joint_names:
            findings.append(f"joint '{name}' has no '{other}'")
            continue
        a, b = robot.joint_ids([name, other])
        fields = ("stiffness", "damping", "torque_limit", "armature", "frictionloss")
        odd = [f for f in fields if not np.isclose(getattr(robot, f)[a], getattr(robot, f)[b])]
        spans = (robot.joint_pos_upper - robot.joint_pos_lower)[[a, b]]
        if np.isfinite(spans).all() and abs(spans[0] - spans[1]) > 1e-3:
            odd.append("range")
        if odd:
            findings.append(f"left and right differ in {', '.join(odd)}: {name}")
    for name in robot.body_names:
        other = name.replace("left", "right", 1)
        if other != name and other in robot.body_names:
            masses = [robot.model.body(n).mass[0] for n in (name, other)]
            if abs(masses[0] - masses[1]) > 0.01 * max(masses):
                findings.append(f"left and right differ in mass: {name}")
    return findings
