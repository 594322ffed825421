"""A policy's own graph as a network that can be trained, and written back with other numbers.

Whatever file the toolkit accepts, the part from observation to action is run node by node in
torch. Weights and biases are parameters; means, deviations and bounds are buffers, which nothing
trains. What comes out is the same graph with new numbers, so any recipe's output is any other's
input.

    net = GraphNet.of(policy)
    loss(net(observation)).backward()
    data = write_tuned(net.model(), policy, robot, None, provenance=...)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn

from asap import onnx_file
from asap_deploy.errors import InputError
from asap_deploy.onnx_graph import Node, OnnxGraph
from asap_deploy.onnx_ops import OPERATORS as ON_THE_ROBOT
from asap_deploy.policy import Policy

LINEAR = ("Gemm", "MatMul")
HEAD_LAYERS = 2
"""Linear layers before the action that ``trunk`` leaves out."""

Inputs = list[torch.Tensor | None]
Attributes = Mapping[str, Any]


def actor_of(policy: Policy) -> onnx.ModelProto:
    """The graph from observation to action alone: no clip, no contract, any number of rows."""
    contract = policy.contract
    model = onnx_file.load_model(policy.data)
    return onnx_file.keep_actor(model, contract.input_name, contract.output_name)


class GraphNet(nn.Module):
    """A graph from one input to one output."""

    def __init__(self, model: onnx.ModelProto) -> None:
        """Take the graph in.

        Args:
            model: As ``actor_of`` gives it.

        Raises:
            InputError: If it has several inputs or outputs, or an operator that is not understood;
                names the node.
        """
        super().__init__()
        self._model = _plain(model)
        self.input_name, self.output_name = ends(self._model)
        graph = OnnxGraph.parse(self._model.SerializeToString())
        self.nodes = graph.nodes
        """In the order in which they are run"""
        for node in self.nodes:
            if node.operator not in OPERATORS:
                raise InputError(
                    f"ONNX operator '{node.operator}' that gives '{node.outputs[0]}' cannot be "
                    f"trained; known are {', '.join(sorted(OPERATORS))}"
                )
        self._maker = {node.outputs[0]: place for place, node in enumerate(self.nodes)}
        trained = {name for node in self.nodes for name in self._trained(node, graph.weights)}
        # torch allows no dots in names, ONNX does.
        self._places: dict[str, str] = {}
        for number, (name, array) in enumerate(graph.weights.items()):
            self._places[name] = place = f"w{number}"
            tensor = torch.from_numpy(np.array(array))
            if name in trained:
                self.register_parameter(place, nn.Parameter(tensor))
            else:
                self.register_buffer(place, tensor)

    @classmethod
    def of(cls, policy: Policy) -> GraphNet:
        """The network of a policy file."""
        return cls(actor_of(policy))

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        """Actions (N, A) for observations (N, D)."""
        values: dict[str, torch.Tensor] = {self.input_name: observation}
        values |= {name: getattr(self, place) for name, place in self._places.items()}
        for node in self.nodes:
            given = [values[name] if name else None for name in node.inputs]
            values[node.outputs[0]] = OPERATORS[node.operator](given, node.attributes)
        return values[self.output_name]

    def model(self) -> onnx.ModelProto:
        """The graph with the numbers that it has now."""
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        for tensor in model.graph.initializer:
            array = self.number(tensor.name).detach().cpu().numpy()
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), tensor.name))
        return model

    def number(self, name: str) -> torch.Tensor:
        """The parameter or buffer that the graph knows by this name."""
        return getattr(self, self._places[name])

    def trunk(self) -> list[nn.Parameter]:
        """All weights and biases but those of the last two linear layers before the action.

        Where branches are added, the last layers are those of the branch that the graph lists
        last: of a policy with a residual, the residual's.
        """
        last = {id(weight) for layer in self.layers()[-HEAD_LAYERS:] for weight in layer}
        return [weight for weight in self.parameters() if id(weight) not in last]

    def layers(self) -> list[list[nn.Parameter]]:
        """Weight and bias of the linear layers that lead to the action, the last one last."""
        found: list[list[nn.Parameter]] = []
        biases: list[nn.Parameter] = []
        value = self.output_name
        while value in self._maker:
            node = self.nodes[self._maker[value]]
            own = [self.number(name) for name in node.inputs if name in self._places]
            trained = [number for number in own if isinstance(number, nn.Parameter)]
            if node.operator in LINEAR:
                found.append(trained + biases)
                biases = []
            else:
                biases += trained
            moving = [name for name in node.inputs if name and name not in self._places]
            value = max(moving, key=lambda name: self._maker.get(name, -1), default="")
        return found[::-1]

    def _trained(self, node: Node, weights: Mapping[str, np.ndarray]) -> list[str]:
        """Initializers of a node that are weights or biases: an Add after a layer has its bias."""
        constants = [name for name in node.inputs if name in weights]
        if node.operator in LINEAR:
            return constants
        makers = [self.nodes[self._maker[name]] for name in node.inputs if name in self._maker]
        after = any(maker.operator in LINEAR for maker in makers)
        return constants if node.operator == "Add" and after else []


def ends(model: onnx.ModelProto) -> tuple[str, str]:
    """Names of the one input and the one output of a graph.

    Raises:
        InputError: If it has more.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value.name for value in model.graph.input if value.name not in weights]
    outputs = [value.name for value in model.graph.output]
    if len(inputs) != 1 or len(outputs) != 1:
        raise InputError(
            f"the graph has inputs {inputs} and outputs {outputs}; one of each is expected: take "
            "what leads from observation to action alone"
        )
    return inputs[0], outputs[0]


def _plain(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same with constants as initializers, under one name each, and nodes that move alone."""
    graph = OnnxGraph.parse(model.SerializeToString())
    known = dict(graph.weights)
    same: dict[str, str] = {}
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    del plain.graph.node[:], plain.graph.initializer[:]
    _, output = ends(model)
    for node, copy in zip(graph.nodes, model.graph.node, strict=True):
        inputs = [same.get(name, name) for name in node.inputs]
        result = node.outputs[0]
        if node.operator == "Identity" and inputs[0] in known:
            same[result] = inputs[0]
        elif all(name in known for name in inputs if name) and result != output:
            given = [known[name] if name else None for name in inputs]
            known[result] = np.asarray(ON_THE_ROBOT[node.operator](given, node.attributes))
        else:
            kept = plain.graph.node.add()
            kept.CopyFrom(copy)
            kept.input[:] = inputs
    read = {name for node in plain.graph.node for name in node.input}
    tensors = [numpy_helper.from_array(np.ascontiguousarray(array), name)
               for name, array in known.items() if name in read]  # fmt: skip
    plain.graph.initializer.extend(tensors)
    return plain


def _given(inputs: Inputs) -> list[torch.Tensor]:
    """Inputs of an operator that needs them all."""
    return [value for value in inputs if value is not None]


def _gemm(inputs: Inputs, attributes: Attributes) -> torch.Tensor:
    """Y = alpha A' B' + beta C."""
    a, b, *rest = _given(inputs)
    a = a.T if attributes.get("transA", 0) else a
    b = b.T if attributes.get("transB", 0) else b
    alpha, beta = attributes.get("alpha", 1.0), attributes.get("beta", 1.0)
    product = a @ b if alpha == 1.0 else alpha * (a @ b)
    if not rest:
        return product
    return product + (rest[0] if beta == 1.0 else beta * rest[0])


def _clip(inputs: Inputs, attributes: Attributes) -> torch.Tensor:
    """Bounds are inputs since opset 11, attributes before."""
    value = inputs[0]
    assert value is not None, "Clip clips something"
    for place, name, bounded in ((1, "min", torch.maximum), (2, "max", torch.minimum)):
        bound = inputs[place] if len(inputs) > place else None
        if bound is None and attributes.get(name) is not None:
            bound = torch.tensor(float(attributes[name]), dtype=value.dtype)
        value = value if bound is None else bounded(value, bound)
    return value


def _two(change: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
         ) -> Callable[[Inputs, Attributes], torch.Tensor]:  # fmt: skip
    return lambda inputs, attributes: change(*_given(inputs))


def _one(change: Callable[[torch.Tensor], torch.Tensor]
         ) -> Callable[[Inputs, Attributes], torch.Tensor]:  # fmt: skip
    return lambda inputs, attributes: change(*_given(inputs))


OPERATORS: dict[str, Callable[[Inputs, Attributes], torch.Tensor]] = {
    "Gemm": _gemm,
    "MatMul": _two(torch.matmul),
    "Add": _two(torch.add),
    "Sub": _two(torch.sub),
    "Mul": _two(torch.mul),
    "Div": _two(torch.div),
    "Clip": _clip,
    "Elu": lambda x, a: nn.functional.elu(_given(x)[0], a.get("alpha", 1.0)),
    "Relu": _one(torch.relu),
    "Tanh": _one(torch.tanh),
    "Sigmoid": _one(torch.sigmoid),
    "Identity": _one(lambda value: value),
    "Concat": lambda x, a: torch.cat(_given(x), dim=int(a["axis"])),
}
"""What can be trained; the rest of ``asap_deploy.onnx_ops`` looks things up and reshapes."""


def names_in(model: onnx.ModelProto) -> set[str]:
    """Every name that a graph uses for a value."""
    graph = model.graph
    found = {value.name for value in (*graph.input, *graph.output)}
    found |= {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        found |= {*node.input, *node.output}
    return found - {""}


def unused_prefix(model: onnx.ModelProto, word: str) -> str:
    """``word0_`` and so on: the first with which no name in the graph begins."""
    names: Sequence[str] = sorted(names_in(model))
    number = 0
    while any(name.startswith(f"{word}{number}_") for name in names):
        number += 1
    return f"{word}{number}_"
