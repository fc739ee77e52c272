from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from mcomp.deploy.tensorrt import Engine, build_engine
from mcomp.deploy.tensorrt.devices import open_device
from mcomp.deploy.tensorrt.pycuda_device import PycudaDevice
from mcomp.errors import BackendMissingError
from tests.unit.deploy.tensorrt_engines.fake import Fake, without_pycuda
from tests.unit.deploy.tensorrt_engines.test_tensorrt_build import SHAPES


class Pycuda:
    """The part of pycuda that is used; device memory is main memory, and copies wait for the stream like real ones."""

    class Error(Exception):
        pass

    def __init__(self, devices: int = 1) -> None:
        self.devices, self.stack, self.events = devices, 0, list[str]()
        self.memory: dict[int, Any] = {}
        self.waiting: list[Any] = []
        self.retained = 0

    def modules(self) -> dict[str, Any]:
        device = type("Device", (), {
            "__init__": lambda found, index: None,
            "count": staticmethod(lambda: self.devices),
            "name": lambda found: "Fake GPU",
            "compute_capability": lambda found: (9, 0),
            "retain_primary_context": lambda found: self._retain(),
        })  # fmt: skip
        driver = SimpleNamespace(
            Error=self.Error, Device=device, init=lambda: self.events.append("init"), Stream=self._stream,
            memcpy_htod_async=self._to_device, memcpy_dtoh_async=self._to_host,
        )  # fmt: skip
        return {"pycuda.driver": driver, "pycuda.tools": SimpleNamespace(DeviceMemoryPool=self._make_pool)}

    def _retain(self) -> Any:
        self.retained += 1
        return SimpleNamespace(push=self._push, pop=self._pop, detach=self._detach)

    def _push(self) -> None:
        self.stack += 1

    def _pop(self) -> None:
        self.stack -= 1

    def _detach(self) -> None:
        assert self.stack == 0, "a context in use is let go"
        self.retained -= 1

    def _stream(self) -> Any:
        assert self.stack
        return SimpleNamespace(handle=11, synchronize=self._wait)

    def _make_pool(self) -> Any:
        return SimpleNamespace(allocate=self._allocate, stop_holding=lambda: self.events.append("freed"))

    def _allocate(self, size: int) -> Any:
        assert self.stack
        assert size > 0
        memory = ctypes.create_string_buffer(size)
        address = ctypes.addressof(memory)
        self.memory[address] = memory
        return type("Allocation", (), {"__int__": lambda found: address})()

    def _to_device(self, destination: int, source: Any, stream: Any) -> None:
        assert self.stack
        self.waiting.append(lambda: ctypes.memmove(destination, source.ctypes.data, source.nbytes))

    def _to_host(self, destination: Any, source: int, stream: Any) -> None:
        assert self.stack
        self.waiting.append(lambda: ctypes.memmove(destination.ctypes.data, source, destination.nbytes))

    def _wait(self) -> None:
        for copy in self.waiting:
            copy()
        self.waiting.clear()


@pytest.fixture
def pycuda(monkeypatch: pytest.MonkeyPatch) -> Pycuda:
    fake = Pycuda()
    install(monkeypatch, fake)
    return fake


def install(monkeypatch: pytest.MonkeyPatch, fake: Pycuda) -> None:
    monkeypatch.setitem(sys.modules, "pycuda", ModuleType("pycuda"))
    for name, module in fake.modules().items():
        monkeypatch.setitem(sys.modules, name, module)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.bool, torch.int64])
@pytest.mark.parametrize("shape", [(2, 3), (), (0, 4)])
def test_what_is_put_on_the_device_comes_back(pycuda: Pycuda, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    device = PycudaDevice()
    tensor = torch.randint(0, 2, shape).to(dtype)
    there = device.put(tensor, dtype)
    back = device.room(shape, dtype)
    device.synchronise()
    if tensor.numel():
        ctypes.memmove(back.address, there.address, tensor.nbytes)
    answer = device.fetch(back)
    device.synchronise()
    assert torch.equal(answer, tensor)
    assert answer.dtype == dtype


def test_a_strided_tensor_of_another_type_is_converted(pycuda: Pycuda) -> None:
    device = PycudaDevice()
    tensor = torch.arange(12.0).reshape(3, 4).t()
    there = device.put(tensor, torch.float16)
    device.synchronise()
    raw = ctypes.string_at(there.address, 24)
    assert torch.equal(torch.frombuffer(bytearray(raw), dtype=torch.float16).reshape(4, 3), tensor.half())


def test_the_primary_context_is_on_the_stack_only_while_it_is_needed(pycuda: Pycuda) -> None:
    device = PycudaDevice()
    assert (pycuda.stack, pycuda.retained) == (0, 1)
    with device.current():
        assert pycuda.stack == 1
    device.put(torch.zeros(2), torch.float32)
    assert pycuda.stack == 0
    with pytest.raises(ZeroDivisionError), device.current():
        _ = 1 // 0
    assert pycuda.stack == 0
    device.close()
    device.close()
    assert pycuda.retained == 0
    assert "freed" in pycuda.events


def test_nothing_makes_a_context_of_its_own(pycuda: Pycuda) -> None:
    PycudaDevice()
    assert "pycuda.autoinit" not in sys.modules
    source = Path(sys.modules[PycudaDevice.__module__].__file__ or "").read_text()
    assert "make_context" not in source
    assert "import pycuda.autoinit" not in source


def test_an_engine_takes_and_gives_tensors_in_main_memory(trt: Fake, pycuda: Pycuda, files: tuple[Path, Path]) -> None:
    device = open_device("pycuda")
    assert device.name == "Fake GPU sm_90"
    build_engine(*files, SHAPES, device=device)
    original = trt._one

    def one(path: str, arguments: tuple[Any, ...]) -> Any:
        if path == "IExecutionContext.execute_async_v3":
            addresses = dict(trt.given["IExecutionContext.set_tensor_address"])
            pycuda.waiting.append(lambda: ctypes.memmove(addresses["output"], addresses["input"], 4 * 10 * 4))
        return original(path, arguments)

    trt._one = one  # type: ignore[method-assign]
    images = torch.rand(4, 3, 8, 8)
    with Engine(files[1], "pycuda") as engine:
        answer = engine(images)
    assert torch.equal(answer, images.flatten()[:40].reshape(4, 10))  # type: ignore[arg-type]
    assert trt.given["IExecutionContext.execute_async_v3"] == [(11,)]


def test_each_way_of_missing_pycuda_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        without_pycuda(patch)
        with pytest.raises(BackendMissingError, match="pycuda is not installed") as caught:
            PycudaDevice()
    assert (caught.value.code, caught.value.exit_code) == ("MC611", 7)
    monkeypatch.setitem(sys.modules, "pycuda", ModuleType("pycuda"))
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)  # as without libcuda
    with pytest.raises(BackendMissingError, match="pycuda is not importable: "):
        PycudaDevice()


def test_no_driver_and_no_such_device_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Pycuda(devices=0)
    install(monkeypatch, fake)
    with pytest.raises(BackendMissingError, match="pycuda sees 0 CUDA devices"):
        PycudaDevice()

    def init() -> None:
        raise Pycuda.Error("cuInit failed: no driver")

    monkeypatch.setattr(sys.modules["pycuda.driver"], "init", init)
    with pytest.raises(BackendMissingError, match="no NVIDIA driver answers to pycuda: cuInit failed"):
        PycudaDevice()
