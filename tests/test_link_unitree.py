"""The link to a G1 over real DDS on loopback, against the strict robot; nothing is pretended.

Everything that needs the package cyclonedds is skipped where it is not installed: then nothing of
the link to a real robot was run but the refusals in the first part. It ran with cyclonedds 0.10.2
(on libddsc 0.10.2) and 11.0.1; a whole run over it is in ``test_deploy_cli``. It never ran against
a robot, on a network other than loopback, or on aarch64.
"""

from __future__ import annotations

import os
import sys
import threading
import time

import numpy as np
import pytest

from asap_deploy import unitree_dds
from asap_deploy.errors import InputError
from asap_deploy.link import LinkSpec, LinkStats, RobotCommand
from asap_deploy.link_unitree import Release, UnitreeLink, interface_and_domain
from asap_deploy.links import open_link
from asap_deploy.unitree_codec import G1_JOINTS, LOW_CMD, encode, low_cmd_of
from asap_deploy.unitree_dds import Node, check_network

DOMAIN = 100 + os.getpid() % 100
SPEC = LinkSpec("unitree", f"lo:{DOMAIN}")
OLD, NEW = (0, 10, 2), (11, 0, 1)


def wait_for(what, seconds=4.0):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.005)


@pytest.mark.parametrize(("address", "real", "found"), [
    ("eth0", True, ("eth0", 0)), ("lo", False, ("lo", 1)), ("lo:7", False, ("lo", 7)),
])  # fmt: skip
def test_a_real_robot_is_in_domain_zero_and_a_simulated_one_is_not(address, real, found):
    assert interface_and_domain(LinkSpec("unitree", address, real=real)) == found


@pytest.mark.parametrize(("interface", "domain", "real", "version", "text"), [
    ("", 1, False, OLD, "--address must name the network interface"),
    ("lo0815", 1, False, OLD, "there is no network interface 'lo0815'"),
    ("lo", 0, False, OLD, "say --real if you mean one"),
    ("lo", 0, True, OLD, "a real robot is in DDS domain 0 and not on 'lo'"),
    ("lo", 231, False, OLD, "must be 0 to 230"),
    ("wired", 3, True, OLD, "a real robot is in DDS domain 0"),
    ("wired", 0, True, NEW, "cyclonedds 11.0.1 makes robots' own programs crash"),
    ("wired", 1, False, NEW, "cyclonedds 11.0.1 makes robots' own programs crash"),
])  # fmt: skip
def test_a_network_that_will_not_do_is_refused(interface, domain, real, version, text, monkeypatch):
    names = [(1, "lo"), (2, "wired")]
    monkeypatch.setattr(unitree_dds.socket, "if_nameindex", lambda: names)
    with pytest.raises(InputError, match=text):
        check_network(interface, domain, real, version)


def test_a_network_that_will_do_is_taken(monkeypatch):
    monkeypatch.setattr(unitree_dds.socket, "if_nameindex", lambda: [(1, "lo"), (2, "wired")])
    check_network("lo", 1, False, NEW)
    check_network("lo", 1, False, OLD)
    check_network("wired", 0, True, OLD)


def test_without_the_binding_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cyclonedds", None)
    monkeypatch.setitem(sys.modules, "cyclonedds.core", None)
    with pytest.raises(InputError, match=r"needs CycloneDDS 0\.10 .*deploy/README\.md"):
        open_link(SPEC)


def test_an_address_that_is_none_is_refused():
    with pytest.raises(InputError, match="expected an interface, as eth0 or lo:7"):
        interface_and_domain(LinkSpec("unitree", "127.0.0.1:x"))


@pytest.fixture
def play():
    """Starts strict robots behind DDS, in threads; ends them."""
    pytest.importorskip("cyclonedds")
    from asap.robot import Robot
    from asap.twin_dds import DdsTwin
    from asap.twin_robot import StrictConfig, StrictRobot

    started = []

    def start(**options):
        strict = StrictRobot(Robot.load("g1"), StrictConfig())
        twin, told = DdsTwin(strict, SPEC.address, **options), threading.Event()
        thread = threading.Thread(target=twin.run, args=(told.is_set,))
        thread.start()
        started.append((twin, told, thread))
        return twin

    yield start
    for twin, told, thread in started:
        told.set()
        thread.join(5.0)
        twin.close()


@pytest.fixture
def join():
    """Opens links; closes them."""
    links = []

    def start(**changes):
        links.append(UnitreeLink(LinkSpec(SPEC.kind, SPEC.address, **changes)))
        return links[-1]

    yield start
    for link in links:
        link.close()


def states_of(link, count):
    found = []

    def more():
        link.wait(0.01)
        found.extend(link.read_new())
        return len(found) >= count

    wait_for(more)
    return found


def braking(link):
    """A whole damping command."""
    zero, pos = np.zeros(29), link.read_latest().joint_pos
    return RobotCommand(pos, zero, zero, np.full(29, 2.0), zero, mode_machine=5)


def test_states_and_battery_arrive_and_nobody_else_is_there(play, join):
    twin = play()
    link = join(read_only=True)
    states = states_of(link, 50)
    assert all(state.checksum_ok and state.mode_machine == 5 for state in states)
    assert (np.diff([state.tick for state in states]) > 0).all()
    assert states[-1].remote_connected and np.isfinite(states[-1].joint_pos).all()
    assert link.facts.joint_names == G1_JOINTS and not link.facts.is_real
    assert link.stats(0.0) == LinkStats(1, 0)
    wait_for(lambda: link.read_latest().battery_percent == 80.0)
    assert twin._commands.publishers() == 0
    with pytest.raises(InputError, match="opened to read only"):
        link.write(braking(link))


def test_nothing_is_published_before_the_robots_own_controller_has_let_go(play, join):
    twin = play()
    link = join()
    states_of(link, 5)
    assert twin.controller == "ai" and link.stats(0.0) == LinkStats(1, 0)

    went_out = []

    def obeyed():
        went_out.append(link.write(braking(link)))
        time.sleep(0.002)
        return twin.robot.counts["accepted"] > 20

    wait_for(obeyed)
    counts = twin.robot.counts
    assert not went_out[0] and went_out[-1]  # a link says whether it was heard
    assert went_out == sorted(went_out) and sum(went_out) >= counts["accepted"]
    assert link._release.released == "ai" and counts["released"] == 1
    assert set(counts) == {"released", "accepted"}  # none dropped, none released in vain


def test_a_controller_that_is_not_active_is_not_released(play, join):
    twin = play(controller="")
    link = join()
    states_of(link, 5)

    def obeyed():
        link.write(braking(link))
        return twin.robot.counts["accepted"] > 5

    wait_for(obeyed)
    assert set(twin.robot.counts) == {"accepted"}


def test_a_robot_that_does_not_answer_is_never_commanded():
    pytest.importorskip("cyclonedds")
    node = Node("lo", domain=DOMAIN, real=False)
    release = Release(node, required=True)
    assert not release.done(100.0)
    assert not release.done(100.0 + release.GIVE_UP_S)
    with pytest.raises(OSError, match="has not let go: it does not answer"):
        release.done(100.1 + release.GIVE_UP_S)
    # A simulator may have no such service.
    release = Release(node, required=False)
    assert not release.done(100.0) and not release.done(100.4)
    assert release.done(100.6)
    node.close()


def test_others_who_publish_are_counted_while_they_are_there(play, join):
    twin = play()
    link = join()
    for fault, stats in (("second_publisher", LinkStats(2, 0)),
                         ("second_commander", LinkStats(1, 1))):  # fmt: skip
        twin.faults.add(fault, time.monotonic())
        wait_for(lambda stats=stats: link.stats(0.0) == stats)
        twin.faults.add("clear", time.monotonic())
        wait_for(lambda: link.stats(0.0) == LinkStats(1, 0))


def test_a_state_with_a_wrong_bit_is_marked_and_never_the_latest(play, join):
    twin = play()
    link = join(read_only=True)
    states_of(link, 5)
    twin.faults.add("bitflip=1", time.monotonic())
    wait_for(lambda: not states_of(link, 1)[-1].checksum_ok)
    tick = link.read_latest().tick
    assert not any(state.checksum_ok for state in states_of(link, 20))
    assert link.read_latest().tick == tick


def test_the_strict_robot_drops_frames_that_a_robot_would_drop(play, join):
    twin = play(controller="")
    link = join()
    states_of(link, 5)
    command = braking(link)
    good = encode(low_cmd_of(command))
    bad = [(good[:-1] + bytes([good[-1] ^ 1]), "checksum"),
           (encode(low_cmd_of(command._replace(motor_mode=0))), "mode"),
           (encode(low_cmd_of(command._replace(mode_machine=6))), "machine"),
           (encode(np.zeros((), LOW_CMD)), "mode")]  # fmt: skip
    for data, reason in bad:
        before = twin.robot.counts[reason]
        link._commands.write(data)
        wait_for(lambda before=before, reason=reason: twin.robot.counts[reason] == before + 1)
    assert not twin.robot.counts["accepted"]


def test_a_codec_that_differs_from_the_bindings_is_noticed_before_anything_is_sent(monkeypatch):
    pytest.importorskip("cyclonedds")
    unitree_dds.self_test(unitree_dds.message_types())
    right = unitree_dds.encode
    # A byte that the binding's encoder leaves zero.
    monkeypatch.setattr(
        unitree_dds, "encode", lambda row: right(row)[:7] + b"\x07" + right(row)[8:]
    )
    with pytest.raises(InputError, match="encodes LowCmd_ in another way"):
        unitree_dds.self_test(unitree_dds.message_types())


def test_a_robot_that_is_not_there_is_missed(monkeypatch):
    pytest.importorskip("cyclonedds")
    monkeypatch.setattr("asap_deploy.link_unitree.ANSWER_S", 0.2)
    with pytest.raises(InputError, match=f"nobody publishes rt/lowstate on 'lo' in .* {DOMAIN}"):
        UnitreeLink(SPEC)
