"""Contact sheets: pictures above the moments that they show, plots of what the rollout holds."""

import subprocess
import sys
from dataclasses import replace

import matplotlib.image
import numpy as np
import pytest

from asap.picture import Look
from asap.robot import Robot
from asap.rollout import Rollout
from asap.sheet import contact_sheet, contact_spans, frame_indices
from asap_deploy.errors import InputError

QUICK = Look(samples=1, lights=1)


@pytest.fixture(scope="module")
def rollout() -> Rollout:
    """A robot that sinks by 0.1 m in a second while its reference stands 0.3 m to its left."""
    robot = Robot.load("g1")
    time_s = 5.0 + 0.02 * np.arange(51)
    qpos = np.tile(robot.default_qpos(), (51, 1))
    reference = qpos.copy()
    reference[:, 1] += 0.3
    qpos[:, 2] -= np.linspace(0.0, 0.1, 51)
    force = np.zeros((51, 2))
    force[10:20, 0] = 300.0
    return Rollout(
        robot=robot,
        time_s=time_s,
        qpos=qpos,
        reference_qpos=reference,
        joint_pos_target=qpos[:, robot.qpos_ids],
        joint_torque=np.zeros((51, len(robot.joint_names))),
        contact_force=force,
        error_mm=np.linspace(300.0, 320.0, 51),
        title="a test",
    )


def sheet(rollout, path, **kwargs) -> np.ndarray:
    contact_sheet(
        rollout, path, kwargs.pop("columns", 3), frame_size=(60, 90), look=QUICK, **kwargs
    )
    return matplotlib.image.imread(path)[..., :3]


def test_pictures_come_from_the_middles_of_equal_parts(rollout):
    # 1 s in four parts: middles at 0.125, 0.375, 0.625, 0.875 s; frames are 0.02 s apart.
    frames = frame_indices(rollout, 4)
    np.testing.assert_allclose(0.02 * frames, [0.125, 0.375, 0.625, 0.875], atol=0.0101)


def test_contacts_become_spans_that_last_until_the_next_frame():
    time_s = np.array([0.0, 0.1, 0.2, 0.4, 0.5])
    contact = np.array([True, True, False, True, True])
    assert contact_spans(time_s, contact) == [(0.0, 0.2), (0.4, pytest.approx(0.1))]
    assert contact_spans(time_s, np.zeros(5, bool)) == []


def test_equal_rollouts_give_equal_files(rollout, tmp_path):
    for name in ("a.png", "b.png"):
        sheet(rollout, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.png"]  # nothing left behind


def test_every_picture_adds_its_width(rollout, tmp_path):
    three, five = (sheet(rollout, tmp_path / "a.png", columns=n) for n in (3, 5))
    assert five.shape[1] - three.shape[1] == 2 * 60
    assert five.shape[0] == three.shape[0]


def test_the_ghost_is_blue_and_only_there_with_a_reference(rollout, tmp_path):
    def blue(image: np.ndarray) -> int:
        pictures = image[72 : 72 + 90]
        return int((pictures[..., 2] - pictures[..., 0] > 0.12).sum())

    alone = replace(rollout, reference_qpos=None, error_mm=None)
    assert blue(sheet(rollout, tmp_path / "a.png")) > 300
    assert blue(sheet(alone, tmp_path / "b.png")) == 0


def test_a_contact_moves_only_the_contact_plot(rollout, tmp_path):
    force = rollout.contact_force.copy()
    force[:, 1] = 200.0
    before = sheet(rollout, tmp_path / "a.png")
    after = sheet(replace(rollout, contact_force=force), tmp_path / "b.png")
    rows = np.flatnonzero((before != after).any(axis=(1, 2)))
    assert len(rows) > 0
    assert rows.min() > 72 + 90 + 104 + 92  # below headline, pictures, error and height


def test_a_reference_that_ran_far_away_does_not_shrink_the_robot(rollout, tmp_path):
    reference = rollout.reference_qpos.copy()
    reference[:, 1] += 50.0
    alone = sheet(replace(rollout, reference_qpos=None), tmp_path / "a.png")
    far = sheet(replace(rollout, reference_qpos=reference), tmp_path / "b.png")
    np.testing.assert_array_equal(alone[72 : 72 + 90], far[72 : 72 + 90])


def test_no_room_for_a_picture_is_refused_and_no_file_is_made(rollout, tmp_path):
    with pytest.raises(InputError, match=r"at least 1 column of 16 px; got 0 of \(212, 300\)"):
        contact_sheet(rollout, tmp_path / "a.png", columns=0)
    assert list(tmp_path.iterdir()) == []


def test_no_global_plotting_state_is_touched():
    program = "import asap.sheet, sys; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
