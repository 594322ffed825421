"""Logs of a robot as episodes, kicks that a seed fixes, and what critics see beside a policy."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import numpy as np
import pytest

from asap.finetune import FINETUNE
from asap.inputs import open_motion, open_policy
from asap.posttrain.collect import collect
from asap.posttrain.humanoid import TrackingTask
from asap.posttrain.log_episodes import episodes_of, open_data
from asap_deploy import rotation
from asap_deploy.errors import InputError
from asap_deploy.log import Log
from asap_deploy.runtime import Runtime
from tests.policies import robot as cached_robot

LOGS = Path(__file__).parents[1] / "real_logs" / "g1"


def task_of(num_envs: int = 4, **more) -> TrackingTask:
    robot = cached_robot("g1")
    clip = open_motion(Path("squat"), robot, ground=True)
    policy = open_policy(Path("squat"), robot, clip, None).policy
    return TrackingTask(robot, policy, clip, num_envs, threads=1, **more)


# Logs


def log_of(episode, task, **changes) -> Log:
    """What a robot would have recorded of an episode: targets in force from every row."""
    rows, channels = episode.steps + 1, episode.channels
    clip = task.policy.contract.clip
    runtime = Runtime(task.policy, task.robot.joint_names, rows)
    action = np.concatenate([episode.action_executed, episode.action_executed[-1:]])
    target = runtime.act(action, channels["time_s"]).joint_pos_target
    names = ("joint_vel", "base_quat_wxyz", "base_ang_vel_b", "base_pos_w", "base_lin_vel_w")
    fields = {name: channels[name] for name in names}
    fields |= {"joint_pos_target": target,
               "phase": (channels["time_s"] + clip.phase_lead_s) / clip.duration_s}  # fmt: skip
    return Log(joint_names=task.robot.joint_names, time_s=5.0 + channels["time_s"],
               joint_pos=channels["joint_pos"], fields={**fields, **changes})  # fmt: skip


@functools.cache
def quiet_squat():
    config = dataclasses.replace(FINETUNE.env, noise_scale=0.0)
    task = task_of(config=config, start_noise="none")
    return task, collect(task, task.policy.act, 1, np.random.default_rng(0))[0]


def test_a_log_is_the_episode_that_was_recorded():
    task, episode = quiet_squat()
    log = log_of(episode, task)
    (found,) = episodes_of(log, task)
    again = log_of(found, task).fields["joint_pos_target"]  # also where a limit had cut them
    np.testing.assert_allclose(again, log.fields["joint_pos_target"], atol=1e-9)
    assert found.success and found.terminated[-1] and found.steps == episode.steps
    for name, value in task_terms(episode).items():
        tolerance = 0.1 * np.abs(value).mean() + 1e-9  # efforts are simulated anew, step by step
        assert np.abs(found.reward_terms[name] - value).mean() < tolerance, name
    ours, theirs = (task.reward(one.reward_terms).sum() for one in (found, episode))
    assert ours == pytest.approx(theirs, rel=0.01)


def task_terms(episode):
    """Without those of actions, which limits have cut in the log."""
    return {name: value for name, value in episode.reward_terms.items()
            if not name.startswith("action")}  # fmt: skip


def test_a_robot_that_stood_elsewhere_in_the_room_is_laid_where_the_clip_begins():
    task, episode = quiet_squat()
    turn = rotation.from_yaw(np.array(2.0))
    there = episode.channels
    moved = {
        "base_pos_w": rotation.rotate(turn, there["base_pos_w"]) + [3.0, -1.0, 0.0],
        "base_quat_wxyz": rotation.multiply(turn, there["base_quat_wxyz"]),
        "base_lin_vel_w": rotation.rotate(turn, there["base_lin_vel_w"]),
    }
    (near,), (far,) = (episodes_of(log_of(episode, task, **some), task) for some in ({}, moved))
    for name, value in near.reward_terms.items():
        np.testing.assert_allclose(far.reward_terms[name], value, atol=1e-3 * np.abs(value).max())


def test_the_end_of_a_log_is_no_end_of_the_task():
    task, episode = quiet_squat()
    (found,) = episodes_of(log_of(episode, task).rows(slice(0, 60)), task)
    assert found.steps == 59 and found.truncated[-1] and not found.terminated[-1]
    assert not found.success


def test_a_robot_that_fell_in_a_log_ends_there():
    task, episode = quiet_squat()
    fallen = episode.channels["base_pos_w"].copy()
    fallen[100:, 2] -= 0.6
    (found,) = episodes_of(log_of(episode, task, base_pos_w=fallen), task)
    assert found.steps == 100 and found.terminated[-1] and not found.success


@pytest.mark.parametrize("channel", ["phase", "base_pos_w"])
def test_a_log_that_cannot_be_labelled_is_refused_with_what_lacks(channel):
    task, episode = quiet_squat()
    log = log_of(episode, task)
    fields = {name: value for name, value in log.fields.items() if name != channel}
    with pytest.raises(InputError, match=f"log has no '{channel}'"):
        episodes_of(dataclasses.replace(log, fields=fields), task)


def test_a_log_of_another_rate_or_clip_says_so():
    task, episode = quiet_squat()
    log = log_of(episode, task)
    slow = dataclasses.replace(log, fields={**log.fields, "phase": 0.3 * log.fields["phase"]})
    with pytest.raises(InputError, match="another clip, or another control rate"):
        episodes_of(slow, task)


@pytest.mark.parametrize("name", ["squat_worn", "squat_strange"])
def test_logs_that_ship_are_data(name):
    task, _ = quiet_squat()
    found = open_data(LOGS / f"{name}.npz", task)
    assert len(found) == 2 and all(one.success for one in found)
    assert 0.8 < task.reward(found[0].reward_terms).sum() / task.reward(
        quiet_squat()[1].reward_terms
    ).sum() < 1.2  # fmt: skip


# Kicks


def test_kicks_are_drawn_from_the_seed_of_an_episode():
    kicked, quiet = task_of(num_envs=2, push_speed=0.5), task_of(num_envs=2)
    one, two, three = (
        collect(task, task.policy.act, 2, np.random.default_rng(0), seeds=seeds)
        for task, seeds in ((kicked, (1, 2)), (kicked, (2, 1)), (quiet, (1, 2)))
    )
    for name in ("base_lin_vel_w", "joint_pos"):
        np.testing.assert_array_equal(one[0].channels[name], two[1].channels[name])
        assert not np.allclose(one[0].channels[name][55:60], three[0].channels[name][55:60])
    before, after = (one[0].channels["base_lin_vel_w"][step, :2] for step in (50, 51))
    assert np.linalg.norm(after - before) > 0.2  # a second after the start


def test_critics_see_how_far_a_robot_is_from_its_motion():
    task = task_of(num_envs=1, start_noise="paper")
    episode = collect(task, task.policy.act, 1, np.random.default_rng(0))[0]
    states = task.states(episode)
    assert states.shape == (episode.steps + 1, task.state_width)
    for step in (0, 60):
        pos, _ = task.base_of_clip(step)
        away_m = np.linalg.norm(episode.channels["base_pos_w"][step] - pos)
        assert away_m > 0.01
        np.testing.assert_allclose(np.linalg.norm(states[step, :3]), 10.0 * away_m, rtol=1e-5)
