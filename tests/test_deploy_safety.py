"""Nothing bad leaves and nothing false is believed: the filter and the guards, in virtual time."""

from __future__ import annotations

import numpy as np
import pytest
from virtual_robot import DT, JOINTS, STATE_DT, VirtualRun, limits, state

from asap.twin_faults import FAULTS
from asap_deploy import guards
from asap_deploy.errors import InputError, Refusal
from asap_deploy.guards import STATE_GUARDS, StateWatch
from asap_deploy.link import LinkStats, key_bits
from asap_deploy.safety import CommandFilter, SafetyLimits, damping_command
from policies import robot, toy_contract, toy_policy

CASES = 10_000
ODD = (np.nan, np.inf, -np.inf, 1e30, -1e30, 1e300, 0.0, -0.0, 1e-300)


def wild(rng: np.random.Generator, size: float) -> np.ndarray:
    """An array as a broken program may hand it over: odd numbers, odd shapes, mostly plausible."""
    array = rng.normal(0.0, size, JOINTS)
    dice = rng.random()
    if dice < 0.1:
        array[rng.integers(JOINTS, size=rng.integers(1, 4))] = rng.choice(ODD)
    elif dice < 0.13:
        return rng.normal(size=rng.choice([0, 1, JOINTS - 1, JOINTS + 1]))
    elif dice < 0.15:
        return array[None] if rng.random() < 0.5 else np.array(["a"] * JOINTS)
    elif dice < 0.3:
        array *= 10.0 ** rng.uniform(-3.0, 3.0)
    return array


def measured(rng: np.random.Generator):
    """A state, now and then one that no robot can be in."""
    pos, vel = rng.normal(0.0, 1.0, JOINTS), rng.normal(0.0, 8.0, JOINTS)
    dice = rng.random()
    if dice < 0.05:
        (pos if rng.random() < 0.5 else vel)[rng.integers(JOINTS)] = rng.choice(ODD)
    elif dice < 0.1:
        pos, vel = 10.0 * pos, 10.0 * vel
    return state(joint_pos=pos, joint_vel=vel)


def test_whatever_is_asked_for_what_leaves_is_finite_in_limits_and_bounded_in_step_and_torque():
    rng, lim = np.random.default_rng(0), limits()
    command_filter, before, accepted, limited = CommandFilter(lim), None, 0, 0
    for case in range(CASES):
        if rng.random() < 0.02:
            command_filter.forget()
            before = None
        now = measured(rng)
        try:
            gains = np.abs(wild(rng, 60.0)), wild(rng, 3.0)
            command_filter.accept(wild(rng, 1.5), *gains, DT * (case + rng.uniform(-0.2, 0.2)))
            first, changed = command_filter.command(now)
            second, _ = command_filter.command(measured(rng))
        except (Refusal, TypeError):
            before = command_filter._written
            continue
        accepted, limited = accepted + 1, limited + changed
        for command, at in ((first, now),):
            torque = command.stiffness * (command.joint_pos_target - at.joint_pos)
            torque -= command.damping * at.joint_vel
            assert (np.abs(torque) <= lim.torque_limit * (1.0 + 1e-9)).all()
        for command in (first, second):
            for array in command[:5]:
                assert array.shape == (JOINTS,) and np.isfinite(array).all()
            assert (command.joint_pos_target >= lim.joint_pos_lower).all()
            assert (command.joint_pos_target <= lim.joint_pos_upper).all()
            assert (command.stiffness >= 0.0).all() and (command.damping >= 0.0).all()
            assert (command.stiffness <= lim.stiffness_limit).all()
            assert (command.damping <= lim.damping_limit).all()
            assert not command.torque.any() and not command.joint_vel_target.any()
            assert command.motor_mode == 1 and command.mode_machine == 5
            if before is not None:
                step = np.abs(command.joint_pos_target - before)
                assert (step <= lim.step_limit + 1e-12).all()
        before = second.joint_pos_target
    assert accepted > 0.5 * CASES and limited > 0.5 * accepted


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_command_that_is_none_is_refused_by_name(place, value):
    arrays = [np.zeros(JOINTS) for _ in range(3)]
    arrays[place][4] = value
    with pytest.raises(Refusal, match=r"(target|stiffness|damping) of joint_4 is"):
        CommandFilter(limits()).accept(*arrays, 0.0)


def test_a_target_within_all_limits_goes_out_as_it_is():
    command_filter = CommandFilter(limits())
    target, gain = np.linspace(-0.05, 0.05, JOINTS), np.full(JOINTS, 40.0)
    command_filter.accept(target, gain, np.full(JOINTS, 2.0), 0.0)
    command, limited = command_filter.command(state())
    np.testing.assert_array_equal(command.joint_pos_target, target)
    np.testing.assert_array_equal(command.stiffness, gain)
    assert not limited


def test_a_saturated_target_gives_the_motor_its_effort_limit_and_no_more():
    lim = limits(step_limit=np.full(JOINTS, 5.0))
    command_filter = CommandFilter(lim)
    gains = np.full(JOINTS, 100.0), np.full(JOINTS, 2.0)
    command_filter.accept(np.full(JOINTS, 1.5), *gains, 0.0)
    command, _ = command_filter.command(state(joint_vel=np.full(JOINTS, 3.0)))
    torque = 100.0 * command.joint_pos_target - 2.0 * 3.0
    # 100 * 1.5 - 6 = 144 Nm is above every limit.
    np.testing.assert_allclose(torque, lim.torque_limit)


def test_damping_never_brakes_harder_than_the_motor_can_and_survives_a_state_full_of_nan():
    lim = limits()
    fast = damping_command(lim, state(joint_vel=np.full(JOINTS, 50.0)))
    assert (fast.damping * 50.0 <= lim.torque_limit * (1 + 1e-12)).all()
    slow = damping_command(lim, state())
    np.testing.assert_allclose(slow.damping, np.minimum(8.0, lim.torque_limit / 5.0))
    broken = damping_command(lim, state(joint_pos=np.full(JOINTS, np.nan),
                                        joint_vel=np.full(JOINTS, np.nan)))  # fmt: skip
    for command in (fast, slow, broken):
        assert not command.stiffness.any() and not command.torque.any()
        assert all(np.isfinite(array).all() for array in command[:5])
        assert command.motor_mode == 1 and command.mode_machine == 5


# Fault, guard that must object, deadline [s].
DETECTED = [
    ("drop=1", "state_age", 0.1),
    ("freeze", "state_age", 0.1),
    ("delay=0.15", "state_age", 0.1),
    ("delay=0.075", "tick_rate", 0.1),
    ("rollback", "state_age", 0.1),
    ("bitflip=1", "state_age", 0.1),
    ("slow=0.5", "tick_rate", 0.2),
    ("nan", "state_finite", 0.003),
    ("lost_remote", "remote_lost", 0.51),
    ("second_publisher", "publishers", 0.003),
    ("second_commander", "publishers", 0.003),
    ("motor_fault", "motor_fault", 0.003),
    ("hot", "temperature", 0.003),
    ("low_battery", "battery", 0.003),
    ("tilt", "tilt", 0.003),
    ("fast_joint=-60", "joint_speed", 0.003),
    ("fast_joint=60", "joint_speed", 0.003),
    ("bad_joint", "joint_range", 0.003),
    ("wrong_machine", "mode_machine", 0.003),
    ("remote_stop", "remote_stop", 0.003),
]
TOLERATED = ["drop=0.3", "duplicate=0.5", "reorder=0.5", "bitflip=0.3", "delay=0.03"]


@pytest.mark.parametrize(("fault", "guard", "deadline_s"), DETECTED)
def test_every_fault_of_the_stream_leads_to_damping_within_its_deadline(fault, guard, deadline_s):
    for seed in range(2):
        run = VirtualRun(seed=seed).run(0.6 + 0.01 * seed)
        assert run.core.fault is None and run.core.accepted > 0
        took_s = run.break_with(fault, seconds=deadline_s + 0.1)
        assert run.core.fault is not None and run.core.fault.guard == guard
        assert took_s <= deadline_s + STATE_DT
        assert run.core.fault.text


@pytest.mark.parametrize(("fault", "guard", "deadline_s"), DETECTED)
def test_without_its_guard_the_fault_is_not_seen_in_time(fault, guard, deadline_s, monkeypatch):
    """So each test above fails when its guard is taken out."""
    monkeypatch.delitem(STATE_GUARDS, guard)
    run = VirtualRun().run(0.6)
    run.break_with(fault, seconds=deadline_s + 0.05)
    assert run.core.fault is None or run.core.fault.guard != guard


@pytest.mark.parametrize("fault", TOLERATED)
def test_a_poor_connection_is_no_fault(fault):
    for seed in range(2):
        run = VirtualRun(seed=seed).run(0.6)
        assert run.break_with(fault, seconds=1.5) == float("inf")
        assert run.core.fault is None


def test_every_fault_that_can_be_injected_is_tested():
    tested = {text.partition("=")[0] for text, _, _ in DETECTED} | {
        text.partition("=")[0] for text in TOLERATED
    }
    assert tested == set(FAULTS)
    assert {guard for _, guard, _ in DETECTED} == set(STATE_GUARDS)


def test_damaged_states_are_never_believed_and_old_ones_never_come_back():
    watch = StateWatch(limits())
    good = state(5000, 100.0)
    bad = state(5002, 100.002, checksum_ok=False, joint_pos=np.full(JOINTS, 9.0))
    newer, old = state(5004, 100.004), state(5002, 100.005)
    assert watch.take([good, bad, newer, old, newer], 100.01) == [good, newer]
    assert watch.latest is newer
    assert (watch.bad_checksums, watch.not_newer) == (1, 2)


def test_a_clock_that_drifts_as_quartz_does_is_followed_for_an_hour():
    watch = StateWatch(limits())
    for k in range(0, 3_600_000, 500):  # every half a second, 300 ppm off, both ways
        for sign in (1.0,):
            arrival = 100.0 + 1e-3 * k * (1.0 + 3e-4 * sign)
            watch.take([state(5000 + k, arrival)], arrival)
            assert watch.fault(arrival, LinkStats(1, 0)) is None


def test_a_clock_that_runs_ahead_is_a_fault_as_well():
    watch = StateWatch(limits())
    for k in range(200):
        watch.take([state(5000 + 2 * k, 100.0 + 0.002 * k)], 100.0 + 0.002 * k)
    watch.take([state(5400 + 500, 100.4)], 100.4)
    fault = watch.fault(100.4, LinkStats(1, 0))
    assert fault is not None and fault.guard == "tick_rate" and "ahead of ours" in fault.text


def test_the_stop_of_the_remote_counts_in_a_chord_too():
    watch = StateWatch(limits())
    watch.take([state(remote_keys=key_bits("B", "L2"))], 100.0)
    fault = watch.fault(100.0, LinkStats(1, 0))
    assert fault is not None and fault.guard == "remote_stop"
    assert key_bits("B") == guards.STOP_KEYS


def test_limits_come_from_the_contract_in_the_links_order():
    contract, body = toy_contract(), robot()
    names = tuple(reversed(body.joint_names))
    found = SafetyLimits.of([contract], names, [toy_policy().clip])
    assert found.joint_names == names
    np.testing.assert_allclose(found.torque_limit, body.torque_limit[::-1])
    np.testing.assert_allclose(found.joint_pos_upper, body.joint_pos_upper[::-1])
    np.testing.assert_allclose(found.step_limit, DT * body.joint_vel_limit[::-1])
    assert found.tilt_limit > 1.0  # the toy clip sways
    assert found.mode_machine == contract.mode_machine


def test_limits_of_another_robot_are_refused():
    with pytest.raises(InputError, match="not the same joints: 'tail'"):
        SafetyLimits.of([toy_contract()], [*robot().joint_names[:-1], "tail"])
