"""A controller without training: iterated linear quadratic regulation of a clip.

First the clip's inverse dynamics say which PD targets carry its forces, and the robot follows them
while a wrench holds its base. Then the wrench is taken away: the linear model around the motion
tells how targets and feedback have to change so that the robot stays up without it, mostly by
moving the centre of mass ahead of time. What comes out is a motion that the simulation really
makes, and a feedback around it. It knows the whole state: a teacher, not a policy.

    robot = robot.for_training().with_(integrator="discrete", physics_dt=0.01)
    regulator = plan_regulator(robot, motion)
    sim.step(regulator.act(sim, frame))              # frame (N,): where in the clip robots are

Sources: Mayne 1966, differential dynamic programming; Tassa, Erez, Todorov 2012, the iterated LQR
through MuJoCo's contacts. That a disturbance known ahead moves the centre of mass before it comes
is the preview control of Kajita et al. 2003.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import mujoco
import numpy as np
from scipy.ndimage import gaussian_filter1d

from asap.inverse_dynamics import joint_torques
from asap.linearise import ControlSteps, LinearModel
from asap.metrics import TrackedPoints
from asap.robot import Robot
from asap.sim import CpuSimulation
from asap.tangent import position_difference, state_difference
from asap.tracking import Reference, start_states
from asap_deploy import rotation
from asap_deploy.errors import InputError
from asap_deploy.motion import Motion, MotionFrame

ITERATIONS = 6
"""Linearisations, each some 80 physics steps per control step and degree of freedom."""

SETTLED = 0.01
"""An iteration that improves the cost by a smaller share is the last."""

STEP_SIZES = (1.0, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05)
"""Shares of an iteration's change, tried side by side."""

WRENCH_COST = 0.01
"""Of a newton that still holds the base in a control step."""

TEST_ROBOTS = 32
TEST_NOISE = 0.5
"""Multiple of the original's start noise."""

FAIL_DISTANCE_M, FAIL_TILT = 0.5, 0.8
"""As an environment's episodes end."""

_SETTLING_STEPS = 25
_BOX_ROUNDS = 4
_LOST = 15.0
"""A state this far from the nominal one will not come back [m, rad, m/s, rad/s]."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Weights of squared errors, per control step."""

    com: float = 1000.0
    """of the centre of mass [1/m^2]"""
    com_vel: float = 50.0
    """[s^2/m^2]"""
    base_pos: float = 10.0
    """[1/m^2]"""
    base_turn: float = 100.0
    """[1/rad^2]"""
    joint_pos: float = 1.0
    """[1/rad^2]"""
    velocity: float = 0.01
    """of every coordinate [s^2/m^2], [s^2/rad^2]"""
    target: float = 20.0
    """of PD targets away from those of inverse dynamics [1/rad^2]"""
    last: float = 10.0
    """Multiple for the last state."""


@dataclass(frozen=True, kw_only=True)
class Regulator:
    """A nominal motion of T control steps, and feedback around it."""

    qpos: np.ndarray
    """(T, nq) nominal states, one a control step"""
    qvel: np.ndarray
    """(T, nv)"""
    joint_pos_target: np.ndarray
    """(T, J) [rad]"""
    gain: np.ndarray
    """(T, J, 2 nv): target = joint_pos_target - gain @ [position error, velocity error]"""
    joint_pos_limits: tuple[np.ndarray, np.ndarray]
    """(J,) within which targets stay, as on the robot [rad]"""
    reach_s: float
    """Mean time that noisy test rollouts from the first frame stayed with the clip [s]."""
    finished: float
    """Fraction of them that reached its end."""

    def __post_init__(self) -> None:
        """Make arrays read-only."""
        for name in ("qpos", "qvel", "joint_pos_target", "gain"):
            getattr(self, name).setflags(write=False)

    def act(self, sim: CpuSimulation, frame: np.ndarray) -> np.ndarray:
        """PD targets of robots as they are now.

        Args:
            sim: N robots; where they are in x and y counts, as in the clip.
            frame: (N,) control steps since the clip began; beyond the end, its last.

        Returns:
            (N, J) [rad]
        """
        rows = np.clip(frame, 0, len(self.qpos) - 1)
        state = sim.batch.bind("qpos"), sim.batch.bind("qvel")
        error = state_difference((self.qpos[rows], self.qvel[rows]), *state)
        change = np.einsum("nji,ni->nj", self.gain[rows], error)
        return np.asarray(np.clip(self.joint_pos_target[rows] - change, *self.joint_pos_limits))


class _Nominal(NamedTuple):
    """A motion of the simulation: T + 1 states, T targets and wrenches on the base."""

    qpos: np.ndarray
    qvel: np.ndarray
    target: np.ndarray
    wrench_w: np.ndarray


class _Policy(NamedTuple):
    """How targets change: by ``feed`` (T, J), and by ``gain`` (T, J, 2 nv) against errors."""

    gain: np.ndarray
    feed: np.ndarray


def plan_regulator(robot: Robot, motion: Motion, *, threads: int = 0) -> Regulator:
    """Plan a clip.

    Never fails on a clip: how far it came is in the result.

    Args:
        robot: As it is trained, with a free base.
        motion: The clip, on this robot.
        threads: Of the simulation; 0 for one per CPU. The result does not depend on it.

    Raises:
        InputError: If the robot is bolted down.
    """
    if not robot.has_free_base:
        raise InputError(f"robot '{robot.name}' is bolted down: a regulator balances a free base")
    planner = _Planner(robot, motion, Cost(), threads)
    nominal = planner.held()
    for _ in range(ITERATIONS):
        better = planner.improved(nominal)
        if better is None:
            break
        nominal = better
    return planner.finished(nominal)


class _Planner:
    """The clip, its cost and its simulation."""

    def __init__(self, robot: Robot, motion: Motion, cost: Cost, threads: int) -> None:
        self.robot, self.cost, self.threads = robot, cost, threads
        self.steps = ControlSteps(robot, threads=threads)
        self.length = max(1, round(motion.duration_s / robot.control_dt))
        times = np.arange(self.length + 1) * robot.control_dt
        self.points = TrackedPoints(robot)
        self.frames = frames = Reference(motion, robot, self.points).frame(times)
        base = frames.body_pos_w[:, 0], frames.body_quat_wxyz[:, 0]
        self.qpos = robot.qpos(*base, frames.joint_pos)
        self.speed = position_difference(self.qpos[:-1], self.qpos[1:]) / robot.control_dt
        """(T, nv) between frames"""
        middle = 0.5 * (self.speed[1:] + self.speed[:-1])
        rest = np.zeros((1, self.speed.shape[1]))
        self.qvel = np.concatenate([self.speed[:1], middle, rest])
        self.actions = robot.joint_ids(robot.action_joint_names)
        self.lower, self.upper = robot.joint_pos_lower, robot.joint_pos_upper
        self.target = self._carrying_targets(motion)
        self.quadratic = self._quadratic()

    def held(self) -> _Nominal:
        """Follow the clip with a base that a soft, implicit spring holds; settle first."""
        robot, dofs = self.robot, self.speed.shape[1]
        damping = np.repeat([400.0, 20.0], 3)  # Ns/m, Nms/rad
        rate = np.repeat([15.0, 30.0], 3)  # stiffness over damping [1/s]
        qpos, qvel, wrench = self.qpos[:1], np.zeros((1, dofs)), np.zeros(6)
        probes, places = np.vstack([np.zeros(6), np.eye(6)]), np.zeros(7, dtype=np.intp)
        states, wrenches = [], []
        for step in range(-_SETTLING_STEPS, self.length):
            now = max(step, 0)
            wanted = self.speed[now] if step >= 0 else np.zeros(dofs)
            behind = position_difference(qpos[0], self.qpos[now])
            target = self.target[[now]]
            # How the base's velocity answers to a wrench in its own axes.
            turn = rotation.to_matrix(qpos[0, 3:7])
            axes = np.block([[np.eye(3), np.zeros((3, 3))], [np.zeros((3, 3)), turn]])
            _, answer = self.steps.run(
                qpos[places], qvel[places], target[places], wrench + probes @ axes.T
            )
            answers = (answer[1:, :6] - answer[0, :6]).T
            # w = damping (wanted - velocity after the step with w): stable however stiff.
            free = answer[0, :6] - answers @ (axes.T @ wrench)
            pull = damping * (wanted[:6] + rate * behind[:6] - free)
            spring = np.linalg.solve(np.eye(6) + damping[:, None] * answers, pull)
            wrench = np.clip(axes @ spring, -2000.0, 2000.0)
            if step >= 0:
                states.append((qpos[0], qvel[0]))
                wrenches.append(wrench)
            qpos, qvel = self.steps.run(qpos, qvel, target, wrench[None])
        states.append((qpos[0], qvel[0]))
        positions, velocities = (np.array(part) for part in zip(*states, strict=True))
        del robot
        return _Nominal(positions, velocities, self.target.copy(), np.array(wrenches))

    def improved(self, nominal: _Nominal) -> _Nominal | None:
        """One iteration: linearise, solve, try step sizes; None if none of them is better."""
        policy = self.solved(self.linear(nominal), nominal)
        tried = self.rolled_out(nominal, policy, np.array(STEP_SIZES))
        before, after = self.merit(nominal), [self.merit(each) for each in tried]
        best = int(np.argmin(after))
        return tried[best] if after[best] < (1.0 - SETTLED) * before else None

    def finished(self, nominal: _Nominal) -> Regulator:
        """Feedback around the nominal motion without any wrench, and how far it carries."""
        free = nominal._replace(wrench_w=np.zeros_like(nominal.wrench_w))
        gain = self.solved(self.linear(free), free).gain
        made = Regulator(
            qpos=nominal.qpos[:-1], qvel=nominal.qvel[:-1], joint_pos_target=nominal.target,
            gain=gain, joint_pos_limits=(self.lower, self.upper), reach_s=0.0, finished=0.0,
        )  # fmt: skip
        steps, ended = self._test(made)
        return Regulator(
            qpos=made.qpos, qvel=made.qvel, joint_pos_target=made.joint_pos_target, gain=gain,
            joint_pos_limits=made.joint_pos_limits,
            reach_s=float(steps.mean()) * self.robot.control_dt, finished=float(ended.mean()),
        )  # fmt: skip

    def linear(self, nominal: _Nominal) -> LinearModel:
        """The linear model around a motion."""
        qpos, qvel, target, wrench_w = nominal
        return self.steps.linearise(qpos[:-1], qvel[:-1], target, wrench_w)

    def solved(self, model: LinearModel, nominal: _Nominal) -> _Policy:
        """The affine Riccati recursion: best feedback and feed-forward if the wrench were gone.

        With x the change of the state, u that of the targets, c = -d w what the wrench gave and
        e, r the errors of the nominal motion, it minimises over the linear model

            sum (e + x)' Q (e + x) + (r + u)' R (r + u),    x+ = a x + b u + c
        """
        length, weight, actions = self.length, self.cost.target, self.actions
        error = state_difference((self.qpos, self.qvel), nominal.qpos, nominal.qvel)
        excess = (nominal.target - self.target)[:, actions]
        room = (self.lower - nominal.target)[:, actions], (self.upper - nominal.target)[:, actions]
        quadratic = self.quadratic
        value, slope = quadratic[length], quadratic[length] @ error[length]
        joints = nominal.target.shape[1]
        policy = _Policy(np.zeros((length, joints, len(slope))), np.zeros((length, joints)))
        for k in reversed(range(length)):
            a, b = model.a[k], model.b[k][:, actions]
            ahead = slope - value @ (model.d[k] @ nominal.wrench_w[k])
            lever = value @ b
            curvature = weight * np.eye(len(actions)) + b.T @ lever
            gain, feed = _boxed(
                curvature, lever.T @ a, weight * excess[k] + b.T @ ahead, room[0][k], room[1][k]
            )
            closed = a - b @ gain
            # Joseph's form stays positive however large the gain is.
            value = quadratic[k] + weight * gain.T @ gain + closed.T @ value @ closed
            value = 0.5 * (value + value.T)
            slope = quadratic[k] @ error[k] - weight * gain.T @ (excess[k] + feed)
            slope += closed.T @ (ahead + lever @ feed)
            policy.gain[k][actions], policy.feed[k][actions] = gain, feed
        return policy

    def rolled_out(self, nominal: _Nominal, policy: _Policy, sizes: np.ndarray) -> list[_Nominal]:
        """Motions with shares (S,) of the change; one that is lost has infinite states."""
        count, share = len(sizes), sizes[:, None]
        qpos, qvel = (np.repeat(part[:1], count, axis=0) for part in nominal[:2])
        lost = np.zeros(count, dtype=bool)
        rows = []
        for k in range(self.length):
            error = state_difference((nominal.qpos[k], nominal.qvel[k]), qpos, qvel)
            lost |= ~(np.abs(error).max(axis=1) < _LOST)
            # What is lost rests in the nominal state, instead of flying apart.
            qpos = np.where(lost[:, None], nominal.qpos[k], qpos)
            qvel = np.where(lost[:, None], nominal.qvel[k], qvel)
            change = share * policy.feed[k] - error @ policy.gain[k].T
            target = nominal.target[k] + np.where(lost[:, None], 0.0, change)
            target = np.clip(target, self.lower, self.upper)
            wrench = (1.0 - share * ~lost[:, None]) * nominal.wrench_w[k]
            rows.append((qpos, qvel, target, wrench))
            qpos, qvel = self.steps.run(qpos, qvel, target, wrench)
        stacked = [np.stack(part, axis=1) for part in zip(*rows, strict=True)]
        stacked[0] = np.concatenate([stacked[0], qpos[:, None]], axis=1)
        stacked[1] = np.concatenate([stacked[1], qvel[:, None]], axis=1)
        stacked[1][lost] = np.inf
        return [_Nominal(*(part[row] for part in stacked)) for row in range(count)]

    def merit(self, nominal: _Nominal) -> float:
        """Cost of a motion, and of the forces that still hold it."""
        if not np.isfinite(nominal.qvel).all():
            return np.inf
        error = state_difference((self.qpos, self.qvel), nominal.qpos, nominal.qvel)
        states = np.einsum("ki,kij,kj->", error, self.quadratic, error, optimize=True)
        targets = self.cost.target * ((nominal.target - self.target) ** 2).sum()
        force = np.linalg.norm(nominal.wrench_w[:, :3], axis=1).sum()
        return float(0.5 * (states + targets) + WRENCH_COST * force)

    def _quadratic(self) -> np.ndarray:
        """Cost matrices (T + 1, 2 nv, 2 nv) of errors against the clip."""
        model, cost, dofs = self.steps.model, self.cost, self.speed.shape[1]
        data, com = mujoco.MjData(model), np.zeros((3, dofs))
        base = model.body(self.robot.base_name).id
        position = np.zeros(dofs)
        position[:3], position[3:6] = cost.base_pos, cost.base_turn
        position[self.robot.qvel_ids] = cost.joint_pos
        result = np.zeros((self.length + 1, 2 * dofs, 2 * dofs))
        for matrix, qpos in zip(result, self.qpos, strict=True):
            data.qpos[:] = qpos
            mujoco.mj_kinematics(model, data)
            mujoco.mj_comPos(model, data)
            mujoco.mj_jacSubtreeCom(model, data, com, base)
            matrix[:dofs, :dofs] = np.diag(position) + cost.com * com.T @ com
            matrix[dofs:, dofs:] = cost.velocity * np.eye(dofs) + cost.com_vel * com.T @ com
        result[-1] *= cost.last
        return result

    def _carrying_targets(self, motion: Motion) -> np.ndarray:
        """PD targets (T, J) at which the motors give what inverse dynamics ask for [rad]."""
        robot = self.robot
        torque = gaussian_filter1d(joint_torques(motion, robot), 1.0, axis=0, mode="nearest")
        torque = np.clip(torque, -robot.torque_limit, robot.torque_limit)
        between = (np.arange(self.length) + 0.5) * robot.control_dt
        times = np.arange(len(torque)) / motion.fps
        torque = np.stack([np.interp(between, times, column) for column in torque.T], axis=1)
        pose = 0.5 * (self.frames.joint_pos[1:] + self.frames.joint_pos[:-1])
        speed = self.speed[:, robot.qvel_ids]
        target = pose + (torque + robot.damping * speed) / np.maximum(robot.stiffness, 1e-6)
        others = np.setdiff1d(np.arange(target.shape[1]), self.actions)
        target[:, others] = robot.default_joint_pos[others]
        return np.clip(target, robot.joint_pos_lower, robot.joint_pos_upper)

    def _test(self, regulator: Regulator) -> tuple[np.ndarray, np.ndarray]:
        """Noisy rollouts from the first frame: steps that each lasted, and which finished."""
        robot, rng = self.robot, np.random.default_rng(0)
        first = MotionFrame(*(np.repeat(part[:1], TEST_ROBOTS, axis=0) for part in self.frames))
        start = start_states(first, robot, rng, noise=TEST_NOISE, at_rest=True)
        sim = CpuSimulation(robot, TEST_ROBOTS, threads=self.threads)
        sim.reset(np.arange(TEST_ROBOTS), *start)
        wanted = self.points.positions(self.frames.body_pos_w, self.frames.body_quat_wxyz)
        alive, lasted = np.ones(TEST_ROBOTS, dtype=bool), np.zeros(TEST_ROBOTS)
        for k in range(self.length):
            target = regulator.act(sim, np.full(TEST_ROBOTS, k))
            # A robot that fell is left in peace: feedback would throw it about.
            sim.step(np.where(alive[:, None], target, self.target[k]))
            places = self.points.positions(sim.body_pos_w, sim.body_quat_wxyz)
            far = np.linalg.norm(places - wanted[k + 1], axis=-1).max(axis=1) > FAIL_DISTANCE_M
            gravity = rotation.projected_gravity(sim.base_quat_wxyz)
            tilted = (np.abs(gravity[:, :2]) > FAIL_TILT).any(axis=1)
            alive &= ~(far | tilted | sim.failed)
            lasted += alive
        return lasted, alive


def _boxed(
    curvature: np.ndarray,
    slope_state: np.ndarray,
    slope: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Gain (A, 2 nv) and change (A,) of targets within their room; none where that is used up.

    Source: Tassa, Mansard, Todorov 2014, control-limited differential dynamic programming; the
    active set is found by clamping what leaves the box, until nothing does.
    """
    count = len(slope)
    feed, clamped = np.zeros(count), np.zeros(count, dtype=bool)
    gain = np.zeros(slope_state.shape)
    for _ in range(_BOX_ROUNDS):
        free = ~clamped
        inner = curvature[np.ix_(free, free)]
        right = slope[free] + curvature[np.ix_(free, clamped)] @ feed[clamped]
        solution = np.linalg.solve(inner, np.column_stack([slope_state[free], right]))
        gain[free], feed[free] = solution[:, :-1], -solution[:, -1]
        outside = free & ((feed < low) | (feed > high))
        if not outside.any():
            break
        clamped |= outside
        gain[clamped], feed[clamped] = 0.0, np.clip(feed, low, high)[clamped]
    return gain, np.clip(feed, low, high)
