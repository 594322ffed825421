"""What is wrong with a reference motion, in plain sentences with numbers and times.

    report = check_motion(Motion.load("clip.npz"), Robot.load("g1"))
    report.problems            # ("left sole sinks 31 mm at 2.44 s (12 frames below -5 mm)", ...)

A clip with problems can still be trained on; each sentence says what the policy will be asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from asap.grounding import com_w, find_flights, in_flight
from asap.motions import sole_velocity_w
from asap.robot import Robot
from asap_deploy.errors import InputError
from asap_deploy.motion import Motion
from asap_deploy.rotation import (
    ang_vel_w,
    angle_between,
    conjugate,
    multiply,
    projected_gravity,
    to_rotvec,
)

MAX_PENETRATION_M = 0.005
MAX_HOVER_M = 0.01
"""Median height of the lower sole in stance above which a clip counts as not grounded [m]."""

LIMIT_TOLERANCE_RAD = 1e-3
MAX_SKATE = 0.12
"""Mean horizontal speed of a sole in contact [m/s]; good retargets stay below 0.08."""

MAX_BODY_ERROR_M = 0.01
"""Bodies farther than this from the robot's kinematics belong to another robot or order [m]."""

MAX_TILT_DEG = 60.0
MIN_FRAMES = 25
_JUMP_SPEED = {"base position": 3.0, "base attitude": 12.0, "joint": 20.0}
"""Steps slower than this are no jumps [m/s], [rad/s], [rad/s]."""

_JUMP_RATIO = 4.0
"""A step between frames this many times larger than those around it is a jump, not a motion."""


class MotionReport(NamedTuple):
    """The state of a clip; ``problems`` is empty for a sound one."""

    frames: int
    fps: float
    joints: int
    grounded: bool
    """Stance soles within 10 mm of the floor, no sole deeper than 5 mm."""
    sole_clearance_m: float
    """Median height of the lower sole in stance [m]; nan for a robot without feet"""
    max_joint_speed: float
    """[rad/s]"""
    problems: tuple[str, ...]


class _Clip(NamedTuple):
    """What the checks share."""

    motion: Motion
    robot: Robot
    joint_pos: np.ndarray
    """(T, J) [rad] in the robot's order"""
    body_pos_w: np.ndarray
    """(T, B, 3) [m] from the robot's kinematics"""
    body_quat_wxyz: np.ndarray
    clearance: np.ndarray
    """(T, feet) [m]"""
    stance: np.ndarray
    """(T,) bool"""


def check_motion(motion: Motion, robot: Robot) -> MotionReport:
    """Look for everything that would make a robot fail on a clip for no fault of its own.

    Args:
        motion: The clip.
        robot: The robot that shall follow it.

    Returns:
        Key figures and problems, worst kinds first.

    Raises:
        InputError: If the motion's joints are not those of the robot.
    """
    missing = [name for name in robot.joint_names if name not in motion.joint_names]
    if missing:
        raise InputError(
            f"motion lacks {len(missing)} joints of robot '{robot.name}', the first is "
            f"'{missing[0]}'; import the clip for this robot"
        )
    columns = [motion.joint_names.index(name) for name in robot.joint_names]
    joint_pos = motion.joint_pos[:, columns]
    poses = robot.forward_kinematics(motion.base_pos_w, motion.base_quat_wxyz, joint_pos)
    clearance = robot.sole_clearance(*poses)
    stance = np.ones(motion.num_frames, dtype=bool)
    if robot.foot_names:
        flights = find_flights(com_w(robot, *poses)[:, 2], clearance.min(axis=1), fps=motion.fps)
        stance = ~in_flight(flights, motion.num_frames)
    clip = _Clip(motion, robot, joint_pos, *poses, clearance, stance)
    floor = [] if not robot.foot_names else list(_floor_problems(clip))
    problems = [
        *_attitude_problems(clip), *_body_problems(clip), *floor, *_jump_problems(clip),
        *_limit_problems(clip), *_speed_problems(clip), *_velocity_problems(clip),
        *_skate_problems(clip), *_rate_problems(clip),
    ]  # fmt: skip
    return MotionReport(
        frames=motion.num_frames,
        fps=motion.fps,
        joints=len(motion.joint_names),
        grounded=bool(robot.foot_names) and not floor,
        sole_clearance_m=_stance_clearance(clip),
        max_joint_speed=float(np.abs(motion.joint_vel).max()),
        problems=tuple(problems),
    )


def _stance_clearance(clip: _Clip) -> float:
    """Median height of the lower sole in stance [m]."""
    if not clip.robot.foot_names:
        return float("nan")
    lower = clip.clearance.min(axis=1)
    return float(np.median(lower[clip.stance] if clip.stance.any() else lower))


def _attitude_problems(clip: _Clip) -> Iterator[str]:
    """Quaternions that are none, and a base that lies down: mostly a wrong quaternion order."""
    norm = np.linalg.norm(clip.motion.body_quat_wxyz, axis=-1)
    if np.abs(norm - 1.0).max() > 1e-4:
        frame = int(np.abs(norm - 1.0).max(axis=1).argmax())
        yield (
            f"attitudes are not unit quaternions: norms from {norm.min():.4f} to "
            f"{norm.max():.4f}, worst at {_at(clip, frame)}"
        )
    up = -projected_gravity(clip.motion.base_quat_wxyz)[:, 2]
    tilt_deg = float(np.median(np.degrees(np.arccos(np.clip(up, -1.0, 1.0)))))
    if tilt_deg > MAX_TILT_DEG:
        yield (
            f"the base is tilted {tilt_deg:.0f} deg for most of the clip; if the robot does not "
            "lie down, the quaternion order is wrong"
        )


def _body_problems(clip: _Clip) -> Iterator[str]:
    """Bodies that are not where the joints put them: another robot, or another joint order."""
    motion, robot = clip.motion, clip.robot
    common = [name for name in motion.body_names if name in robot.body_names]
    theirs = [motion.body_names.index(name) for name in common]
    ours = robot.body_index(common)
    if motion.body_names[0] != robot.base_name:
        yield f"body 0 is '{motion.body_names[0]}', expected the base '{robot.base_name}'"
    if not common:
        return
    distance = np.linalg.norm(motion.body_pos_w[:, theirs] - clip.body_pos_w[:, ours], axis=-1)
    frame, body = np.unravel_index(int(distance.argmax()), distance.shape)
    if distance.max() > MAX_BODY_ERROR_M:
        yield (
            f"body '{common[int(body)]}' is {1e3 * distance.max():.0f} mm from where the joints "
            f"put it at {_at(clip, int(frame))}: made for another robot, or in another joint order"
        )
    angle = angle_between(motion.body_quat_wxyz[:, theirs], clip.body_quat_wxyz[:, ours])
    frame, body = np.unravel_index(int(angle.argmax()), angle.shape)
    if distance.max() <= MAX_BODY_ERROR_M and angle.max() > 0.05:
        yield (
            f"body '{common[int(body)]}' is turned {np.degrees(angle.max()):.0f} deg from where "
            f"the joints put it at {_at(clip, int(frame))}"
        )


def _floor_problems(clip: _Clip) -> Iterator[str]:
    """Soles inside the floor or above it."""
    for foot, name in enumerate(clip.robot.foot_names):
        height = clip.clearance[:, foot]
        if height.min() < -MAX_PENETRATION_M:
            yield (
                f"sole of {name} sinks {-1e3 * height.min():.0f} mm at "
                f"{_at(clip, int(height.argmin()))} ({int((height < -MAX_PENETRATION_M).sum())} "
                f"frames deeper than {1e3 * MAX_PENETRATION_M:.0f} mm); import with ground=True"
            )
    hover = _stance_clearance(clip)
    if hover > MAX_HOVER_M:
        lower = np.where(clip.stance, clip.clearance.min(axis=1), -np.inf)
        yield (
            f"the clip hovers: in stance the lower sole is {1e3 * hover:.0f} mm above the floor "
            f"(median), {1e3 * lower.max():.0f} mm at {_at(clip, int(lower.argmax()))}; import "
            "with ground=True"
        )


def _jump_problems(clip: _Clip) -> Iterator[str]:
    """Steps between two frames that are out of line with the steps around them."""
    motion, fps = clip.motion, clip.motion.fps
    quat = motion.base_quat_wxyz
    move = np.linalg.norm(np.diff(motion.base_pos_w, axis=0), axis=1)
    turn = np.linalg.norm(to_rotvec(multiply(quat[1:], conjugate(quat[:-1]))), axis=1)
    steps = [
        ("base position", move, _JUMP_SPEED["base position"], "m"),
        ("base attitude", turn, _JUMP_SPEED["base attitude"], "rad"),
    ]
    joint_steps = np.abs(np.diff(clip.joint_pos, axis=0))
    steps += [
        (name, joint_steps[:, place], _JUMP_SPEED["joint"], "rad")
        for place, name in enumerate(clip.robot.joint_names)
    ]
    for what, size, speed, unit in steps:
        frame = _jump_at(size, speed / fps)
        if frame is not None:
            yield (
                f"{what} jumps {size[frame]:.2f} {unit} from one frame to the next at "
                f"{_at(clip, frame + 1)}"
            )


def _jump_at(size: np.ndarray, smallest: float) -> int | None:
    """The largest step, if it is large and unlike the steps two to five frames away."""
    frame = int(size.argmax())
    near = size[max(frame - 5, 0) : frame + 6]
    middle = min(frame, 5)
    around = np.delete(near, slice(max(middle - 1, 0), middle + 2))
    usual = float(np.median(around)) if around.size else 0.0
    return frame if size[frame] > max(smallest, _JUMP_RATIO * usual) else None


def _limit_problems(clip: _Clip) -> Iterator[str]:
    """Joints beyond their range."""
    robot = clip.robot
    beyond = np.maximum(
        robot.joint_pos_lower - clip.joint_pos, clip.joint_pos - robot.joint_pos_upper
    )
    for place in np.flatnonzero(beyond.max(axis=0) > LIMIT_TOLERANCE_RAD):
        frame = int(beyond[:, place].argmax())
        limit = (
            robot.joint_pos_upper[place]
            if clip.joint_pos[frame, place] > robot.joint_pos_upper[place]
            else robot.joint_pos_lower[place]
        )
        count = int((beyond[:, place] > LIMIT_TOLERANCE_RAD).sum())
        yield (
            f"{robot.joint_names[place]} is {beyond[frame, place]:.3f} rad beyond its limit "
            f"{limit:.3f} at {_at(clip, frame)} ({count} of {clip.motion.num_frames} frames)"
        )


def _speed_problems(clip: _Clip) -> Iterator[str]:
    """Joints faster than their motors."""
    motion, robot = clip.motion, clip.robot
    for place, name in enumerate(robot.joint_names):
        speed = np.abs(motion.joint_vel[:, motion.joint_names.index(name)])
        if speed.max() > robot.joint_vel_limit[place]:
            yield (
                f"{name} moves at {speed.max():.1f} rad/s at {_at(clip, int(speed.argmax()))}, its "
                f"motor reaches {robot.joint_vel_limit[place]:.1f}"
            )


def _velocity_problems(clip: _Clip) -> Iterator[str]:
    """Stated velocities that are not the derivative of the stated positions."""
    motion = clip.motion
    step_s = 1.0 / motion.fps
    pairs = (
        ("joint_vel", motion.joint_vel, np.gradient(motion.joint_pos, step_s, axis=0), "rad/s"),
        ("body_lin_vel_w", motion.body_lin_vel_w,
         np.gradient(motion.body_pos_w, step_s, axis=0), "m/s"),
        ("body_ang_vel_w", motion.body_ang_vel_w,
         ang_vel_w(motion.body_quat_wxyz, motion.fps), "rad/s"),
    )  # fmt: skip
    for name, stated, derived, unit in pairs:
        difference = np.sqrt(np.mean((stated - derived)[1:-1] ** 2)) if len(stated) > 2 else 0.0
        usual = np.sqrt(np.mean(derived**2))
        if difference > 0.02 + 0.25 * usual:
            frame = int(np.abs(stated - derived).reshape(len(stated), -1).max(axis=1).argmax())
            yield (
                f"{name} differs from the derivative of the positions by {difference:.2f} {unit} "
                f"(root mean square; the motion has {usual:.2f}), worst at {_at(clip, frame)}"
            )


def _skate_problems(clip: _Clip) -> Iterator[str]:
    """Feet that stand and slide."""
    motion, robot = clip.motion, clip.robot
    if len(robot.foot_names) != 2:
        return
    step_s = 1.0 / motion.fps
    speed = np.linalg.norm(
        sole_velocity_w(
            robot,
            clip.body_quat_wxyz,
            np.gradient(clip.body_pos_w, step_s, axis=0),
            ang_vel_w(clip.body_quat_wxyz, motion.fps),
        )[..., :2],
        axis=-1,
    )
    for foot, name in enumerate(robot.foot_names):
        standing = motion.foot_contact[:, foot]
        if not standing.any():
            continue
        mean = float(speed[standing, foot].mean())
        if mean > MAX_SKATE:
            frame = int(np.where(standing, speed[:, foot], 0.0).argmax())
            yield (
                f"{name} slides while it stands: {100 * mean:.0f} cm/s on average, "
                f"{100 * speed[frame, foot]:.0f} cm/s at {_at(clip, frame)}"
            )


def _rate_problems(clip: _Clip) -> Iterator[str]:
    """A rate that does not fit the control loop, and clips with next to nothing in them."""
    motion, control_hz = clip.motion, 1.0 / clip.robot.control_dt
    ratio = max(control_hz / motion.fps, motion.fps / control_hz)
    if abs(ratio - round(ratio)) > 1e-3:
        yield (
            f"rate {motion.fps:.6g} Hz does not divide the control rate {control_hz:.6g} Hz: "
            "control steps fall between frames; import with target_fps=50"
        )
    if motion.num_frames < MIN_FRAMES:
        yield f"the clip is too short: {motion.num_frames} frames, {motion.duration_s:.2f} s"


def _at(clip: _Clip, frame: int) -> str:
    """A frame as a time and a number."""
    return f"{frame / clip.motion.fps:.2f} s (frame {frame})"
