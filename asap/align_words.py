"""What an alignment run says in plain words: the answer, what to do next, and what it does not say.

    found = json.loads((folder / "align.json").read_text())
    [line.verdict for line in answer(found)]         # three lines
    limits(found)

A file may be partial or older: what is not in it is "not measured", never an error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from asap.evaluate import FALL_MM
from asap.finetune import CORRECTED, NOISY, NOMINAL, RANDOMIZED, UNTOUCHED
from asap.metrics import Interval

MISSING: Literal["not measured"] = "not measured"
RIVALS = (NOMINAL, NOISY, RANDOMIZED)
"""Arms: what else could explain a gain."""

JOINT, BODY, SUCCESS, COST = "joint_mae_deg", "global_mpjpe_mm", "success_rate", "cost_mm"
Change = Literal["better", "worse", "no clear difference", "not measured"]
_ENOUGH = 0.95
"""A policy that finishes fewer of the judged runs is said to fail in simulation."""


class Line(NamedTuple):
    """One line of the answer."""

    question: str
    verdict: str
    """In a word or two"""
    details: tuple[str, ...]
    source: str
    """Where in align.json its figures stand"""


class Fit(NamedTuple):
    """The fit that a page is about."""

    facts: Mapping[str, Any]
    place: int
    """Of its round"""
    accepted: bool
    note: str
    """Empty, or that later rounds kept nothing"""

    @property
    def key(self) -> str:
        """Where it stands in the file."""
        return f"rounds[{self.place}].fit"


def at(found: Any, *path: str | int) -> Any:
    """What stands at a path of keys and indices; None where there is nothing."""
    for key in path:
        fits = isinstance(found, Mapping if isinstance(key, str) else list)
        if not fits:
            return None
        try:
            found = found[key]
        except (KeyError, IndexError):
            return None
    return found


def mapping(found: Any, *path: str | int) -> Mapping[str, Any]:
    """The dictionary at a path; empty where there is none."""
    value = at(found, *path)
    return value if isinstance(value, Mapping) else {}


def listing(found: Any, *path: str | int) -> list[Any]:
    """The list at a path; empty where there is none."""
    value = at(found, *path)
    return value if isinstance(value, list) else []


def number(value: Any) -> float:
    """A finite number, or NaN for anything else."""
    good = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if good and math.isfinite(value) else math.nan


def interval(found: Any, *path: str | int) -> Interval | None:
    """The figure at a path; its ends are NaN where it has none."""
    value, low, high = (number(at(found, *path, key)) for key in ("value", "low", "high"))
    return None if math.isnan(value) else Interval(value, low, high)


def told(figure: Interval | None, metric: str, *, unit: str = "", sign: str = "") -> str:
    """A figure with its interval, ``0.43 [0.42, 0.49]``, or that there is none.

    Args:
        figure: What is told.
        metric: Says how many digits; success rates are told in percent.
        unit: Written after the figure.
        sign: ``+`` to write that of positive figures too.
    """
    if figure is None:
        return MISSING
    digits = 0 if metric == SUCCESS else 2 if metric == JOINT or "frame" in metric else 1
    scale, after = (100.0, "%") if metric == SUCCESS else (1.0, f" {unit}" if unit else "")
    value, low, high = (f"{scale * x:{sign}.{digits}f}" for x in figure)
    known = not math.isnan(figure.low) and not math.isnan(figure.high)
    return f"{value}{after} [{low}, {high}]" if known else f"{value}{after}"


def horizons(errors: Mapping[str, Any]) -> list[str]:
    """Names of horizons, the shortest first."""
    return sorted((h for h in errors if not math.isnan(_seconds(h))), key=_seconds)


def _seconds(horizon: str) -> float:
    try:
        return number(float(horizon))
    except ValueError:
        return math.nan


def one_second(errors: Mapping[str, Any]) -> str:
    """The horizon of 1 s, or the longest; empty where there is none."""
    names = horizons(errors)
    return next((name for name in names if _seconds(name) == 1.0), names[-1] if names else "")


def chosen_fit(found: Mapping[str, Any]) -> Fit | None:
    """The last fit that was kept, or, where none was, the last."""
    fits = {place: mapping(one, "fit") for place, one in enumerate(listing(found, "rounds"))}
    fits = {place: fit for place, fit in fits.items() if fit}
    if not fits:
        return None
    kept = [place for place, fit in fits.items() if at(fit, "accepted") is True]
    place = (kept or list(fits))[-1]
    later = [f"round {one + 1}" for one in fits if one > place]
    note = f" (Round {place + 1}; {joined(later)} kept nothing.)" if later else ""
    return Fit(fits[place], place, bool(kept), note)


def motions_of(found: Mapping[str, Any]) -> list[str]:
    """All motions that the file speaks of, in its order."""
    return list(dict.fromkeys(
        name for key in ("motions", "closed_loop", "gain") for name in mapping(found, key)
    ))  # fmt: skip


def changed(found: Mapping[str, Any], motion: str) -> bool | None:
    """Whether any round put another policy in the place of the start; None where none trained."""
    seen = [at(one, "finetune", motion, CORRECTED, "changed") for one in listing(found, "rounds")]
    known = [one for one in seen if isinstance(one, bool)]
    return any(known) if known else None


def gain_of(found: Mapping[str, Any], motion: str, arm: str) -> Interval | None:
    """What an arm gains: in cost, which counts failed runs, or else in distance to the clip."""
    cost = interval(found, "gain", motion, arm, COST)
    return cost or interval(found, "gain", motion, arm, BODY)


def change_of(found: Mapping[str, Any], motion: str, arm: str) -> Change:
    """What an arm did to a motion: more falls are worse whatever else there is."""
    gain, falls = gain_of(found, motion, arm), _falls(found, motion, arm)
    if gain is None or falls == "worse":
        return falls
    if gain.high < 0.0:
        return "better"
    if gain.low > 0.0 and falls != "better":
        return "worse"
    return "better" if falls == "better" else "no clear difference"


def _falls(found: Mapping[str, Any], motion: str, arm: str) -> Change:
    """Whether runs finish more often: only intervals that do not touch say so."""
    before = interval(found, "closed_loop", motion, UNTOUCHED, SUCCESS)
    after = interval(found, "closed_loop", motion, arm, SUCCESS)
    if before is None or after is None:
        return MISSING
    if after.low > before.high:
        return "better"
    return "worse" if after.high < before.low else "no clear difference"


def rivals(found: Mapping[str, Any], motion: str) -> list[str]:
    """Controls that the correction does not beat: paired where that was measured."""
    ours = gain_of(found, motion, CORRECTED)
    if ours is None:
        return []
    named = []
    for name in RIVALS:
        paired = interval(found, "against", motion, name, COST)
        own = gain_of(found, motion, name)
        if paired is not None:
            beaten = paired.high < 0.0
        else:
            beaten = own is None or min(own.value, own.low) > max(ours.value, ours.high)
        named += [] if beaten else [name]
    return named


def answer(found: Mapping[str, Any]) -> list[Line]:
    """Three lines: does it predict better, is the policy better, what to do next."""
    return [_prediction(found), _policy(found), _next(found)]


def _prediction(found: Mapping[str, Any]) -> Line:
    ask, fit = "Does the corrected simulator predict other runs better?", chosen_fit(found)
    if fit is None:
        return Line(ask, "Not known.", ("Nothing was fitted in this run.",), "rounds")
    nominal, source = mapping(fit.facts, "baseline", "nominal"), f"{fit.key}.heldout, .baseline"
    h = one_second(nominal)
    if not fit.accepted:
        why = str(at(fit.facts, "verdict") or "no reason is in the file")
        reason = f"No correction was kept: {why.removeprefix('no correction: ')}"
        size = told(interval(nominal, h, JOINT), JOINT, unit="deg")
        stays = f"The simulator stays as it was; its joint error {h} s ahead is {size}."
        return Line(ask, "No.", (f"{reason}.", *([stays] if h else [])), f"{fit.key}.verdict")
    details = []
    for metric, name, unit in ((JOINT, "Joint error", "deg"), (BODY, "Position error", "mm")):
        before, after = interval(nominal, h, metric), interval(fit.facts, "heldout", h, metric)
        if before is not None and after is not None:
            left = f", {after.value / before.value:.0%} of that" if before.value > 0.0 else ""
            unsure = "; the intervals overlap" if after.high >= before.low else ""
            details.append(f"{name} {h} s ahead: {told(after, metric, unit=unit)} instead of "
                           f"{told(before, metric, unit=unit)}{left}{unsure}.")  # fmt: skip
    still = interval(fit.facts, "baseline", "hold_last", h, JOINT)
    ours = interval(fit.facts, "heldout", h, JOINT)
    if still is not None and ours is not None and ours.value >= still.value:
        details.append("Yet saying that nothing moves predicts the joints as well.")
    few = "; too few for intervals" if ours is not None and math.isnan(ours.high) else ""
    told_by = (
        f"On runs that were not fitted{few}." if details else "Its errors are not in the file."
    )
    return Line(ask, "Yes.", (*details, told_by + fit.note), source)


def _policy(found: Mapping[str, Any]) -> Line:
    truth, names = at(found, "truth"), motions_of(found)
    ask = "Did the policy get better on the robot?"
    known = [
        n for n in names if changed(found, n) is not None or at(found, "closed_loop", n, CORRECTED)
    ]
    if not known:
        none = "No policy was trained; the start policies are what there is."
        return Line(ask, "Unchanged.", (none,), "closed_loop")
    where = f"Judged on {at(found, 'judged_on') or truth or 'an unnamed robot'}, {starts(found)}"
    where += "." if truth else ": that is the model as the correction made it, not the robot."
    by = {
        n: "unchanged" if changed(found, n) is False else change_of(found, n, CORRECTED)
        for n in known
    }
    found_ones = dict.fromkeys(by.values())
    counts = [f"{what} on {joined([n for n in known if by[n] == what])}" for what in found_ones]
    verdict = ", ".join(counts) if len(found_ones) > 1 else {
        "better": "yes", "worse": "no, worse", "unchanged": "unchanged",
        MISSING: "not measured"}.get(by[known[0]], "no clear difference")  # fmt: skip
    verdict = ("" if truth else "in the model only: ") + verdict
    details = (*(_of_motion(found, name, by[name]) for name in known), where)
    return Line(ask, f"{verdict[:1].upper()}{verdict[1:]}.", details, "gain, closed_loop")


def starts(found: Mapping[str, Any]) -> str:
    """How judged runs begin, the same for all policies."""
    noise = {"none": "at rest", "small": "with a little noise", "paper": "with the paper's noise"}
    how = noise.get(str(at(found, "judged_from")), "")
    return f"from the same starts{f' ({how})' if how else ''}"


def _of_motion(found: Mapping[str, Any], motion: str, what: str) -> str:
    """How a policy changed, in a sentence or two."""
    before, after = (
        interval(found, "closed_loop", motion, arm, SUCCESS) for arm in (UNTOUCHED, CORRECTED)
    )
    if what == "unchanged":
        kept = "nothing that was trained was better in the corrected simulator"
        return f"{motion}: the start policy was kept ({kept}); it finishes {_runs(before)}."
    if what == MISSING:
        return f"{motion}: {MISSING}."
    falls = {"better": "it falls less", "worse": "it falls more"}.get(
        _falls(found, motion, CORRECTED), "no clear difference in falls")  # fmt: skip
    text = f"{motion}: {falls}; it finishes {_runs(after)} instead of {told(before, SUCCESS)}."
    apart = interval(found, "gain", motion, CORRECTED, BODY)
    if apart is not None:
        size = number(at(found, "closed_loop", motion, UNTOUCHED, BODY, "value"))
        away = "" if math.isnan(size) else f" (the start policy is {size:.0f} mm away)"
        text += f" {_nearer(apart)} where both finish{away}."
    cost = interval(found, "gain", motion, CORRECTED, COST)
    if cost is not None:
        text += f" With a failed run counted as {FALL_MM:.0f} mm: {_nearer(cost)}."
    return text


def _nearer(gain: Interval) -> str:
    """A change of distance without its sign."""
    sign = -1.0 if gain.value <= 0.0 else 1.0
    low, high = sorted((sign * gain.low, sign * gain.high))
    size = told(Interval(sign * gain.value, low, high), COST, unit="mm")
    return f"{size} {'nearer to' if sign < 0.0 else 'farther from'} the clip"


def _runs(rate: Interval | None) -> str:
    return f"{told(rate, SUCCESS)} of the runs" if rate else "a share of runs that was not measured"


def _next(found: Mapping[str, Any]) -> Line:
    fit = chosen_fit(found)
    verdict, *details = (
        _with_correction(found) if fit is not None and fit.accepted
        else _without_correction(found, fit)
    )  # fmt: skip
    return Line("What to do next?", verdict, tuple(details), "")


def _with_correction(found: Mapping[str, Any]) -> list[str]:
    """Advice where the simulator was corrected: the verdict, then details."""
    by = {name: change_of(found, name, CORRECTED) for name in motions_of(found)
          if changed(found, name) is not False}  # fmt: skip
    better = [name for name in by if by[name] == "better"]
    worse = [name for name in by if by[name] == "worse"]
    if not better and not worse:
        return ["Keep the start policy.", "No gain was shown. The corrected simulator is still the "
                "better place to evaluate and to train in."]  # fmt: skip
    if not better:
        return ["Keep the start policy.", f"{joined(worse)}: do not put the new policy on a robot."]
    details = [f"{joined(worse)}: do not put the new policy on a robot."] if worse else []
    for name in better:
        rate, same = interval(found, "closed_loop", name, CORRECTED, SUCCESS), rivals(found, name)
        if rate is not None and rate.value < _ENOUGH:
            details.append(f"{name} still fails in {1.0 - rate.value:.0%} of the judged runs.")
        if same:
            details.append(
                f"{name}: the gain cannot be told from that of the controls {joined(same)}, so the "
                "correction need not be the reason."
            )
    details.append("Begin with asap-deploy check --ladder (read only, damping, 20% gains, full "
                   "gains), record the run, and align again with that log.")  # fmt: skip
    return [f"Try the new policy for {joined(better)}, in a harness.", *details]


def _without_correction(found: Mapping[str, Any], fit: Fit | None) -> list[str]:
    """Advice where nothing was kept: the verdict, then details."""
    refused = [str(at(log, "name")) for one in listing(found, "rounds")
               for log in listing(one, "logs") if at(log, "verdict") == "REFUSED"]  # fmt: skip
    if refused:
        return ["Mend the recording.", f"The check refused {joined(refused)}: see the logs below."]
    motions = [str(at(one, "motion")) for one in listing(fit and fit.facts, "next_motion")[:3]]
    record = f"for example {joined(motions)}" if motions else "faster or with other joints"
    return ["Change nothing on the robot.",
            f"Record another motion, {record}, and align again with both logs."]  # fmt: skip


def joined(names: Sequence[str]) -> str:
    """Names as a sentence lists them."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def limits(found: Mapping[str, Any]) -> list[str]:
    """What this run does not show, a line each."""
    names, fit, truth = motions_of(found), chosen_fit(found), at(found, "truth")
    lines = [
        f"{truth} is a simulation that stands for the robot. Nothing here was measured on a real "
        "robot." if truth else
        "Nobody has run a new policy on the robot: "
        f"{at(found, 'judged_on') or 'what judged'} is the model as the correction made it. Where "
        "the correction is wrong, so is the judgement."
    ]  # fmt: skip
    if names:
        lines.append(f"Motions: {joined(names)}. Nothing is said about others, about other floors "
                     "or other loads.")  # fmt: skip
    lines += [
        "Intervals are 95%: of predictions over runs of the log, of policies over their starts. "
        f"The luck of a training seed (here {at(found, 'seed')}) is not in them.",
        "Errors of a policy count the frames before it fails: read them beside the share of runs "
        "that it finishes.",
    ]
    absent = [name for name in RIVALS
              if not any(at(found, "gain", motion, name) for motion in names)]  # fmt: skip
    if absent and any(at(found, "gain", motion, CORRECTED) for motion in names):
        lines.append(f"Controls {joined(absent)} were not measured: training longer, or noise, may "
                     "gain as much as the correction.")  # fmt: skip
    return [*lines, *([] if fit is None else _limits_of(fit.facts))]


def _limits_of(fit: Mapping[str, Any]) -> list[str]:
    """Those of a fit."""
    lines, ahead = [], horizons(mapping(fit, "baseline", "nominal"))
    if ahead:
        lines.append(f"Predictions were compared up to {ahead[-1]} s ahead; later is not known.")
    effective = [str(name) for name in listing(fit, "effective")]
    if effective:
        lines.append(f"Parameters of {joined(effective)} are effective, not physical: what is left "
                     "of the error still follows load or speed.")  # fmt: skip
    beyond = [str(name) for name in listing(fit, "beyond_mjcf")]
    if beyond:
        lines.append(f"An MJCF cannot hold {joined(beyond)}: corrected.xml is without it.")
    return lines + [f"Alarm of the fit: {one}." for one in listing(fit, "alarms")]
