"""The observation, number by number.

Indices are those of the published policies: 380 numbers for tracking, 500 for walking, 154 and 160
for BeyondMimic. The first half of the file writes them down; the second half steps into each trap
on purpose and asserts that the trapped vector is not the one that is built.
"""

from __future__ import annotations

import numpy as np
import pytest

from asap_deploy import rotation
from asap_deploy.errors import InputError
from asap_deploy.observation import (
    LAYOUTS,
    TERMS,
    Command,
    Measurement,
    ObservationBuilder,
    ObservationInputs,
    ReferenceInput,
    Sizes,
    find_layout,
)

ASAP, LOCO = Sizes(23, 23), Sizes(29, 12, 17)
PAST = ("actions", "base_ang_vel", "dof_pos", "dof_vel", "projected_gravity", "ref_motion_phase")
WIDTHS = {"actions": 23, "base_ang_vel": 3, "dof_pos": 23, "dof_vel": 23, "projected_gravity": 3,
          "ref_motion_phase": 1}  # fmt: skip


def inputs_at(step: int, sizes: Sizes = ASAP, num_robots: int = 1) -> ObservationInputs:
    """Hand-made inputs of one step: every number differs from every other and between steps."""
    rng = np.random.default_rng(100 + step)
    quat = rng.normal(size=(num_robots, 4))
    return ObservationInputs(
        measurement=Measurement(
            joint_pos=rng.normal(size=(num_robots, sizes.joints)),
            joint_vel=rng.normal(size=(num_robots, sizes.joints)),
            base_quat_wxyz=quat / np.linalg.norm(quat, axis=-1, keepdims=True),
            base_ang_vel_b=rng.normal(size=(num_robots, 3)),
            base_pos_w=rng.normal(size=(num_robots, 3)),
            base_lin_vel_w=rng.normal(size=(num_robots, 3)),
        ),
        default_joint_pos=np.linspace(-0.3, 0.3, sizes.joints),
        last_action=rng.normal(size=(num_robots, sizes.actions)),
        phase=rng.uniform(size=num_robots),
        reference=ReferenceInput(
            joint_pos=rng.normal(size=(num_robots, sizes.joints)),
            joint_vel=rng.normal(size=(num_robots, sizes.joints)),
            anchor_pos_b=rng.normal(size=(num_robots, 3)),
            anchor_quat_b=rotation.normalize(rng.normal(size=(num_robots, 4))),
        ),
        command=Command(
            lin_vel_b=rng.normal(size=(num_robots, 2)),
            ang_vel=rng.normal(size=(num_robots, 1)),
            base_height=rng.normal(size=(num_robots, 1)),
            walk=np.ones((num_robots, 1)),
        ),
        held_joint_pos=rng.normal(size=(num_robots, sizes.held)),
    )


def asap_terms(step: int) -> dict[str, np.ndarray]:
    """The scaled blocks of one step of layout asap, written out by hand for the first robot."""
    inputs = inputs_at(step)
    joint_pos, joint_vel, quat, ang_vel = (array[0] for array in inputs.measurement[:4])
    w, x, y, z = quat
    gravity = [2 * (w * y - x * z), -2 * (w * x + y * z), 2 * (x * x + y * y) - 1]
    return {
        "actions": inputs.last_action[0],
        "base_ang_vel": 0.25 * ang_vel,
        "dof_pos": joint_pos - inputs.default_joint_pos,
        "dof_vel": 0.05 * joint_vel,
        "projected_gravity": np.array(gravity),
        "ref_motion_phase": inputs.phase,
    }


def built(layout: str, sizes: Sizes, steps: int) -> np.ndarray:
    """The observation of the last of some steps."""
    builder = ObservationBuilder(LAYOUTS[layout], sizes)
    for step in range(steps):
        observation = builder.build(inputs_at(step, sizes))
    return observation[0]


def assembled(steps: list[int], now: int, *, term_order=PAST, per_term=True) -> np.ndarray:
    """The 380 numbers from blocks, with the past in any order that one may get wrong."""
    frames = [asap_terms(step) for step in steps]
    if per_term:
        past = [frame[term] for term in term_order for frame in frames]
    else:
        past = [frame[term] for frame in frames for term in term_order]
    present = asap_terms(now)
    head = [present[term] for term in PAST[:4]]
    tail = [present[term] for term in PAST[4:]]
    return np.concatenate([*head, *past, *tail]).astype(np.float32)


def test_the_asap_observation_has_its_380_numbers_at_the_published_indices():
    observation = built("asap", ASAP, steps=6)
    assert observation.shape == (380,)
    assert observation.dtype == np.float32
    now = asap_terms(5)
    for start, stop, term in (
        (0, 23, "actions"),
        (23, 26, "base_ang_vel"),
        (26, 49, "dof_pos"),
        (49, 72, "dof_vel"),
        (376, 379, "projected_gravity"),
        (379, 380, "ref_motion_phase"),
    ):
        np.testing.assert_allclose(observation[start:stop], now[term], atol=1e-6, err_msg=term)


@pytest.mark.parametrize(
    ("start", "stop", "term"),
    [
        (72, 164, "actions"),
        (164, 176, "base_ang_vel"),
        (176, 268, "dof_pos"),
        (268, 360, "dof_vel"),
        (360, 372, "projected_gravity"),
        (372, 376, "ref_motion_phase"),
    ],
)
def test_the_asap_history_holds_each_term_of_four_past_steps_newest_first(start, stop, term):
    block = built("asap", ASAP, steps=7)[start:stop]
    expected = np.concatenate([asap_terms(step)[term] for step in (5, 4, 3, 2)])
    np.testing.assert_allclose(block, expected, atol=1e-6)


def test_the_history_is_zero_after_a_reset_and_fills_step_by_step():
    builder = ObservationBuilder(LAYOUTS["asap"], ASAP)
    for step in range(3):
        builder.build(inputs_at(step))
    builder.reset()
    first = builder.build(inputs_at(3))[0]
    np.testing.assert_array_equal(first[72:376], 0.0)
    second = builder.build(inputs_at(4))[0]
    np.testing.assert_allclose(second[72:95], asap_terms(3)["actions"], atol=1e-6)
    np.testing.assert_array_equal(second[95:164], 0.0)


def test_a_reset_of_some_robots_leaves_the_others_untouched():
    layout, together = LAYOUTS["asap"], ObservationBuilder(LAYOUTS["asap"], ASAP, 3)
    never = ObservationBuilder(layout, ASAP, 3)
    for step in range(5):
        together.build(inputs_at(step, num_robots=3))
        never.build(inputs_at(step, num_robots=3))
    together.reset(np.array([1]))
    observation = together.build(inputs_at(5, num_robots=3))
    expected = never.build(inputs_at(5, num_robots=3))
    np.testing.assert_array_equal(observation[[0, 2]], expected[[0, 2]])
    np.testing.assert_array_equal(observation[1, 72:376], 0.0)


@pytest.mark.parametrize(
    ("layout", "sizes"),
    [("asap", ASAP), ("asap-loco", LOCO), ("beyondmimic", Sizes(29, 29)),
     ("beyondmimic-state", Sizes(29, 29))],
)  # fmt: skip
def test_many_robots_at_once_are_the_single_ones_to_the_bit(layout, sizes):
    together = ObservationBuilder(LAYOUTS[layout], sizes, 5)
    single = [ObservationBuilder(LAYOUTS[layout], sizes) for _ in range(5)]

    def row(value, k):
        if isinstance(value, tuple):
            return type(value)(*(row(item, k) for item in value))
        return value[k : k + 1]

    for step in range(6):
        inputs = inputs_at(step, sizes, 5)
        observation = together.build(inputs)
        for k in range(5):
            one = ObservationInputs(
                *(
                    value if name == "default_joint_pos" else row(value, k)
                    for name, value in inputs._asdict().items()
                )
            )
            np.testing.assert_array_equal(single[k].build(one)[0], observation[k])


def test_building_an_observation_keeps_no_hold_of_what_it_returned():
    builder = ObservationBuilder(LAYOUTS["asap"], ASAP)
    first = builder.build(inputs_at(0))
    first[:] = 55.0
    np.testing.assert_allclose(
        builder.build(inputs_at(1))[0, 72:95], asap_terms(0)["actions"], atol=1e-6
    )


def test_observations_are_clipped_to_a_hundred_and_the_history_as_well():
    builder = ObservationBuilder(LAYOUTS["asap"], ASAP)
    inputs = inputs_at(0)
    wild = inputs._replace(last_action=inputs.last_action * 1e6)
    for _ in range(2):
        observation = builder.build(wild)[0]
    signs = np.sign(inputs.last_action[0])
    np.testing.assert_array_equal(observation[:23], 100.0 * signs)
    np.testing.assert_array_equal(observation[72:95], 100.0 * signs)
    assert np.abs(observation).max() == 100.0


def test_the_walking_observation_has_its_500_numbers_at_the_published_indices():
    observation = built("asap-loco", LOCO, steps=6)
    assert observation.shape == (500,)
    now, before = inputs_at(5, LOCO), inputs_at(4, LOCO)
    angle = 2.0 * np.pi
    for start, expected in (
        (0, now.last_action[0]),
        (12, 0.25 * now.measurement.base_ang_vel_b[0]),
        (15, now.command.ang_vel[0]),
        (16, 2.0 * now.command.base_height[0]),
        (17, now.command.lin_vel_b[0]),
        (19, now.command.walk[0]),
        (20, np.cos(angle * now.phase)),
        (21, now.measurement.joint_pos[0] - now.default_joint_pos),
        (50, 0.05 * now.measurement.joint_vel[0]),
        # history, newest first within a term: 4 x 12, 3, 1, 1, 2, 1, 1, 29, 29, 3, 17, 1
        (79, before.last_action[0]),
        (79 + 12, inputs_at(3, LOCO).last_action[0]),
        (127, 0.25 * before.measurement.base_ang_vel_b[0]),
        (139, before.command.ang_vel[0]),
        (143, 2.0 * before.command.base_height[0]),
        (147, before.command.lin_vel_b[0]),
        (155, before.command.walk[0]),
        (159, np.cos(angle * before.phase)),
        (163, before.measurement.joint_pos[0] - before.default_joint_pos),
        (279, 0.05 * before.measurement.joint_vel[0]),
        (395, rotation.projected_gravity(before.measurement.base_quat_wxyz)[0]),
        (407, before.held_joint_pos[0]),
        (475, np.sin(angle * before.phase)),
        (479, rotation.projected_gravity(now.measurement.base_quat_wxyz)[0]),
        (482, now.held_joint_pos[0]),
        (499, np.sin(angle * now.phase)),
    ):
        found = observation[start : start + len(expected)]
        np.testing.assert_allclose(found, expected, atol=1e-6, err_msg=f"at {start}")


@pytest.mark.parametrize(("layout", "width"), [("beyondmimic", 154), ("beyondmimic-state", 160)])
def test_the_beyondmimic_observation_has_its_numbers_in_order_and_unscaled(layout, width):
    sizes = Sizes(29, 29)
    observation, now = built(layout, sizes, steps=2), inputs_at(1, sizes)
    measured, reference = now.measurement, now.reference
    matrix = rotation.to_matrix(reference.anchor_quat_b[0])
    blocks = [
        reference.joint_pos[0],
        reference.joint_vel[0],
        # First two columns, row by row: m00 m01 m10 m11 m20 m21.
        [matrix[0, 0], matrix[0, 1], matrix[1, 0], matrix[1, 1], matrix[2, 0], matrix[2, 1]],
        measured.base_ang_vel_b[0],
        measured.joint_pos[0] - now.default_joint_pos,
        measured.joint_vel[0],
        now.last_action[0],
    ]
    if layout == "beyondmimic-state":
        blocks.insert(2, reference.anchor_pos_b[0])
        velocity_b = rotation.to_matrix(measured.base_quat_wxyz[0]).T @ measured.base_lin_vel_w[0]
        blocks.insert(4, velocity_b)
    expected = np.concatenate(blocks)
    assert observation.shape == expected.shape == (width,)
    np.testing.assert_allclose(observation, expected, atol=1e-6)


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_every_number_has_a_name_of_its_own(layout):
    joints = tuple(f"j{k}" for k in range(29))
    names = LAYOUTS[layout].element_names(joints, joints[:12], joints[12:])
    assert len(set(names)) == len(names) == LAYOUTS[layout].width(Sizes(29, 12, 17))


def test_names_say_term_age_and_joint_of_the_number_at_their_index():
    joints = tuple(f"j{k}" for k in range(23))
    names = LAYOUTS["asap"].element_names(joints, joints)
    assert names[0] == "actions.j0"
    assert names[26 + 7] == "dof_pos.j7"
    assert names[72 + 2 * 23 + 5] == "history[t-3].actions.j5"
    assert names[360] == "history[t-1].projected_gravity.0"
    assert names[379] == "ref_motion_phase.0"


@pytest.mark.parametrize(
    ("name", "width", "found"),
    [("asap", 380, "asap"), ("beyondmimic", 154, "beyondmimic"),
     ("beyondmimic", 160, "beyondmimic-state")],
)  # fmt: skip
def test_a_layout_is_found_by_name_and_width(name, width, found):
    sizes = ASAP if name == "asap" else Sizes(29, 29)
    assert find_layout(name, sizes, width).name == found


def test_a_layout_of_another_width_or_name_is_refused_with_what_would_fit():
    with pytest.raises(InputError, match=r"takes 200 numbers, layout 'beyondmimic' has beyondmimic "
                       r"154, beyondmimic-state 160 for 29 joints and 29 actions"):  # fmt: skip
        find_layout("beyondmimic", Sizes(29, 29), 200)
    with pytest.raises(InputError, match=r"no observation layout 'asab' \(did you mean 'asap'\?\)"):
        find_layout("asab", ASAP, 380)


# The traps, in the order of the fact sheet's list. `right` is what the builder gives.


@pytest.fixture(scope="module")
def right() -> np.ndarray:
    return built("asap", ASAP, steps=7)


def assert_trap(right: np.ndarray, trapped: np.ndarray) -> None:
    """The vector with the mistake is another one, by more than rounding."""
    assert trapped.shape == right.shape
    assert np.abs(trapped - right).max() > 1e-3


def test_the_vector_without_any_trap_is_the_one_that_is_built(right):
    np.testing.assert_allclose(assembled([5, 4, 3, 2], 6), right, atol=1e-6)


def test_trap_1_terms_in_the_order_of_a_config_file_instead_of_the_alphabet(right):
    config = ("base_ang_vel", "projected_gravity", "dof_pos", "dof_vel", "actions",
              "ref_motion_phase")  # fmt: skip
    assert_trap(right, assembled([5, 4, 3, 2], 6, term_order=config))
    assert list(PAST) == sorted(PAST)
    assert LAYOUTS["asap"].frame_terms() == PAST
    for layout in ("asap", "asap-loco"):
        assert list(LAYOUTS[layout].terms) == sorted(LAYOUTS[layout].terms)


def test_trap_2_history_frame_by_frame_oldest_first_or_with_the_present_frame(right):
    assert_trap(right, assembled([5, 4, 3, 2], 6, per_term=False))
    assert_trap(right, assembled([2, 3, 4, 5], 6))
    assert_trap(right, assembled([6, 5, 4, 3], 6))


def test_trap_3_a_quaternion_read_as_xyzw(right):
    builder = ObservationBuilder(LAYOUTS["asap"], ASAP)
    for step in range(7):
        inputs = inputs_at(step)
        rolled = rotation.xyzw_from_wxyz(inputs.measurement.base_quat_wxyz)
        measurement = inputs.measurement._replace(base_quat_wxyz=rolled)
        trapped = builder.build(inputs._replace(measurement=measurement))[0]
    assert_trap(right, trapped)
    # Only what depends on the attitude differs: gravity now and in the history.
    differs = np.flatnonzero(trapped != right)
    assert set(differs) <= {*range(360, 372), *range(376, 379)}


def test_trap_4_an_angular_velocity_that_is_rotated_once_more(right):
    builder = ObservationBuilder(LAYOUTS["asap"], ASAP)
    for step in range(7):
        inputs = inputs_at(step)
        quat, ang_vel = inputs.measurement.base_quat_wxyz, inputs.measurement.base_ang_vel_b
        measurement = inputs.measurement._replace(base_ang_vel_b=rotation.rotate(quat, ang_vel))
        trapped = builder.build(inputs._replace(measurement=measurement))[0]
    assert_trap(right, trapped)
    measured = inputs_at(6).measurement.base_ang_vel_b[0]
    np.testing.assert_array_equal(right[23:26], (0.25 * measured).astype(np.float32))


def test_trap_5_velocities_without_their_scale(right):
    assert (TERMS["base_ang_vel"].scale, TERMS["dof_vel"].scale) == (0.25, 0.05)
    inputs = inputs_at(6)
    for part, raw in (
        (slice(49, 72), inputs.measurement.joint_vel[0]),
        (slice(23, 26), inputs.measurement.base_ang_vel_b[0]),
    ):
        trapped = right.copy()
        trapped[part] = raw
        assert_trap(right, trapped)
    # The past is stored scaled, once.
    past = 0.05 * inputs_at(5).measurement.joint_vel[0]
    np.testing.assert_allclose(right[268:291], past, atol=1e-6)


def test_trap_7_actions_in_the_observation_are_not_scaled_to_radians(right):
    trapped = right.copy()
    trapped[:23] = 0.25 * inputs_at(6).last_action[0]
    assert_trap(right, trapped)
    expected = inputs_at(6).last_action[0].astype(np.float32)
    np.testing.assert_array_equal(right[:23], expected)
