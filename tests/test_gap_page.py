"""The hidden-truth benchmark: how it scores, that it goes on, and what its page says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from asap import bench_fit, cli_bench
from asap.align_charts import closed_chart
from asap.bench_fit import Logs, Play, Scored, Setup, counts, hidden_truth
from asap.cli import main
from asap.gap_page import gap_page, groups, shares
from asap.metrics import Interval
from asap.parameter_claims import Claim
from asap.robot import Robot
from asap.twin import SensorFacts

H = ("0.25", "1.0")
JOINT, BODY = "joint_mae_deg", "global_mpjpe_mm"


def case(
    twin: str = "worn", method: str = "identify", seed: int = 0, share: float = 0.9,
    worse: tuple[str, ...] = (), accepted: bool = True, off: tuple[bool, ...] = (),
) -> Scored:  # fmt: skip
    gap = None if twin in bench_fit.NO_GAP else share
    both = {metric: dict.fromkeys(H, gap) for metric in (JOINT, BODY)}
    arms = {"nominal": 2.0, "truth": 0.1, **({"corrected": 0.3} if accepted else {})}
    errors = {arm: {metric: dict.fromkeys(H, size) for metric in both}
              for arm, size in arms.items()}  # fmt: skip
    said = [Claim("knee stiffness", 0.9, 0.8, 1.0, 0.5, one)._asdict() for one in off]
    return Scored(twin, method, seed, accepted, both, errors, list(worse), 9.0, 30.0, "it fell",
                  4.0, twin != "strange", said or None)  # fmt: skip


def found(*cases: Scored) -> dict[str, Any]:
    """As gap.json says it."""
    setup = {"train": ["squat", "wave"], "test": ["walk"]}
    facts = {"robot": "g1", "seed": 0, "versions": {"mujoco": "4.0.0"}, "setup": setup,
             "cases": [one.as_dict() for one in cases],
             **(bench_fit.counts(cases) if cases else {})}  # fmt: skip
    return dict(json.loads(json.dumps(facts)))


def test_a_closed_gap_is_what_lies_above_the_error_of_the_truth_itself() -> None:
    def arm(joint: float, body: float) -> SimpleNamespace:
        figures = {JOINT: Interval(joint, 0.0, 9.0), BODY: Interval(body, 0.0, 9.0)}
        return SimpleNamespace(horizons={"1.0": figures})

    arms = {"nominal": arm(2.1, 50.0), "truth": arm(0.1, 10.0), "corrected": arm(0.6, 58.0)}
    closed, worse = bench_fit._closed(SimpleNamespace(arms=arms), accepted=True)  # type: ignore
    # (2.1 - 0.6) / (2.1 - 0.1) = 0.75; (50 - 58) / (50 - 10) = -0.2
    assert closed[JOINT]["1.0"] == pytest.approx(0.75)
    assert closed[BODY]["1.0"] == pytest.approx(-0.2)
    assert worse == ["global_mpjpe_mm at 1.0 s"]
    closed, worse = bench_fit._closed(SimpleNamespace(arms=arms), accepted=False)  # type: ignore
    assert closed[JOINT]["1.0"] == 0.0 and worse == []
    arms["truth"] = arms["nominal"]  # The model itself made the log: nothing can be closed.
    closed, worse = bench_fit._closed(SimpleNamespace(arms=arms), accepted=True)  # type: ignore
    assert closed[JOINT]["1.0"] is None and worse == ["global_mpjpe_mm at 1.0 s"]


def test_cases_that_are_done_are_not_done_again_and_record_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, recorded = [], []

    def scored(play: Play, method: Any) -> Scored:
        done.append((play.name, method, play.seed))
        assert play.logs == Logs([], [])
        return case(play.name, method, play.seed, share=0.1 * play.seed)

    def logs(*rest: object) -> Logs:
        recorded.append(rest[-1])
        return Logs([], [])

    monkeypatch.setattr(bench_fit, "_scored", scored)
    monkeypatch.setattr(bench_fit, "_logs", logs)
    setup = Setup(twins=("worn",), methods=("identify", "grid"), seeds=(0, 1))
    first = hidden_truth(setup, tmp_path)
    every = [("worn", method, seed) for seed in (0, 1) for method in ("identify", "grid")]
    assert done == every and recorded == [0, 1]  # the logs of a seed serve all methods
    assert hidden_truth(setup, tmp_path) == first and done == every and recorded == [0, 1]
    more = Setup(twins=("worn",), methods=("identify", "grid"), seeds=(0, 1, 2))
    assert [one.seed for one in hidden_truth(more, tmp_path)] == [0, 0, 1, 1, 2, 2]
    assert done[4:] == [("worn", "identify", 2), ("worn", "grid", 2)]
    # Other motions are other cases.
    hidden_truth(Setup(twins=("worn",), methods=("grid",), test=("hop",)), tmp_path)
    assert done[6:] == [("worn", "grid", 0)]


def test_methods_that_begin_with_physics_share_it_and_say_what_it_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, handed = SimpleNamespace(), []

    def fit(train, robot, config, *, heldout, identified):
        handed.append((config.method, identified))
        return SimpleNamespace(accepted=False, verdict="none")

    def identify(*rest: object, **options: object) -> SimpleNamespace:
        handed.append(("search", None))
        return shared

    figures = {JOINT: Interval(1.0, 0.0, 2.0), BODY: Interval(9.0, 0.0, 20.0)}
    arm = SimpleNamespace(horizons={"1.0": figures})
    seen = SimpleNamespace(arms={"nominal": arm, "truth": arm})
    for name, fake in (("fit", fit), ("identified_first", identify), ("replay", lambda *_: seen),
                       ("_logs", lambda *_: Logs([], [])), ("claims", lambda *_: [])):  # fmt: skip
        monkeypatch.setattr(bench_fit, name, fake)
    setup = Setup(twins=("worn",), methods=("delta", "stacked", "identify", "grid"))
    cases = {one.method: one for one in hidden_truth(setup, tmp_path)}
    assert handed == [("delta", None), ("search", None), ("stacked", shared),
                      ("identify", shared), ("grid", None)]  # fmt: skip
    took = cases["stacked"].identify_s
    assert 0.0 < took == cases["identify"].identify_s < cases["stacked"].wall_s
    assert cases["delta"].identify_s == 0.0 and cases["delta"].claims is None


def test_seeds_of_a_twin_and_a_method_are_told_as_median_and_range() -> None:
    cases = found(*(case(seed=n, share=share) for n, share in enumerate((0.9, 0.5, 0.8))),
                  case(method="delta", share=0.1))["cases"]  # fmt: skip
    by = groups(cases)
    assert list(by) == [("worn", "identify"), ("worn", "delta")]
    assert shares(by["worn", "identify"], JOINT, "1.0") == Interval(0.8, 0.5, 0.9)
    assert shares(by["worn", "identify"], JOINT, "2.0") is None


def test_the_page_says_which_method_is_best_and_which_case_is_worse_than_none() -> None:
    page = gap_page(found(
        case(share=0.95), case(seed=1, share=0.9),
        case(method="delta", share=0.2, worse=("global_mpjpe_mm at 1.0 s",)),
        case("genesis", "delta", share=0.0, accepted=False),
    ))  # fmt: skip
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", page))
    assert "identify: 92% of the joint gap." in text
    assert "Yes, 1 of 4." in text and "worn, delta, seed 0: global_mpjpe_mm at 1.0 s." in text
    assert "1 ended without a correction" in text
    assert "92% [90, 95]" in text and "genesis, model" in text
    assert "worn, truth itself" in text and "genesis, delta 0.30" not in text
    assert "judged on walk" in text and "it fell" in text
    none = re.sub(r"<[^>]+>", "", gap_page(found(case())))
    assert "No, in none of 1." in none and "One seed: nothing is said about luck." in none


def test_cases_are_counted_and_the_model_itself_has_no_gap() -> None:
    cases = [
        case(off=(False, True, False)), case(method="stacked", off=(False, True, False)),
        case(seed=1, off=(False,)), case("strange", worse=("joint_mae_deg at 1.0 s",), off=(True,)),
        case("nominal", accepted=False), case("nominal", seed=1, accepted=False),
        case("nominal_noisy"),
    ]  # fmt: skip
    told = counts(cases)
    # Stacked begins with the claims of identify: they are counted once.
    inside, outside = {"claims": 4, "off": 1}, {"claims": 1, "off": 1}
    assert told["claims"] == {"in_family": inside, "twins": {"worn": inside, "strange": outside}}
    assert told["no_gap"] == {"cases": 3, "no_correction": 2}
    assert told["worse"] == 1 and told["abstained"] == 2
    assert told["never_worse"] == pytest.approx(6 / 7)
    assert {"no_gap", "claims"}.isdisjoint(counts([case()]))
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", gap_page(found(*cases))))
    assert "Never worse at any horizon, in joints or base: 6 of 7 cases." in text
    assert "In 2 of 3 cases." in text
    assert "1 of 4 are off by more than twice their interval" in text
    assert text.count("knee stiffness 0.9 [0.8, 1], the truth is 0.5.") == 1
    table = [str(row) for row in (shares(cases_of, JOINT, "1.0")
             for cases_of in groups(found(*cases)["cases"]).values())]  # fmt: skip
    assert table[-1] == "None"


def test_the_page_needs_no_other_file_no_network_and_no_script() -> None:
    page = gap_page(found(case(), case(twin="<b>bad</b>")))
    assert "<script" not in page and "http:" not in page and "https:" not in page
    assert "<b>bad" not in page and "data:image/svg+xml;base64," in page
    assert gap_page({"cases": []}).count("<section>") == 5


def test_a_chart_of_nothing_is_none() -> None:
    assert closed_chart({"a": None}, "label") is None
    assert closed_chart({}, "label") is None
    one = closed_chart({"a": Interval(0.5, 0.4, 0.6)}, "label")
    assert one is not None and one == closed_chart({"a": Interval(0.5, 0.4, 0.6)}, "label")


@pytest.mark.parametrize(("worse", "status"), [((), 0), (("joint_mae_deg at 1.0 s",), 1)])
def test_the_command_leaves_a_page_and_its_figures(
    worse: tuple[str, ...], status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def fake(setup: Setup, folder: Path, progress: object) -> list[Scored]:
        asked.append(setup)
        return [case(), case(seed=1, worse=worse)]

    monkeypatch.setattr(cli_bench, "hidden_truth", fake)
    methods = ["identify", "delta", "stacked", "delta-ppo", "delta-dynamics", "grid"]
    words = ["bench", "gap", "--out", str(tmp_path), "--methods", *methods, "--seeds", "2"]
    assert main([*words, "--seed", "5", "--json", str(tmp_path / "a.json")]) == status
    assert asked[0].methods == tuple(methods) and asked[0].seeds == (5, 6)
    told = json.loads((tmp_path / "gap.json").read_text())
    assert told["worse"] == status and told["never_worse"] == 1.0 - 0.5 * status
    assert told["abstained"] == 0 and "no_gap" not in told
    assert (tmp_path / "report.html").read_text() == gap_page(told)
    assert json.loads((tmp_path / "a.json").read_text())["page"] == str(tmp_path / "report.html")


@pytest.mark.parametrize(("wrong", "status"), [(1, 0), (2, 1)])
def test_a_correction_of_the_model_itself_is_rare_or_the_command_fails(
    wrong: int, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = [case("nominal", seed=n, accepted=n < wrong) for n in range(20)]
    monkeypatch.setattr(cli_bench, "hidden_truth", lambda *rest: cases)
    words = ["bench", "gap", "--twins", "nominal", "--methods", "identify", "--out", str(tmp_path)]
    assert main([*words, "--seeds", "20"]) == status
    told = json.loads((tmp_path / "gap.json").read_text())
    assert told["no_gap"] == {"cases": 20, "no_correction": 20 - wrong}
    assert told["cases"][0]["closed"][JOINT]["1.0"] is None


def test_the_model_itself_plays_the_robot_with_exact_or_typical_sensors() -> None:
    nominal = Robot.load("g1")
    exact, noisy = (Play(Setup(), name, 0, nominal).twin for name in bench_fit.NO_GAP)
    assert SensorFacts.of(exact) == SensorFacts()
    assert SensorFacts.of(noisy) == SensorFacts.of(Robot.load("g1@worn"))
    assert np.array_equal(noisy.model.dof_armature, nominal.model.dof_armature)
