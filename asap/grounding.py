"""Putting a reference clip on the floor.

Published clips hover by 5 to 14 cm and sink by up to 5 cm, because one height offset was chosen per
clip. A robot cannot hover: it can only be punished for not doing so. The base is therefore moved
vertically by a smooth correction h(t), added to the lower sole's height c(t):

    minimise  sum_stance (c + h)^2  +  sum_t stiffness_t (second difference of h)^2
    such that c + h stays above a penetration limit

In flight there is no data term and the stiffness is practically infinite: h is a straight line from
take-off to landing, so that the ballistic height profile stays as it is. Flight is where the centre
of mass falls with about g while the lower sole is off the line between take-off and landing; that
does not depend on how high the clip hovers.

    grounding = ground(robot, base_pos_w, base_quat_wxyz, joint_pos, fps=50.0)
    base_pos_w[:, 2] += grounding.correction_m
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.linalg import solveh_banded
from scipy.signal import savgol_filter

from asap.robot import Robot
from asap.spans import spans
from asap_deploy.errors import InputError, suggestion
from asap_deploy.rotation import rotate

GRAVITY = 9.81
MODES = ("smooth", "constant")
CUTOFF_HZ = 4.0
"""The correction follows the sole below this frequency: slower than a step, faster than a sway."""

MAX_PENETRATION_M = 0.004
"""No sole goes deeper after grounding; 1 mm less than what a check accepts."""

_FLIGHT_ACC = 0.5
"""A centre of mass that accelerates downwards by more than this share of g is in flight."""

_FLIGHT_MEAN_ACC = (0.65, 1.5)
"""Share of g, averaged over a flight; a fast squat stays below."""

_FLIGHT_MIN_S = 0.08
_FLIGHT_MIN_RISE_M = 0.01
_OTHER_SUPPORT_M = 0.08
"""A knee, hand or pelvis origin this little above the lower sole may carry the robot [m]."""


class Flight(NamedTuple):
    """Frames ``start`` to ``stop`` (excluded) in the air."""

    start: int
    stop: int


class Grounding(NamedTuple):
    """A vertical correction and what it rests on."""

    correction_m: np.ndarray
    """(T,) to be added to the base height [m]"""
    flights: tuple[Flight, ...]
    stance: np.ndarray
    """(T,) bool: the lower sole is meant to be on the floor"""
    clearance_m: np.ndarray
    """(T,) of the lower sole before the correction [m]"""


def ground(
    robot: Robot,
    base_pos_w: np.ndarray,
    base_quat_wxyz: np.ndarray,
    joint_pos: np.ndarray,
    *,
    fps: float,
    mode: str = "smooth",
) -> Grounding:
    """Find the vertical correction that puts stance soles on the floor.

    Args:
        robot: The robot; without feet the correction is zero.
        base_pos_w: (T, 3) [m].
        base_quat_wxyz: (T, 4).
        joint_pos: (T, J) [rad], robot order.
        fps: Frames per second [Hz].
        mode: 'smooth', or 'constant' for one offset for the whole clip.

    Returns:
        The correction, the flights, the stance frames and the height before.

    Raises:
        InputError: If the mode is not known.
    """
    if mode not in MODES:
        raise InputError(f"ground '{mode}' is not known{suggestion(mode, MODES)}")
    body_pos_w, body_quat_wxyz = robot.forward_kinematics(base_pos_w, base_quat_wxyz, joint_pos)
    frames = len(joint_pos)
    if not robot.foot_names:
        nothing = np.zeros(frames)
        return Grounding(nothing, (), np.zeros(frames, dtype=bool), nothing)
    clearance = robot.sole_clearance(body_pos_w, body_quat_wxyz).min(axis=1)
    com_height = com_w(robot, body_pos_w, body_quat_wxyz)[:, 2]
    flights = find_flights(com_height, clearance, fps=fps)
    stance = ~in_flight(flights, frames) & ~_on_other_bodies(robot, body_pos_w, clearance)
    if mode == "constant" or stance.sum() < 0.1 * frames:
        return Grounding(np.full(frames, constant_correction(clearance, stance)),
                         flights, stance, clearance)  # fmt: skip
    correction = smooth_correction(clearance, stance, flights, fps=fps)
    return Grounding(correction, flights, stance, clearance)


def find_flights(
    com_height: np.ndarray, clearance: np.ndarray, *, fps: float
) -> tuple[Flight, ...]:
    """Where a clip is ballistic, however high it hovers.

    Args:
        com_height: Height of the centre of mass (T,) [m].
        clearance: Height of the lower sole (T,) [m]; any constant or slow offset is allowed.
        fps: Frames per second [Hz].

    Returns:
        Flights in order. Hops shorter than 0.08 s (8 mm high) are not told from stance.
    """
    window = 2 * max(2, round(0.05 * fps)) + 1
    if len(com_height) <= window:
        return ()
    acc = np.asarray(savgol_filter(com_height, window, 2, deriv=2, delta=1.0 / fps))
    found = []
    for start, stop in spans(acc < -_FLIGHT_ACC * GRAVITY).tolist():
        share = -float(acc[start:stop].mean()) / GRAVITY
        rise = _above_line(clearance, start, stop).max()
        if (
            stop - start >= _FLIGHT_MIN_S * fps
            and _FLIGHT_MEAN_ACC[0] <= share <= _FLIGHT_MEAN_ACC[1]
            and rise > _FLIGHT_MIN_RISE_M
        ):
            found.append(Flight(start, stop))
    return tuple(found)


def is_ballistic(com_height: np.ndarray, flight: Flight, *, fps: float) -> bool:
    """True if a flight is as high as its duration asks for: rise = g T^2 / 8, at least 4 cm."""
    rise = float(_above_line(com_height, flight.start, flight.stop).max())
    duration_s = (flight.stop - flight.start + 1) / fps
    return rise > 0.04 and 0.7 < rise / (GRAVITY * duration_s**2 / 8.0) < 1.4


def in_flight(flights: tuple[Flight, ...], frames: int) -> np.ndarray:
    """(T,) bool."""
    mask = np.zeros(frames, dtype=bool)
    for flight in flights:
        mask[flight.start : flight.stop] = True
    return mask


def smooth_correction(
    clearance: np.ndarray, stance: np.ndarray, flights: tuple[Flight, ...], *, fps: float
) -> np.ndarray:
    """The smooth correction of the module's formula.

    Args:
        clearance: Height of the lower sole (T,) [m].
        stance: Frames whose lower sole belongs on the floor (T,) bool.
        flights: Frames over which the correction is a straight line.
        fps: Frames per second [Hz].

    Returns:
        (T,) [m]; ``clearance + correction`` is nowhere below ``-MAX_PENETRATION_M``.
    """
    # A smoothing spline of order 2 halves amplitudes at (2 pi f / fps)^4 stiffness = 1.
    stiffness = np.full(len(clearance), (2.0 * np.pi * CUTOFF_HZ / fps) ** -4)
    stiffness[in_flight(flights, len(clearance))] *= 1e6
    weight, target = stance.astype(float), -clearance
    weight += 1e-6  # a clip that begins or ends in the air stays determined
    correction = _solve(weight, target, stiffness)
    pushed = np.zeros(len(clearance), dtype=bool)
    for _ in range(40):
        # Frames that sink are pulled up hard, again until none does (an active-set iteration).
        sinking = clearance + correction < -0.5 * MAX_PENETRATION_M
        if not (sinking & ~pushed).any():
            break
        pushed |= sinking
        correction = _solve(
            np.where(pushed, 1e3, weight), np.where(pushed, target - 1e-3, target), stiffness
        )
    deepest = float((clearance + correction).min())
    return correction + max(0.0, -MAX_PENETRATION_M - deepest)


def constant_correction(clearance: np.ndarray, stance: np.ndarray) -> float:
    """One offset for the whole clip: stance on the floor as far as nothing sinks [m]."""
    heights = clearance[stance] if stance.any() else clearance
    return max(-float(np.median(heights)), -MAX_PENETRATION_M - float(clearance.min()))


def com_w(robot: Robot, body_pos_w: np.ndarray, body_quat_wxyz: np.ndarray) -> np.ndarray:
    """Centre of mass (T, 3) [m] of bodies (T, B, 3), (T, B, 4) in the robot's order."""
    mass = robot.model.body_mass[robot.body_ids]
    centres = body_pos_w + rotate(body_quat_wxyz, robot.model.body_ipos[robot.body_ids])
    return np.einsum("b,tbi->ti", mass, centres) / mass.sum()


def _above_line(clearance: np.ndarray, start: int, stop: int) -> np.ndarray:
    """How far the sole is above the line from take-off to landing, frames start - 1 to stop."""
    before, after = max(start - 1, 0), min(stop, len(clearance) - 1)
    line = np.linspace(clearance[before], clearance[after], after - before + 1)
    return clearance[before : after + 1] - line


def _on_other_bodies(robot: Robot, body_pos_w: np.ndarray, clearance: np.ndarray) -> np.ndarray:
    """(T,) bool: kneeling, sitting, on hands. The height of the soles then says nothing."""
    model, feet = robot.model, robot.body_ids[robot.body_index(robot.foot_names)]
    ankles = set(feet.tolist()) | {int(model.body_parentid[foot]) for foot in feet}
    others = [i for i, body in enumerate(robot.body_ids.tolist()) if i == 0 or body not in ankles]
    lowest = body_pos_w[:, others, 2].min(axis=1)
    return lowest - clearance < _OTHER_SUPPORT_M


def _solve(weight: np.ndarray, target: np.ndarray, stiffness: np.ndarray) -> np.ndarray:
    """Minimise sum weight (h - target)^2 + sum stiffness (h[t-1] - 2 h[t] + h[t+1])^2."""
    frames = len(target)
    inner = stiffness[1:-1]
    bands = np.zeros((3, frames))  # lower form: diagonal, first and second below it
    bands[0] = weight
    bands[0, :-2] += inner
    bands[0, 1:-1] += 4.0 * inner
    bands[0, 2:] += inner
    bands[1, :-2] -= 2.0 * inner
    bands[1, 1:-1] -= 2.0 * inner
    bands[2, :-2] += inner
    return np.asarray(solveh_banded(bands, weight * target, lower=True))
