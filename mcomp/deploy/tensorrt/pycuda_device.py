"""Buffers by pycuda, in the primary context that torch and the CUDA runtime use too.

``pycuda.autoinit`` would make a context of its own, in which neither torch's tensors nor TensorRT's are valid.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from mcomp.deploy.tensorrt.devices import Buffer, gpu_name
from mcomp.errors import BackendMissingError


class PycudaDevice:
    """A CUDA device with a stream and pooled memory by pycuda; tensors are copied from and to main memory.

    Args:
        index: which.

    Raises:
        BackendMissingError: MC611, pycuda is not installed or not importable, or no GPU answers to it.
    """

    def __init__(self, index: int = 0) -> None:
        driver, tools = _load("pycuda.driver"), _load("pycuda.tools")
        try:
            driver.init()
            count: int = driver.Device.count()
        except driver.Error as error:
            raise _missing(f"no NVIDIA driver answers to pycuda: {error}") from error
        if index >= count:
            raise _missing(f"pycuda sees {count} CUDA devices, none of the number {index}")
        device = driver.Device(index)
        self.name = gpu_name(device.name(), *device.compute_capability())
        self._driver = driver
        self._context: Any = device.retain_primary_context()
        with self.current():
            self._stream: Any = driver.Stream()
            self._pool: Any = tools.DeviceMemoryPool()

    @contextmanager
    def current(self) -> Iterator[None]:
        """The primary context on top of this thread's stack, and off it again."""
        self._context.push()
        try:
            yield
        finally:
            self._context.pop()

    def put(self, tensor: Tensor, dtype: torch.dtype) -> Buffer:
        """A copy on the device."""
        host = tensor.detach().to("cpu", dtype).contiguous()
        memory = self._allocate(host)
        if host.numel():
            with self.current():
                self._driver.memcpy_htod_async(int(memory), _bytes(host), self._stream)
        return Buffer(int(memory), host, memory)  # the copy reads `host` until the stream has come so far

    def room(self, shape: tuple[int, ...], dtype: torch.dtype) -> Buffer:
        """On the device, with a tensor in main memory to be filled by :meth:`fetch`."""
        host = torch.empty(shape, dtype=dtype)
        memory = self._allocate(host)
        return Buffer(int(memory), host, memory)

    def ready_stream(self) -> int:
        """Copies are on this very stream."""
        handle: int = self._stream.handle
        return handle

    def fetch(self, buffer: Buffer) -> Tensor:
        """Enqueue the copy to main memory."""
        if buffer.tensor.numel():
            with self.current():
                self._driver.memcpy_dtoh_async(_bytes(buffer.tensor), buffer.address, self._stream)
        return buffer.tensor

    def synchronise(self) -> None:
        """Wait for the stream."""
        with self.current():
            self._stream.synchronize()

    def close(self) -> None:
        """Free what the pool holds, and let the primary context go: it lives on where torch uses it."""
        if self._context is None:
            return
        with self.current():
            self._pool.stop_holding()
            self._pool = self._stream = None
        self._context.detach()
        self._context = None

    def _allocate(self, host: Tensor) -> Any:
        with self.current():
            return self._pool.allocate(max(host.nbytes, 1))


def _bytes(host: Tensor) -> Any:
    """The memory of a contiguous tensor of any type, bfloat16 included, as an array of bytes."""
    return host.reshape(-1).view(torch.uint8).numpy()


def _load(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        absent = isinstance(error, ModuleNotFoundError) and error.name == "pycuda"
        raise _missing("pycuda is not installed" if absent else f"pycuda is not importable: {error}") from error


def _missing(message: str) -> BackendMissingError:
    hint = "pip install pycuda on a machine with CUDA's headers and a GPU, or leave `buffers` at torch"
    return BackendMissingError(message, code="MC611", hint=hint)
