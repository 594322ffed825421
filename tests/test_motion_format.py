"""The motion file: lossless, safe to open, and nothing unsound gets in."""

from __future__ import annotations

import io
import os
import zipfile

import numpy as np
import pytest

from asap_deploy import rotation
from asap_deploy.errors import InputError
from asap_deploy.motion import Motion
from asap_deploy.npz import load_npz, save_npz, write_atomic
from policies import toy_motion

ARRAYS = ("joint_pos", "joint_vel", "body_pos_w", "body_quat_wxyz", "body_lin_vel_w",
          "body_ang_vel_w", "foot_contact")  # fmt: skip


@pytest.fixture
def motion() -> Motion:
    return toy_motion()


def stored(path, motion, **changes):
    """Save a motion, then write it again with other arrays; None removes a key."""
    motion.save(path)
    arrays = {**load_npz(path), **changes}
    save_npz(path, {key: value for key, value in arrays.items() if value is not None})
    return path


def test_saving_and_loading_a_motion_loses_nothing(motion, tmp_path):
    motion = motion.replace(source="own work, CC0\nsecond line", robot="g1:asap")
    motion.save(tmp_path / "clip.npz")
    again = Motion.load(tmp_path / "clip.npz")
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(again, name), getattr(motion, name))
        assert getattr(again, name).dtype == getattr(motion, name).dtype
    for name in ("fps", "joint_names", "body_names", "source", "robot", "sha256"):
        assert getattr(again, name) == getattr(motion, name)


def test_awkward_numbers_survive_the_file_to_the_bit(motion, tmp_path):
    joint_pos = np.array(motion.joint_pos)
    joint_pos[0, :4] = [0.1 + 0.2, 5e-324, -0.0, 0.07450087032950714]
    motion.replace(joint_pos=joint_pos, fps=29.97).save(tmp_path / "clip.npz")
    again = Motion.load(tmp_path / "clip.npz")
    assert again.fps == 29.97
    assert again.joint_pos.tobytes() == joint_pos.tobytes()


def test_the_arrays_of_a_motion_cannot_be_written(motion):
    for name in ARRAYS:
        with pytest.raises(ValueError, match="read-only"):
            getattr(motion, name)[0] = 0.0


def test_a_motion_keeps_no_hold_of_the_arrays_it_was_made_from(motion):
    joint_pos = np.array(motion.joint_pos)
    copy = motion.replace(joint_pos=joint_pos)
    joint_pos[:] = 7.0
    np.testing.assert_array_equal(copy.joint_pos, motion.joint_pos)


def test_the_motion_at_the_time_of_a_frame_is_that_frame(motion):
    time_s = np.arange(motion.num_frames) / motion.fps
    frame = motion.at(time_s)
    for name in frame._fields:
        expected = getattr(motion, name)
        np.testing.assert_allclose(getattr(frame, name), expected, atol=1e-9, err_msg=name)


def test_between_two_frames_numbers_are_linear_and_attitudes_turn_evenly(motion):
    frame = motion.at(np.array([10.25 / motion.fps]))
    expected = 0.75 * motion.joint_pos[10] + 0.25 * motion.joint_pos[11]
    np.testing.assert_allclose(frame.joint_pos[0], expected, atol=1e-12)
    before, after = motion.body_quat_wxyz[10], motion.body_quat_wxyz[11]
    expected = rotation.slerp(before, after, np.full(len(before), 0.25))
    np.testing.assert_allclose(frame.body_quat_wxyz[0], expected, atol=1e-12)


def test_times_outside_the_clip_give_its_ends(motion):
    frame = motion.at(np.array([-5.0, motion.duration_s + 5.0, np.inf]))
    np.testing.assert_array_equal(frame.joint_pos[0], motion.joint_pos[0])
    np.testing.assert_allclose(frame.joint_pos[1], motion.joint_pos[-1], atol=1e-12)
    np.testing.assert_array_equal(frame.joint_pos[1], frame.joint_pos[2])


@pytest.mark.parametrize("shape", [(), (4,), (2, 3)])
def test_frames_have_the_axes_of_the_times_that_were_asked_for(motion, shape):
    frame = motion.at(np.full(shape, 0.4))
    assert frame.joint_pos.shape == (*shape, len(motion.joint_names))
    assert frame.body_quat_wxyz.shape == (*shape, len(motion.body_names), 4)


def test_many_times_at_once_are_the_single_ones_to_the_bit(motion):
    time_s = np.random.default_rng(0).uniform(-0.1, motion.duration_s + 0.1, 20)
    together = motion.at(time_s)
    for k in range(20):
        for name, single in motion.at(time_s[k : k + 1])._asdict().items():
            np.testing.assert_array_equal(getattr(together, name)[k], single[0])


def test_attitudes_of_opposite_sign_do_not_turn_the_long_way_round(motion):
    quat = np.array(motion.body_quat_wxyz)
    quat[1::2] *= -1.0
    time_s = np.linspace(0.0, motion.duration_s, 77)
    angle = rotation.angle_between(
        motion.replace(body_quat_wxyz=quat).at(time_s).body_quat_wxyz,
        motion.at(time_s).body_quat_wxyz,
    )
    assert angle.max() < 1e-6


def test_duration_counts_the_gaps_between_frames_and_not_the_frames(motion):
    # 46 frames at 30 Hz: 45 gaps of 1/30 s.
    assert motion.duration_s == pytest.approx(1.5)


def test_the_base_is_body_zero(motion):
    np.testing.assert_array_equal(motion.base_pos_w, motion.body_pos_w[:, 0])
    np.testing.assert_array_equal(motion.base_quat_wxyz, motion.body_quat_wxyz[:, 0])
    assert motion.body_names[0] == "pelvis"


def test_the_hash_sees_every_number_and_name_but_not_the_source(motion):
    assert motion.replace(source="elsewhere", robot="other").sha256 == motion.sha256
    for name in ARRAYS:
        array = np.array(getattr(motion, name))
        array[3] = -array[3] if array.dtype != bool else ~array[3]
        assert motion.replace(**{name: array}).sha256 != motion.sha256, name
    assert motion.replace(fps=31.0).sha256 != motion.sha256
    swapped = motion.joint_names[1::-1] + motion.joint_names[2:]
    assert motion.replace(joint_names=swapped).sha256 != motion.sha256


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"fps": 0.0}, "fps must be between 1 and 1000 Hz; got 0.0"),
        ({"fps": np.nan}, "fps must be between"),
        ({"joint_vel": np.zeros((3, 29))}, r"'joint_vel' has shape \(3, 29\), expected \(46, 29\)"),
        ({"foot_contact": np.ones((46, 3), bool)}, r"'foot_contact' has shape \(46, 3\)"),
        ({"joint_names": ["a"] * 29}, "has a joint name twice"),
        ({"joint_pos": np.full((46, 29), np.nan)}, "'joint_pos' has 1334 non-finite or huge"),
        ({"body_pos_w": np.full((46, 30, 3), 1e9)}, "'body_pos_w' has 4140 non-finite or huge"),
        ({"body_quat_wxyz": np.full((46, 30, 4), 0.9)}, "not unit length: norms from 1.800 to"),
    ],
)
def test_an_unsound_motion_is_refused_with_what_is_wrong(motion, changes, text):
    with pytest.raises(InputError, match=text):
        motion.replace(**changes)


def test_a_motion_of_one_frame_is_refused(motion):
    changes = {name: getattr(motion, name)[:1] for name in ARRAYS}
    with pytest.raises(InputError, match="needs 2 frames, 1 joint and 1 body; got 1, 29, 30"):
        motion.replace(**changes)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"format": np.array("mystery")}, "format is 'mystery', expected 'asap-motion'"),
        ({"format": None}, "not a motion file of ours: format is 'absent'"),
        ({"version": np.array(2)}, "motion file has version 2, this program reads 1"),
        ({"version": np.array(1.0)}, "motion file has version 1.0, this program reads 1"),
        ({"joint_vel": None}, "lacks the key 'joint_vel'; it holds format, version, fps"),
        ({"joint_pos": np.zeros(4)}, r"'joint_pos' has shape \(4,\), expected 2 axes"),
        ({"joint_pos": np.full((46, 29), "x")}, "motion file holds a wrong type"),
        ({"fps": np.array("fast")}, "motion file holds a wrong type"),
    ],
)
def test_a_wrong_file_is_refused_with_what_is_wrong_and_its_path(motion, changes, text, tmp_path):
    path = stored(tmp_path / "clip.npz", motion, **changes)
    with pytest.raises(InputError, match=text) as caught:
        Motion.load(path)
    assert str(caught.value).endswith(f"(file: {path})")


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path):
    with pytest.raises(InputError, match="file does not exist"):
        Motion.load(tmp_path / "none.npz")
    with pytest.raises(InputError, match=r"expected an \.npz file, got a folder"):
        Motion.load(tmp_path)


@pytest.mark.parametrize("kept", [0, 1, 10, 100, 0.5, 0.9, 0.999])
def test_a_file_that_was_cut_short_is_refused(motion, kept, tmp_path):
    path = tmp_path / "clip.npz"
    motion.save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data)) if kept < 1 else kept])
    with pytest.raises(InputError, match=r"not a readable \.npz file"):
        Motion.load(path)


def test_an_array_of_python_objects_is_refused_and_nothing_runs(motion, tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    path = tmp_path / "clip.npz"
    np.savez(path, format="asap-motion", joint_pos=np.array([Bomb()], dtype=object))
    with pytest.raises(InputError, match="has type object; only plain numbers and text are read"):
        Motion.load(path)
    assert not (tmp_path / "ran").exists()


def test_an_archive_that_declares_too_much_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, \
            archive.open("a.npy", "w", force_zip64=True) as stream:  # fmt: skip
        for _ in range(64):
            stream.write(bytes(1 << 20))
    assert path.stat().st_size < 200_000
    with pytest.raises(InputError, match="declares 1 arrays and 67 MB; at most 256 arrays and 1 M"):
        load_npz(path, max_bytes=1_000_000)


def test_an_array_that_declares_more_than_it_holds_is_refused(tmp_path):
    header = io.BytesIO()
    shape = (10**9, 10**3)
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f8", "fortran_order": False, "shape": shape}
    )
    path = tmp_path / "liar.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", header.getvalue() + bytes(64))
    with pytest.raises(InputError, match=r"declares shape \(1000000000, 1000\) but holds"):
        load_npz(path)


def test_arrays_of_every_plain_kind_and_shape_come_back_as_they_were(tmp_path):
    arrays = {
        "scalar": np.array(1.5),
        "empty": np.zeros((0, 3)),
        "flags": np.array([True, False]),
        "bytes": np.array([1, 2], np.uint8),
        "long": np.array(2**62),
        "text": np.array(["knee", "ä"]),
        "none": np.array(""),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big endian": np.arange(3.0).astype(">f4"),
    }
    save_npz(tmp_path / "all.npz", arrays)
    again = load_npz(tmp_path / "all.npz")
    assert set(again) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(again[name], array)
        assert again[name].dtype == array.dtype


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(motion, tmp_path):
    path = tmp_path / "clip.npz"
    motion.save(path)
    before = path.read_bytes()

    def half_way(stream):
        stream.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomic(path, half_way)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["clip.npz"]


def test_a_folder_that_cannot_be_made_is_an_input_error(motion, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(InputError, match="cannot write here"):
        motion.save(tmp_path / "file" / "clip.npz")
