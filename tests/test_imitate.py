"""A teacher made from the model keeps robots up, and an actor copies it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from asap.curves import METRICS, read_rows
from asap.env import EnvConfig, TrackingEnv
from asap.imitate import ImitateConfig, Imitation
from asap.inputs import OpenedMotion, open_motion
from asap.metrics import TrackedPoints
from asap.ppo import PpoConfig, TrackerPPO
from asap.regulator import Regulator, plan_regulator
from asap.robot import Robot
from asap.sim import CpuSimulation
from asap.starts import StartConfig
from asap.teachers import Planned
from asap.tracking import Reference, start_states
from asap.train import Trainer
from asap.training_run import TrainConfig
from asap.vecenv import TrackingVecEnv
from asap_deploy.motion import Motion

ROBOTS = 16
SECONDS = 1.2


@pytest.fixture(scope="module")
def robot() -> Robot:
    return Robot.load("g1").for_training().with_(integrator="discrete", physics_dt=0.01)


def _beginning(robot: Robot, seconds: float) -> Motion:
    """Of a clip: planning takes several times as long as the clip."""
    whole = open_motion(Path("squat"), robot, ground=True).motion
    rows = round(seconds * whole.fps)
    names = ("joint_pos", "joint_vel", "body_pos_w", "body_quat_wxyz", "body_lin_vel_w",
             "body_ang_vel_w", "foot_contact")  # fmt: skip
    return whole.replace(**{name: getattr(whole, name)[:rows] for name in names})


@pytest.fixture(scope="module")
def motion(robot: Robot) -> Motion:
    return _beginning(robot, SECONDS)


@pytest.fixture(scope="module")
def regulator(robot: Robot, motion: Motion) -> Regulator:
    return plan_regulator(robot, motion)


def _upright(robot: Robot, motion: Motion, regulator: Regulator, *, feedback: bool) -> float:
    """Share of robots, disturbed at first, that stand 2 s later, the last target held."""
    sim = CpuSimulation(robot, ROBOTS)
    reference = Reference(motion, robot, TrackedPoints(robot))
    frames, rng = reference.frame(np.zeros(ROBOTS)), np.random.default_rng(3)
    sim.reset(np.arange(ROBOTS), *start_states(frames, robot, rng, noise=0.5, at_rest=True))
    last = len(regulator.joint_pos_target) - 1
    for step in range(100):
        row = min(step, last)
        target = np.tile(regulator.joint_pos_target[row], (ROBOTS, 1))
        if feedback:
            target = regulator.act(sim, np.full(ROBOTS, row))
        sim.step(target)
    return float((sim.base_pos_w[:, 2] > 0.5).mean())


def test_feedback_from_the_model_keeps_robots_up_that_fall_without(
    robot: Robot, motion: Motion, regulator: Regulator
) -> None:
    with_feedback = _upright(robot, motion, regulator, feedback=True)
    control = _upright(robot, motion, regulator, feedback=False)
    assert with_feedback >= 0.6
    assert with_feedback >= control + 0.3
    assert 0.0 < regulator.reach_s <= SECONDS
    low, high = regulator.joint_pos_limits
    target = regulator.joint_pos_target
    assert ((low <= target) & (target <= high)).all()


@pytest.fixture(scope="module")
def env(robot: Robot, motion: Motion) -> TrackingEnv:
    config = EnvConfig(layout="proprioception", start=StartConfig(noise=(0.0, 0.3)))
    return TrackingEnv(robot, motion, config, 32, np.random.default_rng(0))


def _missed(trainer: TrackerPPO, imitation: Imitation) -> float:
    """Squared difference between actor and teacher now, as a share of what the teacher does."""
    wanted = imitation.wanted()
    seen = {"actor": torch.from_numpy(trainer.last_observation["actor"])}
    with torch.no_grad():
        action = trainer.policy.action_net(trainer.tracker.towers.forward_actor(seen)).numpy()
    return float(np.square(action - wanted).mean() / np.square(wanted).mean())


def test_an_actor_copies_its_teacher_and_then_acts_alone(
    env: TrackingEnv, regulator: Regulator
) -> None:
    config = ImitateConfig(iterations=8, alone_after=0.5, passes=20, batch=256)
    imitation = Imitation(env, lambda: Planned(regulator), config)
    imitation.begin()
    assert imitation.acts(0).all()
    assert 0 < imitation.acts(2).sum() < env.num_envs
    assert not imitation.acts(4).any()
    ppo = PpoConfig(horizon=8, minibatches=1, epochs=1, torch_threads=1)
    trainer = TrackerPPO(TrackingVecEnv(env), ppo, 0, imitation)
    before = {name: weight.clone() for name, weight in trainer.policy.named_parameters()}
    missed = _missed(trainer, imitation)
    errors = [trainer.iterate()["imitation_error"] for _ in range(config.iterations)]
    assert np.isfinite(errors).all()
    assert _missed(trainer, imitation) < 0.4 * missed
    assert not trainer.imitates
    now = dict(trainer.policy.named_parameters())
    moved = {name for name, weight in now.items() if not torch.equal(weight, before[name])}
    assert "log_std" not in moved  # copying says nothing about exploration
    assert any("policy_net" in name for name in moved)
    assert any("value_net" in name for name in moved)
    facts = trainer.iterate()  # PPO: what the optimiser remembers of copying would blow it up
    assert "imitation_error" not in facts
    assert facts["kl"] < 1.0


def test_a_teacher_that_falls_itself_is_left_out(env: TrackingEnv, regulator: Regulator) -> None:
    bad = replace(regulator, finished=0.1)
    imitation = Imitation(env, lambda: Planned(bad), ImitateConfig())
    ppo = PpoConfig(horizon=4, minibatches=1, epochs=1, torch_threads=1)
    trainer = TrackerPPO(TrackingVecEnv(env), ppo, 0, imitation)
    assert trainer.imitates
    assert "imitation_error" not in trainer.iterate()
    assert not trainer.imitates


def test_what_the_teacher_said_survives_a_snapshot(env: TrackingEnv, regulator: Regulator) -> None:
    first, second = (Imitation(env, lambda: Planned(regulator), ImitateConfig()) for _ in range(2))
    first.begin()
    observation = np.ones((env.num_envs, 3), dtype=np.float32)
    wanted = first.wanted()
    assert wanted.shape == (env.num_envs, len(env.contract.action_joint_names))
    assert np.abs(wanted).max() <= first.config.limit
    first.remember(observation, wanted)
    second.restore(first.snapshot())
    assert torch.equal(second.snapshot()["wanted"][0], torch.from_numpy(wanted))
    first.forget()
    assert not first.snapshot()["seen"]


def test_a_run_that_is_interrupted_while_it_copies_continues_to_the_bit(tmp_path: Path) -> None:
    robot = Robot.load("g1")
    clip = OpenedMotion(_beginning(robot, 0.4), "squat", Path("squat.npz"))
    copying = ImitateConfig(iterations=4, passes=4, batch=64)
    ppo = PpoConfig(horizon=4, minibatches=1, epochs=1, torch_threads=1)
    config = TrainConfig(num_envs=8, ppo=ppo, imitate=copying, episodes=2, save_every=1)

    def until(iteration: int, folder: Path, *, resume: bool = False) -> Trainer:
        trainer = Trainer(robot, clip, config, folder, resume=resume)
        trainer.run(stopped=lambda: trainer.ppo.iteration >= iteration)
        return trainer

    straight = until(5, tmp_path / "straight")
    until(2, tmp_path / "split")
    split = until(5, tmp_path / "split", resume=True)
    rows = read_rows(tmp_path / "straight" / METRICS)
    assert sum("imitation_error" in name for row in rows for name in row) == 4
    left, right = straight.ppo.policy.state_dict(), split.ppo.policy.state_dict()
    assert all(torch.equal(left[name], right[name]) for name in left)
