"""Swapped and flipped joints: found by what follows, undone where it is certain, else said."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from asap.bench_logs import Sound, plant, recorded
from asap.log_check_order import joint_order
from asap.log_check_step import Again, one_step_ahead
from asap.log_check_swaps import CHANNELS, Change, first_order, not_told_apart
from asap.log_check_view import View
from asap.planted import channel, has
from asap.robot import Robot
from asap_deploy.log import Log

SQUAT = Sound("g1", "genesis", "squat", 3)
WAVE = Sound("g1", "", "wave", 3)


@pytest.fixture(scope="module")
def robot() -> Robot:
    return Robot.load("g1")


@pytest.fixture(scope="module")
def squat(robot: Robot) -> View:
    return View(log=recorded(SQUAT), robot=robot)


def changed(log: Log, names: tuple[str, ...], channels: tuple[str, ...]) -> Log:
    return Change(*sorted(log.joint_names.index(name) for name in names)).made(log, channels)


def test_a_change_made_twice_is_none(squat: View) -> None:
    for change in (Change(4), Change(4, 9)):
        for channels in CHANNELS:
            once = change.made(squat.log, channels)
            again = change.made(once, channels)
            for name in filter(partial(has, squat.log), channels):
                assert not np.array_equal(channel(once, name), channel(squat.log, name))
                np.testing.assert_array_equal(channel(again, name), channel(squat.log, name))


def test_the_same_rows_looked_at_again_are_missed_by_the_same(squat: View) -> None:
    ahead = one_step_ahead(squat)
    assert ahead is not None
    again = Again(squat, ahead).error(squat.log)
    np.testing.assert_allclose(again, ahead.error(ahead.target), atol=1e-9)


@pytest.mark.parametrize("channels", CHANNELS[:2])
@pytest.mark.parametrize(
    "names",
    [
        ("right_shoulder_pitch_joint", "right_hip_pitch_joint"),
        ("left_hip_yaw_joint", "right_ankle_pitch_joint"),
        ("left_knee_joint",),
    ],
)
def test_joints_far_from_the_model_are_told_by_name_and_put_back(
    squat: View, robot: Robot, names: tuple[str, ...], channels: tuple[str, ...]
) -> None:
    # Rotors of this robot are ten times what the model says: every step is missed by something.
    log = changed(squat.log, names, channels)
    findings, repaired = joint_order(View(log=log, robot=robot))
    assert [(f.verdict, set(f.joints)) for f in findings if f.verdict != "PASS"] == [
        ("REPAIRED", set(names))
    ]
    assert repaired is not None
    for name in filter(partial(has, log), (*CHANNELS[0], *CHANNELS[1])):
        np.testing.assert_array_equal(channel(repaired, name), channel(squat.log, name))


def test_joints_of_which_a_log_does_not_tell_are_said_and_nothing_is_repaired(robot: Robot) -> None:
    log = recorded(WAVE)  # of the right arm; the other rests
    names = ("left_wrist_roll_joint", "left_wrist_yaw_joint")
    for given in (log, changed(log, names, CHANNELS[0])):
        (finding,), repaired = joint_order(View(log=given, robot=robot))
        assert finding.verdict == "PASS" and repaired is None
        assert names in finding.untested
        assert not any("right_elbow_joint" in pair for pair in finding.untested)
        assert "not testable here" in finding.text and "record a motion" in finding.text
        assert list(names) in finding.as_dict()["untested"]


def test_two_joints_are_told_apart_to_first_order_as_by_simulation(squat: View) -> None:
    ahead = one_step_ahead(squat)
    assert ahead is not None
    swap, flip = first_order(ahead)
    assert (swap == swap.T).all() and np.allclose(np.diag(swap), 0.0)
    assert max(swap.max(), flip.max()) < 0.35  # a sound log: no change is worth it
    pairs, turns = not_told_apart(ahead)
    assert len(pairs) < 20 and len(turns) < 5


def test_the_same_wrong_order_is_planted_and_found_in_a_walk(robot: Robot) -> None:
    _, planted = plant("swapped_joints", [Sound("g1", "strange", "walk", 3)], 0, 0)
    findings, _ = joint_order(View(log=planted.log, robot=robot))
    assert any(set(f.joints) == set(planted.joints) for f in findings)
