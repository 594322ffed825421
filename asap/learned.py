"""What a network says that a model cannot: an offset of the PD target, or a kick of the state.

    delta = Learned.load(Path("runs/fit/a/learned.onnx"))
    offset = delta(sim.measure(), joint_pos_target)  # (N, J) [rad]: bounded, 0 far from its log

Inputs are what a robot measures, and the target; never simulated forces, which differ between a
simulator and a log. The file is ONNX with a contract in JSON, and says by itself where it holds:
the graph fades to zero away from the states that it was fitted on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnx import helper, numpy_helper

from asap import onnx_file
from asap.onnx_file import INPUT, OUTPUT, Layer
from asap_deploy import rotation
from asap_deploy.errors import InputError
from asap_deploy.npz import write_file
from asap_deploy.observation import Measurement
from asap_deploy.onnx_graph import OnnxGraph
from asap_deploy.policy import open_session

METADATA_KEY = "asap.learned"
VERSION = 1
ActsOn = Literal["target", "state"]


@dataclass(frozen=True, kw_only=True)
class LearnedContract:
    """What the numbers of the network mean."""

    robot_name: str
    joint_names: tuple[str, ...]
    acts_on: ActsOn
    """``target``: outputs are added to the PD target [rad]. ``state``: they are added to the state
    after every control step: steps of position (nv) and of velocity (nv)."""
    bound: tuple[float, ...]
    """No output is larger than this, in its unit."""
    trusted: float
    """Mean square of the normalised inputs up to which it is believed"""
    lost: float
    """And from which on its output is 0."""
    version: int = VERSION

    def __post_init__(self) -> None:
        """Check what a file could get wrong."""
        values = np.array([*self.bound, self.trusted, self.lost], dtype=float)
        if not (np.isfinite(values).all() and (values >= 0.0).all() and self.trusted < self.lost):
            raise InputError("bounds of a learned correction must be finite and 0 or above, and "
                             "'trusted' below 'lost'")  # fmt: skip
        if self.acts_on not in ("target", "state"):
            raise InputError(
                f"a learned correction acts on '{self.acts_on}'; expected target, state"
            )


def inputs(measured: Measurement, joint_pos_target: np.ndarray) -> np.ndarray:
    """(N, 3 J + 6) float32: joints, their speeds, how far targets are away, gravity, turn rate."""
    return np.concatenate(
        [
            measured.joint_pos,
            measured.joint_vel,
            joint_pos_target - measured.joint_pos,
            rotation.projected_gravity(measured.base_quat_wxyz),
            measured.base_ang_vel_b,
        ],
        axis=-1, dtype=np.float32, casting="unsafe",
    )  # fmt: skip


class Learned:
    """The network with its contract."""

    def __init__(self, contract: LearnedContract, data: bytes) -> None:
        """Check that they fit.

        Raises:
            InputError: If the network is not what the contract says.
        """
        self.contract, self.data = contract, data
        graph = OnnxGraph.parse(data)
        joints, outputs = len(contract.joint_names), len(contract.bound)
        shapes = graph.inputs.get(INPUT), graph.outputs.get(OUTPUT)
        if shapes != (("N", 3 * joints + 6), ("N", outputs)):
            raise InputError(
                f"a learned correction of {joints} joints has shapes {shapes}; expected "
                f"(N, {3 * joints + 6}) and (N, {outputs})"
            )
        wanted = joints if contract.acts_on == "target" else 2 * (joints + 6)
        if outputs != wanted:
            raise InputError(f"a learned correction gives {outputs} numbers; expected {wanted}")
        self._session = open_session(data)

    @property
    def acts_on(self) -> ActsOn:
        """Where its output is added."""
        return self.contract.acts_on

    def __call__(self, measured: Measurement, joint_pos_target: np.ndarray) -> np.ndarray:
        """What is added, (N, outputs), for what N robots measure and are told (N, J) [rad]."""
        rows = inputs(measured, joint_pos_target)
        return np.asarray(self._session.run([OUTPUT], {INPUT: rows})[0], dtype=np.float64)

    def only(self, joints: np.ndarray) -> Learned:
        """The same for some joints (J,) bool; it says nothing about the others."""
        bound = np.where(joints, self.contract.bound, 0.0)
        model = onnx_file.load_model(self.data)
        for tensor in model.graph.initializer:
            if tensor.name == "bound":
                tensor.CopyFrom(numpy_helper.from_array(bound.astype(np.float32), "bound"))
        return make(model, _with_bound(self.contract, bound))

    def save(self, path: Path) -> None:
        """Write the file at once or not at all."""
        write_file(path, self.data)

    @classmethod
    def load(cls, path: Path) -> Learned:
        """Read a file.

        Raises:
            InputError: If it is no learned correction of a known version, or makes no sense.
        """
        try:
            return cls.from_bytes(path.read_bytes())
        except InputError as error:
            raise InputError(str(error), file=path) from None
        except OSError as error:
            raise InputError(f"learned correction cannot be read: {error}", file=path) from None

    @classmethod
    def from_bytes(cls, data: bytes) -> Learned:
        """Read what ``save`` wrote."""
        text = OnnxGraph.parse(data).metadata.get(METADATA_KEY)
        if text is None:
            raise InputError("this ONNX file is no learned correction of ours")
        try:
            raw: dict[str, Any] = json.loads(text)
            if raw.get("version") != VERSION:
                raise InputError(f"learned correction of version {raw.get('version')}; {VERSION}")
            raw |= {name: tuple(raw[name]) for name in ("joint_names", "bound")}
            return cls(LearnedContract(**raw), data)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"the contract of this learned correction is broken: {error}"
            ) from None


def from_layers(
    layers: Sequence[Layer],
    contract: LearnedContract,
    *,
    mean: np.ndarray,
    std: np.ndarray,
    activation: str = "Tanh",
) -> Learned:
    """A multilayer perceptron over normalised inputs, bounded and faded.

    y = bound tanh(network((x - mean) / std) / bound) trust(x)
    """
    core = onnx_file.network(layers, activation=activation, mean=mean, std=std)
    return make(_bounded(core, contract, mean, std), contract)


def linear(
    weights: np.ndarray, contract: LearnedContract, *, mean: np.ndarray, std: np.ndarray,
    sliding: np.ndarray, sliding_speed: float,
) -> Learned:  # fmt: skip
    """A linear law of the inputs, and of which way joints slide.

        y = bound tanh((weights [x, 1] + sliding tanh(joint_vel / sliding_speed)) / bound) trust(x)

    Args:
        weights: (J, D + 1); the last column is a constant.
        contract: What it is.
        mean: (D,) of the inputs, for the trust.
        std: (D,)
        sliding: (J,) of dry friction [rad].
        sliding_speed: [rad/s]
    """
    joints, width = weights.shape[0], weights.shape[1] - 1
    pick = np.zeros((joints, width), dtype=np.float32)
    pick[np.arange(joints), joints + np.arange(joints)] = 1.0 / sliding_speed
    tensors = {
        "weight": weights[:, :-1],
        "bias": weights[:, -1],
        "pick": pick,
        "none": np.zeros(joints),
        "sliding": sliding,
    }
    nodes = [
        helper.make_node("Gemm", [INPUT, "weight", "bias"], ["linear"], transB=1),
        helper.make_node("Gemm", [INPUT, "pick", "none"], ["speed"], transB=1),
        helper.make_node("Tanh", ["speed"], ["direction"]),
        helper.make_node("Mul", ["direction", "sliding"], ["friction"]),
        helper.make_node("Add", ["linear", "friction"], [OUTPUT]),
    ]
    core = onnx_file.network([(weights[:, :-1], weights[:, -1])])
    del core.graph.node[:], core.graph.initializer[:]
    core.graph.node.extend(nodes)
    core.graph.initializer.extend(_tensors(tensors))
    return make(_bounded(core, contract, mean, std), contract)


def make(model: onnx.ModelProto, contract: LearnedContract) -> Learned:
    """A graph with its contract inside."""
    data = onnx_file.with_metadata(model, {METADATA_KEY: json.dumps(asdict(contract))})
    return Learned(contract, data)


def trust_radius(rows: np.ndarray, mean: np.ndarray, std: np.ndarray) -> tuple[float, float]:
    """Where a network fitted on inputs (T, D) is believed, and where no longer.

    Returns:
        Mean squares of normalised inputs: what one row in two hundred exceeds, and twice that.
    """
    distance = np.square((rows - mean) / std).mean(axis=1)
    trusted = float(np.quantile(distance, 0.995))
    return trusted, 2.0 * trusted


def _bounded(
    core: onnx.ModelProto, contract: LearnedContract, mean: np.ndarray, std: np.ndarray
) -> onnx.ModelProto:
    """Bound and trust behind a network."""
    graph = core.graph
    for node in graph.node:
        node.output[:] = ["raw" if name == OUTPUT else name for name in node.output]
    width = len(mean)
    bound = np.array(contract.bound)
    tensors = {
        "trust_mean": mean, "trust_std": std,
        "average": np.full((1, width), 1.0 / width), "zero1": np.zeros(1),
        "lost": np.array([contract.lost]), "room": np.array([contract.lost - contract.trusted]),
        "trust_low": np.array(0.0), "trust_high": np.array(1.0),
        "bound": bound, "tiny": np.array([1e-9]),
    }  # fmt: skip
    graph.initializer.extend(_tensors(tensors))
    graph.node.extend(
        [
            helper.make_node("Sub", [INPUT, "trust_mean"], ["trust_centred"]),
            helper.make_node("Div", ["trust_centred", "trust_std"], ["trust_normal"]),
            helper.make_node("Mul", ["trust_normal", "trust_normal"], ["trust_square"]),
            helper.make_node("Gemm", ["trust_square", "average", "zero1"], ["distance"], transB=1),
            helper.make_node("Sub", ["lost", "distance"], ["left"]),
            helper.make_node("Div", ["left", "room"], ["share"]),
            helper.make_node("Clip", ["share", "trust_low", "trust_high"], ["trust"]),
            helper.make_node("Add", ["bound", "tiny"], ["positive"]),
            helper.make_node("Div", ["raw", "positive"], ["relative"]),
            helper.make_node("Tanh", ["relative"], ["within"]),
            helper.make_node("Mul", ["within", "bound"], ["bounded"]),
            helper.make_node("Mul", ["bounded", "trust"], [OUTPUT]),
        ]
    )
    del graph.output[:]
    graph.output.append(
        helper.make_tensor_value_info(OUTPUT, onnx.TensorProto.FLOAT, ["N", len(bound)])
    )
    return core


def _with_bound(contract: LearnedContract, bound: np.ndarray) -> LearnedContract:
    return LearnedContract(**(asdict(contract) | {"bound": tuple(float(x) for x in bound)}))


def _tensors(arrays: dict[str, np.ndarray]) -> list[onnx.TensorProto]:
    return [numpy_helper.from_array(np.asarray(a, np.float32), n) for n, a in arrays.items()]
