"""What somebody found who wanted the robot to move when it must not; each was a hole once."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from test_deploy_guards import BrokenLink, Supervised, Typed
from test_deploy_loop import DT, FakeSupervisor, Stage, a_loop, at, player
from twin_process import SQUAT, TwinProcess
from virtual_robot import limits

from asap_deploy import cli, supervisor
from asap_deploy import handover as requests
from asap_deploy import keys as key_module
from asap_deploy import loop as loop_module
from asap_deploy.errors import InputError
from asap_deploy.golden import load_policy
from asap_deploy.handover import Post, own_program
from asap_deploy.keys import OnlyStop, ScriptedKeys, Stoppable, TerminalKeys
from asap_deploy.link import LinkSpec, RobotFacts
from asap_deploy.policy import Policy
from asap_deploy.preflight import FAIL, look_at_contracts
from asap_deploy.realtime import at_priority
from asap_deploy.shared import Shared
from asap_deploy.supervised import Supervisor
from policies import toy_policy

JOINTS = 29


@contextlib.contextmanager
def terminal(monkeypatch):
    """Keys, and the end at which a person types."""
    import pty

    master, slave = pty.openpty()
    with os.fdopen(slave, "rb", buffering=0) as stream:
        monkeypatch.setattr(key_module.sys, "stdin", stream)
        keys = TerminalKeys()
        yield keys, lambda text: os.write(master, text)
        keys.close()
        os.close(master)


@pytest.mark.parametrize("text", [
    b"\x1b[A", b"\x1b[1;5A", b"\x1bOS", b"\x1b[N", b"\x1bOA", b"\x1bs", b"\x1b[200~", b"\x1b",
])  # fmt: skip
def test_arrow_and_function_keys_are_no_letters(monkeypatch, text):
    """The up arrow is ESC [ A, F4 is ESC O S: they armed the robot and had it stand up."""
    with terminal(monkeypatch) as (keys, typed):
        typed(text)
        assert keys.poll(10.0, "passive", None) == []
        typed(b"a")
        assert keys.poll(11.0, "passive", None) == ["arm"]


def test_a_key_that_comes_in_two_parts_is_no_letter_either(monkeypatch):
    with terminal(monkeypatch) as (keys, typed):
        for part, now_s in ((b"\x1b", 10.0), (b"[", 10.02), (b"A", 10.04)):
            typed(part)
            assert keys.poll(now_s, "passive", None) == []


@pytest.mark.parametrize("before", [b"\x1b", b"\x1b[A", b"as", b"asap-deploy run"])
@pytest.mark.parametrize("stop", [b"d", b" "])
def test_nothing_typed_before_keeps_a_stop_from_counting(monkeypatch, before, stop):
    with terminal(monkeypatch) as (keys, typed):
        typed(before + stop)
        assert "damp" in keys.poll(10.0, "track", None)
        typed(before)
        keys.poll(11.0, "track", None)
        typed(stop)
        assert keys.poll(11.5, "track", None) == ["damp"]


def test_a_text_that_is_pasted_moves_nothing(monkeypatch):
    with terminal(monkeypatch) as (keys, typed):
        typed(b"as")
        assert keys.poll(10.0, "passive", None) == []
        typed(b"gravel")
        assert keys.poll(11.0, "ready", None) == []


def test_after_a_ctrl_z_keys_count_without_enter_again(monkeypatch):
    import signal
    import termios

    with terminal(monkeypatch) as (keys, typed):
        termios.tcsetattr(keys._fd, termios.TCSANOW, keys._before)  # as a shell does
        typed(b" ")
        assert keys.poll(10.0, "track", None) == []
        signal.raise_signal(signal.SIGCONT)
        assert keys.poll(10.1, "track", None) == ["damp"]
    assert signal.getsignal(signal.SIGCONT) is signal.SIG_DFL


def test_after_an_interrupt_no_order_moves_the_robot_any_more():
    """On the ladder the script stood up half a second after the operator's Ctrl-C."""
    loop, fake = a_loop("arm@0 stand@0.06 go@0.08")
    for k in range(2):
        loop.tick(k * DT, 0.0)
    assert loop.machine.mode == "damp"
    loop.interrupt()
    for k in range(2, 10):
        loop.tick(k * DT, 0.0)
        time.sleep(0.02)
    assert loop.machine.mode == "damp"
    assert {post.request for post in fake.posts[1:]} == {requests.DAMP}


def test_after_an_interrupt_nobody_is_armed():
    loop, fake = a_loop("arm@0")
    loop.interrupt()
    loop.tick(0.0, 0.0)
    loop._check_end(0.0)
    assert loop.machine.quit and [post.request for post in fake.posts] == [requests.PASSIVE]


@pytest.mark.parametrize("stop", ["damp", "quit"])
def test_after_the_operators_stop_the_ladders_script_says_nothing_more(stop):
    """A space while the robot was passive, or already damped, did not keep it from standing up."""
    script = ScriptedKeys("arm@0.06 stand@0.1")
    keys = Stoppable(script, [OnlyStop(Typed("", stop))])
    heard = [order for k in range(200) for order in keys.poll(5.0 + DT * k, "damp", at())]
    assert heard == ["damp", *["quit"] * heard.count("quit")] and "quit" in heard
    assert keys.stopped and script.left == ["arm", "stand"]


def test_who_stands_on_the_ground_is_not_told_to_hold_a_pose():
    """`s` in hold switched balance off: the robot fell, stiff, within two seconds."""
    stage = Stage("wave", between=player("stander")).ready()
    stage.go(DT, "go")
    stage.go(3.0)
    assert stage.machine.mode == "hold"
    stage.go(DT, "stand")
    assert stage.machine.mode == "hold"
    assert any("d damps it first" in line for line in stage.machine.said)
    stage.go(DT, "damp")
    stage.go(DT, "stand")
    assert stage.machine.mode == "stand"


@pytest.mark.parametrize("name", ["joint_pos", "joint_vel", "base_quat_wxyz", "anchor_pos_w"])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e9])
def test_a_clip_that_holds_no_numbers_is_refused_when_it_is_loaded(monkeypatch, name, value):
    """Golden vectors see its first frames only: the rest would have damped a moving robot."""
    policy = toy_policy()
    tables = type(policy.graph).clip_table

    def broken(graph, wanted):
        table = np.array(tables(graph, wanted), np.float32)
        if wanted == name:
            table[-1, 0] = value
        return table

    monkeypatch.setattr(type(policy.graph), "clip_table", broken)
    with pytest.raises(InputError, match=f"the clip inside the ONNX file has {name} with numbers"):
        Policy(policy.contract, policy.graph, policy.data)


def test_a_start_pose_that_is_no_number_begins_no_clip():
    stage = Stage().ready()
    stage.machine.player.start_joint_pos = np.full_like(stage.pos, np.nan)
    stage.go(DT, "go")
    assert stage.machine.mode == "ready"


@pytest.mark.parametrize("module", ["supervisor", "recorder"])
def test_a_file_that_lies_where_the_run_was_started_is_not_run(module, tmp_path):
    """``python -m`` looks in the working directory first: there may be another asap_deploy."""
    package = tmp_path / "asap_deploy"
    package.mkdir()
    for file in (tmp_path / "select.py", package / "__init__.py"):
        file.write_text("print('the wrong one')\nraise SystemExit(7)\n")
    words = own_program(f"asap_deploy.{module}", "{}")
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert "the wrong one" not in done.stdout
    assert "KeyError" in done.stderr, done.stderr  # ours, which was told nothing


def test_all_memory_is_there_from_the_beginning():
    """Else the supervisor is killed by SIGBUS at the first write for which there is no room."""
    memory = Shared.create(1 << 22)
    assert 512 * os.fstat(memory.fd).st_blocks >= 1 << 22


def test_a_contract_cannot_have_a_hung_policy_noticed_late():
    contract = load_policy(SQUAT).contract
    slow = dataclasses.replace(contract, control_dt=0.2)
    (check,) = look_at_contracts([slow], RobotFacts("g1", contract.joint_names))
    assert check.verdict == FAIL and "noticed after 0.6 s" in check.text


def test_children_import_what_their_parent_does(tmp_path, monkeypatch):
    code = "import json, sys; main = lambda words: print(json.dumps([words, sys.path]))"
    (tmp_path / "a_child.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    found = subprocess.run(own_program("a_child", "x"), cwd="/", capture_output=True, check=True)
    assert json.loads(found.stdout) == [["x"], [os.path.abspath(place) for place in sys.path]]


def test_who_is_told_to_end_damps_for_as_long_as_a_robot_sinks():
    """Two Ctrl-C, or a closed terminal, left a standing robot to itself after 0.3 s."""
    link = BrokenLink()
    with Supervised(link) as run:
        run.until(lambda: run.loop.core.watch.latest is not None)
        run.post(requests.MOVE)
        run.post(requests.DAMP)
        run.until(lambda: link.written)
        run.post(requests.END)
        start_s = time.monotonic()
        run._thread.join(5.0)
    assert time.monotonic() - start_s >= 1.0
    late = [command for time_s, command in link.written if time_s > start_s + 0.8]
    assert len(late) > 20 and not any(command.stiffness.any() for command in late)
    assert supervisor.END_S < 3.0  # no longer than the policy's side waits


class Asked:
    answers = None


@pytest.mark.parametrize("error", [EOFError, KeyboardInterrupt])
def test_a_question_that_is_not_answered_is_a_no(monkeypatch, error):
    """The answers so far were lost with a traceback."""

    def gone(question):
        raise error

    monkeypatch.setattr(cli.sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", gone)
    assert cli._asker(Asked())("go on? [y/N]") == "n"


class Ended(FakeSupervisor):
    """Remembers under which scheduling it was told to end."""

    def fault(self) -> None:
        return None

    def end(self, control_dt: float) -> list[str]:
        self.ended_at = os.sched_getscheduler(0)
        return []


def test_a_run_gives_its_priority_and_its_core_back_when_all_has_ended(monkeypatch):
    """On the ladder the second rung's recorder, and its Python's start, had the loop's priority."""
    before, fake = (os.sched_getscheduler(0), os.sched_getaffinity(0)), Ended()
    monkeypatch.setattr(loop_module.Supervisor, "start", lambda *_, **__: fake)
    session = a_loop(seconds=0.0, core=min(before[1]))[0].session
    with at_priority(loop_module.LOOP_PRIORITY) as allowed:
        pass
    try:
        loop_module.run(session)
    finally:
        gc.enable()
        gc.unfreeze()
    assert (os.sched_getscheduler(0), os.sched_getaffinity(0)) == before
    assert fake.ended_at == (os.SCHED_FIFO if allowed else before[0])


def test_of_two_supervisors_the_second_never_writes(tmp_path):
    with TwinProcess(tmp_path) as twin:
        lim = limits_of(twin)
        first, second = (Supervisor.start(lim, twin.spec) for _ in range(2))
        try:
            armed(first, 0.6)
            assert first.status()["writing"] and first.fault() is None
            armed(second, 0.4, beside=first)
            assert not second.status()["writing"] and second.fault()[0] == "publishers"
            assert first.status()["writing"] and first.fault() is None
        finally:
            for one in (first, second):
                one.end()


def test_of_two_that_arm_at_once_none_moves_the_robot(tmp_path):
    with TwinProcess(tmp_path) as twin:
        lim = limits_of(twin)
        both = [Supervisor.start(lim, twin.spec) for _ in range(2)]
        try:
            armed(both[0], 0.8, beside=both[1])
            for one in both:
                assert one.fault() is None or one.fault()[0] == "publishers"
            assert sum(one.fault() is None for one in both) <= 1
            assert twin.report()["last_stiff_s"] < twin.report()["last_damped_s"]
        finally:
            for one in both:
                one.end()


def limits_of(twin):
    from asap_deploy.links import open_link
    from asap_deploy.safety import SafetyLimits

    link = open_link(LinkSpec("twin", twin.address, read_only=True))
    names = link.facts.joint_names
    link.close()
    return SafetyLimits.of([load_policy(SQUAT).contract], names)


def armed(one: Supervisor, seconds: float, beside: Supervisor | None = None) -> None:
    """Posts that ask for damping, as a policy's loop does."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for each in (one, beside):
            if each is not None:
                each.post(Post.of(requests.DAMP, JOINTS, time.monotonic(), DT))
        time.sleep(0.01)


def test_a_recording_that_is_there_already_is_bad_input(tmp_path, capsys):
    out = Path(tmp_path / "run.mcap")
    out.write_text("mine")
    with TwinProcess(tmp_path) as twin:
        words = ["run", str(SQUAT), "--link", "twin", "--address", twin.address, "--self-test-s",
                 "0.1", "--out", str(out), "--script", "arm@0"]  # fmt: skip
        assert cli.main(words) == 2
        assert "a recording is never overwritten" in capsys.readouterr().err
        assert "accepted" not in twin.report()["counts"]
    assert limits().control_dt == DT and out.read_text() == "mine"
