"""With a GPU: `pytest -m gpu`. What needs TensorRT or pycuda as well is skipped where they are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mcomp.deploy import to_onnx
from mcomp.deploy.onnx_session import OnnxSession
from mcomp.deploy.tensorrt import Engine, build_engine, shape_ranges
from mcomp.deploy.tensorrt.devices import ALIGNMENT, TorchDevice, open_device
from mcomp.errors import StageError
from tests.unit.deploy.deploy_networks import chain, images, quantised

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    pytest.importorskip("tensorrt")
    folder = tmp_path_factory.mktemp("engine")
    model = quantised(levels=127)
    file = to_onnx(model, (images(2),), folder / "m.onnx", "tensorrt").path
    info = build_engine(file, folder / "m.plan", shape_ranges(file, (1, 8, 16)), timing_cache=folder / "times")
    return {"model": model, "file": file, "plan": folder / "m.plan", "info": info, "times": folder / "times"}


def agreement(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.cpu().argmax(1) == other.argmax(1)).float().mean())


@pytest.mark.parametrize("buffers", ["torch", "pycuda"])
def test_a_real_engine_agrees_with_the_simulation_and_with_onnx_runtime(built: dict[str, Any], buffers: Any) -> None:
    if buffers == "pycuda":
        pytest.importorskip("pycuda")
    x = images(16)
    with Engine(built["plan"], buffers, onnx_path=built["file"]) as engine:
        found = engine.run(x)[0]
    assert agreement(found, built["model"](x)) > 0.9
    assert agreement(found, OnnxSession(built["file"], 1, simulate=True).predict(x)) > 0.9
    assert found.is_cuda == (buffers == "torch")


def test_a_real_engine_computes_in_integers(built: dict[str, Any]) -> None:
    assert built["info"].int8_layers > 0
    assert built["times"].stat().st_size > 0


def test_a_real_engine_refuses_what_it_was_not_built_for(built: dict[str, Any], tmp_path: Path) -> None:
    with Engine(built["plan"]) as engine, pytest.raises(StageError, match="takes no `input`"):
        engine(images(17))
    short = tmp_path / "m.plan"
    short.write_bytes(built["plan"].read_bytes()[:-100])
    (tmp_path / "m.plan.json").write_bytes(built["plan"].with_name("m.plan.json").read_bytes())
    with pytest.raises(StageError, match="is damaged"):
        Engine(short)


def test_a_real_engine_takes_slices_and_other_floats(built: dict[str, Any]) -> None:
    x = images(9).cuda()
    with Engine(built["plan"]) as engine:
        whole, part = engine.run(x)[0], engine.run(x.double()[1:])[0]
    assert agreement(whole[1:], part.cpu()) == 1


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_a_real_float_engine_agrees_with_the_model(tmp_path: Path, precision: Any) -> None:
    pytest.importorskip("tensorrt")
    model, x = chain().eval(), images(8)
    file = to_onnx(model, (x[:2],), tmp_path / "m.onnx", "float", precision=precision).path
    build_engine(file, tmp_path / "m.plan", shape_ranges(file, (1, 8, 8)), timing_cache=tmp_path / "times")
    with Engine(tmp_path / "m.plan") as engine:
        torch.testing.assert_close(engine.run(x)[0].cpu(), model(x), rtol=2e-2, atol=2e-2)


def test_torch_s_buffers_are_aligned_and_seen_by_the_stream() -> None:
    device = TorchDevice()
    x = torch.arange(4096, dtype=torch.float32, device="cuda").reshape(64, 64)
    there, back = device.put(x[1:, :].half(), torch.float32), device.room((63, 64), torch.float32)
    assert there.address % ALIGNMENT == back.address % ALIGNMENT == 0
    assert device.put(x.flatten()[1:], torch.float32).address % ALIGNMENT == 0
    with device.current(), torch.cuda.stream(torch.cuda.ExternalStream(device.ready_stream())):
        back.tensor.copy_(there.tensor)
    answer = device.fetch(back)
    device.synchronise()
    assert torch.equal(answer, x[1:].half().float())


def test_both_kinds_of_buffers_name_the_same_gpu() -> None:
    pytest.importorskip("pycuda")
    other = open_device("pycuda")
    try:
        assert other.name == TorchDevice().name
        x = torch.rand(3, 5)
        there, back = other.put(x, torch.float32), other.room((3, 5), torch.float32)
        other.synchronise()
        assert there.address != back.address
        assert torch.equal(other.fetch(there), x)
    finally:
        other.close()
    assert torch.ones(2, device="cuda").sum() == 2  # torch's context lives on
