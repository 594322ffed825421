"""Pictures of robots without a graphics driver: every pixel is a ray through MuJoCo's own shapes.

MuJoCo's renderer needs OpenGL, which headless machines often lack. ``mj_multiRay`` needs nothing:
it gives distance and surface normal, and from these come shading, soft shadows and depth order.
The light comes from a small disc, another point of it for every sample within a pixel, so that
averaging the samples softens edges and shadows at once. Nothing is random: equal input gives equal
bytes.

    data = posed(model, qpos)
    camera = Camera.framing(*spheres(model, data), aspect=3 / 4)
    image = render(model, data, camera, 360, 480, ghost=posed(model, reference_qpos))
    write_png("robot.png", image)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import matplotlib.image
import mujoco
import numpy as np

from asap.camera import Camera, Vector
from asap_deploy.npz import write_atomic

VISUAL = (2,)
"""MuJoCo geom group of what is drawn."""

COLLISION = (3,)
"""MuJoCo geom group of what collides."""

_EPSILON_M = 2e-3
"""Distance below which a surface does not shade itself; the thinnest parts are a few mm."""

_PLANE = int(mujoco.mjtGeom.mjGEOM_PLANE)  # comparing an array with the enum is 200 times slower


@dataclass(frozen=True, kw_only=True)
class Look:
    """Colours (red, green, blue in [0, 1] as on a screen) and light of a picture."""

    samples: int = 2
    """Samples along each side of a pixel; 1 is quick and has hard edges."""
    lights: int = 2
    """Points of the lamp per sample; the softness of shadows needs ``samples**2 * lights`` >= 8."""
    sky_top: Vector = (0.93, 0.95, 0.975)
    sky_bottom: Vector = (0.99, 0.993, 1.0)
    floor: tuple[Vector, Vector] | None = ((0.945, 0.95, 0.96), (0.885, 0.895, 0.91))
    """The two colours of the squares on z = 0; None leaves the floor away."""
    square: float = 0.5
    """Side of a square on the floor [m]."""
    fade: float = 2.6
    """Distance from the middle of the picture at which the floor has almost become sky [m]."""
    ghost: Vector = (0.16, 0.47, 0.90)
    ghost_opacity: float = 0.32
    """Of a surface seen straight on; edges are denser."""


DEFAULT_LOOK = Look()


def posed(model: mujoco.MjModel, qpos: np.ndarray) -> mujoco.MjData:
    """A state with the robot in one pose: ``qpos`` (nq,), kinematics done."""
    data = mujoco.MjData(model)
    data.qpos[:] = qpos
    mujoco.mj_kinematics(model, data)
    return data


def spheres(
    model: mujoco.MjModel, data: mujoco.MjData, geom_groups: tuple[int, ...] = VISUAL
) -> tuple[np.ndarray, np.ndarray]:
    """Middles (N, 3) and radii (N,) of spheres around the drawn geoms that have a size [m]."""
    ids = np.flatnonzero(np.isin(model.geom_group, geom_groups) & (model.geom_rbound > 0.0))
    return data.geom_xpos[ids].copy(), model.geom_rbound[ids].copy()


def render(
    model: mujoco.MjModel,
    data: mujoco.MjData,
    camera: Camera,
    width: int,
    height: int,
    geom_groups: tuple[int, ...] = VISUAL,
    *,
    ghost: mujoco.MjData | None = None,
    ghost_offset_w: Vector = (0.0, 0.0, 0.0),
    look: Look = DEFAULT_LOOK,
) -> np.ndarray:
    """Draw a robot, its shadow on a floor at z = 0, and perhaps a second pose as a tinted ghost.

    Args:
        model: The robot; planes in it are drawn like the floor.
        data: Its state after ``mj_kinematics``.
        camera: Where to look from.
        width: Pixels in a row.
        height: Pixels in a column.
        geom_groups: MuJoCo groups of geoms to draw.
        ghost: A state of the same model to draw see-through and without a shadow.
        ghost_offset_w: Moves the ghost, for instance to stand beside the robot [m].
        look: Colours and quality.

    Returns:
        Image (height, width, 3) uint8.
    """
    scene = _Scene(model, data, geom_groups, camera, look)
    veil = _Scene(model, ghost, geom_groups, camera, look) if ghost is not None else None
    total = np.zeros((height * width, 3))
    for shift, lamps in _samples(look):
        rays = camera.rays(width, height, shift)
        hits = scene.cast(camera.position_w, rays)
        color = scene.shade(rays, hits, lamps)
        if veil is not None:
            eye = camera.position_w - np.asarray(ghost_offset_w)
            color = _blend_ghost(color, rays, hits, veil.cast(eye, rays, floor=False), look)
        total += color
    return (255 * _screen(total / look.samples**2) + 0.5).astype(np.uint8).reshape(height, width, 3)


def write_png(path: str | Path, image: np.ndarray) -> None:
    """Write an image (H, W, 3) uint8 at once or not at all; equal images give equal files."""
    write_atomic(path, lambda stream: matplotlib.image.imsave(stream, image, format="png"))


class _Hits(NamedTuple):
    """What R rays met: distance (R,) [m] (inf for the sky), geom id (-1 floor, -2 sky), normal."""

    distance: np.ndarray
    geom: np.ndarray
    normal: np.ndarray


class _Scene:
    """A robot in one pose with the light and the colours of one picture."""

    def __init__(
        self, model: mujoco.MjModel, data: mujoco.MjData, groups: tuple[int, ...],
        camera: Camera, look: Look,
    ) -> None:  # fmt: skip
        """Gather what rays need; nothing is cast yet."""
        self.model, self.data, self.camera, self.look = model, data, camera, look
        self.groups = np.isin(np.arange(mujoco.mjNGROUP), groups).astype(np.uint8)
        middle, radius = spheres(model, data, groups)
        self.low = (middle - radius[:, None]).min(axis=0, initial=np.inf)
        self.high = (middle + radius[:, None]).max(axis=0, initial=-np.inf)
        if (np.isin(model.geom_group, groups) & (model.geom_type == _PLANE)).any():
            self.low, self.high = np.full(3, -np.inf), np.full(3, np.inf)

    def cast(self, origin: np.ndarray, rays: np.ndarray, *, floor: bool = True) -> _Hits:
        """The first surface on every ray (R, 3) from one point."""
        distance, geom = np.full(len(rays), np.inf), np.full(len(rays), -2, np.int32)
        normal = np.zeros((len(rays), 3))
        near = np.flatnonzero(self._near(origin, rays))
        if len(near):
            distance[near], geom[near], normal[near] = self._cast_near(origin, rays[near])
        hit = np.flatnonzero(geom >= 0)
        plane = hit[self.model.geom_type[geom[hit]] == _PLANE]
        distance[plane], geom[plane] = (distance[plane], -1) if floor else (np.inf, -2)
        if floor and self.look.floor is not None:
            with np.errstate(divide="ignore"):
                depth = np.where(rays[:, 2] < 0.0, -origin[2] / rays[:, 2], np.inf)
            below = (depth > 0.0) & (depth < distance)
            distance[below], geom[below], normal[below] = depth[below], -1, (0.0, 0.0, 1.0)
        return _Hits(distance, geom, normal)

    def _near(self, origin: np.ndarray, rays: np.ndarray) -> np.ndarray:
        """Which rays (R,) pass through the box around the robot; the others cannot hit it."""
        with np.errstate(divide="ignore", invalid="ignore"):
            low, high = (self.low - origin) / rays, (self.high - origin) / rays
        enter, leave = np.fmin(low, high), np.fmax(low, high)
        enter = np.maximum(np.maximum(enter[:, 0], enter[:, 1]), enter[:, 2])
        leave = np.minimum(np.minimum(leave[:, 0], leave[:, 1]), leave[:, 2])
        return (enter <= leave) & (leave > 0.0)

    def _cast_near(self, origin: np.ndarray, rays: np.ndarray) -> _Hits:
        """MuJoCo's answer for rays that may hit."""
        count = len(rays)
        geom, distance = np.empty(count, np.int32), np.empty(count)
        normal = np.empty(3 * count)
        mujoco.mj_multiRay(
            self.model, self.data, origin, rays.reshape(-1), self.groups,
            True, -1, geom, distance, normal, count, mujoco.mjMAXVAL,
        )  # fmt: skip
        distance[geom < 0] = np.inf
        return _Hits(distance, np.where(geom < 0, -2, geom), normal.reshape(-1, 3))

    def shade(self, rays: np.ndarray, hits: _Hits, lamps: np.ndarray) -> np.ndarray:
        """Linear colour (R, 3) of what the camera's rays met."""
        look, model = self.look, self.model
        color = _linear(look.sky_bottom) + np.clip(3.0 * rays[:, 2:], 0.0, 1.0) * (
            _linear(look.sky_top) - _linear(look.sky_bottom)
        )
        on_robot = np.flatnonzero(hits.geom >= 0)
        if len(on_robot):
            points = self.camera.position_w + rays[on_robot] * hits.distance[on_robot, None]
            albedo = _linear(geom_colors(model)[hits.geom[on_robot]])
            light = self._light(points, hits.normal[on_robot], rays[on_robot], lamps)
            color[on_robot] = albedo * light[:, :1] + light[:, 1:]
        on_floor = np.flatnonzero(hits.geom == -1)
        if len(on_floor) and look.floor is not None:
            points = self.camera.position_w + rays[on_floor] * hits.distance[on_floor, None]
            odd = np.floor(points[:, :2] / look.square).sum(axis=1) % 2 > 0
            tiles = np.where(odd[:, None], _linear(look.floor[1]), _linear(look.floor[0]))
            visible = np.mean([self._visible(points, lamp) for lamp in lamps], axis=0)
            tiles = tiles * (0.42 + 0.58 * visible[:, None])
            away = np.linalg.norm((points - self.camera.look_at_w)[:, :2], axis=1) / look.fade
            color[on_floor] += np.exp(-(away[:, None] ** 3)) * (tiles - color[on_floor])
        return color

    def _light(
        self, points: np.ndarray, normal: np.ndarray, rays: np.ndarray, lamps: np.ndarray
    ) -> np.ndarray:
        """Diffuse light and highlight (R, 2): lamp with shadow, sky above, rim at the edges."""
        facing = np.clip(-np.einsum("ri,ri->r", normal, rays), 0.0, 1.0)
        diffuse = 0.30 + 0.20 * normal[:, 2] + 0.12 * facing
        gloss = 0.05 * (1.0 - facing) ** 3
        for lamp in lamps:
            toward = _unit(self._lamp_w(lamp) - points)
            cosine = np.clip(np.einsum("ri,ri->r", normal, toward), 0.0, 1.0)
            half = np.clip(np.einsum("ri,ri->r", normal, _unit(toward - rays)), 0.0, 1.0)
            visible = self._visible(points + _EPSILON_M * normal, lamp)
            diffuse += 0.80 * cosine * visible / len(lamps)
            gloss += 0.16 * half**40 * visible / len(lamps)
        return np.stack([diffuse, gloss], axis=1)

    def _lamp_w(self, lamp: np.ndarray) -> np.ndarray:
        """A point (3,) of the lamp, which hangs behind the camera, to its left and high up."""
        right, _, forward = self.camera.axes
        flat = _unit(np.array([forward[0], forward[1], 0.0]))
        up = np.array([0.0, 0.0, 1.0])
        middle = np.asarray(self.camera.look_at_w) - 1.6 * right - 2.0 * flat + 4.4 * up
        return middle + lamp[0] * right + lamp[1] * flat

    def _visible(self, points: np.ndarray, lamp: np.ndarray) -> np.ndarray:
        """Which points (R, 3) the lamp reaches: 1 or 0."""
        origin = self._lamp_w(lamp)
        offset = points - origin
        length = np.sqrt(np.einsum("ri,ri->r", offset, offset))
        hits = self.cast(origin, offset / length[:, None], floor=False)
        return (hits.distance > length - _EPSILON_M).astype(float)


def _samples(look: Look) -> Iterator[tuple[tuple[float, float], np.ndarray]]:
    """Places within a pixel, each with its points (lights, 2) of the lamp [m], a sunflower disc."""
    count = look.samples**2 * look.lights
    index = np.arange(count)
    angle, radius = index * np.pi * (3 - np.sqrt(5)), 0.28 * np.sqrt((index + 0.5) / count)
    disc = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    for i in range(look.samples**2):
        row, column = divmod(i, look.samples)
        shift = ((column + 0.5) / look.samples, (row + 0.5) / look.samples)
        yield shift, disc[i :: look.samples**2]


def _blend_ghost(
    color: np.ndarray, rays: np.ndarray, hits: _Hits, veil: _Hits, look: Look
) -> np.ndarray:
    """Lay the ghost over what is behind it; grazing surfaces are denser, which draws an outline."""
    seen = np.flatnonzero(veil.distance < hits.distance)
    facing = np.clip(-np.einsum("ri,ri->r", veil.normal[seen], rays[seen]), 0.0, 1.0)[:, None]
    opacity = look.ghost_opacity + (0.9 - look.ghost_opacity) * (1.0 - facing) ** 3
    tint = np.asarray(look.ghost) * (0.85 + 0.2 * facing)
    behind = _screen(color[seen])  # on the screen's scale: added light would outshine dark parts
    blended = color.copy()
    blended[seen] = _linear(behind + opacity * (tint - behind))
    return blended


def geom_colors(model: mujoco.MjModel) -> np.ndarray:
    """Colour (ngeom, 3) of every geom: its material's if it has one, as MuJoCo draws it."""
    colors = model.geom_rgba[:, :3].astype(float)
    with_material = np.flatnonzero(model.geom_matid >= 0)
    colors[with_material] = model.mat_rgba[model.geom_matid[with_material], :3]
    return colors


def _linear(color: np.ndarray | Vector) -> np.ndarray:
    """Screen colour to light intensity, in which light may be added."""
    return np.asarray(color, dtype=float) ** 2.2


def _screen(light: np.ndarray) -> np.ndarray:
    """Light intensity to screen colour in [0, 1]."""
    return np.clip(light, 0.0, 1.0) ** (1 / 2.2)


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors (..., 3) of length one."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
