"""The sweep over planted defects: instances repeat, are counted rightly, and the bars hold."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from asap.bench_logs import (
    CLASSES,
    ClassResult,
    LogSweep,
    Sound,
    SweepConfig,
    plant,
    recorded,
    robot_of,
    sound_logs,
    sweep,
)
from asap.cli_bench_logs import BenchLogs
from asap.log_check_view import View
from asap.log_gains import gain_changes
from asap.planted import PLANTS
from asap.planted_standing import standing
from asap.robot import Robot
from asap.shipped import POLICIES_FOLDER
from asap_deploy.errors import InputError

GOOD = ClassResult(
    tried=20, found=20, named=19, untestable=0, beside=0, missed=("worn walk: nothing",)
)
SOUND = Sound("g1", "", "wave", 3)


def test_the_same_instance_is_planted_whatever_else_is_asked_for() -> None:
    first, again = (plant("swapped_joints", [SOUND], 4, 0)[1] for _ in range(2))
    other = plant("swapped_joints", [SOUND], 5, 0)[1]
    np.testing.assert_array_equal(first.log.joint_pos, again.log.joint_pos)
    assert first.joints == again.joints != other.joints
    assert len(first.joints) == 2


@pytest.mark.parametrize("name", sorted(PLANTS))
def test_a_plant_changes_the_log_and_leaves_the_sound_one_alone(name: str) -> None:
    log = recorded(SOUND)
    before = {key: array.copy() for key, array in log.fields.items()}
    planted = PLANTS[name](log, np.random.default_rng(2))
    assert planted.finding == name
    after = planted.log
    same = set(after.fields) == set(before) and after.time_s.shape == log.time_s.shape
    assert not same or not all(
        np.array_equal(after.fields[key], before[key]) for key in before
    ) or not np.array_equal(after.time_s, log.time_s) or not np.array_equal(
        after.joint_pos, log.joint_pos
    )  # fmt: skip
    assert all(np.array_equal(log.fields[key], before[key]) for key in before)


def test_every_robot_and_motion_gives_sound_logs() -> None:
    sources = list(sound_logs(SweepConfig(twins=("worn", "strange"), logs=2)))
    clips = {path.stem for path in (POLICIES_FOLDER / "g1").glob("*.onnx")} - {"stand"}
    assert {source.motion for source in sources} == clips
    assert len(sources) == 3 * len(clips) * 2 and len(set(sources)) == len(sources)
    assert {source.twin for source in sources} == {"", "worn", "strange"}


def test_bars_are_ninety_five_and_two_of_a_hundred() -> None:
    found = LogSweep(classes={"rate": GOOD}, sound_logs=100,
                     alarms=(("worn walk", "stuck", "x"),) * 2)  # fmt: skip
    assert found.shortcomings == [] and found.alarms_by_check == {"stuck": 2}
    worse = replace(found, classes={"rate": replace(GOOD, named=18)}, sound_logs=99)
    assert worse.shortcomings == ["rate: 18 of 20 named", "2 alarms in 99 sound logs"]
    # Eighteen of the nineteen that the log tells of are less than 95 of a hundred, of eighteen not.
    silent = [replace(GOOD, named=18, untestable=count) for count in (1, 2)]
    short = [LogSweep(classes={"rate": one}, sound_logs=0, alarms=()).shortcomings
             for one in silent]  # fmt: skip
    assert short == [["rate: 18 of 19 named"], []]


def test_a_sweep_counts_and_the_command_shows_it(tmp_path: Path) -> None:
    command = BenchLogs(classes=("rate",), instances=1, twins=("isaac",), logs=1)
    told: list[float] = []
    outcome = command.run(told.append)
    assert outcome.status == 0 and told == [1.0]
    result = json.loads(json.dumps(outcome.result))
    assert result["classes"]["rate"] == {
        "tried": 1, "found": 1, "named": 1, "untestable": 0, "beside": 0, "missed": []
    }  # fmt: skip
    assert result["sound_logs"] == 0  # nobody asked for alarms
    assert "kept: 95% of what is testable named" in str(outcome.shown[-1])


@pytest.mark.parametrize("twin", ["", "worn"])
def test_a_robot_that_stands_sinks_when_its_motors_weaken_and_no_target_or_gain_tells(
    twin: str,
) -> None:
    told, source = Robot.load("g1"), SOUND._replace(twin=twin)
    planted = plant("weaker_standing", [source], 0, 5)[1]
    log, half = planted.log, len(planted.log.time_s) // 2
    assert planted.finding == "gain_change" and not planted.joints
    assert not np.ptp(log.fields["joint_pos_target"], axis=0).any()
    np.testing.assert_array_equal(log.fields["stiffness"], 3.0 * told.stiffness)
    # It stood, and stands: what sinks is the knees, under a weight of half the robot each.
    sag = np.abs(log.fields["joint_pos_target"] - log.joint_pos)
    knee = told.joint_names.index("left_knee_joint")
    before, after = sag[half - 25 : half, knee].mean(), sag[-25:, knee].mean()
    assert 1.2 < after / before < 3.0 and np.abs(log.fields["joint_vel"][-25:]).mean() < 0.05
    (found,) = gain_changes(View(log=log, robot=told)).findings
    assert found.verdict == "WARNING" and found.value < 0.8
    # The control: the same without the fall.
    robot = robot_of(source)
    sound = standing(robot, told, 1.0, np.random.default_rng(0))
    (found,) = gain_changes(View(log=sound, robot=told)).findings
    assert found.verdict == "PASS" and "no target changes" in found.text


def test_an_unknown_class_is_refused_with_a_suggestion() -> None:
    with pytest.raises(InputError, match=r"no defect 'swaped_joints' \(did you mean 'swapped_"):
        SweepConfig(classes=("swaped_joints",))
    assert {"slow_joint", "weaker_motors", "weaker_standing", "rate"} <= set(CLASSES)
    with pytest.raises(InputError, match="twin 'nobody'"):
        sweep(SweepConfig(twins=("nobody",), classes=("rate",), instances=1))
