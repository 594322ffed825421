"""Training: parity with the robot's code, separation of actor and critic, resuming to the bit."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from asap import warm_start
from asap.cli import main
from asap.cli_train import overlaid
from asap.curriculum import Curriculum, CurriculumConfig
from asap.env import EnvConfig, TrackingEnv
from asap.imitate import ImitateConfig
from asap.inputs import OpenedMotion, open_motion
from asap.policy import actor_weights, as_layers
from asap.ppo import PpoConfig, TrackerPPO
from asap.robot import Robot
from asap.starts import StartConfig
from asap.train import POLICY, Trainer
from asap.training_run import CHECKPOINT, TrainConfig
from asap.vecenv import TrackingVecEnv
from asap_deploy.errors import InputError
from asap_deploy.golden import load_policy
from asap_deploy.runtime import Runtime

QUIET = EnvConfig(noise_scale=0.0, push_speed=0.0, start=StartConfig(noise=(0, 0), at_first=1.0))
ALONE = ImitateConfig(iterations=0)
SMALL = PpoConfig(horizon=6, minibatches=2, epochs=2, actor=(32, 16), critic=(32, 16))


@pytest.fixture(scope="module")
def robot() -> Robot:
    return Robot.load("g1")


@pytest.fixture(scope="module")
def clip(robot: Robot) -> OpenedMotion:
    return open_motion(Path("wave"), robot, ground=True)


def _env(robot: Robot, clip: OpenedMotion, count: int, config: EnvConfig = QUIET) -> TrackingEnv:
    return TrackingEnv(robot, clip.motion, config, count, np.random.default_rng(0))


def _config(iterations: int, **changes: object) -> TrainConfig:
    basic = TrainConfig(steps=iterations * 16 * 6, num_envs=16, ppo=SMALL, imitate=ALONE,
                        save_every=1, evaluate_every=10_000, episodes=2)  # fmt: skip
    return dataclasses.replace(basic, **changes)


def _train(
    robot: Robot, clip: OpenedMotion, folder: Path, stop_after: int, averaging: float = 0.0,
    **options,
) -> Trainer:  # fmt: skip
    trainer = Trainer(robot, clip, _config(100, averaging=averaging), folder, **options)
    done = iter(range(1, 1000))
    trainer.run(stopped=lambda: next(done) >= stop_after)
    return trainer


def _same(left: object, right: object) -> bool:
    if isinstance(left, dict):
        return all(_same(left[key], right[key]) for key in left if key != "trained_s")
    if isinstance(left, list):
        return all(_same(a, b) for a, b in zip(left, right, strict=True))
    return torch.equal(left, right) if isinstance(left, torch.Tensor) else left == right


def test_the_observation_that_is_trained_on_is_the_robot_s_to_the_bit(
    robot: Robot, clip: OpenedMotion, tmp_path: Path
) -> None:
    history = dataclasses.replace(QUIET, layout="asap")
    env = _env(robot, clip, 3, history)
    ppo = TrackerPPO(TrackingVecEnv(env), SMALL, 0)
    trainer = Trainer(robot, clip, _config(1, env=history), tmp_path)
    data = trainer.export()
    path = tmp_path / "policy.onnx"
    path.write_bytes(data)
    policy = load_policy(path)
    assert policy.contract.layout == "asap"
    trained = env.reset()["actor"]
    on_robot = Runtime(policy, robot.joint_names, 3)
    rng = np.random.default_rng(1)
    for step in range(8):
        seen = on_robot.observe(env.sim.measure(), np.full(3, step * robot.control_dt))
        np.testing.assert_array_equal(seen, trained)
        action = rng.normal(0.0, 0.3, (3, 29))
        on_robot.act(action, np.full(3, step * robot.control_dt))
        trained = env.step(action).observation["actor"]
    assert ppo.iteration == 0


def test_the_actor_has_no_way_to_the_critic_s_inputs(robot: Robot, clip: OpenedMotion) -> None:
    ppo = TrackerPPO(TrackingVecEnv(_env(robot, clip, 4)), SMALL, 0)
    observation = {
        group: torch.as_tensor(values).requires_grad_()
        for group, values in ppo.last_observation.items()
    }
    mean = ppo.policy.get_distribution(observation).mode().sum()
    to_critic = torch.autograd.grad(
        mean, observation["critic"], allow_unused=True, retain_graph=True
    )
    assert to_critic[0] is None
    assert torch.autograd.grad(mean, observation["actor"])[0].abs().sum() > 0.0
    value = ppo.policy.predict_values(observation).sum()
    assert torch.autograd.grad(value, observation["critic"])[0].abs().sum() > 0.0


def test_the_exported_network_is_the_trained_one(
    robot: Robot, clip: OpenedMotion, tmp_path: Path
) -> None:
    trainer = _train(robot, clip, tmp_path, 2)
    path = tmp_path / "exported.onnx"
    path.write_bytes(trainer.export())
    policy = load_policy(path)
    rng = np.random.default_rng(0)
    width = len(policy.contract.element_names)
    # Also far outside of what was seen, where the normalised inputs are clipped.
    observation = rng.normal(0.0, 2.0, (10_000, width)).astype(np.float32)
    with torch.no_grad():
        tensors = {"actor": torch.as_tensor(observation)}
        hidden = trainer.ppo.tracker.towers.forward_actor(tensors)
        expected = trainer.ppo.tracker.action_net(hidden).numpy()
    np.testing.assert_allclose(policy.act(observation), expected, atol=1e-6)


def test_what_is_exported_is_the_running_mean_over_iterations(
    robot: Robot, clip: OpenedMotion, tmp_path: Path
) -> None:
    trainer = Trainer(robot, clip, _config(3, averaging=0.75), tmp_path / "run")
    expected = as_layers(actor_weights(trainer.ppo.tracker))

    def watch(report: object) -> None:
        now = as_layers(actor_weights(trainer.ppo.tracker))
        for (weight, bias), (w, b) in zip(expected, now, strict=True):
            weight[:], bias[:] = 0.75 * weight + 0.25 * w, 0.75 * bias + 0.25 * b

    trainer.run(watch)
    lag = np.abs(expected[-1][0] - as_layers(actor_weights(trainer.ppo.tracker))[-1][0]).max()
    assert lag > 1e-6
    found = warm_start.read_actor(load_policy(tmp_path / "run" / POLICY)).layers
    for (weight, bias), (w, b) in zip(expected, found, strict=True):
        np.testing.assert_allclose(w, weight, atol=1e-6)
        np.testing.assert_allclose(b, bias, atol=1e-6)


def test_a_killed_run_continues_to_the_bit(
    robot: Robot, clip: OpenedMotion, tmp_path: Path
) -> None:
    straight = _train(robot, clip, tmp_path / "straight", 6, averaging=0.9)
    _train(robot, clip, tmp_path / "killed", 3, averaging=0.9)
    (tmp_path / "killed" / f".{CHECKPOINT}.half-written").write_bytes(b"what a kill leaves")
    resumed = _train(robot, clip, tmp_path / "killed", 3, averaging=0.9, resume=True)
    assert resumed.ppo.iteration == straight.ppo.iteration == 6
    assert _same(straight._state(), resumed._state())
    another = Trainer(robot, clip, _config(100, seed=1), tmp_path / "other")
    another.run(stopped=lambda: another.ppo.iteration >= 6)
    assert not _same(straight._state()["policy"], another._state()["policy"])


def test_threads_of_the_simulator_do_not_change_the_result(
    robot: Robot, clip: OpenedMotion, tmp_path: Path
) -> None:
    states = []
    for threads in (1, 2):
        config = _config(100, threads=threads)
        trainer = Trainer(robot, clip, config, tmp_path / str(threads))
        trainer.run(stopped=lambda t=trainer: t.ppo.iteration >= 2)
        states.append(trainer._state())
    assert _same(states[0]["policy"], states[1]["policy"])
    assert _same(states[0]["env"], states[1]["env"])


def test_a_checkpoint_of_another_run_or_a_damaged_one_is_refused(
    robot: Robot, clip: OpenedMotion, tmp_path: Path
) -> None:
    _train(robot, clip, tmp_path, 1)
    with pytest.raises(InputError, match="continue it with --resume"):
        Trainer(robot, clip, _config(100), tmp_path)
    with pytest.raises(InputError, match="robot, motion or options differ"):
        Trainer(robot, clip, _config(100, env=QUIET), tmp_path, resume=True)
    path = tmp_path / CHECKPOINT
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="checkpoint cannot be read"):
        Trainer(robot, clip, _config(100), tmp_path, resume=True)
    with pytest.raises(InputError, match="there is no checkpoint"):
        Trainer(robot, clip, _config(100), tmp_path / "nothing", resume=True)


def test_a_blown_up_robot_ends_its_episode_and_touches_nobody(
    robot: Robot, clip: OpenedMotion
) -> None:
    env, control = _env(robot, clip, 3), _env(robot, clip, 3)
    env.reset(), control.reset()
    qvel = env.sim.batch.bind("qvel")
    qvel[1, 3:6] = 1e9
    action = np.zeros((3, 29))
    step, quiet = env.step(action), control.step(action)
    assert step.terminated.tolist() == [False, True, False]
    assert np.isfinite(step.reward).all()
    assert all(np.isfinite(values).all() for values in step.observation.values())
    for row in (0, 2):
        np.testing.assert_array_equal(
            step.observation["actor"][row], quiet.observation["actor"][row]
        )


def test_the_end_of_the_clip_ends_the_episode_without_a_penalty(
    robot: Robot, clip: OpenedMotion
) -> None:
    env = _env(robot, clip, 2)
    env.reset()
    env.frame[:] = len(env.reference) - 2
    env.sim.reset(np.arange(2), *_pose(env))
    step = env.step(np.zeros((2, 29)))
    assert step.terminated.all()
    assert step.facts["finished"] == 1.0
    assert (step.reward > 0.0).all()
    assert (env.frame == 0).all()


def test_after_the_clip_a_robot_stands_in_its_last_frame_as_it_does_when_deployed(
    robot: Robot, clip: OpenedMotion
) -> None:
    env = _env(robot, clip, 2)
    plain = TrackingEnv(
        robot, clip.motion, dataclasses.replace(QUIET, hold_s=0.0), 2, np.random.default_rng(0)
    )
    end, held = env.last_frame, len(env.reference) - 1
    assert end == plain.last_frame == len(plain.reference) - 1
    assert held == end + 75  # 1.5 s
    for name in env.reference.table._fields:
        ours = getattr(env.reference.table, name)
        np.testing.assert_array_equal(ours[: end + 1], getattr(plain.reference.table, name))
        last = np.zeros_like(ours[end]) if "vel" in name else ours[end]
        np.testing.assert_allclose(ours[held], last, atol=1e-9, err_msg=name)
    env.reset()
    env.frame[:] = end + 10
    env.sim.reset(np.arange(2), *_pose(env))
    assert not env.step(np.zeros((2, 29))).terminated.any()
    # The runtime is told the end of the clip for as long as the robot holds.
    np.testing.assert_array_equal(env.time_s, clip.motion.duration_s)
    np.testing.assert_array_equal(env.reference.phase[end:], 1.0)


def _pose(env: TrackingEnv) -> tuple[np.ndarray, np.ndarray]:
    """The robots in the frames of the motion that they are in, at rest."""
    reference = env._reference()
    qpos = np.tile(env.robot.default_qpos(), (env.num_envs, 1))
    qpos[:, env.robot.qpos_ids] = reference.joint_pos
    return qpos, np.zeros((env.num_envs, env.robot.model.nv))


def _learned(env: TrackingEnv, rate: float, iterations: int) -> list[dict[str, float]]:
    """What every iteration reported at a fixed learning rate."""
    config = PpoConfig(learning_rate=rate, learning_rate_bounds=(rate, rate))
    ppo = TrackerPPO(TrackingVecEnv(env), config, 0)
    return [ppo.iterate() for _ in range(iterations)]


def test_the_critic_learns_and_does_not_when_nothing_is_learned(
    robot: Robot, clip: OpenedMotion
) -> None:
    found = {
        rate: _learned(_env(robot, clip, 64, EnvConfig()), rate, 12)[-1]["explained_variance"]
        for rate in (1e-3, 1e-12)
    }
    assert found[1e-3] > 0.3
    assert found[1e-12] < 0.1


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_episodes_fail_less_after_half_a_million_steps(robot: Robot) -> None:
    squat = open_motion(Path("squat"), robot, ground=True)
    fast = robot.with_(integrator="discrete", physics_dt=0.01)
    config = EnvConfig(layout="proprioception")
    env = TrackingEnv(fast, squat.motion, config, 512, np.random.default_rng(0))
    failed = [facts["failed"] for facts in _learned(env, 3e-4, 100)]
    # Iterations 5 to 15 stand for no skill: the first episodes all began at once.
    assert np.mean(failed[-10:]) < 0.7 * np.mean(failed[5:15])


def test_curriculum_hardens_when_episodes_are_long_and_softens_when_they_are_short() -> None:
    curriculum = Curriculum(CurriculumConfig.paper())
    assert (curriculum.cost_scale, curriculum.fail_distance_m) == (0.1, 1.5)
    curriculum.update(np.full(10_000, 60))
    assert curriculum.cost_scale == pytest.approx(0.1 * 1.00001)
    assert curriculum.fail_distance_m == pytest.approx(1.5 * (1 - 2.5e-5))
    curriculum.update(np.full(10_000, 10))  # the running mean is now 10: softer, within bounds
    assert curriculum.cost_scale == pytest.approx(0.1, abs=1e-9)
    with pytest.raises(InputError, match="must grow"):
        CurriculumConfig(cost_scale=(1.0, 0.1))


def test_flags_change_single_settings_of_a_preset() -> None:
    given = dataclasses.replace(TrainConfig(), num_envs=7, ppo=PpoConfig(gamma=0.5))
    mixed = overlaid(TrainConfig.paper(), given, TrainConfig())
    assert mixed.num_envs == 7
    assert mixed.ppo.gamma == 0.5
    assert mixed.ppo.actor == TrainConfig.paper().ppo.actor
    assert mixed.env == TrainConfig.paper().env


def test_the_command_trains_and_writes_what_it_promises(tmp_path: Path) -> None:
    target = tmp_path / "result.json"
    arguments = ["pretrain", "--motion", "wave", "--out", str(tmp_path / "run"), "--quiet"]
    small = ["--train.steps", "192", "--train.num-envs", "16", "--train.ppo.horizon", "6",
             "--train.ppo.minibatches", "2", "--train.imitate.iterations", "0"]  # fmt: skip
    assert main([*arguments, *small, "--json", str(target)]) == 0
    result = json.loads(target.read_text())
    assert set(result) >= {"run_dir", "steps", "wall_s", "steps_per_s", "evaluation"}
    assert result["steps"] == 192
    assert "success_rate" in result["evaluation"]["overall"]
    assert load_policy(tmp_path / "run" / POLICY).contract.clip is not None
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["iteration"] == 1


def test_settings_that_make_no_sense_are_refused(robot: Robot, clip: OpenedMotion) -> None:
    with pytest.raises(InputError, match="--train.steps must be at least 1"):
        TrainConfig(steps=0)
    with pytest.raises(InputError, match="4 environments times 6 steps cannot be split into 5"):
        TrackerPPO(
            TrackingVecEnv(_env(robot, clip, 4)), dataclasses.replace(SMALL, minibatches=5), 0
        )
