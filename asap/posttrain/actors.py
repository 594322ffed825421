"""Policies that post-training moves: a network, a head that says what its numbers mean.

What a recipe needs is a capability, not a class: ``log_prob`` (likelihood of an action),
``rsample`` (a sample that gradients pass through), ``trunk_split`` (layers that can be held). A
policy that lacks one is refused at the start, with what to do about it.

    actor = Bounded(SquashedGaussian(width, 2, (64, 64)), bound=np.ones(2))
    actor = Bounded(SquashedGaussian(width, 29, (64, 64)), bound=0.2 * np.ones(29), base=tracker)
    action = actor.act(observation)                  # what the robot is given
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import nn
from torch.distributions import Normal

from asap.posttrain.graph_net import GraphNet
from asap_deploy.errors import InputError

SQUASHED_LIMIT = 1.0 - 1e-5
"""Actions that were executed lie within +- this, or their likelihood is not finite."""
_LOG_STD = (-5.0, 1.0)

RSAMPLE, LOG_PROB, TRUNK_SPLIT = "rsample", "log_prob", "trunk_split"
_INSTEAD = {
    RSAMPLE: "wrap it: a bounded residual on it has one",
    LOG_PROB: "distil it into a Gaussian first: `asap tune rldg`",
    TRUNK_SPLIT: "distil it into a plain network first: `asap tune rldg`",
}


def mlp(widths: Sequence[int], activation: type[nn.Module] = nn.ELU, *, norm: bool = False
        ) -> nn.Sequential:  # fmt: skip
    """Layers of these widths; between them a norm, if wanted, and the activation."""
    layers: list[nn.Module] = []
    for depth, (width, wider) in enumerate(itertools.pairwise(widths)):
        layers.append(nn.Linear(width, wider))
        if depth < len(widths) - 2:
            layers += [nn.LayerNorm(wider)] if norm else []
            layers.append(activation())
    return nn.Sequential(*layers)


class InputNorm(nn.Module):
    """Inputs as data have them: mean 0, spread 1, nothing beyond +- 10."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, rows: np.ndarray) -> None:
        """From inputs (R, D)."""
        super().__init__()
        rows = np.asarray(rows, np.float32)
        self.register_buffer("mean", torch.as_tensor(rows.mean(axis=0)))
        self.register_buffer("std", torch.as_tensor(rows.std(axis=0) + 0.05))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Normalise (N, D)."""
        return (values - self.mean) / self.std


def folded(net: nn.Sequential) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weights and biases of a network's layers, its normalisation inside the first."""
    layers = [(one.weight.detach().double().numpy(), one.bias.detach().double().numpy())
              for one in net if isinstance(one, nn.Linear)]  # fmt: skip
    if isinstance(net[0], InputNorm):
        mean, std = net[0].mean.double().numpy(), net[0].std.double().numpy()
        weight, bias = layers[0]
        layers[0] = weight / std, bias - weight @ (mean / std)
    return [(weight.astype(np.float32), bias.astype(np.float32)) for weight, bias in layers]


class Head(Protocol):
    """A network whose actions lie within +- 1."""

    caps: frozenset[str]

    def sample(self, observation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """An action and, of one that has it, the logarithm of its likelihood (N,)."""
        ...

    def mean(self, observation: torch.Tensor) -> torch.Tensor:
        """What it does where nothing is tried."""
        ...

    def imitation(self, observation: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """(N,) loss of behaviour cloning."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """What is trained."""
        ...


class SquashedGaussian(nn.Module):
    """tanh of a Gaussian. Source: Haarnoja et al. 2018, appendix C."""

    caps = frozenset({RSAMPLE, LOG_PROB})

    def __init__(self, width: int, actions: int, hidden: Sequence[int], *,
                 normal: InputNorm | None = None, log_std: float = -0.5) -> None:  # fmt: skip
        """At first an action near 0 with this spread."""
        super().__init__()
        self.actions = actions
        self.net = mlp([width, *hidden, 2 * actions])
        if normal is not None:
            self.net.insert(0, normal)
        last = self.net[-1]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            last.weight.mul_(0.01)
            last.bias.zero_()
            last.bias[actions:] = log_std

    def _gaussian(self, observation: torch.Tensor) -> Normal:
        mean, log_std = self.net(observation).chunk(2, dim=-1)
        return Normal(mean, torch.exp(log_std.clamp(*_LOG_STD)))

    def sample(self, observation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Reparametrised; log p = log N(x) - sum log(1 - tanh(x)^2)."""
        gaussian = self._gaussian(observation)
        raw = gaussian.rsample()
        return torch.tanh(raw), self._log_prob(gaussian, raw)

    def mean(self, observation: torch.Tensor) -> torch.Tensor:
        """Tanh of the mean."""
        return torch.tanh(self._gaussian(observation).mean)

    def layers(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """A plain network whose tanh is the mean."""
        *hidden, (weight, bias) = folded(self.net)
        return [*hidden, (weight[: self.actions], bias[: self.actions])]

    def log_prob(self, observation: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """(N,) of actions within +- ``SQUASHED_LIMIT``."""
        raw = torch.atanh(action.clamp(-SQUASHED_LIMIT, SQUASHED_LIMIT))
        return self._log_prob(self._gaussian(observation), raw)

    def imitation(self, observation: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """Squared error: a likelihood would rather grow narrow than near."""
        return (self.mean(observation) - action).square().sum(-1)

    @staticmethod
    def _log_prob(gaussian: Normal, raw: torch.Tensor) -> torch.Tensor:
        # log(1 - tanh(x)^2) = 2 (log 2 - x - softplus(-2x)), which does not overflow.
        slope = 2.0 * (np.log(2.0) - raw - nn.functional.softplus(-2.0 * raw))
        return (gaussian.log_prob(raw) - slope).sum(-1)


class Bounded:
    """Actions within a box around nothing, or around what a frozen policy does: a residual.

    The box around a frozen tracker is the safe shape for a robot that balances: whatever is
    learned, it does what it did, more or less.
    """

    def __init__(self, head: Head, bound: np.ndarray, base: nn.Module | None = None) -> None:
        """Freeze the base.

        Args:
            head: What learns, within +- 1.
            bound: (A,) what 1 means, in units of actions.
            base: Gives the action that is added to; none is 0.
        """
        self.head, self.bound, self.base = head, np.asarray(bound, dtype=np.float32), base
        if base is not None:
            for weight in base.parameters():
                weight.requires_grad_(False)

    @property
    def caps(self) -> frozenset[str]:
        """Those of the head."""
        return self.head.caps

    @torch.no_grad()
    def act(self, observation: np.ndarray) -> np.ndarray:
        """A sample (N, A)."""
        seen = _tensor(observation)
        return self._outside(seen, self.head.sample(seen)[0])

    @torch.no_grad()
    def best(self, observation: np.ndarray) -> np.ndarray:
        """Without trying anything (N, A)."""
        seen = _tensor(observation)
        return self._outside(seen, self.head.mean(seen))

    @torch.no_grad()
    def encode(self, observation: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, float]:
        """Actions as the head says them, and the share of numbers that lie outside the box."""
        base = 0.0 if self.base is None else self.base(_tensor(observation)).numpy()
        inner = (np.asarray(action, np.float32) - base) / self.bound
        outside = float((np.abs(inner) > 1.0 + 1e-4).mean())
        return np.clip(inner, -SQUASHED_LIMIT, SQUASHED_LIMIT).astype(np.float32), outside

    def _outside(self, seen: torch.Tensor, inner: torch.Tensor) -> np.ndarray:
        added = inner.numpy() * self.bound
        return added if self.base is None else self.base(seen).numpy() + added


class Gaussian:
    """A network's mean with a spread: what PPO trains and most of the policies here are."""

    caps = frozenset({LOG_PROB, RSAMPLE, TRUNK_SPLIT})

    def __init__(self, net: nn.Module, actions: int, log_std: float = -1.0) -> None:
        """The spread is one number an action, and is trained only where a recipe says so."""
        self.net = net
        self.log_std = nn.Parameter(torch.full((actions,), float(log_std)))

    def gaussian(self, observation: torch.Tensor) -> Normal:
        """Of the actions (N, A)."""
        return Normal(self.net(observation), torch.exp(self.log_std.detach()))

    def log_prob(self, observation: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """(N,)."""
        return self.gaussian(observation).log_prob(action).sum(-1)

    @torch.no_grad()
    def act(self, observation: np.ndarray) -> np.ndarray:
        """A sample (N, A)."""
        return self.gaussian(_tensor(observation)).sample().numpy()

    @torch.no_grad()
    def best(self, observation: np.ndarray) -> np.ndarray:
        """The mean (N, A)."""
        return self.net(_tensor(observation)).numpy()

    def encode(self, observation: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, float]:
        """As they are: nothing is outside."""
        return np.asarray(action, np.float32), 0.0

    def trunk(self) -> list[nn.Parameter]:
        """All weights but those of the last hidden layer and the last one.

        Raises:
            InputError: If there are no more layers than these.
        """
        if isinstance(self.net, GraphNet):
            trunk = self.net.trunk()
        else:
            linear = [module for module in self.net.modules() if isinstance(module, nn.Linear)]
            trunk = [weight for layer in linear[:-2] for weight in layer.parameters()]
        if not trunk:
            raise InputError("this policy has two layers or fewer: there is no trunk to hold, and "
                             "no place for what it knows; `asap tune rldg` makes a deeper "
                             "one")  # fmt: skip
        return trunk


def require(caps: frozenset[str], wanted: str, recipe: str) -> None:
    """Check that a policy can what a recipe needs.

    Raises:
        InputError: If not, with what to do.
    """
    if wanted not in caps:
        raise InputError(f"'{recipe}' needs a policy with {wanted}, this one has "
                         f"{', '.join(sorted(caps)) or 'none'}: {_INSTEAD[wanted]}")  # fmt: skip


def _tensor(observation: np.ndarray) -> torch.Tensor:
    return torch.as_tensor(np.asarray(observation, np.float32))
