"""Commands that measure: ``asap bench ...``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from asap.bench import bench_sim, integrator_study
from asap.cli_common import CHECK_FAILED, DONE, Common, Outcome, Progress, show, table
from asap.inputs import open_motion
from asap.published import compare_published
from asap.robot import Robot
from asap_deploy.errors import InputError


@dataclass(frozen=True, kw_only=True)
class BenchSim(Common):
    """Control steps per second through our simulation, beside a bare mujoco.batch loop."""

    robot: str = "g1"
    """Robot, variant or twin."""
    sizes: tuple[int, ...] = (64, 512, 2048)
    """Numbers of robots side by side."""
    threads: int = 0
    """Threads of the simulator; 0: all cores."""
    seconds: float = 4.0
    """Time for each size [s]."""

    def run(self, progress: Progress) -> Outcome:
        """Measure."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class BenchIntegrators(Common):
    """Open-loop error and speed of integrators and steps, against a 0.5 ms reference."""

    motion: tuple[Path, ...]
    """Clips whose joint positions are played as targets."""
    robot: str = "g1"
    """Robot, variant or twin."""
    threads: int = 0
    """Threads of the simulator; 0: all cores."""

    def run(self, progress: Progress) -> Outcome:
        """Measure."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class BenchPublished(Common):
    """The ten published trackers of ASAP in our simulator, beside the figures measured elsewhere.

    Exit status 1 if one falls or is farther than 15 % from its figure.
    """

    data: Path
    """Folder with `policies/*.onnx` and `motions/*.pkl` of the ASAP repository."""

    def run(self, progress: Progress) -> Outcome:
        """Evaluate as published and with grounded clips."""
        raise NotImplementedError
