"""Recordings to look at in the rerun viewer: episodes, reference motions, robots.

A recording holds the robot in three dimensions, its reference as a ghost, the forces under its
feet, and every curve that one asks for when a policy misbehaves, laid out in tabs.

    write_recording([rollout], "runs/view/side_jump.rrd")      # then: rerun side_jump.rrd
    write_motion_recording(motion, robot, "side_jump_reference.rrd")
    view_robot(Robot.load("g1"), "g1.rrd")                     # every joint moves through its range
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rerun.blueprint as rrb

from asap.picture import COLLISION, posed
from asap.recording import MEASURED, PALETTE, REFERENCE, TARGET, TIMELINE, Curve, Recording
from asap.robot import Robot
from asap.rollout import Rollout, qpos_of_motion
from asap_deploy.errors import InputError
from asap_deploy.motion import Motion

METERS_PER_NEWTON = 1e-3
"""Length of a force arrow: the weight of a small humanoid is a third of a metre."""

SWEEP_S = 1.2
"""Time in which ``view_robot`` moves one joint through its range and back [s]."""

_SWEEP_FRAMES = 25


def write_recording(rollouts: Sequence[Rollout], path: str | Path) -> None:
    """Write episodes as a rerun recording, one tab each, on one time axis from zero.

    Args:
        rollouts: One or more episodes.
        path: The ``.rrd`` file, written at once or not at all.

    Raises:
        InputError: If there is no episode, or the file cannot be written.
    """
    if not rollouts:
        raise InputError("a recording needs at least one rollout; got none", file=path)
    recording = Recording(" | ".join(r.title or r.robot.name for r in rollouts))
    tabs = []
    for i, rollout in enumerate(rollouts):
        root = f"/episode_{i}"
        _send_rollout(recording, root, rollout)
        tabs.append(_rollout_layout(root, rollout))
    recording.write(path, _blueprint(tabs))


def write_motion_recording(motion: Motion, robot: Robot, path: str | Path) -> None:
    """Write a bare reference motion as a rerun recording.

    Args:
        motion: The clip.
        robot: The robot that shows it; joints that the clip lacks stay at their default.
        path: The ``.rrd`` file, written at once or not at all.

    Raises:
        InputError: If the clip does not fit the robot, or the file cannot be written.
    """
    qpos = qpos_of_motion(robot, motion)
    time_s = np.arange(motion.num_frames) / motion.fps
    root = "/motion"
    recording = Recording(f"{Path(path).stem} on {robot.name}")
    _send_scene(recording, root, robot, time_s, qpos)
    height = Curve("reference", REFERENCE, qpos[:, 2])
    if robot.has_free_base:
        recording.curves(f"{root}/base_height", time_s, [height])
    contacts = zip(robot.foot_names, PALETTE, motion.foot_contact.T, strict=False)
    recording.curves(f"{root}/foot_contact", time_s, (Curve(*contact) for contact in contacts))
    order = robot.joint_ids(motion.joint_names)
    position, velocity = np.full((2, motion.num_frames, len(robot.joint_names)), np.nan)
    position[:, order], velocity[:, order] = motion.joint_pos, motion.joint_vel
    _send_chains(recording, f"{root}/joint_pos", robot, time_s, position)
    _send_chains(recording, f"{root}/joint_vel", robot, time_s, velocity)
    plots = rrb.Tabs(
        rrb.Vertical(
            _plot(f"{root}/base_height", "base height [m]"),
            _plot(f"{root}/foot_contact", "foot contact"),
            name="overview",
        ),
        _chain_plots(f"{root}/joint_pos", robot, "joint positions [rad]"),
        _chain_plots(f"{root}/joint_vel", robot, "joint velocities [rad/s]"),
    )
    view = _scene_view(f"{root}/scene", qpos, robot)
    recording.write(path, _blueprint([_beside(view, plots, motion.robot or robot.name)]))


def view_robot(robot: Robot, path: str | Path) -> None:
    """Write a robot in which every joint in turn moves through its range, with what it is made of.

    Shows at a glance a wrong sign, axis or limit. Collision shapes are there too,
    switched off.

    Args:
        robot: The robot.
        path: The ``.rrd`` file, written at once or not at all.

    Raises:
        InputError: If the file cannot be written.
    """
    time_s, qpos = joint_sweep(robot)
    recording = Recording(f"robot {robot.name}")
    _send_scene(recording, "/robot", robot, time_s, qpos)
    scene = "/robot/scene"
    recording.shapes(
        f"{scene}/robot", robot.model, geom_groups=COLLISION, tint=PALETTE[2], name="collision"
    )
    _send_chains(recording, "/robot/joint_pos", robot, time_s, qpos[:, robot.qpos_ids])
    recording.text("/robot/facts", _facts(robot))
    hidden = {
        f"{Recording.body_path(f'{scene}/robot', robot.model, body)}/collision": (
            rrb.EntityBehavior(visible=False)
        )
        for body in range(1, robot.model.nbody)
    }
    plots = rrb.Tabs(
        rrb.TextDocumentView(origin="/robot/facts", name="facts"),
        _chain_plots("/robot/joint_pos", robot, "joint positions [rad]"),
    )
    view = _scene_view(scene, qpos, robot, overrides=hidden)
    recording.write(path, _blueprint([_beside(view, plots, robot.name)]))


def joint_sweep(robot: Robot) -> tuple[np.ndarray, np.ndarray]:
    """Poses in which one joint after the other goes from default to both limits and back.

    Args:
        robot: The robot; a joint without limits turns by half a turn each way.

    Returns:
        Times (T,) [s] and poses (T, nq), the base lifted clear of the floor.
    """
    turn = np.linspace(0.0, 2 * np.pi, _SWEEP_FRAMES, endpoint=False)
    share = np.stack([np.clip(np.sin(turn), 0, None), np.clip(-np.sin(turn), 0, None)])
    start = robot.default_qpos()
    if robot.has_free_base:
        start[2] += 0.3
    default = robot.default_joint_pos
    up = np.where(np.isfinite(robot.joint_pos_upper), robot.joint_pos_upper - default, np.pi)
    down = np.where(np.isfinite(robot.joint_pos_lower), robot.joint_pos_lower - default, -np.pi)
    joints = len(robot.joint_names)
    qpos = np.tile(start, (joints * _SWEEP_FRAMES, 1))
    for joint, address in enumerate(robot.qpos_ids):
        rows = slice(joint * _SWEEP_FRAMES, (joint + 1) * _SWEEP_FRAMES)
        qpos[rows, address] = default[joint] + share.T @ np.array([up[joint], down[joint]])
    return np.arange(len(qpos)) * SWEEP_S / _SWEEP_FRAMES, qpos


def joint_chains(robot: Robot) -> list[list[int]]:
    """Joints as unbranched chains, for instance leg, leg, waist, arm, arm.

    Args:
        robot: The robot.

    Returns:
        Places in ``robot.joint_names``, from the base outwards; every joint is in one chain.
    """
    model = robot.model
    bodies = [int(model.joint(name).bodyid[0]) for name in robot.joint_names]
    last_on_body = {body: joint for joint, body in enumerate(bodies)}
    parents: list[int | None] = []
    for joint, body in enumerate(bodies):
        if joint and bodies[joint - 1] == body:
            parents.append(joint - 1)
            continue
        while body and (body := int(model.body_parentid[body])) and body not in last_on_body:
            pass
        parents.append(last_on_body.get(body))
    chain_of: dict[int, list[int]] = {}
    chains: list[list[int]] = []
    for joint, parent in enumerate(parents):
        if parent is None or parents.count(parent) > 1 or parent not in chain_of:
            chain_of[joint] = []
            chains.append(chain_of[joint])
        else:
            chain_of[joint] = chain_of[parent]
        chain_of[joint].append(joint)
    return chains


def _send_rollout(recording: Recording, root: str, rollout: Rollout) -> None:
    """Everything that an episode holds, under ``root``."""
    robot, time_s = rollout.robot, rollout.time_s - rollout.time_s[0]
    _send_scene(recording, root, robot, time_s, rollout.qpos, rollout.reference_qpos)
    curves = {
        "measured": (MEASURED, rollout.joint_pos),
        "target": (TARGET, rollout.joint_pos_target),
        "reference": (REFERENCE, rollout.reference_joint_pos),
    }
    for joint, name in enumerate(robot.joint_names):
        lines = [
            Curve(what, color, values[:, joint])
            for what, (color, values) in curves.items()
            if values is not None
        ]
        recording.curves(f"{root}/joints/{name}", time_s, lines)
    _send_chains(recording, f"{root}/torque", robot, time_s, rollout.joint_torque)
    if rollout.error_mm is not None:
        error = Curve("mean", MEASURED, rollout.error_mm)
        recording.curves(f"{root}/error_mm", time_s, [error])
    if robot.has_free_base:
        heights = [Curve("robot", MEASURED, rollout.qpos[:, 2])]
        if rollout.reference_qpos is not None:
            heights.append(Curve("reference", REFERENCE, rollout.reference_qpos[:, 2]))
        recording.curves(f"{root}/base_height", time_s, heights)
    _send_contacts(recording, root, rollout)


def _send_contacts(recording: Recording, root: str, rollout: Rollout) -> None:
    """The force under each foot, as an arrow from the floor below it and as a curve."""
    robot, time_s = rollout.robot, rollout.time_s - rollout.time_s[0]
    feet = [robot.model.body(name).id for name in robot.foot_names]
    below = np.zeros((rollout.num_frames, len(feet), 3))
    for frame, qpos in enumerate(rollout.qpos):
        below[frame, :, :2] = posed(robot.model, qpos).xpos[feet, :2]
    for foot, name in enumerate(robot.foot_names):
        force = rollout.contact_force[:, foot]
        vectors = METERS_PER_NEWTON * force[:, None] * np.array([0.0, 0.0, 1.0])
        recording.arrows(
            f"{root}/scene/contact/{name}", time_s, below[:, foot], vectors, PALETTE[foot]
        )
        recording.curves(f"{root}/contact_force", time_s, [Curve(name, PALETTE[foot], force)])


def _send_scene(
    recording: Recording,
    root: str,
    robot: Robot,
    time_s: np.ndarray,
    qpos: np.ndarray,
    reference_qpos: np.ndarray | None = None,
) -> None:
    """Floor, robot and ghost in motion, under ``root/scene``."""
    recording.floor(f"{root}/scene/floor")
    recording.shapes(f"{root}/scene/robot", robot.model)
    recording.poses(f"{root}/scene/robot", robot.model, time_s, qpos)
    if reference_qpos is not None:
        recording.shapes(f"{root}/scene/reference", robot.model, tint=REFERENCE)
        recording.poses(f"{root}/scene/reference", robot.model, time_s, reference_qpos)


def _send_chains(
    recording: Recording, path: str, robot: Robot, time_s: np.ndarray, values: np.ndarray
) -> None:
    """One plot per chain of joints; columns of ``values`` (T, J) that are NaN are left out."""
    for chain in joint_chains(robot):
        lines = [
            Curve(robot.joint_names[joint], PALETTE[k % len(PALETTE)], values[:, joint])
            for k, joint in enumerate(chain)
            if np.isfinite(values[:, joint]).all()
        ]
        recording.curves(f"{path}/{_chain_name(robot, chain)}", time_s, lines)


def _chain_name(robot: Robot, chain: Sequence[int]) -> str:
    """From the first to the last joint of a chain."""
    first, last = (robot.joint_names[i].removesuffix("_joint") for i in (chain[0], chain[-1]))
    return first if first == last else f"{first}-to-{last}"


def _rollout_layout(root: str, rollout: Rollout) -> rrb.Container:
    """Scene left, plots right: first whether it worked, then joint by joint why not."""
    robot = rollout.robot
    joints = (
        rrb.Grid(
            *(_plot(f"{root}/joints/{robot.joint_names[j]}", robot.joint_names[j]) for j in chain),
            name=_chain_name(robot, chain),
        )
        for chain in joint_chains(robot)
    )
    plots = rrb.Tabs(
        rrb.Vertical(
            _plot(f"{root}/error_mm", "mean body error [mm]"),
            _plot(f"{root}/base_height", "base height [m]"),
            _plot(f"{root}/contact_force", "contact force [N]"),
            name="overview",
        ),
        rrb.Tabs(*joints, name="joint positions [rad]"),
        _chain_plots(f"{root}/torque", robot, "torques [Nm]"),
    )
    view = _scene_view(f"{root}/scene", rollout.qpos, robot)
    return _beside(view, plots, rollout.title or robot.name)


def _chain_plots(path: str, robot: Robot, name: str) -> rrb.Container:
    """One plot per chain of joints, below each other."""
    names = [_chain_name(robot, chain) for chain in joint_chains(robot)]
    return rrb.Vertical(*(_plot(f"{path}/{chain}", chain) for chain in names), name=name)


def _plot(path: str, name: str) -> rrb.TimeSeriesView:
    """A plot of all curves below a path."""
    return rrb.TimeSeriesView(origin=path, name=name)


def _scene_view(
    path: str,
    qpos: np.ndarray,
    robot: Robot,
    overrides: Mapping[Any, rrb.EntityBehavior] | None = None,
) -> rrb.Spatial3DView:
    """A view of a scene from the front right of where the robot starts."""
    start = qpos[0, :3] if robot.has_free_base else np.array([0.0, 0.0, 0.7])
    eye = rrb.EyeControls3D(
        position=start + np.array([2.3, -1.9, 0.5]), look_target=start - np.array([0.0, 0.0, 0.1])
    )
    return rrb.Spatial3DView(origin=path, name="scene", eye_controls=eye, overrides=overrides)


def _beside(view: rrb.View, plots: rrb.Container, name: str) -> rrb.Container:
    """The scene left, the plots right."""
    return rrb.Horizontal(view, plots, column_shares=[3, 2], name=name)


def _blueprint(tabs: Sequence[rrb.Container]) -> rrb.Blueprint:
    """The whole window: one tab per episode if there are several; only the time panel is open."""
    whole = tabs[0] if len(tabs) == 1 else rrb.Tabs(*tabs)
    return rrb.Blueprint(
        whole,
        rrb.BlueprintPanel(state="collapsed"),
        rrb.SelectionPanel(state="collapsed"),
        rrb.TimePanel(timeline=TIMELINE, state="collapsed"),
    )


def _facts(robot: Robot) -> str:
    """What a person wants to know about a robot, as Markdown."""
    mass = float(robot.model.body_subtreemass[0])
    lines = [
        f"# {robot.name}",
        f"{len(robot.joint_names)} joints, {len(robot.body_names)} bodies, {mass:.2f} kg",
        "",
        "| joint | from [deg] | to [deg] | stiffness | damping | torque limit [Nm] |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for i, name in enumerate(robot.joint_names):
        low, high = np.degrees([robot.joint_pos_lower[i], robot.joint_pos_upper[i]])
        lines.append(
            f"| {name} | {low:.0f} | {high:.0f} | {robot.stiffness[i]:.1f} | "
            f"{robot.damping[i]:.2f} | {robot.torque_limit[i]:.0f} |"
        )
    problems = robot.check()
    lines += ["", "## What the description lacks", *(f"- {problem}" for problem in problems)]
    return "\n".join(lines if problems else lines[:-1])
