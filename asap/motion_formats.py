"""Motion files of other projects: one reader per format, all giving the same plain record.

A format is recognised by what is in the file, never by its ending. Nothing is believed yet: the
readers take joint order and quaternion order to be what the format's authors wrote, and
`asap.motion_orders` then tests that against the robot.

    raw = read_motion("dance1_subject2.csv")
    raw.joint_pos.shape, raw.fps           # (3945, 29), None: the format stores no rate
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from asap.safe_pickle import load_pickle, looks_like_pickle, read_bytes
from asap_deploy.errors import InputError, suggestion
from asap_deploy.motion import FORMAT as OUR_FORMAT
from asap_deploy.motion import Motion
from asap_deploy.npz import check_finite, load_npz
from asap_deploy.rotation import normalize, wxyz_from_xyzw

MAX_FRAMES = 200_000
MAX_CSV_BYTES = 32 << 20
UNIT_NORM = (0.9, 1.1)
"""Quaternions whose length lies in here are scaled to unit length, others are refused."""

_LEG = ("hip_pitch", "hip_roll", "hip_yaw", "knee", "ankle_pitch", "ankle_roll")
_ARM = ("shoulder_pitch", "shoulder_roll", "shoulder_yaw", "elbow", "wrist_roll", "wrist_pitch",
        "wrist_yaw")  # fmt: skip
_WAIST = ("waist_yaw", "waist_roll", "waist_pitch")
G1_JOINTS = tuple(
    f"{name}_joint"
    for name in (
        *(f"{side}_{part}" for side in ("left", "right") for part in _LEG),
        *_WAIST,
        *(f"{side}_{part}" for side in ("left", "right") for part in _ARM),
    )
)
"""The 29 joints of the Unitree G1, depth first: the order of its SDK, MuJoCo, CSV, GMR, mjlab."""

G1_JOINTS_23 = tuple(name for name in G1_JOINTS if "wrist" not in name)
"""The same without wrists: ASAP, PHC, PBHC and GMT files."""

_BFS = [0, 6, 12, 1, 7, 13, 2, 8, 14, 3, 9, 15, 22, 4, 10, 16, 23, 5, 11, 17, 24, 18, 25, 19, 26,
        20, 27, 21, 28]  # fmt: skip
G1_JOINTS_BFS = tuple(G1_JOINTS[i] for i in _BFS)
"""The same 29, breadth first: the order of Isaac Lab and BeyondMimic."""

FORMATS = ("asap-motion", "asap-pkl", "gmr-pkl", "csv", "beyondmimic", "mjlab", "holosoma")


class RawMotion(NamedTuple):
    """What a foreign file says, in our units; orders are the format's claim, not yet tested."""

    format: str
    """One of `FORMATS`."""
    fps: float | None
    """Frames per second [Hz]; None where the format stores none."""
    base_pos_w: np.ndarray
    """(T, 3) [m]"""
    base_quat_wxyz: np.ndarray
    """(T, 4) unit length"""
    quat_order: str
    """How the file stores quaternions according to its format: 'xyzw' or 'wxyz'."""
    joint_pos: np.ndarray
    """(T, J) [rad]"""
    joint_names: tuple[str, ...] | None = None
    body_names: tuple[str, ...] | None = None
    body_pos_w: np.ndarray | None = None
    """(T, B, 3) [m]"""
    body_quat_wxyz: np.ndarray | None = None
    """(T, B, 4)"""
    body_pos_b: np.ndarray | None = None
    """(T, B, 3) in the base frame [m] (GMT)"""
    pose_rotvec: np.ndarray | None = None
    """(T, 1 + J, 3): base rotation, then axis times angle of each joint (ASAP)"""
    notes: tuple[str, ...] = ()
    """What a reader had to assume or repair; ends up in the motion's ``source``."""


def read_motion(path: str | Path, *, format: str = "auto", clip: str | None = None) -> RawMotion:
    """Read a motion file of any known format.

    Args:
        path: The file.
        format: 'auto' or one of `FORMATS`; a file of another format is then refused.
        clip: Which clip, for files that hold several.

    Returns:
        The file's content with finite numbers and unit quaternions.

    Raises:
        InputError: If the file cannot be read, or holds several clips and none was chosen.
    """
    if format != "auto" and format not in FORMATS:
        raise InputError(f"format '{format}' is not known{suggestion(format, ('auto', *FORMATS))}")
    head = _first_bytes(path)
    if head[:4] == b"PK\x03\x04":
        raw = _from_mapping(load_npz(path), path)
    elif looks_like_pickle(head):
        raw = _from_mapping(_chosen_clip(load_pickle(path), clip, path), path)
    else:
        raw = _read_csv(path)
    same_file = {raw.format, format} <= {"beyondmimic", "mjlab"}
    if format not in ("auto", raw.format) and not same_file:
        raise InputError(f"the file holds format '{raw.format}', not '{format}'", file=path)
    return _checked(raw if format == "auto" else raw._replace(format=format), path)


def _first_bytes(path: str | Path) -> bytes:
    """Enough of a file to tell what it is; what is missing or a folder is said when it is read."""
    try:
        with Path(path).open("rb") as stream:
            return stream.read(8)
    except (OSError, ValueError):
        return b""


def _chosen_clip(content: Any, clip: str | None, path: str | Path) -> Mapping[str, Any]:
    """The dict of one clip, from a file that holds one clip or a dict of them."""
    if not isinstance(content, dict) or not content:
        raise InputError(
            f"the pickle holds a {type(content).__name__}, expected a dict of arrays", file=path
        )
    clips = {str(key): value for key, value in content.items() if isinstance(value, dict)}
    if not clips:
        return content
    if clip is None and len(clips) > 1:
        names = ", ".join(f"'{name[:60]}'" for name in list(clips)[:8])
        more = f", ... ({len(clips)} in all)" if len(clips) > 8 else ""
        raise InputError(f"the file holds several clips; say which with clip=: {names}{more}",
                         file=path)  # fmt: skip
    name = next(iter(clips)) if clip is None else clip
    if name not in clips:
        raise InputError(f"clip '{name}' is not in the file{suggestion(name, clips)}", file=path)
    return {**clips[name], "clip": name}


def _from_mapping(arrays: Mapping[str, Any], path: str | Path) -> RawMotion:
    """Tell the formats apart by their keys."""
    keys = set(arrays)
    if str(arrays.get("format", "")) == OUR_FORMAT:
        return _from_ours(Motion.load(path))
    if {"root_trans_offset", "root_rot", "dof"} <= keys:
        return _from_asap(arrays, path)
    if {"root_pos", "root_rot", "dof_pos"} <= keys:
        return _from_gmr(arrays, path)
    if {"joint_pos", "body_pos_w", "body_quat_w"} <= keys:
        return _from_bodies(arrays, path)
    shown = ", ".join(sorted(str(k)[:40] for k in keys)[:12]) or "none"
    raise InputError(
        f"no known motion format has these keys: {shown}; known are {', '.join(FORMATS)}", file=path
    )


def _from_ours(motion: Motion) -> RawMotion:
    """Our own file, to be brought to another robot or rate."""
    return RawMotion(
        "asap-motion", motion.fps, motion.base_pos_w, motion.base_quat_wxyz, "wxyz",
        motion.joint_pos, motion.joint_names, motion.body_names, motion.body_pos_w,
        motion.body_quat_wxyz, notes=(motion.source,) if motion.source else (),
    )  # fmt: skip


def _from_asap(arrays: Mapping[str, Any], path: str | Path) -> RawMotion:
    """ASAP, PHC and PBHC: 23 joints, xyzw, and the same pose once more as axis times angle."""
    joint_pos = _array(arrays, "dof", (None, None), path)
    frames, joints = joint_pos.shape
    pose = None
    if "pose_aa" in arrays:
        pose = _array(arrays, "pose_aa", (frames, None, 3), path)
        pose = pose[:, : 1 + joints] if pose.shape[1] >= 1 + joints else None
    clip = str(arrays.get("clip", ""))[:120]
    return RawMotion(
        "asap-pkl", _rate(arrays, path),
        _array(arrays, "root_trans_offset", (frames, 3), path),
        wxyz_from_xyzw(_array(arrays, "root_rot", (frames, 4), path)), "xyzw",
        joint_pos, pose_rotvec=pose, notes=(f"clip '{clip}'",) if clip else (),
    )  # fmt: skip


def _from_gmr(arrays: Mapping[str, Any], path: str | Path) -> RawMotion:
    """GMR and GMT: xyzw; GMT adds body positions in the base frame and the bodies' names."""
    joint_pos = _array(arrays, "dof_pos", (None, None), path)
    frames = len(joint_pos)
    names, local = arrays.get("link_body_list"), None
    if names is not None and arrays.get("local_body_pos") is not None:
        if not isinstance(names, (list, tuple)) or not all(isinstance(n, str) for n in names):
            raise InputError("'link_body_list' holds something else than names", file=path)
        names = tuple(names)
        local = _array(arrays, "local_body_pos", (frames, len(names), 3), path)
    return RawMotion(
        "gmr-pkl", _rate(arrays, path), _array(arrays, "root_pos", (frames, 3), path),
        wxyz_from_xyzw(_array(arrays, "root_rot", (frames, 4), path)), "xyzw",
        joint_pos, body_names=None if local is None else names, body_pos_b=local,
    )  # fmt: skip


def _from_bodies(arrays: Mapping[str, Any], path: str | Path) -> RawMotion:
    """BeyondMimic and mjlab (no names inside), HoloSoma (names, base inside joint_pos)."""
    joint_pos = _array(arrays, "joint_pos", (None, None), path)
    frames = len(joint_pos)
    body_pos_w = _array(arrays, "body_pos_w", (frames, None, 3), path)
    bodies = body_pos_w.shape[1]
    body_quat = _array(arrays, "body_quat_w", (frames, bodies, 4), path)
    if bodies < 1:
        raise InputError("'body_pos_w' holds no body", file=path)
    if "joint_names" not in arrays or "body_names" not in arrays:
        return RawMotion(
            "beyondmimic", _rate(arrays, path), body_pos_w[:, 0], body_quat[:, 0], "wxyz",
            joint_pos, body_pos_w=body_pos_w, body_quat_wxyz=body_quat,
        )  # fmt: skip
    joint_names, body_names = (
        tuple(str(name) for name in np.atleast_1d(arrays[key]).tolist())
        for key in ("joint_names", "body_names")
    )
    if joint_pos.shape[1] != 7 + len(joint_names) or bodies != len(body_names):
        raise InputError(
            f"'joint_pos' has {joint_pos.shape[1]} columns and 'body_pos_w' {bodies} bodies; "
            f"{len(joint_names)} joint names and {len(body_names)} body names ask for "
            f"{7 + len(joint_names)} and {len(body_names)}",
            file=path,
        )
    return RawMotion(
        "holosoma", _rate(arrays, path), joint_pos[:, :3], joint_pos[:, 3:7], "wxyz",
        joint_pos[:, 7:], joint_names, body_names, body_pos_w, body_quat,
    )  # fmt: skip


def _read_csv(path: str | Path) -> RawMotion:
    """Unitree's CSV: base position, quaternion xyzw, joint angles; no header, no rate."""
    data = read_bytes(path, max_bytes=MAX_CSV_BYTES)
    lines = data.split(b"\n")
    columns = lines[0].count(b",") + 1
    if b"\0" in data[:4096] or not 8 <= columns <= 207:
        raise InputError(
            f"not a motion file: no npz, no pickle, and as CSV it has {columns} columns, expected "
            "7 for the base and one for each joint, without a header line",
            file=path,
        )
    rows = [line for line in lines if line.strip()]
    try:
        table = np.loadtxt(rows, delimiter=",", ndmin=2, comments=None, encoding="latin-1")
    except (ValueError, OverflowError):
        raise InputError(_csv_fault(rows, columns), file=path) from None
    note = "CSV stores no frame rate"
    return RawMotion("csv", None, table[:, :3], wxyz_from_xyzw(table[:, 3:7]), "xyzw",
                     table[:, 7:], notes=(note,))  # fmt: skip


def _csv_fault(rows: list[bytes], columns: int) -> str:
    """Which row of a CSV is wrong, and how."""
    for number, row in enumerate(rows, 1):
        cells = row.decode("latin-1").split(",")
        if len(cells) != columns:
            return f"CSV row {number} has {len(cells)} columns, the first row has {columns}"
        for column, cell in enumerate(cells, 1):
            try:
                float(cell)
            except ValueError:
                return (
                    f"CSV row {number}, column {column} is not a number: '{cell.strip()[:30]}'"
                    + ("; remove the header line" if number == 1 else "")
                )
    return "CSV is not a table of numbers"


def _array(
    arrays: Mapping[str, Any], key: str, shape: tuple[int | None, ...], path: str | Path
) -> np.ndarray:
    """One array of numbers of the expected shape (None: any size), as float64."""
    got = arrays[key] if isinstance(arrays[key], np.ndarray) else np.empty(())
    fits = len(got.shape) == len(shape) and all(
        want in (None, have) for want, have in zip(shape, got.shape, strict=True)
    )
    if got.dtype.kind not in "fiu" or not fits:
        wanted = ", ".join("any" if n is None else str(n) for n in shape)
        raise InputError(
            f"'{key}' has shape {got.shape} and type {got.dtype}, expected numbers ({wanted})",
            file=path,
        )
    with np.errstate(invalid="ignore"):  # single-precision NaN; refused by `_checked`
        return got.astype(np.float64)


def _rate(arrays: Mapping[str, Any], path: str | Path) -> float | None:
    """Frames per second; files write it as a number, or as an array of one."""
    if arrays.get("fps") is None:
        return None
    is_number = isinstance(arrays["fps"], (int, float, np.ndarray))
    value = np.asarray(arrays["fps"] if is_number else "no number")
    if value.size != 1 or value.dtype.kind not in "fiu" or not 1.0 <= float(value.flat[0]) <= 1e3:
        shown = " ".join(str(arrays["fps"]).split())[:40]
        raise InputError(f"fps is {shown}, expected one number from 1 to 1000 Hz", file=path)
    return float(value.flat[0])


def _checked(raw: RawMotion, path: str | Path) -> RawMotion:
    """Refuse what no repair can help, and bring quaternions to unit length."""
    frames, joints = raw.joint_pos.shape
    if not (3 <= frames <= MAX_FRAMES and 1 <= joints <= 200):
        raise InputError(
            f"clip has {frames} frames and {joints} joints; 3 to {MAX_FRAMES} frames and 1 to 200 "
            "joints are read",
            file=path,
        )
    named = {
        "base position": (raw.base_pos_w, 1e4), "base quaternion": (raw.base_quat_wxyz, 10.0),
        "joint positions": (raw.joint_pos, 1e3), "body positions": (raw.body_pos_w, 1e4),
        "body quaternions": (raw.body_quat_wxyz, 10.0), "body offsets": (raw.body_pos_b, 1e4),
        "pose_aa": (raw.pose_rotvec, 1e3),
    }  # fmt: skip
    for name, (array, limit) in named.items():
        if array is not None:
            check_finite(name, array, path, limit=limit)
    if raw.joint_names is not None and len(set(raw.joint_names)) != joints:
        raise InputError("the file's joint names are not one for each column", file=path)
    norm = np.linalg.norm(raw.base_quat_wxyz, axis=-1)
    if norm.min() < UNIT_NORM[0] or norm.max() > UNIT_NORM[1]:
        raise InputError(
            f"base quaternions are not unit length: norms from {norm.min():.3f} to "
            f"{norm.max():.3f}; {UNIT_NORM[0]} to {UNIT_NORM[1]} is repaired, more is not",
            file=path,
        )
    notes = raw.notes
    if np.abs(norm - 1.0).max() > 1e-3:
        notes += (f"quaternions scaled to unit length (norms {norm.min():.3f} to "
                  f"{norm.max():.3f})",)  # fmt: skip
    return raw._replace(base_quat_wxyz=normalize(raw.base_quat_wxyz), notes=notes)
