"""Learning by imitation before learning by trial: the actor copies a teacher that sees everything.

The student acts more and more itself and is told in every state what the teacher would do there
(DAgger, Ross et al. 2011). The critic learns meanwhile, so that it is warm when PPO begins.

    imitation = Imitation(env, lambda: find_teacher(robot, motion), ImitateConfig())
    imitation.begin()
    wanted = imitation.wanted()                     # (N, A) before the step
    imitation.remember(observation, wanted)
    loss = imitation.fit(policy, rng)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from asap.env import TrackingEnv
from asap.policy import AsymmetricPolicy


class Teacher(Protocol):
    """What is imitated."""

    @property
    def worth_copying(self) -> bool:
        """False if it falls itself, and nothing is to be learned from it."""
        ...

    @property
    def about(self) -> str:
        """What it is and how well it does, in a few words."""
        ...

    def act(self, env: TrackingEnv) -> np.ndarray:
        """Actions (N, A) for robots as they are now."""
        ...


@dataclass(frozen=True, kw_only=True)
class ImitateConfig:
    """How the actor copies."""

    iterations: int = 40
    """Iterations before PPO begins; 0 leaves imitation out. So do --init, and a clip on which the
    teacher falls itself."""
    alone_after: float = 0.25
    """Fraction of them after which the teacher only talks and never acts."""
    passes: int = 40
    """Minibatches of each iteration, drawn from all that was seen so far."""
    batch: int = 2048
    """Samples of a minibatch."""
    teacher: str = "auto"
    """auto: the robot's own (teacher.onnx beside robot.toml) or a regulator planned for the clip,
    whichever does better; regulator: no other; or a file of ``asap teach``."""
    learning_rate: float = 1e-3
    """Of actor and critic while imitating."""
    limit: float = 3.0
    """The teacher's actions are clipped to this around those that command the motion's own pose;
    beyond, a linear teacher is lost anyway."""


class Imitation:
    """What the teacher said so far, and the fit to it."""

    def __init__(
        self, env: TrackingEnv, plan: Callable[[], Teacher], config: ImitateConfig
    ) -> None:
        """Nothing is planned or remembered yet.

        Args:
            env: Where is learned.
            plan: Makes the teacher, the same one every time; it may take a while.
            config: How.
        """
        self.env, self.config, self._plan = env, config, plan
        self._teacher: Teacher | None = None
        self.given_up = False
        """The teacher falls itself: nothing is to be learned from it."""
        self._seen: list[torch.Tensor] = []
        self._wanted: list[torch.Tensor] = []

    def begin(self) -> None:
        """Make the teacher, the first time."""
        if self._teacher is None:
            self._teacher = self._plan()
            self.given_up = not self._teacher.worth_copying

    @property
    def about(self) -> str:
        """Who was copied; empty as long as nobody was."""
        if self._teacher is None:
            return ""
        return f"{self._teacher.about}{'; not copied' if self.given_up else ''}"

    def wanted(self) -> np.ndarray:
        """What the teacher would do now, as actions (N, A)."""
        assert self._teacher is not None, "begin() comes first"
        motion, limit = self.env.motion_action(), self.config.limit
        wanted = np.clip(self._teacher.act(self.env) - motion, -limit, limit) + motion
        return wanted.astype(np.float32)

    def acts(self, iteration: int) -> np.ndarray:
        """(N,) environments that the teacher drives in this iteration: all at first, then none."""
        share = 1.0 - iteration / max(1.0, self.config.alone_after * self.config.iterations)
        return np.arange(self.env.num_envs) < share * self.env.num_envs

    def remember(self, observation: np.ndarray, wanted: np.ndarray) -> None:
        """Keep what the student saw (N, D) and what the teacher wanted (N, A)."""
        self._seen.append(torch.from_numpy(observation.copy()))
        self._wanted.append(torch.from_numpy(wanted))

    def fit(self, policy: AsymmetricPolicy, optimizer: torch.optim.Optimizer) -> float:
        """Minibatches of regression; returns the last mean squared error, in units of actions."""
        seen, wanted = torch.stack(self._seen), torch.stack(self._wanted)
        seen, wanted = seen.flatten(0, 1), wanted.flatten(0, 1)
        error = torch.zeros(())
        for _ in range(self.config.passes):
            rows = torch.randint(len(seen), (self.config.batch,))
            mean = policy.action_net(policy.towers.forward_actor({"actor": seen[rows]}))
            error = nn.functional.mse_loss(mean, wanted[rows])
            optimizer.zero_grad()
            error.backward()
            optimizer.step()
        return float(error.detach())

    def forget(self) -> None:
        """Free the memory: imitation is over."""
        self._seen, self._wanted = [], []

    def snapshot(self) -> dict[str, Any]:
        """All that is remembered."""
        return {"seen": list(self._seen), "wanted": list(self._wanted), "given_up": self.given_up}

    def restore(self, state: dict[str, Any]) -> None:
        """Undo what happened since the snapshot."""
        self._seen, self._wanted = list(state["seen"]), list(state["wanted"])
        self.given_up = state["given_up"]
