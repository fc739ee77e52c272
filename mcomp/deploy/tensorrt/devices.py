"""Where an engine's buffers live: torch's CUDA memory, or pycuda's in the same primary context."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from mcomp.errors import BackendMissingError, UsageError

Buffers = Literal["torch", "pycuda"]
#: TensorRT wants every tensor to begin at a multiple of so many bytes.
ALIGNMENT = 256


@dataclass(frozen=True, eq=False)
class Buffer:
    """Memory of one tensor.

    Attributes:
        address: on the device.
        tensor: that memory itself, or its twin in main memory.
        memory: what keeps the memory alive where ``tensor`` does not.
    """

    address: int
    tensor: Tensor
    memory: object = None


class Device(Protocol):
    """A GPU as an engine needs it; tests put main memory in its place."""

    name: str

    def current(self) -> AbstractContextManager[object]:
        """Makes the device the current one for as long as it lasts."""

    def put(self, tensor: Tensor, dtype: torch.dtype) -> Buffer:
        """The tensor on the device, contiguous, aligned and of this type."""

    def room(self, shape: tuple[int, ...], dtype: torch.dtype) -> Buffer:
        """An uninitialised buffer."""

    def ready_stream(self) -> int:
        """The handle of the engine's own stream, on which all that was put is there before what is enqueued next."""

    def fetch(self, buffer: Buffer) -> Tensor:
        """The buffer as a tensor, filled once :meth:`synchronise` has returned."""

    def synchronise(self) -> None:
        """Wait for the stream."""

    def close(self) -> None:
        """Give everything back."""


class TorchDevice:
    """A CUDA device with buffers and a stream of its own by torch: no second context.

    Args:
        index: which; torch's current one by default.

    Raises:
        BackendMissingError: MC611, torch sees no GPU.
    """

    def __init__(self, index: int | None = None) -> None:
        if not torch.cuda.is_available():
            raise BackendMissingError(
                "no CUDA device answers to torch", code="MC611", hint="run this on a machine with an NVIDIA GPU"
            )
        self._device = torch.device("cuda", torch.cuda.current_device() if index is None else index)
        properties = torch.cuda.get_device_properties(self._device)
        self.name = gpu_name(properties.name, properties.major, properties.minor)
        make_stream: Any = torch.cuda.Stream
        self._stream = make_stream(self._device)  # TensorRT synchronises too often on the default one

    def current(self) -> AbstractContextManager[object]:
        """By torch."""
        return torch.cuda.device(self._device)

    def put(self, tensor: Tensor, dtype: torch.dtype) -> Buffer:
        """Copied only where it has to be."""
        held = tensor.detach().to(self._device, dtype).contiguous()
        if held.data_ptr() % ALIGNMENT:  # a slice of a larger tensor
            held = held.clone()
        return Buffer(held.data_ptr(), held)

    def room(self, shape: tuple[int, ...], dtype: torch.dtype) -> Buffer:
        """On the device."""
        tensor = torch.empty(shape, dtype=dtype, device=self._device)
        return Buffer(tensor.data_ptr(), tensor)

    def ready_stream(self) -> int:
        """The engine's stream waits for what torch has enqueued on the current one: copies, and last uses of memory."""
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        handle: int = self._stream.cuda_stream
        return handle

    def fetch(self, buffer: Buffer) -> Tensor:
        """The tensor on the device."""
        return buffer.tensor

    def synchronise(self) -> None:
        """Wait for the engine's stream."""
        self._stream.synchronize()

    def close(self) -> None:
        """Torch frees its memory by itself."""


def open_device(buffers: Buffers = "torch") -> Device:
    """The GPU whose buffers are made by torch or by pycuda.

    Raises:
        BackendMissingError: MC611, there is no GPU, or no pycuda.
        UsageError: MC432, neither of the two.
    """
    if buffers == "torch":
        return TorchDevice()
    if buffers == "pycuda":
        from mcomp.deploy.tensorrt.pycuda_device import PycudaDevice

        return PycudaDevice()
    raise UsageError(f"no buffers `{buffers}`", code="MC432", hint="torch or pycuda")


def gpu_name(name: str, major: int, minor: int) -> str:
    """One spelling, whoever is asked: ``NVIDIA H200 sm_90``."""
    return f"{name} sm_{major}{minor}"
