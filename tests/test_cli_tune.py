"""``asap tune``: one policy file in, one out, so the output of any recipe is another's input."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from asap.cli import main
from asap.posttrain.episode import load_episodes
from asap.robot import Robot
from asap_deploy.golden import load_policy

FEW = ["--num-envs", "4", "--episodes", "4", "--threads", "1", "--quiet"]
ONE_ROUND = ["--grape.rounds", "1", "--grape.starts", "4", "--grape.tries", "2", "--grape.pairs",
             "1"]  # fmt: skip


def tune(folder: Path, *words: str, status: int = 0):
    """Run a recipe; its JSON."""
    found = folder / "result.json"
    arguments = ["tune", *words, "--out", str(folder), "--json", str(found), *FEW]
    assert main(arguments) == status
    return json.loads(found.read_text())


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """rlpd > conrft > hil > ire > grape, each on what the one before left, better or not."""
    at, found = tmp_path_factory.mktemp("chain"), {}
    found["rlpd"] = tune(at / "rlpd", "rlpd", "--policy", "squat", "--steps", "400",
                         "--prior-episodes", "4")  # fmt: skip
    start, demos = str(at / "rlpd" / "tuned.onnx"), str(at / "rlpd" / "episodes.npz")
    found["conrft"] = tune(at / "conrft", "conrft", "--policy", start, "--demos", demos,
                           "--steps", "400", "--offline-steps", "5")  # fmt: skip
    start = str(at / "conrft" / "tuned.onnx")
    found["hil"] = tune(at / "hil", "hil", "--policy", start, "--operator", "squat",
                        "--steps", "400", "--off-m", "0.01", "--joints", "waist")  # fmt: skip
    start = str(at / "hil" / "tuned.onnx")
    found["ire"] = tune(at / "ire", "ire", "--policy", start, "--payload-kg", "2",
                        "--iterations", "1", "--expert-episodes", "4")  # fmt: skip
    start = str(at / "ire" / "tuned.onnx")
    found["grape"] = tune(at / "grape", "grape", "--policy", start, *ONE_ROUND)
    return at, found


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_recipe_takes_what_another_gave(chain):
    at, _ = chain
    last = load_policy(at / "grape" / "tuned.onnx")
    said = last.contract.provenance
    assert said["recipes"] == "rlpd > conrft > hil > ire > grape"
    before = load_policy(at / "ire" / "tuned.onnx")
    assert said["tuned_from_sha256"] == before.sha256
    assert (
        "noise input of the consistency model is 0"
        in load_policy(at / "conrft" / "tuned.onnx").contract.provenance["noise"]
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_tuned_policy_is_evaluated_like_any_other(chain, tmp_path):
    at, _ = chain
    words = ["evaluate", "--policy", str(at / "grape" / "tuned.onnx"), "--episodes", "2"]
    assert main([*words, "--json", str(tmp_path / "e.json"), "--quiet"]) == 0
    found = json.loads((tmp_path / "e.json").read_text())
    assert found["overall"]["success_rate"]["value"] == 1.0  # five short recipes did no harm


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_is_no_better_than_its_start_is_not_the_result(chain):
    at, found = chain
    for recipe, one in found.items():
        kept = (at / recipe / "policy.onnx").read_bytes()
        tuned = (at / recipe / "tuned.onnx").read_bytes()
        assert (kept == tuned) == one["better"], recipe
    assert not all(one["better"] for one in found.values())  # budgets of seconds


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_operator_moves_the_joints_that_are_his_alone(chain):
    at, found = chain
    episodes = load_episodes(at / "hil" / "episodes.npz")
    mask = np.concatenate([one.operator_mask for one in episodes])
    names = np.array(Robot.load("g1").action_joint_names)
    touched = names[mask.any(axis=0)]
    assert len(touched) == 3
    assert all("waist" in name for name in touched)
    assert max(found["hil"]["intervention_rates"]) > 0.1


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_residual_stays_within_its_bound(chain):
    at, _ = chain
    rng = np.random.default_rng(0)
    start, tuned = load_policy(at / "rlpd" / "policy.onnx"), load_policy(at / "rlpd" / "tuned.onnx")
    seen = rng.normal(0.0, 3.0, (64, len(start.contract.element_names))).astype(np.float32)
    assert np.abs(tuned.act(seen) - start.act(seen)).max() <= 0.3 + 1e-4


def test_taste_is_tuned_in_seconds(tmp_path):
    found = tune(tmp_path, "grape", "--policy", "squat", *ONE_ROUND)
    assert found["objective"] == "foot_slip_mm_s"
    assert load_policy(tmp_path / "tuned.onnx").contract.provenance["recipes"] == "grape"
    assert set(found) >= {"run_dir", "recipe", "onnx", "better", "change", "before", "evaluation"}


def test_a_control_of_equal_budget_stands_beside_the_result(tmp_path):
    found = tune(tmp_path, "grape", "--policy", "squat", "--control", *ONE_ROUND)
    control = found["control"]
    assert control["is"] == "chosen cloned"
    assert set(control["tuned_against_it"]) == {"value", "low", "high"}
    assert control["judged_on"][0]["success_rate"]["value"] == 1.0
    first = [one["cost"] for one in (found["rounds"][0], control["rounds"][0])]
    assert first[0] == pytest.approx(first[1])  # from the same episodes


def test_ctrl_c_keeps_what_there_is(tmp_path):
    usual = signal.getsignal(signal.SIGINT)

    def ask():
        while signal.getsignal(signal.SIGINT) is usual:  # until somebody listens
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=ask, daemon=True).start()
    words = ["tune", "grape", "--policy", "squat", "--grape.rounds", "500", "--grape.starts", "2",
             "--grape.tries", "2", "--grape.pairs", "1", "--out", str(tmp_path), *FEW]  # fmt: skip
    assert main(words) == 130
    assert load_policy(tmp_path / "tuned.onnx").contract.provenance["recipes"] == "grape"
    assert not (tmp_path / "policy.onnx").exists()  # nothing was judged


def test_data_of_other_physics_are_refused_with_what_to_do(tmp_path, capsys):
    words = ["tune", "rlpd", "--policy", "squat", "--prior-robot", "g1@worn", "--out",
             str(tmp_path), *FEW]  # fmt: skip
    assert main(words) == 2
    assert "asap fit" in capsys.readouterr().err


def test_a_log_of_the_robot_is_data(tmp_path):
    """Of another robot, which is refused without leave."""
    log = str(Path(__file__).parents[1] / "real_logs" / "g1" / "squat_worn.npz")
    words = ["rlpd", "--policy", "squat", "--data", log, "--steps", "20", "--look-episodes", "2",
             "--largest-gap", "100"]  # fmt: skip
    found = tune(tmp_path, *words)
    assert found["gap"]["prior"] > 0.1
    assert len(load_episodes(tmp_path / "episodes.npz")) == 4


def test_a_teacher_takes_over_where_the_robot_is_off(tmp_path):
    found = tune(tmp_path, "hil", "--policy", "wave", "--operator", "teacher", "--steps", "20",
                 "--off-m", "0.01", "--look-episodes", "2")  # fmt: skip
    assert max(found["intervention_rates"]) > 0.1


def test_an_operator_whose_actions_mean_something_else_is_refused(tmp_path, capsys):
    words = [
        "tune",
        "hil",
        "--policy",
        "squat",
        "--operator",
        "stand",
        "--out",
        str(tmp_path),
        *FEW,
    ]
    assert main(words) == 2
    assert "clip" in capsys.readouterr().err


def test_one_student_learns_two_clips(tmp_path):
    folder = tmp_path / "rldg"
    words = ["tune", "rldg", "--policies", "squat", "kick", "--rldg.successes", "4",
             "--rldg.rounds", "1", "--rldg.fit.steps", "300", "--hidden", "64", "64", "64",
             "--out", str(folder), "--json", str(tmp_path / "r.json"), *FEW]  # fmt: skip
    assert main(words) in (0, 1)  # a student of seconds may lose a clip, and says so
    result = json.loads((tmp_path / "r.json").read_text())
    squat, kick = (load_policy(folder / f"{name}.onnx") for name in ("squat", "kick"))
    seen = np.zeros((1, len(squat.contract.element_names)), np.float32)
    np.testing.assert_array_equal(squat.act(seen), kick.act(seen))  # one network
    assert squat.contract.clip.name == "squat"
    assert set(result["clips"]) == {"squat", "kick"}


def test_one_specialist_is_not_enough(tmp_path, capsys):
    words = ["tune", "rldg", "--policies", "squat", "--out", str(tmp_path), *FEW]
    assert main(words) == 2
    assert "at least two specialists" in capsys.readouterr().err
