"""Writing policies as ONNX: one plain file, any number of rows, the clip and the contract inside.

model = network([(weight, bias), ...], activation="Elu")
model = with_clip(model, clip)                  # looked up by the input ``time_step``
data = with_metadata(model, {"asap.contract": text})
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, version_converter

from asap_deploy.errors import InputError
from asap_deploy.policy import ClipTable

INPUT, OUTPUT, TIME_STEP = "obs", "actions", "time_step"
OPSET = 13
NORMALISED_LIMIT = 10.0
"""Normalised inputs are clipped to +- this, in training and in the exported graph."""

IR_VERSION = 8
"""Old enough for the onnxruntime of a robot computer (1.14 and later)."""

Layer = tuple[np.ndarray, np.ndarray]
"""Weight (outputs, inputs) and bias (outputs,)."""


def network(
    layers: Sequence[Layer],
    *,
    activation: str = "Elu",
    mean: np.ndarray | None = None,
    std: np.ndarray | None = None,
    limit: float | None = None,
) -> onnx.ModelProto:
    """A multilayer perceptron, its input normalisation folded into the graph.

        y = W_n act( ... act(W_1 clip((x - mean) / std) + b_1) ... ) + b_n

    Args:
        layers: Weight and bias of each layer, in order.
        activation: ONNX operator between layers.
        mean: (D,) subtracted from the input; none by default.
        std: (D,) divided by.
        limit: Normalised inputs are clipped to +- this; not at all by default.
    """
    assert (mean is None) == (std is None), "a normalisation needs both mean and std"
    nodes: list[onnx.NodeProto] = []
    weights: dict[str, np.ndarray] = {}
    value = INPUT
    if mean is not None and std is not None:
        weights |= {"mean": mean, "std": std}
        nodes.append(helper.make_node("Sub", [value, "mean"], ["centred"]))
        nodes.append(helper.make_node("Div", ["centred", "std"], ["normalised"]))
        value = "normalised"
    if limit is not None:
        weights |= {"low": np.array(-limit), "high": np.array(limit)}
        nodes.append(helper.make_node("Clip", [value, "low", "high"], ["clipped"]))
        value = "clipped"
    for depth, (weight, bias) in enumerate(layers):
        weights |= {f"weight{depth}": weight, f"bias{depth}": bias}
        last = depth == len(layers) - 1
        result = OUTPUT if last else f"linear{depth}"
        inputs = [value, f"weight{depth}", f"bias{depth}"]
        nodes.append(helper.make_node("Gemm", inputs, [result], transB=1))
        if not last:
            nodes.append(helper.make_node(activation, [result], [f"hidden{depth}"]))
        value = f"hidden{depth}"
    graph = helper.make_graph(
        nodes,
        "policy",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["N", layers[0][0].shape[1]])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["N", layers[-1][0].shape[0]])],
        [_tensor(name, array) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", OPSET)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


def load_model(data: bytes) -> onnx.ModelProto:
    """Parse a file that ``OnnxGraph.parse`` has accepted.

    Raises:
        InputError: If the onnx package does not agree that it is one.
    """
    try:
        model = onnx.load_model_from_string(data)
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf's and the checker's errors share no base class
        first = (str(error).strip().splitlines() or ["unknown error"])[0]
        raise InputError(f"not a valid ONNX file: {first[:160]}") from None
    return model


def keep_actor(model: onnx.ModelProto, input_name: str, output_name: str) -> onnx.ModelProto:
    """The part of a graph that leads from observation to action, taking any number of rows.

    Exports of other toolkits carry their clip beside the network; ours is written by
    ``with_clip``, so theirs is dropped here.
    """
    model = _copy(model)
    needed, nodes = {output_name}, []
    for node in reversed(model.graph.node):
        if needed & set(node.output):
            nodes.append(node)
            needed |= set(node.input)
    inputs = [value for value in model.graph.input if value.name == input_name]
    outputs = [value for value in model.graph.output if value.name == output_name]
    for value in (*inputs, *outputs):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    weights = [tensor for tensor in model.graph.initializer if tensor.name in needed]
    graph = helper.make_graph(nodes[::-1], "policy", inputs, outputs, weights)
    actor = helper.make_model(
        graph, opset_imports=list(model.opset_import), ir_version=min(model.ir_version, IR_VERSION)
    )
    # ``with_clip`` writes operators as they are since opset 13.
    version = next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
    return actor if version >= OPSET else version_converter.convert_version(actor, OPSET)


def with_clip(model: onnx.ModelProto, clip: ClipTable) -> onnx.ModelProto:
    """Add the clip as tables that the input ``time_step`` (N, 1) looks up, frame by frame."""
    model = _copy(model)
    tables = {f.name: getattr(clip, f.name) for f in dataclasses.fields(clip) if f.name != "fps"}
    graph = model.graph
    graph.input.append(helper.make_tensor_value_info(TIME_STEP, TensorProto.FLOAT, ["N", 1]))
    last = np.array(len(clip.joint_pos) - 1, np.float32)
    graph.initializer.extend(
        [
            _tensor("clip_first", np.array(0.0)),
            _tensor("clip_last", last),
            numpy_helper.from_array(np.array([1], np.int64), "clip_axis"),
        ]
    )
    graph.node.extend(
        [
            helper.make_node("Clip", [TIME_STEP, "clip_first", "clip_last"], ["clip_time"]),
            helper.make_node("Squeeze", ["clip_time", "clip_axis"], ["clip_row"]),
            helper.make_node("Cast", ["clip_row"], ["clip_index"], to=TensorProto.INT64),
        ]
    )
    for name, table in tables.items():
        graph.initializer.append(_tensor(f"{name}_table", table))
        graph.node.append(helper.make_node("Gather", [f"{name}_table", "clip_index"], [name]))
        shape = ["N", *table.shape[1:]]
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    return model


def with_metadata(model: onnx.ModelProto, metadata: Mapping[str, str]) -> bytes:
    """The file's bytes, with these texts in place of any that it had."""
    model = _copy(model)
    del model.metadata_props[:]
    helper.set_model_props(model, dict(metadata))
    return model.SerializeToString()


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model of its own: the caller's stays as it is."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def _tensor(name: str, array: np.ndarray) -> onnx.TensorProto:
    """Weights as float32."""
    return numpy_helper.from_array(np.asarray(array, np.float32), name)
