"""Training on from a policy file: the same actor to the last digits, the critic goes first."""

from __future__ import annotations

import dataclasses
import json
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from gymnasium import spaces
from onnx import TensorProto, helper, numpy_helper

from asap import cli_progress, onnx_file, warm_start
from asap.cli import main
from asap.env import EnvConfig, TrackingEnv
from asap.evaluate import Case, EvaluateConfig, evaluate
from asap.imitate import ImitateConfig
from asap.inputs import OpenedMotion, open_motion, open_policy
from asap.policy import ACTIVATIONS, AsymmetricPolicy, RunningNorm
from asap.ppo import PpoConfig, TrackerPPO
from asap.published import EXPECTED, ROBOT, case_of_published
from asap.robot import Robot
from asap.starts import StartConfig
from asap.train import POLICY, Trainer
from asap.training_run import CONFIG, TrainConfig
from asap.vecenv import TrackingVecEnv
from asap.warm_start import ActorWeights, actor_widths, load_actor, read_actor
from asap_deploy.contract import METADATA_KEY, PolicyContract
from asap_deploy.errors import InputError
from asap_deploy.golden import load_policy
from asap_deploy.policy import Policy
from tests.policies import robot as cached_robot
from tests.policies import toy_contract, toy_motion, toy_policy

SHIPPED = Path(__file__).resolve().parents[1] / "policies" / "g1"
QUIET = EnvConfig(noise_scale=0.0, push_speed=0.0, start=StartConfig(noise=(0, 0), at_first=1.0))
SMALL = PpoConfig(horizon=6, minibatches=2, epochs=2, critic=(32, 16), critic_warmup=2,
                  torch_threads=1)  # fmt: skip


@pytest.fixture(scope="module")
def squat() -> Policy:
    return load_policy(SHIPPED / "squat.onnx")


@pytest.fixture(scope="module")
def clip() -> OpenedMotion:
    return open_motion(Path("squat"), cached_robot("g1"), ground=True)


def _torch_actor(weights: ActorWeights) -> AsymmetricPolicy:
    """A network of these widths with random weights."""
    groups = {"actor": len(weights.mean), "critic": 5}
    space = spaces.Dict({g: spaces.Box(-np.inf, np.inf, (n,)) for g, n in groups.items()})
    actions = spaces.Box(-1.0, 1.0, (len(weights.layers[-1][1]),))
    return AsymmetricPolicy(
        space, actions, lambda progress: 1e-3,
        net_arch={"pi": list(actor_widths(weights)), "vf": [8]},
        activation_fn=ACTIVATIONS[weights.activation],
    )  # fmt: skip


@torch.no_grad()
def _acted(tracker: AsymmetricPolicy, observation: np.ndarray) -> np.ndarray:
    hidden = tracker.towers.forward_actor({"actor": torch.as_tensor(observation)})
    return tracker.action_net(hidden).numpy()


def _loaded(policy: Policy) -> AsymmetricPolicy:
    weights = read_actor(policy)
    tracker = _torch_actor(weights)
    load_actor(tracker, weights)
    return tracker


def _by_the_file(policy: Policy, observation: np.ndarray) -> np.ndarray:
    return np.concatenate([policy.act(row[None]) for row in observation])


def _random(weights: ActorWeights, count: int = 1000, largest: float = 100.0) -> np.ndarray:
    rng = np.random.default_rng(7)
    size = np.geomspace(0.1, largest, count)[:, None]
    values = weights.mean + weights.std * size * rng.normal(size=(count, len(weights.mean)))
    return np.clip(values, -100.0, 100.0).astype(np.float32)


def _assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    """To 1e-5, of the largest action where that is above 1: float32 has no more digits."""
    scale = np.maximum(1.0, np.abs(expected).max(axis=1, keepdims=True))
    np.testing.assert_allclose(found / scale, expected / scale, rtol=0.0, atol=1e-5)


@pytest.mark.parametrize("name, widths", [("squat", (256, 256, 128)), ("wave", ())])
def test_the_torch_actor_is_the_network_in_the_file(name: str, widths: tuple[int, ...]) -> None:
    policy = load_policy(SHIPPED / f"{name}.onnx")
    weights = read_actor(policy)
    assert actor_widths(weights) == widths
    assert (weights.limit, (weights.std == 1.0).all()) == (
        (10.0, False) if widths else (None, True)
    )
    observation = _random(weights)
    _assert_same(_acted(_loaded(policy), observation), policy.act(observation))


def _policy(model: onnx.ModelProto) -> Policy:
    metadata = {METADATA_KEY: toy_contract().to_json()}
    return Policy.from_bytes(onnx_file.with_metadata(model, metadata))


class _Graph:
    """A graph node by node, as other exporters write it."""

    def __init__(self) -> None:
        contract = toy_contract()
        self.width, self.actions = len(contract.element_names), len(contract.action_joint_names)
        self.nodes, self.weights = [], []
        self.rng = np.random.default_rng(3)

    def constant(self, values: object) -> str:
        array = np.asarray(values, np.float32)
        self.weights.append(numpy_helper.from_array(array, f"w{len(self.weights)}"))
        return self.weights[-1].name

    def random(self, *shape: int, low: float = -0.2) -> str:
        return self.constant(self.rng.uniform(low, 0.2, shape))

    def add(self, operator: str, *inputs: str, **attributes: object) -> str:
        result = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [result], **attributes))
        return result

    def gemm(self, value: str, width: int, outputs: int) -> str:
        weight, bias = self.random(outputs, width), self.random(outputs)
        return self.add("Gemm", value, weight, bias, transB=1)

    def hidden(self, **attributes: object) -> str:
        return self.add("Elu", self.gemm(onnx_file.INPUT, self.width, 8), **attributes)

    def policy(self, value: str) -> Policy:
        self.nodes[-1].output[0] = onnx_file.OUTPUT
        assert value == f"v{len(self.nodes) - 1}"
        shapes = (onnx_file.INPUT, self.width), (onnx_file.OUTPUT, self.actions)
        ends = [
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", width])]
            for name, width in shapes
        ]
        graph = helper.make_graph(self.nodes, "policy", *ends, self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        onnx.checker.check_model(model)
        return _policy(model)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_our_own_exporter_is_understood_with_every_activation(activation: str) -> None:
    rng, contract = np.random.default_rng(0), toy_contract()
    width, actions = len(contract.element_names), len(contract.action_joint_names)
    layers = [(rng.normal(0, 0.1, (24, width)), rng.normal(0, 0.1, 24)),
              (rng.normal(0, 0.1, (actions, 24)), rng.normal(0, 0.1, actions))]  # fmt: skip
    mean, std = rng.normal(0.0, 1.0, width), np.geomspace(1e-4, 3.0, width)
    model = onnx_file.network(layers, activation=activation, mean=mean, std=std, limit=7.0)
    policy = _policy(model)
    weights = read_actor(policy)
    assert (weights.activation, weights.limit) == (activation, 7.0)
    # Bit for bit: also deviations below the smallest that training itself would use.
    np.testing.assert_array_equal(weights.std, std.astype(np.float32))
    np.testing.assert_array_equal(weights.layers[0][0], layers[0][0].astype(np.float32))
    observation = _random(weights)
    _assert_same(_acted(_loaded(policy), observation), policy.act(observation))


def test_matrix_products_scalars_and_constants_are_understood() -> None:
    graph = _Graph()
    value = graph.add("Clip", onnx_file.INPUT, graph.constant(-100.0), graph.constant(100.0))
    mean = graph.add("Identity", graph.random(1, graph.width))  # a constant behind a node
    value = graph.add("Sub", value, mean)
    value = graph.add("Mul", value, graph.random(1, graph.width, low=0.1))
    value = graph.add("Add", value, graph.constant(0.3))
    value = graph.add("MatMul", value, graph.random(graph.width, 16))
    value = graph.add("Add", graph.random(16), value)  # as torch writes a bias
    value = graph.add("Tanh", value)
    value = graph.add("Identity", value)
    weight, bias = graph.random(16, graph.actions), graph.random(1, graph.actions)
    value = graph.add("Gemm", value, weight, bias, alpha=0.5, beta=2.0)
    value = graph.add("Div", value, graph.constant(0.25))
    value = graph.add("Clip", value, graph.constant(-100.0), graph.constant(100.0))
    policy = graph.policy(value)
    weights = read_actor(policy)
    assert weights.limit is None
    observation = _random(weights)
    assert np.abs(policy.act(observation)).max() < 100.0
    _assert_same(_acted(_loaded(policy), observation), policy.act(observation))


OBS = onnx_file.INPUT
NO_PERCEPTRON = {
    "'Add' that gives 'v3' is not understood: it takes more than the layer before it": lambda g: (
        g.gemm(g.add("Add", g.gemm(g.hidden(), 8, 8), "v1"), 8, g.actions)
    ),
    "'Sub' that gives 'v0' is not understood: it takes more than the layer before it": lambda g: (
        g.gemm(g.add("Sub", g.constant(1.0), OBS), g.width, g.actions)
    ),
    "'Relu' that gives 'v3' is not understood: .* not that of the layers before": lambda g: g.gemm(
        g.add("Relu", g.gemm(g.hidden(), 8, 8)), 8, g.actions
    ),
    "'Elu' that gives 'v1' is not understood: it has an alpha": lambda g: g.gemm(
        g.hidden(alpha=0.5), 8, g.actions
    ),
    "graph ends with hidden values, not with a linear layer": lambda g: g.add(
        "Tanh", g.gemm(OBS, g.width, g.actions)
    ),
    "'Gemm' that gives 'actions' is not understood: it follows linear values": lambda g: g.gemm(
        g.gemm(OBS, g.width, 8), 8, g.actions
    ),
    "'Clip' that gives 'v0' is not understood: it clips input values to -1 and 2": lambda g: g.gemm(
        g.add("Clip", OBS, g.constant(-1.0), g.constant(2.0)), g.width, g.actions
    ),
    "'Clip' that gives 'actions' is not understood: it clips linear values to -1": lambda g: g.add(
        "Clip", g.gemm(OBS, g.width, g.actions), g.constant(-1.0), g.constant(1.0)
    ),
    "'Div' that gives 'v0' is not understood: it scales by numbers that are not": lambda g: g.gemm(
        g.add("Div", OBS, g.constant(-1.0)), g.width, g.actions
    ),
    "'MatMul' that gives 'v0' is not understood: its weight is no matrix": lambda g: g.add(
        "Add", g.add("MatMul", OBS, g.random(g.width)), g.random(1, g.actions)
    ),
    "'Add' that gives 'v2' is not understood: it follows hidden values": lambda g: g.gemm(
        g.add("Add", g.hidden(), g.constant(1.0)), 8, g.actions
    ),
}


@pytest.mark.parametrize("message", NO_PERCEPTRON)
def test_a_graph_that_is_no_plain_perceptron_is_refused_by_its_node(message: str) -> None:
    graph = _Graph()
    with pytest.raises(InputError, match=message):
        read_actor(graph.policy(NO_PERCEPTRON[message](graph)))


def test_recurrent_networks_and_convolutions_are_refused_when_a_file_is_read() -> None:
    for operator in ("LSTM", "GRU", "Conv"):
        graph = _Graph()
        model = onnx_file.network(
            [(np.zeros((graph.actions, graph.width)), np.zeros(graph.actions))]
        )
        model.graph.node[0].op_type = operator
        with pytest.raises(InputError, match=f"ONNX operator '{operator}' is not supported"):
            _policy(model)


def test_weights_that_do_not_give_the_graph_s_actions_are_refused(squat: Policy) -> None:
    weights = read_actor(squat)
    wrong = weights._replace(limit=None), weights._replace(activation="Relu")
    for altered in (*wrong, weights._replace(mean=weights.mean + 1e-3)):
        with pytest.raises(
            InputError, match="4 layers read from the ONNX graph give other actions"
        ):
            warm_start.check_same(squat, altered)


def test_a_frozen_normaliser_stands_still_and_does_not_clip_what_the_file_does_not() -> None:
    norm, seen = RunningNorm(3), torch.tensor([[100.0, -100.0, 0.003]])
    norm.freeze(torch.zeros(3), torch.ones(3), None)
    norm.update(torch.randn(1000, 3) * 50.0)
    assert torch.equal(norm(seen), seen)
    norm.freeze(torch.zeros(3), torch.tensor([1.0, 1.0, 1e-4]), 20.0)
    assert torch.equal(norm(seen), torch.tensor([[20.0, -20.0, 20.0]]))
    running = RunningNorm(3)
    running.update(torch.randn(1000, 3) * 50.0)
    assert not torch.equal(running(seen), seen)


def _says(policy: Policy, contract: PolicyContract) -> Policy:
    """The same network with another contract."""
    other = Policy.__new__(Policy)
    other.__dict__ = {**policy.__dict__, "contract": contract}
    return other


def test_a_policy_that_cannot_be_trained_on_here_is_refused() -> None:
    robot = cached_robot()
    with pytest.raises(InputError, match="policy of layout 'asap-loco' tracks no clip"):
        warm_start.robot_for(toy_policy("asap-loco"), robot)
    message = r"commands 23 joints, robot 'g1' 29; they differ in .*: choose another --robot"
    with pytest.raises(InputError, match=message):
        warm_start.robot_for(toy_policy(), cached_robot("g1"))
    fewer = robot.joint_names[:-1]
    contract = dataclasses.replace(toy_contract(), joint_names=(*fewer, "tail_joint"))
    with pytest.raises(InputError, match="moves 29 joints, .* differ in .*tail_joint"):
        warm_start.robot_for(_says(toy_policy(), contract), robot)
    with pytest.raises(InputError, match="policy runs at 50 Hz, robot 'g1:asap' at 25 Hz"):
        warm_start.robot_for(toy_policy(), robot.with_(control_dt=0.04))


def test_training_keeps_everything_that_gives_the_weights_their_meaning(
    squat: Policy, clip: OpenedMotion, tmp_path: Path
) -> None:
    softer = dataclasses.replace(
        squat.contract,
        stiffness=tuple(0.9 * k for k in squat.contract.stiffness),
        action_scale=tuple(0.5 * k for k in squat.contract.action_scale),
        provenance={"warning": "keep me"},
    )
    policy = _says(squat, softer)
    env = _trainer(tmp_path, policy, clip._replace(name="another name")).env
    np.testing.assert_allclose(env.robot.stiffness, 0.9 * cached_robot("g1").stiffness)
    assert env.robot.integrator == env.contract.provenance["integrator"] == "discrete"
    assert env.contract.clip == dataclasses.replace(softer.clip, name="another name")
    assert env.contract.provenance["warning"] == "keep me"
    assert env.contract.provenance["started_from"] == warm_start.fingerprint(policy)
    for field in dataclasses.fields(softer):
        if field.name not in ("clip", "provenance"):
            assert getattr(env.contract, field.name) == getattr(softer, field.name), field.name
    assert warm_start.fingerprint(squat) != warm_start.fingerprint(policy)


def _rollout(policy: Policy, robot: Robot, clip: OpenedMotion, steps: int) -> float:
    """Mean distance [mm] of robots that the torch actor drives, none of which failed."""
    robot = warm_start.robot_for(policy, robot)
    contract = warm_start.contract_on(policy, robot, clip.motion, clip.name)
    env = TrackingEnv(
        robot, clip.motion, dataclasses.replace(QUIET, layout=contract.layout), 2,
        np.random.default_rng(0), contract=contract,
    )  # fmt: skip
    tracker, observation, distances = _loaded(policy), env.reset()["actor"], []
    for _ in range(steps):
        action = _acted(tracker, observation)
        expected = _by_the_file(policy, observation)
        np.testing.assert_allclose(action, expected, rtol=0.0, atol=2e-5)
        step = env.step(action)
        assert step.facts["failed"] == 0.0
        distances.append(step.facts["distance_mm"])
        observation = step.observation["actor"]
    return float(np.mean(distances))


@pytest.mark.parametrize("name", EXPECTED)
def test_the_authors_policies_are_reproduced(name: str, shared_data: Path) -> None:
    policy = case_of_published(shared_data / "asap", name, cached_robot(), ground=True).policy
    weights = read_actor(policy)
    assert actor_widths(weights) == (512, 256, 128)
    assert (weights.activation, weights.limit) == ("Elu", None)
    observation = _random(weights)
    _assert_same(_acted(_loaded(policy), observation), _by_the_file(policy, observation))


def test_the_authors_policies_stay_up_in_the_training_environment(shared_data: Path) -> None:
    for name in ("CR7_level1", "jump_forward_level3"):
        case = case_of_published(shared_data / "asap", name, cached_robot(ROBOT), ground=True)
        clip = OpenedMotion(case.motion, name, Path(name))
        assert _rollout(case.policy, cached_robot(ROBOT), clip, 60) < 120.0


def test_a_policy_with_another_joint_order_and_its_own_gains_stays_up(shared_data: Path) -> None:
    folder = shared_data / "real_logs" / "g1_closed_loop" / "policies"
    opened = open_policy(next(folder.glob("*.onnx")), cached_robot("g1"), None, None)
    assert opened.policy.contract.action_joint_names != cached_robot("g1").action_joint_names
    clip = OpenedMotion(opened.motion, opened.name, Path("sway"))
    assert _rollout(opened.policy, cached_robot("g1"), clip, 60) < 120.0


def _trainer(
    folder: Path, policy: Policy | None, clip: OpenedMotion, robot: str = "g1", **options
) -> Trainer:
    config = TrainConfig(steps=10_000, num_envs=16, ppo=SMALL, save_every=1, evaluate_every=10_000,
                         episodes=4, imitate=ImitateConfig(iterations=0))  # fmt: skip
    return Trainer(cached_robot(robot), clip, config, folder, init=policy, **options)


def _iterate(trainer: Trainer, iterations: int) -> Trainer:
    done = iter(range(1, 1000))
    trainer.run(stopped=lambda: next(done) >= iterations)
    return trainer


def _parts(trainer: Trainer) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Actor with its spread and normaliser, and critic with its own."""
    state = {name: value.clone() for name, value in trainer.ppo.policy.state_dict().items()}
    critic = {name for name in state if "value_net" in name or "critic" in name}
    return (
        {name: value for name, value in state.items() if name not in critic},
        {name: value for name, value in state.items() if name in critic},
    )


def _same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(left[name], right[name]) for name in left)


def test_a_run_that_starts_from_a_policy_has_it_as_its_first_result(
    squat: Policy, clip: OpenedMotion, tmp_path: Path
) -> None:
    trainer = _trainer(tmp_path, squat, clip)
    said = json.loads((tmp_path / CONFIG).read_text())["train"]
    assert said["env"]["layout"] == squat.contract.layout == "proprioception"
    assert said["env"]["offset_mode"] == squat.contract.offset_mode
    assert (said["ppo"]["actor"], said["ppo"]["activation"]) == ([256, 256, 128], "Elu")
    assert torch.equal(trainer.ppo.tracker.log_std, torch.full((29,), SMALL.log_std))
    _iterate(trainer, 1)
    kept = load_policy(tmp_path / POLICY)
    observation = _random(read_actor(squat))
    np.testing.assert_allclose(kept.act(observation), squat.act(observation), atol=1e-6)
    assert kept.contract.provenance["training_steps"] == "0"
    case = Case(kept, clip.motion, clip.name)
    overall = evaluate([case], cached_robot("g1"), EvaluateConfig(episodes=1)).overall
    assert overall["success_rate"].value == 1.0


def test_the_activation_of_the_file_is_trained_and_exported(tmp_path: Path) -> None:
    graph = _Graph()
    policy = graph.policy(graph.gemm(graph.add("Relu", graph.gemm(OBS, graph.width, 8)), 8, 23))
    toy = OpenedMotion(toy_motion(), "toy", Path("toy"))
    trainer = _trainer(tmp_path, policy, toy, ROBOT)
    env = trainer.config.env
    assert (env.layout, env.offset_mode) == ("asap", "default")
    layers = [type(module) for module in trainer.ppo.tracker.towers.policy_net]
    assert layers == [torch.nn.Linear, torch.nn.ReLU]
    exported = read_actor(Policy.from_bytes(trainer.export()))
    assert exported.activation == "Relu"
    np.testing.assert_array_equal(exported.layers[0][0], read_actor(policy).layers[0][0])


def test_the_critic_learns_alone_until_the_warm_up_is_over(
    squat: Policy, clip: OpenedMotion, tmp_path: Path
) -> None:
    trainer = _trainer(tmp_path, squat, clip)
    ppo, config = trainer.ppo, trainer.config.ppo
    actor, critic = _parts(trainer)
    for _ in range(2):
        facts = ppo.iterate()
        assert facts["kl"] == pytest.approx(0.0, abs=1e-6)
        assert ppo.policy.optimizer.param_groups[0]["lr"] == config.learning_rate
        assert ppo.adaptive_rate == config.first_rate
        now = _parts(trainer)
        assert _same(actor, now[0])
        assert not any(torch.equal(critic[name], now[1][name]) for name in critic
                       if name.endswith("weight"))  # fmt: skip
        critic = now[1]
    facts = ppo.iterate()
    assert 0.0 < facts["kl"] < config.target_kl
    assert ppo.adaptive_rate != config.first_rate
    now = _parts(trainer)[0]
    moved = {name for name in actor if not torch.equal(actor[name], now[name])}
    assert moved == {name for name in actor if "norm" not in name}


def test_a_random_actor_and_its_normaliser_wait_for_the_critic_as_well(
    clip: OpenedMotion, tmp_path: Path
) -> None:
    trainer = _trainer(tmp_path, None, clip)
    actor, _ = _parts(trainer)
    trainer.ppo.iterate()
    assert _same(actor, _parts(trainer)[0])
    trainer.ppo.iterate(), trainer.ppo.iterate()
    assert not any(torch.equal(actor[name], now) for name, now in _parts(trainer)[0].items())


def test_forty_iterations_are_the_default_after_a_start_and_none_without(
    squat: Policy, clip: OpenedMotion
) -> None:
    robot = warm_start.robot_for(squat, cached_robot("g1"))
    env = TrackingEnv(robot, clip.motion, EnvConfig(layout="proprioception"), 4,
                      np.random.default_rng(0))  # fmt: skip
    weights = read_actor(squat)
    cases = (None, None, 0), (weights, None, 40), (weights, 0, 0), (None, 3, 3)
    for init, given, expected in cases:
        config = dataclasses.replace(SMALL, critic_warmup=given, actor=actor_widths(weights))
        assert TrackerPPO(TrackingVecEnv(env), config, 0, init=init).warmup == expected


def test_a_run_killed_while_the_critic_learns_alone_continues_to_the_bit(
    squat: Policy, clip: OpenedMotion, tmp_path: Path
) -> None:
    straight = _iterate(_trainer(tmp_path / "straight", squat, clip), 4)
    _iterate(_trainer(tmp_path / "killed", squat, clip), 1)
    with pytest.raises(InputError, match="robot, motion or options differ"):
        _trainer(tmp_path / "killed", None, clip, resume=True)
    resumed = _iterate(_trainer(tmp_path / "killed", squat, clip, resume=True), 3)
    assert resumed.ppo.iteration == straight.ppo.iteration == 4
    assert resumed.ppo.adaptive_rate == straight.ppo.adaptive_rate
    for left, right in zip(_parts(straight), _parts(resumed), strict=True):
        assert _same(left, right)


def test_the_command_starts_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_progress, "stop_requests", lambda *asked: nullcontext(lambda: True))
    target, run = tmp_path / "result.json", tmp_path / "run"
    arguments = ["pretrain", "--motion", "wave", "--init", str(SHIPPED / "wave.onnx"), "--quiet",
                 "--out", str(run), "--json", str(target)]  # fmt: skip
    small = ["--train.num-envs", "16", "--train.ppo.horizon", "6", "--train.ppo.minibatches", "2",
             "--train.episodes", "2", "--train.ppo.torch-threads", "1"]  # fmt: skip
    assert main([*arguments, *small]) == 130  # stopped after one iteration
    assert "wave.onnx" in target.read_text()
    said = json.loads((run / CONFIG).read_text())
    assert said["init"] == warm_start.fingerprint(load_policy(SHIPPED / "wave.onnx"))
    assert said["train"]["ppo"]["actor"] == []
    assert said["train"]["env"]["offset_mode"] == load_policy(run / POLICY).contract.offset_mode
