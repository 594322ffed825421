"""A head that makes an action of noise in one step: a consistency model.

One network takes a noisy action, how noisy it is, and the observation, and says the action without
noise. To act it is given nothing but noise of the widest level; what it does where nothing is tried
is what it makes of noise 0, so that its mean is a plain network of the observation.

    actor = Bounded(ConsistencyHead(width, 2, (64, 64)), bound=np.ones(2))
    layers = head.as_layers()                        # of the mean: an exported graph has no noise

Source: Chen et al. 2025 (ConRFT), whose loss rebuilds the data action at every level; Song et al.
2023 for levels, scalings and the loss between neighbouring levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn

from asap.posttrain.actors import RSAMPLE, InputNorm, mlp
from asap_deploy.errors import InputError

_LEVELS, _LOWEST, _HIGHEST, _RHO = 40, 0.002, 80.0, 7.0
_DATA = 0.5
"""Spread of actions within +- 1."""
_TIME_WIDTH = 16

Rebuild = Literal["data", "neighbour"]


class ConsistencyHead(nn.Module):
    """Noise to action, in one step."""

    caps = frozenset({RSAMPLE})
    activation = nn.ELU
    """Between the layers, of ``as_layers`` too."""

    levels: torch.Tensor

    def __init__(
        self,
        width: int,
        actions: int,
        hidden: Sequence[int],
        *,
        rebuild: Rebuild = "data",
        normal: InputNorm | None = None,
    ) -> None:
        """At first actions near 0.

        Args:
            width: Of observations D.
            actions: A.
            hidden: Widths of hidden layers; at least one.
            rebuild: What a noisy action is taken back to. ``data``: the action itself, as ConRFT
                does; one step from pure noise is then the mean of what was shown. ``neighbour``:
                what the head makes of the level below; one step then finds every mode of the data,
                but learns more slowly.

            normal: Of observations, where they are not about 1.

        Raises:
            InputError: If there is no hidden layer.
        """
        super().__init__()
        self.normal = normal
        if not hidden:
            raise InputError("a consistency head has at least one hidden layer; got none")
        self.actions, self.rebuild = actions, rebuild
        self.time = mlp([_TIME_WIDTH, 2 * _TIME_WIDTH, _TIME_WIDTH], self.activation)
        self.net = mlp([actions + _TIME_WIDTH + width, *hidden, actions], self.activation)
        with torch.no_grad():
            _linear(self.net)[-1].weight.mul_(0.01)
            _linear(self.net)[-1].bias.zero_()
        self.register_buffer("levels", _karras(), persistent=False)

    def sample(self, observation: torch.Tensor) -> tuple[torch.Tensor, None]:
        """One step from N(0, 80^2); it has no likelihood."""
        noise = torch.randn(len(observation), self.actions)
        return self._from_noise(observation, noise), None

    def mean(self, observation: torch.Tensor) -> torch.Tensor:
        """What noise 0 becomes."""
        return self._from_noise(observation, torch.zeros(len(observation), self.actions))

    def imitation(self, observation: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """(N,) squared error of actions that were made noisy at a random level and taken back.

        data:       (1 / sigma^2 + 1 / sigma_data^2) |f(a + sigma z, sigma) - a|^2
        neighbour:  |f(a + sigma' z, sigma') - f(a + sigma z, sigma)|^2 / (sigma' - sigma)
        """
        noise = torch.randn_like(action)
        if self.rebuild == "data":
            sigma = self.levels[torch.randint(_LEVELS, (len(action),))][:, None]
            error = self.denoised(observation, action + sigma * noise, sigma) - action
            weight = sigma**-2 + _DATA**-2
        else:
            place = torch.randint(_LEVELS - 1, (len(action),))
            below, sigma = self.levels[place][:, None], self.levels[place + 1][:, None]
            with torch.no_grad():
                wanted = self.denoised(observation, action + below * noise, below)
            error = self.denoised(observation, action + sigma * noise, sigma) - wanted
            weight = 1.0 / (sigma - below)
        return (weight * error.square()).mean(dim=-1)

    def denoised(
        self, observation: torch.Tensor, noisy: torch.Tensor, sigma: torch.Tensor
    ) -> torch.Tensor:
        """(N, A) actions without noise, not clipped; at the lowest level just what is given.

        f(x, sigma) = c_skip x + c_out F(c_in x, 250 log sigma, observation)

        Args:
            observation: (N, D)
            noisy: (N, A)
            sigma: (N, 1) how noisy
        """
        skip = _DATA**2 / ((sigma - _LOWEST) ** 2 + _DATA**2)
        given = noisy / torch.sqrt(sigma**2 + _DATA**2)
        seen = observation if self.normal is None else self.normal(observation)
        net = self.net(torch.cat([given, self.time(_waves(sigma)), seen], dim=-1))
        return skip * noisy + _gain(sigma) * net

    @torch.no_grad()
    def as_layers(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Weights (out, in) and biases of a plain network of the observation alone.

        With noise 0 noise and time are constants, so they move into the first bias. Its output
        times ``gain``, clipped to +- 1, is ``mean``; ``activation`` is between its layers.
        """
        first, *others = _linear(self.net)
        constant = torch.zeros(self.actions + _TIME_WIDTH)
        constant[self.actions :] = self.time(_waves(self.levels[-1:, None]))[0]
        of_constant, of_seen = first.weight.split(
            [len(constant), first.in_features - len(constant)], dim=1
        )
        bias = first.bias + of_constant @ constant
        if self.normal is not None:
            of_seen = of_seen / self.normal.std
            bias = bias - of_seen @ self.normal.mean
        layers = [(of_seen.clone(), bias)]
        return layers + [(one.weight.clone(), one.bias.clone()) for one in others]

    @property
    def gain(self) -> float:
        """What the output of ``as_layers`` is multiplied with: c_out of the widest level."""
        return float(_gain(self.levels[-1]))

    def _from_noise(self, observation: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        sigma = self.levels[-1].expand(len(observation), 1)
        return clipped(self.denoised(observation, noise * sigma, sigma))


def clipped(action: torch.Tensor) -> torch.Tensor:
    """To +- 1. A gradient passes unless it would lead further out: whoever is out can return."""
    return torch.as_tensor(_Clipped.apply(action))


class _Clipped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, action: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(action)
        return action.clamp(-1.0, 1.0)

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> torch.Tensor:
        (action,), (slope,) = ctx.saved_tensors, slopes
        # A step goes against the slope.
        further = ((action > 1.0) & (slope < 0.0)) | ((action < -1.0) & (slope > 0.0))
        return torch.where(further, torch.zeros_like(slope), slope)


def _karras() -> torch.Tensor:
    """(40,) from lowest to highest: (lo^(1/rho) + share (hi^(1/rho) - lo^(1/rho)))^rho."""
    low, high = _LOWEST ** (1.0 / _RHO), _HIGHEST ** (1.0 / _RHO)
    return (low + torch.linspace(0.0, 1.0, _LEVELS) * (high - low)) ** _RHO


def _gain(sigma: torch.Tensor) -> torch.Tensor:
    return _DATA * (sigma - _LOWEST) / torch.sqrt(sigma**2 + _DATA**2)


def _waves(sigma: torch.Tensor) -> torch.Tensor:
    """(N, 16) sines and cosines of 250 log sigma."""
    half = _TIME_WIDTH // 2
    rates = torch.exp(-torch.log(torch.tensor(10_000.0)) * torch.arange(half) / (half - 1))
    angle = 250.0 * torch.log(sigma) * rates
    return torch.cat([torch.sin(angle), torch.cos(angle)], dim=-1)


def _linear(net: nn.Sequential) -> list[nn.Linear]:
    return [layer for layer in net if isinstance(layer, nn.Linear)]
