"""The page of the hidden-truth benchmark: which method closes how much of which gap.

    found = {"cases": [one.as_dict() for one in cases], ...}
    (folder / "report.html").write_text(gap_page(found))

The same sections as on the page of an alignment, so they look and print alike. Whatever stands on
it is in ``gap.json``; cases that are not there are not on it.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from asap.align_blocks import Block, Image, Images, Items, Page, Section, Table, Text, to_html
from asap.align_charts import closed_chart
from asap.align_words import (
    BODY,
    JOINT,
    MISSING,
    Line,
    at,
    horizons,
    joined,
    listing,
    mapping,
    number,
    one_second,
    told,
)
from asap.metrics import Interval

RESULT = "gap.json"
_NAMED = 8
"""So many parameters that are off are told on the page."""
_METRICS = {JOINT: ("joints", "deg"), BODY: ("bodies", "mm")}


def gap_page(found: Mapping[str, Any]) -> str:
    """One self-contained page.

    Args:
        found: What ``gap.json`` says.
    """
    versions = mapping(found, "versions")
    parts = [f"{len(listing(found, 'cases'))} cases", f"seed {at(found, 'seed')}"]
    parts += [f"{name} {versions[name]}" for name in ("asap-toolkit", "mujoco") if name in versions]
    return to_html(Page(
        title=f"Hidden truths: fits of {at(found, 'robot') or 'an unnamed robot'}",
        subtitle=", ".join(parts),
        answer=_answer(found),
        sections=[
            Section("How it was measured", _about(found)),
            Section("How much of the gap is closed", _closed(found)),
            Section("Errors", _errors(found)),
            Section("Every case", [_cases(found)]),
            Section("Limits", [Items(_limits(found))]),
        ],
        result=RESULT,
    ))  # fmt: skip


def shares(cases: Sequence[Any], metric: str, horizon: str) -> Interval | None:
    """Median share of the gap that is closed over cases, with the lowest and the highest.

    Args:
        cases: Of ``gap.json``.
        metric: Whose gap.
        horizon: In seconds, as the file names it.
    """
    values = [number(at(case, "closed", metric, horizon)) for case in cases]
    known = [value for value in values if value == value]
    if not known:
        return None
    return Interval(statistics.median(known), min(known), max(known))


def groups(cases: Sequence[Any]) -> dict[tuple[str, str], list[Any]]:
    """Cases of a twin and a method, whatever their seed, in the file's order."""
    found: dict[tuple[str, str], list[Any]] = {}
    for case in cases:
        found.setdefault((str(at(case, "twin")), str(at(case, "method"))), []).append(case)
    return found


def _answer(found: Mapping[str, Any]) -> list[Line]:
    cases = listing(found, "cases")
    h = one_second(mapping(cases[0], "closed", JOINT)) if cases else ""
    by = {method: shares([case for case in cases if at(case, "method") == method], JOINT, h)
          for method in dict.fromkeys(str(at(case, "method")) for case in cases)}  # fmt: skip
    ranked = sorted(((share, name) for name, share in by.items() if share), reverse=True)
    best = f"{ranked[0][1]}: {ranked[0][0].value:.0%} of the joint gap" if ranked else MISSING
    details = [f"{name}: {_percent(share)} of the joint gap {h} s ahead, median and range over "
               "twins and seeds." for share, name in ranked]  # fmt: skip
    return [
        Line("Which method closes most of the gap?", f"{best}.", tuple(details), "cases[].closed"),
        _safe(cases),
        *_still(found),
        *_said(found),
    ]


def _safe(cases: Sequence[Any]) -> Line:
    worse = [case for case in cases if listing(case, "worse")]
    named = [f"{_name(case)}: {joined([str(one) for one in listing(case, 'worse')])}."
             for case in worse]  # fmt: skip
    count = len(cases)
    safe = f"No, in none of {count}." if not worse else f"Yes, {len(worse)} of {count}."
    never = (f"Never worse at any horizon, in joints or base: {count - len(worse)} of {count} "
             "cases.")  # fmt: skip
    kept = sum(at(case, "accepted") is True for case in cases)
    refused = f"{count - kept} ended without a correction: they are as good as the model."
    return Line("Is any correction worse than none, at any horizon?", safe,
                (*named, never, refused), "cases[].worse, .accepted")  # fmt: skip


def _still(found: Mapping[str, Any]) -> list[Line]:
    """Of logs in which nothing is to be found."""
    cases, refused = (at(found, "no_gap", key) for key in ("cases", "no_correction"))
    if not cases:
        return []
    return [Line("Does a log of the model itself give no correction?",
                 f"In {refused} of {cases} cases.", (), "no_gap")]  # fmt: skip


def _said(found: Mapping[str, Any]) -> list[Line]:
    """Of parameters and their intervals."""
    count, off = (at(found, "claims", "in_family", key) for key in ("claims", "off"))
    if not count:
        return []
    wrong = [
        f"{at(case, 'twin')}, seed {at(case, 'seed')}: {at(claim, 'name')} "
        f"{number(at(claim, 'value')):.4g} [{number(at(claim, 'low')):.4g}, "
        f"{number(at(claim, 'high')):.4g}], the truth is {number(at(claim, 'truth')):.4g}."
        for case in {(at(c, "twin"), at(c, "seed")): c for c in listing(found, "cases")
                     if at(c, "in_family") is True and listing(c, "claims")}.values()
        for claim in listing(case, "claims")
        if at(claim, "off") is True
    ]  # fmt: skip
    more = [f"And {len(wrong) - _NAMED} more, in the file."] if len(wrong) > _NAMED else []
    return [Line("Are parameters where their intervals say?",
                 f"{off} of {count} are off by more than twice their interval, on twins inside the "
                 "family.", (*wrong[:_NAMED], *more), "claims, cases[].claims")]  # fmt: skip


def _name(case: Any) -> str:
    return f"{at(case, 'twin')}, {at(case, 'method')}, seed {at(case, 'seed')}"


def _about(found: Mapping[str, Any]) -> list[Block]:
    setup = mapping(found, "setup")
    fitted, judging = (joined([str(one) for one in listing(setup, key)]) or MISSING
                       for key in ("train", "test"))  # fmt: skip
    return [Text(
        "A twin, a simulation whose physics the fit was not told, plays the robot. A fit is given "
        f"logs of {fitted} and the model, and is judged on {judging}, which it did not see, from "
        "other starts. Closed is the share of the model's error above what even the twin itself "
        "gets wrong from a noisy start; a fit that keeps no correction closes 0 %. Parameters are "
        "compared with the twin's own numbers: of a group of joints with the mean of the group."
    )]  # fmt: skip


def _closed(found: Mapping[str, Any]) -> list[Block]:
    cases = listing(found, "cases")
    blocks: list[Block] = []
    for metric, (name, _) in _METRICS.items():
        ahead = horizons(mapping(cases[0], "closed", metric)) if cases else []
        rows = [
            [f"{twin}, {method}", *(_percent(shares(own, metric, h)) for h in ahead),
             f"{sum(at(case, 'accepted') is True for case in own)} of {len(own)}"]
            for (twin, method), own in groups(cases).items()
        ]  # fmt: skip
        title = f"Closed gap of {name}, median over seeds and range"
        table = Table(title, ["", *(f"{h} s" for h in ahead), "kept"], rows, "cases[].closed")
        points = {f"{twin}, {method}": shares(own, metric, ahead[-1])
                  for (twin, method), own in groups(cases).items()} if ahead else {}  # fmt: skip
        chart = closed_chart(points, f"closed, {name}, {ahead[-1] if ahead else ''} s ahead")
        blocks.append(
            table if chart is None else Images([Image(title, chart)], table.source, table)
        )
    return blocks


def _percent(share: Interval | None) -> str:
    if share is None:
        return MISSING
    value, low, high = (f"{round(100.0 * one)}" for one in share)  # of an integer: never -0
    return f"{value}%" if low == high else f"{value}% [{low}, {high}]"


def _errors(found: Mapping[str, Any]) -> list[Block]:
    """In units: a share of a small gap is a small thing. Of fits that kept something alone."""
    cases = listing(found, "cases")
    blocks: list[Block] = []
    for metric, (name, unit) in _METRICS.items():
        ahead = horizons(mapping(cases[0], "closed", metric)) if cases else []
        rows = []
        for twin in dict.fromkeys(str(at(case, "twin")) for case in cases):
            own = [case for case in cases if at(case, "twin") == twin]
            arms = [("model", "nominal", own), ("truth itself", "truth", own)]
            arms[1:1] = [(str(name), "corrected", [c for c in own if at(c, "method") == name])
                         for name in dict.fromkeys(at(case, "method") for case in own)]  # fmt: skip
            for label, arm, some in arms:
                figures = [_median(some, arm, metric, h) for h in ahead]
                if any(figure is not None for figure in figures):
                    texts = [told(figure, metric) for figure in figures]
                    rows.append([f"{twin}, {label}", *texts])
        title = f"Error of {name} [{unit}], median over seeds and range"
        blocks.append(Table(title, ["", *(f"{h} s" for h in ahead)], rows, "cases[].errors"))
    return blocks


def _median(cases: Sequence[Any], arm: str, metric: str, horizon: str) -> Interval | None:
    values = [number(at(case, "errors", arm, metric, horizon)) for case in cases]
    known = [value for value in values if value == value]
    if not known:
        return None
    nan, low, high = float("nan"), min(known), max(known)
    return Interval(statistics.median(known), *((nan, nan) if low == high else (low, high)))


def _cases(found: Mapping[str, Any]) -> Table:
    rows = [
        [_name(case), "kept" if at(case, "accepted") is True else "none",
         joined([str(one) for one in listing(case, "worse")]) or "nowhere",
         f"{number(at(case, 'log_s')):.0f}", f"{number(at(case, 'wall_s')):.0f}",
         str(at(case, "verdict") or "")]
        for case in listing(found, "cases")
    ]  # fmt: skip
    columns = ["", "correction", "worse than the model", "log [s]", "wall [s]", "verdict"]
    return Table("Cases", columns, rows, "cases[]")


def _limits(found: Mapping[str, Any]) -> list[str]:
    cases = listing(found, "cases")
    seeds = {at(case, "seed") for case in cases}
    lines = [
        "Twins are simulations: all but those of another engine share contacts and integrator with "
        "the model that is fitted, which a real robot does not.",
        "Ranges are over seeds of starts and of sensor noise; they are no confidence intervals.",
        "Wall times are of this machine, with whatever else it did, and of each fit as if it had "
        "been alone: methods that begin with the same identification waited for it once.",
    ]
    if len(seeds) == 1:
        lines.append("One seed: nothing is said about luck.")
    return lines
