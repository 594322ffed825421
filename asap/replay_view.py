"""What a replay found, to look at: a heat map, a page, and the robot beside its simulation.

Path("gap.png").write_bytes(heat_map(result, "nominal"))
Path("report.html").write_text(page(result, title="worn", arm="nominal"))
write_overlay(log, robot, Path("gap.rrd"))       # then: rerun gap.rrd
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import rerun.blueprint as rrb
from matplotlib.figure import Figure

from asap.log_states import log_track
from asap.log_windows import PAST
from asap.metrics import MM, Interval
from asap.recording import MEASURED, PALETTE, REFERENCE, TARGET, TIMELINE, Curve, Recording
from asap.replay import JOINT_ERROR, Replay
from asap.robot import Robot
from asap.twin import make_simulation
from asap.visualize import joint_chains
from asap_deploy.log import Log

matplotlib.use("Agg")
PHASES = 10
"""Parts of a stretch in which errors are compared."""
_EYE = np.array([2.3, -1.9, 0.5])
"""Of the recording's view, from where the base starts [m]."""


class Costly(NamedTuple):
    """Where the gap is."""

    joints: tuple[tuple[str, float], ...]
    """The three joints with the largest error at the first horizon, before it spreads to other
    joints through the floor, with it [deg]"""
    phase: tuple[float, float]
    """Part of the stretches (0 to 1) in which windows that start there end worst"""
    phase_deg: float
    """Their mean error [deg]"""


def costly(result: Replay, arm: str) -> Costly:
    """The joints and the phase of motion that cost most."""
    found = result.arms[arm]
    worst = np.argsort(-found.joint_mae_deg[0])[:3]
    reached = np.isfinite(found.joint_deg).all(axis=1)
    ends = np.zeros(int(result.stretch.max()) + 1)
    np.maximum.at(ends, result.stretch, result.start_row)
    place = result.start_row / np.maximum(ends[result.stretch], 1.0)
    bins = np.minimum((PHASES * place).astype(int), PHASES - 1)
    means = np.array([
        found.joint_deg[reached & (bins == i)].mean() if (reached & (bins == i)).any() else 0.0
        for i in range(PHASES)
    ])  # fmt: skip
    peak = int(means.argmax())
    return Costly(
        joints=tuple((result.joint_names[i], float(found.joint_mae_deg[0][i])) for i in worst),
        phase=(peak / PHASES, (peak + 1) / PHASES),
        phase_deg=float(means[peak]),
    )


def worst_points(result: Replay, arm: str, most: int = 3) -> list[tuple[str, float]]:
    """The bodies that are farthest off at the first horizon [mm]; none without a base."""
    means = result.arms[arm].point_mae_mm
    if means.size == 0:
        return []
    return [(result.point_names[i], float(means[0, i])) for i in np.argsort(-means[0])[:most]]


def heat_map(result: Replay, arm: str) -> bytes:
    """A PNG: joints down, horizons across, mean absolute error in colour and number."""
    found = result.arms[arm]
    horizons, joints = list(found.horizons), result.joint_names
    figure = Figure(figsize=(1.4 * len(horizons) + 4.2, 0.26 * len(joints) + 1.4), dpi=110)
    axes = figure.subplots()
    image = axes.imshow(found.joint_mae_deg.T, aspect="auto", cmap="viridis")
    axes.set_xticks(range(len(horizons)), [f"{h} s" for h in horizons])
    axes.set_yticks(range(len(joints)), [n.removesuffix("_joint") for n in joints], fontsize=8)
    middle = 0.6 * float(np.nanmax(found.joint_mae_deg))
    for row, values in enumerate(found.joint_mae_deg.T):
        for column, value in enumerate(values):
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7,
                      color="black" if value > middle else "white")  # fmt: skip
    axes.set_title(f"{arm}: mean absolute joint error [deg]", fontsize=10)
    figure.colorbar(image, ax=axes)
    figure.tight_layout()
    data = io.BytesIO()
    figure.savefig(data, format="png")
    return data.getvalue()


class Overlay(NamedTuple):
    """T rows of a log and of its simulation."""

    robot: Robot
    """At the log's rate, under its gains"""
    time_s: np.ndarray
    """(T,) from 0 [s]"""
    qpos: np.ndarray
    """(T, nq) of the simulation"""
    logged_qpos: np.ndarray
    """(T, nq)"""
    joint_pos_target: np.ndarray
    """(T, J) [rad]"""
    every_s: float
    """Between the times at which the simulation is put back onto the log [s]"""
    base_known: bool
    """Whether the log says where the base is."""

    @property
    def joint_gap_deg(self) -> np.ndarray:
        """(T, J) simulation minus log [deg]."""
        columns = self.robot.qpos_ids
        return np.asarray(np.rad2deg(self.qpos[:, columns] - self.logged_qpos[:, columns]))


def overlay(log: Log, robot: Robot, *, window_s: float = 1.0) -> Overlay:
    """The longest stretch of a log beside its simulation, put back onto the log every window."""
    track = max(
        (log_track(piece, robot, rate_hz=log.rate_hz) for piece in log.segments()),
        key=lambda t: len(t.qpos),
    )
    own, target = track.robot, track.joint_pos_target
    sim, every = make_simulation(own, 1), max(1, round(window_s / own.control_dt))
    qpos = np.empty_like(track.qpos)
    for row in range(len(qpos)):
        if row % every == 0:
            past = target[np.maximum(np.arange(row - PAST, row), 0)]
            sim.reset(np.array([0]), track.qpos[row : row + 1], track.qvel[row : row + 1],
                      joint_pos_target=past[None])  # fmt: skip
        qpos[row] = own.qpos(sim.base_pos_w[0], sim.base_quat_wxyz[0], sim.joint_pos[0])
        sim.step(target[row : row + 1])
    known = track.base_known and own.has_free_base
    time_s = track.time_s - track.time_s[0]
    return Overlay(own, time_s, qpos, track.qpos, target, every * own.control_dt, known)


def write_overlay(log: Log, robot: Robot, path: Path) -> None:
    """Write a rerun recording: the simulation, the log as its ghost, and their gap joint by joint.

    Args:
        log: Its longest stretch is shown.
        robot: The model.
        path: The ``.rrd`` file, written at once or not at all.

    Raises:
        InputError: If the log cannot be replayed, or the file cannot be written.
    """
    shown = overlay(log, robot)
    model, time_s = shown.robot.model, shown.time_s
    title = f"{robot.name}: simulation, put back onto the log every {shown.every_s:.3g} s"
    recording = Recording(title)
    recording.floor("/scene/floor")
    for name, qpos, tint in (("simulation", shown.qpos, None),
                             ("log", shown.logged_qpos, REFERENCE)):  # fmt: skip
        recording.shapes(f"/scene/{name}", model, tint=tint)
        recording.poses(f"/scene/{name}", model, time_s, qpos)
    if shown.base_known:
        gap = shown.qpos[:, :3] - shown.logged_qpos[:, :3]
        distance = Curve("distance", MEASURED, MM * np.linalg.norm(gap, axis=1))
        recording.curves("/base_gap_mm", time_s, [distance])
    tabs = _joint_tabs(recording, shown)
    eye = rrb.EyeControls3D(position=shown.qpos[0, :3] * shown.robot.has_free_base + _EYE)
    scene = rrb.Spatial3DView(origin="/scene", name="log (blue) and simulation", eye_controls=eye)
    whole = rrb.Horizontal(scene, rrb.Tabs(*tabs), column_shares=[3, 2], name=title)
    recording.write(path, rrb.Blueprint(whole, rrb.TimePanel(timeline=TIMELINE, state="collapsed")))


def _joint_tabs(recording: Recording, shown: Overlay) -> list[rrb.View | rrb.Container]:
    """Curves of the joints and their gaps, a plot for each joint and one for the gaps of a limb."""
    robot, time_s, gap_deg = shown.robot, shown.time_s, shown.joint_gap_deg
    lines = {
        "log": (REFERENCE, shown.logged_qpos[:, robot.qpos_ids]),
        "simulation": (MEASURED, shown.qpos[:, robot.qpos_ids]),
        "target": (TARGET, shown.joint_pos_target),
    }
    gaps: list[rrb.View | rrb.Container] = []
    limbs: list[rrb.View | rrb.Container] = []
    if shown.base_known:
        gaps.append(rrb.TimeSeriesView(origin="/base_gap_mm", name="base [mm]"))
    for chain in joint_chains(robot):
        names = [robot.joint_names[joint] for joint in chain]
        for joint, name in zip(chain, names, strict=True):
            recording.curves(f"/joints/{name}", time_s, [
                Curve(what, color, values[:, joint]) for what, (color, values) in lines.items()
            ])  # fmt: skip
        limb = f"{names[0].removesuffix('_joint')} and on"
        recording.curves(f"/gap_deg/{names[0]}", time_s, [
            Curve(robot.joint_names[joint], PALETTE[k % len(PALETTE)], gap_deg[:, joint])
            for k, joint in enumerate(chain)
        ])  # fmt: skip
        gaps.append(rrb.TimeSeriesView(origin=f"/gap_deg/{names[0]}", name=limb))
        plots = (rrb.TimeSeriesView(origin=f"/joints/{name}", name=name) for name in names)
        limbs.append(rrb.Grid(*plots, name=limb))
    return [rrb.Vertical(*gaps, name="simulation - log [deg]"),
            rrb.Tabs(*limbs, name="joint positions [rad]")]  # fmt: skip


def page(result: Replay, *, title: str, arm: str, notes: Sequence[str] = ()) -> str:
    """A page that stands alone: what is off, by how much, where, beside the controls."""
    where = costly(result, arm)
    joints = ", ".join(f"{name} ({value:.2f} deg)" for name, value in where.joints)
    bodies = ", ".join(f"{name} ({value:.1f} mm)" for name, value in worst_points(result, arm))
    farthest = f"<p><b>Bodies farthest off:</b> {html.escape(bodies)}.</p>" if bodies else ""
    picture = base64.b64encode(heat_map(result, arm)).decode()
    listed = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
    return f"""<!doctype html><meta charset="utf-8"><title>{html.escape(title)}</title>
<style>body{{font:15px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em}}
table{{border-collapse:collapse}}td,th{{padding:.2em .8em;border-bottom:1px solid #ccc;
text-align:right}}td:first-child,th:first-child{{text-align:left}}img{{max-width:100%}}</style>
<h1>{html.escape(title)}</h1>
<p>{result.windows} windows of {result.episodes} episodes at {result.rate_hz:.2f} Hz, each put back
onto the log at its start and given the logged targets; errors at the end of the horizon, with 95 %
intervals over episodes.</p>
<p><b>What costs most:</b> {html.escape(joints)}; worst where windows begin between
{where.phase[0]:.0%} and {where.phase[1]:.0%} of an episode ({where.phase_deg:.2f} deg).</p>
{farthest}
{"".join(_table(result, metric) for metric in metrics_of(result))}
<p>hold_last: nothing moves. target_as_prediction: joints are where they are told to be. A model
that is no better than these explains nothing. repeat: joints move on as they did in another run in
the same phase: how well the robot repeats itself.</p>
<img alt="error of each joint" src="data:image/png;base64,{picture}">
<ul>{listed}</ul>
"""


def metrics_of(result: Replay) -> list[str]:
    """Those that some arm has, joints first."""
    return list(dict.fromkeys(
        metric for arm in result.arms.values() for h in arm.horizons.values() for metric in h
    ))  # fmt: skip


def _table(result: Replay, metric: str) -> str:
    """Arms down, horizons across."""
    horizons = list(next(iter(result.arms.values())).horizons)
    head = "".join(f"<th>{h} s</th>" for h in horizons)
    rows = ""
    for name, arm in result.arms.items():
        if metric not in arm.horizons[horizons[0]]:
            continue
        cells = "".join(f"<td>{_cell(arm.horizons[h][metric], metric)}</td>" for h in horizons)
        bad = f" ({arm.diverged} blew up)" if arm.diverged else ""
        rows += f"<tr><td>{html.escape(name + bad)}</td>{cells}</tr>"
    return f"<h2>{metric}</h2><table><tr><th></th>{head}</tr>{rows}</table>"


def _cell(figure: Interval, metric: str) -> str:
    digits = 2 if metric == JOINT_ERROR else 1
    if not np.isfinite(figure.low):
        return f"{figure.value:.{digits}f}"
    return f"{figure.value:.{digits}f} [{figure.low:.{digits}f}, {figure.high:.{digits}f}]"
