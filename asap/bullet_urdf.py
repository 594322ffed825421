"""A robot's compiled model as URDF, for an engine that reads no MJCF.

text = urdf_text(robot.model, robot.name)

Frames of links are those of bodies. An inertia is written in its principal axes, so that nobody has
to diagonalise it again, and every number with all its digits. Only what can touch the floor has a
shape. Rotor inertia, dry friction and motors have no place in a URDF.
"""

from __future__ import annotations

from xml.sax.saxutils import quoteattr

import mujoco
import numpy as np

from asap_deploy import rotation
from asap_deploy.errors import InputError

_HINGE = mujoco.mjtJoint.mjJNT_HINGE
_FREE = mujoco.mjtJoint.mjJNT_FREE
_UNLIMITED = 1e6
"""Torque and speed limits that a URDF must name [Nm, rad/s]; ours are applied elsewhere."""


def urdf_text(model: mujoco.MjModel, name: str) -> str:
    """Links, joints, inertias and the shapes that meet the floor.

    Args:
        model: One robot: a tree of bodies with at most one hinge each, below one root.
        name: What the URDF is called.

    Returns:
        The text of a URDF; links are named like bodies, a welded body's joint ``weld_BODY``.

    Raises:
        InputError: If a joint or a shape has no equivalent.
    """
    parts = [f"<robot name={quoteattr(name)}>"]
    roots = [body for body in range(1, model.nbody) if model.body_parentid[body] == 0]
    if len(roots) != 1:
        raise InputError(f"a URDF holds one robot; the model has {len(roots)} roots")
    for body in range(1, model.nbody):
        parts.append(_link(model, body))
        if body not in roots:
            parts.append(_joint(model, body))
    return "\n".join([*parts, "</robot>", ""])


def floor_geoms(model: mujoco.MjModel, body: int) -> list[int]:
    """Ids of the geoms of a body that can touch the floor."""
    floor = model.geom("floor").id
    return [
        geom
        for geom in np.flatnonzero(model.geom_bodyid == body).tolist()
        if model.geom_contype[geom] & model.geom_conaffinity[floor]
        or model.geom_contype[floor] & model.geom_conaffinity[geom]
    ]


def sliding_friction(model: mujoco.MjModel, body: int) -> float:
    """Friction of a body on the floor as MuJoCo combines the two; 0 where nothing touches.

    One number has to do for all shapes of a body: the largest.
    """
    floor, found = model.geom("floor").id, 0.0
    for geom in floor_geoms(model, body):
        # The one of higher priority decides alone; otherwise the larger number counts.
        ours, theirs = model.geom_priority[geom], model.geom_priority[floor]
        deciding = [geom, floor] if ours == theirs else [geom if ours > theirs else floor]
        if model.geom_condim[deciding].max() > 1:
            found = max(found, float(model.geom_friction[deciding, 0].max()))
    return found


def _link(model: mujoco.MjModel, body: int) -> str:
    """Mass, inertia and shapes of a body."""
    # A link without <inertial> would weigh 1 kg in some engines: all have one, also the empty ones.
    moments = zip(("ixx", "iyy", "izz"), model.body_inertia[body], strict=True)
    inertia = " ".join(f'{key}="{_digits(value)}"' for key, value in moments)
    shapes = "".join(_collision(model, geom) for geom in floor_geoms(model, body))
    return (
        f"<link name={quoteattr(model.body(body).name)}>"
        f"<inertial>{_origin(model.body_ipos[body], model.body_iquat[body])}"
        f'<mass value="{_digits(model.body_mass[body])}"/>'
        f'<inertia {inertia} ixy="0" ixz="0" iyz="0"/></inertial>{shapes}</link>'
    )


def _joint(model: mujoco.MjModel, body: int) -> str:
    """What holds a body to its parent."""
    child = model.body(body).name
    parent = model.body(int(model.body_parentid[body])).name
    first, count = int(model.body_jntadr[body]), int(model.body_jntnum[body])
    if count > 1 or (count == 1 and model.jnt_type[first] != _HINGE):
        raise InputError(f"body '{child}' has joints that a URDF cannot say: one hinge at most")
    name, kind, inside = f"weld_{child}", "fixed", ""
    if count == 1:
        name, kind, inside = _hinge(model, first)
    return (
        f'<joint name={quoteattr(name)} type="{kind}">'
        f"{_origin(model.body_pos[body], model.body_quat[body])}"
        f"<parent link={quoteattr(parent)}/><child link={quoteattr(child)}/>{inside}</joint>"
    )


def _hinge(model: mujoco.MjModel, joint: int) -> tuple[str, str, str]:
    """Name, type and what else a hinge has."""
    name = model.joint(joint).name
    if np.abs(model.jnt_pos[joint]).max() > 1e-12 or model.qpos0[model.jnt_qposadr[joint]] != 0.0:
        raise InputError(
            f"joint '{name}' does not turn about the origin of its body or is not 0 there: a URDF "
            "cannot say so"
        )
    axis = f'<axis xyz="{_digits(*model.jnt_axis[joint])}"/>'
    limit = f'effort="{_UNLIMITED:g}" velocity="{_UNLIMITED:g}"'
    if not model.jnt_limited[joint]:
        return name, "continuous", f"{axis}<limit {limit}/>"
    lower, upper = (_digits(value) for value in model.jnt_range[joint])
    return name, "revolute", f'{axis}<limit lower="{lower}" upper="{upper}" {limit}/>'


def _collision(model: mujoco.MjModel, geom: int) -> str:
    """A shape."""
    kind, size = mujoco.mjtGeom(int(model.geom_type[geom])), model.geom_size[geom]
    if kind == mujoco.mjtGeom.mjGEOM_SPHERE:
        shape = f'<sphere radius="{_digits(size[0])}"/>'
    elif kind in (mujoco.mjtGeom.mjGEOM_CAPSULE, mujoco.mjtGeom.mjGEOM_CYLINDER):
        # Both along z; MuJoCo keeps half the length, without the caps.
        what = "capsule" if kind == mujoco.mjtGeom.mjGEOM_CAPSULE else "cylinder"
        shape = f'<{what} radius="{_digits(size[0])}" length="{_digits(2.0 * size[1])}"/>'
    elif kind == mujoco.mjtGeom.mjGEOM_BOX:
        shape = f'<box size="{_digits(*(2.0 * size))}"/>'
    else:
        name = model.geom(geom).name or f"{geom}"
        raise InputError(
            f"geom '{name}' is a {kind.name.removeprefix('mjGEOM_').lower()}, which a URDF cannot "
            "say; use spheres, capsules, cylinders and boxes"
        )
    origin = _origin(model.geom_pos[geom], model.geom_quat[geom])
    return f"<collision>{origin}<geometry>{shape}</geometry></collision>"


def _origin(pos: np.ndarray, quat: np.ndarray) -> str:
    """A frame in its parent's."""
    return f'<origin xyz="{_digits(*pos)}" rpy="{_digits(*_rpy(quat))}"/>'


def _rpy(quat: np.ndarray) -> tuple[float, float, float]:
    """Angles about the fixed axes x, y, z, in this order: R = Rz(yaw) Ry(pitch) Rx(roll)."""
    matrix = rotation.to_matrix(rotation.normalize(np.asarray(quat, dtype=float)))
    level = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    pitch = float(np.arctan2(-matrix[2, 0], level))
    if level < 1e-9:  # looking straight up: roll and yaw are one turn
        return float(np.arctan2(-matrix[1, 2], matrix[1, 1])), pitch, 0.0
    roll = float(np.arctan2(matrix[2, 1], matrix[2, 2]))
    return roll, pitch, float(np.arctan2(matrix[1, 0], matrix[0, 0]))


def _digits(*values: float) -> str:
    """Numbers with every digit that they have."""
    return " ".join(repr(float(value)) for value in values)
