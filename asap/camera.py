"""A pinhole camera: where pixels look, where points appear, and how far to stand away.

camera = Camera(look_at_w=(0.0, 0.0, 0.7), azimuth_deg=90.0)
rays = camera.rays(width=320, height=240)                  # (240 * 320, 3)
column, row, depth = camera.project(point_w, 320, 240)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Vector = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Camera:
    """A pinhole camera; azimuth and elevation turn as those of MuJoCo's free camera."""

    look_at_w: Vector = (0.0, 0.0, 0.75)
    """Point in the middle of the picture [m]."""
    azimuth_deg: float = 145.0
    """Direction of view around z; 180 looks at the face of a robot that faces +x [deg]."""
    elevation_deg: float = -12.0
    """Direction of view above the horizon; negative looks down [deg]."""
    distance: float = 3.0
    """From the camera to ``look_at_w`` [m]."""
    fov_deg: float = 30.0
    """Vertical field of view [deg]; small, so that limbs are not distorted."""

    @property
    def axes(self) -> np.ndarray:
        """Rows right, up, forward of the camera in the world (3, 3)."""
        azimuth, elevation = np.radians(self.azimuth_deg), np.radians(self.elevation_deg)
        flat = np.array([np.cos(azimuth), np.sin(azimuth), 0.0])
        right = np.array([flat[1], -flat[0], 0.0])
        forward = np.cos(elevation) * flat + np.array([0.0, 0.0, np.sin(elevation)])
        return np.stack([right, np.cross(right, forward), forward])

    @property
    def position_w(self) -> np.ndarray:
        """Where the camera is (3,) [m]."""
        return np.asarray(self.look_at_w) - self.distance * self.axes[2]

    def rays(self, width: int, height: int, shift: tuple[float, float] = (0.5, 0.5)) -> np.ndarray:
        """Unit directions of view through every pixel.

        Args:
            width: Pixels in a row.
            height: Pixels in a column.
            shift: Place within the pixel, right and down, each in [0, 1].

        Returns:
            Directions (height * width, 3), row by row from the top.
        """
        half = np.tan(np.radians(self.fov_deg) / 2)
        right, up, forward = self.axes
        x = half * (2 * (np.arange(width) + shift[0]) - width) / height
        y = half * (height - 2 * (np.arange(height) + shift[1])) / height
        rays = forward + x[None, :, None] * right + y[:, None, None] * up
        return (rays / np.linalg.norm(rays, axis=-1, keepdims=True)).reshape(-1, 3)

    def project(self, points_w: np.ndarray, width: int, height: int) -> np.ndarray:
        """Where points appear in the picture.

        Args:
            points_w: Points (..., 3) [m].
            width: Pixels in a row.
            height: Pixels in a column.

        Returns:
            Pixels right and down from the upper left corner, and depth [m] (..., 3).
        """
        seen = (np.asarray(points_w) - self.position_w) @ self.axes.T
        scale = height / (2 * np.tan(np.radians(self.fov_deg) / 2) * seen[..., 2])
        column, row = width / 2 + scale * seen[..., 0], height / 2 - scale * seen[..., 1]
        return np.stack([column, row, seen[..., 2]], axis=-1)

    @classmethod
    def framing(
        cls,
        centers_w: np.ndarray,
        radii: np.ndarray,
        *,
        aspect: float = 1.0,
        margin: float = 1.05,
        azimuth_deg: float = azimuth_deg,
        elevation_deg: float = elevation_deg,
        fov_deg: float = fov_deg,
    ) -> Camera:
        """The nearest camera of a given direction that sees all of some spheres.

        A sphere of radius r at (x, y, z) right, up and forward of the point looked at lies inside
        the side of the view with half angle a, from distance d, if |x| cos a + r <= (d + z) sin a.

        Args:
            centers_w: Middles of the spheres (N, 3) [m]; ``spheres`` gives those of a robot.
            radii: Their radii (N,) [m].
            aspect: Width over height of the picture.
            margin: Factor on the distance, for air around the robot.
            azimuth_deg: As the field.
            elevation_deg: As the field.
            fov_deg: As the field.

        Returns:
            The camera.
        """
        axes = cls(azimuth_deg=azimuth_deg, elevation_deg=elevation_deg).axes
        seen, radius = np.asarray(centers_w) @ axes.T, np.asarray(radii)[:, None]
        center = ((seen + radius).max(axis=0) + (seen - radius).min(axis=0)) / 2
        half = np.tan(np.radians(fov_deg) / 2) * np.array([aspect, 1.0])
        sine, cosine = half / np.hypot(half, 1.0), 1.0 / np.hypot(half, 1.0)
        away = np.abs(seen - center)[:, :2]
        needed = (away * cosine + radius) / sine - (seen - center)[:, 2:]
        x, y, z = (axes.T @ center).tolist()
        return cls(
            look_at_w=(x, y, z),
            azimuth_deg=azimuth_deg,
            elevation_deg=elevation_deg,
            distance=float(margin * needed.max()),
            fov_deg=fov_deg,
        )
