from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mcomp.cli.main import main


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
    assert "for tensorrt: no rule is broken" in capsys.readouterr().out


def test_nodes_with_one_fault_stand_under_one_heading(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(saved(tmp_path / "unsigned.onnx", kind=np.uint8))
    assert main(["check-qdq", path]) == 4
    printed = capsys.readouterr().out
    assert printed.count("error[E2]: the zero point is uint8, not int8") == 1
    assert "  --> Q0\n" in printed
    assert "and 19 nodes more" in printed
    assert printed.splitlines()[-1].endswith("for tensorrt: 24 errors, 0 warnings")
    assert main(["check-qdq", path, "--all"]) == 4
    assert "--> D11" in capsys.readouterr().out


def test_machines_get_every_violation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(saved(tmp_path / "dead.onnx", scales=(0.1, 0.0)))
    assert main(["check-qdq", path, "--target", "openvino", "--json"]) == 4
    found = json.loads(capsys.readouterr().out)
    assert found["target"] == "openvino"
    assert [(one["rule"], one["node"]) for one in found["violations"]] == [("E3", "Q1"), ("E3", "D1")]
    assert set(found["violations"][0]) == {"rule", "severity", "node", "message", "fix"}
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
