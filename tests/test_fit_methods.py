"""The paper's methods: the grid, the residual of the state, the offset learned by trial."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from asap import learned as learning
from asap.correction import Correction
from asap.delta_env import DeltaEnv, DeltaEnvConfig, Normal, logged_inputs
from asap.delta_ppo import DeltaPpoConfig, as_learned, fit_delta_ppo, replay_ppo, trainer
from asap.dynamics_residual import DynamicsConfig, _Answers, autoregressive, fit_dynamics
from asap.dynamics_residual import linear_steps as steps_along
from asap.evaluate import Case
from asap.grid import GridConfig, fit_grid
from asap.inputs import open_motion
from asap.judge import CORRECTED, NOMINAL, Judge, verdict
from asap.learned import Learned, LearnedContract
from asap.log_windows import Windows, stretches_of
from asap.record import RecordConfig, record
from asap.replay import ReplayConfig, replay
from asap.rewards import TRACKING
from asap.robot import Robot
from asap.twin import make_simulation
from asap_deploy.errors import InputError
from asap_deploy.log import Log
from asap_deploy.policy import Policy

ROOT = Path(__file__).parents[1]
SMALL = dataclasses.replace(replay_ppo(), horizon=4, epochs=1, minibatches=2, actor=(16,),
                            critic=(16,))  # fmt: skip


@pytest.fixture(scope="module")
def robot() -> Robot:
    return Robot.load("g1")


def _log(robot: Robot, name: str = "squat", seed: int = 0) -> Log:
    clip = open_motion(Path(name), robot, ground=True)
    policy = Policy.from_bytes((ROOT / "policies" / "g1" / f"{name}.onnx").read_bytes())
    config = RecordConfig(episodes=1, start_noise=0.3, seed=seed)
    return record(Case(policy, clip.motion, name), robot, config)


@pytest.fixture(scope="module")
def own_log(robot: Robot) -> Log:
    """Of the model itself."""
    return _log(robot)


@pytest.fixture(scope="module")
def weak_log(robot: Robot) -> Log:
    """Of a robot whose left knee is weak."""
    return _log(_weak(robot))


def _weak(robot: Robot) -> Robot:
    factors = tuple(0.65 if name == "left_knee_joint" else 1.0 for name in robot.joint_names)
    planted = Correction(robot_name="g1", joint_names=robot.joint_names,
                         parameters={"stiffness": factors})  # fmt: skip
    return planted.robot(robot)


def _env(
    log: Log, robot: Robot, count: int, joints: np.ndarray | None = None, **changes
) -> DeltaEnv:
    places = np.ones(len(robot.joint_names), dtype=bool) if joints is None else joints
    stretches = stretches_of(log, 0, robot)
    return DeltaEnv(stretches, DeltaEnvConfig(**changes), count, np.random.default_rng(0),
                    places=places)  # fmt: skip


def _spread(env: DeltaEnv) -> None:
    """Start environments evenly over the log."""
    windows = np.linspace(0, len(env.windows.start) - 1, env.num_envs).astype(int)
    env.start(np.arange(env.num_envs), windows)


def _nothing(env: DeltaEnv) -> np.ndarray:
    return np.zeros((env.num_envs, len(env.places)))


def _joint_error(env: DeltaEnv) -> np.ndarray:
    """(N,) against the row that was reached."""
    reached = env.rows()
    return np.abs(env.sim.joint_pos - env.windows.joint_pos[reached]).max(axis=1)


def test_no_offset_gives_back_the_log_of_the_model_and_all_of_the_reward(
    robot: Robot, own_log: Log
) -> None:
    env = _env(own_log, robot, 16, widths="paper")
    _spread(env)
    for _ in range(env.windows.steps - 1):
        step = env.step(_nothing(env))
    assert np.quantile(_joint_error(env), 0.75) < 1e-9
    assert not step.terminated.any()
    last = env.step(_nothing(env))
    assert last.terminated.all()
    rewarded = [name for name in TRACKING if getattr(env.reward, name).weight > 0.0]
    assert len(rewarded) == 9
    assert min(last.facts[name] for name in rewarded) > 1.0 - 1e-6
    assert last.facts["offset_cost"] == 0.0


def test_episodes_begin_as_logged_with_a_second_ahead(robot: Robot, own_log: Log) -> None:
    env = _env(own_log, robot, 64)
    env.reset()
    rows = env.windows.rows(env.window, 0)
    assert np.array_equal(env.sim.batch.bind("qvel"), env.windows.qvel[rows])
    assert np.abs(env.windows.qvel[rows]).max() > 0.1
    assert np.array_equal(env.sim.joint_pos, env.windows.joint_pos[rows])
    assert env.windows.steps == 50
    assert env.windows.inside(env.window, 50).all()
    assert len(np.unique(env.length)) > 10  # so that not all end at once


def test_the_reward_compares_with_the_row_that_is_reached(robot: Robot, own_log: Log) -> None:
    env = _env(own_log, robot, 16)
    _spread(env)
    facts = env.step(_nothing(env)).facts
    assert facts["joint_error_deg"] < 1e-6
    assert facts["distance_mm"] < 1e-6
    ahead = env.rows() + 1
    assert np.rad2deg(np.abs(env.sim.joint_pos - env.windows.joint_pos[ahead]).mean()) > 0.05


def test_the_right_offset_makes_the_model_move_like_a_weak_robot(
    robot: Robot, weak_log: Log
) -> None:
    """A knee of 0.65 of its stiffness is a target that is 0.35 of the way too far back."""
    env = _env(weak_log, robot, 16)
    knee = robot.joint_ids(["left_knee_joint"])[0]
    errors = []
    for share in (0.0, -0.35):
        _spread(env)
        for _ in range(25):
            target = env.windows.target[env.rows()]
            wanted = _nothing(env)
            wanted[:, knee] = share * (target - env.sim.joint_pos)[:, knee]
            bound, scale = env.config.bound, env.scale
            step = env.step(bound * np.arctanh(wanted / bound) / scale)
        errors.append((step.facts["joint_error_deg"], -step.facts["upper_body_pos"]))
    assert errors[1][0] < 0.3 * errors[0][0]
    assert errors[1][1] < errors[0][1]
    law = _linear(robot, knee, -0.35)
    judge = Judge([weak_log], robot, horizons_s=(0.5,), every_s=0.5)
    assert judge.shares({"corrected": robot.with_(learned=law)})["corrected"] < 0.3


def _linear(robot: Robot, joint: int, share: float) -> Learned:
    """An offset of one joint, by how far it is from its target."""
    joints = len(robot.joint_names)
    weights = np.zeros((joints, 3 * joints + 7))
    weights[joint, 2 * joints + joint] = share
    contract = LearnedContract(
        robot_name="g1", joint_names=robot.joint_names, acts_on="target", bound=(1.0,) * joints,
        trusted=1e6, lost=2e6,
    )  # fmt: skip
    wide = np.ones(3 * joints + 6)
    return learning.linear(weights, contract, mean=0.0 * wide, std=wide, sliding=np.zeros(joints),
                           sliding_speed=1.0)  # fmt: skip


def test_the_actor_sees_what_a_robot_measures_and_nobody_sees_forces(
    robot: Robot, own_log: Log
) -> None:
    env = _env(own_log, robot, 4)
    seen = env.reset()
    target = env.windows.target[env.windows.rows(env.window, 0)]
    assert np.array_equal(seen["actor"], learning.inputs(env.sim.measure(), target))
    joints, points = len(robot.joint_names), env.reference.points_w.shape[1]
    assert seen["critic"].shape == (4, 3 * joints + 6 + 3 * points + 2 * joints + 1)
    env.sim._foot_force[:], env.sim._joint_torque[:] = 1e3, 1e2
    again = env._observe()
    assert all(np.array_equal(seen[group], again[group]) for group in ("actor", "critic"))


def test_offsets_are_bounded_and_vanish_far_from_the_log(robot: Robot, own_log: Log) -> None:
    env = _env(own_log, robot, 4, bound=0.1)
    env.reset()
    action = np.full((4, len(env.places)), 1e3)
    assert np.abs(env.offset(action)).max() <= 0.1
    assert np.abs(env.offset(action)).max() > 0.09
    env._inputs = env._inputs + 100.0
    assert not env.offset(action).any()
    with pytest.raises(InputError, match="must be above 0"):
        DeltaEnvConfig(bound=0.0)


def test_the_network_that_is_written_says_what_the_environment_did(
    robot: Robot, own_log: Log
) -> None:
    chosen = np.array(["ankle" in name for name in robot.joint_names])
    env = _env(own_log, robot, 8, chosen)
    ppo = trainer(env, SMALL, 0)
    with torch.no_grad():
        ppo.tracker.action_net.weight.normal_()
    law = as_learned(ppo, env)
    for _ in range(3):
        target, measured = env._target(), env.sim.measure()
        mean = ppo.tracker.get_distribution({
            group: torch.as_tensor(values) for group, values in env._observe().items()
        }).distribution.mean.detach().numpy()  # fmt: skip
        said = law(measured, target)
        assert np.abs(said[:, chosen] - env.offset(mean)).max() < 1e-5
        assert np.abs(said[:, chosen]).max() > 1e-3
        assert not said[:, ~chosen].any()
        env.step(mean)


def test_a_wrong_offset_of_the_size_of_a_right_one_is_refused_by_other_runs(
    robot: Robot, own_log: Log, weak_log: Log
) -> None:
    env = _env(weak_log, robot, 8)
    ppo = trainer(env, SMALL, 0)
    with torch.no_grad():
        ppo.tracker.action_net.weight.normal_()
    wrong = Correction(robot_name="g1", joint_names=robot.joint_names, parameters={},
                       learned=as_learned(ppo, env))  # fmt: skip
    for log in (own_log, weak_log):
        seen = replay([log], {NOMINAL: robot, CORRECTED: wrong.robot(robot)}, ReplayConfig())
        accepted, words = verdict(seen)
        assert not accepted and words.startswith("no correction: worse than the model")


def test_only_chosen_joints_are_offset(robot: Robot, own_log: Log) -> None:
    chosen = np.array(["ankle" in name for name in robot.joint_names])
    env = _env(own_log, robot, 4, chosen)
    env.reset()
    assert env.contract.action_joint_names == tuple(n for n in robot.joint_names if "ankle" in n)
    told = env._target()
    env.step(np.ones((4, 4)))
    moved = env.sim.batch.bind("ctrl") - told
    running = env.elapsed > 0
    assert np.abs(moved[running][:, chosen]).min() > 0.01
    assert not moved[running][:, ~chosen].any()
    with pytest.raises(InputError, match="--joints tail is in the name of no joint of 'g1'"):
        fit_delta_ppo([own_log], robot, DeltaPpoConfig(joints=("tail",)), Judge([own_log], robot))


def test_learning_ends_when_it_is_told_to_with_the_best_so_far(robot: Robot, weak_log: Log) -> None:
    judge = Judge([weak_log], robot, horizons_s=(0.2,), every_s=1.0)
    config = DeltaPpoConfig(steps=10_000, num_envs=16, joints=("knee",), judge_every=1, ppo=SMALL)
    looks = []
    found = fit_delta_ppo([weak_log], robot, config, judge, checked=looks.append,
                          stopped=lambda: len(looks) == 1)  # fmt: skip
    assert [look.steps for look in looks] == [64, 128]
    silent = np.array([name in found.abstained for name in robot.joint_names])
    assert silent[["knee" not in name for name in robot.joint_names]].all()
    if found.learned is not None:
        assert found.share <= min(look.share for look in looks)


def test_a_log_without_base_position_is_compared_about_the_base(robot: Robot, own_log: Log) -> None:
    fields = {name: values for name, values in own_log.fields.items()
              if name not in ("base_pos_w", "base_lin_vel_w")}  # fmt: skip
    env = _env(dataclasses.replace(own_log, fields=fields), robot, 8)
    assert not env.base_known
    _spread(env)
    facts = env.step(_nothing(env)).facts
    assert facts["distance_mm"] < 0.5
    pelvis = env.reference.points_w[:, env._points.names.index(robot.base_name)]
    assert np.abs(pelvis).max() < 1e-12


def test_widths_of_the_reward_can_follow_the_gap(robot: Robot, weak_log: Log) -> None:
    env = _env(weak_log, robot, 32)
    paper = env.reward
    env.adapt(0.3)
    for name in ("joint_pos", "joint_vel", "body_lin_vel"):
        old, new = getattr(paper, name), getattr(env.reward, name)
        assert new.weight == old.weight
        assert 0.0 < new.width < 0.5 * old.width
    assert env.reward.joint_pos_limit == paper.joint_pos_limit


def test_noise_of_exploration_is_no_larger_than_what_there_is_to_learn(
    robot: Robot, own_log: Log, weak_log: Log
) -> None:
    wrong, right = _env(weak_log, robot, 16), _env(own_log, robot, 16)
    given = _env(own_log, robot, 4, scale=0.07)
    for env in (wrong, right, given):
        env.adapt(0.3)
    assert wrong.scale > 0.05
    assert right.scale == pytest.approx(0.005)  # nothing is wrong
    assert given.scale == 0.07


class _Adds(NamedTuple):
    """What a robot has as ``learned``, adding the same whatever is measured."""

    added: np.ndarray
    acts_on: str = "state"

    def __call__(self, measured: object, target: np.ndarray) -> np.ndarray:
        return self.added


def _pieces(log: Log, robot: Robot, steps: int, count: int) -> Windows:
    windows = Windows(stretches_of(log, 0, robot), horizons_s=(steps * 0.02,),
                      every_s=steps * 0.02, late_s=0.0)  # fmt: skip
    windows.keep(count)
    return windows


def test_the_exact_error_of_one_step_as_a_residual_leads_along_the_log(
    robot: Robot, weak_log: Log
) -> None:
    windows = _pieces(weak_log, robot, 4, 6)
    steps = steps_along(windows, _Answers(robot, 0), None)
    first = np.arange(6) * 4
    sim = make_simulation(robot.with_(learned=_Adds(steps.given[first].double().numpy())), 6)
    windows.start_in(sim, np.arange(6))
    sim.step(windows.target[windows.rows(np.arange(6), 0)])
    reached = windows.rows(np.arange(6), 1)
    assert np.abs(sim.joint_pos - windows.joint_pos[reached]).max() < 1e-6
    plain = make_simulation(robot, 6)
    windows.start_in(plain, np.arange(6))
    plain.step(windows.target[windows.rows(np.arange(6), 0)])
    assert np.abs(plain.joint_pos - windows.joint_pos[reached]).max() > 1e-3


def test_all_steps_of_a_window_count_and_the_exact_residual_leaves_nothing(
    robot: Robot, weak_log: Log
) -> None:
    steps = steps_along(_pieces(weak_log, robot, 4, 6), _Answers(robot, 0), None)
    rows = steps.starts(4, heldout=False)
    assert list(rows) == [0, 4, 8, 12, 16, 20]
    turn = iter(range(100))

    class Exact(torch.nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return steps.given[torch.as_tensor(rows + next(turn))]

    class Silent(torch.nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(inputs), steps.given.shape[1])

    assert float(autoregressive(Exact(), steps, rows, 4)) < 1e-12
    # Without a residual: what every step lacks adds up through the linear steps, and counts.
    unit = np.repeat((0.01, 0.02, 0.01, 0.1, 0.3, 0.3), (3, 3, 29, 3, 3, 29))
    xi, expected = np.zeros((6, 70)), 0.0
    for step in range(4):
        a, given = steps.a[rows + step].double().numpy(), steps.given[rows + step].numpy()
        xi = np.einsum("nij,nj->ni", a, xi) - given
        square = np.square(xi / unit).mean(axis=1)
        expected += (square / (1.0 + square / 2.0)).mean() / 4
    found = float(autoregressive(Silent(), steps, rows, 4))
    assert found == pytest.approx(expected, rel=1e-3)
    assert found > 1e-3


def test_linear_steps_say_how_the_simulator_answers(robot: Robot, own_log: Log) -> None:
    windows = _pieces(own_log, robot, 2, 4)
    along = steps_along(windows, _Answers(robot, 0), None)
    assert float(along.given.abs().max()) < 1e-6  # the model's own log lacks nothing
    added = np.zeros((4, 70))
    added[:, 20] = 1e-4
    kicked = steps_along(windows, _Answers(robot, 0), _Adds(added))
    gap = kicked.gap.reshape(4, 2, 70).numpy()
    assert np.allclose(gap[:, 0], added, atol=1e-6)
    answer = np.einsum("nij,nj->ni", along.a.reshape(4, 2, 70, 70)[:, 1].numpy(), added) + added
    size = np.abs(answer).max(axis=1)
    assert np.median(np.abs(gap[:, 1] - answer).max(axis=1) / size) < 0.05


def test_a_residual_of_the_state_is_trained_bounded_and_judged(robot: Robot, weak_log: Log) -> None:
    judge = Judge([weak_log], robot, horizons_s=(0.1,), every_s=0.5)
    config = DynamicsConfig(hidden=(32,), horizons=(1, 4), epochs=20, seconds=1.0)
    law = fit_dynamics([weak_log], robot, config, judge)
    assert law is not None
    assert law.acts_on == "state"
    assert judge.shares({"corrected": robot.with_(learned=law)})["corrected"] < 0.8
    windows = _pieces(weak_log, robot, 4, 4)
    sim = make_simulation(robot, 4)
    windows.start_in(sim, np.arange(4))
    measured = sim.measure()
    wild = measured._replace(joint_vel=measured.joint_vel + 50.0)
    target = windows.target[windows.rows(np.arange(4), 0)]
    assert (np.abs(law(measured, target)) <= np.array(law.contract.bound)).all()
    assert not law(wild, target).any()
    own = Judge([_log(robot)], robot, horizons_s=(0.1,), every_s=0.5)
    brief = dataclasses.replace(config, epochs=1, horizons=(1,), seconds=0.2)
    assert fit_dynamics([weak_log], robot, brief, own) is None
    with pytest.raises(InputError, match="horizons must rise"):
        DynamicsConfig(horizons=(5, 2))


def test_the_grid_finds_a_stiffer_knee_and_a_shifted_load(robot: Robot) -> None:
    names = robot.joint_names
    planted = Correction(
        robot_name="g1", joint_names=names,
        parameters={
            "stiffness": tuple(1.05 if name == "left_knee_joint" else 1.0 for name in names),
            "com_offset_m": (0.02, 0.0, 0.0),
        },
    )  # fmt: skip
    log = _log(planted.robot(robot))
    judge = Judge([log], robot, horizons_s=(0.5,), every_s=0.5)
    found = fit_grid([log], robot, GridConfig(window_s=0.3, seconds=1.2, passes=2), judge)
    chosen = {item.name: item.value for item in found.chosen}
    assert chosen["torso com x"] == 0.02
    assert chosen["left_knee stiffness"] == 1.05
    assert found.cost[-1] < 0.2
    assert found.share < 0.5
    assert set(found.correction.parameters) <= {"com_offset_m", "added_mass_kg", "stiffness",
                                                "damping"}  # fmt: skip


def test_inputs_of_a_log_are_those_that_a_simulation_in_its_states_gives(
    robot: Robot, own_log: Log
) -> None:
    windows = _pieces(own_log, robot, 5, 8)
    rows = windows.rows(np.arange(8), 0)
    sim = make_simulation(robot, 8)
    windows.start_in(sim, np.arange(8))
    expected = learning.inputs(sim.measure(), windows.target[rows])
    assert np.allclose(logged_inputs(windows)[rows], expected, atol=1e-6)
    normal = Normal.of(logged_inputs(windows))
    assert normal.trust(normal.mean[None])[0] == 1.0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_weak_knee_is_learned_by_trial(robot: Robot, weak_log: Log) -> None:
    judge = Judge([_log(_weak(robot), seed=1)], robot)
    config = DeltaPpoConfig(steps=300_000, joints=("knee",))
    found = fit_delta_ppo([weak_log], robot, config, judge)
    assert found.share < 0.7
