"""Checks before anything may move: policy against robot, sensors, who else is there, this machine.

checks = look_at_robot(link, limits, seconds=1.0) + [time_itself(player, limits, seconds=2.0)]
if failed(checks): ...                           # refuse to arm
"""

from __future__ import annotations

import platform
import shutil
import time
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from asap_deploy.contract import PolicyContract
from asap_deploy.errors import InputError
from asap_deploy.guards import STATE_GUARDS, StateWatch
from asap_deploy.link import Link, RobotFacts, RobotState
from asap_deploy.observation import LAYOUTS
from asap_deploy.realtime import LOOP_PRIORITY, FixedRate, Histogram, at_priority
from asap_deploy.safety import SafetyLimits
from asap_deploy.states import Player

OK, WARN, FAIL = "ok", "WARN", "FAIL"
BATTERY_PERCENT = 20.0
"""A run that begins with less may not end."""

GRAVITY = 9.81
SLOW_S = 1e-3
"""Inference or waking up later than this at the 99th percentile is worth a warning [s]."""

_DISK_BYTES = 1 << 30

G1_SIDES = {
    "hip_pitch": (-2.5307, 2.8798, 88.0, 32.0), "hip_roll": (-0.5236, 2.9671, 139.0, 20.0),
    "hip_yaw": (-2.7576, 2.7576, 88.0, 32.0), "knee": (-0.0873, 2.8798, 139.0, 20.0),
    "ankle_pitch": (-0.8727, 0.5236, 50.0, 37.0), "ankle_roll": (-0.2618, 0.2618, 50.0, 37.0),
    "shoulder_pitch": (-3.0892, 2.6704, 25.0, 37.0),
    "shoulder_roll": (-1.5882, 2.2515, 25.0, 37.0), "shoulder_yaw": (-2.618, 2.618, 25.0, 37.0),
    "elbow": (-1.0472, 2.0944, 25.0, 37.0), "wrist_roll": (-1.9722, 1.9722, 25.0, 37.0),
    "wrist_pitch": (-1.6144, 1.6144, 5.0, 22.0), "wrist_yaw": (-1.6144, 1.6144, 5.0, 22.0),
}  # fmt: skip
"""What a G1 of revision 1.0 can do, by itself and not by a policy's word: lower and upper position
[rad], torque [Nm], speed [rad/s], of the left side. A test compares it with the robot's model."""

G1_WAIST = {"waist_yaw": (-2.618, 2.618, 88.0, 32.0), "waist_roll": (-0.52, 0.52, 50.0, 37.0),
            "waist_pitch": (-0.52, 0.52, 50.0, 37.0)}  # fmt: skip
_ROUNDED = 1e-4

STIFFEST, MOST_DAMPED = 8.0, 0.5
"""Gains of a joint per newton metre of its torque [1/rad, s/rad]: published policies for a G1 have
up to 4.5 and 0.2. With more, an eighth of a radian, or noise of a speed, takes all the torque."""


SLOWEST_S = 0.05
"""Longest control step for a G1: three go by before a policy that hangs is noticed [s]."""


class Check(NamedTuple):
    """One thing that was looked at."""

    verdict: str
    name: str
    text: str


def failed(checks: Sequence[Check]) -> bool:
    """Whether one of them forbids to arm."""
    return any(check.verdict == FAIL for check in checks)


def look_at_policies(players: Sequence[Player], worst: Sequence[float]) -> List[Check]:
    """What the policies need and how well their golden vectors were reproduced.

    Args:
        players: All policies of the run.
        worst: Largest difference of an action to the recorded one, for each.
    """
    import onnxruntime

    checks = [Check(OK, "machine", f"Python {platform.python_version()}, numpy {np.__version__}, "
                                   f"onnxruntime {onnxruntime.__version__}")]  # fmt: skip
    for player, difference in zip(players, worst):
        checks.append(Check(OK, "golden vectors", f"{player.name}: reproduced by onnxruntime and "
                                                  f"numpy, within {difference:.1g}"))  # fmt: skip
        if LAYOUTS[player.policy.contract.layout].needs_base_pos:
            text = f"{player.name}: needs the base position, which no robot measures by itself"
            checks.append(Check(FAIL, "observation", text))
    return checks


def look_at_contracts(contracts: Sequence[PolicyContract], facts: RobotFacts) -> List[Check]:
    """Whether what policies say about the robot's limits and gains can be true of this robot.

    All limits of the run come from contracts: one that promises more than the robot has would
    take a guard away without a word.

    Args:
        contracts: Of all policies of the run.
        facts: Of the robot.
    """
    known = _g1() if facts.robot == "g1" else {}
    checks = []
    for contract in contracts:
        odd = [text for name in contract.joint_names if name in known
               for text in _beyond(contract, name, known[name])]  # fmt: skip
        if known and contract.control_dt > SLOWEST_S:
            odd.append(f"control_dt is {contract.control_dt:g} s: a policy that hangs would be "
                       f"noticed after {3.0 * contract.control_dt:g} s")  # fmt: skip
        if facts.is_real and not contract.mode_machine:
            odd.append("it names no mode_machine: it would run on any machine")
        text = "; ".join(odd[:3]) + ("; ..." if len(odd) > 3 else "")
        checks.append(Check(FAIL if odd else OK, "limits and gains", text or contract.robot))
    if not known:
        text = f"what '{facts.robot}' can do is not known here: the policies' own word is taken"
        checks.append(Check(FAIL if facts.is_real else WARN, "limits and gains", text))
    return checks


def _g1() -> Dict[str, Tuple[float, ...]]:
    """Limits by joint; what turns about x or z is mirrored on the right side."""
    found: Dict[str, Tuple[float, ...]] = {f"{k}_joint": v for k, v in G1_WAIST.items()}
    for name, (lower, upper, torque, speed) in G1_SIDES.items():
        found[f"left_{name}_joint"] = (lower, upper, torque, speed)
        if name.endswith(("roll", "yaw")):
            lower, upper = -upper, -lower
        found[f"right_{name}_joint"] = (lower, upper, torque, speed)
    return found


def _beyond(contract: PolicyContract, name: str, can: Tuple[float, ...]) -> List[str]:
    """What a contract says of a joint and its robot cannot do."""
    joint, (lower, upper, torque, speed) = contract.joint_names.index(name), can
    said = {field: getattr(contract, field)[joint]
            for field in ("joint_pos_lower", "joint_pos_upper", "torque_limit", "joint_vel_limit",
                          "stiffness", "damping")}  # fmt: skip
    allowed = {
        "joint_pos_lower": (lower, upper), "joint_pos_upper": (lower, upper),
        "torque_limit": (0.0, torque), "joint_vel_limit": (0.0, speed),
        "stiffness": (0.0, STIFFEST * torque), "damping": (1e-3, MOST_DAMPED * torque),
    }  # fmt: skip
    return [f"{field} of {name} is {value:g}, this robot's is {allowed[field][0]:g} to "
            f"{allowed[field][1]:g}" for field, value in said.items()
            if not allowed[field][0] - _ROUNDED <= value <= allowed[field][1] + _ROUNDED
            ]  # fmt: skip


def look_at_robot(link: Link, limits: SafetyLimits, seconds: float = 1.0) -> List[Check]:
    """Listen for a while; nothing is written.

    Args:
        link: May be one that only reads.
        limits: Of the run.
        seconds: How long [s].
    """
    watch = StateWatch(limits)
    faults: Dict[str, str] = {}
    with at_priority(LOOP_PRIORITY):  # as the supervisor listens: a busy desk is no slow robot
        states = _listen(link, watch, faults, seconds)
    if len(states) < 2:
        return [Check(FAIL, "states", f"{len(states)} sound states in {seconds:g} s; "
                                      f"{watch.bad_checksums} with a wrong checksum")]  # fmt: skip
    checks = [
        Check(FAIL if name in faults else OK, name, faults.get(name, "")) for name in STATE_GUARDS
    ]
    return [*checks, *_stream(states, watch, link, seconds), *_senses(states, limits)]


def _listen(link: Link, watch: StateWatch, faults: Dict[str, str],
            seconds: float) -> List[RobotState]:  # fmt: skip
    """States that are believed; ``faults`` gets what any guard says of any of them."""
    states: List[RobotState] = []
    link.read_new()  # what waited until now is old, and would make the robot's clock run ahead
    start_s = time.monotonic()
    while time.monotonic() - start_s < seconds:
        link.wait(0.01)
        now_s = time.monotonic()
        for state in link.read_new():
            if watch.take([state], now_s):
                states.append(state)
                seen = watch.seen(now_s, link.stats(now_s))
                for name, guard in STATE_GUARDS.items():
                    text = guard(seen) if seen is not None else None
                    if text is not None:
                        faults.setdefault(name, text)
    return states


def _stream(states: Sequence[RobotState], watch: StateWatch, link: Link,
            seconds: float) -> List[Check]:  # fmt: skip
    """How states come in."""
    took_s = states[-1].arrival_s - states[0].arrival_s
    rate_hz, expected = (len(states) - 1) / max(took_s, 1e-9), link.facts.state_rate_hz
    text = f"{rate_hz:.0f} of {expected:.0f} states a second"
    verdict = OK if 0.9 * expected < rate_hz < 1.1 * expected else WARN
    checks = [Check(verdict if rate_hz > 0.5 * expected else FAIL, "state rate", text)]
    bad = watch.bad_checksums / (len(states) + watch.bad_checksums)
    verdict = OK if bad == 0.0 else FAIL if bad > 0.01 else WARN
    checks.append(Check(verdict, "checksums", f"{watch.bad_checksums} wrong"))
    stats = link.stats(time.monotonic())
    verdict = OK if stats.state_publishers == 1 else FAIL
    checks.append(Check(verdict, "one publisher", f"{stats.state_publishers} publish states"))
    return checks


def _senses(states: Sequence[RobotState], limits: SafetyLimits) -> List[Check]:
    """Whether a robot at rest measures what a robot at rest must."""
    acc = np.linalg.norm(np.mean([s.imu_lin_acc_b for s in states], axis=0))
    turn = np.linalg.norm(np.mean([s.imu_ang_vel_b for s in states], axis=0))
    last = states[-1]
    checks = [
        Check(OK if abs(acc - GRAVITY) < 1.5 else FAIL, "accelerometer",
              f"{acc:.2f} m/s^2 at rest"),
        Check(OK if turn < 0.3 else FAIL, "gyroscope", f"{turn:.2f} rad/s at rest"),
    ]  # fmt: skip
    if np.isnan(last.battery_percent):
        checks.append(Check(WARN, "charge", "the robot does not say; look at its display"))
    else:
        verdict = OK if last.battery_percent >= BATTERY_PERCENT else FAIL
        checks.append(Check(verdict, "charge", f"{last.battery_percent:.0f} %"))
    hot = float(last.motor_temperature.max()) if last.motor_temperature.size else 0.0
    checks.append(Check(OK if hot < limits.casing_limit - 15.0 else WARN, "motors",
                        f"the warmest has {hot:.0f} degrees"))  # fmt: skip
    text = "connected" if last.remote_connected else "not connected: no stop button"
    checks.append(Check(OK if last.remote_connected else FAIL, "remote", text))
    return checks


def time_itself(player: Player, limits: SafetyLimits, seconds: float = 2.0) -> List[Check]:
    """Run the policy at its rate on made-up measurements, and see how punctual this machine is.

    Paced, because a policy that runs once in 20 ms finds cold caches: a loop without pauses would
    show a sixth of the time. At the loop's priority, because that is what the loop will have.

    Args:
        player: The policy.
        limits: Of the run.
        seconds: How long [s].
    """
    joints = len(limits.joint_names)
    zero, three = np.zeros(joints), np.zeros(3)
    state = RobotState(
        0, 0.0, True, 0, player.start_joint_pos, zero, zero, np.array([1.0, 0.0, 0.0, 0.0]), three,
        three, np.zeros((joints, 2)), zero, float("nan"), True, 0, np.zeros(4),
    )  # fmt: skip
    wake, inference = Histogram("wake"), Histogram("inference")
    player.runtime.reset()
    with at_priority(LOOP_PRIORITY) as allowed:
        rate = FixedRate(limits.control_dt)
        for _ in range(max(3, round(seconds / limits.control_dt))):
            wake.add(rate.wait())
            player.step(state, 0.0)
            inference.add(player.inference_s)
    player.runtime.reset()
    text = "allowed" if allowed else "not allowed: latencies will be longer; see `ulimit -r`"
    checks = [Check(OK if allowed else WARN, "real-time priority", text)]
    for histogram in (wake, inference):
        p99 = histogram.quantile_s(0.99)
        verdict = FAIL if p99 > 0.5 * limits.control_dt else WARN if p99 > SLOW_S else OK
        checks.append(Check(verdict, f"timing: {histogram.name}", "\n".join(histogram.lines())))
    return checks


def look_at_disk(path: Optional[Path]) -> List[Check]:
    """Room for the recording."""
    if path is None:
        return [Check(WARN, "recording", "none: what goes wrong will not be known (--out FILE)")]
    folder = path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise InputError(f"cannot record here: {error.strerror}", file=path) from None
    minutes = free / (1.4e3 * 500.0 * 60.0)
    verdict = OK if free > _DISK_BYTES else WARN
    return [Check(verdict, "recording", f"room for about {minutes:.0f} minutes")]
