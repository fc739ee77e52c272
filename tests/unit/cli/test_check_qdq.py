from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mcomp.cli.main import main
from mcomp.deploy import check_qdq
from mcomp.deploy.openvino_session import OpenVinoSession
from mcomp.errors import StageError


def saved(path: Path, *, scales: list[float] = [0.1] * 12, kind: type = np.int8) -> Path:
    """Pairs one behind the other, as another tool may have written them, each with its scale."""
    nodes, stored, source = [], [numpy_helper.from_array(np.asarray(0, kind), "zero")], "x"
    for place, scale in enumerate(scales):
        stored.append(numpy_helper.from_array(np.asarray(scale, np.float32), f"s{place}"))
        nodes.append(helper.make_node("QuantizeLinear", [source, f"s{place}", "zero"], [f"q{place}"], f"Q{place}"))
        nodes.append(
            helper.make_node("DequantizeLinear", [f"q{place}", f"s{place}", "zero"], [f"d{place}"], f"D{place}")
        )
        source = f"d{place}"
    inputs, outputs = ([helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4])] for name in ("x", source))
    graph = helper.make_graph(nodes, "pairs", inputs, outputs, stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


def test_a_good_file_is_said_to_be_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-qdq", str(saved(tmp_path / "good.onnx"))]) == 0
    assert "for tensorrt: no rule of Q and DQ is broken" in capsys.readouterr().out


def test_nodes_with_one_fault_stand_under_one_heading(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(saved(tmp_path / "unsigned.onnx", kind=np.uint8))
    assert main(["check-qdq", path]) == 4
    printed = capsys.readouterr().out
    assert printed.count("error[E2]: the zero point is uint8, not int8") == 1
    assert "  --> Q0\n" in printed
    assert "and 7 nodes more" in printed
    assert printed.splitlines()[-1].endswith("for tensorrt: 12 errors, 0 warnings")
    assert main(["check-qdq", path, "--all"]) == 4
    assert "--> Q11" in capsys.readouterr().out


def test_every_tensor_stands_once_under_one_heading_whatever_its_zero_point(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved(tmp_path / "shifted.onnx", scales=[0.1] * 3)
    model = onnx.load(path)
    for place, node in enumerate(model.graph.node):
        pair = place // 2
        node.input[2] = f"zero{pair}"
        if not place % 2:
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(pair + 7, np.int8), f"zero{pair}"))
    onnx.save(model, path)
    assert main(["check-qdq", str(path)]) == 4
    printed = capsys.readouterr().out
    assert printed.count("error[E2]") == 1
    assert [line.strip() for line in printed.splitlines() if "-->" in line] == [
        "--> Q0: it is 7", "--> Q1: it is 8", "--> Q2: it is 9",
    ]  # fmt: skip


def q_operators(path: Path, *, kind: type, channels: int) -> Path:
    """``QLinearConv`` on one quantised input, as ONNX Runtime's quantiser writes files of the form QOperator."""
    scales = np.full(channels, 0.01, np.float32) if channels > 1 else np.float32(0.01)
    stored = {
        "s": np.float32(0.02), "z": np.uint8(128), "w": np.ones((4, 3, 3, 3), kind), "ws": scales,
        "wz": np.zeros_like(scales, dtype=kind),
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], "Q"),
        helper.make_node("QLinearConv", ["q", "s", "z", "w", "ws", "wz", "s", "z"], ["c"], "conv"),
        helper.make_node("DequantizeLinear", ["c", "s", "z"], ["y"], "D"),
    ]
    ends = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", *d]) for n, d in (("x", [3, 8, 8]), ("y", [4, 6, 6]))
    ]
    graph = helper.make_graph(
        nodes, "g", ends[:1], ends[1:], [numpy_helper.from_array(v, n) for n, v in stored.items()]
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.mark.parametrize(
    ("kind", "channels", "target", "said"),
    [
        (np.int8, 1, "openvino", "OpenVINO takes some"),
        (np.int8, 4, "openvino", "error[V2]: `QLinearConv` with a scale per channel is not supported"),
        (np.uint8, 1, "openvino", "error[V2]: `QLinearConv` with uint8 weights is not supported"),
        (np.int8, 4, "onnxruntime", "ONNX Runtime has kernels"),
        (np.int8, 4, "tensorrt", "error[E1]: `QLinearConv` is not supported"),
    ],
)
def test_a_file_of_integer_operators_is_told_apart_from_one_of_pairs(
    kind: type, channels: int, target: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(q_operators(tmp_path / "m.onnx", kind=kind, channels=channels))
    code = main(["check-qdq", path, "--target", target])
    printed = capsys.readouterr().out
    assert said in printed
    assert code == (4 if "error[" in printed else 0)
    assert "note: 1 QLinearConv: operators that compute with integers without Q and DQ" in printed
    main(["check-qdq", path, "--target", target, "--json"])
    assert json.loads(capsys.readouterr().out)["unjudged"] == {"QLinearConv": 1}


@pytest.mark.parametrize(("kind", "channels", "taken"), [(np.int8, 1, True), (np.int8, 4, False), (np.uint8, 1, False)])
def test_openvino_takes_the_integer_operators_that_its_rule_lets_through(
    kind: type, channels: int, taken: bool, tmp_path: Path
) -> None:
    pytest.importorskip("openvino")
    path = q_operators(tmp_path / "m.onnx", kind=kind, channels=channels)
    assert (not [found for found in check_qdq(path, "openvino") if found.rule == "V2"]) == taken
    if taken:
        assert OpenVinoSession(path).integer_layers() == (1, 1)
        return
    with pytest.raises(StageError, match="OpenVINO cannot load"):
        OpenVinoSession(path)


def test_machines_get_every_violation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(saved(tmp_path / "dead.onnx", scales=(0.1, 0.0)))
    assert main(["check-qdq", path, "--target", "openvino", "--json"]) == 4
    found = json.loads(capsys.readouterr().out)
    assert found["target"] == "openvino"
    assert [(one["rule"], one["node"]) for one in found["violations"]] == [("E3", "Q1"), ("E3", "D1")]
    assert set(found["violations"][0]) == {"rule", "severity", "node", "message", "fix", "detail"}
    assert found["exit_code"] == 4


def test_warnings_count_where_they_are_asked_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(saved(tmp_path / "signed.onnx"))
    assert main(["check-qdq", path, "--target", "onnxruntime"]) == 0
    assert "warning[O2]" in capsys.readouterr().out
    assert main(["check-qdq", path, "--target", "onnxruntime", "--strict"]) == 4


def test_what_is_no_model_or_no_target_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.onnx").write_text("hello")
    assert main(["check-qdq", str(tmp_path / "text.onnx")]) == 2
    assert "error[MC443]" in capsys.readouterr().err
    assert main(["check-qdq", str(saved(tmp_path / "good.onnx")), "--target", "ncnn"]) == 2
    assert "tensorrt, onnxruntime, openvino" in capsys.readouterr().err


def test_a_truncated_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(tmp_path / "whole.onnx")
    path.write_bytes(path.read_bytes()[:-7])
    assert main(["check-qdq", str(path)]) == 2
    assert "error[MC443]" in capsys.readouterr().err
