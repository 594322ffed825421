"""A linear law for what is left of the gap: how much to add to each PD target.

    found = fit_delta(parts.train, robot, DeltaConfig(), judge)
    found.learned, found.share, found.abstained

Each joint gets six weights: a constant, its position error, its speed, the direction in which it
slides, and how the robot leans. They are fitted as parameters are, by Gauss-Newton on the robot's
own rollouts of some tenths of a second: labels of single steps look better and roll out worse.
Joints that other runs predict better without are left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from asap import learned as learning
from asap.identify import Shooting
from asap.judge import CORRECTED, NOMINAL, Judge, share
from asap.learned import Learned, LearnedContract
from asap.log_windows import Windows, stretches_of
from asap.parameters import MAX_DELAY_S
from asap.robot import Robot
from asap.sim import CpuSimulation
from asap_deploy import rotation
from asap_deploy.errors import InputError
from asap_deploy.log import Log
from asap_deploy.observation import Measurement

FEATURES = {
    "constant": 0.01,
    "error": 0.2,
    "speed": 0.01,
    "sliding": 0.01,
    "lean x": 0.02,
    "lean y": 0.02,
}
"""What a joint's offset depends on, and by how much it may be expected to: radians per unit."""
_SLIDING_SPEED = 0.3
"""Joint speed at which dry friction is about fully there [rad/s]."""
_ROOM = 1.2
"""The bound of a joint, as a multiple of what it was found to need."""
_ROUGH = 2
"""The first iteration looks at one window in so many."""

Progress = Callable[[float], None]


@dataclass(frozen=True, kw_only=True)
class DeltaConfig:
    """How a learned offset is fitted."""

    window_s: float = 0.2
    """Length of the fitted windows [s]."""
    seconds: float = 12.0
    """At most so much of the log is fitted [s]."""
    iterations: int = 2
    """Of Gauss-Newton."""
    joints: tuple[str, ...] = ()
    """Only joints whose names contain one of these, for example ``ankle``; by default all."""

    def places(self, robot: Robot) -> np.ndarray:
        """(J,) which joints get an offset.

        Raises:
            InputError: If a name is in no joint.
        """
        for part in self.joints:
            if not any(part in name for name in robot.joint_names):
                raise InputError(f"--joints {part} is in the name of no joint of '{robot.name}'")
        wanted = [not self.joints or any(part in name for part in self.joints)
                  for name in robot.joint_names]  # fmt: skip
        return np.array(wanted)


class DeltaFitted(NamedTuple):
    """What came out."""

    learned: Learned | None
    """None where the robot alone predicts other runs as well."""
    share: float
    """Errors on the validation part, relative to the robot without it"""
    abstained: list[str]
    """Joints that are left alone"""
    alarms: tuple[str, ...] = ()
    """What was odd while it was learned, a line each"""


class DeltaWeights:
    """The weights as one vector: joint by joint, feature by feature."""

    def __init__(self, robot: Robot) -> None:
        """All zero: no offset."""
        self._shape = (len(robot.joint_names), len(FEATURES))
        self._scale = np.tile(list(FEATURES.values()), self._shape[0])

    def __len__(self) -> int:
        """How many."""
        return len(self._scale)

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest values, (P,) each."""
        return np.full(len(self), -10.0), np.full(len(self), 10.0)

    @property
    def quantities(self) -> list[str]:
        """No number of the model varies."""
        return []

    def values(self, z: np.ndarray) -> dict[str, np.ndarray]:
        """No number of the model varies."""
        return {}

    def weights(self, z: np.ndarray) -> np.ndarray:
        """(K, J, features) of K vectors (K, P)."""
        return (z * self._scale).reshape(-1, *self._shape)


class DeltaShooting(Shooting):
    """Windows whose targets are offset by the law."""

    def commanded(
        self, sim: CpuSimulation, joint_pos_target: np.ndarray, columns: np.ndarray
    ) -> np.ndarray:
        """See ``Shooting``."""
        assert isinstance(self.parameters, DeltaWeights)
        weights = self.parameters.weights(columns)
        found = features(sim.measure(), joint_pos_target)
        own = found.reshape(len(columns), -1, *found.shape[1:])  # (K, W, J, features)
        offset = np.einsum("kwjf,kjf->kwj", own, weights)
        return joint_pos_target + offset.reshape(joint_pos_target.shape)


def features(measured: Measurement, joint_pos_target: np.ndarray) -> np.ndarray:
    """(N, J, features)."""
    gravity = rotation.projected_gravity(measured.base_quat_wxyz)[:, None, :2]
    shape = joint_pos_target.shape
    columns = [
        np.ones(shape),
        joint_pos_target - measured.joint_pos,
        measured.joint_vel,
        np.tanh(measured.joint_vel / _SLIDING_SPEED),
        np.broadcast_to(gravity[..., 0], shape),
        np.broadcast_to(gravity[..., 1], shape),
    ]
    return np.stack(columns, axis=-1)


def fit_delta(
    train: Sequence[Log],
    robot: Robot,
    config: DeltaConfig,
    judge: Judge,
    *,
    threads: int = 0,
    progress: Progress = lambda fraction: None,
) -> DeltaFitted:
    """Fit, then keep what other runs confirm.

    Args:
        train: What is fitted.
        robot: Whose targets are offset: the model, or the model as identified.
        config: How.
        judge: The validation part, against this robot.
        threads: Of the simulator; 0: all cores.
        progress: Told the finished fraction.
    """
    stretches = [s for i, log in enumerate(train) for s in stretches_of(log, i, robot)]
    own, known = stretches[0].track.robot, all(s.track.base_known for s in stretches)
    weights = DeltaWeights(own)

    def shooting(every: int) -> DeltaShooting:
        windows = Windows(stretches, horizons_s=(config.window_s,), every_s=config.window_s,
                          late_s=MAX_DELAY_S)  # fmt: skip
        windows.keep(round(config.seconds / config.window_s) // every)
        return DeltaShooting(windows, own, weights, base_known=known, threads=threads)

    active = np.repeat(config.places(own), len(FEATURES))
    z = shooting(_ROUGH).solve(np.zeros(len(weights)), active, iterations=1)
    progress(0.3)
    z = shooting(1).solve(z, active, iterations=max(1, config.iterations - 1),
                          progress=lambda part: progress(0.3 + 0.6 * part))  # fmt: skip
    law = as_learned(weights.weights(z[None])[0], own, train)
    return gated(law, robot, judge)


def gated(law: Learned, robot: Robot, judge: Judge) -> DeltaFitted:
    """The offset for the joints that other runs predict better with it; None if there are none."""
    names = np.array(robot.joint_names)
    seen = judge.seen({CORRECTED: robot.with_(learned=law)})
    worth = share(seen, CORRECTED)
    errors = {arm: seen.arms[arm].joint_mae_deg.mean(axis=0) for arm in (NOMINAL, CORRECTED)}
    better = errors[CORRECTED] < errors[NOMINAL]
    if better.any() and not better.all():
        part = law.only(better)
        without = judge.shares({CORRECTED: robot.with_(learned=part)})[CORRECTED]
        if without < worth:
            law, worth = part, without
    silent = names[np.array(law.contract.bound) == 0.0].tolist()
    if worth >= 1.0:
        return DeltaFitted(None, worth, names.tolist())
    return DeltaFitted(law, worth, silent)


def as_learned(weights: np.ndarray, robot: Robot, logs: Sequence[Log]) -> Learned:
    """The law (J, features) as a network, bounded by what these logs need and trusted there."""
    tracks = [s.track for i, log in enumerate(logs) for s in stretches_of(log, i, robot)]
    states = [measured(track.qpos, track.qvel, robot) for track in tracks]
    pairs = list(zip(states, (track.joint_pos_target for track in tracks), strict=True))
    rows = np.concatenate([learning.inputs(*pair) for pair in pairs]).astype(float)
    offsets = np.concatenate([np.einsum("njf,jf->nj", features(*pair), weights) for pair in pairs])
    mean, std = rows.mean(axis=0), rows.std(axis=0) + 1e-3
    trusted, lost = learning.trust_radius(rows, mean, std)
    joints = len(robot.joint_names)
    each = np.arange(joints)
    matrix = np.zeros((joints, 3 * joints + 7))
    by_name = dict(zip(FEATURES, weights.T, strict=True))
    matrix[each, joints + each], matrix[each, 2 * joints + each] = (
        by_name["speed"],
        by_name["error"],
    )
    matrix[:, 3 * joints], matrix[:, 3 * joints + 1] = by_name["lean x"], by_name["lean y"]
    matrix[:, -1] = by_name["constant"]
    contract = LearnedContract(
        robot_name=robot.name.partition("@")[0], joint_names=robot.joint_names, acts_on="target",
        bound=tuple(_ROOM * float(x) for x in np.abs(offsets).max(axis=0)),
        trusted=trusted, lost=lost,
    )  # fmt: skip
    return learning.linear(
        matrix, contract, mean=mean, std=std, sliding=by_name["sliding"],
        sliding_speed=_SLIDING_SPEED,
    )  # fmt: skip


def measured(qpos: np.ndarray, qvel: np.ndarray, robot: Robot) -> Measurement:
    """What a log's rows say."""
    if robot.has_free_base:
        quat, turn = qpos[:, 3:7], qvel[:, 3:6]
    else:
        quat, turn = np.tile([1.0, 0.0, 0.0, 0.0], (len(qpos), 1)), np.zeros((len(qpos), 3))
    return Measurement(qpos[:, robot.qpos_ids], qvel[:, robot.qvel_ids], quat, turn)
