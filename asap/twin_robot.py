"""A strict robot: it drops what a real one would drop, and damps itself when commands stop.

It simulates a robot or twin at the rate of its states, under whatever gains it is sent. What it
accepts and what not is counted by reason, so that a test can say "not one bad command left".

    robot = StrictRobot(Robot.load("g1@worn"), StrictConfig())
    robot.command(command, sound=True, now_s=now)
    state = robot.advance(now)                       # one state, 2 ms later
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from typing import Any

import numpy as np

from asap.bullet import BulletSimulation
from asap.robot import Robot
from asap.sim import CpuSimulation
from asap.twin import Sensors, make_simulation
from asap_deploy import rotation
from asap_deploy.errors import InputError
from asap_deploy.link import MOTOR_ON, RobotCommand, RobotState

STATE_DT = 0.002
"""Between two states [s]."""

_GRAVITY = 9.81
_ROUNDING = 1e-4
_STEADY_S = 0.3
_FIRST_TICK = 5000
_IDLE_DAMPING = 2.0


@dataclass(frozen=True, kw_only=True)
class StrictConfig:
    """How the robot behaves."""

    mode_machine: int | None = None
    """What it says and wants to hear; None: the first that its description names, or 5."""
    timeout_s: float = 0.1
    """Without a command for so long it damps itself [s]."""
    gantry: bool = True
    """Hangs until targets that have stood still begin to move: then it is let down."""
    battery_percent: float = 80.0
    keep_truth: bool = False
    """Remember where the robot truly was at every tick, half a gigabyte an hour."""
    seed: int = 0
    """Of the sensors."""


class StrictRobot:
    """One robot under commands."""

    def __init__(self, robot: Robot, config: StrictConfig) -> None:
        """Build it, hanging or standing in its default pose.

        Raises:
            InputError: If its engine cannot change gains while it runs.
        """
        own = robot.with_(physics_dt=min(robot.physics_dt, STATE_DT), control_dt=STATE_DT)
        sim = make_simulation(own, 1, threads=1, seed=config.seed)
        if isinstance(sim, BulletSimulation):
            raise InputError(f"twin '{robot.name}' has fixed gains by its engine; use another")
        assert isinstance(sim, CpuSimulation)
        self.robot, self.config, self.sim = own, config, sim
        self.sensors = Sensors(own, 1, np.random.default_rng(config.seed))
        machines = robot.mode_machine or (5,)
        self.mode_machine = machines[0] if config.mode_machine is None else config.mode_machine
        self._qpos, self._qvel = sim.batch.bind("qpos"), sim.batch.bind("qvel")
        self._kp = sim.batch.expand("actuator_gainprm")
        self._bias = sim.batch.expand("actuator_biasprm")
        nominal = Robot.load(robot.name.partition("@")[0]) if "@" in robot.name else robot
        self._weak = tuple(
            np.where(told > 0.0, own_gain / np.maximum(told, 1e-12), 1.0)
            for own_gain, told in ((robot.stiffness, nominal.stiffness),
                                   (robot.damping, nominal.damping))
        )  # fmt: skip
        self.hanging = config.gantry
        self.pinned = False
        """Never let down, for tests"""
        self._hang_pose = own.default_qpos()[:7].copy()
        self._target = sim.joint_pos[0].copy()
        self._held_since_s: float | None = None
        self._gains_are(np.zeros(len(robot.joint_names)), np.full(len(robot.joint_names),
                                                                  _IDLE_DAMPING))  # fmt: skip
        self.tick = _FIRST_TICK
        self.counts: Counter[str] = Counter()
        """Commands by what became of them"""
        self.last_stiff_s = self.last_damped_s = self.first_damped_s = -np.inf
        self._heard_s: float | None = None
        self._told: deque[tuple[np.ndarray, np.ndarray]] = deque(maxlen=32)
        self._last_vel = np.zeros(3)
        self.truth: list[np.ndarray] = []
        """Tick and full position of every state, where they are kept"""

    def place(self, qpos: np.ndarray) -> None:
        """Put it somewhere, at rest, and hang it there if it hangs."""
        self.sim.reset(np.arange(1), qpos[None], np.zeros((1, self.sim.model.nv)))
        self._hang_pose = np.array(qpos[:7])
        self._target = self.sim.joint_pos[0].copy()

    def command(self, command: RobotCommand, *, sound: bool, now_s: float) -> str:
        """Take a command, or drop it; returns "accepted" or the reason."""
        reason = self._objection(command, sound)
        self.counts[reason or "accepted"] += 1
        if reason:
            return reason
        stiff = bool((command.stiffness > 0.0).any())
        if stiff:
            self.last_stiff_s = now_s
        else:
            if self.last_stiff_s >= self.last_damped_s:
                self.first_damped_s = now_s
            self.last_damped_s = now_s
        self._let_down(command, stiff, now_s)
        self._heard_s = now_s
        self._target = command.joint_pos_target
        self._gains_are(command.stiffness, command.damping)
        return "accepted"

    def _objection(self, command: RobotCommand, sound: bool) -> str:
        """Why a command is dropped; empty if it is not."""
        if not sound:
            return "checksum"
        if command.motor_mode != MOTOR_ON:
            return "mode"
        if command.mode_machine != self.mode_machine:
            return "machine"
        arrays = command[:5]
        if not all(np.isfinite(array).all() for array in arrays):
            return "not finite"
        if (command.stiffness < 0.0).any() or (command.damping < 0.0).any():
            return "negative gains"
        if command.torque.any() or command.joint_vel_target.any():
            return "feed-forward"
        target, robot = command.joint_pos_target, self.robot
        inside = (target >= robot.joint_pos_lower - _ROUNDING) & (
            target <= robot.joint_pos_upper + _ROUNDING)  # fmt: skip
        if not inside.all():
            return "joint limits"
        # A command was made for one of the states that were sent a moment ago.
        if self._told and not any(self._within_effort(command, *told) for told in self._told):
            return "effort"
        return ""

    def _within_effort(self, command: RobotCommand, pos: np.ndarray, vel: np.ndarray) -> bool:
        torque = command.stiffness * (command.joint_pos_target - pos) - command.damping * vel
        slack = 1e-3 * self.robot.torque_limit + _ROUNDING * command.stiffness
        return bool((np.abs(torque) <= self.robot.torque_limit + slack).all())

    def _let_down(self, command: RobotCommand, stiff: bool, now_s: float) -> None:
        """A person lets the robot down when the pose stands; here: when a policy takes over."""
        if not self.hanging or self.pinned:
            return
        moved = np.abs(command.joint_pos_target - self._target).max() > 1e-6
        if not stiff or self._held_since_s is None or (
            moved and now_s - self._held_since_s < _STEADY_S
        ):  # fmt: skip
            self._held_since_s = now_s
        elif moved:
            self.hanging = False

    def advance(self, now_s: float) -> RobotState:
        """One state later."""
        silent = self._heard_s is not None and now_s - self._heard_s > self.config.timeout_s
        if silent:
            self.counts["timeouts"] += 1
            self._heard_s = None
            none = np.zeros(len(self.robot.joint_names))
            self._gains_are(none, np.full(len(none), _IDLE_DAMPING))
        if self.hanging:
            self._qpos[0, :7], self._qvel[0, :6] = self._hang_pose, 0.0
        self.sim.step(self._target[None])
        self.tick += round(1000.0 * STATE_DT)
        if bool(self.sim.failed[0]):
            self.counts["simulator failed"] += 1
        state = self._measure(now_s)
        self._told.append((state.joint_pos, state.joint_vel))
        if self.config.keep_truth:
            self.truth.append(np.concatenate([[self.tick], self._qpos[0]]))
        return state

    def report(self) -> dict[str, Any]:
        """For tests: what was heard and when, by ``time.monotonic``."""
        return {
            "counts": dict(self.counts), "last_stiff_s": self.last_stiff_s,
            "first_damped_s": self.first_damped_s, "last_damped_s": self.last_damped_s,
            "hanging": self.hanging, "tick": self.tick, "height_m": float(self._qpos[0, 2]),
        }  # fmt: skip

    def _gains_are(self, stiffness: np.ndarray, damping: np.ndarray) -> None:
        kp, kv = self._weak[0] * stiffness, self._weak[1] * damping
        self._kp[0, :, 0] = kp
        self._bias[0, :, 1], self._bias[0, :, 2] = -kp, -kv

    def _measure(self, now_s: float) -> RobotState:
        seen, sim = self.sensors.measure(self.sim), self.sim
        vel_w = sim.base_lin_vel_w[0].copy()
        acc_w = (vel_w - self._last_vel) / STATE_DT + np.array([0.0, 0.0, _GRAVITY])
        self._last_vel = vel_w
        joints = len(self.robot.joint_names)
        return RobotState(
            tick=self.tick,
            arrival_s=now_s,
            checksum_ok=True,
            mode_machine=self.mode_machine,
            joint_pos=seen.joint_pos[0].astype(np.float32).astype(np.float64),
            joint_vel=seen.joint_vel[0].astype(np.float32).astype(np.float64),
            torque_est=sim.joint_torque[0].copy(),
            imu_quat_wxyz=seen.base_quat_wxyz[0],
            imu_ang_vel_b=seen.base_ang_vel_b[0],
            imu_lin_acc_b=rotation.rotate_inverse(sim.base_quat_wxyz[0], acc_w),
            motor_temperature=np.full((joints, 2), 40.0),
            motor_fault=np.zeros(joints, np.uint32),
            battery_percent=self.config.battery_percent,
            remote_connected=True,
            remote_keys=0,
            remote_sticks=np.zeros(4),
        )
