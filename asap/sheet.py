"""A contact sheet: one PNG that shows an episode at a glance.

Pictures of the robot with its reference as a ghost stand in a row; below them, on the same time
axis, the tracking error, the height of the base and the feet on the ground. A picture stands above
the moment that it shows.

    contact_sheet(rollout, "side_jump.png")
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from asap.camera import Camera
from asap.picture import (
    COLLISION,
    DEFAULT_LOOK,
    VISUAL,
    Look,
    posed,
    render,
    spheres,
    write_png,
)
from asap.robot import Robot
from asap.rollout import Rollout
from asap.spans import spans
from asap_deploy.errors import InputError
from asap_deploy.npz import write_atomic

INK, FAINT, GRID = "#2b313b", "#7b8494", "#e3e6ec"
"""Colours of text and robot, of secondary text, and of thin lines."""

REFERENCE = "#2f7de1"
LEFT_FOOT, RIGHT_FOOT = "#d9742b", "#3f8f6b"
CONTACT_N = 5.0
"""Normal force from which a foot counts as on the ground [N]."""

NEAR_M = 0.6
"""Distance over the floor up to which the reference must fit into the pictures [m]."""

_DPI = 100
_LEFT, _RIGHT, _TOP, _GAP, _BOTTOM = 168, 24, 72, 20, 58
_PLOTS = (104, 92, 60)
"""Heights of error, base height and foot contact [px]."""

_SMALL, _LARGE = 12.5, 18.0
"""Sizes of text [pt]; still readable when a page shows the sheet at half its size."""


def contact_sheet(
    rollout: Rollout,
    path: str | Path,
    columns: int = 8,
    *,
    frame_size: tuple[int, int] = (212, 300),
    azimuth_deg: float = Camera.azimuth_deg,
    geom_groups: tuple[int, ...] = VISUAL,
    look: Look = DEFAULT_LOOK,
) -> None:
    """Write a PNG of an episode: pictures over time, and what happened in between.

    Args:
        rollout: The episode.
        path: The PNG file, written at once or not at all.
        columns: Number of pictures, each from the middle of its part of the episode.
        frame_size: Width and height of one picture [px].
        azimuth_deg: Direction of view; the camera follows the robot without turning [deg].
        geom_groups: MuJoCo groups of geoms to draw.
        look: Colours and quality of the pictures.

    Raises:
        InputError: If there is no room for a picture, or the file cannot be written.
    """
    if columns < 1 or min(frame_size) < 16:
        raise InputError(
            f"a contact sheet needs at least 1 column of 16 px; got {columns} of {frame_size}"
        )
    frames = frame_indices(rollout, columns)
    aspect = frame_size[0] / frame_size[1]
    camera = _frame_camera(rollout, frames, aspect, azimuth_deg, geom_groups)
    pictures = _pictures(rollout, frames, camera, frame_size, geom_groups, look)
    strip = np.concatenate(pictures, axis=1)
    strip[:, frame_size[0] :: frame_size[0]] = 255  # a white line between neighbours
    height, width = strip.shape[:2]
    total_w, total_h = _LEFT + width + _RIGHT, _TOP + height + sum(_PLOTS) + 3 * _GAP + _BOTTOM
    figure = Figure(figsize=(total_w / _DPI, total_h / _DPI), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)

    def axes(top: int, tall: int) -> Axes:
        box = (_LEFT / total_w, 1 - (top + tall) / total_h, width / total_w, tall / total_h)
        return figure.add_axes(box)

    top = axes(_TOP, height)
    top.imshow(strip, aspect="auto", interpolation="nearest")
    top.axis("off")
    _label_times(top, rollout.time_s[frames] - rollout.time_s[0], frame_size[0])
    y = _TOP + height + _GAP
    for draw, tall in zip((_draw_error, _draw_height, _draw_contacts), _PLOTS, strict=True):
        panel = axes(y, tall)
        _style(panel, rollout, frames, last=draw is _draw_contacts)
        draw(panel, rollout)
        y += tall + _GAP
    _headline(figure, rollout, total_w, total_h)
    write_atomic(
        path, lambda stream: figure.savefig(stream, format="png", metadata={"Software": None})
    )


def robot_picture(robot: Robot, path: str | Path, *, look: Look = DEFAULT_LOOK) -> None:
    """Write a PNG of a robot in its default pose: from the front, the side, and as it collides.

    Args:
        robot: Any robot.
        path: The PNG file, written at once or not at all.
        look: Colours and quality of the pictures.
    """
    data = posed(robot.model, robot.default_qpos())
    width, height = 360, 520
    views = []
    for azimuth_deg, groups in ((180.0, VISUAL), (120.0, VISUAL), (120.0, COLLISION)):
        centers_w, radii = spheres(robot.model, data, groups)
        if len(radii) == 0:  # a stranger's robot may have one kind of shapes only
            continue
        camera = Camera.framing(centers_w, radii, aspect=width / height, azimuth_deg=azimuth_deg)
        views.append(render(robot.model, data, camera, width, height, groups, look=look))
    if not views:
        raise InputError(f"robot '{robot.name}' has no shape to draw", file=robot.folder)
    write_png(path, np.concatenate(views, axis=1))


def frame_indices(rollout: Rollout, columns: int) -> np.ndarray:
    """Frames (columns,) nearest to the middles of equal parts of the episode."""
    moments = rollout.time_s[0] + (np.arange(columns) + 0.5) / columns * rollout.duration_s
    return np.abs(rollout.time_s[:, None] - moments).argmin(axis=0)


def _pictures(
    rollout: Rollout,
    frames: np.ndarray,
    camera: Camera,
    size: tuple[int, int],
    geom_groups: tuple[int, ...],
    look: Look,
) -> list[np.ndarray]:
    """One picture (H, W, 3) per frame, from a camera that follows the base over the floor."""
    model, reference = rollout.robot.model, rollout.reference_qpos
    pictures = []
    for frame, middle in zip(frames, _middle_w(rollout)[frames], strict=True):
        x, y, z = (np.asarray(camera.look_at_w) + middle).tolist()
        ghost = None if reference is None else posed(model, reference[frame])
        following = replace(camera, look_at_w=(x, y, z))
        data = posed(model, rollout.qpos[frame])
        pictures.append(render(model, data, following, *size, geom_groups, ghost=ghost, look=look))
    return pictures


def _frame_camera(
    rollout: Rollout,
    frames: np.ndarray,
    aspect: float,
    azimuth_deg: float,
    geom_groups: tuple[int, ...],
) -> Camera:
    """One camera, relative to the base on the floor, that fits robot and reference in all frames.

    Scale and height are the same in all pictures, so that a jump looks like one. A reference that
    has run far away from a fallen robot is not waited for.
    """
    model, middles = rollout.robot.model, _middle_w(rollout)
    centers, radii = [], []
    for qpos in (rollout.qpos, rollout.reference_qpos):
        if qpos is None:
            continue
        for frame in frames[_near(rollout, qpos)[frames]]:
            center, radius = spheres(model, posed(model, qpos[frame]), geom_groups)
            centers.append(center - middles[frame])
            radii.append(radius)
    return Camera.framing(
        np.concatenate(centers), np.concatenate(radii), aspect=aspect, azimuth_deg=azimuth_deg
    )


def _near(rollout: Rollout, qpos: np.ndarray) -> np.ndarray:
    """In which frames (T,) bool the base of these poses is near that of the robot."""
    if not rollout.robot.has_free_base:
        return np.ones(rollout.num_frames, bool)
    return np.linalg.norm((qpos - rollout.qpos)[:, :2], axis=1) < NEAR_M


def _middle_w(rollout: Rollout) -> np.ndarray:
    """The point on the floor under the base (T, 3) [m]."""
    middle = np.zeros((rollout.num_frames, 3))
    if rollout.robot.has_free_base:
        middle[:, :2] = rollout.qpos[:, :2]
    return middle


def _label_times(panel: Axes, seconds: np.ndarray, width: int) -> None:
    """The time of every picture, in its upper left corner."""
    for column, second in enumerate(seconds):
        panel.text(
            column * width + 12, 12, f"{second:.2f} s", color=FAINT, fontsize=_SMALL, va="top"
        )  # fmt: skip


def _style(panel: Axes, rollout: Rollout, frames: np.ndarray, *, last: bool) -> None:
    """A quiet frame: no box, thin lines at the moments of the pictures, times below the last."""
    panel.set_xlim(0.0, rollout.duration_s)
    panel.tick_params(colors=FAINT, labelsize=_SMALL - 1, length=0, labelbottom=last)
    panel.grid(axis="y", color=GRID, linewidth=0.8)
    panel.set_axisbelow(True)
    for side in panel.spines.values():
        side.set_visible(False)
    for moment in rollout.time_s[frames] - rollout.time_s[0]:
        panel.axvline(moment, color=GRID, linewidth=0.8, zorder=0)
    if last:
        panel.set_xlabel("time [s]", color=FAINT, fontsize=_SMALL)


def _name(panel: Axes, text: str) -> None:
    """Say left of a plot what it shows."""
    panel.set_ylabel(
        text, rotation=0, ha="left", va="center", color=INK, fontsize=_SMALL, linespacing=1.3
    )
    panel.yaxis.set_label_coords(-(_LEFT - 14) / (panel.bbox.width), 0.5)


def _say(panel: Axes, text: str) -> None:
    """Why a plot is empty."""
    panel.set_yticks([])
    panel.text(
        0.5, 0.5, text, transform=panel.transAxes, color=FAINT, fontsize=_SMALL, va="center",
        ha="center", backgroundcolor="white",
    )  # fmt: skip


def _draw_error(panel: Axes, rollout: Rollout) -> None:
    """Mean distance of the bodies to the reference over time."""
    _name(panel, "body error\n[mm]")
    if rollout.error_mm is None:
        _say(panel, "no reference")
        return
    seconds = rollout.time_s - rollout.time_s[0]
    panel.fill_between(seconds, rollout.error_mm, color=INK, alpha=0.10, linewidth=0)
    panel.plot(seconds, rollout.error_mm, color=INK, linewidth=2.0)
    panel.set_ylim(0.0, 1.15 * max(float(rollout.error_mm.max()), 10.0))
    panel.locator_params(axis="y", nbins=3)


def _draw_height(panel: Axes, rollout: Rollout) -> None:
    """Height of the base of robot and reference over time."""
    _name(panel, "base height\n[m]")
    if not rollout.robot.has_free_base:
        _say(panel, "fixed base")
        return
    seconds = rollout.time_s - rollout.time_s[0]
    if rollout.reference_qpos is not None:
        height = rollout.reference_qpos[:, 2]
        panel.plot(seconds, height, color=REFERENCE, linewidth=3.4, alpha=0.5)
    panel.plot(seconds, rollout.qpos[:, 2], color=INK, linewidth=1.9)
    low, high = panel.get_ylim()
    middle, half = (low + high) / 2, max((high - low) / 2, 0.05)
    panel.set_ylim(middle - 1.1 * half, middle + 1.1 * half)
    panel.locator_params(axis="y", nbins=3)


def _draw_contacts(panel: Axes, rollout: Rollout) -> None:
    """A bar for each foot while it is on the ground."""
    _name(panel, "foot contact")
    seconds = rollout.time_s - rollout.time_s[0]
    for foot, color in enumerate((LEFT_FOOT, RIGHT_FOOT)):
        for start, length in contact_spans(seconds, rollout.contact_force[:, foot] > CONTACT_N):
            panel.broken_barh([(start, length)], (1 - foot + 0.2, 0.6), color=color, alpha=0.8)
    panel.set_ylim(0.0, 2.0)
    panel.set_yticks([1.5, 0.5], ["left", "right"])
    panel.grid(visible=False)


def contact_spans(time_s: np.ndarray, contact: np.ndarray) -> list[tuple[float, float]]:
    """Start and length of every unbroken contact; a frame's state holds until the next frame.

    Args:
        time_s: Times of the frames (T,) [s].
        contact: Whether the foot is on the ground (T,) bool.

    Returns:
        (start, length) of each contact [s].
    """
    until = np.append(time_s, time_s[-1])
    return [(float(time_s[a]), float(until[b] - time_s[a])) for a, b in spans(contact)]


def _headline(figure: Figure, rollout: Rollout, width: int, height: int) -> None:
    """Title and numbers on the left, what the colours mean on the right."""
    facts = f"{rollout.duration_s:.2f} s"
    if rollout.error_mm is not None:
        facts += f"   mean body error {rollout.error_mm.mean():.0f} mm"
    left, y = _LEFT / width, 1 - 36 / height
    title = figure.text(left, y, rollout.title or rollout.robot.name, color=INK, fontsize=_LARGE,
                        va="center", weight="bold")  # fmt: skip
    end = title.get_window_extent().x1
    figure.text((end + 24) / width, y, facts, color=FAINT, fontsize=_SMALL, va="center")
    names = [("robot", INK)]
    if rollout.reference_qpos is not None:
        names.append(("reference", REFERENCE))
    x = 1 - _RIGHT / width
    for name, color in reversed(names):
        text = figure.text(x, y, name, color=color, fontsize=_SMALL, va="center", ha="right")
        start = text.get_window_extent().x0
        mark = figure.text((start - 6) / width, y, "\u25cf", color=color, fontsize=_SMALL,
                           va="center", ha="right")  # fmt: skip
        x = (mark.get_window_extent().x0 - 22) / width
