"""Late, dead, stopped or mad: whatever a policy does, the robot is damped in whole frames."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time

import numpy as np
import pytest
from twin_process import SQUAT, TwinProcess, end_process, lines_until, policy_process
from virtual_robot import DT, JOINTS, STATE_DT, VirtualRun, limits, state

from asap_deploy import handover as requests
from asap_deploy.handover import Handover, Post
from asap_deploy.recording import open_recording
from asap_deploy.shared import Mailbox, Ring, Shared
from asap_deploy.supervised import Supervisor
from asap_deploy.supervisor import limits_from_json, limits_to_json

GAIN = np.full(JOINTS, 50.0)


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    with TwinProcess(tmp_path_factory.mktemp("twin")) as running:
        yield running


def move(now_s: float, value=0.1, **changes) -> Post:
    post = Post.move(np.full(JOINTS, value), GAIN, np.full(JOINTS, 2.0), now_s=now_s,
                     control_dt=DT)  # fmt: skip
    return post._replace(**changes)


def damp(now_s: float) -> Post:
    return Post.of(requests.DAMP, JOINTS, now_s, DT)


def test_a_policy_that_hangs_is_late_after_three_ticks():
    for phase in range(10):
        run = VirtualRun(seed=phase).run(0.8)
        for _ in range(phase):
            run.step()
        run.posting, start_s = False, run.now_s
        took_s = run.run(0.3).damped_after(start_s)
        assert run.core.fault.guard == "policy_late"
        assert 0.03 < took_s <= 0.06


def test_a_policy_that_is_a_little_late_is_waited_for():
    run = VirtualRun().run(0.8)
    for _ in range(6):
        run.posting = False
        run.run(0.02)
        run.posting = True
        run.run(0.1)
    assert run.core.fault is None


def test_a_policy_that_dies_is_noticed_at_the_next_write():
    run = VirtualRun().run(0.8)
    run.alive, start_s = False, run.now_s
    assert run.run(0.1).damped_after(start_s) <= STATE_DT + 1e-9
    assert run.core.fault.guard == "policy_dead"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"target": np.full(JOINTS, np.nan)}, "target of joint_0 is nan"),
        ({"stiffness": np.full(JOINTS, np.inf)}, "stiffness of joint_0 is inf"),
        ({"target": np.zeros(JOINTS - 1)}, r"target has shape \(11,\)"),
        ({"request": 77}, "unknown request 77"),
        ({"request": requests.FAULT, "text": b"tired"}, "tired"),
    ],
)
def test_what_is_unacceptable_damps_at_the_next_write(change, text):
    run = VirtualRun().run(0.8)
    start_s = run.now_s
    run.posting = False
    run.post(move(run.now_s, **change))
    assert run.run(0.05).damped_after(start_s) <= STATE_DT + 1e-9
    assert run.core.fault.guard in ("policy_data", "policy_refused")
    assert re.search(text, run.core.fault.text)


@pytest.mark.parametrize("deadline_s", [np.nan, np.inf, 1e12])
def test_a_policy_cannot_talk_itself_out_of_its_deadline(deadline_s):
    run = VirtualRun().run(0.8)
    run.posting, start_s = False, run.now_s
    run.post(move(run.now_s, deadline_s=deadline_s))
    assert run.run(0.3).damped_after(start_s) <= 0.06


def test_a_fault_is_latched_whatever_the_policy_says_afterwards():
    run = VirtualRun().run(0.8)
    run.break_with("motor_fault", 0.1)
    run.faults.add("clear", run.now_s)
    start_s = run.now_s
    assert run.run(2.0).damped_after(start_s) <= STATE_DT
    assert run.core.fault.guard == "motor_fault"
    run.alive = False
    run.run(0.1)
    assert run.core.fault.guard == "motor_fault"  # the first reason is the one that is told
    for _, command, damped in run.commands[-200:]:
        assert damped and not command.stiffness.any() and command.damping.all()


def test_nothing_is_written_before_the_robot_is_armed():
    run = VirtualRun()
    run.request = Post.of(requests.PASSIVE, JOINTS, 0.0, DT)
    run.run(1.0)
    assert all(command is None for _, command, _ in run.commands)
    run.request = move(run.now_s)
    run.run(0.1)
    assert all(command is None for _, command, _ in run.commands)
    assert run.core.fault.text == "a target before the robot was armed"


def test_a_robot_with_a_fault_is_not_armed():
    run = VirtualRun()
    run.request = Post.of(requests.PASSIVE, JOINTS, 0.0, DT)
    run.faults.add("second_commander", run.now_s)
    run.run(0.1)
    run.request = None
    run.run(0.3)
    assert run.core.fault.guard == "publishers"
    assert all(command is None for _, command, _ in run.commands)


def test_damping_goes_on_under_the_machine_number_of_the_arming():
    run = VirtualRun().run(0.8)
    run.break_with("wrong_machine", 0.1)
    assert {command.mode_machine for _, command, _ in run.commands[-40:]} == {5}


def test_after_damping_targets_begin_at_the_measured_pose():
    run = VirtualRun().run(0.8)
    run.posting = False
    run.post(damp(run.now_s))
    run.run(0.04)
    run.post(move(run.now_s, value=1.4))
    run.run(0.01)
    # The robot stands at 0, so the first step is one step limit long at most.
    assert np.abs(run.commands[-1][1].joint_pos_target).max() <= 0.4


def test_a_policy_that_turns_passive_again_has_the_robot_damped():
    run = VirtualRun().run(0.8)
    run.request, start_s = Post.of(requests.PASSIVE, JOINTS, 0.0, DT), run.now_s
    assert run.run(0.3).damped_after(start_s) <= 0.022 + STATE_DT
    assert all(command is not None for _, command, _ in run.commands[-100:])


def test_limits_travel_to_another_process_to_the_bit():
    lim = limits(tilt_limit=1.2345678901234567)
    back = limits_from_json(json.loads(json.dumps(limits_to_json(lim))))
    for name, value in lim.__dict__.items():
        np.testing.assert_array_equal(getattr(back, name), value)


def test_a_torn_message_is_never_read():
    memory = Shared.create(Mailbox.size(64))
    view = memory.view(0, memory.size)
    box, reader = Mailbox(view, 64), Mailbox(view, 64)
    assert box.latest() is None
    box.post(b"first")
    box.post(b"second")
    assert reader.latest() == (2, b"second")
    for place in range(memory.size // 2, memory.size):
        before = view[place]
        view[place] ^= 0x55  # as a writer that was stopped half way would leave it
        found = reader.latest()
        assert found in ((1, b"first"), (2, b"second"))
        view[place] = before


def test_a_ring_gives_the_newest_and_counts_what_was_missed():
    memory = Shared.create(Ring.size(8, 16))
    ring = Ring(memory.view(0, memory.size), 8, 16)
    for k in range(5):
        ring.push(k, bytes([k]))
    entries, read, missed = ring.after(0)
    assert [e.data for e in entries] == [bytes([k]) for k in range(5)] and (read, missed) == (5, 0)
    for k in range(20):
        ring.push(1, bytes([k]))
    entries, read, missed = ring.after(read)
    assert entries[-1].data == bytes([19]) and read == 25
    assert len(entries) + missed == 20 and missed > 0


def test_the_handover_keeps_states_and_requests_to_the_bit():
    memory = Handover.create(JOINTS)
    other = Handover.attach(os.dup(memory.memory.fd), memory.memory.size, JOINTS)
    sent = move(5.0, value=0.123456789)
    number = memory.post(sent)
    found = other.newest_post()
    assert found[0] == number and float(found[1].deadline_s) == sent.deadline_s
    np.testing.assert_array_equal(found[1].target, sent.target)
    other.post_state(other.frames.pack_state(state(7777)))
    assert memory.state().tick == 7777
    np.testing.assert_array_equal(memory.state().imu_lin_acc_b, np.float32([0.0, 0.0, 9.81]))


FROM_OUTSIDE = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "interrupt": signal.SIGINT}
POLICY_FAULTS = {  # what breaks: deadline [s], guard that must object
    "hang": (0.06, "policy_late"),
    "stop": (0.06, "policy_late"),
    "kill": (0.06, "policy_dead"),
    "exception": (0.06, "policy_refused"),
    "nan_action": (0.02, "policy_refused"),
    "interrupt": (0.06, None),
}
STREAM_FAULTS = {
    "freeze": (0.1, "state_age"), "drop": (0.1, "state_age"), "delay": (0.1, "state_age"),
    "rollback": (0.1, "state_age"), "bitflip": (0.1, "state_age"), "slow": (0.2, "tick_rate"),
    "nan": (0.02, "state_finite"), "lost_remote": (0.55, "remote_lost"),
    "second_publisher": (0.02, "publishers"), "second_commander": (0.25, "publishers"),
    "motor_fault": (0.02, "motor_fault"), "hot": (0.02, "temperature"),
    "remote_stop": (0.02, "remote_stop"),
}  # fmt: skip
SLACK_S = 0.02
"""What a machine that is busy with other things may add to a deadline."""


def trial(twin: TwinProcess, how: str) -> tuple[float, dict]:
    """Break a real run on the simulated robot: time to damping [s], and what the robot heard."""
    twin.control(faults=["clear"], hanging=True, forget=True)
    process, supervisor = policy_process(twin.spec, "none" if how in STREAM_FAULTS else how)
    try:
        if how in FROM_OUTSIDE:
            lines_until(process, "running")
            start_s = time.monotonic()
            process.send_signal(FROM_OUTSIDE[how])
        elif how in STREAM_FAULTS:
            lines_until(process, "said 'squat'")
            time.sleep(0.3)
            start_s = twin.control(faults=[how])["time_s"]
        else:
            start_s = float(lines_until(process, "broke").split()[1])
        took_s = twin.damped_after(start_s)
        return took_s, twin.report()
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()
        assert end_process(supervisor), "the supervisor did not end when told"


def only_damping_and_nothing_bad(report: dict) -> bool:
    """Whole frames to the end: the robot dropped none, and the last ones were damping."""
    # Over DDS the robot's own controller has to be released first.
    return set(report["counts"]) <= {"accepted", "timeouts", "released"} and (
        report["last_damped_s"] > report["last_stiff_s"]
    )


@pytest.mark.parametrize("how", ["hang", "stop", "kill"])  # all: the slow table
def test_a_broken_policy_process_leads_to_damping_on_the_robots_side(twin, how):
    took_s, report = trial(twin, how)
    assert took_s <= POLICY_FAULTS[how][0] + SLACK_S
    assert only_damping_and_nothing_bad(report), report["counts"]


def test_a_killed_supervisor_leaves_the_policy_with_nothing_to_write(twin):
    twin.control(faults=["clear"], hanging=True, forget=True)
    process, supervisor = policy_process(twin.spec, "kill")
    lines_until(process, "running")
    os.kill(supervisor, signal.SIGKILL)
    assert "died" in lines_until(process, "said the supervisor")
    before = twin.report()["counts"]
    assert process.wait(10.0) == 1
    time.sleep(0.2)
    after = twin.report()["counts"]
    assert after["accepted"] == before["accepted"]
    # The strict robot damps itself, once.
    assert after["timeouts"] - before.get("timeouts", 0) == 1


def test_a_supervisor_damps_for_as_long_as_nobody_tells_it_to_end(twin):
    twin.control(faults=["clear"], hanging=True, forget=True)
    process, supervisor = policy_process(twin.spec, "kill")
    lines_until(process, "running")
    process.kill()
    process.wait()
    time.sleep(0.7)
    before = twin.report()
    time.sleep(0.5)
    after = twin.report()
    # 500 frames a second, on a machine that may be busy.
    assert after["counts"]["accepted"] - before["counts"]["accepted"] > 100
    assert only_damping_and_nothing_bad(after)
    assert end_process(supervisor)
    heard = twin.report()["counts"]["accepted"]
    time.sleep(0.1)
    assert twin.report()["counts"]["accepted"] == heard


def test_without_a_robot_there_is_no_supervisor():
    from asap_deploy.errors import InputError
    from asap_deploy.link import LinkSpec

    with pytest.raises(InputError, match=r"there is no link 'pigeon' \(valid: twin, unitree\)"):
        Supervisor.start(limits(), LinkSpec("pigeon", ""))


@pytest.fixture(scope="module", params=["twin", "unitree"])
def either_twin(request, tmp_path_factory):
    """Over datagrams, and over DDS where it is installed."""
    if request.param == "unitree":
        pytest.importorskip("cyclonedds")
    with TwinProcess(tmp_path_factory.mktemp("twin"), request.param) as running:
        yield running


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("how", [*POLICY_FAULTS, *STREAM_FAULTS])
def test_the_fault_table(either_twin, how):
    """Every fault twenty times, in real time, on the robot's side."""
    twin = either_twin
    repeats = int(os.environ.get("ASAP_FAULT_REPEATS", "20"))
    deadline_s, _ = {**POLICY_FAULTS, **STREAM_FAULTS}[how]
    if twin.spec.kind == "unitree" and how == "second_publisher":
        deadline_s = 0.1  # DDS has to discover it first
    times = []
    for _ in range(repeats):
        took_s, report = trial(twin, how)
        times.append(took_s)
        assert only_damping_and_nothing_bad(report), report["counts"]
    print(
        f"\n{how:18} deadline {1e3 * deadline_s:4.0f} ms, median "
        f"{1e3 * statistics.median(times):6.1f}, worst {1e3 * max(times):6.1f}, {repeats} times"
    )
    assert max(times) <= deadline_s + SLACK_S


@contextlib.contextmanager
def tiny_disk(folder):
    """A disk of one megabyte, full after a second and a half; None where none may be mounted."""
    disk = folder / "disk"
    disk.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    mounted = shutil.which("mount") and subprocess.run(words, capture_output=True).returncode == 0
    try:
        yield disk if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(disk)], check=True)


def run_on_a_full_disk(twin: TwinProcess, disk) -> dict:
    """Facts of a run whose recording finds no more room while the clip is played."""
    twin.control(faults=["clear"], hanging=True, forget=True)
    out = disk / "run.mcap"
    script = "arm@0.05 stand@0.1 go@ready quit@6.0 quit@damp"
    words = [sys.executable, "-m", "asap_deploy.cli", "run", str(SQUAT), "--link", twin.spec.kind,
             "--address", twin.address, "--self-test-s", "0.1", "--out", str(out), "--json",
             str(disk.parent / "run.json"), "--script", script]  # fmt: skip
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    told = process.stderr.readline()
    assert "the recording ended early: No space left on device" in told, told
    assert process.poll() is None and "the run goes on" in told  # said while it runs
    time.sleep(1.0)
    heard = twin.report()
    assert heard["last_stiff_s"] > heard["last_damped_s"], "the robot was damped"
    process.communicate(timeout=30.0)
    facts = json.loads((disk.parent / "run.json").read_text())
    tables = open_recording(out.with_name("run.mcap.part"))  # what had room
    assert process.returncode == 1 and len(tables.states) > 200 and not tables.finished
    (problem,) = facts["problems"]
    assert "the recording ended early" in problem
    assert facts["supervisor"]["fault"] is None and facts["overruns"] == 0
    assert set(twin.report()["counts"]) <= {"accepted", "timeouts", "released"}
    out.with_name("run.mcap.part").unlink()
    return facts


@pytest.mark.parametrize("repeats", [1, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.timeout(600)
def test_a_full_disk_is_told_to_the_operator_and_neither_loop_nor_robot_notices(
    twin, tmp_path, repeats
):
    with tiny_disk(tmp_path) as disk:
        if disk is None:
            pytest.skip("no file system can be mounted here: a full disk is NOT tested as a whole")
        found = [run_on_a_full_disk(twin, disk) for _ in range(repeats)]
    ticks = [one["histograms_ms"]["tick"]["max"] for one in found]
    writes = [one["supervisor"]["interval"]["max"] for one in found]
    print(f"\nfull disk: {repeats} times; longest control step {max(ticks):.1f} ms, longest time "
          f"between two commands {max(writes):.1f} ms")  # fmt: skip
    assert max(ticks) < 20.0
