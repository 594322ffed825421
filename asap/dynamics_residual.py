"""What a network adds to the state after every step of the simulator: the paper's DeltaDynamics.

    law = fit_dynamics(parts.train, robot, DynamicsConfig(), judge, seed=0)
    robot.with_(learned=law)                         # or None: other runs are predicted worse

The network is trained as the paper says: from a logged state it runs on by itself for K steps, the
simulator inside, and the squares of all K errors count; K grows. No simulator is differentiated:
its steps are linearised around the log for the first K, later around its own rollouts with the
residual inside, and errors run through these linear steps,

    xi[k+1] = A[k] xi[k] + d(inputs[k] + inputs'[k] xi[k]) - given[k],      error = gap + xi

where ``given`` is what leads from the simulator's step to the next state of the trajectory.

Source: He et al. 2025, section IV-B. Its released loop keeps the last step's loss alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from asap import learned as learning
from asap.delta_env import Normal, logged_inputs
from asap.judge import CORRECTED, Judge
from asap.learned import Learned, LearnedContract, from_layers
from asap.log_windows import Stretch, Windows, stretches_of
from asap.robot import Robot
from asap.sim import CpuSimulation
from asap.tangent import moved, state_difference
from asap.twin import make_simulation
from asap_deploy.errors import InputError
from asap_deploy.log import Log
from asap_deploy.observation import Measurement

POSITION_STEP, VELOCITY_STEP = 1e-6, 1e-5
"""Of differences; larger ones open and close contacts."""
_LARGEST = 300.0
"""Derivatives beyond this come from a contact that closed within the difference."""
_FAR = 5.0
"""Deviations of the linear steps end here: beyond they mean nothing [m, rad, m/s, rad/s]."""
_ROOM = 1.5
"""The bound of an output, as a multiple of what one step in a hundred lacks."""
_UNITS = (0.01, 0.02, 0.01, 0.1, 0.3, 0.3)
"""Errors that count 1: the base's position [m] and attitude [rad], joints [rad]; then speeds."""
_LOST = 2.0
"""The squared error of a window, a mean over coordinates, never counts more than this."""
_ON_LOG = 2
"""Up to so many steps the linear ones around the log are good; contacts make more explode."""
_TOGETHER = 5
"""Windows in a row that are held out together: neighbours look alike."""
_LATER = 0.1
"""Of the learning rate, in later stages: errors of many steps are stiff in what contacts do."""

Progress = Callable[[float], None]


@dataclass(frozen=True, kw_only=True)
class DynamicsConfig:
    """How the residual is trained."""

    hidden: tuple[int, ...] = (256, 256)
    """Layers."""
    horizons: tuple[int, ...] = (1, 2, 5, 10)
    """Steps that the network runs on by itself, stage by stage."""
    epochs: int = 60
    """Passes over the log in a stage, at most."""
    patience: int = 12
    """Passes without a gain on the fifth of windows that stops a stage."""
    batch: int = 64
    """Windows of a gradient."""
    learning_rate: float = 1e-3
    """Of Adam in the first stage, as published; later stages refine, at a tenth of it."""
    weight_decay: float = 0.01
    """Of Adam; ten seconds of log are few for a network of this size."""
    seconds: float = 25.0
    """At most so much of the log is fitted [s]."""

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        rising = list(self.horizons) == sorted(set(self.horizons))
        if not self.horizons or self.horizons[0] < 1 or not rising:
            raise InputError(f"horizons must rise from 1 or above; got {self.horizons}")
        if self.epochs < 1 or self.batch < 1 or self.seconds <= 0.0:
            raise InputError("delta-dynamics needs at least one epoch, window and some seconds")


class Steps(NamedTuple):
    """Linear steps along W trajectories of H steps each; rows are those of one after the other."""

    a: torch.Tensor
    """(W H, 2 nv, 2 nv) derivative of the next state by this one"""
    inputs: torch.Tensor
    """(W H, D) of the network"""
    given: torch.Tensor
    """(W H, 2 nv) what was added to the simulator's step"""
    gap: torch.Tensor
    """(W H, 2 nv) the trajectory's next state minus the log's"""
    length: int
    """H"""
    on_log: bool
    """Every step begins in a state of the log; otherwise only the first of a trajectory does."""

    def starts(self, horizon: int, *, heldout: bool) -> np.ndarray:
        """Rows from which so many steps can be made; a fifth of trajectories is held out."""
        rows = np.arange(len(self.gap))
        trajectory, step = rows // self.length, rows % self.length
        apart = (trajectory // _TOGETHER) % 5 == 4
        last = self.length - horizon if self.on_log else 0
        return rows[(step <= last) & (apart == heldout)]


class Residual(nn.Module):
    """The network, bounded and faded as the graph that is written."""

    def __init__(self, normal: Normal, bound: np.ndarray, config: DynamicsConfig) -> None:
        """Begin near zero.

        Args:
            normal: Of the inputs (D,).
            bound: (2 nv,) of the outputs.
            config: Widths.
        """
        super().__init__()
        self.normal = normal
        self.bound, self.mean, self.std = (
            torch.as_tensor(x, dtype=torch.float32) for x in (bound, normal.mean, normal.std)
        )
        widths = [len(normal.mean), *config.hidden]
        hidden = [part for a, b in pairwise(widths) for part in (nn.Linear(a, b), nn.ReLU())]
        last = nn.Linear(widths[-1], len(bound))
        with torch.no_grad():
            last.weight.mul_(0.1)
            last.bias.zero_()
        self.core = nn.Sequential(*hidden, last)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Steps (N, 2 nv) for inputs (N, D); the last layer's unit is the bound."""
        normal = (inputs - self.mean) / self.std
        lost, trusted = self.normal.lost, self.normal.trusted
        trust = ((lost - normal.square().mean(dim=1)) / (lost - trusted)).clamp(0.0, 1.0)
        return self.bound * torch.tanh(self.core(normal)) * trust[:, None]

    def learned(self, robot: Robot) -> Learned:
        """As a file."""
        linear = [part for part in self.core if isinstance(part, nn.Linear)]
        layers = [
            (p.weight.detach().numpy().copy(), p.bias.detach().numpy().copy()) for p in linear
        ]
        bound = self.bound.numpy().astype(float)
        layers[-1] = (bound[:, None] * layers[-1][0], bound * layers[-1][1])
        contract = LearnedContract(
            robot_name=robot.name.partition("@")[0], joint_names=robot.joint_names,
            acts_on="state", bound=tuple(bound.tolist()),
            trusted=self.normal.trusted, lost=self.normal.lost,
        )  # fmt: skip
        return from_layers(layers, contract, mean=self.normal.mean, std=self.normal.std,
                           activation="Relu")  # fmt: skip


def fit_dynamics(
    train: Sequence[Log],
    robot: Robot,
    config: DynamicsConfig,
    judge: Judge,
    *,
    seed: int = 0,
    threads: int = 0,
    progress: Progress = lambda fraction: None,
) -> Learned | None:
    """Train, then keep it only if other runs are predicted better with it.

    Args:
        train: What is fitted.
        robot: Whose states are corrected: the model, or the model as identified.
        config: How.
        judge: The validation part, against this robot.
        seed: Of weights and of the order of windows.
        threads: Of the simulator; 0: all cores.
        progress: Told the finished fraction.

    Returns:
        The residual; None where the robot alone predicts other runs as well.

    Raises:
        InputError: If the log has no stretch as long as the longest horizon.
    """
    if not robot.has_free_base:
        raise InputError(f"robot '{robot.name}' is bolted down: --method delta-dynamics needs a "
                         "free base; use --method delta")  # fmt: skip
    stretches = [s for i, log in enumerate(train) for s in stretches_of(log, i, robot)]
    robots = _Answers(stretches[0].track.robot, threads)
    windows = _windows(stretches, config)
    steps = linear_steps(windows, robots, None)
    bound = _ROOM * np.quantile(np.abs(steps.given.numpy()), 0.99, axis=0) + 1e-9
    torch.manual_seed(seed)
    residual = Residual(Normal.of(logged_inputs(windows)), bound, config)
    rng, best = np.random.default_rng(seed), (np.inf, residual.learned(robot))
    for number, horizon in enumerate(config.horizons, start=1):
        if horizon > _ON_LOG and steps.on_log:
            steps = linear_steps(windows, robots, residual.learned(robot))
        descend(residual, steps, horizon, config, rng)
        best = min(best, _judged(residual, robot, judge), key=lambda found: found[0])
        progress(number / len(config.horizons))
    return best[1] if best[0] < 1.0 else None


def _windows(stretches: Sequence[Stretch], config: DynamicsConfig) -> Windows:
    """Pieces of the log, one after the other, each as long as the longest horizon."""
    dt, steps = stretches[0].track.robot.control_dt, config.horizons[-1]
    late_s = float(stretches[0].track.robot.delay_s.max())
    windows = Windows(stretches, horizons_s=(steps * dt,), every_s=steps * dt, late_s=late_s)
    windows.keep(max(1, round(config.seconds / (steps * dt))))
    return windows


def _judged(residual: Residual, robot: Robot, judge: Judge) -> tuple[float, Learned]:
    law = residual.learned(robot)
    return judge.shares({CORRECTED: robot.with_(learned=law)})[CORRECTED], law


class _Answers:
    """How the simulator's step answers to states, and to small changes of them."""

    def __init__(self, robot: Robot, threads: int) -> None:
        self.robot, self._threads = robot, threads
        self.past = 1 + int(np.ceil(float(robot.delay_s.max()) / robot.control_dt))
        self._sims: dict[int, CpuSimulation] = {}

    def after(
        self, qpos: np.ndarray, qvel: np.ndarray, past: np.ndarray, target: np.ndarray
    ) -> tuple[tuple[np.ndarray, np.ndarray], Measurement]:
        """States after a step from (n, nq), (n, nv) under targets (n, J), and what was measured."""
        count = len(qpos)
        if count not in self._sims:
            sim = make_simulation(self.robot, count, threads=self._threads)
            assert isinstance(sim, CpuSimulation), "a correction is fitted to MuJoCo"
            self._sims[count] = sim
        sim = self._sims[count]
        sim.reset(np.arange(count), qpos, qvel, joint_pos_target=past)
        measured = sim.measure()
        sim.step(target)
        return (sim.batch.bind("qpos").copy(), sim.batch.bind("qvel").copy()), measured

    def linear(
        self, qpos: np.ndarray, qvel: np.ndarray, past: np.ndarray, target: np.ndarray
    ) -> tuple[tuple[np.ndarray, np.ndarray], Measurement, np.ndarray]:
        """The same with the derivative (n, 2 nv, 2 nv), all differences side by side."""
        nv, n = qvel.shape[1], len(qpos)
        sizes = np.repeat([POSITION_STEP, VELOCITY_STEP], nv)
        changes = np.concatenate([np.zeros((1, 2 * nv)), np.diag(sizes)])
        step, speed = np.split(np.repeat(changes, n, axis=0), 2, axis=1)
        every = len(changes)
        (pos, vel), measured = self.after(
            moved(np.tile(qpos, (every, 1)), step), np.tile(qvel, (every, 1)) + speed,
            np.tile(past, (every, 1, 1)), np.tile(target, (every, 1)),
        )  # fmt: skip
        middle = pos[:n], vel[:n]
        others = [part[n:].reshape(2 * nv, n, -1) for part in (pos, vel)]
        columns = state_difference((middle[0][None], middle[1][None]), *others)
        a = np.moveaxis(columns / sizes[:, None, None], 0, 2)
        first = Measurement._make(None if part is None else part[:n] for part in measured)
        return middle, first, np.clip(np.nan_to_num(a), -_LARGEST, _LARGEST)


def linear_steps(windows: Windows, robots: _Answers, law: Learned | None) -> Steps:
    """Linear steps along the log's own states, or along rollouts with a residual inside.

    Args:
        windows: Where trajectories begin, and how long they are.
        robots: The simulator.
        law: None puts every step back onto the log: what is added is all that it lacked.
    """
    window = np.arange(len(windows.start))
    first = windows.rows(window, 0)
    qpos, qvel = windows.qpos[first], windows.qvel[first]
    found: list[tuple[np.ndarray, ...]] = []
    for step in range(windows.steps):
        past = np.stack([windows.target[windows.rows(window, step - back)]
                         for back in range(robots.past, 0, -1)], axis=1)  # fmt: skip
        target = windows.target[windows.rows(window, step)]
        after, measured, a = robots.linear(qpos, qvel, past, target)
        row = windows.rows(window, step + 1)
        logged = windows.qpos[row], windows.qvel[row]
        if law is None:
            given, (qpos, qvel) = state_difference(after, *logged), logged
        else:
            given = law(measured, target)
            move, speed = np.split(given, 2, axis=1)
            qpos, qvel = moved(after[0], move), after[1] + speed
        gap = state_difference(logged, qpos, qvel)
        found.append((a, learning.inputs(measured, target), given, gap))
    parts = (np.stack(part, axis=1) for part in zip(*found, strict=True))
    flat = [torch.as_tensor(part.reshape(-1, *part.shape[2:]), dtype=torch.float32)
            for part in parts]  # fmt: skip
    return Steps(flat[0], flat[1], flat[2], flat[3], windows.steps, law is None)


def descend(
    residual: Residual, steps: Steps, horizon: int, config: DynamicsConfig,
    rng: np.random.Generator,
) -> None:  # fmt: skip
    """Train over so many steps until the held-out windows gain no more; keep the best."""
    rows, heldout = (steps.starts(horizon, heldout=held) for held in (False, True))
    rate = config.learning_rate * (1.0 if horizon == config.horizons[0] else _LATER)
    optimizer = torch.optim.AdamW(residual.parameters(), lr=rate, weight_decay=config.weight_decay)
    judged = heldout if len(heldout) else rows  # fewer than five windows: nothing is held out
    best, weights, waited = _value(residual, steps, judged, horizon), _copy(residual), 0
    for _ in range(config.epochs):
        order = rng.permutation(rows)
        for begin in range(0, len(order), config.batch):
            value = autoregressive(residual, steps, order[begin : begin + config.batch], horizon)
            optimizer.zero_grad()
            value.backward()
            nn.utils.clip_grad_norm_(residual.parameters(), 1.0)
            optimizer.step()
        value_now = _value(residual, steps, judged, horizon)
        waited += 1
        if value_now < best:
            best, weights, waited = value_now, _copy(residual), 0
        if waited >= config.patience:
            break
    residual.load_state_dict(weights)


def autoregressive(
    residual: nn.Module, steps: Steps, rows: np.ndarray, horizon: int
) -> torch.Tensor:
    """Mean over windows and over all of their steps of the squared error, up to a limit.

    Args:
        residual: What is added, by inputs.
        steps: Linear steps.
        rows: (n,) in which windows begin.
        horizon: How many steps each runs.
    """
    width = steps.gap.shape[1]
    unit = _units(width // 2)
    xi, total = torch.zeros(len(rows), width), torch.zeros(())
    for step in range(horizon):
        row = torch.as_tensor(rows + step)
        added = residual(_moved_inputs(steps.inputs[row], xi))
        xi = torch.einsum("nij,nj->ni", steps.a[row], xi) + added - steps.given[row]
        xi = xi.clamp(-_FAR, _FAR)
        square = ((steps.gap[row] + xi) / unit).square().mean(dim=1)
        # Where linear steps explode they are wrong, and their gradient would be all that counts.
        total = total + (square / (1.0 + square / _LOST)).mean()
    return total / horizon


@torch.no_grad()
def _value(residual: Residual, steps: Steps, rows: np.ndarray, horizon: int) -> float:
    return float(autoregressive(residual, steps, rows, horizon))


def _copy(residual: Residual) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in residual.state_dict().items()}


def _units(nv: int) -> torch.Tensor:
    """(2 nv,) errors that count 1."""
    return torch.tensor(np.repeat(_UNITS, [3, 3, nv - 6] * 2), dtype=torch.float32)


def _moved_inputs(inputs: torch.Tensor, xi: torch.Tensor) -> torch.Tensor:
    """Inputs (n, D) of states that are off by steps (n, 2 nv), to first order."""
    nv = xi.shape[1] // 2
    joints = nv - 6
    joint_pos, joint_vel, error, gravity, turn_rate = inputs.split(
        [joints, joints, joints, 3, 3], dim=1
    )
    # A turn by t in its own frame shows a direction g as g - t x g.
    turned = gravity + torch.linalg.cross(gravity, xi[:, 3:6])
    return torch.cat(
        [joint_pos + xi[:, 6:nv], joint_vel + xi[:, nv + 6 :], error - xi[:, 6:nv],
         turned, turn_rate + xi[:, nv + 3 : nv + 6]], dim=1,
    )  # fmt: skip
