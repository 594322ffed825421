"""The process that writes recordings. Nobody ever waits for it.

It reads the rings that supervisor and policy fill, hands a chunk to the disk every few
hundredths of a second, and writes the last ten seconds to a file of their own when the supervisor
reports a fault. A full or slow disk costs rows, never a command.

As a process: ``main`` with one argument, JSON text; started by ``Recorder``.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, BinaryIO, Dict, List, Optional, Sequence

from asap_deploy.errors import InputError
from asap_deploy.handover import EVENT, Handover, event_bytes, own_program
from asap_deploy.recording import PART, RecordingFile
from asap_deploy.shared import Ring

POLL_S = 0.01
CHUNK_BYTES = 16 << 10
"""A chunk is about 12 ms of a robot."""
_FSYNC_S = 1.0
_LINGER_S = 0.05
_AFTER_FAULT_S = 0.5


class RecorderLoop:
    """Drains the rings into a file."""

    def __init__(self, memory: Handover, path: Path, facts: Dict[str, Any]) -> None:
        """Open the file.

        Raises:
            OSError: If it cannot be made.
        """
        self.memory, self.path, self.facts = memory, path, facts
        self.problems: List[str] = []
        self.missed = self.rows = 0
        self._rings = (memory.robot_ring, memory.policy_ring)
        self._read = [0, 0]
        self._fault_s: Optional[float] = None
        self._clock_s = self._fsync_s = 0.0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._part = path.with_name(path.name + PART)
        self._stream: Optional[BinaryIO] = open(self._part, "xb", buffering=0)  # noqa: SIM115
        self._file = RecordingFile(self._stream, facts)
        self._file.writer.flush()

    def run(self, supervisor_fd: int) -> None:
        """Until the supervisor is gone, however it went."""
        while True:
            gone = bool(select.select([supervisor_fd], [], [], POLL_S)[0])
            if gone:
                time.sleep(_LINGER_S)  # what the policy still says
            self.drain()
            if gone:
                break
        self.close()

    def drain(self) -> None:
        """Everything that is new."""
        now = time.monotonic()
        for place, ring in enumerate(self._rings):
            entries, self._read[place], missed = ring.after(self._read[place])
            self.missed += missed
            for entry in entries:
                if entry.kind == EVENT and self._fault_s is None and b'"fault"' in entry.data[:40]:
                    self._fault_s = now
                self._add(entry.kind, entry.data)
        if now - self._clock_s >= 1.0:
            self._clock_s = now
            self._add(EVENT, event_bytes("clock", time.monotonic(), realtime_ns=time.time_ns(),
                                         missed=self.missed))  # fmt: skip
        self._hand_on(now)
        if self._fault_s is not None and now - self._fault_s > _AFTER_FAULT_S:
            self._fault_s = float("inf")
            self.dump()

    def close(self) -> None:
        """Finish the file and give it its name."""
        if self._fault_s is not None and self._fault_s != float("inf"):
            self.dump()
        if self._stream is None:
            return
        try:
            self._file.writer.finish()
            os.fsync(self._stream.fileno())
            self._stream.close()
            os.replace(self._part, self.path)
        except OSError as error:
            self._give_up(error)

    def dump(self) -> Optional[Path]:
        """The last ten seconds, from memory: beside the recording, or where there is room."""
        for folder in (self.path.parent, Path(tempfile.gettempdir())):
            target = folder / f"{self.path.stem}.fault{self.path.suffix}"
            try:
                with open(target, "wb", buffering=0) as stream:
                    file = RecordingFile(stream, {**self.facts, "dump": True})
                    for ring in self._rings:
                        _copy(ring, file)
                    file.writer.finish()
                    os.fsync(stream.fileno())
                return target
            except OSError as error:
                self.problems.append(f"no dump at {target}: {error.strerror}")
        return None

    def _add(self, kind: int, data: bytes) -> None:
        if self._stream is None:
            return
        self._file.add(kind, data)
        self.rows += 1
        if self._file.writer.pending >= CHUNK_BYTES:
            self._flush()

    def _flush(self) -> None:
        try:
            self._file.writer.flush()
        except OSError as error:
            self._give_up(error)

    def _hand_on(self, now_s: float) -> None:
        """What is pending goes to the system at every drain; to the disk once a second."""
        if self._stream is None:
            return
        self._flush()
        if self._stream is not None and now_s - self._fsync_s > _FSYNC_S:
            self._fsync_s = now_s
            with contextlib.suppress(OSError):
                os.fsync(self._stream.fileno())

    def _give_up(self, error: OSError) -> None:
        """A disk that takes no more ends the recording; the memory keeps the last seconds."""
        text = f"the recording ended early: {error.strerror} ({self._part})"
        self.problems.append(text)
        # Not from here: a terminal may block for as long as it likes.
        threading.Thread(target=_tell, args=(text,), daemon=True).start()
        with contextlib.suppress(OSError):
            if self._stream is not None:
                self._stream.close()
        self._stream = None


def _tell(text: str) -> None:
    """The operator learns at once that what follows is not kept."""
    print(f"asap-deploy: {text}; the run goes on", file=sys.stderr, flush=True)


def _copy(ring: Ring, file: RecordingFile) -> None:
    entries, _, _ = ring.after(0)
    for entry in entries:
        file.add(entry.kind, entry.data)
        if file.writer.pending > 1 << 16:
            file.writer.flush()


class Recorder:
    """A running recorder process."""

    def __init__(self, process: subprocess.Popen[bytes], path: Path) -> None:
        """Made by ``start``."""
        self.process, self.path = process, path

    @classmethod
    def start(cls, memory: Handover, supervisor_fd: int, path: Path,
              facts: Dict[str, Any]) -> Recorder:  # fmt: skip
        """Start the process.

        Args:
            memory: Whose rings are written down.
            supervisor_fd: Read end of a pipe that ends when the supervisor does.
            path: File to come.
            facts: About the run.

        Raises:
            InputError: If the file, or what would become of it, is there already.
        """
        for taken in (path, path.with_name(path.name + PART)):
            if taken.exists():
                raise InputError("a recording is never overwritten; choose another name",
                                 file=taken)  # fmt: skip
        config = {"memory_fd": memory.memory.fd, "memory_size": memory.memory.size,
                  "joints": memory.joints, "supervisor_fd": supervisor_fd, "path": str(path),
                  "facts": facts}  # fmt: skip
        process = subprocess.Popen(
            own_program("asap_deploy.recorder", json.dumps(config, default=str)),
            pass_fds=(memory.memory.fd, supervisor_fd),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip
        return cls(process, path)

    def finish(self, wait_s: float = 10.0) -> Dict[str, Any]:
        """Wait for it; call after the supervisor has ended.

        Returns:
            ``rows``, ``missed`` and ``problems``.
        """
        try:
            out, _ = self.process.communicate(timeout=wait_s)
            return dict(json.loads(out.decode() or "{}"))
        except (subprocess.TimeoutExpired, ValueError):
            self.process.kill()
            self.process.wait()
            return {"problems": ["the recorder did not end; `asap-deploy recover` reads the rest"]}


def main(arguments: Sequence[str]) -> int:
    """The process; its one argument is JSON text."""
    config = json.loads(arguments[0])
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # it ends with the supervisor
    with contextlib.suppress(OSError):
        os.nice(5)
    memory = Handover.attach(config["memory_fd"], config["memory_size"], config["joints"])
    try:
        loop = RecorderLoop(memory, Path(config["path"]), config["facts"])
    except OSError as error:
        print(json.dumps({"rows": 0, "missed": 0, "problems": [f"no recording: {error}"]}))
        return 1
    loop.run(config["supervisor_fd"])
    print(json.dumps({"rows": loop.rows, "missed": loop.missed, "problems": loop.problems}))
    return 1 if loop.problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
