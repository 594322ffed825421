"""Importing a reference motion: any known file, onto a given robot, at the control rate, grounded.

    motion = import_motion("CR7_level1.pkl", Robot.load("g1:asap"))
    motion.save("motions/g1/cr7.npz")

What was assumed or repaired on the way is written into ``motion.source``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.spatial.transform import Rotation, Slerp

from asap.grounding import MODES, com_w, find_flights, is_ballistic
from asap.grounding import ground as find_grounding
from asap.motion_formats import RawMotion, read_motion
from asap.motion_orders import joint_pos_of, settle_orders
from asap.robot import Robot
from asap_deploy.errors import InputError, suggestion
from asap_deploy.motion import Motion
from asap_deploy.rotation import ang_vel_w, rotate, wxyz_from_xyzw, xyzw_from_wxyz

DEFAULT_FPS = 30.0
"""Taken where a file stores no rate: that of the LAFAN1 retargets [Hz]."""

OTHER_FPS = (50.0, 60.0)
"""Rates that are tried for a jump where the file stores none [Hz]."""

MAX_FRAMES = 400_000
"""Of the result; two hours at 50 Hz."""

CONTACT_HEIGHT_M = (0.03, 0.05)
"""A foot comes into contact below the first and leaves it above the second."""

CONTACT_SPEED = (0.3, 0.6)
"""The same for the horizontal speed of the sole [m/s]."""

_STILL_RAD = 0.1
"""A joint that the robot lacks may have moved this much without a warning."""


def import_motion(
    path: str | Path,
    robot: Robot,
    *,
    format: str = "auto",
    fps: float | None = None,
    quat_order: str | None = None,
    joint_order: str | None = None,
    ground: bool | str = True,
    target_fps: float | None = 50.0,
    clip: str | None = None,
) -> Motion:
    """Read a motion file and make it a reference for a robot.

    Args:
        path: The file; its format is recognised by content.
        robot: The robot that shall follow; joints are matched by name.
        format: 'auto' or one of `motion_formats.FORMATS`.
        fps: The file's frame rate [Hz] if it stores none, or a wrong one.
        quat_order: 'xyzw' or 'wxyz' as stored, if known.
        joint_order: 'dfs' or 'bfs' as stored, if known.
        ground: True or 'smooth' puts stance soles on the floor, 'constant' shifts the clip as a
            whole, False leaves it as it is (for clips on stairs or with props).
        target_fps: Rate of the result [Hz]; None keeps the file's.
        clip: Which clip, for files that hold several.

    Returns:
        The motion, with bodies and velocities from the robot's own kinematics.

    Raises:
        InputError: If the file cannot be read, its orders cannot be told, or it does not fit.
    """
    mode = _checked_options(robot, ground, fps, target_fps)
    raw = read_motion(path, format=format, clip=clip)
    file_fps, rate_notes = _rate(raw, fps)
    raw = raw._replace(fps=file_fps)
    raw = settle_orders(raw, robot, path=path, quat_order=quat_order, joint_order=joint_order)
    notes = [
        f"{Path(path).name} ({raw.format})",
        *raw.notes,
        *rate_notes,
        *_joint_notes(raw, robot, path),
        *(_rate_warning(raw, robot) if rate_notes and fps is None else []),
    ]
    rate = file_fps if target_fps is None else float(target_fps)
    base_pos_w, base_quat, joint_pos = resampled(
        raw.base_pos_w, raw.base_quat_wxyz, joint_pos_of(raw, robot, slice(None)),
        fps=file_fps, target_fps=rate, limits=(robot.joint_pos_lower, robot.joint_pos_upper),
        path=path,
    )  # fmt: skip
    if rate != file_fps:
        notes.append(f"{file_fps:.6g} Hz resampled to {rate:.6g} Hz")
    if mode is not None and not robot.foot_names:
        notes.append("not grounded: the robot's description names no feet")
    elif mode is not None:
        found = find_grounding(robot, base_pos_w, base_quat, joint_pos, fps=rate, mode=mode)
        base_pos_w[:, 2] += found.correction_m
        low, high = 1e3 * found.correction_m.min(), 1e3 * found.correction_m.max()
        notes.append(f"grounded ({mode}), base height changed by {low:.0f} to {high:.0f} mm")
    return motion_from_poses(
        robot, base_pos_w, base_quat, joint_pos, fps=rate, source="; ".join(notes)
    )


def motion_from_poses(
    robot: Robot,
    base_pos_w: np.ndarray,
    base_quat_wxyz: np.ndarray,
    joint_pos: np.ndarray,
    *,
    fps: float,
    source: str,
) -> Motion:
    """A whole motion from base and joints: bodies, velocities and contacts follow.

    Velocities are central differences of the positions that stand in the file, without smoothing,
    so that they are their derivative: a state set from the reference moves along it. ASAP smooths
    body velocities (Gaussian, 67 ms) because it differentiates raw 30 Hz frames; positions that
    were resampled by a spline need none, and joint velocities it does not smooth either.

    Args:
        robot: The robot.
        base_pos_w: (T, 3) [m].
        base_quat_wxyz: (T, 4).
        joint_pos: (T, J) [rad], robot order.
        fps: Frames per second [Hz].
        source: Origin and licence.

    Returns:
        The motion; body velocities are those of the frames' origins.
    """
    body_pos_w, body_quat = robot.forward_kinematics(base_pos_w, base_quat_wxyz, joint_pos)
    lin_vel, ang_vel = _derivative(body_pos_w, fps), ang_vel_w(body_quat, fps)
    if len(robot.foot_names) == 2:
        contact = foot_contact(robot, body_pos_w, body_quat, lin_vel, ang_vel)
    else:
        contact = np.zeros((len(joint_pos), 2), dtype=bool)
    return Motion(
        fps=fps,
        joint_names=robot.joint_names,
        joint_pos=joint_pos,
        joint_vel=_derivative(joint_pos, fps),
        body_names=robot.body_names,
        body_pos_w=body_pos_w,
        body_quat_wxyz=body_quat,
        body_lin_vel_w=lin_vel,
        body_ang_vel_w=ang_vel,
        foot_contact=contact,
        source=source,
        robot=robot.name,
    )


def resampled(
    base_pos_w: np.ndarray,
    base_quat_wxyz: np.ndarray,
    joint_pos: np.ndarray,
    *,
    fps: float,
    target_fps: float,
    limits: tuple[np.ndarray, np.ndarray],
    path: str | Path,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Poses at another rate: cubic splines for positions and joints, slerp for the attitude.

    A cubic spline keeps a ballistic height profile as it is. Where it overshoots a joint's limit
    that the frames respect, it is held at the limit.

    Args:
        base_pos_w: (T, 3) [m].
        base_quat_wxyz: (T, 4).
        joint_pos: (T, J) [rad].
        fps: Rate of the frames [Hz].
        target_fps: Rate of the result [Hz].
        limits: Lower and upper joint limits, (J,) each [rad].
        path: Named in errors.

    Returns:
        Base position, attitude and joint positions from the first frame to the last that fits.
    """
    last_s = (len(joint_pos) - 1) / fps
    frames = int(np.floor(last_s * target_fps + 1e-6)) + 1
    if not 3 <= frames <= MAX_FRAMES:
        raise InputError(
            f"clip of {last_s:.2f} s has {frames} frames at {target_fps:g} Hz; 3 to {MAX_FRAMES} "
            "are made",
            file=path,
        )
    if target_fps == fps:
        return base_pos_w.copy(), base_quat_wxyz.copy(), joint_pos.copy()
    old_s = np.arange(len(joint_pos)) / fps
    new_s = np.minimum(np.arange(frames) / target_fps, old_s[-1])
    low = np.minimum(limits[0], joint_pos.min(axis=0))
    high = np.maximum(limits[1], joint_pos.max(axis=0))
    attitude = Slerp(old_s, Rotation.from_quat(xyzw_from_wxyz(base_quat_wxyz)))(new_s)
    return (
        CubicSpline(old_s, base_pos_w)(new_s),
        wxyz_from_xyzw(attitude.as_quat()),
        np.clip(CubicSpline(old_s, joint_pos)(new_s), low, high),
    )


def foot_contact(
    robot: Robot,
    body_pos_w: np.ndarray,
    body_quat_wxyz: np.ndarray,
    body_lin_vel_w: np.ndarray,
    body_ang_vel_w: np.ndarray,
) -> np.ndarray:
    """Which feet stand, from height and speed of the soles, with hysteresis.

    Args:
        robot: The robot, with two feet.
        body_pos_w: (T, B, 3) [m], robot order.
        body_quat_wxyz: (T, B, 4).
        body_lin_vel_w: (T, B, 3) [m/s].
        body_ang_vel_w: (T, B, 3) [rad/s].

    Returns:
        (T, 2) bool.
    """
    height = robot.sole_clearance(body_pos_w, body_quat_wxyz)
    speed = np.linalg.norm(
        sole_velocity_w(robot, body_quat_wxyz, body_lin_vel_w, body_ang_vel_w)[..., :2], axis=-1
    )
    lands = (height < CONTACT_HEIGHT_M[0]) & (speed < CONTACT_SPEED[0])
    leaves = (height > CONTACT_HEIGHT_M[1]) | (speed > CONTACT_SPEED[1])
    contact = np.zeros(height.shape, dtype=bool)
    standing = np.zeros(height.shape[1], dtype=bool)
    for frame in range(len(height)):
        standing = (standing & ~leaves[frame]) | lands[frame]
        contact[frame] = standing
    return contact


def sole_velocity_w(
    robot: Robot,
    body_quat_wxyz: np.ndarray,
    body_lin_vel_w: np.ndarray,
    body_ang_vel_w: np.ndarray,
) -> np.ndarray:
    """Velocity of the middle of each sole (T, 2, 3) [m/s]; the ankle turns, the sole need not."""
    feet, model = robot.body_index(robot.foot_names), robot.model
    velocity = []
    for foot, geoms in zip(feet, robot.foot_geom_ids, strict=True):
        middle_b = model.geom_pos[geoms].mean(axis=0) if len(geoms) else np.zeros(3)
        lever_w = rotate(body_quat_wxyz[:, foot], middle_b)
        velocity.append(body_lin_vel_w[:, foot] + np.cross(body_ang_vel_w[:, foot], lever_w))
    return np.stack(velocity, axis=1)


def _derivative(values: np.ndarray, fps: float) -> np.ndarray:
    """Central differences over time, one-sided at the ends."""
    return np.gradient(values, 1.0 / fps, axis=0)


def _checked_options(
    robot: Robot, ground: bool | str, fps: float | None, target_fps: float | None
) -> str | None:
    """Refuse options that cannot be meant; the grounding mode, or None for no grounding."""
    mode = "smooth" if ground is True else None if ground is False else ground
    if mode not in (None, *MODES):
        raise InputError(f"ground '{ground}' is not known{suggestion(str(ground), MODES)}")
    if not robot.has_free_base:
        raise InputError(f"robot '{robot.name}' is bolted down; motions need a free base")
    for name, value in (("fps", fps), ("target_fps", target_fps)):
        if value is not None and not 1.0 <= value <= 1000.0:
            raise InputError(f"{name} must be between 1 and 1000 Hz; got {value}")
    return mode


def _rate(raw: RawMotion, fps: float | None) -> tuple[float, list[str]]:
    """The file's frame rate [Hz]: what the user says, else the file, else the default."""
    if fps is not None:
        differs = raw.fps is not None and abs(raw.fps - fps) > 1e-3 * fps
        return float(fps), [
            f"{fps:g} Hz as the user said" + (f" (the file says {raw.fps:g} Hz)" if differs else "")
        ]
    if raw.fps is not None:
        return raw.fps, []
    return DEFAULT_FPS, [f"{DEFAULT_FPS:g} Hz assumed, say fps= if that is wrong"]


def _rate_warning(raw: RawMotion, robot: Robot) -> list[str]:
    """A warning if the clip jumps, and falls with g at another rate than the one assumed."""
    if not robot.foot_names:
        return []
    poses = robot.forward_kinematics(
        raw.base_pos_w, raw.base_quat_wxyz, joint_pos_of(raw, robot, slice(None))
    )
    clearance = robot.sole_clearance(*poses).min(axis=1)
    com_height = com_w(robot, *poses)[:, 2]
    if find_flights(com_height, clearance, fps=DEFAULT_FPS):
        return []
    fitting = {
        f"{other:g}": flight.start
        for other in OTHER_FPS
        for flight in find_flights(com_height, clearance, fps=other)
        if is_ballistic(com_height, flight, fps=other)
    }
    if not fitting:
        return []
    return [
        f"warning: around frame {min(fitting.values())} the robot falls with g at "
        f"{' or '.join(fitting)} Hz, not at {DEFAULT_FPS:g} Hz; a jump at a wrong rate is pressed "
        "to the floor, so say fps="
    ]


def _joint_notes(raw: RawMotion, robot: Robot, path: str | Path) -> list[str]:
    """What happened to joints that only the file or only the robot has.

    Raises:
        InputError: If so much is missing that the clip would not be the same motion.
    """
    assert raw.joint_names is not None, "orders are settled first"
    missing = [name for name in robot.joint_names if name not in raw.joint_names]
    dropped = [name for name in raw.joint_names if name not in robot.joint_names]
    if 3 * len(missing) > len(robot.joint_names) or any(n in _leg_joints(robot) for n in missing):
        raise InputError(
            f"motion lacks joints of robot '{robot.name}': {_listed(missing)}; its joints are "
            f"{_listed(list(raw.joint_names))}",
            file=path,
        )
    notes = []
    if missing:
        notes.append(f"not in the file, held at the default pose: {_listed(missing)}")
    if dropped:
        moved = max(
            float(np.abs(raw.joint_pos[:, raw.joint_names.index(n)]).max()) for n in dropped
        )
        warning = "warning: " if moved > _STILL_RAD else ""
        notes.append(
            f"{warning}dropped, not on the robot (up to {moved:.2f} rad): {_listed(dropped)}"
        )
    return notes


def _leg_joints(robot: Robot) -> set[str]:
    """Joints between the base and a foot."""
    model, joints = robot.model, set()
    for foot in robot.foot_names:
        body = int(model.body(foot).id)
        while body:
            first = int(model.body_jntadr[body])
            joints |= {model.joint(first + i).name for i in range(int(model.body_jntnum[body]))}
            body = int(model.body_parentid[body])
    return joints & set(robot.joint_names)


def _listed(names: list[str]) -> str:
    """The first few names and how many there are."""
    shown = ", ".join(str(name)[:60] for name in names[:6])
    return shown + (f", ... ({len(names)})" if len(names) > 6 else "")
