"""Policies as files: what is written is what was trained, and foreign files become our own."""

from __future__ import annotations

import hashlib

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from asap import onnx_file
from asap.export import (
    FOREIGN_KEYS,
    ROUNDING_WARNING,
    adopt,
    make_contract,
    motion_inside,
    write_policy,
)
from asap_deploy import golden
from asap_deploy.errors import InputError
from asap_deploy.observation import LAYOUTS
from asap_deploy.onnx_graph import OnnxGraph
from asap_deploy.policy import Policy
from policies import (
    robot,
    toy_contract,
    toy_motion,
    toy_network,
    toy_policy,
    toy_policy_bytes,
)

KINDS = [("asap", "g1:asap"), ("asap-loco", "g1:asap"), ("beyondmimic", "g1"),
         ("beyondmimic-state", "g1"), ("asap", "g1:23dof")]  # fmt: skip


def session(data: bytes) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])


def refusal(data: bytes, *, layout="asap", name="g1:asap", motion=True) -> str:
    with pytest.raises(InputError) as caught:
        adopt(data, robot(name), toy_motion(name) if motion else None, layout=layout)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    return str(caught.value)


def foreign(inputs=380, actions=23, rows=1, metadata=None) -> bytes:
    """A network as another toolkit might write it: fixed rows, perhaps with metadata."""
    model = toy_network(inputs, actions)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].Clear()
        value.type.tensor_type.shape.dim[0].dim_value = rows
    return onnx_file.with_metadata(model, metadata or {})


def described(**changes: str) -> bytes:
    """A BeyondMimic file of 154 numbers for the robot g1, joints in an order of its own."""
    body = robot("g1")
    order = np.random.default_rng(0).permutation(29)

    def join(values):
        return ",".join(f"{values[k]:.3f}" for k in order)

    metadata = {
        "joint_names": ",".join(body.joint_names[k] for k in order),
        "joint_stiffness": join(body.stiffness * 0.5),
        "joint_damping": join(body.damping * 0.5),
        "default_joint_pos": join(body.default_joint_pos + 0.01),
        "action_scale": join(body.action_scale),
        "observation_names": "command,motion_anchor_ori_b,base_ang_vel,joint_pos,joint_vel,actions",
        "body_names": "pelvis,torso_link",
    }
    return foreign(154, 29, metadata=metadata | changes)


@pytest.mark.parametrize("activation", ["Elu", "Relu", "Tanh"])
def test_a_network_computes_what_its_formula_says(activation):
    rng = np.random.default_rng(0)
    layers = [(rng.normal(size=(5, 7)), rng.normal(size=5)), (rng.normal(size=(2, 5)), np.ones(2))]
    mean, std = rng.normal(size=7), rng.uniform(0.5, 2.0, 7)
    model = onnx_file.network(layers, activation=activation, mean=mean, std=std)
    x = rng.normal(size=(4, 7)).astype(np.float32)
    hidden = (x - mean) / std @ layers[0][0].T + layers[0][1]
    hidden = {
        "Elu": np.where(hidden > 0, hidden, np.exp(np.minimum(hidden, 0)) - 1),
        "Relu": np.maximum(hidden, 0),
        "Tanh": np.tanh(hidden),
    }[activation]
    expected = hidden @ layers[1][0].T + layers[1][1]
    found = session(model.SerializeToString()).run(["actions"], {"obs": x})[0]
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(("layout", "name"), KINDS)
def test_an_exported_policy_is_one_plain_valid_file_that_loads(layout, name, tmp_path):
    path = tmp_path / "policy.onnx"
    path.write_bytes(toy_policy_bytes(layout, name))
    policy = golden.load_policy(path)
    assert policy.contract == toy_contract(layout, name)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert (model.ir_version, model.opset_import[0].version) == (8, 13)
    assert not any(tensor.external_data for tensor in model.graph.initializer)


@pytest.mark.parametrize(("layout", "name"), KINDS)
def test_a_policy_takes_any_number_of_rows(layout, name):
    data = toy_policy_bytes(layout, name)
    graph = OnnxGraph.parse(data)
    width, actions = graph.inputs["obs"][1], graph.outputs["actions"][1]
    for rows in (1, 2, 33):
        feeds = {"obs": np.ones((rows, width), np.float32)}
        if "time_step" in graph.inputs:
            feeds["time_step"] = np.zeros((rows, 1), np.float32)
        assert session(data).run(["actions"], feeds)[0].shape == (rows, actions)


def test_the_clip_inside_is_the_motion_in_single_precision():
    motion, policy = toy_motion("g1"), toy_policy("beyondmimic-state", "g1")
    torso = motion.body_names.index("torso_link")
    clip = policy.clip
    for table, expected in (
        (clip.joint_pos, motion.joint_pos),
        (clip.joint_vel, motion.joint_vel),
        (clip.anchor_pos_w, motion.body_pos_w[:, torso]),
        (clip.anchor_quat_wxyz, motion.body_quat_wxyz[:, torso]),
    ):
        np.testing.assert_array_equal(table, expected.astype(np.float32))
    assert policy.contract.clip.sha256 == motion.sha256
    assert policy.contract.clip.duration_s == motion.duration_s
    assert toy_policy("asap-loco").clip is None


def test_a_motion_with_another_joint_order_gives_the_same_clip():
    motion, body = toy_motion(), robot()
    order = np.random.default_rng(0).permutation(29)
    shuffled = motion.replace(
        joint_names=[motion.joint_names[k] for k in order],
        joint_pos=motion.joint_pos[:, order],
        joint_vel=motion.joint_vel[:, order],
    )
    contract = make_contract(body, LAYOUTS["asap"], shuffled)
    policy = Policy.from_bytes(write_policy(toy_network(380, 23), contract, body, shuffled))
    np.testing.assert_array_equal(policy.clip.joint_pos, toy_policy().clip.joint_pos)


def test_a_motion_without_a_joint_of_the_robot_is_refused():
    motion, body = toy_motion(), robot()
    less = motion.replace(
        joint_names=motion.joint_names[1:],
        joint_pos=motion.joint_pos[:, 1:],
        joint_vel=motion.joint_vel[:, 1:],
    )
    contract = make_contract(body, LAYOUTS["asap"], less)
    with pytest.raises(InputError, match="lacks joint 'left_hip_pitch_joint' of robot 'g1:asap'"):
        write_policy(toy_network(380, 23), contract, body, less)


def test_the_contract_holds_the_robots_numbers_with_all_their_digits():
    body = robot("g1")
    contract = toy_contract("beyondmimic", "g1")
    for field in ("default_joint_pos", "stiffness", "damping", "torque_limit", "joint_vel_limit",
                  "joint_pos_lower", "joint_pos_upper", "action_scale"):  # fmt: skip
        np.testing.assert_array_equal(getattr(contract, field), getattr(body, field))
    assert contract.joint_names == body.joint_names
    assert contract.mode_machine == body.mode_machine == (5, 6)
    assert contract.provenance["mujoco"] and contract.provenance["physics_dt"] == "0.005"


def test_tools_for_beyondmimic_files_find_their_keys_at_full_precision():
    graph, body = OnnxGraph.parse(toy_policy_bytes("beyondmimic", "g1")), robot("g1")
    assert graph.metadata["joint_names"].split(",") == list(body.joint_names)
    for key, field in (
        ("joint_stiffness", body.stiffness),
        ("joint_damping", body.damping),
        ("default_joint_pos", body.default_joint_pos),
        ("action_scale", body.action_scale),
    ):
        found = [float(part) for part in graph.metadata[key].split(",")]
        np.testing.assert_array_equal(found, field)
    assert graph.metadata["anchor_body_name"] == "torso_link"
    assert all(key in graph.metadata for key in FOREIGN_KEYS)
    assert {"obs", "time_step"} == set(graph.inputs)
    assert {"actions", "joint_pos", "joint_vel"} <= set(graph.outputs)


def test_writing_a_policy_changes_nothing_that_it_was_given():
    model, contract = toy_network(380, 23), toy_contract()
    before = model.SerializeToString()
    first = write_policy(model, contract, robot(), toy_motion())
    assert model.SerializeToString() == before
    assert write_policy(model, contract, robot(), toy_motion()) == first
    onnx_file.keep_actor(model, "obs", "actions")
    assert model.SerializeToString() == before


def test_a_network_that_does_not_fit_its_contract_is_refused():
    body, motion = robot(), toy_motion()
    for inputs, actions, text in (
        (379, 23, r"input has shape \('N', 379\), the contract says \(N, 380\)"),
        (380, 22, r"output has shape \('N', 22\), the contract says \(N, 23\)"),
    ):
        with pytest.raises(InputError, match=text):
            write_policy(toy_network(inputs, actions), toy_contract(), body, motion)
    bad = toy_network(380, 23)
    bad.graph.input[0].name = "observation"
    for node in bad.graph.node:
        node.input[:] = ["observation" if name == "obs" else name for name in node.input]
    with pytest.raises(InputError, match="inputs are .*, the contract names 'obs'"):
        write_policy(bad, toy_contract(), body, motion)


def test_a_network_that_onnxruntime_cannot_run_is_refused():
    three_rows = onnx.load_model_from_string(toy_policy_bytes())
    three_rows.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3
    with pytest.raises(InputError, match="onnxruntime cannot run the policy: .*invalid dimensions"):
        Policy.from_bytes(three_rows.SerializeToString())


def test_a_clip_whose_attitudes_are_none_is_refused():
    model = onnx.load_model_from_string(toy_policy_bytes("beyondmimic", "g1"))
    tensor = next(t for t in model.graph.initializer if t.name == "anchor_quat_wxyz_table")
    array = numpy_helper.to_array(tensor).copy()
    array[30] = 0.0
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    with pytest.raises(InputError, match="attitudes that are not unit"):
        Policy.from_bytes(model.SerializeToString())


def test_a_foreign_network_is_adopted_with_its_actions_unchanged():
    data = foreign()
    adopted = adopt(data, robot(), toy_motion(), layout="asap", motion_name="wave", source="x.onnx")
    policy = Policy.from_bytes(adopted)
    golden.verify(policy)
    x = np.random.default_rng(0).normal(size=(4, 380)).astype(np.float32)
    expected = np.concatenate([session(data).run(None, {"obs": row[None]})[0] for row in x])
    np.testing.assert_allclose(policy.act(x), expected, atol=1e-6)
    assert policy.contract.provenance["source_sha256"] == hashlib.sha256(data).hexdigest()
    assert policy.contract.provenance["source"] == "x.onnx"
    assert policy.contract.clip.name == "wave"
    assert policy.contract.clip.phase_lead_s == 0.02


def test_a_described_file_brings_its_own_gains_by_joint_name():
    adopted = adopt(described(), robot("g1"), toy_motion("g1"), layout=None)
    contract, body = Policy.from_bytes(adopted).contract, robot("g1")
    assert contract.joint_names == body.joint_names
    assert set(contract.action_joint_names) == set(body.joint_names)
    assert contract.action_joint_names != body.joint_names
    np.testing.assert_allclose(contract.stiffness, body.stiffness * 0.5, atol=6e-4)
    np.testing.assert_allclose(contract.default_joint_pos, body.default_joint_pos + 0.01, atol=6e-4)
    scale = body.action_scale[body.joint_ids(contract.action_joint_names)]
    np.testing.assert_allclose(contract.action_scale, scale, atol=6e-4)
    # What the network sees is in the network's own order as well.
    assert contract.observed_joint_names == contract.action_joint_names
    assert contract.provenance["warning"] == ROUNDING_WARNING
    assert contract.layout == "beyondmimic" and contract.clip.phase_lead_s == 0.0


@pytest.mark.parametrize(
    ("data", "arguments", "text"),
    [
        (foreign(), {"layout": None}, "name its observation with --layout (asap, propriocep"),
        (foreign(), {"layout": "asab"}, "no observation layout 'asab' (did you mean 'asap'?)"),
        (foreign(), {"motion": False}, "layout 'asap' tracks a motion: give its clip with --mo"),
        (foreign(381), {}, "takes 381 numbers, layout 'asap' has asap 380 for 23 joints and "),
        (foreign(380, 40), {}, "commands 40 joints, robot 'g1:asap' has 23"),
        (foreign(), {"layout": "asap-loco"}, "takes 380 numbers, layout 'asap-loco' has"),
        (toy_policy_bytes(), {}, "already carries a contract: use it as it is"),
        (b"junk", {}, "not an ONNX file"),
        (described(), {"layout": None, "name": "g1:23dof"}, "is not in robot 'g1:23dof'"),
    ],
)  # fmt: skip
def test_what_a_foreign_file_does_not_say_must_be_given(data, arguments, text):
    assert text in refusal(data, **arguments)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"joint_stiffness": "1,2,3"}, "'joint_stiffness' has 3 values, expected 29"),
        ({"joint_damping": "a,b"}, "'joint_damping' is not a list of numbers"),
        ({"action_scale": ",".join(["nan"] * 29)}, "'action_scale' has 29 values, expected 29"),
        ({"action_scale": ",".join(["0.0"] * 29)}, "action_scale must be positive"),
        ({"joint_names": ",".join(["left_knee_joint"] * 29)}, "choose another --robot"),
        ({"joint_names": "left_nee_joint"}, "joint 'left_nee_joint' is not in robot 'g1' (did you"),
        ({"joint_names": ""}, "joint '' is not in robot 'g1'"),
    ],
)
def test_broken_metadata_of_a_foreign_file_are_refused(changes, text):
    assert text in refusal(described(**changes), layout=None, name="g1")


def test_networks_of_another_form_are_refused():
    only_time = toy_network(1, 23)
    only_time.graph.input[0].name = "time_step"
    only_time.graph.node[0].input[0] = "time_step"
    assert "has the inputs ['time_step']; one is expected" in refusal(only_time.SerializeToString())
    two = toy_network(380, 23)
    two.graph.input.append(helper.make_tensor_value_info("state", TensorProto.FLOAT, [1, 4]))
    assert "has the inputs ['obs', 'state']; one is expected" in refusal(two.SerializeToString())
    for shape in ([], [380], ["N", "D"], [1, 1, 380]):
        odd = toy_network(380, 23)
        odd.graph.input[0].CopyFrom(helper.make_tensor_value_info("obs", TensorProto.FLOAT, shape))
        assert "rows and a fixed width are expected" in refusal(odd.SerializeToString())


def test_weights_of_another_type_are_refused_and_not_run():
    double = toy_network(380, 23)
    for tensor in double.graph.initializer:
        array = numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    assert "onnx" in refusal(double.SerializeToString()).lower()


def with_tables(names="joint_names", frames=5) -> bytes:
    """A described file that also carries a clip as BeyondMimic writes it."""
    model, body = onnx.load_model_from_string(described()), robot("g1")
    rng, metadata = np.random.default_rng(0), {p.key: p.value for p in model.metadata_props}
    quat = rng.normal(size=(frames, 2, 4))
    tables = {
        "joint_pos": rng.normal(size=(frames, 29)),
        "body_pos_w": rng.normal(size=(frames, 2, 3)),
        "body_quat_w": quat / np.linalg.norm(quat, axis=-1, keepdims=True),
    }
    model.graph.input.append(helper.make_tensor_value_info("time_step", TensorProto.INT64, [1]))
    for name, table in tables.items():
        table = table.astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(table, f"{name}_table"))
        model.graph.node.append(helper.make_node("Gather", [f"{name}_table", "time_step"], [name]))
        shape = [1, *table.shape[1:]]
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    assert set(body.joint_names) == set(metadata["joint_names"].split(","))
    return onnx_file.with_metadata(model, {k: v for k, v in metadata.items() if k != names})


def test_the_clip_inside_a_foreign_file_becomes_a_motion_by_joint_name():
    graph = OnnxGraph.parse(with_tables(names=""))
    motion = motion_inside(graph, robot("g1"))
    names = graph.metadata["joint_names"].split(",")
    for k, name in enumerate(robot("g1").joint_names):
        table = graph.weights["joint_pos_table"][:, names.index(name)]
        np.testing.assert_array_equal(motion.joint_pos[:, k], table)
    np.testing.assert_allclose(
        motion.base_pos_w, graph.weights["body_pos_w_table"][:, 0], atol=1e-6
    )
    assert motion.fps == pytest.approx(50.0)
    assert motion_inside(OnnxGraph.parse(foreign()), robot("g1")) is None


def test_a_clip_inside_that_does_not_fit_is_refused():
    with pytest.raises(InputError, match="ONNX metadata lack 'joint_names'"):
        motion_inside(OnnxGraph.parse(with_tables()), robot("g1"))
    with pytest.raises(InputError, match="does not fit robot 'g1'"):
        data = with_tables(names="")
        model = onnx.load_model_from_string(data)
        names = next(p for p in model.metadata_props if p.key == "joint_names")
        names.value = names.value.replace("left_knee_joint", "left_tail_joint")
        motion_inside(OnnxGraph.parse(model.SerializeToString()), robot("g1"))


def test_the_published_policies_are_adopted_unchanged(shared_data):
    rng = np.random.default_rng(0)
    for name, layout in (("CR7_level1", "asap"), ("kick_level1", "asap"),
                         ("loco_dec_6600", "asap-loco")):  # fmt: skip
        data = (shared_data / "asap" / "policies" / f"{name}.onnx").read_bytes()
        policy = Policy.from_bytes(adopt(data, robot(), toy_motion(), layout=layout))
        width = policy.graph.inputs["actor_obs"][1]
        x = rng.normal(size=(3, width)).astype(np.float32)
        theirs = [session(data).run(None, {"actor_obs": row[None]})[0] for row in x]
        np.testing.assert_allclose(policy.act(x), np.concatenate(theirs), atol=1e-4)
        assert (policy.contract.clip is None) == (layout == "asap-loco")


def test_published_beyondmimic_policies_are_adopted_with_the_clip_that_they_carry(shared_data):
    found = []
    for path in sorted(shared_data.rglob("*.onnx")):
        if path.name == "policy.onnx":
            continue
        graph = OnnxGraph.parse(path.read_bytes())
        if not all(key in graph.metadata for key in FOREIGN_KEYS):
            continue
        motion = motion_inside(graph, robot("g1"))
        policy = Policy.from_bytes(adopt(path.read_bytes(), robot("g1"), motion, layout=None))
        found.append(policy.contract.layout)
        np.testing.assert_allclose(
            np.linalg.norm(policy.clip.anchor_quat_wxyz, axis=-1), 1.0, atol=1e-5
        )
    assert sorted(found) == ["beyondmimic", "beyondmimic-state"]
