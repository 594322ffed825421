"""Evaluation: whole clips through the runtime, with the paper's conditions."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from asap.balance import balance_policy
from asap.evaluate import Case, EvaluateConfig, evaluate, with_gains
from asap.inputs import find_motion, open_motion, open_policy
from asap.metrics import TrackedPoints
from asap.robot import Robot
from asap.shipped import MOTIONS_FOLDER
from asap.shipped import SHIPPED as PROJECT
from asap.tracking import Reference, start_states
from asap_deploy.errors import InputError
from asap_deploy.golden import load_policy
from asap_deploy.motion import Motion
from asap_deploy.policy import Policy

POLICY = PROJECT / "policies" / "g1" / "wave.onnx"


@pytest.fixture(scope="module")
def robot() -> Robot:
    return Robot.load("g1")


@pytest.fixture(scope="module")
def case() -> Case:
    return Case(load_policy(POLICY), Motion.load(MOTIONS_FOLDER / "g1" / "wave.npz"), "wave")


def test_the_shipped_policy_is_what_its_generator_makes(robot: Robot, case: Case) -> None:
    fresh = Policy.from_bytes(balance_policy(robot, case.motion, name="wave"))
    old = load_policy(POLICY)
    # Another processor may solve the Riccati equation to other last digits.
    np.testing.assert_allclose(fresh.graph.weights["weight0"], old.graph.weights["weight0"],
                               atol=1e-3)  # fmt: skip
    assert fresh.contract.joint_names == old.contract.joint_names


def test_the_shipped_policy_stands_and_a_policy_of_zeros_does_not(robot: Robot, case: Case) -> None:
    config = EvaluateConfig(episodes=4)
    good = evaluate([case], robot, config)
    assert good.overall["success_rate"].value == 1.0
    assert good.overall["mpjpe_mm"].value < 80.0
    # The control: the same contract without its feedback falls.
    limp = Policy.from_bytes(POLICY.read_bytes())
    limp.act = lambda observation: np.zeros((len(observation), 29), np.float32)  # type: ignore
    bad = evaluate([Case(limp, case.motion, "limp")], robot, config)
    assert bad.overall["success_rate"].value == 0.0


def test_the_same_seed_gives_the_same_figures_at_any_number_of_threads(
    robot: Robot, case: Case
) -> None:
    def run(threads: int, seed: int) -> np.ndarray:
        config = EvaluateConfig(episodes=6, start_noise="paper", threads=threads, seed=seed)
        return evaluate([case], robot, config).clips[0].sums["global_mpjpe_mm"]

    np.testing.assert_array_equal(run(1, 0), run(2, 0))
    assert not np.array_equal(run(2, 0), run(2, 1))


def test_quiet_episodes_start_at_rest_with_a_sole_on_the_floor(robot: Robot, case: Case) -> None:
    lifted = case.motion.replace(body_pos_w=case.motion.body_pos_w + [0.0, 0.0, 0.3])
    reference = Reference(lifted, robot, TrackedPoints(robot))
    qpos, qvel = start_states(
        reference.frame(np.zeros(3)), robot, np.random.default_rng(0), noise=0.0, at_rest=True
    )
    poses = robot.forward_kinematics(qpos[:, :3], qpos[:, 3:7], qpos[:, robot.qpos_ids])
    np.testing.assert_allclose(robot.sole_clearance(*poses).min(axis=1), 0.0, atol=1e-6)
    assert not qvel.any()


def test_noisy_starts_are_noisy_but_never_inside_the_floor(robot: Robot, case: Case) -> None:
    reference = Reference(case.motion, robot, TrackedPoints(robot))
    rng = np.random.default_rng(0)
    qpos, qvel = start_states(reference.frame(np.zeros(400)), robot, rng, noise=1.0, at_rest=False)
    poses = robot.forward_kinematics(qpos[:, :3], qpos[:, 3:7], qpos[:, robot.qpos_ids])
    assert robot.sole_clearance(*poses).min() > -1e-9
    assert qvel[:, robot.qvel_ids].std() == pytest.approx(0.15, rel=0.05)
    assert qpos[:, 0].std() == pytest.approx(0.05, rel=0.15)


def test_delay_and_pushes_make_it_harder(robot: Robot, case: Case) -> None:
    quiet = evaluate([case], robot, EvaluateConfig(episodes=4)).overall["mpjpe_mm"].value
    late = evaluate([case], robot, EvaluateConfig(episodes=4, delay_ms=60.0)).overall
    assert late["success_rate"].value < 1.0 or late["mpjpe_mm"].value > quiet
    pushed = evaluate([case], robot, EvaluateConfig(episodes=4, push_speed=2.0)).overall
    assert pushed["success_rate"].value < 1.0


def test_gains_are_those_of_the_policy_and_a_worn_motor_stays_worn(
    robot: Robot, case: Case, tmp_path: Path
) -> None:
    stiffer = robot.with_(stiffness=2.0 * robot.stiffness)
    contract = case.policy.contract
    np.testing.assert_allclose(with_gains(stiffer, contract).stiffness, contract.stiffness)

    folder = tmp_path / "g1"
    shutil.copytree(PROJECT / "robots" / "g1", folder)
    (folder / "twins").mkdir(exist_ok=True)
    twin = '[joints]\n"*_knee_joint" = { scale = { stiffness = 0.65 } }\n'
    (folder / "twins" / "worn.toml").write_text(twin)
    worn = with_gains(Robot.load(f"{folder}@worn"), contract)
    knee = worn.joint_names.index("left_knee_joint")
    assert worn.stiffness[knee] == pytest.approx(0.65 * contract.stiffness[knee])
    assert worn.stiffness[0] == pytest.approx(contract.stiffness[0])


def test_figures_are_over_frames_of_all_clips(robot: Robot, case: Case) -> None:
    result = evaluate([case, case._replace(name="again")], robot, EvaluateConfig(episodes=2))
    assert [clip.name for clip in result.clips] == ["wave", "again"]
    facts = result.as_dict()
    assert set(facts) == {"overall", "clips", "episodes"}
    assert len(facts["episodes"]) == 4
    each = [clip["mpjpe_mm"]["value"] for clip in facts["clips"]]
    assert facts["overall"]["mpjpe_mm"]["value"] == pytest.approx(np.mean(each))


def test_what_does_not_fit_together_is_refused_in_one_line(robot: Robot, case: Case) -> None:
    config = EvaluateConfig(episodes=1)
    with pytest.raises(InputError, match="lacks joint 'left_hip_pitch_joint' of robot 'g1'"):
        poor = case.motion.replace(
            joint_names=("other", *case.motion.joint_names[1:]), robot="another"
        )
        evaluate([case._replace(motion=poor)], robot, config)
    with pytest.raises(InputError, match="policy runs at 50 Hz, robot 'g1' at 25 Hz"):
        evaluate([case], robot.with_(control_dt=0.04), config)
    for bad in ({"episodes": 0}, {"delay_ms": -1.0}, {"delay_ms": float("nan")},
                {"push_speed": -1.0}, {"fail_distance_m": 0.0}):  # fmt: skip
        with pytest.raises(InputError, match="must be"):
            EvaluateConfig(**bad)


def test_motions_are_found_by_name_and_unknown_ones_get_a_suggestion(robot: Robot) -> None:
    assert find_motion(Path("wave"), robot).name == "wave.npz"
    with pytest.raises(InputError, match=r"'wav' is neither a file nor a clip.*'wave'"):
        find_motion(Path("wav"), robot)


def test_a_policy_carries_its_clip_and_refuses_another(robot: Robot, tmp_path: Path) -> None:
    opened = open_policy(POLICY, robot, None, None)
    assert opened.motion is not None
    shipped = open_motion(Path("wave"), robot, ground=True)
    np.testing.assert_allclose(opened.motion.joint_pos, shipped.motion.joint_pos, atol=1e-6)
    np.testing.assert_allclose(opened.motion.body_pos_w, shipped.motion.body_pos_w, atol=1e-5)
    whole, frames = shipped.motion, 151
    arrays = ("joint_pos", "joint_vel", "body_pos_w", "body_quat_wxyz", "body_lin_vel_w",
              "body_ang_vel_w", "foot_contact")  # fmt: skip
    cut = whole.replace(**{name: getattr(whole, name)[:frames] for name in arrays})
    short = shipped._replace(motion=cut, name="short")
    with pytest.raises(InputError, match=r"tracks 'wave' of 4.00 s, motion 'short' lasts 3.00 s"):
        open_policy(POLICY, robot, short, None)


@pytest.mark.parametrize(
    "path", sorted((PROJECT / "policies").glob("*/*.onnx")), ids=lambda p: p.stem
)
def test_every_policy_that_ships_tracks_the_clip_that_it_carries(path: Path) -> None:
    policy = load_policy(path)
    robot = Robot.load(policy.contract.robot)
    opened = open_policy(path, robot, None, None)
    assert opened.motion is not None
    case = Case(opened.policy, opened.motion, opened.name)
    overall = evaluate([case], robot, EvaluateConfig(episodes=2)).overall
    assert overall["success_rate"].value == 1.0
    assert overall["mpjpe_mm"].value < 80.0
