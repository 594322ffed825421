"""Records what a robot would log: a policy runs through the robot's own runtime on a simulated one.

    log = record(Case(policy, motion, "squat"), Robot.load("g1@worn"), RecordConfig(episodes=4))
    log.save("real_logs/g1/squat_worn.npz")

A row is measured at ``time_s``; its target is in force from then on. The clock, the encoders and
the IMU are those of the robot, so what they get wrong is in the log.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from asap.evaluate import Case, check_case, with_gains
from asap.metrics import TrackedPoints
from asap.robot import Robot
from asap.tracking import Reference, start_states
from asap.twin import Sensors, make_simulation
from asap_deploy.errors import InputError
from asap_deploy.log import Log
from asap_deploy.runtime import Runtime, RuntimeStep

_PAUSE_S = 1.0
"""Between episodes, by the robot's clock."""
_FEWEST_ROWS = 10


@dataclass(frozen=True, kw_only=True)
class RecordConfig:
    """How a log is recorded."""

    episodes: int = 4
    """Times that the clip is played, one robot after another in the log."""
    base_pose: bool = True
    """Also where the base was and how fast, as motion capture knows; without it only the IMU."""
    start_noise: float = 0.0
    """Multiple of the original's start noise."""
    fail_distance_m: float = 0.5
    """An episode ends when the mean distance to the motion exceeds this [m]."""
    seed: int = 0
    """Of starts and sensors."""
    threads: int = 0
    """Of the simulator; 0: all cores."""

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        if self.episodes < 1 or self.start_noise < 0.0 or self.fail_distance_m <= 0.0:
            raise InputError(
                "need 1 episode or more, start noise from 0 and a distance above 0; got "
                f"{self.episodes}, {self.start_noise:g}, {self.fail_distance_m:g}"
            )


def record(case: Case, robot: Robot, config: RecordConfig) -> Log:
    """Play a clip and log it.

    Args:
        case: Policy and clip.
        robot: Robot or twin that plays the robot.
        config: How often, with what.

    Raises:
        InputError: If policy, clip and robot do not fit, or every episode fails at once.
    """
    check_case(case, robot)
    robot = with_gains(robot, case.policy.contract)
    player = _Player(case, robot, config)
    steps = max(1, round(case.motion.duration_s / robot.control_dt))
    for step in range(steps + 1):
        player.play(step)
    return player.log(robot)


class _Player:
    """Episodes side by side, and the rows that they leave."""

    def __init__(self, case: Case, robot: Robot, config: RecordConfig) -> None:
        count = config.episodes
        self.case, self.config, self.control_dt = case, config, robot.control_dt
        rng = np.random.default_rng(config.seed)
        self.sim = make_simulation(robot, count, threads=config.threads, seed=config.seed)
        self.sensors = Sensors(robot, count, rng)
        self.runtime = Runtime(case.policy, robot.joint_names, count)
        self.points = TrackedPoints(robot)
        self.reference = Reference(case.motion, robot, self.points)
        first = self.reference.frame(np.zeros(count))
        quiet = config.start_noise == 0.0
        state = start_states(first, robot, rng, noise=config.start_noise, at_rest=quiet)
        self.sim.reset(np.arange(count), *state)
        self.rows: dict[str, list[np.ndarray]] = {}
        self.alive = np.ones(count, dtype=bool)
        self.length = np.zeros(count, dtype=np.intp)

    def play(self, step: int) -> None:
        """One control step of every episode."""
        measured = self.sensors.measure(self.sim)
        command = self.runtime.step(measured, np.full(len(self.alive), step * self.control_dt))
        self._keep(measured._asdict(), command)
        self.length += self.alive
        self.sim.step(command.joint_pos_target)
        frame = self.reference.frame((step + 1) * self.control_dt)
        points = self.points.positions(self.sim.body_pos_w, self.sim.body_quat_wxyz)
        away = np.linalg.norm(points - self.reference.positions(frame), axis=-1).mean(axis=-1)
        self.alive &= ~(self.sim.failed | command.refused) & (away < self.config.fail_distance_m)

    def log(self, robot: Robot) -> Log:
        """All episodes, one after the other."""
        if self.length.max() < _FEWEST_ROWS:
            raise InputError(
                f"policy '{self.case.name}' falls at once on '{robot.name}': nothing to record"
            )
        facts, rng = self.sensors.facts, self.sensors.rng
        kept = np.flatnonzero(self.length >= _FEWEST_ROWS)
        columns = {name: np.stack(values) for name, values in self.rows.items()}
        joined = {
            name: np.concatenate([array[: self.length[i], i] for i in kept])
            for name, array in columns.items()
        }
        start, clocks = 0.0, []
        for i in kept:
            clocks.append(start + self.control_dt * np.arange(self.length[i]))
            start = float(clocks[-1][-1]) + _PAUSE_S
        time_s = np.concatenate(clocks) * (1.0 + facts.clock_drift)
        limit = 0.3 * self.control_dt  # stamps stay in order
        jitter = rng.normal(0.0, facts.clock_jitter_s, len(time_s)) if facts.clock_jitter_s else 0.0
        joined["episode"] = np.repeat(np.arange(len(kept)), self.length[kept])
        contract = self.case.policy.contract
        order = contract.index(robot.joint_names)
        return Log(
            joint_names=robot.joint_names,
            time_s=time_s + np.clip(jitter, -limit, limit),
            joint_pos=joined.pop("joint_pos"),
            fields={
                **joined,
                # What the motors were told; what a worn one makes of it is not in a log.
                "stiffness": np.array(contract.stiffness)[order],
                "damping": np.array(contract.damping)[order],
            },
            robot=robot.name.partition("@")[0],
            source=f"simulated robot {robot.name}, motion {self.case.name}, asap.record",
            policy_hash=contract.sha256,
        )

    def _keep(self, measured: dict[str, np.ndarray], command: RuntimeStep) -> None:
        """Note what was measured and commanded."""
        row = {
            "joint_pos": measured["joint_pos"],
            "joint_vel": measured["joint_vel"],
            "joint_pos_target": command.joint_pos_target,
            "action": command.action,
            "torque_est": self.sim.joint_torque,
            "imu_quat_wxyz": measured["base_quat_wxyz"],
            "imu_ang_vel_b": measured["base_ang_vel_b"],
            "phase": command.phase,
        }
        if self.config.base_pose:
            row["base_pos_w"] = self.sim.base_pos_w
            row["base_quat_wxyz"] = self.sim.base_quat_wxyz
            row["base_lin_vel_w"] = self.sim.base_lin_vel_w
            row["base_ang_vel_b"] = self.sim.base_ang_vel_b
        for name, value in row.items():
            self.rows.setdefault(name, []).append(np.array(value))
