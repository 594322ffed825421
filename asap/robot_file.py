"""robot.toml: reading, checking and layering the facts that an MJCF file cannot hold.

A robot is described once; a variant (a table in the same file) and a twin (a file of its own) are
layers that override parts of it. Later layers and, within a layer, later patterns win.

    facts = read_facts(Path("robots/g1"), variant="asap", twin=None)
    facts.joint("left_knee_joint", {})["stiffness"]       # 200.0 [Nm/rad]
"""

from __future__ import annotations

import dataclasses
import math
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from asap_deploy.errors import InputError, suggestion

FILE_NAME = "robot.toml"
MAX_TOML_BYTES = 1 << 20
SELF_COLLISION = ("none", "legs", "full")
FLOOR_CONTACT = ("feet", "all")
ENGINES = ("mujoco", "bullet")
INTEGRATORS = ("euler", "rk4", "implicit", "implicitfast", "discrete")

# A key that says the same thing in another way replaces what an earlier layer said.
_ALTERNATIVES = {
    "stiffness": "natural_frequency_hz",
    "damping": "damping_ratio",
    "action_scale": "action_torque_fraction",
}
_ALTERNATIVES |= {new: old for old, new in _ALTERNATIVES.items()}


def _is_number(value: Any) -> bool:
    """True for a finite number that is not a bool."""
    is_real = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_real and abs(value) < 1e12 and math.isfinite(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 1000


def _list_of(check: Callable[[Any], bool], length: int | None = None) -> Callable[[Any], bool]:
    """A check for a list (of a length) whose items all pass a check."""

    def is_list(value: Any) -> bool:
        fits = isinstance(value, list) and length in (None, len(value)) and len(value) <= 1000
        return fits and all(check(item) for item in value)

    return is_list


_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "text": (_is_text, "a text"),
    "texts": (_list_of(_is_text), "a list of names"),
    "flag": (lambda v: isinstance(v, bool), "true or false"),
    "number": (_is_number, "a finite number"),
    "positive": (lambda v: _is_number(v) and v > 0, "a number above 0"),
    "nonnegative": (lambda v: _is_number(v) and v >= 0, "a number, 0 or above"),
    "fraction": (lambda v: _is_number(v) and 0 <= v < 1, "a number from 0 to below 1"),
    "integers": (_list_of(lambda v: type(v) is int), "a list of whole numbers"),
    "pair": (_list_of(_is_number, 2), "two finite numbers"),
    "vector": (_list_of(_is_number, 3), "three finite numbers"),
    "quat": (
        lambda v: _list_of(_is_number, 4)(v) and abs(math.hypot(*v) - 1.0) < 1e-3,
        "a unit quaternion w x y z",
    ),
    "self_collision": (lambda v: v in SELF_COLLISION, f"one of {', '.join(SELF_COLLISION)}"),
    "floor_contact": (lambda v: v in FLOOR_CONTACT, f"one of {', '.join(FLOOR_CONTACT)}"),
    "engine": (lambda v: v in ENGINES, f"one of {', '.join(ENGINES)}"),
    "integrator": (lambda v: v in INTEGRATORS, f"one of {', '.join(INTEGRATORS)}"),
}

_MOTOR_KEYS = {
    "torque_limit": "positive",
    "velocity_limit": "positive",
    "armature": "nonnegative",
    "stiffness": "nonnegative",
    "damping": "nonnegative",
    "passive_damping": "nonnegative",
    "frictionloss": "nonnegative",
    "delay_s": "nonnegative",
    "encoder_bias": "number",
    "natural_frequency_hz": "positive",
    "damping_ratio": "nonnegative",
    "action_scale": "nonnegative",
    "action_torque_fraction": "positive",
}
_SCALE_KEYS = dict.fromkeys(
    ("torque_limit", "armature", "stiffness", "damping", "passive_damping", "frictionloss"),
    "nonnegative",
)
_JOINT_KEYS: dict[str, Any] = _MOTOR_KEYS | {
    "motor": "text",
    "default_pos": "number",
    "range": "pair",
    "action": "flag",
    "welded": "flag",
    "scale": _SCALE_KEYS,
}
_BODY_KEYS = {
    "pos": "vector",
    "quat": "quat",
    "mass": "positive",
    "com": "vector",
    "inertia": "vector",
    "inertia_quat": "quat",
    "mass_scale": "positive",
    "com_offset": "vector",
    "geom_offset": "vector",
}
_CONTACT_KEYS = {"friction": "nonnegative", "solref": "pair"}
_PLAIN_KEYS = {
    "about": "text",
    "mjcf": "text",
    "base": "text",
    "anchor": "text",
    "feet": "texts",
    "key_bodies": "texts",
    "link_bodies": "texts",
    "mode_machine": "integers",
    "physics_dt": "positive",
    "control_dt": "positive",
    "integrator": "integrator",
    "self_collision": "self_collision",
    "floor_contact": "floor_contact",
    "remove_geoms": "texts",
}
# Cheaper shapes for training; what a policy relies on stays.
_TRAINING_KEYS = {
    "self_collision": "self_collision",
    "floor_contact": "floor_contact",
    "remove_geoms": "texts",
}
# "*" stands for any name of the user's choice.
_LAYER_KEYS: dict[str, Any] = _PLAIN_KEYS | {
    "training": _TRAINING_KEYS,
    "virtual_points": {"*": {"body": "text", "offset": "vector"}},
    "motors": {"*": _MOTOR_KEYS},
    "joints": {"*": _JOINT_KEYS},
    "bodies": {"*": _BODY_KEYS},
    "foot_contact": _CONTACT_KEYS,
}
_FILE_KEYS = _LAYER_KEYS | {"variants": {"*": _LAYER_KEYS}}
# What no number of the simulated model can say; see asap/twin.py.
_EFFECT_KEYS = {
    "droop_speed": "positive",
    "dead_band": "nonnegative",
    "load_friction": "nonnegative",
}
_SENSOR_KEYS = {
    "joint_pos_noise": "nonnegative",
    "joint_pos_step": "nonnegative",
    "joint_vel_noise": "nonnegative",
    "ang_vel_noise": "nonnegative",
    "tilt_noise": "nonnegative",
    "imu_misalignment": "vector",
    "packet_loss": "fraction",
    "delay_jitter_s": "nonnegative",
    "clock_drift": "number",
    "clock_jitter_s": "nonnegative",
}
# A twin is the same robot with other physics: what a policy relies on cannot differ.
_TWIN_KEYS: dict[str, Any] = {
    "about": "text",
    "engine": "engine",
    "joints": {"*": {k: v for k, v in _JOINT_KEYS.items() if not k.startswith("action")}},
    "bodies": {"*": _BODY_KEYS},
    "foot_contact": _CONTACT_KEYS,
    "self_collision": "self_collision",
    "floor_contact": "floor_contact",
    "remove_geoms": "texts",
    "physics_dt": "positive",
    "integrator": "integrator",
    "motor_effects": {"*": _EFFECT_KEYS},
    "sensors": _SENSOR_KEYS,
}


@dataclass(frozen=True, kw_only=True)
class RobotFacts:
    """What the layers of one robot say together."""

    file: Path
    """The robot.toml, for error texts."""
    layers: tuple[Mapping[str, Any], ...]
    """Checked tables: the robot, its variant, its twin; the last is named by ``twin_file``."""
    twin_file: Path | None

    def for_training(self) -> RobotFacts:
        """The same with what the ``[training]`` tables say laid over it, below the twin."""
        place = len(self.layers) - (self.twin_file is not None)
        layers = (*self.layers[:place], self.table("training"), *self.layers[place:])
        return dataclasses.replace(self, layers=layers)

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a plain key in the last layer that has it."""
        values = [layer[key] for layer in self.layers if key in layer]
        return values[-1] if values else default

    def table(self, key: str) -> dict[str, Any]:
        """A table of tables or values; those of later layers are laid over the earlier ones."""
        merged: dict[str, Any] = {}
        for layer in self.layers:
            for name, value in layer.get(key, {}).items():
                old = merged.get(name)
                if isinstance(value, dict) and isinstance(old, dict):
                    merged[name] = old | value
                else:
                    merged[name] = value
        return merged

    def patterns(self) -> list[tuple[str, Path]]:
        """Every joint pattern with the file that has it, to report those that match nothing."""
        twin = len(self.layers) - 1 if self.twin_file else -1
        return [
            (pattern, self.twin_file if number == twin and self.twin_file else self.file)
            for number, layer in enumerate(self.layers)
            for pattern in layer.get("joints", {})
        ]

    def joint(
        self, name: str, fallback: Mapping[str, Any], *, derive: bool = True
    ) -> dict[str, Any]:
        """All facts about one joint as plain numbers.

        Gains given as a natural frequency and a damping ratio become

            stiffness = armature (2 pi f)^2        damping = 2 ratio armature 2 pi f

        and an action scale given as a fraction is that fraction of the position error at which
        the motor saturates, ``fraction * torque_limit / stiffness``. They are derived before the
        twin's layer: a worn motor does not change what an action means.

        Args:
            name: Name of the joint.
            fallback: What the MJCF says, where no layer says anything.
            derive: False leaves frequencies and fractions as they are written.

        Returns:
            Keys of the ``[joints]`` tables; absent ones were given nowhere.

        Raises:
            InputError: If a motor is not described, or a derived number lacks what it needs.
        """
        values = dict(fallback)
        scale: dict[str, float] = {}
        motors = self.table("motors")
        for layer in self.layers:
            is_twin = self.twin_file is not None and layer is self.layers[-1]
            values = self._derived(name, values) if is_twin and derive else values
            for pattern, entry in layer.get("joints", {}).items():
                if fnmatchcase(name, pattern):
                    values = self._laid_over(values, entry, motors)
                    scale |= entry.get("scale", {})
        values = self._derived(name, values) if derive else values
        return values | {key: values.get(key, 0.0) * factor for key, factor in scale.items()}

    def _laid_over(
        self, values: dict[str, Any], entry: Mapping[str, Any], motors: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Facts of a joint after one more table, its motor's numbers first."""
        motor = entry.get("motor")
        if motor is not None and motor not in motors:
            hint = suggestion(motor, motors)
            raise InputError(f"motor '{motor}' has no [motors] table{hint}", file=self.file)
        new = {**(motors[motor] if motor is not None else {}), **entry}
        new.pop("scale", None)
        replaced = {_ALTERNATIVES[key] for key in new if key in _ALTERNATIVES}
        return {key: value for key, value in values.items() if key not in replaced} | new

    def _derived(self, name: str, values: dict[str, Any]) -> dict[str, Any]:
        """Facts of a joint with frequency, damping ratio and torque fraction worked out."""
        done = dict(values)
        try:
            omega = 2.0 * math.pi * done.pop("natural_frequency_hz", math.nan)
            if not math.isnan(omega):
                done["stiffness"] = done["armature"] * omega**2
            ratio = done.pop("damping_ratio", None)
            if ratio is not None:
                done["damping"] = 2.0 * ratio * math.sqrt(done["stiffness"] * done["armature"])
            fraction = done.pop("action_torque_fraction", None)
            if fraction is not None:
                done["action_scale"] = fraction * done["torque_limit"] / done["stiffness"]
        except (KeyError, ZeroDivisionError) as error:
            raise InputError(
                f"joint '{name}' has gains or an action scale derived from numbers that are "
                f"absent or zero: needs armature, stiffness and torque_limit ({error})",
                file=self.file,
            ) from None
        return done


def read_facts(folder: Path, *, variant: str | None, twin: str | None) -> RobotFacts:
    """Read a robot's folder.

    Args:
        folder: Folder that holds ``robot.toml``.
        variant: Name of a ``[variants.NAME]`` table, or None.
        twin: Name of a file ``twins/NAME.toml``, or None.

    Returns:
        The layers, checked key by key.

    Raises:
        InputError: If a file cannot be read, a key is unknown or a value is not what it should be.
    """
    file = folder / FILE_NAME
    content = _read_toml(file)
    _check_table(content, _FILE_KEYS, "", file)
    variants = content.pop("variants", {})
    layers = [content]
    if variant is not None:
        if variant not in variants:
            hint = suggestion(variant, variants) if variants else " (the robot has no variants)"
            raise InputError(
                f"variant '{variant}' is not in robot '{folder.name}'{hint}", file=file
            )
        layers.append(variants[variant])
    twin_file = None
    if twin is not None:
        if twin not in twin_names(folder):
            hint = suggestion(twin, twin_names(folder)) or " (the robot has no twins)"
            raise InputError(f"twin '{twin}' is not in robot '{folder.name}'{hint}", file=file)
        twin_file = folder / "twins" / f"{twin}.toml"
        layers.append(_read_toml(twin_file))
        _check_table(layers[-1], _TWIN_KEYS, "", twin_file)
    return RobotFacts(file=file, layers=tuple(layers), twin_file=twin_file)


def variant_names(folder: Path) -> list[str]:
    """Names of the variants of a robot, in the order of its robot.toml."""
    variants = _read_toml(folder / FILE_NAME).get("variants", {})
    return list(variants) if isinstance(variants, dict) else []


def twin_names(folder: Path) -> list[str]:
    """Names of the twins of a robot, sorted."""
    files = (folder / "twins").glob("*.toml")
    return sorted(f.stem for f in files if re.fullmatch(r"[\w.-]+", f.stem))


def _read_toml(file: Path) -> dict[str, Any]:
    """A TOML file as a dict, or one line about why not."""
    try:
        if file.stat().st_size > MAX_TOML_BYTES:
            raise InputError(f"file is larger than {MAX_TOML_BYTES >> 20} MB", file=file)
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read the file: {error.strerror}", file=file) from None
    except InputError:
        raise
    except ValueError as error:  # TOML, UTF-8, and whole numbers of thousands of digits
        raise InputError(f"not a TOML file: {error}", file=file) from None
    except RecursionError:
        raise InputError("not a TOML file: nested too deeply", file=file) from None


def _check_table(table: Any, schema: Mapping[str, Any], where: str, file: Path) -> None:
    """Refuse unknown keys and values of the wrong kind, naming the table they stand in."""
    place = f" in [{where}]" if where else ""
    if not isinstance(table, dict):
        raise InputError(f"expected a table{place}, got {str(table)[:40]!r}", file=file)
    for key, value in table.items():
        kind = schema.get(key, schema.get("*"))
        if kind is None:
            raise InputError(f"key '{key}' is unknown{place}{suggestion(key, schema)}", file=file)
        if isinstance(kind, str):
            fits, expected = _KINDS[kind]
            if not fits(value):
                got = f"got {str(value)[:60]}; expected {expected}"
                raise InputError(f"{key}{place} cannot be used; {got}", file=file)
        else:
            _check_table(value, kind, f"{where}.{key}" if where else key, file)
