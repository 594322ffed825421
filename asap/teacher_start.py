"""A teacher of one robot as the beginning of a teacher of a relative.

Two descriptions of a robot share most joints, but differ in gains, masses and what is commanded.
What a network sees and does is named joint by joint, so its weights can be carried over; an action
becomes the one that pushes as hard. PPO does the rest in a fraction of the time.

    weights = start_from(NetworkTeacher.load(path), Robot.load("g1"), env)
    ppo = TrackerPPO(TrackingVecEnv(env), config, seed, init=weights)
"""

from __future__ import annotations

import numpy as np

from asap.env import TrackingEnv
from asap.robot import Robot
from asap.teacher import NetworkTeacher, TeacherFacts, observed_names
from asap.warm_start import ActorWeights, read_network
from asap_deploy.errors import InputError


def start_from(teacher: NetworkTeacher, taught: Robot, env: TrackingEnv) -> ActorWeights:
    """The network of a teacher, as one for an environment of another robot.

    Args:
        teacher: To start from.
        taught: The robot it was made for, whose gains say how hard it pushed.
        env: Of the robot that is to be taught.

    Returns:
        Weights for the columns and joints of the environment. What only it has begins at zero.

    Raises:
        InputError: If the two share too little.
    """
    old, new = teacher.facts, TeacherFacts.of(env)
    shared = [name for name in new.action_joint_names if name in old.action_joint_names]
    if 2 * len(shared) < len(new.action_joint_names):
        raise InputError(
            f"the teacher is of robot '{old.robot}', which shares {len(shared)} of the "
            f"{len(new.action_joint_names)} joints of '{new.robot}': begin without --init"
        )
    seen = observed_names(old.joint_names, old.action_joint_names)
    weights = read_network(teacher.data, len(seen))
    push = _push(new, env.robot) / _push_of(old, taught, new.action_joint_names)
    rows = _places(new.action_joint_names, old.action_joint_names)
    columns = _places(observed_names(new.joint_names, new.action_joint_names), seen)
    known, acts = columns >= 0, rows >= 0
    first, bias = weights.layers[0]
    last, last_bias = weights.layers[-1]
    # An action that pushes as hard as the old one is smaller where a unit pushes harder.
    mean, std = (
        np.where(known, weights.mean[columns], 0.0),
        np.where(known, weights.std[columns], 1.0),
    )
    count = len(new.action_joint_names)
    mean[:count], std[:count] = mean[:count] / push, std[:count] / push
    layers = [
        (first[:, columns] * known, bias),
        *weights.layers[1:-1],
        ((last[rows] * (acts / push)[:, None]), last_bias[rows] * acts / push),
    ]
    return weights._replace(
        layers=[(w.astype(np.float32), b.astype(np.float32)) for w, b in layers],
        mean=mean.astype(np.float32), std=std.astype(np.float32),
    )  # fmt: skip


def _places(names: list[str] | tuple[str, ...], among: list[str] | tuple[str, ...]) -> np.ndarray:
    """Where each name is among others; -1 where it is not."""
    place = {name: k for k, name in enumerate(among)}
    return np.array([place.get(name, -1) for name in names])


def _push(facts: TeacherFacts, robot: Robot) -> np.ndarray:
    """(A,) torque of one unit of action [Nm]."""
    return np.array(facts.action_scale) * robot.stiffness[robot.joint_ids(facts.action_joint_names)]


def _push_of(facts: TeacherFacts, robot: Robot, names: tuple[str, ...]) -> np.ndarray:
    """The same of another robot, for joints that may not be there; 1 for those."""
    push = dict(zip(facts.action_joint_names, _push(facts, robot), strict=True))
    return np.array([push.get(name, 1.0) for name in names])
