"""The contract: lossless, and refused with a clear text where programs could misunderstand."""

from __future__ import annotations

import dataclasses
import json
import time

import numpy as np
import pytest

from asap_deploy.contract import FEATURES, AnchorLink, ClipFacts, PolicyContract
from asap_deploy.errors import InputError
from asap_deploy.observation import LAYOUTS
from policies import toy_contract


@pytest.fixture(scope="module")
def contract() -> PolicyContract:
    return toy_contract()


@pytest.fixture
def raw(contract) -> dict:
    return json.loads(contract.to_json())


def refusal(raw: object) -> str:
    """What from_json says; raw is a JSON value or a text."""
    text = raw if isinstance(raw, str) else json.dumps(raw)
    with pytest.raises(InputError) as caught:
        PolicyContract.from_json(text)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 400
    return message


@pytest.mark.parametrize(
    ("layout", "robot", "offset"),
    [
        ("asap", "g1:asap", "default"),
        ("asap", "g1:asap", "reference"),
        ("asap-loco", "g1:asap", "default"),
        ("beyondmimic", "g1", "default"),
        ("beyondmimic-state", "g1", "reference"),
        ("asap", "g1:23dof", "default"),
    ],
)
def test_a_contract_of_every_layout_survives_json(layout, robot, offset):
    contract = toy_contract(layout, robot, offset)
    again = PolicyContract.from_json(contract.to_json())
    assert again == contract
    assert again.to_json() == contract.to_json()


AWKWARD = (0.1 + 0.2, 0.07450087032950714, 5e-324, -0.0, 1.0 / 3.0, 123456.789012345, 2.0**-1074)


def test_awkward_numbers_keep_all_their_digits(contract):
    default = AWKWARD + contract.default_joint_pos[len(AWKWARD) :]
    scale = (0.1 + 0.2, 0.07450087032950714, 5e-324, *contract.action_scale[3:])
    awkward = dataclasses.replace(
        contract, default_joint_pos=default, action_scale=scale, control_dt=0.02 + 1e-17
    )
    again = PolicyContract.from_json(awkward.to_json())
    assert np.array(again.default_joint_pos).tobytes() == np.array(default).tobytes()
    assert np.array(again.action_scale).tobytes() == np.array(scale).tobytes()
    assert again == awkward


def test_the_scale_of_a_wrist_is_not_rounded():
    contract = PolicyContract.from_json(toy_contract("beyondmimic", "g1").to_json())
    wrist = contract.action_joint_names.index("left_wrist_pitch_joint")
    # 0.25 * torque limit / stiffness of the 4010 motor; rounded to 3 decimals it is 0.075.
    assert contract.action_scale[wrist] == pytest.approx(0.07450087032950714, rel=1e-9)


def test_texts_of_any_alphabet_survive(contract):
    odd = {"note": 'line\nbreak "quoted" \\ ä 漢 \u2028', "": "empty key"}
    again = PolicyContract.from_json(dataclasses.replace(contract, provenance=odd).to_json())
    assert dict(again.provenance) == odd


def test_a_whole_number_may_stand_for_a_float(raw, contract):
    raw["action_limit"] = 100
    raw["stiffness"] = [int(value) for value in raw["stiffness"]]
    again = PolicyContract.from_json(json.dumps(raw))
    assert again == contract
    assert type(again.action_limit) is float


def test_what_a_reader_must_understand_follows_from_what_is_used():
    contract = toy_contract("asap", offset_mode="reference")
    expected = ("layout:asap", "offset:reference", "target:clip-to-joint-limits")
    assert contract.must_understand == expected
    assert set(expected) <= FEATURES


@pytest.mark.parametrize("key", [f.name for f in dataclasses.fields(PolicyContract)])
def test_every_key_must_be_there(raw, key):
    del raw[key]
    expected = "schema version None" if key == "schema_version" else f"lacks the key '{key}'"
    assert expected in refusal(raw)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("action_scal", "policy contract has unknown key 'action_scal' (did you mean 'action_sca"),
        ("zebra", "policy contract has unknown key 'zebra' (valid: robot, mode_machine, joint_nam"),
        ("x" * 100_000, "policy contract has unknown key 'xxxx"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(raw, key, text):
    raw[key] = 1
    assert text in refusal(raw)


def test_unknown_and_missing_keys_are_found_inside_too(raw):
    raw["clip"]["hash"] = ""
    assert "policy contract.clip has unknown key 'hash'" in refusal(raw)
    del raw["clip"]["hash"], raw["clip"]["fps"]
    assert "policy contract.clip lacks the key 'fps'" in refusal(raw)
    raw["clip"] = None
    raw["anchor_chain"][0] = {"pos": [0, 0, 0]}
    assert "policy contract.anchor_chain lacks the key 'quat_wxyz'" in refusal(raw)


@pytest.mark.parametrize("version", [0, 2, None, "1", [1], 10**30])
def test_another_schema_version_is_refused_with_what_to_do(raw, version):
    raw["schema_version"] = version
    text = refusal(raw)
    assert f"has schema version {version}, this program reads 1; export the policy again" in text


@pytest.mark.parametrize("version", [True, 1.0])
def test_a_version_that_only_equals_one_is_refused(raw, version):
    raw["schema_version"] = version
    assert "policy contract.schema_version must be int" in refusal(raw)


def test_a_feature_that_this_program_does_not_know_is_refused(raw):
    raw["must_understand"].append("filter:butterworth")
    text = "this policy needs 'filter:butterworth', which this program does not know; update asap"
    assert text in refusal(raw)


def test_a_feature_that_is_used_and_not_announced_is_refused(raw):
    raw["must_understand"].remove("layout:asap")
    assert "uses 'layout:asap' but must_understand omits it" in refusal(raw)


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_json_does_not_know_are_refused(contract, constant):
    text = contract.to_json().replace('"action_limit": 100.0', f'"action_limit": {constant}')
    assert constant in text
    assert f"{constant} is not a number that a contract may hold" in refusal(text)


@pytest.mark.parametrize("value", [1e400, -1e400, 1e7])
def test_numbers_that_overflow_or_are_absurd_are_refused(contract, value):
    number = {1e400: "1e400", -1e400: "-1e400"}.get(value, str(value))
    for key in ("stiffness", "default_joint_pos", "action_scale"):
        raw = json.loads(contract.to_json())
        raw[key][0] = "@"
        text = json.dumps(raw).replace('"@"', number)
        assert f"policy contract: {key} must hold" in refusal(text)


def test_a_contract_with_nan_can_not_be_made_or_written(contract):
    with pytest.raises(InputError, match="torque_limit must hold 29 finite numbers"):
        dataclasses.replace(contract, torque_limit=(np.nan,) * 29)


PER_JOINT = ("default_joint_pos", "stiffness", "damping", "torque_limit", "joint_vel_limit",
             "joint_pos_lower", "joint_pos_upper")  # fmt: skip


@pytest.mark.parametrize("key", [*PER_JOINT, "action_scale"])
def test_lists_of_the_wrong_length_are_refused(raw, key):
    size = 23 if key == "action_scale" else 29
    raw[key].pop()
    assert f"policy contract: {key} must hold {size} finite numbers" in refusal(raw)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"quat_order": "xyzw"}, "has quat_order 'xyzw', only wxyz is"),
        ({"offset_mode": "referense"}, "offset_mode 'referense' (did you mean 'reference'?)"),
        ({"layout": "asap2"}, "has layout 'asap2' (did you mean 'asap'?)"),
        ({"control_dt": 0.0}, "control_dt is 0.0 s, not 0.001 to 0.2"),
        ({"control_dt": 20}, "control_dt is 20.0 s"),
        ({"action_limit": 0.0}, "action_limit is 0.0"),
        ({"action_limit": -1.0}, "action_limit is -1.0"),
        ({"offset_mode": "reference", "clip": None,
          "must_understand": []}, "needs a clip and names none"),
        ({"joint_names": []}, "empty or repeated name in joint_names"),
        ({"action_joint_names": ["left_knee_joint"] * 23}, "repeated name in action_joint_names"),
        ({"anchor_chain": [{"pos": [0, 0, 0], "quat_wxyz": [1, 0, 0, 0], "axis": [0, 0, 1],
                            "joint": "neck"}]}, "anchor_chain holds unknown joint 'neck'"),
        ({"anchor_chain": [{"pos": [0, 0], "quat_wxyz": [1, 0, 0, 0], "axis": [0, 0, 1],
                            "joint": ""}]}, "expected 3 numbers up to 10"),
    ],
)  # fmt: skip
def test_values_that_make_no_sense_are_refused(raw, changes, text):
    assert text in refusal(raw | changes)


@pytest.mark.parametrize("key", ["torque_limit", "joint_vel_limit", "action_scale"])
def test_limits_and_scales_must_be_positive(raw, key):
    raw[key][3] = 0.0
    assert f"policy contract: {key} must be positive" in refusal(raw)


def test_negative_gains_and_reversed_limits_are_refused(raw):
    raw["damping"][0] = -0.1
    assert "stiffness and damping must not be negative" in refusal(raw)
    raw["damping"][0] = 0.1
    raw["joint_pos_lower"][2], raw["joint_pos_upper"][2] = 1.0, -1.0
    assert "joint_pos_lower is above joint_pos_upper" in refusal(raw)


@pytest.mark.parametrize(
    ("changes", "valid"),
    [
        ({"duration_s": 0.0}, False),
        ({"fps": 0.5}, False),
        ({"frames": 1}, False),
        ({"frames": 10**18}, False),
        ({"phase_lead_s": -0.1}, False),
        ({"phase_lead_s": 0.04}, True),
    ],
)
def test_clip_facts_out_of_range_are_refused(raw, changes, valid):
    raw["clip"] |= changes
    if valid:
        PolicyContract.from_json(json.dumps(raw))
    else:
        assert "clip facts are out of range" in refusal(raw)


def test_an_observation_whose_elements_are_not_those_of_the_layout_is_refused(raw):
    names = raw["element_names"]
    names[0], names[1] = names[1], names[0]
    text = refusal(raw)
    assert "has 380 elements, layout 'asap' builds 380 here; the first that differs: " in text
    assert "actions.left_hip_roll_joint for actions.left_hip_pitch_joint" in text
    names.pop()
    assert "has 379 elements, layout 'asap' builds 380 here" in refusal(raw)


def test_another_order_of_joints_needs_another_order_of_elements(raw):
    names = raw["action_joint_names"]
    names[0], names[1] = names[1], names[0]
    assert "the first that differs: actions.left_hip_pitch_joint for actions.left" in refusal(raw)


def test_a_joint_that_is_commanded_must_be_listed(raw):
    raw["action_joint_names"][3] = "left_nee_joint"
    text = "action_joint_names holds 'left_nee_joint', which joint_names does not (did you mean"
    assert text in refusal(raw)


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("action_limit", True, "contract.action_limit must be float, got 'True'"),
        ("action_limit", "100", "contract.action_limit must be float, got '100'"),
        ("action_limit", None, "contract.action_limit must be float, got 'None'"),
        ("action_limit", 10**400, "contract.action_limit must be float, got '1000"),
        ("clip_target_to_limits", 1, "contract.clip_target_to_limits must be bool, got '1'"),
        ("clip_target_to_limits", "no", "contract.clip_target_to_limits must be bool"),
        ("robot", 5, "contract.robot must be str, got '5'"),
        ("mode_machine", [True], "contract.mode_machine must be int, got 'True'"),
        ("mode_machine", [5.0], "contract.mode_machine must be int, got '5.0'"),
        ("mode_machine", 5, "contract.mode_machine must be a list"),
        ("stiffness", {"0": 1.0}, "contract.stiffness must be a list"),
        ("stiffness", [True] * 29, "contract.stiffness must be float, got 'True'"),
        ("joint_names", "knee", "contract.joint_names must be a list"),
        ("element_names", [[]] * 380, "contract.element_names must be str"),
        ("provenance", [], "contract.provenance must be a JSON object"),
        ("provenance", {"a": 1}, "contract.provenance must be str, got '1'"),
        ("clip", [], "contract.clip must be a JSON object, got list"),
        ("anchor_chain", [[]], "contract.anchor_chain must be a JSON object, got list"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_by_its_place(raw, key, value, text):
    raw[key] = value
    assert text in refusal(raw)


@pytest.mark.parametrize("text", ["", "{", "nonsense", '{"a": 1,}', "\x00", "1" * 5000])
def test_what_is_not_json_is_refused(text):
    assert "policy contract is not valid JSON" in refusal(text)


@pytest.mark.parametrize("text", ["[]", "1", '"text"', "null"])
def test_json_that_is_no_object_is_refused(text):
    assert "schema version None" in refusal(text)


@pytest.mark.parametrize("depth", [50, *range(880, 1000, 7), 100_000])
def test_deep_nesting_is_refused_at_any_depth(contract, depth):
    nested = "[" * depth + "]" * depth
    text = contract.to_json().replace('"robot": "g1:asap"', f'"robot": {nested}')
    assert nested in text
    refusal(text)


def test_a_contract_with_endless_joints_is_refused_at_once(raw):
    raw["joint_names"] = [f"joint{k}" for k in range(200_000)]
    start = time.perf_counter()
    assert "200000 joint_names" in refusal(raw)
    assert time.perf_counter() - start < 2.0


def test_joints_under_control_that_are_not_commanded_are_held(contract):
    assert len(contract.held_joint_names) == 6
    assert all("wrist" in name for name in contract.held_joint_names)
    index = contract.index(contract.action_joint_names)
    # The 23 commanded joints are positions 0-18 and 22-25 of the 29.
    np.testing.assert_array_equal(index, [*range(19), *range(22, 26)])


def test_parts_can_be_made_by_hand():
    with pytest.raises(InputError, match="expected 4 numbers up to 10"):
        AnchorLink(pos=(0.0, 0.0, 0.0), quat_wxyz=(1.0, 0.0, 0.0))
    facts = ClipFacts("wave", "00", 30.0, 46, 1.5)
    assert facts.phase_lead_s == 0.0
    assert set(LAYOUTS) == {
        "asap", "asap-loco", "beyondmimic", "beyondmimic-state", "proprioception",
    }  # fmt: skip


def test_a_key_that_stands_twice_is_refused():
    text = toy_contract().to_json()
    twice = text[:-1] + ', "layout": "asap"}'
    with pytest.raises(InputError, match="the key 'layout' stands twice"):
        PolicyContract.from_json(twice)
