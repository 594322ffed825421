"""What a fit says about parameters beside the truth, and how far its intervals reach."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from asap import parameter_claims
from asap.identify import LinearFit
from asap.parameter_claims import claims, in_family
from asap.parameter_search import Identified, as_correction
from asap.parameters import KINDS, Parameters
from asap.robot import Robot

EVERY = list(KINDS)


@pytest.fixture(scope="module")
def robot() -> Robot:
    return Robot.load("g1")


@pytest.fixture(scope="module")
def worn() -> Robot:
    return Robot.load("g1@worn")


def _identified(robot: Robot, kinds: list[str] = EVERY, told: float = 100.0) -> Identified:
    """All parameters at the model's values, told by a log of four parts alike."""
    parameters = Parameters(robot, kinds=kinds)
    count = len(parameters)
    jacobian = np.tile(told * np.eye(count), (4, 1, 1))
    linear = LinearFit(np.zeros(count), np.zeros((4, count)), jacobian, parameters.bounds,
                       np.arange(4))  # fmt: skip
    z, nothing, windows = np.zeros(count), as_correction(parameters, np.zeros(count), robot), None
    active = np.ones(count, dtype=bool)
    return Identified(tuple(kinds), parameters, z, active, linear, nothing, [], 0.5,
                      windows, robot)  # type: ignore[arg-type]  # fmt: skip


def _truth(robot: Robot, twin: Robot) -> tuple[Identified, np.ndarray]:
    found = _identified(robot)
    return found, parameter_claims._true_units(found, robot, twin)


def test_the_true_values_make_the_model_the_twin(robot: Robot, worn: Robot) -> None:
    found, true = _truth(robot, worn)
    made = as_correction(found.parameters, true, robot).robot(robot)
    for name in ("stiffness", "armature", "frictionloss", "delay_s"):
        assert np.allclose(getattr(made, name), getattr(worn, name), rtol=1e-9), name
    torso = robot.model.body(robot.anchor_name).id
    assert made.model.body_mass[torso] == pytest.approx(worn.model.body_mass[torso])
    assert np.allclose(made.model.body_ipos[torso], worn.model.body_ipos[torso])
    # The torque that a speed makes is the loop's and the joint's together.
    viscous = made.damping + made.passive_damping
    knees = robot.joint_ids(["left_knee_joint", "right_knee_joint"])
    assert np.allclose(viscous[knees], (worn.damping + worn.passive_damping)[knees])


def test_a_claim_is_off_beyond_twice_its_interval(robot: Robot, worn: Robot) -> None:
    found, true = _truth(robot, worn)
    right = claims(found._replace(z=true), robot, worn)
    assert right is not None and not any(one.off for one in right)
    # One motor is alone of its kind in its part of the body: it is nothing beside its group.
    assert len(right) == len(true) - 1
    by = {one.name: one for one in right}
    # Knees of 0.85 and 0.92 of their stiffness: the mean is of logarithms.
    assert by["knee stiffness"].truth == pytest.approx(np.sqrt(0.85 * 0.92))
    assert by["left_knee stiffness in its group"].truth == pytest.approx(np.sqrt(0.85 / 0.92))
    assert by["delay"].truth == pytest.approx(0.008)
    assert by["hip armature"].truth == pytest.approx(1.15)
    assert by["knee load_friction"].truth == 0.0
    # Told by four windows of 100 each: s = 1 / sqrt(4 100^2 + 1) = 0.005, the interval is +-2 s.
    place = [item.name for item in found.parameters.items].index("delay")
    for far, off in ((0.019, False), (0.021, True)):
        moved = true.copy()
        moved[place] += far
        told = claims(found._replace(z=moved), robot, worn)
        assert told is not None
        assert [one.name for one in told if one.off] == (["delay"] if off else [])


def test_what_the_log_hardly_tells_is_no_claim(robot: Robot, worn: Robot) -> None:
    assert claims(_identified(robot, ["stiffness"], told=0.1), robot, worn) == []
    assert in_family(worn) and in_family(robot) and not in_family(Robot.load("g1@strange"))
    bullet = SimpleNamespace(facts=SimpleNamespace(get=lambda *rest: "bullet"))
    assert claims(_identified(robot, ["stiffness"]), robot, bullet) is None  # type: ignore


def test_a_group_says_the_mean_of_its_joints_and_joints_what_they_are_beside_it(
    robot: Robot,
) -> None:
    kinds = ["stiffness", "stiffness_of_joints"]
    found = _identified(robot, kinds)
    z = np.random.default_rng(0).normal(size=len(found.z))
    said = found.parameters.of_means(found.active) @ z
    values = [found.parameters.values(one[None])["stiffness"][0] for one in (z, said)]
    assert np.allclose(*values, rtol=1e-12)  # the same robot, said otherwise
    knee = [item.name for item in found.parameters.items].index("knee stiffness")
    knees = robot.joint_ids(["left_knee_joint", "right_knee_joint"])
    assert found.parameters.items[knee].physical(said[knee]) == pytest.approx(
        float(np.exp(np.log(values[0][knees]).mean()))
    )
    # A group that is not fitted has nothing to say, and its joints are on their own.
    alone = found.active & (np.arange(len(z)) != knee)
    sums = found.parameters.of_means(alone)
    own = [n for n, item in enumerate(found.parameters.items) if "knee" in item.name]
    assert np.array_equal(sums[own], np.eye(len(z))[own])


def _linear(jacobian: np.ndarray, true: np.ndarray, noise: Any = 0.0) -> LinearFit:
    """Of a linear world, around the model."""
    residual = -jacobian @ true + noise
    most = np.full(len(true), 9.0)
    return LinearFit(np.zeros(len(true)), residual, jacobian, (-most, most), np.arange(6))


def test_an_interval_holds_the_truth_though_every_part_of_the_log_is_pulled_to_the_model() -> None:
    """Two numbers whose difference is hardly told: all six parts agree on what is wrong."""
    jacobian = np.tile([[5.0, 5.0], [0.2, -0.2]], (6, 1, 1))
    linear, every = _linear(jacobian, np.array([1.5, -0.5])), np.ones(2, dtype=bool)
    z, spread = linear.solution(every), linear.spread(every)
    # The sum is found, the difference is pulled to 0 by 1 / (1 + 2 6 0.2^2) = 0.68.
    assert z.sum() == pytest.approx(1.0, abs=0.01)
    assert z[0] - z[1] == pytest.approx(2.0 * (1.0 - 0.68), abs=0.05)
    parts = np.array([linear.solution(every, linear.block == part) for part in range(6)])
    assert parts.std(axis=0).max() < 1e-9  # their scatter alone would be sure of it
    assert (np.abs(z - [1.5, -0.5]) < 2.0 * spread).all()
    both = linear.spread(every, np.array([[1.0, 1.0], [1.0, -1.0]]))
    # Six times (5 u)^2 and (0.2 v)^2, and a pull of u^2 / 2 + v^2 / 2.
    assert both == pytest.approx([1.0 / np.sqrt(150.5), 1.0 / np.sqrt(0.74)])
    told = linear.told(every, np.array([[1.0, 1.0], [1.0, -1.0], [0.0, 0.0]]))
    assert told[0] > 0.99 and told[1] == pytest.approx(0.32, abs=0.01) and told[2] == 0.0


def test_parts_that_disagree_widen_an_interval() -> None:
    every, jacobian = np.ones(1, dtype=bool), np.full((6, 1, 1), 50.0)
    calm = _linear(jacobian, np.array([0.5])).spread(every)
    odd = np.array([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])[:, None] * 25.0
    # Parts say 0.5 +- 25 / 50: sd 0.548 of six, over sqrt(6).
    found = _linear(jacobian, np.array([0.5]), odd).spread(every)
    assert found[0] == pytest.approx(0.548 / np.sqrt(6.0), rel=0.01) and calm[0] < 0.01
