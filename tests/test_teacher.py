"""A teacher sees the robot and the motion, not the world; a policy copies it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from asap import cli_teach
from asap.cli import main
from asap.env import EnvConfig, TrackingEnv
from asap.imitate import ImitateConfig
from asap.inputs import open_motion
from asap.metrics import TrackedPoints
from asap.onnx_file import load_model, with_metadata
from asap.ppo import PpoConfig
from asap.reference_rows import ReferenceRows, joined
from asap.robot import Robot
from asap.sim import CpuSimulation
from asap.starts import StartConfig
from asap.teach import HELD_OUT, TEACHER, TeacherTrainer
from asap.teacher import (
    METADATA_KEY,
    Guide,
    NetworkTeacher,
    TeacherFacts,
    TeachingEnv,
    make_teacher,
    save_teacher,
    teacher_observation,
    trial_env,
    tried,
)
from asap.teachers import Planned, Trained, find_teacher, own_teacher
from asap.tracking import Reference
from asap.training_run import TrainConfig
from asap_deploy import rotation
from asap_deploy.errors import InputError
from asap_deploy.motion import Motion

TINY = TrainConfig(
    steps=96, num_envs=8, episodes=2, save_every=1, evaluate_every=2,
    imitate=ImitateConfig(iterations=0),
    ppo=PpoConfig(horizon=4, minibatches=1, epochs=1, torch_threads=1, actor=(8,), critic=(8,)),
)  # fmt: skip


@pytest.fixture(scope="module")
def robot() -> Robot:
    return Robot.load("g1").for_training().with_(integrator="discrete", physics_dt=0.01)


def _piece(robot: Robot, name: str, seconds: float) -> Motion:
    whole = open_motion(Path(name), robot, ground=True).motion
    rows = round(seconds * whole.fps)
    names = ("joint_pos", "joint_vel", "body_pos_w", "body_quat_wxyz", "body_lin_vel_w",
             "body_ang_vel_w", "foot_contact")  # fmt: skip
    return whole.replace(**{each: getattr(whole, each)[-rows:] for each in names})


@pytest.fixture(scope="module")
def clips(robot: Robot) -> list[Motion]:
    return [_piece(robot, "walk", 0.5), _piece(robot, "squat", 0.3)]


@pytest.fixture(scope="module")
def env(robot: Robot, clips: list[Motion]) -> TeachingEnv:
    config = EnvConfig(start=StartConfig(noise=(0.0, 0.5)), push_speed=0.0)
    return TeachingEnv(robot, clips, config, 16, np.random.default_rng(0), threads=1)


def _network(env: TeachingEnv, seed: int = 0) -> NetworkTeacher:
    rng = np.random.default_rng(seed)
    width = env.reset()["actor"].shape[1]
    joints = len(env.contract.action_joint_names)
    layers = [
        (rng.normal(0, 0.02, shape).astype(np.float32), np.zeros(shape[0], np.float32))
        for shape in ((8, width), (joints, 8))
    ]
    mean, std = np.zeros(width, np.float32), np.ones(width, np.float32)
    return make_teacher(TeacherFacts.of(env, "noise"), layers, mean, std, 10.0)


def test_clips_end_to_end_are_what_each_is_alone(robot: Robot, clips: list[Motion]) -> None:
    motion, firsts = joined(clips, robot)
    points = TrackedPoints(robot)
    rows = ReferenceRows(motion, robot, points, firsts)
    assert firsts == (0, 25)
    assert len(rows) == 25 + 15
    assert rows.last[[0, 24, 25, 39]].tolist() == [24, 24, 39, 39]
    assert rows.phase[[0, 24, 25, 39]].tolist() == [0.0, 1.0, 0.0, 1.0]
    assert not np.isin([24, 39], rows.starts).any()
    assert len(rows.starts) == 38
    for clip, first in zip(clips, firsts, strict=True):
        alone = ReferenceRows(clip, robot, points)
        part = slice(first, first + len(alone))
        for name in alone.table._fields:
            whole, own = getattr(rows.table, name)[part], getattr(alone.table, name)
            np.testing.assert_allclose(whole, own, atol=1e-9, err_msg=name)
        assert np.isclose(Reference(clip, robot, points).frame(0.0).joint_pos,
                          rows.frames.joint_pos[first]).all()  # fmt: skip


def test_an_episode_stays_in_the_clip_in_which_it_began(env: TeachingEnv) -> None:
    env.reset()
    still = np.zeros((env.num_envs, len(env.contract.action_joint_names)))
    for _ in range(60):
        clip = env.reference.last[env.frame]
        begun = env.step(still).terminated
        assert (env.reference.last[env.frame][~begun] == clip[~begun]).all()
        assert (env.frame < env.reference.last[env.frame]).all()


def test_a_teacher_sees_how_far_it_is_from_the_motion_and_nothing_else_of_the_world(
    env: TeachingEnv,
) -> None:
    env.reset()
    guide = Guide(env.reference, env.point_sets.feet, env.robot.control_dt)
    sim = env.sim
    turn = rotation.from_yaw(np.full(env.num_envs, 1.0))
    qpos, qvel = sim.batch.bind("qpos").copy(), sim.batch.bind("qvel").copy()
    qpos[:, 2] += 0.05  # in the air: at the edge of a contact rounding decides about its force

    def seen() -> np.ndarray:
        sim.reset(np.arange(env.num_envs), qpos, qvel)
        env.points_w = TrackedPoints(env.robot).positions(sim.body_pos_w, sim.body_quat_wxyz)
        return teacher_observation(env, guide)

    before = seen()
    qpos[:, :3] = rotation.rotate(turn, qpos[:, :3]) + np.array([3.0, -2.0, 0.0])
    qpos[:, 3:7] = rotation.multiply(turn, qpos[:, 3:7])
    qvel[:, :3] = rotation.rotate(turn, qvel[:, :3])
    np.testing.assert_allclose(seen()[:, :-3], before[:, :-3], atol=2e-4)
    assert np.abs(seen() - before)[:, -3:].max(axis=1).min() > 0.5
    guide.base_pos_w = rotation.rotate(rotation.from_yaw(np.array(1.0)), guide.base_pos_w)
    guide.base_pos_w += np.array([3.0, -2.0, 0.0])
    guide.heading = rotation.multiply(rotation.from_yaw(np.array(1.0)), guide.heading)
    np.testing.assert_allclose(seen(), before, atol=2e-4)
    # The control: one that leans more is seen to do so.
    qpos[:, 3:7] = rotation.multiply(qpos[:, 3:7], rotation.from_rotvec(np.array([0.0, 0.1, 0.0])))
    assert np.abs(seen() - before).max() > 0.05


def test_a_robot_that_stands_through_a_step_fails_where_its_shape_counts(robot: Robot) -> None:
    walk = open_motion(Path("walk"), robot, ground=True).motion
    quiet = StartConfig(noise=(0.0, 0.0), at_first=1.0, again=0.0)
    lasted = []
    for shape in (None, (0.2, 0.15)):
        config = EnvConfig(start=quiet, push_speed=0.0, noise_scale=0.0, fail_shape_m=shape)
        env = TrackingEnv(robot, walk, config, 4, np.random.default_rng(0), threads=1)
        env.reset()
        steps, ended = 0, np.zeros(4, dtype=bool)
        while not ended.any():
            # What holds the first pose, whatever the clip does.
            target = np.tile(env.reference.table.joint_pos[0], (4, 1))
            ended, steps = env.step(env.action_of(target)).terminated, steps + 1
        lasted.append(steps)
    assert lasted[1] < lasted[0]


def test_a_teacher_is_told_what_comes_but_not_of_the_next_clip(env: TeachingEnv) -> None:
    table, last = env.guide.table, env.reference.last
    # Frames that differ only in what comes: nothing does at the end of a clip.
    ahead = table[:, -(29 + 3 + 3 + 1 + 2) :]  # 0.5 s ahead: joints, base, gravity, turn, feet
    assert np.abs(ahead[last[0], :32]).max() == 0.0
    assert np.abs(ahead[0, :32]).max() > 0.02


def test_a_file_holds_all_of_a_teacher(env: TeachingEnv, tmp_path: Path) -> None:
    teacher = _network(env)
    save_teacher(teacher, tmp_path / TEACHER)
    again = NetworkTeacher.load(tmp_path / TEACHER)
    assert again.facts == teacher.facts
    np.testing.assert_array_equal(again.act(env), teacher.act(env))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        ({"version": 9}, "version 9"),
        ({"action_joint_names": ["a"]}, "gives"),
        ({"ahead_s": None}, "broken"),
        ({"colour": "red"}, "broken"),
    ],
)  # fmt: skip
def test_a_file_that_makes_no_sense_is_one_line(
    env: TeachingEnv, tmp_path: Path, spoil: dict[str, object], says: str
) -> None:
    teacher = _network(env)
    model = load_model(teacher.data)
    text = next(p.value for p in model.metadata_props if p.key == METADATA_KEY)
    path = tmp_path / TEACHER
    path.write_bytes(with_metadata(model, {METADATA_KEY: json.dumps(json.loads(text) | spoil)}))
    with pytest.raises(InputError, match=says):
        NetworkTeacher.load(path)


def test_a_policy_is_no_teacher() -> None:
    with pytest.raises(InputError, match="is no teacher of ours"):
        NetworkTeacher.load(Path("policies/g1/squat.onnx"))


def test_a_teacher_of_another_robot_is_refused(env: TeachingEnv, clips: list[Motion]) -> None:
    other = Robot.load("g1:asap").for_training()
    theirs = trial_env(other, clips[0], noise=0.0, num_envs=2, threads=1)
    with pytest.raises(InputError, match="train one with `asap teach`"):
        _network(env).act(theirs)


def test_who_finishes_is_counted(robot: Robot, env: TeachingEnv, clips: list[Motion]) -> None:
    trial = trial_env(robot, clips[1], noise=0.0, num_envs=8, threads=1)
    assert tried(_network(env), trial) == (1.0, 1.0)  # a third of a second near the clip's end
    wild = _network(env)
    wild.act = lambda env: np.full((8, 29), 8.0)  # type: ignore[method-assign, assignment]
    longer = trial_env(robot, _piece(robot, "squat", 2.0), noise=0.0, num_envs=8, threads=1)
    came = tried(wild, longer)
    assert came.finished == 0.0
    assert 0.0 < came.reach < 1.0


def test_a_file_that_is_named_is_taken_and_a_regulator_where_it_is_asked_for(
    robot: Robot, env: TeachingEnv, clips: list[Motion], tmp_path: Path
) -> None:
    path = tmp_path / TEACHER
    save_teacher(_network(env), path)
    named = find_teacher(robot, clips[1], str(path), threads=1)
    assert isinstance(named, Trained)
    assert 0.0 <= named.finished <= 1.0
    planned = find_teacher(robot, clips[1], "regulator", threads=1)
    assert isinstance(planned, Planned)
    sim_env = trial_env(robot, clips[1], noise=0.0, num_envs=2, threads=1)
    assert isinstance(sim_env.sim, CpuSimulation)
    assert planned.act(sim_env).shape == named.act(sim_env).shape
    with pytest.raises(InputError):
        find_teacher(robot, clips[1], str(tmp_path / "none.onnx"))


def test_a_variant_has_its_own_teacher(tmp_path: Path) -> None:
    robot = Robot.load("g1:asap")
    beside = robot.folder / "teacher-asap.onnx"
    assert own_teacher(robot) == (beside if beside.exists() else None)


def test_a_teaching_that_is_interrupted_continues_to_the_bit(
    robot: Robot, clips: list[Motion], tmp_path: Path
) -> None:
    def until(iteration: int, folder: Path, *, resume: bool = False) -> TeacherTrainer:
        trainer = TeacherTrainer(robot, clips, clips[1:], TINY, folder, resume=resume)
        trainer.train(stopped=lambda: trainer.ppo.iteration >= iteration)
        return trainer

    straight = until(3, tmp_path / "straight")
    until(1, tmp_path / "split")
    split = until(3, tmp_path / "split", resume=True)
    left, right = straight.ppo.policy.state_dict(), split.ppo.policy.state_dict()
    assert all(torch.equal(left[name], right[name]) for name in left)
    made = [(tmp_path / name / TEACHER).read_bytes() for name in ("straight", "split")]
    assert made[0] == made[1]
    with pytest.raises(InputError, match="another run"):
        TeacherTrainer(robot, clips[:1], clips[1:], TINY, tmp_path / "split", resume=True)


def test_the_command_teaches_and_a_policy_copies_what_it_made(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cli_teach, "HELD_OUT", HELD_OUT[:3])
    small = ["--train.num-envs", "8", "--train.episodes", "2", "--train.ppo.horizon", "4",
             "--train.ppo.minibatches", "1", "--train.ppo.torch-threads", "1",
             "--train.threads", "1", "--quiet"]  # fmt: skip
    taught = tmp_path / "teach"
    assert main(["teach", "--motion", "squat", "--random", "1", "--rough", "2",
                 "--train.steps", "32", "--train.ppo.actor", "8", "--train.ppo.critic", "8",
                 "--out", str(taught), "--json", str(tmp_path / "teach.json"),
                 *small]) == 0  # fmt: skip
    facts = json.loads((tmp_path / "teach.json").read_text())
    assert facts["clips"] in (3, 4)  # the choreography may be none; two are roughened
    assert 0.0 <= facts["evaluation"]["success_rate"] <= 1.0
    copying = ["--train.imitate.teacher", facts["onnx"], "--train.imitate.iterations", "2",
               "--train.imitate.passes", "1", "--train.imitate.batch", "16"]  # fmt: skip
    copying += ["--json", str(tmp_path / "made.json"), "--out", str(tmp_path / "pretrain")]
    assert main(["pretrain", "--motion", "squat", "--train.steps", "64", *copying, *small]) == 0
    made = json.loads((tmp_path / "made.json").read_text())
    assert made["teacher"].startswith("trained teacher")
    capsys.readouterr()


def test_without_choreographies_the_clips_judge(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["teach", "--motion", "squat", "--random", "0", "--rough", "0", "--train.steps",
                 "32", "--train.num-envs", "8", "--train.episodes", "2", "--train.ppo.horizon",
                 "4", "--train.ppo.minibatches", "1", "--train.ppo.actor", "8",
                 "--train.threads", "1", "--out", str(tmp_path / "teach")]) == 0  # fmt: skip
    assert not (tmp_path / "teach" / "choreographies").exists()
    assert "noisy starts on each of 1 clips" in capsys.readouterr().out


def test_the_teacher_that_ships_recovers_where_the_clip_alone_falls(robot: Robot) -> None:
    clip = open_motion(Path("jump_forward"), robot, ground=True).motion
    path = own_teacher(robot)
    assert path is not None
    teacher = NetworkTeacher.load(path)
    env = trial_env(robot, clip, noise=1.0, num_envs=16, threads=1)
    assert tried(teacher, env).finished >= 0.8  # 0.97 of 64 when it was made
    teacher.act = lambda env: np.zeros((16, 29))  # type: ignore[method-assign]
    assert tried(teacher, env).finished <= 0.1


def test_a_pupil_whose_actions_start_from_the_default_pose_is_told_the_same_targets(
    robot: Robot, env: TeachingEnv
) -> None:
    teacher, clip, said = _network(env), _piece(robot, "squat", 2.0), []
    for mode in ("reference", "default"):
        config = EnvConfig(offset_mode=mode, push_speed=0.0, start=StartConfig(noise=(0.3, 0.3)))
        pupil = TrackingEnv(robot, clip, config, 4, np.random.default_rng(3), threads=1)
        pupil.reset()
        targets = []
        for _ in range(5):
            action = teacher.act(pupil)
            scaled = pupil.contract.action_scale * action
            targets.append(pupil.runtime.offset(pupil.time_s) + scaled)
            pupil.step(action)
        said.append(np.array(targets))
    np.testing.assert_allclose(said[1], said[0], atol=2e-3)
    # Told as if the default pose were the motion's, it would be wrong by much more.
    assert np.abs(robot.default_joint_pos - said[0]).max() > 0.3
