"""Post-training on a robot that tracks a clip: its graph as a network, its episodes, its files."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from asap import onnx_file
from asap.correction import Correction
from asap.env import EnvConfig, TrackingEnv
from asap.evaluate import Case, EvaluateConfig, evaluate
from asap.finetune import FINETUNE
from asap.inputs import OpenedMotion, open_motion, open_policy
from asap.posttrain.collect import collect
from asap.posttrain.graph_net import GraphNet, actor_of
from asap.posttrain.humanoid import TrackingTask, corrected
from asap.posttrain.residual_onnx import with_residual
from asap.posttrain.tuned_policy import write_tuned
from asap.robot import Robot
from asap.starts import Start
from asap.warm_start import read_actor
from asap_deploy.errors import InputError
from asap_deploy.golden import load_policy
from asap_deploy.observation import Measurement
from asap_deploy.onnx_graph import OnnxGraph
from asap_deploy.policy import Policy
from asap_deploy.runtime import Runtime
from tests.policies import robot as cached_robot
from tests.policies import toy_motion, toy_policy

SQUAT, WAVE = "squat", "wave"  # three hidden layers and none, without a history and with one
NOISY = {"recipe": "test", "noise": "sigma 0.1 of an action"}


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@functools.cache
def clip_of(name: str) -> OpenedMotion:
    return open_motion(Path(name), cached_robot("g1"), ground=True)


@functools.cache
def policy_of(name: str) -> Policy:
    return open_policy(Path(name), cached_robot("g1"), clip_of(name), None).policy


def task_of(name: str = SQUAT, num_envs: int = 2, robot: Robot | None = None, **kw) -> TrackingTask:
    robot = cached_robot("g1") if robot is None else robot
    return TrackingTask(robot, policy_of(name), clip_of(name), num_envs, threads=1, **kw)


def seen(policy: Policy, rows: int = 7) -> np.ndarray:
    width = len(policy.contract.element_names)
    return np.random.default_rng(0).normal(0.0, 1.0, (rows, width)).astype(np.float32)


def acted(net: GraphNet, observation: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return net(torch.as_tensor(observation)).numpy()


def mlp_layers(policy: Policy, *hidden: int, size: float = 0.3, seed: int = 0):
    rng = np.random.default_rng(seed)
    contract = policy.contract
    widths = [len(contract.element_names), *hidden, len(contract.action_joint_names)]
    return [(rng.normal(0.0, size, (after, before)), rng.normal(0.0, size, after))
            for before, after in itertools.pairwise(widths)]  # fmt: skip


def tuned(model: onnx.ModelProto, policy: Policy, **more: str) -> Policy:
    data = write_tuned(model, policy, cached_robot("g1"), None, provenance=NOISY | more)
    return Policy.from_bytes(data)


@pytest.mark.parametrize("name", [SQUAT, WAVE])
def test_a_graph_net_acts_as_the_file_does(name):
    policy = policy_of(name)
    net, observation = GraphNet.of(policy), seen(policy)
    np.testing.assert_allclose(acted(net, observation), policy.act(observation), atol=1e-5)
    np.testing.assert_allclose(
        acted(GraphNet(net.model()), observation), acted(net, observation), atol=0.0
    )


def test_what_normalises_and_clips_is_not_trained():
    policy = policy_of(SQUAT)
    net = GraphNet.of(policy)
    trained = [name for name in policy.graph.weights if name.startswith(("weight", "bias"))]
    assert len(list(net.parameters())) == len(trained) == 8
    assert not isinstance(net.number("mean"), torch.nn.Parameter)


def test_new_numbers_are_written_into_the_same_graph():
    policy = policy_of(SQUAT)
    net, observation = GraphNet.of(policy), seen(policy)
    net(torch.as_tensor(observation)).square().mean().backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in net.trunk())
    with torch.no_grad():
        for weight in net.parameters():
            weight.add_(0.01 * torch.sign(weight.grad))
    changed = tuned(net.model(), policy)
    np.testing.assert_allclose(changed.act(observation), acted(net, observation), atol=1e-5)
    assert np.abs(changed.act(observation) - policy.act(observation)).max() > 1e-3
    assert [n.operator for n in changed.graph.nodes] == [n.operator for n in policy.graph.nodes]
    read_actor(changed)  # still a plain perceptron: the trainers take it


def test_residuals_upon_residuals_are_networks_like_any_other():
    policy = policy_of(SQUAT)
    model, observation = actor_of(policy), seen(policy)
    for seed, squash in enumerate(("tanh", "clip")):
        layers = mlp_layers(policy, 16, 8, seed=seed)
        model = with_residual(model, layers, bound=0.2, squash=squash)
        again = tuned(model, policy)
        net = GraphNet.of(again)
        np.testing.assert_allclose(acted(net, observation), again.act(observation), atol=1e-5)
        np.testing.assert_allclose(again.act_numpy(observation), again.act(observation), atol=1e-5)
    names = [tensor.name for tensor in model.graph.initializer]
    assert len(set(names)) == len(names) and {"residual0_bound", "residual1_bound"} <= set(names)


def test_a_residual_of_zeros_changes_nothing():
    policy = policy_of(SQUAT)
    layers = mlp_layers(policy, 16)
    layers[-1] = (np.zeros_like(layers[-1][0]), np.zeros_like(layers[-1][1]))
    same = tuned(with_residual(actor_of(policy), layers, bound=0.5), policy)
    np.testing.assert_array_equal(same.act(seen(policy)), policy.act(seen(policy)))


@pytest.mark.parametrize("squash", ["tanh", "clip"])
def test_a_residual_is_never_larger_than_its_bound(squash):
    policy = policy_of(SQUAT)
    bound = np.linspace(0.05, 0.3, len(policy.contract.action_joint_names))
    layers = mlp_layers(policy, 16, size=20.0)
    model = with_residual(actor_of(policy), layers, bound=bound, squash=squash)
    off = np.abs(tuned(model, policy).act(seen(policy)) - policy.act(seen(policy)))
    assert (off <= bound + 1e-6).all()
    assert (off > 0.9 * bound).mean() > 0.9  # and it is used


def test_a_residual_is_the_formula_that_it_says():
    policy = policy_of(WAVE)
    observation, (one, two) = seen(policy), mlp_layers(policy, 5, size=0.01)
    model = with_residual(actor_of(policy), [one, two], bound=0.3, scale=2.0)
    hidden = observation @ one[0].T + one[1]
    hidden = np.where(hidden > 0.0, hidden, np.expm1(np.minimum(hidden, 0.0)))
    expected = policy.act(observation) + 0.3 * np.tanh(2.0 * (hidden @ two[0].T + two[1]))
    np.testing.assert_allclose(tuned(model, policy).act(observation), expected, atol=1e-5)


def test_a_residual_that_does_not_fit_is_refused():
    policy = policy_of(WAVE)
    model, layers = actor_of(policy), mlp_layers(policy, 5)
    with pytest.raises(InputError, match=r"gives 5 numbers, 'actions' has 29"):
        with_residual(model, layers[:1], bound=0.1)
    with pytest.raises(InputError, match=r"shape \(29, 5\), expected \(29, 470\)"):
        with_residual(model, layers[1:], bound=0.1)
    with pytest.raises(InputError, match="one number or 29, from 0 on"):
        with_residual(model, layers, bound=np.ones(3))


def test_the_trunk_is_all_but_the_last_two_layers():
    policy = policy_of(SQUAT)
    net = GraphNet.of(policy)
    trunk = {id(weight) for weight in net.trunk()}
    for depth in range(4):
        for part in ("weight", "bias"):
            assert (id(net.number(f"{part}{depth}")) in trunk) == (depth < 2)
    assert GraphNet.of(policy_of(WAVE)).trunk() == []


@pytest.mark.parametrize(("hidden", "held"), [((16, 8), 1), ((), 0)])
def test_the_trunk_of_a_residual_policy_is_all_but_the_end_of_the_residual(hidden, held):
    policy = policy_of(SQUAT)
    net = GraphNet(with_residual(actor_of(policy), mlp_layers(policy, *hidden), bound=0.1))
    count = len(hidden) + 1
    moving = {id(net.number(f"residual0_{part}{depth}"))
              for part in ("weight", "bias") for depth in range(held, count)}  # fmt: skip
    assert {id(w) for w in net.parameters()} - {id(w) for w in net.trunk()} == moving


def _exported_by_others() -> onnx.ModelProto:
    """MatMul and Add, a bias by way of Identity, a weight that is a Constant, bounds in Clip."""
    rng = np.random.default_rng(1)
    arrays = {f"net.{k}.weight": rng.normal(0, 0.5, (4, 4)).astype(np.float32) for k in range(3)}
    arrays["net.bias"] = rng.normal(0, 0.5, 4).astype(np.float32)
    constant = numpy_helper.from_array(arrays.pop("net.2.weight"), "c")
    nodes = [helper.make_node("Constant", [], ["net.2.weight"], value=constant),
             helper.make_node("Identity", ["net.bias"], ["same"])]  # fmt: skip
    value = "obs"
    kinds = {"hidden0": "Sigmoid", "hidden1": "Tanh", "actions": "Identity"}
    for k, (name, kind) in enumerate(kinds.items()):
        nodes += [helper.make_node("MatMul", [value, f"net.{k}.weight"], [f"product{k}"]),
                  helper.make_node("Add", [f"product{k}", "same"], [f"sum{k}"]),
                  helper.make_node(kind, [f"sum{k}"], [name])]  # fmt: skip
        value = name
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4])
            for name in ("obs", "actions")]  # fmt: skip
    tensors = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "policy", ends[:1], ends[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def test_graphs_of_other_exporters_are_trained_as_well():
    net = GraphNet(_exported_by_others())
    assert {name for name, _ in net.named_parameters()} == {f"w{k}" for k in range(4)}
    assert [len(layer) for layer in net.layers()] == [2, 2, 2]
    assert [w is net.number("net.0.weight") for w in net.trunk()] == [True]  # the bias is shared
    observation = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    for model in (_exported_by_others(), net.model()):
        found = OnnxGraph.parse(model.SerializeToString()).run({"obs": observation})["actions"]
        np.testing.assert_allclose(found, acted(net, observation), atol=1e-6)


def test_an_operator_that_cannot_be_trained_is_named():
    model = onnx_file.network([(np.eye(3), np.zeros(3))])
    model.graph.node[0].output[0] = "before"
    model.graph.node.append(helper.make_node("Cast", ["before"], ["actions"], to=TensorProto.FLOAT))
    with pytest.raises(InputError, match="'Cast' that gives 'actions' cannot be trained"):
        GraphNet(model)


@pytest.mark.parametrize("name", [SQUAT, WAVE])
def test_rebuilt_observations_are_those_of_the_live_robots_bit_for_bit(name):
    task, policy, live = task_of(name, 2), policy_of(name), []

    def act(observation):
        live.append(observation)
        return policy.act(observation)

    episodes = collect(task, act, 2, np.random.default_rng(0))
    live.append(task.observe())
    for env, episode in enumerate(episodes):
        assert episode.success and episode.steps == task.steps
        expected = np.array([row[env] for row in live])[: episode.steps + 1]
        np.testing.assert_array_equal(task.observations(episode), expected)


@pytest.mark.parametrize("layout", ["asap", "beyondmimic", "beyondmimic-state"])
def test_observations_are_rebuilt_as_a_runtime_that_goes_step_by_step_does(layout):
    robot, policy = cached_robot(), toy_policy(layout)
    clip = OpenedMotion(toy_motion(), "wave", Path("wave.npz"))
    task = TrackingTask(robot, policy, clip, 1, threads=1)
    episode = collect(task, policy.act, 1, np.random.default_rng(0))[0]
    assert episode.terminated[-1] and not episode.success  # random weights fall
    runtime, rows = Runtime(policy, robot.joint_names), []
    for step in range(episode.steps + 1):
        row = slice(step, step + 1)
        rows.append(runtime.observe(
            Measurement(*(episode.channels[name][row] for name in Measurement._fields)),
            episode.channels["time_s"][row],
        ))  # fmt: skip
        if step < episode.steps:
            runtime.act(episode.action_executed[row], episode.channels["time_s"][row])
    np.testing.assert_array_equal(task.observations(episode), np.concatenate(rows))


def _stepped(task: TrackingTask, seeds: list[int], steps: int = 12) -> list[dict]:
    """Channels under actions that depend on nothing."""
    task.start(np.arange(task.num_envs), np.array(seeds))
    found = [task.channels()]
    for step in range(steps):
        task.observe()
        task.step(np.full((task.num_envs, len(task.action_names)), 0.1 * np.sin(step)))
        found.append(task.channels())
    return found


@pytest.mark.parametrize("robot", ["g1", "g1@worn"])
def test_one_seed_is_one_episode_wherever_the_robot_stands(robot):
    task = task_of(robot=cached_robot(robot))
    one, other = _stepped(task, [5, 6]), _stepped(task, [7, 5])
    again = _stepped(task_of(robot=cached_robot(robot)), [5, 6])
    for a, b, c in zip(one, other, again, strict=True):
        for name in a:
            np.testing.assert_array_equal(a[name][0], b[name][1])
            np.testing.assert_array_equal(a[name], c[name])
    assert np.abs(one[0]["joint_pos"][0] - one[0]["joint_pos"][1]).max() > 1e-3
    assert np.abs(one[0]["joint_pos"][0] - task.simulation.joint_pos[0]).max() > 1e-3


def test_one_robot_that_begins_disturbs_no_other():
    alone, task = task_of(WAVE), task_of(WAVE)
    action = np.full((2, 29), 0.05)
    for one in (alone, task):
        one.start(np.arange(2), np.array([1, 2]))
        for _ in range(5):
            one.observe()
            one.step(action)
        one.observe()
    task.start(np.array([1]), np.array([3]))
    for _ in range(5):
        np.testing.assert_array_equal(alone.observe()[0], task.observe()[0])
        alone.step(action)
        task.step(action)
    np.testing.assert_array_equal(alone.channels()["joint_pos"][0], task.channels()["joint_pos"][0])
    assert task.channels()["time_s"].tolist() == pytest.approx([0.2, 0.1])


def test_rewards_are_those_of_the_environment_that_trains():
    quiet = dataclasses.replace(FINETUNE.env, noise_scale=0.0)
    task = task_of(config=quiet)
    task.start(np.arange(2), np.array([1, 2]))
    robot, sim = task.robot, task.simulation
    qpos = robot.qpos(sim.base_pos_w, sim.base_quat_wxyz, sim.joint_pos)
    qvel = np.zeros((2, robot.model.nv))
    qvel[:, :3], qvel[:, 3:6] = sim.base_lin_vel_w, sim.base_ang_vel_b
    qvel[:, robot.qvel_ids] = sim.joint_vel
    env = TrackingEnv(robot, clip_of(SQUAT).motion, quiet, 2, np.random.default_rng(0), threads=1,
                      contract=policy_of(SQUAT).contract)  # fmt: skip
    env.starts.draw = lambda env_ids: Start(np.zeros(2, dtype=int), qpos, qvel)
    env.reset()
    for _ in range(10):
        action = policy_of(SQUAT).act(task.observe())
        step, there = task.step(action), env.step(action)
        np.testing.assert_allclose(task.reward(step.reward_terms), there.reward, atol=1e-5)
    assert task.reward(step.reward_terms).min() > 0.3


def test_a_robot_that_falls_fails_for_good():
    task = task_of(WAVE)
    rng = np.random.default_rng(0)
    act = lambda observation: 20.0 * rng.normal(size=(2, 29))  # noqa: E731
    for episode in collect(task, act, 2, rng):
        assert episode.steps < task.steps and not episode.success
        assert episode.terminated[-1] and not episode.truncated.any()
        assert episode.reward_terms["failed"].tolist() == [0.0] * (episode.steps - 1) + [1.0]
    for _ in range(task.steps):
        step = task.step(np.zeros((2, 29)))
    assert step.terminated.all() and not step.success.any()
    assert np.isfinite(task.observe()).all()


def test_what_makes_an_episode_depend_on_more_than_its_seed_is_refused():
    with pytest.raises(InputError, match="depend on their seed alone"):
        task_of(config=EnvConfig())
    with pytest.raises(InputError, match="give the clip that it was made for"):
        TrackingTask(cached_robot("g1"), policy_of(SQUAT), clip_of(WAVE), 1, threads=1)


def test_a_corrected_robot_says_so():
    robot = cached_robot("g1")
    correction = Correction(robot_name="g1", joint_names=robot.joint_names,
                            parameters={"friction": (0.7,)})  # fmt: skip
    task = task_of(robot=correction.robot(robot), environment=corrected(correction))
    assert task.environment.startswith("corrected:") and task.name == "g1 squat"
    assert corrected(dataclasses.replace(correction, parameters={"friction": (0.8,)})) != (
        task.environment
    )


def test_a_tuned_file_is_accepted_and_says_where_it_comes_from(tmp_path):
    start = policy_of(SQUAT)
    first = tuned(with_residual(actor_of(start), mlp_layers(start, 8), bound=0.01), start)
    model = with_residual(actor_of(first), mlp_layers(start, 8), bound=0.01)
    second = tuned(model, first, recipe="ire", epochs="3")
    path = tmp_path / "policy.onnx"
    path.write_bytes(second.data)
    found = load_policy(path)
    said = found.contract.provenance
    assert said["recipe"] == "ire" and said["recipes"] == "test > ire" and said["epochs"] == "3"
    assert said["tuned_from_sha256"] == first.sha256 and said["noise"] == NOISY["noise"]
    assert said["mujoco"] == start.contract.provenance["mujoco"]
    bare = dataclasses.replace(found.contract, provenance=start.contract.provenance)
    assert bare == start.contract
    for name in ("joint_pos", "joint_vel", "base_quat_wxyz"):
        np.testing.assert_array_equal(getattr(found.clip, name), getattr(start.clip, name))
    with pytest.raises(InputError, match="not understood"):
        read_actor(found)  # more than a perceptron: it is trained on through GraphNet
    case = Case(found, clip_of(SQUAT).motion, SQUAT)
    result = evaluate([case], cached_robot("g1"), EvaluateConfig(episodes=2, threads=1))
    assert result.overall["success_rate"].value == 1.0


def test_a_tuned_graph_with_other_ends_than_its_start_is_refused():
    policy = policy_of(WAVE)
    model = actor_of(policy)
    model.graph.input[0].name = model.graph.node[0].input[0] = "observation"
    with pytest.raises(InputError, match="leads from observation to actions, that of its start"):
        tuned(model, policy)
