"""The network that is trained: an actor that sees proprioception, a critic that sees everything.

Two towers without a shared layer: the critic's inputs have no way to the action. Inputs are
normalised inside the towers, with running statistics that stand still within an iteration; they
are folded into the exported graph.

    policy = PPO(AsymmetricPolicy, env, policy_kwargs={"net_arch": {"pi": [...], "vf": [...]}})
    layers = as_layers(actor_weights(policy))
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import MultiInputActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, create_mlp
from torch import nn

from asap.onnx_file import NORMALISED_LIMIT, Layer

Activation = Literal["Elu", "Relu", "Tanh", "Sigmoid"]
ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "Elu": nn.ELU,
    "Relu": nn.ReLU,
    "Tanh": nn.Tanh,
    "Sigmoid": nn.Sigmoid,
}
"""Between layers, by the ONNX operator that an exported graph has for it."""

MIN_STD = 1e-2
"""An input that hardly varies is not blown up."""


class RunningNorm(nn.Module):
    """Subtracts the mean and divides by the standard deviation of what was seen so far."""

    mean: torch.Tensor
    var: torch.Tensor
    count: torch.Tensor

    def __init__(self, width: int) -> None:
        """Begin as the identity."""
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("var", torch.ones(width))
        self.register_buffer("count", torch.zeros(()))
        self.limit: float | None = NORMALISED_LIMIT
        """Normalised values are clipped to +- this; None: not at all."""
        self.frozen = False

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Normalise (N, width)."""
        normal = (values - self.mean) / self.std()
        return normal if self.limit is None else torch.clamp(normal, -self.limit, self.limit)

    def std(self) -> torch.Tensor:
        """What is divided by (width,)."""
        std = torch.sqrt(self.var)
        return std if self.frozen else std.clamp(min=MIN_STD)

    def freeze(self, mean: torch.Tensor, std: torch.Tensor, limit: float | None) -> None:
        """Normalise with these (width,), to the bit, whatever is seen from now on."""
        self.mean.copy_(mean)
        self.var.copy_(std**2)  # its square root is std again: IEEE rounds both correctly
        self.limit, self.frozen = limit, True

    @torch.no_grad()
    def update(self, values: torch.Tensor) -> None:
        """Take (N, width) into the statistics; rows that are not finite are left out."""
        if self.frozen:
            return
        values = values[torch.isfinite(values).all(dim=1)]
        if len(values) == 0:
            return
        mean, var, count = values.mean(0), values.var(0, unbiased=False), len(values)
        total = self.count + count
        delta = mean - self.mean
        self.var = (
            self.var * self.count + var * count + delta**2 * self.count * count / total
        ) / total
        self.mean = self.mean + delta * count / total
        # A window of two million samples: what was seen when everything fell is forgotten.
        self.count = torch.clamp(total, max=2e6)


class Towers(nn.Module):
    """Actor and critic, each with its own normalisation."""

    def __init__(self, space: spaces.Dict, net_arch: dict[str, list[int]], activation: Any) -> None:
        """Widths come from the observation space."""
        super().__init__()
        actor, critic = _width(space, "actor"), _width(space, "critic")
        self.actor_norm, self.critic_norm = RunningNorm(actor), RunningNorm(critic)
        self.policy_net = nn.Sequential(*create_mlp(actor, -1, net_arch["pi"], activation))
        self.value_net = nn.Sequential(*create_mlp(critic, -1, net_arch["vf"], activation))
        # An actor without hidden layers is one linear layer.
        self.latent_dim_pi = net_arch["pi"][-1] if net_arch["pi"] else actor
        self.latent_dim_vf = net_arch["vf"][-1] if net_arch["vf"] else critic

    def forward(self, observation: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Both last hidden layers."""
        return self.forward_actor(observation), self.forward_critic(observation)

    def forward_actor(self, observation: dict[str, torch.Tensor]) -> torch.Tensor:
        """Reads ``actor`` alone."""
        return self.policy_net(self.actor_norm(observation["actor"]))

    def forward_critic(self, observation: dict[str, torch.Tensor]) -> torch.Tensor:
        """Reads ``critic`` alone."""
        return self.value_net(self.critic_norm(observation["critic"]))


class _PassThrough(BaseFeaturesExtractor):
    """Hands both observation groups to the towers untouched."""

    def __init__(self, observation_space: spaces.Dict) -> None:
        super().__init__(observation_space, features_dim=1)

    def forward(self, observations: dict[str, torch.Tensor]) -> Any:
        """The groups as they are."""
        return observations


class AsymmetricPolicy(MultiInputActorCriticPolicy):
    """stable-baselines3's actor-critic policy with separate observation groups."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """As its parent; features are not extracted but passed through."""
        kwargs["features_extractor_class"] = _PassThrough
        super().__init__(*args, **kwargs)

    def _build_mlp_extractor(self) -> None:
        assert isinstance(self.observation_space, spaces.Dict)
        assert isinstance(self.net_arch, dict)
        towers = Towers(self.observation_space, self.net_arch, self.activation_fn)
        self.mlp_extractor = towers  # type: ignore[assignment]

    @property
    def towers(self) -> Towers:
        """Actor and critic."""
        towers = self.mlp_extractor
        assert isinstance(towers, Towers)
        return towers


def actor_weights(policy: AsymmetricPolicy) -> list[torch.Tensor]:
    """Weight and bias of every layer of the actor, in order, as they are trained."""
    modules = [*policy.towers.policy_net, policy.action_net]
    linear = [module for module in modules if isinstance(module, nn.Linear)]
    return [part for module in linear for part in (module.weight, module.bias)]


def as_layers(weights: Sequence[torch.Tensor]) -> list[Layer]:
    """Weights and biases in turn, as pairs of arrays."""
    parts = [part.detach().numpy().copy() for part in weights]
    return list(zip(parts[::2], parts[1::2], strict=True))


def _width(space: spaces.Dict, group: str) -> int:
    shape = space[group].shape
    assert shape is not None
    return shape[0]
