"""Rewards, checked against numbers worked out by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from asap.metrics import TrackedPoints
from asap.rewards import (
    COSTS,
    TRACKING,
    Context,
    Effort,
    RewardConfig,
    Term,
    TrackingState,
    point_sets,
    soft_limits,
    total_reward,
)
from asap.robot import Robot
from asap_deploy import rotation

ROBOT = Robot.load("g1:asap")
POINTS = TrackedPoints(ROBOT)
SETS = point_sets(ROBOT, POINTS)
LIMITS = soft_limits(ROBOT, 0.95)


def _state(rows: int = 2) -> TrackingState:
    joints, points = len(ROBOT.joint_names), len(POINTS.names)
    upright = np.array([1.0, 0.0, 0.0, 0.0])
    return TrackingState(
        base_pos_w=np.zeros((rows, 3)),
        base_quat_wxyz=np.tile(upright, (rows, 1)),
        base_lin_vel_w=np.zeros((rows, 3)),
        base_ang_vel_b=np.zeros((rows, 3)),
        joint_pos=np.tile(ROBOT.default_joint_pos, (rows, 1)),
        joint_vel=np.zeros((rows, joints)),
        points_w=np.zeros((rows, points, 3)),
        points_lin_vel_w=np.zeros((rows, points, 3)),
        link_quat_wxyz=np.tile(upright, (rows, points, 1)),
        link_ang_vel_w=np.zeros((rows, points, 3)),
    )


def _effort(rows: int = 2) -> Effort:
    actions, joints = len(ROBOT.action_joint_names), len(ROBOT.joint_names)
    zero = np.zeros((rows, actions))
    return Effort(zero, zero, np.zeros((rows, joints)), np.zeros((rows, 2)))


def _context(state: TrackingState, effort: Effort | None = None) -> Context:
    return Context(state, _state(), effort or _effort(), SETS, LIMITS)


def _only(name: str, term: Term) -> RewardConfig:
    return dataclasses.replace(RewardConfig(), **{name: term})


def _reward(context: Context, name: str, term: Term) -> np.ndarray:
    config = _only(name, term)
    return total_reward(context, config, control_dt=1.0, cost_scale=1.0)[0]


def test_every_term_has_a_weight_and_every_weight_a_term() -> None:
    fields = {item.name for item in dataclasses.fields(RewardConfig)}
    assert fields == {*TRACKING, *COSTS, "termination"}


def test_the_sets_of_points_are_those_of_the_paper() -> None:
    # 8 arm links, two hands and the head; 16 others; feet are the ankle roll links.
    assert len(SETS.upper) == 11
    assert len(SETS.lower) == 16
    assert {POINTS.names[k] for k in SETS.extremities} == {"left_hand", "right_hand", "head"}
    assert [POINTS.names[k] for k in SETS.feet] == ["left_ankle_roll_link", "right_ankle_roll_link"]
    assert "torso_link" in {POINTS.names[k] for k in SETS.lower}


@pytest.mark.parametrize("name", TRACKING)
def test_an_exact_robot_gets_the_whole_weight(name: str) -> None:
    assert _reward(_context(_state()), name, Term(weight=2.0)) == pytest.approx([2.0, 2.0])


@pytest.mark.parametrize("name", COSTS)
def test_a_robot_that_does_nothing_costs_nothing(name: str) -> None:
    assert _reward(_context(_state()), name, Term(weight=-2.0)) == pytest.approx([0.0, 0.0])


def test_one_width_of_error_leaves_1_over_e() -> None:
    points = _state().points_w.copy()
    points[0, :, 0] = 0.12  # every point 12 cm off in x, in the first row only
    found = _reward(
        _context(_state()._replace(points_w=points)), "body_pos", Term(weight=1.0, width=0.12)
    )
    assert found == pytest.approx([np.exp(-1.0), 1.0])

    joints = _state().joint_pos + 0.3
    found = _reward(
        _context(_state()._replace(joint_pos=joints)), "joint_pos", Term(weight=1.0, width=0.3)
    )
    assert found == pytest.approx([np.exp(-1.0)] * 2)

    turned = np.tile(rotation.from_yaw(0.5), (2, 1))
    found = _reward(
        _context(_state()._replace(base_quat_wxyz=turned)), "base_rot", Term(weight=1.0, width=0.5)
    )
    assert found == pytest.approx([np.exp(-1.0)] * 2)


def test_a_robot_that_stepped_aside_and_turned_keeps_what_is_relative() -> None:
    rng = np.random.default_rng(0)
    pose = rng.normal(0.0, 0.3, (1, len(POINTS.names), 3))
    reference = _state(1)._replace(points_w=pose)
    turn = rotation.from_axis_angle(np.array([[0.0, 0.0, 1.0]]), np.array([0.7]))
    place = np.array([[0.4, -0.2, 0.0]])

    def reward(name: str, base: np.ndarray) -> float:
        points = base[:, None] + rotation.rotate(turn[:, None], pose)
        moved = _state(1)._replace(base_pos_w=base, base_quat_wxyz=turn, points_w=points)
        context = Context(moved, reference, _effort(1), SETS, LIMITS)
        return float(_reward(context, name, Term(weight=1.0, width=0.2))[0])

    assert reward("relative_pos", place) == pytest.approx(1.0)
    assert reward("body_pos", place) < 0.1
    # Heights stay those in the world: 0.2 m lower is one width.
    sunk = place - np.array([[0.0, 0.0, 0.2]])
    assert reward("relative_pos", sunk) == pytest.approx(np.exp(-1.0))


def test_the_paper_s_sigma_is_kept_by_its_width() -> None:
    # Upper points 10 cm off in x: the mean over x, y, z of squares is 0.01 / 3, sigma is 0.03.
    points = _state().points_w.copy()
    points[:, SETS.upper, 0] = 0.1
    paper = RewardConfig.paper()
    found = _reward(
        _context(_state()._replace(points_w=points)), "upper_body_pos", paper.upper_body_pos
    )
    assert found == pytest.approx([np.exp(-(0.01 / 3) / 0.03)] * 2)


def test_costs_are_the_sums_that_they_say() -> None:
    effort = _effort()._replace(action=np.full((2, 23), 0.5))
    assert _reward(_context(_state(), effort), "action_rate", Term(weight=-1.0)) == pytest.approx(
        [-23 * 0.25] * 2
    )
    torque = np.zeros((2, len(ROBOT.joint_names)))
    torque[:, 0] = 3.0
    pushed = _effort()._replace(joint_torque=torque)
    assert _reward(_context(_state(), pushed), "torque", Term(weight=-1.0)) == pytest.approx(
        [-9.0] * 2
    )
    # A knee 0.1 rad above its soft limit.
    knee = ROBOT.joint_names.index("left_knee_joint")
    joints = _state().joint_pos.copy()
    joints[:, knee] = LIMITS.upper[knee] + 0.1
    found = _reward(
        _context(_state()._replace(joint_pos=joints)), "joint_pos_limit", Term(weight=-1.0)
    )
    assert found == pytest.approx([-0.1] * 2)


def test_feet_slip_only_while_they_carry_weight() -> None:
    velocity = _state().points_lin_vel_w.copy()
    velocity[:, list(SETS.feet), 0] = [0.2, 0.3]
    carried = _effort()._replace(foot_force=np.array([[100.0, 0.0], [0.0, 0.5]]))
    state = _state()._replace(points_lin_vel_w=velocity)
    found = _reward(_context(state, carried), "feet_slip", Term(weight=-1.0))
    assert found == pytest.approx([-0.2, 0.0])


def test_feet_tilt_and_heading_are_angles_of_the_feet() -> None:
    quat = _state().link_quat_wxyz.copy()
    quat[:, SETS.feet[0]] = rotation.from_axis_angle(np.array([0.0, 1.0, 0.0]), np.array(0.3))
    quat[:, SETS.feet[1]] = rotation.from_yaw(0.4)
    state = _state()._replace(link_quat_wxyz=quat)
    assert _reward(_context(state), "feet_tilt", Term(weight=-1.0)) == pytest.approx(
        [-np.sin(0.3)] * 2
    )
    assert _reward(_context(state), "feet_heading", Term(weight=-1.0)) == pytest.approx([-0.4] * 2)


def test_a_curriculum_scales_costs_and_not_rewards() -> None:
    effort = _effort()._replace(action=np.ones((2, 23)))
    config = dataclasses.replace(
        RewardConfig(), action_rate=Term(weight=-1.0), body_pos=Term(weight=1.0)
    )
    full, _ = total_reward(_context(_state(), effort), config, control_dt=1.0, cost_scale=1.0)
    tenth, _ = total_reward(_context(_state(), effort), config, control_dt=1.0, cost_scale=0.1)
    assert full == pytest.approx([1.0 - 23.0] * 2)
    assert tenth == pytest.approx([1.0 - 2.3] * 2)
