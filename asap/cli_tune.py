"""The commands of post-training: ``asap tune rlpd``, ``hil``, ``conrft``, ``grape``, ``ire``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from asap.cli_tune_common import Arm, Said, Stopped, Tune, announced, looks, update_s
from asap.correction import Correction
from asap.inputs import open_policy
from asap.posttrain.actors import Bounded
from asap.posttrain.collect import Operator, collect
from asap.posttrain.conrft import ConrftConfig, conrft
from asap.posttrain.consistency import ConsistencyHead
from asap.posttrain.episode import DEMO, Episode, load_episodes
from asap.posttrain.grape import GrapeConfig, Round, grape
from asap.posttrain.graph_net import GraphNet
from asap.posttrain.hil import HilConfig, hil
from asap.posttrain.humanoid import TrackingTask
from asap.posttrain.ire import IreConfig, TaskDone, ire
from asap.posttrain.log_episodes import open_data
from asap.posttrain.on_policy import PpoStage, improve_best, small_ppo
from asap.posttrain.operators import Masked, Recorded, Scripted, States
from asap.posttrain.physics_gap import LARGEST, check_gap, physics_gap
from asap.posttrain.rlpd import RlpdConfig, rlpd
from asap.posttrain.soft_q import SoftQConfig
from asap.posttrain.tuned_policy import action_differs
from asap.posttrain.tuning import Setting
from asap.ppo import PpoConfig
from asap.robot import Robot
from asap.teachers import AUTO, find_teacher
from asap_deploy.errors import InputError

TEACHER = Path("teacher")
"""In place of a file: the robot's own."""
_PPO_ROBOTS = 8
"""Of the control of rlpd: PPO learns nothing from two."""


@dataclass(frozen=True, kw_only=True)
class TuneResidual(Tune):
    """What recipes share whose actions stay near those of the frozen policy."""

    steps: int = 4000
    """Of the robot, all together."""
    bound: float = 0.6
    """How far an action may be moved, in units of the action."""
    num_envs: int = 2
    """Robots side by side; few, so that what one episode taught serves in the next."""
    look_episodes: int = 32
    """Episodes of every look on the way; the best look is kept."""

    def online(self, usual: RlpdConfig) -> RlpdConfig:
        """Ten looks, no tries at random: the policy is good already, and the best look counts."""
        return dataclasses.replace(
            usual, steps=self.steps, random_steps=0, judge_every=max(1, self.steps // 10),
            judge_episodes=self.look_episodes, keep_best=True,
        )  # fmt: skip

    def judge(self, setting: Setting) -> TrackingTask:
        """Where looks are taken."""
        return setting.on(setting.tuned_on, self.look_episodes)


@dataclass(frozen=True, kw_only=True)
class TuneRlpd(TuneResidual):
    """Few steps of the robot, with prior data in half of every minibatch (RLPD).

    What learns is a bounded residual on the frozen policy. Prior data are episodes of any recipe,
    or, without any, what the policy does in the simulator. The control is PPO on the whole policy;
    `--prior-share 0` is SAC.
    """

    recipe: ClassVar[str] = "rlpd"
    without: ClassVar[str] = "ppo"
    data: tuple[Path, ...] = ()
    """Logs of the robot with the base's position, or files of episodes of any recipe."""
    prior_robot: str = ""
    """Twin that plays the robot whose data there are, for example g1@worn; without --data."""
    prior_episodes: int = 16
    """Episodes of the start, where no --data are given."""
    prior_share: float = 0.5
    """Of every minibatch."""
    largest_gap: float = LARGEST
    """Prior data are refused where 0.2 s of them end so many times as far from what the simulator
    predicts as its own episodes do."""
    preset: Literal["cpu", "paper"] = "cpu"
    """paper: ten critics of 256 by 256, twenty steps of them for each of the robot: days here."""

    def learn(self, setting: Setting, said: Said, stopped: Stopped, *, control: bool) -> Arm:
        """Learn."""
        if control:
            return self._by_ppo(setting, said)
        own = setting.shown(self.prior_episodes, self.seed + 1)
        prior = self._prior(setting) or own
        facts: dict[str, Any] = {}
        if prior is not own and self.prior_share:
            gap = physics_gap(setting.task, prior, own)
            said(f"0.2 s ahead the simulator is {gap.prior:.2f} deg off the prior data, "
                 f"{gap.own:.2f} deg off its own")  # fmt: skip
            check_gap(gap, self.largest_gap)
            facts["gap"] = gap._asdict() | {"ratio": gap.ratio}
        normal = setting.normal(prior)
        actor = setting.residual(normal, bound=self.bound, seed=self.seed)
        q = SoftQConfig() if self.preset == "paper" else robot_q()
        config = self.online(RlpdConfig(prior_share=self.prior_share, q=q))
        said(announced(setting, prior, self.steps, update_s(setting, actor, q, own)))
        found = rlpd(setting.task, actor, prior, config, seed=self.seed, judge=self.judge(setting),
                     normal=normal, looked=looks(said), stopped=stopped)  # fmt: skip
        facts |= {"curve": [one._asdict() for one in found.curve], "prior_clipped": found.clipped}
        return Arm(actor, found.episodes, facts)

    def _by_ppo(self, setting: Setting, said: Said) -> Arm:
        """As many steps, and the best of as many looks."""
        actor, task = setting.gaussian(-1.6), setting.on(setting.tuned_on, _PPO_ROBOTS)
        stage = PpoStage(iterations=max(1, self.steps // (_PPO_ROBOTS * robot_ppo().horizon)),
                         ppo=robot_ppo())  # fmt: skip
        curve = improve_best(task, actor, stage, seed=self.seed,
                             judge=self.judge(setting), episodes=self.look_episodes,
                             looked=looks(said))  # fmt: skip
        return Arm(actor, [], {"curve": [one._asdict() for one in curve]})

    def _prior(self, setting: Setting) -> list[Episode]:
        if self.data or not self.prior_robot:
            return [one for path in self.data for one in open_data(path, setting.task)]
        task = setting.on(Robot.load(self.prior_robot), self.num_envs, environment="real")
        rng = np.random.default_rng(self.seed + 1)
        return collect(task, setting.policy.act, self.prior_episodes, rng,
                       policy_sha256=setting.policy.sha256)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TuneHil(TuneResidual):
    """Somebody watches and corrects while a bounded residual learns (HIL-SERL).

    The operator takes over, briefly, where the robot is far from the motion: another policy, or the
    robot's teacher, which sees everything; or the interventions of an earlier run are repeated.
    Nobody takes over legs of a real robot.
    """

    recipe: ClassVar[str] = "hil"
    without: ClassVar[str] = "nobody helps"
    operator: Path
    """ONNX file of a policy for the same joints that takes over, `teacher` for the best of the
    robot's own, or an `episodes.npz` whose interventions are repeated."""
    joints: tuple[str, ...] = ()
    """Parts of names of joints that the operator may move; all by default."""
    off_m: float = 0.15
    """The operator takes over where points of the robot are so far from the motion [m]."""

    def learn(self, setting: Setting, said: Said, stopped: Stopped, *, control: bool) -> Arm:
        """Learn."""
        shown = setting.shown(16, self.seed + 1)
        normal = setting.normal(shown)
        actor = setting.residual(normal, bound=self.bound, seed=self.seed)
        config = self.online(RlpdConfig(q=robot_q(), prior_share=0.0 if control else 0.5))
        names = setting.task.action_names
        operator = None if control else Masked(
            self._operator(setting, said), names, self.joints or names, hardware=False
        )  # fmt: skip
        said(announced(setting, [], self.steps, update_s(setting, actor, config.q, shown)))
        found = hil(setting.task, actor, [], operator,
                    HilConfig(learn=config), seed=self.seed, judge=self.judge(setting),
                    normal=normal, looked=looks(said), stopped=stopped)  # fmt: skip
        said("share of steps that the operator took over, by thirds: "
             + ", ".join(f"{rate:.3f}" for rate in found.rates))  # fmt: skip
        return Arm(actor, found.tuned.episodes, {
            "curve": [one._asdict() for one in found.tuned.curve],
            "intervention_rates": found.rates,
        })  # fmt: skip

    def _operator(self, setting: Setting, said: Said) -> Operator:
        if self.operator.suffix == ".npz":
            return Recorded(load_episodes(self.operator))
        task = setting.task
        if self.operator == TEACHER:
            teacher = find_teacher(setting.robot, setting.clip.motion, AUTO)
            said(f"operator: {teacher.about}")
            return Scripted(self._far(task), lambda states: teacher.act(task.robots))
        helper = open_policy(self.operator, setting.robot, setting.clip, None).policy
        ours, theirs = (one.contract for one in (setting.policy, helper))
        name = action_differs(ours, theirs) or ("layout" if ours.layout != theirs.layout else "")
        if name:
            raise InputError(f"the operator's policy differs in {name}: its actions mean something "
                             "else", file=self.operator)  # fmt: skip
        return Scripted(self._far(task), lambda states: helper.act(task.observe()))

    def _far(self, task: TrackingTask) -> Callable[[States], np.ndarray]:
        return lambda states: task.off_m() > self.off_m


@dataclass(frozen=True, kw_only=True)
class TuneConrft(TuneResidual):
    """A few demonstrations first, then the robot, and a head for data with more than one way.

    The head is a consistency model around the frozen policy; demonstrations go on being cloned
    while values take over (ConRFT).
    """

    recipe: ClassVar[str] = "conrft"
    without: ClassVar[str] = "cloned alone"
    demos: tuple[Path, ...]
    """Files of episodes that show how, or logs of the robot."""
    offline_steps: int = 1500
    """Of the engine, on the demonstrations alone."""

    def learn(self, setting: Setting, said: Said, stopped: Stopped, *, control: bool) -> Arm:
        """Learn."""
        demos = [dataclasses.replace(one, source=np.full(one.steps, DEMO))
                 for path in self.demos for one in open_data(path, setting.task)]  # fmt: skip
        if not demos:
            raise InputError("conrft needs demonstrations")
        normal = setting.normal(demos)
        actions = len(setting.task.action_names)
        head = ConsistencyHead(setting.task.observation_width, actions, (128, 128), normal=normal)
        actor = Bounded(head, np.full(actions, self.bound), GraphNet.of(setting.policy))
        usual = ConrftConfig()
        q = dataclasses.replace(robot_q(), temperature=None, clone_weight=1.0, still_weight=0.0,
                                warmup=0)  # fmt: skip
        learn = self.online(dataclasses.replace(usual.online, q=q))
        if control:
            learn = dataclasses.replace(learn, steps=0)
        config = dataclasses.replace(usual, online=learn, offline_steps=self.offline_steps,
                                     offline_critic=not control)  # fmt: skip
        each = update_s(setting, actor, learn.q, demos)
        said(announced(setting, demos, self.steps, each * (1.0 + self.offline_steps / self.steps)))
        found = conrft(setting.task, actor, demos, config, seed=self.seed,
                       judge=self.judge(setting), normal=normal, looked=looks(said),
                       stopped=stopped)  # fmt: skip
        curve = [one._asdict() for one in dict.fromkeys((found.offline, *found.online))]
        return Arm(actor, found.episodes, {"curve": curve})


@dataclass(frozen=True, kw_only=True)
class TuneGrape(Tune):
    """Taste: less of a cost, at equal success, from pairs of episodes that began alike (GRAPE)."""

    recipe: ClassVar[str] = "grape"
    without: ClassVar[str] = "chosen cloned"
    cost: Literal["foot_slip_mm_s", "torque_nm", "target_rate_rad_s"] = "foot_slip_mm_s"
    """What is wanted less."""
    num_envs: int = 64
    """Robots side by side."""
    log_std: float = -1.6
    """Logarithm of the spread of actions that are tried."""
    grape: GrapeConfig = field(default_factory=lambda: GrapeConfig(
        rounds=16, starts=16, tries=8, pairs=4, learning_rate=5e-5, anchor=3.0))  # fmt: skip
    """Everything else."""

    @property
    def objective(self) -> str:
        """The cost."""
        return self.cost

    def learn(self, setting: Setting, said: Said, stopped: Stopped, *, control: bool) -> Arm:
        """Learn."""
        actor = setting.gaussian(self.log_std)
        shown = setting.shown(16, self.seed + 1)
        usual = float(np.mean([spent(one, self.cost).mean() for one in shown]))

        def stages(episode: Episode) -> Sequence[float]:
            parts = np.array_split(spent(episode, self.cost), 3)
            return [float(part.mean()) / usual / 3.0 for part in parts if len(part)]

        def told(one: Round) -> None:
            said(f"round: success {one.success:.2f}  cost {one.cost:.3f} of its start  pairs "
                 f"{one.pairs}  chosen log-ratio {one.chosen_log_ratio:+.2f}")  # fmt: skip

        steps = self.grape.rounds * self.grape.starts * self.grape.tries * setting.task.steps
        said(announced(setting, [], steps))
        found = grape(
            setting.task, actor, stages, dataclasses.replace(self.grape, clone_chosen=control),
            seed=self.seed, told=told, stopped=stopped,
        )  # fmt: skip
        return Arm(actor, [], {"rounds": [one._asdict() for one in found.rounds],
                               "aborted": found.aborted})  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TuneIre(Tune):
    """New dynamics one after the other, without forgetting (iRe-VLA): payloads on the torso.

    PPO moves the last two layers on each new robot, the trunk held to the byte; then everything is
    fitted to what the start does at home together with the successes that were found.
    """

    recipe: ClassVar[str] = "ire"
    without: ClassVar[str] = "ppo with replay"
    payload_kg: tuple[float, ...] = (2.0, 4.0, 6.0)
    """Masses that are added to the torso, one task each [kg]."""
    iterations: int = 40
    """Of PPO for each."""
    expert_episodes: int = 32
    """Of the start at home."""

    def judged_on(self, setting: Setting) -> Sequence[Robot]:
        """At home, and with every payload."""
        return (setting.tuned_on, *(loaded(setting.tuned_on, kg) for kg in self.payload_kg))

    def learn(self, setting: Setting, said: Said, stopped: Stopped, *, control: bool) -> Arm:
        """Learn."""
        actor = setting.gaussian(-1.6)
        actor.trunk()  # says at once where there is none
        experts = setting.shown(self.expert_episodes, self.seed + 1)
        tasks, judges = (
            [setting.on(loaded(setting.tuned_on, kg), count) for kg in self.payload_kg]
            for count in (self.num_envs, self.expert_episodes)
        )
        ppo = robot_ppo()
        usual = IreConfig()
        fit = dataclasses.replace(usual.fit, steps=400, learning_rate=1e-5)
        config = dataclasses.replace(usual, replay=control, tries=self.num_envs, kept=self.num_envs,
                                     home_episodes=self.num_envs, fit=fit,
                                     ppo=PpoStage(iterations=self.iterations, ppo=ppo))  # fmt: skip

        def told(one: TaskDone) -> None:
            said(f"payload done: success {one.after_ppo:.2f} after PPO, {one.kept} kept, at home "
                 f"{one.experts:.2f}")  # fmt: skip

        steps = len(tasks) * self.iterations * ppo.horizon * self.num_envs
        said(announced(setting, experts, steps))
        found, kept = ire(
            actor, experts, setting.task, tasks, config, seed=self.seed,
            judges=judges, told=told, stopped=stopped,
        )  # fmt: skip
        return Arm(actor, kept, {"payload_kg": self.payload_kg,
                                 "tasks": [one._asdict() for one in found]})  # fmt: skip


def robot_q() -> SoftQConfig:
    """Critics for a robot's observations, on a few cores.

    Source of the numbers: jump_forward in the corrected g1@genesis, seed 0, 4000 steps, successes
    of 64 at the best look: 8 % at the start; 19 % with single steps and gamma 0.9, 100 % after 2800
    with five steps and 0.97. Without a warm-up everything falls at once; where 0.07 of an action is
    tried instead of 0.2, or critics learn one step instead of four, 16 k steps teach nothing.
    """
    return SoftQConfig.cpu(
        hidden=(128, 128), critic_steps=4, batch=256, gamma=0.97, ahead=5, learning_rate=3e-4,
        temperature=0.005, target_entropy=0.3, still_weight=0.02, warmup=800,
    )  # fmt: skip


def robot_ppo() -> PpoConfig:
    """PPO on a policy that is good already, with few robots."""
    return dataclasses.replace(small_ppo(), horizon=64, first_rate=1e-5, learning_rate=3e-4,
                               learning_rate_bounds=(1e-6, 1e-4))  # fmt: skip


def loaded(robot: Robot, kg: float) -> Robot:
    """The robot with a mass on its torso [kg]."""
    correction = Correction(robot_name=robot.name.partition("@")[0], joint_names=robot.joint_names,
                            parameters={"added_mass_kg": (kg,)})  # fmt: skip
    return correction.robot(robot)


def spent(episode: Episode, cost: str) -> np.ndarray:
    """(T,) what a cost is in every step of an episode."""
    name = {"foot_slip_mm_s": "feet_slip", "torque_nm": "torque",
            "target_rate_rad_s": "action_rate"}[cost]  # fmt: skip
    return episode.reward_terms[name]
