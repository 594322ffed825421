"""What a fit says about a robot: a correction of its model that every simulation can apply.

    correction = Correction.load("runs/fit/worn/correction.json")
    corrected = correction.robot(Robot.load("g1"))       # replay, evaluate, train on it
    correction.write_mjcf(Robot.load("g1"), "corrected.xml")

Identified parameters are factors of, or additions to, what the model says, so they mean the same
under any gains that a policy sends. The file is JSON: nothing in it can run.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from asap import results
from asap.learned import Learned
from asap.robot import Robot
from asap.twin import MotorEffects
from asap.variation import EFFECTS, FACTORS, QUANTITIES
from asap_deploy.errors import InputError, suggestion
from asap_deploy.npz import write_file

FORMAT, VERSION = "asap-correction", 1
LEARNED_FILE = "learned.onnx"
"""Beside the JSON."""
_MAX_BYTES = 10 << 20
_USUAL_ERROR_RAD = 0.1
"""Between target and joint of a robot that carries itself [rad]."""
_PER_JOINT = (
    "stiffness",
    "damping",
    "armature",
    "added_frictionloss",
    "added_passive_damping",
    "torque_limit",
    "delay_s",
    "encoder_bias",
)


@dataclass(frozen=True, kw_only=True)
class Correction:
    """Identified parameters with where they come from."""

    robot_name: str
    """Robot that it corrects, without a twin."""
    joint_names: tuple[str, ...]
    parameters: Mapping[str, tuple[float, ...]]
    """By quantity of ``asap.variation``: per joint, or the torso's, or one number."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Hashes of logs, versions, seed."""
    heldout: Mapping[str, Any] = field(default_factory=dict)
    """Errors on data that was not fitted, with and without."""
    learned: Learned | None = None
    """What a network adds to targets or states, on top of the parameters."""
    variants: tuple[Mapping[str, tuple[float, ...]], ...] = ()
    """Parameters as parts of the log alone tell them: what the fit does not know."""

    def __post_init__(self) -> None:
        """Check what a file could get wrong.

        Raises:
            InputError: On an unknown quantity, or values that are too few or make no sense.
        """
        widths = dict.fromkeys((*_PER_JOINT, *EFFECTS), len(self.joint_names))
        widths |= {"added_mass_kg": 1, "com_offset_m": 3, "friction": 1, "contact_time": 1}
        every = [pair for one in (self.parameters, *self.variants) for pair in one.items()]
        for name, values in every:
            if name not in widths:
                valid = [q for q in QUANTITIES if q in widths]
                raise InputError(f"correction of unknown '{name}'{suggestion(name, valid)}")
            numbers = np.asarray(values, dtype=float)
            if numbers.shape != (widths[name],) or not np.isfinite(numbers).all():
                raise InputError(f"correction of '{name}' needs {widths[name]} finite numbers")
            positive = name in FACTORS
            if (positive and not (numbers > 0.0).all()) or (
                name in ("delay_s", *EFFECTS) and not (numbers >= 0.0).all()
            ):
                raise InputError(f"correction of '{name}' holds {numbers.min():g}: must be above 0")

    @property
    def empty(self) -> bool:
        """Whether it corrects nothing."""
        return not self.parameters and self.learned is None

    def robot(self, robot: Robot) -> Robot:
        """The robot as the correction says that it is.

        Raises:
            InputError: If it is another robot, or joints are unknown.
        """
        if robot.name.partition("@")[0] != self.robot_name:
            raise InputError(f"correction is of robot '{self.robot_name}', not of '{robot.name}'")
        unknown = sorted(set(robot.joint_names) - set(self.joint_names))
        if unknown:
            raise InputError(f"correction says nothing about joint '{unknown[0]}'")
        order = [self.joint_names.index(name) for name in robot.joint_names]
        changes: dict[str, Any] = {}
        for name in _PER_JOINT:
            if name not in self.parameters:
                continue
            values = np.asarray(self.parameters[name])[order]
            own = name.removeprefix("added_")
            if name in FACTORS:
                changes[own] = getattr(robot, own) * values
            elif name == "delay_s":
                changes[own] = values
            else:
                changes[own] = getattr(robot, own) + values
        name = robot.name if "@" in robot.name else f"{robot.name}@corrected"
        facts = dataclasses.replace(robot.facts, layers=(*robot.facts.layers, self._layer(robot)))
        return robot.with_(name=name, facts=facts, learned=self._learned_for(robot), **changes)

    def variant(self, number: int) -> Correction:
        """What one part of the log alone says."""
        return dataclasses.replace(self, parameters=self.variants[number], variants=())

    def sets(self, numbers: Sequence[int]) -> tuple[dict[str, tuple[float, ...]], ...]:
        """Variants as what differs from the corrected robot, for ``RandomizeConfig.sets``."""
        found = []
        for number in numbers:
            changes = {}
            for name, values in self.parameters.items():
                own = np.asarray(values)
                neutral = own * 0.0 + (1.0 if name in FACTORS else 0.0)
                other = np.asarray(self.variants[number].get(name, neutral))
                if name != "delay_s":  # which stands instead of the robot's own
                    other = other / own if name in FACTORS else other - own
                changes[name] = tuple(float(x) for x in other)
            found.append(changes)
        return tuple(found)

    def _learned_for(self, robot: Robot) -> Learned | None:
        if self.learned is not None and robot.joint_names != self.joint_names:
            raise InputError(
                f"the learned correction is of {len(self.joint_names)} joints and does not fit the "
                f" {len(robot.joint_names)} of robot '{robot.name}'"
            )
        return self.learned

    def _layer(self, robot: Robot) -> dict[str, Any]:
        """Masses and floor as a table of robot.toml."""
        layer: dict[str, Any] = {}
        body: dict[str, Any] = {}
        table = robot.facts.table("bodies").get(robot.anchor_name, {})
        if "added_mass_kg" in self.parameters:
            own = float(robot.model.body(robot.anchor_name).mass[0])
            factor = 1.0 + self.parameters["added_mass_kg"][0] / own
            body["mass_scale"] = table.get("mass_scale", 1.0) * factor
        if "com_offset_m" in self.parameters:
            before = np.asarray(table.get("com_offset", (0.0, 0.0, 0.0)))
            body["com_offset"] = (before + self.parameters["com_offset_m"]).tolist()
        if body:
            layer["bodies"] = {robot.anchor_name: body}
        if contact := self._contact(robot):
            layer["foot_contact"] = contact
        if effects := self._effects(robot):
            layer["motor_effects"] = effects
        return layer

    def _contact(self, robot: Robot) -> dict[str, Any]:
        """How soles and floor meet."""
        feet, model = np.concatenate(robot.foot_geom_ids), robot.model
        found: dict[str, Any] = {}
        if "friction" in self.parameters:
            own = float(model.geom_friction[feet, 0].max())
            found["friction"] = own * self.parameters["friction"][0]
        if "contact_time" in self.parameters:
            time_s, ratio = (float(x) for x in model.geom_solref[feet[0], :2])
            found["solref"] = [time_s * self.parameters["contact_time"][0], ratio]
        return found

    def _effects(self, robot: Robot) -> dict[str, dict[str, float]]:
        """What the motors do beside a PD law, on top of what the robot says, by joint."""
        own = MotorEffects.of(robot)
        found: dict[str, dict[str, float]] = {}
        for name in EFFECTS:
            if name in self.parameters:
                for joint, value in zip(self.joint_names, self.parameters[name], strict=True):
                    if value > 0.0 and joint in robot.joint_names:
                        place = robot.joint_names.index(joint)
                        total = value + float(getattr(own, name)[place])
                        key = {"droop": "droop_speed"}.get(name, name)
                        found.setdefault(joint, {})[key] = 1.0 / total if name == "droop" else total
        return found

    def size_rad(self, robot: Robot) -> float:
        """About how large an offset of targets it amounts to: for noise to compare it with."""
        if self.learned is not None and self.learned.acts_on == "target":
            return float(np.mean(self.learned.contract.bound))
        friction = np.asarray(self.parameters.get("added_frictionloss", 0.0))
        weaker = np.abs(np.asarray(self.parameters.get("stiffness", 1.0)) - 1.0)
        return float(np.mean(np.abs(friction) / robot.stiffness + _USUAL_ERROR_RAD * weaker))

    @property
    def beyond_mjcf(self) -> list[str]:
        """What of it no MJCF can hold."""
        learned = [] if self.learned is None else ["the learned part"]
        return [name for name in EFFECTS if name in self.parameters] + learned

    def write_mjcf(self, robot: Robot, path: Path) -> None:
        """The corrected robot as a plain MJCF for any user of MuJoCo, but for ``beyond_mjcf``."""
        text = self.robot(robot).spec().to_xml()
        write_file(path, text)

    def save(self, path: Path) -> None:
        """Write the file at once or not at all."""
        content = {
            "format": FORMAT,
            "version": VERSION,
            "robot": self.robot_name,
            "joint_names": list(self.joint_names),
            "parameters": {name: list(values) for name, values in self.parameters.items()},
            "provenance": dict(self.provenance),
            "variants": [
                {name: list(values) for name, values in one.items()} for one in self.variants
            ],
            "heldout": dict(self.heldout),
            "learned": None,
        }
        if self.learned is not None:
            self.learned.save(path.with_name(LEARNED_FILE))
            content["learned"] = {"file": LEARNED_FILE, "sha256": _sha256(self.learned.data)}
        results.write_json(path, content)

    @classmethod
    def load(cls, path: Path) -> Correction:
        """Read the file.

        Raises:
            InputError: If it is no correction of a known version, or makes no sense.
        """
        try:
            if path.stat().st_size > _MAX_BYTES:
                raise InputError("too large for a correction", file=path)
            raw = json.loads(path.read_text(encoding="utf-8"))
            found = raw.get("format"), raw.get("version")
            if found != (FORMAT, VERSION):
                raise InputError(
                    f"not a correction of ours: format and version are {found}, expected "
                    f"{(FORMAT, VERSION)}", file=path
                )  # fmt: skip
            return cls(
                robot_name=str(raw["robot"]),
                joint_names=tuple(str(name) for name in raw["joint_names"]),
                parameters=_numbers(raw["parameters"]),
                variants=tuple(_numbers(one) for one in raw.get("variants", ())),
                provenance=dict(raw.get("provenance", {})),
                heldout=dict(raw.get("heldout", {})),
                learned=_load_learned(path, raw.get("learned")),
            )  # fmt: skip
        except InputError as error:
            raise InputError(str(error), file=None if "(file:" in str(error) else path) from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(f"correction cannot be read: {error}", file=path) from None


def _numbers(entry: Mapping[str, Any]) -> dict[str, tuple[float, ...]]:
    return {str(name): tuple(float(x) for x in values) for name, values in entry.items()}


def _load_learned(path: Path, entry: Mapping[str, str] | None) -> Learned | None:
    """The network beside a correction, if it is the one that was written with it."""
    if entry is None:
        return None
    learned = Learned.load(path.with_name(LEARNED_FILE))
    if _sha256(learned.data) != entry["sha256"]:
        raise InputError(f"{LEARNED_FILE} is not the one that this correction was saved with")
    return learned


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
