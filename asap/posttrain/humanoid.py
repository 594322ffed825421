"""A robot that tracks a clip with a policy's contract, as a task for post-training.

Episodes are whole clips from the first frame. Observation and action go through
``asap_deploy.Runtime``, the code that drives the robot; failure and rewards are those of
``asap.env``. One seed is one start and one row of sensor noise, whoever stands beside it.

    policy = open_policy(Path("squat"), robot, None, None).policy
    task = TrackingTask(robot, policy, open_motion(Path("squat"), robot, ground=True), num_envs=16)
    episodes = collect(task, policy.act, 16, rng)

The end of the clip is an end for good: the critic sees the phase.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import numpy as np

from asap.correction import Correction
from asap.env import EnvConfig
from asap.evaluate import Case, EvaluateConfig, check_case, with_gains
from asap.finetune import FINETUNE
from asap.inputs import OpenedMotion
from asap.posttrain.episode import Episode
from asap.posttrain.rebuilt import off_motion, rebuilt, rows_of_all
from asap.posttrain.robots import FAILED, Robots
from asap.posttrain.task import Step
from asap.randomize import RandomizeConfig
from asap.rewards import TRACKING
from asap.robot import Robot
from asap.sensor_noise import noisy
from asap.sim_protocol import Simulation
from asap.tracking import NOISE, StartNoise, drawn_kicks, start_states
from asap.twin import SensorFacts, Sensors
from asap_deploy import rotation
from asap_deploy.errors import InputError
from asap_deploy.motion import MotionFrame
from asap_deploy.observation import LAYOUTS, Measurement
from asap_deploy.policy import Policy
from asap_deploy.runtime import Runtime


def corrected(correction: Correction) -> str:
    """``environment`` of a task on a robot that is corrected so."""
    said = json.dumps({name: list(values) for name, values in correction.parameters.items()},
                      sort_keys=True).encode()  # fmt: skip
    learned = b"" if correction.learned is None else correction.learned.data
    return f"corrected:{hashlib.sha256(said + learned).hexdigest()[:16]}"


class TrackingTask:
    """N robots that track one clip; see ``asap.posttrain.task.Task``.

    Where a twin's targets are late at random, that is drawn for all robots together: there a
    seed fixes the start and the sensors, not the whole episode.
    """

    def __init__(
        self,
        robot: Robot,
        policy: Policy,
        clip: OpenedMotion,
        num_envs: int,
        *,
        config: EnvConfig = FINETUNE.env,
        start_noise: StartNoise = "small",
        push_speed: float = 0.0,
        environment: str = "nominal",
        threads: int = 0,
    ) -> None:
        """Make the simulations; ``start`` begins episodes.

        Args:
            robot: That is simulated: the model, a corrected one or a twin. A twin's own sensors
                are used instead of the config's sensor noise.
            policy: Whose contract says what is observed and commanded. It need not be who acts.
            clip: That is tracked.
            num_envs: N.
            config: Rewards, what a failure is, noise of sensors. Layout and offset are the
                contract's, starts are whole clips.
            start_noise: See ``asap.tracking``.
            push_speed: Of a kick of the base every second, its direction drawn from the episode's
                seed [m/s].
            environment: What episodes say about the physics: real, nominal or ``corrected``.
            threads: Of the simulator; 0: all cores.

        Raises:
            InputError: If policy, clip and robot do not fit, or the config has what would make
                an episode depend on more than its seed.
        """
        _check(policy, clip, robot, config)
        contract = policy.contract
        self._own_sensors = SensorFacts.of(robot) != SensorFacts()
        robot = with_gains(robot, contract)
        self._robots = Robots(
            robot, clip.motion, config, num_envs, np.random.default_rng(0), motion_name=clip.name,
            threads=threads, contract=contract,
        )  # fmt: skip
        # The clip is that of the file, to the bit: what the robot runs.
        self._robots.runtime = Runtime(policy, robot.joint_names, num_envs)
        self.robot, self.policy, self.clip, self.config = robot, policy, clip, config
        self.num_envs, self.control_dt = num_envs, robot.control_dt
        self._start_noise, self._environment = start_noise, environment
        self._push_speed = push_speed
        self._robots.kicks = np.zeros((num_envs, self._robots.last_frame + 1, 3))
        self._sensors = [Sensors(robot, 1, np.random.default_rng(0)) for _ in range(num_envs)]
        one = self._drawn_noise(np.random.default_rng(0))
        self._noise = Measurement(*(np.stack([array] * num_envs) for array in one))  # type: ignore[list-item]
        self._lost = np.zeros(num_envs, dtype=bool)
        self._seen = self._robots.sim.measure()
        self._observation: np.ndarray | None = None
        self._before = self._robots.runtime.snapshot()

    @property
    def name(self) -> str:
        """Robot without its twin, and clip."""
        return f"{self.robot.name.partition('@')[0]} {self.clip.name}"

    @property
    def motion(self) -> str:
        """Name of the clip."""
        return self.clip.name

    @property
    def environment(self) -> str:
        """As it was given."""
        return self._environment

    @property
    def action_names(self) -> tuple[str, ...]:
        """Joints that the policy commands."""
        return self.policy.contract.action_joint_names

    @property
    def observation_width(self) -> int:
        """D."""
        return len(self.policy.contract.element_names)

    @property
    def state_width(self) -> int:
        """K."""
        return 9 + len(self.robot.joint_names)

    @property
    def steps(self) -> int:
        """Control steps of a whole episode."""
        return self._robots.last_frame

    @property
    def simulation(self) -> Simulation:
        """The robots, to look at."""
        return self._robots.sim

    @property
    def robots(self) -> Robots:
        """The same as an environment: what a teacher acts on, and what labels logs."""
        return self._robots

    def ahead(self, state: Mapping[str, np.ndarray], actions: np.ndarray) -> np.ndarray:
        """(N, J) joints K steps after raw states (N, ...) under actions (K, N, A) [rad].

        The robots are put there: episodes that were going on are lost.
        """
        robots, robot = self._robots, self.robot
        qpos = np.tile(robot.default_qpos(), (self.num_envs, 1))
        qvel = np.zeros((self.num_envs, robot.model.nv))
        qpos[:, :3], qpos[:, 3:7] = state["base_pos_w"], state["base_quat_wxyz"]
        qvel[:, :3], qvel[:, 3:6] = state["base_lin_vel_w"], state["base_ang_vel_b"]
        qpos[:, robot.qpos_ids], qvel[:, robot.qvel_ids] = state["joint_pos"], state["joint_vel"]
        robots.begin(np.arange(self.num_envs), qpos, qvel)
        for place, action in enumerate(actions):
            time_s = np.asarray(state["time_s"]) + place * self.control_dt
            robots.sim.step(robots.runtime.act(action, time_s).joint_pos_target)
        return np.asarray(robots.sim.joint_pos.copy())

    def off_m(self) -> np.ndarray:
        """(N,) mean distance of the tracked points to the motion, now [m]."""
        robots = self._robots
        points_w = robots.reference.table.points_w[robots.frame]
        return np.asarray(np.linalg.norm(robots.points_w - points_w, axis=-1).mean(axis=-1))

    def start(self, env_ids: np.ndarray, seeds: np.ndarray) -> None:
        """Begin with the clip; state and noise of each robot (n,) come from its seed alone."""
        env_ids = np.asarray(env_ids, dtype=np.intp)
        first = MotionFrame(*(array[:1] for array in self._robots.reference.frames))
        noise, states = NOISE[self._start_noise], []
        if self._observation is not None:
            # What was observed and not acted upon is observed again: it enters no history twice.
            self._robots.runtime.restore(self._before)
        for env, seed in zip(env_ids, seeds, strict=True):
            rng = np.random.default_rng(int(seed))
            states.append(start_states(first, self.robot, rng, noise=noise, at_rest=noise == 0.0))
            for kept, new in zip(self._noise, self._drawn_noise(rng), strict=True):
                kept[env] = new  # type: ignore[index]
            self._sensors[env] = Sensors(self.robot, 1, rng)
            self._robots.kicks[env] = self._drawn_kicks(rng)
        qpos, qvel = (np.concatenate(parts) for parts in zip(*states, strict=True))
        self._robots.begin(env_ids, qpos, qvel)
        self._lost[env_ids] = False
        self._look(env_ids)

    def channels(self) -> dict[str, np.ndarray]:
        """What sensors and a motion capture say now, and the time in the clip [s]."""
        found = {name: array.copy() for name, array in self._seen._asdict().items()}
        return found | {"time_s": self._robots.time_s}

    def observe(self) -> np.ndarray:
        """(N, D) float32 as the runtime builds it; again the same until the next step."""
        if self._observation is None:
            self._before = self._robots.runtime.snapshot()
            self._observation = self._robots.runtime.observe(self._seen, self._robots.time_s)
        return self._observation.copy()

    def observations(self, episode: Episode) -> np.ndarray:
        """(T + 1, D) float32: what ``observe`` said, to the bit."""
        missing = [name for name in (*Measurement._fields, "time_s")
                   if name not in episode.channels]  # fmt: skip
        if missing:
            raise InputError(f"episode of '{episode.robot}' has no channel '{missing[0]}'; task "
                             f"'{self.name}' cannot rebuild what was observed")  # fmt: skip
        seen = Measurement(*(np.asarray(episode.channels[name]) for name in Measurement._fields))
        return rebuilt(self.policy, self.robot.joint_names, seen, episode.action_executed,
                       episode.channels["time_s"])  # fmt: skip

    def states(self, episode: Episode) -> np.ndarray:
        """(T + 1, K) float32: where the robot is, seen from the motion."""
        return off_motion(episode.channels, self._robots.reference.table, self.control_dt)

    def step(self, action: np.ndarray) -> Step:
        """One control step of all; who is over may do anything, and stays over."""
        done = self._robots.advance(action)
        self._lost |= done.failed
        over = self._lost | done.ended
        nobody = np.zeros(self.num_envs, dtype=bool)
        self._look(np.arange(self.num_envs))
        return Step(done.terms, over, nobody, done.ended & ~self._lost, done.action)

    def reward(self, terms: Mapping[str, np.ndarray]) -> np.ndarray:
        """(T,) as ``asap.env`` rewards."""
        config, dt = self.config, self.control_dt
        missing = [name for name in (*self._robots.term_names, FAILED) if name not in terms]
        if missing:
            raise InputError(f"episode has no reward term '{missing[0]}'; it was recorded for "
                             "other rewards")  # fmt: skip
        total = config.reward.termination * terms[FAILED]
        for name in self._robots.term_names:
            scale = 1.0 if name in TRACKING else config.curriculum.cost_scale[0]
            total = total + self._robots.weight(name).weight * dt * scale * terms[name]
        return np.asarray(total)

    def base_of_clip(self, frame: int) -> tuple[np.ndarray, np.ndarray]:
        """Position (3,) and attitude (4,) of the base in a frame of the clip."""
        table = self._robots.reference.table
        return table.base_pos_w[frame], table.base_quat_wxyz[frame]

    def _look(self, env_ids: np.ndarray) -> None:
        """Measure these robots (n,) anew; what others measured stands."""
        for kept, new in zip(self._seen, self._measure(env_ids), strict=True):
            assert kept is not None, "a simulation knows where the base is"
            kept[env_ids] = new
        self._observation = None

    def _measure(self, env_ids: np.ndarray) -> Measurement:
        """Rows of these robots (n,) with what sensors add."""
        true = rows_of_all(self._robots.sim.measure(), env_ids)
        if self._own_sensors:
            found = [self._sensors[env].measure(cast(Simulation, _Row(rows_of_all(true, [row]))))
                     for row, env in enumerate(env_ids)]  # fmt: skip
            return Measurement(*(np.concatenate(cast(Any, parts))
                                 for parts in zip(*found, strict=True)))  # fmt: skip
        added = rows_of_all(self._noise, (env_ids, self._robots.frame[env_ids]))
        return true._replace(
            joint_pos=true.joint_pos + added.joint_pos,
            joint_vel=true.joint_vel + added.joint_vel,
            base_quat_wxyz=rotation.multiply(true.base_quat_wxyz, added.base_quat_wxyz),
            base_ang_vel_b=true.base_ang_vel_b + added.base_ang_vel_b,
        )

    def _drawn_kicks(self, rng: np.random.Generator) -> np.ndarray:
        """(frames, 3) [m/s], as ``asap evaluate`` kicks."""
        kicks = np.zeros((self.steps + 1, 3))
        if self._push_speed:
            every = round(EvaluateConfig.push_interval_s / self.control_dt)
            kicked = kicks[every::every]
            kicked[:] = drawn_kicks(rng, len(kicked), self._push_speed)
        return kicks

    def _drawn_noise(self, rng: np.random.Generator) -> Measurement:
        """What sensors add in every frame of an episode: a robot that stands still, with noise."""
        frames, joints = self.steps + 1, len(self.robot.joint_names)
        upright = np.tile([1.0, 0.0, 0.0, 0.0], (frames, 1))
        nothing = Measurement(np.zeros((frames, joints)), np.zeros((frames, joints)), upright,
                              np.zeros((frames, 3)), np.zeros((frames, 3)),
                              np.zeros((frames, 3)))  # fmt: skip
        return noisy(nothing, self.config.sensor_noise, self.config.noise_scale, rng)


class _Row(NamedTuple):
    """A simulation of one robot, as far as sensors ask."""

    true: Measurement

    def measure(self) -> Measurement:
        """(1, ...)."""
        return self.true


def _check(policy: Policy, clip: OpenedMotion, robot: Robot, config: EnvConfig) -> None:
    """Refuse what cannot be run, or would make an episode depend on more than its seed."""
    facts = policy.contract.clip
    if facts is None or LAYOUTS[policy.contract.layout].needs_command:
        raise InputError("the policy tracks no clip; post-training here is of policies that do")
    check_case(Case(policy, clip.motion, clip.name), robot)
    if abs(facts.duration_s - clip.motion.duration_s) > 1.5 / facts.fps:
        raise InputError(
            f"policy tracks '{facts.name}' of {facts.duration_s:.2f} s, motion '{clip.name}' "
            f"lasts {clip.motion.duration_s:.2f} s: give the clip that it was made for"
        )
    if robot.facts.get("engine") == "bullet":
        raise InputError(f"twin '{robot.name}' runs in Bullet; post-training runs in MuJoCo")
    quiet = dataclasses.replace(
        config, push_speed=0.0, target_noise=0.0, hold_s=0.0, randomize=RandomizeConfig()
    )
    if config != quiet:
        raise InputError("pushes, noise of targets, a held end and randomisation are drawn for all "
                         "robots together; episodes here depend on their seed alone")  # fmt: skip
