"""Which runtimes this machine has, found out without importing any of them."""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import dataclass
from importlib import metadata

#: Runtime to the distributions that bring it, in the order in which they are asked.
_PACKAGES = {
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu11"),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino"),
    "openvino": ("openvino",),
}
BACKENDS = ("cuda", *_PACKAGES)


@dataclass(frozen=True)
class Backend:
    """One runtime.

    Attributes:
        name: ``cuda``, ``tensorrt``, ``onnxruntime`` or ``openvino``.
        present: whether a stage could use it here.
        version: of the package; of a GPU its name and compute capability; empty where there is none.
        why_absent: the reason in words, empty where it is present.
    """

    name: str
    present: bool
    version: str = ""
    why_absent: str = ""


@functools.lru_cache(maxsize=1)
def backends() -> dict[str, Backend]:
    """Every runtime by name: package metadata and the GPU driver are asked, nothing heavy is loaded."""
    return {name: _cuda() if name == "cuda" else _packaged(name) for name in BACKENDS}


def _cuda() -> Backend:
    from mcomp.errors import BackendMissingError
    from mcomp.training.hardware import gpu, resolve_device

    try:
        resolve_device("cuda")
    except BackendMissingError as error:
        return Backend("cuda", False, why_absent=error.message.partition(", but ")[2])
    card = gpu()
    assert card is not None
    return Backend("cuda", True, f"{card['name']}, sm_{card['sm']}")


def _packaged(name: str) -> Backend:
    """A Python package; TensorRT needs a GPU as well, to build for and to run on."""
    if importlib.util.find_spec(name) is None:
        return Backend(name, False, why_absent=f"the package `{name}` is not installed")
    version = next((found for package in _PACKAGES[name] if (found := _version(package))), "")
    if name == "tensorrt" and not (cuda := _cuda()).present:
        return Backend(name, False, version, cuda.why_absent)
    return Backend(name, True, version)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
