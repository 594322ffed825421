"""The parts that a rerun recording of a robot is made of: shapes, moving bodies, curves.

Shapes are sent once, in the frame of their body; what moves is one transform per body, sent as
whole columns, which keeps a clip of a few seconds below some MB.

    recording = Recording("side_jump on g1")
    recording.shapes("scene/robot", model)
    recording.poses("scene/robot", model, time_s, qpos)
    recording.curves("error", time_s, [Curve("error [mm]", MEASURED, error_mm)])
    recording.write("side_jump.rrd", rrb.Blueprint(rrb.Spatial3DView(origin="scene")))
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import IO, NamedTuple

import mujoco
import numpy as np
import rerun as rr
import rerun.blueprint as rrb

from asap.picture import VISUAL, geom_colors
from asap_deploy.npz import write_atomic
from asap_deploy.rotation import rotate, xyzw_from_wxyz

TIMELINE = "time"
"""The one timeline of all recordings: seconds since the start of the episode."""

Color = tuple[int, int, int]
MEASURED: Color = (236, 137, 47)
TARGET: Color = (150, 156, 166)
REFERENCE: Color = (66, 139, 240)
"""Colours that can be told apart on a dark and on a light background."""

PALETTE: tuple[Color, ...] = (
    (236, 137, 47), (66, 139, 240), (70, 178, 120), (214, 86, 120), (148, 110, 214),
    (60, 182, 190), (190, 160, 60), (150, 156, 166),
)  # fmt: skip

_SPHERE, _ELLIPSOID, _BOX, _CAPSULE, _CYLINDER, _MESH = (
    int(getattr(mujoco.mjtGeom, f"mjGEOM_{kind}"))
    for kind in ("SPHERE", "ELLIPSOID", "BOX", "CAPSULE", "CYLINDER", "MESH")
)


class Curve(NamedTuple):
    """One line of a plot: its name in the path and the legend, its colour, its values (T,)."""

    name: str
    color: Color
    values: np.ndarray


class Recording:
    """Collects entities in memory and writes them as one ``.rrd`` file.

    There are no wall-clock times in it, and its identity follows from its title: opening a newer
    file of the same episode replaces the older one in the viewer.
    """

    def __init__(self, title: str) -> None:
        """Start with nothing but z up.

        Args:
            title: Shown by the viewer as the name of the recording.
        """
        self._stream = rr.RecordingStream(
            "asap", recording_id=str(uuid.uuid5(uuid.NAMESPACE_URL, title)), send_properties=False
        )
        self._memory = self._stream.memory_recording()
        self._stream.send_recording_name(title)
        self._stream.log("/", rr.ViewCoordinates.RIGHT_HAND_Z_UP, static=True)

    def floor(self, path: str, half_size: float = 5.0) -> None:
        """A floor whose upper side is z = 0; ``half_size`` in x and y [m]."""
        slab = rr.Boxes3D(
            half_sizes=[[half_size, half_size, 0.005]],
            centers=[[0.0, 0.0, -0.006]],
            colors=[[205, 209, 216]],
            fill_mode=rr.components.FillMode.Solid,
        )
        self._stream.log(path, slab, static=True)

    def shapes(
        self,
        path: str,
        model: mujoco.MjModel,
        *,
        geom_groups: tuple[int, ...] = VISUAL,
        tint: Color | None = None,
        name: str = "visual",
    ) -> None:
        """Send the geoms of every body once, in the body's frame, under ``path/body/name``.

        Args:
            path: Root of the robot.
            model: The robot; planes and height fields are left out.
            geom_groups: MuJoCo groups of geoms to send.
            tint: One see-through colour for everything, as for a ghost; None keeps the geoms' own.
            name: Last part of the paths, so that several sets can be switched on and off.
        """
        wanted = np.isin(model.geom_group, geom_groups)
        solid = rr.components.FillMode.Solid
        mode = solid if tint is None else rr.components.FillMode.TransparentFillMajorWireframe
        colors = (255 * geom_colors(model)).astype(np.uint8)
        if tint is not None:
            colors = np.tile(np.array([*tint, 110], np.uint8), (model.ngeom, 1))
        for body in np.unique(model.geom_bodyid[wanted]):
            ids = np.flatnonzero(wanted & (model.geom_bodyid == body))
            root = f"{self.body_path(path, model, int(body))}/{name}"
            for kind, primitive in _primitives(model, ids, colors, mode):
                self._stream.log(f"{root}/{kind}", primitive, static=True)
            for geom in ids[model.geom_type[ids] == _MESH]:
                self._stream.log(f"{root}/mesh_{geom}", _mesh(model, geom, colors), static=True)

    def poses(self, path: str, model: mujoco.MjModel, time_s: np.ndarray, qpos: np.ndarray) -> None:
        """Send where every body is at every time.

        Args:
            path: Root of the robot, as given to ``shapes``.
            model: The robot.
            time_s: Times (T,) [s].
            qpos: Poses (T, nq).
        """
        data = mujoco.MjData(model)
        position = np.empty((len(qpos), model.nbody, 3), np.float32)
        quat = np.empty((len(qpos), model.nbody, 4), np.float32)
        for frame, pose in enumerate(qpos):
            data.qpos[:] = pose
            mujoco.mj_kinematics(model, data)
            position[frame], quat[frame] = data.xpos, data.xquat
        for body in range(1, model.nbody):
            columns = rr.Transform3D.columns(
                translation=position[:, body], quaternion=xyzw_from_wxyz(quat[:, body])
            )
            self._send(self.body_path(path, model, body), time_s, columns)

    def arrows(
        self,
        path: str,
        time_s: np.ndarray,
        origins_w: np.ndarray,
        vectors_w: np.ndarray,
        color: Color,
    ) -> None:
        """Send one moving arrow: ``origins_w`` and ``vectors_w`` (T, 3) [m]."""
        self._stream.log(path, rr.Arrows3D.from_fields(colors=[color], radii=[0.012]), static=True)
        columns = rr.Arrows3D.columns(origins=np.float32(origins_w), vectors=np.float32(vectors_w))
        self._send(path, time_s, columns)

    def curves(self, path: str, time_s: np.ndarray, curves: Iterable[Curve]) -> None:
        """Send the lines of one plot, each under ``path/name``."""
        for curve in curves:
            where = f"{path}/{rr.escape_entity_path_part(curve.name)}"
            style = rr.SeriesLines(colors=[curve.color], names=[curve.name], widths=[2.0])
            self._stream.log(where, style, static=True)
            self._send(where, time_s, rr.Scalars.columns(scalars=np.asarray(curve.values, float)))

    def text(self, path: str, markdown: str) -> None:
        """Send a text once."""
        document = rr.TextDocument(markdown, media_type=rr.MediaType.MARKDOWN)
        self._stream.log(path, document, static=True)

    def write(self, path: str | Path, blueprint: rrb.Blueprint) -> None:
        """Write everything with its layout, at once or not at all; the recording ends here.

        Raises:
            InputError: If the file cannot be written.
        """
        self._stream.send_blueprint(blueprint)
        content = self._memory.drain_as_bytes()

        def fill(stream: IO[bytes]) -> None:
            stream.write(content)

        write_atomic(path, fill)

    @staticmethod
    def body_path(path: str, model: mujoco.MjModel, body: int) -> str:
        """Path of a body; all bodies hang side by side, because poses are in the world frame."""
        return f"{path}/{rr.escape_entity_path_part(model.body(body).name or f'body_{body}')}"

    def _send(self, path: str, time_s: np.ndarray, columns: rr.ComponentColumnList) -> None:
        """Send columns over the one timeline."""
        nanoseconds = np.round(1e9 * np.asarray(time_s, float)).astype("timedelta64[ns]")
        index = rr.TimeColumn(TIMELINE, duration=nanoseconds)
        self._stream.send_columns(path, [index], columns)


def _primitives(
    model: mujoco.MjModel, ids: np.ndarray, colors: np.ndarray, mode: rr.components.FillMode
) -> list[tuple[str, rr.AsComponents]]:
    """The primitive geoms among ``ids``, one batch of shapes per kind.

    MuJoCo keeps half lengths in ``geom_size``; rerun takes whole ones, and draws a capsule from one
    end of its axis, not around its middle.
    """
    size, position, quat = model.geom_size, model.geom_pos, xyzw_from_wxyz(model.geom_quat)
    shapes: list[tuple[str, rr.AsComponents]] = []
    kind = model.geom_type[ids]
    if len(i := ids[(kind == _SPHERE) | (kind == _ELLIPSOID)]):
        half = np.where(model.geom_type[i, None] == _SPHERE, size[i, :1], size[i])
        ellipsoids = rr.Ellipsoids3D(half_sizes=half, centers=position[i], quaternions=quat[i],
                                     colors=colors[i], fill_mode=mode)  # fmt: skip
        shapes.append(("ellipsoids", ellipsoids))
    if len(i := ids[kind == _BOX]):
        boxes = rr.Boxes3D(half_sizes=size[i], centers=position[i], quaternions=quat[i],
                           colors=colors[i], fill_mode=mode)  # fmt: skip
        shapes.append(("boxes", boxes))
    if len(i := ids[kind == _CYLINDER]):
        tubes = rr.Cylinders3D(lengths=2 * size[i, 1], radii=size[i, 0], centers=position[i],
                               quaternions=quat[i], colors=colors[i], fill_mode=mode)  # fmt: skip
        shapes.append(("cylinders", tubes))
    if len(i := ids[kind == _CAPSULE]):
        down = np.stack([0 * size[i, 1], 0 * size[i, 1], -size[i, 1]], axis=1)
        end = position[i] + rotate(model.geom_quat[i], down)
        capsules = rr.Capsules3D(lengths=2 * size[i, 1], radii=size[i, 0], translations=end,
                                 quaternions=quat[i], colors=colors[i], fill_mode=mode)  # fmt: skip
        shapes.append(("capsules", capsules))
    return shapes


def _mesh(model: mujoco.MjModel, geom: int, colors: np.ndarray) -> rr.Mesh3D:
    """A mesh geom with its vertices in the body's frame."""
    mesh = model.geom_dataid[geom]
    first, count = model.mesh_vertadr[mesh], model.mesh_vertnum[mesh]
    face, faces = model.mesh_faceadr[mesh], model.mesh_facenum[mesh]
    vertices = rotate(model.geom_quat[geom], model.mesh_vert[first : first + count].astype(float))
    return rr.Mesh3D(
        vertex_positions=vertices + model.geom_pos[geom],
        triangle_indices=model.mesh_face[face : face + faces],
        albedo_factor=colors[geom],
    )
