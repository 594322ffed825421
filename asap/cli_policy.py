"""Commands about policies: ``asap evaluate``, ``asap export`` and ``asap view``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import RenderableType

from asap.cli_common import Common, Outcome, Progress, show, table
from asap.correction import Correction
from asap.evaluate import Case, EvaluateConfig, Evaluation, evaluate
from asap.inputs import OpenedMotion, OpenedPolicy, case_of, open_motion, open_policy
from asap.metrics import EFFORT_NAMES, ERROR_NAMES
from asap.motion_rollout import as_rollout
from asap.record import RecordConfig, record
from asap.robot import Robot
from asap.rollout import Rollout
from asap.tracking import NOISE, StartNoise
from asap.walk import WalkConfig, walk
from asap_deploy.errors import InputError
from asap_deploy.golden import load_policy, verify
from asap_deploy.npz import write_file

_HEADINGS = ["success", "global mm", "rel. mm", "vel. mm/fr", "acc. mm/fr²"]
_EFFORTS = ["torque Nm", "targets rad/s", "foot slip mm/s"]


@dataclass(frozen=True, kw_only=True)
class Evaluate(Common):
    """Roll a policy out on a robot or twin, through the runtime that drives the real robot.

    Prints the errors of the literature with 95 % intervals: mean over 27 points of the G1,
    global and relative to the base; velocity and acceleration as frame differences at 50 Hz.
    A policy without a clip follows --command instead.
    """

    policy: tuple[Path, ...]
    """ONNX files: one for all motions, or one for each."""
    motion: tuple[Path, ...] = ()
    """Clips to track: files of any known format, or names of clips of ours; by default the one
    inside the policy."""
    robot: str = "g1"
    """Robot, variant or twin (g1, g1:asap, g1@worn), or a folder with a robot.toml."""
    correction: Path | None = None
    """Evaluate on the robot as a correction (JSON) says that it is."""
    layout: str | None = None
    """Observation layout of an ONNX file that carries no contract (asap, asap-loco,
    beyondmimic)."""
    episodes: int = 64
    """Episodes of each clip."""
    start_noise: StartNoise = "none"
    """none: at rest in the first frame; paper: with the noise of the original's fine-tuning;
    small: with a third of it."""
    delay_ms: float = 0.0
    """Delay from command to motor [ms]."""
    push_speed: float = 0.0
    """Kick of the base in a random direction [m/s]."""
    push_interval_s: float = 1.0
    """Time between kicks [s]."""
    ground: bool = True
    """Put the soles of foreign clips onto the floor first."""
    points: Literal["paper", "bodies"] = "paper"
    """Points that errors average over: links and virtual points, or all bodies."""
    fail_distance_m: float = 0.5
    """An episode fails when its mean error exceeds this [m]."""
    command: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """For a walking policy: forward and left velocity [m/s], yaw rate [rad/s]; zero: stand."""
    duration_s: float = 20.0
    """For a walking policy: length of an episode [s]."""
    threads: int = 0
    """Threads of the simulator; 0: all cores."""
    view: Path | None = None
    """Write a rerun recording of the first episode of each clip (.rrd)."""
    png: Path | None = None
    """Write a contact sheet of the first episode of the first clip."""
    record: Path | None = None
    """Write a log of such episodes as a robot would (.npz; with several clips a folder)."""
    record_base: bool = True
    """Also where the base was, as motion capture knows."""

    def run(self, progress: Progress) -> Outcome:
        """Evaluate."""
        robot = Robot.load(self.robot)
        if self.correction is not None:
            robot = Correction.load(self.correction).robot(robot)
        motions = [open_motion(path, robot, ground=self.ground) for path in self.motion]
        opened = open_policies(self.policy, motions, robot, self.layout)
        inputs = [*(one.path for one in opened), *(motion.path for motion in motions)]
        if len(opened) == 1 and opened[0].motion is None:
            return self._walk(opened[0], robot, progress, inputs)
        config = EvaluateConfig(
            episodes=self.episodes,
            start_noise=self.start_noise,
            delay_ms=self.delay_ms,
            push_speed=self.push_speed,
            push_interval_s=self.push_interval_s,
            points=self.points,
            fail_distance_m=self.fail_distance_m,
            seed=self.seed,
            threads=self.threads,
        )
        cases = [case_of(one) for one in opened]
        result = evaluate(cases, robot, config, progress)
        written = _draw([clip.rollout for clip in result.clips], self.view, self.png)
        written += self._record(cases, robot)
        facts = {"robot": robot.name, "written": written, **result.as_dict()}
        return Outcome(result=facts, shown=_evaluation_tables(result, robot), inputs=inputs)

    def _record(self, cases: list[Case], robot: Robot) -> list[Path]:
        """A log of each clip, where asked for."""
        if self.record is None:
            return []
        config = RecordConfig(
            episodes=self.episodes,
            base_pose=self.record_base,
            start_noise=NOISE[self.start_noise],
            fail_distance_m=self.fail_distance_m,
            seed=self.seed,
            threads=self.threads,
        )
        single = len(cases) == 1 and self.record.suffix == ".npz"
        written = []
        for case in cases:
            target = self.record if single else self.record / f"{case.name}.npz"
            record(case, robot, config).save(target)
            written.append(target)
        return written

    def _walk(
        self, opened: OpenedPolicy, robot: Robot, progress: Progress, inputs: list[Path]
    ) -> Outcome:
        """Stand or walk by command."""
        config = WalkConfig(
            command=self.command,
            duration_s=self.duration_s,
            episodes=self.episodes,
            seed=self.seed,
            threads=self.threads,
        )
        result = walk(opened.policy, robot, config, progress)
        written = _draw([result.rollout], self.view, self.png)
        forward, left, turn = result.velocity_b
        shown = table(
            f"{opened.name} on {robot.name}, command {self.command}, {self.duration_s:g} s",
            ["episodes", "upright", "forward [m/s]", "left [m/s]", "yaw [rad/s]", "height [m]"],
            [[str(self.episodes), show(result.success_rate, 2), show(forward, 3), show(left, 3),
              show(turn, 3), show(result.base_height, 3)]],
        )  # fmt: skip
        facts = {"robot": robot.name, "written": written, **result.as_dict()}
        return Outcome(result=facts, shown=[shown], inputs=inputs)


@dataclass(frozen=True, kw_only=True)
class Export(Common):
    """Turn an ONNX policy of another toolkit into one of ours: contract, clip, golden vectors."""

    from_onnx: Path
    """The foreign file."""
    robot: str = "g1"
    """Robot that it was trained for."""
    motion: Path | None = None
    """Clip that it tracks; not needed for a walking policy or where the file holds its clip."""
    layout: str | None = None
    """Its observation layout (asap, asap-loco, beyondmimic); read from the file where it says."""
    ground: bool = True
    """Put the soles of the clip onto the floor first."""
    out: Path = Path("policy.onnx")
    """File to write."""

    def run(self, progress: Progress) -> Outcome:
        """Convert and verify."""
        robot = Robot.load(self.robot)
        clip = open_motion(self.motion, robot, ground=self.ground) if self.motion else None
        opened = open_policy(self.from_onnx, robot, clip, self.layout)
        data = opened.foreign
        if data is None:
            raise InputError("this policy already carries a contract: use it as it is",
                             file=self.from_onnx)  # fmt: skip
        write_file(self.out, data)
        policy = load_policy(self.out)
        parity = verify(policy)
        contract = policy.contract
        warnings = [text for key, text in contract.provenance.items() if key == "warning"]
        facts = {
            "onnx": self.out,
            "parity_max_abs": parity,
            "layout": contract.layout,
            "robot": contract.robot,
            "warnings": warnings,
        }
        rows = [
            ["robot", contract.robot],
            ["layout", f"{contract.layout}, {len(contract.element_names)} numbers"],
            ["actions", f"{len(contract.action_joint_names)} at {1 / contract.control_dt:g} Hz"],
            ["clip", contract.clip.name if contract.clip else "none, follows commands"],
            ["onnxruntime and numpy against the golden vectors", f"{parity:.1e}"],
        ]
        shown: list[RenderableType] = [table(f"Wrote {self.out}", ["", ""], rows)]
        shown += [f"warning: {text}" for text in warnings]
        inputs = [opened.path, *([clip.path] if clip else [])]
        return Outcome(result=facts, shown=shown, inputs=inputs)


@dataclass(frozen=True, kw_only=True)
class View(Common):
    """A rerun recording of a motion, or of a policy that tracks it; also as a contact sheet."""

    motion: Path | None = None
    """Clip: a file of any known format, or the name of a clip of ours; by default the one inside
    the policy."""
    policy: Path | None = None
    """Policy that shall track it; without one, the motion alone is shown."""
    robot: str = "g1"
    """Robot, variant or twin."""
    layout: str | None = None
    """Observation layout of an ONNX file that carries no contract."""
    ground: bool = True
    """Put the soles of foreign clips onto the floor first."""
    view: Path = Path("view.rrd")
    """Rerun recording to write; open it with `rerun FILE`."""
    png: Path | None = None
    """Contact sheet to write."""

    def run(self, progress: Progress) -> Outcome:
        """Roll out and draw."""
        robot = Robot.load(self.robot)
        names = [] if self.motion is None else [self.motion]
        clips = [open_motion(name, robot, ground=self.ground) for name in names]
        if self.policy is None:
            return self._motion_alone(clips, robot)
        opened = open_policies([self.policy], clips, robot, self.layout)
        config = EvaluateConfig(episodes=1, seed=self.seed)
        result = evaluate([case_of(opened[0])], robot, config, progress)
        written = _draw([result.clips[0].rollout], self.view, self.png)
        shown = [*_evaluation_tables(result, robot), f"wrote {', '.join(map(str, written))}"]
        inputs = [opened[0].path, *(clip.path for clip in clips)]
        return Outcome(result={"written": written, **result.as_dict()}, shown=shown, inputs=inputs)

    def _motion_alone(self, clips: list[OpenedMotion], robot: Robot) -> Outcome:
        """A clip without anybody who tracks it."""
        from asap.sheet import contact_sheet  # matplotlib takes a second
        from asap.visualize import write_motion_recording

        if not clips:
            raise InputError("nothing to show: give --motion, --policy or both")
        clip = clips[0]
        written = [self.view]
        write_motion_recording(clip.motion, robot, self.view)
        if self.png is not None:
            title = f"{clip.name} on {robot.name}"
            contact_sheet(as_rollout(clip.motion, robot, title=title), self.png)
            written.append(self.png)
        return Outcome(result={"written": written}, inputs=[clip.path],
                       shown=[f"wrote {', '.join(map(str, written))}"])  # fmt: skip


def open_policies(
    policies: Sequence[Path], motions: Sequence[OpenedMotion], robot: Robot, layout: str | None
) -> list[OpenedPolicy]:
    """Policies paired with their clips: one for all, or one for each.

    Raises:
        InputError: If their numbers do not fit.
    """
    clips: list[OpenedMotion | None] = [*motions] or [None] * len(policies)
    paths = list(policies) * (len(clips) if len(policies) == 1 else 1)
    if len(paths) != len(clips):
        raise InputError(
            f"got {len(paths)} policies and {len(motions)} motions; give one policy for all "
            "motions, or one for each"
        )
    return [open_policy(path, robot, clip, layout) for path, clip in zip(paths, clips, strict=True)]


def _evaluation_tables(result: Evaluation, robot: Robot) -> list[RenderableType]:
    """A row a clip, and one for all: how well it tracks, and what that costs."""
    rows, efforts = [], []
    groups = [(clip.name, [clip]) for clip in result.clips]
    if len(result.clips) > 1:
        groups.append(("all", result.clips))
    for name, clips in groups:
        figures = result.figures(clips)
        errors = [
            show(figures[key], 1 if place < 2 else 2) for place, key in enumerate(ERROR_NAMES)
        ]
        rows.append([name, show(figures["success_rate"], 2), *errors])
        efforts.append([name, *(show(figures[key], 1) for key in EFFORT_NAMES)])
    episodes = len(result.clips[0].survived_s)
    return [
        table(f"{episodes} episodes a clip on {robot.name}", ["clip", *_HEADINGS], rows),
        table("mean of a joint; of feet that carry load", ["clip", *_EFFORTS], efforts),
    ]


def _draw(rollouts: list[Rollout], view: Path | None, png: Path | None) -> list[Path]:
    """Write what was asked for; rerun and matplotlib are imported only then."""
    written = []
    if view is not None:
        from asap.visualize import write_recording

        write_recording(rollouts, view)
        written.append(view)
    if png is not None:
        from asap.sheet import contact_sheet

        contact_sheet(rollouts[0], png)
        written.append(png)
    return written
