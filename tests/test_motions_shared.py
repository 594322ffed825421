"""Other people's clips: every planted order is noticed, every clip ends up on the floor."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from asap.grounding import com_w, find_flights, ground, in_flight
from asap.motion_formats import G1_JOINTS, G1_JOINTS_23, G1_JOINTS_BFS, RawMotion, read_motion
from asap.motion_orders import joint_pos_of, settle_orders
from asap.motions import import_motion, resampled
from asap.robot import Robot
from asap_deploy.errors import InputError
from asap_deploy.rotation import wxyz_from_xyzw, xyzw_from_wxyz


@pytest.fixture(scope="module")
def robot() -> Robot:
    return Robot.load("g1")


def foreign_files(shared: Path) -> list[Path]:
    motions = shared / "motions"
    return sorted(
        [*motions.glob("gmt/*.pkl"), *motions.glob("*/*.csv"), *motions.glob("g1moves/*/*.csv"),
         *motions.glob("g1moves/training_npz/*.npz")]
    )  # fmt: skip


def planted(raw: RawMotion, *, quat: bool, joints: bool) -> RawMotion:
    """What the reader would give if the file's columns were in another order."""
    if quat:
        swap = wxyz_from_xyzw if raw.quat_order == "xyzw" else xyzw_from_wxyz
        raw = raw._replace(base_quat_wxyz=swap(raw.base_quat_wxyz))
    if joints:
        depth_first = G1_JOINTS if raw.joint_pos.shape[1] == 29 else G1_JOINTS_23
        order = [depth_first.index(name) for name in G1_JOINTS_BFS if name in depth_first]
        raw = raw._replace(joint_pos=raw.joint_pos[:, order])
    return raw


def outcome(raw: RawMotion, robot: Robot, truth: RawMotion) -> str:
    """'right' if the orders were found, 'refused' if the file was refused with the right advice."""
    try:
        settled = settle_orders(raw, robot, path="clip")
    except InputError as error:
        return f"refused: {error}"
    same = np.allclose(settled.base_quat_wxyz, truth.base_quat_wxyz) and np.allclose(
        joint_pos_of(settled, robot, slice(None)), joint_pos_of(truth, robot, slice(None))
    )
    return "right" if same else "wrong"


def without_witness(raw: RawMotion) -> RawMotion:
    format = "mjlab" if raw.format == "beyondmimic" else raw.format
    return raw._replace(body_pos_w=None, body_quat_wxyz=None, body_pos_b=None, body_names=None,
                        pose_rotvec=None, format=format)  # fmt: skip


def test_every_clip_passes_and_every_planted_order_is_noticed(shared_data, robot):
    files = foreign_files(shared_data)
    assert len(files) == 25
    for path in files:
        whole = read_motion(path)
        truth = settle_orders(whole, robot, path=path)
        for raw in (whole, without_witness(whole)):
            assert outcome(raw, robot, truth) == "right", path.name
            for quat, joints in ((True, False), (False, True), (True, True)):
                result = outcome(planted(raw, quat=quat, joints=joints), robot, truth)
                stored = (
                    {"xyzw": "wxyz", "wxyz": "xyzw"} if quat else {"xyzw": "xyzw", "wxyz": "wxyz"}
                )
                advice = (f'quat_order="{stored[raw.quat_order]}", '
                          f'joint_order="{"bfs" if joints else "dfs"}"')  # fmt: skip
                assert result == "right" or advice in result, (path.name, quat, joints, result)


def test_published_clips_are_grounded_and_their_flights_stay_ballistic(shared_data):
    robot = Robot.load("g1:asap")
    files = sorted((shared_data / "asap" / "motions").glob("*.pkl"))
    assert len(files) == 38
    medians, flights = [], 0
    for path in files:
        raw = settle_orders(read_motion(path), robot, path=path)
        poses = resampled(
            raw.base_pos_w, raw.base_quat_wxyz, joint_pos_of(raw, robot, slice(None)), fps=30.0,
            target_fps=50.0, limits=(robot.joint_pos_lower, robot.joint_pos_upper), path=path,
        )  # fmt: skip
        found = ground(robot, *poses, fps=50.0)
        motion = import_motion(path, robot)
        bodies = (motion.body_pos_w, motion.body_quat_wxyz)
        after = robot.sole_clearance(*bodies).min(axis=1)
        assert after.min() > -0.005, path.name
        stance = ~in_flight(found.flights, len(after))
        medians.append(float(np.median(after[stance])))
        assert find_flights(com_w(robot, *bodies)[:, 2], after, fps=50.0) or not found.flights
        for flight in found.flights:
            rise = []
            for height in (found.clearance_m, after):
                part = height[flight.start - 1 : flight.stop + 1]
                rise.append((part - np.linspace(part[0], part[-1], len(part))).max())
            assert abs(rise[1] - rise[0]) < 0.005, path.name
            flights += 1
    assert abs(np.median(medians)) < 0.005 and np.abs(medians).max() < 0.005
    assert flights >= 15


def test_a_long_clip_converts_in_seconds(shared_data, robot):
    path = shared_data / "motions" / "unitree_rl_mjlab" / "dance1_subject2.csv"
    begin = time.perf_counter()
    motion = import_motion(path, robot)
    assert time.perf_counter() - begin < 3.0
    assert motion.num_frames == 6574 and "30 Hz assumed" in motion.source
    assert robot.sole_clearance(motion.body_pos_w, motion.body_quat_wxyz).min() > -0.005


def test_attitudes_that_are_not_unit_are_repaired_and_said(shared_data, robot):
    motion = import_motion(shared_data / "motions" / "gmt" / "crouchwalk_stand.pkl", robot)
    assert "scaled to unit length (norms 0.947 to 0.987)" in motion.source
    assert "29.9338 Hz resampled to 50 Hz" in motion.source


def test_csv_and_npz_of_the_same_take_agree(shared_data, robot):
    folder = shared_data / "motions" / "g1moves"
    for name in ("B_HandsUp", "M_ShortMove14"):
        csv = import_motion(folder / "retarget_csv" / f"{name}.csv", robot, fps=60, ground=False)
        npz = import_motion(folder / "training_npz" / f"{name}.npz", robot, ground=False)
        frames = min(csv.num_frames, npz.num_frames) - 2
        offset = np.median(np.abs(csv.joint_pos[:frames] - npz.joint_pos[:frames]), axis=0)
        assert offset.max() < 0.02
