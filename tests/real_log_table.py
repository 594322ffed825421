"""The table of all real logs: how far a simulated step of 0.1 to 1 s is from the robot, joint RMSE.

    python tests/real_log_table.py            # with ../shared/data beside the checkout; markdown

Three predictions, open loop from the same starts half a second apart: the simulator with
the makers' model (nothing fitted), hold-last (nothing moves), and target-as-prediction (joints are
where the last target wanted them). Runs without a model or without targets have the rest alone.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from test_real_logs_shared import ROOT, SHARED, _robot

from asap.log_import import open_log
from asap.replay import ReplayConfig, replay
from asap.robot import Robot
from asap_deploy.errors import InputError
from asap_deploy.log import Log

HORIZONS_S = (0.1, 0.2, 0.4, 0.5, 1.0)
EVERY_S = 0.5
RUNS = {
    "sigmaban": "npz/*.npz",
    "agibot_x2": "*.npz",
    "bhl_biped": "npz/*.npz",
    "so101": "real/*",
    "g1_closed_loop": "**/*.csv",
}
ARMS = ("nominal", "hold_last", "target_as_prediction")


def rmse_deg(errors_deg: np.ndarray) -> float:
    """Over windows that reach the horizon and all joints (W, J)."""
    return float(np.sqrt(np.nanmean(np.square(errors_deg, dtype=float))))


def simulated(log: Log, robot: Robot) -> dict[str, list[float]]:
    """RMSE of every arm at every horizon [deg]."""
    rows: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for horizon in HORIZONS_S:
        config = ReplayConfig(horizons_s=(horizon,), every_s=EVERY_S)
        found = replay([log], {"nominal": robot}, config)
        for arm in ARMS:
            rows[arm].append(rmse_deg(found.arms[arm].joint_deg))
    return rows


def from_the_log_alone(log: Log) -> dict[str, list[float]]:
    """The two predictions that need no model."""
    rows: dict[str, list[float]] = {"hold_last": []}
    target = log.fields.get("joint_pos_target")
    if target is not None:
        rows["target_as_prediction"] = []
    for horizon in HORIZONS_S:
        held, told = [], []
        for run in log.segments():
            steps, every = round(horizon * log.rate_hz), max(1, round(EVERY_S * log.rate_hz))
            starts = np.arange(0, len(run.time_s) - steps, every)
            held.append(run.joint_pos[starts + steps] - run.joint_pos[starts])
            if target is not None:
                last = run.fields["joint_pos_target"][starts + steps - 1]
                told.append(run.joint_pos[starts + steps] - last)
        rows["hold_last"].append(rmse_deg(np.rad2deg(np.concatenate(held))))
        if target is not None:
            rows["target_as_prediction"].append(rmse_deg(np.rad2deg(np.concatenate(told))))
    return rows


def table(names: tuple[str, ...] = tuple(RUNS)) -> Iterator[str]:
    """Lines of markdown."""
    heads = " | ".join(f"{h:g} s" for h in HORIZONS_S)
    yield f"| run | s | prediction | {heads} |"
    yield "|---|---|---|" + "---|" * len(HORIZONS_S)
    for name in names:
        modelled = (ROOT / "real_logs" / "robots" / name / "robot.toml").is_file()
        with tempfile.TemporaryDirectory() as folder:
            robot = _robot(name, Path(folder)) if modelled else None
            for path in sorted((SHARED / name).glob(RUNS[name])):
                yield from _run_lines(name, path, robot)


def _run_lines(name: str, path: Path, robot: Robot | None) -> list[str]:
    columns = ROOT / "real_logs" / "columns" / f"{name}.toml"
    try:
        opened = open_log(path, columns=columns, robot=robot)
        log = opened.log
        rows = from_the_log_alone(log) if robot is None else simulated(log, robot)
    except InputError as error:
        return [f"| {name} {path.stem} | | cannot be read: {error} |" + " |" * len(HORIZONS_S)]
    words = {"nominal": "simulator", "hold_last": "hold-last", "target_as_prediction": "target"}
    lines = []
    for place, (arm, figures) in enumerate(rows.items()):
        head = f"{name} {opened.name} | {log.duration_s:.0f}" if place == 0 else " | "
        cells = " | ".join(f"{figure:.2f}" for figure in figures)
        lines.append(f"| {head} | {words[arm]} | {cells} |")
    return lines


if __name__ == "__main__":
    for line in table(tuple(sys.argv[1:]) or tuple(RUNS)):
        print(line, flush=True)
