"""The whole loop in one command: every stage, and nothing twice."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from asap import align as loop
from asap import cli_align
from asap import learned as learning
from asap.align import LogRefused, align
from asap.align_config import AlignConfig, Task, Watch
from asap.align_judge import gains
from asap.align_page import html_page, markdown_page
from asap.cli import main
from asap.cli_align import Shown, figure
from asap.correction import Correction
from asap.delta_doubt import Doubt, DoubtedLearned
from asap.delta_fit import DeltaConfig
from asap.evaluate import Case, EvaluateConfig, evaluate
from asap.finetune import FINETUNE, Arm
from asap.fit_methods import FitConfig
from asap.inputs import open_motion, open_policy
from asap.learned import LearnedContract
from asap.log_import import OpenedLog
from asap.parameter_search import IdentifyConfig
from asap.record import RecordConfig, record
from asap.robot import Robot
from asap.stages import BEGUN_FILE, Stages
from asap.train import POLICY
from asap.training_run import CHECKPOINT
from asap_deploy.errors import InputError
from asap_deploy.golden import load_policy
from asap_deploy.log import Log
from asap_deploy.npz import write_file

ROOT = Path(__file__).parents[1]
POLICIES = ROOT / "policies" / "g1"
CLIP = ROOT / "motions" / "g1" / "squat.npz"
TINY = dataclasses.replace(
    FINETUNE, steps=64, num_envs=16, episodes=2, save_every=1, evaluate_every=99,
    ppo=dataclasses.replace(FINETUNE.ppo, horizon=4, minibatches=2, critic_warmup=1),
)  # fmt: skip
SHORT = AlignConfig(
    collect=RecordConfig(episodes=3, start_noise=0.3),
    judge_episodes=8,
    fit=FitConfig(
        method="identify",
        identify=IdentifyConfig(groups=("delay", "frictionloss"), seconds=4.0, iterations=1),
    ),
    train=TINY,
)


@pytest.fixture(scope="module")
def robot() -> Robot:
    return Robot.load("g1")


@pytest.fixture(scope="module")
def tasks(robot: Robot) -> list[Task]:
    found = []
    for name in ("squat", "wave"):
        clip = open_motion(Path(name), robot, ground=True)
        file = POLICIES / f"{name}.onnx"
        found.append(Task(clip, open_policy(file, robot, clip, None).policy, file))
    return found


class Seen(Watch):
    """Notes which stages ran."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    def stage(self, name: str, reused: bool) -> None:
        self.ran += [] if reused else [name]


def test_a_stage_is_done_once_and_again_when_what_it_depends_on_or_what_it_wrote_changes(
    tmp_path: Path,
) -> None:
    made = []

    def make(folder: Path) -> dict[str, object]:
        made.append(len(made))
        (folder / "file.txt").write_text("something")
        return {"number": len(made), "nan": float("nan")}

    def run(key: str) -> dict[str, object]:
        return Stages(tmp_path).do("one/two", {"key": key, "path": Path("x")}, make)

    assert run("a") == {"number": 1, "nan": None} == run("a")
    assert run("b")["number"] == 2
    (tmp_path / "one" / "two" / "file.txt").write_text("touched")
    assert run("b")["number"] == 3
    (tmp_path / "one" / "two" / "stage.json").write_text('{"key": "half')
    assert run("b")["number"] == 4


def test_a_stage_that_was_killed_finds_what_it_left_unless_it_depends_on_something_else(
    tmp_path: Path,
) -> None:
    found = []

    def dies(folder: Path) -> dict[str, object]:
        found.append((folder / "half").exists())
        (folder / "half").write_text("")
        raise KeyboardInterrupt

    for key in ("a", "a", "b"):
        with pytest.raises(KeyboardInterrupt):
            Stages(tmp_path).do("one", {"key": key}, dies)
    assert found == [False, True, False]


@pytest.mark.slow
def test_the_loop_runs_from_policies_to_a_judgement_and_then_does_nothing_twice(
    robot: Robot, tasks: list[Task], tmp_path: Path
) -> None:
    truth, seen = Robot.load("g1@worn"), Seen()
    found = align(robot, tasks[:1], SHORT, tmp_path, truth=truth, watch=seen)
    assert seen.ran == ["round1/logs", "round1/checked", "round1/fit", "round1/replay",
                        "round1/finetune/squat/corrected", "judged/squat"]  # fmt: skip
    assert found["judged_on"] == "g1@worn" and found["rounds"][0]["fit"]["accepted"]
    figures = found["closed_loop"]["squat"]
    assert set(figures) == {"no adaptation", "corrected"}
    assert figures["no adaptation"]["global_mpjpe_mm"]["value"] > 0.0
    for file in (found["policies"]["squat"], found["recordings"]["squat"],
                 found["pictures"]["squat"]["after"], "align.json"):  # fmt: skip
        assert (tmp_path / file).is_file(), file
    load_policy(tmp_path / found["policies"]["squat"])  # golden vectors and all
    assert json.loads((tmp_path / "align.json").read_text())["gain"] == found["gain"]

    again = Seen()
    same = align(robot, tasks[:1], SHORT, tmp_path, truth=truth, watch=again)
    assert again.ran == [] and same["closed_loop"] == found["closed_loop"]
    # Judged by more episodes: nothing before the judgement changes.
    more, last = dataclasses.replace(SHORT, judge_episodes=9), Seen()
    align(robot, tasks[:1], more, tmp_path, truth=truth, watch=last)
    assert last.ran == ["judged/squat"]


def test_where_nothing_was_kept_the_start_itself_is_judged_and_figures_have_no_minus_zero(
    robot: Robot, tasks: list[Task], tmp_path: Path
) -> None:
    class Kept(loop._Run):
        def _train(self, name, arm, task, policy, config):
            write_file(self.folder / name / POLICY, (POLICIES / "wave.onnx").read_bytes())
            return {"changed": arm.name == "nominal"}

    config = dataclasses.replace(SHORT, controls=True, corrected=False)
    run = Kept(robot, tasks[:1], config, tmp_path, Robot.load("g1@worn"), (), Watch())
    start = tasks[0].policy
    assert start is not None
    trained, _ = run._finetune(1, tasks[0], start, start, None, None, controls=True)
    assert trained["oracle"] is start and trained["nominal"].sha256 != start.sha256
    assert figure({"value": -0.2, "low": -0.4, "high": 1.0}, 0) == "0 [0, 1]"


def test_rounds_go_on_from_the_new_policy_and_controls_get_the_budget_of_all(
    robot: Robot, tasks: list[Task], tmp_path: Path
) -> None:
    """Who is recorded and trained, from where and how long; nothing is simulated."""
    late = Correction(robot_name="g1", joint_names=robot.joint_names,
                      parameters={"delay_s": (0.01,) * len(robot.joint_names)})  # fmt: skip
    better = (POLICIES / "wave.onnx").read_bytes()
    recorded, trained = [], []

    class Rounds(loop._Run):
        def _learn(self, number, policies):
            recorded.append(policies["squat"].sha256)
            return {"number": number}, late

        def _train(self, name, arm, task, policy, config):
            trained.append((name, policy.sha256, config.steps))
            write_file(self.folder / name / POLICY, better)
            return {"changed": True}

        def _judge(self, judge, start, arms_of):
            return {"arms": {name: list(arms) for name, arms in arms_of.items()}}

    config = dataclasses.replace(SHORT, rounds=2, controls=True, arms=("nominal",))
    run = Rounds(robot, tasks[:1], config, tmp_path, Robot.load("g1@worn"), (), Watch())
    found = run.all()
    assert tasks[0].policy is not None
    old, new = tasks[0].policy.sha256, load_policy(POLICIES / "wave.onnx").sha256
    assert old != new and recorded == [old, new]
    assert trained == [
        ("round1/finetune/squat/corrected", old, 64),
        ("round2/finetune/squat/corrected", new, 64),
        ("round2/finetune/squat/nominal", old, 128),
    ]
    assert found["arms"] == {"squat": ["corrected", "nominal"]} and len(found["rounds"]) == 2


def test_without_the_corrected_arm_nothing_is_recorded_or_fitted(
    robot: Robot, tasks: list[Task], tmp_path: Path
) -> None:
    trained = []

    class Known(loop._Run):
        def _learn(self, number, policies):
            raise AssertionError("no log, no fit")

        def _train(self, name, arm, task, policy, config):
            trained.append((name, arm.robot.name))
            write_file(self.folder / name / POLICY, policy.data)
            return {"changed": False}

        def _judge(self, judge, start, arms_of):
            return {"judge": judge.name, "arms": list(arms_of["squat"])}

    def run(arms: tuple[str, ...]) -> dict[str, object]:
        config = dataclasses.replace(SHORT, controls=True, corrected=False, arms=arms)
        worn = Robot.load("g1@worn")
        return Known(robot, tasks[:1], config, tmp_path, worn, (), Watch()).all()

    found = run(("oracle",))
    assert trained == [("round1/finetune/squat/oracle", "g1@worn")]
    assert found["judge"] == "g1@worn" and found["arms"] == ["oracle"]
    assert found["rounds"] == [{"number": 1, "finetune": {"squat": {"oracle": {"changed": False}}}}]
    html_page(found, tmp_path)  # such a run has a page too
    assert run(())["arms"] == ["nominal", "randomized", "oracle"]


def test_doubt_reaches_the_training_and_its_key_but_not_arms_without_a_learned_offset(
    robot: Robot, tasks: list[Task], tmp_path: Path
) -> None:
    joints = len(robot.joint_names)
    contract = LearnedContract(robot_name="g1", joint_names=robot.joint_names, acts_on="target",
                               bound=(0.1,) * joints, trusted=1e6, lost=2e6)  # fmt: skip
    size = 3 * joints + 6
    offset = learning.linear(np.zeros((joints, size + 1)), contract, mean=np.zeros(size),
                             std=np.ones(size), sliding=np.zeros(joints),
                             sliding_speed=0.3)  # fmt: skip
    seen = []

    class Told(Watch):
        def train(self, trainer):
            seen.append(trainer.env.robot.learned)
            raise KeyboardInterrupt

    config = dataclasses.replace(SHORT, fit=FitConfig(), doubt=Doubt(without=0.5))
    run = loop._Run(robot, tasks[:1], config, tmp_path, Robot.load("g1@worn"), (), Told())
    assert tasks[0].policy is not None
    for arm in (Arm("corrected", robot.with_(learned=offset)), Arm("nominal", robot)):
        with pytest.raises(KeyboardInterrupt):
            run._train(f"one/{arm.name}", arm, tasks[0], tasks[0].policy, TINY)
    assert isinstance(seen[0], DoubtedLearned) and seen[1] is None


def test_a_fit_that_kept_nothing_says_which_motion_to_record(
    robot: Robot, tasks: list[Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def advised(model, identified, clips, *, threads):
        asked.extend(clip.name for clip in clips)
        return [("hop", 0.4), ("walk", 0.1)]

    monkeypatch.setattr(loop, "advise", advised)
    run = loop._Run(robot, tasks, SHORT, tmp_path, None, (), Watch())
    refused = SimpleNamespace(accepted=False, identified="what the log told")
    assert run._advice(refused)[0] == {"motion": "hop", "tells": 0.4}  # type: ignore[arg-type]
    assert {"squat", "walk", "hop"} <= set(asked)
    asked.clear()
    for one in (SimpleNamespace(accepted=True, identified="this"),
                SimpleNamespace(accepted=False, identified=None)):  # fmt: skip
        assert run._advice(one) == [] == asked  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_learned_offset_alone_is_fitted_to_the_same_logs_and_trained_in_if_it_helps(
    robot: Robot, tasks: list[Task], tmp_path: Path
) -> None:
    few = DeltaConfig(seconds=2.0, iterations=1, joints=("ankle_pitch",))
    quick = dataclasses.replace(SHORT.fit, delta=few)
    config = dataclasses.replace(SHORT, controls=True, arms=("delta",), fit=quick)
    found = align(robot, tasks[:1], config, tmp_path, truth=Robot.load("g1@worn"))
    delta = found["rounds"][0]["delta"]
    saved = Correction.load(tmp_path / "round1" / "delta" / "correction.json")
    assert delta["method"] == "delta" and not saved.parameters and delta["parameters"] == []
    assert saved.provenance["logs"] == {} and saved.empty != delta["accepted"]
    arms = ["no adaptation", "corrected", *(["delta"] if delta["accepted"] else [])]
    assert list(found["closed_loop"]["squat"]) == arms


def test_without_a_correction_nothing_is_trained_and_the_policy_stays(
    robot: Robot, tasks: list[Task], tmp_path: Path
) -> None:
    seen = Seen()
    found = align(robot, tasks[:1], SHORT, tmp_path, truth=robot, watch=seen)  # truth is the model
    assert not found["rounds"][0]["fit"]["accepted"]
    assert not any("finetune" in name for name in seen.ran)
    assert set(found["closed_loop"]["squat"]) == {"no adaptation"}
    kept = (tmp_path / found["policies"]["squat"]).read_bytes()
    assert kept == tasks[0].policy.data  # type: ignore[union-attr]


def test_logs_of_a_real_robot_take_the_place_of_a_twin_and_bad_ones_are_refused(
    robot: Robot, tasks: list[Task], tmp_path: Path
) -> None:
    task = tasks[1]
    assert task.policy is not None
    log = record(Case(task.policy, task.clip.motion, "wave"), robot, RecordConfig(episodes=1))
    copied = {**log.fields, "joint_pos_target": log.joint_pos}
    bad = Log(joint_names=log.joint_names, time_s=log.time_s, joint_pos=log.joint_pos,
              fields=copied, robot="g1")  # fmt: skip
    opened = OpenedLog(bad, "wave", tmp_path / "wave.npz", ())
    with pytest.raises(LogRefused, match="not fit to learn from"):
        align(robot, [task], SHORT, tmp_path / "bad", logs=[opened])
    with pytest.raises(InputError, match="twin that plays the robot, or logs"):
        align(robot, [task], SHORT, tmp_path / "none")
    two = dataclasses.replace(SHORT, rounds=2)
    with pytest.raises(InputError, match="another round needs logs"):
        align(robot, [task], two, tmp_path / "two", logs=[opened])


def test_gains_are_paired_and_falls_count(robot: Robot, tasks: list[Task]) -> None:
    task = tasks[0]
    assert task.policy is not None
    case = Case(task.policy, task.clip.motion, "squat")
    how = EvaluateConfig(episodes=16, start_noise="paper", seed=3)
    one = evaluate([case], robot, how)
    assert gains(one, one, 0)["cost_mm"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    fallen = dataclasses.replace(one.clips[0], survived_s=np.zeros(16))
    worse = dataclasses.replace(one, clips=[fallen], overall={})
    assert gains(one, worse, 0)["cost_mm"]["low"] > 0.0


def test_a_robot_without_logs_is_told_what_to_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["align", "--motion", "squat", "--policy", str(POLICIES / "squat.onnx"), "--out",
             str(tmp_path / "run")]  # fmt: skip
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "asap-deploy run" in said and "--logs FILE" in said
    load_policy(tmp_path / "run" / "start" / "squat.onnx")
    assert main([*words, "--policy", "a.onnx", "b.onnx"]) == 2
    capsys.readouterr()
    first = tmp_path / "run" / "pretrain-first" / "squat"
    assert main(["align", "--motion", "squat", "--robot", "g1:23dof", "--out", words[-1]]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"asap pretrain --robot g1:23dof --motion {CLIP} --out {first} # a policy" in said
    assert f"--policy {first / POLICY} --logs FILE" in said


def test_the_page_of_logs_without_a_base_says_so_instead_of_an_empty_table() -> None:
    error = {"1.0": {"joint_mae_deg": {"value": 1.0, "low": None, "high": None}}}
    fit = {"accepted": True, "baseline": {"nominal": error}, "heldout": error}
    page = markdown_page({"rounds": [{"number": 1, "fit": fit}]})
    assert "**Joint error [deg]**" in page and "**Position error" not in page
    assert "Position error [mm]: not measured: the logs do not say where the base was." in page


def test_a_wish_to_stop_that_comes_when_a_training_is_all_but_done_stops_before_the_next_stage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def late(trainer, *, watch, stopped):
        os.kill(os.getpid(), signal.SIGTERM)  # while the last comparison runs
        return "made"

    monkeypatch.setattr(cli_align, "finetune", late)
    shown = Shown(quiet=True)
    shown.stage("train", reused=False)
    trainer = SimpleNamespace(run_dir=Path("run"), config=TINY, judging_steps=1,
                              final_judgings=1, ppo=SimpleNamespace(num_timesteps=0))  # fmt: skip
    assert shown.train(trainer) == "made"  # type: ignore[arg-type,comparison-overlap]
    with pytest.raises(KeyboardInterrupt):
        shown.stage("judged", reused=False)


def test_a_page_is_made_of_a_run_again_and_of_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "align.json").write_text('{"command": "align", "robot": "g1", "motions": {}}')
    assert main(["report", "--run", str(tmp_path)]) == 0
    assert main(["report", "--run", str(tmp_path), "--format", "markdown"]) == 0
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")
    assert (tmp_path / "report.md").read_text().startswith("# ")
    for content in ("nothing", "[]", '{"command": "fit"}'):
        (tmp_path / "align.json").write_text(content)
        assert main(["report", "--run", str(tmp_path)]) == 2
    assert main(["report", "--run", str(tmp_path / "none")]) == 2
    assert main(["report"]) == 2
    assert capsys.readouterr().err.count("\n") == 5


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_figures(tmp_path: Path) -> None:
    def words(name: str) -> list[str]:
        return [
            "align", "--motion", "squat", "--policy", str(POLICIES / "squat.onnx"), "--truth",
            "g1@worn", "--out", str(tmp_path / name), "--quiet", "--episodes", "8",
            "--collect.episodes", "6", "--fit.identify.seconds", "4", "--train.num-envs", "16",
            "--fit.identify.groups", "delay", "frictionloss", "--fit.method", "identify",
            "--train.steps", "2048", "--train.ppo.horizon", "4", "--train.ppo.minibatches", "2",
            "--train.ppo.critic-warmup", "4", "--train.save-every", "4", "--train.episodes", "2",
        ]  # fmt: skip

    def start(name: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-m", "asap.cli", *words(name)], cwd=ROOT)

    assert start("whole").wait() == 0
    rng = np.random.default_rng()
    # Somewhere in the fit, in the training and in the judgement, however busy the machine is.
    training = f"round1/finetune/squat/corrected/{CHECKPOINT}"
    for sign in (f"round1/fit/{BEGUN_FILE}", training, f"judged/squat/{BEGUN_FILE}"):
        process = start("killed")
        while process.poll() is None and not (tmp_path / "killed" / sign).exists():
            time.sleep(0.02)
        time.sleep(pause_s := rng.uniform(0.0, 2.0))
        print(f"killed {pause_s:.2f} s after {sign}")
        process.kill()
        assert process.wait() == -signal.SIGKILL, sign
    assert start("killed").wait() == 0
    whole, killed = (json.loads((tmp_path / n / "align.json").read_text())
                     for n in ("whole", "killed"))  # fmt: skip
    for key in ("closed_loop", "gain", "home", "quiet"):
        assert whole[key] == killed[key], key
    assert any(stage["reused"] for stage in killed["stages"])
    # Where no policy is better than the start, the figures above say nothing about the training.
    curves = [
        [{key: value for key, value in json.loads(line).items() if not key.endswith("_s")}
         for line in (tmp_path / n / training).with_name("metrics.jsonl").read_text().splitlines()]
        for n in ("whole", "killed")
    ]  # fmt: skip
    assert len(curves[0]) > 30 and curves[0] == curves[1]


def test_a_control_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InputError, match="no control is called 'nothing'; there are nominal"):
        AlignConfig(arms=("nothing",))


def test_what_cannot_be_trained_or_doubted_is_refused(robot: Robot, tasks: list[Task]) -> None:
    with pytest.raises(InputError, match="no fit that noise, delta could depend on; there are nom"):
        AlignConfig(corrected=False, controls=True, arms=("noise", "oracle", "delta"))
    with pytest.raises(InputError, match="without controls nothing would be trained"):
        AlignConfig(corrected=False)
    with pytest.raises(InputError, match="judged on a twin: give one"):
        opened = OpenedLog(None, "wave", Path("wave.npz"), ())  # type: ignore[arg-type]
        bare = AlignConfig(corrected=False, controls=True)
        align(robot, tasks, bare, Path("none"), logs=[opened])
    identify, half = FitConfig(method="identify"), Doubt(without=0.5)
    with pytest.raises(InputError, match="method 'identify' learns none"):
        AlignConfig(fit=identify, doubt=half)
    AlignConfig(fit=identify, doubt=half, controls=True, arms=("delta",))
    AlignConfig(fit=identify, doubt=Doubt())
