"""The ONNX operators that a policy may use, in numpy.

Each takes its inputs (None where one is left out) and its attributes. What is not in the table is
refused when a file is read: a policy that only one engine can run cannot be cross-checked.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Mapping, Optional

import numpy as np

DTYPES: Dict[int, Any] = {
    1: np.dtype("<f4"),
    6: np.dtype("<i4"),
    7: np.dtype("<i8"),
    9: np.dtype("bool"),
    11: np.dtype("<f8"),
}
"""ONNX element types by number."""

MAX_VALUES = 1 << 24
"""No operator of a policy gives more numbers than this."""

Inputs = List[Any]
Attributes = Mapping[str, Any]
Operator = Callable[[Inputs, Attributes], np.ndarray]


def _gemm(inputs: Inputs, attributes: Attributes) -> np.ndarray:
    """Y = alpha A' B' + beta C."""
    a = inputs[0].T if attributes.get("transA", 0) else inputs[0]
    b = inputs[1].T if attributes.get("transB", 0) else inputs[1]
    product = np.float32(attributes.get("alpha", 1.0)) * (a @ b)
    if len(inputs) < 3 or inputs[2] is None:
        return product
    return product + np.float32(attributes.get("beta", 1.0)) * inputs[2]


def _div(inputs: Inputs, attributes: Attributes) -> np.ndarray:
    quotient = inputs[0] / inputs[1]
    # ONNX divides whole numbers towards zero, as C does.
    return np.trunc(quotient).astype(inputs[0].dtype) if inputs[0].dtype.kind == "i" else quotient


def _elu(inputs: Inputs, attributes: Attributes) -> np.ndarray:
    x = inputs[0]
    alpha = np.float32(attributes.get("alpha", 1.0))
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def _clip(inputs: Inputs, attributes: Attributes) -> np.ndarray:
    def bound(position: int, name: str) -> Optional[Any]:
        given = inputs[position] if len(inputs) > position else None
        return attributes.get(name) if given is None else given

    low, high = bound(1, "min"), bound(2, "max")
    result = inputs[0]
    result = result if low is None else np.maximum(result, low)
    return result if high is None else np.minimum(result, high)


def _axes(inputs: Inputs, attributes: Attributes) -> List[int]:
    """Axes are an attribute up to opset 12 and an input after it."""
    if len(inputs) > 1 and inputs[1] is not None:
        return [int(axis) for axis in np.ravel(inputs[1])]
    return [int(axis) for axis in attributes.get("axes") or []]


def _squeeze(inputs: Inputs, attributes: Attributes) -> np.ndarray:
    axes = _axes(inputs, attributes)
    return np.squeeze(inputs[0], axis=tuple(axes) if axes else None)


def _unsqueeze(inputs: Inputs, attributes: Attributes) -> np.ndarray:
    return np.expand_dims(inputs[0], tuple(_axes(inputs, attributes)))


def _gather(inputs: Inputs, attributes: Attributes) -> np.ndarray:
    return np.take(inputs[0], inputs[1].astype(np.int64), axis=int(attributes.get("axis", 0)))


def _cast(inputs: Inputs, attributes: Attributes) -> np.ndarray:
    return inputs[0].astype(DTYPES[int(attributes["to"])])


def _constant(inputs: Inputs, attributes: Attributes) -> np.ndarray:
    for name in ("value", "value_float", "value_int", "value_floats", "value_ints"):
        if attributes.get(name) is not None:
            value = np.asarray(attributes[name])
            return value.astype(np.float32) if name.startswith("value_float") else value
    raise ValueError("Constant without a value")


def _sigmoid(inputs: Inputs, attributes: Attributes) -> np.ndarray:
    # tanh does not overflow where exp(-x) would
    return np.float32(0.5) * (np.tanh(np.float32(0.5) * inputs[0]) + np.float32(1.0))


def check_size(operator: str, inputs: Inputs, attributes: Attributes) -> None:
    """Refuse what would take unbounded memory: a few hundred bytes can ask for terabytes.

    Raises:
        ValueError: If the result would be too large, or the shapes do not fit.
    """
    given = [np.asarray(x) for x in inputs if x is not None]
    size = max((x.size for x in given), default=0)
    if operator == "Concat":
        size = sum(x.size for x in given)
    elif operator == "Gather":
        table, axis = given[0], int(attributes.get("axis", 0))
        size = table.size // max(1, table.shape[axis]) * given[1].size
    elif operator in ("Gemm", "MatMul"):
        rows = given[0].shape[-1 if attributes.get("transA", 0) else -2 :][:1]
        columns = given[1].shape[-2 if attributes.get("transB", 0) else -1 :][:1]
        product = np.broadcast_to(np.float32(0.0), rows + columns)
        stacks = [np.broadcast_to(np.float32(0.0), x.shape[:-2]) for x in given[:2]]
        size = np.broadcast(product, *given[2:]).size * np.broadcast(*stacks).size
    elif len(given) > 1:
        size = np.broadcast(*given).size if operator not in ("Squeeze", "Unsqueeze") else size
    if size > MAX_VALUES:
        raise ValueError(f"{operator} would give {size} numbers, at most {MAX_VALUES} are allowed")


OPERATORS: Dict[str, Operator] = {
    "Gemm": _gemm,
    "MatMul": lambda x, a: x[0] @ x[1],
    "Add": lambda x, a: x[0] + x[1],
    "Sub": lambda x, a: x[0] - x[1],
    "Mul": lambda x, a: x[0] * x[1],
    "Div": _div,
    "Elu": _elu,
    "Relu": lambda x, a: np.maximum(x[0], 0),
    "Tanh": lambda x, a: np.tanh(x[0]),
    "Sigmoid": _sigmoid,
    "Clip": _clip,
    "Concat": lambda x, a: np.concatenate(x, axis=int(a["axis"])),
    "Identity": lambda x, a: x[0],
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Gather": _gather,
    "Cast": _cast,
    "Constant": _constant,
}
