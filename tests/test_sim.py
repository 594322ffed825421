"""The simulation: MuJoCo's own numbers, bit for bit, whatever happens to a neighbour."""

from __future__ import annotations

import sys
from pathlib import Path

import mujoco
import numpy as np
import pytest

from asap.robot import Robot
from asap.sim import MAX_SPEED, CpuSimulation, Simulation, simulation_spec
from asap_deploy.errors import InputError
from asap_deploy.rotation import conjugate, from_rotvec, multiply, rotate, to_rotvec

sys.path.insert(0, str(Path(__file__).parent))
from toy_robots import arm, stool


@pytest.fixture(scope="module")
def g1() -> Robot:
    return Robot.load("g1")


@pytest.fixture(autouse=True)
def _logs_go_to_a_temporary_folder(tmp_path, monkeypatch):
    """MuJoCo writes MUJOCO_LOG.TXT where it stands when it warns."""
    monkeypatch.chdir(tmp_path)


def random_targets(robot: Robot, steps: int, envs: int, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0.0, 0.3, (steps, envs, len(robot.joint_names)))
    return robot.default_joint_pos + noise


def start(robot: Robot, envs: int) -> tuple[np.ndarray, np.ndarray]:
    return np.tile(robot.default_qpos(), (envs, 1)), np.zeros((envs, robot.model.nv))


def state(sim: CpuSimulation) -> np.ndarray:
    return sim.batch.state.copy()


def test_g1_equals_a_loop_over_mj_step_of_its_own_model_bit_for_bit_with_partial_resets(g1):
    targets = random_targets(g1, 30, 4)
    qpos, qvel = start(g1, 4)
    thrown = np.random.default_rng(1).normal(0.0, 0.5, qvel.shape)
    sim = CpuSimulation(g1, 4, threads=2)
    sim.reset(np.arange(4), qpos, qvel)
    for step, target in enumerate(targets):
        if step == 12:
            sim.reset(np.array([3, 1]), qpos[[3, 1]], thrown[[3, 1]])
        sim.step(target)
    for env in range(4):
        is_reset = env in (1, 3)
        data = mujoco.MjData(g1.model)
        data.qpos[:], data.qvel[:] = qpos[env], thrown[env] if is_reset else qvel[env]
        for target in targets[12 if is_reset else 0 :, env]:
            data.ctrl[:] = target
            for _ in range(g1.decimation):
                mujoco.mj_step(g1.model, data)
        assert np.array_equal(sim.batch.bind("qpos")[env], data.qpos)
        assert np.array_equal(sim.batch.bind("qvel")[env], data.qvel)
        assert np.array_equal(sim.joint_torque[env], data.actuator_force)
        assert data.ncon > 4  # on the floor


def test_result_does_not_depend_on_the_number_of_threads(g1):
    results = []
    for threads in (1, 2, 5):
        sim = CpuSimulation(g1, 7, threads=threads)
        for target in random_targets(g1, 10, 7):
            sim.step(target)
        results.append(state(sim))
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


def test_reset_of_some_envs_leaves_the_others_untouched(g1):
    sim = CpuSimulation(g1, 6)
    for target in random_targets(g1, 5, 6):
        sim.step(target)
    before, poses = state(sim), sim.body_pos_w.copy()
    forces, torques = sim.foot_contact_force.copy(), sim.joint_torque.copy()
    qpos, qvel = start(g1, 2)
    sim.reset(np.array([4, 0]), qpos, qvel)
    others = [1, 2, 3, 5]
    assert np.array_equal(state(sim)[others], before[others])
    assert np.array_equal(sim.body_pos_w[others], poses[others])
    assert np.array_equal(sim.foot_contact_force[others], forces[others])
    assert np.array_equal(sim.joint_torque[others], torques[others])
    assert np.array_equal(sim.batch.bind("qpos")[[0, 4]], qpos)
    assert not np.array_equal(sim.body_pos_w[0], poses[0])


def test_reset_forgets_time_forces_and_the_solver_of_the_past(g1):
    sim = CpuSimulation(g1, 1)
    fresh = state(sim)
    sim.batch.bind("xfrc_applied")[:] = 3.0
    for target in random_targets(g1, 5, 1):
        sim.step(target)
    qpos, qvel = start(g1, 1)
    sim.reset(np.array([0]), qpos, qvel, joint_pos_target=g1.default_joint_pos[None])
    assert np.array_equal(state(sim), fresh)


def test_what_is_read_after_a_step_describes_the_new_state(g1):
    sim = CpuSimulation(g1, 3)
    for target in random_targets(g1, 8, 3):
        sim.step(target)
    for env in range(3):
        data = sim.batch.get_data(env)
        mujoco.mj_forward(sim.model, data)
        assert np.array_equal(sim.body_pos_w[env], data.xpos[1:])
        assert np.array_equal(sim.body_quat_wxyz[env], data.xquat[1:])
        assert np.array_equal(sim.joint_pos[env], data.qpos[7:])
        assert np.array_equal(sim.joint_vel[env], data.qvel[6:])
    assert np.array_equal(sim.body_pos_w[:, 0], sim.base_pos_w)
    assert np.allclose(sim.body_quat_wxyz[:, 0], sim.base_quat_wxyz, atol=1e-12)


def test_base_velocity_is_linear_in_the_world_and_angular_in_the_body_frame(g1):
    """Planted: a robot in the air, turned by a known rotation, keeps what it was given."""
    sim = CpuSimulation(g1, 2)
    qpos, qvel = start(g1, 2)
    qpos[:, 2] = 5.0
    qpos[:, 3:7] = from_rotvec(np.array([[np.pi / 2, 0.0, 0.0], [0.4, -0.7, 1.1]]))
    qvel[:, 0:3], qvel[:, 3:6] = [1.0, -2.0, 0.5], [0.3, 0.0, 0.8]
    sim.reset(np.arange(2), qpos, qvel)
    sim.step(qpos[:, 7:])
    moved = (sim.base_pos_w - qpos[:, 0:3]) / g1.control_dt
    turned_w = to_rotvec(multiply(sim.base_quat_wxyz, conjugate(qpos[:, 3:7]))) / g1.control_dt
    assert np.allclose(moved[:, :2], sim.base_lin_vel_w[:, :2], atol=0.05)
    expected_w = rotate(qpos[:, 3:7], qvel[:, 3:6])
    assert np.allclose(turned_w, expected_w, atol=0.1)
    assert np.linalg.norm(turned_w - qvel[:, 3:6], axis=1).min() > 0.3  # the frames do differ
    assert np.allclose(sim.base_ang_vel_b, qvel[:, 3:6], atol=0.2)


def test_pd_law_with_torque_limit(tmp_path):
    robot = arm(tmp_path)  # one physics step per control step: torque of the step is exact
    sim = CpuSimulation(robot, 3)
    rng = np.random.default_rng(0)
    saturated = 0
    for _ in range(50):
        target = rng.uniform(-0.4, 0.4, (3, 2))
        wanted = 30.0 * (target - sim.joint_pos) - 2.0 * sim.joint_vel
        sim.step(target)
        assert np.allclose(sim.joint_torque, np.clip(wanted, -4.0, 4.0), atol=1e-12)
        saturated += int((np.abs(wanted) > 4.0).sum())
    assert 10 < saturated < 290


def test_bolted_robot_has_a_base_at_rest_and_cannot_be_pushed(tmp_path):
    sim = CpuSimulation(arm(tmp_path), 2)
    sim.step(np.full((2, 2), 0.3))
    assert np.array_equal(sim.base_pos_w, np.zeros((2, 3)))
    assert np.array_equal(sim.base_quat_wxyz, np.tile([1.0, 0.0, 0.0, 0.0], (2, 1)))
    assert not sim.base_lin_vel_w.any() and not sim.base_ang_vel_b.any()
    assert sim.joint_pos.shape == (2, 2) and sim.joint_pos[0, 1] > 0.0
    assert sim.foot_contact_force.shape == (2, 0)
    with pytest.raises(InputError, match="bolted down and cannot be pushed"):
        sim.push(np.array([0]), np.zeros((1, 3)))


def test_foot_forces_of_a_robot_at_rest_sum_to_its_weight(tmp_path):
    sim = CpuSimulation(stool(tmp_path), 2)
    qpos, qvel = start(sim.robot, 2)
    qpos[1, 2] += 1.0  # this one is in the air
    sim.reset(np.arange(2), qpos, qvel)
    for step in range(150):
        sim.step(np.zeros((2, 2)))
        if step == 10:
            assert not sim.foot_contact_force[1].any()
    assert np.allclose(sim.foot_contact_force.sum(axis=1), 7.0 * 9.81, rtol=1e-3)
    assert sim.foot_contact_force.min() > 30.0


def test_foot_force_counts_the_floor_and_not_the_other_foot(tmp_path):
    """Feet that stand in each other push sideways on each other; the floor does not know."""
    robot = stool(tmp_path)
    spec = simulation_spec(robot)
    for geom in spec.geoms:
        if geom.name.endswith("_sole"):
            geom.size = [0.15, 0.16, 0.02]
    sim = CpuSimulation(robot, 1, model=spec.compile())
    qpos, qvel = start(robot, 1)
    qpos[:, 2] += 3.0
    qpos[:, 7:] = [0.2, -0.2]
    sim.reset(np.array([0]), qpos, qvel)
    sim.step(qpos[:, 7:])
    assert sim.batch.get_data(0).qpos[2] > 2.0
    data = sim.batch.get_data(0)
    mujoco.mj_forward(sim.model, data)
    assert data.ncon > 0  # the soles do touch
    assert not sim.foot_contact_force.any()


def test_push_changes_the_world_velocity_of_the_named_bases_only(tmp_path):
    sim = CpuSimulation(stool(tmp_path), 3)
    qpos, qvel = start(sim.robot, 3)
    qpos[:, 3:7] = from_rotvec(np.array([0.0, 0.0, np.pi / 2]))
    qpos[:, 2] = 3.0
    sim.reset(np.arange(3), qpos, qvel)
    sim.push(np.array([2, 0]), np.array([[0.0, 0.5, 0.0], [1.0, 0.0, 0.0]]))
    assert np.array_equal(sim.base_lin_vel_w, [[1.0, 0, 0], [0, 0, 0], [0, 0.5, 0]])
    sim.step(np.zeros((3, 2)))
    assert np.allclose(sim.base_pos_w[:, 0], [0.02, 0, 0], atol=1e-6)
    assert np.allclose(sim.base_pos_w[:, 1], [0, 0, 0.01], atol=1e-6)


def test_a_planted_delay_of_20_ms_shifts_the_response_by_20_ms_even_after_20_s(tmp_path):
    robot = arm(tmp_path)
    prompt, late = CpuSimulation(robot, 2), CpuSimulation(robot, 2, max_delay_s=0.02)
    late.set_delay(np.array([0.02, 0.0]))
    steps, shift = 4_020, 4  # of 5 ms
    # A new target every 30 steps.
    targets = np.repeat(np.random.default_rng(0).uniform(-1, 1, (steps // 30, 2)), 30, axis=0)
    path = np.zeros((2, steps, 2))
    for step, target in enumerate(targets):
        for sim, place in ((prompt, 0), (late, 1)):
            sim.step(np.tile(target, (2, 1)))
            path[place, step] = sim.joint_pos[0]
        assert np.array_equal(prompt.joint_pos[1], late.joint_pos[1])  # zero delay is none
    assert np.abs(path[1, shift:] - path[0, :-shift]).max() < 1e-9
    assert np.abs(path[1] - path[0]).max() > 0.05  # without the shift they differ


def test_a_delay_between_two_physics_steps_is_interpolated(tmp_path):
    sim = CpuSimulation(arm(tmp_path), 1, max_delay_s=0.02)
    sim.set_delay(0.0125)  # two and a half steps of 5 ms
    torques = []
    for _ in range(4):
        sim.step(np.full((1, 2), 0.1))
        torques.append(sim.joint_torque[0, 1])
    # Step k applies the target as it was at 5 k - 12.5 ms, halfway between two samples.
    assert np.allclose(torques[:2], 0.0, atol=1e-12)
    assert np.isclose(torques[2], 30.0 * 0.05)
    assert torques[3] > 30.0 * 0.08


def test_reset_fills_the_delay_with_the_target_so_that_nothing_jerks(tmp_path):
    robot = arm(tmp_path)
    sim = CpuSimulation(robot, 3, max_delay_s=0.03)
    sim.set_delay(0.03)
    qpos = np.array([[0.8, -0.5], [0.8, -0.5]])
    for reset_target in (None, qpos + 0.05):
        sim.step(np.ones((3, 2)))
        sim.reset(np.array([2, 1]), qpos, np.zeros((2, 2)), joint_pos_target=reset_target)
        sim.step(np.full((3, 2), -1.0))
        expected = 0.0 if reset_target is None else 30.0 * 0.05
        assert np.allclose(sim.joint_torque[1:], expected, atol=1e-9)
        assert np.abs(sim.joint_torque[0]).max() < 1e-9 or reset_target is not None


def test_delays_of_some_robots_and_joints_can_be_set_alone(tmp_path):
    sim = CpuSimulation(arm(tmp_path), 3, max_delay_s=0.02)
    sim.set_delay(np.array([[0.0, 0.02]]), env_ids=np.array([1]))
    sim.step(np.full((3, 2), 0.1))
    assert np.allclose(sim.joint_torque, [[3.0, 3.0], [3.0, 0.0], [3.0, 3.0]])


def test_delays_that_do_not_fit_the_buffers_are_refused(tmp_path):
    robot = arm(tmp_path)
    with pytest.raises(InputError, match=r"between 0 and 0 s.*larger max_delay_s"):
        CpuSimulation(robot, 1).set_delay(0.01)
    sim = CpuSimulation(robot, 1, max_delay_s=0.02)
    for delay in (-0.001, 0.05, np.nan):
        with pytest.raises(InputError, match="make the simulation with a larger max_delay_s"):
            sim.set_delay(delay)
    with pytest.raises(InputError, match="max_delay_s must be 0 or above; got -1"):
        CpuSimulation(robot, 1, max_delay_s=-1.0)


def _invalid_integrator(sim: CpuSimulation) -> None:
    """MuJoCo raises in this simulation."""
    sim.batch.expand("opt.integrator")[2] = 99


def _not_a_number_in_velocity(sim: CpuSimulation) -> None:
    """MuJoCo notices at once and resets to its own zero pose, which looks healthy."""
    sim.batch.bind("qvel")[2, 8] = np.nan


def _infinite_position(sim: CpuSimulation) -> None:
    sim.batch.bind("qpos")[2, 9] = np.inf


def _huge_velocity(sim: CpuSimulation) -> None:
    """Straight up: absurd, but nothing that MuJoCo would warn about."""
    sim.batch.bind("qvel")[2, 2] = 2.0 * MAX_SPEED


@pytest.mark.parametrize(
    "plant",
    [_invalid_integrator, _not_a_number_in_velocity, _infinite_position, _huge_velocity],
)
def test_a_simulation_that_blows_up_is_frozen_and_the_others_never_notice(g1, plant):
    healthy, sick = CpuSimulation(g1, 5, threads=2), CpuSimulation(g1, 5, threads=2)
    for step, target in enumerate(random_targets(g1, 12, 5)):
        if step == 4:
            plant(sick)
        healthy.step(target)
        sick.step(target)
    others = [0, 1, 3, 4]
    assert np.array_equal(state(sick)[others], state(healthy)[others])
    assert np.array_equal(sick.body_pos_w[others], healthy.body_pos_w[others])
    assert np.array_equal(sick.foot_contact_force[others], healthy.foot_contact_force[others])
    assert np.array_equal(sick.joint_torque[others], healthy.joint_torque[others])
    assert sick.failed.tolist() == [False, False, True, False, False]
    assert (sick.num_failures, healthy.num_failures) == (1, 0)
    assert np.array_equal(sick.batch.bind("qpos")[2], g1.default_qpos())
    assert not sick.joint_vel[2].any()
    assert all(np.isfinite(array).all() for array in sick.measure() if array is not None)
    assert np.isfinite(sick.joint_torque).all() and np.isfinite(sick.body_pos_w).all()


def test_a_target_that_is_not_a_number_fails_its_robot_and_reset_revives_it(g1):
    healthy, sick = CpuSimulation(g1, 4), CpuSimulation(g1, 4)
    targets = random_targets(g1, 6, 4)
    broken = targets.copy()
    broken[2, 1, 5] = np.nan
    for target, bad in zip(targets, broken, strict=True):
        healthy.step(target)
        sick.step(bad)
    assert sick.failed.tolist() == [False, True, False, False]
    qpos, qvel = start(g1, 1)
    for sim in (healthy, sick):
        sim.reset(np.array([1]), qpos, qvel)
        for target in targets:
            sim.step(target)
    assert not sick.failed.any()
    assert np.array_equal(state(sick), state(healthy))


def test_a_failed_robot_is_not_pushed(g1):
    sim = CpuSimulation(g1, 2)
    sim.batch.bind("qvel")[0, 0] = np.nan
    sim.step(random_targets(g1, 1, 2)[0])
    before = sim.base_lin_vel_w[1].copy()
    sim.push(np.array([0, 1]), np.ones((2, 3)))
    assert not sim.base_lin_vel_w[0].any()
    assert np.allclose(sim.base_lin_vel_w[1], before + 1.0)


def test_bodies_keep_their_ids_and_geoms_that_touch_nothing_are_left_out(tmp_path, g1):
    for robot in (stool(tmp_path), g1):
        model, full = CpuSimulation(robot, 1).model, robot.model
        assert model.ngeom < full.ngeom
        assert np.array_equal(model.body_mass, full.body_mass)
        assert np.array_equal(model.body_inertia, full.body_inertia)
        assert [model.body(i).name for i in range(model.nbody)] == ["world", *robot.body_names]
        names = [
            [m.geom(i).name for i in ids]
            for m, feet in (
                (model, CpuSimulation(robot, 1).foot_geom_ids),
                (full, robot.foot_geom_ids),
            )
            for ids in feet
        ]
        assert names[:2] == names[2:] and all(names)


def test_views_are_live_and_read_only_and_measurements_are_copies(g1):
    sim = CpuSimulation(g1, 2)
    joint_pos, body_pos_w, measured = sim.joint_pos, sim.body_pos_w, sim.measure()
    before = joint_pos.copy()
    sim.step(random_targets(g1, 1, 2)[0])
    assert np.array_equal(joint_pos, sim.joint_pos) and not np.array_equal(joint_pos, before)
    assert np.array_equal(body_pos_w, sim.body_pos_w)
    assert np.array_equal(measured.joint_pos, before)
    for name in ("joint_pos", "base_quat_wxyz", "body_pos_w", "failed", "foot_contact_force"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(sim, name)[:] = 0


def test_an_edited_model_is_simulated_and_a_foreign_one_refused(tmp_path, g1):
    robot = stool(tmp_path)
    spec = simulation_spec(robot)
    spec.body("seat").mass += 2.0
    sim: Simulation = CpuSimulation(robot, 1, model=spec.compile())
    for _ in range(150):
        sim.step(np.zeros((1, 2)))
    assert np.isclose(sim.foot_contact_force.sum(), 9.0 * 9.81, rtol=1e-3)
    with pytest.raises(InputError, match=r"does not fit robot .* compile it from simulation_spec"):
        CpuSimulation(robot, 1, model=robot.model)
    spec.option.timestep = 0.003
    with pytest.raises(InputError, match=r"whole multiple of physics_dt: got 0.02 and 0.003"):
        CpuSimulation(robot, 1, model=spec.compile())


def test_states_that_cannot_be_started_from_are_refused_and_change_nothing(g1):
    sim = CpuSimulation(g1, 3)
    before = state(sim)
    qpos, qvel = start(g1, 2)
    broken = qpos.copy()
    broken[0, 4] = np.nan
    for env_ids, at, message in (
        ([0, 1], qpos[:, 1:], r"have shapes \(\(2, 35\), \(2, 35\), .*expected \(\(2, 36\)"),
        ([0, 1], broken, "numbers that are not finite"),
        ([1, 1], qpos, "env_ids must be 0 to 2, none twice; got"),
        ([-1, 0], qpos, "env_ids must be 0 to 2, none twice; got"),
        ([2, 3], qpos, "env_ids must be 0 to 2, none twice; got"),
    ):
        with pytest.raises(InputError, match=message):
            sim.reset(np.array(env_ids), at, qvel, joint_pos_target=qpos[:, 7:])
    assert np.array_equal(state(sim), before)
    with pytest.raises(InputError, match="need 1 robot and 0 threads or more; got 0 and 0"):
        CpuSimulation(g1, 0)
