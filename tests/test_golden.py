"""Golden vectors: whatever was changed after the export shows before the policy is trusted."""

from __future__ import annotations

import base64
import dataclasses
import json

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from asap import onnx_file
from asap_deploy import golden
from asap_deploy.contract import GOLDEN_KEY, METADATA_KEY
from asap_deploy.errors import InputError
from asap_deploy.policy import Policy
from policies import golden_text, robot, toy_contract, toy_policy, toy_policy_bytes, with_contract

KINDS = [
    ("asap", "g1:asap", "default"),
    ("asap", "g1:asap", "reference"),
    ("asap-loco", "g1:asap", "default"),
    ("beyondmimic", "g1", "default"),
    ("beyondmimic-state", "g1", "reference"),
]
CHANGED = "golden vectors are not reproduced by"


def refusal(data: bytes) -> str:
    with pytest.raises(InputError) as caught:
        golden.verify(Policy.from_bytes(data))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    return str(caught.value)


def with_golden(text: str) -> bytes:
    """The toy policy with other golden vectors."""
    data = toy_policy_bytes()
    return with_contract(data, Policy.from_bytes(data).graph.metadata[METADATA_KEY], **{
        GOLDEN_KEY: text})  # fmt: skip


def with_raw_contract(kind: tuple, **changes: object) -> bytes:
    raw = json.loads(toy_policy(*kind).contract.to_json())
    return with_contract(toy_policy_bytes(*kind), json.dumps(raw | changes))


@pytest.mark.parametrize("kind", KINDS)
def test_a_policy_of_every_layout_reproduces_what_it_recorded(kind, tmp_path):
    path = tmp_path / "policy.onnx"
    path.write_bytes(toy_policy_bytes(*kind))
    policy = golden.load_policy(path)
    assert policy.contract == toy_contract(*kind)
    assert golden.verify(policy) < 1e-5


def test_recording_twice_gives_the_same_text_and_another_seed_another_one():
    policy = toy_policy()
    assert golden.record(policy) == golden.record(policy) == golden_text(toy_policy_bytes())
    assert golden.record(policy, seed=1) != golden.record(policy)


def test_the_recorded_sequence_fills_the_history_and_has_no_constant_input():
    vectors = json.loads(golden_text(toy_policy_bytes()))
    observation = np.frombuffer(
        base64.b64decode(vectors["observation"]["data"]), vectors["observation"]["dtype"]
    ).reshape(vectors["observation"]["shape"])
    assert len(observation) >= golden.MIN_STEPS
    assert (np.ptp(observation, axis=0) > 1e-4).all(), "a number that never moves is not tested"


@pytest.mark.parametrize("weight", ["weight0", "bias0", "weight1", "bias1"])
@pytest.mark.parametrize("seed", range(5))
def test_a_changed_weight_is_noticed(weight, seed):
    model = onnx.load_model_from_string(toy_policy_bytes())
    tensor = next(t for t in model.graph.initializer if t.name == weight)
    array = numpy_helper.to_array(tensor).copy()
    array.flat[np.random.default_rng(seed).integers(array.size)] += 0.3
    tensor.CopyFrom(numpy_helper.from_array(array, weight))
    assert CHANGED in refusal(model.SerializeToString())


def test_a_changed_clip_is_noticed_where_it_moves_the_targets():
    model = onnx.load_model_from_string(toy_policy_bytes("asap", "g1:asap", "reference"))
    tensor = next(t for t in model.graph.initializer if t.name == "joint_pos_table")
    array = numpy_helper.to_array(tensor).copy()
    array[3, 15] += 0.01
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    assert "joint_pos_target differs by" in refusal(model.SerializeToString())


# Of the contract, golden vectors cover what turns a measurement into a target. Not covered, because
# they act on the motors or are for people: stiffness, damping, torque_limit, joint_vel_limit,
# mode_machine, robot, provenance, clip.name, clip.sha256; and limits that the sequence does not
# reach: joint_pos_lower, joint_pos_upper, clip_target_to_limits, action_limit. control_dt is
# covered with the offset `reference` alone.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("key", ["default_joint_pos", "action_scale"])
@pytest.mark.parametrize("place", [0, 7, 11])
def test_a_changed_default_pose_or_scale_is_noticed_at_any_joint(kind, key, place):
    values = list(getattr(toy_policy(*kind).contract, key))
    values[place] += 0.02
    assert CHANGED in refusal(with_raw_contract(kind, **{key: values}))


def test_a_default_pose_or_scale_that_was_rounded_to_three_decimals_is_noticed():
    kind = ("beyondmimic", "g1", "default")
    contract = toy_policy(*kind).contract
    rounded = [round(value, 3) for value in contract.action_scale]
    assert f"{CHANGED} the contract" in refusal(with_raw_contract(kind, action_scale=rounded))
    rounded = [round(value, 3) for value in contract.default_joint_pos]
    if rounded != list(contract.default_joint_pos):
        assert CHANGED in refusal(with_raw_contract(kind, default_joint_pos=rounded))


@pytest.mark.parametrize("kind", KINDS)
def test_swapped_joints_are_noticed(kind):
    names = list(toy_policy(*kind).contract.joint_names)
    names[0], names[6] = names[6], names[0]
    assert CHANGED in refusal(with_raw_contract(kind, joint_names=names))


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (KINDS[0], {"duration_s": 1.6}),
        (KINDS[0], {"phase_lead_s": 0.0}),
        (KINDS[1], {"fps": 33.0}),
        (KINDS[3], {"fps": 33.0}),
    ],
)
def test_changed_facts_of_the_clip_are_noticed(kind, changes):
    clip = json.loads(toy_policy(*kind).contract.to_json())["clip"]
    assert CHANGED in refusal(with_raw_contract(kind, clip=clip | changes))


def test_a_clip_of_another_length_does_not_fit_its_contract():
    clip = json.loads(toy_policy().contract.to_json())["clip"]
    text = refusal(with_raw_contract(KINDS[0], clip=clip | {"frames": 45}))
    assert "the contract says (45, 29)" in text


def test_another_control_step_or_anchor_is_noticed_where_it_acts():
    assert CHANGED in refusal(with_raw_contract(KINDS[1], control_dt=0.04))
    chain = json.loads(toy_policy(*KINDS[4]).contract.to_json())["anchor_chain"]
    chain[0]["pos"][2] += 0.05
    assert "observation differs" in refusal(with_raw_contract(KINDS[4], anchor_chain=chain))


def test_another_offset_mode_is_noticed():
    raw = json.loads(toy_policy().contract.to_json())
    needs = [name for name in raw["must_understand"] if not name.startswith("offset")]
    data = with_raw_contract(
        KINDS[0], offset_mode="reference", must_understand=[*needs, "offset:reference"]
    )
    assert "joint_pos_target differs" in refusal(data)


def test_joint_limits_are_noticed_where_the_sequence_reaches_them():
    upper = list(toy_policy().contract.joint_pos_upper)
    upper[3] = robot().default_joint_pos[3] - 0.2
    assert "joint_pos_target differs" in refusal(with_raw_contract(KINDS[0], joint_pos_upper=upper))


@pytest.mark.parametrize(
    "name",
    [
        "observation", "action", "joint_pos_target", "joint_pos", "joint_vel", "base_quat_wxyz",
        "base_ang_vel_b", "time_s",
    ],
)  # fmt: skip
def test_a_changed_vector_is_noticed(name):
    vectors = json.loads(golden_text(toy_policy_bytes()))
    entry = vectors[name]
    array = np.frombuffer(base64.b64decode(entry["data"]), entry["dtype"]).copy()
    array[array.size // 2] += 0.015
    entry["data"] = base64.b64encode(array.tobytes()).decode()
    assert CHANGED in refusal(with_golden(json.dumps(vectors)))


def _cut(vectors, steps):
    for entry in (entry for entry in vectors.values() if isinstance(entry, dict)):
        array = np.frombuffer(base64.b64decode(entry["data"]), entry["dtype"])
        array = np.resize(array.reshape(entry["shape"]), (steps, *entry["shape"][1:]))
        entry |= {
            "shape": [steps, *entry["shape"][1:]],
            "data": base64.b64encode(array.tobytes()).decode(),
        }


def _set(name, **changes):
    def change(vectors):
        vectors[name] |= changes

    return change


def _nan(vectors):
    array = np.full(vectors["action"]["shape"], np.nan)
    vectors["action"] |= {"dtype": "<f8", "data": base64.b64encode(array.tobytes()).decode()}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda v: _cut(v, 15), "policy has 15 golden vectors, at least 16 are needed"),
        (lambda v: _cut(v, 0), "policy has 0 golden vectors"),
        (lambda v: _cut(v, 1001), "policy has 1001 golden vectors, at most 1000 are replayed"),
        (lambda v: v.pop("action"), "golden vectors of the policy are damaged: 'action'"),
        (lambda v: v.update(action=5), "golden vectors of the policy are damaged"),
        (lambda v: v.update(extra=v["action"] | {"data": "?"}), "are damaged"),
        (_set("action", data="AAAA"), "are damaged: buffer size must be a multiple"),
        (_set("action", data="AAA"), "are damaged: Incorrect padding"),
        (_set("action", data="AAAAAAAAAAA="), "are damaged: cannot reshape array"),
        (_set("action", data=None), "are damaged"),
        (_set("action", dtype="|O"), "are damaged: action has type |O"),
        (_set("action", dtype=["<f8"]), "are damaged: action has type"),
        (_set("action", shape=[23, 20]), "are damaged: action has shape (23, 20)"),
        (_set("action", shape=[10**30]), "are damaged"),
        (_set("action", shape="all"), "are damaged"),
        (_set("time_s", shape=[20, 1]), "are damaged: time_s has shape (20, 1)"),
        (_set("time_s", shape=[]), "are damaged"),
        (_nan, "are damaged: action holds values that are not finite"),
    ],
)
def test_damaged_vectors_are_refused(change, text):
    vectors = json.loads(golden_text(toy_policy_bytes()))
    change(vectors)
    assert text in refusal(with_golden(json.dumps(vectors)))


@pytest.mark.parametrize("text", ["", "[]", "null", "5", "{}", "[" * 100_000, '{"a": NaN}'])
def test_text_that_holds_no_vectors_is_refused(text):
    assert "golden vectors of the policy are damaged" in refusal(with_golden(text))


def test_a_truncated_text_is_refused():
    text = golden_text(toy_policy_bytes())
    for share in (0.1, 0.5, 0.99):
        short = text[: int(share * len(text))]
        assert "golden vectors of the policy are damaged" in refusal(with_golden(short))


def test_a_policy_without_vectors_or_without_a_contract_is_refused_with_what_to_do():
    model = onnx.load_model_from_string(toy_policy_bytes())
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    without = {key: value for key, value in metadata.items() if key != GOLDEN_KEY}
    text = refusal(onnx_file.with_metadata(model, without))
    assert "policy carries no golden vectors; export it again with `asap export`" in text
    text = refusal(onnx_file.with_metadata(model, {}))
    assert "carries no contract" in text and "asap export --from-onnx FILE --layout NAME" in text


@pytest.mark.parametrize(("engine", "method"), [("onnxruntime", "act"), ("numpy", "act_numpy")])
def test_an_engine_that_computes_wrongly_is_named(engine, method):
    policy = Policy.from_bytes(toy_policy_bytes())
    right = getattr(policy, method)
    setattr(policy, method, lambda observation: right(observation) * 1.01)
    with pytest.raises(InputError, match=f"{CHANGED} {engine}: observation differs by"):
        golden.verify(policy)


def test_errors_about_a_file_end_with_its_path(tmp_path):
    path = tmp_path / "policy.onnx"
    for data, text in (
        (b"", "not an ONNX file"),
        (toy_policy_bytes()[:5000], "not an ONNX file"),
        (with_golden("{}"), "golden vectors of the policy are damaged"),
    ):
        path.write_bytes(data)
        with pytest.raises(InputError, match=text) as caught:
            golden.load_policy(path)
        assert str(caught.value).endswith(f"(file: {path})")


def test_files_that_cannot_be_read_are_input_errors(tmp_path):
    with pytest.raises(InputError, match="policy cannot be read: No such file or directory"):
        golden.load_policy(tmp_path / "none.onnx")
    with pytest.raises(InputError, match="policy cannot be read: Is a directory"):
        golden.load_policy(tmp_path)
    with pytest.raises(InputError, match="policy cannot be read"):
        golden.load_policy("policy\0.onnx")
    with (tmp_path / "huge.onnx").open("wb") as stream:
        stream.truncate(300 << 20)
    with pytest.raises(InputError, match="ONNX file has 300 MB, at most 256"):
        golden.load_policy(tmp_path / "huge.onnx")


@pytest.mark.parametrize("field", ["stiffness", "damping", "torque_limit", "joint_vel_limit"])
def test_gains_and_limits_that_no_vector_shows_are_hashed(field):
    policy = Policy.from_bytes(toy_policy_bytes())
    golden.verify(policy)
    values = getattr(policy.contract, field)
    changed = dataclasses.replace(policy.contract, **{field: (values[0] * 1.01, *values[1:])})
    policy.contract = changed
    with pytest.raises(InputError, match="the contract was changed after the policy was exported"):
        golden.verify(policy)
