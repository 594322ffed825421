"""``asap-deploy`` as a person calls it, on a simulated robot in another process."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from twin_process import ROOT, SQUAT, TwinProcess

from asap.log_import import open_log
from asap_deploy.cli import main
from asap_deploy.recording import open_recording

SCRIPT = "arm@0.2 stand@damp go@ready quit@hold quit@damp"
QUICK = ["--self-test-s", "0.1"]


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    with TwinProcess(tmp_path_factory.mktemp("twin")) as running:
        yield running


@pytest.fixture(autouse=True)
def sound(twin):
    twin.control(faults=["clear"], hanging=True, forget=True)


def deploy(*words: object, timeout: float = 60.0) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "asap_deploy.cli", *map(str, words)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL
    )


def on(twin: TwinProcess) -> list[str]:
    return ["--link", "twin", "--address", twin.address]


def test_the_robots_program_imports_neither_torch_nor_mujoco_nor_the_training_side():
    code = (
        "import sys, asap_deploy.cli, asap_deploy.link_twin\n"
        "found = {m.split('.')[0] for m in sys.modules}\n"
        "bad = found & {'torch', 'mujoco', 'asap', 'scipy', 'rich', 'tyro', 'mcap', 'pickle5'}\n"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_supervisor_and_recorder_need_no_network():
    code = (
        "import sys, asap_deploy.supervisor, asap_deploy.recorder\n"
        "assert 'onnxruntime' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


ERRORS = [
    (["run", SQUAT, "--link", "twin"], "there is no terminal, so nobody could stop the robot"),
    (["run", SQUAT, "--link", "unitree", "--script", "arm@1"], "a real one needs a person"),
    (["check", SQUAT, "--link", "unitree", "--address", "lo:x"], "'lo:x' is no address"),
    (["check", SQUAT, "--link", "twin", "--address", "nowhere"], "'nowhere' is no address"),
    (["check", "none.onnx", "--link", "twin"], "policy cannot be read: No such file"),
    (["run", SQUAT, "--link", "twin", "--script", "x@1"], "'x@1' is no ORDER@TIME"),
    (["check", SQUAT, "--link", "twin", "--hold", "--between", SQUAT], "exclude each other"),
    (["run", SQUAT, "--link", "twin", "--gains", "0"], "--gains must be above 0 and at most 1"),
    (["recover", "none.mcap.part"], "cannot be read: No such file"),
]


@pytest.mark.parametrize(("words", "text"), ERRORS)
def test_bad_input_is_one_line_and_status_two(words, text, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert main([str(word) for word in words]) == 2
    err = capsys.readouterr().err
    assert text in err and err.count("\n") == 1 and err.startswith("asap-deploy: ")


def test_options_that_do_not_exist_are_one_line_and_status_two(capsys):
    for words in (["fly"], ["run"], ["check", "x.onnx", "--link", "radio"]):
        with pytest.raises(SystemExit) as stopped:
            main(words)
        assert stopped.value.code == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert main([]) == 0


def test_a_check_of_a_sound_robot_passes_and_writes_nothing_to_it(twin, tmp_path):
    file = tmp_path / "check.json"
    result = deploy("check", SQUAT, *on(twin), *QUICK, "--json", file)
    assert result.returncode == 0, result.stdout + result.stderr
    checks = {c["name"]: c["verdict"] for c in json.loads(file.read_text())["checks"]}
    assert {"golden vectors", "state rate", "one publisher", "accelerometer", "timing: wake",
            "motor_fault", "tilt", "remote", "charge"} <= set(checks)  # fmt: skip
    assert "FAIL" not in checks.values()
    assert "all checks passed" in result.stdout
    assert "accepted" not in twin.report()["counts"]


@pytest.mark.parametrize(
    ("fault", "name"),
    [
        ("motor_fault", "motor_fault"),
        ("second_commander", "publishers"),
        ("bitflip=0.2", "checksums"),
        pytest.param("wrong_machine", "mode_machine", marks=pytest.mark.slow),
        pytest.param("low_battery=15", "charge", marks=pytest.mark.slow),
        pytest.param("lost_remote", "remote", marks=pytest.mark.slow),
    ],
)
def test_a_run_is_refused_where_a_check_fails_and_nothing_is_written(twin, fault, name, tmp_path):
    twin.control(faults=[fault])
    time.sleep(0.3)
    file = tmp_path / "run.json"
    words = ["run", SQUAT, *on(twin), *QUICK, "--script", "arm@0", "--json", file, "--seconds", "1"]
    assert main([str(word) for word in words]) == 1
    checks = {c["name"]: c["verdict"] for c in json.loads(file.read_text())["checks"]}
    assert checks[name] == "FAIL"
    assert "accepted" not in twin.report()["counts"]


def test_a_run_records_what_it_did_and_the_recording_becomes_a_log(twin, tmp_path):
    out, file = tmp_path / "run.mcap", tmp_path / "run.json"
    result = deploy("run", SQUAT, *on(twin), *QUICK, "--out", out, "--json", file, "--script",
                    "arm@0.1 stand@0.3 go@ready quit@3.5 quit@4")  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    for line in ("armed: damping", "standing up in", "'squat'", "inference:", "wake:"):
        assert line in result.stdout
    facts = json.loads(file.read_text())
    assert facts["status"] == 0 and facts["recording"]["missed"] == 0
    tables = open_recording(out)
    assert tables.finished and tables.facts["policies"][0]["name"] == "squat"
    rate = len(tables.states) / (tables.states["arrival_s"][-1] - tables.states["arrival_s"][0])
    assert 400 < rate < 600
    modes = [e["mode"] for e in tables.events if e["event"] == "mode"]
    assert modes[:4] == ["damp", "stand", "ready", "track"]
    counts = twin.report()["counts"]
    assert set(counts) <= {"accepted", "timeouts"}
    # A chunk is what the robot heard; the last frames may have crossed the end.
    assert abs(len(tables.commands) - counts["accepted"]) <= 5
    log = open_log(out).log
    assert 0.5 < log.duration_s < 2.0 and log.rate_hz == pytest.approx(500.0, rel=0.01)
    cut = tmp_path / "cut.mcap.part"
    cut.write_bytes(out.read_bytes()[:-20_000])
    assert main(["recover", str(cut)]) == 0
    assert len(open_recording(tmp_path / "cut.mcap").states) > 0.9 * len(tables.states)


@pytest.mark.parametrize(("more", "line"), [
    ([], "ok    after a clip       'stand' stands"),
    (["--hold"], "WARN  after a clip       nobody stands: after 10 s the robot is damped"),
    (["--between", SQUAT], "ok    after a clip       'squat' stands"),
])  # fmt: skip
def test_who_stands_after_a_clip_is_said_before_anybody_arms(twin, more, line, capsys):
    assert main([str(word) for word in ["check", SQUAT, *on(twin), *QUICK, *more]]) == 0
    assert line in capsys.readouterr().out


def test_an_interrupt_damps_and_ends_with_130(twin):
    command = [sys.executable, "-m", "asap_deploy.cli", "run", str(SQUAT), *on(twin), *QUICK,
               "--script", "arm@0.1 stand@0.2"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if "standing" in line:
            break
    start_s = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert twin.damped_after(start_s) < 0.1
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20.0)
    assert process.returncode == 130


def test_listening_records_and_the_robot_hears_nothing(twin, tmp_path):
    out = tmp_path / "idle.mcap"
    result = deploy("record", *on(twin), "--out", out, "--seconds", "0.6")
    assert result.returncode == 0, result.stderr
    tables = open_recording(out)
    assert tables.finished and len(tables.states) > 200 and len(tables.commands) == 0
    assert "accepted" not in twin.report()["counts"]
    log = open_log(out).log
    assert "joint_pos_target" not in log.fields and log.robot == "g1"


def test_the_ladder_asks_before_every_rung_and_a_no_ends_it(twin, tmp_path):
    file = tmp_path / "ladder.json"
    result = deploy("check", SQUAT, *on(twin), *QUICK, "--ladder", "--answers", "y,n", "--json",
                    file)  # fmt: skip
    assert result.returncode == 1
    rungs = json.loads(file.read_text())["ladder"]
    assert [(r["name"], r["answer"], r["passed"]) for r in rungs] == [
        ("read only", "y", True), ("damping", "n", False)
    ]  # fmt: skip
    assert "accepted" not in twin.report()["counts"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_no_after_damping_is_kept_and_the_robot_was_only_damped(twin, tmp_path):
    file, before = tmp_path / "ladder.json", twin.report()
    result = deploy("check", SQUAT, *on(twin), *QUICK, "--ladder", "--answers", "y,y,n", "--json",
                    file)  # fmt: skip
    assert result.returncode == 1
    rungs = json.loads(file.read_text())["ladder"]
    assert [(r["name"], r["answer"], r["passed"]) for r in rungs] == [
        ("read only", "y", True), ("damping", "y", True), ("20 % gains", "n", False)
    ]  # fmt: skip
    heard = twin.report()
    assert set(heard["counts"]) <= {"accepted", "timeouts"} and heard["counts"]["accepted"] > 1000
    assert heard["last_stiff_s"] == before["last_stiff_s"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_whole_ladder_is_climbed_on_a_sound_robot(twin, tmp_path):
    file = tmp_path / "ladder.json"
    result = deploy("check", SQUAT, *on(twin), *QUICK, "--ladder", "--answers", "y,y,y,y",
                    "--json", file, timeout=120.0)  # fmt: skip
    assert result.returncode == 0, result.stdout
    assert all(rung["passed"] for rung in json.loads(file.read_text())["ladder"])
    assert set(twin.report()["counts"]) <= {"accepted", "timeouts"}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("link", "server", "address"), [
    ("twin", "twin", "127.0.0.1:47431"), ("unitree", "dds", f"lo:{100 + os.getpid() % 100}"),
])  # fmt: skip
def test_squat_tracks_over_the_link_as_it_does_in_the_evaluation(tmp_path, link, server, address):
    """Loop, supervisor, link and strict robot in real time, against the plain simulation."""
    if link == "unitree":
        pytest.importorskip("cyclonedds")
    from asap.evaluate import EvaluateConfig, evaluate
    from asap.inputs import case_of, open_policy
    from asap.metrics import ErrorMeter, TrackedPoints
    from asap.replay import ReplayConfig, replay
    from asap.robot import Robot
    from asap.tracking import Reference
    from asap_deploy.npz import load_npz

    truth, out, mark = (tmp_path / name for name in ("truth.npz", "run.mcap", "address"))
    words = [sys.executable, "-m", "asap.cli", "twin", "--motion", "squat", "--link", server,
             "--address", address, "--truth", str(truth), "--json", str(mark)]  # fmt: skip
    process = subprocess.Popen(words, cwd=ROOT)
    with contextlib.suppress(OSError):  # a real robot is not late because a desk is busy
        os.sched_setscheduler(process.pid, os.SCHED_FIFO, os.sched_param(30))
    try:
        time.sleep(8.0)
        result = deploy("run", SQUAT, "--link", link, "--address", address, *QUICK,
                        "--out", out, "--script", f"{SCRIPT} quit@fault")  # fmt: skip
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(20.0)
    assert result.returncode == 0, result.stdout + result.stderr
    heard = json.loads(mark.read_text())["counts"]
    assert heard["accepted"] > 1000 and set(heard) <= {"accepted", "timeouts", "released"}
    robot = Robot.load("g1")
    case = case_of(open_policy(SQUAT, robot, None, None))
    actions, rows = open_recording(out).actions, load_npz(truth)
    first = actions["state_tick"][actions["mode"] == 4][0]
    row = int(np.searchsorted(rows["tick"], first))
    points, meter = TrackedPoints(robot), ErrorMeter(1)
    reference = Reference(case.motion, robot, points)
    for step in range(1, round(case.motion.duration_s / robot.control_dt) + 1):
        qpos = rows["qpos"][row + 10 * step][None]
        bodies = robot.forward_kinematics(qpos[:, :3], qpos[:, 3:7], qpos[:, robot.qpos_ids])
        frame = reference.frame(step * robot.control_dt)
        meter.add(points.positions(*bodies), reference.positions(frame), qpos[:, :3],
                  frame.body_pos_w[0], np.ones(1, dtype=bool))  # fmt: skip
    plain = evaluate([case], robot, EvaluateConfig(episodes=1, threads=1)).overall
    for name, total in meter.sums.items():
        live = float(total[0] / meter.counts[name][0])
        print(f"{name}: live {live:.3f}, evaluate {plain[name].value:.3f}")
        assert abs(live / plain[name].value - 1.0) < 0.1
    found = replay([open_log(out, robot=robot).log], {"nominal": robot}, ReplayConfig(threads=1))
    error = found.arms["nominal"].horizons["0.25"]["joint_mae_deg"].value
    print(f"replay of the recording: {error:.3f} deg at 0.25 s")
    assert error < 0.15
