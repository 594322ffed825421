"""The published trackers of ASAP in our simulator: the first check that everything else rests on.

Robot model, motion import, observation vector and simulator must all be right for a policy that
was trained elsewhere to track its clip here. The reference figures were measured in plain MuJoCo
with the authors' 29-joint description; policies and clips are theirs and are not part of this
project.

    rows = compare_published(Path("ASAP/data"))
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from asap.evaluate import Case, EvaluateConfig, Progress, evaluate
from asap.inputs import open_motion, open_policy
from asap.metrics import Interval
from asap.robot import Robot
from asap_deploy.errors import InputError

ROBOT = "g1:asap"
TOLERANCE = 0.15


class Figures(NamedTuple):
    """Errors of one policy [mm]."""

    mpjpe_mm: float
    global_mpjpe_mm: float


EXPECTED: dict[str, Figures] = {
    "APT_level1": Figures(73, 90),
    "CR7_level1": Figures(63, 122),
    "Kobe_level1": Figures(75, 105),
    "jump_forward_level1": Figures(46, 55),
    "jump_forward_level3": Figures(58, 127),
    "kick_level1": Figures(47, 83),
    "kick_level3": Figures(43, 71),
    "lebron_level1": Figures(48, 76),
    "side_jump_level1": Figures(50, 98),
    "side_jump_level3": Figures(49, 71),
}
"""One quiet episode from the first frame at rest, 30 bodies, clips as published."""

_CLIP = {"lebron_level1": "lebron1"}
"""Where the clip has another name than its policy."""


class Comparison(NamedTuple):
    """One policy here and elsewhere."""

    name: str
    expected: Figures
    found: Figures
    """As published: the clip is lowered once, by its first frame."""
    finished: bool
    grounded: Figures
    """The same with the clip's stance soles put onto the floor."""
    noisy_success: Interval
    """64 episodes with the noise of the original's fine-tuning, grounded clip."""

    @property
    def ratios(self) -> Figures:
        """Found over expected."""
        return Figures(
            self.found.mpjpe_mm / self.expected.mpjpe_mm,
            self.found.global_mpjpe_mm / self.expected.global_mpjpe_mm,
        )

    @property
    def agrees(self) -> bool:
        """Finished, and both errors within the tolerance."""
        return self.finished and all(abs(ratio - 1.0) <= TOLERANCE for ratio in self.ratios)


def compare_published(
    data: Path, progress: Progress | None = None, *, threads: int = 0
) -> list[Comparison]:
    """Run every published tracker that the folder holds.

    Args:
        data: Folder with ``policies`` and ``motions``.
        progress: Told the finished fraction.
        threads: Of the simulator.

    Raises:
        InputError: If the folder does not hold them.
    """
    missing = [name for name in EXPECTED if not (data / "policies" / f"{name}.onnx").exists()]
    if missing:
        raise InputError(f"expected policies/{missing[0]}.onnx and its clip here", file=data)
    robot = Robot.load(ROBOT)
    rows = []
    for number, (name, expected) in enumerate(EXPECTED.items()):
        found, finished = _quiet(data, name, robot, ground=False, threads=threads)
        grounded, _ = _quiet(data, name, robot, ground=True, threads=threads)
        case = case_of_published(data, name, robot, ground=True)
        noisy = EvaluateConfig(episodes=64, start_noise="paper", threads=threads)
        success = evaluate([case], robot, noisy).overall["success_rate"]
        rows.append(Comparison(name, expected, found, finished, grounded, success))
        if progress is not None:
            progress((number + 1) / len(EXPECTED))
    return rows


def case_of_published(data: Path, name: str, robot: Robot, *, ground: bool) -> Case:
    """A policy with its clip."""
    clip = open_motion(data / "motions" / f"{_CLIP.get(name, name)}.pkl", robot, ground=ground)
    policy = open_policy(data / "policies" / f"{name}.onnx", robot, clip, "asap").policy
    return Case(policy, clip.motion, name)


def _quiet(
    data: Path, name: str, robot: Robot, *, ground: bool, threads: int
) -> tuple[Figures, bool]:
    """Errors of one episode without noise, over all bodies, and whether it finished."""
    config = EvaluateConfig(episodes=1, points="bodies", threads=threads)
    overall = evaluate([case_of_published(data, name, robot, ground=ground)], robot, config).overall
    figures = Figures(overall["mpjpe_mm"].value, overall["global_mpjpe_mm"].value)
    return figures, overall["success_rate"].value == 1.0
