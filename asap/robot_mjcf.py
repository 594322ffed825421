"""Reading a stranger's MJCF: only the robot's folder is opened, nothing can run or hang.

The file is parsed here, includes are put in place, mesh files are read into memory, and MuJoCo gets
a text with no file names that it could open on its own. What the toolkit replaces anyway
(keyframes, sensors, textures, the viewer's settings) is left out.

    mjcf = read_mjcf(Path("my_robot"), "robot.xml")
    spec = mujoco.MjSpec.from_string(mjcf.xml, assets=mjcf.meshes)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from asap_deploy.errors import InputError

MAX_XML_BYTES = 8 << 20
MAX_MESH_BYTES = 256 << 20
MAX_ELEMENTS = 5_000
MAX_PARTS = 1_500
MAX_ATTRIBUTES = 60
MAX_ATTRIBUTE_LENGTH = 200_000
MAX_DEPTH = 100
MAX_INCLUDES = 50
MISSING = "missing:"
"""Prefix of the file name of a mesh that is not in the folder."""

_SECTIONS = {"compiler", "option", "default", "asset", "worldbody", "contact", "equality", "tendon",
             "actuator"}  # fmt: skip
_LEFT_OUT = {"visual", "statistic", "size", "sensor", "keyframe", "custom", "extension"}
_TEXT_ATTRIBUTES = {"name", "class", "childclass", "file"}
_REFUSED = {"plugin", "composite", "flexcomp", "flex", "replicate", "attach", "model", "skin",
            "deformable"}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Mjcf:
    """A robot's MJCF, made self-contained."""

    file: Path
    """Where it came from, for error texts."""
    xml: str
    """One text without includes and without paths."""
    meshes: Mapping[str, bytes]
    """Content of the mesh files by the name that the text uses."""
    problems: tuple[str, ...]
    """What was left out, one sentence each."""


def read_mjcf(folder: Path, name: str) -> Mjcf:
    """Read an MJCF file with its includes and meshes.

    Args:
        folder: The robot's folder; every file must lie inside it.
        name: Path of the MJCF relative to the folder.

    Returns:
        The self-contained description.

    Raises:
        InputError: If the file is absent, too large, not XML, or asks for what is refused.
    """
    file = inside(folder, name)
    if file is None:
        raise InputError(
            f"mjcf = '{name}' must be a path inside the robot's folder; got one that leads out",
            file=folder / "robot.toml",
        )
    root = _parse(file)
    _put_includes_in_place(root, file, folder, {file})
    _check_elements(root, file)
    problems = _leave_out(root)
    meshes = _take_meshes(root, folder, file)
    text = ElementTree.tostring(root, encoding="unicode")
    return Mjcf(file=file, xml=text, meshes=meshes, problems=tuple(problems))


def inside(folder: Path, name: str) -> Path | None:
    """The file of that name if it lies inside the folder (links followed), else None."""
    if "\x00" in name or Path(name).is_absolute() or re.match(r"^[A-Za-z]:|^[\\/]", name):
        return None
    path = (folder / name.replace("\\", "/")).resolve()
    return path if path.is_relative_to(folder.resolve()) else None


def _parse(file: Path) -> Element:
    """The root element of an XML file that has neither entities nor an unusual encoding."""
    try:
        if not file.is_file():
            raise InputError("MJCF file does not exist", file=file)
        if file.stat().st_size > MAX_XML_BYTES:
            raise InputError(f"MJCF is larger than {MAX_XML_BYTES >> 20} MB", file=file)
        text = file.read_text(encoding="utf-8-sig")
        # Entities can expand to gigabytes; no robot needs them.
        if re.search(r"<!(DOCTYPE|ENTITY)", text, re.IGNORECASE):
            raise InputError("MJCF has a DOCTYPE or ENTITY declaration; remove it", file=file)
        return ElementTree.fromstring(text)
    except OSError as error:
        raise InputError(f"cannot read the MJCF: {error.strerror}", file=file) from None
    except (ElementTree.ParseError, UnicodeDecodeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"not an XML file: {error}", file=file) from None


def _put_includes_in_place(root: Element, main: Path, folder: Path, seen: set[Path]) -> None:
    """Replace every include by its file's content; like MuJoCo, take a file only once."""
    for parent, child in [(p, c) for p in root.iter() for c in p if c.tag == "include"]:
        name = child.get("file", "")
        path = None if Path(name).is_absolute() else _beside(main, folder, name)
        if path is None:
            raise InputError(f"include '{name[:80]}' leads out of the robot's folder", file=main)
        if path in seen or len(seen) > MAX_INCLUDES:
            raise InputError(
                f"include '{name[:80]}' comes twice, or is one of over {MAX_INCLUDES}",
                file=main,
            )
        seen.add(path)
        included = _parse(path)
        _put_includes_in_place(included, main, folder, seen)
        place = list(parent).index(child)
        parent.remove(child)
        for offset, element in enumerate(included):
            parent.insert(place + offset, element)


def _beside(main: Path, folder: Path, name: str) -> Path | None:
    """A file named relative to the main MJCF, if it lies inside the robot's folder."""
    return inside(folder, str(main.parent.relative_to(folder.resolve()) / name))


def _check_elements(root: Element, file: Path) -> None:
    """Refuse what could run code, multiply itself or overflow a parser's stack."""
    if root.tag != "mujoco":
        hint = "; convert a URDF with MuJoCo first" if root.tag == "robot" else ""
        raise InputError(f"not an MJCF: the root element is <{root.tag[:40]}>{hint}", file=file)
    level, depth, count, bodies = list(root), 1, 1, 0
    while level:
        count += len(level)
        bodies += sum(element.tag in ("body", "joint", "geom") for element in level)
        if depth > MAX_DEPTH or count > MAX_ELEMENTS or bodies > MAX_PARTS:
            raise InputError(
                f"MJCF is too large or nested too deeply; {MAX_ELEMENTS} elements, "
                f"{MAX_PARTS} bodies, joints and geoms, and {MAX_DEPTH} levels are allowed",
                file=file,
            )
        # MuJoCo's reader compares each attribute with all others, and hulls of meshes take long.
        if any(_is_overloaded(element) for element in level):
            limits = f"{MAX_ATTRIBUTES} attributes of {MAX_ATTRIBUTE_LENGTH} letters are allowed"
            raise InputError(f"an element of the MJCF is too large; {limits}", file=file)
        if any(_is_not_finite(element) for element in level):
            raise InputError("MJCF has a number that is NaN or infinite", file=file)
        refused = sorted({element.tag for element in level} & _REFUSED)
        if refused:
            raise InputError(
                f"MJCF uses <{refused[0]}>, which a robot description cannot have here; "
                "remove it or write its bodies out",
                file=file,
            )
        level = [child for element in level for child in element]
        depth += 1


def _is_overloaded(element: Element) -> bool:
    lengths = [len(value) for value in element.attrib.values()]
    return len(lengths) > MAX_ATTRIBUTES or max(lengths, default=0) > MAX_ATTRIBUTE_LENGTH


def _is_not_finite(element: Element) -> bool:
    values = " ".join(v for key, v in element.attrib.items() if key not in _TEXT_ATTRIBUTES)
    return re.search(r"(?i)(?<!\S)[+-]?(nan|inf(inity)?)(?!\S)", values) is not None


def _leave_out(root: Element) -> list[str]:
    """Drop what is replaced or only decorates; returns what deserves to be mentioned."""
    problems = []
    for section in list(root):
        if section.tag not in _SECTIONS:
            root.remove(section)
            if section.tag not in _LEFT_OUT:
                problems.append(f"section <{section.tag}> of the MJCF is ignored")
    for parent in list(root.iter()):
        for child in list(parent):
            is_texture = child.tag == "texture" or (parent.tag == "material")
            if is_texture or child.tag == "hfield":
                parent.remove(child)
        if parent.tag == "material":
            parent.attrib.pop("texture", None)
    for world in root.iter("worldbody"):
        for child in [c for c in world if c.get("type") == "hfield"]:
            world.remove(child)
    return problems


def _take_meshes(root: Element, folder: Path, file: Path) -> dict[str, bytes]:
    """Read the mesh files and put short names in their place; absent ones are marked."""
    mesh_dir = ""
    for compiler in root.iter("compiler"):
        mesh_dir = compiler.get("meshdir", compiler.get("assetdir", mesh_dir))
        for key in ("meshdir", "texturedir", "assetdir", "strippath"):
            compiler.attrib.pop(key, None)
    meshes: dict[str, bytes] = {}
    for number, mesh in enumerate(m for m in root.iter("mesh") if m.get("file") is not None):
        name = mesh.get("file", "")
        mesh.set("name", mesh.get("name") or Path(name).stem)
        if Path(name).is_absolute() or Path(mesh_dir).is_absolute():
            path = None
        else:
            path = _beside(file, folder, str(Path(mesh_dir) / name))
        if path is None or not path.is_file():
            mesh.set("file", f"{MISSING}{number}{Path(name).suffix}")
            continue
        short = f"{number}{path.suffix.lower()}"
        mesh.set("file", short)
        if path.stat().st_size + sum(map(len, meshes.values())) > MAX_MESH_BYTES:
            raise InputError(f"mesh files exceed {MAX_MESH_BYTES >> 20} MB", file=file)
        meshes[short] = path.read_bytes()
    return meshes
