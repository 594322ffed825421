"""From a description to a MuJoCo model: overrides, collisions, floor, motors.

The MJCF gives geometry and inertia; everything else is put on top of it here, always in the same
order, so that a variant and a twin differ from their robot by their tables and by nothing else.

    bare = bare_spec(mjcf, facts)          # the robot alone, motors removed
    model = compiled(bare.spec, facts)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import mujoco
import numpy as np

from asap.robot_file import RobotFacts
from asap.robot_mjcf import MISSING, Mjcf
from asap_deploy.errors import InputError, suggestion

INTEGRATOR = {
    "euler": mujoco.mjtIntegrator.mjINT_EULER,
    "rk4": mujoco.mjtIntegrator.mjINT_RK4,
    "implicit": mujoco.mjtIntegrator.mjINT_IMPLICIT,
    "implicitfast": mujoco.mjtIntegrator.mjINT_IMPLICITFAST,
    "discrete": mujoco.mjtIntegrator.mjINT_DISCRETE,
}
_HINGE = mujoco.mjtJoint.mjJNT_HINGE
_FREE = mujoco.mjtJoint.mjJNT_FREE

# Collision bits. A pair collides if the contype of one meets the conaffinity of the other.
_FLOOR_BIT, _LEG_BIT = 1, 2


class BareSpec(NamedTuple):
    """A robot without motors and floor."""

    spec: mujoco.MjSpec
    base: str
    has_free_base: bool
    hinges: tuple[str, ...]
    """All hinge joints, also those that a layer welds."""
    motors: dict[str, dict[str, float]]
    """What the MJCF's own actuators say per joint; keys as in the ``[joints]`` tables."""
    problems: list[str]


def bare_spec(mjcf: Mjcf, facts: RobotFacts) -> BareSpec:
    """The robot with its layers' changes to bodies, joints and geoms.

    Args:
        mjcf: The self-contained MJCF.
        facts: The layers of the robot.

    Returns:
        A fresh, editable spec and what was noticed on the way.

    Raises:
        InputError: If MuJoCo cannot read it, or a layer names what is not there.
    """
    try:
        spec = mujoco.MjSpec.from_string(mjcf.xml, assets=dict(mjcf.meshes))
    except (ValueError, RuntimeError) as error:
        raise InputError(f"MuJoCo cannot read it: {_first_line(error)}", file=mjcf.file) from None
    spec.compiler.fusestatic = False
    problems = list(mjcf.problems)
    motors = _own_motors(spec)
    for element in [*spec.actuators]:
        spec.delete(element)
    base = _find_base(spec, facts)
    _require_names(base, mjcf)
    problems += _keep_only(spec, base)
    problems += _drop_missing_meshes(spec, mjcf)
    has_free_base = any(joint.type == _FREE for joint in base.joints)
    hinges = tuple(joint.name for joint in spec.joints if joint.type == _HINGE)
    _weld(spec, facts)
    _override_bodies(spec, facts)
    _remove_geoms(spec, facts)
    return BareSpec(spec, base.name, has_free_base, hinges, motors, problems)


def compiled(spec: mujoco.MjSpec, facts: RobotFacts) -> mujoco.MjModel:
    """Compile, with MuJoCo's complaint in one line."""
    try:
        return spec.compile()
    except (ValueError, RuntimeError) as error:
        raise InputError(
            f"MuJoCo cannot compile the robot: {_first_line(error)}", file=facts.file
        ) from None


def set_collisions(spec: mujoco.MjSpec, facts: RobotFacts, feet: tuple[str, ...]) -> None:
    """Decide what may touch what, and how the soles grip.

    The floor carries bit 1. "legs": the geoms of one leg meet those of the other, through bit 2.
    "full": every pair that the MJCF allows. Only geoms that can collide in the MJCF take part.
    """
    policy = facts.get("self_collision", "full")
    floor_contact = facts.get("floor_contact", "all")
    legs = _legs(spec, feet)
    for body in spec.bodies:
        is_foot = _is_below(body, feet)
        leg = next((i for i, names in enumerate(legs) if body.name in names), None)
        for geom in (g for g in body.geoms if collides(g)):
            on_floor = is_foot or floor_contact == "all"
            if policy != "full":
                meets = _FLOOR_BIT if on_floor else 0
                geom.contype = _LEG_BIT if policy == "legs" and leg == 0 else 0
                geom.conaffinity = meets | (_LEG_BIT if policy == "legs" and leg == 1 else 0)
            elif floor_contact == "feet":
                bits = _LEG_BIT | (_FLOOR_BIT if is_foot else 0)
                geom.contype, geom.conaffinity = bits, bits
            elif not (geom.contype | geom.conaffinity) & _FLOOR_BIT:
                geom.conaffinity |= _FLOOR_BIT
            if is_foot:
                _set_grip(geom, facts.table("foot_contact"))


def add_scene(spec: mujoco.MjSpec, base: str) -> None:
    """Add the floor, a light and a camera that follows the base."""
    floor = spec.worldbody.add_geom(name="floor", type=mujoco.mjtGeom.mjGEOM_PLANE)
    floor.size, floor.rgba = [0.0, 0.0, 0.05], [0.78, 0.8, 0.83, 1.0]
    floor.contype, floor.conaffinity = _FLOOR_BIT, _FLOOR_BIT
    body = spec.body(base)
    follow = mujoco.mjtCamLight.mjCAMLIGHT_TRACKCOM
    if not any(camera.name == "tracking" for camera in spec.cameras):
        camera = body.add_camera(name="tracking", mode=follow, pos=[1.9, -1.5, 0.4])
        camera.alt.type = mujoco.mjtOrientation.mjORIENTATION_XYAXES
        camera.alt.xyaxes = [0.62, 0.785, 0.0, -0.13, 0.1, 0.986]
    light = body.add_light(mode=follow, pos=[1.0, -1.0, 3.0], dir=[-0.3, 0.3, -1.0])
    light.type = mujoco.mjtLightType.mjLIGHT_DIRECTIONAL
    light.diffuse = [0.5, 0.5, 0.5]
    spec.visual.headlight.ambient, spec.visual.headlight.diffuse = [0.35] * 3, [0.35] * 3
    sky = spec.add_texture(type=mujoco.mjtTexture.mjTEXTURE_SKYBOX, width=64, height=384)
    sky.builtin = mujoco.mjtBuiltin.mjBUILTIN_GRADIENT
    sky.rgb1, sky.rgb2 = [0.93, 0.95, 0.98], [0.7, 0.76, 0.84]
    spec.visual.global_.offwidth, spec.visual.global_.offheight = 1920, 1080


def add_motor(spec: mujoco.MjSpec, name: str, numbers: Mapping[str, float]) -> None:
    """Drive a joint by a position actuator of the same name, with the numbers of one joint.

    torque = clip(stiffness (target - q) - damping qd, -torque_limit, torque_limit)
    """
    joint = spec.joint(name)
    joint.armature = numbers["armature"]
    joint.damping = np.array([numbers["passive_damping"], 0.0, 0.0])
    joint.frictionloss = numbers["frictionloss"]
    joint.ref += _angle(joint, numbers["encoder_bias"])  # links stand where the joint reads this
    # The limit stands at the motor; a second one at the joint would hide it.
    joint.actfrclimited = mujoco.mjtLimited.mjLIMITED_FALSE
    if np.isfinite([numbers["lower"], numbers["upper"]]).all():
        joint.limited = mujoco.mjtLimited.mjLIMITED_TRUE
        limits = np.array([numbers["lower"], numbers["upper"]])
        joint.range = _angle(joint, limits)
    motor = spec.add_actuator(name=name, target=name, trntype=mujoco.mjtTrn.mjTRN_JOINT)
    motor.set_to_position(kp=numbers["stiffness"], kv=numbers["damping"])
    motor.ctrllimited = mujoco.mjtLimited.mjLIMITED_FALSE
    if np.isfinite(numbers["torque_limit"]):
        motor.forcelimited = mujoco.mjtLimited.mjLIMITED_TRUE
        motor.forcerange = [-numbers["torque_limit"], numbers["torque_limit"]]
    if numbers["delay_s"] > 0.0:
        motor.delay, motor.interp = numbers["delay_s"], 1  # linear between physics steps
        motor.nsample = int(np.ceil(numbers["delay_s"] / spec.option.timestep)) + 1


def _angle(joint: mujoco.MjsJoint, angle: Any) -> Any:
    """An angle [rad] in the unit of the joint's MJCF."""
    return np.rad2deg(angle) if joint.compiler.degree else angle


def collides(geom: mujoco.MjsGeom) -> bool:
    """True if a geom of a spec can touch anything."""
    return bool(geom.contype or geom.conaffinity)


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _own_motors(spec: mujoco.MjSpec) -> dict[str, dict[str, float]]:
    """Gains and limits of the MJCF's own actuators, where they are plain motors or PD loops."""
    motors: dict[str, dict[str, float]] = {}
    for motor in spec.actuators:
        if motor.trntype != mujoco.mjtTrn.mjTRN_JOINT:
            continue
        found: dict[str, float] = {}
        kp, kv = motor.gainprm[0], -motor.biasprm[2]
        if motor.biastype == mujoco.mjtBias.mjBIAS_AFFINE and motor.biasprm[1] == -kp and kp > 0:
            found["stiffness"] = float(kp)
            # A positive biasprm[2] is a damping ratio that MuJoCo works out when it compiles.
            found |= {"damping": float(kv)} if kv >= 0 else {}
        if motor.forcerange[1] > motor.forcerange[0]:
            found["torque_limit"] = float(max(abs(motor.forcerange)))
        motors[motor.target] = found
    return motors


def _find_base(spec: mujoco.MjSpec, facts: RobotFacts) -> mujoco.MjsBody:
    """The root body of the robot: named, else the one with a free joint, else the largest."""
    roots = [body for body in spec.bodies if body.parent == spec.worldbody]
    if not roots:
        raise InputError("the MJCF has no bodies", file=facts.file)
    name = facts.get("base")
    if name is not None:
        named = [body for body in roots if body.name == name]
        if not named:
            hint = suggestion(name, [body.name for body in roots])
            raise InputError(f"base '{name}' is not a root body of the MJCF{hint}", file=facts.file)
        return named[0]
    free = [body for body in roots if any(j.type == _FREE for j in body.joints)]
    return max(free or roots, key=lambda body: len(body.find_all("joint")))


def _require_names(base: mujoco.MjsBody, mjcf: Mjcf) -> None:
    """Bodies and hinges are spoken of by name."""
    for body in [base, *base.find_all("body")]:
        if not body.name:
            raise InputError(f"a body below '{body.parent.name}' has no name", file=mjcf.file)
        if any(joint.type == _HINGE and not joint.name for joint in body.joints):
            raise InputError(f"a joint of body '{body.name}' has no name", file=mjcf.file)


def _keep_only(spec: mujoco.MjSpec, base: mujoco.MjsBody) -> list[str]:
    """Remove the scene around the robot: floors, props, cameras of the world."""
    props = [body for body in spec.bodies if body.parent == spec.worldbody and body != base]
    world = spec.worldbody
    gone = [f"body '{body.name}'" for body in props] + [f"geom '{g.name}'" for g in world.geoms]
    for element in [*props, *world.geoms, *world.sites, *world.cameras, *world.lights]:
        spec.delete(element)
    return [f"the MJCF's own scene is left out: {', '.join(gone[:6])}"] if gone else []


def _drop_missing_meshes(spec: mujoco.MjSpec, mjcf: Mjcf) -> list[str]:
    """Remove geoms whose mesh file is absent, unless the body's mass came from them."""
    missing = {mesh.name for mesh in spec.meshes if mesh.file.startswith(MISSING)}
    lost: list[str] = []
    for body in spec.bodies:
        gone = [geom for geom in body.geoms if geom.meshname in missing]
        if gone and not body.explicitinertial:
            raise InputError(
                f"mesh '{gone[0].meshname}' is not in the folder and body '{body.name}' has no "
                "<inertial>: its mass is unknown; add the mesh file or an <inertial>",
                file=mjcf.file,
            )
        lost += [body.name for geom in gone if collides(geom)]
        for geom in gone:
            spec.delete(geom)
    for mesh in [mesh for mesh in spec.meshes if mesh.name in missing]:
        spec.delete(mesh)
    problems = []
    if missing:
        some = ", ".join(sorted(missing)[:4])
        problems.append(f"{len(missing)} mesh files are not in the folder ({some}, ...)")
    if lost:
        some = ", ".join(dict.fromkeys(lost))
        problems.append(f"without their meshes these bodies touch nothing: {some}")
    return problems


def _weld(spec: mujoco.MjSpec, facts: RobotFacts) -> None:
    """Remove the joints that a layer welds; the body stays where the zero pose has it."""
    for joint in [j for j in spec.joints if j.type == _HINGE]:
        if facts.joint(joint.name, {}, derive=False).get("welded", False):
            spec.delete(joint)


def _override_bodies(spec: mujoco.MjSpec, facts: RobotFacts) -> None:
    """Apply the ``[bodies]`` tables."""
    names = [body.name for body in spec.bodies]
    for name, change in facts.table("bodies").items():
        if name not in names:
            hint = suggestion(name, names)
            raise InputError(f"[bodies] names '{name}', which is no body{hint}", file=facts.file)
        body = spec.body(name)
        inertial = {"mass", "com", "inertia", "inertia_quat", "mass_scale", "com_offset"} & {
            *change
        }
        if inertial and not body.explicitinertial:
            raise InputError(
                f"[bodies.{name}] changes the mass of a body that has no <inertial> in the MJCF",
                file=facts.file,
            )
        _override_body(body, change)


def _override_body(body: mujoco.MjsBody, change: Mapping[str, Any]) -> None:
    """Apply one ``[bodies]`` table."""
    body.pos = change.get("pos", body.pos)
    body.quat = change.get("quat", body.quat)
    if "inertia" in change:
        body.fullinertia = np.full(6, np.nan)
    body.ipos = np.asarray(change.get("com", body.ipos)) + change.get("com_offset", 0.0)
    body.iquat = change.get("inertia_quat", body.iquat)
    factor = change.get("mass_scale", 1.0)
    body.mass = change.get("mass", body.mass) * factor
    body.inertia = np.asarray(change.get("inertia", body.inertia)) * factor
    body.fullinertia = body.fullinertia * factor
    for element in [*body.geoms, *body.sites]:
        offset = np.asarray(change.get("geom_offset", np.zeros(3)))
        if np.isfinite(element.fromto).all():
            element.fromto = element.fromto + np.tile(offset, 2)
        else:
            element.pos = element.pos + offset


def _remove_geoms(spec: mujoco.MjSpec, facts: RobotFacts) -> None:
    """Remove the geoms that a layer does not want, by pattern of their names."""
    for pattern in facts.get("remove_geoms", []):
        gone = [geom for geom in spec.geoms if geom.name and fnmatchcase(geom.name, pattern)]
        if not gone:
            hint = suggestion(pattern, [geom.name for geom in spec.geoms if geom.name])
            raise InputError(f"remove_geoms: '{pattern}' matches no geom{hint}", file=facts.file)
        for geom in gone:
            spec.delete(geom)


def _legs(spec: mujoco.MjSpec, feet: tuple[str, ...]) -> list[set[str]]:
    """Names of the bodies from each foot up to where the legs join."""
    chains = [_chain(spec.body(name)) for name in feet]
    shared = set.intersection(*map(set, chains)) if len(chains) > 1 else set()
    return [set(chain) - shared for chain in chains]


def _chain(body: mujoco.MjsBody) -> Iterable[str]:
    """Names of a body and everything above it, without the world."""
    names = []
    while body is not None and body.name != "world":
        names.append(body.name)
        body = body.parent
    return names


def _is_below(body: mujoco.MjsBody, feet: tuple[str, ...]) -> bool:
    """True for a foot and for what hangs on it."""
    return not set(_chain(body)).isdisjoint(feet)


def _set_grip(geom: mujoco.MjsGeom, contact: Mapping[str, Any]) -> None:
    """Contact numbers of a sole; its friction counts alone, not the larger of sole and floor."""
    if "friction" in contact:
        geom.friction = [contact["friction"], *geom.friction[1:]]
        geom.priority = 1
    if "solref" in contact:
        geom.solref = contact["solref"]
        geom.priority = 1
