"""The numpy reader of ONNX files: equal to onnxruntime where it runs, refusing where it must."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from asap import onnx_file
from asap_deploy.errors import InputError
from asap_deploy.onnx_graph import OnnxGraph
from asap_deploy.onnx_ops import OPERATORS
from asap_deploy.policy import Policy
from policies import toy_network, toy_policy, toy_policy_bytes, with_contract

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def model_of(nodes, inputs, outputs, weights=(), opset=13, **more) -> onnx.ModelProto:
    """A model from nodes; inputs and outputs are (name, type, shape)."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
        [numpy_helper.from_array(array, name) for name, array in dict(weights).items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, **more)


def both(model: onnx.ModelProto, feeds: dict) -> tuple[np.ndarray, np.ndarray]:
    """The first output by onnxruntime and by numpy."""
    data, name = model.SerializeToString(), model.graph.output[0].name
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return session.run([name], feeds)[0], OnnxGraph.parse(data).run(feeds)[name]


def assert_same(model: onnx.ModelProto, feeds: dict, tolerance: float = 0.0) -> None:
    theirs, ours = both(model, feeds)
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)


def one_node(operator: str, feeds: dict, *, weights=(), opset=13, absent=(), **attributes):
    """A model of one operator that reads all feeds, then all weights."""
    names = [*feeds, *dict(weights)]
    names = ["" if name in absent else name for name in names]
    kinds = {np.dtype(np.float32): FLOAT, np.dtype(np.int64): INT64, np.dtype(np.int32): 6,
             np.dtype(np.float64): 11, np.dtype(bool): 9}  # fmt: skip
    inputs = [(name, kinds[array.dtype], list(array.shape)) for name, array in feeds.items()]
    kept = {name: array for name, array in dict(weights).items() if name not in absent}
    result = kinds[np.dtype(np.float32)]
    if operator == "Cast":
        result = attributes["to"]
    elif feeds:
        result = kinds[next(iter(feeds.values())).dtype]
    node = helper.make_node(operator, names, ["y"], **attributes)
    return model_of([node], inputs, [("y", result, None)], kept, opset)


def values(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return np.asarray(3.0 * rng.normal(size=shape), np.float32)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("operator", ["Add", "Sub", "Mul", "Div"])
def test_arithmetic_broadcasts_like_onnxruntime(operator, seed):
    rng = np.random.default_rng(seed)
    rows, width = rng.integers(1, 9, 2)
    a = values(rng, rows, width)
    b = values(rng, *[(rows, width), (width,), (1, width), (rows, 1), (), (1,)][seed])
    assert_same(one_node(operator, {"a": a, "b": b}), {"a": a, "b": b})


@pytest.mark.parametrize("operator", ["Add", "Sub", "Mul", "Div"])
def test_arithmetic_of_whole_numbers_stays_whole_like_onnxruntimes(operator):
    a = np.array([7, -7, 7, -7, 0, 9], np.int64)
    b = np.array([2, 2, -2, -2, 5, 3], np.int64)
    assert_same(one_node(operator, {"a": a, "b": b}), {"a": a, "b": b})


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("operator", ["Elu", "Relu", "Tanh", "Sigmoid", "Identity"])
def test_activations_are_those_of_onnxruntime(operator, seed):
    rng = np.random.default_rng(seed)
    x = values(rng, *rng.integers(1, 40, 2))
    x.flat[0], x.flat[-1] = 0.0, -0.0
    assert_same(one_node(operator, {"x": x}), {"x": x}, 2e-6)
    wide = np.array([[-1e30, -100.0, -88.0, -1e-30, 1e-30, 88.0, 100.0, 1e30]], np.float32)
    assert_same(one_node(operator, {"x": wide}), {"x": wide}, 2e-6)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_elu_uses_its_alpha(alpha):
    x = values(np.random.default_rng(0), 4, 5)
    assert_same(one_node("Elu", {"x": x}, alpha=alpha), {"x": x}, 2e-6)


@pytest.mark.parametrize("seed", range(8))
def test_gemm_with_every_combination_of_attributes_is_onnxruntimes(seed):
    rng = np.random.default_rng(seed)
    m, k, n = (int(size) for size in rng.integers(1, 30, 3))
    flip_a, flip_b, has_bias = seed & 1, seed >> 1 & 1, seed >> 2 & 1
    a = values(rng, *((k, m) if flip_a else (m, k)))
    weights = {"b": values(rng, *((n, k) if flip_b else (k, n)))}
    if has_bias:
        weights["c"] = values(rng, *[(n,), (1, n), (m, 1), ()][seed % 4])
    attributes = {"transA": flip_a, "transB": flip_b, "alpha": 0.7, "beta": 1.3}
    model = one_node("Gemm", {"a": a}, weights=weights, **attributes)
    assert_same(model, {"a": a}, 1e-4)
    plain = a.T.copy() if flip_a else a
    plain_weights = {"b": weights["b"].T.copy() if flip_b else weights["b"]}
    assert_same(one_node("Gemm", {"a": plain}, weights=plain_weights), {"a": plain}, 1e-4)


@pytest.mark.parametrize("shapes", [((3, 4), (4, 5)), ((2, 3, 4), (4, 5)), ((1, 7), (7, 1))])
def test_matmul_is_onnxruntimes(shapes):
    rng = np.random.default_rng(0)
    a, b = values(rng, *shapes[0]), values(rng, *shapes[1])
    assert_same(one_node("MatMul", {"a": a}, weights={"b": b}), {"a": a}, 1e-5)


@pytest.mark.parametrize("absent", [(), ("low",), ("high",), ("low", "high")])
@pytest.mark.parametrize("opset", [6, 13])
def test_clip_with_and_without_bounds_is_onnxruntimes(opset, absent):
    x = values(np.random.default_rng(1), 5, 6)
    bounds = {"low": np.float32(-1.5), "high": np.float32(0.5)}
    if opset == 13:
        weights = {name: np.array(value) for name, value in bounds.items()}
        model = one_node("Clip", {"x": x}, weights=weights, absent=absent)
    else:
        given = {"low": "min", "high": "max"}
        attributes = {given[k]: float(v) for k, v in bounds.items() if k not in absent}
        model = one_node("Clip", {"x": x}, opset=opset, **attributes)
    assert_same(model, {"x": x})


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_concat_joins_along_any_axis_like_onnxruntime(axis):
    rng = np.random.default_rng(2)
    feeds = {"a": values(rng, 3, 3), "b": values(rng, 3, 3), "c": values(rng, 3, 3)}
    assert_same(one_node("Concat", feeds, axis=axis), feeds)


@pytest.mark.parametrize("opset", [11, 13])
@pytest.mark.parametrize(
    ("operator", "shape", "axes"),
    [
        ("Squeeze", (1, 4, 1), [0, 2]),
        ("Squeeze", (1, 4, 1), [-1]),
        ("Squeeze", (1, 4, 1), None),
        ("Squeeze", (4, 1), [1]),
        ("Unsqueeze", (4, 5), [0]),
        ("Unsqueeze", (4, 5), [3, 0]),
        ("Unsqueeze", (4,), [-1]),
        ("Unsqueeze", (4,), [-1, -2]),
        ("Unsqueeze", (4, 5), [1, -1]),
    ],
)
def test_axes_are_dropped_and_added_like_onnxruntime_does(operator, shape, axes, opset):
    x = values(np.random.default_rng(3), *shape)
    if axes is None:
        model = one_node(operator, {"x": x}, opset=opset)
    elif opset == 13:
        model = one_node(operator, {"x": x}, weights={"axes": np.array(axes, np.int64)})
    else:
        model = one_node(operator, {"x": x}, opset=opset, axes=axes)
    assert_same(model, {"x": x})


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("indices", [[0, 3, 3], [-1, 0, -4], [[1, 2], [3, 0]], 2])
def test_gather_takes_rows_and_columns_like_onnxruntime(indices, axis):
    x = values(np.random.default_rng(4), 4, 4)
    model = one_node("Gather", {"x": x}, weights={"i": np.array(indices, np.int64)}, axis=axis)
    assert_same(model, {"x": x})


@pytest.mark.parametrize(
    ("dtype", "to"),
    [(np.float32, INT64), (np.float32, 6), (np.int64, FLOAT), (np.float32, 11), (np.float32, 9),
     (bool, FLOAT)],
)  # fmt: skip
def test_cast_rounds_towards_zero_like_onnxruntime(dtype, to):
    x = np.array([[-2.7, -0.5, 0.0, 0.5, 1.0, 2.7]]).astype(dtype)
    assert_same(one_node("Cast", {"x": x}, to=to), {"x": x})


@pytest.mark.parametrize(
    "constant",
    [
        {"value": numpy_helper.from_array(np.array([[1.5, 2.5]], np.float32))},
        {"value": helper.make_tensor("t", FLOAT, [2], [1.5, 2.5])},
        {"value_float": 1.5},
        {"value_floats": [1.5, -2.5]},
    ],
)
def test_constants_of_every_form_are_onnxruntimes(constant):
    x = values(np.random.default_rng(5), 3, 2)
    nodes = [
        helper.make_node("Constant", [], ["k"], **constant),
        helper.make_node("Add", ["x", "k"], ["y"]),
    ]
    assert_same(model_of(nodes, [("x", FLOAT, [3, 2])], [("y", FLOAT, None)]), {"x": x})


def test_every_operator_of_the_table_is_compared_in_this_file():
    compared = set(
        [
            "Add",
            "Sub",
            "Mul",
            "Div",
            "Elu",
            "Relu",
            "Tanh",
            "Sigmoid",
            "Identity",
            "Gemm",
            "MatMul",
            "Clip",
            "Concat",
        ]
    )
    compared |= set(["Squeeze", "Unsqueeze", "Gather", "Cast", "Constant"])
    assert compared == set(OPERATORS), "a new operator needs its test against onnxruntime"


@pytest.mark.parametrize("seed", range(8))
def test_random_networks_agree_with_onnxruntime(seed):
    rng = np.random.default_rng(seed)
    sizes = [int(size) for size in rng.integers(1, 200, rng.integers(2, 6))]
    layers = [(values(rng, n, m) / m, values(rng, n)) for m, n in itertools.pairwise(sizes)]
    activation = ["Elu", "Relu", "Tanh", "Sigmoid"][seed % 4]
    normal = {"mean": values(rng, sizes[0]), "std": np.exp(values(rng, sizes[0]))}
    model = onnx_file.network(layers, activation=activation, **(normal if seed % 2 else {}))
    x = values(rng, 5, sizes[0])
    assert_same(model, {"obs": x}, 1e-4)


@pytest.mark.parametrize("layout", ["asap", "beyondmimic"])
def test_a_whole_policy_with_its_clip_is_read_as_onnxruntime_reads_it(layout):
    data = toy_policy_bytes(layout, "g1:asap" if layout == "asap" else "g1")
    graph = OnnxGraph.parse(data)
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    x = values(np.random.default_rng(0), 6, graph.inputs["obs"][1])
    feeds = {"obs": x, "time_step": np.array([[0], [1], [44], [45], [46], [-3]], np.float32)}
    ours = graph.run(feeds)
    for name, theirs in zip(graph.outputs, session.run(list(graph.outputs), feeds), strict=True):
        np.testing.assert_allclose(ours[name], theirs, atol=1e-5, err_msg=name)
    np.testing.assert_array_equal(ours["joint_pos"][0], graph.clip_table("joint_pos")[0])


def test_many_rows_at_once_agree_with_single_rows():
    policy = toy_policy()
    x = values(np.random.default_rng(1), 9, 380)
    single = np.concatenate([policy.act_numpy(row[None]) for row in x])
    np.testing.assert_allclose(policy.act_numpy(x), single, atol=1e-5)
    np.testing.assert_allclose(policy.act(x), single, atol=1e-5)


def published(shared_data):
    return sorted(path for path in shared_data.rglob("*.onnx") if path.name != "policy.onnx")


def test_the_published_policies_are_read_and_agree_with_onnxruntime(shared_data):
    paths = published(shared_data)
    assert len(paths) >= 12
    rng = np.random.default_rng(0)
    for path in paths:
        graph = OnnxGraph.parse(path.read_bytes())
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        feeds = {name: values(rng, *shape) / 3 for name, shape in graph.inputs.items()}
        names = list(graph.outputs)
        ours = graph.run(feeds)
        for name, theirs in zip(names, session.run(names, feeds), strict=True):
            size = max(1.0, float(np.abs(theirs).max()))
            np.testing.assert_allclose(ours[name] / size, theirs / size, atol=1e-4, err_msg=path)
        assert graph.metadata == session.get_modelmeta().custom_metadata_map


def test_a_published_policy_with_external_weights_is_refused_with_what_to_do(shared_data):
    path = shared_data / "motions" / "unitree_rl_mjlab" / "policy.onnx"
    with pytest.raises(InputError) as caught:
        OnnxGraph.parse(path.read_bytes())
    advice = "for example with onnx.save(onnx.load('policy.onnx'), 'whole.onnx')"
    assert f"(external data); save the model into one file, {advice}" in str(caught.value)


def changed(change) -> bytes:
    """A toy network after a change of its protobuf."""
    model = toy_network(4, 3)
    change(model)
    return model.SerializeToString()


def _node(operator, inputs=("obs",), outputs=("extra",), **attributes):
    return lambda m: m.graph.node.append(helper.make_node(operator, inputs, outputs, **attributes))


def _weight(index, value):
    def change(model):
        tensor = model.graph.initializer[0]
        array = numpy_helper.to_array(tensor).copy()
        array.flat[index] = value
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))

    return change


def _external(model):
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


def _sparse(model):
    tensor = helper.make_tensor("w", FLOAT, [1], [1.0])
    at = helper.make_tensor("i", INT64, [1], [0])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(tensor, at, [4]))


def _function(model):
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    opsets = [helper.make_opsetid("", 13)]
    model.functions.append(helper.make_function("mine", "F", ["x"], ["y"], nodes, opsets))


_BRANCH = helper.make_graph([], "branch", [], [])
_HALF = numpy_helper.from_array(np.ones(2, np.float16), "half")
_BAD = numpy_helper.from_array(np.array([np.nan], np.float32))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (_external, "lie in another file"),
        (_node("Softmax"), "'Softmax' is not supported; a policy may use Add, Cast, Clip, Concat"),
        (_node("Gemm", domain="com.evil"), "uses operators of 'com.evil'; export plain ONNX"),
        (_node("If", then_branch=_BRANCH, else_branch=_BRANCH), "holds loops or branches"),
        (_function, "defines functions of its own"),
        (_sparse, "holds sparse weights; export them dense"),
        (_weight(0, np.nan), "weight 'weight0' holds values that are not finite"),
        (_weight(-1, np.inf), "weight 'weight0' holds values that are not finite"),
        (_node("Constant", (), value=_BAD), "'Constant' holds values that are not finite"),
        (_node("Elu", alpha=np.inf), "'Elu' holds values that are not finite"),
        (lambda m: m.graph.initializer.append(_HALF), "'half' has element type 10; float32 is"),
        (_node("Relu", ("ghost",)), "'Relu' reads unknown 'ghost'"),
        (_node("Relu", ("obs",), ("a", "b")), "'Relu' has 2 outputs"),
        (_node("Relu", ("obs",), ()), "'Relu' has 0 outputs"),
        (lambda m: m.graph.ClearField("output"), "no way from inputs to outputs"),
        (lambda m: m.graph.ClearField("node"), "no way from inputs to outputs"),
        (lambda m: m.ClearField("graph"), "not an ONNX file: it holds no graph"),
        (lambda m: m.graph.initializer[0].dims.append(7), "its shape is"),
    ],
)
def test_what_a_policy_may_not_hold_is_refused(change, text):
    with pytest.raises(InputError) as caught:
        OnnxGraph.parse(changed(change))
    assert text in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("share", np.linspace(0.0, 0.999, 23))
def test_a_file_that_was_cut_short_is_refused(share):
    data = toy_policy_bytes()
    with pytest.raises(InputError):
        Policy.from_bytes(data[: int(share * len(data))])


def test_what_is_no_onnx_file_is_refused():
    for data in (b"", b"PK\x03\x04" + bytes(100), b"\xff" * 50, b"hello world", bytes(1000)):
        with pytest.raises(InputError, match="not an ONNX file"):
            OnnxGraph.parse(data)


def _doubling(rounds):
    """x, xx, xxxx, ...: each node doubles what there is."""

    def change(model):
        for k in range(rounds):
            source = "obs" if k == 0 else f"d{k - 1}"
            _node("Concat", (source, source), (f"d{k}",), axis=1)(model)

    return change


def _outer(model):
    column = numpy_helper.from_array(np.zeros((1 << 16, 1), np.float32), "column")
    row = numpy_helper.from_array(np.zeros((1, 1 << 16), np.float32), "row")
    model.graph.initializer.extend([column, row])


def _outer_by(operator, **attributes):
    def change(model):
        _outer(model)
        _node(operator, ("column", "row"), **attributes)(model)

    return change


def _repeated_row(model):
    table = numpy_helper.from_array(np.zeros((1, 1 << 16), np.float32), "table")
    index = numpy_helper.from_array(np.zeros(1 << 16, np.int64), "index")
    model.graph.initializer.extend([table, index])
    _node("Gather", ("table", "index"))(model)


@pytest.mark.parametrize(
    "change",
    [_doubling(60), _outer_by("Add"), _outer_by("MatMul"), _outer_by("Gemm"), _repeated_row],
)
def test_a_small_file_that_asks_for_much_memory_is_refused(change):
    graph = OnnxGraph.parse(changed(change))
    with pytest.raises(ValueError, match=r"would give \d+ numbers, at most 16777216 are allowed"):
        graph.run({"obs": np.zeros((1, 4), np.float32)})
    with pytest.raises(InputError, match="cannot be evaluated: .* would give"):
        contract = toy_policy().contract
        Policy.from_bytes(with_contract(_bombed(change), contract.to_json()))


def _bombed(change) -> bytes:
    """The toy policy with the bomb beside its network."""
    model = onnx.load_model_from_string(toy_policy_bytes())
    change(model)
    return model.SerializeToString()


def test_a_clip_is_found_only_where_an_output_is_looked_up():
    graph = OnnxGraph.parse(toy_policy_bytes())
    assert graph.clip_table("joint_vel").shape == (46, 29)
    with pytest.raises(InputError, match="holds no clip: output 'actions' is not looked up"):
        graph.clip_table("actions")
    nodes = [helper.make_node("Gather", ["obs", "i"], ["joint_pos"])]
    computed = model_of(nodes, [("obs", FLOAT, [2, 2])], [("joint_pos", FLOAT, None)],
                        {"i": np.array([0], np.int64)})  # fmt: skip
    with pytest.raises(InputError, match="holds no clip"):
        OnnxGraph.parse(computed.SerializeToString()).clip_table("joint_pos")
