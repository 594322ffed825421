"""The shapes under the feet, and how high their lowest points are.

The lowest point of a convex shape is its support point in the direction of gravity:

    lowest z = z of the shape's centre - support(shape, up in the shape's frame)

which is exact for every primitive and for meshes, and vectorises over frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

from asap_deploy.rotation import rotate, rotate_inverse

_Type = mujoco.mjtGeom
_UP_W = np.array([0.0, 0.0, 1.0])


@dataclass(frozen=True, kw_only=True, eq=False)
class Sole:
    """One collision shape of a foot, in the frame of its body."""

    foot: int
    """Which foot it belongs to."""
    geom: int
    """MuJoCo's id."""
    body: int
    """Place of its body in the robot's body_names."""
    kind: mujoco.mjtGeom
    size: np.ndarray
    """(3,) as in MuJoCo [m]"""
    pos_b: np.ndarray
    """(3,) [m]"""
    quat_b: np.ndarray
    """(4,) wxyz"""
    vertices: np.ndarray
    """(V, 3) of a mesh, in the shape's frame [m]; else empty"""


def soles(
    model: mujoco.MjModel, body_names: tuple[str, ...], foot_names: tuple[str, ...]
) -> tuple[Sole, ...]:
    """The colliding geoms of the feet and of what hangs on them.

    Args:
        model: The robot's model.
        body_names: The robot's bodies, in the order of the arrays given to ``sole_clearance``.
        foot_names: The feet.

    Returns:
        One entry for each geom; a geom with a shape that has no lowest point (a plane) is left out.
    """
    found = []
    for foot, foot_name in enumerate(foot_names):
        for geom in range(model.ngeom):
            body = model.geom_bodyid[geom]
            collides = model.geom_contype[geom] or model.geom_conaffinity[geom]
            if collides and _is_below(model, body, model.body(foot_name).id):
                place = body_names.index(model.body(body).name)
                found.append(_sole(model, foot, geom, place))
    return tuple(sole for sole in found if sole.kind not in (_Type.mjGEOM_PLANE, _Type.mjGEOM_SDF))


def sole_clearance(
    shapes: tuple[Sole, ...], num_feet: int, body_pos_w: np.ndarray, body_quat_wxyz: np.ndarray
) -> np.ndarray:
    """Height of each foot's lowest point above z = 0.

    Args:
        shapes: What ``soles`` gave.
        num_feet: Number of feet.
        body_pos_w: Shape (T, B, 3) [m].
        body_quat_wxyz: Shape (T, B, 4).

    Returns:
        Shape (T, num_feet) [m]; inf for a foot without shapes.
    """
    lowest = np.full((len(body_pos_w), num_feet), np.inf)
    for shape in shapes:
        quat = body_quat_wxyz[:, shape.body]
        centre_w = body_pos_w[:, shape.body] + rotate(quat, shape.pos_b)
        up = rotate_inverse(shape.quat_b, rotate_inverse(quat, _UP_W))
        bottom = centre_w[:, 2] - _support(shape, up)
        lowest[:, shape.foot] = np.minimum(lowest[:, shape.foot], bottom)
    return lowest


def _support(shape: Sole, up: np.ndarray) -> np.ndarray:
    """How far a shape reaches below its centre, (T,) [m]; ``up`` (T, 3) is in its own frame."""
    size = shape.size
    if shape.kind == _Type.mjGEOM_SPHERE:
        return np.full(len(up), size[0])
    if shape.kind == _Type.mjGEOM_CAPSULE:
        return size[0] + size[1] * np.abs(up[:, 2])
    if shape.kind == _Type.mjGEOM_CYLINDER:
        return size[0] * np.hypot(up[:, 0], up[:, 1]) + size[1] * np.abs(up[:, 2])
    if shape.kind == _Type.mjGEOM_BOX:
        return np.abs(up) @ size
    if shape.kind == _Type.mjGEOM_ELLIPSOID:
        return np.linalg.norm(up * size, axis=-1)
    return np.max(-up @ shape.vertices.T, axis=-1)


def _sole(model: mujoco.MjModel, foot: int, geom: int, place: int) -> Sole:
    """The shape of one geom."""
    kind = _Type(model.geom_type[geom])
    vertices = np.zeros((1, 3))
    if kind == _Type.mjGEOM_MESH:
        mesh = model.geom_dataid[geom]
        first = model.mesh_vertadr[mesh]
        vertices = model.mesh_vert[first : first + model.mesh_vertnum[mesh]].astype(np.float64)
    return Sole(
        foot=foot,
        geom=geom,
        body=place,
        kind=kind,
        size=model.geom_size[geom].copy(),
        pos_b=model.geom_pos[geom].copy(),
        quat_b=model.geom_quat[geom].copy(),
        vertices=vertices,
    )


def _is_below(model: mujoco.MjModel, body: int, ancestor: int) -> bool:
    """True if a body is another one or hangs on it."""
    while body not in (0, ancestor):
        body = model.body_parentid[body]
    return body == ancestor
