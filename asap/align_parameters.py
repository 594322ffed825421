"""What a fit identified, as tables: what the log tells, by part of the body and by joint.

    identified(chosen_fit(found))                    # blocks of a report

A fit names parameters for people: ``delay``, ``knee stiffness``, ``left_knee armature in its
group``. A quantity that several parts have becomes a column, its parts rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from asap.align_blocks import Block, Fold, Table, Text
from asap.align_words import Fit, at, joined, listing, number

_FEWEST = 3
"""Parts of the body (or joints) that make a quantity a column of its own."""
_IN_GROUP = " in its group"
_NOTHING = 1e-9
_SIDES = ("left_", "right_")
_LONG = 15
"""Rows of a table that is folded."""


def identified(fit: Fit | None) -> list[Block]:
    """What a log tells about the robot, and what it does not.

    Args:
        fit: That a page is about.
    """
    rows = listing(fit and fit.facts, "parameters")
    if fit is None or not rows:
        return [Text("No physical parameter was identified.")]
    known = {source: sum(at(row, "determined_by") == source for row in rows)
             for source in ("log", "log and model", "model", "nothing")}  # fmt: skip
    used = "" if fit.accepted else " None of it is used: the correction was refused."
    blocks: list[Block] = [Text(
        f"{len(rows)} parameters: {known['log']} are told by the log, {known['log and model']} by "
        f"log and model together (*), {known['model']} stay about where the model had them (model),"
        f" {known['nothing']} leave no trace in the log (no trace). Stiffness, damping, "
        "armature, floor friction and contact time are factors of the model; the rest is added to "
        "it, in SI units. "
        f"Intervals hold about 95%.{used}"
    )]  # fmt: skip
    single, *tables = _by_part(rows, f"{fit.key}.parameters")
    blocks += [single] if single.rows else []
    blocks += [Fold(f"{table.title} ({len(table.rows)} rows)", table) if len(table.rows) > _LONG
               else table for table in tables]  # fmt: skip
    names = [str(name).removesuffix("_joint") for name in listing(fit.facts, "abstained")]
    if names and fit.accepted and str(at(fit.facts, "method")) != "identify":
        every = len(names) == len(listing(fit.facts, "joint_names"))
        which = "no joint" if every else f"not {joined(names)}"
        blocks.append(Text(f"Learned offsets are kept where they help other runs: {which}."))
    return blocks


def _by_part(rows: Sequence[Any], source: str) -> list[Table]:
    """Parameters that stand alone, then those of parts of the body or of joints, a column each."""
    cells: dict[str, dict[str, str]] = {}
    for row in rows:
        name = str(at(row, "name"))
        grouped = name.endswith(_IN_GROUP)
        part, _, quantity = name.removesuffix(_IN_GROUP).rpartition(" ")
        label = f"{quantity} beside its group" if grouped else quantity
        cells.setdefault(label, {})[part] = _parameter(row)
    groups: list[tuple[list[str], list[str]]] = []  # columns, and the rows that they share
    alone: list[list[str]] = []
    for label, column in cells.items():
        if len(column) < _FEWEST or label in ("x", "y", "z"):
            alone += [[f"{part} {label}".strip(), cell] for part, cell in column.items()]
            continue
        like = [group for group in groups if 2 * len(set(column) & set(group[1])) > len(column)]
        group = like[0] if like else ([], [])
        groups += [] if like else [group]
        group[0].append(label)
        group[1].extend(part for part in column if part not in group[1])
    single = Table("Of the whole robot", ["parameter", "value"], alone, source)
    tables = [single]
    for columns, parts in groups:
        sided = any(part.startswith(_SIDES) for part in parts)
        title = "By joint" if sided else "By part of the body"
        values = [[part, *(cells[label].get(part, "") for label in columns)] for part in parts]
        tables.append(Table(title, ["", *columns], values, source))
    return tables


def _parameter(row: Any) -> str:
    """A value as far as the log tells it."""
    value, low, high = (number(at(row, key)) for key in ("value", "low", "high"))
    told_by = at(row, "determined_by")
    if told_by == "nothing" or math.isnan(value):
        return "no trace"
    if told_by == "model":
        return "model"
    ends = "" if math.isnan(low + high) else f" [{_short(low)}, {_short(high)}]"
    ends = "" if ends == " [0, 0]" else ends
    none = not math.isnan(low + high) and abs(value) < 1e-3 * (high - low)
    return f"{'0' if none else _short(value)}{'' if told_by == 'log' else '*'}{ends}"


def _short(value: float) -> str:
    """Three digits; what is nothing in any unit is zero."""
    return "0" if abs(value) < _NOTHING else f"{value:#.3g}".removesuffix(".")
