"""Randomised physics: every robot is one that MuJoCo would compile, and its neighbour never is."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import mujoco
import numpy as np
import pytest
from mujoco.batch import MODEL_FIELDS

from asap.randomize import RandomizeConfig, Randomizer
from asap.robot import Robot
from asap.sim import CpuSimulation, simulation_spec
from asap_deploy.errors import InputError

sys.path.insert(0, str(Path(__file__).parent))
from toy_robots import arm, stool

EVERYTHING = RandomizeConfig(
    friction=(0.3, 1.5), link_mass=(0.8, 1.2), added_mass_kg=(0.5, 3.0), com_offset_m=(-0.04, 0.04),
    stiffness=(0.75, 1.25), damping=(0.75, 1.25), armature=(0.5, 2.0),
    added_frictionloss=(0.01, 0.3), torque_limit=(0.5, 1.1), delay_s=(0.0, 0.04),
)  # fmt: skip
FIELDS = {  # The model field that tells each quantity.
    "friction": "geom_friction", "link_mass": "body_mass", "added_mass_kg": "body_mass",
    "com_offset_m": "body_ipos", "stiffness": "actuator_gainprm", "damping": "actuator_biasprm",
    "armature": "dof_armature", "added_frictionloss": "dof_frictionloss",
    "torque_limit": "actuator_forcerange", "delay_s": "actuator_delay",
}  # fmt: skip


@pytest.fixture(scope="module")
def g1() -> Robot:
    return Robot.load("g1").for_training()


@pytest.fixture(autouse=True)
def _logs_go_to_a_temporary_folder(tmp_path, monkeypatch):
    """MuJoCo writes MUJOCO_LOG.TXT where it stands when it warns."""
    monkeypatch.chdir(tmp_path)


def randomized(
    robot: Robot, envs: int, config: RandomizeConfig, seed: int = 0
) -> tuple[CpuSimulation, Randomizer]:
    sim = CpuSimulation(robot, envs, threads=1, max_delay_s=config.max_delay_s)
    return sim, Randomizer(sim, config, np.random.default_rng(seed))


def begin(sim: CpuSimulation) -> None:
    qpos = np.tile(sim.robot.default_qpos(), (sim.num_envs, 1))
    sim.reset(np.arange(sim.num_envs), qpos, np.zeros((sim.num_envs, sim.model.nv)))


def walk(sim: CpuSimulation, steps: int, seed: int = 1) -> np.ndarray:
    """States after steps of the same noise for every robot."""
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        noise = rng.normal(0.0, 0.2, len(sim.robot.joint_names))
        sim.step(np.tile(sim.robot.default_joint_pos + noise, (sim.num_envs, 1)))
    return np.concatenate([sim.batch.bind("qpos"), sim.batch.bind("qvel"), sim.joint_torque], 1)


def expanded(sim: CpuSimulation) -> dict[str, np.ndarray]:
    """All fields that differ between robots, by name, copied."""
    values = {name: sim.batch.expanded(name) for name in MODEL_FIELDS}
    return {name: array.copy() for name, array in values.items() if array is not None}


def test_without_ranges_nothing_is_drawn_expanded_or_changed(g1):
    plain = CpuSimulation(g1, 2, threads=1)
    sim, randomizer = randomized(g1, 2, RandomizeConfig())
    before = randomizer._rng.bit_generator.state
    randomizer.draw(np.arange(2))
    assert randomizer._rng.bit_generator.state == before
    assert randomizer.drawn == {} == randomizer.snapshot()
    assert expanded(sim).keys() == expanded(plain).keys()
    assert RandomizeConfig().max_delay_s == 0.0
    np.testing.assert_array_equal(walk(sim, 5), walk(plain, 5))


@pytest.mark.parametrize("name", list(FIELDS))
def test_a_quantity_changes_its_own_field_and_factors_of_one_change_nothing(g1, name):
    config = RandomizeConfig(**{name: getattr(EVERYTHING, name)})
    sim, randomizer = randomized(g1, 3, config)
    randomizer.draw(np.array([1]))
    other = set(FIELDS.values()) - {FIELDS[name]}
    # A motor's gain stands in two fields.
    other -= {"actuator_biasprm"} if name == "stiffness" else set()
    assert not other & expanded(sim).keys()
    assert not np.array_equal(*expanded(sim)[FIELDS[name]][:2])
    # Robots whose factors are still 1 and offsets 0 are the model's, to the bit.
    plain = CpuSimulation(g1, 3, threads=1)
    begin(sim)
    begin(plain)
    moved, expected = walk(sim, 6), walk(plain, 6)
    np.testing.assert_array_equal(moved[[0, 2]], expected[[0, 2]])
    is_felt = name not in ("friction", "torque_limit")  # Nobody slips or saturates here.
    assert not is_felt or not np.array_equal(moved[1], expected[1])


def test_draws_are_within_range_different_for_everyone_and_repeatable(g1):
    sim, randomizer = randomized(g1, 40, EVERYTHING)
    randomizer.draw(np.arange(40))
    names = [field.name for field in dataclasses.fields(EVERYTHING)]
    assert list(randomizer.drawn) == [name for name in names if name != "sets"]
    for name, values in randomizer.drawn.items():
        low, high = getattr(EVERYTHING, name)
        assert (values >= low).all() and (values <= high).all()
        assert np.ptp(values) > 0.8 * (high - low)
        assert len(np.unique(values, axis=0)) == 40
        if name not in ("friction", "added_mass_kg", "delay_s"):
            assert len(np.unique(values[0])) == values.shape[1]
    assert (randomizer.drawn["delay_s"] == randomizer.drawn["delay_s"][:, :1]).all()
    again, same = randomized(g1, 40, EVERYTHING)
    same.draw(np.arange(40))
    for name, array in expanded(sim).items():
        np.testing.assert_array_equal(expanded(again)[name], array)


def test_a_new_draw_leaves_the_others_and_every_state_untouched(g1):
    sim, randomizer = randomized(g1, 4, EVERYTHING)
    randomizer.draw(np.arange(4))
    begin(sim)
    walk(sim, 3)
    state, before = sim.batch.state.copy(), expanded(sim)
    seen = [np.array(part) for part in (sim.body_pos_w, sim.body_quat_wxyz, sim.joint_torque)]
    randomizer.draw(np.array([3, 1]))
    for part, now in zip(seen, (sim.body_pos_w, sim.body_quat_wxyz, sim.joint_torque), strict=True):
        np.testing.assert_array_equal(now, part)
    after = expanded(sim)
    assert before.keys() == after.keys()
    for name, array in after.items():
        np.testing.assert_array_equal(array[[0, 2]], before[name][[0, 2]], err_msg=name)
    for name in FIELDS.values():
        assert not np.array_equal(after[name][1], before[name][1])
        assert not np.array_equal(after[name][3], before[name][3])
    np.testing.assert_array_equal(sim.batch.state, state)


def test_the_thousandth_draw_is_still_about_the_model(tmp_path):
    config = dataclasses.replace(EVERYTHING, friction=(0.9, 0.91), link_mass=(0.9, 0.91))
    sim, randomizer = randomized(stool(tmp_path), 2, config)
    for _ in range(1000):
        randomizer.draw(np.arange(2))
    ratio = expanded(sim)["body_mass"][:, 2:] / sim.model.body_mass[2:]
    assert ((ratio >= 0.9) & (ratio <= 0.91)).all()
    ratio = expanded(sim)["geom_friction"][:, :, 0] / sim.model.geom_friction[:, 0]
    assert ((ratio >= 0.9) & (ratio <= 0.91)).all()


def compiled_like(robot: Robot, randomizer: Randomizer, env: int) -> mujoco.MjModel:
    """The robot of one draw, compiled from an edited spec."""
    drawn = {name: values[env] for name, values in randomizer.drawn.items()}
    spec = simulation_spec(robot, max_delay_s=randomizer.config.max_delay_s)
    for geom in spec.geoms:
        geom.friction[0] *= drawn["friction"][0]
    for place, name in enumerate(robot.body_names):
        body, ratio = spec.body(name), drawn["link_mass"][place]
        if name == robot.anchor_name:
            loaded = body.mass * ratio + drawn["added_mass_kg"][0]
            ratio = loaded / body.mass
            body.ipos = np.asarray(body.ipos) + drawn["com_offset_m"]
        body.mass, body.inertia = body.mass * ratio, np.asarray(body.inertia) * ratio
        body.fullinertia = np.asarray(body.fullinertia) * ratio
    for place, name in enumerate(robot.joint_names):
        joint, motor = spec.joint(name), spec.actuator(name)
        joint.armature *= drawn["armature"][place]
        joint.frictionloss += drawn["added_frictionloss"][place]
        motor.gainprm[0] *= drawn["stiffness"][place]
        motor.biasprm[1] *= drawn["stiffness"][place]
        motor.biasprm[2] *= drawn["damping"][place]
        motor.forcerange = np.asarray(motor.forcerange) * drawn["torque_limit"][place]
        motor.delay = drawn["delay_s"][place]
    return spec.compile()


@pytest.mark.parametrize("name", ["g1", "g1:asap", "stool"])
def test_a_drawn_robot_is_the_one_that_mujoco_compiles_from_these_numbers(tmp_path, name):
    robot = stool(tmp_path) if name == "stool" else Robot.load(name).for_training()
    sim, randomizer = randomized(robot, 2, EVERYTHING)
    randomizer.draw(np.array([0]))
    randomizer.draw(np.array([1, 0]))
    begin(sim)
    moved = walk(sim, 5)
    for env in range(2):
        expected = compiled_like(robot, randomizer, env)
        for field, array in expanded(sim).items():
            # Cameras and lights follow the centre of mass where they were put at first.
            if field.startswith(("opt.", "cam_", "light_", "bvh_")):
                continue
            np.testing.assert_allclose(
                array[env], getattr(expected, field), rtol=1e-9, atol=1e-12, err_msg=field
            )
        alone = CpuSimulation(robot, 1, threads=1, model=expected)
        begin(alone)
        np.testing.assert_allclose(moved[env], walk(alone, 5)[0], atol=1e-5)


def sole_slide_m(robot: Robot, config: RandomizeConfig, *, pair: bool = False) -> np.ndarray:
    """How far 2 stools slide that are pushed with 1 m/s; only the second is randomised."""
    spec = simulation_spec(robot)
    if pair:
        for sole in ("left_sole", "right_sole"):
            spec.add_pair(geomname1="floor", geomname2=sole, friction=[0.5, 0.5, 5e-3, 1e-4, 1e-4])
    sim = CpuSimulation(robot, 2, threads=1, model=spec.compile())
    randomizer = Randomizer(sim, config, np.random.default_rng(0))
    randomizer.draw(np.array([1]))
    qpos, qvel = np.tile(robot.default_qpos(), (2, 1)), np.zeros((2, sim.model.nv))
    qvel[:, 1] = 1.0
    sim.reset(np.arange(2), qpos, qvel)
    for _ in range(80):
        sim.step(np.tile(robot.default_joint_pos, (2, 1)))
    return np.array(sim.base_pos_w[:, 1])


@pytest.mark.parametrize("kind", ["the floor's", "the sole's by priority", "a pair's"])
def test_a_slippery_robot_slides_as_far_as_coulomb_says(tmp_path, kind):
    robot = stool(tmp_path)
    own = {"the floor's": 1.0, "the sole's by priority": 0.4, "a pair's": 0.5}[kind]
    if kind == "the sole's by priority":
        file = robot.folder / "robot.toml"
        file.write_text("foot_contact = { friction = 0.4 }\n" + file.read_text())
        robot = Robot.load(str(robot.folder))
    distance = sole_slide_m(robot, RandomizeConfig(friction=(0.4, 0.4)), pair=kind == "a pair's")
    # v^2 / (2 mu g): 0.05, 0.13, 0.10 m as the model is; 2.5 times as far with 0.4 of its friction.
    expected = 1.0 / (2.0 * 9.81 * own * np.array([1.0, 0.4]))
    if own == 1.0:
        distance, expected = distance[1:], expected[1:]  # With friction 1 a stool tips.
    np.testing.assert_allclose(distance, expected, rtol=0.05)


def test_a_loaded_robot_weighs_more_on_its_feet(tmp_path):
    robot = stool(tmp_path)
    sim, randomizer = randomized(robot, 2, RandomizeConfig(added_mass_kg=(3.0, 3.0)))
    randomizer.draw(np.array([1]))
    begin(sim)
    for _ in range(100):
        sim.step(np.tile(robot.default_joint_pos, (2, 1)))
    weight = sim.foot_contact_force.sum(axis=1)
    np.testing.assert_allclose(weight, [7.0 * 9.81, 10.0 * 9.81], rtol=1e-3)
    # And its inertia grew with its mass: the seat had 5 kg and has 8.
    heavy, light = sim.batch.get_model(1), sim.batch.get_model(0)
    np.testing.assert_allclose(heavy.body_inertia[1], light.body_inertia[1] * 8.0 / 5.0)
    assert heavy.body_subtreemass[0] == pytest.approx(10.0)


def test_a_g1_with_three_more_kilograms_weighs_them_too(g1):
    config = RandomizeConfig(added_mass_kg=(3.0, 3.0))
    sim, randomizer = randomized(g1, 2, config)
    randomizer.draw(np.array([1]))
    begin(sim)
    forces = []
    for _ in range(25):
        sim.step(np.tile(g1.default_joint_pos, (2, 1)))
        forces.append(sim.foot_contact_force.sum(axis=1))
    # Half a second, before it topples: the mean carries the weight, but for a last sway.
    weight = np.mean(forces[5:], axis=0)
    total = sim.model.body_subtreemass[0]
    np.testing.assert_allclose(weight, np.array([total, total + 3.0]) * 9.81, rtol=0.02)
    assert weight[1] - weight[0] == pytest.approx(3.0 * 9.81, rel=0.1)


def test_a_centre_of_mass_moves_alone_even_where_mujoco_shares_frames(tmp_path):
    # In the arm, geoms lie in the frame of the mass; in the stool, the mass in that of the body.
    for folder, toy in (("arm", arm), ("stool", stool)):
        (tmp_path / folder).mkdir()
        robot = toy(tmp_path / folder)
        if toy is arm:
            file = robot.folder / "robot.toml"
            file.write_text('anchor = "lower"\n' + file.read_text())
            robot = Robot.load(str(robot.folder))
        sim, randomizer = randomized(robot, 2, RandomizeConfig(com_offset_m=(0.03, 0.03)))
        mass_w, geom_w = sim.batch.bind("xipos"), sim.batch.bind("geom_xpos")
        randomizer.draw(np.array([1]))
        begin(sim)
        anchor = sim.model.body(robot.anchor_name).id
        away = mass_w[1, anchor] - mass_w[0, anchor]
        assert np.linalg.norm(away) == pytest.approx(0.03 * np.sqrt(3.0))
        np.testing.assert_array_equal(geom_w[0], geom_w[1])


def test_a_drawn_delay_is_the_one_of_set_delay(tmp_path):
    robot = arm(tmp_path)
    sim, randomizer = randomized(robot, 2, RandomizeConfig(delay_s=(0.02, 0.02)))
    by_hand = CpuSimulation(robot, 2, threads=1, max_delay_s=0.02)
    randomizer.draw(np.array([1]))
    by_hand.set_delay(0.02, np.array([1]))
    begin(sim)
    begin(by_hand)
    moved = walk(sim, 12)
    np.testing.assert_array_equal(moved, walk(by_hand, 12))
    assert np.abs(moved[0] - moved[1]).max() > 1e-3


def test_restore_undoes_draws_also_in_another_simulation(g1):
    sim, randomizer = randomized(g1, 3, EVERYTHING)
    randomizer.draw(np.arange(3))
    begin(sim)
    walk(sim, 3)
    physics, state, fields = randomizer.snapshot(), sim.snapshot(), expanded(sim)
    expected = walk(sim, 5)
    randomizer.draw(np.arange(3))
    other_sim, other = randomized(g1, 3, EVERYTHING, seed=9)
    for target, its_randomizer in ((sim, randomizer), (other_sim, other)):
        its_randomizer.restore(physics)
        target.restore(state)
        for name, array in expanded(target).items():
            np.testing.assert_array_equal(array, fields[name], err_msg=name)
        np.testing.assert_array_equal(walk(target, 5), expected)


def test_a_restored_robot_that_was_never_drawn_keeps_its_own_delay(tmp_path):
    robot = arm(tmp_path)
    robot = robot.with_(delay_s=np.full(2, 0.01))
    sim, randomizer = randomized(robot, 1, RandomizeConfig(delay_s=(0.02, 0.04)))
    randomizer.restore(randomizer.snapshot())
    np.testing.assert_array_equal(expanded(sim)["actuator_delay"], 0.01)


def test_the_published_ranges_run(g1):
    paper = RandomizeConfig.paper()
    assert (paper.friction, paper.stiffness, paper.max_delay_s) == ((0.5, 1.25), (0.75, 1.25), 0.04)
    sim, randomizer = randomized(g1, 8, paper)
    randomizer.draw(np.arange(8))
    begin(sim)
    assert np.isfinite(walk(sim, 10)).all() and not sim.failed.any()


def test_no_robots_is_a_draw_of_nothing(g1):
    sim, randomizer = randomized(g1, 2, EVERYTHING)
    randomizer.draw(np.arange(2))
    before = expanded(sim)
    randomizer.draw(np.array([], dtype=np.intp))
    for name, array in expanded(sim).items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ({"friction": (0.0, 1.0)}, "friction is a factor and must be above 0; got 0.0, 1.0"),
        ({"stiffness": (1.2, 0.8)}, "stiffness must be two rising numbers; got 1.2, 0.8"),
        ({"added_mass_kg": (0.0, np.inf)}, "added_mass_kg must be two rising numbers; got 0.0,"),
        ({"delay_s": (-0.01, 0.02)}, "delay_s must be 0 or above; got -0.01, 0.02"),
        ({"added_frictionloss": (-0.1, 0.0)}, "added_frictionloss must be 0 or above"),
    ],
)
def test_ranges_that_make_no_sense_are_refused(ranges, message):
    with pytest.raises(InputError, match=message):
        RandomizeConfig(**ranges)


def test_ranges_that_do_not_fit_the_robot_or_the_simulation_are_refused(tmp_path):
    sim = CpuSimulation(stool(tmp_path), 1, threads=1, max_delay_s=0.02)
    rng = np.random.default_rng(0)
    message = "added_mass_kg leaves 'seat' with -1 kg; it has 5 kg"
    with pytest.raises(InputError, match=message):
        Randomizer(sim, RandomizeConfig(added_mass_kg=(-6.0, 0.0)), rng)
    message = "delay_s goes up to 0.03 s; the simulation holds 0.02 s; make it with max_delay_s="
    with pytest.raises(InputError, match=message):
        Randomizer(sim, RandomizeConfig(delay_s=(0.0, 0.03)), rng)
