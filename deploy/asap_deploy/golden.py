"""Golden vectors: what a policy did when it was exported, replayed before it is trusted.

A policy file carries a short sequence of measurements with the observations, actions and targets
that came out. A loader replays it twice, with onnxruntime and with numpy, through the very
runtime that will drive the robot. A changed network, contract, layout or library shows here.

    policy = load_policy("policies/g1/stand.onnx")
"""

from __future__ import annotations

import base64
import binascii
import json
from pathlib import Path
from typing import Any, Dict, Union

import numpy as np

from asap_deploy.contract import GOLDEN_KEY
from asap_deploy.errors import InputError
from asap_deploy.observation import Measurement
from asap_deploy.onnx_graph import MAX_BYTES
from asap_deploy.policy import Evaluator, Policy
from asap_deploy.runtime import Runtime, RuntimeStep

CONTRACT_HASH = "contract_sha256"
MIN_STEPS, MAX_STEPS = 16, 1000
STEPS = 20
OBSERVATION_TOLERANCE = 1e-4
ACTION_TOLERANCE = 1e-3
"""Largest difference to the recorded action, relative to max(1, |action|); float32 networks on
different processors agree to about 1e-5."""
TARGET_TOLERANCE = 1e-6
"""Largest difference of a target made from a recorded action [rad]; a wrist's action scale that was
rounded to three decimals is off by 1e-4."""

_MEASURED = ("joint_pos", "joint_vel", "base_quat_wxyz", "base_ang_vel_b", "base_pos_w",
             "base_lin_vel_w")  # fmt: skip


def load_policy(path: Union[str, Path]) -> Policy:
    """Read a policy file and replay its golden vectors with both engines.

    Raises:
        InputError: If the file, its contract or its behaviour is not what it was at export.
    """
    data = read_policy_bytes(path)
    try:
        policy = Policy.from_bytes(data)
        verify(policy)
    except InputError as error:
        raise InputError(str(error), file=path) from None
    return policy


def read_policy_bytes(path: Union[str, Path]) -> bytes:
    """The bytes of a policy file, unless it is far too large to be one.

    Raises:
        InputError: If it cannot be read or is too large.
    """
    try:
        size = Path(path).stat().st_size
        if size > MAX_BYTES:
            raise InputError(f"ONNX file has {size >> 20} MB, at most {MAX_BYTES >> 20}", file=path)
        return Path(path).read_bytes()
    except InputError:
        raise
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(f"policy cannot be read: {why}", file=path) from None


def record(policy: Policy, seed: int = 0) -> str:
    """Golden vectors of a policy as JSON text, from a made-up but plausible sequence.

    Args:
        policy: Network and contract, not yet carrying golden vectors.
        seed: Of the sequence.
    """
    rng = np.random.default_rng(seed)
    joints = len(policy.contract.joint_names)
    wander = np.cumsum(rng.normal(0.0, 0.02, (STEPS, joints)), axis=0)
    quat = np.concatenate([np.ones((STEPS, 1)), rng.normal(0.0, 0.05, (STEPS, 3))], axis=1)
    vectors = {
        "joint_pos": np.array(policy.contract.default_joint_pos) + wander,
        "joint_vel": rng.normal(0.0, 0.5, (STEPS, joints)),
        "base_quat_wxyz": quat / np.linalg.norm(quat, axis=1, keepdims=True),
        "base_ang_vel_b": rng.normal(0.0, 0.3, (STEPS, 3)),
        "base_pos_w": np.array([0.0, 0.0, 0.75]) + rng.normal(0.0, 0.02, (STEPS, 3)),
        "base_lin_vel_w": rng.normal(0.0, 0.2, (STEPS, 3)),
        "time_s": np.arange(STEPS) * policy.contract.control_dt,
    }
    steps = _replay(policy, vectors, policy.act)
    vectors["observation"] = np.concatenate([step.observation for step in steps])
    vectors["action"] = np.concatenate([step.action for step in steps])
    vectors["joint_pos_target"] = np.concatenate([step.joint_pos_target for step in steps])
    packed: Dict[str, Any] = {name: _pack(array) for name, array in vectors.items()}
    # Vectors cannot show gains and limits, which act in the motors: their text is hashed.
    packed[CONTRACT_HASH] = policy.contract.sha256
    return json.dumps(packed, sort_keys=True)


def verify(policy: Policy) -> float:
    """Replay a policy's golden vectors with onnxruntime and numpy.

    The recorded actions are replayed first: what the contract makes of them is exact, so that a
    rounded number is not hidden by the tolerance that networks need.

    Returns:
        The largest difference of an action to the recorded one.

    Raises:
        InputError: If there are none, too few, or they are not reproduced.
    """
    text = policy.graph.metadata.get(GOLDEN_KEY)
    if text is None:
        raise InputError("policy carries no golden vectors; export it again with `asap export`")
    vectors = _unpack(policy, text)
    worst, actions = 0.0, iter(vectors["action"])
    for engine, evaluator, target_tolerance in (
        ("the contract", lambda observation: next(actions)[None], TARGET_TOLERANCE),
        ("onnxruntime", policy.act, ACTION_TOLERANCE),
        ("numpy", policy.act_numpy, ACTION_TOLERANCE),
    ):
        steps = _replay(policy, vectors, evaluator)
        for name, tolerance in (
            ("observation", OBSERVATION_TOLERANCE),
            ("action", ACTION_TOLERANCE),
            ("joint_pos_target", target_tolerance),
        ):
            got = np.concatenate([getattr(step, name) for step in steps])
            size = np.maximum(1.0, np.abs(vectors[name]))
            difference = float((np.abs(got - vectors[name]) / size).max())
            if not difference <= tolerance:
                raise InputError(
                    f"golden vectors are not reproduced by {engine}: {name} differs by "
                    f"{difference:.2g}, at most {tolerance:g} is accepted; the file was changed "
                    "after its export or this machine computes wrongly"
                )
            worst = max(worst, difference if name == "action" else 0.0)
    if _stored_hash(text) != policy.contract.sha256:
        raise InputError(
            "the contract was changed after the policy was exported: its hash is not the recorded "
            "one; export the policy again"
        )
    return worst


def _replay(policy: Policy, vectors: Dict[str, np.ndarray], evaluator: Evaluator) -> Any:
    """The sequence through a runtime of one robot whose joints are the contract's."""
    runtime = Runtime(policy, policy.contract.joint_names, evaluator=evaluator)
    steps = []
    for row, time_s in enumerate(vectors["time_s"]):
        measurement = Measurement(**{name: vectors[name][row : row + 1] for name in _MEASURED})
        step: RuntimeStep = runtime.step(measurement, np.array([time_s]))
        steps.append(step)
    return steps


def _stored_hash(text: str) -> Any:
    """The hash among the golden vectors."""
    try:
        return json.loads(text)[CONTRACT_HASH]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(f"golden vectors of the policy are damaged: {error}") from None


def _pack(array: np.ndarray) -> Dict[str, Any]:
    """An array as JSON, to the bit."""
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    data = base64.b64encode(array.tobytes()).decode("ascii")
    return {"shape": list(array.shape), "dtype": array.dtype.str, "data": data}


def _unpack(policy: Policy, text: str) -> Dict[str, np.ndarray]:
    """Golden vectors from JSON, of the shapes that the contract asks for."""
    contract = policy.contract
    joints = len(contract.joint_names)
    widths = {
        "joint_pos": joints,
        "joint_vel": joints,
        "base_quat_wxyz": 4,
        "base_ang_vel_b": 3,
        "base_pos_w": 3,
        "base_lin_vel_w": 3,
        "observation": len(contract.element_names),
        "action": len(contract.action_joint_names),
        "joint_pos_target": joints,
    }
    try:
        raw = json.loads(text)
        vectors = {}
        for name, entry in raw.items():
            if name == CONTRACT_HASH:
                continue
            if entry["dtype"] not in ("<f4", "<f8"):
                raise ValueError(f"{name} has type {entry['dtype']}")
            data = base64.b64decode(entry["data"], validate=True)
            vectors[name] = np.frombuffer(data, entry["dtype"]).reshape(entry["shape"])
            if not np.isfinite(vectors[name]).all():
                raise ValueError(f"{name} holds values that are not finite")
        steps = len(vectors["time_s"])
        if vectors["time_s"].shape != (steps,):
            raise ValueError(f"time_s has shape {vectors['time_s'].shape}")
        for name, width in widths.items():
            if vectors[name].shape != (steps, width):
                raise ValueError(f"{name} has shape {vectors[name].shape}")
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError,
            binascii.Error) as error:  # fmt: skip
        raise InputError(f"golden vectors of the policy are damaged: {error}") from None
    if steps < MIN_STEPS:
        raise InputError(f"policy has {steps} golden vectors, at least {MIN_STEPS} are needed")
    if steps > MAX_STEPS:
        raise InputError(f"policy has {steps} golden vectors, at most {MAX_STEPS} are replayed")
    return vectors
