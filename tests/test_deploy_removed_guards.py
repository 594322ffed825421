"""Each guard taken out in turn: then its test must fail, or it tests nothing.

Guards over states are taken out in ``test_deploy_safety``; here are the others: those of targets,
of the policy process, of the supervisor itself, of orders and of modes.
"""

from __future__ import annotations

import numpy as np
import pytest
import test_deploy_adversary as adversary_tests
import test_deploy_guards as guards_tests
import test_deploy_loop as loop_tests
import test_deploy_safety as safety_tests
import test_deploy_supervisor as supervisor_tests

from asap_deploy import keys, link_unitree, loop, policy, preflight, safety, states, supervisor
from asap_deploy.guards import StateWatch
from asap_deploy.keys import ORDERS, OnlyStop, Stoppable, TerminalKeys
from asap_deploy.loop import Loop
from asap_deploy.safety import CommandFilter, SafetyLimits
from asap_deploy.states import StateMachine
from asap_deploy.supervisor import SupervisorCore, SupervisorLoop

WIDE = {
    "joint limits": {"joint_pos_lower": np.full(12, -1e4), "joint_pos_upper": np.full(12, 1e4)},
    "step of a target": {"step_limit": np.full(12, 1e4)},
    "torque of a target": {"torque_limit": np.full(12, 1e9)},
    "stiffness": {"stiffness_limit": np.full(12, 1e9)},
    "damping": {"damping_limit": np.full(12, 1e9)},
}
"""Limits so wide that a filter with them does nothing."""


class Trusting(CommandFilter):
    """Takes whatever it is handed for a target."""

    def accept(self, target, stiffness, damping, now_s):
        self._wanted, self._gains = np.array(target, float), (stiffness, damping)
        self._before, self._bounds = self._written, None


class Patient(Trusting):
    """Looks at targets, but gives a step to each of them."""

    def accept(self, *words):
        self._due_s = -np.inf
        CommandFilter.accept(self, *words)


def only_dead(self, now_s, policy_alive):
    if not policy_alive:
        self.latch("policy_dead", "", now_s)


def only_late(self, now_s, policy_alive):
    if not now_s <= self._deadline_s:
        self.latch("policy_late", "", now_s)


def forgetful(self, now_s, stats):
    if self.writing:
        self.fault = self.watch.fault(now_s, stats)


def unchecked(self, found, now_s):
    return take(self, [state._replace(checksum_ok=True) for state in found], now_s)


def replayed(self, found, now_s):
    sound = [state for state in found if state.checksum_ok]
    for state in sound:
        self._follow(state)
    return sound


def armed_already(self, now_s, stats):
    self.writing, self._machine = True, 5


def by_the_last_state(self):
    return supervisor.damping_command(self.limits, self.watch.latest)


def everything(self, now_s, mode, state):
    return self._keys.poll(now_s, mode, state)


def unarmed(make):
    def begin(self, *words):
        make(self, *words)
        self.mode = "damp"

    return begin


def fails(test):
    """Whether a test notices; any other exception is a mistake of this file."""
    try:
        test()
    except (AssertionError, pytest.fail.Exception):
        return True
    except AttributeError as error:
        return "'NoneType' object has no attribute 'guard'" in str(error)  # no fault at all
    return False


def case(name, test, *removal):
    return pytest.param(test, removal, id=name.replace(" ", "_"))


def refused(change, text):
    return lambda: supervisor_tests.test_what_is_unacceptable_damps_at_the_next_write(change, text)


def no_link(how):
    return lambda: guards_tests.test_a_link_that_breaks_on_the_way_in_still_carries_damping_out(how)


take = StateWatch.take
NAN = {"target": np.full(12, np.nan)}
PROPERTY = next(test for name, test in vars(safety_tests).items()
                if name.startswith("test_whatever_is_asked_for"))  # fmt: skip
REMOVED = [
    case("policy late", supervisor_tests.test_a_policy_that_hangs_is_late_after_three_ticks,
         SupervisorCore, "_check_policy", only_dead),
    case("policy dead", supervisor_tests.test_a_policy_that_dies_is_noticed_at_the_next_write,
         SupervisorCore, "_check_policy", only_late),
    case("our own deadline",
         lambda: supervisor_tests.test_a_policy_cannot_talk_itself_out_of_its_deadline(1e12),
         supervisor, "min", lambda said, own: said),
    case("policy data", refused(NAN, "target of joint_0 is nan"),
         supervisor, "CommandFilter", Trusting),
    case("absurd target",
         lambda: safety_tests.test_a_command_that_is_none_is_refused_by_name(0, 1e30),
         safety, "ABSURD_RAD", np.inf),
    case("one step a tick",
         guards_tests.test_targets_that_come_faster_than_the_policys_rate_win_no_speed,
         guards_tests, "CommandFilter", Patient),
    case("latch", supervisor_tests.test_a_fault_is_latched_whatever_the_policy_says_afterwards,
         SupervisorCore, "_judge", forgetful),
    case("arming", supervisor_tests.test_a_robot_with_a_fault_is_not_armed,
         SupervisorCore, "_arm", armed_already),
    case("machine number of damping",
         supervisor_tests.test_damping_goes_on_under_the_machine_number_of_the_arming,
         SupervisorCore, "braking", by_the_last_state),
    case("damping when something breaks", no_link("read"),
         SupervisorLoop, "_brake", lambda self, error: None),
    case("supervisor silent",
         guards_tests.test_a_supervisor_that_is_stopped_is_told_to_the_operator_once,
         Loop, "_watch_supervisor", lambda *_: None),
    case("checksum",
         safety_tests.test_damaged_states_are_never_believed_and_old_ones_never_come_back,
         StateWatch, "take", unchecked),
    case("newer tick",
         safety_tests.test_damaged_states_are_never_believed_and_old_ones_never_come_back,
         StateWatch, "take", replayed),
    case("one robot",
         guards_tests.test_policies_for_two_robots_are_refused_and_not_taken_to_fit_any,
         safety, "_machines", lambda contracts: ()),
    case("overruns", loop_tests.test_three_overruns_in_a_row_are_a_fault_while_the_robot_is_stiff,
         Loop, "_overrun", lambda self, in_a_row: None),
    case("end of a clip", loop_tests.test_the_whole_way_and_a_clip_never_runs_past_its_end,
         StateMachine, "_hold", lambda self, time_s: None),
    case("hold is for seconds",
         loop_tests.test_a_hold_by_the_clips_own_policy_ends_in_damping_before_which_the_operator_is_told,
         StateMachine, "_end_hold", lambda self, time_s: None),
    case("near the first frame", loop_tests.test_a_clip_does_not_begin_far_from_its_first_frame,
         states, "NEAR_RAD", np.inf),
    case("slow into the first pose",
         loop_tests.test_standing_up_begins_at_the_measured_pose_and_no_joint_is_fast,
         states, "STAND_SPEED", 60.0),
    case("passive until armed", loop_tests.test_nothing_is_asked_for_before_the_operator_arms,
         StateMachine, "__init__", unarmed(StateMachine.__init__)),
    case("bouncing buttons",
         loop_tests.test_a_button_counts_once_when_it_goes_down_and_not_while_it_bounces,
         keys, "DEBOUNCE_POLLS", 1),
    case("ladder only stops",
         guards_tests.test_on_the_ladder_the_operator_can_stop_and_do_nothing_else,
         OnlyStop, "poll", everything),
    case("orders after an interrupt",
         adversary_tests.test_after_an_interrupt_no_order_moves_the_robot_any_more,
         loop, "STOPS", ORDERS),
    case("orders after a stop",
         lambda: adversary_tests.test_after_the_operators_stop_the_ladders_script_says_nothing_more(
             "damp"),
         Stoppable, "stopped", property(lambda self: False)),
    case("damping at the end",
         adversary_tests.test_who_is_told_to_end_damps_for_as_long_as_a_robot_sinks,
         supervisor, "END_S", 0.3),
    case("limits of the robot itself",
         lambda: guards_tests.test_a_contract_that_promises_more_than_the_robot_can_do_is_refused(
             "torque_limit", "left_knee_joint", 2.0),
         preflight, "_beyond", lambda *_: []),
]  # fmt: skip


@pytest.mark.parametrize(("test", "removal"), REMOVED)
def test_without_its_guard_a_test_fails(test, removal, monkeypatch):
    monkeypatch.setattr(*removal, raising=False)
    assert fails(test)


@pytest.mark.parametrize("guard", WIDE)
def test_without_a_limit_of_the_filter_its_property_fails(guard, monkeypatch):
    monkeypatch.setattr(safety_tests, "CASES", 300)

    def wide(lim: SafetyLimits) -> CommandFilter:
        return CommandFilter(lim.with_(**WIDE[guard]))

    monkeypatch.setattr(safety_tests, "CommandFilter", wide)
    assert fails(PROPERTY)


def test_without_a_look_at_the_own_controller_a_target_would_go_out(monkeypatch):
    run = guards_tests.test_what_the_robots_own_controller_holds_back_is_never_a_target
    core = property(lambda self: False, lambda self, value: None)
    monkeypatch.setattr(SupervisorCore, "held_back", core, raising=False)
    with pytest.raises(AssertionError):
        run()


def test_without_a_fresh_start_typed_ahead_keys_would_arm(monkeypatch):
    test = guards_tests.test_keys_that_were_typed_while_the_checks_ran_arm_nobody
    monkeypatch.setattr(TerminalKeys, "begin", lambda self: None)
    with pytest.raises(AssertionError), monkeypatch.context() as own:
        test(own)


def test_without_a_look_at_escapes_an_arrow_key_would_arm(monkeypatch):
    test = adversary_tests.test_arrow_and_function_keys_are_no_letters
    monkeypatch.setattr(
        TerminalKeys,
        "_letters",
        lambda self, text, now_s: "".join(filter(str.isalpha, text)).lower(),
    )
    with pytest.raises(AssertionError), monkeypatch.context() as own:
        test(own, b"\x1b[A")


def test_without_a_look_at_its_numbers_any_clip_would_be_loaded(monkeypatch):
    test = adversary_tests.test_a_clip_that_holds_no_numbers_is_refused_when_it_is_loaded
    monkeypatch.setattr(policy, "ABSURD", 1e30)
    with pytest.raises(pytest.fail.Exception), monkeypatch.context() as own:
        test(own, "joint_pos", 1e9)


def test_a_release_that_is_taken_for_granted_would_be_noticed(monkeypatch):
    pytest.importorskip("cyclonedds")
    import test_link_unitree

    monkeypatch.setattr(link_unitree.Release, "done", lambda self, now_s: True)
    with pytest.raises(AssertionError):
        test_link_unitree.test_a_robot_that_does_not_answer_is_never_commanded()
