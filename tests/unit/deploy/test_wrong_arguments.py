"""What a person passes by mistake is answered with an error of ours that says what to pass."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from mcomp import deploy
from mcomp.deploy.openvino_session import OpenVinoSession
from mcomp.deploy.xnor import accelerate
from mcomp.errors import StageError, UsageError
from mcomp.quantization import quantize

OPENVINO = pytest.mark.skipif(find_spec("openvino") is None, reason="OpenVINO is not installed")

X = torch.zeros(2, 3, 4, 4)
NAN = torch.full_like(X, float("nan"))
MODEL = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 5)).eval()


def relu_file(folder: Path) -> Path:
    """``x``, float32 ``[n, 3, 4, 4]``, through a ReLU."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3, 4, 4]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", ends[:1], ends[1:])
    path = folder / "relu.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    return path


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (lambda at: deploy.check_qdq(None), "MC445"),
        (lambda at: deploy.check_qdq(3), "MC445"),
        (lambda at: deploy.check_qdq(b"net.onnx"), "MC445"),
        (lambda at: deploy.OnnxSession(None), "MC445"),
        (lambda at: deploy.OnnxSession(at, threads="2"), "MC427"),
        (lambda at: deploy.OnnxSession(at, threads=0), "MC427"),
        (lambda at: deploy.pack(None, at), "MC427"),
        (lambda at: deploy.pack(MODEL, None), "MC445"),
        (lambda at: deploy.pack(MODEL, at, ternary="3bit"), "MC427"),
        (lambda at: deploy.pack(MODEL, at, metadata=["me"]), "MC427"),
        (lambda at: deploy.pack(MODEL, at, metadata={"year": 2026}), "MC427"),
        (lambda at: deploy.unpack(None), "MC445"),
        (lambda at: accelerate(None), "MC427"),
        (lambda at: deploy.export(None, X, at), "MC427"),
        (lambda at: deploy.export(MODEL, None, at), "MC429"),
        (lambda at: deploy.export(MODEL, X.numpy(), at), "MC429"),
        (lambda at: deploy.export(MODEL, NAN, at), "MC429"),
        (lambda at: deploy.export(MODEL, X, None), "MC445"),
        (lambda at: deploy.export(MODEL, X, at, ["onnx"]), "MC446"),
        (lambda at: deploy.to_onnx(MODEL, X, None), "MC445"),
        (lambda at: deploy.to_onnx(MODEL, NAN, at), "MC429"),
        (lambda at: deploy.to_onnx(MODEL, X - torch.inf, at), "MC429"),
        (lambda at: deploy.to_onnx(MODEL, X, at, opset="17"), "MC442"),
        (lambda at: deploy.to_onnx(MODEL, X, at, opset=True), "MC442"),
        (lambda at: deploy.to_onnx(MODEL, X, at, ["tensorrt"]), "MC432"),
        (lambda at: deploy.to_onnx(MODEL, X, at, "float", metadata=["me"]), "MC427"),
        (lambda at: deploy.to_onnx(MODEL, X, at, "float", metadata={1: "me"}), "MC427"),
        (lambda at: deploy.to_onnx(MODEL, X, at, "float", metadata={"me": object()}), "MC427"),
        (lambda at: deploy.verify(None, MODEL, None), "MC427"),
        (lambda at: deploy.Engine(None), "MC445"),
        (lambda at: deploy.build_engine(at, None, {}), "MC445"),
    ],
)
def test_a_wrong_argument_is_a_usage_error_with_advice(call: Callable[[Path], Any], code: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        call(tmp_path / "out.onnx")
    assert caught.value.code == code
    assert caught.value.hint
    assert list(tmp_path.iterdir()) == [], "a refused call leaves nothing behind"


@pytest.mark.parametrize("opened", [deploy.OnnxSession, pytest.param(OpenVinoSession, marks=OPENVINO)])
@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        ((X.numpy(),), "not a tensor"),
        ((None,), "not a tensor"),
        ((X.double(),), "float64"),
        ((X[:, :2],), r"\[2, 2, 4, 4\]"),
        ((X[0],), r"\[3, 4, 4\]"),
        ((), "0 were given"),
        ((X, X), "2 were given"),
    ],
)
def test_a_session_refuses_inputs_that_its_file_does_not_declare(
    opened: Any, inputs: tuple[Any, ...], told: str, tmp_path: Path
) -> None:
    session = opened(relu_file(tmp_path))
    with pytest.raises(UsageError, match=told) as caught:
        session.predict(*inputs)
    assert (caught.value.code, bool(caught.value.hint)) == ("MC429", True)
    assert session.predict(X - 1).equal(torch.zeros_like(X))


@pytest.mark.parametrize("opened", [deploy.OnnxSession, pytest.param(OpenVinoSession, marks=OPENVINO)])
def test_a_session_says_that_there_is_no_file(opened: Any, tmp_path: Path) -> None:
    with pytest.raises(StageError, match="there is no file") as caught:
        opened(tmp_path / "none.onnx")
    assert caught.value.code == "MC434"


def test_what_a_runtime_breaks_off_with_is_told_as_ours(tmp_path: Path) -> None:
    session = deploy.OnnxSession(relu_file(tmp_path))

    def breaks(*_: Any) -> None:
        raise RuntimeError("bad reshape\nand more")

    session._session = SimpleNamespace(run=breaks)
    with pytest.raises(StageError) as caught:
        session.predict(X)
    assert (caught.value.code, caught.value.why) == ("MC434", "bad reshape")


def test_a_range_of_what_is_no_shape_is_refused() -> None:
    with pytest.raises(StageError, match="None is no shape"):
        deploy.ShapeRange([1], None, [2])  # type: ignore[arg-type]


def test_packing_says_that_activations_have_no_range_yet(tmp_path: Path) -> None:
    quantised = quantize(MODEL, X, scheme="lsq", first_layer_float=False)
    (told,) = deploy.pack(quantised, tmp_path / "w.packed").notes
    assert "activation" in told
    assert "not been calibrated" in told
    quantised.train()(torch.randn(2, 3, 4, 4))
    assert deploy.pack(quantised, tmp_path / "w.packed").notes == ()


def test_packing_refuses_weights_that_have_no_range_yet(tmp_path: Path) -> None:
    quantised = quantize(MODEL, X, scheme="lsq", first_layer_float=False)
    state = {name: torch.zeros_like(t) if "weight_quantizer.initialised" in name else t
             for name, t in quantised.state_dict().items()}  # fmt: skip
    quantised.load_state_dict(state)
    with pytest.raises(StageError, match="no range yet"):
        deploy.pack(quantised, tmp_path / "w.packed")
    assert not (tmp_path / "w.packed").exists()
