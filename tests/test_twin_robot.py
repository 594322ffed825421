"""The strict robot drops what a real one would drop, damps itself, and breaks as it is told."""

from __future__ import annotations

import json
import socket

import numpy as np
import pytest

from asap.cli import main
from asap.robot import Robot
from asap.twin_dds import DdsTwin
from asap.twin_faults import FAULTS, Faults, Sent
from asap.twin_robot import STATE_DT, StrictConfig, StrictRobot
from asap.twin_server import TwinServer
from asap_deploy.errors import InputError
from asap_deploy.frames import Frames
from asap_deploy.link import RobotCommand
from asap_deploy.twin_wire import COMMAND, INFO, STATE, SUBSCRIBE, pack, unpack

G1 = Robot.load("g1")
J = len(G1.joint_names)


@pytest.fixture(scope="module")
def built() -> StrictRobot:
    return StrictRobot(G1, StrictConfig())


@pytest.fixture
def strict(built: StrictRobot) -> StrictRobot:
    built.place(G1.default_qpos())
    built.hanging, built.pinned = True, False
    built.counts.clear()
    built._heard_s = built._held_since_s = None
    return built


def wanted(stiffness: float = 40.0, **changes) -> RobotCommand:
    """A whole command that holds the default pose."""
    zero = np.zeros(J)
    command = RobotCommand(G1.default_joint_pos, zero, zero + stiffness, zero + 2.0, zero,
                           mode_machine=5)  # fmt: skip
    return command._replace(**changes)


def one(value: float, joint: int = 3) -> np.ndarray:
    """(J,) zeros but for one joint."""
    found = np.zeros(J)
    found[joint] = value
    return found


def content(sent: Sent) -> tuple:
    """All that is in a sent state."""
    return sent.foreign, sent.flip, *(np.asarray(value).tobytes() for value in sent.state)


DROPPED = [
    ("checksum", {}),
    ("mode", {"motor_mode": 0}),
    ("machine", {"mode_machine": 6}),
    ("not finite", {"joint_pos_target": one(np.nan)}),
    ("not finite", {"damping": one(np.inf)}),
    ("negative gains", {"stiffness": one(-1.0)}),
    ("negative gains", {"damping": one(-1.0)}),
    ("feed-forward", {"torque": one(0.5)}),
    ("feed-forward", {"joint_vel_target": one(0.5)}),
    ("joint limits", {"joint_pos_target": G1.joint_pos_upper + 0.01}),
    ("joint limits", {"joint_pos_target": G1.joint_pos_lower - 0.01}),
    ("effort", {"stiffness": np.full(J, 5000.0), "joint_pos_target": G1.default_joint_pos + 0.1}),
]


@pytest.mark.parametrize(("reason", "changes"), DROPPED)
def test_a_command_that_a_robot_would_drop_is_dropped_by_name(strict, reason, changes):
    strict.advance(100.0)
    assert strict.command(wanted(), sound=True, now_s=100.0) == "accepted"
    before = strict._target.copy()
    said = strict.command(wanted(**changes), sound=reason != "checksum", now_s=100.002)
    assert said == reason and strict.counts == {"accepted": 1, reason: 1}
    np.testing.assert_array_equal(strict._target, before)


def test_a_robot_that_hears_nothing_more_damps_itself_once(strict):
    strict.advance(100.0)
    strict.command(wanted(), sound=True, now_s=100.0)
    for k in range(1, 100):
        strict.advance(100.0 + STATE_DT * k)
        late = STATE_DT * k > strict.config.timeout_s
        assert strict.counts["timeouts"] == int(late)
        assert bool((strict._kp[0, :, 0] > 0.0).any()) is not late


def test_it_is_let_down_when_targets_that_stood_still_begin_to_move(strict):
    strict.advance(100.0)
    for k in range(200):  # 0.4 s of one pose
        strict.command(wanted(), sound=True, now_s=100.0 + STATE_DT * k)
    assert strict.hanging
    moved = wanted(joint_pos_target=G1.default_joint_pos + 0.01)
    strict.command(moved, sound=True, now_s=100.4)
    assert not strict.hanging


def test_what_it_reports_tells_stiff_commands_from_damping(strict):
    strict.advance(100.0)
    strict.command(wanted(), sound=True, now_s=100.0)
    strict.command(wanted(stiffness=0.0), sound=True, now_s=100.01)
    strict.command(wanted(stiffness=0.0), sound=True, now_s=100.02)
    report = strict.report()
    assert (report["last_stiff_s"], report["first_damped_s"], report["last_damped_s"]) == (
        100.0, 100.01, 100.02
    )  # fmt: skip
    assert json.loads(json.dumps(report)) == report


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_changes_what_is_sent_and_ends_when_it_is_cleared(strict, name):
    """``slow`` and ``second_commander`` are the server's to play; it asks for their size."""
    rng = np.random.default_rng(0)
    plain, broken = Faults([], rng, 100.0), Faults([name], np.random.default_rng(0), 100.0)
    sent, expected, first = [], [], strict.advance(100.0)
    for k in range(100):
        now_s, state = 100.0 + STATE_DT * k, first._replace(tick=first.tick + 2 * k)
        sent += broken.states(now_s, state)
        expected += plain.states(now_s, state)
    if name in ("slow", "second_commander"):
        assert broken.size(name, 100.0) == FAULTS[name][1]
    else:
        assert [content(one) for one in sent] != [content(one) for one in expected]
    broken.add("clear", 101.0)
    assert [one.state for one in broken.states(101.0, state)] == [state]


def test_a_fault_that_does_not_exist_is_refused_with_a_suggestion():
    for text, said in (("frieze", "no fault 'frieze' .did you mean 'freeze'"),
                       ("drop=much", "expected NAME=VALUE@SECONDS")):  # fmt: skip
        with pytest.raises(InputError, match=said):
            Faults([text], np.random.default_rng(0), 0.0)


def test_over_the_socket_damaged_short_and_foreign_datagrams_are_told_apart(strict):
    server = TwinServer(strict, "127.0.0.1:0")
    frames, mine = Frames(J), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    mine.settimeout(2.0)
    host, port = server.address.split(":")
    send = lambda data: mine.sendto(data, (host, int(port)))  # noqa: E731
    good = pack(COMMAND, 7, 1, J, frames.pack_command(wanted()))
    send(pack(SUBSCRIBE, 7, 1, 0, b""))
    send(good)
    send(good[:-1] + bytes([good[-1] ^ 1]))
    send(pack(COMMAND, 7, 2, J, b"short"))
    send(b"hello")
    strict.advance(100.0)
    server._receive()
    server._send_state(100.0)
    kinds = [unpack(mine.recv(65536)).kind for _ in range(3)]
    assert kinds == [INFO, STATE, INFO]
    assert strict.counts == {"accepted": 1, "checksum": 1, "size": 1}
    server.close()
    mine.close()


def test_a_simulated_robot_never_leaves_this_machine(strict):
    with pytest.raises(InputError, match="a simulated robot stays on 'lo'; got 'eth0'"):
        DdsTwin(strict, "eth0")
    other = StrictRobot(Robot.load("g1:23dof"), StrictConfig())
    if other.robot.joint_names != G1.joint_names:
        with pytest.raises(InputError, match="only a g1 with 29 joints speaks DDS"):
            DdsTwin(other, "lo")


def test_the_command_lists_its_faults_and_refuses_what_it_cannot_play(capsys):
    assert main(["twin", "--list-faults"]) == 0
    told = capsys.readouterr().out
    assert all(name in told for name in FAULTS)
    for words, text in ((["--fault", "frieze"], "there is no fault 'frieze'"),
                        (["--address", "127.0.0.1:x"], "is no address"),
                        (["--link", "dds", "--address", "eth0"], "stays on 'lo'")):  # fmt: skip
        assert main(["twin", "--seconds", "0.1", *words]) == 2
        assert text in capsys.readouterr().err


def test_the_command_plays_for_a_while_and_says_what_it_heard(tmp_path, capsys):
    out, truth = tmp_path / "twin.json", tmp_path / "truth.npz"
    words = ["twin", "--seconds", "0.3", "--address", "127.0.0.1:0", "--json", str(out)]
    assert main([*words, "--truth", str(truth)]) == 0
    assert "commands: none" in capsys.readouterr().out
    found = json.loads(out.read_text())
    assert found["hanging"] and found["tick"] > 5000 and truth.exists()
