"""What must not be an alarm: motors that give all they have, feet that fly or pivot under a base.

The logs are those of seed 910 of ``asap bench logs``, which cried wolf three times in 36.
"""

from __future__ import annotations

import numpy as np
import pytest

from asap.bench_logs import Sound, recorded
from asap.log_check_base import MIN_TURN, base_origin
from asap.log_check_view import Finding, View
from asap.log_signals import saturated, stuck
from asap.planted import channel, edited
from asap.robot import Robot
from asap_deploy import rotation
from asap_deploy.log import Log

KNEE, LIMIT_NM = "left_knee_joint", 139.0
ROWS = 200


@pytest.fixture(scope="module")
def robot() -> Robot:
    return Robot.load("g1")


@pytest.fixture(scope="module")
def jump() -> Log:
    """Heavy rotors: the left knee gives all it can in 6 % of the rows."""
    return recorded(Sound("g1", "genesis", "jump_forward", 910000))


def said(log: Log, robot: Robot | None) -> Finding:
    (found,) = saturated(View(log=log, robot=robot)).findings
    return found


def with_torque(log: Log, change: np.ndarray) -> Log:
    torque = channel(log, "torque_est")
    torque[:, log.joint_names.index(KNEE)] = change
    return edited(log, torque_est=torque)


def test_a_motor_at_its_torque_limit_is_told_and_is_no_alarm(jump: Log, robot: Robot) -> None:
    found = said(jump, robot)
    assert (found.verdict, found.joints) == ("PASS", (KNEE,))
    assert f"{KNEE} in 6 % of the rows" in found.text and "the torque was cut off" in found.text
    torque = jump.fields["torque_est"][:, jump.joint_names.index(KNEE)]
    assert found.value == pytest.approx((np.abs(torque) > 0.97 * LIMIT_NM).mean())
    # Whose limit it is nobody knows without the robot.
    alone = said(jump, None)
    assert alone.verdict == "WARNING" and "widen the range of the sensor" in alone.text


@pytest.mark.parametrize(("share", "verdict"), [(0.99, "PASS"), (1.02, "PASS"), (0.8, "WARNING"),
                                                (1.2, "WARNING")])  # fmt: skip
def test_torque_that_rests_elsewhere_than_at_the_limit_is_an_alarm_with_both_readings(
    jump: Log, robot: Robot, share: float, verdict: str
) -> None:
    torque = jump.fields["torque_est"][:, jump.joint_names.index(KNEE)]
    found = said(with_torque(jump, share * torque), robot)
    assert (found.verdict, found.joints) == (verdict, (KNEE,))
    if verdict == "WARNING":
        end = (
            f"{KNEE} at {share * LIMIT_NM:.3g} Nm where the robot's description has a limit of 139"
        )
        assert end in found.text and f"limit is {share:.2f} times what is described" in found.text


def test_a_sensor_that_ends_short_of_the_limit_on_one_side_is_an_alarm(
    jump: Log, robot: Robot
) -> None:
    torque = jump.fields["torque_est"][:, jump.joint_names.index(KNEE)]
    found = said(with_torque(jump, np.minimum(torque, 20.0)), robot)
    assert (found.verdict, found.joints) == ("WARNING", (KNEE,))
    assert "at 20 Nm where the robot's description has a limit of 139 Nm" in found.text


def test_a_motor_that_gives_all_for_long_is_not_stuck(jump: Log, robot: Robot) -> None:
    torque = channel(jump, "torque_est")
    torque[100:160, jump.joint_names.index("left_elbow_joint")] = 25.0  # its limit, for 1.2 s
    log = edited(jump, torque_est=torque)
    for given, verdict in ((robot, "PASS"), (None, "WARNING")):
        assert [f.verdict for f in stuck(View(log=log, robot=given)).findings] == [verdict]


def test_feet_that_fly_and_pivot_in_a_jump_with_a_turn_do_not_move_the_base(robot: Robot) -> None:
    log = recorded(Sound("g1", "genesis", "jump_turn", 910000))
    (found,) = base_origin(View(log=log, robot=robot)).findings
    assert found.verdict == "PASS"
    # The same log with markers 5 cm too high: the flight hides nothing.
    up = rotation.rotate(log.fields["base_quat_wxyz"], np.tile([0.0, 0.0, 0.05], (ROWS * 3 + 3, 1)))
    moved = edited(log, base_pos_w=log.fields["base_pos_w"] + up)
    (found,) = base_origin(View(log=moved, robot=robot)).findings
    assert found.verdict == "WARNING" and found.value == pytest.approx(0.05, abs=0.003)


def turning(robot: Robot, pivot: float) -> Log:
    """A base that turns over its left foot, the right one lifted; the foot joins in by a share."""
    hip, knee = (
        robot.joint_names.index(f"{name}_joint") for name in ("left_hip_yaw", "right_knee")
    )
    sweep = 0.6 * np.sin(np.linspace(0.0, 2.0 * np.pi, ROWS))
    joint_pos = np.tile(robot.default_joint_pos, (ROWS, 1))
    joint_pos[:, hip], joint_pos[:, knee] = sweep, joint_pos[:, knee] + 1.0
    nowhere = np.zeros((ROWS, 3))
    level = np.tile([1.0, 0.0, 0.0, 0.0], (ROWS, 1))
    foot = int(robot.body_index(robot.foot_names)[0])
    seen = robot.forward_kinematics(nowhere, level, joint_pos)[1][:, foot]
    # The base has the attitude that leaves the foot flat, and is where that leaves the toe.
    turned = rotation.from_yaw(pivot * sweep)
    quat = rotation.multiply(turned, rotation.conjugate(seen))
    body_pos, body_quat = robot.forward_kinematics(nowhere, quat, joint_pos)
    toe = rotation.rotate(turned, np.tile([0.12, 0.0, 0.0], (ROWS, 1)))
    base = -toe - body_pos[:, foot]
    base[:, 2] = -robot.sole_clearance(body_pos, body_quat)[:, 0]
    fields = {"base_pos_w": base, "base_quat_wxyz": quat}
    return Log(robot.joint_names, 0.02 * np.arange(ROWS), joint_pos, fields)


@pytest.mark.parametrize("offset", [(0.05, 0.0, 0.0), (0.0, -0.05, 0.0), (0.03, 0.03, 0.04)])
def test_a_base_that_turns_over_a_standing_foot_tells_markers_beside_it(
    robot: Robot, offset: tuple[float, float, float]
) -> None:
    sound = turning(robot, pivot=0.0)
    assert np.std(rotation.yaw(sound.fields["base_quat_wxyz"])) * np.sqrt(2.0) > MIN_TURN
    (found,) = base_origin(View(log=sound, robot=robot)).findings
    assert found.verdict == "PASS"
    beside = rotation.rotate(sound.fields["base_quat_wxyz"], np.tile(offset, (ROWS, 1)))
    log = edited(sound, base_pos_w=sound.fields["base_pos_w"] + beside)
    (found,) = base_origin(View(log=log, robot=robot)).findings
    assert found.verdict == "WARNING"
    assert found.value == pytest.approx(np.linalg.norm(offset), abs=0.003)


def test_a_base_that_turns_with_a_foot_that_pivots_on_its_toe_tells_nothing_beside(
    robot: Robot,
) -> None:
    (found,) = base_origin(View(log=turning(robot, pivot=2.0), robot=robot)).findings
    assert found.verdict == "PASS"
