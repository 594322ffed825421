"""Everything that a policy assumes, in one lossless JSON that travels inside its ONNX file.

Numbers keep all their digits. An unknown key, a missing one, a feature that this program does not
know or a number that is not finite is refused: a silent disagreement between training and robot
is how robots fall.

    contract = PolicyContract.from_json(text)
    contract.to_json() == text
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass, field
from typing import Any, Dict, FrozenSet, List, Mapping, Optional, Tuple

import numpy as np

from asap_deploy.errors import InputError, suggestion
from asap_deploy.observation import LAYOUTS

METADATA_KEY = "asap.contract"
GOLDEN_KEY = "asap.golden"
SCHEMA_VERSION = 1
MAX_JOINTS = 512
"""Longer lists are not those of a robot, and comparing them would take forever."""

OFFSET_MODES = ("default", "reference")
FEATURES: FrozenSet[str] = frozenset(
    [f"layout:{name}" for name in LAYOUTS]
    + [f"offset:{mode}" for mode in OFFSET_MODES]
    + ["target:clip-to-joint-limits"]
)
"""What a contract may say that its reader must understand."""

Floats = Tuple[float, ...]
Names = Tuple[str, ...]


@dataclass(frozen=True)
class AnchorLink:
    """One step of the chain from the base to the anchor body: a fixed frame, then a hinge."""

    pos: Floats
    quat_wxyz: Floats
    axis: Floats = (0.0, 0.0, 1.0)
    joint: str = ""
    """Empty where the link does not move."""

    def __post_init__(self) -> None:
        """Refuse what is not a frame and an axis."""
        for values, size in ((self.pos, 3), (self.quat_wxyz, 4), (self.axis, 3)):
            if len(values) != size or not all(abs(v) <= 10.0 for v in values):
                raise InputError(f"anchor_chain holds {values}, expected {size} numbers up to 10")


@dataclass(frozen=True)
class ClipFacts:
    """Which reference motion the policy tracks, and how its phase runs."""

    name: str
    sha256: str
    fps: float
    frames: int
    duration_s: float
    """Time in which the phase goes from 0 to 1 [s]."""
    phase_lead_s: float = 0.0
    """The phase that the policy sees is this far ahead of the time [s]."""


@dataclass(frozen=True)
class PolicyContract:
    """What the runtime must know; J joints under PD control, of which A are commanded."""

    robot: str
    mode_machine: Tuple[int, ...]
    """Values of the robot's own variant number that this policy fits; empty: any."""
    joint_names: Names
    """Every joint whose PD target the runtime sends, J."""
    observed_joint_names: Names
    """Joints that the observation holds, in its order."""
    action_joint_names: Names
    """Joints that the network commands, in the order of its output, A."""
    default_joint_pos: Floats
    """(J,) [rad]; joints that are not commanded are held here"""
    stiffness: Floats
    """(J,) [Nm/rad]"""
    damping: Floats
    """(J,) [Nms/rad]"""
    torque_limit: Floats
    """(J,) [Nm]"""
    joint_vel_limit: Floats
    """(J,) [rad/s]"""
    joint_pos_lower: Floats
    """(J,) [rad]"""
    joint_pos_upper: Floats
    """(J,) [rad]"""
    action_scale: Floats
    """(A,) [rad]"""
    action_limit: float
    """The network's output is clipped to +- this, unitless."""
    offset_mode: str
    """``default``: target = default + scale * action; ``reference``: the clip + scale * action."""
    control_dt: float
    """[s]"""
    layout: str
    element_names: Names
    """A name for every number of the observation."""
    input_name: str
    output_name: str
    clip: Optional[ClipFacts] = None
    """Absent for a policy that follows commands."""
    anchor_chain: Tuple[AnchorLink, ...] = ()
    clip_target_to_limits: bool = True
    quat_order: str = "wxyz"
    must_understand: Names = ()
    provenance: Mapping[str, str] = field(default_factory=dict)
    """Free text by key: programs and versions, hashes of inputs, integrator, warnings."""
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        """Check that all parts fit together.

        Raises:
            InputError: Naming the first thing that does not.
        """
        if not self.must_understand:
            object.__setattr__(self, "must_understand", tuple(sorted(self.features())))
        self._check_versions()
        self._check_names()
        self._check_numbers()

    def features(self) -> List[str]:
        """What a reader must know to run this policy rightly."""
        found = [f"layout:{self.layout}", f"offset:{self.offset_mode}"]
        return found + ["target:clip-to-joint-limits"] * self.clip_target_to_limits

    def to_json(self) -> str:
        """The contract as text; floats keep all their digits."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, allow_nan=False)

    @property
    def sha256(self) -> str:
        """Of the text as this program writes it: says which policy a log or a file speaks of."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @classmethod
    def from_json(cls, text: str) -> PolicyContract:
        """Read a contract.

        Raises:
            InputError: On broken JSON, unknown or missing keys, wrong types or bad values.
        """
        try:
            raw = json.loads(
                text, parse_constant=_refuse_constant, object_pairs_hook=_each_key_once
            )
        except (ValueError, RecursionError) as error:
            raise InputError(f"policy contract is not valid JSON: {error}") from None
        version = raw.get("schema_version") if isinstance(raw, dict) else None
        if version != SCHEMA_VERSION:
            raise InputError(
                f"policy contract has schema version {version}, this program reads "
                f"{SCHEMA_VERSION}; export the policy again or update asap-deploy"
            )
        return _build(cls, raw, "contract")

    def index(self, names: Names) -> np.ndarray:
        """Positions of these joints within ``joint_names``."""
        return np.array([self.joint_names.index(name) for name in names], dtype=np.intp)

    @property
    def held_joint_names(self) -> Names:
        """Joints that are under PD control but not commanded, in robot order."""
        return tuple(name for name in self.joint_names if name not in self.action_joint_names)

    def _check_versions(self) -> None:
        if self.quat_order != "wxyz":
            raise InputError(f"policy contract has quat_order '{self.quat_order}', only wxyz is")
        if self.offset_mode not in OFFSET_MODES:
            raise InputError(
                f"policy contract has offset_mode '{self.offset_mode}'"
                f"{suggestion(self.offset_mode, OFFSET_MODES)}"
            )
        if self.layout not in LAYOUTS:
            raise InputError(
                f"policy contract has layout '{self.layout}'{suggestion(self.layout, LAYOUTS)}"
            )
        unknown = [name for name in self.must_understand if name not in FEATURES]
        if unknown:
            raise InputError(
                f"this policy needs '{unknown[0]}', which this program does not know; "
                "update asap-deploy"
            )
        unsaid = [name for name in self.features() if name not in self.must_understand]
        if unsaid:
            raise InputError(f"policy contract uses '{unsaid[0]}' but must_understand omits it")

    def _check_names(self) -> None:
        for what in ("joint_names", "observed_joint_names", "action_joint_names"):
            names = getattr(self, what)
            if len(names) > MAX_JOINTS:
                raise InputError(
                    f"policy contract lists {len(names)} {what}, at most {MAX_JOINTS} are read"
                )
            if not names or len(set(names)) != len(names):
                raise InputError(f"policy contract has an empty or repeated name in {what}")
            for name in names:
                if name not in self.joint_names:
                    near = suggestion(name, self.joint_names)
                    raise InputError(f"{what} holds '{name}', which joint_names does not{near}")
        layout = LAYOUTS[self.layout]
        expected = layout.element_names(
            self.observed_joint_names, self.action_joint_names, self.held_joint_names
        )
        if self.element_names != expected:
            pairs = list(zip(self.element_names, expected))
            first = next((pair for pair in pairs if pair[0] != pair[1]), None)
            detail = f"; the first that differs: {first[0]} for {first[1]}" if first else ""
            raise InputError(
                f"observation of the policy has {len(self.element_names)} elements, layout "
                f"'{self.layout}' builds {len(expected)} here{detail}"
            )
        if (self.offset_mode == "reference" or layout.needs_reference) and self.clip is None:
            raise InputError("policy contract needs a clip and names none")
        if len(self.anchor_chain) > MAX_JOINTS:
            raise InputError(f"anchor_chain has {len(self.anchor_chain)} links")
        for link in self.anchor_chain:
            if link.joint and link.joint not in self.joint_names:
                raise InputError(f"anchor_chain holds unknown joint '{link.joint}'")

    def _check_numbers(self) -> None:
        joints, actions = len(self.joint_names), len(self.action_joint_names)
        per_joint = ("default_joint_pos", "stiffness", "damping", "torque_limit",
                     "joint_vel_limit", "joint_pos_lower", "joint_pos_upper")  # fmt: skip
        for name in (*per_joint, "action_scale"):
            values = getattr(self, name)
            size = actions if name == "action_scale" else joints
            if len(values) != size or not all(math.isfinite(v) and abs(v) < 1e6 for v in values):
                raise InputError(f"policy contract: {name} must hold {size} finite numbers")
        positive = ("torque_limit", "joint_vel_limit", "action_scale")
        for name in positive:
            if min(getattr(self, name)) <= 0.0:
                raise InputError(f"policy contract: {name} must be positive")
        if min(self.stiffness) < 0.0 or min(self.damping) < 0.0:
            raise InputError("policy contract: stiffness and damping must not be negative")
        if any(low > high for low, high in zip(self.joint_pos_lower, self.joint_pos_upper)):
            raise InputError("policy contract: joint_pos_lower is above joint_pos_upper")
        if not 0.001 <= self.control_dt <= 0.2:
            raise InputError(
                f"policy contract: control_dt is {self.control_dt} s, not 0.001 to 0.2"
            )
        if not 0.0 < self.action_limit <= 1e4:
            raise InputError(f"policy contract: action_limit is {self.action_limit}")
        if self.clip is not None and not (
            0.0 < self.clip.duration_s < 3600.0
            and 1.0 <= self.clip.fps <= 1000.0
            and 2 <= self.clip.frames < 10_000_000
            and 0.0 <= self.clip.phase_lead_s < 1.0
        ):
            raise InputError(f"policy contract: clip facts are out of range: {self.clip}")


def _refuse_constant(name: str) -> float:
    """NaN and Infinity are no JSON, whatever Python's reader thinks."""
    raise ValueError(f"{name} is not a number that a contract may hold")


def _each_key_once(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    """JSON lets a key stand twice; which one would count is nobody's decision."""
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key '{twice}' stands twice")
    return found


_TEXT, _WHOLE, _NUMBER, _FLAG = str, int, float, bool


def _build(kind: Any, raw: Any, where: str) -> Any:
    """A dataclass from a JSON object: every key known, none missing, every type right."""
    if not isinstance(raw, dict):
        raise InputError(f"policy {where} must be a JSON object, got {type(raw).__name__}")
    fields = {f.name: f for f in dataclasses.fields(kind)}
    for key in raw:
        if key not in fields:
            raise InputError(f"policy {where} has unknown key '{key}'{suggestion(key, fields)}")
    missing = [name for name in fields if name not in raw]
    if missing:
        raise InputError(f"policy {where} lacks the key '{missing[0]}'")
    return kind(**{key: _convert(str(fields[key].type), raw[key], f"{where}.{key}") for key in raw})


def _convert(kind: str, value: Any, where: str) -> Any:
    """One JSON value as the type that the field's annotation names."""
    scalars: Dict[str, Any] = {"str": _TEXT, "int": _WHOLE, "float": _NUMBER, "bool": _FLAG}
    if kind in scalars:
        return _scalar(scalars[kind], value, where)
    if kind in ("Floats", "Names", "Tuple[int, ...]", "Tuple[AnchorLink, ...]"):
        if not isinstance(value, list):
            raise InputError(f"policy {where} must be a list")
        if kind == "Tuple[AnchorLink, ...]":
            return tuple(_build(AnchorLink, item, where) for item in value)
        each = {"Floats": _NUMBER, "Names": _TEXT}.get(kind, _WHOLE)
        return tuple(_scalar(each, item, where) for item in value)
    if kind == "Optional[ClipFacts]":
        return None if value is None else _build(ClipFacts, value, where)
    assert kind == "Mapping[str, str]", kind
    if not isinstance(value, dict):
        raise InputError(f"policy {where} must be a JSON object")
    return {str(key): _scalar(_TEXT, text, where) for key, text in value.items()}


def _scalar(kind: Any, value: Any, where: str) -> Any:
    """A single value of exactly this type; whole numbers may stand for floats."""
    if kind is _NUMBER and type(value) is int and abs(value) < 1 << 53:
        return float(value)
    if type(value) is not kind:
        raise InputError(f"policy {where} must be {kind.__name__}, got {str(value)[:40]!r}")
    return value
