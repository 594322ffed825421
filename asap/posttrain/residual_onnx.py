"""A bounded correction on top of a policy, inside one ONNX graph.

    action = base(obs) + bound * tanh(MLP(obs))

Whatever the MLP learns, the action is within the bound of what the policy did. The result is a
graph like any other: it can be trained on, and corrected once more.

    model = with_residual(actor_of(policy), layers, bound=0.2 * np.ones(29))
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import onnx
from onnx import helper, numpy_helper

from asap.onnx_file import Layer
from asap.posttrain.graph_net import ends, unused_prefix
from asap_deploy.errors import InputError

Squash = Literal["tanh", "clip"]
"""How numbers are brought within +- 1; ``clip`` leaves those inside as they are."""

WORD = "residual"
"""Names of a residual begin with this and its number."""


def with_residual(
    model: onnx.ModelProto,
    layers: Sequence[Layer],
    *,
    bound: np.ndarray | float,
    scale: np.ndarray | float = 1.0,
    squash: Squash = "tanh",
) -> onnx.ModelProto:
    """Add a residual to what a graph gives: base(obs) + bound * squash(scale * MLP(obs)).

    Args:
        model: From observation to action alone, as ``graph_net.actor_of`` gives it; it may have
            residuals already.
        layers: Weight (outputs, inputs) and bias (outputs,) of each; between them is Elu. Those of
            the last one are multiplied with ``scale``.
        bound: (A,) or one number, what 1 means in units of the action.
        scale: (A,) or one number, before the squashing.
        squash: ``tanh`` or ``clip``.

    Raises:
        InputError: If widths do not fit the graph, or numbers are not finite.
    """
    source, result = ends(model)
    _check(model, layers, bound)
    prefix = unused_prefix(model, WORD)
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    base = f"{prefix}base"
    for node in graph.node:
        node.input[:] = [base if name == result else name for name in node.input]
        node.output[:] = [base if name == result else name for name in node.output]
    nodes, weights = _branch(source, _scaled(layers, scale), prefix, squash)
    weights[f"{prefix}bound"] = np.broadcast_to(bound, layers[-1][1].shape)
    last = nodes[-1].output[0]
    nodes.append(helper.make_node("Mul", [last, f"{prefix}bound"], [f"{prefix}bounded"]))
    nodes.append(helper.make_node("Add", [base, f"{prefix}bounded"], [result]))
    graph.node.extend(nodes)
    graph.initializer.extend(
        numpy_helper.from_array(np.array(array, np.float32), name)
        for name, array in weights.items()
    )
    return changed


def _branch(
    source: str, layers: Sequence[Layer], prefix: str, squash: Squash
) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """The nodes of squash(MLP(source)), and their numbers."""
    nodes: list[onnx.NodeProto] = []
    weights: dict[str, np.ndarray] = {}
    value = source
    for depth, (weight, bias) in enumerate(layers):
        named = [f"{prefix}weight{depth}", f"{prefix}bias{depth}"]
        weights |= dict(zip(named, (weight, bias), strict=True))
        linear = f"{prefix}linear{depth}"
        nodes.append(helper.make_node("Gemm", [value, *named], [linear], transB=1))
        value = linear
        if depth < len(layers) - 1:
            value = f"{prefix}hidden{depth}"
            nodes.append(helper.make_node("Elu", [linear], [value]))
    squashed = f"{prefix}squashed"
    if squash == "tanh":
        nodes.append(helper.make_node("Tanh", [value], [squashed]))
    else:
        bounds = [f"{prefix}low", f"{prefix}high"]
        weights |= dict(zip(bounds, (np.array(-1.0), np.array(1.0)), strict=True))
        nodes.append(helper.make_node("Clip", [value, *bounds], [squashed]))
    return nodes, weights


def _scaled(layers: Sequence[Layer], scale: np.ndarray | float) -> list[Layer]:
    """The last layer times the scale."""
    weight, bias = layers[-1]
    factor = np.broadcast_to(scale, np.shape(bias))
    return [*layers[:-1], (weight * factor[:, None], bias * factor)]


def _check(model: onnx.ModelProto, layers: Sequence[Layer], bound: np.ndarray | float) -> None:
    """Refuse a residual that does not fit."""
    graph = model.graph
    _, result = ends(model)
    weights = {tensor.name for tensor in graph.initializer}
    given = next(value for value in graph.input if value.name not in weights)
    width, actions = (value.type.tensor_type.shape.dim[1].dim_value
                      for value in (given, graph.output[0]))  # fmt: skip
    if not layers:
        raise InputError("a residual has at least one layer")
    for weight, bias in layers:
        if np.shape(weight) != (len(bias), width):
            raise InputError(
                f"a layer of the residual has shape {np.shape(weight)}, expected "
                f"{(len(bias), width)}"
            )
        width = len(bias)
    if width != actions:
        raise InputError(f"the residual gives {width} numbers, '{result}' has {actions}")
    if np.shape(bound) not in ((), (actions,)) or not (np.asarray(bound) >= 0.0).all():
        raise InputError(f"the bound of a residual is one number or {actions}, from 0 on")
    if not all(np.isfinite(part).all() for layer in layers for part in layer):
        raise InputError("a layer of the residual holds numbers that are not finite")
