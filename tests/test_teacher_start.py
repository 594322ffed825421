"""A teacher begins as that of a relative, and learns motions with the errors of a film."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from asap.env import EnvConfig
from asap.inputs import open_motion
from asap.motions import sole_velocity_w
from asap.robot import Robot
from asap.rough_motions import roughen
from asap.teach import TeacherTrainer, roughened
from asap.teacher import (
    NetworkTeacher,
    TeacherFacts,
    TeachingEnv,
    make_teacher,
    observed_names,
    trial_env,
    tried,
)
from asap.teacher_start import start_from
from asap.teachers import own_teacher
from asap.warm_start import read_network
from asap_deploy.errors import InputError
from asap_deploy.motion import Motion
from tests.test_teacher import TINY


@pytest.fixture(scope="module")
def relative() -> Robot:
    return Robot.load("g1:asap").for_training().with_(integrator="discrete", physics_dt=0.01)


@pytest.fixture(scope="module")
def squat(relative: Robot) -> Motion:
    return open_motion(Path("squat"), relative, ground=True).motion


@pytest.fixture(scope="module")
def env(relative: Robot, squat: Motion) -> TeachingEnv:
    return TeachingEnv(relative, [squat], EnvConfig(), 4, np.random.default_rng(0), threads=1)


@pytest.fixture(scope="module")
def teacher() -> NetworkTeacher:
    path = own_teacher(Robot.load("g1"))
    assert path is not None
    return NetworkTeacher.load(path)


@pytest.mark.parametrize("name", ["g1", "g1:asap"])
def test_every_column_that_a_teacher_sees_has_a_name_of_its_own(name: str) -> None:
    robot = Robot.load(name).for_training()
    clip = open_motion(Path("squat"), robot, ground=True).motion
    env = TeachingEnv(robot, [clip], EnvConfig(), 2, np.random.default_rng(0), threads=1)
    names = observed_names(robot.joint_names, robot.action_joint_names)
    assert env.reset()["actor"].shape == (2, len(names))
    assert len(set(names)) == len(names)


def test_a_robot_starts_from_its_own_teacher_as_it_is(teacher: NetworkTeacher) -> None:
    robot = Robot.load("g1").for_training()
    clip = open_motion(Path("squat"), robot, ground=True).motion
    env = TeachingEnv(robot, [clip], EnvConfig(), 2, np.random.default_rng(0), threads=1)
    same = start_from(teacher, Robot.load("g1"), env)
    own = read_network(teacher.data, len(same.mean))
    for (ours, bias), (theirs, offset) in zip(same.layers, own.layers, strict=True):
        np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_array_equal(bias, offset)
    np.testing.assert_array_equal(same.std, own.std)


def test_an_action_carried_over_pushes_as_hard(teacher: NetworkTeacher, env: TeachingEnv) -> None:
    g1, relative = Robot.load("g1"), env.robot
    seen = env.reset()["actor"]
    weights = start_from(teacher, g1, env)
    # The same robot, seen by the old network: its columns in its order, its units of action.
    old = read_network(teacher.data, len(observed_names(g1.joint_names, g1.action_joint_names)))
    columns = observed_names(g1.joint_names, g1.action_joint_names)
    ours = observed_names(relative.joint_names, relative.action_joint_names)
    push = {
        robot.name: dict(zip(robot.joint_names, robot.action_scale * robot.stiffness, strict=True))
        for robot in (g1, relative)
    }
    meant = np.tile(old.mean.astype(np.float64), (len(seen), 1))
    for place, column in enumerate(columns):
        if column in ours:
            joint = column.partition(" ")[2]
            ratio = 1.0
            if column.startswith("action "):
                ratio = push[relative.name][joint] / push[g1.name][joint]
            meant[:, place] = seen[:, ours.index(column)] * ratio
    # The wrists' own last action is not there: the new network takes it as at its mean.
    torque, wanted = weights.act(seen), old.act(meant)
    for place, joint in enumerate(relative.action_joint_names):
        there = g1.action_joint_names.index(joint)
        np.testing.assert_allclose(
            torque[:, place] * push[relative.name][joint], wanted[:, there] * push[g1.name][joint],
            rtol=1e-4, atol=1e-3,
        )  # fmt: skip


def test_a_relative_squats_with_what_was_carried_over(
    teacher: NetworkTeacher, relative: Robot, squat: Motion, env: TeachingEnv
) -> None:
    weights = start_from(teacher, Robot.load("g1"), env)
    made = make_teacher(
        TeacherFacts.of(env), weights.layers, weights.mean, weights.std, weights.limit or 10.0
    )
    quiet = trial_env(relative, squat, noise=0.5, num_envs=16, threads=1)
    assert tried(made, quiet).finished >= 0.8  # 64 of 64 when it was written
    # The control: units of action as they were, so that joints push more or less than was meant.
    last, bias = read_network(teacher.data, 368).layers[-1]
    rows = [teacher.facts.action_joint_names.index(name) for name in made.facts.action_joint_names]
    raw = [*weights.layers[:-1], (last[rows], bias[rows])]
    wrong = make_teacher(TeacherFacts.of(env), raw, weights.mean, weights.std, 10.0)
    assert tried(wrong, quiet).finished < tried(made, quiet).finished


def test_a_teacher_of_something_else_is_no_start(teacher: NetworkTeacher, env: TeachingEnv) -> None:
    names = tuple(f"joint{k}" for k in range(29))
    facts = dataclasses.replace(teacher.facts, action_joint_names=names, robot="spider")
    with pytest.raises(InputError, match="shares 0 of the 23 joints"):
        start_from(NetworkTeacher(facts, teacher.data), Robot.load("g1"), env)


def test_a_teaching_that_starts_from_another_begins_where_that_one_was(
    teacher: NetworkTeacher, relative: Robot, squat: Motion, tmp_path: Path
) -> None:
    trainer = TeacherTrainer(relative, [squat], [squat], TINY, tmp_path, init=teacher)
    seen = trainer.env.reset()["actor"]
    meant = start_from(teacher, Robot.load("g1"), trainer.env)
    np.testing.assert_allclose(
        trainer.export()._session.run(["actions"], {"obs": seen})[0], meant.act(seen), atol=2e-4
    )
    trainer.train()
    assert trainer.identity()["init"] is not None


def test_a_roughened_motion_slides_as_films_do_and_stays_near_the_clean_one(
    relative: Robot, squat: Motion
) -> None:
    rough = list(roughened([squat], relative, range(6)))
    for motion in rough:
        assert np.abs(motion.joint_pos - squat.joint_pos).max() < 0.8
        assert np.linalg.norm(motion.base_pos_w - squat.base_pos_w, axis=1).max() < 0.7
        assert (motion.joint_pos >= relative.joint_pos_lower).all()
        assert (motion.joint_pos <= relative.joint_pos_upper).all()
        lowest = relative.sole_clearance(motion.body_pos_w, motion.body_quat_wxyz).min(axis=1)
        assert np.abs(np.median(lowest)) < 2e-3  # its lower sole is on the floor again
    slides = [_slide(motion, relative) for motion in rough]
    # Published clips of people slide at 0.04 to 0.08 m/s where they stand (median of a clip).
    assert 0.02 < np.median(slides) < 0.2
    assert _slide(squat, relative) < 1e-3


def test_some_roughened_motions_stand_on_straighter_legs(relative: Robot, squat: Motion) -> None:
    heights = [motion.body_pos_w[0, 0, 2] for motion in roughened([squat], relative, range(12))]
    # At home the pelvis of this robot is 757 mm up; people's clips have it at 806 to 829 mm.
    assert squat.body_pos_w[0, 0, 2] == pytest.approx(0.757, abs=2e-3)
    assert max(heights) > 0.79
    assert min(heights) < 0.78


def test_no_motion_is_roughened_twice_where_the_copies_join_the_same_list(
    relative: Robot, squat: Motion
) -> None:
    motions = [squat]
    motions += roughened(motions, relative, range(3))
    assert len(motions) == 4
    assert all(motion.source == f"{squat.source}, roughened" for motion in motions[1:])


def test_roughening_depends_on_the_seed_alone(relative: Robot, squat: Motion) -> None:
    one, same, other = (
        roughen(squat, relative, np.random.default_rng(seed)).joint_pos for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 0.01


def _slide(motion: Motion, robot: Robot) -> float:
    """Median speed of the lower sole [m/s]."""
    speed = np.linalg.norm(
        sole_velocity_w(robot, motion.body_quat_wxyz, motion.body_lin_vel_w, motion.body_ang_vel_w)[
            ..., :2
        ],
        axis=-1,
    )
    height = robot.sole_clearance(motion.body_pos_w, motion.body_quat_wxyz)
    return float(np.median(speed[np.arange(len(speed)), height.argmin(axis=1)]))
