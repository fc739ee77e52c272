from __future__ import annotations

import gc
import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mcomp.deploy.tensorrt import Engine, ShapeRange, build_engine
from mcomp.deploy.tensorrt.devices import Buffer, TorchDevice, open_device
from mcomp.errors import BackendMissingError, McompError, StageError, UsageError
from tests.unit.deploy.tensorrt_engines.fake import Fake, HostDevice
from tests.unit.deploy.tensorrt_engines.test_tensorrt_build import NO_DRIVER, SHAPES, before

IMAGES = torch.zeros(4, 3, 8, 8)


@pytest.fixture
def plan(trt: Fake, files: tuple[Path, Path]) -> Path:
    build_engine(*files, SHAPES, device=HostDevice())
    trt.calls.clear()
    trt.given.clear()
    return files[1]


def test_an_engine_is_called_with_tensors(trt: Fake, plan: Path, host: HostDevice) -> None:
    answer = Engine(plan, device=host)(IMAGES)
    assert isinstance(answer, Tensor)
    assert answer.shape == (4, 10)
    assert before(trt, "IExecutionContext.set_input_shape", "IExecutionContext.get_tensor_shape")
    assert before(trt, "IExecutionContext.infer_shapes", "IExecutionContext.get_tensor_shape")
    assert [call[0] for call in trt.given["IExecutionContext.set_tensor_address"]] == ["input", "output"]
    assert trt.given["IExecutionContext.execute_async_v3"] == [(7,)]
    assert trt.calls[-1] == "IExecutionContext.execute_async_v3"
    assert host.events == ["stream", "fetch", "synchronise"]
    assert host.depth == 0


def test_several_inputs_and_outputs_keep_their_order(trt: Fake, files: tuple[Path, Path], host: HostDevice) -> None:
    trt.inputs = {"image": (-1, 3, 8, 8), "words": (-1, 5)}
    trt.outputs = {"logits": (4, 10), "boxes": (4, 2)}
    trt.types = {"words": "INT64", "boxes": "HALF"}
    build_engine(*files, {"image": SHAPES["input"], "words": ShapeRange([1, 5], [4, 5], [8, 5])}, device=host)
    engine = Engine(files[1], device=host)
    assert (engine.inputs, engine.outputs) == (["image", "words"], ["logits", "boxes"])
    logits, boxes = engine(IMAGES, torch.zeros(4, 5, dtype=torch.int64))
    assert (logits.shape, boxes.shape, boxes.dtype) == ((4, 10), (4, 2), torch.float16)
    assert engine.run(IMAGES, torch.zeros(4, 5, dtype=torch.int64))[1].shape == (4, 2)


def test_floats_are_converted_to_the_engine_s_own(trt: Fake, plan: Path, host: HostDevice) -> None:
    Engine(plan, device=host)(IMAGES.double() + 2)
    [held] = host.held
    assert held.dtype == torch.float32
    assert torch.equal(held, IMAGES + 2)
    trt.types = {"input": "HALF"}
    Engine(plan, device=host)(IMAGES)
    assert host.held[-1].dtype == torch.float16


def test_no_buffer_is_let_go_before_the_stream_has_been_waited_for(trt: Fake, plan: Path) -> None:
    alive: list[int] = []
    held: list[weakref.ref[Any]] = []

    class Watching(HostDevice):
        def put(self, tensor: Tensor, dtype: torch.dtype) -> Buffer:
            own = tensor.clone()
            buffer = Buffer(own.data_ptr(), own)
            held.append(weakref.ref(buffer))
            return buffer

        def synchronise(self) -> None:
            gc.collect()
            alive.append(sum(reference() is not None for reference in held))

    Engine(plan, device=Watching())(IMAGES)
    assert alive == [1]


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ((), "takes 1 inputs and was given 0"),
        ((IMAGES, IMAGES), "takes 1 inputs and was given 2"),
        ((IMAGES.long(),), "is float32, and was given int64"),
        ((IMAGES[0],), r"takes no `input` of shape \[3, 8, 8\]"),
        ((torch.zeros(4, 1, 8, 8),), r"takes no `input` of shape \[4, 1, 8, 8\]"),
        ((torch.zeros(9, 3, 8, 8),), r"takes no `input` of shape \[9, 3, 8, 8\]"),
        ((torch.zeros(0, 3, 8, 8),), r"takes no `input` of shape \[0, 3, 8, 8\]"),
    ],
)
def test_a_wrong_input_is_told_before_tensorrt_sees_it(
    trt: Fake, plan: Path, host: HostDevice, tensors: tuple[Tensor, ...], message: str
) -> None:
    engine = Engine(plan, device=host)
    with pytest.raises(StageError, match=message) as caught:
        engine(*tensors)
    assert caught.value.code == "MC441"
    assert "IExecutionContext.set_input_shape" not in trt.calls


@pytest.mark.parametrize(
    ("answers", "code"),
    [
        ({"Runtime.deserialize_cuda_engine": None}, "MC440"),
        ({"ICudaEngine.create_execution_context": None}, "MC440"),
        ({"IExecutionContext.set_input_shape": False}, "MC441"),
        ({"IExecutionContext.infer_shapes": ["input"]}, "MC441"),
        ({"IExecutionContext.infer_shapes": RuntimeError("inconsistent")}, "MC441"),
        ({"IExecutionContext.set_tensor_address": False}, "MC441"),
        ({"IExecutionContext.execute_async_v3": False}, "MC441"),
        ({"Runtime()": NO_DRIVER}, "MC611"),
    ],
    ids=str,
)
def test_every_refusal_of_tensorrt_is_an_error_of_ours(
    trt: Fake, plan: Path, host: HostDevice, answers: dict[str, Any], code: str
) -> None:
    trt.answers |= answers
    with pytest.raises(McompError) as caught:
        Engine(plan, device=host)(IMAGES)
    assert caught.value.code == code
    assert caught.value.hint
    assert host.depth == 0


def test_an_output_whose_shape_only_a_run_tells_is_refused(trt: Fake, plan: Path, host: HostDevice) -> None:
    trt.outputs = {"output": (-1, 4)}
    with pytest.raises(StageError, match="output `output` is known only after a run"):
        Engine(plan, device=host)(IMAGES)


def test_a_type_that_torch_has_not_is_refused(trt: Fake, plan: Path, host: HostDevice) -> None:
    trt.types = {"output": "FP8"}
    with pytest.raises(StageError, match="`output` is of a type that torch has not") as caught:
        Engine(plan, device=host)
    assert caught.value.code == "MC440"
    assert host.events == ["close"]


def test_a_closed_engine_gives_everything_back_and_answers_no_more(trt: Fake, plan: Path, host: HostDevice) -> None:
    with Engine(plan, device=host) as engine:
        engine(IMAGES)
    assert host.events[-1] == "close"
    engine.close()
    assert host.events.count("close") == 1
    with pytest.raises(StageError, match="the engine is closed"):
        engine(IMAGES)


def test_an_engine_of_another_machine_is_refused_before_it_is_loaded(trt: Fake, plan: Path) -> None:
    with pytest.raises(StageError, match="was built for GPU Fake GPU sm_90, here is Other GPU sm_80"):
        Engine(plan, device=HostDevice("Other GPU sm_80"))
    trt.__version__ = "10.99"
    with pytest.raises(StageError, match=r"was built for TensorRT .*, here is 10\.99"):
        Engine(plan, device=HostDevice())
    assert trt.calls == []


def test_an_engine_of_another_file_is_refused_where_the_file_is_named(
    trt: Fake, plan: Path, files: tuple[Path, Path], host: HostDevice
) -> None:
    Engine(plan, onnx_path=files[0], device=host)
    files[0].write_bytes(b"changed")
    trt.calls.clear()
    with pytest.raises(StageError, match=r"was not built from `m\.onnx` as it is now"):
        Engine(plan, onnx_path=files[0], device=host)
    assert trt.calls == []


@pytest.mark.parametrize(
    ("data", "why"),
    [(b"pla", "3 bytes are there, 4 were written"), (b"", "0 bytes are there"), (b"PLAN", "its bytes have changed")],
)
def test_a_truncated_or_foreign_plan_never_reaches_tensorrt(
    trt: Fake, plan: Path, host: HostDevice, data: bytes, why: str
) -> None:
    plan.write_bytes(data)
    with pytest.raises(StageError, match=r"`m\.plan` is damaged") as caught:
        Engine(plan, device=host)
    assert caught.value.code == "MC440"
    assert why in caught.value.why
    assert trt.calls == []


def test_a_plan_that_is_gone_is_told(trt: Fake, plan: Path, host: HostDevice) -> None:
    plan.unlink()
    with pytest.raises(StageError, match="cannot be read: No such file"):
        Engine(plan, device=host)


@pytest.mark.parametrize("account", [None, b"{", b"[]", b'{"tensorrt": "11.4"}', b"\xff"])
def test_a_plan_without_its_account_is_refused(trt: Fake, plan: Path, host: HostDevice, account: bytes | None) -> None:
    beside = plan.with_name("m.plan.json")
    beside.unlink()
    if account is not None:
        beside.write_bytes(account)
    with pytest.raises(StageError, match=r"is missing beside|does not say what the engine") as caught:
        Engine(plan, device=host)
    assert caught.value.code == "MC440"
    assert trt.calls == []


def test_an_account_of_a_later_mcomp_may_say_more(trt: Fake, plan: Path, host: HostDevice) -> None:
    beside = plan.with_name("m.plan.json")
    beside.write_text(json.dumps({**json.loads(beside.read_text()), "weather": "fine"}))
    assert Engine(plan, device=host).info.plan_bytes == 4


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_device_says_so() -> None:
    with pytest.raises(BackendMissingError, match="no CUDA device"):
        TorchDevice()


def test_other_buffers_are_refused() -> None:
    with pytest.raises(UsageError, match="no buffers `numpy`"):
        open_device("numpy")  # type: ignore[arg-type]
