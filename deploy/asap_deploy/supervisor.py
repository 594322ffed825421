"""The one process that writes to the robot. It needs no policy to make the robot safe.

The policy process hands it targets through shared memory. If a target is late, if that process is
dead or stopped, if it hands over something unacceptable, or if a guard objects to what the robot
says, every command from then on is damping: whole, valid frames at the writer's rate, until the
supervisor is told to end (by a request, or SIGTERM). A fault never goes away by itself.

    core = SupervisorCore(limits)
    command = core.tick(now, link.read_new(), link.stats(now), post, policy_alive=True)

As a process: ``main`` with one argument, JSON text; started by ``Supervisor`` in
``asap_deploy.supervised``.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import threading
import time
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from asap_deploy import handover as requests
from asap_deploy.errors import InputError, Refusal
from asap_deploy.guards import Fault, StateWatch
from asap_deploy.handover import COMMAND, EVENT, STATE, WRITE_DT, Handover, Post, event_bytes
from asap_deploy.link import Link, LinkSpec, LinkStats, RobotCommand, RobotState
from asap_deploy.links import open_link
from asap_deploy.realtime import Histogram, make_realtime
from asap_deploy.safety import CommandFilter, SafetyLimits, damping_command

PRIORITY = 50
END_S = 1.5
"""Damping that is still written when the supervisor is told to end: in that time a robot sinks from
its feet, and nobody knows what firmware does when commands stop [s]."""

SILENT_S = 600.0
"""A supervisor whose policy is dead leaves when the robot has been silent for so long [s]."""

_STATUS_EVERY_S, _BRIEF_EVERY_S = 0.02, 1.0


class SupervisorCore:
    """All decisions, without clock, process or socket: the same states give the same commands."""

    def __init__(self, limits: SafetyLimits) -> None:
        """Nothing is written before a first request to brake."""
        self.limits = limits
        self.watch, self.filter = StateWatch(limits), CommandFilter(limits)
        self.fault: Optional[Fault] = None
        """Why everything is damping from now on; never reset."""
        self.writing = self.ended = self.damped = self.limited = False
        self.held_back = False
        """The robot's own controller has not let go: what is written does not go out."""
        self.number = self.accepted = 0
        self._moving = False
        self._machine: Optional[int] = None
        self._deadline_s = np.inf

    def tick(
        self, now_s: float, states: Sequence[RobotState], stats: LinkStats,
        post: Optional[Tuple[int, Post]], policy_alive: bool,
    ) -> Optional[RobotCommand]:  # fmt: skip
        """One write.

        Args:
            now_s: ``time.monotonic`` [s].
            states: That arrived since the last tick.
            stats: Of the link.
            post: Number and content of the newest request.
            policy_alive: Whether the policy process exists.

        Returns:
            The command to write now; None while nothing was armed.
        """
        judged = False
        for state in states:  # each one: a fault that lasts a single state is a fault
            if self.watch.take([state], now_s):
                self._judge(now_s, stats)
                judged = True
        if not judged:
            self._judge(now_s, stats)
        if post is not None and post[0] != self.number:
            self.number = post[0]
            self._obey(post[1], now_s, stats)
        if self.writing and not self.ended:
            self._check_policy(now_s, policy_alive)
        return self._command(now_s)

    def latch(self, guard: str, text: str, now_s: float) -> None:
        """From now on damping; the first reason is kept."""
        if self.fault is None:
            self.fault = Fault(guard, text, now_s)

    def _judge(self, now_s: float, stats: LinkStats) -> None:
        if self.writing and self.fault is None:
            self.fault = self.watch.fault(now_s, stats)

    def _obey(self, post: Post, now_s: float, stats: LinkStats) -> None:
        """Take up a new request; the deadline is ours as well, whatever the post says."""
        late_s = self.limits.late_ticks * self.limits.control_dt - 2.0 * WRITE_DT
        self._deadline_s = min(float(post.deadline_s), now_s + late_s)
        request = int(post.request)
        if request == requests.END:
            self.ended = True
        elif request == requests.FAULT:
            self.latch("policy_refused", bytes(post.text).decode(errors="replace"), now_s)
        elif request == requests.DAMP:
            self._arm(now_s, stats)
            self._moving = False
            self.filter.forget()
        elif request == requests.PASSIVE:
            self._moving = False  # once armed there is no way back to silence: damping
            self.filter.forget()
        elif request == requests.MOVE and self.fault is None:
            self._move(post, now_s)
        elif request != requests.MOVE:
            self.latch("policy_data", f"unknown request {request}", now_s)

    def _arm(self, now_s: float, stats: LinkStats) -> None:
        """Begin to write, if nothing objects; nothing was written before, so nothing is lost."""
        if self.writing or self.fault is not None:
            return
        self.fault = self.watch.fault(now_s, stats)
        if self.fault is None:
            assert self.watch.latest is not None
            self.writing, self._machine = True, self.watch.latest.mode_machine

    def _move(self, post: Post, now_s: float) -> None:
        if not self.writing:
            self.latch("policy_data", "a target before the robot was armed", now_s)
            return
        if self.held_back:  # it would come out as a leap, from a pose that nobody holds any more
            self.latch("policy_data", "a target before the robot's own controller let go", now_s)
            return
        try:
            self.filter.accept(post.target, post.stiffness, post.damping, now_s)
        except Refusal as refusal:
            self.latch("policy_data", str(refusal), now_s)
            return
        self._moving = True
        self.accepted += 1

    def _check_policy(self, now_s: float, policy_alive: bool) -> None:
        if not policy_alive:
            self.latch("policy_dead", "the policy process is gone", now_s)
        elif not now_s <= self._deadline_s:  # true for NaN
            late = self.limits.late_ticks * 1000.0 * self.limits.control_dt
            self.latch("policy_late", f"no new target within {late:.0f} ms", now_s)

    def _command(self, now_s: float) -> Optional[RobotCommand]:
        state = self.watch.latest
        if not self.writing or state is None:
            return None
        self.damped, self.limited = True, False
        if self.fault is None and self._moving and not self.ended:
            try:
                command, self.limited = self.filter.command(state)
                self.damped = False
                return command
            except Refusal as refusal:
                self.latch("state_finite", str(refusal), now_s)
        return self.braking()

    def braking(self) -> Optional[RobotCommand]:
        """Damping by the last state that was believed; None while nothing was armed."""
        state = self.watch.latest
        if not self.writing or state is None:
            return None
        command = damping_command(self.limits, state)
        # Frames with another machine number are dropped: a state that lies must not matter here.
        return command._replace(mode_machine=int(self._machine or 0))


class SupervisorLoop:
    """The core with a link, shared memory and a clock."""

    def __init__(self, core: SupervisorCore, link: Link, memory: Handover, policy_fd: int) -> None:
        """Take over.

        Args:
            core: Decides.
            link: The only one that writes.
            memory: Shared with the policy.
            policy_fd: Read end of a pipe whose other end only the policy process holds.
        """
        self.core, self.link, self.memory, self._policy_fd = core, link, memory, policy_fd
        self._ended = select.poll()
        self._ended.register(policy_fd, select.POLLIN)
        self.told_s: Optional[float] = None
        """When we were told to end; None while we were not."""
        self._alive, self._announced = True, False
        self._written_s = self._status_s = self._stepped_s = -np.inf
        self.interval = Histogram("write interval", 1e-5, 1.0)
        self.reply = Histogram("state to command", 1e-5, 1.0)
        self._briefs: Dict[str, Any] = {}
        self._brief_s = -np.inf

    def run(self) -> None:
        """Write until told."""
        with contextlib.suppress(Exception):  # it comes again, and is a fault then
            # What waited while we started is old: as the first state it would make every later one
            # look as if the robot's clock ran ahead of ours.
            self.link.read_new()
        while not self._over(time.monotonic()):
            try:
                self.link.wait(max(0.0, self._stepped_s + 1.1 * WRITE_DT - time.monotonic()))
                self._stepped_s = time.monotonic()
                self.step(time.monotonic())
            except Exception as error:  # whatever it is, the robot must be damped
                self._brake(error)
                time.sleep(max(0.0, self._written_s + WRITE_DT - time.monotonic(), 1e-4))
        self._note("end", time.monotonic())
        self._post_status(time.monotonic())

    def step(self, now_s: float) -> None:
        """Read, decide, write, note."""
        core, states = self.core, self.link.read_new()
        known = core.watch.latest
        command = core.tick(now_s, states, self.link.stats(now_s), self._newest(), self._policy())
        self._write(command, now_s)
        self._note_states(states, known)
        self._say_how_it_is(now_s)

    def _brake(self, error: Exception) -> None:
        """Damp with no more than the last sound state; the rest may be what is broken."""
        now_s = time.monotonic()
        self.core.latch("supervisor_error", f"{type(error).__name__}: {error}"[:150], now_s)
        with contextlib.suppress(Exception):
            self._write(self.core.braking(), now_s)
        with contextlib.suppress(Exception):
            self._say_how_it_is(now_s)

    def _write(self, command: Optional[RobotCommand], now_s: float) -> None:
        if command is None or now_s - self._written_s <= 0.5 * WRITE_DT:
            return
        self.core.held_back = not self.link.write(command)
        if not self.core.held_back:
            self._note_write(command, time.monotonic())

    def _say_how_it_is(self, now_s: float) -> None:
        """Status for the policy, a fault at once."""
        fault = self.core.fault
        if fault is not None and not self._announced:
            self._announced = True
            self._note("fault", fault.time_s, guard=fault.guard, text=fault.text)
            self._status_s = -np.inf
        if now_s - self._status_s >= _STATUS_EVERY_S:
            self._post_status(now_s)

    def _newest(self) -> Optional[Tuple[int, Post]]:
        found: Optional[Tuple[int, Post]] = self.memory.newest_post()
        return found

    def _policy(self) -> bool:
        """The pipe ends when the process does, however it died."""
        if self._alive and self._ended.poll(0):
            self._alive = bool(os.read(self._policy_fd, 64))
            if not self._alive and self.core.writing and not self.core.ended:
                # Not from here: a terminal may block for as long as it likes.
                threading.Thread(target=_tell_of_death, daemon=True).start()
        return self._alive

    def _over(self, now_s: float) -> bool:
        """Told to end and damped for a while; or nobody needs us."""
        core = self.core
        if core.ended and self.told_s is None:
            self.told_s = now_s
        if self.told_s is not None:
            core.ended = True
            return not core.writing or now_s - self.told_s > END_S
        if self._alive:
            return False
        silent = core.watch.latest is None or now_s - core.watch.latest.arrival_s > SILENT_S
        return not core.writing or silent

    def _note_write(self, command: RobotCommand, now_s: float) -> None:
        core = self.core
        if np.isfinite(self._written_s):
            self.interval.add(now_s - self._written_s)
        if core.watch.latest is not None:
            self.reply.add(now_s - core.watch.latest.arrival_s)
        self._written_s = now_s
        packed = self.memory.frames.pack_command(
            command, written_s=now_s, sequence=core.number, damped=core.damped,
            limited=core.limited,
        )  # fmt: skip
        self.memory.robot_ring.push(COMMAND, packed)

    def _note_states(self, states: List[RobotState], known: Optional[RobotState]) -> None:
        latest = self.core.watch.latest
        for state in states:
            packed = self.memory.frames.pack_state(state)
            self.memory.robot_ring.push(STATE, packed)
            if state is latest and state is not known:
                self.memory.post_state(packed)

    def _note(self, name: str, time_s: float, **facts: Any) -> None:
        self.memory.robot_ring.push(EVENT, event_bytes(name, time_s, **facts))

    def _post_status(self, now_s: float) -> None:
        core, fault = self.core, self.core.fault
        self._status_s = now_s
        if core.ended or now_s - self._brief_s >= _BRIEF_EVERY_S:
            self._brief_s = now_s
            self._briefs = {"interval": self.interval.brief(), "reply": self.reply.brief()}
        self.memory.post_status({
            "time_s": now_s, "pid": os.getpid(), "writing": core.writing, "damped": core.damped,
            "fault": None if fault is None else [fault.guard, fault.text, fault.time_s],
            "held_back": core.held_back,
            "accepted": core.accepted, "bad_checksums": core.watch.bad_checksums,
            "not_newer": core.watch.not_newer, "ended": core.ended, **self._briefs,
        })  # fmt: skip


def _tell_of_death() -> None:
    """The operator must learn how to end this."""
    print(
        "asap-deploy: the policy process is gone; the robot is damped until you end this: "
        f"kill {os.getpid()}",
        file=sys.stderr,
        flush=True,
    )


def limits_to_json(limits: SafetyLimits) -> Dict[str, Any]:
    """Limits for another process."""
    values = dict(limits.__dict__)
    return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in values.items()}


def limits_from_json(values: Dict[str, Any]) -> SafetyLimits:
    """Limits from another process."""
    tuples = ("joint_names", "mode_machine")
    found: Dict[str, Any] = {k: tuple(v) if k in tuples else v for k, v in values.items()}
    return SafetyLimits(**found)


def main(arguments: Sequence[str]) -> int:
    """The process; its one argument is JSON text."""
    config = json.loads(arguments[0])
    limits = limits_from_json(config["limits"])
    memory = Handover.attach(config["memory_fd"], config["memory_size"], len(limits.joint_names))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    got = make_realtime(PRIORITY, config.get("core"))  # first: the link's threads inherit it
    try:
        link = open_link(LinkSpec(**config["link"]))
    except InputError as error:
        memory.post_status({"failed": str(error)})
        return 2
    loop = SupervisorLoop(SupervisorCore(limits), link, memory, config["policy_fd"])

    def told(number: int, frame: Any) -> None:
        loop.told_s = loop.told_s or time.monotonic()

    signal.signal(signal.SIGTERM, told)
    memory.robot_ring.push(EVENT, event_bytes("supervisor", time.monotonic(), realtime=got))
    try:
        loop.run()
    finally:
        link.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
