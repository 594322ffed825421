"""Laws of rotations, with scipy as the judge."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation, Slerp

from asap_deploy import rotation

SHAPES = [(), (7,), (3, 5)]


def random_quat(*shape: int, seed: int = 0) -> np.ndarray:
    quat = np.random.default_rng(seed).normal(size=(*shape, 4))
    return quat / np.linalg.norm(quat, axis=-1, keepdims=True)


def scipy_of(quat: np.ndarray) -> Rotation:
    return Rotation.from_quat(np.roll(quat, -1, axis=-1).reshape(-1, 4))


@pytest.mark.parametrize("shape", SHAPES)
def test_matrices_and_rotated_vectors_are_those_of_scipy(shape):
    quat = random_quat(*shape)
    vector = np.random.default_rng(1).normal(size=(*shape, 3))
    matrix = scipy_of(quat).as_matrix().reshape(*shape, 3, 3)
    np.testing.assert_allclose(rotation.to_matrix(quat), matrix, atol=1e-12)
    expected = np.einsum("...ij,...j->...i", matrix, vector)
    np.testing.assert_allclose(rotation.rotate(quat, vector), expected, atol=1e-12)
    expected = np.einsum("...ji,...j->...i", matrix, vector)
    np.testing.assert_allclose(rotation.rotate_inverse(quat, vector), expected, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_product_of_rotations_is_the_rotation_by_the_right_one_first(shape):
    left, right = random_quat(*shape, seed=2), random_quat(*shape, seed=3)
    vector = np.random.default_rng(4).normal(size=(*shape, 3))
    product = rotation.multiply(left, right)
    np.testing.assert_allclose(
        rotation.rotate(product, vector),
        rotation.rotate(left, rotation.rotate(right, vector)),
        atol=1e-12,
    )
    expected = (scipy_of(left) * scipy_of(right)).as_matrix().reshape(*shape, 3, 3)
    np.testing.assert_allclose(rotation.to_matrix(product), expected, atol=1e-12)


def test_a_rotation_times_its_conjugate_is_no_rotation():
    quat = random_quat(50)
    unit = rotation.multiply(quat, rotation.conjugate(quat))
    np.testing.assert_allclose(unit, np.tile([1.0, 0.0, 0.0, 0.0], (50, 1)), atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_rotation_vectors_round_trip_and_agree_with_scipy(shape):
    quat = random_quat(*shape, seed=5)
    rotvec = rotation.to_rotvec(quat)
    expected = scipy_of(quat).as_rotvec().reshape(*shape, 3)
    np.testing.assert_allclose(rotvec, expected, atol=1e-9)
    again = rotation.from_rotvec(rotvec)
    np.testing.assert_allclose(np.abs(np.sum(again * quat, axis=-1)), 1.0, atol=1e-12)


@pytest.mark.parametrize("angle", [0.0, 1e-300, 1e-12, 1e-9, 1e-8, 1e-6, 1.0, np.pi - 1e-9, np.pi])
def test_rotation_vectors_keep_angles_from_zero_to_half_a_turn(angle):
    rotvec = angle * np.array([2.0, -1.0, 2.0]) / 3.0
    np.testing.assert_allclose(
        rotation.to_rotvec(rotation.from_rotvec(rotvec)), rotvec, rtol=1e-8, atol=1e-300
    )


def test_a_quaternion_and_its_negative_are_one_rotation():
    quat, vector = random_quat(20, seed=6), np.random.default_rng(7).normal(size=(20, 3))
    for function in (rotation.projected_gravity, rotation.to_matrix, rotation.yaw):
        np.testing.assert_array_equal(function(quat), function(-quat))
    np.testing.assert_allclose(rotation.to_rotvec(quat), rotation.to_rotvec(-quat), atol=1e-12)
    np.testing.assert_allclose(
        rotation.rotate(quat, vector), rotation.rotate(-quat, vector), atol=1e-12
    )


def test_projected_gravity_is_gravity_rotated_into_the_body():
    quat = random_quat(100, seed=8)
    down = np.tile([0.0, 0.0, -1.0], (100, 1))
    expected = rotation.rotate_inverse(quat, down)
    np.testing.assert_allclose(rotation.projected_gravity(quat), expected, atol=1e-12)
    upright = np.array([1.0, 0.0, 0.0, 0.0])
    np.testing.assert_array_equal(rotation.projected_gravity(upright), [0.0, 0.0, -1.0])
    # Pitched forward (nose down) by 30 degrees: gravity has a part along +x of the body.
    pitched = rotation.from_axis_angle(np.array([0.0, 1.0, 0.0]), np.pi / 6)
    np.testing.assert_allclose(
        rotation.projected_gravity(pitched), [0.5, 0.0, -np.sqrt(0.75)], atol=1e-12
    )


def test_projected_gravity_does_not_see_the_heading():
    quat = random_quat(50, seed=9)
    turned = rotation.multiply(rotation.from_yaw(np.linspace(-3.0, 3.0, 50)), quat)
    np.testing.assert_allclose(
        rotation.projected_gravity(turned), rotation.projected_gravity(quat), atol=1e-12
    )


def test_heading_is_the_yaw_of_scipys_zyx_angles_and_leaves_no_yaw_behind():
    quat = random_quat(100, seed=10)
    expected = scipy_of(quat).as_euler("ZYX")[:, 0]
    np.testing.assert_allclose(rotation.yaw(quat), expected, atol=1e-9)
    rest = rotation.multiply(rotation.conjugate(rotation.heading(quat)), quat)
    np.testing.assert_allclose(rotation.yaw(rest), 0.0, atol=1e-9)
    np.testing.assert_allclose(rotation.yaw(rotation.from_yaw(expected)), expected, atol=1e-12)


def test_turning_the_world_adds_to_the_yaw():
    quat = random_quat(50, seed=11)
    turn = np.linspace(-3.0, 3.0, 50)
    turned = rotation.yaw(rotation.multiply(rotation.from_yaw(turn), quat))
    difference = turned - rotation.yaw(quat) - turn
    np.testing.assert_allclose(np.sin(difference), 0.0, atol=1e-9)
    np.testing.assert_allclose(np.cos(difference), 1.0, atol=1e-9)


def test_slerp_follows_scipys_along_the_shorter_arc():
    start, end = random_quat(30, seed=12), random_quat(30, seed=13)
    fraction = np.linspace(0.0, 1.0, 30)
    mixed = rotation.slerp(start, end, fraction)
    for k in range(30):
        pair = Rotation.from_quat(np.roll(np.stack([start[k], end[k]]), -1, axis=-1))
        expected = Slerp([0.0, 1.0], pair)(fraction[k]).as_matrix()
        np.testing.assert_allclose(rotation.to_matrix(mixed[k]), expected, atol=1e-9)
    flipped = rotation.slerp(start, -end, fraction)
    np.testing.assert_allclose(rotation.to_matrix(flipped), rotation.to_matrix(mixed), atol=1e-9)


def test_slerp_begins_at_the_start_ends_at_the_end_and_turns_evenly():
    start, end = random_quat(20, seed=14), random_quat(20, seed=15)
    whole = rotation.angle_between(start, end)
    for fraction in (0.0, 0.25, 0.5, 1.0):
        mixed = rotation.slerp(start, end, np.full(20, fraction))
        np.testing.assert_allclose(np.linalg.norm(mixed, axis=-1), 1.0, atol=1e-12)
        turned = rotation.angle_between(start, mixed)
        np.testing.assert_allclose(turned, fraction * whole, atol=1e-7)


def test_slerp_from_one_pose_to_itself_stays_there():
    quat = random_quat(10, seed=16)
    np.testing.assert_allclose(rotation.slerp(quat, quat, np.full(10, 0.3)), quat, atol=1e-12)


def test_angle_between_is_scipys_magnitude_and_symmetric():
    left, right = random_quat(50, seed=17), random_quat(50, seed=18)
    expected = (scipy_of(left).inv() * scipy_of(right)).magnitude()
    np.testing.assert_allclose(rotation.angle_between(left, right), expected, atol=1e-9)
    np.testing.assert_allclose(rotation.angle_between(right, left), expected, atol=1e-9)
    np.testing.assert_allclose(rotation.angle_between(left, left), 0.0, atol=1e-7)


def test_axis_and_angle_are_those_of_a_rotation_vector():
    axis = random_quat(20, seed=19)[:, :3]
    axis /= np.linalg.norm(axis, axis=-1, keepdims=True)
    angle = np.linspace(-3.0, 3.0, 20)
    np.testing.assert_allclose(
        rotation.from_axis_angle(axis, angle),
        rotation.from_rotvec(axis * angle[:, None]),
        atol=1e-12,
    )


def test_changing_the_order_of_the_numbers_and_back_changes_nothing():
    quat = random_quat(4, 6, seed=20)
    xyzw = rotation.xyzw_from_wxyz(quat)
    np.testing.assert_array_equal(xyzw[..., 3], quat[..., 0])
    np.testing.assert_array_equal(xyzw[..., :3], quat[..., 1:])
    np.testing.assert_array_equal(rotation.wxyz_from_xyzw(xyzw), quat)


def test_attitudes_without_changes_of_sign_are_the_same_and_close_to_their_neighbours():
    time_s = np.linspace(0.0, 20.0, 200)
    smooth = rotation.from_rotvec(time_s[:, None] * np.array([0.3, -0.2, 0.9]))
    signs = np.random.default_rng(0).choice([-1.0, 1.0], 200)
    found = rotation.continuous(smooth * signs[:, None])
    np.testing.assert_array_equal(found, smooth * signs[0])
    assert np.sum(found[1:] * found[:-1], axis=-1).min() > 0.9
    np.testing.assert_array_equal(rotation.continuous(smooth[:1]), smooth[:1])


@pytest.mark.parametrize("trailing", [(), (3,)])
def test_angular_velocity_of_an_even_turn_is_its_rate_in_the_world_frame(trailing):
    rate_w, fps = np.array([0.4, -0.3, 0.9]), 50.0
    start = random_quat(*trailing, seed=21)
    time_s = (np.arange(12) / fps).reshape((12,) + (1,) * len(trailing))
    quat = rotation.multiply(rotation.from_rotvec(time_s[..., None] * rate_w), start[None])
    found = rotation.ang_vel_w(quat, fps)
    np.testing.assert_allclose(found, np.broadcast_to(rate_w, found.shape), atol=1e-9)


def test_angular_velocity_of_a_single_frame_is_zero():
    np.testing.assert_array_equal(rotation.ang_vel_w(random_quat(1, 2), 30.0), np.zeros((1, 2, 3)))


def test_many_rotations_at_once_are_the_single_ones_to_the_bit():
    left, right = random_quat(9, seed=22), random_quat(9, seed=23)
    vector, fraction = np.random.default_rng(24).normal(size=(9, 3)), np.linspace(0, 1, 9)
    for function, arguments in (
        (rotation.multiply, (left, right)),
        (rotation.rotate, (left, vector)),
        (rotation.rotate_inverse, (left, vector)),
        (rotation.projected_gravity, (left,)),
        (rotation.to_matrix, (left,)),
        (rotation.to_rotvec, (left,)),
        (rotation.from_rotvec, (vector,)),
        (rotation.slerp, (left, right, fraction)),
        (rotation.heading, (left,)),
    ):
        together = function(*arguments)
        for k in range(9):
            single = function(*(argument[k : k + 1] for argument in arguments))
            np.testing.assert_array_equal(together[k], single[0], err_msg=function.__name__)
