"""What the robot is doing: passive, damp, stand, ready, track, hold. Nothing moves unarmed.

    passive --arm--> damp --stand--> stand --> ready --go--> track --> hold --go--> track ...
    any --damp--> damp, and a fault of the supervisor ends in damp for good

A clip that is over leads to hold. Nothing ever runs past its end, and a biped is not left to a
stiff pose, in which it falls within a second: a policy made for standing takes over for as long as
the operator likes. Without one, the clip's own policy goes on with its time stopped, for which it
was never trained: its feet creep until it falls. So that is for seconds, and ends in damp.

    machine = StateMachine(players, limits)
    decision = machine.step(time_s, state, orders, fault=None)
"""

from __future__ import annotations

import time
from typing import List, NamedTuple, Optional, Sequence

import numpy as np

from asap_deploy import handover as requests
from asap_deploy.link import RobotState
from asap_deploy.observation import Measurement
from asap_deploy.policy import Policy
from asap_deploy.runtime import Runtime, RuntimeStep

MODES = ("passive", "damp", "stand", "ready", "track", "hold", "fault")
STAND_SPEED = 0.6
"""No joint is moved into the first pose faster than this [rad/s]."""

STAND_S = 1.5
"""Shortest time in which the robot is brought into the first pose [s]."""

HOLD_S = 10.0
"""A clip's own policy holds its last frame for no longer [s]: `squat` falls after 20 to 170 s."""

HOLD_WARNING_S = 5.0
"""The operator is told so long before [s]."""

NEAR_RAD = 0.35
"""A clip begins only where every joint is this near to its first frame [rad]."""


class Player:
    """A policy on the robot, one clip."""

    def __init__(self, policy: Policy, name: str, joint_names: Sequence[str], *,
                 gain: float = 1.0) -> None:  # fmt: skip
        """Make its runtime.

        Args:
            policy: Network, contract and clip.
            name: To be shown.
            joint_names: The link's order.
            gain: Part of the contract's gains that is used.
        """
        self.policy, self.name = policy, name
        self.inference_s = 0.0
        """Of the network alone, in the last step [s]"""
        self.runtime = Runtime(policy, joint_names, evaluator=self._act)
        order = policy.contract.index(tuple(joint_names))
        self.stiffness = gain * np.array(policy.contract.stiffness)[order]
        self.damping = gain * np.array(policy.contract.damping)[order]
        self.start_joint_pos = self.runtime.start_joint_pos()
        clip = policy.contract.clip
        self.duration_s = np.inf if clip is None else clip.duration_s

    def _act(self, observation: np.ndarray) -> np.ndarray:
        start_s = time.monotonic()
        action = self.policy.act(observation)
        self.inference_s = time.monotonic() - start_s
        return action

    def step(self, state: RobotState, clip_time_s: float) -> RuntimeStep:
        """One control step at a time of the clip."""
        measured = Measurement(
            joint_pos=state.joint_pos[None],
            joint_vel=state.joint_vel[None],
            base_quat_wxyz=state.imu_quat_wxyz[None],
            base_ang_vel_b=state.imu_ang_vel_b[None],
        )
        return self.runtime.step(measured, np.array([clip_time_s]))


class Decision(NamedTuple):
    """What is asked of the supervisor in this control step."""

    request: int
    mode: str
    target: Optional[np.ndarray] = None
    stiffness: Optional[np.ndarray] = None
    damping: Optional[np.ndarray] = None
    clip_time_s: float = 0.0
    step: Optional[RuntimeStep] = None
    text: str = ""
    """Of a fault."""


def min_jerk(fraction: float) -> float:
    """Progress from 0 to 1 without a jerk at either end; steepest in the middle, 1.875."""
    x = min(max(fraction, 0.0), 1.0)
    return x * x * x * (10.0 + x * (6.0 * x - 15.0))


class StateMachine:
    """Follows orders, where they are safe."""

    def __init__(self, players: Sequence[Player], between: Optional[Player] = None) -> None:
        """Passive, with the first clip chosen.

        Args:
            players: Clips in order.
            between: Stands after each of them; None has each hold by itself for ``HOLD_S``.
        """
        self.players, self.between = list(players), between
        self.mode, self.current = "passive", 0
        self.quit = False
        self.held_back = False
        """The robot's own controller has not let go: nothing that is asked for arrives."""
        self.said: List[str] = []
        """Lines for the operator; the caller takes them out."""
        self._since_s = 0.0
        self._from: Optional[np.ndarray] = None
        self._stand_s = STAND_S
        self._warned = False
        self._holder = self.player

    @property
    def player(self) -> Player:
        """The clip that is played, or that is next."""
        return self.players[self.current]

    @property
    def acting(self) -> Player:
        """The policy that drives, or would: the clip's, or the one that stands after it."""
        return self._holder if self.mode == "hold" else self.player

    def step(self, time_s: float, state: RobotState, orders: Sequence[str],
             fault: Optional[str] = None) -> Decision:  # fmt: skip
        """One control step.

        Args:
            time_s: When it was due; a whole number of control steps [s].
            state: The newest.
            orders: Of the operator, in order.
            fault: What the supervisor objects to.
        """
        if fault is not None and self.mode not in ("fault", "passive"):
            self._enter("fault", time_s, f"FAULT {fault}: damping until you quit (q)")
        for order in orders:
            self._obey(order, time_s, state)
        if self.mode == "stand" and time_s - self._since_s >= self._stand_s - 1e-9:
            self._enter("ready", time_s, f"ready for '{self.player.name}': g goes")
        if self.mode == "track" and time_s - self._since_s >= self.player.duration_s - 5e-7:
            self._hold(time_s)
        if self.mode == "hold" and self.between is None:
            self._end_hold(time_s)
        return self._decide(time_s, state)

    def _hold(self, time_s: float) -> None:
        over = f"'{self.player.name}' is over"
        self._holder = self.between or self.player  # whatever clip is chosen meanwhile
        if self.between is None:
            self._warned = False
            self._enter("hold", time_s, f"{over}: holding for {HOLD_S:.0f} s, then damping")
        else:
            self.between.runtime.reset()
            self._enter("hold", time_s, f"{over}: '{self.between.name}' stands")

    def _end_hold(self, time_s: float) -> None:
        """Before the robot falls by itself, and not without a warning."""
        left_s = HOLD_S - (time_s - self._since_s)
        if left_s <= 1e-9:
            self._enter("damp", time_s, f"held for {HOLD_S:.0f} s: damping")
        elif left_s <= HOLD_WARNING_S and not self._warned:
            self._warned = True
            self.said.append(f"damping in {HOLD_WARNING_S:.0f} s: hold the robot (g goes on)")

    def _obey(self, order: str, time_s: float, state: RobotState) -> None:
        if order == "quit":
            if self.mode in ("stand", "ready", "track", "hold"):
                self._enter("damp", time_s, "damping; quit once more to end")
            else:
                self.quit = True
        elif order == "damp" and self.mode not in ("passive", "fault"):
            self._enter("damp", time_s, "damping")
        elif order == "arm" and self.mode == "passive":
            self._enter("damp", time_s, "armed: damping")
        elif order == "stand" and self.held_back:
            self.said.append("not yet: the robot's own controller has not let go of the motors")
        elif order == "stand" and self.mode == "hold":
            # A pose does not balance: on its feet, the robot would fall over, stiff.
            self.said.append("not while it stands by itself: d damps it first, hold it then")
        elif order == "stand" and self.mode in ("damp", "ready"):
            self._stand(time_s, state)
        elif order == "go" and self.mode in ("ready", "hold"):
            self._go(time_s, state)
        elif order == "next" and self.mode in ("passive", "damp", "ready", "hold"):
            self.current = (self.current + 1) % len(self.players)
            self.said.append(f"next: '{self.player.name}'")
            if self.mode == "ready":
                self._stand(time_s, state)
        else:
            self.said.append(f"'{order}' means nothing while in {self.mode}")

    def _stand(self, time_s: float, state: RobotState) -> None:
        """From where the joints are now, however far that is."""
        self._from = state.joint_pos.copy()
        farthest = float(np.abs(self.player.start_joint_pos - self._from).max())
        self._stand_s = max(STAND_S, 1.875 * farthest / STAND_SPEED)
        self._enter("stand", time_s, f"standing up in {self._stand_s:.1f} s")

    def _go(self, time_s: float, state: RobotState) -> None:
        away = np.abs(state.joint_pos - self.player.start_joint_pos)
        if not away.max() <= NEAR_RAD:  # true for NaN
            how = "d damps, then s stands up" if self.mode == "hold" else "s stands up"
            self.said.append(f"not from here: a joint is {away.max():.2f} rad from the first "
                             f"frame of '{self.player.name}' ({how})")  # fmt: skip
            return
        self.player.runtime.reset()
        self._enter("track", time_s, f"'{self.player.name}'")

    def _enter(self, mode: str, time_s: float, text: str) -> None:
        self.mode, self._since_s = mode, time_s
        self.said.append(text)

    def _decide(self, time_s: float, state: RobotState) -> Decision:
        since_s, player = time_s - self._since_s, self.acting
        if self.mode == "passive":
            return Decision(requests.PASSIVE, self.mode)
        if self.mode in ("damp", "fault"):
            return Decision(requests.DAMP, self.mode)
        if self.mode in ("stand", "ready"):
            assert self._from is not None
            part = 1.0 if self.mode == "ready" else min_jerk(since_s / self._stand_s)
            target = self._from + part * (player.start_joint_pos - self._from)
            return Decision(requests.MOVE, self.mode, target, player.stiffness, player.damping)
        clip_time_s = since_s
        if self.mode == "hold":
            # Time stands still: at the end of the clip, or at the beginning of the one between.
            clip_time_s = player.duration_s if self.between is None else 0.0
        step = player.step(state, clip_time_s)
        if step.refused[0]:
            text = f"'{player.name}' refuses what was measured or what its network said"
            self._enter("fault", time_s, f"FAULT {text}")
            return Decision(requests.FAULT, self.mode, step=step, text=text)
        return Decision(requests.MOVE, self.mode, step.joint_pos_target[0], player.stiffness,
                        player.damping, clip_time_s, step)  # fmt: skip
