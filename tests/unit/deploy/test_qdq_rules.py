from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mcomp.deploy import Violation, check_qdq, to_onnx
from mcomp.deploy.qdq.rules import RULES, Target
from mcomp.errors import UsageError
from tests.unit.deploy.deploy_networks import Residual, images, quantised

Mutation = Callable[[onnx.ModelProto], None]


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rules") / "clean.onnx"
    to_onnx(quantised(Residual(), levels=127), (images(2),), path, "tensorrt")
    return path


def nodes(model: onnx.ModelProto, kind: str) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == kind]


def initializer(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def replace(model: onnx.ModelProto, name: str, value: np.ndarray) -> None:
    initializer(model, name).CopyFrom(numpy_helper.from_array(value, name))


def weight(model: onnx.ModelProto) -> onnx.NodeProto:
    """The DequantizeLinear of the first convolution's weight."""
    return next(node for node in nodes(model, "DequantizeLinear") if node.input[0].endswith("weight_integers"))


def value(model: onnx.ModelProto, name: str) -> np.ndarray:
    return numpy_helper.to_array(initializer(model, name)).copy()


def fused_operator(model: onnx.ModelProto) -> None:
    nodes(model, "Conv")[0].op_type = "QLinearConv"


def no_zero_point(model: onnx.ModelProto) -> None:
    del nodes(model, "QuantizeLinear")[0].input[2:]


def unsigned(model: onnx.ModelProto) -> None:
    replace(model, nodes(model, "QuantizeLinear")[0].input[2], np.asarray(0, np.uint8))


def shifted(model: onnx.ModelProto) -> None:
    replace(model, nodes(model, "QuantizeLinear")[0].input[2], np.asarray(3, np.int8))


def zero_scale(model: onnx.ModelProto) -> None:
    scale = value(model, weight(model).input[1])
    scale[0] = 0
    replace(model, weight(model).input[1], scale)


def nan_scale(model: onnx.ModelProto) -> None:
    replace(model, nodes(model, "QuantizeLinear")[0].input[1], np.asarray(np.nan, np.float32))


def short_scale(model: onnx.ModelProto) -> None:
    for index in (1, 2):
        name = weight(model).input[index]
        replace(model, name, value(model, name)[:-1])


def no_axis(model: onnx.ModelProto) -> None:
    del weight(model).attribute[:]


def per_channel_activation(model: onnx.ModelProto) -> None:
    node = nodes(model, "QuantizeLinear")[0]
    replace(model, node.input[1], np.full(16, 0.1, np.float32))
    replace(model, node.input[2], np.zeros(16, np.int8))
    node.attribute.append(helper.make_attribute("axis", 1))


def wrong_axis(model: onnx.ModelProto) -> None:
    name = nodes(model, "Conv")[1].input[1]  # 16 channels in and out, so that the lengths agree
    found = next(node for node in nodes(model, "DequantizeLinear") if node.output[0] == name)
    del found.attribute[:]
    found.attribute.append(helper.make_attribute("axis", 1))


def as_it_is(model: onnx.ModelProto) -> None:
    """Ours has a quantised classifier."""


def four_bits(model: onnx.ModelProto) -> None:
    for index in (0, 2):
        tensor = initializer(model, weight(model).input[index])
        count = int(np.prod(tensor.dims))
        packed = helper.make_tensor(
            tensor.name, TensorProto.INT4, list(tensor.dims), b"\0" * (-(-count // 2)), raw=True
        )
        tensor.CopyFrom(packed)


def quantised_bias(model: onnx.ModelProto) -> None:
    node = next(node for node in nodes(model, "Conv") if len(node.input) > 2)
    bias = value(model, node.input[2])
    model.graph.initializer.append(numpy_helper.from_array(bias.astype(np.int32), "bias_integers"))
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(0.1, np.float32), "bias_scale"))
    model.graph.node.insert(0, helper.make_node("DequantizeLinear", ["bias_integers", "bias_scale"], ["bias_float"]))
    node.input[2] = "bias_float"


def byte_cast(model: onnx.ModelProto) -> None:
    source = nodes(model, "Relu")[0].output[0]
    model.graph.node.append(helper.make_node("Cast", [source], ["bytes"], to=TensorProto.UINT8))


def float_weight(model: onnx.ModelProto) -> None:
    name = nodes(model, "Conv")[0].input[1]
    nodes(model, "Conv")[0].input[1] = "plain"
    shape = value(model, next(n for n in nodes(model, "DequantizeLinear") if n.output[0] == name).input[0]).shape
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(shape, np.float32), "plain"))


def quantiser_before_relu(model: onnx.ModelProto) -> None:
    relu = nodes(model, "Relu")[0]
    scale, zero = nodes(model, "QuantizeLinear")[0].input[1:3]
    model.graph.node.append(helper.make_node("QuantizeLinear", [relu.input[0], scale, zero], ["q"]))
    model.graph.node.append(helper.make_node("DequantizeLinear", ["q", scale, zero], ["dq"]))
    relu.input[0] = "dq"


def both_sides_of_an_add(model: onnx.ModelProto) -> None:
    add = next(node for node in nodes(model, "Add"))
    made = {name: node for node in model.graph.node for name in node.output}
    raw = next(index for index, name in enumerate(add.input) if made[name].op_type == "Conv")
    scale, zero = nodes(model, "QuantizeLinear")[0].input[1:3]
    model.graph.node.append(helper.make_node("QuantizeLinear", [add.input[raw], scale, zero], ["q"]))
    model.graph.node.append(helper.make_node("DequantizeLinear", ["q", scale, zero], ["dq"]))
    add.input[raw] = "dq"


def two_raw_branches(model: onnx.ModelProto) -> None:
    made = {name: node for node in model.graph.node for name in node.output}
    add = next(node for node in nodes(model, "Add"))
    raw = next(name for name in add.input if made[name].op_type == "Conv")
    conv = made[raw]
    model.graph.node.append(helper.make_node("Conv", list(conv.input), ["shortcut"], name="shortcut"))
    model.graph.node[-1].attribute.extend(conv.attribute)
    for index, name in enumerate(add.input):
        if name != raw:
            add.input[index] = "shortcut"


def float_pool(model: onnx.ModelProto) -> None:
    quantiser = next(n for n in nodes(model, "QuantizeLinear") if n.input[0] == nodes(model, "Relu")[0].output[0])
    model.graph.node.append(helper.make_node("AveragePool", [quantiser.input[0]], ["means"], kernel_shape=[1, 1]))
    quantiser.input[0] = "means"


def unquantised_pool(model: onnx.ModelProto) -> None:
    conv = nodes(model, "Conv")[1]
    made = helper.make_node("MaxPool", [conv.input[0]], ["pooled"], kernel_shape=[1, 1])
    model.graph.node.append(made)
    conv.input[0] = "pooled"


def padding_before_q(model: onnx.ModelProto) -> None:
    quantiser = nodes(model, "QuantizeLinear")[1]
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(8, np.int64), "pads"))
    model.graph.node.append(helper.make_node("Pad", [quantiser.input[0], "pads"], ["padded"]))
    quantiser.input[0] = "padded"


def second_scale(model: onnx.ModelProto) -> None:
    quantiser = nodes(model, "QuantizeLinear")[1]
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(0.7, np.float32), "other"))
    model.graph.node.append(
        helper.make_node("QuantizeLinear", [quantiser.input[0], "other", quantiser.input[2]], ["again"])
    )


def leftover_batch_norm(model: onnx.ModelProto) -> None:
    for name in "abcd":
        model.graph.initializer.append(numpy_helper.from_array(np.ones(16, np.float32), name))
    source = nodes(model, "Relu")[0].output[0]
    model.graph.node.append(helper.make_node("BatchNormalization", [source, *"abcd"], ["normalised"]))


def pooled_parts(model: onnx.ModelProto) -> None:
    """A Concat of two dequantised tensors with two scales, and a Q behind it."""
    zero = nodes(model, "QuantizeLinear")[0].input[2]
    for name, scale in (("one", 0.1), ("two", 0.2)):
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(scale, np.float32), f"{name}_scale"))
        model.graph.node.append(helper.make_node("QuantizeLinear", ["x", f"{name}_scale", zero], [f"{name}_q"]))
        model.graph.node.append(helper.make_node("DequantizeLinear", [f"{name}_q", f"{name}_scale", zero], [name]))
    model.graph.node.append(helper.make_node("Concat", ["one", "two"], ["parts"], axis=1))
    model.graph.node.append(helper.make_node("QuantizeLinear", ["parts", "one_scale", zero], ["parts_q"]))


def float_upsampling(model: onnx.ModelProto) -> None:
    quantiser = next(n for n in nodes(model, "QuantizeLinear") if n.input[0] == nodes(model, "Relu")[0].output[0])
    model.graph.initializer.append(numpy_helper.from_array(np.asarray([1, 1, 2, 2], np.float32), "factors"))
    model.graph.node.append(helper.make_node("Resize", [quantiser.input[0], "", "factors"], ["larger"]))
    quantiser.input[0] = "larger"


def narrow(model: onnx.ModelProto) -> None:
    found = weight(model)
    for name in (found.input[0], found.input[1], found.input[2]):
        replace(model, name, value(model, name)[:-1])


def depthwise(model: onnx.ModelProto) -> None:
    node = nodes(model, "Conv")[0]
    found = next(dq for dq in nodes(model, "DequantizeLinear") if dq.output[0] == node.input[1])
    replace(model, found.input[0], value(model, found.input[0])[:, :1])
    next(entry for entry in node.attribute if entry.name == "group").i = 3


def weight_in_float(model: onnx.ModelProto) -> None:
    found = weight(model)
    integers = value(model, found.input[0])
    model.graph.initializer.append(numpy_helper.from_array(integers.astype(np.float32), "float_weight"))
    model.graph.node.insert(
        0, helper.make_node("QuantizeLinear", ["float_weight", *found.input[1:3]], ["weight_q"], axis=0)
    )
    found.input[0] = "weight_q"


def old_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 11


def computing_with_integers(model: onnx.ModelProto) -> None:
    found = next(n for n in nodes(model, "DequantizeLinear") if not n.input[0].endswith("weight_integers"))
    model.graph.node.append(helper.make_node("Relu", [found.input[0]], ["positive_integers"]))
    found.input[0] = "positive_integers"


def pair_of_two_scales(model: onnx.ModelProto) -> None:
    found = next(n for n in nodes(model, "DequantizeLinear") if not n.input[0].endswith("weight_integers"))
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(0.7, np.float32), "stretched"))
    found.input[1] = "stretched"


def float_output(model: onnx.ModelProto) -> None:
    """A convolution whose output goes on in float."""
    node = nodes(model, "Conv")[0]
    model.graph.node.append(helper.make_node("Sigmoid", [node.output[0]], ["gate"]))


def half_a_sum(model: onnx.ModelProto) -> None:
    found = next(n for n in nodes(model, "DequantizeLinear") if not n.input[0].endswith("weight_integers"))
    model.graph.node.append(helper.make_node("Add", [found.output[0], "x"], ["mixed"]))


def sixteen_bits(model: onnx.ModelProto) -> None:
    replace(model, nodes(model, "QuantizeLinear")[0].input[2], np.asarray(0, np.int16))
    model.opset_import[0].version = 21


def shifted_weight(model: onnx.ModelProto) -> None:
    name = weight(model).input[2]
    replace(model, name, value(model, name) + 3)


def untaken_operator(model: onnx.ModelProto) -> None:
    nodes(model, "Conv")[0].op_type = "QGemm"


def integers_without_pairs(model: onnx.ModelProto) -> None:
    nodes(model, "Conv")[0].op_type = "ConvInteger"


BREAKS: list[tuple[str, Mutation, Target]] = [
    *(
        (rule, mutation, "tensorrt")
        for rule, mutation in (
            ("E1", fused_operator), ("E2", no_zero_point), ("E2", unsigned), ("E2", shifted), ("E3", zero_scale),
            ("E3", nan_scale), ("E4", short_scale), ("E4", no_axis), ("E5", per_channel_activation),
            ("E5", wrong_axis), ("E6", four_bits), ("E7", quantised_bias), ("E8", byte_cast), ("P1", float_weight),
            ("P2", quantiser_before_relu), ("P3", both_sides_of_an_add),
            ("P3", two_raw_branches), ("P4", unquantised_pool), ("P4", float_pool),
            ("P5", pooled_parts), ("P6", padding_before_q), ("P7", float_upsampling),
            ("P8", as_it_is), ("P9", narrow),
            ("P10", depthwise), ("P11", second_scale), ("P12", leftover_batch_norm), ("P13", weight_in_float),
            ("G1", old_opset), ("G2", computing_with_integers), ("G4", pair_of_two_scales),
        )
    ),
    ("E3", nan_scale, "onnxruntime"),
    ("G3", short_scale, "onnxruntime"),
    ("O1", float_output, "onnxruntime"),
    ("O2", pair_of_two_scales, "onnxruntime"),  # the whole file has int8 activations
    ("O3", half_a_sum, "onnxruntime"),
    ("O4", sixteen_bits, "onnxruntime"),
    ("E3", zero_scale, "openvino"),
    ("G3", short_scale, "openvino"),
    ("P1", float_weight, "openvino"),
    ("V1", shifted_weight, "openvino"),
    ("V2", untaken_operator, "openvino"),
    ("V3", integers_without_pairs, "openvino"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "mutation", "target"), BREAKS, ids=[f"{rule} {made.__name__} {target}" for rule, made, target in BREAKS]
)
def test_breaking_a_rule_is_found_under_its_name(
    clean: Path, tmp_path: Path, rule: str, mutation: Mutation, target: Target
) -> None:
    model = onnx.load(clean)
    mutation(model)
    onnx.save(model, tmp_path / "broken.onnx")
    found = {violation.rule: violation for violation in check_qdq(tmp_path / "broken.onnx", target)}
    assert rule in found
    assert found[rule].severity == RULES[rule].severity
    assert found[rule].fix
    assert found[rule].node


def test_every_rule_is_broken_by_some_mutation() -> None:
    assert {rule for rule, _, _ in BREAKS} == {*RULES}


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_rules_of_the_importer_are_for_tensorrt_alone(clean: Path, tmp_path: Path, target: Target) -> None:
    model = onnx.load(clean)
    no_zero_point(model)
    byte_cast(model)
    onnx.save(model, tmp_path / "other.onnx")
    assert not {"E1", "E2", "E7", "E8"} & rules(check_qdq(tmp_path / "other.onnx", target))


def test_a_float_file_is_told_from_a_quantised_one(tmp_path: Path) -> None:
    to_onnx(Residual().eval(), (images(2),), tmp_path / "float.onnx", "float")
    assert rules(check_qdq(tmp_path / "float.onnx", "onnxruntime")) == {"G5"}


def test_graphs_inside_a_condition_are_checked_with_the_scales_around_them(clean: Path, tmp_path: Path) -> None:
    model = onnx.load(clean)
    scale, zero = nodes(model, "QuantizeLinear")[0].input[1:3]
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(np.nan, np.float32), "not_a_number"))
    branches = []
    for name, chosen in (("good", scale), ("bad", "not_a_number")):
        made = helper.make_tensor_value_info(f"{name}_q", TensorProto.INT8, None)
        node = helper.make_node("QuantizeLinear", ["x", chosen, zero], [f"{name}_q"], name=f"{name}/Q")
        branches.append(helper.make_graph([node], name, [], [made]))
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(True), "condition"))
    model.graph.node.append(
        helper.make_node("If", ["condition"], ["branch"], then_branch=branches[0], else_branch=branches[1])
    )
    onnx.save(model, tmp_path / "branches.onnx")
    broken = [violation.node for violation in check_qdq(tmp_path / "branches.onnx") if violation.rule == "E3"]
    assert broken == ["bad/Q"]


def written(
    path: Path, made: list[onnx.NodeProto], constants: dict[str, np.ndarray | onnx.TensorProto], opset: int = 21
) -> Path:
    """A file of ``x`` [n, 64] to ``y`` of any shape."""
    stored = [
        value if isinstance(value, onnx.TensorProto) else numpy_helper.from_array(value, name)
        for name, value in constants.items()
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    model = helper.make_model(
        helper.make_graph(made, "made", inputs, outputs, stored), opset_imports=[helper.make_opsetid("", opset)]
    )
    onnx.save(model, path)
    return path


def four_bit_blocks(path: Path, block: int, scales: tuple[int, int]) -> Path:
    """A matrix product whose INT4 weight has a scale per block of a column."""
    packed = {name: helper.make_tensor(name, TensorProto.INT4, dims, bytes(-(-dims[0] * dims[1] // 2)), raw=True)
              for name, dims in (("w", [64, 32]), ("z", [*scales]))}  # fmt: skip
    made = [
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["d"], name="DQ", axis=0, block_size=block),
        helper.make_node("MatMul", ["x", "d"], ["y"], name="product"),
    ]
    return written(path, made, {**packed, "s": np.full(scales, 0.1, np.float32)})


@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime", "openvino"])
def test_whole_blocks_of_four_bits_break_nothing(target: Target, tmp_path: Path) -> None:
    assert not [
        v for v in check_qdq(four_bit_blocks(tmp_path / "blocks.onnx", 16, (4, 32)), target) if v.severity == "error"
    ]


def test_blocks_that_do_not_divide_or_lack_scales_are_found(tmp_path: Path) -> None:
    assert "E6" in rules(check_qdq(four_bit_blocks(tmp_path / "uneven.onnx", 48, (2, 32)), "tensorrt"))
    assert "G3" in rules(check_qdq(four_bit_blocks(tmp_path / "few.onnx", 16, (3, 32)), "onnxruntime"))


def around(path: Path, between: list[onnx.NodeProto], last: str, shape: tuple[int, ...] = ()) -> Path:
    """``between`` with integers ``q`` of a Q in front; a DQ reads ``last``."""
    made = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="Q"),
        *between,
        helper.make_node("DequantizeLinear", [last, "s", "z"], ["y"], name="DQ"),
    ]
    return written(path, made, {"s": np.full(shape, 0.1, np.float32), "z": np.zeros(shape, np.int8)})


def test_moving_integers_about_breaks_nothing(tmp_path: Path) -> None:
    moved = helper.make_node("Resize", ["q", "", "f"], ["r"], mode="nearest")
    path = around(tmp_path / "moved.onnx", [helper.make_node("Reshape", ["q", "shape"], ["p"]), moved], "r")
    assert not {"G2"} & rules(check_qdq(path, "onnxruntime"))
    stretched = helper.make_node("Resize", ["q", "", "f"], ["r"], mode="linear")
    assert "G2" in rules(check_qdq(around(tmp_path / "linear.onnx", [stretched], "r"), "onnxruntime"))


def test_one_scale_in_a_vector_needs_no_axis(tmp_path: Path) -> None:
    assert rules(check_qdq(around(tmp_path / "vector.onnx", [], "q", (1,)), "tensorrt")) == set()


def test_a_gemm_s_quantised_bias_is_found(tmp_path: Path) -> None:
    made = [
        helper.make_node("DequantizeLinear", ["b", "s"], ["bias"], name="DQ"),
        helper.make_node("Gemm", ["x", "w", "bias"], ["y"], name="gemm"),
    ]
    constants = {
        "b": np.zeros(4, np.int32), "s": np.asarray(0.1, np.float32), "w": np.zeros((64, 4), np.float32),
    }  # fmt: skip
    assert "E7" in rules(check_qdq(written(tmp_path / "gemm.onnx", made, constants), "tensorrt"))


def test_a_bias_that_an_exporter_shares_through_identity_is_a_constant(tmp_path: Path) -> None:
    made = [
        helper.make_node("Identity", ["b"], ["again"]),
        helper.make_node("Reshape", ["x", "shape"], ["image"]),
        helper.make_node("Conv", ["image", "w", "again"], ["y"], name="conv"),
    ]
    constants = {
        "b": np.zeros(4, np.float32), "shape": np.asarray([-1, 1, 8, 8]), "w": np.zeros((4, 1, 1, 1), np.float32),
    }  # fmt: skip
    assert "E7" not in rules(check_qdq(written(tmp_path / "shared.onnx", made, constants), "tensorrt"))


def test_bytes_may_leave_the_network(tmp_path: Path) -> None:
    out = [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.UINT8, name="cast")]
    assert "E8" not in rules(check_qdq(written(tmp_path / "bytes.onnx", out, {}), "tensorrt"))


def test_ranges_found_at_run_time_are_taken_by_cpu_runtimes_alone(tmp_path: Path) -> None:
    made = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"], name="D"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], name="DQ"),
    ]
    path = written(tmp_path / "dynamic.onnx", made, {})
    assert not check_qdq(path, "onnxruntime")
    assert "E1" in rules(check_qdq(path, "tensorrt"))


@pytest.mark.parametrize(
    "made",
    [
        [helper.make_node("DequantizeLinear", [], ["y"])],
        [helper.make_node("Conv", ["x"], ["y"])],
        [helper.make_node("QuantizeLinear", ["x", "x"], [])],
        [helper.make_node("MaxPool", ["b"], ["a"]), helper.make_node("MaxPool", ["a"], ["b"])],
    ],
    ids=["no inputs", "one input", "no outputs", "circle"],
)
def test_what_no_runtime_could_follow_is_refused(made: list[onnx.NodeProto], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no graph that can be run"):
        check_qdq(written(tmp_path / "broken.onnx", made, {}))


def test_external_data_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = written(
        tmp_path / "outside.onnx", [helper.make_node("Add", ["x", "b"], ["y"])], {"b": np.zeros(64, np.float32)}
    )
    model = onnx.load(path)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="gone.bin")
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UsageError, match="external data") as caught:
        check_qdq(path)
    assert "gone.bin" in str(caught.value)


def rules(found: list[Violation]) -> set[str]:
    return {violation.rule for violation in found}


def test_our_own_file_breaks_nothing(clean: Path) -> None:
    assert rules(check_qdq(clean, "tensorrt")) <= {"P8", "P9"}


def test_a_file_for_onnxruntime_is_refused_for_tensorrt_and_the_other_way_round_is_slow(tmp_path: Path) -> None:
    model = quantised(Residual())
    to_onnx(model, (images(2),), tmp_path / "o.onnx", "onnxruntime")
    to_onnx(model, (images(2),), tmp_path / "t.onnx", "tensorrt")
    assert {"E2", "E7"} <= rules(check_qdq(tmp_path / "o.onnx", "tensorrt"))
    assert "O2" in rules(check_qdq(tmp_path / "t.onnx", "onnxruntime"))
    assert not [v for v in check_qdq(tmp_path / "o.onnx", "onnxruntime") if v.severity == "error"]


def test_narrow_and_depthwise_convolutions_are_pointed_out(tmp_path: Path) -> None:
    from torch import nn

    model = nn.Sequential(
        nn.Conv2d(3, 24, 3), nn.ReLU(), nn.Conv2d(24, 24, 3, groups=24), nn.ReLU(), nn.Conv2d(24, 9, 1)
    )
    to_onnx(quantised(model, levels=127), (images(2),), tmp_path / "m.onnx", "tensorrt")
    assert {"P9", "P10"} <= rules(check_qdq(tmp_path / "m.onnx", "tensorrt"))


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("hello")
    for name in ("text.onnx", "absent.onnx"):
        with pytest.raises(UsageError, match=name):
            check_qdq(tmp_path / name)
    with pytest.raises(UsageError, match="no rules for"):
        check_qdq(tmp_path / "text.onnx", "ncnn")  # type: ignore[arg-type]
