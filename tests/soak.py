"""Half an hour of a robot that stands, in real time: does memory grow, is anything lost or late?

python tests/soak.py 1800            # seconds; a squat, then `stand`, then quit
python tests/soak.py 1800 unitree    # over DDS, where it is installed; in a network of its own:
unshare -rn sh -c 'ip link set lo up; python tests/soak.py 1800 unitree'
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from twin_process import SQUAT, TwinProcess

EVERY_S = 120.0


def used(pid: int) -> tuple[float, float]:
    """CPU time of a process [s], and its memory [MB]."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    ticks = int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK"), int(fields[21]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def children(parent: int) -> dict[str, int]:
    """Supervisor and recorder of a run."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and folder.name != str(parent):
            try:
                fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
                words = (folder / "cmdline").read_text()
            except OSError:
                continue
            if int(fields[1]) == parent:
                name = "supervisor" if "asap_deploy.supervisor" in words else "recorder"
                found[name] = int(folder.name)
    return found


def soak(seconds: float, folder: Path, link: str = "twin") -> dict:
    """Run; what was used, by time and process, and what the run and the robot said."""
    out, file = folder / "soak.mcap", folder / "soak.json"
    rows = []
    with TwinProcess(folder, link) as twin:
        words = [sys.executable, "-m", "asap_deploy.cli", "run", str(SQUAT), "--link", link,
                 "--address", twin.address, "--self-test-s", "0.3", "--out", str(out), "--json",
                 str(file), "--script",
                 f"arm@0.1 stand@damp go@ready quit@{seconds} quit@damp"]  # fmt: skip
        run = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        time.sleep(10.0)  # all is loaded, the clip is over
        pids = {"policy": run.pid, "twin": twin.process.pid, **children(run.pid)}
        start_s, first = time.monotonic(), {name: used(pid)[0] for name, pid in pids.items()}
        while time.monotonic() - start_s < seconds - 15.0 and run.poll() is None:
            time.sleep(min(EVERY_S, 0.25 * seconds))
            took_s = time.monotonic() - start_s
            try:
                now = {name: used(pid) for name, pid in pids.items()}
            except OSError:
                break
            height_m = round(twin.report()["height_m"], 3)
            rows.append({"time_s": round(took_s), "height_m": height_m} | {
                name: {"cpu_percent": round(100.0 * (cpu - first[name]) / took_s, 1),
                       "memory_mb": round(memory, 1)}
                for name, (cpu, memory) in now.items()
            })  # fmt: skip
            print(json.dumps(rows[-1]), flush=True)
        text, _ = run.communicate(timeout=120.0)
        heard = twin.report()
    print("\n".join(line for line in text.splitlines() if not line.startswith("  from")))
    facts = json.loads(file.read_text())
    print(json.dumps(heard["counts"]), f"{out.stat().st_size / 1e6:.0f} MB recorded")
    return {"rows": rows, "status": run.returncode, "counts": heard["counts"],
            "recording": facts["recording"],
            "overruns": facts["overruns"]}  # fmt: skip


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        sys.exit(soak(float(sys.argv[1]), Path(place), *sys.argv[2:])["status"])
