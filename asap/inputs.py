"""Opening the files that a user names: policies of any kind, motions of any format.

motion = open_motion(Path("clip.csv"), robot, ground=True)
policy = open_policy(Path("CR7_level1.onnx"), robot, motion, layout="asap")
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from asap.evaluate import Case
from asap.export import FOREIGN_KEYS, adopt, motion_inside, motion_of
from asap.motions import import_motion
from asap.robot import Robot
from asap.shipped import MOTIONS_FOLDER, POLICIES_FOLDER
from asap_deploy.contract import METADATA_KEY
from asap_deploy.errors import InputError, suggestion
from asap_deploy.golden import load_policy, read_policy_bytes
from asap_deploy.motion import Motion
from asap_deploy.onnx_graph import OnnxGraph
from asap_deploy.policy import Policy


class OpenedMotion(NamedTuple):
    """A clip, what to call it and the file that it came from."""

    motion: Motion
    name: str
    path: Path


def find_motion(name: Path, robot: Robot) -> Path:
    """The file that a user means: a path, or the name of a clip that ships with the toolkit.

    Raises:
        InputError: If there is neither.
    """
    own = shipped_motions(robot)
    if not name.exists() and str(name) not in own:
        hint = suggestion(str(name), list(own))
        raise InputError(f"motion '{name}' is neither a file nor a clip{hint}")
    return name if name.exists() else own[str(name)]


def shipped_motions(robot: Robot) -> dict[str, Path]:
    """Clips that come with the toolkit for this robot, by name."""
    return _by_name(MOTIONS_FOLDER, robot, "*.npz")


def shipped_policies(robot: Robot) -> dict[str, Path]:
    """Policies that come with the toolkit for this robot, by the name of their clip."""
    return _by_name(POLICIES_FOLDER, robot, "*.onnx")


def _by_name(folder: Path, robot: Robot, pattern: str) -> dict[str, Path]:
    family = robot.name.partition("@")[0].partition(":")[0]
    return {path.stem: path for path in sorted((folder / family).glob(pattern))}


def open_motion(name: Path, robot: Robot, *, ground: bool) -> OpenedMotion:
    """A motion of any format, in the joints of this robot.

    Args:
        name: A file, or the name of a clip that ships with the toolkit.
        robot: Whose joints and bodies the motion shall have.
        ground: Put stance soles onto the floor; a clip of our own format is taken as it is.
    """
    path = find_motion(name, robot)
    motion = _already_ours(path, robot)
    if motion is None:
        motion = import_motion(path, robot, ground=ground)
    return OpenedMotion(motion, path.stem, path)


def _already_ours(path: Path, robot: Robot) -> Motion | None:
    """A clip in our own format that was made for this robot, or None."""
    try:
        motion = Motion.load(path)
    except InputError:
        return None  # the importer knows more formats, and says better what is wrong
    return motion if motion.robot == robot.name.partition("@")[0] else None


class OpenedPolicy(NamedTuple):
    """A policy, and what came with it."""

    policy: Policy
    motion: Motion | None
    """The clip that it tracks, where one was given or was inside a foreign file."""
    foreign: bytes | None
    """A foreign policy as a file of ours; None if it already was one."""
    name: str
    """Of the clip, or of the policy's file."""
    path: Path


def open_policy(
    path: Path, robot: Robot, motion: OpenedMotion | None, layout: str | None
) -> OpenedPolicy:
    """A policy file of ours, or a foreign one adopted in memory.

    Args:
        path: The ONNX file, or the name of a policy that ships with the toolkit.
        robot: That it shall run on.
        motion: The clip that it tracks; None for a walking policy.
        layout: Name of the observation layout, for a file that does not say.

    Raises:
        InputError: If the file is not sound, or says too little.
    """
    path = _find_policy(path, robot)
    data = read_policy_bytes(path)
    clip = None if motion is None else motion.motion
    name = path.stem if motion is None else motion.name
    try:
        graph = OnnxGraph.parse(data)
        if METADATA_KEY in graph.metadata:
            policy = load_policy(path)
            _check_clip(policy, motion)
            clip = motion_of(policy, robot) if clip is None else clip
            return OpenedPolicy(policy, clip, None, name, path)
        if clip is None and all(key in graph.metadata for key in FOREIGN_KEYS):
            clip = motion_inside(graph, robot)
        ours = adopt(data, robot, clip, layout=layout, motion_name=name, source=path.name)
        return OpenedPolicy(Policy.from_bytes(ours), clip, ours, name, path)
    except InputError as error:
        text = str(error)
        raise InputError(text, file=None if str(path) in text else path) from None


def _find_policy(path: Path, robot: Robot) -> Path:
    """The file that a user means: a path, or the name of a policy that ships with the toolkit."""
    own = shipped_policies(robot)
    if path.exists() or path.suffix or path.parent != Path():
        return path
    if str(path) in own:
        return own[str(path)]
    there = f"there are {', '.join(own)}" if own else "none does; train one with asap pretrain"
    hint = suggestion(str(path), list(own))
    raise InputError(f"no policy '{path}' ships for robot '{robot.name}'{hint}: {there}")


def _check_clip(policy: Policy, motion: OpenedMotion | None) -> None:
    """A policy tracks the clip that it was made for, and no other."""
    facts = policy.contract.clip
    if facts is None or motion is None:
        return
    if abs(facts.duration_s - motion.motion.duration_s) > 1.5 / facts.fps:
        raise InputError(
            f"policy tracks '{facts.name}' of {facts.duration_s:.2f} s, motion '{motion.name}' "
            f"lasts {motion.motion.duration_s:.2f} s: give the clip that it was made for"
        )


def case_of(opened: OpenedPolicy) -> Case:
    """What is evaluated.

    Raises:
        InputError: If the policy has no clip.
    """
    if opened.motion is None:
        raise InputError(f"'{opened.name}' follows commands: evaluate it alone, with --command")
    return Case(opened.policy, opened.motion, opened.name)
