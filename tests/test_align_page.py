"""The page of an alignment run: what it claims, where its figures come from, what it survives."""

from __future__ import annotations

import base64
import copy
import html
import re
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from asap.align_blocks import Image as Chart
from asap.align_blocks import Images, Page, Section, Table, to_markdown
from asap.align_charts import costly_joints, gain_chart, gap_chart, picture
from asap.align_page import RESULT, html_page, markdown_page
from asap.align_words import answer, at, change_of, limits, rivals

ROOT = Path(__file__).resolve().parents[1]
HORIZONS = ("0.25", "1.0")
FIGURES = (
    "value",
    "low",
    "high",
    "typical",
    "coverage",
    "steps",
    "duration_s",
    "rate_hz",
    "delay_s",
)


def iv(value, low=None, high=None):
    return {"value": value, "low": low, "high": high}


def errors(scale):
    """An error of 1 deg and 30 mm at 1 s, times something."""
    return {
        h: {"joint_mae_deg": iv(s * scale, 0.9 * s * scale, 1.1 * s * scale),
            "global_mpjpe_mm": iv(30.0 * s * scale, 29.0 * s * scale, 31.0 * s * scale)}
        for h, s in zip(HORIZONS, (0.5, 1.0), strict=True)
    }  # fmt: skip


def runs(rate, distance):
    return {"success_rate": iv(rate, rate - 0.03, rate + 0.03),
            "global_mpjpe_mm": iv(distance, distance - 4.0, distance + 4.0),
            "mpjpe_mm": iv(distance / 3, distance / 3 - 1.0, distance / 3 + 1.0)}  # fmt: skip


def gain(cost, distance):
    return {"cost_mm": iv(cost, cost - 10.0, cost + 10.0),
            "global_mpjpe_mm": iv(distance, distance - 2.0, distance + 2.0)}  # fmt: skip


def parameter(name, value, by="log"):
    low, high = value - 0.05, value + 0.05
    if by == "nothing":
        value = low = high = None
    return {"name": name, "value": value, "low": low, "high": high, "determined_by": by}


def fitted():
    return {
        "method": "stacked", "accepted": True, "verdict": "errors fall to 20%",
        "train": {"groups": [], "share_by_seconds": {"5": 0.3, "12": 0.21}},
        "heldout": errors(0.2),
        "baseline": {"nominal": errors(1.0), "hold_last": errors(3.0)},
        "joint_names": ["left_knee_joint", "waist_yaw_joint", "left_elbow_joint"],
        "joint_mae_deg": {"nominal": [[0.1] * 3, [1.5, 0.25, 0.75]],
                          "corrected": [[0.1] * 3, [0.3, 0.9, 0.05]]},
        "parameters": [parameter("delay", 0.008), parameter("torso mass", 1.2),
                       *(parameter(f"{part} stiffness", 0.9) for part in ("knee", "ankle")),
                       parameter("hip stiffness", 1.1, "log and model"),
                       *(parameter(f"{part} droop", 0.0, "nothing") for part in ("knee", "hip")),
                       parameter("ankle droop", 0.0, "model")],
        "abstained": ["left_elbow_joint"], "effective": ["ankle"], "alarms": ["knee at its bound"],
        "bands": {h: {"joint_mae_deg": {"typical": 0.4, "coverage": 0.91}} for h in HORIZONS},
        "beyond_mjcf": ["dead_band"], "correction": "c.json", "written": [],
    }  # fmt: skip


def trained(changed=True):
    before, after = {"overall": runs(0.5, 120.0)}, {"overall": runs(0.7, 99.0)}
    return {"changed": changed, "steps": 1000, "before": before, "evaluation": after}


def result():
    """A run in which everything went well."""
    return {
        "command": "align", "seed": 3, "versions": {"mujoco": "4.0.0"}, "wall_s": 300.0,
        "inputs": {"motions/g1/squat.npz": "abc"},
        "robot": "g1", "truth": "g1@worn", "judged_on": "g1@worn",
        "motions": {"squat": {"policy": "policies/g1/squat.onnx", "duration_s": 4.4}},
        "rounds": [{
            "number": 1,
            "logs": [{"name": "squat", "file": "round1/logs/squat.npz", "duration_s": 17.6,
                      "rate_hz": 50.0, "delay_s": 0.008, "verdict": "WARNING",
                      "problems": [{"verdict": "WARNING", "text": "it lay down"}]}],
            "replay": {"costly_phase": [0.4, 0.5]},
            "fit": fitted(),
            "finetune": {"squat": {"corrected": trained(), "nominal": trained()}},
        }],
        "closed_loop": {"squat": {"no adaptation": runs(0.57, 122.0), "corrected": runs(0.69, 98.0),
                                  "nominal": runs(0.58, 121.0)}},
        "gain": {"squat": {"corrected": gain(-61.0, -12.0), "nominal": gain(-3.0, -1.0)}},
        "home": {"squat": {"no adaptation": runs(0.66, 102.0)}},
        "policies": {"squat": "judged/squat/policy.onnx"},
        "pictures": {"squat": {"before": "before.png", "after": "after.png"}},
        "recordings": {"squat": "judged/squat/robot.rrd"},
        "stages": [{"name": "round1/fit", "wall_s": 100.0, "reused": True}],
    }  # fmt: skip


def refused():
    found = result()
    fit = found["rounds"][0]["fit"]
    fit.update(accepted=False, heldout={}, verdict="no correction: worse than the model")
    fit["joint_mae_deg"].pop("corrected")
    found["rounds"][0]["finetune"] = {}
    found["closed_loop"]["squat"] = {"no adaptation": runs(0.57, 122.0)}
    found["gain"]["squat"] = {}
    return found


class Tags(HTMLParser):
    """All tags, and the text of a page."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(page)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        if not self.tags or self.tags[-1][0] != "style":
            self.words.append(data)


def said(found, folder):
    return Tags(html_page(found, folder)).text


def told(found):
    return [" ".join([line.question, line.verdict, *line.details]) for line in answer(found)]


def test_the_page_needs_no_other_file_no_network_and_no_script(tmp_path):
    page = html_page(result(), tmp_path)
    seen = Tags(page)
    assert {"script", "link", "iframe", "object"}.isdisjoint(tag for tag, _ in seen.tags)
    assert not any(name.startswith("on") for _, attrs in seen.tags for name in attrs)
    images = [attrs["src"] for tag, attrs in seen.tags if tag == "img"]
    assert len(images) == 4 and all(src.startswith("data:image/") for src in images)
    links = [attrs["href"] for tag, attrs in seen.tags if tag == "a"]
    assert "judged/squat/robot.rrd" in links and "round1/logs/squat.npz" in links
    assert not any(":" in link or link.startswith("/") for link in links)
    assert "default-src 'none'" in page and "url(" not in page and "@import" not in page
    assert page.startswith("<!doctype html>")
    assert "@media print" in page and "width=device-width" in page


def test_the_answer_says_how_much_better_on_what_and_what_to_do(tmp_path):
    prediction, policy, after = told(result())
    assert "Yes. Joint error 1.0 s ahead: 0.20 deg [0.18, 0.22] instead of 1.00 deg" in prediction
    assert "20% of that" in prediction and "overlap" not in prediction
    assert "squat: it falls less; it finishes 69% [66, 72] of the runs instead of 57%" in policy
    # The file says -12 mm [-14, -10] and -61 mm [-71, -51]: negative is nearer.
    assert "12.0 mm [10.0, 14.0] nearer to the clip where both finish" in policy
    assert "500 mm: 61.0 mm [51.0, 71.0] nearer" in policy and "Judged on g1@worn" in policy
    assert "Try the new policy for squat, in a harness." in after
    assert "still fails in 31% of the judged runs" in after
    page = said(result(), tmp_path)
    for line in answer(result()):
        assert line.question in page and line.verdict in page


def test_a_refused_correction_is_said_as_plainly(tmp_path):
    prediction, policy, after = told(refused())
    assert "No. No correction was kept: worse than the model." in prediction
    assert "joint error 1.0 s ahead is 1.00 deg [0.90, 1.10]" in prediction
    assert "Unchanged. No policy was trained" in policy
    assert "Change nothing on the robot." in after and "harness" not in after
    page = said(refused(), tmp_path)
    assert "None of it is used: the correction was refused." in page
    assert "no correction to train in" in page and " after 0.10" not in page
    found = refused()
    found["rounds"][0]["logs"][0]["verdict"] = "REFUSED"
    assert "Mend the recording. The check refused squat" in told(found)[2]
    found["rounds"][0]["logs"][0]["verdict"] = "PASS"
    found["rounds"][0]["fit"]["next_motion"] = [{"motion": "hop"}, {"motion": "kick"}]
    assert "for example hop and kick" in told(found)[2]


def test_the_figures_of_a_refused_correction_are_not_called_after():
    found = result()
    found["rounds"][0]["fit"]["accepted"] = False
    assert "| refused correction | 0.10 [0.09, 0.11] |" in markdown_page(found)
    assert "| after | 0.10 [0.09, 0.11] |" in markdown_page(result())


def test_without_a_truth_nothing_is_claimed_about_the_robot():
    found = result() | {"truth": None, "judged_on": "g1@corrected"}
    _, policy, _ = told(found)
    assert "In the model only: yes." in policy
    assert "the model as the correction made it, not the robot" in policy
    assert "Nobody has run a new policy on the robot" in limits(found)[0]
    assert "Nothing here was measured on a real robot" in limits(result())[0]
    assert "Logs of the robot were handed in" in markdown_page(found)


def test_the_page_says_from_which_starts_policies_were_judged(tmp_path):
    found = result() | {"judged_from": "small", "quiet": {"squat": {"corrected": runs(0.9, 20.0)}}}
    assert "Judged on g1@worn, from the same starts (with a little noise)." in told(found)[1]
    page = said(found, tmp_path)
    assert "from rest: finishes from rest: distance [mm] no adaptation" in page
    assert "90% [87, 93] 20.0 [16.0, 24.0]" in page and "quiet.squat" in page
    assert "from rest" not in markdown_page(result())


def test_more_falls_are_worse_however_near_the_clip():
    found = result()
    found["closed_loop"]["squat"]["corrected"] = runs(0.40, 60.0)
    assert change_of(found, "squat", "corrected") == "worse"
    _, policy, after = told(found)
    assert "No, worse." in policy and "it falls more; it finishes 40%" in policy
    assert "Keep the start policy. squat: do not put the new policy on a robot." in after


@pytest.mark.parametrize(
    ("cost", "rate", "verdict"),
    [(-61.0, 0.57, "better"), (9.0, 0.57, "no clear difference"), (9.0, 0.70, "better"),
     (61.0, 0.70, "better"), (-9.0, 0.59, "no clear difference"), (61.0, 0.57, "worse"),
     (-61.0, 0.50, "worse")],
)  # fmt: skip
def test_only_intervals_that_leave_zero_out_make_a_difference(cost, rate, verdict):
    # Intervals of costs are 10 mm either way, of rates 3 %.
    found = result()
    found["gain"]["squat"]["corrected"] = gain(cost, cost / 5.0)
    found["closed_loop"]["squat"]["corrected"] = runs(rate, 100.0)
    assert change_of(found, "squat", "corrected") == verdict
    # Failed runs are in the cost and not in the distance: the cost decides where it was measured.
    found["gain"]["squat"]["corrected"]["global_mpjpe_mm"] = iv(99.0, 98.0, 100.0)
    assert change_of(found, "squat", "corrected") == verdict
    del found["gain"]["squat"]["corrected"]["cost_mm"]
    assert change_of(found, "squat", "corrected") == ("better" if rate == 0.70 else "worse")


def test_a_kept_start_policy_is_no_gain():
    found = result()
    found["rounds"][0]["finetune"]["squat"]["corrected"]["changed"] = False
    _, policy, after = told(found)
    assert "Unchanged. squat: the start policy was kept" in policy and "57% [54, 60]" in policy
    assert "Keep the start policy. No gain was shown." in after


def test_a_control_that_gains_as_much_is_named():
    found = result()
    assert rivals(found, "squat") == []
    found["gain"]["squat"]["noise"] = gain(-45.0, -9.0)  # -55 to -35 touches -71 to -51
    assert rivals(found, "squat") == ["noise"]
    assert "cannot be told from that of the controls noise" in told(found)[2]
    # A paired comparison says more than two intervals.
    found["against"] = {"squat": {"noise": gain(-16.0, -3.0), "nominal": gain(-9.0, -2.0)}}
    assert rivals(found, "squat") == ["nominal"]
    assert any("Controls randomized were not measured" in line for line in limits(found))


def test_a_learned_offset_alone_that_was_refused_is_said_to_have_no_row(tmp_path):
    found = result()
    found["rounds"][0]["delta"] = {"accepted": False, "verdict": "no correction: worse at 1 s"}
    assert "without identification too, and refused: worse at 1 s." in html_page(found, tmp_path)
    found["rounds"][0]["delta"]["accepted"] = True
    assert "learned without identification too" not in markdown_page(found)
    found["closed_loop"]["squat"]["delta"] = runs(0.6, 110.0)
    assert "control: trained on as long with an offset that was learned" in markdown_page(found)


def test_motions_with_different_outcomes_are_told_apart():
    found = result()
    for key, value in (("closed_loop", {"no adaptation": runs(0.5, 150.0),
                                        "corrected": runs(0.51, 150.0)}),
                       ("gain", {"corrected": gain(1.0, 0.0)}), ("motions", {})):  # fmt: skip
        found[key]["walk"] = value
    assert "Better on squat, no clear difference on walk." in told(found)[1]
    assert "Try the new policy for squat, in a harness." in told(found)[2]
    titles = re.findall(r"\*\*(\w+) on g1@worn", markdown_page(found))
    assert titles == ["squat", "walk"]


def test_a_later_round_that_kept_nothing_does_not_hide_the_one_that_did():
    found = result()
    found["rounds"].append(copy.deepcopy(refused()["rounds"][0]))
    assert "0.20 deg" in told(found)[0] and "(Round 1; round 2 kept nothing.)" in told(found)[0]
    assert "Round by round" in markdown_page(found) and "rounds[0].fit." in markdown_page(found)
    assert "Round by round" not in markdown_page(result())


def test_no_better_than_nothing_moves_is_said():
    found = result()
    found["rounds"][0]["fit"]["baseline"]["hold_last"] = errors(0.1)
    assert "saying that nothing moves predicts the joints as well" in told(found)[0]


def test_limits_name_what_the_fit_itself_doubts():
    text = " ".join(limits(result()))
    parts = ("ankle are effective, not physical", "An MJCF cannot hold dead_band", "seed (here 3)",
             "Alarm of the fit: knee at its bound.", "up to 1.0 s ahead")  # fmt: skip
    assert [part for part in parts if part not in text] == []


def sources(page):
    """Every path under a table: ``rounds[0].fit.baseline, .heldout`` shares its beginning."""
    for line in re.findall(rf"{RESULT}: ([^<*)]+)", page):
        before = ""
        for path in (part.strip() for part in line.split(",")):
            full = before + path if path.startswith(".") else path
            before = full.rpartition(".")[0]
            yield full


def resolve(found, path):
    for key in re.findall(r"[^.\[\]]+|\[\d*\]", path):
        found = at(found, int(key[1:-1] or 0)) if key.startswith("[") else at(found, key)
    return found


@pytest.mark.parametrize("make", [result, refused])
def test_every_source_under_a_table_exists_in_the_file(tmp_path, make):
    found = make()
    page = html_page(found, tmp_path)
    for text in (html.unescape(page), markdown_page(found)):
        paths = list(sources(text))
        assert len(paths) > 15
        assert [path for path in paths if resolve(found, path) is None] == []
    assert page.count('<p class="source">') >= page.count("<table")


def test_cells_hold_the_figures_of_the_file(tmp_path):
    page = said(result(), tmp_path)
    assert "before 0.50 [0.45, 0.55] 1.00 [0.90, 1.10]" in page
    assert "nothing moves 45.0 [43.5, 46.5] 90.0 [87.0, 93.0]" in page
    assert "9 of 10 are below 0.40 (held 91%) 0.40 (held 91%)" in page
    assert (
        "corrected 69% [66, 72] 98.0 [94.0, 102.0] 32.7 [31.7, 33.7] -61.0 [-71.0, -51.0]" in page
    )
    assert "no adaptation 57% [54, 60] 122.0" in page and "squat 1 17.6 50.00 8 WARNING" in page
    assert "squat: WARNING: it lay down" in page and "5 s: 30%, 12 s: 21%" in page
    # Home: the start policy in the uncorrected model.
    assert "policies/g1/squat.onnx 4.4 66% [63, 69] 102.0 [98.0, 106.0]" in page


def test_parameters_stand_by_part_and_say_who_tells_them(tmp_path):
    page = said(result(), tmp_path)
    assert "8 parameters: 4 are told by the log, 1 by log and model together" in page
    assert "torso mass 1.20 [1.15, 1.25]" in page and "delay 0.00800" in page
    assert "By part of the body stiffness droop knee 0.900 [0.850, 0.950] no trace" in page
    assert "ankle 0.900 [0.850, 0.950] model hip 1.10* [1.05, 1.15] no trace" in page
    assert "where they help other runs: not left_elbow." in page
    found = result()
    names = ("left_knee", "right_knee", "waist_yaw")
    found["rounds"][0]["fit"]["parameters"] += [
        *(parameter(f"{name} encoder_bias", 0.01) for name in names),
        *(parameter(f"{name} stiffness in its group", 1.02) for name in names),
    ]
    page = said(found, tmp_path)
    assert page.count("By part of the body") == 1 and page.count("By joint") == 1
    assert "By joint encoder_bias stiffness beside its group left_knee 0.0100" in page
    assert "waist_yaw 0.0100 [-0.0400, 0.0600] 1.02 [0.970, 1.07]" in page


def test_markdown_says_the_same_as_the_page(tmp_path):
    found = result()
    clean = re.sub(r"\\(.)", r"\1", markdown_page(found))
    for line in answer(found):
        for part in (line.question, line.verdict, *line.details):
            assert part in clean, part
    page = html_page(found, tmp_path)
    cells = re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", page, flags=re.DOTALL)
    texts = {html.unescape(re.sub(r"<[^>]+>", "", cell)).strip() for cell in cells}
    assert len(texts) > 60
    assert [text for text in texts if text not in clean] == []
    assert "| left_knee | 1.50 | 0.30 |" in clean
    assert "[squat, before](before.png)" in clean and "data:image" not in clean


def test_a_chart_of_a_markdown_report_leaves_its_table():
    chart = Images([Chart("c", "data:x")], "s", Table("c", ["a", "b"], [["1", "2"]], "gain"))
    text = to_markdown(Page("t", "", [], [Section("s", [chart])], RESULT))
    assert "| 1 | 2 |" in text and "data:" not in text


def test_names_from_files_are_neither_tags_nor_links_nor_formulas(tmp_path):
    bad = '<img src=x onerror=alert(1)>|$\\frac{1$"](javascript:alert(1))'
    found = result()
    for key in ("motions", "closed_loop", "gain", "pictures", "recordings", "policies", "home"):
        found[key] = {bad: found[key]["squat"]}
    found["recordings"][bad] = "javascript:alert(1)"
    found["truth"] = found["judged_on"] = bad
    found["rounds"][0]["fit"]["joint_names"][0] = bad
    seen = Tags(html_page(found, tmp_path))
    assert not any("onerror" in attrs for _, attrs in seen.tags)
    assert not any(attrs.get("href", "").startswith("javascript:") for _, attrs in seen.tags)
    assert bad in seen.text
    text = markdown_page(found)
    assert not re.search(r"(?<!\\)\]\(javascript:", text) and not re.search(r"(?<!\\)<", text)
    rows = [line for line in text.splitlines() if "onerror" in line and line.startswith("|")]
    table = [len(re.findall(r"(?<!\\)\|", row)) for row in rows]
    assert table and set(table) <= {3, 4, 6}  # as many cells as their tables have columns


def places(value, path=()):
    """Every path of keys and indices of a result."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        yield (*path, key)
        if isinstance(item, (dict, list)):
            yield from places(item, (*path, key))


def changed(found, path, value):
    found = copy.deepcopy(found)
    inside = found
    for key in path[:-1]:
        inside = inside[key]
    if value is KeyError:
        inside.pop(path[-1])
    else:
        inside[path[-1]] = value
    return found


@pytest.mark.parametrize("value", [KeyError, None, "text", [None, {}], float("nan")])
def test_no_missing_or_odd_entry_of_the_file_breaks_the_page(value):
    base = result()
    paths = list(places(base))
    assert len(paths) > 200
    for path in paths:
        text = markdown_page(changed(base, path, value))
        assert "What to do next?" in text, path
        assert path[-1] not in FIGURES or "nan" not in text, path


def test_partial_files_make_pages_too(tmp_path):
    assert "Not known. Nothing was fitted in this run." in said({}, tmp_path)
    base = result()
    one = ("rounds", 0)
    parts = [("gain",), one, (*one, "fit", "baseline"), (*one, "fit", "joint_names")]
    for path in parts:
        page = html_page(changed(base, path, KeyError if path != one else {}), tmp_path)
        assert "What to do next?" in page, path
    assert "not measured" in said(changed(base, ("closed_loop",), {}), tmp_path)


def test_charts_draw_what_there_is_and_nothing_else():
    fit, blue = fitted(), b"#1a66c4"
    both, before = (
        gap_chart(fit, "joint_mae_deg", "x"),
        gap_chart(fit | {"heldout": {}}, "joint_mae_deg", "x"),
    )
    assert both == gap_chart(fit, "joint_mae_deg", "x"), "the same figures give the same bytes"
    assert blue in base64.b64decode(both.partition(",")[2])
    assert blue not in base64.b64decode(before.partition(",")[2])
    assert gap_chart({}, "joint_mae_deg", "x") is None and gain_chart({}) is None
    nothing = {"baseline": {"nominal": errors(0.0)}}  # has no place on a logarithmic scale
    assert gap_chart(nothing, "joint_mae_deg", "x") is None
    # Worst before or after: 1.5 before, 0.9 after, 0.75 before.
    assert costly_joints(fit) == [("left_knee_joint", 1.5, 0.3), ("waist_yaw_joint", 0.25, 0.9),
                                  ("left_elbow_joint", 0.75, 0.05)]  # fmt: skip
    assert [name for name, _, _ in costly_joints(fit, most=1)] == ["left_knee_joint"]


def test_pictures_are_inside_the_page_and_keep_it_small(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (700, 1600, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "before.png")
    found = result()
    found["pictures"] = {f"m{i}": {"before": "before.png", "after": "before.png"} for i in range(3)}
    found["pictures"]["m0"]["after"] = "gone.png"
    page = html_page(found, tmp_path)
    assert page.count("data:image/jpeg") == 5 and len(page) < 3_000_000
    assert "The picture cannot be read: gone.png" in page
    (tmp_path / "bad.png").write_bytes((tmp_path / "before.png").read_bytes()[:5000])
    assert picture(tmp_path / "bad.png", max_bytes=100_000) is None
    small = picture(tmp_path / "before.png", max_bytes=60_000)
    assert len(base64.b64decode(small.partition(",")[2])) <= 60_000


def test_the_template_is_part_of_the_package():
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert "templates/*.html" in data["package-data"]["asap"]
    assert (ROOT / "asap" / "templates" / "align.html").is_file()
