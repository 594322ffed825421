"""How fast the simulation is, and how far a time step may be coarsened before it lies.

    speed = bench_sim(Robot.load("g1"), sizes=(64, 512))
    speed[0].to_json()["ratio_bare"]                     # {"value": 0.98, "low": 0.96, "high": 1.0}

Machines differ and are shared, so what counts are ratios of loops that alternate step by step.
The study of integrators is in ``asap.bench_integrators``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import mujoco
import numpy as np
from mujoco.batch import Batch

from asap.bench_results import Ratio, SpeedResult
from asap.robot import Robot
from asap.sim import CpuSimulation
from asap_deploy.errors import InputError

_EPISODE_STEPS = 25
"""Control steps until everybody starts again, so that the robots are near their feet."""
_TARGET_NOISE = 0.25
"""Standard deviation of the random targets around the default pose [rad]."""
_POSITIONS = int(mujoco.mjtStage.mjSTAGE_POS)


def bench_sim(
    robot: Robot,
    sizes: Sequence[int] = (64, 512, 2048),
    *,
    threads: int = 0,
    seconds: float = 20.0,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> list[SpeedResult]:
    """Measure ``CpuSimulation`` against a bare loop over ``mujoco.batch`` doing the same physics.

    All loops hold the same robots in the same states, get the same targets and take turns step by
    step in random order. That they stay bit-identical is checked, not assumed.

    Args:
        robot: What to simulate.
        sizes: Numbers of robots N.
        threads: Threads of the pool; 0 for one per CPU.
        seconds: Time to spend on each size [s]; at least 3 repetitions are made.
        seed: Seed of the targets.
        progress: Called with a line per size.

    Returns:
        One result per size.

    Raises:
        InputError: If there is no size, or one below 1.
    """
    if not sizes or min(sizes) < 1 or seconds <= 0.0:
        raise InputError(f"need sizes of 1 or more and seconds above 0; got {sizes}, {seconds}")
    results = []
    for size in sizes:
        results.append(_bench_size(robot, size, threads, seconds, np.random.default_rng(seed)))
        if progress is not None:
            ratio = results[-1].ratio_bare
            progress(f"{size} robots: {results[-1].sim_per_s:.0f} steps/s, {ratio.value:.3f}")
    return results


def take_turns(
    calls: Mapping[str, Callable[[np.ndarray], None]],
    targets: np.ndarray,
    rng: np.random.Generator,
) -> dict[str, float]:
    """Call all with each target, in an order that changes every time.

    Whatever else the machine does in the meantime then slows all of them alike.

    Args:
        calls: What to time, by name.
        targets: One argument per turn, shape (steps, ...).
        rng: Decides about the order.

    Returns:
        Time spent in each [s].
    """
    names, spent = list(calls), dict.fromkeys(calls, 0.0)
    for target in targets:
        for place in rng.permutation(len(names)):
            start = time.perf_counter()
            calls[names[place]](target)
            spent[names[place]] += time.perf_counter() - start
    return spent


def speed_ratio(reference_s: np.ndarray, tested_s: np.ndarray) -> Ratio:
    """Speed of what is tested over that of a reference, from times per repetition [s]."""
    ratios = np.asarray(reference_s) / np.asarray(tested_s)
    return Ratio(float(np.median(ratios)), float(ratios.min()), float(ratios.max()))


class _Loop(NamedTuple):
    """One way to simulate: how to start anew, how to step, and where its qpos is."""

    restart: Callable[[], None]
    step: Callable[[np.ndarray], None]
    qpos: np.ndarray


def _bench_size(
    robot: Robot, size: int, threads: int, seconds: float, rng: np.random.Generator
) -> SpeedResult:
    """Let all loops take turns for a while, and sum their times up per repetition."""
    sim = CpuSimulation(robot, size, threads=threads)
    loops = {
        "sim": _sim_loop(sim, read=False),
        "sim_read": _sim_loop(CpuSimulation(robot, size, threads=threads), read=True),
        "bare": _bare_loop(robot, Batch(sim.model, size, threads), read=False),
        "bare_read": _bare_loop(robot, Batch(sim.model, size, threads), read=True),
        "robot_model": _bare_loop(robot, Batch(robot.model, size, threads), read=False),
    }
    _repeat(robot, loops, 2, rng)  # warm up caches, threads and page tables
    steps = 5 if size >= 256 else _EPISODE_STEPS
    times: list[dict[str, float]] = []
    start = time.perf_counter()
    while len(times) < 3 or time.perf_counter() - start < seconds:
        times.append(_repeat(robot, loops, steps, rng, restart=len(times) % 5 == 0))
    table = {name: np.array([t[name] for t in times]) for name in loops}
    return SpeedResult(
        robot=robot.name,
        num_envs=size,
        threads=sim.batch.nthread,
        integrator=robot.integrator,
        physics_dt=robot.physics_dt,
        control_dt=robot.control_dt,
        repetitions=len(times),
        **{f"{name}_per_s": float(size * steps / np.median(table[name])) for name in loops},
        ratio_bare=speed_ratio(table["bare"], table["sim"]),
        ratio_bare_read=speed_ratio(table["bare_read"], table["sim_read"]),
        ratio_robot_model=speed_ratio(table["robot_model"], table["sim"]),
    )


def _repeat(
    robot: Robot,
    loops: dict[str, _Loop],
    steps: int,
    rng: np.random.Generator,
    restart: bool = True,
) -> dict[str, float]:
    """Time of each loop for a number of steps under the same random targets [s]."""
    size = len(loops["sim"].qpos)
    if restart:
        for loop in loops.values():
            loop.restart()
    noise = rng.normal(0.0, _TARGET_NOISE, (steps, size, len(robot.joint_names)))
    calls = {name: loop.step for name, loop in loops.items()}
    spent = take_turns(calls, robot.default_joint_pos + noise, rng)
    same = all(np.array_equal(loop.qpos, loops["sim"].qpos) for loop in loops.values())
    assert same, "the loops did not simulate the same physics"
    return spent


def _sim_loop(sim: CpuSimulation, *, read: bool) -> _Loop:
    """The loop under test."""
    env_ids = np.arange(sim.num_envs)
    qpos = np.tile(sim.robot.default_qpos(), (sim.num_envs, 1))
    qvel = np.zeros((sim.num_envs, sim.model.nv))

    def step(target: np.ndarray) -> None:
        sim.step(target)
        if read:
            for array in (sim.body_pos_w, sim.body_quat_wxyz, sim.joint_torque):
                array.copy()
            sim.foot_contact_force.copy()
            sim.measure()

    return _Loop(lambda: sim.reset(env_ids, qpos, qvel), step, sim.batch.bind("qpos"))


def _bare_loop(robot: Robot, batch: Batch, *, read: bool) -> _Loop:
    """The least that the same physics takes."""
    ctrl, qpos = batch.bind("ctrl"), batch.bind("qpos")
    stage = _POSITIONS if read else 0
    names = ("xpos", "xquat", "actuator_force", "sensordata", "qpos", "qvel") if read else ()
    outputs = [batch.bind(name) for name in names]
    start = robot.default_qpos()

    def restart() -> None:
        batch.reset(stage=0)
        qpos[:] = start

    def step(target: np.ndarray) -> None:
        ctrl[:] = target
        batch.step(nstep=robot.decimation, stage=stage)
        for array in outputs:
            array.copy()

    return _Loop(restart, step, qpos)
