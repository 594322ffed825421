"""Fine-tuning: in the corrected simulator, never worse there, with its controls."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from asap import learned as learning
from asap.cli import main
from asap.correction import Correction
from asap.evaluate import FALL_MM, Evaluation
from asap.finetune import FINETUNE, Arm, _better, arms, finetune, trainer_of
from asap.inputs import OpenedMotion, open_motion
from asap.learned import LearnedContract
from asap.metrics import Interval
from asap.robot import Robot
from asap.train import POLICY, START
from asap.training_run import TrainConfig
from asap_deploy.errors import InputError
from asap_deploy.policy import Policy

ROOT = Path(__file__).parents[1]
SQUAT = ROOT / "policies" / "g1" / "squat.onnx"


@pytest.fixture(scope="module")
def robot() -> Robot:
    return Robot.load("g1")


@pytest.fixture(scope="module")
def clip(robot: Robot) -> OpenedMotion:
    return open_motion(Path("squat"), robot, ground=True)


@pytest.fixture(scope="module")
def weak(robot: Robot) -> Correction:
    factors = tuple(0.8 if "ankle" in name else 1.0 for name in robot.joint_names)
    bands = tuple(0.004 if "knee" in name else 0.0 for name in robot.joint_names)
    return Correction(robot_name="g1", joint_names=robot.joint_names,
                      parameters={"stiffness": factors, "dead_band": bands})  # fmt: skip


def _tiny(**changes: object) -> TrainConfig:
    ppo = dataclasses.replace(FINETUNE.ppo, horizon=4, minibatches=2, critic_warmup=1)
    return dataclasses.replace(FINETUNE, num_envs=16, steps=64, evaluate_every=99, episodes=1,
                               save_every=1, ppo=ppo, **changes)  # fmt: skip


def test_what_is_trained_on_is_the_corrected_robot_with_its_own_physics(
    robot: Robot, clip: OpenedMotion, weak: Correction, tmp_path: Path
) -> None:
    policy = Policy.from_bytes(SQUAT.read_bytes())
    arm = Arm("corrected", weak.robot(robot))
    trainer = trainer_of(arm, clip, policy, _tiny(), tmp_path / "run")
    sim = trainer.env.sim
    assert sim.physics_dt == robot.physics_dt and trainer.env.robot.integrator == robot.integrator
    ankle = robot.joint_names.index("left_ankle_pitch_joint")
    told = policy.contract.stiffness[policy.contract.joint_names.index("left_ankle_pitch_joint")]
    assert sim.model.actuator_gainprm[ankle, 0] == pytest.approx(0.8 * told)
    assert sim.effects.dead_band.max() == pytest.approx(0.004)  # type: ignore[attr-defined]
    made = finetune(trainer)
    assert made.steps == 64 and made.before is not None and made.after is not None
    assert (tmp_path / "run" / START).exists()
    # Gains that the robot will be told are those of the start: no correction is deployed.
    found = Policy.from_bytes((tmp_path / "run" / POLICY).read_bytes())
    assert found.contract.stiffness == policy.contract.stiffness
    if not made.changed:
        same = np.random.default_rng(0).normal(size=(5, len(policy.contract.element_names)))
        rows = same.astype(np.float32)
        assert np.allclose(found.act(rows), policy.act(rows), atol=1e-5)


def _evaluation(falls: int, error_mm: float, episodes: int = 100) -> Evaluation:
    """So many episodes of a policy, some of which fail."""
    success = np.arange(episodes) >= falls

    class Fixed:
        overall = {"success_rate": Interval(success.mean(), 0.0, 1.0)}  # noqa: RUF012
        cost_mm = np.where(success, error_mm, FALL_MM)

    return Fixed()  # type: ignore[return-value]


def test_a_policy_that_falls_more_or_gains_no_more_than_chance_is_never_better() -> None:
    start = [_evaluation(10, 50.0)]
    assert not _better(start, [_evaluation(11, 10.0)], seed=0)
    assert not _better(start, [_evaluation(10, 50.0)], seed=0)
    assert _better(start, [_evaluation(10, 49.0)], seed=0)
    assert _better(start, [_evaluation(4, 51.0)], seed=0)
    # One fall less of a hundred may be chance.
    assert not _better(start, [_evaluation(9, 50.0)], seed=0)


def test_controls_differ_from_the_corrected_in_one_thing_each(
    robot: Robot, weak: Correction
) -> None:
    truth = Robot.load("g1@worn")
    size = weak.size_rad(robot)
    assert 0.001 < size < 0.05
    found = arms(robot, weak, FINETUNE.env, controls=True, truth=truth)
    by_name = {arm.name: arm for arm in found}
    assert list(by_name) == ["corrected", "nominal", "noise", "randomized", "oracle"]
    assert by_name["nominal"].robot is robot and by_name["nominal"].env is None
    noisy = by_name["noise"].env
    assert noisy == dataclasses.replace(FINETUNE.env, target_noise=size)
    assert by_name["oracle"].robot is truth and by_name["oracle"].env is None
    alone = arms(robot, weak, FINETUNE.env, controls=False, truth=truth)
    assert [arm.name for arm in alone] == ["corrected"]
    some = arms(robot, weak, FINETUNE.env, controls=True, truth=truth, only=("oracle", "nominal"))
    assert [arm.name for arm in some] == ["corrected", "nominal", "oracle"]
    without = arms(robot, None, FINETUNE.env, controls=True, truth=truth)
    assert [arm.name for arm in without] == ["nominal", "randomized", "oracle"]


def _offset(robot: Robot) -> Correction:
    """What a fit learns without identification: a little more for every joint, no parameter."""
    joints = len(robot.joint_names)
    contract = LearnedContract(
        robot_name="g1", joint_names=robot.joint_names, acts_on="target",
        bound=(0.05,) * joints, trusted=1e3, lost=2e3,
    )  # fmt: skip
    weights, count = np.zeros((joints, 3 * joints + 7)), 3 * joints + 6
    weights[:, -1] = 0.02
    law = learning.linear(weights, contract, mean=np.zeros(count), std=np.ones(count),
                          sliding=np.zeros(joints), sliding_speed=0.3)  # fmt: skip
    return Correction(robot_name="g1", joint_names=robot.joint_names, parameters={}, learned=law)


def test_a_learned_offset_alone_is_a_control_without_any_parameter(
    robot: Robot, weak: Correction
) -> None:
    offset, none = _offset(robot), Correction(
        robot_name="g1", joint_names=robot.joint_names, parameters={}
    )  # fmt: skip
    found = arms(robot, weak, FINETUNE.env, controls=True, truth=None, delta=offset)
    assert [arm.name for arm in found] == ["corrected", "nominal", "noise", "randomized", "delta"]
    delta = found[-1]
    # The model's own motors, and an offset in every control step: nothing that was identified.
    assert delta.env is None and delta.robot.stiffness == pytest.approx(robot.stiffness)
    assert delta.robot.learned is offset.learned and found[0].robot.learned is None
    # One that its fit refused is nothing to train in; one with parameters is not alone.
    refused = arms(robot, weak, FINETUNE.env, controls=True, truth=None, delta=none)
    assert "delta" not in [arm.name for arm in refused]
    both = dataclasses.replace(offset, parameters=weak.parameters)
    with pytest.raises(InputError, match="a learned offset alone holds no parameters; got stiff"):
        arms(robot, weak, FINETUNE.env, controls=True, truth=None, delta=both)
    only = arms(robot, weak, FINETUNE.env, controls=True, truth=None, only=("delta",), delta=offset)
    assert [arm.name for arm in only] == ["corrected", "delta"]


def test_the_command_refuses_an_offset_that_nobody_would_train_in(
    robot: Robot, weak: Correction, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weak.save(tmp_path / "correction.json")
    file = str(tmp_path / "correction.json")
    words = ["finetune", "--policy", str(SQUAT), "--motion", "squat", "--correction", file,
             "--delta", file]  # fmt: skip
    assert main(words) == 2
    assert "--delta is one of the controls: give --controls too" in capsys.readouterr().err
    assert main([*words, "--controls"]) == 2
    assert "a learned offset alone holds no parameters" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_trains_on_compares_and_resumes(
    robot: Robot, weak: Correction, tmp_path: Path
) -> None:
    weak.save(tmp_path / "correction.json")
    words = [
        "finetune", "--policy", str(SQUAT), "--motion", "squat", "--correction",
        str(tmp_path / "correction.json"), "--truth", "g1@worn", "--out", str(tmp_path / "ft"),
        "--train.steps", "128", "--train.num-envs", "16", "--train.ppo.horizon", "4",
        "--train.ppo.minibatches", "2", "--train.episodes", "4", "--quiet",
    ]  # fmt: skip
    assert main([*words, "--json", str(tmp_path / "a.json")]) == 0
    found = json.loads((tmp_path / "a.json").read_text())
    assert set(found["on_truth"]) == {"no adaptation", "corrected"}
    assert found["changed"] in (True, False) and found["controls"] == {}
    assert Path(found["onnx"]).exists() and found["evaluation"]["overall"]
    assert main([*words, "--resume", "--json", str(tmp_path / "b.json")]) == 0
    again = json.loads((tmp_path / "b.json").read_text())
    assert again["on_truth"] == found["on_truth"]


def test_what_the_fit_does_not_know_is_trained_on_and_what_chooses_is_held_out(
    robot: Robot, clip: OpenedMotion, tmp_path: Path
) -> None:
    joints = len(robot.joint_names)

    def parameters(number: int) -> dict[str, tuple[float, ...]]:
        return {
            "stiffness": tuple(np.linspace(0.8, 1.1, joints) + 0.01 * number),
            "added_frictionloss": (0.1 * (number + 1),) * joints,
            "dead_band": (0.001 * number,) * joints,
            "delay_s": (0.005 * (1 + number % 3),) * joints,
            "added_mass_kg": (0.5 * number,),
        }

    variants = tuple(map(parameters, range(6)))
    correction = Correction(robot_name="g1", joint_names=robot.joint_names,
                            parameters=parameters(2), variants=variants)  # fmt: skip
    correction.save(tmp_path / "correction.json")
    assert Correction.load(tmp_path / "correction.json").variants == correction.variants
    arm = arms(robot, correction, FINETUNE.env, controls=False, truth=None)[0]
    assert arm.env is not None and len(arm.env.randomize.sets) == 4
    policy = Policy.from_bytes(SQUAT.read_bytes())
    trainer = trainer_of(arm, clip, policy, _tiny(), tmp_path / "run")
    assert len(trainer.judges) == 3
    sim = trainer.env.sim
    trainer.env.reset()
    order = [policy.contract.joint_names.index(name) for name in robot.joint_names]
    told = np.array(policy.contract.stiffness)[order]
    drawn = set()
    for row in range(sim.num_envs):
        mass = sim.batch.expand("body_mass")[row, robot.model.body(robot.anchor_name).id]
        number = round((mass - robot.model.body(robot.anchor_name).mass[0]) / 0.5)
        drawn.add(number)
        wanted = parameters(number)
        gains = sim.batch.expand("actuator_gainprm")[row, :, 0]
        assert gains == pytest.approx(told * wanted["stiffness"])
        friction = sim.batch.expand("dof_frictionloss")[row, robot.qvel_ids]
        assert friction == pytest.approx(robot.frictionloss + wanted["added_frictionloss"])
        assert sim.effects.dead_band[row] == pytest.approx(wanted["dead_band"])  # type: ignore[attr-defined]
    assert drawn <= {0, 1, 2, 3} and len(drawn) > 1
    # Those that choose are the last two, as robots of their own.
    assert trainer.judges[1].stiffness == pytest.approx(
        robot.stiffness * np.array(parameters(4)["stiffness"])
    )
