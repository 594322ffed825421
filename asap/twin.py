"""Robots whose physics and sensors differ from the model in ways that a trainer does not see.

A twin stands in for a real robot. Most of its truth is numbers of the model (gains, friction,
masses, delay); what no number of the model can say is added here, torque by torque, and so are
sensors: noise, encoder steps and bias, a turned IMU, lost packets, a clock that drifts.

    sim = make_simulation(Robot.load("g1@strange"), num_envs=8, seed=0)
    sensors = Sensors(sim.robot, 8, np.random.default_rng(0))
    measurement = sensors.measure(sim)
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from fnmatch import fnmatchcase

import numpy as np

from asap.bullet import BulletSimulation
from asap.robot import Robot
from asap.sim import CpuSimulation
from asap.sim_protocol import Simulation
from asap.tangent import moved
from asap_deploy import rotation
from asap_deploy.errors import InputError
from asap_deploy.observation import Measurement

_SLIDING_SPEED = 0.5
"""Joint speed at which friction under load is about fully there [rad/s]."""


@dataclass(frozen=True, kw_only=True)
class MotorEffects:
    """What motors do beside a PD law, (J,) each, or (N, J) for N robots; 0 where they do not."""

    droop: np.ndarray
    """Part of the torque limit that is lost per speed in the direction of motion [s/rad]."""
    dead_band: np.ndarray
    """Position errors below this make no torque [rad]."""
    load_friction: np.ndarray
    """Friction per newton metre of motor torque."""

    @classmethod
    def of(cls, robot: Robot) -> MotorEffects:
        """As the twin's file says."""
        columns = {"droop_speed": np.inf, "dead_band": 0.0, "load_friction": 0.0}
        table = robot.facts.table("motor_effects")
        values = {
            key: np.array([_of_joint(table, name, key, usual) for name in robot.joint_names])
            for key, usual in columns.items()
        }
        return cls(droop=1.0 / values.pop("droop_speed"), **values)

    def for_each(self, num_robots: int) -> MotorEffects:
        """Those of N robots, (N, J) each, to be changed in place."""
        rows = {item.name: np.tile(getattr(self, item.name), (num_robots, 1))
                for item in fields(self)}  # fmt: skip
        return MotorEffects(**rows)

    @property
    def present(self) -> bool:
        """Whether any motor has any."""
        lossy = (self.droop > 0) | (self.dead_band > 0) | (self.load_friction > 0)
        return bool(lossy.any())


class TwinSimulation(CpuSimulation):
    """Adds what the model has no number for, physics step by physics step."""

    def __init__(
        self, robot: Robot, num_envs: int, *, threads: int = 0, max_delay_s: float = 0.0,
        seed: int = 0,
    ) -> None:  # fmt: skip
        """Start N twins.

        Args:
            robot: The twin.
            num_envs: How many, N.
            threads: Of the pool.
            max_delay_s: Longest delay that will be set, beside what jitters [s].
            seed: Of the jitter of delays.
        """
        self.effects = MotorEffects.of(robot).for_each(num_envs)
        """What the motors do, (N, J) each; may be changed in place."""
        self._jitter_s = float(robot.facts.table("sensors").get("delay_jitter_s", 0.0))
        longest = max(max_delay_s, float(robot.delay_s.max())) + self._jitter_s
        super().__init__(robot, num_envs, threads=threads, max_delay_s=longest)
        self._rng = np.random.default_rng(seed)
        self._usual_delay_s = np.tile(robot.delay_s, (num_envs, 1))
        self._added_force = self.batch.bind("qfrc_applied")
        if longest > 0.0:
            super().set_delay(self._usual_delay_s)

    def step(self, joint_pos_target: np.ndarray) -> None:
        """Advance all twins by one control step."""
        if self._jitter_s > 0.0:
            late = self._rng.uniform(0.0, self._jitter_s, (self.num_envs, 1))
            super().set_delay(self._usual_delay_s + late)
        learned = self.robot.learned
        if learned is None:
            super().step(joint_pos_target)
            return
        added = learned(self.measure(), joint_pos_target)
        if learned.acts_on == "target":
            super().step(joint_pos_target + added)
            return
        super().step(joint_pos_target)
        self._kick(added)

    def _kick(self, change: np.ndarray) -> None:
        """Add steps of position and velocity (N, 2 nv) to the states of robots that are well."""
        well = ~self.failed
        step, speed = np.split(change[well], 2, axis=1)
        self._qpos[well] = moved(self._qpos[well], step)
        self._qvel[well] += speed

    def set_delay(self, delay_s: np.ndarray | float, env_ids: np.ndarray | None = None) -> None:
        """Delay the targets on their way to the motors; what jitters comes on top."""
        super().set_delay(delay_s, env_ids)
        rows = slice(None) if env_ids is None else env_ids
        delays = np.asarray(delay_s, dtype=float)
        self._usual_delay_s[rows] = delays[:, None] if delays.ndim == 1 else delays

    def _advance(self, alive: np.ndarray | None) -> None:
        if not self.effects.present:
            super()._advance(alive)
            return
        columns = self.robot.qvel_ids
        for _ in range(self._decimation):
            self._added_force[:, columns] = self._extra_torque()
            self.batch.step(alive, nstep=1)
            self._joint_torque[:] = self._actuator_force
        self._added_force[:] = 0.0

    def reset(
        self,
        env_ids: np.ndarray,
        qpos: np.ndarray,
        qvel: np.ndarray,
        *,
        joint_pos_target: np.ndarray | None = None,
    ) -> None:
        """Start robots anew, see ``CpuSimulation.reset``."""
        super().reset(env_ids, qpos, qvel, joint_pos_target=joint_pos_target)
        if not self.effects.present or joint_pos_target is None:
            return
        # Friction grows with the load that was there when the robot came into this state.
        target = joint_pos_target[:, -1] if joint_pos_target.ndim == 3 else joint_pos_target
        stiffness, damping = (gain[env_ids] for gain in self._gains())
        torque = stiffness * (target - self.joint_pos[env_ids]) - damping * self.joint_vel[env_ids]
        strongest = self._strongest()[env_ids]
        self._joint_torque[env_ids] = np.clip(torque, -strongest, strongest)

    def _gains(self) -> tuple[np.ndarray, np.ndarray]:
        """Stiffness and damping of every robot's motors, (N, J) each."""
        kp, kv = self.batch.expand("actuator_gainprm"), self.batch.expand("actuator_biasprm")
        return kp[:, :, 0], -kv[:, :, 2]

    def _strongest(self) -> np.ndarray:
        """What every robot's motors can give, (N, J) [Nm]."""
        limit = self.batch.expand("actuator_forcerange")[:, :, 1]
        # Without a limit MuJoCo has a range of 0; no limit times nothing left is 0.
        return np.where(np.isfinite(self.robot.torque_limit), limit, 1e9)

    def _extra_torque(self) -> np.ndarray:
        """(N, J) beside what the motors of the model did in the last physics step [Nm]."""
        effects, torque, speed = self.effects, self._joint_torque, self.joint_vel
        stiffness, damping = self._gains()
        # The position error that the motor answered, whatever was under way to it.
        error = (torque + damping * speed) / np.maximum(stiffness, 1e-9)
        unmoved = stiffness * np.clip(error, -effects.dead_band, effects.dead_band)
        left = self._strongest() * np.clip(1.0 - np.abs(speed) * effects.droop, 0.0, 1.0)
        reached = np.where(torque * speed > 0.0, np.clip(torque, -left, left), torque)
        friction = effects.load_friction * np.abs(torque) * np.tanh(speed / _SLIDING_SPEED)
        return reached - torque - unmoved - friction


def make_simulation(
    robot: Robot, num_envs: int, *, threads: int = 0, max_delay_s: float = 0.0, seed: int = 0
) -> Simulation:
    """Simulate a robot, as a twin where it is one that needs it, in the engine that it names."""
    jitter = robot.facts.table("sensors").get("delay_jitter_s", 0.0)
    if robot.facts.get("engine") == "bullet":
        if jitter or MotorEffects.of(robot).present:
            raise InputError(
                "engine 'bullet' has no motor_effects and no delay_jitter_s: take them out of "
                f"the file of twin '{robot.name}'"
            )
        return BulletSimulation(robot, num_envs, max_delay_s=max_delay_s)
    if jitter or MotorEffects.of(robot).present or robot.learned is not None:
        return TwinSimulation(robot, num_envs, threads=threads, max_delay_s=max_delay_s, seed=seed)
    return CpuSimulation(robot, num_envs, threads=threads, max_delay_s=max_delay_s)


@dataclass(frozen=True, kw_only=True)
class SensorFacts:
    """What a twin's sensors get wrong; zeros measure exactly."""

    joint_pos_noise: float = 0.0
    """Standard deviation [rad]"""
    joint_pos_step: float = 0.0
    """Of the encoder [rad]"""
    joint_vel_noise: float = 0.0
    """[rad/s]"""
    ang_vel_noise: float = 0.0
    """[rad/s]"""
    tilt_noise: float = 0.0
    """[rad]"""
    imu_misalignment: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Rotation vector of the IMU in the base [rad]"""
    packet_loss: float = 0.0
    """Part of measurements that do not arrive; the one before stands."""
    delay_jitter_s: float = 0.0
    """Targets arrive up to this much later, at random [s]."""
    clock_drift: float = 0.0
    """Seconds that the clock gains per second."""
    clock_jitter_s: float = 0.0
    """Standard deviation of time stamps [s]"""

    @classmethod
    def of(cls, robot: Robot) -> SensorFacts:
        """As the twin's file says."""
        table = robot.facts.table("sensors")
        known = {item.name for item in fields(cls)}
        values = {name: value for name, value in table.items() if name in known}
        if "imu_misalignment" in values:
            values["imu_misalignment"] = tuple(values["imu_misalignment"])
        return cls(**values)


class Sensors:
    """What N twins measure of themselves."""

    def __init__(self, robot: Robot, num_robots: int, rng: np.random.Generator) -> None:
        """Draw what stays the same.

        Args:
            robot: The twin.
            num_robots: How many, N; they share the misalignment: it is one robot.
            rng: Of noise.
        """
        self.facts, self.rng, self._num = SensorFacts.of(robot), rng, num_robots
        self._turn = rotation.from_rotvec(np.array(self.facts.imu_misalignment))
        self._last: Measurement | None = None
        self.lost = np.zeros(num_robots, dtype=bool)
        """(N,) the last measurement did not arrive"""

    def measure(self, sim: Simulation) -> Measurement:
        """What arrives; the base's position and velocity are exact, as of a motion capture."""
        now = self._seen(sim.measure())
        if self.facts.packet_loss > 0.0 and self._last is not None:
            self.lost = self.rng.random(self._num) < self.facts.packet_loss
            rows = self.lost[:, None]
            pairs = zip(self._last, now, strict=True)
            now = Measurement(
                *(None if b is None or a is None else np.where(rows, a, b) for a, b in pairs)  # type: ignore[arg-type]
            )
        self._last = now
        return now

    def _seen(self, true: Measurement) -> Measurement:
        facts = self.facts
        joint_pos = true.joint_pos + self._noise(facts.joint_pos_noise, true)
        if facts.joint_pos_step > 0.0:
            joint_pos = np.round(joint_pos / facts.joint_pos_step) * facts.joint_pos_step
        quat, ang_vel = true.base_quat_wxyz, true.base_ang_vel_b
        if any(facts.imu_misalignment):
            quat = rotation.multiply(quat, self._turn)
            ang_vel = rotation.rotate_inverse(self._turn, ang_vel)
        if facts.tilt_noise > 0.0:
            shake = self.rng.normal(0.0, facts.tilt_noise, (self._num, 3))
            quat = rotation.multiply(quat, rotation.from_rotvec(shake))
        if facts.ang_vel_noise > 0.0:
            ang_vel = ang_vel + self.rng.normal(0.0, facts.ang_vel_noise, ang_vel.shape)
        return true._replace(
            joint_pos=joint_pos,
            joint_vel=true.joint_vel + self._noise(facts.joint_vel_noise, true),
            base_quat_wxyz=quat,
            base_ang_vel_b=ang_vel,
        )

    def _noise(self, size: float, true: Measurement) -> np.ndarray | float:
        return self.rng.normal(0.0, size, true.joint_pos.shape) if size > 0.0 else 0.0


def _of_joint(table: dict[str, dict[str, float]], name: str, key: str, usual: float) -> float:
    """What the last matching pattern says."""
    said = [entry[key] for pattern, entry in table.items()
            if fnmatchcase(name, pattern) and key in entry]  # fmt: skip
    return float(said[-1]) if said else usual
