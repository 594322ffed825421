"""The page of an alignment run: one HTML file that needs no other, or the same in markdown.

    found = json.loads((folder / "align.json").read_text())
    (folder / "report.html").write_text(html_page(found, folder))

The answer stands on top, the evidence below it. Under every table stands where in ``align.json``
its figures are. Both forms are written from the same sections, so they say the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from asap.align_blocks import (
    Block,
    Fold,
    Image,
    Images,
    Items,
    Link,
    Page,
    Section,
    Table,
    Text,
    to_html,
    to_markdown,
)  # fmt: skip
from asap.align_charts import costly_joints, gain_chart, gap_chart, joint_chart, picture
from asap.align_parameters import identified
from asap.align_words import (
    BODY,
    COST,
    JOINT,
    MISSING,
    SUCCESS,
    Fit,
    answer,
    at,
    chosen_fit,
    horizons,
    interval,
    limits,
    listing,
    mapping,
    motions_of,
    number,
    one_second,
    starts,
    told,
)  # fmt: skip
from asap.evaluate import FALL_MM
from asap.finetune import (
    CORRECTED,
    DELTA,
    IDENTIFIED,
    NOISY,
    NOMINAL,
    ORACLE,
    RANDOMIZED,
    UNTOUCHED,
)

RESULT = "align.json"
_PICTURES_BYTES = 1_800_000
"""Of all pictures of a page together; base64 makes a third more of it."""
_REPLAYED = {JOINT: "Joint error [deg]", BODY: "Position error [mm]"}
_UNKNOWN = {JOINT: "", BODY: ": the logs do not say where the base was"}
"""Why a replayed error may be absent."""
_MEASURED = (
    ("finishes", "closed_loop", SUCCESS, ""),
    ("distance to the clip [mm]", "closed_loop", BODY, ""),
    ("relative to the base [mm]", "closed_loop", "mpjpe_mm", ""),
    ("change of cost [mm]", "gain", COST, "+"),
    ("change of distance where both finish [mm]", "gain", BODY, "+"),
    ("corrected against it: cost [mm]", "against", COST, "+"),
    ("from rest: finishes", "quiet", SUCCESS, ""),
    ("from rest: distance [mm]", "quiet", BODY, ""),
)
"""Columns of policies: heading, key of the file, metric, sign."""
_ARMS = {
    UNTOUCHED: "the start policy, untouched",
    CORRECTED: "the new policy, trained on in the corrected simulator",
    NOMINAL: "control: trained on as long in the uncorrected simulator",
    NOISY: "control: trained on as long with random noise on the targets",
    RANDOMIZED: "control: trained on as long with ordinary domain randomisation",
    IDENTIFIED: "trained on with the identified parameters alone, without the learned part",
    DELTA: "control: trained on as long with an offset that was learned without identification",
    ORACLE: "trained on in the truth itself: about the best that can be reached",
}


def html_page(found: Mapping[str, Any], folder: Path) -> str:
    """One self-contained page.

    Args:
        found: What ``align.json`` says; whatever is missing is said to be not measured.
        folder: Of the run: pictures are read from it, links are relative to it.
    """
    return to_html(_page(found, folder))


def markdown_page(found: Mapping[str, Any]) -> str:
    """The same without pictures; they and the recordings are links."""
    return to_markdown(_page(found, None))


def _page(found: Mapping[str, Any], folder: Path | None) -> Page:
    robot, truth = at(found, "robot") or "an unnamed robot", at(found, "truth")
    versions = mapping(found, "versions")
    parts = [f"seed {at(found, 'seed')}"] if "seed" in found else []
    parts.append(f"run time {_seconds(at(found, 'wall_s'))}")
    parts += [f"{name} {versions[name]}" for name in ("asap-toolkit", "mujoco") if name in versions]
    return Page(
        title=f"Alignment of {robot} with {truth or 'its logs'}",
        subtitle=", ".join(parts),
        answer=answer(found),
        sections=[
            Section("What was done", _done(found)),
            Section("The gap before and after", _gap(found, draw=folder is not None)),
            Section("What was identified", identified(chosen_fit(found))),
            Section("The policies", _policies(found, draw=folder is not None)),
            Section("To look at", _looks(found, folder)),
            Section("Limits", [Items(limits(found))]),
            Section("Where it comes from", _origin(found)),
        ],
        result=RESULT,
    )


def _seconds(value: Any) -> str:
    seconds = number(value)
    if math.isnan(seconds):
        return MISSING
    return f"{seconds:.1f} s" if seconds < 120.0 else f"{seconds / 60.0:.0f} min"


def _yes_or_no(value: Any) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else MISSING


def _plain(value: Any, digits: int = 1) -> str:
    """A bare number."""
    return MISSING if math.isnan(number(value)) else f"{number(value):,.{digits}f}"


def _done(found: Mapping[str, Any]) -> list[Block]:
    truth, rounds = at(found, "truth"), listing(found, "rounds")
    who = (
        f"The twin {truth}, a simulation whose physics the fit was not told, played the robot."
        if truth
        else "Logs of the robot were handed in; nobody ran the new policies on it."
    )
    count = f"{len(rounds)} round{'' if len(rounds) == 1 else 's'} of: log, check, fit, fine-tune."
    blocks: list[Block] = [Text(f"{who} {count}")]
    rows = [
        [name, str(at(found, "motions", name, "policy") or "trained first"),
         _plain(at(found, "motions", name, "duration_s")),
         *(told(interval(_at_home(found, name), metric), metric) for metric in (SUCCESS, BODY))]
        for name in motions_of(found)
    ]  # fmt: skip
    columns = ["motion", "start policy", "clip [s]", "finishes", "distance to the clip [mm]"]
    title = "Motions, and what their start policies do in the uncorrected model"
    blocks.append(Table(title, columns, rows, "motions, home"))
    logs = [(place, log) for place, one in enumerate(rounds) for log in listing(one, "logs")]
    listed = [
        [_file(at(log, "name"), at(log, "file")), str(place + 1), _plain(at(log, "duration_s")),
         _plain(at(log, "rate_hz"), 2), _delay(log), str(at(log, "verdict") or MISSING)]
        for place, log in logs
    ]  # fmt: skip
    columns = ["log", "round", "length [s]", "rate [Hz]", "delay [ms]", "check"]
    blocks.append(Table("Logs", columns, listed, "rounds[].logs"))
    problems = [f"{at(log, 'name')}: {at(one, 'verdict')}: {at(one, 'text')}"
                for _, log in logs for one in listing(log, "problems")]  # fmt: skip
    return [*blocks, Items(problems)] if problems else blocks


def _at_home(found: Mapping[str, Any], motion: str) -> Mapping[str, Any]:
    """The start policy in the uncorrected model."""
    return mapping(found, "home", motion, UNTOUCHED) or mapping(found, "motions", motion, "home")


def _delay(log: Any) -> str:
    delay = number(at(log, "delay_s"))
    return "not found" if math.isnan(delay) else f"{1000.0 * delay:.0f}"


def _file(label: Any, path: Any) -> str | Link:
    return Link(str(label), path) if isinstance(path, str) else str(label)


def _gap(found: Mapping[str, Any], *, draw: bool) -> list[Block]:
    fit = chosen_fit(found)
    if fit is None:
        return [Text("Nothing was fitted.")]
    facts, after = fit.facts, "after" if fit.accepted else "refused correction"
    names = horizons(mapping(facts, "baseline", "nominal")) or horizons(mapping(facts, "heldout"))
    about = (
        "The robot's logged targets through the simulator, which is put back onto the log at the "
        "start of every window; errors so long afterwards, on runs that were not fitted."
    )
    key = f"{fit.key}.baseline, .heldout, .bands"
    arms = {"before": mapping(facts, "baseline", "nominal"), after: mapping(facts, "heldout"),
            "nothing moves": mapping(facts, "baseline", "hold_last")}  # fmt: skip
    blocks: list[Block] = [Text(about + fit.note)]
    for metric, label in _REPLAYED.items():
        rows = [
            [arm, *(told(interval(arms[arm], h, metric), metric) for h in names)]
            for arm in arms
            if any(interval(arms[arm], h, metric) for h in names)
        ]
        bands = [_band(mapping(facts, "bands", h, metric), metric) for h in names]
        if not rows:
            blocks.append(Text(f"{label}: {MISSING}{_UNKNOWN[metric]}."))
            continue
        rows += [["9 of 10 are below", *bands]] if set(bands) != {MISSING} else []
        table = Table(label, ["", *(f"{h} s" for h in names)], rows, key)
        blocks.append(
            _beside(gap_chart(facts, metric, label, after=after) if draw else None, table)
        )
    blocks.append(Text(
        "9 of 10 windows stay below the last row where the robot moves as much as it usually does; "
        "held: the share of windows that did, of runs that were left out for it. A simulator that "
        "is no better than saying that nothing moves explains nothing."
    ))  # fmt: skip
    return [*blocks, *_joints(fit, names, after, draw=draw), *_by_round(found), *_phase(found, fit)]


def _beside(chart: str | None, table: Table) -> Block:
    """A chart with its figures."""
    return table if chart is None else Images([Image(table.title, chart)], table.source, table)


def _band(band: Mapping[str, Any], metric: str) -> str:
    """How far predictions may be off where the robot moves as much as it usually does."""
    width, held = interval({"value": band.get("typical")}), number(band.get("coverage"))
    return told(width, metric) + ("" if math.isnan(held) else f" (held {held:.0%})")


def _joints(fit: Fit, names: Sequence[str], after: str, *, draw: bool) -> list[Block]:
    worst, key = costly_joints(fit.facts), f"{fit.key}.joint_names, .joint_mae_deg"
    if not worst:
        return []
    ahead = f"{names[-1]} s ahead" if names else "at the longest horizon"
    title = f"The joints that cost most, {ahead} [deg]"
    chart = joint_chart(worst, f"mean absolute error {ahead} [deg]", after=after) if draw else None
    known = any(not math.isnan(new) for _, _, new in worst)
    rows = [[name.removesuffix("_joint"),
             *("-" if math.isnan(x) else f"{x:.2f}" for x in (old, new)[: 1 + known])]
            for name, old, new in worst]  # fmt: skip
    return [_beside(chart, Table(title, ["joint", "before", after][: 2 + known], rows, key))]


def _by_round(found: Mapping[str, Any]) -> list[Block]:
    rounds, rows = listing(found, "rounds"), []
    if len(rounds) < 2:
        return []
    for place, one in enumerate(rounds):
        before = mapping(one, "fit", "baseline", "nominal")
        h, after = one_second(before), mapping(one, "fit", "heldout")
        cells = [told(interval(arm, h, JOINT), JOINT) for arm in (before, after)]
        rows.append([str(place + 1), _yes_or_no(at(one, "fit", "accepted")), h, *cells])
    columns = ["round", "kept", "ahead [s]", "joint error before [deg]", "after [deg]"]
    return [Table("Round by round", columns, rows, "rounds[].fit.baseline, .heldout")]


def _phase(found: Mapping[str, Any], fit: Fit) -> list[Block]:
    """When the uncorrected model goes wrong, and whether more log would help."""
    phase = [number(x) for x in listing(found, "rounds", fit.place, "replay", "costly_phase")]
    lines = []
    if len(phase) == 2 and not math.isnan(sum(phase)):
        lines.append(f"The uncorrected model goes wrong most where windows begin between "
                     f"{phase[0]:.0%} and {phase[1]:.0%} of a run.")  # fmt: skip
    shares = [f"{seconds} s: {number(share):.0%}"
              for seconds, share in mapping(fit.facts, "train", "share_by_seconds").items()
              if not math.isnan(number(share))]  # fmt: skip
    if len(shares) > 1:
        text = ", ".join(shares)
        lines.append(f"Error left by seconds of log that were fitted: {text}.")
    return [Items(lines)] if lines else []


def _policies(found: Mapping[str, Any], *, draw: bool) -> list[Block]:
    blocks = _trained(found)
    chart = gain_chart(found) if draw else None
    if chart is not None:
        title = "Change against the start policy, by motion and arm"
        blocks.append(Images([Image(title, chart)], "gain"))
    where = at(found, "judged_on") or at(found, "truth") or "an unnamed robot"
    shown = []
    for motion in motions_of(found):
        arms = list(dict.fromkeys([*mapping(found, "closed_loop", motion),
                                   *mapping(found, "gain", motion)]))  # fmt: skip
        known = [one for one in _MEASURED
                 if any(interval(found, one[1], motion, arm, one[2]) for arm in arms)]  # fmt: skip
        rows = [
            [arm, *("" if (arm, key) == (UNTOUCHED, "gain") else
                    told(interval(found, key, motion, arm, metric), metric, sign=sign)
                    for _, key, metric, sign in known)]
            for arm in arms
        ]  # fmt: skip
        shown += arms
        keys = dict.fromkeys(key for _, key, _, _ in known)
        title = f"{motion} on {where}, {starts(found)}"
        columns = ["", *(label for label, *_ in known)]
        source = ", ".join(f"{key}.{motion}" for key in keys)
        blocks += [Table(title, columns, rows, source)] if known else []
    if not shown:
        return [*blocks, Text("No policy was run in a closed loop.")]
    about = [f"{arm}: {_ARMS[arm]}." for arm in dict.fromkeys(shown) if arm in _ARMS]
    about.append(
        f"Cost: distance to the clip, a failed run counted as {FALL_MM:.0f} mm. Changes are "
        "against the start policy from the same starts; negative is better. A paired comparison of "
        "the new policy with a control, where there is one, has a column of its own."
    )
    return [*blocks, Items([*about, *_absent(found)])]


def _absent(found: Mapping[str, Any]) -> list[str]:
    """Why a control that was asked for has no row."""
    fits = [mapping(one, DELTA) for one in listing(found, "rounds")]
    return [f"{DELTA}: an offset was learned without identification too, and refused: "
            f"{str(at(fit, 'verdict') or MISSING).removeprefix('no correction: ')}."
            for fit in fits if at(fit, "accepted") is False]  # fmt: skip


def _trained(found: Mapping[str, Any]) -> list[Block]:
    """How policies were trained on, each judged where it was trained."""
    rows = [
        [f"{motion}: {arm}", str(place + 1),
         _yes_or_no(at(made, "changed")), _plain(at(made, "steps"), 0),
         *(told(interval(made, when, "overall", metric), metric)
           for metric in (SUCCESS, BODY) for when in ("before", "evaluation"))]
        for place, one in enumerate(listing(found, "rounds"))
        for motion, arms in mapping(one, "finetune").items()
        for arm, made in mapping(arms).items()
    ]  # fmt: skip
    if not rows:
        return [Text("No policy was trained on: there is no correction to train in.")]
    columns = ["", "round", "changed", "steps", "finishes before", "after",
               "distance before [mm]", "after [mm]"]  # fmt: skip
    table = Table("Training, judged in the simulator that it happened in", columns, rows,
                  "rounds[].finetune")  # fmt: skip
    return [table, Text("Not changed: nothing was better there, so the start was kept.")]


def _looks(found: Mapping[str, Any], folder: Path | None) -> list[Block]:
    """Pictures, recordings and the policies themselves."""
    files = [(f"{motion}, {when}", path) for motion, both in mapping(found, "pictures").items()
             for when, path in mapping(both).items() if isinstance(path, str)]  # fmt: skip
    budget = _PICTURES_BYTES // max(1, len(files))
    images = [
        Image(title, picture(folder / path, max_bytes=budget) if folder else None, path)
        for title, path in files
    ]
    kinds = (("recordings", "recording (open with rerun)"), ("policies", "policy"))
    links = [_file(f"{motion}: {what}", path)
             for key, what in kinds for motion, path in mapping(found, key).items()]  # fmt: skip
    blocks: list[Block] = [Images(images, "pictures", wide=True)] if images else []
    blocks += [Items(links)] if links else []
    return blocks or [Text("No pictures or recordings were made.")]


def _origin(found: Mapping[str, Any]) -> list[Block]:
    versions = ", ".join(f"{name} {one}" for name, one in mapping(found, "versions").items())
    stages = [
        [str(at(one, "name")), _seconds(at(one, "wall_s")), "reused" if at(one, "reused") else ""]
        for one in listing(found, "stages")
    ]
    inputs = [[path, str(digest)] for path, digest in mapping(found, "inputs").items()]
    return [
        Items([Link(RESULT, RESULT), f"Versions: {versions or MISSING}"]),
        Fold("Stages", Table("Stages", ["stage", "time", ""], stages, "stages")),
        Fold("Input files", Table("Input files", ["file", "sha256"], inputs, "inputs")),
    ]
