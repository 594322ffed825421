"""Logs of known quality: recorded from the simulator with shipped policies, with defects planted.

clean = record_logs("g1", "wave", count=8, seed=0)          # 8 sound logs of three episodes each
log, joints = PLANTS["swapped_joints"](clean[0], np.random.default_rng(1))
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from asap.evaluate import with_gains
from asap.inputs import MOTIONS_FOLDER, PROJECT
from asap.metrics import TrackedPoints
from asap.robot import Robot
from asap.sim import CpuSimulation
from asap.tracking import Reference, start_states
from asap_deploy import rotation
from asap_deploy.golden import load_policy
from asap_deploy.log import Log
from asap_deploy.motion import Motion
from asap_deploy.observation import Measurement
from asap_deploy.runtime import Runtime

EPISODES = 3
"""In each log."""

PAUSE_S = 1.0
"""Between two episodes of a log [s]."""

NOISE = {"joint_pos": 0.0005, "joint_vel": 0.02, "ang_vel": 0.02, "tilt": 0.003, "acc": 0.3}
"""Standard deviations of typical sensors [rad], [rad/s], [rad/s], [rad], [m/s^2]."""


KINDS = ("nominal", "armature", "ankles", "friction")


def changed_robot(robot: Robot, kind: str) -> Robot:
    """The robot, or one that differs from its description as real ones do."""
    if kind == "nominal":
        return robot
    if kind == "armature":
        return robot.with_(armature=np.maximum(robot.armature, 0.03))
    if kind == "friction":
        return robot.with_(frictionloss=2.0 * np.maximum(robot.frictionloss, 0.2))
    assert kind == "ankles", kind
    weak = np.array([0.8 if "ankle" in joint else 1.0 for joint in robot.joint_names])
    return robot.with_(stiffness=weak * robot.stiffness)


@functools.cache
def record_logs(
    clip: str = "wave",
    kind: str = "nominal",
    *,
    count: int = 4,
    seed: int = 0,
    base: bool = True,
    weaker: float = 1.0,
) -> tuple[Log, ...]:
    """Sound logs of a policy on the simulated robot, with sensor noise in the loop.

    Args:
        clip: Shipped policy and motion of the G1.
        kind: ``nominal``, or what is different about the robot.
        count: Number of logs; log k has a delay of its own, 0 to 20 ms.
        seed: Of starts, noise and delays.
        base: With the base pose and velocity, as from a motion capture.
        weaker: Stiffness of all motors from the middle of the log on, as a share.
    """
    rng = np.random.default_rng(seed)
    policy = load_policy(PROJECT / "policies" / "g1" / f"{clip}.onnx")
    motion = Motion.load(MOTIONS_FOLDER / "g1" / f"{clip}.npz")
    told = with_gains(Robot.load("g1"), policy.contract)
    robot = changed_robot(told, kind)
    number = count * EPISODES
    sim = CpuSimulation(robot, number, max_delay_s=0.02)
    delay_s = np.repeat(np.linspace(0.0, 0.02, count), EPISODES)
    sim.set_delay(delay_s)
    runtime = Runtime(policy, robot.joint_names, number)
    reference = Reference(motion, robot, TrackedPoints(robot))
    first = reference.frame(np.zeros(number))
    qpos, qvel = start_states(first, robot, rng, noise=0.15, at_rest=True)
    sim.reset(np.arange(number), qpos, qvel)
    rows: dict[str, list[np.ndarray]] = {}
    before = sim.base_lin_vel_w.copy()
    steps = round(motion.duration_s / robot.control_dt)
    for step in range(steps):
        if weaker != 1.0 and step == 0:
            gain, bias = sim.batch.expand("actuator_gainprm"), sim.batch.expand("actuator_biasprm")
            # The last episode of each log, and half of the one before.
            _weaken(gain, bias, np.arange(number) % EPISODES == EPISODES - 1, weaker)
        if weaker != 1.0 and step == steps // 2:
            _weaken(gain, bias, np.arange(number) % EPISODES == EPISODES - 2, weaker)
        if step % 60 == 30:
            angle = rng.uniform(0.0, 2.0 * np.pi, number)
            kick = np.stack([np.cos(angle), np.sin(angle), 0.0 * angle], axis=1)
            sim.push(np.arange(number), 0.1 * kick)
        exact = sim.measure()
        row, measured = _measured(exact, before, robot.control_dt, rng)
        before = exact.base_lin_vel_w
        command = runtime.step(measured, np.full(number, step * robot.control_dt))
        row |= {"joint_pos_target": command.joint_pos_target, "action": command.action}
        row["phase"] = command.phase
        for name, values in row.items():
            rows.setdefault(name, []).append(values.copy())
        sim.step(command.joint_pos_target)
    assert not sim.failed.any() and (sim.base_pos_w[:, 2] > 0.5).all(), "a robot fell"
    arrays = {name: np.stack(values) for name, values in rows.items()}
    if not base:
        arrays = {name: array for name, array in arrays.items() if not name.startswith("base_")}
    return tuple(_joined(arrays, told, k, rng) for k in range(count))


def _weaken(gain: np.ndarray, bias: np.ndarray, which: np.ndarray, share: float) -> None:
    """Make the position motors of some robots softer."""
    gain[which, :, 0] *= share
    bias[which, :, 1] *= share


def _measured(
    exact: Measurement, before: np.ndarray, dt: float, rng: np.random.Generator
) -> tuple[dict[str, np.ndarray], Measurement]:
    """What sensors say of the state: a row of the log, and what the policy is given."""

    def noisy(array: np.ndarray, kind: str) -> np.ndarray:
        return array + rng.normal(0.0, NOISE[kind], array.shape)

    tilt = rotation.from_rotvec(rng.normal(0.0, NOISE["tilt"], (len(exact.joint_pos), 3)))
    quat = rotation.multiply(exact.base_quat_wxyz, tilt)
    acc_w = (exact.base_lin_vel_w - before) / dt + np.array([0.0, 0.0, 9.81])
    measured = exact._replace(
        joint_pos=noisy(exact.joint_pos, "joint_pos"),
        joint_vel=noisy(exact.joint_vel, "joint_vel"),
        base_quat_wxyz=quat,
        base_ang_vel_b=noisy(exact.base_ang_vel_b, "ang_vel"),
    )
    row = {
        "joint_pos": measured.joint_pos,
        "joint_vel": measured.joint_vel,
        "imu_quat_wxyz": measured.base_quat_wxyz,
        "imu_ang_vel_b": measured.base_ang_vel_b,
        "imu_lin_acc_b": noisy(rotation.rotate_inverse(exact.base_quat_wxyz, acc_w), "acc"),
        "base_pos_w": exact.base_pos_w + rng.normal(0.0, 0.0005, exact.base_pos_w.shape),
        "base_quat_wxyz": exact.base_quat_wxyz,
        "base_lin_vel_w": exact.base_lin_vel_w,
        "base_ang_vel_b": exact.base_ang_vel_b,
    }
    return row, measured


def _joined(
    arrays: dict[str, np.ndarray], robot: Robot, number: int, rng: np.random.Generator
) -> Log:
    """Episodes one after the other, stamped by a clock that jitters by 0.1 ms."""
    length, mine = len(arrays["joint_pos"]), range(number * EPISODES, (number + 1) * EPISODES)
    fields = {name: np.concatenate([array[:, k] for k in mine]) for name, array in arrays.items()}
    starts = np.arange(EPISODES) * (length * robot.control_dt + PAUSE_S)
    times = np.concatenate([start + robot.control_dt * np.arange(length) for start in starts])
    fields["stiffness"], fields["damping"] = robot.stiffness, robot.damping
    fields["episode"] = np.repeat(np.arange(EPISODES), length)
    joint_pos = fields.pop("joint_pos")
    return Log(
        joint_names=robot.joint_names,
        time_s=times + rng.normal(0.0, 0.0001, len(times)),
        joint_pos=joint_pos,
        fields=fields,
        robot="g1",
        source="simulated",
    )


Planted = tuple[Log, tuple[str, ...]]
"""A log with a defect, and the joints that a finding must name (empty: none in particular)."""

_MEASURED = ("joint_pos", "joint_vel", "imu_quat_wxyz", "imu_ang_vel_b", "imu_lin_acc_b",
             "base_pos_w", "base_quat_wxyz", "base_lin_vel_w", "base_ang_vel_b")  # fmt: skip


def edited(log: Log, **arrays: np.ndarray) -> Log:
    """The log with other channels; None takes one away."""
    own = {k: arrays.pop(k) for k in ("joint_pos", "time_s") if k in arrays}
    fields = {k: v for k, v in {**log.fields, **arrays}.items() if v is not None}
    return replace(log, fields=fields, **own)


def _channel(log: Log, name: str) -> np.ndarray:
    return (log.joint_pos if name == "joint_pos" else log.fields[name]).copy()


def _row(log: Log, rng: np.random.Generator, margin: int = 40) -> int:
    """A row well inside an episode."""
    length = len(log.time_s) // EPISODES
    return int(rng.integers(EPISODES)) * length + int(rng.integers(margin, length - margin))


def _moving(log: Log, rng: np.random.Generator, *, least: float = 0.05) -> int:
    """A joint that moves."""
    return int(rng.choice(np.flatnonzero(np.ptp(log.joint_pos, axis=0) > least)))


def _keep(log: Log, rows: np.ndarray, time_s: np.ndarray | None = None) -> Log:
    fields = {
        name: array if name in ("stiffness", "damping") else array[rows]
        for name, array in log.fields.items()
    }
    times = log.time_s[rows] if time_s is None else time_s
    return replace(log, time_s=times, joint_pos=log.joint_pos[rows], fields=fields)


def rate(log: Log, rng: np.random.Generator) -> Planted:
    """Recorded at 48 to 49.7 Hz although 50 were stated."""
    return edited(log, time_s=log.time_s * 50.0 / rng.uniform(48.0, 49.7)), ()


def gaps(log: Log, rng: np.random.Generator) -> Planted:
    """Two to ten rows lost in a row."""
    row, lost = _row(log, rng), int(rng.integers(2, 11))
    return _keep(log, np.delete(np.arange(len(log.time_s)), slice(row, row + lost))), ()


def duplicated_rows(log: Log, rng: np.random.Generator) -> Planted:
    """Every fiftieth packet logged twice: in place of the next, or between two."""
    rows = np.sort(rng.choice(np.arange(1, len(log.time_s)), len(log.time_s) // 50, replace=False))
    rows = rows[log.fields["episode"][rows] == log.fields["episode"][rows - 1]]
    if rng.random() < 0.5:
        arrays = {name: _channel(log, name) for name in _MEASURED if _has(log, name)}
        for array in arrays.values():
            array[rows] = array[rows - 1]
        return edited(log, **arrays), ()
    order = np.sort(np.concatenate([np.arange(len(log.time_s)), rows]))
    times = log.time_s[order]
    times[np.flatnonzero(np.diff(order) == 0) + 1] += 0.008
    return _keep(log, order, times), ()


def _has(log: Log, name: str) -> bool:
    return name == "joint_pos" or name in log.fields


def clock_steps(log: Log, rng: np.random.Generator) -> Planted:
    """The clock leaps by 0.1 to 2 s, or runs wide by 4 to 20 % for 1.5 s."""
    row, steps = _row(log, rng), np.diff(log.time_s)
    if rng.random() < 0.5:
        steps[row] += rng.uniform(0.1, 2.0)
    else:
        steps[row - 38 : row + 38] *= 1.0 + rng.choice([-1.0, 1.0]) * rng.uniform(0.06, 0.2)
    return edited(log, time_s=np.concatenate([[0.0], np.cumsum(steps)])), ()


def ragged_ends(log: Log, rng: np.random.Generator) -> Planted:
    """Zeros at the beginning, or the last packet repeated at the end."""
    count, arrays = int(rng.integers(6, 30)), {}
    for name in _MEASURED:
        if _has(log, name):
            arrays[name] = _channel(log, name)
    zeros = rng.random() < 0.5
    for name, array in arrays.items():
        if zeros and "quat" not in name:
            array[:count] = 0.0
        elif zeros:
            array[:count] = [1.0, 0.0, 0.0, 0.0]
        else:
            array[-count:] = array[-count - 1]
    return edited(log, **arrays), ()


def frame_offset(log: Log, rng: np.random.Generator) -> Planted:
    """Targets recorded a row late or early; their actions with them, or not, or not there."""
    shift, how = int(rng.choice([-1, 1])), int(rng.integers(3))
    arrays = {"joint_pos_target": _shifted(log, "joint_pos_target", shift)}
    if how == 1:
        arrays["action"] = _shifted(log, "action", shift)
    if how == 2:
        arrays["action"] = None
    return edited(log, **arrays), ()


def _shifted(log: Log, name: str, rows: int) -> np.ndarray:
    array = log.fields[name].copy()
    for episode in range(EPISODES):
        mine = log.fields["episode"] == episode
        part = array[mine]
        array[mine] = np.roll(part, rows, axis=0)
        array[np.flatnonzero(mine)[0 if rows > 0 else -1]] = part[0 if rows > 0 else -1]
    return array


_GROUPS = (("joint_pos_target",), ("joint_pos_target", "action"), ("joint_pos", "joint_vel"),
           ("joint_pos",), ("joint_vel",))  # fmt: skip


def swapped_joints(log: Log, rng: np.random.Generator) -> Planted:
    """Two joints exchanged, in targets, measurements or one of these."""
    channels = _GROUPS[int(rng.integers(len(_GROUPS)))]
    while True:
        a, b = rng.choice(len(log.joint_names), 2, replace=False)
        # Joints that do the same cannot be told apart, and need not be.
        watched = "joint_vel" if channels == ("joint_vel",) else "joint_pos_target"
        apart = np.std(log.fields["joint_vel"][:, a] - log.fields["joint_vel"][:, b])
        level = np.sqrt(np.mean((_channel(log, watched)[:, a] - _channel(log, watched)[:, b]) ** 2))
        if (apart > 0.1) if watched == "joint_vel" else (level > 0.03):
            break
    arrays = {}
    for name in channels:
        arrays[name] = _channel(log, name)
        arrays[name][:, [a, b]] = arrays[name][:, [b, a]]
    return edited(log, **arrays), (log.joint_names[a], log.joint_names[b])


def flipped_joint(log: Log, rng: np.random.Generator) -> Planted:
    """One joint with its sign turned."""
    channels = _GROUPS[int(rng.integers(len(_GROUPS)))]
    while True:
        a = int(rng.integers(len(log.joint_names)))
        size = np.sqrt(np.mean(log.fields["joint_pos_target"][:, a] ** 2))
        if log.fields["joint_vel"][:, a].std() > 0.1 if channels == ("joint_vel",) else size > 0.03:
            break
    arrays = {}
    for name in channels:
        arrays[name] = _channel(log, name)
        arrays[name][:, a] *= -1.0
    return edited(log, **arrays), (log.joint_names[a],)


def quaternion_order(log: Log, rng: np.random.Generator) -> Planted:
    """Attitudes as xyzw, or the inverse ones."""
    names = [n for n in ("imu_quat_wxyz", "base_quat_wxyz") if n in log.fields]
    name = str(rng.choice(names))
    quat = log.fields[name]
    wrong = rotation.xyzw_from_wxyz(quat) if rng.random() < 0.7 else rotation.conjugate(quat)
    return edited(log, **{name: wrong}), ()


def stuck(log: Log, rng: np.random.Generator) -> Planted:
    """An encoder, a joint's speed or a gyro axis stands still for 0.5 to 2 s."""
    name = str(rng.choice(["joint_pos", "joint_vel", "imu_ang_vel_b"]))
    array, row = _channel(log, name), _row(log, rng)
    column = int(rng.integers(3)) if name == "imu_ang_vel_b" else _moving(log, rng)
    array[row : row + int(rng.integers(25, 100)), column] = array[row, column]
    return edited(log, **{name: array}), _named(log, name, column)


def _named(log: Log, name: str, column: int) -> tuple[str, ...]:
    return () if name.startswith("imu") else (log.joint_names[column],)


def saturated(log: Log, rng: np.random.Generator) -> Planted:
    """A sensor cut off at 60 to 90 % of its range."""
    name = str(rng.choice(["joint_pos", "joint_vel", "imu_ang_vel_b"]))
    array = _channel(log, name)
    column = int(rng.integers(3)) if name == "imu_ang_vel_b" else _moving(log, rng, least=0.1)
    low, high = np.percentile(array[:, column], [0.0, rng.uniform(85.0, 97.0)])
    array[:, column] = np.clip(array[:, column], low, high)
    return edited(log, **{name: array}), _named(log, name, column)


def quantised(log: Log, rng: np.random.Generator) -> Planted:
    """A joint's position or speed in coarse steps."""
    name = str(rng.choice(["joint_pos", "joint_vel"]))
    array, column = _channel(log, name), _moving(log, rng)
    step = rng.uniform(0.006, 0.02) if name == "joint_pos" else rng.uniform(0.15, 0.5)
    array[:, column] = step * np.round(array[:, column] / step)
    return edited(log, **{name: array}), _named(log, name, column)


def target_copy(log: Log, rng: np.random.Generator) -> Planted:
    """The measured positions in place of the targets, of the same row or one beside."""
    target = np.roll(log.joint_pos, int(rng.integers(-1, 2)), axis=0)
    return edited(log, joint_pos_target=target), ()


def yaw_drift(log: Log, rng: np.random.Generator) -> Planted:
    """The heading of the IMU leaves that of the motion capture."""
    angle = np.radians(rng.uniform(8.0, 40.0)) * rng.choice([-1.0, 1.0])
    episode = log.fields["episode"]
    if rng.random() < 0.5:
        turn = angle * (episode >= rng.integers(1, EPISODES))
    else:
        turn = angle * np.linspace(0.0, EPISODES, len(episode))
    quat = rotation.multiply(rotation.from_yaw(turn), log.fields["imu_quat_wxyz"])
    return edited(log, imu_quat_wxyz=quat), ()


def base_origin(log: Log, rng: np.random.Generator) -> Planted:
    """Markers 40 to 90 mm above or below the base's origin, in one episode or in all."""
    offset = np.array([0.0, 0.0, rng.choice([-1.0, 1.0]) * rng.uniform(0.03, 0.09)])
    offset[:2] = rng.uniform(-0.03, 0.03, 2)
    moved = rotation.rotate(log.fields["base_quat_wxyz"], np.tile(offset, (len(log.time_s), 1)))
    some = (log.fields["episode"] == rng.integers(EPISODES)) | (rng.random() < 0.5)
    return edited(log, base_pos_w=log.fields["base_pos_w"] + some[:, None] * moved), ()


def standing_still(log: Log, rng: np.random.Generator) -> Planted:
    """Three to eight seconds of standing at the end, with the noise of sensors."""
    count = int(rng.integers(150, 400))
    rows = np.concatenate([np.arange(len(log.time_s)), np.full(count, len(log.time_s) - 1)])
    times = np.concatenate([log.time_s, log.time_s[-1] + 0.02 * np.arange(1, count + 1)])
    still = _keep(log, rows, times)
    pos, vel = still.joint_pos.copy(), still.fields["joint_vel"].copy()
    pos[-count:] += rng.normal(0.0, NOISE["joint_pos"], pos[-count:].shape)
    vel[-count:] = rng.normal(0.0, NOISE["joint_vel"], vel[-count:].shape)
    spin = still.fields["imu_ang_vel_b"].copy()
    spin[-count:] = rng.normal(0.0, NOISE["ang_vel"], spin[-count:].shape)
    return edited(still, joint_pos=pos, joint_vel=vel, imu_ang_vel_b=spin), ()


def fallen(log: Log, rng: np.random.Generator) -> Planted:
    """The robot topples over in the last second and lies."""
    count = int(rng.integers(40, 90))
    angle = np.zeros(len(log.time_s))
    angle[-count:] = np.minimum(np.arange(count) * 0.08, np.pi / 2.0) * rng.choice([-1.0, 1.0])
    axis = np.eye(3)[int(rng.integers(2))]
    turn = rotation.from_axis_angle(np.tile(axis, (len(angle), 1)), angle)
    names = [n for n in ("imu_quat_wxyz", "base_quat_wxyz") if n in log.fields]
    return edited(log, **{n: rotation.multiply(log.fields[n], turn) for n in names}), ()


def gain_change(log: Log, rng: np.random.Generator) -> Planted:
    """Recorded stiffness that changes; what was not recorded is made by ``record_logs``."""
    stiffness = np.tile(log.fields["stiffness"], (len(log.time_s), 1))
    stiffness[_row(log, rng) :] *= rng.uniform(0.5, 0.9)
    return edited(log, stiffness=stiffness), ()


def action_convention(log: Log, rng: np.random.Generator) -> Planted:
    """Targets missing, or actions in their place, raw or scaled."""
    robot = Robot.load("g1")
    target, default = log.fields["joint_pos_target"], robot.default_joint_pos
    scaled = target - default
    given = {"absolute": target, "scaled": scaled, "raw": scaled / robot.action_scale}
    if rng.random() < 0.5:
        wrong = given[str(rng.choice(["scaled", "raw"]))]
        return edited(log, joint_pos_target=wrong, action=None), ()
    return edited(log, joint_pos_target=None, action=given[str(rng.choice(list(given)))]), ()


PLANTS: dict[str, Callable[[Log, np.random.Generator], Planted]] = {
    plant.__name__: plant
    for plant in (
        rate, gaps, duplicated_rows, clock_steps, ragged_ends, frame_offset, swapped_joints,
        flipped_joint, quaternion_order, stuck, saturated, quantised, target_copy, yaw_drift,
        base_origin, standing_still, fallen, gain_change, action_convention,
    )
}  # fmt: skip
"""By the name of the finding that must name the defect."""
