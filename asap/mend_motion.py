"""A clip of a human as a motion that a robot can do: the same, with mechanics.

Clips that were carried over from a human body lean as no robot can: the centre of mass beside the
standing foot, feet on their toes, soles that slide. What the body does is kept, and what mechanics
forbids is given up: standing feet are level and still, the ground pushes where a foot stands, the
centre of mass follows from that (``motion_plan.com_path``), and flight is ballistic. The rest stays
as near to the clip as it can (``momentum_fit``).

    mended = mend(motion, robot)
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from scipy import sparse
from scipy.ndimage import gaussian_filter1d, maximum_filter1d
from scipy.sparse.linalg import spsolve

from asap.grounding import GRAVITY, Flight, com_w, find_flights, in_flight
from asap.momentum_fit import Weights, fit_momentum
from asap.motion_plan import Key, Plan, between_feet, com_path, track
from asap.motions import motion_from_poses
from asap.robot import Robot
from asap.spans import spans
from asap.whole_body import leg_bodies, solve_poses
from asap_deploy import rotation
from asap_deploy.errors import InputError
from asap_deploy.motion import Motion

_LIFT_M, _SWING_S = 0.03, 0.12
"""A foot that leaves the floor for less than the one or the other stands on."""
_MOVED_M = 0.1
"""Unless it comes down elsewhere."""
_STAND_S = 0.08
"""A foot that touches for less does not stand."""
_SHIFT_S = 0.5
"""The weight goes over to the other foot in so long, if both stand [s]."""
_BOTH = 0.7
"""Share of the way to one foot that the weight may go while both stand."""
_LAY_S = 0.12
"""Before a foot lands and after it leaves, it is laid level in so long [s]."""
_FLIGHT_S = 0.42
"""The longest jump [s]: 2 m/s when leaving the floor. People jump higher than motors of robots."""
_PUSH, _DROP = 14.0, -7.0
"""A robot that stands is accelerated no faster than this upwards, nor downwards [m/s^2]."""
_NEAR_M, _JERK, _EXACT = 0.01, 400.0, 0.01
"""Deviations of the height that count 1: from the clip [m], jerk [m/s^3], free fall [m/s^2]."""
_ROUNDS = 30
_REACH = 0.96
"""Of a straight leg."""

_LIKE_THE_CLIP = Weights(leg_posture=1.0 / 0.2)
"""A leg in the air does as the clip's does."""

_LEG_COST = 0.12
"""The same for the first and the last pose, in the units of ``solve_poses``."""


def mend(motion: Motion, robot: Robot) -> Motion:
    """The motion with level standing feet and a weight that they can carry.

    Args:
        motion: On the floor (``open_motion(..., ground=True)``), begins and ends standing.
        robot: That shall do it.

    Raises:
        InputError: If the robot is no free biped, or no foot ever stands.
    """
    if not robot.has_free_base or len(robot.foot_names) != 2:
        raise InputError(f"robot '{robot.name}' is no free biped: its motions cannot be mended")
    if not motion.foot_contact.any():
        raise InputError("no foot ever stands in this clip: it cannot be mended")
    plan = plan_of(motion, robot)
    try:
        guess = _first_guess(motion, robot, plan)
        qpos = fit_momentum(robot, plan, guess, weights=_LIKE_THE_CLIP)
    except np.linalg.LinAlgError as error:
        raise InputError(f"no motion near this clip obeys mechanics: {error}") from None
    if not np.isfinite(qpos).all():
        raise InputError("no motion near this clip obeys mechanics")
    return motion_from_poses(
        robot, qpos[:, :3], qpos[:, 3:7], qpos[:, robot.qpos_ids], fps=motion.fps,
        source=f"{motion.source}; mended",
    )  # fmt: skip


def _first_guess(motion: Motion, robot: Robot, plan: Plan) -> np.ndarray:
    """(T, nq) the clip's poses above the planned centre of mass; the first and last as planned."""
    com = com_w(robot, motion.body_pos_w, motion.body_quat_wxyz)
    base = motion.base_pos_w + plan.com_w - com
    guess = robot.qpos(base, motion.base_quat_wxyz, motion.joint_pos)
    for end in (0, -1):
        guess[end] = solve_poses(robot, plan.at(end), start=guess[end], leg_cost=_LEG_COST)[0]
    return guess


def plan_of(motion: Motion, robot: Robot) -> Plan:
    """What feet, centre of mass, base and joints shall do to be like the clip."""
    com = com_w(robot, motion.body_pos_w, motion.body_quat_wxyz)
    clearance = robot.sole_clearance(motion.body_pos_w, motion.body_quat_wxyz)
    flights = find_flights(com[:, 2], clearance.min(axis=1), fps=motion.fps)
    flying = in_flight(tuple(_shorter(f, motion.fps) for f in flights), motion.num_frames)
    contact = _contacts(motion, robot, clearance, flying)
    middles = _sole_middle(robot)
    feet, quat, up = _feet(motion, robot, contact, clearance, middles)
    zmp = _zmp(contact, feet, quat, com, middles, motion.fps)
    lowered, flown = np.zeros(motion.num_frames), np.asarray(~contact.any(axis=1))
    for _ in range(3):  # where the centre of mass is says how high it can be, and this where
        height = _smooth_height(com[:, 2] - lowered, flown, motion.fps)
        com_p = np.column_stack([com_path(zmp, height, motion.fps), height])
        lowered = lowered + _lowering(motion, robot, feet, com_p - com)
    return Plan(
        fps=motion.fps,
        foot_pos_w=feet,
        foot_quat_wxyz=quat,
        foot_up=up,
        contact=contact,
        zmp_w=zmp,
        com_w=com_p,
        base_quat_wxyz=motion.base_quat_wxyz,
        joint_pos=motion.joint_pos,
    )


def _shorter(flight: Flight, fps: float) -> Flight:
    """A flight round the same apex, no longer than motors can throw a robot."""
    beyond = max(0, flight.stop - flight.start - round(_FLIGHT_S * fps))
    return Flight(flight.start + (beyond + 1) // 2, flight.stop - beyond // 2)


def _contacts(
    motion: Motion, robot: Robot, clearance: np.ndarray, flying: np.ndarray
) -> np.ndarray:
    """(T, 2) without touches and swings too short to mean anything; ends stand."""
    found = motion.foot_contact & ~flying[:, None]
    for start, stop in spans(~found.any(axis=1) & ~flying):  # a clip that hovers: who stood, stands
        before = found[start - 1] if start and found[start - 1].any() else found[stop % len(found)]
        found[start:stop] = before
    places = motion.body_pos_w[:, robot.body_index(robot.foot_names), :2]
    for foot in range(2):
        column = found[:, foot]
        column[0] = column[-1] = True
        for start, stop in spans(~column):
            lifted = (clearance[start:stop, foot] - clearance[:, foot].min()).max()
            moved = np.linalg.norm(places[stop, foot] - places[start - 1, foot])
            short = stop - start < _SWING_S * motion.fps or lifted < _LIFT_M
            if short and moved < _MOVED_M and not flying[start:stop].any():
                column[start:stop] = True
        for start, stop in spans(column):
            if stop - start < _STAND_S * motion.fps and start > 0 and stop < len(column):
                column[start:stop] = False
    return found


def _feet(
    motion: Motion, robot: Robot, contact: np.ndarray, clearance: np.ndarray, middles: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Feet over time: position (T, 2, 3), attitude (T, 2, 4), height of the soles (T, 2)."""
    places = robot.body_index(robot.foot_names)
    pos, links = motion.body_pos_w[:, places].copy(), motion.body_quat_wxyz.copy()
    free = np.zeros(contact.shape)
    for foot, (place, middle_b) in enumerate(zip(places, middles, strict=True)):
        # A sole's middle stays where it is when the foot is laid flat, not its ankle.
        quat = links[:, place]
        middle = pos[:, foot] + rotation.rotate(quat, middle_b)
        heading = np.unwrap(rotation.yaw(quat))
        tilt = rotation.to_rotvec(rotation.multiply(rotation.from_yaw(-heading), quat))
        stands = spans(contact[:, foot])
        way = _held(np.column_stack([middle[:, :2], heading]), stands)
        free[:, foot] = _free(stands, len(heading), max(2.0, _LAY_S * motion.fps))
        tilted = rotation.from_rotvec(free[:, foot, None] * tilt)
        links[:, place] = rotation.multiply(rotation.from_yaw(way[:, 2]), tilted)
        pos[:, foot, :2] = way[:, :2] - rotation.rotate(links[:, place], middle_b)[:, :2]
    up = free * np.maximum(clearance, 0.0)
    pos[:, :, 2] = up - robot.sole_clearance(np.zeros_like(motion.body_pos_w), links)
    return pos, links[:, places], up


def _held(channel: np.ndarray, stands: np.ndarray) -> np.ndarray:
    """Columns (T, K) that stand still while a foot does, and lead from one place to the next."""
    held = channel.copy()
    for start, stop in stands:
        held[start:stop] = np.median(channel[start:stop], axis=0)
    for (_, leave), (land, _) in pairwise(stands):
        share = _rise(np.arange(leave, land), leave - 1, land)[:, None]
        first, last = (held[k] - channel[k] for k in (leave - 1, land))
        held[leave:land] = channel[leave:land] + (1.0 - share) * first + share * last
    return held


def _free(stands: np.ndarray, frames: int, soon: float) -> np.ndarray:
    """(T,) 0 where a foot stands, 1 where it has been in the air for ``soon`` frames."""
    free = np.zeros(frames)
    for (_, leave), (land, _) in pairwise(stands):
        frame = np.arange(leave, land)
        free[leave:land] = _rise(np.minimum(frame - leave + 1, land - frame), 0.0, soon)
    return free


def _zmp(
    contact: np.ndarray, feet: np.ndarray, quat: np.ndarray, com: np.ndarray,
    middles: np.ndarray, fps: float,
) -> np.ndarray:  # fmt: skip
    """Where the ground shall push (T, 2): below the clip's centre of mass, inside what stands."""
    centre = np.stack(
        [feet[:, i] + rotation.rotate(quat[:, i], middles[i]) for i in range(2)], axis=1
    )[..., :2]
    apart = centre[:, 0] - centre[:, 1]
    middle = 0.5 * (centre[:, 0] + centre[:, 1])
    along = 2.0 * ((com[:, :2] - middle) * apart).sum(1) / np.maximum((apart**2).sum(1), 1e-6)
    share = gaussian_filter1d(np.clip(along, -_BOTH, _BOTH), 0.2 * fps)
    lone = contact[:, 0].astype(float) - contact[:, 1].astype(float)
    alone = lone != 0.0
    # Before one foot stands alone the weight goes to it, and comes back after.
    reach, frames = round(_SHIFT_S * fps), np.arange(len(share))
    pull, side = np.zeros(len(share)), np.zeros(len(share))
    for start, stop in spans(alone):
        away = np.maximum(np.maximum(start - frames, frames - stop + 1), 0)
        near = 1.0 - _rise(away, 0, reach)
        better = near > pull
        pull[better], side[better] = near[better], lone[start]
    return between_feet(centre, np.where(alone, lone, (1.0 - pull) * share + pull * side))


def _smooth_height(height: np.ndarray, flying: np.ndarray, fps: float) -> np.ndarray:
    """A height (T,) near the given one, smooth, ballistic in flight, pushed as legs can push."""
    frames = len(height)
    one = sparse.eye_array(frames, format="csr")
    acc = (one[:-2] - 2.0 * one[1:-1] + one[2:]) * fps**2
    falls = flying[1:-1]
    still = ~(falls[1:] ^ falls[:-1])  # leaving and landing, the acceleration may jump
    jerk = (acc[1:] - acc[:-1])[still] * fps / _JERK
    bound = np.where(falls, -GRAVITY, np.nan)
    for _ in range(_ROUNDS):
        held = np.isfinite(bound)
        rows = sparse.vstack([one / _NEAR_M, jerk, acc[held] / _EXACT])
        right = np.concatenate([height / _NEAR_M, np.zeros(jerk.shape[0]), bound[held] / _EXACT])
        found = spsolve((rows.T @ rows).tocsc(), rows.T @ right)
        now = acc @ found
        beyond = ~falls & ((now > _PUSH + 0.1) | (now < _DROP - 0.1))
        if not beyond.any():
            break
        bound[beyond] = np.clip(now, _DROP, _PUSH)[beyond]
    return np.asarray(found)


def _lowering(motion: Motion, robot: Robot, feet: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """How much lower (T,) the body must be for its legs to reach their feet [m]."""
    lowered = np.zeros(motion.num_frames)
    for foot, name in enumerate(robot.foot_names):
        hip, length = _leg(robot, name)
        away = motion.body_pos_w[:, hip] + shift - feet[:, foot]
        flat = np.linalg.norm(away[:, :2], axis=1)
        most = np.sqrt(np.maximum((_REACH * length) ** 2 - flat**2, (0.5 * length) ** 2))
        lowered = np.maximum(lowered, away[:, 2] - most)
    held = maximum_filter1d(lowered, max(3, round(0.3 * motion.fps)))
    return np.asarray(gaussian_filter1d(held, 0.12 * motion.fps))


def _leg(robot: Robot, foot_name: str) -> tuple[int, float]:
    """Where a leg begins (a place in ``body_names``), and how long it is when straight [m]."""
    hip = robot.body_names.index(robot.model.body(leg_bodies(robot, foot_name)[-1]).name)
    straight = np.zeros((1, len(robot.joint_names)))
    pos, _ = robot.forward_kinematics(np.zeros((1, 3)), np.array([[1.0, 0, 0, 0]]), straight)
    ankle = robot.body_names.index(foot_name)
    return hip, float(np.linalg.norm(pos[0, hip] - pos[0, ankle]))


def _sole_middle(robot: Robot) -> np.ndarray:
    """(2, 3) middle of each sole on the ground, in the frame of its foot [m]."""
    found = []
    level = np.tile([1.0, 0.0, 0.0, 0.0], (1, len(robot.body_names), 1))
    origin = np.zeros((1, len(robot.body_names), 3))
    depth = robot.sole_clearance(origin, level)[0]
    for foot, geoms in enumerate(robot.foot_geom_ids):
        middle = robot.model.geom_pos[geoms].mean(axis=0)
        found.append([middle[0], middle[1], depth[foot]])
    return np.array(found)


def _rise(value: np.ndarray, low: float, high: float) -> np.ndarray:
    """From 0 at ``low`` to 1 at ``high``, without a jump of the first two derivatives."""
    return track(value, (Key(low, 0.0), Key(high, 1.0)))
