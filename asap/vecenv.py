"""The tracking environments as stable-baselines3 sees them.

env = TrackingVecEnv(tracking_env)
model = TrackerPPO(AsymmetricPolicy, env, ...)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from asap.env import Observation, Transition

ACTION_BOUND = 10.0
"""Of the action space; stable-baselines3 clips to it. In units of the action scale."""


class Acts(Protocol):
    """What says which joints are acted on."""

    @property
    def action_joint_names(self) -> tuple[str, ...]:
        """One for each number of an action."""
        ...


class Environments(Protocol):
    """N environments that step together: ``TrackingEnv``, or others that are learned alike."""

    num_envs: int

    @property
    def contract(self) -> Acts:
        """What an action means."""
        ...

    def reset(self) -> Observation:
        """Start all anew."""
        ...

    def step(self, action: np.ndarray) -> Transition:
        """One control step of all, under actions (N, A)."""
        ...


class TrackingVecEnv(VecEnv):
    """A thin face: spaces, ``reset`` and ``step``. ``TrackerPPO`` steps ``tracking`` itself."""

    def __init__(self, tracking: Environments) -> None:
        """Read the widths off a first observation."""
        self.tracking = tracking
        self.last = tracking.reset()
        space = spaces.Dict(
            {
                group: spaces.Box(-np.inf, np.inf, values.shape[1:], np.float32)
                for group, values in self.last.items()
            }
        )
        actions = len(tracking.contract.action_joint_names)
        box = spaces.Box(-ACTION_BOUND, ACTION_BOUND, (actions,), np.float32)
        self.render_mode = None
        super().__init__(tracking.num_envs, space, box)

    def reset(self) -> Observation:
        """Start all environments anew."""
        self.last = self.tracking.reset()
        return self.last

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions for ``step_wait``."""
        self._actions = actions

    def step_wait(self) -> Any:
        """Step; every episode's end is an end for good, so no terminal observation is needed."""
        step = self.tracking.step(self._actions)
        return step.observation, step.reward, step.terminated, [{} for _ in range(self.num_envs)]

    def close(self) -> None:
        """Nothing to close."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """All environments share one object."""
        return [getattr(self.tracking, attr_name, None)] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Environments are configured at their start."""
        raise NotImplementedError("tracking environments are configured by EnvConfig")

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> Any:
        """There is one object for all environments."""
        raise NotImplementedError("call the method of TrackingVecEnv.tracking")

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> Sequence[bool]:  # type: ignore[override]
        """They are not."""
        return [False] * self.num_envs
