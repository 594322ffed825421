"""Logs of a robot: what was measured, what was commanded, when.

One row is one moment of the robot's clock. ``joint_pos`` was measured at ``time_s``;
``joint_pos_target`` is the PD target in force **from** ``time_s`` until the next row. What was not
recorded is absent, never zero.

    log = Log.load("real_logs/g1/wave_01.npz")
    log.rate_hz, log.joint_names, log.fields.keys()
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any, Dict, Mapping, Tuple

import numpy as np

from asap_deploy.errors import InputError, suggestion
from asap_deploy.npz import PathLike, check_finite, load_npz, require_keys, save_npz

FORMAT = "asap-log"
VERSION = 1
_REQUIRED = {"version": 0, "joint_names": 1, "time_s": 1, "joint_pos": 2}
_TEXTS = ("robot", "source", "policy_hash")
WIDTHS: Mapping[str, Tuple[str, ...]] = {
    "joint_vel": ("J",),
    "joint_pos_target": ("J",),
    "action": ("A",),
    "torque_est": ("J",),
    "imu_quat_wxyz": ("4",),
    "imu_ang_vel_b": ("3",),
    "imu_lin_acc_b": ("3",),
    "base_pos_w": ("3",),
    "base_quat_wxyz": ("4",),
    "base_lin_vel_w": ("3",),
    "base_ang_vel_b": ("3",),
    "phase": (),
    "mode": (),
    "episode": (),
}
"""Optional channels with T rows, and the axis that follows; J joints, A actions."""

LABELS = ("mode", "episode")
"""Channels that may be text or whole numbers; all others are measurements."""

GAP = 2.5
"""A step longer than so many median ones is a gap: stamps jitter by up to a step."""

_RATE_SPAN = 50

_GAINS = ("stiffness", "damping")
"""(J,) where constant, (T, J) where they changed."""


@dataclass(frozen=True)
class Log:
    """A recording of T rows and J joints; arrays are read-only."""

    joint_names: Tuple[str, ...]
    time_s: np.ndarray
    """(T,) strictly increasing, by the robot's clock [s]"""
    joint_pos: np.ndarray
    """(T, J) measured [rad]"""
    fields: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Channels that were recorded, by name."""
    robot: str = ""
    source: str = ""
    policy_hash: str = ""

    def __post_init__(self) -> None:
        """Check that rows and columns agree.

        Raises:
            InputError: Naming the channel that does not fit.
        """
        object.__setattr__(self, "joint_names", tuple(str(name) for name in self.joint_names))
        object.__setattr__(self, "time_s", _read_only("time_s", self.time_s))
        object.__setattr__(self, "joint_pos", _read_only("joint_pos", self.joint_pos))
        channels = {name: _read_only(name, array) for name, array in self.fields.items()}
        object.__setattr__(self, "fields", channels)
        if self.time_s.ndim != 1:
            raise InputError(f"log 'time_s' has shape {self.time_s.shape}, expected one axis")
        rows, joints = len(self.time_s), len(self.joint_names)
        if rows < 2 or joints < 1 or len(set(self.joint_names)) != joints:
            raise InputError(f"a log needs 2 rows and distinct joints; got {rows} and {joints}")
        if self.joint_pos.shape != (rows, joints):
            raise InputError(
                f"log 'joint_pos' has shape {self.joint_pos.shape}, expected {(rows, joints)}"
            )
        check_finite("time_s", self.time_s, limit=1e12)
        check_finite("joint_pos", self.joint_pos)
        steps = np.diff(self.time_s)
        if not (steps > 0.0).all():
            row = int(np.argmin(steps > 0.0)) + 1
            raise InputError(f"log time_s does not increase at row {row}: {self.time_s[row]} s")
        for name, array in channels.items():
            self._check_channel(name, array)

    def _check_channel(self, name: str, array: np.ndarray) -> None:
        rows, joints = len(self.time_s), len(self.joint_names)
        if name in _GAINS:
            if array.shape not in ((joints,), (rows, joints)):
                raise InputError(
                    f"log '{name}' has shape {array.shape}, "
                    f"expected {(joints,)} or {(rows, joints)}"
                )
        elif name in WIDTHS:
            axes = tuple({"J": joints, "4": 4, "3": 3}.get(axis) for axis in WIDTHS[name])
            fits = array.ndim == 1 + len(axes) and array.shape[0] == rows
            if not fits or any(a is not None and a != b for a, b in zip(axes, array.shape[1:])):
                raise InputError(f"log '{name}' has shape {array.shape}, expected {rows} rows")
        else:
            valid = [*WIDTHS, *_GAINS]
            raise InputError(f"log has unknown channel '{name}'{suggestion(name, valid)}")
        if array.dtype.kind == "f":
            check_finite(name, array)
        if name.endswith("quat_wxyz"):
            norm = np.linalg.norm(array, axis=-1)
            if np.abs(norm - 1.0).max() > 1e-2:
                raise InputError(
                    f"log '{name}' is not unit length: norms from {norm.min():.3f} to "
                    f"{norm.max():.3f}"
                )

    @property
    def duration_s(self) -> float:
        """From the first to the last row [s]."""
        return float(self.time_s[-1] - self.time_s[0])

    @property
    def rate_hz(self) -> float:
        """Rows per second; over many rows, so that late stamps and a few gaps do not count."""
        span = max(1, min(_RATE_SPAN, (len(self.time_s) - 1) // 4))
        return float(span / np.median(self.time_s[span:] - self.time_s[:-span]))

    @property
    def sha256(self) -> str:
        """Hash of what was recorded; ``source`` is left out, so moving a file changes nothing."""
        digest = hashlib.sha256(repr((self.robot, self.joint_names, self.policy_hash)).encode())
        channels = {"time_s": self.time_s, "joint_pos": self.joint_pos, **self.fields}
        for name in sorted(channels):
            digest.update(name.encode() + np.ascontiguousarray(channels[name]).tobytes())
        return digest.hexdigest()

    def rows(self, chosen: slice) -> Log:
        """The same log with some of its rows, at least two."""
        fields = {
            name: array[chosen] if name in WIDTHS or array.ndim == 2 else array
            for name, array in self.fields.items()
        }
        texts = {name: getattr(self, name) for name in _TEXTS}
        return Log(self.joint_names, self.time_s[chosen], self.joint_pos[chosen], fields, **texts)

    def segments(self, *, max_gap: float = GAP) -> Tuple[Log, ...]:
        """Stretches without a gap and of one episode, in order; single rows are left out.

        Args:
            max_gap: Longest step between two rows of a stretch, in median steps.
        """
        steps = np.diff(self.time_s)
        cut = steps > max_gap * float(np.median(steps))
        if "episode" in self.fields:
            cut = cut | (self.fields["episode"][1:] != self.fields["episode"][:-1])
        edges = [0, *(int(row) + 1 for row in np.flatnonzero(cut)), len(self.time_s)]
        pairs = zip(edges[:-1], edges[1:])  # noqa: RUF007
        return tuple(self.rows(slice(a, b)) for a, b in pairs if b - a >= 2)

    def save(self, path: PathLike) -> None:
        """Write the file at once or not at all."""
        arrays: Dict[str, Any] = {"format": FORMAT, "version": VERSION, **self.fields}
        arrays.update(joint_names=list(self.joint_names), time_s=self.time_s)
        arrays.update(joint_pos=self.joint_pos, robot=self.robot)
        arrays.update(source=self.source, policy_hash=self.policy_hash)
        save_npz(path, arrays)

    @classmethod
    def load(cls, path: PathLike) -> Log:
        """Read a log file of ours.

        Raises:
            InputError: If it is not a whole and sound log of a known version.
        """
        arrays = load_npz(path)
        found = str(arrays.pop("format", "absent"))
        if found != FORMAT:
            raise InputError(
                f"not a log file of ours: format is '{found}', expected '{FORMAT}'", file=path
            )
        require_keys(arrays, _REQUIRED, path, "log file")
        version = arrays.pop("version")
        if version.dtype.kind not in "iu" or int(version) != VERSION:
            raise InputError(
                f"log file has version {version}, this program reads {VERSION}", file=path
            )
        texts = {name: str(arrays.pop(name, "")) for name in _TEXTS}
        try:
            return cls(
                joint_names=tuple(arrays.pop("joint_names").tolist()),
                time_s=arrays.pop("time_s"),
                joint_pos=arrays.pop("joint_pos"),
                fields=arrays,
                **texts,
            )
        except InputError as error:
            raise InputError(str(error), file=path) from None
        except (ValueError, TypeError) as error:
            raise InputError(f"log file holds a wrong type: {error}", file=path) from None


def _read_only(name: str, array: Any) -> np.ndarray:
    """A copy that cannot be written, measurements as float64."""
    copy = np.array(array)
    if name not in LABELS:
        # Whole numbers too: differences of unsigned ones would never be negative.
        if copy.dtype.kind not in "iuf":
            raise InputError(f"log '{name}' has type {copy.dtype}, expected numbers")
        with np.errstate(invalid="ignore"):  # single-precision NaN; refused later
            copy = copy.astype(np.float64)
    copy.setflags(write=False)
    return copy
