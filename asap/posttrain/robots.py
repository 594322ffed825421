"""Robots of ``asap.env`` that begin when they are told to, and say every term of their reward."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from asap.env import SETTLED_S, TrackingEnv
from asap.rewards import COSTS, TRACKING, Context, Effort, Term

FAILED, DISTANCE = "failed", "distance_m"
"""Reward terms beside those of ``asap.rewards``: 1 where it failed; mean distance of the tracked
points to the motion [m]."""
ALWAYS = ("torque", "feet_slip", "action_rate")
"""Costs that are recorded whatever their weight: what a robot spends is worth knowing."""


class Advanced(NamedTuple):
    """What one step of N robots gave."""

    terms: dict[str, np.ndarray]
    """(N,) by name"""
    failed: np.ndarray
    """(N,) bool"""
    ended: np.ndarray
    """(N,) bool: the clip is over"""
    action: np.ndarray
    """(N, A) clipped to the contract's limit"""


class Labelled(NamedTuple):
    """Steps that were recorded elsewhere, as an episode has them."""

    terms: dict[str, np.ndarray]
    """(T,) by name"""
    action: np.ndarray
    """(T, A) that commands what was commanded"""


class Robots(TrackingEnv):
    """Robots that begin when they are told to, and never by themselves."""

    kicks: np.ndarray
    """(N, frames, 3) that bases get at once in every frame [m/s]"""

    def begin(self, env_ids: np.ndarray, qpos: np.ndarray, qvel: np.ndarray) -> None:
        """Put robots (n,) into states (n, nq), (n, nv) at the first frame."""
        self.frame[env_ids] = 0
        self.episode_steps[env_ids] = 0
        self.sim.reset(env_ids, qpos, qvel)
        self.runtime.reset(env_ids)
        pos, quat = self.sim.body_pos_w[env_ids], self.sim.body_quat_wxyz[env_ids]
        self.points_w[env_ids] = self._points.positions(pos, quat)
        if self._turns:
            self._links_quat[env_ids] = self._points.attitudes(quat)

    def advance(self, action: np.ndarray) -> Advanced:
        """One control step under actions (N, A); the last frame is never left."""
        last_action = self.runtime.last_action
        command = self.runtime.act(action, self.time_s)
        kick = self.kicks[np.arange(self.num_envs), self.frame]
        if kick.any():
            self.sim.push(np.arange(self.num_envs), kick)
        self.sim.step(command.joint_pos_target)
        self.frame = np.minimum(self.frame + 1, self.last_frame)
        self.episode_steps += 1
        terms, failed = self._judged(self._effort(command.action, last_action))
        failed = failed | command.refused
        terms[FAILED] = failed.astype(float)
        return Advanced(terms, failed, self.frame >= self.last_frame, command.action)

    def labelled(
        self, qpos: np.ndarray, qvel: np.ndarray, frames: np.ndarray, joint_pos_target: np.ndarray
    ) -> Labelled:
        """Terms of steps that a robot did elsewhere; episodes that were going on are lost.

        Where it came is what was recorded. What it spent (torques, forces under the feet) no log
        knows as the simulator does: each step is simulated from where it began.

        Args:
            qpos: (T + 1, nq) before every step, and after the last.
            qvel: (T + 1, nv)
            frames: (T + 1,) of the clip.
            joint_pos_target: (T, J) in force [rad].
        """
        steps, everyone = len(joint_pos_target), np.arange(self.num_envs)
        actions = np.zeros((steps + 1, len(self._commanded)))  # the first has none before it
        parts: list[dict[str, np.ndarray]] = []
        for first in range(0, steps, self.num_envs):
            rows = np.minimum(first + everyone, steps - 1)
            self.begin(everyone, qpos[rows], qvel[rows])
            self.frame[:] = frames[rows]
            self.episode_steps[:] = np.round(SETTLED_S / self.robot.control_dt) + 1 + rows
            actions[rows + 1] = self.action_of(joint_pos_target[rows])
            self.sim.step(joint_pos_target[rows])
            effort = self._effort(actions[rows + 1], actions[rows])
            self.sim.reset(everyone, qpos[rows + 1], qvel[rows + 1])
            self.frame[:] = frames[rows + 1]
            terms, failed = self._judged(effort)
            terms[FAILED] = failed.astype(float)
            parts.append({name: value[: steps - first] for name, value in terms.items()})
        return Labelled({name: np.concatenate([one[name] for one in parts]) for name in parts[0]},
                        actions[1:])  # fmt: skip

    def _effort(self, action: np.ndarray, last_action: np.ndarray) -> Effort:
        """What the last step cost, copied."""
        return Effort(action, last_action, self.sim.joint_torque.copy(),
                      self.sim.foot_contact_force.copy())  # fmt: skip

    def _judged(self, effort: Effort) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Terms of where the robots are, and (N,) who failed."""
        state, reference = self._state(), self._reference()
        context = Context(state, reference, effort, self.point_sets, self._limits)
        distance = np.linalg.norm(state.points_w - reference.points_w, axis=-1)
        terms = {name: self._term(name, context) for name in self.term_names}
        return terms | {DISTANCE: distance.mean(axis=-1)}, self._failed(state, distance)

    @property
    def term_names(self) -> tuple[str, ...]:
        """Terms that count, and costs that are recorded always."""
        return tuple(name for name in (*TRACKING, *COSTS)
                     if self.weight(name).weight != 0.0 or name in ALWAYS)  # fmt: skip

    def weight(self, name: str) -> Term:
        """Weight and width of a term."""
        found: Term = getattr(self.config.reward, name)
        return found

    def _term(self, name: str, context: Context) -> np.ndarray:
        """(N,) before its weight; of a robot that blew up nothing means anything."""
        if name in TRACKING:
            value = np.exp(-TRACKING[name](context) / self.weight(name).width ** 2)
        else:
            value = COSTS[name](context)
        return np.where(self.sim.failed, 0.0, value)
