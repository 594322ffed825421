"""A policy: its network, its contract and the clip that it tracks, all from one ONNX file.

Two engines run the same network: onnxruntime in the control loop, numpy as the second opinion.

    policy = Policy.from_bytes(Path("policy.onnx").read_bytes())
    action = policy.act(observation)                # (N, A) float32
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Callable, Optional

import numpy as np

from asap_deploy import rotation
from asap_deploy.contract import METADATA_KEY, PolicyContract
from asap_deploy.errors import InputError
from asap_deploy.observation import LAYOUTS
from asap_deploy.onnx_graph import OnnxGraph

Evaluator = Callable[[np.ndarray], np.ndarray]
"""Observation (N, D) float32 to action (N, A) float32."""

ABSURD = 1e3
"""No clip goes so far [m, rad] or turns so fast [rad/s]."""


@dataclass(frozen=True)
class ClipTable:
    """The clip inside a policy file, looked up between its frames.

    Columns are the contract's joints. Base and joints make the whole motion, by kinematics.
    """

    fps: float
    """Rows of the tables are frames at this rate [Hz]."""
    joint_pos: np.ndarray
    """(T, J) [rad]"""
    joint_vel: np.ndarray
    """(T, J) [rad/s]"""
    base_pos_w: np.ndarray
    """(T, 3) [m]"""
    base_quat_wxyz: np.ndarray
    """(T, 4)"""
    anchor_pos_w: np.ndarray
    """(T, 3) [m]"""
    anchor_quat_wxyz: np.ndarray
    """(T, 4)"""

    def __post_init__(self) -> None:
        """Take the signs out of the attitudes, which ``at`` blends number by number."""
        for name in ("base_quat_wxyz", "anchor_quat_wxyz"):
            object.__setattr__(self, name, rotation.continuous(getattr(self, name)))

    def at(self, table: np.ndarray, time_s: np.ndarray) -> np.ndarray:
        """Rows of ``table`` at times (N,) [s], linear between frames, held at the ends."""
        last = len(table) - 1
        position = np.clip(time_s * self.fps, 0.0, last)
        before = np.minimum(position.astype(int), last - 1)
        weight = (position - before)[:, None]
        return (1.0 - weight) * table[before] + weight * table[before + 1]


class Policy:
    """A network with its contract. Made by ``from_bytes``; use ``golden.load_policy`` for files."""

    def __init__(self, contract: PolicyContract, graph: OnnxGraph, data: bytes) -> None:
        """Check that network and contract fit, and make the onnxruntime session.

        Raises:
            InputError: If names or widths of the network are not those of the contract.
        """
        self.contract = contract
        self.graph = graph
        self.data = data
        self._check_widths()
        self.clip = self._read_clip()
        self._session = open_session(data)
        self._fixed_rows = graph.inputs[contract.input_name][0] == 1
        try:
            self.act(self._probe())
        except Exception as error:  # onnxruntime's errors share no base class
            raise InputError(f"onnxruntime cannot run the policy: {_first_line(error)}") from None

    @classmethod
    def from_bytes(cls, data: bytes) -> Policy:
        """Read a policy that carries our contract.

        Raises:
            InputError: If it is no sound ONNX file or carries no sound contract.
        """
        graph = OnnxGraph.parse(data)
        if METADATA_KEY not in graph.metadata:
            raise InputError(
                "this ONNX file carries no contract: nothing says what its numbers mean; make one "
                "with `asap export --from-onnx FILE --layout NAME --robot NAME --motion FILE`"
            )
        return cls(PolicyContract.from_json(graph.metadata[METADATA_KEY]), graph, data)

    @property
    def sha256(self) -> str:
        """Hash of the file."""
        return hashlib.sha256(self.data).hexdigest()

    def act(self, observation: np.ndarray) -> np.ndarray:
        """Actions (N, A) for observations (N, D) float32, by onnxruntime."""
        if self._fixed_rows and len(observation) != 1:
            return np.concatenate([self.act(row[None]) for row in observation])
        return self._session.run([self.contract.output_name], self._feeds(observation))[0]

    def act_numpy(self, observation: np.ndarray) -> np.ndarray:
        """The same by numpy alone."""
        return self.graph.run(self._feeds(observation))[self.contract.output_name]

    def _feeds(self, observation: np.ndarray) -> Any:
        """The network's inputs; the time step only selects outputs that we read from the table."""
        feeds = {self.contract.input_name: observation}
        if "time_step" in self.graph.inputs:
            rows = 1 if self.graph.inputs["time_step"][0] == 1 else len(observation)
            feeds["time_step"] = np.zeros((rows, 1), np.float32)
        return feeds

    def _probe(self) -> np.ndarray:
        """An observation to try the network with."""
        return np.zeros((1, len(self.contract.element_names)), np.float32)

    def _check_widths(self) -> None:
        contract, graph = self.contract, self.graph
        extra = set(graph.inputs) - {contract.input_name, "time_step"}
        if contract.input_name not in graph.inputs or extra:
            raise InputError(
                f"the network's inputs are {sorted(graph.inputs)}, the contract names "
                f"'{contract.input_name}'"
            )
        if contract.output_name not in graph.outputs:
            raise InputError(
                f"the network's outputs are {sorted(graph.outputs)}, the contract names "
                f"'{contract.output_name}'"
            )
        for shape, size, what in (
            (graph.inputs[contract.input_name], len(contract.element_names), "input"),
            (graph.outputs[contract.output_name], len(contract.action_joint_names), "output"),
        ):
            if len(shape) != 2 or shape[1] != size:
                raise InputError(
                    f"the network's {what} has shape {shape}, the contract says (N, {size})"
                )
        try:
            action = self.act_numpy(self._probe())
        except (ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError,
                MemoryError) as error:  # fmt: skip
            raise InputError(f"the network cannot be evaluated: {_first_line(error)}") from None
        if action.shape != (1, len(contract.action_joint_names)):
            raise InputError(f"the network gives shape {action.shape} for one observation")

    def _read_clip(self) -> Optional[ClipTable]:
        """The clip's tables, where the contract says that there are some."""
        facts, graph = self.contract.clip, self.graph
        if facts is None or "joint_pos" not in graph.outputs:
            if (
                self.contract.offset_mode == "reference"
                or LAYOUTS[self.contract.layout].needs_reference
            ):
                raise InputError("the policy needs its clip, and the ONNX file holds none")
            return None
        joints = len(self.contract.joint_names)
        widths = {"joint_pos": joints, "joint_vel": joints, "base_pos_w": 3, "base_quat_wxyz": 4,
                  "anchor_pos_w": 3, "anchor_quat_wxyz": 4}  # fmt: skip
        tables = {name: graph.clip_table(name).astype(np.float64) for name in widths}
        for name, width in widths.items():
            if tables[name].shape != (facts.frames, width):
                raise InputError(
                    f"the clip inside the ONNX file has {name} of shape {tables[name].shape}, the "
                    f"contract says {(facts.frames, width)}"
                )
            if not (np.abs(tables[name]) < ABSURD).all():  # False for NaN as well
                raise InputError(
                    f"the clip inside the ONNX file has {name} with numbers that are none of a "
                    f"motion: not finite, or {ABSURD:g} and more"
                )
            norm = np.linalg.norm(tables[name], axis=-1)
            if name.endswith("quat_wxyz") and np.abs(norm - 1.0).max() > 1e-3:
                raise InputError(
                    "the clip inside the ONNX file has attitudes that are not unit length"
                )
        return ClipTable(fps=facts.fps, **tables)


def open_session(data: bytes) -> Any:
    """An onnxruntime session with one thread that does not spin.

    Default options keep a core busy between steps and were measured with 4 ms at the 99th
    percentile, against 0.1 ms so. The model comes from bytes: no path, so no external file.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no base class
        raise InputError(f"onnxruntime cannot load the policy: {_first_line(error)}") from None


def _first_line(error: BaseException) -> str:
    """What an error says, short enough for one line of ours."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
