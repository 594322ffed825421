"""The command that plays a robot: ``asap twin``."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from asap.cli_common import DONE, Common, Outcome, Progress
from asap.inputs import open_motion
from asap.robot import Robot
from asap.twin_dds import DdsTwin
from asap.twin_faults import FAULTS
from asap.twin_robot import StrictConfig, StrictRobot
from asap.twin_server import TwinServer
from asap_deploy.errors import InputError
from asap_deploy.twin_wire import DEFAULT_ADDRESS
from asap_deploy.unitree_dds import LOOPBACK


@dataclass(frozen=True, kw_only=True)
class Twin(Common):
    """Play a robot, for `asap-deploy run` to talk to; Ctrl-C ends it.

    It is strict: it drops commands with a wrong checksum, mode, machine number or outside its
    limits, and damps itself when commands stop. It hangs until a policy takes over.
    """

    robot: str = "g1"
    """Robot or twin (g1@worn)."""
    motion: Path | None = None
    """Clip in whose first frame it hangs; its default pose by default."""
    link: Literal["twin", "dds"] = "twin"
    """dds: the real robot's protocol, for `asap-deploy run --link unitree --address lo`."""
    address: str = ""
    """host:port to listen at; with --link dds: lo, or lo:7 for another DDS domain than 1."""
    gantry: bool = True
    """Hang until targets that have stood still begin to move."""
    mode_machine: int | None = None
    """Number of the machine that it plays."""
    fault: tuple[str, ...] = ()
    """Faults as NAME, NAME=VALUE or NAME=VALUE@SECONDS; --list-faults shows them."""
    list_faults: bool = False
    """Show all faults and end."""
    seconds: float | None = None
    """End after this time [s]."""
    truth: Path | None = None
    """At the end, write where the robot truly was (.npz)."""

    def run(self, progress: Progress) -> Outcome:
        """Play."""
        if self.list_faults:
            lines = [f"{name:18} {text}; {size:g} if no value is given"
                     for name, (text, size) in FAULTS.items()]  # fmt: skip
            return Outcome(result={"faults": list(FAULTS)}, shown=lines)
        robot = Robot.load(self.robot)
        if not robot.has_free_base:
            raise InputError(f"robot '{self.robot}' is bolted down: it needs no policy to stand")
        config = StrictConfig(gantry=self.gantry, mode_machine=self.mode_machine, seed=self.seed,
                              keep_truth=self.truth is not None)  # fmt: skip
        strict = StrictRobot(robot, config)
        if self.motion is not None:
            first = open_motion(self.motion, robot, ground=True).motion
            pose = np.concatenate([first.body_pos_w[0, 0], first.body_quat_wxyz[0, 0]])
            strict.place(robot.qpos(pose[:3], pose[3:], first.joint_pos[0]))
        server: TwinServer | DdsTwin
        if self.link == "dds":
            server = DdsTwin(strict, self.address or LOOPBACK, self.fault, seed=self.seed)
        else:
            address = self.address or DEFAULT_ADDRESS
            server = TwinServer(strict, address, self.fault, seed=self.seed)
        self._serve(server, progress)
        if self.truth is not None:
            server.save_truth(self.truth)
        report = strict.report()
        counts = ", ".join(f"{name} {count}" for name, count in strict.counts.items()) or "none"
        return Outcome(result={"address": server.address, **report},
                       shown=[f"commands: {counts}"], status=DONE)  # fmt: skip

    def _serve(self, server: TwinServer | DdsTwin, progress: Progress) -> None:
        """Until the time is over or somebody says so."""
        told: list[int] = []
        before = {number: signal.signal(number, lambda *_: told.append(1))
                  for number in (signal.SIGINT, signal.SIGTERM)}  # fmt: skip
        end_s = np.inf if self.seconds is None else time.monotonic() + self.seconds
        try:
            server.run(until=lambda: bool(told) or time.monotonic() >= end_s)
        finally:
            server.close()
            for number, handler in before.items():
                signal.signal(number, handler)
