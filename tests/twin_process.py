"""A simulated robot in a process of its own, and policies that are broken on purpose.

As a program: ``twin_process.py serve ADDRESS_FILE`` or ``twin_process.py policy KIND ADDRESS HOW``.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from asap_deploy.link import LinkSpec

ROOT = Path(__file__).resolve().parents[1]
SQUAT = ROOT / "policies" / "g1" / "squat.onnx"
SCRIPT = "arm@0.05 stand@damp go@ready quit@fault quit@damp"


class TwinProcess:
    """``with TwinProcess(folder) as twin: twin.control(faults=["nan"])``."""

    def __init__(self, folder: Path, kind: str = "twin", **options) -> None:
        self._file = Path(folder) / f"address-{time.monotonic_ns()}"
        self._kind, self._options = kind, options

    def __enter__(self) -> TwinProcess:
        from asap_deploy.link import LinkSpec

        words = [sys.executable, __file__, "serve", str(self._file), self._kind]
        words.append(json.dumps(self._options))
        self.process = subprocess.Popen(words)
        end = time.monotonic() + 30.0
        while not self._file.exists():
            assert self.process.poll() is None and time.monotonic() < end, "no twin"
            time.sleep(0.02)
        self.address, orders = self._file.read_text().split()
        self.spec = LinkSpec(self._kind, self.address)
        self._orders = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._orders.settimeout(3.0)
        self._orders.connect(("127.0.0.1", int(orders)))
        return self

    def __exit__(self, *error: object) -> None:
        self._orders.close()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(10.0)

    def control(self, **orders) -> dict:
        """Give orders to the robot: faults, hanging, forget; what it has heard."""
        self._orders.send(json.dumps(orders).encode())
        return json.loads(self._orders.recv(65536))

    def report(self) -> dict:
        """What the robot has heard."""
        return self.control()

    def damped_after(self, start_s: float, patience_s: float = 1.5) -> float:
        """Time from then until the first of nothing but damping frames [s]; inf if none came."""
        end = time.monotonic() + patience_s
        while time.monotonic() < end:
            found = self.report()
            damping_s = found["last_damped_s"] - found["first_damped_s"]
            if found["first_damped_s"] > start_s and damping_s > 0.1:
                return found["first_damped_s"] - start_s
            time.sleep(0.02)
        return float("inf")


def policy_process(spec: LinkSpec, how: str) -> tuple[subprocess.Popen, int]:
    """A run of ``squat``, broken as asked, and its supervisor; its lines say what happens."""
    words = [sys.executable, __file__, "policy", spec.kind, spec.address, how]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    return process, int(lines_until(process, "supervisor").split()[1])


def lines_until(process: subprocess.Popen, start: str) -> str:
    """The first line of a process that begins so."""
    assert process.stdout is not None
    heard = []
    for line in process.stdout:
        if line.startswith(start):
            return line.strip()
        heard.append(line[:300])
    raise AssertionError(f"the process ended without '{start}': {heard}")


def end_process(pid: int, patience_s: float = 3.0) -> bool:
    """Tell a process to end; True if it did."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        try:
            os.kill(pid, 0)
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except (ProcessLookupError, FileNotFoundError):
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False


def _serve(file: str, kind: str, options: str) -> None:
    from asap.robot import Robot
    from asap.twin_robot import StrictConfig, StrictRobot
    from asap.twin_server import TwinServer
    from asap_deploy.realtime import make_realtime

    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: told.append(1))
    strict = StrictRobot(Robot.load("g1"), StrictConfig(**json.loads(options)))
    # Where allowed: a real robot is not late because a desk is busy, nor are the threads with which
    # DDS receives, which inherit this.
    make_realtime(30)
    if kind == "unitree":
        from asap.twin_dds import DdsTwin

        server: Any = DdsTwin(strict, f"lo:{100 + os.getpid() % 100}")
    else:
        server = TwinServer(strict, "127.0.0.1:0")
    orders = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    orders.bind(("127.0.0.1", 0))
    orders.setblocking(False)
    temporary = Path(file + ".tmp")
    temporary.write_text(f"{server.address} {orders.getsockname()[1]}")
    temporary.rename(file)
    parent = os.getppid()

    def over() -> bool:
        with contextlib.suppress(BlockingIOError):
            data, sender = orders.recvfrom(65536)
            found = _ordered(server, json.loads(data), time.monotonic())
            orders.sendto(json.dumps(found).encode(), sender)
        return bool(told) or os.getppid() != parent

    server.run(until=over)
    server.close()


def _ordered(server: Any, orders: dict, now_s: float) -> dict:
    """Do what a test asks for; what the robot has heard."""
    for fault in orders.get("faults", ()):
        server.faults.add(fault, now_s)
    if "hanging" in orders:
        server.robot.hanging = server.robot.pinned = orders["hanging"]
    if orders.get("forget"):
        server.robot.counts.clear()
        getattr(server, "_commanders", {}).clear()
    return {**server.robot.report(), "time_s": now_s, "late": server.late}


class Broken:
    """A network that breaks after some steps of the clip."""

    def __init__(self, player, how: str, steps: int = 25) -> None:
        self._act, self.how, self.left = player.runtime._act, how, steps

    def __call__(self, observation: np.ndarray) -> np.ndarray:
        self.left -= 1
        action = self._act(observation)
        if self.left == 1 and self.how in ("kill", "stop", "interrupt"):
            print("running", flush=True)
        if self.left > 0 or self.how in ("none", "kill", "stop", "interrupt"):
            return action
        print(f"broke {time.monotonic():.6f}", flush=True)
        if self.how == "hang":
            time.sleep(3.0)
        elif self.how == "exception":
            raise RuntimeError("a sensor driver has died")
        elif self.how == "slow":
            time.sleep(0.03)
        return np.full_like(action, np.nan) if self.how == "nan_action" else action


def _policy(kind: str, address: str, how: str) -> None:
    from asap_deploy import keys, loop, states
    from asap_deploy.golden import load_policy
    from asap_deploy.keys import ScriptedKeys
    from asap_deploy.link import LinkSpec
    from asap_deploy.links import open_link
    from asap_deploy.safety import SafetyLimits
    from asap_deploy.states import Player

    states.STAND_S, keys.STEADY_S = 0.3, 0.1  # it hangs: no need to be gentle
    spec = LinkSpec(kind, address)
    link = open_link(LinkSpec(kind, address, read_only=True))
    names = link.facts.joint_names
    link.close()
    policy = load_policy(SQUAT)
    player = Player(policy, "squat", names)
    player.runtime._act = Broken(player, how)
    start = loop.Supervisor.start

    def told(*words, **options):
        found = start(*words, **options)
        print("supervisor", found.process.pid, flush=True)
        return found

    loop.Supervisor.start = told
    limits = SafetyLimits.of([policy.contract], names, [policy.clip])
    report = loop.run(loop.Session([player], limits, spec, [ScriptedKeys(SCRIPT)], seconds=30.0,
                         say=lambda line: print("said", line, flush=True)))  # fmt: skip
    print("report", json.dumps(report.facts), flush=True)
    sys.exit(report.status)


if __name__ == "__main__":
    {"serve": _serve, "policy": _policy}[sys.argv[1]](*sys.argv[2:])
