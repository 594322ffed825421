"""An ONNX file read and run with numpy alone.

The robot computer has no ``onnx`` package. This reader looks at a file before onnxruntime does: it
refuses external data, operators it does not know and weights that are not finite. Its evaluator
is the second opinion on every policy that is loaded.

    graph = OnnxGraph.parse(Path("policy.onnx").read_bytes())
    graph.run({"obs": observation})["actions"]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Mapping, Tuple

import numpy as np

from asap_deploy.errors import InputError
from asap_deploy.onnx_ops import DTYPES, OPERATORS, check_size
from asap_deploy.protobuf import packed_floats, packed_varints, read_fields, signed

MAX_BYTES = 256 << 20
"""Files above this are not policies."""

MAX_NODES = 1000
"""Operations above this would not be done within a control step."""


@dataclass(frozen=True)
class Node:
    """One operation of the graph."""

    operator: str
    inputs: Tuple[str, ...]
    outputs: Tuple[str, ...]
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class OnnxGraph:
    """The parts of an ONNX file that matter for running it."""

    nodes: Tuple[Node, ...]
    weights: Mapping[str, np.ndarray]
    inputs: Mapping[str, Tuple[Any, ...]]
    """Shape by name, weights excluded; an axis without a fixed size is a string."""
    outputs: Mapping[str, Tuple[Any, ...]]
    metadata: Mapping[str, str]

    @classmethod
    def parse(cls, data: bytes) -> OnnxGraph:
        """Read a file's bytes.

        Raises:
            InputError: If it is no ONNX file, refers to other files, uses an operator that is not
                supported or holds numbers that are not finite.
        """
        if len(data) > MAX_BYTES:
            raise InputError(f"ONNX file has {len(data) >> 20} MB, at most {MAX_BYTES >> 20}")
        try:
            graph = _parse_model(data)
        except InputError:
            raise
        except (ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError,
                UnicodeDecodeError, MemoryError) as error:  # fmt: skip
            raise InputError(f"not an ONNX file: {error}") from None
        graph._check()
        return graph

    def run(self, feeds: Mapping[str, np.ndarray]) -> Dict[str, np.ndarray]:
        """Evaluate the graph for these inputs; every intermediate value is in the result."""
        values: Dict[str, np.ndarray] = dict(self.weights)
        values.update(feeds)
        with np.errstate(all="ignore"):  # like onnxruntime; who uses the result checks it
            for node in self.nodes:
                arguments = [values[name] if name else None for name in node.inputs]
                check_size(node.operator, arguments, node.attributes)
                values[node.outputs[0]] = OPERATORS[node.operator](arguments, node.attributes)
        return values

    def clip_table(self, output: str) -> np.ndarray:
        """The weights that an output is looked up in by time step, one row per frame.

        Raises:
            InputError: If that output does not come from a table.
        """
        tables = dict(self.weights)
        for node in self.nodes:
            if node.operator == "Constant":  # older exporters write tables so
                tables[node.outputs[0]] = OPERATORS["Constant"]([], node.attributes)
            found = node.outputs[0] == output and node.operator == "Gather"
            if found and node.inputs and node.inputs[0] in tables:
                return tables[node.inputs[0]]
        raise InputError(f"the ONNX file holds no clip: output '{output}' is not looked up by time")

    def _check(self) -> None:
        """What a policy file may not contain."""
        if len(self.nodes) > MAX_NODES:
            raise InputError(f"ONNX graph has {len(self.nodes)} nodes, at most {MAX_NODES} are run")
        for node in self.nodes:
            if node.operator not in OPERATORS:
                raise InputError(
                    f"ONNX operator '{node.operator}' is not supported; a policy may use "
                    f"{', '.join(sorted(OPERATORS))}"
                )
            if len(node.outputs) != 1:
                raise InputError(f"ONNX operator '{node.operator}' has {len(node.outputs)} outputs")
            if not all(_is_finite(value) for value in node.attributes.values()):
                raise InputError(
                    f"ONNX operator '{node.operator}' holds values that are not finite"
                )
        for name, weight in self.weights.items():
            if not _is_finite(weight):
                raise InputError(f"ONNX weight '{name}' holds values that are not finite")
        known = set(self.weights) | set(self.inputs) | {""}
        for node in self.nodes:
            missing = [name for name in node.inputs if name not in known]
            if missing:
                raise InputError(f"ONNX operator '{node.operator}' reads unknown '{missing[0]}'")
            known.update(node.outputs)
        lost = [name for name in self.outputs if name not in known]
        if lost or not self.outputs or not self.inputs:
            raise InputError(f"ONNX graph has no way from inputs to outputs {lost}")


def _is_finite(value: Any) -> bool:
    """False where a float, a list of floats or an array holds NaN or infinity."""
    if isinstance(value, (float, list, np.ndarray)):
        array = np.asarray(value)
        return array.dtype.kind != "f" or bool(np.isfinite(array).all())
    return True


def _text(value: Any) -> str:
    """A string field."""
    if not isinstance(value, bytes):
        raise ValueError("expected text")
    return value.decode("utf-8")


def _message(value: Any) -> bytes:
    """A nested message."""
    if not isinstance(value, bytes):
        raise ValueError("expected a message")
    return value


def _parse_model(data: bytes) -> OnnxGraph:
    """ModelProto: 7 graph, 14 metadata, 25 functions."""
    graphs: List[bytes] = []
    metadata: Dict[str, str] = {}
    for number, value in read_fields(data):
        if number == 7:
            graphs.append(_message(value))
        elif number == 14:
            entry = {key: _text(text) for key, text in read_fields(_message(value))}
            metadata[entry.get(1, "")] = entry.get(2, "")
        elif number == 25:
            raise InputError("ONNX file defines functions of its own; a policy needs none")
    if len(graphs) != 1:
        raise ValueError("it holds no graph")
    return _parse_graph(graphs[0], metadata)


def _parse_graph(data: bytes, metadata: Mapping[str, str]) -> OnnxGraph:
    """GraphProto: 1 node, 5 initializer, 11 input, 12 output, 15 sparse initializer."""
    nodes: List[Node] = []
    weights: Dict[str, np.ndarray] = {}
    inputs: Dict[str, Tuple[Any, ...]] = {}
    outputs: Dict[str, Tuple[Any, ...]] = {}
    for number, value in read_fields(data):
        if number == 1:
            nodes.append(_parse_node(_message(value)))
        elif number == 5:
            name, array = _parse_tensor(_message(value))
            weights[name] = array
        elif number in (11, 12):
            name, shape = _parse_value_info(_message(value))
            (inputs if number == 11 else outputs)[name] = shape
        elif number == 15:
            raise InputError("ONNX file holds sparse weights; export them dense")
    inputs = {name: shape for name, shape in inputs.items() if name not in weights}
    return OnnxGraph(tuple(nodes), weights, inputs, outputs, metadata)


def _parse_node(data: bytes) -> Node:
    """NodeProto: 1 input, 2 output, 4 operator, 5 attribute, 7 domain."""
    inputs: List[str] = []
    outputs: List[str] = []
    operator, attributes = "", {}
    for number, value in read_fields(data):
        if number == 1:
            inputs.append(_text(value))
        elif number == 2:
            outputs.append(_text(value))
        elif number == 4:
            operator = _text(value)
        elif number == 5:
            name, attribute = _parse_attribute(_message(value))
            attributes[name] = attribute
        elif number == 7 and _text(value) not in ("", "ai.onnx"):
            raise InputError(f"ONNX file uses operators of '{_text(value)}'; export plain ONNX")
    return Node(operator, tuple(inputs), tuple(outputs), attributes)


def _parse_attribute(data: bytes) -> Tuple[str, Any]:
    """AttributeProto: 1 name, 2 float, 3 int, 4 text, 5 tensor, 6 graph, 7 floats, 8 ints."""
    name, result, floats, ints = "", None, [], []
    readers: Dict[int, Callable[[Any], Any]] = {
        2: lambda v: packed_floats(v)[0],
        3: signed,
        4: _message,
        5: lambda v: _parse_tensor(_message(v))[1],
    }
    for number, value in read_fields(data):
        if number == 1:
            name = _text(value)
        elif number in readers:
            result = readers[number](value)
        elif number == 7:
            floats.extend(packed_floats(value))
        elif number == 8:
            ints.extend(packed_varints(value))
        elif number in (6, 11):
            raise InputError("ONNX file holds loops or branches; a policy needs none")
    if result is None:
        result = floats or ints or None
    return name, result


def _parse_tensor(data: bytes) -> Tuple[str, np.ndarray]:
    """TensorProto: 1 dims, 2 type, 4/5/7/10 numbers, 8 name, 9 raw, 13/14 external."""
    dims: List[int] = []
    kind, name, raw = 0, "", b""
    numbers: List[Any] = []
    for number, value in read_fields(data):
        if number == 1:
            dims.extend(packed_varints(value))
        elif number == 2:
            kind = int(value)
        elif number == 4:
            numbers.extend(packed_floats(value))
        elif number in (5, 7):
            numbers.extend(packed_varints(value))
        elif number == 10:
            numbers.extend(np.frombuffer(_message(value), "<f8").tolist())
        elif number == 8:
            name = _text(value)
        elif number == 9:
            raw = _message(value)
        elif number == 13 or (number == 14 and value != 0):
            raise InputError(
                "ONNX weights lie in another file (external data); save the model into one file, "
                "for example with onnx.save(onnx.load('policy.onnx'), 'whole.onnx')"
            )
    if kind not in DTYPES:
        raise InputError(f"ONNX tensor '{name}' has element type {kind}; float32 is expected")
    array = np.frombuffer(raw, DTYPES[kind]) if raw else np.array(numbers, DTYPES[kind])
    count = 1
    for dim in dims:
        count *= dim
    if count != array.size or any(dim < 0 for dim in dims):
        raise ValueError(f"tensor '{name}' holds {array.size} numbers, its shape is {dims}")
    return name, array.reshape(dims)


def _parse_value_info(data: bytes) -> Tuple[str, Tuple[Any, ...]]:
    """ValueInfoProto: 1 name, 2 type -> 1 tensor -> 2 shape -> 1 dim -> 1 size or 2 name."""
    name, shape = "", ()
    for number, value in read_fields(data):
        if number == 1:
            name = _text(value)
        elif number == 2:
            axes = [
                axis
                for _, tensor in read_fields(_message(value))
                for field, shapes in read_fields(_message(tensor))
                if field == 2
                for _, axis in read_fields(_message(shapes))
            ]
            shape = tuple(_axis(_message(axis)) for axis in axes)
    return name, shape


def _axis(data: bytes) -> Any:
    """One axis of a shape: its size, or a name where the size is free."""
    for number, value in read_fields(data):
        if number == 1:
            return signed(int(value))
        if number == 2:
            return _text(value)
    return "?"
