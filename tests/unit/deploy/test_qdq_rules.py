from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mcomp.deploy import Violation, check_qdq, to_onnx
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


@pytest.mark.parametrize(
    ("rule", "mutation"),
    [
        ("E1", fused_operator), ("E2", no_zero_point), ("E2", unsigned), ("E2", shifted), ("E3", zero_scale),
        ("E3", nan_scale), ("E4", short_scale), ("E4", no_axis), ("E5", per_channel_activation), ("E5", wrong_axis),
        ("E6", four_bits), ("E7", quantised_bias), ("E8", byte_cast), ("P1", float_weight),
        ("P2", quantiser_before_relu), ("P3", both_sides_of_an_add), ("P4", unquantised_pool),
        ("P6", padding_before_q), ("P11", second_scale), ("P12", leftover_batch_norm),
    ],
    ids=lambda entry: entry if isinstance(entry, str) else entry.__name__,
)  # fmt: skip
def test_breaking_a_rule_is_found_under_its_name(clean: Path, tmp_path: Path, rule: str, mutation: Mutation) -> None:
    model = onnx.load(clean)
    mutation(model)
    onnx.save(model, tmp_path / "broken.onnx")
    found = {violation.rule: violation for violation in check_qdq(tmp_path / "broken.onnx", "tensorrt")}
    assert rule in found
    assert found[rule].severity == ("error" if rule.startswith("E") else "warning")
    assert found[rule].fix


def rules(found: list[Violation]) -> set[str]:
    return {violation.rule for violation in found}


def test_our_own_file_breaks_nothing(clean: Path) -> None:
    assert rules(check_qdq(clean, "tensorrt")) <= {"P9"}


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
