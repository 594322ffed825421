"""After a clip: its own policy cannot stand for long, the one made for standing can."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from soak import soak

from asap.balance import stand_policy
from asap.evaluate import with_gains
from asap.inputs import open_policy
from asap.metrics import TrackedPoints
from asap.robot import Robot
from asap.shipped import POLICIES_FOLDER
from asap.tracking import Reference, start_states
from asap.twin import Sensors, make_simulation
from asap_deploy import rotation
from asap_deploy.golden import load_policy
from asap_deploy.policy import Policy
from asap_deploy.runtime import Runtime
from asap_deploy.states import HOLD_S

POLICIES = POLICIES_FOLDER / "g1"
STAND = POLICIES / "stand.onnx"
NOISE = {"joint_pos_noise": 5e-4, "joint_vel_noise": 0.02, "ang_vel_noise": 0.02,
         "tilt_noise": 0.003}  # fmt: skip
"""That of ``g1@worn``, for robots whose file says nothing about sensors."""


def fallen_after(
    clip: str, robot_name: str, seconds: float, *, stand: bool = True, robots: int = 8,
    push_speed: float = 0.0, push_every_s: float = 20.0, seed: int = 0,
) -> np.ndarray:  # fmt: skip
    """Times after the end of the clip at which robots fell (N,) [s]; inf for those that stand.

    Args:
        clip: Name of a shipped policy, which is played first.
        robot_name: Robot or twin; its sensors are noisy.
        seconds: How long to look on after the clip [s].
        stand: Hand over to the standing policy; False holds the last frame.
        robots: N.
        push_speed: Kick of the base in a random horizontal direction [m/s].
        push_every_s: Time between kicks [s].
        seed: Of noise, starts and kicks.
    """
    nominal, rng = Robot.load(robot_name), np.random.default_rng(seed)
    opened = open_policy(POLICIES / f"{clip}.onnx", nominal, None, None)
    robot = with_gains(nominal, opened.policy.contract)
    sim = make_simulation(robot, robots, threads=1, seed=seed)
    sensors = Sensors(robot, robots, rng)
    if not sensors.facts.joint_vel_noise:
        sensors.facts = dataclasses.replace(sensors.facts, **NOISE)
    first = Reference(opened.motion, robot, TrackedPoints(robot)).frame(np.zeros(robots))
    sim.reset(np.arange(robots), *start_states(first, robot, rng, noise=0.3, at_rest=True))
    tracker = Runtime(opened.policy, robot.joint_names, robots)
    stander = Runtime(load_policy(STAND), robot.joint_names, robots)
    clip_s, dt = opened.policy.contract.clip.duration_s, robot.control_dt
    fallen, steps = np.full(robots, np.inf), round(clip_s / dt)
    for step in range(steps + round(seconds / dt)):
        after = step - steps
        runtime, time_s = (stander, 0.0) if stand and after >= 0 else (tracker, step * dt)
        target = runtime.step(sensors.measure(sim), np.full(robots, min(time_s, clip_s)))
        if push_speed and after > 0 and after % round(push_every_s / dt) == 0:
            angle = rng.uniform(0.0, 2.0 * np.pi, robots)
            kick = np.stack([np.cos(angle), np.sin(angle), 0.0 * angle], axis=1)
            sim.push(np.arange(robots), push_speed * kick)
        sim.step(target.joint_pos_target)
        upright = -rotation.projected_gravity(sim.base_quat_wxyz)[:, 2] > np.cos(1.0)
        lost = (~upright | target.refused | sim.failed) & np.isinf(fallen)
        fallen = np.where(lost, after * dt, fallen)
        if not np.isinf(fallen).any():
            break
    return fallen


def test_the_shipped_policy_is_what_its_generator_makes():
    fresh = Policy.from_bytes(stand_policy(Robot.load("g1")))
    old = load_policy(STAND)
    # Another processor may solve the Riccati equation to other last digits.
    np.testing.assert_allclose(fresh.graph.weights["weight0"], old.graph.weights["weight0"],
                               atol=1e-3)  # fmt: skip
    np.testing.assert_allclose(fresh.contract.default_joint_pos, old.contract.default_joint_pos)


@pytest.mark.parametrize("robot", ["g1", "g1@worn", "g1@genesis"])
def test_after_a_squat_the_standing_policy_stands_and_is_pushed(robot):
    fallen = fallen_after("squat", robot, 8.0, robots=4, push_speed=0.2, push_every_s=3.0)
    assert np.isinf(fallen).all(), fallen


def test_a_policy_that_was_trained_to_stand_after_its_clip_steps_where_the_stander_falls():
    words = {"robots": 4, "push_speed": 0.4, "push_every_s": 2.0}
    own = fallen_after("jump_forward", "g1", 12.0, stand=False, **words)
    other = fallen_after("jump_forward", "g1", 12.0, **words)
    assert np.isinf(own).all(), own
    assert np.isfinite(other).any(), other  # the control: it cannot step


def show(what: str, fallen: np.ndarray) -> None:
    times = ", ".join(f"{time:.0f}" for time in np.sort(fallen[np.isfinite(fallen)]))
    print(f"\n{what}: {np.isinf(fallen).sum()} of {len(fallen)} stand; fell at [s]: {times or '-'}")


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("push", [0.0, 0.3])
@pytest.mark.parametrize("robot", ["g1", "g1@worn", "g1@genesis"])
def test_after_a_squat_the_standing_policy_stands_for_ten_minutes(robot, push):
    fallen = fallen_after("squat", robot, 600.0, push_speed=push)
    show(f"squat, then stand on {robot}, pushed by {push} m/s every 20 s", fallen)
    # It cannot step: now and then a push of 0.3 m/s to the front or back is one too many.
    assert np.isinf(fallen).sum() >= (6 if push else 8)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("robot", ["g1", "g1@worn", "g1@genesis"])
@pytest.mark.parametrize("clip", ["walk", "kick"])
def test_after_other_clips_the_standing_policy_stands_as_well(clip, robot):
    fallen = fallen_after(clip, robot, 60.0)
    show(f"{clip}, then stand on {robot}", fallen)
    if clip != "walk":  # it ends on its heels, already falling backwards: nobody can stand there
        assert np.isinf(fallen).all()


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("clip", ["squat", "walk", "kick"])
@pytest.mark.parametrize("robot", ["g1", "g1@worn", "g1@genesis"])
def test_how_long_a_clips_own_policy_holds_its_last_frame(robot, clip):
    fallen = fallen_after(clip, robot, 200.0, stand=False)
    show(f"{clip} holds its last frame on {robot}", fallen)
    if clip != "walk":  # it falls at once
        assert fallen.min() > HOLD_S


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("clip", ["jump_forward", "jump_turn"])
@pytest.mark.parametrize("robot", ["g1", "g1@worn", "g1@genesis"])
def test_policies_that_were_trained_to_stand_after_their_clip_do(robot, clip):
    fallen = fallen_after(clip, robot, 120.0, stand=False)
    show(f"{clip} holds its last frame on {robot}", fallen)
    assert np.isinf(fallen[fallen >= 0.0]).all()  # three of jump_turn on `worn` fall as they land


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_over_the_link_a_squat_ends_in_standing_and_nothing_grows_or_is_lost(tmp_path):
    """Supervisor, recorder and strict robot in real time: squat, stand, quit."""
    found = soak(60.0, tmp_path)
    assert found["status"] == 0 and set(found["counts"]) <= {"accepted", "timeouts"}
    assert found["recording"]["missed"] == 0 and found["recording"]["problems"] == []
    assert found["overruns"] == 0
    first, last = found["rows"][0], found["rows"][-1]
    assert all(row["height_m"] > 0.7 for row in found["rows"])
    for name in ("policy", "supervisor", "recorder"):
        assert last[name]["memory_mb"] < first[name]["memory_mb"] + 10.0
    assert last["recorder"]["cpu_percent"] < 5.0
