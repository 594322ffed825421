"""The command line: what it prints, writes and returns."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from asap.cli import COMMANDS, main
from asap.cli_policy import Evaluate
from asap.shipped import SHIPPED as PROJECT

POLICY = str(PROJECT / "policies" / "g1" / "wave.onnx")


def _errors(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run what must be refused; return its one line."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("asap: ")
    assert captured.out == ""
    return captured.err


def test_without_a_command_all_commands_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for name in COMMANDS:
        assert f"asap {name} " in printed


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_the_common_options(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*name.split(), "--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    for option in ("--seed", "--json", "--quiet"):
        assert option in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evalute"], "there is no command 'evalute' (did you mean 'evaluate'?)"),
        (["robots"], "'asap robots' needs one of: list, check, view"),
        (["robots", "chek"], "'asap robots' has no 'chek' (did you mean 'check'?)"),
        (
            ["evaluate", "--polcy", "x"],
            "'asap evaluate' has no option --polcy (did you mean '--policy'?)",
        ),
        (["evaluate", "--policy", "x.onnx", "--episodes", "many"], "--episodes"),
        (["evaluate", "--policy", "none.onnx"], "policy cannot be read: No such file"),
        (["evaluate", "--policy", POLICY, "--episodes", "0"], "--episodes must be 1 to 100000"),
        (["evaluate", "--policy", POLICY, "--robot", "h1"], "robot 'h1' is neither a robot"),
        (["evaluate", "--policy", POLICY, "--motion", "wve"], "(did you mean 'wave'?)"),
        (["motions", "check", "/no/such.csv"], "'/no/such.csv' is neither a file nor a clip"),
        (["export", "--from-onnx", POLICY], "already carries a contract"),
        (["robots", "view"], "nothing to write"),
        (["view"], "nothing to show"),
    ],
)
def test_bad_input_is_one_line_that_says_what_to_do(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in _errors(arguments, capsys)


def test_evaluate_writes_the_promised_keys(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "deep" / "result.json"
    assert main(["evaluate", "--policy", POLICY, "--episodes", "2", "--json", str(target)]) == 0
    assert "wave" in capsys.readouterr().out
    result = json.loads(target.read_text())
    assert result["command"] == "evaluate"
    assert result["seed"] == 0
    assert set(result) >= {"versions", "inputs", "wall_s", "overall", "clips", "episodes"}
    assert len(result["inputs"][POLICY]) == 64
    for group in (result["overall"], result["clips"][0]):
        for key in ("success_rate", "global_mpjpe_mm", "mpjpe_mm", "vel_error_mm_per_frame",
                    "acc_error_mm_per_frame2"):  # fmt: skip
            assert set(group[key]) == {"value", "low", "high"}
    assert result["overall"]["success_rate"]["value"] == 1.0


def test_pictures_and_recordings_are_written_where_asked(tmp_path: Path) -> None:
    png, rrd = tmp_path / "sheet.png", tmp_path / "episode.rrd"
    arguments = ["evaluate", "--policy", POLICY, "--episodes", "1", "--quiet"]
    assert main([*arguments, "--png", str(png), "--view", str(rrd)]) == 0
    assert png.read_bytes().startswith(b"\x89PNG")
    assert rrd.stat().st_size > 100_000
    assert main(["view", "--motion", "wave", "--view", str(rrd), "--quiet"]) == 0
    for robot in ("g1", "g1:asap"):
        png.unlink()
        assert main(["robots", "view", robot, "--png", str(png), "--quiet"]) == 0
        assert png.read_bytes().startswith(b"\x89PNG")


def test_quiet_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["robots", "list", "--quiet"]) == 0
    assert capsys.readouterr().out == ""


def test_robots_are_listed_with_the_promised_keys(tmp_path: Path) -> None:
    target = tmp_path / "robots.json"
    assert main(["robots", "check", "--json", str(target), "--quiet"]) == 0
    robots = json.loads(target.read_text())["robots"]
    assert set(robots) >= {"g1", "g1:23dof", "g1:asap"}
    assert set(robots["g1"]) >= {"joints", "mass_kg", "twins", "problems"}
    assert robots["g1"]["joints"] == 29
    assert robots["g1"]["mass_kg"] == pytest.approx(33.34, abs=0.01)
    assert robots["g1:asap"]["mass_kg"] == pytest.approx(35.11, abs=0.01)


def test_an_odd_robot_is_status_1(tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    (folder / "robot.toml").write_text(
        'mjcf = "robot.xml"\n[joints]\n"*" = { stiffness = 20.0, damping = 1.0 }\n'
    )
    (folder / "robot.xml").write_text(
        "<mujoco><worldbody><body name='base'><freejoint/><geom size='.1'/><body name='arm'>"
        "<joint name='hinge' axis='0 1 0'/><geom size='.05' pos='0 0 .2'/></body></body>"
        "</worldbody><actuator><motor joint='hinge'/></actuator></mujoco>"
    )
    assert main(["robots", "check", str(folder), "--quiet"]) == 1


def test_converting_writes_a_file_that_passes_its_own_check(tmp_path: Path) -> None:
    wave = str(PROJECT / "motions" / "g1" / "wave.npz")
    target = tmp_path / "motions.json"
    arguments = ["motions", "convert", wave, "--robot", "g1:asap", "--out", str(tmp_path)]
    assert main([*arguments, "--json", str(target), "--quiet"]) == 0
    report = json.loads(target.read_text())["motions"]["wave"]
    assert set(report) >= {"frames", "fps", "joints", "grounded", "sole_clearance_m",
                           "max_joint_speed", "problems"}  # fmt: skip
    made = str(tmp_path / "wave.npz")
    assert main(["motions", "check", made, "--robot", "g1:asap", "--quiet"]) == 0


def test_ctrl_c_ends_with_status_130_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(self: Evaluate, progress: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Evaluate, "run", interrupt)
    assert main(["evaluate", "--policy", POLICY]) == 130
    assert capsys.readouterr().err == "asap: interrupted\n"


def test_the_program_runs_as_a_process() -> None:
    words = [sys.executable, "-m", "asap.cli", "robots", "lst"]
    result = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 2
    assert "did you mean 'list'?" in result.stderr
    assert "Traceback" not in result.stderr


def test_what_is_taken_bare_may_also_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["robots", "check", "--robot", "g1"], ["motions", "check", "--motion", "bow"],
                  ["motions", "check", "bow", "--robot", "g1"]):  # fmt: skip
        assert main(words) == 0, words
    assert capsys.readouterr().err == ""
