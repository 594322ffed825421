"""The control loop: newest state in, request out, at a fixed rate; nothing in it ever waits.

report = run(Session(players=players, limits=limits, link=spec, keys=[keys], out=path))
report.status, report.lines
"""

from __future__ import annotations

import contextlib
import queue
import signal
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence

import numpy as np

from asap_deploy import handover as requests
from asap_deploy.errors import InputError
from asap_deploy.frames import action_dtype
from asap_deploy.handover import ACTION, EVENT, Post, event_bytes
from asap_deploy.keys import STOPS, Keys
from asap_deploy.link import LinkSpec, RobotState
from asap_deploy.realtime import (
    LOOP_PRIORITY,
    MAX_OVERRUNS,
    FixedRate,
    Histogram,
    for_a_while,
    make_realtime,
)
from asap_deploy.recorder import Recorder
from asap_deploy.safety import SafetyLimits
from asap_deploy.states import MODES, Decision, Player, StateMachine
from asap_deploy.supervised import Supervisor, fault_of

END_S = 3.0
"""After a Ctrl-C without anybody at a terminal, damping goes on for so long [s]."""

SILENT_S = 0.2
"""A supervisor says how it is every 20 ms; after so long the operator is told [s]."""


@dataclass(frozen=True)
class Session:
    """Everything that a run needs."""

    players: Sequence[Player]
    limits: SafetyLimits
    link: LinkSpec
    keys: Sequence[Keys]
    between: Optional[Player] = None
    out: Optional[Path] = None
    """Recording; None for none."""
    facts: Dict[str, Any] = field(default_factory=dict)
    """About the run, for the recording."""
    core: Optional[int] = None
    """CPU of the loop; the supervisor gets the one before, where there is one."""
    seconds: Optional[float] = None
    """End after this time."""
    say: Callable[[str], None] = print


@dataclass(frozen=True)
class Report:
    """How a run went."""

    status: int
    """0 done, 1 a fault, 130 interrupted"""
    lines: List[str]
    facts: Dict[str, Any]


class Loop:
    """One run, between the supervisor's start and its end."""

    def __init__(self, session: Session, supervisor: Supervisor) -> None:
        """Nothing is asked for yet."""
        self.session, self.supervisor = session, supervisor
        self.dt = session.limits.control_dt
        self.machine = StateMachine(session.players, session.between)
        self.histograms = {name: Histogram(name) for name in ("wake", "age", "inference", "tick")}
        self.overruns = self.interrupts = 0
        self.gone = False
        """The supervisor has died: nothing reaches the robot any more."""
        self._silent = False
        self._actions = action_dtype(_widest(session))
        self._said: Any = queue.SimpleQueue()
        self._teller = threading.Thread(target=self._tell, daemon=True)
        self._interrupt_s: Optional[float] = None

    def run(self) -> None:
        """Until the operator quits."""
        self._teller.start()
        got = make_realtime(LOOP_PRIORITY, self.session.core)
        self._note("loop", realtime=got)
        for keys in self.session.keys:
            keys.begin()
        rate = FixedRate(self.dt)
        try:
            while not self.machine.quit and not self.gone:
                late_s = rate.wait()
                self.histograms["wake"].add(late_s)
                self.tick(rate.tick * self.dt, late_s)
                if rate.done():
                    self._overrun(rate.in_a_row)
                self._check_end(rate.tick * self.dt)
        finally:
            self._said.put(None)
            self._teller.join(1.0)

    def tick(self, time_s: float, late_s: float) -> None:
        """One control step."""
        started_s = time.monotonic()
        state = self.supervisor.handover.state()
        if state is None or not self.supervisor.alive():
            self.gone = True
            self._note("supervisor gone")
            self._said.put("the supervisor has died: nothing is written to the robot any more; "
                           "stop it with its remote")  # fmt: skip
            return
        status = self.supervisor.status()
        fault, self.machine.held_back = fault_of(status), bool(status.get("held_back"))
        self._watch_supervisor(status, started_s)
        orders = [order for keys in self.session.keys
                  for order in keys.poll(started_s, self.machine.mode, state)]  # fmt: skip
        self._obey_interrupt(orders)
        before = self.machine.mode
        objection = None if fault is None else f"{fault[0]}: {fault[1]}"
        decision = self.machine.step(time_s, state, orders, objection)
        number = self.supervisor.post(self._post(decision))
        self.histograms["age"].add(started_s - state.arrival_s)
        if decision.step is not None:
            self.histograms["inference"].add(self.machine.acting.inference_s)
        self._record(decision, state, number, late_s)
        if orders or self.machine.mode != before:
            self._note("mode", mode=self.machine.mode, before=before, orders=orders,
                       clip=self.machine.player.name)  # fmt: skip
        while self.machine.said:
            self._said.put(self.machine.said.pop(0))
        self.histograms["tick"].add(time.monotonic() - started_s)

    def _watch_supervisor(self, status: Dict[str, Any], now_s: float) -> None:
        """One that is stopped writes no damping either, and its process still exists."""
        silent_s = now_s - float(status.get("time_s", now_s))
        if silent_s > SILENT_S and not self._silent:
            self._note("supervisor silent", silent_s=silent_s)
            self._said.put(f"the supervisor is silent for {silent_s:.1f} s: nothing is written to "
                           "the robot; stop it with its remote")  # fmt: skip
        self._silent = silent_s > SILENT_S

    def fail(self, error: BaseException) -> None:
        """Something broke here: say so to the supervisor, which damps at its next write."""
        text = f"{type(error).__name__}: {error}"[:110]
        self.supervisor.post(Post.of(requests.FAULT, self.supervisor.handover.joints,
                                     time.monotonic(), self.dt, text))  # fmt: skip
        self._note("exception", text=text)

    def interrupt(self, *_: object) -> None:
        """A signal: damp; the second one ends the run."""
        self.interrupts += 1

    def _obey_interrupt(self, orders: List[str]) -> None:
        """From a signal on nothing that is ordered moves the robot."""
        if not self.interrupts:
            return
        orders[:] = [order for order in orders if order in STOPS]
        if self._interrupt_s is None:
            self._interrupt_s = time.monotonic()
            if self.machine.mode not in ("passive", "damp", "fault"):
                orders.append("damp")

    def _check_end(self, time_s: float) -> None:
        seconds = self.session.seconds
        if self.interrupts > 1 or (seconds is not None and time_s >= seconds):
            self.machine.quit = True
        if self._interrupt_s is None:
            return
        if self.machine.mode == "passive" or time.monotonic() - self._interrupt_s > END_S:
            self.machine.quit = True

    def _overrun(self, in_a_row: int) -> None:
        self.overruns += 1
        self._note("overrun", in_a_row=in_a_row)
        if in_a_row >= MAX_OVERRUNS and self.machine.mode in ("stand", "ready", "track", "hold"):
            text = f"{in_a_row} control steps in a row took longer than {1e3 * self.dt:.0f} ms"
            self.supervisor.post(Post.of(requests.FAULT, self.supervisor.handover.joints,
                                         time.monotonic(), self.dt, text))  # fmt: skip

    def _post(self, decision: Decision) -> Post:
        now_s, joints = time.monotonic(), self.supervisor.handover.joints
        if decision.request != requests.MOVE:
            return Post.of(decision.request, joints, now_s, self.dt, decision.text)
        assert decision.target is not None
        assert decision.stiffness is not None and decision.damping is not None
        return Post.move(decision.target, decision.stiffness, decision.damping, now_s=now_s,
                         control_dt=self.dt)  # fmt: skip

    def _record(self, decision: Decision, state: RobotState, number: int, late_s: float) -> None:
        row = np.zeros((), self._actions)
        row["time_s"], row["clip_time_s"] = time.monotonic(), decision.clip_time_s
        row["state_tick"], row["sequence"] = state.tick, number
        row["age_s"] = row["time_s"] - state.arrival_s
        row["wake_s"], row["inference_s"] = late_s, self.machine.acting.inference_s
        row["mode"], row["clip"] = MODES.index(decision.mode), self.machine.current
        if decision.step is not None:
            action = decision.step.action[0]
            row["action"][: len(action)] = action
            row["phase"], row["refused"] = decision.step.phase[0], decision.step.refused[0]
        self.supervisor.handover.policy_ring.push(ACTION, row.tobytes())

    def _note(self, name: str, **facts: Any) -> None:
        data = event_bytes(name, time.monotonic(), **facts)
        self.supervisor.handover.policy_ring.push(EVENT, data)

    def _tell(self) -> None:
        """Writes to the terminal, which may block for as long as it likes."""
        while True:
            line = self._said.get()
            if line is None:
                return
            with contextlib.suppress(OSError):  # a terminal that is gone, a pipe that is closed
                self.session.say(line)


def run(session: Session) -> Report:
    """Start supervisor and recorder, run the loop, end them.

    Raises:
        InputError: If the link or the recording cannot be opened.
    """
    with for_a_while():  # to the end: the last request must not wait for a busy desk
        return _run(session)


def _run(session: Session) -> Report:
    supervisor = Supervisor.start(session.limits, session.link, core=_one_before(session.core))
    recorder: Optional[Recorder] = None
    loop = Loop(session, supervisor)
    broken: Optional[BaseException] = None
    before = {number: signal.signal(number, loop.interrupt)
              for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}  # fmt: skip
    try:
        if session.out is not None:
            facts = {**session.facts, "actions": _widest(session),
                     "joint_names": list(session.limits.joint_names),
                     "control_dt": session.limits.control_dt}  # fmt: skip
            recorder = Recorder.start(supervisor.handover, supervisor.alive_fd, session.out, facts)
        loop.run()
    except Exception as error:
        if isinstance(error, InputError) and recorder is None and session.out is not None:
            raise  # no recording can be made there; nobody has armed yet
        broken = error
        loop.fail(error)
        time.sleep(END_S)  # the supervisor damps: let the robot sink before anything ends
    finally:
        fault = supervisor.fault()
        status = supervisor.status()
        problems = supervisor.end(session.limits.control_dt)
        written = recorder.finish() if recorder is not None else {}
        for number, handler in before.items():
            signal.signal(number, handler)
    problems += list(written.get("problems", ()))
    if broken is not None:
        problems.append(f"the loop broke: {type(broken).__name__}: {broken}")
    if loop.gone:
        problems.append("the supervisor died during the run")
    if fault is not None:
        problems.append(f"FAULT {fault[0]}: {fault[1]}")
    return _report(loop, status, written, problems)


def _report(loop: Loop, status: Dict[str, Any], written: Dict[str, Any],
            problems: List[str]) -> Report:  # fmt: skip
    """What a person wants to know at the end."""
    lines = [line for h in loop.histograms.values() if h.count for line in h.lines()]
    for key, text in (("reply", "from state to command"), ("interval", "between two commands")):
        times = status.get(key)
        if times and times.get("count"):
            lines.append(f"supervisor, {text}: {times['count']} times, p50 {times['p50']:.3f}, p99 "
                         f"{times['p99']:.3f}, max {times['max']:.3f} ms")  # fmt: skip
    if loop.overruns:
        lines.append(f"{loop.overruns} control steps took too long")
    if written:
        lines.append(f"recorded {written.get('rows', 0)} messages, {written.get('missed', 0)} "
                     f"missed: {loop.session.out}")  # fmt: skip
    code = 1 if problems else 130 if loop.interrupts else 0
    facts = {
        "histograms_ms": {name: h.brief() for name, h in loop.histograms.items()},
        "supervisor": status, "recording": written, "problems": problems,
        "overruns": loop.overruns,
    }  # fmt: skip
    return Report(code, [*lines, *problems], facts)


def _one_before(core: Optional[int]) -> Optional[int]:
    """The supervisor's CPU: on one CPU with it, the policy would wait for every write."""
    return None if core is None else max(0, core - 1)


def _widest(session: Session) -> int:
    """Numbers of the widest action."""
    players = [*session.players, *([session.between] if session.between else [])]
    return max(len(player.policy.contract.action_joint_names) for player in players)


@contextlib.contextmanager
def closing(keys: Sequence[Keys]) -> Any:
    """Leave terminals as they were."""
    try:
        yield keys
    finally:
        for one in keys:
            one.close()
