"""Rates, modes and orders: punctual without bursts, and nothing moves that nobody asked for."""

from __future__ import annotations

import io
import time

import numpy as np
import pytest

from asap_deploy import handover as requests
from asap_deploy import keys as key_module
from asap_deploy.errors import InputError
from asap_deploy.handover import ACTION, EVENT, Handover
from asap_deploy.keys import RemoteKeys, ScriptedKeys, TerminalKeys
from asap_deploy.link import LinkSpec, RobotState, key_bits
from asap_deploy.loop import Loop, Session
from asap_deploy.realtime import FixedRate, Histogram
from asap_deploy.safety import SafetyLimits
from asap_deploy.states import (
    HOLD_S,
    HOLD_WARNING_S,
    STAND_SPEED,
    Player,
    StateMachine,
    min_jerk,
)
from policies import robot, toy_policy

DT = 0.02
NAMES = robot().joint_names
DURATION = 1.5


class Clock:
    """A clock that runs when it is slept on, or told to."""

    def __init__(self) -> None:
        self.now, self.sleeps = 50.0, []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds + 1e-4  # systems wake late


def at(pos=None, **changes) -> RobotState:
    pos = np.array(robot().default_joint_pos if pos is None else pos, dtype=float)
    zero, three = np.zeros(len(pos)), np.zeros(3)
    found = RobotState(
        5000, 100.0, True, 5, pos, zero, zero, np.array([1.0, 0.0, 0.0, 0.0]), three, three,
        np.zeros((len(pos), 2)), np.zeros(len(pos)), 80.0, True, 0, np.zeros(4),
    )  # fmt: skip
    return found._replace(**changes)


def player(name="wave", **options) -> Player:
    return Player(toy_policy(), name, NAMES, **options)


class Stage:
    """A state machine that is walked through, tick by tick, on a robot that obeys at once."""

    def __init__(self, *names: str, between=None) -> None:
        self.machine = StateMachine([player(n) for n in names or ("wave",)], between)
        self.time_s, self.pos = 0.0, np.array(robot().default_joint_pos)
        self.decisions = []

    def go(self, seconds=DT, *orders: str, fault=None):
        for k in range(max(1, round(seconds / DT))):
            state = at(self.pos)
            decision = self.machine.step(self.time_s, state, orders if k == 0 else (), fault)
            self.decisions.append((self.time_s, decision))
            if decision.target is not None and decision.mode in ("stand", "ready"):
                self.pos = decision.target
            self.time_s += DT
        return decision

    def ready(self):
        self.go(DT, "arm")
        self.go(10.0, "stand")
        assert self.machine.mode == "ready"
        return self


def test_ticks_do_not_drift_and_a_stall_makes_no_burst():
    clock = Clock()
    rate = FixedRate(DT, clock=clock, sleep=clock.sleep)
    woke = []
    for k in range(200):
        rate.wait()
        woke.append(clock.now)
        clock.now += 0.013  # work, never the same as the period
        if k == 50:
            clock.now += 0.1  # a stall of five periods and a bit
        rate.done()
    late = np.array(woke) - 50.0
    late = late - DT * np.round(late / DT)
    assert (np.abs(late[:50]) < 1e-3).all() and (np.abs(late[53:]) < 1e-3).all()
    # After the stall one late tick, then whole periods again: none is closer than 0.3 of one.
    assert np.diff(woke).min() > 0.3 * DT
    assert rate.missed == 4 and rate.tick == 203


def test_overruns_count_only_in_a_row():
    clock = Clock()
    rate = FixedRate(DT, clock=clock, sleep=clock.sleep)
    counts = []
    for work in (0.001, 0.025, 0.001, 0.025, 0.025, 0.025):
        rate.wait()
        clock.now = rate.due_s + work
        rate.done()
        counts.append(rate.in_a_row)
    assert counts == [0, 1, 0, 1, 2, 3]


def test_a_histogram_knows_its_quantiles_within_a_bin():
    histogram = Histogram("x")
    values = 1e-4 * np.exp(np.random.default_rng(0).normal(0.0, 1.0, 5000))
    for value in values:
        histogram.add(float(value))
    for fraction in (0.5, 0.99, 0.999):
        exact = np.quantile(values, fraction)
        assert exact * 0.98 <= histogram.quantile_s(fraction) <= exact * 1.15
    assert histogram.max_s == values.max() and histogram.count == 5000
    assert Histogram("y").quantile_s(0.99) == 0.0
    assert sum(int(line.split()[3]) for line in histogram.lines()[1:]) == 5000
    histogram.add(-1.0)
    histogram.add(1e9)


def test_nothing_is_asked_for_before_the_operator_arms():
    stage = Stage()
    for orders in ((), ("stand",), ("go",), ("next",), ("damp",), ("stand", "go")):
        assert stage.go(0.2, *orders).request == requests.PASSIVE
    assert stage.go(DT, "arm").request == requests.DAMP
    assert stage.go(0.2, "go").request == requests.DAMP  # a clip never begins from damping


def test_standing_up_begins_at_the_measured_pose_and_no_joint_is_fast():
    stage = Stage()
    stage.pos = stage.pos + np.linspace(-0.9, 0.7, len(stage.pos))
    begin = stage.pos.copy()
    stage.go(DT, "arm")
    stage.go(10.0, "stand")
    targets = np.array([d.target for _, d in stage.decisions if d.mode == "stand"])
    np.testing.assert_allclose(targets[0], begin, atol=1e-12)
    speed = np.abs(np.diff(targets, axis=0)).max() / DT
    assert 0.8 * STAND_SPEED < speed <= STAND_SPEED * 1.001
    assert stage.machine.mode == "ready"
    np.testing.assert_allclose(stage.decisions[-1][1].target, player().start_joint_pos)
    assert (min_jerk(-1.0), min_jerk(0.5), min_jerk(2.0)) == (0.0, 0.5, 1.0)


def test_the_whole_way_and_a_clip_never_runs_past_its_end():
    stage = Stage().ready()
    stage.go(DT, "go")
    assert stage.machine.mode == "track"
    stage.go(4.0)
    times = [d.clip_time_s for _, d in stage.decisions if d.step is not None]
    assert times[0] == 0.0 and max(times) == DURATION
    assert stage.machine.mode == "hold" and times[-1] == DURATION
    phases = [float(d.step.phase[0]) for _, d in stage.decisions if d.step is not None]
    assert max(phases) <= 1.0 + DT / DURATION + 1e-9
    assert stage.go(DT, "damp").request == requests.DAMP
    assert stage.go(DT, "quit").request == requests.DAMP and stage.machine.quit


def test_the_targets_of_the_machine_are_those_of_the_runtime_from_its_first_step():
    stage = Stage().ready()
    stage.go(DT, "go")
    stage.go(0.5)
    alone = player()
    alone.runtime.reset()
    found = [d for _, d in stage.decisions if d.mode == "track"]
    for k, decision in enumerate(found):
        expected = alone.step(at(stage.pos), k * DT)
        np.testing.assert_allclose(decision.target, expected.joint_pos_target[0], atol=1e-12)


def test_several_clips_follow_one_another_and_hold_between():
    stage = Stage("one", "two").ready()
    stage.go(2.0, "go")
    assert (stage.machine.mode, stage.machine.player.name) == ("hold", "one")
    stage.go(DT, "next")
    assert (stage.machine.mode, stage.machine.player.name) == ("hold", "two")
    assert stage.go(DT, "go").clip_time_s == 0.0
    assert stage.machine.mode == "track"


def test_another_policy_stands_between_the_clips():
    between = player("stander")
    stage = Stage("one", between=between).ready()
    stage.go(2.0, "go")
    assert stage.machine.mode == "hold"
    last = stage.decisions[-1][1]
    assert last.clip_time_s == 0.0 and last.step is not None
    assert between.runtime.last_action.any()


def test_a_hold_by_the_clips_own_policy_ends_in_damping_before_which_the_operator_is_told():
    stage = Stage("one", "two").ready()
    stage.go(DURATION + 0.1, "go")
    assert stage.machine.mode == "hold"
    assert "holding for 10 s, then damping" in stage.machine.said[-1]
    stage.go(0.1, "next")  # another clip is chosen: the one that was played goes on holding
    assert stage.machine.acting.name == "one" and stage.machine.player.name == "two"
    stage.go(HOLD_S - HOLD_WARNING_S - 1.0)
    assert not any("damping in" in line for line in stage.machine.said)
    stage.go(1.5)
    stage.go(HOLD_WARNING_S - 1.0)
    assert stage.machine.mode == "hold"
    assert sum("damping in 5 s: hold the robot" in line for line in stage.machine.said) == 1
    assert stage.go(1.0).request == requests.DAMP and stage.machine.mode == "damp"
    assert "held for 10 s: damping" in stage.machine.said
    held = [d for _, d in stage.decisions if d.mode == "hold"]
    assert abs(len(held) * DT - HOLD_S) < 3 * DT


def test_a_policy_made_for_standing_stands_for_as_long_as_it_is_let():
    stage = Stage("one", between=player("stander")).ready()
    stage.go(DURATION + 3.0 * HOLD_S, "go")
    assert stage.machine.mode == "hold" and stage.machine.acting.name == "stander"
    assert "'one' is over: 'stander' stands" in stage.machine.said
    stage.go(DT, "go")
    assert stage.machine.mode == "track" and stage.machine.acting.name == "one"


def test_a_clip_does_not_begin_far_from_its_first_frame():
    stage = Stage().ready()
    stage.pos = stage.pos + 0.5
    stage.go(DT, "go")
    assert stage.machine.mode == "ready"
    assert any("not from here: a joint is 0.50 rad" in line for line in stage.machine.said)


def test_a_fault_ends_in_damping_from_which_only_quitting_leads():
    stage = Stage().ready()
    stage.go(0.4, "go")
    assert stage.go(DT, fault="tilt: it leans").request == requests.DAMP
    for order in ("arm", "stand", "go", "damp", "next"):
        assert stage.go(0.1, order).request == requests.DAMP
        assert stage.machine.mode == "fault"
    stage.go(DT, "quit")
    assert stage.machine.quit


def test_what_the_runtime_refuses_is_a_fault_at_once():
    stage = Stage().ready()
    stage.go(0.1, "go")
    stage.pos = np.full(len(NAMES), np.nan)
    decision = stage.go(DT)
    assert decision.request == requests.FAULT and "refuses" in decision.text
    assert stage.machine.mode == "fault"


def test_low_gains_are_a_part_of_the_contracts():
    weak, full = player(gain=0.2), player()
    np.testing.assert_allclose(weak.stiffness, 0.2 * full.stiffness)
    np.testing.assert_allclose(full.stiffness, toy_policy().contract.stiffness)


def polls(keys: RemoteKeys, *masks: int) -> list[str]:
    return [order for k, mask in enumerate(masks)
            for order in keys.poll(0.02 * k, "damp", at(remote_keys=mask))]  # fmt: skip


def test_a_button_counts_once_when_it_goes_down_and_not_while_it_bounces():
    start, none = key_bits("START"), 0
    assert polls(RemoteKeys(), *[none] * 3, *[start] * 30, *[none] * 3) == ["arm"]
    assert polls(RemoteKeys(), *[none] * 3, *[start, none] * 10) == []
    assert polls(RemoteKeys(), *[none] * 3, *([start] * 4 + [none] * 4) * 3) == ["arm"] * 3


def test_a_button_that_was_down_from_the_beginning_means_nothing():
    start = key_bits("START")
    assert polls(RemoteKeys(), *[start] * 20) == []


def test_a_chord_is_never_taken_for_its_first_button():
    a, select = key_bits("A"), key_bits("SELECT")
    assert polls(RemoteKeys(), *[0] * 3, a, *[a | select] * 20, *[a] * 10, *[0] * 5) == []


def test_a_remote_that_is_gone_presses_nothing():
    keys = RemoteKeys()
    polls(keys, 0, 0, 0)
    gone = at(remote_keys=key_bits("A"), remote_connected=False)
    assert [keys.poll(1.0, "ready", gone) for _ in range(9)] == [[]] * 9


def test_without_a_terminal_there_is_nobody_who_could_arm(monkeypatch):
    monkeypatch.setattr(key_module.sys, "stdin", io.StringIO("a\ns\ng\n"))
    with pytest.raises(InputError, match="there is no terminal, so nobody could stop the robot"):
        TerminalKeys()


def test_a_terminal_gives_an_order_for_a_key_and_ends_with_the_terminal(monkeypatch):
    import os
    import pty

    master, slave = pty.openpty()
    with os.fdopen(slave, "rb", buffering=0) as terminal:
        monkeypatch.setattr(key_module.sys, "stdin", terminal)
        keys = TerminalKeys()
        os.write(master, b"aaa")
        assert keys.poll(10.0, "", None) == ["arm"]  # a held key counts once
        os.write(master, b"S ")
        assert keys.poll(10.5, "", None) == ["stand", "damp"]
        os.write(master, b"a  ")
        assert keys.poll(11.0, "", None) == ["arm", "damp", "damp"]
        keys.close()
        os.close(master)


def test_a_script_waits_for_times_and_modes():
    keys = ScriptedKeys("arm@0.09 go@ready quit@hold")
    heard = []
    for k in range(200):
        mode = "damp" if k < 50 else "ready" if k < 100 else "hold"
        heard += [(k, order) for order in keys.poll(5.0 + DT * k, mode, None)]
    assert heard == [(5, "arm"), (75, "go"), (125, "quit")]
    with pytest.raises(InputError, match=r"'fly@1' is no ORDER@TIME"):
        ScriptedKeys("fly@1")


class FakeSupervisor:
    """Takes posts; its robot stands still."""

    def __init__(self) -> None:
        self.handover = Handover.create(len(NAMES))
        self.handover.post_state(self.handover.frames.pack_state(at()))
        self.posts, self.lives, self.said = [], True, {}

    def post(self, post) -> int:
        self.posts.append(post)
        return self.handover.post(post)

    def status(self) -> dict:
        return self.said

    def alive(self) -> bool:
        return self.lives


def a_loop(script="arm@0 stand@0.02", **options) -> tuple[Loop, FakeSupervisor]:
    limits = SafetyLimits.of([toy_policy().contract], NAMES)
    fake = FakeSupervisor()
    said = []
    session = Session([player()], limits, LinkSpec("twin", ""), [ScriptedKeys(script)],
                      say=said.append, **options)  # fmt: skip
    return Loop(session, fake), fake


def test_every_tick_is_posted_and_recorded_with_what_led_to_it():
    loop, fake = a_loop()
    for k in range(10):
        loop.tick(k * DT, 0.0001)
    assert len(fake.posts) == 10
    entries, _, missed = fake.handover.policy_ring.after(0)
    assert missed == 0 and sum(e.kind == ACTION for e in entries) == 10
    rows = [np.frombuffer(e.data, loop._actions)[0] for e in entries if e.kind == ACTION]
    assert [int(r["sequence"]) for r in rows] == list(range(1, 11))
    assert rows[0]["state_tick"] == 5000 and rows[0]["wake_s"] == np.float32(0.0001)
    assert any(b'"mode"' in e.data for e in entries if e.kind == EVENT)
    assert loop.histograms["tick"].count == 10


def test_three_overruns_in_a_row_are_a_fault_while_the_robot_is_stiff():
    loop, fake = a_loop()
    for k in range(3):
        loop._overrun(k + 1)
    assert fake.posts == []  # passive: nothing to damp
    for k in range(5):
        loop.tick(k * DT, 0.0)
        time.sleep(0.02)
    assert loop.machine.mode == "stand"
    for k in range(3):
        loop._overrun(k + 1)
    assert fake.posts[-1].request == requests.FAULT
    assert b"3 control steps in a row took longer than 20 ms" in fake.posts[-1].text


def test_an_interrupt_damps_and_the_second_one_ends():
    loop, fake = a_loop()
    for k in range(5):
        loop.tick(k * DT, 0.0)
        time.sleep(0.02)
    loop.interrupt()
    loop.tick(0.1, 0.0)
    assert loop.machine.mode == "damp" and fake.posts[-1].request == requests.DAMP
    loop._check_end(0.12)
    assert not loop.machine.quit
    loop.interrupt()
    loop._check_end(0.14)
    assert loop.machine.quit


def test_a_dead_supervisor_ends_the_loop():
    loop, fake = a_loop()
    fake.lives = False
    loop.tick(0.0, 0.0)
    assert loop.gone and fake.posts == []


def test_an_exception_is_said_to_the_supervisor():
    loop, fake = a_loop()
    loop.fail(RuntimeError("x" * 500))
    assert fake.posts[-1].request == requests.FAULT
    assert fake.posts[-1].text.startswith(b"RuntimeError: xxx")
