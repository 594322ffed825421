"""What the supervisor, the loop and the preflight do when something beside the policy is wrong."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from test_deploy_loop import Stage, a_loop, at
from virtual_robot import DT, JOINTS, STATE_DT, VirtualRun, limits, state

from asap.robot import Robot
from asap_deploy import handover as requests
from asap_deploy import keys as key_module
from asap_deploy import loop as loop_module
from asap_deploy import preflight, supervisor
from asap_deploy.errors import InputError
from asap_deploy.golden import load_policy
from asap_deploy.guards import STATE_GUARDS, StateWatch
from asap_deploy.handover import Handover, Post
from asap_deploy.keys import OnlyStop, TerminalKeys
from asap_deploy.link import LinkStats, RobotFacts
from asap_deploy.preflight import FAIL, OK, WARN, look_at_contracts
from asap_deploy.realtime import LOOP_PRIORITY, at_priority
from asap_deploy.safety import CommandFilter, SafetyLimits
from asap_deploy.supervisor import SupervisorCore, SupervisorLoop
from policies import robot, toy_contract

G1 = RobotFacts(robot="g1", joint_names=(), is_real=True)
PATIENT_DT = 10.0
"""A control step so long that no busy machine makes a policy late [s]."""

POLICIES = sorted((Path(__file__).parents[1] / "policies" / "g1").glob("*.onnx"))


class BrokenLink:
    """States come in until something of the link breaks; commands are kept."""

    def __init__(self, breaks: str = "", held_back: bool = False) -> None:
        self.breaks, self.held_back, self.broken = breaks, held_back, False
        self.tick, self.written = 5000, []

    def _maybe(self, what: str) -> None:
        if self.broken and self.breaks == what:
            raise OSError(f"{what} is broken")

    def wait(self, timeout_s: float) -> bool:
        self._maybe("wait")
        time.sleep(STATE_DT)
        return True

    def read_new(self) -> list:
        self._maybe("read")
        now = time.monotonic()
        self.tick += 2
        return [state(self.tick, now)]

    def stats(self, now_s: float) -> LinkStats:
        self._maybe("stats")
        return LinkStats(1, 0)

    def write(self, command) -> bool:
        self._maybe("write")
        self.written.append((time.monotonic(), command))
        return not self.held_back


class Supervised:
    """A supervisor's loop in a thread, on a link of a test's own; its clock is not looked at."""

    def __init__(self, link: BrokenLink, tick_lag_s: float = 10.0) -> None:
        self.memory, self.link = Handover.create(JOINTS), link
        read_fd, self._write_fd = os.pipe()
        lenient = limits(tick_lag_s=tick_lag_s, state_age_s=10.0, control_dt=PATIENT_DT)
        self.loop = SupervisorLoop(SupervisorCore(lenient), link, self.memory, read_fd)
        self._thread = threading.Thread(target=self.loop.run)

    def __enter__(self) -> Supervised:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.loop.told_s = time.monotonic()
        self._thread.join(5.0)
        os.close(self._write_fd)

    def post(self, request: int) -> None:
        """With a deadline that no busy machine misses."""
        now_s, gain = time.monotonic(), np.full(JOINTS, 2.0)
        post = Post.of(request, JOINTS, now_s, PATIENT_DT)
        if request == requests.MOVE:
            post = Post.move(0.0 * gain, 20.0 * gain, gain, now_s=now_s, control_dt=PATIENT_DT)
        self.memory.post(post)

    def until(self, what) -> None:
        end = time.monotonic() + 5.0
        while not what():
            assert time.monotonic() < end, "it did not come"
            time.sleep(0.002)


@pytest.mark.parametrize("breaks", ["read", "wait", "stats"])
def test_a_link_that_breaks_on_the_way_in_still_carries_damping_out(breaks):
    link = BrokenLink(breaks)
    with Supervised(link) as run:
        run.until(lambda: run.loop.core.watch.latest is not None)
        run.post(requests.DAMP)
        run.until(lambda: link.written)
        link.broken = True
        run.until(lambda: run.loop.core.fault is not None)
        before = len(link.written)
        run.until(lambda: len(link.written) > before + 20)
        run.until(lambda: run.memory.status().get("fault"))
        assert run.memory.status()["fault"][0] == "supervisor_error"
    for _, command in link.written[before:]:
        assert command.damping.all() and not command.stiffness.any()


def test_a_link_that_cannot_write_is_a_fault_and_the_supervisor_lives_on():
    link = BrokenLink("write")
    with Supervised(link) as run:
        run.until(lambda: run.loop.core.watch.latest is not None)
        link.broken = True
        run.post(requests.DAMP)
        run.until(lambda: run.memory.status().get("fault"))
        link.broken = False
        run.until(lambda: len(link.written) > 5)
    assert all(not command.stiffness.any() for _, command in link.written)


class QueuedLink(BrokenLink):
    """A robot's clock that is as good as ours; what waited before the first look is older."""

    def read_new(self) -> list:
        now, waited = time.monotonic(), self.tick == 5000
        self.tick = round(1000.0 * now) - 150 * waited
        return [state(self.tick, now)]


def test_states_that_waited_while_the_supervisor_started_set_no_clock():
    with Supervised(QueuedLink(), tick_lag_s=0.06) as run:
        run.until(lambda: run.loop.core.watch.latest is not None)
        run.post(requests.DAMP)
        run.until(lambda: len(run.link.written) > 20 or run.loop.core.fault is not None)
        assert run.loop.core.fault is None
    faults: dict[str, str] = {}
    assert preflight._listen(QueuedLink(), StateWatch(limits()), faults, 0.05) and not faults


def test_the_threads_of_a_link_have_the_supervisors_priority(monkeypatch):
    """On a busy machine those that receive states would else come last: measured, 20 ms late."""
    memory, order = Handover.create(JOINTS), []
    config = {"limits": supervisor.limits_to_json(limits()), "memory_fd": memory.memory.fd,
              "memory_size": memory.memory.size, "policy_fd": 0,
              "link": {"kind": "pigeon", "address": ""}}  # fmt: skip
    opened = supervisor.open_link
    monkeypatch.setattr(supervisor, "make_realtime", lambda *_: order.append("priority"))
    monkeypatch.setattr(supervisor, "open_link", lambda spec: order.append("link") or opened(spec))
    monkeypatch.setattr(supervisor.signal, "signal", lambda *_: None)
    assert supervisor.main([json.dumps(config)]) == 2
    assert order == ["priority", "link"]
    assert "there is no link 'pigeon'" in memory.status()["failed"]


def test_what_the_robots_own_controller_holds_back_is_never_a_target():
    """Else the first command that comes out would be a leap, from a pose that nobody holds."""
    link = BrokenLink(held_back=True)
    with Supervised(link) as run:
        run.until(lambda: run.loop.core.watch.latest is not None)
        run.post(requests.DAMP)
        run.until(lambda: run.memory.status().get("held_back"))
        run.post(requests.MOVE)
        run.until(lambda: run.loop.core.fault is not None)
    assert "before the robot's own controller let go" in run.loop.core.fault.text
    assert all(not command.stiffness.any() for _, command in link.written)
    assert not run.memory.robot_ring.after(0)[0] or all(
        entry.kind != requests.COMMAND for entry in run.memory.robot_ring.after(0)[0]
    )  # what did not go out is not recorded as if it had


def test_nobody_stands_up_while_the_robots_own_controller_has_the_motors():
    stage = Stage()
    stage.go(DT, "arm")
    stage.machine.held_back = True
    assert stage.go(0.2, "stand").request == requests.DAMP
    assert any("own controller has not let go" in line for line in stage.machine.said)
    stage.machine.held_back = False
    assert stage.go(DT, "stand").request == requests.MOVE


def test_targets_that_come_faster_than_the_policys_rate_win_no_speed():
    lim = limits(step_limit=np.full(JOINTS, 0.05))
    command_filter, ticks = CommandFilter(lim), 20
    gains = np.full(JOINTS, 50.0), np.full(JOINTS, 2.0)
    for k in range(10 * ticks):  # a post at every write, ten a tick
        command_filter.accept(np.full(JOINTS, 1.4), *gains, 5.0 + STATE_DT * k)
        pos = 0.0 if command_filter._written is None else command_filter._written
        command, _ = command_filter.command(state(joint_pos=np.zeros(JOINTS) + pos))
    assert command.joint_pos_target.max() <= 0.05 * (ticks + 1) + 1e-9


@pytest.mark.parametrize("early", [-0.3, 0.3])
def test_a_post_that_is_a_little_early_or_late_has_its_whole_step(early):
    lim = limits(step_limit=np.full(JOINTS, 0.05))
    command_filter = CommandFilter(lim)
    gains = np.full(JOINTS, 50.0), np.full(JOINTS, 2.0)
    for k in range(20):
        now_s = DT * (k + early * (k % 2))
        command_filter.accept(np.full(JOINTS, 1.4), *gains, now_s)
        pos = 0.0 if command_filter._written is None else command_filter._written
        command, _ = command_filter.command(state(joint_pos=np.zeros(JOINTS) + pos))
    np.testing.assert_allclose(command.joint_pos_target, 0.05 * 20)


def test_policies_for_two_robots_are_refused_and_not_taken_to_fit_any():
    one, other, both = (dataclasses.replace(toy_contract(), mode_machine=machines)
                        for machines in ((5,), (4, 6), (5, 6)))  # fmt: skip
    names = robot().joint_names
    with pytest.raises(InputError, match=r"must fit one robot; their mode_machine: \[5\], \[4, 6"):
        SafetyLimits.of([one, other], names)
    assert SafetyLimits.of([one, both], names).mode_machine == (5,)


def test_nobody_arms_without_a_remote_that_could_stop_the_robot():
    watch = StateWatch(limits())
    watch.take([state(remote_connected=False)], 100.0)
    fault = watch.fault(100.0, LinkStats(1, 0))
    assert fault is not None and fault.guard == "remote_lost" and "never there" in fault.text
    run = VirtualRun()
    run.faults.add("lost_remote", run.now_s)
    run.run(0.1)
    assert run.core.fault.guard == "remote_lost"
    assert all(command is None for _, command, _ in run.commands)


def test_keys_that_were_typed_while_the_checks_ran_arm_nobody(monkeypatch):
    import pty

    master, slave = pty.openpty()
    with os.fdopen(slave, "rb", buffering=0) as terminal:
        monkeypatch.setattr(key_module.sys, "stdin", terminal)
        keys = TerminalKeys()
        os.write(master, b"a")
        keys.begin()
        assert keys.poll(10.0, "", None) == []
        os.write(master, b"a")
        assert keys.poll(11.0, "", None) == ["arm"]
        keys.close()
        os.close(master)


def test_a_loop_begins_to_listen_when_it_begins(monkeypatch):
    monkeypatch.setattr(loop_module, "make_realtime", lambda *_: [])
    loop, _ = a_loop(seconds=0.0)
    heard = []
    monkeypatch.setattr(loop.session.keys[0], "begin", lambda: heard.append("begin"))
    poll = loop.session.keys[0].poll
    monkeypatch.setattr(
        loop.session.keys[0], "poll", lambda *words: heard.append("poll") or poll(*words)
    )
    loop.run()
    assert heard[:2] == ["begin", "poll"]


def test_a_supervisor_that_is_stopped_is_told_to_the_operator_once():
    loop, fake = a_loop()
    now_s = time.monotonic()
    for age_s in (0.0, 0.1, 0.5, 0.6, 0.01):
        loop._watch_supervisor({"time_s": now_s - age_s}, now_s)
    told = [loop._said.get_nowait() for _ in range(loop._said.qsize())]
    assert len(told) == 1 and "the supervisor is silent for 0.5 s" in told[0]
    fake.said = {"time_s": time.monotonic() - 1.0, "held_back": True}
    loop.tick(0.0, 0.0)
    assert loop.machine.held_back and "silent" in loop._said.get_nowait()


class Typed:
    """Orders as they come."""

    def __init__(self, *orders: str) -> None:
        self.orders, self.begun = [[order] if order else [] for order in orders], 0

    def begin(self) -> None:
        self.begun += 1

    def poll(self, *_: object) -> list[str]:
        return self.orders.pop(0) if self.orders else []

    def close(self) -> None:
        pass


def test_on_the_ladder_the_operator_can_stop_and_do_nothing_else():
    stop = OnlyStop(Typed("arm", "stand", "go", "next", "damp", "go"))
    stop.begin()
    heard = [stop.poll(0.02 * k, "stand", at()) for k in range(6)]
    assert heard == [[], [], [], [], ["damp"], []]
    assert stop.stopped_s == pytest.approx(0.08)
    assert stop.poll(0.09 + stop.DAMP_S, "damp", at()) == ["quit"]


def test_the_timing_test_has_the_loops_priority_and_gives_it_back():
    before = os.sched_getscheduler(0)
    with at_priority(LOOP_PRIORITY) as allowed:
        inside = os.sched_getscheduler(0)
    assert os.sched_getscheduler(0) == before
    assert inside == (os.SCHED_FIFO if allowed else before)
    with pytest.raises(ZeroDivisionError), at_priority(LOOP_PRIORITY):
        print(1 // 0)
    assert os.sched_getscheduler(0) == before


def test_the_table_of_what_a_g1_can_do_is_that_of_its_model():
    model, table = Robot.load("g1"), preflight._g1()
    assert set(table) == set(model.joint_names)
    for place, name in enumerate(model.joint_names):
        told = [model.joint_pos_lower[place], model.joint_pos_upper[place],
                model.torque_limit[place], model.joint_vel_limit[place]]  # fmt: skip
        np.testing.assert_allclose(table[name], told, atol=1e-4, err_msg=name)


def test_the_shipped_policies_promise_no_more_than_a_g1_can_do():
    contracts = [load_policy(path).contract for path in POLICIES]
    assert contracts and {check.verdict for check in look_at_contracts(contracts, G1)} == {OK}


@pytest.mark.parametrize(("field", "joint", "factor"), [
    ("torque_limit", "left_knee_joint", 2.0), ("joint_pos_upper", "waist_roll_joint", 1.5),
    ("joint_pos_lower", "right_hip_roll_joint", 1.1), ("stiffness", "left_elbow_joint", 20.0),
    ("joint_vel_limit", "left_ankle_roll_joint", 1.1), ("damping", "right_knee_joint", 12.0),
    ("damping", "right_knee_joint", 0.0),
])  # fmt: skip
def test_a_contract_that_promises_more_than_the_robot_can_do_is_refused(field, joint, factor):
    contract = load_policy(POLICIES[0]).contract
    values = list(getattr(contract, field))
    values[contract.joint_names.index(joint)] *= factor
    changed = dataclasses.replace(contract, **{field: tuple(values)})
    (check,) = look_at_contracts([changed], G1)
    assert check.verdict == FAIL and f"{field} of {joint} is" in check.text


def test_a_real_robot_takes_no_policys_word_for_what_it_is():
    contract = load_policy(POLICIES[0]).contract
    (check,) = look_at_contracts([dataclasses.replace(contract, mode_machine=())], G1)
    assert check.verdict == FAIL and "it names no mode_machine" in check.text
    other = dataclasses.replace(G1, robot="toy")
    assert look_at_contracts([contract], other)[-1].verdict == FAIL
    assert look_at_contracts([contract], dataclasses.replace(other, is_real=False))[-1].verdict == (
        WARN
    )


def test_the_table_of_guards_names_every_guard_and_tests_that_exist():
    folder = Path(__file__).parent
    text = (folder.parent / "deploy" / "README.md").read_text()
    table = text[text.index("## Every guard") : text.index("### Measured")]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row[0])}
    assert set(STATE_GUARDS) <= named
    assert {"policy_late", "policy_dead", "policy_data", "policy_refused"} <= named
    sources = "".join(path.read_text() for path in folder.glob("test_*.py"))
    tests = " ".join(re.findall(r"def (test_\w+)", sources))
    for name in re.findall(r"`\.\.([\w]+?)(?:\.\.)?`", table):
        assert name.strip("_") in tests, name
    for name in re.findall(r"`(test_\w+)`", table):
        assert (folder / f"{name}.py").exists(), name
    for words in re.findall(r"\[([a-z_=.\-0-9]+)\]", table):
        assert f'"{words}"' in sources, words
