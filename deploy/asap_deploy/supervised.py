"""The policy process's side of the supervisor: start it, post to it, hear from it.

supervisor = Supervisor.start(limits, LinkSpec("twin", "127.0.0.1:47400"))
supervisor.post(Post.move(target, stiffness, damping, now_s=now, control_dt=0.02))
supervisor.handover.state(); supervisor.fault()
supervisor.end()
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from typing import Any, Dict, List, Optional, Tuple

from asap_deploy import handover as requests
from asap_deploy.errors import InputError
from asap_deploy.handover import Handover, Post, own_program
from asap_deploy.link import LinkSpec
from asap_deploy.safety import SafetyLimits
from asap_deploy.supervisor import END_S, limits_to_json

START_S = 15.0
"""A supervisor that has heard no state after this is of no use [s]."""


class Supervisor:
    """A running supervisor process; this side cannot write to the robot."""

    def __init__(self, process: subprocess.Popen[bytes], handover: Handover, policy_fd: int,
                 alive_fd: int) -> None:  # fmt: skip
        """Made by ``start``."""
        self.process, self.handover = process, handover
        self._policy_fd = policy_fd
        self.alive_fd = alive_fd
        """Read end of a pipe that ends when the supervisor does."""

    @classmethod
    def start(cls, limits: SafetyLimits, link: LinkSpec, *, core: Optional[int] = None,
              wait_s: float = START_S) -> Supervisor:  # fmt: skip
        """Start the process and wait for the robot's first state.

        Args:
            limits: What the guards compare with.
            link: What to open.
            core: CPU to stay on.
            wait_s: Longest wait [s].

        Raises:
            InputError: If the link cannot be opened or the robot is silent.
        """
        memory = Handover.create(len(limits.joint_names))
        policy_read, policy_write = os.pipe()
        alive_read, alive_write = os.pipe()
        config = {"limits": limits_to_json(limits), "link": link.__dict__, "core": core,
                  "memory_fd": memory.memory.fd, "memory_size": memory.memory.size,
                  "policy_fd": policy_read}  # fmt: skip
        process = subprocess.Popen(
            own_program("asap_deploy.supervisor", json.dumps(config)),
            pass_fds=(memory.memory.fd, policy_read, alive_write),
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C or a hangup of the terminal is not for it
        )
        os.close(policy_read)
        os.close(alive_write)
        found = cls(process, memory, policy_write, alive_read)
        try:
            found._wait_for_robot(wait_s)
        except BaseException:
            found.end()
            raise
        return found

    def _wait_for_robot(self, wait_s: float) -> None:
        end = time.monotonic() + wait_s
        while self.handover.state() is None:
            failed = self.handover.status().get("failed")
            if failed or self.process.poll() is not None:
                raise InputError(str(failed or "the supervisor did not start"))
            if time.monotonic() > end:
                raise InputError(f"the robot sent no sound state within {wait_s:.0f} s")
            time.sleep(0.005)

    def post(self, post: Post) -> int:
        """Hand a request over."""
        return self.handover.post(post)

    def status(self) -> Dict[str, Any]:
        """What the supervisor last said about itself."""
        return self.handover.status()

    def fault(self) -> Optional[Tuple[str, str, float]]:
        """Guard, text and time of the fault; None while there is none."""
        return fault_of(self.status())

    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process.poll() is None

    def end(self, control_dt: float = 0.02) -> List[str]:
        """Have the last commands be damping, and the process leave.

        Returns:
            What went wrong, a line each.
        """
        problems = []
        if self.alive():
            now = time.monotonic()
            self.post(Post.of(requests.END, self.handover.joints, now, control_dt))
        try:
            self.process.wait(END_S + 3.0)
        except subprocess.TimeoutExpired:
            problems.append(f"the supervisor (process {self.process.pid}) does not end")
            self.process.terminate()
            try:
                self.process.wait(END_S + 1.0)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for fd in (self._policy_fd, self.alive_fd):
            if fd >= 0:
                os.close(fd)
        self._policy_fd = self.alive_fd = -1
        return problems


def fault_of(status: Dict[str, Any]) -> Optional[Tuple[str, str, float]]:
    """Guard, text and time of the fault in a status; None where there is none."""
    found = status.get("fault")
    return None if not found else (str(found[0]), str(found[1]), float(found[2]))
