"""The runtime: targets by name, no robot harms another, a refusal lasts until reset."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from asap.export import write_policy
from asap_deploy import rotation
from asap_deploy.errors import InputError
from asap_deploy.observation import LAYOUTS, Measurement
from asap_deploy.policy import Policy
from asap_deploy.runtime import Runtime, RuntimeStep
from policies import (
    measurements,
    replaced,
    robot,
    rows,
    toy_contract,
    toy_motion,
    toy_network,
    toy_policy,
)

DT = 0.02
JOINTS = robot().joint_names


def row_by_row(policy):
    """An engine whose result for a row cannot depend on how many rows there are."""
    return lambda observation: np.concatenate([policy.act_numpy(row[None]) for row in observation])


def constant(value, actions=23):
    """A network that always says the same."""
    return lambda observation: np.full((len(observation), actions), value, np.float32)


def run(runtime: Runtime, sequence: list[Measurement], start: int = 0) -> list[RuntimeStep]:
    return [runtime.step(m, np.array((start + k) * DT)) for k, m in enumerate(sequence)]


def sequence(steps: int, num_robots: int, joints: int = 29, seed: int = 0) -> list[Measurement]:
    rng = np.random.default_rng(seed)
    return [measurements(rng, joints, num_robots) for _ in range(steps)]


def assert_same_rows(left: RuntimeStep, right: RuntimeStep, ids) -> None:
    for name in RuntimeStep._fields:
        a, b = getattr(left, name)[ids], getattr(right, name)[ids]
        np.testing.assert_array_equal(a, b, err_msg=name)


@pytest.mark.parametrize(
    ("layout", "name", "offset"),
    [("asap", "g1:asap", "default"), ("asap", "g1:asap", "reference"),
     ("asap-loco", "g1:asap", "default"), ("beyondmimic", "g1", "default"),
     ("beyondmimic-state", "g1", "reference")],
)  # fmt: skip
def test_five_robots_at_once_are_five_single_ones_to_the_bit(layout, name, offset):
    policy = toy_policy(layout, name, offset)
    engine, names = row_by_row(policy), robot(name).joint_names
    together = Runtime(policy, names, 5, evaluator=engine)
    single = [Runtime(policy, names, evaluator=engine) for _ in range(5)]
    for k, measurement in enumerate(sequence(7, 5)):
        step = together.step(measurement, np.full(5, k * DT))
        for row in range(5):
            one = single[row].step(rows(measurement, [row]), np.array([k * DT]))
            for field in RuntimeStep._fields:
                np.testing.assert_array_equal(getattr(one, field)[0], getattr(step, field)[row])


def test_both_engines_give_the_same_targets():
    policy, moves = toy_policy(), sequence(8, 3)
    with_onnxruntime = run(Runtime(policy, JOINTS, 3), moves)
    with_numpy = run(Runtime(policy, JOINTS, 3, evaluator=policy.act_numpy), moves)
    for a, b in zip(with_onnxruntime, with_numpy, strict=True):
        np.testing.assert_allclose(a.joint_pos_target, b.joint_pos_target, atol=1e-5)


BAD = [
    ("joint_pos", 5, np.nan),
    ("joint_vel", 28, np.inf),
    ("base_quat_wxyz", 0, np.nan),
    ("base_quat_wxyz", slice(None), 0.0),
    ("base_quat_wxyz", slice(None), [1.03, 0.0, 0.0, 0.0]),
    ("base_quat_wxyz", slice(None), [0.97, 0.0, 0.0, 0.0]),
    ("base_quat_wxyz", slice(None), [1e200, 0.0, 0.0, 0.0]),
    ("base_ang_vel_b", 1, -np.inf),
    ("joint_vel", 3, 1e30),
    ("base_pos_w", 2, np.nan),
    ("base_lin_vel_w", 0, np.nan),
]


@pytest.mark.parametrize(("field", "column", "value"), BAD)
@pytest.mark.parametrize("layout", ["asap", "beyondmimic-state"])
def test_a_bad_row_is_refused_alone_latches_and_holds_its_last_good_target(
    layout, field, column, value
):
    policy = toy_policy(layout, "g1:asap" if layout == "asap" else "g1")
    good = sequence(9, 4)
    array = np.array(getattr(good[3], field))
    array[2, column] = value
    bad = [*good[:3], good[3]._replace(**{field: array}), *good[4:]]
    expected = run(Runtime(policy, JOINTS, 4), good)
    found = run(Runtime(policy, JOINTS, 4), bad)
    others = np.array([0, 1, 3])
    for k in range(9):
        assert_same_rows(found[k], expected[k], others)
        assert list(found[k].refused) == [False, False, k >= 3, False]
        assert np.isfinite(found[k].observation).all()
        assert np.isfinite(found[k].action).all()
        if k >= 3:
            last_good = expected[2].joint_pos_target[2]
            np.testing.assert_array_equal(found[k].joint_pos_target[2], last_good)


def test_what_a_bad_measurement_held_never_reaches_the_history():
    policy, good = toy_policy(), sequence(10, 1)
    runtime = Runtime(policy, JOINTS)
    run(runtime, good[:2])
    for field in ("joint_pos", "joint_vel", "base_quat_wxyz", "base_ang_vel_b"):
        bad = replaced(good[2], field, 0, np.nan)
        assert np.isfinite(runtime.step(bad, np.array(0.04)).observation).all()
    for step in run(runtime, good[3:], start=3):
        assert np.isfinite(step.observation).all()


def test_a_robot_that_was_refused_works_after_a_reset_as_if_it_were_new():
    policy, good = toy_policy("beyondmimic-state", "g1"), sequence(6, 3)
    runtime = Runtime(policy, JOINTS, 3)
    bad = replaced(good[1], "joint_pos", 1, np.nan)
    before = run(runtime, [good[0], bad, good[2]])[-1]
    assert before.refused[1]
    runtime.reset(np.array([1]))
    fresh = Runtime(policy, JOINTS, 3)
    for k in (3, 4, 5):
        step, new = runtime.step(good[k], np.array(DT * k)), fresh.step(good[k], np.array(DT * k))
        assert_same_rows(step, new, [1])
        assert not step.refused.any()


@pytest.mark.parametrize(
    ("layout", "name"), [("asap", "g1:asap"), ("asap-loco", "g1:asap"), ("beyondmimic-state", "g1")]
)
def test_a_robot_after_a_reset_is_a_new_one_to_the_bit(layout, name):
    policy, moves = toy_policy(layout, name), sequence(9, 2)
    used, fresh = Runtime(policy, JOINTS, 2), Runtime(policy, JOINTS, 2)
    run(used, moves[:4])
    used.reset()
    for a, b in zip(run(used, moves[4:]), run(fresh, moves[4:]), strict=True):
        assert_same_rows(a, b, [0, 1])
    used.reset()
    bad = replaced(moves[0], "joint_pos", 0, np.nan)
    refused = used.step(bad, np.zeros(1))
    np.testing.assert_array_equal(refused.joint_pos_target[0], robot(name).default_joint_pos)


def test_a_quaternion_that_is_slightly_off_counts_as_the_unit_one():
    policy, moves = toy_policy(), sequence(3, 2)
    off = [m._replace(base_quat_wxyz=1.015 * m.base_quat_wxyz) for m in moves]
    expected = run(Runtime(policy, JOINTS, 2), moves)
    for a, b in zip(run(Runtime(policy, JOINTS, 2), off), expected, strict=True):
        np.testing.assert_allclose(a.observation, b.observation, atol=1e-6)
        assert not a.refused.any()


def test_a_reset_of_some_robots_leaves_the_others_untouched():
    policy, good = toy_policy(), sequence(8, 3)
    resetting, never = Runtime(policy, JOINTS, 3), Runtime(policy, JOINTS, 3)
    run(resetting, good[:5])
    run(never, good[:5])
    resetting.reset(np.array([0, 2]))
    for a, b in zip(run(resetting, good[5:]), run(never, good[5:]), strict=True):
        assert_same_rows(a, b, [1])
        assert (a.observation[[0, 2]] != b.observation[[0, 2]]).any()


def test_a_refusal_before_the_first_good_step_holds_the_default_pose():
    bad = replaced(sequence(1, 1)[0], "joint_pos", 0, np.nan)
    step = Runtime(toy_policy(), JOINTS).step(bad, np.zeros(1))
    np.testing.assert_array_equal(step.joint_pos_target[0], robot().default_joint_pos)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_action_that_is_not_finite_is_refused(value):
    policy, moves = toy_policy(), sequence(4, 3)
    calls = []

    def breaks_once(observation):
        action = policy.act(observation).copy()
        calls.append(1)
        if len(calls) == 2:
            action[1, 7] = value
        return action

    expected = run(Runtime(policy, JOINTS, 3), moves)
    found = run(Runtime(policy, JOINTS, 3, evaluator=breaks_once), moves)
    assert [list(step.refused) for step in found[:2]] == [[False] * 3, [False, True, False]]
    np.testing.assert_array_equal(found[1].joint_pos_target[1], expected[0].joint_pos_target[1])
    for a, b in zip(found, expected, strict=True):
        assert_same_rows(a, b, [0, 2])
        assert np.isfinite(a.observation).all() and np.isfinite(a.joint_pos_target).all()


def test_large_measurements_are_clipped_in_the_observation():
    runtime = Runtime(toy_policy(), JOINTS)
    wild = sequence(1, 1)[0]._replace(joint_vel=np.full((1, 29), 1e5))
    for _ in range(6):
        step = runtime.step(wild, np.zeros(1))
        assert np.abs(step.observation).max() == 100.0
        assert np.isfinite(step.joint_pos_target).all() and not step.refused.any()


def test_targets_never_leave_the_joint_limits():
    policy = toy_policy(gain=400.0)
    lower, upper = robot().joint_pos_lower, robot().joint_pos_upper
    at_limit = 0
    for step in run(Runtime(policy, JOINTS, 4), sequence(6, 4)):
        assert (step.joint_pos_target >= lower).all() and (step.joint_pos_target <= upper).all()
        at_limit += ((step.joint_pos_target == lower) | (step.joint_pos_target == upper)).sum()
    assert at_limit > 100


def test_actions_are_clipped_to_the_contracts_limit_and_remembered_so():
    runtime = Runtime(toy_policy(), JOINTS, evaluator=constant(1e9))
    moves = sequence(2, 1)
    first, second = run(runtime, moves)
    np.testing.assert_array_equal(first.action, 100.0)
    np.testing.assert_array_equal(second.observation[0, :23], 100.0)


def test_the_target_is_the_default_pose_plus_the_scaled_action_trap_7():
    policy = toy_policy()
    first, second = run(Runtime(policy, JOINTS), sequence(2, 1))
    np.testing.assert_array_equal(policy.contract.action_scale, 0.25)
    commanded = robot().joint_ids(robot().action_joint_names)
    expected = robot().default_joint_pos[commanded] + 0.25 * first.action[0]
    clipped = np.clip(
        expected, robot().joint_pos_lower[commanded], robot().joint_pos_upper[commanded]
    )
    np.testing.assert_allclose(first.joint_pos_target[0, commanded], clipped, atol=1e-12)
    # The observation keeps the network's own numbers: scaled ones are another observation.
    raw = first.action[0].astype(np.float32)
    np.testing.assert_array_equal(second.observation[0, :23], raw)
    assert np.abs(raw - 0.25 * raw).max() > 0.1


def test_the_23_of_29_joints_are_picked_by_name_trap_6():
    moves = sequence(2, 1)
    first, second = run(Runtime(toy_policy(), JOINTS), moves)
    right = [*range(19), *range(22, 26)]
    for step, move in ((first, moves[0]), (second, moves[1])):
        expected = (move.joint_pos[0] - robot().default_joint_pos).astype(np.float32)
        np.testing.assert_allclose(step.observation[0, 26:49], expected[right], atol=1e-6)
        assert np.abs(step.observation[0, 26:49] - expected[:23]).max() > 0.01
        np.testing.assert_allclose(
            step.observation[0, 49:72], 0.05 * move.joint_vel[0, right], atol=1e-6
        )
    past = (moves[0].joint_pos[0] - robot().default_joint_pos)[right]
    np.testing.assert_allclose(second.observation[0, 176:199], past, atol=1e-6)
    # Wrists hold their default; the last four actions are the right arm and not the left wrist.
    wrists = [k for k, name in enumerate(JOINTS) if "wrist" in name]
    held = first.joint_pos_target[0, wrists]
    np.testing.assert_array_equal(held, robot().default_joint_pos[wrists])
    arm = robot().default_joint_pos[22:26] + 0.25 * first.action[0, 19:]
    np.testing.assert_allclose(first.joint_pos_target[0, 22:26], arm, atol=1e-12)


@pytest.mark.parametrize(
    ("layout", "name"),
    [("asap", "g1:asap"), ("asap-loco", "g1:asap"), ("beyondmimic-state", "g1")],
)
def test_a_robot_with_another_joint_order_gets_the_same_targets_by_name(layout, name):
    policy, names = toy_policy(layout, name), robot(name).joint_names
    shuffle = np.random.default_rng(1).permutation(len(names))
    moves = sequence(6, 2)
    shuffled = [
        m._replace(joint_pos=m.joint_pos[:, shuffle], joint_vel=m.joint_vel[:, shuffle])
        for m in moves
    ]
    expected = run(Runtime(policy, names, 2), moves)
    found = run(Runtime(policy, [names[k] for k in shuffle], 2), shuffled)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a.observation, b.observation)
        np.testing.assert_array_equal(a.joint_pos_target, b.joint_pos_target[:, shuffle])
    runtime = Runtime(policy, [names[k] for k in shuffle])
    np.testing.assert_array_equal(
        runtime.start_joint_pos(), Runtime(policy, names).start_joint_pos()[shuffle]
    )


def test_a_robot_without_a_joint_of_the_policy_is_refused_by_name():
    names = [name for name in JOINTS if not name.startswith("left_hip")]
    hips = "left_hip_pitch_joint, left_hip_roll_joint, left_hip_yaw_joint"
    with pytest.raises(InputError, match=rf"not have the same joints; missing: {hips} \(did you"):
        Runtime(toy_policy(), names)
    with pytest.raises(InputError, match=r"missing: left_hip_pitch_joint, .*, \.\.\. \(23\)"):
        Runtime(toy_policy(), ["a", "b"])


def test_a_robot_without_a_joint_that_is_commanded_and_not_observed_is_refused():
    whole = toy_contract()
    observed = whole.observed_joint_names[1:]
    contract = dataclasses.replace(
        whole,
        observed_joint_names=observed,
        element_names=LAYOUTS["asap"].element_names(observed, whole.action_joint_names),
    )
    network = toy_network(len(contract.element_names), 23)
    policy = Policy.from_bytes(write_policy(network, contract, robot(), toy_motion()))
    Runtime(policy, JOINTS)
    with pytest.raises(InputError, match="missing: left_hip_pitch_joint"):
        Runtime(policy, JOINTS[1:])


def test_a_robot_with_a_joint_that_the_policy_does_not_know_is_refused():
    with pytest.raises(InputError, match="missing: tail_joint"):
        Runtime(toy_policy(), [*JOINTS, "tail_joint"])


def test_a_layout_that_needs_the_base_position_says_so_where_there_is_none():
    runtime = Runtime(toy_policy("beyondmimic-state", "g1"), JOINTS)
    blind = measurements(np.random.default_rng(0), 29, 1, base=False)
    text = "needs the base position and velocity, which this robot does not measure; use a policy"
    with pytest.raises(InputError, match=text):
        runtime.step(blind, np.zeros(1))
    step = Runtime(toy_policy("beyondmimic", "g1"), JOINTS).step(blind, np.zeros(1))
    assert not step.refused.any()


def test_the_reference_offset_is_the_clip_one_control_step_ahead():
    policy = toy_policy("asap", "g1:asap", "reference")
    runtime = Runtime(policy, JOINTS, evaluator=constant(0.0))
    motion, moves = toy_motion(), sequence(1, 1)[0]
    for time_s in (0.0, 0.3, 1.0, motion.duration_s - 0.01, motion.duration_s + 1.0):
        target = runtime.step(moves, np.array([time_s])).joint_pos_target[0]
        expected = motion.at(np.array([time_s + DT])).joint_pos[0]
        np.testing.assert_allclose(target, expected, atol=1e-6)
        now = motion.at(np.array([time_s])).joint_pos[0]
        if time_s + DT < motion.duration_s:
            assert np.abs(now - expected).max() > 1e-3
    np.testing.assert_allclose(runtime.start_joint_pos(), motion.joint_pos[0], atol=1e-6)


def test_the_phase_leads_by_a_control_step_and_counts_gaps_not_frames_trap_8():
    runtime = Runtime(toy_policy(), JOINTS)
    motion, move = toy_motion(), sequence(1, 1)[0]
    for time_s in (0.0, 0.5, motion.duration_s):
        step = runtime.step(move, np.array([time_s]))
        right = (time_s + DT) / (45 / 30.0)
        np.testing.assert_allclose(step.phase, right, atol=1e-12)
        np.testing.assert_allclose(step.observation[0, 379], right, atol=1e-6)
        no_lead, one_frame_more = time_s / 1.5, (time_s + DT) / (46 / 30.0)
        assert abs(no_lead - right) > 0.01
        assert time_s == 0.0 or abs(one_frame_more - right) > 0.005


def test_a_clip_is_finished_when_its_duration_has_passed_and_not_before():
    runtime, move = Runtime(toy_policy(), JOINTS), sequence(1, 1)[0]
    for steps, finished in ((0, False), (74, False), (75, True), (76, True)):
        assert runtime.step(move, np.array([steps * DT])).finished[0] == finished
    # A clock that adds up steps may miss 1.5 s by a rounding.
    assert runtime.step(move, np.array([1.5 - 1e-9])).finished[0]


def test_a_walking_policy_has_a_gait_phase_that_stands_still_at_zero():
    runtime = Runtime(toy_policy("asap-loco"), JOINTS, 2)
    runtime.command.walk[1] = 1.0
    runtime.command.lin_vel_b[1] = [0.5, -0.2]
    move = sequence(1, 2)[0]
    for time_s, phase in ((0.0, 0.0), (0.3, 1.0 / 3.0), (0.9 + 0.3, 1.0 / 3.0)):
        step = runtime.step(move, np.full(2, time_s))
        np.testing.assert_allclose(step.phase, [0.0, phase], atol=1e-9)
        assert not step.finished.any()
    np.testing.assert_allclose(step.observation[1, 16:20], [2 * 0.78, 0.5, -0.2, 1.0], atol=1e-6)
    np.testing.assert_array_equal(step.observation[0, 482:499], robot().default_joint_pos[12:])


def turned(measurement: Measurement, yaw: float, shift_w: np.ndarray) -> Measurement:
    """The same robot in a world that is turned about the vertical and moved."""
    turn = rotation.from_yaw(np.full(len(measurement.joint_pos), yaw))
    return measurement._replace(
        base_quat_wxyz=rotation.multiply(turn, measurement.base_quat_wxyz),
        base_pos_w=rotation.rotate(turn, measurement.base_pos_w) + shift_w,
        base_lin_vel_w=rotation.rotate(turn, measurement.base_lin_vel_w),
    )


@pytest.mark.parametrize("yaw", [0.7, -2.0, np.pi, 3.0 * np.pi])
@pytest.mark.parametrize("layout", ["asap", "beyondmimic", "beyondmimic-state"])
def test_the_heading_and_place_in_which_a_robot_starts_do_not_change_its_actions(layout, yaw):
    policy = toy_policy(layout, "g1:asap" if layout == "asap" else "g1")
    moves = sequence(7, 2)
    shift = np.array([3.0, -20.0, 0.0])
    elsewhere = [turned(move, yaw, shift) for move in moves]
    expected = run(Runtime(policy, JOINTS, 2), moves)
    found = run(Runtime(policy, JOINTS, 2), elsewhere)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a.observation, b.observation, atol=2e-5)
        np.testing.assert_allclose(a.joint_pos_target, b.joint_pos_target, atol=1e-5)


def test_the_height_of_the_robot_is_not_aligned_away():
    policy, move = toy_policy("beyondmimic-state", "g1"), sequence(1, 1)[0]
    low = Runtime(policy, JOINTS).step(move, np.zeros(1)).observation
    raised = turned(move, 0.0, np.array([0.0, 0.0, 0.1]))
    high = Runtime(policy, JOINTS).step(raised, np.zeros(1)).observation
    difference = np.linalg.norm((high - low)[0, 58:61])
    assert difference == pytest.approx(0.1, abs=1e-5)


@pytest.mark.parametrize("layout", ["beyondmimic", "beyondmimic-state"])
@pytest.mark.parametrize("yaw", [0.0, 2.5])
def test_a_robot_that_follows_the_clip_exactly_sees_no_error_of_its_anchor(layout, yaw):
    # The anchor is the torso, three joints above the base: its pose must come out of the joints.
    motion = toy_motion("g1")
    runtime = Runtime(toy_policy(layout, "g1"), JOINTS)
    state = layout == "beyondmimic-state"
    for k in range(0, motion.num_frames, 5):
        exact = Measurement(
            joint_pos=motion.joint_pos[k : k + 1],
            joint_vel=motion.joint_vel[k : k + 1],
            base_quat_wxyz=motion.base_quat_wxyz[k : k + 1],
            base_ang_vel_b=np.zeros((1, 3)),
            base_pos_w=motion.base_pos_w[k : k + 1],
            base_lin_vel_w=np.zeros((1, 3)),
        )
        exact = turned(exact, yaw, np.array([1.0, 2.0, 0.0]))
        seen = runtime.step(exact, np.array([k / motion.fps])).observation[0]
        np.testing.assert_allclose(seen[:29], motion.joint_pos[k], atol=1e-5)
        np.testing.assert_allclose(seen[29:58], motion.joint_vel[k], atol=1e-4)
        if state:
            np.testing.assert_allclose(seen[58:61], 0.0, atol=1e-5)
        rot6d = seen[61:67] if state else seen[58:64]
        np.testing.assert_allclose(rot6d, [1, 0, 0, 1, 0, 0], atol=1e-5)


def test_a_clip_whose_quaternions_change_sign_from_frame_to_frame_is_the_same_clip():
    motion, contract = toy_motion("g1"), toy_contract("beyondmimic", "g1")
    quat = np.array(motion.body_quat_wxyz)
    quat[::2] *= -1.0
    flipped = motion.replace(body_quat_wxyz=quat)
    data = write_policy(toy_network(154, 29), contract, robot("g1"), flipped)
    moves = sequence(12, 2)
    expected = run(Runtime(toy_policy("beyondmimic", "g1"), JOINTS, 2), moves)
    for a, b in zip(run(Runtime(Policy.from_bytes(data), JOINTS, 2), moves), expected, strict=True):
        np.testing.assert_allclose(a.observation, b.observation, atol=1e-4)


def test_an_attitude_and_its_negative_quaternion_give_the_same_step():
    for layout, name in (("asap", "g1:asap"), ("beyondmimic", "g1")):
        policy, moves = toy_policy(layout, name), sequence(4, 2)
        flipped = [m._replace(base_quat_wxyz=-m.base_quat_wxyz) for m in moves]
        expected = run(Runtime(policy, JOINTS, 2), moves)
        for a, b in zip(run(Runtime(policy, JOINTS, 2), flipped), expected, strict=True):
            np.testing.assert_allclose(a.observation, b.observation, atol=1e-6)


def test_a_step_changes_neither_its_measurement_nor_its_earlier_results():
    runtime, moves = Runtime(toy_policy(), JOINTS, 2), sequence(3, 2)
    copies = [Measurement(*(np.array(array) for array in move)) for move in moves]
    first = runtime.step(moves[0], np.zeros(1))
    kept = [np.array(array) for array in first]
    run(runtime, moves[1:])
    runtime.reset()
    for array, copy in zip(first, kept, strict=True):
        np.testing.assert_array_equal(array, copy)
    for move, copy in zip(moves, copies, strict=True):
        for array, same in zip(move, copy, strict=True):
            np.testing.assert_array_equal(array, same)
