"""Writing a motion as a script: where the feet go, how high the body is, what the arms do.

A ``Script`` collects key poses of a few channels; between keys everything moves along quintic
polynomials, so positions, speeds and accelerations are continuous. ``plan`` turns it into what a
whole body has to do at every frame. The horizontal path of the centre of mass c is no key pose: it
follows from where the ground shall push, the zero-moment point p,

    (g + c_z'') (c - p) = c_z c''         (forces through the centre of mass, horizontal part)

solved for the whole clip at once with c = p at both ends. Where c_z'' = -g the right side alone
remains, c'' = 0: flight needs no special case.

    script = Script(robot, duration_s=5.0)
    script.height((0.8, 0.0), (2.2, -0.2), (2.8, -0.2), (4.2, 0.0))          # a squat
    script.joint("*_shoulder_pitch_joint", (0.8, 0.0), (2.2, -1.2), (2.8, -1.2), (4.2, 0.0))
    plan = script.plan()
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import NamedTuple

import numpy as np
from scipy.linalg import solve_banded

from asap.grounding import GRAVITY, com_w
from asap.robot import Robot
from asap_deploy.errors import InputError
from asap_deploy.rotation import from_axis_angle, from_yaw, multiply, rotate

FEET = ("left", "right")
SHIFT_S = 0.7
"""Before the first step and after the last, the weight moves for so long [s]."""


class Key(NamedTuple):
    """What a channel shall be at a time; at rest unless said otherwise."""

    time_s: float
    value: float
    speed: float = 0.0
    acc: float = 0.0


class Swing(NamedTuple):
    """One foot in the air from ``start_s`` to ``end_s``, through points in the world."""

    foot: int
    start_s: float
    end_s: float
    offset_w: tuple[tuple[Key, ...], ...]
    """Keys of x, y, up [m] and yaw [rad]"""


class Flight(NamedTuple):
    """Nothing touches the floor from ``start_s`` to ``end_s``."""

    start_s: float
    end_s: float


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the whole body has to do at each of T frames."""

    fps: float
    foot_pos_w: np.ndarray
    """(T, 2, 3) origins of the foot bodies [m]"""
    foot_quat_wxyz: np.ndarray
    """(T, 2, 4); always level"""
    foot_up: np.ndarray
    """(T, 2) how far the soles are meant to be above the floor [m]"""
    contact: np.ndarray
    """(T, 2) bool"""
    zmp_w: np.ndarray
    """(T, 2) where the ground shall push [m]"""
    com_w: np.ndarray
    """(T, 3) [m]"""
    base_quat_wxyz: np.ndarray
    """(T, 4)"""
    joint_pos: np.ndarray
    """(T, J) the posture that is preferred [rad]"""


def track(time_s: np.ndarray, keys: Sequence[Key]) -> np.ndarray:
    """A channel through its keys: quintic between two, constant before the first, after the last.

    Args:
        time_s: (T,) [s].
        keys: In order of time.

    Returns:
        (T,) with continuous first and second derivative.

    Raises:
        InputError: If keys are not in order.
    """
    keys = [Key(*key) for key in keys]
    value = np.full(len(time_s), keys[0].value)
    for a, b in zip(keys, keys[1:], strict=False):
        length = b.time_s - a.time_s
        if length <= 0.0:
            raise InputError(f"keys must be in order of time: {a.time_s:g} s, then {b.time_s:g} s")
        powers = np.arange(6)
        # Rows: value, speed, acceleration at s = 0 and at s = 1 of sum_i c_i s^i.
        rows = [
            powers == 0,
            powers == 1,
            2 * (powers == 2),
            powers**0,
            powers,
            powers * (powers - 1),
        ]
        right = [a.value, a.speed * length, a.acc * length**2,
                 b.value, b.speed * length, b.acc * length**2]  # fmt: skip
        c = np.linalg.solve(np.array(rows, dtype=float), np.array(right))
        inside = time_s >= a.time_s
        s = np.minimum((time_s[inside] - a.time_s) / length, 1.0)
        value[inside] = np.polynomial.polynomial.polyval(s, c)
    return value


class Script:
    """Key poses of one clip. Heights, leans and joints are offsets from the default pose."""

    def __init__(self, robot: Robot, *, duration_s: float, fps: float = 50.0) -> None:
        """Stand in the default pose at the origin, facing x.

        Args:
            robot: A biped with a free base.
            duration_s: Of the clip [s].
            fps: Frames per second [Hz].

        Raises:
            InputError: If the robot is no free biped.
        """
        if not robot.has_free_base or len(robot.foot_names) != 2:
            raise InputError(f"robot '{robot.name}' is no free biped: no motion can be made for it")
        self.robot = robot
        self.fps = fps
        self.time_s = np.arange(round(duration_s * fps) + 1) / fps
        self._height: list[Key] = [Key(0.0, 0.0)]
        self._lean: list[Key] = [Key(0.0, 0.0)]
        self._joints: dict[str, list[Key]] = {}
        self._weight: list[Key] = []
        self._swings: list[Swing] = []
        self._flights: list[Flight] = []
        self._home = _home(robot)
        self._place = [np.append(foot, 0.0) for foot in self._home.foot_pos[:, :2]]  # x, y, yaw

    def height(self, *keys: Sequence[float]) -> None:
        """Keys (time, offset of the centre of mass [m], speed, acceleration)."""
        self._height = sorted([*self._height, *(Key(*key) for key in keys)])

    def lean(self, *keys: Sequence[float]) -> None:
        """Keys (time, forward pitch of the pelvis [rad])."""
        self._lean += [Key(*key) for key in keys]

    def joint(self, pattern: str, *keys: Sequence[float]) -> None:
        """Keys (time, offset [rad]) of joints; ``*_shoulder_roll_joint`` names both sides.

        Roll and yaw of the right side are mirrored where the pattern begins with ``*``.
        """
        names = [name for name in self.robot.joint_names if fnmatchcase(name, pattern)]
        if not names:
            raise InputError(f"robot '{self.robot.name}' has no joint '{pattern}'")
        for name in names:
            mirrored = pattern.startswith("*") and name.startswith("right") and _sideways(name)
            self._joints[name] = [
                Key(k.time_s, -k.value if mirrored else k.value)
                for k in (Key(*key) for key in keys)
            ]

    def weight(self, *keys: Sequence[float]) -> None:
        """Keys (time, share): 1 is on the left foot, -1 on the right, while both stand."""
        self._weight = [Key(*key) for key in keys]

    def step(
        self, foot: str, start_s: float, end_s: float, *,
        forward: float = 0.0, left: float = 0.0, turn: float = 0.0, lift: float = 0.05,
    ) -> None:  # fmt: skip
        """Move one foot, relative to where it stands now [m], [rad]."""
        i, length = FEET.index(foot), end_s - start_s
        x, y, heading = self._place[i]
        ahead = rotate(from_yaw(np.array(heading)), np.array([forward, left, 0.0]))
        self._place[i] = np.array([x + ahead[0], y + ahead[1], heading + turn])
        # The sole leaves and meets the floor vertically: it travels in the middle of its swing.
        early, late = start_s + 0.12 * length, end_s - 0.12 * length
        travel = zip((x, y, heading), self._place[i], strict=True)
        keys = [(Key(early, a), Key(late, b)) for a, b in travel]
        up = (Key(start_s, 0.0), Key(start_s + 0.45 * length, lift), Key(end_s, 0.0))
        self._swings.append(Swing(i, start_s, end_s, (keys[0], keys[1], up, keys[2])))

    def swing(self, foot: str, *points: tuple[float, float, float, float]) -> None:
        """Lift one foot, hold it at points (time, forward, left, up), put it where it was.

        The first and the last point are on the floor; forward and left are offsets [m].
        """
        i = FEET.index(foot)
        x, y, heading = self._place[i]
        way = np.array(points)
        offset_w = rotate(from_yaw(np.array(heading)), way[:, 1:])
        offset_w[:, :2] += x, y
        keys = [tuple(Key(*pair) for pair in zip(way[:, 0], offset_w[:, k], strict=True))
                for k in range(3)]  # fmt: skip
        ends = float(way[0, 0]), float(way[-1, 0])
        self._swings.append(Swing(i, *ends, (*keys, (Key(0.0, heading),))))

    def jump(
        self, takeoff_s: float, flight_s: float, *, feet: Iterable[str] = FEET,
        forward: float = 0.0, left: float = 0.0, turn: float = 0.0, dip: float = 0.12,
        dip_s: float = 0.5, push_s: float = 0.25, rise: float = 0.0, tuck: float = 0.02,
    ) -> None:  # fmt: skip
        """Dip, push off, fly, land, and come up again.

        Args:
            takeoff_s: When the soles leave the floor [s].
            flight_s: For how long [s]; the height of the jump is g flight_s^2 / 8.
            feet: Those that jump; the others are in the air already.
            forward: How far, seen from where the robot faces now [m].
            left: How far to the left [m].
            turn: Counter-clockwise [rad].
            dip: How far the body sinks before and after [m].
            dip_s: How long it sinks before, and rises after [s].
            push_s: From the lowest point to take-off, and from landing to the lowest point [s].
            rise: Height of the centre of mass above standing at take-off and landing [m].
            tuck: How far the soles are pulled up beyond the jump itself [m].
        """
        land_s, speed = takeoff_s + flight_s, 0.5 * GRAVITY * flight_s
        low_acc = 0.8 * (speed / push_s)
        self.height(
            (takeoff_s - push_s - dip_s, 0.0),
            (takeoff_s - push_s, -dip, 0.0, low_acc),
            (takeoff_s, rise, speed, -GRAVITY),
            (land_s, rise, -speed, -GRAVITY),
            (land_s + push_s, -dip, 0.0, low_acc),
            (land_s + push_s + 1.4 * dip_s, 0.0),
        )
        self._flights.append(Flight(takeoff_s, land_s))
        old, new = np.array(self._place), np.array(self._moved(forward, left, turn))
        apex = GRAVITY * flight_s**2 / 8.0 + tuck
        middle_s = takeoff_s + 0.5 * flight_s
        for foot in feet:
            i = FEET.index(foot)
            keys = [
                (Key(takeoff_s, a), Key(land_s, b)) for a, b in zip(old[i], new[i], strict=True)
            ]
            up = (Key(takeoff_s, 0.0), Key(middle_s, apex), Key(land_s, 0.0))
            self._swings.append(Swing(i, takeoff_s, land_s, (keys[0], keys[1], up, keys[2])))
            self._place[i] = new[i]

    def _moved(self, forward: float, left: float, turn: float) -> list[np.ndarray]:
        """Both feet carried along with the body: moved, then turned about the middle."""
        middle = np.mean([place[:2] for place in self._place], axis=0)
        heading = float(np.mean([place[2] for place in self._place]))
        move = rotate(from_yaw(np.array(heading)), np.array([forward, left, 0.0]))[:2]
        spin = from_yaw(np.array(turn))
        return [
            np.append(
                middle + move + rotate(spin, np.append(place[:2] - middle, 0.0))[:2],
                place[2] + turn,
            )
            for place in self._place
        ]

    def plan(self) -> Plan:
        """Everything at every frame."""
        time_s, home = self.time_s, self._home
        foot_pos, foot_yaw, foot_up, contact = self._feet()
        zmp = self._zmp(foot_pos, foot_yaw)
        height = home.com[2] + track(time_s, self._height)
        com = np.column_stack([com_path(zmp, height, self.fps), height])
        heading = np.unwrap(foot_yaw, axis=0).mean(axis=1)
        pitch = from_axis_angle(np.array([0.0, 1.0, 0.0]), track(time_s, self._lean))
        posture = np.tile(self.robot.default_joint_pos, (len(time_s), 1))
        for name, keys in self._joints.items():
            posture[:, self.robot.joint_names.index(name)] += track(time_s, keys)
        return Plan(
            fps=self.fps,
            foot_pos_w=foot_pos,
            foot_quat_wxyz=from_yaw(foot_yaw),
            foot_up=foot_up,
            contact=contact,
            zmp_w=zmp,
            com_w=com,
            base_quat_wxyz=multiply(from_yaw(heading), pitch),
            joint_pos=posture,
        )

    def _feet(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Feet over time: position (T, 2, 3), yaw (T, 2), height (T, 2), contact (T, 2)."""
        time_s = self.time_s
        pos = np.tile(self._home.foot_pos, (len(time_s), 1, 1))
        heading, up = np.zeros((len(time_s), 2)), np.zeros((len(time_s), 2))
        contact = np.ones((len(time_s), 2), dtype=bool)
        for swing in sorted(self._swings, key=lambda s: s.start_s):
            later, i = time_s >= swing.start_s, swing.foot
            x, y, z, turn = (track(time_s, keys)[later] for keys in swing.offset_w)
            pos[later, i, 0], pos[later, i, 1], heading[later, i] = x, y, turn
            up[later, i] = z
            contact[(time_s > swing.start_s + 1e-9) & (time_s < swing.end_s - 1e-9), i] = False
        pos[..., 2] += up
        return pos, heading, up, contact

    def _zmp(self, foot_pos: np.ndarray, foot_yaw: np.ndarray) -> np.ndarray:
        """Where the ground shall push (T, 2): the standing foot, else between both feet."""
        time_s = self.time_s
        ahead = rotate(from_yaw(foot_yaw), np.array([self._home.ahead, 0.0, 0.0]))
        centre = (foot_pos + ahead)[..., :2]
        share = track(time_s, self._weight or self._weight_keys())[:, None]
        # Half-way the sum of weights is one, so the feet may move while they carry nothing.
        return 0.5 * (1.0 + share) * centre[:, 0] + 0.5 * (1.0 - share) * centre[:, 1]

    def _weight_keys(self) -> list[Key]:
        """The weight goes to the other foot before one lifts, and back to both after the last."""
        lone = [s for s in sorted(self._swings, key=lambda s: s.start_s)
                if not any(f.start_s - 1e-9 <= s.start_s < f.end_s for f in self._flights)]  # fmt: skip
        keys = [Key(0.0, 0.0)]
        for before, swing in zip([None, *lone], lone, strict=False):
            side = 1.0 if swing.foot == 1 else -1.0
            if before is None or swing.start_s - before.end_s > 2.0 * SHIFT_S:
                if before is not None:
                    keys.append(Key(before.end_s + SHIFT_S, 0.0))
                keys.append(Key(swing.start_s - SHIFT_S, 0.0))
            keys += [Key(swing.start_s, side), Key(swing.end_s, side)]
        if lone:
            keys.append(Key(lone[-1].end_s + SHIFT_S, 0.0))
        return keys


def com_path(zmp_w: np.ndarray, height: np.ndarray, fps: float) -> np.ndarray:
    """Horizontal centre of mass (T, 2) [m] for a zero-moment point (T, 2), by the module's formula.

    Args:
        zmp_w: Where the ground pushes (T, 2) [m].
        height: Of the centre of mass (T,) [m]; its acceleration is taken by differences.
        fps: Frames per second [Hz].
    """
    frames = len(height)
    lift = np.zeros(frames)
    lift[1:-1] = GRAVITY + np.diff(height, 2) * fps**2
    # (lift) c_k - z (c_{k-1} - 2 c_k + c_{k+1}) fps^2 = (lift) p_k; at the ends c = p.
    stiff = height * fps**2
    bands = np.zeros((3, frames))
    bands[1] = lift + 2.0 * stiff
    bands[0, 1:], bands[2, :-1] = -stiff[:-1], -stiff[1:]
    bands[1, [0, -1]], bands[0, 1], bands[2, -2] = 1.0, 0.0, 0.0
    right = lift[:, None] * zmp_w
    right[[0, -1]] = zmp_w[[0, -1]]
    return np.asarray(solve_banded((1, 1), bands, right))


class _Home(NamedTuple):
    """The default pose with its feet level."""

    foot_pos: np.ndarray
    """(2, 3) [m]"""
    com: np.ndarray
    """(3,) [m]"""
    ahead: float
    """Centre of mass in front of the feet's origins [m]"""


def _home(robot: Robot) -> _Home:
    """Where the feet and the centre of mass are in the default pose."""
    qpos = robot.default_qpos()
    poses = robot.forward_kinematics(qpos[None, :3], qpos[None, 3:7], qpos[None, robot.qpos_ids])
    feet = robot.body_index(robot.foot_names)
    foot_pos = poses[0][0, feet]
    # Level feet stand on their whole sole: the sole's depth below the origin is their height.
    level = np.tile([1.0, 0.0, 0.0, 0.0], (1, len(robot.body_names), 1))
    foot_pos[:, 2] -= robot.sole_clearance(poses[0], level)[0]
    com = com_w(robot, *poses)[0]
    return _Home(foot_pos, com, float(com[0] - foot_pos[:, 0].mean()))


def _sideways(joint_name: str) -> bool:
    return "_roll_" in joint_name or "_yaw_" in joint_name
