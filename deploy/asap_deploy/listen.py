"""Recording a robot without driving it: somebody else does, or nobody.

rows = listen(link, Path("idle.mcap"), facts, until=lambda: False)
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, Callable, Dict

from asap_deploy.frames import Frames
from asap_deploy.handover import STATE, Handover
from asap_deploy.link import Link
from asap_deploy.recorder import Recorder


def listen(link: Link, path: Path, facts: Dict[str, Any],
           until: Callable[[], bool]) -> Dict[str, Any]:  # fmt: skip
    """Write down every state.

    Args:
        link: One that only reads.
        path: Recording to come.
        facts: About it.
        until: Asked after every state.

    Returns:
        ``states``, and the recorder's ``rows``, ``missed`` and ``problems``.

    Raises:
        InputError: If the recording cannot be opened.
    """
    joints = link.facts.joint_names
    memory, frames = Handover.create(len(joints)), Frames(len(joints))
    read_fd, write_fd = os.pipe()
    facts = {**facts, "actions": 1, "joint_names": list(joints), "robot": link.facts.robot}
    states = 0
    try:
        recorder = Recorder.start(memory, read_fd, path, facts)
        try:
            while not until():
                link.wait(0.05)
                for state in link.read_new():
                    memory.robot_ring.push(STATE, frames.pack_state(state))
                    states += 1
        finally:
            time.sleep(0.02)
            os.close(write_fd)
            written = recorder.finish()
    finally:
        os.close(read_fd)
    return {"states": states, **written}
