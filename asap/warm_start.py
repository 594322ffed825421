"""Training on from a policy file: its actor as torch weights, to the last digits, and its contract.

Any accepted file whose network is a plain multilayer perceptron will do, the authors' too. What the
graph says is read node by node, never guessed, and compared with the graph itself.

    weights = read_actor(policy)
    config = PpoConfig(actor=actor_widths(weights), activation=weights.activation)
    load_actor(ppo.tracker, weights)
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from asap.evaluate import with_gains
from asap.export import make_contract
from asap.onnx_file import INPUT, OUTPUT, Layer
from asap.policy import ACTIVATIONS, Activation, AsymmetricPolicy
from asap.robot import Robot
from asap_deploy.contract import PolicyContract
from asap_deploy.errors import InputError
from asap_deploy.motion import Motion
from asap_deploy.observation import LAYOUTS, OBSERVATION_LIMIT
from asap_deploy.onnx_graph import Node, OnnxGraph
from asap_deploy.onnx_ops import OPERATORS
from asap_deploy.policy import Policy

Constants = list[np.ndarray | None]
"""What a node takes beside the value; None where an input is left out."""

WARMUP = 40
"""Iterations until the critic of a policy that already tracks has settled: it explains
0.86 of the variance of returns by then, at a learning rate of 3e-4 (0.27 after 4)."""

TOLERANCE = 1e-5
"""Of actions, relative to the largest of an observation where that is above 1."""


class ActorWeights(NamedTuple):
    """An actor as plain float32 arrays.

    y = W_n act( ... act(W_1 clip((x - mean) / std) + b_1) ... ) + b_n
    """

    layers: list[Layer]
    """Weight (outputs, inputs) and bias (outputs,)"""
    mean: np.ndarray
    """(D,) zero where the file does not normalise"""
    std: np.ndarray
    """(D,) one where the file does not normalise"""
    limit: float | None
    """Normalised inputs are clipped to +- this; None: not at all"""
    activation: Activation
    """ONNX operator between the layers"""

    def act(self, observation: np.ndarray) -> np.ndarray:
        """Actions (N, A) for observations (N, D), in float64."""
        value: np.ndarray = (np.asarray(observation, np.float64) - self.mean) / self.std
        if self.limit is not None:
            value = np.clip(value, -self.limit, self.limit)
        for depth, (weight, bias) in enumerate(self.layers):
            value = value if depth == 0 else OPERATORS[self.activation]([value], {})
            value = value @ weight.T.astype(np.float64) + bias
        return value


def read_actor(policy: Policy) -> ActorWeights:
    """The actor of a policy file.

    Args:
        policy: Of ours, or foreign and adopted.

    Raises:
        InputError: If its graph is more than a multilayer perceptron; names the node.
    """
    contract = policy.contract
    weights = _read(policy.graph, len(contract.element_names),
                    (contract.input_name, contract.output_name), contract.action_limit)  # fmt: skip
    check_same(policy, weights)
    return weights


def read_network(data: bytes, width: int) -> ActorWeights:
    """The layers of a network that ``onnx_file.network`` wrote.

    Args:
        data: The file.
        width: Of its input.

    Raises:
        InputError: If it is more than a multilayer perceptron.
    """
    return _read(OnnxGraph.parse(data), width, (INPUT, OUTPUT), np.inf)


def _read(graph: OnnxGraph, width: int, ends: tuple[str, str], action_limit: float) -> ActorWeights:
    """The layers between an input and an output."""
    known: dict[str, np.ndarray] = dict(graph.weights)
    reader, (value, result) = _Reader(width, action_limit), ends
    for node in _needed(graph.nodes, result):
        if all(name in known for name in node.inputs if name):
            given = [known[name] if name else None for name in node.inputs]
            known[node.outputs[0]] = OPERATORS[node.operator](given, node.attributes)
            continue
        first, *others = node.inputs
        if node.operator in ("Add", "Mul") and others == [value]:
            first, others = value, [first]
        if first != value or any(name and name not in known for name in others):
            raise _not_understood(node, "it takes more than the layer before it and constants")
        reader.read(node, [known.get(name) for name in others])
        value = node.outputs[0]
    return reader.weights()


def check_same(policy: Policy, weights: ActorWeights) -> None:
    """Compare with the graph itself, on observations from tiny to as large as they can be.

    Raises:
        InputError: If the actions differ.
    """
    rng = np.random.default_rng(0)
    size = np.geomspace(0.1, OBSERVATION_LIMIT, 64)[:, None]
    observation = weights.mean + size * rng.normal(0.0, weights.std, (64, len(weights.mean)))
    observation = np.clip(observation, -OBSERVATION_LIMIT, OBSERVATION_LIMIT).astype(np.float32)
    with np.errstate(all="ignore"):  # what is not finite is off
        rows = [policy.act_numpy(row[None]) for row in observation]  # a file may take one row alone
        expected = np.concatenate(rows)
        scale = np.maximum(1.0, np.abs(expected).max(axis=1, keepdims=True))
        off = float((np.abs(weights.act(observation) - expected) / scale).max())
    if not off <= TOLERANCE:
        raise InputError(
            f"the {len(weights.layers)} layers read from the ONNX graph give other actions than "
            f"the graph, by {off:.2g}; it cannot be trained on"
        )


def actor_widths(weights: ActorWeights) -> tuple[int, ...]:
    """Hidden layers that an actor with these weights has, for ``PpoConfig.actor``."""
    return tuple(len(bias) for _, bias in weights.layers[:-1])


@torch.no_grad()
def load_actor(tracker: AsymmetricPolicy, weights: ActorWeights) -> None:
    """Copy weights into an actor of the same widths; its normaliser stands still from now on."""
    modules = [*tracker.towers.policy_net, tracker.action_net]
    linear = [module for module in modules if isinstance(module, nn.Linear)]
    shapes = [tuple(module.weight.shape) for module in linear]
    wanted = [weight.shape for weight, _ in weights.layers]
    assert shapes == wanted, f"actor has layers {shapes}, the file has {wanted}"
    for module, (weight, bias) in zip(linear, weights.layers, strict=True):
        module.weight.copy_(torch.from_numpy(weight))
        module.bias.copy_(torch.from_numpy(bias))
    mean, std = torch.from_numpy(weights.mean), torch.from_numpy(weights.std)
    tracker.towers.actor_norm.freeze(mean, std, weights.limit)


@contextmanager
def critic_alone(tracker: AsymmetricPolicy) -> Iterator[None]:
    """Within it, no update moves the actor or the spread of its actions."""
    towers = tracker.towers
    parts = [*towers.policy_net.parameters(), *tracker.action_net.parameters(), tracker.log_std]
    # Without a gradient Adam leaves a weight, and what it remembers of it, as they are.
    for part in parts:
        part.requires_grad_(False)
    try:
        yield
    finally:
        for part in parts:
            part.requires_grad_(True)


def robot_for(policy: Policy, robot: Robot) -> Robot:
    """The robot under the gains that a policy sends, for training it on.

    Raises:
        InputError: If the policy tracks no clip, or robot and policy differ in joints or rate.
    """
    contract = policy.contract
    if LAYOUTS[contract.layout].needs_command or contract.clip is None:
        raise InputError(
            f"policy of layout '{contract.layout}' tracks no clip; training starts from policies "
            "that track one"
        )
    for what, theirs, ours in (
        ("moves", contract.joint_names, robot.joint_names),
        ("commands", contract.action_joint_names, robot.action_joint_names),
    ):
        differ = sorted(set(theirs) ^ set(ours))
        if differ:
            raise InputError(
                f"policy of robot '{contract.robot}' {what} {len(theirs)} joints, robot "
                f"'{robot.name}' {len(ours)}; they differ in {', '.join(differ[:2])}"
                f"{f', ... ({len(differ)})' if len(differ) > 2 else ''}: choose another --robot"
            )
    if abs(contract.control_dt - robot.control_dt) > 1e-9:
        raise InputError(
            f"policy runs at {1 / contract.control_dt:g} Hz, robot '{robot.name}' at "
            f"{1 / robot.control_dt:g} Hz"
        )
    return with_gains(robot, contract)


def contract_on(policy: Policy, robot: Robot, motion: Motion, motion_name: str) -> PolicyContract:
    """The file's contract for the policy that training makes of it.

    Joint order, gains, default pose, scale, layout and offset stay: the weights mean nothing
    without them. Clip and physics are those of the training.

    Args:
        policy: That training starts from.
        robot: As simulated in training.
        motion: The clip that is tracked.
        motion_name: What to call it.
    """
    old = policy.contract
    assert old.clip is not None, "robot_for refuses policies without a clip"
    new = make_contract(
        robot,
        LAYOUTS[old.layout],
        motion,
        motion_name=motion_name,
        phase_lead_s=old.clip.phase_lead_s,
    )
    origin = {"started_from": fingerprint(policy)}
    return dataclasses.replace(
        old,
        clip=new.clip,
        input_name=new.input_name,
        output_name=new.output_name,
        provenance={**old.provenance, **new.provenance, **origin},
    )


def fingerprint(policy: Policy) -> str:
    """A hash of all that training takes from the file: weights and contract."""
    digest = hashlib.sha256(policy.contract.to_json().encode())
    weights = read_actor(policy)
    for array in (weights.mean, weights.std, *(part for layer in weights.layers for part in layer)):
        digest.update(array.tobytes())
    digest.update(f"{weights.activation} {weights.limit}".encode())
    return digest.hexdigest()


class _Reader:
    """Takes in one node after another, in their order."""

    def __init__(self, width: int, action_limit: float) -> None:
        """Begin with the observation as it is."""
        self._mean, self._std = np.zeros(width), np.ones(width)
        self._limit: float | None = None
        self._layers: list[Layer] = []
        self._activations: set[Activation] = set()
        self._action_limit = action_limit
        self._at = "input"
        """input, clipped input, linear, hidden or clipped output: what the value is by now."""

    def weights(self) -> ActorWeights:
        """All that was read."""
        if not self._layers or self._at not in ("linear", "clipped output"):
            raise InputError(
                f"the ONNX graph ends with {self._at} values, not with a linear layer; training "
                "starts from plain multilayer perceptrons"
            )
        activation: Activation = next(iter(self._activations), "Elu")
        layers = [(_float32(weight), _float32(bias)) for weight, bias in self._layers]
        return ActorWeights(layers, _float32(self._mean), _float32(self._std), self._limit,
                            activation)  # fmt: skip

    def read(self, node: Node, constants: Constants) -> None:
        """Take one node; ``constants`` are its inputs beside the value, None where left out."""
        if node.operator == "Identity":
            return
        if node.operator in ("Gemm", "MatMul"):
            self._linear(node, constants)
        elif node.operator in ("Add", "Sub", "Mul", "Div"):
            self._by_element(node, constants[0])
        elif node.operator == "Clip":
            self._clip(node, constants)
        elif node.operator in ACTIVATIONS and self._at == "linear":
            self._activate(node)
        else:
            raise _not_understood(node, f"it follows {self._at} values")

    def _linear(self, node: Node, constants: Constants) -> None:
        """Take a layer alpha x W' + beta b."""
        weight, attributes = constants[0], node.attributes
        if self._at in ("linear", "clipped output") or attributes.get("transA", 0):
            raise _not_understood(node, f"it follows {self._at} values")
        if weight is None or weight.ndim != 2:
            raise _not_understood(node, "its weight is no matrix")
        weight = weight.astype(np.float64)
        weight = weight if attributes.get("transB", 0) else weight.T
        bias = constants[1] if len(constants) > 1 else None
        bias = np.zeros(len(weight)) if bias is None else _row(bias, len(weight), node)
        self._layers.append(
            (attributes.get("alpha", 1.0) * weight, attributes.get("beta", 1.0) * bias)
        )
        self._at = "linear"

    def _by_element(self, node: Node, constant: np.ndarray | None) -> None:
        """Normalisation before the first layer, bias and scale after any."""
        if self._at not in ("input", "linear"):
            raise _not_understood(node, f"it follows {self._at} values")
        assert constant is not None, "the caller has looked"
        first = self._at == "input"
        row = _row(constant, len(self._mean if first else self._layers[-1][1]), node)
        scales = node.operator in ("Mul", "Div")
        if scales and not (row > 0.0).all():
            raise _not_understood(node, "it scales by numbers that are not positive")
        if first and scales:
            self._std = self._std * row if node.operator == "Div" else self._std / row
        elif first:
            self._mean = self._mean + (row if node.operator == "Sub" else -row) * self._std
        else:
            weight, bias = self._layers[-1]
            change = OPERATORS[node.operator]
            weight = change([weight, row[:, None]], {}) if scales else weight
            self._layers[-1] = weight, change([bias, row], {})

    def _clip(self, node: Node, constants: Constants) -> None:
        """Of normalised inputs; elsewhere only one that clips nothing."""
        low, high = _bounds(constants, node.attributes)
        raw = not self._mean.any() and (self._std == 1.0).all()
        if self._at == "input" and raw and low <= -OBSERVATION_LIMIT and high >= OBSERVATION_LIMIT:
            return
        if self._at == "input" and -low == high and np.isfinite(high):
            self._limit, self._at = high, "clipped input"
        elif self._at == "linear" and low <= -self._action_limit and high >= self._action_limit:
            self._at = "clipped output"
        else:
            raise _not_understood(node, f"it clips {self._at} values to {low:g} and {high:g}")

    def _activate(self, node: Node) -> None:
        """The same between all layers: the trained network has one."""
        operator = next(name for name in ACTIVATIONS if name == node.operator)
        if node.attributes.get("alpha", 1.0) != 1.0 or self._activations - {operator}:
            raise _not_understood(node, "it has an alpha, or is not that of the layers before")
        self._activations.add(operator)
        self._at = "hidden"


def _needed(nodes: tuple[Node, ...], output: str) -> list[Node]:
    """The nodes that lead to an output; clip tables of ours lie beside them."""
    needed, found = {output}, []
    for node in reversed(nodes):
        if needed & set(node.outputs):
            found.append(node)
            needed |= set(node.inputs)
    return found[::-1]


def _bounds(constants: Constants, attributes: Mapping[str, Any]) -> tuple[float, float]:
    """Of a Clip: inputs since opset 11, attributes before; infinite where left out."""
    found = []
    for place, name, absent in ((0, "min", -np.inf), (1, "max", np.inf)):
        given = constants[place] if len(constants) > place else None
        found.append(float(np.ravel(attributes.get(name, absent) if given is None else given)[0]))
    return found[0], found[1]


def _row(constant: np.ndarray, width: int, node: Node) -> np.ndarray:
    """A constant as one float64 for each column (width,)."""
    flat = np.ravel(constant).astype(np.float64)
    if flat.size not in (1, width):
        raise _not_understood(node, f"it has {flat.size} numbers for {width} columns")
    return np.broadcast_to(flat, (width,))


def _float32(values: np.ndarray) -> np.ndarray:
    """As the file had it; what was not computed with is the same to the bit."""
    return np.ascontiguousarray(values, dtype=np.float32)


def _not_understood(node: Node, why: str) -> InputError:
    """A node that a plain multilayer perceptron does not have."""
    return InputError(
        f"ONNX operator '{node.operator}' that gives '{node.outputs[0]}' is not understood: {why}; "
        "training starts from plain multilayer perceptrons"
    )
