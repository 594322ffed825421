"""What a replay found, to look at: a heat map, a page, and the robot beside its simulation.

write_heat_map(result, "nominal", Path("gap.png"))
rollout = overlay(log, robot)                    # for asap.visualize.write_recording
Path("report.html").write_text(page(result, title="worn", heat_map=png))
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from asap.log_states import log_track
from asap.log_windows import PAST
from asap.metrics import MM, Interval, TrackedPoints
from asap.replay import JOINT_ERROR, Replay
from asap.robot import Robot
from asap.rollout import Rollout
from asap.twin import make_simulation
from asap_deploy.log import Log

matplotlib.use("Agg")
PHASES = 10
"""Parts of a stretch in which errors are compared."""


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


def overlay(log: Log, robot: Robot, *, window_s: float = 1.0) -> Rollout:
    """The longest stretch of a log beside its simulation, put back onto the log every window.

    The recording shows the simulation as the robot and the log as its reference.
    """
    track = max(
        (log_track(piece, robot, rate_hz=log.rate_hz) for piece in log.segments()),
        key=lambda t: len(t.qpos),
    )
    own, rows = track.robot, len(track.qpos)
    sim, points = make_simulation(own, 1), TrackedPoints(own)
    every = max(1, round(window_s / own.control_dt))
    bodies = own.forward_kinematics(track.qpos[:, :3], track.qpos[:, 3:7], track.joint_pos)
    logged = points.positions(*bodies)
    shown: dict[str, list[np.ndarray]] = {"qpos": [], "torque": [], "force": [], "error": []}
    for row in range(rows):
        if row % every == 0:
            past = track.joint_pos_target[np.maximum(np.arange(row - PAST, row), 0)]
            sim.reset(np.array([0]), track.qpos[row : row + 1], track.qvel[row : row + 1],
                      joint_pos_target=past[None])  # fmt: skip
        here = points.positions(sim.body_pos_w[0], sim.body_quat_wxyz[0])
        gap = np.linalg.norm(here - logged[row], axis=-1).mean()
        shown["qpos"].append(own.qpos(sim.base_pos_w[0], sim.base_quat_wxyz[0], sim.joint_pos[0]))
        shown["torque"].append(sim.joint_torque[0].copy())
        shown["force"].append(sim.foot_contact_force[0].copy())
        shown["error"].append(MM * gap)
        sim.step(track.joint_pos_target[row : row + 1])
    return Rollout(
        robot=own,
        time_s=track.time_s - track.time_s[0],
        qpos=np.array(shown["qpos"]),
        reference_qpos=track.qpos,
        joint_pos_target=track.joint_pos_target,
        joint_torque=np.array(shown["torque"]),
        contact_force=np.array(shown["force"]).reshape(rows, -1),
        error_mm=np.array(shown["error"]),
        title=f"simulation put back onto the log every {window_s:g} s",
    )


def page(result: Replay, *, title: str, arm: str, notes: Sequence[str] = ()) -> str:
    """A page that stands alone: what is off, by how much, where, beside the controls."""
    where = costly(result, arm)
    joints = ", ".join(f"{name} ({value:.2f} deg)" for name, value in where.joints)
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
{"".join(_table(result, metric) for metric in _metrics(result))}
<p>hold_last: nothing moves. target_as_prediction: joints are where they are told to be. A model
that is no better than these explains nothing.</p>
<img alt="error of each joint" src="data:image/png;base64,{picture}">
<ul>{listed}</ul>
"""


def _metrics(result: Replay) -> list[str]:
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
