"""A log as its checks see it."""

from __future__ import annotations

import numpy as np

from asap.log_check_joint_delay import delay
from asap.log_check_view import View
from asap_deploy.log import Log


def _dense(rows: int, phases: tuple[int, ...]) -> Log:
    """Episodes at 500 Hz whose targets change every tenth row, from another row in each."""
    target = np.concatenate([(np.arange(rows) + 10 - phase) // 10 for phase in phases])
    count = rows * len(phases)
    return Log(("knee",), 0.002 * np.arange(count), np.zeros((count, 1)),
               {"joint_pos_target": target[:, None].astype(float),
                "episode": np.repeat(np.arange(len(phases)), rows)})  # fmt: skip


def test_a_dense_log_is_thinned_to_the_rows_in_which_targets_change() -> None:
    thin = View(log=_dense(200, (3, 7))).thinned(0.02)
    kept = np.round(thin.log.time_s / 0.002).astype(int)
    assert kept[0] == 3
    np.testing.assert_array_equal(kept[kept < 200], np.arange(3, 200, 10))
    np.testing.assert_array_equal(kept[kept >= 200], 200 + np.arange(7, 200, 10))
    # What was in force from a row is in force until the next one that is left.
    changes = np.diff(thin.log.fields["joint_pos_target"][:, 0])
    assert (changes[: len(kept[kept < 200]) - 1] == 1.0).all()


def test_a_log_at_the_rate_of_its_policy_is_left_as_it_is() -> None:
    view = View(log=_dense(200, (3,)))
    slow = View(log=Log(view.log.joint_names, 10.0 * view.log.time_s, view.log.joint_pos,
                        view.log.fields))  # fmt: skip
    assert slow.thinned(0.02) is slow


def test_a_delay_of_many_dense_rows_is_seen() -> None:
    """Row by row no more than nine milliseconds could be found at 500 Hz."""
    rng, rows, dt, late = np.random.default_rng(0), 20_000, 0.002, 7
    target = np.repeat(rng.normal(0.0, 0.1, (rows // 10, 2)), 10, axis=0)
    pos, vel = np.zeros((rows, 2)), np.zeros((rows, 2))
    for row in range(1, rows):
        pull = 300.0 * (target[max(0, row - 1 - late)] - pos[row - 1]) - 20.0 * vel[row - 1]
        vel[row] = vel[row - 1] + dt * pull
        pos[row] = pos[row - 1] + dt * vel[row]
    noisy = {"joint_vel": vel + rng.normal(0.0, 0.01, vel.shape), "joint_pos_target": target}
    log = Log(("left_knee", "right_knee"), dt * np.arange(rows),
              pos + rng.normal(0.0, 0.0003, pos.shape), noisy)  # fmt: skip
    (finding,) = delay(View(log=log)).findings
    assert finding.value is not None
    assert abs(finding.value - late * dt) < 0.003
