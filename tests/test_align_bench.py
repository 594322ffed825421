"""The closed-loop benchmark: what is made of its runs, by hand-made figures."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from asap import bench_align
from asap.align_config import AlignConfig
from asap.bench_align import Pair, PairSetup, align_pairs, summary
from asap.cli import main
from asap.cli_bench_align import _rows, _summary, part
from asap_deploy.errors import InputError


def _figures(cost: float, success: float = 1.0) -> dict[str, Any]:
    names = ("cost_mm", "global_mpjpe_mm", "mpjpe_mm")
    one = {name: {"value": cost, "low": None, "high": None} for name in names}
    return {**one, "success_rate": {"value": success, "low": success, "high": success}}


def _gain(value: float, half: float = 5.0) -> dict[str, Any]:
    return {"cost_mm": {"value": value, "low": value - half, "high": value + half}}


def _pair(
    seed: int, arms: dict[str, float], *, start: float = 200.0, home: float = 100.0,
    accepted: bool | None = True, falls: tuple[str, ...] = (),
) -> Pair:  # fmt: skip
    """What an alignment says whose arms cost so much."""
    costs = {"no adaptation": start, **arms}
    fit = {} if accepted is None else {"fit": {"accepted": accepted}}
    told = {arm: {"changed": cost != start} for arm, cost in arms.items()}
    ours = arms.get("corrected", math.nan)
    found = {
        "motions": {"walk": {}},
        "rounds": [{"number": 1, **fit, "finetune": {"walk": told} if told else {}}],
        "closed_loop": {"walk": {arm: _figures(cost, 0.5 if arm in falls else 1.0)
                                 for arm, cost in costs.items()}},
        "home": {"walk": {"no adaptation": _figures(home)}},
        "gain": {"walk": {arm: _gain(cost - start) for arm, cost in arms.items()}},
        "against": {"walk": {arm: _gain(ours - cost) for arm, cost in arms.items()
                             if arm != "corrected" and "corrected" in arms}},
        "quiet": {"walk": {}},
    }  # fmt: skip
    return Pair("walk@genesis", seed, found)


def test_an_arm_over_seeds_is_counted_and_its_way_is_the_median() -> None:
    # Of the way home (200 to 100) seed 0 went 0.5, seed 1 went 0.8, seed 2 stayed, seed 3 lost.
    pairs = [_pair(seed, {"oracle": cost}, accepted=None)
             for seed, cost in enumerate((150.0, 120.0, 200.0, 203.0))]  # fmt: skip
    assert pairs[0].share == {} and pairs[0].accepted is None
    assert pairs[1].home_share["oracle"]["cost_mm"] == pytest.approx(0.8)
    one = summary(pairs)["walk@genesis"]
    assert one["seeds"] == [0, 1, 2, 3] and one["refused"] == []
    oracle = one["arms"]["oracle"]
    assert (oracle["not_worse"], oracle["changed"]) == (3, 3)  # 203 mm is worse, not beyond chance
    assert (oracle["better"], oracle["worse"], oracle["success_fell"]) == (2, 0, 0)
    share = oracle["home_share"]["global_mpjpe_mm"]
    assert share["median"] == pytest.approx(0.25)  # (0.5 + 0) / 2
    assert (share["least"], share["most"]) == pytest.approx((-0.03, 0.8))
    assert oracle["figures"]["cost_mm"] == {"start": 200.0, "end": 175.0, "home": 100.0}
    # Mean of -50, -80, 0, 3 is -31.75; their deviation 40.32; t of 3 degrees of freedom is 3.182.
    gain = oracle["gain_mm"]
    assert gain["value"] == pytest.approx(-31.75)
    assert gain["high"] - gain["value"] == pytest.approx(3.182 * 40.32 / 2.0, rel=1e-3)
    assert oracle["corrected_better"] == 0 and math.isnan(oracle["corrected_gain_mm"]["value"])


def test_the_corrected_is_counted_against_each_control_and_refused_fits_are_named() -> None:
    # Of the way to the oracle (200 to 120), corrected went 0.5 and 0.75.
    pairs = [
        _pair(0, {"corrected": 160.0, "nominal": 180.0, "oracle": 120.0}, falls=("nominal",)),
        _pair(1, {"corrected": 140.0, "nominal": 130.0, "oracle": 120.0}),
        _pair(2, {}, accepted=False),
    ]
    one = summary(pairs)["walk@genesis"]
    assert one["refused"] == [2] and pairs[0].accepted
    corrected, nominal = one["arms"]["corrected"], one["arms"]["nominal"]
    assert corrected["seeds"] == 2 and corrected["better"] == 2
    assert corrected["oracle_share"]["cost_mm"]["median"] == pytest.approx(0.625)
    assert (nominal["corrected_better"], nominal["corrected_worse"]) == (1, 1)
    assert nominal["success_fell"] == 1 and nominal["corrected_gain_mm"]["value"] == -5.0
    assert "oracle" not in pairs[0].share and pairs[0].as_dict()["changed"]["nominal"]


def test_where_there_is_no_way_there_is_no_share() -> None:
    pair = _pair(0, {"oracle": 90.0}, home=210.0)
    assert math.isnan(pair.home_share["oracle"]["cost_mm"])
    arm = summary([pair])["walk@genesis"]["arms"]["oracle"]
    assert math.isnan(arm["home_share"]["cost_mm"]["median"])
    assert math.isnan(arm["gain_mm"]["low"]) and arm["gain_mm"]["value"] == -110.0
    assert (part(None), part(math.nan), part(0.256)) == ("", "-", "26%")


def test_tables_have_a_row_for_home_every_arm_and_every_refusal() -> None:
    pairs = [_pair(0, {"corrected": 160.0, "oracle": 120.0}), _pair(1, {}, accepted=False)]
    rows = _rows(pairs[0])
    assert [row[1] for row in rows] == ["at home", "no adaptation", "corrected", "oracle"]
    assert rows[2][-3:] == ["-40 [-45, -35]", "40%", "50%"] and len({len(r) for r in rows}) == 1
    table = _summary(summary(pairs))
    assert table.row_count == 3  # type: ignore[attr-defined]


def test_every_pair_runs_with_every_seed_and_wrong_ones_are_refused_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = []

    def told(robot, tasks, config, folder, *, truth, watch):
        ran.append((truth.name, config.seed, folder.relative_to(tmp_path).as_posix()))
        return _pair(config.seed, {"oracle": 150.0}, accepted=None).found

    monkeypatch.setattr(bench_align, "align", told)
    how = AlignConfig(controls=True, corrected=False, arms=("oracle",))
    setup = PairSetup(pairs=("wave@worn", "wave@genesis"), seeds=(3, 4), align=how)
    found = align_pairs(setup, tmp_path)
    assert ran == [("g1@worn", 3, "wave@worn/seed3"), ("g1@genesis", 3, "wave@genesis/seed3"),
                   ("g1@worn", 4, "wave@worn/seed4"),
                   ("g1@genesis", 4, "wave@genesis/seed4")]  # fmt: skip
    assert [one.seed for one in found] == [3, 3, 4, 4]
    with pytest.raises(InputError, match="a pair is CLIP@TWIN"):
        align_pairs(PairSetup(pairs=("wave@worn", "walk")), tmp_path)
    assert len(ran) == 4
    words = ["bench", "align", "--no-corrected", "--arms", "oracle", "--pairs", "wave@worn",
             "--seeds", "2", "--out", str(tmp_path)]  # fmt: skip
    assert main(words) == 0
    assert "2 of 2" in capsys.readouterr().out
    assert main([*words, "--arms", "noise"]) == 2
    assert "no fit that noise could depend on" in capsys.readouterr().err
