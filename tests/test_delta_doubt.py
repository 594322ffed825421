"""Doubt in a learned offset: who gets it, how much of it, and who does not doubt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from asap import learned as learning
from asap.cli import main
from asap.correction import Correction
from asap.delta_doubt import Doubt, DoubtedLearned, doubted
from asap.finetune import Arm
from asap.learned import Learned, LearnedContract
from asap.robot import Robot
from asap.sim import CpuSimulation
from asap.twin import make_simulation
from asap_deploy.errors import InputError


@pytest.fixture(scope="module")
def robot() -> Robot:
    return Robot.load("g1")


@pytest.fixture(scope="module")
def offset(robot: Robot) -> Learned:
    """0.02 rad for every joint, wherever the robot is."""
    joints = len(robot.joint_names)
    contract = LearnedContract(robot_name="g1", joint_names=robot.joint_names, acts_on="target",
                               bound=(5.0,) * joints, trusted=1e6, lost=2e6)  # fmt: skip
    weights, count = np.zeros((joints, 3 * joints + 7)), 3 * joints + 6
    weights[:, -1] = 0.02
    return learning.linear(weights, contract, mean=np.zeros(count), std=np.ones(count),
                           sliding=np.zeros(joints), sliding_speed=0.3)  # fmt: skip


def test_a_part_of_the_robots_goes_without_and_the_others_differ_by_joint(
    robot: Robot, offset: Learned
) -> None:
    sim = CpuSimulation(robot, 40)
    target = np.tile(robot.default_joint_pos, (40, 1))
    half = DoubtedLearned(offset, Doubt(without=0.25, scale=(0.5, 1.5)), seed=0)
    added = half(sim.measure(), target)
    silent = (added == 0.0).all(axis=1)
    assert silent.sum() == 10
    factors = added[~silent] / 0.02
    assert factors.min() > 0.49 and factors.max() < 1.51 and factors.std() > 0.2
    assert (half(sim.measure(), target) == added).all()  # each robot keeps its own
    again = DoubtedLearned(offset, Doubt(without=0.25, scale=(0.5, 1.5)), seed=0)
    assert (again(sim.measure(), target) == added).all()
    other = DoubtedLearned(offset, Doubt(without=0.25, scale=(0.5, 1.5)), seed=1)
    assert not (other(sim.measure(), target) == added).all()


def test_robots_without_move_as_the_model_does(robot: Robot, offset: Learned) -> None:
    arm = doubted(Arm("corrected", robot.with_(learned=offset)), Doubt(without=0.5), seed=0)
    sim, plain = make_simulation(arm.robot, 4), make_simulation(robot, 4)
    for _ in range(5):
        for one in (sim, plain):
            one.step(np.tile(robot.default_joint_pos, (4, 1)))
    same = (sim.joint_pos == plain.joint_pos).all(axis=1)
    assert same.sum() == 2


def test_those_who_choose_do_not_doubt_and_what_has_no_offset_is_left_alone(
    robot: Robot, offset: Learned
) -> None:
    believed = robot.with_(learned=offset)
    arm = doubted(Arm("corrected", believed), Doubt(scale=(0.0, 2.0)), seed=0)
    assert arm.judges == (believed,) and isinstance(arm.robot.learned, DoubtedLearned)
    chosen = doubted(Arm("corrected", believed, None, (robot,)), Doubt(without=0.1), seed=0)
    assert chosen.judges == (robot,)
    nominal = Arm("nominal", robot)
    assert doubted(nominal, Doubt(without=0.5), seed=0) is nominal
    assert doubted(arm, Doubt(), seed=0) is arm


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"without": 1.5}, "a part between 0 and 1"),
        ({"scale": (1.5, 0.5)}, "the smaller first"),
        ({"scale": (-1.0, 1.0)}, "factors from 0 on"),
    ],
)
def test_values_that_make_no_sense_are_refused(wrong: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Doubt(**wrong)


def test_doubt_in_an_offset_that_is_not_there_is_refused(
    robot: Robot, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    late = Correction(robot_name="g1", joint_names=robot.joint_names,
                      parameters={"delay_s": (0.01,) * len(robot.joint_names)})  # fmt: skip
    late.save(tmp_path / "correction.json")
    assert main(["finetune", "--policy", "squat", "--motion", "squat", "--correction",
                 str(tmp_path / "correction.json"), "--doubt.without", "0.2"]) == 2  # fmt: skip
    assert "the correction has learned none" in capsys.readouterr().err
