"""Writing a motion as a script: where the feet go, how high the body is, what the arms do.

A ``Script`` collects key poses of a few channels; between keys everything moves along quintic
polynomials, so positions, speeds and accelerations are continuous. ``plan`` turns it into what a
whole body has to do at every frame. The horizontal path of the centre of mass is no key pose: it
follows from where the ground shall push (``motion_plan.com_path``).

    script = Script(robot, duration_s=5.0)
    script.height((0.8, 0.0), (2.2, -0.2), (2.8, -0.2), (4.2, 0.0))          # a squat
    script.joint("*_shoulder_pitch_joint", (0.8, 0.0), (2.2, -1.2), (2.8, -1.2), (4.2, 0.0))
    plan = script.plan()
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

import numpy as np

from asap.grounding import GRAVITY, com_w
from asap.motion_plan import Key, Plan, between_feet, com_path, track
from asap.robot import Robot
from asap_deploy.errors import InputError
from asap_deploy.rotation import from_axis_angle, from_yaw, multiply, rotate

FEET = ("left", "right")
SHIFT_S = 0.7
"""Before the first step and after the last, the weight moves for so long [s]."""


class Swing(NamedTuple):
    """One foot in the air from ``start_s`` to ``end_s``, through points in the world."""

    foot: int
    start_s: float
    end_s: float
    keys: tuple[Sequence[Key], ...]
    """Of x, y and height [m] and of yaw [rad]"""
    arm: tuple[float, float] = (0.0, 0.0)
    """The foot's place in a frame at x, y that turns with yaw: a jump turns about its middle"""


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
        self._takeoffs: list[float] = []
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
        way_w = rotate(from_yaw(np.array(heading)), way[:, 1:]) + np.array([x, y, 0.0])
        keys = [[Key(*pair) for pair in zip(way[:, 0], way_w[:, k], strict=True)] for k in range(3)]
        ends = float(way[0, 0]), float(way[-1, 0])
        self._swings.append(Swing(i, *ends, (*keys, [Key(0.0, heading)])))

    def jump(
        self, takeoff_s: float, flight_s: float, *, feet: Iterable[str] = FEET,
        forward: float = 0.0, left: float = 0.0, turn: float = 0.0, dip: float = 0.15,
        dip_s: float = 0.5, push_s: float = 0.32, rise: float = -0.04, tuck: float = 0.02,
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
        self._takeoffs.append(takeoff_s)
        apex = GRAVITY * flight_s**2 / 8.0 + tuck
        self._fly([FEET.index(foot) for foot in feet], takeoff_s, land_s, apex,
                  self._moved(forward, left, turn))  # fmt: skip

    def _fly(
        self, feet: list[int], takeoff_s: float, land_s: float, apex: float, way: _Way
    ) -> None:
        """Carry feet through the air, round the middle between them."""
        # The soles follow the body at once: legs that still push would have to be longer.
        leave, land = Key(takeoff_s, 0.0, 0.0, GRAVITY), Key(land_s, 0.0, 0.0, GRAVITY)
        up = (leave, Key(0.5 * (takeoff_s + land_s), apex), land)
        for i in feet:
            old, new = self._place[i], way.places[i]
            ends = zip((*way.middle, old[2]), (*way.target, new[2]), strict=True)
            x, y, heading = ((Key(takeoff_s, a), Key(land_s, b)) for a, b in ends)
            arm = rotate(from_yaw(-old[2]), np.append(old[:2] - way.middle, 0.0))
            swing = Swing(i, takeoff_s, land_s, (x, y, up, heading), (arm[0], arm[1]))
            self._swings.append(swing)
            self._place[i] = new

    def _moved(self, forward: float, left: float, turn: float) -> _Way:
        """Where a jump leads, seen from where the feet stand now."""
        middle = np.mean([place[:2] for place in self._place], axis=0)
        heading = np.mean([place[2] for place in self._place])
        target = middle + rotate(from_yaw(heading), np.array([forward, left, 0.0]))[:2]
        spin, new = from_yaw(np.array(turn)), []
        for place in self._place:
            arm = rotate(spin, np.append(place[:2] - middle, 0.0))[:2]
            new.append(np.append(target + arm, place[2] + turn))
        return _Way(middle, target, new)

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
            x, y, up[:, i], turn = (np.where(later, track(time_s, keys), old) for keys, old in zip(
                swing.keys, (*pos[:, i, :2].T, up[:, i], heading[:, i]), strict=True))  # fmt: skip
            arm = rotate(from_yaw(turn), np.array([*swing.arm, 0.0]))[:, :2] * later[:, None]
            pos[:, i, :2], heading[:, i] = np.column_stack([x, y]) + arm, turn
            contact[(time_s > swing.start_s + 1e-9) & (time_s < swing.end_s - 1e-9), i] = False
        pos[..., 2] += up
        return pos, heading, up, contact

    def _zmp(self, foot_pos: np.ndarray, foot_yaw: np.ndarray) -> np.ndarray:
        """Where the ground shall push (T, 2): the standing foot, else between both feet."""
        time_s = self.time_s
        ahead = rotate(from_yaw(foot_yaw), np.array([self._home.ahead, 0.0, 0.0]))
        centre = (foot_pos + ahead)[..., :2]
        # Half-way the sum of weights is one, so the feet may move while they carry nothing.
        return between_feet(centre, track(time_s, self._weight or self._weight_keys()))

    def _weight_keys(self) -> list[Key]:
        """The weight goes to the other foot before one lifts, and back to both after the last."""
        lone = sorted((s for s in self._swings if s.start_s not in self._takeoffs),
                      key=lambda swing: swing.start_s)  # fmt: skip
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


class _Way(NamedTuple):
    """Where a jump leads."""

    middle: np.ndarray
    """(2,) between the feet before [m]"""
    target: np.ndarray
    """(2,) between the feet after [m]"""
    places: list[np.ndarray]
    """Of each foot after: x, y [m] and yaw [rad]"""


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
