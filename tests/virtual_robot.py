"""A robot and a policy in virtual time around the supervisor's core: no process, no clock."""

from __future__ import annotations

import numpy as np

from asap.twin_faults import Faults
from asap_deploy.handover import DAMP, Post
from asap_deploy.link import LinkStats, RobotState
from asap_deploy.safety import SafetyLimits
from asap_deploy.supervisor import SupervisorCore

JOINTS = 12
DT, STATE_DT = 0.02, 0.002


def limits(**changes) -> SafetyLimits:
    """Limits of a made-up robot."""
    joints = np.ones(JOINTS)
    values = {
        "joint_names": tuple(f"joint_{k}" for k in range(JOINTS)),
        "joint_pos_lower": -2.0 * joints,
        "joint_pos_upper": 1.5 * joints,
        "torque_limit": np.linspace(5.0, 100.0, JOINTS),
        "step_limit": 0.4 * joints,
        "stiffness_limit": 100.0 * joints,
        "damping_limit": 6.0 * joints,
        "speed_limit": 20.0 * joints,
        "control_dt": DT,
        "mode_machine": (5,),
    }
    return SafetyLimits(**{**values, **changes})


def state(tick: int = 5000, arrival_s: float = 100.0, **changes) -> RobotState:
    """A robot that stands still."""
    zero, three = np.zeros(JOINTS), np.zeros(3)
    found = RobotState(
        tick, arrival_s, True, 5, zero, zero, zero, np.array([1.0, 0.0, 0.0, 0.0]), three,
        np.array([0.0, 0.0, 9.81]), np.full((JOINTS, 2), 40.0), np.zeros(JOINTS, np.uint32),
        80.0, True, 0, np.zeros(4),
    )  # fmt: skip
    return found._replace(**changes)


class VirtualRun:
    """A run of the core, write by write."""

    def __init__(self, *, seed: int = 0, jitter_s: float = 0.0005, **changes) -> None:
        self.core = SupervisorCore(limits(**changes))
        self.rng = np.random.default_rng(seed)
        self.now_s, self.tick, self.steps = 100.0, 5000, 0
        self.faults = Faults([], self.rng, self.now_s)
        self.jitter_s = jitter_s
        self.posting, self.alive = True, True
        self.request = None
        self.number = 0
        self.commands = []
        """(time, command, damped)"""
        self._slow_s = 0.0
        self._post = None
        self._foreign_s = -1e9

    def post(self, post: Post) -> None:
        """The policy asks for something."""
        self.number += 1
        self._post = (self.number, post)

    def step(self) -> None:
        """One write of the supervisor, one state of the robot."""
        self.now_s += STATE_DT
        slow = self.faults.size("slow", self.now_s) or 1.0
        self._slow_s += slow * STATE_DT
        states = []
        if self._slow_s >= STATE_DT - 1e-9:
            self._slow_s -= STATE_DT
            self.tick += 2
            states = self._sent(state(self.tick))
        if self.posting and self.steps % 10 == 0:
            self.post(self.request or self.usual_post())
        self.steps += 1
        others = int(self.faults.size("second_commander", self.now_s) is not None)
        publishers = 1 + (self.now_s - self._foreign_s < 1.0)
        command = self.core.tick(self.now_s, states, LinkStats(publishers, others), self._post,
                                 self.alive)  # fmt: skip
        self.commands.append((self.now_s, command, self.core.damped))

    def usual_post(self) -> Post:
        """Arms for half a second, then wobbles."""
        if self.now_s < 100.5:
            return Post.of(DAMP, JOINTS, self.now_s, DT)
        target = 0.2 * np.sin(3.0 * self.now_s + np.arange(JOINTS))
        return Post.move(target, np.full(JOINTS, 50.0), np.full(JOINTS, 2.0), now_s=self.now_s,
                         control_dt=DT)  # fmt: skip

    def run(self, seconds: float) -> VirtualRun:
        """For a while."""
        for _ in range(round(seconds / STATE_DT)):
            self.step()
        return self

    def break_with(self, fault: str, seconds: float = 1.5) -> float:
        """Inject a fault; time until the robot was damped for good [s], inf if it was not."""
        start_s = self.now_s
        self.faults.add(fault, start_s)
        return self.run(seconds).damped_after(start_s)

    def damped_after(self, start_s: float) -> float:
        """Time from then until every command was damping [s]."""
        later = [(t, command) for t, command, _ in self.commands if t > start_s]
        stiff = [t for t, command in later if command is None or (command.stiffness > 0.0).any()]
        if stiff and stiff[-1] == later[-1][0]:
            return float("inf")
        return (stiff[-1] if stiff else start_s) + STATE_DT - start_s

    def _sent(self, own: RobotState) -> list[RobotState]:
        states = []
        for sent in self.faults.states(self.now_s, own):
            late = abs(self.rng.normal(0.0, self.jitter_s))
            found = sent.state._replace(arrival_s=self.now_s + late, checksum_ok=not sent.flip)
            if sent.flip:  # whatever it holds now
                found = found._replace(joint_pos=np.full(JOINTS, 1e9), tick=found.tick + 10**6)
            if sent.foreign:
                self._foreign_s = self.now_s
            states.append(found)
        return states
