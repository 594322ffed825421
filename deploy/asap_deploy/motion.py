"""Reference motions: named joints and bodies over time.

The file is an ``.npz`` without pickles. Body 0 is the base; velocities are those of the origins of
the body frames, in the world frame; joint order is by name and never by position.

    motion = Motion.load("motions/g1/wave.npz")
    frame = motion.at(np.array([0.0, 0.5]))          # linear between frames, slerp for attitudes
    frame.joint_pos                                  # (2, J) [rad]
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import Any, Dict, NamedTuple, Tuple

import numpy as np

from asap_deploy.errors import InputError
from asap_deploy.npz import PathLike, check_finite, load_npz, require_keys, save_npz
from asap_deploy.rotation import normalize, slerp

FORMAT = "asap-motion"
VERSION = 1
_SHAPES = {
    "fps": 0,
    "joint_names": 1,
    "joint_pos": 2,
    "joint_vel": 2,
    "body_names": 1,
    "body_pos_w": 3,
    "body_quat_wxyz": 3,
    "body_lin_vel_w": 3,
    "body_ang_vel_w": 3,
    "foot_contact": 2,
}
_ARRAYS = ("joint_pos", "joint_vel", "body_pos_w", "body_quat_wxyz", "body_lin_vel_w",
           "body_ang_vel_w")  # fmt: skip


class MotionFrame(NamedTuple):
    """A motion at N moments; shapes carry the leading axes of the times that were asked for."""

    joint_pos: np.ndarray
    joint_vel: np.ndarray
    body_pos_w: np.ndarray
    body_quat_wxyz: np.ndarray
    body_lin_vel_w: np.ndarray
    body_ang_vel_w: np.ndarray


@dataclass(frozen=True)
class Motion:
    """A reference clip of T frames, J joints and B bodies; arrays are read-only float64."""

    fps: float
    """Frames per second [Hz]; the clip lasts (T - 1) / fps."""
    joint_names: Tuple[str, ...]
    joint_pos: np.ndarray
    """(T, J) [rad]"""
    joint_vel: np.ndarray
    """(T, J) [rad/s]"""
    body_names: Tuple[str, ...]
    """The base first."""
    body_pos_w: np.ndarray
    """(T, B, 3) [m]"""
    body_quat_wxyz: np.ndarray
    """(T, B, 4)"""
    body_lin_vel_w: np.ndarray
    """(T, B, 3) of the body frames' origins [m/s]"""
    body_ang_vel_w: np.ndarray
    """(T, B, 3) [rad/s]"""
    foot_contact: np.ndarray
    """(T, 2) bool, in the order of the robot's feet"""
    source: str = ""
    """Where it came from, and its licence."""
    robot: str = ""

    def __post_init__(self) -> None:
        """Check shapes, names and numbers, and make the arrays read-only.

        Raises:
            InputError: If anything does not fit together.
        """
        object.__setattr__(self, "fps", float(self.fps))
        object.__setattr__(self, "joint_names", tuple(str(n) for n in self.joint_names))
        object.__setattr__(self, "body_names", tuple(str(n) for n in self.body_names))
        for name in _ARRAYS:
            with np.errstate(invalid="ignore"):  # single-precision NaN; refused below
                array = np.array(getattr(self, name), dtype=np.float64)
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        contact = np.array(self.foot_contact, dtype=bool)
        contact.setflags(write=False)
        object.__setattr__(self, "foot_contact", contact)
        self._check()

    def _check(self) -> None:
        """Every law that the numbers of a motion obey."""
        frames, joints, bodies = len(self.joint_pos), len(self.joint_names), len(self.body_names)
        if not (np.isfinite(self.fps) and 1.0 <= self.fps <= 1000.0):
            raise InputError(f"fps must be between 1 and 1000 Hz; got {self.fps}")
        expected = {
            "joint_pos": (frames, joints),
            "joint_vel": (frames, joints),
            "body_pos_w": (frames, bodies, 3),
            "body_quat_wxyz": (frames, bodies, 4),
            "body_lin_vel_w": (frames, bodies, 3),
            "body_ang_vel_w": (frames, bodies, 3),
            "foot_contact": (frames, 2),
        }
        for name, shape in expected.items():
            got = getattr(self, name).shape
            if got != shape:
                raise InputError(f"motion '{name}' has shape {got}, expected {shape}")
        if frames < 2 or joints < 1 or bodies < 1:
            raise InputError(
                f"a motion needs 2 frames, 1 joint and 1 body; got {frames}, {joints}, {bodies}"
            )
        for names, what in ((self.joint_names, "joint"), (self.body_names, "body")):
            if len(set(names)) != len(names):
                raise InputError(f"motion has a {what} name twice: {sorted(names)}")
        for name in _ARRAYS:
            check_finite(name, getattr(self, name))
        norm = np.linalg.norm(self.body_quat_wxyz, axis=-1)
        if np.abs(norm - 1.0).max() > 1e-3:
            raise InputError(
                f"body_quat_wxyz is not unit length: norms from {norm.min():.3f} to "
                f"{norm.max():.3f}; a file that stores other attitudes must be converted"
            )

    @property
    def num_frames(self) -> int:
        """Number of frames T."""
        return len(self.joint_pos)

    @property
    def duration_s(self) -> float:
        """Time from the first to the last frame [s]."""
        return (self.num_frames - 1) / self.fps

    @property
    def base_pos_w(self) -> np.ndarray:
        """Base position (T, 3) [m]."""
        return self.body_pos_w[:, 0]

    @property
    def base_quat_wxyz(self) -> np.ndarray:
        """Base attitude (T, 4)."""
        return self.body_quat_wxyz[:, 0]

    @property
    def sha256(self) -> str:
        """Hash of what the motion is; ``source`` is left out, so moving a file changes nothing."""
        digest = hashlib.sha256(repr((self.fps, self.joint_names, self.body_names)).encode())
        for name in (*_ARRAYS, "foot_contact"):
            digest.update(np.ascontiguousarray(getattr(self, name)).tobytes())
        return digest.hexdigest()

    def at(self, time_s: np.ndarray) -> MotionFrame:
        """The motion at any times, between frames too.

        Args:
            time_s: Times from the first frame [s], any shape; held at both ends of the clip.

        Returns:
            Frames whose arrays begin with the axes of ``time_s``.
        """
        position = np.clip(np.asarray(time_s, dtype=float), 0.0, self.duration_s) * self.fps
        before = np.minimum(position.astype(int), self.num_frames - 2)
        fraction = position - before

        def blend(array: np.ndarray) -> np.ndarray:
            weight = fraction.reshape(fraction.shape + (1,) * (array.ndim - 1))
            return (1.0 - weight) * array[before] + weight * array[before + 1]

        quat = self.body_quat_wxyz
        return MotionFrame(
            joint_pos=blend(self.joint_pos),
            joint_vel=blend(self.joint_vel),
            body_pos_w=blend(self.body_pos_w),
            body_quat_wxyz=normalize(slerp(quat[before], quat[before + 1], fraction[..., None])),
            body_lin_vel_w=blend(self.body_lin_vel_w),
            body_ang_vel_w=blend(self.body_ang_vel_w),
        )

    def replace(self, **changes: Any) -> Motion:
        """A copy with some fields changed, checked again."""
        return dataclasses.replace(self, **changes)

    def save(self, path: PathLike) -> None:
        """Write the file at once or not at all."""
        fields: Dict[str, Any] = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        save_npz(path, {"format": FORMAT, "version": VERSION, **fields})

    @classmethod
    def load(cls, path: PathLike) -> Motion:
        """Read a motion file.

        Raises:
            InputError: If it is not a whole and sound motion file of a known version.
        """
        arrays = load_npz(path)
        if str(arrays.get("format", "")) != FORMAT:
            raise InputError(
                f"not a motion file of ours: format is '{arrays.get('format', 'absent')}', "
                f"expected '{FORMAT}'; other formats are read by `asap motions convert`",
                file=path,
            )
        require_keys(arrays, {"version": 0, **_SHAPES}, path, "motion file")
        if arrays["version"].dtype.kind not in "iu" or int(arrays["version"]) != VERSION:
            raise InputError(
                f"motion file has version {arrays['version']}, this program reads {VERSION}",
                file=path,
            )
        try:
            return cls(
                fps=float(arrays["fps"]),
                joint_names=tuple(arrays["joint_names"].tolist()),
                body_names=tuple(arrays["body_names"].tolist()),
                source=str(arrays.get("source", "")),
                robot=str(arrays.get("robot", "")),
                foot_contact=arrays["foot_contact"],
                **{name: arrays[name] for name in _ARRAYS},
            )
        except InputError as error:
            raise InputError(str(error), file=path) from None
        except (ValueError, TypeError) as error:
            raise InputError(f"motion file holds a wrong type: {error}", file=path) from None
