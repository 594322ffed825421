"""Charts and pictures of an alignment run as data URIs, so that a page needs no other file.

    gap_chart(fit, "joint_mae_deg")                  # "data:image/svg+xml;base64,..." or None
    picture(Path("runs/align/pictures/squat_before.png"), max_bytes=200_000)

A chart is small enough to be read on a telephone. Before is hollow and grey, after is filled and
blue, so that a page printed in black still tells them apart. None stands for a chart of nothing.
"""

from __future__ import annotations

import base64
import io
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from PIL import Image

from asap.align_words import BODY, COST, horizons, interval, listing, mapping
from asap.finetune import CORRECTED, DELTA, IDENTIFIED, NOISY, NOMINAL, ORACLE, RANDOMIZED
from asap.metrics import Interval

_BEFORE, _AFTER, _STILL, _INK, _GRID = "#7a828e", "#1a66c4", "#9aa1ab", "#1c2128", "#e3e6ea"
_ARMS = {CORRECTED: _AFTER, IDENTIFIED: "#4f9bd9", DELTA: "#2b8a9e", NOMINAL: "#b7791f",
         NOISY: "#a4572a", RANDOMIZED: "#8a5a9e", ORACLE: "#2f855a"}  # fmt: skip
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "asap",  # the same figures give the same bytes
    "text.parse_math": False,  # names come from files
    "font.size": 8.5,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _BEFORE,
    "xtick.color": _INK,
    "ytick.color": _INK,
}
_CHANGES = {COST: "cost", BODY: "distance to the clip"}
_TALLEST = 40
"""Rows of a chart."""
_WIDTHS = (1400, 1100, 800, 560, 360)
"""Of pictures, tried in turn until one is small enough [px]."""
_MOST_PIXELS = 40_000_000
_BELOW = 0.3
"""The picture of errors ends at this part of the smallest one."""
Point = tuple[float, Interval]


def gap_chart(
    fit: Mapping[str, Any], metric: str, label: str, *, after: str = "after"
) -> str | None:
    """Errors by horizon, before and after, on a logarithmic scale.

    Args:
        fit: Result of ``asap fit``.
        metric: Of the replay.
        label: Of the axis, with its unit.
        after: What the corrected simulator is called.
    """
    arms = {
        "nothing moves": mapping(fit, "baseline", "hold_last"),
        "before": mapping(fit, "baseline", "nominal"),
        after: mapping(fit, "heldout"),
    }
    names = horizons(arms["before"]) or horizons(arms[after])
    points = {arm: _points(names, errors, metric) for arm, errors in arms.items()}
    if not points["before"] and not points[after]:
        return None
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(4.4, 3.0))
        axes = _axes(figure)
        axes.set_yscale("log")
        _draw(axes, points["nothing moves"], _STILL, marker="", style="--", label="nothing moves")
        _draw(axes, points["before"], _BEFORE, hollow=True, label="before")
        _draw(axes, points[after], _AFTER, label=after)
        bands = [(x, interval({"value": mapping(fit, "bands", h, metric).get("typical")}))
                 for x, h in enumerate(names)]  # fmt: skip
        color = _AFTER if points[after] else _BEFORE
        held = [(x, band.value) for x, band in bands if band is not None and band.value > 0.0]
        if held:
            axes.plot(*zip(*held, strict=True), "_", color=color, ms=16, mew=1.2, alpha=0.6,
                      label="9 of 10 windows are below")  # fmt: skip
        axes.set_xticks(range(len(names)), [f"{name} s" for name in names])
        axes.set_xlim(-0.4, len(names) - 0.6)
        shown = [one.value for arm in points.values() for _, one in arm] + [y for _, y in held]
        # An interval down to nothing would take six decades: it runs out of the picture.
        axes.set_ylim(bottom=_BELOW * min(shown))
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_ylabel(label)
        figure.legend(loc="outside upper left", ncols=2, frameon=False)
        return _svg(figure)


def _points(names: Sequence[str], errors: Mapping[str, Any], metric: str) -> list[Point]:
    """Figures above zero: others have no place on a logarithmic scale."""
    found = [(float(x), interval(errors, name, metric)) for x, name in enumerate(names)]
    return [(x, one) for x, one in found if one is not None and one.value > 0.0]


def _draw(
    axes: Axes, points: Sequence[Point], color: str, *, label: str, marker: str = "o",
    style: str = "-", hollow: bool = False,
) -> None:  # fmt: skip
    """A line with its intervals."""
    if not points:
        return
    x, y = [x for x, _ in points], [one.value for _, one in points]
    axes.plot(x, y, style, marker=marker, color=color, ms=6, lw=1.3, label=label,
              mfc="white" if hollow else color, zorder=3)  # fmt: skip
    for place, one in points if marker else ():
        if not math.isnan(one.low + one.high):
            axes.plot([place] * 2, [max(one.low, 1e-3 * one.value), one.high], color=color, lw=1.3)


def costly_joints(facts: Mapping[str, Any], most: int = 12) -> list[tuple[str, float, float]]:
    """Joints with the largest error at the longest horizon: name, before, after [deg].

    Args:
        facts: A fit with ``joint_names`` and ``joint_mae_deg``.
        most: Of them.

    Returns:
        The worst first, before or after; NaN where there is no figure.
    """
    names = [str(name) for name in listing(facts, "joint_names")]
    arms = []
    for arm in ("nominal", "corrected"):
        rows = listing(facts, "joint_mae_deg", arm)
        last = rows[-1] if rows and isinstance(rows[-1], list) else []
        values = [interval({"value": value}) for value in last] + [None] * len(names)
        arms.append([one.value if one else math.nan for one in values[: len(names)]])
    known = [row for row in zip(names, *arms, strict=True) if not np.isnan(row[1:]).all()]
    return sorted(known, key=lambda row: -np.nanmax(row[1:]))[:most]


def joint_chart(
    joints: Sequence[tuple[str, float, float]], label: str, *, after: str = "after"
) -> str | None:
    """Errors of joints before and after, a line of points each; the worst on top."""
    if not joints:
        return None
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(4.4, 0.9 + 0.24 * len(joints)))
        axes = _axes(figure, across=True)
        old, new = (np.array([row[i] for row in joints]) for i in (1, 2))
        rows = np.arange(len(joints))
        axes.hlines(rows, old, new, color=_STILL, lw=1.2)
        axes.plot(old, rows, "o", color=_BEFORE, mfc="white", ms=6, label="before")
        if np.isfinite(new).any():
            axes.plot(new, rows, "o", color=_AFTER, ms=6, label=after)
        axes.set_yticks(rows, [name.removesuffix("_joint") for name, _, _ in joints])
        axes.set_ylim(len(joints) - 0.4, -0.6)
        axes.set_xlim(left=0.0)
        axes.set_xlabel(label)
        figure.legend(loc="outside upper left", ncols=2, frameon=False)
        return _svg(figure)


def gain_chart(found: Mapping[str, Any]) -> str | None:
    """Change against the start policy, by motion and arm, with intervals and a line at zero."""
    arms = [one for of in mapping(found, "gain").values() for one in mapping(of).values()]
    metric = COST if any(interval(one, COST) for one in arms) else BODY
    rows = [
        (motion, arm, gain)
        for motion, arms in mapping(found, "gain").items()
        for arm in mapping(arms)
        if (gain := interval(arms, arm, metric)) is not None
    ][:_TALLEST]
    if not rows:
        return None
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(5.0, 1.0 + 0.27 * len(rows)))
        axes = _axes(figure, across=True)
        axes.axvline(0.0, color=_INK, lw=1.0)
        axes.plot([-1.0, 1.0], [0, 0], alpha=0.0)  # changes below a millimetre look small
        for row, (_, arm, gain) in enumerate(rows):
            color = _ARMS.get(arm, _BEFORE)
            if not math.isnan(gain.low + gain.high):
                axes.plot([gain.low, gain.high], [row, row], color=color, lw=1.6)
            axes.plot(
                gain.value, row, "o", ms=6, color=color, mfc=color if arm == CORRECTED else "white"
            )
            if row and rows[row - 1][0] != rows[row][0]:
                axes.axhline(row - 0.5, color=_GRID, lw=0.8)
        axes.set_yticks(range(len(rows)), [f"{motion}: {arm}" for motion, arm, _ in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlabel(f"change of the {_CHANGES[metric]} [mm]; left is better")
        return _svg(figure)


def closed_chart(shares: Mapping[str, Interval | None], label: str) -> str | None:
    """Shares of a gap that are closed, a row each with its range: 0 is the model, 100 % the truth.

    Args:
        shares: By row, as fractions.
        label: Of the axis.
    """
    rows = [(name, one) for name, one in shares.items() if one is not None][:_TALLEST]
    if not rows:
        return None
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(5.0, 1.0 + 0.27 * len(rows)))
        axes = _axes(figure, across=True)
        for edge in (0.0, 100.0):
            axes.axvline(edge, color=_INK, lw=1.0)
        for row, (_, share) in enumerate(rows):
            value, low, high = (100.0 * x for x in share)
            color = _AFTER if low > 0.0 else "#b7791f"  # what is no better in some case stands out
            axes.plot([low, high], [row, row], color=color, lw=1.6)
            axes.plot(value, row, "o", ms=6, color=color)
        axes.set_yticks(range(len(rows)), [name for name, _ in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlabel(f"{label} [%]; right is better")
        return _svg(figure)


def _axes(figure: Figure, *, across: bool = False) -> Axes:
    """Axes with a thin grid along the figures alone."""
    figure.set_layout_engine("constrained")
    axes = figure.subplots()
    axes.grid(axis="x" if across else "y", color=_GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _svg(figure: Figure) -> str:
    data = io.BytesIO()
    figure.savefig(data, format="svg", metadata={"Date": None})
    return _uri("image/svg+xml", data.getvalue())


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def picture(path: Path, *, max_bytes: int) -> str | None:
    """A picture file, made smaller until it fits; None where there is none that can be read.

    Args:
        path: Of a PNG or JPEG.
        max_bytes: That it may have on the page.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=("PNG", "JPEG")) as opened:
                if opened.width * opened.height > _MOST_PIXELS:
                    return None
                image = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError,
            Image.DecompressionBombWarning):  # fmt: skip
        return None  # how Pillow says that a file is broken or absurd
    data = b""
    for width in _WIDTHS:
        shown = image.copy()
        shown.thumbnail((width, width))
        stream = io.BytesIO()
        shown.save(stream, format="JPEG", quality=82, optimize=True)
        data = stream.getvalue()
        if len(data) <= max_bytes:
            break
    return _uri("image/jpeg", data)
