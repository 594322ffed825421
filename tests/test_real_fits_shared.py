"""Corrections fitted to logs of real robots: better on runs that were not fitted, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from real_fit_table import errors_deg, fit_real
from test_real_logs_shared import SHARED, _robot

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        not SHARED.is_dir(), reason="the real logs are not here: nothing is fitted to them"
    ),
]


def test_a_correction_from_high_servo_gains_holds_under_low_ones_and_in_a_walk(
    tmp_path: Path,
) -> None:
    found = fit_real("sigmaban", _robot("sigmaban", tmp_path))
    assert found.fitted.accepted
    for run, judged in found.judged.items():
        before, after = (errors_deg(judged, arm) for arm in ("nominal", "corrected"))
        assert all(new < 0.85 * old for new, old in zip(after, before, strict=True)), run


def test_the_beginning_of_a_walk_corrects_its_end(tmp_path: Path) -> None:
    (judged,) = fit_real("agibot_x2", _robot("agibot_x2", tmp_path)).judged.values()
    before, after = (errors_deg(judged, arm) for arm in ("nominal", "corrected"))
    assert all(new < 0.65 * old for new, old in zip(after, before, strict=True))


def test_logs_that_no_parameter_explains_are_refused(tmp_path: Path) -> None:
    assert not fit_real("bhl_biped", _robot("bhl_biped", tmp_path)).fitted.accepted
