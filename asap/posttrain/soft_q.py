"""Off-policy learning by an ensemble of critics: the engine of RLPD, HIL-SERL and ConRFT.

    engine = SoftQ.on(task, actor.head, SoftQConfig.cpu(), seed=0)
    facts = engine.update(mix, rng)                  # G critic steps, one of the actor

Critics see more than the policy, as in the training of trackers. They have LayerNorm, without which
few good data and many bootstraps diverge; a target is the smallest of a random few of them, the
actor follows the mean of all. Time limits are no ends: a target goes on where nobody looked
further, and stops where the episode terminated.

Source: Ball et al. 2023 (RLPD), with the sign of the entropy term of its code; Nakamoto et al. 2023
for the value floor.
"""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import nn

from asap.posttrain.actors import Head
from asap.posttrain.task import Task
from asap.posttrain.views import Rows
from asap_deploy.errors import InputError


@dataclass(frozen=True, kw_only=True)
class SoftQConfig:
    """How critics and actor learn. The defaults are RLPD's own."""

    critics: int = 10
    """E."""
    subset: int = 2
    """Z of them make a target."""
    hidden: tuple[int, ...] = (256, 256)
    """Of each critic."""
    layer_norm: bool = True
    """In the critics."""
    batch: int = 256
    critic_steps: int = 20
    """G, for each step of the actor."""
    gamma: float = 0.99
    ahead: int = 1
    """Steps whose rewards a target counts before it asks the critics."""
    tau: float = 0.005
    """How fast targets follow."""
    learning_rate: float = 3e-4
    temperature: float | None = 1.0
    """At first; it learns. None: no entropy anywhere, as of a head without likelihood."""
    target_entropy: float = -0.5
    """For each number of an action; stable-baselines3's default is -1."""
    entropy_backup: bool = True
    """Whether targets count the entropy to come."""
    floor_weight: float = 0.0
    """Of the conservative term whose values are floored at what the data reached (Cal-QL)."""
    floor_actions: int = 10
    """Of each kind that it looks at: any, the policy's, the policy's afterwards."""
    clone_weight: float = 0.0
    """Of behaviour cloning in the actor's loss."""
    clone_rows: Literal["shown", "all"] = "shown"
    """Rows that are cloned: of operators and demonstrators, or the policy's own failures too."""
    value_weight: float = 1.0
    """Of the critics in the actor's loss."""
    still_weight: float = 0.0
    """Of the squared action in the actor's loss: a residual on a policy that is good already does
    nothing that critics do not clearly prefer. Values are divided by their mean size then."""
    warmup: int = 0
    """Updates at first in which the actor rests: critics that know nothing lead it anywhere."""
    normalise_value: bool = True
    """Divide that by the mean size of values where something is cloned as well: otherwise the
    scale of rewards sets the balance."""

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        if not 1 <= self.subset <= self.critics:
            raise InputError(f"subset must be 1 to {self.critics} critics; got {self.subset}")
        if not (0.0 < self.gamma < 1.0 and 0.0 < self.tau <= 1.0 and self.ahead >= 1):
            raise InputError("gamma must be between 0 and 1, tau above 0 to 1, ahead 1 or more")

    @classmethod
    def cpu(cls, **changes: object) -> SoftQConfig:
        """Small and quick enough for two cores: some 200 steps of the critics a second."""
        small: dict[str, object] = {
            "critics": 4, "hidden": (64, 64), "batch": 128, "critic_steps": 8, "gamma": 0.97,
            "tau": 0.02, "learning_rate": 1e-3, "temperature": 0.02, "entropy_backup": False,
            "floor_actions": 4,
        }  # fmt: skip
        return cls(**{**small, **changes})  # type: ignore[arg-type]


class Samples(Protocol):
    """Where minibatches come from."""

    def sample(self, rng: np.random.Generator, size: int) -> Rows:
        """One of them."""
        ...


class Critics(nn.Module):
    """E networks side by side, one matrix product a layer."""

    def __init__(self, width: int, config: SoftQConfig, normal: nn.Module | None = None) -> None:
        """Each begins differently."""
        super().__init__()
        self.normal = normal or nn.Identity()
        widths = [width, *config.hidden, 1]
        members, self.norm = config.critics, config.layer_norm
        self.weights, self.biases, self.scales, self.shifts = (nn.ParameterList() for _ in range(4))
        for before, after in itertools.pairwise(widths):
            weight = torch.empty(members, before, after)
            for one in weight:
                nn.init.xavier_uniform_(one)
            self.weights.append(nn.Parameter(weight))
            self.biases.append(nn.Parameter(torch.zeros(members, 1, after)))
            self.scales.append(nn.Parameter(torch.ones(members, 1, after)))
            self.shifts.append(nn.Parameter(torch.zeros(members, 1, after)))

    def forward(
        self, observation: torch.Tensor, state: torch.Tensor, action: torch.Tensor,
        members: list[int] | None = None,
    ) -> torch.Tensor:  # fmt: skip
        """Values (E, N), or of some members alone."""
        given = torch.cat([self.normal(observation), state, action], dim=-1)
        chosen = slice(None) if members is None else members
        value = given.expand(len(self.weights[0][chosen]), *given.shape)
        for depth, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            value = torch.baddbmm(bias[chosen], value, weight[chosen])
            if depth == len(self.weights) - 1:
                break
            if self.norm:
                value = nn.functional.layer_norm(value, value.shape[-1:])
                value = value * self.scales[depth][chosen] + self.shifts[depth][chosen]
            value = torch.relu(value)
        return value.squeeze(-1)


class SoftQ:
    """Critics, their targets, the actor's steps and the temperature."""

    def __init__(
        self,
        head: Head,
        width: int,
        actions: int,
        config: SoftQConfig,
        seed: int,
        normal: nn.Module | None = None,
    ) -> None:
        """Make critics.

        Args:
            head: The actor, within +- 1.
            width: Of observations and states together, D + K.
            actions: A.
            config: How.
            seed: Of weights and draws; torch's generator is set.
            normal: Of observations, where they are not about 1.
        """
        torch.manual_seed(seed)
        self.head, self.config, self.actions = head, config, actions
        self.critics = Critics(width + actions, config, normal)
        self.targets = copy.deepcopy(self.critics)
        rate = config.learning_rate
        self._critic_steps = torch.optim.Adam(self.critics.parameters(), lr=rate, foreach=True)
        self._actor_steps = torch.optim.Adam(head.parameters(), lr=rate, foreach=True)
        self._log_alpha = nn.Parameter(torch.tensor(float(np.log(config.temperature or 1.0))))
        self._alpha_steps = torch.optim.Adam([self._log_alpha], lr=rate)
        self._updates = 0
        self.clone_weight, self.value_weight = config.clone_weight, config.value_weight
        """May change while it learns."""

    @classmethod
    def on(cls, task: Task, head: Head, config: SoftQConfig, seed: int,
           normal: nn.Module | None = None) -> SoftQ:  # fmt: skip
        """As wide as a task is."""
        width = task.observation_width + task.state_width
        return cls(head, width, len(task.action_names), config, seed, normal)

    @property
    def alpha(self) -> float:
        """The temperature; 0 without entropy."""
        return 0.0 if self.config.temperature is None else float(self._log_alpha.detach().exp())

    def update(self, data: Samples, rng: np.random.Generator) -> dict[str, float]:
        """G steps of the critics and then one of the actor, on the last minibatch."""
        facts: dict[str, float] = {}
        for _ in range(self.config.critic_steps):
            rows = TensorRows.of(data.sample(rng, self.config.batch))
            facts["critic_loss"] = self._critic_step(rows, rng)
        self._updates += 1
        return facts if self._updates <= self.config.warmup else facts | self._actor_step(rows)

    @torch.no_grad()
    def target(self, rows: TensorRows, members: list[int]) -> torch.Tensor:
        """(N,) y = r + gamma alive (min_Z Q'(o', a') - alpha log pi(a'|o'))."""
        action, log_prob = self.head.sample(rows.next_observation)
        value = self.targets(rows.next_observation, rows.next_state, action, members)
        value = value.min(dim=0).values
        if log_prob is not None and self.config.entropy_backup:
            value = value - self.alpha * log_prob
        return rows.reward + self.config.gamma * rows.alive * value

    def _critic_step(self, rows: TensorRows, rng: np.random.Generator) -> float:
        config = self.config
        members = rng.choice(config.critics, config.subset, replace=False).tolist()
        target = self.target(rows, members)
        values = self.critics(rows.observation, rows.state, rows.action)
        loss = (values - target).square().mean(dim=1).sum()
        if config.floor_weight:
            loss = loss + config.floor_weight * self._conservative(rows, values)
        self._critic_steps.zero_grad()
        loss.backward()
        self._critic_steps.step()
        with torch.no_grad():
            for target_, now in zip(
                self.targets.parameters(), self.critics.parameters(), strict=True
            ):
                target_.lerp_(now, config.tau)
        return float(loss.detach())

    def _conservative(self, rows: TensorRows, values: torch.Tensor) -> torch.Tensor:
        """Push down actions that the data do not have, but not below what the data reached."""
        count, size = self.config.floor_actions, len(rows.reward)
        with torch.no_grad():
            seen, state = rows.observation.repeat(count, 1), rows.state.repeat(count, 1)
            own = self.head.sample(seen)[0]
            later = self.head.sample(rows.next_observation.repeat(count, 1))[0]
            anything = 2.0 * torch.rand_like(own) - 1.0
        floor = rows.to_go.repeat(count)
        found = [self.critics(seen, state, anything)]
        found += [torch.maximum(self.critics(seen, state, action), floor)
                  for action in (own, later)]  # fmt: skip
        everything = torch.cat([one.reshape(-1, count, size) for one in found] + [values[:, None]],
                               dim=1)  # fmt: skip
        count_all = np.log(everything.shape[1])
        return (torch.logsumexp(everything, dim=1) - count_all - values).mean(dim=1).sum()

    def _actor_step(self, rows: TensorRows) -> dict[str, float]:
        config = self.config
        action, log_prob = self.head.sample(rows.observation)
        value = self.critics(rows.observation, rows.state, action).mean(dim=0)
        size = 1.0
        if config.normalise_value and (self.clone_weight or config.still_weight):
            size = float(value.detach().abs().mean()) + 1e-6
        loss = -self.value_weight * value.mean() / size
        facts = {"value": float(value.detach().mean()), "alpha": self.alpha}
        if log_prob is not None and config.temperature is not None:
            loss = loss + self.alpha * log_prob.mean()
            self._temperature_step(log_prob.detach())
            facts["entropy"] = -float(log_prob.detach().mean())
        if self.clone_weight:
            chosen = rows.shown if config.clone_rows == "shown" else torch.ones_like(rows.shown)
            cloned = self.head.imitation(rows.observation, rows.action)
            loss = loss + self.clone_weight * (cloned * chosen).sum() / chosen.sum().clamp(min=1.0)
        if config.still_weight:
            loss = loss + config.still_weight * action.square().sum(-1).mean()
        self._actor_steps.zero_grad()
        loss.backward()
        self._actor_steps.step()
        return facts

    def _temperature_step(self, log_prob: torch.Tensor) -> None:
        """Towards the wanted entropy."""
        wanted = self.config.target_entropy * self.actions
        loss = -self._log_alpha.exp() * (log_prob + wanted).mean()
        self._alpha_steps.zero_grad()
        loss.backward()
        self._alpha_steps.step()


class TensorRows(NamedTuple):
    """``Rows`` as tensors."""

    observation: torch.Tensor
    action: torch.Tensor
    reward: torch.Tensor
    next_observation: torch.Tensor
    alive: torch.Tensor
    to_go: torch.Tensor
    shown: torch.Tensor
    state: torch.Tensor
    next_state: torch.Tensor

    @classmethod
    def of(cls, rows: Rows) -> TensorRows:
        """Copies."""
        return cls(*(torch.as_tensor(np.asarray(array, np.float32)) for array in rows))
