"""What a fit leaves behind: the correction with where it comes from, a plain MJCF, and the facts.

facts = write_fit(fitted, robot, config, inputs=[Path("squat.npz")], folder=Path("runs/fit/worn"))
facts["correction"]                               # runs/fit/worn/correction.json
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mujoco

from asap import results
from asap.correction import Correction
from asap.fit import Fitted
from asap.fit_methods import FitConfig
from asap.replay import Replay
from asap.robot import Robot

CORRECTION, CORRECTED_MODEL = "correction.json", "corrected.xml"


def write_fit(
    fitted: Fitted, robot: Robot, config: FitConfig, *, inputs: Sequence[Path], folder: Path
) -> dict[str, Any]:
    """Write a correction and its MJCF.

    Args:
        fitted: What came out.
        robot: The model that was corrected.
        config: How it was fitted.
        inputs: Files of the logs.
        folder: Where to.

    Returns:
        Everything that there is to say about the fit, for JSON.
    """
    correction = dataclasses.replace(
        fitted.correction,
        provenance={
            "method": config.method,
            "seed": config.seed,
            "mujoco": mujoco.__version__,
            "logs": {path.name: results.file_sha256(path) for path in inputs if path.is_file()},
        },
        heldout={name: fitted.heldout.arms[name].errors_as_dict() for name in arms(fitted.heldout)},
    )
    correction.save(folder / CORRECTION)
    written = [folder / CORRECTION]
    if not correction.empty:
        correction.write_mjcf(robot, folder / CORRECTED_MODEL)
        written.append(folder / CORRECTED_MODEL)
    return _facts(fitted, correction) | {"correction": written[0], "written": written}


def arms(found: Replay) -> list[str]:
    """What stands side by side in tables of a fit."""
    return [name for name in ("nominal", "corrected", "hold_last") if name in found.arms]


def _facts(fitted: Fitted, correction: Correction) -> dict[str, Any]:
    return {
        "method": correction.provenance["method"],
        "accepted": fitted.accepted,
        "verdict": fitted.verdict,
        "train": {"groups": fitted.tried, "share_by_seconds": fitted.curve,
                  "share": fitted.trained},
        "heldout": correction.heldout.get("corrected", {}),
        "baseline": {name: correction.heldout[name] for name in ("nominal", "hold_last")},
        "joint_names": list(fitted.heldout.joint_names),
        "joint_mae_deg": {name: fitted.heldout.arms[name].joint_mae_deg
                          for name in arms(fitted.heldout)},
        "parameters": fitted.parameters,
        "abstained": fitted.abstained,
        "effective": fitted.effective,
        "bands": {horizon: {metric: band.as_dict() for metric, band in bands.items()}
                  for horizon, bands in fitted.bands.items()},
        "alarms": fitted.alarms,
        "beyond_mjcf": correction.beyond_mjcf,
    }  # fmt: skip
